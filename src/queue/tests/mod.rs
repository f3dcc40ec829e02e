//! What becomes of jobs: by the hour, by whoever has them, by damage, and by the death of the process.

mod damage;
mod format;
mod kill;
mod limits;
mod live;
mod log;
mod model;
mod moved;
mod recurring;
mod results;

use std::collections::{BTreeSet, HashMap};

use bytesize::ByteSize;
use tempfile::TempDir;

use super::book::Book;
use super::change::{Fault, Now, Tally};
use super::engine::{Engine, EngineError};
use super::limit::Looks;
use super::*;

const DAY: u64 = 86_400_000;

/// One job, however large.
const FEW: Most = Most { jobs: 1, bytes: 1 };
const MANY: Most = Most { jobs: 1_000, bytes: usize::MAX };

/// A user of no account.
const WEB: Asker = Asker { uid: Some(33_033), is_admin: false };
const ROOT: Asker = Asker { uid: Some(0), is_admin: true };

/// The file of a queue, and its clock.
struct Fixture {
    folder: TempDir,
    config: Config,
    opened: Option<(Engine, Book)>,
    now: u64,
    /// How far the clock on the wall was set forward since the last start.
    set_forward: u64,
}

impl Fixture {
    fn new(config: Config) -> Self {
        // In memory: what a sync costs on the disk is no matter of these tests.
        let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
        let mut fixture = Self { folder, config, opened: None, now: 1_700_000_000_000, set_forward: 0 };
        fixture.reopen();
        fixture
    }

    fn time(&self) -> Now {
        Now { wall: self.now + self.set_forward, since_boot: self.now, uptime: self.now }
    }

    /// As another process finds it.
    fn reopen(&mut self) {
        self.opened = None;
        let mut engine = Engine::open(&self.folder.path().join("queue"), &self.config).expect("a file");
        let book =
            Book::load(&engine.begin().expect("a transaction"), self.time(), &HashMap::new()).expect("what it says");
        self.opened = Some((engine, book));
    }

    /// One transaction.
    fn transact<T>(&mut self, work: impl FnOnce(&mut Change<'_, '_>) -> Outcome<T>) -> Outcome<T> {
        let now = self.time();
        let (engine, book) = self.opened.as_mut().expect("it is open");
        let (mut txn, mut tally) = (engine.begin().expect("a transaction"), Tally::default());
        let mut change = Change {
            txn: &mut txn,
            book,
            config: &self.config,
            now,
            has_room: true,
            tally: &mut tally,
            looks: Looks::default(),
        };
        let outcome = work(&mut change);
        change.tick(now.uptime).expect("the file is sound");
        book.save(&mut txn).expect("the file is sound");
        txn.commit().expect("the file is sound");
        outcome
    }

    /// One after what the time has come for.
    fn change<T>(&mut self, work: impl FnOnce(&mut Change<'_, '_>) -> Outcome<T>) -> Result<T, Refused> {
        self.transact(|_| Ok(())).expect("nothing");
        self.transact(work).map_err(|fault| match fault {
            Fault::Refused(why) => why,
            Fault::Engine(error) => panic!("{error}"),
        })
    }

    fn enqueue(&mut self, job: NewJob) -> JobId {
        self.change(|change| change.enqueue(&[job], WEB)).expect("there is room").first().expect("one").id
    }

    fn take(&mut self, queue: &str) -> Option<Job> {
        self.take_for(queue, None)
    }

    fn take_for(&mut self, queue: &str, lease: Option<Duration>) -> Option<Job> {
        self.change(|change| change.take(None, &vec![queue.to_owned()].into(), FEW, lease)).expect("it is sound").pop()
    }

    /// What is said of a job is heard before its lease is over.
    fn update(&mut self, job: &Job, update: Update) -> Result<Option<u64>, Refused> {
        self.transact(|change| change.update(job.id, job.attempt, &update)).map_err(|fault| match fault {
            Fault::Refused(why) => why,
            Fault::Engine(error) => panic!("{error}"),
        })
    }

    fn state(&mut self, id: JobId) -> Option<State> {
        self.change(|change| change.find(id)).ok().map(|job| job.state)
    }

    fn overview(&mut self, queue: &str) -> Overview {
        let mut all = self.change(|change| change.overviews("", 1_000, |name| name == queue)).expect("it is sound");
        all.pop().expect("a queue")
    }

