//! What the shared file promises: to its readers, to the next start, and when it comes to harm.

mod broken;
mod masters;
mod registered;
mod replaced;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use bytesize::ByteSize;
use nix::fcntl::{FallocateFlags, fallocate};
use tempfile::TempDir;
use xattr::FileExt as _;

use super::image::Image;
use super::*;
use crate::clock::Moment;
use crate::model::{Change, Freshness, Node, NodePath, Origin, Revision, Stat};
use crate::store::Identity;
use crate::store::{self, ChangesSince, FeedState, PageLimit, Publisher, Snapshot};

fn path(text: &str) -> NodePath {
    NodePath::parse(text).expect("a path")
}

fn put(text: &str, data: &str) -> Change {
    let stat = Stat { mzxid: data.len() as i64, version: 7, ..Stat::default() };
    Change::Put(path(text), Arc::new(Node { data: data.as_bytes().into(), stat }))
}

fn feeds(identity: &str) -> Vec<Feed> {
    vec![Feed::of_nodes("test", "file", vec![NodePath::root()]).of(Identity::new(identity))]
}

/// A store with its shared file, and both directories.
struct SharedFileFixture {
    folder: TempDir,
    config: Config,
}

struct Open {
    shared: Shared,
    store: Arc<Store>,
    publisher: Publisher,
}

impl SharedFileFixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        fs::create_dir(&state).expect("a folder");
        Self { folder, config: Config { state, ..Config::default() } }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("shared.mdb")
    }

    fn copy(&self) -> PathBuf {
        self.config.state.join("shared.mdb")
    }

    fn aside(&self) -> PathBuf {
        with_end(&self.file(), ".set-aside")
    }

    fn try_open(&self, feeds: &[Feed]) -> Result<Shared, SharedError> {
        Shared::open(&self.config, Some(self.folder.path()), feeds).map(|shared| shared.expect("a shared file"))
    }

    /// Opens it as a start of the sidecar does; nothing is mapped or written yet.
    fn start_as(&self, feeds: Vec<Feed>) -> Open {
        let shared = self.try_open(&feeds).expect("the shared file");
        let config = store::Config::default();
        let store = match shared.left() {
            Some(left) => Store::restored(&config, feeds, left, Arc::default()),
            None => Store::new(&config, feeds, Arc::default()),
        };
        Open { publisher: store.publisher(0), store, shared }
    }

    fn open_as(&self, feeds: Vec<Feed>) -> Open {
        let mut open = self.start_as(feeds);
        open.make_ready();
        open
    }

    fn open(&self) -> Open {
        self.open_as(feeds("cluster"))
    }

    /// A file that holds these changes, each a revision.
    fn with(changes: impl IntoIterator<Item = Vec<Change>>) -> Self {
        let fixture = Self::new();
        let mut open = fixture.open();
        open.sync();
        for changes in changes {
            open.publish(changes);
        }
        fixture
    }

    /// Something writes few pages of the file, however large that is.
    fn assert_writes_little(&self, write: impl FnOnce()) {
        let before = fs::read(self.file()).expect("the file");
        write();
        let after = fs::read(self.file()).expect("the file");
        let differs =
            |page: &usize| before.get(page * 4096..(page + 1) * 4096) != after.get(page * 4096..(page + 1) * 4096);
        let written = (0..after.len() / 4096).filter(differs).count();
        assert!(written < 40, "{written} pages of {}", after.len() / 4096);
    }

    fn read(&self) -> Contents {
        Reader::open(&self.file()).and_then(|reader| reader.contents()).expect("a whole file")
    }

    fn assert_holds(&self, store: &Store) {
        assert_eq!(Contents::load(&self.file()).expect("a whole file").nodes, *store.snapshot().nodes());
    }

    fn php(&self, code: &str) -> String {
        let file = self.file();
        let open = format!("$db = dba_popen('{}', 'r', 'lmdb'); ", file.display());
        let output = Command::new("php").args(["-r", &(open + code)]).output().expect("php");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }
}

impl Open {
    fn sync(&mut self) {
        self.publisher.feed().enter(FeedState::Live, "");
        self.publisher.feed().prove(Moment::now());
        self.publisher.publish_whole(Vec::new());
        self.write();
    }

    fn publish(&mut self, changes: Vec<Change>) -> Revision {
        let revision = self.publisher.publish(changes);
        self.write();
        revision
    }

    fn write(&mut self) {
        self.try_write().expect("written");
    }

    fn make_ready(&mut self) -> mapped::Room {
        self.shared.writer.make_ready(true, Instant::now()).expect("it is in order")
    }

    fn env(&self) -> Arc<Env> {
        self.shared.writer.env().expect("it is mapped")
    }

    fn try_write(&mut self) -> Result<usize, lmdb::Error> {
        self.make_ready();
        self.shared.writer.renew(&self.store).map(|(_, entries)| entries)
    }

