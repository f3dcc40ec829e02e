//! Attempts: jobs are handed out for as long as a lease, and whoever has one says what became of it.

use std::time::Duration;

use super::book::Queue;
use super::change::{Change, Outcome, Refused, millis};
use super::engine::{EngineError, sound};
use super::enqueue::Asker;
use super::job::{
    Head, Job, JobId, MAX_DELAY, MAX_ERROR, MAX_LOST, MAX_TIMEOUT, OVERHEAD, Progress, State, Until, cut, retry_delay,
};
use super::keys::QueueNumber;
use super::order::Order;
use super::turns::Sources;

/// So many jobs run at once; of one who takes them, as many as that leaves free for others.
const MAX_LEASES: usize = 65_536;

/// Where to stop: at this number of jobs, or after the one that reaches this size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    pub jobs: usize,
    pub bytes: usize,
}

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
    /// The lease lasts that long from now on; none: as long as the timeout of the job.
    Touch { lease: Option<Duration> },
    /// It is so far.
    Progress(Progress),
}

impl Update {
    /// About how much memory it takes beside itself.
    pub fn memory_size(&self) -> usize {
        match self {
            Self::Fail { error } | Self::Bury { error } | Self::Lose { error } => error.len(),
            Self::Progress(progress) => progress.note().len(),
            Self::Done | Self::Release { .. } | Self::Touch { .. } => 0,
        }
    }
}

impl Change<'_, '_> {
    /// Hands out jobs of these queues, by their weights or of an earlier one before those of a later one.
    pub(super) fn take(
        &mut self,
        asker: Option<Asker>,
        sources: &Sources,
        most: Most,
        lease: Option<Duration>,
    ) -> Outcome<Vec<Job>> {
        let taker = asker.map(Asker::number);
        let (mut taken, mut bytes, mut too_many_run) = (Vec::new(), 0, false);
        let number = |(name, weight): &(String, u32)| Some((self.book.named(name)?.counts.number, *weight));
        let mut queues: Vec<(QueueNumber, u32)> = sources.queues.iter().filter_map(number).collect();
        while taken.len() < most.jobs && bytes < most.bytes {
            queues.retain(|(queue, _)| self.book.queues.get(queue).is_some_and(Queue::is_open));
            let next = match sources.are_in_order {
                true => queues.first().map(|_| 0),
                false => self.book.turns.next(&queues),
            };
            let Some((nth, (queue, _))) = next.and_then(|nth| Some((nth, *queues.get(nth)?))) else { break };
            let order = Order::Waiting.of(queue);
            let Some(place) = self.txn.first(&order, &order)? else {
                queues.remove(nth);
                continue;
            };
            too_many_run = !self.book.leases.have_room(taker, MAX_LEASES);
            if too_many_run {
                break;
            }
            match sound(self.hand_out(&place, taker, lease))?.flatten() {
                Some(job) => {
                    bytes += job.payload.len() + OVERHEAD;
                    taken.push(job);
                }
                None => self.pass_over(&place, queue, Order::Waiting)?,
            }
        }
        match too_many_run && taken.is_empty() {
            true => Err(Refused::Full(format!(
                "too many jobs run that this user has taken: {MAX_LEASES} may in all, and of one user as many as it leaves free"
            ))
            .into()),
            false => Ok(taken),
        }
    }

    /// None: it is damaged.
    fn hand_out(
        &mut self,
        place: &[u8],
        taker: Option<i64>,
        lease: Option<Duration>,
    ) -> Result<Option<Job>, EngineError> {
        let Some((id, head)) = self.standing_at(place)? else { return Ok(None) };
        let content = self.content(id)?;
        // As it is left of one whose payload was damaged.
        if content.0.is_empty() {
            return Ok(None);
        }
        let lease_ms = lease.map_or(head.timeout_ms, |lease| millis(lease.min(MAX_TIMEOUT)));
        let next = Head {
            state: State::Running { until: self.now.wall + lease_ms },
            attempt: head.attempt.saturating_add(1),
            lease_ms,
            taker,
            ..head.clone()
        };
        if head.unique.as_ref().is_some_and(|unique| unique.until == Until::Start) {
            self.free_key(id, &head)?;
        }
        self.moved(id, &head, &next)?;
        self.tally.attempts += 1;
        self.job_of(id, next, content).map(Some)
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
                let uptime = self.now.uptime;
                self.book.queue(head.queue)?.done.add(uptime);
            }
            Update::Fail { error } => self.fail(id, &head, error)?,
            Update::Bury { error } => self.bury(id, &head, error)?,
            Update::Lose { error } => self.lose(id, &head, error)?,
            Update::Release { delay } => {
                let state = self.due_in((*delay).min(MAX_DELAY));
                self.moved(id, &head, &Head { state, ..head.clone() })?;
            }
            Update::Touch { lease } => {
                let lease_ms = lease.map_or(head.timeout_ms, |lease| millis(lease.min(MAX_TIMEOUT)));
                let until = self.now.wall + lease_ms;
                self.moved(id, &head, &Head { state: State::Running { until }, lease_ms, ..head.clone() })?;
                return Ok(Some(until));
            }
            Update::Progress(progress) => _ = self.book.progress.insert(id, progress.at(self.now.wall)),
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
        self.moved(id, head, &Head { failures, state, error: Some(cut(error, MAX_ERROR)), ..head.clone() })
    }

    /// Whoever had it is gone, or too slow: it is another's at once, and dead once that has happened too often.
    pub(super) fn lose(&mut self, id: JobId, head: &Head, why: &str) -> Result<(), EngineError> {
        self.tally.failed += 1;
        let (failures, lost) = (head.failures.saturating_add(1), head.lost.saturating_add(1));
        let next = Head { failures, lost, error: Some(cut(why, MAX_ERROR)), state: State::Waiting, ..head.clone() };
        match lost >= MAX_LOST || failures > head.retries {
            true => self.bury(id, &Head { state: head.state, ..next }, why),
            false => self.moved(id, head, &next),
        }
    }
}
