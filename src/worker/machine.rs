//! The state machine of a slot: derives actions from requests and from what happens to its processes. It performs
//! nothing itself, and reads no clock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::config::{Config, Restart};
use super::limits::Passed;
use super::reaper::End;
use crate::task::Backoff;
use crate::tunnel::worker::Performed;

/// The longest delay before retrying to create a socket.
const MAX_SOCKET_DELAY: Duration = Duration::from_secs(5);

/// How long a process may take to end that is replaced for no doing of its own, while it has jobs: what these may take is
/// told by their timeouts.
const MOST_FOR_JOBS: Duration = Duration::from_secs(365 * 86_400);

/// How many processes of a slot may still be finishing when the next one is to be replaced.
const MAX_RETIRING: usize = 8;

/// The state of a slot, in supervisord's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was asked to stop, or not to start.
    Stopped,
    /// Its process is not ready yet.
    Starting,
    Running,
    /// Its process failed or could not be started, and the next one is delayed.
    Backoff,
    /// Its processes were asked to end.
    Stopping,
    /// Its process ended, and is not restarted.
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

/// The outcome of a request; or why it failed, in words.
pub(super) type Outcome = Result<(), String>;

/// Where to report it.
pub(super) type Done = oneshot::Sender<Outcome>;

/// An action. Processes are numbered within the slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Start this process.
    Begin(u64),
    /// Make it end by this time, unless it has an earlier deadline; and once it has no job, within its `stop_timeout`.
    End(u64, Instant),
    /// Report the end of this delay.
    Pause(u64, Duration),
}

/// How the lifetime of a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Ended(End),
    /// It could not be started, or was not ready in time.
    Failed(String),
    /// Its sockets are not available yet.
    NoSocket(String),
    /// The machine is short of a resource that it needs.
    Short(String),
}

#[derive(Debug)]
pub(super) struct Machine {
    /// The slot's name in the log.
    name: String,
    config: Arc<Config>,
    wish: Wish,
    last: u64,
    current: Option<Child>,
    /// Replaces the current one once it is ready.
    successor: Option<Child>,
    /// No longer wanted; they finish what is under way.
    retiring: Vec<Child>,
    /// The state of the slot without a process.
    rest: State,
    /// Why the current process is to be replaced without a request.
    passed: Option<Passed>,
    /// The current delay, and how many there were.
    pause: Option<u64>,
    pauses: u64,
    delays: Backoff,
    /// When processes failed, within the window.
    failures: VecDeque<Instant>,
    /// Which process failed last, and why.
    failed: Option<(u64, String)>,
    waiting: Vec<(Awaited, Done)>,
    actions: Vec<Action>,
    /// How many processes there were after the first.
    restarts: u64,
    /// Why the previous process is gone, or could not be started.
    why: String,
    /// The job that it performed when it ended for that reason.
    performed: Option<Performed>,
    /// Whether that is because of its sockets.
    had_no_socket: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Run,
    Stop,
    /// To stop, and then be removed.
    Leave,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// That this process, or a later one, is ready.
    Ready(u64),
    /// That no process is left.
    End,
}

#[derive(Debug)]
struct Child {
    nth: u64,
    pid: Option<i32>,
    phase: State,
    begun: Instant,
    /// Why it is killed, if because of a limit.
    killed: Option<String>,
    /// Why it does not end, though it was killed.
    stuck: Option<String>,
    /// Whether it has ended, and was handed jobs; and the one with which it has.
    had_jobs: bool,
    performed: Option<Performed>,
}

impl Machine {
    pub(super) fn new(name: String, config: Arc<Config>) -> Self {
        let delays = Backoff::new(config.restart_delay, config.max_restart_delay);
        Self {
            name,
            config,
            wish: Wish::Stop,
            last: 0,
            current: None,
            successor: None,
            retiring: Vec::new(),
            rest: State::Stopped,
            passed: None,
            pause: None,
            pauses: 0,
            delays,
            failures: VecDeque::new(),
            failed: None,
            waiting: Vec::new(),
            actions: Vec::new(),
            restarts: 0,
            why: String::new(),
            performed: None,
            had_no_socket: false,
        }
    }

