//! Shares: what is scarce is shared by users first, so that whatever one of them does leaves room for the others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Config;
use crate::allocator;
use crate::task::Stop;

/// A user, as the kernel knows it. Nobody knows who is at the other end of TCP: all of them count as one, `None`.
pub(super) type User = Option<u32>;

/// Of whatever is scarce, one part in so many is kept for administrators.
const KEPT_FOR_ADMINS: usize = 16;

/// How often it is looked whether memory can be returned; and how much less must be taken by clients, or how much more be
/// held by the process, for that to be worth the trouble.
const LOOK: Duration = Duration::from_secs(1);
/// The same of memory of which the shares know nothing, such as that of masters, once in so many looks.
const LOOKS_AT_ALL: u64 = 10;
const MUCH: usize = 16 << 20;
const GROWN: usize = 64 << 20;

/// Everything that is scarce, and who has what of it.
#[derive(Debug)]
pub(super) struct Shares {
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
    calls: Arc<Share>,
    /// Held while a reply is collected that takes many turns. Collecting several at once would be no faster, and leave the
    /// allocator's memory in pieces.
    pub(super) collecting: tokio::sync::Mutex<()>,
    /// The user's calls under way, by service.
    services: Mutex<HashMap<String, usize>>,
}

/// Something of which there is only so much.
#[derive(Debug)]
struct Pool {
    most: usize,
    taken: Arc<AtomicUsize>,
}

/// What one user has of a pool.
///
/// A user may have as much as it leaves free: alone a half, one of two users a third. These are the dynamic thresholds
/// by which switches share their buffers (Choudhury and Hahne, 1998): nobody configures how many users there are, what
/// nobody else needs can be used, and there is always room for one more user.
#[derive(Debug)]
pub(super) struct Share {
    pool: Arc<Pool>,
    /// What the user's kind may use of the pool.
    most: usize,
    taken: AtomicUsize,
}

/// A part of a share, given back when dropped.
#[derive(Debug)]
pub(super) struct Taken {
    share: Arc<Share>,
    amount: usize,
}

/// A call of a service that is under way.
#[derive(Debug)]
pub(super) struct CallTaken {
    account: Arc<Account>,
    service: String,
    _taken: Taken,
}

/// Why a call may not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooManyCalls {
    OfUser,
    OfService,
}

impl Shares {
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn new(config: &Config) -> Arc<Self> {
        Self::with_memory(config, Arc::default())
    }

