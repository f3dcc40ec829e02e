//! Reading many instances again in parts, for a rule or a mapping that changes them: others have their turn in between.

use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::OrdMap;

use super::reader::Reader;
use super::{Nodes, Registrations};
use crate::format::Role;
use crate::model::{NodePath, Revision};
use crate::store::directory::Directory;
use crate::store::{Feed, Proof};

/// How many instances are read again in one revision, and for about how long.
pub(super) const MAX_AT_ONCE: usize = 256;
const MAX_TIME: Duration = Duration::from_millis(10);

/// How many nodes are looked at to find them.
const MAX_SEEN: usize = 4_096;

/// Nodes of a feed, below its root of this number, of which those that register instances are read again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scan {
    pub(super) feed: usize,
    pub(super) number: usize,
    pub(super) of: Of,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Of {
    /// The children of a node.
    Parent(NodePath),
    /// The nodes that a document may change as that of their application.
    Document(NodePath),
}

/// What the changes of one feed have left to read again. Whatever is deferred meanwhile comes after that: so each node
/// has its turn, however often a rule changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Deferred {
    now: Round,
    next: Round,
}

#[derive(Clone, Debug, Default)]
struct Round {
    /// Each with the last node that was looked at.
    scans: OrdMap<Scan, Option<NodePath>>,
    /// What holds when all of it has been read.
    proof: Option<Proof>,
}

impl Scan {
    fn finds(&self, reader: &Reader<'_>, path: &NodePath) -> bool {
        let is_meant = match &self.of {
            Of::Parent(parent) => path.depth() == parent.depth() + 1,
            Of::Document(_) => true,
        };
        let located = || reader.configs[self.number].locate(path);
        is_meant && located().is_some_and(|located| located.role == Role::Instance)
    }
}

impl Deferred {
    fn extend(&mut self, scans: Vec<Scan>) {
        let is_idle = self.now.scans.is_empty();
        for scan in scans {
            let is_ahead = self.now.scans.get(&scan).is_some_and(Option::is_none);
            if is_idle {
                self.now.scans.insert(scan, None);
            } else if !is_ahead {
                self.next.scans.insert(scan, None);
            }
        }
    }
}

impl Registrations {
    /// The nodes among which a scan looks, after the last one.
    fn among<'a>(
        &'a self,
        nodes: &'a Nodes,
        scan: &'a Scan,
        last: Option<&NodePath>,
    ) -> Box<dyn Iterator<Item = &'a NodePath> + 'a> {
        match &scan.of {
            Of::Parent(parent) => {
                let last = last.unwrap_or(parent).clone();
                let after = nodes.range::<_, NodePath>((Bound::Excluded(last), Bound::Unbounded));
                Box::new(after.map(|(path, _)| path).take_while(move |path| path.is_under(parent)))
            }
            Of::Document(document) => {
                let last = (document.clone(), last.cloned().unwrap_or_else(NodePath::root));
                let of_applications = &self.of_applications;
                let after = of_applications.range::<_, (NodePath, NodePath)>((Bound::Excluded(last), Bound::Unbounded));
                Box::new(after.take_while(move |(of, _)| of == document).map(|(_, path)| path))
            }
        }
    }
}

impl Directory {
    /// Whether a feed has something left to read again.
    pub(in crate::store) fn is_deferring(&self, feed: usize) -> bool {
        self.registrations.deferred.contains_key(&feed)
    }

    /// Returns a proof, or keeps it until all that it is about has been read.
    pub(in crate::store) fn prove(&mut self, feed: usize, proof: Proof) -> Option<Proof> {
        let Some(deferred) = self.registrations.deferred.get_mut(&feed) else { return Some(proof) };
        let is_last = deferred.next.scans.is_empty();
        let round = if is_last { &mut deferred.now } else { &mut deferred.next };
        round.proof = Some(proof);
        None
    }

    pub(super) fn defer(&mut self, feed: usize, scans: Vec<Scan>) {
        if !scans.is_empty() {
            self.registrations.deferred.entry(feed).or_default().extend(scans);
        }
    }

    /// What a scan finds besides nodes that are due, which are sorted; None: more than there is room for.
    pub(super) fn few(
        &self,
        reader: &Reader<'_>,
        scan: &Scan,
        due: &[(usize, NodePath)],
        room: usize,
    ) -> Option<Vec<(usize, NodePath)>> {
        let (mut unseen, mut few) = (due.len() + MAX_SEEN, Vec::new());
        for path in self.registrations.among(reader.nodes, scan, None) {
            unseen = unseen.checked_sub(1)?;
            let is_due = || due.binary_search_by(|(number, other)| (*number, other).cmp(&(scan.number, path))).is_ok();
            if scan.finds(reader, path) && !is_due() {
                if few.len() == room {
                    return None;
                }
                few.push((scan.number, path.clone()));
            }
        }
        Some(few)
    }

    /// Reads a part of what a feed has left to read again; returns the proof of what has been read by then.
    pub(in crate::store) fn read_deferred(
        &mut self,
        feeds: &[Arc<Feed>],
        feed: usize,
        revision: Revision,
        nodes: &Nodes,
    ) -> Option<Proof> {
        let mut deferred = self.registrations.deferred.get(&feed)?.clone();
        let (began, mut is_begun, mut count) = (Instant::now(), false, 0);
        // However long it takes to find one, each part has some.
        let has_room = |is_begun: bool, count: usize| !is_begun || count < MAX_AT_ONCE && began.elapsed() < MAX_TIME;
        while has_room(is_begun, count)
            && let Some((scan, mut last)) = deferred.now.scans.get_min().cloned()
        {
            let mut reader = Reader::new(feeds, scan.feed, revision, nodes);
            let before = self.registrations.ledger.clone();
            let some: Vec<NodePath> =
                self.registrations.among(nodes, &scan, last.as_ref()).take(MAX_SEEN).cloned().collect();
            let has_more = some.len() == MAX_SEEN;
            let mut some = some.into_iter();
            while has_room(is_begun, count)
                && let Some(path) = some.next()
            {
                is_begun = true;
                if scan.finds(&reader, &path) {
                    self.read(&mut reader, scan.number, &path, false, None);
                    count += 1;
                }
                last = Some(path);
            }
            self.read_beyond(&mut reader, &before);
            let is_done = !has_more && some.as_slice().is_empty();
            match is_done {
                true => deferred.now.scans.remove(&scan),
                false => deferred.now.scans.insert(scan, last),
            };
        }
        let mut proof = None;
        if deferred.now.scans.is_empty() {
            let next = std::mem::take(&mut deferred.next);
            proof = std::mem::replace(&mut deferred.now, next).proof;
        }
        match deferred.now.scans.is_empty() {
            true => self.registrations.deferred.remove(&feed),
            false => self.registrations.deferred.insert(feed, deferred),
        };
        proof
    }
}
