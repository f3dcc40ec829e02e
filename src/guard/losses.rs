//! What a service lost of one rank.

use std::sync::Arc;

use imbl::OrdSet;

use super::departed::DepartedList;
use super::levels::Levels;
use super::newcomers::Newcomers;
use super::room::Taken;
use super::{Config, Now, OfRank, Rank, Vanished};
use crate::clock::Moment;

/// A clone shares as much as possible with the original.
#[derive(Clone, Debug, Default)]
pub(super) struct Losses {
    /// How many are registered, how many are held and how many of these are silent, and whether those are passed over.
    pub(super) present: usize,
    pub(super) held: usize,
    pub(super) silent: usize,
    pub(super) passes_over: bool,
    /// The most that were registered before these vanished.
    pub(super) before: usize,
    /// Those of them that vanished within the window, by when they did.
    pub(super) lately: OrdSet<(Moment, Arc<str>)>,
    pub(super) levels: Levels,
    pub(super) newcomers: Newcomers,
    /// Those that were registered again within the window, while they were held: they are held at once if they vanish again.
    pub(super) returned: Newcomers,
    pub(super) departed: DepartedList,
    /// How many of the held ones have strangers at their addresses, how many were withdrawn for that, and the marks of
    /// the ids of those that were not registered again.
    pub(super) doubted: usize,
    pub(super) displaced: usize,
    pub(super) away: OrdSet<u64>,
}

/// The sums over both ranks of a root, which are of the same service.
#[derive(Debug, Default)]
pub(super) struct Sums {
    present: usize,
    pub(super) held: usize,
    silent: usize,
    before: usize,
    doubted: usize,
    displaced: usize,
    away: usize,
}

/// What vanished in one revision with one rank, or what else changed there.
pub(super) struct Loss {
    pub(super) rank: Rank,
    /// The most that were registered with the other rank of the root.
    pub(super) others: usize,
    pub(super) changes: OfRank,
    pub(super) vanished: Vec<Vanished>,
}

impl Loss {
    /// How many were registered before.
    pub(super) fn registered(&self) -> usize {
        (self.changes.present + self.vanished.len()).saturating_sub(self.changes.came)
    }
}

impl Losses {
    /// The size of the service with this many registered. Newcomers may be there to replace the others, so the larger of
    /// both numbers counts, and not their sum.
    pub(super) fn size(&self, registered: usize) -> usize {
        let new = self.newcomers.len();
        new.max(registered.saturating_sub(new))
    }

    pub(super) fn forget(&mut self, now: Now, config: &Config) {
        self.levels.forget(now.moment, config.window);
        let size = self.size(self.present);
        self.newcomers.forget(now.moment, config.window);
        self.returned.forget(now.moment, config.window);
        if self.size(self.present) < size {
            self.levels.fell(size, now.moment, config.window);
        }
        while self.lately.get_min().is_some_and(|(at, _)| now.moment.since(*at) >= config.window) {
            self.lately.remove_min();
        }
        while self.departed.oldest().is_some_and(|oldest| now.moment.since(oldest.moment) >= config.window) {
            self.departed.pop_oldest();
        }
    }

    pub(super) fn is_due(&self, now: Now, config: &Config) -> bool {
        let is_old = |at: Now| now.moment.since(at.moment) >= config.window;
        self.departed.oldest().is_some_and(is_old)
            || self.levels.is_older(now.moment, config.window)
            || self.newcomers.are_older(now.moment, config.window)
            || self.returned.are_older(now.moment, config.window)
            || self.lately.get_min().is_some_and(|(at, _)| now.moment.since(*at) >= config.window)
    }

    pub(super) fn is_forgotten(&self) -> bool {
        let are_none = [&self.newcomers, &self.returned].map(Newcomers::len) == [0, 0];
        self.held == 0 && self.departed.len() == 0 && are_none && self.levels.is_empty()
    }

    /// What is remembered without being held, and what came and vanished within the window.
    pub(super) fn taken(&self) -> Taken {
        let Self { departed, newcomers, lately, .. } = self;
        let (departed, bytes) = (departed.len(), departed.bytes());
        Taken { held: 0, departed, bytes, new: newcomers.len(), lately: lately.len() }
    }
}

impl Sums {
    pub(super) fn of<'a>(ranks: impl Iterator<Item = &'a Losses>) -> Self {
        let mut sums = Self::default();
        for losses in ranks {
            sums.present += losses.present;
            sums.held += losses.held;
            sums.silent += losses.silent;
            sums.before += losses.before;
            sums.doubted += losses.doubted;
            sums.displaced += losses.displaced;
            sums.away += losses.away.len();
        }
        sums
    }

    /// Whether silent instances are passed over: if at least half of all are well, or half as many are registered as before
    /// the loss.
    pub(super) fn passes_over(&self) -> bool {
        self.silent * 2 <= self.present + self.held || self.present * 2 >= self.before
    }

    /// Whether strangers end a hold: as long as they are, or were, at no more than half of the addresses that may still be
    /// alive.
    pub(super) fn believes_strangers(&self) -> bool {
        (self.doubted + self.displaced) * 2 <= self.present + self.held + self.away
    }
}
