//! What becomes of jobs: by the hour, by whoever has them, by damage, and by the death of the process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use bytesize::ByteSize;
use futures::future::join_all;
use tempfile::TempDir;

use super::book::Book;
use super::change::Tally;
use super::engine::{Engine, file_in};
use super::*;

const DAY: u64 = 86_400_000;

/// One job, however large.
const FEW: Most = Most { jobs: 1, bytes: 1 };
const MANY: Most = Most { jobs: 1_000, bytes: usize::MAX };

/// A user of no account.
const WEB: Producer = Producer { uid: Some(33_033), is_admin: false };
const ROOT: Producer = Producer { uid: Some(0), is_admin: true };

/// The file of a queue, and its clock.
struct Fixture {
    folder: TempDir,
    config: Config,
    opened: Option<(Engine, Book)>,
    now: u64,
}

impl Fixture {
    fn new(config: Config) -> Self {
        // In memory: what a sync costs on the disk is no matter of these tests.
        let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
        let mut fixture = Self { folder, config, opened: None, now: 1_700_000_000_000 };
        fixture.reopen();
        fixture
    }

    /// As another process finds it.
    fn reopen(&mut self) {
        self.opened = None;
        let engine = Engine::open(&self.folder.path().join("queue"), self.config.max_bytes).expect("a file");
        let book = Book::load(&engine.begin().expect("a transaction"), self.now).expect("what it says");
        self.opened = Some((engine, book));
    }

    /// One transaction.
    fn change<T>(&mut self, work: impl FnOnce(&mut Change<'_, '_>) -> Outcome<T>) -> Result<T, Refused> {
        let (engine, book) = self.opened.as_mut().expect("it is open");
        let (mut txn, mut tally) = (engine.begin().expect("a transaction"), Tally::default());
        let mut change = Change { txn: &mut txn, book, config: &self.config, now: self.now, tally: &mut tally };
        change.tick().expect("the file is sound");
        let outcome = work(&mut change);
        book.save(&mut txn).expect("the file is sound");
        txn.commit().expect("the file is sound");
        outcome.map_err(|fault| match fault {
            Fault::Refused(why) => why,
            Fault::Engine(error) => panic!("{error}"),
        })
    }

    fn enqueue(&mut self, job: NewJob) -> JobId {
        self.change(|change| change.enqueue(&[job], WEB)).expect("there is room").first().expect("one").id
    }

    fn take(&mut self, queue: &str) -> Option<Job> {
        self.change(|change| change.take(&[queue.to_owned()], FEW, None)).expect("it is sound").pop()
    }

    fn update(&mut self, job: &Job, update: Update) -> Result<Option<u64>, Refused> {
        self.change(|change| change.update(job.id, job.attempt, &update))
    }

    fn state(&mut self, id: JobId) -> Option<State> {
        self.change(|change| change.find(id)).ok().map(|job| job.state)
    }

    fn overview(&mut self, queue: &str) -> Overview {
        let mut all = self.change(|change| change.overviews("", 1_000)).expect("it is sound");
        all.retain(|overview| overview.name == queue);
        all.pop().expect("a queue")
    }
}

fn job(queue: &str, name: &str) -> NewJob {
    NewJob { queue: queue.into(), name: name.into(), payload: b"{\"to\":1}".to_vec(), ..NewJob::default() }
}

fn fail(error: &str) -> Update {
    Update::Fail { error: error.into() }
}

#[test]
fn urgent_jobs_come_first_then_older_ones_and_what_is_done_is_gone() {
    let mut queue = Fixture::new(Config::default());
    let ids = ["a", "b"].map(|name| queue.enqueue(job("mail", name)));
    let urgent = queue.enqueue(NewJob { priority: Some(0), ..job("mail", "urgent") });
    queue.enqueue(job("other", "x"));
    let taken: Vec<Job> = std::iter::from_fn(|| queue.take("mail")).collect();
    assert_eq!(taken.iter().map(|job| job.id).collect::<Vec<_>>(), [urgent, ids[0], ids[1]]);
    let first = &taken[0];
    assert_eq!((first.name.as_str(), first.payload.as_slice(), first.attempt), ("urgent", &b"{\"to\":1}"[..], 1));
    for job in &taken {
        assert_eq!(queue.update(job, Update::Done), Ok(None));
        assert_eq!(queue.update(job, Update::Done), Err(Refused::NotLeased(job.id, 1)), "once");
    }
    let overview = queue.overview("mail");
    assert_eq!((overview.waiting, overview.running, overview.bytes), (0, 0, 0));
    assert_eq!(queue.overview("other").waiting, 1);
    assert_eq!(queue.state(urgent), None);
}

