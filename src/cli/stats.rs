//! Call statistics, by method and by service.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use roster::thrift::idl::MethodStats;
use serde_json::{Value, json};

use super::text;

/// The statistics of all methods of a service together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ServiceStats {
    pub(crate) name: String,
    calls: i64,
    failed: i64,
    timed_out: i64,
    lost: i64,
    refused: i64,
    outstanding: i64,
    answered: i64,
    total_us: i64,
    max_us: i64,
}

/// The services that were called, busiest first.
pub(crate) fn by_service(methods: &[MethodStats]) -> Vec<ServiceStats> {
    let mut services: BTreeMap<&str, ServiceStats> = BTreeMap::new();
    for method in methods {
        services.entry(&method.service_name).or_default().add(method);
    }
    let mut services: Vec<_> = services.into_values().collect();
    services.sort_by_key(|service| Reverse(service.calls));
    services
}

impl ServiceStats {
    fn add(&mut self, method: &MethodStats) {
        let answered = method.histogram.iter().sum::<i64>();
        self.name.clone_from(&method.service_name);
        self.calls += method.calls;
        self.failed += method.failed;
        self.timed_out += method.timed_out;
        self.lost += method.lost;
        self.refused += method.refused;
        self.outstanding += method.outstanding;
        self.answered += answered;
        self.total_us = self.total_us.saturating_add(method.mean_us.saturating_mul(answered));
        self.max_us = self.max_us.max(method.max_us);
    }

    fn mean_us(&self) -> i64 {
        self.total_us / self.answered.max(1)
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "serviceName": self.name,
            "calls": self.calls,
            "failed": self.failed,
            "timedOut": self.timed_out,
            "lost": self.lost,
            "refused": self.refused,
            "outstanding": self.outstanding,
            "meanUs": self.mean_us(),
            "maxUs": self.max_us,
        })
    }

    fn row(&self) -> [String; 9] {
        let counts = [self.calls, self.failed, self.timed_out, self.lost, self.refused, self.outstanding];
        let [calls, failed, timed_out, lost, refused, outstanding] = counts.map(|count| count.to_string());
        let [mean, max] = times([self.mean_us(), self.max_us], self.answered);
        [text::preview(self.name.as_bytes()), calls, failed, timed_out, lost, refused, outstanding, mean, max]
    }
}

pub(crate) fn service_table(services: &[ServiceStats]) -> String {
    let heading = ["SERVICE", "CALLS", "FAILED", "TIMED OUT", "LOST", "REFUSED", "UNDER WAY", "MEAN", "MAX"];
    let rows: Vec<_> = services.iter().map(ServiceStats::row).collect();
    text::table(heading, &heading[1..], &rows)
}

pub(crate) fn method(method: &MethodStats) -> Value {
    json!({
        "serviceName": method.service_name,
        "method": method.method,
        "calls": method.calls,
        "failed": method.failed,
        "timedOut": method.timed_out,
        "lost": method.lost,
        "refused": method.refused,
        "retries": method.retries,
        "outstanding": method.outstanding,
        "minUs": method.min_us,
        "meanUs": method.mean_us,
        "maxUs": method.max_us,
        "histogram": method.histogram,
    })
}

pub(crate) fn method_table(methods: &[MethodStats]) -> String {
    let heading =
        ["METHOD", "CALLS", "FAILED", "TIMED OUT", "LOST", "REFUSED", "RETRIES", "UNDER WAY", "MIN", "MEAN", "MAX"];
    let rows: Vec<_> = methods.iter().map(method_row).collect();
    text::table(heading, &heading[1..], &rows)
}

fn method_row(method: &MethodStats) -> [String; 11] {
    let [min, mean, max] = times([method.min_us, method.mean_us, method.max_us], method.histogram.iter().sum());
    [
        text::preview(format!("{}.{}", method.service_name, method.method).as_bytes()),
        method.calls.to_string(),
        method.failed.to_string(),
        method.timed_out.to_string(),
        method.lost.to_string(),
        method.refused.to_string(),
        method.retries.to_string(),
        method.outstanding.to_string(),
        min,
        mean,
        max,
    ]
}

/// In microseconds, if anything was answered.
fn times<const N: usize>(micros: [i64; N], answered: i64) -> [String; N] {
    micros.map(|micros| match Duration::from_micros(micros.unsigned_abs()) {
        time if answered > 0 => format!("{time:.1?}"),
        _ => "-".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sending() -> MethodStats {
        MethodStats::new("mail".into(), "send".into(), 9, 1, 2, 3, 4, 5, 6, 900, 1_250, 2_000_000, vec![0, 9])
    }

    fn refused() -> MethodStats {
        MethodStats::new("mail".into(), "x".into(), 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, vec![0, 0])
    }

    #[test]
    fn statistics_have_a_row_a_method() {
        assert_eq!(
            method_table(&[sending(), refused()]),
            "\
METHOD     CALLS  FAILED  TIMED OUT  LOST  REFUSED  RETRIES  UNDER WAY      MIN   MEAN   MAX
mail.send      9       1          2     3        4        5          6  900.0µs  1.2ms  2.0s
mail.x         1       0          0     0        1        0          0        -      -     -
"
        );
    }

    #[test]
    fn methods_of_a_service_are_counted_together_and_the_busiest_comes_first() {
        let slow = MethodStats::new("mail".into(), "list".into(), 1, 0, 0, 0, 0, 0, 0, 11_250, 11_250, 11_250, vec![1]);
        let none = MethodStats { service_name: "a".into(), ..refused() };
        let services = by_service(&[none, sending(), slow, refused()]);
        assert_eq!(
            service_table(&services),
            "\
SERVICE  CALLS  FAILED  TIMED OUT  LOST  REFUSED  UNDER WAY   MEAN   MAX
mail        11       1          2     3        5          6  2.2ms  2.0s
a            1       0          0     0        1          0      -     -
"
        );
        assert_eq!(services[0].json()["meanUs"], 2_250);
    }
}
