//! Following queues.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use roster::thrift::client::Client;
use roster::thrift::idl::QueueSummary;
use serde_json::{Map, Value};

use super::{News, Subject, Tell};
use crate::cli::queue;

/// The sidecar keeps no account of what changes, so it is asked so often.
const POLL: Duration = Duration::from_secs(1);

/// All queues, and what changes in their numbers. They have no revision.
#[derive(Default)]
pub(super) struct Queues {
    told: BTreeMap<String, QueueSummary>,
}

impl Subject for Queues {
    fn present(&mut self, client: &mut Client, tell: Tell<'_>) -> anyhow::Result<i64> {
        self.told.clear();
        self.tell_changes(client, "PRESENT", tell)
    }

    fn changes(&mut self, client: &mut Client, _: i64, tell: Tell<'_>) -> anyhow::Result<Option<i64>> {
        sleep(POLL);
        self.tell_changes(client, "CHANGED", tell).map(Some)
    }
}

impl Queues {
    fn tell_changes(&mut self, client: &mut Client, kind: &str, tell: Tell<'_>) -> anyhow::Result<i64> {
        let (queues, _) = queue::read(client)?;
        let queues: BTreeMap<_, _> = queues.into_iter().map(|queue| (queue.name.clone(), queue)).collect();
        for name in self.told.keys().filter(|name| !queues.contains_key(*name)) {
            tell(removed(name))?;
        }
        for (name, queue) in &queues {
            if self.told.get(name).is_none_or(|told| numbers(told) != numbers(queue)) {
                tell(news(kind, queue))?;
            }
        }
        self.told = queues;
        Ok(0)
    }
}

/// Whose changes are told. The others change whenever time passes.
fn numbers(it: &QueueSummary) -> (bool, [i64; 5]) {
    (it.is_paused, [it.waiting, it.delayed, it.running, it.dead, it.done.unwrap_or(0)])
}

fn news(kind: &str, it: &QueueSummary) -> News {
    let fields = match queue::document(it) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let state = if it.is_paused { "paused" } else { "open" };
    let [waiting, delayed, running, dead, done] = numbers(it).1;
    let preview = format!("{state} waiting={waiting} delayed={delayed} running={running} dead={dead} done={done}");
    News { revision: 0, kind: kind.into(), name: it.name.clone(), preview, fields }
}

fn removed(name: &str) -> News {
    let fields = Map::from_iter([("name".to_owned(), name.into())]);
    News { revision: 0, kind: "DELETED".into(), name: name.to_owned(), preview: String::new(), fields }
}
