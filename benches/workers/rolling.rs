//! New code under load: all of eight processes of a web server in PHP are replaced again and again, while Apache's `ab` asks
//! them.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::keepers::Supervisord;
use super::{GROUP, all_run, control, done, sidecar, source};
use crate::harness::{Over, Roster, SOON, eventually, free_port};
use crate::idl::WorkerAction;
use crate::measure::median;
use crate::report::{Report, verdict};
use crate::{Form, form};

const PROCESSES: usize = 8;

/// Who ask at once.
const CLIENTS: &str = "4";

/// How many times as slow it may be meanwhile.
const MOST: f64 = 2.0;

/// What `ab` says of one run.
struct Asked {
    answered: usize,
    /// None: so many failed one after the other that it gave up.
    failed: Option<usize>,
    p50: f64,
    p99: f64,
}

pub(super) fn run(report: &mut Report) {
    let (rounds, seconds) = if form() == Form::Quick { (1, 2) } else { (5, 6) };
    let [port, other] = [free_port(), free_port()];
    let roster = sidecar(&format!(
        "[[worker]]\nname = \"{GROUP}\"\ncommand = [\"php\", {:?}]\ncount = {PROCESSES}\nready = \"message\"\n\
         listen = [\"tcp://127.0.0.1:{port}\"]\n",
        source("examples/workers/web.php")
    ));
    all_run(&roster, PROCESSES);
    let supervisord = Supervisord::start(&format!(
        "[fcgi-program:web]\nsocket=tcp://127.0.0.1:{other}\ncommand=php {}\nnumprocs={PROCESSES}\n\
         process_name=%(process_num)d\nstartsecs=0\n",
        source("benches/workers/web.php")
    ));
    eventually("it answers", SOON, || std::net::TcpStream::connect(("127.0.0.1", other)));
    let restart_all = || drop(done(&mut supervisord.command(&["restart", "web:*"])));
    let mut ours = [const { Vec::new() }; 2];
    let mut theirs = [const { Vec::new() }; 2];
    let mut rolls = [0, 0];
    for _ in 0..rounds {
        ours[0].push(ask(port, seconds));
        ours[1].push(while_it(&mut rolls[0], || roll(&roster), || ask(port, seconds)));
        theirs[0].push(ask(other, seconds));
        theirs[1].push(while_it(&mut rolls[1], restart_all, || ask(other, seconds)));
    }
    let rows = [
        row("Roster: `worker restart`", &ours, rolls[0], true),
        row("supervisord: `restart` of an `fcgi-program`", &theirs, rolls[1], false),
    ];
    let header = [
        "",
        "times all replaced",
        "requests meanwhile",
        "failed (0)",
        "p50 / p99 before, ms",
        "meanwhile",
        "p99 ÷ (≤ 2)",
    ];
    report.table(&format!("{PROCESSES} processes replaced under load"), &header, &rows);
}

fn roll(roster: &Roster) {
    control(roster, None, WorkerAction::ROLL, None);
}

/// Does the one again and again until the other is over.
fn while_it<T>(times: &mut usize, again: impl Fn() + Sync, other: impl FnOnce() -> T) -> T {
    let (over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                again();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _over = Over(&over);
        other()
    });
    *times += count.load(Ordering::Relaxed);
    result
}

fn row(what: &str, [before, meanwhile]: &[Vec<Asked>; 2], rolls: usize, is_held: bool) -> Vec<String> {
    let of = |asked: &[Asked], figure: fn(&Asked) -> f64| median(&asked.iter().map(figure).collect::<Vec<_>>());
    let both = |asked: &[Asked]| format!("{:.1} / {:.1}", of(asked, |it| it.p50), of(asked, |it| it.p99));
    let failed: Option<usize> = before.iter().chain(meanwhile).map(|asked| asked.failed).sum();
    let told = failed.map_or("gave up".to_owned(), |failed| failed.to_string());
    let times = of(meanwhile, |it| it.p99) / of(before, |it| it.p99);
    let judged = |is_met: bool| if is_held { verdict(is_met) } else { "" };
    vec![
        what.to_owned(),
        rolls.to_string(),
        meanwhile.iter().map(|asked| asked.answered).sum::<usize>().to_string(),
        format!("{told} {}", judged(failed == Some(0))),
        both(before),
        both(meanwhile),
        format!("{times:.1} {}", judged(times <= MOST)),
    ]
}

fn ask(port: u16, seconds: u32) -> Asked {
    let folder = tempfile::tempdir().expect("a folder");
    let percentiles = folder.path().join("percentiles");
    let mut ab = Command::new("ab");
    ab.args(["-q", "-r", "-c", CLIENTS, "-t", &seconds.to_string(), "-n", "1000000", "-s", "20", "-e"]);
    let output = ab.arg(&percentiles).arg(format!("http://127.0.0.1:{port}/")).output().expect("ab starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        line.map_or(0, |number| number.parse::<usize>().unwrap_or_else(|_| panic!("{name} {number}")))
    };
    let failed = number("Failed requests:") + number("Non-2xx responses:");
    let has_ended = output.status.success();
    Asked {
        answered: number("Complete requests:"),
        failed: has_ended.then_some(failed),
        p50: percentile(&percentiles, 50),
        p99: percentile(&percentiles, 99),
    }
}

/// In milliseconds; infinite, where it gave up.
fn percentile(file: &Path, percent: usize) -> f64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{percent},")));
    line.map_or(f64::INFINITY, |value| value.parse().expect("a number"))
}
