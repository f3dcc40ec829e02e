//! The shared file when it is deleted, replaced, or cannot be ours yet: what it held is not lost.

use std::io::Write;

use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{Uid, setfsuid};

use super::*;

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

    /// Lets the writer's heart beat until that is so: a child of another test has files open until it runs its own
    /// program.
    fn beats_until(&mut self, is_so: impl Fn() -> bool) {
        assert!((0..2_000).any(|_| {
            self.make_ready();
            is_so()
        }));
    }
}

impl SharedFileFixture {
    /// Puts a folder where a new file is made, so that none can be.
    fn hinder(&self) -> PathBuf {
        let fresh = self.folder.path().join(".shared.mdb/fresh");
        let _ = fs::remove_file(&fresh);
        fs::create_dir(&fresh).expect("a folder");
        fresh
    }

    /// Gives the one file that was replaced the second name that it has if that was `then`.
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

#[test]
fn what_is_deleted_while_it_is_not_mapped_is_made_anew_whole() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.sync();
    open.publish((0..100).map(|n| put(&format!("/{n}"), "before")).collect());
    for file in [fixture.file(), lock_file(&fixture.file())] {
        open.shared.writer.unmap();
        fs::remove_file(&file).expect("a file");
        open.publisher.publish(vec![put("/0", &format!("without {}", file.display()))]);
        open.write_between_beats();
        open.write();
        fixture.assert_holds(&open.store);
    }
}

#[test]
fn what_cannot_be_made_anew_at_once_is_whole_when_it_can() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.sync();
    open.publish((0..100).map(|n| put(&format!("/{n}"), "before")).collect());
    let hindrance = fixture.hinder();
    open.shared.writer.unmap();
    fs::remove_file(lock_file(&fixture.file())).expect("a file");
    open.make_ready();
    let told = open.shared.writer.trouble().expect("no file can be made");
    assert!(
        told.starts_with(&format!("new readers cannot find it: cannot put a file at {}", fixture.file().display()))
    );
    open.publisher.publish(vec![Change::Delete(path("/1")), put("/0", "meanwhile")]);
    open.write_between_beats();
    fixture.assert_holds(&open.store);
    assert_eq!(open.shared.writer.trouble().as_ref(), Some(&told), "it does not come and go with each change");
    fs::remove_dir(hindrance).expect("a folder");
    open.write();
    assert_eq!(open.shared.writer.trouble().as_ref(), Some(&told), "it is not copied again at each heartbeat");
    open.shared.writer.make_ready(true, Instant::now() + Duration::from_secs(10)).expect("ready");
    assert_eq!(open.shared.writer.trouble(), None);
    fixture.assert_holds(&open.store);
}

#[test]
fn a_hidden_folder_that_is_removed_is_made_anew_also_where_the_file_is_not_mapped() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.sync();
    let own = fixture.folder.path().join(".shared.mdb");
    for is_mapped in [true, false] {
        if !is_mapped {
            open.shared.writer.unmap();
        }
        fs::remove_dir_all(&own).expect("a folder");
        open.publish(vec![put("/a", &is_mapped.to_string())]);
        fixture.assert_holds(&open.store);
        assert!(known_locks(&fixture) == 1, "readers may write one");
    }
    drop(open);
    let mut open = fixture.start_as(feeds("cluster"));
    assert!(open.shared.left().is_some(), "all of it was left");
    fs::remove_dir_all(&own).expect("a folder");
    open.write();
    fixture.assert_holds(&open.store);
}

#[test]
fn who_has_lost_the_claim_writes_nothing_more_until_it_is_free() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.sync();
    open.publish(vec![put("/a", "1")]);
    let own = fixture.folder.path().join(".shared.mdb");
    // Without the rest, the other one makes another file; with that, it writes the same.
    for is_alone in [false, true] {
        if is_alone { fs::remove_file(own.join(".shared.claim")) } else { fs::remove_dir_all(&own) }.expect("removed");
        let mut other = fixture.open();
        for is_beat in [false, true] {
            let why = open.shared.writer.make_ready(is_beat, Instant::now()).expect_err("another has it");
            assert!(why.contains("another sidecar"), "{why}");
        }
        // LMDB keeps the newest state and the one before: none of ours is left.
        for round in ["first", "second"] {
            other.publish(vec![put("/b", round), put("/a", &is_alone.to_string())]);
        }
        drop(other);
        open.publisher.publish(vec![put("/a", "2")]);
        open.write_between_beats();
        fixture.assert_holds(&open.store);
    }
}