#[test]
fn a_job_is_handed_out_when_its_delay_is_over_and_not_before() {
    let mut queue = Fixture::new(Config::default());
    let id = queue.enqueue(NewJob { delay: Duration::from_secs(60), ..job("mail", "a") });
    assert_eq!(queue.state(id), Some(State::Delayed { until: queue.now + 60_000 }));
    queue.now += 59_999;
    queue.reopen();
    assert_eq!(queue.take("mail"), None);
    queue.now += 1;
    assert_eq!(queue.take("mail").map(|job| job.id), Some(id));
}

#[test]
fn a_lease_that_ends_gives_the_job_to_another_and_its_first_owner_can_do_nothing_more() {
    let mut queue = Fixture::new(Config::default());
    queue.enqueue(job("mail", "a"));
    let first = queue.take("mail").expect("a job");
    queue.now += 59_999;
    assert_eq!(queue.take("mail"), None, "nobody else has it within the lease");
    assert_eq!(queue.update(&first, Update::Touch { lease: None }), Ok(Some(queue.now + 60_000)));
    queue.now += 59_999;
    assert_eq!(queue.take("mail"), None, "it was prolonged");
    queue.now += 1;
    let second = queue.take("mail").expect("its lease has ended");
    assert_eq!((second.id, second.attempt, second.failures), (first.id, 2, 1));
    assert_eq!(queue.update(&first, Update::Done), Err(Refused::NotLeased(first.id, 1)));
    assert_eq!(queue.update(&second, Update::Done), Ok(None));
}

#[test]
fn a_job_that_is_lost_three_times_is_not_handed_on_for_ever() {
    let mut queue = Fixture::new(Config::default());
    let id = queue.enqueue(job("mail", "poison"));
    for attempt in 1..=3 {
        assert_eq!(queue.take("mail").map(|job| job.attempt), Some(attempt));
        queue.now += 60_000;
        queue.reopen();
    }
    assert_eq!(queue.take("mail"), None);
    let dead = queue.change(|change| change.find(id)).expect("it is kept");
    assert!(matches!(dead.state, State::Dead { .. }) && dead.error.as_deref() == Some("its lease ended"), "{dead:?}");
}

#[test]
fn what_a_worker_had_that_is_gone_is_anothers_at_once() {
    let mut queue = Fixture::new(Config::default());
    queue.enqueue(job("mail", "a"));
    let taken = queue.take("mail").expect("a job");
    queue.update(&taken, Update::Lose { error: "its worker is gone".into() }).expect("it has the lease");
    let again = queue.take("mail").expect("a job");
    assert_eq!((again.id, again.attempt, again.failures), (taken.id, 2, 1));
    assert_eq!(again.error.as_deref(), Some("its worker is gone"));
}

#[test]
fn failures_are_tried_again_later_each_time_and_then_dead_until_somebody_retries() {
    let mut queue = Fixture::new(Config::default());
    let id = queue.enqueue(NewJob { retries: Some(2), ..job("mail", "a") });
    for (attempt, least) in [(1, 15), (2, 16)] {
        let taken = queue.take("mail").expect("a job");
        assert_eq!((taken.attempt, taken.failures), (attempt, attempt - 1));
        queue.update(&taken, fail("no route")).expect("it has the lease");
        let Some(State::Delayed { until }) = queue.state(id) else { panic!("it waits") };
        assert!(until >= queue.now + least * 1_000, "{attempt}");
        queue.now = until;
    }
    let last = queue.take("mail").expect("a job");
    queue.update(&last, fail("no route")).expect("it has the lease");
    assert_eq!(queue.state(id), Some(State::Dead { since: queue.now }));
    assert_eq!(queue.change(|change| change.control("mail", Control::Retry)), Ok((1, false)));
    let again = queue.take("mail").expect("a job");
    assert_eq!((again.id, again.attempt, again.failures), (id, 4, 0));
    queue.update(&again, Update::Bury { error: "never".into() }).expect("it has the lease");
    queue.change(|change| change.retry("mail", id)).expect("it is dead");
    assert!(queue.change(|change| change.retry("mail", id)).is_err(), "it is not dead any more");
    assert!(queue.take("mail").is_some());
}

