//! Performing: hands jobs of queues to the workers that perform them, over the channel that each process has.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{FutureExt, pending};
use futures::stream::FuturesUnordered;
use rmpv::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::access::{Access, Denied};
use crate::model::Arguments;
use crate::mutant;
use crate::queue::{Job, JobId, MAX_WEIGHT, MIN_LEASE, Most, Performing, Progress, Queues, Refused, Sources, Update};
use crate::share::{KEPT_FOR_ADMINS, Pool, Share, Shares};
use crate::task::{Stop, Tasks};
use crate::tunnel::worker::{JobReport, Performed};
use crate::tunnel::{SendError, Status, StreamError};
use crate::worker::{Addressee, End, Ended, NoAnswer, OfJobs, Performer};

/// What a process is asked. Applications have no command of this name.
const PERFORM: &str = "roster:perform";

/// What a job throws to be given back or to die, as the package does; and what it reports of one that PHP dies of.
const RELEASED: &str = "Roster\\Exception\\JobReleased";
const BURIED: &str = "Roster\\Exception\\JobBuried";
const DEATH: &str = "Roster\\Worker\\Death";

/// How long one look for jobs lasts; and how soon the next one is, where it failed, or the process did not accept a job.
const LOOK_TIME: Duration = Duration::from_secs(600);
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// How often it is passed on at most how far a job is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// A process says of all its queues at once that it performs them: it is handed no job before, which would be given back.
const SETTLE_TIME: Duration = Duration::from_millis(100);

/// How many reports of a process may wait to be written while it is handed jobs.
const MAX_REPORTS: usize = 16;

/// Jobs that wait in a process have no more bytes, beside the last of them: so it still reads that one is withdrawn.
const MAX_WAITING_BYTES: usize = 32 << 10;

/// What a job has beside its payload.
const OVERHEAD: usize = 512;

/// Of its timeout, a job has nine parts in ten, or its lease is prolonged when it begins.
const PARTS: u32 = 10;

/// Hands out jobs to whoever performs them, until the stop.
pub async fn run(
    mut performers: mpsc::UnboundedReceiver<Performer>,
    queues: Arc<Queues>,
    access: Arc<Access>,
    memory: Arc<Pool>,
    tasks: Tasks,
) {
    let (stop, memory) = (tasks.stop_signal(), Shares::of(memory, Some(KEPT_FOR_ADMINS)));
    loop {
        let performer = tokio::select! {
            performer = performers.recv() => performer,
            () = stop.requested() => return,
        };
        // Without workers there is nobody who performs.
        let Some(Performer { addressee, pid, user, groups, said, life, ended, ready }) = performer else {
            return stop.requested().await;
        };
        if !queues.is_on() {
            let worker = &addressee.worker;
            tracing::error!(
                worker,
                "a worker performs jobs, and there are no queues: set `path` or `backend` of `[queue]`"
            );
            continue;
        }
        let (queues, memory, stop) = (queues.clone(), memory.share(user), stop.clone());
        let (held, performing) = (watch::Sender::default(), queues.performer(addressee.worker.clone(), pid));
        let process = Process { addressee, life, ended, ready, queues, memory, held, performing, stop };
        let access = access.clone();
        let may_perform = move |queue: &str| match access.has_rules() {
            true => access.identify(user, || groups.clone()).may_perform(queue),
            false => Ok(()),
        };
        tasks.short(process.run(said, may_perform));
    }
}

/// A process that performs jobs, one after the other.
struct Process {
    addressee: Addressee,
    /// Closed when its connection ends, and changed when it is asked to stop: true once it is ended for reasons that are not
    /// its own.
    life: watch::Receiver<bool>,
    ended: Ended,
    /// True once it is ready.
    ready: watch::Receiver<bool>,
    queues: Arc<Queues>,
    /// Charged with what jobs return, which nobody reads.
    memory: Arc<Share>,
    held: watch::Sender<Held>,
    /// What others are told of that.
    performing: Performing,
    stop: Stop,
}

/// What jobs a process is handed, and how many at once.
#[derive(Clone, Debug, Default)]
struct Lane {
    sources: Sources,
    at_once: usize,
}

