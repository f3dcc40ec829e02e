//! What an exported file costs PHP, so that users learn it before a page runs out of memory.

use std::collections::BTreeMap;
use std::fmt;

use roster::model::NodePath;
use roster::thrift::idl::Node;

use crate::cli::text;

/// Reported from this size on: a quarter of a page's default `memory_limit`.
const THRESHOLD: u64 = 32 << 20;

/// Measured with PHP 8.2 and 1,000 to 300,000 nodes: compiling a file takes twice its size plus this per entry, and
/// OPcache keeps its size plus this per entry.
const COMPILED_ENTRY: u64 = 230;
const CACHED_ENTRY: u64 = 70;

/// The quotes, the arrow and the indentation around a key and its data.
const AROUND: u64 = 18;

/// How many parts are named that could be files of their own.
const PARTS: usize = 5;

/// The approximate cost of including an exported file.
#[derive(Debug)]
pub(super) struct Size {
    file: u64,
    entries: u64,
    /// The nodes by exported path; if there is only one, by its direct children.
    parts: Vec<(String, u64)>,
}

impl Size {
    pub(super) fn of<'n>(content: &[u8], paths: &[NodePath], nodes: impl Iterator<Item = &'n Node>) -> Self {
        let mut parts = BTreeMap::<&str, u64>::new();
        let mut entries = 0;
        for node in nodes {
            entries += 1;
            let written = (node.path.len() + node.data.len()) as u64 + AROUND;
            *parts.entry(part(&node.path, paths)).or_default() += compiled(written, 1);
        }
        let mut parts: Vec<_> = parts.into_iter().map(|(part, bytes)| (part.to_owned(), bytes)).collect();
        parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        Self { file: content.len() as u64, entries, parts }
    }

    /// How much memory a page takes to include the file without OPcache; with it, only the first page after each
    /// change.
    pub(super) fn compiled(&self) -> u64 {
        compiled(self.file, self.entries)
    }

    pub(super) fn is_large(&self) -> bool {
        self.compiled() > THRESHOLD
    }
}

fn compiled(bytes: u64, entries: u64) -> u64 {
    2 * bytes + COMPILED_ENTRY * entries
}

/// The exported path that a node lies below; of a single one, its direct child.
fn part<'p>(path: &'p str, paths: &[NodePath]) -> &'p str {
    let is_below = |root: &&NodePath| NodePath::parse(path).is_ok_and(|path| path.is_under(root));
    let root = paths.iter().find(is_below).map_or(0, |root| root.as_str().trim_end_matches('/').len());
    if paths.len() > 1 && root > 0 {
        return &path[..root];
    }
    let end = path[root..].char_indices().skip(1).find(|(_, character)| *character == '/');
    end.map_or(path, |(end, _)| &path[..root + end])
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: u64| text::size(i64::try_from(bytes).unwrap_or(i64::MAX));
        write!(
            f,
            "to include it takes PHP about {} (its `memory_limit` is 128M unless set) whenever OPcache has it not yet, and \
             OPcache about {}",
            size(self.compiled()),
            size(self.file + CACHED_ENTRY * self.entries)
        )?;
        let large = self.parts.iter().filter(|(_, bytes)| bytes * 100 > self.compiled()).take(PARTS);
        let parts: Vec<_> = large.map(|(part, bytes)| format!("{part} about {}", size(*bytes))).collect();
        if parts.len() > 1 {
            write!(f, "; export what is needed apart into files of its own: {}", parts.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roster::thrift::idl::Stat;

    fn size(paths: &[&str], nodes: &[(&str, usize)]) -> Size {
        let paths: Vec<_> = paths.iter().map(|path| NodePath::parse(path).expect("a path")).collect();
        let stat = || Stat::new(0, 0, 0, 0, 0, 0, 0, 0);
        let node = |(path, bytes): &(&str, usize)| Node::new((*path).into(), vec![b'x'; *bytes], stat());
        let nodes: Vec<_> = nodes.iter().map(node).collect();
        Size::of(&vec![b'x'; nodes.iter().map(|node| node.data.len()).sum()], &paths, nodes.iter())
    }

    #[test]
    fn what_takes_much_is_told_with_its_parts() {
        assert!(!size(&["/"], &[("/a", 1 << 20)]).is_large());
        let one = size(&["/a"], &[("/a", 0), ("/a/ü", 1 << 20), ("/a/b", 1), ("/a/b/c", 40 << 20)]);
        assert!(one.is_large());
        let parts: Vec<_> = one.parts.iter().map(|(part, _)| part.as_str()).collect();
        assert_eq!(parts, ["/a/b", "/a/ü", "/a"]);
        let told = one.to_string();
        assert!(
            told.contains("about 82.0 MiB") && told.ends_with(": /a/b about 80.0 MiB, /a/ü about 2.0 MiB"),
            "{told}"
        );
        let told = size(&["/a"], &[("/a", 0), ("/a/b", 40 << 20)]).to_string();
        assert!(told.ends_with("OPcache about 40.0 MiB"), "{told}");
        let of = |paths: &[&str]| size(paths, &[("/a/x", 9), ("/a/y", 9), ("/b", 40 << 20)]).parts;
        assert_eq!(of(&["/a", "/b"]).iter().map(|(part, _)| part.as_str()).collect::<Vec<_>>(), ["/b", "/a"]);
        assert_eq!(of(&["/"]).iter().map(|(part, _)| part.as_str()).collect::<Vec<_>>(), ["/b", "/a"]);
    }
}
