//! Explaining: why each instance of a service is served or not.

use std::collections::HashMap;
use std::sync::Arc;

use semver::Version;

use super::api::{Api, Subject, denied, ensure_known, page_size, parse};
use super::idl::{EntityKind, ExplainReply, ExplainRequest, ExplainedInstance, ExplainedNode};
use super::masters::{after, not_found};
use super::{Peer, convert, request};
use crate::access::Grant;
use crate::model::{Decoder, Endpoint, Format, Instance, NodePath, Record, address, view};
use crate::resolve::{Explanation, Query, explain, newest_callable};
use crate::store::{FeedState, Snapshot};

/// How many instances are searched for one page.
const MAX_SEEN: usize = 4_000;

/// How many undecodable nodes are reported.
const MAX_UNDECODABLE: usize = 100;

impl Api {
    /// Over several turns, if an instance or a node is searched for.
    pub(super) async fn explain(&self, peer: &Peer, request: &ExplainRequest) -> thrift::Result<ExplainReply> {
        let Some(service) = request.service_name.as_deref() else { return self.undecodable(peer, request).await };
        request::check_name(service)?;
        peer.identity.may_see(service).map_err(denied)?;
        self.ensure_room_for_page(peer)?;
        let limit = page_size(request.limit)?;
        let from = request.cursor.as_deref().map(after).transpose()?;
        let from = from.as_ref().map(|(version, id)| (version, *id));
        let (snapshot, freshness) = self.fresh(Subject::Instances, request.max_age_ms)?;
        let (directory, grant) = (snapshot.directory(), peer.identity.grant());
        let newest = newest(peer, &snapshot, service).await;
        let is_asked_for = |instance: &Instance| request.instance.as_ref().is_none_or(|name| is_named(instance, name));
        let (mut instances, mut bytes, mut last, mut cursor) = (Vec::new(), 0, None, None);
        for (seen, (id, instance)) in directory.instances_after(service, from).enumerate() {
            peer.let_others_work().await;
            let at = format!("{} {id}", instance.version);
            let is_full = instances.len() >= limit || bytes > self.page_bytes() || seen >= MAX_SEEN;
            // A master may offer a version more than once: all on one page.
            if is_full && last.as_ref().is_some_and(|last| *last != at) {
                cursor = last;
                break;
            }
            last = Some(at);
            if is_asked_for(instance) {
                let explained = self.explained(peer, &snapshot, instance, newest.as_ref()).await;
                bytes += size(&explained);
                instances.push(explained);
            }
        }
        let (mut undecodable, mut more) = (Vec::new(), 0);
        for found in snapshot.undecodable_of(service).take_while(|_| request.cursor.is_none()) {
            peer.let_others_work().await;
            let Some((feed, format, path, why)) = found else { continue };
            if undecodable.len() == MAX_UNDECODABLE || bytes > 2 * self.page_bytes() {
                more += 1;
                continue;
            }
            let node = node(&snapshot, feed.name(), format, path, grant, &[]);
            bytes += size_of_node(&node);
            undecodable.push(ExplainedNode { error: Some(why.to_string()), ..node });
        }
        if directory.instances_of(service).is_none() && !directory.was_offered(service) && undecodable.is_empty() {
            ensure_known(snapshot.behind_instances())?;
            let message = self.why_unknown(directory, service);
            return Err(not_found(EntityKind::SERVICE, service, message, freshness));
        }
        let sources = snapshot.behind_instances().filter_map(|(feed, progress)| {
            let state = feed.state_of(progress);
            let said = format!("{} is {state}", feed.name());
            let is_live = state == FeedState::Live;
            let said = if grant.reads_all(feed.roots()) { feed.with_detail(said) } else { said };
            let said = if is_live { said } else { format!("{said}: what is known of it stands") };
            // What a live source has to say explains only what is missing.
            let is_told_by_nodes = !instances.is_empty() || !undecodable.is_empty();
            let is_well = is_live && (is_told_by_nodes || feed.detail().is_empty());
            (!is_well).then_some(said)
        });
        let (sources, freshness) = (sources.collect(), freshness.into());
        Ok(ExplainReply { instances, undecodable, more_undecodable: more, sources, freshness, cursor })
    }

    /// The nodes of all services that cannot be read, as far as the client may read them itself.
    async fn undecodable(&self, peer: &Peer, request: &ExplainRequest) -> thrift::Result<ExplainReply> {
        self.ensure_room_for_page(peer)?;
        let limit = page_size(request.limit)?;
        let from = request.cursor.as_deref().map(|cursor| parse("cursor", cursor)).transpose()?;
        let (snapshot, freshness) = self.fresh(Subject::Instances, request.max_age_ms)?;
        ensure_known(snapshot.behind_instances())?;
        let grant = peer.identity.grant();
        let (mut undecodable, mut hidden, mut bytes, mut cursor) = (Vec::new(), 0, 0, None);
        let mut last = None;
        for (path, why) in snapshot.directory().undecodable_after(from.as_ref()) {
            peer.let_others_work().await;
            // Right after one that is shown: so the cursor names no other, and those are counted once over all pages.
            if undecodable.len() >= limit || bytes > self.page_bytes() {
                cursor = last;
                break;
            }
            match snapshot.registrar(path).filter(|_| grant.reads(path)) {
                Some((feed, config, _)) => {
                    let node = node(&snapshot, feed.name(), config.format, path, grant, &[]);
                    bytes += size_of_node(&node);
                    undecodable.push(ExplainedNode { error: Some(why.to_string()), ..node });
                    last = Some(path.to_string());
                }
                None => hidden += 1,
            }
        }
        let freshness = freshness.into();
        Ok(ExplainReply {
            instances: vec![],
            undecodable,
            more_undecodable: hidden,
            sources: vec![],
            freshness,
            cursor,
        })
    }

