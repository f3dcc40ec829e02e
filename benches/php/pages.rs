//! A web page that needs one value: by each way to it, and without.

use std::time::Duration;

use super::web::{self, Web, Workers};
use super::{BARE, FRESH, Places, SHARED, WANTED};
use crate::harness::Roster;
use crate::load::{Answer, Ask, Load, Manner, Outcome};
use crate::measure::{median, micros};
use crate::plot::Group;
use crate::report::{Report, verdict};
use crate::{Form, form};

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
pub(super) fn pages(report: &mut Report, places: &Places, roster: &Roster) {
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
        for (((name, preload), ask), outcomes) in PAGES.iter().zip(&asks).zip(&mut outcomes) {
            let web = &webs[usize::from(*preload)];
            let servers = [web.processes(), vec![roster.process().id()]].concat();
            let address = web.address();
            let load =
                Load { name, address, servers: &servers, ask, manner: Manner::Persistent, clients: CLIENTS, time };
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
        format!("{times:.2} ({more:.0} µs more, 3 % of {:.1} ms) {}", more / 30.0, verdict(times <= 1.03))
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