    fn freshness(&self) -> Freshness {
        let snapshot = self.store.snapshot();
        snapshot.freshness(snapshot.behind_all())
    }
}

fn data(snapshot: &Snapshot, at: &str) -> Option<String> {
    snapshot.node(&path(at)).map(|node| String::from_utf8_lossy(&node.data).into_owned())
}

/// Sees to it that the file at `at` was set aside, and that the sidecar began without it.
fn assert_set_aside(fixture: &SharedFileFixture, open: &Open) {
    assert!(open.shared.left().is_none());
    assert!(fixture.aside().exists());
    assert_eq!(fixture.file().metadata().expect("a new file").mode() & 0o777, 0o640);
}

#[test]
fn php_reads_it_with_no_extension_of_ours() {
    let long = format!("/{}", "x".repeat(600));
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.sync();
    let revision = open.publish(vec![put("/zk_test", "hello"), put("/a/b", "\0\u{ff}"), put(&long, "far")]);
    let show = "foreach (['node/zk_test', 'stat/zk_test', 'children/zk_test', 'children/a', 'node/a', 'children/', \
                'meta/format'] as $key) echo json_encode(dba_fetch($key, $db)), \"\\n\";";
    let expected = r#""hello"
"{\"czxid\":0,\"mzxid\":5,\"pzxid\":0,\"ctime\":0,\"mtime\":0,\"ephemeralOwner\":0,\"version\":7,\"numChildren\":0}"
"[]"
"[\"b\"]"
false
"[\"a\",\"LONG\",\"zk_test\"]"
"2"
"#;
    assert_eq!(fixture.php(show), expected.replace("LONG", &long[1..]));
    assert_eq!(fixture.php("echo bin2hex(dba_fetch('node/a/b', $db));"), "00c3bf");
    let far = format!(
        "$key = hash('sha256', '{long}'); echo dba_fetch(\"node#$key\", $db), \
                       strlen(json_decode(dba_fetch(\"stat#$key\", $db))->path);"
    );
    assert_eq!(fixture.php(&far), "far601");
    let fresh = "$f = json_decode(dba_fetch('meta/freshness', $db)); echo \"$f->revision $f->ageMs $f->origin \", \
                 json_encode($f->complete), ' ', abs(microtime(true) * 1000 - $f->writtenAt) < 600000 ? 'now' : 'then', \
                 ' ', $f->sources[0]->identity->what;";
    assert_eq!(fixture.php(fresh), format!("{revision} 0 LIVE true now cluster"));
    drop(open);
    assert!(fixture.php("echo dba_fetch('node/zk_test', $db);") == "hello", "also when the writer is gone");
}

#[test]
fn what_is_written_is_what_the_store_holds_after_any_changes() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.sync();
    let mut random = 1_u64;
    for _ in 0..200 {
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let changes = (0..next(20)).map(|_| {
            let at = (0..=next(4)).fold(String::new(), |at, _| format!("{at}/{}", next(4)));
            if next(3) == 0 { Change::Delete(path(&at)) } else { put(&at, &"x".repeat(next(9_000) as usize)) }
        });
        open.publish(changes.collect());
    }
    let snapshot = open.store.snapshot();
    drop(open.shared);
    let reader = Reader::open(&fixture.file()).expect("a reader");
    let contents = reader.contents().expect("a whole file");
    assert_eq!(contents.nodes, *snapshot.nodes());
    assert_eq!(contents.status.fresh.revision, snapshot.revision());
    for (at, node) in snapshot.nodes() {
        assert_eq!(reader.node(at).expect("read").0.as_ref(), Some(node));
        let names = snapshot.children(at).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(reader.children(at).expect("read").0, Some(names), "{at}");
    }
    assert_eq!(reader.children(&path("/4")).expect("read").0, None);
    assert_eq!(reader.node(&path("/4")).expect("read").0, None);
}

#[test]
fn a_change_writes_by_its_own_size() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.sync();
    open.publish((0..20_000).map(|n| put(&format!("/n{}/{n}", n % 100), "some data")).collect());
    fixture.assert_writes_little(|| {
        open.publish(vec![put("/n7/7", "other data")]);
    });
}

#[test]
fn the_next_start_answers_from_it_and_says_so() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.sync();
    let last = open.publish(vec![put("/a", "1")]);
    drop(open);
    std::thread::sleep(Duration::from_millis(20));
    let open = fixture.open();
    let (snapshot, freshness) = (open.store.snapshot(), open.freshness());
    assert_eq!(data(&snapshot, "/a").as_deref(), Some("1"));
    assert_eq!((freshness.origin, freshness.complete), (Origin::Restored, true));
    assert!(freshness.age >= Duration::from_millis(20) && freshness.age < Duration::from_secs(600), "{freshness:?}");
    assert!(freshness.revision > last);

    let room = PageLimit { changes: 9, bytes: 999 };
    let since = |revision| open.store.snapshot().changes_since(revision, &[NodePath::root()], room);
    assert!(matches!(since(last), ChangesSince::Known { changes, .. } if changes.is_empty()), "it is the same state");
    assert_eq!(since(last - 1), ChangesSince::Unknown);
    assert_eq!(since(last + 1), ChangesSince::Unknown, "this may have been given out and not written");
    open.publisher.feed().enter(FeedState::Live, "");
    open.publisher.feed().prove(Moment::now());
    open.publisher.publish_whole(vec![put("/b", "1")]);
    assert_eq!((open.freshness().origin, open.freshness().age), (Origin::Live, Duration::ZERO));
    assert!(matches!(since(last), ChangesSince::Known { changes, .. } if changes.len() == 1));
    assert_eq!(since(last + 1), ChangesSince::Unknown);
}

