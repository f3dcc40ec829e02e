//! Choices match the query.

use super::*;
use crate::clock::millis_since_1970;
use crate::model::{
    Answers, Call, Change, Command, Decoder, Endpoint, Format, Instance, InstanceState, Line, Master, NodePath,
    Provenance, Record, Refused, Service, Withholding, registered_version,
};
use crate::store::{Feed, Provider, Publisher, Store, Withhold, WithholdKind, key_hash};
use rmpv::Value;
use std::time::SystemTime;

/// A line with this many calls under way.
#[derive(Debug, Default)]
struct Busy {
    outstanding: usize,
    is_direct: bool,
    is_silent: bool,
}

impl Line for Busy {
    fn call(&self, _: Call) -> Result<Answers, Refused> {
        Err(Refused::Gone)
    }

    fn send(&self, _: &Command) -> Result<(), Refused> {
        Err(Refused::Gone)
    }

    fn outstanding(&self) -> usize {
        self.outstanding
    }

    fn is_answering(&self) -> bool {
        !self.is_silent
    }

    fn is_direct(&self) -> bool {
        self.is_direct
    }
}

fn store() -> (Arc<Store>, Publisher) {
    let store = Store::new(&Default::default(), vec![Feed::of_instances("register", "register")], Arc::default());
    let publisher = store.publisher(0);
    (store, publisher)
}

fn join(id: &str, services: &[&str], outstanding: usize) -> Change {
    join_by(id, services, Busy { outstanding, ..Busy::default() })
}

fn join_by(id: &str, services: &[&str], line: Busy) -> Change {
    let service = |name: &&str| Service { name: (*name).to_owned(), metadata: Value::Map(vec![]).into() };
    let services = services.iter().map(service).collect();
    let master = Master { id: id.into(), peer_address: "here".into(), connected_at: 0, services };
    Change::Join(Arc::new(master), Arc::new(line))
}

fn chosen(store: &Store, service: &str, query: &Query) -> Result<String, NoMaster> {
    let snapshot = store.snapshot();
    choose(snapshot.directory(), service, query).map(|entry| entry.master.id.clone())
}

#[test]
fn the_metadata_that_nobody_has_are_named_and_cut_where_they_are_long() {
    let query = |value: &str| in_words(&BTreeMap::from([("a".to_owned(), value.to_owned())]));
    let told = NoMaster::NoMetadata("mail".into(), query("9")).to_string();
    assert_eq!(told, "no master that is connected offers the service `mail` with a=9");
    assert_eq!(query(&"ü".repeat(10_000)), format!("a={}…", "ü".repeat(198)));
}

#[test]
fn why_there_is_none_is_told() {
    let (store, publisher) = store();
    let query = Query { version: Some(">=3".parse().expect("a requirement")), ..Query::default() };
    assert_eq!(chosen(&store, "mail", &query), Err(NoMaster::Unknown("mail".into())));
    publisher.publish(vec![join("a", &["mail@1.0.0"], 0)]);
    assert_eq!(chosen(&store, "mail", &query), Err(NoMaster::NoVersion("mail".into(), ">=3".into())));
    let query = Query { tried: vec!["a".into()], ..Query::default() };
    assert_eq!(chosen(&store, "mail", &query), Err(NoMaster::AllTried("mail".into())));
    publisher.publish(vec![Change::Leave("a".into())]);
    assert_eq!(chosen(&store, "mail", &query), Err(NoMaster::NoneAlive("mail".into())));
}

#[test]
fn the_newest_version_that_will_do_is_chosen() {
    let (store, publisher) = store();
    publisher.publish(vec![join("a", &["mail@1.2.0"], 0), join("b", &["mail@2.0.0"], 0), join("c", &["mail"], 0)]);
    let version = |text: &str| Query { version: Some(text.parse().expect("a requirement")), ..Query::default() };
    assert_eq!(chosen(&store, "mail", &Query::default()), Ok("b".into()));
    assert_eq!(chosen(&store, "mail", &version("^1")), Ok("a".into()));
    assert_eq!(
        chosen(&store, "mail", &Query { tried: vec!["b".into(), "a".into()], ..Query::default() }),
        Ok("c".into())
    );
}

#[test]
fn each_balance_keeps_its_word() {
    fastrand::seed(7);
    let (store, publisher) = store();
    publisher.publish(vec![join("a", &["mail"], 9), join("b", &["mail"], 0), join("c", &["mail"], 9)]);
    let (snapshot, times) = (store.snapshot(), 9_000);
    let count = |balance: Balance, id: &str| {
        let query = Query { balance, ..Query::default() };
        let choose = || super::choose(snapshot.directory(), "mail", &query).expect("a master");
        (0..times).filter(|_| choose().master.id == id).count()
    };
    assert_eq!(count(Balance::RoundRobin, "a"), times / 3);
    assert_near(count(Balance::Random, "b"), times, 1.0 / 3.0);
    // Two thirds of all pairs have the idle one.
    assert_near(count(Balance::LeastOutstanding, "b"), times, 2.0 / 3.0);
    let keyed = ["a", "b", "c"].map(|id| count(Balance::Key("user 7".into()), id));
    assert_eq!(keyed.iter().max(), Some(&times), "a key stays with its master");
}

