//! Ranks: how many listed instances of each service have each rank, and how many each root decides about.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use crate::guard::Rank;

/// How many more instances of a service have each rank, or fewer.
pub(super) type Moves = BTreeMap<Rank, isize>;

/// A clone shares as much as possible with the original.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranks {
    /// By service and rank; none is 0.
    of_services: OrdMap<(Arc<str>, Rank), usize>,
    /// By the place of a root.
    of_roots: BTreeMap<usize, usize>,
}

impl Ranks {
    pub(super) fn count(&self, service: &Arc<str>, rank: Rank) -> usize {
        self.of_services.get(&(service.clone(), rank)).copied().unwrap_or(0)
    }

    /// How many a root decides about.
    pub(super) fn of_root(&self, root: usize) -> usize {
        self.of_roots.get(&root).copied().unwrap_or(0)
    }

    /// Instances of a service begin to have a rank, or have it no more.
    pub(super) fn take(&mut self, service: &Arc<str>, moves: Moves) {
        for (rank, more) in moves.into_iter().filter(|(_, more)| *more != 0) {
            let key = (service.clone(), rank);
            match self.of_services.get(&key).copied().unwrap_or(0).saturating_add_signed(more) {
                0 => self.of_services.remove(&key),
                count => self.of_services.insert(key, count),
            };
            let of_root = self.of_roots.entry(rank.root).or_default();
            *of_root = of_root.saturating_add_signed(more);
        }
    }
}
