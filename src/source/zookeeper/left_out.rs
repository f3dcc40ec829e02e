//! What is left out: nodes that may not be read, pass a limit, or have a name that no node can have.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};

use crate::model::NodePath;

/// A longer path is none that can be asked for.
pub(super) const MAX_PATH_BYTES: usize = 256 << 10;

/// How many are remembered, and how many bytes of their paths. However many more there are, they count as one.
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
    #[error("with that there would be more than max_nodes")]
    NoPlaceBelow,
    #[error("the list of its children is longer than it may be; those that are known stand")]
    TooManyChildren,
    #[error("its path passes 256 KiB")]
    LongPath,
    #[error("no node of ZooKeeper can have such a name")]
    Name,
    #[error("the server refuses to read it; what is known of it stands")]
    Refused,
}

/// What is left out: nodes by their paths; what has none, by words that are no path.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    whys: BTreeMap<Box<str>, (Why, u64)>,
    bytes: usize,
    /// How many nodes these are.
    nodes: u64,
    /// Whether there were more than are remembered. Only another scan tells whether there still are.
    more: bool,
}

impl LeftOut {
    pub(super) fn insert(&mut self, path: &NodePath, why: Why) {
        self.remember(path.as_str(), why, 1);
    }

    /// A child with a name that no node can have.
    pub(super) fn insert_name(&mut self, parent: &NodePath, name: &str) {
        self.remember(&odd(parent, name), Why::Name, 1);
    }

    pub(super) fn remove_name(&mut self, parent: &NodePath, name: &str) {
        self.forget(&odd(parent, name));
    }

    /// Forgets the children of a node with names that no node can have.
    pub(super) fn remove_names(&mut self, parent: &NodePath) {
        let end = format!("\" in {parent}");
        let odd = self.whys.range::<str, _>((Included("\""), Excluded("#"))).map(|(words, _)| words);
        let gone: Vec<_> = odd.filter(|words| words.ends_with(&end)).cloned().collect();
        for words in gone {
            self.forget(&words);
        }
    }

    /// The children of a node that are left out and have names that nodes can have.
    pub(super) fn children(&self, parent: &NodePath) -> Vec<NodePath> {
        let start = format!("{}/", parent.as_str().trim_end_matches('/'));
        let below =
            self.whys.range::<str, _>((Included(&*start), Unbounded)).map_while(|(path, _)| path.strip_prefix(&*start));
        below.filter(|name| !name.contains('/')).filter_map(|name| parent.parse_child(name).ok()).collect()
    }

    /// Whether a node above this one may not be read: then nobody can follow what lies below.
    pub(super) fn hides(&self, path: &NodePath) -> bool {
        let mut above = path.upwards().skip(1);
        !self.whys.is_empty() && above.any(|above| matches!(self.whys.get(above), Some((Why::Unreadable, _))))
    }

    pub(super) fn is_unreadable(&self, path: &NodePath) -> bool {
        matches!(self.whys.get(path.as_str()), Some((Why::Unreadable, _)))
    }

    /// Children of a node, at least so many. That the node itself is read again changes nothing in it.
    pub(super) fn insert_below(&mut self, parent: &NodePath, why: Why, nodes: usize) {
        self.remember(&format!("below {parent}"), why, nodes.max(1) as u64);
    }

    /// The paths that can be asked for. The others are left out.
    pub(super) fn askable(&mut self, paths: impl IntoIterator<Item = NodePath>) -> Vec<NodePath> {
        let (askable, long): (Vec<_>, Vec<_>) =
            paths.into_iter().partition(|path| path.as_str().len() <= MAX_PATH_BYTES);
        long.iter().for_each(|path| self.insert(path, Why::LongPath));
        askable
    }

    fn remember(&mut self, path: &str, why: Why, nodes: u64) {
        if let Some(known) = self.whys.get_mut(path) {
            self.nodes = self.nodes - known.1 + nodes;
            *known = (why, nodes);
        } else if self.whys.len() < MOST && self.bytes + path.len() <= MOST_BYTES {
            self.bytes += path.len();
            self.nodes += nodes;
            self.whys.insert(path.into(), (why, nodes));
        } else {
            self.more = true;
        }
    }

