//! The snapshot: everything known at one revision, immutable.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, Vector};

use super::Feed;
use crate::model::{Change, ChangeKind, Freshness, Node, NodePath, Origin, Revision};

/// Everything known at one revision.
///
/// A clone shares all it can with the original, so that the next snapshot costs by what changed, not by its size.
#[derive(Clone, Debug)]
pub struct Snapshot {
    revision: Revision,
    nodes: OrdMap<NodePath, Arc<Node>>,
    /// The newest changes, oldest first.
    journal: Vector<Told>,
    /// Every change after this revision is in the journal.
    journal_since: Revision,
    journal_limit: usize,
    feeds: Arc<[Arc<Feed>]>,
    filled: Arc<[Filled]>,
}

/// How much a feed has filled in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Whether it has published a whole generation. Before, an absence is no answer.
    pub whole: bool,
    pub nodes: u64,
    /// Of paths and data.
    pub bytes: u64,
}

/// That a path changed in a revision.
#[derive(Clone, Debug)]
struct Told {
    revision: Revision,
    path: NodePath,
    kind: ChangeKind,
}

/// What `apply` did.
pub(super) struct Applied {
    pub(super) changed: bool,
    /// The paths that watchers are told of.
    pub(super) paths: Vec<NodePath>,
}

/// How much an answer may hold.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub changes: usize,
    pub bytes: usize,
}

/// What changed since a revision.
#[derive(Debug, PartialEq, Eq)]
pub enum Since {
    /// It is no longer known, or too much to tell.
    Unknown,
    /// The changes up to and with the revision `upto`, each path once. The nodes are as they are now.
    Known { changes: Vec<(NodePath, ChangeKind, Option<Arc<Node>>)>, upto: Revision },
}

