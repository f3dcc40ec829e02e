//! The kept entries: the newest ones, within a number of bytes. If there are too many, the root that has most loses, and
//! below it the service that has most loses its oldest: so nobody pushes out the past of another root by the names or
//! the number of its services.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::entry::{Entry, Event};

/// Why there are no such entries any more.
pub(super) const TOO_OLD: &str = "older ones are kept no more";

/// The same where nothing is left of a service but this.
pub(super) const NOTHING_LEFT: &str = "nothing is kept any more of some services";

/// Stands for the root of what masters offer. No root has such a path.
const MASTERS: &str = "masters";

/// Entries by number, by service, and by root and service. A clone shares as much as possible with the original.
#[derive(Clone, Debug)]
pub struct Kept {
    entries: OrdMap<u64, Stored>,
    of_services: OrdSet<(Arc<str>, u64)>,
    roots: OrdMap<Arc<str>, OfRoot>,
    bytes: usize,
    max_bytes: usize,
}

/// An entry, and the length of its line.
#[derive(Clone, Debug)]
struct Stored {
    entry: Arc<Entry>,
    bytes: usize,
}

/// What is kept of a root: the numbers of each service's entries, and the services by the number of their bytes. What
/// has no service is the mark that nothing is left of some.
#[derive(Clone, Debug, Default)]
struct OfRoot {
    services: OrdMap<Arc<str>, OfService>,
    by_bytes: OrdSet<(usize, Arc<str>)>,
    bytes: usize,
}

#[derive(Clone, Debug, Default)]
struct OfService {
    numbers: OrdSet<u64>,
    bytes: usize,
}

impl Kept {
    pub(super) fn new(max_bytes: usize) -> Self {
        let (entries, of_services, roots) = (OrdMap::new(), OrdSet::new(), OrdMap::new());
        Self { entries, of_services, roots, bytes: 0, max_bytes }
    }

    /// The number of the newest.
    pub fn last(&self) -> u64 {
        self.entries.get_max().map_or(0, |(number, _)| *number)
    }

    /// The entries after one, oldest first; of one service, if given. Of one of which there is nothing, those that say
    /// that nothing is left of some.
    pub fn after(&self, service: Option<&str>, after: u64) -> impl Iterator<Item = &Arc<Entry>> {
        let first = after.saturating_add(1);
        let all = service.is_none().then(|| self.entries.range(first..).map(|(_, stored)| stored));
        let of_service = service.map(|service| {
            let numbers = match self.numbers_of(service, 0).next() {
                Some(_) => service,
                None => "",
            };
            let numbers = self.numbers_of(numbers, first);
            let stored = numbers.filter_map(|number| self.entries.get(&number));
            stored.filter(move |it| it.entry.service == service || it.entry.why == NOTHING_LEFT)
        });
        all.into_iter().flatten().chain(of_service.into_iter().flatten()).map(|stored| &stored.entry)
    }

    fn numbers_of(&self, service: &str, first: u64) -> impl Iterator<Item = u64> + use<'_> {
        let service: Arc<str> = service.into();
        let from = self.of_services.range((service.clone(), first)..);
        from.take_while(move |(of, _)| *of == service).map(|(_, number)| *number)
    }

    /// Adds an entry that is newer than all others.
    pub(super) fn push(&mut self, entry: Entry) {
        self.insert(entry);
        while self.bytes > self.max_bytes
            && let Some((root, service)) = self.largest()
        {
            self.drop_oldest(&root, &service);
        }
    }

    /// The service that has most of the root that has most.
    fn largest(&self) -> Option<(Arc<str>, Arc<str>)> {
        let (root, of) = self.roots.iter().max_by_key(|(_, of)| of.bytes)?;
        let is_mark = |service: &Arc<str>| service.is_empty() && !root.is_empty();
        let service = of.by_bytes.iter().rev().map(|(_, service)| service).find(|service| !is_mark(service));
        let service = service.or_else(|| of.by_bytes.get_max().map(|(_, service)| service))?;
        Some((root.clone(), service.clone()))
    }

    /// Drops the oldest eighth of a service's entries. One entry replaces them with their number; and one of the root, those
    /// of all services of which nothing is left.
    fn drop_oldest(&mut self, root: &Arc<str>, service: &Arc<str>) {
        let count = self.of(root, service).map_or(0, |of| of.numbers.len());
        let (mut dropped, mut last) = (0, None);
        // The replacement entry of earlier drops goes with the next.
        for _ in 0..count.div_ceil(8).max(2).min(count) {
            let Some(oldest) = self.pop_oldest(root, service) else { break };
            dropped += oldest.count.max(1);
            last = Some(oldest);
        }
        let (Some(last), is_left) = (last, self.of(root, service).is_some()) else { return };
        let Entry { number, time, revision, .. } = *last;
        let mark = |service: &str, why: &str, count| {
            let (service, root, why) = (service.to_owned(), last.root.clone(), why.to_owned());
            Entry { number, time, revision, event: Event::Omitted, service, root, why, count, ..Entry::default() }
        };
        if is_left {
            self.insert(mark(service, TOO_OLD, dropped));
        } else if !service.is_empty() {
            let before = self.pop_oldest(root, &"".into()).map_or(0, |before| before.count);
            self.insert(mark("", NOTHING_LEFT, before + dropped));
        }
    }

    fn of(&self, root: &Arc<str>, service: &Arc<str>) -> Option<&OfService> {
        self.roots.get(root)?.services.get(service)
    }

    fn insert(&mut self, entry: Entry) {
        let (number, bytes) = (entry.number, entry.line().len());
        let root = known(&self.roots, root_of(&entry));
        let of_root = self.roots.entry(root).or_default();
        let service = known(&of_root.services, &entry.service);
        let of = of_root.services.entry(service.clone()).or_default();
        of_root.by_bytes.remove(&(of.bytes, service.clone()));
        of.numbers.insert(number);
        (of.bytes, of_root.bytes, self.bytes) = (of.bytes + bytes, of_root.bytes + bytes, self.bytes + bytes);
        of_root.by_bytes.insert((of.bytes, service.clone()));
        self.of_services.insert((service, number));
        self.entries.insert(number, Stored { entry: Arc::new(entry), bytes });
    }

    fn pop_oldest(&mut self, root: &Arc<str>, service: &Arc<str>) -> Option<Arc<Entry>> {
        let of_root = self.roots.get_mut(root)?;
        let of = of_root.services.get_mut(service)?;
        let number = of.numbers.remove_min()?;
        let Stored { entry, bytes } = self.entries.remove(&number)?;
        self.of_services.remove(&(service.clone(), number));
        of_root.by_bytes.remove(&(of.bytes, service.clone()));
        (of.bytes, of_root.bytes, self.bytes) = (of.bytes - bytes, of_root.bytes - bytes, self.bytes - bytes);
        if of.numbers.is_empty() {
            of_root.services.remove(service);
        } else {
            of_root.by_bytes.insert((of.bytes, service.clone()));
        }
        if of_root.services.is_empty() {
            self.roots.remove(root);
        }
        Some(entry)
    }
}

/// Whose an entry is: a root's, or the masters', or (empty) the sidecar's own.
fn root_of(entry: &Entry) -> &str {
    match (&*entry.root, &*entry.service) {
        ("", "") => "",
        ("", _) => MASTERS,
        (root, _) => root,
    }
}

/// A name as a map has it already, or a new one.
fn known<T>(names: &OrdMap<Arc<str>, T>, name: &str) -> Arc<str> {
    names.get_key_value(name).map_or_else(|| name.into(), |(known, _)| known.clone())
}
