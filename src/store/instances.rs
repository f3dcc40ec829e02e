//! Instances of one service.

use std::collections::BTreeSet;
use std::ops::{AddAssign, Bound, Deref, Range, SubAssign};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet, Vector};
use semver::Version;
use xxhash_rust::xxh3::xxh3_64;

use crate::model::{Instance, WarmUp};

/// The instances of a service by version; at least one in each.
#[derive(Clone, Debug, Default)]
pub struct Instances {
    by_version: OrdMap<Version, InstanceSet>,
    total: Total,
}

/// How many providers there are of all versions; how many of them are registered by nodes, or were; and how many are held.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    count: usize,
    registered: usize,
    held: usize,
}

/// Draws are expected to hit one of a part of this size within a few.
const PART: usize = 4;

/// Where instances are to warm up in more minutes than this, more is not reckoned with.
const MAX_MINUTES: usize = 64;
const MINUTE_MS: u64 = 60_000;

/// The prefix of the ids of providers that nodes register. No master's id begins with it.
pub(super) const NODE_MARK: char = '\u{1}';

/// Where they are among all ids.
const NODES: Range<&str> = "\u{1}".."\u{2}";

/// Providers by id. Each has a number below `len`, for choosing; adding or removing one renumbers at most one other,
/// however many there are.
#[derive(Clone, Debug, Default)]
pub struct InstanceSet {
    numbers: OrdMap<Arc<str>, usize>,
    providers: OrdMap<usize, Provider>,
    /// How many of them are registered by nodes,
    registered: usize,
    /// and how many once were, and are held by the guard.
    held: usize,
    /// The ids of withheld ones.
    withheld: OrdSet<Arc<str>>,
    /// By number.
    lots: Vector<Lot>,
    /// How many providers have each weight.
    weights: OrdMap<u32, usize>,
    callable: CallableCount,
    /// The size of all their metadata.
    metadata_bytes: usize,
    /// Those of them that warm up, or did, by the minute since 1970 in which that ends.
    warming: OrdMap<u64, CallableCount>,
    /// How often one was chosen by turns, shared by all sets derived from each other.
    turns: Arc<AtomicUsize>,
}

/// A provider of a service in one version.
#[derive(Clone, Debug)]
pub struct Provider {
    /// The id of a master; or what distinguishes one instance's endpoints from those of others.
    pub id: Arc<str>,
    /// One, except for a master that offers it under two names (`mail@1`, `mail@1.0`).
    pub instances: Arc<[Instance]>,
    /// 0 if it cannot be called.
    pub weight: u32,
    /// The hash of the address, for choosing by a key.
    pub address_hash: u64,
    /// Until it has warmed up, only a part of its weight counts in random choices.
    warm_up: Option<WarmUp>,
}

/// The data by which a provider is chosen for a key. Stored contiguously, since each choice looks at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lot {
    pub address_hash: u64,
    pub weight: u32,
}

/// How many can be called, by what they are registered as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CallableCount {
    /// Those that are not withheld, and their weights.
    count: usize,
    weight: u64,
    /// Those that are not drained.
    undrained: usize,
}

/// XXH3 of a key or an address without its two lowest bits: so PHP has it as an integer too, and each half is 31 bits.
pub fn key_hash(bytes: impl AsRef<[u8]>) -> u64 {
    xxh3_64(bytes.as_ref()) >> 2
}

impl Deref for Instances {
    type Target = OrdMap<Version, InstanceSet>;

    fn deref(&self) -> &Self::Target {
        &self.by_version
    }
}

/// Parts that both share are not compared.
impl PartialEq for Instances {
    fn eq(&self, other: &Self) -> bool {
        self.by_version == other.by_version
    }
}

