//! What the store promises, without any source or client.

mod deferred;
mod guarded;
mod processes;
mod registered;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;

use super::*;
use crate::clock::Moment;
use crate::model::{
    Answers, Call, ChangeKind, Command, InstanceState, Line, Master, Node, NodePath, Refused, Service, Stat,
};

fn path(text: &str) -> NodePath {
    NodePath::parse(text).expect(text)
}

fn put(text: &str, data: &str) -> Change {
    let stat = Stat { mzxid: data.len() as i64, ..Stat::default() };
    Change::Put(path(text), Arc::new(Node { data: data.as_bytes().into(), stat }))
}

fn delete(text: &str) -> Change {
    Change::Delete(path(text))
}

fn store(history: usize) -> (Arc<Store>, Publisher) {
    let feed = Feed::of_nodes("test", "file", vec![NodePath::root()]);
    let store = Store::new(&Config { history, ..Config::default() }, vec![feed], Arc::default());
    let publisher = store.publisher(0);
    (store, publisher)
}

fn told(store: &Store, since: Revision, below: &str, changes: usize) -> Option<(Vec<(String, ChangeKind)>, Revision)> {
    match store.snapshot().changes_since(since, &[path(below)], PageLimit { changes, bytes: 10_000 }) {
        ChangesSince::Unknown => None,
        ChangesSince::Known { changes, upto } => {
            Some((changes.into_iter().map(|(path, kind, _)| (path.to_string(), kind)).collect(), upto))
        }
    }
}

#[test]
fn children_are_told_once_each_in_order() {
    let (store, publisher) = store(100);
    let paths = ["/", "/a", "/a/b", "/a/b/c", "/a/b/c/d", "/a/b/e", "/a/b-1", "/a/c", "/ab"];
    publisher.publish(paths.into_iter().map(|path| put(path, "x")).collect::<Vec<_>>());
    let snapshot = store.snapshot();
    let names = |parent: &str| snapshot.children(&path(parent)).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names("/"), ["a", "ab"]);
    assert_eq!(names("/a"), ["b", "b-1", "c"]);
    assert_eq!(names("/a/b"), ["c", "e"]);
    assert_eq!(names("/a/c"), [""; 0]);
    let root = path("/a/b");
    let below: Vec<_> = snapshot.subtree(&root, path("/a/b")).map(|(path, _)| path.as_str()).collect();
    assert_eq!(below, ["/a/b", "/a/b/c", "/a/b/c/d", "/a/b/e"]);
}

#[test]
fn a_publication_without_difference_makes_no_revision() {
    let (store, publisher) = store(100);
    let first = publisher.publish_whole(vec![put("/a", "1")]);
    assert_eq!(publisher.publish_whole(vec![put("/a", "1"), delete("/nowhere")]), first);
    assert_eq!(store.snapshot().revision(), first);
    assert_eq!(publisher.publish(vec![delete("/a")]), first + 1);
}

#[test]
fn what_is_filled_in_is_counted() {
    let (store, publisher) = store(100);
    publisher.publish(vec![put("/a", "1"), put("/a/b", "12"), put("/ab", "1")]);
    publisher.publish(vec![delete("/a/b"), put("/a", "123"), delete("/nowhere")]);
    assert_eq!(publisher.progress(), FeedProgress { nodes: 2, bytes: 9, ..FeedProgress::default() });
    assert!(store.snapshot().node(&path("/a/b")).is_none());
}

#[test]
fn a_watcher_is_told_every_change_once_as_it_is_now() {
    let (store, publisher) = store(100);
    let start = publisher.publish_whole(vec![put("/a", "1"), put("/b", "1")]);
    publisher.publish(vec![put("/a", "12"), put("/a/new", "1"), put("/a/brief", "1")]);
    publisher.publish(vec![delete("/b"), put("/a", "123")]);
    let end = publisher.publish(vec![delete("/a/brief")]);
    use ChangeKind::*;
    let all = [("/a", Changed), ("/a/new", Created), ("/a/brief", Deleted), ("/b", Deleted)];
    let all = all.map(|(path, kind)| (path.to_owned(), kind)).to_vec();
    assert_eq!(told(&store, start, "/", 100), Some((all, end)));
    assert_eq!(told(&store, start, "/b", 100), Some((vec![("/b".to_owned(), Deleted)], end)));
    assert_eq!(told(&store, end, "/", 100), Some((vec![], end)));
}

#[test]
fn a_node_deleted_and_created_again_is_changed() {
    let (store, publisher) = store(100);
    let start = publisher.publish(vec![put("/a", "1")]);
    publisher.publish(vec![delete("/a")]);
    let end = publisher.publish(vec![put("/a", "1")]);
    assert_eq!(told(&store, start, "/a", 9), Some((vec![("/a".to_owned(), ChangeKind::Changed)], end)));
}