#[test]
fn dead_jobs_are_kept_for_a_time() {
    let mut queue = Fixture::new(Config::default());
    let id = queue.enqueue(job("mail", "a"));
    let taken = queue.take("mail").expect("a job");
    queue.update(&taken, Update::Bury { error: String::new() }).expect("it has the lease");
    queue.now += 30 * DAY - 1;
    assert!(queue.state(id).is_some());
    queue.now += 1;
    assert_eq!(queue.state(id), None);
    assert_eq!(queue.overview("mail").dead, 0);
}

#[test]
fn what_is_released_was_no_failure() {
    let mut queue = Fixture::new(Config::default());
    let id = queue.enqueue(NewJob { retries: Some(0), ..job("mail", "a") });
    for attempt in 1..4 {
        let taken = queue.take("mail").expect("a job");
        assert_eq!((taken.attempt, taken.failures), (attempt, 0));
        queue.update(&taken, Update::Release { delay: Duration::from_secs(5) }).expect("it has the lease");
        assert_eq!(queue.take("mail"), None);
        queue.now += 5_000;
    }
    assert_eq!(queue.state(id), Some(State::Waiting));
}

#[test]
fn a_unique_job_is_there_once_until_it_starts_or_until_it_is_done() {
    for (until, is_free_once_taken) in [(Until::Start, true), (Until::Success, false)] {
        let mut queue = Fixture::new(Config::default());
        let unique = || NewJob { unique: Some(Unique { key: "user 7".into(), until }), ..job("mail", "a") };
        let first = queue.enqueue(unique());
        let again = queue.change(|change| change.enqueue(&[unique()], WEB));
        assert_eq!(again, Ok(vec![Enqueued { id: first, is_new: false }]));
        assert_ne!(queue.enqueue(NewJob { queue: "other".into(), ..unique() }), first, "of its queue alone");
        let taken = queue.take("mail").expect("a job");
        let second = queue.enqueue(unique());
        assert_eq!(second != first, is_free_once_taken, "{until:?}");
        queue.update(&taken, Update::Done).expect("it has the lease");
        queue.enqueue(unique());
        assert_eq!(queue.overview("mail").waiting, 1, "{until:?}");
        let waiting = queue.take("mail").expect("a job");
        assert_eq!(waiting.id == second, is_free_once_taken);
        let other = queue.enqueue(NewJob { delay: Duration::from_secs(1), unique: None, ..unique() });
        queue.change(|change| change.cancel(other)).expect("nobody performs it");
        assert!(queue.change(|change| change.cancel(waiting.id)).is_err(), "somebody performs it");
    }
}

#[test]
fn of_a_paused_queue_nothing_is_handed_out_also_after_a_restart() {
    let mut queue = Fixture::new(Config::default());
    queue.enqueue(job("mail", "a"));
    queue.change(|change| change.control("mail", Control::Pause)).expect("a queue");
    queue.reopen();
    assert_eq!(queue.take("mail"), None);
    assert!(queue.overview("mail").is_paused);
    queue.change(|change| change.control("mail", Control::Resume)).expect("a queue");
    assert!(queue.take("mail").is_some());
    let unknown = queue.change(|change| change.control("none", Control::Pause));
    assert_eq!(unknown, Err(Refused::NoQueue("none".into())));
}

