//! Part `php`: what a value costs a PHP program and a web page, by each way to it.

mod web;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use self::web::{Web, Workers};
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
/// How a server makes pages whose time counts.
const WORKERS: Workers = Workers { count: CLIENTS, are_fresh: false, preload: false };

/// The ways of `ways.php` that pages take, and whether the package's classes are preloaded; the first is the limit.
const PAGES: [(&str, bool); 8] = [
    ("no lookup", false),
    (BARE, false),
    (SHARED, false),
    (SHARED, true),
    ("PHP array", false),
    ("Thrift, socket, persistent", false),
    (FRESH, false),
    ("ZooKeeper session", false),
];
const BARE: &str = "dba_fetch";
const SHARED: &str = "shared file";
const FRESH: &str = "Thrift, socket, fresh";

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
    report.say(&format!("PHP {}. (Before 8.4, `dba_popen` opens the file anew in each page.)", web::version()));
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

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/php")
}

fn reads(report: &mut Report, places: &Places) {
    let rounds = if form() == Form::Quick { 7 } else { 21 };
    let mut php = Command::new("php");
    php.args(["-d", "opcache.enable_cli=1", "-d", "opcache.file_update_protection=0"]);
    php.arg(scripts().join("reads.php")).arg(places.0.to_string()).arg(rounds.to_string());
    let told = php.stderr(Stdio::inherit()).output().expect("php starts");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stdout));
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    let ways = told.as_object().expect("figures by way");
    let figure = |way: &str, kind: &str, what: &str| ways[way][kind][what].as_f64().expect("a number") / 1e3;
    let rows = ways.keys().map(|way| {
        let further = figure(way, "further", "median");
        vec![
            way.clone(),
            format!("{further:.2}"),
            format!("{:.2}", figure(way, "further", "p99")),
            format!("{:.1}", further / figure(BARE, "further", "median")),
        ]
    });
    let header = ["Further reads, µs", "p50", "p99", "× dba_fetch"];
    report.table("A read of one value, in a process that has read before", &header, &rows.collect::<Vec<_>>());

    let fresh = |preload| Web::start(places.each(), Workers { count: 2, are_fresh: true, preload });
    let (plain, preloaded) = (fresh(false), fresh(true));
    let rows: Vec<(&str, [f64; 3])> = ways
        .keys()
        .map(|way| {
            let command_line = figure(way, "first", "median");
            (way.as_str(), [command_line, first(&plain, way, rounds), first(&preloaded, way, rounds)])
        })
        .collect();
    let header = ["First reads, µs", "command line", "php-fpm", "php-fpm, preloaded"];
    let cells = |(way, times): &(&str, [f64; 3])| {
        [vec![way.to_string()], times.iter().map(|time| format!("{time:.0}")).collect()].concat()
    };
    report.table("The first read of a process", &header, &rows.iter().map(cells).collect::<Vec<_>>());
    report.say(
        "Measured within PHP, from before the first class is loaded to the value. The command line compiles the \
         classes; a new worker of php-fpm finds them in OPcache, or preloaded.",
    );

    let shared = figure(SHARED, "further", "median");
    let gain = figure(FRESH, "further", "median") / shared;
    let firsts = |way| rows.iter().find(|(name, _)| *name == way).map_or([0.0; 3], |(_, times)| *times);
    let ([.., bare], [.., least]) = (firsts(BARE), firsts(SHARED));
    report.figures(
        "Targets of the shared file",
        &[
            ("a further read ≤ 2 µs", format!("{shared:.2} {}", verdict(shared <= 2.0))),
            ("a fresh Thrift call ÷ that, ≥ 50", format!("{gain:.0} {}", verdict(gain >= 50.0))),
            ("the first read of a new worker, preloaded, ≤ 60 µs", format!("{least:.0} {}", verdict(least <= 60.0))),
            ("that ÷ the same with a bare `dba_fetch`", format!("{:.2}", least / bare)),
        ],
    );
}

/// What the first read of a new worker takes, in µs.
fn first(web: &Web, way: &str, times: usize) -> f64 {
    let path = format!("/config/{WANTED}");
    let ask = || web.get("first.php", &[("way", way), ("path", &path)]).parse::<f64>().expect("nanoseconds") / 1e3;
    // Who comes first compiles for all who follow.
    ask();
    median(&(0..times).map(|_| ask()).collect::<Vec<_>>())
}

fn pages(report: &mut Report, places: &Places, roster: &Roster) {
    let (rounds, time) = match form() {
        Form::Quick => (3, Duration::from_millis(100)),
        _ => (11, Duration::from_millis(500)),
    };
    let webs = [false, true].map(|preload| Web::start(places.each(), Workers { preload, ..WORKERS }));
    let path = format!("/config/{WANTED}");
    let asks = PAGES.map(|(way, _)| Ask {
        request: web::request("page.php", &[("way", way), ("path", &path)]),
        answer: Answer::Page(format!("\r\n\r\n{WANTED}").into()),
    });
    let mut outcomes: Vec<Vec<Outcome>> = PAGES.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (((_, preload), ask), outcomes) in PAGES.iter().zip(&asks).zip(&mut outcomes) {
            let web = &webs[usize::from(*preload)];
            let servers = [web.processes(), vec![roster.process().id()]].concat();
            let address = web.address();
            let load = Load { address, servers: &servers, ask, manner: Manner::Persistent, clients: CLIENTS, time };
            outcomes.push(load.run());
        }
    }
    let medians = |value: fn(&Outcome) -> f64| -> Vec<f64> {
        outcomes.iter().map(|outcomes| median(&outcomes.iter().map(value).collect::<Vec<_>>())).collect()
    };
    let per_second = medians(Outcome::requests_per_second);
    let processor = medians(|outcome| micros(outcome.processor_per_request()));
    let (p50, p99) = (medians(|it| micros(it.latency(50))), medians(|it| micros(it.latency(99))));
    let names = PAGES.map(|(way, preload)| if preload { format!("{way}, preloaded") } else { way.to_owned() });
    let rows = names.iter().enumerate().map(|(n, name)| {
        vec![
            name.clone(),
            format!("{:.0}", per_second[n]),
            format!("{:.0} ({:.2})", processor[n], processor[n] / processor[0]),
            format!("{:.0} / {:.0}", p50[n], p99[n]),
        ]
    });
    let header = ["Pages", "a second", "processor µs a page (× no lookup)", "µs: p50 / p99"];
    report.table("A page behind nginx and php-fpm", &header, &rows.collect::<Vec<_>>());
    report.say("Processor time is that of nginx, php-fpm and Roster together, without ZooKeeper's own.");
    let figure = |page: &str| {
        let n = names.iter().position(|name| name == page).expect("one of the pages");
        let (times, more) = (processor[n] / processor[0], processor[n] - processor[0]);
        format!("{times:.2} ({more:.0} µs more) {}", verdict(times <= 1.03))
    };
    report.figures(
        "Target of the shared file: ≤ 1.03 × the page without lookup",
        &[
            ("as it is", figure(SHARED)),
            ("preloaded", figure(&format!("{SHARED}, preloaded"))),
            ("with a bare `dba_fetch`", figure(BARE)),
        ],
    );
    let bars = names.iter().zip(&processor).map(|(name, time)| (name.clone(), *time, format!("{time:.0} µs")));
    let group = Group { title: "A page of one value".into(), bars: bars.collect() };
    report.plot("php", "Processor time a page", &[group]);
}