#[test]
fn what_another_sidecar_wrote_between_two_looks_is_written_over() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.sync();
    open.publish(vec![put("/a", "1")]);
    fs::remove_file(fixture.folder.path().join(".shared.mdb/.shared.claim")).expect("a file");
    let mut other = fixture.open();
    for round in ["first", "second"] {
        other.publish(vec![put("/b", round)]);
    }
    drop(other);
    open.publisher.publish(vec![put("/a", "2")]);
    open.write_between_beats();
    fixture.assert_holds(&open.store);
}

#[test]
fn who_has_lost_the_claim_leaves_all_files_to_its_owner() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.publish(vec![put("/a", "1")]);
    fs::remove_file(fixture.folder.path().join(".shared.mdb/.shared.claim")).expect("a file");
    let mut other = fixture.open();
    let lock = File::options().write(true).open(lock_file(&fixture.file())).expect("a file");
    lock.set_len(1 << 20).expect("its group may");
    open.shared.writer.make_ready(true, Instant::now()).expect_err("another has it");
    assert_eq!(lock.metadata().expect("a file").len(), 1 << 20);
    drop(lock);
    other.replace(&fixture, Instant::now());
    other.beats_until(|| (second_names(&fixture), known_locks(&fixture)) == (0, 1));
}

#[test]
fn a_claim_that_is_lost_before_the_file_is_mapped_costs_no_second_one() {
    let fixture = SharedFileFixture::with([vec![put("/a", "1")]]);
    let mut open = fixture.start_as(feeds("cluster"));
    let which = || fixture.file().metadata().expect("a file").ino();
    let before = which();
    fs::remove_file(fixture.folder.path().join(".shared.mdb/.shared.claim")).expect("a file");
    open.write();
    assert_eq!(which(), before);
    fixture.assert_holds(&open.store);
}

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
fn a_hidden_folder_that_was_closed_is_opened_again_and_nothing_is_written_anew() {
    let close_and_write = || {
        let fixture = SharedFileFixture::new();
        let mut open = fixture.open();
        open.publish(vec![put("/a", "1")]);
        let which = || fixture.file().metadata().expect("a file").ino();
        let (before, own) = (which(), fixture.folder.path().join(".shared.mdb"));
        for mode in [0o000, 0o400] {
            fs::set_permissions(&own, fs::Permissions::from_mode(mode)).expect("ours");
            open.publish(vec![put("/a", &mode.to_string())]);
            fixture.assert_holds(&open.store);
        }
        assert_eq!(which(), before);
    };
    let www_data = 33;
    thread::scope(|threads| {
        threads.spawn(|| {
            if Uid::effective().is_root() {
                become_user(www_data);
            }
            close_and_write();
        });
    });
}

/// Has this thread alone be another user, whom permissions hold up.
#[allow(unsafe_code)]
fn become_user(user: libc::uid_t) {
    // SAFETY: it takes no pointer. The function of this name would change all threads.
    let code = unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) };
    assert_eq!(code, 0, "{}", io::Error::last_os_error());
}

#[test]
fn a_file_that_was_moved_away_keeps_what_it_holds() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.publish((0..200).map(|n| put(&format!("/{n}"), &"x".repeat(5_000))).collect());
    let kept = fixture.folder.path().join("kept");
    fs::rename(fixture.file(), &kept).expect("moved");
    let _open = File::open(&kept).expect("a file");
    let now = Instant::now();
    for seconds in [0, 40, 41] {
        open.shared.writer.make_ready(true, now + Duration::from_secs(seconds)).expect("ready");
    }
    assert_eq!(Contents::load(&kept).expect("a whole file").nodes, *open.store.snapshot().nodes());
    assert_eq!(kept.metadata().expect("a file").mode() & 0o077, 0, "whoever may only read keeps no memory by its name");
}

#[test]
fn a_lock_file_that_was_moved_away_and_back_can_be_opened_as_before() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    let (lock, elsewhere) = (lock_file(&fixture.file()), fixture.folder.path().join("elsewhere"));
    let hindrance = fixture.hinder();
    fs::rename(&lock, &elsewhere).expect("moved");
    open.make_ready();
    open.shared.writer.trouble().expect("no other can be made");
    fs::rename(&elsewhere, &lock).expect("moved back");
    open.make_ready();
    assert_eq!(open.shared.writer.trouble(), None);
    assert_eq!(lock.metadata().expect("a file").mode() & 0o777, 0o660);
    fs::remove_dir(hindrance).expect("a folder");
}

