//! A request to a server, and how to read its reply.

use std::fmt;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

use super::session::SessionError;

#[derive(Debug)]
pub(super) struct Request {
    pub(super) op: i32,
    pub(super) body: BytesMut,
    pub(super) reply: Reply,
}

/// Why a request has no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server refuses it, with this error.
    Code(i32),
    /// The reply is too large.
    TooLarge,
    Lost(String),
}

/// Reads the reply and passes it to the requester.
pub(super) struct Reply(Box<Take>);

type Take = dyn FnOnce(Result<Bytes, Failure>) -> Result<(), SessionError> + Send;

impl Reply {
    /// A reply that is read this way, and the receiver of the result.
    pub(super) fn new<T, R>(read: R) -> (Self, oneshot::Receiver<Result<T, SessionError>>)
    where
        T: Send + 'static,
        R: FnOnce(Result<Bytes, Failure>) -> Result<T, SessionError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let take = move |reply| {
            let answer = read(reply);
            let sound = answer.as_ref().map(drop).map_err(SessionError::clone);
            // The requester may have given up.
            let _ = sender.send(answer);
            sound
        };
        (Self(Box::new(take)), receiver)
    }

    /// Takes the server's reply. An error: no correct server replies like this.
    pub(super) fn take(self, reply: Result<Bytes, Failure>) -> Result<(), SessionError> {
        (self.0)(reply)
    }

    /// No reply will come.
    pub(super) fn fail(self, why: &str) {
        let _ = self.take(Err(Failure::Lost(why.to_owned())));
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}
