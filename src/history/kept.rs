//! The kept entries: the newest ones, within a number of bytes. If there are too many, the service that has most loses
//! its oldest.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet, Vector};

use super::entry::{Entry, Event};

/// Why there are no such entries any more.
pub(super) const TOO_OLD: &str = "older ones are kept no more";

/// Entries by number, and the numbers of each service's entries. A clone shares as much as possible with the original.
#[derive(Clone, Debug)]
pub struct Kept {
    entries: OrdMap<u64, Stored>,
    services: OrdMap<Arc<str>, OfService>,
    /// Services by the number of their bytes.
    by_bytes: OrdSet<(usize, Arc<str>)>,
    bytes: usize,
    max_bytes: usize,
}

/// An entry, and the length of its line.
#[derive(Clone, Debug)]
struct Stored {
    entry: Arc<Entry>,
    bytes: usize,
}

#[derive(Clone, Debug, Default)]
struct OfService {
    numbers: Vector<u64>,
    bytes: usize,
}

impl Kept {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { entries: OrdMap::new(), services: OrdMap::new(), by_bytes: OrdSet::new(), bytes: 0, max_bytes }
    }

    /// The number of the newest.
    pub fn last(&self) -> u64 {
        self.entries.get_max().map_or(0, |(number, _)| *number)
    }

    /// The entries after one, oldest first; of one service, if given.
    pub fn after(&self, service: Option<&str>, after: u64) -> impl Iterator<Item = &Arc<Entry>> {
        let all = service.is_none().then(|| self.entries.range(after.saturating_add(1)..));
        let of_service = service.and_then(|service| self.services.get(service)).map(|of| {
            let first = of.numbers.binary_search(&after).map_or_else(|at| at, |at| at + 1);
            (first..of.numbers.len()).filter_map(|at| self.entries.get(of.numbers.get(at)?))
        });
        let all = all.into_iter().flatten().map(|(_, stored)| stored);
        all.chain(of_service.into_iter().flatten()).map(|stored| &stored.entry)
    }

    /// Adds an entry that is newer than all others.
    pub(super) fn push(&mut self, entry: Entry) {
        self.insert(entry, false);
        while self.bytes > self.max_bytes {
            let Some((_, largest)) = self.by_bytes.get_max().cloned() else { break };
            self.drop_oldest(&largest);
        }
    }

    /// Drops the oldest eighth of a service's entries. One entry replaces them with their number, as long as there are
    /// others.
    fn drop_oldest(&mut self, service: &Arc<str>) {
        let count = self.services.get(service).map_or(0, |of| of.numbers.len());
        let (mut dropped, mut last) = (0, None);
        // The replacement entry of earlier drops goes with the next.
        for _ in 0..count.div_ceil(8).max(2).min(count) {
            let Some(oldest) = self.pop_oldest(service) else { break };
            dropped += oldest.count.max(1);
            last = Some(oldest);
        }
        let Some(last) = last.filter(|_| self.services.contains_key(service)) else { return };
        let Entry { number, time, revision, .. } = *last;
        let (service, why) = (service.to_string(), TOO_OLD.to_owned());
        let mark =
            Entry { number, time, revision, event: Event::Omitted, service, why, count: dropped, ..Entry::default() };
        self.insert(mark, true);
    }

    fn insert(&mut self, entry: Entry, is_oldest: bool) {
        let (number, bytes) = (entry.number, entry.line().len());
        let known = self.services.get_key_value(entry.service.as_str()).map(|(name, _)| name.clone());
        let service = known.unwrap_or_else(|| entry.service.as_str().into());
        self.entries.insert(number, Stored { entry: Arc::new(entry), bytes });
        let of = self.services.entry(service.clone()).or_default();
        self.by_bytes.remove(&(of.bytes, service.clone()));
        if is_oldest {
            of.numbers.push_front(number)
        } else {
            of.numbers.push_back(number)
        }
        of.bytes += bytes;
        self.by_bytes.insert((of.bytes, service));
        self.bytes += bytes;
    }

    fn pop_oldest(&mut self, service: &Arc<str>) -> Option<Arc<Entry>> {
        let of = self.services.get_mut(service)?;
        let Stored { entry, bytes } = self.entries.remove(&of.numbers.pop_front()?)?;
        self.by_bytes.remove(&(of.bytes, service.clone()));
        of.bytes -= bytes;
        self.bytes -= bytes;
        if of.numbers.is_empty() {
            self.services.remove(service);
        } else {
            self.by_bytes.insert((of.bytes, service.clone()));
        }
        Some(entry)
    }
}
