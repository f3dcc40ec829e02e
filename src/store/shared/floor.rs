//! The floor: which old states of the shared file are not overwritten yet, since they may still be read.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long replaced pages are left alone whether or not a reader is registered: a process with the folder mounted
/// read-only cannot register. It is longer than a read takes.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// The precision of that time.
const SLICE: Duration = Duration::from_millis(250);

/// How many states are distinguished.
const MAX_STATES: usize = 64;

/// The states at the ends of the last slices, oldest first. Everything that was current since the first is left alone.
#[derive(Debug)]
pub(super) struct Floor {
    states: VecDeque<State>,
    is_first: bool,
}

#[derive(Debug)]
struct State {
    transaction: u64,
    /// Before this moment, this state or an older one was current.
    since: Instant,
}

impl Floor {
    /// For a file whose recent states are unknown.
    pub(super) fn new(now: Instant) -> Self {
        Self { states: [State { transaction: 1, since: now }].into(), is_first: true }
    }

    /// The transaction of the oldest state.
    pub(super) fn transaction(&self) -> u64 {
        self.states.front().map_or(1, |oldest| oldest.transaction)
    }

    /// Whether nothing could be released yet, since the grace time is not over.
    pub(super) fn is_first(&self) -> bool {
        self.is_first
    }

    /// Notes the current state, about to be replaced, if a slice has passed.
    pub(super) fn note(&mut self, transaction: u64, now: Instant) -> bool {
        if self.states.back().is_some_and(|last| last.since + SLICE > now) {
            return false;
        }
        if self.states.len() == MAX_STATES {
            self.states.remove(1);
        }
        self.states.push_back(State { transaction, since: now });
        true
    }

    /// Releases what was replaced longer ago than the grace time, except for the state of a reader and those after it.
    /// Returns whether a reader keeps the oldest.
    pub(super) fn raise(&mut self, reader: Option<u64>, now: Instant) -> bool {
        while let Some(next) = self.states.get(1).filter(|next| next.since + GRACE <= now) {
            self.is_first = false;
            if let Some(reader) = reader.filter(|reader| *reader < next.transaction) {
                self.states
                    .front_mut()
                    .into_iter()
                    .for_each(|oldest| oldest.transaction = reader.max(oldest.transaction));
                return true;
            }
            self.states.pop_front();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A floor with one state per second, of the transactions 10, 20, …
    fn floor(start: Instant) -> Floor {
        let mut floor = Floor::new(start);
        for second in 1..=5 {
            assert!(floor.note(second * 10, start + Duration::from_secs(second)));
        }
        floor
    }

    #[test]
    fn what_was_replaced_is_left_alone_for_the_grace_time() {
        let start = Instant::now();
        let mut floor = floor(start);
        assert!(!floor.raise(None, start + Duration::from_millis(2_999)) && floor.is_first());
        floor.raise(None, start + Duration::from_secs(5));
        // 30 was current until 3 s: that is exactly the grace time.
        assert_eq!(floor.transaction(), 30);
        floor.raise(None, start + Duration::from_secs(500));
        assert_eq!(floor.transaction(), 50, "the current one stays");
    }

    #[test]
    fn the_state_of_a_reader_stays_and_those_after_it() {
        let start = Instant::now();
        let (mut floor, late) = (floor(start), start + Duration::from_secs(60));
        assert!(floor.raise(Some(25), late));
        assert_eq!(floor.transaction(), 25, "its own state, and none before");
        assert!(!floor.raise(Some(50), late));
        assert_eq!(floor.transaction(), 50);
    }

    #[test]
    fn a_reader_of_the_first_state_is_a_reader_like_any_other() {
        let start = Instant::now();
        let mut floor = floor(start);
        assert!(floor.raise(Some(1), start + Duration::from_secs(5)));
        assert!(floor.transaction() == 1 && !floor.is_first(), "what it keeps counts");
    }

    #[test]
    fn a_reader_that_stays_for_days_makes_it_no_longer() {
        let start = Instant::now();
        let mut floor = floor(start);
        for second in 6..10_000 {
            floor.note(second * 10, start + Duration::from_secs(second));
            floor.raise(Some(5), start + Duration::from_secs(second));
        }
        assert!(floor.states.len() <= MAX_STATES && floor.transaction() == 5);
    }
}
