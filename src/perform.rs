//! Performing: hands jobs of queues to the workers that perform them, over the channel that each process has.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, pending};
use futures::stream::FuturesUnordered;
use rmpv::Value;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::model::Arguments;
use crate::mutant;
use crate::queue::{Job, JobId, Most, Queues, Refused, Update};
use crate::share::{Pool, Share};
use crate::task::{Stop, Tasks};
use crate::tunnel::{Status, StreamError};
use crate::worker::{Command, NoAnswer, Performer};

/// What a process is asked. Applications have no command of this name.
const PERFORM: &str = "roster:perform";

/// What a job throws to be given back or to die, as the package does.
const RELEASED: &str = "Roster\\Exception\\JobReleased";
const BURIED: &str = "Roster\\Exception\\JobBuried";

/// How long one look for jobs lasts, and how soon the next one is, where it failed.
const PATIENCE: Duration = Duration::from_secs(600);
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Jobs that one process takes at once have no more bytes, beside the last of them.
const MAX_BYTES: usize = 1 << 20;

/// Hands out jobs to whoever performs them, until the stop.
pub async fn run(
    mut performers: mpsc::UnboundedReceiver<Performer>,
    queues: Arc<Queues>,
    memory: Arc<Pool>,
    tasks: Tasks,
) {
    let stop = tasks.stop_signal();
    loop {
        let performer = tokio::select! {
            performer = performers.recv() => performer,
            () = stop.requested() => return,
        };
        // Without workers there is nobody who performs.
        let Some(performer) = performer else { return stop.requested().await };
        if !queues.is_on() {
            let (worker, queue) = (&performer.addressee.worker, &performer.queue);
            tracing::error!(worker, queue, "a worker performs jobs, and there are no queues: set `[queue] path`");
            continue;
        }
        let (memory, held) = (memory.share(None), Mutex::default());
        let performing = Performing { performer, queues: queues.clone(), memory, held };
        tasks.short(performing.run(stop.clone()));
    }
}

/// One process, and one queue.
struct Performing {
    performer: Performer,
    queues: Arc<Queues>,
    /// Charged with what jobs return, which nobody reads.
    memory: Arc<Share>,
    /// What the process has, in the order in which it was handed over: it has begun the first one alone.
    held: Mutex<VecDeque<JobId>>,
}

impl Performing {
    /// Takes as many jobs as the process may have, until its connection ends. Then it has no lease any more.
    async fn run(self, stop: Stop) {
        let mut life = self.performer.life.clone();
        let mut under_way = FuturesUnordered::new();
        let mut taking: Option<BoxFuture<'_, Vec<Job>>> = None;
        loop {
            let free = self.performer.at_once.saturating_sub(under_way.len());
            if taking.is_none() && free > 0 {
                taking = Some(self.take(free).boxed());
            }
            let taken = async {
                match &mut taking {
                    Some(taking) => taking.await,
                    None => pending().await,
                }
            };
            tokio::select! {
                jobs = taken => {
                    taking = None;
                    under_way.extend(jobs.into_iter().map(|job| self.perform(job)));
                }
                Some(()) = under_way.next() => {}
                _ = life.changed() => break,
                () = stop.requested() => break,
            }
        }
        drop(taking);
        while under_way.next().await.is_some() {}
    }

    async fn take(&self, jobs: usize) -> Vec<Job> {
        let queue = self.performer.queue.clone();
        match self.queues.take(vec![queue], Most { jobs, bytes: MAX_BYTES }, None, PATIENCE).await {
            Ok(jobs) => jobs,
            Err(_) => {
                sleep(RETRY_DELAY).await;
                Vec::new()
            }
        }
    }

    /// Has the process perform a job, and says what became of it.
    async fn perform(&self, job: Job) {
        let (id, attempt) = (job.id, job.attempt);
        let command = Command { name: PERFORM.to_owned(), within: job.timeout, data: Arguments::new(value(job)) };
        self.held().push_back(id);
        let outcome = self.performer.addressee.carry_out(&command, &self.memory).await;
        let update = match outcome {
            Ok(_) => Some(Update::Done),
            Err(why) => update(why),
        };
        let update = match update {
            // What the process had not begun is not what it died of.
            Some(Update::Lose { .. }) if self.held().front() != Some(&id) => Some(given_back(0)),
            Some(Update::Lose { error }) => Some(Update::Lose { error }),
            update => {
                self.held().retain(|held| *held != id);
                update
            }
        };
        let Some(update) = update else { return };
        // What cannot be written has its lease end, and is performed again.
        match self.queues.update(id, attempt, update, |_, _| true).await {
            Ok(_) | Err(Refused::NotLeased(..) | Refused::NoJob(_)) => {}
            Err(why) => tracing::warn!(id, attempt, %why, "what became of a job cannot be written"),
        }
    }

    fn held(&self) -> MutexGuard<'_, VecDeque<JobId>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is wanted of a job that was not done. None: its lease ends at the same time.
fn update(why: NoAnswer) -> Option<Update> {
    Some(match why {
        NoAnswer::Failed(StreamError::Failed(why)) if why.status == Status::Refused => given_back(0),
        NoAnswer::Failed(StreamError::Failed(why)) => match why.class.as_deref() {
            Some(RELEASED) => given_back(why.code),
            Some(BURIED) => Update::Bury { error: why.message },
            class => Update::Fail { error: class.map_or(String::new(), |class| format!("{class}: ")) + &why.message },
        },
        NoAnswer::NoProcess | NoAnswer::NotConnected | NoAnswer::Unsent(_) => given_back(0),
        NoAnswer::NoMemory => Update::Done,
        NoAnswer::TimedOut(_) => return None,
        NoAnswer::Failed(_) if mutant::is("done-by-the-dead") => Update::Done,
        NoAnswer::Failed(why) => Update::Lose { error: format!("its worker is gone: {why}") },
    })
}

fn given_back(delay_ms: i64) -> Update {
    Update::Release { delay: Duration::from_millis(u64::try_from(delay_ms).unwrap_or(0)) }
}

/// A job as the package reads it.
fn value(job: Job) -> Value {
    let fields: [(&str, Value); 9] = [
        ("id", job.id.into()),
        ("queue", job.queue.into()),
        ("name", job.name.into()),
        ("payload", Value::Binary(job.payload)),
        ("priority", job.priority.into()),
        ("attempt", job.attempt.into()),
        ("failures", job.failures.into()),
        ("retries", job.retries.into()),
        ("enqueuedAt", job.enqueued_at.into()),
    ];
    let timeout = ("timeoutMs", Value::from(job.timeout.as_millis() as u64));
    Value::Map(fields.into_iter().chain([timeout]).map(|(name, value)| (name.into(), value)).collect())
}
