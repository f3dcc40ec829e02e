//! Owners: how many mirrored ephemeral nodes each ZooKeeper session has. A session with none left may have ended.

use std::collections::HashMap;

use crate::model::NodePath;
use crate::store::Snapshot;

/// The number of nodes by session.
#[derive(Debug, Default)]
pub(super) struct Owners(HashMap<i64, u64>);

/// How many nodes sessions lost in one step.
pub(super) type Lost = HashMap<i64, u64>;

impl Owners {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mut owners = Self::default();
        if are_asked_for(snapshot) {
            let root = NodePath::root();
            let all = snapshot.subtree(&root, root.clone()).map(|(_, node)| node.stat.ephemeral_owner);
            all.filter(|owner| *owner != 0).for_each(|owner| *owners.0.entry(owner).or_default() += 1);
        }
        owners
    }

    /// Takes in changes of nodes; returns how many each session lost.
    pub(super) fn follow(&mut self, old: &Snapshot, new: &Snapshot) -> Lost {
        let mut lost = Lost::new();
        if !are_asked_for(new) {
            return lost;
        }
        for (_, before, after) in old.changed_nodes(new) {
            let [before, after] = [before, after].map(|node| node.map_or(0, |node| node.stat.ephemeral_owner));
            if before == after {
                continue;
            }
            if after != 0 {
                *self.0.entry(after).or_default() += 1;
            }
            if before != 0 {
                *lost.entry(before).or_default() += 1;
                match self.0.get_mut(&before) {
                    Some(count) if *count > 1 => *count -= 1,
                    _ => drop(self.0.remove(&before)),
                }
            }
        }
        lost
    }

    /// Why a node of this session is gone, given what sessions lost in this step; 0: it was not ephemeral. What deleted it is
    /// not known: the end of a session may come in several steps, and others may delete all of its nodes in one.
    pub(super) fn why_gone(&self, owner: i64, lost: &Lost) -> String {
        if owner == 0 {
            return "its node was deleted, which was of no session".into();
        }
        let (left, lost) = (self.0.get(&owner).copied().unwrap_or(0), lost.get(&owner).copied().unwrap_or(1));
        match (left, lost) {
            (0, 1) => format!("its node went, the only one of session {owner:#x}: it ended, or the node was deleted"),
            (0, lost) => format!("all {lost} nodes of session {owner:#x} went at once: it ended, or they were deleted"),
            (left, _) => format!("its node went: session {owner:#x} had {left} more then"),
        }
    }
}

/// Whether nodes register instances at all.
fn are_asked_for(snapshot: &Snapshot) -> bool {
    snapshot.feeds().iter().any(|feed| !feed.services().is_empty())
}
