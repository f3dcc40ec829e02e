//! Attempts: jobs are handed out for as long as a lease, and whoever has one says what became of it.

use std::time::Duration;

use super::book::Usage;
use super::change::{Change, Outcome, Refused};
use super::engine::{EngineError, sound};
use super::enqueue::Asker;
use super::job::{
    Head, Job, JobId, MAX_DELAY, MAX_ERROR, MAX_LOST, OVERHEAD, Progress, State, Until, body, cut, lease_ms,
    lost_too_often, retry_delay,
};
use super::keys::{self, QueueNumber};
use super::order::Order;
use super::turns::Sources;

/// So many jobs run at once; of one who takes them, as many as that leaves free for others.
pub(super) const MAX_LEASES: usize = 65_536;

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
    /// The same, with this result.
    Return { result: Vec<u8> },
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
            Self::Return { result } => result.len(),
            Self::Done | Self::Release { .. } | Self::Touch { .. } => 0,
        }
    }
}

/// Why somebody is handed out no more.
pub(super) fn too_many_run() -> Refused {
    Refused::TooMuch(format!(
        "too many jobs run that this user has taken: {MAX_LEASES} may in all, and of one user as many as it leaves free"
    ))
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
        let (mut taken, mut bytes, mut is_over) = (Vec::new(), 0, false);
        let number = |(name, weight): &(String, u32)| Some((self.book.named(name)?.counts.number, *weight));
        let mut queues: Vec<(QueueNumber, u32)> = sources.queues.iter().filter_map(number).collect();
        while taken.len() < most.jobs && bytes < most.bytes {
            let now = self.now.uptime;
            queues.retain(|(queue, _)| self.book.queues.get(queue).is_some_and(|queue| queue.is_open(now)));
            let next = match sources.are_in_order {
                true => queues.first().map(|_| 0),
                false => self.book.turns.next(&queues),
            };
            let Some((nth, (queue, _))) = next.and_then(|nth| Some((nth, *queues.get(nth)?))) else { break };
            let Some(place) = self.next_place(queue)? else {
                queues.remove(nth);
                continue;
            };
            is_over = !self.book.leases.have_room(taker, MAX_LEASES);
            if is_over {
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
        match is_over && taken.is_empty() {
            true => Err(too_many_run().into()),
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
        let lease_ms = lease_ms(lease, head.timeout_ms);
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
        self.count_begun(&next);
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
            Update::Done => self.finish(id, &head, &[])?,
            Update::Return { result } => self.finish(id, &head, result)?,
            Update::Fail { error } => self.fail(id, &head, error)?,
            Update::Bury { error } => self.bury(id, &head, error)?,
            Update::Lose { error } => self.lose(id, &head, error)?,
            Update::Release { delay } => {
                let state = self.due_in((*delay).min(MAX_DELAY));
                self.moved(id, &head, &Head { state, ..head.clone() })?;
            }
            Update::Touch { lease } => {
                let lease_ms = lease_ms(*lease, head.timeout_ms);
                let until = self.now.wall + lease_ms;
                self.moved(id, &head, &Head { state: State::Running { until }, lease_ms, ..head.clone() })?;
                return Ok(Some(until));
            }
            Update::Progress(progress) => _ = self.book.progress.insert(id, progress.at(self.now.wall)),
        }
        Ok(None)
    }

    /// It is done, and gone, or kept with its result instead of its payload.
    fn finish(&mut self, id: JobId, head: &Head, result: &[u8]) -> Result<(), EngineError> {
        self.tally.done += 1;
        let uptime = self.now.uptime;
        self.book.queue(head.queue)?.done.add(uptime);
        let content = if head.keep_result_ms > 0 { sound(self.content(id))? } else { None };
        let Some((name, payload)) = content else { return self.remove(id, head) };
        let left = head.bytes.saturating_sub(payload.len() as u64);
        let (result, error) = match self.result_fits(head, left + result.len() as u64, result.len() as u64) {
            Ok(()) => (result, None),
            Err(why) => (&[][..], Some(format!("its result of {} bytes is not kept: {why}", result.len()))),
        };
        self.free_key(id, head)?;
        self.txn.put(&keys::body(id), &body(&name, result))?;
        let (state, bytes) = (State::Done { until: self.now.wall + head.keep_result_ms }, left + result.len() as u64);
        let error = error.map(|error| cut(&error, MAX_ERROR));
        self.moved(id, head, &Head { state, bytes, error, unique: None, ..head.clone() })?;
        let counted = &mut self.book.queue(head.queue)?.counts.bytes;
        *counted = counted.saturating_sub(head.bytes) + bytes;
        self.book.give_back(head.user, head.bytes);
        self.book.charge(head.user, bytes);
        Ok(())
    }

    /// Whether a job may keep a result of that length, and be charged for that much then: no report is refused for it.
    fn result_fits(&mut self, head: &Head, bytes: u64, length: u64) -> Result<(), Refused> {
        let most = self.config.max_job_bytes;
        if length > most.as_u64() {
            return Err(Refused::TooMuch(format!("`queue.max_job_bytes` is {most}")));
        }
        match bytes.checked_sub(head.bytes + 1) {
            None => Ok(()),
            Some(_) if !self.has_room => Err(Refused::TooMuch("the disk is full".to_owned())),
            Some(more) => {
                // What is reserved is for what was acknowledged, and no more.
                self.txn.ensure_room().map_err(|error| Refused::TooMuch(error.to_string()))?;
                let asker = Asker { uid: head.user, is_admin: false };
                self.ensure_room_for(Usage { jobs: 0, bytes: more + 1 }, asker)
            }
        }
    }

    fn fail(&mut self, id: JobId, head: &Head, error: &str) -> Result<(), EngineError> {
        self.tally.failed += 1;
        let failures = head.failures.saturating_add(1);
        if failures > head.retries {
            return self.bury(id, &Head { failures, ..head.clone() }, error);
        }
        self.note_failure(id, head.queue, error);
        let state = self.due_in(retry_delay(failures, fastrand::f64()));
        self.moved(id, head, &Head { failures, state, error: Some(cut(error, MAX_ERROR)), ..head.clone() })
    }

    /// Whoever had it is gone, or too slow: it is another's at once, and dead once that has happened too often.
    pub(super) fn lose(&mut self, id: JobId, head: &Head, why: &str) -> Result<(), EngineError> {
        self.tally.failed += 1;
        let (failures, lost) = (head.failures.saturating_add(1), head.lost.saturating_add(1));
        let next = Head { failures, lost, error: Some(cut(why, MAX_ERROR)), state: State::Waiting, ..head.clone() };
        let dead = Head { state: head.state, ..next.clone() };
        match (lost >= MAX_LOST, failures > head.retries) {
            (true, _) => self.bury(id, &dead, &lost_too_often(why)),
            (false, true) => self.bury(id, &dead, why),
            (false, false) => {
                self.note_failure(id, head.queue, why);
                self.moved(id, head, &next)
            }
        }
    }
}