#[test]
fn jobs_that_are_enqueued_together_are_all_there_or_none() {
    let mut queue = Fixture::new(Config { max_job_bytes: ByteSize(10), ..Config::default() });
    let large = NewJob { payload: vec![0; 11], ..job("mail", "large") };
    for (wrong, field) in [
        (large, "payload"),
        (job("", "a"), "queue"),
        (job("a\n", "a"), "queue"),
        (job("mail", &"x".repeat(256)), "name"),
        (NewJob { priority: Some(10), ..job("mail", "a") }, "priority"),
        (NewJob { retries: Some(1_001), ..job("mail", "a") }, "retries"),
        (NewJob { delay: Duration::from_secs(400 * 86_400), ..job("mail", "a") }, "delayMs"),
        (NewJob { timeout: Some(Duration::ZERO), ..job("mail", "a") }, "timeoutMs"),
    ] {
        let refused = queue.change(|change| change.enqueue(&[job("mail", "a"), wrong], WEB));
        assert!(matches!(refused, Err(Refused::Invalid(of, _)) if of == field), "{refused:?}");
    }
    assert_eq!(queue.change(|change| change.overviews("", 10)), Ok(vec![]), "no queue was made either");
    let many = vec![job("mail", "a"); MAX_AT_ONCE + 1];
    assert!(queue.change(|change| change.enqueue(&many, WEB)).is_err());
    assert!(queue.change(|change| change.enqueue(&many[1..], WEB)).is_ok_and(|all| all.len() == MAX_AT_ONCE));
}

#[test]
fn one_user_leaves_room_for_the_next_and_all_of_them_for_an_administrator() {
    let config = Config { max_jobs: 32, max_queues: 8, ..Config::default() };
    let mut queue = Fixture::new(config);
    let mut fill = |uid: u32, is_admin| {
        let producer = Producer { uid: Some(uid), is_admin };
        (0..).take_while(|_| queue.change(|change| change.enqueue(&[job("mail", "a")], producer)).is_ok()).count()
    };
    assert_eq!((fill(1, false), fill(2, false)), (15, 7));
    assert!((3..40).map(|uid| fill(uid, false)).sum::<usize>() < 9);
    assert!(fill(0, true) >= 2);
    let refused = queue.change(|change| change.enqueue(&[job("mail", "a")], ROOT)).expect_err("it is full");
    assert_eq!(refused.to_string(), "the queues are full: `queue.max_jobs` is 32");
    while let Some(taken) = queue.take("mail") {
        queue.update(&taken, Update::Done).expect("it has the lease");
    }
    queue.reopen();
    let mut queues = |name: &str| queue.change(|change| change.enqueue(&[job(name, "a")], WEB)).is_ok();
    assert_eq!(["a", "b", "c", "d", "e", "f"].map(&mut queues), [true, true, true, true, false, false]);
    // Those in which there is nothing make room.
    while let Some(taken) = ["a", "b", "c", "d"].iter().find_map(|name| queue.take(name)) {
        queue.update(&taken, Update::Done).expect("it has the lease");
    }
    for name in ["g", "h", "i", "j", "k", "l"] {
        let id = queue.enqueue(job(name, "a"));
        queue.change(|change| change.cancel(id)).expect("nobody performs it");
    }
}

#[test]
fn a_purge_and_a_look_go_through_many_jobs_in_turns() {
    let mut queue = Fixture::new(Config::default());
    for _ in 0..2 {
        let jobs = vec![job("mail", "a"); 700];
        queue.change(|change| change.enqueue(&jobs, WEB)).expect("there is room");
    }
    let (mut from, mut seen) = (Vec::new(), BTreeSet::new());
    loop {
        let most = Most { jobs: 400, bytes: 100_000 };
        let page = queue.change(|change| change.peek("mail", Order::Waiting, &from, most)).expect("a queue");
        seen.extend(page.jobs.iter().map(|job| job.id));
        assert!(page.jobs.len() < 400, "their bytes are bounded");
        let Some(next) = page.next else { break };
        from = next;
    }
    assert_eq!(seen.len(), 1_400);
    let mut purge = || queue.change(|change| change.control("mail", Control::Purge(Order::Waiting)));
    assert_eq!([purge(), purge(), purge()], [Ok((1_000, true)), Ok((400, false)), Ok((0, false))]);
    assert_eq!(queue.overview("mail").bytes, 0);
}

