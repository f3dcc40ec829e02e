//! The store: one writer publishes snapshots, any number of readers hold them without locks.

mod batch;
mod directory;
#[cfg(all(test, feature = "shuttle"))]
mod exploration;
mod feed;
mod identity;
mod idle;
mod instances;
mod journal;
mod messages;
mod retired;
pub mod shared;
mod snapshot;
mod subscription;
mod withholdings;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytesize::ByteSize;
use rmpv::Value;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::time::sleep;

pub use self::batch::{Batch, Proof};
pub use self::directory::{Directory, InstanceLimits, MasterEntry};
pub(crate) use self::directory::{ProviderChange, ReportedBy};
pub use self::feed::{Feed, FeedState, left_out, no_node};
pub use self::identity::Identity;
pub use self::instances::{InstanceSet, Instances, Lot, Provider, key_hash};
pub use self::journal::{ChangesSince, PageLimit};
pub use self::messages::{MasterMessage, Messages};
use self::shared::Contents;
pub use self::snapshot::{FeedProgress, MasterChange, NodeChange, Snapshot};
pub use self::subscription::Subscription;
use self::subscription::{Subscriptions, Topic};
pub use self::withholdings::{Withhold, WithholdKind, Withholdings, is_meant};
use crate::clock::{Moment, millis_since_1970};
use crate::guard::{self, Effect, Guard, Now};
use crate::metrics::Metrics;
use crate::model::{Change, Format, NodePath, Revision};
use crate::sync::Mutex;
use crate::task;

/// From this many changes on, a batch takes so long (a second for a hundred thousand) that other tasks should not wait
/// for its thread.
const LARGE_BATCH: usize = 1_000;

/// How many commands are queued for a following sidecar.
const COMMAND_QUEUE: usize = 64;

/// `[store]`: what the store remembers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many of the newest changes are kept for watchers. One that is further behind starts over.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub history: usize,
    /// How many instances the nodes of one source may register, and as many again as interfaces of applications. Those
    /// beyond a limit are omitted; `status` counts them as `undecodableNodes`. Each root has a part of its own.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_instances: usize,
    /// The limit for their decoded endpoints and metadata.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_instance_bytes: ByteSize,
    /// `[guard]`, which is a table of its own.
    #[serde(skip)]
    pub guard: guard::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            history: 65_536,
            max_instances: 500_000,
            max_instance_bytes: ByteSize::mib(256),
            guard: guard::Config::default(),
        }
    }
}

impl Config {
    fn instance_limits(&self) -> InstanceLimits {
        let bytes = usize::try_from(self.max_instance_bytes.as_u64()).unwrap_or(usize::MAX);
        InstanceLimits { instances: self.max_instances, bytes }
    }
}

/// Everything known, at its newest revision.
#[derive(Debug)]
pub struct Store {
    current: ArcSwap<Snapshot>,
    /// Held while the next snapshot is made, and whether more will be. Readers never take it.
    writer: Mutex<Writing>,
    subscriptions: Subscriptions,
    /// Commands for the sidecars that follow this one.
    commands: broadcast::Sender<Value>,
    messages: Messages,
    metrics: Arc<Metrics>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    Open,
    /// Publishing no longer changes anything.
    Frozen,
}

impl Store {
    /// A store that `feeds` will fill; their roots are disjoint.
    pub fn new(config: &Config, feeds: Vec<Feed>, metrics: Arc<Metrics>) -> Arc<Self> {
        Self::from_snapshot(Self::empty(config, feeds), metrics)
    }

    /// The same, but begins with what an earlier process left of these feeds.
    pub fn restored(config: &Config, mut feeds: Vec<Feed>, left: &Contents, metrics: Arc<Metrics>) -> Arc<Self> {
        let left = left.restore(&mut feeds, SystemTime::now());
        Self::from_snapshot(Self::empty(config, feeds).restored(left), metrics)
    }

    fn empty(config: &Config, feeds: Vec<Feed>) -> Snapshot {
        let feeds = feeds.into_iter().map(|feed| Arc::new(feed.within(config.instance_limits())));
        let feeds: Arc<[Arc<Feed>]> = feeds.collect();
        // What an application is as an interface may be of the root that maps it.
        let services = feeds.iter().flat_map(|feed| feed.services());
        let guarded = services.filter(|services| services.guard || services.format == Format::Dubbo);
        let roots: BTreeSet<usize> = guarded.map(|services| services.rank).collect();
        let guard = Guard::new(config.guard.clone(), roots.len(), Moment::now());
        Snapshot::empty(first_revision(), config.history, feeds, guard)
    }

