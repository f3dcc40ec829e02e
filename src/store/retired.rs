//! Names of services that nobody offers any more, the newest of them.

use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;

/// How many are remembered. Masters choose the names, so there could be any number.
const MAX_NAMES: usize = 4_096;

/// The longest one that is remembered, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// A clone shares as much as possible with the original.
#[derive(Clone, Debug, Default)]
pub(super) struct Retired {
    /// With the number under which each was remembered.
    names: OrdMap<Arc<str>, u64>,
    oldest_first: OrdMap<u64, Arc<str>>,
}

impl Retired {
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Ordered by name, after the given one.
    pub(super) fn names(&self, after: Option<&str>) -> impl Iterator<Item = &Arc<str>> {
        self.names
            .range::<_, str>((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded))
            .map(|(name, _)| name)
    }

    /// Remembers a new name.
    pub(super) fn remember(&mut self, name: &str) {
        if name.len() > MAX_NAME_BYTES {
            return;
        }
        let name: Arc<str> = name.into();
        let number = self.oldest_first.get_max().map_or(0, |(newest, _)| newest + 1);
        self.names.insert(name.clone(), number);
        self.oldest_first.insert(number, name);
        if self.names.len() > MAX_NAMES
            && let Some((_, oldest)) = self.oldest_first.get_min().cloned()
        {
            self.forget(&oldest);
        }
    }

    pub(super) fn forget(&mut self, name: &str) {
        if let Some(number) = self.names.remove(name) {
            self.oldest_first.remove(&number);
        }
    }
}
