//! Everything Roster counts, in one struct that is passed around, never a global.

mod family;
mod methods;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use prometheus::proto::{MetricFamily, MetricType};

pub use self::family::{family, sample};
pub use self::methods::{CallStatus, CallTracker, LatencyHistogram, Method, Methods};

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

/// A count of what currently exists.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Counts one more until the guard is dropped.
    pub fn hold(&self) -> GaugeGuard<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        GaugeGuard(self)
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
pub struct GaugeGuard<'a>(&'a Gauge);

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Declares metrics: name, help and kind, and whether one would reveal masters that a client may not know of.
macro_rules! metrics {
    (
        $($(#[doc = $help:literal])+ $count:ident: $kind:ident $(of $masters:ident)?,)+
        $(; $(#[doc = $about:literal])+ $field:ident: $type:ty)+
    ) => {
        /// All metrics, and current troubles.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[doc = $help])+ pub $count: $kind,)+
            $($(#[doc = $about])+ pub $field: $type,)+
        }

        impl Metrics {
            /// Each metric; those about masters only for clients that may know all of them.
            fn counts(&self, with_masters: bool) -> impl Iterator<Item = Count> {
                let all = [$(Count {
                    name: stringify!($count),
                    help: concat!($($help),+).trim_start(),
                    kind: $kind::TYPE,
                    is_of_masters: false $(|| stringify!($masters) == "masters")?,
                    value: self.$count.get(),
                }),+];
                all.into_iter().filter(move |count| with_masters || !count.is_of_masters)
            }
        }
    };
}

metrics! {
    /// Requests answered, also those answered with an exception.
    requests: Counter,
    /// Requests answered with an exception.
    exceptions: Counter,
    /// Connections accepted.
    connections: Counter,
    /// Connections open now.
    connections_open: Gauge,
    /// Connections closed at once because there were too many.
    connections_refused: Counter,
    /// Idle connections closed to make room for new ones.
    connections_evicted: Counter,
    /// Connections closed because a request did not come in time.
    timeouts: Counter,
    /// Connections closed because what came was not a request.
    malformed: Counter,
    /// Requests refused because their user has all that a bound leaves it: of memory, watches, their paths, or calls.
    overloaded: Counter,
    /// Watches that wait now.
    watches_waiting: Gauge,
    /// Changes published to the snapshot.
    changes: Counter of masters,
    /// Calls of masters' methods.
    calls: Counter of masters,
    /// Calls of masters' methods under way now.
    calls_outstanding: Gauge of masters,
    /// Connections of masters refused, or closed before they had shown a token.
    masters_refused: Counter of masters,
    /// Connections to the register that have not shown a token yet.
    masters_unauthenticated: Gauge of masters,
    /// About how many bytes the services take that masters of the register offer.
    metadata_bytes: Gauge of masters,
    /// Masters of whose services some are left out, since they are too large.
    masters_left_out: Gauge of masters,
    /// What calls of instances came to, as callers reported.
    reports: Counter of masters,
    /// The failures among these.
    reports_failed: Counter of masters,
    /// Times that an instance was ejected.
    ejections: Counter of masters,
    /// Connections begun to find out whether instances are there that the guard holds.
    probes: Counter,
    /// Transactions written to the shared file.
    shared_writes: Counter,
    /// Times that the shared file, or its copy, could not be written.
    shared_failures: Counter,
    /// Times the history could not be written to its file.
    history_failures: Counter,
    /// Jobs enqueued.
    jobs_enqueued: Counter,
    /// Times that a job was handed out.
    job_attempts: Counter,
    /// Jobs done.
    jobs_done: Counter,
    /// Attempts of jobs that failed, or whose lease ended.
    job_failures: Counter,
    /// Jobs that failed too often, or were buried.
    jobs_died: Counter,
    /// Times that the file of the queues could not be opened or written.
    queue_failures: Counter,
    ;
    /// How many milliseconds the reported calls took.
    reported_ms: Counter;
    /// What calls came to, by service and method.
    methods: Methods;
    /// Why the shared file is not written now.
    shared_trouble: ArcSwapOption<String>;
    /// Why there is no directory for what outlasts a restart, though there should be.
    state_trouble: ArcSwapOption<String>;
    /// Why the sidecar does not listen on ports of its settings.
    ports_taken: Troubles
}

/// One metric with its current value.
struct Count {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    is_of_masters: bool,
    value: u64,
}

impl Counter {
    const TYPE: MetricType = MetricType::COUNTER;
}

impl Gauge {
    const TYPE: MetricType = MetricType::GAUGE;
}

/// Current troubles, in words, by the setting that they concern.
#[derive(Debug, Default)]
pub struct Troubles(Mutex<BTreeMap<String, String>>);

impl Troubles {
    pub fn set(&self, setting: &str, why: String) {
        self.all().insert(setting.to_owned(), why);
    }

    pub fn clear(&self, setting: &str) {
        self.all().remove(setting);
    }

    pub fn get(&self) -> Vec<String> {
        self.all().values().cloned().collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Metrics {
    /// Each metric by its name in `status`.
    pub fn named(&self, with_masters: bool) -> impl Iterator<Item = (String, u64)> {
        let reported = with_masters.then(|| ("reportedMs".to_owned(), self.reported_ms.get()));
        self.counts(with_masters).map(|count| (camel_case(count.name), count.value)).chain(reported)
    }

    /// Each metric in Prometheus's format.
    pub fn families(&self, with_masters: bool) -> Vec<MetricFamily> {
        let counts = self.counts(with_masters);
        let mut families: Vec<_> =
            counts.map(|it| family(it.kind, it.name, it.help, [sample(it.kind, [], it.value as f64)])).collect();
        if with_masters {
            let (took, kind) = (self.reported_ms.get() as f64 / 1_000.0, MetricType::COUNTER);
            let help = "How long the reported calls took together.";
            families.push(family(kind, "reported_seconds", help, [sample(kind, [], took)]));
            families.extend(self.methods.families());
        }
        families
    }
}

/// `connectionsOpen` for `connections_open`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
}
