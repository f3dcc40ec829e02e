//! Claims: which nodes register an address of a service, and what is listed of it.
//!
//! Several nodes may register one address: in several formats, or twice in one. The richest of those by which it can be
//! called is the instance, and all of them are its provenance.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use semver::Version;

use crate::model::{Instance, InstanceState, NodePath, Provenance};
use crate::store::instances::{NODE_MARK, Provider};

/// So many nodes make one instance.
const MAX_CLAIMS: usize = 64;

/// So many variants of an address also say which applications offer them.
const MAX_VARIANTS: usize = 256;

/// The paths of the nodes that make one instance have at most so many bytes, but for the first.
const MAX_PROVENANCE_BYTES: usize = 64 << 10;

#[derive(Clone, Debug, Default)]
pub(super) struct Claims(OrdMap<ClaimKey, Claim>);

/// An address of a service, and the node that registers it. Of one variant at an address, those by which it can be called
/// come first, and of these the newest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClaimKey {
    pub(super) service: Arc<str>,
    pub(super) address: Arc<str>,
    /// What tells it from others at the address; None: it does not know, as an application that offers an interface.
    pub(super) variant: Option<Arc<str>>,
    pub(super) is_idle: bool,
    pub(super) created: Reverse<i64>,
    pub(super) node: NodePath,
}

#[derive(Clone, Debug)]
pub(super) struct Claim {
    /// One, with its node as its provenance.
    pub(super) instances: Arc<[Instance]>,
}

/// What is listed of one variant at an address.
pub(super) type Listed = (Version, Provider);

impl ClaimKey {
    /// The first that there could be of its variant.
    pub(super) fn slot(&self) -> Self {
        Self { is_idle: false, created: Reverse(i64::MAX), node: NodePath::root(), ..self.clone() }
    }

    fn of_variant(&self, variant: Option<Arc<str>>) -> Self {
        Self { variant, ..self.slot() }
    }

    fn is_at(&self, other: &Self) -> bool {
        self.service == other.service && self.address == other.address
    }
}

impl Claim {
    /// Whether nobody is to call the instance.
    pub(super) fn is_idle(instance: &Instance) -> bool {
        instance.state != InstanceState::Up || instance.weight == 0
    }
}

impl Claims {
    pub(super) fn get(&self, key: &ClaimKey) -> Option<&Claim> {
        self.0.get(key)
    }

    pub(super) fn insert(&mut self, key: ClaimKey, claim: Claim) {
        self.0.insert(key, claim);
    }

    pub(super) fn remove(&mut self, key: &ClaimKey) {
        self.0.remove(key);
    }

    /// These slots, and those of which another thing is listed with theirs.
    pub(super) fn affected(&self, slots: BTreeSet<ClaimKey>) -> BTreeSet<ClaimKey> {
        let mut affected = slots.clone();
        for slot in &slots {
            match slot.variant {
                Some(_) => drop(affected.insert(slot.of_variant(None))),
                None => affected.extend(self.variants(slot).take(MAX_VARIANTS)),
            }
        }
        affected
    }

    /// What is to be listed of a slot. What knows of no variant is listed where there is none.
    pub(super) fn listed(&self, slot: &ClaimKey) -> Option<Listed> {
        if slot.variant.is_none() && self.variants(slot).next().is_some() {
            return None;
        }
        let claims: Vec<_> = self.of(slot).collect();
        let others: Vec<_> = match slot.variant {
            Some(_) => self.of(&slot.of_variant(None)).collect(),
            None => Vec::new(),
        };
        let instances = merged(&claims, &others)?;
        let id = format!("{NODE_MARK}{}{}", slot.address, slot.variant.as_deref().unwrap_or_default()).into();
        Some((instances.first()?.version.clone(), Provider::new(id, instances)))
    }

    /// The first claims of a slot.
    fn of(&self, slot: &ClaimKey) -> impl Iterator<Item = &Claim> {
        let from = self.0.range(slot.clone()..);
        let alike = from.take_while(|(key, _)| key.is_at(slot) && key.variant == slot.variant);
        alike.map(|(_, claim)| claim).take(MAX_CLAIMS)
    }

    /// The slots of the variants at the address of a slot.
    fn variants(&self, slot: &ClaimKey) -> impl Iterator<Item = ClaimKey> {
        let mut after: Arc<str> = "".into();
        std::iter::from_fn(move || {
            let (key, _) = self.0.range(slot.of_variant(Some(after.clone()))..).next()?;
            let variant = key.variant.as_ref().filter(|_| key.is_at(slot))?;
            // None has a control character.
            after = format!("{variant}\0").into();
            Some(key.slot())
        })
    }
}

/// The richest of the claims by which it can be called, with all of them and of the others as its provenance.
fn merged(claims: &[&Claim], others: &[&Claim]) -> Option<Arc<[Instance]>> {
    let richness = |claim: &&&Claim| {
        claim.instances.first().map(|it| {
            let entries = it.metadata.as_map().map_or(0, Vec::len);
            (!Claim::is_idle(it), it.state == InstanceState::Up, it.endpoints.len() + entries)
        })
    };
    // The first of several.
    let richest = claims.iter().rev().max_by_key(richness)?;
    let rest: Vec<_> = claims.iter().filter(|claim| !std::ptr::eq(**claim, *richest)).chain(others).collect();
    if rest.is_empty() {
        return Some(richest.instances.clone());
    }
    let instance = richest.instances.first()?;
    let provenance = rest.iter().flat_map(|claim| claim.instances.iter()).flat_map(|it| it.provenance.iter());
    let mut bytes = 0;
    let has_room = |it: &&Provenance| {
        bytes += it.record.bytes();
        bytes <= MAX_PROVENANCE_BYTES
    };
    let rest = provenance.take(MAX_CLAIMS - 1).take_while(has_room);
    let provenance = instance.provenance.iter().chain(rest).cloned().collect();
    Some([Instance { provenance, ..instance.clone() }].into())
}
