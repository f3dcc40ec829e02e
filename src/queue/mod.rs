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
mod death;
mod delay;
mod due;
mod engine;
mod enqueue;
mod failures;
mod full;
mod handed;
mod job;
mod keeper;
mod keys;
mod left;
mod limit;
mod log;
mod look;
mod order;
mod performers;
mod recurring;
mod redis;
mod requests;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

pub use self::attempt::{Most, Update};
pub use self::change::Refused;
use self::change::{Change, Outcome};
pub use self::config::{Config, Defaults, Durability, Missed, Recurring};
pub use self::control::Control;
pub use self::enqueue::Asker;
use self::failures::Failures;
pub use self::full::Bound;
use self::full::FullBounds;
pub use self::handed::Handed;
pub use self::job::{
    Enqueued, Job, JobId, MAX_AT_ONCE, MAX_DELAY, MAX_TIMEOUT, MIN_LEASE, NewJob, Progress, State, Unique, Until,
};
use self::keeper::{Ask, Keeper, SLOW, Taker, What, Work, sound_or_refused};
pub use self::left::warn_of_left_jobs;
pub use self::limit::{Limit, Rate};
pub use self::look::{Overview, Page};
pub use self::order::Order;
use self::performers::Performers;
pub use self::performers::{Begun, Holder, Performed, Performing};
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
    full: FullBounds,
    performers: Arc<Performers>,
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
    Disk(Disk),
    Redis(Arc<Redis>),
}

/// The thread that has the file, as who asks it sees it.
#[derive(Debug)]
struct Disk {
    asks: mpsc::UnboundedSender<Ask>,
    known: Arc<Known>,
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
    /// What changes with each transaction.
    now: Mutex<KnownNow>,
    recurring: ArcSwap<Vec<Recurs>>,
    failures: Failures,
    /// How many transactions there have been.
    #[cfg(test)]
    transactions: std::sync::atomic::AtomicUsize,
    /// How often it was to open the files, and read them for that.
    #[cfg(test)]
    attempts: std::sync::atomic::AtomicUsize,
    #[cfg(test)]
    opens: std::sync::atomic::AtomicUsize,
    /// How many syncs of what was acknowledged before.
    #[cfg(test)]
    syncs: std::sync::atomic::AtomicUsize,
}

#[derive(Clone, Copy, Debug, Default)]
struct KnownNow {
    /// Since when a transaction has been under way.
    writing_since: Option<Instant>,
    /// None: they were not counted yet.
    totals: Option<Totals>,
}

/// How many jobs there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub queues: u64,
    pub waiting: u64,
    pub delayed: u64,
    pub running: u64,
    pub dead: u64,
    /// That are kept for their results.
    pub done: u64,
    pub bytes: u64,
}

impl Known {
    fn set_writing_since(&self, since: Option<Instant>) {
        self.now().writing_since = since;
    }

    fn count(&self, totals: Totals) {
        self.now().totals = Some(totals);
    }

    fn now(&self) -> MutexGuard<'_, KnownNow> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Totals {
    /// Each of them by the word of `status`.
    pub fn named(self) -> [(&'static str, u64); 7] {
        [
            ("queues", self.queues),
            ("jobsWaiting", self.waiting),
            ("jobsDelayed", self.delayed),
            ("jobsRunning", self.running),
            ("jobsDead", self.dead),
            ("jobsKeptForResults", self.done),
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
                Backend::Disk(Disk { asks, known: known.clone() })
            }
            (None, None) => return Ok(Arc::default()),
        };
        let pool = Pool::new(MAX_ASKED, 1);
        let (users, admins) = (Shares::of(pool.clone(), Some(KEPT_FOR_ADMINS)), Shares::of(pool, None));
        let full = FullBounds::new(config.max_queues);
        let performers = Arc::default();
        Ok(Arc::new(Self { desk: Some(Desk { backend, users, admins }), known, full, performers }))
    }

    pub fn is_on(&self) -> bool {
        self.desk.is_some()
    }

