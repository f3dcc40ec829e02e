//! Admission: how many connections there may be, and who must go: to make room, after a long silence, at the stop.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::Config;
use super::accounts::{Account, User};
use crate::metrics::Metrics;
use crate::share::Taken;
use crate::task::Stop;

/// How exact the time is that an idle connection is given.
const TICK: u64 = 20;

/// Room for so many connections is kept for a user who has none now.
const KEEP: usize = 64;

/// Later than any time; and how long the clock sleeps at most.
const NEVER: u64 = u64::MAX;
const A_DAY: u64 = 86_400_000;

/// The connections there are. One that is busy with a request is never sent away for a new one; one that waits for a
/// watch costs next to nothing, and is counted apart.
#[derive(Debug)]
pub(super) struct Admission {
    state: Mutex<State>,
    next_id: AtomicU64,
    max_per_user: usize,
    started: Instant,
    /// When the clock looks next at who is idle for too long. All times are in milliseconds since the start, plus one.
    next_look: AtomicU64,
    sooner: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    seats: HashMap<User, Seats>,
}

/// The connections of a user.
#[derive(Debug, Default)]
struct Seats {
    /// By number.
    all: HashMap<u64, Occupied>,
    /// Those that were idle when somebody looked last, with the time since when: the longest idle one is the last.
    idle: Vec<(u64, u64)>,
    /// When somebody did.
    looked: u64,
}

#[derive(Debug)]
struct Occupied {
    seat: Arc<Seat>,
    /// None: it waits for a watch, or is the process's own.
    taken: Option<Taken>,
}

/// The right to be connected; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    account: Arc<Account>,
    id: u64,
    is_own: bool,
    seat: Arc<Seat>,
}

/// The right to wait for a watch of some paths; given back when dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    _watch: Taken,
    _paths: Taken,
}

#[derive(Debug)]
struct Seat {
    /// 0: busy.
    idle_since: AtomicU64,
    idle_until: AtomicU64,
    is_late: AtomicBool,
    sent_away: Notify,
}

/// Why a connection must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Its place is needed for somebody else, or the process stops.
    Away,
    /// It was silent for too long.
    Late,
}

impl Admission {
    pub(super) fn new(config: &Config, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            next_id: AtomicU64::new(0),
            max_per_user: config.max_connections_per_user,
            started: Instant::now(),
            next_look: AtomicU64::new(NEVER),
            sooner: Notify::new(),
            metrics,
        })
    }

    /// A place for a connection of a user, which is busy until it says that it is idle. Where the user has as many as it may, its longest idle one must go. None:
    /// all of them are busy. There is always a place for the process itself (`is_own`), which asks whether it still
    /// answers.
    pub(super) fn admit(self: &Arc<Self>, account: Arc<Account>, is_own: bool) -> Option<Place> {
        let mut state = self.state();
        if state.is_closed {
            return None;
        }
        let taken = if is_own { None } else { Some(self.take(&mut state, &account)?) };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let seat = Arc::new(Seat {
            idle_since: AtomicU64::new(0),
            idle_until: AtomicU64::new(NEVER),
            is_late: AtomicBool::new(false),
            sent_away: Notify::new(),
        });
        if !state.seats.contains_key(&account.user) {
            state.seats.retain(|_, seats| !seats.all.is_empty());
        }
        state.seats.entry(account.user).or_default().all.insert(id, Occupied { seat: seat.clone(), taken });
        self.metrics.connections.increment();
        Some(Place { admission: self.clone(), account, id, is_own, seat })
    }

    fn take(&self, state: &mut State, account: &Arc<Account>) -> Option<Taken> {
        let take = || {
            if account.connections.taken() < self.max_per_user { account.connections.take(1) } else { None }
        };
        let taken = take().or_else(|| {
            self.evict(state, account.user)?;
            take()
        });
        if taken.is_none() {
            self.metrics.connections_refused.increment();
        }
        taken
    }

    /// Sends away the longest idle connection of a user.
    fn evict(&self, state: &mut State, user: User) -> Option<()> {
        state.seats.get_mut(&user)?.take_longest_idle(self.now())?.seat.send_away(false);
        self.metrics.connections_evicted.increment();
        Some(())
    }

    /// Sends away whoever is idle for too long, and at the stop all.
    ///
    /// The connections have no timers of their own: setting one wakes the thread that sets it, with each request. Here
    /// somebody is woken only when a time is over, or one has been given that is shorter than all others.
    pub(super) async fn keep_time(&self, stop: &Stop) {
        let mut stopped = pin!(stop.requested());
        loop {
            let next = self.next_look.load(Ordering::SeqCst).min(self.now() + A_DAY);
            tokio::select! {
                () = &mut stopped => return self.close(),
                () = self.sooner.notified() => {}
                () = sleep_until((self.started + Duration::from_millis(next)).into()) => self.look(),
            }
        }
    }

    fn look(&self) {
        // Before looking, so that a shorter time given meanwhile is not lost.
        self.next_look.store(NEVER, Ordering::SeqCst);
        let now = self.now();
        let mut next = NEVER;
        for seat in self.state().all().filter(|seat| seat.idle_since.load(Ordering::SeqCst) > 0) {
            match seat.idle_until.load(Ordering::Relaxed) {
                until if until <= now => seat.send_away(true),
                until => next = next.min(until),
            }
        }
        self.next_look.fetch_min(next.max(now + TICK), Ordering::SeqCst);
    }

    fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.all().for_each(|seat| seat.send_away(false));
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn all(&self) -> impl Iterator<Item = &Seat> {
        self.seats.values().flat_map(|seats| seats.all.values()).map(|occupied| occupied.seat.as_ref())
    }

    fn occupied(&mut self, place: &Place) -> Option<&mut Occupied> {
        self.seats.get_mut(&place.account.user)?.all.get_mut(&place.id)
    }
}

