//! What is counted of calls, by service and method.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::family::{family, histogram, sample};
use super::{Counter, Gauge};

/// So many methods are counted each by itself, and all further ones together: callers choose the names.
const MAX_METHODS: usize = 4_096;
/// The longest names that are kept, service and method together.
const MAX_NAME: usize = 256;
/// The name under which all others are counted.
const OTHER: &str = "other";

/// The upper ends of the histogram's buckets, in milliseconds. A last one has no end.
const BUCKETS: [u128; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000];

/// All methods that have been called.
#[derive(Debug, Default)]
pub struct Methods(Mutex<BTreeMap<(String, String), Arc<Method>>>);

/// What is counted of one method.
#[derive(Debug, Default)]
pub struct Method {
    pub calls: Counter,
    pub failed: Counter,
    pub timed_out: Counter,
    pub lost: Counter,
    pub refused: Counter,
    pub retries: Counter,
    pub outstanding: Gauge,
    times: Mutex<Times>,
}

/// How long calls took that were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    pub least: Duration,
    pub most: Duration,
    pub sum: Duration,
    /// How many took at most as long as each bucket's end, and longer than the one before.
    pub histogram: [u64; BUCKETS.len() + 1],
}

/// What a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Answered,
    /// Answered with an error.
    Failed,
    TimedOut,
    Lost,
    /// Never sent.
    Refused,
}

/// One call while it is under way; one that is given up is dropped without an ending.
#[derive(Debug)]
pub struct Tally(Arc<Method>);

impl Methods {
    pub fn begin(&self, service: &str, method: &str) -> Tally {
        let method = self.method(service, method);
        method.calls.increment();
        method.outstanding.0.fetch_add(1, Ordering::Relaxed);
        Tally(method)
    }

    /// Service, method and counts, in the order of the names.
    pub fn all(&self) -> Vec<((String, String), Arc<Method>)> {
        self.lock().iter().map(|(name, method)| (name.clone(), method.clone())).collect()
    }

    /// What calls came to, as Prometheus has it; none, before there was one.
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
                all.iter().map(|(name, method)| method.times().sample(name)),
            ),
        ]
    }

    fn method(&self, service: &str, method: &str) -> Arc<Method> {
        let mut methods = self.lock();
        let mut name = (service.to_owned(), method.to_owned());
        let is_new = !methods.contains_key(&name);
        if is_new && (methods.len() >= MAX_METHODS || service.len() + method.len() > MAX_NAME) {
            name = (OTHER.into(), OTHER.into());
        }
        methods.entry(name).or_default().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Arc<Method>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn labels((service, method): &(String, String)) -> [(&'static str, &str); 2] {
    [("service", service), ("method", method)]
}

impl Method {
    fn failures(&self) -> [(&'static str, &Counter); 4] {
        [("failed", &self.failed), ("timed_out", &self.timed_out), ("lost", &self.lost), ("refused", &self.refused)]
    }

    pub fn times(&self) -> Times {
        *self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Times {
    /// How many calls these are of.
    pub fn count(&self) -> u64 {
        self.histogram.iter().sum()
    }

    pub fn mean(&self) -> Duration {
        let nanos = self.sum.as_nanos() / u128::from(self.count().max(1));
        Duration::from_nanos(nanos as u64)
    }

    fn sample(&self, name: &(String, String)) -> Metric {
        let bounds = BUCKETS.map(|millis| millis as f64 / 1_000.0);
        histogram(labels(name), bounds.into_iter().zip(self.histogram), self.count(), self.sum.as_secs_f64())
    }

    fn add(&mut self, took: Duration) {
        self.least = if self.count() == 0 { took } else { self.least.min(took) };
        self.most = self.most.max(took);
        self.sum += took;
        let bucket = BUCKETS.iter().position(|end| took <= Duration::from_millis(*end as u64));
        self.histogram[bucket.unwrap_or(BUCKETS.len())] += 1;
    }
}

impl Tally {
    pub fn retried(&self) {
        self.0.retries.increment();
    }

    pub fn end(self, ending: Ending, took: Duration) {
        match ending {
            Ending::Answered => {}
            Ending::Failed => self.0.failed.increment(),
            Ending::TimedOut => self.0.timed_out.increment(),
            Ending::Lost => self.0.lost.increment(),
            Ending::Refused => self.0.refused.increment(),
        }
        if let Ending::Answered | Ending::Failed = ending {
            self.0.times.lock().unwrap_or_else(PoisonError::into_inner).add(took);
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.0.outstanding.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ending_is_counted_and_answers_are_timed() {
        let methods = Methods::default();
        let millis = Duration::from_millis;
        for (ending, took) in [
            (Ending::Answered, millis(1)),
            (Ending::Failed, millis(3)),
            (Ending::Answered, millis(8_000)),
            (Ending::TimedOut, millis(9_000)),
            (Ending::Lost, millis(9_000)),
            (Ending::Refused, millis(0)),
        ] {
            methods.begin("mail", "send").end(ending, took);
        }
        let under_way = methods.begin("mail", "send");
        under_way.retried();
        let all = methods.all();
        let [(name, method)] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(*name, ("mail".into(), "send".into()));
        let counts = [&method.calls, &method.failed, &method.timed_out, &method.lost, &method.refused, &method.retries];
        assert_eq!(counts.map(Counter::get), [7, 1, 1, 1, 1, 1]);
        assert_eq!(method.outstanding.get(), 1);
        let times = method.times();
        assert_eq!((times.least, times.most, times.mean()), (millis(1), millis(8_000), millis(8_004) / 3));
        assert_eq!(times.histogram, [1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        drop(under_way);
        assert_eq!(method.outstanding.get(), 0, "a call that is given up is no longer under way");
    }

    #[test]
    fn names_beyond_the_bounds_are_counted_together() {
        let methods = Methods::default();
        methods.begin("mail", &"x".repeat(MAX_NAME));
        for number in 0..MAX_METHODS + 10 {
            methods.begin("mail", &number.to_string());
        }
        methods.begin("mail", "0");
        let all = methods.all();
        let calls = |service: &str, method: &str| {
            let found = all.iter().find(|((s, m), _)| s == service && m == method);
            found.map(|(_, method)| method.calls.get())
        };
        assert_eq!((all.len(), calls("mail", "0"), calls(OTHER, OTHER)), (MAX_METHODS, Some(2), Some(12)));
    }
}
