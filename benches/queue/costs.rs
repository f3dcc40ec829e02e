//! What jobs cost who does not have them: the start, the memory, and those who read nodes meanwhile.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::rivals::{QUEUE, job, sidecar};
use crate::harness::{Roster, SOON, eventually};
use crate::idl::{
    EnqueueRequest, GetRequest, JobAction, JobUpdate, QueuesQuery, TRosterSyncClient, TakeJobsRequest, WatchRequest,
};
use crate::measure::{latencies_of_get, median, memory, micros, millis, percentile};
use crate::report::{Report, verdict};
use crate::{Form, form};

/// How many are enqueued in one request where that need not be one by one.
const AT_ONCE: usize = 1_000;

/// How many jobs a second there are to be, each enqueued with some others, taken, and done.
const RATE: usize = 5_000;
const TOGETHER: usize = 50;
const EVERY: Duration = Duration::from_micros((1_000_000 * TOGETHER / RATE) as u64);
const TAKERS: usize = 16;
const AT_MOST: usize = 20;

/// How much memory jobs that wait may take, in bytes, however many they are.
const MEMORY: usize = 10_000_000;

/// How much slower is not noticed.
const UNMOVED: f64 = 1.1;

/// How long each of something takes, during a time.
type Latencies = fn(&Roster, Duration) -> Vec<Duration>;

pub(super) fn run(report: &mut Report) {
    let (jobs, rounds, time) = match form() {
        Form::Quick => (10_000, 1, Duration::from_millis(500)),
        _ => (1_000_000, 5, Duration::from_secs(3)),
    };
    waiting(report, jobs);
    beside_jobs(report, "`get`", latencies_of_get, rounds, time);
    beside_jobs(report, "a change until a watch tells of it", latencies_of_change, rounds, time);
}

fn waiting(report: &mut Report, jobs: usize) {
    let mut roster = sidecar(String::new());
    let (empty, nothing) = (opened(&mut roster), memory(roster.process().id()));
    let mut client = roster.client();
    for _ in 0..jobs / AT_ONCE {
        let jobs = (0..AT_ONCE).map(|_| job(&"x".repeat(100))).collect();
        client.enqueue(EnqueueRequest { jobs }).expect("they are enqueued");
    }
    let enqueued = memory(roster.process().id());
    let full = opened(&mut roster);
    let more = |bytes: usize| {
        let more = bytes.saturating_sub(nothing);
        format!("{:.1} MB {}", more as f64 / 1e6, verdict(more <= MEMORY))
    };
    let opened = memory(roster.process().id());
    let took = full.saturating_sub(empty);
    report.figures(
        &format!("Beside {jobs} jobs that wait"),
        &[
            (
                "they are there later after a start by",
                format!("{:.0} ms {}", millis(took), verdict(took.as_secs() < 1)),
            ),
            ("memory above that without jobs, after that start (≤ 10 MB)", more(opened)),
            ("the same where they were enqueued one after the other", more(enqueued)),
        ],
    );
}

/// How long it takes from a start until the queues answer.
fn opened(roster: &mut Roster) -> Duration {
    let times: Vec<Duration> = (0..3)
        .map(|_| {
            assert!(roster.stop().success());
            let began = Instant::now();
            roster.run();
            eventually("the queues answer", 4 * SOON, || roster.client().queues(QueuesQuery::default()));
            began.elapsed()
        })
        .collect();
    median(&times)
}

fn beside_jobs(report: &mut Report, what: &str, latencies: Latencies, rounds: usize, time: Duration) {
    let roster = sidecar(String::new());
    let measure = || latencies(&roster, time);
    let (mut alone, mut beside_reads, mut beside, mut done) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..rounds {
        alone.push(percentile(&measure(), 99));
        beside_reads.push(percentile(&while_others_read(&roster, measure), 99));
        let (latencies, count) = while_jobs_are_done(&roster, measure);
        beside.push(percentile(&latencies, 99));
        done += count;
    }
    let [alone, beside_reads, beside] = [alone, beside_reads, beside].map(|all| micros(median(&all)));
    let rate = done as f64 / (time * rounds as u32).as_secs_f64();
    let of_jobs = format!("beside {RATE} jobs enqueued a second, and {rate:.0} done");
    let of_reads = beside / beside_reads;
    let ratio = |p99: f64| format!("{:.2}", p99 / alone);
    report.table(
        &format!("p99 of {what}, µs"),
        &["", "p99", "÷ alone", "÷ beside reads (≤ 1.1)"],
        &[
            vec!["alone".to_owned(), format!("{alone:.0}"), String::new(), String::new()],
            vec![
                "beside as many clients that read as often as theirs ask".to_owned(),
                format!("{beside_reads:.0}"),
                ratio(beside_reads),
                String::new(),
            ],
            vec![
                of_jobs,
                format!("{beside:.0}"),
                ratio(beside),
                format!("{of_reads:.2} {}", verdict(of_reads <= UNMOVED)),
            ],
        ],
    );
}

