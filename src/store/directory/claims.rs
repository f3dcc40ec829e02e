//! Claims: which nodes register an address of a service, and which instance is listed for it.
//!
//! An address is here that of an endpoint: protocol, host and port. Several nodes may register one: in several formats,
//! or twice in one. The richest of those that are callable, and lie below the root that is configured first, is the
//! instance, and all of them are its provenance.
//!
//! An application that offers an interface is listed for it only where it is not known as a variant: at the same
//! address, or on the same host as the same application, where that is another protocol. It makes no difference whether
//! that variant is registered or [held](super::shadows).

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeSet;
use std::ops::{Bound, RangeInclusive};
use std::sync::Arc;

use equivalent::{Comparable, Equivalent};
use imbl::{OrdMap, OrdSet};
use semver::Version;

use super::shadows::Shadows;
use crate::guard::{Rank, Vanished, mark};
use crate::model::{Decoder, Endpoint, Format, Instance, InstanceState, NodePath, Provenance};
use crate::store::instances::{NODE_MARK, Provider};

/// How many nodes make up one instance at most.
const MAX_CLAIMS: usize = 64;

/// How many variants of an address also name the applications that offer them.
const MAX_VARIANTS: usize = 256;

/// The most bytes of paths of the nodes that make up one instance, besides the first.
const MAX_PROVENANCE_BYTES: usize = 64 << 10;

#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    by_key: OrdMap<ClaimKey, Claim>,
    /// The nodes that say which variant an application offers, by service, place and rank.
    variants: OrdSet<(Arc<str>, Arc<str>, Rank, NodePath)>,
    offers: OrdSet<Offer>,
    shadows: Shadows,
    /// How many variants there are below each root at each address of a service with several claims, by the
    /// [mark](ClaimKey::mark) of these.
    counts: OrdMap<u64, u32>,
}

/// The service, the place, the address, and the node that says that an application offers it there, without a variant.
type Offer = (Arc<str>, Arc<str>, Arc<str>, NodePath);

/// An address of a service, and the node that registers it. Within one variant at an address, those below the root that
/// is configured first come first; of these the callable ones, and of these the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClaimKey {
    pub(super) service: Arc<str>,
    pub(super) address: Arc<str>,
    /// Distinguishes it from others at the address; None: unknown, as for an application that offers an interface.
    pub(super) variant: Option<Arc<str>>,
    pub(super) rank: Rank,
    pub(super) is_idle: bool,
    pub(super) created: Reverse<i64>,
    pub(super) node: NodePath,
}

#[derive(Clone, Debug)]
pub(super) struct Claim {
    /// One, with its node as its provenance.
    pub(super) instances: Arc<[Instance]>,
    /// The host and the application, if known.
    pub(super) place: Option<Arc<str>>,
    /// As in its key.
    pub(super) rank: Rank,
}

/// The listing of one variant at an address.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) version: Version,
    pub(super) provider: Provider,
    /// That of the claim that decides what it is.
    pub(super) rank: Rank,
}

impl Listed {
    pub(super) fn of(slot: &ClaimKey, rank: Rank, instances: Arc<[Instance]>) -> Option<Self> {
        let id = id(&slot.address, slot.variant.as_deref().unwrap_or_default());
        let version = instances.first()?.version.clone();
        Some(Self { version, provider: Provider::new(id, instances), rank })
    }
}

impl ClaimKey {
    /// The lowest possible key of a variant at an address.
    pub(super) fn first(service: Arc<str>, address: Arc<str>, variant: Option<Arc<str>>) -> Self {
        let (rank, created, node) = (Rank::default(), Reverse(i64::MAX), NodePath::root());
        Self { service, address, variant, rank, is_idle: false, created, node }
    }

    /// The lowest possible key of its variant.
    pub(super) fn slot(&self) -> Self {
        self.of_variant(self.variant.clone())
    }

    fn of_variant(&self, variant: Option<Arc<str>>) -> Self {
        Self::first(self.service.clone(), self.address.clone(), variant)
    }

    /// The slot of the claims to its address without a variant.
    pub(super) fn unnamed(&self) -> Self {
        self.of_variant(None)
    }

    /// That of those of the variant without a name.
    fn nameless(&self) -> Self {
        self.of_variant(Some("".into()))
    }

    /// Stands for the service, the address and the root.
    fn mark(&self) -> u64 {
        mark((&self.service, &self.address, self.rank.root))
    }

