//! The keeper: the thread that has the file. It gathers what is asked into transactions, and answers what is on the disk.

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::book::Book;
use super::change::{Change, Fault, Most, Outcome, Refused, Tally, Update};
use super::engine::{self, Engine, EngineError, NotOpened};
use super::job::{Job, JobId};
use super::{Config, Known, Totals};
use crate::clock::{Moment, millis_since_1970};
use crate::metrics::Metrics;
use crate::permissions::Claim;
use crate::task::Stop;

/// How many requests one transaction carries out.
const MAX_BATCH: usize = 1_024;

/// How many may wait for jobs.
const MAX_TAKERS: usize = 4_096;

/// How soon it is tried again to open a file that could not be.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// The longest rest, after which it is looked whether the machine has slept.
const MAX_REST: Duration = Duration::from_secs(10);

/// What the thread is asked.
pub(super) enum Ask {
    Work(Work),
    Take(Taker),
}

/// Does something, and gives what tells of it, for when that is on the disk. An error makes the whole transaction fail.
type Work = Box<dyn FnOnce(&mut Change<'_, '_>) -> Result<Box<dyn FnOnce() + Send>, EngineError> + Send>;

/// Whoever wants jobs.
pub(super) struct Taker {
    pub(super) queues: Vec<String>,
    pub(super) most: Most,
    pub(super) lease: Option<Duration>,
    /// Whether it waits until there is one.
    pub(super) is_patient: bool,
    pub(super) reply: oneshot::Sender<Result<Vec<Job>, Refused>>,
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Work(_) => "Work",
            Self::Take(_) => "Take",
        })
    }
}

#[derive(Debug)]
pub(super) struct Keeper {
    folder: PathBuf,
    config: Config,
    known: Arc<Known>,
    metrics: Arc<Metrics>,
    asked: mpsc::Receiver<Ask>,
    clock: Clock,
    takers: VecDeque<Taker>,
    /// Handed to somebody who was gone by then.
    unwanted: Vec<(JobId, u32)>,
}

/// The file, while it is open, and that it is ours.
#[derive(Debug)]
struct Opened {
    engine: Engine,
    book: Book,
    _claim: Claim,
}

/// The wall's clock as it was at the start, which nobody sets from then on.
#[derive(Debug)]
struct Clock {
    began: Moment,
    began_at: u64,
}

/// What has become of a transaction.
#[derive(Default)]
struct Batch {
    tally: Tally,
    replies: Vec<Box<dyn FnOnce() + Send>>,
    handed: Vec<(Taker, Vec<Job>)>,
}

impl fmt::Debug for Taker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Taker of {:?}", self.queues)
    }
}

impl Keeper {
    pub(super) fn new(
        folder: PathBuf,
        config: Config,
        known: Arc<Known>,
        metrics: Arc<Metrics>,
        asked: mpsc::Receiver<Ask>,
    ) -> Self {
        let clock = Clock { began: Moment::now(), began_at: millis_since_1970(SystemTime::now()) };
        let (takers, unwanted) = (VecDeque::new(), Vec::new());
        Self { folder, config, known, metrics, asked, clock, takers, unwanted }
    }

    pub(super) async fn run(mut self, stop: &Stop) {
        let mut is_last = false;
        while !is_last {
            let began = Instant::now();
            match self.open() {
                Ok(mut opened) => {
                    let jobs = opened.book.total.jobs;
                    tracing::info!(path = %self.folder.display(), jobs, took = ?began.elapsed(), "the queues are open");
                    self.known.trouble.store(None);
                    is_last = self.keep(&mut opened, stop).await.is_ok();
                }
                Err(why) => self.be_in_trouble(why),
            }
            is_last = is_last || self.refuse_for_a_while(stop).await;
        }
    }

    fn be_in_trouble(&self, why: String) {
        if self.known.trouble.load().as_deref() != Some(&why) {
            tracing::error!(error = why, "the queues take and hand out no jobs until that is mended");
        }
        self.metrics.queue_failures.increment();
        self.known.trouble.store(Some(Arc::new(why)));
    }