    /// Writes what is no value, as damage would.
    fn damage(&mut self, key: &[u8]) {
        let damaged = self.change(|change| {
            assert!(!matches!(change.txn.get(key), Ok(None)), "there is something");
            Ok(change.txn.put_unsealed(key, b"what is no value")?)
        });
        damaged.expect("written");
    }
}

fn job(queue: &str, name: &str) -> NewJob {
    NewJob { queue: queue.into(), name: name.into(), payload: b"{\"to\":1}".to_vec(), ..NewJob::default() }
}

fn fail(error: &str) -> Update {
    Update::Fail { error: error.into() }
}

fn unique(queue: &str, key: &str) -> NewJob {
    NewJob { unique: Some(Unique { key: key.into(), until: Until::Success }), ..job(queue, "a") }
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
fn queues_have_their_turns_by_weight_over_many_requests_and_a_damaged_or_paused_one_stops_no_other() {
    let mut queue = Fixture::new(Config::default());
    let ids: Vec<_> = (0..40).flat_map(|_| ["mail", "img"].map(|name| queue.enqueue(job(name, "a")))).collect();
    queue.damage(&keys::job(ids[0]));
    let sources =
        Sources::by_weight([("none", 9), ("mail", 3), ("img", 1)].map(|(it, weight)| (it.into(), weight)).into());
    let mut taken = Vec::new();
    while taken.len() < 20 {
        let jobs = queue.change(|change| change.take(None, &sources, FEW, None)).expect("it is sound");
        taken.extend(jobs.into_iter().map(|job| job.queue));
    }
    let mail = taken.iter().filter(|queue| queue.as_str() == "mail").count();
    assert!((14..=16).contains(&mail), "{taken:?}");
    queue.change(|change| change.control("mail", Control::Pause)).expect("a queue");
    let rest = queue.change(|change| change.take(None, &sources, MANY, None)).expect("it is sound");
    assert!(rest.iter().all(|job| job.queue == "img") && rest.len() == 40 - (20 - mail), "{rest:?}");
}

#[test]
fn how_far_a_job_is_is_known_while_somebody_has_it_and_takes_no_more_memory_after_that() {
    let mut queue = Fixture::new(Config::default());
    queue.enqueue(job("mail", "a"));
    for end in [Update::Release { delay: Duration::ZERO }, fail("x"), Update::Bury { error: "x".into() }] {
        queue.now += DAY;
        let taken = queue.take("mail").expect("a job");
        let note = "é".repeat(1_000);
        assert_eq!(queue.update(&taken, Update::Progress(Progress::new(250, &note))), Ok(None));
        let touched = queue.update(&taken, Update::Touch { lease: None }).expect("it has the lease");
        let found = queue.change(|change| change.find(taken.id)).expect("a job");
        let progress = found.progress.expect("it is known");
        assert_eq!((progress.percent(), progress.note()), (100, &note[..256]));
        assert_eq!(progress.reported_at(), queue.now);
        assert_eq!(touched, Some(queue.now + 60_000), "and it has its lease");
        queue.update(&taken, end).expect("it has the lease");
        assert_eq!(queue.change(|change| change.find(taken.id)).expect("a job").progress, None);
        let late = queue.update(&taken, Update::Progress(Progress::new(1, "")));
        assert_eq!(late, Err(Refused::NotLeased(taken.id, taken.attempt)));
        assert_eq!(queue.opened.as_ref().expect("it is open").1.progress.len(), 0);
    }
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
    let why = "it was lost 3 times, and is tried no more: its lease ended";
    assert!(matches!(dead.state, State::Dead { .. }) && dead.error.as_deref() == Some(why), "{dead:?}");
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
fn a_queue_has_defaults_of_its_own_and_a_job_has_the_last_word() {
    let timeout = Some(Duration::from_secs(300));
    let default = vec![Defaults { queue: "mail".into(), retries: Some(0), timeout }];
    let mut queue = Fixture::new(Config { default, ..Config::default() });
    for (new, retries, timeout) in [
        (job("mail", "a"), 0, 300),
        (job("img", "b"), 25, 60),
        (NewJob { retries: Some(2), timeout: Some(Duration::from_secs(7)), ..job("mail", "c") }, 2, 7),
    ] {
        let name = new.queue.clone();
        queue.enqueue(new);
        let taken = queue.take(&name).expect("it waits");
        assert_eq!((taken.retries, taken.timeout.as_secs()), (retries, timeout), "{name}");
    }
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
        let why = queue.change(|change| change.retry("mail", id)).expect_err("it is delayed").to_string();
        assert!(why.ends_with("to have that now, cancel it and enqueue it again"), "{why}");
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
    queue.enqueue(job("img", "a"));
    assert_eq!(queue.change(|change| change.retry("img", id)), Err(Refused::Elsewhere(id, "mail".into())));
    assert!(queue.take("mail").is_some());
}

#[test]
fn the_oldest_that_waits_is_known_whatever_its_priority_and_also_if_it_was_delayed_or_is_retried() {
    let mut queue = Fixture::new(Config::default());
    let begin = queue.now;
    let oldest = |queue: &mut Fixture| queue.overview("mail").oldest_waiting.map(|at| at - begin);
    let delayed = queue.enqueue(NewJob { delay: Duration::from_secs(60), ..job("mail", "delayed") });
    assert_eq!(oldest(&mut queue), None, "it does not wait yet");
    queue.now += 1_000;
    let idle = queue.enqueue(NewJob { priority: Some(9), ..job("mail", "idle") });
    queue.now += 1_000;
    let urgent = queue.enqueue(NewJob { priority: Some(0), ..job("mail", "urgent") });
    assert_eq!(oldest(&mut queue), Some(1_000));
    assert_eq!(queue.take("mail").map(|job| job.id), Some(urgent));
    assert_eq!(oldest(&mut queue), Some(1_000));
    let taken = queue.take("mail").expect("it waits");
    assert_eq!((taken.id, oldest(&mut queue)), (idle, None));
    queue.update(&taken, fail("no route")).expect("it has the lease");
    queue.now = begin + 60_000;
    queue.reopen();
    assert_eq!(oldest(&mut queue), Some(0), "its delay counts");
    assert_eq!(queue.take("mail").map(|job| job.id), Some(delayed));
    assert_eq!(oldest(&mut queue), Some(1_000), "and so does the time until it was tried again");
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
        assert_eq!(again, Ok(vec![Enqueued { id: first, is_new: false, is_buffered: false }]));
        assert_ne!(queue.enqueue(NewJob { queue: "other".into(), ..unique() }), first, "of its queue alone");
        let waiting = queue.change(|change| change.find(first)).expect("it waits");
        assert_eq!(waiting.unique_key.as_deref(), Some("user 7"));
        let taken = queue.take("mail").expect("a job");
        assert_eq!(taken.unique_key.is_none(), is_free_once_taken, "{until:?}");
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
fn a_dead_job_that_is_put_back_has_its_unique_key_again_unless_another_one_has_it() {
    let mut queue = Fixture::new(Config::default());
    let mut dies = |key: &str, until| {
        let id = queue.enqueue(NewJob { unique: Some(Unique { key: key.into(), until }), ..job("mail", "a") });
        let taken = queue.take("mail").expect("it waits");
        queue.update(&taken, Update::Bury { error: "x".into() }).expect("it has the lease");
        id
    };
    let (free, taken) = (dies("free", Until::Success), dies("taken", Until::Success));
    let started = dies("started", Until::Start);
    let other = queue.enqueue(unique("mail", "taken"));
    queue.change(|change| change.retry("mail", free)).expect("it is dead");
    assert_eq!(queue.change(|change| change.control("mail", Control::Retry)), Ok((2, false)));
    queue.reopen();
    let ids = [free, taken, started, other];
    let keys = ids.map(|id| queue.change(|change| change.find(id)).expect("it waits").unique_key);
    let expected = [Some("free"), None, None, Some("taken")].map(|key| key.map(str::to_owned));
    assert_eq!(keys, expected, "until it starts it had one before");
    assert_eq!(["free", "taken"].map(|key| queue.enqueue(unique("mail", key))), [free, other]);
    queue.change(|change| change.cancel(taken)).expect("it waits");
    assert_eq!(queue.enqueue(unique("mail", "taken")), other, "the key is another's");
    queue.change(|change| change.cancel(free)).expect("it waits");
    assert_ne!(queue.enqueue(unique("mail", "free")), free, "it is free again");
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
    assert_eq!(queue.change(|change| change.overviews("", 10, |_| true)), Ok(vec![]), "no queue was made either");
    let many = vec![job("mail", "a"); MAX_AT_ONCE + 1];
    assert!(queue.change(|change| change.enqueue(&many, WEB)).is_err());
    assert!(queue.change(|change| change.enqueue(&many[1..], WEB)).is_ok_and(|all| all.len() == MAX_AT_ONCE));
}

#[test]
fn one_user_leaves_room_for_the_next_and_all_of_them_for_an_administrator() {
    let config = Config { max_jobs: 32, max_queues: 8, ..Config::default() };
    let mut queue = Fixture::new(config);
    let mut fill = |uid: u32, is_admin| {
        let producer = Asker { uid: Some(uid), is_admin };
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
fn a_refusal_names_what_is_full_for_all_or_what_one_user_may_have() {
    let mut queue = Fixture::new(Config { max_jobs: 32, max_queues: 8, ..Config::default() });
    let mut refuses = |jobs: &[NewJob], asker| loop {
        match queue.change(|change| change.enqueue(jobs, asker)) {
            Ok(_) => {}
            Err(Refused::Full(bound, _)) => break bound,
            Err(why) => panic!("{why}"),
        }
    };
    let many: Vec<NewJob> = (0..9).map(|nth| job(&format!("q{nth}"), "a")).collect();
    assert_eq!(refuses(&many, WEB), Bound::OfUser("max_queues", WEB.uid), "there is room for fewer");
    assert_eq!(refuses(&many[..1], WEB), Bound::OfUser("max_jobs", WEB.uid));
    let others = (1..).map(|nth| Asker { uid: Some(1_000 + nth), is_admin: false });
    let of_another = others.map(|other| refuses(&many[..1], other)).find(|bound| matches!(bound, Bound::All(_)));
    assert_eq!(of_another, Some(Bound::All("max_jobs")), "who has nothing is refused too");
    assert_eq!(refuses(&many[..1], ROOT), Bound::All("max_jobs"));
    assert_eq!(refuses(&many[..1], WEB), Bound::All("max_jobs"));
}

#[test]
fn users_leave_some_queues_to_administrators() {
    let mut queue = Fixture::new(Config { max_queues: 32, ..Config::default() });
    let mut names = (0..).map(|nth| format!("q{nth}"));
    let mut make = |uid: u32, is_admin| {
        let producer = Asker { uid: Some(uid), is_admin };
        let mut is_made = |name: &String| queue.change(|change| change.enqueue(&[job(name, "a")], producer)).is_ok();
        names.by_ref().take_while(&mut is_made).count()
    };
    let by_users: usize = (1..40).map(|uid| make(uid, false)).sum();
    assert_eq!((by_users, make(0, true)), (29, 3));
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
fn a_lease_that_is_longer_than_the_timeout_outlasts_a_restart() {
    let mut queue = Fixture::new(Config::default());
    let ids = ["a", "b"].map(|name| queue.enqueue(job("mail", name)));
    let hour = Duration::from_secs(3_600);
    let taken = queue.take_for("mail", Some(hour)).expect("a job");
    let touched = queue.take("mail").expect("a job");
    let until = queue.now + 3_600_000;
    assert_eq!(queue.update(&touched, Update::Touch { lease: Some(hour) }), Ok(Some(until)));
    queue.now += 1_200_000;
    queue.reopen();
    assert_eq!(queue.take("mail"), None, "both have their leases");
    assert_eq!(ids.map(|id| queue.state(id)), [Some(State::Running { until }); 2]);
    for job in [taken, touched] {
        assert_eq!(queue.update(&job, Update::Done), Ok(None));
    }
}

#[test]
fn a_lease_lasts_no_longer_than_it_was_granted_where_the_clock_was_set_back() {
    let mut queue = Fixture::new(Config::default());
    queue.set_forward = DAY;
    queue.enqueue(job("mail", "a"));
    queue.take_for("mail", Some(Duration::from_secs(1))).expect("a job");
    queue.set_forward = 0;
    queue.reopen();
    queue.now += 999;
    assert_eq!(queue.take("mail"), None);
    queue.now += 1;
    assert!(queue.take("mail").is_some());
}

#[test]
fn whoever_sets_the_clock_ends_no_lease_and_no_delay() {
    let mut queue = Fixture::new(Config::default());
    let id = queue.enqueue(job("mail", "a"));
    let delayed = queue.enqueue(NewJob { delay: Duration::from_secs(7_200), ..job("later", "b") });
    let taken = queue.take("mail").expect("a job");
    queue.set_forward = 7_200_000;
    assert_eq!(queue.state(id), Some(State::Running { until: queue.now + 7_200_000 + 60_000 }));
    assert_eq!(queue.take("mail"), None, "its lease goes on");
    assert_eq!(queue.take("later"), None, "its delay goes on");
    let until = queue.now + 7_200_000 + queue.set_forward;
    assert_eq!(queue.state(delayed), Some(State::Delayed { until }));
    assert_eq!(queue.update(&taken, Update::Done), Ok(None));
    queue.now += 7_200_000;
    assert_eq!(queue.take("later").map(|job| job.id), Some(delayed));
}

#[test]
fn a_delay_is_over_in_its_time_where_the_clock_was_set_back_and_over_a_restart_it_goes_by_the_wall() {
    let mut queue = Fixture::new(Config::default());
    queue.set_forward = DAY;
    let ids = ["a", "b"].map(|name| queue.enqueue(NewJob { delay: Duration::from_secs(60), ..job(name, name) }));
    queue.set_forward = 0;
    assert_eq!(ids.map(|id| queue.state(id)), [Some(State::Delayed { until: queue.now + 60_000 }); 2]);
    queue.now += 59_999;
    assert_eq!(queue.take("a"), None);
    queue.now += 1;
    assert_eq!(queue.take("a").map(|job| job.id), Some(ids[0]));
    let retried = queue.enqueue(NewJob { delay: Duration::from_secs(60), ..job("c", "c") });
    queue.reopen();
    queue.set_forward = 60_000;
    assert_eq!(queue.take("c").map(|job| job.id), Some(retried));
}

#[test]
fn what_was_said_of_a_job_before_its_lease_is_known_to_be_over_counts() {
    let mut queue = Fixture::new(Config::default());
    let id = queue.enqueue(job("mail", "a"));
    let taken = queue.take("mail").expect("a job");
    queue.now += 600_000;
    assert_eq!(queue.update(&taken, Update::Done), Ok(None), "the disk was slow");
    assert_eq!(queue.state(id), None);
}

#[test]
fn no_lease_lasts_for_ever_and_whoever_takes_jobs_of_many_queues_leaves_leases_for_others() {
    let mut queue = Fixture::new(Config::default());
    let names = ["img1", "img2"].map(str::to_owned);
    for name in &names {
        for _ in 0..17 {
            queue.change(|change| change.enqueue(&vec![job(name, "a"); 1_000], ROOT)).expect("there is room");
        }
    }
    let mail = queue.enqueue(job("mail", "a"));
    let most = Duration::from_millis(u64::MAX);
    let mut taken = 0;
    let refused = loop {
        match queue.change(|change| change.take(Some(WEB), &names.to_vec().into(), MANY, Some(most))) {
            Ok(jobs) => {
                let until = queue.now + DAY;
                assert!(jobs.iter().all(|job| job.state == State::Running { until }), "a day at most");
                taken += jobs.len();
            }
            Err(why) => break why,
        }
    };
    assert_eq!(taken, 32_768);
    assert!(matches!(&refused, Refused::TooMuch(why) if why.contains("too many jobs run")), "{refused:?}");
    assert_eq!(queue.take("mail").map(|job| job.id), Some(mail));
    queue.reopen();
    assert!(queue.take("img2").is_some());
    let again = queue.change(|change| change.take(Some(WEB), &names.to_vec().into(), MANY, None));
    assert!(matches!(again, Err(Refused::TooMuch(_))), "{again:?}");
}

#[test]
fn an_error_is_cut_by_its_bytes() {
    let mut queue = Fixture::new(Config::default());
    let id = queue.enqueue(job("mail", "a"));
    let taken = queue.take("mail").expect("a job");
    queue.update(&taken, fail(&"é".repeat(100_000))).expect("it has the lease");
    let error = queue.change(|change| change.find(id)).expect("it waits").error.expect("why it failed");
    assert_eq!(error, "é".repeat(512));
}
