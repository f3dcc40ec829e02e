//! The API: answers each method; in this file those about coordination nodes, from the newest snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::slice;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::accounts::Accounts;
use super::convert;
use super::dispatch::FoundNode;
use super::idl::{
    self, AccessDenied, ChildrenRequest, EntityKind, GetManyRequest, GetRequest, InvalidRequest, NotFound, NotReady,
    SubtreeRequest, TooStale,
};
use super::methods::METHODS;
use super::{Config, Peer, ZkData};
use crate::access::{Denied, Grant};
use crate::call::{Caller, OVERLOADED};
use crate::clock::millis_since_1970;
use crate::history::History;
use crate::metrics::Metrics;
use crate::model::{Freshness, Node, NodePath, Revision};
use crate::queue::Queues;
use crate::store::{Feed, FeedProgress, Snapshot, Store, no_node};
use crate::withhold::Withholder;
use crate::worker::Workers;

/// The most entries and bytes of a page, whatever the client asks for: no more than can be found, copied and written in
/// a millisecond or two, since meanwhile the thread answers nobody else.
const MAX_PAGE: usize = 4_000;
const MAX_PAGE_BYTES: usize = 128 * 1024;

/// The most bytes of a reply without pages.
const MAX_WHOLE_BYTES: usize = 2 * 1024 * 1024;

pub(super) const NO_REVISION: &str = "a revision is not below 0";

/// What a name takes besides its bytes.
pub(super) const NAME_OVERHEAD: usize = 48;

/// How many names of children are collected per turn.
const NAMES_PER_TURN: usize = 1_000;

/// Answers questions from the newest snapshot, and calls masters.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) store: Arc<Store>,
    pub(super) caller: Arc<Caller>,
    pub(super) accounts: Arc<Accounts>,
    pub(super) config: Config,
    pub(super) metrics: Arc<Metrics>,
    pub(super) workers: Arc<Workers>,
    pub(super) withholder: Arc<Withholder>,
    pub(super) history: Arc<History>,
    pub(super) queues: Arc<Queues>,
    zk_data: NodePath,
    started: Instant,
}

/// The request of `subtree`, checked.
#[derive(Debug)]
pub(super) struct Subtree {
    path: NodePath,
    /// Its subtrees that cover everything readable.
    roots: Vec<NodePath>,
    limit: usize,
    after: Option<NodePath>,
    max_age_ms: Option<i64>,
}

/// The request of `children`, checked.
#[derive(Debug)]
pub(super) struct Children {
    path: NodePath,
    after: Option<String>,
    /// The most names of a page; None: all are to be returned at once.
    page: Option<usize>,
    max_age_ms: Option<i64>,
}

