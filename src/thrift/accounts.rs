//! Accounts: each user's share of the endpoint's scarce resources.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Config;
use crate::allocator;
use crate::call::{Bounds, Rights, Values};
use crate::share::{KEPT_FOR_ADMINS, Pool, Share};
use crate::task::Stop;
use crate::tunnel::InFlight;

/// A user, by the kernel's number. TCP clients cannot be identified: all of them count as one, `None`.
pub(super) type User = Option<u32>;

/// How often to check whether memory can be returned; and how much less clients must take, or how much more the process
/// must hold, to make that worthwhile.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How many of these checks go by for each one of memory that the accounts do not know, such as that of masters.
const CHECKS_PER_FULL_CHECK: u64 = 10;
const MIN_RETURNED: usize = 16 << 20;
const GROWN: usize = 64 << 20;

/// All scarce resources, and who uses them.
#[derive(Debug)]
pub(super) struct Accounts {
    connections: Arc<Pool>,
    watches: Arc<Pool>,
    watch_paths: Arc<Pool>,
    calls: Arc<Pool>,
    memory: Arc<Pool>,
    accounts: Mutex<HashMap<User, Arc<Account>>>,
}

/// The scarce resources that one user uses.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) user: User,
    pub(super) connections: Arc<Share>,
    pub(super) watches: Arc<Share>,
    pub(super) watch_paths: Arc<Share>,
    pub(super) memory: Arc<Share>,
    pub(super) calls: Arc<Rights>,
    /// Commands for workers under way.
    pub(super) commands: InFlight,
    /// Held while a reply that takes many turns is collected. Collecting several at once would be no faster, and would
    /// fragment the allocator's memory.
    pub(super) collecting: tokio::sync::Mutex<()>,
}

impl Accounts {
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn new(config: &Config) -> Arc<Self> {
        Self::with_memory(config, config.memory(Arc::default()))
    }

    /// The same, with a pool that is also charged for others than clients.
    pub(super) fn with_memory(config: &Config, memory: Arc<Pool>) -> Arc<Self> {
        let pool = |most| Pool::new(most, 1);
        Arc::new(Self {
            connections: pool(config.max_connections),
            watches: pool(config.max_watches),
            watch_paths: pool(config.max_watch_paths),
            calls: pool(config.max_calls),
            memory,
            accounts: Mutex::default(),
        })
    }

    /// The account of a user, shared by all its connections.
    pub(super) fn account(&self, user: User, is_admin: bool) -> Arc<Account> {
        let mut accounts = lock(&self.accounts);
        if let Some(account) = accounts.get(&user) {
            return account.clone();
        }
        accounts.retain(|_, account| Arc::strong_count(account) > 1);
        let share = |pool: &Arc<Pool>| pool.share((!is_admin).then_some(KEPT_FOR_ADMINS));
        let account = Arc::new(Account {
            user,
            connections: share(&self.connections),
            watches: share(&self.watches),
            watch_paths: share(&self.watch_paths),
            memory: share(&self.memory),
            calls: Rights::new(share(&self.calls)),
            commands: InFlight::default(),
            collecting: Default::default(),
        });
        accounts.insert(user, account.clone());
        account
    }

    /// Makes the allocator return unused memory: what it keeps while clients make the process grow, and most of what
    /// they used once they no longer do.
    pub(super) async fn return_memory(&self, stop: &Stop) {
        let (mut most, mut held, mut free, mut looks) = (0, allocator::held(), allocator::free(), 0);
        while tokio::time::timeout(CHECK_INTERVAL, stop.requested()).await.is_err() {
            looks += 1;
            let taken = self.memory.taken();
            most = most.max(taken);
            let has_fallen = most >= MIN_RETURNED && taken <= most / 2;
            let now = allocator::held();
            held = held.min(now);
            // Both on another thread: this one answers clients too.
            let is_freed = looks % CHECKS_PER_FULL_CHECK == 0 && {
                let now = tokio::task::spawn_blocking(allocator::free).await.unwrap_or(0);
                free = free.min(now);
                now >= free + MIN_RETURNED
            };
            if has_fallen || is_freed || now >= held + GROWN {
                free = tokio::task::spawn_blocking(|| (allocator::trim(), allocator::free()).1).await.unwrap_or(free);
                (most, held) = (taken, allocator::held());
            }
        }
    }

    /// The number of watched paths, and the memory charged to all users.
    pub(super) fn gauges(&self) -> [(&'static str, u64); 2] {
        [("watchPaths", self.watch_paths.taken() as u64), ("memoryCharged", self.memory.taken() as u64)]
    }
}

impl Account {
    /// The bounds of a call of this user.
    pub(super) fn bounds<'a>(&'a self, until: Instant, values: &'a Values) -> Bounds<'a> {
        Bounds { rights: &self.calls, memory: &self.memory, until, values }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(max_connections: usize) -> Arc<Accounts> {
        Accounts::new(&Config { max_connections, ..Config::default() })
    }

    fn take_all(share: &Arc<Share>) -> Vec<crate::share::Taken> {
        std::iter::from_fn(|| share.take(1)).collect()
    }

    #[test]
    fn an_administrator_has_room_where_all_others_together_left_none() {
        let accounts = accounts(32);
        let users: Vec<_> = (1..100).map(|user| accounts.account(Some(user), false)).collect();
        let taken: Vec<_> = users.iter().flat_map(|user| take_all(&user.connections)).collect();
        assert_eq!(taken.len(), 30);
        assert!(accounts.account(None, false).connections.take(1).is_none());
        assert!(accounts.account(Some(0), true).connections.take(1).is_some());
    }

    #[test]
    fn who_comes_again_has_the_same_account_and_none_is_kept_for_who_has_left() {
        let accounts = accounts(1);
        let account = accounts.account(Some(1), false);
        assert!(Arc::ptr_eq(&account, &accounts.account(Some(1), false)));
        drop(account);
        let _other = accounts.account(Some(2), false);
        assert_eq!(lock(&accounts.accounts).len(), 1);
    }
}
