//! Feed: one source as the store sees it: what it supplies, and how fresh that is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::{FeedProgress, Identity, InstanceLimits, Proof};
use crate::clock::Moment;
use crate::format;
use crate::metrics::Counter;
use crate::model::{NodePath, Origin, Supply};
use crate::mutant;

/// How long a proof of being in sync is valid. A source renews it every two seconds; an older proof means that the
/// source is away, that the task that should renew it hangs, or that this process or machine slept.
const PROOF_HOLDS: Duration = Duration::from_millis(4_500);

/// For how long after a start or a loss the masters that a source reported are expected back.
const RETURN: Duration = Duration::from_secs(15);

/// How long before its creation a source may have been in sync: longer than computers exist.
const BEFORE_BIRTH: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The kind of a source that is not configured: another one reported it.
const LEARNED: &str = "learned";

/// One source as the store sees it.
///
/// Readers compute its freshness from the time of the last proof. So a source that died cannot hide behind a flag that
/// only it could have cleared.
#[derive(Debug)]
pub struct Feed {
    name: Arc<str>,
    kind: &'static str,
    identity: Identity,
    supplies: &'static [Supply],
    /// The roots of the nodes that it supplies.
    roots: Vec<NodePath>,
    /// Which of them register instances, and in which format.
    services: Vec<format::Config>,
    limits: InstanceLimits,
    born: Moment,
    /// The age, at that time, of what an earlier process left.
    restored: Option<Duration>,
    /// Milliseconds from `BEFORE_BIRTH` before `born`; 0: never.
    proven: AtomicU64,
    state: AtomicU8,
    gone: AtomicBool,
    frozen: AtomicBool,
    words: ArcSwap<Words>,
    /// How often the source was lost and found again.
    pub reconnects: Counter,
    /// Differences that only an audit found.
    pub drift: Counter,
}

/// What a source is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedState {
    Connecting,
    Syncing,
    Live,
    Down,
}

#[derive(Clone, Debug, Default)]
struct Words {
    detail: String,
    /// Some of what is omitted, with reasons. Not for everybody: they contain names.
    examples: Vec<String>,
    session: Option<String>,
}

impl Feed {
    /// A source of the nodes at and below these roots.
    pub fn of_nodes(name: impl Into<String>, kind: &'static str, roots: Vec<NodePath>) -> Self {
        Self::new(name.into(), kind, &[Supply::Nodes], roots)
    }

    /// A source of instances.
    pub fn of_instances(name: impl Into<String>, kind: &'static str) -> Self {
        Self::new(name.into(), kind, &[Supply::Instances], Vec::new())
    }

    fn new(name: String, kind: &'static str, supplies: &'static [Supply], roots: Vec<NodePath>) -> Self {
        Self {
            name: name.into(),
            kind,
            identity: Identity::default(),
            supplies,
            roots,
            services: Vec::new(),
            limits: super::Config::default().instance_limits(),
            born: Moment::now(),
            restored: None,
            proven: AtomicU64::new(0),
            state: AtomicU8::new(FeedState::Connecting as u8),
            gone: AtomicBool::new(false),
            frozen: AtomicBool::new(false),
            words: ArcSwap::from_pointee(Words { detail: "starting".into(), ..Words::default() }),
            reconnects: Counter::default(),
            drift: Counter::default(),
        }
    }

    /// The same feed, of nodes some of which register instances of services.
    pub fn with_services(self, services: Vec<format::Config>) -> Self {
        let supplies: &[Supply] =
            if services.is_empty() { &[Supply::Nodes] } else { &[Supply::Nodes, Supply::Instances] };
        Self { supplies, services, ..self }
    }

    /// The same feed with these limits on what its nodes register.
    pub(super) fn within(self, limits: InstanceLimits) -> Self {
        Self { limits, ..self }
    }

    /// A register that another one reported.
    pub fn learned(name: impl Into<String>) -> Self {
        Self::of_instances(name, LEARNED)
    }

    /// Sets what is mirrored. What another process left of another identity does not belong to this source.
    pub fn of(self, identity: Identity) -> Self {
        Self { identity, ..self }
    }

    /// Begins with what an earlier process left, which has that age; None: it was never in sync.
    pub(super) fn restore(&mut self, age: Option<Duration>) {
        (self.restored, self.born) = (age, Moment::now());
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name, as the source of what it reports.
    pub(super) fn source(&self) -> &Arc<str> {
        &self.name
    }

    pub fn kind(&self) -> &'static str {
        self.kind
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn roots(&self) -> &[NodePath] {
        &self.roots
    }

    /// Which of its nodes register instances, and in which format.
    pub fn services(&self) -> &[format::Config] {
        &self.services
    }

    /// How much these may register.
    pub(super) fn instance_limits(&self) -> InstanceLimits {
        self.limits
    }

    /// Whether it knows masters, rather than nodes.
    pub fn knows_masters(&self) -> bool {
        self.supplies(Supply::Instances) && !self.supplies(Supply::Nodes)
    }

    /// The kinds of data that it supplies.
    pub fn supplied(&self) -> &'static [Supply] {
        self.supplies
    }

