//! Everything Roster counts, in one struct that is passed, never a global.

mod methods;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;

pub use self::methods::{Ending, Method, Methods, Tally, Times};

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn increment(&self) {
        self.add(1);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A count of what there is now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Counts one more, until the guard is dropped.
    pub fn hold(&self) -> Held<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Held(self)
    }

    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub struct Held<'a>(&'a Gauge);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is counted, by the words of `status`.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests answered, also those answered with an exception.
    pub requests: Counter,
    /// Requests answered with an exception.
    pub exceptions: Counter,
    /// Connections accepted.
    pub connections: Counter,
    /// Connections open now.
    pub connections_open: Gauge,
    /// Connections closed at once because there were too many.
    pub connections_refused: Counter,
    /// Idle connections closed to make room for new ones.
    pub connections_evicted: Counter,
    /// Connections closed because a request did not come in time.
    pub timeouts: Counter,
    /// Connections closed because what came was not a request.
    pub malformed: Counter,
    /// Requests refused because too many bytes of replies waited for their readers.
    pub overloaded: Counter,
    /// Watches that wait now.
    pub watches_waiting: Gauge,
    /// Changes published to the snapshot.
    pub changes: Counter,
    /// Calls of masters' methods.
    pub calls: Counter,
    /// Those under way now.
    pub calls_outstanding: Gauge,
    /// What they came to, by service and method.
    pub methods: Methods,
    /// Connections of masters refused, or closed before they had shown a token.
    pub masters_refused: Counter,
    /// Connections that have not shown a token yet.
    pub masters_unauthenticated: Gauge,
    /// About how many bytes the services take that masters of the register offer.
    pub metadata_bytes: Gauge,
    /// Masters of whose services some are left out, since they are too large.
    pub masters_left_out: Gauge,
    /// Transactions written to the shared file.
    pub shared_writes: Counter,
    /// Times that the shared file, or its copy, could not be written.
    pub shared_failures: Counter,
    /// Why the shared file is not written now.
    pub shared_trouble: ArcSwapOption<String>,
    /// Why the sidecar does not listen now at ports of its settings.
    pub ports_taken: Troubles,
}

/// What is wrong now, by the setting that it concerns, in words.
#[derive(Debug, Default)]
pub struct Troubles(Mutex<BTreeMap<&'static str, String>>);

impl Troubles {
    pub fn set(&self, setting: &'static str, why: String) {
        self.all().insert(setting, why);
    }

    pub fn clear(&self, setting: &'static str) {
        self.all().remove(setting);
    }

    pub fn get(&self) -> Vec<String> {
        self.all().values().cloned().collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Metrics {
    /// Each count with its name.
    pub fn named(&self) -> [(&'static str, u64); 19] {
        [
            ("requests", self.requests.get()),
            ("exceptions", self.exceptions.get()),
            ("connections", self.connections.get()),
            ("connectionsOpen", self.connections_open.get()),
            ("connectionsRefused", self.connections_refused.get()),
            ("connectionsEvicted", self.connections_evicted.get()),
            ("timeouts", self.timeouts.get()),
            ("malformed", self.malformed.get()),
            ("overloaded", self.overloaded.get()),
            ("watchesWaiting", self.watches_waiting.get()),
            ("changes", self.changes.get()),
            ("calls", self.calls.get()),
            ("callsOutstanding", self.calls_outstanding.get()),
            ("mastersRefused", self.masters_refused.get()),
            ("mastersUnauthenticated", self.masters_unauthenticated.get()),
            ("metadataBytes", self.metadata_bytes.get()),
            ("mastersLeftOut", self.masters_left_out.get()),
            ("sharedWrites", self.shared_writes.get()),
            ("sharedFailures", self.shared_failures.get()),
        ]
    }
}
