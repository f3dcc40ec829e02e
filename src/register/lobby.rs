//! The lobby: connections that have not yet shown a token. Few are heard at a time, and few of one address; the others
//! wait in line, unread, so that very many masters that come back at once all get in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Config;

/// How often those who were refused are logged, however many there are.
const LOG: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Lobby {
    state: Mutex<State>,
    seats: Arc<Semaphore>,
    seats_per_address: usize,
    max: usize,
    max_per_address: usize,
}

#[derive(Debug, Default)]
struct State {
    guests: usize,
    by_address: HashMap<IpAddr, Party>,
    refused: u64,
    logged: Option<Instant>,
}

/// The guests of one address.
#[derive(Debug)]
struct Party {
    guests: usize,
    seats: Arc<Semaphore>,
}

/// Somebody in the lobby, who leaves it when dropped.
#[derive(Debug)]
pub(super) struct Guest {
    lobby: Arc<Lobby>,
    address: IpAddr,
    seats: [Arc<Semaphore>; 2],
}

/// Given back when dropped.
pub(super) type Seat = [OwnedSemaphorePermit; 2];

impl Lobby {
    pub(super) fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            seats: Arc::new(Semaphore::new(config.max_strangers)),
            seats_per_address: config.max_strangers_per_address,
            max: config.max_strangers + config.max_waiting_strangers,
            // One address does not fill the line.
            max_per_address: config.max_strangers_per_address + config.max_waiting_strangers / 2,
        })
    }

    /// Lets one more in, if there is room in the line.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Guest> {
        let mut state = self.state();
        let own = state.by_address.get(&address).map_or(0, |party| party.guests);
        if state.guests >= self.max || own >= self.max_per_address {
            return None;
        }
        state.guests += 1;
        let party = Party { guests: 0, seats: Arc::new(Semaphore::new(self.seats_per_address)) };
        let party = state.by_address.entry(address).or_insert(party);
        party.guests += 1;
        Some(Guest { lobby: self.clone(), address, seats: [party.seats.clone(), self.seats.clone()] })
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

impl Guest {
    /// A seat, in turn: first among those of the same address, then among all.
    pub(super) async fn seat(&self) -> Option<Seat> {
        let [own, all] = self.seats.clone();
        let own = own.acquire_owned().await.ok()?;
        Some([own, all.acquire_owned().await.ok()?])
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut state = self.lobby.state();
        state.guests -= 1;
        if let Some(party) = state.by_address.get_mut(&self.address) {
            party.guests -= 1;
            if party.guests == 0 {
                state.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_address_fills_neither_the_seats_nor_the_line() {
        let bounds = Config { max_strangers: 3, max_strangers_per_address: 2, ..Config::default() };
        let lobby = Lobby::new(&Config { max_waiting_strangers: 4, ..bounds });
        let [here, there] = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])];
        let enter = |address, guests: usize| (0..guests).filter_map(|_| lobby.enter(address)).collect::<Vec<_>>();
        let (own, others) = (enter(here, 9), enter(there, 9));
        assert_eq!((own.len(), others.len()), (4, 3), "seven in all, and four of one address");
        let seats =
            |guests: &[Guest]| guests.iter().filter_map(|guest| guest.seat().now_or_never()).collect::<Vec<_>>();
        let seated = seats(&own);
        assert_eq!((seated.len(), seats(&others).len()), (2, 1));
        let mut waiting = Box::pin(own[2].seat());
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(seated);
        assert!(waiting.await.is_some(), "its turn comes");
        drop([own, others]);
        assert!(lobby.state().by_address.is_empty());
    }
}
