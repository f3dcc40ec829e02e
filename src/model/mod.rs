//! The nouns: paths, nodes, instances, masters, services, revisions, freshness; and the one view of each.

mod instance;
pub(crate) mod json;
mod master;
mod metadata;
mod version;
pub mod view;
mod warm_up;
mod words;

use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use roster_tunnel::{Answer, Answers, Arguments, Command, NotPhp, Packed, Refused, php_value};

pub(crate) use self::instance::weight_of;
pub use self::instance::{
    AfterBoot, DEFAULT_WEIGHT, Decoder, Endpoint, Format, Held, Instance, InstanceError, InstanceState, MAX_ENDPOINTS,
    MAX_LABEL_BYTES, Probe, Provenance, Record, Withheld, Withholding, address, is_of_one_host, weight,
};
pub use self::master::{
    Call, Input, Line, MAX_MASTER_BYTES, MAX_SERVICE_BYTES, MAX_SERVICE_DEPTH, MAX_SERVICES, Master, Service,
    cut_to_bounds, split_name,
};
pub use self::metadata::{Metadata, MetadataWriter};
pub use self::version::{is_text_version, registered_version, without_leading_zeros};
pub use self::warm_up::WarmUp;
pub use self::words::{counted, lasted, shell_argument, shortened, utc};

/// The number of a published state. It grows by one with each, and starts from the wall clock (microseconds since
/// 1970), so that it does not go back when the process restarts.
pub type Revision = u64;

/// The absolute path of a coordination node, as in ZooKeeper: `/`, or `/a/b`.
///
/// Ordered so that a node comes immediately before everything below it: `/` sorts before every other byte. A subtree is
/// thus one contiguous range.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodePath(Arc<str>);

/// Why a text is not the path of a node.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PathError {
    #[error("a path begins with '/'")]
    Relative,
    #[error("a path does not end with '/'")]
    TrailingSlash,
    #[error("a path has no empty part, '.' or '..'")]
    Part,
    #[error("a path has no control characters and none of private use")]
    Character,
}

impl NodePath {
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(PathError::Relative);
        };
        if rest.is_empty() {
            return Ok(Self::root());
        }
        if rest.ends_with('/') {
            return Err(PathError::TrailingSlash);
        }
        if rest.as_bytes().split(|byte| *byte == b'/').any(|part| matches!(part, b"" | b"." | b"..")) {
            return Err(PathError::Part);
        }
        if rest.chars().any(is_refused) {
            return Err(PathError::Character);
        }
        Ok(Self(text.into()))
    }

    pub fn root() -> Self {
        static ROOT: LazyLock<NodePath> = LazyLock::new(|| NodePath("/".into()));
        ROOT.clone()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `root` itself or lies below it.
    pub fn is_under(&self, root: &NodePath) -> bool {
        let (path, root) = (self.as_str(), root.as_str());
        root == "/" || path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether one of them is at or below the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.is_under(other) || other.is_under(self)
    }

    pub fn parent(&self) -> Option<NodePath> {
        let slash = self.0.rfind('/').filter(|_| self.as_str() != "/")?;
        Some(if slash == 0 { Self::root() } else { Self(self.0[..slash].into()) })
    }

    /// The path of a child with an unchecked name.
    pub fn parse_child(&self, name: &str) -> Result<NodePath, PathError> {
        if matches!(name, "" | "." | "..") || name.contains('/') {
            return Err(PathError::Part);
        }
        if name.chars().any(is_refused) {
            return Err(PathError::Character);
        }
        Ok(self.child(name))
    }

    /// The path of a child. `name` must be a node's name.
    pub fn child(&self, name: &str) -> NodePath {
        Self([self.as_str().trim_end_matches('/'), "/", name].concat().into())
    }

    /// How many parts it has: 0 for `/`.
    pub fn depth(&self) -> usize {
        if self.as_str() == "/" { 0 } else { self.0.matches('/').count() }
    }

    /// The path and its ancestors, from itself up to `/`.
    pub fn upwards(&self) -> impl Iterator<Item = &str> {
        let mut next = Some(self.as_str());
        std::iter::from_fn(move || {
            let path = next?;
            next = match path.rfind('/') {
                _ if path == "/" => None,
                Some(slash) => Some(&path[..slash.max(1)]),
                None => None,
            };
            Some(path)
        })
    }

    /// The name of the child on the way from this path to `descendant`.
    pub fn child_towards<'a>(&self, descendant: &'a NodePath) -> Option<&'a str> {
        let base = if self.as_str() == "/" { "" } else { self.as_str() };
        let rest = descendant.as_str().strip_prefix(base)?.strip_prefix('/')?;
        rest.split('/').next().filter(|name| !name.is_empty())
    }

    /// A bound that sorts after everything below the child `name`, and before its next sibling.
    pub(crate) fn after_child(&self, name: &str) -> NodePath {
        // The lowest byte after '/' in this order; no path contains it.
        self.child(&format!("{name}\u{1}"))
    }
}

