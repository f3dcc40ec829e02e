//! A subtree at one revision, assembled from its pages.

use std::collections::BTreeMap;
use std::time::Duration;

use roster::model::NodePath;
use roster::thrift::client::Client;
use roster::thrift::idl::{Freshness, Node};

/// The nodes of a subtree by path, parents first.
pub(crate) type Tree = BTreeMap<NodePath, Node>;

/// How often reading a subtree is started over.
const TRIES: usize = 5;
/// How often to ask for the changes since. Until there are none, parts of what was read may be newer than the rest.
const ROUNDS: usize = 100;

/// Reads a whole subtree. A later page may be newer than the first; then the changes since are fetched by `watch` and
/// applied to what was read.
pub(crate) fn read(
    client: &mut Client,
    root: &NodePath,
    max_age: Option<Duration>,
) -> anyhow::Result<(Tree, Freshness)> {
    for _ in 0..TRIES {
        if let Some(read) = read_once(client, root, max_age)? {
            return Ok(read);
        }
    }
    anyhow::bail!("{root} changes faster than it can be read")
}

/// None: the changes made meanwhile are no longer known, or did not end.
fn read_once(
    client: &mut Client,
    root: &NodePath,
    max_age: Option<Duration>,
) -> anyhow::Result<Option<(Tree, Freshness)>> {
    let mut page = client.subtree(root.as_str(), None, max_age)?;
    let first = page.freshness.revision;
    let mut tree = Tree::new();
    loop {
        for node in page.nodes {
            tree.insert(NodePath::parse(&node.path)?, node);
        }
        match page.cursor {
            Some(cursor) => page = client.subtree(root.as_str(), Some(cursor), max_age)?,
            None => break,
        }
    }
    if page.freshness.revision == first {
        return Ok(Some((tree, page.freshness)));
    }
    let mut since = first;
    for _ in 0..ROUNDS {
        let told = client.watch(since, vec![root.to_string()], Duration::ZERO)?;
        if told.reset {
            return Ok(None);
        }
        if told.changes.is_empty() {
            return Ok(Some((tree, told.freshness)));
        }
        for change in told.changes {
            let path = NodePath::parse(&change.path)?;
            match change.node {
                Some(node) => tree.insert(path, node),
                None => tree.remove(&path),
            };
        }
        since = told.freshness.revision;
    }
    Ok(None)
}