#[test]
fn what_a_cut_reply_showed_too_early_is_taken_back() {
    let (store, publisher) = store(100);
    let start = publisher.publish(vec![put("/a", "1")]);
    publisher.publish(vec![delete("/a"), put("/b", "1")]);
    publisher.publish(vec![put("/a", "2")]);
    let (shown, upto) = told(&store, start, "/", 2).expect("known");
    assert_eq!(shown[0], ("/a".to_owned(), ChangeKind::Changed), "the newer /a is shown");
    publisher.publish(vec![delete("/a")]);
    let (changes, _) = told(&store, upto, "/", 2).expect("known");
    assert_eq!(changes, [("/a".to_owned(), ChangeKind::Deleted)]);
}

#[test]
fn a_limit_cuts_between_revisions_only() {
    let (store, publisher) = store(100);
    let start = store.snapshot().revision();
    let first = publisher.publish(vec![put("/a", "1"), put("/b", "1")]);
    let second = publisher.publish(vec![put("/c", "1")]);
    let (changes, upto) = told(&store, start, "/", 1).expect("known");
    assert_eq!((changes.len(), upto), (2, first), "a revision is told whole");
    let (changes, upto) = told(&store, upto, "/", 1).expect("known");
    assert_eq!((changes.len(), upto), (1, second));
}

#[test]
fn a_revision_too_large_to_tell_is_a_reset() {
    let (store, publisher) = store(100);
    let start = publisher.publish(vec![put("/a", "1")]);
    let middle = publisher.publish(vec![put("/small", "1")]);
    publisher.publish(vec![put("/big", &"x".repeat(20_000))]);
    assert_eq!(told(&store, start, "/", 100), Some((vec![("/small".to_owned(), ChangeKind::Created)], middle)));
    assert_eq!(told(&store, middle, "/", 100), None);
    assert!(told(&store, middle, "/small", 100).is_some());
}

#[test]
fn a_watcher_too_far_behind_or_from_the_future_is_reset() {
    let (store, publisher) = store(3);
    let start = publisher.publish(vec![put("/a", "1")]);
    for data in ["12", "123", "1234", "12345"] {
        publisher.publish(vec![put("/a", data)]);
    }
    assert_eq!(told(&store, start, "/", 9), None);
    assert!(told(&store, start + 1, "/", 9).is_some());
    assert_eq!(told(&store, store.snapshot().revision() + 1, "/", 9), None);
    assert_eq!(told(&store, 0, "/", 9), None);
    let before = store.snapshot().revision();
    publisher.publish((0..4).map(|i| put(&format!("/n{i}"), "1")).collect::<Vec<_>>());
    assert_eq!(told(&store, before, "/", 9), None, "a change larger than the history is a reset");
}

#[test]
fn what_only_counts_children_is_silent() {
    let (store, publisher) = store(100);
    let start = publisher.publish(vec![put("/a", "1")]);
    let stat = Stat { mzxid: 1, num_children: 1, pzxid: 7, ..Stat::default() };
    let end = publisher.publish(vec![Change::Put(path("/a"), Arc::new(Node { data: (*b"1").into(), stat }))]);
    assert_eq!(told(&store, start, "/", 9), Some((vec![], end)));
    assert_eq!(store.snapshot().node(&path("/a")).expect("a node").stat.pzxid, 7);
}

#[tokio::test]
async fn a_change_wakes_only_those_whom_it_concerns() {
    let (store, publisher) = store(100);
    let concerned = [store.subscribe(&[path("/a")]), store.subscribe(&[path("/a/b")]), store.subscribe(&[path("/")])];
    let other = store.subscribe(&[path("/a/c"), path("/ab")]);
    publisher.publish(vec![put("/a/b", "1")]);
    for one in &concerned {
        one.changed().await;
    }
    assert!(futures::FutureExt::now_or_never(other.changed()).is_none());
}

#[test]
fn an_age_grows_without_anybody_saying_so() {
    let feed = Feed::of_nodes("test", "file", vec![NodePath::root()]);
    assert_eq!(feed.age(), None);
    feed.enter(FeedState::Live, "");
    feed.prove(Moment::now());
    assert_eq!(feed.age(), Some(Duration::ZERO));
    feed.enter(FeedState::Down, "gone");
    std::thread::sleep(Duration::from_millis(3));
    assert!(feed.age() > Some(Duration::ZERO));
    feed.enter(FeedState::Live, "");
    assert_eq!(feed.age(), Some(Duration::ZERO));
}

