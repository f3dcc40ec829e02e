//! Part `workers`: what it costs to keep processes alive, beside supervisord and a bare loop that forks.

mod calm;
mod commands;
mod keepers;
mod passing;
mod rolling;
mod starts;

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use self::keepers::{FORK_LOOP, REPORTER};
use self::passing::{PASSER, TAKER};
use crate::harness::{Roster, SOON, ensure, eventually};
use crate::idl::{TRosterSyncClient, Worker, WorkerAction, WorkerControl, WorkerState, WorkersQuery};
use crate::let_wait;
use crate::report::Report;

pub(crate) fn run(report: &mut Report) {
    report.part(
        "Workers",
        "What is beside Roster does nothing else: supervisord of Debian, a loop that forks and waits, a loop that accepts \
         and passes on. What is kept alive is this very program, `sleep`, or PHP.",
    );
    starts::run(report);
    commands::run(report);
    passing::run(report);
    calm::run(report);
    rolling::run(report);
}

/// Does what a process of this part does that is this program, if it is one.
pub(crate) fn play(role: &str, arguments: &[String]) -> bool {
    match role {
        REPORTER => keepers::report_and_wait(arguments),
        FORK_LOOP => keepers::fork_again_and_again(arguments),
        PASSER => passing::accept_and_pass(arguments),
        TAKER => passing::take_all(),
        _ => return false,
    }
    true
}

/// This program, in one of its roles, as a list of TOML.
fn own(role: &str, arguments: &[&str]) -> String {
    let program = env::current_exe().expect("this program");
    format!("{:?}", [&[program.to_str().expect("a text"), role], arguments].concat())
}

/// A sidecar with these workers, and one node.
fn sidecar(workers: &str) -> Roster {
    let mut roster = Roster::prepare(&format!("[[file]]\npath = \"{{folder}}/nodes.toml\"\n{workers}"));
    roster.write("nodes.toml", "[nodes]\n\"/a\" = \"some data\"\n");
    // For the record of their processes.
    fs::create_dir_all(roster.state()).expect("a folder");
    let_wait(&roster);
    roster.run();
    roster.becomes("live");
    roster
}

/// Waits until so many workers run; which ones.
fn all_run(roster: &Roster, count: usize) -> Vec<Worker> {
    eventually("all workers run", 2 * SOON, || {
        let workers = told(roster, None)?;
        let run = workers.iter().filter(|worker| worker.state == WorkerState::RUNNING).count();
        ensure(run == count && workers.len() == count, format!("{run} run: {workers:?}")).map(|()| workers)
    })
}

fn told(roster: &Roster, number: Option<i32>) -> Result<Vec<Worker>, String> {
    let group = number.map(|_| GROUP.to_owned());
    let reply = roster.client().workers(WorkersQuery { group, number, ..WorkersQuery::default() });
    reply.map(|reply| reply.workers).map_err(|error| format!("{error:?}"))
}

/// What most groups here are called.
const GROUP: &str = "web";

/// Has something done with workers, and fails unless it is.
fn control(roster: &Roster, number: Option<i32>, action: WorkerAction, count: Option<i32>) {
    let request = WorkerControl::new(GROUP.into(), number, action, count, None, 35_000, None);
    let reply = roster.client().control_workers(request).expect("an answer");
    assert!(!reply.timed_out && reply.outcomes.iter().all(|outcome| outcome.error.is_none()), "{reply:?}");
}

/// Runs a command to its end; what it printed.
fn done(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn source(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).display().to_string()
}
