//! What a lost connection costs: all is read again and compared, beside the first sync over the same line.

use std::time::{Duration, Instant};

use super::{Load, PATIENCE, ROUNDS, node};
use crate::harness::{Client, Link, Roster, runtime};
use crate::idl::{StatusRequest, TRosterSyncClient};
use crate::measure::{exponent, median, millis, processor_time};
use crate::report::Report;

/// Between two looks at the state.
const LOOK: Duration = Duration::from_millis(1);

pub(super) fn run(report: &mut Report, loads: &[Load]) {
    let (mut rows, mut costs) = (Vec::new(), Vec::new());
    for load in loads {
        let rounds: Vec<_> = (0..ROUNDS).map(|round| Round::measure(load, round)).collect();
        let of = |time: fn(&Round) -> Duration| millis(median(&rounds.iter().map(time).collect::<Vec<_>>()));
        let (first, reading) = (of(|it| it.first.time), of(|it| it.reading.time));
        costs.push((load.nodes, reading));
        rows.push(vec![
            format!("{} nodes", load.nodes),
            format!("{first:.0} ms"),
            format!("{:.0} ms", of(|it| it.first.processor)),
            format!("{:.0} ms", of(|it| it.again)),
            format!("{reading:.0} ms"),
            format!("{:.2}", reading / first),
            format!("{:.0} ms", of(|it| it.reading.processor)),
        ]);
    }
    let header = [
        "",
        "first: start until live",
        "its processor time",
        "again: the line's return until live",
        "of which it read",
        "÷ first",
        "its processor time",
    ];
    report.table("Resync after a lost connection", &header, &rows);
    report.say(&format!("What is read again grows by n to the power of {:.2}.", exponent(&costs)));
}

struct Round {
    first: Cost,
    /// From the line's return, with the time in which the mirror finds it and waits before it reads.
    again: Duration,
    reading: Cost,
}

struct Cost {
    time: Duration,
    /// Of the sidecar.
    processor: Duration,
}

impl Round {
    fn measure(load: &Load, round: usize) -> Self {
        let line = Link::to(load.server.address());
        let mut sidecar = load.prepare_over(&line.address().to_string());
        let began = Instant::now();
        sidecar.run();
        let mut state = State(sidecar.client());
        let processor = |sidecar: &Roster| processor_time(&[sidecar.process().id()]);
        let first = Cost { time: state.becomes("live") - began, processor: processor(&sidecar) };
        line.cut();
        state.becomes("down");
        // What is different afterwards.
        let data = format!("set in round {round}, while the line was cut");
        let set = async { load.client().await.set_data(&node(0, 0), data.as_bytes(), None).await };
        runtime().block_on(set).expect("ZooKeeper answers");
        let returned = Instant::now();
        line.mend();
        let (began, spent) = (state.becomes("syncing"), processor(&sidecar));
        let live = state.becomes("live");
        let reading = Cost { time: live - began, processor: processor(&sidecar) - spent };
        assert_eq!(sidecar.data(&node(0, 0)), data.as_bytes());
        assert!(sidecar.get(&load.last()).is_ok());
        Self { first, again: live - returned, reading }
    }
}

/// Of the sidecar's source.
struct State(Client);

impl State {
    /// When it was seen to be so. What was so for a shorter time than between two looks may have passed.
    fn becomes(&mut self, wanted: &str) -> Instant {
        let end = Instant::now() + PATIENCE;
        loop {
            let source = self.0.status(StatusRequest::default()).expect("a status").sources.remove(0);
            let now = Instant::now();
            if source.state == wanted || (wanted == "syncing" && source.state == "live") {
                return now;
            }
            assert!(now < end, "not {wanted} within {PATIENCE:?}: {source:?}");
            std::thread::sleep(LOOK);
        }
    }
}
