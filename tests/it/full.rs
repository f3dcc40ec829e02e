//! A file system in memory that is full: whoever touches a mapped page for which there is no room is killed by the
//! kernel, be it the sidecar or a reader of its shared file.

use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use crate::harness::{Process, Roster, SOON, binary_path, ensure, eventually, is_skipped_without_root};

/// A sidecar whose shared file is to lie on a file system of its own of 256 KiB, which stays while it does not run.
pub(crate) struct Small {
    /// What keeps its namespace.
    holder: Process,
    pub(crate) roster: Roster,
    /// Where it is mounted there.
    pub(crate) mount: PathBuf,
}

impl Small {
    /// So much of it is free. It does not run yet.
    pub(crate) fn prepare(free_kib: usize) -> Self {
        let roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"\n");
        roster.open_to_all();
        let mount = roster.folder().join("small");
        std::fs::create_dir(&mount).expect("a folder");
        let shared = format!("[shared]\ngroup = \"www-data\"\npath = {:?}\n[register]", mount.join("shared.mdb"));
        roster.configure("[register]", &shared);
        let total = free_kib.max(512);
        let script = format!(
            "mount -t tmpfs -o size={total}k,mode=755 tmpfs \"$0\" && {{ head -c {}k /dev/zero > \"$0/part\"; \
             mv \"$0/part\" \"$0/rest\"; exec sleep 600; }}",
            total - free_kib
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).arg(&mount);
        let holder = Process::start(&mut command, roster.folder());
        let small = Self { roster, holder, mount };
        eventually("it is mounted", SOON, || small.seen("rest").metadata().map(drop));
        small
    }

    fn start(free_kib: usize) -> Self {
        let mut small = Self::prepare(free_kib);
        small.run();
        small
    }

    /// Runs the sidecar until it answers.
    pub(crate) fn run(&mut self) {
        let mut command = self.within();
        command.arg(binary_path());
        let mut serve = self.roster.serve(command);
        self.roster.run_as(&mut serve);
        self.roster.becomes("live");
    }

    /// What runs a command in its namespace.
    fn within(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.holder.id().to_string()]);
        command
    }

    /// Waits until a reader has filled it. To write there, so as to try, would take the room from the reader.
    fn is_full(&self) {
        eventually("it is full", SOON, || {
            let free = statvfs(&self.seen("")).map_err(|error| error.to_string())?.blocks_free();
            ensure(free == 0, format!("{free} pages are free"))
        });
        assert!(std::fs::write(self.seen("more"), [0; 4_096]).is_err(), "there is room");
        let _ = std::fs::remove_file(self.seen("more"));
    }

    /// What is there, as it is seen from here.
    pub(crate) fn seen(&self, name: &str) -> PathBuf {
        let root = format!("/proc/{}/root{}", self.holder.id(), self.mount.display());
        Path::new(&root).join(name)
    }

    /// Runs a script as www-data, who may read the shared file, `$0`, and write its lock file.
    fn as_www_data(&self, script: &str) -> Process {
        let mut command = self.within();
        command.args(["setpriv", "--reuid", "www-data", "--regid", "www-data", "--clear-groups", "sh", "-c", script]);
        Process::start(command.arg(self.mount.join("shared.mdb")).stderr(Stdio::null()), self.roster.folder())
    }

    /// Waits until the file holds these data. An attempt for which there was no room is made again after 10 s.
    fn holds(&self, data: &str) {
        eventually(&format!("the file holds {data}"), SOON * 2, || {
            let trouble = self.roster.status().shared_file_error;
            ensure(trouble.is_none(), format!("{trouble:?}\n{}{}", self.lies_there(), self.roster.log()))?;
            let read = std::fs::read(self.seen("shared.mdb")).map_err(|error| error.to_string())?;
            ensure(read.windows(data.len()).any(|read| read == data.as_bytes()), "the node is not in it")
        });
    }

    /// Every file of it with its room, and what is free.
    fn lies_there(&self) -> String {
        let mut list = self.within();
        list.args(["sh", "-c", "ls -lasiR \"$0\"; df -k \"$0\"; df -i \"$0\""]).arg(&self.mount);
        String::from_utf8_lossy(&list.output().expect("a shell").stdout).into_owned()
    }

    fn change(&self, data: &str) {
        self.roster.write("nodes.toml", &format!("[nodes]\n\"/a\" = \"{data}\"\n"));
        self.roster.process().signal(nix::sys::signal::Signal::SIGHUP);
    }
}