    pub(super) fn state(&self) -> State {
        match &self.current {
            Some(current) if current.stuck.is_some() => State::Stopping,
            Some(current) => current.phase,
            None if self.wish != Wish::Run && !self.retiring.is_empty() => State::Stopping,
            None => self.rest,
        }
    }

    /// The process that the slot's name refers to.
    pub(super) fn pid(&self) -> Option<i32> {
        self.current.as_ref().and_then(|current| current.pid)
    }

    /// Those that were replaced, or are no longer wanted.
    pub(super) fn retiring(&self) -> Vec<i32> {
        self.retiring.iter().filter_map(|child| child.pid).collect()
    }

    pub(super) fn restarts(&self) -> u64 {
        self.restarts
    }

    pub(super) fn why(&self) -> String {
        let why = match &self.successor {
            Some(Child { pid: Some(pid), .. }) => format!("its successor, {pid}, is not ready yet"),
            Some(Child { pid: None, .. }) => "its successor is starting".to_owned(),
            None => match self.passed.as_ref().filter(|passed| self.waits_for_its_predecessor(passed)) {
                Some(passed) => format!("{}; its predecessor has not ended yet", passed.why()),
                None => self.why.clone(),
            },
        };
        let stuck = self.current.iter().chain(&self.retiring).filter_map(|child| child.stuck.clone());
        let all: Vec<String> = std::iter::once(why).filter(|why| !why.is_empty()).chain(stuck).collect();
        all.join("; ")
    }

    /// The job that the process performed which has ended for the reason that is told.
    pub(super) fn performed(&self) -> Option<Performed> {
        self.performed.clone().filter(|_| self.why() == self.why)
    }

    /// The number of the next process.
    pub(super) fn next(&self) -> u64 {
        self.last + 1
    }

    /// Why a process failed that was started as this one or later.
    pub(super) fn failed_since(&self, nth: u64) -> Option<String> {
        self.failed.as_ref().filter(|(failed, _)| *failed >= nth && !self.is_unwanted()).map(|(_, why)| why.clone())
    }

    /// Whether a rolling restart skips it.
    pub(super) fn is_passed_over(&self) -> bool {
        self.is_unwanted() || self.state() == State::Exited
    }

    /// Whether no process is wanted.
    pub(super) fn is_unwanted(&self) -> bool {
        self.wish != Wish::Run
    }

    /// Whether nothing was ever requested, or it is to be removed.
    pub(super) fn is_new_or_leaves(&self) -> bool {
        self.last == 0 || self.wish == Wish::Leave
    }

    /// Whether it is removed, with all of its processes.
    pub(super) fn is_gone(&self) -> bool {
        self.wish == Wish::Leave && self.is_empty()
    }

    pub(super) fn is_pausing(&self) -> bool {
        self.pause.is_some()
    }

    /// The actions that have become due.
    pub(super) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Requests that a process runs.
    pub(super) fn start(&mut self, done: Done, now: Instant) {
        if self.wish == Wish::Leave {
            return refuse(done, "it is being removed");
        }
        self.start_also_if_it_leaves(done, now);
    }

    pub(super) fn start_also_if_it_leaves(&mut self, done: Done, now: Instant) {
        self.want(Wish::Run);
        let awaited = match &self.current {
            Some(current) if current.phase == State::Stopping => self.next(),
            Some(current) => current.nth,
            None => self.begin_anew(now),
        };
        self.wait(Awaited::Ready(awaited), done, now);
    }

    /// Requests that none runs, and waits until none is left.
    pub(super) fn stop(&mut self, until: Instant, done: Done, now: Instant) {
        let wish = if self.wish == Wish::Leave { Wish::Leave } else { Wish::Stop };
        self.end(wish, until, done, now);
    }

    /// The same, and then removes the slot.
    pub(super) fn leave(&mut self, until: Instant, done: Done, now: Instant) {
        self.end(Wish::Leave, until, done, now);
    }

    /// Requests that the process ends, and another one runs.
    pub(super) fn restart(&mut self, until: Instant, done: Done, now: Instant) {
        if self.wish == Wish::Leave {
            return refuse(done, "it is being removed");
        }
        self.want(Wish::Run);
        let awaited = if self.current.is_some() {
            self.forgive();
            self.end_all(until);
            self.next()
        } else {
            self.begin_anew(now)
        };
        self.wait(Awaited::Ready(awaited), done, now);
    }

