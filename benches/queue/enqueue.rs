//! How many jobs a second are enqueued, each of them synced before the next.

use std::time::Duration;

use super::rivals::{Kind, Rival};
use crate::measure::median;
use crate::report::{Report, verdict};
use crate::{Form, form};

/// The first of them is to be ahead of each after the second, which promises less.
const KINDS: [Kind; 5] = [Kind::Roster, Kind::Batched, Kind::Beanstalkd, Kind::Redis, Kind::Sqlite];

const PRODUCERS: [usize; 3] = [1, 16, 64];

pub(super) fn run(report: &mut Report) {
    let (rounds, time) = match form() {
        Form::Quick => (1, Duration::from_millis(400)),
        _ => (3, Duration::from_secs(2)),
    };
    let rivals = KINDS.map(|kind| Rival::start(kind, false));
    let mut figures = KINDS.map(|_| PRODUCERS.map(|_| Vec::new()));
    for _ in 0..rounds {
        for (number, producers) in PRODUCERS.into_iter().enumerate() {
            for (rival, figures) in rivals.iter().zip(&mut figures) {
                figures[number].push(rival.enqueued(producers, time));
            }
        }
    }
    let figures = figures.map(|of_one| of_one.map(|rounds| median(&rounds)));
    let best = |number: usize| figures[2..].iter().map(|of_one| of_one[number]).fold(0.0, f64::max);
    let rows: Vec<Vec<String>> = (KINDS.iter().zip(&figures))
        .map(|(kind, figures)| {
            let cell = |number: usize| match kind {
                // Ahead of each at 16 and 64.
                Kind::Roster if number > 0 => {
                    format!("{:.0} {}", figures[number], verdict(figures[number] > best(number)))
                }
                _ => format!("{:.0}", figures[number]),
            };
            [vec![kind.name().to_owned()], (0..PRODUCERS.len()).map(cell).collect()].concat()
        })
        .collect();
    report.table("Durable enqueues a second, by producers", &["", "1", "16", "64"], &rows);
}
