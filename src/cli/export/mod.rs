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
use roster::thrift::idl::ServiceSummary;
use serde_json::json;

use self::size::Size;
use super::known::{Known, Source};
use super::text;
use super::tree::Tree;

/// Write nodes and services as a PHP array, for hosts with OPcache
///
/// The file is replaced as a whole, and only when its content becomes another: `'nodes'` has data by path, `'services'`
/// the instances by the name of the service. An export that fails leaves it as it was. A new file is at least a second
/// younger than the one before, by which OPcache knows it. What a large one takes of PHP's memory is said.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The file to write
    #[arg(long, value_name = "FILE")]
    php: PathBuf,
    /// The group that the file is given to, by its name or number; others cannot read a new file
    #[arg(long)]
    group: Option<String>,
    /// Nodes to write, with all below each; none is needed with --services
    #[arg(value_parser = NodePath::parse, required_unless_present = "services")]
    paths: Vec<NodePath>,
    /// Write the instances of each service
    #[arg(long)]
    services: bool,
    /// Go on and keep the file so, until interrupted; a sidecar that goes away is waited for
    #[arg(long, conflicts_with = "shared")]
    watch: bool,
    #[command(flatten)]
    source: Source,
}

/// What is exported where.
#[derive(Debug)]
struct Subject {
    php: PathBuf,
    group: Option<String>,
    paths: Vec<NodePath>,
    services: bool,
    /// Whether a path at which there is nothing has no nodes, and is no mistake.
    may_be_absent: bool,
    /// What the file took of which it was last said that it takes much.
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

    /// Says what a large file takes, and again when it takes twice as much.
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

/// The instances of each service, as `roster services NAME -o json` has them, the newest version first; but for what
/// changes with each call or connection.
fn instances(known: &mut Known) -> anyhow::Result<Vec<(String, Vec<view::Instance>)>> {
    let services = listed(known)?;
    // Known sources stay so, but for a sidecar that was started anew meanwhile.
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
        let found = match known.instances(&name, Vec::new()) {
            Ok(reply) => reply.instances,
            // It has gone meanwhile.
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
