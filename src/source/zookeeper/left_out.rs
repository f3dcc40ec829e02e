//! What is left out: nodes that may not be read, or pass a limit.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::NodePath;

/// How many are remembered, and so the most that is told; that there are more is not.
const MOST: usize = 100_000;

/// How many of a session are named in the log.
const MOST_NAMED: usize = 10;

/// Why a node is left out.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum Why {
    #[error("the identity may not read it")]
    Unreadable,
    #[error("its data passes max_node_bytes")]
    TooLarge,
    #[error("it lies deeper than max_depth")]
    TooDeep,
    #[error("with it there would be more than max_nodes or max_bytes")]
    NoPlace,
}

/// The nodes that are left out.
#[derive(Debug, Default)]
pub(super) struct LeftOut(BTreeMap<NodePath, Why>);

impl LeftOut {
    pub(super) fn insert(&mut self, path: &NodePath, why: Why) {
        if self.0.len() < MOST {
            self.0.insert(path.clone(), why);
        }
    }

    /// Forgets a node; whether it was left out.
    pub(super) fn remove(&mut self, path: &NodePath) -> bool {
        self.0.remove(path).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Which of them the log has told of.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeSet<NodePath>);

impl Told {
    /// Tells of those that are new: the first of a session by their names, then once that there are more.
    pub(super) fn tell(&mut self, source: &str, left_out: &LeftOut) {
        for (path, why) in &left_out.0 {
            if self.0.len() > MOST_NAMED {
                return;
            }
            if !self.0.insert(path.clone()) {
                continue;
            }
            if self.0.len() > MOST_NAMED {
                tracing::warn!(source, nodes = left_out.len(), "left out more nodes; `status` goes on counting them");
            } else {
                tracing::warn!(source, %path, %why, "left out a node");
            }
        }
    }
}
