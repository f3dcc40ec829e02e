//! `roster worker`: the local processes that the sidecar keeps alive.

mod add;
mod command;
mod control;
mod list;
mod logs;

use clap::{Args, Subcommand};
use roster::thrift::client::{Client, Error};
use roster::thrift::idl::{self, WorkersQuery};

pub(super) use self::command::Misused;
pub(super) use self::control::Unfinished;
pub(super) use self::list::document;

/// List, start, stop, restart, scale, add, remove and command workers, and read their output
#[derive(Debug, Args)]
pub(crate) struct Worker {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(after_help = super::exit::HELP, visible_aliases = ["status", "ps"])]
    List(list::List),
    #[command(after_help = super::exit::HELP)]
    /// Start those that are not running, and wait until they are ready
    Start(control::Targets),
    #[command(after_help = super::exit::HELP)]
    Stop(control::Stop),
    #[command(after_help = super::exit::HELP, visible_alias = "reload")]
    Restart(control::Restart),
    #[command(after_help = super::exit::HELP)]
    Scale(control::Scale),
    #[command(after_help = super::exit::HELP)]
    Add(add::Add),
    #[command(after_help = super::exit::HELP)]
    Remove(add::Remove),
    #[command(after_help = super::exit::HELP)]
    /// Send a signal to the process of each
    Signal(control::SignalOf),
    #[command(after_help = super::exit::HELP, visible_alias = "tail")]
    Logs(logs::Logs),
    #[command(after_help = super::exit::HELP)]
    Command(command::Command),
}

impl Worker {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::List(list) => list.run(),
            Command::Start(targets) => targets.start(),
            Command::Stop(stop) => stop.run(),
            Command::Restart(restart) => restart.run(),
            Command::Scale(scale) => scale.run(),
            Command::Add(add) => add.run(),
            Command::Remove(remove) => remove.run(),
            Command::Signal(signal) => signal.run(),
            Command::Logs(logs) => logs.run(),
            Command::Command(command) => command.run(),
        }
    }
}

/// A group of workers, or one of them: `NAME`, `NAME/2`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    group: String,
    number: Option<i32>,
}

impl Target {
    fn parse(text: &str) -> Result<Self, String> {
        let Some((group, number)) = text.split_once('/') else {
            return Ok(Self { group: text.to_owned(), number: None });
        };
        match number.parse() {
            Ok(number @ 1..) => Ok(Self { group: group.to_owned(), number: Some(number) }),
            _ => Err(format!("`{number}` is no number of a worker: they begin with {group}/1")),
        }
    }

    fn query(&self) -> WorkersQuery {
        WorkersQuery { group: Some(self.group.clone()), number: self.number, ..WorkersQuery::default() }
    }
}

/// The name of a group, where one of its workers cannot be meant.
fn group_name(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((group, _)) => Err(format!("it is for all of a worker's processes: {group}")),
        None => Ok(text.to_owned()),
    }
}

/// All workers that match the query.
fn read(client: &mut Client, mut query: WorkersQuery) -> Result<Vec<idl::Worker>, Error> {
    let mut workers = Vec::new();
    loop {
        let page = client.workers(query.clone())?;
        workers.extend(page.workers);
        match page.cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => return Ok(workers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_group_or_one_of_its_workers() {
        let target = |group: &str, number| Target { group: group.to_owned(), number };
        assert_eq!(Target::parse("web"), Ok(target("web", None)));
        assert_eq!(Target::parse("web/12"), Ok(target("web", Some(12))));
        for wrong in ["web/", "web/0", "web/-1", "web/x", "web/1/2"] {
            assert!(Target::parse(wrong).expect_err(wrong).ends_with("they begin with web/1"));
        }
    }
}