    fn is_at(&self, other: &Self) -> bool {
        self.service == other.service && self.address == other.address
    }
}

/// An address of a service, before all claims to it.
struct Address<'k> {
    service: &'k Arc<str>,
    address: &'k str,
}

impl Comparable<ClaimKey> for Address<'_> {
    fn compare(&self, key: &ClaimKey) -> Ordering {
        compared(self.service, &key.service).then_with(|| self.address.cmp(&key.address)).then(Ordering::Less)
    }
}

impl Equivalent<ClaimKey> for Address<'_> {
    fn equivalent(&self, _: &ClaimKey) -> bool {
        false
    }
}

/// Most are of one service, whose name they share.
fn compared(service: &Arc<str>, other: &Arc<str>) -> Ordering {
    if Arc::ptr_eq(service, other) { Ordering::Equal } else { service.cmp(other) }
}

impl Ord for ClaimKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let rest = |key: &Self| (key.rank, key.is_idle, key.created);
        compared(&self.service, &other.service)
            .then_with(|| self.address.cmp(&other.address))
            .then_with(|| self.variant.cmp(&other.variant))
            .then_with(|| rest(self).cmp(&rest(other)))
            .then_with(|| self.node.cmp(&other.node))
    }
}

impl PartialOrd for ClaimKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Claim {
    /// Whether the instance is not to be called.
    pub(super) fn is_idle(instance: &Instance) -> bool {
        instance.state != InstanceState::Up || instance.weight == 0
    }

    fn is_idle_itself(&self) -> bool {
        self.instances.iter().any(Self::is_idle)
    }
}

