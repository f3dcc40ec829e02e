//! The book: what is known of the queues in memory, which does not grow with the jobs that wait.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::change::Now;
use super::delay::Delays;
use super::engine::{EngineError, Txn, sound};
use super::job::{Head, JobId, NewJob, Progress, State};
use super::keys::{self, QueueNumber};
use super::order::Order;
use super::turns::Turns;

/// Of the file's format. A version that writes more of a value raises it: earlier ones would take that for damaged, and
/// delete the job.
pub(super) const FORMAT: u32 = 3;
const OLDEST_FORMAT: u32 = 1;

#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) meta: Meta,
    pub(super) queues: HashMap<QueueNumber, Queue>,
    pub(super) names: BTreeMap<String, QueueNumber>,
    pub(super) users: HashMap<Option<u32>, Usage>,
    /// All of them together.
    pub(super) total: Usage,
    pub(super) leases: Leases,
    pub(super) delays: Delays,
    /// How far jobs are that run. It is not written: a restart forgets it.
    pub(super) progress: HashMap<JobId, Progress>,
    /// Whose turn it is to have a job taken. It is not written either.
    pub(super) turns: Turns,
    /// Of which queues little was known when it was opened, in words.
    pub(super) damage: Option<String>,
    /// Whether the file still says that there was a gap in the log.
    has_gap: bool,
    /// What is to be written yet.
    changed_queues: BTreeSet<QueueNumber>,
    /// Queues of which jobs came or went since it was last looked who may have some.
    stirred: HashSet<QueueNumber>,
    changed_users: BTreeSet<Option<u32>>,
    is_meta_changed: bool,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Meta {
    format: u32,
    next_job: JobId,
    next_queue: QueueNumber,
    /// Whether jobs have vanished whose user and size nobody knew: the next start counts again.
    #[serde(default)]
    is_inexact: bool,
}

/// A queue, and how many jobs of it are in which state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) number: QueueNumber,
    /// Who enqueued its first job; none: somebody over TCP.
    pub(super) creator: Option<u32>,
    pub(super) is_paused: bool,
    pub(super) waiting: u64,
    pub(super) delayed: u64,
    pub(super) running: u64,
    pub(super) dead: u64,
    pub(super) bytes: u64,
    /// When it may have as many jobs begin at once as its rate says, by the clock on the wall.
    #[serde(default)]
    pub(super) rate_full_at: u64,
    /// That are kept for their results.
    #[serde(default)]
    pub(super) done: u64,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) name: String,
    pub(super) counts: Counts,
    /// No delayed job of it is due before, no dead one was dead before, and none that is done is kept until before.
    pub(super) first_delayed: u64,
    pub(super) first_dead: u64,
    pub(super) first_done: u64,
    pub(super) enqueued: Recent,
    pub(super) done: Recent,
    /// When it may have as many jobs begin at once as its rate says; and so of each key. In µs by the clock of leases.
    pub(super) full_at: u64,
    pub(super) full_at_of: HashMap<Arc<str>, u64>,
    /// No job of it may begin before that time by the clock of leases, unless something changes in it.
    pub(super) held_until: Option<u64>,
    /// Nor is it looked before that time whether one may, whatever changes.
    pub(super) rests_until: u64,
    /// How many the last look passed over for their keys, and when the first of these may begin.
    pub(super) passed: u64,
    pub(super) passed_until: u64,
}

/// How often something happened in the last minute, by the clock of leases.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recent {
    counts: [u32; PARTS],
    /// The part of time that the last count is of.
    last: u64,
}

/// A minute has so many parts, each of which is so long, in ms.
const PARTS: usize = 30;
const PART: u64 = 60_000 / PARTS as u64;

/// How much there is of a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Usage {
    pub(super) jobs: u64,
    pub(super) bytes: u64,
}

/// Which jobs run, and until when, by the clock of leases.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_end: BTreeSet<Lease>,
    by_job: HashMap<JobId, Lease>,
    by_taker: HashMap<Option<i64>, usize>,
    by_key: HashMap<(QueueNumber, Arc<str>), usize>,
    /// Those that were granted, and that were taken away, since what is done was last known to be on the disk.
    granted: BTreeSet<JobId>,
    removed: Vec<Lease>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lease {
    pub(super) end: u64,
    pub(super) id: JobId,
    pub(super) queue: QueueNumber,
    pub(super) taker: Option<i64>,
    pub(super) key: Option<Arc<str>>,
}

