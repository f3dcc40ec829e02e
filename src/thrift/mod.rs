//! The Thrift endpoint: tells the dialect, cuts out one message, answers it.
//!
//! Its threads share nothing but the store: each has a runtime of its own, accepts from the same listeners when it is
//! its turn, and keeps a connection from its first byte to its last. So an answer costs no hand-over between threads.

mod admission;
mod call;
mod caller;
pub mod client;
mod codec;
mod config;
mod connection;
mod convert;
mod cut;
mod dialect;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod handler;
mod masters;
mod memory;
mod open;
mod request;
mod run_queue;
mod scan;
mod service;
mod shares;
mod turns;
mod value;
mod wait;
mod watch;

/// The generated code, of `idl/roster.thrift` and `idl/zk_data.thrift`.
#[allow(missing_debug_implementations, unused, unreachable_pub, clippy::all, clippy::unwrap_used)]
#[path = "../../gen/rs/roster.rs"]
pub mod idl;
#[allow(missing_debug_implementations, unused, unreachable_pub, clippy::all, clippy::unwrap_used)]
#[path = "../../gen/rs/zk_data.rs"]
pub mod zk_data;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::try_join_all;

use self::admission::{Admission, Place};
pub use self::config::{Config, ZkData};
use self::handler::Desk;
use self::run_queue::{RunQueue, Turn};
#[cfg(any(test, feature = "fuzz"))]
use self::shares::User;
use self::shares::{Account, Shares};
use self::turns::Turns;
pub use self::watch::MAX_PATHS;
use crate::access::{Access, Client, Identity};
use crate::metrics::Metrics;
use crate::net::{Address, BindError, Bound, Stream};
use crate::store::Store;
use crate::task::{Stop, Tasks};

/// How long a thread waits that could not listen.
const PAUSE: Duration = Duration::from_millis(100);

/// A bound endpoint, which answers nobody yet.
#[derive(Debug)]
pub struct Endpoint {
    config: Config,
    bound: Vec<Bound>,
}

/// What its connections share.
#[derive(Debug)]
struct Shared {
    desk: Desk,
    access: Arc<Access>,
    codec: codec::Codec,
    admission: Arc<Admission>,
    shares: Arc<Shares>,
    config: Config,
    metrics: Arc<Metrics>,
    /// This one's number, as the kernel tells it of a peer.
    process: Option<i32>,
}

/// Whom a connection serves: a user, who has its shares and its turns.
#[derive(Clone, Debug)]
struct Peer {
    account: Arc<Account>,
    queue: Arc<RunQueue>,
    /// What it may do.
    identity: Identity,
}

impl Endpoint {
    /// Begins to listen. Nobody is answered before `start`, but from now on who connects waits in the queue.
    pub fn bind(config: &Config) -> Result<Self, BindError> {
        let mut bound = Vec::new();
        if !config.unix.as_os_str().is_empty() {
            bound.push(Bound::unix("thrift.unix", &config.unix, &config.permissions())?);
        }
        if !config.tcp.is_empty() {
            bound.push(Bound::tcp("thrift.tcp", &config.tcp)?);
        }
        Ok(Self { bound, config: config.clone() })
    }

    /// Where it listens.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.bound.iter().map(Bound::address)
    }

    /// Starts the threads that answer.
    pub fn start(
        self,
        zk_data: &ZkData,
        store: &Arc<Store>,
        access: &Arc<Access>,
        metrics: &Arc<Metrics>,
        tasks: &Tasks,
    ) -> io::Result<()> {
        let Self { config, bound } = self;
        let shares = Shares::new(&config);
        let shared = Arc::new(Shared {
            desk: Desk::new(&config, zk_data, store.clone(), shares.clone(), metrics.clone()),
            access: access.clone(),
            codec: codec::Codec::new(&config, metrics.clone()),
            admission: Admission::new(&config, metrics.clone()),
            shares,
            config,
            metrics: metrics.clone(),
            process: i32::try_from(std::process::id()).ok(),
        });
        let (admission, stop) = (shared.admission.clone(), tasks.stop_signal());
        tasks.critical("the endpoint's clock", async move { admission.keep_time(&stop).await });
        let (shares, stop) = (shared.shares.clone(), tasks.stop_signal());
        tasks.critical("the endpoint's memory", async move { shares.return_memory(&stop).await });
        let turns = Turns::new(shared.config.threads);
        for number in 0..shared.config.threads {
            let (bound, shared, turns) = (bound.clone(), shared.clone(), turns.clone());
            tasks.thread(format!("thrift-{number}"), move |tasks| async move {
                let stop = tasks.stop_signal();
                let queue = Arc::<RunQueue>::default();
                let serve = |stream: Stream| {
                    let identity = shared.identify(&stream);
                    if let Some(place) = shared.admit(&stream, &identity) {
                        let held = turns.hold(number);
                        let peer = Peer { account: place.account().clone(), queue: queue.clone(), identity };
                        let serving = connection::serve(stream, place, peer, shared.clone(), stop.clone());
                        tasks.short(serving.map(move |()| drop(held)));
                    }
                };
                while turns.begin(number, &stop).await {
                    tokio::select! {
                        () = turns.end(number) => {}
                        () = accept(&bound, &stop, &serve) => break,
                    }
                }
            })?;
        }
        Ok(())
    }
}

/// Accepts from all listeners until the stop.
async fn accept(bound: &[Bound], stop: &Stop, serve: &impl Fn(Stream)) {
    while let Err(error) = try_join_all(bound.iter().map(|bound| bound.accept(stop, serve))).await {
        tracing::error!(%error, "cannot listen; trying again");
        tokio::time::sleep(PAUSE).await;
    }
}

impl Shared {
    fn admit(&self, stream: &Stream, identity: &Identity) -> Option<Place> {
        let peer = stream.peer();
        let is_own = peer.is_some_and(|peer| peer.pid() == self.process);
        let user = peer.map(|peer| peer.uid());
        self.admission.admit(self.shares.account(user, identity.grant().is_admin()), is_own)
    }

    fn identify(&self, stream: &Stream) -> Identity {
        let client = stream.peer().map_or(Client::Tcp, |peer| Client::Unix { uid: peer.uid(), gid: peer.gid() });
        self.access.identify(client, || stream.groups())
    }
}

impl Peer {
    /// Waits until it is the user's turn, and of all its connections that of this one.
    async fn turn(&self) -> Turn {
        self.queue.turn(self.account.user).await
    }

    /// A user who has no more shares than others, and may do everything.
    #[cfg(any(test, feature = "fuzz"))]
    fn of(desk: &Desk, user: User) -> Self {
        Self { account: desk.shares.account(user, false), queue: Arc::default(), identity: Identity::root() }
    }
}

#[cfg(test)]
mod tests;
