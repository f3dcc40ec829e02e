//! How much is held and remembered, and what that costs.

use super::*;
use crate::model::Metadata;

#[test]
fn how_long_names_are_makes_no_difference_to_what_is_remembered_of_them() {
    let mut house = House::new();
    let name: Arc<str> = format!("{}:80", "x".repeat(16 << 10)).into();
    let gone = vec![Effect { service: name.clone(), version: Version::new(1, 0, 0), id: name.clone(), instance: None }];
    house.guard.note(&gone, "it refused");
    let observed = Observed { moved: vec![(name.clone(), name.clone(), Rank::default())], ..Observed::default() };
    house.guard.observe(house.now, HashMap::from([(name.clone(), observed)]), &BTreeMap::new());
    drop(gone);
    assert_eq!((house.guard.strangers.len(), house.guard.let_go.len()), (1, 1));
    assert_eq!(Arc::strong_count(&name), 1, "none of them is kept");
}

#[test]
fn ten_thousand_are_held_at_once_and_no_more_than_there_is_room_for() {
    let many: Vec<String> = (0..10_000).map(|number| format!("10.{}.{}.1:80", number / 100, number % 100)).collect();
    let mut house = House::new();
    house.come("web", &many);
    house.go("web", &many);
    assert_eq!((house.count("web"), house.addresses().len()), ((10_000, 10_000), 10_000));
    house.probed(&many[..9_000], Found::Refused);
    assert_eq!(house.count("web"), (1_000, 1_000));
    house.pass(MINUTE * 10);
    assert!(house.guard.is_idle() && house.guard.targets.is_empty());
    assert_eq!(house.guard.room.taken(), Default::default());

    let mut house = House::of(Config { max_held: 100, ..Config::default() });
    house.come("web", &many);
    house.go("web", &many);
    assert_eq!(house.count("web"), (100, 100));
    house.come("db", &ids(0..9));
    house.go("db", &ids(0..9));
    assert_eq!(house.count("db"), (0, 0));
    let churn: Vec<String> = (0..1_000).map(|number| format!("churn-{number}:1")).collect();
    house.come("churn", &churn);
    house.go("churn", &churn[..400]);
    assert!(house.guard.room.taken().departed <= 100, "{:?}", house.guard.room);
}

#[test]
fn no_root_takes_the_room_of_another_and_what_is_not_held_for_lack_of_it_is_named() {
    let house = || House::shared_by(2, Config { max_held: 40, ..Config::default() });
    let why = |house: &House, service: &str, id: &String| house.guard.why_not_held(service, id).map(str::to_owned);
    let mut full = house();
    full.come("junk", &ids_below(1, 0..100));
    full.go("junk", &ids_below(1, 0..100));
    assert_eq!(full.count("junk"), (30, 30), "its own part, and the half that is common");
    assert_eq!(why(&full, "junk", &ids_below(1, 99..100)[0]).as_deref(), Some(NO_ROOM));
    full.come("web", &ids(0..7));
    full.go("web", &ids(0..7));
    assert_eq!(full.count("web"), (7, 7));
    full.come("mail", &ids(10..15));
    full.go("mail", &ids(10..15));
    assert_eq!(full.count("mail"), (3, 3));
    assert_eq!((why(&full, "mail", &ids(12..13)[0]), why(&full, "mail", &ids(13..14)[0]).is_some()), (None, true));
    assert_eq!(full.guard.reported.len(), 2, "each root's lack of room is reported");
    full.pass(MINUTE + STEP);
    full.come("mail", &ids(13..15));
    full.go("mail", &ids(13..14));
    assert_eq!(why(&full, "mail", &ids(13..14)[0]), None, "it went alone");

    let mut churning = house();
    churning.come("junk", &ids_below(1, 0..100));
    churning.go("junk", &ids_below(1, 0..45));
    churning.come("web", &ids(0..10));
    (0..5).for_each(|number| churning.go("web", &ids(number..number + 1)));
    churning.go("web", &ids(5..6));
    assert_eq!(churning.count("web"), (10, 6), "those that went first were remembered");

    let metadata: Metadata = rmpv::Value::from("x".repeat(8 << 20)).into();
    let fat = |id: &String| {
        let vanished = vanished_from("junk", id);
        let instance = Instance { metadata: metadata.clone(), ..vanished.instance };
        Vanished { instance, is_lost: true, ..vanished }
    };
    let mut fed = house();
    for number in 0..30 {
        let vanished = ids_below(1, number..number + 1).iter().map(fat).collect();
        let batch = HashMap::from([("junk".into(), Observed { vanished, ..Observed::default() })]);
        let (effects, _) = fed.guard.observe(fed.now, batch, &BTreeMap::new());
        fed.take(effects);
    }
    assert!((20..28).contains(&fed.count("junk").1), "{:?}", fed.guard.room);
    fed.come("web", &ids(0..7));
    fed.go("web", &ids(0..7));
    assert_eq!(fed.count("web"), (7, 7), "so it is with bytes");
}