    fn from_snapshot(first: Snapshot, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            messages: Messages::new(first_revision()),
            current: ArcSwap::from_pointee(first),
            writer: Mutex::new(Writing::Open),
            subscriptions: Subscriptions::default(),
            commands: broadcast::Sender::new(COMMAND_QUEUE),
            metrics,
        })
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The newest snapshot, with the result of `of` for it and its sources. A source vouches for what it has published:
    /// what it reports after a newer snapshot does not apply to this one.
    pub fn vouched<T>(&self, of: impl Fn(&Snapshot) -> T) -> (Arc<Snapshot>, T) {
        loop {
            let snapshot = self.snapshot();
            let said = of(&snapshot);
            if self.current.load().revision() == snapshot.revision() {
                return (snapshot, said);
            }
        }
    }

    /// Wakes the holder when something at or below one of `paths` has changed. Subscribe first, then read the snapshot:
    /// so nothing in between is missed.
    pub fn subscribe(&self, paths: &[NodePath]) -> Subscription<'_> {
        self.subscriptions.add(paths.iter().map(|path| Topic::Below(path.as_str().to_owned().into())).collect())
    }

    /// The same for masters.
    pub fn subscribe_to_masters(&self) -> Subscription<'_> {
        self.subscriptions.add(vec![Topic::Masters])
    }

    /// The same for messages of masters.
    pub fn subscribe_to_messages(&self) -> Subscription<'_> {
        self.subscriptions.add(vec![Topic::Messages])
    }

    /// The commands that masters sent unprompted.
    pub fn messages(&self) -> &Messages {
        &self.messages
    }

    /// The same for each revision, even one that watchers are not woken for.
    pub(crate) fn subscribe_to_revisions(&self) -> Subscription<'_> {
        self.subscriptions.add(vec![Topic::Revisions])
    }

    /// The handle by which the feed with this number fills the store.
    pub fn publisher(self: &Arc<Self>, feed: usize) -> Publisher {
        Publisher { feed: self.snapshot().feeds()[feed].clone(), number: feed, store: self.clone() }
    }

    /// Sends a command for masters to the sidecars that follow this one; returns how many there are.
    pub fn order(&self, command: &Value) -> usize {
        // An error means that there are no receivers.
        self.commands.send(command.clone()).unwrap_or(0)
    }

    /// Freezes the current state: what a stopping sidecar ends itself is no news about the world.
    pub fn freeze(&self) {
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = Writing::Frozen;
        self.snapshot().feeds().iter().for_each(|feed| feed.freeze());
    }

    /// Withholds instances, or stops doing so, as one revision.
    pub fn withhold(&self, changes: &[Withhold]) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if *writer == Writing::Frozen {
            return;
        }
        let mut next = Snapshot::clone(&self.current.load());
        if !next.withhold(changes) {
            return;
        }
        self.current.store(Arc::new(next));
        drop(writer);
        self.subscriptions.wake(&[], false);
    }

    /// Has the guard do something and publishes its effects as one revision; returns how many instances they concern.
    pub fn guard(&self, act: impl FnOnce(&mut Guard, Now) -> Vec<Effect>) -> usize {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if *writer == Writing::Frozen {
            return 0;
        }
        let mut next = Snapshot::clone(&self.current.load());
        let changed = next.guard(act, Now::read());
        self.current.store(Arc::new(next));
        drop(writer);
        if changed > 0 {
            self.subscriptions.wake(&[], false);
        }
        changed
    }

    /// Declares that all masters are back: none is given more time.
    pub fn end_settling(&self) {
        for feed in 0..self.snapshot().feeds().len() {
            self.publish(feed, Batch::settling(false));
        }
    }

    fn admit(&self, feed: &Arc<Feed>) -> usize {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Snapshot::clone(&self.current.load());
        let number = next.admit(feed.clone());
        self.current.store(Arc::new(next));
        number
    }

    fn publish(&self, number: usize, batch: Batch) -> Revision {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.snapshot();
        if *writer == Writing::Frozen {
            return known.revision();
        }
        let mut next = Snapshot::clone(&known);
        let feed = known.feeds()[number].as_ref();
        let told = next.apply(number, batch, Now::read());
        if let Some(proof) = told.proof
            && next.progress()[number].whole
            && !known.progress()[number].whole
        {
            // Otherwise the shared file could say, until it is written again, that the source is whole with the age of
            // something never proven, or that it is not in sync yet.
            feed.begin(proof);
        }
        let revision = next.revision();
        if told.changed {
            self.current.store(Arc::new(next));
        }
        // The proof is for what is visible now.
        told.proof.into_iter().for_each(|proof| feed.take(proof));
        drop(writer);
        if !told.changed {
            return revision;
        }
        self.metrics.changes.add(told.paths.len() as u64);
        self.subscriptions.wake(&told.paths, told.masters);
        revision
    }

    /// Publishes a part of what changes of a feed have left to read again, as one revision; returns whether it did.
    fn go_on(&self, number: usize) -> bool {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.snapshot();
        if *writer == Writing::Frozen || !known.is_deferring(number) {
            return false;
        }
        let mut next = Snapshot::clone(&known);
        let proof = next.go_on(number, Now::read());
        self.current.store(Arc::new(next));
        proof.into_iter().for_each(|proof| known.feeds()[number].take(proof));
        drop(writer);
        self.subscriptions.wake(&[], false);
        true
    }
}

