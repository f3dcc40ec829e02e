//! Queues in Redis, in the layout of Resque: what php-resque, Ruby's resque and their schedulers enqueue is handed out, and
//! they take what is enqueued here. Beside their keys, Roster has its own: leases, attempts, dead jobs, results.
//!
//! Where there is a `buffer`, enqueues go to the disk while Redis is away.
//!
//! A thread has the connection, and does all that is asked, each to its end whether anybody waits for it or not. Redis
//! compares and moves texts (`scripts`); what they mean is decided here alone (`resque`, `record`).

mod attempt;
mod buffer;
mod control;
mod enqueue;
mod keys;
mod limit;
mod link;
mod look;
mod record;
mod recurring;
mod refusals;
mod resque;
mod schedule;
mod scripts;
mod search;
mod server;
mod tick;
mod unique;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::attempt::{Leases, MAX_KEPT_RESULTS};
use self::buffer::Buffer;
use self::keys::{Keys, Step};
use self::link::{Arguments, Failed, Lack, Link, TIMEOUT};
use self::look::Undated;
use self::record::Record;
use self::refusals::{Notices, Refusals, Write};
use self::search::Searches;
pub use self::server::Server;
use super::change::Refused;
use super::job::JobId;
use super::{Config, Known, Place, Recurrences};
use crate::clock::Moment;
use crate::metrics::Metrics;
use crate::model::shortened;
use crate::secret::warn_if_open;
use crate::task::{Backoff, Stop, Tasks};

/// How often it is looked what the time has come for; and, while somebody waits for jobs, whether there are some that others
/// have enqueued.
const TICK: Duration = Duration::from_secs(1);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

const LEAST_RETRY: Duration = Duration::from_millis(100);
const MOST_RETRY: Duration = Duration::from_secs(5);

/// An element of a list may have more bytes than a payload: escapes make it up to three times as large.
const ESCAPED: u64 = 3;
const AROUND: u64 = 64 << 10;

/// So many bytes are read of a record at least.
const LEAST_LONGEST: u64 = 8 << 20;

type Work = BoxFuture<'static, ()>;

/// The queues of a Redis, as this sidecar sees them.
pub(super) struct Redis {
    link: Link,
    keys: Keys,
    config: Config,
    metrics: Arc<Metrics>,
    known: Arc<Known>,
    works: mpsc::UnboundedSender<Work>,
    leases: Mutex<Leases>,
    /// For bytes of results that wait for Redis.
    room_for_results: Arc<Semaphore>,
    /// What may have been handed out, to nobody: the answer that says so was lost.
    unheard: Mutex<Vec<(JobId, Record)>>,
    /// Where jobs are enqueued while Redis is away. None: they are refused.
    buffer: Option<Buffer>,
    /// Those that Redis remembers to have, which are not to be enqueued again.
    arrived: Mutex<Vec<JobId>>,
    /// Those that Redis was asked to enqueue without an answer: it remembers them longer.
    in_doubt: Mutex<HashSet<JobId>>,
    searches: Searches,
    recurrences: tokio::sync::Mutex<Recurrences>,
    /// Up to when whatever was due has been looked at, in ms since 1970.
    seen_due: AtomicU64,
    /// Whether Redis does not let what nobody uses any more be removed.
    is_untidy: AtomicBool,
    /// Queues that wait since a key of another type is in the way of their limits.
    in_the_way: Mutex<HashSet<String>>,
    /// Of which queues the first job does not tell when it was enqueued, by their names.
    undated: Mutex<HashMap<String, Undated>>,
    /// What it does not let be written, while it can be asked.
    refusals: Refusals,
    /// Which keys are not as they should be.
    notices: Notices,
    /// Why all queues stand still, as others want it.
    all_paused: ArcSwapOption<String>,
    /// How many wait for jobs of which queues,
    wanted: Mutex<HashMap<String, usize>>,
    /// and in which of these there were some at the last look.
    ready: watch::Sender<HashSet<String>>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis at {}", self.link.server)
    }
}

