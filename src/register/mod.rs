//! The register: accepts masters, keeps their sessions, carries calls to them.
//!
//! Unmodified PHP masters of `reactphp-x/register-center` connect to it as to their own. Nothing that a master sends is
//! executed or unserialized; the code that PHP masters are asked to run is a constant of ours (`tunnel::php`).

mod config;
mod handshake;
mod ids;
mod line;
mod offered;
mod presence;
mod report;
mod reported;
mod returning;
mod secrets;
mod service_query;
mod session;
mod settling;
mod subscriber;
mod token_file;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

pub use self::config::{Config, Tls};
use self::handshake::Handshakes;
use self::ids::Ids;
use self::presence::Presence;
use self::reported::Reported;
use self::returning::Returning;
use self::secrets::Secrets;
pub use self::secrets::{EXAMPLE_TOKEN, SecretError};
use self::settling::{CHECK_INTERVAL, Settling};
use crate::metrics::Metrics;
use crate::model::Change;
use crate::net::tls::{self, TlsError};
use crate::net::{Accepted, Address, BindError, Listener, Peer, Peers, TakenPorts, User};
use crate::share::{KEPT_FOR_ADMINS, Pool, Shares};
use crate::store::Publisher;
use crate::task::{Reload, Stop, Tasks};
use crate::tunnel::InFlight;
use crate::tunnel::worker::Channel;

/// How often the register reports to be in sync with its masters, which it always is.
const PROOF_INTERVAL: Duration = Duration::from_secs(2);

/// A user may take this many times the places and metadata that it leaves free: seven eighths if alone, seven
/// fifteenths for each of two users.
const GREED: usize = 7;

/// A bound register that does not accept masters yet.
#[derive(Debug)]
pub struct Register {
    config: Config,
    listeners: Vec<Listener>,
    /// A port that another process has.
    taken: Option<BindError>,
    secrets: Secrets,
    /// The path of the tokens if the configuration names no file.
    token_file: PathBuf,
    tls: Option<tls::Server>,
    is_loopback: bool,
}

/// The channels of this sidecar's workers.
#[derive(Debug)]
pub struct Channels {
    pub connected: mpsc::UnboundedReceiver<Channel>,
    /// The names of the workers being started; others of an earlier sidecar do not come back.
    pub names: HashSet<String>,
}

/// Why the register cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("register.{}: {_0}", .0.key())]
    Secret(#[from] SecretError),
    #[error("register.tls: {0}")]
    Tls(#[from] TlsError),
}

/// Where a connection comes from, and whose share it uses.
#[derive(Clone, Copy, Debug)]
struct Origin {
    peer: Peer,
    user: User,
}

/// What all sessions share.
#[derive(Debug)]
struct RegisterState {
    config: Config,
    /// The prefix of generated ids of masters.
    name: String,
    publisher: Publisher,
    secrets: Arc<ArcSwap<Secrets>>,
    secrets_changed: watch::Receiver<()>,
    /// None: masters connect without TLS.
    tls: Option<ArcSwap<tls::Server>>,
    handshakes: Arc<Handshakes>,
    ids: Arc<Ids>,
    presence: Presence,
    returning: Returning,
    reported: Arc<Reported>,
    /// Shares of `max_masters`.
    places: Shares<User>,
    /// Shares of `max_metadata`, in bytes.
    metadata: Shares<User>,
    /// Shares of the memory for all peers.
    memory: Shares<User>,
    /// Masters whose services are not known.
    unknown: InFlight,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    numbers: AtomicU64,
    /// For each master's id, what its sessions last reported, by session number.
    sessions: Mutex<HashMap<String, BTreeMap<u64, Change>>>,
}

impl Register {
    /// Begins to listen, and reads the secrets. If the configuration names no tokens, one is generated in `token_file`.
    pub fn bind(config: &Config, token_file: &Path, taken_ports: TakenPorts) -> Result<Self, RegisterError> {
        let (mut listeners, mut taken) = (Vec::new(), None);
        if !config.listen.is_empty() {
            match Listener::tcp_unless_taken("register.listen", &config.listen, taken_ports)? {
                Ok(port) => listeners.push(port),
                Err(error) => taken = Some(error),
            }
        }
        let is_loopback = match &taken {
            Some(_) => config.is_loopback(),
            None => listeners.iter().all(|listener| is_loopback(listener.address())),
        };
        if !config.unix.as_os_str().is_empty() {
            listeners.push(Listener::unix("register.unix", &config.unix, &config.permissions())?);
        }
        let secrets = if config.is_on() {
            if config.tokens.is_none() {
                token_file::make(token_file)?;
            }
            Secrets::read(config, token_file, is_loopback)?
        } else {
            Secrets::none(config)
        };
        let tls = config.tls.as_ref().map(Tls::read).transpose()?;
        let (config, token_file) = (config.clone(), token_file.to_owned());
        Ok(Self { config, listeners, taken, secrets, token_file, tls, is_loopback })
    }

    /// The addresses it listens on.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.listeners.iter().map(Listener::address)
    }

    /// Accepts masters, until the stop.
    pub fn start(
        self,
        publisher: Publisher,
        memory: Arc<Pool>,
        metrics: Arc<Metrics>,
        tasks: &Tasks,
        reload: Reload,
        channels: Channels,
    ) {
        let Self { config, listeners, taken, secrets, token_file, tls, is_loopback } = self;
        let (changed, secrets_changed) = watch::channel(());
        let state = Arc::new(RegisterState {
            name: Uuid::new_v4().simple().to_string()[..8].to_owned(),
            publisher,
            secrets: Arc::new(ArcSwap::from_pointee(secrets)),
            secrets_changed,
            tls: tls.map(ArcSwap::from_pointee),
            handshakes: Handshakes::new(config.max_unauthenticated, metrics.clone()),
            ids: Arc::default(),
            presence: Presence::default(),
            returning: Returning::default(),
            reported: Arc::default(),
            places: Shares::of(Pool::new(config.max_masters, GREED), None),
            metadata: Shares::of(Pool::new(config.max_metadata.as_u64() as usize, GREED), None),
            memory: Shares::of(memory, Some(KEPT_FOR_ADMINS)),
            unknown: InFlight::default(),
            metrics,
            tasks: tasks.clone(),
            numbers: AtomicU64::new(1),
            sessions: Mutex::default(),
            config,
        });
        let files = Files { changed, token_file, is_loopback };
        // Before anybody is accepted, and before anybody asks for masters.
        let Channels { mut connected, names } = channels;
        let settling = Settling::begin(&state, &names);
        tasks.critical("the register's keeper", keep(state.clone(), settling, files, reload, tasks.stop_signal()));
        for listener in listeners {
            tasks.critical("the register", accept(listener, state.clone()));
        }
        let workers = state.clone();
        tasks.short(async move {
            let stop = workers.tasks.stop_signal();
            loop {
                tokio::select! {
                    channel = connected.recv() => match channel {
                        Some(channel) => workers.tasks.short(session::serve_worker(channel, workers.clone())),
                        None => return,
                    },
                    () = stop.requested() => return,
                }
            }
        });
        if let Some(taken) = taken {
            tasks.critical("the register's port", async move {
                if let Some(listener) = Listener::when_free(taken, &state.metrics, &state.tasks.stop_signal()).await {
                    accept(listener, state).await;
                }
            });
        }
    }
}