#[test]
fn each_service_has_turns_of_its_own() {
    let (store, publisher) = store();
    publisher.publish(vec![join("a", &["mail", "log"], 0), join("b", &["mail", "log"], 0)]);
    let by_turns = Query { balance: Balance::RoundRobin, ..Query::default() };
    let turn = |service: &str| chosen(&store, service, &by_turns).expect("a master");
    let turns = [0; 4].map(|_| (turn("mail"), turn("log")));
    for id in ["a", "b"] {
        let count = turns.iter().filter(|(mail, log)| mail == id && log == id).count();
        assert_eq!(count, 2, "two services called in turn reach every master: {turns:?}");
    }
    // Instances that come and go do not reset the rotation.
    let before = turn("mail");
    publisher.publish(vec![join("c", &["other"], 0), join("d", &["mail"], 0)]);
    publisher.publish(vec![Change::Leave("d".into())]);
    assert_ne!(turn("mail"), before);
}

#[test]
fn turns_that_others_take_meanwhile_hide_no_master() {
    let (store, publisher) = store();
    publisher.publish(vec![join("a", &["mail"], 0), join("b", &["mail"], 0)]);
    let snapshot = store.snapshot();
    let (_, set) = snapshot.directory().instances_of("mail").and_then(|all| all.iter().next()).expect("a version");
    for other in ["a", "b"] {
        let will_do: pick::WillDo<'_, '_> = &|provider| {
            // As a concurrent thread would, so that all turns of this one go to one master.
            set.take_turn();
            let Provider { id, instances, .. } = provider;
            (**id != *other).then(|| Candidate { instance: &instances[0], master: snapshot.directory().master(id) })
        };
        assert!(pick::pick_by(set, &Balance::RoundRobin, will_do).is_some(), "not {other}");
    }
}

#[test]
fn of_two_masters_the_busy_one_is_never_chosen() {
    let (store, publisher) = store();
    publisher.publish(vec![join("busy", &["mail"], 1), join("idle", &["mail"], 0)]);
    assert!((0..400).all(|_| chosen(&store, "mail", &Query::default()) == Ok("idle".into())));
}

#[test]
fn one_that_is_silent_is_chosen_only_where_no_other_can_be_had() {
    let (store, publisher) = store();
    let silent = || Busy { is_silent: true, ..Busy::default() };
    publisher.publish(vec![join_by("silent", &["mail@2.0.0"], silent()), join("a", &["mail@2.0.0"], 9)]);
    let balances = || {
        let keyed = (0..20).map(|key| Balance::Key(key.to_string().into()));
        keyed.chain([Balance::LeastOutstanding, Balance::Random, Balance::RoundRobin])
    };
    let always = |id: &str| {
        let query = |balance| Query { balance, ..Query::default() };
        balances().all(|balance| (0..20).all(|_| chosen(&store, "mail", &query(balance.clone())) == Ok(id.into())))
    };
    assert!(always("a"));
    publisher.publish(vec![join("a", &["mail@1.0.0"], 9)]);
    assert!(always("a"), "an older version that answers");
    publisher.publish(vec![Change::Leave("a".into())]);
    assert!(always("silent"));
}

#[test]
fn who_comes_after_one_that_was_tried_gets_no_more_than_its_share() {
    fastrand::seed(7);
    let (store, publisher) = store();
    publisher.publish(["a", "b", "c", "d"].map(|id| join(id, &["mail"], 0)).to_vec());
    let snapshot = store.snapshot();
    for balance in [Balance::LeastOutstanding, Balance::Random, Balance::RoundRobin] {
        let query = Query { balance, tried: vec!["a".into()], ..Query::default() };
        let choose = || super::choose(snapshot.directory(), "mail", &query).expect("a master").master.id.clone();
        let chosen: Vec<String> = (0..600).map(|_| choose()).collect();
        for id in ["b", "c", "d"] {
            let count = chosen.iter().filter(|chosen| *chosen == id).count();
            assert!((140..260).contains(&count), "{id}: {count} of 600, {:?}", query.balance);
        }
    }
}

#[test]
fn one_that_is_expected_back_is_known_and_not_called() {
    let (store, publisher) = store();
    let Change::Join(master, _) = join("a", &["mail"], 0) else { unreachable!("it joins") };
    publisher.publish(vec![Change::Expect(master)]);
    assert_eq!(store.snapshot().directory().instances("mail").count(), 1);
    assert_eq!(chosen(&store, "mail", &Query::default()), Err(NoMaster::NoneConnected("mail".into())));
    publisher.publish(vec![join("a", &["mail"], 0)]);
    assert_eq!(chosen(&store, "mail", &Query::default()), Ok("a".into()));
    publisher.clear_expected();
    assert_eq!(chosen(&store, "mail", &Query::default()), Ok("a".into()));
}

#[test]
fn a_master_of_two_ways_goes_with_the_last() {
    let feeds = ["one", "two"].map(|name| Feed::of_instances(name, "upstream"));
    let store = Store::new(&Default::default(), feeds.into(), Arc::default());
    let [one, two] = [0, 1].map(|feed| store.publisher(feed));
    one.publish(vec![join("a", &["mail"], 1)]);
    let revision = two.publish(vec![join("a", &["mail"], 2)]);
    let directory = |store: &Store| store.snapshot().directory().clone();
    assert_eq!(directory(&store).master("a").expect("a master").outstanding(), 3);
    one.publish(vec![Change::Leave("a".into())]);
    assert_eq!(chosen(&store, "mail", &Query::default()), Ok("a".into()));
    assert!(store.snapshot().revision() > revision);
    two.publish(vec![Change::Leave("a".into())]);
    assert!(directory(&store).master("a").is_none());
    assert_eq!(chosen(&store, "mail", &Query::default()), Err(NoMaster::NoneAlive("mail".into())));
}

