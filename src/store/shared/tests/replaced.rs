//! Replaced files: watched, emptied, and no more of them than readers may keep.

use std::io::Write;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{Uid, setfsuid};

use super::*;

#[test]
fn a_lock_file_that_readers_enlarge_during_a_start_costs_no_other_file() {
    let fixture = SharedFileFixture::with([vec![put("/a", "1")]]);
    let mut open = fixture.start_as(feeds("cluster"));
    let which = || fixture.file().metadata().expect("a file").ino();
    let before = which();
    let lock = File::options().write(true).open(lock_file(&fixture.file())).expect("a file");
    lock.set_len(1 << 20).expect("its group may");
    open.write_between_beats();
    assert_eq!(which(), before);
    fixture.assert_holds(&open.store);
}

#[test]
fn who_reads_what_was_emptied_does_not_keep_its_memory() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.publish((0..200).map(|n| put(&format!("/{n}"), &"x".repeat(5_000))).collect());
    let data = File::options().read(true).write(true).open(fixture.file()).expect("a file");
    let memory = || data.metadata().expect("a file").blocks() * 512;
    let lock = break_lock(&fixture);
    let now = Instant::now();
    let mut beat = |seconds| drop(open.shared.writer.make_ready(true, now + Duration::from_secs(seconds)));
    beat(0);
    beat(3);
    beat(40);
    assert!(memory() < 200_000);
    // As reading a mapping does on a tmpfs.
    data.write_all_at(&[0; 500_000], 200_000).expect("written");
    beat(41);
    assert!(memory() < 200_000);
    // An empty one is left alone: to empty it, the kernel looks through all of its mappings.
    data.set_modified(SystemTime::UNIX_EPOCH).expect("it is ours");
    beat(42);
    assert_eq!(data.metadata().and_then(|data| data.modified()).expect("a time"), SystemTime::UNIX_EPOCH);
    drop(lock);
}

#[test]
fn who_holds_a_replaced_file_by_its_path_alone_keeps_no_memory() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.publish((0..200).map(|n| put(&format!("/{n}"), &"x".repeat(5_000))).collect());
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let held = [fixture.file(), lock_file(&fixture.file())]
        .map(|path| File::from(nix::fcntl::open(&path, flags, Mode::empty()).expect("a file")));
    open.replace(&fixture, Instant::now());
    open.beats_until(|| held.iter().all(|held| held.metadata().expect("a file").blocks() == 0));
    assert!(held.iter().all(|held| held.metadata().expect("a file").permissions().mode() & 0o077 == 0));
    assert_eq!((second_names(&fixture), known_locks(&fixture)), (0, 1));
}

#[test]
fn the_next_process_knows_the_files_that_were_replaced() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.publish((0..200).map(|n| put(&format!("/{n}"), &"x".repeat(5_000))).collect());
    let data = File::open(fixture.file()).expect("a file");
    open.replace(&fixture, Instant::now());
    drop(open);
    let open = fixture.open();
    let memory = || data.metadata().expect("a file").blocks() * 512;
    assert!(second_names(&fixture) == 1 && memory() > 1_000_000);
    drop(open);
    fixture.date_second_name(SystemTime::now() + Duration::from_secs(3_600));
    drop(fixture.open());
    assert!(memory() > 1_000_000, "the clock was set back");
    fixture.date_second_name(SystemTime::now() - Duration::from_secs(40));
    let mut open = fixture.open();
    assert!(second_names(&fixture) == 1 && memory() < 200_000);
    drop(data);
    open.beats_until(|| second_names(&fixture) == 0);
    open.publish(vec![put("/0", "after")]);
    fixture.assert_holds(&open.store);
}

#[test]
fn no_file_is_replaced_while_readers_have_one_that_a_start_replaced_and_that_is_not_emptied() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.publish(vec![put("/a", "1")]);
    let data = File::open(fixture.file()).expect("a file");
    drop(open);
    drop(break_lock(&fixture));
    let mut open = fixture.open();
    let which = || fixture.file().metadata().expect("a file").ino();
    let (start, second) = (Instant::now(), which());
    open.replace(&fixture, start);
    assert_eq!(which(), second);
    assert!(open.shared.writer.trouble().is_some_and(|why| why.ends_with("another one takes its place soon")));
    open.shared.writer.make_ready(true, start + Duration::from_secs(40)).expect("ready");
    assert_ne!(which(), second);
    drop(data);
}

#[test]
fn a_file_whose_lock_file_alone_was_replaced_is_replaced_by_the_next_start() {
    let fixture = SharedFileFixture::with([vec![put("/a", "1")]]);
    let own = fixture.folder.path().join(".shared.mdb");
    let replaces = || {
        let which = || fixture.file().metadata().expect("a file").ino();
        let before = which();
        let mut open = fixture.open();
        open.write();
        fixture.assert_holds(&open.store);
        which() != before
    };
    assert!(!replaces(), "nothing was in the making");
    fs::write(own.join("fresh"), "half").and_then(|()| fs::write(own.join("model-lock"), "whole")).expect("files");
    assert!(!replaces(), "neither was renamed");
    fs::write(own.join("fresh"), "whole").expect("a file");
    assert!(replaces(), "the lock file was");
}

