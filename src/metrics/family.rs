//! Families: metrics in Prometheus's format.

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// A label that distinguishes one sample of a family from the others.
pub(super) type Label<'a> = (&'static str, &'a str);

/// All samples of one name.
pub fn family(kind: MetricType, name: &str, help: &str, samples: impl IntoIterator<Item = Metric>) -> MetricFamily {
    let suffix = if kind == MetricType::COUNTER { "_total" } else { "" };
    let mut family = MetricFamily::default();
    family.set_name(format!("roster_{name}{suffix}"));
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(samples.into_iter().collect());
    family
}

/// A sample of a counter, or else of a gauge.
pub fn sample<'a>(kind: MetricType, labels: impl IntoIterator<Item = Label<'a>>, value: f64) -> Metric {
    let mut sample = labelled(labels);
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        sample.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        sample.set_gauge(gauge);
    }
    sample
}

/// A sample of a histogram: how many values were at most each bound and above the one before; the count and the sum.
pub(super) fn histogram<'a>(
    labels: impl IntoIterator<Item = Label<'a>>,
    buckets: impl IntoIterator<Item = (f64, u64)>,
    count: u64,
    sum: f64,
) -> Metric {
    let cumulative = buckets.into_iter().scan(0, |sum, (bound, count)| {
        *sum += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(*sum);
        Some(bucket)
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(cumulative.collect());
    histogram.set_sample_count(count);
    histogram.set_sample_sum(sum);
    let mut sample = labelled(labels);
    sample.set_histogram(histogram);
    sample
}

fn labelled<'a>(labels: impl IntoIterator<Item = Label<'a>>) -> Metric {
    let pairs = labels.into_iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    });
    Metric::from_label(pairs.collect())
}