#[test]
fn a_master_that_left_one_register_is_called_by_another() {
    let feeds = ["one", "two"].map(|name| Feed::of_instances(name, "upstream"));
    let store = Store::new(&Default::default(), feeds.into(), Arc::default());
    let [one, two] = [0, 1].map(|feed| store.publisher(feed));
    let entry = |store: &Store| store.snapshot().directory().master("a").expect("a master").clone();
    one.publish(vec![join("a", &["mail"], 1)]);
    two.publish(vec![join("a", &["mail"], 2)]);
    two.publish(vec![join("a", &[], 2)]);
    assert_eq!(chosen(&store, "mail", &Query::default()), Ok("a".into()));
    let offer = entry(&store).master.services[0].clone();
    assert_eq!(entry(&store).lines_to(&offer).map(|line| line.outstanding()).collect::<Vec<_>>(), [1]);
    two.publish(vec![Change::Leave("a".into())]);
    assert_eq!(chosen(&store, "mail", &Query::default()), Ok("a".into()));
    one.publish(vec![join("a", &[], 1)]);
    assert_eq!(chosen(&store, "mail", &Query::default()), Err(NoMaster::NoneAlive("mail".into())));
}

#[test]
fn a_register_that_claims_the_id_of_a_connected_master_neither_speaks_for_it_nor_gets_its_calls() {
    let feeds = [Feed::of_instances("liar", "upstream"), Feed::of_instances("register", "register")];
    let store = Store::new(&Default::default(), feeds.into(), Arc::default());
    let [liar, register] = [0, 1].map(|feed| store.publisher(feed));
    register.publish(vec![join_by("a", &["mail"], Busy { outstanding: 7, is_direct: true, ..Busy::default() })]);
    liar.publish(vec![join("a", &["mail", "more"], 0)]);
    let entry = store.snapshot().directory().master("a").expect("a master").clone();
    let [offer] = &entry.master.services[..] else { panic!("{:?}", entry.master) };
    assert_eq!(entry.lines_to(offer).map(|line| line.outstanding()).collect::<Vec<_>>(), [7]);
    assert_eq!(entry.lines().next().map(|line| line.outstanding()), Some(7), "commands go to itself first");
    register.publish(vec![Change::Leave("a".into())]);
    assert_eq!(chosen(&store, "more", &Query::default()), Ok("a".into()));
}

#[test]
fn instances_with_endpoints_stand_beside_masters_and_are_never_called_through_a_connection() {
    let (store, publisher) = store();
    publisher.publish(vec![join("m1", &["mail@1.0.0"], 0)]);
    let mut directory = store.snapshot().directory().clone();
    let service = Service { name: "mail@1.0.0".into(), metadata: Value::Map(vec![]).into() };
    for host in ["10.0.0.2", "10.0.0.1"] {
        let record = Record::Node(NodePath::root().child("mail").child(host));
        let node = Provenance { source: "zk".into(), record, decoder: Decoder::Tunnel, since: 1 };
        let endpoint = Endpoint { name: "".into(), protocol: "tcp".into(), host: host.into(), port: 25 };
        let instance = Instance::of_master(&service, InstanceState::Up, [node]);
        let instance = Instance { endpoints: [endpoint].into(), ..instance };
        instance.check().expect("it is within its bounds");
        directory.list(&format!("{host}:25").into(), "mail".into(), service.version(), [instance].into());
    }
    let found: Vec<_> =
        directory.instances("mail").map(|(id, it)| (id.as_ref(), it.endpoints.len(), it.master().is_some())).collect();
    assert_eq!(found, [("10.0.0.1:25", 1, false), ("10.0.0.2:25", 1, false), ("m1", 0, true)]);
    let choose = |query: &Query| super::choose(&directory, "mail", query);
    for balance in [Balance::LeastOutstanding, Balance::RoundRobin, Balance::Random, Balance::Key("k".into())] {
        let chosen = choose(&Query { balance, ..Query::default() }).expect("a master");
        assert_eq!(chosen.master.id, "m1");
    }
    let tried = Query { tried: vec!["m1".into()], ..Query::default() };
    assert_eq!(choose(&tried).expect_err("clients call the others themselves"), NoMaster::AllTried("mail".into()));
}

