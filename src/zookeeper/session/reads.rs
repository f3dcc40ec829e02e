//! Reads of nodes, sent when they are called and answered when they are awaited.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, FutureExt, TryFutureExt, try_join_all};
use tokio::time::timeout;

use super::{BULK_TIMEOUT, Session, SessionError};
use crate::model::{Node, NodePath, Stat};
use crate::zookeeper::jute::{self, Listing, Malformed, ReadResult, code, op};
use crate::zookeeper::request::{Failure, Reply, Request};
use crate::zookeeper::watching::Watching;

/// The request is sent; awaiting it returns the answers.
pub(crate) type Asked<T> = BoxFuture<'static, Result<Answers<T>, SessionError>>;

/// The answers to some reads, or that they would be too large together.
#[derive(Debug)]
pub(crate) enum Answers<T> {
    All(Vec<T>),
    /// The known state of a node is not the server's.
    Changed,
    TooLarge,
    /// The server refuses the request, even if only because of one of them.
    Refused,
}

impl Session {
    /// Reads some nodes, in one request or, if that sets watches, in one for each; sent when called, answered when
    /// awaited.
    pub(crate) fn read(&self, paths: &[NodePath]) -> Asked<ReadResult> {
        match self.watching {
            Watching::Persistent => {
                self.ask_of_many("read", op::GET_DATA, paths, |body, count| jute::read_results(body, count))
            }
            Watching::OneShot => all(paths.iter().map(|path| self.read_watched(path)).collect()),
        }
    }

    /// Lists the children of some nodes, in the same way as `read`.
    pub(crate) fn list(&self, paths: &[NodePath]) -> Asked<Listing> {
        match self.watching {
            Watching::Persistent => self.ask_of_many("list", op::GET_CHILDREN, paths, jute::listings),
            Watching::OneShot => all(paths.iter().map(|path| self.list_watched(path)).collect()),
        }
    }

    fn read_watched(&self, path: &NodePath) -> impl Future<Output = Result<ReadResult, SessionError>> + use<> {
        let body = jute::read_request(&self.chroot.server(path), true);
        // No parent reports that a missing root has appeared, and reading an unreadable node sets no watch.
        if self.roots.contains(path) || self.watches().is_unreadable(path) {
            let exists = |reply| match reply {
                Err(Failure::Code(code)) if is_of_one_node(code) => Ok(()),
                reply => whole("watch", reply).map(drop),
            };
            drop(self.ask("watch", BULK_TIMEOUT, op::EXISTS, body.clone(), exists));
        }
        self.ask("read", BULK_TIMEOUT, op::GET_DATA, body, |reply| match reply {
            Err(Failure::TooLarge) => Ok(ReadResult::TooLarge),
            Err(Failure::Code(code)) if is_of_one_node(code) => Ok(jute::read_failure(code)),
            reply => {
                jute::node(&whole("read", reply)?).map(ReadResult::Found).map_err(|broken| malformed("read", broken))
            }
        })
    }

    fn list_watched(&self, path: &NodePath) -> impl Future<Output = Result<Listing, SessionError>> + use<> {
        let body = jute::read_request(&self.chroot.server(path), true);
        self.ask("list", BULK_TIMEOUT, op::GET_CHILDREN_2, body, |reply| match reply {
            Err(Failure::TooLarge) => Ok(Listing::TooLarge),
            Err(Failure::Code(code)) if is_of_one_node(code) => Ok(Listing::Nothing),
            reply => {
                jute::listed(&whole("list", reply)?).map(Listing::Names).map_err(|broken| malformed("list", broken))
            }
        })
    }

