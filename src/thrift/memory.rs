//! Memory: what connections make the endpoint hold, charged to their users, so that one limit covers everything.

use super::accounts::Account;
use crate::share::Taken;

/// A connection is charged in steps; the first covers itself and its buffers while they are small.
const STEP: usize = 8 * 1024;

/// The memory that a connection is charged for.
#[derive(Debug)]
pub(super) struct Charge {
    taken: Taken,
    parts: [usize; 3],
}

/// The growing parts of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// What was received and not answered yet.
    Received,
    /// What a waiting request holds, and its result.
    Awaited,
    /// What the peer has not read yet.
    Output,
}

impl Charge {
    /// None: the user does not even have room for another connection.
    pub(super) fn new(account: &Account) -> Option<Self> {
        Some(Self { taken: account.memory.take(STEP)?, parts: [0; 3] })
    }

    /// Charges this many bytes for a part. False: that is too much, and the charge is unchanged.
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

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;

    use super::super::Config;
    use super::super::accounts::Accounts;
    use super::*;

    #[test]
    fn a_connection_is_charged_for_what_it_grows_to_as_long_as_there_is_room() {
        let config = Config { max_memory: ByteSize(8 * STEP as u64), ..Config::default() };
        let account = Accounts::new(&config).account(Some(0), true);
        let mut charge = Charge::new(&account).expect("room");
        assert!(charge.set(Part::Received, 1_000) && charge.set(Part::Output, STEP - 1_001));
        assert_eq!(account.memory.taken(), STEP, "its buffers are small");
        assert!(charge.set(Part::Output, 3 * STEP));
        assert!(!charge.set(Part::Awaited, STEP), "four steps are half of eight");
        assert!(charge.set(Part::Output, 2 * STEP) && charge.set(Part::Awaited, STEP));
        drop(charge);
        assert_eq!(account.memory.taken(), 0);
    }
}
