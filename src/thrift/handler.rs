//! The handler: answers each method from the newest snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::convert;
use super::idl::{self, InvalidRequest, NotFound, NotReady, ReadOptions, TooStale};
use super::{Config, ZkData};
use crate::metrics::Metrics;
use crate::model::{Freshness, NodePath, Revision};
use crate::store::{Feed, Filled, Room, Since, Snapshot, Store};
use crate::task::Stop;

/// A page or a list of changes holds at most so many nodes, whatever the client asks for.
const MAX_PAGE: usize = 10_000;

/// Answers questions from the newest snapshot.
#[derive(Debug)]
pub(super) struct Desk {
    store: Arc<Store>,
    zk_data: NodePath,
    config: Config,
    metrics: Arc<Metrics>,
    started: Instant,
}

/// The arguments of `watch`, checked.
#[derive(Debug)]
pub(super) struct Watch {
    since: Revision,
    paths: Vec<NodePath>,
    timeout: Duration,
    limit: usize,
}

impl Desk {
    pub(super) fn new(config: &Config, zk_data: &ZkData, store: Arc<Store>, metrics: Arc<Metrics>) -> Self {
        Self { store, zk_data: zk_data.path.clone(), config: config.clone(), metrics, started: Instant::now() }
    }

    /// Counts an answer that is an exception, and passes it on.
    pub(super) fn counted<T>(&self, answer: thrift::Result<T>) -> thrift::Result<T> {
        if answer.is_err() {
            self.count_exception();
        }
        answer
    }

    pub(super) fn count_exception(&self) {
        self.metrics.exceptions.increment();
    }

    pub(super) fn zk_data(&self) -> thrift::Result<Vec<u8>> {
        let snapshot = self.store.snapshot();
        let unanswered = |message: String| {
            let kind = thrift::ApplicationErrorKind::InternalError;
            thrift::Error::Application(thrift::ApplicationError::new(kind, message))
        };
        if let Some(node) = snapshot.node(&self.zk_data) {
            return Ok(node.data.to_vec());
        }
        Err(match waited_for(&snapshot, &self.zk_data) {
            Some(feed) => unanswered(format!("not ready: waiting for {}: {}", feed.name(), feed.detail())),
            None => unanswered(format!("not found: {}", absence(&snapshot, &self.zk_data))),
        })
    }

    pub(super) fn get(&self, path: &str, options: &ReadOptions) -> thrift::Result<idl::NodeReply> {
        let (path, snapshot) = (parse("path", path)?, self.store.snapshot());
        let freshness = fresh_enough(&snapshot, &[&path], options)?;
        let node = snapshot.node(&path).ok_or_else(|| not_found(&snapshot, &path, freshness))?;
        Ok(idl::NodeReply { node: convert::node(&path, node), freshness: freshness.into() })
    }

    pub(super) fn get_many(&self, paths: &[String], options: &ReadOptions) -> thrift::Result<idl::NodesReply> {
        let paths: Vec<NodePath> = paths.iter().map(|path| parse("paths", path)).collect::<Result<_, _>>()?;
        let snapshot = self.store.snapshot();
        let freshness = fresh_enough(&snapshot, &paths.iter().collect::<Vec<_>>(), options)?;
        let (mut nodes, mut bytes) = (BTreeMap::new(), 0);
        for (path, node) in paths.iter().filter_map(|path| Some((path, snapshot.node(path)?))) {
            bytes += convert::node_size(path, node);
            if bytes > self.max_reply() {
                return Err(invalid("paths", "the reply would be larger than max_reply allows; ask for fewer"));
            }
            nodes.insert(path.to_string(), convert::node(path, node));
        }
        Ok(idl::NodesReply { nodes, freshness: freshness.into() })
    }

    pub(super) fn children(&self, path: &str, options: &ReadOptions) -> thrift::Result<idl::ChildrenReply> {
        let (path, snapshot) = (parse("path", path)?, self.store.snapshot());
        let freshness = fresh_enough(&snapshot, &[&path], options)?;
        let names: Vec<String> = snapshot.children(&path).map(str::to_owned).collect();
        if names.is_empty() && snapshot.node(&path).is_none() {
            return Err(not_found(&snapshot, &path, freshness));
        }
        Ok(idl::ChildrenReply { names, freshness: freshness.into() })
    }