    /// What is wrong with the file or its disk, or was at the start, or what is full, for one who sees these queues.
    pub fn trouble(&self, sees: impl Fn(&str) -> bool) -> Option<Arc<String>> {
        let writing_for = self.known.now().writing_since.map(|since| since.elapsed());
        let slow = writing_for
            .filter(|time| *time >= SLOW)
            .map(|time| Arc::new(format!("the disk has not finished a write of the queues for {} s", time.as_secs())));
        let of_backend = || match &self.desk.as_ref()?.backend {
            Backend::Disk(_) => None,
            Backend::Redis(redis) => redis.trouble(&sees),
        };
        let full = || self.full.trouble(&sees, Instant::now()).map(Arc::new);
        let of_file = slow.or_else(|| self.known.trouble.load_full()).or_else(|| self.known.damage.load_full());
        of_file.or_else(of_backend).or_else(full)
    }

    /// Whether Redis refuses writes of all queues, though it can be asked.
    pub fn refuse_writes(&self) -> bool {
        matches!(&self.desk, Some(Desk { backend: Backend::Redis(redis), .. }) if redis.refuses_writes())
    }

    /// As they were last counted.
    pub fn totals(&self) -> Totals {
        self.totals_if_known().unwrap_or_default()
    }

    pub fn totals_if_known(&self) -> Option<Totals> {
        self.known.now().totals
    }

