//! The shared file in place of a sidecar: the same answers and the same errors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use roster::model::{Node, NodePath, view};
use roster::store::no_node;
use roster::store::shared::{FileStatus, Reader, Source};
use roster::thrift::client::{Error, age};
use roster::thrift::idl::{self, EntityKind, Freshness, NotFound, NotReady, TooStale};
use serde::Deserialize;

use super::tree::Tree;

#[derive(Debug)]
pub(crate) struct SharedFile {
    reader: Reader,
    path: PathBuf,
    max_age: Option<Duration>,
}

impl SharedFile {
    pub(crate) fn open(path: &Path, max_age: Option<Duration>) -> anyhow::Result<Self> {
        Ok(Self { reader: Reader::open(path)?, path: path.to_owned(), max_age })
    }

    pub(crate) fn get(&self, path: &NodePath) -> anyhow::Result<idl::NodeReply> {
        let (node, status) = self.reader.node(path)?;
        let freshness = self.freshness(&status, status.behind(path))?;
        let node = node.ok_or_else(|| absent(&status, path, &freshness))?;
        Ok(idl::NodeReply { node: told(path, &node), freshness })
    }

    pub(crate) fn children(&self, path: &NodePath) -> anyhow::Result<idl::ChildrenReply> {
        let (names, status) = self.reader.children(path)?;
        let freshness = self.freshness(&status, status.behind(path))?;
        let names = names.ok_or_else(|| absent(&status, path, &freshness))?;
        Ok(idl::ChildrenReply { names, freshness, cursor: None })
    }

    pub(crate) fn subtree(&self, root: &NodePath) -> anyhow::Result<(Tree, Freshness)> {
        let contents = self.reader.contents()?;
        let freshness = self.freshness(&contents.status, contents.status.behind(root))?;
        let below = contents.nodes.range(root.clone()..).take_while(|(path, _)| path.is_under(root));
        Ok((below.map(|(path, node)| (path.clone(), told(path, node))).collect(), freshness))
    }

    pub(crate) fn services(&self) -> anyhow::Result<idl::ServicesReply> {
        let contents = self.reader.contents()?;
        let mut services: BTreeMap<String, (BTreeMap<String, i32>, i32)> = BTreeMap::new();
        let mut instances: Vec<view::Instance> =
            contents.registered().map(|json| self.parse(json)).collect::<Result<_, _>>()?;
        for (_, of_masters) in contents.services() {
            instances.extend(self.parse::<Vec<view::Instance>>(of_masters)?);
        }
        for instance in instances {
            let (masters, held) = services.entry(instance.service_name).or_default();
            *masters.entry(instance.version).or_default() += 1;
            *held += i32::from(instance.held.is_some());
        }
        let summary =
            |(name, (masters, held))| idl::ServiceSummary { name, masters, held: Some(held).filter(|held| *held > 0) };
        let services: Vec<_> = services.into_iter().map(summary).collect();
        let freshness = self.freshness_of_instances(&contents.status, !services.is_empty())?;
        Ok(idl::ServicesReply { services, freshness, cursor: None })
    }

    pub(crate) fn instances(&self, service: &str) -> anyhow::Result<idl::InstancesReply> {
        let (instances, status) = self.reader.instances(service)?;
        let freshness = self.freshness_of_instances(&status, instances.is_some())?;
        let Some(instances) = instances else {
            let message = format!("nobody offers `{service}`");
            return Err(not_found(EntityKind::SERVICE, service, message, freshness).into());
        };
        let is_protected = Some(instances.iter().any(|it| it.held.is_some()));
        let instances = instances.into_iter().map(Into::into).collect();
        Ok(idl::InstancesReply { instances, freshness, cursor: None, is_protected })
    }

    pub(crate) fn masters(&self, service: Option<&str>) -> anyhow::Result<(Vec<idl::Master>, Freshness)> {
        let contents = self.reader.contents()?;
        let freshness = self.freshness(&contents.status, contents.status.behind_masters())?;
        let mut masters: Vec<view::Master> =
            contents.masters().map(|json| self.parse(json)).collect::<Result<_, _>>()?;
        masters.retain(|master| service.is_none_or(|name| master.services.iter().any(|offer| offer.name == name)));
        masters.sort_by(|one, other| one.id.cmp(&other.id));
        Ok((masters.into_iter().map(Into::into).collect(), freshness))
    }

    /// The freshness of an answer that depends on these sources, if it can be given.
    fn freshness<'a>(
        &self,
        status: &FileStatus,
        behind: impl Iterator<Item = &'a Source> + Clone,
    ) -> anyhow::Result<Freshness> {
        if let Some(source) = behind.clone().find(|source| !source.whole) {
            let why = if source.age_ms.is_none() { "has never been in sync" } else { "has not been read as a whole" };
            let (name, path) = (&source.name, self.path.display());
            let message = format!("the source {name} {why}, says {path}; `roster status` shows what it waits for");
            return Err(Error::NotReady(NotReady { source: source.name.clone(), message }).into());
        }
        let freshness = status.freshness(behind, SystemTime::now()).into();
        check_age(&freshness, self.max_age)?;
        Ok(freshness)
    }

    /// The same for instances. What one source supplies is known without the others, and no older because of them.
    fn freshness_of_instances(&self, status: &FileStatus, is_found: bool) -> anyhow::Result<Freshness> {
        if !is_found {
            return self.freshness(status, status.behind_instances());
        }
        let known = self.freshness(status, status.behind_instances().filter(|source| source.whole))?;
        let complete = known.complete && status.behind_instances().all(|source| source.whole);
        Ok(Freshness { complete, ..known })
    }

    /// Fails unless all sources of instances have been read as a whole.
    pub(crate) fn ensure_known(&self) -> anyhow::Result<()> {
        let status = self.reader.contents()?.status;
        self.freshness(&status, status.behind_instances()).map(drop)
    }

    fn parse<'v, T: Deserialize<'v>>(&self, json: &'v [u8]) -> anyhow::Result<T> {
        serde_json::from_slice(json).with_context(|| self.damaged())
    }

    fn damaged(&self) -> String {
        format!("an entry of {} is not what it should be", self.path.display())
    }
}

fn absent(status: &FileStatus, path: &NodePath, freshness: &Freshness) -> Error {
    let behind = status.behind(path).map(|source| (source.name.as_str(), source.origin, source.skipped_nodes));
    let message = no_node(path, behind).unwrap_or_else(|| format!("no source of the shared file mirrors {path}"));
    not_found(EntityKind::NODE, path.as_str(), message, freshness.clone())
}

fn not_found(kind: EntityKind, name: &str, message: String, freshness: Freshness) -> Error {
    Error::NotFound(NotFound { kind, name: name.to_owned(), message, freshness })
}

/// Refuses an answer that is too old, as the sidecar does.
fn check_age(freshness: &Freshness, max_age: Option<Duration>) -> Result<(), Error> {
    let max_age_ms = max_age.map_or(i64::MAX, age);
    if freshness.age_ms <= max_age_ms {
        return Ok(());
    }
    let message = "`roster status` shows which source is behind".into();
    Err(Error::TooStale(TooStale { age_ms: freshness.age_ms, max_age_ms, message }))
}

fn told(path: &NodePath, node: &Node) -> idl::Node {
    idl::Node { path: path.to_string(), data: node.data.to_vec(), stat: node.stat.into() }
}
