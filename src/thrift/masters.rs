//! Masters: which are known, and which offer which service.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use semver::Version;

use super::api::{Api, Subject, denied, ensure_known, invalid, page_size};
use super::idl::{self, EntityKind, InvalidRequest, MasterRequest, NotFound, ServiceQuery};
use super::resolve::is_protected;
use super::{Peer, convert, request};
use crate::access::Grant;
use crate::metrics::{Counter, Method};
use crate::model::{Freshness, Service};
use crate::resolve::{Query, is_callable};
use crate::store::{Directory, Instances, MasterEntry};

/// The prefix of a cursor within the services on offer,
const OFFERED: char = '+';

/// or within those that nobody offers any more.
const PAST: char = '-';

/// How many masters are searched for one page; comparing metadata counts by its size.
const MAX_SEEN: usize = 4_000;

/// The most metadata that a filter may ask for.
const MAX_METADATA: usize = 8;

/// Comparing this many bytes with one wanted value takes about as long as skipping a master.
const COMPARED: usize = 512;

impl Api {
    /// Over several turns, if many masters are skipped that the client may not see; on another thread, if metadata are
    /// compared.
    pub(super) async fn masters(&self, peer: &Peer, filter: &ServiceQuery) -> thrift::Result<idl::MastersReply> {
        peer.identity.may_see_any().map_err(denied)?;
        check_metadata(filter.metadata.as_ref())?;
        self.ensure_room_for_page(peer)?;
        let mut page =
            MastersPage { limit: page_size(filter.limit)?, max_bytes: self.page_bytes(), ..Default::default() };
        let (snapshot, freshness) = self.fresh(Subject::Masters, filter.max_age_ms)?;
        if filter.metadata.is_some() {
            let (filter, identity) = (filter.clone(), peer.identity.clone());
            let find = move || {
                let grant = identity.grant();
                let mut visible = later(snapshot.directory(), &filter).filter(|(_, entry)| is_visible(entry, grant));
                let _ = visible.try_for_each(|(id, entry)| page.add(id, entry, grant, &filter));
                page
            };
            // The services of one master may take long by themselves.
            page = peer.account.memory.work(usize::MAX, find).await;
        } else {
            for (id, entry) in later(snapshot.directory(), filter) {
                // A cursor must not be the id of a hidden one: so no page ends at it.
                if !is_visible(entry, peer.identity.grant()) {
                    peer.let_others_work().await;
                } else if page.add(id, entry, peer.identity.grant(), filter).is_break() {
                    break;
                }
            }
        }
        let MastersPage { masters, cursor, .. } = page;
        Ok(idl::MastersReply { masters, cursor, freshness: freshness.into() })
    }

    pub(super) fn master(&self, peer: &Peer, request: &MasterRequest) -> thrift::Result<idl::MasterReply> {
        peer.identity.may_see_any().map_err(denied)?;
        let (id, grant) = (request.id.as_str(), peer.identity.grant());
        let (snapshot, freshness) = self.fresh(Subject::Masters, request.max_age_ms)?;
        match snapshot.directory().master(id).filter(|entry| is_visible(entry, grant)) {
            Some(entry) => Ok(idl::MasterReply { master: convert::master(entry, grant), freshness: freshness.into() }),
            None => Err(not_found(EntityKind::MASTER, id, format!("there is no master `{id}`"), freshness)),
        }
    }

