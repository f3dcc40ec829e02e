//! What is known, read from a sidecar or from its shared file.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use roster::model::NodePath;
use roster::thrift::client::{Client, Error, age};
use roster::thrift::idl::{
    ChildrenReply, EntityKind, Freshness, InstancesReply, Master, NodeReply, NotFound, NotReady, ServiceQuery,
    ServicesReply, SourceStatus, Supply,
};

use super::connection::{Connection, duration};
use super::file::SharedFile;
use super::services;
use super::tree::{self, Tree};

/// The kind of a source that another one reported; commands do not wait for one that was never reached.
const LEARNED: &str = "learned";

/// Where a command reads from.
#[derive(Clone, Debug, Args)]
pub(crate) struct Source {
    /// Refuse data that has not been confirmed in sync for longer than this; a bare number is in seconds
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    max_age: Option<Duration>,
    /// Read this shared file instead of asking a sidecar
    #[arg(long, value_name = "FILE")]
    shared: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

/// The source of the answers.
#[derive(Debug)]
pub(crate) enum Known {
    Sidecar { client: Client, max_age: Option<Duration> },
    File(SharedFile),
}

impl Source {
    /// A second client of the sidecar.
    pub(crate) fn client(&self) -> Client {
        self.connection.clone().client()
    }

    pub(crate) fn open(self) -> anyhow::Result<Known> {
        Ok(match self.shared {
            Some(path) => Known::File(SharedFile::open(&path, self.max_age)?),
            None => Known::Sidecar { client: self.connection.client(), max_age: self.max_age },
        })
    }
}

impl Known {
    pub(crate) fn get(&mut self, path: &NodePath) -> anyhow::Result<NodeReply> {
        match self {
            Known::Sidecar { client, max_age } => Ok(client.get(path.as_str(), *max_age)?),
            Known::File(file) => file.get(path),
        }
    }

    pub(crate) fn children(&mut self, path: &NodePath) -> anyhow::Result<ChildrenReply> {
        match self {
            Known::Sidecar { client, max_age } => match client.children(path.as_str(), *max_age) {
                // The path is valid, so there must be too many children.
                Err(Error::Invalid(_)) => Ok(all_children(client, path, *max_age)?),
                reply => Ok(reply?),
            },
            Known::File(file) => file.children(path),
        }
    }

    /// A node and everything below it. It is an error if there is none.
    pub(crate) fn subtree(&mut self, root: &NodePath) -> anyhow::Result<(Tree, Freshness)> {
        let (tree, freshness) = match self {
            Known::Sidecar { client, max_age } => tree::read(client, root, *max_age)?,
            Known::File(file) => file.subtree(root)?,
        };
        if tree.is_empty() {
            let message = format!("there is no node at or below {root}");
            let absence = NotFound { kind: EntityKind::NODE, name: root.to_string(), message, freshness };
            return Err(Error::NotFound(absence).into());
        }
        Ok((tree, freshness))
    }

    /// Fails unless all sources of instances are known: a list could be incomplete without saying so.
    pub(crate) fn ensure_known(&mut self) -> anyhow::Result<()> {
        let client = match self {
            Known::Sidecar { client, .. } => client,
            Known::File(file) => return file.ensure_known(),
        };
        let is_unknown = |it: &&SourceStatus| {
            let supplies = it.supplies.as_ref().is_some_and(|all| all.contains(&Supply::INSTANCES));
            supplies && it.last_sync.is_none() && it.kind != LEARNED
        };
        match client.status()?.sources.iter().find(is_unknown) {
            None => Ok(()),
            Some(SourceStatus { name, .. }) => {
                let message =
                    format!("nothing is known of the source {name} yet; `roster status` shows what it waits for");
                Err(Error::NotReady(NotReady { source: name.clone(), message }).into())
            }
        }
    }

    pub(crate) fn services(&mut self, metadata: Metadata) -> anyhow::Result<ServicesReply> {
        match self {
            Known::Sidecar { client, max_age } => Ok(services::read(client, query(None, metadata, *max_age))?),
            Known::File(file) => file.services(),
        }
    }

    /// The instances that a filter wants; of a shared file all.
    pub(crate) fn instances(&mut self, service: &str, filter: ServiceQuery) -> anyhow::Result<InstancesReply> {
        let (client, max_age) = match self {
            Known::Sidecar { client, max_age } => (client, *max_age),
            Known::File(file) => return file.instances(service),
        };
        let mut query = ServiceQuery { service_name: Some(service.to_owned()), max_age_ms: max_age.map(age), ..filter };
        let mut instances = Vec::new();
        loop {
            let page = client.instances(query.clone())?;
            instances.extend(page.instances);
            match page.cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(InstancesReply { instances, ..page }),
            }
        }
    }

    /// The masters that offer the service, or all masters.
    pub(crate) fn masters(
        &mut self,
        service: Option<String>,
        metadata: Metadata,
    ) -> anyhow::Result<(Vec<Master>, Freshness)> {
        let (client, max_age) = match self {
            Known::Sidecar { client, max_age } => (client, *max_age),
            Known::File(file) => return file.masters(service.as_deref()),
        };
        let mut query = query(service, metadata, max_age);
        let mut masters = Vec::new();
        loop {
            let page = client.masters(query.clone())?;
            masters.extend(page.masters);
            match page.cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok((masters, page.freshness)),
            }
        }
    }
}

/// Page by page: what is added or removed meanwhile may be missing or not. Freshness is that of the first page.
fn all_children(client: &mut Client, path: &NodePath, max_age: Option<Duration>) -> Result<ChildrenReply, Error> {
    let mut all = client.children_page(path.as_str(), None, max_age)?;
    while let Some(cursor) = all.cursor.take() {
        let page = client.children_page(path.as_str(), Some(cursor), max_age)?;
        all.names.extend(page.names);
        all.cursor = page.cursor;
    }
    Ok(all)
}

/// The metadata a service must have to be listed.
type Metadata = Vec<(String, String)>;

fn query(service_name: Option<String>, metadata: Metadata, max_age: Option<Duration>) -> ServiceQuery {
    let metadata = (!metadata.is_empty()).then(|| metadata.into_iter().collect());
    ServiceQuery { service_name, metadata, max_age_ms: max_age.map(age), ..ServiceQuery::default() }
}

/// A metadatum as it is given on the command line.
pub(crate) fn metadatum(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("expected KEY=VALUE".into()),
    }
}
