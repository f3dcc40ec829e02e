//! Balances accepting: one thread accepts at a time, so that a new connection wakes one thread and not all.
//!
//! Two threads that wait for one listener are both woken, and under light load the one woken in vain doubles the cost
//! of a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use crate::task::Stop;

/// How many more connections than another thread one may have before the other accepts the next.
const MAX_LEAD: usize = 16;

/// The threads, and how many connections each has.
#[derive(Debug)]
pub(super) struct AcceptBalancer {
    open: Vec<AtomicUsize>,
    /// The thread whose turn it is. Threads look only at this, not at notifications that it changed: it may have
    /// changed back meanwhile.
    now: watch::Sender<usize>,
}

/// A connection of a thread, until dropped.
#[derive(Debug)]
pub(super) struct CountedConnection {
    balancer: Arc<AcceptBalancer>,
    thread: usize,
}

impl AcceptBalancer {
    /// For this many threads, of which the first begins.
    pub(super) fn new(threads: usize) -> Arc<Self> {
        Arc::new(Self { open: (0..threads).map(|_| AtomicUsize::new(0)).collect(), now: watch::Sender::new(0) })
    }

    /// Waits until it is a thread's turn. Returns whether that comes before the stop.
    pub(super) async fn begin(&self, thread: usize, stop: &Stop) -> bool {
        let mut now = self.now.subscribe();
        tokio::select! {
            turn = now.wait_for(|now| *now == thread) => turn.is_ok(),
            () = stop.requested() => false,
        }
    }

    /// Waits until it is another thread's turn.
    pub(super) async fn end(&self, thread: usize) {
        // It cannot fail, since the sender is here.
        let _ = self.now.subscribe().wait_for(|now| *now != thread).await;
    }

    /// Counts a connection that a thread accepted, and passes the turn if another thread has far fewer.
    pub(super) fn count(self: &Arc<Self>, thread: usize) -> CountedConnection {
        let open = self.open[thread].fetch_add(1, Ordering::Relaxed) + 1;
        let others = self.open.iter().map(|other| other.load(Ordering::Relaxed)).enumerate();
        if let Some((other, fewest)) = others.min_by_key(|(_, open)| *open)
            && open > fewest + MAX_LEAD
        {
            self.pass(thread, other);
        }
        CountedConnection { balancer: self.clone(), thread }
    }

    /// Nothing happens if it is not `thread`'s turn.
    fn pass(&self, thread: usize, other: usize) {
        self.now.send_if_modified(|now| {
            let is_own = *now == thread;
            if is_own {
                *now = other;
            }
            is_own
        });
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.balancer.open[self.thread].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt;

    use super::*;
    use crate::task::Tasks;

    #[test]
    fn the_turn_passes_to_a_thread_that_has_far_fewer() {
        let (balancer, stop) = (AcceptBalancer::new(2), Tasks::new().0.stop_signal());
        let has_turn = |thread| {
            let (begins, ends) = (balancer.begin(thread, &stop).now_or_never(), balancer.end(thread).now_or_never());
            assert_ne!(begins.is_some(), ends.is_some());
            begins.is_some()
        };
        assert!(has_turn(0) && !has_turn(1));
        let mut held: Vec<_> = (0..MAX_LEAD).map(|_| balancer.count(0)).collect();
        assert!(has_turn(0));
        held.extend([balancer.count(0), balancer.count(0)]);
        assert!(has_turn(1) && !has_turn(0));
        held.clear();
        held.extend((0..=MAX_LEAD).map(|_| balancer.count(1)));
        assert!(has_turn(0) && !has_turn(1));
    }

    #[test]
    fn a_turn_that_went_to_and_fro_while_its_thread_did_not_look_is_there() {
        let (balancer, stop) = (AcceptBalancer::new(2), Tasks::new().0.stop_signal());
        let mut ends = pin!(balancer.end(0));
        assert!(ends.as_mut().now_or_never().is_none());
        for _ in 0..2 {
            balancer.pass(0, 1);
            balancer.pass(1, 0);
        }
        assert!(ends.as_mut().now_or_never().is_none(), "it has the turn");
        for _ in 0..2 {
            assert_eq!(balancer.begin(0, &stop).now_or_never(), Some(true));
            assert!(balancer.end(0).now_or_never().is_none());
        }
    }
}
