//! Rights: how many calls a user may have under way, and how many of one service.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::share::{Share, Taken};

/// The calls of one user. Just as each user leaves room for other users, each of a user's services leaves room for the
/// others: one that hangs does not use up all of the user's calls.
#[derive(Debug)]
pub struct Rights {
    calls: Arc<Share>,
    /// Calls under way, by service.
    services: Mutex<HashMap<String, usize>>,
}

/// A call of a service under way.
#[derive(Debug)]
pub(super) struct Right {
    rights: Arc<Rights>,
    service: String,
    _taken: Taken,
}

/// Why a call may not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooMany {
    OfUser,
    OfService,
}

impl Rights {
    pub fn new(calls: Arc<Share>) -> Arc<Self> {
        Arc::new(Self { calls, services: Mutex::default() })
    }

    /// The right to call a service.
    pub(super) fn take(self: &Arc<Self>, service: &str) -> Result<Right, TooMany> {
        let taken = self.calls.take(1).ok_or(TooMany::OfUser)?;
        let mut services = self.services();
        let of_service = services.entry(service.to_owned()).or_default();
        if *of_service > 0 && *of_service >= self.calls.free() {
            return Err(TooMany::OfService);
        }
        *of_service += 1;
        Ok(Right { rights: self.clone(), service: service.to_owned(), _taken: taken })
    }

    fn services(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        let mut services = self.rights.services();
        if let Some(of_service) = services.get_mut(&self.service) {
            *of_service -= 1;
            if *of_service == 0 {
                services.remove(&self.service);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::{KEPT_FOR_ADMINS, Pool};

    #[test]
    fn a_service_that_hangs_leaves_room_for_the_calls_of_others() {
        let pool = Pool::new(160, 1);
        let [user, other_user] = [(); 2].map(|()| Rights::new(pool.share(Some(KEPT_FOR_ADMINS))));
        let hung: Vec<_> = std::iter::from_fn(|| user.take("hung").ok()).collect();
        assert_eq!(user.take("hung").expect_err("too many"), TooMany::OfService);
        let other = user.take("other").expect("room for another service");
        assert!(hung.len() >= 40, "{}", hung.len());
        other_user.take("hung").expect("room for another user");
        drop((hung, other));
        assert!(user.services().is_empty());
        user.take("hung").expect("all is given back");
    }
}
