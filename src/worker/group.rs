//! A group: the slots of one worker, and operations on them together.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, join, join_all, ready};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, timeout_at};

use super::changes::Watched;
use super::channel::Addressee;
use super::config::{Accept, Config};
use super::machine::{Done, Machine, Outcome};
use super::slot::{Report, Shared, Slot};
use crate::metrics::Metrics;
use crate::task::Stop;

/// How often to check whether all sockets still listen, and the minimum interval between replacing processes because of
/// that: a group that keeps shutting down its own gains nothing.
const SOCKETS_INTERVAL: Duration = Duration::from_secs(2);
const RENEWAL_INTERVAL: Duration = Duration::from_secs(60);

/// How soon a killed process is gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// The outcome of an operation for each of its slots.
pub type Outcomes = Vec<(u32, Result<(), String>)>;

#[derive(Debug)]
pub(super) struct Group {
    /// Greater than those of earlier groups.
    pub(super) number: u64,
    pub(super) shared: Arc<Shared>,
    /// Whether it is in the configuration.
    pub(super) is_configured: bool,
    /// Requested when it is removed.
    stop: Stop,
    slots: Mutex<Slots>,
    /// Serializes rolling restarts.
    rolling: tokio::sync::Mutex<()>,
    /// Scaling for good happens in the order in which it is saved.
    scaling: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Slots {
    /// Including those that are leaving, until they are gone.
    all: BTreeMap<u32, Arc<Slot>>,
    /// No more may be added: the group is removed, or the sidecar stops.
    are_over: bool,
}

/// Which slots of a group an operation applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    Number(u32),
}

/// Operations on slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start what is not running, and wait until it is ready or has failed.
    Start,
    Stop,
    /// Kill all processes, including those that were asked to stop already.
    Kill,
    /// Stop and start; clients of its sockets wait meanwhile.
    Restart,
    /// Replace each process once its successor is ready, one after the other. The first one that does not become ready,
    /// or fails before the next one is replaced, ends it, and the rest keeps running. Stopped ones stay stopped. A restart
    /// requested meanwhile replaces those again that were started before the request.
    Roll,
    /// Change the number of slots to this, whichever are selected, and wait until new ones are ready and surplus ones
    /// have ended.
    Scale(u32),
    Signal(Signal),
}

impl Group {
    pub(super) fn new(shared: Shared, number: u64, is_configured: bool, stop: Stop) -> Arc<Self> {
        let (rolling, scaling) = <(tokio::sync::Mutex<()>, tokio::sync::Mutex<()>)>::default();
        let (shared, slots) = (Arc::new(shared), Mutex::default());
        Arc::new(Self { number, shared, is_configured, stop, slots, rolling, scaling })
    }

    pub(super) fn name(&self) -> &str {
        &self.shared.config.name
    }

    pub(super) fn priority(&self) -> i32 {
        self.shared.config.priority
    }

    pub(super) fn reports(&self) -> Vec<Report> {
        self.meant(Which::All).values().map(|slot| slot.report()).collect()
    }

    pub(super) async fn carry_out(&self, which: Which, action: Action) -> Outcomes {
        let now = Instant::now();
        let until = now + self.shared.config.stop_timeout;
        match action {
            Action::Start => self.ask(which, Machine::start).await,
            Action::Stop => self.ask(which, |machine, done, now| machine.stop(until, done, now)).await,
            Action::Kill => self.ask(which, |machine, done, now| machine.stop(now, done, now)).await,
            Action::Restart => self.ask(which, |machine, done, now| machine.restart(until, done, now)).await,
            Action::Roll => self.roll(which).await,
            Action::Scale(count) => self.scale(count, async {}).await.0,
            Action::Signal(signal) => {
                self.meant(which).into_iter().map(|(number, slot)| (number, slot.signal(signal))).collect()
            }
        }
    }