    /// An instance, with as many of its nodes as fit on a page.
    async fn explained(
        &self,
        peer: &Peer,
        snapshot: &Arc<Snapshot>,
        instance: &Instance,
        newest: Option<&Version>,
    ) -> ExplainedInstance {
        let (directory, grant) = (snapshot.directory(), peer.identity.grant());
        let Explanation { is_served, reasons } = explain(directory, instance, newest);
        let outstanding = instance.master().and_then(|id| directory.master(id)).map_or(0, |entry| entry.outstanding());
        let of_nodes = instance.provenance.iter().filter_map(|it| match (&it.record, it.decoder) {
            (Record::Node(path), Decoder::Format(format)) => Some((&it.source, format, path)),
            _ => None,
        });
        let of_nodes: Vec<_> = of_nodes.collect();
        let readable: Vec<_> = of_nodes.iter().map(|(.., path)| *path).filter(|path| grant.reads(path)).collect();
        let rules = changing(peer, snapshot, readable).await;
        let (mut nodes, mut bytes, mut more) = (Vec::new(), 0, 0);
        for (source, format, path) in of_nodes {
            peer.let_others_work().await;
            if bytes > self.page_bytes() {
                more += 1;
                continue;
            }
            let rules = rules.get(path).map_or(&[][..], Vec::as_slice);
            let node = node(snapshot, source, format, path, grant, rules);
            bytes += size_of_node(&node);
            nodes.push(node);
        }
        ExplainedInstance {
            instance: convert::instance(instance, outstanding, grant),
            served: is_served,
            reasons,
            nodes,
            more_nodes: Some(more).filter(|more| *more > 0),
        }
    }
}

/// The newest version with a callable instance. Searching very many runs on another thread.
async fn newest(peer: &Peer, snapshot: &Arc<Snapshot>, service: &str) -> Option<Version> {
    let cost = Query::default().cost_of(snapshot.directory(), service);
    let (snapshot, service) = (snapshot.clone(), service.to_owned());
    peer.account.memory.work(cost, move || newest_callable(snapshot.directory(), &service).cloned()).await
}

/// Whether an instance has this name: the address of one of its endpoints, or the id of a master.
fn is_named(instance: &Instance, name: &str) -> bool {
    let is_it = |it: &Endpoint| address(&it.host, it.port) == name || it.address() == name;
    instance.master().is_some_and(|id| **id == *name) || instance.endpoints.iter().any(is_it)
}

/// By node, the rules that change what it registers. Trying each rule of a scope with each node takes time, and memory for
/// the rules: it runs on another thread, one at a time for each user.
async fn changing(peer: &Peer, snapshot: &Arc<Snapshot>, paths: Vec<&NodePath>) -> HashMap<NodePath, Vec<NodePath>> {
    if !paths.iter().any(|path| snapshot.may_have_rules(path)) {
        return HashMap::new();
    }
    let (snapshot, paths): (_, Vec<_>) = (snapshot.clone(), paths.into_iter().cloned().collect());
    let found = move || {
        let rules = snapshot.rules_of(&paths);
        paths.into_iter().zip(rules).collect()
    };
    peer.account.memory.work(usize::MAX, found).await
}

/// A node and the rules that change what it registers, as far as the client may see them.
fn node(
    snapshot: &Snapshot,
    source: &str,
    format: Format,
    path: &NodePath,
    grant: &Grant,
    rules: &[NodePath],
) -> ExplainedNode {
    let known = grant.reads(path).then_some(path);
    let rules: Vec<_> = rules.iter().filter(|rule| grant.reads(rule)).filter_map(view::shown_path).collect();
    ExplainedNode {
        source: source.to_owned(),
        decoder: Decoder::Format(format).name().into(),
        path: known.and_then(view::shown_path),
        stat: known.and_then(|path| snapshot.node(path)).map(|node| node.stat.into()),
        rules: Some(rules).filter(|rules| !rules.is_empty()),
        error: None,
    }
}

/// About how many bytes it takes in a reply.
pub(super) fn size(explained: &ExplainedInstance) -> usize {
    convert::instance_size(&explained.instance)
        + size_of_texts(&explained.reasons)
        + explained.nodes.iter().map(size_of_node).sum::<usize>()
}

pub(super) fn size_of_node(node: &ExplainedNode) -> usize {
    node.path.as_ref().map_or(0, String::len) + node.rules.as_deref().map_or(0, size_of_texts) + 128
}

fn size_of_texts(texts: &[String]) -> usize {
    texts.iter().map(|text| text.len() + 8).sum()
}
