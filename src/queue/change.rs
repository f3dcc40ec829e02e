//! Changes: what is done with jobs, within the one transaction of its batch.
//!
//! What is refused is refused before anything is written, so that it leaves the rest of its batch alone. What is damaged is
//! passed over: no entry but those of the file itself keeps a transaction from being carried out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Config;
use super::book::{Book, Lease, read, written};
use super::death::{Death, MAX_LOGGED};
use super::engine::{EngineError, Txn, sound};
use super::failures::Failure;
use super::full::Bound;
use super::job::{Head, Job, JobId, MAX_ERROR, State, Unique, body, cut, parts_of};
use super::keys::{self, QueueNumber};
use super::limit::Looks;
use super::order::{Order, place_of};

/// So many jobs are moved in one batch by time or by an administrator's word: others wait for it.
pub(super) const MAX_MOVED: usize = 1_000;

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Which field of a job is wrong, and how.
    #[error("{1}")]
    Invalid(&'static str, String),
    /// What is full, and why, which is reported until it has room again.
    #[error("{1}")]
    Full(Bound, String),
    /// There is too much of something, for as long as it takes.
    #[error("{0}")]
    TooMuch(String),
    #[error("there is no queue {0:?}")]
    NoQueue(String),
    #[error("there is no job {0}: it was never enqueued, or is done or cancelled")]
    NoJob(JobId),
    /// It is in this queue, and not in the one that was named.
    #[error("job {0} is in the queue {1:?}")]
    Elsewhere(JobId, String),
    #[error("attempt {1} of job {0} is over: its lease has ended, or it is done, released or cancelled")]
    NotLeased(JobId, u32),
    #[error("a worker performs job {0}")]
    Running(JobId),
    #[error("{0}")]
    Unavailable(String),
    #[error("this sidecar keeps no queues: set `path` or `backend` of `[queue]`")]
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

/// A transaction with what is known in memory, at one moment.
pub(super) struct Change<'c, 'e> {
    pub(super) txn: &'c mut Txn<'e>,
    pub(super) book: &'c mut Book,
    pub(super) config: &'c Config,
    pub(super) now: Now,
    /// Whether the disk has some.
    pub(super) has_room: bool,
    pub(super) tally: &'c mut Tally,
    pub(super) looks: Looks,
}

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Now {
    /// By the clock on the wall, in ms since 1970: of all that is written.
    pub(super) wall: u64,
    /// In ms by a clock that nobody sets, and that goes on while the machine sleeps: of delays.
    pub(super) since_boot: u64,
    /// In ms by a clock that nobody sets, and that stands still while the machine sleeps, as those do who have jobs: of
    /// leases.
    pub(super) uptime: u64,
}

/// What happened to jobs.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) enqueued: u64,
    pub(super) attempts: u64,
    pub(super) done: u64,
    /// Attempts that failed, or were lost.
    pub(super) failed: u64,
    /// How many of these jobs are tried again, of each queue, and the first.
    pub(super) retried: HashMap<QueueNumber, (u32, Failure)>,
    pub(super) died: u64,
    /// Some of these.
    pub(super) deaths: Vec<Death>,
}

impl Change<'_, '_> {
    /// A queue that is there, by its name.
    pub(super) fn number_of(&self, queue: &str) -> Result<QueueNumber, Refused> {
        let found = self.book.named(queue).ok_or_else(|| Refused::NoQueue(queue.to_owned()))?;
        Ok(found.counts.number)
    }

    pub(super) fn head(&self, id: JobId) -> Result<Option<Head>, EngineError> {
        self.txn.get(&keys::job(id))?.map(|head| read(&head)).transpose()
    }

    /// The job that stands at a place. None: it is damaged.
    pub(super) fn standing_at(&self, place: &[u8]) -> Result<Option<(JobId, Head)>, EngineError> {
        let Some(id) = keys::id_in(place) else { return Ok(None) };
        let head = sound(self.head(id))?.flatten();
        Ok(head.filter(|head| place_of(id, head) == place).map(|head| (id, head)))
    }