impl Claims {
    pub(super) fn get(&self, key: &ClaimKey) -> Option<&Claim> {
        self.by_key.get(key)
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> impl Iterator<Item = &ClaimKey> {
        self.by_key.keys()
    }

    /// Whether what vanished has only changed: its address is registered in another variant of its rank; or, below its
    /// root or an earlier one, by an application, which takes the place of the variant without a name, and says of any
    /// that it is not to be called.
    pub(super) fn has_in_place_of(&self, service: &Arc<str>, address: &Arc<str>, variant: &str, rank: Rank) -> bool {
        let slot = ClaimKey::first(service.clone(), address.clone(), None);
        let heard = |claim: &Claim| claim.rank.root <= rank.root && (variant.is_empty() || claim.is_idle_itself());
        self.of(&slot).any(heard) || self.has_variants(&slot, rank.root..=rank.root)
    }

    /// Whether a new claim would be the only one to its address, and changes no other listing.
    pub(super) fn is_alone(&self, key: &ClaimKey, claim: &Claim) -> bool {
        if key.variant.is_none() || claim.place.is_some() && !self.offers.is_empty() {
            return false;
        }
        self.at(key).next().is_none()
    }

    /// The keys of the claims to the address of a key.
    fn at<'a>(&'a self, key: &ClaimKey) -> impl Iterator<Item = &'a ClaimKey> {
        let address = Address { service: &key.service, address: &key.address };
        let from = self.by_key.range::<_, Address<'_>>((Bound::Included(&address), Bound::Unbounded));
        from.map(|(found, _)| found).take_while(|found| found.is_at(key))
    }

    /// The key of the only claim to the address of a key.
    fn only_at<'a>(&'a self, key: &ClaimKey) -> Option<&'a ClaimKey> {
        let mut all = self.at(key);
        all.next().filter(|_| all.next().is_none())
    }

    pub(super) fn insert(&mut self, key: ClaimKey, claim: Claim) {
        self.remove(&key);
        if let Some(only) = self.only_at(&key).cloned() {
            self.count(&only, 1);
        }
        if self.at(&key).next().is_some() {
            self.count(&key, 1);
        }
        self.insert_alone(key, claim);
    }

    /// The same for the first one to its address.
    pub(super) fn insert_alone(&mut self, key: ClaimKey, claim: Claim) {
        let ClaimKey { service, address, variant, node, .. } = &key;
        match (claim.place.clone(), variant) {
            (Some(place), Some(_)) => drop(self.variants.insert((service.clone(), place, key.rank, node.clone()))),
            (Some(place), None) => drop(self.offers.insert((service.clone(), place, address.clone(), node.clone()))),
            (None, _) => {}
        }
        self.by_key.insert(key, claim);
    }

    pub(super) fn remove(&mut self, key: &ClaimKey) {
        let Some(Claim { place, .. }) = self.by_key.remove(key) else { return };
        if self.at(key).next().is_some() {
            self.count(key, -1);
        }
        if let Some(only) = self.only_at(key).cloned() {
            self.count(&only, -1);
        }
        let Some(place) = place else { return };
        let ClaimKey { service, address, node, .. } = key.clone();
        match key.variant {
            Some(_) => drop(self.variants.remove(&(service, place, key.rank, node))),
            None => drop(self.offers.remove(&(service, place, address, node))),
        }
    }

    /// One variant more is at an address with several claims; or one less.
    fn count(&mut self, key: &ClaimKey, more: i32) {
        if key.variant.is_none() {
            return;
        }
        let mark = key.mark();
        match self.counts.get(&mark).copied().unwrap_or(0).saturating_add_signed(more) {
            0 => self.counts.remove(&mark),
            count => self.counts.insert(mark, count),
        };
    }

    /// The slots whose listing may change with these claims, added or removed.
    pub(super) fn affected<'c>(&self, claims: impl Iterator<Item = (&'c ClaimKey, &'c Claim)>) -> BTreeSet<ClaimKey> {
        let mut affected = BTreeSet::new();
        for (key, claim) in claims {
            affected.insert(key.slot());
            let place = claim.place.as_ref().filter(|_| key.variant.is_some());
            affected.extend(self.applications_at(&key.service, &key.address, place));
            if key.variant.is_none() {
                affected.extend(self.variants_at(key).take(MAX_VARIANTS));
            }
        }
        affected
    }

    /// The slots of the applications whose listing may change with a variant at an address and a place. The variant
    /// without a name has the same id.
    fn applications_at<'a>(
        &'a self,
        service: &'a Arc<str>,
        address: &'a Arc<str>,
        place: Option<&'a Arc<str>>,
    ) -> impl Iterator<Item = ClaimKey> + 'a {
        let slots = |address: &Arc<str>| {
            [None, Some("".into())].map(|variant| ClaimKey::first(service.clone(), address.clone(), variant))
        };
        let here = slots(address).into_iter().filter(|slot| self.of(slot).next().is_some());
        let offers = place.into_iter().flat_map(move |place| {
            let from = (service.clone(), place.clone(), "".into(), NodePath::root());
            self.offers.range(from..).take_while(move |(of, at, ..)| of == service && at == place)
        });
        here.chain(offers.flat_map(move |(_, _, address, _)| slots(address)))
    }

    /// The slots whose listing may change with what is held.
    pub(super) fn affected_by_hold(&self, service: &Arc<str>, vanished: &Vanished) -> BTreeSet<ClaimKey> {
        let Some((address, place)) = Shadows::cast_by(vanished) else { return BTreeSet::new() };
        self.applications_at(service, &address, place.as_ref()).collect()
    }

    /// Takes in that something is held, or no longer.
    pub(super) fn hold(&mut self, service: &Arc<str>, vanished: &Vanished, is_held: bool) {
        self.shadows.set(service, vanished, is_held);
    }

    /// The ids of what is held at the address of an application that says there that it is not to be called, below its
    /// root or a later one.
    pub(super) fn ended_by(&self, service: &Arc<str>, listed: &Listed) -> Vec<Arc<str>> {
        let Some(instance) = listed.provider.instances.first().filter(|it| Claim::is_idle(it)) else {
            return Vec::new();
        };
        let address = instance.endpoints.first().filter(|_| listed.rank.is_application).map(Endpoint::address);
        address.map(|address| self.shadows.from(service, &address.into(), listed.rank.root)).unwrap_or_default()
    }

    /// The listing of a slot. A claim without a variant is only listed if there is no variant below its root or an earlier
    /// one. The variant without a name, which has the same id, then yields to it.
    pub(super) fn listed(&self, slot: &ClaimKey) -> Option<Listed> {
        if slot.variant.is_none() {
            return self.unnamed(slot);
        }
        let claims: Vec<_> = self.of(slot).collect();
        let unnamed = slot.unnamed();
        let others: Vec<_> = self.of(&unnamed).collect();
        let is_nameless = slot.variant.as_deref() == Some("");
        if is_nameless && !claims.is_empty() && !others.is_empty() && self.unnamed(&unnamed).is_some() {
            return None;
        }
        let (instances, rank) = merged(&claims, &others)?;
        Listed::of(slot, rank, instances)
    }

    fn unnamed(&self, slot: &ClaimKey) -> Option<Listed> {
        let claims: Vec<_> = self.of(slot).filter(|claim| !self.is_known_as_variant(slot, claim)).collect();
        let others: Vec<_> = self.of(&slot.nameless()).collect();
        let (instances, rank) = merged(&claims, &others)?;
        Listed::of(slot, rank, instances)
    }

    /// Whether what an application offers is registered or held as a variant, below the root of the claim or an earlier
    /// one.
    fn is_known_as_variant(&self, slot: &ClaimKey, claim: &Claim) -> bool {
        let Claim { rank, place, .. } = claim;
        let (is_idle, own) = (claim.is_idle_itself(), id(&slot.address, ""));
        let is_held = |spot: &Arc<str>| self.shadows.hide(&slot.service, spot, *rank, is_idle, &own);
        place.as_ref().is_some_and(|place| self.has_variant(slot, place, *rank) || is_held(place))
            || self.has_variants(slot, 0..=rank.root)
            || is_held(&slot.address)
    }

    /// Whether a node below one of these roots registers a variant at the address of a slot.
    fn has_variants(&self, slot: &ClaimKey, mut roots: RangeInclusive<usize>) -> bool {
        let mark = |root| ClaimKey { rank: Rank::of_root(root), ..slot.clone() }.mark();
        match self.only_at(slot) {
            Some(only) => only.variant.is_some() && roots.contains(&only.rank.root),
            None => roots.any(|root| self.counts.contains_key(&mark(root))),
        }
    }

    /// Whether a node of this rank or an earlier one says which variant of the service is at a place.
    fn has_variant(&self, slot: &ClaimKey, place: &Arc<str>, rank: Rank) -> bool {
        let from = (slot.service.clone(), place.clone(), Rank::default(), NodePath::root());
        let first = self.variants.range(from..).next();
        first.is_some_and(|(of, at, lowest, _)| *of == slot.service && at == place && *lowest <= rank)
    }

    /// The first claims of a slot.
    fn of(&self, slot: &ClaimKey) -> impl Iterator<Item = &Claim> {
        let from = self.by_key.range(slot.clone()..);
        let alike = from.take_while(|(key, _)| key.is_at(slot) && key.variant == slot.variant);
        alike.map(|(_, claim)| claim).take(MAX_CLAIMS)
    }

    /// The slots of the variants at the address of a slot.
    fn variants_at(&self, slot: &ClaimKey) -> impl Iterator<Item = ClaimKey> {
        let mut after: Arc<str> = "".into();
        std::iter::from_fn(move || {
            let (key, _) = self.by_key.range(slot.of_variant(Some(after.clone()))..).next()?;
            let variant = key.variant.as_ref().filter(|_| key.is_at(slot))?;
            // No variant contains a control character.
            after = format!("{variant}\0").into();
            Some(key.slot())
        })
    }
}

