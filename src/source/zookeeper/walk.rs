//! The walk: reads nodes and everything below them, level by level.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::bulk::Bulk;
use super::level::Level;
use super::scan::{Scope, Verdict};
use super::skipped::{Skipped, Why};
use crate::model::{Node, NodePath};
use crate::zookeeper::{Fired, Listing, Names, ReadResult, Session, SessionError, Watching, is_same};

/// Collects the states of nodes.
pub(super) trait Gather {
    /// Takes in the state of a node; false: there is no room for it, nor for anything below it. A known one keeps its
    /// room and its state.
    fn take(&mut self, path: &NodePath, verdict: Verdict) -> bool;

    fn skipped(&mut self) -> &mut Skipped;

    /// For how many more nodes there is room, given `max_nodes`.
    fn room(&self, max_nodes: usize) -> usize;
}

/// What is read along with the nodes below which it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Below {
    All,
    /// Whatever no watch covers.
    Unwatched,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Walk<'a> {
    pub(super) scope: &'a Scope<'a>,
    pub(super) bulk: Bulk<'a>,
    pub(super) below: Below,
}

/// Nodes whose children are to be listed.
#[derive(Debug, Default)]
struct Parents {
    paths: Vec<NodePath>,
    /// The approximate number of children of each.
    counts: Vec<usize>,
    states: Vec<State>,
    expected: usize,
    /// Others, which have to be read again.
    again: Vec<NodePath>,
}

/// What is known of a node before its children are listed.
#[derive(Debug)]
enum State {
    /// It was read. None: it is not kept.
    Read(Option<Arc<Node>>),
    /// Its data is watched. The list shows whether it is unchanged.
    Watched(Arc<Node>),
}

