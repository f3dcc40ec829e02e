//! The buffer: jobs that were enqueued while Redis was away, on the disk of this host until Redis has them.
//!
//! It is the store of queues that have no Redis. Each job waits there in a queue of the same name, in the order of its
//! enqueue, with the id that Redis will know it by, so that none is delivered twice.
//!
//! A folder that was no buffer becomes one: its jobs are delivered as they stand there, with their ids.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use base64::prelude::{BASE64_STANDARD, Engine};
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::timeout_at;

use super::super::change::{Change, Outcome, Refused, millis};
use super::super::control::Control;
use super::super::engine::{EngineError, sound};
use super::super::enqueue::Asker;
use super::super::job::{DEFAULT_PRIORITY, Head, JobId, MAX_ERROR, NewJob, State, Unique, Until, cut};
use super::super::keeper::{Keeper, What, Work};
use super::super::look::Overview;
use super::super::order::Order;
use super::super::recurring::{Settled, forget_settled, settled_on_disk};
use super::super::{Config, Disk, Known, Place, keys};
use super::enqueue::Draft;
use super::resque::{self, Extras};
use crate::clock::millis_since_1970;
use crate::metrics::Metrics;
use crate::task::Tasks;

/// So many jobs are delivered at once, of about so many bytes.
const BATCH: usize = 100;
const BATCH_BYTES: usize = 1 << 20;

/// How long none of a queue are delivered after Redis has refused that, nor what was settled of recurring jobs.
const REFUSED_DELAY: Duration = Duration::from_secs(1);

/// Why a job of a folder that was no buffer is dead in Redis.
const NO_JSON: &str = "its payload is no JSON, as those of jobs in Redis are: here it is in base64";

/// What is known of the store. None: it is not read yet.
type Counts = Option<Counted>;

#[derive(Debug)]
struct Counted {
    /// How many jobs of which queue there are; none: some run yet, by their leases.
    queues: HashMap<String, u64>,
    /// Those that are paused here, which they are to be in Redis,
    paused: HashSet<String>,
    /// and how many were delivered without something that Redis does not have.
    lacking: HashMap<String, u64>,
    /// Those with lower ids in the store are of an earlier run, which may have had Redis enqueue them.
    since: JobId,
    /// What was settled of recurring jobs before the folder was a buffer, by their names.
    settled: Vec<(String, Settled)>,
}

/// What a store has when it is read.
#[derive(Debug)]
struct Loaded {
    overviews: Vec<Overview>,
    next_job: JobId,
    settled: Vec<(String, Settled)>,
}

/// What may be delivered.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By their ids in the store.
    pub(super) jobs: Vec<(JobId, Draft)>,
    /// Whether others may follow when their leases end.
    some_run: bool,
}

#[derive(Debug)]
pub(super) struct Buffer {
    disk: Disk,
    /// Changed by the thread of the store alone, in the order of its transactions.
    counts: Arc<Mutex<Counts>>,
    /// Whoever delivers has it, and whoever wants that nothing is delivered.
    pub(super) delivery: tokio::sync::Mutex<()>,
    /// Queues whose jobs Redis refuses: until when none are delivered, and why.
    refused: Mutex<BTreeMap<String, (Instant, String)>>,
    /// Where what was settled of recurring jobs is not handed over: until when it is not tried again, and why.
    kept_settled: Mutex<Option<(Instant, String)>>,
    /// There while a look that was given up waits for the disk yet: then no other one is begun.
    given_up: Mutex<Weak<()>>,
}

/// A job as it is kept: its queue and its name beside it.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    id: JobId,
    /// When it was enqueued, by the clock of this host.
    enqueued_at: u64,
    delay_ms: u64,
    args: Box<RawValue>,
    extras: Extras,
}

