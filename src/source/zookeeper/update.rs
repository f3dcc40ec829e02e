//! An update: what reading some nodes again changes in the snapshot.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Config;
use super::scan::Verdict;
use crate::model::{Change, Node, NodePath, Stat};
use crate::store::{Filled, Snapshot};

/// Collects the changes to what is `known`.
pub(super) struct Update<'a> {
    pub(super) changes: Vec<Change>,
    known: &'a Snapshot,
    config: &'a Config,
    filled: Filled,
    left_out: &'a mut BTreeSet<NodePath>,
}

impl<'a> Update<'a> {
    pub(super) fn new(
        known: &'a Snapshot,
        filled: Filled,
        config: &'a Config,
        left_out: &'a mut BTreeSet<NodePath>,
    ) -> Self {
        Self { changes: Vec::new(), known, config, filled, left_out }
    }

    pub(super) fn take(&mut self, path: &NodePath, verdict: Verdict) {
        self.left_out.remove(path);
        match verdict {
            Verdict::Ignore => {}
            Verdict::Keep(node) => self.keep(path, node),
            Verdict::LeaveOut(older) => {
                self.leave_out(path);
                if older.is_none() && self.known.node(path).is_some() {
                    self.changes.push(Change::Delete(path.clone()));
                }
            }
            Verdict::Gone => {
                let below = self.known.subtree(path, path.clone());
                self.changes.extend(below.map(|(below, _)| Change::Delete(below.clone())));
            }
        }
    }

    fn keep(&mut self, path: &NodePath, node: Arc<Node>) {
        let old = self.known.node(path);
        if old.is_some_and(|old| **old == *node || is_older(&node.stat, &old.stat)) {
            return;
        }
        let grown = node.data.len() as u64 - old.map_or(0, |old| (old.data.len() as u64).min(node.data.len() as u64));
        let (nodes, bytes) = (self.filled.nodes + u64::from(old.is_none()), self.filled.bytes + grown);
        if nodes > self.config.max_nodes as u64 || bytes > self.config.max_bytes.as_u64() {
            return self.leave_out(path);
        }
        (self.filled.nodes, self.filled.bytes) = (nodes, bytes);
        self.changes.push(Change::Put(path.clone(), node));
    }

    /// Remembers as many as could be mirrored: those beyond change nothing about what is told.
    fn leave_out(&mut self, path: &NodePath) {
        if self.left_out.len() < self.config.max_nodes {
            self.left_out.insert(path.clone());
        }
    }
}

/// Whether `read` is an older state of a node than `known`, within one session. Versions do not tell: they begin anew
/// when a node is created again.
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
