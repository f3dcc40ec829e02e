//! Room: what all masters together may have, shared by their users so that none of them keeps the others out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::net::User;

/// A user may have so many times as much as it leaves free: alone seven eighths, one of two users seven fifteenths.
const GREED: u64 = 7;

#[derive(Debug)]
pub(super) struct Room {
    most: u64,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: u64,
    /// Nobody who has nothing.
    by_user: HashMap<User, u64>,
}

/// What one master has of it, given back when dropped.
#[derive(Debug)]
pub(super) struct Part {
    room: Arc<Room>,
    user: User,
    amount: u64,
}

impl Room {
    pub(super) fn new(most: u64) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// Nothing yet.
    pub(super) fn part(self: &Arc<Self>, user: User) -> Part {
        Part { room: self.clone(), user, amount: 0 }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    pub(super) fn amount(&self) -> u64 {
        self.amount
    }

    /// False: its user may not have so much. To have less is always granted, and so is the first part of a user for which
    /// there is room.
    pub(super) fn resize(&mut self, amount: u64) -> bool {
        let mut taken = self.room.taken();
        let own_before = taken.by_user.get(&self.user).copied().unwrap_or(0);
        let [own, all] = [own_before, taken.all].map(|before| (before - self.amount).saturating_add(amount));
        let is_first = own_before == 0;
        let has_room = all <= self.room.most && (is_first || own / GREED <= self.room.most - all);
        if amount > self.amount && !has_room {
            return false;
        }
        taken.all = all;
        match own {
            0 => drop(taken.by_user.remove(&self.user)),
            own => drop(taken.by_user.insert(self.user, own)),
        }
        drop(taken);
        self.amount = amount;
        true
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: User = User::Uid(1);
    const OTHER: User = User::Uid(2);

    /// Parts of one each, as many as the user may have.
    fn fill(room: &Arc<Room>, user: User) -> Vec<Part> {
        let next = || {
            let mut part = room.part(user);
            part.resize(1).then_some(part)
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn whoever_takes_all_that_it_can_leaves_room_for_others() {
        let room = Room::new(800);
        let first = fill(&room, ONE);
        let second = fill(&room, OTHER);
        assert!((700..720).contains(&first.len()), "{}", first.len());
        assert!((80..100).contains(&second.len()), "{}", second.len());
        assert!(!fill(&room, User::Uid(3)).is_empty());
        drop((first, second));
        assert!(room.taken().by_user.is_empty() && room.taken().all == 0);
    }

    #[test]
    fn what_is_refused_leaves_what_was_granted() {
        let room = Room::new(100);
        let mut part = room.part(ONE);
        assert!(part.resize(100) && !part.resize(101) && !part.resize(u64::MAX));
        assert_eq!((part.amount(), room.taken().all), (100, 100));
        assert!(part.resize(40) && part.resize(80) && !part.resize(95));
        assert!(!room.part(OTHER).resize(21) && room.part(OTHER).resize(20));
    }
}