impl Buffer {
    pub(super) fn open(folder: PathBuf, config: &Config, metrics: &Arc<Metrics>, tasks: &Tasks) -> io::Result<Self> {
        let (asks, asked) = mpsc::unbounded_channel();
        let known = Arc::<Known>::default();
        // What recurs is enqueued into Redis alone.
        let (max_job_bytes, recurring) = (ByteSize(super::largest(config)), Vec::new());
        let config = Config { max_job_bytes, recurring, ..config.clone() };
        let asked = (asks.downgrade(), asked);
        let keeper = Keeper::new(folder, config, known.clone(), metrics.clone(), asked);
        let stop = tasks.stop_signal();
        tasks.thread("the buffer", move |_| async move { keeper.run(&stop).await })?;
        let disk = Disk { asks, known };
        let (delivery, refused, kept_settled, given_up) = Default::default();
        Ok(Self { disk, counts: Arc::default(), delivery, refused, kept_settled, given_up })
    }

    /// What is wrong with the store, or why Redis does not take what is in it, for one who sees these queues.
    pub(super) fn trouble(&self, sees: impl Fn(&str) -> bool) -> Option<Arc<String>> {
        let refused = || {
            let refused = lock(&self.refused);
            refused.iter().find(|(queue, _)| sees(queue)).map(|(_, (_, why))| Arc::new(why.clone()))
        };
        self.disk.known.trouble.load_full().or_else(|| self.disk.known.damage.load_full()).or_else(refused)
    }

    /// Redis refuses jobs of a queue: none are delivered for a while.
    pub(super) fn is_refused(&self, queue: &str, why: &str) {
        let why = format!("the jobs of {queue:?} in the buffer wait, as Redis does not take them: {why}");
        let until = Instant::now() + REFUSED_DELAY;
        let before = lock(&self.refused).insert(queue.to_owned(), (until, why.clone()));
        if before.is_none_or(|(_, before)| before != why) {
            tracing::warn!(queue, why, "jobs cannot be delivered");
        }
    }

    /// Redis takes them, or there are none.
    pub(super) fn is_taken(&self, queue: &str) {
        lock(&self.refused).remove(queue);
    }

    /// Whether there are some of these queues, which are delivered before others.
    pub(super) fn has_any_of(&self, drafts: &[Draft]) -> bool {
        let counts = lock(&self.counts);
        let has_any = |counts: &Counted, queue: &str| counts.queues.get(queue).is_some_and(|count| *count > 0);
        counts.as_ref().is_some_and(|counts| drafts.iter().any(|draft| has_any(counts, &draft.job.queue)))
    }

    /// Whether a queue was paused when its folder became a buffer.
    pub(super) fn is_paused(&self, queue: &str) -> bool {
        lock(&self.counts).as_ref().is_some_and(|counts| counts.paused.contains(queue))
    }

    /// A queue is paused in Redis.
    pub(super) async fn resume(&self, queue: String) -> Result<(), Refused> {
        let name = queue.clone();
        let resume = move |change: &mut Change<'_, '_>| change.control(&name, Control::Resume).map(drop);
        self.ask(What::Work, Place::default(), resume, move |counts, ()| {
            if let Some(counts) = counts {
                counts.paused.remove(&queue);
            }
        })
        .await
    }

    /// What was settled of recurring jobs before the folder was a buffer, and Redis is to know now.
    pub(super) fn settled(&self) -> Vec<(String, Settled)> {
        if lock(&self.kept_settled).as_ref().is_some_and(|(until, _)| *until > Instant::now()) {
            return Vec::new();
        }
        lock(&self.counts).as_ref().map_or_else(Vec::new, |counts| counts.settled.clone())
    }

    /// Why Redis may not know yet what the folder says of recurring jobs. None: it knows.
    pub(super) fn keeps_settled(&self) -> Option<String> {
        match &*lock(&self.counts) {
            None => Some("the folder of the buffer is not read yet".to_owned()),
            Some(counts) if counts.settled.is_empty() => None,
            Some(_) => {
                let why = lock(&self.kept_settled).as_ref().map_or_else(String::new, |(_, why)| format!(": {why}"));
                Some(format!("what the folder of the buffer says of recurring jobs is not in Redis yet{why}"))
            }
        }
    }

    /// It stays in the folder for now.
    pub(super) fn keep_settled(&self, why: String) {
        *lock(&self.kept_settled) = Some((Instant::now() + REFUSED_DELAY, why));
    }

