//! Converts the model's types to those of the interface.

use super::idl;
use super::masters::seen_services;
use crate::access::Grant;
use crate::history::Entry;
use crate::model::{
    ChangeKind, Endpoint, Freshness, Held, Instance, InstanceState, Metadata, Node, NodePath, Origin, Probe, Record,
    Stat, Supply, Withholding, view,
};
use crate::store::{Feed, FeedProgress, MasterEntry};

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

impl From<idl::Stat> for Stat {
    fn from(stat: idl::Stat) -> Self {
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

impl From<idl::Node> for view::Node {
    fn from(node: idl::Node) -> Self {
        Self::of(node.path, node.data, node.stat.into())
    }
}

impl From<idl::Freshness> for view::Freshness {
    fn from(fresh: idl::Freshness) -> Self {
        // An origin from a newer sidecar is not known to be live.
        let origin = if fresh.origin == idl::Origin::LIVE { Origin::Live } else { Origin::Restored };
        Self { revision: fresh.revision as u64, age_ms: fresh.age_ms as u64, origin, complete: fresh.complete }
    }
}

impl From<Supply> for idl::Supply {
    fn from(supply: Supply) -> Self {
        match supply {
            Supply::Nodes => Self::NODES,
            Supply::Instances => Self::INSTANCES,
            Supply::Unknown => Self(0),
        }
    }
}

impl From<idl::Supply> for Supply {
    fn from(supply: idl::Supply) -> Self {
        match supply {
            idl::Supply::NODES => Self::Nodes,
            idl::Supply::INSTANCES => Self::Instances,
            _ => Self::Unknown,
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

impl From<view::Service> for idl::Service {
    fn from(service: view::Service) -> Self {
        Self { name: service.name, version: service.version, metadata: service.metadata.json() }
    }
}

impl From<idl::Service> for view::Service {
    fn from(service: idl::Service) -> Self {
        Self { name: service.name, version: service.version, metadata: metadata(&service.metadata) }
    }
}

impl From<view::Master> for idl::Master {
    fn from(master: view::Master) -> Self {
        Self {
            id: master.id,
            peer_address: master.peer_address,
            connected_at: master.connected_at,
            services: master.services.into_iter().map(Into::into).collect(),
            routes: master.routes as i32,
            outstanding: master.outstanding.unwrap_or(0) as i32,
        }
    }
}

impl From<idl::Master> for view::Master {
    fn from(master: idl::Master) -> Self {
        Self {
            id: master.id,
            peer_address: master.peer_address,
            connected_at: master.connected_at,
            services: master.services.into_iter().map(Into::into).collect(),
            routes: master.routes as u32,
            outstanding: Some(master.outstanding as u32),
            sources: Vec::new(),
        }
    }
}

impl From<view::Instance> for idl::Instance {
    fn from(instance: view::Instance) -> Self {
        let endpoint = |it: Endpoint| idl::Endpoint::new(it.name, it.protocol, it.host, it.port.into());
        Self {
            master_id: instance.master_id,
            outstanding: instance.outstanding.unwrap_or(0) as i32,
            service_name: instance.service_name,
            version: instance.version,
            group: instance.group,
            zone: instance.zone,
            weight: instance.weight as i32,
            metadata: instance.metadata.json(),
            state: match instance.state {
                InstanceState::Up => idl::InstanceState::UP,
                InstanceState::Returning => idl::InstanceState::RETURNING,
                InstanceState::Down => idl::InstanceState::DOWN,
                InstanceState::Unknown => idl::InstanceState(0),
            },
            endpoints: instance.endpoints.into_iter().map(endpoint).collect(),
            provenance: instance.provenance.into_iter().map(Into::into).collect(),
            ejected: instance.ejected.map(Into::into),
            drained: instance.drained.map(Into::into),
            held: instance.held.map(|held| (*held).into()),
        }
    }
}

impl From<Withholding> for idl::Withholding {
    fn from(Withholding { since, ends_at, reason, .. }: Withholding) -> Self {
        Self { since: since as i64, ends_at: ends_at as i64, reason }
    }
}

impl From<idl::Withholding> for Withholding {
    fn from(idl::Withholding { since, ends_at, reason }: idl::Withholding) -> Self {
        Self { since: since as u64, ends_at: ends_at as u64, reason, ..Self::default() }
    }
}

impl From<idl::Instance> for view::Instance {
    fn from(instance: idl::Instance) -> Self {
        let endpoint = |it: idl::Endpoint| {
            let idl::Endpoint { name, protocol, host, port } = it;
            Endpoint { name, protocol, host, port: port as u16 }
        };
        Self {
            service_name: instance.service_name,
            version: instance.version,
            group: instance.group,
            zone: instance.zone,
            weight: instance.weight as u32,
            metadata: metadata(&instance.metadata),
            state: match instance.state {
                idl::InstanceState::UP => InstanceState::Up,
                idl::InstanceState::RETURNING => InstanceState::Returning,
                idl::InstanceState::DOWN => InstanceState::Down,
                _ => InstanceState::Unknown,
            },
            ejected: instance.ejected.map(Into::into),
            drained: instance.drained.map(Into::into),
            endpoints: instance.endpoints.into_iter().map(endpoint).collect(),
            master_id: instance.master_id,
            outstanding: Some(instance.outstanding as u32),
            provenance: instance.provenance.into_iter().map(Into::into).collect(),
            held: instance.held.map(|held| Box::new(held.into())),
        }
    }
}

impl From<Held> for idl::Held {
    fn from(held: Held) -> Self {
        let probe = match held.probe {
            Probe::Untried => idl::Probe::UNTRIED,
            Probe::Answering => idl::Probe::ANSWERING,
            Probe::Silent => idl::Probe::SILENT,
            Probe::Unknown => idl::Probe(0),
        };
        Self { since: held.since as i64, ends_at: held.ends_at as i64, probe, passed_over: held.passed_over }
    }
}

impl From<idl::Held> for Held {
    fn from(held: idl::Held) -> Self {
        let probe = match held.probe {
            idl::Probe::UNTRIED => Probe::Untried,
            idl::Probe::ANSWERING => Probe::Answering,
            idl::Probe::SILENT => Probe::Silent,
            _ => Probe::Unknown,
        };
        let (since, ends_at) = (held.since as u64, held.ends_at as u64);
        Self { since, ends_at, probe, passed_over: held.passed_over, ..Self::default() }
    }
}

impl From<view::Provenance> for idl::Provenance {
    fn from(provenance: view::Provenance) -> Self {
        let view::Provenance { source, path, master_id, decoder, since_revision } = provenance;
        Self { source, path, master_id, decoder, since_revision: since_revision as i64 }
    }
}

impl From<idl::Provenance> for view::Provenance {
    fn from(provenance: idl::Provenance) -> Self {
        let idl::Provenance { source, path, master_id, decoder, since_revision } = provenance;
        Self { source, path, master_id, decoder, since_revision: since_revision as u64 }
    }
}

/// Parses metadata from the interface's text.
fn metadata(text: &str) -> Metadata {
    serde_json::from_str(text).unwrap_or_default()
}

/// A master, with the services that `grant` sees.
pub(super) fn master(entry: &MasterEntry, grant: &Grant) -> idl::Master {
    let master = view::Master::of(&entry.master, seen_services(entry, grant));
    let (routes, outstanding) = (entry.lines().count() as u32, Some(entry.outstanding() as u32));
    view::Master { routes, outstanding, ..master }.into()
}

/// An instance, with the paths of its nodes that `grant` may read.
pub(super) fn instance(instance: &Instance, outstanding: usize, grant: &Grant) -> idl::Instance {
    let mut told = view::Instance { outstanding: Some(outstanding as u32), ..view::Instance::from(instance) };
    for (provenance, told) in instance.provenance.iter().zip(&mut told.provenance) {
        if matches!(&provenance.record, Record::Node(path) if !grant.reads(path)) {
            told.path = None;
        }
    }
    told.into()
}

/// About how many bytes an instance takes in a reply.
pub(super) fn instance_size(instance: &idl::Instance) -> usize {
    let of_provenance = |it: &idl::Provenance| {
        let record = it.path.as_ref().or(it.master_id.as_ref()).map_or(0, String::len);
        it.source.len() + it.decoder.len() + record + 48
    };
    size_but_for_provenance(instance) + instance.provenance.iter().map(of_provenance).sum::<usize>()
}

pub(super) fn size_but_for_provenance(instance: &idl::Instance) -> usize {
    let texts = [&instance.service_name, &instance.group, &instance.zone, &instance.metadata];
    let of_endpoint = |it: &idl::Endpoint| it.name.len() + it.protocol.len() + it.host.len() + 32;
    texts.iter().map(|text| text.len()).sum::<usize>()
        + instance.master_id.as_ref().map_or(0, String::len)
        + instance.endpoints.iter().map(of_endpoint).sum::<usize>()
        + [&instance.ejected, &instance.drained].into_iter().flatten().map(|it| it.reason.len() + 32).sum::<usize>()
        + 128
}

/// An entry of the history, with the path if `grant` may read it.
pub(super) fn entry(entry: &Entry, grant: &Grant) -> idl::HistoryEntry {
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    idl::HistoryEntry {
        number: entry.number as i64,
        time: entry.time,
        revision: entry.revision as i64,
        event: entry.event.into(),
        service_name: some(&entry.service),
        version: some(&entry.version),
        instance: some(&entry.instance),
        source: some(&entry.source),
        path: entry.path.as_ref().filter(|path| grant.reads(path)).map(NodePath::to_string),
        why: entry.why.clone(),
        count: Some(entry.count as i64).filter(|count| *count > 0),
    }
}

/// About how many bytes an entry takes in a reply.
pub(super) fn entry_size(entry: &idl::HistoryEntry) -> usize {
    let texts = [&entry.service_name, &entry.version, &entry.instance, &entry.source, &entry.path];
    texts.into_iter().flatten().map(String::len).sum::<usize>() + entry.why.len() + 128
}

pub(super) fn source(feed: &Feed, progress: FeedProgress, now_ms: i64, grant: &Grant) -> idl::SourceStatus {
    let ms = |duration: std::time::Duration| duration.as_millis() as i64;
    // Clients that may not read everything are not shown anything that reveals the rest.
    let sees_all = grant.reads_all(feed.roots());
    let seen = |number: u64| if sees_all { number as i64 } else { 0 };
    idl::SourceStatus {
        name: feed.name().to_owned(),
        kind: feed.kind().to_owned(),
        state: feed.state_of(progress).to_string(),
        detail: if sees_all { feed.detail_with_names() } else { String::new() },
        roots: feed.roots().iter().filter(|root| grant.lists(root)).map(NodePath::to_string).collect(),
        session: feed.session(),
        last_sync: feed.since_proof().map(|since| now_ms - ms(since)),
        age_ms: feed.age().map(ms),
        nodes: seen(progress.nodes),
        bytes: seen(progress.bytes),
        reconnects: feed.reconnects.get() as i64,
        skipped_nodes: progress.skipped_nodes as i64,
        drift: feed.drift.get() as i64,
        supplies: Some(feed.supplied().iter().map(|it| (*it).into()).collect()),
    }
}
