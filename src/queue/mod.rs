//! Queues: jobs that outlast whoever enqueues them, kept until they are done: in a file of this sidecar's own, or in Redis
//! (`redis`).
//!
//! One thread has the file. Whatever is asked of it while it waits for the disk is the next transaction, so that many
//! producers share one: what is acknowledged is on the disk, or, where syncs are batched, with the kernel. In memory are
//! counts, leases and who waits for jobs, and nothing that grows with the jobs that wait.

mod attempt;
mod book;
mod change;
mod check;
mod config;
mod control;
mod due;
mod engine;
mod enqueue;
mod handed;
mod job;
mod keeper;
mod keys;
mod log;
mod look;
mod order;
mod recurring;
mod redis;
#[cfg(test)]
mod tests;
mod turns;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

pub use self::attempt::{Most, Update};
pub use self::change::Refused;
use self::change::{Change, Outcome};
pub use self::config::{Config, Durability, Missed, Recurring};
pub use self::control::Control;
pub use self::enqueue::Asker;
pub use self::handed::Handed;
pub use self::job::{Enqueued, Job, JobId, MAX_AT_ONCE, NewJob, Progress, State, Unique, Until};
use self::keeper::{Ask, Keeper, SLOW, Taker, What, Work, sound_or_refused};
pub use self::look::{Overview, Page};
pub use self::order::Order;
use self::recurring::Recurrences;
pub use self::recurring::{Expression, Recurs, Zone};
use self::redis::Redis;
pub use self::redis::Server;
pub use self::turns::{MAX_WEIGHT, Sources};
use crate::metrics::Metrics;
use crate::share::{KEPT_FOR_ADMINS, Pool, Shares, Taken};
use crate::task::{Phase, Tasks};

/// How much may wait for the thread, shared between users; and what each request counts for at least.
const MAX_ASKED: usize = 64 << 20;
const ASK_SIZE: usize = 16 << 10;

/// What a page of jobs or queues counts for: the thread looks for each that is in it.
const PAGE_SIZE: usize = 512 << 10;

/// The queues, as others see them.
#[derive(Debug, Default)]
pub struct Queues {
    /// None: there are none.
    desk: Option<Desk>,
    known: Arc<Known>,
}

/// Who is asked, and how much.
#[derive(Debug)]
struct Desk {
    backend: Backend,
    users: Shares<Option<u32>>,
    admins: Shares<Option<u32>>,
}

#[derive(Debug)]
enum Backend {
    /// A thread that has the file.
    Keeper(mpsc::UnboundedSender<Ask>),
    Redis(Arc<Redis>),
}

/// What a request takes of its user's share, until it is carried out. None: the sidecar asks.
type Place = Arc<Option<Taken>>;

/// What the thread tells.
#[derive(Debug, Default)]
struct Known {
    /// Why nothing can be written now,
    trouble: ArcSwapOption<String>,
    /// and what was damaged at the start.
    damage: ArcSwapOption<String>,
    /// Since when a transaction has been under way.
    writing_since: ArcSwapOption<Instant>,
    totals: ArcSwap<Totals>,
    recurring: ArcSwap<Vec<Recurs>>,
    /// How many transactions there have been.
    #[cfg(test)]
    transactions: std::sync::atomic::AtomicUsize,
    /// How many syncs of what was acknowledged before.
    #[cfg(test)]
    syncs: std::sync::atomic::AtomicUsize,
}

/// How many jobs there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub queues: u64,
    pub waiting: u64,
    pub delayed: u64,
    pub running: u64,
    pub dead: u64,
    pub bytes: u64,
}