#[test]
fn a_state_entered_again_in_the_same_words_is_not_new() {
    let feed = Feed::of_nodes("test", "file", vec![NodePath::root()]);
    feed.set_session(Some("0x1".into()));
    let entered = [(FeedState::Live, ""), (FeedState::Down, ""), (FeedState::Down, "gone"), (FeedState::Down, "gone")];
    assert_eq!(entered.map(|(state, detail)| feed.enter(state, detail)), [true, true, true, false]);
    assert_eq!((feed.state(), feed.detail(), feed.session()), (FeedState::Down, "gone".into(), Some("0x1".into())));
}

#[test]
fn readers_see_whole_revisions_while_a_writer_writes() {
    let (store, publisher) = store(100);
    let pair = |n: usize| vec![put("/a", &"x".repeat(n)), put("/b", &"x".repeat(n))];
    publisher.publish(pair(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut last, mut seen) = (0, 0);
            while seen < 200 {
                let snapshot = store.snapshot();
                let length = |at: &str| snapshot.node(&path(at)).map(|node| node.data.len());
                assert_eq!(length("/a"), length("/b"));
                assert!(snapshot.revision() >= last);
                seen = length("/a").expect("a node");
                last = snapshot.revision();
            }
        });
        for n in 1..=200 {
            publisher.publish(pair(n));
        }
        reader.join().expect("the reader");
    });
}

#[test]
fn what_a_source_says_after_it_has_published_is_not_said_of_what_was_before() {
    let (store, publisher) = store(10);
    publisher.publish_whole(Vec::new());
    publisher.feed().enter(FeedState::Down, "gone");
    let rounds = std::cell::Cell::new(0);
    let (snapshot, ()) = store.vouched(|_| {
        if rounds.replace(rounds.get() + 1) == 0 {
            publisher.publish(vec![put("/a", "new")]);
            publisher.feed().prove(Moment::now());
        }
    });
    assert_eq!(
        (rounds.get(), snapshot.node(&path("/a")).is_some()),
        (2, true),
        "it is said anew, of what is there now"
    );
}

#[test]
fn what_a_batch_says_is_there_at_its_revision_and_its_proof_is_of_what_can_be_read() {
    let (store, publisher) = store(10);
    let freshness = || store.snapshot().freshness(store.snapshot().behind_all());
    let began = Moment::now();
    let first = Batch { skipped_nodes: Some(2), proof: Some(Proof::Seen(began)), ..Batch::whole(vec![put("/a", "1")]) };
    let revision = publisher.publish(first);
    assert_eq!((publisher.feed().state(), publisher.feed().age()), (FeedState::Live, Some(Duration::ZERO)));
    assert!(!freshness().complete && publisher.progress().skipped_nodes == 2);
    let settling = Batch { skipped_nodes: Some(0), settling: Some(true), ..Batch::default() };
    assert_eq!(publisher.publish(settling), revision + 1, "what can be trusted is of one revision too");
    assert!(!freshness().complete && publisher.progress().skipped_nodes == 0);
    assert_eq!(publisher.publish(Batch::settling(false)), revision + 2);
    assert!(freshness().complete);
    let nothing = Batch { skipped_nodes: Some(0), settling: Some(false), ..Batch::whole(Vec::new()) };
    let subscription = store.subscribe_to_revisions();
    assert_eq!(publisher.publish(nothing), revision + 2, "nothing is new");
    assert!(subscription.changed().now_or_never().is_none(), "and nobody is woken for it");
}

