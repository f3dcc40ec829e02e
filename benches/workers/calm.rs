//! Whether anybody who reads notices that workers are restarted all the time.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{GROUP, all_run, sidecar, told};
use crate::harness::{Over, Roster};
use crate::measure::{latencies_of_get, median, micros, percentile};
use crate::report::{Report, verdict};
use crate::{Form, form};

const WORKERS: usize = 100;
const EVERY: Duration = Duration::from_millis(100);

/// Who read at once.
const READERS: usize = 2;

/// How much slower is not noticed.
const UNMOVED: f64 = 1.1;

/// What happens meanwhile, ten times a second.
#[derive(Clone, Copy, PartialEq)]
enum Meanwhile {
    Nothing,
    /// A process that this program starts and ends.
    Forks,
    /// One of the workers is killed, and started again by the sidecar.
    Restarts,
}

pub(super) fn run(report: &mut Report) {
    let (rounds, time) = match form() {
        Form::Quick => (1, Duration::from_millis(500)),
        _ => (9, Duration::from_secs(3)),
    };
    let roster = sidecar(&format!(
        "[[worker]]\nname = \"{GROUP}\"\ncommand = [\"sleep\", \"10000\"]\ncount = {WORKERS}\nready_after = \"0s\"\n\
         restart_delay = \"1ms\"\nmax_restart_delay = \"1ms\"\nstart_retries = 1000000\n"
    ));
    all_run(&roster, WORKERS);
    let manners = [Meanwhile::Nothing, Meanwhile::Forks, Meanwhile::Restarts];
    let mut figures = manners.map(|manner| (manner, Vec::new(), Vec::new()));
    let mut restarts = 0;
    for _ in 0..rounds {
        for (manner, p50, p99) in &mut figures {
            let (latencies, done) = read_while(&roster, *manner, time);
            p50.push(percentile(&latencies, 50));
            p99.push(percentile(&latencies, 99));
            restarts += if *manner == Meanwhile::Restarts { done } else { 0 };
            all_run(&roster, WORKERS);
        }
    }
    let p99 = |number: usize| micros(median(&figures[number].2));
    let row = |what: &str, number: usize, verdict: &str| {
        let (p50, times) = (micros(median(&figures[number].1)), p99(number) / p99(0));
        vec![what.to_owned(), format!("{p50:.0} / {:.0}", p99(number)), format!("{times:.2} {verdict}")]
    };
    let rows = [
        row("nothing", 0, ""),
        row("ten processes a second of somebody else", 1, ""),
        row("ten restarts a second (≤ 1.1)", 2, verdict(p99(2) / p99(0) <= UNMOVED)),
    ];
    report.table(
        &format!("`get` beside {WORKERS} workers, p50 / p99, µs"),
        &["meanwhile", "", "p99 ÷ nothing's"],
        &rows,
    );
    let per_second = restarts as f64 / (rounds as f64 * time.as_secs_f64());
    report.say(&format!("({per_second:.1} restarts a second)"));
}

/// Reads for so long; how long each read took, and how often it happened meanwhile.
fn read_while(roster: &Roster, manner: Meanwhile, time: Duration) -> (Vec<Duration>, usize) {
    let (over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let happens = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let began = Instant::now();
                happen(roster, manner, done.fetch_add(1, Ordering::Relaxed));
                std::thread::sleep(EVERY.saturating_sub(began.elapsed()));
            }
        });
        let _over = Over(&over);
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(|| latencies_of_get(roster, time))).collect();
        let latencies =
            readers.into_iter().flat_map(|reader| reader.join().expect("a reader does not panic")).collect();
        over.store(true, Ordering::Relaxed);
        happens.join().expect("it does not panic");
        (latencies, done.load(Ordering::Relaxed))
    })
}

fn happen(roster: &Roster, manner: Meanwhile, number: usize) {
    match manner {
        Meanwhile::Nothing => {}
        Meanwhile::Forks => {
            let mut process = Command::new("sleep").arg("10000").spawn().expect("it starts");
            process.kill().and_then(|()| process.wait()).expect("it ends");
        }
        Meanwhile::Restarts => {
            let workers = told(roster, Some((number % WORKERS) as i32 + 1)).expect("one is told");
            let pid = workers[0].pid.expect("it runs");
            // It may just have ended.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
