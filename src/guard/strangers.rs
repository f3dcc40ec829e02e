//! Who left which address, and who came to one that others had left.

use std::collections::HashSet;
use std::time::Duration;

use imbl::OrdMap;

use super::{Now, Rank, TargetKey, mark};
use crate::clock::Moment;

/// How many strangers of one rank are remembered at one address: one is enough, and each costs whatever is held there.
const MAX_STRANGERS: usize = 16;

/// The instances that left an address, and the strangers: those that came to such an address, and were not there
/// before. A clone shares as much as possible with the original.
#[derive(Clone, Debug, Default)]
pub(super) struct Strangers {
    left: OrdMap<Marks, Moment>,
    strangers: OrdMap<Marks, Stranger>,
    /// How many may be remembered.
    most: usize,
    /// When something last left without being remembered: for lack of room, or in an earlier process.
    overlooked: Moment,
    /// When those that no longer matter were last removed.
    swept: Option<Moment>,
}

/// The mark of an address, the rank of an instance that is or was there, and the marks of its service and id: whoever
/// registers instances cannot make them long.
type Marks = (u64, Rank, u64, u64);

#[derive(Clone, Copy, Debug)]
struct Stranger {
    /// When it came for the first time.
    came: Moment,
    /// Since when it is there; None: it left.
    since: Option<Moment>,
}

impl Strangers {
    /// Of what happened before the begin, nothing is known.
    pub(super) fn new(most: usize, begin: Moment) -> Self {
        Self { most, overlooked: begin, ..Self::default() }
    }

    /// Whether nothing is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there are, or were, strangers at an address.
    pub(super) fn are_at(&self, address: &str) -> bool {
        has(&self.strangers, mark(address))
    }

    /// An instance of this rank left its address.
    pub(super) fn leave(&mut self, instance: &TargetKey, rank: Rank, now: Now) {
        let instance = marks(instance, rank);
        if let Some(stranger) = self.strangers.get_mut(&instance) {
            stranger.since = None;
        } else if self.len() < self.most || self.left.contains_key(&instance) {
            self.left.insert(instance, now.moment);
            self.swept.get_or_insert(now.moment);
        } else {
            self.overlooked = now.moment;
        }
    }

    /// An instance of this rank came to its address, where others are held or not. It is a stranger if
    /// others left the address, but it never did.
    pub(super) fn come(&mut self, instance: &TargetKey, rank: Rank, now: Now, is_held: bool) {
        let instance = marks(instance, rank);
        let (address, ..) = instance;
        let of_rank = self.strangers.range((address, rank, 0, 0)..=(address, rank, u64::MAX, u64::MAX));
        let has_room = of_rank.take(MAX_STRANGERS).count() < MAX_STRANGERS && self.len() < self.most;
        if let Some(stranger) = self.strangers.get_mut(&instance) {
            stranger.since = Some(now.moment);
        } else if !self.left.contains_key(&instance) && (is_held || has(&self.left, address)) && has_room {
            self.strangers.insert(instance, Stranger { came: now.moment, since: Some(now.moment) });
            self.swept.get_or_insert(now.moment);
        }
    }

    /// Since when there are strangers to an instance of a service that vanished from an address with this rank;
    /// `vanished_at` is None if that was in an earlier process. A service that was at the address is a stranger to
    /// none but its own there. So is any, unless everything is known that left the address within the window before, or
    /// since. What has a later rank is no stranger, and was not there.
    pub(super) fn since(
        &self,
        address: &str,
        service: &str,
        rank: Rank,
        vanished_at: Option<Moment>,
        window: Duration,
    ) -> Option<Moment> {
        let (address, service) = (mark(address), mark(service));
        let is_known = vanished_at.is_some_and(|vanished| vanished >= self.overlooked + window);
        let was_there = |other: u64| {
            let ids = |rank| (address, rank, other, 0)..=(address, rank, other, u64::MAX);
            let ranks =
                (0..=rank.root).flat_map(|root| [false, true].map(|is_application| Rank { root, is_application }));
            ranks.filter(|it| *it <= rank).any(|rank| self.left.range(ids(rank)).next().is_some())
        };
        let to_it = at(&self.strangers, address).take_while(|((_, of, ..), _)| *of <= rank);
        let to_it = to_it.filter(|((_, _, other, _), it)| {
            vanished_at.is_none_or(|vanished| it.came >= vanished)
                && (*other == service || is_known && !was_there(*other))
        });
        to_it.filter_map(|(_, stranger)| stranger.since).min()
    }

    pub(super) fn is_due(&self, now: Now, window: Duration) -> bool {
        self.swept.is_some_and(|swept| now.moment.since(swept) >= window)
    }

    /// Forgets what left before the window, and the strangers there, except at these addresses.
    pub(super) fn sweep<'a>(&mut self, now: Now, window: Duration, held_at: impl Iterator<Item = &'a str>) {
        let held_at: HashSet<u64> = held_at.map(mark).collect();
        let is_old = |(key, left): &(&Marks, &Moment)| now.moment.since(**left) >= window && !held_at.contains(&key.0);
        let old: Vec<Marks> = self.left.iter().filter(is_old).map(|(key, _)| *key).collect();
        for key in &old {
            self.left.remove(key);
        }
        let is_over = |key: &&Marks| !held_at.contains(&key.0) && !has(&self.left, key.0);
        let over: Vec<Marks> = self.strangers.keys().filter(is_over).copied().collect();
        for key in &over {
            self.strangers.remove(key);
        }
        self.swept = (!self.is_empty()).then_some(now.moment);
    }

    pub(super) fn len(&self) -> usize {
        self.left.len() + self.strangers.len()
    }
}

fn marks((address, service, id): &TargetKey, rank: Rank) -> Marks {
    (mark(address), rank, mark(service), mark(id))
}

/// Those at an address.
fn at<T>(all: &OrdMap<Marks, T>, address: u64) -> impl Iterator<Item = (&Marks, &T)> {
    all.range((address, Rank::default(), 0, 0)..).take_while(move |((at, ..), _)| *at == address)
}

fn has<T>(all: &OrdMap<Marks, T>, address: u64) -> bool {
    at(all, address).next().is_some()
}
