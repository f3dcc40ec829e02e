//! The journal: which things changed in the newest revisions, for followers.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::hash::Hash;

use imbl::Vector;

use crate::model::{ChangeKind, Revision};

/// The newest changes of one kind of thing, oldest first. A clone shares them with the original.
#[derive(Clone, Debug)]
pub(super) struct Journal<K> {
    entries: Vector<(Revision, K, ChangeKind)>,
    /// Every change after this revision is in the journal.
    since: Revision,
    /// A revision of an earlier process, and this process's revision with the same state.
    continues: Option<(Revision, Revision)>,
    max_entries: usize,
}

/// How many changes to search at most for one answer, since the caller waits for the search.
const MAX_SEEN: usize = 16_384;

/// The size limit of an answer.
#[derive(Clone, Copy, Debug)]
pub struct PageLimit {
    pub changes: usize,
    pub bytes: usize,
}

/// What changed since a revision.
#[derive(Debug, PartialEq, Eq)]
pub enum ChangesSince<Changed> {
    /// They are no longer known, or too many.
    Unknown,
    /// The changes up to and including the revision `upto`, each thing once.
    Known { changes: Vec<Changed>, upto: Revision },
}

impl<Changed> ChangesSince<Changed> {
    pub(super) fn map<Other>(self, to: impl FnMut(Changed) -> Other) -> ChangesSince<Other> {
        match self {
            ChangesSince::Unknown => ChangesSince::Unknown,
            ChangesSince::Known { changes, upto } => {
                ChangesSince::Known { changes: changes.into_iter().map(to).collect(), upto }
            }
        }
    }
}

impl<K: Clone + Eq + Hash> Journal<K> {
    pub(super) fn new(since: Revision, max_entries: usize) -> Self {
        Self { entries: Vector::new(), since, continues: None, max_entries }
    }

    /// An empty journal from the revision `since` on, which may be the same state as one of an earlier process.
    pub(super) fn continuing(self, earlier: Option<Revision>, since: Revision) -> Self {
        Self { since, continues: earlier.map(|earlier| (earlier, since)), ..self }
    }

    pub(super) fn remember(&mut self, revision: Revision, told: &[(K, ChangeKind)]) {
        if told.len() > self.max_entries {
            self.entries.clear();
            self.since = revision;
            return;
        }
        self.entries.extend(told.iter().map(|(key, kind)| (revision, key.clone(), *kind)));
        while self.entries.len() > self.max_entries {
            if let Some((oldest, ..)) = self.entries.pop_front() {
                self.since = oldest;
            }
        }
    }

    /// What changed after `since` and until `now`, of the things for which `size` returns a size: as many whole
    /// revisions as have room. Each comes with the kind of its first change.
    pub(super) fn since(
        &self,
        since: Revision,
        now: Revision,
        limit: PageLimit,
        size: impl Fn(&K) -> Option<usize>,
    ) -> ChangesSince<(K, ChangeKind)> {
        let since = self.continues.filter(|(earlier, _)| *earlier == since).map_or(since, |(_, same)| same);
        if since < self.since || since > now {
            return ChangesSince::Unknown;
        }
        let newer = self.after(since);
        let mut newer = newer.iter().peekable();
        let (mut changes, mut seen) = (Vec::new(), HashSet::new());
        let (mut upto, mut bytes, mut looked) = (since, 0, 0);
        while let Some(revision) = newer.peek().map(|(revision, ..)| *revision) {
            let whole = changes.len();
            while let Some((_, key, kind)) = newer.next_if(|(of, ..)| *of == revision) {
                looked += 1;
                if let Some(size) = size(key)
                    && seen.insert(key)
                {
                    bytes += size;
                    changes.push((key.clone(), *kind));
                }
            }
            if bytes > limit.bytes && whole == 0 {
                return ChangesSince::Unknown;
            }
            if bytes > limit.bytes || changes.len() > limit.changes && whole > 0 {
                changes.truncate(whole);
                return ChangesSince::Known { changes, upto };
            }
            upto = revision;
            if looked >= MAX_SEEN && newer.peek().is_some() {
                return ChangesSince::Known { changes, upto };
            }
        }
        ChangesSince::Known { changes, upto: now }
    }

    fn after(&self, since: Revision) -> Vector<(Revision, K, ChangeKind)> {
        let newer = |(revision, ..): &(Revision, K, ChangeKind)| {
            if *revision > since { Ordering::Greater } else { Ordering::Less }
        };
        let (Ok(at) | Err(at)) = self.entries.binary_search_by(newer);
        self.entries.skip(at)
    }
}
