//! The driver: maintains a session's connection, and finds another when it is lost.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::connection::Connection;
use super::credentials::Identity;
use super::handshake::NoSession;
use super::inbox::Inbox;
use super::jute::Ticket;
use super::request::Request;
use super::servers::Servers;
use super::session::SessionError;
use crate::clock::Moment;
use crate::task::Backoff;

/// How long to wait before reconnecting: at first, and at most.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// After a connection that lasted this long, the backoff starts over.
const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(10);

/// Does a session's work while it is polled. Dropping it ends the session.
#[derive(Debug)]
pub struct Driver {
    pub(super) servers: Servers,
    pub(super) identities: Vec<Identity>,
    pub(super) ticket: Ticket,
    pub(super) connection: Connection,
    pub(super) requests: mpsc::UnboundedReceiver<Request>,
    pub(super) inbox: Arc<Inbox>,
    /// The largest reply.
    pub(super) max_reply: usize,
}

impl Driver {
    /// Ends only by being dropped.
    pub async fn run(mut self) -> Infallible {
        let mut backoff = Backoff::new(RECONNECT.0, RECONNECT.1);
        let ended = loop {
            let since = Instant::now();
            let chroot = self.servers.chroot();
            let trouble = tokio::select! {
                trouble = self.connection.serve(&mut self.requests, &self.inbox, chroot, self.max_reply) => trouble,
                () = self.servers.wait_for_full(&self.identities), if self.connection.is_read_only => {
                    // A new session, since other servers may not know that of a read-only one, or may be behind it.
                    SessionError::Ended("there is a server again that does not only serve to read".into())
                }
            };
            if since.elapsed() > BACKOFF_RESET_AFTER {
                backoff.reset();
                self.servers.forgive(self.connection.address());
            }
            let is_refusal = self.servers.take_refusal();
            if !is_refusal {
                self.servers.fail(self.connection.address());
            }
            match trouble {
                SessionError::Refused if !self.servers.refuse_identity() => {
                    self.lose("the server refuses the credentials")
                }
                SessionError::Lost(why) => {
                    self.servers.accept_identity(self.expires());
                    self.lose(&why);
                }
                ended => break ended,
            }
            let delay = if is_refusal { Duration::ZERO } else { backoff.delay() };
            if let Err(ended) = self.reconnect(delay, &mut backoff).await {
                break ended;
            }
            self.inbox.regained();
        };
        self.connection.fail_all(&ended.to_string());
        self.inbox.ended(ended);
        match refuse(&mut self.requests).await {}
    }

    fn lose(&mut self, why: &str) {
        self.connection.fail_all(why);
        self.inbox.lost(why.to_owned());
    }

    /// Until when a server may still know the session.
    fn expires(&self) -> Moment {
        self.connection.heard() + Duration::from_millis(self.ticket.timeout_ms as u64) * 7 / 5
    }

    /// Resumes the session, while the servers may still know it.
    async fn reconnect(&mut self, mut delay: Duration, backoff: &mut Backoff) -> Result<(), SessionError> {
        let expires = self.expires();
        let last_zxid = self.connection.last_zxid();
        loop {
            let resuming = async {
                sleep(delay).await;
                self.servers.connect(&self.ticket, last_zxid, &self.identities).await
            };
            let resumed = tokio::select! {
                resumed = resuming => resumed,
                never = refuse(&mut self.requests) => match never {},
            };
            match resumed {
                Ok((connection, ticket)) => {
                    (self.connection, self.ticket) = (connection, ticket);
                    return Ok(());
                }
                Err(NoSession::Ended(trouble)) => return Err(trouble),
                Err(NoSession::Here(why)) if Moment::now() > expires => return Err(SessionError::Ended(why)),
                Err(NoSession::Refused) if Moment::now() > expires => return Err(SessionError::Refused),
                // A server that accepted the identity may only be away for a moment.
                Err(NoSession::Here(_) | NoSession::Refused) => delay = backoff.delay(),
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Whatever ended it, the next session begins at another server, if there is one.
        self.servers.fail(self.connection.address());
        self.connection.close_session();
    }
}

/// Answers requests that cannot be sent.
async fn refuse(requests: &mut mpsc::UnboundedReceiver<Request>) -> Infallible {
    while let Some(request) = requests.recv().await {
        request.reply.fail("the connection is lost");
    }
    std::future::pending().await
}
