//! Attempts: jobs are handed out, and what becomes of each is written, as soon as Redis is there for it.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use futures::stream::{self, StreamExt};
use redis::Value;
use tokio::sync::OwnedSemaphorePermit;

use super::super::Place;
use super::super::attempt::{MAX_LEASES, Most, Update, too_many_run};
use super::super::change::{Refused, millis};
use super::super::enqueue::Asker;
use super::super::failures::Failure;
use super::super::handed::{Back, Handed};
use super::super::job::{Job, JobId, MAX_TIMEOUT, Progress, State, lease_ms};
use super::keys::Step;
use super::link::{Arguments, Failed, TIMEOUT};
use super::record::{Next, Record, cut};
use super::refusals::Write;
use super::resque::{self, Extras, Item};
use super::{Redis, no_matter, scripts};
use crate::clock::Moment;

/// What is taken off a queue comes back unless its lease is written this soon.
const SETTLE: Duration = Duration::from_secs(30);

/// What is handed out at once has no more bytes, beside the last of them.
const MAX_BYTES: usize = 8 << 20;

/// How often a change is tried again that others come before.
const MAX_TRIES: usize = 8;

/// So many bytes of results are kept while Redis is away,
pub(super) const MAX_KEPT_RESULTS: usize = 16 << 20;
const TOO_MANY_RESULTS: &str = "the sidecar keeps 16 MiB of results while Redis is away";

/// and so many reports are written at once when it is back.
const REPORTS_AT_ONCE: usize = 16;

/// The leases that this sidecar has handed out.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_job: HashMap<JobId, Lease>,
    counts: Counts,
}

/// How many leases there are, with those for which room is set aside, and how many of them each has who takes jobs.
#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_taker: HashMap<Option<i64>, usize>,
}

#[derive(Debug)]
pub(super) struct Lease {
    attempt: u32,
    /// No later than it ends in Redis: it is counted from before Redis was asked.
    until: Moment,
    queue: String,
    user: Option<u32>,
    taker: Option<i64>,
    report: Option<Report>,
    pub(super) progress: Option<Progress>,
}

/// What became of a job, while Redis is away.
#[derive(Debug)]
struct Report {
    update: Update,
    /// How many bytes its result has, where there is no room for that.
    left_out: Option<usize>,
    _room: Option<OwnedSemaphorePermit>,
}

impl Leases {
    pub(super) fn get(&self, id: &JobId) -> Option<&Lease> {
        self.by_job.get(id)
    }

    fn get_mut(&mut self, id: &JobId) -> Option<&mut Lease> {
        self.by_job.get_mut(id)
    }

    fn insert(&mut self, id: JobId, lease: Lease) {
        self.counts.add(lease.taker, 1);
        if let Some(before) = self.by_job.insert(id, lease) {
            self.counts.remove(before.taker, 1);
        }
    }

    fn remove(&mut self, id: &JobId) {
        if let Some(lease) = self.by_job.remove(id) {
            self.counts.remove(lease.taker, 1);
        }
    }

    /// Forgets those that are over.
    fn end(&mut self, now: Moment) {
        let Self { by_job, counts } = self;
        by_job.retain(|_, lease| {
            let lasts = lease.until > now;
            if !lasts {
                counts.remove(lease.taker, 1);
            }
            lasts
        });
    }

    /// The jobs of which it is yet to be written what became of them.
    fn reported(&self) -> Vec<JobId> {
        self.by_job.iter().filter(|(_, lease)| lease.report.is_some()).map(|(id, _)| *id).collect()
    }
}

impl Counts {
    fn add(&mut self, taker: Option<i64>, leases: usize) {
        if leases > 0 {
            self.all += leases;
            *self.by_taker.entry(taker).or_default() += leases;
        }
    }

    fn remove(&mut self, taker: Option<i64>, leases: usize) {
        let Some(own) = self.by_taker.get_mut(&taker) else { return };
        *own = own.saturating_sub(leases);
        if *own == 0 {
            self.by_taker.remove(&taker);
        }
        self.all = self.all.saturating_sub(leases);
    }

    /// How many more of `most` may be this one's, which may have as many as it leaves free.
    fn room(&self, taker: Option<i64>, most: usize) -> usize {
        let own = self.by_taker.get(&taker).copied().unwrap_or(0);
        most.saturating_sub(self.all + own).div_ceil(2)
    }
}

