//! Ranks: how many listed instances of each service have each rank, and how many each root decides about.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use crate::guard::Rank;

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

    pub(super) fn add(&mut self, service: &Arc<str>, rank: Rank) {
        *self.of_services.entry((service.clone(), rank)).or_default() += 1;
        *self.of_roots.entry(rank.root).or_default() += 1;
    }

    pub(super) fn remove(&mut self, service: &Arc<str>, rank: Rank) {
        let key = (service.clone(), rank);
        match self.of_services.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.of_services.remove(&key)),
        }
        self.of_roots.entry(rank.root).and_modify(|count| *count = count.saturating_sub(1));
    }
}
