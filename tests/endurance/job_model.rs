//! The model of jobs: what was enqueued, handed out, performed and reported, and what can never be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// So much a bound may be missed by rounding to milliseconds.
const SLACK: Duration = Duration::from_millis(5);

/// Moments by the clock that workers read too.
pub(crate) type Moment = Duration;

pub(crate) fn now() -> Moment {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has this clock").into()
}

/// What it says when a job is lost.
pub(crate) type Outcome = Result<(), String>;

/// All jobs, by the numbers that their payloads say.
#[derive(Debug, Default)]
pub(crate) struct JobModel {
    jobs: Vec<Job>,
    /// Those that are acknowledged, and that nobody has performed yet.
    open: BTreeSet<usize>,
    /// Times say nothing: the clock of the sidecar jumps.
    is_excused: bool,
}

/// Jobs of one request: all of them are enqueued, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch {
    first: usize,
    count: usize,
}

#[derive(Debug)]
struct Job {
    batch: Batch,
    id: Option<i64>,
    is_performed: bool,
    timeout: Duration,
    /// No attempt begins before.
    due: Moment,
    attempts: BTreeMap<i32, Attempt>,
    /// The attempt that is acknowledged to have done it: there is none after it.
    done: Option<i32>,
}

/// A job that was handed out. It is nobody else's before `until`, unless whoever had it says so or ends.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    until: Moment,
    /// When the next one began.
    followed: Option<Moment>,
}

impl Batch {
    pub(crate) fn numbers(self) -> impl Iterator<Item = usize> {
        self.first..self.first + self.count
    }
}

impl JobModel {
    /// Somebody is about to enqueue jobs.
    pub(crate) fn enqueues(&mut self, count: usize, delay: Duration, timeout: Duration) -> Batch {
        let batch = Batch { first: self.jobs.len(), count };
        self.jobs.extend(batch.numbers().map(|_| Job {
            batch,
            id: None,
            is_performed: false,
            timeout,
            due: now() + delay,
            attempts: BTreeMap::new(),
            done: None,
        }));
        batch
    }

    pub(crate) fn is_acknowledged(&mut self, batch: Batch, ids: impl ExactSizeIterator<Item = i64>) -> Outcome {
        if ids.len() != batch.count {
            return Err(format!("{} of {} jobs are acknowledged", ids.len(), batch.count));
        }
        for (number, id) in batch.numbers().zip(ids) {
            self.is_named(number, id)?;
            // It may have been performed before whoever enqueued it knew.
            if !self.jobs[number].is_performed {
                self.open.insert(number);
            }
        }
        Ok(())
    }

    /// Somebody who asked at this moment has a job as long as its lease, whatever becomes of it.
    pub(crate) fn is_taken(&mut self, number: usize, id: i64, attempt: i32, lease: (Moment, Duration)) -> Outcome {
        let until = lease.0 + lease.1;
        self.begins(number, id, attempt, now(), until)?;
        self.jobs[number].due = until;
        Ok(())
    }

    /// A worker has begun a job, which it was handed at any time since the job was due.
    pub(crate) fn is_begun(&mut self, number: usize, id: i64, attempt: i32, at: Moment) -> Outcome {
        let job = self.job(number)?;
        let until = job.due + job.timeout;
        self.begins(number, id, attempt, at, until)
    }

    fn begins(&mut self, number: usize, id: i64, attempt: i32, at: Moment, until: Moment) -> Outcome {
        self.is_named(number, id)?;
        let is_excused = self.is_excused;
        let job = self.job(number)?;
        if job.attempts.contains_key(&attempt) {
            return Err(format!(
                "job {number} is performed more often than its attempts say: {attempt} twice; {job:?}"
            ));
        }
        if job.done.is_some_and(|done| done < attempt) {
            return Err(format!("job {number} is handed out when it is done: {job:?}"));
        }
        if at + SLACK < job.due && !is_excused {
            let early = job.due - at;
            return Err(format!(
                "job {number} is handed out {early:?} before its time, or the end of a lease: attempt {attempt}, {job:?}"
            ));
        }
        if let Some((_, before)) = job.attempts.range_mut(..attempt).next_back() {
            before.followed = Some(at);
        }
        job.attempts.insert(attempt, Attempt { until, followed: None });
        Ok(())
    }

