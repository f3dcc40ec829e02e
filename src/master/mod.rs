//! The master: announces services to registers and answers their calls.
//!
//! A master connects to one register or several, all of the time: what is lost is made again. It offers services,
//! which can be added and withdrawn while it runs; registers are told. It speaks as the PHP package
//! `reactphp-x/register-center` does, so that it can also be listed by a register of PHP; but it runs no closure.
//!
//! ```no_run
//! use roster::master::{Config, Master, Service, Value};
//! # async fn shown() -> Result<(), Box<dyn std::error::Error>> {
//! let master = Master::start(Config::new(std::env::var("REGISTER_TOKEN")?));
//! let greeter = Service::new("greeter")
//!     .metadata("version", "1.2.0")
//!     .method("hello", |(name,): (String,)| async move { Ok(format!("Hello, {name}")) })
//!     .stream("count", |_: Value, values| async move {
//!         for number in 1..=3 {
//!             values.send(number).await?;
//!         }
//!         Ok(())
//!     });
//! master.offer(greeter);
//! master.connect(("127.0.0.1", 8010));
//! tokio::signal::ctrl_c().await?;
//! master.stop().await;
//! # Ok(())
//! # }
//! ```

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
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::task::Tasks;
pub use crate::tunnel::{RegisterAddr, Value};
pub use config::Config;
pub use error::MethodError;
pub use event::{Event, Events, Lost};
pub use service::{Service, Values};

/// How many events wait for who takes them.
const EVENT_QUEUE: usize = 256;

/// What a stop may take after calls have had their time.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// A running master. Dropped, it leaves its registers.
#[derive(Debug)]
pub struct Master(Arc<Shared>);

/// What the connections to registers have in common.
#[derive(Debug)]
struct Shared {
    id: String,
    config: Config,
    tasks: Tasks,
    services: watch::Sender<Services>,
    /// The registers, and what tells each connection that it should leave.
    links: Mutex<HashMap<RegisterAddr, CancellationToken>>,
    leave: CancellationToken,
    events: broadcast::Sender<Event>,
}

/// The services by their names.
type Services = Arc<BTreeMap<String, Service>>;

impl Master {
    /// Starts a master, which knows no register yet and offers nothing. Its tasks run on the runtime in which
    /// [`Master::connect`] is called.
    pub fn start(config: Config) -> Self {
        let (tasks, _) = Tasks::new();
        Self(Arc::new(Shared {
            id: Uuid::new_v4().to_string(),
            config,
            tasks,
            services: watch::Sender::default(),
            links: Mutex::default(),
            leave: CancellationToken::new(),
            events: broadcast::Sender::new(EVENT_QUEUE),
        }))
    }

    /// By which all registers of Roster know this master, as long as it lives.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// What happens from now on.
    pub fn events(&self) -> Events {
        Events(self.0.events.subscribe())
    }

    /// Connects to a register, and again whenever the connection is lost, unless it does already: to one whose host
    /// begins with `tls://` by TLS, and to one of [`RegisterAddr::unix`] by its socket.
    pub fn connect(&self, register: impl Into<RegisterAddr>) {
        self.0.join(register.into(), usize::MAX);
    }

    /// Leaves a register: calls under way may end, new ones are refused.
    pub fn remove(&self, register: impl Into<RegisterAddr>) {
        self.0.leave(&register.into());
    }

    /// Offers a service, or another in the place of one with the same name.
    pub fn offer(&self, service: Service) {
        self.0.services.send_modify(|services| {
            Arc::make_mut(services).insert(service.name.clone(), service);
        });
    }

    /// Offers a service no more. Calls under way end as they would have.
    pub fn withdraw(&self, name: &str) {
        self.0.services.send_if_modified(|services| Arc::make_mut(services).remove(name).is_some());
    }

    /// Leaves all registers, and waits until that is done.
    pub async fn stop(self) {
        self.0.leave.cancel();
        self.0.tasks.stop(self.0.config.drain.saturating_add(STOP_GRACE)).await;
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
        self.tasks.short(link::keep(self.clone(), register, leave));
    }

    fn leave(&self, register: &RegisterAddr) {
        if let Some(leave) = self.links().remove(register) {
            leave.cancel();
        }
    }

    /// Tells who listens, if anyone does.
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    fn links(&self) -> MutexGuard<'_, HashMap<RegisterAddr, CancellationToken>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