    pub fn supplies(&self, what: Supply) -> bool {
        self.supplies.contains(&what)
    }

    /// Whether this feed affects the trust in an answer: a learned one does not before it was in sync, so that a wrong
    /// address makes nothing worse.
    pub fn counts(&self, is_whole: bool) -> bool {
        is_whole || self.kind != LEARNED
    }

    /// Whether the source has been removed.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(super) fn go(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Whether masters that the source reported may soon be back: it is settling, or was started or lost just now. One
    /// that was lost while settling may never be back to say that it has ended.
    pub fn is_returning(&self, is_settling: bool) -> bool {
        let since = self.since_sync().unwrap_or_else(|| self.born.elapsed());
        let is_returning = match self.state() {
            FeedState::Live => is_settling,
            FeedState::Syncing => is_settling || since < RETURN,
            FeedState::Connecting | FeedState::Down => since < RETURN,
        };
        is_returning && !self.is_frozen() && !self.is_gone()
    }

    /// From now on the source reports nothing about itself, so that its age grows.
    pub(super) fn freeze(&self) {
        self.frozen.store(true, Ordering::Release);
    }

    fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Whether this feed covers what is at or below `path`.
    pub fn is_behind(&self, path: &NodePath) -> bool {
        self.roots.iter().any(|root| path.overlaps(root))
    }

    pub fn state(&self) -> FeedState {
        match self.state.load(Ordering::Acquire) {
            state if state == FeedState::Syncing as u8 => FeedState::Syncing,
            state if state == FeedState::Live as u8 => FeedState::Live,
            state if state == FeedState::Down as u8 => FeedState::Down,
            _ => FeedState::Connecting,
        }
    }

    /// What the source is doing, given how much of it is visible. When it first publishes everything, it reports being
    /// live before that is visible.
    pub fn state_of(&self, progress: FeedProgress) -> FeedState {
        match self.state() {
            FeedState::Live if !progress.whole => FeedState::Syncing,
            state => state,
        }
    }

    /// Sets what the source is doing now, and what it waits for or suffers from; returns whether that is new.
    pub fn enter(&self, state: FeedState, detail: impl Into<String>) -> bool {
        self.enter_with(state, detail, Vec::new())
    }

    /// The same, with examples of what is omitted.
    pub fn enter_with(&self, state: FeedState, detail: impl Into<String>, examples: Vec<String>) -> bool {
        if self.is_frozen() {
            return false;
        }
        let before = self.words.load();
        let words = Words { detail: detail.into(), examples, session: before.session.clone() };
        let is_new = self.state() != state || before.detail != words.detail;
        self.state.store(state as u8, Ordering::Release);
        self.words.store(Arc::new(words));
        is_new
    }

    pub fn detail(&self) -> String {
        self.words.load().detail.clone()
    }

    /// A message about the source, with its detail if it has one.
    pub fn with_detail(&self, said: String) -> String {
        let words = self.words.load();
        if words.detail.is_empty() { said } else { format!("{said}: {}", words.detail) }
    }

    /// The detail with some of what is omitted, for clients that may read everything.
    pub fn detail_with_names(&self) -> String {
        let words = self.words.load();
        match &words.examples[..] {
            [] => words.detail.clone(),
            examples => format!("{}: {}", words.detail, examples.join(", ")),
        }
    }

    pub fn set_session(&self, session: Option<String>) {
        let words = Words { session, ..Words::clone(&self.words.load()) };
        self.words.store(Arc::new(words));
    }

    pub fn session(&self) -> Option<String> {
        self.words.load().session.clone()
    }

    /// Proves that what the store holds is what the source held at that moment, or later.
    pub fn prove(&self, at: Moment) {
        if self.is_frozen() {
            return;
        }
        self.prove_at(BEFORE_BIRTH + at.since(self.born));
    }

    pub(super) fn take(&self, proof: Proof) {
        match proof {
            Proof::Seen(at) => self.prove(at),
            Proof::OfAge(age) if self.since_proof().is_none() && !self.is_frozen() => {
                self.prove_at((BEFORE_BIRTH + self.born.elapsed()).saturating_sub(age));
            }
            Proof::OfAge(_) => {}
        }
    }

    /// The same before the source's data is first published as a whole. Until then, what is left of an earlier process
    /// keeps its age.
    pub(super) fn begin(&self, proof: Proof) {
        if self.since_proof().is_none() {
            self.take(proof);
        }
        if self.was_in_sync() && matches!(proof, Proof::Seen(_)) && self.state() != FeedState::Live {
            self.enter(FeedState::Live, "");
        }
    }

    fn prove_at(&self, since: Duration) {
        self.proven.fetch_max((since.as_millis() as u64).max(1), Ordering::AcqRel);
    }