#[test]
fn an_age_counts_from_the_last_sync_whatever_the_clock_does() {
    let contents = SharedFileFixture::with([vec![put("/a", "1")]]).read();
    let age = |now: SystemTime| {
        let mut feeds = feeds("cluster");
        contents.restore(&mut feeds, now);
        feeds[0].age().expect("it was in sync once").as_secs()
    };
    let written = SystemTime::UNIX_EPOCH + Duration::from_millis(contents.status.written_at);
    assert_eq!(age(written + Duration::from_secs(3_600)), 3_600);
    assert_eq!(age(written - Duration::from_secs(3_600)), 0);
    let away = |now| contents.status.freshness(contents.status.behind(&NodePath::root()), now).age.as_secs();
    assert_eq!(away(written + Duration::from_secs(1)), 0, "the writer lives");
    assert_eq!(away(written + Duration::from_secs(3_600)), 3_600, "the writer is away");
}

#[test]
fn only_what_is_mirrored_now_is_restored() {
    let fixture = SharedFileFixture::with([vec![put("/a/x", "1"), put("/b", "1"), put("/c", "1")]]);
    let roots = |of: &[&str]| of.iter().map(|root| path(root)).collect::<Vec<_>>();
    let narrow = || {
        vec![
            Feed::of_nodes("test", "file", roots(&["/a"])).of(Identity::new("cluster")),
            Feed::of_nodes("other", "file", roots(&["/b"])).of(Identity::new("cluster")),
        ]
    };
    let mut open = fixture.open_as(narrow());
    let snapshot = open.store.snapshot();
    let filled: Vec<_> = snapshot.filled().iter().map(|filled| (filled.whole, filled.nodes)).collect();
    assert_eq!(filled, [(true, 1), (true, 1)], "/c is of none");
    open.write();
    drop(open);
    assert_eq!(fixture.read().nodes.len(), 2, "what is not restored is taken out of the file");
}

#[test]
fn a_root_that_is_added_takes_no_answer_from_the_others() {
    let fixture = SharedFileFixture::with([vec![put("/a/x", "1")]]);
    let of = |roots: &[&str]| {
        let roots = roots.iter().map(|root| path(root)).collect();
        vec![Feed::of_nodes("test", "file", roots).of(Identity::new("cluster"))]
    };
    let wider = || of(&["/a", "/d"]);
    fixture.open_as(of(&["/a"])).write();
    let is_whole = |open: &Open| {
        let snapshot = open.store.snapshot();
        ["/a/x", "/a", "/a/none", "/d", "/d/x", "/"]
            .map(|at| snapshot.behind(&[path(at)]).map(|(_, filled)| filled.whole).eq([true]))
    };
    let unread = [true, true, true, false, false, false];
    let mut open = fixture.open_as(wider());
    assert_eq!(is_whole(&open), unread, "nothing is known of /d, nor of all below /");
    open.write();
    drop(open);
    let status = fixture.read().status;
    let told: Vec<_> = status.sources.iter().map(|source| (source.roots.clone(), source.whole)).collect();
    assert_eq!(told, [(vec![path("/a")], true), (vec![path("/d")], false)], "readers of the file learn as much");
    assert!(!status.fresh.complete);
    let mut open = fixture.open_as(wider());
    assert_eq!(is_whole(&open), unread, "also after another restart");
    open.publish(vec![put("/a/y", "2")]);
    assert_eq!(is_whole(&open), unread, "a change is not all");
    open.sync();
    assert_eq!(is_whole(&open), [true; 6]);
    open.write();
    assert_eq!(fixture.read().status.sources.len(), 1);
}