/// Room for leases, until they are there.
struct Room<'r> {
    redis: &'r Redis,
    taker: Option<i64>,
    leases: usize,
}

impl<'r> Room<'r> {
    /// For so many leases, or as many as there may be.
    fn set_aside(redis: &'r Redis, taker: Option<i64>, most: usize) -> Self {
        let mut held = redis.leases();
        let leases = held.counts.room(taker, MAX_LEASES).min(most);
        held.counts.add(taker, leases);
        Self { redis, taker, leases }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.redis.leases().counts.remove(self.taker, self.leases);
    }
}

impl Redis {
    pub(in crate::queue) async fn take(
        self: &Arc<Self>,
        place: Place,
        asker: Option<Asker>,
        queues: Vec<String>,
        most: Most,
        lease: Option<Duration>,
        is_patient: bool,
    ) -> Result<(Vec<Job>, Handed), Refused> {
        let taker = asker.map(Asker::number);
        let _wanted = is_patient.then(|| Wanted::new(self, &queues));
        let mut ready = self.ready.subscribe();
        loop {
            ready.mark_unchanged();
            let of = queues.clone();
            let take = move |redis: Arc<Self>| -> BoxFuture<'static, Result<_, Refused>> {
                Box::pin(async move {
                    let jobs = redis.take_some(taker, &of, most, lease).await?;
                    let attempts = jobs.iter().map(|job| (job.id, job.attempt)).collect();
                    Ok((jobs, Handed::new(attempts, Back::Redis(Arc::downgrade(&redis)))))
                })
            };
            let (jobs, handed) = self.ask(&place, take, no_matter).await?;
            if !jobs.is_empty() || !is_patient {
                return Ok((jobs, handed));
            }
            let is_wanted = |ready: &std::collections::HashSet<String>| queues.iter().any(|it| ready.contains(it));
            loop {
                // Its sender is within ourselves.
                _ = ready.changed().await;
                if is_wanted(&ready.borrow_and_update()) {
                    break;
                }
            }
        }
    }

    async fn take_some(
        self: &Arc<Self>,
        taker: Option<i64>,
        queues: &[String],
        most: Most,
        lease: Option<Duration>,
    ) -> Result<Vec<Job>, Refused> {
        loop {
            let room = Room::set_aside(self, taker, most.jobs);
            if room.leases == 0 && most.jobs > 0 {
                let ready: Vec<String> = self.link.run(&scripts::READY, self.limits_of(queues)?.texts(queues)).await?;
                return if ready.is_empty() { Ok(Vec::new()) } else { Err(too_many_run()) };
            }
            let arguments = self
                .limits_of(queues)?
                .number(self.largest())
                .number(room.leases as u64)
                .number(most.bytes.min(MAX_BYTES) as u64)
                .number(self.link.latest()? + SETTLE.as_millis() as u64)
                .texts(queues);
            let popped = self.link.run::<Vec<(String, Value)>>(&scripts::POP, arguments).await;
            let popped = popped.inspect_err(|failed| self.refusals.note_rights(Write::Take, failed))?;
            if popped.is_empty() {
                return Ok(Vec::new());
            }
            let settled =
                join_all(popped.into_iter().map(|(queue, item)| self.settle(queue, item, lease, taker))).await;
            // What is not settled comes back.
            let (jobs, failed): (Vec<_>, Vec<_>) = settled.into_iter().partition(Result::is_ok);
            let jobs = jobs.into_iter().filter_map(Result::ok).flatten();
            let jobs = self.with_whole_leases(jobs.collect(), lease).await;
            match failed.into_iter().find_map(Result::err) {
                Some(failed) if jobs.is_empty() => {
                    self.refusals.note_rights(Write::Take, &failed);
                    return Err(failed.into());
                }
                _ if jobs.is_empty() => {}
                _ => {
                    self.refusals.end(Write::Take);
                    return Ok(jobs);
                }
            }
        }
    }

    /// Writes the lease of a job that was taken off its queue. What is no job is dead.
    async fn settle(
        &self,
        queue: String,
        item: Value,
        lease: Option<Duration>,
        taker: Option<i64>,
    ) -> Result<Option<Job>, Failed> {
        let (asked, now) = (Moment::now(), self.link.latest()?);
        let text = match item {
            Value::BulkString(text) => text,
            Value::Int(bytes) => {
                let list = self.keys.set_aside();
                tracing::error!(queue, bytes, list, "an element is too large to be a job: it is set aside");
                return Ok(None);
            }
            _ => return Ok(None),
        };
        let member = [format!("{}:{queue}", queue.len()).as_bytes(), &text].concat();
        let most = self.config.max_job_bytes.as_u64() as usize;
        let item = resque::read(&text);
        let why = match &item {
            None => Some("it is no job of Resque".to_owned()),
            Some(item) if item.payload.len() > most => {
                Some(format!("its arguments have {} bytes, and `queue.max_job_bytes` is {most}", item.payload.len()))
            }
            Some(_) => None,
        };
        let item = item.unwrap_or_else(|| Item::none(&text));
        let mut id = item.extras.id.or(item.id).unwrap_or_else(resque::new_id);
        let text = String::from_utf8_lossy(&text).into_owned();
        let taken = Record::new(queue, State::Running { until: now }, &item, text, now);
        let (record, due) = match why {
            Some(error) => {
                let dead = Extras { error: Some(error), ..taken.extras.clone() };
                let state = State::Dead { since: now };
                (Record { state, extras: dead, ..taken.clone() }, now + self.kept_dead())
            }
            None => {
                let record = taken.clone().taken(lease, now, &self.config);
                let until = super::keys::place(record.state).1;
                (record, until)
            }
        };
        for _ in 0..MAX_TRIES {
            let popped = self.keys.popped();
            let step = Step::new(&self.keys).if_record(id, "").if_popped(&member);
            // First what a key of another type refuses: it is to leave no record.
            let step = if record.unique().is_none() { step.free(id, &taken) } else { step };
            let step = step.keep(id, &record, due);
            match self.change(step.then_bytes([b"ZREM", popped.as_bytes(), &member])).await {
                Ok(true) => return Ok(self.handed_out(id, record, (asked, now), taker)),
                Ok(false) => {}
                Err(failed) => {
                    if !failed.is_refused && matches!(record.state, State::Running { .. }) {
                        self.unheard().push((id, record));
                    }
                    return Err(failed);
                }
            }
            // Another job has this number, or it was put back.
            id = resque::new_id();
        }
        Ok(None)
    }

    /// Whoever takes a job counts its lease from when it arrives. Where Redis was so slow to write one that less of it is left,
    /// it begins anew, and lasts longer by the time that an answer may take. What has too little even then is given back.
    async fn with_whole_leases(self: &Arc<Self>, jobs: Vec<Job>, lease: Option<Duration>) -> Vec<Job> {
        let whole = |job: &Job| Duration::from_millis(lease_ms(lease, millis(job.timeout))).min(MAX_TIMEOUT - TIMEOUT);
        let is_whole = |job: &Job| {
            let until =
                self.leases().get(&job.id).filter(|lease| lease.attempt == job.attempt).map(|lease| lease.until);
            until.is_some_and(|until| until.since(Moment::now()) >= whole(job))
        };
        let lacking = jobs.iter().filter(|job| !is_whole(job));
        let again = |job: &Job| Update::Touch { lease: Some(whole(job) + TIMEOUT) };
        join_all(lacking.map(|job| async { self.write(job.id, job.attempt, &again(job), None).await })).await;
        let (jobs, lacking): (Vec<_>, Vec<_>) = jobs.into_iter().partition(is_whole);
        if !lacking.is_empty() {
            self.clone().give_back_later(lacking.iter().map(|job| (job.id, job.attempt)).collect());
        }
        jobs
    }

    fn handed_out(&self, id: JobId, record: Record, (asked, now): (Moment, u64), taker: Option<i64>) -> Option<Job> {
        self.searches.is_not_settled_now(id);
        let State::Running { until } = record.state else {
            self.metrics.jobs_died.increment();
            record.death(id).log();
            return None;
        };
        self.metrics.job_attempts.increment();
        let lease = Lease {
            attempt: record.extras.attempt,
            until: asked + Duration::from_millis(until - now),
            queue: record.queue.clone(),
            user: record.extras.user,
            taker,
            report: None,
            progress: None,
        };
        self.leases().insert(id, lease);
        Some(record.into_job(id, &self.config))
    }

    /// These attempts arrived nowhere.
    pub(in crate::queue) fn give_back_later(self: Arc<Self>, attempts: Vec<(JobId, u32)>) {
        let this = self.clone();
        let give_back = async move {
            let unwanted = || Update::Release { delay: Duration::ZERO };
            // Each becomes the first of its queue.
            let each = attempts.into_iter().rev().map(|(id, attempt)| this.write_or_keep(id, attempt, unwanted()));
            _ = join_all(each).await;
        };
        _ = self.works.send(Box::pin(give_back));
    }

    /// Puts back what was handed out to nobody.
    pub(super) async fn give_back_unheard(&self) -> Result<(), Failed> {
        let unheard = std::mem::take(&mut *self.unheard());
        // Each becomes the first of its queue.
        for (at, (id, record)) in unheard.iter().enumerate().rev() {
            // By its text it is known: a lease that somebody else has ends at another moment.
            let back = Next::Waiting(record.extras.clone());
            if let Err(failed) = self.passes_over(&record.queue, self.apply(*id, &record.written(), record, back).await)
            {
                self.unheard().extend_from_slice(&unheard[..=at]);
                return Err(failed);
            }
            self.is_ready(&record.queue);
        }
        Ok(())
    }

    pub(in crate::queue) async fn update(
        self: &Arc<Self>,
        place: Place,
        (id, attempt): (JobId, u32),
        update: Update,
        is_allowed: impl FnOnce(&str, Option<u32>) -> bool + Send + 'static,
    ) -> Result<Option<u64>, Refused> {
        self.ask(&place, move |redis| Box::pin(redis.report(id, attempt, update, is_allowed)), no_matter).await
    }

    /// Writes what became of an attempt. While Redis is away it is kept, as long as the lease lasts.
    async fn report(
        self: Arc<Self>,
        id: JobId,
        attempt: u32,
        update: Update,
        is_allowed: impl FnOnce(&str, Option<u32>) -> bool + Send,
    ) -> Result<Option<u64>, Refused> {
        let ours = self.leases().get(&id).filter(|it| it.attempt == attempt).map(|it| (it.queue.clone(), it.user));
        let (queue, user) = match ours {
            Some(of) => of,
            None => {
                let record = self.record_of(id).await?.as_deref().and_then(Record::read);
                record.map(|it| (it.queue, it.extras.user)).ok_or(Refused::NotLeased(id, attempt))?
            }
        };
        if !is_allowed(&queue, user) {
            return Err(Refused::NoJob(id));
        }
        if let Update::Progress(progress) = update {
            let now = self.link.now()?;
            let mut leases = self.leases();
            let lease = leases.get_mut(&id).filter(|lease| lease.attempt == attempt && lease.until > Moment::now());
            lease.ok_or(Refused::NotLeased(id, attempt))?.progress = Some(progress.at(now));
            return Ok(None);
        }
        self.write_or_keep(id, attempt, update).await
    }

    async fn write_or_keep(&self, id: JobId, attempt: u32, update: Update) -> Result<Option<u64>, Refused> {
        match self.write(id, attempt, &update, None).await {
            Err(Refused::Unavailable(why)) if !matches!(update, Update::Touch { .. }) => {
                let mut leases = self.leases();
                let Some(lease) = leases.get_mut(&id).filter(|lease| lease.attempt == attempt) else {
                    return Err(Refused::Unavailable(why));
                };
                // Its room is free again.
                lease.report = None;
                let report = self.report_of(update);
                let without = if report.left_out.is_some() { " without its result" } else { "" };
                lease.report = Some(report);
                Err(Refused::Unavailable(format!(
                    "{why}; what became of job {id} is kept{without}, and written if Redis is back before \
                    its lease has ended"
                )))
            }
            written => written,
        }
    }

    fn report_of(&self, update: Update) -> Report {
        let update = match update {
            Update::Fail { error } => Update::Fail { error: cut(&error) },
            Update::Bury { error } => Update::Bury { error: cut(&error) },
            Update::Return { result } => {
                let bytes = result.len();
                let room = self.room_for_results.clone();
                return match room.try_acquire_many_owned(bytes.try_into().unwrap_or(u32::MAX)) {
                    Ok(room) => Report { update: Update::Return { result }, left_out: None, _room: Some(room) },
                    Err(_) => Report { update: Update::Done, left_out: Some(bytes), _room: None },
                };
            }
            update => update,
        };
        Report { update, left_out: None, _room: None }
    }

    /// Until when the lease lasts, if it does.
    async fn write(
        &self,
        id: JobId,
        attempt: u32,
        update: &Update,
        left_out: Option<usize>,
    ) -> Result<Option<u64>, Refused> {
        for _ in 0..MAX_TRIES {
            let now = self.link.now()?;
            let text = self.record_of(id).await?;
            let record = text.as_deref().and_then(Record::read).filter(|record| {
                let is_running = matches!(record.state, State::Running { until } if until > now);
                is_running && record.extras.attempt == attempt
            });
            let (Some(text), Some(record)) = (text, record) else {
                self.leases().remove(&id);
                return Err(Refused::NotLeased(id, attempt));
            };
            let (asked, latest) = (Moment::now(), self.link.latest()?);
            let next = match (record.after(update, latest, &self.config), left_out) {
                (Next::Kept(done), Some(bytes)) => Next::Kept(Box::new(done.without_result(bytes, TOO_MANY_RESULTS))),
                (next, _) => next,
            };
            let next = self.with_room(&record.queue, next).await?;
            let is_dead = next.is_dead();
            let until = match &next {
                Next::Kept(record) => match record.state {
                    State::Running { until } => Some(until),
                    _ => None,
                },
                _ => None,
            };
            if self.apply(id, &text, &record, next).await? {
                let mut leases = self.leases();
                match (until, leases.get_mut(&id)) {
                    (Some(until), Some(lease)) => lease.until = asked + Duration::from_millis(until - latest),
                    _ => leases.remove(&id),
                }
                drop(leases);
                if let Update::Fail { error } | Update::Lose { error } = update {
                    self.note_failure(id, &record, error, is_dead);
                }
                return Ok(until);
            }
        }
        Err(Refused::Unavailable(format!("others change job {id} at the same time; try again")))
    }

    /// An attempt has failed: its job is dead, which is told by itself, or tried again.
    pub(super) fn note_failure(&self, id: JobId, record: &Record, error: &str, is_dead: bool) {
        self.metrics.job_failures.increment();
        if !is_dead {
            let failure = || Failure { id, name: record.name(), error: cut(error) };
            self.known.failures.note(&record.queue, 1, failure);
        }
    }

    /// A job that is done is gone, instead of kept for its result, where there is no room for that.
    async fn with_room(&self, queue: &str, next: Next) -> Result<Next, Failed> {
        let is_kept_done = matches!(&next, Next::Kept(kept) if matches!(kept.state, State::Done { .. }));
        if !is_kept_done {
            return Ok(next);
        }
        let arguments = Arguments::new(&self.keys.0).text(queue).number(self.config.max_jobs as u64);
        let has_room = self.link.run::<u8>(&scripts::ROOM, arguments).await? == 1;
        Ok(if has_room { next } else { Next::Done })
    }

    /// Takes a job from where its record says that it is to its next place, unless somebody else has done so.
    pub(super) async fn apply(&self, id: JobId, text: &str, record: &Record, next: Next) -> Result<bool, Failed> {
        let step = Step::new(&self.keys).if_record(id, text);
        let (mut is_done, mut death) = (false, None);
        let step = match next {
            Next::Done => {
                is_done = true;
                step.forget(id, record).free(id, record).count("processed")
            }
            Next::Waiting(extras) => {
                let item = record.waiting_again(id, extras);
                step.push("LPUSH", &record.queue, &item).hold(id, record, &item).forget(id, record)
            }
            Next::Kept(next) => {
                let due = match next.state {
                    State::Dead { since } => since + self.kept_dead(),
                    state => super::keys::place(state).1,
                };
                let is_moved = super::keys::place(next.state).0 != super::keys::place(record.state).0;
                let step = step.keep(id, &next, due);
                let step = if is_moved { step.unplace(id, record) } else { step };
                match next.state {
                    State::Dead { .. } => {
                        death = Some(next.death(id));
                        step.free(id, record).count("failed")
                    }
                    State::Done { .. } => {
                        is_done = true;
                        step.free(id, record).count("processed")
                    }
                    _ => step,
                }
            }
        };
        let is_changed = self.change(step).await?;
        self.metrics.jobs_done.add((is_changed && is_done).into());
        if is_changed && is_done {
            self.searches.is_settled_now(id);
        }
        if let Some(death) = death.filter(|_| is_changed) {
            self.metrics.jobs_died.increment();
            death.log();
        }
        Ok(is_changed)
    }

    /// Writes what could not be written, and forgets leases that are over.
    pub(super) async fn repeat_reports(&self) -> Result<(), Failed> {
        let kept = self.leases().reported();
        stream::iter(kept).for_each_concurrent(REPORTS_AT_ONCE, |id| self.repeat_report(id)).await;
        self.leases().end(Moment::now());
        Ok(())
    }

    async fn repeat_report(&self, id: JobId) {
        let report = self.leases().get(&id).and_then(|lease| {
            let report = lease.report.as_ref()?;
            Some((lease.attempt, report.update.clone(), report.left_out))
        });
        let Some((attempt, update, left_out)) = report else { return };
        match self.write(id, attempt, &update, left_out).await {
            Err(Refused::Unavailable(why)) => tracing::debug!(id, why, "a report is still kept"),
            Err(_) => tracing::warn!(id, attempt, "what became of a job is written already, or its lease has ended"),
            Ok(_) => {}
        }
    }

    /// There may be jobs of this queue.
    pub(super) fn is_ready(&self, queue: &str) {
        if self.wanted().contains_key(queue) {
            self.ready.send_replace([queue.to_owned()].into());
        }
    }

    /// Wakes those who wait, where others have enqueued jobs.
    pub(super) async fn look_for_wanted(&self) -> Result<(), Failed> {
        let wanted: Vec<String> = self.wanted().keys().cloned().collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let ready: Vec<String> = self.link.run(&scripts::READY, self.limits_of(&wanted)?.texts(wanted)).await?;
        if !ready.is_empty() {
            self.ready.send_replace(ready.into_iter().collect());
        }
        Ok(())
    }

    fn unheard(&self) -> MutexGuard<'_, Vec<(JobId, Record)>> {
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanted(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn kept_dead(&self) -> u64 {
        self.config.keep_dead.as_millis() as u64
    }
}

