//! Ledger: how much the nodes below each root of each feed register, and the limits.

use std::ops::{AddAssign, SubAssign};

use imbl::OrdMap;

use crate::model::Instance;
use crate::share;

/// How much the nodes of one feed may register, below all its roots. Each limit applies separately to what nodes
/// register themselves and to what others add, so that no mapping takes the room of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceLimits {
    pub instances: usize,
    /// Of metadata, as MessagePack, and endpoints.
    pub bytes: usize,
}

/// How much is registered, or has room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Charge {
    /// What nodes register themselves.
    pub(super) instances: usize,
    pub(super) bytes: usize,
    /// What rules add to it.
    pub(super) by_rules: usize,
    /// Instances of interfaces that an application offers, which share everything but the name.
    pub(super) of_interfaces: usize,
}

/// A root, or several with the same writers: the number of its feed, and its rank.
pub(super) type Root = (usize, usize);

/// How much the nodes below each root register. A clone shares as much as possible with the original.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger(OrdMap<Root, Charge>);

impl Charge {
    /// The charge of an instance with this many bytes set by rules.
    pub(super) fn of(instance: &Instance, by_rules: usize) -> Self {
        let texts = |it: &crate::model::Endpoint| it.name.len() + it.protocol.len() + it.host.len();
        let endpoints = instance.endpoints.iter().map(|it| size_of_val(it) + texts(it)).sum::<usize>();
        let bytes = (endpoints + instance.metadata.packed_bytes()).saturating_sub(by_rules);
        Self { instances: 1, bytes, by_rules, of_interfaces: 0 }
    }

    fn parts(self) -> [usize; 4] {
        [self.instances, self.bytes, self.by_rules, self.of_interfaces]
    }

    pub(super) fn fits_into(self, room: Self) -> bool {
        self.parts().iter().zip(room.parts()).all(|(part, room)| *part <= room)
    }

    /// Whether it is less in any respect.
    pub(super) fn has_shrunk_from(self, before: Self) -> bool {
        self.parts().iter().zip(before.parts()).any(|(now, before)| *now < before)
    }
}

impl AddAssign for Charge {
    fn add_assign(&mut self, other: Self) {
        self.instances += other.instances;
        self.bytes += other.bytes;
        self.by_rules += other.by_rules;
        self.of_interfaces += other.of_interfaces;
    }
}

impl SubAssign for Charge {
    fn sub_assign(&mut self, other: Self) {
        self.instances -= other.instances;
        self.bytes -= other.bytes;
        self.by_rules -= other.by_rules;
        self.of_interfaces -= other.of_interfaces;
    }
}

impl Ledger {
    /// How much more there is room for below one of this many roots of a feed.
    pub(super) fn room(&self, root: Root, roots: usize, limits: InstanceLimits) -> Charge {
        let own = self.0.get(&root).copied().unwrap_or_default();
        let all: Vec<Charge> = self.of(root.0).map(|(_, charge)| *charge).collect();
        let left = |most: usize, part: fn(&Charge) -> usize| share::room(most, roots, part(&own), all.iter().map(part));
        Charge {
            instances: left(limits.instances, |it| it.instances),
            bytes: left(limits.bytes, |it| it.bytes),
            by_rules: left(limits.bytes, |it| it.by_rules),
            of_interfaces: left(limits.instances, |it| it.of_interfaces),
        }
    }

    /// Whether some root of a feed takes less than before, in any respect.
    pub(super) fn has_shrunk_from(&self, before: &Self, feed: usize) -> bool {
        let has_shrunk = |(root, was): (&Root, &Charge)| self.0.get(root).is_some_and(|now| now.has_shrunk_from(*was));
        before.of(feed).any(has_shrunk)
    }

    pub(super) fn charge(&mut self, root: Root, charge: Charge) {
        *self.0.entry(root).or_default() += charge;
    }

    pub(super) fn release(&mut self, root: Root, charge: Charge) {
        if let Some(used) = self.0.get_mut(&root) {
            *used -= charge;
        }
    }

    fn of(&self, feed: usize) -> impl Iterator<Item = (&Root, &Charge)> {
        self.0.range((feed, 0)..=(feed, usize::MAX))
    }
}
