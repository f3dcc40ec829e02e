//! The scan: collects all nodes that exist, and which of them are mirrored.

use std::sync::Arc;

use super::Config;
use super::skipped::{Skipped, Why};
use super::walk::Gather;
use crate::model::{Node, NodePath};
use crate::source::Generation;
use crate::store::{FeedProgress, Snapshot};
use crate::zookeeper::{Chroot, ReadResult};

/// Which part of the ensemble is mirrored, and how much of it may be.
#[derive(Debug)]
pub(super) struct Scope<'a> {
    pub(super) config: &'a Config,
    /// The path of ZooKeeper's quotas, whose values change without events. Unless a root lies there, they are not
    /// mirrored.
    pub(super) quotas: Option<&'a NodePath>,
}

/// The server's quota path, if the mirror can see it and excludes it.
pub(super) fn quotas(config: &Config, chroot: &Chroot) -> Option<NodePath> {
    const QUOTAS: &str = "/zookeeper/quota";
    let (path, _) = chroot.client(QUOTAS)?;
    (!config.roots.iter().any(|root| root.is_under(&path))).then_some(path)
}

/// The result of a scan.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    pub(super) generation: Generation,
    pub(super) skipped: Skipped,
    known: &'a Snapshot,
    budget: Budget,
}

/// How many nodes and bytes may be added to what is known. Known nodes keep their room: first come, first served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    nodes: u64,
    bytes: u64,
}

impl Budget {
    pub(super) fn new(config: &Config, progress: FeedProgress) -> Self {
        Self {
            nodes: (config.max_nodes as u64).saturating_sub(progress.nodes),
            bytes: config.max_bytes.as_u64().saturating_sub(progress.bytes),
        }
    }

    pub(super) fn nodes(&self) -> usize {
        usize::try_from(self.nodes).unwrap_or(usize::MAX)
    }

    /// Whether there is room for a node, replacing its known state; if so, takes it.
    pub(super) fn admits(&mut self, path: &NodePath, node: &Node, old: Option<&Arc<Node>>) -> bool {
        let (nodes, bytes) = match old {
            Some(old) => (0, node.data.len().saturating_sub(old.data.len())),
            None => (1, path.as_str().len() + node.data.len()),
        };
        let admits = nodes <= self.nodes && bytes as u64 <= self.bytes;
        if admits {
            self.nodes -= nodes;
            self.bytes -= bytes as u64;
        }
        admits
    }
}

/// What to do with a node that was read.
#[derive(Debug)]
pub(super) enum Verdict {
    Keep(Arc<Node>),
    /// It is unreadable, or exceeds a limit: then this older state of it is kept.
    Skip(Why, Option<Arc<Node>>),
    /// It is not to be mirrored.
    Ignore,
    Gone,
}

impl Scope<'_> {
    /// Whether a path, or anything below it, may be mirrored.
    pub(super) fn enters(&self, path: &NodePath) -> bool {
        self.config.roots.iter().any(|root| path.is_under(root))
            && !self.quotas.is_some_and(|quotas| path.is_under(quotas))
            && (self.config.exclude.is_empty() || !path.upwards().any(|above| self.config.exclude.is_match(above)))
    }

    /// Whether a node at this path is mirrored.
    pub(super) fn keeps(&self, path: &NodePath) -> bool {
        self.config.include.is_empty() || self.config.include.is_match(path.as_str())
    }

    pub(super) fn is_too_deep(&self, path: &NodePath) -> bool {
        path.depth() > self.config.max_depth
    }

    pub(super) fn is_too_large(&self, node: &Node) -> bool {
        node.data.len() as u64 > self.config.max_node_bytes.as_u64()
    }

    /// What to do with a node that was read. One that is too large keeps the data in `known`.
    pub(super) fn classify(&self, path: &NodePath, reading: ReadResult, known: &Snapshot) -> Verdict {
        let is_known = || known.node(path).is_some();
        match reading {
            ReadResult::Found(_) if !self.keeps(path) => Verdict::Ignore,
            ReadResult::Found(_) if self.is_too_deep(path) => Verdict::Skip(Why::TooDeep, None),
            ReadResult::Found(node) if !self.is_too_large(&node) => Verdict::Keep(Arc::new(node)),
            ReadResult::Found(_) | ReadResult::TooLarge => {
                Verdict::Skip(Why::TooLarge { is_known: is_known() }, known.node(path).cloned())
            }
            ReadResult::Absent => Verdict::Gone,
            ReadResult::Unreadable => Verdict::Skip(Why::Unreadable, None),
            ReadResult::Refused => Verdict::Skip(Why::Refused { is_known: is_known() }, known.node(path).cloned()),
        }
    }
}

impl Gather for Scan<'_> {
    fn take(&mut self, path: &NodePath, verdict: Verdict) -> bool {
        self.skipped.remove(path);
        match verdict {
            Verdict::Ignore => {}
            Verdict::Keep(node) => {
                let old = self.generation.get(path).or_else(|| self.known.node(path)).cloned();
                if !self.budget.admits(path, &node, old.as_ref()) {
                    let is_known = old.is_some();
                    self.skip(path, Why::NoPlace { is_known }, old);
                    return is_known;
                }
                self.generation.insert(path.clone(), node);
            }
            Verdict::Skip(Why::Unreadable, _) => {
                self.skipped.insert(path, Why::Unreadable);
                self.remove_all(path);
            }
            Verdict::Skip(why, older) => self.skip(path, why, older),
            Verdict::Gone => self.remove_all(path),
        }
        true
    }

    fn skipped(&mut self) -> &mut Skipped {
        &mut self.skipped
    }

    fn room(&self, max_nodes: usize) -> usize {
        max_nodes.saturating_sub(self.generation.len())
    }
}

impl<'a> Scan<'a> {
    pub(super) fn new(known: &'a Snapshot, budget: Budget) -> Self {
        Self { generation: Generation::new(), skipped: Skipped::default(), known, budget }
    }

    fn remove_all(&mut self, path: &NodePath) {
        let below = self.generation.range(path.clone()..).map(|(below, _)| below);
        let gone: Vec<NodePath> = below.take_while(|below| below.is_under(path)).cloned().collect();
        gone.iter().for_each(|path| drop(self.generation.remove(path)));
    }

    fn skip(&mut self, path: &NodePath, why: Why, older: Option<Arc<Node>>) {
        self.skipped.insert(path, why);
        match older {
            Some(node) => drop(self.generation.insert(path.clone(), node)),
            None => drop(self.generation.remove(path)),
        }
    }
}
