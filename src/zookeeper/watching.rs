//! Watching: how a server reports changes; and the one-shot watches that it is known to have.

use std::collections::BTreeMap;
use std::fmt;

use crate::model::NodePath;

/// How a server reports changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Watching {
    /// One recursive watch for each root, which persists. Available since ZooKeeper 3.6.
    #[default]
    Persistent,
    /// Two watches for each node, of its data and of its children, each of which is removed when it fires. The read
    /// that sets a watch is the one whose result is used.
    OneShot,
}

impl fmt::Display for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Persistent => "persistent",
            Self::OneShot => "one-shot",
        })
    }
}

/// What changed at a node, by its events. If it appeared or disappeared, both have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fired {
    pub(crate) data: bool,
    pub(crate) children: bool,
}

impl Fired {
    pub(crate) const BOTH: Self = Self { data: true, children: true };

    /// By the event type, from `Watcher.Event.EventType`. An unknown one may mean anything.
    pub(crate) fn of(kind: i32) -> Self {
        const DATA_CHANGED: i32 = 3;
        const CHILDREN_CHANGED: i32 = 4;
        Self { data: kind != CHILDREN_CHANGED, children: kind != DATA_CHANGED }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.data |= other.data;
        self.children |= other.children;
    }

    /// Whether it may have appeared or disappeared, which changes its parent's stat.
    pub(crate) fn is_structure(self) -> bool {
        self.data && self.children
    }
}

/// How many bytes the remembered paths may have on average.
const MEAN_PATH_BYTES: usize = 128;

/// The nodes with one-shot watches on this connection, according to the replies and events processed so far. An event
/// is processed after the replies before it: so an entry may already have fired, and then its event is waiting.
#[derive(Debug)]
pub(crate) struct Watches {
    nodes: BTreeMap<NodePath, Watch>,
    /// The bytes of their paths.
    bytes: usize,
    /// The most nodes, with paths of `MEAN_PATH_BYTES` on average. Beyond that nothing is remembered, so that they are
    /// read again more often.
    most: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    data: bool,
    children: bool,
    /// Whether it is unreadable, so that an existence watch is set before reading is tried.
    is_unreadable: bool,
}

impl Watches {
    pub(crate) fn new(most: usize) -> Self {
        Self { nodes: BTreeMap::new(), bytes: 0, most }
    }

    /// The node was read.
    pub(crate) fn set_data(&mut self, path: &NodePath) {
        if let Some(watch) = self.watch(path) {
            (watch.data, watch.is_unreadable) = (true, false);
        }
    }

    /// The node is unreadable; returns whether it is watched all the same, since that was known before, or can never be
    /// known.
    pub(crate) fn set_unreadable(&mut self, path: &NodePath) -> bool {
        let Some(watch) = self.watch(path) else { return true };
        watch.data = std::mem::replace(&mut watch.is_unreadable, true);
        watch.data
    }

    pub(crate) fn is_unreadable(&self, path: &NodePath) -> bool {
        self.nodes.get(path).is_some_and(|watch| watch.is_unreadable)
    }

    pub(crate) fn set_children(&mut self, path: &NodePath) {
        if let Some(watch) = self.watch(path) {
            watch.children = true;
        }
    }

    pub(crate) fn has_data(&self, path: &NodePath) -> bool {
        self.nodes.get(path).is_some_and(|watch| watch.data)
    }

    pub(crate) fn has_children(&self, path: &NodePath) -> bool {
        self.nodes.get(path).is_some_and(|watch| watch.children)
    }

    pub(crate) fn remove(&mut self, path: &NodePath, fired: Fired) {
        let Some(watch) = self.nodes.get_mut(path) else { return };
        watch.data &= !fired.data;
        watch.children &= !fired.children;
        if !watch.data && !watch.children && !watch.is_unreadable {
            self.forget(path);
        }
    }

    /// The node is gone, with everything below it. What was read there has to be read again when the node reappears.
    pub(crate) fn remove_all(&mut self, path: &NodePath) {
        let below = self.nodes.range(path.clone()..).map(|(below, _)| below).take_while(|below| below.is_under(path));
        let gone: Vec<NodePath> = below.cloned().collect();
        for path in gone {
            self.forget(&path);
        }
    }

    fn forget(&mut self, path: &NodePath) {
        if self.nodes.remove(path).is_some() {
            self.bytes -= path.as_str().len();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.nodes.clear();
        self.bytes = 0;
    }

    fn watch(&mut self, path: &NodePath) -> Option<&mut Watch> {
        let is_full = self.nodes.len() >= self.most || self.bytes >= self.most.saturating_mul(MEAN_PATH_BYTES);
        if is_full || self.nodes.contains_key(path) {
            return self.nodes.get_mut(path);
        }
        self.bytes += path.as_str().len();
        Some(self.nodes.entry(path.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> NodePath {
        NodePath::parse(text).expect("a path")
    }

    #[test]
    fn an_event_takes_the_watches_that_it_is_of() {
        const CREATED: i32 = 1;
        const DELETED: i32 = 2;
        const DATA_CHANGED: i32 = 3;
        const CHILDREN_CHANGED: i32 = 4;
        for (kind, data, children) in [
            (CREATED, false, false),
            (DELETED, false, false),
            (DATA_CHANGED, false, true),
            (CHILDREN_CHANGED, true, false),
            (99, false, false),
        ] {
            let mut watches = Watches::new(10);
            watches.set_data(&path("/a"));
            watches.set_children(&path("/a"));
            watches.remove(&path("/a"), Fired::of(kind));
            assert_eq!((watches.has_data(&path("/a")), watches.has_children(&path("/a"))), (data, children), "{kind}");
            assert_eq!(Fired::of(kind).is_structure(), !data && !children, "{kind}");
        }
    }

    #[test]
    fn no_more_is_remembered_than_there_is_place_for_and_what_is_not_is_not_watched() {
        let mut watches = Watches::new(1);
        let [first, second] = ["/a", "/b"].map(path);
        [&first, &second].into_iter().for_each(|path| watches.set_data(path));
        watches.set_children(&first);
        assert!(watches.has_data(&first) && watches.has_children(&first) && !watches.has_data(&second));
        assert!(watches.set_unreadable(&second), "it is not to be tried for ever");
        assert_eq!(watches.nodes.len(), 1);
    }

    #[test]
    fn what_may_not_be_read_is_watched_when_that_was_known_before_it_was_tried() {
        let (mut watches, closed) = (Watches::new(10), path("/closed"));
        assert!(!watches.set_unreadable(&closed) && watches.is_unreadable(&closed) && !watches.has_data(&closed));
        assert!(watches.set_unreadable(&closed) && watches.has_data(&closed));
        watches.remove(&closed, Fired::of(3));
        assert!(!watches.has_data(&closed) && watches.is_unreadable(&closed));
        watches.set_data(&closed);
        assert!(watches.has_data(&closed) && !watches.is_unreadable(&closed));
    }

    #[test]
    fn what_lies_below_a_node_that_is_gone_is_watched_no_more_and_nothing_else() {
        let mut watches = Watches::new(10);
        let paths = ["/a", "/a/b", "/a/b/c", "/a-b", "/b"].map(path);
        paths.iter().for_each(|path| watches.set_data(path));
        watches.remove_all(&path("/a"));
        assert_eq!(paths.map(|path| watches.has_data(&path)), [false, false, false, true, true]);
    }
}
