//! Notifications to systemd: ready, alive, stopping.

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
    /// How often to feed the watchdog, and how long an answer may take; zero: there is no watchdog.
    patience: Duration,
}

impl Systemd {
    /// Reports readiness. Without systemd, this and everything else here does nothing.
    pub(crate) fn ready(addresses: &[Address]) -> Self {
        notify(&[NotifyState::Ready]);
        let patience = sd_notify::watchdog_enabled().unwrap_or_default() / 3;
        Self { address: addresses.first().cloned(), patience }
    }

    /// Feeds the watchdog forever, as long as the endpoint answers like any client's. Do not drop and call it again in
    /// the middle of a question: that skips a feed.
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

/// Asks on a separate thread, since the runtime's blocking threads may all be busy.
async fn ask(address: Address, patience: Duration) -> anyhow::Result<()> {
    let (answered, answer) = oneshot::channel();
    unawaited("watchdog", move || {
        // The receiver is gone when stopping.
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
