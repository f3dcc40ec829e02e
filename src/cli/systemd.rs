//! Notifications to systemd: that the sidecar is ready, that it still answers, that it stops.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use roster::net::Address;
use roster::task::unawaited;
use roster::thrift::client::Client;
use sd_notify::NotifyState;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

pub(crate) struct Systemd {
    address: Option<Address>,
    /// How often the watchdog is fed, and how long an answer may take; zero: it sleeps.
    patience: Duration,
}

impl Systemd {
    /// Says that it is ready. Where there is no systemd, this and all else does nothing.
    pub(crate) fn ready(addresses: &[Address]) -> Self {
        notify(&[NotifyState::Ready]);
        let patience = sd_notify::watchdog_enabled().unwrap_or_default() / 3;
        Self { address: addresses.first().cloned(), patience }
    }

    /// Feeds the watchdog for ever, if the endpoint answers as it would answer any client. It is to go on where it was:
    /// who begins it anew in the midst of a question misses a meal.
    pub(crate) async fn feed_watchdog(&self) -> Infallible {
        let Some(address) = self.address.as_ref().filter(|_| !self.patience.is_zero()) else { return pending().await };
        let mut feeding = interval(self.patience);
        feeding.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            feeding.tick().await;
            match ask(address.clone(), self.patience).await {
                Ok(()) => notify(&[NotifyState::Watchdog]),
                Err(error) => tracing::error!(%error, "the endpoint does not answer; the watchdog is not fed"),
            }
        }
    }

    pub(crate) fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }
}

/// Asks on a thread of its own, since those that the runtime has for blocking work may all be busy with it.
async fn ask(address: Address, patience: Duration) -> anyhow::Result<()> {
    let (answered, answer) = oneshot::channel();
    unawaited("watchdog", move || {
        // Nobody takes it at the stop.
        let _ = answered.send(Client::new(address, patience).status());
    })?;
    answer.await??;
    Ok(())
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