#[test]
fn of_names_that_nobody_offers_the_newest_are_remembered() {
    let (store, publisher) = store();
    for round in 0..6 {
        let names: Vec<String> = (0..1_000).map(|i| format!("s{round}-{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).chain(["mail"]).collect();
        publisher.publish(vec![join("a", &names, 0)]);
    }
    assert_eq!(chosen(&store, "mail", &Query::default()), Ok("a".into()));
    publisher.publish(vec![Change::Leave("a".into())]);
    assert_eq!(store.snapshot().directory().retired_services(None).count(), 4_096);
    assert_eq!(store.snapshot().directory().count_of_services(), 0);
    assert_eq!(chosen(&store, "mail", &Query::default()), Err(NoMaster::NoneAlive("mail".into())));
    assert_eq!(chosen(&store, "s0-0", &Query::default()), Err(NoMaster::Unknown("s0-0".into())));
}

/// A directory with a service `db` on these hosts, each with a weight.
fn directory(hosts: &[(&str, u32)]) -> Directory {
    let mut directory = Directory::default();
    hosts.iter().for_each(|(host, weight)| add(&mut directory, host, |it| it.weight = *weight));
    directory
}

fn add(directory: &mut Directory, address: &str, change: impl FnOnce(&mut Instance)) {
    let mut instance = Instance::at("db", address);
    change(&mut instance);
    directory.list(&address.into(), "db".into(), instance.version.clone(), [instance].into());
}

fn resolved(directory: &Directory, query: &Query) -> Result<String, NoInstance> {
    resolve(directory, "db", query).map(|(instance, _)| instance.address())
}

/// How often each is resolved.
fn counts(directory: &Directory, query: &Query, times: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        *counts.entry(resolved(directory, query).expect("an instance")).or_default() += 1;
    }
    counts
}

fn by(balance: Balance) -> Query {
    Query { balance, ..Query::default() }
}

fn key(key: impl ToString) -> Query {
    by(Balance::Key(key.to_string().into()))
}

/// Asserts that a count is within five standard deviations.
fn assert_near(count: usize, times: usize, share: f64) {
    let (mean, deviation) = (times as f64 * share, (times as f64 * share * (1.0 - share)).sqrt());
    assert!((count as f64 - mean).abs() <= 5.0 * deviation, "{count} of {times}, and not about {mean}");
}

#[test]
fn what_php_computes_is_computed_here() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/vectors/resolve.json")).expect("JSON");
    let all = |of: &serde_json::Value| of.as_array().expect("a list").clone();
    let text = |of: &serde_json::Value| of.as_str().expect("a text").to_owned();
    for vector in all(&vectors["hashes"]) {
        assert_eq!(key_hash(text(&vector["text"])), vector["hash"], "{vector}");
    }
    for vector in all(&vectors["draws"]) {
        let drawn = rendezvous::draw(key_hash(text(&vector["key"])), key_hash(text(&vector["address"])));
        assert_eq!(
            (drawn.into(), rendezvous::distance(drawn).into()),
            (vector["draw"].clone(), vector["distance"].clone())
        );
    }
    for vector in all(&vectors["picks"]) {
        let mut directory = Directory::default();
        // In any order.
        for instance in all(&vector["instances"]).iter().rev() {
            let weight = instance["weight"].as_u64().expect("a weight") as u32;
            add(&mut directory, &text(&instance["address"]), |it| it.weight = weight);
        }
        for pick in all(&vector["picks"]) {
            let excluded = pick["exclude"].as_array().into_iter().flatten();
            let excluded = excluded.map(|address| key_hash(text(address))).collect();
            let found = resolved(&directory, &Query { excluded, ..key(text(&pick["key"])) });
            assert_eq!(found, Ok(text(&pick["address"])), "{}: {pick}", vector["what"]);
        }
    }
}

#[test]
fn of_one_address_the_same_is_chosen_as_by_php() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/vectors/resolve.json")).expect("JSON");
    for vector in vectors["ties"].as_array().expect("a list") {
        let mut directory = Directory::default();
        for told in vector["instances"].as_array().expect("a list") {
            let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
            let mut instance = Instance::at("db", &text("address"));
            let protocol = text("protocol");
            instance.endpoints =
                instance.endpoints.iter().map(|it| Endpoint { protocol: protocol.clone(), ..it.clone() }).collect();
            // As instances registered by nodes are listed.
            let variant = told["group"].as_str().map(|group| format!("?group={group}&version="));
            let id = format!("\u{1}{}{}", instance.endpoints[0].address(), variant.unwrap_or_default()).into();
            directory.list(&id, "db".into(), instance.version.clone(), [instance].into());
        }
        let (found, _) = resolve(&directory, "db", &key("k")).expect("one");
        assert_eq!(found.endpoints[0].protocol, vector["protocol"], "{vector}");
    }
}

/// An instance that Dubbo registers, with these metadata.
fn of_dubbo(address: &str, format: Format, metadata: &[(&str, &str)]) -> Instance {
    let instance = Instance::at("db", address);
    let decoder = Decoder::Format(format);
    let provenance = instance.provenance.iter().map(|it| Provenance { decoder, ..it.clone() }).collect();
    let metadata = metadata.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    Instance { provenance, metadata: Value::Map(metadata).into(), ..instance }
}

#[test]
fn an_instance_that_warms_up_weighs_as_much_as_php_has_it() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/vectors/resolve.json")).expect("JSON");
    for vector in vectors["warmUps"].as_array().expect("a list") {
        let format = serde_json::from_value(vector["decoder"].clone()).expect("a format");
        let metadata = vector["metadata"].as_object().expect("an object");
        let metadata: Vec<_> =
            metadata.iter().map(|(key, value)| (key.as_str(), value.as_str().expect("a text"))).collect();
        let [weight, now, counts] = ["weight", "now", "counts"].map(|key| vector[key].as_u64().expect("a number"));
        let weight = weight as u32;
        let found = of_dubbo("h:1", format, &metadata).warm_up().map_or(weight, |it| it.weight(weight, now));
        assert_eq!(u64::from(found), counts, "{vector}");
    }
}

#[test]
fn one_that_warms_up_is_drawn_less_often_and_keeps_its_keys_and_its_turns() {
    fastrand::seed(7);
    let started = millis_since_1970(SystemTime::now()).to_string();
    let mut directory = Directory::default();
    for (port, timestamp) in [(1, "1000"), (2, &started)] {
        let metadata = [("timestamp", timestamp), ("warmup", "2147483647")];
        let instance = of_dubbo(&format!("h:{port}"), Format::Dubbo, &metadata);
        directory.list(&format!("\u{1}{port}").into(), "db".into(), instance.version.clone(), [instance].into());
    }
    let share = |query: &Query| counts(&directory, query, 10_000).get("h:2").copied().unwrap_or_default();
    assert_near(share(&by(Balance::Random)), 10_000, 1.0 / 101.0);
    assert_eq!(share(&by(Balance::RoundRobin)), 5_000);
    let keyed = (0..10_000).filter(|key| resolved(&directory, &self::key(key)) == Ok("h:2".to_owned()));
    assert_near(keyed.count(), 10_000, 0.5);
    let (_, fresh) = directory.instances("db").find(|(_, it)| it.address() == "h:2").expect("it is there");
    let told = explain(&directory, fresh, None).reasons;
    assert!(told[0].contains("has the weight 100, of which 1 counts now"), "{told:?}");
}

