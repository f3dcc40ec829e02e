//! The claim to the shared file: lost to another sidecar, or taken again.

use nix::libc;
use nix::unistd::Uid;

use super::*;

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
    // Without the rest, the other one creates another file; with it, it writes the same.
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

/// Makes this thread alone another user, to whom permissions apply.
#[allow(unsafe_code)]
fn become_user(user: libc::uid_t) {
    // SAFETY: it takes no pointer. The `libc` function of this name would change all threads.
    let code = unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) };
    assert_eq!(code, 0, "{}", io::Error::last_os_error());
}
