//! Health, for probes.

use axum::http::StatusCode;

use crate::store::Snapshot;

/// Whether each source has been read as a whole once, or is known from an earlier run: then every question has an
/// answer, even if an old one. What is old on purpose is ready.
pub(super) fn ready(snapshot: &Snapshot) -> (StatusCode, String) {
    let missing: Vec<String> = snapshot
        .behind_all()
        .filter(|(feed, progress)| feed.counts(progress.whole) && !progress.whole)
        .map(|(feed, _)| format!("waiting for {}\n", feed.name()))
        .collect();
    if missing.is_empty() {
        (StatusCode::OK, "ready\n".into())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, missing.concat())
    }
}
