//! The snapshot: everything known at one revision, immutable.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::directory::{Directory, MasterEntry, Nodes, ReportedBy, RulesOfScope, may_have_rules};
use super::instances::NODE_MARK;
use super::journal::{ChangesSince, Journal, PageLimit};
use super::shared::Restored;
use super::{Batch, Feed, Proof, Withhold};
use crate::format::{Config, Located, Role, Undecodable};
use crate::guard::{Effect, Guard, Now};
use crate::model::{Change, ChangeKind, Format, Freshness, Node, NodePath, Origin, Revision};

/// Everything known at one revision.
///
/// A clone shares as much as possible with the original, so that the next snapshot costs by what changed, not by its
/// size.
#[derive(Clone, Debug)]
pub struct Snapshot {
    revision: Revision,
    nodes: Nodes,
    directory: Directory,
    node_journal: Journal<NodePath>,
    master_journal: Journal<Arc<str>>,
    feeds: Arc<[Arc<Feed>]>,
    progress: Arc<[FeedProgress]>,
    /// Roots, with the number of their feed, of which an earlier process left nothing, until the feed is whole again.
    unread: Arc<[(usize, NodePath)]>,
}

/// How much a feed has published, and whether that is everything in its source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedProgress {
    /// Whether it has published a whole generation. Before, an absence is no answer.
    pub whole: bool,
    pub nodes: u64,
    /// Of paths and data.
    pub bytes: u64,
    /// How much of the source is unreadable or exceeds a limit.
    pub skipped_nodes: u64,
    /// Whether masters still have time to come back, whose absence is no answer until then.
    pub settling: bool,
    /// The last revision that the source changed with a whole generation, rather than with single changes.
    pub generation: Revision,
}

/// The result of `apply`.
pub(super) struct Applied {
    pub(super) changed: bool,
    /// The changed paths that watchers are told about.
    pub(super) paths: Vec<NodePath>,
    /// Whether watchers of masters are woken.
    pub(super) masters: bool,
    /// None: there was none, or there is more to read first.
    pub(super) proof: Option<Proof>,
}

/// A change of a path: with the node as it is now, if it exists.
pub type NodeChange = (NodePath, ChangeKind, Option<Arc<Node>>);

/// A change of a master: with its entry as it is now, if it exists.
pub type MasterChange = (Arc<str>, ChangeKind, Option<Arc<MasterEntry>>);

impl Snapshot {
    pub(super) fn empty(revision: Revision, journal_limit: usize, feeds: Arc<[Arc<Feed>]>, guard: Guard) -> Self {
        Self {
            revision,
            nodes: OrdMap::new(),
            directory: Directory::default().guarded_by(guard),
            node_journal: Journal::new(revision, journal_limit),
            master_journal: Journal::new(revision, journal_limit),
            progress: feeds.iter().map(|_| FeedProgress::default()).collect(),
            feeds,
            unread: Arc::default(),
        }
    }

    /// An empty snapshot, filled with what an earlier process left. Its revision is new: what the earlier process last
    /// published may not be included.
    pub(super) fn restored(self, from: Restored) -> Self {
        let revision = self.revision.max(from.revision + 1);
        let (mut directory, now) = (from.directory.guarded_by(self.directory.guard().clone()), Now::read());
        for (number, feed) in self.feeds.iter().enumerate() {
            let roots = feed.services().iter().map(|services| &services.root);
            let paths = roots.flat_map(|root| {
                let below = from.nodes.range(root.clone()..).map(|(path, _)| path);
                below.take_while(|path| path.is_under(root))
            });
            directory.register(&self.feeds, number, revision, &from.nodes, paths, true);
        }
        directory.settle(now, &self.feeds, None, true);
        directory.hold_again(now, &self.feeds, from.held);
        Self {
            revision,
            nodes: from.nodes,
            directory,
            node_journal: self.node_journal.continuing(from.is_same.then_some(from.revision), revision),
            progress: from.progress.into(),
            unread: from.unread.into(),
            ..self
        }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn feeds(&self) -> &[Arc<Feed>] {
        &self.feeds
    }

    /// By feed number.
    pub fn progress(&self) -> &[FeedProgress] {
        &self.progress
    }

    pub(super) fn nodes(&self) -> &OrdMap<NodePath, Arc<Node>> {
        &self.nodes
    }

    pub fn node(&self, path: &NodePath) -> Option<&Arc<Node>> {
        self.nodes.get(path)
    }

    /// Each node that changed or is missing in `newer`: before and after.
    pub(crate) fn changed_nodes<'a>(
        &'a self,
        newer: &'a Snapshot,
    ) -> impl Iterator<Item = (&'a NodePath, Option<&'a Node>, Option<&'a Node>)> {
        self.nodes.diff(&newer.nodes).map(|change| match change {
            DiffItem::Add(path, new) => (path, None, Some(&**new)),
            DiffItem::Update { old: (path, old), new: (_, new) } => (path, Some(&**old), Some(&**new)),
            DiffItem::Remove(path, old) => (path, Some(&**old), None),
        })
    }