/// What `PathUtils.validatePath` of ZooKeeper 3.8 refuses in a path; nothing beyond U+FFFF, which files may have.
fn is_refused(character: char) -> bool {
    character.is_control() || matches!(character, '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..='\u{ffff}')
}

impl Ord for NodePath {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) {
            return Ordering::Equal;
        }
        let (left, right) = (self.0.as_bytes(), other.0.as_bytes());
        let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
        // Paths share long prefixes: eight bytes at a time.
        let (eights, others) = (left.as_chunks::<8>().0, right.as_chunks::<8>().0);
        let at = eights.iter().zip(others).take_while(|(left, right)| left == right).count();
        if let (Some(left), Some(right)) = (eights.get(at), others.get(at)) {
            let first = (u64::from_le_bytes(*left) ^ u64::from_le_bytes(*right)).trailing_zeros() as usize / 8;
            return rank(&left[first]).cmp(&rank(&right[first]));
        }
        left[8 * at..].iter().map(rank).cmp(right[8 * at..].iter().map(rank))
    }
}

impl PartialOrd for NodePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for NodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl TryFrom<String> for NodePath {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        Self::parse(&text)
    }
}

impl From<NodePath> for String {
    fn from(path: NodePath) -> String {
        path.0.as_ref().to_owned()
    }
}

/// A coordination node's stat, as in ZooKeeper; fields that a source does not know are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stat {
    pub czxid: i64,
    pub mzxid: i64,
    pub pzxid: i64,
    pub ctime: i64,
    pub mtime: i64,
    pub ephemeral_owner: i64,
    pub version: i32,
    pub num_children: i32,
}

/// The content of a coordination node. Its path is its key in the snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub data: Box<[u8]>,
    pub stat: Stat,
}

/// A change that a source reports, of one path or one master.
#[derive(Clone, Debug)]
pub enum Change {
    Put(NodePath, Arc<Node>),
    Delete(NodePath),
    /// The master is reachable by this line, with these services; replaces what this source reported of it before.
    Join(Arc<Master>, Arc<dyn Line>),
    /// The master was there before a restart, and is expected back.
    Expect(Arc<Master>),
    /// By this source, the master with this id is gone.
    Leave(String),
    /// By this source, the master with this id is no longer expected back. If it is back by now, that changes nothing.
    GiveUp(String),
}

impl Change {
    /// The path of the node that it concerns.
    pub fn path(&self) -> Option<&NodePath> {
        match self {
            Change::Put(path, _) | Change::Delete(path) => Some(path),
            Change::Join(..) | Change::Expect(_) | Change::Leave(_) | Change::GiveUp(_) => None,
        }
    }
}

/// What happened to one path or master between two revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Created,
    Changed,
    Deleted,
}

/// What feeds the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Supply {
    Nodes,
    Instances,
    /// A kind that only a newer sidecar knows.
    #[serde(other)]
    Unknown,
}

/// Where the data behind an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Origin {
    /// From the sources, since this process started.
    Live,
    /// From the state of an earlier process; the sources have not been reached since.
    Restored,
}

/// How far an answer can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    pub revision: Revision,
    /// Zero while the sources behind the answer are in sync, else the time since they were last known to be.
    pub age: Duration,
    pub origin: Origin,
    /// False if the sources behind the answer are known to hold more than the snapshot does.
    pub complete: bool,
}

