//! Watches: wait until something is newer than a revision, and report it.

use std::slice;
use std::time::Duration;

use thrift::{ApplicationError, ApplicationErrorKind};

use super::Peer;
use super::api::{Api, NO_REVISION, Subject, absence, denied, invalid, page_size, parse};
use super::convert;
use super::idl::{self, WatchMastersRequest, WatchRequest};
use super::masters::is_visible;
use crate::access::Grant;
use crate::model::{ChangeKind, Freshness, NodePath, Revision};
use crate::store::{ChangesSince, MasterChange, PageLimit};
use crate::task::Stop;

/// The most paths of one watch, each of which a change is compared with.
pub const MAX_PATHS: usize = 1_024;

/// The error for a client whose user watches as much as one user may.
pub(super) const TOO_MANY_WATCHES: &str = "overloaded: this user's watches are as many as one user may have of max_watches, or \
                                their paths of max_watch_paths; try again later";

/// What a watched path takes besides its bytes: here and in the store's subscriptions.
const PATH_OVERHEAD: usize = 256;

/// The default timeout of a watch.
const DEFAULT_TIMEOUT_MS: i32 = 10_000;

/// A request of `watch`, validated.
#[derive(Debug)]
pub(super) struct Watch {
    paths: Vec<NodePath>,
    patience: Patience,
}

/// The common part of all watches, which is all there is to `watchMasters`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    since: Revision,
    timeout: Duration,
    pub(super) limit: usize,
    max_age_ms: Option<i64>,
}

/// An answer, whether it should be returned before the timeout, and whether it is complete up to the present.
pub(super) struct Found<Reply> {
    pub(super) reply: Reply,
    pub(super) is_news: bool,
    pub(super) is_all: bool,
    pub(super) revision: Revision,
}

impl Watch {
    pub(super) fn paths(&self) -> &[NodePath] {
        &self.paths
    }

    /// About how much memory it takes while it waits.
    pub(super) fn memory_size(&self) -> usize {
        self.paths.iter().map(|path| path.as_str().len() * 3 + PATH_OVERHEAD).sum()
    }
}

impl Api {
    /// Validates a request of `watch`.
    pub(super) fn watch(&self, peer: &Peer, request: &WatchRequest) -> thrift::Result<Watch> {
        peer.identity.may_watch().map_err(denied)?;
        let WatchRequest { since, max_age_ms, timeout_ms, limit, .. } = *request;
        let patience = Patience { max_age_ms, ..self.patience(since, timeout_ms, limit)? };
        let paths = request.paths.as_deref().unwrap_or_default();
        if paths.len() > MAX_PATHS {
            return Err(invalid("paths", &format!("more than {MAX_PATHS}; watch what lies above them")));
        }
        let account = &peer.account;
        if !account.watches.has_room(1) || !account.watch_paths.has_room(paths.len()) {
            self.metrics.overloaded.increment();
            return Err(ApplicationError::new(ApplicationErrorKind::InternalError, TOO_MANY_WATCHES).into());
        }
        let mut paths: Vec<NodePath> = paths.iter().map(|path| parse("paths", path)).collect::<Result<_, _>>()?;
        if paths.is_empty() {
            paths.push(NodePath::root());
        }
        paths.iter().try_for_each(|path| peer.identity.may_list(path)).map_err(denied)?;
        paths.sort();
        paths.dedup();
        let snapshot = self.store.snapshot();
        if let Some(path) = paths.iter().find(|path| snapshot.behind(slice::from_ref(path)).next().is_none()) {
            return Err(invalid("paths", &absence(&snapshot, path)));
        }
        Ok(Watch { paths, patience })
    }

    /// Validates a request of `watchMasters`.
    pub(super) fn watch_masters(&self, peer: &Peer, request: &WatchMastersRequest) -> thrift::Result<Patience> {
        peer.identity.may_watch().and_then(|()| peer.identity.may_see_any()).map_err(denied)?;
        let WatchMastersRequest { since, max_age_ms, timeout_ms, limit } = *request;
        Ok(Patience { max_age_ms, ..self.patience(since, timeout_ms, limit)? })
    }

