//! Subscriptions: who waits for changes below which path.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use tokio::sync::Notify;

use crate::model::NodePath;
use crate::sync::{Mutex, MutexGuard};

/// What a subscription waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Topic<'a> {
    /// Changes at a path and below it.
    Below(Cow<'a, str>),
    /// Changes of masters.
    Masters,
    /// Each revision.
    Revisions,
    /// Messages of masters.
    Messages,
}

/// By subscription number.
type Waiting<'a> = HashMap<Topic<'a>, HashMap<u64, Arc<Notify>>>;

/// With more changed paths than this, all subscriptions are woken: cheaper than finding those concerned.
const WAKE_ALL_THRESHOLD: usize = 4_096;

/// All subscriptions, by topic. A change looks only at its own path and its ancestors, so that it wakes none that it
/// does not concern.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    waiting: Mutex<Waiting<'static>>,
    next_id: AtomicU64,
}

/// A subscription, until dropped.
#[derive(Debug)]
pub struct Subscription<'a> {
    all: &'a Subscriptions,
    id: u64,
    topics: Vec<Topic<'static>>,
    changed: Arc<Notify>,
}

impl Subscriptions {
    pub(super) fn add(&self, topics: Vec<Topic<'static>>) -> Subscription<'_> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let changed = Arc::new(Notify::new());
        let mut waiting = self.lock();
        for topic in &topics {
            waiting.entry(topic.clone()).or_default().insert(id, changed.clone());
        }
        Subscription { all: self, id, topics, changed }
    }

    pub(super) fn wake(&self, changed: &[NodePath], masters: bool) {
        let waiting = self.lock();
        if waiting.is_empty() {
            return;
        }
        if changed.len() > WAKE_ALL_THRESHOLD {
            return waiting.values().flat_map(HashMap::values).for_each(|one| one.notify_one());
        }
        let waiting: &Waiting<'_> = &waiting;
        let paths = changed.iter().flat_map(NodePath::upwards).map(|path| Topic::Below(path.into()));
        for topic in paths.chain(masters.then_some(Topic::Masters)).chain([Topic::Revisions]) {
            if let Some(concerned) = waiting.get(&topic) {
                concerned.values().for_each(|one| one.notify_one());
            }
        }
    }

    /// Wakes the subscriptions to messages.
    pub(super) fn wake_for_messages(&self) {
        if let Some(waiting) = self.lock().get(&Topic::Messages) {
            waiting.values().for_each(|one| one.notify_one());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<'static>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription<'_> {
    /// Waits for the next change since the last call, or since the subscription began.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        let mut waiting = self.all.lock();
        for topic in &self.topics {
            if let Some(those) = waiting.get_mut(topic) {
                those.remove(&self.id);
                if those.is_empty() {
                    waiting.remove(topic);
                }
            }
        }
    }
}