/// The handle by which one source fills its part of the store.
#[derive(Clone, Debug)]
pub struct Publisher {
    store: Arc<Store>,
    feed: Arc<Feed>,
    number: usize,
}

impl Publisher {
    /// Publishes a batch as one revision, if it changes anything, and what it leaves to read again as further ones.
    pub fn publish(&self, batch: impl Into<Batch>) -> Revision {
        let revision = self.begin(batch);
        if self.is_deferring() {
            task::beside_others(|| std::iter::from_fn(|| self.go_on()).for_each(std::thread::sleep));
        }
        revision
    }

    /// The same, but leaves the further ones to [`keep_up`](Self::keep_up).
    pub fn begin(&self, batch: impl Into<Batch>) -> Revision {
        let batch = batch.into();
        // Of a whole one, all that a mapping lists may have to be read at once.
        if batch.changes.len() < LARGE_BATCH && !batch.whole {
            return self.store.publish(self.number, batch);
        }
        task::beside_others(|| self.store.publish(self.number, batch))
    }

    /// Publishes what batches leave to read again, whenever there is some.
    pub async fn keep_up(&self) -> Infallible {
        let revisions = self.store.subscribe_to_revisions();
        loop {
            while let Some(rest) = self.go_on() {
                sleep(rest).await;
            }
            revisions.changed().await;
        }
    }

    /// Publishes a part of it; returns for how long others are to have their turn then. None: there was nothing.
    fn go_on(&self) -> Option<Duration> {
        let began = Instant::now();
        (self.is_deferring() && self.store.go_on(self.number)).then(|| began.elapsed())
    }

    fn is_deferring(&self) -> bool {
        self.snapshot().is_deferring(self.number)
    }

    /// Proves that what the store holds is what the source held at that moment, or later; once nothing is left to read.
    pub fn prove(&self, at: Moment) {
        match self.is_deferring() {
            true => drop(self.begin(Batch { proof: Some(Proof::Seen(at)), ..Batch::default() })),
            false => self.feed.prove(at),
        }
    }

    pub fn publish_whole(&self, changes: Vec<Change>) -> Revision {
        self.publish(Batch::whole(changes))
    }

    /// A publisher for another source, which is not configured.
    pub fn for_another(&self, feed: Feed) -> Self {
        let feed = Arc::new(feed);
        Self { number: self.store.admit(&feed), feed, store: self.store.clone() }
    }

    /// Removes all masters that the source reported.
    pub fn clear_masters(&self) {
        self.publish(self.snapshot().leaves(self.number));
    }

    /// Removes those that were there before a restart and are not back.
    pub fn clear_expected(&self) {
        self.publish(self.snapshot().give_up_expected(self.number));
    }

    /// Removes all masters that the source reported, and the source itself.
    pub fn dismiss(self) {
        self.clear_masters();
        self.feed.go();
    }

    /// Passes on a command that a master of this user sent unprompted.
    pub fn send_message(&self, master: String, user: String, message: &Value) {
        let entry = self.snapshot().directory().master(&master).cloned();
        let services = entry.iter().flat_map(|entry| &entry.master.services);
        let services = services.map(|service| service.base_name().to_owned()).collect();
        let mut packed = Vec::new();
        rmpv::encode::write_value(&mut packed, message).expect("a vector takes all");
        let received_at = millis_since_1970(SystemTime::now()) as i64;
        self.store.messages.push(MasterMessage { master, services, user, received_at, packed });
        self.store.subscriptions.wake_for_messages();
    }

    /// The commands for the sidecars that follow this one, from now on.
    pub fn commands(&self) -> broadcast::Receiver<Value> {
        self.store.commands.subscribe()
    }

    /// The feed's number, which distinguishes the routes to a master.
    pub fn number(&self) -> usize {
        self.number
    }

    /// See [`Store::subscribe_to_masters`].
    pub fn subscribe_to_masters(&self) -> Subscription<'_> {
        self.store.subscribe_to_masters()
    }

    /// What the source reports about itself.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// The newest snapshot. Only this source writes its part of it.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.store.snapshot()
    }

    /// What the snapshot holds from this source.
    pub fn progress(&self) -> FeedProgress {
        self.store.snapshot().progress()[self.number]
    }
}

/// Revisions of this process are greater than those of the previous one: they start from the wall clock in
/// microseconds, and fewer than a million are published per second.
fn first_revision() -> Revision {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since_1970.as_micros() as Revision
}

#[cfg(test)]
mod tests;