    /// Reads a node whose known state is given, but not its data if that is unchanged. It is listed instead of using
    /// `exists`: like reading, that requires the read permission.
    pub(crate) fn compare(
        &self,
        path: &NodePath,
        known: Arc<Node>,
    ) -> impl Future<Output = Result<Answers<ReadResult>, SessionError>> + use<> {
        let body = jute::read_request(&self.chroot.server(path), false);
        self.ask("compare", BULK_TIMEOUT, op::GET_CHILDREN_2, body, move |reply| match reply {
            Err(Failure::Code(code::NO_NODE)) => Ok(Answers::All(vec![ReadResult::Absent])),
            Err(Failure::Code(code::NO_AUTH)) => Ok(Answers::All(vec![ReadResult::Unreadable])),
            // Reading it shows what is wrong.
            Err(Failure::TooLarge | Failure::Code(code::BAD_ARGUMENTS | code::MARSHALLING_ERROR)) => {
                Ok(Answers::Changed)
            }
            reply => {
                let listed = jute::listed(&whole("compare", reply)?).map_err(|broken| malformed("compare", broken))?;
                Ok(match listed.parent.filter(|(stat, length)| is_same(&known, stat, *length)) {
                    Some((stat, _)) => Answers::All(vec![ReadResult::Found(Node { data: known.data.clone(), stat })]),
                    None => Answers::Changed,
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
    ) -> Asked<T> {
        let count = paths.len();
        let body = jute::multi_read(op, paths.iter().map(|path| self.chroot.server(path)));
        self.ask(what, BULK_TIMEOUT, op::MULTI_READ, body, move |reply| {
            answers(what, reply, |body| decode(body, count))
        })
        .boxed()
    }

    /// Sends a request at once; its answer is to be awaited. If `read` fails, the connection is dropped: another server
    /// may do better.
    pub(super) fn ask<T, R>(
        &self,
        what: &'static str,
        within: Duration,
        op: i32,
        body: BytesMut,
        read: R,
    ) -> impl Future<Output = Result<T, SessionError>> + use<T, R>
    where
        T: Send + 'static,
        R: FnOnce(Result<Bytes, Failure>) -> Result<T, SessionError> + Send + 'static,
    {
        let (reply, answer) = Reply::new(read);
        // If nobody takes it, the reply is dropped with it, which is the answer.
        let _ = self.requests.send(Request { op, body, reply });
        async move {
            match timeout(within, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(SessionError::Lost("the session was closed".into())),
                Err(_) => Err(SessionError::Lost(format!("{what}: no reply within {within:?}"))),
            }
        }
    }
}

/// The answers to reads that were sent one by one.
fn all<T: Send + 'static>(reads: Vec<impl Future<Output = Result<T, SessionError>> + Send + 'static>) -> Asked<T> {
    try_join_all(reads).map_ok(Answers::All).boxed()
}

/// Whether an error concerns only the requested node.
fn is_of_one_node(code: i32) -> bool {
    matches!(code, code::NO_NODE | code::NO_AUTH | code::BAD_ARGUMENTS | code::MARSHALLING_ERROR)
}

/// A reply that cannot be split.
pub(super) fn whole(what: &str, answer: Result<Bytes, Failure>) -> Result<Bytes, SessionError> {
    match answer {
        Ok(body) => Ok(body),
        Err(Failure::Lost(why)) => Err(SessionError::Lost(why)),
        Err(Failure::TooLarge) => Err(SessionError::Lost(format!("{what}: too large a reply"))),
        Err(Failure::Code(code)) => {
            Err(SessionError::Lost(format!("{what}: the server refuses it, with error {code}")))
        }
    }
}

fn answers<T>(
    what: &str,
    answer: Result<Bytes, Failure>,
    decode: impl FnOnce(&Bytes) -> Result<Vec<T>, Malformed>,
) -> Result<Answers<T>, SessionError> {
    match answer {
        Err(Failure::TooLarge) => Ok(Answers::TooLarge),
        Err(Failure::Code(code::BAD_ARGUMENTS | code::MARSHALLING_ERROR)) => Ok(Answers::Refused),
        answer => Ok(Answers::All(decode(&whole(what, answer)?).map_err(|broken| malformed(what, broken))?)),
    }
}

pub(super) fn malformed(what: &str, broken: Malformed) -> SessionError {
    SessionError::Lost(format!("{what}: {broken}"))
}

/// Whether a node with this stat and data length has the known data. Not by the transactions alone: an ensemble that
/// lost its data counts them from the start.
pub(crate) fn is_same(known: &Node, stat: &Stat, length: usize) -> bool {
    let mark = |stat: &Stat| (stat.czxid, stat.mzxid, stat.ctime, stat.mtime, stat.version);
    known.data.len() == length && mark(&known.stat) == mark(stat)
}
