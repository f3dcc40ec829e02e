//! `roster worker start`, `stop`, `restart`, `scale` and `signal`.

use std::io::{self, Write};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use nix::sys::signal::Signal;
use roster::thrift::client::Client;
use roster::thrift::idl::{WorkerAction, WorkerControl, WorkerControlReply, WorkerOutputQuery, WorkersQuery};

use super::{Misused, Target, group_name, logs};
use crate::cli::connection::{Connection, duration};
use crate::cli::text;

/// How much is shown of what a worker printed before it failed.
const LAST_LINES: usize = 5;

/// Which workers are meant.
#[derive(Debug, Args)]
pub(super) struct Targets {
    /// Groups of workers, or single workers
    #[arg(required_unless_present = "all", value_name = "NAME[/N]", value_parser = Target::parse)]
    targets: Vec<Target>,
    /// All workers
    #[arg(long, conflicts_with = "targets")]
    all: bool,
    #[command(flatten)]
    patience: Patience,
}

#[derive(Debug, Args)]
pub(super) struct Patience {
    /// How long to wait until it is done, at most an hour; a bare number is in seconds. What is unfinished then goes on
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = up_to_an_hour)]
    pub(super) wait: Duration,
    #[command(flatten)]
    pub(super) connection: Connection,
}

fn up_to_an_hour(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        wait if wait > Duration::from_secs(60 * 60) => Err("it is more than an hour".into()),
        wait => Ok(wait),
    }
}

/// Stop them, and wait until they have ended, including processes replaced earlier
///
/// Each is asked to end, and killed after its `stop_timeout`.
#[derive(Debug, Args)]
pub(super) struct Stop {
    /// Kill them, including those that were asked to end earlier
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    targets: Targets,
}

/// Replace the running processes by new ones
///
/// One after the other, each once its replacement is ready; then the old one is asked to end. If a replacement does not
/// become ready, the restart ends: the reason is printed, and the remaining processes keep running.
#[derive(Debug, Args)]
pub(super) struct Restart {
    /// One after the other, each once its replacement is ready (the default)
    #[arg(long)]
    rolling: bool,
    /// Stop all at once, then start them, including those that are stopped
    #[arg(long, conflicts_with = "rolling")]
    now: bool,
    #[command(flatten)]
    targets: Targets,
}

/// Set the number of processes of a worker until the sidecar restarts; with --save, also after that
#[derive(Debug, Args)]
pub(super) struct Scale {
    #[arg(value_name = "NAME", value_parser = group_name)]
    group: String,
    /// How many processes, from 1 to 1000
    #[arg(value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1_000))]
    count: i32,
    /// Keep this number when the sidecar restarts, until they are scaled with --save again; the configuration is not
    /// changed
    #[arg(long)]
    save: bool,
    #[command(flatten)]
    patience: Patience,
}

#[derive(Debug, Args)]
pub(super) struct SignalOf {
    #[arg(value_name = "NAME[/N]", value_parser = Target::parse)]
    target: Target,
    /// Its name, such as HUP or SIGUSR1
    #[arg(value_name = "SIG")]
    signal: String,
    #[command(flatten)]
    connection: Connection,
}

/// An order to workers that was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfinished {
    #[error("{0}")]
    Failed(String),
    #[error("not done within {0:?}; it goes on, and `roster worker list` tells how far it is")]
    TimedOut(Duration),
}

/// One thing to do with workers, and the words for its success.
struct Order {
    action: WorkerAction,
    done: &'static str,
    /// The words for its failure.
    failed: &'static str,
}

const START: Order = Order { action: WorkerAction::START, done: "runs", failed: "not all of them run" };
const STOP: Order = Order { action: WorkerAction::STOP, done: "is stopped", failed: "not all of them are stopped" };
const KILL: Order = Order { action: WorkerAction::KILL, ..STOP };
const RESTART: Order =
    Order { action: WorkerAction::RESTART, done: "is restarted", failed: "not all of them run again" };
const ROLL: Order = Order {
    action: WorkerAction::ROLL,
    done: "is replaced",
    failed: "the rolling restart ended there, and what it has not replaced stays as it is",
};

impl Stop {
    pub(super) fn run(self) -> anyhow::Result<()> {
        self.targets.carry_out(if self.now { &KILL } else { &STOP })
    }
}

impl Restart {
    pub(super) fn run(self) -> anyhow::Result<()> {
        self.targets.carry_out(if self.now { &RESTART } else { &ROLL })
    }
}

