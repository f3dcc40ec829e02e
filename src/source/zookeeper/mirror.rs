//! The mirror of one ensemble: it connects, reads everything, follows the changes, and begins anew after every loss.
//!
//! ```text
//! CONNECT ─ok─► SYNC ─published─► LIVE
//!    ▲            │ any trouble    │ disconnected, a failed read, a missed heartbeat
//!    │            ▼                ▼
//!    └──ended── DOWN ◄─────────────┘        DOWN ─connected again─► SYNC, never straight to LIVE
//! ```
//!
//! The snapshot is the mirror's only memory: nobody else writes its part, so what the store holds is what the mirror
//! knows.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::iter::successors;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use super::Config;
use super::bulk::{Bulk, LARGE};
use super::left_out::{LeftOut, Told};
use super::pace::Pace;
use super::scan::{Budget, Scan, Scope, quotas};
use super::servers::Servers;
use super::session::{Event, Session, Trouble};
use super::update::Update;
use super::walk::{Below, Walk};
use crate::clock::Moment;
use crate::model::{Change, NodePath, Revision, counted};
use crate::source::{Generation, difference};
use crate::store::{Batch, Feed, FeedState, Proof, Publisher, Snapshot, left_out};
use crate::task::{Backoff, Reload, Stop, around, random_part};

/// After an event, so long for more of them; and at least so long between two publications.
const GATHER: Duration = Duration::from_millis(2);
const PUBLISH: Duration = Duration::from_millis(20);

/// With more changed paths than this it is cheaper, and bounded, to read everything.
const MAX_DIRTY: usize = 20_000;

const HEARTBEAT: Duration = Duration::from_secs(2);

/// How long to wait, more or less, where trying again cannot help soon.
const PATIENCE: Duration = Duration::from_secs(30);

/// How soon, more or less, all is read for one reason: what is held may have come back, or what may be read now have more
/// below it.
const RECHECK: Duration = Duration::from_secs(8);

/// After so long in sync, trouble is new trouble.
const CALM: Duration = Duration::from_secs(60);

/// The least age of what a server holds that serves only to read: it begins to when it has sought a quorum in vain.
const CUT_OFF: Duration = Duration::from_secs(5);

const READ_ONLY: &str =
    "mirrors a server that is cut off from its ensemble and serves to read only; what it holds stands";

/// Mirrors one ensemble into the store, until the stop.
pub async fn run(config: Config, publisher: Publisher, reload: Reload, stop: Stop) {
    let (left_out, told) = (LeftOut::default(), Told::default());
    let quotas = quotas(&config);
    let (pace, earlier) = (Pace::new(config.max_in_flight), Generation::new());
    let servers = Servers::of(&config);
    let (held, lost, is_read_only) = (None, false, false);
    let mut mirror =
        Mirror { config, servers, publisher, reload, left_out, told, quotas, pace, earlier, held, lost, is_read_only };
    tokio::select! {
        () = mirror.keep() => {}
        () = stop.requested() => {}
    }
}

struct Mirror {
    config: Config,
    servers: Servers,
    publisher: Publisher,
    reload: Reload,
    left_out: LeftOut,
    told: Told,
    quotas: Option<NodePath>,
    pace: Pace,
    /// The large nodes that were read in vain, since the connection was lost before all was read. They are only compared.
    earlier: Generation,
    held: Option<Held>,
    /// Whether it was in sync and no longer is.
    lost: bool,
    /// Whether the server serves only to read: then nothing proves that the ensemble still has what it holds.
    is_read_only: bool,
}

/// Nodes that are gone from the ensemble, and kept in case it lost them.
#[derive(Clone, Copy)]
struct Held {
    since: Moment,
    nodes: usize,
}

/// What changed and is to be read again.
#[derive(Default)]
struct Dirty {
    /// In their order, parents come first.
    paths: BTreeSet<NodePath>,
    /// A heartbeat that will be proof of being in sync when these have been read.
    proof: Option<Moment>,
}

