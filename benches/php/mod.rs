//! Part `php`: what a value costs a PHP program and a web page, by each way to it.

mod web;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use self::web::Web;
use crate::harness::{Roster, SOON, Server, binary, eventually};
use crate::load::{Answer, Ask, Load, Manner, Outcome};
use crate::measure::{median, micros};
use crate::plot::Group;
use crate::report::{Report, verdict};
use crate::{Form, form};

const NODES: usize = 1_000;
/// The node that each page wants. Its name is its data.
const WANTED: &str = "777";
/// As many as there are workers, so that none waits for one.
const CLIENTS: usize = 4;

/// The ways of `ways.php` that pages take; the first is the limit.
const WAYS: [&str; 6] = [
    "no lookup",
    "shared file",
    "PHP array",
    "Thrift, socket, persistent",
    "Thrift, socket, fresh",
    "ZooKeeper session",
];
const SHARED: usize = 1;

pub(crate) fn run(report: &mut Report) {
    report.part(
        "PHP",
        "One value of 1000 nodes: from the shared file (with a bare `dba_fetch`, and with the package, which tells how \
         fresh it is), over Thrift with the package, from the array that `roster export` writes, and by a session of \
         ZooKeeper's own a request.",
    );
    let server = Server::start();
    let zk = server.zk();
    zk.create("/config", "");
    zk.create_many("/config/", NODES);
    let roster = Roster::start(&format!("[[zookeeper]]\nconnect = \"{}\"\n", server.address()));
    eventually("the first sync", SOON, || roster.get(&format!("/config/{}", NODES - 1)));
    let places = Places::new(&roster, &server);
    reads(report, &places);
    pages(report, &places, &roster);
}

/// Where the ways lead; by these names PHP knows them.
struct Places(Value);

impl Places {
    fn new(roster: &Roster, server: &Server) -> Self {
        let array = roster.folder().join("roster.php");
        let socket = format!("unix://{}", roster.socket().display());
        let mut export = binary();
        export.args(["export", "--php"]).arg(&array).args(["/config", "--address", &socket]);
        assert!(export.status().expect("the binary starts").success(), "the array is written");
        Self(json!({
            "socket": roster.socket(),
            "tcp": format!("127.0.0.1:{}", roster.port()),
            "shared": roster.shared_file(),
            "array": array,
            "zookeeper": server.address(),
        }))
    }

    fn each(&self) -> impl Iterator<Item = (&str, &str)> {
        let places = self.0.as_object().into_iter().flatten();
        places.map(|(name, place)| (name.as_str(), place.as_str().expect("a text")))
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/php").join(name)
}

fn reads(report: &mut Report, places: &Places) {
    let rounds = if form() == Form::Quick { 3 } else { 21 };
    let mut php = Command::new("php");
    php.args(["-d", "opcache.enable_cli=1", "-d", "opcache.file_update_protection=0"]);
    php.arg(script("reads.php")).arg(places.0.to_string()).arg(rounds.to_string());
    let told = php.stderr(Stdio::inherit()).output().expect("php starts");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stdout));
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    let ways = told.as_object().expect("figures by way");
    let figure = |way: &str, kind: &str, what: &str| ways[way][kind][what].as_f64().expect("a number") / 1e3;
    let rows = ways.keys().map(|way| {
        let further = figure(way, "further", "median");
        vec![
            way.clone(),
            format!("{:.0}", figure(way, "first", "median")),
            format!("{further:.2}"),
            format!("{:.2}", figure(way, "further", "p99")),
            format!("{:.1}", further / figure("dba_fetch", "further", "median")),
        ]
    });
    let header = ["Reads, µs", "first in a process", "further, p50", "p99", "× dba_fetch"];
    report.table("A read of one value, in PHP's command line", &header, &rows.collect::<Vec<_>>());
    let shared = figure("shared file", "further", "median");
    let gain = figure("Thrift, socket, fresh", "further", "median") / shared;
    let first = figure("shared file", "first", "median");
    report.figures(
        "Targets of the shared file",
        &[
            ("a further read ≤ 2 µs", format!("{shared:.2} {}", verdict(shared <= 2.0))),
            ("a fresh Thrift call ÷ that, ≥ 50", format!("{gain:.0} {}", verdict(gain >= 50.0))),
            ("the first read of a process ≤ 60 µs", format!("{first:.0} {}", verdict(first <= 60.0))),
        ],
    );
}

fn pages(report: &mut Report, places: &Places, roster: &Roster) {
    let (rounds, time) = match form() {
        Form::Quick => (3, Duration::from_millis(100)),
        _ => (11, Duration::from_millis(500)),
    };
    let web = Web::start(places.each(), CLIENTS);
    let mut servers = web.processes();
    servers.push(roster.process().id());
    let asks = WAYS.map(|way| Ask {
        request: web::request(&[("way", way), ("path", &format!("/config/{WANTED}"))]),
        answer: Answer::Page(format!("\r\n\r\n{WANTED}").into()),
    });
    let mut outcomes: Vec<Vec<Outcome>> = WAYS.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (ask, outcomes) in asks.iter().zip(&mut outcomes) {
            let load = Load {
                address: web.address(),
                servers: &servers,
                ask,
                manner: Manner::Persistent,
                clients: CLIENTS,
                time,
            };
            outcomes.push(load.run());
        }
    }
    let medians = |value: fn(&Outcome) -> f64| -> Vec<f64> {
        outcomes.iter().map(|outcomes| median(&outcomes.iter().map(value).collect::<Vec<_>>())).collect()
    };
    let per_second = medians(Outcome::requests_per_second);
    let processor = medians(|outcome| micros(outcome.processor_per_request()));
    let (p50, p99) = (medians(|it| micros(it.latency(50))), medians(|it| micros(it.latency(99))));
    let rows = WAYS.iter().enumerate().map(|(n, way)| {
        vec![
            (*way).to_owned(),
            format!("{:.0}", per_second[n]),
            format!("{:.0} ({:.2})", processor[n], processor[n] / processor[0]),
            format!("{:.0} / {:.0}", p50[n], p99[n]),
        ]
    });
    let header = ["Pages", "a second", "processor µs a page (× no lookup)", "µs: p50 / p99"];
    report.table("A page behind nginx and php-fpm", &header, &rows.collect::<Vec<_>>());
    report.say("Processor time is that of nginx, php-fpm and Roster together, without ZooKeeper's own.");
    let more = processor[SHARED] / processor[0];
    let told = format!("{more:.3} {}", verdict(more <= 1.03));
    report.figures("Target", &[("a page with the shared file ÷ one without lookup, ≤ 1.03", told)]);
    let bars = WAYS.iter().zip(&processor).map(|(way, time)| ((*way).to_owned(), *time, format!("{time:.0} µs")));
    let group = Group { title: "A page of one value".into(), bars: bars.collect() };
    report.plot("php", "Processor time a page", &[group]);
}