    /// Requests that a process at least as new as this one runs, and that the current one continues until then.
    pub(super) fn renew(&mut self, nth: u64, done: Done, now: Instant) {
        if self.is_passed_over() {
            return refuse(done, "it was stopped meanwhile");
        }
        if self.current.is_none() {
            self.begin_anew(now);
        }
        self.wait(Awaited::Ready(nth), done, now);
    }

    /// A process executes its program.
    pub(super) fn began(&mut self, nth: u64, pid: i32) {
        if let Some(child) = self.child(nth) {
            child.pid = Some(pid);
            tracing::info!(worker = self.name, pid, "a worker's process has begun");
        }
    }

    pub(super) fn ready(&mut self, nth: u64, now: Instant) {
        if let Some(successor) = self.successor.take_if(|successor| successor.nth == nth) {
            self.restarts += 1;
            // Whoever has asked for it does not wait for what its jobs take.
            let is_asked_for = self.waiting.iter().any(|(awaited, _)| is_due(*awaited, nth));
            let (old, passed) = (self.current.replace(successor), self.passed.take().filter(|_| !is_asked_for));
            let may_end_jobs = passed.as_ref().is_some_and(Passed::waits_for_jobs);
            self.retire(old, now + if may_end_jobs { MOST_FOR_JOBS } else { self.config.stop_timeout });
            self.why.clear();
            self.performed = None;
            if let Some(passed) = passed {
                let why = passed.why();
                tracing::info!(worker = self.name, why, "a worker was replaced");
                why.clone_into(&mut self.why);
            }
        }
        // A process that was asked to end stays in that phase.
        if let Some(child) = self.current.as_mut().filter(|child| child.nth == nth && child.phase == State::Starting) {
            child.phase = State::Running;
            self.failures.retain(|failure| now.duration_since(*failure) <= self.config.start_window);
            let (pid, after) = (child.pid, now.duration_since(child.begun));
            tracing::info!(worker = self.name, pid, ?after, "a worker is ready");
            if std::mem::take(&mut self.had_no_socket) {
                self.why.clear();
                self.performed = None;
            }
        }
        self.settle(now);
    }

    /// A process has ended, and was handed jobs; it has ended with this one.
    pub(super) fn had_jobs(&mut self, nth: u64, performed: Option<Performed>) {
        if let Some(child) = self.child(nth) {
            (child.had_jobs, child.performed) = (true, performed);
        }
    }

    /// A process has exceeded a limit.
    pub(super) fn passed(&mut self, nth: u64, limit: Passed, now: Instant) {
        let is_current = |child: &Child| child.nth == nth && child.phase == State::Running;
        let why = limit.why().to_owned();
        let youth = match limit {
            Passed::Hard(_) => {
                let Some(child) = self.child(nth) else { return };
                let pid = child.pid;
                child.killed = Some(why.clone());
                tracing::warn!(worker = self.name, pid, why, "a worker's process is killed");
                self.actions.push(Action::End(nth, now));
                return;
            }
            Passed::Age(_) => Duration::ZERO,
            // Under constant load, one after the other would end immediately.
            Passed::Requests(_) => self.config.restart_delay,
            Passed::Memory(_) | Passed::Connections(_) => self.config.start_window,
        };
        if self.wish != Wish::Run || !self.current.as_ref().is_some_and(is_current) {
            return;
        }
        // It is to be replaced already, and maybe sooner.
        if limit.waits_for_jobs() && self.passed.is_some() {
            return;
        }
        let is_young = self.current.as_ref().is_some_and(|child| now.duration_since(child.begun) < youth);
        if matches!(limit, Passed::Connections(_)) {
            self.why.clone_from(&why);
            self.performed = None;
        }
        self.passed = Some(limit);
        if is_young {
            // A process that immediately takes this much would be replaced forever.
            let pause = self.delays.delay();
            tracing::warn!(worker = self.name, why, ?pause, "a worker passes a limit soon after its start");
            self.pause_for(pause);
        } else {
            self.delays.reset();
            self.replace_for_limit(now);
        }
    }