    pub(super) fn content(&self, id: JobId) -> Result<(String, Vec<u8>), EngineError> {
        self.txn.get(&keys::body(id))?.as_deref().and_then(parts_of).ok_or(EngineError::Damaged)
    }

    pub(super) fn job_of(&self, id: JobId, head: Head, (name, payload): (String, Vec<u8>)) -> Result<Job, EngineError> {
        let queue = self.book.queues.get(&head.queue).ok_or(EngineError::Damaged)?.name.clone();
        let Head {
            state,
            priority,
            attempt,
            failures,
            retries,
            timeout_ms,
            enqueued_at,
            user,
            error,
            keep_result_ms,
            unique,
            limit_key,
            due_at,
            ..
        } = head;
        let unique_key = match unique {
            Some(Unique { key, .. }) if self.holder_of(head.queue, &key)? == Some(id) => Some(key),
            _ => None,
        };
        let timeout = Duration::from_millis(timeout_ms);
        let state = match (state, self.book.leases.end_of(id)) {
            (_, Some(end)) => State::Running { until: self.now.wall + end.saturating_sub(self.now.uptime) },
            (State::Delayed { until }, None) => State::Delayed { until: self.book.delays.due(id, until, self.now) },
            (state, None) => state,
        };
        let progress = self.book.progress.get(&id).cloned();
        let (payload, result) = match state {
            State::Done { .. } => (Vec::new(), Some(payload)),
            _ => (payload, None),
        };
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
            progress,
            keeps_result: keep_result_ms > 0,
            result,
            is_buffered: false,
            unique_key,
            limit_key,
            due_at,
        })
    }

    /// One damaged job keeps no other from being performed. One whose payload alone is damaged is dead; of another one
    /// nothing is left.
    pub(super) fn pass_over(&mut self, place: &[u8], queue: QueueNumber, order: Order) -> Result<(), EngineError> {
        let name = self.book.queues.get(&queue).map(|queue| queue.name.clone());
        if let Some((id, head)) = self.standing_at(place)? {
            tracing::error!(id, queue = name, "the payload of a job is damaged: it is dead");
            self.txn.put(&keys::body(id), &body("", b""))?;
            return self.bury(id, &head, "its name and its payload were damaged");
        }
        let id = keys::id_in(place);
        tracing::error!(id, queue = name, "a job is damaged, and is not performed");
        if let Ok(queue) = self.book.stir(queue) {
            let count = order.count_in(&mut queue.counts);
            *count = count.saturating_sub(1);
        }
        self.txn.delete(place)?;
        // One that is sound stands elsewhere.
        if let Some(id) = id
            && sound(self.head(id))?.flatten().is_none()
        {
            self.book.leases.remove(id);
            self.book.progress.remove(&id);
            self.txn.delete(&keys::job(id))?;
            self.txn.delete(&keys::body(id))?;
            self.book.be_inexact();
        }
        Ok(())
    }

    pub(super) fn due_in(&self, delay: Duration) -> State {
        match millis(delay) {
            0 => State::Waiting,
            delay => State::Delayed { until: self.now.wall + delay },
        }
    }

    /// The job that has a unique key. An entry that is damaged, or left by a damaged job, is nobody's.
    pub(super) fn holder_of(&self, queue: QueueNumber, key: &str) -> Result<Option<JobId>, EngineError> {
        let id = sound(self.txn.get(&keys::unique(queue, key)))?.flatten();
        let Some(id) = id.and_then(|id| id.try_into().ok()).map(JobId::from_be_bytes) else { return Ok(None) };
        let head = sound(self.head(id))?.flatten();
        let has_it = |head: Head| head.queue == queue && head.unique.is_some_and(|unique| unique.key == key);
        Ok(head.is_some_and(has_it).then_some(id))
    }

    pub(super) fn free_key(&mut self, id: JobId, head: &Head) -> Result<(), EngineError> {
        if let Some(unique) = &head.unique
            && self.holder_of(head.queue, &unique.key)?.is_none_or(|holder| holder == id)
        {
            self.txn.delete(&keys::unique(head.queue, &unique.key))?;
        }
        Ok(())
    }

    pub(super) fn bury(&mut self, id: JobId, head: &Head, error: &str) -> Result<(), EngineError> {
        self.free_key(id, head)?;
        self.tally.died += 1;
        if self.tally.deaths.len() < MAX_LOGGED {
            let queue = self.book.queues.get(&head.queue).map_or_else(String::new, |queue| queue.name.to_string());
            let name = self.content(id).map_or_else(|_| String::new(), |(name, _)| name);
            self.tally.deaths.push(Death { queue, id, name, error: error.to_owned() });
        }
        let state = State::Dead { since: self.now.wall };
        self.moved(id, head, &Head { state, error: Some(cut(error, MAX_ERROR)), ..head.clone() })
    }

    /// An attempt has failed, and its job is tried again.
    pub(super) fn note_failure(&mut self, id: JobId, queue: QueueNumber, error: &str) {
        if let Some((count, _)) = self.tally.retried.get_mut(&queue) {
            *count = count.saturating_add(1);
            return;
        }
        let name = self.content(id).map_or_else(|_| String::new(), |(name, _)| name);
        let failure = Failure { id, name, error: cut(error, MAX_ERROR) };
        self.tally.retried.insert(queue, (1, failure));
    }

    /// Takes a job from its place to another one.
    pub(super) fn moved(&mut self, id: JobId, from: &Head, to: &Head) -> Result<(), EngineError> {
        if !matches!(to.state, State::Running { .. }) {
            self.end_attempt(id, from)?;
        }
        self.unplace(id, from)?;
        self.place(id, to)
    }

    /// If a job runs, it does not any more: those that were passed over for its key may begin.
    fn end_attempt(&mut self, id: JobId, head: &Head) -> Result<(), EngineError> {
        self.book.progress.remove(&id);
        if matches!(head.state, State::Running { .. }) && head.limit_key.is_some() {
            let now = self.now.uptime;
            let queue = self.book.queue(head.queue)?;
            queue.passed_until = queue.passed_until.min(now);
        }
        Ok(())
    }

    pub(super) fn place(&mut self, id: JobId, head: &Head) -> Result<(), EngineError> {
        let queue = self.book.stir(head.queue)?;
        *head.state.order().count_in(&mut queue.counts) += 1;
        match head.state {
            State::Waiting => {}
            State::Delayed { until } => {
                queue.first_delayed = queue.first_delayed.min(until);
                self.book.delays.insert(id, self.now.since_boot + until.saturating_sub(self.now.wall));
            }
            State::Running { .. } => {
                let (end, key) = (self.now.uptime + head.lease_ms, head.limit_key.as_deref().map(Arc::from));
                self.book.leases.grant(Lease { end, id, queue: head.queue, taker: head.taker, key });
            }
            State::Dead { since } => queue.first_dead = queue.first_dead.min(since),
            State::Done { until } => queue.first_done = queue.first_done.min(until),
        }
        self.txn.put(&place_of(id, head), &[])?;
        self.txn.put(&keys::job(id), &written(head))
    }

    fn unplace(&mut self, id: JobId, head: &Head) -> Result<(), EngineError> {
        let queue = self.book.stir(head.queue)?;
        let count = head.state.order().count_in(&mut queue.counts);
        *count = count.saturating_sub(1);
        self.book.leases.remove(id);
        self.book.delays.remove(id);
        self.txn.delete(&place_of(id, head))
    }

    pub(super) fn remove(&mut self, id: JobId, head: &Head) -> Result<(), EngineError> {
        self.end_attempt(id, head)?;
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

/// In whole milliseconds, and not less.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX / 4)
}