impl Instances {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.total.count
    }

    /// How many of them are registered by nodes, or were: including those that the guard holds.
    pub fn count_of_registered(&self) -> usize {
        self.total.registered
    }

    /// How many of them the guard holds.
    pub fn count_of_held(&self) -> usize {
        self.total.held
    }

    /// Whether one of them is a master.
    pub fn has_masters(&self) -> bool {
        self.total.registered < self.total.count
    }

    /// Adds a provider of a version, replacing the one with the same id.
    pub(super) fn insert(&mut self, version: Version, provider: Provider) {
        let set = self.by_version.entry(version).or_default();
        self.total.subtract(set);
        set.insert(provider);
        self.total.add(set);
    }

    pub(super) fn remove(&mut self, version: &Version, id: &str) {
        let Some(set) = self.by_version.get_mut(version) else { return };
        self.total.subtract(set);
        set.remove(id);
        self.total.add(set);
        if set.is_empty() {
            self.by_version.remove(version);
        }
    }
}

impl Total {
    fn add(&mut self, set: &InstanceSet) {
        self.count += set.len();
        self.registered += set.registered;
        self.held += set.held;
    }

    fn subtract(&mut self, set: &InstanceSet) {
        self.count -= set.len();
        self.registered -= set.registered;
        self.held -= set.held;
    }
}

impl Provider {
    pub(super) fn new(id: Arc<str>, instances: Arc<[Instance]>) -> Self {
        let weight = instances.first().filter(|first| first.takes_calls()).map_or(0, |it| it.weight);
        let address_hash = key_hash(instances.first().map(Instance::address).unwrap_or_default());
        let warm_up = instances.first().and_then(Instance::warm_up);
        Self { id, instances, weight, address_hash, warm_up }
    }

    /// The weight that counts now. The time, in ms since 1970, is read only if it matters.
    pub fn weight_at(&self, now: impl FnOnce() -> u64) -> u32 {
        self.warm_up.map_or(self.weight, |warm_up| warm_up.weight(self.weight, now()))
    }

    fn metadata_bytes(&self) -> usize {
        self.instances.iter().map(|instance| instance.metadata.packed_bytes()).sum()
    }

    /// The address of its instances.
    pub fn address(&self) -> String {
        self.instances.first().map(Instance::address).unwrap_or_default()
    }
}

impl InstanceSet {
    /// How many providers there are.
    pub fn len(&self) -> usize {
        self.providers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.providers.is_empty()
    }

    /// The size of all their metadata.
    pub fn metadata_bytes(&self) -> usize {
        self.metadata_bytes
    }

    /// All, ordered by id.
    pub fn iter(&self) -> impl Iterator<Item = &Provider> {
        self.after(None)
    }

    /// All, or those after an id, ordered by id.
    pub(super) fn after(&self, id: Option<&str>) -> impl Iterator<Item = &Provider> {
        let numbers = self.numbers.range::<_, str>((id.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
        numbers.filter_map(|(_, number)| self.providers.get(number))
    }

    /// How many of them are registered by nodes, or were: including those that the guard holds.
    pub fn count_of_registered(&self) -> usize {
        self.registered
    }

    /// Whether one of them is a master.
    pub fn has_masters(&self) -> bool {
        self.registered < self.len()
    }

    /// Numbers with another provider in `newer`: with the new one, if a node registers it.
    pub(super) fn changed_numbers<'a>(
        &'a self,
        newer: &'a InstanceSet,
    ) -> impl Iterator<Item = (usize, Option<&'a Provider>)> {
        self.providers.diff(&newer.providers).map(|change| match change {
            DiffItem::Add(number, provider) | DiffItem::Update { new: (number, provider), .. } => {
                (*number, Some(provider).filter(|provider| provider.is_registered()))
            }
            DiffItem::Remove(number, _) => (*number, None),
        })
    }

    /// Each provider that changed or is missing in `newer`: before and after. A mere change of number does not count.
    pub(super) fn changed<'a>(
        &'a self,
        newer: &'a InstanceSet,
    ) -> impl Iterator<Item = (Option<&'a Provider>, Option<&'a Provider>)> {
        let ids = self.providers.diff(&newer.providers).flat_map(|change| match change {
            DiffItem::Add(_, it) | DiffItem::Remove(_, it) => [Some(&it.id), None],
            DiffItem::Update { old: (_, old), new: (_, new) } => [Some(&old.id), Some(&new.id)],
        });
        let ids: BTreeSet<&Arc<str>> = ids.flatten().collect();
        ids.into_iter().map(|id| (self.of(id), newer.of(id))).filter(|(old, new)| old != new)
    }