/// What an answer is about, which determines its sources.
#[derive(Clone, Copy)]
pub(super) enum Subject<'a> {
    Node(&'a NodePath),
    Nodes(&'a [NodePath]),
    Masters,
    /// Masters, and instances registered by nodes.
    Instances,
}

/// A page of nodes under construction.
struct Page {
    nodes: Vec<idl::Node>,
    bytes: usize,
    limit: usize,
    most: usize,
    /// Where the next one begins, if this one is full.
    cursor: Option<String>,
}

impl Api {
    pub(super) fn new(
        config: &Config,
        zk_data: &ZkData,
        store: Arc<Store>,
        accounts: Arc<Accounts>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            withholder: Withholder::idle(&store),
            caller: Arc::new(Caller::new(store.clone(), metrics.clone())),
            store,
            accounts,
            config: config.clone(),
            metrics,
            workers: Arc::default(),
            history: Arc::default(),
            queues: Arc::default(),
            zk_data: zk_data.path.clone(),
            started: Instant::now(),
        }
    }

    pub(super) fn count_exception(&self) {
        self.metrics.exceptions.increment();
    }

    pub(super) fn zk_data(&self, peer: &Peer) -> thrift::Result<Arc<Node>> {
        let unanswered = |message: String| {
            let kind = thrift::ApplicationErrorKind::InternalError;
            thrift::Error::Application(thrift::ApplicationError::new(kind, message))
        };
        peer.identity.may_read(&self.zk_data).map_err(|denied| unanswered(denied.to_string()))?;
        let snapshot = self.store.snapshot();
        if let Some(node) = snapshot.node(&self.zk_data) {
            return Ok(node.clone());
        }
        Err(match waited_for(snapshot.behind(slice::from_ref(&self.zk_data))) {
            Some(feed) => unanswered(feed.with_detail(format!("not ready: waiting for {}", feed.name()))),
            None => unanswered(format!("not found: {}", absence(&snapshot, &self.zk_data))),
        })
    }

    pub(super) fn get(&self, peer: &Peer, request: &GetRequest) -> thrift::Result<FoundNode> {
        let path = parse("path", &request.path)?;
        peer.identity.may_read(&path).map_err(denied)?;
        let (snapshot, freshness) = self.fresh(Subject::Node(&path), request.max_age_ms)?;
        let node = snapshot.node(&path).ok_or_else(|| not_found(&snapshot, &path, freshness))?.clone();
        Ok(FoundNode { path, node, freshness: freshness.into() })
    }

    pub(super) fn get_many(&self, peer: &Peer, request: &GetManyRequest) -> thrift::Result<idl::NodesReply> {
        let paths: Vec<NodePath> = request.paths.iter().map(|path| parse("paths", path)).collect::<Result<_, _>>()?;
        paths.iter().try_for_each(|path| peer.identity.may_read(path)).map_err(denied)?;
        let (snapshot, freshness) = self.fresh(Subject::Nodes(&paths), request.max_age_ms)?;
        let (mut nodes, mut bytes) = (BTreeMap::new(), 0);
        let since = request.since.map(Revision::try_from).transpose().map_err(|_| invalid("since", NO_REVISION))?;
        if since.is_some_and(|since| snapshot.is_unchanged(since, &paths)) {
            return Ok(idl::NodesReply { nodes, freshness: freshness.into(), unchanged: Some(true) });
        }
        let asked: BTreeSet<&NodePath> = paths.iter().collect();
        for (path, node) in asked.into_iter().filter_map(|path| Some((path, snapshot.node(path)?))) {
            bytes += convert::node_size(path, node);
            if bytes > self.whole_bytes() && !nodes.is_empty() {
                return Err(invalid("paths", "more than a reply may hold; ask for fewer"));
            }
            nodes.insert(path.to_string(), convert::node(path, node));
        }
        Ok(idl::NodesReply { nodes, freshness: freshness.into(), unchanged: None })
    }

    /// Validates a request of `children`.
    pub(super) fn children_of(&self, peer: &Peer, request: ChildrenRequest) -> thrift::Result<Children> {
        let ChildrenRequest { path, max_age_ms, limit, cursor } = request;
        let path = parse("path", &path)?;
        let is_paged = limit.is_some() || cursor.is_some();
        let page = if is_paged { Some(page_size(limit)?) } else { None };
        if cursor.as_ref().is_some_and(|cursor| cursor.contains('/')) {
            return Err(invalid("cursor", "no page of children ended so"));
        }
        peer.identity.may_list(&path).map_err(denied)?;
        Ok(Children { path, after: cursor, page, max_age_ms })
    }

    /// The names of the children that may be read, or lead to readable nodes. None: they are too many to be returned at
    /// once.
    pub(super) fn children(&self, peer: &Peer, asked: &Children) -> thrift::Result<Option<idl::ChildrenReply>> {
        let (snapshot, freshness) = self.fresh(Subject::Node(&asked.path), asked.max_age_ms)?;
        let mut children = snapshot.children_after(&asked.path, asked.after.as_deref());
        let slice: Vec<&str> =
            children.by_ref().take(asked.page.unwrap_or(NAMES_PER_TURN).min(NAMES_PER_TURN)).collect();
        if slice.is_empty() && asked.after.is_none() && snapshot.node(&asked.path).is_none() {
            return Err(not_found(&snapshot, &asked.path, freshness));
        }
        let bytes: usize = slice.iter().map(|name| name.len()).sum();
        let is_all = children.next().is_none() && bytes <= self.page_bytes();
        let names = slice.into_iter().filter(|name| peer.identity.grant().lists(&asked.path.child(name)));
        let names = names.map(str::to_owned).collect();
        Ok(is_all.then(|| idl::ChildrenReply { names, freshness: freshness.into(), cursor: None }))
    }

    /// The same, over several turns.
    pub(super) async fn many_children(&self, peer: &Peer, asked: &Children) -> thrift::Result<idl::ChildrenReply> {
        let _collecting = peer.account.collecting.lock().await;
        let (snapshot, freshness) = self.fresh(Subject::Node(&asked.path), asked.max_age_ms)?;
        let mut children = snapshot.children_after(&asked.path, asked.after.as_deref());
        let (mut names, mut bytes) = (Vec::<String>::new(), 0);
        let mut charged = peer.account.memory.nothing();
        loop {
            peer.let_others_work().await;
            let slice: Vec<&str> = children.by_ref().take(NAMES_PER_TURN).collect();
            if slice.is_empty() {
                return Ok(idl::ChildrenReply { names, freshness: freshness.into(), cursor: None });
            }
            for name in slice.into_iter().filter(|name| peer.identity.grant().lists(&asked.path.child(name))) {
                bytes += name.len() + 4;
                if self.is_full(asked, names.len(), bytes)? {
                    let cursor = names.last().cloned();
                    return Ok(idl::ChildrenReply { names, freshness: freshness.into(), cursor });
                }
                names.push(name.to_owned());
            }
            if !charged.resize(bytes + names.len() * NAME_OVERHEAD) {
                return Err(overloaded());
            }
        }
    }

    /// Whether a page with this many names, and this many bytes including the next one, is full. Without pages,
    /// exceeding a limit is an error.
    fn is_full(&self, asked: &Children, names: usize, bytes: usize) -> thrift::Result<bool> {
        match asked.page {
            Some(limit) => Ok(names == limit || bytes > self.page_bytes() && names > 0),
            None if bytes > self.whole_bytes() => {
                Err(invalid("path", "more children than a reply may hold; read them in pages, with a `limit`"))
            }
            None => Ok(false),
        }
    }

    /// Validates a request of `subtree`.
    pub(super) fn subtree_of(&self, peer: &Peer, request: &SubtreeRequest) -> thrift::Result<Subtree> {
        let path = parse("path", &request.path)?;
        let limit = page_size(request.limit)?;
        let after = request.cursor.as_deref().map(|cursor| parse("cursor", cursor)).transpose()?;
        if after.as_ref().is_some_and(|after| !after.is_under(&path)) {
            return Err(invalid("cursor", "it is of another path; pass the one that the page before said"));
        }
        peer.identity.may_list(&path).map_err(denied)?;
        self.ensure_room_for_page(peer)?;
        let roots = peer.identity.grant().roots(&path);
        Ok(Subtree { path, roots, limit, after, max_age_ms: request.max_age_ms })
    }

    pub(super) fn subtree(&self, subtree: &Subtree) -> thrift::Result<idl::SubtreeReply> {
        let (snapshot, freshness) = self.fresh(Subject::Node(&subtree.path), subtree.max_age_ms)?;
        let mut page = Page::new(subtree.limit, self.page_bytes());
        let _ = subtree.nodes(&snapshot).try_for_each(|(at, node)| page.add(at, node));
        Ok(page.reply(freshness))
    }

    /// The same, over several turns, if readable nodes have to be searched for.
    pub(super) async fn searched_subtree(&self, peer: &Peer, subtree: &Subtree) -> thrift::Result<idl::SubtreeReply> {
        let _collecting = peer.account.collecting.lock().await;
        let (snapshot, freshness) = self.fresh(Subject::Node(&subtree.path), subtree.max_age_ms)?;
        let mut page = Page::new(subtree.limit, self.page_bytes());
        for (at, node) in subtree.nodes(&snapshot) {
            peer.let_others_work().await;
            if peer.identity.grant().reads(at) && page.add(at, node).is_break() {
                break;
            }
        }
        Ok(page.reply(freshness))
    }

    pub(super) fn status(&self, peer: &Peer) -> thrift::Result<idl::StatusReply> {
        let snapshot = self.store.snapshot();
        let feeds = || snapshot.behind_all();
        let now = millis_since_1970(SystemTime::now()) as i64;
        Ok(idl::StatusReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: self.started.elapsed().as_millis() as i64,
            freshness: snapshot.freshness(feeds()).into(),
            sources: feeds()
                .map(|(feed, progress)| {
                    let source = convert::source(feed, progress, now, peer.identity.grant());
                    with_idle_roots(source, &snapshot, feed, progress, peer.identity.grant())
                })
                .collect(),
            counters: self.counters(&snapshot, peer.identity.grant()).map(|(name, n)| (name, n as i64)).collect(),
            limits: self.limits().into_iter().map(|(name, n)| (name.to_owned(), n as i64)).collect(),
            shared_file_error: self.metrics.shared_trouble.load().as_deref().cloned(),
            access: Some(peer.identity.to_string()),
            ports_taken: Some(self.metrics.ports_taken.get()).filter(|taken| !taken.is_empty()),
            interface_version: Some(idl::INTERFACE_VERSION),
            capabilities: Some(METHODS.iter().map(|method| method.name.to_owned()).collect()),
            workers: self.worker_states(peer.identity.grant()),
            state_error: self.metrics.state_trouble.load().as_deref().cloned(),
        })
    }

    /// Clients that do not see all masters see neither their number nor their activity.
    fn counters(&self, snapshot: &Snapshot, grant: &Grant) -> impl Iterator<Item = (String, u64)> {
        let (directory, sees_all) = (snapshot.directory(), grant.sees_all());
        let held = [
            ("masters", directory.len() as u64),
            ("services", directory.count_of_services() as u64),
            ("undecodableNodes", directory.count_of_undecodable() as u64),
            ("ejected", directory.withholdings().ejected().count() as u64),
            ("drained", directory.withholdings().drained().count() as u64),
            ("heldInstances", directory.guard().count_of_held() as u64),
        ];
        let held = sees_all.then_some(held).into_iter().flatten().chain(self.accounts.gauges());
        let of_queues = (sees_all && self.queues.is_on()).then(|| self.queues.totals().named());
        let held = held.chain(of_queues.into_iter().flatten());
        self.metrics.named(sees_all).chain(held.map(|(name, n)| (name.to_owned(), n)))
    }

    fn limits(&self) -> [(&'static str, u64); 16] {
        let config = &self.config;
        [
            ("maxConnections", config.max_connections as u64),
            ("maxConnectionsPerUser", config.max_connections_per_user as u64),
            ("maxWatches", config.max_watches as u64),
            ("maxWatchPaths", config.max_watch_paths as u64),
            ("maxRequestBytes", config.max_request.as_u64()),
            ("maxReplyBytes", config.max_reply.as_u64()),
            ("maxMemoryBytes", config.max_memory.as_u64()),
            ("maxStringBytes", config.max_string.as_u64()),
            ("maxContainer", config.max_container as u64),
            ("maxDepth", config.max_depth as u64),
            ("maxWatchMs", config.max_watch.as_millis() as u64),
            ("maxCallBytes", config.max_call.as_u64()),
            ("maxCalls", config.max_calls as u64),
            ("maxCallMany", config.max_call_many as u64),
            ("maxCallAll", config.max_call_all as u64),
            ("maxCallMs", config.max_call_time.as_millis() as u64),
        ]
    }

    /// The newest snapshot with the freshness of an answer from it, if one can be given: every source behind it has
    /// been read as a whole, and none is older than the client allows.
    ///
    /// A source vouches for what it has published: what it reports after a newer snapshot does not apply to the one
    /// before. So ages are read before the snapshot.
    pub(super) fn fresh(
        &self,
        subject: Subject<'_>,
        max_age_ms: Option<i64>,
    ) -> thrift::Result<(Arc<Snapshot>, Freshness)> {
        if max_age_ms.is_some_and(|max| max < 0) {
            return Err(invalid("maxAgeMs", "must not be below 0"));
        }
        let before = self.store.snapshot();
        let said = subject.freshness(&before)?;
        let snapshot = self.store.snapshot();
        let fresh = if snapshot.revision() == before.revision() {
            said
        } else {
            let now = subject.freshness(&snapshot)?;
            Freshness { age: said.age.max(now.age), ..now }
        };
        let age_ms = fresh.age.as_millis() as i64;
        match max_age_ms {
            Some(max_age_ms) if age_ms > max_age_ms => {
                Err(TooStale { age_ms, max_age_ms, message: subject.why_stale(&snapshot) }.into())
            }
            _ => Ok((snapshot, fresh)),
        }
    }

    /// Ensures that the user has room for another page, before it is made.
    pub(super) fn ensure_room_for_page(&self, peer: &Peer) -> thrift::Result<()> {
        if peer.account.memory.has_room(self.page_bytes()) {
            return Ok(());
        }
        self.metrics.overloaded.increment();
        Err(overloaded())
    }

    pub(super) fn page_bytes(&self) -> usize {
        MAX_PAGE_BYTES.min(self.max_reply() / 2)
    }

    pub(super) fn whole_bytes(&self) -> usize {
        MAX_WHOLE_BYTES.min(self.max_reply())
    }

    pub(super) fn max_reply(&self) -> usize {
        self.config.max_reply.as_u64() as usize
    }
}

