//! The writer: follows the store, and writes what has gathered as one transaction.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use lmdb::{Database, Error, RwTransaction, Transaction, WriteFlags};
use nix::errno::Errno;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::copy::Written;
use super::entry::{self, CHECKSUM, CHILDREN, FORMAT, FRESHNESS, MASTER, NODE, Report, SERVICE, STAT, VERSION};
use super::kept::Kept;
use super::place::{Claim, Mark, Place};
use super::{Contents, Env, SharedError, env, masters};
use crate::metrics::Metrics;
use crate::model::{Node, NodePath, Service, Stat};
use crate::store::{Directory, Entry, Feed, Snapshot, Store};
use crate::task::Stop;

/// How often the report is rewritten, so that readers know that the writer lives.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// After a transaction that took this long or longer, the next one waits: four times as long, so that long lists that
/// change all the time do not take a whole processor, but no longer than a reader may be let wait.
const LONG: Duration = Duration::from_millis(2);
const REST: Duration = Duration::from_millis(250);

/// How often the slots of dead readers are freed, in heartbeats.
const CLEAR: u32 = 5;

/// After a transaction of so many entries the file is unmapped, and mapped anew by the next one: LMDB keeps the memory of
/// all pages that its largest transaction has written.
const MANY: usize = 8_192;

/// What writes the file. Nobody else does.
#[derive(Debug)]
pub(super) struct Writer {
    place: Place,
    claim: Claim,
    marks: [Option<Mark>; 2],
    /// None: to be mapped.
    pub(super) env: Option<Arc<Env>>,
    /// What the file holds,
    nodes: OrdMap<NodePath, Arc<Node>>,
    /// as far as it was this process that wrote it,
    directory: Directory,
    /// and what stands in it from before until all masters are known;
    kept: Kept,
    /// and the sum that its checksum tells.
    sum: u64,
}

/// A transaction under way.
struct Draft<'e> {
    transaction: RwTransaction<'e>,
    db: Database,
    sum: u64,
    /// How many entries were written.
    entries: usize,
}

/// Keeps the file in step with the store, until the stop. Tells the revision of each transaction.
pub(super) async fn follow(
    mut writer: Writer,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    written: watch::Sender<Written>,
    stop: Stop,
) {
    let revisions = store.subscribe_to_revisions();
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut beats, mut failure) = (0, None);
    loop {
        let mut is_there = Ok(());
        let is_last = tokio::select! {
            () = revisions.changed() => false,
            _ = heartbeat.tick() => {
                beats += 1;
                if beats % CLEAR == 0 {
                    writer.env.iter().for_each(|env| clear(env));
                }
                is_there = writer.see_to_place();
                false
            }
            () = stop.requested() => true,
        };
        if writer.env.is_none() {
            is_there = writer.see_to_place();
        }
        let (snapshot, began) = (store.snapshot(), Instant::now());
        let written_now = |()| writer.write(&snapshot).map_err(|error| format!("{error}{}", hint(error)));
        let result = is_there.map_err(|error| error.to_string()).and_then(written_now);
        match result {
            Ok(entries) => {
                metrics.shared_writes.increment();
                let is_large = entries >= MANY && !is_last;
                if is_large {
                    writer.env = None;
                }
                written.send_replace((snapshot.revision(), writer.env.clone()));
                if is_large {
                    env::give_memory_back();
                }
            }
            Err(_) => metrics.shared_failures.increment(),
        }
        report(&mut failure, result.err(), &writer.place.path);
        if is_last {
            return;
        }
        let took = began.elapsed();
        if took >= LONG {
            tokio::select! {
                () = sleep((took * 4).min(REST)) => {}
                () = stop.requested() => {}
            }
        }
    }
}

impl Writer {
    /// Maps the file, which is ours and holds what an earlier process left there.
    pub(super) fn open(
        place: Place,
        claim: Claim,
        here: Option<&Contents>,
        feeds: &[Feed],
    ) -> Result<Self, SharedError> {
        let env = Some(place.map()?);
        Ok(Self {
            marks: place.marks(),
            nodes: here.map_or_else(OrdMap::new, |here| here.nodes.clone()),
            directory: Directory::default(),
            kept: here.map_or_else(Kept::nothing, |here| Kept::of(here, feeds)),
            sum: here.map_or(0, |here| here.sum),
            place,
            claim,
            env,
        })
    }

