//! The delta: the changes that reading some nodes again makes to the snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::scan::{Budget, Verdict};
use super::skipped::{Skipped, Why};
use super::walk::Gather;
use crate::model::{Change, Node, NodePath, Stat};
use crate::store::Snapshot;

/// Collects the changes relative to `known`.
pub(super) struct Delta<'a> {
    /// The new state of each path. None: it is gone.
    changes: BTreeMap<NodePath, Option<Arc<Node>>>,
    known: &'a Snapshot,
    budget: Budget,
    /// Whether what is known was read in this session, except what was omitted: then there is no newer state to lose.
    confirmed: bool,
    skipped: &'a mut Skipped,
}

impl Gather for Delta<'_> {
    fn take(&mut self, path: &NodePath, verdict: Verdict) -> bool {
        let was_left_out = self.skipped.remove(path);
        match verdict {
            Verdict::Ignore => {}
            Verdict::Keep(node) => return self.keep(path, node, self.confirmed && !was_left_out),
            // What lies below cannot be followed, as it could not be found at a start.
            Verdict::Skip(Why::Unreadable, _) => {
                self.skipped.insert(path, Why::Unreadable);
                self.delete_all(path);
            }
            Verdict::Skip(why, older) => {
                self.skipped.insert(path, why);
                if older.is_none() {
                    self.changes.insert(path.clone(), None);
                }
            }
            Verdict::Gone => self.delete_all(path),
        }
        true
    }

    fn skipped(&mut self) -> &mut Skipped {
        self.skipped
    }

    fn room(&self, _max_nodes: usize) -> usize {
        self.budget.nodes()
    }
}

impl<'a> Delta<'a> {
    pub(super) fn new(known: &'a Snapshot, budget: Budget, confirmed: bool, skipped: &'a mut Skipped) -> Self {
        Self { changes: BTreeMap::new(), known, budget, confirmed, skipped }
    }

    pub(super) fn changes(self) -> Vec<Change> {
        let change = |(path, node)| match node {
            Some(node) => Change::Put(path, node),
            None => Change::Delete(path),
        };
        self.changes.into_iter().map(change).collect()
    }

    fn delete_all(&mut self, path: &NodePath) {
        let put = self.changes.range_mut(path.clone()..).take_while(|(below, _)| below.is_under(path));
        put.for_each(|(_, node)| *node = None);
        let known = self.known.subtree(path, path.clone());
        self.changes.extend(known.map(|(below, _)| (below.clone(), None)));
    }

    /// Whether there is room for it, even if unchanged.
    fn keep(&mut self, path: &NodePath, node: Arc<Node>, confirmed: bool) -> bool {
        let old = match self.changes.get(path) {
            Some(changed) => changed.as_ref(),
            None => self.known.node(path),
        };
        if old.is_some_and(|old| **old == *node || confirmed && is_older(&node.stat, &old.stat)) {
            return true;
        }
        let is_known = old.is_some();
        let is_admitted = self.budget.admits(path, &node, old);
        if is_admitted {
            self.changes.insert(path.clone(), Some(node));
        } else {
            self.skipped.insert(path, Why::NoPlace { is_known });
        }
        is_admitted || is_known
    }
}

/// Whether `read` is an older state of a node than `known`, within one session. Versions do not show that: they start
/// over when a node is created again.
fn is_older(read: &Stat, known: &Stat) -> bool {
    (read.czxid, read.mzxid.max(read.pzxid)) < (known.czxid, known.mzxid.max(known.pzxid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recreated_node_is_newer_whatever_its_version() {
        let stat = |czxid, mzxid, pzxid, version| Stat { czxid, mzxid, pzxid, version, ..Stat::default() };
        assert!(!is_older(&stat(9, 9, 9, 0), &stat(1, 8, 1, 7)));
        assert!(is_older(&stat(1, 8, 1, 7), &stat(9, 9, 9, 0)));
        assert!(is_older(&stat(1, 5, 1, 1), &stat(1, 6, 1, 2)));
        assert!(is_older(&stat(1, 5, 6, 1), &stat(1, 5, 7, 1)));
        assert!(!is_older(&stat(1, 5, 7, 1), &stat(1, 5, 7, 1)));
    }
}
