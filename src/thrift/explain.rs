//! Explaining: why each instance of a service is served or not.

use semver::Version;

use super::api::{Api, Subject, denied, ensure_known, page_size};
use super::idl::{EntityKind, ExplainReply, ExplainRequest, ExplainedInstance, ExplainedNode};
use super::masters::{after, not_found};
use super::{Peer, convert};
use crate::access::Grant;
use crate::model::{Decoder, Endpoint, Format, Instance, NodePath, Record, address};
use crate::resolve::{Explanation, explain, newest_callable};
use crate::store::{FeedState, Snapshot};

/// A page is found among at most so many instances.
const MAX_SEEN: usize = 4_000;

/// So many nodes are told that cannot be read.
const MAX_UNDECODABLE: usize = 100;

impl Api {
    /// By turns, where an instance or a node is searched for.
    pub(super) async fn explain(&self, peer: &Peer, request: &ExplainRequest) -> thrift::Result<ExplainReply> {
        let service = request.service_name.as_str();
        peer.identity.may_see(service).map_err(denied)?;
        self.ensure_room_for_page(peer)?;
        let limit = page_size(request.limit)?;
        let from = request.cursor.as_deref().map(after).transpose()?;
        let from = from.as_ref().map(|(version, id)| (version, *id));
        let (snapshot, freshness) = self.fresh(Subject::Instances, request.max_age_ms)?;
        let (directory, grant) = (snapshot.directory(), peer.identity.grant());
        let newest = newest_callable(directory, service).cloned();
        let is_asked_for = |instance: &Instance| request.instance.as_ref().is_none_or(|name| is_named(instance, name));
        let (mut instances, mut bytes, mut last, mut cursor) = (Vec::new(), 0, None, None);
        for (seen, (id, instance)) in directory.instances_after(service, from).enumerate() {
            peer.let_others_work().await;
            let at = format!("{} {id}", instance.version);
            let is_full = instances.len() >= limit || bytes > self.page_bytes() || seen >= MAX_SEEN;
            // A master may offer a version more than once: it is told of on one page.
            if is_full && last.as_ref().is_some_and(|last| *last != at) {
                cursor = last;
                break;
            }
            last = Some(at);
            if is_asked_for(instance) {
                let explained = explained(&snapshot, instance, newest.as_ref(), grant);
                bytes += size(&explained);
                instances.push(explained);
            }
        }
        let (mut undecodable, mut more) = (Vec::new(), 0);
        for (feed, format, path, why) in snapshot.undecodable_of(service).filter(|_| request.cursor.is_none()) {
            peer.let_others_work().await;
            if undecodable.len() == MAX_UNDECODABLE {
                more += 1;
                continue;
            }
            let error = Some(why.to_string());
            undecodable.push(node(&snapshot, feed.name(), format, path, grant, error));
        }
        if directory.instances_of(service).is_none() && !directory.was_offered(service) && undecodable.is_empty() {
            ensure_known(snapshot.behind_instances())?;
            let message = format!("no source has ever had an instance of `{service}`");
            return Err(not_found(EntityKind::SERVICE, service, message, freshness));
        }
        let sources = snapshot.behind_instances().filter_map(|(feed, progress)| {
            let state = feed.state_of(progress);
            let said = format!("{} is {state}", feed.name());
            let is_well = state == FeedState::Live && feed.detail().is_empty();
            let said = if grant.reads_all(feed.roots()) { feed.with_detail(said) } else { said };
            (!is_well).then_some(said)
        });
        let (sources, freshness) = (sources.collect(), freshness.into());
        Ok(ExplainReply { instances, undecodable, more_undecodable: more, sources, freshness, cursor })
    }
}

/// Whether an instance is called so: by one of its endpoints, or as a master.
fn is_named(instance: &Instance, name: &str) -> bool {
    let is_it = |it: &Endpoint| address(&it.host, it.port) == name || it.address() == name;
    instance.master().is_some_and(|id| **id == *name) || instance.endpoints.iter().any(is_it)
}

fn explained(snapshot: &Snapshot, instance: &Instance, newest: Option<&Version>, grant: &Grant) -> ExplainedInstance {
    let directory = snapshot.directory();
    let Explanation { is_served, reasons } = explain(directory, instance, newest);
    let outstanding = instance.master().and_then(|id| directory.master(id)).map_or(0, |entry| entry.outstanding());
    let nodes = instance.provenance.iter().filter_map(|it| match (&it.record, it.decoder) {
        (Record::Node(path), Decoder::Format(format)) => Some(node(snapshot, &it.source, format, path, grant, None)),
        _ => None,
    });
    ExplainedInstance {
        nodes: nodes.collect(),
        instance: convert::instance(instance, outstanding, grant),
        served: is_served,
        reasons,
    }
}

/// A node, with what of it the client may know.
fn node(
    snapshot: &Snapshot,
    source: &str,
    format: Format,
    path: &NodePath,
    grant: &Grant,
    error: Option<String>,
) -> ExplainedNode {
    let known = grant.reads(path).then_some(path);
    let rules = known.map(|path| snapshot.rules_of(path)).unwrap_or_default();
    let rules: Vec<_> = rules.into_iter().filter(|rule| grant.reads(rule)).map(|rule| rule.to_string()).collect();
    ExplainedNode {
        source: source.to_owned(),
        decoder: Decoder::Format(format).name().into(),
        path: known.map(NodePath::to_string),
        stat: known.and_then(|path| snapshot.node(path)).map(|node| node.stat.into()),
        rules: Some(rules).filter(|rules| !rules.is_empty()),
        error,
    }
}

/// About how many bytes it takes in a reply.
pub(super) fn size(explained: &ExplainedInstance) -> usize {
    let texts = |texts: &[String]| texts.iter().map(|text| text.len() + 8).sum::<usize>();
    let of_node = |it: &ExplainedNode| {
        let rules = it.rules.as_deref().map_or(0, texts);
        it.path.as_ref().map_or(0, String::len) + rules + 128
    };
    convert::instance_size(&explained.instance)
        + texts(&explained.reasons)
        + explained.nodes.iter().map(of_node).sum::<usize>()
}