impl Seats {
    /// Where many come at once, they do not each look at all that are there: who was not idle at the last look has not
    /// been idle for as long as who was. And who found nobody does not look again within the same millisecond.
    fn take_longest_idle(&mut self, now: u64) -> Option<Occupied> {
        loop {
            while let Some((since, id)) = self.idle.pop() {
                if self.all.get(&id).is_some_and(|occupied| occupied.seat.idle_since.load(Ordering::Relaxed) == since) {
                    return self.all.remove(&id);
                }
            }
            if self.looked == now {
                return None;
            }
            self.looked = now;
            let since = |occupied: &Occupied| occupied.seat.idle_since.load(Ordering::Relaxed);
            self.idle
                .extend(self.all.iter().map(|(id, occupied)| (since(occupied), *id)).filter(|(since, _)| *since > 0));
            self.idle.sort_unstable_by(|one, other| other.cmp(one));
        }
    }
}

impl Place {
    pub(super) fn set_busy(&self) {
        self.seat.idle_since.store(0, Ordering::Relaxed);
    }

    /// From now on it may be sent away, and is after so long.
    pub(super) fn set_idle(&self, patience: Duration) {
        let admission = &self.admission;
        let now = admission.now();
        let until = now.saturating_add(patience.as_millis() as u64);
        self.seat.idle_until.store(until, Ordering::Relaxed);
        self.seat.idle_since.store(now, Ordering::SeqCst);
        if until < admission.next_look.load(Ordering::SeqCst) {
            admission.next_look.fetch_min(until, Ordering::SeqCst);
            admission.sooner.notify_one();
        }
    }

    /// Waits until it must go.
    pub(super) async fn sent_away(&self) -> Sent {
        self.seat.sent_away.notified().await;
        if self.seat.is_late.load(Ordering::Relaxed) { Sent::Late } else { Sent::Away }
    }

    /// The right to wait for a watch of so many paths; meanwhile the connection counts as a watch. None: the user has
    /// too many, or the connection must go.
    pub(super) fn wait(&self, paths: usize) -> Option<Waiting> {
        let mut state = self.admission.state();
        // Whoever was evicted has given its place back already.
        let occupied = state.occupied(self)?;
        let waiting = Waiting { _watch: self.account.watches.take(1)?, _paths: self.account.watch_paths.take(paths)? };
        occupied.taken = None;
        Some(waiting)
    }

    /// Counts as a connection again after it waited. False: there is no place for one more, as for a new connection.
    pub(super) fn wait_no_more(&self) -> bool {
        let mut state = self.admission.state();
        if self.is_own {
            return true;
        }
        let Some(taken) = self.admission.take(&mut state, &self.account) else { return false };
        match state.occupied(self) {
            Some(occupied) => {
                occupied.taken = Some(taken);
                true
            }
            None => false,
        }
    }
}

