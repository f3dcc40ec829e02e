//! Room: how much is held and remembered of what was registered below each root, and how much more may be.

use std::collections::BTreeMap;
use std::ops::{AddAssign, SubAssign};
use std::sync::Arc;

use super::MAX_BYTES;
use crate::share;

#[derive(Clone, Debug, Default)]
pub(super) struct Room {
    /// How many roots share it.
    roots: usize,
    /// By the rank of a root.
    taken: BTreeMap<usize, Taken>,
    /// What there was no room to hold: the ranks of the roots, and the ids.
    pub(super) refused: Vec<(usize, Arc<str>)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Taken {
    pub(super) held: usize,
    /// What is remembered without being held.
    pub(super) departed: usize,
    /// What came within the window, and what of the held vanished within it.
    pub(super) new: usize,
    pub(super) lately: usize,
    /// About how many bytes that takes.
    pub(super) bytes: usize,
}

impl AddAssign for Taken {
    fn add_assign(&mut self, other: Self) {
        self.held += other.held;
        self.departed += other.departed;
        self.new += other.new;
        self.lately += other.lately;
        self.bytes += other.bytes;
    }
}

impl SubAssign for Taken {
    fn sub_assign(&mut self, other: Self) {
        self.held -= other.held;
        self.departed -= other.departed;
        self.new -= other.new;
        self.lately -= other.lately;
        self.bytes -= other.bytes;
    }
}

impl Room {
    pub(super) fn shared_by(roots: usize) -> Self {
        Self { roots, ..Self::default() }
    }

    /// What is taken by all.
    pub(super) fn taken(&self) -> Taken {
        let mut all = Taken::default();
        self.taken.values().for_each(|taken| all += *taken);
        all
    }

    /// What is taken by a root, to be looked at,
    pub(super) fn at(&self, root: usize) -> Taken {
        self.taken.get(&root).copied().unwrap_or_default()
    }

    /// and to be changed.
    pub(super) fn of(&mut self, root: usize) -> &mut Taken {
        self.taken.entry(root).or_default()
    }

    /// Notes that there was no room to hold these of a root.
    pub(super) fn refuse(&mut self, root: usize, ids: impl Iterator<Item = Arc<str>>) {
        self.refused.extend(ids.map(|id| (root, id)));
    }

    /// How many more of a root may be held, of the number that may be held in all.
    pub(super) fn for_held(&self, root: usize, most: usize) -> usize {
        self.left(root, most, |it| it.held)
    }

    /// The same for remembering without holding.
    pub(super) fn for_departed(&self, root: usize, most: usize) -> usize {
        self.left(root, most, |it| it.departed)
    }

    fn left(&self, root: usize, most: usize, part: fn(&Taken) -> usize) -> usize {
        let own = self.at(root);
        let room =
            |most, part: fn(&Taken) -> usize| share::room(most, self.roots, part(&own), self.taken.values().map(part));
        if room(MAX_BYTES, |it| it.bytes) > 0 { room(most, part) } else { 0 }
    }
}
