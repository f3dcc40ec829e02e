//! From the end of a process to its successor, by command and by itself; memory, and the cost of a crash loop.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::keepers::{Keeper, Reports, Supervisord};
use super::{GROUP, all_run, control, done, sidecar, source};
use crate::idl::WorkerAction;
use crate::measure::{median, memory, millis, percentile};
use crate::report::{Report, verdict};
use crate::{Form, form};

/// What a crash loop may take of one processor.
const MOST_OF_A_CRASH_LOOP: f64 = 0.01;

pub(super) fn run(report: &mut Report) {
    restarts(report);
    boots(report);
    kept(report);
    crashes(report);
}

/// The same program under each keeper, killed or restarted by a command, by turns.
fn restarts(report: &mut Report) {
    let rounds = if form() == Form::Quick { 5 } else { 40 };
    let mut keepers = Keeper::all().map(|keeper| (keeper, Vec::new(), Vec::new(), Vec::new()));
    for _ in 0..rounds {
        for (keeper, killed, restarted, processor) in &mut keepers {
            let (before, began) = (with_children(keeper.id()), Instant::now());
            keeper.kill_one();
            killed.push(began.elapsed());
            // What is left to be done after it.
            sleep(Duration::from_millis(30));
            processor.push(with_children(keeper.id()).saturating_sub(before).as_secs_f64());
            if let Some(mut command) = keeper.command("restart") {
                let began = Instant::now();
                done(&mut command);
                restarted.push(began.elapsed());
                keeper.kept = keeper.reports.next();
            }
        }
    }
    let shown = |times: &[Duration]| match times {
        [] => String::new(),
        _ => format!("{:.1} / {:.1} ms", millis(median(times)), millis(percentile(times, 95))),
    };
    let rows = keepers.each_ref().map(|(keeper, killed, restarted, processor)| {
        let each = processor.iter().sum::<f64>() / processor.len() as f64;
        vec![keeper.name.to_owned(), shown(killed), format!("{:.1} ms", each * 1e3), shown(restarted)]
    });
    let header = ["", "killed until its successor begins", "processor time of that", "restarted by a command"];
    report.table("The same small program kept alive, p50 / p95", &header, &rows);
}

/// A worker in PHP from its start until it is ready, beside PHP itself.
fn boots(report: &mut Report) {
    let rounds = if form() == Form::Quick { 3 } else { 25 };
    let program = source("benches/workers/boot.php");
    let roster = sidecar(&format!(
        "[[worker]]\nname = \"{GROUP}\"\ncommand = [\"php\", {program:?}]\nready = \"message\"\nstop_timeout = \"5s\"\n"
    ));
    all_run(&roster, 1);
    let reports = Reports::new();
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        control(&roster, None, WorkerAction::STOP, None);
        let began = Instant::now();
        control(&roster, None, WorkerAction::START, None);
        ours.push(began.elapsed());
        let began = Instant::now();
        let mut php = Command::new("php").args([&program, &reports.path()]).spawn().expect("PHP starts");
        reports.next();
        bare.push(began.elapsed());
        php.kill().and_then(|()| php.wait()).expect("it ends");
    }
    let (ours, bare) = (median(&ours), median(&bare));
    report.figures(
        "A worker in PHP with the package",
        &[
            ("PHP alone, from its start until it reports", format!("{:.1} ms", millis(bare))),
            (
                "kept alive: from a call of START until it is ready and that is answered",
                format!("{:.1} ms", millis(ours)),
            ),
        ],
    );
}

/// What one process more takes of who keeps it.
fn kept(report: &mut Report) {
    let more = if form() == Form::Quick { 20 } else { 100 };
    let roster =
        sidecar(&format!("[[worker]]\nname = \"{GROUP}\"\ncommand = [\"sleep\", \"10000\"]\nready_after = \"0s\"\n"));
    all_run(&roster, 1);
    let settled = |id: u32| {
        sleep(Duration::from_secs(1));
        memory(id)
    };
    let before = settled(roster.process().id());
    control(&roster, None, WorkerAction::SCALE, Some(more + 1));
    let ours = settled(roster.process().id()).saturating_sub(before) / more as usize;
    let supervisord = |count: i32| {
        let started = Supervisord::start(&format!(
            "[program:web]\ncommand=sleep 10000\nnumprocs={count}\nprocess_name=%(process_num)d\nstartsecs=0\n"
        ));
        settled(started.process.id())
    };
    let theirs = supervisord(more + 1).saturating_sub(supervisord(1)) / more as usize;
    let kilobytes = |bytes: usize| format!("{:.1} KB", bytes as f64 / 1024.0);
    report.figures(
        &format!("Memory of a process that is kept alive, of {more}"),
        &[("Roster", kilobytes(ours)), ("supervisord", kilobytes(theirs))],
    );
}

/// A program that ends at once, with the pauses that are the default: what it takes, with who starts it again.
fn crashes(report: &mut Report) {
    let time = Duration::from_secs(if form() == Form::Quick { 2 } else { 20 });
    let group = |start_retries: usize| {
        format!("[[worker]]\nname = \"{GROUP}\"\ncommand = [\"false\"]\nstart_retries = {start_retries}\n")
    };
    let share = |settings: &str| {
        let roster = sidecar(settings);
        let (before, began) = (with_children(roster.process().id()), Instant::now());
        sleep(time);
        let took = with_children(roster.process().id()).saturating_sub(before);
        took.as_secs_f64() / began.elapsed().as_secs_f64()
    };
    let (nothing, crashing) = (share(""), share(&group(1_000_000)));
    let more = (crashing - nothing).max(0.0);
    report.figures(
        &format!("A crash loop in its first {} s, of one processor", time.as_secs()),
        &[
            ("the same sidecar without workers", format!("{:.2} %", nothing * 100.0)),
            (
                "what the loop adds, its processes with it (< 1 %)",
                format!("{:.2} % {}", more * 100.0, verdict(more < MOST_OF_A_CRASH_LOOP)),
            ),
        ],
    );
}

/// The processor time of a process and of its children that have ended.
fn with_children(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("a process");
    let (_, rest) = stat.rsplit_once(')').expect("a name");
    let ticks: u64 =
        rest.split_whitespace().skip(11).take(4).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    let second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().expect("ticks a second");
    Duration::from_secs_f64(ticks as f64 / second as f64)
}
