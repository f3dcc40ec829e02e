//! Memory: what clients make the endpoint hold, charged to their users, so that one bound stands over all others.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::accounts::{Account, lock};
use crate::share::Taken;

/// A connection is charged in steps; the first is for itself and its buffers while they are small.
const STEP: usize = 8 * 1024;

/// What a value takes beside its bytes.
const OVERHEAD: usize = 64;

/// The memory that a connection is charged for.
#[derive(Debug)]
pub(super) struct Charge {
    taken: Taken,
    parts: [usize; 3],
}

/// What grows of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// What was received and not answered yet.
    Received,
    /// What a request waits with, and what it waited for.
    Awaited,
    /// What was not read yet.
    Output,
}

/// Room for the values of one reply while they come, also where several calls share it.
#[derive(Debug)]
pub(super) struct Budget {
    taken: Mutex<Taken>,
    most: usize,
}

/// The values of one call that have come and were not given out yet. They take room of a budget, also of one that other
/// calls share.
#[derive(Debug)]
pub(super) struct Values {
    budget: Arc<Budget>,
    pile: Mutex<Pile>,
    /// For who fetches values as they come, and so makes room for others.
    room: Option<Notify>,
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
    #[error("{OVERLOADED}")]
    Memory,
}

/// What a client is told whose user takes too much.
pub(super) const OVERLOADED: &str = "overloaded: requests and unread replies of this user take as much memory as one \
                                     user may have of max_memory; read the replies, and try again";

impl Charge {
    /// None: the user has not even room for one more connection.
    pub(super) fn new(account: &Account) -> Option<Self> {
        Some(Self { taken: account.memory.take(STEP)?, parts: [0; 3] })
    }

    /// Charges so much for a part. False: it would be too much, and the charge stays what it was.
    pub(super) fn set(&mut self, part: Part, bytes: usize) -> bool {
        let before = std::mem::replace(&mut self.parts[part as usize], bytes);
        let amount = (self.parts.iter().sum::<usize>() / STEP + 1) * STEP;
        let may = amount == self.taken.amount() || self.taken.resize(amount);
        if !may {
            self.parts[part as usize] = before;
        }
        may
    }
}

impl Budget {
    /// Room for the values of a reply of at most `most` bytes.
    pub(super) fn new(account: &Account, most: usize) -> Arc<Self> {
        Arc::new(Self { taken: Mutex::new(account.memory.nothing()), most })
    }

    /// Takes room for a value.
    fn take(&self, value: &[u8]) -> Result<(), NoRoom> {
        let mut taken = lock(&self.taken);
        let amount = taken.amount() + value.len() + OVERHEAD;
        if amount > self.most {
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
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: budget.clone(), pile: Mutex::default(), room: None }
    }

    /// The same for a call whose values are fetched as they come.
    pub(super) fn fetched(budget: &Arc<Budget>) -> Self {
        Self { room: Some(Notify::new()), ..Self::new(budget) }
    }

    /// Takes a value in. Where values are fetched as they come, it waits until there is room beside those that were not.
    pub(super) async fn put(&self, value: Vec<u8>) -> Result<(), NoRoom> {
        while let Err(no_room) = self.budget.take(&value) {
            match &self.room {
                Some(room) if no_room == NoRoom::Reply && !lock(&self.pile).values.is_empty() => room.notified().await,
                _ => return Err(no_room),
            }
        }
        lock(&self.pile).values.push(value);
        Ok(())
    }

    /// Gives out what has come, and its room back.
    pub(super) fn give_out(&self) -> Vec<Vec<u8>> {
        let mut pile = lock(&self.pile);
        let values = std::mem::take(&mut pile.values);
        pile.are_given_out |= !values.is_empty();
        self.budget.give_back(&values);
        if let Some(room) = &self.room {
            room.notify_one();
        }
        values
    }

    /// Whether any have come.
    pub(super) fn have_come(&self) -> bool {
        let pile = lock(&self.pile);
        pile.are_given_out || !pile.values.is_empty()
    }

    /// Throws away what came of an attempt that failed. False: some of it has been given out, and the rest is kept.
    pub(super) fn start_over(&self) -> bool {
        let mut pile = lock(&self.pile);
        if !pile.are_given_out {
            self.budget.give_back(&std::mem::take(&mut pile.values));
        }
        !pile.are_given_out
    }

