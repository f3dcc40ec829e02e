//! Following the commands that masters send unprompted.

use std::time::Duration;

use roster::thrift::client::Client;
use roster::thrift::idl::{MasterMessage, MessagesReply};
use serde_json::{Map, Value, json};

use super::{News, POLL, Subject, Tell};
use crate::cli::text;

/// The messages of all masters. Their revision is the cursor after them.
pub(super) struct Messages;

impl Subject for Messages {
    fn present(&mut self, client: &mut Client, tell: Tell<'_>) -> anyhow::Result<i64> {
        print(client.watch_messages(0, Duration::ZERO)?, tell)
    }

    fn changes(&mut self, client: &mut Client, since: i64, tell: Tell<'_>) -> anyhow::Result<Option<i64>> {
        let reply = client.watch_messages(since, POLL)?;
        if reply.reset {
            // The kept messages were sent to another process than those printed before.
            tell(News::reset(reply.cursor))?;
        }
        print(reply, tell).map(Some)
    }
}

fn print(reply: MessagesReply, tell: Tell<'_>) -> anyhow::Result<i64> {
    if reply.missed > 0 {
        tell(missed(reply.cursor, reply.missed))?;
    }
    for message in &reply.messages {
        tell(news(reply.cursor, message))?;
    }
    Ok(reply.cursor)
}

fn missed(cursor: i64, count: i64) -> News {
    let fields = Map::from_iter([("missed".to_owned(), count.into())]);
    let preview = format!("{count} that are not kept any more");
    News { revision: cursor, kind: "MISSED".into(), name: String::new(), preview, fields }
}

fn news(cursor: i64, MasterMessage { master_id, received_at, message }: &MasterMessage) -> News {
    let content: Value = serde_json::from_slice(message).unwrap_or(Value::Null);
    let fields = json!({ "masterId": master_id, "receivedAt": received_at, "message": content });
    let fields = fields.as_object().cloned().unwrap_or_default();
    News { revision: cursor, kind: "MESSAGE".into(), name: master_id.clone(), preview: text::preview(message), fields }
}
