//! Admission: how many connections are allowed, and which must go: for others, after a long silence, at the stop.

use std::collections::{BTreeSet, HashMap};
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

/// The precision of idle timeouts.
const CLOCK_RESOLUTION_MS: u64 = 20;

/// How many slots are reserved for users without any.
const KEPT_CAPACITY: usize = 64;

/// Later than any time; and the longest that the clock sleeps.
const NEVER: u64 = u64::MAX;
const MAX_SLEEP_MS: u64 = 86_400_000;

/// The open connections. A busy one is never evicted for a new one; one that waits for a watch costs next to nothing,
/// and is counted separately.
#[derive(Debug)]
pub(super) struct Admission {
    state: Mutex<State>,
    next_id: AtomicU64,
    max_per_user: usize,
    started: Instant,
    /// When to look next for connections that are idle for too long. All times are in milliseconds since the start,
    /// plus one.
    next_look: AtomicU64,
    sooner: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    slots: HashMap<User, UserSlots>,
}

/// The connections of a user.
#[derive(Debug, Default)]
struct UserSlots {
    /// By number.
    all: HashMap<u64, OccupiedSlot>,
    /// Possibly idle ones, each with a time before which it was not idle: once these are the actual times, the longest
    /// idle one is first. So becoming idle costs nothing, unless the connection was found busy.
    order: BTreeSet<(u64, u64)>,
}

#[derive(Debug)]
struct OccupiedSlot {
    slot: Arc<Slot>,
    /// None: it waits for a watch, or is the process's own.
    taken: Option<Taken>,
}

/// A permit for a connection; given back when dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    admission: Arc<Admission>,
    account: Arc<Account>,
    id: u64,
    is_own: bool,
    slot: Arc<Slot>,
}

/// A permit to wait for a watch of some paths; given back when dropped.
#[derive(Debug)]
pub(super) struct WatchPermit {
    _watch: Taken,
    _paths: Taken,
}

#[derive(Debug)]
struct Slot {
    /// 0: busy.
    idle_since: AtomicU64,
    /// Its time in the order of its user, `NEVER` if it is never evicted for another; 0: it is not listed, and lists
    /// itself when it is idle.
    listed: AtomicU64,
    idle_until: AtomicU64,
    is_timed_out: AtomicBool,
    is_evicted: AtomicBool,
    evicted: Notify,
}

/// Why a connection must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Eviction {
    /// Its slot is needed for another connection, or the process stops.
    Displaced,
    /// It was silent for too long.
    TimedOut,
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

    /// A permit for a connection of a user, which is busy until it reports being idle. If the user has as many as it
    /// may, its longest idle one is evicted. None: all of them are busy. The process's own check (`is_own`) of whether
    /// it still answers always gets one.
    pub(super) fn admit(self: &Arc<Self>, account: Arc<Account>, is_own: bool) -> Option<ConnectionPermit> {
        let mut state = self.state();
        if state.is_closed {
            return None;
        }
        let taken = if is_own { None } else { Some(self.take(&mut state, &account)?) };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let listed = if is_own { NEVER } else { self.now() };
        let slot = Arc::new(Slot {
            idle_since: AtomicU64::new(0),
            listed: AtomicU64::new(listed),
            idle_until: AtomicU64::new(NEVER),
            is_timed_out: AtomicBool::new(false),
            is_evicted: AtomicBool::new(false),
            evicted: Notify::new(),
        });
        if !state.slots.contains_key(&account.user) {
            state.slots.retain(|_, slots| !slots.all.is_empty());
        }
        let slots = state.slots.entry(account.user).or_default();
        slots.all.insert(id, OccupiedSlot { slot: slot.clone(), taken });
        if !is_own {
            slots.order.insert((listed, id));
        }
        self.metrics.connections.increment();
        Some(ConnectionPermit { admission: self.clone(), account, id, is_own, slot })
    }

    fn take(&self, state: &mut State, account: &Arc<Account>) -> Option<Taken> {
        let take = || {
            if account.connections.taken() < self.max_per_user { account.connections.take(1) } else { None }
        };
        let taken = take().or_else(|| {
            self.evict_longest_idle(state, account.user)?;
            take()
        });
        if taken.is_none() {
            self.metrics.connections_refused.increment();
        }
        taken
    }

    /// Evicts the longest idle connection of a user.
    fn evict_longest_idle(&self, state: &mut State, user: User) -> Option<()> {
        state.slots.get_mut(&user)?.take_longest_idle()?.slot.evict(false);
        self.metrics.connections_evicted.increment();
        Some(())
    }

    /// Evicts connections that are idle for too long, and at the stop all of them.
    ///
    /// Connections have no timers of their own: setting one wakes the thread that sets it, with each request. Here a
    /// thread is only woken when a timeout is over, or when one is set that is shorter than all others.
    pub(super) async fn keep_time(&self, stop: &Stop) {
        let mut stopped = pin!(stop.requested());
        loop {
            let next = self.next_look.load(Ordering::SeqCst).min(self.now() + MAX_SLEEP_MS);
            tokio::select! {
                () = &mut stopped => return self.close(),
                () = self.sooner.notified() => {}
                () = sleep_until((self.started + Duration::from_millis(next)).into()) => self.look(),
            }
        }
    }

    fn look(&self) {
        // Before looking, so that a shorter timeout set meanwhile is not lost.
        self.next_look.store(NEVER, Ordering::SeqCst);
        let now = self.now();
        let mut next = NEVER;
        for slot in self.state().all().filter(|slot| slot.idle_since.load(Ordering::SeqCst) > 0) {
            match slot.idle_until.load(Ordering::Relaxed) {
                until if until <= now => slot.evict(true),
                until => next = next.min(until),
            }
        }
        self.next_look.fetch_min(next.max(now + CLOCK_RESOLUTION_MS), Ordering::SeqCst);
    }

    fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.all().for_each(|slot| slot.evict(false));
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn all(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values().flat_map(|slots| slots.all.values()).map(|occupied| occupied.slot.as_ref())
    }

    fn occupied(&mut self, permit: &ConnectionPermit) -> Option<&mut OccupiedSlot> {
        self.slots.get_mut(&permit.account.user)?.all.get_mut(&permit.id)
    }
}