    /// The source of a node that should register something, the format, and what it is about.
    pub(crate) fn registrar(&self, path: &NodePath) -> Option<(&Feed, &Config, Located)> {
        self.feeds.iter().find_map(|feed| {
            let config = feed.services().iter().find(|config| path.is_under(&config.root))?;
            Some((feed.as_ref(), config, config.locate(path)?))
        })
    }

    /// Undecodable nodes that should register an instance of a service, or change some; with their source and format. All
    /// undecodable nodes are looked through one by one: `None` is one of another service.
    pub(crate) fn undecodable_of<'a>(
        &'a self,
        service: &'a str,
    ) -> impl Iterator<Item = Option<(&'a Feed, Format, &'a NodePath, &'a Undecodable)>> {
        let roots = self.feeds.iter().flat_map(|feed| feed.services()).map(|config| &config.root);
        let all = roots.flat_map(|root| self.directory.undecodable(root).map(move |(path, why)| (root, path, why)));
        all.map(move |(root, path, why)| {
            let (feed, config, located) = self.registrar(path)?;
            let is_for_it =
                || located.role == Role::Document && self.directory.is_for_scope(path, &config.scope_of(service));
            let is_it = config.root == *root && (located.service == service || is_for_it());
            is_it.then_some((feed, config.format, path, why))
        })
    }

    /// By node, the rules that change what it registers. It takes long, although the rules of a scope are read once for
    /// consecutive nodes.
    pub(crate) fn rules_of(&self, paths: &[NodePath]) -> Vec<Vec<NodePath>> {
        let mut last: Option<(NodePath, RulesOfScope)> = None;
        let changing = paths.iter().map(|path| {
            let (config, scope) = self.scope_of(path)?;
            if last.as_ref().is_none_or(|(of, _)| *of != scope) {
                let rules = RulesOfScope::read(config, &self.nodes, &self.directory, &scope);
                last = Some((scope, rules));
            }
            last.as_ref().map(|(_, rules)| rules.changing(config, &self.nodes, path))
        });
        changing.map(Option::unwrap_or_default).collect()
    }

    /// Whether there may be rules that change what a node registers.
    pub(crate) fn may_have_rules(&self, path: &NodePath) -> bool {
        self.scope_of(path).is_some_and(|(config, scope)| may_have_rules(config, &self.nodes, &scope, path))
    }

    fn scope_of(&self, path: &NodePath) -> Option<(&Config, NodePath)> {
        let (_, config, located) = self.registrar(path)?;
        Some((config, located.scope(path)?))
    }

    /// The nodes at `from` and after it, as long as they are at or below `root`; parents before their children.
    pub fn subtree<'a>(
        &'a self,
        root: &'a NodePath,
        from: NodePath,
    ) -> impl Iterator<Item = (&'a NodePath, &'a Arc<Node>)> + 'a {
        self.nodes.range(from..).take_while(|(path, _)| path.is_under(root))
    }

    /// The names of a node's children, in byte order.
    pub fn children<'a>(&'a self, parent: &'a NodePath) -> impl Iterator<Item = &'a str> + 'a {
        self.children_after(parent, None)
    }

    /// Those with names after this one.
    pub fn children_after<'a>(
        &'a self,
        parent: &'a NodePath,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a str> + 'a {
        let from = after.map_or_else(|| parent.clone(), |name| parent.after_child(name));
        let mut below = self.nodes.range(from..);
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
                // The child has a subtree of its own: skip it.
                below = self.nodes.range(parent.after_child(name)..);
            }
        })
    }

    /// The feeds, with what they have published.
    pub fn behind_all(&self) -> impl Iterator<Item = (&Feed, FeedProgress)> {
        self.feeds.iter().map(Arc::as_ref).zip(self.progress.iter().copied()).filter(|(feed, _)| !feed.is_gone())
    }

    /// Those that cover what is at or below `paths`; whether they are whole refers to what lies there.
    pub fn behind<'a>(&'a self, paths: &'a [NodePath]) -> impl Iterator<Item = (&'a Feed, FeedProgress)> + 'a {
        self.behind_where(
            |feed| paths.iter().any(|path| feed.is_behind(path)),
            |_, root| paths.iter().any(|path| path.overlaps(root)),
        )
    }

    /// The feeds that match. A feed is not whole if nothing is known of a relevant root of it.
    fn behind_where<'a>(
        &'a self,
        is_behind: impl Fn(&Feed) -> bool + 'a,
        concerns: impl Fn(&Feed, &NodePath) -> bool + 'a,
    ) -> impl Iterator<Item = (&'a Feed, FeedProgress)> + 'a {
        let feeds = self.feeds.iter().map(Arc::as_ref).zip(self.progress.iter()).enumerate();
        feeds.filter(move |(_, (feed, _))| !feed.is_gone() && is_behind(feed)).map(move |(number, (feed, progress))| {
            let is_unread = self.unread_by(number).any(|root| concerns(feed, root));
            (feed, FeedProgress { whole: progress.whole && !is_unread, ..*progress })
        })
    }

    /// The roots of a feed of which an earlier process left nothing.
    fn unread_by(&self, feed: usize) -> impl Iterator<Item = &NodePath> {
        self.unread.iter().filter(move |(number, _)| *number == feed).map(|(_, root)| root)
    }

    /// The roots of a feed about which nothing is known yet, though it began with what an earlier process left of
    /// others.
    pub(super) fn unread_of<'a>(&'a self, feed: &'a Feed) -> impl Iterator<Item = &'a NodePath> {
        let number = self.feeds.iter().position(|other| std::ptr::eq(other.as_ref(), feed));
        number.into_iter().flat_map(|number| self.unread_by(number))
    }

    /// The freshness of an answer from what `feeds` have published.
    pub fn freshness<'a>(&self, feeds: impl Iterator<Item = (&'a Feed, FeedProgress)>) -> Freshness {
        let fresh = Freshness { revision: self.revision, age: Duration::ZERO, origin: Origin::Live, complete: true };
        let feeds = feeds.filter(|(feed, progress)| feed.counts(progress.whole));
        feeds.fold(fresh, |fresh, (feed, progress)| {
            fresh.and(feed.age_at_least(), feed.origin(), progress.is_complete())
        })
    }

    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The feeds that know masters and count, with what they have published.
    pub fn behind_masters(&self) -> impl Iterator<Item = (&Feed, FeedProgress)> {
        self.behind_all().filter(|(feed, progress)| feed.knows_masters() && feed.counts(progress.whole))
    }

    /// The feeds that supply instances and count: those that know masters, and those whose nodes register some.
    pub fn behind_instances(&self) -> impl Iterator<Item = (&Feed, FeedProgress)> {
        let concerns =
            |feed: &Feed, root: &NodePath| feed.services().iter().any(|services| services.root.overlaps(root));
        self.behind_masters().chain(self.behind_where(|feed| !feed.services().is_empty(), concerns))
    }

    /// What changed at or below `paths` since a revision: as many whole revisions as have room.
    pub fn changes_since(&self, since: Revision, paths: &[NodePath], limit: PageLimit) -> ChangesSince<NodeChange> {
        let roots: HashSet<&str> = paths.iter().map(NodePath::as_str).collect();
        // By its own path and its ancestors: many roots cost no more than one.
        let is_told = |path: &NodePath| path.upwards().any(|above| roots.contains(above));
        let size = |path: &NodePath| is_told(path).then(|| self.told_size(path));
        self.node_journal.since(since, self.revision, limit, size).map(|(path, first)| {
            let node = self.nodes.get(&path).cloned();
            (path, outcome(first, node.is_some()), node)
        })
    }

    /// Whether nothing at or below `paths` has changed since a revision, as far as known.
    pub fn is_unchanged(&self, since: Revision, paths: &[NodePath]) -> bool {
        let unchanged = ChangesSince::Known { changes: Vec::new(), upto: self.revision };
        self.changes_since(since, paths, PageLimit { changes: 0, bytes: 0 }) == unchanged
    }

    /// Which masters changed since a revision.
    pub fn masters_since(&self, since: Revision, limit: PageLimit) -> ChangesSince<MasterChange> {
        let size = |id: &Arc<str>| id.len() + 64 + self.directory.master(id).map_or(0, |entry| entry.size);
        self.master_journal.since(since, self.revision, limit, |id| Some(size(id))).map(|(id, first)| {
            let entry = self.directory.master(&id).cloned();
            (id, outcome(first, entry.is_some()), entry)
        })
    }

    /// About how many bytes a change of `path` takes in a reply.
    fn told_size(&self, path: &NodePath) -> usize {
        let data = self.nodes.get(path).map_or(0, |node| node.data.len());
        path.as_str().len() * 2 + data + 128
    }

    /// Adds a feed, reusing the number of a removed one if possible; returns its number.
    pub(super) fn admit(&mut self, feed: Arc<Feed>) -> usize {
        let (mut feeds, mut progress) = (self.feeds.to_vec(), self.progress.to_vec());
        let number = feeds.iter().position(|feed| feed.is_gone()).unwrap_or(feeds.len());
        feeds.splice(number..feeds.len().min(number + 1), [feed]);
        progress.splice(number..progress.len().min(number + 1), [FeedProgress::default()]);
        (self.feeds, self.progress) = (feeds.into(), progress.into());
        number
    }

    /// The changes that remove all masters that a feed reported.
    pub(super) fn leaves(&self, feed: usize) -> Vec<Change> {
        let masters = self.directory.masters("").filter(|(_, entry)| entry.told_by(feed).is_some());
        masters.map(|(id, _)| Change::Leave(id.to_string())).collect()
    }

    /// The changes that remove the masters a feed expects back, unless they are back when they are applied.
    pub(super) fn give_up_expected(&self, feed: usize) -> Vec<Change> {
        self.directory.expected_by(feed).map(|master| Change::GiveUp(master.id.clone())).collect()
    }

    /// Makes this the next revision, if that withholds other instances.
    pub(super) fn withhold(&mut self, changes: &[Withhold]) -> bool {
        let is_changed = self.directory.withhold(changes);
        self.revision += u64::from(is_changed);
        is_changed
    }

    /// Has the guard do something, and makes this the next revision if it changes instances; returns how many.
    pub(super) fn guard(&mut self, act: impl FnOnce(&mut Guard, Now) -> Vec<Effect>, now: Now) -> usize {
        let changed = self.directory.guard_with(now, act);
        self.revision += u64::from(changed > 0);
        changed
    }

    /// Makes this the next revision, if what a feed reports differs from what is here.
    pub(super) fn apply(&mut self, feed: usize, batch: Batch, now: Now) -> Applied {
        let mut next =
            RevisionBuilder { progress: self.progress[feed], nodes: Vec::new(), masters: Vec::new(), silent: false };
        let (source, revision) = (self.feeds[feed].source().clone(), self.revision + 1);
        let report = || ReportedBy { feed, source: source.clone(), revision };
        for change in batch.changes {
            match change {
                Change::Put(path, node) => self.put(&mut next, path, node),
                Change::Delete(path) => self.delete(&mut next, path),
                // Such ids are reserved for what nodes register.
                Change::Join(master, _) | Change::Expect(master) if master.id.starts_with(NODE_MARK) => {}
                Change::Join(master, line) => {
                    let id = master.id.as_str().into();
                    match self.directory.join(report(), master, line) {
                        Some(kind) => next.masters.push((id, kind)),
                        None => next.silent = true,
                    }
                }
                Change::Expect(master) => {
                    let id = master.id.as_str().into();
                    next.masters.push((id, self.directory.expect(report(), master)));
                }
                Change::GiveUp(id) if !self.directory.is_expected(feed, &id) => {}
                Change::Leave(id) | Change::GiveUp(id) => {
                    if let Some(kind) = self.directory.leave(feed, &id) {
                        next.masters.push((id.into(), kind));
                    }
                }
            }
        }
        let changed = next.nodes.iter().map(|(path, _)| path);
        let is_first = !self.progress[feed].whole;
        // From then on, an absence is an answer.
        let at_once = batch.whole && (is_first || self.unread_by(feed).next().is_some());
        self.directory.register(&self.feeds, feed, revision, &self.nodes, changed, at_once);
        self.directory.settle(now, &self.feeds, batch.unseen.then_some(feed), is_first);
        let proof = batch.proof.and_then(|proof| self.directory.prove(feed, proof));
        next.silent |= batch.proof.is_some() && proof.is_none();
        next.progress.whole |= batch.whole;
        if batch.whole && self.unread_by(feed).next().is_some() {
            self.unread = self.unread.iter().filter(|(number, _)| *number != feed).cloned().collect();
            next.silent = true;
        }
        next.progress.skipped_nodes = batch.skipped_nodes.unwrap_or(next.progress.skipped_nodes);
        next.progress.settling = batch.settling.unwrap_or(next.progress.settling);
        let told = !next.nodes.is_empty() || !next.masters.is_empty();
        let changed = next.silent || told || next.progress != self.progress[feed];
        if changed {
            self.revision += 1;
            if batch.whole {
                next.progress.generation = self.revision;
            }
            self.progress =
                self.progress.iter().enumerate().map(|(i, f)| if i == feed { next.progress } else { *f }).collect();
            self.node_journal.remember(self.revision, &next.nodes);
            self.master_journal.remember(self.revision, &next.masters);
        }
        let paths = next.nodes.into_iter().map(|(path, _)| path).collect();
        Applied { changed, paths, masters: !next.masters.is_empty(), proof }
    }

    /// Whether changes of a feed have left something to read again.
    pub(super) fn is_deferring(&self, feed: usize) -> bool {
        self.directory.is_deferring(feed)
    }

    /// Makes this the next revision, in which a part of that is read; returns the proof of what has been read by then.
    pub(super) fn go_on(&mut self, feed: usize, now: Now) -> Option<Proof> {
        self.revision += 1;
        let proof = self.directory.read_deferred(&self.feeds, feed, self.revision, &self.nodes);
        self.directory.settle(now, &self.feeds, None, !self.progress[feed].whole);
        proof
    }

    fn put(&mut self, next: &mut RevisionBuilder, path: NodePath, node: Arc<Node>) {
        next.progress.add(&path, &node);
        let Some(old) = self.nodes.insert(path.clone(), node.clone()) else {
            return next.tell(path, ChangeKind::Created);
        };
        next.progress.remove(&path, &old);
        if is_told(&old, &node) {
            next.tell(path, ChangeKind::Changed);
        } else if old != node {
            next.silent = true;
        }
    }

    fn delete(&mut self, next: &mut RevisionBuilder, path: NodePath) {
        if let Some(old) = self.nodes.remove(&path) {
            next.progress.remove(&path, &old);
            next.tell(path, ChangeKind::Deleted);
        }
    }
}