impl Walk<'_> {
    pub(super) async fn read(&self, start: Vec<NodePath>, into: &mut impl Gather) -> Result<(), SessionError> {
        let mut level = start;
        while !level.is_empty() {
            let parents = self.read_level(level, into).await?;
            level = self.list(parents, into).await?;
        }
        Ok(())
    }

    /// Reads nodes, except watched ones; returns those whose children are to be listed.
    async fn read_level(&self, level: Vec<NodePath>, into: &mut impl Gather) -> Result<Parents, SessionError> {
        let (mut parents, mut unread) = (Parents::default(), Vec::new());
        for path in level {
            match self.watched(&path) {
                Some(node) => parents.add(&path, node.stat.num_children.max(0) as usize, State::Watched(node)),
                None => unread.push(path),
            }
        }
        let take = |path: &NodePath, reading: ReadResult| {
            if !self.note_watch(path, &reading) {
                parents.again.push(path.clone());
            }
            if into.skipped().hides(path) {
                into.take(path, Verdict::Gone);
                return;
            }
            let children = self.children(path, &reading).filter(|_| !self.scope.is_too_deep(path));
            let verdict = self.scope.classify(path, reading, self.bulk.known);
            let node = match &verdict {
                Verdict::Keep(node) => Some(node.clone()),
                _ => None,
            };
            let has_place = into.take(path, verdict);
            let Some(children) = children else { return };
            // With more than there may be room for, only known nodes are followed.
            let is_full = || {
                let is_full = children > 0 && parents.expected >= into.room(self.scope.config.max_nodes);
                is_full && self.bulk.known.children(path).next().is_none()
            };
            if has_place && !is_full() {
                parents.add(path, children, State::Read(node));
            } else {
                self.skip_below(path, children, into);
            }
        };
        let compares = self.below == Below::All && self.session().watching() == Watching::Persistent;
        self.bulk.read(&unread, compares, take).await?;
        Ok(parents)
    }

    /// Lists the children of nodes: the next level.
    async fn list(&self, parents: Parents, into: &mut impl Gather) -> Result<Vec<NodePath>, SessionError> {
        let Parents { paths, counts, states, mut again, .. } = parents;
        let watches = (self.below == Below::Unwatched).then(|| self.session());
        let mut next = Level::new(self.scope, into.room(self.scope.config.max_nodes), watches);
        let mut states = states.into_iter().zip(counts.iter().copied());
        let take = |path: &NodePath, listing: Listing| {
            let (state, children) = states.next().unwrap_or((State::Read(None), 0));
            match self.confirm(path, state, &listing, into) {
                None => {
                    self.session().watches().remove(path, Fired::BOTH);
                    return again.push(path.clone());
                }
                Some(false) => return self.skip_below(path, children, into),
                Some(true) => {}
            }
            if let (Listing::Names(names), Below::Unwatched) = (&listing, self.below) {
                again.extend(skipped_before(path, names, into.skipped()));
            }
            next.add(path, children, listing, self.bulk.known, into.skipped());
        };
        self.bulk.list(&paths, &counts, take).await?;
        next.paths.append(&mut again);
        Ok(next.paths)
    }

    /// Records that there is no room for what lies below a node without room.
    fn skip_below(&self, path: &NodePath, children: usize, into: &mut impl Gather) {
        if children > 0 && self.below == Below::All {
            into.skipped().insert_below(path, Why::NoPlaceBelow, children);
        }
    }

    /// Takes in what its list of children shows about a node; returns whether there is room for it; None: it has to be
    /// read.
    fn confirm(&self, path: &NodePath, state: State, listing: &Listing, into: &mut impl Gather) -> Option<bool> {
        let (node, was_read) = match state {
            State::Read(node) => (node, true),
            State::Watched(node) => (Some(node), false),
        };
        if self.session().watching() == Watching::OneShot && !matches!(listing, Listing::Nothing) {
            self.session().watches().set_children(path);
        }
        let Listing::Names(Names { parent: Some((stat, length)), .. }) = listing else {
            return was_read.then_some(true);
        };
        let Some(node) = node else { return Some(true) };
        if !is_same(&node, stat, *length) {
            // If it was read, an event reports that.
            return was_read.then_some(true);
        }
        Some(if node.stat != *stat {
            into.take(path, Verdict::Keep(Arc::new(Node { data: node.data.clone(), stat: *stat })))
        } else {
            was_read || into.take(path, Verdict::Keep(node))
        })
    }

    /// The known state of a node whose data is watched; its children may be as well.
    fn watched(&self, path: &NodePath) -> Option<Arc<Node>> {
        if !self.session().watches().has_data(path) {
            return None;
        }
        self.bulk.node(path).filter(|node| node.stat.ephemeral_owner == 0).cloned()
    }

    /// How many children of a node there are to list; None: they are not to be listed.
    fn children(&self, path: &NodePath, reading: &ReadResult) -> Option<usize> {
        let children = match reading {
            ReadResult::Found(node) => node.stat.num_children.max(0) as usize,
            // The number is unknown.
            ReadResult::TooLarge | ReadResult::Refused => 1,
            ReadResult::Absent | ReadResult::Unreadable => return None,
        };
        let has_none = matches!(reading, ReadResult::Found(node) if node.stat.ephemeral_owner != 0);
        let is_listed = match (self.session().watching(), self.below) {
            (Watching::Persistent, Below::All) => children > 0,
            (Watching::Persistent, Below::Unwatched) => false,
            (Watching::OneShot, Below::All) => !has_none,
            (Watching::OneShot, Below::Unwatched) => !has_none && !self.session().watches().has_children(path),
        };
        is_listed.then_some(children)
    }

    /// Remembers how reading a node affected its watch; false: it has to be read again.
    fn note_watch(&self, path: &NodePath, reading: &ReadResult) -> bool {
        if self.session().watching() == Watching::Persistent {
            return true;
        }
        let mut watches = self.session().watches();
        match reading {
            ReadResult::Found(_) | ReadResult::TooLarge => watches.set_data(path),
            ReadResult::Unreadable => return watches.set_unreadable(path),
            ReadResult::Absent => watches.remove_all(path),
            ReadResult::Refused => watches.remove(path, Fired::BOTH),
        }
        true
    }

    fn session(&self) -> &Session {
        self.bulk.session
    }
}

impl Parents {
    fn add(&mut self, path: &NodePath, children: usize, state: State) {
        self.paths.push(path.clone());
        self.counts.push(children);
        self.states.push(state);
        self.expected += children;
    }
}

/// Omitted children that are gone without a watch to report it. Forgets the invalid names among them.
fn skipped_before(parent: &NodePath, names: &Names, skipped: &mut Skipped) -> Vec<NodePath> {
    skipped.remove_names(parent);
    let mut gone = skipped.children(parent);
    if !gone.is_empty() {
        let listed: BTreeSet<NodePath> = names.iter().filter_map(|name| parent.parse_child(&name).ok()).collect();
        gone.retain(|path| !listed.contains(path));
    }
    gone
}