#[test]
fn nodes_are_restored_however_their_roots_are_named_and_shared() {
    let fixture = SharedFileFixture::with([vec![put("/a/x", "1"), put("/b", "1")]]);
    let restored = |tables: &[(&str, &str, &[&str])]| -> Vec<_> {
        let feed = |(name, identity, roots): &(&str, &str, &[&str])| {
            let roots = roots.iter().map(|root| path(root)).collect();
            Feed::of_nodes(*name, "file", roots).of(Identity::new(*identity))
        };
        let mut open = fixture.open_as(tables.iter().map(feed).collect());
        open.write();
        open.store.snapshot().filled().iter().map(|filled| (filled.whole, filled.nodes)).collect()
    };
    let of = "cluster";
    assert_eq!(restored(&[("test", of, &["/a"]), ("new", of, &["/b"])]), [(true, 1), (true, 1)], "split");
    assert_eq!(restored(&[("new", of, &["/a"]), ("test", of, &["/b"])]), [(true, 1), (true, 1)], "swapped");
    assert_eq!(restored(&[("test", of, &["/a", "/b"])]), [(true, 2)], "joined");
    let another = ("test", "another", ["/other"].as_slice());
    assert_eq!(restored(&[("app", of, &["/a", "/b"]), another]), [(true, 2), (false, 0)], "its name went to another");
}

#[test]
fn the_file_of_another_cluster_is_set_aside_and_comes_back() {
    let fixture = SharedFileFixture::with([vec![put("/a", "1")]]);
    let aside = with_end(&fixture.file(), ".other-cluster");
    let nodes = |open: &Open| open.store.snapshot().nodes().keys().map(NodePath::to_string).collect::<Vec<_>>();
    let open = fixture.open_as(feeds("another"));
    assert!(aside.exists() && nodes(&open).is_empty());
    drop(open);
    let open = fixture.open();
    assert_eq!(nodes(&open), ["/a"]);
    assert!(!aside.exists(), "what held nothing is not kept");
    drop(open);
    let mut other = fixture.open_as(feeds("another"));
    other.sync();
    other.publish(vec![put("/b", "2")]);
    drop(other);
    assert_eq!(nodes(&fixture.open()), ["/a"]);
    assert_eq!(nodes(&fixture.open_as(feeds("another"))), ["/b"]);
    assert_eq!(nodes(&fixture.open()), ["/a"], "as often as it takes");
    fs::rename(fixture.file(), with_end(&fixture.file(), ".back")).expect("an exchange that was interrupted");
    assert_eq!(nodes(&fixture.open()), ["/a"]);
}

#[test]
fn two_sidecars_do_not_keep_one_state() {
    let fixture = SharedFileFixture::new();
    let claim = || fixture.config.clone().claim_state();
    let first = claim().expect("free").expect("it can be used");
    let told = claim().expect_err("it is held").to_string();
    let expected = format!(
        "another sidecar (process {}) keeps its state in {}",
        std::process::id(),
        fixture.config.state.display()
    );
    assert!(told.contains(&expected), "{told}");
    drop(first);
    assert!(claim().expect("free again").is_some());
}

#[test]
fn where_no_state_can_be_kept_none_is_and_no_start_fails() {
    let fixture = SharedFileFixture::new();
    for state in ["/proc/none/at-all", "/proc"] {
        let mut config = Config { state: state.into(), ..fixture.config.clone() };
        assert!(config.claim_state().expect("nobody has it").is_none(), "{state}");
        assert_eq!(config.copy(&fixture.file()), None);
    }
}

#[test]
fn a_file_of_another_format_is_set_aside() {
    let fixture = SharedFileFixture::with([vec![put("/a", "1")]]);
    let open = fixture.open();
    let env = open.env();
    let mut transaction = env.write().expect("a transaction");
    transaction.put(env.db, &entry::FORMAT, b"3", lmdb::WriteFlags::empty()).expect("put");
    lmdb::Transaction::commit(transaction).expect("committed");
    drop(env);
    drop(open);
    assert!(matches!(Contents::load(&fixture.file()), Err(InvalidFile::Format(version)) if version == "3"));
    assert_set_aside(&fixture, &fixture.open());
}

#[test]
fn no_damage_is_served_or_ends_the_process() {
    let changes = |round: usize| (0..40).map(|n| put(&format!("/n{n}"), &"x".repeat(round * n * 7))).collect();
    let fixture = SharedFileFixture::with((0..30).map(changes));
    // Without the free pages, which nothing reads.
    copy::copy(&fixture.open().env(), &fixture.file()).expect("copied");
    let whole = fixture.read();
    let bytes = fs::read(fixture.file()).expect("the file");
    let file = File::options().write(true).open(fixture.file()).expect("the file");
    let mut refused = 0;
    let (heads, rest) = ((0..400).step_by(3), (400..bytes.len()).step_by(bytes.len() / 400 + 1));
    for at in heads.chain(rest) {
        file.write_all_at(&[bytes[at] ^ 0x55], at as u64).expect("damaged");
        match Contents::load(&fixture.file()) {
            Ok(contents) => assert!(contents.nodes == whole.nodes && contents.status == whole.status, "at {at}"),
            Err(_) => refused += 1,
        }
        file.write_all_at(&bytes[at..=at], at as u64).expect("repaired");
    }
    assert!(refused > 50, "{refused}");
    for length in (1..bytes.len()).step_by(bytes.len() / 50) {
        fs::write(fixture.file(), &bytes[..length]).expect("cut off");
        if let Ok(contents) = Contents::load(&fixture.file()) {
            assert_eq!(contents.nodes, whole.nodes, "{length} of {}", bytes.len());
        }
    }
    for junk in [&b"{}"[..], &[0; 4096], &[0xff; 100_000], &bytes[..bytes.len() / 2]] {
        fs::write(fixture.file(), junk).expect("junk");
        let mut open = fixture.open();
        assert_set_aside(&fixture, &open);
        open.publish(vec![put("/a", "1")]);
    }
    assert_eq!(data(&fixture.open().store.snapshot(), "/a").as_deref(), Some("1"));
}