impl Book {
    /// What the file says. The time numbers the next job, so that no number is used again though the last ones are lost.
    /// What is damaged is found out again from the jobs themselves. Leases end as `ends` tells; those of another process go by
    /// the clock on the wall.
    pub(super) fn load(txn: &Txn<'_>, now: Now, ends: &HashMap<JobId, u64>) -> Result<Self, EngineError> {
        let next_job = now.wall * 1_000;
        let fresh = Meta { format: FORMAT, next_job, next_queue: 1, is_inexact: false };
        let read_meta = || txn.get(keys::META)?.map_or(Ok(fresh), |meta| read::<Meta>(&meta));
        let meta = sound(read_meta())?;
        let mut book = Self { meta: meta.unwrap_or(fresh), is_meta_changed: true, ..Self::default() };
        if !(OLDEST_FORMAT..=FORMAT).contains(&book.meta.format) {
            return Err(EngineError::Format(book.meta.format));
        }
        book.meta.format = FORMAT;
        book.meta.next_job = book.meta.next_job.max(next_job);
        let (mut is_exact, mut unnumbered) = (meta.is_some_and(|meta| !meta.is_inexact), Vec::new());
        for key in txn.keys(keys::QUEUES) {
            let key = key?;
            let name = String::from_utf8_lossy(&key[keys::QUEUES.len()..]).into_owned();
            match value_of::<Counts>(txn, &key)? {
                Some(counts) => {
                    let full_at = now.uptime + counts.rate_full_at.saturating_sub(now.wall);
                    book.insert_queue(name, counts, full_at.saturating_mul(1_000));
                }
                None => unnumbered.push(name),
            }
        }
        for key in txn.keys(keys::USERS) {
            let key = key?;
            let user = u32::try_from(key.last_chunk().copied().map_or(-1, i64::from_be_bytes)).ok();
            let usage = value_of::<Usage>(txn, &key)?;
            is_exact &= usage.is_some();
            book.users.insert(user, usage.unwrap_or_default());
        }
        book.has_gap = txn.has_gap()?;
        if !is_exact || !unnumbered.is_empty() || book.has_gap || book.lacks_a_queue(txn)? {
            book.count_again(txn, unnumbered)?;
        }
        if book.has_gap {
            let lost = "some of what was written last was damaged: jobs may be lost, or performed again";
            tracing::error!(lost, "the log of the queues is damaged");
            book.damage =
                Some([Some(lost.to_owned()), book.damage].into_iter().flatten().collect::<Vec<_>>().join("; "));
        }
        book.users.values().for_each(|usage| book.total.add(*usage));
        for place in txn.keys(keys::RUNNING) {
            let place = place?;
            let (Some(id), Some(queue)) = (keys::id_in(&place), keys::queue_in(&place)) else { continue };
            let head = value_of::<Head>(txn, &keys::job(id))?;
            let left = head.as_ref().map_or(0, |head| match head.state {
                // The clock on the wall may have been set back meanwhile.
                State::Running { until } => until.saturating_sub(now.wall).min(head.granted_ms()),
                _ => 0,
            });
            let end = ends.get(&id).copied().unwrap_or(now.uptime + left);
            let (taker, key) = head.map_or((None, None), |head| (head.taker, head.limit_key));
            book.leases.insert(Lease { end, id, queue, taker, key: key.map(Arc::from) });
        }
        Ok(book)
    }

    /// Whether there are jobs of a queue that is not there.
    fn lacks_a_queue(&self, txn: &Txn<'_>) -> Result<bool, EngineError> {
        for order in Order::ALL {
            let mut from = order.of_all().to_vec();
            while let Some(place) = txn.first(order.of_all(), &from)? {
                let Some(number) = keys::queue_in(&place) else {
                    from = keys::after(&place);
                    continue;
                };
                if !self.queues.contains_key(&number) {
                    return Ok(true);
                }
                let Some(next) = number.checked_add(1) else { break };
                from = order.of(next);
            }
        }
        Ok(false)
    }