/// Fills the file system by the lock file, until there is no room.
const GROW: &str = "head -c 1M /dev/zero >> \"$0-lock\"";

#[test]
fn a_sidecar_lives_where_its_shared_file_has_no_room_and_writes_it_when_there_is() {
    if is_skipped_without_root() {
        return;
    }
    for free in [0, 4, 8, 12, 16, 24, 72, 80, 140, 150, 160] {
        let small = Small::start(free);
        assert_eq!(small.roster.data("/a"), b"one");
        if free < 140 {
            eventually("it says why it is not written", SOON, || {
                let trouble = small.roster.status().shared_file_error.unwrap_or_default();
                ensure(trouble.contains("No space left on device"), format!("{free} KiB: {trouble}"))
            });
        }
        std::fs::remove_file(small.seen("rest")).expect("a file");
        small.holds("one");
    }
}

#[test]
fn a_start_takes_back_what_readers_have_filled_while_it_was_away() {
    if is_skipped_without_root() {
        return;
    }
    let mut small = Small::start(256);
    small.holds("one");
    let size = |small: &Small| small.seen("shared.mdb-lock").metadata().expect("a lock file").len();
    let right = size(&small);
    for (data, is_killed) in [("two", false), ("three", true)] {
        if is_killed {
            small.roster.kill();
        } else {
            assert!(small.roster.stop().success());
        }
        // It stays, and has the lock file open.
        let reader = small.as_www_data(&format!("exec 3<> \"$0-lock\"; {GROW}; sleep 600"));
        small.is_full();
        assert!(size(&small) > right, "something else fills it");
        small.run();
        small.change(data);
        small.holds(data);
        assert_eq!(size(&small), right);
        drop(reader);
    }
    assert!(!small.roster.log().contains("a new shared file takes the place"), "its readers would have noticed");
}

#[test]
fn a_start_takes_back_what_readers_have_filled_by_the_lock_file_of_a_file_that_was_replaced() {
    if is_skipped_without_root() {
        return;
    }
    let mut small = Small::start(512);
    small.holds("one");
    let script =
        "exec 3>> \"$0-lock\"; until [ -e \"$0-go\" ]; do sleep 0.1; done; head -c 1M /dev/zero >&3; sleep 600";
    let reader = small.as_www_data(script);
    let opened = Path::new("/proc").join(reader.id().to_string()).join("fd/3");
    let which = |small: &Small| small.seen("shared.mdb-lock").metadata().map(|file| file.ino()).ok();
    // What leads to the reader has other files open before.
    eventually("the reader has it open", SOON, || {
        ensure(opened.metadata().ok().map(|file| file.ino()) == which(&small), "not yet")
    });
    let right = opened.metadata().expect("it is open").len();
    let before = which(&small);
    std::fs::remove_file(small.seen("shared.mdb-lock")).expect("a lock file");
    eventually("another is there", SOON, || {
        ensure(which(&small).is_some_and(|which| Some(which) != before), "not yet")
    });
    assert!(small.roster.stop().success());
    std::fs::write(small.seen("shared.mdb-go"), "").expect("written");
    let size = || opened.metadata().expect("it is open").len();
    small.is_full();
    assert!(size() > right, "something else fills it");
    small.run();
    small.change("two");
    small.holds("two");
    assert_eq!(size(), right);
    drop(reader);
}