#[test]
fn a_damaged_job_keeps_no_other_from_being_performed() {
    let mut queue = Fixture::new(Config::default());
    let ids = ["a", "b", "c"].map(|name| queue.enqueue(job("mail", name)));
    for key in [keys::job(ids[0]), keys::body(ids[1])] {
        queue
            .change(|change| {
                change.txn.put_unsealed(&key, b"what is no job")?;
                Ok(())
            })
            .expect("written");
    }
    assert_eq!(queue.take("mail").map(|job| job.id), Some(ids[2]));
    assert_eq!(queue.take("mail"), None);
    assert_eq!(queue.overview("mail").waiting, 0);
}

/// What jobs must be, whatever is done with them.
#[derive(Default)]
struct Model {
    jobs: HashMap<JobId, (State, u32)>,
}

#[test]
fn whatever_is_done_with_jobs_each_is_in_one_place_and_has_one_owner() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut queue = Fixture::new(Config::default());
    let (mut model, mut held) = (Model::default(), Vec::<Job>::new());
    for step in 0..600 {
        let name = ["a", "b"][random.usize(..2)];
        match random.u8(..10) {
            0..4 => {
                let delay = Duration::from_millis(random.u64(..3) * 20_000);
                let priority = Some(random.u8(..10));
                let id = queue.enqueue(NewJob { delay, priority, retries: Some(2), ..job(name, "x") });
                model.jobs.insert(id, (State::Waiting, 0));
            }
            4..6 => {
                if let Some(taken) = queue.take(name) {
                    let (state, attempts) = model.jobs.get_mut(&taken.id).expect("it was enqueued");
                    let is_free = !matches!(state, State::Running { until } if *until > queue.now);
                    assert!(is_free && taken.attempt == *attempts + 1, "{seed}: {step}: {taken:?} {state:?}");
                    (*state, *attempts) = (taken.state, taken.attempt);
                    held.push(taken);
                }
            }
            6..8 if !held.is_empty() => {
                let taken = held.swap_remove(random.usize(..held.len()));
                let update = match random.u8(..4) {
                    0 => Update::Release { delay: Duration::from_millis(random.u64(..2) * 5_000) },
                    1 => fail("x"),
                    _ => Update::Done,
                };
                let is_done = update == Update::Done;
                if queue.update(&taken, update).is_ok() {
                    let known = model.jobs.get_mut(&taken.id).expect("it was not done");
                    assert!(
                        matches!(known, (State::Running { until }, attempt) if *until > queue.now && *attempt == taken.attempt)
                    );
                    known.0 = State::Waiting;
                    if is_done {
                        model.jobs.remove(&taken.id);
                    }
                }
            }
            8 => queue.now += random.u64(..30_000),
            _ if random.u8(..5) == 0 => queue.reopen(),
            _ => {}
        }
    }
    for id in model.jobs.keys() {
        assert!(queue.state(*id).is_some(), "{seed}: job {id} is lost");
    }
    let mut places = BTreeMap::<JobId, usize>::new();
    for name in ["a", "b"] {
        let overview = queue.overview(name);
        for (order, count) in [
            (Order::Waiting, overview.waiting),
            (Order::Delayed, overview.delayed),
            (Order::Running, overview.running),
            (Order::Dead, overview.dead),
        ] {
            let found = queue.change(|change| change.peek(name, order, &[], MANY)).expect("a queue").jobs;
            assert_eq!(found.len() as u64, count, "{seed}: {name} {order:?}");
            found.iter().for_each(|job| *places.entry(job.id).or_default() += 1);
        }
    }
    assert!(places.len() == model.jobs.len() && places.values().all(|count| *count == 1), "{seed}");
    let (_, book) = queue.opened.as_ref().expect("it is open");
    assert_eq!(book.total.jobs, model.jobs.len() as u64, "{seed}");
}

/// Queues in a folder, as a sidecar has them.
fn start(folder: &Path, tasks: &Tasks) -> Arc<Queues> {
    let config = Config { path: Some(folder.to_owned()), ..Config::default() };
    Queues::start(&config, &Arc::default(), tasks).expect("a thread")
}

