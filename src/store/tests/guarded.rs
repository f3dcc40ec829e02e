//! Instances that vanish in numbers are held, at the revision at which they vanish.

use super::*;
use crate::config::Layers;
use crate::format;
use crate::guard::{self, Found, Which};
use crate::model::{Format, Instance, Record};

fn services(roots: &[&str]) -> Vec<format::Config> {
    let config = |(rank, root): (usize, &&str)| {
        let (root, format) = (path(root), Format::Raw);
        format::Config { root, format, rank, ..format::Config::default() }
    };
    roots.iter().enumerate().map(config).collect()
}

fn house(services: Vec<format::Config>) -> (Arc<Store>, Publisher) {
    house_within(services, guard::Config::default().window)
}

/// One whose guard has this window.
fn house_within(services: Vec<format::Config>, window: Duration) -> (Arc<Store>, Publisher) {
    let feed = Feed::of_nodes("zk", "zookeeper", vec![NodePath::root()]).with_services(services);
    let config = Config { guard: guard::Config { window, ..guard::Config::default() }, ..Config::default() };
    let store = Store::new(&config, vec![feed], Arc::default());
    let publisher = store.publisher(0);
    (store, publisher)
}

/// Nodes of a service, each with its own address.
fn come(parent: &str, numbers: std::ops::Range<usize>) -> Vec<Change> {
    numbers.map(|number| put(&format!("{parent}/{number}"), &format!("10.0.0.{number}:80"))).collect()
}

fn go(parent: &str, numbers: std::ops::Range<usize>) -> Vec<Change> {
    numbers.map(|number| delete(&format!("{parent}/{number}"))).collect()
}

pub(super) fn instances(store: &Store, service: &str) -> Vec<Instance> {
    store.snapshot().directory().instances(service).map(|(_, instance)| instance.clone()).collect()
}

/// How many instances a service has, and how many of them are held.
pub(super) fn count(store: &Store, service: &str) -> (usize, usize) {
    let all = instances(store, service);
    let held = all.iter().filter(|instance| instance.held.is_some()).count();
    let snapshot = store.snapshot();
    let in_sets = snapshot.directory().instances_of(service).map_or(0, Instances::count_of_held);
    assert_eq!(in_sets, held);
    (all.len(), held)
}

#[test]
fn an_emptied_parent_holds_what_was_below_it_and_a_source_that_is_away_changes_nothing() {
    let (store, publisher) = house(services(&["/s"]));
    publisher.publish(come("/s/web", 0..10));
    let before = instances(&store, "web");
    publisher.feed().enter(FeedState::Down, "a read failed");
    assert_eq!(count(&store, "web"), (10, 0));
    let revision = publisher.publish(go("/s/web", 0..10));
    assert_eq!(count(&store, "web"), (10, 10));
    assert!(store.snapshot().node(&path("/s/web/0")).is_none(), "nodes are what the ensemble says");
    let unmarked = instances(&store, "web").into_iter().map(|it| Instance { held: None, ..it });
    assert_eq!(unmarked.collect::<Vec<_>>(), before, "but for the mark they are as they were");
    let refused: Vec<_> = (0..10).map(|number| (format!("10.0.0.{number}:80").into(), Found::Refused)).collect();
    assert_eq!(store.guard(|guard, _| guard.probed(&refused)), 10);
    assert_eq!(store.snapshot().revision(), revision + 1);
    let snapshot = store.snapshot();
    assert!(snapshot.directory().instances_of("web").is_none() && snapshot.directory().was_offered("web"));
    assert_eq!(store.guard(|guard, now| guard.pass(now)), 0);
    assert_eq!(store.snapshot().revision(), revision + 1, "nothing happened");
}

