//! Subscriptions: who waits for changes below which path.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use tokio::sync::Notify;

use crate::model::NodePath;
use crate::sync::{Mutex, MutexGuard};

/// By path and by the number of the subscription.
type Waiting = HashMap<Box<str>, HashMap<u64, Arc<Notify>>>;

/// Where those wait who wait for masters. No path is like it.
pub(super) const MASTERS: &str = "masters";

/// Where those wait who wait for each revision.
pub(super) const REVISIONS: &str = "revisions";

/// Where those wait who wait for messages of masters.
pub(super) const MESSAGES: &str = "messages";

/// With more changed paths than this, everybody is woken: cheaper than to find out who is concerned.
const WAKE_ALL: usize = 4_096;

/// Those who wait, by the path below which they wait. A change looks only at its own path and those above it, so
/// that it wakes nobody whom it does not concern.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    waiting: Mutex<Waiting>,
    next_id: AtomicU64,
}

/// One who waits; dropped, it no longer does.
#[derive(Debug)]
pub struct Subscription<'a> {
    all: &'a Subscriptions,
    id: u64,
    keys: Vec<Box<str>>,
    changed: Arc<Notify>,
}

impl Subscriptions {
    pub(super) fn add(&self, keys: Vec<Box<str>>) -> Subscription<'_> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let changed = Arc::new(Notify::new());
        let mut waiting = self.lock();
        for key in &keys {
            waiting.entry(key.clone()).or_default().insert(id, changed.clone());
        }
        Subscription { all: self, id, keys, changed }
    }

    pub(super) fn wake(&self, changed: &[NodePath], masters: bool) {
        let waiting = self.lock();
        if waiting.is_empty() {
            return;
        }
        if changed.len() > WAKE_ALL {
            return waiting.values().flat_map(HashMap::values).for_each(|one| one.notify_one());
        }
        let paths = changed.iter().flat_map(NodePath::upwards);
        for key in paths.chain(masters.then_some(MASTERS)).chain([REVISIONS]) {
            if let Some(concerned) = waiting.get(key) {
                concerned.values().for_each(|one| one.notify_one());
            }
        }
    }

    /// Wakes those who wait for messages.
    pub(super) fn wake_for_messages(&self) {
        if let Some(waiting) = self.lock().get(MESSAGES) {
            waiting.values().for_each(|one| one.notify_one());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
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
        for key in &self.keys {
            if let Some(those) = waiting.get_mut(key) {
                those.remove(&self.id);
                if those.is_empty() {
                    waiting.remove(key);
                }
            }
        }
    }
}
