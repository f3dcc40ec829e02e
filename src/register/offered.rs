//! What a connected master offers, and its share of the metadata limit.

use std::time::{Duration, Instant};

use super::RegisterState;
use super::service_query::Offer;
use crate::metrics::{GaugeGuard, Metrics};
use crate::model::Service;
use crate::net::User;
use crate::share::Taken;
use crate::tunnel::InFlightGuard;

/// How often the changes of one master are logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

pub(super) struct Offered<'h> {
    state: &'h RegisterState,
    /// How many services were published last; none: nothing was published.
    count: Option<usize>,
    charged: Charge<'h>,
    left_out: Option<GaugeGuard<'h>>,
    /// Set while its services are unknown.
    unknown: Option<InFlightGuard>,
    changes: u64,
    logged: Option<Instant>,
}

impl<'h> Offered<'h> {
    pub(super) fn new(state: &'h RegisterState, user: User) -> Self {
        let charged = Charge { part: state.metadata.share(user).nothing(), metrics: &state.metrics };
        Self { state, count: None, charged, left_out: None, unknown: None, changes: 0, logged: None }
    }

    /// Takes in the master's offer; returns it, and a new message if part of it is omitted. If there is no room for it,
    /// the previous offer stands.
    pub(super) fn set(&mut self, offer: Offer) -> Result<(Vec<Service>, Option<String>), String> {
        if !self.charged.resize(offer.services.iter().map(Service::memory_size).sum()) {
            let max = self.state.config.max_metadata;
            return Err(format!("its user's masters offer more than their share of register.max_metadata, {max}"));
        }
        let is_new = offer.left_out.is_some() && self.left_out.is_none();
        self.left_out = offer.left_out.as_ref().map(|_| self.state.metrics.masters_left_out.hold());
        (self.count, self.unknown) = (Some(offer.services.len()), None);
        Ok((offer.services, offer.left_out.filter(|_| is_new)))
    }

    /// The master no longer offers anything; returns whether that is new.
    pub(super) fn withdraw(&mut self) -> bool {
        let is_new = self.count != Some(0);
        self.charged.resize(0);
        (self.count, self.left_out, self.unknown) = (Some(0), None, None);
        is_new
    }

    pub(super) fn is_unknown(&self) -> bool {
        self.unknown.is_some()
    }

    /// The master does not report its services, or there is no room for them; returns whether that is new.
    pub(super) fn becomes_unknown(&mut self) -> bool {
        let is_new = self.unknown.is_none();
        self.unknown = self.unknown.take().or_else(|| self.state.unknown.acquire(usize::MAX));
        is_new
    }

    /// Counts a change. Returns the count when it is time to log it.
    pub(super) fn changes_to_log(&mut self) -> Option<u64> {
        self.changes += 1;
        let is_due = self.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL);
        is_due.then(|| {
            self.logged = Some(Instant::now());
            std::mem::take(&mut self.changes)
        })
    }
}

/// A part of `max_metadata`, given back when dropped.
struct Charge<'h> {
    part: Taken,
    metrics: &'h Metrics,
}

impl Charge<'_> {
    fn resize(&mut self, bytes: usize) -> bool {
        let before = self.part.amount();
        let is_granted = self.part.resize(bytes);
        self.metrics.metadata_bytes.add(self.part.amount() as u64);
        self.metrics.metadata_bytes.sub(before as u64);
        is_granted
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.metrics.metadata_bytes.sub(self.part.amount() as u64);
    }
}
