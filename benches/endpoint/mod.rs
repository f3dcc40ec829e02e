//! Part `endpoint`: Roster's answers beside a bare loop, Redis, and the sidecar of the article in Node.js.

mod bare;
mod rivals;

use std::fmt;
use std::time::Duration;

pub(crate) use self::bare::bare;
use self::rivals::Rival;
use crate::harness::Server;
use crate::load::{Load, Manner, Outcome};
use crate::measure::{median, micros};
use crate::plot::Group;
use crate::report::{Report, verdict};
use crate::{Form, form};

/// The argument with which this program is the bare loop.
pub(crate) const BARE: &str = "bare-loop";

/// Who is which in the list of rivals.
const LIMIT: usize = 0;
const ZK_DATA: usize = 1;
const REDIS: usize = 3;
const NODE: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    over: Over,
    manner: Manner,
    clients: usize,
    size: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Unix,
    Tcp,
}

/// The medians of a case, by rival.
struct Figures {
    case: Case,
    /// Microseconds of the server's processor time a request.
    processor: Vec<f64>,
    /// Microseconds.
    p50: Vec<f64>,
    p99: Vec<f64>,
    per_second: Vec<f64>,
}

pub(crate) fn run(report: &mut Report) {
    report.part(
        "Endpoint",
        "Who answers: a bare epoll loop on one thread with fixed bytes (the limit), Roster's `zkData()` and `get()`, Redis \
         `GET`, and the article's sidecar made again in Node.js (a child watches ZooKeeper, the parent answers). Processor \
         time is that of the process that answers, of all its threads. Every answer is compared byte for byte.",
    );
    let (rounds, time) = match form() {
        Form::Quick => (3, Duration::from_millis(60)),
        _ => (5, Duration::from_millis(400)),
    };
    let zookeeper = Server::start();
    let (mut names, mut figures) = (Vec::new(), Vec::new());
    for size in [64, 4 << 10, 100 << 10] {
        let rivals = rivals::all(&zookeeper.zk(), size);
        names = rivals.iter().map(|rival| rival.name).collect();
        let cases = cases().into_iter().filter(|case| case.size == size);
        figures.extend(cases.map(|case| measure(case, &rivals, rounds, time)));
    }
    tell(report, &names, &figures);
}

/// In the usual form each dimension varies alone, from 2 clients that want 64 bytes over the Unix socket.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for over in [Over::Unix, Over::Tcp] {
        for manner in [Manner::Fresh, Manner::Persistent] {
            for clients in [1, 2, 64] {
                for size in [64, 4 << 10, 100 << 10] {
                    let strange = [over != Over::Unix, clients != 2, size != 64].into_iter().filter(|it| *it).count();
                    if strange < 2 || form() == Form::Full {
                        cases.push(Case { over, manner, clients, size });
                    }
                }
            }
        }
    }
    cases
}

fn measure(case: Case, rivals: &[Rival], rounds: usize, time: Duration) -> Figures {
    let mut outcomes: Vec<Vec<Outcome>> = rivals.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (rival, outcomes) in rivals.iter().zip(&mut outcomes) {
            let Case { over, manner, clients, .. } = case;
            let address = if over == Over::Unix { &rival.unix } else { &rival.tcp };
            let load =
                Load { name: rival.name, address, servers: &[rival.process], ask: &rival.ask, manner, clients, time };
            outcomes.push(load.run());
        }
    }
    let medians = |value: fn(&Outcome) -> f64| {
        outcomes.iter().map(|outcomes| median(&outcomes.iter().map(value).collect::<Vec<_>>())).collect()
    };
    Figures {
        case,
        processor: medians(|outcome| micros(outcome.processor_per_request())),
        p50: medians(|outcome| micros(outcome.latency(50))),
        p99: medians(|outcome| micros(outcome.latency(99))),
        per_second: medians(Outcome::requests_per_second),
    }
}

fn tell(report: &mut Report, names: &[&str], figures: &[Figures]) {
    let header: Vec<&str> = std::iter::once("").chain(names.iter().copied()).collect();
    let mut table = |title: &str, cells: &dyn Fn(&Figures) -> Vec<String>| {
        let row = |it: &Figures| [vec![it.case.to_string()], cells(it)].concat();
        report.table(title, &header, &figures.iter().map(row).collect::<Vec<_>>());
    };
    table("Processor time of the server a request, µs (× the bare loop)", &|it| {
        let limit = it.processor[LIMIT];
        it.processor.iter().map(|time| format!("{time:.1} ({:.2})", time / limit)).collect()
    });
    table("Latency, µs: p50 / p99", &|it| {
        it.p50.iter().zip(&it.p99).map(|(p50, p99)| format!("{p50:.0} / {p99:.0}")).collect()
    });
    table("Requests a second, thousands", &|it| {
        it.per_second.iter().map(|requests| format!("{:.1}", requests / 1e3)).collect()
    });
    targets(report, figures);
    let group = |it: &Figures| Group {
        title: it.case.to_string(),
        bars: names
            .iter()
            .zip(&it.processor)
            .map(|(name, time)| (name.to_string(), *time, format!("{time:.1} µs")))
            .collect(),
    };
    let title = "Processor time of the server a request";
    report.plot("endpoint", title, &figures.iter().map(group).collect::<Vec<_>>());
}

/// What `zkData` over the Unix socket is held against.
fn targets(report: &mut Report, figures: &[Figures]) {
    let unix = figures.iter().filter(|it| it.case.over == Over::Unix);
    let rows = unix.map(|it| {
        let (bare, redis, node) = match it.case.manner {
            Manner::Fresh => (1.25, 1.0, 0.25),
            Manner::Persistent => (1.5, 1.0, f64::MAX),
        };
        let cell = |values: &[f64], rival: usize, most: f64| {
            let ratio = values[ZK_DATA] / values[rival];
            let most = if most == f64::MAX { String::new() } else { format!(" ≤ {most} {}", verdict(ratio <= most)) };
            format!("{ratio:.2}{most}")
        };
        vec![
            it.case.to_string(),
            cell(&it.processor, LIMIT, bare),
            cell(&it.processor, REDIS, redis),
            cell(&it.processor, NODE, node),
            cell(&it.p99, REDIS, 1.0),
        ]
    });
    let header = ["zkData", "processor ÷ bare", "÷ Redis", "÷ Node.js", "p99 ÷ Redis"];
    report.table("Targets over the Unix socket", &header, &rows.collect::<Vec<_>>());
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let over = if self.over == Over::Unix { "Unix" } else { "TCP" };
        let manner = if self.manner == Manner::Fresh { "connect–ask–close" } else { "persistent" };
        let clients = if self.clients == 1 { "client" } else { "clients" };
        let size = if self.size < 1024 { format!("{} B", self.size) } else { format!("{} KB", self.size >> 10) };
        write!(f, "{over}, {manner}, {} {clients}, {size}", self.clients)
    }
}
