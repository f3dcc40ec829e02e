//! The lock files, which readers may write: they do not grow, and are forgotten when they are closed.

use super::*;

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
    // Nobody can write one any more, except through descriptors that are open already.
    assert!(locks[..64].iter().all(|lock| lock.metadata().expect("a file").permissions().mode() & 0o077 == 0));
    drop(open);
    locks.iter().for_each(|lock| lock.set_len(1 << 20).expect("it is open"));
    // Their size does not depend on the current configuration.
    fixture.config.max_readers = 4;
    assert!(fixture.try_open(&feeds("cluster")).is_ok());
    assert!(locks.iter().all(|lock| size(lock) == whole), "{whole}");
    let mut open = fixture.open();
    assert_eq!(known_locks(&fixture), 66);
    locks.drain(10..);
    // A child of another test has them open until it executes its own program.
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