#[test]
fn a_file_that_is_being_written_is_no_damage() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.sync();
    open.publish(vec![put("/a", "0")]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                Image::open(&fixture.file()).expect("a whole file");
            }
        });
        for round in 0..20_000 {
            open.publish(vec![put("/a", &format!("{round}"))]);
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_file_to_which_nothing_was_written_yet_is_no_damage() {
    let fixture = SharedFileFixture::new();
    drop(fixture.open());
    assert!(fixture.file().metadata().expect("a file").len() > 0);
    let mut open = fixture.open();
    assert!(open.shared.left().is_none() && !fixture.aside().exists());
    open.publish(vec![put("/a", "1")]);
    drop(open);
    assert_eq!(data(&fixture.open().store.snapshot(), "/a").as_deref(), Some("1"));
}

#[test]
fn the_newer_whole_one_of_file_and_copy_wins() {
    let fixture = SharedFileFixture::with([vec![put("/a", "old")]]);
    let old = fs::read(fixture.file()).expect("the file");
    let mut open = fixture.open();
    open.publish(vec![put("/a", "new")]);
    let copy = |open: &Open| copy::copy(&open.env(), &fixture.copy()).expect("copied");
    copy(&open);
    drop(open);
    let starts_with = || data(&fixture.open().store.snapshot(), "/a");
    assert_eq!(starts_with().as_deref(), Some("new"));
    fs::remove_file(fixture.file()).expect("a reboot");
    assert_eq!(starts_with().as_deref(), Some("new"), "a tmpfs is empty after a reboot");
    fs::write(fixture.file(), &old).expect("an older one");
    assert_eq!(starts_with().as_deref(), Some("new"));
    fs::write(fixture.file(), b"junk").expect("a damaged one");
    assert_eq!(starts_with().as_deref(), Some("new"));
    fs::write(fixture.file(), &old).expect("an older one");
    fs::write(fixture.copy(), b"junk").expect("a damaged copy");
    assert_eq!(starts_with().as_deref(), Some("old"));
    fs::remove_file(fixture.file()).expect("a reboot");
    assert_eq!(starts_with(), None, "nothing whole is left");
    assert!(with_end(&fixture.copy(), ".set-aside").exists());
}

#[tokio::test]
async fn what_is_unmapped_after_a_large_change_is_written_and_copied_as_before() {
    let fixture = SharedFileFixture::new();
    let Open { publisher, store, shared } = fixture.open();
    let ((tasks, _), metrics) = (Tasks::new(), Arc::<Metrics>::default());
    shared.start(&tasks, &store, &metrics).expect("threads");
    let written = async |nodes: Vec<Change>| {
        let before = metrics.shared_writes.get();
        publisher.publish(nodes);
        while metrics.shared_writes.get() < before + 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    written((0..5_000).map(|number| put(&format!("/{number}"), "large")).collect()).await;
    written(vec![put("/0", "small")]).await;
    assert!(tasks.stop(Duration::from_secs(20)).await.is_empty());
    for file in [fixture.file(), fixture.copy()] {
        let nodes = Contents::load(&file).expect("a whole file").nodes;
        assert_eq!((nodes.len(), &*nodes[&path("/0")].data), (5_000, &b"small"[..]));
    }
}

#[test]
fn a_full_file_stands_as_it_was_and_is_written_again_when_there_is_room() {
    let mut fixture = SharedFileFixture::new();
    fixture.config.max_size = ByteSize::mib(1);
    let mut open = fixture.open();
    open.sync();
    let fits = open.publish(vec![put("/a", "1")]);
    open.publisher.publish(vec![put("/a", "2"), put("/big", &"x".repeat(2_000_000))]);
    assert_eq!(open.try_write(), Err(lmdb::Error::MapFull));
    assert_eq!(open.shared.writer.trouble(), None, "there are no masters");
    let why = open.shared.writer.why(&open.store, &lmdb::Error::MapFull);
    assert!(why.starts_with("it needs more than `shared.max_size`, which is 1.0 MiB: raise it; "), "{why}");
    assert_eq!(
        fixture.php("echo dba_fetch('node/a', $db), json_decode(dba_fetch('meta/freshness', $db))->revision;"),
        format!("1{fits}")
    );
    open.publish(vec![Change::Delete(path("/big"))]);
    assert_eq!(fixture.php("echo dba_fetch('node/a', $db);"), "2");
}

#[test]
fn the_file_is_for_its_group_alone_and_so_is_the_lock() {
    let fixture = SharedFileFixture::with([]);
    let mode = |path: &Path| path.metadata().expect("a file").permissions().mode() & 0o777;
    assert_eq!((mode(&fixture.file()), mode(&lock_file(&fixture.file()))), (0o640, 0o660));
    let mut fixture = SharedFileFixture::new();
    fixture.config.group = "no such group".into();
    assert!(matches!(fixture.try_open(&[]), Err(SharedError::Permissions { .. })));
}

#[test]
fn two_sidecars_do_not_write_one_file() {
    let fixture = SharedFileFixture::new();
    let _first = fixture.open();
    let told = fixture.try_open(&feeds("cluster")).expect_err("another has it").to_string();
    assert!(told.contains(&format!("another sidecar (process {}) does", std::process::id())), "{told}");
}

#[test]
fn a_file_that_was_replaced_takes_no_memory_and_its_lock_file_does_not_grow() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.publish((0..200).map(|n| put(&format!("/{n}"), &"x".repeat(5_000))).collect());
    let file = |path: &Path| File::options().read(true).write(true).open(path).expect("a file");
    let (data, lock) = (file(&fixture.file()), file(&lock_file(&fixture.file())));
    let size = |file: &File| file.metadata().expect("a file").len();
    let (whole, memory) = (size(&lock), |file: &File| file.metadata().expect("a file").blocks() * 512);
    // A reader writes over what kind of file it is.
    lock.write_all_at(&[0xff; 8], 0).expect("written");
    let now = Instant::now();
    let mut beat = |seconds| open.shared.writer.make_ready(true, now + Duration::from_secs(seconds)).is_ok();
    assert!(beat(0) && beat(3));
    assert_ne!(file(&fixture.file()).metadata().expect("a file").ino(), data.metadata().expect("a file").ino());
    assert!(beat(4) && memory(&data) > 1_000_000, "who reads it may not have noticed yet");
    lock.set_len(100 << 20).expect("its group may");
    assert!(beat(40) && memory(&data) < 200_000, "{}", memory(&data));
    assert_eq!(size(&lock), whole);
}

/// A lock file as a reader has it open who then breaks it, so that another file takes its place.
fn break_lock(fixture: &SharedFileFixture) -> File {
    let lock = File::options().read(true).write(true).open(lock_file(&fixture.file())).expect("a file");
    lock.write_all_at(&[0xff; 8], 0).expect("written");
    lock
}

/// How many files in the hidden folder have a name that begins so.
fn hidden_files(fixture: &SharedFileFixture, prefix: &str) -> usize {
    let names = fs::read_dir(fixture.folder.path().join(".shared.mdb")).expect("a folder");
    names
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with(prefix)))
        .count()
}

