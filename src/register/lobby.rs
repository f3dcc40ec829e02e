//! The lobby: connections that have not yet shown a token, few at a time, and few of one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often those who were refused are logged, however many there are.
const LOG: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Lobby {
    state: Mutex<State>,
    max: usize,
    max_per_address: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<IpAddr, usize>,
    refused: u64,
    logged: Option<Instant>,
}

/// A seat in the lobby, given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    lobby: Arc<Lobby>,
    address: IpAddr,
}

impl Lobby {
    pub(super) fn new(max: usize, max_per_address: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), max, max_per_address })
    }

    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let mut state = self.state();
        let all: usize = state.waiting.values().sum();
        let own = state.waiting.get(&address).copied().unwrap_or(0);
        if all >= self.max || own >= self.max_per_address {
            return None;
        }
        state.waiting.insert(address, own + 1);
        Some(Seat { lobby: self.clone(), address })
    }

    /// Counts one who was refused, and logs how many there were, once a minute.
    pub(super) fn refused(&self, address: IpAddr, why: &str) {
        let mut state = self.state();
        state.refused += 1;
        if state.logged.is_none_or(|logged| logged.elapsed() >= LOG) {
            tracing::warn!(refused = state.refused, last = %address, why, "masters were refused");
            state.refused = 0;
            state.logged = Some(Instant::now());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.lobby.state();
        if let Some(waiting) = state.waiting.get_mut(&self.address) {
            *waiting -= 1;
            if *waiting == 0 {
                state.waiting.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_fill_the_lobby() {
        let lobby = Lobby::new(3, 2);
        let [here, there] = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])];
        let seats = [lobby.enter(here), lobby.enter(here)];
        assert!(seats.iter().all(Option::is_some) && lobby.enter(here).is_none());
        let other = lobby.enter(there).expect("a seat");
        assert!(lobby.enter(there).is_none(), "it is full");
        drop((seats, other));
        assert!(lobby.enter(here).is_some());
    }
}
