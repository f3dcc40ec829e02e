//! Warns of roots of `[[services]]` below which nothing is registered a while after the first read.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::sleep;

use crate::store::{Feed, Store};
use crate::task::Stop;

/// How often to check whether a source has been read.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long after the first read something may still be registered.
const PATIENCE: Duration = Duration::from_secs(5);

/// Warns once of each such root.
pub async fn warn_of_idle_roots(store: Arc<Store>, stop: Stop) {
    let feeds = store.snapshot().feeds().to_vec();
    let mapped = feeds.iter().filter(|feed| !feed.services().is_empty());
    tokio::select! {
        _ = join_all(mapped.map(|feed| warn_of(&store, feed))) => {}
        () = stop.requested() => {}
    }
}

async fn warn_of(store: &Store, feed: &Feed) {
    while !feed.was_in_sync() {
        sleep(LOOK_INTERVAL).await;
    }
    sleep(PATIENCE).await;
    for why in store.snapshot().idle_roots(feed) {
        tracing::warn!(source = feed.name(), "{why}");
    }
}