/// That somebody waits for jobs of these queues.
struct Wanted<'r> {
    redis: &'r Redis,
    queues: Vec<String>,
}

impl<'r> Wanted<'r> {
    fn new(redis: &'r Redis, queues: &[String]) -> Self {
        let mut wanted = redis.wanted();
        queues.iter().for_each(|queue| *wanted.entry(queue.clone()).or_default() += 1);
        Self { redis, queues: queues.to_vec() }
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        let mut wanted = self.redis.wanted();
        for queue in &self.queues {
            let Some(count) = wanted.get_mut(queue) else { continue };
            *count -= 1;
            if *count == 0 {
                wanted.remove(queue);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_jobs_has_as_many_leases_as_it_leaves_free_and_room_for_others_once_they_are_over() {
        let (mut leases, now) = (Leases::default(), Moment::now());
        let until = |secs: u64| now + Duration::from_secs(secs);
        let lease = |taker, until| Lease {
            attempt: 1,
            until,
            queue: "mail".into(),
            user: None,
            taker,
            report: None,
            progress: None,
        };
        assert_eq!(leases.counts.room(Some(33), 9), 5);
        (0..5).for_each(|id| leases.insert(id, lease(Some(33), until(id))));
        assert_eq!((leases.counts.room(Some(33), 9), leases.counts.room(None, 9)), (0, 2));
        // Another one has it by now.
        leases.insert(4, lease(None, until(4)));
        assert_eq!((leases.counts.room(Some(33), 9), leases.counts.room(None, 9)), (0, 2));
        leases.remove(&0);
        leases.remove(&0);
        assert_eq!(leases.counts.room(Some(33), 9), 1);
        leases.end(until(3));
        assert_eq!((leases.counts.all, leases.counts.by_taker.len()), (1, 1));
        leases.end(until(4));
        assert!(leases.counts.all == 0 && leases.counts.by_taker.is_empty(), "nothing is left: {leases:?}");
    }
}