#[test]
fn what_another_node_registers_at_the_same_address_is_back() {
    let (store, publisher) = house(services(&["/s"]));
    publisher.publish(come("/s/web", 0..10));
    let moved = (0..10).map(|number| put(&format!("/s/web/new-{number}"), &format!("10.0.0.{number}:80")));
    publisher.publish(go("/s/web", 0..10).into_iter().chain(moved.clone()).collect::<Vec<_>>());
    assert_eq!(count(&store, "web"), (10, 0), "all in one revision");
    publisher.publish((0..10).map(|number| delete(&format!("/s/web/new-{number}"))).collect::<Vec<_>>());
    assert_eq!(count(&store, "web"), (10, 10));
    publisher.publish(moved.take(7).collect::<Vec<_>>());
    assert_eq!(count(&store, "web"), (10, 3));
}

#[test]
fn a_service_in_two_roots_loses_what_neither_registers() {
    let mut two = services(&["/a", "/b"]);
    let (store, publisher) = house(two.clone());
    publisher.publish(come("/a/web", 0..10).into_iter().chain(come("/b/web", 0..8)).collect::<Vec<_>>());
    publisher.publish(go("/a/web", 0..10));
    assert_eq!(count(&store, "web"), (10, 10), "what the other registers is lost to the first all the same");
    publisher.publish(go("/b/web", 0..8));
    assert_eq!(count(&store, "web"), (10, 10));

    let (store, publisher) = house(two.clone());
    publisher.publish(come("/a/web", 0..10).into_iter().chain(come("/b/web", 0..8)).collect::<Vec<_>>());
    publisher.publish(go("/b/web", 0..8).into_iter().chain(go("/a/web", 0..10)).collect::<Vec<_>>());
    assert_eq!(count(&store, "web"), (10, 10), "in one revision all are of the first");
    publisher.publish(come("/b/web", 0..9));
    assert_eq!(count(&store, "web"), (10, 10), "the other one does not bring them back");
    publisher.publish(come("/a/web", 0..2));
    assert_eq!(count(&store, "web"), (10, 8));
    publisher.publish(go("/b/web", 3..9));
    assert_eq!(store.guard(|guard, _| guard.release("web", Which::All)), 8);
    assert_eq!(count(&store, "web"), (3, 0), "what the other one registers is listed then");
    publisher.publish(come("/b/web", 3..9));
    publisher.publish(go("/b/web", 2..9));
    assert_eq!(count(&store, "web"), (9, 7), "and held for itself");
    publisher.publish(come("/a/web", 3..9));
    assert_eq!(count(&store, "web"), (9, 1), "an earlier root brings back what a later one lost");

    two[1].guard = false;
    let (store, publisher) = house(two);
    publisher.publish(come("/a/web", 0..5).into_iter().chain(come("/b/web", 5..10)).collect::<Vec<_>>());
    publisher.publish(go("/b/web", 5..10));
    assert_eq!(count(&store, "web"), (5, 0), "what is exempt is no loss");
    publisher.publish(go("/a/web", 0..5));
    assert_eq!(count(&store, "web"), (5, 5));
}

