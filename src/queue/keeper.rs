//! The keeper: the thread that has the file. It gathers what is asked into transactions, and answers what is on the disk.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::unistd::geteuid;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::attempt::{Most, Update};
use super::book::Book;
use super::change::{Change, Fault, Now, Outcome, Refused, Tally, millis};
use super::death::Death;
use super::engine::{self, Engine, EngineError, NotOpened, Stamp, Txn, sound};
use super::enqueue::Asker;
use super::failures::Failure;
use super::handed::{Back, Handed};
use super::job::{Job, JobId};
use super::keys::QueueNumber;
use super::limit::Looks;
use super::requests::Requests;
use super::{ASK_SIZE, Config, Known, Place, Recurrences, Sources, Totals, keys};
use crate::clock::{Moment, millis_since_1970};
use crate::metrics::Metrics;
use crate::permissions::own::name_of;
use crate::permissions::{Claim, NotClaimed};
use crate::share::Taken;
use crate::task::{Stop, wake};

/// How soon it is tried again to open a file that could not be, or to find room in it.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// The longest rest, after which it is looked whether the clock on the wall was set.
const MAX_REST: Duration = Duration::from_secs(10);

/// A disk that takes longer is reported.
pub(super) const SLOW: Duration = Duration::from_secs(5);

/// What the thread is asked.
pub(super) struct Ask {
    pub(super) what: What,
    pub(super) at: Instant,
    pub(super) place: Place,
}

pub(super) enum What {
    Work(Work),
    /// The same, of what makes the file grow.
    Growth(Work),
    /// Boxed: otherwise each ask would be as large.
    Take(Box<Taker>),
    /// These attempts arrived nowhere.
    GiveBack(Vec<(JobId, u32)>),
}

/// Does something, and gives what tells of it, for when that is on the disk. An error makes the whole transaction fail.
pub(super) type Work = Box<dyn FnOnce(&mut Change<'_, '_>) -> Result<Box<dyn FnOnce() + Send>, EngineError> + Send>;

/// Whoever wants jobs.
pub(super) struct Taker {
    /// None: the sidecar, for its workers.
    pub(super) asker: Option<Asker>,
    pub(super) sources: Sources,
    pub(super) most: Most,
    pub(super) lease: Option<Duration>,
    /// Whether it waits until there is one,
    pub(super) is_patient: bool,
    /// and there was none.
    pub(super) has_waited: bool,
    pub(super) reply: oneshot::Sender<Result<(Vec<Job>, Handed), Refused>>,
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.what {
            What::Work(_) => "Work",
            What::Growth(_) => "Growth",
            What::Take(_) => "Take",
            What::GiveBack(_) => "GiveBack",
        })
    }
}

impl Ask {
    pub(super) fn size(&self) -> usize {
        self.place.as_ref().as_ref().map_or(ASK_SIZE, Taken::amount)
    }
}

#[derive(Debug)]
pub(super) struct Keeper {
    folder: PathBuf,
    config: Config,
    known: Arc<Known>,
    metrics: Arc<Metrics>,
    asked: Requests,
    asks: mpsc::WeakUnboundedSender<Ask>,
    began: Instant,
    takers: VecDeque<(Box<Taker>, Place)>,
    /// Attempts that arrived nowhere.
    unwanted: Vec<(JobId, u32)>,
    /// When there was last no room on the disk. Until there is, what needs room does not share a transaction.
    full_since: Option<Instant>,
    /// The files as they were when they were refused for what they say. Until they change they are not read again.
    refused: Option<Stamp>,
    /// When leases end, by the book that was given up.
    ends: HashMap<JobId, u64>,
    recurrences: Recurrences,
}

/// The file, while it is open, and what is known of it.
struct Opened<'e> {
    txn: Txn<'e>,
    book: Book,
}

/// What is carried out together.
#[derive(Default)]
struct Asked {
    asks: Vec<Ask>,
    /// Leases are over that ended before this, by the clock of leases; none: what the time has come for waits.
    heard_until: Option<u64>,
    /// Whether recurring jobs are enqueued that are due.
    has_recurring: bool,
}

/// What has become of a transaction.
#[derive(Default)]
struct Batch {
    tally: Tally,
    replies: Vec<Box<dyn FnOnce() + Send>>,
    handed: Vec<(Box<Taker>, Vec<Job>)>,
    /// Those that are answered when it is dropped.
    refused: Vec<Ask>,
}

