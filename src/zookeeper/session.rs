//! One ZooKeeper session: watches, reads and writes, each with a deadline.
//!
//! It outlives connections, but its watches do not: they have to be set again on each. (At a server that only the
//! ensemble names it continues with another ZooKeeper session: only `id` differs from the first, whose ephemeral nodes
//! go with that.)

mod reads;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesOrdered, StreamExt};
use roster_net::tls;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::Settings;
use super::chroot::Chroot;
use super::connection::Connection;
use super::credentials::{self, Flaw, Identity};
use super::driver::Driver;
use super::ensemble::CONFIGURATION;
use super::handshake::NoSession;
use super::inbox::Inbox;
use super::jute::{self, Ticket, code, op};
use super::kerberos;
use super::request::{Failure, Request};
use super::servers::Servers;
use super::watching::{Fired, Watches, Watching};
use crate::model::NodePath;
use crate::secret::{self, Secret};
use crate::sync::{Mutex, MutexGuard};

use self::reads::whole;
pub(crate) use self::reads::{Answers, Asked, is_same};
pub use self::writes::{Acl, Lifetime, WriteError};

/// How long the server may take to reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(4);

/// Many nodes may take long, as long as bytes arrive: the connection detects when they do not.
const BULK_TIMEOUT: Duration = Duration::MAX;

/// How often a lost connection is probed, in case no event reported its return.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Requests in flight that set watches.
const MAX_RESTORES_IN_FLIGHT: usize = 4;

/// How long the reply to a heartbeat may take.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_millis(1_500);

#[derive(Debug)]
pub struct Session {
    chroot: Chroot,
    roots: Vec<NodePath>,
    proof: Proof,
    requests: mpsc::UnboundedSender<Request>,
    inbox: Arc<Inbox>,
    watched: bool,
    is_read_only: bool,
    servers: Servers,
    watching: Watching,
    watches: Mutex<Watches>,
    /// Whether no one-shot watches were restored yet on this connection.
    is_new: bool,
}

/// How a server treats a persistent watch.
enum Watched {
    Set,
    Refused,
    /// It does not know the request, and closes the connection.
    Closed,
}

/// An event of a session.
#[derive(Debug)]
pub(crate) enum Event {
    Changed {
        path: NodePath,
        fired: Fired,
    },
    /// A node with an invalid name appeared below a path, or disappeared.
    Odd {
        parent: NodePath,
        name: String,
        is_there: bool,
    },
    Lost(String),
    Regained,
}

/// Why a session cannot go on as it is.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SessionError {
    /// The connection is lost, or seems so; the session may live on.
    #[error("{0}")]
    Lost(String),
    /// The session is over; a new one is needed.
    #[error("{0}")]
    Ended(String),
    /// The identity is refused. Trying again soon would only fill logs.
    #[error("the ensemble refuses the credentials")]
    Refused,
    /// The configuration cannot work until it, or the server, is changed.
    #[error("{0}")]
    Unfit(String),
}

impl Session {
    /// A session, and its driver, which must be polled for it to work.
    ///
    /// # Errors
    /// If no server gives one, or files that `settings` names cannot be read.
    pub async fn connect(settings: &Settings, servers: &Servers) -> Result<(Self, Driver), SessionError> {
        let proof = Proof::read(settings)?;
        servers.set_proof(&proof);
        let identities = proof.identities.clone();
        let wanted = Ticket::for_new(settings.session_timeout);
        let (connection, ticket) = match servers.connect(&wanted, 0, &identities).await {
            Ok(connected) => connected,
            Err(NoSession::Here(why)) => return Err(SessionError::Ended(why)),
            Err(NoSession::Refused) => return Err(SessionError::Refused),
            Err(NoSession::Ended(trouble)) => return Err(trouble),
        };
        let (requests, received) = mpsc::unbounded_channel();
        let session = Self {
            chroot: servers.chroot().clone(),
            roots: vec![NodePath::root()],
            proof,
            requests,
            inbox: Arc::default(),
            watched: false,
            is_read_only: false,
            servers: servers.clone(),
            watching: Watching::default(),
            watches: Mutex::new(Watches::new(0)),
            is_new: true,
        };
        let (inbox, max_reply) = (session.inbox.clone(), Connection::max_reply(settings.max_node_bytes));
        let servers = servers.clone();
        Ok((session, Driver { servers, identities, ticket, connection, requests: received, inbox, max_reply }))
    }