/// Where a provider of Dubbo is, as far as known.
pub(super) fn place_of(instance: &Instance) -> Option<Arc<str>> {
    let is_of_dubbo = |it: &Provenance| matches!(it.decoder, Decoder::Format(Format::Dubbo));
    if !instance.provenance.iter().any(is_of_dubbo) {
        return None;
    }
    place(instance.endpoints.first(), instance.metadata.text("application"))
}

/// Where an application offers something: its host.
pub(super) fn place(endpoint: Option<&Endpoint>, application: Option<&str>) -> Option<Arc<str>> {
    Some([&endpoint?.host, "\0", application?].concat().into())
}

/// What distinguishes a variant at an address from other providers.
pub(super) fn id(address: &str, variant: &str) -> Arc<str> {
    [NODE_MARK.encode_utf8(&mut [0; 4]), address, variant].concat().into()
}

/// The richest of the callable claims of the lowest rank, with all of them and the others as its provenance; and the
/// rank.
fn merged(claims: &[&Claim], others: &[&Claim]) -> Option<(Arc<[Instance]>, Rank)> {
    let richness = |claim: &&&Claim| {
        claim.instances.first().map(|it| {
            (
                Reverse(claim.rank),
                !Claim::is_idle(it),
                it.state == InstanceState::Up,
                it.endpoints.len() + it.metadata.len(),
            )
        })
    };
    // The first of several.
    let richest = claims.iter().rev().max_by_key(richness)?;
    let rest: Vec<_> = claims.iter().filter(|claim| !std::ptr::eq(**claim, *richest)).chain(others).collect();
    if rest.is_empty() {
        return Some((richest.instances.clone(), richest.rank));
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
    Some(([Instance { provenance, ..instance.clone() }].into(), richest.rank))
}