#[test]
fn what_nobody_can_prove_does_not_go_live_with_its_first_batch() {
    let (_store, publisher) = store(10);
    publisher.feed().enter(FeedState::Syncing, "");
    let hour = Duration::from_secs(3_600);
    publisher.publish(Batch { proof: Some(Proof::OfAge(hour)), ..Batch::whole(Vec::new()) });
    assert!(publisher.feed().state() == FeedState::Syncing && publisher.feed().age() >= Some(hour));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_large_batch_holds_no_other_task() {
    let (_store, publisher) = store(10);
    let turns = Arc::new(AtomicUsize::new(0));
    let others = turns.clone();
    let others = tokio::spawn(async move {
        loop {
            others.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    let publishing = tokio::spawn(async move {
        let changes = (0..50_000).map(|number| put(&format!("/{number}"), "x")).collect();
        let before = turns.load(Ordering::Relaxed);
        publisher.publish_whole(changes);
        turns.load(Ordering::Relaxed) - before
    });
    assert!(publishing.await.expect("it is published") > 0, "another task has had turns meanwhile");
    others.abort();
}

#[test]
fn a_frozen_store_stays_as_it_is_and_grows_old() {
    let (store, publisher) = store(100);
    let revision = publisher.publish_whole(vec![put("/a", "1")]);
    publisher.feed().enter(FeedState::Live, "");
    store.freeze();
    assert_eq!(publisher.publish(vec![delete("/a")]), revision);
    assert!(store.snapshot().node(&path("/a")).is_some());
    publisher.feed().prove(Moment::now());
    assert!(!publisher.feed().enter(FeedState::Down, "closed"));
    assert_eq!((publisher.feed().state(), publisher.feed().age()), (FeedState::Live, None));
}

#[derive(Debug)]
struct Nowhere;

impl Line for Nowhere {
    fn call(&self, _: Call) -> Result<Answers, Refused> {
        Err(Refused::Gone)
    }

    fn send(&self, _: &Command) -> Result<(), Refused> {
        Err(Refused::Gone)
    }

    fn outstanding(&self) -> usize {
        0
    }
}

#[test]
fn a_master_that_is_back_before_it_is_given_up_stays() {
    let store = Store::new(&Config::default(), vec![Feed::of_instances("register", "register")], Arc::default());
    let publisher = store.publisher(0);
    let master = |id: &str| {
        Arc::new(Master { id: id.into(), peer_address: "here".into(), connected_at: 0, services: Vec::new() })
    };
    publisher.publish(["back", "away"].map(|id| Change::Expect(master(id))).to_vec());
    let given_up = store.snapshot().give_up_expected(0);
    publisher.publish(vec![Change::Join(master("back"), Arc::new(Nowhere))]);
    publisher.publish(given_up);
    let snapshot = store.snapshot();
    assert!(snapshot.directory().master("back").is_some_and(|entry| entry.is_connected()));
    assert!(snapshot.directory().master("away").is_none());
}

#[test]
fn an_instance_says_since_when_each_source_reports_it_so() {
    let feeds = ["one", "two"].map(|name| Feed::of_instances(name, "upstream"));
    let store = Store::new(&Config::default(), feeds.into(), Arc::default());
    let [one, two] = [0, 1].map(|feed| store.publisher(feed));
    let join = |services: &[&str]| {
        let service = |name: &&str| Service { name: (*name).to_owned(), metadata: Value::Map(Vec::new()).into() };
        let services = services.iter().map(service).collect();
        let master = Master { id: "m".into(), peer_address: "here".into(), connected_at: 0, services };
        vec![Change::Join(Arc::new(master), Arc::new(Nowhere))]
    };
    let reported = |service: &str| -> Vec<(String, Revision)> {
        let snapshot = store.snapshot();
        let (_, instance) = snapshot.directory().instances(service).next().expect("an instance");
        assert_eq!((instance.state, instance.master().map(AsRef::as_ref)), (InstanceState::Up, Some("m")));
        instance.provenance.iter().map(|it| (it.source.to_string(), it.since)).collect()
    };
    let first = one.publish(join(&["mail", "log"]));
    let second = two.publish(join(&["mail"]));
    assert_eq!(reported("mail"), [("one".into(), first), ("two".into(), second)]);
    let third = two.publish(join(&["mail", "log@2.0.0"]));
    assert_eq!(reported("mail"), [("one".into(), first), ("two".into(), second)], "of another service it says nothing");
    assert_eq!(reported("log"), [("two".into(), third)], "the newest version");
    two.publish(vec![Change::Leave("m".into())]);
    let back = two.publish(join(&["mail"]));
    assert_eq!(reported("mail"), [("one".into(), first), ("two".into(), back)]);
}

#[test]
fn a_master_changes_the_services_that_it_offers_and_no_other() {
    let store = Store::new(&Config::default(), vec![Feed::of_instances("register", "register")], Arc::default());
    let publisher = store.publisher(0);
    let join = |id: usize, services: &[&str]| {
        let service = |name: &&str| Service { name: (*name).to_owned(), metadata: Value::Map(Vec::new()).into() };
        let (id, services) = (format!("m{id}"), services.iter().map(service).collect());
        Change::Join(Arc::new(Master { id, peer_address: "here".into(), connected_at: 0, services }), Arc::new(Nowhere))
    };
    publisher.publish((0..1_000).map(|id| join(id, &["all", &format!("s{}", id % 100)])).collect::<Vec<_>>());
    let changed = |change: Change| -> Vec<String> {
        let before = store.snapshot();
        publisher.publish(vec![change]);
        before.directory().changed_services(store.snapshot().directory()).map(str::to_owned).collect()
    };
    assert_eq!(changed(join(7, &["all", "s7", "new"])), ["new"], "what it still offers stands");
    assert_eq!(changed(join(7, &["all", "s7", "new"])), [""; 0], "another line");
    assert_eq!(changed(join(7, &["all", "s8"])), ["new", "s7", "s8"]);
    assert_eq!(changed(Change::Leave("m7".into())), ["all", "s8"]);
}