impl Redis {
    pub(super) fn start(
        server: Server,
        config: &Config,
        known: Arc<Known>,
        metrics: &Arc<Metrics>,
        tasks: &Tasks,
    ) -> io::Result<Arc<Self>> {
        let (works, asked) = mpsc::unbounded_channel();
        config.password_file.iter().for_each(|file| warn_if_open("queue.password_file", file));
        let folder = config.path.clone().filter(|_| config.buffer);
        let buffer = folder.map(|folder| Buffer::open(folder, config, metrics, tasks)).transpose()?;
        let redis = Arc::new(Self {
            link: Link::new(server, config.clone()),
            keys: Keys::new(&config.prefix),
            config: config.clone(),
            metrics: metrics.clone(),
            known,
            works,
            leases: Mutex::default(),
            room_for_results: Arc::new(Semaphore::new(MAX_KEPT_RESULTS)),
            unheard: Mutex::default(),
            buffer,
            arrived: Mutex::default(),
            in_doubt: Mutex::default(),
            searches: Searches::default(),
            recurrences: tokio::sync::Mutex::new(Recurrences::new(&config.recurring)),
            seen_due: AtomicU64::new(0),
            is_untidy: AtomicBool::new(false),
            in_the_way: Mutex::default(),
            undated: Mutex::default(),
            refusals: Refusals::default(),
            notices: Notices::default(),
            all_paused: ArcSwapOption::empty(),
            wanted: Mutex::default(),
            ready: watch::Sender::default(),
        });
        let (of_thread, stop) = (redis.clone(), tasks.stop_signal());
        tasks.thread("the queue", move |_| async move { of_thread.live(asked, &stop).await })?;
        Ok(redis)
    }

    /// Does what is asked, and keeps a connection, until the stop. What is under way then is finished.
    async fn live(&self, mut asked: mpsc::UnboundedReceiver<Work>, stop: &Stop) {
        if let Some(buffer) = &self.buffer {
            // What is in it comes before all that is asked.
            _ = timeout(TIMEOUT, buffer.load()).await;
        }
        let mut works = FuturesUnordered::<Work>::new();
        let mut connected = std::pin::pin!(self.stay_connected());
        let mut is_last = false;
        while !is_last || !works.is_empty() {
            tokio::select! {
                () = &mut connected => return,
                Some(()) = works.next() => {}
                Some(work) = asked.recv() => works.push(work),
                () = stop.requested(), if !is_last => {
                    is_last = true;
                    asked.close();
                }
            }
        }
    }

    async fn stay_connected(&self) {
        let mut backoff = Backoff::new(LEAST_RETRY, MOST_RETRY);
        loop {
            let why = match self.link.connect().await {
                Ok((connection, driver)) => tokio::select! {
                    why = self.keep(&connection, &mut backoff) => why.to_string(),
                    why = self.deliver_always() => why.to_string(),
                    () = driver => format!("Redis at {} cannot be used: the connection has ended", self.link.server),
                },
                Err(failed) => failed.to_string(),
            };
            self.metrics.queue_failures.increment();
            if self.link.lose(why.clone()) {
                match self.buffer {
                    Some(_) => tracing::error!(
                        error = why,
                        "the queues hand out no jobs until that is mended; what is enqueued waits in the buffer"
                    ),
                    None => tracing::error!(error = why, "the queues take and hand out no jobs until that is mended"),
                }
            }
            self.known.trouble.store(Some(Arc::new(why)));
            sleep(backoff.delay()).await;
        }
    }

    /// Does what the time has come for, until the connection cannot be used any more.
    async fn keep(&self, connection: &MultiplexedConnection, backoff: &mut Backoff) -> Failed {
        let (mut is_new, mut tick) = (true, Instant::now());
        // Meanwhile others may have written, or Redis may have lost what was.
        self.recurrences.lock().await.read_again();
        loop {
            if tick <= Instant::now() {
                tick = Instant::now() + TICK;
                let ticked = async {
                    self.link.keep(connection).await?;
                    self.look_whether_it_takes_writes().await?;
                    self.tick().await
                };
                match ticked.await {
                    Ok(true) => {}
                    Ok(false) => tick = Instant::now() + LOOK_INTERVAL,
                    Err(failed) => return failed,
                }
                if std::mem::take(&mut is_new) {
                    tracing::info!(server = %self.link.server, "the queues are open");
                    self.known.trouble.store(None);
                    self.link.is_well();
                    backoff.reset();
                }
                self.refusals.log();
            }
            if let Err(failed) = self.passes_over("roster:paused", self.look_for_wanted().await) {
                return failed;
            }
            sleep_until(tick.min(Instant::now() + LOOK_INTERVAL)).await;
        }
    }

    /// Delivers what is in the buffer, until the connection cannot be used any more. A disk that hangs holds up nothing else.
    async fn deliver_always(&self) -> Failed {
        let Some(buffer) = &self.buffer else { return std::future::pending().await };
        loop {
            sleep(LOOK_INTERVAL).await;
            if self.link.now().is_ok()
                && buffer.load().await.is_ok()
                && let Err(failed) = self.deliver(buffer).await
            {
                return failed;
            }
        }
    }

