//! The pace: how much is asked of a server at once, and less after a loss in the middle of a read.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytesize::ByteSize;

use crate::mutant;

/// The most bytes of paths in a request, as server paths and with the overhead of each: a server closes the connection
/// of a client that sends more than its `jute.maxbuffer`.
const MAX_REQUEST_BYTES: usize = 32 << 10;

/// The most nodes in a request.
const MAX_REQUEST_NODES: usize = 256;

/// After this many halvings, one node is read at a time.
const MAX_HALVINGS: u32 = 8;

/// After this long without a loss in the middle of a read, the pace doubles.
const EASE_AFTER: Duration = Duration::from_secs(600);

/// The assumed size of an unknown node: initially the default maximum of ZooKeeper.
pub(super) const UNKNOWN_BYTES: usize = 1 << 20;

/// How many small nodes outweigh a large one: more than lie between large ones in a regular layout.
const MAX_GUESS_WEIGHT: usize = 64;

#[derive(Debug)]
pub(super) struct Pace {
    max_bytes: usize,
    halvings: u32,
    slowed: Instant,
}

impl Pace {
    pub(super) fn new(max_in_flight: ByteSize) -> Self {
        let max_bytes = usize::try_from(max_in_flight.as_u64()).unwrap_or(usize::MAX);
        Self { max_bytes, halvings: 0, slowed: Instant::now() }
    }

    /// The bytes of replies that may be in flight; one node may be larger.
    pub(super) fn bytes(&self) -> usize {
        let most = if mutant::is("all-at-once") { usize::MAX / 2 } else { self.max_bytes };
        most >> self.halvings
    }

    /// The bytes of a request for paths; one path may be longer.
    pub(super) fn request_bytes(&self) -> usize {
        MAX_REQUEST_BYTES >> self.halvings
    }

    /// The nodes in a request.
    pub(super) fn nodes(&self) -> usize {
        MAX_REQUEST_NODES >> self.halvings
    }

    /// A read failed: the next one asks for less.
    pub(super) fn slow_down(&mut self) {
        self.halvings = (self.halvings + 1).min(MAX_HALVINGS);
        self.slowed = Instant::now();
    }

    /// A read was completed.
    pub(super) fn ease(&mut self) {
        if self.slowed.elapsed() > EASE_AFTER {
            self.halvings = self.halvings.saturating_sub(1);
            self.slowed = Instant::now();
        }
    }
}

/// The estimated size of unread nodes, based on those read before.
#[derive(Debug)]
pub(super) struct Guess {
    bytes: AtomicUsize,
    /// How many nodes arrived.
    count: AtomicUsize,
}

impl Guess {
    pub(super) fn new() -> Self {
        Self { bytes: UNKNOWN_BYTES.into(), count: 0.into() }
    }

    /// The estimated size of a node.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// A node arrived. Large ones raise the estimate faster than small ones lower it.
    pub(super) fn learn(&self, bytes: usize) {
        let (guess, count) = (self.bytes(), self.count() + 1);
        let learned = if bytes > guess {
            guess.midpoint(bytes)
        } else {
            guess - (guess - bytes).div_ceil(count.min(MAX_GUESS_WEIGHT))
        };
        self.bytes.store(learned, Ordering::Relaxed);
        self.count.store(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_loss_halves_what_is_asked_for_until_it_is_one_node() {
        let mut pace = Pace::new(ByteSize::mib(4));
        assert_eq!((pace.nodes(), pace.bytes()), (256, 4 << 20));
        pace.slow_down();
        assert_eq!((pace.nodes(), pace.bytes()), (128, 2 << 20));
        (0..20).for_each(|_| pace.slow_down());
        assert_eq!(pace.nodes(), 1);
        assert!(pace.bytes() > 0 && pace.request_bytes() > 0);
    }

    #[test]
    fn a_large_node_is_believed_at_once_and_remembered_for_as_long_as_it_may_be_one_of_many() {
        let guess = Guess::new();
        assert_eq!(guess.bytes(), UNKNOWN_BYTES);
        guess.learn(100);
        assert_eq!(guess.bytes(), 100);
        guess.learn(1 << 20);
        assert!(guess.bytes() >= 1 << 19, "{}", guess.bytes());
        (0..32).for_each(|_| guess.learn(100));
        assert!(guess.bytes() >= (1 << 20) / 34, "{}", guess.bytes());
        (0..1_000).for_each(|_| guess.learn(100));
        guess.learn(1 << 20);
        (0..32).for_each(|_| guess.learn(100));
        assert!(guess.bytes() >= (1 << 20) / 34, "{}", guess.bytes());
        (0..1_000).for_each(|_| guess.learn(100));
        assert_eq!(guess.bytes(), 100);
    }
}