    pub(super) fn patience(
        &self,
        since: Option<i64>,
        timeout_ms: Option<i32>,
        limit: Option<i32>,
    ) -> thrift::Result<Patience> {
        let since = Revision::try_from(since.unwrap_or(0)).map_err(|_| invalid("since", NO_REVISION))?;
        let timeout = u64::try_from(timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS));
        let timeout = timeout.map_err(|_| invalid("timeoutMs", "must not be below 0"))?;
        let timeout = Duration::from_millis(timeout).min(self.config.max_watch);
        Ok(Patience { since, timeout, limit: page_size(limit)?, max_age_ms: None })
    }

    /// Waits for the result of `watch`.
    pub(super) async fn changes(&self, peer: &Peer, watch: &Watch, stop: &Stop) -> thrift::Result<idl::WatchReply> {
        let subscription = self.store.subscribe(&watch.paths);
        let changed = || subscription.changed();
        self.wait(peer, watch.patience, changed, stop, |since| self.changes_since(peer, watch, since)).await
    }

    /// Waits for the result of `watchMasters`.
    pub(super) async fn master_changes(
        &self,
        peer: &Peer,
        patience: Patience,
        stop: &Stop,
    ) -> thrift::Result<idl::MastersWatchReply> {
        let subscription = self.store.subscribe_to_masters();
        let changed = || subscription.changed();
        self.wait(peer, patience, changed, stop, |since| self.masters_since(peer, patience, since)).await
    }

    /// Checks at each change, until there is news or the time is over. A stop answers like the timeout.
    pub(super) async fn wait<Reply, Changed: Future<Output = ()>>(
        &self,
        peer: &Peer,
        patience: Patience,
        changed: impl Fn() -> Changed,
        stop: &Stop,
        ask: impl Fn(Revision) -> thrift::Result<Found<Reply>>,
    ) -> thrift::Result<Reply> {
        let _waiting = self.metrics.watches_waiting.hold();
        let deadline = tokio::time::sleep(patience.timeout);
        tokio::pin!(deadline);
        let (mut since, mut is_late) = (patience.since, false);
        let mut replaced = peer.identity.replaced();
        loop {
            peer.let_others_work().await;
            let told = ask(since)?;
            let is_current = peer.identity.is_current();
            if told.is_news && !is_current {
                return Err(again());
            }
            if told.is_news || is_late || !is_current {
                return Ok(told.reply);
            }
            since = told.revision;
            if !told.is_all {
                continue;
            }
            tokio::select! {
                () = changed() => {}
                _ = replaced.changed() => {}
                () = &mut deadline => is_late = true,
                () = stop.requested() => return Ok(told.reply),
            }
        }
    }

    fn changes_since(&self, peer: &Peer, watch: &Watch, since: Revision) -> thrift::Result<Found<idl::WatchReply>> {
        let (snapshot, fresh) = self.fresh(Subject::Nodes(&watch.paths), watch.patience.max_age_ms)?;
        let since = snapshot.changes_since(since, &watch.paths, self.room(watch.patience));
        let (changes, reset, revision) = told(since, fresh.revision);
        let readable = changes.into_iter().filter(|(path, ..)| peer.identity.grant().reads(path));
        let changes = readable.map(|(path, kind, node)| idl::Change {
            path: path.to_string(),
            kind: kind.into(),
            node: node.map(|node| convert::node(&path, &node)),
        });
        let changes: Vec<_> = changes.collect();
        let is_news = reset || !changes.is_empty();
        let freshness = Freshness { revision, ..fresh }.into();
        let is_all = revision == fresh.revision;
        Ok(Found { reply: idl::WatchReply { changes, reset, freshness }, is_news, is_all, revision })
    }

    fn masters_since(
        &self,
        peer: &Peer,
        patience: Patience,
        since: Revision,
    ) -> thrift::Result<Found<idl::MastersWatchReply>> {
        let (snapshot, fresh) = self.fresh(Subject::Masters, patience.max_age_ms)?;
        let (changes, reset, revision) = told(snapshot.masters_since(since, self.room(patience)), fresh.revision);
        let changes = changes.into_iter().filter_map(|change| master_change(change, peer.identity.grant()));
        let changes: Vec<_> = changes.collect();
        let is_news = reset || !changes.is_empty();
        let freshness = Freshness { revision, ..fresh }.into();
        let is_all = revision == fresh.revision;
        Ok(Found { reply: idl::MastersWatchReply { changes, reset, freshness }, is_news, is_all, revision })
    }

    fn room(&self, patience: Patience) -> PageLimit {
        PageLimit { changes: patience.limit, bytes: (self.page_bytes() * 2).min(self.max_reply() / 2) }
    }
}

