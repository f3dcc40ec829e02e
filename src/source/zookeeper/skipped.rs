//! Skipped nodes: those that are unreadable, exceed a limit, or have an invalid name.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};

use crate::model::{NodePath, shortened};

/// Longer paths cannot be requested.
pub(super) const MAX_PATH_BYTES: usize = 256 << 10;

/// How many are remembered, and how many bytes of their paths. All others together count as one.
const MAX_REMEMBERED: usize = 100_000;
const MAX_REMEMBERED_BYTES: usize = 32 << 20;

/// How much of an invalid name is kept.
const MAX_NAME_CHARS: usize = 200;

/// How many per session are named in the log.
const MAX_LOGGED: usize = 10;

/// Why a node is omitted.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum Why {
    #[error("the identity may not read it")]
    Unreadable,
    #[error("its data passes max_node_bytes{}", standing(*.is_known))]
    TooLarge { is_known: bool },
    #[error("it lies deeper than max_depth")]
    TooDeep,
    #[error("with it there would be more than max_nodes or max_bytes{}", standing(*.is_known))]
    NoPlace { is_known: bool },
    #[error("with that there would be more than max_nodes")]
    NoPlaceBelow,
    #[error(
        "it has more than twice as many children as there may be nodes, max_nodes = {0}; those that are known stand"
    )]
    TooManyChildren(usize),
    #[error("the list of its children is longer than it may be; those that are known stand")]
    LongList,
    #[error("its path passes 256 KiB")]
    LongPath,
    #[error("no node of ZooKeeper can have such a name")]
    Name,
    #[error("the server refuses to read it{}", standing(*.is_known))]
    Refused { is_known: bool },
}

fn standing(is_known: bool) -> &'static str {
    if is_known { "; what was known of it stands" } else { "" }
}

/// How many are named in the state of the source, and how much of each name.
const MAX_EXAMPLES: usize = 3;
const MAX_EXAMPLE_CHARS: usize = 100;

/// What is omitted: nodes by path; those without a valid path, in words.
#[derive(Debug, Default)]
pub(super) struct Skipped {
    whys: BTreeMap<Box<str>, (Why, u64)>,
    /// Words for children with invalid names, by parent.
    odd: BTreeMap<Box<str>, BTreeSet<Box<str>>>,
    /// How many of these there are, and the bytes of all paths and words.
    odd_names: usize,
    bytes: usize,
    /// How many nodes these are.
    nodes: u64,
    /// Whether there were more than are remembered. Only another scan can show whether there still are.
    more: bool,
}

impl Skipped {
    pub(super) fn insert(&mut self, path: &NodePath, why: Why) {
        self.remember(path.as_str(), why, 1);
    }

    /// A child with an invalid name.
    pub(super) fn insert_name(&mut self, parent: &NodePath, name: &str) {
        let words = odd(parent, name);
        if self.odd.get(parent.as_str()).is_some_and(|names| names.contains(&*words)) {
            return;
        }
        if !self.has_room(words.len()) {
            self.more = true;
            return;
        }
        self.bytes += words.len();
        (self.odd_names, self.nodes) = (self.odd_names + 1, self.nodes + 1);
        self.odd.entry(parent.as_str().into()).or_default().insert(words.into());
    }

    pub(super) fn remove_name(&mut self, parent: &NodePath, name: &str) {
        let Some(mut names) = self.odd.remove(parent.as_str()) else { return };
        if let Some(words) = names.take(&*odd(parent, name)) {
            self.count_out(&words);
        }
        if !names.is_empty() {
            self.odd.insert(parent.as_str().into(), names);
        }
    }

    /// Forgets the children of a node with invalid names.
    pub(super) fn remove_names(&mut self, parent: &NodePath) {
        let gone = self.odd.remove(parent.as_str()).unwrap_or_default();
        gone.iter().for_each(|words| self.count_out(words));
    }

    fn count_out(&mut self, words: &str) {
        self.bytes -= words.len();
        (self.odd_names, self.nodes) = (self.odd_names - 1, self.nodes - 1);
    }

