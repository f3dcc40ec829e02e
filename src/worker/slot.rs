//! A slot: one place of a group, in which a process is kept alive.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::channel::{Members, Progress, reached};
use super::config::{Config, Ready, Restart};
use super::limits::{self, Passed};
use super::output::Output;
use super::pass::Passing;
use super::process::{Launcher, Process};
use super::reaper::End;
use super::sockets::Sockets;
use crate::metrics::{Counter, Metrics};
use crate::task::Backoff;

/// How late it is tried again to have a socket.
const MAX_SOCKET_DELAY: Duration = Duration::from_secs(5);

/// What a process's place is in its life, by supervisord's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was asked to stop, or never to start.
    Stopped,
    /// Its process is not ready yet.
    Starting,
    Running,
    /// Its process failed or cannot be had, and the next one waits.
    Backoff,
    /// Its process was asked to end.
    Stopping,
    /// Its process ended, and is not to be started again.
    Exited,
    /// Its processes failed too often.
    Fatal,
}

impl State {
    pub const ALL: [Self; 7] =
        [Self::Stopped, Self::Starting, Self::Running, Self::Backoff, Self::Stopping, Self::Exited, Self::Fatal];

    pub fn name(self) -> &'static str {
        match self {
            Self::Stopped => "STOPPED",
            Self::Starting => "STARTING",
            Self::Running => "RUNNING",
            Self::Backoff => "BACKOFF",
            Self::Stopping => "STOPPING",
            Self::Exited => "EXITED",
            Self::Fatal => "FATAL",
        }
    }
}

/// What is known of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub number: u32,
    pub state: State,
    /// When it came into this state, with this process.
    pub since: SystemTime,
    pub pid: Option<i32>,
    /// How many processes it has had beside the first.
    pub restarts: u64,
    /// Why the process before this one is no more, or cannot be had; empty: nothing happened.
    pub why: String,
}

/// What somebody wants of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Running,
    /// Within this time, or else killed.
    Stopped(Duration),
}

/// What a slot is asked while its process lives.
pub(super) enum Order {
    /// Put a new process in the place of this one, once it is ready. What comes of it is told.
    Replace(oneshot::Sender<Result<(), String>>),
    Signal(Signal, oneshot::Sender<Result<(), String>>),
}

/// How others speak to a slot. Dropped, its process is killed.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) wanted: watch::Sender<Wanted>,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) report: watch::Receiver<Report>,
}

/// What all slots of a group have.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) sockets: Sockets,
    pub(super) output: Arc<Output>,
    pub(super) members: Arc<Members>,
    /// Where the sidecar accepts.
    pub(super) passing: Option<Arc<Passing>>,
    pub(super) launcher: Arc<Launcher>,
    pub(super) metrics: Arc<Metrics>,
    /// How many processes its slots have had beside the first of each, also those slots that are no more.
    pub(super) restarts: Counter,
}

pub(super) struct Slot {
    shared: Arc<Shared>,
    number: u32,
    wanted: watch::Receiver<Wanted>,
    orders: mpsc::Receiver<Order>,
    report: watch::Sender<Report>,
    pauses: Backoff,
    /// When processes failed, within the window.
    failures: VecDeque<Instant>,
}

/// Why a process is not ready.
enum NotReady {
    /// It ended before.
    Ended(End),
    Failed(String),
    /// What it is to listen on cannot be had yet.
    NoSocket(String),
    /// It is no longer wanted.
    Unwanted,
}

impl Slot {
    /// A slot of this number, and how to speak to it.
    pub(super) fn new(shared: Arc<Shared>, number: u32) -> (Handle, Self) {
        let (wanted, wanting) = watch::channel(Wanted::Running);
        let (orders, ordered) = mpsc::channel(4);
        let at = SystemTime::now();
        let report = Report { number, state: State::Starting, since: at, pid: None, restarts: 0, why: String::new() };
        let (reporting, report) = watch::channel(report);
        let pauses = Backoff::new(shared.config.restart_delay, shared.config.max_restart_delay);
        let slot = Self {
            shared,
            number,
            wanted: wanting,
            orders: ordered,
            report: reporting,
            pauses,
            failures: VecDeque::new(),
        };
        (Handle { wanted, orders, report }, slot)
    }

    /// Keeps a process alive, until nobody has the handle any more.
    pub(super) async fn run(mut self) {
        loop {
            if !self.is_wanted() {
                self.enter(State::Stopped, None);
                if self.rest(None).await.is_err() {
                    return;
                }
                continue;
            }
            let pause = match self.live().await {
                Life::Stopped => continue,
                Life::Over => {
                    self.enter(State::Exited, None);
                    None
                }
                Life::Again => {
                    self.enter(State::Backoff, None);
                    Some(self.shared.config.restart_delay)
                }
                Life::Failed(why) => self.failed(why),
                Life::NoSocket(why) => {
                    self.explain(why);
                    self.enter(State::Backoff, None);
                    Some(self.pauses.delay().min(MAX_SOCKET_DELAY))
                }
            };
            if self.rest(pause).await.is_err() {
                return;
            }
        }
    }

