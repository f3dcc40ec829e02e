//! Admission: how many connections there may be, and who must go: to make room, after a long silence, at the stop.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::Config;
use crate::metrics::Metrics;
use crate::task::Stop;

/// How exact the time is that an idle connection is given.
const TICK: u64 = 20;

/// Later than any time; and how long the clock sleeps at most.
const NEVER: u64 = u64::MAX;
const A_DAY: u64 = 86_400_000;

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
    /// When the clock looks next at who is idle for too long. All times are in milliseconds since the start, plus one.
    next_look: AtomicU64,
    sooner: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
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
            next_look: AtomicU64::new(NEVER),
            sooner: Notify::new(),
            metrics,
        })
    }

    /// A place for a connection of `user`. Where all are taken, the longest idle connection must go: one of the
    /// same user, if it is the user who has too many. None: nobody is idle. There is always a place for the process
    /// itself (`is_own`), which asks whether it still answers.
    pub(super) fn admit(self: &Arc<Self>, user: Option<u32>, is_own: bool) -> Option<Place> {
        let mut state = self.state();
        if state.is_closed {
            return None;
        }
        if !is_own {
            if state.counted.get(&user).copied().unwrap_or(0) >= self.max_per_user {
                self.evict(&mut state, |seat| seat.user == user)?;
            }
            if state.counted.values().sum::<usize>() >= self.max {
                self.evict(&mut state, |_| true)?;
            }
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let seat = Arc::new(Seat {
            user,
            idle_since: AtomicU64::new(self.now()),
            idle_until: AtomicU64::new(NEVER),
            is_late: AtomicBool::new(false),
            sent_away: Notify::new(),
        });
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
        seat.send_away(false);
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
        for seat in self.state().seats.values().filter(|seat| seat.idle_since.load(Ordering::SeqCst) > 0) {
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
        state.seats.values().for_each(|seat| seat.send_away(false));
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

    /// The right to wait for a watch; meanwhile the connection counts as a watch. None: too many do, or it must go.
    pub(super) fn wait(&self) -> Option<Waiting> {
        let mut state = self.admission.state();
        // Whoever was evicted has been counted out already.
        if state.waiting >= self.admission.max_watches || !state.seats.contains_key(&self.id) {
            return None;
        }
        state.waiting += 1;
        state.count(self.seat.user, false);
        Some(Waiting { admission: self.admission.clone(), user: self.seat.user })
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
    use crate::task::Tasks;
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
        assert!(places[2].sent_away().now_or_never().is_some());
        assert!(places[1].sent_away().now_or_never().is_none());
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
        assert!(own[1].sent_away().now_or_never().is_some());
        assert!(other.sent_away().now_or_never().is_none());
        assert!(own[1].wait().is_none(), "who must go does not begin to wait");
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

    #[tokio::test]
    async fn who_is_silent_for_too_long_goes_and_at_the_stop_all_do() {
        let admission = admission(10, 10);
        let [silent, busy, patient] = [1, 2, 3].map(|user| admission.admit(Some(user), false).expect("room"));
        let (tasks, _failures) = Tasks::new();
        let (clock, stop) = (admission.clone(), tasks.stop_signal());
        tasks.critical("the clock", async move { clock.keep_time(&stop).await });
        patient.set_idle(Duration::from_secs(60));
        busy.set_idle(Duration::from_millis(1));
        busy.set_busy();
        silent.set_idle(Duration::from_millis(1));
        assert_eq!(silent.sent_away().await, Sent::Late);
        assert!(busy.sent_away().now_or_never().is_none() && patient.sent_away().now_or_never().is_none());
        assert_eq!(tasks.stop(Duration::from_secs(20)).await, 0);
        assert_eq!((busy.sent_away().await, patient.sent_away().await), (Sent::Away, Sent::Away));
        assert!(admission.admit(Some(1), false).is_none(), "the doors are closed");
    }
}
