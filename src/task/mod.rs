//! Tasks: started under a name, watched, stopped together; and retry delays.

pub mod stuck;
pub(crate) mod wake;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

pub use roster_net::{Backoff, random_part, unawaited};

/// Starts tasks and threads; the only place in the library that does.
///
/// A critical task lives until the stop. One that ends or panics before is reported as a [`Failure`], and the process
/// should stop: a sidecar that lost a part must not pretend to be complete.
#[derive(Clone, Debug)]
pub struct Tasks {
    /// The tasks of one phase.
    tracker: TaskTracker,
    stop: CancellationToken,
    phases: Arc<[(TaskTracker, CancellationToken); PHASES.len()]>,
    failures: mpsc::UnboundedSender<Failure>,
}

/// When tasks are stopped: those of a phase are asked to end when all earlier phases have ended or run out of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The supervised processes, which complete what they do: clients are answered until then.
    Workers,
    /// Tasks that answer clients: no more are accepted, and calls under way are completed.
    Clients,
    /// The register, which carries calls.
    Masters,
    Sources,
    /// The last copy of the known state.
    SharedFile,
}

const PHASES: [(Phase, &str); 5] = [
    (Phase::Workers, "workers"),
    (Phase::Clients, "clients"),
    (Phase::Masters, "masters"),
    (Phase::Sources, "sources"),
    (Phase::SharedFile, "the shared file"),
];

/// How many tasks of each phase did not end in time.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cut(Vec<(&'static str, usize)>);

impl Cut {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.0.iter().map(|(phase, count)| format!("{count} of {phase}")).collect();
        f.write_str(&words.join(", "))
    }
}

/// A critical task that has ended, and why.
#[derive(Debug, thiserror::Error)]
#[error("{task} {how}")]
pub struct Failure {
    pub task: String,
    pub how: String,
}

/// Signals a task that it should end.
#[derive(Clone, Debug)]
pub struct Stop(CancellationToken);

impl Stop {
    pub fn requested(&self) -> WaitForCancellationFuture<'_> {
        self.0.cancelled()
    }

    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// A child signal, which can also be requested by itself.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Requests the stop of a child signal.
    pub fn request(&self) {
        self.0.cancel();
    }
}

impl Tasks {
    /// The tasks that answer clients, and the channel that reports failed critical tasks.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Failure>) {
        let (failures, failed) = mpsc::unbounded_channel();
        let phases = Arc::new(PHASES.map(|_| (TaskTracker::new(), CancellationToken::new())));
        let (tracker, stop) = phases[Phase::Clients as usize].clone();
        (Self { tracker, stop, phases, failures }, failed)
    }

    /// The same, for tasks that are stopped in this phase.
    pub fn of(&self, phase: Phase) -> Self {
        let (tracker, stop) = self.phases[phase as usize].clone();
        Self { tracker, stop, ..self.clone() }
    }

    pub fn stop_signal(&self) -> Stop {
        Stop(self.stop.clone())
    }

    /// Starts a task that should live until the stop.
    pub fn critical(&self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        let (name, tasks) = (name.into(), self.clone());
        self.tracker.spawn(async move {
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            tasks.report(name, ended.is_err());
        });
    }

    /// Starts a task that ends by itself, such as a connection. A panic ends only this task.
    pub fn short(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task);
    }

    /// Starts a thread with its own runtime, on which `task` lives until the stop. What `task` starts by
    /// [`Tasks::short`] runs on the same thread, and the thread waits for it.
    pub fn thread<F>(
        &self,
        name: impl Into<String>,
        task: impl FnOnce(Tasks) -> F + Send + 'static,
    ) -> std::io::Result<()>
    where
        F: Future<Output = ()>,
    {
        let (name, whole) = (name.into(), self.clone());
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = stuck::watch(runtime.enable_all())?.build()?;
        let alive = self.tracker.token();
        std::thread::Builder::new().name(name.clone()).spawn(move || {
            let own = Tasks { tracker: TaskTracker::new(), ..whole.clone() };
            let ended = std::panic::catch_unwind(AssertUnwindSafe(|| {
                runtime.block_on(async {
                    task(own.clone()).await;
                    own.tracker.close();
                    own.tracker.wait().await;
                });
            }));
            whole.report(name, ended.is_err());
            drop::<TaskTrackerToken>(alive);
        })?;
        Ok(())
    }

    fn report(&self, task: String, panicked: bool) {
        if self.stop.is_cancelled() && !panicked {
            return;
        }
        let how = if panicked { "panicked" } else { "ended" }.to_owned();
        // The receiver is gone only when the process is about to end.
        let _ = self.failures.send(Failure { task, how });
    }

    /// Asks the tasks of each phase in turn to end, and waits until they have. `deadline` covers all phases; each
    /// leaves a quarter of the remaining time to those after it.
    pub async fn stop(&self, deadline: Duration) -> Cut {
        let began = Instant::now();
        let mut cut = Cut::default();
        for (number, (tracker, stop)) in self.phases.iter().enumerate() {
            let is_last = self.phases[number + 1..].iter().all(|(tracker, _)| tracker.is_empty());
            let left = deadline.saturating_sub(began.elapsed());
            stop.cancel();
            tracker.close();
            let _ = timeout(if is_last { left } else { left - left / 4 }, tracker.wait()).await;
            if !tracker.is_empty() {
                cut.0.push((PHASES[number].1, tracker.len()));
            }
        }
        cut
    }
}

