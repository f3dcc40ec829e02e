//! Allowances: how many entries are recorded, for one service and in all. Entries beyond that are only counted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How many entries are recorded at once, and how many per second in the long run: for one service,
const OF_SERVICE: (u32, u32) = (10_000, 10);

/// and in all.
const OF_ALL: (u32, u32) = (50_000, 500);

/// How long entries are counted before their number is recorded.
const TOLD_AFTER: Duration = Duration::from_secs(10);

/// The allowances of all services with recent entries.
#[derive(Debug)]
pub(super) struct Allowances {
    all: Allowance,
    services: HashMap<String, Allowance>,
}

#[derive(Debug)]
struct Allowance {
    most: u32,
    per_second: u32,
    left: u32,
    /// When that was so.
    at: Instant,
    omitted: u64,
    /// Since when there are unreported omissions.
    since: Option<Instant>,
}

impl Allowances {
    pub(super) fn new(now: Instant) -> Self {
        Self { all: Allowance::new(OF_ALL, now), services: HashMap::new() }
    }

    /// Whether another entry of a service is recorded; if not, it is counted.
    pub(super) fn allows(&mut self, service: &str, now: Instant) -> bool {
        if !self.services.contains_key(service) {
            self.services.insert(service.to_owned(), Allowance::new(OF_SERVICE, now));
        }
        let of = self.services.get_mut(service);
        of.is_none_or(|of| of.allows(now)) && self.all.allows(now)
    }

    /// Whether there are omitted entries that were not yet recorded as a number.
    pub(super) fn have_omitted(&self) -> bool {
        self.services.values().chain([&self.all]).any(|of| of.since.is_some())
    }

    /// How many entries of which service (empty: of many) were omitted, once that is due; at the end, all. Forgets
    /// services with a full allowance.
    pub(super) fn take_omitted(&mut self, now: Instant, is_last: bool) -> Vec<(String, u64)> {
        let of_all = self.all.take_omitted(now, is_last).map(|omitted| (String::new(), omitted));
        let mut told: Vec<_> = of_all.into_iter().collect();
        self.services.retain(|service, of| {
            told.extend(of.take_omitted(now, is_last).map(|omitted| (service.clone(), omitted)));
            of.left < of.most || of.since.is_some()
        });
        told
    }
}

impl Allowance {
    fn new((most, per_second): (u32, u32), now: Instant) -> Self {
        Self { most, per_second, left: most, at: now, omitted: 0, since: None }
    }

    fn allows(&mut self, now: Instant) -> bool {
        self.refill(now);
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            return true;
        }
        self.omitted += 1;
        self.since.get_or_insert(now);
        false
    }

    fn take_omitted(&mut self, now: Instant, is_last: bool) -> Option<u64> {
        self.refill(now);
        self.since.take_if(|since| is_last || now.duration_since(*since) >= TOLD_AFTER)?;
        Some(std::mem::take(&mut self.omitted))
    }

    fn refill(&mut self, now: Instant) {
        let more = (now.duration_since(self.at).as_secs_f64() * f64::from(self.per_second)) as u32;
        if more > 0 {
            (self.left, self.at) = (self.left.saturating_add(more).min(self.most), now);
        }
    }
}