#[test]
fn instances_below_another_root_change_nothing_about_what_is_held_below_the_first() {
    let fakes = |numbers: std::ops::Range<usize>| {
        numbers.map(|number| put(&format!("/x/web/{number}"), &format!("127.0.0.{number}:80"))).collect::<Vec<_>>()
    };
    let (store, publisher) = house(services(&["/s", "/x"]));
    publisher.publish(Batch::whole(come("/s/web", 0..6)));
    publisher.publish(fakes(0..5));
    publisher.publish(go("/x/web", 0..5));
    for number in 0..6 {
        publisher.publish(go("/s/web", number..number + 1));
        publisher.publish(come("/s/web", number + 10..number + 11));
    }
    assert_eq!(count(&store, "web"), (11, 5), "the fakes alone");
    publisher.publish(fakes(0..11));
    publisher.publish(go("/s/web", 10..16));
    assert_eq!(count(&store, "web"), (17, 6), "they are no reason to let go of the others");
    let json = |number: usize| format!(r#"{{"host":"10.0.0.{number}","port":80,"version":"9"}}"#);
    publisher.publish((0..8).map(|number| put(&format!("/x/db/{number}"), &json(number))).collect::<Vec<_>>());
    publisher.publish(come("/s/db", 0..8));
    publisher.publish(go("/s/db", 0..8));
    assert_eq!(count(&store, "db"), (16, 8), "that others claim their addresses does not make them others");

    let guard = Config { guard: guard::Config { max_held: 16, ..guard::Config::default() }, ..Config::default() };
    let feed = Feed::of_nodes("zk", "zookeeper", vec![NodePath::root()]).with_services(services(&["/s", "/x"]));
    let store = Store::new(&guard, vec![feed], Arc::default());
    let publisher = store.publisher(0);
    publisher.publish(fakes(0..50));
    publisher.publish(go("/x/web", 0..50));
    assert_eq!(count(&store, "web"), (12, 12), "what both roots share, and its own part");
    publisher.publish(come("/s/mail", 0..5));
    publisher.publish(go("/s/mail", 0..5));
    assert_eq!(count(&store, "mail"), (4, 4));
}

/// A node of a service at the address with this number.
fn at(node: &str, number: usize, version: u64, weight: u32) -> Change {
    put(node, &format!(r#"{{"host":"10.0.0.{number}","port":80,"version":"{version}","weight":{weight}}}"#))
}

#[test]
fn a_claim_to_the_address_of_a_held_instance_below_a_later_root_neither_ends_its_hold_nor_replaces_it() {
    let (store, publisher) = house(services(&["/s", "/x"]));
    let of =
        |root: &str, weight: u32| (0..10).map(|it| at(&format!("{root}/web/{it}"), it, 1, weight)).collect::<Vec<_>>();
    let weights = || instances(&store, "web").iter().map(|it| it.weight).collect::<Vec<_>>();
    publisher.publish(of("/s", 7));
    publisher.publish(go("/s/web", 0..10));
    publisher.publish(of("/x", 900));
    assert_eq!((count(&store, "web"), weights()), ((10, 10), vec![7; 10]));
    publisher.publish(of("/x", 901));
    publisher.publish(go("/x/web", 0..10));
    assert_eq!((count(&store, "web"), weights()), ((10, 10), vec![7; 10]));
    publisher.publish(go("/x/web", 0..10).into_iter().chain(of("/x", 902)).collect::<Vec<_>>());
    assert_eq!((count(&store, "web"), weights()), ((10, 10), vec![7; 10]));
    let refused: Vec<_> = (0..5).map(|number| (format!("10.0.0.{number}:80").into(), Found::Refused)).collect();
    store.guard(|guard, _| guard.probed(&refused));
    assert_eq!((count(&store, "web"), weights()), ((10, 5), [[902; 5], [7; 5]].concat()), "it is theirs afterwards");
    publisher.publish(of("/s", 8));
    assert_eq!((count(&store, "web"), weights()), ((10, 0), vec![8; 10]));
}

#[test]
fn claims_to_its_addresses_below_a_later_root_keep_no_instance_of_the_first_from_being_held() {
    for is_apart in [false, true] {
        let (store, publisher) = house(services(&["/s", "/x"]));
        publisher.publish((0..10).map(|it| at(&format!("/s/web/{it}"), it, 1, 7)).collect::<Vec<_>>());
        publisher.publish((0..6).map(|it| at(&format!("/x/web/{it}"), it, 1, 900)).collect::<Vec<_>>());
        let step = if is_apart { 1 } else { 10 };
        for from in (0..10).step_by(step) {
            publisher.publish(go("/s/web", from..from + step));
        }
        assert_eq!(count(&store, "web"), (10, 10));
        assert!(instances(&store, "web").iter().all(|it| it.weight == 7), "{is_apart}");
        publisher.publish(go("/x/web", 0..6));
        assert_eq!(count(&store, "web"), (10, 10));
    }
}

#[test]
fn many_variants_below_a_later_root_do_not_make_a_new_version_in_place_a_loss() {
    let (store, publisher) = house(services(&["/s", "/x"]));
    let deploy =
        |version: usize| (0..10).map(move |it| at(&format!("/s/web/{}", version * 10 + it), it, version as u64, 7));
    let made_up = (0..10).flat_map(|it| (0..300).map(move |n| at(&format!("/x/web/{it}-{n}"), it, 1_000 + n, 7)));
    publisher.publish(made_up.chain(deploy(8)).collect::<Vec<_>>());
    publisher.publish(deploy(9).collect::<Vec<_>>());
    publisher.publish(go("/s/web", 80..90));
    publisher.publish(go("/s/web", 90..91));
    assert_eq!(count(&store, "web"), (3_009, 0), "one went alone");
    publisher.publish(go("/s/web", 91..100));
    assert_eq!(count(&store, "web"), (3_010, 10));
}

/// What a random node below a root becomes: with an address, a version and a weight, or deleted.
#[derive(Clone)]
struct Random(String, Option<(usize, u64, u32)>);

impl Random {
    fn below(root: &str, random: &mut fastrand::Rng) -> Self {
        let (service, node) = (["db", "web", "web"][random.usize(..3)], random.usize(..12));
        let there = random.bool().then(|| (random.usize(..8), random.u64(1..3), random.u32(1..9)));
        Self(format!("{root}/{service}/{node}"), there)
    }

    fn change(&self) -> Change {
        self.1.map_or_else(|| delete(&self.0), |(number, version, weight)| at(&self.0, number, version, weight))
    }
}

#[test]
fn whatever_is_written_below_a_later_root_what_the_first_one_decides_stays_the_same() {
    for seed in 0..20 {
        let random = &mut fastrand::Rng::with_seed(seed);
        let both = [house(services(&["/s", "/x"])), house(services(&["/s", "/x"]))];
        let own = |(store, _): &(Arc<Store>, Publisher)| {
            let mut all: Vec<_> = ["db", "web"].iter().flat_map(|service| instances(store, service)).collect();
            all.retain(|it| matches!(&it.provenance[0].record, Record::Node(node) if node.is_under(&path("/s"))));
            let of =
                |it: Instance| (it.address(), it.service, it.version, it.weight, it.held.map(|held| held.passed_over));
            all.into_iter().map(of).collect::<Vec<_>>()
        };
        let mut ours: Vec<_> = (0..8).map(|it| Random(format!("/s/web/{it}"), Some((it, 1, 100)))).collect();
        for step in 0..60 {
            let theirs: Vec<_> = (0..random.usize(..8)).map(|_| Random::below("/x", random)).collect();
            let others = theirs.split_at(random.usize(..=theirs.len()));
            let publish = |publisher: &Publisher, changes: &[Random]| {
                publisher.publish(changes.iter().map(Random::change).collect::<Vec<_>>());
            };
            publish(&both[0].1, &ours);
            publish(&both[1].1, others.0);
            publish(&both[1].1, &[&ours[..], others.1].concat());
            let found = [Found::Refused, Found::Silent, Found::Answering][random.usize(..3)];
            let found = [(format!("10.0.0.{}:80", random.usize(..8)).into(), found)];
            let (is_later, is_probed) = (random.u8(..8) == 0, random.u8(..4) == 0);
            for (store, _) in &both {
                let later = Now { moment: Moment::now() + Duration::from_secs(31), wall: 0 };
                store.guard(|guard, _| if is_probed { guard.probed(&found) } else { Vec::new() });
                store.guard(|guard, _| if is_later { guard.pass(later) } else { Vec::new() });
                count(store, "web");
            }
            assert_eq!(own(&both[0]), own(&both[1]), "seed {seed}, step {step}");
            ours = match random.u8(..6) {
                0 => (0..12).map(|node| Random(format!("/s/web/{node}"), None)).collect(),
                _ => (0..random.usize(..9)).map(|_| Random::below("/s", random)).collect(),
            };
        }
    }
}

#[test]
fn what_no_guard_is_for_is_no_stranger_where_it_was_and_none_where_it_is_no_more() {
    let mut two = services(&["/b", "/a"]);
    two[0].guard = false;
    let (store, publisher) = house_within(two, Duration::ZERO);
    publisher.publish(come("/a/web", 0..10).into_iter().chain(come("/b/db", 0..3)).collect::<Vec<_>>());
    publisher.publish(go("/b/db", 0..3));
    publisher.publish(go("/a/web", 0..10));
    publisher.publish(come("/b/db", 0..3));
    let pass = |seconds| {
        let later = Now { moment: Moment::now() + Duration::from_secs(seconds), wall: 0 };
        store.guard(|guard, _| guard.pass(later));
    };
    pass(31);
    assert_eq!((count(&store, "web"), count(&store, "db")), ((10, 10), (3, 0)), "it was there");
    publisher.publish(come("/b/new", 5..7));
    publisher.publish(go("/b/new", 5..6));
    pass(31);
    assert_eq!(count(&store, "web"), (9, 9), "one of two went");
}

#[test]
fn what_becomes_of_another_version_or_group_at_its_address_is_no_loss() {
    let (store, publisher) = house(services(&["/s"]));
    let json = |version: &str, group: &str| {
        let node = |number| {
            let data = format!(r#"{{"host":"10.0.0.{number}","port":80,"version":{version:?},"group":{group:?}}}"#);
            put(&format!("/s/web/{number}"), &data)
        };
        (0..10).map(node).collect::<Vec<_>>()
    };
    for (version, group) in [("1", ""), ("2", ""), ("2", "blue"), ("3", "blue")] {
        publisher.publish(json(version, group));
        assert_eq!(count(&store, "web"), (10, 0), "{version} {group}");
        let are_all = instances(&store, "web").iter().all(|it| it.version.major.to_string() == version);
        assert!(are_all);
    }
    publisher.publish(go("/s/web", 0..10));
    publisher.publish(json("4", ""));
    assert_eq!(count(&store, "web"), (20, 10));
    let later = Now { moment: Moment::now() + Duration::from_secs(31), wall: 0 };
    store.guard(|guard, _| guard.pass(later));
    assert_eq!(count(&store, "web"), (10, 0), "they are there, as another version");
}

#[test]
fn of_a_root_that_was_lost_unseen_small_services_are_held_too_and_of_one_that_stands_not() {
    let empty = |stays: usize, unseen: bool| {
        let (store, publisher) = house(services(&["/s", "/t"]));
        let small = (0..10).flat_map(|service| come(&format!("/s/small-{service}"), service * 2..service * 2 + 2));
        publisher.publish(small.chain(come("/t/other", 0..50)).collect::<Vec<_>>());
        let gone = (stays..10).flat_map(|service| go(&format!("/s/small-{service}"), service * 2..service * 2 + 2));
        publisher.publish(Batch { unseen, ..Batch::whole(gone.collect()) });
        (0..10).map(|service| count(&store, &format!("small-{service}")).1).sum::<usize>()
    };
    assert_eq!(empty(0, true), 20);
    assert_eq!(empty(4, true), 12);
    assert_eq!(empty(5, true), 0, "half of the root is there");
    assert_eq!(empty(4, false), 12, "nor is it believed that most of a root is gone where each was told of");
    assert_eq!(empty(5, false), 0);
}

/// Ten services of three instances each, which are registered longer than for the window.
fn small_services() -> (Arc<Store>, Publisher, impl Fn(&Store) -> (usize, usize)) {
    let (store, publisher) = house(services(&["/s"]));
    let all = (0..10).flat_map(|service| come(&format!("/s/small-{service}"), service * 3..service * 3 + 3));
    publisher.publish(Batch { unseen: true, ..Batch::whole(all.collect()) });
    let count = |store: &Store| {
        let counts = (0..10).map(|service| count(store, &format!("small-{service}")));
        counts.fold((0, 0), |(all, held), (more, of_held)| (all + more, held + of_held))
    };
    (store, publisher, count)
}

#[test]
fn small_services_that_lose_most_of_their_root_one_after_the_other_are_held_also_those_that_went_first() {
    let (store, publisher, count) = small_services();
    let one = |number: usize| go(&format!("/s/small-{}", number / 3), number..number + 1);
    for number in 0..15 {
        publisher.publish(one(number));
        assert_eq!(count(&store), (29 - number, 0), "half is left");
    }
    publisher.publish(one(15));
    assert_eq!(count(&store), (30, 16), "fewer than half are left");
    publisher.publish(one(16));
    assert_eq!(count(&store), (30, 17));
    assert_eq!(store.guard(|guard, _| guard.release("small-0", Which::All)), 3, "a person says so");
    assert_eq!(count(&store), (27, 14));
    publisher.publish(
        (0..6)
            .flat_map(|service| come(&format!("/s/small-{service}"), service * 3..service * 3 + 3))
            .collect::<Vec<_>>(),
    );
    assert_eq!(count(&store), (30, 0), "all are back");
}

#[test]
fn a_root_whose_services_are_all_replaced_or_of_which_there_are_few_loses_nothing() {
    let (store, publisher, count) = small_services();
    for service in 0..10 {
        let (name, from) = (format!("/s/small-{service}"), service * 3);
        let new = (0..3).map(|number| put(&format!("{name}/new-{number}"), &format!("10.0.1.{}:80", from + number)));
        publisher.publish(new.collect::<Vec<_>>());
    }
    assert_eq!(count(&store), (60, 0));
    (0..10).for_each(|service| _ = publisher.publish(go(&format!("/s/small-{service}"), service * 3..service * 3 + 3)));
    assert_eq!(count(&store), (30, 0), "new ones first");

    let (store, publisher) = house(services(&["/s"]));
    let few = come("/s/a", 0..2).into_iter().chain(come("/s/b", 2..4));
    publisher.publish(Batch { unseen: true, ..Batch::whole(few.collect()) });
    publisher.publish(go("/s/a", 0..2).into_iter().chain(go("/s/b", 2..4)).collect::<Vec<_>>());
    assert_eq!([self::count(&store, "a"), self::count(&store, "b")], [(0, 0), (0, 0)]);
}

#[test]
fn an_operator_has_what_is_held_let_go_and_a_store_that_is_frozen_stays() {
    let (store, publisher) = house(services(&["/s"]));
    publisher.publish(come("/s/web", 0..10));
    publisher.publish(go("/s/web", 0..10));
    let release = |store: &Store, which: &[String]| store.guard(|guard, _| guard.release("web", Which::At(which)));
    assert_eq!(release(&store, &["10.0.0.1:80".into(), "10.0.0.2:80".into()]), 2);
    assert_eq!(count(&store, "web"), (8, 8));
    store.freeze();
    assert_eq!(release(&store, &["10.0.0.3:80".into()]), 0);
    assert_eq!(count(&store, "web"), (8, 8));
}

/// A store of roots that are configured so.
pub(super) fn configured(services: &[&str]) -> (Arc<Store>, Publisher) {
    configured_within(services, &Config::default())
}

pub(super) fn configured_within(services: &[&str], config: &Config) -> (Arc<Store>, Publisher) {
    let services: String = services.iter().map(|it| format!("[[services]]\n{it}\n")).collect();
    let text = format!("thrift.unix = '/roster.sock'\n[[zookeeper]]\nconnect = 'zk'\nroots = ['/']\n{services}");
    let layers = Layers { file: Some(("roster.toml".into(), text)), ..Layers::default() };
    let services = crate::config::Config::load(&layers).expect("valid").services_below(&[NodePath::root()]);
    let feed = Feed::of_nodes("zk", "zookeeper", vec![NodePath::root()]).with_services(services);
    let store = Store::new(config, vec![feed], Arc::default());
    let publisher = store.publisher(0);
    (store, publisher)
}

/// Ten instances of an application that offers an interface, and the node that says so.
fn applications(mapping: &str) -> Vec<Change> {
    let node = |number| {
        let endpoints = r#"[{\"port\":80,\"protocol\":\"dubbo\"}]"#;
        let metadata = format!(r#"{{"dubbo.endpoints":"{endpoints}","dubbo.metadata.revision":"a"}}"#);
        let data = format!(r#"{{"address":"10.0.0.{number}","payload":{{"metadata":{metadata}}}}}"#);
        put(&format!("/services/shop/{number}"), &data)
    };
    (0..10).map(node).chain([put(mapping, "shop")]).collect()
}

fn providers() -> impl Iterator<Item = String> {
    let at = |number| format!("dubbo%3A%2F%2F10.0.0.{number}%3A80%2Fi%3Fapplication%3Dshop%26version%3D1.0");
    (0..10).map(move |number| format!("/dubbo/i/providers/{}", at(number)))
}

#[test]
fn providers_with_a_version_are_held_beside_no_application_whatever_the_order_and_the_writers_of_their_roots() {
    let [dubbo, services] =
        ["root = '/dubbo'\nformat = 'dubbo'", "root = '/services'\nformat = 'dubbo-application'"].map(str::to_owned);
    for (is_dubbo_first, are_same) in [(true, true), (false, true), (true, false), (false, false)] {
        let writers = if are_same { "\nwriters = 'shop'" } else { "" };
        let mut roots = [dubbo.clone() + writers, services.clone() + writers];
        if !is_dubbo_first {
            roots.reverse();
        }
        let (store, publisher) = configured(&[&roots[0], "root = '/between'\nformat = 'raw'", &roots[1]]);
        publisher.publish(applications("/dubbo/mapping/i"));
        let come = || providers().map(|it| put(&it, "")).collect::<Vec<_>>();
        publisher.publish(come());
        assert_eq!(count(&store, "i"), (10, 0));
        publisher.publish(providers().map(|it| delete(&it)).collect::<Vec<_>>());
        assert_eq!(count(&store, "i"), (10, 10), "{is_dubbo_first} {are_same}");
        let refused = [("10.0.0.3:80".into(), Found::Refused)];
        assert_eq!(store.guard(|guard, _| guard.probed(&refused)), 1);
        let registered = store.snapshot().directory().count_of_registered("i");
        assert_eq!((count(&store, "i"), registered), ((10, 9), 1), "it is the application's");
        publisher.publish(vec![delete("/services/shop/3"), delete("/services/shop/4")]);
        // With most of its root the application may be held too, until its address refuses again.
        store.guard(|guard, _| guard.probed(&refused));
        assert_eq!(count(&store, "i"), (9, 9));
        publisher.publish(come());
        assert_eq!(count(&store, "i"), (10, 0));
    }
}

#[test]
fn below_roots_of_the_same_writers_what_is_left_is_heard_at_once_and_they_share_what_one_may_have() {
    for (writers, last) in [(["web", "web"], ((10, 0), 0)), (["web", "others"], ((10, 10), 7))] {
        let root = |root: &str, writers: &str| format!("root = '/{root}'\nformat = 'raw'\nwriters = '{writers}'");
        let roots = [root("a", writers[0]), root("b", writers[1])];
        let (store, publisher) = configured(&[&roots[0], &roots[1]]);
        let of =
            |root: &str, weight| (0..10).map(|it| at(&format!("/{root}/web/{it}"), it, 1, weight)).collect::<Vec<_>>();
        publisher.publish([of("a", 7), of("b", 7)].concat());
        publisher.publish(go("/a/web", 0..10));
        publisher.publish(of("b", 0));
        assert_eq!((count(&store, "web"), instances(&store, "web")[0].weight), last, "{writers:?}");

        let few = guard::Config { max_held: 8, ..guard::Config::default() };
        let bounds = Config { max_instances: 12, guard: few, ..Config::default() };
        let (store, publisher) = configured_within(&[&roots[0], &roots[1]], &bounds);
        publisher.publish(come("/b/web", 0..15));
        let (listed, held) = if writers[0] == writers[1] { (12, 8) } else { (9, 6) };
        assert_eq!(count(&store, "web"), (listed, 0), "{writers:?}");
        let beyond = store.snapshot().directory().count_of_undecodable();
        assert_eq!(beyond, 15 - listed);
        publisher.publish(go("/b/web", 0..15));
        assert_eq!(count(&store, "web"), (held, held));
    }
}

#[test]
fn what_a_later_root_maps_to_an_application_is_of_its_own_and_takes_its_own_room() {
    let few = guard::Config { max_held: 12, ..guard::Config::default() };
    let roots = ["root = '/dubbo'\nformat = 'dubbo'", "root = '/services'\nformat = 'dubbo-application'"];
    let (store, publisher) = configured_within(
        &[roots[0], roots[1], "root = '/x'\nformat = 'dubbo'"],
        &Config { guard: few, ..Config::default() },
    );
    publisher.publish(applications("/dubbo/mapping/i"));
    let made_up = |number: usize| format!("/x/mapping/x{number}");
    publisher.publish((0..5).map(|it| put(&made_up(it), "shop")).collect::<Vec<_>>());
    publisher.publish(vec![put("/x/mapping/i", "shop")]);
    let listed = |service: &str| instances(&store, service).len();
    assert_eq!((listed("i"), listed("x0"), listed("x4")), (10, 10, 10));
    publisher.publish((0..5).map(|it| delete(&made_up(it))).collect::<Vec<_>>());
    publisher.publish(vec![delete("/x/mapping/i")]);
    assert_eq!(count(&store, "i"), (10, 0), "it is mapped still");
    let held = (0..5).map(|it| count(&store, &format!("x{it}")).1).sum::<usize>();
    assert_eq!(held, 8, "its own part, and what all share");
    publisher.publish((0..10).map(|it| delete(&format!("/services/shop/{it}"))).collect::<Vec<_>>());
    assert_eq!(count(&store, "shop").1 + count(&store, "i").1, 2, "the part of the application's root");
}

#[test]
fn a_claim_below_a_later_root_hides_no_interface_of_an_application_and_does_not_keep_it_from_being_held() {
    for version in ["", "9"] {
        let (store, publisher) = configured(&[
            "root = '/services'\nformat = 'dubbo-application'",
            "root = '/dubbo'\nformat = 'dubbo'",
            "root = '/x'\nformat = 'raw'",
        ]);
        let own = || {
            let all = instances(&store, "i").into_iter().filter(|it| it.weight > 0);
            let held: Vec<_> = all.map(|it| it.held.is_some()).collect();
            (held.len(), held.iter().filter(|is_held| **is_held).count())
        };
        let json = |number: usize| {
            format!(r#"{{"host":"10.0.0.{number}","port":80,"protocol":"dubbo","version":"{version}","weight":0}}"#)
        };
        let theirs: Vec<_> = (0..10).map(|it| put(&format!("/x/i/{it}"), &json(it))).collect();
        publisher.publish(theirs.clone());
        publisher.publish(applications("/dubbo/mapping/i"));
        assert_eq!(own(), (10, 0), "{version}");
        publisher.publish(go("/x/i", 0..10));
        publisher.publish(theirs);
        assert_eq!(own(), (10, 0), "{version}");
        publisher.publish((0..10).map(|it| delete(&format!("/services/shop/{it}"))).collect::<Vec<_>>());
        assert_eq!(own(), (10, 10), "{version}");
        publisher.publish(go("/x/i", 0..10));
        assert_eq!(own(), (10, 10), "{version}");
        publisher.publish(applications("/dubbo/mapping/i"));
        publisher.publish(providers().map(|it| put(&it, "")).collect::<Vec<_>>());
        assert_eq!(own(), (10, 0), "it yields to what the root that maps it says");
    }
}

#[test]
fn what_is_there_when_a_source_is_first_read_is_not_new_and_what_comes_later_replaces_what_goes() {
    let read = |count: usize| {
        let (store, publisher) = house(services(&["/s"]));
        let all = come("/s/web", 0..count);
        publisher.publish(Batch { unseen: true, ..Batch::whole(all) });
        (store, publisher)
    };
    let (store, publisher) = read(19);
    publisher.publish(go("/s/web", 0..10));
    assert_eq!(count(&store, "web"), (19, 10), "nine of nineteen");
    for unseen in [false, true] {
        let (store, publisher) = read(10);
        publisher.publish(Batch { unseen, ..Batch::from(come("/s/web", 10..19)) });
        publisher.publish(go("/s/web", 0..10));
        assert_eq!(count(&store, "web"), (9, 0), "nine in place of ten, {unseen}");
    }
}