impl Mirror {
    async fn keep(&mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        self.feed().enter(FeedState::Connecting, format!("connecting to {}", self.config.connect));
        self.note_mirrored();
        loop {
            let trouble = match Session::connect(&self.config, &self.servers).await {
                Ok((session, driver)) => {
                    let since = Instant::now();
                    let trouble = tokio::select! {
                        trouble = self.serve(session) => trouble,
                        never = driver.run() => match never {},
                    };
                    self.note_mirrored();
                    if since.elapsed() > CALM {
                        backoff.reset();
                    }
                    trouble
                }
                Err(trouble) => trouble,
            };
            self.down(&trouble);
            self.feed().set_session(None);
            match trouble {
                Trouble::Refused | Trouble::Unfit(_) => self.wait(around(PATIENCE)).await,
                Trouble::Lost(_) | Trouble::Ended(_) => self.wait(backoff.delay()).await,
            }
        }
    }

    /// Waits, unless the operator asks to try at once.
    async fn wait(&mut self, most: Duration) {
        tokio::select! {
            () = sleep(most) => {}
            () = self.reload.requested() => {}
        }
    }

    /// Keeps the store in step for as long as the session lives; why it no longer does.
    async fn serve(&mut self, mut session: Session) -> Trouble {
        self.told = Told::default();
        tracing::info!(source = self.feed().name(), session = session.id(), "connected");
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let since = Instant::now();
            let Err(trouble) = self.follow(&mut session).await;
            if since.elapsed() > CALM {
                backoff.reset();
            }
            self.down(&trouble);
            match trouble {
                Trouble::Refused | Trouble::Ended(_) => return trouble,
                Trouble::Unfit(_) => self.wait(around(PATIENCE)).await,
                Trouble::Lost(_) if !session.is_watched() => return trouble,
                Trouble::Lost(_) => {
                    if let Err(ended) = session.regained().await {
                        return ended;
                    }
                    sleep(backoff.delay()).await;
                }
            }
            self.spread().await;
        }
    }

    async fn follow(&mut self, session: &mut Session) -> Result<Infallible, Trouble> {
        self.sync(session).await?;
        self.live(session).await
    }

    /// After a long outage many sidecars come back at once: each waits a random while before it reads everything.
    async fn spread(&self) {
        let outage = self.feed().since_proof().unwrap_or_default();
        if outage > self.config.session_timeout / 2 {
            let most = Duration::from_micros(500 * self.publisher.filled().nodes).min(Duration::from_secs(5));
            sleep(random_part(most)).await;
        }
    }

    /// Reads everything and publishes what differs, at once.
    async fn sync(&mut self, session: &mut Session) -> Result<(), Trouble> {
        self.feed().enter(FeedState::Syncing, format!("reading all of {}", self.config.connect));
        session.watch().await?;
        self.is_read_only = session.is_read_only();
        session.learn_servers().await?;
        session.catch_up().await?;
        self.feed().set_session(Some(session.id()));
        let began = Moment::now();
        let (changes, announced) = self.compare(session, BTreeSet::new()).await?;
        let changes = self.hold_back(changes, &announced);
        let changed = changes.len();
        let proof = match self.is_read_only {
            true => Some(Proof::OfAge(since_last_set(&changes))),
            false => self.held.is_none().then_some(Proof::Seen(began)),
        };
        let revision = self.publish(Batch { proof, ..Batch::whole(changes) });
        let filled = self.publisher.filled();
        let ms = began.elapsed().as_millis() as u64;
        let watches = session.watching();
        tracing::info!(source = self.feed().name(), nodes = filled.nodes, changed, revision, ms, %watches, "read everything");
        for root in self.empty_roots() {
            tracing::warn!(source = self.feed().name(), %root, "there is nothing at this root yet; it is watched");
        }
        Ok(())
    }

    /// Publishes, and says what the store then holds.
    fn publish(&mut self, batch: Batch) -> Revision {
        let held = self.held.map_or(0, |held| held.nodes);
        let left_out = Some(self.left_out.len() + held as u64);
        let revision = self.publisher.publish(Batch { left_out, ..batch });
        self.told.tell(self.publisher.feed().name(), &self.left_out);
        self.report(held);
        revision
    }

    /// Says how the ensemble is followed.
    fn report(&mut self, held: usize) {
        if held > 0 {
            let detail =
                format!("holding {} gone from the ensemble, in case it lost them", counted(held as u64, "node"));
            self.feed().enter(FeedState::Syncing, detail);
            return;
        }
        let state = if self.is_read_only { FeedState::Down } else { FeedState::Live };
        let detail =
            [self.is_read_only.then(|| READ_ONLY.to_owned()), self.nothing_yet(), left_out(self.left_out.len())];
        self.feed().enter(state, detail.into_iter().flatten().collect::<Vec<_>>().join("; "));
        self.feed().set_examples(self.left_out.examples());
        if state == FeedState::Live && std::mem::take(&mut self.lost) {
            self.feed().reconnects.increment();
        }
    }

    /// Notes how far what is mirrored has come, by which servers are chosen that serve only to read.
    fn note_mirrored(&self) {
        if !self.config.read_only {
            return;
        }
        let snapshot = self.publisher.snapshot();
        let nodes = self.config.roots.iter().flat_map(|root| snapshot.subtree(root, root.clone()));
        let newest = nodes.map(|(_, node)| node.stat.mzxid.max(node.stat.pzxid)).max();
        self.servers.set_mirrored(newest.unwrap_or(0));
    }

    /// The roots at which there is nothing to mirror, as the server knows them: that is legal, and may be a slip.
    fn empty_roots(&self) -> Vec<String> {
        let snapshot = self.publisher.snapshot();
        let is_empty = |root: &&NodePath| {
            snapshot.subtree(root, (*root).clone()).next().is_none() && !self.left_out.is_unreadable(root)
        };
        let empty = self.config.roots.iter().filter(is_empty);
        empty.map(|root| self.servers.chroot().server(root).into_owned()).collect()
    }

    fn nothing_yet(&self) -> Option<String> {
        let empty = self.empty_roots();
        (!empty.is_empty()).then(|| format!("nothing to mirror at {} yet", empty.join(", ")))
    }

    /// Reads everything, and then again what changed meanwhile: what the store must change to be the same, and the
    /// paths of which events have told, with those in `announced`.
    async fn compare(
        &mut self,
        session: &mut Session,
        mut announced: BTreeSet<NodePath>,
    ) -> Result<(Vec<Change>, BTreeSet<NodePath>), Trouble> {
        let known = self.publisher.snapshot();
        let mut scan = Scan::new(&known, Budget::new(&self.config, self.publisher.filled()));
        if let Err(trouble) = self.read_all(session, &known, &mut scan, &mut announced).await {
            self.pace.slow_down();
            self.keep_large(scan.generation);
            return Err(trouble);
        }
        let Scan { generation, left_out, .. } = scan;
        self.pace.ease();
        self.earlier.clear();
        self.left_out = left_out;
        Ok((difference(&known, &self.config.roots, generation), announced))
    }

    async fn read_all(
        &self,
        session: &mut Session,
        known: &Snapshot,
        scan: &mut Scan<'_>,
        announced: &mut BTreeSet<NodePath>,
    ) -> Result<(), Trouble> {
        let scope = self.scope();
        session.restore(self.large_or_known(known), self.pace.request_bytes()).await?;
        let walk = Walk { scope: &scope, bulk: self.bulk(session, known), below: Below::All };
        walk.read(self.config.roots.clone(), scan).await?;
        drain(&scope, session, announced, &mut scan.left_out)?;
        let paths = scan.left_out.askable(announced.iter().cloned());
        let walk = Walk { scope: &scope, bulk: self.bulk(session, known), below: Below::Unwatched };
        walk.read(paths, scan).await
    }

    fn scope(&self) -> Scope<'_> {
        Scope { config: &self.config, quotas: self.quotas.as_ref() }
    }

    /// The nodes of which the data need not be read if it is the same.
    fn large_or_known<'a>(&'a self, known: &'a Snapshot) -> impl Iterator<Item = NodePath> + 'a {
        let known = self.config.roots.iter().flat_map(|root| known.subtree(root, root.clone()));
        let all = self.earlier.iter().chain(known);
        all.filter(|(_, node)| node.stat.ephemeral_owner == 0).map(|(path, _)| path.clone())
    }

    fn bulk<'a>(&'a self, session: &'a Session, known: &'a Snapshot) -> Bulk<'a> {
        Bulk { session, pace: &self.pace, known, earlier: &self.earlier }
    }

    /// Keeps the large nodes of a read that came to no end, as many as may be mirrored.
    fn keep_large(&mut self, read: Generation) {
        let mut room = self.config.max_bytes.as_u64();
        let earlier = std::mem::take(&mut self.earlier);
        for (path, node) in read.into_iter().chain(earlier).filter(|(_, node)| node.data.len() > LARGE) {
            if !self.earlier.contains_key(&path) && node.data.len() as u64 <= room {
                room -= node.data.len() as u64;
                self.earlier.insert(path, node);
            }
        }
    }

    /// When a comparison finds more than half of the nodes gone, and no event has told of it, the ensemble may have
    /// lost them rather than its users: for a while they are kept. The changes that pass.
    fn hold_back(&mut self, mut changes: Vec<Change>, announced: &BTreeSet<NodePath>) -> Vec<Change> {
        let passes = |change: &Change| match change {
            Change::Delete(path) => announced.contains(path),
            _ => true,
        };
        let gone = changes.iter().filter(|change| !passes(change)).count();
        let shrunken = gone as u64 * 2 > self.publisher.filled().nodes;
        let since = self.held.filter(|_| shrunken).map_or_else(Moment::now, |held| held.since);
        let was_held = self.held.take().is_some();
        if shrunken && since.elapsed() < self.config.hold {
            self.held = Some(Held { since, nodes: gone });
            changes.retain(passes);
            if !was_held {
                tracing::warn!(source = self.feed().name(), gone, "more than half of the nodes are gone; holding them");
            }
        }
        changes
    }

    /// Follows the changes until there is trouble.
    async fn live(&mut self, session: &mut Session) -> Result<Infallible, Trouble> {
        let mut dirty = Dirty::default();
        let (mut due, mut published) = (Instant::now(), Instant::now());
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut audit = Instant::now() + until_audit(&self.config, self.held);
        loop {
            tokio::select! {
                // With so many that all is read anyway, no more are taken until it is.
                event = session.next(), if dirty.paths.len() <= MAX_DIRTY => {
                    if dirty.paths.is_empty() {
                        due = (Instant::now() + GATHER).max(published + PUBLISH);
                    }
                    self.note(event?, &mut dirty)?;
                    self.drain(session, &mut dirty)?;
                    if dirty.paths.len() > MAX_DIRTY {
                        audit = Instant::now();
                    }
                }
                () = sleep_until(due.into()), if !dirty.paths.is_empty() => {
                    if self.read_again(session, &mut dirty).await? {
                        audit = audit.min(Instant::now() + around(RECHECK));
                    }
                    published = Instant::now();
                }
                _ = heartbeat.tick() => self.prove(session, &mut dirty).await?,
                () = sleep_until(audit.into()) => {
                    self.audit(session, &mut dirty).await?;
                    audit = Instant::now() + until_audit(&self.config, self.held);
                }
                () = self.reload.requested() => self.check_identity(session)?,
            }
        }
    }

    /// Proves that the server is there. What it did before its reply is known from the events that came before: when
    /// these have been read, the store holds what the server held when it was asked.
    async fn prove(&mut self, session: &mut Session, dirty: &mut Dirty) -> Result<(), Trouble> {
        let asked = Moment::now();
        session.heartbeat().await?;
        session.learn_new_servers().await?;
        if self.drain(session, dirty)? {
            dirty.proof = Some(asked);
            if let Some(at) = self.proof(dirty) {
                self.feed().prove(at);
            }
        }
        Ok(())
    }

    /// Since when the store holds what the server does, when what is read has been published.
    fn proof(&self, dirty: &mut Dirty) -> Option<Moment> {
        let is_proven = dirty.paths.is_empty() && self.held.is_none() && !self.is_read_only;
        if is_proven { dirty.proof.take() } else { None }
    }

    /// Reads again what changed, and publishes it; whether what lies below some of it may be read now, and was not before.
    async fn read_again(&mut self, session: &mut Session, dirty: &mut Dirty) -> Result<bool, Trouble> {
        let paths = self.left_out.askable(std::mem::take(&mut dirty.paths));
        let unreadable: Vec<_> = paths.iter().filter(|path| self.left_out.is_unreadable(path)).cloned().collect();
        let known = self.publisher.snapshot();
        let scope = Scope { config: &self.config, quotas: self.quotas.as_ref() };
        let budget = Budget::new(&self.config, self.publisher.filled());
        let bulk = Bulk { session, pace: &self.pace, known: &known, earlier: &self.earlier };
        let mut update = Update::new(&known, budget, self.held.is_none(), &mut self.left_out);
        let read = Walk { scope: &scope, bulk, below: Below::Unwatched }.read(paths, &mut update).await;
        let changes = update.changes();
        if let Err(trouble) = read {
            self.pace.slow_down();
            return Err(trouble);
        }
        let proof = self.proof(dirty).map(Proof::Seen);
        self.publish(Batch { proof, ..changes.into() });
        Ok(unreadable.iter().any(|path| !self.left_out.is_unreadable(path)))
    }

    /// Compares everything. A difference of which no event told is drift: there should be none.
    async fn audit(&mut self, session: &mut Session, dirty: &mut Dirty) -> Result<(), Trouble> {
        let began = Moment::now();
        let was_held = self.held.is_some();
        let (changes, announced) = self.compare(session, std::mem::take(&mut dirty.paths)).await?;
        let changes = self.hold_back(changes, &announced);
        let known = self.publisher.snapshot();
        let is_announced = |path: &NodePath| {
            // Of a new node may be told by its parent, or by one above that is new too.
            let mut above = successors(path.parent(), NodePath::parent);
            announced.contains(path) || known.node(path).is_none() && above.any(|above| announced.contains(&above))
        };
        let drift: Vec<_> = changes.iter().filter_map(Change::path).filter(|path| !is_announced(path)).collect();
        if !was_held && let Some(first) = drift.first() {
            self.feed().drift.add(drift.len() as u64);
            tracing::warn!(source = self.feed().name(), drift = drift.len(), %first, "the audit found what no event told");
        }
        dirty.proof = Some(began);
        let proof = self.proof(dirty).map(Proof::Seen);
        self.publish(Batch { proof, ..changes.into() });
        Ok(())
    }

    fn drain(&mut self, session: &mut Session, dirty: &mut Dirty) -> Result<bool, Trouble> {
        let scope = Scope { config: &self.config, quotas: self.quotas.as_ref() };
        drain(&scope, session, &mut dirty.paths, &mut self.left_out)
    }

    fn note(&mut self, event: Event, dirty: &mut Dirty) -> Result<(), Trouble> {
        let scope = Scope { config: &self.config, quotas: self.quotas.as_ref() };
        note(&scope, event, &mut dirty.paths, &mut self.left_out)
    }

    /// An identity cannot be taken back from a session: a changed one needs another session.
    fn check_identity(&self, session: &Session) -> Result<(), Trouble> {
        match session.is_of(&self.config) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Trouble::Ended("the credentials or certificates changed".into())),
            Err(why) => {
                tracing::error!(source = self.feed().name(), %why, "cannot read the credentials again; the old ones stand");
                Ok(())
            }
        }
    }

    /// Says that what the store holds does not follow the ensemble, and why. It stands.
    fn down(&mut self, trouble: &Trouble) {
        let was_in_sync = self.feed().was_in_sync();
        self.lost |= was_in_sync;
        let (state, what) = match self.feed().since_proof() {
            Some(_) if was_in_sync => (FeedState::Down, "lost the ensemble; what was read stands"),
            Some(_) => (FeedState::Down, "cannot reach the ensemble; what an earlier process read stands"),
            None => (FeedState::Connecting, "cannot reach the ensemble yet"),
        };
        if self.feed().enter(state, trouble.to_string()) {
            tracing::warn!(source = self.feed().name(), why = %trouble, "{what}");
        }
    }

    fn feed(&self) -> &Feed {
        self.publisher.feed()
    }
}

