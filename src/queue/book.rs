//! The book: what is known of the queues in memory, which does not grow with the jobs that wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::engine::{EngineError, Txn};
use super::job::{Head, JobId, NewJob, State};
use super::keys::{self, QueueNumber};

/// Of the file's format.
const FORMAT: u32 = 1;

#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) meta: Meta,
    pub(super) queues: HashMap<QueueNumber, Queue>,
    pub(super) names: BTreeMap<String, QueueNumber>,
    pub(super) users: HashMap<Option<u32>, Usage>,
    /// All of them together.
    pub(super) total: Usage,
    pub(super) leases: Leases,
    /// What is to be written yet.
    changed_queues: BTreeSet<QueueNumber>,
    changed_users: BTreeSet<Option<u32>>,
    is_meta_changed: bool,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Meta {
    format: u32,
    next_job: JobId,
    next_queue: QueueNumber,
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
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) name: String,
    pub(super) counts: Counts,
    /// No delayed job of it is due before, and no dead one was dead before.
    pub(super) first_delayed: u64,
    pub(super) first_dead: u64,
}

/// How much there is of a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Usage {
    pub(super) jobs: u64,
    pub(super) bytes: u64,
}

/// Which jobs run, and until when.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_end: BTreeSet<(u64, JobId)>,
    by_job: HashMap<JobId, u64>,
}

impl Book {
    /// What the file says. `now` numbers the first job of a new one, so that no number is used again.
    pub(super) fn load(txn: &Txn<'_>, now: u64) -> Result<Self, EngineError> {
        let meta = match txn.get(keys::META)? {
            Some(meta) => read(&meta)?,
            None => Meta { format: FORMAT, next_job: now * 1_000, next_queue: 1 },
        };
        let mut book = Self { meta, is_meta_changed: true, ..Self::default() };
        if meta.format != FORMAT {
            return Err(EngineError::Format(meta.format));
        }
        for (key, value) in txn.all(keys::QUEUES)? {
            let name = String::from_utf8_lossy(&key[keys::QUEUES.len()..]).into_owned();
            let counts: Counts = read(&value)?;
            book.names.insert(name.clone(), counts.number);
            // They are looked for at the first look.
            book.queues.insert(counts.number, Queue { name, counts, first_delayed: 0, first_dead: 0 });
        }
        for (key, value) in txn.all(keys::USERS)? {
            let number = key.last_chunk().copied().map_or(-1, i64::from_be_bytes);
            let usage: Usage = read(&value)?;
            book.total.add(usage);
            book.users.insert(u32::try_from(number).ok(), usage);
        }
        for (key, _) in txn.all(keys::ALL_RUNNING)? {
            let id = keys::id_in(&key).ok_or(EngineError::Damaged)?;
            // One that is damaged stays where it is.
            let head = txn.get(&keys::job(id)).ok().flatten().and_then(|head| read::<Head>(&head).ok());
            let Some(head) = head else { continue };
            if let State::Running { until } = head.state {
                // The clock on the wall may have been set back meanwhile.
                book.leases.insert(id, until.min(now + head.timeout_ms));
            }
        }
        Ok(book)
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
        Ok(())
    }

    pub(super) fn has_changed(&self) -> bool {
        self.is_meta_changed || !self.changed_queues.is_empty() || !self.changed_users.is_empty()
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
        let (first_delayed, first_dead) = (u64::MAX, u64::MAX);
        let counts = Counts { number, creator, ..Counts::default() };
        self.queues.insert(number, Queue { name: name.to_owned(), counts, first_delayed, first_dead });
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
        Ok(true)
    }

    /// A queue that is about to change.
    pub(super) fn queue(&mut self, number: QueueNumber) -> Result<&mut Queue, EngineError> {
        self.changed_queues.insert(number);
        self.queues.get_mut(&number).ok_or(EngineError::Damaged)
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
    /// Whether jobs of it can be handed out.
    pub(super) fn is_open(&self) -> bool {
        !self.counts.is_paused && self.counts.waiting > 0
    }
}

impl Counts {
    pub(super) fn is_idle(&self) -> bool {
        !self.is_paused && self.waiting + self.delayed + self.running + self.dead == 0
    }
}

impl Usage {
    pub(super) fn add(&mut self, other: Self) {
        self.jobs += other.jobs;
        self.bytes += other.bytes;
    }
}

impl Leases {
    pub(super) fn insert(&mut self, id: JobId, until: u64) {
        self.remove(id);
        self.by_end.insert((until, id));
        self.by_job.insert(id, until);
    }

    pub(super) fn remove(&mut self, id: JobId) {
        if let Some(until) = self.by_job.remove(&id) {
            self.by_end.remove(&(until, id));
        }
    }

    /// The one that ends first, and when.
    pub(super) fn first(&self) -> Option<(u64, JobId)> {
        self.by_end.first().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.by_end.len()
    }
}

pub(super) fn written(value: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec(value).expect("a value of ours has nothing that MessagePack cannot")
}

pub(super) fn read<T: DeserializeOwned>(value: &[u8]) -> Result<T, EngineError> {
    rmp_serde::from_slice(value).map_err(|_| EngineError::Damaged)
}
