//! `roster export`: services and nodes as a file that PHP includes.

mod file;
mod follow;
mod php;
mod size;

use std::cell::Cell;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use roster::model::{NodePath, view};
use roster::thrift::client::Error;
use roster::thrift::idl::{ServiceQuery, ServiceSummary};
use serde_json::json;

use self::size::Size;
use super::known::{Known, Source};
use super::text;
use super::tree::Tree;

/// Write nodes and services as a PHP array, for hosts with OPcache
///
/// The file is replaced atomically, and only when its content changes: `'nodes'` holds data by path, `'services'` the
/// instances by service name. A failed export leaves it as it was. A new file is at least a second younger than the
/// last, so that OPcache notices it. If a file takes much of PHP's memory, a message says how much.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The file to write
    #[arg(long, value_name = "FILE")]
    php: PathBuf,
    /// The group to give the file to, by name or number; others cannot read a new file
    #[arg(long)]
    group: Option<String>,
    /// Nodes to write, each with everything below it; optional with --services
    #[arg(value_parser = NodePath::parse, required_unless_present = "services")]
    paths: Vec<NodePath>,
    /// Write the instances of each service
    #[arg(long)]
    services: bool,
    /// Keep the file up to date until interrupted; waits for a sidecar that goes away
    #[arg(long, conflicts_with = "shared")]
    watch: bool,
    #[command(flatten)]
    source: Source,
}

/// What is exported, and where.
#[derive(Debug)]
struct Subject {
    php: PathBuf,
    group: Option<String>,
    paths: Vec<NodePath>,
    services: bool,
    /// Whether a path without a node counts as empty rather than as an error.
    may_be_absent: bool,
    /// The size of the file when it was last reported as large.
    told: Cell<u64>,
}

impl Export {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let subject = Subject {
            php: self.php,
            group: self.group,
            paths: self.paths,
            services: self.services,
            may_be_absent: self.watch,
            told: Cell::default(),
        };
        if self.watch {
            match follow::follow(&subject, &self.source)? {}
        }
        subject.write(&mut self.source.open()?)
    }
}

impl Subject {
    fn write(&self, known: &mut Known) -> anyhow::Result<()> {
        let mut nodes = Tree::new();
        for path in &self.paths {
            match known.subtree(path) {
                Ok((mut tree, _)) => nodes.append(&mut tree),
                Err(error) if self.may_be_absent && is_absence(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let services = if self.services { instances(known)? } else { Vec::new() };
        let content = php::file(|file| {
            if !self.paths.is_empty() {
                file.array("nodes", |array| nodes.values().for_each(|node| array.string(&node.path, &node.data)));
            }
            if self.services {
                file.array("services", |array| {
                    services.iter().for_each(|(name, instances)| array.value(name, &json!(instances)));
                });
            }
        });
        let replaced = file::replace(&self.php, &content, self.group.as_deref());
        if replaced.with_context(|| format!("cannot write {}", self.php.display()))? {
            self.tell(&Size::of(&content, &self.paths, nodes.values()));
        }
        Ok(())
    }

    /// Reports what a large file takes, and again when that doubles.
    fn tell(&self, size: &Size) {
        if size.is_large() && size.compiled() >= 2 * self.told.get() {
            self.told.set(size.compiled());
            let message = format!("{}: {size}", self.php.display());
            eprintln!("roster: {}", text::printable(message.as_bytes()));
        }
    }
}

fn is_absence(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::NotFound(_)))
}

/// The instances of each service, as in `roster services NAME -o json`, newest version first, without the fields that
/// change with each call or connection.
fn instances(known: &mut Known) -> anyhow::Result<Vec<(String, Vec<view::Instance>)>> {
    let services = listed(known)?;
    // Known sources stay known, unless the sidecar was restarted meanwhile.
    known.ensure_known()?;
    Ok(services)
}

fn listed(known: &mut Known) -> anyhow::Result<Vec<(String, Vec<view::Instance>)>> {
    known.ensure_known()?;
    let mut services = Vec::new();
    for ServiceSummary { name, masters, .. } in known.services(Vec::new())?.services {
        if masters.is_empty() {
            continue;
        }
        let found = match known.instances(&name, ServiceQuery::default()) {
            Ok(reply) => reply.instances,
            // It has disappeared meanwhile.
            Err(error) if is_absence(&error) => continue,
            Err(error) => return Err(error),
        };
        let stable =
            |found| view::Instance { outstanding: None, provenance: Vec::new(), ..view::Instance::from(found) };
        let instances: Vec<_> = found.into_iter().map(stable).collect();
        if !instances.is_empty() {
            services.push((name, instances));
        }
    }
    Ok(services)
}