    /// Lets nobody wait for a file that cannot be had. Whether it is to stop.
    async fn refuse_for_a_while(&mut self, stop: &Stop) -> bool {
        self.takers.clear();
        let until = sleep(RETRY_DELAY);
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => return false,
                () = stop.requested() => return true,
                // Dropped, it is answered.
                ask = self.asked.recv() => if ask.is_none() { return true },
            }
        }
    }

    /// Opens the file. One that is damaged is set aside, and another begun.
    fn open(&self) -> Result<Opened, String> {
        let told = |why: &dyn fmt::Display| format!("{}: {why}", self.folder.display());
        engine::make_private(&self.folder).map_err(|error| told(&error))?;
        // Within the folder: others may have mounted it at another place.
        let claim = Claim::of(&engine::file_in(&self.folder)).map_err(|why| told(&why))?;
        let damage = |error: &dyn fmt::Display, file: &Path| -> Result<(), String> {
            let aside = engine::set_aside(file, self.clock.now())
                .map_err(|failed| format!("{error}, and it cannot be set aside: {failed}"))?;
            let told = format!("{error}; it is set aside in {}, and its jobs are not performed", aside.display());
            tracing::error!(error = told, "jobs are lost; the queues begin anew");
            self.known.damage.store(Some(Arc::new(told)));
            Ok(())
        };
        let engine = match Engine::open(&self.folder, self.config.max_bytes) {
            Err(NotOpened::Damaged { file, error }) => {
                damage(&format!("{}: {error}", file.display()), &file)?;
                Engine::open(&self.folder, self.config.max_bytes)
            }
            opened => opened,
        }
        .map_err(|error| error.to_string())?;
        let load = |engine: &Engine| Book::load(&engine.begin()?, self.clock.now());
        match load(&engine) {
            Ok(book) => Ok(Opened { engine, book, _claim: claim }),
            Err(EngineError::Damaged) => {
                drop(engine);
                let file = engine::file_in(&self.folder);
                damage(&format!("{}: what it says of its queues is damaged", file.display()), &file)?;
                let engine = Engine::open(&self.folder, self.config.max_bytes).map_err(|error| error.to_string())?;
                let book = load(&engine).map_err(|error| error.to_string())?;
                Ok(Opened { engine, book, _claim: claim })
            }
            Err(error) => Err(format!("cannot read {}: {error}", self.folder.display())),
        }
    }

    /// Carries out what is asked, until the stop. After an error it is to be opened anew: LMDB may refuse all work, and
    /// the book tells of what was not written.
    async fn keep(&mut self, opened: &mut Opened, stop: &Stop) -> Result<(), EngineError> {
        let mut is_last = false;
        self.publish(&opened.book);
        while !is_last || !self.asked.is_empty() {
            let rest = match self.unwanted.is_empty() {
                true => self.rest(&opened.book),
                false => Duration::ZERO,
            };
            let first = tokio::select! {
                ask = self.asked.recv() => {
                    is_last = ask.is_none();
                    ask
                }
                () = sleep(rest) => None,
                () = stop.requested() => {
                    self.asked.close();
                    is_last = true;
                    None
                }
            };
            let mut batch = Batch::default();
            if let Err(error) = self.carry_out(opened, first, &mut batch) {
                // Before those are told who wait: the batch is dropped.
                self.be_in_trouble(format!("cannot write {}: {error}", self.folder.display()));
                return Err(error);
            }
            self.publish(&opened.book);
            self.answer(batch);
        }
        Ok(())
    }

    /// One transaction: what the time has come for, what was asked, and what there is for those who wait.
    fn carry_out(&mut self, opened: &mut Opened, first: Option<Ask>, batch: &mut Batch) -> Result<(), EngineError> {
        let mut txn = opened.engine.begin()?;
        let (config, now) = (&self.config, self.clock.now());
        let mut change = Change { txn: &mut txn, book: &mut opened.book, config, now, tally: &mut batch.tally };
        change.tick()?;
        for (id, attempt) in self.unwanted.drain(..) {
            refused(change.update(id, attempt, &Update::Release { delay: Duration::ZERO }))?;
        }
        let asks = first.into_iter().chain(std::iter::from_fn(|| self.asked.try_recv().ok()));
        for ask in asks.take(MAX_BATCH) {
            match ask {
                Ask::Work(work) => batch.replies.push(work(&mut change)?),
                Ask::Take(taker) => self.takers.push_back(taker),
            }
        }
        self.takers.retain(|taker| !taker.reply.is_closed());
        for taker in std::mem::take(&mut self.takers) {
            let taken = refused(change.take(&taker.queues, taker.most, taker.lease))?.unwrap_or_default();
            if !taken.is_empty() || !taker.is_patient {
                batch.handed.push((taker, taken));
            } else if self.takers.len() < MAX_TAKERS {
                self.takers.push_back(taker);
            } else {
                let full = Refused::Full(format!("{MAX_TAKERS} others wait for jobs; try again"));
                batch.replies.push(Box::new(move || _ = taker.reply.send(Err(full))));
            }
        }
        if opened.book.has_changed() {
            opened.book.save(&mut txn)?;
            txn.commit()?;
        }
        Ok(())
    }

    fn answer(&mut self, batch: Batch) {
        let Tally { enqueued, attempts, done, failed, died } = batch.tally;
        let metrics = &self.metrics;
        for (counter, count) in [
            (&metrics.jobs_enqueued, enqueued),
            (&metrics.job_attempts, attempts),
            (&metrics.jobs_done, done),
            (&metrics.job_failures, failed),
            (&metrics.jobs_died, died),
        ] {
            counter.add(count);
        }
        batch.replies.into_iter().for_each(|reply| reply());
        for (taker, jobs) in batch.handed {
            if let Err(Ok(jobs)) = taker.reply.send(Ok(jobs)) {
                self.unwanted.extend(jobs.iter().map(|job| (job.id, job.attempt)));
            }
        }
    }

    /// How long nothing has to be done that nobody asks for.
    fn rest(&self, book: &Book) -> Duration {
        let keep_dead = self.config.keep_dead.as_millis() as u64;
        let of_queues =
            book.queues.values().flat_map(|queue| [queue.first_delayed, queue.first_dead.saturating_add(keep_dead)]);
        let next = of_queues.chain(book.leases.first().map(|(until, _)| until)).min().unwrap_or(u64::MAX);
        Duration::from_millis(next.saturating_sub(self.clock.now())).min(MAX_REST)
    }

    fn publish(&self, book: &Book) {
        let mut totals = Totals { queues: book.queues.len() as u64, ..Totals::default() };
        for counts in book.queues.values().map(|queue| &queue.counts) {
            totals.waiting += counts.waiting;
            totals.delayed += counts.delayed;
            totals.running += counts.running;
            totals.dead += counts.dead;
            totals.bytes += counts.bytes;
        }
        if **self.known.totals.load() != totals {
            self.known.totals.store(Arc::new(totals));
        }
    }
}

impl Clock {
    fn now(&self) -> u64 {
        self.began_at + self.began.elapsed().as_millis() as u64
    }
}

/// What was done, if it was not refused.
fn refused<T>(outcome: Outcome<T>) -> Result<Option<T>, EngineError> {
    match outcome {
        Ok(done) => Ok(Some(done)),
        Err(Fault::Refused(_)) => Ok(None),
        Err(Fault::Engine(error)) => Err(error),
    }
}