    /// All, unordered, which is faster.
    pub fn unordered(&self) -> impl Iterator<Item = &Provider> {
        self.providers.values()
    }

    /// By number, in chunks.
    pub fn lots(&self) -> impl Iterator<Item = &[Lot]> {
        self.lots.leaves()
    }

    /// Whether all have the same weight.
    pub fn are_weights_equal(&self) -> bool {
        self.weights.len() == 1
    }

    /// The withheld ones, each with its number.
    pub(super) fn withheld(&self) -> impl Iterator<Item = (usize, &Provider)> {
        let numbers = self.withheld.iter().filter_map(|id| self.numbers.get(id));
        numbers.filter_map(|number| Some((*number, self.providers.get(number)?)))
    }

    /// Whether one of them takes calls, has a weight and is not withheld.
    pub fn has_callable(&self) -> bool {
        self.callable.count > 0
    }

    /// Whether one of them could be called if it were not ejected.
    pub fn has_ejected(&self) -> bool {
        self.callable.undrained > self.callable.count
    }

    /// Whether a few draws find one that can be called: so it is unless few of them can, or most weigh little, or warm up.
    pub fn is_dense(&self, now: impl FnOnce() -> u64) -> bool {
        let mut callable = self.callable;
        if !self.warming.is_empty() {
            let mut warming = self.warming.range(now() / MINUTE_MS..).map(|(_, count)| *count);
            warming.by_ref().take(MAX_MINUTES).for_each(|count| callable -= count);
            if warming.next().is_some() {
                return false;
            }
        }
        let weight = callable.weight * PART as u64;
        callable.count * PART >= self.len() && weight >= u64::from(self.heaviest()) * self.len() as u64
    }

    /// Whether it would take many draws to find a master.
    pub fn has_few_masters(&self) -> bool {
        (self.len() - self.registered) * PART < self.len()
    }

    /// The set of those that are masters. They take turns as they do here.
    pub fn of_masters(&self) -> Self {
        let mut set = Self { turns: self.turns.clone(), ..Self::default() };
        self.masters().for_each(|master| set.insert(master.clone()));
        set
    }

    /// Those that are masters.
    pub fn masters(&self) -> impl Iterator<Item = &Provider> {
        let before = self.numbers.range::<_, str>((Bound::Unbounded, Bound::Excluded(NODES.start)));
        let after = self.numbers.range::<_, str>((Bound::Included(NODES.end), Bound::Unbounded));
        before.chain(after).filter_map(|(_, number)| self.providers.get(number))
    }

    /// The greatest weight.
    pub fn heaviest(&self) -> u32 {
        self.weights.get_max().map_or(0, |(weight, _)| *weight)
    }

    /// The one with this number.
    pub fn get(&self, number: usize) -> Option<&Provider> {
        self.providers.get(&number)
    }

    /// The one whose turn it is; the next turn is the next one's.
    pub fn take_turn(&self) -> Option<&Provider> {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        self.providers.get(&(turn % self.len().max(1)))
    }

    pub fn of(&self, id: &str) -> Option<&Provider> {
        self.providers.get(self.numbers.get(id)?)
    }

    /// Adds a provider, replacing the one with the same id.
    pub(super) fn insert(&mut self, provider: Provider) {
        match self.weights.get_mut(&provider.weight) {
            Some(count) => *count += 1,
            None => drop(self.weights.insert(provider.weight, 1)),
        }
        match provider.is_withheld() {
            true => drop(self.withheld.insert(provider.id.clone())),
            false => drop(self.withheld.remove(&provider.id)),
        }
        self.held += usize::from(provider.is_held());
        self.count(&provider);
        let mut number = self.len();
        let lot = Lot { address_hash: provider.address_hash, weight: provider.weight };
        match self.numbers.insert(provider.id.clone(), number) {
            Some(known) => {
                number = known;
                self.numbers.insert(provider.id.clone(), known);
                self.lots.set(known, lot);
            }
            None => {
                self.registered += usize::from(provider.is_registered());
                self.lots.push_back(lot);
            }
        }
        if let Some(old) = self.providers.insert(number, provider) {
            self.held -= usize::from(old.is_held());
            self.count_no_more(&old);
            self.forget_weight(old.weight);
        }
    }