impl UserSlots {
    /// A connection that is found busy is not checked again until it reports being idle. So if many arrive at once,
    /// each does not check all existing ones.
    fn take_longest_idle(&mut self) -> Option<OccupiedSlot> {
        while let Some((listed, id)) = self.order.pop_first() {
            let slot = self.all.get(&id)?.slot.clone();
            if slot.idle_since.load(Ordering::SeqCst) == listed {
                return self.all.remove(&id);
            }
            slot.listed.store(0, Ordering::SeqCst);
            // If it has just become busy, it will see the eviction.
            self.list(&slot, id);
        }
        None
    }

    /// Lists an idle one with its time, unless it is listed.
    fn list(&mut self, slot: &Slot, id: u64) {
        let since = slot.idle_since.load(Ordering::SeqCst);
        if since > 0 && slot.listed.load(Ordering::SeqCst) == 0 {
            slot.listed.store(since, Ordering::SeqCst);
            self.order.insert((since, id));
        }
    }
}

impl ConnectionPermit {
    pub(super) fn set_busy(&self) {
        self.slot.idle_since.store(0, Ordering::Relaxed);
    }

    /// From now on it may be evicted, and will be after this time.
    pub(super) fn set_idle(&self, patience: Duration) {
        let admission = &self.admission;
        let now = admission.now();
        let until = now.saturating_add(patience.as_millis() as u64);
        self.slot.idle_until.store(until, Ordering::Relaxed);
        self.slot.idle_since.store(now, Ordering::SeqCst);
        if self.slot.listed.load(Ordering::SeqCst) == 0
            && let Some(slots) = admission.state().slots.get_mut(&self.account.user)
        {
            slots.list(&self.slot, self.id);
        }
        if until < admission.next_look.load(Ordering::SeqCst) {
            admission.next_look.fetch_min(until, Ordering::SeqCst);
            admission.sooner.notify_one();
        }
    }

    /// Why it must go, if it must. Asked with each request: so no other connection has a part in the answer.
    pub(super) fn eviction(&self) -> Option<Eviction> {
        self.slot.is_evicted.load(Ordering::Acquire).then(|| match self.slot.is_timed_out.load(Ordering::Relaxed) {
            true => Eviction::TimedOut,
            false => Eviction::Displaced,
        })
    }

    /// Waits until it must go.
    pub(super) async fn evicted(&self) -> Eviction {
        loop {
            if let Some(eviction) = self.eviction() {
                return eviction;
            }
            self.slot.evicted.notified().await;
        }
    }

