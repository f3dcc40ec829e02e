//! Changes: all that can be done with jobs, each within the one transaction of its batch.
//!
//! What is refused is refused before anything is written, so that it leaves the rest of its batch alone.

use std::time::Duration;

use super::Config;
use super::book::{Book, Counts, Queue, Usage, read, written};
use super::engine::{EngineError, Txn};
use super::job::{
    DEFAULT_PRIORITY, Enqueued, Head, Job, JobId, MAX_AT_ONCE, MAX_DELAY, MAX_ERROR, MAX_JOB_NAME, MAX_LOST,
    MAX_PRIORITY, MAX_QUEUE_NAME, MAX_RETRIES, MAX_TIMEOUT, MAX_UNIQUE_KEY, NewJob, OVERHEAD, State, Unique, Until,
    body, parts_of, retry_delay,
};
use super::keys::{self, QueueNumber};
use crate::model::shortened;
use crate::share::KEPT_FOR_ADMINS;

/// So many jobs run at once.
const MAX_LEASES: usize = 65_536;

/// So many jobs are moved in one batch by time or by an administrator's word: others wait for it.
const MAX_MOVED: usize = 1_000;

/// What the kernel knows of who enqueues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// None: somebody over TCP.
    pub uid: Option<u32>,
    /// Administrators have room where all others have none.
    pub is_admin: bool,
}

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Which field of a job is wrong, and how.
    #[error("{1}")]
    Invalid(&'static str, String),
    #[error("{0}")]
    Full(String),
    #[error("there is no queue {0:?}")]
    NoQueue(String),
    #[error("there is no job {0}: it was never enqueued, or is done or cancelled")]
    NoJob(JobId),
    #[error("attempt {1} of job {0} is over: its lease has ended, or it is done, released or cancelled")]
    NotLeased(JobId, u32),
    #[error("a worker performs job {0}")]
    Running(JobId),
    #[error("{0}")]
    Unavailable(String),
    #[error("this sidecar keeps no queues: set `[queue] path`")]
    Off,
}

/// What is refused, or why the whole batch fails.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

pub(super) type Outcome<T> = Result<T, Fault>;

/// Who has a job wants this of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// It is done.
    Done,
    /// The attempt has failed: it is tried again after a while, or dead.
    Fail { error: String },
    /// It is given back, which is no failure, and is not performed for so long.
    Release { delay: Duration },
    /// It is dead, however often it may be retried.
    Bury { error: String },
    /// Whoever had it is gone.
    Lose { error: String },
    /// The lease lasts that long from now on; none: as long as at first.
    Touch { lease: Option<Duration> },
}

/// Which jobs of a queue are looked at or moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Waiting,
    Delayed,
    Running,
    Dead,
}

/// Where to stop: at so many jobs, or after the one that makes them so large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    pub jobs: usize,
    pub bytes: usize,
}

/// Some jobs of a queue, and where the next begin, if there may be more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub jobs: Vec<Job>,
    pub next: Option<Vec<u8>>,
}

/// What an administrator wants of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// No job of it is handed out.
    Pause,
    Resume,
    /// Jobs of it are removed.
    Purge(Order),
    /// Dead jobs wait again.
    Retry,
}

/// A queue as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    pub name: String,
    pub is_paused: bool,
    pub waiting: u64,
    pub delayed: u64,
    pub running: u64,
    pub dead: u64,
    pub bytes: u64,
    /// When the oldest was enqueued that waits, in ms since 1970.
    pub oldest_waiting: Option<u64>,
}

/// A transaction with what is known in memory, at one moment.
pub(super) struct Change<'c, 'e> {
    pub(super) txn: &'c mut Txn<'e>,
    pub(super) book: &'c mut Book,
    pub(super) config: &'c Config,
    /// In ms since 1970.
    pub(super) now: u64,
    pub(super) tally: &'c mut Tally,
}

/// What happened to jobs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) enqueued: u64,
    pub(super) attempts: u64,
    pub(super) done: u64,
    /// Attempts that failed, or were lost.
    pub(super) failed: u64,
    pub(super) died: u64,
}

