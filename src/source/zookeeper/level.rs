//! A level of the tree: which of the listed children to read.

use super::scan::Scope;
use super::skipped::{MAX_PATH_BYTES, Skipped, Why};
use crate::model::NodePath;
use crate::store::Snapshot;
use crate::zookeeper::{Listing, Names, Session};

/// The nodes of the next level: as many as there may be room for, and of the rest those that are known.
pub(super) struct Level<'a> {
    scope: &'a Scope<'a>,
    /// Watched ones among them are not read again.
    watches: Option<&'a Session>,
    pub(super) paths: Vec<NodePath>,
    nodes: usize,
    bytes: usize,
}

impl<'a> Level<'a> {
    /// With room for this many nodes.
    pub(super) fn new(scope: &'a Scope<'a>, nodes: usize, watches: Option<&'a Session>) -> Self {
        let bytes = usize::try_from(scope.config.max_bytes.as_u64()).unwrap_or(usize::MAX);
        Self { scope, watches, paths: Vec::new(), nodes, bytes }
    }

    /// Adds the listing of a node, which has about `children` children.
    pub(super) fn add(
        &mut self,
        parent: &NodePath,
        children: usize,
        listing: Listing,
        known: &Snapshot,
        skipped: &mut Skipped,
    ) {
        match listing {
            // Most of a longer list could only be omitted.
            Listing::Names(names) if names.count() / 2 <= self.scope.config.max_nodes => {
                self.add_names(parent, &names, known, skipped);
            }
            Listing::Nothing => {}
            listing @ (Listing::Names(_) | Listing::TooLarge) => {
                let followed = self.paths.len();
                self.paths.extend(known.children(parent).map(|name| parent.child(name)));
                let (listed, why) = match listing {
                    Listing::Names(names) => (names.count(), Why::TooManyChildren(self.scope.config.max_nodes)),
                    _ => (children, Why::LongList),
                };
                let more = listed.saturating_sub(self.paths.len() - followed);
                skipped.insert_below(parent, why, more);
            }
        }
    }

    fn add_names(&mut self, parent: &NodePath, names: &Names, known: &Snapshot, skipped: &mut Skipped) {
        for name in names.iter() {
            let Ok(path) = parent.parse_child(&name) else {
                skipped.insert_name(parent, &name);
                continue;
            };
            if !self.scope.enters(&path) || self.watches.is_some_and(|session| session.watches().has_data(&path)) {
                continue;
            }
            match self.find_place(&path, known) {
                Ok(()) => self.paths.push(path),
                Err(why) => skipped.insert(&path, why),
            }
        }
    }

    fn find_place(&mut self, path: &NodePath, known: &Snapshot) -> Result<(), Why> {
        let bytes = path.as_str().len();
        if bytes > MAX_PATH_BYTES {
            return Err(Why::LongPath);
        }
        if self.nodes > 0 && bytes <= self.bytes {
            self.nodes -= 1;
            self.bytes -= bytes;
            return Ok(());
        }
        // Not only the node itself: nodes below one that the patterns exclude may be known.
        known.subtree(path, path.clone()).next().map(drop).ok_or(Why::NoPlace { is_known: false })
    }
}