impl Totals {
    /// Each of them by the word of `status`.
    pub fn named(self) -> [(&'static str, u64); 6] {
        [
            ("queues", self.queues),
            ("jobsWaiting", self.waiting),
            ("jobsDelayed", self.delayed),
            ("jobsRunning", self.running),
            ("jobsDead", self.dead),
            ("jobBytes", self.bytes),
        ]
    }
}

impl Queues {
    /// Opens the file, which may take a moment, on a thread of its own; requests wait for it.
    pub fn start(config: &Config, metrics: &Arc<Metrics>, tasks: &Tasks) -> io::Result<Arc<Self>> {
        let (known, tasks) = (Arc::<Known>::default(), tasks.of(Phase::Sources));
        let backend = match (config.backend.clone(), config.path.clone()) {
            (Some(server), _) => Backend::Redis(Redis::start(server, config, known.clone(), metrics, &tasks)?),
            (None, Some(folder)) => {
                let (asks, asked) = mpsc::unbounded_channel();
                let stop = tasks.stop_signal();
                let asked = (asks.downgrade(), asked);
                let keeper = Keeper::new(folder, config.clone(), known.clone(), metrics.clone(), asked);
                tasks.thread("the queue", move |_| async move { keeper.run(&stop).await })?;
                Backend::Keeper(asks)
            }
            (None, None) => return Ok(Arc::default()),
        };
        let pool = Pool::new(MAX_ASKED, 1);
        let (users, admins) = (Shares::of(pool.clone(), Some(KEPT_FOR_ADMINS)), Shares::of(pool, None));
        Ok(Arc::new(Self { desk: Some(Desk { backend, users, admins }), known }))
    }

    pub fn is_on(&self) -> bool {
        self.desk.is_some()
    }

    /// What is wrong with the file or its disk, or was at the start.
    pub fn trouble(&self) -> Option<Arc<String>> {
        let writing_for = self.known.writing_since.load_full().map(|since| since.elapsed());
        let slow = writing_for
            .filter(|time| *time >= SLOW)
            .map(|time| Arc::new(format!("the disk has not finished a write of the queues for {} s", time.as_secs())));
        slow.or_else(|| self.known.trouble.load_full())
            .or_else(|| self.known.damage.load_full())
            .or_else(|| self.redis()?.trouble())
    }

    pub fn totals(&self) -> Totals {
        **self.known.totals.load()
    }

