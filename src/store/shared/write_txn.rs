//! A write transaction of the shared file, which brings its entries to the store's content.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use lmdb::{Database, Error, RwTransaction, Transaction, WriteFlags};
use semver::Version;
use serde_json::Value;

use super::Env;
use super::entry::{
    self, CHECKSUM, CHILDREN, FORMAT, FRESHNESS, FileStatus, MASTER, NODE, PICK, SERVICE, STAT, VERSION, written,
};
use super::pick::{self, CHUNK};
use crate::model::view;
use crate::model::{Node, NodePath, Stat};
use crate::store::{Directory, InstanceSet, Instances, MasterEntry, Snapshot};

/// A transaction under way.
pub(super) struct WriteTxn<'e> {
    transaction: RwTransaction<'e>,
    db: Database,
    sum: u64,
    /// About how many bytes of the file are about masters.
    pub(super) of_masters: u64,
    /// How many entries were written.
    pub(super) entries: usize,
}

impl<'e> WriteTxn<'e> {
    /// For a file whose checksum is of this `sum`, and of which `of_masters` bytes are about masters.
    pub(super) fn begin(env: &'e Env, sum: u64, of_masters: u64) -> Result<Self, Error> {
        Ok(Self { transaction: env.write()?, db: env.db, sum, of_masters, entries: 0 })
    }

