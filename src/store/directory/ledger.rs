//! Ledger: how much the nodes of each feed register, and the limits.

use std::ops::{AddAssign, SubAssign};

use crate::model::Instance;
use crate::tunnel::value::memory_size;

/// How much the nodes of one feed may register. Each limit applies separately to what nodes register themselves and to
/// what others add, so that no mapping takes the room of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceLimits {
    pub instances: usize,
    /// Of metadata and endpoints, decoded.
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

/// How much the nodes of each feed register, by feed number.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger(Vec<Charge>);

impl Charge {
    /// The charge of an instance with this many bytes set by rules.
    pub(super) fn of(instance: &Instance, by_rules: usize) -> Self {
        let texts = |it: &crate::model::Endpoint| it.name.len() + it.protocol.len() + it.host.len();
        let endpoints = instance.endpoints.iter().map(|it| size_of_val(it) + texts(it)).sum::<usize>();
        let bytes = (endpoints + memory_size(&instance.metadata)).saturating_sub(by_rules);
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
    pub(super) fn of(&self, feed: usize) -> Charge {
        self.0.get(feed).copied().unwrap_or_default()
    }

    /// How much more there is room for.
    pub(super) fn room(&self, feed: usize, limits: InstanceLimits) -> Charge {
        let used = self.of(feed);
        Charge {
            instances: limits.instances.saturating_sub(used.instances),
            bytes: limits.bytes.saturating_sub(used.bytes),
            by_rules: limits.bytes.saturating_sub(used.by_rules),
            of_interfaces: limits.instances.saturating_sub(used.of_interfaces),
        }
    }

    pub(super) fn charge(&mut self, feed: usize, charge: Charge) {
        if self.0.len() <= feed {
            self.0.resize(feed + 1, Charge::default());
        }
        self.0[feed] += charge;
    }

    pub(super) fn release(&mut self, feed: usize, charge: Charge) {
        if let Some(used) = self.0.get_mut(feed) {
            *used -= charge;
        }
    }
}