    /// All of the jobs are on the disk when this returns, or none is. Who no longer waits when it is their turn has
    /// enqueued none.
    pub async fn enqueue(&self, asker: Asker, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>, Refused> {
        let size = jobs.iter().map(NewJob::memory_size).sum();
        if let Some(redis) = self.redis() {
            return redis.enqueue(self.place(Some(asker), size)?, jobs, asker).await;
        }
        let (reply, told) = oneshot::channel();
        let growth = What::Growth(Box::new(move |change| {
            if reply.is_closed() {
                return Ok(Box::new(|| {}));
            }
            let outcome = sound_or_refused(change.enqueue(&jobs, asker))?;
            Ok(Box::new(move || _ = reply.send(outcome)))
        }));
        self.send(Some(asker), size, growth)?;
        told.await.unwrap_or_else(|_| Err(self.unavailable()))
    }

    /// Takes jobs of these queues, by their weights or of an earlier one before those of a later one; waits for the first
    /// one, at most that long. The caller has each for as long as its lease, and nobody else does; unless it drops what
    /// tells that they have arrived.
    pub async fn take(
        &self,
        asker: Option<Asker>,
        sources: impl Into<Sources>,
        most: Most,
        lease: Option<Duration>,
        wait: Duration,
    ) -> Result<(Vec<Job>, Handed), Refused> {
        let sources = sources.into();
        if let Some(redis) = self.redis() {
            let (queues, most) = sources.by_chance(most);
            let taken = redis.take(self.place(asker, ASK_SIZE)?, queues, most, lease, !wait.is_zero());
            return match wait {
                Duration::ZERO => taken.await,
                wait => timeout(wait, taken).await.unwrap_or_else(|_| Ok(Default::default())),
            };
        }
        let (reply, taken) = oneshot::channel();
        let taker = Taker { asker, sources, most, lease, is_patient: !wait.is_zero(), reply };
        self.send(asker, ASK_SIZE, What::Take(taker))?;
        let answer = async { taken.await.unwrap_or_else(|_| Err(self.unavailable())) };
        match wait {
            Duration::ZERO => answer.await,
            wait => timeout(wait, answer).await.unwrap_or_else(|_| Ok(Default::default())),
        }
    }

    /// Says what became of an attempt, which names the lease. Returns until when the lease lasts, if it does. A job is
    /// unknown whose queue and user `is_allowed` refuses; so for those below.
    pub async fn update(
        &self,
        asker: Option<Asker>,
        (id, attempt): (JobId, u32),
        update: Update,
        is_allowed: impl FnOnce(&str, Option<u32>) -> bool + Send + 'static,
    ) -> Result<Option<u64>, Refused> {
        if let Some(redis) = self.redis() {
            let place = self.place(asker, ASK_SIZE + update.memory_size())?;
            return redis.update(place, (id, attempt), update, is_allowed).await;
        }
        self.ask(asker, ASK_SIZE + update.memory_size(), move |change| {
            change.ensure(id, is_allowed)?;
            change.update(id, attempt, &update)
        })
        .await
    }

    pub async fn find(
        &self,
        asker: Asker,
        id: JobId,
        is_allowed: impl FnOnce(&str, Option<u32>) -> bool + Send + 'static,
    ) -> Result<Job, Refused> {
        if let Some(redis) = self.redis() {
            return redis.find(self.place(Some(asker), ASK_SIZE)?, id, is_allowed).await;
        }
        self.ask(Some(asker), ASK_SIZE, move |change| {
            change.ensure(id, is_allowed)?;
            change.find(id)
        })
        .await
    }

    /// Removes a job that nobody performs.
    pub async fn cancel(
        &self,
        asker: Asker,
        id: JobId,
        is_allowed: impl FnOnce(&str, Option<u32>) -> bool + Send + 'static,
    ) -> Result<(), Refused> {
        if let Some(redis) = self.redis() {
            return redis.cancel(self.place(Some(asker), ASK_SIZE)?, id, is_allowed).await;
        }
        self.ask(Some(asker), ASK_SIZE, move |change| {
            change.ensure(id, is_allowed)?;
            change.cancel(id)
        })
        .await
    }

    /// Has a dead job of a queue wait again, as if it were new.
    pub async fn retry(&self, asker: Asker, queue: String, id: JobId) -> Result<(), Refused> {
        if let Some(redis) = self.redis() {
            return redis.retry(self.place(Some(asker), ASK_SIZE)?, queue, id).await;
        }
        self.ask(Some(asker), ASK_SIZE, move |change| change.retry(&queue, id)).await
    }

    /// Returns how many jobs that changed, and whether there are more to change.
    pub async fn control(&self, asker: Asker, queue: String, control: Control) -> Result<(usize, bool), Refused> {
        if let Some(redis) = self.redis() {
            return redis.control(self.place(Some(asker), PAGE_SIZE)?, queue, control).await;
        }
        self.ask(Some(asker), PAGE_SIZE, move |change| change.control(&queue, control)).await
    }

    /// Takes jobs that nobody performs to another queue. Returns the same.
    pub async fn move_to(&self, asker: Asker, queue: String, to: String) -> Result<(usize, bool), Refused> {
        self.ensure_on_disk("jobs are not moved there")?;
        self.ask_as(What::Growth, Some(asker), PAGE_SIZE, move |change| change.move_to(&queue, &to, asker)).await
    }

    /// The recurring jobs of queues that somebody sees.
    pub async fn recurring(&self, asker: Asker, sees: impl Fn(&str) -> bool) -> Result<Vec<Recurs>, Refused> {
        self.ensure_on_disk("no jobs are enqueued by the clock there")?;
        // After what is under way, whose file is open by then.
        self.ask(Some(asker), ASK_SIZE, |_| Ok(())).await?;
        Ok(self.known.recurring.load().iter().filter(|it| sees(&it.queue)).cloned().collect())
    }

    /// Queues that somebody sees, in the order of their names, after this one.
    pub async fn overviews(
        &self,
        asker: Asker,
        after: String,
        most: usize,
        sees: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<Vec<Overview>, Refused> {
        if let Some(redis) = self.redis() {
            return redis.overviews(self.place(Some(asker), PAGE_SIZE)?, after, most, sees).await;
        }
        self.ask(Some(asker), PAGE_SIZE, move |change| change.overviews(&after, most, sees)).await
    }

    /// Jobs of a queue in their order, from a place on; the first, where it is empty.
    pub async fn peek(
        &self,
        asker: Asker,
        queue: String,
        order: Order,
        from: Vec<u8>,
        most: Most,
    ) -> Result<Page, Refused> {
        if let Some(redis) = self.redis() {
            return redis.peek(self.place(Some(asker), PAGE_SIZE)?, queue, order, from, most).await;
        }
        self.ask(Some(asker), PAGE_SIZE, move |change| change.peek(&queue, order, &from, most)).await
    }

    /// Has the thread do something within its next transaction, and waits until that is on the disk. Once asked it is done,
    /// whether anybody waits or not.
    async fn ask<T: Send + 'static>(
        &self,
        asker: Option<Asker>,
        size: usize,
        work: impl FnOnce(&mut Change<'_, '_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T, Refused> {
        self.ask_as(What::Work, asker, size, work).await
    }

    async fn ask_as<T: Send + 'static>(
        &self,
        what: fn(Work) -> What,
        asker: Option<Asker>,
        size: usize,
        work: impl FnOnce(&mut Change<'_, '_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T, Refused> {
        let (reply, told) = oneshot::channel();
        let work = what(Box::new(move |change| {
            let outcome = sound_or_refused(work(change))?;
            Ok(Box::new(move || _ = reply.send(outcome)))
        }));
        self.send(asker, size, work)?;
        told.await.unwrap_or_else(|_| Err(self.unavailable()))
    }

    fn send(&self, asker: Option<Asker>, size: usize, what: What) -> Result<(), Refused> {
        let place = self.place(asker, size)?;
        let Some(Backend::Keeper(asks)) = self.desk.as_ref().map(|desk| &desk.backend) else {
            return Err(Refused::Off);
        };
        let ask = Ask { what, at: Instant::now(), place };
        asks.send(ask).map_err(|_| Refused::Unavailable("the sidecar is stopping".to_owned()))
    }

    /// What the sidecar itself asks is bounded by the jobs that its workers have.
    fn place(&self, asker: Option<Asker>, size: usize) -> Result<Place, Refused> {
        let desk = self.desk.as_ref().ok_or(Refused::Off)?;
        asker.map(|asker| desk.place(asker, size.max(ASK_SIZE))).transpose().map(Arc::new)
    }

    fn redis(&self) -> Option<&Arc<Redis>> {
        match &self.desk.as_ref()?.backend {
            Backend::Redis(redis) => Some(redis),
            Backend::Keeper(_) => None,
        }
    }

    fn ensure_on_disk(&self, what_not: &str) -> Result<(), Refused> {
        match self.redis() {
            Some(_) => Err(Refused::Invalid("queue", format!("`queue.backend` has the queues: {what_not}"))),
            None => Ok(()),
        }
    }

    /// Has a transaction fail, after which the file is opened anew.
    #[cfg(test)]
    pub(crate) async fn fail(&self) {
        let fail = |_: &mut Change<'_, '_>| Err::<(), _>(engine::EngineError::Format(0).into());
        self.ask(None, ASK_SIZE, fail).await.expect_err("it fails");
    }

    fn unavailable(&self) -> Refused {
        let why = self.known.trouble.load_full();
        Refused::Unavailable(why.map_or_else(|| "the sidecar is stopping".to_owned(), |why| why.to_string()))
    }
}

impl Desk {
    fn place(&self, Asker { uid, is_admin }: Asker, size: usize) -> Result<Taken, Refused> {
        let share = if is_admin { &self.admins } else { &self.users }.share(uid);
        share
            .take(size)
            .ok_or_else(|| Refused::Full("as much of this user as may waits for the queues; try again".to_owned()))
    }
}
