//! Shares: scarce resources are divided by user first, so that no user can leave the others without any.

mod heavy;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

pub use self::heavy::is_heavy;

/// One part in this many of each scarce resource is reserved for administrators.
pub const KEPT_FOR_ADMINS: usize = 16;

/// Unused shares are removed when there are this many, and again when there are twice as many as then remained.
const FEW: usize = 64;

/// A limited resource.
#[derive(Debug)]
pub struct Pool {
    most: usize,
    greed: usize,
    taken: Arc<AtomicUsize>,
}

/// One user's share of a pool.
///
/// The pool's greed says how many times as much as it leaves free a user may have. With a greed of one it may have a
/// half when alone, a third when there are two. These are the dynamic thresholds by which switches share their buffers
/// (Choudhury and Hahne, 1998): the number of users is not configured, what nobody else needs can be used, and there is
/// always room for one more user.
#[derive(Debug)]
pub struct Share {
    pool: Arc<Pool>,
    /// What this kind of user may use of the pool.
    most: usize,
    taken: AtomicUsize,
    /// Held while work is done for the user that is too heavy for threads that serve others.
    working: Arc<tokio::sync::Mutex<()>>,
}

/// A part of a share, given back when dropped.
#[derive(Debug)]
pub struct Taken {
    share: Arc<Share>,
    amount: usize,
}

/// The overhead of each buffer held for a user.
pub const HELD_OVERHEAD: usize = 64;

struct Held {
    bytes: Bytes,
    _taken: Taken,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The shares of all users of a pool, one for each user.
#[derive(Debug)]
pub struct Shares<User> {
    pool: Arc<Pool>,
    /// One part in this many is reserved from them.
    kept_part: Option<usize>,
    kept: Mutex<Kept<User>>,
}

#[derive(Debug)]
struct Kept<User> {
    shares: HashMap<User, Arc<Share>>,
    look_at: usize,
}

impl Pool {
    pub fn new(most: usize, greed: usize) -> Arc<Self> {
        Self::with_taken(most, greed, Arc::default())
    }

    /// The same, with a counter that others also count their usage in.
    pub fn with_taken(most: usize, greed: usize, taken: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self { most, greed, taken })
    }

    /// The share of a user, excluding one reserved part in this many.
    pub fn share(self: &Arc<Self>, kept: Option<usize>) -> Arc<Share> {
        let kept = kept.map_or(0, |part| self.most / part);
        Arc::new(Share {
            pool: self.clone(),
            most: self.most - kept,
            taken: AtomicUsize::new(0),
            working: Arc::default(),
        })
    }

    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl<User: Eq + Hash> Shares<User> {
    pub fn of(pool: Arc<Pool>, kept_part: Option<usize>) -> Self {
        Self { pool, kept_part, kept: Mutex::new(Kept { shares: HashMap::new(), look_at: FEW }) }
    }

    pub fn share(&self, user: User) -> Arc<Share> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.shares.len() >= kept.look_at {
            kept.shares.retain(|_, share| Arc::strong_count(share) > 1);
            kept.look_at = FEW.max(2 * kept.shares.len());
        }
        kept.shares.entry(user).or_insert_with(|| self.pool.share(self.kept_part)).clone()
    }
}

impl Share {
    /// Takes this much; None: it would be more than the user may have. A user without anything may take all that is
    /// free.
    pub fn take(self: &Arc<Self>, amount: usize) -> Option<Taken> {
        self.add(amount).then(|| Taken { share: self.clone(), amount })
    }

    /// The same bytes, which take of the share until the last copy is dropped; None: as for [`Share::take`].
    pub fn hold(self: &Arc<Self>, bytes: Bytes) -> Option<Bytes> {
        let taken = self.take(bytes.len() + HELD_OVERHEAD)?;
        Some(Bytes::from_owner(Held { bytes, _taken: taken }))
    }

    /// Takes nothing yet.
    pub fn nothing(self: &Arc<Self>) -> Taken {
        Taken { share: self.clone(), amount: 0 }
    }

    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether this much could be taken now. Checking before creating something saves the effort.
    pub fn has_room(&self, amount: usize) -> bool {
        self.may(self.taken(), self.pool.taken().saturating_add(amount), amount)
    }

    /// How much more the user leaves free than it has, in a pool whose greed is one.
    pub fn free(&self) -> usize {
        self.most.saturating_sub(self.pool.taken()).saturating_sub(self.taken())
    }

    /// Whether a user with `own` may take this much, after which all users together have `all`.
    fn may(&self, own: usize, all: usize, amount: usize) -> bool {
        all <= self.most && (own == 0 || own.saturating_add(amount) / self.pool.greed <= self.most - all)
    }