    /// The services on offer, then those that nobody offers any more. Over several turns, if metadata are compared.
    pub(super) async fn services(&self, peer: &Peer, filter: &ServiceQuery) -> thrift::Result<idl::ServicesReply> {
        peer.identity.may_see_any().map_err(denied)?;
        check_metadata(filter.metadata.as_ref())?;
        self.ensure_room_for_page(peer)?;
        let limit = page_size(filter.limit)?;
        let (snapshot, freshness) = self.fresh(Subject::Instances, filter.max_age_ms)?;
        let (are_offered, after) = place(filter)?;
        let directory = snapshot.directory();
        let grant = peer.identity.grant();
        let is_named =
            |name: &str| grant.sees(name) && filter.service_name.as_deref().is_none_or(|wanted| wanted == name);
        let offered = directory.services(after).filter(|(name, _)| are_offered && is_named(name));
        let offered = offered.map(|(name, instances)| (OFFERED, name, Some(instances)));
        let past = directory.retired_services(if are_offered { None } else { after }).filter(|name| is_named(name));
        let past = past.map(|name| (PAST, name, None));
        let (mut services, mut bytes, mut seen, mut last, mut cursor) = (Vec::new(), 0, 0, None, None);
        for (mark, name, instances) in offered.chain(past) {
            if services.len() == limit || (bytes > self.page_bytes() && !services.is_empty()) || seen >= MAX_SEEN {
                cursor = last;
                break;
            }
            last = Some(format!("{mark}{name}"));
            let masters = match instances {
                Some(instances) => summary(peer, instances, filter, self.page_bytes()).await,
                None => BTreeMap::new(),
            };
            if filter.metadata.is_some() {
                seen += instances.map_or(0, Instances::count);
                if masters.is_empty() {
                    continue;
                }
            }
            bytes += name.len() + masters.keys().map(|version| summary_bytes(version)).sum::<usize>() + 64;
            let held = Some(directory.guard().held_of(name) as i32).filter(|held| *held > 0);
            services.push(idl::ServiceSummary { name: name.to_string(), masters, held });
        }
        if services.is_empty() && filter.cursor.is_none() {
            ensure_known(snapshot.behind_instances())?;
        }
        Ok(idl::ServicesReply { services, freshness: freshness.into(), cursor })
    }

    /// On another thread, if many metadata are compared.
    pub(super) async fn instances(&self, peer: &Peer, filter: &ServiceQuery) -> thrift::Result<idl::InstancesReply> {
        let service = filter.service_name.as_deref();
        let service = service.ok_or_else(|| invalid("serviceName", "there must be one"))?;
        peer.identity.may_see(service).map_err(denied)?;
        let query = request::instances(filter)?;
        self.ensure_room_for_page(peer)?;
        let limit = page_size(filter.limit)?;
        let after = filter.cursor.as_deref().map(after).transpose()?.map(|(version, id)| (version, id.to_owned()));
        let (snapshot, freshness) = self.fresh(Subject::Instances, filter.max_age_ms)?;
        let directory = snapshot.directory();
        if directory.instances_of(service).is_none() && !directory.was_offered(service) {
            ensure_known(snapshot.behind_instances())?;
            return Err(not_found(EntityKind::SERVICE, service, self.why_unknown(directory, service), freshness));
        }
        // Otherwise a page ends before it takes long.
        let cost = if query.metadata.is_empty() { 0 } else { query.cost_of(directory, service) };
        let page = InstancesPage { filter: filter.clone(), query, after, limit, max_bytes: self.page_bytes() };
        let (searched, name, identity) = (snapshot.clone(), service.to_owned(), peer.identity.clone());
        let find = move || page.find(searched.directory(), &name, identity.grant());
        let (instances, cursor) = peer.account.memory.work(cost, find).await;
        // A source that is not known yet may have some.
        if instances.is_empty() && filter.cursor.is_none() {
            ensure_known(snapshot.behind_instances())?;
        }
        let is_protected = is_protected(directory, service);
        Ok(idl::InstancesReply { instances, freshness: freshness.into(), cursor, is_protected })
    }

    /// Why a service is unknown.
    pub(super) fn why_unknown(&self, directory: &Directory, service: &str) -> String {
        match directory.why_unlisted(service) {
            Some(why) => format!("no instance of `{service}` is listed: {why}"),
            None if self.history.has_listed(service) => {
                format!("`{service}` has no instances any more; `roster history {service}` tells what became of them")
            }
            None => format!("nobody has offered `{service}` since the sidecar started"),
        }
    }

    pub(super) fn stats(&self, peer: &Peer) -> thrift::Result<idl::StatsReply> {
        let grant = peer.identity.grant();
        let methods = self.metrics.methods.all().into_iter().filter(|((service, _), _)| grant.sees(service));
        Ok(idl::StatsReply {
            methods: methods.map(|((service, name), method)| stats(service, name, &method)).collect(),
        })
    }
}