impl fmt::Debug for Taker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Taker of {:?}", self.sources)
    }
}

impl Keeper {
    pub(super) fn new(
        folder: PathBuf,
        config: Config,
        known: Arc<Known>,
        metrics: Arc<Metrics>,
        (asks, asked): (mpsc::WeakUnboundedSender<Ask>, mpsc::UnboundedReceiver<Ask>),
    ) -> Self {
        let recurrences = Recurrences::new(&config.recurring);
        Self {
            folder,
            config,
            known,
            metrics,
            asked: Requests::new(asked),
            asks,
            began: Instant::now(),
            takers: VecDeque::new(),
            unwanted: Vec::new(),
            full_since: None,
            refused: None,
            ends: HashMap::new(),
            recurrences,
        }
    }

    pub(super) async fn run(mut self, stop: &Stop) {
        loop {
            match self.refused {
                Some(refused) if engine::stamp(&self.folder) == refused => {}
                _ => match self.open() {
                    Ok((_claim, mut engine)) => {
                        if self.keep(&mut engine, stop).await.is_ok() {
                            return;
                        }
                    }
                    Err(why) => self.be_in_trouble(why),
                },
            }
            #[cfg(test)]
            self.known.attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if self.refuse_for_a_while(stop).await {
                return;
            }
        }
    }

