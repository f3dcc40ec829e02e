//! `roster ls`: the children of a node, or its whole subtree.

use std::io::{self, BufWriter, Write};

use clap::Args;
use roster::model::NodePath;
use roster::thrift::idl::{Freshness, Node};
use serde_json::{Value, json};

use super::known::Source;
use super::{Output, json, text};

/// List the children of a coordination node
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// The path of the node
    #[arg(value_parser = NodePath::parse)]
    path: NodePath,
    /// List the node and everything below it, by path
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Show version, size, children and time of the last change; in JSON also the data
    #[arg(short, long)]
    long: bool,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    source: Source,
}

impl Ls {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut known = self.source.open()?;
        if !self.recursive && !self.long {
            let reply = known.children(&self.path)?;
            return Ok(print_names(&reply.names, &reply.freshness, self.output)?);
        }
        // The children's statistics come this way too: a long list of paths might exceed the request limit.
        let (mut tree, freshness) = known.subtree(&self.path)?;
        if !self.recursive {
            tree.retain(|path, _| path.parent().as_ref() == Some(&self.path));
        }
        let nodes: Vec<_> = tree.into_values().collect();
        match self.output {
            Output::Json => print_json(&nodes, &freshness)?,
            Output::Table if self.long => io::stdout().write_all(table(&nodes, self.recursive).as_bytes())?,
            Output::Table => print_lines(nodes.iter().map(|node| &node.path))?,
        }
        Ok(())
    }
}

fn print_names(names: &[String], freshness: &Freshness, output: Output) -> io::Result<()> {
    match output {
        Output::Table => print_lines(names.iter()),
        Output::Json => json::print(&json!({ "names": names, "freshness": json::freshness(freshness) })),
    }
}

fn print_lines<'a>(lines: impl Iterator<Item = &'a String>) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for line in lines {
        writeln!(out, "{}", text::printable(line.as_bytes()))?;
    }
    out.flush()
}

fn print_json(nodes: &[Node], freshness: &Freshness) -> io::Result<()> {
    let nodes: Vec<_> = nodes.iter().map(|node| Value::Object(json::node(node))).collect();
    json::print(&json!({ "nodes": nodes, "freshness": json::freshness(freshness) }))
}

fn table(nodes: &[Node], whole_paths: bool) -> String {
    let rows: Vec<_> = nodes.iter().map(|node| row(node, whole_paths)).collect();
    text::table(["VERSION", "SIZE", "CHILDREN", "MODIFIED", "KIND", "NAME"], &["VERSION", "SIZE", "CHILDREN"], &rows)
}

fn row(node: &Node, whole_path: bool) -> [String; 6] {
    let name = if whole_path { &node.path } else { node.path.rsplit('/').next().unwrap_or_default() };
    let kind = if node.stat.ephemeral_owner == 0 { "persistent" } else { "ephemeral" };
    [
        node.stat.version.to_string(),
        text::size(node.data.len() as i64),
        node.stat.num_children.to_string(),
        text::time(node.stat.mtime),
        kind.into(),
        text::printable(name.as_bytes()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use roster::thrift::idl::Stat;

    #[test]
    fn a_long_listing_marks_the_ephemeral_and_knows_no_time_that_is_not_known() {
        let node = |path: &str, mtime, owner| {
            Node::new(path.into(), vec![b'x'; 2048], Stat::new(3, 0, 0, 0, 0, mtime, owner, 1))
        };
        let nodes = [node("/a/one", 0, 0), node("/a/two", 1_700_000_000_000, 9)];
        assert_eq!(
            table(&nodes, false),
            "\
VERSION     SIZE  CHILDREN  MODIFIED              KIND        NAME
      3  2.0 KiB         1  -                     persistent  one
      3  2.0 KiB         1  2023-11-14T22:13:20Z  ephemeral   two
"
        );
        assert!(table(&nodes, true).contains("/a/one"));
    }
}
