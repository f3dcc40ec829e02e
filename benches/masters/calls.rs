//! Calls through the sidecar, beside the same over a direct connection to the same kind of master.

use std::net::TcpListener;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rmpv::Value;
use roster::master::{Config, Master, Service};
use roster::tunnel::Message;
use tempfile::TempDir;

use super::direct::Direct;
use super::{TOKEN, sidecar};
use crate::harness::{Client, Process, Roster, SOON, eventually, runtime};
use crate::idl::{Call, TRosterSyncClient};
use crate::load::{self, Outcome};
use crate::measure::{median, memory, micros};
use crate::report::{Report, verdict};
use crate::{Form, form};

/// By which a call through the sidecar may be slower than a direct one.
const ADDED: Duration = Duration::from_micros(60);

/// Who call at once while a master's memory is watched.
const CALLERS: usize = 8;

/// Waits for a master in PHP, to ask it in one way.
type Accept = fn(&TcpListener) -> Direct;

/// A master, asked in both ways.
struct Pair {
    name: &'static str,
    direct: Mutex<Direct>,
    service: &'static str,
    method: &'static str,
    /// In JSON.
    answer: &'static str,
    _master: Box<dyn std::any::Any + Send + Sync>,
}

pub(super) fn run(report: &mut Report) {
    let (roster, port) = sidecar();
    let pairs = [native(port), php(port)];
    let rows: Vec<_> = pairs.iter().map(|pair| pair.measure(&roster)).collect();
    let header = [
        "",
        "direct p50 / p99",
        "through the sidecar",
        "p50 added (≤ 60 µs)",
        "processor a call",
        "16 clients, calls/s",
    ];
    report.table("Calls to one master, µs", &header, &rows);
    floors(&roster, report);
    closures(report);
}

/// Calls over the one stream that a master in PHP is given, beside a closure for each of them.
fn closures(report: &mut Report) {
    let (rounds, calls) = if form() == Form::Quick { (3, 500) } else { (7, 5_000) };
    let ways: [(&str, Accept); 2] = [
        ("a closure a call", |at| Direct::accept_php_closures(at, "demo", "echo", arguments())),
        ("data on one stream", |at| Direct::accept_php(at, "demo", "echo", arguments())),
    ];
    let mut masters = ways.map(|(name, accept)| {
        let (listener, own) = listen();
        let (master, folder) = run_php(own);
        let mut direct = accept(&listener);
        (0..calls).for_each(|_| direct.ask());
        let before = memory(master.id());
        (name, direct, master, folder, before, Vec::new())
    });
    // By turns, so that what else this machine does strikes both.
    for _ in 0..rounds {
        for (_, direct, .., rates) in &mut masters {
            let began = Instant::now();
            (0..calls).for_each(|_| direct.ask());
            rates.push(calls as f64 / began.elapsed().as_secs_f64());
        }
    }
    let rows = masters.each_ref().map(|(name, _, master, _, before, rates)| {
        let more = memory(master.id()).saturating_sub(*before) / (rounds * calls);
        vec![(*name).to_owned(), format!("{:.0}", median(rates)), format!("{more}")]
    });
    let [(.., old), (.., new)] = &masters;
    let times = median(new) / median(old);
    report.table("Calls to a master in PHP, one after the other", &["", "calls/s", "memory a call, bytes"], &rows);
    report.say(&format!("{times:.1} times as many (more than 1) {}", verdict(times > 1.0)));
}

/// What calls leave behind in a master in PHP, which lives for months: what it holds when nothing waits to be thrown
/// away.
fn floors(roster: &Roster, report: &mut Report) {
    let calls = if form() == Form::Quick { 2_000 } else { 1_000_000 };
    let floor = || {
        let told = roster
            .client()
            .call(Call { timeout_ms: Some(20_000), ..Call::of("control", "memory", "[]") })
            .expect("an answer");
        std::str::from_utf8(&told.values[0]).ok().and_then(|bytes| bytes.parse::<i64>().ok()).expect("a number")
    };
    let make = |calls: usize| {
        std::thread::scope(|scope| {
            for _ in 0..CALLERS {
                scope.spawn(|| {
                    let mut client = roster.client();
                    (0..calls / CALLERS).for_each(|_| call(&mut client, "demo", "echo", "[\"x\"]"));
                });
            }
        });
    };
    make(1_000);
    let before = floor();
    make(calls);
    let (after, more) = (floor(), |after: i64| (after - before) as f64 / calls as f64);
    let row = |what: &str, value: String| vec![what.to_owned(), value];
    let rows = [
        row("before", format!("{:.2} MB", before as f64 / 1e6)),
        row(&format!("after {calls} calls"), format!("{:.2} MB", after as f64 / 1e6)),
        row("left behind by a call (0 bytes)", format!("{:.3} bytes {}", more(after), verdict(more(after) < 0.1))),
    ];
    report.table("Memory of a master in PHP", &["", ""], &rows);
}

