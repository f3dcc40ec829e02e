//! The guard: which services it protects, and what an administrator has it release.

use std::time::Duration;

use super::Peer;
use super::api::{Api, denied, invalid, page_size};
use super::idl::{
    EntityKind, GuardAction, GuardControl, GuardControlReply, GuardQuery, GuardReply, GuardedService, NotFound,
};
use crate::guard::{Effect, Guard, Guarded, Now, Which};
use crate::store::Directory;

/// The most addresses of one request.
const MAX_ADDRESSES: usize = 1_024;

/// The longest time for which removals may be accepted.
const MAX_ACCEPTED: Duration = Duration::from_secs(24 * 60 * 60);

impl Api {
    pub(super) fn guarded(&self, peer: &Peer, query: &GuardQuery) -> thrift::Result<GuardReply> {
        peer.identity.may_see_any().map_err(denied)?;
        self.ensure_room_for_page(peer)?;
        let (limit, grant) = (page_size(query.limit)?, peer.identity.grant());
        let snapshot = self.store.snapshot();
        let is_meant =
            |name: &str| query.service_name.as_deref().is_none_or(|wanted| wanted == name) && grant.sees(name);
        let all = snapshot.directory().guard().services(Now::read(), query.cursor.as_deref());
        let (mut services, mut bytes, mut cursor) = (Vec::<GuardedService>::new(), 0, None);
        for guarded in all.filter(|guarded| is_meant(guarded.service)) {
            bytes += guarded.service.len() + 64;
            if services.len() == limit || bytes > self.page_bytes() && !services.is_empty() {
                cursor = services.last().map(|last| last.name.clone());
                break;
            }
            services.push(described(guarded, snapshot.directory()));
        }
        Ok(GuardReply { services, cursor })
    }

    /// Checks a request to the guard, and whether the client may make it.
    pub(super) fn to_control_guard(&self, peer: &Peer, request: GuardControl) -> thrift::Result<GuardControl> {
        peer.identity.may_control_guard().map_err(denied)?;
        if request.addresses.as_ref().is_some_and(|addresses| addresses.len() > MAX_ADDRESSES) {
            return Err(invalid("addresses", &format!("more than {MAX_ADDRESSES} of them")));
        }
        let (snapshot, service) = (self.store.snapshot(), &request.service_name);
        let directory = snapshot.directory();
        if directory.instances_of(service).is_none() && !directory.was_offered(service) {
            let freshness = snapshot.freshness(snapshot.behind_instances()).into();
            let message = self.why_unknown(directory, service);
            return Err(NotFound { kind: EntityKind::SERVICE, name: service.clone(), message, freshness }.into());
        }
        if !matches!(request.action, GuardAction::RELEASE | GuardAction::ACCEPT) {
            return Err(invalid("action", "this sidecar does not know it"));
        }
        if request.action == GuardAction::ACCEPT && accepted(&request).is_none() {
            return Err(invalid("forMs", "it is between 0 and a day"));
        }
        Ok(request)
    }

    /// The guard may hold very many instances: they are released on a thread that serves nobody else.
    pub(super) async fn guard_controlled(
        &self,
        peer: &Peer,
        request: GuardControl,
    ) -> thrift::Result<GuardControlReply> {
        let (store, client) = (self.store.clone(), peer.identity.client());
        let control = move || {
            let why = format!("an operator let it go: {client}");
            let noted = |guard: &mut Guard, effects: Vec<Effect>| {
                guard.note(&effects, &why);
                effects
            };
            let (service, addresses) = (&request.service_name, request.addresses.as_deref().unwrap_or_default());
            if let Some(for_long) = accepted(&request) {
                let released = store.guard(|guard, now| {
                    let effects = guard.accept(now, service, for_long, &client.to_string());
                    noted(guard, effects)
                });
                tracing::info!(%client, service, released, ?for_long, "the guard lets go whatever vanishes");
                return released;
            }
            let which = if addresses.is_empty() { Which::All } else { Which::At(addresses) };
            let released = store.guard(|guard, _| {
                let effects = guard.release(service, which);
                noted(guard, effects)
            });
            tracing::info!(%client, service, released, "the guard let go what it held");
            released
        };
        let released = peer.account.memory.work(usize::MAX, control).await;
        Ok(GuardControlReply { released: i32::try_from(released).unwrap_or(i32::MAX) })
    }
}

/// How long to accept that instances vanish; `None` if not asked for, or too long.
fn accepted(request: &GuardControl) -> Option<Duration> {
    let time = u64::try_from(request.for_ms.unwrap_or(0)).map(Duration::from_millis).ok();
    time.filter(|time| request.action == GuardAction::ACCEPT && *time <= MAX_ACCEPTED)
}

fn described(guarded: Guarded<'_>, directory: &Directory) -> GuardedService {
    let Guarded { service, held, answering, silent, since, ends_at, accepted } = guarded;
    let is_held = held > 0;
    GuardedService {
        name: service.to_string(),
        registered: directory.count_of_registered(service) as i32,
        held: held as i32,
        answering: answering as i32,
        silent: silent as i32,
        since: is_held.then_some(since as i64),
        ends_at: is_held.then_some(ends_at as i64),
        accepted_ms: accepted.map(|left| left.as_millis() as i64),
    }
}
