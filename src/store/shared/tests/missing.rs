//! The shared file when it is deleted, exchanged, or cannot be opened yet: its content is not lost.

use super::*;

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
    // A child of another test has them open until it executes its own program.
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
        // It cannot be read, as without a free descriptor.
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
    // Meanwhile, readers cannot fill the disk, and the file may change.
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