    /// Redis knows it.
    pub(super) async fn forget_settled(&self) -> Result<(), Refused> {
        let forget = |change: &mut Change<'_, '_>| Ok(forget_settled(change)?);
        self.ask(What::Work, Place::default(), forget, |counts, ()| {
            if let Some(counts) = counts {
                counts.settled.clear();
            }
        })
        .await
    }

    /// The queues of which there are some that may be delivered now.
    pub(super) fn queues(&self) -> Vec<String> {
        let (now, refused) = (Instant::now(), lock(&self.refused));
        let rests = |queue: &String| refused.get(queue).is_some_and(|(until, _)| *until > now);
        lock(&self.counts)
            .iter()
            .flat_map(|counts| counts.queues.keys())
            .filter(|queue| !rests(queue))
            .cloned()
            .collect()
    }

    /// Keeps jobs until they can be delivered: all or none.
    pub(super) async fn keep(&self, place: Place, asker: Asker, drafts: Vec<Draft>) -> Result<(), Refused> {
        let now = millis_since_1970(SystemTime::now());
        let jobs: Vec<NewJob> = drafts.into_iter().map(|draft| draft.kept(now)).collect();
        let queues: Vec<String> = jobs.iter().map(|job| job.queue.clone()).collect();
        let enqueue = move |change: &mut Change<'_, '_>| {
            for job in &jobs {
                let number = change.book.named(&job.queue).map(|queue| queue.counts.number);
                if let (Some(number), Some(unique)) = (number, &job.unique)
                    && change.holder_of(number, &unique.key)?.is_some()
                {
                    return Err(Refused::Unavailable(
                        "another job has the same number by chance; try again".to_owned(),
                    )
                    .into());
                }
            }
            change.enqueue(&jobs, asker).map(drop)
        };
        self.ask(What::Growth, place, enqueue, move |counts, ()| {
            let Some(counts) = counts else { return };
            queues.into_iter().for_each(|queue| *counts.queues.entry(queue).or_default() += 1);
        })
        .await
    }

    /// Reads how many there are, unless that is known.
    pub(super) async fn load(&self) -> Result<(), Refused> {
        if lock(&self.counts).is_some() {
            return Ok(());
        }
        let look = |change: &mut Change<'_, '_>| {
            let (overviews, next_job) = (change.overviews("", usize::MAX, |_| true)?, change.book.next_job());
            Ok(Loaded { overviews, next_job, settled: settled_on_disk(change)? })
        };
        let count = |counts: &mut Counts, Loaded { overviews, next_job, settled }: &Loaded| {
            let has_any = |it: &&Overview| it.is_paused || it.waiting + it.delayed + it.running + it.dead > 0;
            // Whether any of these is to be delivered, a look tells.
            let queues = overviews.iter().filter(has_any).map(|it| (it.name.clone(), it.waiting.max(1))).collect();
            let paused = overviews.iter().filter(|it| it.is_paused).map(|it| it.name.clone()).collect();
            let (lacking, settled) = (HashMap::new(), settled.clone());
            *counts = Some(Counted { queues, paused, lacking, since: *next_job, settled });
        };
        self.ask(What::Work, Place::default(), look, count).await.map(drop)
    }

    /// The queues of which there are some, with how many wait and since when.
    pub(super) async fn overviews(&self, place: Place) -> Result<Vec<Overview>, Refused> {
        let all = |change: &mut Change<'_, '_>| -> Outcome<Vec<Overview>> {
            let mut all = change.overviews("", usize::MAX, |_| true)?;
            for it in all.iter_mut().filter(|it| it.dead > 0) {
                it.dead = dead_before(change, &it.name)?;
            }
            Ok(all)
        };
        let mut all = self.ask(What::Work, place, all, |_, _| {}).await?;
        let counts = lock(&self.counts);
        for it in &mut all {
            // What runs waits for its lease to end.
            it.waiting += it.delayed + it.running;
            // Where nothing more is to be delivered, all that is dead was set aside.
            if counts.as_ref().is_none_or(|counts| counts.queues.contains_key(&it.name)) {
                it.waiting += it.dead;
            }
        }
        all.retain(|it| it.waiting > 0);
        Ok(all)
    }

