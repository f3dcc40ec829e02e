//! Sources: what fills the store, and what happens while one is away.

pub mod file;
mod idle;
pub mod upstream;
pub mod zookeeper;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use self::idle::warn_of_idle_roots;
use crate::model::{Change, Node, NodePath};
use crate::store::Snapshot;

/// All that a source holds, read as a whole.
pub(crate) type Generation = BTreeMap<NodePath, Arc<Node>>;

/// The changes that turn the part of `snapshot` at and below some disjoint roots into `fresh`. Both are in path order,
/// so a single walk along both finds them.
pub(crate) fn difference(snapshot: &Snapshot, roots: &[NodePath], fresh: Generation) -> Vec<Change> {
    let (mut changes, roots) = (Vec::new(), BTreeSet::from_iter(roots));
    let mut old = roots.into_iter().flat_map(|root| snapshot.subtree(root, root.clone())).peekable();
    let mut new = fresh.into_iter().peekable();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changes,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((old, _)), Some((new, _))) => (*old).cmp(new),
        };
        let gone = old.next_if(|_| order.is_le());
        let come = new.next_if(|_| order.is_ge());
        match (gone, come) {
            (Some((path, _)), None) => changes.push(Change::Delete(path.clone())),
            (Some((_, before)), Some((_, after))) if *before == after => {}
            (_, Some((path, node))) => changes.push(Change::Put(path, node)),
            (None, None) => return changes,
        }
    }
}
