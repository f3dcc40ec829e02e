//! What is owed to clients: the bytes of replies that have not been read yet, bounded over all connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// Why there is no room for more values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRoom {
    #[error("it gave more than max_reply allows")]
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
    pub(super) fn budget(self: &Arc<Self>, most: usize) -> Budget {
        Budget { owed: self.owe(0), most }
    }
}

impl Budget {
    /// Takes room for a value.
    pub(super) fn take(&self, bytes: usize) -> Result<(), NoRoom> {
        let bytes = bytes + OVERHEAD;
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
        let (one, two) = (ledger.budget(600), ledger.budget(600));
        assert_eq!(one.take(400), Ok(()));
        assert_eq!(one.take(100), Err(NoRoom::Reply));
        assert_eq!(two.take(400), Ok(()));
        assert_eq!(two.take(40), Err(NoRoom::All));
        drop(one);
        assert_eq!(two.take(40), Ok(()));
        drop(two);
        assert!(ledger.has_room(1_000));
    }
}
