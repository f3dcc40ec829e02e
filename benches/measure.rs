//! What is measured of processes, and what is made of the values.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::time::ClockId;
use nix::unistd::Pid;
use roster::store::shared::Reader;

use crate::harness::{Roster, ensure, eventually};
use crate::idl::{GetRequest, TRosterSyncClient};

/// How long the sidecar may take to write very many nodes.
const LONG: Duration = Duration::from_secs(120);

/// How long a reader rests between requests, to use what it has read.
const REST: Duration = Duration::from_micros(500);

/// How long each `get` of a client takes during this time.
pub(crate) fn latencies_of_get(roster: &Roster, time: Duration) -> Vec<Duration> {
    let (mut client, mut latencies, until) = (roster.client(), Vec::new(), Instant::now() + time);
    while Instant::now() < until {
        let began = Instant::now();
        let reply = client.get(GetRequest::new("/a".into(), None)).expect("an answer");
        latencies.push(began.elapsed());
        assert_eq!(reply.node.data, b"some data");
        std::thread::sleep(REST);
    }
    latencies
}

/// User and system time of these processes, of all their threads, also those that have ended.
pub(crate) fn processor_time(processes: &[u32]) -> Duration {
    let time = |process: &u32| {
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(*process as i32)).expect("a process");
        Duration::from(clock.now().expect("its clock"))
    };
    processes.iter().map(time).sum()
}

pub(crate) fn median<T: PartialOrd + Copy>(values: &[T]) -> T {
    percentile(values, 50)
}

pub(crate) fn percentile<T: PartialOrd + Copy>(values: &[T], percent: usize) -> T {
    let mut values = values.to_vec();
    values.sort_by(|one, other| one.partial_cmp(other).expect("numbers"));
    values[(values.len() * percent / 100).min(values.len() - 1)]
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The memory that a process has of its own, in bytes: without that of files which it has mapped, such as the shared
/// file.
pub(crate) fn memory(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
    let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a figure of memory");
    own.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

/// What the shared file takes of its disk, or of memory where it lies in that, in bytes.
pub(crate) fn file_size(sidecar: &Roster) -> usize {
    std::fs::metadata(sidecar.shared_file()).expect("the shared file").blocks() as usize * 512
}

/// Waits until the shared file holds what the sidecar does, and was written once more: the work and the memory for it
/// are over by then.
pub(crate) fn file_in_step(sidecar: &Roster) {
    let wanted = sidecar.status().freshness.revision;
    let report = || {
        let file = Reader::open(&sidecar.shared_file()).and_then(|reader| reader.status());
        file.map_err(|error| error.to_string())
    };
    let written = eventually("the shared file is in step", LONG, || {
        let report = report()?;
        ensure(report.fresh.revision as i64 >= wanted, report.fresh.revision).map(|()| report.written_at)
    });
    eventually("it is written again", LONG, || ensure(report()?.written_at > written, "it was not"));
}

/// How often the threads of a process have gone to sleep, which is how often they have been woken.
pub(crate) fn switches(process: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("a process").flatten();
    // One that has ended meanwhile is not counted.
    let statuses = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok());
    let count = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).map(str::trim);
        line.and_then(|count| count.parse::<u64>().ok()).unwrap_or(0)
    };
    statuses.map(count).sum()
}

/// By which power of n a cost grows, from its values at some n: the slope through their logarithms.
pub(crate) fn exponent(costs: &[(usize, f64)]) -> f64 {
    let points: Vec<_> = costs.iter().map(|(n, cost)| ((*n as f64).ln(), cost.ln())).collect();
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
    let (x, y) = (mean(&|(x, _)| *x), mean(&|(_, y)| *y));
    let along: f64 = points.iter().map(|(n, cost)| (n - x) * (cost - y)).sum();
    along / points.iter().map(|(n, _)| (n - x).powi(2)).sum::<f64>()
}