    /// The last one takes its number.
    pub(super) fn remove(&mut self, id: &str) {
        let Some(number) = self.numbers.remove(id) else { return };
        self.withheld.remove(id);
        if let Some(removed) = self.providers.remove(&number) {
            self.registered -= usize::from(removed.is_registered());
            self.held -= usize::from(removed.is_held());
            self.count_no_more(&removed);
            self.forget_weight(removed.weight);
        }
        if let Some(lot) = self.lots.pop_back()
            && number < self.lots.len()
        {
            self.lots.set(number, lot);
        }
        if let Some(last) = self.providers.remove(&self.numbers.len()) {
            self.numbers.insert(last.id.clone(), number);
            self.providers.insert(number, last);
        }
    }

    fn count(&mut self, provider: &Provider) {
        let count = CallableCount::of(provider);
        self.callable += count;
        self.metadata_bytes += provider.metadata_bytes();
        if let Some(warm_up) = provider.warm_up {
            *self.warming.entry(warm_up.ends_at() / MINUTE_MS).or_default() += count;
        }
    }

    fn count_no_more(&mut self, provider: &Provider) {
        let count = CallableCount::of(provider);
        self.callable -= count;
        self.metadata_bytes -= provider.metadata_bytes();
        let Some(minute) = provider.warm_up.map(|warm_up| warm_up.ends_at() / MINUTE_MS) else { return };
        let warming = self.warming.entry(minute).or_default();
        *warming -= count;
        if *warming == CallableCount::default() {
            self.warming.remove(&minute);
        }
    }

    /// One provider less has this weight.
    fn forget_weight(&mut self, weight: u32) {
        match self.weights.get_mut(&weight) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.weights.remove(&weight)),
        }
    }
}

impl CallableCount {
    fn of(provider: &Provider) -> Self {
        let mut callable = provider.instances.iter().filter(|it| it.weight > 0 && it.takes_calls()).peekable();
        let is_callable = callable.peek().is_some() && !provider.is_withheld();
        let undrained = usize::from(callable.any(|it| it.withheld.drained.is_none()));
        let weight = if is_callable { u64::from(provider.weight) } else { 0 };
        Self { count: usize::from(is_callable), weight, undrained }
    }
}

impl AddAssign for CallableCount {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.weight += other.weight;
        self.undrained += other.undrained;
    }
}

impl SubAssign for CallableCount {
    fn sub_assign(&mut self, other: Self) {
        self.count -= other.count;
        self.weight -= other.weight;
        self.undrained -= other.undrained;
    }
}

/// Parts that both share are not compared.
impl PartialEq for InstanceSet {
    fn eq(&self, other: &Self) -> bool {
        self.providers.diff(&other.providers).next().is_none()
    }
}

impl Provider {
    /// Whether it is registered by nodes, or was; otherwise it is a master.
    pub fn is_registered(&self) -> bool {
        self.id.starts_with(NODE_MARK)
    }

    /// Whether no node registers it any more.
    pub fn is_held(&self) -> bool {
        self.instances.first().is_some_and(|first| first.held.is_some())
    }
}

impl Provider {
    pub fn is_withheld(&self) -> bool {
        self.instances.first().is_some_and(|first| first.withheld.is_withheld())
    }
}