/// Calls through the sidecar, and fails unless the answer is the right one.
pub(super) fn call(client: &mut Client, service: &str, method: &str, answer: &str) {
    let result = client
        .call(Call { timeout_ms: Some(20_000), ..Call::of(service, method, b"[\"x\"]".to_vec()) })
        .expect("an answer");
    assert_eq!(result.values, [answer.as_bytes()]);
}

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

fn arguments() -> Value {
    Value::Array(vec!["x".into()])
}

/// One of Rust, in this process, connected to both.
fn native(port: u16) -> Pair {
    let (listener, own) = listen();
    let _runtime = runtime().enter();
    let master = Master::start(Config::new(TOKEN));
    master.offer(Service::new("echo").method("echo", |told: Vec<String>| async move { Ok(told) }));
    for port in [own, port] {
        master.connect(("127.0.0.1", port));
    }
    let (service, method) = ("echo", "echo");
    let question = move |uuid| Message::Call {
        uuid,
        service: service.into(),
        method: method.into(),
        arguments: arguments(),
        is_windowed: true,
    };
    let direct = Direct::accept(&listener, question, arguments()).into();
    Pair { name: "a master in Rust", direct, service, method, answer: "[\"x\"]", _master: Box::new(master) }
}

/// One of PHP, connected to this port, and its folder.
fn run_php(port: u16) -> (Process, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let output = std::fs::File::create(folder.path().join("said")).expect("a file");
    let mut php = Command::new("php");
    php.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/php/master.php")).args([&port.to_string(), TOKEN]);
    (Process::start(php.stdout(output), folder.path()), folder)
}

/// Two of PHP, one connected to each.
fn php(port: u16) -> Pair {
    let (listener, own) = listen();
    let masters = [own, port].map(run_php);
    let (service, method) = ("demo", "echo");
    let direct = Direct::accept_php(&listener, service, method, arguments()).into();
    Pair { name: "a master in PHP", direct, service, method, answer: "[\"x\"]", _master: Box::new(masters) }
}

impl Pair {
    fn measure(&self, roster: &Roster) -> Vec<String> {
        let (rounds, time) = match form() {
            Form::Quick => (3, Duration::from_millis(100)),
            _ => (7, Duration::from_millis(500)),
        };
        let mut client = roster.client();
        eventually("the master is there", SOON, || {
            client
                .call(Call { timeout_ms: Some(1_000), ..Call::of(self.service, self.method, "[]") })
                .map_err(|error| format!("{error:?}"))
        });
        let (mut direct, mut through, mut many) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            direct.push(self.direct(time));
            through.push(self.through(roster, 1, time));
            many.push(self.through(roster, 16, time).requests_per_second());
        }
        let p50 =
            |outcomes: &[Outcome], percent| median(&outcomes.iter().map(|it| it.latency(percent)).collect::<Vec<_>>());
        let both =
            |outcomes: &[Outcome]| format!("{:.0} / {:.0}", micros(p50(outcomes, 50)), micros(p50(outcomes, 99)));
        let added = p50(&through, 50).saturating_sub(p50(&direct, 50));
        let processor: Vec<_> = through.iter().map(Outcome::processor_per_request).collect();
        vec![
            self.name.to_owned(),
            both(&direct),
            both(&through),
            format!("{:.0} {}", micros(added), verdict(added <= ADDED)),
            format!("{:.0}", micros(median(&processor))),
            format!("{:.0}", median(&many)),
        ]
    }

    fn direct(&self, time: Duration) -> Outcome {
        load::measure(self.name, &[], 1, time, || || self.direct.lock().unwrap_or_else(PoisonError::into_inner).ask())
    }

    fn through(&self, roster: &Roster, clients: usize, time: Duration) -> Outcome {
        load::measure(self.name, &[roster.process().id()], clients, time, || {
            let mut client = roster.client();
            move || call(&mut client, self.service, self.method, self.answer)
        })
    }
}