impl Seat {
    fn send_away(&self, is_late: bool) {
        self.is_late.store(is_late, Ordering::Relaxed);
        self.sent_away.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        if let Some(seats) = state.seats.get_mut(&self.account.user) {
            seats.all.remove(&self.id);
            if seats.all.is_empty() {
                seats.all.shrink_to(KEEP);
                seats.idle = Vec::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::task::Tasks;
    use crate::thrift::accounts::Accounts;

    struct House {
        admission: Arc<Admission>,
        accounts: Arc<Accounts>,
    }

    impl House {
        fn new(config: &Config) -> Self {
            Self { admission: Admission::new(config, Arc::default()), accounts: Accounts::new(config) }
        }

        /// Of which one user has at most half.
        fn of(max_connections: usize) -> Self {
            Self::new(&Config { max_connections, ..Config::default() })
        }

        fn admit(&self, user: u32) -> Option<Place> {
            self.admission.admit(self.accounts.account(Some(user), false), false)
        }
    }

    #[test]
    fn the_longest_idle_of_the_user_goes_and_the_busy_and_those_of_others_stay() {
        let house = House::of(6);
        let other = house.admit(2).expect("room");
        let places = [1, 1].map(|user| house.admit(user).expect("room"));
        other.seat.idle_since.store(3, Ordering::Relaxed);
        places[0].seat.idle_since.store(7, Ordering::Relaxed);
        places[1].seat.idle_since.store(5, Ordering::Relaxed);
        let newcomer = house.admit(1).expect("room is made");
        assert!(places[1].sent_away().now_or_never().is_some());
        assert!(places[0].sent_away().now_or_never().is_none() && other.sent_away().now_or_never().is_none());
        assert!(places[1].wait(0).is_none(), "who must go does not begin to wait");
        newcomer.set_busy();
        places[0].set_busy();
        assert!(house.admit(1).is_none(), "none of its own is idle");
        house.admit(2).expect("the other user has room");
        drop(places);
        house.admit(1).expect("a place is given back");
    }

    #[test]
    fn a_user_has_no_more_than_the_setting_says() {
        let house = House::new(&Config { max_connections_per_user: 1, ..Config::default() });
        let first = house.admit(1).expect("room");
        first.set_busy();
        assert!(house.admit(1).is_none());
        house.admit(2).expect("another user");
    }

    #[test]
    fn who_waits_for_a_watch_takes_no_place_but_there_are_only_so_many_watches_and_paths() {
        let house = House::new(&Config { max_connections: 2, max_watches: 4, max_watch_paths: 8, ..Config::default() });
        let watcher = house.admit(1).expect("room");
        watcher.set_busy();
        let waiting = watcher.wait(2).expect("the first to wait");
        let other = house.admit(1).expect("the watcher takes no place");
        other.set_busy();
        assert!(other.wait(3).is_none(), "so many paths leave too few for others");
        let second = other.wait(2).expect("two more do not");
        let third = house.admit(1).expect("neither takes a place");
        third.set_busy();
        assert!(third.wait(0).is_none(), "two wait already");
        let own = house.admission.admit(house.accounts.account(Some(1), false), true);
        assert!(house.admit(1).is_none(), "nobody is idle");
        own.expect("the process itself is always let in");
        assert!(!watcher.wait_no_more(), "its place is another's");
        drop((waiting, second, third));
        assert!(watcher.wait_no_more(), "there is a place again");
        assert!(house.admit(1).is_none(), "it is the watcher's");
    }

    #[tokio::test]
    async fn who_is_silent_for_too_long_goes_and_at_the_stop_all_do() {
        let house = House::of(10);
        let [silent, busy, patient] = [1, 2, 3].map(|user| house.admit(user).expect("room"));
        let (tasks, _failures) = Tasks::new();
        let (clock, stop) = (house.admission.clone(), tasks.stop_signal());
        tasks.critical("the clock", async move { clock.keep_time(&stop).await });
        patient.set_idle(Duration::from_secs(60));
        busy.set_idle(Duration::from_millis(1));
        busy.set_busy();
        silent.set_idle(Duration::from_millis(1));
        assert_eq!(silent.sent_away().await, Sent::Late);
        assert!(busy.sent_away().now_or_never().is_none() && patient.sent_away().now_or_never().is_none());
        assert!(tasks.stop(Duration::from_secs(20)).await.is_empty());
        assert_eq!((busy.sent_away().await, patient.sent_away().await), (Sent::Away, Sent::Away));
        assert!(house.admit(1).is_none(), "the doors are closed");
    }
}
