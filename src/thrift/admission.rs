//! Admission: how many connections there may be, and who must go to make room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::Config;
use crate::metrics::Metrics;

/// The connections there are. A connection that is busy with a request is never sent away for a new one.
#[derive(Debug)]
pub(super) struct Admission {
    seats: Mutex<HashMap<u64, Arc<Seat>>>,
    next_id: AtomicU64,
    max: usize,
    max_per_user: usize,
    started: Instant,
    metrics: Arc<Metrics>,
}

/// The right to be connected; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    id: u64,
    seat: Arc<Seat>,
}

#[derive(Debug)]
struct Seat {
    user: Option<u32>,
    /// Milliseconds since the admission began, plus one; 0: busy.
    idle_since: AtomicU64,
    evicted: Notify,
}

impl Admission {
    pub(super) fn new(config: &Config, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            seats: Mutex::default(),
            next_id: AtomicU64::new(0),
            max: config.max_connections,
            max_per_user: config.max_connections_per_user,
            started: Instant::now(),
            metrics,
        })
    }

    /// A place for a connection of `user`. Where all are taken, the longest idle connection must go: one of the
    /// same user, if it is the user who has too many. None: nobody is idle.
    pub(super) fn admit(self: &Arc<Self>, user: Option<u32>) -> Option<Place> {
        let mut seats = self.seats();
        if seats.len() >= self.max_per_user
            && seats.values().filter(|seat| seat.user == user).count() >= self.max_per_user
        {
            self.evict(&mut seats, |seat| seat.user == user)?;
        }
        if seats.len() >= self.max {
            self.evict(&mut seats, |_| true)?;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let seat = Arc::new(Seat { user, idle_since: AtomicU64::new(self.now()), evicted: Notify::new() });
        seats.insert(id, seat.clone());
        self.metrics.connections.increment();
        Some(Place { admission: self.clone(), id, seat })
    }

    fn evict(&self, seats: &mut HashMap<u64, Arc<Seat>>, may_go: impl Fn(&Seat) -> bool) -> Option<()> {
        let idle = seats.iter().filter(|(_, seat)| may_go(seat)).filter_map(|(id, seat)| {
            let since = seat.idle_since.load(Ordering::Relaxed);
            (since > 0).then_some((since, *id))
        });
        let Some((_, id)) = idle.min() else {
            self.metrics.connections_refused.increment();
            return None;
        };
        seats.remove(&id)?.evicted.notify_one();
        self.metrics.connections_evicted.increment();
        Some(())
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<u64, Arc<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(super) fn set_busy(&self) {
        self.seat.idle_since.store(0, Ordering::Relaxed);
    }

    pub(super) fn set_idle(&self) {
        self.seat.idle_since.store(self.admission.now(), Ordering::Relaxed);
    }

    /// Waits until the place is needed for somebody else.
    pub(super) async fn evicted(&self) {
        self.seat.evicted.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.seats().remove(&self.id);
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
        let places = [1, 1, 2].map(|user| admission.admit(Some(user)).expect("room"));
        places[0].set_busy();
        places[1].seat.idle_since.store(7, Ordering::Relaxed);
        places[2].seat.idle_since.store(5, Ordering::Relaxed);
        let newcomer = admission.admit(Some(3)).expect("room is made");
        assert!(places[2].evicted().now_or_never().is_some());
        assert!(places[1].evicted().now_or_never().is_none());
        newcomer.set_busy();
        places[1].set_busy();
        assert!(admission.admit(Some(3)).is_none(), "nobody is idle");
        drop(places);
        assert!(admission.admit(Some(3)).is_some(), "a place is given back");
    }

    #[test]
    fn who_has_too_many_makes_room_for_itself() {
        let admission = admission(10, 2);
        let other = admission.admit(Some(1)).expect("room");
        let own = [2, 2].map(|user| admission.admit(Some(user)).expect("room"));
        own[0].set_busy();
        admission.admit(Some(2)).expect("its own idle one goes");
        assert!(own[1].evicted().now_or_never().is_some());
        assert!(other.evicted().now_or_never().is_none());
    }
}