    fn is_wanted(&self) -> bool {
        *self.wanted.borrow() == Wanted::Running
    }

    fn name(&self) -> String {
        format!("{}/{}", self.shared.config.name, self.number)
    }

    /// Starts a process and keeps it until it has ended.
    async fn live(&mut self) -> Life {
        self.enter(State::Starting, None);
        let begun = Instant::now();
        let mut process = match self.begin().await {
            Ok(process) => process,
            Err(NotReady::Unwanted) => return Life::Stopped,
            Err(NotReady::Ended(end)) => return self.after_start(end),
            Err(NotReady::Failed(why)) => return Life::Failed(why),
            Err(NotReady::NoSocket(why)) => return Life::NoSocket(why),
        };
        process.is_ready();
        self.enter(State::Running, Some(&process));
        let shared = self.shared.clone();
        let mut limit = pin!(limits::passed(&shared.config, process.pid.as_raw(), Duration::ZERO));
        loop {
            let event = tokio::select! {
                end = process.ended() => Event::Ended(end),
                passed = &mut limit => Event::Passed(passed),
                () = unwanted(&mut self.wanted) => Event::Unwanted,
                order = self.orders.recv() => order.map_or(Event::Unwanted, Event::Ordered),
            };
            match event {
                Event::Ended(end) => return self.after(end, begun),
                Event::Unwanted => {
                    self.end(&mut process).await;
                    return Life::Stopped;
                }
                Event::Ordered(Order::Signal(signal, done)) => {
                    let sent = process.signal(signal).map_err(|error| error.desc().to_owned());
                    let _ = done.send(sent);
                }
                Event::Ordered(Order::Replace(done)) => {
                    let replaced = self.replace(&mut process).await;
                    limit.set(limits::passed(&shared.config, process.pid.as_raw(), Duration::ZERO));
                    let _ = done.send(replaced);
                }
                Event::Passed(Passed::Hard(why)) => {
                    process.kill().await;
                    return Life::Failed(why);
                }
                Event::Passed(Passed::Soft(why)) => {
                    let worker = self.name();
                    let pause = match self.replace(&mut process).await {
                        Ok(()) => {
                            tracing::info!(worker, why, "a worker was replaced");
                            Duration::ZERO
                        }
                        Err(error) => {
                            tracing::error!(worker, why, error, "a worker cannot be replaced, and goes on");
                            self.pauses.delay()
                        }
                    };
                    limit.set(limits::passed(&shared.config, process.pid.as_raw(), pause));
                }
            }
        }
    }

    /// Puts a new process in the place of this one, which goes on if there is none.
    async fn replace(&mut self, process: &mut Process) -> Result<(), String> {
        match self.begin().await {
            Ok(new) => {
                let old = std::mem::replace(process, new);
                self.count_restart();
                process.is_ready();
                self.enter(State::Running, Some(process));
                self.retire(old);
                Ok(())
            }
            Err(NotReady::Ended(end)) => Err(not_ready(end)),
            Err(NotReady::Failed(why) | NotReady::NoSocket(why)) => Err(why),
            Err(NotReady::Unwanted) => Err("it was stopped meanwhile".into()),
        }
    }

    /// Lets a process end what it has under way, beside the one that took its place.
    fn retire(&self, mut old: Process) {
        let Config { stop_signal, stop_timeout, .. } = self.shared.config;
        self.shared.launcher.begin(async move {
            old.stop(stop_signal.0, stop_timeout).await;
        });
    }

    /// How long a process may take that is asked to end.
    fn patience(&self) -> Duration {
        match *self.wanted.borrow() {
            Wanted::Stopped(patience) => patience,
            Wanted::Running => self.shared.config.stop_timeout,
        }
    }

    async fn end(&mut self, process: &mut Process) {
        let patience = self.patience();
        self.enter(State::Stopping, Some(process));
        process.stop(self.shared.config.stop_signal.0, patience).await;
    }

    /// A process that is ready.
    async fn begin(&mut self) -> Result<Process, NotReady> {
        let Shared { config, sockets, launcher, metrics, .. } = &*self.shared;
        let sockets = sockets.get(config, metrics).await.map_err(NotReady::NoSocket)?;
        if let Some(passing) = &self.shared.passing {
            passing.start(&config.name, sockets.listeners(), &launcher.tasks);
        }
        let started = launcher.start(&self.name(), &self.shared, &sockets).await;
        let mut process = started.map_err(NotReady::Failed)?;
        let pid = process.pid.as_raw();
        self.report.send_if_modified(|report| {
            let is_first = report.state == State::Starting;
            if is_first {
                report.pid = Some(pid);
            }
            is_first
        });
        let mut progress = process.progress.clone();
        let ready = async {
            let awaited = match config.ready {
                Ready::StaysUp => {
                    sleep(config.ready_after).await;
                    return Ok(());
                }
                Ready::Connected => reached(&mut progress, Progress::Connected),
                Ready::Message => reached(&mut progress, Progress::Ready),
            };
            timeout(config.ready_timeout, awaited).await
        };
        tokio::select! {
            end = process.ended() => Err(NotReady::Ended(end)),
            ready = ready => match ready {
                Ok(()) => Ok(process),
                Err(_) => {
                    process.kill().await;
                    Err(NotReady::Failed(format!("it was not ready within {:?}", config.ready_timeout)))
                }
            },
            () = unwanted(&mut self.wanted) => {
                let patience = self.patience();
                process.stop(config.stop_signal.0, patience).await;
                Err(NotReady::Unwanted)
            }
        }
    }