    /// Sets what it watches, and for how many nodes it remembers one-shot watches. `roots` are disjoint.
    pub(crate) fn of_roots(self, roots: &[NodePath], max_watches: usize) -> Self {
        Self { roots: roots.to_vec(), watches: Mutex::new(Watches::new(max_watches)), ..self }
    }

    /// ZooKeeper's id of it, in hexadecimal.
    pub fn id(&self) -> String {
        format!("{:#x}", self.servers.session())
    }

    /// Why it has ended.
    pub(crate) fn end(&self) -> Option<SessionError> {
        self.inbox.end()
    }

    /// Whether it was made with the current credentials and certificates.
    pub(crate) fn is_of(&self, settings: &Settings) -> Result<bool, SessionError> {
        if settings.has_tls() {
            tls::client(settings.tls()).map_err(|error| SessionError::Unfit(error.to_string()))?;
        }
        Ok(self.proof == Proof::read(settings)?)
    }

    /// Watches all roots, with everything below; if the server has no watch for that, the following reads set watches.
    pub(crate) async fn watch(&mut self) -> Result<(), SessionError> {
        self.watching = self.servers.watching();
        while self.watching == Watching::Persistent && !self.watch_roots().await? {
            self.watching = self.servers.watching();
        }
        // By now it may be another server.
        self.is_read_only = self.servers.is_read_only();
        self.watches().clear();
        self.is_new = true;
        self.watched = true;
        Ok(())
    }

    /// Sets a persistent watch on each root if the server has them; returns whether it does. A server before 3.6 closes
    /// the connection when asked: then waits for another one.
    async fn watch_roots(&mut self) -> Result<bool, SessionError> {
        for root in &self.roots {
            let (body, servers) = (jute::recursive_watch(&self.chroot.server(root)), self.servers.clone());
            let asked = self.ask("watch", REPLY_TIMEOUT, op::ADD_WATCH, body, move |reply| match reply {
                Err(Failure::Code(code @ (code::UNIMPLEMENTED | code::MARSHALLING_ERROR))) => {
                    let is_closing = code == code::UNIMPLEMENTED;
                    servers.refuse_persistent(is_closing);
                    Ok(if is_closing { Watched::Closed } else { Watched::Refused })
                }
                reply => whole("watch", reply).map(|_| Watched::Set),
            });
            match asked.await? {
                Watched::Set => {}
                Watched::Refused => return Ok(false),
                Watched::Closed => {
                    self.regained().await?;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Waits until a lost connection is back; an error if the session cannot be resumed.
    pub(crate) async fn regained(&mut self) -> Result<(), SessionError> {
        // Not a sleep, which every event would restart: if only a reply was late, writes go on, and nothing else shows
        // that it is back.
        let mut probe = interval_at(Instant::now() + PROBE_INTERVAL, PROBE_INTERVAL);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.next() => if let Event::Regained = event? { return Ok(()) },
                _ = probe.tick() => if self.heartbeat().await.is_ok() { return Ok(()) },
            }
        }
    }

    /// On a new connection, sets one-shot data watches on what is known, so that it need not be read for that. The
    /// comparison that follows finds what changed before.
    pub(crate) async fn restore(
        &mut self,
        paths: impl Iterator<Item = NodePath>,
        request_bytes: usize,
    ) -> Result<(), SessionError> {
        if self.watching == Watching::Persistent || !self.is_new {
            return Ok(());
        }
        let paths: Vec<NodePath> = paths.collect();
        let set = |some: &[NodePath]| {
            let body = jute::data_watches(some.iter().map(|path| self.chroot.server(path)));
            self.ask("watch", BULK_TIMEOUT, op::SET_WATCHES, body, |reply| whole("watch", reply).map(drop))
        };
        let (mut rest, mut asked) = (&paths[..], FuturesOrdered::new());
        while !rest.is_empty() || !asked.is_empty() {
            while !rest.is_empty() && asked.len() < MAX_RESTORES_IN_FLIGHT {
                let sums = rest.iter().scan(0, |sum, path| {
                    *sum += self.request_bytes(path);
                    Some(*sum)
                });
                let count = sums.take_while(|sum| *sum <= request_bytes).count().max(1);
                let (some, more) = rest.split_at(count);
                asked.push_back(set(some));
                rest = more;
            }
            asked.next().await.transpose()?;
        }
        let mut watches = self.watches();
        paths.iter().for_each(|path| watches.set_data(path));
        drop(watches);
        self.is_new = false;
        // The server has reported nodes that are gone. The comparison also finds that, and may doubt it.
        while let Some(event) = self.try_next() {
            if let Event::Lost(why) = event? {
                return Err(SessionError::Lost(why));
            }
        }
        Ok(())
    }

    /// The maximum bytes of a request for one of its many paths.
    pub(crate) fn request_bytes(&self, path: &NodePath) -> usize {
        self.chroot.server_bytes(path) + jute::BYTES_BESIDE_PATH
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.watched
    }

    /// Whether the server that has the watches is read-only.
    pub(crate) fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    pub(crate) fn watching(&self) -> Watching {
        self.watching
    }

    /// The one-shot watches.
    pub(crate) fn watches(&self) -> MutexGuard<'_, Watches> {
        self.watches.lock().expect("nobody panics while holding it")
    }

    /// Learns which servers the ensemble has, and watches them for changes. That must not cause any failure: a server
    /// may not have the node, or not show it.
    pub(crate) async fn learn_servers(&self) -> Result<(), SessionError> {
        if !self.servers.follow_reconfig() {
            return Ok(());
        }
        // Before ZooKeeper 3.9 a one-shot watch removes a persistent one on the same path, which also reports these
        // changes.
        let is_root = |root: &NodePath| self.chroot.server(root) == CONFIGURATION;
        let is_watched = self.watching == Watching::OneShot || !self.roots.iter().any(is_root);
        let body = jute::read_request(CONFIGURATION, is_watched);
        let configuration = self.ask("configuration", REPLY_TIMEOUT, op::GET_DATA, body, |reply| match reply {
            Err(Failure::Lost(why)) => Err(SessionError::Lost(why)),
            reply => Ok(reply.ok().and_then(|body| jute::node(&body).ok())),
        });
        if let Some(configuration) = configuration.await? {
            self.servers.learn(&configuration.data);
        }
        Ok(())
    }

    /// The same, if the server has reported that these may have changed.
    pub(crate) async fn learn_new_servers(&self) -> Result<(), SessionError> {
        if self.inbox.take_reconfigured() { self.learn_servers().await } else { Ok(()) }
    }

    /// Makes the server catch up with its leader, if it has one: one that we reconnect to may lag.
    pub(crate) async fn catch_up(&self) -> Result<(), SessionError> {
        if self.is_read_only {
            return Ok(());
        }
        let body = jute::path(&self.chroot.server(&self.roots[0]));
        self.ask("sync", REPLY_TIMEOUT, op::SYNC, body, |reply| whole("sync", reply)).await.map(drop)
    }

    /// Sends a heartbeat. Its reply comes after the events of everything that the server had done before.
    pub(crate) async fn heartbeat(&self) -> Result<(), SessionError> {
        let body = jute::read_request(&self.chroot.server(&self.roots[0]), false);
        let sign = |reply| match reply {
            Err(Failure::Code(code::NO_NODE | code::NO_AUTH)) => Ok(()),
            reply => whole("heartbeat", reply).map(drop),
        };
        self.ask("heartbeat", HEARTBEAT_TIMEOUT, op::EXISTS, body, sign).await
    }

    /// The next event. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Event, SessionError> {
        self.inbox.next().await.inspect(|event| self.take_watches(event))
    }

