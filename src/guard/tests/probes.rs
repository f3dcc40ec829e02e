//! What probes say of held instances.

use super::*;

#[test]
fn what_has_no_port_is_probed_by_nobody_and_ends_with_its_time() {
    let mut house = House::new();
    house.come("web", &ids(0..5));
    let no_port = |id: &str| {
        let mut vanished = vanished_from("web", id);
        let endpoint = Endpoint { port: 0, ..vanished.instance.endpoints[0].clone() };
        vanished.instance.endpoints = [endpoint].into();
        vanished
    };
    let vanished = ids(0..5).iter().map(|id| no_port(id)).collect();
    let observed = Observed { vanished, ..Observed::default() };
    let (effects, _) = house.guard.observe(house.now, HashMap::from([("web".into(), observed)]), &BTreeMap::new());
    house.take(effects);
    assert_eq!((house.count("web"), house.addresses().len()), ((5, 5), 0));
    house.pass(MINUTE * 10);
    assert_eq!(house.count("web"), (0, 0));
}

#[test]
fn services_of_one_address_share_its_probe() {
    let mut house = House::new();
    for service in ["a", "b"] {
        house.come(service, &ids(0..5));
    }
    house.revision(&[("a", &ids(0..5), &[]), ("b", &ids(0..5), &[])], false);
    assert_eq!((house.count("a"), house.count("b"), house.addresses()), ((5, 5), (5, 5), ids(0..5)));
    house.probed(&ids(0..1), Found::Refused);
    assert_eq!((house.count("a"), house.count("b")), ((4, 4), (4, 4)));
}

#[test]
fn silent_ones_are_passed_over_as_long_as_most_are_well() {
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..6));
    house.probed(&ids(0..5), Found::Silent);
    assert_eq!(house.marks("web")[..5], [(Probe::Silent, true); 5]);
    house.probed(&ids(5..6), Found::Silent);
    assert_eq!(house.marks("web"), [(Probe::Silent, false); 6], "of most that are unwell, it may be the network");
    house.probed(&ids(0..2), Found::Answering);
    assert_eq!(house.marks("web")[..2], [(Probe::Answering, false); 2]);
    assert_eq!(house.marks("web")[2..], [(Probe::Silent, true); 4]);
}
