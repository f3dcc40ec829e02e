//! Picks one of a set of candidates, by a policy.

use std::cell::LazyCell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::ptr;
use std::sync::Arc;
use std::time::SystemTime;

use super::rendezvous::{Best, Score, draw};
use super::{Balance, Query, Requirement, Subset};
use crate::clock::millis_since_1970;
use crate::model::{Instance, Service, Withheld};
use crate::share::is_heavy;
use crate::store::{Directory, InstanceSet, Instances, Lot, MasterEntry, Provider, key_hash};
use crate::task::random_below;

/// How many random draws to try before looking through all.
const DRAWS: usize = 16;

/// While at least this share of the instances in the caller's zone can be called, each of them is called more often,
/// and none elsewhere: 100 of 140.
const OVERPROVISIONING: usize = 140;

/// What it costs to look at an instance or a version, in the unit of [`Query::cost`].
const LOOKS_AT_ONE: usize = 4;

/// An instance that may be picked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) instance: &'a Instance,
    /// None: clients call its endpoints.
    pub(super) master: Option<&'a Arc<MasterEntry>>,
}

/// Which of them may be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Callable {
    pub(super) is_master: bool,
    /// Excludes silent ones.
    pub(super) is_answering: bool,
    /// Includes ejected ones.
    pub(super) may_be_ejected: bool,
}

pub(super) type WillDo<'w, 'a> = &'w dyn Fn(&'a Provider) -> Option<Candidate<'a>>;

impl Candidate<'_> {
    pub(super) fn outstanding(&self) -> usize {
        self.master.map_or(0, |master| master.outstanding())
    }

    /// From its metadata; 0 if it does not report any.
    fn load(&self) -> f64 {
        let load = self.instance.metadata.number("load");
        load.filter(|load| !load.is_nan()).unwrap_or(0.0)
    }
}

/// One of a set that matches the query and can be called.
pub(super) fn pick<'a>(
    directory: &'a Directory,
    set: &'a InstanceSet,
    query: &Query,
    callable: Callable,
) -> Option<Candidate<'a>> {
    let will_do = |provider: &'a Provider| candidate(directory, provider, query, callable);
    if !query.is_selective() {
        return pick_of(set, query, &will_do);
    }
    // Check once which instances match, rather than in each step of a policy.
    if query.prefer_zone.is_none() && query.subset.is_none() {
        let is_there = set.unordered().any(|provider| will_do(provider).is_some());
        return is_there.then(|| pick_of(set, query, &will_do)).flatten();
    }
    let found = set.unordered().filter_map(|provider| Some((ptr::from_ref(provider), will_do(provider)?)));
    let found: HashMap<*const Provider, Candidate<'a>> = found.collect();
    if found.is_empty() {
        return None;
    }
    pick_of(set, query, &|provider| found.get(&ptr::from_ref(provider)).copied())
}

/// The same, of a set of which few are masters.
pub(super) fn pick_master<'a>(
    directory: &'a Directory,
    set: &'a InstanceSet,
    query: &Query,
    callable: Callable,
) -> Option<Candidate<'a>> {
    let masters = set.of_masters();
    let id = pick(directory, &masters, query, callable)?.instance.master()?.clone();
    candidate(directory, set.of(&id)?, query, callable)
}

fn pick_of<'a>(set: &'a InstanceSet, query: &Query, will_do: WillDo<'_, 'a>) -> Option<Candidate<'a>> {
    match &query.prefer_zone {
        Some(zone) => pick_near(set, query, zone, will_do),
        None => pick_of_subset(set, query, will_do),
    }
}