/// Signals tasks to read again what an operator may have changed: credentials, files.
#[derive(Clone, Debug)]
pub struct Reload(watch::Receiver<()>);

impl Reload {
    /// The signal and its sender.
    pub fn new() -> (watch::Sender<()>, Self) {
        let (sender, receiver) = watch::channel(());
        (sender, Self(receiver))
    }

    pub async fn requested(&mut self) {
        if self.0.changed().await.is_err() {
            // The sender is gone: it never comes.
            std::future::pending().await
        }
    }
}

/// Does two things concurrently, and waits for both.
pub fn both<A: Send, B>(one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B) -> (A, B) {
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        (one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), other)
    })
}

/// How many items are mapped at a time, and for how many times another thread may be ahead.
const AT_ONCE: usize = 256;
const TIMES_AHEAD: usize = 4;

/// Maps items, and has `take` take them in, in order, each with the result. Another thread maps ahead, and this one whatever
/// that has not begun when its result is wanted; each has a mapper of its own.
pub(crate) fn ahead<T: Sync, R: Send, M: FnMut(&T) -> R>(
    items: &[T],
    mapper: impl Fn() -> M + Sync,
    mut take: impl FnMut(&T, R),
) {
    let next = AtomicUsize::new(0);
    let map_next = |map: &mut M| {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let some = items.chunks(AT_ONCE).nth(number)?;
        Some((number, some.iter().map(map).collect::<Vec<R>>()))
    };
    std::thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::sync_channel(TIMES_AHEAD);
        let (mapper, map_next) = (&mapper, &map_next);
        let map_all = move || {
            let mut map = mapper();
            while let Some(mapped) = map_next(&mut map) {
                // Nobody receives any more if `take` has panicked.
                if sender.send(mapped).is_err() {
                    return;
                }
            }
        };
        // Without that thread, this one maps everything.
        let thread = std::thread::Builder::new().name("ahead".to_owned()).spawn_scoped(scope, map_all);
        let (mut map, mut mapped) = (mapper(), HashMap::new());
        for (number, some) in items.chunks(AT_ONCE).enumerate() {
            while !mapped.contains_key(&number) {
                let more = receiver.try_recv().ok().or_else(|| map_next(&mut map)).or_else(|| receiver.recv().ok());
                // The other thread has panicked.
                let Some((number, results)) = more else { break };
                mapped.insert(number, results);
            }
            some.iter().zip(mapped.remove(&number).unwrap_or_default()).for_each(|(item, result)| take(item, result));
        }
        if let Ok(Err(panic)) = thread.map(|thread| thread.join()) {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Does work that blocks its thread for long. Other tasks go on beside it if the runtime has several threads.
pub(crate) fn beside_others<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// A random duration between half and one and a half of `mean`, so that many who repeat something do not do it in step.
pub fn around(mean: Duration) -> Duration {
    mean / 2 + random_part(mean)
}

/// A random number below `end`; 0 if `end` is 0.
pub fn random_below(end: usize) -> usize {
    fastrand::usize(..end.max(1))
}

/// Asserts that waits are spread evenly from the shortest to the longest.
#[cfg(test)]
pub(crate) fn assert_spread(shortest: Duration, longest: Duration, mut wait: impl FnMut() -> Duration) {
    const MANY: usize = 10_000;
    let mut parts = [0; 10];
    for _ in 0..MANY {
        let later = wait().checked_sub(shortest).expect("no wait is shorter");
        let part = later.div_duration_f64((longest - shortest) / parts.len() as u32) as usize;
        parts[part] += 1;
    }
    // A tenth each, give or take twelve standard deviations.
    assert!(parts.iter().all(|part| (640..1_360).contains(part)), "{shortest:?} to {longest:?}: {parts:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_ahead_is_taken_in_order_and_a_panic_ends_it() {
        for count in [0, 1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 40 * AT_ONCE + 7] {
            let (items, mut taken) = ((0..count).collect::<Vec<_>>(), Vec::new());
            ahead(&items, || |item: &usize| item * 2, |item, double| taken.push((*item, double)));
            assert!(taken.into_iter().eq(items.iter().map(|item| (*item, item * 2))), "{count}");
        }
        let items = vec![(); 40 * AT_ONCE];
        for is_taking in [false, true] {
            let all = || ahead(&items, || |()| assert!(is_taking), |(), ()| assert!(!is_taking));
            std::panic::catch_unwind(AssertUnwindSafe(all)).expect_err("it does not hang");
        }
    }

    #[test]
    fn many_who_retry_after_the_same_loss_are_spread_over_each_wait() {
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut all = vec![Backoff::new(least, most); 10_000];
        let mut longest = least;
        for _ in 0..6 {
            let mut backoffs = all.iter_mut();
            assert_spread(least / 2, longest, || backoffs.next().expect("one for each wait").delay());
            longest = (longest * 2).min(most);
        }
    }

    #[tokio::test]
    async fn a_critical_task_that_ends_or_panics_is_named() {
        let (tasks, mut failed) = Tasks::new();
        tasks.critical("the ender", async {});
        assert_eq!(failed.recv().await.expect("a failure").to_string(), "the ender ended");
        tasks.critical("the panicker", async { panic!("as the test wants") });
        assert_eq!(failed.recv().await.expect("a failure").to_string(), "the panicker panicked");
        tasks.thread("the thread", |_| async { panic!("as the test wants") }).expect("a thread");
        assert_eq!(failed.recv().await.expect("a failure").to_string(), "the thread panicked");
    }

    #[tokio::test]
    async fn a_stop_ends_the_willing_and_tells_of_the_unwilling() {
        let (tasks, mut failed) = Tasks::new();
        let stop = tasks.stop_signal();
        tasks.critical("willing", async move { stop.requested().await });
        assert!(tasks.stop(Duration::from_secs(5)).await.is_empty());
        assert!(failed.try_recv().is_err(), "an end that was asked for is no failure");
        tasks.short(std::future::pending());
        assert_eq!(tasks.stop(Duration::from_millis(10)).await.to_string(), "1 of clients");
    }

    #[tokio::test]
    async fn phases_are_stopped_one_after_the_other_and_one_that_hangs_leaves_time_to_the_rest() {
        assert!(
            PHASES.iter().enumerate().all(|(number, (phase, _))| *phase as usize == number),
            "each has its own name"
        );
        let (tasks, _failed) = Tasks::new();
        let (ended, mut order) = mpsc::unbounded_channel();
        for (phase, _) in PHASES.into_iter().rev() {
            let (tasks, ended) = (tasks.of(phase), ended.clone());
            let stop = tasks.stop_signal();
            tasks.critical("a task", async move {
                stop.requested().await;
                tokio::time::sleep(Duration::from_millis(5)).await;
                let _ = ended.send(phase);
                if phase == Phase::Masters {
                    std::future::pending().await
                }
            });
        }
        let cut = tasks.stop(Duration::from_secs(4)).await;
        drop(ended);
        let order: Vec<_> = std::iter::from_fn(|| order.try_recv().ok()).collect();
        assert_eq!(order, [Phase::Workers, Phase::Clients, Phase::Masters, Phase::Sources, Phase::SharedFile]);
        assert_eq!(cut.to_string(), "1 of masters");
    }
}