    /// A permit to wait for a watch of this many paths; meanwhile the connection counts as a watch. None: the user has
    /// too many, or the connection must go.
    pub(super) fn wait(&self, paths: usize) -> Option<WatchPermit> {
        let mut state = self.admission.state();
        // If it was evicted, its slot has been given back already.
        let occupied = state.occupied(self)?;
        let waiting =
            WatchPermit { _watch: self.account.watches.take(1)?, _paths: self.account.watch_paths.take(paths)? };
        occupied.taken = None;
        Some(waiting)
    }

    /// Counts as a connection again after a watch. False: there is no slot for it, as for a new connection.
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

impl Slot {
    fn evict(&self, is_timed_out: bool) {
        self.is_timed_out.store(is_timed_out, Ordering::Relaxed);
        self.is_evicted.store(true, Ordering::Release);
        self.evicted.notify_one();
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        if let Some(slots) = state.slots.get_mut(&self.account.user) {
            slots.order.remove(&(self.slot.listed.load(Ordering::Relaxed), self.id));
            slots.all.remove(&self.id);
            if slots.all.is_empty() {
                slots.all.shrink_to(KEPT_CAPACITY);
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

        /// One user gets at most half.
        fn of(max_connections: usize) -> Self {
            Self::new(&Config { max_connections, ..Config::default() })
        }

        fn admit(&self, user: u32) -> Option<ConnectionPermit> {
            self.admission.admit(self.accounts.account(Some(user), false), false)
        }
    }

    #[test]
    fn the_longest_idle_of_the_user_goes_and_the_busy_and_those_of_others_stay() {
        let house = House::of(6);
        let other = house.admit(2).expect("room");
        let permits = [1, 1].map(|user| house.admit(user).expect("room"));
        other.slot.idle_since.store(3_000_000, Ordering::Relaxed);
        permits[0].slot.idle_since.store(7_000_000, Ordering::Relaxed);
        permits[1].slot.idle_since.store(5_000_000, Ordering::Relaxed);
        let newcomer = house.admit(1).expect("room is made");
        assert!(permits[1].evicted().now_or_never().is_some());
        assert!(permits[0].evicted().now_or_never().is_none() && other.evicted().now_or_never().is_none());
        assert!(permits[1].wait(0).is_none(), "who must go does not begin to wait");
        newcomer.set_busy();
        permits[0].set_busy();
        assert!(house.admit(1).is_none(), "none of its own is idle");
        house.admit(2).expect("the other user has room");
        drop(permits);
        house.admit(1).expect("a place is given back");
    }

    #[test]
    fn nobody_is_refused_while_another_is_idle_however_fast_they_come() {
        let (house, patience) = (House::of(6), Duration::from_secs(60));
        let own = house.admission.admit(house.accounts.account(Some(1), false), true).expect("always");
        own.set_idle(patience);
        let permits: Vec<_> = (0..100)
            .map(|number| {
                let permit = house.admit(1).unwrap_or_else(|| panic!("no room is made for number {number}"));
                permit.set_idle(patience);
                permit
            })
            .collect();
        let stay = permits.iter().skip_while(|permit| permit.evicted().now_or_never().is_some()).count();
        assert_eq!(stay, 3, "the longest idle ones went");
        assert!(own.evicted().now_or_never().is_none(), "to have it go would make no room");
        let last = &permits[97..];
        last.iter().for_each(ConnectionPermit::set_busy);
        assert!(house.admit(1).is_none(), "nobody is idle");
        last[1].set_idle(patience);
        house.admit(1).expect("one is idle again");
        assert!(last[1].evicted().now_or_never().is_some());
        last.iter().for_each(|permit| permit.set_idle(patience));
        drop((permits, own));
        assert!(house.admission.state().slots.values().all(|slots| slots.all.is_empty() && slots.order.is_empty()));
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
        assert_eq!(silent.evicted().await, Eviction::TimedOut);
        assert!(busy.evicted().now_or_never().is_none() && patient.evicted().now_or_never().is_none());
        assert!(tasks.stop(Duration::from_secs(20)).await.is_empty());
        assert_eq!((busy.evicted().await, patient.evicted().await), (Eviction::Displaced, Eviction::Displaced));
        assert!(house.admit(1).is_none(), "the doors are closed");
    }
}
