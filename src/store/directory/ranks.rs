//! Ranks: how many listed instances of each service have each rank.

use std::sync::Arc;

use imbl::OrdMap;

use crate::guard::Rank;

/// By service and rank; none is 0. A clone shares as much as possible with the original.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranks(OrdMap<(Arc<str>, Rank), usize>);

impl Ranks {
    pub(super) fn count(&self, service: &Arc<str>, rank: Rank) -> usize {
        self.0.get(&(service.clone(), rank)).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, service: &Arc<str>, rank: Rank) {
        *self.0.entry((service.clone(), rank)).or_default() += 1;
    }

    pub(super) fn remove(&mut self, service: &Arc<str>, rank: Rank) {
        let key = (service.clone(), rank);
        match self.0.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.0.remove(&key)),
        }
    }
}
