//! How long it takes to choose one of very many instances of a service in this process, by each policy.

use std::hint::black_box;

use roster::resolve::{Balance, Query, resolve};

use super::{each, provider, registering};
use crate::measure::micros;
use crate::report::{Report, verdict};

const INSTANCES: usize = 1_000;

/// How many µs it may take.
const MOST: f64 = 1.0;

pub(super) fn run(report: &mut Report) {
    let (store, publisher) = registering();
    publisher.publish_whole((0..INSTANCES).map(|number| provider(number, "")).collect());
    let snapshot = store.snapshot();
    let policies = [
        ("at random", Balance::Random),
        ("by turns", Balance::RoundRobin),
        ("of two, the one with fewer calls", Balance::LeastOutstanding),
        ("by a key", Balance::Key("user:42".into())),
    ];
    let figures = policies.map(|(policy, balance)| {
        let query = Query { balance, ..Query::default() };
        let took = each(10_000, |_| {
            black_box(resolve(snapshot.directory(), "com.acme.Foo", &query).expect("an instance"));
        });
        (policy, format!("{:.2} µs {}", micros(took), verdict(micros(took) <= MOST)))
    });
    report.figures("One of 1,000 instances of a service is chosen in this process (≤ 1 µs)", &figures);
}