    /// A worker has performed a job. Nobody else had begun it within the lease.
    pub(crate) fn is_ended(&mut self, number: usize, attempt: i32) -> Outcome {
        let is_excused = self.is_excused;
        self.is_performed(number);
        let job = self.job(number)?;
        match job.attempts.get(&attempt) {
            None => Err(format!("job {number} is ended and was not begun: attempt {attempt}, {job:?}")),
            Some(it) if !is_excused && it.followed.is_some_and(|at| at + SLACK < it.until) => {
                Err(format!("job {number} is two workers' within its lease: attempt {attempt}, {job:?}"))
            }
            Some(_) => Ok(()),
        }
    }

    /// Whoever has it is about to say that it is done.
    pub(crate) fn is_performed(&mut self, number: usize) {
        self.open.remove(&number);
        if let Some(job) = self.jobs.get_mut(number) {
            job.is_performed = true;
        }
    }

    pub(crate) fn is_done(&mut self, number: usize, attempt: i32) {
        self.jobs[number].done = Some(attempt);
    }

    /// Whoever has it is about to give it back, or to prolong its lease: it may be another's from this moment on.
    pub(crate) fn may_be_due(&mut self, number: usize, attempt: i32, at: Moment) {
        self.moves(number, attempt, |due| due.min(at));
    }

    /// It is not another's before.
    pub(crate) fn is_due(&mut self, number: usize, attempt: i32, at: Moment) {
        self.moves(number, attempt, |_| at);
    }

    fn moves(&mut self, number: usize, attempt: i32, to: impl Fn(Moment) -> Moment) {
        let job = &mut self.jobs[number];
        // Another one may have it already.
        if let Some(mut last) = job.attempts.last_entry()
            && *last.key() == attempt
        {
            job.due = to(job.due);
            last.get_mut().until = to(last.get().until);
        }
    }

    /// Whoever has it is told that it has not. It asked when it had, and is told now.
    pub(crate) fn is_refused(&mut self, number: usize, attempt: i32) -> Outcome {
        let is_excused = self.is_excused;
        let job = self.job(number)?;
        match job.attempts.get(&attempt) {
            Some(it) if !is_excused && now() + SLACK < it.until => {
                Err(format!("a report within the lease is refused: job {number}, attempt {attempt}, {job:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Those that are acknowledged, and that nobody has performed yet: each by its id, and how often it was seen handed out.
    pub(crate) fn open(&self) -> Vec<(usize, i64, i32)> {
        let last = |job: &Job| job.attempts.last_key_value().map_or(0, |(attempt, _)| *attempt);
        let told = |number: &usize| Some((*number, self.jobs[*number].id?, last(&self.jobs[*number])));
        self.open.iter().filter_map(told).collect()
    }

    pub(crate) fn open_count(&self) -> usize {
        self.open.len()
    }

    /// How many have been performed.
    pub(crate) fn performed(&self) -> usize {
        self.jobs.iter().filter(|job| job.is_performed).count()
    }

    /// A job is no more. It must have been performed.
    pub(crate) fn is_gone(&mut self, number: usize) -> Outcome {
        let job = self.job(number)?;
        if job.is_performed { Ok(()) } else { Err(format!("job {number} was acknowledged, and is lost: {job:?}")) }
    }

    /// All that were enqueued have been handed out. Of no request only some were.
    pub(crate) fn is_whole(&self) -> Outcome {
        let is_there = |number: usize| self.jobs[number].id.is_some();
        let halved = self.jobs.iter().find(|job| {
            let there = job.batch.numbers().filter(|number| is_there(*number)).count();
            there != 0 && there != job.batch.count
        });
        halved.map_or(Ok(()), |job| Err(format!("of one request some jobs are enqueued, and some are not: {job:?}")))
    }

    /// From now on times say nothing, until they do again.
    pub(crate) fn excuse(&mut self, is_excused: bool) {
        self.is_excused = is_excused;
        let now = now();
        for job in &mut self.jobs {
            job.due = job.due.min(now);
            job.attempts.values_mut().for_each(|attempt| attempt.until = attempt.until.min(now));
        }
    }

    fn is_named(&mut self, number: usize, id: i64) -> Outcome {
        let job = self.job(number)?;
        if *job.id.get_or_insert(id) == id {
            Ok(())
        } else {
            Err(format!("job {number} has the id {id}, too: {job:?}"))
        }
    }

    fn job(&mut self, number: usize) -> Result<&mut Job, String> {
        self.jobs.get_mut(number).ok_or_else(|| format!("job {number} was never enqueued"))
    }
}