    pub(super) fn subtree(
        &self,
        path: &str,
        limit: i32,
        cursor: &str,
        options: &ReadOptions,
    ) -> thrift::Result<idl::SubtreeReply> {
        let path = parse("path", path)?;
        let limit = page_size(limit)?;
        let after = if cursor.is_empty() { None } else { Some(parse("cursor", cursor)?) };
        if after.as_ref().is_some_and(|after| !after.is_under(&path)) {
            return Err(invalid("cursor", "it is of another path; pass the one that the page before said"));
        }
        let snapshot = self.store.snapshot();
        let freshness = fresh_enough(&snapshot, &[&path], options)?;
        let (mut nodes, mut bytes, mut cursor) = (Vec::new(), 0, None);
        let from = after.clone().unwrap_or_else(|| path.clone());
        for (at, node) in snapshot.subtree(&path, from).filter(|(at, _)| Some(*at) != after.as_ref()) {
            bytes += convert::node_size(at, node);
            if nodes.len() == limit || (bytes > self.max_reply() / 2 && !nodes.is_empty()) {
                cursor = nodes.last().map(|last: &idl::Node| last.path.clone());
                break;
            }
            nodes.push(convert::node(at, node));
        }
        Ok(idl::SubtreeReply { nodes, cursor, freshness: freshness.into() })
    }

    /// Checks what `watch` was asked.
    pub(super) fn watch(&self, since: i64, paths: &[String], timeout_ms: i32, limit: i32) -> thrift::Result<Watch> {
        let since = Revision::try_from(since).map_err(|_| invalid("since", "a revision is not below 0"))?;
        let timeout = u64::try_from(timeout_ms).map_err(|_| invalid("timeoutMs", "it is not below 0"))?;
        let mut paths: Vec<NodePath> = paths.iter().map(|path| parse("paths", path)).collect::<Result<_, _>>()?;
        if paths.is_empty() {
            paths.push(NodePath::root());
        }
        let snapshot = self.store.snapshot();
        if let Some(path) = paths.iter().find(|path| snapshot.behind(path).next().is_none()) {
            return Err(invalid("paths", &absence(&snapshot, path)));
        }
        let timeout = Duration::from_millis(timeout).min(self.config.max_watch);
        Ok(Watch { since, paths, timeout, limit: page_size(limit)? })
    }

    /// Waits for what `watch` waits for. A stop answers as the time-out does.
    pub(super) async fn wait(&self, watch: Watch, stop: &Stop) -> thrift::Result<idl::WatchReply> {
        let _waiting = self.metrics.watches_waiting.hold();
        let subscription = self.store.subscribe(&watch.paths);
        let deadline = tokio::time::sleep(watch.timeout);
        tokio::pin!(deadline);
        let mut since = watch.since;
        loop {
            let reply = self.changes(&watch, since)?;
            if reply.reset || !reply.changes.is_empty() {
                return Ok(reply);
            }
            since = reply.freshness.revision as Revision;
            tokio::select! {
                () = subscription.changed() => {}
                () = &mut deadline => return self.changes(&watch, since),
                () = stop.requested() => return Ok(reply),
            }
        }
    }

    fn changes(&self, watch: &Watch, since: Revision) -> thrift::Result<idl::WatchReply> {
        let snapshot = self.store.snapshot();
        // Not the default options: in the generated code, those allow no age at all.
        let any_age = ReadOptions::new(None);
        let fresh = fresh_enough(&snapshot, &watch.paths.iter().collect::<Vec<_>>(), &any_age)?;
        let room = Room { changes: watch.limit, bytes: self.max_reply() / 2 };
        let (changes, reset, revision) = match snapshot.changes_since(since, &watch.paths, room) {
            Since::Unknown => (Vec::new(), true, fresh.revision),
            Since::Known { changes, upto } => (changes, false, upto),
        };
        let changes = changes.into_iter().map(|(path, kind, node)| idl::Change {
            path: path.to_string(),
            kind: kind.into(),
            node: node.map(|node| convert::node(&path, &node)),
        });
        let freshness = Freshness { revision, ..fresh }.into();
        Ok(idl::WatchReply { changes: changes.collect(), reset, freshness })
    }