    /// The first jobs of a queue. What is no job is set aside: it is dead there.
    pub(super) async fn first(&self, queue: String) -> Result<Found, Refused> {
        let name = queue.clone();
        self.ask(
            What::Work,
            Place::default(),
            move |change| first(change, &name),
            move |counts, found| {
                let Some(counts) = counts.as_mut().filter(|_| found.jobs.is_empty()) else { return };
                match found.some_run {
                    true => _ = counts.queues.insert(queue.clone(), 0),
                    false => _ = counts.queues.remove(&queue),
                }
                if let Some(jobs) = counts.lacking.remove(&queue) {
                    tracing::warn!(
                        queue,
                        jobs,
                        "jobs went to Redis without their priority or `limitKey`, which it does not have"
                    );
                }
            },
        )
        .await
    }

    /// A job, and its id in the store, by the one that Redis knows it by. It is looked for until then.
    pub(super) async fn find(
        &self,
        place: Place,
        id: JobId,
        until: Instant,
    ) -> Result<Option<(JobId, Draft)>, Refused> {
        if lock(&self.counts).as_ref().is_some_and(|counts| counts.queues.is_empty()) {
            return Ok(None);
        }
        let not_answered = || hangs(&format!("job {id} may be in it"));
        if lock(&self.given_up).strong_count() > 0 {
            return Err(not_answered());
        }
        let waits = Arc::new(());
        let this = Arc::downgrade(&waits);
        let find = move |change: &mut Change<'_, '_>| {
            drop(waits);
            find(change, id)
        };
        let found = timeout_at(until.into(), self.ask(What::Work, place, find, |_, _| {})).await;
        found.unwrap_or_else(|_| {
            *lock(&self.given_up) = this;
            Err(not_answered())
        })
    }

    /// Whether a job with this id in the store is of an earlier run.
    pub(super) fn is_of_before(&self, id: JobId) -> bool {
        lock(&self.counts).as_ref().is_none_or(|counts| id < counts.since)
    }

    /// Redis has these jobs of a queue, or nobody wants them any more.
    pub(super) async fn forget(&self, queue: String, ids: Vec<JobId>) -> Result<(), Refused> {
        let count = ids.len() as u64;
        let forget = move |change: &mut Change<'_, '_>| -> Outcome<u64> {
            let (first, mut lacking) = (first_of_buffer(change)?, 0);
            for id in ids {
                if let Some(head) = change.head(id)? {
                    lacking += u64::from(id < first && has_what_redis_lacks(&head));
                    change.remove(id, &head)?;
                }
            }
            Ok(lacking)
        };
        self.ask(What::Work, Place::default(), forget, move |counts, lacking| {
            let Some(counts) = counts else { return };
            if *lacking > 0 {
                *counts.lacking.entry(queue.clone()).or_default() += lacking;
            }
            if let Some(left) = counts.queues.get_mut(&queue) {
                // The last one is known to be that when none is found after it.
                *left = left.saturating_sub(count).max(1);
            }
        })
        .await
        .map(drop)
    }

    /// Has the thread of the store hang until the other end is dropped.
    #[cfg(test)]
    pub(super) fn hang(&self, until: std::sync::mpsc::Receiver<()>) {
        let hang = What::Work(Box::new(move |_| {
            let _ = until.recv();
            Ok(Box::new(|| {}))
        }));
        let asked = super::super::keeper::Ask { what: hang, at: Instant::now(), place: Place::default() };
        self.disk.asks.send(asked).expect("the thread is there");
    }

    /// Has the thread of the store do something, and then note what it came to.
    async fn ask<T: Send + 'static>(
        &self,
        what: fn(Work) -> What,
        place: Place,
        work: impl FnOnce(&mut Change<'_, '_>) -> Outcome<T> + Send + 'static,
        note: impl FnOnce(&mut Counts, &T) + Send + 'static,
    ) -> Result<T, Refused> {
        let counts = self.counts.clone();
        self.disk.ask_and_note(what, place, work, move |done| note(&mut lock(&counts), done)).await
    }
}