/// When the next audit is due. Sidecars that came back together after a loss must not read everything together again.
fn until_audit(config: &Config, held: Option<Held>) -> Duration {
    match held {
        Some(held) => around(RECHECK).min(config.hold.saturating_sub(held.since.elapsed())),
        None => around(config.audit_interval),
    }
}

/// How long ago the last of these nodes was set: then its server was in step with its ensemble, by the ensemble's clock.
fn since_last_set(changes: &[Change]) -> Duration {
    let set = changes.iter().filter_map(|change| match change {
        Change::Put(_, node) => Some(node.stat.mtime),
        _ => None,
    });
    let last = UNIX_EPOCH + Duration::from_millis(set.max().map_or(0, |ms| ms.max(0) as u64));
    SystemTime::now().duration_since(last).unwrap_or_default().max(CUT_OFF)
}

/// Takes in the events that have come; false: there may be more. Under many writes there always are.
fn drain(
    scope: &Scope<'_>,
    session: &mut Session,
    dirty: &mut BTreeSet<NodePath>,
    left_out: &mut LeftOut,
) -> Result<bool, Trouble> {
    for _ in 0..MAX_DIRTY {
        match session.come() {
            Some(event) => note(scope, event?, dirty, left_out)?,
            None => return Ok(true),
        }
    }
    Ok(false)
}

