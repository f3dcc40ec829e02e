//! Withholding: callers' reports about instances, and administrators' drains.

use std::time::Duration;

use super::Peer;
use super::api::{Api, denied, invalid};
use super::idl::{
    self, CallReport, DrainReply, DrainRequest, EntityKind, NotFound, Overloaded, ReportReply, ReportRequest,
    UndrainRequest, WithheldQuery, WithheldReply, WithheldTarget,
};
use crate::access::Client;
use crate::store::Withholdings;
use crate::withhold::{Drain, Drained, MAX_REPORTS, NotDrained, Place, Report};

/// A validated `drain` or `undrain` request.
#[derive(Debug)]
pub(super) enum Draining {
    Drain(Drain),
    Undrain { service: String, target: String },
}

impl Api {
    /// Does not wait for the consequences. Reporters over TCP cannot be identified.
    pub(super) fn report(&self, peer: &Peer, request: ReportRequest) -> thrift::Result<ReportReply> {
        let Client::Unix { uid, .. } = peer.identity.client() else { return Ok(ReportReply {}) };
        if request.reports.len() > MAX_REPORTS {
            return Err(invalid("reports", &format!("more than {MAX_REPORTS} of them")));
        }
        let snapshot = self.store.snapshot();
        let known = request.reports.into_iter().filter_map(|report| {
            let CallReport { service_name, address, ok, duration_ms } = report;
            let (service, _) = snapshot.directory().service(&service_name)?;
            let duration = Duration::from_millis(duration_ms.unwrap_or(0).max(0) as u64);
            let place = Place { service: service.clone(), address: address.into() };
            peer.identity.grant().sees(service).then_some(Report { place, is_ok: ok, duration })
        });
        self.withholder.report(uid, known);
        Ok(ReportReply {})
    }

    /// Validates a request to drain.
    pub(super) fn to_drain(&self, peer: &Peer, request: DrainRequest) -> thrift::Result<Draining> {
        peer.identity.may_drain().map_err(denied)?;
        let DrainRequest { service_name: service, target, duration_ms, reason } = request;
        let time = Duration::from_millis(u64::try_from(duration_ms).unwrap_or(0));
        Ok(Draining::Drain(Drain { service, target, time, reason: reason.unwrap_or_default() }))
    }

    pub(super) fn to_undrain(&self, peer: &Peer, request: UndrainRequest) -> thrift::Result<Draining> {
        peer.identity.may_drain().map_err(denied)?;
        let UndrainRequest { service_name: service, target } = request;
        Ok(Draining::Undrain { service, target })
    }

    pub(super) async fn drained(&self, peer: &Peer, draining: Draining) -> thrift::Result<DrainReply> {
        let client = peer.identity.client();
        let drained = match draining {
            Draining::Drain(drain) => {
                let Drain { service, target, time, reason } = drain.clone();
                let drained = self.withholder.drain(drain).await;
                if drained.is_ok() {
                    tracing::info!(%client, service, target, ?time, reason, "drained");
                }
                drained
            }
            Draining::Undrain { service, target } => {
                let drained = self.withholder.undrain(service.clone(), target.clone()).await;
                if drained.is_ok() {
                    tracing::info!(%client, service, target, "drained no longer");
                }
                drained
            }
        };
        let Drained { withholding, unkept } = drained.map_err(|why| self.not_drained(why))?;
        Ok(DrainReply { drained: withholding.as_ref().clone().into(), unkept })
    }

    fn not_drained(&self, why: NotDrained) -> thrift::Error {
        let message = why.to_string();
        match why {
            NotDrained::Time => invalid("durationMs", &message),
            NotDrained::Reason => invalid("reason", &message),
            NotDrained::Target => invalid("target", &message),
            NotDrained::TooMany | NotDrained::Busy => Overloaded { message }.into(),
            NotDrained::NoInstance(name, _) | NotDrained::NoService(name) | NotDrained::IsNot(name, _) => {
                let snapshot = self.store.snapshot();
                let freshness = snapshot.freshness(snapshot.behind_instances()).into();
                NotFound { kind: EntityKind::SERVICE, name, message, freshness }.into()
            }
        }
    }

    pub(super) fn withheld(&self, peer: &Peer, query: &WithheldQuery) -> thrift::Result<WithheldReply> {
        peer.identity.may_see_any().map_err(denied)?;
        self.ensure_room_for_page(peer)?;
        let snapshot = self.store.snapshot();
        let (mut withheld, mut bytes, mut more) = (Vec::new(), 0, 0);
        for target in targets(snapshot.directory().withholdings()) {
            let name = &target.service_name;
            if query.service_name.as_ref().is_some_and(|wanted| wanted != name) || !peer.identity.grant().sees(name) {
                continue;
            }
            let reason = target.ejected.iter().chain(&target.drained).map(|it| it.reason.len()).sum::<usize>();
            bytes += name.len() + target.target.len() + reason + 64;
            if bytes > self.page_bytes() && !withheld.is_empty() {
                more += 1;
            } else {
                withheld.push(target);
            }
        }
        Ok(WithheldReply { withheld, more })
    }
}

/// What is drained, then what is ejected.
fn targets(all: &Withholdings) -> impl Iterator<Item = WithheldTarget> {
    let target = |service: &str, target: &str, ejected: Option<idl::Withholding>, drained| WithheldTarget {
        service_name: service.to_owned(),
        target: target.to_owned(),
        ejected,
        drained,
    };
    let drained =
        all.drained().map(move |(service, it, why)| target(service, it, None, Some(why.as_ref().clone().into())));
    drained.chain(
        all.ejected().map(move |(service, it, why)| target(service, it, Some(why.as_ref().clone().into()), None)),
    )
}
