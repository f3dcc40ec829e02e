//! Instances that vanish in numbers are held, at the revision at which they vanish.

use super::*;
use crate::format;
use crate::guard::{self, Found, Which};
use crate::model::{Format, Instance};

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

fn instances(store: &Store, service: &str) -> Vec<Instance> {
    store.snapshot().directory().instances(service).map(|(_, instance)| instance.clone()).collect()
}

/// How many instances a service has, and how many of them are held.
fn count(store: &Store, service: &str) -> (usize, usize) {
    let all = instances(store, service);
    let held = all.iter().filter(|instance| instance.held.is_some()).count();
    let snapshot = store.snapshot();
    let in_sets = snapshot.directory().instances_of(service).map_or(0, count_of_held);
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
    assert_eq!(count(&store, "web"), (8, 0), "most are registered by the other");
    publisher.publish(go("/b/web", 0..8));
    assert_eq!(count(&store, "web"), (8, 8));

    let (store, publisher) = house(two.clone());
    publisher.publish(come("/a/web", 0..10).into_iter().chain(come("/b/web", 0..8)).collect::<Vec<_>>());
    publisher.publish(go("/b/web", 0..8).into_iter().chain(go("/a/web", 0..10)).collect::<Vec<_>>());
    assert_eq!(count(&store, "web"), (10, 10), "in one revision all are of the first");
    publisher.publish(come("/b/web", 0..9));
    assert_eq!(count(&store, "web"), (10, 1));
    publisher.publish(come("/a/web", 0..2));
    publisher.publish(go("/b/web", 3..9));
    assert_eq!(count(&store, "web"), (10, 7), "two of nine were passed on to the first");

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
    publisher.publish(come("/s/web", 0..6));
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

#[test]
fn what_no_guard_is_for_is_no_stranger_where_it_was_and_none_where_it_is_no_more() {
    let mut two = services(&["/a", "/b"]);
    two[1].guard = false;
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
    assert_eq!(empty(0, false), 0, "each was told of");
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