fn note(
    scope: &Scope<'_>,
    event: Event,
    dirty: &mut BTreeSet<NodePath>,
    left_out: &mut LeftOut,
) -> Result<(), Trouble> {
    match event {
        Event::Lost(why) => return Err(Trouble::Lost(why)),
        Event::Regained => return Err(Trouble::Lost("the connection was lost, and found again".into())),
        Event::Changed { path, fired } => {
            let is_followed = |path: &NodePath| scope.enters(path) && !left_out.hides(path);
            if fired.is_structure() {
                dirty.extend(path.parent().filter(is_followed));
            }
            if is_followed(&path) {
                dirty.insert(path);
            }
        }
        Event::Odd { parent, name, is_there } if scope.enters(&parent) && !left_out.hides(&parent) => {
            match is_there {
                true => left_out.insert_name(&parent, &name),
                false => left_out.remove_name(&parent, &name),
            }
            // Its figures changed, and with them is told what is left out.
            dirty.insert(parent);
        }
        Event::Odd { .. } => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::assert_spread;

    #[test]
    fn the_audits_of_many_come_at_no_moment_together() {
        let config = Config::new("zk:2181");
        let held = Held { since: Moment::now(), nodes: 1 };
        for (held, mean) in [(None, config.audit_interval), (Some(held), RECHECK)] {
            assert_spread(mean / 2, mean / 2 * 3, || until_audit(&config, held));
        }
        let short = Config { hold: Duration::from_secs(1), ..config };
        assert!(until_audit(&short, Some(held)) <= short.hold, "what is held is believed gone in time");
    }
}