    /// Changes the number of slots once that is saved, and waits for the outcome; returns also the result of saving.
    pub(super) async fn scale<T>(&self, count: u32, keep: impl Future<Output = T>) -> (Outcomes, T) {
        let (kept, changed) = {
            let _turn = self.scaling.lock().await;
            let kept = keep.await;
            (kept, self.resize(count, Instant::now() + self.shared.config.stop_timeout))
        };
        (join_all(changed).await, kept)
    }

    /// Changes the number of slots, starting processes in new ones; returns the outcomes of these, and of surplus ones.
    pub(super) fn resize(&self, count: u32, until: Instant) -> Vec<BoxFuture<'static, (u32, Outcome)>> {
        let mut slots = self.slots();
        if slots.are_over {
            let why = "no other is started: the worker is removed, or the sidecar stops";
            return vec![ready((count, Err(why.to_owned()))).boxed()];
        }
        slots.all.retain(|_, slot| !slot.is_gone());
        let removed = slots.all.range(count + 1..).map(|(number, slot)| {
            let ended = slot.ask(move |machine, done, now| machine.leave(until, done, now));
            (*number, ended)
        });
        let mut changed: Vec<_> = removed.collect();
        for number in 1..=count {
            let slot = slots.all.entry(number).or_insert_with(|| Slot::new(self.shared.clone(), number));
            if slot.look(Machine::is_new_or_leaves) {
                changed.push((number, slot.ask(Machine::start_also_if_it_leaves)));
            }
        }
        changed.sort_by_key(|(number, _)| *number);
        changed.into_iter().map(|(number, outcome)| outcome.map(move |outcome| (number, outcome)).boxed()).collect()
    }

    /// As many at once as `surge` says, until one does not become ready, or does not last until it is the next one's turn.
    async fn roll(&self, which: Which) -> Outcomes {
        let due: Vec<_> =
            self.meant(which).into_iter().map(|(number, slot)| (number, slot.look(Machine::next), slot)).collect();
        let _turn = self.rolling.lock().await;
        let mut outcomes = Outcomes::new();
        for chunk in due.chunks(self.surge()) {
            let asked = chunk.iter().filter(|(.., slot)| !slot.look(Machine::is_passed_over));
            let asked = asked.map(|(number, next, slot)| async move {
                let outcome = slot.ask(|machine, done, now| machine.renew(*next, done, now)).await;
                (!slot.look(Machine::is_unwanted)).then_some((*number, outcome))
            });
            let told = join_all(asked).await.into_iter().flatten();
            outcomes.extend(told);
            for (number, outcome) in &mut outcomes {
                let replaced = due.iter().find(|(replaced, ..)| replaced == number);
                if let Some(why) = replaced.and_then(|(_, next, slot)| slot.look(|it| it.failed_since(*next))) {
                    *outcome = Err(format!("it was replaced, and then failed: {why}"));
                }
            }
            if outcomes.iter().any(|(_, outcome)| outcome.is_err()) {
                break;
            }
        }
        outcomes
    }

    fn surge(&self) -> usize {
        self.shared.config.surge
    }

    /// Watches its files and sockets, until it is removed or the sidecar stops.
    pub(super) async fn look_after(&self) {
        tokio::select! {
            () = self.stop.requested() => {}
            ((), ()) = join(self.follow_changes(), self.watch_sockets()) => {}
        }
    }

    /// Replaces the processes whenever their files were edited.
    async fn follow_changes(&self) {
        let Config { watch, directory, .. } = &*self.shared.config;
        let watched = Watched::new(watch, directory.as_deref().unwrap_or(Path::new("/")));
        let Some(mut watched) = watched.ok().filter(|_| !watch.is_empty()) else { return std::future::pending().await };
        loop {
            watched.changed().await;
            let failed =
                self.roll(Which::All).await.into_iter().find_map(|(number, outcome)| Some((number, outcome.err()?)));
            let worker = self.name();
            match failed {
                None => tracing::info!(worker, "files were edited: the processes were replaced"),
                Some((number, why)) => {
                    tracing::warn!(worker, number, why, "files were edited, but no new process became ready");
                }
            }
        }
    }

    /// Recreates sockets that a process has shut down, even while all are running; and replaces those that have the old
    /// ones.
    async fn watch_sockets(&self) {
        let Shared { config, sockets, metrics, .. } = &*self.shared;
        if config.listen.is_empty() || config.accept == Accept::Sidecar {
            return std::future::pending().await;
        }
        let mut seen = 0;
        loop {
            sleep(SOCKETS_INTERVAL).await;
            // `metrics` show why they cannot be created.
            let has_them = sockets.get(config, metrics).await.is_ok();
            let renewals = sockets.renewals();
            if has_them && renewals > seen {
                seen = renewals;
                let outcomes = self.roll(Which::All).await;
                if let Some((number, why)) = outcomes.into_iter().find_map(|(number, it)| Some((number, it.err()?))) {
                    tracing::error!(
                        worker = self.name(),
                        number,
                        why,
                        "no process took the place of one without its socket"
                    );
                }
                sleep(RENEWAL_INTERVAL).await;
            }
        }
    }

    /// The selected ones, for sending commands.
    pub(super) fn addressees(&self, which: Which) -> impl Iterator<Item = Addressee> {
        self.meant(which).into_iter().map(|(number, slot)| {
            let pid = slot.look(Machine::pid);
            self.shared.members.addressee(format!("{}/{number}", self.name()), pid)
        })
    }

    /// Stops all of them within this time, for good.
    pub(super) async fn end(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let ended: Vec<_> = {
            let mut slots = self.slots();
            slots.are_over = true;
            let leave = |slot: &Arc<Slot>| slot.ask(|machine, done, now| machine.leave(until, done, now));
            slots.all.values().map(leave).collect()
        };
        // After the timeout a process is killed, which takes a moment.
        let _ = timeout_at(until + KILL_TIMEOUT, join_all(ended)).await;
    }

    /// Begins its removal: accepts nothing for it any more, and starts no more processes.
    pub(super) async fn close(&self, metrics: &Metrics) {
        self.slots().are_over = true;
        self.stop.request();
        self.shared.passing.iter().for_each(|passing| passing.close());
        self.shared.sockets.close(metrics).await;
        self.shared.requested.close().await;
    }

    pub(super) fn is_removed(&self) -> bool {
        self.slots().are_over
    }

    /// Whether everything removed from it has ended.
    pub(super) fn is_gone(&self) -> bool {
        self.slots().all.values().all(|slot| slot.is_gone())
    }

    /// Ends what is left of it, as many at once as in a rolling restart, so that the others still serve waiting
    /// clients.
    pub(super) async fn drain(&self) -> Outcomes {
        let (all, mut outcomes) = (self.meant(Which::All).into_iter().collect::<Vec<_>>(), Outcomes::new());
        for slots in all.chunks(self.surge()) {
            let until = Instant::now() + self.shared.config.stop_timeout;
            let ended = slots.iter().map(|(number, slot)| {
                let ended = slot.ask(|machine, done, now| machine.leave(until, done, now));
                ended.map(|outcome| (*number, outcome))
            });
            outcomes.extend(join_all(ended).await);
        }
        self.shared.passing.iter().for_each(|passing| passing.end());
        outcomes
    }

    async fn ask(&self, which: Which, wish: impl Fn(&mut Machine, Done, Instant)) -> Outcomes {
        let asked = self.meant(which).into_iter().map(|(number, slot)| {
            let outcome = slot.ask(&wish);
            outcome.map(move |outcome| (number, outcome))
        });
        join_all(asked.collect::<Vec<_>>()).await
    }

    fn meant(&self, which: Which) -> BTreeMap<u32, Arc<Slot>> {
        let slots = self.slots();
        let is_meant = |number: u32| which == Which::All || which == Which::Number(number);
        let meant = slots.all.iter().filter(|(number, slot)| is_meant(**number) && !slot.is_gone());
        meant.map(|(number, slot)| (*number, slot.clone())).collect()
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