/// What a process has.
#[derive(Debug, Default)]
struct Held {
    /// Jobs in the order in which they were handed over: it has begun none but the first one.
    jobs: VecDeque<HeldJob>,
    /// That one takes longer than it may, or ends the process. Until that answers, it is handed nothing.
    is_late: bool,
    /// How many it has not accepted just now: it would not accept the next one either.
    not_accepted: usize,
}

#[derive(Debug)]
struct HeldJob {
    id: JobId,
    attempt: u32,
    size: usize,
    /// Whether the process has said that it takes longer,
    is_touched: bool,
    /// and how far it is, what was not passed on yet.
    progress: Option<Progress>,
}

impl Held {
    fn is_closed(&self) -> bool {
        self.is_late || self.not_accepted > 0
    }

    fn has_room(&self) -> bool {
        !self.is_closed() && self.jobs.iter().skip(1).map(|job| job.size).sum::<usize>() < MAX_WAITING_BYTES
    }

    fn is_turn_of(&self, id: JobId) -> bool {
        self.jobs.front().is_some_and(|first| first.id == id)
    }

    fn job(&self, id: JobId) -> Option<&HeldJob> {
        self.jobs.iter().find(|job| job.id == id)
    }

    fn job_mut(&mut self, id: JobId) -> Option<&mut HeldJob> {
        self.jobs.iter_mut().find(|job| job.id == id)
    }
}

impl Process {
    async fn run(
        self,
        mut said: mpsc::UnboundedReceiver<OfJobs>,
        may_perform: impl Fn(&str) -> Result<(), Denied> + Send,
    ) {
        // One for all queues, which take turns: so no job waits behind one of another queue while other processes are idle.
        let (lane, mut performed, mut has_more) =
            (watch::Sender::<Lane>::default(), Vec::<(String, u32, usize)>::new(), true);
        let mut performing = pin!(self.perform_jobs(lane.subscribe()));
        loop {
            tokio::select! {
                said = said.recv(), if has_more => match said {
                    Some(OfJobs::Performs { queue, at_once, weight }) => match may_perform(&queue) {
                        Ok(()) => {
                            performed.retain(|(other, ..)| *other != queue);
                            performed.push((queue, weight.unwrap_or(1).clamp(1, MAX_WEIGHT), at_once));
                            let weights = performed.iter().map(|(queue, weight, _)| (queue.clone(), *weight)).collect();
                            let at_once = performed.iter().map(|(.., at_once)| *at_once).min().unwrap_or(0);
                            lane.send_replace(Lane { sources: Sources::by_weight(weights), at_once });
                        }
                        Err(why) => {
                            let worker = &self.addressee.worker;
                            tracing::warn!(worker, %why, "a worker is handed no jobs of a queue");
                        }
                    },
                    Some(OfJobs::Of(report)) => self.hear(report),
                    None => has_more = false,
                },
                () = &mut performing => return,
            }
        }
    }

    /// Notes what the process says of a job, if it has that one.
    fn hear(&self, JobReport { id, attempt, progress }: JobReport) {
        self.held.send_if_modified(|held| {
            let Some(job) = held.job_mut(id).filter(|job| u64::from(job.attempt) == attempt) else { return false };
            match progress {
                Some((percent, note)) => job.progress = Some(Progress::new(percent, &note)),
                None => job.is_touched = true,
            }
            true
        });
    }

