#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod config;
mod error;
mod event;
mod link;
mod service;
mod session;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub use config::Config;
pub use error::MethodError;
pub use event::{Event, Events, Lost};
pub use roster_tunnel::{Bounds, CloseReason, OnSilence, RegisterAddr, Settings, Token, Value};
pub use service::{Service, Values};

/// How many events are queued for each receiver.
const EVENT_QUEUE: usize = 256;

/// How much longer a stop may take after the time for calls.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// A running master. Leaves its registers when dropped.
#[derive(Debug)]
pub struct Master(Arc<Shared>);

/// What the connections to registers share.
#[derive(Debug)]
struct Shared {
    id: String,
    config: Config,
    tasks: TaskTracker,
    services: watch::Sender<Services>,
    /// The registers, and the token that makes each connection leave.
    links: Mutex<HashMap<RegisterAddr, CancellationToken>>,
    leave: CancellationToken,
    events: broadcast::Sender<Event>,
}

/// The services by name.
type Services = Arc<BTreeMap<String, Service>>;

impl Master {
    /// Starts a master without registers or services. Its tasks run on the runtime in which [`Master::connect`] is
    /// called.
    pub fn start(config: Config) -> Self {
        Self(Arc::new(Shared {
            id: Uuid::new_v4().to_string(),
            config,
            tasks: TaskTracker::new(),
            services: watch::Sender::default(),
            links: Mutex::default(),
            leave: CancellationToken::new(),
            events: broadcast::Sender::new(EVENT_QUEUE),
        }))
    }

    /// The id by which all Roster registers know this master, for its lifetime.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The events from now on.
    pub fn events(&self) -> Events {
        Events(self.0.events.subscribe())
    }

    /// Connects to a register, and again whenever the connection is lost, unless that is already the case. Uses TLS if
    /// the host begins with `tls://`, and a Unix socket for [`RegisterAddr::unix`].
    pub fn connect(&self, register: impl Into<RegisterAddr>) {
        self.0.join(register.into(), usize::MAX);
    }

    /// Leaves a register: calls under way may complete, new ones are refused.
    pub fn remove(&self, register: impl Into<RegisterAddr>) {
        self.0.leave(&register.into());
    }

    /// Offers a service, replacing one with the same name.
    pub fn offer(&self, service: Service) {
        self.0.services.send_modify(|services| {
            Arc::make_mut(services).insert(service.name.clone(), service);
        });
    }

    /// Withdraws a service. Calls under way are not affected.
    pub fn withdraw(&self, name: &str) {
        self.0.services.send_if_modified(|services| Arc::make_mut(services).remove(name).is_some());
    }

    /// Leaves all registers, and waits until that is done.
    pub async fn stop(self) {
        self.0.leave.cancel();
        self.0.tasks.close();
        // What has not ended by then ends with the runtime.
        let _ = timeout(self.0.config.drain.saturating_add(STOP_GRACE), self.0.tasks.wait()).await;
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.0.leave.cancel();
    }
}

impl Shared {
    fn join(self: &Arc<Self>, register: RegisterAddr, most: usize) {
        let mut links = self.links();
        if links.contains_key(&register) {
            return;
        }
        if links.len() >= most {
            tracing::warn!(?register, most, "not joined: too many registers");
            return;
        }
        let leave = self.leave.child_token();
        links.insert(register.clone(), leave.clone());
        self.tasks.spawn(link::keep(self.clone(), register, leave));
    }

    fn leave(&self, register: &RegisterAddr) {
        if let Some(leave) = self.links().remove(register) {
            leave.cancel();
        }
    }

    /// Sends an event to the receivers, if any.
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    fn links(&self) -> MutexGuard<'_, HashMap<RegisterAddr, CancellationToken>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