    /// In key order: when the file is first filled, LMDB then leaves no room in the pages.
    pub(super) fn nodes(&mut self, from: &OrdMap<NodePath, Arc<Node>>, to: &Snapshot) -> Result<(), Error> {
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

    /// What nodes register: an entry for each instance, by number, and one with the counts for each service.
    pub(super) fn instances(&mut self, from: &Directory, snapshot: &Snapshot) -> Result<(), Error> {
        let (to, none, no_set) = (snapshot.directory(), Instances::default(), InstanceSet::default());
        for name in from.changed_services(to) {
            let [old, new] = [from, to].map(|directory| directory.instances_of(name).unwrap_or(&none));
            let is_registered = |instances: &Instances| instances.count_of_registered() > 0;
            if !is_registered(old) && !is_registered(new) {
                continue;
            }
            let is_one = is_registered(new);
            let versions: BTreeSet<&Version> = old.keys().chain(new.keys()).collect();
            for version in versions {
                let [old, new] = [old, new].map(|instances| instances.get(version).unwrap_or(&no_set));
                // If nodes no longer register any, all of it goes.
                let all = if is_one { 0 } else { old.len().div_ceil(CHUNK) };
                let mut chunks: BTreeSet<usize> = (0..all).collect();
                for (number, provider) in old.changed_numbers(new) {
                    let instance = provider.and_then(|provider| provider.instances.first()).map(view::Instance::from);
                    let instance = instance.as_ref().map(written);
                    self.set(&entry::instance(name, version, number), instance.as_deref())?;
                    chunks.insert(number / CHUNK);
                }
                for number in chunks {
                    let chunk = if is_one { pick::chunk(new, number) } else { None };
                    self.set(&entry::chunk(name, version, number), chunk.as_deref())?;
                }
            }
            let counts = new.iter().rev().map(|(version, set)| (version.to_string(), set.len().into()));
            let counts = is_one.then(|| written(&counts.collect::<serde_json::Map<_, Value>>()));
            self.set(&entry::instances(name), counts.as_deref())?;
            let choice = if is_one { pick::choice(new) } else { None };
            self.set(&entry::named(PICK, name), choice.as_deref())?;
        }
        Ok(())
    }

    /// Removes what an earlier process left of that, and is no longer registered: all that is not in the snapshot.
    pub(super) fn forget_instances(&mut self, left: &[Vec<u8>], snapshot: &Snapshot) -> Result<(), Error> {
        if left.is_empty() {
            return Ok(());
        }
        let services = snapshot.directory().services(None);
        let stands: HashSet<Vec<u8>> =
            services.flat_map(|(name, versions)| entry::of_service(name, versions)).collect();
        left.iter().filter(|key| !stands.contains(*key)).try_for_each(|key| self.set(key, None))
    }

    /// The list of a service's masters is rewritten when one of its instances changes: the other cost that is not
    /// proportional to the change. More than `max` bytes count as a full file.
    pub(super) fn masters(&mut self, from: &Directory, snapshot: &Snapshot, max: u64) -> Result<(), Error> {
        let to = snapshot.directory();
        for (old, new) in from.difference(to) {
            if let Some(entry) = new.or(old) {
                let told = new.map(|new| written(&master(new)));
                self.set_of_masters(&entry::named(MASTER, &entry.master.id), told.as_deref(), max)?;
            }
        }
        for name in from.changed_services(to) {
            let instances = to.instances(name).filter(|(_, instance)| instance.master().is_some());
            let instances: Vec<_> = instances.map(|(_, instance)| view::Instance::from(instance)).collect();
            let instances = (!instances.is_empty()).then(|| written(&instances));
            self.set_of_masters(&entry::named(SERVICE, name), instances.as_deref(), max)?;
        }
        Ok(())
    }

    /// Removes what is rewritten anyway, so that nothing follows the next entries.
    pub(super) fn remove_marks(&mut self) -> Result<(), Error> {
        self.set(FORMAT, None)?;
        self.set(FRESHNESS, None)?;
        match self.transaction.del(self.db, &CHECKSUM, None) {
            Err(Error::NotFound) => Ok(()),
            result => result,
        }
    }

    pub(super) fn remove(&mut self, keys: &[Vec<u8>]) -> Result<(), Error> {
        keys.iter().try_for_each(|key| self.set(key, None))
    }

    /// A list of 10,000 names is rewritten when one changes: a cost that is not proportional to the change.
    fn children(&mut self, path: &NodePath, snapshot: &Snapshot) -> Result<(), Error> {
        let names: Vec<&str> = snapshot.children(path).collect();
        let is_there = !names.is_empty() || snapshot.node(path).is_some();
        self.set(&entry::key(CHILDREN, path), is_there.then(|| written(&names)).as_deref())
    }

    /// Writes the status of the file.
    pub(super) fn marks(&mut self, status: &FileStatus) -> Result<(), Error> {
        self.set(FORMAT, Some(VERSION.as_bytes()))?;
        self.set(FRESHNESS, Some(&written(status)))
    }

    /// Marks the file as left: for its readers, its writer is away.
    pub(super) fn farewell(&mut self) -> Result<(), Error> {
        let last = match self.transaction.get(self.db, &FRESHNESS) {
            Ok(last) => serde_json::from_slice::<FileStatus>(last).ok(),
            Err(Error::NotFound) => None,
            Err(error) => return Err(error),
        };
        let status = last.map(|status| written(&FileStatus { written_at: 0, ..status }));
        self.set(FRESHNESS, status.as_deref())
    }

    fn set_of_masters(&mut self, key: &[u8], value: Option<&[u8]>, max: u64) -> Result<(), Error> {
        self.set(key, value)?;
        if self.of_masters > max { Err(Error::MapFull) } else { Ok(()) }
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
        if entry::is_of_masters(key) {
            let room = |value: Option<&[u8]>| value.map_or(0, |value| entry::room(key, value));
            self.of_masters = (self.of_masters + room(value)).saturating_sub(room(old));
        }
        match value {
            Some(value) => self.transaction.put(self.db, &key, &value, WriteFlags::empty()),
            None => self.transaction.del(self.db, &key, None),
        }
    }

    /// Returns the new sum behind the checksum.
    pub(super) fn commit(mut self) -> Result<u64, Error> {
        self.transaction.put(self.db, &CHECKSUM, &entry::checksum(self.sum), WriteFlags::empty())?;
        self.transaction.commit()?;
        Ok(self.sum)
    }
}

/// The paths whose children may change with `path`: itself, its parent, and further ancestors as long as the one below
/// is not a node.
fn family(path: &NodePath, snapshot: &Snapshot) -> Vec<NodePath> {
    let mut family = vec![path.clone()];
    let mut above = path.parent();
    while let Some(parent) = above {
        above = parent.parent().filter(|_| snapshot.node(&parent).is_none());
        family.push(parent);
    }
    family
}

/// The content of `master/<id>`.
fn master(entry: &MasterEntry) -> view::Master {
    let master = view::Master::of(&entry.master, entry.master.services.iter());
    view::Master {
        routes: entry.lines().count() as u32,
        sources: entry.sources().map(str::to_owned).collect(),
        ..master
    }
}

/// A stat as JSON. If the key is only a digest, it includes the path.
fn stat(path: &NodePath, stat: &Stat) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Named<'a> {
        path: &'a NodePath,
        #[serde(flatten)]
        stat: &'a Stat,
    }
    if entry::is_short(path.as_str()) { written(stat) } else { written(&Named { path, stat }) }
}
