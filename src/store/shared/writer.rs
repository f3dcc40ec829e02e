//! The writer: follows the store, and writes what has gathered as one transaction.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use lmdb::{Database, Error, RwTransaction, Transaction, WriteFlags};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::Env;
use super::entry::{self, CHECKSUM, CHILDREN, FORMAT, FRESHNESS, NODE, Report, STAT, VERSION};
use crate::metrics::Metrics;
use crate::model::{Node, NodePath, Revision, Stat};
use crate::store::{Snapshot, Store};
use crate::task::Stop;

/// How often the report is rewritten, so that readers know that the writer lives.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How often the slots of dead readers are freed, in heartbeats.
const CLEAR: u32 = 5;

/// What writes the file. Nobody else does.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) env: Arc<Env>,
    /// What the file holds,
    pub(super) nodes: OrdMap<NodePath, Arc<Node>>,
    /// and the sum that its checksum tells.
    pub(super) sum: u64,
}

/// A transaction under way.
struct Draft<'e> {
    transaction: RwTransaction<'e>,
    db: Database,
    sum: u64,
}

/// Keeps the file in step with the store, until the stop. Tells the revision of each transaction.
pub(super) async fn follow(
    mut writer: Writer,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    written: watch::Sender<Revision>,
    stop: Stop,
) {
    let everything = store.subscribe(&[NodePath::root()]);
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut beats, mut failure) = (0, None);
    loop {
        let is_last = tokio::select! {
            () = everything.changed() => false,
            _ = heartbeat.tick() => {
                beats += 1;
                if beats % CLEAR == 0 {
                    clear(&writer.env);
                }
                false
            }
            () = stop.requested() => true,
        };
        let snapshot = store.snapshot();
        let result = writer.write(&snapshot);
        match result {
            Ok(()) => {
                metrics.shared_writes.increment();
                written.send_replace(snapshot.revision());
            }
            Err(_) => metrics.shared_failures.increment(),
        }
        report(&mut failure, result.err());
        if is_last {
            return;
        }
    }
}

impl Writer {
    /// Makes the file hold what the snapshot does. Where that fails, it stands as it was, its report too: for its
    /// readers it then grows old, as it must.
    pub(super) fn write(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let mut draft = Draft { transaction: self.env.write()?, db: self.env.db, sum: self.sum };
        let mut families = BTreeSet::new();
        for change in self.nodes.diff(snapshot.nodes()) {
            let (path, node, is_family) = match change {
                DiffItem::Add(path, node) => (path, Some(node), true),
                DiffItem::Update { new: (path, node), .. } => (path, Some(node), false),
                DiffItem::Remove(path, _) => (path, None, true),
            };
            draft.node(path, node)?;
            if is_family {
                families.extend(family(path, snapshot));
            }
        }
        for parent in families {
            draft.children(&parent, snapshot)?;
        }
        draft.set(FORMAT, Some(VERSION))?;
        draft.set(FRESHNESS, Some(&json(&Report::of(snapshot, SystemTime::now()))))?;
        self.sum = draft.commit()?;
        self.nodes = snapshot.nodes().clone();
        Ok(())
    }
}

impl Draft<'_> {
    fn node(&mut self, path: &NodePath, node: Option<&Arc<Node>>) -> Result<(), Error> {
        self.set(&entry::key(NODE, path), node.map(|node| &*node.data))?;
        let stat = node.map(|node| stat(path, &node.stat));
        self.set(&entry::key(STAT, path), stat.as_deref())
    }

    /// A list of 10,000 names is written anew when one comes or goes; it is the one cost that is not of the change.
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

/// Logs a failure when it begins, and its end.
fn report(known: &mut Option<Error>, failure: Option<Error>) {
    match failure {
        Some(error) if *known != failure => {
            let hint = if error == Error::MapFull { "; raise shared.max_size" } else { "" };
            tracing::error!(%error, "cannot write the shared file, which grows old{hint}");
        }
        None if known.is_some() => tracing::info!("the shared file is written again"),
        _ => {}
    }
    *known = failure;
}