    /// Counts all jobs by their places, and what they are charged by their heads. A queue whose number was lost has that
    /// which is left over, if only one is; else its jobs are found in one of another name.
    fn count_again(&mut self, txn: &Txn<'_>, mut unnumbered: Vec<String>) -> Result<(), EngineError> {
        let mut counted = BTreeMap::<QueueNumber, Counts>::new();
        for order in Order::ALL {
            for place in txn.keys(order.of_all()) {
                let Some(number) = keys::queue_in(&place?) else { continue };
                *order.count_in(counted.entry(number).or_default()) += 1;
            }
        }
        self.users.values_mut().for_each(|usage| *usage = Usage::default());
        self.changed_users.extend(self.users.keys());
        for key in txn.keys(keys::JOBS) {
            let key = key?;
            let Some(id) = keys::id_in(&key) else { continue };
            self.meta.next_job = self.meta.next_job.max(id + 1);
            let Some(head) = value_of::<Head>(txn, &key)? else { continue };
            counted.entry(head.queue).or_default().bytes += head.bytes;
            self.users.entry(head.user).or_default().add(Usage { jobs: 1, bytes: head.bytes });
            self.changed_users.insert(head.user);
        }
        for (number, queue) in &mut self.queues {
            let Counts { creator, is_paused, rate_full_at, .. } = queue.counts;
            let counts = counted.remove(number).unwrap_or_default();
            queue.counts = Counts { number: *number, creator, is_paused, rate_full_at, ..counts };
        }
        let last = self.queues.keys().chain(counted.keys()).max().copied().unwrap_or(0);
        self.meta.next_queue = self.meta.next_queue.max(last + 1);
        self.meta.is_inexact = false;
        let (is_sure, mut damaged) = (counted.len() == 1 && unnumbered.len() == 1, Vec::new());
        for (number, counts) in counted {
            let name = if is_sure { unnumbered.remove(0) } else { format!("recovered-{number}") };
            damaged.push(format!("{name:?}"));
            self.insert_queue(name, Counts { number, ..counts }, 0);
        }
        unnumbered.iter().for_each(|name| _ = self.add_queue(name, None));
        self.changed_queues.extend(self.queues.keys());
        tracing::warn!(damaged = damaged.join(", "), "the jobs of the queues were counted again");
        self.damage = (!damaged.is_empty()).then(|| {
            let count = damaged.len();
            // Not which, as everybody who lists queues is told: their names are in the log.
            format!("what it said of {count} of the queues was damaged: their jobs are there, and they are not paused")
        });
        Ok(())
    }

    fn insert_queue(&mut self, name: String, counts: Counts, full_at: u64) {
        self.names.insert(name.clone(), counts.number);
        self.stirred.insert(counts.number);
        // They are looked for at the first look.
        self.queues.insert(counts.number, Queue { name, counts, full_at, ..Queue::default() });
    }

    /// Has the next start count again.
    pub(super) fn be_inexact(&mut self) {
        (self.meta.is_inexact, self.is_meta_changed) = (true, true);
    }

    /// Writes what has changed.
    pub(super) fn save(&mut self, txn: &mut Txn<'_>) -> Result<(), EngineError> {
        for number in std::mem::take(&mut self.changed_queues) {
            if let Some(queue) = self.queues.get(&number) {
                txn.put(&keys::queue(&queue.name), &written(&queue.counts))?;
            }
        }
        for user in std::mem::take(&mut self.changed_users) {
            match self.users.get(&user).copied().unwrap_or_default() {
                Usage { jobs: 0, .. } => {
                    self.users.remove(&user);
                    txn.delete(&keys::user(user))?;
                }
                usage => txn.put(&keys::user(user), &written(&usage))?,
            }
        }
        if std::mem::take(&mut self.is_meta_changed) {
            txn.put(keys::META, &written(&self.meta))?;
        }
        if std::mem::take(&mut self.has_gap) {
            txn.delete(keys::GAP)?;
        }
        Ok(())
    }

    pub(super) fn has_changed(&self) -> bool {
        self.is_meta_changed || !self.changed_queues.is_empty() || !self.changed_users.is_empty()
    }

    /// Has what else was put into the file be written.
    pub(super) fn be_written(&mut self) {
        self.is_meta_changed = true;
    }