#[test]
fn each_is_drawn_as_often_as_its_weight() {
    fastrand::seed(7);
    let hosts = [("a:1", 100), ("b:1", 300), ("c:1", 0), ("d:1", 600)];
    let total = 1_000.0;
    let directory = directory(&hosts);
    let found = counts(&directory, &by(Balance::Random), 10_000);
    let keyed = (0..10_000).map(|key| resolved(&directory, &self::key(key)).expect("one"));
    let keyed = keyed.fold(BTreeMap::<_, usize>::new(), |mut counts, host| {
        *counts.entry(host).or_default() += 1;
        counts
    });
    for counts in [found, keyed] {
        for (host, weight) in hosts {
            assert_near(counts.get(host).copied().unwrap_or(0), 10_000, f64::from(weight) / total);
        }
    }
}

#[test]
fn light_ones_beside_a_very_heavy_one_have_their_share_too() {
    fastrand::seed(7);
    let mut hosts: Vec<(String, u32)> = (0..100).map(|n| (format!("light-{n}:1"), 1)).collect();
    hosts.push(("heavy:1".into(), 900));
    let hosts: Vec<(&str, u32)> = hosts.iter().map(|(host, weight)| (host.as_str(), *weight)).collect();
    assert_near(counts(&directory(&hosts), &by(Balance::Random), 10_000)["heavy:1"], 10_000, 0.9);
    // If the heavy one is excluded, hardly any draw hits a candidate.
    let query = Query { tried: vec!["heavy:1".into()], ..by(Balance::Random) };
    let light = counts(&directory(&hosts), &query, 10_000);
    light.values().for_each(|count| assert_near(*count, 10_000, 0.01));
}

#[test]
fn one_that_goes_moves_its_own_keys_and_no_others() {
    let names: Vec<String> = (0..20).map(|n| format!("10.0.0.{n}:80")).collect();
    let all: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 100 + name.len() as u32)).collect();
    let (gone, rest) = all.split_first().expect("one");
    let (before, after) = (directory(&all), directory(rest));
    let mut moved = 0;
    for number in 0..5_000 {
        let chosen = [&before, &after].map(|directory| resolved(directory, &key(number)).expect("one"));
        assert!(chosen[0] == chosen[1] || chosen[0] == gone.0, "{chosen:?}");
        moved += usize::from(chosen[0] != chosen[1]);
    }
    assert_near(moved, 5_000, f64::from(gone.1) / all.iter().map(|(_, weight)| f64::from(*weight)).sum::<f64>());
}

#[test]
fn of_equal_addresses_the_same_is_chosen_whatever_the_order() {
    let twice = |first: &str, second: &str| {
        let mut directory = Directory::default();
        for id in [first, second] {
            let mut instance = Instance::at("db", "a:1");
            instance.zone = id.into();
            directory.list(&id.into(), "db".into(), instance.version.clone(), [instance].into());
        }
        resolve(&directory, "db", &key("k")).expect("one").0.zone.clone()
    };
    assert_eq!(twice("x", "y"), twice("y", "x"));
}

#[test]
fn all_take_turns_but_those_of_the_weight_0() {
    let directory = directory(&[("a:1", 1), ("b:1", 1_000), ("c:1", 0)]);
    let found = counts(&directory, &by(Balance::RoundRobin), 300);
    assert!(!found.contains_key("c:1") && found["a:1"].abs_diff(found["b:1"]) <= 100, "{found:?}");
}

#[test]
fn of_two_the_one_that_reports_less_load_is_chosen() {
    fastrand::seed(7);
    let mut directory = Directory::default();
    for (host, load) in [("idle:1", 0.1), ("busy:1", 0.9), ("full:1", 1.5)] {
        add(&mut directory, host, |it| it.metadata = Value::Map(vec![("load".into(), load.into())]).into());
    }
    let found = counts(&directory, &by(Balance::LeastLoad), 9_000);
    assert_near(found["idle:1"], 9_000, 2.0 / 3.0);
    assert_near(found["busy:1"], 9_000, 1.0 / 3.0);
    assert_eq!(found.get("full:1"), None);
}

#[test]
fn the_callers_zone_comes_first_and_overflows_where_much_of_it_is_down() {
    fastrand::seed(7);
    let zoned = |down: usize| {
        let mut directory = Directory::default();
        for number in 0..10 {
            add(&mut directory, &format!("near-{number}:1"), |it| {
                it.zone = "a".into();
                it.state = if number < down { InstanceState::Returning } else { InstanceState::Up };
            });
        }
        add(&mut directory, "far:1", |it| it.zone = "b".into());
        directory
    };
    let query = |balance| Query { prefer_zone: Some("a".into()), ..by(balance) };
    let far = |down, balance: Balance| counts(&zoned(down), &query(balance), 4_000).get("far:1").copied().unwrap_or(0);
    assert_eq!([far(0, Balance::Random), far(2, Balance::Random)], [0, 0]);
    // Five of ten take 1.4 times their share: 70 of 100.
    assert_near(far(5, Balance::Random), 4_000, 0.3);
    assert_eq!(far(10, Balance::Random), 4_000);
    let half = zoned(5);
    let keyed = |number: usize| resolved(&half, &query(Balance::Key(number.to_string().into()))).expect("one");
    assert_near((0..4_000).filter(|number| keyed(*number) == "far:1").count(), 4_000, 0.3);
    assert!((0..100).all(|number| keyed(number) == keyed(number)));
}

