//! Call statistics, by service and method.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use imbl::OrdMap;
use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::family::{family, histogram, sample};
use super::{Counter, Gauge};

/// How many methods are counted separately.
const MAX_METHODS: usize = 1_024;
/// The longest names that are kept, service and method together.
const MAX_NAME: usize = 256;
/// The name under which all other methods are counted.
const OTHER: &str = "other";

/// The upper bounds of the histogram's buckets, in milliseconds. A last one is unbounded.
const BUCKETS: [u128; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000];

/// All methods that have been called.
///
/// Callers choose the names. So a method is counted separately only from its first answer on; until then, and if there
/// are too many, it is counted with the others of its service, if that is offered at all.
#[derive(Debug, Default)]
pub struct Methods(ArcSwap<Rows>);

type Rows = OrdMap<String, OrdMap<String, Arc<Method>>>;

/// The statistics of one method.
#[derive(Debug, Default)]
pub struct Method {
    pub calls: Counter,
    pub failed: Counter,
    pub timed_out: Counter,
    pub lost: Counter,
    pub refused: Counter,
    pub retries: Counter,
    pub outstanding: Gauge,
    latency: Mutex<LatencyHistogram>,
}

/// How long answered calls took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencyHistogram {
    pub min: Duration,
    pub max: Duration,
    pub sum: Duration,
    /// How many took at most each bucket's bound, and more than the one before.
    pub buckets: [u64; BUCKETS.len() + 1],
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallStatus {
    Answered,
    /// Answered with an error.
    Failed,
    TimedOut,
    Lost,
    /// Never sent.
    Refused,
}

/// One call under way; if abandoned, it is dropped without a status.
#[derive(Debug)]
pub struct CallTracker<'a> {
    methods: &'a Methods,
    service: &'a str,
    method: &'a str,
    row: Arc<Method>,
    retries: u64,
}

impl Methods {
    /// Counts a call; `is_offered` says whether its service exists, or may be made up by the caller.
    pub fn begin<'a>(
        &'a self,
        service: &'a str,
        method: &'a str,
        is_offered: impl FnOnce() -> bool,
    ) -> CallTracker<'a> {
        let row = self.row(service, method);
        let row = row.unwrap_or_else(|| self.others_of(if is_offered() { service } else { OTHER }));
        row.outstanding.add(1);
        CallTracker { methods: self, service, method, row, retries: 0 }
    }

    /// Service, method and statistics of all called methods, ordered by name.
    pub fn all(&self) -> Vec<((String, String), Arc<Method>)> {
        let rows = self.0.load();
        let all = rows.iter().flat_map(|(service, methods)| methods.iter().map(move |it| (service, it)));
        let all = all.filter(|(_, (_, counts))| counts.calls.get() > 0 || counts.outstanding.get() > 0);
        all.map(|(service, (method, counts))| ((service.clone(), method.clone()), counts.clone())).collect()
    }

    /// The statistics in Prometheus's format; empty before the first call.
    pub(super) fn families(&self) -> Vec<MetricFamily> {
        let all = self.all();
        if all.is_empty() {
            return Vec::new();
        }
        let count = |name: &str, help: &str, of: fn(&Method) -> &Counter| {
            let samples =
                all.iter().map(|(name, method)| sample(MetricType::COUNTER, labels(name), of(method).get() as f64));
            family(MetricType::COUNTER, name, help, samples)
        };
        let failures = all.iter().flat_map(|(name, method)| {
            method.failures().map(|(reason, counter)| {
                let labels = labels(name).into_iter().chain([("reason", reason)]);
                sample(MetricType::COUNTER, labels, counter.get() as f64)
            })
        });
        let outstanding =
            all.iter().map(|(name, method)| sample(MetricType::GAUGE, labels(name), method.outstanding.get() as f64));
        vec![
            count("method_calls", "Calls of the method.", |method| &method.calls),
            count("method_retries", "Calls that were sent to one more master.", |method| &method.retries),
            family(MetricType::COUNTER, "method_call_failures", "Calls that came to no result, by reason.", failures),
            family(MetricType::GAUGE, "method_calls_outstanding", "Calls under way now.", outstanding),
            family(
                MetricType::HISTOGRAM,
                "method_call_duration_seconds",
                "How long calls took that were answered, also with an error.",
                all.iter().map(|(name, method)| method.latency().sample(name)),
            ),
        ]
    }

    fn row(&self, service: &str, method: &str) -> Option<Arc<Method>> {
        self.0.load().get(service)?.get(method).cloned()
    }

    fn others_of(&self, service: &str) -> Arc<Method> {
        let of_service = self.row(service, OTHER).or_else(|| self.add(service, OTHER));
        of_service.or_else(|| self.add_within(usize::MAX, OTHER, OTHER)).unwrap_or_default()
    }

    /// The row of a method; none: there are too many, or its name is too long.
    fn add(&self, service: &str, method: &str) -> Option<Arc<Method>> {
        if service.len() + method.len() > MAX_NAME { None } else { self.add_within(MAX_METHODS, service, method) }
    }

    fn add_within(&self, max: usize, service: &str, method: &str) -> Option<Arc<Method>> {
        let new = Arc::<Method>::default();
        self.0.rcu(|rows| {
            let mut rows = Rows::clone(rows);
            if rows.values().map(OrdMap::len).sum::<usize>() < max {
                rows.entry(service.to_owned()).or_default().entry(method.to_owned()).or_insert_with(|| new.clone());
            }
            rows
        });
        // Another thread may have been faster.
        self.row(service, method)
    }
}

