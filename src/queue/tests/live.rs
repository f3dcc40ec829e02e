//! The thread that has the file: who waits for it, and what it does when nobody is there any more.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;
use std::thread;

use futures::FutureExt;
use futures::future::join_all;
use tokio::task::{JoinHandle, yield_now};

use super::super::book::{FORMAT, read, written};
use super::super::keys;
use super::*;

const OTHER: Asker = Asker { uid: Some(33_034), is_admin: false };

/// Queues in a folder, as a sidecar has them.
pub(super) fn start(folder: &Path, tasks: &Tasks) -> Arc<Queues> {
    let config = Config { path: Some(folder.to_owned()), ..Config::default() };
    start_with(&config, tasks)
}

pub(super) fn start_with(config: &Config, tasks: &Tasks) -> Arc<Queues> {
    Queues::start(config, &Arc::default(), tasks).expect("a thread")
}

/// Queues, and what they lie in.
struct Live {
    queues: Arc<Queues>,
    tasks: Tasks,
    folder: TempDir,
}

impl Live {
    fn start() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
        let (tasks, _failed) = Tasks::new();
        let config = Config { path: Some(folder.path().join("queue")), ..config };
        Self { queues: start_with(&config, &tasks), tasks, folder }
    }

    async fn enqueue(&self, jobs: Vec<NewJob>) -> Vec<JobId> {
        let enqueued = self.queues.enqueue(WEB, jobs).await.expect("there is room");
        enqueued.into_iter().map(|it| it.id).collect()
    }

    async fn take(&self, lease: Option<Duration>) -> Vec<Job> {
        let taking = self.queues.take(None, vec!["mail".into()], MANY, lease, Duration::ZERO);
        let (jobs, handed) = taking.await.expect("jobs");
        handed.have_arrived();
        jobs
    }

    /// Has the disk hang, until what this returns is dropped.
    async fn hang(&self) -> (Sender<()>, JoinHandle<Result<(), Refused>>) {
        let (release, held) = std::sync::mpsc::channel();
        let (begun, begins) = oneshot::channel();
        let queues = self.queues.clone();
        let hangs = tokio::spawn(async move {
            let hang = move |_: &mut Change<'_, '_>| {
                let _ = begun.send(());
                let _ = held.recv();
                Ok(())
            };
            queues.ask(hang).await
        });
        begins.await.expect("it hangs");
        // What else has been asked by now is carried out with it.
        (release, hangs)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_producers_share_a_transaction_and_each_has_a_job_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("queue");
    let (tasks, _failed) = Tasks::new();
    let queues = start(&path, &tasks);
    let all = (0..500).map(|number| queues.enqueue(WEB, vec![job("mail", &number.to_string())]));
    let all = join_all(all).await;
    let ids: BTreeSet<_> = all.into_iter().flat_map(|ids| ids.expect("there is room")).map(|it| it.id).collect();
    assert_eq!((ids.len(), queues.totals().waiting), (500, 500));
    assert!(tasks.stop(Duration::from_secs(30)).await.is_empty());
    let transactions = queues.known.transactions.load(Relaxed);
    assert!(transactions < 100, "{transactions}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_job_has_it_when_it_comes_and_who_is_gone_has_none() {
    let live = Live::start();
    let take = |queues: Arc<Queues>| async move {
        queues.take(None, vec!["mail".into()], MANY, None, Duration::from_secs(60)).await
    };
    let gone = tokio::spawn(take(live.queues.clone()));
    // It has asked by then.
    yield_now().await;
    assert_eq!(live.queues.overviews(WEB, String::new(), 10, |_| true).await, Ok(vec![]));
    gone.abort();
    let _ = gone.await;
    let waiting = tokio::spawn(take(live.queues.clone()));
    live.enqueue(vec![job("mail", "a"), job("mail", "b")]).await;
    let (taken, handed) = waiting.await.expect("it has not panicked").expect("jobs");
    handed.have_arrived();
    assert_eq!(taken.iter().map(|job| job.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    for job in taken {
        let done = live.queues.update(None, (job.id, job.attempt), Update::Done, |_, _| true).await;
        done.expect("it has the lease");
    }
    assert_eq!((live.take(None).await, live.queues.totals().running), (vec![], 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_arrive_nowhere_are_given_back_at_once_and_are_not_lost() {
    let live = Live::start();
    live.enqueue(vec![job("mail", "a")]).await;
    // Who took them is gone before it has seen them, and after that.
    for is_seen in [false, true] {
        let (release, hangs) = live.hang().await;
        let mut taking = live.queues.take(None, vec!["mail".into()], MANY, None, Duration::ZERO).boxed();
        assert!(taking.as_mut().now_or_never().is_none());
        drop(release);
        hangs.await.expect("no panic").expect("it goes on");
        if is_seen {
            let (jobs, handed) = taking.await.expect("jobs");
            assert_eq!(jobs.len(), 1);
            drop(handed);
        } else {
            while live.queues.totals().running == 0 {
                yield_now().await;
            }
            drop(taking);
        }
        while live.queues.totals().running > 0 {
            yield_now().await;
        }
    }
    let again = live.take(None).await.pop().expect("a job");
    assert_eq!((again.attempt, again.failures), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_waits_for_a_slow_disk_counts_though_the_lease_is_over_by_then() {
    let live = Live::start();
    live.enqueue(vec![job("mail", "a")]).await;
    let lease = Duration::from_millis(300);
    let taken = live.take(Some(lease)).await.pop().expect("a job");
    let (release, hangs) = live.hang().await;
    let update = live.queues.update(None, (taken.id, taken.attempt), Update::Done, |_, _| true);
    let mut update = update.boxed();
    assert!(update.as_mut().now_or_never().is_none());
    thread::sleep(2 * lease);
    drop(release);
    hangs.await.expect("no panic").expect("it goes on");
    assert_eq!(update.await, Ok(None));
    assert_eq!(live.take(None).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_begins_when_the_disk_has_it_however_slow_that_is() {
    let live = Live::start();
    let lease = Duration::from_secs(2);
    let taking = live.queues.take(None, vec!["mail".into()], MANY, Some(lease), Duration::from_secs(60));
    let mut taking = taking.boxed();
    assert!(taking.as_mut().now_or_never().is_none(), "it waits");
    let slowly = move |change: &mut Change<'_, '_>| {
        let enqueued = change.enqueue(&[job("mail", "a")], WEB);
        thread::sleep(lease * 3 / 2);
        enqueued
    };
    live.queues.ask(slowly).await.expect("there is room");
    let (taken, handed) = taking.await.expect("jobs");
    handed.have_arrived();
    assert_eq!(live.take(None).await, [], "somebody has it");
    let done = live.queues.update(None, (taken[0].id, 1), Update::Done, |_, _| true).await;
    assert_eq!(done, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_failure_of_the_disk_ends_a_lease_though_the_clock_was_set() {
    let errors = [EngineError::Disk { source: nix::errno::Errno::ENOSPC }, EngineError::Format(0)];
    let each = errors.map(|error| async move {
        let live = Live::start();
        live.enqueue(vec![job("mail", "a")]).await;
        let take = |change: &mut Change<'_, '_>| {
            // As it was before somebody set it forward.
            change.now.wall -= DAY;
            change.take(None, &vec!["mail".to_owned()].into(), MANY, None)
        };
        let taken = live.queues.ask(take).await.expect("it is sound").pop().expect("a job");
        let lease = (taken.id, taken.attempt);
        let fail = move |change: &mut Change<'_, '_>| {
            change.update(lease.0, lease.1, &Update::Done)?;
            Err::<(), _>(error.into())
        };
        live.queues.ask(fail).await.expect_err("it fails");
        while live.queues.enqueue(WEB, vec![job("other", "b")]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(live.take(None).await, [], "somebody has it");
        assert_eq!(live.queues.update(None, lease, Update::Done, |_, _| true).await, Ok(None));
    });
    join_all(each).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fills_the_way_to_the_disk_leaves_room_for_others_and_is_told() {
    // Neither many requests nor large ones.
    for payload in [0, 1 << 20] {
        let live = Live::start();
        let (release, hangs) = live.hang().await;
        let (mut waiting, mut refused) = (Vec::new(), None);
        while refused.is_none() {
            let jobs = vec![NewJob { payload: vec![7; payload], ..job("mail", "a") }];
            let mut asked = live.queues.enqueue(WEB, jobs).boxed();
            refused = asked.as_mut().now_or_never();
            waiting.push(asked);
        }
        assert!(matches!(refused, Some(Err(Refused::TooMuch(_)))), "{refused:?}");
        let most = MAX_ASKED / ASK_SIZE.max(payload);
        assert!((most / 4..=most / 2 + 1).contains(&waiting.len()), "{}", waiting.len());
        // They hang up, and what they have asked still waits.
        drop(waiting);
        let mut other = live.queues.enqueue(OTHER, vec![job("img", "b")]).boxed();
        assert!(other.as_mut().now_or_never().is_none(), "it waits");
        let mut report = live.queues.update(None, (1, 1), Update::Done, |_, _| true).boxed();
        assert!(report.as_mut().now_or_never().is_none(), "it waits");
        drop(release);
        hangs.await.expect("no panic").expect("it goes on");
        assert_eq!(other.await.expect("there is room").len(), 1);
        assert_eq!(report.await, Err(Refused::NoJob(1)));
        let all = live.queues.overviews(WEB, String::new(), 10, |_| true).await.expect("an answer");
        let names: Vec<_> = all.iter().map(|queue| queue.name.as_str()).collect();
        assert_eq!(names, ["img"], "nobody waited for the others, so they are not enqueued");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_is_told_of() {
    let live = Live::start();
    live.enqueue(vec![job("mail", "a")]).await;
    assert_eq!(live.queues.trouble(|_| true), None);
    let (release, hangs) = live.hang().await;
    // As it is after a while.
    live.queues.known.set_writing_since(Instant::now().checked_sub(Duration::from_secs(7)));
    let told = live.queues.trouble(|_| true).expect("it is told");
    assert_eq!(told.as_str(), "the disk has not finished a write of the queues for 7 s");
    drop(release);
    hangs.await.expect("no panic").expect("it goes on");
    live.enqueue(vec![job("mail", "b")]).await;
    assert_eq!(live.queues.trouble(|_| true), None);
    assert!(live.tasks.stop(Duration::from_secs(30)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_no_job_back_for_longer_where_the_disk_is_full() {
    let limits = toml::from_str("[[limit]]\nqueue = 'mail'\nrate = '1/1s'").expect("settings");
    let live = Live::with(limits);
    live.enqueue(vec![job("mail", "a"), job("mail", "b")]).await;
    assert_eq!(live.take(None).await.len(), 1);
    let full = |_: &mut Change<'_, '_>| Err::<(), _>(EngineError::Disk { source: nix::errno::Errno::ENOSPC }.into());
    live.queues.ask(full).await.expect_err("it fails");
    let taking = live.queues.take(None, vec!["mail".into()], MANY, None, Duration::from_secs(60));
    let (jobs, handed) = taking.await.expect("jobs");
    handed.have_arrived();
    let trouble = live.queues.trouble(|_| true);
    assert!(jobs.len() == 1 && trouble.is_some(), "it is not looked for room as often: {trouble:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_refused_is_not_read_again_until_somebody_changes_it() {
    let live = Live::start();
    live.enqueue(vec![job("mail", "a")]).await;
    let path = live.folder.path().join("queue");
    assert!(live.tasks.stop(Duration::from_secs(30)).await.is_empty());
    // By a later version, and by none.
    let write_format = |format: u32| {
        let mut engine = Engine::open(&path, &Config::default()).expect("a file");
        let mut txn = engine.begin().expect("a transaction");
        let meta = txn.get(keys::META).expect("it is sound").expect("it is there");
        let (_, job, queue, is_inexact): (u32, u64, u32, bool) = read(&meta).expect("it is sound");
        txn.put(keys::META, &written(&(format, job, queue, is_inexact))).expect("there is room");
        txn.commit().expect("there is room");
    };
    write_format(FORMAT + 1);
    let (tasks, _failed) = Tasks::new();
    let queues = start(&path, &tasks);
    while queues.known.attempts.load(Relaxed) < 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(queues.known.opens.load(Relaxed), 1);
    assert!(queues.trouble(|_| true).is_some_and(|told| told.contains("of another format")));
    write_format(FORMAT);
    while queues.enqueue(WEB, vec![job("mail", "b")]).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((queues.totals().waiting, queues.known.opens.load(Relaxed)), (2, 2));
    assert_eq!(queues.trouble(|_| true), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_folder_cannot_be_had_is_told_with_the_setting_and_the_cure() {
    let live = Live::start();
    live.enqueue(vec![job("mail", "a")]).await;
    let held = live.folder.path().join("queue");
    for (path, why, cure) in [
        (Path::new("/proc/none/queue"), "No such file or directory", "; have it made for "),
        (held.as_path(), "another sidecar", "; stop that one, or choose another folder"),
    ] {
        let (tasks, _failed) = Tasks::new();
        let refused = start(path, &tasks).enqueue(WEB, vec![job("mail", "a")]).await;
        let told = refused.expect_err("it cannot be had").to_string();
        let begin = format!("queue.path: cannot use {}: {why}", path.display());
        assert!(told.starts_with(&begin) && told.contains(cure), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_for_its_result_is_counted() {
    let live = Live::with(Config { keep_results: Duration::from_secs(60), ..Config::default() });
    let id = live.enqueue(vec![job("mail", "a")]).await[0];
    live.take(None).await;
    live.queues.update(None, (id, 1), Update::Done, |_, _| true).await.expect("it has the lease");
    let totals = live.queues.totals();
    assert_eq!((totals.running, totals.done), (0, 1));
    assert!(totals.named().contains(&("jobsKeptForResults", 1)));
}