/// The second names of lock files that readers may write.
fn known_locks(fixture: &SharedFileFixture) -> usize {
    hidden_files(fixture, "readers-")
}

#[test]
fn lock_files_that_readers_keep_open_do_not_grow_and_are_forgotten_when_they_are_closed() {
    let mut fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.publish(vec![put("/a", "1")]);
    let (start, size) = (Instant::now(), |file: &File| file.metadata().expect("a file").len());
    let whole = fs::metadata(lock_file(&fixture.file())).expect("a file").len();
    let mut locks = Vec::new();
    for n in 0.. {
        let now = start + Duration::from_secs(n * 60);
        let lock = break_lock(&fixture);
        let _ = open.shared.writer.make_ready(true, now);
        let ready = open.shared.writer.make_ready(true, now + Duration::from_secs(3));
        locks.push(lock);
        if locks.len() > 64 {
            assert!(ready.is_ok(), "what is known can be written");
            let why = open.shared.writer.trouble().expect("why it is not replaced");
            assert!(why.contains("lock files of 64 replaced files open: end those, but for the sidecar's "), "{why}");
            break;
        }
        assert_eq!((ready, open.shared.writer.trouble()), (Ok(mapped::Room::Enough), None));
    }
    // Who may write one now by another way than what is open already?
    assert!(locks[..64].iter().all(|lock| lock.metadata().expect("a file").permissions().mode() & 0o077 == 0));
    drop(open);
    locks.iter().for_each(|lock| lock.set_len(1 << 20).expect("it is open"));
    // Of which size they are does not depend on what is configured by now.
    fixture.config.max_readers = 4;
    assert!(fixture.try_open(&feeds("cluster")).is_ok());
    assert!(locks.iter().all(|lock| size(lock) == whole), "{whole}");
    let mut open = fixture.open();
    assert_eq!(known_locks(&fixture), 66);
    locks.drain(10..);
    // A child of another test has them open until it runs its own program.
    let until = Instant::now() + Duration::from_secs(20);
    while known_locks(&fixture) > 11 && Instant::now() < until {
        open.shared.writer.make_ready(true, Instant::now()).expect("ready");
    }
    assert_eq!(known_locks(&fixture), 11);
    locks.iter().for_each(|lock| lock.set_len(1 << 20).expect("it is open"));
    open.shared.writer.make_ready(false, Instant::now()).expect("ready");
    assert!(locks.iter().all(|lock| size(lock) == 1 << 20), "who has many mappings does not delay each change");
    open.make_ready();
    assert!(locks.iter().all(|lock| size(lock) == whole));
}