    /// The time since the source was last known to be in sync; zero while it is. None: never.
    pub fn age(&self) -> Option<Duration> {
        let since = self.since_proof()?;
        let is_fresh = self.state() == FeedState::Live && since <= PROOF_HOLDS || mutant::is("always-fresh");
        Some(if is_fresh { Duration::ZERO } else { since })
    }

    /// The same, but a source that was never in sync counts as behind since the process started.
    pub(super) fn age_at_least(&self) -> Duration {
        self.age().unwrap_or_else(|| self.born.elapsed())
    }

    /// The time since the last proof of being in sync.
    pub fn since_proof(&self) -> Option<Duration> {
        self.since_sync().or_else(|| self.restored.map(|age| age + self.born.elapsed()))
    }

    /// The same, if this process has ever been in sync.
    fn since_sync(&self) -> Option<Duration> {
        let proven = Some(self.proven.load(Ordering::Acquire)).filter(|proven| *proven != 0)?;
        Some((BEFORE_BIRTH + self.born.elapsed()).saturating_sub(Duration::from_millis(proven)))
    }

    /// Whether this process has ever been in sync.
    pub fn was_in_sync(&self) -> bool {
        self.proven.load(Ordering::Acquire) != 0
    }

    /// `Restored` until this process has been in sync.
    pub fn origin(&self) -> Origin {
        if self.restored.is_some() && !self.was_in_sync() { Origin::Restored } else { Origin::Live }
    }
}

/// The message that a node does not exist; or may exist, if one of the named sources behind it omitted some. None:
/// there is no source behind it.
pub fn no_node<'a>(path: &NodePath, behind: impl Iterator<Item = (&'a str, Origin, u64)>) -> Option<String> {
    let mut behind = behind.peekable();
    behind.peek()?;
    let doubt = behind.find_map(|(name, origin, nodes)| {
        let left_out = left_out(nodes)?;
        // Some of it may only be unknown, since patterns excluded it before.
        let or_unread = if origin == Origin::Restored { ", or has not read all that it mirrors yet" } else { "" };
        Some(format!("; but {name} {left_out}{or_unread}"))
    });
    Some(format!("there is no node {path}{}", doubt.unwrap_or_default()))
}

/// The message that a source omitted this many nodes; None: it omitted none.
pub fn left_out(nodes: u64) -> Option<String> {
    match nodes {
        0 => None,
        1 => Some("left out 1 node that may not be read or passes a limit".into()),
        nodes => Some(format!("left out {nodes} nodes that may not be read or pass a limit")),
    }
}

impl std::fmt::Display for FeedState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FeedState::Connecting => "connecting",
            FeedState::Syncing => "syncing",
            FeedState::Live => "live",
            FeedState::Down => "down",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_proves_is_as_old_as_is_told_and_a_proof_is_never_taken_back() {
        let (hour, moment) = (Duration::from_secs(3_600), Duration::from_secs(60));
        let feed = Feed::of_nodes("zookeeper", "zookeeper", Vec::new());
        feed.enter(FeedState::Down, "");
        feed.take(Proof::OfAge(hour * 24 * 365 * 50));
        assert!(feed.age().is_some_and(|age| age >= hour * 24 * 365 * 50));
        feed.take(Proof::OfAge(hour));
        assert!(feed.age().is_some_and(|age| age > hour), "there was a first one");
        feed.prove(Moment::now());
        assert!(feed.age().is_some_and(|age| age < moment), "{:?}", feed.age());
        feed.take(Proof::OfAge(hour));
        assert!(feed.age().is_some_and(|age| age < moment));

        let mut restored = Feed::of_nodes("zookeeper", "zookeeper", Vec::new());
        restored.restore(Some(hour));
        restored.take(Proof::OfAge(moment));
        assert!(restored.age().is_some_and(|age| age >= hour) && restored.origin() == Origin::Restored);
    }

    #[test]
    fn an_absence_names_all_that_may_be_the_reason_for_it() {
        let absence =
            |origin, nodes| no_node(&NodePath::root(), [("zk", origin, nodes)].into_iter()).expect("a source");
        let left_out = "there is no node /; but zk left out 2 nodes that may not be read or pass a limit";
        assert_eq!(absence(Origin::Live, 2), left_out);
        assert_eq!(absence(Origin::Restored, 2), format!("{left_out}, or has not read all that it mirrors yet"));
        assert_eq!(absence(Origin::Restored, 0), "there is no node /");
    }

    #[test]
    fn a_source_that_was_lost_while_it_settled_is_waited_for_no_longer_than_any_other() {
        let mut feed = Feed::of_instances("hub", "upstream");
        let returning = |feed: &Feed| {
            [FeedState::Connecting, FeedState::Down, FeedState::Syncing, FeedState::Live].map(|state| {
                feed.enter(state, "");
                // As in the shared file, or as the register reported before it died.
                feed.is_returning(true)
            })
        };
        assert_eq!(returning(&feed), [true, true, true, true]);
        feed.born = feed.born.before(RETURN);
        assert_eq!(
            returning(&feed),
            [false, false, true, true],
            "where it is there, it says itself when it has settled"
        );
    }
}
