//! The mirror of one ensemble: it connects, reads everything, follows the changes, and starts over after every loss.
//!
//! ```text
//! CONNECT ─ok─► SYNC ─published─► LIVE
//!    ▲            │ any trouble    │ disconnected, a failed read, a missed heartbeat
//!    │            ▼                ▼
//!    └──ended── DOWN ◄─────────────┘        DOWN ─connected again─► SYNC, never straight to LIVE
//! ```
//!
//! The snapshot is the mirror's only memory: nobody else writes its part, so the mirror knows what the store holds.

mod compare;
mod live;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::time::sleep;

use super::Config;
use super::pace::Pace;
use super::scan::{Budget, quotas};
use super::skipped::{Skipped, SkippedLog};
use crate::clock::Moment;
use crate::model::{Change, Node, NodePath, Revision, counted};
use crate::mutant;
use crate::source::Generation;
use crate::store::{Batch, Feed, FeedProgress, FeedState, Proof, Publisher, left_out};
use crate::task::{Backoff, Reload, Stop, around, random_part};
use crate::zookeeper::{Servers, Session, SessionError, Settings, credentials};

/// How long, more or less, to wait when retrying soon cannot help.
const REFUSED_RETRY_DELAY: Duration = Duration::from_secs(30);

/// After this long in sync, the backoff starts over.
const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(60);

/// The minimum age of a read-only server's data: a server becomes read-only after it has sought a quorum in vain.
const MIN_CUT_OFF_AGE: Duration = Duration::from_secs(5);

const READ_ONLY: &str =
    "mirrors a server that is cut off from its ensemble and serves to read only; what it holds stands";

/// Mirrors one ensemble into the store, until the stop. Nodes from an earlier process that are now excluded are gone
/// when this returns, before anybody can be answered with them.
pub fn run(config: Config, publisher: Publisher, reload: Reload, stop: Stop) -> impl Future<Output = ()> {
    let (skipped, skipped_log) = (Skipped::default(), SkippedLog::default());
    let (pace, earlier) = (Pace::new(config.max_in_flight), Generation::new());
    let settings = config.session();
    let servers = Servers::of(&settings);
    let quotas = quotas(&config, servers.chroot());
    let (held, lost, is_read_only) = (None, false, false);
    let mut mirror = Mirror {
        config,
        settings,
        servers,
        publisher,
        reload,
        skipped,
        skipped_log,
        quotas,
        pace,
        earlier,
        held,
        lost,
        is_read_only,
    };
    mirror.trim();
    async move {
        let publisher = mirror.publisher.clone();
        tokio::select! {
            () = mirror.keep() => {}
            never = publisher.keep_up() => match never {},
            () = stop.requested() => {}
        }
    }
}

struct Mirror {
    config: Config,
    settings: Settings,
    servers: Servers,
    publisher: Publisher,
    reload: Reload,
    skipped: Skipped,
    skipped_log: SkippedLog,
    quotas: Option<NodePath>,
    pace: Pace,
    /// Large nodes that were read before the connection was lost, and could not be published. They are only compared.
    earlier: Generation,
    held: Option<Held>,
    /// Whether it was in sync and no longer is.
    lost: bool,
    /// Whether the server is read-only: then nothing proves that the ensemble still has the same data.
    is_read_only: bool,
}

/// Nodes that are gone from the ensemble, but are kept in case it lost them.
#[derive(Clone, Copy)]
struct Held {
    since: Moment,
    nodes: usize,
}

impl Mirror {
    async fn keep(&mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        self.feed().enter(FeedState::Connecting, format!("connecting to {}", self.config.connect));
        self.note_mirrored();
        loop {
            let trouble = match Session::connect(&self.settings, &self.servers).await {
                Ok((session, driver)) => {
                    let session = session.of_roots(&self.config.roots, self.config.max_nodes.saturating_mul(2));
                    let since = Instant::now();
                    let trouble = tokio::select! {
                        trouble = self.serve(session) => trouble,
                        never = driver.run() => match never {},
                    };
                    self.note_mirrored();
                    if since.elapsed() > BACKOFF_RESET_AFTER {
                        backoff.reset();
                    }
                    trouble
                }
                Err(trouble) => trouble,
            };
            self.down(&trouble);
            self.feed().set_session(None);
            match trouble {
                SessionError::Refused | SessionError::Unfit(_) => self.wait(around(REFUSED_RETRY_DELAY)).await,
                SessionError::Lost(_) | SessionError::Ended(_) => self.wait(backoff.delay()).await,
            }
        }
    }

