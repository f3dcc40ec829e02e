//! What is left out: nodes that may not be read, pass a limit, or have a name that no node can have.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::NodePath;

/// How many are remembered, and so the most that is told; that there are more is not. And how many bytes of their paths.
const MOST: usize = 100_000;
const MOST_BYTES: usize = 32 << 20;

/// How much of a name that no node can have is kept.
const MOST_NAME: usize = 200;

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
    #[error("what lies below it is left out: with it there would be more than max_nodes")]
    NoPlaceBelow,
    #[error("the list of its children is longer than it may be; those that are known stand")]
    TooManyChildren,
    #[error("its path passes 256 KiB")]
    LongPath,
    #[error("no node of ZooKeeper can have such a name")]
    Name,
}

/// The nodes that are left out, by their paths. What has no path for its name is escaped.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    whys: BTreeMap<Box<str>, Why>,
    bytes: usize,
}

impl LeftOut {
    pub(super) fn insert(&mut self, path: &NodePath, why: Why) {
        self.remember(path.as_str(), why);
    }

    /// A child with a name that no node can have.
    pub(super) fn insert_name(&mut self, parent: &NodePath, name: &str) {
        let name: String = name.escape_default().take(MOST_NAME).collect();
        self.remember(&format!("{}/\"{name}\"", parent.as_str().trim_end_matches('/')), Why::Name);
    }

    fn remember(&mut self, path: &str, why: Why) {
        if let Some(known) = self.whys.get_mut(path) {
            *known = why;
        } else if self.whys.len() < MOST && self.bytes + path.len() <= MOST_BYTES {
            self.bytes += path.len();
            self.whys.insert(path.into(), why);
        }
    }

    /// Forgets a node; whether it was left out.
    pub(super) fn remove(&mut self, path: &NodePath) -> bool {
        let removed = self.whys.remove(path.as_str()).is_some();
        if removed {
            self.bytes -= path.as_str().len();
        }
        removed
    }

    pub(super) fn len(&self) -> usize {
        self.whys.len()
    }
}

/// Which of them the log has told of.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeSet<Box<str>>);

impl Told {
    /// Tells of those that are new: the first of a session by their names, then once that there are more.
    pub(super) fn tell(&mut self, source: &str, left_out: &LeftOut) {
        for (path, why) in &left_out.whys {
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
