//! One ZooKeeper session: watches and reads, each with a deadline.
//!
//! It lives on across connections, but its watches do not: with each connection they are to be set anew.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Config;
use super::chroot::Chroot;
use super::connection::Connection;
use super::credentials::{self, Flaw, Identity};
use super::driver::Driver;
use super::handshake::NoSession;
use super::inbox::Inbox;
use super::jute::{self, Listing, Malformed, Reading, Ticket, code, op};
use super::request::{Failure, Reply, Request};
use super::servers::Servers;
use crate::model::{Node, NodePath, Stat};
use crate::net::tls;

/// How long the server may take for a reply.
const REPLY: Duration = Duration::from_secs(4);

/// Many nodes may take long, as long as their bytes come: the connection notices when they do not.
const BULK: Duration = Duration::MAX;

/// How long it may take for the reply that proves that it is there.
const HEARTBEAT: Duration = Duration::from_millis(1_500);

#[derive(Debug)]
pub(super) struct Session {
    id: i64,
    chroot: Chroot,
    roots: Vec<NodePath>,
    identities: Vec<Identity>,
    papers: Papers,
    requests: mpsc::UnboundedSender<Request>,
    inbox: Arc<Inbox>,
    watched: bool,
}

/// What a session tells unasked.
#[derive(Debug)]
pub(super) enum Event {
    Changed {
        path: NodePath,
        /// Whether it came or went, so that its parent has other figures.
        structure: bool,
    },
    /// Below a path is, or no longer is, something with a name that no node can have.
    Odd {
        parent: NodePath,
        name: String,
        is_there: bool,
    },
    Lost(String),
    Regained,
}

/// Why the mirror cannot go on as it is.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The connection is lost, or seems so; the session may live on.
    #[error("{0}")]
    Lost(String),
    /// The session is no more; only another can go on.
    #[error("{0}")]
    Ended(String),
    /// The identity is refused. Trying again soon would only fill logs.
    #[error("the ensemble refuses the credentials")]
    Refused,
    /// What is configured cannot work until somebody changes something.
    #[error("{0}")]
    Unfit(String),
}

/// The answers to some questions, or that they would be too large together.
#[derive(Debug)]
pub(super) enum Answers<T> {
    All(Vec<T>),
    /// What was known of a node is not what the server has.
    Changed,
    TooLarge,
    /// The server refuses the request, be it for one of them.
    Refused,
}

impl Session {
    /// A session, and what must be awaited for it to do anything.
    pub(super) async fn connect(config: &Config, servers: &Servers) -> Result<(Self, Driver), Trouble> {
        let identities = identities(config)?;
        let timeout_ms = config.session_timeout.as_millis().try_into().unwrap_or(i32::MAX);
        let wanted = Ticket { timeout_ms, ..Ticket::default() };
        let (connection, ticket) = match servers.connect(&wanted, 0, &identities).await {
            Ok(connected) => connected,
            Err(NoSession::Here(why)) => return Err(Trouble::Ended(why)),
            Err(NoSession::Ended(trouble)) => return Err(trouble),
        };
        let (requests, received) = mpsc::unbounded_channel();
        let session = Self {
            id: ticket.session,
            chroot: servers.chroot().clone(),
            roots: config.roots.clone(),
            identities: identities.clone(),
            papers: papers(config),
            requests,
            inbox: Arc::default(),
            watched: false,
        };
        let (inbox, max_reply) = (session.inbox.clone(), Connection::max_reply(config.max_node_bytes.as_u64()));
        let servers = servers.clone();
        Ok((session, Driver { servers, identities, ticket, connection, requests: received, inbox, max_reply }))
    }

    pub(super) fn id(&self) -> String {
        format!("{:#x}", self.id)
    }

    /// Whether it was made with the credentials, and the certificates, that are configured now.
    pub(super) fn is_of(&self, config: &Config) -> Result<bool, Trouble> {
        if config.has_tls() {
            tls::client(config.tls()).map_err(|error| Trouble::Unfit(error.to_string()))?;
        }
        Ok(self.identities == identities(config)? && self.papers == papers(config))
    }