fn labels((service, method): &(String, String)) -> [(&'static str, &str); 2] {
    [("service", service), ("method", method)]
}

impl Method {
    fn failures(&self) -> [(&'static str, &Counter); 4] {
        [("failed", &self.failed), ("timed_out", &self.timed_out), ("lost", &self.lost), ("refused", &self.refused)]
    }

    pub fn latency(&self) -> LatencyHistogram {
        *self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LatencyHistogram {
    /// The number of calls.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub fn mean(&self) -> Duration {
        let nanos = self.sum.as_nanos() / u128::from(self.count().max(1));
        Duration::from_nanos(nanos as u64)
    }

    fn sample(&self, name: &(String, String)) -> Metric {
        let bounds = BUCKETS.map(|millis| millis as f64 / 1_000.0);
        histogram(labels(name), bounds.into_iter().zip(self.buckets), self.count(), self.sum.as_secs_f64())
    }

    fn add(&mut self, took: Duration) {
        self.min = if self.count() == 0 { took } else { self.min.min(took) };
        self.max = self.max.max(took);
        self.sum += took;
        let bucket = BUCKETS.iter().position(|end| took <= Duration::from_millis(*end as u64));
        self.buckets[bucket.unwrap_or(BUCKETS.len())] += 1;
    }
}

impl CallTracker<'_> {
    pub fn retried(&mut self) {
        self.retries += 1;
    }

    pub fn end(mut self, status: CallStatus, took: Duration) {
        match status {
            CallStatus::Answered => self.move_to_own_row(),
            CallStatus::Failed => self.row.failed.increment(),
            CallStatus::TimedOut => self.row.timed_out.increment(),
            CallStatus::Lost => self.row.lost.increment(),
            CallStatus::Refused => self.row.refused.increment(),
        }
        if let CallStatus::Answered | CallStatus::Failed = status {
            self.row.latency.lock().unwrap_or_else(PoisonError::into_inner).add(took);
        }
    }

    /// The method exists, since it answered.
    fn move_to_own_row(&mut self) {
        let own = self.methods.row(self.service, self.method);
        if let Some(own) = own.or_else(|| self.methods.add(self.service, self.method)) {
            own.outstanding.add(1);
            std::mem::replace(&mut self.row, own).outstanding.sub(1);
        }
    }
}

impl Drop for CallTracker<'_> {
    fn drop(&mut self) {
        self.row.outstanding.sub(1);
        self.row.calls.increment();
        self.row.retries.add(self.retries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ending_is_counted_and_answers_are_timed() {
        let methods = Methods::default();
        let millis = Duration::from_millis;
        for (status, took) in [
            (CallStatus::Answered, millis(1)),
            (CallStatus::Failed, millis(3)),
            (CallStatus::Answered, millis(8_000)),
            (CallStatus::TimedOut, millis(9_000)),
            (CallStatus::Lost, millis(9_000)),
            (CallStatus::Refused, millis(0)),
        ] {
            let mut tracker = methods.begin("mail", "send", || true);
            tracker.retried();
            tracker.end(status, took);
        }
        let in_flight = methods.begin("mail", "send", || true);
        let all = methods.all();
        let [(name, method)] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(*name, ("mail".into(), "send".into()));
        let counts = [&method.calls, &method.failed, &method.timed_out, &method.lost, &method.refused, &method.retries];
        assert_eq!(counts.map(Counter::get), [6, 1, 1, 1, 1, 6]);
        assert_eq!(method.outstanding.get(), 1);
        let latency = method.latency();
        assert_eq!((latency.min, latency.max, latency.mean()), (millis(1), millis(8_000), millis(8_004) / 3));
        assert_eq!(latency.buckets, [1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        drop(in_flight);
        let counts = [method.outstanding.get(), method.calls.get()];
        assert_eq!(counts, [0, 7], "a call that is given up is no longer under way, but was one");
    }

    fn calls(methods: &Methods) -> Vec<(String, String, u64)> {
        let all = methods.all().into_iter();
        all.map(|((service, method), counts)| (service, method, counts.calls.get())).collect()
    }

    fn row(service: &str, method: &str, calls: u64) -> (String, String, u64) {
        (service.into(), method.into(), calls)
    }

    #[test]
    fn only_what_was_answered_has_a_row_and_the_rest_is_counted_together() {
        let methods = Methods::default();
        let answer =
            |service, method| methods.begin(service, method, || true).end(CallStatus::Answered, Duration::ZERO);
        for number in 0..100 {
            let made_up = number.to_string();
            methods.begin("mail", &made_up, || true).end(CallStatus::Failed, Duration::ZERO);
            methods.begin(&made_up, "send", || false).end(CallStatus::Refused, Duration::ZERO);
        }
        assert_eq!(calls(&methods), [row("mail", OTHER, 100), row(OTHER, OTHER, 100)]);
        answer("mail", "send");
        methods.begin("mail", "send", || true).end(CallStatus::Failed, Duration::ZERO);
        assert_eq!(calls(&methods), [row("mail", OTHER, 100), row("mail", "send", 2), row(OTHER, OTHER, 100)]);
        assert!(methods.all().iter().all(|(_, counts)| counts.outstanding.get() == 0));
    }

    #[test]
    fn names_beyond_the_bounds_are_counted_together() {
        let methods = Methods::default();
        let answer = |service: &str, method: &str| {
            methods.begin(service, method, || true).end(CallStatus::Answered, Duration::ZERO)
        };
        answer("mail", &"x".repeat(MAX_NAME));
        for number in 0..MAX_METHODS + 10 {
            answer("mail", &number.to_string());
        }
        answer("mail", "0");
        answer("sms", "send");
        let all = calls(&methods);
        let max = MAX_METHODS + 1;
        assert_eq!((all.len(), all.last()), (max, Some(&row(OTHER, OTHER, 1))));
        assert!(all.contains(&row("mail", "0", 2)) && all.contains(&row("mail", OTHER, 12)), "{all:?}");
    }
}