#[tokio::test(flavor = "multi_thread")]
async fn many_producers_share_a_transaction_and_each_has_a_job_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("queue");
    let (tasks, _failed) = Tasks::new();
    let queues = start(&path, &tasks);
    let all = (0..500).map(|number| queues.enqueue(vec![job("mail", &number.to_string())], WEB));
    let all = join_all(all).await;
    let ids: BTreeSet<_> = all.into_iter().flat_map(|ids| ids.expect("there is room")).map(|it| it.id).collect();
    assert_eq!((ids.len(), queues.totals().waiting), (500, 500));
    assert!(tasks.stop(Duration::from_secs(30)).await.is_empty());
    let engine = Engine::open(&path, ByteSize::gib(1)).expect("a file");
    assert!(engine.transactions() < 100, "{}", engine.transactions());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_job_has_it_when_it_comes_and_what_nobody_took_is_given_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let (tasks, _failed) = Tasks::new();
    let queues = start(&folder.path().join("queue"), &tasks);
    let wait = Duration::from_secs(60);
    let take = |queues: Arc<Queues>| async move { queues.take(vec!["mail".into()], MANY, None, wait).await };
    let gone = tokio::spawn(take(queues.clone()));
    // It has asked by then.
    assert_eq!(queues.overviews(String::new(), 10).await, Ok(vec![]));
    gone.abort();
    let _ = gone.await;
    let waiting = tokio::spawn(take(queues.clone()));
    queues.enqueue(vec![job("mail", "a"), job("mail", "b")], WEB).await.expect("there is room");
    let taken = waiting.await.expect("it has not panicked").expect("jobs");
    assert_eq!(taken.iter().map(|job| job.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    for job in taken {
        queues.update(job.id, job.attempt, Update::Done, |_, _| true).await.expect("it has the lease");
    }
    let nothing = queues.take(vec!["mail".into()], FEW, None, Duration::ZERO).await;
    assert_eq!((nothing, queues.totals().running), (Ok(vec![]), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_set_aside_and_told_and_the_queues_begin_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("queue");
    let write = |at: u64, bytes: &[u8]| {
        OpenOptions::new().write(true).open(file_in(&path)).expect("a file").write_all_at(bytes, at).expect("written");
    };
    let length = || fs::metadata(file_in(&path)).expect("a file").len();
    let damages: [&dyn Fn(); 3] = [
        &|| drop(OpenOptions::new().write(true).open(file_in(&path)).map(|file| file.set_len(length() / 2))),
        &|| (0..length() / 4_096).for_each(|page| write(page * 4_096 + 10, &[255; 6])),
        &|| write(0, &[7; 8_192]),
    ];
    for (nth, damage) in damages.iter().enumerate() {
        let (tasks, _failed) = Tasks::new();
        let queues = start(&path, &tasks);
        let jobs = vec![job("mail", "a"); 300];
        let first = queues.enqueue(jobs.clone(), WEB).await.expect("there is room");
        assert!(tasks.stop(Duration::from_secs(30)).await.is_empty());
        damage();
        let (tasks, _failed) = Tasks::new();
        let queues = start(&path, &tasks);
        let second = queues.enqueue(jobs, WEB).await.expect("it begins anew");
        assert!(second[0].id > first[299].id, "no number is used again");
        assert_eq!(queues.totals().waiting, 300, "{nth}");
        let told = queues.trouble().expect("it is told");
        assert!(told.contains("set aside") && told.contains("jobs.mdb.set-aside-"), "{told}");
        assert!(tasks.stop(Duration::from_secs(30)).await.is_empty());
    }
    let aside = fs::read_dir(&path)
        .expect("a folder")
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().contains("set-aside")));
    assert_eq!(aside.count(), 3);
    assert_eq!(fs::metadata(&path).expect("a folder").permissions().mode() & 0o777, 0o700, "payloads may be secret");
}

#[test]
fn no_damage_of_a_page_ends_the_process() {
    let mut random = fastrand::Rng::with_seed(19);
    let mut queue = Fixture::new(Config::default());
    for number in 0..400 {
        queue.enqueue(NewJob { payload: vec![7; number * 30], ..job("mail", "a") });
    }
    queue.opened = None;
    let folder = queue.folder.path().join("queue");
    let (file, config) = (file_in(&folder), Config::default());
    let whole = fs::read(&file).expect("a file");
    let mut refused = 0;
    for _ in 0..60 {
        let mut damaged = whole.clone();
        for _ in 0..=random.usize(..4) {
            let at = random.usize(..damaged.len());
            damaged[at] ^= 1 << random.u8(..8);
        }
        fs::write(&file, &damaged).expect("written");
        let Ok(engine) = Engine::open(&folder, config.max_bytes) else {
            refused += 1;
            continue;
        };
        let (mut txn, mut tally) = (engine.begin().expect("a transaction"), Tally::default());
        let Ok(mut book) = Book::load(&txn, 1) else { continue };
        let mut change = Change { txn: &mut txn, book: &mut book, config: &config, now: 1, tally: &mut tally };
        let _ = change.take(&["mail".to_owned()], MANY, None);
        let _ = change.control("mail", Control::Purge(Order::Running));
    }
    assert!(refused > 0);
}

/// The variable by which the test of the same binary knows that it is to be the child, and in which folder.
const CHILD: &str = "ROSTER_QUEUE_TEST";

/// Not a test: what `what_was_acknowledged_survives_a_kill` kills.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_enqueues_and_performs() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let (tasks, _failed) = Tasks::new();
    let queues = start(Path::new(&folder), &tasks);
    let say = |word: &str, id: JobId| {
        let _ = writeln!(std::io::stdout().lock(), "{word} {id}");
    };
    let produce = |number: usize| {
        let queues = queues.clone();
        async move {
            loop {
                let jobs = vec![job("mail", "a"); 1 + number % 3];
                let enqueued = queues.enqueue(jobs, ROOT).await.expect("there is room");
                enqueued.iter().for_each(|it| say("enqueued", it.id));
            }
        }
    };
    let perform = async {
        loop {
            let wait = Duration::from_secs(60);
            for job in queues.take(vec!["mail".into()], Most { jobs: 2, ..MANY }, None, wait).await.expect("it is on") {
                say("taken", job.id);
                queues.update(job.id, job.attempt, Update::Done, |_, _| true).await.expect("it has the lease");
                say("done", job.id);
            }
        }
    };
    tokio::join!(join_all((0..16).map(produce)), perform);
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let mut queue = Fixture::new(Config::default());
    let folder = queue.folder.path().join("queue");
    let (mut enqueued, mut taken, mut done) = (BTreeSet::new(), BTreeMap::<JobId, u32>::new(), BTreeSet::new());
    for round in 0..4 {
        queue.opened = None;
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "queue::tests::child_that_enqueues_and_performs", "--nocapture"])
            .env(CHILD, &folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a child");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let (began, mut heard) = (Instant::now(), 0);
        for line in lines {
            let Some((word, id)) =
                line.split_once(' ').and_then(|(word, id)| Some((word.to_owned(), id.parse().ok()?)))
            else {
                continue;
            };
            match word.as_str() {
                "enqueued" => _ = enqueued.insert(id),
                "taken" => *taken.entry(id).or_default() += 1,
                "done" => _ = done.insert(id),
                _ => continue,
            }
            heard += 1;
            // What it has said by then is read to the end.
            if heard == 300 + 97 * round {
                child.kill().expect("it lives");
            }
        }
        child.wait().expect("it has ended");
        assert!(heard >= 300, "{round}: {heard} within {:?}", began.elapsed());
        queue.now += DAY;
        queue.reopen();
        for id in enqueued.difference(&done) {
            assert!(queue.state(*id).is_some() || taken.contains_key(id), "{round}: job {id} is lost");
        }
        for id in &done {
            assert_eq!(queue.state(*id), None, "{round}: job {id} was done");
        }
        for (id, times) in &taken {
            let job = queue.change(|change| change.find(*id)).ok();
            assert!(job.is_none_or(|job| job.attempt >= *times), "{round}: job {id}");
        }
    }
}
