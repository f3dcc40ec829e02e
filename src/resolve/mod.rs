//! From the name of a service to one live instance: a master that is called through its connection, or endpoints.

mod explain;
mod pick;
mod rendezvous;
mod requirement;

use std::collections::BTreeMap;
use std::sync::Arc;

use semver::Version;

pub use self::explain::{Explanation, explain, newest_callable};
use self::pick::{Callable, Candidate, has_endpoints, pick, pick_master};
pub use self::requirement::{NoRequirement, Requirement};
use crate::model::{Instance, InstanceState, shortened};
use crate::store::{Directory, InstanceSet, Instances, MasterEntry, key_hash};

/// How to choose among candidates. One with weight 0 is never chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Of two random ones, the one with fewer calls under way.
    #[default]
    LeastOutstanding,
    /// One after the other, regardless of weight.
    RoundRobin,
    /// Each in proportion to its weight.
    Random,
    /// The same one for the same key, as long as it exists; each gets its share of the keys by weight.
    Key(Vec<u8>),
    /// Of two random ones, the one that reports less `load` in its metadata.
    LeastLoad,
}

/// What an instance must be to be chosen, and how to choose.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub version: Option<Requirement>,
    pub group: Option<String>,
    pub zone: Option<String>,
    /// Metadata that the service must have.
    pub metadata: BTreeMap<String, String>,
    pub balance: Balance,
    /// The caller's zone: instances elsewhere are not chosen while enough of it can be called.
    pub prefer_zone: Option<String>,
    pub subset: Option<Subset>,
    /// Providers that were already tried.
    pub tried: Vec<Arc<str>>,
    /// Hashes of addresses that the caller leaves out, as if nothing were there.
    pub excluded: Vec<u64>,
}

/// A subset of the instances, the same for the same caller as long as they exist.
#[derive(Clone, Debug)]
pub struct Subset {
    /// Above 0.
    pub size: usize,
    /// Its owner, in whichever bytes.
    pub of: Vec<u8>,
}

/// Why there is no master to call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMaster {
    #[error("no master has offered the service `{0}` since the sidecar started")]
    Unknown(String),
    #[error("no master that offers the service `{0}` is alive")]
    NoneAlive(String),
    #[error("no master offers the service `{0}` in a version that meets {1}")]
    NoVersion(String, String),
    #[error("every master that offers the service `{0}` has been tried")]
    AllTried(String),
    #[error("no master that is connected offers the service `{0}` with {1}")]
    NoMetadata(String, String),
    #[error("no master that offers the service `{0}` is connected, has a weight above 0 and is not drained")]
    NoneConnected(String),
}

/// Why there is no instance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoInstance {
    #[error("the service `{0}` is unknown: no source has had an instance of it since the sidecar started")]
    Unknown(String),
    #[error("no instance of the service `{0}` is listed: {1}")]
    Unlisted(String, String),
    #[error("the service `{0}` has no instances any more")]
    NoneLeft(String),
    #[error("no instance of the service `{0}` has a version that meets {1}")]
    NoVersion(String, String),
    #[error("no instance of the service `{0}` is in the group `{1}`")]
    NoGroup(String, String),
    #[error("no instance of the service `{0}` is in the zone `{1}`")]
    NoZone(String, String),
    #[error("no instance of the service `{0}` has {1}")]
    NoMetadata(String, String),
    #[error("every instance of the service `{0}` that will do has the weight 0")]
    NoWeight(String),
    #[error("every instance of the service `{0}` that will do is drained")]
    Drained(String),
    #[error("every instance of the service `{0}` that will do is excluded by the request")]
    Excluded(String),
    #[error("no instance of the service `{0}` that will do can be called now: {1}; `roster explain {0}` tells more")]
    NoneUp(String, String),
}

/// The metadata as written on a command line, cut if long.
fn in_words(metadata: &BTreeMap<String, String>) -> String {
    let words = metadata.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ");
    cut(&words)
}

fn cut(words: &str) -> String {
    const MOST: usize = 200;
    shortened(words, MOST).into_owned()
}

/// A master that offers `service`, given without a version: of the newest version with a candidate. A silent one is
/// chosen only if there is no other.
pub fn choose(directory: &Directory, service: &str, query: &Query) -> Result<Arc<MasterEntry>, NoMaster> {
    let name = || service.to_owned();
    let Some(instances) = directory.instances_of(service) else {
        let was_offered = directory.was_offered(service);
        return Err(if was_offered { NoMaster::NoneAlive(name()) } else { NoMaster::Unknown(name()) });
    };
    if let Some(master) = find(directory, instances, query, true).and_then(|found| found.master) {
        return Ok(master.clone());
    }
    Err(match &query.version {
        Some(version) if candidates(instances, Some(version)).next().is_none() => {
            NoMaster::NoVersion(name(), version.to_string())
        }
        _ if !query.metadata.is_empty() && query.tried.is_empty() => {
            NoMaster::NoMetadata(name(), in_words(&query.metadata))
        }
        _ if query.tried.is_empty() => NoMaster::NoneConnected(name()),
        _ => NoMaster::AllTried(name()),
    })
}

