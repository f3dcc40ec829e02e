//! `roster worker logs`: the output of workers.

use std::io::{self, Write};
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use roster::model::counted;
use roster::thrift::client::{Client, Error};
use roster::thrift::idl::{WorkerLine, WorkerOutputQuery};
use serde_json::json;

use super::Target;
use crate::cli::connection::Connection;
use crate::cli::{Output, text};

/// How often to poll for more.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Print the last lines of workers' output
///
/// The sidecar keeps the last 256 KiB of each group. All of it also goes to the sidecar's log.
#[derive(Debug, Args)]
pub(super) struct Logs {
    #[arg(value_name = "NAME[/N]", value_parser = Target::parse)]
    target: Target,
    /// Continue with new output until interrupted
    #[arg(short, long)]
    follow: bool,
    /// At most this many of the last lines [default: all that are kept]
    #[arg(short = 'n', long, value_name = "LINES")]
    lines: Option<usize>,
    /// JSON is one object per line
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

impl Logs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { target: Target { group, number }, follow, lines, output, connection } = self;
        let mut client = connection.client();
        let mut query = WorkerOutputQuery::new(group, number, None);
        let reply = client.worker_output(query.clone())?;
        let first = lines.map_or(0, |lines| reply.lines.len().saturating_sub(lines));
        print(&reply.lines[first..], output)?;
        query.after = Some(reply.last);
        if follow { follow_on(&mut client, query, output) } else { Ok(()) }
    }
}

/// Prints new output, also of the next sidecar.
fn follow_on(client: &mut Client, mut query: WorkerOutputQuery, output: Output) -> anyhow::Result<()> {
    let mut waits = false;
    loop {
        sleep(LOOK_INTERVAL);
        let reply = match client.worker_output(query.clone()) {
            Ok(reply) => reply,
            Err(error @ (Error::NotFound(_) | Error::Denied(_) | Error::Invalid(_))) => return Err(error.into()),
            Err(error) => {
                if !std::mem::replace(&mut waits, true) {
                    let error = text::printable(error.to_string().as_bytes());
                    eprintln!("roster: {error}; waiting for the sidecar to return");
                }
                continue;
            }
        };
        waits = false;
        let is_new = query.after > Some(reply.last);
        query.after = Some(if is_new { 0 } else { reply.last });
        if reply.missed > 0 {
            eprintln!("roster: {} came too fast to be kept", counted(reply.missed.unsigned_abs(), "line"));
        }
        print(&reply.lines, output)?;
    }
}

fn print(lines: &[WorkerLine], output: Output) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in lines {
        match output {
            Output::Table => writeln!(out, "{}", shown(line))?,
            Output::Json => writeln!(out, "{}", text::printable_json(&document(line).to_string()))?,
        }
    }
    out.flush()
}

fn document(line: &WorkerLine) -> serde_json::Value {
    json!({
        "number": line.number,
        "time": line.time,
        "worker": line.worker,
        "isError": line.is_error,
        "text": line.text,
    })
}

pub(super) fn shown(line: &WorkerLine) -> String {
    let mark = if line.is_error { '!' } else { '|' };
    format!("{} {} {mark} {}", text::time(line.time), text::line(&line.worker), text::line(&line.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_whose_it_is_and_where_it_was_printed() {
        let line = |is_error, text: &str| WorkerLine::new(7, 1_700_000_000_000, "web/1".into(), is_error, text.into());
        assert_eq!(shown(&line(false, "ready")), "2023-11-14T22:13:20Z web/1 | ready");
        assert_eq!(shown(&line(true, "no\u{1b}[2J")), "2023-11-14T22:13:20Z web/1 ! no\\u{1b}[2J");
        assert_eq!(document(&line(true, "no"))["isError"], true);
    }
}