fn candidate<'a>(
    directory: &'a Directory,
    provider: &'a Provider,
    query: &Query,
    callable: Callable,
) -> Option<Candidate<'a>> {
    #[cfg(test)]
    LOOKS.set(LOOKS.get() + 1);
    if query.tried.contains(&provider.id) || query.leaves_out(provider.address_hash) {
        return None;
    }
    let may_be_chosen =
        |Withheld { ejected, drained }: &Withheld| drained.is_none() && (ejected.is_none() || callable.may_be_ejected);
    let will_do = |it: &&Instance| it.weight > 0 && may_be_chosen(&it.withheld) && query.admits(it);
    let instance = provider.instances.iter().find(will_do)?;
    let Some(id) = instance.master() else {
        return (has_endpoints(instance) && !callable.is_master).then_some(Candidate { instance, master: None });
    };
    let is_there = if callable.is_answering { MasterEntry::is_answering } else { MasterEntry::is_connected };
    let master = directory.master(id).filter(|entry| is_there(entry))?;
    Some(Candidate { instance, master: Some(master) })
}

#[cfg(test)]
thread_local! {
    /// How many providers this thread has checked for suitability.
    pub(super) static LOOKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Whether clients can call it directly.
pub(super) fn has_endpoints(instance: &Instance) -> bool {
    instance.takes_calls() && !instance.endpoints.is_empty()
}

/// One in the zone; one elsewhere if none of it can be called, or for some of the picks if many of it cannot.
fn pick_near<'a>(set: &'a InstanceSet, query: &Query, zone: &str, will_do: WillDo<'_, 'a>) -> Option<Candidate<'a>> {
    let is_near = |candidate: &Candidate<'a>| *candidate.instance.zone == *zone;
    let (mut known, mut callable) = (0, 0);
    for provider in set.unordered().filter(|provider| !query.leaves_out(provider.address_hash)) {
        if provider.instances.iter().any(|it| it.weight > 0 && query.admits(it) && *it.zone == *zone) {
            known += 1;
            callable += usize::from(will_do(provider).is_some());
        }
    }
    let share = (callable * OVERPROVISIONING).checked_div(known).unwrap_or(0);
    let chance = match &query.balance {
        Balance::Key(key) => draw(key_hash(key), key_hash(zone)) as usize % 100,
        _ => random_below(100),
    };
    let stays = chance < share;
    let picked = pick_of_subset(set, query, &|provider| will_do(provider).filter(|it| is_near(it) == stays));
    picked.or_else(|| pick_of_subset(set, query, will_do))
}

/// One of the caller's subset.
fn pick_of_subset<'a>(set: &'a InstanceSet, query: &Query, will_do: WillDo<'_, 'a>) -> Option<Candidate<'a>> {
    let Some(Subset { size, of }) = &query.subset else { return pick_by(set, &query.balance, will_do) };
    let of = key_hash(of);
    let mut all: Vec<&Provider> = set.unordered().filter(|provider| will_do(provider).is_some()).collect();
    if all.len() <= *size {
        return pick_by(set, &query.balance, will_do);
    }
    let (_, last, _) = all.select_nth_unstable_by(size.saturating_sub(1), |one, other| compare(of, other, one));
    let last = *last;
    pick_by(set, &query.balance, &|provider| will_do(provider).filter(|_| compare(of, provider, last).is_ge()))
}

pub(super) fn pick_by<'a>(set: &'a InstanceSet, balance: &Balance, will_do: WillDo<'_, 'a>) -> Option<Candidate<'a>> {
    match balance {
        Balance::Random => any(set, will_do),
        Balance::RoundRobin => {
            // Others take turns meanwhile, and may have had those of all candidates.
            let turn = (0..set.len()).find_map(|_| set.take_turn().and_then(will_do));
            turn.or_else(|| any(set, will_do))
        }
        Balance::Key(key) => rendezvous(set, key, will_do),
        Balance::LeastOutstanding => of_two(set, will_do, |one, other| one.outstanding() < other.outstanding()),
        Balance::LeastLoad => of_two(set, will_do, |one, other| one.load() < other.load()),
    }
}