/// An instance of `service`, with the same preferences; and how many calls to it are under way.
pub fn resolve<'a>(
    directory: &'a Directory,
    service: &str,
    query: &Query,
) -> Result<(&'a Instance, usize), NoInstance> {
    let Some(instances) = directory.instances_of(service) else {
        let name = service.to_owned();
        return Err(match directory.why_unlisted(service) {
            Some(why) => NoInstance::Unlisted(name, why),
            None if directory.was_offered(service) => NoInstance::NoneLeft(name),
            None => NoInstance::Unknown(name),
        });
    };
    let found = find(directory, instances, query, false);
    found.map(|found| (found.instance, found.outstanding())).ok_or_else(|| why_none(instances, service, query))
}

/// Whether an instance is a candidate, if it matches the query.
pub fn is_callable(directory: &Directory, instance: &Instance) -> bool {
    let is_connected = |id: &Arc<str>| directory.master(id).is_some_and(|master| master.is_connected());
    let may_be_chosen = instance.weight > 0 && !instance.withheld.is_withheld();
    may_be_chosen && instance.master().map_or_else(|| has_endpoints(instance), is_connected)
}

/// Of the newest version with a candidate; a silent one only if there is no other, and an ejected one only if there is
/// not even a silent one.
fn find<'a>(
    directory: &'a Directory,
    instances: &'a Instances,
    query: &Query,
    is_master: bool,
) -> Option<Candidate<'a>> {
    // Without masters, each pass would find the same.
    let has_masters = instances.has_masters();
    if is_master && !has_masters {
        return None;
    }
    let passes = [(true, false), (false, false), (false, true)];
    let passes =
        passes.into_iter().filter(|(is_answering, may_be_ejected)| *is_answering || *may_be_ejected || has_masters);
    passes.into_iter().find_map(|(is_answering, may_be_ejected)| {
        let callable = Callable { is_master, is_answering, may_be_ejected };
        let has_some = |set: &InstanceSet| {
            let has_some = if may_be_ejected { set.has_ejected() } else { set.has_callable() };
            has_some && (!is_master || set.has_masters())
        };
        let mut sets = candidates(instances, query.version.as_ref()).filter(|(_, set)| has_some(set));
        sets.find_map(|(_, set)| match is_master && set.has_few_masters() {
            true => pick_master(directory, set, query, callable),
            false => pick(directory, set, query, callable),
        })
    })
}

/// Why there is no candidate: the first condition of the query that excludes all.
fn why_none(instances: &Instances, service: &str, query: &Query) -> NoInstance {
    let name = service.to_owned();
    let sets = candidates(instances, query.version.as_ref());
    let mut left: Vec<&Instance> =
        sets.flat_map(|(_, set)| set.unordered()).flat_map(|provider| provider.instances.iter()).collect();
    if let (Some(version), true) = (&query.version, left.is_empty()) {
        return NoInstance::NoVersion(name, version.to_string());
    }
    if let Some(group) = &query.group {
        left.retain(|it| *it.group == **group);
        if left.is_empty() {
            return NoInstance::NoGroup(name, cut(group));
        }
    }
    if let Some(zone) = &query.zone {
        left.retain(|it| *it.zone == **zone);
        if left.is_empty() {
            return NoInstance::NoZone(name, cut(zone));
        }
    }
    left.retain(|it| it.metadata.has(&query.metadata));
    if left.is_empty() {
        return NoInstance::NoMetadata(name, in_words(&query.metadata));
    }
    left.retain(|it| it.weight > 0);
    if left.is_empty() {
        return NoInstance::NoWeight(name);
    }
    if left.iter().all(|it| it.withheld.drained.is_some()) {
        return NoInstance::Drained(name);
    }
    if left.iter().all(|it| query.leaves_out(key_hash(it.address()))) {
        return NoInstance::Excluded(name);
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    left.iter().for_each(|it| *counts.entry(why_not_called(it, query)).or_default() += 1);
    let one = |(why, count): (&str, usize)| format!("{count} {} {why}", if count == 1 { "is" } else { "are" });
    NoInstance::NoneUp(name, counts.into_iter().map(one).collect::<Vec<_>>().join(", "))
}

/// What an instance is that has a weight, and is not called.
fn why_not_called(instance: &Instance, query: &Query) -> &'static str {
    match instance.state {
        _ if query.leaves_out(key_hash(instance.address())) => "excluded by the request",
        _ if instance.withheld.drained.is_some() => "drained",
        InstanceState::Down => "DOWN",
        InstanceState::Returning => "expected back after a restart",
        InstanceState::Unknown => "in a state that this sidecar does not know",
        InstanceState::Up if !instance.takes_calls() => "no longer registered and silent",
        InstanceState::Up if instance.master().is_some() => "not connected",
        InstanceState::Up => "without an endpoint",
    }
}

/// The instances of each version that meets the requirement, newest first.
fn candidates<'a>(
    instances: &'a Instances,
    version: Option<&Requirement>,
) -> impl Iterator<Item = (&'a Version, &'a InstanceSet)> {
    instances.iter().rev().filter(move |(of, _)| version.is_none_or(|version| version.matches(of)))
}

/// How many providers this thread has looked at.
#[cfg(test)]
pub(crate) fn looks_of_this_thread() -> usize {
    pick::LOOKS.get()
}

#[cfg(test)]
mod tests;