impl Scale {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { group, count, save, patience: Patience { wait, connection } } = self;
        let control = WorkerControl::new(group.clone(), None, WorkerAction::SCALE, count, None, None, save);
        let mut client = connection.client();
        let reply = client.control_workers(control, wait)?;
        let number = |name: &str| name.rsplit('/').next().and_then(|number| number.parse::<i32>().ok());
        let is_removed = |name: &str| number(name).is_some_and(|number| number > count);
        let failed = print(&reply, wait, |name| if is_removed(name) { "is no more".into() } else { "runs".into() })?;
        fail_to_run(&mut client, &failed, "not all of them run")?;
        if let Some(why) = reply.not_saved {
            let why = text::line(&why);
            let message = format!("{group} has {count} of them, but not when the sidecar is started again: {why}");
            return Err(Unfinished::Failed(message).into());
        }
        let until = if save { "also when" } else { "until" };
        Ok(writeln!(io::stdout(), "{group} has {count} of them, {until} the sidecar is started again")?)
    }
}

impl SignalOf {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { target: Target { group, number }, signal, connection } = self;
        let is_one = |word: &str| Signal::from_str(&format!("SIG{}", word.trim_start_matches("SIG"))).is_ok();
        if is_one(&group) && !is_one(&signal) {
            let message = format!("the worker comes first: roster worker signal {signal} {group}");
            return Err(Misused(message).into());
        }
        let wait = connection.timeout();
        let control = WorkerControl::new(group, number, WorkerAction::SIGNAL, None, signal.clone(), None, None);
        let reply = connection.client().control_workers(control, wait)?;
        let failed = print(&reply, wait, |_| format!("was sent {signal}"))?;
        fail(&failed, "not all of them were sent it")
    }
}

impl Targets {
    pub(super) fn start(self) -> anyhow::Result<()> {
        self.carry_out(&START)
    }

    /// One after the other, continuing after a failure.
    fn carry_out(self, order: &Order) -> anyhow::Result<()> {
        let Self { targets, all, patience: Patience { wait, connection } } = self;
        let mut client = connection.client();
        let targets = if all { groups(&mut client)? } else { targets };
        // Nothing is done if one of them does not exist.
        targets.iter().try_for_each(|target| super::read(&mut client, target.query()).map(drop))?;
        let mut failed = Vec::new();
        for Target { group, number } in targets {
            let control = WorkerControl::new(group.clone(), number, order.action, None, None, None, None);
            let reply = client.control_workers(control, wait)?;
            if reply.outcomes.is_empty() && !reply.timed_out {
                match number {
                    Some(number) => {
                        let name = format!("{group}/{number}");
                        eprintln!("roster: {name} does not run; `roster worker start {name}` starts it");
                    }
                    None => eprintln!("roster: of {group} nothing runs; `roster worker start {group}` starts it"),
                }
            }
            failed.extend(print(&reply, wait, |_| order.done.to_owned())?);
        }
        fail_to_run(&mut client, &failed, order.failed)
    }
}

/// All groups.
fn groups(client: &mut Client) -> anyhow::Result<Vec<Target>> {
    let mut groups: Vec<String> =
        super::read(client, WorkersQuery::default())?.into_iter().map(|worker| worker.group).collect();
    groups.dedup();
    Ok(groups.into_iter().map(|group| Target { group, number: None }).collect())
}

/// Prints the result for each worker. Returns those that failed.
pub(super) fn print(
    reply: &WorkerControlReply,
    wait: Duration,
    done: impl Fn(&str) -> String,
) -> anyhow::Result<Vec<String>> {
    if reply.timed_out {
        return Err(Unfinished::TimedOut(wait).into());
    }
    let mut failed = Vec::new();
    for outcome in &reply.outcomes {
        let name = text::line(&outcome.name);
        match &outcome.error {
            None => writeln!(io::stdout(), "{name} {}", done(&name))?,
            Some(why) => {
                eprintln!("roster: {name}: {}", text::line(why));
                failed.push(name);
            }
        }
    }
    Ok(failed)
}

/// Fails if one of them did, with the last lines that the first one printed: an error of its program is among them.
pub(super) fn fail_to_run(client: &mut Client, failed: &[String], what: &str) -> anyhow::Result<()> {
    if let Some(Ok(Target { group, number })) = failed.first().map(|name| Target::parse(name))
        && let Ok(printed) = client.worker_output(WorkerOutputQuery::new(group, number, None))
    {
        let lines = printed.lines.len();
        printed.lines[lines.saturating_sub(LAST_LINES)..].iter().for_each(|line| eprintln!("{}", logs::shown(line)));
    }
    fail(failed, what)
}

fn fail(failed: &[String], what: &str) -> anyhow::Result<()> {
    let Some(first) = failed.first() else { return Ok(()) };
    Err(Unfinished::Failed(format!("{what}; `roster worker logs {first}` shows what it printed")).into())
}