/// The better of two random ones; the first if they are equal.
fn of_two<'a>(
    set: &'a InstanceSet,
    will_do: WillDo<'_, 'a>,
    is_better: impl Fn(&Candidate<'a>, &Candidate<'a>) -> bool,
) -> Option<Candidate<'a>> {
    let first = any(set, will_do)?;
    if set.len() == 1 {
        return Some(first);
    }
    let is_other = |it: &Candidate<'a>| !std::ptr::eq(it.instance, first.instance);
    let second = any(set, &|provider| will_do(provider).filter(is_other));
    Some(second.filter(|second| is_better(second, &first)).unwrap_or(first))
}

/// A random candidate, each in proportion to its weight.
fn any<'a>(set: &'a InstanceSet, will_do: WillDo<'_, 'a>) -> Option<Candidate<'a>> {
    let heaviest = set.heaviest() as usize;
    let now = LazyCell::new(|| millis_since_1970(SystemTime::now()));
    let weight = |provider: &Provider| provider.weight_at(|| *now) as usize;
    for _ in 0..DRAWS {
        let drawn = set.get(random_below(set.len()))?;
        // Otherwise draw again: so the probability is in proportion to the weight.
        if random_below(heaviest) < weight(drawn)
            && let Some(candidate) = will_do(drawn)
        {
            return Some(candidate);
        }
    }
    let all = || set.unordered().filter_map(|provider| Some((weight(provider), will_do(provider)?)));
    let mut left = random_below(all().map(|(weight, _)| weight).sum());
    let mut last = None;
    for (weight, candidate) in all() {
        last = Some(candidate);
        let Some(rest) = left.checked_sub(weight) else { break };
        left = rest;
    }
    last
}

/// A run of a set's instances, with the number of the first.
struct Row<'a> {
    first: usize,
    lots: &'a [Lot],
    /// No draw is greater; meaningless if weights differ.
    greatest: u32,
}

/// The one with the best score for the key: an instance that comes or goes moves only its own keys.
fn rendezvous<'a>(set: &'a InstanceSet, key: &[u8], will_do: WillDo<'_, 'a>) -> Option<Candidate<'a>> {
    let key = key_hash(key);
    let mut best: Option<(Best, &'a Provider, Candidate<'a>)> = None;
    for Row { first, lots, greatest } in rows(set, key) {
        if best.is_some_and(|(known, ..)| known.draw() > greatest) {
            continue;
        }
        for (number, lot) in lots.iter().enumerate() {
            let own = Score { draw: draw(key, lot.address_hash), weight: lot.weight };
            if best.is_none_or(|(known, ..)| known.may_be_beaten_by(own))
                && let Some(provider) = set.get(first + number)
                && best.is_none_or(|(_, best, _)| compare(key, provider, best).is_gt())
                && let Some(candidate) = will_do(provider)
            {
                best = Some((Best::new(own), provider, candidate));
            }
        }
    }
    best.map(|(.., candidate)| candidate)
}

/// All of a set. If all weigh the same, those with the greatest draw come first, after which most others can be
/// skipped.
fn rows<'a>(set: &'a InstanceSet, key: u64) -> Vec<Row<'a>> {
    let (are_equal, mut first) = (set.are_weights_equal(), 0);
    let greatest = |lots: &[Lot]| lots.iter().map(|lot| draw(key, lot.address_hash)).fold(0, u32::max);
    let row = |lots: &'a [Lot]| {
        first += lots.len();
        let greatest = if are_equal { greatest(lots) } else { u32::MAX };
        Row { first: first - lots.len(), lots, greatest }
    };
    let mut rows: Vec<_> = set.lots().map(row).collect();
    if let Some(top) = (0..rows.len()).max_by_key(|number| rows[*number].greatest) {
        rows.swap(0, top);
    }
    rows
}

/// Whether one is better for a key than the other; if equal, the one with the smaller address.
fn compare(key: u64, one: &Provider, other: &Provider) -> Ordering {
    let by_address = || other.address().cmp(&one.address()).then_with(|| other.id.cmp(&one.id));
    score(key, one).compare(score(key, other)).then_with(by_address)
}

