//! What calls returned, as it is printed.

use std::io::{self, IsTerminal, Write};

use roster::thrift::idl::{CallError, CallErrorKind, CallOutcome, CallResult};
use serde_json::{Value, json};

use crate::cli::{Output, json, text};

/// Some of the masters, workers or calls returned an error.
#[derive(Debug, thiserror::Error)]
#[error("{failed} of {all} {of} gave no result")]
pub(crate) struct SomeFailed {
    failed: usize,
    all: usize,
    of: &'static str,
}

impl SomeFailed {
    /// Checks the number of failures; 0: success.
    pub(crate) fn check(failed: usize, all: usize, of: &'static str) -> Result<(), Self> {
        if failed > 0 { Err(Self { failed, all, of }) } else { Ok(()) }
    }
}

/// Prints the values of each master, or of each call, after its name; errors go to stderr.
pub(super) fn print_outcomes<'a>(
    outcomes: impl ExactSizeIterator<Item = (&'a str, &'a CallOutcome)> + Clone,
    of: &'static str,
    output: Output,
) -> anyhow::Result<()> {
    if output == Output::Json {
        json::print(&outcomes.clone().map(|(_, it)| outcome(it)).collect())?;
    }
    let (all, mut failed) = (outcomes.len(), 0);
    for (name, outcome) in outcomes {
        let name = text::preview(name.as_bytes());
        match (&outcome.result, &outcome.error) {
            (Some(result), _) if output == Output::Table => print_values(&format!("{name}\t"), &result.values)?,
            (Some(_), _) => {}
            (None, error) => {
                failed += 1;
                let message = error.as_ref().map_or("no result", |error| &error.message);
                eprintln!("roster: {name}: {}", text::printable(message.as_bytes()));
            }
        }
    }
    Ok(SomeFailed::check(failed, all, of)?)
}

pub(crate) fn print_values(before: &str, values: &[Vec<u8>]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for value in values {
        out.write_all(before.as_bytes())?;
        // JSON escapes what moves the cursor, but not invisible characters or those that change the text direction.
        if out.is_terminal() {
            out.write_all(text::printable_json(&String::from_utf8_lossy(value)).as_bytes())?
        } else {
            out.write_all(value)?
        }
        out.write_all(b"\n")?;
    }
    out.flush()
}

pub(super) fn document(result: &CallResult) -> Value {
    let value = |bytes: &Vec<u8>| serde_json::from_slice::<Value>(bytes).unwrap_or(Value::Null);
    json!({
        "values": result.values.iter().map(value).collect::<Vec<_>>(),
        "masterId": result.master_id,
        "durationUs": result.duration_us,
        "attempts": result.attempts,
    })
}

fn outcome(outcome: &CallOutcome) -> Value {
    json!({
        "masterId": outcome.master_id,
        "result": outcome.result.as_ref().map(document),
        "error": outcome.error.as_ref().map(error),
    })
}

fn error(error: &CallError) -> Value {
    let kind = match error.kind {
        CallErrorKind::NO_MASTER => "NO_MASTER".into(),
        CallErrorKind::FAILED => "FAILED".into(),
        CallErrorKind::TIMED_OUT => "TIMED_OUT".into(),
        CallErrorKind::OVERLOADED => "OVERLOADED".into(),
        CallErrorKind::INVALID => "INVALID".into(),
        CallErrorKind::DENIED => "DENIED".into(),
        CallErrorKind(newer) => Value::from(newer),
    };
    json!({
        "kind": kind,
        "message": error.message,
        "className": error.class_name,
        "code": error.code,
        "lost": error.lost,
    })
}