    /// Makes the file hold what the snapshot does; how many entries that took. Where it fails, the file stands as it was,
    /// its report too: for its readers it then grows old, as it must.
    pub(super) fn write(&mut self, snapshot: &Snapshot) -> Result<usize, Error> {
        let env = self.env()?;
        let mut draft = Draft { transaction: env.write()?, db: env.db, sum: self.sum, entries: 0 };
        if self.nodes.is_empty() {
            draft.remove_marks()?;
        }
        draft.nodes(&self.nodes, snapshot)?;
        // Before, what is known of masters has holes; what an earlier process left has none.
        let are_known = snapshot.behind_masters().all(|(_, filled)| filled.whole);
        if are_known {
            draft.remove(&self.kept.keys)?;
            draft.masters(&self.directory, snapshot.directory())?;
        }
        let kept = Some(&self.kept).filter(|_| !are_known);
        draft.set(FORMAT, Some(VERSION))?;
        draft.set(FRESHNESS, Some(&json(&Report::of(snapshot, kept, SystemTime::now()))))?;
        let entries = draft.entries;
        self.sum = draft.commit()?;
        self.nodes = snapshot.nodes().clone();
        if are_known {
            (self.directory, self.kept) = (snapshot.directory().clone(), Kept::nothing());
        }
        Ok(entries)
    }

    fn env(&mut self) -> Result<Arc<Env>, Error> {
        if let Some(env) = &self.env {
            return Ok(env.clone());
        }
        Ok(self.env.insert(Env::writer(&self.place.path, &self.place.config)?).clone())
    }

    /// Makes the file anew if it was deleted, or its lock file: another one of those would know nothing of the readers.
    fn see_to_place(&mut self) -> Result<(), SharedError> {
        if self.place.marks() == self.marks {
            return Ok(());
        }
        self.claim = self.place.clear(&self.claim)?;
        (self.nodes, self.directory, self.kept, self.sum) = (OrdMap::new(), Directory::default(), Kept::nothing(), 0);
        // Also where the new file cannot be mapped, the old one is no longer written.
        self.env = None;
        self.env = Some(self.place.map()?);
        self.marks = self.place.marks();
        tracing::warn!(path = %self.place.path.display(), "the shared file was deleted; made it anew");
        Ok(())
    }
}

impl Draft<'_> {
    /// In the order of the keys: where it is the file's first filling, LMDB leaves no room in the pages.
    fn nodes(&mut self, from: &OrdMap<NodePath, Arc<Node>>, to: &Snapshot) -> Result<(), Error> {
        let mut families = BTreeSet::new();
        let mut changes = Vec::new();
        for change in from.diff(to.nodes()) {
            let (path, node, is_family) = match change {
                DiffItem::Add(path, node) => (path, Some(node), true),
                DiffItem::Update { new: (path, node), .. } => (path, Some(node), false),
                DiffItem::Remove(path, _) => (path, None, true),
            };
            changes.push((path, node));
            if is_family {
                families.extend(family(path, to));
            }
        }
        families.iter().try_for_each(|parent| self.children(parent, to))?;
        for (path, node) in &changes {
            self.set(&entry::key(NODE, path), node.map(|node| &*node.data))?;
        }
        for (path, node) in changes {
            let stat = node.map(|node| stat(path, &node.stat));
            self.set(&entry::key(STAT, path), stat.as_deref())?;
        }
        Ok(())
    }

    /// The list of a service is written anew when one master comes to offer it, offers it otherwise, or no longer does:
    /// the other cost that is not of the change.
    fn masters(&mut self, from: &Directory, to: &Directory) -> Result<(), Error> {
        let mut services = BTreeSet::new();
        for (old, new) in from.difference(to) {
            if let Some(entry) = new.or(old) {
                let told = new.map(|new| masters::master(new));
                self.set(&entry::named(MASTER, &entry.master.id), told.as_deref())?;
            }
            services.extend(not_in(old, new).chain(not_in(new, old)));
        }
        for name in services {
            let instances = to.offers(name).map(|_| masters::instances(to.instances(name)));
            self.set(&entry::named(SERVICE, name), instances.as_deref())?;
        }
        Ok(())
    }

    /// What is written anew anyway, so that nothing stands behind what comes next.
    fn remove_marks(&mut self) -> Result<(), Error> {
        self.set(FORMAT, None)?;
        self.set(FRESHNESS, None)?;
        match self.transaction.del(self.db, &CHECKSUM, None) {
            Err(Error::NotFound) => Ok(()),
            result => result,
        }
    }

    fn remove(&mut self, keys: &[Vec<u8>]) -> Result<(), Error> {
        keys.iter().try_for_each(|key| self.set(key, None))
    }

    /// A list of 10,000 names is written anew when one comes or goes; a cost that is not of the change.
    fn children(&mut self, path: &NodePath, snapshot: &Snapshot) -> Result<(), Error> {
        let names: Vec<&str> = snapshot.children(path).collect();
        let is_there = !names.is_empty() || snapshot.node(path).is_some();
        self.set(&entry::key(CHILDREN, path), is_there.then(|| json(&names)).as_deref())
    }

    fn set(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Error> {
        let old = match self.transaction.get(self.db, &key) {
            Ok(old) => Some(old),
            Err(Error::NotFound) => None,
            Err(error) => return Err(error),
        };
        if old == value {
            return Ok(());
        }
        let part = |value: Option<&[u8]>| value.map_or(0, |value| entry::part_of_checksum(key, value));
        self.entries += 1;
        self.sum = self.sum.wrapping_sub(part(old)).wrapping_add(part(value));
        match value {
            Some(value) => self.transaction.put(self.db, &key, &value, WriteFlags::empty()),
            None => self.transaction.del(self.db, &key, None),
        }
    }

    fn commit(mut self) -> Result<u64, Error> {
        self.transaction.put(self.db, &CHECKSUM, &entry::checksum(self.sum), WriteFlags::empty())?;
        self.transaction.commit()?;
        Ok(self.sum)
    }
}