    /// The same where memory is also charged by who is no client.
    pub(super) fn with_memory(config: &Config, memory_taken: Arc<AtomicUsize>) -> Arc<Self> {
        let pool_of = |most, taken| Arc::new(Pool { most, taken });
        let pool = |most| pool_of(most, Arc::default());
        Arc::new(Self {
            connections: pool(config.max_connections),
            watches: pool(config.max_watches),
            watch_paths: pool(config.max_watch_paths),
            calls: pool(config.max_calls),
            memory: pool_of(config.max_memory.as_u64() as usize, memory_taken),
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
        let share = |pool: &Arc<Pool>| {
            let kept = if is_admin { 0 } else { pool.most / KEPT_FOR_ADMINS };
            Arc::new(Share { pool: pool.clone(), most: pool.most - kept, taken: AtomicUsize::new(0) })
        };
        let account = Arc::new(Account {
            user,
            connections: share(&self.connections),
            watches: share(&self.watches),
            watch_paths: share(&self.watch_paths),
            memory: share(&self.memory),
            calls: share(&self.calls),
            collecting: Default::default(),
            services: Mutex::default(),
        });
        accounts.insert(user, account.clone());
        account
    }

    /// Has the allocator return what nobody uses: what it keeps while clients make the process grow, and most of what they
    /// took once they take it no longer.
    pub(super) async fn return_memory(&self, stop: &Stop) {
        let (mut most, mut held, mut free, mut looks) = (0, allocator::held(), allocator::free(), 0);
        while tokio::time::timeout(LOOK, stop.requested()).await.is_err() {
            looks += 1;
            let taken = self.memory.taken.load(Ordering::Relaxed);
            most = most.max(taken);
            let has_fallen = most >= MUCH && taken <= most / 2;
            let now = allocator::held();
            held = held.min(now);
            // Both on another thread: the one that looks answers clients too.
            let is_freed = looks % LOOKS_AT_ALL == 0 && {
                let now = tokio::task::spawn_blocking(allocator::free).await.unwrap_or(0);
                free = free.min(now);
                now >= free + MUCH
            };
            if has_fallen || is_freed || now >= held + GROWN {
                free = tokio::task::spawn_blocking(|| (allocator::trim(), allocator::free()).1).await.unwrap_or(free);
                (most, held) = (taken, allocator::held());
            }
        }
    }

    /// How many paths are watched, and how much memory is charged to all users.
    pub(super) fn gauges(&self) -> [(&'static str, u64); 2] {
        let taken = |pool: &Pool| pool.taken.load(Ordering::Relaxed) as u64;
        [("watchPaths", taken(&self.watch_paths)), ("memoryCharged", taken(&self.memory))]
    }
}

impl Account {
    /// The right to call a service. As the user leaves room for other users, each of its services leaves room for the
    /// others: one that hangs does not take all of the user's calls.
    pub(super) fn call(self: &Arc<Self>, service: &str) -> Result<CallTaken, TooManyCalls> {
        let taken = self.calls.take(1).ok_or(TooManyCalls::OfUser)?;
        let mut services = lock(&self.services);
        let of_service = services.entry(service.to_owned()).or_default();
        if *of_service > 0 && *of_service >= self.calls.free() {
            return Err(TooManyCalls::OfService);
        }
        *of_service += 1;
        Ok(CallTaken { account: self.clone(), service: service.to_owned(), _taken: taken })
    }
}

impl Share {
    /// Takes so much; None: it would be more than the user leaves free. Who has nothing yet may take what there is.
    pub(super) fn take(self: &Arc<Self>, amount: usize) -> Option<Taken> {
        self.add(amount).then(|| Taken { share: self.clone(), amount })
    }

    /// Takes nothing yet.
    pub(super) fn nothing(self: &Arc<Self>) -> Taken {
        Taken { share: self.clone(), amount: 0 }
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether so much could be taken now. To know it before something is made saves the making.
    pub(super) fn has_room(&self, amount: usize) -> bool {
        let all = self.pool.taken.load(Ordering::Relaxed);
        self.may(self.taken(), all.saturating_add(amount), amount)
    }

    /// Whether a user who has `own` may take so much, after which all users together have `all`.
    fn may(&self, own: usize, all: usize, amount: usize) -> bool {
        all <= self.most && (own == 0 || own.saturating_add(amount) <= self.most - all)
    }

    /// How much more the user leaves free than it has.
    fn free(&self) -> usize {
        self.most.saturating_sub(self.pool.taken.load(Ordering::Relaxed)).saturating_sub(self.taken())
    }

    fn add(&self, amount: usize) -> bool {
        // Both are counted before they are compared: two threads that take at once may both be refused, but never both
        // be given what only one can have.
        let own = self.taken.fetch_add(amount, Ordering::Relaxed);
        let all = self.pool.taken.fetch_add(amount, Ordering::Relaxed).saturating_add(amount);
        let may = self.may(own, all, amount);
        if !may {
            self.subtract(amount);
        }
        may
    }

    fn subtract(&self, amount: usize) {
        self.taken.fetch_sub(amount, Ordering::Relaxed);
        self.pool.taken.fetch_sub(amount, Ordering::Relaxed);
    }
}

impl Taken {
    pub(super) fn amount(&self) -> usize {
        self.amount
    }

    /// Makes it so much; false: it stays what it is, since that would be too much. Less is never too much.
    pub(super) fn resize(&mut self, amount: usize) -> bool {
        if amount <= self.amount {
            self.share.subtract(self.amount - amount);
        } else if !self.share.add(amount - self.amount) {
            return false;
        }
        self.amount = amount;
        true
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.share.subtract(self.amount);
    }
}

impl Drop for CallTaken {
    fn drop(&mut self) {
        let mut services = lock(&self.account.services);
        if let Some(of_service) = services.get_mut(&self.service) {
            *of_service -= 1;
            if *of_service == 0 {
                services.remove(&self.service);
            }
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(max_connections: usize, max_calls: usize) -> Arc<Shares> {
        Shares::new(&Config { max_connections, max_calls, ..Config::default() })
    }

    fn take_all(share: &Arc<Share>) -> Vec<Taken> {
        std::iter::from_fn(|| share.take(1)).collect()
    }

    #[test]
    fn whatever_one_user_takes_it_leaves_as_much_for_the_others() {
        let shares = shares(32, 1);
        let [one, two, three] = [1, 2, 3].map(|user| shares.account(Some(user), false));
        let of_one = take_all(&one.connections);
        assert_eq!(of_one.len(), 15, "half of what is not kept for administrators");
        let of_two = take_all(&two.connections);
        assert_eq!(of_two.len(), 7);
        let of_three = take_all(&three.connections);
        assert_eq!(of_three.len(), 4);
        drop(of_one);
        assert_eq!(take_all(&one.connections).len(), 9, "what nobody has is shared anew");
        drop((of_two, of_three));
        assert_eq!(take_all(&one.connections).len(), 15, "all is given back");
    }

    #[test]
    fn an_administrator_has_room_where_all_others_together_left_none() {
        let shares = shares(32, 1);
        let users: Vec<_> = (1..100).map(|user| shares.account(Some(user), false)).collect();
        let taken: Vec<_> = users.iter().flat_map(|user| take_all(&user.connections)).collect();
        assert_eq!(taken.len(), 30);
        assert!(shares.account(None, false).connections.take(1).is_none());
        assert!(shares.account(Some(0), true).connections.take(1).is_some());
    }

    #[test]
    fn what_is_taken_grows_and_shrinks_and_stays_as_it_is_where_it_may_not_grow() {
        let account = shares(32, 1).account(Some(1), false);
        let mut taken = account.connections.take(5).expect("room");
        assert!(taken.resize(15) && !taken.resize(16));
        assert_eq!((taken.amount(), account.connections.taken()), (15, 15));
        assert!(taken.resize(1));
        drop(taken);
        assert_eq!(account.connections.taken(), 0);
    }

    #[test]
    fn a_service_that_hangs_leaves_room_for_the_calls_of_others() {
        let shares = shares(1, 160);
        let account = shares.account(Some(1), false);
        let hung: Vec<_> = std::iter::from_fn(|| account.call("hung").ok()).collect();
        assert_eq!(account.call("hung").expect_err("too many"), TooManyCalls::OfService);
        let other = account.call("other").expect("room for another service");
        assert!(hung.len() >= 40, "{}", hung.len());
        shares.account(Some(2), false).call("hung").expect("room for another user");
        drop((hung, other));
        assert!(lock(&account.services).is_empty());
        account.call("hung").expect("all is given back");
    }

    #[test]
    fn who_comes_again_has_the_same_account_and_none_is_kept_for_who_has_left() {
        let shares = shares(1, 1);
        let account = shares.account(Some(1), false);
        assert!(Arc::ptr_eq(&account, &shares.account(Some(1), false)));
        drop(account);
        let _other = shares.account(Some(2), false);
        assert_eq!(lock(&shares.accounts).len(), 1);
    }
}
