//! Admission: how many connections there may be, and who must go to make room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::Config;
use crate::metrics::Metrics;

/// The connections there are. One that is busy with a request is never sent away for a new one; one that waits for a
/// watch costs next to nothing, and is counted apart.
#[derive(Debug)]
pub(super) struct Admission {
    state: Mutex<State>,
    next_id: AtomicU64,
    max: usize,
    max_per_user: usize,
    max_watches: usize,
    started: Instant,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    seats: HashMap<u64, Arc<Seat>>,
    /// Those that do not wait for a watch, by user.
    counted: HashMap<Option<u32>, usize>,
    waiting: usize,
}

/// The right to be connected; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    id: u64,
    seat: Arc<Seat>,
}

/// The right to wait for a watch; given back when dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    admission: Arc<Admission>,
    user: Option<u32>,
}

#[derive(Debug)]
struct Seat {
    user: Option<u32>,
    /// Milliseconds since the admission began, plus one; 0: busy.
    idle_since: AtomicU64,
    evicted: Notify,
}

impl State {
    fn count(&mut self, user: Option<u32>, more: bool) {
        let counted = self.counted.entry(user).or_default();
        *counted = if more { *counted + 1 } else { counted.saturating_sub(1) };
        if *counted == 0 {
            self.counted.remove(&user);
        }
    }
}

impl Admission {
    pub(super) fn new(config: &Config, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            next_id: AtomicU64::new(0),
            max: config.max_connections,
            max_per_user: config.max_connections_per_user,
            max_watches: config.max_watches,
            started: Instant::now(),
            metrics,
        })
    }

    /// A place for a connection of `user`. Where all are taken, the longest idle connection must go: one of the
    /// same user, if it is the user who has too many. None: nobody is idle. There is always a place for the process
    /// itself (`is_own`), which asks whether it still answers.
    pub(super) fn admit(self: &Arc<Self>, user: Option<u32>, is_own: bool) -> Option<Place> {
        let mut state = self.state();
        if !is_own {
            if state.counted.get(&user).copied().unwrap_or(0) >= self.max_per_user {
                self.evict(&mut state, |seat| seat.user == user)?;
            }
            if state.counted.values().sum::<usize>() >= self.max {
                self.evict(&mut state, |_| true)?;
            }
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let seat = Arc::new(Seat { user, idle_since: AtomicU64::new(self.now()), evicted: Notify::new() });
        state.seats.insert(id, seat.clone());
        state.count(user, true);
        self.metrics.connections.increment();
        Some(Place { admission: self.clone(), id, seat })
    }

    fn evict(&self, state: &mut State, may_go: impl Fn(&Seat) -> bool) -> Option<()> {
        let idle = state.seats.iter().filter(|(_, seat)| may_go(seat)).filter_map(|(id, seat)| {
            let since = seat.idle_since.load(Ordering::Relaxed);
            (since > 0).then_some((since, *id))
        });
        let Some((_, id)) = idle.min() else {
            self.metrics.connections_refused.increment();
            return None;
        };
        let seat = state.seats.remove(&id)?;
        state.count(seat.user, false);
        seat.evicted.notify_one();
        self.metrics.connections_evicted.increment();
        Some(())
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(super) fn set_busy(&self) {
        self.seat.idle_since.store(0, Ordering::Relaxed);
    }

    pub(super) fn set_idle(&self) {
        self.seat.idle_since.store(self.admission.now(), Ordering::Relaxed);
    }

    /// The right to wait for a watch; meanwhile the connection counts as a watch. None: too many do.
    pub(super) fn wait(&self) -> Option<Waiting> {
        let mut state = self.admission.state();
        if state.waiting >= self.admission.max_watches {
            return None;
        }
        state.waiting += 1;
        state.count(self.seat.user, false);
        Some(Waiting { admission: self.admission.clone(), user: self.seat.user })
    }

    /// Waits until the place is needed for somebody else.
    pub(super) async fn evicted(&self) {
        self.seat.evicted.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        // Whoever was evicted has been counted out already.
        if state.seats.remove(&self.id).is_some() {
            state.count(self.seat.user, false);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        state.waiting -= 1;
        state.count(self.user, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn admission(max: usize, max_per_user: usize) -> Arc<Admission> {
        let config = Config { max_connections: max, max_connections_per_user: max_per_user, ..Config::default() };
        Admission::new(&config, Arc::default())
    }

    #[test]
    fn the_longest_idle_goes_and_the_busy_stay() {
        let admission = admission(3, 3);
        let places = [1, 1, 2].map(|user| admission.admit(Some(user), false).expect("room"));
        places[0].set_busy();
        places[1].seat.idle_since.store(7, Ordering::Relaxed);
        places[2].seat.idle_since.store(5, Ordering::Relaxed);
        let newcomer = admission.admit(Some(3), false).expect("room is made");
        assert!(places[2].evicted().now_or_never().is_some());
        assert!(places[1].evicted().now_or_never().is_none());
        newcomer.set_busy();
        places[1].set_busy();
        assert!(admission.admit(Some(3), false).is_none(), "nobody is idle");
        drop(places);
        assert!(admission.admit(Some(3), false).is_some(), "a place is given back");
    }

    #[test]
    fn who_has_too_many_makes_room_for_itself() {
        let admission = admission(10, 2);
        let other = admission.admit(Some(1), false).expect("room");
        let own = [2, 2].map(|user| admission.admit(Some(user), false).expect("room"));
        own[0].set_busy();
        admission.admit(Some(2), false).expect("its own idle one goes");
        assert!(own[1].evicted().now_or_never().is_some());
        assert!(other.evicted().now_or_never().is_none());
    }

    #[test]
    fn who_waits_for_a_watch_takes_no_place_but_there_are_only_so_many() {
        let config = Config { max_connections: 1, max_watches: 1, ..Config::default() };
        let admission = Admission::new(&config, Arc::default());
        let watcher = admission.admit(Some(1), false).expect("room");
        watcher.set_busy();
        let waiting = watcher.wait().expect("the first to wait");
        let other = admission.admit(Some(1), false).expect("the watcher takes no place");
        other.set_busy();
        assert!(other.wait().is_none(), "one waits already");
        assert!(admission.admit(Some(1), false).is_none(), "nobody is idle");
        assert!(admission.admit(Some(1), true).is_some(), "the process itself is always let in");
        drop((waiting, other));
        assert!(admission.admit(Some(1), false).is_none(), "the watcher has its place again");
    }
}