    /// The omitted children of a node with valid names.
    pub(super) fn children(&self, parent: &NodePath) -> Vec<NodePath> {
        let start = format!("{}/", parent.as_str().trim_end_matches('/'));
        let (mut children, mut from) = (Vec::new(), Included(start.clone()));
        loop {
            let next = self.whys.range::<str, _>((from.as_ref().map(String::as_str), Unbounded)).next();
            let Some(below) = next.and_then(|(path, _)| path.strip_prefix(&*start)) else { return children };
            from = match below.split_once('/') {
                // Skip everything below that child: `0` is the next character after the slash.
                Some((child, _)) => Included(format!("{start}{child}0")),
                None => {
                    children.extend(parent.parse_child(below));
                    Excluded(format!("{start}{below}"))
                }
            };
        }
    }

    /// Whether an ancestor is unreadable: then nothing below it can be followed.
    pub(super) fn hides(&self, path: &NodePath) -> bool {
        let mut above = path.upwards().skip(1);
        !self.whys.is_empty() && above.any(|above| matches!(self.whys.get(above), Some((Why::Unreadable, _))))
    }

    pub(super) fn is_unreadable(&self, path: &NodePath) -> bool {
        matches!(self.whys.get(path.as_str()), Some((Why::Unreadable, _)))
    }

    /// This many children of a node, at least one. Reading the node itself again does not change this.
    pub(super) fn insert_below(&mut self, parent: &NodePath, why: Why, nodes: usize) {
        self.remember(&format!("below {parent}"), why, nodes.max(1) as u64);
    }

    /// The paths that can be requested. The others are recorded as omitted.
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
        } else if self.has_room(path.len()) {
            self.bytes += path.len();
            self.nodes += nodes;
            self.whys.insert(path.into(), (why, nodes));
        } else {
            self.more = true;
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.whys.len() + self.odd_names < MAX_REMEMBERED && self.bytes + bytes <= MAX_REMEMBERED_BYTES
    }

    /// Forgets a node; returns whether it was, or may have been, omitted.
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

    /// What is omitted, in words, and why.
    fn all(&self) -> impl Iterator<Item = (&str, Why)> {
        let odd = self.odd.values().flatten().map(|words| (&**words, Why::Name));
        odd.chain(self.whys.iter().map(|(path, (why, _))| (&**path, *why)))
    }

    /// Some of what is omitted, in words.
    pub(super) fn examples(&self) -> Vec<String> {
        let some = self.all().take(MAX_EXAMPLES);
        some.map(|(words, why)| format!("{} ({why})", shortened(words, MAX_EXAMPLE_CHARS))).collect()
    }

    /// How many nodes are omitted, as far as known.
    pub(super) fn len(&self) -> u64 {
        self.nodes + u64::from(self.more)
    }
}

/// Words for a child with an invalid name.
fn odd(parent: &NodePath, name: &str) -> String {
    let name: String = name.escape_default().take(MAX_NAME_CHARS).collect();
    format!("\"{name}\" in {parent}")
}

/// Those that the log has named.
#[derive(Debug, Default)]
pub(super) struct SkippedLog(BTreeSet<Box<str>>);