#[test]
fn what_a_start_replaces_is_forgotten_too_whatever_lay_there() {
    let fixture = SharedFileFixture::with([vec![put("/a", "1")]]);
    fs::remove_file(lock_file(&fixture.file())).expect("a file");
    let mut open = fixture.open();
    let are_forgotten = |open: &mut Open| open.beats_until(|| second_names(&fixture) == 0);
    are_forgotten(&mut open);
    fs::remove_file(fixture.file())
        .and_then(|()| std::os::unix::fs::symlink("/etc/passwd", fixture.file()))
        .expect("a link");
    open.publish(vec![put("/a", "2")]);
    fixture.assert_holds(&open.store);
    are_forgotten(&mut open);
    drop(open);
    let left = fixture.folder.path().join(".shared.mdb/replaced-1");
    std::os::unix::fs::symlink("/etc/passwd", &left).expect("a link");
    are_forgotten(&mut fixture.open());
}

#[test]
fn a_replaced_file_that_is_found_once_more_is_forgotten_when_it_is_closed() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.publish(vec![put("/a", "1")]);
    let data = File::open(fixture.file()).expect("a file");
    open.replace(&fixture, Instant::now());
    fs::remove_file(fixture.folder.path().join(".shared.mdb/.shared.claim")).expect("a file");
    open.make_ready();
    assert_eq!(second_names(&fixture), 2, "the one that was replaced, and the one that the claim anew did");
    drop(data);
    open.beats_until(|| second_names(&fixture) == 0);
}

#[test]
fn a_second_name_of_what_cannot_be_opened_is_removed() {
    if !Uid::effective().is_root() {
        let _ = writeln!(
            io::stderr(),
            "\nSKIPPED a_second_name_of_what_cannot_be_opened_is_removed: only root can be others"
        );
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (name, www_data) = (folder.path().join("replaced-1-1"), 33);
    fs::write(&name, "of root").expect("written");
    fs::set_permissions(&name, fs::Permissions::from_mode(0o600)).expect("it is ours");
    std::os::unix::fs::chown(&folder, Some(www_data), None).expect("root can");
    let find = || {
        // Of this thread only.
        setfsuid(Uid::from_raw(www_data));
        super::super::replaced::found(folder.path(), None).map(|found| found.len())
    };
    let found = thread::scope(|threads| threads.spawn(find).join().expect("it does not panic"));
    assert!(matches!(found, Ok(0)) && !name.exists(), "{found:?}");
}

#[test]
fn a_file_that_can_have_no_second_name_is_watched_over_too() {
    let fixture = SharedFileFixture::with([]);
    let watched = super::super::replaced::remember(&fixture.file(), &fixture.folder.path().join("not there"));
    assert!(watched.is_some_and(|watched| watched.file_id().is_some()));
}

#[test]
fn a_file_that_was_not_replaced_after_all_has_no_second_name() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.publish(vec![put("/a", "1")]);
    let lock = lock_file(&fixture.file());
    fs::remove_file(&lock).and_then(|()| fs::create_dir(&lock)).expect("a folder");
    open.make_ready();
    open.shared.writer.trouble().expect("no lock file can lie there");
    assert_eq!(second_names(&fixture), 0);
    fixture.assert_holds(&open.store);
}

#[test]
fn a_replaced_file_that_is_being_copied_is_emptied_when_it_was() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.publish((0..200).map(|n| put(&format!("/{n}"), &"x".repeat(5_000))).collect());
    let (env, data, now) = (open.env(), File::open(fixture.file()).expect("a file"), Instant::now());
    open.replace(&fixture, now);
    open.shared.writer.make_ready(true, now + Duration::from_secs(60)).expect("ready");
    copy::copy(&env, &fixture.copy()).expect("copied");
    assert_eq!(Contents::load(&fixture.copy()).expect("a whole copy").nodes, *open.store.snapshot().nodes());
    drop(env);
    open.shared.writer.make_ready(true, now + Duration::from_secs(61)).expect("ready");
    assert!(data.metadata().expect("a file").blocks() * 512 < 200_000);
}

#[test]
fn no_file_is_replaced_while_readers_have_many_that_were() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.publish(vec![put("/a", "1")]);
    let (start, mut held) = (Instant::now(), Vec::new());
    for n in 0..9 {
        held.push(File::open(fixture.file()).expect("a file"));
        open.replace(&fixture, start + Duration::from_secs(n * 60));
        assert_eq!(open.shared.writer.trouble().is_some(), n == 8, "{n}");
    }
    // Nor by the next process.
    drop(open);
    drop(break_lock(&fixture));
    let mut open = fixture.start_as(feeds("cluster"));
    let why = open.shared.writer.make_ready(true, Instant::now()).expect_err("why it is not replaced");
    assert!(why.contains("8 files open that were replaced before: end those, but for the sidecar's "), "{why}");
    let command = why.split('`').nth(1).expect("a command");
    let inode = |file: io::Result<fs::Metadata>| file.expect("a file").ino();
    let mut named: Vec<_> = command.split(' ').skip(2).map(|path| inode(fs::metadata(path))).collect();
    let mut expected: Vec<_> = held[..8].iter().map(|file| inode(file.metadata())).collect();
    named.sort_unstable();
    expected.sort_unstable();
    assert!(command.starts_with("fuser -v ") && named == expected, "{command}");
    held.clear();
    // A child of another test has them open until it executes its own program.
    assert!((1..2_000).any(|n| open.shared.writer.make_ready(true, start + Duration::from_secs(n * 600)).is_ok()));
}

#[test]
fn a_lock_file_that_is_known_once_more_is_forgotten_as_others_are() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.publish(vec![put("/a", "1")]);
    fs::remove_file(fixture.folder.path().join(".shared.mdb/.shared.claim")).expect("a file");
    fs::remove_file(lock_file(&fixture.file())).expect("a file");
    open.make_ready();
    open.beats_until(|| known_locks(&fixture) == 1);
}
