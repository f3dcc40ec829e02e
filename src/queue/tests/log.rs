//! The log: what was acknowledged is there after a death at any moment, and what is damaged in it harms nothing else.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;

use super::super::engine::{Txn, file_in, log_in, unsealed};
use super::super::keys;
use super::live::start_with;
use super::*;

impl Fixture {
    /// The files of the queue.
    pub(super) fn files(&self) -> [PathBuf; 2] {
        let folder = self.folder.path().join("queue");
        [file_in(&folder), log_in(&folder)]
    }

    /// Enqueues each of these in a transaction of its own, without the file being opened anew. `after` each of them it is
    /// told of the ids by then.
    fn enqueue_each(&mut self, jobs: impl Iterator<Item = NewJob>, mut after: impl FnMut(&[JobId], &mut Txn<'_>)) {
        let now = self.time();
        let (engine, book) = self.opened.as_mut().expect("it is open");
        let (mut txn, mut tally, mut ids) = (engine.begin().expect("a transaction"), Tally::default(), Vec::new());
        for job in jobs {
            let mut change = Change {
                txn: &mut txn,
                book,
                config: &self.config,
                now,
                has_room: true,
                tally: &mut tally,
                looks: Looks::default(),
            };
            ids.push(change.enqueue(&[job], WEB).expect("there is room")[0].id);
            book.save(&mut txn).expect("the file is sound");
            txn.commit().expect("the file is sound");
            after(&ids, &mut txn);
        }
    }

    /// As another process finds it in these files.
    pub(super) fn reopen_as(&mut self, files: &[Vec<u8>; 2]) {
        self.opened = None;
        for (path, bytes) in self.files().iter().zip(files) {
            fs::write(path, bytes).expect("written");
        }
        self.reopen();
    }

    /// Which jobs it finds in them.
    fn found(&mut self, files: &[Vec<u8>; 2]) -> (Vec<JobId>, Option<String>) {
        self.reopen_as(files);
        let page = self.change(|change| change.peek("mail", Order::Waiting, &[], MANY));
        let found: Vec<JobId> = page.map_or(Vec::new(), |page| page.jobs.iter().map(|job| job.id).collect());
        if !found.is_empty() {
            assert_eq!(self.overview("mail").waiting, found.len() as u64);
        }
        let (_, book) = self.opened.as_ref().expect("it is open");
        assert_eq!(book.total.jobs, found.len() as u64);
        (found, book.damage.clone())
    }
}

/// A queue, what its files were when a process died whose log has four jobs, the ids of these and of one before, and where
/// the log ends.
fn killed() -> (Fixture, [Vec<u8>; 2], Vec<JobId>, usize) {
    let (mut queue, mut files, mut ids) = (Fixture::new(Config::default()), Default::default(), Vec::new());
    ids.push(queue.enqueue(job("mail", "a")));
    let paths = queue.files();
    queue.enqueue_each(vec![job("mail", "a"); 4].into_iter(), |so_far, _| {
        ids.truncate(1);
        ids.extend(so_far);
        files = paths.clone().map(|path| fs::read(path).expect("a file"));
    });
    let end = files[1].iter().rposition(|byte| *byte != 0).expect("it is not empty") + 1;
    // Meanwhile.
    queue.now += 1;
    (queue, files, ids, end)
}

#[test]
fn of_a_log_that_is_cut_anywhere_all_whole_transactions_are_there() {
    let (mut queue, [file, log], ids, end) = killed();
    let mut last = 1;
    for cut in (0..=end).step_by(11).chain([end]) {
        let mut torn = log.clone();
        torn[cut..].fill(0);
        let (found, damage) = queue.found(&[file.clone(), torn]);
        assert_eq!((&found[..], damage), (&ids[..found.len()], None), "{cut}");
        assert!((last..=last + 1).contains(&found.len()), "{cut}: {last} and {}", found.len());
        last = found.len();
        // Also where it is shorter than it ever was.
        assert!(queue.found(&[file.clone(), log[..cut].to_vec()]).0.len() <= last, "{cut}");
    }
    assert_eq!(last, 5);
}

#[test]
fn a_damaged_transaction_is_told_and_harms_no_other() {
    let (mut queue, [file, log], ids, end) = killed();
    let mut lost = BTreeSet::new();
    for at in (0..end).step_by(13) {
        let mut damaged = log.clone();
        damaged[at] ^= 0x10;
        let (found, damage) = queue.found(&[file.clone(), damaged.clone()]);
        let missing: Vec<JobId> = ids.iter().copied().filter(|id| !found.contains(id)).collect();
        assert!(missing.len() <= 1, "{at}: {found:?} of {ids:?}");
        // The last one is as good as torn.
        let is_told = damage.is_some_and(|damage| damage.contains("written last was damaged"));
        assert_eq!(is_told, missing.first().is_some_and(|id| *id != ids[4]), "{at}: {missing:?}");
        lost.extend(missing);
        assert!(queue.enqueue(job("mail", "b")) > ids[4], "{at}: no number is used again");
        queue.reopen();
        assert_eq!(queue.opened.as_ref().expect("it is open").1.damage, None, "it was mended");
    }
    assert_eq!(lost.into_iter().collect::<Vec<_>>(), ids[1..], "each was lost once");
}

#[test]
fn a_gap_is_known_until_what_is_counted_is_right_whenever_the_process_dies() {
    let (mut queue, [file, mut log], ids, end) = killed();
    log[end / 3] ^= 0x10;
    queue.opened = None;
    for (path, bytes) in queue.files().iter().zip([&file, &log]) {
        fs::write(path, bytes).expect("written");
    }
    // The first one dies before it has written anything.
    for _ in 0..2 {
        queue.reopen();
        assert!(queue.opened.as_ref().expect("it is open").1.damage.is_some());
    }
    let page = queue.change(|change| change.peek("mail", Order::Waiting, &[], MANY)).expect("a queue");
    assert_eq!((page.jobs.len(), queue.overview("mail").waiting), (ids.len() - 1, ids.len() as u64 - 1));
    queue.reopen();
    assert_eq!(queue.opened.as_ref().expect("it is open").1.damage, None, "it was mended");
}

#[test]
fn where_the_generation_is_damaged_that_is_told() {
    let (mut queue, [mut file, log], ids, _) = killed();
    let places: Vec<usize> = (file.windows(16).enumerate())
        .filter(|(_, sealed)| unsealed(keys::GENERATION, sealed).is_ok())
        .map(|(place, _)| place)
        .collect();
    assert!(!places.is_empty());
    places.iter().for_each(|place| file[*place] ^= 1);
    let (found, damage) = queue.found(&[file, log]);
    assert!(found == ids[..1] && damage.is_some(), "{found:?} {damage:?}");
}

#[test]
fn whatever_is_written_is_there_whenever_the_process_dies() {
    let (mut queue, mut kept) = (Fixture::new(Config::default()), Vec::new());
    let paths = queue.files();
    let sizes = [0, 100, 3_000, 20_000, 300, 60_000];
    let jobs = (0..900).map(|number| NewJob { payload: vec![7; sizes[number % 6]], ..job("mail", "a") });
    queue.enqueue_each(jobs, |ids, _| {
        if ids.len() % 90 == 0 {
            kept.push((ids.to_vec(), paths.clone().map(|path| fs::read(path).expect("a file"))));
        }
    });
    let sizes: BTreeSet<usize> = kept.iter().map(|(_, [_, log])| log.len()).collect();
    assert!(sizes.len() > 2 && sizes.last() == Some(&(4 << 20)), "it grows to a bound: {sizes:?}");
    assert!(kept.iter().any(|(_, [file, _])| file.len() > 1 << 20), "and is written to the file");
    for (ids, files) in kept {
        assert_eq!(queue.found(&files), (ids, None));
    }
}

#[test]
fn where_syncs_are_batched_each_is_due_in_time() {
    for durability in [Durability::Synced, Durability::Batched] {
        let interval = Duration::from_secs(3_600);
        let mut queue = Fixture::new(Config { durability, sync_interval: interval, ..Config::default() });
        queue.enqueue_each(vec![job("mail", "a"); 2].into_iter(), |_, txn| match durability {
            Durability::Synced => assert_eq!(txn.sync_in(), None),
            Durability::Batched => {
                assert!(txn.sync_in().expect("it is due") <= interval);
                txn.sync().expect("the file is sound");
                assert_eq!(txn.sync_in(), None);
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_before_its_sync_is_synced_though_nobody_asks_for_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let (tasks, _failed) = Tasks::new();
    let config = Config {
        path: Some(folder.path().join("queue")),
        durability: Durability::Batched,
        sync_interval: Duration::from_millis(20),
        ..Config::default()
    };
    let queues = start_with(&config, &tasks);
    queues.enqueue(WEB, vec![job("mail", "a")]).await.expect("there is room");
    let syncs = || queues.known.syncs.load(Relaxed);
    let (syncs_then, began) = (syncs(), Instant::now());
    while syncs() == syncs_then {
        assert!(began.elapsed() < Duration::from_secs(30), "it is not synced");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(tasks.stop(Duration::from_secs(30)).await.is_empty());
}