/// A page of masters, as far as it was filled.
#[derive(Default)]
struct MastersPage {
    limit: usize,
    max_bytes: usize,
    masters: Vec<idl::Master>,
    bytes: usize,
    seen: usize,
    last: Option<String>,
    cursor: Option<String>,
}

impl MastersPage {
    /// Adds the next master that the client sees, if it passes, until the page ends.
    fn add(&mut self, id: &str, entry: &MasterEntry, grant: &Grant, filter: &ServiceQuery) -> ControlFlow<()> {
        let (passes, size) = (may_pass(entry, grant, filter), size(entry, grant));
        let is_full = passes && (self.masters.len() == self.limit || self.bytes + size > self.max_bytes);
        if self.seen >= MAX_SEEN || (is_full && !self.masters.is_empty()) {
            self.cursor = self.last.take();
            return ControlFlow::Break(());
        }
        self.seen += cost(|| size, filter);
        self.last = Some(id.to_owned());
        if passes {
            self.bytes += size;
            self.masters.push(convert::master(entry, grant));
        }
        ControlFlow::Continue(())
    }
}

/// The masters after those of the pages before.
fn later<'d>(
    directory: &'d Directory,
    filter: &'d ServiceQuery,
) -> impl Iterator<Item = (&'d Arc<str>, &'d MasterEntry)> {
    let after = filter.cursor.as_deref().unwrap_or("");
    let later = directory.masters(after).filter(move |(id, _)| id.as_ref() > after);
    later.map(|(id, entry)| (id, &**entry))
}

/// Which instances a page is to have, and how much it may hold.
struct InstancesPage {
    filter: ServiceQuery,
    query: Query,
    after: Option<(Version, String)>,
    limit: usize,
    max_bytes: usize,
}

impl InstancesPage {
    /// The instances, and the cursor if there are more.
    fn find(&self, directory: &Directory, service: &str, grant: &Grant) -> (Vec<idl::Instance>, Option<String>) {
        let Self { filter, query, .. } = self;
        let after = self.after.as_ref().map(|(version, id)| (version, id.as_str()));
        let (mut instances, mut bytes, mut seen, mut last) = (Vec::new(), 0, 0, None);
        for (id, instance) in directory.instances_after(service, after) {
            let at = format!("{} {id}", instance.version);
            let is_full = instances.len() >= self.limit || bytes > self.max_bytes || seen >= MAX_SEEN;
            // A master may offer a version more than once: all on one page.
            if is_full && last.as_ref().is_some_and(|last| *last != at) {
                return (instances, last);
            }
            last = Some(at);
            seen += cost(|| instance.packed_bytes(), filter) + usize::from(query.version.is_some());
            let is_only_known = filter.callable == Some(true) && !is_callable(directory, instance);
            if !is_only_known && query.is_met_by(instance) {
                let outstanding = directory.master(id).map_or(0, |entry| entry.outstanding());
                let instance = convert::instance(instance, outstanding, grant);
                bytes += convert::instance_size(&instance);
                instances.push(instance);
            }
        }
        (instances, None)
    }
}

/// Ensures that no more metadata are requested than may be compared.
pub(super) fn check_metadata(metadata: Option<&BTreeMap<String, String>>) -> Result<(), InvalidRequest> {
    match metadata.map_or(0, BTreeMap::len) {
        ..=MAX_METADATA => Ok(()),
        _ => Err(request::invalid("metadata", format!("more than {MAX_METADATA} of them"))),
    }
}

/// About how many bytes a client may see of a master. Otherwise the end of a page would reveal the rest.
fn size(entry: &MasterEntry, grant: &Grant) -> usize {
    let of_services = || seen_services(entry, grant).map(Service::memory_size).sum();
    if grant.sees_all() { entry.size } else { of_services() }
}

/// How many masters could be skipped in the time of comparing one of this size.
fn cost(size: impl Fn() -> usize, filter: &ServiceQuery) -> usize {
    1 + filter.metadata.as_ref().map_or(0, |wanted| wanted.len() * size() / COMPARED)
}

