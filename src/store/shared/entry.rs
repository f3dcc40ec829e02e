//! The entries of the shared file: keys and values.

use std::ops::Not;
use std::time::{Duration, SystemTime};

use semver::Version;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::pick::CHUNK;
use super::restored_masters::RestoredMasters;
use crate::clock::millis_since_1970;
use crate::model::{Freshness, NodePath, Origin, Supply, view};
use crate::store::{Feed, FeedProgress, Identity, Instances, Provider, Snapshot};

pub(super) const NODE: &str = "node";
pub(super) const STAT: &str = "stat";
pub(super) const CHILDREN: &str = "children";
pub(super) const SERVICE: &str = "service";
pub(super) const PICK: &str = "pick";
pub(super) const LOTS: &str = "lots";
pub(super) const MASTER: &str = "master";
pub(super) const INSTANCES: &str = "instances";
pub(super) const INSTANCE: &str = "instance";

pub(super) const FORMAT: &[u8] = b"meta/format";
pub(super) const FRESHNESS: &[u8] = b"meta/freshness";
pub(super) const CHECKSUM: &[u8] = b"meta/checksum";

/// Raised when an entry changes its meaning or its form; new kinds of entries do not change the format.
pub(super) const VERSION: &str = "2";

/// LMDB's keys have at most 511 bytes. A longer path or name is replaced by its digest.
const MAX_NAME_BYTES: usize = 500;

/// The writer updates its status every second. After this long without an update, it is away.
const WRITER_SILENCE_THRESHOLD: Duration = Duration::from_secs(3);

/// `meta/freshness`: how far the file could be trusted when it was written. Times are in ms, `writtenAt` and `lastSync`
/// since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileStatus {
    #[serde(flatten)]
    pub fresh: view::Freshness,
    pub written_at: u64,
    pub sources: Vec<Source>,
}

/// The part of `meta/freshness` about one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    pub name: String,
    pub kind: String,
    /// What was mirrored: with another identity, its nodes are those of another cluster.
    pub identity: Identity,
    pub supplies: Vec<Supply>,
    /// The roots of the nodes that it supplies.
    pub roots: Vec<NodePath>,
    /// Whether it was read as a whole. If not, an absence is no answer.
    pub whole: bool,
    /// None: it was never in sync.
    pub age_ms: Option<u64>,
    pub last_sync: Option<u64>,
    pub origin: Origin,
    #[serde(alias = "leftOut")]
    pub skipped_nodes: u64,
    /// Whether masters still have time to come back, whose absence is no answer until then.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub settling: bool,
}

/// The key of one kind of entry of a path: `node/a/b`; for a long path `node#`, and its SHA-256 in hexadecimal.
pub(super) fn key(kind: &str, path: &NodePath) -> Vec<u8> {
    let path = path.as_str();
    if is_short(path) { [kind, path].concat().into_bytes() } else { by_digest(kind, path) }
}

/// The keys of what nodes register of a service: that of the counts, and of each instance by its version and number.
pub(super) fn instances(service: &str) -> Vec<u8> {
    named(INSTANCES, service)
}

pub(super) fn instance(service: &str, version: &Version, number: usize) -> Vec<u8> {
    named(INSTANCE, &format!("{service}\0{version}\0{number}"))
}

/// The key of the hashes and weights of a chunk.
pub(super) fn chunk(service: &str, version: &Version, chunk: usize) -> Vec<u8> {
    named(LOTS, &format!("{service}\0{version}\0{chunk}"))
}

/// The keys of everything that nodes register of a service.
pub(super) fn of_service(name: &str, versions: &Instances) -> Vec<Vec<u8>> {
    let registered = versions.iter().flat_map(|(version, set)| {
        let numbers = (0..set.len()).filter(|number| set.get(*number).is_some_and(Provider::is_registered));
        numbers.map(move |number| instance(name, version, number))
    });
    let registered: Vec<_> = registered.collect();
    if registered.is_empty() {
        return registered;
    }
    let chunks = versions
        .iter()
        .flat_map(|(version, set)| (0..set.len().div_ceil(CHUNK)).map(move |number| chunk(name, version, number)));
    registered.into_iter().chain(chunks).chain([instances(name), named(PICK, name)]).collect()
}

