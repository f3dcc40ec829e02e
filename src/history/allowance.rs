//! Allowances: how many entries are recorded, for one service and for all of a root. Entries beyond that are only
//! counted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How many entries are recorded at once, and how many per second in the long run: for one service,
const OF_SERVICE: (u32, u32) = (10_000, 10);

/// and for all below one root, or for all masters.
const OF_ROOT: (u32, u32) = (50_000, 500);

/// How long entries are counted before their number is recorded.
const TOLD_AFTER: Duration = Duration::from_secs(10);

/// The allowances of all roots with recent entries.
#[derive(Debug, Default)]
pub(super) struct Allowances(HashMap<String, OfRoot>);

#[derive(Debug)]
struct OfRoot {
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
    /// Whether another entry of a service below a root is recorded; if not, it is counted.
    pub(super) fn allows(&mut self, root: &str, service: &str, now: Instant) -> bool {
        if !self.0.contains_key(root) {
            let fresh = OfRoot { all: Allowance::new(OF_ROOT, now), services: HashMap::new() };
            self.0.insert(root.to_owned(), fresh);
        }
        self.0.get_mut(root).is_none_or(|of| of.allows(service, now))
    }

    /// Whether there are omitted entries that were not yet recorded as a number.
    pub(super) fn have_omitted(&self) -> bool {
        self.0.values().any(|of| of.services.values().chain([&of.all]).any(|of| of.since.is_some()))
    }

    /// How many entries below which root, of which service (empty: of many) were omitted, once that is due; at the end,
    /// all. Forgets what has a full allowance.
    pub(super) fn take_omitted(&mut self, now: Instant, is_last: bool) -> Vec<(String, String, u64)> {
        let mut told = Vec::new();
        self.0.retain(|root, of| {
            let mut tell = |service: &str, omitted| told.push((root.clone(), service.to_owned(), omitted));
            of.all.take_omitted(now, is_last).into_iter().for_each(|omitted| tell("", omitted));
            of.services.retain(|service, of| {
                of.take_omitted(now, is_last).into_iter().for_each(|omitted| tell(service, omitted));
                !of.is_full()
            });
            !of.services.is_empty() || !of.all.is_full()
        });
        told
    }
}

impl OfRoot {
    fn allows(&mut self, service: &str, now: Instant) -> bool {
        if !self.services.contains_key(service) {
            self.services.insert(service.to_owned(), Allowance::new(OF_SERVICE, now));
        }
        let of = self.services.get_mut(service);
        of.is_none_or(|of| of.allows(now)) && self.all.allows(now)
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

    /// Whether there is nothing to remember of it.
    fn is_full(&self) -> bool {
        self.left == self.most && self.since.is_none()
    }

    fn refill(&mut self, now: Instant) {
        let more = (now.duration_since(self.at).as_secs_f64() * f64::from(self.per_second)) as u32;
        if more > 0 {
            (self.left, self.at) = (self.left.saturating_add(more).min(self.most), now);
        }
    }
}
