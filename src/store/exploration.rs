//! Whatever the order in which the store is written and watched, a watcher is woken for what it has not seen yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use shuttle::{future, thread};

use super::*;
use crate::model::{Change, Node, Stat};
use crate::sync::explore;

/// The last number written to each path.
type Tree = BTreeMap<NodePath, i64>;

/// What a watcher saw at each revision.
type Held = Vec<(Revision, Tree)>;

/// A way of following everything below a path, until all numbers have arrived.
type Follow = fn(Arc<Store>, Revision, NodePath) -> BoxFuture<'static, Held>;

const ROOTS: [&str; 2] = ["/a", "/b"];
const LAST: i64 = 3;

#[test]
fn a_watcher_is_woken_for_every_change_and_sees_no_hole() {
    explore(|| follow(|store, since, below| Box::pin(subscribed_first(store, since, below))));
}

#[test]
#[should_panic(expected = "deadlock")]
fn who_looks_before_subscribing_sleeps_for_ever() {
    explore(|| follow(|store, since, below| Box::pin(looked_first(store, since, below))));
}

#[test]
#[should_panic(expected = "a hole")]
fn who_looks_for_the_revision_after_the_changes_misses_some() {
    explore(|| follow(|store, since, below| Box::pin(looked_twice(store, since, below))));
}

/// Two threads write, each as one of the sources, while three follow.
fn follow(way: Follow) {
    let feeds = ROOTS.map(|root| Feed::of_nodes(root, "file", vec![path(root)]));
    let store = Store::new(&Config::default(), feeds.into(), Arc::default());
    let start = store.snapshot().revision();
    let below = ["/", "/a", "/b"].map(path);
    let watchers = below.clone().map(|below| (below.clone(), future::spawn(way(store.clone(), start, below))));
    let writers = [0, 1].map(|feed| {
        let publisher = store.publisher(feed);
        thread::spawn(move || write(&publisher, &path(ROOTS[feed])))
    });
    let mut written: Vec<_> = writers.into_iter().flat_map(|writer| writer.join().expect("a writer")).collect();
    written.sort();
    let revisions: Vec<Revision> = written.iter().map(|(revision, ..)| *revision).collect();
    assert_eq!(revisions, (start + 1..=start + revisions.len() as u64).collect::<Vec<_>>());
    for (below, watcher) in watchers {
        for (revision, held) in future::block_on(watcher).expect("a watcher") {
            let until = written.iter().take_while(|(of, ..)| *of <= revision);
            let until = until.filter(|(_, path, _)| path.is_under(&below));
            let expected: Tree = until.map(|(_, path, number)| (path.clone(), *number)).collect();
            assert_eq!(held, expected, "a hole at {revision}");
        }
    }
}

/// Writes the numbers one by one; returns the revision of each.
fn write(publisher: &Publisher, at: &NodePath) -> Vec<(Revision, NodePath, i64)> {
    let write = |number: i64| {
        let node = Node { stat: Stat { mzxid: number, ..Stat::default() }, ..Node::default() };
        (publisher.publish(vec![Change::Put(at.clone(), Arc::new(node))]), at.clone(), number)
    };
    (1..=LAST).map(write).collect()
}

/// As the endpoint does.
async fn subscribed_first(store: Arc<Store>, mut since: Revision, below: NodePath) -> Held {
    let subscription = store.subscribe(std::slice::from_ref(&below));
    let (mut held, mut tree) = (Held::new(), Tree::new());
    while !is_last(&tree, &below) {
        since = told(&store, since, &below, &mut tree);
        held.push((since, tree.clone()));
        if !is_last(&tree, &below) {
            subscription.changed().await;
        }
    }
    held
}

async fn looked_first(store: Arc<Store>, mut since: Revision, below: NodePath) -> Held {
    let mut tree = Tree::new();
    loop {
        since = told(&store, since, &below, &mut tree);
        if is_last(&tree, &below) {
            return vec![(since, tree)];
        }
        store.subscribe(std::slice::from_ref(&below)).changed().await;
    }
}

async fn looked_twice(store: Arc<Store>, mut since: Revision, below: NodePath) -> Held {
    let subscription = store.subscribe_to_revisions();
    let (mut held, mut tree) = (Held::new(), Tree::new());
    let last = since + ROOTS.len() as u64 * LAST as u64;
    loop {
        told(&store, since, &below, &mut tree);
        future::yield_now().await;
        since = store.snapshot().revision();
        held.push((since, tree.clone()));
        if since == last {
            return held;
        }
        subscription.changed().await;
    }
}

/// Reads and takes in what is new; returns the revision up to which that is.
fn told(store: &Store, since: Revision, below: &NodePath, tree: &mut Tree) -> Revision {
    let limit = PageLimit { changes: 100, bytes: 100_000 };
    let ChangesSince::Known { changes, upto } =
        store.snapshot().changes_since(since, std::slice::from_ref(below), limit)
    else {
        panic!("all since {since} is known");
    };
    assert!(upto >= since);
    tree.extend(changes.into_iter().map(|(path, _, node)| (path, node.expect("nothing is deleted").stat.mzxid)));
    upto
}

fn is_last(tree: &Tree, below: &NodePath) -> bool {
    ROOTS.into_iter().map(path).filter(|path| path.is_under(below)).all(|path| tree.get(&path) == Some(&LAST))
}

fn path(text: &str) -> NodePath {
    NodePath::parse(text).expect(text)
}