    /// A process does not end, though it was killed: nobody waits for it any more, however long it takes.
    pub(super) fn stuck(&mut self, nth: u64, why: &str, now: Instant) {
        let Some(child) = self.child(nth) else { return };
        child.stuck = Some(why.to_owned());
        if let Some(mut successor) = self.successor.take_if(|successor| successor.nth == nth) {
            self.not_replaced(nth, successor.pid, why);
            successor.phase = State::Stopping;
            self.retiring.push(successor);
        }
        let is_current = self.current.as_ref().is_some_and(|current| current.nth == nth);
        self.answer(|awaited| is_current || awaited == Awaited::End, Err(why));
        self.settle(now);
    }

    pub(super) fn pause_is_over(&mut self, pause: u64, now: Instant) {
        if self.pause.take_if(|current| *current == pause).is_none() {
            return;
        }
        if self.current.is_none() {
            self.begin(now);
        } else {
            self.replace_for_limit(now);
        }
    }

    /// Nothing is left of a process.
    pub(super) fn ended(&mut self, nth: u64, ending: Ending, now: Instant) {
        if let Some(child) = self.child(nth).filter(|child| child.phase == State::Stopping) {
            let pid = child.pid;
            tracing::info!(worker = self.name, pid, how = %ending, "a worker ended as it was asked to");
        }
        self.retiring.retain(|child| child.nth != nth);
        if let Some(successor) = self.successor.take_if(|successor| successor.nth == nth) {
            let why = successor.killed.clone().unwrap_or_else(|| ending.before_it_was_ready());
            self.not_replaced(nth, successor.pid, &why);
        }
        if let Some(current) = self.current.take_if(|current| current.nth == nth) {
            self.current_ended(current, ending, now);
        }
        self.settle(now);
    }

    /// A successor will not become ready.
    fn not_replaced(&mut self, nth: u64, pid: Option<i32>, why: &str) {
        self.answer(|awaited| is_due(awaited, nth), Err(why));
        let worker = &self.name;
        if let Some(passed) = &self.passed {
            tracing::error!(worker, why = passed.why(), error = why, "a worker cannot be replaced, and goes on");
            let pause = self.delays.delay();
            self.pause_for(pause);
        } else {
            tracing::warn!(worker, pid, why, "no successor became ready: the worker goes on");
        }
    }

    fn current_ended(&mut self, child: Child, ending: Ending, now: Instant) {
        self.passed = None;
        self.pause = None;
        if child.phase == State::Stopping {
            self.rest = State::Stopped;
            if self.wish == Wish::Run {
                self.begin(now);
            }
            return;
        }
        let was_ready = child.phase == State::Running;
        if was_ready && now.duration_since(child.begun) >= self.config.max_restart_delay {
            self.delays.reset();
        }
        let is_well = child.killed.is_none() && self.is_well(&ending);
        let is_over = match self.config.restart {
            Restart::Always => false,
            Restart::OnFailure => is_well,
            Restart::Never => matches!(ending, Ending::Ended(_)),
        };
        let is_missing = matches!(ending, Ending::NoSocket(_) | Ending::Short(_));
        let why = match child.killed {
            Some(why) => why,
            // A one-off task may be quick.
            None if was_ready || is_over && is_well => ending.to_string(),
            None => ending.before_it_was_ready(),
        };
        let told = match &child.performed {
            Some(Performed { id, queue, name }) => format!("{why} while it performed {queue}/{name} {id}"),
            None => why.clone(),
        };
        if was_ready && is_well {
            tracing::info!(worker = self.name, pid = child.pid, why = told, "a worker ended");
        }
        if matches!(ending, Ending::Short(_)) && self.why != why {
            tracing::warn!(worker = self.name, why, "a worker cannot be started yet; it is tried again");
        }
        self.why.clone_from(&why);
        self.performed = child.performed;
        if let Some(successor) = self.successor.take() {
            self.restarts += 1;
            self.current = Some(successor);
        } else if is_over {
            self.rest = State::Exited;
            self.answer(|awaited| awaited != Awaited::End, if is_well { Ok(()) } else { Err(&why) });
        } else if is_missing {
            // It is not the worker's fault, and will pass.
            self.had_no_socket = true;
            self.rest = State::Backoff;
            self.answer(|awaited| is_due(awaited, child.nth), Err(&why));
            let pause = self.delays.delay().min(MAX_SOCKET_DELAY);
            self.pause_for(pause);
        } else if was_ready && is_well {
            // Many exit after a number of requests, or some time.
            self.rest = State::Backoff;
            self.restarts += 1;
            self.pause_for(self.config.restart_delay);
        } else {
            self.failed(child.nth, (&why, &told), (was_ready, child.had_jobs), now);
        }
    }