    /// Watches all roots, with all below them.
    pub(super) async fn watch(&mut self) -> Result<(), Trouble> {
        for root in &self.roots {
            let body = jute::recursive_watch(&self.chroot.server(root));
            self.ask("watch", REPLY, op::ADD_WATCH, body, |reply| whole("watch", reply)).await?;
        }
        self.watched = true;
        Ok(())
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watched
    }

    /// Lets the server catch up with its leader: one to which we come back may lag.
    pub(super) async fn catch_up(&self) -> Result<(), Trouble> {
        let body = jute::path(&self.chroot.server(&self.roots[0]));
        self.ask("sync", REPLY, op::SYNC, body, |reply| whole("sync", reply)).await.map(drop)
    }

    /// Asks for a sign of life. Its reply comes after the events of all that the server had done before.
    pub(super) async fn heartbeat(&self) -> Result<(), Trouble> {
        let body = jute::unwatched(&self.chroot.server(&self.roots[0]));
        let sign = |reply| match reply {
            Err(Failure::Code(code::NO_NODE | code::NO_AUTH)) => Ok(()),
            reply => whole("heartbeat", reply).map(drop),
        };
        self.ask("heartbeat", HEARTBEAT, op::EXISTS, body, sign).await
    }

    /// The next event. It may be awaited and dropped at any time without loss.
    pub(super) async fn next(&mut self) -> Result<Event, Trouble> {
        self.inbox.next().await
    }

    /// The next event, if one has come.
    pub(super) fn come(&mut self) -> Option<Result<Event, Trouble>> {
        self.inbox.take()
    }

    /// Reads some nodes in one request; sent when called, answered when awaited.
    pub(super) fn read(&self, paths: &[NodePath]) -> impl Future<Output = Result<Answers<Reading>, Trouble>> + use<> {
        self.ask_of_many("read", op::GET_DATA, paths, |body, count| jute::readings(body, count))
    }

    /// Lists the children of some nodes in one request, as `read` does.
    pub(super) fn list(&self, paths: &[NodePath]) -> impl Future<Output = Result<Answers<Listing>, Trouble>> + use<> {
        self.ask_of_many("list", op::GET_CHILDREN, paths, jute::listings)
    }

    /// How many bytes of data a node has; sent when called, as the others are.
    pub(super) fn size(&self, path: &NodePath) -> impl Future<Output = Result<usize, Trouble>> + use<> {
        let body = jute::unwatched(&self.chroot.server(path));
        self.ask("size", BULK, op::EXISTS, body, |reply| match reply {
            Err(Failure::Code(code)) if is_of_one_node(code) => Ok(0),
            reply => Ok(jute::stat(&whole("size", reply)?).map_err(|broken| malformed("size", broken))?.1),
        })
    }

    /// Reads a node of which this is known, but for its data if that is the same. In place of `exists`, it is listed:
    /// that too is only for those who may read it.
    pub(super) fn compare(
        &self,
        path: &NodePath,
        known: Arc<Node>,
    ) -> impl Future<Output = Result<Answers<Reading>, Trouble>> + use<> {
        let body = jute::unwatched(&self.chroot.server(path));
        self.ask("compare", BULK, op::GET_CHILDREN_2, body, move |reply| match reply {
            Err(Failure::Code(code::NO_NODE)) => Ok(Answers::All(vec![Reading::Absent])),
            Err(Failure::Code(code::NO_AUTH)) => Ok(Answers::All(vec![Reading::Unreadable])),
            // Reading it tells what is wrong.
            Err(Failure::TooLarge | Failure::Code(code::BAD_ARGUMENTS | code::MARSHALLING_ERROR)) => {
                Ok(Answers::Changed)
            }
            reply => {
                let listed = jute::listed_stat(&whole("compare", reply)?);
                let (stat, length) = listed.map_err(|broken| malformed("compare", broken))?;
                Ok(match is_same(&known, &stat, length) {
                    true => Answers::All(vec![Reading::Found(Node { data: known.data.clone(), stat })]),
                    false => Answers::Changed,
                })
            }
        })
    }

