//! The store: one writer publishes snapshots, any number of readers hold them without locks.

mod batch;
mod directory;
#[cfg(all(test, feature = "shuttle"))]
mod exploration;
mod feed;
mod identity;
mod instances;
mod journal;
mod messages;
mod retired;
pub mod shared;
mod snapshot;
mod subscription;
mod withholdings;

use std::sync::{Arc, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytesize::ByteSize;
use rmpv::Value;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

pub use self::batch::{Batch, Proof};
pub use self::directory::{Directory, InstanceLimits, MasterEntry};
pub(crate) use self::directory::{ProviderChange, ReportedBy};
pub use self::feed::{Feed, FeedState, left_out, no_node};
pub use self::identity::Identity;
pub use self::instances::{InstanceSet, Instances, Lot, Provider, count_of_held, key_hash};
pub use self::journal::{ChangesSince, PageLimit};
pub use self::messages::{MasterMessage, Messages};
use self::shared::Contents;
pub use self::snapshot::{FeedProgress, MasterChange, NodeChange, Snapshot};
pub use self::subscription::Subscription;
use self::subscription::{Subscriptions, Topic};
pub use self::withholdings::{Withhold, WithholdKind, Withholdings, is_meant};
use crate::clock::millis_since_1970;
use crate::guard::{self, Effect, Guard, Now};
use crate::metrics::Metrics;
use crate::model::{Change, NodePath, Revision};
use crate::sync::Mutex;
use crate::task;

/// So many changes take so long, a second for a hundred thousand, that other tasks are not to wait for their thread.
const LARGE_BATCH: usize = 1_000;

/// How many commands wait for a sidecar that follows this one.
const COMMAND_QUEUE: usize = 64;

/// `[store]`: what the store remembers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many of the newest changes are remembered for watchers. One that is further behind starts over.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub history: usize,
    /// How many instances the nodes of one source may register, and so many more as interfaces of applications. One that
    /// passes a limit is left out; `status` counts them as `undecodableNodes`.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_instances: usize,
    /// Of their endpoints and metadata, as they are decoded.
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
    /// Held while the next snapshot is made; whether one still is. Readers never take it.
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
    /// What is published changes nothing any more.
    Frozen,
}

impl Store {
    /// A store that `feeds` will fill, each its own roots; none of these lies within another.
    pub fn new(config: &Config, feeds: Vec<Feed>, metrics: Arc<Metrics>) -> Arc<Self> {
        Self::from_snapshot(Self::empty(config, feeds), metrics)
    }

    /// The same, but it begins with what an earlier process left of these feeds.
    pub fn restored(config: &Config, mut feeds: Vec<Feed>, left: &Contents, metrics: Arc<Metrics>) -> Arc<Self> {
        let left = left.restore(&mut feeds, SystemTime::now());
        Self::from_snapshot(Self::empty(config, feeds).restored(left), metrics)
    }

    fn empty(config: &Config, feeds: Vec<Feed>) -> Snapshot {
        let feeds = feeds.into_iter().map(|feed| Arc::new(feed.within(config.instance_limits())));
        Snapshot::empty(first_revision(), config.history, feeds.collect(), Guard::new(config.guard.clone()))
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

    /// The newest snapshot, with what `of` says of it and of its sources. A source vouches for what it has published:
    /// what it says after a newer snapshot has come is not said of this one.
    pub fn vouched<T>(&self, of: impl Fn(&Snapshot) -> T) -> (Arc<Snapshot>, T) {
        loop {
            let snapshot = self.snapshot();
            let said = of(&snapshot);
            if self.current.load().revision() == snapshot.revision() {
                return (snapshot, said);
            }
        }
    }

    /// Wakes the holder when something at or below one of `paths` has changed. Subscribe first, then look at the
    /// snapshot: so nothing is missed in between.
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

    /// What masters sent of their own accord.
    pub fn messages(&self) -> &Messages {
        &self.messages
    }

    /// The same for each revision, also one of which watchers do not hear.
    pub(crate) fn subscribe_to_revisions(&self) -> Subscription<'_> {
        self.subscriptions.add(vec![Topic::Revisions])
    }