#[test]
fn a_start_takes_back_what_a_killed_process_left() {
    if is_skipped_without_root() {
        return;
    }
    for left in ["fresh", "fresh-lock", "data-lock", "model", "model-lock", "shared.claim"] {
        let mut small = Small::start(256);
        small.holds("one");
        small.roster.kill();
        let left = small.seen(".shared.mdb").join(left.replace("shared.claim", ".shared.claim"));
        let full = std::fs::write(&left, vec![0; 256 << 10]);
        assert!(full.is_err() && left.metadata().is_ok_and(|left| left.len() > 0), "{left:?}");
        small.run();
        small.change("two");
        small.holds("two");
    }
}

#[test]
fn a_reader_that_grows_lock_files_again_and_again_keeps_nobody_from_starting_and_ends_with_itself() {
    if is_skipped_without_root() {
        return;
    }
    // Without the reader there is room for a new file beside the one that is there, each with its lock files.
    let mut small = Small::start(448);
    small.holds("one");
    // The one that is there, and the one that was there first.
    let script = format!("exec 3>> \"$0-lock\"; while :; do {GROW}; head -c 1M /dev/zero >&3; done");
    let reader = small.as_www_data(&script);
    thread::sleep(Duration::from_secs(2));
    assert_eq!(small.roster.data("/a"), b"one");
    std::fs::remove_file(small.seen("shared.mdb-lock")).expect("a lock file");
    thread::sleep(Duration::from_secs(2));
    assert!(small.roster.stop().success());
    small.run();
    small.change("two");
    eventually("it is answered", SOON, || ensure(small.roster.data("/a") == b"two", "not yet"));
    drop(reader);
    small.holds("two");
    assert!(small.seen("shared.mdb-lock").exists() && small.roster.log().contains("read what an earlier process left"));
}

#[test]
fn readers_live_where_the_file_system_of_the_shared_file_is_full() {
    if is_skipped_without_root() {
        return;
    }
    let small = Small::start(256);
    let file = small.seen("shared.mdb");
    small.holds("one");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("a mode");
    let fill = format!("head -c 512k /dev/zero > {:?}", small.seen("rest"));
    assert!(!Command::new("sh").args(["-c", &fill]).output().expect("a shell").status.success(), "it is not full");
    // Each has a place of its own in the table of readers, of which 64 lie on a page.
    let code = format!("$db = dba_open({:?}, 'r', 'lmdb'); echo dba_fetch('node/a', $db); sleep(600);", file);
    let mut readers: Vec<_> =
        (0..70).map(|_| Command::new("php").args(["-r", &code]).stdout(Stdio::piped()).spawn().expect("PHP")).collect();
    for reader in &mut readers {
        let mut read = [0; 3];
        std::io::Read::read_exact(reader.stdout.as_mut().expect("a pipe"), &mut read).expect("what it reads");
        assert_eq!(&read, b"one");
    }
    for mut reader in readers {
        reader.kill().expect("it runs");
        reader.wait().expect("it ends");
    }
    assert_eq!(small.roster.data("/a"), b"one");
}

#[test]
fn a_start_takes_back_what_readers_have_filled_also_where_its_own_socket_has_no_room() {
    if is_skipped_without_root() {
        return;
    }
    let mut small = Small::prepare(256);
    let listen = |socket: &Path| format!("unix = {socket:?}");
    small.roster.configure(&listen(small.roster.socket()), &listen(&small.mount.join("roster.sock")));
    symlink(small.seen("roster.sock"), small.roster.socket()).expect("a link");
    // It counts attributes as files.
    let mut remount = small.within();
    remount.args(["mount", "-o", "remount,nr_inodes=32"]).arg(&small.mount);
    assert!(remount.status().expect("mount").success());
    small.run();
    small.holds("one");
    assert!(small.roster.stop().success());
    let lock = small.seen("shared.mdb-lock");
    let full = (0..).find_map(|number| xattr::set(&lock, format!("user.{number}"), &[0; 64]).err());
    assert_eq!(full.map(|error| error.kind()), Some(ErrorKind::StorageFull));
    assert!(UnixListener::bind(small.seen("more")).is_err(), "there is room");
    small.run();
    small.change("two");
    small.holds("two");
}
