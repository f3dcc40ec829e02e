//! A read of one value in PHP itself: the first of a process, and the further ones.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::web::{Web, Workers};
use super::{BARE, FRESH, Places, SHARED, WANTED, scripts};
use crate::measure::median;
use crate::report::{Report, verdict};
use crate::{Form, form};

pub(super) fn reads(report: &mut Report, places: &Places) {
    let rounds = if form() == Form::Quick { 7 } else { 21 };
    let told = Told::by_php(places, rounds);
    let shared = told.micros(SHARED, "further", "median");
    let rows = told.ways().map(|way| {
        let p50 = told.micros(way, "further", "median");
        let p99 = told.micros(way, "further", "p99");
        vec![way.to_owned(), format!("{p50:.2}"), format!("{p99:.2}"), format!("{:.2}", p50 / shared)]
    });
    let header = ["Further reads, µs", "p50", "p99", "× shared file"];
    report.table("A read of one value, in a process that has read before", &header, &rows.collect::<Vec<_>>());
    report.say("Of fast ways many reads are timed together: their p99 is one of means.");
    let [bare, first] = first_reads(report, places, &told, rounds);
    let gain = told.micros(FRESH, "further", "median") / shared;
    report.figures(
        "Targets of the shared file",
        &[
            ("a further read ≤ 2 µs", format!("{shared:.2} {}", verdict(shared <= 2.0))),
            ("a fresh Thrift call ÷ that, ≥ 50", format!("{gain:.0} {}", verdict(gain >= 50.0))),
            ("the first read of a new worker, preloaded, ≤ 60 µs", format!("{first:.0} {}", verdict(first <= 60.0))),
            ("that ÷ the same with a bare `dba_fetch`", format!("{:.2}", first / bare)),
        ],
    );
}

/// Tells of them, and answers what they take in a new worker with preloaded classes: with a bare fetch, with the
/// package.
fn first_reads(report: &mut Report, places: &Places, told: &Told, rounds: usize) -> [f64; 2] {
    let fresh = |preload| Web::start(places.each(), Workers { count: 2, are_fresh: true, preload });
    let webs = [false, true].map(fresh);
    let mut preloaded = [0.0; 2];
    let rows = told.ways().map(|way| {
        let [plain, least] = webs.each_ref().map(|web| first_read(web, way, rounds));
        if let Some(n) = [BARE, SHARED].iter().position(|it| *it == way) {
            preloaded[n] = least;
        }
        let times = [told.micros(way, "first", "median"), plain, least];
        [vec![way.to_owned()], times.map(|time| format!("{time:.0}")).to_vec()].concat()
    });
    let header = ["First reads, µs", "command line", "php-fpm", "php-fpm, preloaded"];
    report.table("The first read of a process", &header, &rows.collect::<Vec<_>>());
    report.say(
        "Measured within PHP, from before the first class is loaded to the value. The command line compiles the \
         classes; a new worker of php-fpm finds them in OPcache, or preloaded.",
    );
    preloaded
}

/// What the first read of a new worker takes, in µs.
fn first_read(web: &Web, way: &str, times: usize) -> f64 {
    let path = format!("/config/{WANTED}");
    let ask = || web.get("first.php", &[("way", way), ("path", &path)]).parse::<f64>().expect("nanoseconds") / 1e3;
    // Who comes first compiles for all who follow.
    ask();
    median(&(0..times).map(|_| ask()).collect::<Vec<_>>())
}

/// What `reads.php` prints: nanoseconds by way.
struct Told(Value);

impl Told {
    fn by_php(places: &Places, rounds: usize) -> Self {
        let mut php = Command::new("php");
        php.args(["-d", "opcache.enable_cli=1", "-d", "opcache.file_update_protection=0"]);
        php.arg(scripts().join("reads.php")).arg(places.0.to_string()).arg(rounds.to_string());
        let told = php.stderr(Stdio::inherit()).output().expect("php starts");
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stdout));
        Self(serde_json::from_slice(&told.stdout).expect("JSON"))
    }

    fn ways(&self) -> impl Iterator<Item = &str> {
        self.0.as_object().into_iter().flatten().map(|(way, _)| way.as_str())
    }

    fn micros(&self, way: &str, reads: &str, what: &str) -> f64 {
        self.0[way][reads][what].as_f64().expect("nanoseconds") / 1e3
    }
}