    /// What Redis refuses, what is wrong with the buffer, for one who sees these queues, or why no job is handed out.
    pub(super) fn trouble(&self, sees: impl Fn(&str) -> bool) -> Option<Arc<String>> {
        let of_buffer = || self.buffer.as_ref().and_then(|buffer| buffer.trouble(sees));
        self.refusals.trouble().or_else(of_buffer).or_else(|| self.all_paused.load_full())
    }

    pub(super) fn refuses_writes(&self) -> bool {
        self.refusals.are_of_all_queues()
    }

    /// Whether something could be written, though nothing is: what takes nothing is of no use, and another may have its name by
    /// now. Without memory it does all but what makes it grow; and who only enqueues there may have no rights to more.
    async fn look_whether_it_takes_writes(&self) -> Result<(), Failed> {
        let arguments = Arguments::default().text(self.keys.popped());
        match self.link.run::<u8>(&scripts::PROBE, arguments).await {
            Err(failed) if failed.lacks == Some(Lack::Memory) => self.refusals.note(Write::Growth, &failed),
            Err(failed) if failed.lacks.is_none() && !failed.is_of_data => return Err(failed),
            // What is wrong with a key is told where it is read.
            _ => self.refusals.end(Write::Growth),
        }
        Ok(())
    }

    /// Has the thread do something, and waits for it. Once asked it is done, whether anybody waits or not; what nobody waits
    /// for any more is undone by `unwanted`.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        place: &Place,
        work: impl FnOnce(Arc<Self>) -> BoxFuture<'static, Result<T, Refused>> + Send + 'static,
        unwanted: impl FnOnce(Arc<Self>, T) -> BoxFuture<'static, ()> + Send + 'static,
    ) -> Result<T, Refused> {
        let (reply, told) = oneshot::channel();
        let (this, place) = (self.clone(), place.clone());
        let work = async move {
            let outcome = work(this.clone()).await;
            if let Err(Ok(done)) = reply.send(outcome) {
                unwanted(this, done).await;
            }
            drop(place);
        };
        let stopping = || Refused::Unavailable("the sidecar is stopping".to_owned());
        self.works.send(Box::pin(work)).map_err(|_| stopping())?;
        told.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Whether all was as expected, and so it is done.
    async fn change(&self, step: Step<'_>) -> Result<bool, Failed> {
        self.link.run::<u8>(&scripts::CHANGE, step.arguments()).await.map(|done| done == 1)
    }

    /// The record of a job as it is written. What is no text is none, nor what is too large.
    async fn record_of(&self, id: JobId) -> Result<Option<String>, Failed> {
        let (key, field) = (self.keys.jobs(), id.to_string());
        let read = self.field(&key, &field).await?;
        let text = String::from_utf8(self.text_of(&key, field.as_bytes(), read)).ok();
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// A field of a hash, or its length where it is too large.
    async fn field(&self, key: &str, field: &str) -> Result<Value, Failed> {
        let arguments = Arguments::default().text(key).text(field).number(self.longest());
        self.link.run(&scripts::FIELD, arguments).await
    }

    /// The text that a script has read; empty: there is none, or its length alone is told, of which the log has a line.
    fn text_of(&self, key: &str, of: &[u8], read: Value) -> Vec<u8> {
        match read {
            Value::BulkString(text) => text,
            Value::Int(bytes) => {
                let of = shortened(&String::from_utf8_lossy(of), 100).into_owned();
                if self.notices.are_due(&format!("{of} of {key}"), Moment::now()) {
                    tracing::error!(
                        key,
                        of = &*of,
                        bytes,
                        "something in a key of Redis is too large for `queue.max_job_bytes`: it is not read; raise that, or remove it"
                    );
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn largest(&self) -> u64 {
        largest(&self.config)
    }

    /// What has more bytes is left unread: a record has an element as a text of JSON, or a result. Another sidecar may take larger
    /// ones.
    fn longest(&self) -> u64 {
        self.largest().saturating_mul(4).max(LEAST_LONGEST)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn largest(config: &Config) -> u64 {
    config.max_job_bytes.as_u64().saturating_mul(ESCAPED).saturating_add(AROUND)
}

/// Nobody minds that it is done.
fn no_matter<T: Send + 'static>(_: Arc<Redis>, _: T) -> BoxFuture<'static, ()> {
    Box::pin(async {})
}