impl Change<'_, '_> {
    /// All of them, or none.
    pub(super) fn enqueue(&mut self, jobs: &[NewJob], producer: Producer) -> Outcome<Vec<Enqueued>> {
        if jobs.len() > MAX_AT_ONCE {
            let message = format!("{} at once, at most {MAX_AT_ONCE}", jobs.len());
            return Err(Refused::Invalid("jobs", message).into());
        }
        jobs.iter().try_for_each(|job| self.check(job))?;
        self.ensure_room(jobs, producer)?;
        self.ensure_queues(jobs, producer)?;
        jobs.iter().map(|job| self.enqueue_one(job, producer.uid)).collect()
    }

    fn check(&self, job: &NewJob) -> Result<(), Refused> {
        let invalid = |field, message: String| Err(Refused::Invalid(field, message));
        check_name("queue", &job.queue, MAX_QUEUE_NAME)?;
        check_name("name", &job.name, MAX_JOB_NAME)?;
        if let Some(unique) = &job.unique {
            check_name("uniqueKey", &unique.key, MAX_UNIQUE_KEY)?;
        }
        let (bytes, most) = (job.payload.len() as u64, self.config.max_job_bytes);
        if bytes > most.as_u64() {
            return invalid("payload", format!("it has {bytes} bytes, and `queue.max_job_bytes` is {most}"));
        }
        if job.priority.is_some_and(|priority| priority > MAX_PRIORITY) {
            return invalid("priority", format!("it is from 0, the most urgent, to {MAX_PRIORITY}"));
        }
        if job.delay > MAX_DELAY {
            return invalid("delayMs", format!("it is longer than {} days", MAX_DELAY.as_secs() / 86_400));
        }
        if job.timeout.is_some_and(|timeout| timeout.is_zero() || timeout > MAX_TIMEOUT) {
            return invalid("timeoutMs", "it is from 1 ms to a day".to_owned());
        }
        if job.retries.is_some_and(|retries| retries > MAX_RETRIES) {
            return invalid("retries", format!("at most {MAX_RETRIES}"));
        }
        Ok(())
    }

    /// Each user may have as much as it leaves free, and a part is kept for administrators.
    fn ensure_room(&self, jobs: &[NewJob], Producer { uid, is_admin }: Producer) -> Result<(), Refused> {
        let mut wanted = Usage::default();
        jobs.iter().for_each(|job| wanted.add(Usage { jobs: 1, bytes: charge(job) }));
        let own = self.book.users.get(&uid).copied().unwrap_or_default();
        let (most, most_bytes) = (self.config.max_jobs as u64, self.config.max_bytes.as_u64());
        for (setting, wanted, all, own, most) in [
            ("max_jobs", wanted.jobs, self.book.total.jobs, own.jobs, most),
            ("max_bytes", wanted.bytes, self.book.total.bytes, own.bytes, most_bytes),
        ] {
            if all + wanted > most {
                return Err(Refused::Full(format!("the queues are full: `queue.{setting}` is {most}")));
            }
            let left = (most - most / KEPT_FOR_ADMINS as u64).saturating_sub(all + wanted);
            if !is_admin && own + wanted > left {
                let message = format!(
                    "this user has {own} of `queue.{setting}`, which is {most}; one may have as much as it leaves free"
                );
                return Err(Refused::Full(message));
            }
        }
        Ok(())
    }

    /// Makes the queues that are not there. What is refused has made none.
    fn ensure_queues(&mut self, jobs: &[NewJob], Producer { uid, is_admin }: Producer) -> Outcome<()> {
        let mut missing: Vec<&str> = jobs.iter().map(|job| job.queue.as_str()).collect();
        missing.retain(|name| self.book.named(name).is_none());
        missing.sort_unstable();
        missing.dedup();
        let (most, wanted) = (self.config.max_queues, missing.len());
        if wanted == 0 {
            return Ok(());
        }
        let busy = self.book.queues.values().filter(|queue| !queue.counts.is_idle());
        let own = busy.clone().filter(|queue| queue.counts.creator == uid).count();
        let left = most.saturating_sub(busy.count());
        if wanted > left || !is_admin && own + wanted > left - wanted {
            let message = format!(
                "too many queues: `queue.max_queues` is {most}, of which one user may have as many as it leaves free"
            );
            return Err(Refused::Full(message).into());
        }
        while self.book.queues.len() + wanted > most && self.book.forget_one(self.txn, jobs)? {}
        missing.into_iter().for_each(|name| _ = self.book.add_queue(name, uid));
        Ok(())
    }