impl Subject<'_> {
    /// The freshness of an answer, if all sources behind it have been read as a whole.
    fn freshness(&self, snapshot: &Snapshot) -> thrift::Result<Freshness> {
        if !matches!(self, Subject::Instances) {
            ensure_known(self.behind(snapshot))?;
            return Ok(snapshot.freshness(self.behind(snapshot)));
        }
        // What one source registers is known without the others, and no older because of them; if nothing is found, all
        // must be known.
        let known = snapshot.freshness(self.behind(snapshot).filter(|(_, progress)| progress.whole));
        Ok(Freshness { complete: known.complete && waited_for(self.behind(snapshot)).is_none(), ..known })
    }

    /// Which source is behind, and why.
    fn why_stale(&self, snapshot: &Snapshot) -> String {
        let oldest = self.behind(snapshot).map(|(feed, _)| feed).max_by_key(|feed| feed.age());
        oldest.map_or_else(String::new, |feed| feed.with_detail(format!("{} is {}", feed.name(), feed.state())))
    }

    fn behind<'s>(&'s self, snapshot: &'s Snapshot) -> impl Iterator<Item = (&'s Feed, FeedProgress)> {
        let paths = match self {
            Subject::Node(path) => slice::from_ref(*path),
            Subject::Nodes(paths) => paths,
            Subject::Masters | Subject::Instances => &[],
        };
        let masters = matches!(self, Subject::Masters).then(|| snapshot.behind_masters());
        let instances = matches!(self, Subject::Instances).then(|| snapshot.behind_instances());
        masters.into_iter().flatten().chain(instances.into_iter().flatten()).chain(snapshot.behind(paths))
    }
}