    /// All of them; their room is the budget's as long as that lives.
    pub(super) fn into_all(self) -> Vec<Vec<u8>> {
        self.pile.into_inner().unwrap_or_else(PoisonError::into_inner).values
    }
}

/// What values take.
pub(super) fn size(values: &[Vec<u8>]) -> usize {
    values.iter().map(|value| value.len() + OVERHEAD).sum()
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;
    use futures::FutureExt;

    use super::super::Config;
    use super::super::accounts::Accounts;
    use super::*;

    fn put(values: &Values, value: Vec<u8>) -> Result<(), NoRoom> {
        values.put(value).now_or_never().expect("it does not wait")
    }

    /// A user who alone has half of so much.
    fn account(max_memory: u64) -> Arc<Account> {
        let config = Config { max_memory: ByteSize(max_memory), ..Config::default() };
        Accounts::new(&config).account(Some(0), true)
    }

    #[test]
    fn a_connection_is_charged_for_what_it_grows_to_as_long_as_there_is_room() {
        let account = account(8 * STEP as u64);
        let mut charge = Charge::new(&account).expect("room");
        assert!(charge.set(Part::Received, 1_000) && charge.set(Part::Output, STEP - 1_001));
        assert_eq!(account.memory.taken(), STEP, "its buffers are small");
        assert!(charge.set(Part::Output, 3 * STEP));
        assert!(!charge.set(Part::Awaited, STEP), "four steps are half of eight");
        assert!(charge.set(Part::Output, 2 * STEP) && charge.set(Part::Awaited, STEP));
        drop(charge);
        assert_eq!(account.memory.taken(), 0);
    }

    #[test]
    fn room_is_bounded_in_one_reply_and_for_a_user_and_given_back() {
        let account = account(2_000);
        let budget = Budget::new(&account, 600);
        let [one, other, two] = [&budget, &budget, &Budget::new(&account, 600)].map(Values::new);
        let value = |bytes| vec![b'x'; bytes];
        assert_eq!(put(&one, value(400)), Ok(()));
        assert_eq!(put(&other, value(100)), Err(NoRoom::Reply), "they share it");
        assert_eq!(put(&two, value(400)), Ok(()));
        assert_eq!(put(&two, value(40)), Err(NoRoom::Memory));
        assert_eq!(one.into_all(), [value(400)]);
        drop((other, budget));
        assert_eq!(put(&two, value(40)), Ok(()));
        drop(two);
        assert_eq!(account.memory.taken(), 0);
    }

    #[test]
    fn what_is_given_out_or_thrown_away_takes_no_room_and_only_the_latter_may_come_again() {
        let account = account(2_000);
        let values = Values::new(&Budget::new(&account, 600));
        assert_eq!(put(&values, vec![b'x'; 500]), Ok(()));
        assert!(values.start_over() && account.memory.taken() == 0);
        assert!(values.give_out().is_empty() && values.start_over(), "there was nothing to give");
        assert_eq!(put(&values, vec![b'y'; 500]), Ok(()));
        assert_eq!(values.give_out(), [vec![b'y'; 500]]);
        assert_eq!(put(&values, vec![b'z'; 500]), Ok(()));
        assert!(!values.start_over());
        assert_eq!(values.give_out(), [vec![b'z'; 500]], "what comes before the failure is told before it");
        assert_eq!(account.memory.taken(), 0);
    }

    #[test]
    fn what_is_fetched_as_it_comes_waits_for_room_unless_it_never_has_any() {
        let account = account(4_000);
        let values = Values::fetched(&Budget::new(&account, 600));
        assert_eq!(put(&values, vec![b'x'; 500]), Ok(()));
        let mut second = std::pin::pin!(values.put(vec![b'y'; 400]));
        assert_eq!(second.as_mut().now_or_never(), None);
        assert_eq!(values.give_out(), [vec![b'x'; 500]]);
        assert_eq!(second.now_or_never(), Some(Ok(())));
        assert_eq!(values.give_out(), [vec![b'y'; 400]]);
        assert_eq!(put(&values, vec![b'z'; 700]), Err(NoRoom::Reply));
        assert_eq!(account.memory.taken(), 0);
    }
}