#[test]
fn what_readers_add_to_a_lock_file_beside_bytes_is_taken_away_too() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    let lock = File::options().read(true).write(true).open(lock_file(&fixture.file())).expect("a file");
    let fill = || {
        let behind = lock.metadata().expect("a file").len() as i64;
        fallocate(&lock, FallocateFlags::FALLOC_FL_KEEP_SIZE, behind, 1 << 20).expect("room");
        lock.set_xattr("user.one", b"x").expect("an attribute");
    };
    let is_filled = || {
        let names = lock.list_xattr().expect("attributes");
        let are_given = names.into_iter().any(|name| name.as_encoded_bytes().starts_with(b"user."));
        (lock.metadata().expect("a file").blocks() * 512 > 1 << 20, are_given)
    };
    fill();
    assert_eq!(is_filled(), (true, true));
    open.shared.writer.make_ready(true, Instant::now()).expect("ready");
    assert_eq!(is_filled(), (false, false));
    drop(open);
    fill();
    assert!(fixture.try_open(&feeds("cluster")).is_ok());
    assert_eq!(is_filled(), (false, false));
}

#[test]
fn killed_readers_leave_no_places_taken() {
    let mut fixture = SharedFileFixture::new();
    fixture.config.max_readers = 4;
    let mut open = fixture.open();
    open.publish(vec![put("/a", "1")]);
    for _ in 0..5 {
        let kill = "dba_fetch('node/a', $db); posix_kill(getmypid(), SIGKILL);";
        for _ in 0..3 {
            assert_eq!(fixture.php(kill), "");
        }
        open.make_ready();
        assert_eq!(fixture.php("echo dba_fetch('node/a', $db);"), "1");
    }
}

/// Waits until `is_so`, at most 20 s.
async fn wait_until(mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("in time");
}

#[tokio::test]
async fn its_writer_follows_the_store_and_leaves_a_copy_at_the_stop() {
    let fixture = SharedFileFixture::new();
    let Open { shared, store, publisher } = fixture.open();
    let (tasks, mut failures) = Tasks::new();
    let metrics: Arc<Metrics> = Arc::default();
    shared.start(&tasks, &store, &metrics).expect("started");
    wait_until(|| metrics.shared_writes.get() > 0).await;
    publisher.publish(vec![put("/a", "1")]);
    let written = metrics.shared_writes.get();
    wait_until(|| metrics.shared_writes.get() > written).await;
    assert_eq!(fixture.php("echo dba_fetch('node/a', $db);"), "1");
    let written = metrics.shared_writes.get();
    wait_until(|| metrics.shared_writes.get() > written).await;
    assert!(tasks.stop(Duration::from_secs(20)).await.is_empty());
    assert!(failures.try_recv().is_err());
    let left = Contents::load(&fixture.copy()).expect("a whole copy");
    assert_eq!(left.nodes, *store.snapshot().nodes());
}

#[tokio::test]
async fn a_file_that_is_deleted_is_made_anew() {
    let fixture = SharedFileFixture::new();
    let Open { shared, store, publisher } = fixture.open();
    let (tasks, _failures) = Tasks::new();
    shared.start(&tasks, &store, &Arc::default()).expect("started");
    publisher.publish(vec![put("/a", "1")]);
    let holds = |data: &str| {
        let node = Reader::open(&fixture.file()).and_then(|reader| reader.node(&path("/a")));
        node.is_ok_and(|(node, _)| node.is_some_and(|node| &*node.data == data.as_bytes()))
    };
    wait_until(|| holds("1")).await;
    let lock = lock_file(&fixture.file());
    for files in [vec![fixture.file()], vec![lock.clone()], vec![fixture.file(), lock.clone()]] {
        files.iter().for_each(|file| fs::remove_file(file).expect("a file"));
        wait_until(|| files.iter().all(|file| file.exists()) && holds("1")).await;
    }
    publisher.publish(vec![put("/a", "2")]);
    wait_until(|| holds("2")).await;
    let mode = |path: &Path| path.metadata().expect("a file").permissions().mode() & 0o777;
    assert_eq!((mode(&fixture.file()), mode(&lock)), (0o640, 0o660));
    assert!(tasks.stop(Duration::from_secs(20)).await.is_empty());
    let left = Contents::load(&fixture.copy()).expect("a whole copy");
    assert_eq!(left.nodes, *store.snapshot().nodes(), "the copy is of the new file");
}

