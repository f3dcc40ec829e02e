//! The run queue: runs the connections of a thread by turns, first by user, then by connection.
//!
//! A runtime polls its tasks in the order in which they were woken. So a user with a thousand busy connections would be
//! served a thousand times before another user once. Here a woken connection waits in a queue of its user, and users
//! are served in rotation. A connection does all of its work in its turns, including reading and ending.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::task::AtomicWaker;

use super::accounts::{User, lock};
use crate::task::{stuck, wake};

/// How long a connection may run; and how long the thread runs before it checks for new arrivals. Shorter times answer
/// other users sooner, until the checks cost more than the work.
const TURN_TIME: Duration = Duration::from_micros(300);

/// How often the user of a connection that held the thread is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The connections of one thread.
#[derive(Debug)]
pub(super) struct RunQueue {
    waiting: Mutex<Waiting>,
    open: AtomicUsize,
    is_closed: AtomicBool,
    /// Woken when a connection queues up while none is running.
    thread: AtomicWaker,
    started: Instant,
    /// In nanoseconds since the start.
    turn_began: AtomicU64,
    /// When such a user was logged last.
    logged: Mutex<Option<Instant>>,
}

/// The connections that wait for their turn.
#[derive(Debug, Default)]
struct Waiting {
    /// Some users without waiting connections stay until another user arrives.
    of_users: HashMap<User, VecDeque<Arc<Task>>>,
    /// The users with waiting connections, the next one first.
    order: VecDeque<User>,
}

/// The work of one connection.
struct Task {
    user: User,
    queue: Arc<RunQueue>,
    is_waiting: AtomicBool,
    /// None: it is done.
    work: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl RunQueue {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            open: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
            thread: AtomicWaker::new(),
            started: Instant::now(),
            turn_began: AtomicU64::new(0),
            logged: Mutex::default(),
        })
    }

    /// Runs work by turns. A panic ends only this work.
    pub(super) fn spawn(self: &Arc<Self>, user: User, work: impl Future<Output = ()> + Send + 'static) {
        self.open.fetch_add(1, Ordering::Relaxed);
        let work = AssertUnwindSafe(work).catch_unwind().map(drop).boxed();
        let task = Task { user, queue: self.clone(), is_waiting: AtomicBool::new(false), work: Mutex::new(Some(work)) };
        Arc::new(task).wake();
    }

    /// No more work will be added.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.thread.wake();
    }

    /// Runs everything, until no more will be added and all is done.
    pub(super) async fn run(&self) {
        let working = poll_fn(|context| {
            let has_more = self.work(context).is_pending() || self.open.load(Ordering::Relaxed) > 0;
            if has_more || !self.is_closed.load(Ordering::Relaxed) { Poll::Pending } else { Poll::Ready(()) }
        });
        // Otherwise the runtime would pause all connections after its step budget for one task.
        tokio::task::coop::unconstrained(working).await;
    }

    /// Gives turns until none is waiting, or until the thread must check for new arrivals.
    fn work(&self, context: &mut Context<'_>) -> Poll<()> {
        let began = Instant::now();
        let mut now = began;
        loop {
            while let Some(task) = self.next() {
                self.turn_began.store((now - self.started).as_nanos() as u64, Ordering::Relaxed);
                task.work();
                now = Instant::now();
                if now - began >= TURN_TIME {
                    // Wakes this task after the runtime has polled the network.
                    return pin!(tokio::task::yield_now()).poll(context);
                }
            }
            self.thread.register(context.waker());
            // Another thread may have queued one before it could see the waker.
            if lock(&self.waiting).order.is_empty() {
                return Poll::Ready(());
            }
        }
    }

    fn next(&self) -> Option<Arc<Task>> {
        lock(&self.waiting).next()
    }

    fn log_holder(&self, user: User) {
        let mut logged = lock(&self.logged);
        if logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            tracing::warn!(?user, "closed a connection that sent descriptors whose close held the thread");
            *logged = Some(Instant::now());
        }
    }

    /// Whether the running connection has run for long enough.
    pub(super) fn is_turn_over(&self) -> bool {
        self.started.elapsed().saturating_sub(Duration::from_nanos(self.turn_began.load(Ordering::Relaxed)))
            >= TURN_TIME
    }
}