    /// The next event, if one has arrived.
    pub(crate) fn try_next(&mut self) -> Option<Result<Event, SessionError>> {
        let come = self.inbox.take()?;
        Some(come.inspect(|event| self.take_watches(event)))
    }

    fn take_watches(&self, event: &Event) {
        if let Event::Changed { path, fired } = event {
            self.watches().remove(path, *fired);
        }
    }
}

/// What proves a session's identity to servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Proof {
    identities: Vec<Identity>,
    /// The trusted authorities, the client certificate, and its key.
    files: Secret<[Option<Vec<u8>>; 3]>,
}

impl Proof {
    /// The current configuration.
    fn read(settings: &Settings) -> Result<Self, SessionError> {
        if let Some((_, why)) = kerberos::flaw(settings) {
            return Err(SessionError::Unfit(format!("kerberos: {why}")));
        }
        let first = |flaws: Vec<Flaw>| credentials::first(&flaws).unwrap_or_default();
        let unfit = |flaws| SessionError::Unfit(format!("credentials: {}", first(flaws)));
        let identities = settings.credentials.as_deref().map(credentials::read).transpose().map_err(unfit)?;
        let files = [&settings.ca, &settings.certificate, &settings.key].map(|path| secret::bytes(path.as_ref()?).ok());
        Ok(Self { identities: identities.unwrap_or_default(), files: Secret(files) })
    }
}