    /// The handle by which the feed with this number fills the store.
    pub fn publisher(self: &Arc<Self>, feed: usize) -> Publisher {
        Publisher { feed: self.snapshot().feeds()[feed].clone(), number: feed, store: self.clone() }
    }

    /// Tells the sidecars that follow this one a command for masters; how many they are.
    pub fn order(&self, command: &Value) -> usize {
        // Nobody listens where there are none.
        self.commands.send(command.clone()).unwrap_or(0)
    }

    /// Keeps everything as it is now, for good: what a sidecar that stops ends itself is no news about the world.
    pub fn freeze(&self) {
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = Writing::Frozen;
        self.snapshot().feeds().iter().for_each(|feed| feed.freeze());
    }

    /// Withholds instances from who chooses, or does so no longer, as one revision.
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

    /// Has the guard do something, whose effects are one revision; how many instances they are of.
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

    /// Says that all masters are there: none is given any more time to come back.
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
        let (feed, proof) = (known.feeds()[number].as_ref(), batch.proof);
        let told = next.apply(number, batch, Now::read());
        if let Some(proof) = proof
            && next.progress()[number].whole
            && !known.progress()[number].whole
        {
            // Else the shared file could say, until it is written again, that the source is whole with the age of
            // something never proven, or that it is not in sync yet.
            feed.begin(proof);
        }
        let revision = next.revision();
        if told.changed {
            self.current.store(Arc::new(next));
        }
        // What is proven is what can be read now.
        proof.into_iter().for_each(|proof| feed.take(proof));
        drop(writer);
        if !told.changed {
            return revision;
        }
        self.metrics.changes.add(told.paths.len() as u64);
        self.subscriptions.wake(&told.paths, told.masters);
        revision
    }
}

/// By which one source fills its part of the store.
#[derive(Clone, Debug)]
pub struct Publisher {
    store: Arc<Store>,
    feed: Arc<Feed>,
    number: usize,
}

impl Publisher {
    /// Publishes as one revision; none is made when nothing differs.
    pub fn publish(&self, batch: impl Into<Batch>) -> Revision {
        let batch = batch.into();
        if batch.changes.len() < LARGE_BATCH {
            return self.store.publish(self.number, batch);
        }
        task::beside_others(|| self.store.publish(self.number, batch))
    }

    pub fn publish_whole(&self, changes: Vec<Change>) -> Revision {
        self.publish(Batch::whole(changes))
    }

    /// For one more source, which nobody has configured.
    pub fn for_another(&self, feed: Feed) -> Self {
        let feed = Arc::new(feed);
        Self { number: self.store.admit(&feed), feed, store: self.store.clone() }
    }

    /// Takes away all masters that the source reported.
    pub fn clear_masters(&self) {
        self.publish(self.snapshot().leaves(self.number));
    }

    /// Takes away those that were there before a restart and have not come back.
    pub fn clear_expected(&self) {
        self.publish(self.snapshot().give_up_expected(self.number));
    }

    /// Takes away all masters that the source reported; and the source is no more.
    pub fn dismiss(self) {
        self.clear_masters();
        self.feed.go();
    }

    /// Passes on a command that a master of this user sent of its own accord.
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

    /// The feed's number, by which the routes to a master are distinguished.
    pub fn number(&self) -> usize {
        self.number
    }

    /// See [`Store::subscribe_to_masters`].
    pub fn subscribe_to_masters(&self) -> Subscription<'_> {
        self.store.subscribe_to_masters()
    }

    /// What the source says of itself.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// The newest snapshot. Nobody else writes this source's part of it.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.store.snapshot()
    }

    /// What the snapshot holds from this source.
    pub fn progress(&self) -> FeedProgress {
        self.store.snapshot().progress()[self.number]
    }
}

/// Revisions of this process are greater than those of the one before it: they start from the wall clock in
/// microseconds, and fewer than a million are published in a second.
fn first_revision() -> Revision {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since_1970.as_micros() as Revision
}

#[cfg(test)]
mod tests;