/// The paths whose children may be others when `path` comes or goes: itself, its parent, and those above as long as
/// they are no nodes themselves.
fn family(path: &NodePath, snapshot: &Snapshot) -> Vec<NodePath> {
    let mut family = vec![path.clone()];
    let mut above = path.parent();
    while let Some(parent) = above {
        above = parent.parent().filter(|_| snapshot.node(&parent).is_none());
        family.push(parent);
    }
    family
}

/// The services that the one offers, and the other not so.
fn not_in<'a>(one: Option<&'a Arc<Entry>>, other: Option<&'a Arc<Entry>>) -> impl Iterator<Item = &'a str> {
    let [one, other] = [one, other].map(|entry| entry.map(|entry| &*entry.master));
    let at = one.map(|one| &one.address);
    let is_listed = move |service: &&Service| {
        other.is_some_and(|other| Some(&other.address) == at && other.services.contains(service))
    };
    let services = one.into_iter().flat_map(|one| &one.services);
    services.filter(move |service| !is_listed(service)).map(Service::base_name)
}

/// A stat as JSON. Where the key holds only a digest, it tells the path as well.
fn stat(path: &NodePath, stat: &Stat) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Named<'a> {
        path: &'a NodePath,
        #[serde(flatten)]
        stat: &'a Stat,
    }
    if entry::is_short(path.as_str()) { json(stat) } else { json(&Named { path, stat }) }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("texts and numbers can be written as JSON")
}

fn clear(env: &Env) {
    match env.clear_dead_readers() {
        Ok(0) => {}
        Ok(dead) => tracing::debug!(dead, "freed the places of dead readers of the shared file"),
        Err(error) => tracing::warn!(%error, "cannot free the places of dead readers of the shared file"),
    }
}

/// What an operator can do about it.
fn hint(error: Error) -> &'static str {
    match error {
        Error::MapFull => "; raise shared.max_size",
        // LMDB's word for a write that was cut short.
        Error::Other(code) if matches!(Errno::from_raw(code), Errno::EIO | Errno::ENOSPC) => {
            "; is there room on its file system?"
        }
        _ => "",
    }
}

/// Logs a failure when it begins, and its end.
fn report(known: &mut Option<String>, failure: Option<String>, path: &Path) {
    let path = path.display();
    match &failure {
        Some(error) if *known != failure => {
            tracing::error!(%path, error, "cannot write the shared file, which grows old")
        }
        None if known.is_some() => tracing::info!(%path, "the shared file is written again"),
        _ => {}
    }
    *known = failure;
}
