//! What the shared file promises: to its readers, to the next start, and when it is damaged.

mod broken;
mod claims;
mod following;
mod killed;
mod lock_files;
mod masters;
mod missing;
mod registered;
mod replaced;
mod starts;
mod state;

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

    /// A file that holds these changes, one revision each.
    fn with(changes: impl IntoIterator<Item = Vec<Change>>) -> Self {
        let fixture = Self::new();
        let mut open = fixture.open();
        open.sync();
        for changes in changes {
            open.publish(changes);
        }
        fixture
    }

    /// Asserts that an action writes few pages of the file, however large that is.
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

impl Open {
    /// What the writer does between two heartbeats when the store has changed.
    fn write_between_beats(&mut self) {
        self.shared.writer.make_ready(false, Instant::now()).expect("ready");
        self.shared.writer.renew(&self.store).expect("written");
    }

    /// Breaks the lock file, and lets the writer replace the file.
    fn replace(&mut self, fixture: &SharedFileFixture, now: Instant) {
        drop(break_lock(fixture));
        for seconds in [0, 3] {
            self.shared.writer.make_ready(true, now + Duration::from_secs(seconds)).expect("ready");
        }
    }

    /// Lets the writer's heart beat until a condition holds: a child of another test has files open until it executes
    /// its own program.
    fn beats_until(&mut self, is_so: impl Fn() -> bool) {
        assert!((0..2_000).any(|_| {
            self.make_ready();
            is_so()
        }));
    }
}

impl SharedFileFixture {
    /// Puts a folder where new files are created, so that none can be.
    fn hinder(&self) -> PathBuf {
        let fresh = self.folder.path().join(".shared.mdb/fresh");
        let _ = fs::remove_file(&fresh);
        fs::create_dir(&fresh).expect("a folder");
        fresh
    }

    /// Renames the second name of the only replaced file as if it had been replaced at `then`.
    fn date_second_name(&self, then: SystemTime) {
        let names = fs::read_dir(self.folder.path().join(".shared.mdb")).expect("a folder");
        let mut names = names.map(|entry| entry.expect("a name").path());
        let is_second =
            |name: &PathBuf| name.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"replaced-"));
        let name = names.find(is_second).expect("a second name");
        let seconds = then.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let (start, _) = name.to_str().expect("a name").rsplit_once('-').expect("a time");
        fs::rename(&name, format!("{start}-{seconds}")).expect("renamed");
    }
}

fn data(snapshot: &Snapshot, at: &str) -> Option<String> {
    snapshot.node(&path(at)).map(|node| String::from_utf8_lossy(&node.data).into_owned())
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
    // A reader overwrites the magic number.
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

/// Breaks a lock file through a reader's descriptor, so that the file is replaced.
fn break_lock(fixture: &SharedFileFixture) -> File {
    let lock = File::options().read(true).write(true).open(lock_file(&fixture.file())).expect("a file");
    lock.write_all_at(&[0xff; 8], 0).expect("written");
    lock
}

/// How many lock files with a second name readers may write.
fn known_locks(fixture: &SharedFileFixture) -> usize {
    hidden_files(fixture, "readers-")
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

/// How many files in the hidden folder have a name with this prefix.
fn hidden_files(fixture: &SharedFileFixture, prefix: &str) -> usize {
    let names = fs::read_dir(fixture.folder.path().join(".shared.mdb")).expect("a folder");
    names
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with(prefix)))
        .count()
}

fn second_names(fixture: &SharedFileFixture) -> usize {
    hidden_files(fixture, "replaced-")
}
