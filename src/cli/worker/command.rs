//! `roster worker command`: sends workers a command, and prints what each answers.

use clap::Args;
use roster::thrift::idl::{WorkerAnswer, WorkerCommand};
use serde_json::{Value, json};

use super::Target;
use crate::cli::call::{SomeFailed, print_values};
use crate::cli::connection::Connection;
use crate::cli::{Output, json, text};

/// Send a command to workers, concurrently
///
/// Each answer is printed on a line, as JSON after the worker's name; errors go to stderr. Each has --timeout to
/// answer: one that hangs does not delay the others. Workers with the PHP package know `ping` and `status`, and what
/// `onCommand()` adds.
#[derive(Debug, Args)]
#[command(override_usage = "roster worker command [OPTIONS] <NAME[/N]> <CMD> [JSON]\n       \
                            roster worker command [OPTIONS] --all <CMD> [JSON]")]
pub(super) struct Command {
    /// A group of workers, or a single one; not with --all. Then the command and its argument [default: null]
    #[arg(value_name = "NAME[/N] CMD JSON", required = true, num_args = 1..=3)]
    words: Vec<String>,
    /// All workers
    #[arg(long)]
    all: bool,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments that are not a command for workers.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misused(pub(super) String);

impl Command {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { words, all, output, connection } = self;
        let (command, wait) = (read(&words, all)?, connection.timeout());
        let answers = connection.client().command_workers(command, wait)?.answers;
        if output == Output::Json {
            json::print(&json!({ "answers": answers.iter().map(document).collect::<Vec<_>>() }))?;
        }
        let mut failed = 0;
        for WorkerAnswer { worker, value, error, .. } in &answers {
            match error {
                None if output == Output::Json => {}
                None => {
                    let value = value.clone().unwrap_or_else(|| b"null".to_vec());
                    print_values(&format!("{}\t", text::line(worker)), &[value])?;
                }
                Some(why) => {
                    failed += 1;
                    eprintln!("roster: {}: {}", text::line(worker), text::printable(why.as_bytes()));
                }
            }
        }
        Ok(SomeFailed::check(failed, answers.len(), "workers")?)
    }
}

/// Parses the arguments; without a target if it is for all.
fn read(words: &[String], all: bool) -> Result<WorkerCommand, Misused> {
    let (target, rest) = if all { (None, words) } else { (words.first(), words.get(1..).unwrap_or_default()) };
    let (name, data) = match rest {
        [name] => (name, None),
        [name, data] => (name, Some(data)),
        _ if all => return Err(Misused("with --all, there is a command and perhaps what it is given".into())),
        _ => return Err(Misused("a command is missing: `roster worker command web ping`".into())),
    };
    if let Some(error) = data.and_then(|data| serde_json::from_str::<Value>(data).err()) {
        return Err(Misused(format!("what the command is given is no JSON: {error}; a text takes quotes: '\"mail\"'")));
    }
    let target = target.map(|target| Target::parse(target)).transpose().map_err(Misused)?;
    let (group, number) = target.map_or((None, None), |Target { group, number }| (Some(group), number));
    Ok(WorkerCommand::new(group, number, name.clone(), data.map(|data| data.clone().into_bytes()), None, None))
}

/// What is absent in the reply is `null`.
fn document(answer: &WorkerAnswer) -> Value {
    let value = answer.value.as_ref().and_then(|value| serde_json::from_slice(value).ok());
    json!({
        "worker": answer.worker,
        "value": value.unwrap_or(Value::Null),
        "error": answer.error,
        "className": answer.class_name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str], all: bool) -> Result<WorkerCommand, Misused> {
        read(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>(), all)
    }

    #[test]
    fn a_command_is_for_a_target_or_for_all() {
        let command = |group: Option<&str>, number, data: Option<&str>| {
            let data = data.map(|data| data.as_bytes().to_vec());
            Ok(WorkerCommand::new(group.map(str::to_owned), number, "ping".to_owned(), data, None, None))
        };
        assert_eq!(of(&["web/2", "ping"], false), command(Some("web"), Some(2), None));
        assert_eq!(of(&["web", "ping", "{\"a\":1}"], false), command(Some("web"), None, Some("{\"a\":1}")));
        assert_eq!(of(&["ping"], true), command(None, None, None));
        assert_eq!(of(&["ping", "7"], true), command(None, None, Some("7")));
        for (words, all) in [(&["web"][..], false), (&["web", "ping", "x"], false), (&["a", "b", "1"], true)] {
            of(words, all).expect_err("a mistake");
        }
        assert!(of(&["web/x", "ping"], false).expect_err("a mistake").to_string().ends_with("begin with web/1"));
    }
}
