//! A slot: one place of a group, in which a process is kept alive. Its state machine decides what to do.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use futures::future::{BoxFuture, FutureExt};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::time::{Instant, sleep};

use super::channel::Members;
use super::config::Config;
use super::launcher::Launcher;
use super::machine::{Action, Done, Ending, Machine, Outcome, State};
use super::output::Output;
use super::pass::Passing;
use super::process::{self, News};
use super::requested::Requested;
use super::sockets::Sockets;
use crate::metrics::{Counter, Metrics};
use crate::tunnel::worker::Performed;

/// The state of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub number: u32,
    pub state: State,
    /// When it came into this state, with this process.
    pub since: SystemTime,
    pub pid: Option<i32>,
    /// How many processes it has had after the first.
    pub restarts: u64,
    /// Why the previous process is gone, or could not be started; empty: nothing happened.
    pub why: String,
    /// The job that it performed when it ended for that reason.
    pub performed: Option<Performed>,
    /// Processes that were replaced, and are still finishing what is under way.
    pub retiring: Vec<i32>,
}

#[cfg(test)]
impl Report {
    /// A report with defaults.
    pub(super) fn of_tests() -> Self {
        let (since, why, retiring) = (SystemTime::UNIX_EPOCH, String::new(), Vec::new());
        Self { number: 1, state: State::Running, since, pid: None, restarts: 0, why, performed: None, retiring }
    }
}

/// What all slots of a group share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) sockets: Sockets,
    pub(super) output: Arc<Output>,
    pub(super) members: Arc<Members>,
    pub(super) requested: Requested,
    /// Set if the sidecar accepts.
    pub(super) passing: Option<Arc<Passing>>,
    pub(super) launcher: Arc<Launcher>,
    pub(super) metrics: Arc<Metrics>,
    /// How many processes its slots have had after the first of each, including removed slots.
    pub(super) restarts: Counter,
    /// The configured number of processes.
    pub(super) configured: u32,
    /// For its sockets, and connections waiting there.
    pub(super) _descriptors: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
pub(super) struct Slot {
    shared: Arc<Shared>,
    number: u32,
    state: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    machine: Machine,
    since: SystemTime,
    /// The means to ask each process to end.
    deadlines: HashMap<u64, watch::Sender<Option<Instant>>>,
    /// The current delay, which ends when this is dropped.
    pause: Option<oneshot::Sender<()>>,
}

impl Slot {
    /// A slot with this number, without a process yet.
    pub(super) fn new(shared: Arc<Shared>, number: u32) -> Arc<Self> {
        let machine = Machine::new(name(&shared, number), shared.config.clone());
        let inner = Inner { machine, since: SystemTime::now(), deadlines: HashMap::new(), pause: None };
        Arc::new(Self { shared, number, state: Mutex::new(inner) })
    }

    pub(super) fn report(&self) -> Report {
        let Inner { machine, since, .. } = &*self.inner();
        Report {
            number: self.number,
            state: machine.state(),
            since: *since,
            pid: machine.pid(),
            restarts: machine.restarts(),
            why: machine.why(),
            performed: machine.performed(),
            retiring: machine.retiring(),
        }
    }

    /// Whether it is removed from the group, with all of its processes.
    pub(super) fn is_gone(&self) -> bool {
        self.inner().machine.is_gone()
    }

    /// Passes a request to the machine; returns its outcome.
    pub(super) fn ask(self: &Arc<Self>, wish: impl FnOnce(&mut Machine, Done, Instant)) -> BoxFuture<'static, Outcome> {
        let (done, outcome) = oneshot::channel();
        self.change(|machine, now| wish(machine, done, now));
        async { outcome.await.unwrap_or_else(|_| Err("the sidecar ended".to_owned())) }.boxed()
    }

    /// Reads the machine's state.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        look(&self.inner().machine)
    }

    /// Sends a signal to the current process: to that, or to none.
    pub(super) fn signal(&self, signal: Signal) -> Outcome {
        let pid = self.inner().machine.pid().ok_or("it has no process")?;
        self.shared.launcher.reaper.signal(Pid::from_raw(pid), signal).map_err(|error| error.desc().to_owned())
    }

    /// Passes an event to the machine, and performs the resulting actions.
    fn change(self: &Arc<Self>, happen: impl FnOnce(&mut Machine, Instant)) {
        let mut inner = self.inner();
        let before = inner.machine.restarts();
        let shown = |machine: &Machine| (machine.state(), machine.pid());
        let shown_before = shown(&inner.machine);
        happen(&mut inner.machine, Instant::now());
        for action in inner.machine.take_actions() {
            self.carry_out(action, &mut inner);
        }
        if !inner.machine.is_pausing() {
            inner.pause = None;
        }
        if shown(&inner.machine) != shown_before {
            inner.since = SystemTime::now();
        }
        (before..inner.machine.restarts()).for_each(|_| self.shared.restarts.increment());
        self.shared.launcher.news.tell();
    }

    fn carry_out(self: &Arc<Self>, action: Action, inner: &mut Inner) {
        let slot = self.clone();
        match action {
            Action::Begin(nth) => {
                let (deadline, asked) = watch::channel(None);
                inner.deadlines.insert(nth, deadline);
                self.shared.launcher.begin(async move {
                    let tell = |news| {
                        slot.change(|machine, now| match news {
                            News::Began(pid) => machine.began(nth, pid),
                            News::Ready => machine.ready(nth, now),
                            News::Passed(limit) => machine.passed(nth, limit, now),
                            News::HadJobs(performed) => machine.had_jobs(nth, performed),
                            News::Stuck(why) => machine.stuck(nth, &why, now),
                        });
                    };
                    let name = name(&slot.shared, slot.number);
                    let life = AssertUnwindSafe(process::live(&slot.shared, &name, asked, tell)).catch_unwind();
                    let ending = life.await.unwrap_or_else(|_| Ending::Failed("the sidecar lost it".to_owned()));
                    slot.inner().deadlines.remove(&nth);
                    slot.change(|machine, now| machine.ended(nth, ending, now));
                });
            }
            Action::End(nth, until) => {
                if let Some(deadline) = inner.deadlines.get(&nth) {
                    deadline.send_if_modified(|before| {
                        let is_sooner = before.is_none_or(|before| until < before);
                        *before = Some(before.map_or(until, |before| before.min(until)));
                        is_sooner
                    });
                }
            }
            Action::Pause(pause, time) => {
                let (keep, dropped) = oneshot::channel::<()>();
                inner.pause = Some(keep);
                self.shared.launcher.begin(async move {
                    tokio::select! {
                        () = sleep(time) => slot.change(|machine, now| machine.pause_is_over(pause, now)),
                        _ = dropped => {}
                    }
                });
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(shared: &Shared, number: u32) -> String {
    format!("{}/{number}", shared.config.name)
}