    fn enqueue_one(&mut self, job: &NewJob, user: Option<u32>) -> Outcome<Enqueued> {
        let queue = *self.book.names.get(&job.queue).ok_or(EngineError::Damaged)?;
        if let Some(unique) = &job.unique
            && let Some(id) = self.holder_of(queue, &unique.key)?
        {
            return Ok(Enqueued { id, is_new: false });
        }
        let id = self.book.next_job();
        let bytes = charge(job);
        let state = match millis(job.delay) {
            0 => State::Waiting,
            delay => State::Delayed { until: self.now + delay },
        };
        let head = Head {
            queue,
            state,
            priority: job.priority.unwrap_or(DEFAULT_PRIORITY),
            attempt: 0,
            failures: 0,
            lost: 0,
            retries: job.retries.unwrap_or(self.config.retries as u32),
            timeout_ms: millis(job.timeout.unwrap_or(self.config.timeout)),
            enqueued_at: self.now,
            user,
            bytes,
            unique: job.unique.clone(),
            error: None,
        };
        if let Some(Unique { key, .. }) = &head.unique {
            self.txn.put(&keys::unique(queue, key), &id.to_be_bytes())?;
        }
        self.txn.put(&keys::body(id), &body(&job.name, &job.payload))?;
        self.book.charge(user, bytes);
        self.book.queue(queue)?.counts.bytes += bytes;
        self.place(id, &head)?;
        self.tally.enqueued += 1;
        Ok(Enqueued { id, is_new: true })
    }