    pub(super) fn status(&self) -> thrift::Result<idl::StatusReply> {
        let snapshot = self.store.snapshot();
        let feeds = || snapshot.behind_all();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
        Ok(idl::StatusReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: self.started.elapsed().as_millis() as i64,
            freshness: snapshot.freshness(feeds()).into(),
            sources: feeds().map(|(feed, filled)| convert::source(feed, filled, now)).collect(),
            counters: self.metrics.named().into_iter().map(|(name, n)| (name.to_owned(), n as i64)).collect(),
            limits: self.limits().into_iter().map(|(name, n)| (name.to_owned(), n as i64)).collect(),
        })
    }

    fn limits(&self) -> [(&'static str, u64); 10] {
        let config = &self.config;
        [
            ("maxConnections", config.max_connections as u64),
            ("maxConnectionsPerUser", config.max_connections_per_user as u64),
            ("maxWatches", config.max_watches as u64),
            ("maxRequestBytes", config.max_request.as_u64()),
            ("maxReplyBytes", config.max_reply.as_u64()),
            ("maxWaitingReplyBytes", config.max_waiting_replies.as_u64()),
            ("maxStringBytes", config.max_string.as_u64()),
            ("maxContainer", config.max_container as u64),
            ("maxDepth", config.max_depth as u64),
            ("maxWatchMs", config.max_watch.as_millis() as u64),
        ]
    }

    fn max_reply(&self) -> usize {
        self.config.max_reply.as_u64() as usize
    }
}

/// How fresh an answer about `paths` is, if it can be given: every source behind it has been read as a whole, and
/// none is older than the client allows.
fn fresh_enough(snapshot: &Snapshot, paths: &[&NodePath], options: &ReadOptions) -> thrift::Result<Freshness> {
    if let Some(feed) = paths.iter().find_map(|path| waited_for(snapshot, path)) {
        let message = format!("waiting for {}: {}", feed.name(), feed.detail());
        return Err(NotReady { source: feed.name().to_owned(), message }.into());
    }
    let behind = || snapshot.behind_all().filter(|(feed, _)| paths.iter().any(|path| feed.is_behind(path)));
    let freshness = snapshot.freshness(behind());
    let max = options.max_age_ms.unwrap_or(i64::MAX);
    if freshness.age.as_millis() as i64 > max {
        let oldest = behind().map(|(feed, _)| feed).max_by_key(|feed| feed.age());
        let why = oldest.map(|feed| format!("{} is {}: {}", feed.name(), feed.state(), feed.detail()));
        let age_ms = freshness.age.as_millis() as i64;
        return Err(TooStale { age_ms, max_age_ms: max, message: why.unwrap_or_default() }.into());
    }
    Ok(freshness)
}

/// A feed behind `path` of which nothing whole is known yet.
fn waited_for<'a>(snapshot: &'a Snapshot, path: &'a NodePath) -> Option<&'a Feed> {
    snapshot.behind(path).find(|(_, Filled { whole, .. })| !whole).map(|(feed, _)| feed)
}

fn absence(snapshot: &Snapshot, path: &NodePath) -> String {
    match snapshot.behind(path).next() {
        Some(_) => format!("there is no node {path}"),
        None => format!("no source mirrors {path}; `status` tells the roots of each"),
    }
}

fn not_found(snapshot: &Snapshot, path: &NodePath, freshness: Freshness) -> thrift::Error {
    let message = absence(snapshot, path);
    NotFound { path: path.to_string(), message, freshness: freshness.into() }.into()
}

fn page_size(limit: i32) -> thrift::Result<usize> {
    match usize::try_from(limit) {
        Ok(0) => Ok(MAX_PAGE),
        Ok(limit) => Ok(limit.min(MAX_PAGE)),
        Err(_) => Err(invalid("limit", "it is not below 0")),
    }
}

fn parse(field: &str, path: &str) -> thrift::Result<NodePath> {
    NodePath::parse(path).map_err(|why| invalid(field, &format!("`{}`: {why}", path.escape_debug())))
}

fn invalid(field: &str, message: &str) -> thrift::Error {
    InvalidRequest { field: field.to_owned(), message: message.to_owned() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Change, Node};
    use crate::store::FeedState;
    use crate::task::Tasks;

    #[tokio::test]
    async fn a_watch_goes_on_while_its_source_is_away() {
        let feed = Feed::new("test", "file", vec![NodePath::root()]);
        let store = Store::new(&Default::default(), vec![feed], Arc::default());
        let publisher = store.publisher(0);
        let start = publisher.publish_whole(vec![]);
        publisher.feed().prove(Instant::now());
        publisher.feed().enter(FeedState::Down, "gone");
        while publisher.feed().age().is_none_or(|age| age.as_millis() == 0) {
            tokio::task::yield_now().await;
        }
        publisher.publish(vec![Change::Put(NodePath::root(), Arc::new(Node::default()))]);
        let desk = Desk::new(&Config::default(), &ZkData::default(), store.clone(), Arc::default());
        let watch = desk.watch(start as i64, &[], 1_000, 0).expect("a request that makes sense");
        let reply = desk.wait(watch, &Tasks::new().0.stop_signal()).await.expect("a reply");
        assert_eq!(reply.changes.len(), 1);
        assert!(reply.freshness.age_ms > 0);
    }
}