/// The answer if rights changed during a wait: the next request is checked with the new ones.
fn again() -> thrift::Error {
    let message = "the access rules were read again meanwhile; ask again";
    thrift::Error::Application(ApplicationError::new(ApplicationErrorKind::InternalError, message))
}

/// A change as a client may see it: a master that it no longer sees is gone.
fn master_change((id, kind, entry): MasterChange, grant: &Grant) -> Option<idl::MasterChange> {
    let is_hidden = entry.as_ref().is_some_and(|entry| !is_visible(entry, grant));
    let (kind, entry) = match kind {
        ChangeKind::Created if is_hidden => return None,
        _ if is_hidden => (ChangeKind::Deleted, None),
        kind => (kind, entry),
    };
    let master = entry.map(|entry| convert::master(&entry, grant));
    Some(idl::MasterChange { id: id.to_string(), kind: kind.into(), master })
}

/// The changes, whether the watcher must start over, and the revision up to which it is informed.
fn told<Changed>(since: ChangesSince<Changed>, now: Revision) -> (Vec<Changed>, bool, Revision) {
    match since {
        ChangesSince::Unknown => (Vec::new(), true, now),
        ChangesSince::Known { changes, upto } => (changes, false, upto),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::accounts::Accounts;
    use super::super::{Config, ZkData};
    use super::*;
    use crate::clock::Moment;
    use crate::model::{Change, Node};
    use crate::store::{Feed, FeedState, Store};
    use crate::task::Tasks;

    #[tokio::test]
    async fn a_watch_goes_on_while_its_source_is_away() {
        let feed = Feed::of_nodes("test", "file", vec![NodePath::root()]);
        let store = Store::new(&Default::default(), vec![feed], Arc::default());
        let publisher = store.publisher(0);
        let start = publisher.publish_whole(vec![]);
        publisher.feed().prove(Moment::now());
        publisher.feed().enter(FeedState::Down, "gone");
        while publisher.feed().age().is_none_or(|age| age.as_millis() == 0) {
            tokio::task::yield_now().await;
        }
        publisher.publish(vec![Change::Put(NodePath::root(), Arc::new(Node::default()))]);
        let api = Api::new(
            &Config::default(),
            &ZkData::default(),
            store.clone(),
            Accounts::new(&Config::default()),
            Arc::default(),
        );
        let request = WatchRequest { since: Some(start as i64), timeout_ms: Some(1_000), ..WatchRequest::default() };
        let watch = api.watch(&Peer::of(&api, None), &request).expect("a request that makes sense");
        let reply = api.changes(&Peer::of(&api, None), &watch, &Tasks::new().0.stop_signal()).await.expect("a reply");
        assert_eq!(reply.changes.len(), 1);
        assert!(reply.freshness.age_ms > 0);
    }

    #[test]
    fn a_path_is_watched_once_and_not_too_many_are() {
        let feed = Feed::of_nodes("test", "file", vec![NodePath::root()]);
        let store = Store::new(&Default::default(), vec![feed], Arc::default());
        let api =
            Api::new(&Config::default(), &ZkData::default(), store, Accounts::new(&Config::default()), Arc::default());
        let watch = |paths: &[String]| {
            let request = WatchRequest { paths: Some(paths.to_vec()), ..WatchRequest::default() };
            api.watch(&Peer::of(&api, None), &request)
        };
        let mut paths: Vec<String> = (0..MAX_PATHS).map(|number| format!("/{}", number / 2)).collect();
        assert_eq!(watch(&paths).expect("as many as there may be").paths.len(), MAX_PATHS / 2);
        paths.push("/one-more".into());
        watch(&paths).expect_err("too many");
    }
}
