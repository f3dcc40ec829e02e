//! The register: accepts masters, keeps their sessions, carries calls to them.
//!
//! Unmodified PHP masters of `reactphp-x/register-center` connect to it as to their own. Nothing that a master sends
//! is executed or unserialized; what PHP masters are asked to run is a constant text of ours (`tunnel::php`).

mod config;
mod line;
mod lobby;
mod question;
mod secrets;
mod session;
mod subscriber;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use uuid::Uuid;

pub use self::config::{Config, Tls};
use self::lobby::Lobby;
use self::secrets::Secrets;
pub use self::secrets::{EXAMPLE_TOKEN, SecretError};
use crate::model::Change;
use crate::net::tls::{self, TlsError};
use crate::net::{Address, BindError, Bound};
use crate::store::{FeedState, Publisher};
use crate::task::{Reload, Stop, Tasks};
use crate::tunnel::UnderWay;

/// After the start, masters are given so long to come back before their absence is an answer.
const SETTLE: Duration = Duration::from_secs(3);

/// How often the register proves that it is in step with its masters, which it is by being there.
const PROVE: Duration = Duration::from_secs(2);

/// A bound register, which nobody has been let into yet.
#[derive(Debug)]
pub struct Register {
    config: Config,
    bound: Bound,
    secrets: Secrets,
    tls: Option<tls::Server>,
    is_loopback: bool,
}

/// Why the register cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("register.tls: {0}")]
    Tls(#[from] TlsError),
}

/// What all sessions share.
#[derive(Debug)]
struct Hall {
    config: Config,
    /// Masters that have no id of their own are called by this, and a number.
    name: String,
    publisher: Publisher,
    secrets: Arc<ArcSwap<Secrets>>,
    secrets_changed: watch::Receiver<()>,
    /// None: masters connect without TLS.
    tls: Option<ArcSwap<tls::Server>>,
    lobby: Arc<Lobby>,
    places: UnderWay,
    /// Masters that do not tell their services, and are not listed.
    untold: UnderWay,
    tasks: Tasks,
    numbers: AtomicU64,
    /// By the id of a master, what its sessions told last, by their numbers.
    sessions: Mutex<HashMap<String, BTreeMap<u64, Change>>>,
}

impl Register {
    /// Begins to listen, and reads the secrets.
    pub fn bind(config: &Config) -> Result<Self, RegisterError> {
        let bound = Bound::tcp("register.listen", &config.listen)?;
        let is_loopback = match bound.address() {
            Address::Tcp(address) => address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback()),
            Address::Unix(_) => true,
        };
        let secrets = Secrets::read(config, is_loopback)?;
        let tls = config.tls.as_ref().map(Tls::read).transpose()?;
        Ok(Self { config: config.clone(), bound, secrets, tls, is_loopback })
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        self.bound.address()
    }

    /// Lets masters in, until the stop.
    pub fn start(self, publisher: Publisher, tasks: &Tasks, reload: Reload) {
        let Self { config, bound, secrets, tls, is_loopback } = self;
        let (changed, secrets_changed) = watch::channel(());
        let hall = Arc::new(Hall {
            name: Uuid::new_v4().simple().to_string()[..8].to_owned(),
            publisher,
            secrets: Arc::new(ArcSwap::from_pointee(secrets)),
            secrets_changed,
            tls: tls.map(ArcSwap::from_pointee),
            lobby: Lobby::new(&config),
            places: UnderWay::default(),
            untold: UnderWay::default(),
            tasks: tasks.clone(),
            numbers: AtomicU64::new(1),
            sessions: Mutex::default(),
            config,
        });
        let tasks = hall.tasks.clone();
        tasks.critical("the register's keeper", keep(hall.clone(), changed, is_loopback, reload, tasks.stop_signal()));
        tasks.clone().critical("the register", async move {
            let stop = tasks.stop_signal();
            let accepted = bound.accept(&stop, |stream| {
                if let Some(address) = stream.keep_alive()
                    && let Some(guest) = hall.lobby.enter(address.ip())
                {
                    tasks.short(session::serve(stream, address, guest, hall.clone()));
                }
            });
            if let Err(error) = accepted.await {
                tracing::error!(%error, "the register cannot accept");
            }
        });
    }
}

/// Tells the store that the register is in step, and reads the secrets again when asked to.
async fn keep(hall: Arc<Hall>, changed: watch::Sender<()>, is_loopback: bool, mut reload: Reload, stop: Stop) {
    let feed = hall.publisher.feed();
    feed.enter(FeedState::Syncing, "giving masters time to connect");
    let settled = Instant::now() + SETTLE;
    loop {
        if Instant::now() >= settled {
            let is_first = feed.state() != FeedState::Live;
            feed.enter(FeedState::Live, suffering(hall.untold.get()));
            feed.prove(Instant::now());
            if is_first {
                // After the proof: the shared file would tell that it is whole with the age of something never proven.
                hall.publisher.publish_whole(Vec::new());
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PROVE) => {}
            () = reload.requested() => hall.read_again(&changed, is_loopback),
            () = stop.requested() => return,
        }
    }
}

fn suffering(untold: usize) -> String {
    match untold {
        0 => String::new(),
        1 => "1 of the masters gives no list of services; the log says why".into(),
        more => format!("{more} of the masters give no list of services; the log says why"),
    }
}

impl Hall {
    /// Reads what an operator may have changed; each part that cannot be had stays as it was.
    fn read_again(&self, changed: &watch::Sender<()>, is_loopback: bool) {
        match Secrets::read(&self.config, is_loopback) {
            Ok(secrets) => {
                self.secrets.store(Arc::new(secrets));
                changed.send_replace(());
            }
            Err(error) => tracing::error!(%error, "cannot read the register's secrets again; the old ones stand"),
        }
        if let (Some(files), Some(tls)) = (&self.config.tls, &self.tls) {
            match files.read() {
                Ok(server) => tls.store(Arc::new(server)),
                Err(error) => tracing::error!(%error, "cannot read register.tls again; the old certificate stands"),
            }
        }
    }

    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Publishes what a session says of its master: the newest session of an id speaks for it, and when that has ended,
    /// the one before.
    fn publish(&self, id: &str, number: u64, change: Change) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let speakers = sessions.entry(id.to_owned()).or_default();
        let spoke = speakers.last_key_value().map(|(speaker, _)| *speaker);
        match change {
            Change::Leave(_) => drop(speakers.remove(&number)),
            _ => drop(speakers.insert(number, change.clone())),
        }
        // Under the lock, so that the store hears of them in the same order.
        match speakers.last_key_value() {
            Some((speaker, told)) if *speaker == number || Some(*speaker) != spoke => {
                self.publisher.publish(vec![told.clone()]);
            }
            Some(_) => {}
            None => {
                sessions.remove(id);
                if spoke.is_some() {
                    self.publisher.publish(vec![change]);
                }
            }
        }
    }
}