#[tokio::test]
async fn a_file_that_is_deleted_in_the_moment_when_it_is_made_is_made_anew() {
    let fixture = SharedFileFixture::new();
    let Open { shared, store, publisher } = fixture.open();
    let (tasks, _failures) = Tasks::new();
    shared.start(&tasks, &store, &Arc::default()).expect("started");
    publisher.publish(vec![put("/a", "1")]);
    let (file, lock) = (fixture.file(), lock_file(&fixture.file()));
    wait_until(|| file.exists() && lock.exists()).await;
    [&file, &lock].iter().for_each(|file| fs::remove_file(file).expect("a file"));
    let deleter = thread::spawn({
        let lock = lock.clone();
        move || while fs::remove_file(&lock).is_err() {}
    });
    wait_until(|| deleter.is_finished()).await;
    wait_until(|| file.exists() && lock.exists()).await;
    assert!(tasks.stop(Duration::from_secs(20)).await.is_empty());
}

#[tokio::test]
async fn that_a_source_is_whole_is_written_at_once_also_where_nothing_else_changed() {
    let fixture = SharedFileFixture::new();
    let Open { shared, store, publisher } = fixture.open();
    let (tasks, _failures) = Tasks::new();
    let metrics: Arc<Metrics> = Arc::default();
    shared.start(&tasks, &store, &metrics).expect("started");
    wait_until(|| metrics.shared_writes.get() > 0).await;
    let status = || Reader::open(&fixture.file()).and_then(|reader| reader.status()).expect("a report");
    let revision = publisher.publish_whole(vec![]);
    wait_until(|| status().fresh.revision == revision).await;
    assert!(status().sources[0].whole);
    assert!(tasks.stop(Duration::from_secs(20)).await.is_empty());
}

#[test]
fn the_directory_of_the_state_is_made_if_its_parent_is_there() {
    let mut fixture = SharedFileFixture::new();
    fs::remove_dir(&fixture.config.state).expect("an empty folder");
    assert!(fixture.config.claim_state().expect("free").is_some() && fixture.config.state.is_dir());
    fixture.config.state = fixture.folder.path().join("not/there");
    assert!(fixture.config.claim_state().expect("nobody has it").is_none());
    assert!(fixture.open().shared.copy.is_none() && !fixture.folder.path().join("not").exists());
}

#[test]
fn a_source_that_is_back_vouches_for_nothing_from_before() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.sync();
    open.publisher.feed().enter(FeedState::Down, "");
    std::thread::sleep(Duration::from_millis(2));
    let due = open.shared.writer.due(&open.store);
    // Before that is written, the source returns.
    open.publisher.publish(vec![put("/a", "new")]);
    open.publisher.feed().enter(FeedState::Live, "");
    open.publisher.feed().prove(Moment::now());
    open.shared.writer.write(&due).expect("written");
    let written = fixture.read().status;
    assert!(written.fresh.age_ms > 0 && written.fresh.revision == due.snapshot.revision(), "{written:?}");
}

/// Writes pairs that must always agree, until it is killed.
#[test]
#[ignore = "is run by another test, as a process of its own"]
fn a_writer_without_end() {
    let folder = PathBuf::from(std::env::var_os("ROSTER_TEST_FOLDER").expect("a folder"));
    let config = Config { state: PathBuf::new(), ..Config::default() };
    let feeds = feeds("cluster");
    let shared = Shared::open(&config, Some(&folder), &feeds).expect("the file").expect("a file");
    let store = Store::new(&store::Config::default(), feeds, Arc::default());
    let (mut writer, publisher) = (shared.writer, store.publisher(0));
    for round in 0.. {
        let at = |pair: char| format!("/{pair}/{}", round % 50);
        let text = format!("{round} {}", "x".repeat(round * 97 % 9_000));
        publisher.publish(vec![put(&at('a'), &text), put(&at('b'), &text)]);
        writer.make_ready(true, Instant::now()).expect("in order");
        writer.renew(&store).expect("written");
    }
}

#[test]
fn a_writer_killed_at_any_moment_leaves_a_whole_revision() {
    let fixture = SharedFileFixture::new();
    for round in 0..40 {
        let mut writer = Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "store::shared::tests::a_writer_without_end"])
            .env("ROSTER_TEST_FOLDER", fixture.folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("a writer");
        // From the first commit on: before, there is no revision that could be whole.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) && Contents::load(&fixture.file()).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(5_000 + round * 773));
        writer.kill().expect("killed");
        writer.wait().expect("ended");
        let contents = Contents::load(&fixture.file()).unwrap_or_else(|error| panic!("round {round}: {error}"));
        for n in 0..50 {
            let of = |pair: char| contents.nodes.get(&path(&format!("/{pair}/{n}"))).map(|node| &node.data);
            assert_eq!(of('a'), of('b'), "round {round}");
        }
    }
}