impl PartialEq for Provider {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.instances, &other.instances) || (self.id == other.id && self.instances == other.instances)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Decoder, Format};

    #[test]
    fn a_set_is_dense_while_a_quarter_can_be_called_with_their_weight() {
        let now = 1_700_000_000_000;
        let mut set = InstanceSet::default();
        let mut put = |number: usize, weight: u32, since: Option<u64>| {
            let mut instance = Instance { weight, ..Instance::at("db", &format!("h:{}", number + 1)) };
            let mut provenance = instance.provenance[0].clone();
            provenance.decoder = Decoder::Format(Format::Dubbo);
            instance.provenance = [provenance].into();
            let timestamp = since.map(|since| ("timestamp".into(), since.to_string().into()));
            instance.metadata = rmpv::Value::Map(timestamp.into_iter().collect()).into();
            set.insert(Provider::new(format!("{NODE_MARK}{number}").into(), [instance].into()));
            set.is_dense(|| now)
        };
        assert!((0..100).all(|number| put(number, 100, Some(now - 700_000))), "all have warmed up");
        assert!((0..75).all(|number| put(number, 100, Some(now - 1_000))), "a quarter has");
        assert!(!put(75, 100, Some(now - 1_000)) && put(75, 100, None));
        assert!((0..75).all(|number| put(number, 0, None)) && !put(75, 0, None) && put(75, 100, None));
        assert!(put(76, 100, None) && !put(76, 1_000, None), "one weighs more than the others together can make up");
        assert!((0..76).all(|number| !put(number, 100, None)), "not even all of them");
        assert!(put(76, 100, None));
        assert!(!(0..100).all(|number| put(number, 100, Some(now + number as u64 * 60_000))));
        assert!((0..100).map(|number| put(number, 100, None)).last().is_some_and(|is_dense| is_dense));
        assert!(set.warming.is_empty());
    }

    #[test]
    fn whatever_comes_and_goes_the_totals_of_all_versions_are_those_of_their_sets() {
        let (mut instances, random) = (Instances::default(), &mut fastrand::Rng::with_seed(7));
        for _ in 0..1_000 {
            let (version, number) = (Version::new(random.u64(..4), 0, 0), random.usize(..8));
            let id: Arc<str> = if number < 4 { number.to_string() } else { format!("{NODE_MARK}{number}") }.into();
            let held = (number > 5 && random.bool()).then(Default::default);
            match random.bool() {
                true => {
                    let instance = Instance { held, ..Instance::at("db", &format!("h:{}", number + 1)) };
                    instances.insert(version, Provider::new(id, [instance].into()));
                }
                false => instances.remove(&version, &id),
            }
            let sum = |count: fn(&InstanceSet) -> usize| instances.values().map(count).sum::<usize>();
            assert_eq!(instances.count(), sum(InstanceSet::len));
            assert_eq!(instances.count_of_registered(), sum(InstanceSet::count_of_registered));
            assert_eq!(instances.count_of_held(), sum(|set| set.iter().filter(|it| it.is_held()).count()));
            assert_eq!(instances.has_masters(), instances.values().any(InstanceSet::has_masters));
            assert!(instances.values().all(|set| !set.is_empty()));
        }
    }

    #[test]
    fn whoever_comes_and_goes_each_has_one_number() {
        let (mut set, mut expected) = (InstanceSet::default(), std::collections::BTreeSet::new());
        for step in 0..1_000_usize {
            let id: Arc<str> = format!("{}", step * 7 % 40).into();
            if step % 3 == 0 {
                set.remove(&id);
                expected.remove(&id);
            } else {
                set.insert(Provider { weight: step as u32 % 7, ..Provider::new(id.clone(), Arc::default()) });
                expected.insert(id);
            }
            assert!(set.iter().map(|provider| &provider.id).eq(expected.iter()));
            assert!(set.iter().all(|provider| set.of(&provider.id).is_some_and(|found| found.id == provider.id)));
            let numbered = (0..set.len()).map_while(|number| set.get(number));
            let mut numbered: Vec<_> = numbered.map(|provider| &provider.id).collect();
            numbered.sort();
            assert!(numbered.into_iter().eq(expected.iter()));
            assert_eq!(set.heaviest(), set.unordered().map(|provider| provider.weight).max().unwrap_or(0));
            let lots = set.unordered().map(|provider| (provider.address_hash, provider.weight));
            assert!(lots.eq(set.lots().flatten().map(|lot| (lot.address_hash, lot.weight))));
        }
    }
}