    fn add(&self, amount: usize) -> bool {
        // Both are added before they are compared: two threads that take at once may both be refused, but never both
        // get what only one may have.
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
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// The share that it is a part of.
    pub fn share(&self) -> Arc<Share> {
        self.share.clone()
    }

    /// Changes the amount; false: it is unchanged, since that would be too much. Shrinking always succeeds.
    pub fn resize(&mut self, amount: usize) -> bool {
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

/// How much more one of some sharers, whose number is known, may have of a resource, if it has `own`, and each of them as
/// much as `all` says. Each has its own part, together a half; the rest is for whoever comes first.
pub fn room(most: usize, sharers: usize, own: usize, all: impl Iterator<Item = usize>) -> usize {
    let sharers = sharers.max(1);
    let part = most / (2 * sharers);
    let taken: usize = all.map(|it| it.saturating_sub(part)).sum();
    part.saturating_sub(own) + (most - part * sharers).saturating_sub(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(share: &Arc<Share>) -> Vec<Taken> {
        std::iter::from_fn(|| share.take(1)).collect()
    }

    #[test]
    fn whatever_one_user_takes_it_leaves_as_much_for_the_others() {
        let shares = Shares::of(Pool::new(30, 1), None);
        let [one, two, three] = [1, 2, 3].map(|user| shares.share(user));
        let of_one = take_all(&one);
        assert_eq!(of_one.len(), 15, "a half");
        let of_two = take_all(&two);
        assert_eq!(of_two.len(), 7);
        let of_three = take_all(&three);
        assert_eq!(of_three.len(), 4);
        drop(of_one);
        assert_eq!(take_all(&one).len(), 9, "what nobody has is shared anew");
        drop((of_two, of_three));
        assert_eq!(take_all(&one).len(), 15, "all is given back");
    }

    #[test]
    fn with_more_greed_a_user_leaves_less_but_something() {
        let shares = Shares::of(Pool::new(800, 7), None);
        let first = take_all(&shares.share(1));
        let second = take_all(&shares.share(2));
        assert!((700..720).contains(&first.len()), "{}", first.len());
        assert!((80..100).contains(&second.len()), "{}", second.len());
        assert!(!take_all(&shares.share(3)).is_empty());
    }

    #[test]
    fn who_has_nothing_may_take_all_there_is_but_what_is_kept() {
        let pool = Pool::new(32, 1);
        let share = pool.share(Some(16));
        assert!(share.take(31).is_none() && share.take(usize::MAX).is_none());
        let _all = share.take(30).expect("room");
        assert!(pool.share(Some(16)).take(1).is_none());
        assert!(pool.share(None).take(2).is_some());
    }

    #[test]
    fn what_is_taken_grows_and_shrinks_and_stays_as_it_is_where_it_may_not_grow() {
        let share = Pool::new(30, 1).share(None);
        let mut taken = share.take(5).expect("room");
        assert!(taken.resize(15) && !taken.resize(16) && !taken.resize(usize::MAX));
        assert_eq!((taken.amount(), share.taken()), (15, 15));
        assert!(taken.resize(1));
        drop(taken);
        assert_eq!((share.taken(), share.pool.taken()), (0, 0));
    }

    #[test]
    fn each_sharer_has_a_part_that_no_other_takes_and_one_alone_has_all() {
        let left = |own: usize, others: &[usize]| {
            let all = others.iter().copied().chain([own]);
            room(12, others.len() + 1, own, all)
        };
        assert_eq!((left(0, &[]), left(11, &[]), left(12, &[])), (12, 1, 0));
        assert_eq!((left(0, &[0, 0]), left(7, &[0, 0]), left(8, &[0, 0])), (8, 1, 0));
        assert_eq!((left(0, &[8, 0]), left(2, &[8, 0])), (2, 0));
        assert_eq!(left(2, &[5, 2]), 3, "what a part leaves over is no other's");
        assert_eq!((left(0, &[99]), left(9, &[99]), room(1, 5, 0, [0; 5].into_iter())), (3, 0, 1));
        assert_eq!(room(0, 0, 0, std::iter::empty()), 0);
    }

    #[test]
    fn no_share_is_kept_for_users_who_have_left() {
        let shares = Shares::of(Pool::new(usize::MAX, 1), None);
        let kept = shares.share(0);
        let _taken = kept.take(1);
        (1..1_000).for_each(|user| drop(shares.share(user)));
        assert!(shares.kept.lock().expect("nobody panics").shares.len() <= FEW);
        assert!(Arc::ptr_eq(&kept, &shares.share(0)));
    }
}