/// How long each change of a file of nodes takes, from when it is to be read until a watch tells of it.
fn latencies_of_change(roster: &Roster, time: Duration) -> Vec<Duration> {
    let (mut client, mut latencies, until) = (roster.client(), Vec::new(), Instant::now() + time);
    let mut since = client.get(GetRequest::new("/a".into(), None)).expect("an answer").freshness.revision;
    for number in 0.. {
        if Instant::now() >= until {
            break;
        }
        let data = format!("{number} of {until:?}");
        roster.write("next.toml", &format!("[nodes]\n\"/a\" = \"some data\"\n\"/b\" = \"{data}\"\n"));
        let [next, file] = ["next.toml", "nodes.toml"].map(|name| roster.folder().join(name));
        std::fs::rename(next, file).expect("the file is replaced");
        let began = Instant::now();
        roster.process().signal(Signal::SIGHUP);
        loop {
            // The rules of access are read again too, which ends a watch.
            let watch = client.watch(WatchRequest::new(since, None, vec!["/b".into()], 20_000, 0));
            let Ok(reply) = watch else { continue };
            since = reply.freshness.revision;
            if reply.changes.iter().any(|change| change.node.as_ref().is_some_and(|node| node.data == data.as_bytes()))
            {
                break;
            }
        }
        latencies.push(began.elapsed());
        std::thread::sleep(EVERY);
    }
    latencies
}

/// What is measured while clients only read: what is slower then is that the processors have more to do.
fn while_others_read<T>(roster: &Roster, measure: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    let read = |every: Duration, at_once: usize| {
        let (mut client, began) = (roster.client(), Instant::now());
        for number in 1.. {
            for _ in 0..at_once {
                client.get(GetRequest::new("/a".into(), None)).expect("an answer");
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep((every * number).saturating_sub(began.elapsed()));
        }
    };
    let of_one = Duration::from_secs(1) * (TAKERS * AT_MOST) as u32 / RATE as u32;
    std::thread::scope(|scope| {
        scope.spawn(|| read(EVERY, 1));
        (0..TAKERS).for_each(|_| _ = scope.spawn(|| read(of_one, AT_MOST + 1)));
        let measured = measure();
        stop.store(true, Ordering::Relaxed);
        measured
    })
}

/// What is measured while jobs are enqueued and done; how many were done.
fn while_jobs_are_done<T>(roster: &Roster, measure: impl FnOnce() -> T) -> (T, usize) {
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| produce(roster, &stop));
        (0..TAKERS).for_each(|_| _ = scope.spawn(|| perform(roster, &stop, &done)));
        let measured = measure();
        let count = done.load(Ordering::Relaxed);
        stop.store(true, Ordering::Relaxed);
        (measured, count)
    })
}

fn produce(roster: &Roster, stop: &AtomicBool) {
    let (mut client, began) = (roster.client(), Instant::now());
    for number in 1.. {
        let jobs = (0..TOGETHER).map(|_| job("0")).collect();
        client.enqueue(EnqueueRequest { jobs }).expect("they are enqueued");
        if stop.load(Ordering::Relaxed) {
            return;
        }
        std::thread::sleep((EVERY * number).saturating_sub(began.elapsed()));
    }
}

fn perform(roster: &Roster, stop: &AtomicBool, done: &AtomicUsize) {
    let mut client = roster.client();
    while !stop.load(Ordering::Relaxed) {
        let request = TakeJobsRequest::new(vec![QUEUE.into()], AT_MOST as i32, None, 100, None);
        for job in client.take_jobs(request).expect("an answer").jobs {
            let update = JobUpdate::new(job.id, job.attempt, JobAction::DONE, None, None, None, None, None);
            client.update_job(update).expect("it has the lease");
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
}
