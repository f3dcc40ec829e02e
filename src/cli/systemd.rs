//! What systemd is told: that the sidecar is ready, that it still answers, that it stops.

use std::future::pending;
use std::time::Duration;

use roster::net::Address;
use roster::task::unawaited;
use roster::thrift::client::Client;
use sd_notify::NotifyState;
use tokio::sync::oneshot;
use tokio::time::{Interval, MissedTickBehavior, interval};

pub(crate) struct Systemd {
    address: Option<Address>,
    /// How often the watchdog wants to be fed; None: it sleeps.
    feeding: Option<Interval>,
    /// How long an answer may take.
    patience: Duration,
}

impl Systemd {
    /// Says that it is ready. Where there is no systemd, this and all else does nothing.
    pub(crate) fn ready(addresses: &[Address]) -> Self {
        notify(&[NotifyState::Ready]);
        let patience = sd_notify::watchdog_enabled().unwrap_or_default() / 3;
        let feeding = (!patience.is_zero()).then(|| {
            let mut feeding = interval(patience);
            feeding.set_missed_tick_behavior(MissedTickBehavior::Delay);
            feeding
        });
        Self { address: addresses.first().cloned(), feeding, patience }
    }

    /// Feeds the watchdog, when it is time to, if the endpoint answers as it would answer any client.
    pub(crate) async fn watchdog(&mut self) {
        let Some(feeding) = &mut self.feeding else { return pending().await };
        feeding.tick().await;
        let Some(address) = self.address.clone() else { return };
        match ask(address, self.patience).await {
            Ok(()) => notify(&[NotifyState::Watchdog]),
            Err(error) => tracing::error!(%error, "the endpoint does not answer; the watchdog is not fed"),
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