#[test]
fn what_cannot_be_put_in_its_place_at_a_start_is_not_tried_again_with_each_change() {
    let fixture = SharedFileFixture::with([vec![put("/a", "1")]]);
    copy::copy(&fixture.open().env(), &fixture.copy()).expect("copied");
    fs::remove_file(fixture.file()).expect("a reboot");
    let mut open = fixture.start_as(feeds("cluster"));
    let (hindrance, start) = (fixture.hinder(), Instant::now());
    let mut make_ready = |seconds| open.shared.writer.make_ready(false, start + Duration::from_secs(seconds));
    let why = make_ready(0).expect_err("no file can be made");
    fs::remove_dir(hindrance).expect("a folder");
    assert_eq!(make_ready(9), Err(why));
    make_ready(10).expect("ready");
    open.write();
    fixture.assert_holds(&open.store);
}

#[test]
fn a_file_that_goes_before_it_could_be_mapped_is_made_anew() {
    let fixture = SharedFileFixture::with([vec![put("/a", "1")]]);
    let mut open = fixture.start_as(feeds("cluster"));
    fs::remove_file(fixture.file()).expect("a file");
    open.write();
    fixture.assert_holds(&open.store);
}

#[test]
fn a_file_that_is_exchanged_before_it_could_be_mapped_is_made_anew_too() {
    let other = SharedFileFixture::with([vec![put("/b", "other")]]);
    for of_copy in [false, true] {
        for how in ["a link", "another file", "the same with other bytes"] {
            let fixture = SharedFileFixture::with([vec![put("/a", "1")]]);
            if of_copy {
                copy::copy(&fixture.open().env(), &fixture.copy()).expect("copied");
                fs::remove_file(fixture.file()).expect("a reboot");
            }
            let (mut open, read) =
                (fixture.start_as(feeds("cluster")), if of_copy { fixture.copy() } else { fixture.file() });
            let exchanged = read.with_extension("new");
            match how {
                "a link" => std::os::unix::fs::symlink("/etc/passwd", &exchanged).expect("a link"),
                _ => drop(fs::copy(other.file(), &exchanged).expect("copied")),
            }
            match how {
                "the same with other bytes" => drop(fs::copy(exchanged, read).expect("exchanged")),
                _ => fs::rename(exchanged, read).expect("exchanged"),
            }
            open.write();
            fixture.assert_holds(&open.store);
        }
    }
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
    // As a mapping that is read does on a tmpfs.
    data.write_all_at(&[0; 500_000], 200_000).expect("written");
    beat(41);
    assert!(memory() < 200_000);
    // What is empty is left alone: to empty it, the kernel looks through all of its mappings.
    data.set_modified(SystemTime::UNIX_EPOCH).expect("it is ours");
    beat(42);
    assert_eq!(data.metadata().and_then(|data| data.modified()).expect("a time"), SystemTime::UNIX_EPOCH);
    drop(lock);
}

fn second_names(fixture: &SharedFileFixture) -> usize {
    hidden_files(fixture, "replaced-")
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
        // Of this thread alone.
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
    // A child of another test has them open until it runs its own program.
    assert!((1..2_000).any(|n| open.shared.writer.make_ready(true, start + Duration::from_secs(n * 600)).is_ok()));
}

#[test]
fn a_file_that_is_deleted_is_not_put_again_while_readers_have_many_that_were() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.publish(vec![put("/a", "1")]);
    let (start, mut held) = (Instant::now(), Vec::new());
    for n in 0..9 {
        held.push(File::open(fixture.file()).expect("a file"));
        fs::remove_file(fixture.file()).expect("a file");
        open.shared.writer.make_ready(true, start + Duration::from_secs(n * 60)).expect("ready");
        assert_eq!(fixture.file().exists(), n < 8, "{n}");
    }
    let why = open.shared.writer.trouble().expect("why it is not put again");
    assert!(
        why.starts_with("new readers cannot find it: ") && why.contains("8 files open that were replaced"),
        "{why}"
    );
    held.clear();
    // A child of another test has them open until it runs its own program.
    assert!((10..2_000).any(|n| {
        open.shared.writer.make_ready(true, start + Duration::from_secs(n * 60)).expect("ready");
        fixture.file().exists()
    }));
    fixture.assert_holds(&open.store);
}

#[test]
fn what_cannot_be_read_for_a_moment_is_not_written_anew() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.sync();
    open.publish(vec![put("/a", "1")]);
    let inode = || fs::metadata(fixture.file()).expect("a file").ino();
    let before = inode();
    for (is_claim_lost, is_same_file) in [(false, true), (true, false)] {
        if is_claim_lost {
            fs::remove_dir_all(fixture.folder.path().join(".shared.mdb")).expect("a folder");
        } else {
            open.shared.writer.unmap();
        }
        // It refuses to be read, as it does without a free descriptor.
        let unreadable = File::options().write(true).open(fixture.file()).expect("a file");
        let mapped = open.shared.writer.mapped.as_mut().expect("a file");
        let readable = std::mem::replace(&mut mapped.data, unreadable);
        let why = open.shared.writer.make_ready(false, Instant::now()).expect_err("nobody knows what it holds");
        assert!(why.starts_with("cannot read what it holds: "), "{why}");
        open.shared.writer.mapped.as_mut().expect("it is not given up").data = readable;
        open.write_between_beats();
        assert_eq!(inode() == before, is_same_file, "{is_claim_lost}");
        fixture.assert_holds(&open.store);
    }
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

