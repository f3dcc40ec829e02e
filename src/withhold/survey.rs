//! A survey: how many of the instances of a service are ejected, looked through once for all that is asked of it.

use std::collections::HashMap;

use semver::Version;

use crate::model::Instance;
use crate::store::{Directory, Provider, key_hash};

/// Those of a version and a group that have a weight.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peers {
    pub(super) all: usize,
    pub(super) ejected: usize,
    /// Those that are chosen among.
    callable: usize,
}

/// By version and group.
type Kind<'d> = (&'d Version, &'d str);

#[derive(Debug)]
pub(super) struct Survey<'d> {
    kinds: HashMap<Kind<'d>, Peers>,
    /// By the hash of the address, those that are asked for.
    found: HashMap<u64, Vec<Found<'d>>>,
}

#[derive(Debug)]
struct Found<'d> {
    kind: Kind<'d>,
    has_weight: bool,
    is_ejected: bool,
    is_callable: bool,
}

impl<'d> Survey<'d> {
    pub(super) fn of(directory: &'d Directory, service: &str, is_asked_for: impl Fn(&Provider) -> bool) -> Self {
        let mut survey = Self { kinds: HashMap::new(), found: HashMap::new() };
        let sets = directory.instances_of(service).into_iter().flat_map(|it| it.iter());
        for (version, provider) in sets.flat_map(|(version, set)| set.unordered().map(move |it| (version, it))) {
            #[cfg(test)]
            LOOKS.set(LOOKS.get() + 1);
            let Some(instance) = provider.instances.first() else { continue };
            let (kind, has_weight) = ((version, &*instance.group), provider.weight > 0);
            let is_ejected = instance.withheld.ejected.is_some();
            let is_callable = has_weight && !instance.withheld.is_withheld() && is_there(directory, instance);
            let peers = survey.kinds.entry(kind).or_default();
            peers.all += usize::from(has_weight);
            peers.ejected += usize::from(has_weight && is_ejected);
            peers.callable += usize::from(is_callable);
            if is_asked_for(provider) {
                let found = Found { kind, has_weight, is_ejected, is_callable };
                survey.found.entry(provider.address_hash).or_default().push(found);
            }
        }
        survey
    }

    /// Of each instance at an address that was asked for, those of its kind, and how many others of them can be called.
    pub(super) fn peers(&self, address: &str) -> impl Iterator<Item = (Peers, usize)> {
        let found = self.found.get(&key_hash(address)).into_iter().flatten();
        found.filter_map(|found| {
            let peers = *self.kinds.get(&found.kind)?;
            Some((peers, peers.callable - usize::from(found.is_callable)))
        })
    }

    /// Takes in that those at an address are ejected, or no longer.
    pub(super) fn set(&mut self, address: &str, is_ejected: bool) {
        for found in self.found.get_mut(&key_hash(address)).into_iter().flatten() {
            let Some(peers) = self.kinds.get_mut(&found.kind) else { continue };
            match (found.is_ejected, is_ejected) {
                (false, true) => peers.ejected += usize::from(found.has_weight),
                (true, false) => peers.ejected -= usize::from(found.has_weight),
                _ => {}
            }
            found.is_ejected = is_ejected;
            if is_ejected {
                peers.callable -= usize::from(std::mem::take(&mut found.is_callable));
            }
        }
    }
}

/// Whether it can be called, if it is a master.
fn is_there(directory: &Directory, instance: &Instance) -> bool {
    instance.master().is_none_or(|id| directory.master(id).is_some_and(|master| master.is_connected()))
}

#[cfg(test)]
thread_local! {
    /// How many instances this thread has looked at.
    pub(super) static LOOKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}
