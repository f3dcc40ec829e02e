//! The guard: which services it protects, and what an administrator has it release.

use std::time::Duration;

use super::Peer;
use super::api::{Api, denied, invalid, page_size};
use super::idl::{
    EntityKind, GuardAction, GuardControl, GuardControlReply, GuardQuery, GuardReply, GuardedService, NotFound,
};
use crate::guard::{Guarded, Now, Which};

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
            services.push(guarded.into());
        }
        Ok(GuardReply { services, cursor })
    }

    /// Runs as long as the guard takes; only an administrator may cause that.
    pub(super) fn control_guard(&self, peer: &Peer, request: GuardControl) -> thrift::Result<GuardControlReply> {
        peer.identity.may_control_guard().map_err(denied)?;
        let GuardControl { service_name: service, action, addresses, for_ms } = request;
        let addresses = addresses.unwrap_or_default();
        if addresses.len() > MAX_ADDRESSES {
            return Err(invalid("addresses", &format!("more than {MAX_ADDRESSES} of them")));
        }
        let snapshot = self.store.snapshot();
        let directory = snapshot.directory();
        if directory.instances_of(&service).is_none() && !directory.was_offered(&service) {
            let freshness = snapshot.freshness(snapshot.behind_instances()).into();
            let message = format!("nobody has ever offered `{service}`");
            return Err(NotFound { kind: EntityKind::SERVICE, name: service, message, freshness }.into());
        }
        let client = peer.identity.client();
        let released = match action {
            GuardAction::RELEASE => {
                let which = if addresses.is_empty() { Which::All } else { Which::At(&addresses) };
                let released = self.store.guard(|guard, _| guard.release(&service, which));
                tracing::info!(%client, service, released, "the guard let go what it held");
                released
            }
            GuardAction::ACCEPT => {
                let for_long = u64::try_from(for_ms.unwrap_or(0)).map(Duration::from_millis);
                let for_long = for_long.ok().filter(|time| *time <= MAX_ACCEPTED);
                let for_long = for_long.ok_or_else(|| invalid("forMs", "it is between 0 and a day"))?;
                let present = directory.count_of_registered(&service);
                let released = self.store.guard(|guard, now| guard.accept(now, &service, for_long, present));
                tracing::info!(%client, service, released, ?for_long, "the guard lets go whatever vanishes");
                released
            }
            _ => return Err(invalid("action", "this sidecar does not know it")),
        };
        Ok(GuardControlReply { released: i32::try_from(released).unwrap_or(i32::MAX) })
    }
}

impl From<Guarded<'_>> for GuardedService {
    fn from(guarded: Guarded<'_>) -> Self {
        let Guarded { service, present, held, answering, silent, since, ends_at, accepted } = guarded;
        let is_held = held > 0;
        Self {
            name: service.to_string(),
            registered: present as i32,
            held: held as i32,
            answering: answering as i32,
            silent: silent as i32,
            since: is_held.then_some(since as i64),
            ends_at: is_held.then_some(ends_at as i64),
            accepted_ms: accepted.map(|left| left.as_millis() as i64),
        }
    }
}
