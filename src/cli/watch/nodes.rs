//! Following coordination nodes.

use roster::model::NodePath;
use roster::thrift::client::Client;
use roster::thrift::idl::Node;

use super::{News, POLL, Subject, Tell};
use crate::cli::{json, text};

/// The nodes at and below some paths.
pub(super) struct Nodes {
    paths: Vec<NodePath>,
}

impl Nodes {
    /// No paths: all nodes.
    pub(super) fn new(paths: Vec<NodePath>) -> Self {
        Self { paths }
    }
}

impl Subject for Nodes {
    /// What is printed twice, since a later page may be newer than the first, is printed in its order.
    fn present(&mut self, client: &mut Client, tell: Tell<'_>) -> anyhow::Result<i64> {
        let roots = if self.paths.is_empty() { vec![NodePath::root()] } else { self.paths.clone() };
        let first_page = |root: &NodePath| client.subtree(root.as_str(), None, None);
        // Nothing is printed before the first page of every path has arrived.
        let pages = roots.iter().map(first_page).collect::<Result<Vec<_>, _>>()?;
        let first = pages[0].freshness.revision;
        for (root, mut page) in roots.iter().zip(pages) {
            if page.nodes.is_empty() {
                eprintln!("roster: there is nothing at {root} yet");
            }
            loop {
                for node in &page.nodes {
                    tell(news(page.freshness.revision, "PRESENT".into(), &node.path, Some(node)))?;
                }
                let Some(from) = page.cursor else { break };
                page = client.subtree(root.as_str(), Some(from), None)?;
            }
        }
        Ok(first)
    }

    fn changes(&mut self, client: &mut Client, since: i64, tell: Tell<'_>) -> anyhow::Result<Option<i64>> {
        let paths = self.paths.iter().map(NodePath::to_string).collect();
        let reply = client.watch(since, paths, POLL)?;
        let revision = reply.freshness.revision;
        if reply.reset {
            tell(News::reset(revision))?;
            return Ok(None);
        }
        for change in &reply.changes {
            tell(news(revision, json::change_kind(change.kind), &change.path, change.node.as_ref()))?;
        }
        Ok(Some(revision))
    }
}

fn news(revision: i64, kind: String, path: &str, node: Option<&Node>) -> News {
    let fields = match node {
        Some(node) => json::node(node),
        None => [("path".to_owned(), path.into())].into_iter().collect(),
    };
    let preview = node.map(|node| text::preview(&node.data)).unwrap_or_default();
    News { revision, kind, name: path.to_owned(), preview, fields }
}