impl SkippedLog {
    /// Logs new ones: the first of a session by name, then once that there are more.
    pub(super) fn log_new(&mut self, source: &str, skipped: &Skipped) {
        for (path, why) in skipped.all() {
            if self.0.len() > MAX_LOGGED {
                return;
            }
            if !self.0.insert(path.into()) {
                continue;
            }
            if self.0.len() > MAX_LOGGED {
                tracing::warn!(source, nodes = skipped.len(), "left out more nodes; `status` goes on counting them");
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
        let mut skipped = Skipped::default();
        let parent = NodePath::root().child("a");
        skipped.insert(&parent, Why::TooLarge { is_known: true });
        skipped.insert_below(&parent, Why::NoPlaceBelow, 3);
        skipped.insert_below(&parent, Why::NoPlaceBelow, 7);
        skipped.insert_name(&parent, "..");
        assert!(skipped.remove(&parent) && !skipped.remove(&parent));
        assert_eq!(skipped.len(), 8);
    }

    #[test]
    fn no_more_is_remembered_than_there_is_place_for() {
        let mut skipped = Skipped::default();
        let long = NodePath::root().child(&"x".repeat(MAX_REMEMBERED_BYTES / 2));
        for number in 0..3 {
            skipped.insert(&long.child(&number.to_string()), Why::LongPath);
        }
        assert_eq!(skipped.whys.len(), 1);
        skipped.insert_name(&NodePath::root(), &"\u{1b}".repeat(1 << 20));
        assert_eq!(skipped.odd_names, 1);
        assert!(skipped.bytes <= MAX_REMEMBERED_BYTES);
        (0..2 * MAX_REMEMBERED).for_each(|number| skipped.insert_name(&NodePath::root(), &number.to_string()));
        assert!(skipped.odd_names < MAX_REMEMBERED && skipped.more);
        skipped.remove_names(&NodePath::root());
        assert_eq!((skipped.odd_names, skipped.nodes), (0, 1));
    }

    #[test]
    fn some_are_named_in_few_words() {
        let (mut skipped, root) = (Skipped::default(), NodePath::root());
        skipped.insert_name(&root, "\u{1b}[31m");
        skipped.insert(&root.child(&"ö".repeat(1 << 10)), Why::TooLarge { is_known: true });
        (0..MAX_REMEMBERED).for_each(|number| skipped.insert(&root.child(&number.to_string()), Why::Unreadable));
        let examples = skipped.examples();
        assert_eq!(examples.len(), MAX_EXAMPLES);
        assert_eq!(examples[0], r#""\u{1b}[31m" in / (no node of ZooKeeper can have such a name)"#);
        assert_eq!(examples[1], "/0 (the identity may not read it)");
        for number in 0..MAX_REMEMBERED {
            skipped.remove(&root.child(&number.to_string()));
        }
        assert_eq!(
            skipped.examples()[1],
            format!("/{}… (its data passes max_node_bytes; what was known of it stands)", "ö".repeat(99))
        );
    }

    #[test]
    fn that_there_were_more_holds_when_the_remembered_ones_are_gone() {
        let mut skipped = Skipped::default();
        let path = |number: usize| NodePath::root().child(&number.to_string());
        (0..=MAX_REMEMBERED).for_each(|number| skipped.insert(&path(number), Why::Unreadable));
        (0..=MAX_REMEMBERED).for_each(|number| assert!(skipped.remove(&path(number))));
        assert_eq!(skipped.len(), 1);
    }

    #[test]
    fn the_children_of_a_node_are_those_right_below_it() {
        let (mut skipped, root) = (Skipped::default(), NodePath::root());
        let path = |text| NodePath::parse(text).expect("a path");
        for text in ["/a", "/a/b", "/a/b/c", "/a/b/c/d", "/a/d", "/a/f/g", "/a/f-", "/a/f0", "/a-b", "/e", "/g/h"] {
            skipped.insert(&path(text), Why::Unreadable);
        }
        skipped.insert_below(&path("/a"), Why::NoPlaceBelow, 1);
        [("/a", "."), ("/a", "\" in /b"), ("/b", "..")]
            .iter()
            .for_each(|(at, name)| skipped.insert_name(&path(at), name));
        assert_eq!(skipped.children(&path("/a")), ["/a/b", "/a/d", "/a/f-", "/a/f0"].map(path));
        assert_eq!(skipped.children(&root), ["/a", "/a-b", "/e"].map(path));
        let before = skipped.len();
        skipped.remove_names(&path("/a"));
        assert_eq!((skipped.len(), skipped.children(&path("/a")).len()), (before - 2, 4));
        skipped.remove_names(&path("/b"));
        assert_eq!(skipped.len(), before - 3);
    }

    #[test]
    fn a_path_that_is_too_long_to_ask_for_is_left_out() {
        let mut skipped = Skipped::default();
        let short = NodePath::root().child("a");
        let long = short.child(&"x".repeat(MAX_PATH_BYTES));
        assert_eq!(skipped.askable([short.clone(), long]), [short]);
        assert_eq!(skipped.len(), 1);
    }
}
