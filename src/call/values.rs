//! Values of calls as they arrive, and the memory of the caller that they take.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::share::{Share, Taken};

/// What a value takes besides its bytes.
const OVERHEAD: usize = 64;

/// The error for a client whose user takes too much memory.
pub const OVERLOADED: &str = "overloaded: requests and unread replies of this user take as much memory as one \
                                     user may have of max_memory; read the replies, and try again";

/// Room for the values of one reply as they arrive, possibly shared by several calls.
#[derive(Debug)]
pub struct Budget {
    taken: Mutex<Taken>,
    max: usize,
}

/// The values of one call that have arrived and were not handed out yet. They take room of a budget, possibly one that
/// other calls share.
#[derive(Debug)]
pub struct Values {
    budget: Arc<Budget>,
    buffer: Mutex<Buffer>,
    /// For callers that fetch values as they arrive, and so make room for more.
    room: Option<Notify>,
}

#[derive(Debug, Default)]
struct Buffer {
    values: Vec<Vec<u8>>,
    are_given_out: bool,
}

/// Why there is no room for more values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    #[error("it gave more at once than max_reply allows")]
    Reply,
    #[error("{OVERLOADED}")]
    Memory,
}

impl Budget {
    /// Room for the values of a reply of at most `max` bytes.
    pub fn new(memory: &Arc<Share>, max: usize) -> Arc<Self> {
        Arc::new(Self { taken: Mutex::new(memory.nothing()), max })
    }

    /// Takes room for a value.
    fn take(&self, value: &[u8]) -> Result<(), NoRoom> {
        let mut taken = lock(&self.taken);
        let amount = taken.amount() + value.len() + OVERHEAD;
        if amount > self.max {
            return Err(NoRoom::Reply);
        }
        if taken.resize(amount) { Ok(()) } else { Err(NoRoom::Memory) }
    }

    /// Gives back the room of values.
    fn give_back(&self, values: &[Vec<u8>]) {
        let mut taken = lock(&self.taken);
        let amount = taken.amount() - size(values);
        taken.resize(amount);
    }
}

impl Values {
    pub fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: budget.clone(), buffer: Mutex::default(), room: None }
    }

    /// The same for a call whose values are fetched as they arrive.
    pub fn fetched(budget: &Arc<Budget>) -> Self {
        Self { room: Some(Notify::new()), ..Self::new(budget) }
    }

    /// Takes a value in. If values are fetched as they arrive, waits until there is room besides those not yet fetched.
    pub async fn put(&self, value: Vec<u8>) -> Result<(), NoRoom> {
        while let Err(no_room) = self.budget.take(&value) {
            match &self.room {
                Some(room) if no_room == NoRoom::Reply && !lock(&self.buffer).values.is_empty() => {
                    room.notified().await
                }
                _ => return Err(no_room),
            }
        }
        lock(&self.buffer).values.push(value);
        Ok(())
    }

    /// Hands out what has arrived, and gives back its room.
    pub fn give_out(&self) -> Vec<Vec<u8>> {
        let mut buffer = lock(&self.buffer);
        let values = std::mem::take(&mut buffer.values);
        buffer.are_given_out |= !values.is_empty();
        self.budget.give_back(&values);
        if let Some(room) = &self.room {
            room.notify_one();
        }
        values
    }

    /// Whether any have arrived.
    pub fn have_come(&self) -> bool {
        let buffer = lock(&self.buffer);
        buffer.are_given_out || !buffer.values.is_empty()
    }

    /// Discards the values of an attempt that failed. False: some were handed out already, and the rest is kept.
    pub fn start_over(&self) -> bool {
        let mut buffer = lock(&self.buffer);
        if !buffer.are_given_out {
            self.budget.give_back(&std::mem::take(&mut buffer.values));
        }
        !buffer.are_given_out
    }

    /// All of them; their room stays taken while the budget lives.
    pub fn into_all(self) -> Vec<Vec<u8>> {
        self.buffer.into_inner().unwrap_or_else(PoisonError::into_inner).values
    }
}

/// How much room values take.
pub fn size(values: &[Vec<u8>]) -> usize {
    values.iter().map(|value| value.len() + OVERHEAD).sum()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::share::Pool;

    fn put(values: &Values, value: Vec<u8>) -> Result<(), NoRoom> {
        values.put(value).now_or_never().expect("it does not wait")
    }

    /// A user who alone may take half of this.
    fn memory(max_memory: usize) -> Arc<Share> {
        Pool::new(max_memory, 1).share(None)
    }

    #[test]
    fn room_is_bounded_in_one_reply_and_for_a_user_and_given_back() {
        let memory = memory(2_000);
        let budget = Budget::new(&memory, 600);
        let [one, other, two] = [&budget, &budget, &Budget::new(&memory, 600)].map(Values::new);
        let value = |bytes| vec![b'x'; bytes];
        assert_eq!(put(&one, value(400)), Ok(()));
        assert_eq!(put(&other, value(100)), Err(NoRoom::Reply), "they share it");
        assert_eq!(put(&two, value(400)), Ok(()));
        assert_eq!(put(&two, value(40)), Err(NoRoom::Memory));
        assert_eq!(one.into_all(), [value(400)]);
        drop((other, budget));
        assert_eq!(put(&two, value(40)), Ok(()));
        drop(two);
        assert_eq!(memory.taken(), 0);
    }

    #[test]
    fn what_is_given_out_or_thrown_away_takes_no_room_and_only_the_latter_may_come_again() {
        let memory = memory(2_000);
        let values = Values::new(&Budget::new(&memory, 600));
        assert_eq!(put(&values, vec![b'x'; 500]), Ok(()));
        assert!(values.start_over() && memory.taken() == 0);
        assert!(values.give_out().is_empty() && values.start_over(), "there was nothing to give");
        assert_eq!(put(&values, vec![b'y'; 500]), Ok(()));
        assert_eq!(values.give_out(), [vec![b'y'; 500]]);
        assert_eq!(put(&values, vec![b'z'; 500]), Ok(()));
        assert!(!values.start_over());
        assert_eq!(values.give_out(), [vec![b'z'; 500]], "what comes before the failure is told before it");
        assert_eq!(memory.taken(), 0);
    }

    #[test]
    fn what_is_fetched_as_it_comes_waits_for_room_unless_it_never_has_any() {
        let memory = memory(4_000);
        let values = Values::fetched(&Budget::new(&memory, 600));
        assert_eq!(put(&values, vec![b'x'; 500]), Ok(()));
        let mut second = std::pin::pin!(values.put(vec![b'y'; 400]));
        assert_eq!(second.as_mut().now_or_never(), None);
        assert_eq!(values.give_out(), [vec![b'x'; 500]]);
        assert_eq!(second.now_or_never(), Some(Ok(())));
        assert_eq!(values.give_out(), [vec![b'y'; 400]]);
        assert_eq!(put(&values, vec![b'z'; 700]), Err(NoRoom::Reply));
        assert_eq!(memory.taken(), 0);
    }
}