#[test]
fn what_none_has_is_looked_for_once_whatever_else_is_asked() {
    let mut directory = Directory::default();
    for port in 1..=1_000 {
        let instance = Instance::at("web", &format!("h:{port}"));
        let id = format!("\u{1}{port}").into();
        directory.list(&id, "web".into(), instance.version.clone(), [instance].into());
    }
    let query = Query {
        metadata: [("a".to_owned(), "b".to_owned())].into(),
        prefer_zone: Some("here".into()),
        subset: Some(Subset { size: 3, of: "me".into() }),
        ..by(Balance::RoundRobin)
    };
    let before = pick::LOOKS.get();
    resolve(&directory, "web", &query).expect_err("none has that");
    let looks = pick::LOOKS.get() - before;
    assert!(looks <= 2 * 1_000, "{looks}: also for those that are ejected");
    let last = Instance { zone: "there".into(), ..Instance::at("web", "h:1001") };
    directory.list(&"\u{1}1001".into(), "web".into(), last.version.clone(), [last].into());
    let query = Query { metadata: Default::default(), zone: Some("there".into()), ..query };
    let before = pick::LOOKS.get();
    resolve(&directory, "web", &query).expect("one has that");
    let looks = pick::LOOKS.get() - before;
    assert!(looks <= 1_001, "{looks}: once for all steps");
}

#[test]
fn of_very_many_versions_few_are_looked_at_to_find_out_that_they_are_many() {
    let mut directory = Directory::default();
    for version in 0..10_000 {
        let instance = Instance { version: Version::new(version, 0, 0), ..Instance::at("web", "h:1") };
        directory.list(&format!("\u{1}{version}").into(), "web".into(), instance.version.clone(), [instance].into());
    }
    let instances = directory.instances_of("web").expect("some");
    let version = Some(["1"; 32].join("|").parse().expect("a requirement"));
    for query in [Query::default(), Query { version, ..Query::default() }, by(Balance::Key("k".into()))] {
        let cost = query.cost(instances);
        assert!(crate::share::is_heavy(cost) && cost < 9_000, "{cost}: no more are looked at");
    }
}

#[test]
fn a_caller_has_the_same_subset_and_callers_share_all() {
    let names: Vec<String> = (0..20).map(|n| format!("10.0.0.{n}:80")).collect();
    let hosts: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 100)).collect();
    let directory = directory(&hosts);
    let subset = |of: usize, size: usize| {
        let subset = Some(Subset { size, of: of.to_string().into() });
        counts(&directory, &Query { subset, ..by(Balance::Random) }, 400).into_keys().collect::<Vec<_>>()
    };
    assert_eq!(subset(1, 5).len(), 5);
    assert_eq!(subset(1, 5), subset(1, 5));
    assert_eq!(subset(1, 100).len(), 20);
    let mut all: Vec<_> = (0..40).flat_map(|of| subset(of, 5)).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 20);
}

#[test]
fn what_is_asked_for_is_what_is_chosen_or_it_is_told_why_not() {
    let mut directory = Directory::default();
    assert_eq!(resolved(&directory, &Query::default()), Err(NoInstance::Unknown("db".into())));
    add(&mut directory, "a:1", |it| it.group = "blue".into());
    add(&mut directory, "b:1", |it| {
        it.group = "green".into();
        it.zone = "z".into();
        it.metadata = Value::Map(vec![("role".into(), "replica".into())]).into();
    });
    let group = |group: &str| Query { group: Some(group.into()), ..Query::default() };
    assert_eq!(resolved(&directory, &group("blue")), Ok("a:1".into()));
    assert_eq!(resolved(&directory, &group("red")), Err(NoInstance::NoGroup("db".into(), "red".into())));
    let zone = |zone: &str| Query { zone: Some(zone.into()), ..group("green") };
    assert_eq!(resolved(&directory, &zone("z")), Ok("b:1".into()));
    assert_eq!(resolved(&directory, &zone("y")), Err(NoInstance::NoZone("db".into(), "y".into())));
    let role = |role: &str| Query { metadata: [("role".into(), role.into())].into(), ..Query::default() };
    assert_eq!(resolved(&directory, &role("replica")), Ok("b:1".into()));
    assert_eq!(resolved(&directory, &role("x")), Err(NoInstance::NoMetadata("db".into(), "role=x".into())));
    let version = Query { version: Some("^2".parse().expect("a requirement")), ..Query::default() };
    assert_eq!(resolved(&directory, &version), Err(NoInstance::NoVersion("db".into(), "^2".into())));
    let mut directory = self::directory(&[("a:1", 0)]);
    assert_eq!(resolved(&directory, &Query::default()), Err(NoInstance::NoWeight("db".into())));
    add(&mut directory, "b:1", |it| it.state = InstanceState::Returning);
    let none = resolved(&directory, &Query::default());
    assert_eq!(none, Err(NoInstance::NoneUp("db".into(), "1 is expected back after a restart".into())));
}

#[test]
fn what_is_registered_with_a_version_that_is_none_by_semver_is_chosen_among_its_own() {
    let mut directory = Directory::default();
    let version = |text: &str| Query { version: Some(text.parse().expect(text)), ..Query::default() };
    // As registrations write it, which is also the host.
    let register = |directory: &mut Directory, texts: &[&str]| {
        for text in texts {
            add(directory, &format!("{text}:1"), |it| it.version = registered_version(text));
        }
    };
    let always = |directory: &Directory, query: &Query, text: &str| {
        (0..20).all(|_| resolved(directory, query) == Ok(format!("{text}:1")))
    };
    register(&mut directory, &["", "1.0.0.daily", "2.0.0.daily", "10.0.0.daily"]);
    assert!(always(&directory, &Query::default(), "10.0.0.daily"), "the newest of those without an order");
    for text in ["1.0.0.daily", "2.0.0.daily", "10.0.0.daily"] {
        assert!(always(&directory, &version(text), text), "{text}");
        assert!(always(&directory, &version(&registered_version(text).to_string()), text), "{text}, as it is shown");
    }
    assert!(always(&directory, &version("0.0.0"), ""), "those without a version");
    assert!(always(&directory, &version("*"), ""), "it has no numbers to compare");
    let none = resolved(&directory, &version("3.0.0.daily"));
    assert_eq!(none, Err(NoInstance::NoVersion("db".into(), "3.0.0.daily".into())));
    assert_eq!(resolved(&directory, &version("^1")), Err(NoInstance::NoVersion("db".into(), "^1".into())));
    register(&mut directory, &["1.0.0", "0.0.1"]);
    assert!(always(&directory, &Query::default(), "1.0.0"), "with numbers it is newer than any without an order");
    assert!(always(&directory, &version("1.0.0"), "1.0.0") && always(&directory, &version("<1"), "0.0.1"));
    assert!(always(&directory, &version("1.0.0.daily"), "1.0.0.daily"));
}

