//! JSON with the field names of the Thrift interface.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};

use roster::model::{Supply, view};
use roster::thrift::idl::{ChangeKind, Freshness, Node, SourceStatus, StatusReply, WorkerState};
use roster::worker::State;
use serde_json::{Map, Value, json};

use super::text;

/// Prints one document: indented on a terminal, otherwise on one line.
pub(crate) fn print(document: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let text = if out.is_terminal() { format!("{document:#}") } else { document.to_string() };
    writeln!(out, "{}", text::printable_json(&text))
}

pub(crate) fn node(node: &Node) -> Map<String, Value> {
    match json!(view::Node::from(node.clone())) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

pub(crate) fn freshness(freshness: &Freshness) -> Value {
    json!(view::Freshness::from(freshness.clone()))
}

/// The name of a kind of change; one from a newer sidecar has only a number.
pub(crate) fn change_kind(kind: ChangeKind) -> String {
    match kind {
        ChangeKind::CREATED => "CREATED".into(),
        ChangeKind::CHANGED => "CHANGED".into(),
        ChangeKind::DELETED => "DELETED".into(),
        ChangeKind(newer) => newer.to_string(),
    }
}

/// The name of a state; one from a newer sidecar has only a number.
pub(crate) fn worker_state(state: WorkerState) -> String {
    match State::ALL.into_iter().find(|known| WorkerState::from(*known) == state) {
        Some(known) => known.name().to_owned(),
        None => state.0.to_string(),
    }
}

pub(crate) fn status(status: &StatusReply) -> Value {
    json!({
        "version": status.version,
        "interfaceVersion": status.interface_version,
        "capabilities": status.capabilities,
        "uptimeMs": status.uptime_ms,
        "freshness": freshness(&status.freshness),
        "sources": status.sources.iter().map(source).collect::<Vec<_>>(),
        "counters": status.counters,
        "limits": status.limits,
        "sharedFileError": status.shared_file_error,
        "stateError": status.state_error,
        "portsTaken": status.ports_taken.as_deref().unwrap_or_default(),
        "access": status.access,
        "workers": status.workers.as_ref().map(worker_counts),
    })
}

/// How many workers are in each state.
fn worker_counts(workers: &BTreeMap<WorkerState, i32>) -> Map<String, Value> {
    workers.iter().map(|(state, count)| (worker_state(*state), (*count).into())).collect()
}

/// What is absent in the reply is `null`.
fn source(source: &SourceStatus) -> Value {
    json!({
        "name": source.name,
        "kind": source.kind,
        "state": source.state,
        "detail": source.detail,
        "roots": source.roots,
        "session": source.session,
        "lastSync": source.last_sync,
        "ageMs": source.age_ms,
        "nodes": source.nodes,
        "bytes": source.bytes,
        "reconnects": source.reconnects,
        "skippedNodes": source.skipped_nodes,
        "drift": source.drift,
        "supplies": source.supplies.iter().flatten().map(|it| Supply::from(*it)).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use roster::thrift::idl::{Origin, Stat};

    use super::*;

    fn with(data: &[u8]) -> Value {
        node(&Node::new("/a".into(), data.to_vec(), Stat::new(1, 2, 3, 4, 5, 6, 7, 8))).into()
    }

    #[test]
    fn a_node_has_the_names_of_the_interface() {
        assert_eq!(
            with("grüß".as_bytes()).to_string(),
            r#"{"path":"/a","data":"grüß","stat":{"czxid":2,"mzxid":3,"pzxid":4,"ctime":5,"mtime":6,"ephemeralOwner":7,"version":1,"numChildren":8}}"#
        );
    }

    #[test]
    fn data_that_is_not_utf_8_is_base64_under_another_name() {
        assert_eq!(with(b"\xff\x00")["dataBase64"], "/wA=");
        assert_eq!(with(b"\xff\x00").get("data"), None);
        assert_eq!(with(b"")["data"], "");
    }

    #[test]
    fn freshness_has_the_names_of_the_interface() {
        assert_eq!(
            freshness(&Freshness::new(7, 0, Origin::LIVE, true)).to_string(),
            r#"{"revision":7,"ageMs":0,"origin":"LIVE","complete":true}"#
        );
        assert_eq!(freshness(&Freshness::new(7, 0, Origin::RESTORED, false))["origin"], "RESTORED");
    }
}
