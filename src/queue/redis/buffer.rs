//! The buffer: jobs that were enqueued while Redis was away, on the disk of this host until Redis has them.
//!
//! It is the store of queues that have no Redis. Each job waits there in a queue of the same name, in the order of its
//! enqueue, with the id that Redis will know it by, so that none is delivered twice.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::timeout_at;

use super::super::change::{Change, Outcome, Refused, millis};
use super::super::engine::{EngineError, sound};
use super::super::enqueue::Asker;
use super::super::job::{JobId, NewJob, Unique, Until};
use super::super::keeper::{Keeper, What, Work};
use super::super::look::Overview;
use super::super::order::Order;
use super::super::{Config, Disk, Known, Place, keys};
use super::enqueue::Draft;
use super::resque::Extras;
use crate::clock::millis_since_1970;
use crate::metrics::Metrics;
use crate::task::Tasks;

/// So many jobs are delivered at once, of about so many bytes.
const BATCH: usize = 100;
const BATCH_BYTES: usize = 1 << 20;

/// How long none of a queue are delivered after Redis has refused that.
const REFUSED_DELAY: Duration = Duration::from_secs(1);

/// What is known of the store. None: it is not read yet.
type Counts = Option<Counted>;

#[derive(Debug)]
struct Counted {
    /// How many jobs of which queue there are.
    queues: HashMap<String, u64>,
    /// Those with lower ids in the store are of an earlier run, which may have had Redis enqueue them.
    since: JobId,
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
        let config = Config { max_job_bytes: ByteSize(super::largest(config)), ..config.clone() };
        let asked = (asks.downgrade(), asked);
        let keeper = Keeper::new(folder, config, known.clone(), metrics.clone(), asked);
        let stop = tasks.stop_signal();
        tasks.thread("the buffer", move |_| async move { keeper.run(&stop).await })?;
        let disk = Disk { asks, known };
        let (delivery, refused, given_up) = Default::default();
        Ok(Self { disk, counts: Arc::default(), delivery, refused, given_up })
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
        counts.as_ref().is_some_and(|counts| drafts.iter().any(|draft| counts.queues.contains_key(&draft.job.queue)))
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
            let since = change.book.next_job();
            Ok((change.overviews("", usize::MAX, |_| true)?, since))
        };
        let count = |counts: &mut Counts, (found, since): &(Vec<Overview>, JobId)| {
            let found = found.iter().filter(|it| it.waiting > 0).map(|it| (it.name.clone(), it.waiting));
            *counts = Some(Counted { queues: found.collect(), since: *since });
        };
        self.ask(What::Work, Place::default(), look, count).await.map(drop)
    }

    /// The queues of which there are some, with how many wait and since when.
    pub(super) async fn overviews(&self, place: Place) -> Result<Vec<Overview>, Refused> {
        let all = |change: &mut Change<'_, '_>| change.overviews("", usize::MAX, |_| true);
        let mut all = self.ask(What::Work, place, all, |_, _| {}).await?;
        all.retain(|it| it.waiting > 0);
        Ok(all)
    }

    /// The first jobs of a queue, by their ids in the store. What is no job is set aside: it is dead there.
    pub(super) async fn first(&self, queue: String) -> Result<Vec<(JobId, Draft)>, Refused> {
        let name = queue.clone();
        self.ask(
            What::Work,
            Place::default(),
            move |change| first(change, &name),
            move |counts, found| {
                if let Some(counts) = counts.as_mut().filter(|_| found.is_empty()) {
                    counts.queues.remove(&queue);
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
        let forget = move |change: &mut Change<'_, '_>| -> Outcome<()> {
            for id in ids {
                if let Some(head) = change.head(id)? {
                    change.remove(id, &head)?;
                }
            }
            Ok(())
        };
        self.ask(What::Work, Place::default(), forget, move |counts, ()| {
            if let Some(left) = counts.as_mut().and_then(|counts| counts.queues.get_mut(&queue)) {
                // The last one is known to be that when none is found after it.
                *left = left.saturating_sub(count).max(1);
            }
        })
        .await
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

fn first(change: &mut Change<'_, '_>, queue: &str) -> Outcome<Vec<(JobId, Draft)>> {
    let Some(number) = change.book.named(queue).map(|it| it.counts.number) else { return Ok(Vec::new()) };
    let order = Order::Waiting.of(number);
    let (mut at, mut found, mut bytes) = (order.clone(), Vec::new(), 0);
    while found.len() < BATCH && bytes < BATCH_BYTES {
        let Some(place) = change.txn.first(&order, &at)? else { break };
        at = keys::after(&place);
        match sound(standing_at(change, &place))?.flatten() {
            Some((id, name, kept)) => match Draft::read(queue, name, &kept) {
                Some(draft) => {
                    bytes += kept.len();
                    found.push((id, draft));
                }
                None => {
                    tracing::error!(queue, id, "what is in the buffer is no job: it is set aside there");
                    if let Some(head) = change.head(id)? {
                        change.bury(id, &head, "it is no job of a buffer")?;
                    }
                }
            },
            None => change.pass_over(&place, number, Order::Waiting)?,
        }
    }
    Ok(found)
}

fn find(change: &mut Change<'_, '_>, id: JobId) -> Outcome<Option<(JobId, Draft)>> {
    let queues = change.book.queues.iter().map(|(number, queue)| (*number, queue.name.clone()));
    for (number, queue) in queues.collect::<Vec<_>>() {
        if let Some(at) = change.holder_of(number, &key_of(id))? {
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

fn standing_at(change: &Change<'_, '_>, place: &[u8]) -> Result<Option<(JobId, String, Vec<u8>)>, EngineError> {
    let Some((id, _)) = change.standing_at(place)? else { return Ok(None) };
    let (name, kept) = change.content(id)?;
    Ok(Some((id, name, kept)))
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
        Some(Self { id, job, args: args.get().to_owned(), extras, enqueued_at: Some(enqueued_at) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