impl Subtree {
    /// The nodes below, after the previous page; some may not be readable.
    fn nodes<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = (&'a NodePath, &'a Arc<Node>)> {
        let after = self.after.as_ref();
        let from = after.unwrap_or(&self.path);
        let below = self.roots.iter().flat_map(move |root| snapshot.subtree(root, from.max(root).clone()));
        below.filter(move |(at, _)| Some(*at) != after)
    }
}

impl Page {
    fn new(limit: usize, most: usize) -> Self {
        Self { nodes: Vec::new(), bytes: 0, limit, most, cursor: None }
    }

    /// Adds a node, unless the page is full.
    fn add(&mut self, path: &NodePath, node: &Node) -> ControlFlow<()> {
        self.bytes += convert::node_size(path, node);
        if self.nodes.len() == self.limit || (self.bytes > self.most && !self.nodes.is_empty()) {
            self.cursor = self.nodes.last().map(|last| last.path.clone());
            return ControlFlow::Break(());
        }
        self.nodes.push(convert::node(path, node));
        ControlFlow::Continue(())
    }

    fn reply(self, freshness: Freshness) -> idl::SubtreeReply {
        idl::SubtreeReply { nodes: self.nodes, cursor: self.cursor, freshness: freshness.into() }
    }
}

/// Adds which mapped roots register nothing, for clients that may read everything.
fn with_idle_roots(
    source: idl::SourceStatus,
    snapshot: &Snapshot,
    feed: &Feed,
    progress: FeedProgress,
    grant: &Grant,
) -> idl::SourceStatus {
    if !progress.whole || !grant.reads_all(feed.roots()) {
        return source;
    }
    let said = Some(source.detail).filter(|detail| !detail.is_empty());
    let detail = said.into_iter().chain(snapshot.idle_roots(feed)).collect::<Vec<_>>().join("; ");
    idl::SourceStatus { detail, ..source }
}

