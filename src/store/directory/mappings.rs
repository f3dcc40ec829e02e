//! Mappings: which applications offer which interfaces, as nodes say.

use std::collections::HashSet;
use std::sync::Arc;

use imbl::OrdSet;

use crate::model::NodePath;

/// The most interfaces of an application that does not list them itself.
const MAX_INTERFACES: usize = 1_024;

/// An interface that an application offers, and the rank of the root that decides about it: the later one of that of
/// the application, and the first of those that say so.
pub(super) type Interface = (Arc<str>, usize);

/// A clone shares as much as possible with the original.
#[derive(Clone, Debug, Default)]
pub(super) struct Mappings {
    /// An application, an interface that it offers, the rank of a root below which a node says so, and that node.
    nodes: OrdSet<(Arc<str>, Arc<str>, usize, NodePath)>,
    /// The same but for the nodes, by application and rank.
    by_rank: OrdSet<(Arc<str>, usize, Arc<str>)>,
}

impl Mappings {
    /// A node below the root of this rank says that an application offers an interface.
    pub(super) fn insert(&mut self, application: &Arc<str>, interface: &Arc<str>, rank: usize, node: &NodePath) {
        self.nodes.insert((application.clone(), interface.clone(), rank, node.clone()));
        self.by_rank.insert((application.clone(), rank, interface.clone()));
    }

    /// It says so no more.
    pub(super) fn remove(&mut self, application: &Arc<str>, interface: &Arc<str>, rank: usize, node: &NodePath) {
        self.nodes.remove(&(application.clone(), interface.clone(), rank, node.clone()));
        let of_rank = self.nodes.range((application.clone(), interface.clone(), rank, NodePath::root())..).next();
        if of_rank.is_none_or(|(of, name, other, _)| (of, name, *other) != (application, interface, rank)) {
            self.by_rank.remove(&(application.clone(), rank, interface.clone()));
        }
    }

    /// The first interfaces that an application below the root of this rank offers: those of the first roots, so that
    /// none of a later one takes their place.
    pub(super) fn of(&self, application: &Arc<str>, own: usize) -> Vec<Interface> {
        let mut known = HashSet::new();
        let of = self.by_rank.range((application.clone(), 0, "".into())..).take_while(|(name, ..)| name == application);
        let first = of.filter(|&(_, _, interface)| known.insert(interface));
        first.map(|(_, rank, interface)| (interface.clone(), own.max(*rank))).take(MAX_INTERFACES + 1).collect()
    }

    /// The lowest rank of a root that says that an application offers an interface; None: none does.
    pub(super) fn first(&self, application: &Arc<str>, interface: &Arc<str>) -> Option<usize> {
        let from = (application.clone(), interface.clone(), 0, NodePath::root());
        let first = self.nodes.range(from..).next();
        first.filter(|(of, name, ..)| of == application && name == interface).map(|(_, _, rank, _)| *rank)
    }
}
