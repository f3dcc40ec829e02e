//! The Thrift endpoint: detects the dialect, decodes one message, answers it.
//!
//! Its threads share nothing but the store: each has its own runtime, accepts from the same listeners when it is its
//! turn, and keeps a connection from its first byte to its last. So an answer needs no hand-over between threads.

mod accept_balancer;
mod accounts;
mod admission;
mod api;
mod call;
mod codec;
mod config;
mod connection;
mod convert;
mod dialect;
mod dispatch;
mod explain;
mod framing;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod guard;
mod history;
mod masters;
mod memory;
mod messages;
mod methods;
mod queue;
mod refusal;
mod request;
mod resolve;
mod run_queue;
mod scan;
mod streaming_call;
mod wait;
mod watch;
mod withholding;
mod worker_commands;
mod workers;
mod workers_added;

use std::io;
use std::sync::Arc;

use futures::future::join_all;
pub use roster_client as client;
pub use roster_client::{idl, zk_data};
use tokio::sync::watch::{Receiver, channel};

use self::accept_balancer::{AcceptBalancer, CountedConnection};
#[cfg(any(test, feature = "fuzz"))]
use self::accounts::User;
use self::accounts::{Account, Accounts};
use self::admission::Admission;
use self::api::Api;
pub use self::config::{Config, ZkData};
use self::run_queue::RunQueue;
pub use self::watch::MAX_PATHS;
use crate::access::{Access, Client, Identity};
use crate::history::History;
use crate::metrics::Metrics;
use crate::net::{self, Accepted, Address, BindError, Listener, TakenPorts};
use crate::queue::Queues;
use crate::share::Pool;
use crate::store::Store;
use crate::task::{Stop, Tasks};
use crate::withhold::Withholder;
use crate::worker::Workers;

/// A bound endpoint that does not answer yet.
#[derive(Debug)]
pub struct Endpoint {
    config: Config,
    listeners: Vec<Listener>,
    /// A port that another process has, which does not affect the Unix socket.
    taken: Option<BindError>,
}

/// What it answers from.
#[derive(Debug)]
pub struct Rooms {
    pub store: Arc<Store>,
    pub access: Arc<Access>,
    pub workers: Arc<Workers>,
    pub withholder: Arc<Withholder>,
    pub history: Arc<History>,
    pub queues: Arc<Queues>,
    pub metrics: Arc<Metrics>,
    pub memory: Arc<Pool>,
}

/// What its connections share.
#[derive(Debug)]
struct Shared {
    api: Api,
    access: Arc<Access>,
    codec: codec::Codec,
    admission: Arc<Admission>,
    accounts: Arc<Accounts>,
    config: Config,
    metrics: Arc<Metrics>,
    /// The id of this process, to recognize itself as a peer.
    process: Option<i32>,
}

/// The peer of a connection: a user, with its shares and its turns.
#[derive(Clone, Debug)]
struct Peer {
    account: Arc<Account>,
    queue: Arc<RunQueue>,
    /// What it may do.
    identity: Identity,
}

impl Endpoint {
    /// Begins to listen. Nobody is answered before `start`, but from now on clients wait in the queue.
    pub fn bind(config: &Config, taken_ports: TakenPorts) -> Result<Self, BindError> {
        let (mut listeners, mut taken) = (Vec::new(), None);
        if !config.unix.as_os_str().is_empty() {
            listeners.push(Listener::unix("thrift.unix", &config.unix, &config.permissions())?);
        }
        if !config.tcp.is_empty() {
            // Without a Unix socket no client could connect meanwhile.
            let taken_ports = if listeners.is_empty() { TakenPorts::Fail } else { taken_ports };
            match Listener::tcp_unless_taken("thrift.tcp", &config.tcp, taken_ports)? {
                Ok(port) => listeners.push(port),
                Err(error) => taken = Some(error),
            }
        }
        Ok(Self { listeners, taken, config: config.clone() })
    }