#[tokio::test]
async fn what_is_last_is_written_and_copied_also_where_no_file_can_be_made() {
    let fixture = SharedFileFixture::new();
    let Open { shared, store, publisher } = fixture.open();
    let ((tasks, _), metrics) = (Tasks::new(), Arc::<Metrics>::default());
    shared.start(&tasks, &store, &metrics).expect("started");
    wait_until(|| metrics.shared_writes.get() > 0).await;
    fixture.hinder();
    fs::remove_file(lock_file(&fixture.file())).expect("a file");
    wait_until(|| metrics.shared_trouble.load().is_some()).await;
    publisher.publish(vec![put("/a", "last")]);
    assert!(tasks.stop(Duration::from_secs(20)).await.is_empty());
    for file in [fixture.file(), fixture.copy()] {
        assert_eq!(Contents::load(&file).expect("a whole file").nodes, *store.snapshot().nodes());
    }
}

#[tokio::test]
async fn what_an_earlier_process_left_is_known_before_the_file_can_be_ours_and_stands_until_more_is() {
    let fixture = SharedFileFixture::with([vec![put("/a", "left")]]);
    let [own, elsewhere] = [".shared.mdb", "elsewhere"].map(|name| fixture.folder.path().join(name));
    fs::rename(&own, &elsewhere).and_then(|()| fs::write(&own, "no folder")).expect("hindered");
    fixture.try_open(&feeds("cluster")).expect_err("it cannot be ours");
    let peek = |identity| Shared::peek(&fixture.config, Some(fixture.folder.path()), &feeds(identity));
    assert_eq!(&*peek("cluster").expect("left").nodes[&path("/a")].data, b"left");
    assert!(peek("another").is_none());

    let store = Store::new(&store::Config::default(), feeds("cluster"), Arc::default());
    let ((tasks, _), metrics) = (Tasks::new(), Arc::<Metrics>::default());
    fs::remove_file(&own).and_then(|()| fs::rename(&elsewhere, &own)).expect("moved back");
    Shared::start_later(&fixture.config, Some(fixture.folder.path()), 0, &tasks, &store, &metrics).expect("started");
    let trouble = || metrics.shared_trouble.load().as_deref().cloned().unwrap_or_default();
    wait_until(|| trouble().starts_with("what an earlier process left stands until test has been in sync")).await;
    assert_eq!(&*Contents::load(&fixture.file()).expect("whole").nodes[&path("/a")].data, b"left");
    // Meanwhile, readers fill no disk, and what lies there may become another.
    let lock = File::options().write(true).open(lock_file(&fixture.file())).expect("a file");
    let size = || lock.metadata().expect("a file").len();
    let whole = size();
    lock.set_len(1 << 20).expect("its group may");
    wait_until(|| size() == whole).await;
    let other = SharedFileFixture::with([vec![put("/z", "other")]]);
    let exchanged = fixture.folder.path().join("exchanged");
    fs::copy(other.file(), &exchanged).and_then(|_| fs::rename(&exchanged, fixture.file())).expect("exchanged");
    store.publisher(0).feed().enter(FeedState::Live, "");
    store.publisher(0).feed().prove(Moment::now());
    store.publisher(0).publish_whole(vec![put("/b", "new")]);
    wait_until(|| metrics.shared_writes.get() > 0).await;
    fixture.assert_holds(&store);
    assert!(tasks.stop(Duration::from_secs(20)).await.is_empty());
}

#[tokio::test]
async fn what_could_not_be_put_in_its_place_a_moment_ago_is_tried_once_more_at_the_stop() {
    let fixture = SharedFileFixture::new();
    let Open { shared, store, publisher } = fixture.start_as(feeds("cluster"));
    let hindrance = fixture.hinder();
    let ((tasks, _), metrics) = (Tasks::new(), Arc::<Metrics>::default());
    shared.start(&tasks, &store, &metrics).expect("started");
    wait_until(|| metrics.shared_trouble.load().is_some()).await;
    fs::remove_dir(hindrance).expect("a folder");
    publisher.publish(vec![put("/a", "last")]);
    assert!(tasks.stop(Duration::from_secs(20)).await.is_empty());
    for file in [fixture.file(), fixture.copy()] {
        assert_eq!(Contents::load(&file).expect("a whole file").nodes, *store.snapshot().nodes());
    }
}
