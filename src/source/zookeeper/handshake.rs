//! The handshake: a new connection begins a session or resumes one, and shows the identities.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connection::{Connection, LEAST_SILENCE, MAX_SMALL, SILENCE};
use super::credentials::Identity;
use super::jute::{self, Frame, Malformed, Ticket, op, xid};
use super::session::Trouble;

const NO_SESSION: &str = "it accepts connections, but gives no session: is it a ZooKeeper, and has it a quorum?";

/// Why there is no session on a new connection.
#[derive(Debug)]
pub(super) enum NoSession {
    /// This server cannot give one; another may.
    Here(String),
    Ended(Trouble),
}

impl Connection {
    /// Connects to a server, and begins a session or resumes that of the ticket.
    pub(super) async fn open(
        address: SocketAddr,
        ticket: &Ticket,
        last_zxid: i64,
        identities: &[Identity],
    ) -> Result<(Self, Ticket), NoSession> {
        let patience = patience(ticket);
        let stream = match timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(NoSession::Here(error.kind().to_string())),
            Err(_) => return Err(NoSession::Here("no answer".into())),
        };
        let mut connection = Self::new(address, stream, last_zxid);
        match timeout(patience, connection.greet(ticket, identities)).await {
            Ok(Ok(given)) => Ok((connection, given)),
            Ok(Err(no_session)) => Err(no_session),
            Err(_) => Err(NoSession::Here(NO_SESSION.into())),
        }
    }

    async fn greet(&mut self, ticket: &Ticket, identities: &[Identity]) -> Result<Ticket, NoSession> {
        jute::put_connect(&mut self.unsent, ticket, self.last_zxid);
        for (scheme, proof) in identities {
            jute::put_request(&mut self.unsent, xid::AUTH, op::AUTH, &jute::auth(scheme, proof));
        }
        self.writer.write_all_buf(&mut self.unsent).await.map_err(lost_early)?;
        let given = jute::greeting(&self.small_frame().await?).map_err(strange)?;
        match (ticket.session, given.session) {
            (0, 0) => return Err(NoSession::Here(NO_SESSION.into())),
            (0, _) => {}
            (known, given) if known == given => {}
            _ => return Err(NoSession::Ended(Trouble::Ended("the session expired".into()))),
        }
        let length = u64::try_from(given.timeout_ms).ok().filter(|length| *length > 0);
        let length = length.ok_or(Malformed("a session without a length")).map_err(strange)?;
        self.silence = SILENCE.min(Duration::from_millis(length) * 2 / 5).max(LEAST_SILENCE);
        for _ in identities {
            let (header, _) = jute::header(self.small_frame().await?).map_err(strange)?;
            match header.error {
                _ if header.xid != xid::AUTH => return Err(strange(Malformed("no answer to the credentials"))),
                0 => {}
                _ => return Err(NoSession::Ended(Trouble::Refused)),
            }
        }
        Ok(given)
    }

    async fn small_frame(&mut self) -> Result<Bytes, NoSession> {
        loop {
            match jute::frame(&mut self.received, MAX_SMALL).map_err(strange)? {
                Frame::Complete(message) => return Ok(message),
                Frame::TooLarge(..) => return Err(strange(Malformed("a long answer to a connect"))),
                Frame::Incomplete => {}
            }
            if self.reader.read_buf(&mut self.received).await.map_err(lost_early)? == 0 {
                return Err(NoSession::Here(NO_SESSION.into()));
            }
        }
    }
}

/// How long a server may take to accept, and then to answer.
fn patience(ticket: &Ticket) -> Duration {
    SILENCE.min(Duration::from_millis(ticket.timeout_ms.max(0) as u64)).max(LEAST_SILENCE)
}

fn strange(malformed: Malformed) -> NoSession {
    NoSession::Here(format!("{malformed}: is it a ZooKeeper?"))
}

fn lost_early(_: io::Error) -> NoSession {
    NoSession::Here(NO_SESSION.into())
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use tokio::net::TcpListener;

    use super::*;

    /// What becomes of the first, where a server answers with the second.
    async fn connect(known: i64, given: i64) -> Result<i64, NoSession> {
        const TIMEOUT_MS: i32 = 10_000;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let ticket = Ticket { session: known, timeout_ms: TIMEOUT_MS, ..Ticket::default() };
        let answering = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut answer = BytesMut::new();
            jute::put_frame(&mut answer, |out| {
                out.put_i32(0);
                out.put_i32(TIMEOUT_MS);
                out.put_i64(given);
                out.put_i32(0);
            });
            stream.write_all(&answer).await.expect("written");
            stream
        };
        let (opened, _stream) = tokio::join!(Connection::open(address, &ticket, 0, &[]), answering);
        opened.map(|(_, ticket)| ticket.session)
    }

    #[tokio::test]
    async fn a_session_begins_or_is_resumed_and_is_never_another() {
        assert!(matches!(connect(0, 7).await, Ok(7)));
        assert!(matches!(connect(7, 7).await, Ok(7)));
        for given in [0, 8] {
            assert!(matches!(connect(7, given).await, Err(NoSession::Ended(Trouble::Ended(_)))));
        }
        assert!(matches!(connect(0, 0).await, Err(NoSession::Here(_))));
    }
}
