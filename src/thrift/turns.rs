//! Turns: one thread accepts at a time, so that a new connection wakes one thread and not all.
//!
//! Two threads that wait for one listener are both woken, and under little load the one that came in vain doubles what
//! a connection costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::task::Stop;

/// By how many connections a thread may be ahead of another before that one accepts the next.
const AHEAD: usize = 16;

/// The threads, and how many connections each has.
#[derive(Debug)]
pub(super) struct Turns {
    threads: Vec<Thread>,
    /// Whose turn it is.
    now: AtomicUsize,
}

#[derive(Debug, Default)]
struct Thread {
    open: AtomicUsize,
    begins: Notify,
    ends: Notify,
}

/// A connection of a thread, until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    turns: Arc<Turns>,
    thread: usize,
}

impl Turns {
    /// The first of so many threads begins.
    pub(super) fn new(threads: usize) -> Arc<Self> {
        let threads: Vec<_> = (0..threads).map(|_| Thread::default()).collect();
        threads[0].begins.notify_one();
        Arc::new(Self { threads, now: AtomicUsize::new(0) })
    }

    /// Waits until it is a thread's turn. Whether it comes before the stop.
    pub(super) async fn begin(&self, thread: usize, stop: &Stop) -> bool {
        tokio::select! {
            () = self.threads[thread].begins.notified() => true,
            () = stop.requested() => false,
        }
    }

    /// Waits until it is another's.
    pub(super) async fn end(&self, thread: usize) {
        self.threads[thread].ends.notified().await;
    }

    /// Counts a connection that a thread accepted, and passes the turn if another thread has far fewer.
    pub(super) fn hold(self: &Arc<Self>, thread: usize) -> Held {
        let open = self.threads[thread].open.fetch_add(1, Ordering::Relaxed) + 1;
        let others = self.threads.iter().map(|other| other.open.load(Ordering::Relaxed)).enumerate();
        if let Some((other, least)) = others.min_by_key(|(_, open)| *open)
            && open > least + AHEAD
            && self.now.compare_exchange(thread, other, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.threads[thread].ends.notify_one();
            self.threads[other].begins.notify_one();
        }
        Held { turns: self.clone(), thread }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.turns.threads[self.thread].open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Tasks;
    use futures::FutureExt;

    #[test]
    fn the_turn_passes_to_a_thread_that_has_far_fewer() {
        let (turns, stop) = (Turns::new(2), Tasks::new().0.stop_signal());
        let begins = |thread| turns.begin(thread, &stop).now_or_never().is_some();
        let ends = |thread| turns.end(thread).now_or_never().is_some();
        assert!(begins(0) && !begins(0) && !begins(1));
        let mut held: Vec<_> = (0..AHEAD).map(|_| turns.hold(0)).collect();
        assert!(!ends(0) && !begins(1));
        held.extend([turns.hold(0), turns.hold(0)]);
        assert!(ends(0) && begins(1) && !ends(0) && !begins(1), "once");
        held.clear();
        held.extend((0..=AHEAD).map(|_| turns.hold(1)));
        assert!(ends(1) && begins(0));
    }
}
