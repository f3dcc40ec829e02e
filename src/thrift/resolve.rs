//! Resolving: one instance of a service, for its caller.

use std::sync::Arc;

use super::Peer;
use super::api::{Api, Subject, denied, ensure_known, invalid, not_ready};
use super::convert;
use super::idl::{
    NoInstance, NotReady, ResolveManyReply, ResolveManyRequest, ResolveOutcome, ResolveReply, ResolveRequest,
};
use super::request;
use crate::model::Instance;
use crate::resolve::{self, Query};
use crate::store::{Directory, Snapshot};

/// The most requests of one `resolveMany`.
const MAX_MANY: usize = 64;

impl Api {
    pub(super) async fn resolve(&self, peer: &Peer, request: ResolveRequest) -> thrift::Result<ResolveReply> {
        let max_age_ms = request.max_age_ms;
        let (service, query) = wanted(peer, request, self.store.snapshot().directory())?;
        let (snapshot, freshness) = self.fresh(Subject::Instances, max_age_ms)?;
        match found(peer, &snapshot, &service, query).await {
            Ok((found, outstanding)) => Ok(ResolveReply {
                instance: convert::instance(&found, outstanding, peer.identity.grant()),
                freshness: freshness.into(),
                is_protected: is_protected(snapshot.directory(), &service),
            }),
            Err(none) => {
                // A source that is not known yet may have one.
                ensure_known(snapshot.behind_instances())?;
                let message = self.remembered(none).to_string();
                Err(NoInstance { message, service_name: service.to_string() }.into())
            }
        }
    }

    /// Over several turns, since each may look through a whole service.
    pub(super) async fn resolve_many(
        &self,
        peer: &Peer,
        request: &ResolveManyRequest,
    ) -> thrift::Result<ResolveManyReply> {
        if request.requests.len() > MAX_MANY {
            return Err(invalid("requests", &format!("more than {MAX_MANY} of them")));
        }
        self.ensure_room_for_page(peer)?;
        let now = self.store.snapshot();
        let wanted = request.requests.iter().map(|it| wanted(peer, it.clone(), now.directory()));
        let wanted: Vec<_> = wanted.collect::<Result<_, _>>()?;
        let (snapshot, freshness) = self.fresh(Subject::Instances, request.max_age_ms)?;
        // A source that is not known yet may have an instance where the others have none.
        let unknown = not_ready(snapshot.behind_instances());
        let (mut outcomes, mut bytes) = (Vec::with_capacity(wanted.len()), 0);
        for (service, query) in wanted {
            peer.let_others_work().await;
            let is_protected = is_protected(snapshot.directory(), &service);
            let outcome = match found(peer, &snapshot, &service, query).await {
                Ok((found, outstanding)) => {
                    let instance = convert::instance(&found, outstanding, peer.identity.grant());
                    ResolveOutcome::new(instance, None, is_protected)
                }
                Err(none) => {
                    let why = match &unknown {
                        Some(NotReady { message, .. }) => format!("not ready: {message}"),
                        None => self.remembered(none).to_string(),
                    };
                    ResolveOutcome::new(None, why, is_protected)
                }
            };
            // Provenance is bounded separately, and anyone who can register can make it long.
            bytes += outcome.instance.as_ref().map_or(0, convert::size_but_for_provenance);
            if bytes > self.whole_bytes() {
                return Err(invalid("requests", "more than a reply may hold; ask for fewer"));
            }
            outcomes.push(outcome);
        }
        let has_none = !outcomes.is_empty() && outcomes.iter().all(|outcome| outcome.instance.is_none());
        if let Some(unknown) = unknown.filter(|_| has_none) {
            return Err(unknown.into());
        }
        Ok(ResolveManyReply { outcomes, freshness: freshness.into() })
    }

    /// The reason, given what the history remembers of before the start.
    fn remembered(&self, none: resolve::NoInstance) -> resolve::NoInstance {
        match none {
            resolve::NoInstance::Unknown(service) if self.history.has_listed(&service) => {
                resolve::NoInstance::NoneLeft(service)
            }
            other => other,
        }
    }
}

/// A matching instance, and how many calls to it are under way. Searching very many instances runs on another thread.
async fn found(
    peer: &Peer,
    snapshot: &Arc<Snapshot>,
    service: &Arc<str>,
    query: Query,
) -> Result<(Instance, usize), resolve::NoInstance> {
    let cost = query.cost_of(snapshot.directory(), service);
    let (snapshot, service) = (snapshot.clone(), service.clone());
    let find = move || {
        let found = resolve::resolve(snapshot.directory(), &service, &query);
        found.map(|(instance, outstanding)| (instance.clone(), outstanding))
    };
    peer.account.memory.work(cost, find).await
}

/// Whether the guard holds some instances of a service.
pub(super) fn is_protected(directory: &Directory, service: &str) -> Option<bool> {
    Some(directory.guard().held_of(service) > 0)
}

/// The service and the query, if the client may see the service.
fn wanted(peer: &Peer, request: ResolveRequest, directory: &Directory) -> thrift::Result<(Arc<str>, Query)> {
    request::check_name(&request.service_name)?;
    let may_see = |name: &str| peer.identity.may_see(name);
    let (service, exact) = request::wanted(&request.service_name, directory, may_see).map_err(denied)?;
    let service = service.into();
    Ok((service, request::query(request, exact)?))
}
