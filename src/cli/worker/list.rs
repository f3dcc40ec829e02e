//! `roster worker list`: the state of each worker.

use std::io::{self, Write};
use std::time::SystemTime;

use clap::Args;
use roster::clock::millis_since_1970;
use roster::thrift::idl::{Worker, WorkerState, WorkersQuery};
use serde_json::{Value, json};

use super::Target;
use crate::cli::connection::Connection;
use crate::cli::{Output, json, text};

/// List the workers and the state of each
#[derive(Debug, Args)]
pub(super) struct List {
    /// Only these groups, or this worker
    #[arg(value_name = "NAME[/N]", value_parser = Target::parse)]
    target: Option<Target>,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

impl List {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let query = self.target.map_or_else(WorkersQuery::default, |target| target.query());
        let query = WorkersQuery { usage: Some(true), ..query };
        let workers = super::read(&mut self.connection.client(), query)?;
        match self.output {
            Output::Table => io::stdout().write_all(table(&workers, now()).as_bytes())?,
            Output::Json => json::print(&json!({ "workers": workers.iter().map(document).collect::<Vec<_>>() }))?,
        }
        Ok(())
    }
}

/// What is absent in the reply is `null`.
pub(crate) fn document(worker: &Worker) -> Value {
    json!({
        "name": worker.name,
        "group": worker.group,
        "number": worker.number,
        "state": json::worker_state(worker.state),
        "sinceMs": worker.since_ms,
        "restarts": worker.restarts,
        "why": worker.why,
        "pid": worker.pid,
        "retiring": worker.retiring.as_deref().unwrap_or_default(),
        "memoryBytes": worker.memory_bytes,
        "processorMs": worker.processor_ms,
        "calls": worker.calls,
        "doing": worker.doing,
        "doingSinceMs": worker.doing_since_ms,
        "job": worker.job,
    })
}

/// As of `now`, in ms since 1970.
fn table(workers: &[Worker], now: i64) -> String {
    let heading = ["WORKER", "PID", "STATE", "SINCE", "RESTARTS", "MEMORY", "CPU", "CALLS", "DOING", "WHY"];
    text::table(
        heading,
        &["PID", "RESTARTS", "MEMORY", "CPU", "CALLS"],
        &workers.iter().flat_map(|worker| rows(worker, now)).collect::<Vec<_>>(),
    )
}

/// One for itself, and one for each replaced process that has not ended.
fn rows(worker: &Worker, now: i64) -> Vec<[String; 10]> {
    let own = [
        worker.name.clone(),
        worker.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
        json::worker_state(worker.state),
        text::time(worker.since_ms),
        worker.restarts.to_string(),
        worker.memory_bytes.map_or_else(unknown, text::size),
        worker.processor_ms.map_or_else(unknown, text::duration),
        worker.calls.map_or_else(unknown, |calls| calls.to_string()),
        doing(worker, now),
        why(worker),
    ];
    let retiring = worker.retiring.iter().flatten().map(|pid| {
        let state = json::worker_state(WorkerState::STOPPING);
        let [name, why] = [worker.name.clone(), "it was replaced".to_owned()];
        let [since, restarts, memory, processor, calls, doing] = std::array::from_fn(|_| unknown());
        [name, pid.to_string(), state, since, restarts, memory, processor, calls, doing, why]
    });
    std::iter::once(own).chain(retiring).collect()
}

/// The reason, and where there may be more about it.
fn why(worker: &Worker) -> String {
    let has_failed = matches!(worker.state, WorkerState::BACKOFF | WorkerState::FATAL);
    let more = format!("; `roster worker logs {}` shows what it printed", worker.name);
    worker.why.clone() + if has_failed { &more } else { "" }
}

fn now() -> i64 {
    millis_since_1970(SystemTime::now()) as i64
}

fn unknown() -> String {
    "-".into()
}

/// The call that has been under way the longest, or the job, and how long.
fn doing(worker: &Worker, now: i64) -> String {
    let Some((doing, since)) = worker.doing.as_ref().zip(worker.doing_since_ms) else { return unknown() };
    format!("{doing} {}", text::duration((now - since).max(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_shown_with_its_state_and_why() {
        let worker = |number, state, why: &str, pid| {
            let name = format!("web/{number}");
            Worker::new(
                name,
                "web".into(),
                number,
                state,
                1_700_000_000_000,
                3,
                why.into(),
                pid,
                None,
                None,
                None,
                None,
                None,
                None,
                None,
            )
        };
        let replaced = worker(1, WorkerState::RUNNING, "", Some(4711));
        let workers = [
            Worker {
                memory_bytes: Some(26 << 20),
                processor_ms: Some(1_250),
                calls: Some(2),
                doing: Some("mail.send".into()),
                doing_since_ms: Some(1_700_000_000_000),
                retiring: Some(vec![4700]),
                ..replaced
            },
            worker(2, WorkerState::FATAL, "it ended with code 1", None),
            worker(3, WorkerState(99), "", None),
        ];
        assert_eq!(
            table(&workers, 1_700_000_062_500),
            "\
WORKER   PID  STATE     SINCE                 RESTARTS    MEMORY  CPU  CALLS  DOING            WHY
web/1   4711  RUNNING   2023-11-14T22:13:20Z         3  26.0 MiB   1s      2  mail.send 1m 2s
web/1   4700  STOPPING  -                            -         -    -      -  -                it was replaced
web/2      -  FATAL     2023-11-14T22:13:20Z         3         -    -      -  -                it ended with code 1; `roster worker logs web/2` shows what it printed
web/3      -  99        2023-11-14T22:13:20Z         3         -    -      -  -
"
        );
        let [first, second] = [document(&workers[0]), document(&workers[1])];
        assert_eq!((&second["state"], &second["pid"]), (&json!("FATAL"), &Value::Null));
        assert_eq!((&first["retiring"], &second["retiring"]), (&json!([4700]), &json!([])));
    }
}