/// That the disk does not answer, and what follows from that.
pub(super) fn hangs(then: &str) -> Refused {
    Refused::Unavailable(format!("the disk of the buffer does not answer: {then}; try again"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Jobs with lower ids were there before their folder became a buffer.
fn first_of_buffer(change: &Change<'_, '_>) -> Result<JobId, EngineError> {
    let mark = sound(change.txn.get(keys::BUFFER))?.flatten();
    Ok(mark.and_then(|mark| mark.try_into().ok()).map_or(0, JobId::from_be_bytes))
}

/// How many dead jobs of a queue were there before its folder became a buffer: those of a buffer were set aside.
fn dead_before(change: &Change<'_, '_>, queue: &str) -> Outcome<u64> {
    let Some(number) = change.book.named(queue).map(|it| it.counts.number) else { return Ok(0) };
    let (first, all, mut count) = (first_of_buffer(change)?, Order::Dead.of(number), 0);
    for place in change.txn.keys(&all) {
        count += u64::from(keys::id_in(&place?).is_some_and(|id| id < first));
    }
    Ok(count)
}

fn has_what_redis_lacks(head: &Head) -> bool {
    head.priority != DEFAULT_PRIORITY || head.limit_key.is_some()
}

fn first(change: &mut Change<'_, '_>, queue: &str) -> Outcome<Found> {
    let Some(counts) = change.book.named(queue).map(|it| &it.counts) else { return Ok(Found::default()) };
    let (number, mut found) = (counts.number, Found { jobs: Vec::new(), some_run: counts.running > 0 });
    let (first, mut bytes) = (first_of_buffer(change)?, 0);
    // Of a buffer itself all wait, but for what was set aside.
    for order in [Order::Waiting, Order::Delayed, Order::Dead] {
        let all = order.of(number);
        let mut at = all.clone();
        while found.jobs.len() < BATCH && bytes < BATCH_BYTES {
            let Some(place) = change.txn.first(&all, &at)? else { break };
            at = keys::after(&place);
            let Some((id, head, name, kept)) = sound(standing_at(change, &place))?.flatten() else {
                change.pass_over(&place, number, order)?;
                continue;
            };
            let draft = match id < first {
                true => Draft::moved(change, (queue, name), id, &head, &kept)?,
                false => Draft::read(queue, name, &kept),
            };
            match draft {
                Some(draft) => {
                    bytes += kept.len();
                    found.jobs.push((id, draft));
                }
                None if order == Order::Dead => {}
                None => {
                    tracing::error!(queue, id, "what is in the buffer is no job: it is set aside there");
                    change.bury(id, &head, "it is no job of a buffer")?;
                }
            }
        }
    }
    Ok(found)
}

fn find(change: &mut Change<'_, '_>, id: JobId) -> Outcome<Option<(JobId, Draft)>> {
    let first = first_of_buffer(change)?;
    if id < first
        && let Some(head) = change.head(id)?
    {
        if matches!(head.state, State::Done { .. }) {
            return Ok(None);
        }
        let queue = change.book.queues.get(&head.queue).ok_or(EngineError::Damaged)?.name.clone();
        let (name, payload) = change.content(id)?;
        return Ok(Draft::moved(change, (&queue, name), id, &head, &payload)?.map(|draft| (id, draft)));
    }
    let queues = change.book.queues.iter().map(|(number, queue)| (*number, queue.name.clone()));
    for (number, queue) in queues.collect::<Vec<_>>() {
        // The key of any other may be the same text.
        if let Some(at) = change.holder_of(number, &key_of(id))?.filter(|at| *at >= first) {
            let (name, kept) = change.content(at)?;
            return Ok(Draft::read(&queue, name, &kept).map(|draft| (at, draft)));
        }
    }
    Ok(None)
}

/// By which a job is found in the store.
fn key_of(id: JobId) -> String {
    format!("{id:x}")
}

type Standing = (JobId, Head, String, Vec<u8>);

fn standing_at(change: &Change<'_, '_>, place: &[u8]) -> Result<Option<Standing>, EngineError> {
    let Some((id, head)) = change.standing_at(place)? else { return Ok(None) };
    let (name, kept) = change.content(id)?;
    Ok(Some((id, head, name, kept)))
}

impl Draft {
    /// As it is kept in the store.
    fn kept(self, now: u64) -> NewJob {
        let Self { id, job, args, extras, .. } = self;
        let args = RawValue::from_string(args).expect("it was read as JSON");
        let kept = Kept { id, enqueued_at: now, delay_ms: millis(job.delay), args, extras };
        let payload = serde_json::to_vec(&kept).expect("a value of ours has nothing that JSON cannot");
        let unique = Some(Unique { key: key_of(id), until: Until::Success });
        NewJob { queue: job.queue, name: job.name, payload, unique, ..NewJob::default() }
    }

    /// None: it is none.
    fn read(queue: &str, name: String, kept: &[u8]) -> Option<Self> {
        let Kept { id, enqueued_at, delay_ms, args, extras } = serde_json::from_slice(kept).ok()?;
        let waited = millis_since_1970(SystemTime::now()).saturating_sub(enqueued_at);
        let delay = Duration::from_millis(delay_ms.saturating_sub(waited));
        let job = NewJob { queue: queue.to_owned(), name, delay, ..NewJob::default() };
        Some(Self {
            id,
            job,
            args: args.get().to_owned(),
            extras,
            enqueued_at: Some(enqueued_at),
            died_at: None,
            runs_until: None,
        })
    }

    /// A job of a folder that was no buffer before, as it stands. None: it was damaged.
    fn moved(
        change: &Change<'_, '_>,
        (queue, name): (&str, String),
        id: JobId,
        head: &Head,
        payload: &[u8],
    ) -> Result<Option<Self>, EngineError> {
        if name.is_empty() {
            return Ok(None);
        }
        let (args, now) = (resque::args(payload), change.now.wall);
        let (delay, died_at) = match head.state {
            State::Dead { since } => (0, Some(since)),
            State::Delayed { until } if args.is_some() => (until.saturating_sub(now), None),
            _ => (0, args.is_none().then_some(now)),
        };
        let runs_until = match head.state {
            State::Running { until } => Some(until),
            _ => None,
        };
        let error = match &args {
            Some(_) => head.error.clone(),
            None => {
                let all: Vec<&str> = [Some(NO_JSON), head.error.as_deref()].into_iter().flatten().collect();
                Some(cut(&all.join("; "), MAX_ERROR))
            }
        };
        let mut unique = head.unique.clone().filter(|_| died_at.is_none());
        if let Some(Unique { key, .. }) = &unique
            && change.holder_of(head.queue, key)? != Some(id)
        {
            unique = None;
        }
        let extras = Extras {
            id: None,
            user: head.user,
            retries: Some(head.retries),
            timeout_ms: Some(head.timeout_ms),
            keep_result_ms: Some(head.keep_result_ms),
            unique,
            attempt: head.attempt,
            failures: head.failures,
            lost: head.lost,
            error,
            due_at: head.due_at,
        };
        let delay = Duration::from_millis(delay);
        let job = NewJob { queue: queue.to_owned(), name, delay, ..NewJob::default() };
        let args = args.unwrap_or_else(|| format!("{:?}", BASE64_STANDARD.encode(payload)));
        Ok(Some(Self { id, job, args, extras, enqueued_at: Some(head.enqueued_at), died_at, runs_until }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Job, Most, Queues, Update};
    use super::*;

    const ROOT: Asker = Asker { uid: Some(0), is_admin: true };

    fn job(name: &str) -> NewJob {
        NewJob { queue: "mail".into(), name: name.into(), payload: b"{}".to_vec(), ..NewJob::default() }
    }

    fn draft(id: JobId, name: &str) -> Draft {
        let (args, extras) = ("{}".to_owned(), Extras::default());
        Draft { id, job: job(name), args, extras, enqueued_at: None, died_at: None, runs_until: None }
    }

    async fn take(queues: &Queues) -> Job {
        let (of, few) = (vec!["mail".to_owned()], Most { jobs: 1, bytes: 1 });
        let (mut jobs, handed) = queues.take(None, of, few, None, Duration::ZERO).await.expect("it is there");
        handed.have_arrived();
        jobs.pop().expect("one waits")
    }

    /// A folder of jobs without a Redis, while there is its sidecar.
    fn plain(path: &std::path::Path, tasks: &Tasks) -> Arc<Queues> {
        let config = Config { path: Some(path.to_owned()), ..Config::default() };
        Queues::start(&config, &Arc::default(), tasks).expect("a thread")
    }

    fn buffer(path: PathBuf, tasks: &Tasks) -> Buffer {
        let config = Config { buffer: true, ..Config::default() };
        Buffer::open(path, &config, &Arc::default(), tasks).expect("a thread")
    }

    #[tokio::test]
    async fn jobs_that_were_there_before_are_delivered_as_they_stand_with_their_ids() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("queue");
        let (tasks, _failed) = Tasks::new();
        let queues = plain(&path, &tasks);
        let enqueue = |job: NewJob| queues.enqueue(ROOT, vec![job]);
        let died = enqueue(job("Died")).await.expect("there is room")[0].id;
        let taken = take(&queues).await;
        let bury = Update::Bury { error: "no".into() };
        queues.update(None, (died, taken.attempt), bury, |_, _| true).await.expect("it has the lease");
        let runs = enqueue(job("Runs")).await.expect("there is room")[0].id;
        take(&queues).await;
        let unique = Some(Unique { key: "user 7".into(), until: Until::Success });
        let jobs = vec![
            NewJob {
                unique: unique.clone(),
                retries: Some(3),
                keep_result: Some(Duration::from_secs(60)),
                ..job("Old")
            },
            NewJob { priority: Some(1), limit_key: Some("x".into()), ..job("Urgent") },
            NewJob { payload: vec![0xff], ..job("Binary") },
            NewJob { delay: Duration::from_secs(3_600), ..job("Later") },
        ];
        let ids = queues.enqueue(ROOT, jobs).await.expect("there is room");
        let [old, urgent, binary, later] = [0, 1, 2, 3].map(|nth: usize| ids[nth].id);
        queues.control(ROOT, "mail".into(), Control::Pause).await.expect("it is there");
        drop(queues);
        tasks.stop(Duration::from_secs(10)).await;

        let (tasks, _failed) = Tasks::new();
        let buffer = buffer(path, &tasks);
        buffer.load().await.expect("it is read");
        assert!(buffer.is_paused("mail"));
        buffer.resume("mail".into()).await.expect("it is written");
        assert!(!buffer.is_paused("mail"), "it is paused in Redis");
        let told = buffer.overviews(Place::default()).await.expect("it is read");
        let of_all = told.iter().map(|it| it.waiting).collect::<Vec<_>>();
        assert_eq!(of_all, [6], "with those that are delayed, run and are dead");
        let found = buffer.first("mail".into()).await.expect("it is read");
        assert!(found.some_run);
        let (at, drafts): (Vec<_>, Vec<_>) = found.jobs.into_iter().unzip();
        assert_eq!(at, [urgent, old, binary, later, died]);
        assert_eq!(drafts.iter().map(|it| it.id).collect::<Vec<_>>(), at, "Redis knows them by the same ids");
        let [_, of_old, of_binary, of_later, of_died] = &drafts[..] else { panic!("{drafts:?}") };
        assert_eq!((&of_old.extras.unique, of_old.extras.retries, of_old.died_at), (&unique, Some(3), None));
        assert_eq!((of_old.extras.keep_result_ms, of_later.extras.keep_result_ms), (Some(60_000), Some(0)));
        assert_eq!((of_binary.args.as_str(), of_binary.died_at.is_some()), (r#""/w==""#, true));
        assert_eq!(of_binary.extras.error.as_deref(), Some(NO_JSON));
        assert!(of_later.job.delay > Duration::from_secs(3_500), "{:?}", of_later.job.delay);
        assert_eq!((of_died.died_at.is_some(), of_died.extras.attempt), (true, 1));
        assert_eq!(of_died.extras.error.as_deref(), Some("no"));

        let find = |id| buffer.find(Place::default(), id, Instant::now() + Duration::from_secs(60));
        assert_eq!(find(later).await.map(|it| it.map(|(at, _)| at)), Ok(Some(later)));
        let running = find(runs).await.expect("it is read").expect("it is there").1;
        assert!(running.runs_until.is_some() && running.died_at.is_none());
        buffer.forget("mail".into(), at).await.expect("it is written");
        let lacking = lock(&buffer.counts).as_ref().and_then(|counts| counts.lacking.get("mail").copied());
        assert_eq!(lacking, Some(1), "the urgent one has no priority in Redis");
        let found = buffer.first("mail".into()).await.expect("it is read");
        assert!(found.jobs.is_empty() && found.some_run);
        let told = buffer.overviews(Place::default()).await.expect("it is read");
        assert_eq!(told.iter().map(|it| it.waiting).collect::<Vec<_>>(), [1], "the one that runs");
        assert!(!buffer.has_any_of(&[draft(7, "New")]), "no other one waits behind the one that runs");
        assert_eq!(buffer.queues(), ["mail"], "but it is looked whether it has ended");

        // What is enqueued from then on is as in any buffer, also with an id that is lower.
        buffer.keep(Place::default(), ROOT, vec![draft(7, "New")]).await.expect("there is room");
        let found = buffer.first("mail".into()).await.expect("it is read");
        assert_eq!(found.jobs.iter().map(|(_, it)| (it.id, it.job.name.as_str())).collect::<Vec<_>>(), [(7, "New")]);
        assert!(find(7).await.is_ok_and(|it| it.is_some()));

        let odd = |change: &mut Change<'_, '_>| {
            change.enqueue(&[NewJob { queue: "odd".into(), ..job("Odd") }], ROOT).map(drop)
        };
        buffer.ask(What::Growth, Place::default(), odd, |_, _| {}).await.expect("there is room");
        assert!(buffer.first("odd".into()).await.expect("it is read").jobs.is_empty(), "it is set aside");
        let told = buffer.overviews(Place::default()).await.expect("it is read");
        assert_eq!(told.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["mail"], "what was is for nobody");
        buffer.keep(Place::default(), ROOT, vec![draft(8, "New")]).await.expect("there is room");
        let aside = |change: &mut Change<'_, '_>| change.enqueue(&[job("Odd")], ROOT).map(drop);
        buffer.ask(What::Growth, Place::default(), aside, |_, _| {}).await.expect("there is room");
        buffer.first("mail".into()).await.expect("it is read");
        let told = buffer.overviews(Place::default()).await.expect("it is read");
        assert_eq!(told[0].waiting, 3, "both new ones and the one that runs, and not what is set aside");
    }

    #[tokio::test]
    async fn why_redis_may_not_know_what_the_folder_says_of_recurring_jobs_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let (tasks, _failed) = Tasks::new();
        let buffer = buffer(folder.path().join("queue"), &tasks);
        assert_eq!(buffer.keeps_settled().as_deref(), Some("the folder of the buffer is not read yet"));
        buffer.load().await.expect("it is read");
        assert_eq!(buffer.keeps_settled(), None);
    }

    #[tokio::test]
    async fn nobody_is_told_of_a_queue_that_it_does_not_see() {
        let folder = tempfile::tempdir().expect("a folder");
        let (tasks, _failed) = Tasks::new();
        let buffer = Buffer::open(folder.path().join("queue"), &Config::default(), &Arc::default(), &tasks);
        let buffer = buffer.expect("a thread");
        for queue in ["mail", "secret"] {
            buffer.is_refused(queue, "it is full");
        }
        for seen in ["mail", "secret"] {
            assert!(buffer.trouble(|queue| queue == seen).is_some_and(|told| told.contains(seen)));
        }
        assert_eq!(buffer.trouble(|_| false), None);
    }
}