impl Freshness {
    /// The same with one more source behind the answer.
    pub fn and(self, age: Duration, origin: Origin, complete: bool) -> Self {
        Self {
            age: self.age.max(age),
            origin: if origin == Origin::Restored { origin } else { self.origin },
            complete: self.complete && complete,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> NodePath {
        NodePath::parse(text).expect(text)
    }

    #[test]
    fn what_zookeeper_refuses_is_refused() {
        for (text, why) in [
            ("", PathError::Relative),
            ("a", PathError::Relative),
            ("/a/", PathError::TrailingSlash),
            ("//a", PathError::Part),
            ("/a//b", PathError::Part),
            ("/a/../b", PathError::Part),
            ("/./a", PathError::Part),
            ("/a\0", PathError::Character),
            ("/a\n", PathError::Character),
            ("/a\u{7f}", PathError::Character),
            ("/a\u{9f}", PathError::Character),
            ("/\u{e000}", PathError::Character),
            ("/\u{fffd}", PathError::Character),
        ] {
            assert_eq!(NodePath::parse(text), Err(why), "{text:?}");
        }
        for text in ["/", "/a", "/a/b.c", "/ü/日本", "/a b/-", "/...", "/a/.b", "/\u{a0}", "/\u{f900}"] {
            assert_eq!(path(text).as_str(), text);
        }
    }

    #[test]
    fn paths_are_in_the_order_of_their_bytes_but_for_slashes_which_come_first() {
        let random = &mut fastrand::Rng::with_seed(1);
        let mut some = || -> String {
            (0..random.usize(..20)).map(|_| random.choice(["/", "a", "!", "ü"]).unwrap_or("")).collect()
        };
        for _ in 0..20_000 {
            let begin = some();
            let [one, other] = [(); 2].map(|()| format!("{begin}{}", some()));
            let ranks = |text: &str| text.bytes().map(|byte| if byte == b'/' { 0 } else { byte }).collect::<Vec<_>>();
            let [left, right] = [&one, &other].map(|text| NodePath(text.as_str().into()));
            assert_eq!(left.cmp(&right), ranks(&one).cmp(&ranks(&other)), "{one} and {other}");
        }
    }

    #[test]
    fn a_child_has_one_part_more() {
        assert_eq!(NodePath::root().parse_child("a"), Ok(path("/a")));
        assert_eq!(path("/a").parse_child("b"), Ok(path("/a/b")));
        for name in ["", ".", "..", "a/b", "/", "\u{1b}", "\u{fffd}"] {
            path("/a").parse_child(name).expect_err(name);
            NodePath::root().parse_child(name).expect_err(name);
        }
    }

    #[test]
    fn a_subtree_is_contiguous_and_parents_come_first() {
        let sorted = ["/", "/a", "/a/b", "/a/b/c", "/a/c", "/a!", "/a-b", "/a.b", "/a0", "/ab", "/long-beginning/x"];
        for pair in sorted.windows(2) {
            assert!(path(pair[0]) < path(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn the_bound_after_a_child_lies_between_its_subtree_and_its_sibling() {
        let bound = path("/a").after_child("b");
        assert!(path("/a/b") < bound && path("/a/b/zz/z") < bound);
        assert!(bound < path("/a/b b") && bound < path("/a/b!") && bound < path("/a/c"));
    }

    #[test]
    fn upwards_ends_at_the_root() {
        assert_eq!(path("/a/b").upwards().collect::<Vec<_>>(), ["/a/b", "/a", "/"]);
        assert_eq!(path("/").upwards().collect::<Vec<_>>(), ["/"]);
        assert_eq!(path("/a/b").parent(), Some(path("/a")));
        assert_eq!(path("/a").parent(), Some(path("/")));
        assert_eq!(path("/").parent(), None);
    }

    #[test]
    fn under_is_by_whole_parts() {
        assert!(path("/a/b").is_under(&path("/a")) && path("/a").is_under(&path("/a")));
        assert!(path("/a").is_under(&path("/")));
        assert!(!path("/ab").is_under(&path("/a")) && !path("/").is_under(&path("/a")));
        assert_eq!(path("/a").child_towards(&path("/a/b/c")), Some("b"));
        assert_eq!(path("/").child_towards(&path("/a/b")), Some("a"));
        assert_eq!(path("/").child_towards(&path("/")), None);
        assert_eq!(path("/a").child_towards(&path("/ab")), None);
    }
}
