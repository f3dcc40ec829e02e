//! Whoever may read the shared file may write its lock file: what that can do to the sidecar, to a start and to a stop.
//! Where root runs the tests, it is www-data who does it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lmdb::{EnvironmentFlags, Transaction};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::Signal;
use nix::unistd::{geteuid, getppid};

use crate::harness::{Over, Roster, SOON, as_www_data, ensure, eventually, of_www_data};
use crate::idl::Origin;

/// How long an answer, and what a start and a stop take that nothing holds up, may take on a busy machine. A stop that
/// is held up is cut after 10 s, which is `stop_timeout`.
const AT_ONCE: Duration = Duration::from_secs(8);

/// How soon the file is well again when the attack is over: it is not replaced more often than every 30 s.
const HEALED: Duration = Duration::from_secs(60);

/// What is done to a lock file. It stays open, so that what is locked stays locked.
type Attack = fn(&File);

/// Does this to the lock file, whichever lies there, again and again, until it is over.
fn attack(path: &Path, what: Attack, over: &AtomicBool) {
    // Each is opened once: the tests beside this one need descriptors too, and to close one unlocks the file.
    let mut held: Vec<(u64, File)> = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let there = path.metadata().map(|file| file.ino()).ok();
        if let Some(there) = there.filter(|there| held.last().is_none_or(|(inode, _)| inode != there))
            && let Ok(file) = File::options().read(true).write(true).open(path)
        {
            held.push((there, file));
        }
        if let Some((_, file)) = held.last() {
            what(file);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a new PHP process reads. One that hangs, as under an attack, is not waited for.
fn read(roster: &Roster) -> String {
    let code = format!(
        "$db = @dba_open('{}', 'r', 'lmdb'); echo $db ? dba_fetch('node/a', $db) : 'no file';",
        roster.shared_file().display()
    );
    let ended = of_www_data(Command::new("timeout")).args(["3", "php", "-r", &code]).output().expect("php");
    String::from_utf8_lossy(&ended.stdout).into_owned()
}

fn change(roster: &Roster, to: &str) {
    roster.write("nodes.new", &format!("[nodes]\n\"/a\" = \"{to}\""));
    std::fs::rename(roster.folder().join("nodes.new"), roster.folder().join("nodes.toml")).expect("replaced");
    let began = Instant::now();
    eventually("the endpoint has the change", SOON, || ensure(roster.data("/a") == to.as_bytes(), "not yet"));
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
}

/// A PHP process that has the file open as `$db`, is killed on drop, and has printed a line.
struct Reader(Child, BufReader<ChildStdout>);

impl Reader {
    fn start(roster: &Roster, code: &str) -> Self {
        let code = format!("$db = dba_open('{}', 'r', 'lmdb'); {code}", roster.shared_file().display());
        let mut php = of_www_data(Command::new("php")).args(["-r", &code]).stdout(Stdio::piped()).spawn().expect("php");
        let output = BufReader::new(php.stdout.take().expect("its output"));
        let mut reader = Self(php, output);
        assert_ne!(reader.line(), "");
        reader
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A sidecar whose shared file www-data may read. It does not run yet.
fn prepare(shared: &str) -> Roster {
    let roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    let group = if geteuid().is_root() { "group = \"www-data\"\n" } else { "" };
    roster.configure("[[file]]", &format!("[shared]\n{group}{shared}\n[[file]]"));
    roster.open_to_all();
    roster
}

/// While it is done, the sidecar lives, answers, stops and starts as ever, and begins with what was known; afterwards
/// PHP reads again. Where the file had to be replaced for that, the log says why.
fn assert_harmless(why: Option<&str>, what: Attack) {
    let mut roster = prepare("");
    std::fs::create_dir(roster.folder().join("disk")).expect("a folder");
    roster.run();
    roster.becomes("live");
    eventually("PHP reads it", SOON, || ensure(read(&roster) == "one", "not yet"));
    // One that has it open already, whatever becomes of it.
    let _reader = Reader::start(&roster, "echo \"open\\n\"; while (true) { @dba_fetch('node/a', $db); usleep(1000); }");
    let (over, folder) = (AtomicBool::new(false), roster.folder().to_owned());
    std::thread::scope(|threads| {
        let _over = Over(&over);
        threads.spawn(|| as_www_data(|| attack(&folder.join("shared.mdb-lock"), what, &over)));
        std::thread::sleep(Duration::from_secs(4));
        change(&roster, "two");
        std::thread::sleep(Duration::from_millis(1_500));
        let began = Instant::now();
        assert!(roster.stop().success(), "it did not live until the stop");
        assert!(began.elapsed() < AT_ONCE, "the stop took {:?}", began.elapsed());
        // It starts while what it mirrors is away.
        std::fs::remove_file(folder.join("nodes.toml")).expect("it is there");
        let began = Instant::now();
        roster.run();
        assert!(began.elapsed() < AT_ONCE, "the start took {:?}", began.elapsed());
        let known = roster.get("/a").expect("what was known");
        assert_eq!((known.node.data, known.freshness.origin), (b"two".to_vec(), Origin::RESTORED));
    });
    change(&roster, "three");
    eventually("PHP reads it again", HEALED, || {
        let (read, trouble) = (read(&roster), roster.status().shared_file_error);
        ensure(read == "three" && trouble.is_none(), format!("{read:?} {trouble:?}"))
    });
    let log = roster.log();
    let replaced = log.lines().find(|line| line.contains("replaced the shared file"));
    match why {
        Some(why) => assert!(replaced.is_some_and(|line| line.contains(why)), "{replaced:?}"),
        None => assert_eq!(replaced, None),
    }
}

fn put(file: &File, at: u64, bytes: &[u8]) {
    file.write_all_at(bytes, at).expect("written");
}

/// Locks a part of it, as LMDB does, as long as the file is open. A length of 0: to the end.
fn lock(file: &File, kind: libc::c_int, start: i64, length: i64) {
    let (l_type, l_whence) = (kind as libc::c_short, libc::SEEK_SET as libc::c_short);
    let lock = libc::flock { l_type, l_whence, l_start: start, l_len: length, l_pid: 0 };
    let _ = fcntl(file, FcntlArg::F_SETLK(&lock));
}

/// The tables of readers: the first slot, and the size of one.
const SLOTS: u64 = 128;
const SLOT: u64 = 64;

/// Takes places as this process would, which lives.
fn take(file: &File, slots: u64, transaction: u64) {
    let process = std::process::id();
    for slot in 0..slots {
        put(file, SLOTS + slot * SLOT, &transaction.to_ne_bytes());
        put(file, SLOTS + slot * SLOT + 8, &process.to_ne_bytes());
    }
    put(file, 56, &(slots as u32).to_ne_bytes());
    lock(file, libc::F_WRLCK, process.into(), 1);
}

#[test]
fn a_lock_file_that_is_cut_off() {
    assert_harmless(Some("a reader cut it off"), |file| file.set_len(0).expect("cut off"));
}

#[test]
fn a_lock_file_that_is_made_huge() {
    assert_harmless(None, |file| file.set_len(1 << 40).expect("it is sparse"));
}

#[test]
fn a_huge_number_of_readers() {
    assert_harmless(None, |file| put(file, 56, &u32::MAX.to_ne_bytes()));
}

#[test]
fn junk_in_the_table_of_readers() {
    assert_harmless(None, |file| put(file, SLOTS, &[0xff; 64 * 1_024]));
}

#[test]
fn junk_all_over() {
    assert_harmless(Some("a reader wrote over it"), |file| put(file, 0, &[0xff; 128 + 64 * 1_024]));
}

#[test]
fn a_transaction_that_steps_back() {
    assert_harmless(None, |file| put(file, 48, &1_u64.to_ne_bytes()));
}

#[test]
fn both_mutexes_held() {
    assert_harmless(Some("holds the mutex of its table"), |file| {
        let thread = std::process::id().to_ne_bytes();
        put(file, 8, &thread);
        put(file, 64, &thread);
    });
}

#[test]
fn two_processes_that_hold_the_mutexes_by_turns() {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    assert_harmless(Some("holds the mutex of its table"), |file| {
        let (parent, own) = (getppid().as_raw().to_ne_bytes(), std::process::id().to_ne_bytes());
        let (of_readers, of_writer) =
            if TURN.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { (parent, own) } else { (own, parent) };
        put(file, 8, &of_readers);
        put(file, 64, &of_writer);
    });
}

#[test]
fn many_locks_of_one_byte() {
    assert_harmless(Some("processes seem to have locked it"), |file| {
        // Those of one process that lie side by side would be one.
        (0..3_000).for_each(|number| lock(file, libc::F_WRLCK, 10_000 + 2 * number, 1));
    });
}

#[test]
fn a_lock_on_all_of_it() {
    assert_harmless(Some("has locked it"), |file| {
        // Where somebody reads, not all of it can be locked; nobody has so large a number.
        let parts = [(0, 1), (1, 0), (1 << 23, 0)];
        parts.iter().for_each(|(start, length)| lock(file, libc::F_WRLCK, *start, *length));
    });
}

#[test]
fn a_full_table_of_readers() {
    assert_harmless(Some("has taken most places of its table"), |file| take(file, 1_024, u64::MAX));
}

#[test]
fn all_states_pinned_for_ever() {
    assert_harmless(None, |file| take(file, 1, 1));
}

/// Replaces 2 MB of the tree.
fn replace(roster: &Roster, round: usize) {
    let data = "x".repeat(100_000);
    let nodes: String = (0..20).map(|n| format!("\"/n{n}\" = \"{round} {data}\"\n")).collect();
    roster.write("nodes.new", &format!("[nodes]\n\"/a\" = \"{round}\"\n{nodes}"));
    std::fs::rename(roster.folder().join("nodes.new"), roster.folder().join("nodes.toml")).expect("replaced");
    roster.process().signal(Signal::SIGHUP);
}

/// Waits until a new PHP process reads that of the round.
fn reads(roster: &Roster, round: usize, within: Duration) {
    eventually(&format!("PHP reads round {round}"), within, || {
        let now = read(roster);
        ensure(now == round.to_string(), format!("{now} {:?}", roster.status().shared_file_error))
    });
}

/// Waits until nothing is wrong with the file, which is told a moment after it is written.
fn is_well(roster: &Roster) {
    eventually("nothing is wrong with it", HEALED, || match roster.status().shared_file_error {
        None => Ok(()),
        Some(trouble) => Err(trouble),
    });
}

#[test]
fn a_reader_that_keeps_an_old_state_fills_neither_the_file_nor_the_memory() {
    let mut roster = prepare("max_pinned = \"16MiB\"");
    roster.run();
    roster.becomes("live");
    let renew = |rounds: Range<usize>| {
        for round in rounds {
            replace(&roster, round);
            reads(&roster, round, SOON);
        }
    };
    renew(0..4);
    let slow = mapped(&roster);
    let (old, written) = (slow.begin_ro_txn().expect("a transaction"), slow.open_db(None).expect("a database"));
    let (memory, file) = (roster.memory(), roster.shared_file());
    let size = || file.metadata().expect("a file").len();
    let before = size();
    let replaced = || roster.log().matches("replaced the shared file").count();
    let mut rounds = 4..40;
    while replaced() == 0 {
        renew(rounds.next().map(|round| round..round + 1).expect("it was replaced before"));
    }
    // The slow one has its state as a whole, and then sees that it is to look for another file.
    assert_eq!(old.get(written, b"node/a"), Ok(&b"3"[..]));
    drop(old);
    eventually("it is to look for another", SOON, || {
        let left = slow.begin_ro_txn().map_err(|error| error.to_string())?;
        let report = left.get(written, b"meta/freshness").map(String::from_utf8_lossy).expect("a report");
        ensure(report.contains("\"writtenAt\":0,"), report)
    });
    renew(rounds);
    assert_eq!(replaced(), 1);
    assert!(size() < before + (40 << 20), "from {before} to {}", size());
    assert!(roster.memory() < memory + (60 << 20), "from {memory} to {}", roster.memory());

    // One that does so with each new file is named, and the file is not renewed for a while; but no memory is lost.
    let (mut round, mut files, name) = (40, Vec::new(), format!("process {} (", std::process::id()));
    eventually("it is named", HEALED, || {
        let current = file.metadata().expect("a file").ino();
        if files.last().is_none_or(|(inode, _)| *inode != current) {
            let again = mapped(&roster);
            // It ends with the reader.
            std::mem::forget(again.begin_ro_txn());
            files.push((current, again));
        }
        replace(&roster, round);
        round += 1;
        std::thread::sleep(Duration::from_millis(50));
        let trouble = roster.status().shared_file_error.unwrap_or_default();
        ensure(trouble.starts_with(&name) && trouble.contains("keeps an old state of it"), trouble)
    });
    assert!(size() < before + (40 << 20), "from {before} to {}", size());
    drop(files);
    reads(&roster, round - 1, HEALED);
    is_well(&roster);
}

#[test]
fn a_reader_that_keeps_the_first_state_for_ever_is_named_and_fills_neither_the_file_nor_the_memory() {
    let mut roster = prepare("max_pinned = \"16MiB\"");
    roster.run();
    roster.becomes("live");
    let (over, lock_file, file) =
        (AtomicBool::new(false), roster.folder().join("shared.mdb-lock"), roster.shared_file());
    let size = || file.metadata().map_or(0, |file| file.len());
    let (memory, before) = (roster.memory(), size());
    let (mut round, named) = (0, format!("process {} (", std::process::id()));
    std::thread::scope(|threads| {
        let _over = Over(&over);
        threads.spawn(|| as_www_data(|| attack(&lock_file, |file| take(file, 1, 1), &over)));
        let (mut named_since, mut replaced) = (None, 0);
        eventually("it is named for some seconds after a file was replaced", HEALED, || {
            replace(&roster, round);
            round += 1;
            let last = (round - 1).to_string();
            eventually("the endpoint goes on", SOON, || ensure(roster.data("/a") == last.as_bytes(), "it does not"));
            assert!(size() < before + (60 << 20), "from {before} to {}", size());
            assert!(roster.memory() < memory + (80 << 20), "from {memory} to {}", roster.memory());
            let trouble = roster.status().shared_file_error.unwrap_or_default();
            let is_named = trouble.starts_with(&named) && trouble.contains("keeps an old state of it");
            named_since = is_named.then(|| named_since.unwrap_or_else(Instant::now));
            replaced = roster.log().matches("replaced the shared file").count();
            let lasts = named_since.is_some_and(|since| since.elapsed() > Duration::from_secs(5));
            ensure(lasts && replaced > 0, format!("{trouble} {replaced}"))
        });
    });
    reads(&roster, round - 1, HEALED);
    is_well(&roster);
}

/// The file as other languages read it.
fn mapped(roster: &Roster) -> lmdb::Environment {
    let flags = EnvironmentFlags::NO_SUB_DIR | EnvironmentFlags::READ_ONLY | EnvironmentFlags::NO_TLS;
    as_www_data(|| lmdb::Environment::new().set_flags(flags).open(&roster.shared_file()).expect("it can be read"))
}