/// Waits for the next turn.
pub(super) async fn next_turn() {
    let mut is_next = false;
    poll_fn(|context| {
        if std::mem::replace(&mut is_next, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

impl Waiting {
    fn push(&mut self, task: Arc<Task>) {
        let of_user = match self.of_users.get_mut(&task.user) {
            Some(of_user) => of_user,
            None => {
                self.of_users.retain(|_, tasks| !tasks.is_empty());
                self.of_users.entry(task.user).or_default()
            }
        };
        if of_user.is_empty() {
            self.order.push_back(task.user);
        }
        of_user.push_back(task);
    }

    fn next(&mut self) -> Option<Arc<Task>> {
        let user = self.order.pop_front()?;
        let of_user = self.of_users.get_mut(&user)?;
        let next = of_user.pop_front();
        if !of_user.is_empty() {
            self.order.push_back(user);
        }
        next
    }
}

impl Task {
    fn work(self: Arc<Self>) {
        // Before it runs, so that a wake-up meanwhile is not lost.
        self.is_waiting.swap(false, Ordering::AcqRel);
        let waker = Waker::from(self.clone());
        let mut work = lock(&self.work);
        let Some(doing) = work.as_mut() else { return };
        // Whatever was freed before is not this connection's doing.
        stuck::was_freed();
        let is_done = doing.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let has_held = stuck::was_freed();
        if has_held {
            self.queue.log_holder(self.user);
        }
        if is_done || has_held {
            *work = None;
            self.queue.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if !self.is_waiting.swap(true, Ordering::AcqRel) {
            let queue = self.queue.clone();
            lock(&queue.waiting).push(self);
            queue.thread.take().into_iter().for_each(wake::thread);
        }
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("user", &self.user).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::wake::tests::Count;

    const ATTACKER: User = Some(1);
    const OTHER: User = Some(2);

    /// The order in which users with this many steps of work each were served.
    async fn order(of: &[(User, usize)], steps: usize) -> Vec<User> {
        let (queue, order) = (RunQueue::new(), Arc::<Mutex<Vec<User>>>::default());
        for &(user, connections) in of {
            for _ in 0..connections {
                let order = order.clone();
                queue.spawn(user, async move {
                    for _ in 0..steps {
                        lock(&order).push(user);
                        next_turn().await;
                    }
                });
            }
        }
        queue.close();
        queue.run().await;
        std::mem::take(&mut lock(&order))
    }

    #[tokio::test]
    async fn one_connection_of_another_user_waits_for_one_turn_and_not_for_all() {
        let order = order(&[(ATTACKER, 1_000), (OTHER, 1)], 2).await;
        let of_other: Vec<usize> = (0..order.len()).filter(|at| order[*at] == OTHER).collect();
        assert_eq!((order.len(), of_other), (2_002, vec![1, 3]));
    }

    #[tokio::test]
    async fn who_is_accepted_while_others_work_has_its_turn() {
        let queue = RunQueue::new();
        let busy = Arc::new(AtomicBool::new(true));
        let is_busy = busy.clone();
        queue.spawn(ATTACKER, async move {
            while is_busy.load(Ordering::Relaxed) {
                next_turn().await;
            }
        });
        let accepting = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            queue.spawn(OTHER, async move { busy.store(false, Ordering::Relaxed) });
            queue.close();
        };
        futures::join!(queue.run(), accepting);
    }

    #[test]
    fn those_that_are_woken_together_wake_their_thread_once_and_all_have_their_turn() {
        let (queue, woken) = (RunQueue::new(), Arc::new(Count(AtomicUsize::new(0))));
        let (waker, count) = (Waker::from(woken.clone()), || woken.0.load(Ordering::Relaxed));
        let mut running = pin!(queue.run());
        let mut run = || {
            loop {
                let before = count();
                let polled = running.as_mut().poll(&mut Context::from_waker(&waker));
                if polled.is_ready() || count() == before {
                    return polled.is_ready();
                }
            }
        };
        let begin = |_| {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            queue.spawn(OTHER, async move { receiver.await.expect("it is sent") });
            sender
        };
        let begun: Vec<_> = (0..3).map(begin).collect();
        queue.close();
        assert!(!run());
        let before = count();
        wake::together(|| {
            begun.into_iter().for_each(|sender| sender.send(()).expect("it waits"));
            assert_eq!(count(), before);
        });
        assert_eq!(count(), before + 1);
        assert!(run());
    }

    #[tokio::test]
    async fn a_panic_ends_one_connection_and_another_thread_may_wake_one() {
        let queue = RunQueue::new();
        queue.spawn(ATTACKER, async { panic!("as the test wants") });
        queue.spawn(OTHER, async {
            let woken = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(5)));
            woken.await.expect("it ends");
        });
        queue.close();
        queue.run().await;
        assert_eq!(queue.open.load(Ordering::Relaxed), 0);
    }
}