    fn is_well(&self, end: End) -> bool {
        let well = &self.shared.config.exit_codes;
        matches!(end, End::Exited(code) if well.iter().any(|well| i32::from(*well) == code))
    }

    /// What follows the end of a process that was not ready yet: one that is to do something once may be quick.
    fn after_start(&self, end: End) -> Life {
        self.over(end, not_ready(end)).unwrap_or_else(Life::Failed)
    }

    /// What follows the end of a process that was ready.
    fn after(&mut self, end: End, begun: Instant) -> Life {
        if begun.elapsed() >= self.shared.config.max_restart_delay {
            self.pauses.reset();
        }
        let why = format!("it {end}");
        let is_well = self.is_well(end);
        if is_well {
            let (worker, pid) = (self.name(), self.report.borrow().pid);
            tracing::info!(worker, pid, why, "a worker ended");
        }
        self.over(end, why).unwrap_or_else(|why| {
            if !is_well {
                return Life::Failed(why);
            }
            // Many do so after some requests, or some time.
            self.explain(why);
            self.count_restart();
            Life::Again
        })
    }

    /// Whether no other process follows one that ended so; else the reason again.
    fn over(&self, end: End, why: String) -> Result<Life, String> {
        match (self.shared.config.restart, self.is_well(end)) {
            (Restart::Never, _) | (Restart::OnFailure, true) => {
                self.explain(why);
                Ok(Life::Over)
            }
            _ => Err(why),
        }
    }

    /// Reports why the process before the next one is no more.
    fn explain(&self, why: String) {
        self.report.send_modify(|report| report.why = why);
    }

    /// Counts a failure. How long the slot rests after it; none: until it is asked for.
    fn failed(&mut self, why: String) -> Option<Duration> {
        let Config { start_retries, start_window, .. } = self.shared.config;
        let now = Instant::now();
        self.failures.push_back(now);
        while self.failures.front().is_some_and(|failure| now.duration_since(*failure) > start_window) {
            self.failures.pop_front();
        }
        let worker = self.name();
        self.explain(why.clone());
        if self.failures.len() > start_retries {
            let failures = self.failures.len();
            tracing::error!(worker, why, failures, "a worker is given up; `roster worker start` tries it again");
            self.enter(State::Fatal, None);
            return None;
        }
        let pause = self.pauses.delay();
        tracing::warn!(worker, why, ?pause, "a worker failed, and is started again");
        self.count_restart();
        self.enter(State::Backoff, None);
        Some(pause)
    }

    fn count_restart(&self) {
        self.shared.restarts.increment();
        self.report.send_modify(|report| report.restarts += 1);
    }

    /// Waits for so long, or without end, until something else is wanted. An error: nobody has the handle any more.
    async fn rest(&mut self, pause: Option<Duration>) -> Result<(), ()> {
        let pause = async {
            match pause {
                Some(pause) => sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return Ok(()),
                changed = self.wanted.changed() => {
                    changed.map_err(drop)?;
                    self.failures.clear();
                    self.pauses.reset();
                    return Ok(());
                }
                order = self.orders.recv() => match order {
                    None => return Err(()),
                    Some(Order::Signal(_, done)) => drop(done.send(Err("it has no process".into()))),
                    // Whatever it was, a new process is what is asked for.
                    Some(Order::Replace(done)) => {
                        let state = self.report.borrow().state;
                        let _ = done.send(match state {
                            State::Stopped => Err("it is stopped".into()),
                            _ => Ok(()),
                        });
                        if state != State::Stopped {
                            return Ok(());
                        }
                    }
                },
            }
        }
    }

    fn enter(&self, state: State, process: Option<&Process>) {
        let pid = process.map(|process| process.pid.as_raw());
        self.report.send_modify(|report| {
            if (report.state, report.pid) != (state, pid) {
                report.since = SystemTime::now();
            }
            (report.state, report.pid) = (state, pid);
        });
    }
}

fn not_ready(end: End) -> String {
    format!("it {end} before it was ready")
}

/// Waits until a process is no longer wanted.
async fn unwanted(wanted: &mut watch::Receiver<Wanted>) {
    // Without a handle nobody wants it either.
    let _ = wanted.wait_for(|wanted| *wanted != Wanted::Running).await;
}

/// What happens to a slot whose process runs.
enum Event {
    Ended(End),
    Passed(Passed),
    Unwanted,
    Ordered(Order),
}

/// How the time of a process ended.
enum Life {
    /// It was asked to.
    Stopped,
    /// It is not to be started again.
    Over,
    Again,
    Failed(String),
    NoSocket(String),
}