    /// All of the jobs are on the disk when this returns, or none is. Who no longer waits when it is their turn has
    /// enqueued none.
    pub async fn enqueue(&self, asker: Asker, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>, Refused> {
        let size = jobs.iter().map(NewJob::memory_size).sum();
        let enqueued = match self.desk(Some(asker), size)? {
            (Backend::Disk(disk), place) => disk.enqueue(place, jobs, asker).await,
            (Backend::Redis(redis), place) => redis.enqueue(place, jobs, asker).await,
        };
        match &enqueued {
            Ok(_) => self.full.take(Instant::now),
            Err(Refused::Full(bound, why)) => self.full.refuse(bound, why, Instant::now()),
            Err(_) => {}
        }
        enqueued
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
        let (sources, is_patient): (Sources, _) = (sources.into(), !wait.is_zero());
        let (backend, place) = self.desk(asker, ASK_SIZE)?;
        let _asking = asker.map(|_| self.performers.ask(&sources));
        let taken = async {
            match backend {
                Backend::Disk(disk) => {
                    let (reply, taken) = oneshot::channel();
                    let taker = Taker { asker, sources, most, lease, is_patient, has_waited: false, reply };
                    disk.send(place, What::Take(Box::new(taker)), taken).await
                }
                Backend::Redis(redis) => {
                    let (queues, most) = sources.by_chance(most);
                    redis.take(place, asker, queues, most, lease, is_patient).await
                }
            }
        };
        match is_patient {
            false => taken.await,
            true => timeout(wait, taken).await.unwrap_or_else(|_| Ok(Default::default())),
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
        match self.desk(asker, ASK_SIZE + update.memory_size())? {
            (Backend::Disk(disk), place) => {
                disk.ask_of(place, id, is_allowed, move |change| change.update(id, attempt, &update)).await
            }
            (Backend::Redis(redis), place) => redis.update(place, (id, attempt), update, is_allowed).await,
        }
    }

    pub async fn find(
        &self,
        asker: Asker,
        id: JobId,
        is_allowed: impl Fn(&str, Option<u32>) -> bool + Send + 'static,
    ) -> Result<Job, Refused> {
        match self.desk(Some(asker), ASK_SIZE)? {
            (Backend::Disk(disk), place) => disk.ask_of(place, id, is_allowed, move |change| change.find(id)).await,
            (Backend::Redis(redis), place) => redis.find(place, asker.uid, id, is_allowed).await,
        }
    }

    /// Removes a job that nobody performs.
    pub async fn cancel(
        &self,
        asker: Asker,
        id: JobId,
        is_allowed: impl Fn(&str, Option<u32>) -> bool + Send + Sync + 'static,
    ) -> Result<(), Refused> {
        match self.desk(Some(asker), ASK_SIZE)? {
            (Backend::Disk(disk), place) => disk.ask_of(place, id, is_allowed, move |change| change.cancel(id)).await,
            (Backend::Redis(redis), place) => redis.cancel(place, asker.uid, id, is_allowed).await,
        }
    }

    /// Has a dead job of a queue wait again, as if it were new.
    pub async fn retry(&self, asker: Asker, queue: String, id: JobId) -> Result<(), Refused> {
        match self.desk(Some(asker), ASK_SIZE)? {
            // A unique key is written anew.
            (Backend::Disk(disk), place) => {
                disk.ask_as(What::Growth, place, move |change| change.retry(&queue, id)).await
            }
            (Backend::Redis(redis), place) => redis.retry(place, queue, id).await,
        }
    }

    /// Returns how many jobs that changed, and whether there are more to change.
    pub async fn control(&self, asker: Asker, queue: String, control: Control) -> Result<(usize, bool), Refused> {
        match self.desk(Some(asker), PAGE_SIZE)? {
            (Backend::Disk(disk), place) => {
                let what: fn(Work) -> What = match control {
                    Control::Retry => What::Growth,
                    Control::Pause | Control::Resume | Control::Purge(_) => What::Work,
                };
                disk.ask_as(what, place, move |change| change.control(&queue, control)).await
            }
            (Backend::Redis(redis), place) => redis.control(place, queue, control).await,
        }
    }

    /// Takes jobs that nobody performs to another queue. Returns the same.
    pub async fn move_to(&self, asker: Asker, queue: String, to: String) -> Result<(usize, bool), Refused> {
        match self.desk(Some(asker), PAGE_SIZE)? {
            (Backend::Disk(disk), place) => {
                disk.ask_as(What::Growth, place, move |change| change.move_to(&queue, &to, asker)).await
            }
            (Backend::Redis(_), _) => Err(not_in_redis("jobs are not moved there")),
        }
    }

    /// The recurring jobs of queues that somebody sees.
    pub async fn recurring(&self, asker: Asker, sees: impl Fn(&str) -> bool) -> Result<Vec<Recurs>, Refused> {
        match self.desk(Some(asker), ASK_SIZE)? {
            // After what is under way, whose file is open by then.
            (Backend::Disk(disk), place) => disk.ask(place, |_| Ok(())).await?,
            (Backend::Redis(redis), place) => redis.look_at_recurring(place).await?,
        }
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
        let mut all: Vec<Overview> = match self.desk(Some(asker), PAGE_SIZE)? {
            (Backend::Disk(disk), place) => disk.ask(place, move |change| change.overviews(&after, most, sees)).await,
            (Backend::Redis(redis), place) => redis.overviews(place, after, most, sees).await,
        }?;
        for it in &mut all {
            it.performed = self.performers.of(&it.name);
            it.failed_lately = self.known.failures.of(&it.name);
        }
        Ok(all)
    }

    /// A process of a worker performs jobs from now on.
    pub fn performer(&self, worker: String, pid: i32) -> Performing {
        self.performers.add(Holder { worker, pid })
    }

    /// The process of a worker that has a job. None: there is none, or whoever has it is no worker of this sidecar.
    pub fn holder_of(&self, job: &Job) -> Option<Holder> {
        self.performers.holder_of(job)
    }

    /// The job that each process performs, by their pids.
    pub fn begun(&self) -> HashMap<i32, Begun> {
        self.performers.begun()
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
        match self.desk(Some(asker), PAGE_SIZE)? {
            (Backend::Disk(disk), place) => {
                disk.ask(place, move |change| change.peek(&queue, order, &from, most)).await
            }
            (Backend::Redis(redis), place) => redis.peek(place, queue, order, from, most).await,
        }
    }

    /// Who is asked, and what that takes of the share of who asks. What the sidecar itself asks is bounded by the jobs that its
    /// workers have.
    fn desk(&self, asker: Option<Asker>, size: usize) -> Result<(&Backend, Place), Refused> {
        let desk = self.desk.as_ref().ok_or(Refused::Off)?;
        let taken = asker.map(|asker| desk.place(asker, size.max(ASK_SIZE))).transpose()?;
        Ok((&desk.backend, Arc::new(taken)))
    }

    /// Has a transaction fail, after which the file is opened anew.
    #[cfg(test)]
    pub(crate) async fn fail(&self) {
        let fail = |_: &mut Change<'_, '_>| Err::<(), _>(engine::EngineError::Format(0).into());
        self.ask(fail).await.expect_err("it fails");
    }

    /// Has the thread hang until the other end is dropped.
    #[cfg(test)]
    pub(crate) async fn hang(&self, until: std::sync::mpsc::Receiver<()>) {
        let hang = move |_: &mut Change<'_, '_>| {
            let _ = until.recv();
            Ok(())
        };
        self.ask(hang).await.expect("it goes on");
    }

    #[cfg(test)]
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Change<'_, '_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T, Refused> {
        match self.desk(None, 0)? {
            (Backend::Disk(disk), place) => disk.ask(place, work).await,
            (Backend::Redis(_), _) => panic!("it has a file"),
        }
    }
}

impl Disk {
    async fn enqueue(&self, place: Place, jobs: Vec<NewJob>, asker: Asker) -> Result<Vec<Enqueued>, Refused> {
        let (reply, told) = oneshot::channel();
        let growth = What::Growth(Box::new(move |change| {
            if reply.is_closed() {
                return Ok(Box::new(|| {}));
            }
            let outcome = sound_or_refused(change.enqueue(&jobs, asker))?;
            // They go back: memory is freed at less cost by the thread that took it.
            Ok(Box::new(move || _ = reply.send(outcome.map(|enqueued| (enqueued, jobs)))))
        }));
        // Until then they take of their user's share.
        let (enqueued, _jobs) = self.send(place.clone(), growth, told).await?;
        Ok(enqueued)
    }

    /// Has the thread do something within its next transaction, and waits until that is on the disk. Once asked it is done,
    /// whether anybody waits or not.
    async fn ask<T: Send + 'static>(
        &self,
        place: Place,
        work: impl FnOnce(&mut Change<'_, '_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T, Refused> {
        self.ask_as(What::Work, place, work).await
    }

    /// Does the same with a job, which is unknown unless it is allowed.
    async fn ask_of<T: Send + 'static>(
        &self,
        place: Place,
        id: JobId,
        is_allowed: impl FnOnce(&str, Option<u32>) -> bool + Send + 'static,
        work: impl FnOnce(&mut Change<'_, '_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T, Refused> {
        let ensured = move |change: &mut Change<'_, '_>| {
            change.ensure(id, is_allowed)?;
            work(change)
        };
        self.ask(place, ensured).await
    }

    async fn ask_as<T: Send + 'static>(
        &self,
        what: fn(Work) -> What,
        place: Place,
        work: impl FnOnce(&mut Change<'_, '_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T, Refused> {
        self.ask_and_note(what, place, work, |_| {}).await
    }

    /// Does the same, and has the thread note what it came to before that is answered, in the order of transactions.
    async fn ask_and_note<T: Send + 'static>(
        &self,
        what: fn(Work) -> What,
        place: Place,
        work: impl FnOnce(&mut Change<'_, '_>) -> Outcome<T> + Send + 'static,
        note: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, Refused> {
        let (reply, told) = oneshot::channel();
        let work = what(Box::new(move |change| {
            let outcome = sound_or_refused(work(change))?;
            Ok(Box::new(move || {
                if let Ok(done) = &outcome {
                    note(done);
                }
                _ = reply.send(outcome);
            }))
        }));
        self.send(place, work, told).await
    }

    async fn send<T>(
        &self,
        place: Place,
        what: What,
        told: oneshot::Receiver<Result<T, Refused>>,
    ) -> Result<T, Refused> {
        let stopping = || "the sidecar is stopping".to_owned();
        let ask = Ask { what, at: Instant::now(), place };
        self.asks.send(ask).map_err(|_| Refused::Unavailable(stopping()))?;
        told.await.unwrap_or_else(|_| {
            let why = self.known.trouble.load_full();
            Err(Refused::Unavailable(why.map_or_else(stopping, |why| why.to_string())))
        })
    }
}

fn not_in_redis(why: &str) -> Refused {
    Refused::Invalid("queue", format!("`queue.backend` has the queues: {why}"))
}

impl Desk {
    fn place(&self, Asker { uid, is_admin }: Asker, size: usize) -> Result<Taken, Refused> {
        let share = if is_admin { &self.admins } else { &self.users }.share(uid);
        share
            .take(size)
            .ok_or_else(|| Refused::TooMuch("as much of this user as may waits for the queues; try again".to_owned()))
    }
}