fn is_loopback(address: &Address) -> bool {
    match address {
        Address::Tcp(address) => address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback()),
        Address::Unix(_) => true,
    }
}

async fn accept(mut listener: Listener, state: Arc<RegisterState>) {
    let (tasks, stop, peers) = (state.tasks.clone(), state.tasks.stop_signal(), Peers::new());
    let serve = |accepted: Accepted| {
        // A connection that is already gone has neither.
        let Some((peer, user)) = accepted.peer().zip(peers.user_of(&accepted)) else { return };
        if let Ok(stream) = accepted.into_stream() {
            let pending = state.handshakes.begin(user);
            tasks.short(session::serve(stream, Origin { peer, user }, pending, state.clone()));
        }
    };
    let (permissions, metrics) = (state.config.permissions(), &state.metrics);
    loop {
        let anew = tokio::select! {
            () = listener.accept(&stop, &serve) => return,
            anew = listener.when_removed("register.unix", &permissions, metrics, &stop) => anew,
        };
        match anew {
            Some(anew) => std::mem::replace(&mut listener, anew).drop_elsewhere().await,
            None => return,
        }
    }
}

/// What is reread on a reload, and who is notified of it.
struct Files {
    changed: watch::Sender<()>,
    token_file: PathBuf,
    is_loopback: bool,
}

/// Tells the store that the register is in sync, forgets reports that nobody needs, and rereads the secrets on a
/// reload.
async fn keep(state: Arc<RegisterState>, mut settling: Settling, files: Files, mut reload: Reload, stop: Stop) {
    loop {
        state.presence.report();
        state.reported.tidy();
        settling.look(&state);
        let pause = if state.publisher.progress().settling { CHECK_INTERVAL } else { PROOF_INTERVAL };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = reload.requested() => state.read_again(&files),
            () = stop.requested() => return,
        }
    }
}

impl RegisterState {
    /// Why some masters are not listed, in words.
    fn suffering(&self) -> String {
        let of_masters = |count: u64, what| match count {
            0 => None,
            1 => Some(format!("1 of the masters {what}")),
            count => Some(format!("{count} of the masters {what}")),
        };
        let unknown = of_masters(self.unknown.get() as u64, "with no list of services");
        let left_out = of_masters(self.metrics.masters_left_out.get(), "with services that are left out");
        match [unknown, left_out].into_iter().flatten().collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => none,
            some => format!("{some}; the log says why"),
        }
    }

    /// Rereads what an operator may have changed; each part that cannot be read stays as it was.
    fn read_again(&self, Files { changed, token_file, is_loopback }: &Files) {
        if !self.config.is_on() {
            return;
        }
        match Secrets::read(&self.config, token_file, *is_loopback) {
            Ok(secrets) => {
                tracing::info!("read the tokens and the signing key again");
                self.secrets.store(Arc::new(secrets));
                changed.send_replace(());
            }
            Err(error) => {
                let error = RegisterError::from(error);
                tracing::error!(%error, "cannot read the register's secrets again; the old ones stand");
            }
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

    /// Publishes what a session reports of its master: the newest session of an id speaks for it, and when that has
    /// ended, the previous one.
    fn publish(&self, id: &str, number: u64, change: Change) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let speakers = sessions.entry(id.to_owned()).or_default();
        let spoke = speakers.last_key_value().map(|(speaker, _)| *speaker);
        let replaced = match &change {
            Change::Join(master, _) => self.returning.come_back(master),
            _ => None,
        };
        match change {
            Change::Leave(_) => drop(speakers.remove(&number)),
            _ => drop(speakers.insert(number, change.clone())),
        }
        // Under the lock, so that the store gets them in the same order.
        match speakers.last_key_value() {
            Some((speaker, reported)) if *speaker == number || Some(*speaker) != spoke => {
                self.publisher
                    .publish(replaced.map(Change::GiveUp).into_iter().chain([reported.clone()]).collect::<Vec<_>>());
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