/// Whether an entry is about a master, or about a service that masters offer.
pub(super) fn is_of_masters(key: &[u8]) -> bool {
    [MASTER, SERVICE].iter().any(|kind| key.starts_with(kind.as_bytes()))
}

/// About how much of the file an entry takes: a large value has its own pages.
pub(super) fn room(key: &[u8], value: &[u8]) -> u64 {
    const PAGE: usize = 4096;
    let bytes = key.len() + value.len();
    if bytes < PAGE / 2 { bytes as u64 } else { bytes.next_multiple_of(PAGE) as u64 }
}

/// The key of a service by name, or of a master by id: `service/mail`; if long, as for a path.
pub(super) fn named(kind: &str, name: &str) -> Vec<u8> {
    if is_short(name) { [kind, "/", name].concat().into_bytes() } else { by_digest(kind, name) }
}

fn by_digest(kind: &str, name: &str) -> Vec<u8> {
    let digest = Sha256::digest(name);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    [kind, "#", &hex].concat().into_bytes()
}

pub(super) fn is_short(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES
}

/// An entry's contribution to the checksum, which is the sum over all other entries, modulo 2^64.
pub(super) fn part_of_checksum(key: &[u8], value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, xxh3_64(key))
}

pub(super) fn checksum(sum: u64) -> Vec<u8> {
    format!("{sum:016x}").into_bytes()
}

/// The JSON of an entry.
pub(super) fn written(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("every key is a text, and a vector takes all")
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

impl FileStatus {
    /// If masters of an earlier process are `restored`, their sources are written as they were; sources of which
    /// nothing is known yet are written as they are: no absence is an answer before they are whole.
    pub(super) fn of(snapshot: &Snapshot, restored: Option<&RestoredMasters>, now: SystemTime) -> Self {
        let written_at = millis_since_1970(now);
        let is_restored =
            |feed: &Feed| restored.is_some_and(|restored| restored.sources().any(|(source, _)| source.is_of(feed)));
        let is_live = |feed: &Feed, progress: FeedProgress| match restored {
            Some(_) if feed.knows_masters() => !is_restored(feed) && feed.counts(progress.whole),
            _ => true,
        };
        let live = || snapshot.behind_all().filter(|(feed, progress)| is_live(feed, *progress));
        let mut fresh = snapshot.freshness(live());
        let mut sources: Vec<Source> = live().map(|(feed, progress)| Source::of(feed, progress, written_at)).collect();
        let parts = live().zip(&mut sources).filter_map(|((feed, _), source)| source.split(snapshot.unread_of(feed)));
        let unread: Vec<Source> = parts.collect();
        fresh = unread.iter().fold(fresh, |fresh, part| part.add_to(fresh, Duration::ZERO, Duration::ZERO));
        sources.extend(unread);
        for (source, age) in restored.into_iter().flat_map(RestoredMasters::sources) {
            let source = source.of_earlier(age, written_at);
            fresh = source.add_to(fresh, Duration::ZERO, Duration::ZERO);
            sources.push(source);
        }
        Self { fresh: fresh.into(), written_at, sources }
    }

    /// The freshness of an answer read from the file now, with these sources behind it.
    pub fn freshness<'a>(&self, behind: impl Iterator<Item = &'a Source>, now: SystemTime) -> Freshness {
        let silent = self.since_written(now);
        let silent = if silent > WRITER_SILENCE_THRESHOLD { silent } else { Duration::ZERO };
        let fresh = Freshness { revision: self.fresh.revision, age: silent, origin: Origin::Live, complete: true };
        behind.fold(fresh, |fresh, source| source.add_to(fresh, silent, Duration::from_millis(self.fresh.age_ms)))
    }

    /// The time since the source was last known to be in sync, for another process than the writer; None: never.
    pub(super) fn age_of(&self, source: &Source, now: SystemTime) -> Option<Duration> {
        // Two differences, each of one clock: a clock that was set while nobody ran makes neither negative.
        let before = Duration::from_millis(self.written_at.saturating_sub(source.last_sync?));
        Some(before + self.since_written(now))
    }

    /// The time since it was written. If that lies ahead, the clock was set back and the time is unknown: then it counts as
    /// the difference, so that nothing old looks new.
    fn since_written(&self, now: SystemTime) -> Duration {
        Duration::from_millis(millis_since_1970(now).abs_diff(self.written_at))
    }

    /// The sources that cover what is at or below `path`.
    pub fn behind<'a>(&'a self, path: &'a NodePath) -> impl Iterator<Item = &'a Source> + Clone + 'a {
        self.sources.iter().filter(|source| source.roots.iter().any(|root| path.overlaps(root)))
    }

    /// Those that know masters.
    pub fn behind_masters(&self) -> impl Iterator<Item = &Source> + Clone {
        self.sources.iter().filter(|source| source.knows_masters())
    }

    /// Those that supply instances: masters, or nodes that register some.
    pub fn behind_instances(&self) -> impl Iterator<Item = &Source> + Clone {
        self.sources.iter().filter(|source| source.supplies(Supply::Instances))
    }
}