    /// Forgets a node; whether it was left out, or may have been.
    pub(super) fn remove(&mut self, path: &NodePath) -> bool {
        self.forget(path.as_str()) || self.more
    }

    fn forget(&mut self, path: &str) -> bool {
        let removed = self.whys.remove(path);
        if let Some((_, nodes)) = removed {
            self.bytes -= path.len();
            self.nodes -= nodes;
        }
        removed.is_some()
    }

    /// How many nodes are left out, as far as that is known.
    pub(super) fn len(&self) -> u64 {
        self.nodes + u64::from(self.more)
    }
}

/// Words for a child with a name that no node can have.
fn odd(parent: &NodePath, name: &str) -> String {
    let name: String = name.escape_default().take(MOST_NAME).collect();
    format!("\"{name}\" in {parent}")
}

/// Which of them the log has told of.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeSet<Box<str>>);

impl Told {
    /// Tells of those that are new: the first of a session by their names, then once that there are more.
    pub(super) fn tell(&mut self, source: &str, left_out: &LeftOut) {
        for (path, (why, _)) in &left_out.whys {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_below_a_node_stays_so_when_the_node_is_read_again() {
        let mut left_out = LeftOut::default();
        let parent = NodePath::root().child("a");
        left_out.insert(&parent, Why::TooLarge);
        left_out.insert_below(&parent, Why::NoPlaceBelow, 3);
        left_out.insert_below(&parent, Why::NoPlaceBelow, 7);
        left_out.insert_name(&parent, "..");
        assert!(left_out.remove(&parent) && !left_out.remove(&parent));
        assert_eq!(left_out.len(), 8);
    }

    #[test]
    fn no_more_is_remembered_than_there_is_place_for() {
        let mut left_out = LeftOut::default();
        let long = NodePath::root().child(&"x".repeat(MOST_BYTES / 2));
        for number in 0..3 {
            left_out.insert(&long.child(&number.to_string()), Why::LongPath);
        }
        assert_eq!(left_out.whys.len(), 1);
        left_out.insert_name(&NodePath::root(), &"\u{1b}".repeat(1 << 20));
        assert_eq!(left_out.whys.len(), 2);
        assert!(left_out.bytes <= MOST_BYTES);
    }

    #[test]
    fn that_there_were_more_holds_when_the_remembered_ones_are_gone() {
        let mut left_out = LeftOut::default();
        let path = |number: usize| NodePath::root().child(&number.to_string());
        (0..=MOST).for_each(|number| left_out.insert(&path(number), Why::Unreadable));
        (0..=MOST).for_each(|number| assert!(left_out.remove(&path(number))));
        assert_eq!(left_out.len(), 1);
    }

    #[test]
    fn the_children_of_a_node_are_those_right_below_it() {
        let (mut left_out, root) = (LeftOut::default(), NodePath::root());
        let path = |text| NodePath::parse(text).expect("a path");
        for text in ["/a", "/a/b", "/a/b/c", "/a/d", "/a-b", "/e"] {
            left_out.insert(&path(text), Why::Unreadable);
        }
        left_out.insert_below(&path("/a"), Why::NoPlaceBelow, 1);
        [("/a", "."), ("/a", "\" in /b"), ("/b", "..")]
            .iter()
            .for_each(|(at, name)| left_out.insert_name(&path(at), name));
        assert_eq!(left_out.children(&path("/a")), ["/a/b", "/a/d"].map(path));
        assert_eq!(left_out.children(&root), ["/a", "/a-b", "/e"].map(path));
        let before = left_out.len();
        left_out.remove_names(&path("/a"));
        assert_eq!((left_out.len(), left_out.children(&path("/a")).len()), (before - 2, 2));
        left_out.remove_names(&path("/b"));
        assert_eq!(left_out.len(), before - 3);
    }

    #[test]
    fn a_path_that_is_too_long_to_ask_for_is_left_out() {
        let mut left_out = LeftOut::default();
        let short = NodePath::root().child("a");
        let long = short.child(&"x".repeat(MAX_PATH_BYTES));
        assert_eq!(left_out.askable([short.clone(), long]), [short]);
        assert_eq!(left_out.len(), 1);
    }
}