    /// Counts a failure, and delays the next start; after too many failures, until requested. Failures without a ready
    /// process in between all count, however long each took. That of a process that was handed jobs does not: what kills
    /// it is given up by itself, and the others are to be performed. The job that it performed is told in the log alone: who
    /// commands workers need not see all queues.
    fn failed(&mut self, nth: u64, (why, told): (&str, &str), (was_ready, had_jobs): (bool, bool), now: Instant) {
        let Config { start_retries, start_window, .. } = *self.config;
        if !had_jobs {
            self.failures.push_back(now);
        }
        self.failed = Some((nth, why.to_owned()));
        if was_ready {
            self.failures.retain(|failure| now.duration_since(*failure) <= start_window);
        }
        let (worker, failures) = (&self.name, self.failures.len());
        if failures > start_retries {
            tracing::error!(worker, why = told, failures, "a worker is given up; `roster worker start` tries it again");
            self.rest = State::Fatal;
            self.answer(|awaited| awaited != Awaited::End, Err(why));
            return;
        }
        let pause = self.delays.delay();
        tracing::warn!(worker, why = told, ?pause, "a worker failed, and is started again");
        self.restarts += 1;
        self.rest = State::Backoff;
        self.answer(|awaited| is_due(awaited, nth), Err(why));
        self.pause_for(pause);
    }

    fn is_well(&self, ending: &Ending) -> bool {
        let well = &self.config.exit_codes;
        matches!(ending, Ending::Ended(End::Exited(code)) if well.iter().any(|well| i32::from(*well) == *code))
    }

    /// Sets what is wanted; callers that wait for the opposite get an error, and will not undo it later.
    fn want(&mut self, wish: Wish) {
        self.wish = wish;
        match wish {
            Wish::Run => self.answer(|awaited| awaited == Awaited::End, Err("it was started meanwhile")),
            _ => self.answer(|awaited| awaited != Awaited::End, Err("it was stopped meanwhile")),
        }
    }

    fn end(&mut self, wish: Wish, until: Instant, done: Done, now: Instant) {
        self.want(wish);
        self.end_all(until);
        self.rest = State::Stopped;
        self.wait(Awaited::End, done, now);
    }

    fn end_all(&mut self, until: Instant) {
        (self.pause, self.passed) = (None, None);
        self.retiring.extend(self.successor.take());
        for child in self.current.iter_mut().chain(&mut self.retiring) {
            child.phase = State::Stopping;
            self.actions.push(Action::End(child.nth, until));
        }
    }

    fn retire(&mut self, child: Option<Child>, until: Instant) {
        let Some(mut child) = child else { return };
        child.phase = State::Stopping;
        self.actions.push(Action::End(child.nth, until));
        self.retiring.push(child);
    }

    /// Starts a process with a clean record; returns its number.
    fn begin_anew(&mut self, now: Instant) -> u64 {
        self.forgive();
        self.begin(now);
        self.last
    }

    fn forgive(&mut self) {
        self.failures.clear();
        self.delays.reset();
    }

    fn begin(&mut self, now: Instant) {
        self.pause = None;
        self.current = Some(self.launch(now));
    }

    fn launch(&mut self, now: Instant) -> Child {
        self.last += 1;
        self.actions.push(Action::Begin(self.last));
        Child {
            nth: self.last,
            pid: None,
            phase: State::Starting,
            begun: now,
            killed: None,
            stuck: None,
            had_jobs: false,
            performed: None,
        }
    }

