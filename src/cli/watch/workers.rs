//! Following workers.

use std::time::Duration;

use roster::thrift::client::Client;
use roster::thrift::idl::Worker;
use serde_json::{Map, Value};

use super::{News, POLL, Subject, Tell};
use crate::cli::{json, text, worker};

/// All workers and their state changes. Their revision is the cursor after them.
pub(super) struct Workers;

impl Subject for Workers {
    fn present(&mut self, client: &mut Client, tell: Tell<'_>) -> anyhow::Result<i64> {
        let mut since = 0;
        loop {
            let reply = client.watch_workers(since, Duration::ZERO)?;
            if reply.changes.is_empty() || reply.reset {
                return Ok(if reply.reset { since } else { reply.cursor });
            }
            reply.changes.iter().try_for_each(|worker| tell(news(reply.cursor, "PRESENT", worker)))?;
            since = reply.cursor;
        }
    }

    fn changes(&mut self, client: &mut Client, since: i64, tell: Tell<'_>) -> anyhow::Result<Option<i64>> {
        let reply = client.watch_workers(since, POLL)?;
        if reply.reset {
            tell(News::reset(reply.cursor))?;
            return Ok(None);
        }
        reply.changes.iter().try_for_each(|worker| tell(news(reply.cursor, "CHANGED", worker)))?;
        reply.removed.iter().try_for_each(|name| tell(removed(reply.cursor, name)))?;
        Ok(Some(reply.cursor))
    }
}

fn news(cursor: i64, kind: &str, worker: &Worker) -> News {
    let fields = match worker::document(worker) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let pid = worker.pid.map_or_else(String::new, |pid| format!(" {pid}"));
    let preview = format!("{}{pid} {}", json::worker_state(worker.state), text::line(&worker.why));
    News { revision: cursor, kind: kind.into(), name: worker.name.clone(), preview, fields }
}

fn removed(cursor: i64, name: &str) -> News {
    let fields = Map::from_iter([("name".to_owned(), name.into())]);
    News { revision: cursor, kind: "DELETED".into(), name: name.to_owned(), preview: String::new(), fields }
}