/// Whether a page of services begins within those on offer, and after which name.
fn place(filter: &ServiceQuery) -> thrift::Result<(bool, Option<&str>)> {
    let Some(cursor) = filter.cursor.as_deref() else { return Ok((true, None)) };
    let offered = cursor.strip_prefix(OFFERED).map(|after| (true, Some(after)));
    let place = offered.or_else(|| cursor.strip_prefix(PAST).map(|after| (false, Some(after))));
    place.ok_or_else(|| invalid("cursor", "no page of services ended so"))
}

/// The version and master after which a page of instances begins.
pub(super) fn after(cursor: &str) -> thrift::Result<(Version, &str)> {
    let place = cursor.split_once(' ').and_then(|(version, id)| Some((Version::parse(version).ok()?, id)));
    place.ok_or_else(|| invalid("cursor", "no page of instances ended so"))
}

/// How many instances of a service match the filter, by version: of the newest ones, if not all fit on a page.
async fn summary(
    peer: &Peer,
    instances: &Instances,
    filter: &ServiceQuery,
    page_bytes: usize,
) -> BTreeMap<String, i32> {
    let (mut counts, mut bytes) = (BTreeMap::new(), 0);
    for (version, providers) in instances.iter().rev() {
        if bytes > page_bytes {
            break;
        }
        peer.let_others_work().await;
        let mut count = providers.len();
        if let Some(wanted) = &filter.metadata {
            count = 0;
            for provider in providers.iter() {
                peer.let_others_work().await;
                count += usize::from(provider.instances.iter().any(|instance| instance.metadata.has(wanted)));
            }
        }
        if count > 0 {
            let version = version.to_string();
            bytes += summary_bytes(&version);
            counts.insert(version, count as i32);
        }
    }
    counts
}

fn summary_bytes(version: &str) -> usize {
    version.len() + 8
}

/// Whether a client may see a master: it sees one of its services. One without services is for clients that see
/// everything.
pub(super) fn is_visible(entry: &MasterEntry, grant: &Grant) -> bool {
    grant.sees_one_of(entry.master.services.iter().map(Service::base_name))
}

/// The services of a master that a client may see. No answer may depend on the others.
pub(super) fn seen_services<'a>(entry: &'a MasterEntry, grant: &'a Grant) -> impl Iterator<Item = &'a Service> {
    entry.master.services.iter().filter(|service| grant.sees(service.base_name()))
}

/// Whether a master matches the filter: one of its services has the requested name and metadata.
fn may_pass(entry: &MasterEntry, grant: &Grant, filter: &ServiceQuery) -> bool {
    let is_named = |service: &&Service| filter.service_name.as_deref().is_none_or(|name| service.base_name() == name);
    let any = filter.service_name.is_none() && filter.metadata.is_none();
    any || seen_services(entry, grant).filter(is_named).any(|service| has_metadata(service, filter))
}

/// Whether a service has all metadata that the filter requests.
fn has_metadata(service: &Service, filter: &ServiceQuery) -> bool {
    filter.metadata.as_ref().is_none_or(|wanted| service.metadata.has(wanted))
}

pub(super) fn not_found(kind: EntityKind, name: &str, message: String, freshness: Freshness) -> thrift::Error {
    NotFound { kind, name: name.to_owned(), message, freshness: freshness.into() }.into()
}

fn stats(service_name: String, name: String, method: &Method) -> idl::MethodStats {
    let latency = method.latency();
    let count = |counter: &Counter| counter.get() as i64;
    idl::MethodStats {
        service_name,
        method: name,
        calls: count(&method.calls),
        failed: count(&method.failed),
        timed_out: count(&method.timed_out),
        lost: count(&method.lost),
        refused: count(&method.refused),
        retries: count(&method.retries),
        outstanding: method.outstanding.get() as i64,
        min_us: latency.min.as_micros() as i64,
        mean_us: latency.mean().as_micros() as i64,
        max_us: latency.max.as_micros() as i64,
        histogram: latency.buckets.iter().map(|count| *count as i64).collect(),
    }
}