    /// Starts a process next to the current one.
    fn replace(&mut self, now: Instant) -> Outcome {
        let before = self.retiring.len();
        if before >= MAX_RETIRING {
            return Err(format!("{before} that were replaced have not ended yet; `roster worker list` tells which"));
        }
        self.successor = Some(self.launch(now));
        Ok(())
    }

    fn replace_for_limit(&mut self, now: Instant) {
        let Some(passed) = self.passed.as_ref().filter(|_| self.successor.is_none()) else { return };
        if self.waits_for_its_predecessor(passed) {
            return;
        }
        let why = passed.why().to_owned();
        if let Err(error) = self.replace(now) {
            tracing::error!(worker = self.name, why, error, "a worker cannot be replaced, and goes on");
            let pause = self.delays.delay();
            self.pause_for(pause);
        }
    }

    /// Whether a process that has passed a limit is only replaced once its predecessor has ended: else each would have one job,
    /// and more of them would run at once than there are slots.
    fn waits_for_its_predecessor(&self, passed: &Passed) -> bool {
        passed.waits_for_jobs() && self.retiring.iter().any(|child| child.stuck.is_none())
    }

    fn pause_for(&mut self, time: Duration) {
        self.pauses += 1;
        self.pause = Some(self.pauses);
        self.actions.push(Action::Pause(self.pauses, time));
    }

    fn wait(&mut self, awaited: Awaited, done: Done, now: Instant) {
        let awaits =
            |child: &&Child| awaited == Awaited::End || self.current.as_ref().is_some_and(|it| it.nth == child.nth);
        let all = self.current.iter().chain(&self.successor).chain(&self.retiring);
        if let Some(why) = all.filter(awaits).find_map(|child| child.stuck.as_ref()) {
            return refuse(done, why);
        }
        self.waiting.push((awaited, done));
        self.settle(now);
    }

    /// Answers callers whose outcome is known, and starts a process for callers that want a newer one than the current, or in
    /// place of one that has passed a limit and had to wait.
    fn settle(&mut self, now: Instant) {
        if self.wish != Wish::Run {
            if self.is_empty() {
                self.answer(|awaited| awaited == Awaited::End, Ok(()));
            }
            return;
        }
        let Some(nth) = self.current.as_ref().filter(|it| it.phase == State::Running).map(|it| it.nth) else { return };
        self.answer(|awaited| is_due(awaited, nth), Ok(()));
        if self.pause.is_none() {
            self.replace_for_limit(now);
        }
        if self.waiting.is_empty() || self.successor.is_some() {
            return;
        }
        if let Err(why) = self.replace(now) {
            self.answer(|awaited| awaited != Awaited::End, Err(&why));
        }
    }

    fn answer(&mut self, whom: impl Fn(Awaited) -> bool, outcome: Result<(), &str>) {
        for (_, done) in self.waiting.extract_if(.., |(awaited, _)| whom(*awaited)) {
            // The caller may be gone.
            let _ = done.send(outcome.map_err(str::to_owned));
        }
    }

    fn child(&mut self, nth: u64) -> Option<&mut Child> {
        let all = self.current.iter_mut().chain(&mut self.successor).chain(&mut self.retiring);
        all.into_iter().find(|child| child.nth == nth)
    }

    fn is_empty(&self) -> bool {
        self.current.is_none() && self.successor.is_none() && self.retiring.is_empty()
    }
}

/// Whether somebody waits for this process, or an earlier one.
fn is_due(awaited: Awaited, nth: u64) -> bool {
    matches!(awaited, Awaited::Ready(least) if least <= nth)
}

fn refuse(done: Done, why: &str) {
    let _ = done.send(Err(why.to_owned()));
}

impl Ending {
    fn before_it_was_ready(&self) -> String {
        match self {
            Self::Ended(end @ End::Exited(0)) => {
                format!("it {end} before it was ready; a program has to stay in the foreground")
            }
            Self::Ended(end) => format!("it {end} before it was ready"),
            Self::Failed(why) | Self::NoSocket(why) | Self::Short(why) => why.clone(),
        }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ended(end) => write!(f, "it {end}"),
            Self::Failed(why) | Self::NoSocket(why) | Self::Short(why) => f.write_str(why),
        }
    }
}

#[cfg(test)]
mod tests;
