//! `roster worker list`: what each of them is doing.

use std::io::{self, Write};

use clap::Args;
use roster::thrift::idl::{Worker, WorkerState, WorkersQuery};
use serde_json::{Value, json};

use super::Target;
use crate::cli::connection::Connection;
use crate::cli::{Output, json, text};

/// List the workers, and what each of them is doing
#[derive(Debug, Args)]
pub(super) struct List {
    /// Only these, or only this one
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
        let workers = super::read(&mut self.connection.client(), query)?;
        match self.output {
            Output::Table => io::stdout().write_all(table(&workers).as_bytes())?,
            Output::Json => json::print(&json!({ "workers": workers.iter().map(document).collect::<Vec<_>>() }))?,
        }
        Ok(())
    }
}

/// What is absent in the reply is `null`.
fn document(worker: &Worker) -> Value {
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
    })
}

fn table(workers: &[Worker]) -> String {
    let heading = ["WORKER", "PID", "STATE", "SINCE", "RESTARTS", "WHY"];
    text::table(heading, &["PID", "RESTARTS"], &workers.iter().flat_map(rows).collect::<Vec<_>>())
}

/// One of its own, and one for each process that was replaced and has not ended.
fn rows(worker: &Worker) -> Vec<[String; 6]> {
    let own = [
        worker.name.clone(),
        worker.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
        json::worker_state(worker.state),
        text::time(worker.since_ms),
        worker.restarts.to_string(),
        worker.why.clone(),
    ];
    let retiring = worker.retiring.iter().flatten().map(|pid| {
        let state = json::worker_state(WorkerState::STOPPING);
        [worker.name.clone(), pid.to_string(), state, "-".into(), "-".into(), "it was replaced".into()]
    });
    std::iter::once(own).chain(retiring).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_shown_with_its_state_and_why() {
        let worker = |number, state, why: &str, pid| {
            let name = format!("web/{number}");
            Worker::new(name, "web".into(), number, state, 1_700_000_000_000, 3, why.into(), pid, None)
        };
        let replaced = worker(1, WorkerState::RUNNING, "", Some(4711));
        let workers = [
            Worker { retiring: Some(vec![4700]), ..replaced },
            worker(2, WorkerState::FATAL, "it ended with code 1", None),
            worker(3, WorkerState(99), "", None),
        ];
        assert_eq!(
            table(&workers),
            "\
WORKER   PID  STATE     SINCE                 RESTARTS  WHY
web/1   4711  RUNNING   2023-11-14T22:13:20Z         3
web/1   4700  STOPPING  -                            -  it was replaced
web/2      -  FATAL     2023-11-14T22:13:20Z         3  it ended with code 1
web/3      -  99        2023-11-14T22:13:20Z         3
"
        );
        let [first, second] = [document(&workers[0]), document(&workers[1])];
        assert_eq!((&second["state"], &second["pid"]), (&json!("FATAL"), &Value::Null));
        assert_eq!((&first["retiring"], &second["retiring"]), (&json!([4700]), &json!([])));
    }
}
