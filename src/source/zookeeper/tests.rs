//! What must hold with servers that only have one-shot watches, whatever happens between two requests.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use futures::stream::{self, StreamExt};

use super::{Config, Patterns};
use crate::format;
use crate::model::{Change, Format, Node, NodePath};
use crate::store::{self, Feed, Store};
use crate::task::{Reload, Tasks};
use crate::zookeeper::fake::{Deed, Fake, Kind};

/// How long anything may take that nothing delays.
const SOON: Duration = Duration::from_secs(90);

/// A server, and a mirror of it, which ends when this is dropped.
struct Mirror {
    fake: Fake,
    store: Arc<Store>,
    _tasks: Tasks,
}

impl Mirror {
    async fn start(fake: &Fake, roots: &[&str]) -> Self {
        Self::with(fake, roots, |_| {}).await
    }

    async fn with(fake: &Fake, roots: &[&str], set: impl FnOnce(&mut Config)) -> Self {
        Self::knowing(fake, roots, set, Vec::new())
    }

    /// A mirror whose store already holds this.
    fn knowing(fake: &Fake, roots: &[&str], set: impl FnOnce(&mut Config), known: Vec<Change>) -> Self {
        let mut config = Config::new(fake.address.to_string());
        config.roots = roots.iter().map(|root| path(root)).collect();
        config.hold = Duration::ZERO;
        // An audit would find what the watches miss.
        config.audit_interval = Duration::from_secs(3_600);
        set(&mut config);
        let dubbo = format::Config { root: path("/dubbo"), format: Format::Dubbo, ..format::Config::default() };
        let feed = Feed::of_nodes("zookeeper", "zookeeper", config.roots.clone()).with_services(vec![dubbo]);
        let store = Store::new(&store::Config { history: 100, ..store::Config::default() }, vec![feed], Arc::default());
        store.publisher(0).publish(known);
        let (tasks, _failures) = Tasks::new();
        // No reload happens, but the sender must live until the end.
        let (reloading, reload) = Reload::new();
        let mirror = super::run(config, store.publisher(0), reload, tasks.stop_signal());
        tasks.short(async move {
            mirror.await;
            drop(reloading);
        });
        Self { fake: fake.clone(), store, _tasks: tasks }
    }

    fn nodes(&self) -> BTreeMap<String, Node> {
        let (snapshot, root) = (self.store.snapshot(), NodePath::root());
        let all = snapshot.subtree(&root, root.clone());
        all.map(|(path, node)| (path.to_string(), (**node).clone())).collect()
    }

    fn left_out(&self) -> u64 {
        self.store.snapshot().progress()[0].skipped_nodes
    }

    async fn is_live(&self) {
        self.until("live", || self.store.snapshot().feeds()[0].age() == Some(Duration::ZERO)).await;
    }

    /// Waits until it holds what the server has below its roots.
    async fn agrees(&self, what: &str) {
        let feeds = self.store.snapshot().feeds().to_vec();
        let is_mirrored = |text: &String| feeds[0].roots().iter().any(|root| path(text).is_under(root));
        let truth =
            || -> BTreeMap<_, _> { self.fake.nodes().into_iter().filter(|(path, _)| is_mirrored(path)).collect() };
        self.until(what, || self.nodes() == truth()).await;
        self.is_live().await;
        assert_eq!(self.nodes(), truth(), "{what}");
    }

