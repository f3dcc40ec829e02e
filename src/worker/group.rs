//! A group: the slots of one worker, and what is done with them together.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, Shared as Joined, join, join_all};
use nix::sys::signal::Signal;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::changes::Watched;
use super::channel::Addressee;
use super::config::Config;
use super::slot::{Handle, Order, Report, Shared, Slot, State, Wanted};

/// What came of something, for each slot that it was done with.
pub type Outcomes = Vec<(u32, Result<(), String>)>;

#[derive(Debug)]
pub(super) struct Group {
    pub(super) shared: Arc<Shared>,
    slots: Mutex<Slots>,
    /// The rolling restart of all under way, which whoever asks for another one joins.
    rolling: Mutex<Option<Joined<BoxFuture<'static, Outcomes>>>>,
}

type Slots = BTreeMap<u32, Arc<Handle>>;

/// Which slots of a group are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    Number(u32),
}

/// What can be done with slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start what is not running, and wait until it is ready or has failed.
    Start,
    Stop,
    /// Stop and start; the clients of its sockets wait meanwhile.
    Restart,
    /// Put a new process in the place of each once it is ready, one after the other. The first that does not become
    /// ready ends it, and what ran goes on. What is stopped stays so; who asks meanwhile for all of them joins.
    Roll,
    /// Have as many slots as this, whichever are meant, and wait until the new ones are ready and those too many have
    /// ended.
    Scale(u32),
    Signal(Signal),
}

impl Group {
    pub(super) fn new(shared: Shared) -> Arc<Self> {
        Arc::new(Self { shared: Arc::new(shared), slots: Mutex::default(), rolling: Mutex::default() })
    }

    pub(super) fn name(&self) -> &str {
        &self.shared.config.name
    }

    pub(super) fn reports(&self) -> Vec<Report> {
        self.slots().values().map(|slot| slot.report.borrow().clone()).collect()
    }

    pub(super) async fn carry_out(&self, which: Which, action: Action) -> Outcomes {
        let patience = self.shared.config.stop_timeout;
        match action {
            Action::Start => self.each(which, |slot| async move { start(&slot).await }).await,
            Action::Stop => self.each(which, |slot| async move { stop(&slot, patience).await }).await,
            Action::Restart => {
                let restart = |slot: Arc<Handle>| async move {
                    stop(&slot, patience).await?;
                    start(&slot).await
                };
                self.each(which, restart).await
            }
            Action::Roll if which == Which::All => self.roll().await,
            Action::Roll => roll(self.meant(which)).await,
            Action::Scale(count) => {
                let (added, removed) = self.resize(count);
                let started = each(added, |slot| async move { start(&slot).await });
                let stopped = each(removed, |slot| async move { stop(&slot, patience).await });
                let (started, stopped) = join(started, stopped).await;
                [started, stopped].concat()
            }
            Action::Signal(signal) => {
                self.each(which, |slot| async move { ask(&slot, |done| Order::Signal(signal, done)).await }).await
            }
        }
    }

    /// Has as many slots as this, the new ones with processes that start; these, and those too many, whose processes
    /// end when nobody has them any more.
    pub(super) fn resize(&self, count: u32) -> (Slots, Slots) {
        let mut slots = self.slots();
        let removed = slots.split_off(&(count + 1));
        let missing: Vec<u32> = (1..=count).filter(|number| !slots.contains_key(number)).collect();
        let add = |number| {
            let (handle, slot) = Slot::new(self.shared.clone(), number);
            self.shared.launcher.begin(slot.run());
            (number, Arc::new(handle))
        };
        let added: Slots = missing.into_iter().map(add).collect();
        slots.extend(added.clone());
        (added, removed)
    }

    async fn roll(&self) -> Outcomes {
        let joined = {
            let mut rolling = self.rolling.lock().unwrap_or_else(PoisonError::into_inner);
            let under_way = rolling.clone().filter(|rolling| rolling.peek().is_none());
            under_way.unwrap_or_else(|| rolling.insert(roll(self.meant(Which::All)).boxed().shared()).clone())
        };
        joined.await
    }