    /// Removes nodes from an earlier process that patterns or limits exclude now, so that they do not count as lost. As
    /// in a first read, deeper nodes get room after others, and none below one without room.
    fn trim(&self) {
        let (snapshot, scope, progress) = (self.publisher.snapshot(), self.scope(), self.publisher.progress());
        let known = || self.config.roots.iter().flat_map(|root| snapshot.subtree(root, root.clone()));
        let is_of_interest = |path: &NodePath| scope.enters(path) && scope.keeps(path);
        let has_place =
            progress.nodes <= self.config.max_nodes as u64 && progress.bytes <= self.config.max_bytes.as_u64();
        let stays = |(path, node): (&NodePath, &Arc<Node>)| {
            is_of_interest(path) && !scope.is_too_deep(path) && !scope.is_too_large(node)
        };
        if has_place && known().all(stays) {
            return;
        }
        let (mut budget, mut placeless, mut too_large) =
            (Budget::new(&self.config, FeedProgress::default()), BTreeSet::new(), 0);
        let mut nodes: Vec<_> = known().collect();
        nodes.sort_by_key(|(path, _)| path.depth());
        nodes.retain(|(path, node)| {
            if !is_of_interest(path) {
                return true;
            }
            let is_placeless = scope.is_too_deep(path) || path.upwards().any(|above| placeless.contains(above));
            // What lies below it still gets room.
            if !is_placeless && scope.is_too_large(node) {
                too_large += 1;
                return true;
            }
            let is_placeless = is_placeless || !budget.admits(path, node, None);
            if is_placeless {
                placeless.insert(path.as_str());
            }
            is_placeless
        });
        let source = self.feed().name();
        tracing::warn!(
            source,
            nodes = nodes.len(),
            "took away nodes of an earlier process that patterns or limits leave out"
        );
        let left_out = progress.skipped_nodes + placeless.len() as u64 + too_large;
        let changes = nodes.into_iter().map(|(path, _)| Change::Delete(path.clone())).collect();
        self.publisher.begin(Batch { changes, skipped_nodes: Some(left_out), ..Batch::default() });
    }

    /// Waits, unless the operator asks to retry at once.
    async fn wait(&mut self, most: Duration) {
        tokio::select! {
            () = sleep(most) => {}
            () = self.reload.requested() => {}
        }
    }