    /// The addresses it listens on.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.listeners.iter().map(Listener::address)
    }

    /// Starts the threads that answer.
    pub fn start(self, zk_data: &ZkData, rooms: Rooms, tasks: &Tasks) -> io::Result<()> {
        let Self { config, listeners, taken } = self;
        let Rooms { store, access, workers, withholder, history, queues, metrics, memory } = rooms;
        let accounts = Accounts::with_memory(&config, memory);
        let mut api = Api::new(&config, zk_data, store, accounts.clone(), metrics.clone());
        (api.workers, api.withholder, api.history, api.queues) = (workers, withholder, history, queues);
        let shared = Arc::new(Shared {
            api,
            access,
            codec: codec::Codec::new(&config, metrics.clone()),
            admission: Admission::new(&config, metrics.clone()),
            accounts,
            config,
            metrics: metrics.clone(),
            process: i32::try_from(std::process::id()).ok(),
        });
        let (admission, stop) = (shared.admission.clone(), tasks.stop_signal());
        tasks.critical("the endpoint's clock", async move { admission.keep_time(&stop).await });
        let (accounts, stop) = (shared.accounts.clone(), tasks.stop_signal());
        tasks.critical("the endpoint's memory", async move { accounts.return_memory(&stop).await });
        let (sender, listeners) = channel(listeners);
        let (sender, stop, permissions) = (Arc::new(sender), tasks.stop_signal(), shared.config.permissions());
        let (changing, unix_metrics) = (sender.clone(), metrics.clone());
        tasks.critical("the endpoint's socket", async move {
            let is_unix = |it: &Listener| matches!(it.address(), Address::Unix(_));
            let mut unix = changing.borrow().iter().find(|it| is_unix(it)).cloned();
            while let Some(listener) = unix {
                unix = listener.when_removed("thrift.unix", &permissions, &unix_metrics, &stop).await;
                if let Some(anew) = unix.clone() {
                    changing.send_modify(|listeners| {
                        listeners.retain(|it| !is_unix(it));
                        listeners.push(anew);
                    });
                }
            }
            stop.requested().await;
        });
        let stop = tasks.stop_signal();
        tasks.critical("the endpoint's port", async move {
            if let Some(taken) = taken
                && let Some(port) = Listener::when_free(taken, &metrics, &stop).await
            {
                sender.send_modify(|listeners| listeners.push(port));
            }
            stop.requested().await;
        });
        let balancer = AcceptBalancer::new(shared.config.threads);
        for number in 0..shared.config.threads {
            let (mut listeners, shared, balancer) = (listeners.clone(), shared.clone(), balancer.clone());
            let name = format!("thrift-{number}");
            tasks.thread(name.clone(), move |tasks| async move {
                let (queue, stop) = (RunQueue::new(), tasks.stop_signal());
                let accepting = {
                    let queue = queue.clone();
                    async move {
                        let serve = |accepted| shared.serve(accepted, &queue, balancer.count(number), &stop);
                        while balancer.begin(number, &stop).await {
                            tokio::select! {
                                () = balancer.end(number) => {}
                                () = accept(&mut listeners, &stop, &serve) => break,
                            }
                        }
                        queue.close();
                    }
                };
                tasks.critical(format!("{name}'s listening"), accepting);
                tasks.critical(name, async move { queue.run().await });
            })?;
        }
        Ok(())
    }
}

/// Accepts from all listeners until the stop, including those added later.
async fn accept(changing: &mut Receiver<Vec<Listener>>, stop: &Stop, serve: &impl Fn(Accepted)) {
    loop {
        let listeners = changing.borrow_and_update().clone();
        tokio::select! {
            _ = join_all(listeners.iter().map(|listener| listener.accept(stop, serve))) => return,
            Ok(()) = changing.changed() => {}
        }
    }
}

impl Shared {
    /// Queues a connection for its user's turn, if that user may have another.
    fn serve(self: &Arc<Self>, accepted: Accepted, queue: &Arc<RunQueue>, counted: CountedConnection, stop: &Stop) {
        let Some(origin) = accepted.peer() else { return };
        let client = match origin {
            net::Peer::Unix { uid, gid, .. } => Client::Unix { uid, gid },
            net::Peer::Tcp(_) => Client::Tcp,
        };
        let identity = self.access.identify(client, || accepted.groups());
        let account = self.accounts.account(origin.uid(), identity.grant().is_admin());
        let is_own = matches!(origin, net::Peer::Unix { pid, .. } if Some(pid) == self.process);
        let Some(permit) = self.admission.admit(account.clone(), is_own) else { return };
        let (shared, stop, user) = (self.clone(), stop.clone(), account.user);
        let peer = Peer { account, queue: queue.clone(), identity };
        queue.spawn(user, async move {
            if let Ok(stream) = accepted.into_stream() {
                connection::serve(stream, permit, peer, shared, stop).await;
            }
            drop(counted);
        });
    }
}

impl Peer {
    /// Lets other tasks run, if this one has run for a whole turn.
    async fn let_others_work(&self) {
        if self.queue.is_turn_over() {
            run_queue::next_turn().await;
        }
    }

    /// The same in one of at most so many futures that are polled together: the others may have used up its next turn.
    async fn let_others_work_among(&self, count: usize) {
        for _ in 0..count {
            if !self.queue.is_turn_over() {
                break;
            }
            run_queue::next_turn().await;
        }
    }

    /// A peer with the ordinary shares of a user, and all rights.
    #[cfg(any(test, feature = "fuzz"))]
    fn of(api: &Api, user: User) -> Self {
        Self { account: api.accounts.account(user, false), queue: RunQueue::new(), identity: Identity::root() }
    }
}

#[cfg(test)]
mod tests;