/// Ensures that each of the feeds has been read as a whole.
pub(super) fn ensure_known<'a>(feeds: impl Iterator<Item = (&'a Feed, FeedProgress)>) -> thrift::Result<()> {
    not_ready(feeds).map_or(Ok(()), |not_ready| Err(not_ready.into()))
}

/// The source that is not known yet, if there is one.
pub(super) fn not_ready<'a>(feeds: impl Iterator<Item = (&'a Feed, FeedProgress)>) -> Option<NotReady> {
    let feed = waited_for(feeds)?;
    let message = feed.with_detail(format!("waiting for {}", feed.name()));
    Some(NotReady { source: feed.name().to_owned(), message })
}

/// A feed that has not been read as a whole yet.
fn waited_for<'a>(mut feeds: impl Iterator<Item = (&'a Feed, FeedProgress)>) -> Option<&'a Feed> {
    feeds.find(|(_, FeedProgress { whole, .. })| !whole).map(|(feed, _)| feed)
}

pub(super) fn absence(snapshot: &Snapshot, path: &NodePath) -> String {
    let behind = snapshot
        .behind(slice::from_ref(path))
        .map(|(feed, progress)| (feed.name(), feed.origin(), progress.skipped_nodes));
    no_node(path, behind)
        .unwrap_or_else(|| format!("no source mirrors {path}; `roster status --all` lists the roots of each"))
}

