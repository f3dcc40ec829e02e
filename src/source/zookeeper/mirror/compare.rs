//! The full comparison: reads everything that is mirrored, and finds the differences.

use std::collections::BTreeSet;

use super::live::drain;
use super::{Held, Mirror};
use crate::clock::Moment;
use crate::model::{Change, NodePath};
use crate::source::zookeeper::bulk::{Bulk, LARGE_NODE_BYTES};
use crate::source::zookeeper::scan::{Budget, Scan, Scope};
use crate::source::zookeeper::walk::{Below, Walk};
use crate::source::{Generation, difference};
use crate::store::Snapshot;
use crate::zookeeper::{Session, SessionError};

impl Mirror {
    /// Reads everything, and then again what changed meanwhile: returns the changes that the store needs, and the paths
    /// that events have named, with those in `announced`.
    pub(super) async fn compare(
        &mut self,
        session: &mut Session,
        mut announced: BTreeSet<NodePath>,
    ) -> Result<(Vec<Change>, BTreeSet<NodePath>), SessionError> {
        let known = self.publisher.snapshot();
        let mut scan = Scan::new(&known, Budget::new(&self.config, self.publisher.progress()));
        if let Err(trouble) = self.read_all(session, &known, &mut scan, &mut announced).await {
            self.pace.slow_down();
            self.keep_large(scan.generation);
            return Err(trouble);
        }
        let Scan { generation, skipped, .. } = scan;
        self.pace.ease();
        self.earlier.clear();
        self.skipped = skipped;
        Ok((difference(&known, &self.config.roots, generation), announced))
    }

    async fn read_all(
        &self,
        session: &mut Session,
        known: &Snapshot,
        scan: &mut Scan<'_>,
        announced: &mut BTreeSet<NodePath>,
    ) -> Result<(), SessionError> {
        let scope = self.scope();
        session.restore(self.large_or_known(known), self.pace.request_bytes()).await?;
        let walk = Walk { scope: &scope, bulk: self.bulk(session, known), below: Below::All };
        walk.read(self.config.roots.clone(), scan).await?;
        drain(&scope, session, announced, &mut scan.skipped)?;
        let paths = scan.skipped.askable(announced.iter().cloned());
        let walk = Walk { scope: &scope, bulk: self.bulk(session, known), below: Below::Unwatched };
        walk.read(paths, scan).await
    }

    fn count_below(&self, roots: &[NodePath]) -> u64 {
        let known = self.publisher.snapshot();
        roots.iter().map(|root| known.subtree(root, root.clone()).count() as u64).sum()
    }

    pub(super) fn scope(&self) -> Scope<'_> {
        Scope { config: &self.config, quotas: self.quotas.as_ref() }
    }

    /// The large nodes whose data need not be read if it is unchanged.
    fn large_or_known<'a>(&'a self, known: &'a Snapshot) -> impl Iterator<Item = NodePath> + 'a {
        let known = self.config.roots.iter().flat_map(|root| known.subtree(root, root.clone()));
        let all = self.earlier.iter().chain(known);
        all.filter(|(_, node)| node.stat.ephemeral_owner == 0).map(|(path, _)| path.clone())
    }

    fn bulk<'a>(&'a self, session: &'a Session, known: &'a Snapshot) -> Bulk<'a> {
        Bulk { session, pace: &self.pace, known, earlier: &self.earlier }
    }

    /// Keeps the large nodes of an incomplete read, as many as may be mirrored.
    fn keep_large(&mut self, read: Generation) {
        let mut room = self.config.max_bytes.as_u64();
        let earlier = std::mem::take(&mut self.earlier);
        for (path, node) in read.into_iter().chain(earlier).filter(|(_, node)| node.data.len() > LARGE_NODE_BYTES) {
            if !self.earlier.contains_key(&path) && node.data.len() as u64 <= room {
                room -= node.data.len() as u64;
                self.earlier.insert(path, node);
            }
        }
    }

    /// If a comparison finds more than half of the nodes gone, and no event announced it, the ensemble may have lost
    /// its data: for a while they are kept. Returns the remaining changes. Nodes that register instances are not kept,
    /// and do not count: the guard holds their instances.
    pub(super) fn hold_back(&mut self, mut changes: Vec<Change>, announced: &BTreeSet<NodePath>) -> Vec<Change> {
        let guarded: Vec<NodePath> =
            self.feed().services().iter().filter(|it| it.guard).map(|it| it.root.clone()).collect();
        let is_guarded = |path: &NodePath| guarded.iter().any(|root| path.is_under(root));
        let passes = |change: &Change| match change {
            Change::Delete(path) => announced.contains(path) || is_guarded(path),
            _ => true,
        };
        let gone = changes.iter().filter(|change| !passes(change)).count();
        let shrunken = gone > 0 && gone as u64 * 2 > self.publisher.progress().nodes - self.count_below(&guarded);
        let since = self.held.filter(|_| shrunken).map_or_else(Moment::now, |held| held.since);
        let was_held = self.held.take().is_some();
        if shrunken && since.elapsed() < self.config.hold {
            self.held = Some(Held { since, nodes: gone });
            changes.retain(passes);
            if !was_held {
                tracing::warn!(source = self.feed().name(), gone, "more than half of the nodes are gone; holding them");
            }
        }
        changes
    }
}