    /// Waits until a condition holds, but no longer than this.
    async fn until_or(&self, most: Duration, holds: impl Fn() -> bool) {
        let end = Instant::now() + most;
        while !holds() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let end = Instant::now() + SOON;
        while !holds() {
            assert!(
                Instant::now() < end,
                "{what}: mirrored {:#?}\nof {:#?}\n{:?}",
                self.nodes(),
                self.fake.nodes(),
                self.store.snapshot().feeds()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn path(text: &str) -> NodePath {
    NodePath::parse(text).expect("a path")
}

/// A server with a few nodes.
async fn furnished(kind: Kind) -> Fake {
    let fake = Fake::start(kind).await;
    let nodes = ["/a", "/a/b", "/a/b/c", "/a/d", "/e"].map(Deed::Create);
    fake.does(&nodes);
    fake.does(&[Deed::CreateEphemeral("/a/member"), Deed::Set("/a/b"), Deed::Set("/e")]);
    fake
}

use Deed::{Close, Create, CreateEphemeral, Cut, Delete, Open, Set};

/// What may happen to a tree at any time between two requests.
const STORIES: [&[Deed]; 13] = [
    &[Set("/a/b"), Set("/a/b"), Set("/a/b")],
    &[Create("/a/f"), Delete("/a/f")],
    &[Create("/a/f"), Set("/a/f"), Create("/a/f/g")],
    &[Create("/a/f"), Create("/a/f/g"), Delete("/a/f/g"), Delete("/a/f")],
    &[Delete("/a/b/c"), Create("/a/b/c")],
    &[Delete("/a/b/c"), Create("/a/b/c"), Create("/a/b/c/g")],
    &[Delete("/a/b/c"), Delete("/a/b"), Create("/a/b"), Create("/a/b/c"), Set("/a/b/c")],
    &[Set("/a/b/c"), Delete("/a/b/c"), Delete("/a/b")],
    &[Set("/a/member"), Delete("/a/member"), Create("/a/member"), Create("/a/member/f")],
    &[Delete("/a/member"), CreateEphemeral("/a/member"), Set("/a/member")],
    &[Delete("/a/d"), CreateEphemeral("/a/d"), Delete("/a/d"), Create("/a/d"), Create("/a/d/f")],
    &[Set("/a"), Create("/f"), Set("/f"), Delete("/e")],
    &[Set("/e"), Cut, Set("/a/b/c"), Create("/a/f"), Delete("/a/d")],
];

/// Runs many trials, some of them concurrently.
async fn try_all(trials: impl IntoIterator<Item = impl Future<Output = ()>>) {
    const AT_ONCE: usize = 24;
    stream::iter(trials).buffer_unordered(AT_ONCE).collect().await
}

#[tokio::test]
async fn whatever_happens_between_two_requests_of_the_first_read_is_mirrored() {
    let trials = STORIES.iter().flat_map(|deeds| (0..20).map(move |first| (*deeds, first)));
    try_all(trials.flat_map(|(deeds, first)| [0, 1].map(|gap| (deeds, first, gap))).map(
        |(deeds, first, gap)| async move {
            let fake = furnished(Kind::Refusing).await;
            fake.plans(first, gap, deeds);
            let mirror = Mirror::start(&fake, &["/"]).await;
            mirror.is_live().await;
            fake.does_the_rest();
            mirror.agrees(&format!("{deeds:?} from request {first}, each {gap} later")).await;
        },
    ))
    .await;
}

#[tokio::test]
async fn whatever_happens_while_a_node_is_read_again_is_mirrored() {
    let trials = STORIES.iter().flat_map(|deeds| (0..4).map(move |after| (*deeds, after)));
    try_all(trials.flat_map(|(deeds, after)| [0, 1].map(|gap| (deeds, after, gap))).map(
        |(deeds, after, gap)| async move {
            let fake = furnished(Kind::Refusing).await;
            let mirror = Mirror::start(&fake, &["/"]).await;
            mirror.agrees("at first").await;
            let (first, rest) = deeds.split_first().expect("a deed");
            let asked = fake.asked().requests;
            fake.plans(asked + after, gap, rest);
            fake.does(&[*first]);
            let is_read_again = || fake.asked().requests >= asked + after + gap * rest.len();
            mirror.until_or(Duration::from_millis(200), is_read_again).await;
            fake.does_the_rest();
            mirror.agrees(&format!("{deeds:?}, the second before request {after}, each {gap} later")).await;
        },
    ))
    .await;
}

#[tokio::test]
async fn a_rule_changes_very_many_instances_in_parts_while_the_mirror_goes_on() {
    const MANY: usize = 2_000;
    const PARTS: u64 = 7;
    let fake = furnished(Kind::Refusing).await;
    fake.does(&["/dubbo", "/dubbo/i", "/dubbo/i/providers", "/dubbo/i/configurators"].map(Create));
    let provider = |port: usize| format!("/dubbo/i/providers/dubbo%3A%2F%2Fh%3A{port}%2Fi").leak() as &'static str;
    fake.does(&(1..=MANY).map(|port| Create(provider(port))).collect::<Vec<_>>());
    let mirror = Mirror::start(&fake, &["/"]).await;
    mirror.agrees("at first").await;
    let of_weight = |weight: u32| {
        let snapshot = mirror.store.snapshot();
        snapshot.directory().instances("i").filter(|(_, instance)| instance.weight == weight).count()
    };
    assert_eq!(of_weight(100), MANY);
    let rule = "/dubbo/i/configurators/override%3A%2F%2F0.0.0.0%2Fi%3Fweight%3D9";
    for (deed, weight) in [(Create(rule), 9), (Delete(rule), 100)] {
        fake.does(&[deed, Set("/a/b")]);
        mirror.agrees("nodes do not wait").await;
        mirror.until("all instances", || of_weight(weight) == MANY).await;
        let snapshot = mirror.store.snapshot();
        assert!(snapshot.is_unchanged(snapshot.revision() - PARTS, &[path(rule)]), "its parts came later");
    }
}

#[tokio::test]
async fn a_root_that_is_missing_may_come_and_go_between_any_two_requests() {
    const DEEDS: [Deed; 7] = [
        Create("/late"),
        Create("/late/root"),
        Create("/late/root/f"),
        Delete("/late/root/f"),
        Delete("/late/root"),
        Create("/late/root"),
        Create("/late/root/g"),
    ];
    let trials = (0..12).flat_map(|first| [0, 1, 2].map(|gap| (first, gap)));
    try_all(trials.map(|(first, gap)| async move {
        let fake = furnished(Kind::Refusing).await;
        fake.plans(first, gap, &DEEDS);
        let mirror = Mirror::start(&fake, &["/late/root", "/e"]).await;
        mirror.is_live().await;
        fake.does_the_rest();
        mirror.agrees(&format!("from request {first}, each {gap} later")).await;
        fake.does(&[Delete("/late/root/g"), Delete("/late/root")]);
        mirror.agrees("it is gone").await;
        fake.does(&[Create("/late/root"), Create("/late/root/f")]);
        mirror.agrees("it is there again").await;
    }))
    .await;
}

/// Many nodes in two levels.
async fn crowded(kind: Kind) -> (Fake, usize) {
    const FOLDERS: usize = 20;
    const CHILDREN: usize = 50;
    let fake = Fake::start(kind).await;
    for folder in 0..FOLDERS {
        let folder = format!("/{}-{folder}", "x".repeat(100));
        fake.does(&[Create(folder.clone().leak())]);
        (0..CHILDREN).for_each(|child| fake.does(&[Create(format!("{folder}/{child}").leak())]));
    }
    (fake, 1 + FOLDERS * (1 + CHILDREN))
}

#[tokio::test]
async fn a_server_that_closes_at_a_persistent_watch_is_asked_for_one_once() {
    let fake = furnished(Kind::Old).await;
    let mirror = Mirror::start(&fake, &["/"]).await;
    mirror.agrees("at first").await;
    fake.does(&[Cut]);
    mirror.until("it is sought again", || fake.asked().connections == 3).await;
    fake.does(&[Set("/e"), Create("/f")]);
    mirror.agrees("after a loss").await;
    let asked = fake.asked();
    assert_eq!((asked.persistent, asked.connections), (1, 3));
}

#[tokio::test]
async fn one_server_that_wants_a_proof_is_left_for_the_next_and_all_refuse_where_each_does_that_is_there() {
    let [one, other] = [furnished(Kind::New).await, furnished(Kind::New).await];
    let and_nobody = format!("{},{},127.0.0.1:1", one.address, other.address);
    let mirror = Mirror::with(&one, &["/"], |config| config.connect = and_nobody).await;
    mirror.agrees("at first").await;
    let (near, far) = if one.asked().connections > 0 { (one, other) } else { (other, one) };
    far.does(&[Deed::Become(Kind::Guarded)]);
    near.does(&[Cut, Create("/f")]);
    let is_refused = || mirror.store.snapshot().feeds()[0].detail().contains("the ensemble refuses the credentials");
    mirror.until("it goes on", || mirror.nodes().contains_key("/f") || is_refused()).await;
    assert!(far.asked().connections > 0 && !is_refused());
    near.does(&[Deed::Become(Kind::Guarded), Cut]);
    mirror.until("both refuse", is_refused).await;
}

#[tokio::test]
async fn a_server_that_refuses_while_the_others_are_away_for_a_moment_is_not_believed_for_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let credentials = folder.path().join("z.cred");
    std::fs::write(&credentials, "digest:joe:secret\n").expect("written");
    // It refuses them at once, or within the session that it gave.
    for kind in [Kind::Denying, Kind::Guarded] {
        let [one, other] = [furnished(Kind::New).await, furnished(Kind::New).await];
        let set = |config: &mut Config| {
            let connect = format!("{},{}", one.address, other.address);
            (config.connect, config.credentials) = (connect, Some(credentials.clone()));
        };
        let mirror = Mirror::with(&one, &["/"], set).await;
        mirror.agrees("at first").await;
        let (near, far) = if one.asked().connections > 0 { (&one, &other) } else { (&other, &one) };
        far.does(&[Deed::Become(kind)]);
        near.does(&[Deed::Become(Kind::Away), Cut]);
        mirror.until("it refuses again and again", || far.asked().connections > 2).await;
        near.does(&[Deed::Become(Kind::New), Create("/f")]);
        let is_refused =
            || mirror.store.snapshot().feeds()[0].detail().contains("the ensemble refuses the credentials");
        mirror.until("it goes on", || mirror.nodes().contains_key("/f") || is_refused()).await;
        assert!(!is_refused());
    }
}

#[tokio::test]
async fn where_all_servers_want_a_proof_before_the_first_read_the_credentials_are_to_blame() {
    let [one, other] = [Fake::start(Kind::Guarded).await, Fake::start(Kind::Guarded).await];
    let folder = tempfile::tempdir().expect("a folder");
    let credentials = folder.path().join("z.cred");
    std::fs::write(&credentials, "joe:secret\n").expect("written");
    let set = |config: &mut Config| {
        (config.connect, config.credentials) = (format!("{},{}", one.address, other.address), Some(credentials));
    };
    let mirror = Mirror::with(&one, &["/"], set).await;
    let detail = || mirror.store.snapshot().feeds()[0].detail();
    mirror.until("it is told", || detail().contains("z.cred:1: it begins with no scheme that ZooKeeper knows")).await;
}

#[tokio::test]
async fn that_an_old_server_closes_at_a_persistent_watch_costs_no_wait_before_the_first_read() {
    /// Less than the minimum wait after a loss.
    const MOST: Duration = Duration::from_millis(45);
    let (mut fastest, mut attempts) = (Duration::MAX, 0..100);
    // On a busy machine most take longer.
    while fastest >= MOST && attempts.next().is_some() {
        let fake = furnished(Kind::Old).await;
        let began = Instant::now();
        let mirror = Mirror::start(&fake, &["/"]).await;
        mirror.until("it is read", || !mirror.nodes().is_empty()).await;
        fastest = fastest.min(began.elapsed());
    }
    assert!(fastest < MOST, "{fastest:?}");
}

#[tokio::test]
async fn how_nodes_are_watched_is_decided_for_each_connection() {
    let fake = furnished(Kind::New).await;
    let mirror = Mirror::start(&fake, &["/"]).await;
    mirror.agrees("at first").await;
    assert_eq!(fake.asked().lists, 0, "all was read by multi-reads");
    fake.does(&[Deed::Become(Kind::Refusing), Cut, Set("/e")]);
    mirror.until("its nodes are watched one by one", || fake.asked().lists > 0).await;
    mirror.agrees("after another server").await;
    fake.does(&[Set("/a/b/c"), Create("/f"), Create("/f/g"), Delete("/a/d")]);
    mirror.agrees("by one-shot watches").await;
}

#[tokio::test]
async fn after_a_loss_watches_are_set_in_short_requests_and_only_what_changed_is_read() {
    let (fake, nodes) = crowded(Kind::Refusing).await;
    let mirror = Mirror::start(&fake, &["/"]).await;
    mirror.agrees("at first").await;
    let before = fake.asked();
    let changed: &'static str = format!("/{}-7/7", "x".repeat(100)).leak();
    fake.does(&[Cut, Set(changed)]);
    mirror.agrees("after a loss").await;
    let asked = fake.asked();
    assert_eq!(asked.data[before.data.len()..], [changed]);
    assert_eq!(asked.restored.iter().sum::<usize>(), nodes);
    let most = *asked.restored.iter().max().expect("watches");
    assert!((100..320).contains(&most), "{most} paths of more than 100 bytes in a request");
    assert_eq!(before.restored.iter().sum::<usize>(), 0, "nothing was known at first");
    assert!(asked.most_in_flight <= 256, "{} requests at once", asked.most_in_flight);
}

#[tokio::test]
async fn a_chroot_is_part_of_each_path_that_a_request_has_room_for() {
    const NODES: usize = 1_000;
    const MOST: usize = 33 << 10;
    for kind in [Kind::New, Kind::Refusing] {
        let fake = Fake::start(kind).await;
        let chroot = format!("/{}", "x".repeat(400));
        fake.does(&[Create(chroot.clone().leak())]);
        (0..NODES).for_each(|child| fake.does(&[Create(format!("{chroot}/{child}").leak())]));
        let connect = format!("{}{chroot}", fake.address);
        let mirror = Mirror::with(&fake, &["/"], |config| config.connect = connect).await;
        mirror.until("all is read", || mirror.nodes().len() == 1 + NODES).await;
        fake.does(&[Cut, Create(format!("{chroot}/later").leak())]);
        mirror.until("it is read again", || mirror.nodes().len() == 2 + NODES).await;
        let asked = fake.asked();
        assert_eq!(asked.restored.is_empty(), kind == Kind::New);
        assert!(asked.longest <= MOST, "{kind:?}: {} bytes in a request", asked.longest);
    }
}

#[tokio::test]
async fn a_flood_of_events_of_one_node_is_answered_by_one_read_after_another() {
    const CHANGES: usize = 2_000;
    let fake = furnished(Kind::Refusing).await;
    let mirror = Mirror::start(&fake, &["/"]).await;
    mirror.agrees("at first").await;
    let (before, began) = (fake.asked(), Instant::now());
    for _ in 0..CHANGES {
        fake.does(&[Set("/a/b"), Create("/a/f"), Delete("/a/f")]);
        tokio::task::yield_now().await;
    }
    mirror.agrees("after the flood").await;
    // One every 20 ms for this node, for its parent, and for a possible child.
    let most = 3 * (began.elapsed().as_millis() as usize / 20 + 2);
    let asked = fake.asked();
    let (data, lists) = (asked.data.len() - before.data.len(), asked.lists - before.lists);
    assert!(data <= most && lists <= most, "{data} reads, {lists} lists, at most {most}");
    assert_eq!(asked.connections, 1);
}

#[tokio::test]
async fn a_node_that_may_not_be_read_is_watched_all_the_same() {
    let fake = furnished(Kind::Refusing).await;
    fake.does(&[Close("/a/b")]);
    let mirror = Mirror::start(&fake, &["/"]).await;
    mirror.is_live().await;
    let feed = mirror.store.snapshot().feeds()[0].clone();
    assert!(!mirror.nodes().contains_key("/a/b/c") && mirror.left_out() == 1, "{feed:?}");
    fake.does(&[Open("/a/b"), Set("/a/b")]);
    mirror.agrees("it may be read again").await;
    assert_eq!(mirror.left_out(), 0);
    fake.does(&[Close("/a/d"), Set("/a/d")]);
    mirror.until("it may not be read", || mirror.left_out() == 1).await;
    fake.does(&[Delete("/a/d")]);
    mirror.agrees("it is gone").await;
    mirror.until("nothing is left out", || mirror.left_out() == 0).await;
}

#[tokio::test]
async fn that_a_node_is_gone_when_its_watch_is_restored_announces_nothing() {
    let fake = furnished(Kind::Refusing).await;
    let mirror = Mirror::with(&fake, &["/"], |config| config.hold = SOON).await;
    mirror.agrees("at first").await;
    let before = mirror.nodes().len();
    fake.does(&[Cut, Delete("/a/member"), Delete("/a/b/c"), Delete("/a/b"), Delete("/a/d"), Delete("/a")]);
    mirror.until("they are held", || mirror.store.snapshot().feeds()[0].detail().contains("holding 5 nodes")).await;
    assert_eq!(mirror.nodes().len(), before);
}

/// The bytes of all paths and data on a server.
fn bytes(fake: &Fake) -> u64 {
    fake.nodes().iter().map(|(path, node)| (path.len() + node.data.len()) as u64).sum()
}

#[tokio::test]
async fn a_known_node_that_grows_beyond_its_place_keeps_it_with_all_that_lies_below() {
    for kind in [Kind::New, Kind::Refusing] {
        let fake = furnished(kind).await;
        let mirror = Mirror::with(&fake, &["/"], |config| config.max_bytes = ByteSize(bytes(&fake))).await;
        mirror.agrees("at first").await;
        let before = mirror.nodes();
        fake.does(&[Set("/a"), Cut]);
        mirror.until("it has no place", || mirror.left_out() > 0).await;
        assert_eq!((mirror.nodes(), mirror.left_out()), (before, 1), "{kind:?}");
        // There is room again, also for what lies below.
        fake.does(&[Delete("/e"), Cut]);
        mirror.until("the other is gone", || !mirror.nodes().contains_key("/e")).await;
        fake.does(&[Cut]);
        mirror.agrees("it has its place").await;
    }
}

#[tokio::test]
async fn only_of_a_known_node_that_passes_a_limit_it_is_said_that_what_was_known_stands() {
    let no_data: fn(&mut Config) = |config| config.max_node_bytes = ByteSize(0);
    let one_byte: fn(&mut Config) = |config| config.max_bytes = ByteSize(1);
    for (limit, is_known) in [(no_data, false), (no_data, true), (one_byte, false)] {
        let fake = Fake::start(Kind::Refusing).await;
        fake.does(&[Create("/a")]);
        if !is_known {
            fake.does(&[Set("/a")]);
        }
        let mirror = Mirror::with(&fake, &["/"], limit).await;
        if is_known {
            mirror.agrees("at first").await;
            fake.does(&[Set("/a")]);
        }
        let detail = || mirror.store.snapshot().feeds()[0].detail_with_names();
        mirror.until("it is left out", || detail().contains(": /a (")).await;
        assert_eq!(detail().contains("what was known of it stands"), is_known, "{}", detail());
    }
}

#[tokio::test]
async fn what_comes_below_a_known_node_that_has_grown_beyond_its_place_is_followed() {
    let fake = furnished(Kind::Refusing).await;
    let mirror = Mirror::with(&fake, &["/"], |config| config.max_bytes = ByteSize(bytes(&fake))).await;
    mirror.agrees("at first").await;
    fake.does(&[Set("/a"), Delete("/a/member")]);
    mirror.until("it has no place", || mirror.left_out() == 1 && !mirror.nodes().contains_key("/a/member")).await;
    fake.does(&[Create("/a/f")]);
    mirror.agrees("it has its place").await;
}

#[tokio::test]
async fn what_is_known_below_nodes_that_are_not_kept_is_still_found_where_others_come_before_it() {
    let fake = Fake::start(Kind::New).await;
    fake.does(&["/b", "/b/x", "/c", "/c/x"].map(Create));
    let limit = |config: &mut Config| {
        config.max_nodes = 2;
        config.include = Patterns::try_from(vec!["/*/x".to_owned()]).expect("patterns");
    };
    let mirror = Mirror::with(&fake, &["/"], limit).await;
    mirror.until("all is read", || mirror.nodes().len() == 2).await;
    fake.does(&[Create("/a"), Create("/a/x"), Cut]);
    mirror.until("one has no place", || mirror.left_out() > 0).await;
    assert_eq!(mirror.nodes().into_keys().collect::<Vec<_>>(), ["/b/x", "/c/x"]);
}

#[tokio::test]
async fn nothing_known_keeps_its_place_below_a_node_that_loses_its_own_at_a_start() {
    let fake = Fake::start(Kind::New).await;
    let node = |data: &str| Arc::new(Node { data: data.as_bytes().into(), ..Node::default() });
    let known = [("/a", &*"x".repeat(100)), ("/a/b", ""), ("/a/b/c", ""), ("/d", "")];
    let known = known.map(|(text, data)| Change::Put(path(text), node(data)));
    let limit = |config: &mut Config| {
        config.max_bytes = ByteSize(50);
        // Nobody listens there.
        config.connect = "127.0.0.1:1".into();
    };
    let mirror = Mirror::knowing(&fake, &["/"], limit, known.into());
    // At once: nobody is answered with it.
    assert_eq!((mirror.nodes().into_keys().collect::<Vec<_>>(), mirror.left_out()), (vec!["/d".to_owned()], 3));
}