    fn be_in_trouble(&self, why: String) {
        if self.known.trouble.load().as_deref() != Some(&why) {
            tracing::error!(error = why, "the queues cannot be written");
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
                ask = self.asked.recv() => match ask.map(|ask| ask.what) {
                    None => return true,
                    Some(What::GiveBack(attempts)) => self.unwanted.extend(attempts),
                    // Dropped, it is answered.
                    Some(_) => {}
                },
            }
        }
    }

    /// Claims and opens the file. One that is damaged is set aside, and another begun.
    fn open(&self) -> Result<(Claim, Engine), String> {
        engine::make_private(&self.folder).map_err(|error| self.unusable(&error.into()))?;
        #[cfg(test)]
        self.known.opens.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Within the folder: others may have mounted it at another place.
        let claim = Claim::of(&engine::file_in(&self.folder)).map_err(|why| self.unusable(&why))?;
        let damage = |error: &dyn fmt::Display, file: &Path| -> Result<(), String> {
            let aside = engine::set_aside(file, self.now().wall)
                .map_err(|failed| format!("{error}, and it cannot be set aside: {failed}"))?;
            let told = format!(
                "{error}; it is set aside in {}, its log as jobs.log.set-aside-*, and its jobs are not performed",
                aside.display()
            );
            tracing::error!(error = told, "jobs are lost; the queues begin anew");
            self.known.damage.store(Some(Arc::new(told)));
            Ok(())
        };
        let engine = match Engine::open(&self.folder, &self.config) {
            Err(NotOpened::Damaged { file, error }) => {
                damage(&format!("{}: {error}", file.display()), &file)?;
                Engine::open(&self.folder, &self.config)
            }
            opened => opened,
        }
        .map_err(|error| error.to_string())?;
        Ok((claim, engine))
    }

    /// Why the folder cannot be had, with the setting, and the cure where that does not lie in the reason.
    fn unusable(&self, why: &NotClaimed) -> String {
        let cure = match why {
            NotClaimed::Held(_) => "; stop that one, or choose another folder".to_owned(),
            NotClaimed::Failed(error) if error.raw_os_error().is_some_and(is_of_the_place) => {
                let user = name_of(geteuid().as_raw());
                format!("; have it made for {user}, or choose another folder")
            }
            NotClaimed::Failed(_) => String::new(),
        };
        format!("queue.path: cannot use {}: {why}{cure}", self.folder.display())
    }

    fn load<'e>(&self, engine: &'e mut Engine) -> Result<Opened<'e>, EngineError> {
        let mut txn = engine.begin()?;
        let book = self.read(&mut txn)?;
        if let Some(damage) = &book.damage {
            self.known.damage.store(Some(Arc::new(format!("{}: {damage}", self.folder.display()))));
        }
        Ok(Opened { txn, book })
    }

    /// Reads the book, and marks the file as what it is: nobody may take jobs that are for Redis for any others. All of a
    /// buffer are, also those that were there before.
    fn read(&self, txn: &mut Txn<'_>) -> Result<Book, EngineError> {
        let mut book = Book::load(txn, self.now(), &self.ends)?;
        // Also where the mark is damaged there is one.
        let is_buffer = sound(txn.get(keys::BUFFER))? != Some(None);
        let (mut dead, mut done) = (0, 0);
        book.queues.values().for_each(|queue| (dead, done) = (dead + queue.counts.dead, done + queue.counts.done));
        let is_all_over = book.total.jobs == dead + done;
        match (is_buffer, self.config.buffer) {
            (true, true) | (false, false) => {}
            // Those that were damaged are listed and purged as all that are dead.
            (true, false) if !is_all_over => {
                return Err(EngineError::OtherUse(
                    "they are for Redis: set `queue.buffer` until it has them, or another `queue.path`".to_owned(),
                ));
            }
            (true, false) => txn.delete(keys::BUFFER)?,
            (false, true) => {
                if book.total.jobs > 0 {
                    let (jobs, path) = (book.total.jobs, self.folder.display().to_string());
                    tracing::info!(path, jobs, dead, done, "the jobs of this folder are for Redis from now on");
                }
                // Those that are there have lower ids.
                txn.put(keys::BUFFER, &book.next_job().to_be_bytes())?;
            }
        }
        Ok(book)
    }

    /// Carries out what is asked, until the stop. After an error it is to be opened anew: LMDB may refuse all work, and
    /// the book tells of what was not written.
    async fn keep(&mut self, engine: &mut Engine, stop: &Stop) -> Result<(), EngineError> {
        let loaded = self.load(engine);
        if let Err(error) = &loaded {
            self.refused = error.is_of_what_was_read().then(|| engine::stamp(&self.folder));
            self.be_in_trouble(format!("cannot read {}: {error}", self.folder.display()));
        }
        let mut opened = loaded?;
        self.recurrences.read_again();
        let (jobs, path) = (opened.book.total.jobs, self.folder.display().to_string());
        // Whether it can be written at all.
        self.turn(&mut opened, None)?;
        tracing::info!(path, jobs, "the queues are open");
        let mut is_last = false;
        while !is_last || !self.asked.is_empty() {
            let rest = self.rest(&opened);
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
            self.turn(&mut opened, first)?;
        }
        if let Err(error) = opened.txn.close() {
            // The log has it.
            tracing::warn!(%error, "the queues could not be written to their file at the stop");
        }
        Ok(())
    }

    /// One transaction; where the disk is full, two: requests that make room or report must not fail with those that
    /// need more.
    fn turn(&mut self, opened: &mut Opened<'_>, first: Option<Ask>) -> Result<(), EngineError> {
        let mut asked = self.gather(first);
        let Some(since) = self.full_since else { return self.transact(opened, asked) };
        let growth: Vec<Ask> = asked.asks.extract_if(.., |ask| matches!(ask.what, What::Growth(_))).collect();
        let heard_until = asked.heard_until.take();
        asked.has_recurring = false;
        self.transact(opened, asked)?;
        // Until then they are dropped, and so answered.
        if since.elapsed() >= RETRY_DELAY {
            self.transact(opened, Asked { asks: Vec::new(), heard_until, has_recurring: false })?;
            if growth.is_empty() {
                // Where there is none yet, it is looked again as late as this time.
                self.full_since = opened.txn.ensure_room().err().map(|_| Instant::now());
            }
            self.transact(opened, Asked { asks: growth, heard_until: None, has_recurring: true })?;
        }
        Ok(())
    }

    /// What has been asked by now, as much as one transaction carries out.
    fn gather(&mut self, first: Option<Ask>) -> Asked {
        let now = self.now().uptime;
        let (asks, oldest) = self.asked.batch(first, self.full_since.is_some());
        let heard_until = oldest.map_or(now, |oldest| now.min(self.uptime_of(oldest)));
        Asked { asks, heard_until: Some(heard_until), has_recurring: true }
    }

    fn transact(&mut self, opened: &mut Opened<'_>, asked: Asked) -> Result<(), EngineError> {
        let (mut batch, began) = (Batch::default(), Instant::now());
        let is_growth = asked.asks.iter().any(|ask| matches!(ask.what, What::Growth(_)))
            || asked.has_recurring && self.recurrences.next_look() <= self.now().wall;
        self.known.set_writing_since(Some(began));
        let has_room = if is_growth { opened.txn.ensure_room() } else { Ok(()) };
        let carried_out = match has_room {
            Ok(()) => self.carry_out(opened, asked, &mut batch),
            Err(error) => {
                batch.refused = asked.asks;
                Err(error)
            }
        };
        self.known.set_writing_since(None);
        if began.elapsed() >= SLOW {
            tracing::warn!(took = ?began.elapsed(), "the disk of the queues is slow");
        }
        if let Err(error) = carried_out {
            self.ends = opened.book.leases.ends();
            // Before the waiting callers are answered, the batch is dropped.
            self.be_in_trouble(format!("cannot write {}: {error}", self.folder.display()));
            if !error.is_lack_of_room() {
                return Err(error);
            }
            self.full_since = Some(Instant::now());
            opened.txn.roll_back()?;
            let mut delays = std::mem::take(&mut opened.book.delays);
            delays.roll_back();
            opened.book = self.read(&mut opened.txn)?;
            opened.book.delays = delays;
            self.recurrences.read_again();
            return Ok(());
        }
        if is_growth {
            self.full_since = None;
        }
        if self.full_since.is_none() && self.known.trouble.load().is_some() {
            tracing::info!("the queues can be written again");
            self.known.trouble.store(None);
        }
        // Who has a job counts from now on.
        opened.book.leases.settle(began.elapsed().as_millis() as u64);
        opened.book.delays.settle();
        self.publish(&opened.book);
        self.note_failures(&opened.book, std::mem::take(&mut batch.tally.retried));
        if let Some(told) = self.recurrences.told() {
            self.known.recurring.store(Arc::new(told));
        }
        self.answer(batch);
        Ok(())
    }

    /// What was asked, what the time has come for, and what there is for waiting takers.
    fn carry_out(&mut self, opened: &mut Opened<'_>, asked: Asked, batch: &mut Batch) -> Result<(), EngineError> {
        let Opened { txn, book } = opened;
        let (config, now) = (&self.config, self.now());
        let has_room = self.full_since.is_none();
        let mut change = Change { txn, book, config, now, has_room, tally: &mut batch.tally, looks: Looks::default() };
        for Ask { what, place, .. } in asked.asks {
            match what {
                What::Work(work) | What::Growth(work) => batch.replies.push(work(&mut change)?),
                What::Take(taker) => self.takers.push_back((taker, place)),
                What::GiveBack(attempts) => self.unwanted.extend(attempts),
            }
        }
        for (id, attempt) in &self.unwanted {
            // Its lease may be over by now.
            let _ = sound_or_refused(change.update(*id, *attempt, &Update::Release { delay: Duration::ZERO }))?;
        }
        if let Some(heard_until) = asked.heard_until {
            change.tick(heard_until)?;
        }
        // A buffer has what was settled until Redis knows it.
        if asked.has_recurring && !self.config.buffer {
            self.recurrences.enqueue_due(&mut change)?;
        }
        self.takers.retain(|(taker, _)| !taker.reply.is_closed());
        let open = change.book.opened(now.uptime);
        for (mut taker, place) in std::mem::take(&mut self.takers) {
            if taker.has_waited && !taker.sources.names().any(|queue| open.contains(queue)) {
                self.takers.push_back((taker, place));
                continue;
            }
            taker.has_waited = true;
            match sound_or_refused(change.take(taker.asker, &taker.sources, taker.most, taker.lease))? {
                Ok(taken) if taken.is_empty() && taker.is_patient => self.takers.push_back((taker, place)),
                Ok(taken) => batch.handed.push((taker, taken)),
                Err(why) => batch.replies.push(Box::new(move || _ = taker.reply.send(Err(why)))),
            }
        }
        if opened.book.has_changed() {
            opened.book.save(&mut opened.txn)?;
            opened.txn.commit()?;
            #[cfg(test)]
            self.known.transactions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        if opened.txn.sync_in() == Some(Duration::ZERO) {
            opened.txn.sync()?;
            #[cfg(test)]
            self.known.syncs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        self.unwanted.clear();
        Ok(())
    }

    fn note_failures(&self, book: &Book, retried: HashMap<QueueNumber, (u32, Failure)>) {
        for (number, (attempts, first)) in retried {
            if let Some(queue) = book.queues.get(&number) {
                self.known.failures.note(&queue.name, attempts, || first);
            }
        }
    }

    fn answer(&mut self, batch: Batch) {
        let Tally { enqueued, attempts, done, failed, died, deaths, .. } = batch.tally;
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
        deaths.iter().for_each(Death::log);
        if let more @ 1.. = died.saturating_sub(deaths.len() as u64) {
            tracing::warn!(more, "more jobs died at the same time: `roster queue list` counts them");
        }
        wake::together(|| {
            batch.replies.into_iter().for_each(|reply| reply());
            for (taker, jobs) in batch.handed {
                let attempts = jobs.iter().map(|job| (job.id, job.attempt)).collect();
                let handed = Handed::new(attempts, Back::Keeper(self.asks.clone()));
                // Where nobody takes them, they are dropped with it.
                let _ = taker.reply.send(Ok((jobs, handed)));
            }
        });
    }

    /// How long nothing has to be done that nobody asks for.
    fn rest(&self, Opened { txn, book }: &Opened<'_>) -> Duration {
        let Now { wall, since_boot, uptime } = self.now();
        let keep_dead = self.config.keep_dead.as_millis() as u64;
        let of_queues = book
            .queues
            .values()
            .flat_map(|queue| [queue.first_delayed, queue.first_dead.saturating_add(keep_dead), queue.first_done]);
        let next = of_queues.min().unwrap_or(u64::MAX).saturating_sub(wall);
        let lease = book.leases.first().map_or(u64::MAX, |lease| lease.end.saturating_sub(uptime));
        let delay = book.delays.first().map_or(u64::MAX, |(end, _)| end.saturating_sub(since_boot));
        let recurring = self.recurrences.next_look().saturating_sub(wall);
        // Of those that are not open yet.
        let held = book.queues.values().filter_map(|queue| queue.held_until.filter(|until| *until > uptime)).min();
        let held = held.map_or(u64::MAX, |until| until - uptime);
        let rest = Duration::from_millis(next.min(delay).min(lease).min(recurring)).min(MAX_REST);
        let rest = match self.full_since {
            Some(since) => rest.max(RETRY_DELAY.saturating_sub(since.elapsed())),
            None => rest,
        };
        // Jobs are handed out also where the disk is full.
        rest.min(Duration::from_millis(held)).min(txn.sync_in().unwrap_or(MAX_REST))
    }

    fn publish(&self, book: &Book) {
        let mut totals = Totals { queues: book.queues.len() as u64, ..Totals::default() };
        for counts in book.queues.values().map(|queue| &queue.counts) {
            totals.waiting += counts.waiting;
            totals.delayed += counts.delayed;
            totals.running += counts.running;
            totals.dead += counts.dead;
            totals.done += counts.done;
            totals.bytes += counts.bytes;
        }
        self.known.count(totals);
    }

    fn now(&self) -> Now {
        Now {
            wall: millis_since_1970(SystemTime::now()),
            since_boot: millis(Moment::now().since_boot()),
            uptime: self.uptime_of(Instant::now()),
        }
    }

    fn uptime_of(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began).as_millis() as u64
    }
}

/// Whether an error says that our user can make nothing there.
fn is_of_the_place(error: i32) -> bool {
    use Errno::{EACCES, ENOENT, ENOTDIR, EPERM, EROFS};
    matches!(Errno::from_raw(error), EACCES | ENOENT | ENOTDIR | EPERM | EROFS)
}

/// What was done, or why not; what is damaged is as good as refused.
pub(super) fn sound_or_refused<T>(outcome: Outcome<T>) -> Result<Result<T, Refused>, EngineError> {
    match outcome {
        Ok(done) => Ok(Ok(done)),
        Err(Fault::Refused(why)) => Ok(Err(why)),
        Err(Fault::Engine(error)) if error.is_of_the_file() => Err(error),
        Err(Fault::Engine(error)) => Ok(Err(Refused::Unavailable(error.to_string()))),
    }
}