    /// Hands out jobs of these queues, of an earlier one before those of a later one.
    pub(super) fn take(&mut self, queues: &[String], most: Most, lease: Option<Duration>) -> Outcome<Vec<Job>> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        for name in queues {
            let Some(number) = self.book.named(name).filter(|it| it.is_open()).map(|it| it.counts.number) else {
                continue;
            };
            let order = keys::all_waiting(number);
            while taken.len() < most.jobs && bytes < most.bytes && self.book.leases.len() < MAX_LEASES {
                let Some(key) = self.txn.first(&order, &order)? else { break };
                let id = keys::id_in(&key).ok_or(EngineError::Damaged)?;
                match self.hand_out(id, lease) {
                    Ok(job) => {
                        bytes += job.payload.len() + OVERHEAD;
                        taken.push(job);
                    }
                    Err(EngineError::Damaged) => self.pass_over(&key, id, number, Order::Waiting)?,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(taken)
    }

    fn hand_out(&mut self, id: JobId, lease: Option<Duration>) -> Result<Job, EngineError> {
        let head = self.head(id)?.ok_or(EngineError::Damaged)?;
        let content = self.content(id)?;
        let lease = lease.map_or(head.timeout_ms, millis);
        let next = Head {
            state: State::Running { until: self.now + lease },
            attempt: head.attempt.saturating_add(1),
            ..head.clone()
        };
        if head.unique.as_ref().is_some_and(|unique| unique.until == Until::Start) {
            self.free_key(id, &head)?;
        }
        self.moved(id, &head, &next)?;
        self.tally.attempts += 1;
        self.job_of(id, next, content)
    }

    /// One damaged job keeps no other from being performed. What is left of it stays in the file, in no order.
    fn pass_over(&mut self, key: &[u8], id: JobId, queue: QueueNumber, order: Order) -> Result<(), EngineError> {
        let name = self.book.queues.get(&queue).map(|queue| queue.name.as_str());
        tracing::error!(id, queue = name, "a job is damaged, and is not performed");
        let count = order.count_in(&mut self.book.queue(queue)?.counts);
        *count = count.saturating_sub(1);
        self.txn.delete(key)
    }

    /// What whoever has a job wants of it; until when the lease lasts, if it does.
    pub(super) fn update(&mut self, id: JobId, attempt: u32, update: &Update) -> Outcome<Option<u64>> {
        let head = self.head(id)?.ok_or(Refused::NotLeased(id, attempt))?;
        if !matches!(head.state, State::Running { .. }) || head.attempt != attempt {
            return Err(Refused::NotLeased(id, attempt).into());
        }
        match update {
            Update::Done => {
                self.remove(id, &head)?;
                self.tally.done += 1;
            }
            Update::Fail { error } => self.fail(id, &head, error)?,
            Update::Bury { error } => self.bury(id, &head, error)?,
            Update::Lose { error } => self.lose(id, &head, error)?,
            Update::Release { delay } => {
                let state = self.due_in((*delay).min(MAX_DELAY));
                self.moved(id, &head, &Head { state, ..head.clone() })?;
            }
            Update::Touch { lease } => {
                let until = self.now + lease.map_or(head.timeout_ms, |lease| millis(lease.min(MAX_TIMEOUT)));
                self.moved(id, &head, &Head { state: State::Running { until }, ..head.clone() })?;
                return Ok(Some(until));
            }
        }
        Ok(None)
    }

    fn fail(&mut self, id: JobId, head: &Head, error: &str) -> Result<(), EngineError> {
        self.tally.failed += 1;
        let failures = head.failures.saturating_add(1);
        if failures > head.retries {
            return self.bury(id, &Head { failures, ..head.clone() }, error);
        }
        let state = self.due_in(retry_delay(failures, fastrand::f64()));
        self.moved(id, head, &Head { failures, state, error: Some(cut(error)), ..head.clone() })
    }

    /// Whoever had it is gone, or too slow: it is another's at once, and dead once that has happened too often.
    fn lose(&mut self, id: JobId, head: &Head, why: &str) -> Result<(), EngineError> {
        self.tally.failed += 1;
        let (failures, lost) = (head.failures.saturating_add(1), head.lost.saturating_add(1));
        let next = Head { failures, lost, error: Some(why.to_owned()), state: State::Waiting, ..head.clone() };
        match lost >= MAX_LOST || failures > head.retries {
            true => self.bury(id, &Head { state: head.state, ..next }, why),
            false => self.moved(id, head, &next),
        }
    }

    fn bury(&mut self, id: JobId, head: &Head, error: &str) -> Result<(), EngineError> {
        self.free_key(id, head)?;
        self.tally.died += 1;
        let state = State::Dead { since: self.now };
        self.moved(id, head, &Head { state, error: Some(cut(error)), ..head.clone() })
    }

    /// Treats a job as unknown whose queue and user do not pass.
    pub(super) fn ensure(&self, id: JobId, is_allowed: impl FnOnce(&str, Option<u32>) -> bool) -> Outcome<()> {
        let head = self.head(id)?.ok_or(Refused::NoJob(id))?;
        let queue = self.book.queues.get(&head.queue).ok_or(EngineError::Damaged)?;
        if is_allowed(&queue.name, head.user) { Ok(()) } else { Err(Refused::NoJob(id).into()) }
    }

    pub(super) fn find(&self, id: JobId) -> Outcome<Job> {
        let head = self.head(id)?.ok_or(Refused::NoJob(id))?;
        let content = self.content(id)?;
        Ok(self.job_of(id, head, content)?)
    }

    /// Removes one that nobody performs.
    pub(super) fn cancel(&mut self, id: JobId) -> Outcome<()> {
        let head = self.head(id)?.ok_or(Refused::NoJob(id))?;
        match head.state {
            State::Running { .. } => Err(Refused::Running(id).into()),
            _ => Ok(self.remove(id, &head)?),
        }
    }

    /// Has a dead job of a queue wait again, as if it were new.
    pub(super) fn retry(&mut self, queue: &str, id: JobId) -> Outcome<()> {
        let number = self.book.named(queue).ok_or_else(|| Refused::NoQueue(queue.to_owned()))?.counts.number;
        let head = self.head(id)?.filter(|head| head.queue == number).ok_or(Refused::NoJob(id))?;
        match head.state {
            State::Dead { .. } => Ok(self.revive(id, &head)?),
            _ => Err(Refused::Invalid("id", format!("job {id} is not dead")).into()),
        }
    }

    fn revive(&mut self, id: JobId, head: &Head) -> Result<(), EngineError> {
        self.moved(id, head, &Head { state: State::Waiting, failures: 0, lost: 0, unique: None, ..head.clone() })
    }

    /// How many jobs that changed, and whether there are more.
    pub(super) fn control(&mut self, name: &str, control: Control) -> Outcome<(usize, bool)> {
        let number = self.book.named(name).ok_or_else(|| Refused::NoQueue(name.to_owned()))?.counts.number;
        let order = match control {
            Control::Pause | Control::Resume => {
                self.book.queue(number)?.counts.is_paused = control == Control::Pause;
                return Ok((0, false));
            }
            Control::Purge(order) => order,
            Control::Retry => Order::Dead,
        };
        let (prefix, mut count) = (order.prefix(number), 0);
        while let Some(key) = self.txn.first(&prefix, &prefix)? {
            if count == MAX_MOVED {
                return Ok((count, true));
            }
            let id = keys::id_in(&key).ok_or(EngineError::Damaged)?;
            match (self.head(id), control) {
                (Ok(Some(head)), Control::Retry) => self.revive(id, &head)?,
                (Ok(Some(head)), _) => self.remove(id, &head)?,
                (Ok(None) | Err(EngineError::Damaged), _) => self.pass_over(&key, id, number, order)?,
                (Err(error), _) => return Err(error.into()),
            }
            count += 1;
        }
        Ok((count, false))
    }

    /// Queues in the order of their names, after this one.
    pub(super) fn overviews(&self, after: &str, most: usize) -> Outcome<Vec<Overview>> {
        let names = self.book.names.iter().filter(|(name, _)| name.as_str() > after).take(most);
        names.map(|(_, number)| Ok(self.overview(self.book.queues.get(number).ok_or(EngineError::Damaged)?)?)).collect()
    }

    fn overview(&self, Queue { name, counts, .. }: &Queue) -> Result<Overview, EngineError> {
        let mut oldest: Option<JobId> = None;
        for priority in 0..=MAX_PRIORITY {
            let (all, from) = (keys::all_waiting(counts.number), keys::waiting(counts.number, priority, 0));
            let Some(key) = self.txn.first(&all, &from)? else { break };
            oldest = oldest.into_iter().chain(keys::id_in(&key)).min();
        }
        let head = oldest.map(|id| self.head(id)).transpose()?.flatten();
        let Counts { is_paused, waiting, delayed, running, dead, bytes, .. } = *counts;
        let (name, oldest_waiting) = (name.clone(), head.map(|head| head.enqueued_at));
        Ok(Overview { name, is_paused, waiting, delayed, running, dead, bytes, oldest_waiting })
    }

    /// Jobs of a queue in their order, from a place on. Damaged ones are left out.
    pub(super) fn peek(&self, name: &str, order: Order, from: &[u8], most: Most) -> Outcome<Page> {
        let number = self.book.named(name).ok_or_else(|| Refused::NoQueue(name.to_owned()))?.counts.number;
        let prefix = order.prefix(number);
        let (mut at, mut jobs, mut bytes) = ([prefix.as_slice(), from].concat(), Vec::new(), 0);
        while let Some(key) = self.txn.first(&prefix, &at)? {
            if jobs.len() == most.jobs || bytes >= most.bytes {
                return Ok(Page { jobs, next: Some(at[prefix.len()..].to_vec()) });
            }
            at = keys::after(&key);
            match self.find(keys::id_in(&key).ok_or(EngineError::Damaged)?) {
                Ok(job) => {
                    bytes += job.payload.len() + OVERHEAD;
                    jobs.push(job);
                }
                Err(Fault::Engine(EngineError::Damaged) | Fault::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Page { jobs, next: None })
    }

    /// Does what the time has come for, up to a bound.
    pub(super) fn tick(&mut self) -> Result<(), EngineError> {
        for _ in 0..MAX_MOVED {
            let Some((_, id)) = self.book.leases.first().filter(|(until, _)| *until <= self.now) else { break };
            match self.head(id) {
                Ok(Some(head)) => self.lose(id, &head, "its lease ended")?,
                Ok(None) | Err(EngineError::Damaged) => self.book.leases.remove(id),
                Err(error) => return Err(error),
            }
        }
        let kept_since = self.now.saturating_sub(millis(self.config.keep_dead));
        let due = |queue: &&Queue| queue.first_delayed <= self.now || queue.first_dead <= kept_since;
        let due: Vec<QueueNumber> = self.book.queues.values().filter(due).map(|queue| queue.counts.number).collect();
        for number in due {
            let first = self.pass_time(number, Order::Delayed, self.now, |change, id, head| {
                change.moved(id, head, &Head { state: State::Waiting, ..head.clone() })
            })?;
            let first_dead =
                self.pass_time(number, Order::Dead, kept_since, |change, id, head| change.remove(id, head))?;
            if let Some(queue) = self.book.queues.get_mut(&number) {
                (queue.first_delayed, queue.first_dead) = (first, first_dead);
            }
        }
        Ok(())
    }

    /// Does this with jobs of an order whose time has come; the time of the first one that is left.
    fn pass_time(
        &mut self,
        queue: QueueNumber,
        order: Order,
        until: u64,
        each: impl Fn(&mut Self, JobId, &Head) -> Result<(), EngineError>,
    ) -> Result<u64, EngineError> {
        let prefix = order.prefix(queue);
        for _ in 0..MAX_MOVED {
            let Some(key) = self.txn.first(&prefix, &prefix)? else { return Ok(u64::MAX) };
            let time = keys::time_in(&key).ok_or(EngineError::Damaged)?;
            if time > until {
                return Ok(time);
            }
            let id = keys::id_in(&key).ok_or(EngineError::Damaged)?;
            match self.head(id) {
                Ok(Some(head)) => each(self, id, &head)?,
                Ok(None) | Err(EngineError::Damaged) => self.pass_over(&key, id, queue, order)?,
                Err(error) => return Err(error),
            }
        }
        Ok(until)
    }

    fn head(&self, id: JobId) -> Result<Option<Head>, EngineError> {
        self.txn.get(&keys::job(id))?.map(|head| read(&head)).transpose()
    }

    fn content(&self, id: JobId) -> Result<(String, Vec<u8>), EngineError> {
        self.txn.get(&keys::body(id))?.as_deref().and_then(parts_of).ok_or(EngineError::Damaged)
    }

    fn job_of(&self, id: JobId, head: Head, (name, payload): (String, Vec<u8>)) -> Result<Job, EngineError> {
        let queue = self.book.queues.get(&head.queue).ok_or(EngineError::Damaged)?.name.clone();
        let Head { state, priority, attempt, failures, retries, timeout_ms, enqueued_at, user, error, .. } = head;
        let timeout = Duration::from_millis(timeout_ms);
        Ok(Job {
            id,
            queue,
            name,
            payload,
            state,
            priority,
            attempt,
            failures,
            retries,
            timeout,
            enqueued_at,
            user,
            error,
        })
    }

    fn due_in(&self, delay: Duration) -> State {
        match millis(delay) {
            0 => State::Waiting,
            delay => State::Delayed { until: self.now + delay },
        }
    }

    /// The job that has a unique key, if there still is one.
    fn holder_of(&self, queue: QueueNumber, key: &str) -> Result<Option<JobId>, EngineError> {
        let id = self.txn.get(&keys::unique(queue, key))?;
        Ok(id.and_then(|id| id.try_into().ok()).map(JobId::from_be_bytes))
    }

    fn free_key(&mut self, id: JobId, head: &Head) -> Result<(), EngineError> {
        if let Some(unique) = &head.unique
            && self.holder_of(head.queue, &unique.key)? == Some(id)
        {
            self.txn.delete(&keys::unique(head.queue, &unique.key))?;
        }
        Ok(())
    }

    /// Takes a job from its place to another one.
    fn moved(&mut self, id: JobId, from: &Head, to: &Head) -> Result<(), EngineError> {
        self.unplace(id, from)?;
        self.place(id, to)
    }

    fn place(&mut self, id: JobId, head: &Head) -> Result<(), EngineError> {
        let queue = self.book.queue(head.queue)?;
        *head.state.order().count_in(&mut queue.counts) += 1;
        match head.state {
            State::Waiting => {}
            State::Delayed { until } => queue.first_delayed = queue.first_delayed.min(until),
            State::Running { until } => self.book.leases.insert(id, until),
            State::Dead { since } => queue.first_dead = queue.first_dead.min(since),
        }
        self.txn.put(&place_of(id, head), &[])?;
        self.txn.put(&keys::job(id), &written(head))
    }

    fn unplace(&mut self, id: JobId, head: &Head) -> Result<(), EngineError> {
        let count = head.state.order().count_in(&mut self.book.queue(head.queue)?.counts);
        *count = count.saturating_sub(1);
        self.book.leases.remove(id);
        self.txn.delete(&place_of(id, head))
    }

    fn remove(&mut self, id: JobId, head: &Head) -> Result<(), EngineError> {
        self.unplace(id, head)?;
        self.free_key(id, head)?;
        self.txn.delete(&keys::job(id))?;
        self.txn.delete(&keys::body(id))?;
        let bytes = &mut self.book.queue(head.queue)?.counts.bytes;
        *bytes = bytes.saturating_sub(head.bytes);
        self.book.give_back(head.user, head.bytes);
        Ok(())
    }
}

impl Order {
    fn prefix(self, queue: QueueNumber) -> Vec<u8> {
        match self {
            Self::Waiting => keys::all_waiting(queue),
            Self::Delayed => keys::all_delayed(queue),
            Self::Running => keys::all_running(queue),
            Self::Dead => keys::all_dead(queue),
        }
    }

    fn count_in(self, counts: &mut Counts) -> &mut u64 {
        match self {
            Self::Waiting => &mut counts.waiting,
            Self::Delayed => &mut counts.delayed,
            Self::Running => &mut counts.running,
            Self::Dead => &mut counts.dead,
        }
    }
}

impl State {
    fn order(self) -> Order {
        match self {
            Self::Waiting => Order::Waiting,
            Self::Delayed { .. } => Order::Delayed,
            Self::Running { .. } => Order::Running,
            Self::Dead { .. } => Order::Dead,
        }
    }
}

/// Where a job stands in the order of its state.
fn place_of(id: JobId, head: &Head) -> Vec<u8> {
    match head.state {
        State::Waiting => keys::waiting(head.queue, head.priority, id),
        State::Delayed { until } => keys::delayed(head.queue, until, id),
        State::Running { .. } => keys::running(head.queue, id),
        State::Dead { since } => keys::dead(head.queue, since, id),
    }
}

fn charge(job: &NewJob) -> u64 {
    let key = job.unique.as_ref().map_or(0, |unique| unique.key.len());
    (OVERHEAD + job.payload.len() + job.name.len() + key) as u64
}

fn check_name(field: &'static str, name: &str, most: usize) -> Result<(), Refused> {
    match name.len() {
        bytes if bytes == 0 || bytes > most => {
            Err(Refused::Invalid(field, format!("it has {bytes} bytes, and is to have from 1 to {most}")))
        }
        _ if name.chars().any(char::is_control) => Err(Refused::Invalid(field, "it has control characters".to_owned())),
        _ => Ok(()),
    }
}

fn cut(error: &str) -> String {
    shortened(error, MAX_ERROR).into_owned()
}

/// In whole milliseconds, and not less.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX / 4)
}
