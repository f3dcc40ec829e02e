//! Accounts: what each user of the endpoint has of everything that is scarce.

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

/// A user, as the kernel knows it. Nobody knows who is at the other end of TCP: all of them count as one, `None`.
pub(super) type User = Option<u32>;

/// How often it is looked whether memory can be returned; and how much less must be taken by clients, or how much more
/// be held by the process, for that to be worth the trouble.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The same of memory of which the accounts know nothing, such as that of masters, once in so many looks.
const CHECKS_PER_FULL_CHECK: u64 = 10;
const MIN_RETURNED: usize = 16 << 20;
const GROWN: usize = 64 << 20;

/// Everything that is scarce, and who has what of it.
#[derive(Debug)]
pub(super) struct Accounts {
    connections: Arc<Pool>,
    watches: Arc<Pool>,
    watch_paths: Arc<Pool>,
    calls: Arc<Pool>,
    memory: Arc<Pool>,
    accounts: Mutex<HashMap<User, Arc<Account>>>,
}

/// What one user has of everything that is scarce.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) user: User,
    pub(super) connections: Arc<Share>,
    pub(super) watches: Arc<Share>,
    pub(super) watch_paths: Arc<Share>,
    pub(super) memory: Arc<Share>,
    pub(super) calls: Arc<Rights>,
    /// Commands for workers that are under way.
    pub(super) commands: InFlight,
    /// Held while a reply is collected that takes many turns. Collecting several at once would be no faster, and leave
    /// the allocator's memory in pieces.
    pub(super) collecting: tokio::sync::Mutex<()>,
}

impl Accounts {
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn new(config: &Config) -> Arc<Self> {
        Self::with_memory(config, config.memory(Arc::default()))
    }

    /// The same where memory is also charged by who is no client.
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

    /// The account of a user, the same for all its connections.
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

    /// Has the allocator return what nobody uses: what it keeps while clients make the process grow, and most of what
    /// they took once they take it no longer.
    pub(super) async fn return_memory(&self, stop: &Stop) {
        let (mut most, mut held, mut free, mut looks) = (0, allocator::held(), allocator::free(), 0);
        while tokio::time::timeout(CHECK_INTERVAL, stop.requested()).await.is_err() {
            looks += 1;
            let taken = self.memory.taken();
            most = most.max(taken);
            let has_fallen = most >= MIN_RETURNED && taken <= most / 2;
            let now = allocator::held();
            held = held.min(now);
            // Both on another thread: the one that looks answers clients too.
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

    /// How many paths are watched, and how much memory is charged to all users.
    pub(super) fn gauges(&self) -> [(&'static str, u64); 2] {
        [("watchPaths", self.watch_paths.taken() as u64), ("memoryCharged", self.memory.taken() as u64)]
    }
}

impl Account {
    /// Of a call of this user.
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
