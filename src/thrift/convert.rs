//! From the nouns of the model to those of the interface.

use super::masters::seen_services;
use super::{idl, value};
use crate::access::Grant;
use crate::model::{ChangeKind, Freshness, Node, NodePath, Origin, Service, Stat};
use crate::store::{Entry, Feed, Filled};

impl From<Freshness> for idl::Freshness {
    fn from(fresh: Freshness) -> Self {
        Self {
            revision: fresh.revision as i64,
            age_ms: fresh.age.as_millis() as i64,
            origin: match fresh.origin {
                Origin::Live => idl::Origin::LIVE,
                Origin::Restored => idl::Origin::RESTORED,
            },
            complete: fresh.complete,
        }
    }
}

impl From<Stat> for idl::Stat {
    fn from(stat: Stat) -> Self {
        Self {
            version: stat.version,
            czxid: stat.czxid,
            mzxid: stat.mzxid,
            pzxid: stat.pzxid,
            ctime: stat.ctime,
            mtime: stat.mtime,
            ephemeral_owner: stat.ephemeral_owner,
            num_children: stat.num_children,
        }
    }
}

impl From<ChangeKind> for idl::ChangeKind {
    fn from(kind: ChangeKind) -> Self {
        match kind {
            ChangeKind::Created => Self::CREATED,
            ChangeKind::Changed => Self::CHANGED,
            ChangeKind::Deleted => Self::DELETED,
        }
    }
}

pub(super) fn node(path: &NodePath, node: &Node) -> idl::Node {
    idl::Node { path: path.to_string(), data: node.data.to_vec(), stat: node.stat.into() }
}

/// About how many bytes a node takes in a reply.
pub(super) fn node_size(path: &NodePath, node: &Node) -> usize {
    path.as_str().len() + node.data.len() + 128
}

impl From<&Service> for idl::Service {
    fn from(service: &Service) -> Self {
        Self {
            name: service.base_name().to_owned(),
            version: service.version().to_string(),
            metadata: value::object(&service.metadata),
        }
    }
}

/// A master, with those services that `grant` sees.
pub(super) fn master(entry: &Entry, grant: &Grant) -> idl::Master {
    let master = &entry.master;
    idl::Master {
        id: master.id.clone(),
        address: master.address.clone(),
        connected_at: master.connected_at,
        services: seen_services(entry, grant).map(Into::into).collect(),
        ways: entry.lines().count() as i32,
        outstanding: entry.outstanding() as i32,
    }
}

pub(super) fn instance(entry: &Entry, offer: &Service) -> idl::Instance {
    idl::Instance {
        master: entry.master.id.clone(),
        address: entry.master.address.clone(),
        offer: offer.into(),
        outstanding: entry.outstanding() as i32,
    }
}

pub(super) fn source(feed: &Feed, filled: Filled, now_ms: i64, grant: &Grant) -> idl::SourceStatus {
    let ms = |duration: std::time::Duration| duration.as_millis() as i64;
    // Who may not read all is not told what would tell of the rest.
    let sees_all = feed.roots().iter().all(|root| grant.reads(root));
    let seen = |number: u64| if sees_all { number as i64 } else { 0 };
    idl::SourceStatus {
        name: feed.name().to_owned(),
        kind: feed.kind().to_owned(),
        state: feed.state().to_string(),
        detail: if sees_all { feed.detail() } else { String::new() },
        roots: feed.roots().iter().filter(|root| grant.lists(root)).map(NodePath::to_string).collect(),
        session: feed.session(),
        last_sync: feed.since_proof().map(|since| now_ms - ms(since)),
        age_ms: feed.age().map(ms),
        nodes: seen(filled.nodes),
        bytes: seen(filled.bytes),
        reconnects: feed.reconnects.get() as i64,
        left_out: feed.left_out() as i64,
        drift: feed.drift.get() as i64,
    }
}
