//! Instances that nodes register: at their own revision, merged by address, and at the cost of what changed.

use super::*;
use crate::format::{self, Undecodable};
use crate::model::{Format, Instance, InstanceState};

const APPLICATION: &str = r#"{"address":"10.0.0.5","payload":{"metadata":{"dubbo.endpoints":
    "[{\"port\":20880,\"protocol\":\"dubbo\"}]","dubbo.metadata.revision":"a"}}}"#;

fn services(root: &str, format: Format) -> format::Config {
    format::Config { root: path(root), format, guard: false, ..format::Config::default() }
}

/// In this order.
fn ranked(services: Vec<format::Config>) -> Vec<format::Config> {
    services.into_iter().enumerate().map(|(rank, it)| format::Config { rank, ..it }).collect()
}

fn house(services: Vec<format::Config>) -> (Arc<Store>, Publisher) {
    house_of(&Config::default(), services)
}

fn house_of(config: &Config, services: Vec<format::Config>) -> (Arc<Store>, Publisher) {
    let feed = Feed::of_nodes("zk", "zookeeper", vec![NodePath::root()]).with_services(services);
    let store = Store::new(config, vec![feed], Arc::default());
    let publisher = store.publisher(0);
    (store, publisher)
}

fn member(status: &str, port: usize, metadata: &str) -> String {
    let at = format!(r#"{{"host":"10.0.0.5","port":{port}}}"#);
    format!(r#"{{"serviceEndpoint":{at},"status":{status:?},"metadata":{metadata},"shard":{port}}}"#)
}

fn instances(store: &Store, service: &str) -> Vec<Instance> {
    store.snapshot().directory().instances(service).map(|(_, instance)| instance.clone()).collect()
}

/// By address, the nodes by which an instance is known, the first one first.
fn told_by(store: &Store, service: &str) -> Vec<(String, Vec<String>)> {
    let node = |it: &crate::model::Provenance| match &it.record {
        crate::model::Record::Node(path) => path.to_string(),
        other => panic!("{other:?}"),
    };
    let told = |it: Instance| (it.endpoints[0].address(), it.provenance.iter().map(node).collect());
    instances(store, service).into_iter().map(told).collect()
}

#[test]
fn a_root_below_which_nothing_is_registered_is_told_until_something_is() {
    let (store, publisher) = house(vec![services("/s", Format::Raw), services("/c", Format::Curator)]);
    let idle = || {
        let snapshot = store.snapshot();
        snapshot.idle_roots(&snapshot.feeds()[0]).collect::<Vec<_>>()
    };
    publisher.publish_whole(vec![put("/s/web/a", "h:1"), put("/c", "")]);
    assert_eq!(idle(), ["nothing lies below /c, the root of services in `curator`"]);
    publisher.publish(vec![put("/c/id", "{}")]);
    let [told] = &idle()[..] else { panic!("{:?}", idle()) };
    assert!(told.starts_with("no node below /c registers anything in the format `curator`: is that "), "{told}");
    publisher.publish(vec![put("/c/web/id", "{}")]);
    assert_eq!(idle(), [""; 0], "that it cannot be read is told otherwise");
    publisher.publish(vec![delete("/c/web/id"), delete("/s/web/a")]);
    assert_eq!(idle().len(), 2);
    assert_eq!(idle()[0], "nothing below /s registers anything any more", "not that the format is another");
    assert!(idle()[1].contains("is that the format"), "{}", idle()[1]);
}

#[test]
fn what_a_node_registers_comes_changes_and_goes_with_the_node() {
    let (store, publisher) = house(vec![services("/s", Format::Serverset)]);
    let first = publisher.publish(vec![put("/s/web/member_1", &member("ALIVE", 80, "{}")), put("/other", "x")]);
    let [web] = &instances(&store, "web")[..] else { panic!("one") };
    assert_eq!((web.state, web.provenance[0].since, web.provenance[0].decoder.name()), {
        (InstanceState::Up, first, "serverset")
    });
    assert_eq!((&*web.provenance[0].source, web.master()), ("zk", None));
    let second = publisher.publish(vec![put("/s/web/member_1", &member("DEAD", 80, "{}")), put("/other", "y")]);
    let [web] = &instances(&store, "web")[..] else { panic!("one") };
    assert_eq!((web.state, web.provenance[0].since), (InstanceState::Down, second));
    publisher.publish(vec![put("/s/web/member_1", &(member("DEAD", 80, "{}") + " "))]);
    assert_eq!(instances(&store, "web")[0].provenance[0].since, second, "that says nothing new");
    publisher.publish(vec![put("/s/web/member_1", &member("ALIVE", 81, "{}"))]);
    assert_eq!(told_by(&store, "web"), [("10.0.0.5:81".into(), vec!["/s/web/member_1".into()])], "it moved");
    publisher.publish(vec![delete("/s/web/member_1")]);
    let snapshot = store.snapshot();
    assert!(snapshot.directory().instances_of("web").is_none() && snapshot.directory().was_offered("web"));
}

#[test]
fn a_node_that_cannot_be_read_is_counted_and_harms_no_other() {
    let (store, publisher) = house(vec![services("/s", Format::Serverset)]);
    publisher.publish(vec![
        put("/s/web/member_1", &member("ALIVE", 80, "{}")),
        put("/s/web/member_2", "{"),
        put("/s/web/member_3", &member("ALIVE", 0, "{}")),
        put("/s/web/vector_1", "no vector"),
    ]);
    let reasons = || {
        let snapshot = store.snapshot();
        let root = path("/s");
        let undecodable = snapshot.directory().undecodable(&root);
        let reasons: Vec<_> = undecodable.map(|(path, why)| format!("{path}: {why}")).collect();
        assert_eq!(snapshot.directory().count_of_undecodable(), reasons.len());
        reasons
    };
    assert_eq!(instances(&store, "web").len(), 1);
    assert_eq!(
        reasons(),
        [
            "/s/web/member_2: its data are no JSON object",
            "/s/web/member_3: it names no port from 1 to 65535",
            "/s/web/vector_1: its data are no JSON object",
        ]
    );
    publisher.publish(vec![put("/s/web/member_2", &member("ALIVE", 81, "{}")), delete("/s/web/member_3")]);
    publisher.publish(vec![put("/s/web/member_1", "")]);
    assert_eq!(told_by(&store, "web").len(), 1);
    assert_eq!(reasons().len(), 2);
    publisher.publish(vec![delete("/s/web/member_1"), put("/s/web/vector_1", r#"{"vector":[]}"#)]);
    assert_eq!(reasons(), [""; 0]);
}

#[test]
fn an_address_that_several_nodes_register_is_one_instance() {
    let (store, publisher) = house(vec![services("/s", Format::Serverset), services("/n", Format::Nerve)]);
    let poor = r#"{"host":"10.0.0.5","port":80}"#;
    publisher.publish(vec![
        put("/n/web/i_0000000001", poor),
        put("/s/web/member_1", &member("ALIVE", 80, r#"{"a":1}"#)),
        put("/s/web/member_2", &member("STARTING", 80, r#"{"a":1}"#)),
    ]);
    let all = ["/s/web/member_1", "/n/web/i_0000000001", "/s/web/member_2"].map(str::to_owned);
    assert_eq!(
        told_by(&store, "web"),
        [("10.0.0.5:80".into(), all.to_vec())],
        "the richest that is up, then all others"
    );
    assert_eq!(instances(&store, "web")[0].state, InstanceState::Up);
    publisher.publish(vec![delete("/s/web/member_1")]);
    assert_eq!(told_by(&store, "web")[0].1, ["/n/web/i_0000000001", "/s/web/member_2"], "it alone is up");
    publisher.publish(vec![put("/s/web/member_3", &member("DEAD", 80, r#"{"a":1,"b":2}"#))]);
    assert_eq!(instances(&store, "web")[0].state, InstanceState::Up, "what is left of a dead one hides none");
    publisher.publish(vec![delete("/n/web/i_0000000001")]);
    assert_eq!(told_by(&store, "web")[0].1, ["/s/web/member_3", "/s/web/member_2"], "of none that is up the richest");
    publisher.publish(vec![delete("/s/web/member_2"), delete("/s/web/member_3")]);
    assert!(instances(&store, "web").is_empty());
}

#[test]
fn many_nodes_at_one_address_are_one_instance_that_most_of_them_make_no_larger() {
    let (store, publisher) = house(vec![services("/s", Format::Serverset)]);
    let members = (0..2_000).map(|number| put(&format!("/s/web/member_{number}"), &member("ALIVE", 80, "{}")));
    publisher.publish(members.collect::<Vec<_>>());
    let [web] = &instances(&store, "web")[..] else { panic!("one") };
    assert!(web.provenance.len() <= 64, "{}", web.provenance.len());
}

#[test]
fn no_number_of_nodes_that_are_down_hides_one_that_is_up() {
    let (store, publisher) = house(vec![services("/s", Format::Serverset), services("/dubbo", Format::Dubbo)]);
    let dead = (0..300).map(|number| put(&format!("/s/web/member_{number:03}"), &member("DEAD", 80, r#"{"a":1}"#)));
    let alive = put("/s/web/member_999", &member("ALIVE", 80, "{}"));
    publisher.publish(dead.chain([alive]).collect::<Vec<_>>());
    let [web] = &instances(&store, "web")[..] else { panic!("one") };
    assert_eq!(web.state, InstanceState::Up);
    let provider = |query: &str| put(&format!("/dubbo/i/providers/dubbo%3A%2F%2Fh%3A1%2Fi%3F{query}"), "");
    let groups = (0..300).map(|number| provider(&format!("group%3Da{number:03}")));
    let honest = ["group%3Dz", "group%3Dz%26a%3D1%26b%3D2%26c%3D3%26weight%3D0"].map(provider);
    publisher.publish(groups.chain(honest).collect::<Vec<_>>());
    let [.., last] = &instances(&store, "i")[..] else { panic!("many") };
    assert_eq!((&*last.group, last.weight, last.provenance.len()), ("z", 100, 2));
    assert_eq!(instances(&store, "i").len(), 301);
}

#[test]
fn of_many_nodes_at_one_address_the_newest_counts() {
    let (store, publisher) = house(vec![services("/s", Format::Serverset)]);
    let created = |number: usize, zone: &str| {
        let Change::Put(path, node) =
            put(&format!("/s/web/member_{number:03}"), &member("ALIVE", 80, &format!(r#"{{"started":{zone:?}}}"#)))
        else {
            panic!("it is put");
        };
        let stat = Stat { czxid: number as i64, ..node.stat };
        Change::Put(path, Arc::new(Node { stat, ..Node::clone(&node) }))
    };
    publisher.publish((0..100).map(|number| created(number, &number.to_string())).collect::<Vec<_>>());
    let [web] = &instances(&store, "web")[..] else { panic!("one") };
    assert_eq!(web.metadata.text("started"), Some("99"));
}

#[test]
fn what_nodes_register_is_bounded_and_what_is_listed_keeps_its_place() {
    let bounds = Config { max_instances: 3, ..Config::default() };
    let (store, publisher) = house_of(&bounds, vec![services("/s", Format::Serverset)]);
    let at = |number: usize| format!("/s/web/member_{number}");
    let put_at = |number: usize| put(&at(number), &member("ALIVE", number, "{}"));
    publisher.publish((5..9).map(put_at).collect::<Vec<_>>());
    publisher.publish((1..3).map(put_at).collect::<Vec<_>>());
    let ports = || instances(&store, "web").iter().map(|it| it.endpoints[0].port).collect::<Vec<_>>();
    assert_eq!(ports(), [5, 6, 7]);
    let undecodable = |store: &Store| {
        let (snapshot, root) = (store.snapshot(), NodePath::root());
        snapshot.directory().undecodable(&root).map(|(path, why)| format!("{path}: {why}")).collect::<Vec<_>>()
    };
    let why = "with it nodes of its root would pass their share of `[store] max_instances` or `max_instance_bytes`: raise that";
    assert_eq!(undecodable(&store), [1, 2, 8].map(|number| format!("{}: {why}", at(number))));
    publisher.publish(vec![put(&at(6), &member("ALIVE", 60, "{}"))]);
    assert_eq!(ports(), [5, 60, 7], "one that changes keeps its place");
    publisher.publish(vec![delete(&at(5)), delete(&at(7)), delete(&at(2))]);
    assert_eq!(ports(), [1, 60, 8], "those for which there was no room have their turn");
    assert_eq!(undecodable(&store), [""; 0]);

    let bounds = Config { max_instance_bytes: bytesize::ByteSize::kib(12), ..Config::default() };
    let (store, publisher) = house_of(&bounds, vec![services("/s", Format::Serverset)]);
    let metadata = format!(r#"{{"a":"{}"}}"#, "x".repeat(4_000));
    publisher.publish((1..9).map(|n| put(&at(n), &member("ALIVE", n, &metadata))).collect::<Vec<_>>());
    assert_eq!(instances(&store, "web").len(), 2, "each takes some 4 KB");
}

#[test]
fn no_root_takes_the_part_of_another_in_any_order_and_what_is_free_goes_to_the_one_configured_first() {
    let bounds = Config { max_instances: 12, ..Config::default() };
    let roots = |first: &str, second: &str| {
        let raw = |root: &str| services(root, Format::Raw);
        house_of(&bounds, ranked(vec![raw(first), raw(second)]))
    };
    let own = |numbers: std::ops::Range<usize>| numbers.map(|n| put(&format!("/own/web/{n}"), &format!("h{n}:1")));
    let junk = |numbers: std::ops::Range<usize>| numbers.map(|n| put(&format!("/junk/j{n}/a"), "j:1"));
    let junk_listed = |store: &Store| {
        let snapshot = store.snapshot();
        snapshot.directory().services(None).filter(|(name, _)| name.starts_with('j')).count()
    };

    let (store, publisher) = roots("/junk", "/own");
    publisher.publish(junk(0..50).collect::<Vec<_>>());
    assert_eq!(junk_listed(&store), 9);
    publisher.publish(own(0..5).collect::<Vec<_>>());
    assert_eq!(instances(&store, "web").len(), 3);
    for number in 0..3 {
        publisher.publish(vec![delete(&format!("/own/web/{number}"))]);
        assert_eq!((instances(&store, "web").len(), junk_listed(&store)), (3, 9), "{number}");
        publisher.publish(own(number + 10..number + 11).collect::<Vec<_>>());
        assert_eq!((instances(&store, "web").len(), junk_listed(&store)), (3, 9), "{number}");
    }
    publisher.publish(vec![put("/own/new/1", "h:1"), put("/junk/new/1", "h:1")]);
    let why = || store.snapshot().directory().why_unlisted("new");
    assert!(why().is_some_and(|why| why.starts_with("its nodes (2) are left out, the first because with it")));
    publisher.publish((0..50).map(|n| delete(&format!("/junk/j{n}/a"))).collect::<Vec<_>>());
    assert!(why().is_none() && store.snapshot().directory().count_of_undecodable() == 0);

    for (first, second, listed) in [("/junk", "/own", (3, 9)), ("/own", "/junk", (5, 7))] {
        let (store, publisher) = roots(first, second);
        publisher.publish(junk(0..50).chain(own(0..5)).collect::<Vec<_>>());
        assert_eq!((instances(&store, "web").len(), junk_listed(&store)), listed, "as at a start");
    }

    let bounds = Config { max_instance_bytes: bytesize::ByteSize::kib(40), ..Config::default() };
    let (store, publisher) =
        house_of(&bounds, ranked(vec![services("/junk", Format::Raw), services("/own", Format::Raw)]));
    let fat = format!(r#"{{"host":"j","port":1,"a":[{}1]}}"#, "1,".repeat(4_000));
    publisher.publish((0..50).map(|n| put(&format!("/junk/j{n}/a"), &fat)).collect::<Vec<_>>());
    assert!((1..10).contains(&junk_listed(&store)), "{}", junk_listed(&store));
    publisher.publish(own(0..5).collect::<Vec<_>>());
    assert_eq!(instances(&store, "web").len(), 5);
}

#[test]
fn no_mapping_takes_the_room_of_an_instance_and_room_that_comes_is_used() {
    // Of two roots one may have four.
    let bounds = Config { max_instances: 5, ..Config::default() };
    let both = vec![services("/dubbo", Format::Dubbo), services("/services", Format::DubboApplication)];
    let (store, publisher) = house_of(&bounds, ranked(both));
    let at = |number: usize| format!("/services/shop/{number}");
    let application = |number: usize| put(&at(number), &APPLICATION.replace("20880", &number.to_string()));
    let mapping = |number: usize| put(&format!("/dubbo/mapping/i{number}"), "shop");
    publisher.publish((1..=3).map(mapping).chain((1..=4).map(application)).collect::<Vec<_>>());
    let listed = |service: &str| instances(&store, service).len();
    let counts = || (listed("shop"), [1, 2, 3].map(|number| listed(&format!("i{number}"))));
    assert_eq!(counts(), (4, [2, 1, 1]));
    assert_eq!(store.snapshot().directory().count_of_undecodable(), 3);
    publisher.publish(vec![delete(&at(1))]);
    assert_eq!(counts(), (3, [2, 1, 1]), "another is listed in its place");
    publisher.publish(vec![delete("/dubbo/mapping/i2"), delete("/dubbo/mapping/i3")]);
    assert_eq!(counts(), (3, [3, 0, 0]));
    assert_eq!(store.snapshot().directory().count_of_undecodable(), 0);
}

#[test]
fn no_mapping_below_a_later_root_takes_the_place_of_one_below_an_earlier_one_in_any_order() {
    let roots = || {
        let formats = [("/dubbo", Format::Dubbo), ("/services", Format::DubboApplication), ("/x", Format::Dubbo)];
        ranked(formats.map(|(root, format)| services(root, format)).into())
    };
    let few = Config { max_instances: 12, ..Config::default() };
    // Of those of one node, and of the limit.
    for (bounds, theirs, room) in [(Config::default(), 1_100, 1_023), (few, 50, 8)] {
        let batches = [
            (0..theirs).map(|number| put(&format!("/x/mapping/a{number:04}"), "shop")).collect::<Vec<_>>(),
            vec![put("/dubbo/mapping/own", "shop")],
            vec![put("/services/shop/x", APPLICATION)],
        ];
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let orders = orders.map(|order| order.map(|number| batches[number].clone()).to_vec());
        let mappings_at_once = vec![batches[2].clone(), [batches[0].clone(), batches[1].clone()].concat()];
        for (number, order) in orders.into_iter().chain([mappings_at_once]).enumerate() {
            let (store, publisher) = house_of(&bounds, roots());
            for batch in order {
                publisher.publish(batch);
            }
            let count = || {
                let snapshot = store.snapshot();
                snapshot.directory().services(None).filter(|(name, _)| name.starts_with('a')).count()
            };
            assert_eq!((instances(&store, "own").len(), count()), (1, room), "{number}");
            publisher.publish(vec![delete("/dubbo/mapping/own"), put("/dubbo/mapping/a0000", "shop")]);
            publisher.publish(vec![put("/dubbo/mapping/own", "shop")]);
            assert_eq!((instances(&store, "own").len(), instances(&store, "a0000").len()), (1, 1), "{number}");
            publisher.publish(vec![delete("/services/shop/x")]);
            assert_eq!((instances(&store, "own").len(), count()), (0, 0), "{number}");
        }
    }
}

#[test]
fn no_configurator_takes_the_room_of_an_instance() {
    let bounds = Config { max_instance_bytes: bytesize::ByteSize::kib(8), ..Config::default() };
    let (store, publisher) = house_of(&bounds, vec![services("/dubbo", Format::Dubbo)]);
    let provider = |number: usize| put(&format!("/dubbo/i/providers/dubbo%3A%2F%2Fh%3A{number}%2Fi%3Fa%3D1"), "");
    let many = (0..80).map(|key| format!("%26k{key}%3D{}", "1".repeat(40))).collect::<String>();
    let rule = format!("/dubbo/i/configurators/override%3A%2F%2F0.0.0.0%2Fi%3Fdisabled%3Dtrue{many}");
    publisher.publish((1..=20).map(provider).chain([put(&rule, "")]).collect::<Vec<_>>());
    let found = instances(&store, "i");
    assert_eq!((found.len(), found.iter().filter(|it| it.state == InstanceState::Down).count()), (20, 20));
    assert_eq!(found.iter().filter(|it| it.metadata.get("k7").is_some()).count(), 2, "for two there is room");
    assert_eq!(store.snapshot().directory().count_of_undecodable(), 18);
    publisher.publish(vec![delete(&rule)]);
    assert!(instances(&store, "i").iter().all(|it| it.state == InstanceState::Up));
    assert_eq!(store.snapshot().directory().count_of_undecodable(), 0);
}

#[test]
fn a_document_of_rules_costs_only_the_instances_that_it_is_for() {
    let (store, publisher) = house(vec![services("/dubbo", Format::Dubbo)]);
    let provider = |interface: &str, number: usize, application: &str| {
        format!("/dubbo/{interface}/providers/dubbo%3A%2F%2Fh%3A{number}%2Fi%3Fapplication%3D{application}")
    };
    let all = (1..=50)
        .flat_map(|number| ["i", "j"].map(|name| provider(name, number, if number > 40 { "cart" } else { "shop" })));
    publisher.publish(all.map(|path| put(&path, "")).collect::<Vec<_>>());
    let document = |scope: &str, key: &str, sets: &str| {
        let text = format!("scope: {scope}\nkey: {key}\nconfigs: [{{side: provider, parameters: {{{sets}}}}}]");
        put(&format!("/dubbo/config/dubbo/{key}.configurators"), &text)
    };
    let counts = || ["i", "j"].map(|name| instances(&store, name).iter().filter(|it| it.weight == 0).count());
    let decoded_by = |changes: Vec<Change>| {
        let before = format::decoded_by_this_thread();
        publisher.publish(changes);
        format::decoded_by_this_thread() - before
    };
    assert_eq!((decoded_by(vec![document("application", "cart", "weight: 0")]), counts()), (20, [10, 10]));
    assert_eq!((decoded_by(vec![document("service", "i", "weight: 0")]), counts()), (50, [50, 10]));
    assert_eq!(decoded_by(vec![put(&provider("i", 7, "shop"), "x")]), 1, "none of the others");
    assert_eq!(decoded_by(vec![document("service", "nobody", "weight: 0")]), 0);
    let undecodable = || store.snapshot().directory().count_of_undecodable();
    publisher.publish(vec![put("/dubbo/config/dubbo/cart.configurators", "{")]);
    assert_eq!((counts(), undecodable()), ([50, 0], 1), "it is as if there were none");
    let of_service = |service: &str| {
        let snapshot = store.snapshot();
        let found = snapshot.undecodable_of(service).flatten().map(|(_, _, path, _)| path.to_string());
        found.collect::<Vec<_>>()
    };
    for service in ["i", "j", "cart"] {
        assert_eq!(of_service(service), ["/dubbo/config/dubbo/cart.configurators"], "{service}");
    }
    assert!(of_service("k").is_empty());
    publisher.publish((41..=50).map(|number| delete(&provider("i", number, "cart"))).collect::<Vec<_>>());
    assert!(of_service("i").is_empty(), "none of its instances is of the application");
    publisher
        .publish(vec![delete("/dubbo/config/dubbo/i.configurators"), delete("/dubbo/config/dubbo/cart.configurators")]);
    assert_eq!((counts(), undecodable()), ([0, 0], 0));
    let late = [document("application", "cart", "disabled: true"), put(&provider("k", 1, "cart"), "")];
    publisher.publish(Vec::from(late));
    assert_eq!(instances(&store, "k")[0].state, InstanceState::Down);
}

#[test]
fn many_nodes_at_once_register_what_they_do_one_by_one() {
    let roots = || {
        let twice = [services("/dubbo", Format::Dubbo), services("/a", Format::Raw), services("/b", Format::Raw)];
        let documents = [services("/services", Format::DubboApplication), services("/s", Format::Serverset)];
        let roots = twice.into_iter().chain(documents).enumerate();
        roots.map(|(rank, root)| format::Config { rank, ..root }).collect::<Vec<_>>()
    };
    let node = |number: usize| {
        let (port, service) = (1 + number % 300, number % 7);
        match number % 6 {
            0 => {
                let url = format!("dubbo%3A%2F%2Fh{number}%3A{port}%2Fi%3Fapplication%3Dshop%26a%3D{number}");
                (format!("/dubbo/i{service}/providers/{url}"), String::new())
            }
            1 => (format!("/a/web{service}/{number}"), format!("h{}:{port}", number % 50)),
            2 => (format!("/b/web{service}/{number}"), format!("h{}:{port}", number % 50)),
            3 => (format!("/s/web{service}/member_{number}"), member("ALIVE", port, "{}")),
            4 => (format!("/services/shop/{number}"), APPLICATION.replace("20880", &port.to_string())),
            _ => (format!("/s/web{service}/member_{number}"), "no JSON".into()),
        }
    };
    let document = "scope: application\nkey: shop\nconfigs: [{side: provider, parameters: {weight: 5}}]";
    let rules = [
        ("/dubbo/config/dubbo/shop.configurators", document),
        ("/dubbo/mapping/i3", "shop"),
        ("/s/web3/vector_1", r#"{"vector":[{"select":"shard=4","weight":0}]}"#),
    ];
    let rules = || rules.iter().map(|(path, data)| put(path, data));
    for are_rules_first in [true, false] {
        let state = |at_once: usize| {
            let (store, publisher) = house(roots());
            let nodes = (0..6_000).map(|number| node(number * 7 % 6_000)).map(|(path, data)| put(&path, &data));
            let all: Vec<_> =
                if are_rules_first { rules().chain(nodes).collect() } else { nodes.chain(rules()).collect() };
            let gone = (0..2_000).map(|number| delete(&node(number * 2).0)).collect();
            for changes in [all, gone] {
                for some in changes.chunks(at_once) {
                    publisher.publish(some.to_vec());
                }
            }
            let snapshot = store.snapshot();
            let all = snapshot.directory().services(None).map(|(name, _)| {
                let all = instances(&store, name).into_iter().map(|it| {
                    let nodes = it.provenance.iter().map(|it| it.record.clone()).collect::<Vec<_>>();
                    (nodes, Instance { provenance: Arc::default(), ..it })
                });
                (name.clone(), all.collect::<Vec<_>>())
            });
            let root = NodePath::root();
            let undecodable = snapshot.directory().undecodable(&root);
            let undecodable = undecodable.map(|(path, why)| (path.clone(), why.clone())).collect::<Vec<_>>();
            (all.collect::<Vec<_>>(), undecodable)
        };
        let at_once = state(usize::MAX);
        assert!(at_once.0.len() > 14 && at_once.1.len() > 500, "{} {}", at_once.0.len(), at_once.1.len());
        assert!(at_once == state(500), "it makes a difference how many come at once");
    }
}

#[test]
fn explain_names_the_document_that_decides() {
    let (store, publisher) = house(vec![services("/dubbo", Format::Dubbo)]);
    let provider = "/dubbo/i/providers/dubbo%3A%2F%2Fh%3A1%2Fi%3Fapplication%3Dshop%26weight%3D5";
    let classic = "/dubbo/i/configurators/override%3A%2F%2F0.0.0.0%2Fi%3Fweight%3D9";
    let document = |scope: &str, key: &str, weight: usize| {
        let text =
            format!("scope: {scope}\nkey: {key}\nconfigs: [{{side: provider, parameters: {{weight: {weight}}}}}]");
        put(&format!("/dubbo/config/dubbo/{key}.configurators"), &text)
    };
    let rules = || store.snapshot().rules_of(&[path(provider)]).remove(0);
    publisher.publish(vec![put(provider, ""), document("application", "shop", 5)]);
    assert!(store.snapshot().may_have_rules(&path(provider)) && rules().is_empty(), "it changes nothing");
    publisher.publish(vec![put(classic, "")]);
    let [application, service] = ["shop", "i"].map(|key| path(&format!("/dubbo/config/dubbo/{key}.configurators")));
    assert_eq!(rules(), [path(classic), application.clone()]);
    publisher.publish(vec![document("service", "i", 0)]);
    assert_eq!((rules(), instances(&store, "i")[0].weight), (vec![path(classic), application, service], 0));
}

#[test]
fn a_mapping_that_changes_leaves_all_other_interfaces_as_they_are() {
    let (store, publisher) =
        house(vec![services("/dubbo", Format::Dubbo), services("/services", Format::DubboApplication)]);
    let application = |n: usize| put(&format!("/services/shop/{n}"), &APPLICATION.replace("20880", &n.to_string()));
    let mappings = (0..50).map(|number| put(&format!("/dubbo/mapping/i{number}"), "shop"));
    publisher.publish(mappings.chain((1..=50).map(application)).collect::<Vec<_>>());
    assert_eq!(instances(&store, "i7").len(), 50);
    let decoded = format::decoded_by_this_thread();
    publisher.publish(vec![put("/dubbo/mapping/new", "shop"), delete("/dubbo/mapping/i7")]);
    assert_eq!((instances(&store, "new").len(), instances(&store, "i7").len()), (50, 0));
    assert_eq!(instances(&store, "i8").len(), 50);
    assert_eq!(format::decoded_by_this_thread(), decoded, "no instance is read again");
    publisher.publish((1..=50).map(|n| delete(&format!("/services/shop/{n}"))).collect::<Vec<_>>());
    assert!(["new", "i8"].iter().all(|service| instances(&store, service).is_empty()), "they go with their nodes");
}

#[test]
fn an_interface_of_dubbo_has_each_provider_once_whoever_registers_it() {
    let (store, publisher) =
        house(vec![services("/dubbo", Format::Dubbo), services("/services", Format::DubboApplication)]);
    let provider = |query: &str| format!("/dubbo/i/providers/dubbo%3A%2F%2F10.0.0.5%3A20880%2Fi%3F{query}");
    let at = "/services/shop/10.0.0.5:20880";
    publisher.publish(vec![put(at, APPLICATION), put(&provider("group%3Da"), ""), put(&provider("group%3Db"), "")]);
    assert_eq!(told_by(&store, "shop"), [("dubbo://10.0.0.5:20880".into(), vec![at.to_owned()])]);
    let groups = || instances(&store, "i").iter().map(|it| it.group.to_string()).collect::<Vec<_>>();
    assert_eq!(groups(), ["a", "b"], "a process may offer an interface in several groups");
    publisher.publish(vec![put("/dubbo/mapping/i", "cart,shop")]);
    assert_eq!(groups(), ["a", "b"], "the application is the same process");
    assert_eq!(told_by(&store, "i")[0].1, [provider("group%3Da"), at.to_owned()]);
    publisher.publish(vec![delete(&provider("group%3Da")), delete(&provider("group%3Db"))]);
    assert_eq!(told_by(&store, "i"), [("dubbo://10.0.0.5:20880".into(), vec![at.to_owned()])]);
    publisher.publish(vec![put("/services/cart/x", &APPLICATION.replace("0.5", "0.6"))]);
    assert_eq!(instances(&store, "i").len(), 2, "an application that comes later");
    publisher.publish(vec![put("/dubbo/mapping/i", "cart")]);
    assert_eq!(told_by(&store, "i").len(), 1);
    publisher.publish(vec![delete("/dubbo/mapping/i")]);
    assert!(instances(&store, "i").is_empty());
    assert_eq!((instances(&store, "shop").len(), instances(&store, "cart").len()), (1, 1));
}

#[test]
fn a_protocol_that_no_provider_is_registered_with_is_not_listed_beside_one_of_its_application_and_host() {
    let (store, publisher) =
        house(vec![services("/dubbo", Format::Dubbo), services("/services", Format::DubboApplication)]);
    let both = r#"[{\"port\":20880,\"protocol\":\"dubbo\"},{\"port\":50051,\"protocol\":\"tri\"}]"#;
    let application = APPLICATION.replace(r#"[{\"port\":20880,\"protocol\":\"dubbo\"}]"#, both);
    let provider = |of: &str| format!("/dubbo/i/providers/dubbo%3A%2F%2F10.0.0.5%3A20880%2Fi%3Fapplication%3D{of}");
    publisher.publish(vec![put("/dubbo/mapping/i", "shop"), put("/services/shop/x", &application)]);
    let addresses = || told_by(&store, "i").into_iter().map(|(address, _)| address).collect::<Vec<_>>();
    let [dubbo, tri] = ["dubbo://10.0.0.5:20880", "tri://10.0.0.5:50051"].map(str::to_owned);
    assert_eq!(addresses(), [dubbo.clone(), tri.clone()]);
    publisher.publish(vec![put(&provider("shop"), "")]);
    assert_eq!(addresses(), std::slice::from_ref(&dubbo), "it offers the interface by this one alone");
    publisher.publish(vec![put("/services/shop/y", &application.replace("0.5", "0.6"))]);
    assert_eq!(addresses().len(), 3, "of another host nothing more is known");
    publisher.publish(vec![delete("/services/shop/y"), delete(&provider("shop")), put(&provider("cart"), "")]);
    assert_eq!(addresses(), [dubbo.clone(), tri.clone()], "another application on the host is another process");
    publisher.publish(vec![put(&provider("shop"), ""), delete("/services/shop/x")]);
    assert_eq!(addresses(), [dubbo]);
    publisher.publish(vec![delete(&provider("shop")), delete(&provider("cart"))]);
    assert!(instances(&store, "i").is_empty());
}

#[test]
fn a_mapping_and_its_applications_may_be_of_two_sources_in_any_order() {
    let at = "/services/shop/x";
    for applications_first in [true, false] {
        let mut feeds = [
            Feed::of_nodes("a", "zookeeper", vec![path("/services")])
                .with_services(vec![services("/services", Format::DubboApplication)]),
            Feed::of_nodes("b", "zookeeper", vec![path("/dubbo")])
                .with_services(vec![services("/dubbo", Format::Dubbo)]),
        ];
        let (a, b) = if applications_first { (0, 1) } else { (1, 0) };
        if !applications_first {
            feeds.reverse();
        }
        let store = Store::new(&Config::default(), feeds.into(), Arc::default());
        let (a, b) = (store.publisher(a), store.publisher(b));
        a.publish(vec![put(at, APPLICATION)]);
        b.publish(vec![put("/dubbo/mapping/i", "shop")]);
        assert_eq!(told_by(&store, "i"), [("dubbo://10.0.0.5:20880".into(), vec![at.to_owned()])]);
        assert_eq!(&*instances(&store, "i")[0].provenance[0].source, "a");
        b.publish(vec![delete("/dubbo/mapping/i")]);
        assert!(instances(&store, "i").is_empty());
        assert_eq!(instances(&store, "shop").len(), 1);
    }
}

#[test]
fn one_node_counts_as_a_bounded_number_of_instances_of_interfaces_without_its_metadata() {
    let (store, publisher) =
        house(vec![services("/dubbo", Format::Dubbo), services("/services", Format::DubboApplication)]);
    let mappings = (0..1_100).map(|number| put(&format!("/dubbo/mapping/i{number:04}"), "shop"));
    let long = format!("/dubbo/mapping/{}", "i".repeat(257));
    publisher.publish(mappings.chain([put("/services/shop/x", APPLICATION), put(&long, "shop")]).collect::<Vec<_>>());
    let snapshot = store.snapshot();
    let named = snapshot.directory().services(None).filter(|(name, _)| name.starts_with('i'));
    assert_eq!(named.count(), 1_024);
    let why = |at: &str| store.snapshot().directory().why_undecodable(&path(at)).cloned();
    assert_eq!(why("/services/shop/x"), Some(format::Undecodable::TooManyOfNode));
    assert!(why(&long).is_some() && snapshot.directory().count_of_undecodable() == 2);
    let metadata = |service: &str| instances(&store, service)[0].metadata.len();
    assert_eq!((metadata("shop"), metadata("i0000")), (2, 0));
    publisher.publish((0..100).map(|number| delete(&format!("/dubbo/mapping/i{number:04}"))).collect::<Vec<_>>());
    assert_eq!(why("/services/shop/x"), None, "as the others it is listed now");
    // Each instance has the path of its node in the shared file.
    let named_by = |at: &str| {
        publisher.publish(vec![delete("/services/shop/x"), put(at, APPLICATION)]);
        let snapshot = store.snapshot();
        let all = snapshot.directory().services(None).filter(|(name, _)| name.starts_with('i')).count();
        publisher.publish(vec![delete(at)]);
        all
    };
    assert_eq!(
        (named_by("/services/shop/y"), named_by(&format!("/services/shop/{}", "y".repeat(1_010)))),
        (1_000, 204)
    );
}

#[test]
fn what_one_process_offers_in_many_versions_is_listed_and_its_provenance_is_bounded_in_bytes() {
    let (store, publisher) = house(vec![services("/dubbo", Format::Dubbo)]);
    let provider = |query: &str| format!("/dubbo/i/providers/dubbo%3A%2F%2Fh%3A1%2Fi%3F{query}");
    let many = (0..100).map(|number| put(&provider(&format!("group%3Dg{number}")), ""));
    publisher.publish(many.collect::<Vec<_>>());
    assert_eq!(instances(&store, "i").len(), 100);
    let (store, publisher) = house(vec![services("/dubbo", Format::Dubbo)]);
    let fat = (0..8).map(|number| put(&provider(&format!("a%3D{number}%26methods%3D{}", "m".repeat(20_000))), ""));
    publisher.publish(fat.collect::<Vec<_>>());
    let [it] = &instances(&store, "i")[..] else { panic!("one") };
    assert_eq!(it.provenance.len(), 4, "its own, and those of 64 KiB");
    let view = crate::model::view::Instance::from(it);
    assert!(view.provenance.iter().all(|it| it.path.is_none()), "no reply has paths of so many bytes");
}

#[test]
fn a_rule_changes_the_instances_of_its_scope_in_its_own_revision() {
    let (store, publisher) = house(vec![services("/s", Format::Serverset)]);
    let members =
        |of: &'static str| (1..=3).map(move |n| put(&format!("/s/{of}/member_{n}"), &member("ALIVE", n, "{}")));
    publisher.publish(members("web").chain(members("mail")).collect::<Vec<_>>());
    let weights = |service: &str| instances(&store, service).iter().map(|it| it.weight).collect::<Vec<_>>();
    let before = store.snapshot();
    publisher.publish(vec![put("/s/web/vector_1", r#"{"vector":[{"select":"shard=2","weight":0.5}]}"#)]);
    assert_eq!((weights("web"), weights("mail")), (vec![100, 50, 100], vec![100; 3]));
    let snapshot = store.snapshot();
    let changed: Vec<_> = before.directory().changed_services(snapshot.directory()).collect();
    assert_eq!(changed, ["web"]);
    publisher.publish(vec![delete("/s/web/vector_1")]);
    assert_eq!(weights("web"), [100; 3]);
}

#[test]
fn the_rules_of_a_scope_are_read_up_to_a_bound_in_bytes() {
    let (store, publisher) = house(vec![services("/s", Format::Serverset)]);
    let vector = |number: usize, bytes: usize| {
        let pad = "x".repeat(bytes);
        let data = format!(r#"{{"pad":"{pad}","vector":[{{"select":"shard=1","weight":0.5}}]}}"#);
        put(&format!("/s/web/vector_{number}"), &data)
    };
    let fat = (1..9).map(|number| vector(number, 60_000));
    publisher
        .publish(fat.chain([vector(9, 10), put("/s/web/member_1", &member("ALIVE", 1, "{}"))]).collect::<Vec<_>>());
    assert_eq!(instances(&store, "web")[0].weight, 3, "five of nine: of the large ones four");
    let left_out = || {
        let snapshot = store.snapshot();
        let root = path("/s");
        let all = snapshot.directory().undecodable(&root);
        all.filter(|(_, why)| **why == Undecodable::RuleLeftOut).count()
    };
    assert_eq!(left_out(), 4);
    publisher.publish((1..4).map(|number| delete(&format!("/s/web/vector_{number}"))).collect::<Vec<_>>());
    assert_eq!((instances(&store, "web")[0].weight, left_out()), (3, 1), "others have their room");
}

#[test]
fn a_rule_that_is_refused_takes_no_room_of_others_and_what_nobody_reads_none_at_all() {
    let (store, publisher) = house(vec![services("/s", Format::Serverset), services("/dubbo", Format::Dubbo)]);
    let large = "x".repeat(250 << 10);
    let half = r#"{"vector":[{"select":"shard=1","weight":0.5}]}"#;
    // Together they are 256 KiB.
    let small = (1..=5).map(|number| put(&format!("/s/web/vector_0{number}"), &large[..6_100]));
    let vectors = [put("/s/web/vector_0", &large), put("/s/web/vector_1", half)];
    let rule = |key: &str| format!("/dubbo/i/configurators/override%3A%2F%2F0.0.0.0%2Fi%3F{key}");
    let dubbo = [
        put("/dubbo/i/providers/dubbo%3A%2F%2Fh%3A1%2Fi", ""),
        put(&rule("a%3D1"), &large),
        put(&rule("disabled%3Dtrue"), &large),
    ];
    let member = put("/s/web/member_1", &member("ALIVE", 1, "{}"));
    publisher.publish(small.chain(vectors).chain(dubbo).chain([member]).collect::<Vec<_>>());
    assert_eq!(instances(&store, "web")[0].weight, 50);
    assert_eq!(instances(&store, "i")[0].state, InstanceState::Down);
    assert_eq!(store.snapshot().directory().count_of_undecodable(), 6);
}

#[test]
fn one_of_many_that_changes_changes_no_other() {
    let (store, publisher) = house(vec![services("/s", Format::Serverset)]);
    let all = (1..=1_000).map(|port| put(&format!("/s/web/member_{port}"), &member("ALIVE", port, "{}")));
    publisher.publish(all.collect::<Vec<_>>());
    let changed = |change: Change| {
        let before = store.snapshot();
        publisher.publish(vec![change]);
        let after = store.snapshot();
        let set = |snapshot: &Snapshot| {
            let versions = snapshot.directory().instances_of("web").cloned().expect("instances");
            versions.get_min().expect("a version").1.clone()
        };
        set(&before).changed_numbers(&set(&after)).count()
    };
    assert_eq!(changed(put("/s/web/member_500", &member("DEAD", 500, "{}"))), 1);
    assert_eq!(changed(put("/s/web/member_1001", &member("ALIVE", 1_001, "{}"))), 1);
    assert_eq!(changed(delete("/s/web/member_7")), 2, "the last one takes its number");
}

#[test]
fn no_master_takes_the_place_of_what_a_node_registers() {
    let (store, publisher) = house(vec![services("/s", Format::Serverset)]);
    publisher.publish(vec![put("/s/web/member_1", &member("ALIVE", 80, "{}"))]);
    let id = store.snapshot().directory().instances("web").next().expect("one").0.to_string();
    let service = Service { name: "web".into(), metadata: Value::Map(Vec::new()).into() };
    let master = Master { id, peer_address: "here".into(), connected_at: 0, services: vec![service] };
    publisher.publish(vec![Change::Join(Arc::new(master), Arc::new(Nowhere))]);
    let [web] = &instances(&store, "web")[..] else { panic!("one") };
    assert_eq!(web.master(), None);
    assert!(store.snapshot().directory().is_empty());
}

#[test]
fn a_root_registers_only_the_names_that_it_may() {
    let bounded = |root: &str, format, names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>().try_into().expect("patterns");
        format::Config { names, ..services(root, format) }
    };
    let (store, publisher) = house(vec![
        bounded("/s", Format::Raw, &["own/*", "mail"]),
        bounded("/c", Format::Curator, &["own/*", "mail"]),
        bounded("/dubbo", Format::Dubbo, &["com.own.*"]),
        services("/apps", Format::DubboApplication),
    ]);
    let curator = r#"{"name":"pay","id":"1","address":"h","port":9,"payload":null}"#;
    publisher.publish(vec![
        put("/s/own/web/a", "h:1"),
        put("/s/mail/a", "h:2"),
        put("/s/pay/a", "h:3"),
        put("/c/pay/1", curator),
        put("/dubbo/com.acme.Foo/providers/dubbo%3A%2F%2Fh%3A4%2Fcom.acme.Foo", ""),
        put("/dubbo/mapping/com.acme.Foo", "app"),
        put("/dubbo/mapping/com.own.Bar", "app"),
        put("/apps/app/1", APPLICATION),
    ]);
    let counts = ["own/web", "mail", "pay", "com.acme.Foo", "com.own.Bar"].map(|name| instances(&store, name).len());
    assert_eq!(counts, [1, 1, 0, 0, 1]);
    let snapshot = store.snapshot();
    let root = NodePath::root();
    let left_out: Vec<_> = snapshot.directory().undecodable(&root).collect();
    assert!(left_out.len() == 4 && left_out.iter().all(|(_, why)| **why == Undecodable::Name), "{left_out:?}");
}

#[test]
fn what_an_address_is_the_root_that_is_configured_first_says() {
    let ranked = |root: &str, rank| format::Config { rank, ..services(root, Format::Raw) };
    for (first, second) in [("/a", "/b"), ("/b", "/a")] {
        let (store, publisher) = house(vec![ranked(second, 1), ranked(first, 0)]);
        let own = put(&format!("{first}/pg/1"), r#"{"host":"h","port":1,"weight":0,"role":"replica"}"#);
        let padded = r#"{"host":"h","port":1,"weight":900,"role":"primary","a":1,"b":2}"#;
        let others = (0..100).map(|number| put(&format!("{second}/pg/{number}"), padded));
        publisher.publish(others.chain([own]).collect::<Vec<_>>());
        let [one] = &instances(&store, "pg")[..] else { panic!("one") };
        assert_eq!((one.weight, one.metadata.text("role")), (0, Some("replica")));
        assert_eq!(one.provenance.len(), 64, "the others are named too");
        publisher.publish(vec![delete(&format!("{first}/pg/1"))]);
        assert_eq!(instances(&store, "pg")[0].weight, 900);
    }
}
