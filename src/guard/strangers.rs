//! Who left which address, and who came to one that others had left.

use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;

use super::{Now, TargetKey, at};
use crate::clock::Moment;

/// Of how many strangers at one address is remembered: one is enough, and each costs whatever is held there.
const MAX_STRANGERS: usize = 16;

/// The instances that left an address, and the strangers: those that came to such an address, and were not there
/// before. A clone shares as much as possible with the original.
#[derive(Clone, Debug, Default)]
pub(super) struct Strangers {
    left: OrdMap<TargetKey, Moment>,
    strangers: OrdMap<TargetKey, Stranger>,
    /// How many may be remembered.
    most: usize,
    /// When those that no longer matter were last removed.
    swept: Option<Moment>,
}

#[derive(Clone, Copy, Debug)]
struct Stranger {
    /// When it came for the first time.
    came: Moment,
    /// Since when it is there; None: it left.
    since: Option<Moment>,
}

impl Strangers {
    pub(super) fn new(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    /// Whether nothing is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there are, or were, strangers at an address.
    pub(super) fn are_at(&self, address: &Arc<str>) -> bool {
        has(&self.strangers, address)
    }

    /// An instance left its address.
    pub(super) fn leave(&mut self, instance: TargetKey, now: Now) {
        if let Some(stranger) = self.strangers.get_mut(&instance) {
            stranger.since = None;
        } else if self.len() < self.most {
            self.left.insert(instance, now.moment);
            self.swept.get_or_insert(now.moment);
        }
    }

    /// An instance came to its address, where others are held or not. It is a stranger if others left the address, but
    /// it never did.
    pub(super) fn come(&mut self, instance: TargetKey, now: Now, is_held: bool) {
        let address = &instance.0;
        if let Some(stranger) = self.strangers.get_mut(&instance) {
            stranger.since = Some(now.moment);
        } else if !self.left.contains_key(&instance)
            && (is_held || has(&self.left, address))
            && at(&self.strangers, address).nth(MAX_STRANGERS - 1).is_none()
            && self.len() < self.most
        {
            self.strangers.insert(instance, Stranger { came: now.moment, since: Some(now.moment) });
            self.swept.get_or_insert(now.moment);
        }
    }

    /// Since when there are strangers to an instance of a service that vanished from an address; `vanished_at` is None
    /// if that was in an earlier process. A service that was at the address is a stranger to none but its own there.
    pub(super) fn since(&self, address: &Arc<str>, service: &Arc<str>, vanished_at: Option<Moment>) -> Option<Moment> {
        let was_there = |other: &Arc<str>| {
            let first = self.left.range((address.clone(), other.clone(), "".into())..).next();
            first.is_some_and(|((at, of, _), _)| at == address && of == other)
        };
        let to_it = at(&self.strangers, address).filter(|((_, other, _), it)| {
            vanished_at.is_none_or(|vanished| it.came >= vanished) && (other == service || !was_there(other))
        });
        to_it.filter_map(|(_, stranger)| stranger.since).min()
    }

    pub(super) fn is_due(&self, now: Now, window: Duration) -> bool {
        self.swept.is_some_and(|swept| now.moment.since(swept) >= window)
    }

    /// Forgets what left before the window, and the strangers there, except where an instance is held.
    pub(super) fn sweep(&mut self, now: Now, window: Duration, is_held: impl Fn(&Arc<str>) -> bool) {
        let is_old = |(key, left): &(&TargetKey, &Moment)| now.moment.since(**left) >= window && !is_held(&key.0);
        let old: Vec<TargetKey> = self.left.iter().filter(is_old).map(|(key, _)| key.clone()).collect();
        for key in &old {
            self.left.remove(key);
        }
        let is_over = |key: &&TargetKey| !is_held(&key.0) && !has(&self.left, &key.0);
        let over: Vec<TargetKey> = self.strangers.keys().filter(is_over).cloned().collect();
        for key in &over {
            self.strangers.remove(key);
        }
        self.swept = (!self.is_empty()).then_some(now.moment);
    }

    pub(super) fn len(&self) -> usize {
        self.left.len() + self.strangers.len()
    }
}

fn has<T>(all: &OrdMap<TargetKey, T>, address: &Arc<str>) -> bool {
    at(all, address).next().is_some()
}
