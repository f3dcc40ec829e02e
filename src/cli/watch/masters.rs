//! Following masters.

use roster::thrift::client::Client;
use roster::thrift::idl::{Master, ServiceQuery};
use serde_json::Value;

use super::{News, POLL, Subject, Tell};
use crate::cli::{json, masters};

/// All masters.
pub(super) struct Masters;

impl Subject for Masters {
    fn present(&mut self, client: &mut Client, tell: Tell<'_>) -> anyhow::Result<i64> {
        let mut first = None;
        let mut query = ServiceQuery::default();
        loop {
            let page = client.masters(query.clone())?;
            for master in &page.masters {
                tell(news(page.freshness.revision, "PRESENT".into(), &master.id, Some(master)))?;
            }
            let since = *first.get_or_insert(page.freshness.revision);
            match page.cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(since),
            }
        }
    }

    fn changes(&mut self, client: &mut Client, since: i64, tell: Tell<'_>) -> anyhow::Result<Option<i64>> {
        let reply = client.watch_masters(since, POLL)?;
        let revision = reply.freshness.revision;
        if reply.reset {
            tell(News::reset(revision))?;
            return Ok(None);
        }
        for change in &reply.changes {
            tell(news(revision, json::change_kind(change.kind), &change.id, change.master.as_ref()))?;
        }
        Ok(Some(revision))
    }
}

fn news(revision: i64, kind: String, id: &str, master: Option<&Master>) -> News {
    let fields = match master.map(masters::document) {
        Some(Value::Object(fields)) => fields,
        _ => [("id".to_owned(), id.into())].into_iter().collect(),
    };
    let preview =
        master.map(|master| format!("{} {}", master.peer_address, masters::offers(master))).unwrap_or_default();
    News { revision, kind, name: id.to_owned(), preview, fields }
}
