//! How long a job takes from its enqueue until a worker in PHP performs it, and how many a second four of them perform.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::rivals::{Kind, QUEUE, Rival};
use crate::harness::{SOON, ensure, eventually};
use crate::idl::{EnqueueRequest, QueueAction, QueueControl, TRosterSyncClient};
use crate::measure::percentile;
use crate::report::{Report, verdict};
use crate::{Form, form};

/// What the producer rests between two jobs.
const REST: Duration = Duration::from_millis(10);

/// So many are to be performed.
const LEAST_PERFORMED: f64 = 10_000.0;

pub(super) fn run(report: &mut Report) {
    let (rounds, jobs, many) = match form() {
        Form::Quick => (1, 30, 300),
        _ => (5, 300, 5_000),
    };
    let rivals = Kind::ALL.map(|kind| Rival::start(kind, true));
    // Until all their workers have booted.
    rivals.iter().for_each(|rival| drop(performed(rival, 200)));
    let mut figures = Kind::ALL.map(|_| Vec::new());
    for _ in 0..rounds {
        for (rival, figures) in rivals.iter().zip(&mut figures) {
            figures.extend(performed(rival, jobs));
        }
    }
    let rows: Vec<Vec<String>> = (Kind::ALL.iter().zip(&figures))
        .map(|(kind, figures)| {
            let cell = |percent| format!("{:.2}", percentile(figures, percent));
            vec![kind.name().to_owned(), cell(50), cell(99)]
        })
        .collect();
    let title = "From enqueue to a worker in PHP, 100 jobs a second, ms (that of SQLite looks every 10 ms)";
    report.table(title, &["", "p50", "p99"], &rows);
    let batched = Rival::start(Kind::Batched, true);
    drop(performed(&batched, 200));
    let [synced, batched] = [&rivals[0], &batched].map(|rival| at_once(rival, many));
    report.figures(
        "Jobs that four workers in PHP perform a second",
        &[
            ("Roster", format!("{synced:.0}")),
            ("Roster, `batched`", format!("{batched:.0} {}", verdict(batched >= LEAST_PERFORMED))),
        ],
    );
}

/// Enqueues jobs one by one, and waits until all are performed; how long each took, in ms.
fn performed(rival: &Rival, jobs: usize) -> Vec<f64> {
    let before = lines(&rival.trace()).len();
    let mut producer = rival.producer();
    let mut scribe = producer.is_none().then(|| rival.scribe());
    for _ in 0..jobs {
        std::thread::sleep(REST);
        let payload = now().as_nanos().to_string();
        match (&mut producer, &mut scribe) {
            (Some(producer), _) => producer.enqueue(&payload),
            (None, Some(scribe)) => {
                let (to, from) = (scribe.stdin.as_mut().expect("a pipe"), scribe.stdout.as_mut().expect("a pipe"));
                writeln!(to, "{payload}").expect("it reads");
                BufReader::new(from).read_line(&mut String::new()).expect("it answers");
            }
            (None, None) => unreachable!("one of them is there"),
        }
    }
    scribe.into_iter().for_each(|mut scribe| {
        drop(scribe.stdin.take());
        scribe.wait().expect("it ends");
    });
    let lines = eventually("all are performed", SOON, || {
        let lines = lines(&rival.trace());
        ensure(lines.len() == before + jobs, lines.len()).map(|()| lines)
    });
    lines[before..].iter().map(|(enqueued, performed)| (performed - enqueued) / 1e6).collect()
}

/// Has many wait before the first is performed; how many are performed a second.
fn at_once(rival: &Rival, jobs: usize) -> f64 {
    let roster = rival.roster().expect("it is one");
    let control = |action| {
        let request = QueueControl::new(QUEUE.into(), action, None, None, None);
        roster.client().control_queue(request).expect("it is controlled");
    };
    let before = lines(&rival.trace()).len();
    control(QueueAction::PAUSE);
    for some in (0..jobs).collect::<Vec<_>>().chunks(500) {
        let jobs = some.iter().map(|_| super::rivals::job("0")).collect();
        roster.client().enqueue(EnqueueRequest { jobs }).expect("they are enqueued");
    }
    control(QueueAction::RESUME);
    let lines = eventually("all are performed", 4 * SOON, || {
        let lines = lines(&rival.trace());
        ensure(lines.len() == before + jobs, lines.len()).map(|()| lines)
    });
    let times = || lines[before..].iter().map(|(_, performed)| *performed);
    (jobs - 1) as f64 / (times().fold(0.0, f64::max) - times().fold(f64::MAX, f64::min)) * 1e9
}

fn lines(trace: &Path) -> Vec<(f64, f64)> {
    let text = std::fs::read_to_string(trace).expect("a trace");
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let parse = |line: &str| line.split_once(' ').map(|(one, other)| (one.parse().ok(), other.parse().ok()));
    text[..whole].lines().filter_map(|line| parse(line).and_then(|(one, other)| one.zip(other))).collect()
}

/// By the clock that PHP reads too.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has this clock").into()
}