    pub(super) fn next_job(&mut self) -> JobId {
        self.is_meta_changed = true;
        self.meta.next_job += 1;
        self.meta.next_job - 1
    }

    /// A queue by its name.
    pub(super) fn named(&self, name: &str) -> Option<&Queue> {
        self.queues.get(self.names.get(name)?)
    }

    pub(super) fn add_queue(&mut self, name: &str, creator: Option<u32>) -> QueueNumber {
        let number = self.meta.next_queue;
        self.meta.next_queue += 1;
        self.is_meta_changed = true;
        self.changed_queues.insert(number);
        self.names.insert(name.to_owned(), number);
        let (first_delayed, first_dead, first_done) = (u64::MAX, u64::MAX, u64::MAX);
        let counts = Counts { number, creator, ..Counts::default() };
        self.queues.insert(
            number,
            Queue { name: name.to_owned(), counts, first_delayed, first_dead, first_done, ..Queue::default() },
        );
        number
    }

    /// Forgets a queue in which there is nothing and will be none of these, to make room for another one. Whether there was
    /// one.
    pub(super) fn forget_one(&mut self, txn: &mut Txn<'_>, wanted: &[NewJob]) -> Result<bool, EngineError> {
        let is_wanted = |queue: &Queue| wanted.iter().any(|job| job.queue == queue.name);
        let idle = self.queues.values().find(|queue| queue.counts.is_idle() && !is_wanted(queue));
        let Some((number, name)) = idle.map(|queue| (queue.counts.number, queue.name.clone())) else {
            return Ok(false);
        };
        txn.delete(&keys::queue(&name))?;
        self.names.remove(&name);
        self.queues.remove(&number);
        self.changed_queues.remove(&number);
        self.turns.forget(number);
        Ok(true)
    }

    /// A queue that is about to change.
    pub(super) fn queue(&mut self, number: QueueNumber) -> Result<&mut Queue, EngineError> {
        self.changed_queues.insert(number);
        self.queues.get_mut(&number).ok_or(EngineError::Damaged)
    }

    /// A queue of which a job comes or goes, so that another one may begin.
    pub(super) fn stir(&mut self, number: QueueNumber) -> Result<&mut Queue, EngineError> {
        self.stirred.insert(number);
        let queue = self.queue(number)?;
        queue.held_until = None;
        Ok(queue)
    }

    /// The queues of which jobs may be handed out, and could not when this was last asked.
    pub(super) fn opened(&mut self, uptime: u64) -> HashSet<String> {
        for queue in self.queues.values_mut().filter(|queue| queue.held_until.is_some_and(|until| until <= uptime)) {
            queue.held_until = None;
            self.stirred.insert(queue.counts.number);
        }
        let stirred = std::mem::take(&mut self.stirred).into_iter().filter_map(|number| self.queues.get(&number));
        stirred.filter(|queue| queue.is_open(uptime)).map(|queue| queue.name.clone()).collect()
    }

    /// How many queues rest after a look for jobs that may begin.
    pub(super) fn resting(&self, uptime: u64) -> usize {
        self.queues.values().filter(|queue| queue.rests_until > uptime).count()
    }

    pub(super) fn charge(&mut self, user: Option<u32>, bytes: u64) {
        self.changed_users.insert(user);
        let usage = Usage { jobs: 1, bytes };
        self.users.entry(user).or_default().add(usage);
        self.total.add(usage);
    }

    pub(super) fn give_back(&mut self, user: Option<u32>, bytes: u64) {
        self.changed_users.insert(user);
        for usage in [self.users.entry(user).or_default(), &mut self.total] {
            usage.jobs = usage.jobs.saturating_sub(1);
            usage.bytes = usage.bytes.saturating_sub(bytes);
        }
    }
}

impl Queue {
    /// Whether jobs of it may be handed out.
    pub(super) fn is_open(&self, uptime: u64) -> bool {
        !self.counts.is_paused && self.counts.waiting > 0 && self.held_until.is_none_or(|until| until <= uptime)
    }
}

impl Recent {
    pub(super) fn add(&mut self, uptime: u64) {
        self.add_many(1, uptime);
    }