impl FeedProgress {
    /// Whether an absence is an answer.
    fn is_complete(&self) -> bool {
        self.whole && self.skipped_nodes == 0 && !self.settling
    }

    pub(super) fn add(&mut self, path: &NodePath, node: &Node) {
        self.nodes += 1;
        self.bytes += (path.as_str().len() + node.data.len()) as u64;
    }

    fn remove(&mut self, path: &NodePath, node: &Node) {
        self.nodes -= 1;
        self.bytes -= (path.as_str().len() + node.data.len()) as u64;
    }
}

/// The next revision under construction.
struct RevisionBuilder {
    progress: FeedProgress,
    nodes: Vec<(NodePath, ChangeKind)>,
    masters: Vec<(Arc<str>, ChangeKind)>,
    /// Whether something changed that watchers are not told about.
    silent: bool,
}

impl RevisionBuilder {
    fn tell(&mut self, path: NodePath, kind: ChangeKind) {
        self.nodes.push((path, kind));
    }
}

/// The kind of the net change of a thing whose first change was `first`. One that came and went is reported as deleted:
/// the client may have seen it in between, on a later page or as the newer state of an earlier change.
fn outcome(first: ChangeKind, is_there: bool) -> ChangeKind {
    match (first, is_there) {
        (ChangeKind::Created, true) => ChangeKind::Created,
        (_, true) => ChangeKind::Changed,
        (_, false) => ChangeKind::Deleted,
    }
}

/// Whether watchers are told about a change: not if only a child came or went (then they are told about the child).
fn is_told(old: &Node, new: &Node) -> bool {
    old.stat.czxid != new.stat.czxid || old.stat.mzxid != new.stat.mzxid || old.data != new.data
}