#[test]
fn of_what_is_there_and_cannot_be_called_the_states_are_counted() {
    let mut directory = Directory::default();
    let none = |directory: &Directory, exclude: &str| {
        let query = Query { excluded: vec![key_hash(exclude)], ..Query::default() };
        resolved(directory, &query).expect_err("none").to_string()
    };
    add(&mut directory, "a:1", |it| it.state = InstanceState::Down);
    let why =
        "no instance of the service `db` that will do can be called now: 1 is DOWN; `roster explain db` tells more";
    assert_eq!(none(&directory, "nobody:1"), why);
    add(&mut directory, "b:1", |it| it.state = InstanceState::Down);
    add(&mut directory, "c:1", |_| {});
    add(&mut directory, "d:1", |it| it.endpoints = Arc::default());
    withhold(&mut directory, WithholdKind::Drained, "c:1", withholding(2));
    let why = none(&directory, "nobody:1");
    assert!(why.contains(": 2 are DOWN, 1 is drained, 1 is without an endpoint; `roster"), "{why}");
    add(&mut directory, "e:1", |_| {});
    assert!(none(&directory, "e:1").contains("1 is excluded by the request"), "{}", none(&directory, "e:1"));
}

#[test]
fn what_the_caller_leaves_out_is_chosen_by_no_policy_and_counts_nowhere() {
    fastrand::seed(7);
    let mut directory = directory(&[("a:1", 100), ("b:1", 100), ("c:1", 900)]);
    let without = |addresses: &[&str], query: Query| {
        let excluded = addresses.iter().map(key_hash).collect();
        Query { excluded, ..query }
    };
    assert_near(counts(&directory, &without(&["c:1"], by(Balance::Random)), 2_000)["a:1"], 2_000, 0.5);
    for query in [by(Balance::RoundRobin), by(Balance::LeastOutstanding), by(Balance::LeastLoad), key(7)] {
        let near = Query { prefer_zone: Some(String::new()), ..query.clone() };
        let subset = Query { subset: Some(Subset { size: 2, of: "x".into() }), ..query.clone() };
        for query in [query, near, subset] {
            let query = without(&["c:1"], query);
            assert!(!counts(&directory, &query, 100).contains_key("c:1"), "{query:?}");
        }
    }
    let all = without(&["a:1", "b:1", "c:1"], Query::default());
    assert_eq!(resolved(&directory, &all), Err(NoInstance::Excluded("db".into())));
    // Its zone is not taken for one of which much is down.
    add(&mut directory, "d:1", |it| it.zone = "far".into());
    let near = without(&["b:1", "c:1"], Query { prefer_zone: Some(String::new()), ..by(Balance::Random) });
    assert_eq!(counts(&directory, &near, 200).into_keys().collect::<Vec<_>>(), ["a:1"]);
    // What is ejected is better than what has just failed.
    withhold(&mut directory, WithholdKind::Ejected, "d:1", withholding(2));
    assert_eq!(resolved(&directory, &all), Ok("d:1".into()));
}

#[test]
fn a_master_and_an_endpoint_of_one_service_are_both_chosen_and_only_the_master_is_called() {
    fastrand::seed(7);
    let (store, publisher) = store();
    publisher.publish(vec![join("m", &["db@1.0.0"], 0)]);
    let mut directory = store.snapshot().directory().clone();
    add(&mut directory, "a:1", |_| {});
    let found = counts(&directory, &by(Balance::Random), 2_000);
    assert_near(found["m"], 2_000, 0.5);
    assert!((0..100).all(|_| choose(&directory, "db", &Query::default()).is_ok_and(|it| it.master.id == "m")));
}

#[test]
fn among_very_many_endpoints_a_master_is_found_at_once_and_masters_take_turns() {
    let (store, publisher) = store();
    publisher.publish(vec![join("", &["db@1.0.0"], 0), join("m", &["db@1.0.0"], 0)]);
    let mut directory = store.snapshot().directory().clone();
    for port in 1..=1_000 {
        let instance = Instance::at("db", &format!("a:{port}"));
        directory.list(&format!("\u{1}a:{port}").into(), "db".into(), instance.version.clone(), [instance].into());
    }
    for balance in [Balance::Random, Balance::RoundRobin, Balance::LeastOutstanding, Balance::Key("k".into())] {
        let before = pick::LOOKS.get();
        let query = by(balance);
        let chosen: Vec<_> = (0..20).filter_map(|_| choose(&directory, "db", &query).ok()).collect();
        assert_eq!(chosen.len(), 20);
        let looks = pick::LOOKS.get() - before;
        assert!(looks < 20 * 40, "{looks}");
        let firsts = chosen.iter().filter(|it| it.master.id.is_empty()).count();
        assert!(query.balance != Balance::RoundRobin || firsts == 10, "{firsts}");
    }
}

