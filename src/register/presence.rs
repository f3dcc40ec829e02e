//! Arrivals and departures in the log: each master, unless those of one user come and go all the time.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::net::User;

/// How many arrivals and departures of one user are logged one by one in this time; the rest are summed up at its end.
const MAX_LINES: u64 = 100;
const LOG_PERIOD: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Presence(Mutex<HashMap<User, Lines>>);

#[derive(Debug)]
struct Lines {
    begun: Instant,
    count: u64,
}

impl Presence {
    /// Counts an arrival or a departure. Returns whether to log it.
    pub(super) fn is_logged(&self, user: User) -> bool {
        let mut users = self.users();
        let lines = users.entry(user).or_insert_with(|| Lines { begun: Instant::now(), count: 0 });
        lines.count += 1;
        lines.count <= MAX_LINES
    }

    /// Logs the sums of those whose time is over.
    pub(super) fn report(&self) {
        for (user, left_out) in self.ended(Instant::now()) {
            tracing::warn!(%user, left_out, "masters of one user come and go all the time; not all of it is logged");
        }
    }

    fn ended(&self, now: Instant) -> Vec<(User, u64)> {
        let mut users = self.users();
        let ended = users.extract_if(|_, lines| now.duration_since(lines.begun) >= LOG_PERIOD);
        ended.filter_map(|(user, lines)| Some((user, lines.count.checked_sub(MAX_LINES + 1)? + 1))).collect()
    }

    fn users(&self) -> MutexGuard<'_, HashMap<User, Lines>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_comes_and_goes_all_the_time_is_logged_once_a_minute() {
        let (presence, begun) = (Presence::default(), Instant::now());
        let [one, other] = [1, 2].map(User::Uid);
        assert_eq!((0..1_000).filter(|_| presence.is_logged(one)).count(), 100);
        assert!(presence.is_logged(other));
        assert_eq!(presence.ended(begun), []);
        assert_eq!(presence.ended(Instant::now() + LOG_PERIOD), [(one, 900)]);
        assert!(presence.users().is_empty() && presence.is_logged(one));
    }
}