    /// Replaces the processes whenever what they are made of was edited.
    pub(super) async fn follow_changes(&self) {
        let Config { watch, directory, .. } = &self.shared.config;
        let watched = Watched::new(watch, directory.as_deref().unwrap_or(Path::new("/")));
        let Some(watched) = watched.ok().filter(|_| !watch.is_empty()) else { return std::future::pending().await };
        loop {
            watched.changed().await;
            let failed = self.roll().await.into_iter().find_map(|(number, outcome)| Some((number, outcome.err()?)));
            let worker = self.name();
            match failed {
                None => tracing::info!(worker, "files were edited: the processes were replaced"),
                Some((number, why)) => {
                    tracing::warn!(worker, number, why, "files were edited, but no new process became ready");
                }
            }
        }
    }

    /// Those that are meant, as they can be commanded.
    pub(super) fn addressees(&self, which: Which) -> impl Iterator<Item = Addressee> {
        self.meant(which).into_iter().map(|(number, slot)| {
            let pid = slot.report.borrow().pid;
            self.shared.members.addressee(format!("{}/{number}", self.name()), pid)
        })
    }

    /// Stops all within this time, and lets them go.
    pub(super) async fn end(&self, patience: Duration) {
        let slots = std::mem::take(&mut *self.slots());
        let until = Instant::now() + patience;
        let stopped = slots.values().map(|slot| async move {
            // Beyond its patience a process is killed, which takes a moment.
            let _ = tokio::time::timeout_at(until + Duration::from_secs(1), stop(slot, patience)).await;
        });
        join_all(stopped).await;
    }

    async fn each<F>(&self, which: Which, act: impl Fn(Arc<Handle>) -> F) -> Outcomes
    where
        F: Future<Output = Result<(), String>>,
    {
        each(self.meant(which), act).await
    }

    fn meant(&self, which: Which) -> Slots {
        let slots = self.slots();
        let meant = slots.iter().filter(|(number, _)| which == Which::All || which == Which::Number(**number));
        meant.map(|(number, slot)| (*number, slot.clone())).collect()
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn each<F>(slots: Slots, act: impl Fn(Arc<Handle>) -> F) -> Outcomes
where
    F: Future<Output = Result<(), String>>,
{
    join_all(slots.into_iter().map(|(number, slot)| act(slot).map(move |outcome| (number, outcome)))).await
}

/// One after the other, until one does not become ready.
async fn roll(slots: Slots) -> Outcomes {
    let mut outcomes = Outcomes::new();
    for (number, slot) in slots {
        let Some(outcome) = renew(&slot).await else { continue };
        let failed = outcome.is_err();
        outcomes.push((number, outcome));
        if failed {
            break;
        }
    }
    outcomes
}

/// Has a process in a slot that began from now on; none: the slot is stopped.
async fn renew(slot: &Handle) -> Option<Result<(), String>> {
    let state = slot.report.borrow().state;
    if matches!(state, State::Stopped | State::Stopping) {
        return None;
    }
    // What is starting may have begun with what is to be replaced.
    let runs = matches!(state, State::Running | State::Starting) && start(slot).await.is_ok();
    if runs && let Err(why) = ask(slot, Order::Replace).await {
        return Some(Err(why));
    }
    // Where there was none to replace, or that ended meanwhile.
    Some(start(slot).await)
}

async fn start(slot: &Handle) -> Result<(), String> {
    let mut report = slot.report.clone();
    if report.borrow_and_update().state == State::Running {
        return Ok(());
    }
    slot.wanted.send_replace(Wanted::Running);
    while report.changed().await.is_ok() {
        let report = report.borrow_and_update();
        match report.state {
            State::Running => return Ok(()),
            State::Backoff | State::Fatal | State::Exited => return Err(report.why.clone()),
            State::Stopped | State::Starting | State::Stopping => {}
        }
    }
    Err("it was removed".into())
}

async fn stop(slot: &Handle, patience: Duration) -> Result<(), String> {
    slot.wanted.send_replace(Wanted::Stopped(patience));
    // One that is no more has stopped too.
    let _ = slot.report.clone().wait_for(|report| report.state == State::Stopped).await;
    Ok(())
}

async fn ask(slot: &Handle, order: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Order) -> Result<(), String> {
    let (done, outcome) = oneshot::channel();
    let gone = || "it was removed".to_owned();
    slot.orders.send(order(done)).await.map_err(|_| gone())?;
    outcome.await.unwrap_or_else(|_| Err(gone()))
}
