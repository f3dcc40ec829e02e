//! The handshake: connections that have not authenticated yet. Silent ones keep nobody out.
//!
//! All are served concurrently, so that a master with a token waits for nobody. When places are scarce, the user with
//! the most connections loses its oldest; when they begin to be, slow ones are closed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::WaitForCancellationFuture;

use super::Origin;
use crate::metrics::Metrics;
use crate::net::User;
use crate::places::{Place, Places};

/// How long an unauthenticated connection may take when more than half of the places are taken.
const HURRIED_TIMEOUT: Duration = Duration::from_secs(1);

/// How often refusals are logged, however many there are.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Handshakes {
    places: Arc<Places<User>>,
    refusals: Mutex<Refusals>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Refusals {
    unlogged: u64,
    logged: Option<Instant>,
}

/// An unauthenticated connection. Dropping it frees its place.
#[derive(Debug)]
pub(super) struct PendingConnection {
    place: Place<User>,
    handshakes: Arc<Handshakes>,
}

impl Handshakes {
    pub(super) fn new(max: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        let places = Places::new(max, Some(HURRIED_TIMEOUT));
        Arc::new(Self { places, refusals: Mutex::default(), metrics })
    }

    /// Takes a place for a connection, evicting another if necessary.
    pub(super) fn begin(self: &Arc<Self>, user: User) -> PendingConnection {
        self.metrics.masters_unauthenticated.add(1);
        PendingConnection { place: self.places.take(user), handshakes: self.clone() }
    }

    /// Counts a connection that was refused, and logs how many there were, once a minute.
    pub(super) fn refused(&self, origin: &Origin, why: &str) {
        self.metrics.masters_refused.increment();
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.unlogged += 1;
        if refusals.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            let last = origin.peer.to_string();
            tracing::warn!(refused = refusals.unlogged, last, why, "masters were refused");
            *refusals = Refusals { unlogged: 0, logged: Some(Instant::now()) };
        }
    }
}

impl PendingConnection {
    /// When places are scarce, this one is evicted before those of its user that did not present a wrong token.
    pub(super) fn yield_first(&self) {
        self.place.set_yielding(true);
    }

    /// Waits until the place is given to another connection.
    pub(super) fn evicted(&self) -> WaitForCancellationFuture<'_> {
        self.place.evicted()
    }
}

impl Drop for PendingConnection {
    fn drop(&mut self) {
        self.handshakes.metrics.masters_unauthenticated.sub(1);
    }
}
