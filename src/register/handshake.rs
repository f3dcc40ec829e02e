//! The handshake: connections that have not yet shown a token. Who sends nothing keeps nobody out.
//!
//! All are heard at once, so that whoever shows its token waits for nobody. Where places are short, the user with the
//! most connections gives one up, the oldest; and where they begin to be, whoever takes long does.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::metrics::Metrics;
use crate::net::{Peer, User};

/// How long a connection may take that has not authenticated, when more than half of the places are taken.
const HURRIED_TIMEOUT: Duration = Duration::from_secs(1);

/// How often refusals are logged, however many there are.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Handshakes {
    state: Mutex<State>,
    max: usize,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    count: usize,
    next_number: u64,
    /// The connections of each user, the oldest first.
    by_user: HashMap<User, BTreeMap<u64, Place>>,
    refused: u64,
    logged: Option<Instant>,
}

#[derive(Debug)]
struct Place {
    since: Instant,
    /// Whether a wrong token was shown from it.
    yields_first: bool,
    evicted: CancellationToken,
}

/// A connection that has not authenticated. It gives up its place when dropped.
#[derive(Debug)]
pub(super) struct PendingConnection {
    handshakes: Arc<Handshakes>,
    user: User,
    number: u64,
    evicted: CancellationToken,
}

impl Handshakes {
    pub(super) fn new(max: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), max, metrics })
    }

    /// Takes a place for a connection, at the cost of another one if need be.
    pub(super) fn begin(self: &Arc<Self>, user: User) -> PendingConnection {
        let evicted = CancellationToken::new();
        self.metrics.masters_unauthenticated.add(1);
        let mut state = self.state();
        state.make_room(self.max);
        state.next_number += 1;
        state.count += 1;
        let number = state.next_number;
        let place = Place { since: Instant::now(), yields_first: false, evicted: evicted.clone() };
        state.by_user.entry(user).or_default().insert(number, place);
        PendingConnection { handshakes: self.clone(), user, number, evicted }
    }

    /// Counts a connection that was refused, and logs how many there were, once a minute.
    pub(super) fn refused(&self, peer: &Peer, why: &str) {
        self.metrics.masters_refused.increment();
        let mut state = self.state();
        state.refused += 1;
        if state.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            tracing::warn!(refused = state.refused, last = peer.address, why, "masters were refused");
            state.refused = 0;
            state.logged = Some(Instant::now());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn make_room(&mut self, max: usize) {
        while self.count > max / 2
            && let Some((user, number)) = self.first_of_greatest_user(self.count >= max)
        {
            if let Some(place) = self.remove(user, number) {
                place.evicted.cancel();
            }
        }
    }

    /// Of the user who has the most connections, one that showed a wrong token, else the oldest; if it took too long,
    /// where not just `any` will do.
    fn first_of_greatest_user(&self, any: bool) -> Option<(User, u64)> {
        let oldest = |places: &BTreeMap<u64, Place>| places.first_key_value().map(|(number, _)| *number);
        let rank = |places| (BTreeMap::len(places), std::cmp::Reverse(oldest(places)));
        let (user, places) = self.by_user.iter().max_by_key(|(_, places)| rank(places))?;
        let yielding = places.iter().find(|(_, place)| place.yields_first);
        let (number, place) = yielding.or_else(|| places.first_key_value())?;
        (any || place.since.elapsed() > HURRIED_TIMEOUT).then_some((*user, *number))
    }

    fn remove(&mut self, user: User, number: u64) -> Option<Place> {
        let places = self.by_user.get_mut(&user)?;
        let place = places.remove(&number)?;
        if places.is_empty() {
            self.by_user.remove(&user);
        }
        self.count -= 1;
        Some(place)
    }
}

impl PendingConnection {
    /// Where places are short, this one goes before those of its user from which no wrong token was shown.
    pub(super) fn yield_first(&self) {
        let mut state = self.handshakes.state();
        let places = state.by_user.get_mut(&self.user);
        if let Some(place) = places.and_then(|places| places.get_mut(&self.number)) {
            place.yields_first = true;
        }
    }

    /// Waits until the place is given to another connection.
    pub(super) fn evicted(&self) -> WaitForCancellationFuture<'_> {
        self.evicted.cancelled()
    }
}

impl Drop for PendingConnection {
    fn drop(&mut self) {
        // It is gone already where it was given to another.
        self.handshakes.state().remove(self.user, self.number);
        self.handshakes.metrics.masters_unauthenticated.sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evicted(pending: &[PendingConnection]) -> Vec<usize> {
        (0..pending.len()).filter(|number| pending[*number].evicted.is_cancelled()).collect()
    }

    #[test]
    fn the_oldest_connection_of_the_user_with_the_most_goes_first() {
        let handshakes = Handshakes::new(4, Arc::default());
        let [one, other] = [33, 1000].map(User::Uid);
        let master = handshakes.begin(other);
        let mut silent: Vec<_> = (0..3).map(|_| handshakes.begin(one)).collect();
        assert!(evicted(&silent).is_empty());
        silent.extend((0..9).map(|_| handshakes.begin(one)));
        assert_eq!(evicted(&silent), (0..9).collect::<Vec<_>>());
        assert!(!master.evicted.is_cancelled(), "another user loses nothing");
        let _second = handshakes.begin(other);
        assert_eq!(evicted(&silent), (0..10).collect::<Vec<_>>());
        drop((silent, master, _second));
        assert!(handshakes.state().by_user.is_empty() && handshakes.state().count == 0);
    }

    #[test]
    fn who_showed_a_wrong_token_goes_before_others_of_its_user() {
        let handshakes = Handshakes::new(4, Arc::default());
        let begin = || handshakes.begin(User::Uid(33));
        let pending: Vec<_> = (0..4).map(|_| begin()).collect();
        pending[2].yield_first();
        let _next = [begin(), begin()];
        assert_eq!(evicted(&pending), [0, 2], "the oldest after it");
    }

    #[test]
    fn a_connection_that_takes_long_goes_when_places_begin_to_be_short() {
        let handshakes = Handshakes::new(4, Arc::default());
        let begin = || handshakes.begin(User::Uid(33));
        let pending = [begin(), begin(), begin()];
        for place in handshakes.state().by_user.values_mut().flat_map(BTreeMap::values_mut).take(2) {
            place.since -= 2 * HURRIED_TIMEOUT;
        }
        let _next = begin();
        assert_eq!(evicted(&pending), [0], "half of the places are enough");
    }
}
