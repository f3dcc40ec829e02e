//! What is owed to clients: the bytes of replies that have not been read yet, bounded over all connections.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How much is owed, and how much may be.
#[derive(Debug)]
pub(super) struct Ledger {
    owed: AtomicUsize,
    most: usize,
}

/// Bytes that are owed until this is dropped.
#[derive(Debug)]
pub(super) struct Owed {
    bytes: AtomicUsize,
    ledger: Arc<Ledger>,
}

/// Room for the values of one reply while they come, also where several calls share it.
#[derive(Debug)]
pub(super) struct Budget {
    owed: Owed,
    most: usize,
}

/// The values of one call that have come and were not given out yet. They take room of a budget, also of one that other
/// calls share.
#[derive(Debug)]
pub(super) struct Values {
    budget: Arc<Budget>,
    pile: Mutex<Pile>,
}

#[derive(Debug, Default)]
struct Pile {
    values: Vec<Vec<u8>>,
    are_given_out: bool,
}

/// Why there is no room for more values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRoom {
    #[error("it gave more at once than max_reply allows")]
    Reply,
    #[error("too many bytes of replies wait for their readers")]
    All,
}

/// What a value takes beside its bytes.
const OVERHEAD: usize = 64;

impl Ledger {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { owed: AtomicUsize::new(0), most })
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.owed.load(Ordering::Relaxed).saturating_add(bytes) <= self.most
    }

    pub(super) fn owe(self: &Arc<Self>, bytes: usize) -> Owed {
        self.owed.fetch_add(bytes, Ordering::Relaxed);
        Owed { bytes: AtomicUsize::new(bytes), ledger: self.clone() }
    }

    /// Room for the values of a reply of at most `most` bytes.
    pub(super) fn budget(self: &Arc<Self>, most: usize) -> Arc<Budget> {
        Arc::new(Budget { owed: self.owe(0), most })
    }
}

impl Budget {
    /// Takes room for a value.
    fn take(&self, value: &[u8]) -> Result<(), NoRoom> {
        let bytes = value.len() + OVERHEAD;
        let Owed { bytes: taken, ledger } = &self.owed;
        if taken.load(Ordering::Relaxed) + bytes > self.most {
            return Err(NoRoom::Reply);
        }
        if !ledger.has_room(bytes) {
            return Err(NoRoom::All);
        }
        taken.fetch_add(bytes, Ordering::Relaxed);
        ledger.owed.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Gives back the room of values.
    fn give_back(&self, values: &[Vec<u8>]) {
        let bytes: usize = values.iter().map(|value| value.len() + OVERHEAD).sum();
        self.owed.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.owed.ledger.owed.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Values {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: budget.clone(), pile: Mutex::default() }
    }

    pub(super) fn put(&self, value: Vec<u8>) -> Result<(), NoRoom> {
        self.budget.take(&value)?;
        self.pile().values.push(value);
        Ok(())
    }

    /// Gives out what has come, and its room back.
    pub(super) fn give_out(&self) -> Vec<Vec<u8>> {
        let mut pile = self.pile();
        let values = std::mem::take(&mut pile.values);
        pile.are_given_out |= !values.is_empty();
        self.budget.give_back(&values);
        values
    }

    /// Whether any have come.
    pub(super) fn have_come(&self) -> bool {
        let pile = self.pile();
        pile.are_given_out || !pile.values.is_empty()
    }

    /// Throws away what came of an attempt that failed. False: some of it has been given out, and the rest is kept.
    pub(super) fn start_over(&self) -> bool {
        let mut pile = self.pile();
        if !pile.are_given_out {
            self.budget.give_back(&std::mem::take(&mut pile.values));
        }
        !pile.are_given_out
    }

    /// All of them; their room is the budget's as long as that lives.
    pub(super) fn into_all(self) -> Vec<Vec<u8>> {
        self.pile.into_inner().unwrap_or_else(PoisonError::into_inner).values
    }

    fn pile(&self) -> MutexGuard<'_, Pile> {
        self.pile.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.ledger.owed.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_in_one_reply_and_over_all_and_given_back() {
        let ledger = Ledger::new(1_000);
        let budget = ledger.budget(600);
        let [one, other, two] = [&budget, &budget, &ledger.budget(600)].map(Values::new);
        let value = |bytes| vec![b'x'; bytes];
        assert_eq!(one.put(value(400)), Ok(()));
        assert_eq!(other.put(value(100)), Err(NoRoom::Reply), "they share it");
        assert_eq!(two.put(value(400)), Ok(()));
        assert_eq!(two.put(value(40)), Err(NoRoom::All));
        assert_eq!(one.into_all(), [value(400)]);
        drop((other, budget));
        assert_eq!(two.put(value(40)), Ok(()));
        drop(two);
        assert!(ledger.has_room(1_000));
    }

    #[test]
    fn what_is_given_out_or_thrown_away_takes_no_room_and_only_the_latter_may_come_again() {
        let ledger = Ledger::new(1_000);
        let values = Values::new(&ledger.budget(600));
        assert_eq!(values.put(vec![b'x'; 500]), Ok(()));
        assert!(values.start_over() && ledger.has_room(1_000));
        assert!(values.give_out().is_empty() && values.start_over(), "there was nothing to give");
        assert_eq!(values.put(vec![b'y'; 500]), Ok(()));
        assert_eq!(values.give_out(), [vec![b'y'; 500]]);
        assert_eq!(values.put(vec![b'z'; 500]), Ok(()));
        assert!(!values.start_over());
        assert_eq!(values.give_out(), [vec![b'z'; 500]], "what comes before the failure is told before it");
        assert!(ledger.has_room(1_000));
    }
}