    /// Keeps the store in sync while the session lives; returns why it no longer does.
    async fn serve(&mut self, mut session: Session) -> SessionError {
        self.skipped_log = SkippedLog::default();
        tracing::info!(source = self.feed().name(), session = session.id(), "connected");
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let since = Instant::now();
            let Err(trouble) = self.follow(&mut session).await;
            // A request also fails like this if only the connection is lost.
            let trouble = session.end().unwrap_or(trouble);
            if since.elapsed() > BACKOFF_RESET_AFTER {
                backoff.reset();
            }
            self.down(&trouble);
            match trouble {
                SessionError::Lost(_) if session.is_watched() => {
                    if let Err(ended) = session.regained().await {
                        return ended;
                    }
                    sleep(backoff.delay()).await;
                }
                trouble => return trouble,
            }
            self.spread().await;
        }
    }

    async fn follow(&mut self, session: &mut Session) -> Result<Infallible, SessionError> {
        self.sync(session).await?;
        self.live(session).await
    }

    /// After a long outage many sidecars come back at once: each waits a random time before it reads everything.
    async fn spread(&self) {
        let outage = self.feed().since_proof().unwrap_or_default();
        if outage > self.config.session_timeout / 2 {
            let most = Duration::from_micros(500 * self.publisher.progress().nodes).min(Duration::from_secs(5));
            sleep(random_part(most)).await;
        }
    }

    /// Reads everything and publishes the differences atomically.
    async fn sync(&mut self, session: &mut Session) -> Result<(), SessionError> {
        self.feed().enter(FeedState::Syncing, format!("reading all of {}", self.config.connect));
        let is_late = mutant::is("read-before-the-watch");
        let is_kept = session.is_watched() && mutant::is("no-watch-after-a-reconnect");
        if !(is_late || is_kept) {
            session.watch().await?;
        }
        self.is_read_only = session.is_read_only();
        session.learn_servers().await?;
        session.catch_up().await?;
        self.feed().set_session(Some(session.id()));
        if self.feed().since_proof().is_some() && mutant::is("no-read-after-a-reconnect") {
            self.report(0);
            return Ok(());
        }
        let began = Moment::now();
        let (changes, announced) = self.compare(session, BTreeSet::new()).await?;
        if is_late {
            session.watch().await?;
        }
        let changes = self.hold_back(changes, &announced);
        let changed = changes.len();
        let proof = match self.is_read_only {
            true => Some(Proof::OfAge(since_last_set(&changes))),
            false => self.held.is_none().then_some(Proof::Seen(began)),
        };
        let revision = self.publish(Batch { proof, unseen: true, ..Batch::whole(changes) });
        let progress = self.publisher.progress();
        let ms = began.elapsed().as_millis() as u64;
        let watches = session.watching();
        tracing::info!(source = self.feed().name(), nodes = progress.nodes, changed, revision, ms, %watches, "read everything");
        for root in self.empty_roots() {
            tracing::warn!(source = self.feed().name(), %root, "there is nothing at this root yet; it is watched");
        }
        Ok(())
    }

    /// Publishes a batch, and reports the new state.
    fn publish(&mut self, batch: Batch) -> Revision {
        let held = self.held.map_or(0, |held| held.nodes);
        let skipped_nodes = Some(self.skipped.len() + held as u64);
        let revision = self.publisher.begin(Batch { skipped_nodes, ..batch });
        self.skipped_log.log_new(self.publisher.feed().name(), &self.skipped);
        self.report(held);
        revision
    }

    /// Reports how the ensemble is being followed.
    fn report(&mut self, held: usize) {
        if held > 0 {
            let detail =
                format!("holding {} gone from the ensemble, in case it lost them", counted(held as u64, "node"));
            self.feed().enter(FeedState::Syncing, detail);
            return;
        }
        let state = if self.is_read_only { FeedState::Down } else { FeedState::Live };
        // Whoever sees that it is live again also sees that it was lost.
        if state == FeedState::Live && std::mem::take(&mut self.lost) {
            self.feed().reconnects.increment();
        }
        let detail =
            [self.is_read_only.then(|| READ_ONLY.to_owned()), self.nothing_yet(), left_out(self.skipped.len())];
        let detail = detail.into_iter().flatten().collect::<Vec<_>>().join("; ");
        self.feed().enter_with(state, detail, self.skipped.examples());
    }

    /// Notes the newest transaction that is mirrored, by which read-only servers are chosen.
    fn note_mirrored(&self) {
        if !self.config.read_only {
            return;
        }
        let snapshot = self.publisher.snapshot();
        let nodes = self.config.roots.iter().flat_map(|root| snapshot.subtree(root, root.clone()));
        let newest = nodes.map(|(_, node)| node.stat.mzxid.max(node.stat.pzxid)).max();
        self.servers.set_mirrored(newest.unwrap_or(0));
    }

    /// The roots with nothing to mirror, as server paths: that is legal, but may be a mistake.
    fn empty_roots(&self) -> Vec<String> {
        let snapshot = self.publisher.snapshot();
        let is_empty = |root: &&NodePath| {
            snapshot.subtree(root, (*root).clone()).next().is_none() && !self.skipped.is_unreadable(root)
        };
        let empty = self.config.roots.iter().filter(is_empty);
        empty.map(|root| self.servers.chroot().server(root).into_owned()).collect()
    }

    fn nothing_yet(&self) -> Option<String> {
        let empty = self.empty_roots();
        (!empty.is_empty()).then(|| format!("nothing to mirror at {} yet", empty.join(", ")))
    }

    /// A session cannot drop an identity: a changed one requires another session.
    fn check_identity(&self, session: &Session) -> Result<(), SessionError> {
        match session.is_of(&self.settings) {
            Ok(true) => Ok(()),
            Ok(false) => Err(SessionError::Ended("the credentials or certificates changed".into())),
            Err(why) => {
                tracing::error!(source = self.feed().name(), %why, "cannot read the credentials again; the old ones stand");
                Ok(())
            }
        }
    }

    /// Reports that the store no longer follows the ensemble, and why. The data is kept.
    fn down(&mut self, trouble: &SessionError) {
        let was_in_sync = self.feed().was_in_sync();
        self.lost |= was_in_sync;
        let (state, what) = match self.feed().since_proof() {
            Some(_) if was_in_sync => (FeedState::Down, "lost the ensemble; what was read stands"),
            Some(_) => (FeedState::Down, "cannot reach the ensemble; what an earlier process read stands"),
            None => (FeedState::Connecting, "cannot reach the ensemble yet"),
        };
        let why = match (trouble, &self.config.credentials) {
            (SessionError::Refused, Some(place)) => credentials::refused(place, trouble),
            _ => trouble.to_string(),
        };
        if self.feed().enter(state, why.clone()) {
            tracing::warn!(source = self.feed().name(), why, "{what}");
        }
    }

    fn feed(&self) -> &Feed {
        self.publisher.feed()
    }
}

/// How long ago the last of these nodes was set: at that time its server was in sync with its ensemble, by the
/// ensemble's clock.
fn since_last_set(changes: &[Change]) -> Duration {
    let set = changes.iter().filter_map(|change| match change {
        Change::Put(_, node) => Some(node.stat.mtime),
        _ => None,
    });
    let last = UNIX_EPOCH + Duration::from_millis(set.max().map_or(0, |ms| ms.max(0) as u64));
    SystemTime::now().duration_since(last).unwrap_or_default().max(MIN_CUT_OFF_AGE)
}