impl Snapshot {
    pub(super) fn empty(revision: Revision, journal_limit: usize, feeds: Arc<[Arc<Feed>]>) -> Self {
        Self {
            revision,
            nodes: OrdMap::new(),
            journal: Vector::new(),
            journal_since: revision,
            journal_limit,
            filled: feeds.iter().map(|_| Filled::default()).collect(),
            feeds,
        }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn feeds(&self) -> &[Arc<Feed>] {
        &self.feeds
    }

    /// By the number of the feed.
    pub fn filled(&self) -> &[Filled] {
        &self.filled
    }

    pub fn node(&self, path: &NodePath) -> Option<&Arc<Node>> {
        self.nodes.get(path)
    }

    /// What lies at `from` and after it, as long as it is at or below `root`; parents before their children.
    pub fn subtree<'a>(
        &'a self,
        root: &'a NodePath,
        from: NodePath,
    ) -> impl Iterator<Item = (&'a NodePath, &'a Arc<Node>)> + 'a {
        self.nodes.range(from..).take_while(|(path, _)| path.is_under(root))
    }

    /// The names of a node's children, in the order of their bytes.
    pub fn children<'a>(&'a self, parent: &'a NodePath) -> impl Iterator<Item = &'a str> + 'a {
        let mut below = self.nodes.range(parent.clone()..);
        let mut last: Option<&str> = None;
        std::iter::from_fn(move || {
            loop {
                let (path, _) = below.next()?;
                if path == parent {
                    continue;
                }
                let name = parent.child_towards(path)?;
                if last != Some(name) {
                    last = Some(name);
                    return Some(name);
                }
                // The child has a subtree of its own: leap over it.
                below = self.nodes.range(parent.after_child(name)..);
            }
        })
    }

    /// The feeds, with what they have filled in.
    pub fn behind_all(&self) -> impl Iterator<Item = (&Feed, Filled)> {
        self.feeds.iter().map(Arc::as_ref).zip(self.filled.iter().copied())
    }

    /// Those that have a say in what lies at or below `path`.
    pub fn behind<'a>(&'a self, path: &'a NodePath) -> impl Iterator<Item = (&'a Feed, Filled)> + 'a {
        self.behind_all().filter(|(feed, _)| feed.is_behind(path))
    }

    /// How far an answer from what `feeds` have filled in can be trusted.
    pub fn freshness<'a>(&self, feeds: impl Iterator<Item = (&'a Feed, Filled)>) -> Freshness {
        let fresh = Freshness { revision: self.revision, age: Duration::ZERO, origin: Origin::Live, complete: true };
        feeds.fold(fresh, |fresh, (feed, filled)| Freshness {
            age: fresh.age.max(feed.age_at_least()),
            complete: fresh.complete && filled.whole && feed.left_out() == 0,
            ..fresh
        })
    }

    /// What changed at or below `paths` since a revision: as many whole revisions as have room.
    pub fn changes_since(&self, since: Revision, paths: &[NodePath], room: Room) -> Since {
        if since < self.journal_since || since > self.revision {
            return Since::Unknown;
        }
        let roots: HashSet<&str> = paths.iter().map(NodePath::as_str).collect();
        let newer = self.journal_after(since);
        let mut told: Vec<(NodePath, ChangeKind)> = Vec::new();
        let mut seen: HashSet<&NodePath> = HashSet::new();
        let (mut upto, mut bytes, mut cut) = (since, 0, false);
        let mut newer = newer.iter().peekable();
        while let Some(revision) = newer.peek().map(|told| told.revision) {
            let whole = told.len();
            while let Some(change) = newer.next_if(|change| change.revision == revision) {
                // By its own path and those above: many roots cost no more than one.
                if !change.path.upwards().any(|above| roots.contains(above)) || !seen.insert(&change.path) {
                    continue;
                }
                bytes += self.told_size(&change.path);
                told.push((change.path.clone(), change.kind));
            }
            if bytes > room.bytes && whole == 0 {
                return Since::Unknown;
            }
            if bytes > room.bytes || told.len() > room.changes && whole > 0 {
                told.truncate(whole);
                cut = true;
                break;
            }
            upto = revision;
        }
        if !cut {
            upto = self.revision;
        }
        let changes = told.into_iter().map(|(path, first)| self.outcome(path, first)).collect();
        Since::Known { changes, upto }
    }

    /// What became of a path whose first change was `first`. One that came and went is told as deleted: whoever asks
    /// may have seen it in between, on a later page of a subtree or as the newer data of an earlier change.
    fn outcome(&self, path: NodePath, first: ChangeKind) -> (NodePath, ChangeKind, Option<Arc<Node>>) {
        let node = self.nodes.get(&path).cloned();
        let kind = match (first, &node) {
            (ChangeKind::Created, Some(_)) => ChangeKind::Created,
            (_, Some(_)) => ChangeKind::Changed,
            (_, None) => ChangeKind::Deleted,
        };
        (path, kind, node)
    }

    /// About how many bytes a change of `path` takes in a reply.
    fn told_size(&self, path: &NodePath) -> usize {
        let data = self.nodes.get(path).map_or(0, |node| node.data.len());
        path.as_str().len() * 2 + data + 128
    }

    fn journal_after(&self, since: Revision) -> Vector<Told> {
        let newer = self.journal.binary_search_by(|told| {
            if told.revision > since { std::cmp::Ordering::Greater } else { std::cmp::Ordering::Less }
        });
        let (Ok(at) | Err(at)) = newer;
        self.journal.skip(at)
    }

    /// Makes this the next revision, if `changes` differ from what is here or make the feed whole.
    pub(super) fn apply(&mut self, feed: usize, changes: Vec<Change>, whole: bool) -> Applied {
        let mut next = Next { revision: self.revision + 1, filled: self.filled[feed], told: Vec::new(), silent: false };
        for change in changes {
            match change {
                Change::Put(path, node) => self.put(&mut next, path, node),
                Change::Delete(path) => self.delete(&mut next, path),
            }
        }
        next.filled.whole |= whole;
        let changed = next.silent || !next.told.is_empty() || next.filled != self.filled[feed];
        let paths = next.told.iter().map(|told| told.path.clone()).collect();
        if changed {
            self.revision = next.revision;
            self.filled =
                self.filled.iter().enumerate().map(|(i, f)| if i == feed { next.filled } else { *f }).collect();
            self.remember(next.told);
        }
        Applied { changed, paths }
    }

    fn put(&mut self, next: &mut Next, path: NodePath, node: Arc<Node>) {
        let size = |node: &Node| (path.as_str().len() + node.data.len()) as u64;
        next.filled.nodes += 1;
        next.filled.bytes += size(&node);
        let Some(old) = self.nodes.insert(path.clone(), node.clone()) else {
            return next.tell(path, ChangeKind::Created);
        };
        next.filled.nodes -= 1;
        next.filled.bytes -= size(&old);
        if is_told(&old, &node) {
            next.tell(path, ChangeKind::Changed);
        } else if old != node {
            next.silent = true;
        }
    }

    fn delete(&mut self, next: &mut Next, path: NodePath) {
        if let Some(old) = self.nodes.remove(&path) {
            next.filled.nodes -= 1;
            next.filled.bytes -= (path.as_str().len() + old.data.len()) as u64;
            next.tell(path, ChangeKind::Deleted);
        }
    }

    fn remember(&mut self, told: Vec<Told>) {
        if told.len() > self.journal_limit {
            self.journal.clear();
            self.journal_since = self.revision;
            return;
        }
        self.journal.extend(told);
        while self.journal.len() > self.journal_limit {
            if let Some(oldest) = self.journal.pop_front() {
                self.journal_since = oldest.revision;
            }
        }
    }
}

/// The next revision while it is made.
struct Next {
    revision: Revision,
    filled: Filled,
    told: Vec<Told>,
    /// Whether something changed of which watchers are not told.
    silent: bool,
}

impl Next {
    fn tell(&mut self, path: NodePath, kind: ChangeKind) {
        self.told.push(Told { revision: self.revision, path, kind });
    }
}

/// Whether watchers are told of a change: not when only a child came or went (that is told of the child).
fn is_told(old: &Node, new: &Node) -> bool {
    old.stat.czxid != new.stat.czxid || old.stat.mzxid != new.stat.mzxid || old.data != new.data
}
