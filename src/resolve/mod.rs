//! From a service's name to one master that is alive.

mod requirement;

use std::collections::BTreeMap;
use std::sync::Arc;

use semver::Version;
use xxhash_rust::xxh3::Xxh3;

pub use self::requirement::{NoRequirement, Requirement};
use crate::model::shortened;
use crate::store::{Directory, InstanceSet, Instances, MasterEntry, Provider};
use crate::task::random_below;

/// So often one is drawn at random before all are looked through for those that will do.
const DRAWS: usize = 16;

/// How a master is chosen among those that offer a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Of two random ones, the one with fewer calls under way.
    #[default]
    LeastOutstanding,
    RoundRobin,
    Random,
    /// The same one for the same key, as long as it is there.
    Key(String),
}

/// What a master must be to be chosen, and how it is.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub version: Option<Requirement>,
    /// Metadata that the service must have.
    pub metadata: BTreeMap<String, String>,
    pub balance: Balance,
    /// Masters that were tried already.
    pub exclude: Vec<Arc<str>>,
}

/// Why there is no master to call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMaster {
    #[error("no master has ever offered the service `{0}`")]
    Unknown(String),
    #[error("no master that offers the service `{0}` is alive")]
    NoneAlive(String),
    #[error("no master offers the service `{0}` in a version that meets {1}")]
    NoVersion(String, String),
    #[error("every master that offers the service `{0}` has been tried")]
    AllTried(String),
    #[error("no master that is connected offers the service `{0}` with {1}")]
    NoMetadata(String, String),
    #[error("no master that offers the service `{0}` is connected")]
    NoneConnected(String),
}

/// The metadata as they are written on a command line, cut where they are long.
fn in_words(metadata: &BTreeMap<String, String>) -> String {
    const MOST: usize = 200;
    let words = metadata.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ");
    shortened(&words, MOST).into_owned()
}

/// A master that offers `service`, by its name without a version: of the newest version that will do. One that is
/// silent is chosen only where no other can be had.
pub fn choose(directory: &Directory, service: &str, query: &Query) -> Result<Arc<MasterEntry>, NoMaster> {
    let name = || service.to_owned();
    let Some(instances) = directory.instances_of(service) else {
        let was_offered = directory.was_offered(service);
        return Err(if was_offered { NoMaster::NoneAlive(name()) } else { NoMaster::Unknown(name()) });
    };
    let mut met = false;
    for is_there in [MasterEntry::is_answering, MasterEntry::is_connected] {
        for (_, set) in candidates(instances, query.version.as_ref()) {
            met = true;
            let will_do = |Provider { id, instances }: &Provider| {
                // What is no master is called by its clients.
                let entry = directory.master(id).filter(|_| !query.exclude.contains(id));
                let entry = entry.filter(|entry| is_there(entry))?;
                instances.iter().any(|it| it.has_metadata(&query.metadata)).then(|| entry.clone())
            };
            if let Some(entry) = pick(set, &query.balance, will_do) {
                return Ok(entry);
            }
        }
    }
    Err(match &query.version {
        Some(version) if !met => NoMaster::NoVersion(name(), version.to_string()),
        _ if !query.metadata.is_empty() && query.exclude.is_empty() => {
            NoMaster::NoMetadata(name(), in_words(&query.metadata))
        }
        _ if query.exclude.is_empty() => NoMaster::NoneConnected(name()),
        _ => NoMaster::AllTried(name()),
    })
}

/// One of a set that will do.
fn pick(
    set: &InstanceSet,
    balance: &Balance,
    will_do: impl Fn(&Provider) -> Option<Arc<MasterEntry>>,
) -> Option<Arc<MasterEntry>> {
    match balance {
        Balance::Random => any(set, will_do),
        Balance::RoundRobin => {
            // Others take turns meanwhile, and theirs may have been those of all that will do.
            let turn = (0..set.len()).find_map(|_| set.take_turn().and_then(&will_do));
            turn.or_else(|| any(set, will_do))
        }
        Balance::Key(key) => rendezvous(set.iter().filter_map(will_do), key),
        Balance::LeastOutstanding => {
            let first = any(set, &will_do)?;
            let is_other = |entry: &Arc<MasterEntry>| !Arc::ptr_eq(entry, &first);
            let second = if set.len() > 1 { any(set, |provider| will_do(provider).filter(is_other)) } else { None };
            Some(second.filter(|second| second.outstanding() < first.outstanding()).unwrap_or(first))
        }
    }
}

/// A random one that will do, each as likely as the others.
fn any(set: &InstanceSet, will_do: impl Fn(&Provider) -> Option<Arc<MasterEntry>>) -> Option<Arc<MasterEntry>> {
    let mut drawn = (0..DRAWS).filter_map(|_| set.get(random_below(set.len())));
    if let Some(entry) = drawn.find_map(&will_do) {
        return Some(entry);
    }
    let all: Vec<_> = set.iter().filter_map(will_do).collect();
    all.get(random_below(all.len())).cloned()
}