fn withholding(ends_at: u64) -> Option<Arc<Withholding>> {
    Some(Withholding { since: 1, ends_at, reason: "as the test wants".into(), ..Withholding::default() }.into())
}

fn withhold(
    directory: &mut Directory,
    kind: WithholdKind,
    target: &str,
    withholding: Option<Arc<Withholding>>,
) -> bool {
    directory.withhold(&[Withhold { service: "db".into(), target: target.into(), kind, withholding }])
}

#[test]
fn one_that_is_withheld_is_not_chosen_by_any_policy_until_it_no_longer_is() {
    fastrand::seed(7);
    for kind in [WithholdKind::Ejected, WithholdKind::Drained] {
        let mut directory = directory(&[("a:1", 100), ("b:1", 100), ("c:1", 900)]);
        assert!(withhold(&mut directory, kind, "c:1", withholding(2)));
        let random = counts(&directory, &by(Balance::Random), 2_000);
        assert_near(random["a:1"], 2_000, 0.5);
        for query in [by(Balance::RoundRobin), by(Balance::LeastOutstanding), by(Balance::LeastLoad), key(7)] {
            let near = Query { prefer_zone: Some(String::new()), ..query.clone() };
            let subset = Query { subset: Some(Subset { size: 2, of: "x".into() }), ..query.clone() };
            for query in [query, near, subset] {
                assert!(!counts(&directory, &query, 100).contains_key("c:1"), "{query:?}");
            }
        }
        let is_callable = |directory: &Directory| {
            directory.instances("db").filter(|(_, instance)| is_callable(directory, instance)).count()
        };
        assert_eq!(is_callable(&directory), 2);
        assert!(!withhold(&mut directory, kind, "c:1", withholding(2)), "it is so");
        assert!(withhold(&mut directory, kind, "c:1", None));
        assert_eq!(is_callable(&directory), 3);
        assert_near(counts(&directory, &by(Balance::Random), 2_000)["c:1"], 2_000, 9.0 / 11.0);
    }
}

#[test]
fn one_that_is_ejected_is_chosen_where_no_other_will_do_and_one_that_is_drained_never() {
    let mut directory = directory(&[("a:1", 1), ("b:1", 1)]);
    add(&mut directory, "p:1", |it| it.metadata = Value::Map(vec![("role".into(), "primary".into())]).into());
    let primary = Query { metadata: [("role".into(), "primary".into())].into(), ..key("k") };
    withhold(&mut directory, WithholdKind::Ejected, "p:1", withholding(2));
    assert_eq!(resolved(&directory, &primary), Ok("p:1".into()));
    withhold(&mut directory, WithholdKind::Drained, "p:1", withholding(2));
    assert_eq!(resolved(&directory, &primary), Err(NoInstance::Drained("db".into())));
    withhold(&mut directory, WithholdKind::Ejected, "p:1", None);
    assert_eq!(resolved(&directory, &primary), Err(NoInstance::Drained("db".into())), "each has its own end");
}

#[test]
fn what_is_withheld_stays_so_when_it_comes_back_and_a_host_is_drained_with_all_its_instances() {
    let mut directory = directory(&[("a:1", 1), ("a:2", 1), ("aa:1", 1)]);
    withhold(&mut directory, WithholdKind::Drained, "a", withholding(5));
    withhold(&mut directory, WithholdKind::Drained, "b:1", withholding(2));
    withhold(&mut directory, WithholdKind::Ejected, "a", withholding(2));
    let found = |directory: &Directory| counts(directory, &by(Balance::RoundRobin), 50).into_keys().collect::<Vec<_>>();
    assert_eq!(found(&directory), ["aa:1"]);
    for late in ["a:3", "b:1", "b:2"] {
        add(&mut directory, late, |_| {});
    }
    add(&mut directory, "a:1", |it| it.weight = 7);
    assert_eq!(found(&directory), ["aa:1", "b:2"]);
    let drained =
        directory.instances("db").filter(|(_, it)| it.withheld.drained.is_some() && it.withheld.ejected.is_none());
    assert_eq!(drained.count(), 4);
    withhold(&mut directory, WithholdKind::Drained, "a", None);
    assert_eq!(found(&directory), ["a:1", "a:2", "a:3", "aa:1", "b:2"]);
}

#[test]
fn a_master_that_is_drained_gets_no_calls_and_the_older_version_does() {
    let (store, publisher) = store();
    publisher.publish(vec![join("m", &["mail@1.0.0"], 0), join("n", &["mail@2.0.0", "log"], 0)]);
    let withhold = |kind, withholding| {
        let before = store.snapshot().revision();
        store.withhold(&[Withhold { service: "mail".into(), target: "n".into(), kind, withholding }]);
        store.snapshot().revision() - before
    };
    assert_eq!(withhold(WithholdKind::Drained, withholding(2)), 1);
    assert_eq!(withhold(WithholdKind::Drained, withholding(2)), 0, "it is so");
    assert_eq!(chosen(&store, "mail", &Query::default()), Ok("m".into()));
    assert_eq!(chosen(&store, "log", &Query::default()), Ok("n".into()), "that is another service");
    let newest = Query { version: Some("^2".parse().expect("a requirement")), ..Query::default() };
    assert_eq!(chosen(&store, "mail", &newest), Err(NoMaster::NoneConnected("mail".into())));
    publisher.publish(vec![Change::Leave("n".into())]);
    publisher.publish(vec![join("n", &["mail@2.0.0"], 0)]);
    assert_eq!(chosen(&store, "mail", &Query::default()), Ok("m".into()), "also when it has come back");
    store.freeze();
    assert_eq!(withhold(WithholdKind::Drained, None), 0, "a sidecar that stops leaves all as it is");
}
