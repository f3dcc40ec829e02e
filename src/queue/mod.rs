//! Queues: jobs that outlast whoever enqueues them, kept in a file of this sidecar's own until they are done.
//!
//! One thread has the file. Whatever is asked of it while it waits for the disk is the next transaction, so that many
//! producers share one: what is acknowledged is on the disk. In memory are counts, leases and who waits for jobs, and
//! nothing that grows with the jobs that wait.

mod book;
mod change;
mod config;
mod engine;
mod job;
mod keeper;
mod keys;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use self::change::{Change, Fault, Outcome};
pub use self::change::{Control, Most, Order, Overview, Page, Producer, Refused, Update};
pub use self::config::Config;
pub use self::job::{Enqueued, Job, JobId, MAX_AT_ONCE, NewJob, State, Unique, Until};
use self::keeper::{Ask, Keeper, Taker};
use crate::metrics::Metrics;
use crate::task::{Phase, Tasks};

/// How many requests may wait for the thread.
const MAX_ASKED: usize = 4_096;

/// The queues, as others see them.
#[derive(Debug, Default)]
pub struct Queues {
    /// None: there are none.
    asks: Option<mpsc::Sender<Ask>>,
    known: Arc<Known>,
}

/// What the thread tells.
#[derive(Debug, Default)]
struct Known {
    /// Why nothing can be asked now,
    trouble: ArcSwapOption<String>,
    /// and what was lost at the start.
    damage: ArcSwapOption<String>,
    totals: ArcSwap<Totals>,
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
        let Some(folder) = config.path.clone() else { return Ok(Arc::default()) };
        let (asks, asked) = mpsc::channel(MAX_ASKED);
        let known = Arc::<Known>::default();
        let tasks = tasks.of(Phase::Sources);
        let stop = tasks.stop_signal();
        let keeper = Keeper::new(folder, config.clone(), known.clone(), metrics.clone(), asked);
        tasks.thread("the queue", move |_| async move { keeper.run(&stop).await })?;
        Ok(Arc::new(Self { asks: Some(asks), known }))
    }

    pub fn is_on(&self) -> bool {
        self.asks.is_some()
    }

    /// What is wrong with the file, or was at the start.
    pub fn trouble(&self) -> Option<Arc<String>> {
        self.known.trouble.load_full().or_else(|| self.known.damage.load_full())
    }

    pub fn totals(&self) -> Totals {
        **self.known.totals.load()
    }

    /// All of the jobs are on the disk when this returns, or none is.
    pub async fn enqueue(&self, jobs: Vec<NewJob>, producer: Producer) -> Result<Vec<Enqueued>, Refused> {
        self.ask(move |change| change.enqueue(&jobs, producer)).await
    }

    /// Takes jobs of these queues, of an earlier one before those of a later one; waits for the first one, at most that
    /// long. The caller has each for as long as its lease, and nobody else does.
    pub async fn take(
        &self,
        queues: Vec<String>,
        most: Most,
        lease: Option<Duration>,
        wait: Duration,
    ) -> Result<Vec<Job>, Refused> {
        let (reply, taken) = oneshot::channel();
        self.send(Ask::Take(Taker { queues, most, lease, is_patient: !wait.is_zero(), reply }))?;
        let answer = async { taken.await.unwrap_or_else(|_| Err(self.unavailable())) };
        match wait {
            Duration::ZERO => answer.await,
            wait => timeout(wait, answer).await.unwrap_or(Ok(Vec::new())),
        }
    }

    /// Says what became of an attempt, which names the lease. Returns until when the lease lasts, if it does. A job is
    /// unknown whose queue and user `is_allowed` refuses; so for those below.
    pub async fn update(
        &self,
        id: JobId,
        attempt: u32,
        update: Update,
        is_allowed: impl FnOnce(&str, Option<u32>) -> bool + Send + 'static,
    ) -> Result<Option<u64>, Refused> {
        self.ask(move |change| {
            change.ensure(id, is_allowed)?;
            change.update(id, attempt, &update)
        })
        .await
    }

    pub async fn find(
        &self,
        id: JobId,
        is_allowed: impl FnOnce(&str, Option<u32>) -> bool + Send + 'static,
    ) -> Result<Job, Refused> {
        self.ask(move |change| {
            change.ensure(id, is_allowed)?;
            change.find(id)
        })
        .await
    }

    /// Removes a job that nobody performs.
    pub async fn cancel(
        &self,
        id: JobId,
        is_allowed: impl FnOnce(&str, Option<u32>) -> bool + Send + 'static,
    ) -> Result<(), Refused> {
        self.ask(move |change| {
            change.ensure(id, is_allowed)?;
            change.cancel(id)
        })
        .await
    }

    /// Has a dead job of a queue wait again, as if it were new.
    pub async fn retry(&self, queue: String, id: JobId) -> Result<(), Refused> {
        self.ask(move |change| change.retry(&queue, id)).await
    }

    /// Returns how many jobs that changed, and whether there are more to change.
    pub async fn control(&self, queue: String, control: Control) -> Result<(usize, bool), Refused> {
        self.ask(move |change| change.control(&queue, control)).await
    }

    /// Queues in the order of their names, after this one.
    pub async fn overviews(&self, after: String, most: usize) -> Result<Vec<Overview>, Refused> {
        self.ask(move |change| change.overviews(&after, most)).await
    }

    /// Jobs of a queue in their order, from a place on; the first, where it is empty.
    pub async fn peek(&self, queue: String, order: Order, from: Vec<u8>, most: Most) -> Result<Page, Refused> {
        self.ask(move |change| change.peek(&queue, order, &from, most)).await
    }

    /// Has the thread do something within its next transaction, and waits until that is on the disk. Once asked it is done,
    /// whether anybody waits or not.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Change<'_, '_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T, Refused> {
        let (reply, told) = oneshot::channel();
        self.send(Ask::Work(Box::new(move |change| {
            let outcome = work(change).map_err(|fault| match fault {
                Fault::Engine(error) if error.is_of_the_file() => Err(error),
                Fault::Engine(error) => Ok(Refused::Unavailable(error.to_string())),
                Fault::Refused(why) => Ok(why),
            });
            match outcome {
                Err(Err(error)) => Err(error),
                Err(Ok(why)) => Ok(Box::new(move || _ = reply.send(Err(why)))),
                Ok(done) => Ok(Box::new(move || _ = reply.send(Ok(done)))),
            }
        })))?;
        told.await.unwrap_or_else(|_| Err(self.unavailable()))
    }

    fn send(&self, ask: Ask) -> Result<(), Refused> {
        let Some(asks) = &self.asks else { return Err(Refused::Off) };
        asks.try_send(ask).map_err(|why| match why {
            mpsc::error::TrySendError::Full(_) => {
                Refused::Full(format!("{MAX_ASKED} requests wait for the queue's disk; try again"))
            }
            mpsc::error::TrySendError::Closed(_) => Refused::Unavailable("the sidecar is stopping".to_owned()),
        })
    }

    fn unavailable(&self) -> Refused {
        let why = self.known.trouble.load_full();
        Refused::Unavailable(why.map_or_else(|| "the sidecar is stopping".to_owned(), |why| why.to_string()))
    }
}
