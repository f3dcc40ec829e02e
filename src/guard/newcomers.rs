//! Instances that came within the window, and are there. Until then they do not count on top of those that they may
//! replace.

use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, OrdSet};

use crate::clock::Moment;

/// By when they came. A clone shares as much as possible with the original.
#[derive(Clone, Debug, Default)]
pub(super) struct Newcomers {
    since: OrdMap<Arc<str>, Moment>,
    oldest_first: OrdSet<(Moment, Arc<str>)>,
}

impl Newcomers {
    pub(super) fn len(&self) -> usize {
        self.since.len()
    }

    pub(super) fn insert(&mut self, id: Arc<str>, since: Moment) {
        self.remove(&id);
        self.oldest_first.insert((since, id.clone()));
        self.since.insert(id, since);
    }

    /// Forgets one that is gone; returns since when it was there.
    pub(super) fn remove(&mut self, id: &str) -> Option<Moment> {
        let (id, since) = self.since.remove_with_key(id)?;
        self.oldest_first.remove(&(since, id));
        Some(since)
    }

    pub(super) fn forget(&mut self, now: Moment, window: Duration) {
        while self.are_older(now, window) {
            if let Some((_, id)) = self.oldest_first.remove_min() {
                self.since.remove(&id);
            }
        }
    }

    /// Whether some came before the window.
    pub(super) fn are_older(&self, now: Moment, window: Duration) -> bool {
        self.oldest_first.get_min().is_some_and(|(since, _)| now.since(*since) >= window)
    }
}
