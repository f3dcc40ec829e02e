//! Places: idle connections that users keep. The user with the most gives one up for a newcomer.
//!
//! Nobody is refused, so an occasional client gets through however many connections others keep.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// A number of places, of which each connection takes one.
#[derive(Debug)]
pub(crate) struct Places<User> {
    max: usize,
    /// How long a connection may keep its place when more than half are taken; none: until all are.
    hurried: Option<Duration>,
    taken: Mutex<Taken<User>>,
}

#[derive(Debug)]
struct Taken<User> {
    count: usize,
    next_number: u64,
    /// The connections of each user, oldest first.
    by_user: HashMap<User, BTreeMap<u64, Connection>>,
}

#[derive(Debug)]
struct Connection {
    since: Instant,
    yields_first: bool,
    evicted: CancellationToken,
}

/// The place of a connection. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Place<User: Copy + Eq + Hash> {
    places: Arc<Places<User>>,
    user: User,
    number: u64,
    evicted: CancellationToken,
}

impl<User: Copy + Eq + Hash> Places<User> {
    pub(crate) fn new(max: usize, hurried: Option<Duration>) -> Arc<Self> {
        let taken = Taken { count: 0, next_number: 0, by_user: HashMap::new() };
        Arc::new(Self { max, hurried, taken: Mutex::new(taken) })
    }

    /// Takes a place for a connection, evicting another if necessary: from the user with the most, one that yields,
    /// otherwise the oldest.
    pub(crate) fn take(self: &Arc<Self>, user: User) -> Place<User> {
        let evicted = CancellationToken::new();
        let mut taken = self.taken();
        taken.make_room(self.max, self.hurried);
        taken.next_number += 1;
        taken.count += 1;
        let number = taken.next_number;
        let connection = Connection { since: Instant::now(), yields_first: false, evicted: evicted.clone() };
        taken.by_user.entry(user).or_default().insert(number, connection);
        Place { places: self.clone(), user, number, evicted }
    }

    fn taken(&self) -> MutexGuard<'_, Taken<User>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<User: Copy + Eq + Hash> Taken<User> {
    fn make_room(&mut self, max: usize, hurried: Option<Duration>) {
        while self.count >= if hurried.is_some() { max / 2 + 1 } else { max }
            && let Some((user, number)) = self.first_to_go(hurried.filter(|_| self.count < max))
        {
            if let Some(connection) = self.remove(user, number) {
                connection.evicted.cancel();
            }
        }
    }

    /// Only one that is older than `longer`; none: of any age.
    fn first_to_go(&self, longer: Option<Duration>) -> Option<(User, u64)> {
        let oldest = |own: &BTreeMap<u64, Connection>| own.first_key_value().map(|(number, _)| *number);
        let rank = |own| (BTreeMap::len(own), Reverse(oldest(own)));
        let (user, own) = self.by_user.iter().max_by_key(|(_, own)| rank(own))?;
        let yielding = own.iter().find(|(_, connection)| connection.yields_first);
        let (number, connection) = yielding.or_else(|| own.first_key_value())?;
        longer.is_none_or(|longer| connection.since.elapsed() > longer).then_some((*user, *number))
    }

    fn remove(&mut self, user: User, number: u64) -> Option<Connection> {
        let own = self.by_user.get_mut(&user)?;
        let connection = own.remove(&number)?;
        if own.is_empty() {
            self.by_user.remove(&user);
        }
        self.count -= 1;
        Some(connection)
    }
}

impl<User: Copy + Eq + Hash> Place<User> {
    /// Sets whether this one is evicted before the others of its user.
    pub(crate) fn set_yielding(&self, is_yielding: bool) {
        let mut taken = self.places.taken();
        let own = taken.by_user.get_mut(&self.user);
        if let Some(connection) = own.and_then(|own| own.get_mut(&self.number)) {
            connection.yields_first = is_yielding;
        }
    }

    /// Waits until the place is given to another connection.
    pub(crate) fn evicted(&self) -> WaitForCancellationFuture<'_> {
        self.evicted.cancelled()
    }
}

impl<User: Copy + Eq + Hash> Drop for Place<User> {
    fn drop(&mut self) {
        // It is gone already if it was given to another.
        self.places.taken().remove(self.user, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evicted(places: &[Place<u32>]) -> Vec<usize> {
        (0..places.len()).filter(|number| places[*number].evicted.is_cancelled()).collect()
    }

    #[test]
    fn the_oldest_connection_of_the_user_with_the_most_goes_first() {
        let places = Places::new(4, Some(Duration::from_secs(1)));
        let [one, other] = [33, 1000];
        let master = places.take(other);
        let mut silent: Vec<_> = (0..3).map(|_| places.take(one)).collect();
        assert!(evicted(&silent).is_empty());
        silent.extend((0..9).map(|_| places.take(one)));
        assert_eq!(evicted(&silent), (0..9).collect::<Vec<_>>());
        assert!(!master.evicted.is_cancelled(), "another user loses nothing");
        let _second = places.take(other);
        assert_eq!(evicted(&silent), (0..10).collect::<Vec<_>>());
        drop((silent, master, _second));
        assert!(places.taken().by_user.is_empty() && places.taken().count == 0);
    }

    #[test]
    fn a_connection_that_yields_goes_before_others_of_its_user() {
        let places = Places::new(4, Some(Duration::from_secs(1)));
        let all: Vec<_> = (0..4).map(|_| places.take(33)).collect();
        all[1].set_yielding(true);
        all[2].set_yielding(true);
        all[1].set_yielding(false);
        let _next = [places.take(33), places.take(33)];
        assert_eq!(evicted(&all), [0, 2], "the oldest after it");
    }

    #[test]
    fn a_connection_that_takes_long_goes_when_places_begin_to_be_short() {
        let hurried = Duration::from_secs(1);
        let places = Places::new(4, Some(hurried));
        let all = [places.take(33), places.take(33), places.take(33)];
        for connection in places.taken().by_user.values_mut().flat_map(BTreeMap::values_mut).take(2) {
            connection.since -= 2 * hurried;
        }
        let _next = places.take(33);
        assert_eq!(evicted(&all), [0], "half of the places are enough");
    }

    #[test]
    fn who_has_one_keeps_it_and_where_everyone_has_one_the_oldest_goes() {
        const MAX: usize = 64;
        let places = Places::new(MAX, None);
        let prober = places.take(0);
        let greedy: Vec<_> = (0..MAX * 2).map(|number| places.take(1 + number as u32 % 8)).collect();
        assert!(!prober.evicted.is_cancelled());
        assert_eq!(evicted(&greedy).len(), MAX + 1);
        assert!(evicted(&greedy).iter().all(|number| *number < MAX + 8), "the oldest go first");
        drop((prober, greedy));
        let all: Vec<_> = (0..=MAX as u32).map(|user| places.take(user)).collect();
        assert_eq!(evicted(&all), [0]);
    }
}