    fn ask_of_many<T: Send + 'static>(
        &self,
        what: &'static str,
        op: i32,
        paths: &[NodePath],
        decode: fn(&Bytes, usize) -> Result<Vec<T>, Malformed>,
    ) -> impl Future<Output = Result<Answers<T>, Trouble>> + use<T> {
        let count = paths.len();
        let body = jute::multi_read(op, paths.iter().map(|path| self.chroot.server(path)));
        self.ask(what, BULK, op::MULTI_READ, body, move |reply| answers(what, reply, |body| decode(body, count)))
    }

    /// Sends a request at once; its answer is to be awaited. Where `read` fails, the connection is given up: another
    /// server may do better.
    fn ask<T, R>(
        &self,
        what: &'static str,
        within: Duration,
        op: i32,
        body: BytesMut,
        read: R,
    ) -> impl Future<Output = Result<T, Trouble>> + use<T, R>
    where
        T: Send + 'static,
        R: FnOnce(Result<Bytes, Failure>) -> Result<T, Trouble> + Send + 'static,
    {
        let (reply, answer) = Reply::new(read);
        // Where nobody takes it, the reply is dropped with it, which is the answer.
        let _ = self.requests.send(Request { op, body, reply });
        async move {
            match timeout(within, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(Trouble::Lost("the session was closed".into())),
                Err(_) => Err(Trouble::Lost(format!("{what}: no reply within {within:?}"))),
            }
        }
    }
}

/// Whether an error is of the node that was asked for, and of nothing else.
fn is_of_one_node(code: i32) -> bool {
    matches!(code, code::NO_NODE | code::NO_AUTH | code::BAD_ARGUMENTS | code::MARSHALLING_ERROR)
}

/// A reply of which there can be no less.
fn whole(what: &str, answer: Result<Bytes, Failure>) -> Result<Bytes, Trouble> {
    match answer {
        Ok(body) => Ok(body),
        Err(Failure::Lost(why)) => Err(Trouble::Lost(why)),
        Err(Failure::TooLarge) => Err(Trouble::Lost(format!("{what}: too large a reply"))),
        Err(Failure::Code(code::UNIMPLEMENTED)) => Err(Trouble::Unfit(
            "the server is older than ZooKeeper 3.6: it has no persistent watches; use a newer one".into(),
        )),
        Err(Failure::Code(code)) => Err(Trouble::Lost(format!("{what}: the server refuses it, with error {code}"))),
    }
}

fn answers<T>(
    what: &str,
    answer: Result<Bytes, Failure>,
    decode: impl FnOnce(&Bytes) -> Result<Vec<T>, Malformed>,
) -> Result<Answers<T>, Trouble> {
    match answer {
        Err(Failure::TooLarge) => Ok(Answers::TooLarge),
        Err(Failure::Code(code::BAD_ARGUMENTS | code::MARSHALLING_ERROR)) => Ok(Answers::Refused),
        answer => Ok(Answers::All(decode(&whole(what, answer)?).map_err(|broken| malformed(what, broken))?)),
    }
}

fn malformed(what: &str, broken: Malformed) -> Trouble {
    Trouble::Lost(format!("{what}: {broken}"))
}

/// Whether a node that has this stat and this much data has the data that is known of it. Not by the transactions alone:
/// an ensemble that lost its data counts them anew.
fn is_same(known: &Node, stat: &Stat, length: usize) -> bool {
    let mark = |stat: &Stat| (stat.czxid, stat.mzxid, stat.ctime, stat.mtime, stat.version);
    known.data.len() == length && mark(&known.stat) == mark(stat)
}

/// The authorities that are believed, the certificate that is shown, and its key.
type Papers = [Option<Vec<u8>>; 3];

fn papers(config: &Config) -> Papers {
    [&config.ca, &config.certificate, &config.key].map(|path| std::fs::read(path.as_ref()?).ok())
}

/// The identities that are configured, read anew for each session.
fn identities(config: &Config) -> Result<Vec<Identity>, Trouble> {
    let Some(place) = &config.credentials else { return Ok(Vec::new()) };
    let unfit = |flaws: Vec<Flaw>| {
        let flaws: Vec<_> = flaws.iter().map(Flaw::to_string).collect();
        Trouble::Unfit(format!("credentials: {}", flaws.join("; ")))
    };
    credentials::read(place).map_err(unfit)
}