/// The time that this thread has had.
fn spent() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock").into()
}

/// What is observed where some instances of a service vanish, and so many are left.
fn vanish(numbers: std::ops::Range<usize>, present: usize) -> Observed {
    let vanished = |number: usize| vanished_from("web", &format!("10.{}.{}.1:80", number / 100, number % 100));
    Observed {
        vanished: numbers.map(vanished).collect(),
        ranks: BTreeMap::from([(Rank::of_root(0), OfRank { present, ..OfRank::default() })]),
        ..Observed::default()
    }
}

#[test]
fn what_one_more_costs_does_not_grow_with_those_that_are_held() {
    let cost = |count: usize| {
        let (mut guard, now) = (Guard::new(Config::default(), 1, Moment::default()), Now::read());
        let mut go = |numbers: std::ops::Range<usize>| {
            let observed = vanish(numbers.clone(), count - numbers.end);
            let (batch, begun) = (HashMap::from([("web".into(), observed)]), spent());
            guard.observe(now, batch, &BTreeMap::new());
            spent() - begun
        };
        let most = count / 2 + 1;
        go(0..most);
        let least = (most..most + 50).map(|number| go(number..number + 1)).min();
        assert_eq!(guard.count_of_held(), most + 50);
        least.expect("fifty")
    };
    let (few, many) = (cost(200), cost(40_000));
    assert!(many < few * 10, "{few:?}, {many:?}");
}

#[test]
fn what_one_more_of_a_lost_root_costs_does_not_grow_with_those_that_could_not_be_held() {
    let cost = |services: usize| {
        let config = Config { max_held: services + 60, ..Config::default() };
        let (mut guard, now) = (Guard::new(config, 1, Moment::default()), Now::read());
        let mut go = |services: std::ops::Range<usize>, numbers: std::ops::Range<usize>| {
            let batch = services.map(|it| (it.to_string().into(), vanish(numbers.clone(), 0))).collect();
            let begun = spent();
            guard.observe(now, batch, &BTreeMap::from([(0, 0)]));
            spent() - begun
        };
        go(0..1, 0..services + 60);
        go(1..services, 0..1);
        let least = (services..services + 50).map(|service| go(service..service + 1, 0..1)).min();
        let taken = guard.room.taken();
        assert_eq!((taken.held, taken.departed), (services + 60, services + 49), "it has no room");
        least.expect("fifty")
    };
    let (few, many) = (cost(50), cost(2_000));
    assert!(many < few * 10, "{few:?}, {many:?}");
}

#[test]
fn whatever_comes_goes_and_is_probed_the_sums_are_those_of_what_is_there() {
    for (counts_roots, max_held) in [(false, 1_000), (true, 1_000), (true, 10)] {
        whatever_happens(House { counts_roots, ..House::of(Config { max_held, ..Config::default() }) });
    }
}

fn whatever_happens(mut house: House) {
    fastrand::seed(11);
    let random = |most: usize| fastrand::usize(0..most);
    for _ in 0..3_000 {
        let service = ["a", "b", "c"][random(3)];
        let from = random(20);
        let some = ids(from..from + 1 + random(20));
        match random(6) {
            0 | 1 => house.come(service, &some),
            2 | 3 => house.go(service, &some),
            4 => house.probed(&some, [Found::Answering, Found::Refused, Found::Silent][random(3)]),
            _ => house.pass(Duration::from_millis(1 << random(18))),
        }
        for guarded in house.guard.services(house.now, None) {
            let (listed, held) = house.count(guarded.service);
            assert_eq!(guarded.held, held);
            let marks = house.marks(guarded.service);
            let of = |probe| marks.iter().filter(|(of, _)| *of == probe).count();
            assert_eq!((guarded.answering, guarded.silent), (of(Probe::Answering), of(Probe::Silent)));
            let is_well = of(Probe::Silent) * 2 <= listed;
            let is_passed = |(of, passed): &(Probe, bool)| *passed == (*of == Probe::Silent);
            assert!(!is_well || marks.iter().all(is_passed));
            assert!(marks.iter().all(is_passed) || marks.iter().all(|(_, passed)| !passed));
        }
    }
    house.pass(MINUTE * 20);
    assert!(house.guard.is_idle() && house.guard.departures.is_empty());
    assert_eq!(house.guard.room.taken(), Default::default());
}