fn not_found(snapshot: &Snapshot, path: &NodePath, freshness: Freshness) -> thrift::Error {
    let message = absence(snapshot, path);
    NotFound { kind: EntityKind::NODE, name: path.to_string(), message, freshness: freshness.into() }.into()
}

pub(super) fn page_size(limit: Option<i32>) -> thrift::Result<usize> {
    match usize::try_from(limit.unwrap_or(0)) {
        Ok(0) => Ok(MAX_PAGE),
        Ok(limit) => Ok(limit.min(MAX_PAGE)),
        Err(_) => Err(invalid("limit", "must not be below 0")),
    }
}

pub(super) fn parse(field: &str, path: &str) -> thrift::Result<NodePath> {
    NodePath::parse(path).map_err(|why| invalid(field, &format!("`{}`: {why}", path.escape_debug())))
}

pub(super) fn denied(denied: Denied) -> thrift::Error {
    AccessDenied { message: denied.to_string() }.into()
}

/// The error if a user has no room for what it requested.
pub(super) fn overloaded() -> thrift::Error {
    thrift::Error::Application(thrift::ApplicationError::new(thrift::ApplicationErrorKind::InternalError, OVERLOADED))
}

pub(super) fn invalid(field: &str, message: &str) -> thrift::Error {
    InvalidRequest { field: field.to_owned(), message: message.to_owned() }.into()
}