    /// Takes as many jobs as the process may have, until its connection ends or it is to stop, and waits for what becomes
    /// of those that it has.
    async fn perform_jobs(&self, mut lane: watch::Receiver<Lane>) {
        let mut life = self.life.clone();
        let (mut under_way, mut taking) = (FuturesUnordered::new(), None);
        let (mut held, mut settled) = (self.held.subscribe(), Instant::now() + SETTLE_TIME);
        loop {
            let Lane { sources, at_once } = lane.borrow_and_update().clone();
            let has = held.borrow_and_update().jobs.len();
            // Who is done with a job has room for the next, whether that is written or not.
            let free = at_once.saturating_sub(has).min((at_once + MAX_REPORTS).saturating_sub(under_way.len()));
            if taking.is_none() && free > 0 {
                taking = Some(self.take(sources, free, settled).boxed());
            }
            let is_idle = taking.is_none();
            let taken = async {
                match &mut taking {
                    Some(taking) => taking.await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                jobs = taken => {
                    taking = None;
                    // Before it is asked whether there is room for more.
                    jobs.iter().for_each(|job| self.hold(job));
                    under_way.extend(jobs.into_iter().map(|job| self.perform(job)));
                }
                Some(()) = under_way.next() => {}
                Ok(()) = held.changed(), if is_idle => {}
                // What it was given meanwhile is given back.
                Ok(()) = lane.changed() => {
                    (taking, settled) = (None, Instant::now() + SETTLE_TIME);
                    // It may take none of it for long, while it has all that it may have.
                    if *self.ready.borrow() {
                        self.performing.performs(&lane.borrow().sources);
                    }
                }
                _ = life.changed() => break,
                () = self.stop.requested() => break,
            }
        }
        drop(taking);
        self.performing.performs(&Sources::default());
        while under_way.next().await.is_some() {}
    }

    async fn take(&self, sources: Sources, jobs: usize, settled: Instant) -> Vec<Job> {
        let mut held = self.held.subscribe();
        sleep_until(settled).await;
        self.is_ready().await;
        self.performing.performs(&sources);
        wait_for(&mut held, Held::has_room).await;
        let most = Most { jobs, bytes: MAX_WAITING_BYTES };
        let taken = tokio::select! {
            biased;
            // What it was given meanwhile is given back.
            () = wait_for(&mut held, Held::is_closed) => return Vec::new(),
            taken = self.queues.take(None, sources, most, None, LOOK_TIME) => taken,
        };
        match taken {
            Ok((jobs, handed)) => {
                handed.have_arrived();
                jobs
            }
            Err(_) => {
                sleep(RETRY_DELAY).await;
                Vec::new()
            }
        }
    }

    /// Waits until the process is ready, which it may never be.
    async fn is_ready(&self) {
        if self.ready.clone().wait_for(|is_ready| *is_ready).await.is_err() {
            pending().await
        }
    }

    fn hold(&self, job: &Job) {
        let (id, attempt, size) = (job.id, job.attempt, job.payload.len() + OVERHEAD);
        let held = HeldJob { id, attempt, size, is_touched: false, progress: None };
        self.held.send_modify(|all| all.jobs.push_back(held));
        self.performing.hold(job);
    }

    /// Has the process perform a job that it holds, and says what became of it.
    async fn perform(&self, job: Job) {
        let (lease, most) = ((job.id, job.attempt), job.timeout);
        let (leased, keeps_result) = (most.max(MIN_LEASE), job.keeps_result);
        let performed = Performed { id: job.id, queue: job.queue.clone(), name: job.name.clone() };
        let data = Arguments::new(value(job));
        let _under_way = self.addressee.begin_job();
        let mut answer = pin!(self.addressee.answer(PERFORM, &data, &self.memory));
        let answered = tokio::select! {
            biased;
            answered = &mut answer => Some(answered),
            until = self.begin(lease, most) => match until {
                Some(until) => {
                    self.performing.begin(lease.0);
                    self.addressee.performs(performed);
                    self.attend(lease, until, most, &mut answer).await
                }
                None => {
                    self.forget(lease.0);
                    return self.report(lease, given_back(0), leased).await;
                }
            },
        };
        let Some(answered) = answered else {
            self.set_late(true);
            let error = format!("it took longer than its timeout, {}", humantime::format_duration(most));
            self.report(lease, Update::Lose { error }, leased).await;
            // Until it is killed, if not before.
            match answer.await.map_err(update) {
                Err(Some(Update::Lose { .. })) => self.end_of_connection().await,
                _ => {
                    self.addressee.has_performed(lease.0);
                    self.set_late(false);
                }
            }
            return self.forget(lease.0);
        };
        // It names the job that was under way, of which it dies.
        let is_death = matches!(&answered, Err(why) if is_death(why));
        let update = match answered {
            Ok(returned) => Some(match returned.filter(|_| keeps_result) {
                Some((value, _)) => {
                    value.as_slice().map_or(Update::Done, |result| Update::Return { result: result.to_vec() })
                }
                None => Update::Done,
            }),
            Err(why) => update(why),
        };
        // Of one that it is lost with, it is told.
        if !matches!(&update, Some(Update::Lose { .. })) {
            self.addressee.has_performed(lease.0);
        }
        let is_its_end = (is_death || self.held.borrow().is_turn_of(lease.0)) && !*self.life.borrow();
        match update {
            Some(Update::Lose { error }) if is_its_end => {
                // Whatever it still does, it does not begin another one.
                self.set_late(true);
                let signal = if is_death { String::new() } else { self.signal_that_ended_it().await };
                let error = error + &signal;
                self.report(lease, Update::Lose { error }, leased).await;
                self.end_of_connection().await;
                self.forget(lease.0);
            }
            // It did not die of what it had not begun, nor of anything where it was to stop.
            Some(Update::Lose { .. }) => {
                self.forget(lease.0);
                self.report(lease, given_back(0), leased).await;
            }
            Some(update) => {
                self.forget(lease.0);
                self.report(lease, update, leased).await;
            }
            None => {
                self.forget(lease.0);
                self.held.send_modify(|held| held.not_accepted += 1);
                self.report(lease, given_back(0), leased).await;
                sleep(RETRY_DELAY).await;
                self.held.send_modify(|held| held.not_accepted -= 1);
            }
        }
    }

    /// Waits until the process begins a job, whose lease goes on until then; returns until when it may take. None: the
    /// process is late with another one, or somebody else has this one by now.
    async fn begin(&self, lease: (JobId, u32), most: Duration) -> Option<Instant> {
        let leased = most.max(MIN_LEASE);
        let (mut held, mut until) = (self.held.subscribe(), Instant::now() + leased);
        loop {
            let turn = wait_for(&mut held, |held| held.is_late || held.is_turn_of(lease.0));
            let has_come = timeout(leased / 2, turn).await.is_ok();
            if has_come && self.held.borrow().is_late {
                return None;
            }
            if !has_come || until - Instant::now() < leased / PARTS * (PARTS - 1) {
                let now = Instant::now();
                match self.queues.update(None, lease, Update::Touch { lease: None }, |_, _| true).await {
                    Ok(_) => until = now + leased,
                    Err(Refused::NotLeased(..) | Refused::NoJob(_)) => return None,
                    // It is not known for how long the disk cannot be written.
                    Err(_) => {}
                }
            }
            if has_come {
                return Some(until.min(Instant::now() + most));
            }
        }
    }

    /// Waits for an answer for as long as the lease lasts, which the process may prolong; none: it is late. Meanwhile it is
    /// passed on how far the job is.
    async fn attend<T>(
        &self,
        lease: (JobId, u32),
        mut until: Instant,
        most: Duration,
        answer: &mut (impl Future<Output = T> + Unpin),
    ) -> Option<T> {
        let (mut touched, mut progressed) = (self.held.subscribe(), self.held.subscribe());
        let mut next = Instant::now();
        loop {
            let progresses = async {
                sleep_until(next).await;
                wait_for(&mut progressed, |held| held.job(lease.0).is_some_and(|job| job.progress.is_some())).await;
            };
            let update = tokio::select! {
                biased;
                () = wait_for(&mut touched, |held| held.job(lease.0).is_some_and(|job| job.is_touched)) => {
                    self.held.send_modify(|held| held.job_mut(lease.0).into_iter().for_each(|job| job.is_touched = false));
                    until = Instant::now() + most;
                    Some(Update::Touch { lease: None })
                }
                answered = timeout_at(until, &mut *answer) => return answered.ok(),
                () = progresses => {
                    next = Instant::now() + PROGRESS_INTERVAL;
                    let mut progress = None;
                    self.held.send_modify(|held| progress = held.job_mut(lease.0).and_then(|job| job.progress.take()));
                    progress.map(Update::Progress)
                }
            };
            if let Some(update) = update {
                // Where that fails, so does the report at the end, which is repeated.
                let _ = timeout_at(until, self.queues.update(None, lease, update, |_, _| true)).await;
            }
        }
    }

    /// Says what became of an attempt, until that is written, or its lease is over in any case.
    async fn report(&self, (id, attempt): (JobId, u32), update: Update, leased: Duration) {
        let until = Instant::now() + leased;
        loop {
            let why = match self.queues.update(None, (id, attempt), update.clone(), |_, _| true).await {
                Ok(_) | Err(Refused::NotLeased(..) | Refused::NoJob(_)) => return,
                Err(why) => why,
            };
            let is_last = Instant::now() >= until
                || tokio::select! {
                    () = sleep(RETRY_DELAY) => false,
                    () = self.stop.requested() => true,
                };
            if is_last {
                tracing::warn!(id, attempt, %why, "what became of a job cannot be written");
                return;
            }
        }
    }

    /// By which signal the process was ended, in words, if it was. Its connection ends a moment before that is known.
    async fn signal_that_ended_it(&self) -> String {
        let mut ended = self.ended.clone();
        let end = timeout(RETRY_DELAY, ended.wait_for(Option::is_some)).await.ok().and_then(Result::ok);
        match end.and_then(|end| *end) {
            Some(end @ End::Killed(_)) => format!("; it {end}"),
            // It has ended by itself, or goes on.
            _ => String::new(),
        }
    }

    fn set_late(&self, is_late: bool) {
        self.addressee.set_late(is_late);
        self.held.send_modify(|held| held.is_late = is_late);
    }

    /// Waits until the process has ended its connection. If it is late for too long, it is killed.
    async fn end_of_connection(&self) {
        // It is closed then.
        let _ = self.life.clone().wait_for(|_| false).await;
        self.addressee.set_late(false);
    }

    fn forget(&self, id: JobId) {
        self.held.send_modify(|held| held.jobs.retain(|job| job.id != id));
        self.performing.forget(id);
    }
}

/// Waits until this is true of what a process has.
async fn wait_for(held: &mut watch::Receiver<Held>, is_true: impl FnMut(&Held) -> bool) {
    // What it has is there for as long as anybody asks.
    let _ = held.wait_for(is_true).await;
}

/// What is wanted of a job that was not done. None: the process has not accepted it.
fn update(why: NoAnswer) -> Option<Update> {
    Some(match why {
        NoAnswer::Failed(StreamError::Failed(why)) if why.status == Status::Refused => return None,
        NoAnswer::Failed(StreamError::Failed(why)) => match why.class.as_deref() {
            Some(RELEASED) => given_back(why.code),
            Some(BURIED) => Update::Bury { error: why.message },
            Some(DEATH) => Update::Lose { error: why.message },
            class => Update::Fail { error: class.map_or(String::new(), |class| format!("{class}: ")) + &why.message },
        },
        // It would be so with each process, for ever.
        NoAnswer::Unsent(SendError::Unfit(why)) => Update::Bury {
            error: format!("it cannot be sent to a worker: {why}; `register.max_message` and `max_queue` bound it"),
        },
        NoAnswer::NoProcess | NoAnswer::NotConnected | NoAnswer::Unsent(_) | NoAnswer::TimedOut(_) => return None,
        // It has returned, and what it has is not kept.
        NoAnswer::NoMemory | NoAnswer::Failed(StreamError::NoMemory) => Update::Done,
        NoAnswer::Failed(_) if mutant::is("done-by-the-dead") => Update::Done,
        NoAnswer::Failed(why @ StreamError::Lost(_)) => Update::Lose { error: format!("its worker is gone: {why}") },
        // Its process has answered so, and goes on.
        NoAnswer::Failed(why) => Update::Fail { error: format!("its worker has not said what became of it: {why}") },
    })
}

/// Whether a process says that it dies of a job.
fn is_death(why: &NoAnswer) -> bool {
    matches!(why, NoAnswer::Failed(StreamError::Failed(why)) if why.class.as_deref() == Some(DEATH))
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
    let some: [Option<(&str, Value)>; 4] = [
        // Without it, nobody need send what nobody keeps.
        job.keeps_result.then_some(("keepsResult", true.into())),
        job.unique_key.map(|key| ("uniqueKey", key.into())),
        job.limit_key.map(|key| ("limitKey", key.into())),
        job.due_at.map(|at| ("dueAt", at.into())),
    ];
    let all = fields.into_iter().chain([timeout]).chain(some.into_iter().flatten());
    Value::Map(all.map(|(name, value)| (name.into(), value)).collect())
}

#[cfg(test)]
mod tests;