fn score(key: u64, provider: &Provider) -> Score {
    Score { draw: draw(key, provider.address_hash), weight: provider.weight }
}

impl Query {
    /// Whether an instance matches the query.
    pub fn is_met_by(&self, instance: &Instance) -> bool {
        self.version.as_ref().is_none_or(|version| version.matches(&instance.version)) && self.admits(instance)
    }

    /// About what it costs to choose among these, as bytes of values to be read would. Where many of a set can be called,
    /// a few draws find one that nothing more is asked of; a subset takes the hash of each. All versions count, even if
    /// nothing is asked of them: each is a part of the search, as it is of this sum, which ends once the work is heavy.
    pub fn cost(&self, instances: &Instances) -> usize {
        const HASHES: usize = 8;
        const HASHES_OF_KEY_AT_ONCE: usize = 8;
        let is_any = !self.is_selective() && self.prefer_zone.is_none() && self.excluded.is_empty();
        let looks = |set: &InstanceSet| match is_any && set.is_dense(|| millis_since_1970(SystemTime::now())) {
            true => 0,
            false => LOOKS_AT_ONE,
        };
        let of_subset = if self.subset.is_some() { HASHES } else { 0 };
        let of_excluded = self.excluded.len();
        let of_key = |set: &InstanceSet| match self.balance {
            Balance::Key(_) => set.len() / HASHES_OF_KEY_AT_ONCE,
            _ => 0,
        };
        let of_metadata = |set: &InstanceSet| self.cost_of_metadata(set.len(), set.metadata_bytes());
        let of_set =
            |set: &InstanceSet| set.len() * (looks(set) + of_subset + of_excluded) + of_key(set) + of_metadata(set);
        let mut cost = 0;
        for set in instances.values() {
            cost += self.cost_of_version() + of_set(set);
            if is_heavy(cost) {
                break;
            }
        }
        cost
    }

    /// What it costs to choose among those of a service.
    pub fn cost_of(&self, directory: &Directory, service: &str) -> usize {
        directory.instances_of(service).map_or(0, |instances| self.cost(instances))
    }

    /// What it costs to find the newest version of a service among those of one master.
    pub fn cost_of_services(&self, services: &[Service], name: &str) -> usize {
        let named = services.iter().filter(|it| it.base_name() == name);
        let (count, bytes) = named.fold((0, 0), |(count, bytes), it| (count + 1, bytes + it.metadata.packed_bytes()));
        count * self.cost_of_version() + self.cost_of_metadata(count, bytes)
    }

    fn cost_of_version(&self) -> usize {
        LOOKS_AT_ONE + self.version.as_ref().map_or(0, Requirement::cost)
    }

    /// What it costs to compare this many metadata, which take so many bytes together.
    fn cost_of_metadata(&self, count: usize, bytes: usize) -> usize {
        const BYTES_PASSED_OVER_AT_ONCE: usize = 8;
        // A value that may be equal is compared as a whole.
        let of_each = self.metadata.values().map(|wanted| LOOKS_AT_ONE + wanted.len()).sum::<usize>();
        count * of_each + self.metadata.len() * bytes / BYTES_PASSED_OVER_AT_ONCE
    }

    /// Whether the caller leaves out what is at the address with this hash.
    pub(super) fn leaves_out(&self, address_hash: u64) -> bool {
        self.excluded.contains(&address_hash)
    }

    /// Whether it asks for more than a version.
    fn is_selective(&self) -> bool {
        self.group.is_some() || self.zone.is_some() || !self.metadata.is_empty()
    }

    /// The same for an instance whose version meets the requirement.
    fn admits(&self, instance: &Instance) -> bool {
        self.group.as_deref().is_none_or(|group| group == &*instance.group)
            && self.zone.as_deref().is_none_or(|zone| zone == &*instance.zone)
            && instance.metadata.has(&self.metadata)
    }
}