    pub(super) fn add_many(&mut self, many: u32, uptime: u64) {
        self.pass_to(uptime / PART);
        let count = &mut self.counts[(self.last % PARTS as u64) as usize];
        *count = count.saturating_add(many);
    }

    pub(super) fn count(mut self, uptime: u64) -> u64 {
        self.pass_to(uptime / PART);
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    fn pass_to(&mut self, part: u64) {
        for passed in (self.last + 1..=part).take(PARTS) {
            self.counts[(passed % PARTS as u64) as usize] = 0;
        }
        self.last = self.last.max(part);
    }
}

impl Counts {
    pub(super) fn is_idle(&self) -> bool {
        !self.is_paused && self.waiting + self.delayed + self.running + self.dead + self.done == 0
    }
}

impl Usage {
    pub(super) fn add(&mut self, other: Self) {
        self.jobs += other.jobs;
        self.bytes += other.bytes;
    }
}

impl Leases {
    /// The lease begins when what is done is on the disk.
    pub(super) fn grant(&mut self, lease: Lease) {
        self.granted.insert(lease.id);
        self.insert(lease);
    }

    /// What was done is on the disk, this much later than the leases had been granted.
    pub(super) fn settle(&mut self, later: u64) {
        for id in std::mem::take(&mut self.granted) {
            if let Some(lease) = self.by_job.get(&id).cloned() {
                self.insert(Lease { end: lease.end + later, ..lease });
            }
        }
        self.removed.clear();
    }

    /// When they end, where nobody knows whether what was done since is on the disk.
    pub(super) fn ends(&self) -> HashMap<JobId, u64> {
        let mut ends = HashMap::new();
        for lease in self.by_end.iter().chain(&self.removed) {
            let end = ends.entry(lease.id).or_insert(lease.end);
            *end = lease.end.max(*end);
        }
        ends
    }

    fn insert(&mut self, lease: Lease) {
        self.remove(lease.id);
        *self.by_taker.entry(lease.taker).or_default() += 1;
        if let Some(key) = &lease.key {
            *self.by_key.entry((lease.queue, key.clone())).or_default() += 1;
        }
        self.by_end.insert(lease.clone());
        self.by_job.insert(lease.id, lease);
    }

    pub(super) fn remove(&mut self, id: JobId) {
        if let Some(lease) = self.by_job.remove(&id) {
            self.by_end.remove(&lease);
            uncount(&mut self.by_taker, lease.taker);
            if let Some(key) = &lease.key {
                uncount(&mut self.by_key, (lease.queue, key.clone()));
            }
            self.removed.push(lease);
        }
    }

    /// How many jobs of a queue run that have this key.
    pub(super) fn running_of(&self, queue: QueueNumber, key: &str) -> usize {
        self.by_key.get(&(queue, Arc::from(key))).copied().unwrap_or(0)
    }

    /// The one that ends first.
    pub(super) fn first(&self) -> Option<Lease> {
        self.by_end.first().cloned()
    }

    pub(super) fn end_of(&self, id: JobId) -> Option<u64> {
        self.by_job.get(&id).map(|lease| lease.end)
    }

    /// Whether one more of `most` may be this one's: it may have as many as it leaves free.
    pub(super) fn have_room(&self, taker: Option<i64>, most: usize) -> bool {
        self.by_taker.get(&taker).copied().unwrap_or(0) < most.saturating_sub(self.by_end.len())
    }
}

fn uncount<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

/// A value that is there. None: it is damaged, or is not there.
fn value_of<T: DeserializeOwned>(txn: &Txn<'_>, key: &[u8]) -> Result<Option<T>, EngineError> {
    Ok(sound(txn.get(key).and_then(|value| value.map(|value| read(&value)).transpose()))?.flatten())
}

/// What most values take, so that they do not grow while they are written.
const FEW_BYTES: usize = 128;

pub(super) fn written(value: &impl Serialize) -> Vec<u8> {
    let mut written = Vec::with_capacity(FEW_BYTES);
    rmp_serde::encode::write(&mut written, value).expect("a value of ours has nothing that MessagePack cannot");
    written
}

pub(super) fn read<T: DeserializeOwned>(value: &[u8]) -> Result<T, EngineError> {
    rmp_serde::from_slice(value).map_err(|_| EngineError::Damaged)
}