impl Source {
    fn of(feed: &Feed, progress: FeedProgress, written_at: u64) -> Self {
        Self {
            name: feed.name().to_owned(),
            kind: feed.kind().to_owned(),
            identity: feed.identity().clone(),
            supplies: feed.supplied().to_vec(),
            roots: feed.roots().to_vec(),
            whole: progress.whole,
            age_ms: feed.age().map(millis),
            last_sync: feed.since_proof().map(|since| written_at.saturating_sub(millis(since))),
            origin: feed.origin(),
            skipped_nodes: progress.skipped_nodes,
            settling: progress.settling,
        }
    }

    /// Splits off these of its roots, of which nothing is known; None: there are none.
    fn split<'a>(&mut self, unread: impl Iterator<Item = &'a NodePath>) -> Option<Self> {
        let roots: Vec<NodePath> = unread.cloned().collect();
        self.roots.retain(|root| !roots.contains(root));
        (!roots.is_empty()).then(|| Self { roots, whole: false, skipped_nodes: 0, ..self.clone() })
    }

    /// The same source as an earlier process knew it, `age` ago.
    fn of_earlier(&self, age: Option<Duration>, written_at: u64) -> Self {
        let last_sync = age.map(|age| written_at.saturating_sub(millis(age)));
        Self { age_ms: age.map(millis), last_sync, origin: Origin::Restored, ..self.clone() }
    }

    /// The freshness of `fresh` with this source added.
    fn add_to(&self, fresh: Freshness, silent: Duration, never: Duration) -> Freshness {
        let age = silent + self.age_ms.map_or(never, Duration::from_millis);
        fresh.and(age, self.origin, self.whole && self.skipped_nodes == 0 && !self.settling)
    }

    pub(super) fn supplies(&self, what: Supply) -> bool {
        self.supplies.contains(&what)
    }

    /// Whether it knows masters, rather than nodes.
    pub(super) fn knows_masters(&self) -> bool {
        self.supplies(Supply::Instances) && !self.supplies(Supply::Nodes)
    }

    /// Whether `feed` mirrors the same thing now. Masters name their source; nodes do not, whatever it is called.
    pub(super) fn is_of(&self, feed: &Feed) -> bool {
        self.kind == feed.kind()
            && (self.name == feed.name() || !self.knows_masters())
            && self.identity.is_same(feed.identity())
    }

    pub(super) fn covers(&self, path: &NodePath) -> bool {
        self.roots.iter().any(|root| path.is_under(root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_fits_into_lmdb_and_two_paths_have_two_keys() {
        let path = |text: &str| NodePath::parse(text).expect("a path");
        assert_eq!(key(NODE, &path("/zk_test")), b"node/zk_test");
        assert_eq!(key(CHILDREN, &NodePath::root()), b"children/");
        assert_eq!(key(STAT, &path(&format!("/{}", "x".repeat(499)))).len(), 504);
        let long = key(CHILDREN, &path(&format!("/{}", "x".repeat(500))));
        let digest = "6e46118378e54bd0366020b51a5b63f3ae8a670ea271e4fd462b6318dc52647a";
        assert_eq!(String::from_utf8_lossy(&long), format!("children#{digest}"));
        assert_eq!(named(SERVICE, "mail"), b"service/mail");
        assert_eq!(named(SERVICE, &"x".repeat(500)).len(), 508);
        assert_eq!(named(SERVICE, &"x".repeat(501)).len(), "service#".len() + 64);
        assert_ne!(long, key(CHILDREN, &path(&format!("/{}", "x".repeat(501)))));
    }
}
