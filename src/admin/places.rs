//! Places: how many connections there may be, and who gives one up for a newcomer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::net::User;

/// How many there are.
const MAX: usize = 64;

/// Nobody is refused: a newcomer takes the place of the oldest connection of whoever has most. So who asks now and then
/// is answered, however many connections others keep, and whoever they are.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    last: u64,
    of_users: HashMap<User, BTreeMap<u64, Arc<Notify>>>,
}

/// Given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    user: User,
    id: u64,
    another_needs_it: Arc<Notify>,
}

impl Places {
    pub(super) fn take(self: &Arc<Self>, user: User) -> Place {
        let another_needs_it = Arc::<Notify>::default();
        let mut taken = self.lock();
        taken.last += 1;
        let id = taken.last;
        taken.of_users.entry(user).or_default().insert(id, another_needs_it.clone());
        taken.make_room();
        Place { places: self.clone(), user, id, another_needs_it }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn make_room(&mut self) {
        if self.of_users.values().map(BTreeMap::len).sum::<usize>() <= MAX {
            return;
        }
        let most = self.of_users.values_mut().max_by_key(|own| (own.len(), Reverse(own.keys().next().copied())));
        if let Some((_, another_needs_it)) = most.and_then(BTreeMap::pop_first) {
            another_needs_it.notify_one();
        }
    }
}

impl Place {
    pub(super) async fn is_needed_by_another(&self) {
        self.another_needs_it.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if let Some(own) = taken.of_users.get_mut(&self.user) {
            own.remove(&self.id);
            if own.is_empty() {
                taken.of_users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn who_has_most_gives_up_its_oldest_and_who_has_one_keeps_it() {
        let places = Arc::<Places>::default();
        let prober = places.take(User::Uid(0));
        let greedy: Vec<Place> = (0..MAX * 2).map(|number| places.take(User::Uid(1 + number as u32 % 8))).collect();
        let gave_up = |place: &Place| place.is_needed_by_another().now_or_never().is_some();
        assert!(!gave_up(&prober));
        let kept = greedy.iter().map(|place| !gave_up(place)).collect::<Vec<_>>();
        assert_eq!(kept.iter().filter(|kept| **kept).count(), MAX - 1);
        assert!(kept[MAX + 8..].iter().all(|kept| *kept), "the oldest go first");
        drop(greedy);
        assert_eq!(places.lock().of_users.len(), 1, "all is given back");
    }

    #[test]
    fn where_everyone_has_one_the_oldest_goes() {
        let places = Arc::<Places>::default();
        let all: Vec<Place> = (0..=MAX as u32).map(|user| places.take(User::Uid(user))).collect();
        let gave_up = |place: &Place| place.is_needed_by_another().now_or_never().is_some();
        assert_eq!(all.iter().map(gave_up).collect::<Vec<_>>(), [&[true][..], &[false; MAX]].concat());
    }
}
