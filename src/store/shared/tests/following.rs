//! The writer follows the store, until the stop.

use super::*;

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
    // The next may have begun before that.
    wait_until(|| metrics.shared_writes.get() > written + 1).await;
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
fn a_change_that_replaces_more_than_readers_may_keep_is_not_the_last_one() {
    let mut fixture = SharedFileFixture::new();
    fixture.config.max_pinned = ByteSize::mib(1);
    let mut open = fixture.open();
    open.sync();
    let names: Vec<_> = (0..400).map(|number| format!("/{number}")).collect();
    open.publish(names.iter().map(|name| put(name, &"x".repeat(8_000))).collect());
    let began = Instant::now();
    let beat = |open: &mut Open, second| {
        let room = open.shared.writer.make_ready(true, began + Duration::from_secs(second)).expect("it is in order");
        if room == mapped::Room::Enough {
            open.shared.writer.renew(&open.store).expect("written");
        }
        room
    };
    (1..10).for_each(|second| assert_eq!(beat(&mut open, second), mapped::Room::Enough, "{second}"));
    open.publisher.publish(names.iter().map(|name| Change::Delete(path(name))).collect::<Vec<_>>());
    assert_eq!(beat(&mut open, 10), mapped::Room::Enough);
    assert_eq!(beat(&mut open, 11), mapped::Room::Later, "readers may be about to read what was deleted");
    (14..20).for_each(|second| assert_eq!(beat(&mut open, second), mapped::Room::Enough, "{second}"));
}
