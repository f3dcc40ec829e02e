//! The pace: how much is asked of a server at once, and less of it after a loss in mid-read.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytesize::ByteSize;

use crate::mutant;

/// Paths in a request, in bytes: a server closes the connection of a client that sends more than its `jute.maxbuffer`.
const REQUEST_BYTES: usize = 32 << 10;

/// Nodes in a request.
const NODES: usize = 256;

/// After so many halvings, one node is read at a time.
const MAX_HALVINGS: u32 = 8;

/// After so long without a loss in mid-read, twice as much is asked for.
const EASE_AFTER: Duration = Duration::from_secs(600);

/// What a node may hold of which nothing is known: at first, the most that ZooKeeper takes by default.
const UNKNOWN_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Pace {
    max_bytes: usize,
    halvings: u32,
    slowed: Instant,
    /// About how many bytes a node holds of which nothing is known.
    expected: AtomicUsize,
}

impl Pace {
    pub(super) fn new(max_in_flight: ByteSize) -> Self {
        let max_bytes = usize::try_from(max_in_flight.as_u64()).unwrap_or(usize::MAX);
        Self { max_bytes, halvings: 0, slowed: Instant::now(), expected: UNKNOWN_BYTES.into() }
    }

    /// Bytes of replies that may be on their way; one node may be larger.
    pub(super) fn bytes(&self) -> usize {
        let most = if mutant::is("all-at-once") { usize::MAX / 2 } else { self.max_bytes };
        most >> self.halvings
    }

    /// Bytes of paths in a request; one path may be longer.
    pub(super) fn request_bytes(&self) -> usize {
        REQUEST_BYTES >> self.halvings
    }

    /// Nodes in a request.
    pub(super) fn nodes(&self) -> usize {
        NODES >> self.halvings
    }

    pub(super) fn expected(&self) -> usize {
        self.expected.load(Ordering::Relaxed)
    }

    fn expect(&self, bytes: usize) {
        self.expected.store(bytes, Ordering::Relaxed);
    }

    /// Of what comes next nothing is known.
    pub(super) fn forget(&self) {
        self.expect(UNKNOWN_BYTES);
    }

    /// A node was read. Large ones are believed sooner than small ones.
    pub(super) fn learn(&self, bytes: usize) {
        let expected = self.expected();
        self.expect(if bytes > expected { expected.midpoint(bytes) } else { (expected * 3 + bytes) / 4 });
    }

    /// A read came to no end: the next one asks for less.
    pub(super) fn slow_down(&mut self) {
        self.halvings = (self.halvings + 1).min(MAX_HALVINGS);
        self.slowed = Instant::now();
        self.forget();
    }

    /// A read came to its end.
    pub(super) fn ease(&mut self) {
        if self.slowed.elapsed() > EASE_AFTER {
            self.halvings = self.halvings.saturating_sub(1);
            self.slowed = Instant::now();
        }
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
    fn a_large_node_is_believed_at_once_and_small_ones_soon() {
        let pace = Pace::new(ByteSize::mib(4));
        (0..40).for_each(|_| pace.learn(100));
        assert!(pace.expected() < 110, "{}", pace.expected());
        pace.learn(1 << 20);
        assert!(pace.expected() >= 1 << 19, "{}", pace.expected());
    }
}