/// The instances of each version that meets the requirement, the newest first.
fn candidates<'a>(
    instances: &'a Instances,
    version: Option<&'a Requirement>,
) -> impl Iterator<Item = (&'a Version, &'a InstanceSet)> {
    instances.iter().rev().filter(move |(of, _)| version.is_none_or(|version| version.matches(of)))
}

/// The one whose weight is greatest: who comes or goes moves only its own keys.
fn rendezvous(entries: impl Iterator<Item = Arc<MasterEntry>>, key: &str) -> Option<Arc<MasterEntry>> {
    entries.max_by_key(|entry| weight(key, &entry.master.id))
}

/// XXH3 of the key, a zero byte and the id; PHP has it as `hash('xxh3', "$key\0$id")`.
fn weight(key: &str, id: &str) -> u64 {
    let mut hasher = Xxh3::new();
    [key.as_bytes(), b"\0", id.as_bytes()].iter().for_each(|part| hasher.update(part));
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Answers, Call, Change, Command, Decoder, Endpoint, Instance, InstanceState, Line, Master, NodePath, Provenance,
        Record, Refused, Service,
    };
    use crate::store::{Feed, Publisher, Store};
    use rmpv::Value;

    /// A line with so many calls under way.
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
        let query = Query { exclude: vec!["a".into()], ..Query::default() };
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
            chosen(&store, "mail", &Query { exclude: vec!["b".into(), "a".into()], ..Query::default() }),
            Ok("c".into())
        );
    }

    #[test]
    fn each_balance_keeps_its_word() {
        let (store, publisher) = store();
        publisher.publish(vec![join("a", &["mail"], 9), join("b", &["mail"], 0), join("c", &["mail"], 9)]);
        let snapshot = store.snapshot();
        let count = |balance: Balance, id: &str| {
            let query = Query { balance, ..Query::default() };
            let choose = || super::choose(snapshot.directory(), "mail", &query).expect("a master");
            (0..300).filter(|_| choose().master.id == id).count()
        };
        assert_eq!(count(Balance::RoundRobin, "a"), 100);
        assert!((50..150).contains(&count(Balance::Random, "b")));
        let idle = count(Balance::LeastOutstanding, "b");
        assert!((160..240).contains(&idle), "two thirds of all pairs have the idle one: {idle}");
        let keyed = ["a", "b", "c"].map(|id| count(Balance::Key("user 7".into()), id));
        assert_eq!(keyed.iter().max(), Some(&300), "a key stays with its master");
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
        // Who comes and goes begins nothing anew.
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
            let will_do = |provider: &Provider| {
                // As a thread beside this one would, so that all of its turns are those of one master.
                set.take_turn();
                snapshot.directory().master(&provider.id).filter(|_| &*provider.id != other).cloned()
            };
            assert!(pick(set, &Balance::RoundRobin, will_do).is_some(), "not {other}");
        }
    }

    #[test]
    fn the_weight_of_a_key_is_what_php_computes() {
        let weights = [("k", "m1"), ("k", "m2"), ("user-7", "a"), ("user-7", "ü")].map(|(key, id)| weight(key, id));
        let of_php = [0x9f3d_8ac8_823b_0710, 0xa671_bd8e_9051_b98e, 0x6f93_58d1_f000_3702, 0xc860_04a8_e979_c51a];
        assert_eq!(weights, of_php);
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
            let keyed = (0..20).map(|key| Balance::Key(key.to_string()));
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
        let (store, publisher) = store();
        publisher.publish(["a", "b", "c", "d"].map(|id| join(id, &["mail"], 0)).to_vec());
        let snapshot = store.snapshot();
        for balance in [Balance::LeastOutstanding, Balance::Random, Balance::RoundRobin] {
            let query = Query { balance, exclude: vec!["a".into()], ..Query::default() };
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
        let found: Vec<_> = directory
            .instances("mail")
            .map(|(id, it)| (id.as_ref(), it.endpoints.len(), it.master().is_some()))
            .collect();
        assert_eq!(found, [("10.0.0.1:25", 1, false), ("10.0.0.2:25", 1, false), ("m1", 0, true)]);
        let choose = |query: &Query| super::choose(&directory, "mail", query);
        for balance in [Balance::LeastOutstanding, Balance::RoundRobin, Balance::Random, Balance::Key("k".into())] {
            let chosen = choose(&Query { balance, ..Query::default() }).expect("a master");
            assert_eq!(chosen.master.id, "m1");
        }
        let tried = Query { exclude: vec!["m1".into()], ..Query::default() };
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
}
