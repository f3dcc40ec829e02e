//! The handshake: a new connection begins a session or resumes one, and authenticates.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connection::{Connection, MAX_SMALL_BYTES, MIN_SILENCE_TIMEOUT, SILENCE_TIMEOUT};
use super::credentials::{Identity, SASL};
use super::gssapi::{self, Gssapi};
use super::jute::{self, Frame, Malformed, ReplyHeader, Ticket, op, xid};
use super::sasl::Exchange;
use super::session::SessionError;
use roster_net::tls::{self, ClientFiles};
use roster_net::{ConnectError, Stream, secure};

const NO_SESSION: &str = "it accepts connections, but gives no session: is it a ZooKeeper, and has it a quorum?";

const ONLY_KNOWN: &str =
    "it serves to read only, and gives no new session for that: it needs localSessionsEnabled=true";

const CLOSED_AT_PROOF: &str = "it closes the connection at the proof by SASL: it seems that it refuses the credentials";

/// Why there is no session on a new connection.
#[derive(Debug)]
pub(super) enum NoSession {
    /// This server cannot give one; another may.
    Here(String),
    /// It refuses the identity; another may accept it.
    Refused,
    Ended(SessionError),
}

/// What is requested of a server: the session of a ticket, or a new one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) ticket: &'a Ticket,
    /// A server that is behind this refuses.
    pub(super) last_zxid: i64,
    pub(super) identities: &'a [Identity],
    /// The Kerberos identity, and the name of the server's host for it.
    pub(super) gssapi: Option<(&'a Gssapi, &'a str)>,
    /// Whether a read-only server is acceptable.
    pub(super) read_only: bool,
}

impl Connection {
    /// Connects to a server, and begins a session or resumes one.
    pub(super) async fn open(
        address: SocketAddr,
        tls: Option<(&str, ClientFiles<'_>)>,
        wanted: Wanted<'_>,
    ) -> Result<(Self, Ticket), NoSession> {
        let patience = patience(wanted.ticket);
        let stream = connect(address, tls, patience).await?;
        // Before there is a session, which would be useless without a ticket.
        let exchange = match wanted.gssapi {
            Some((gssapi, host)) => Some(gssapi.begin(host, patience).await.map_err(NoSession::Here)?),
            None => None,
        };
        let mut connection = Self::new(address, stream, wanted.last_zxid);
        let greeted = timeout(patience, connection.handshake(wanted, exchange)).await;
        match greeted.unwrap_or_else(|_| Err(NoSession::Here(NO_SESSION.into()))) {
            Ok(given) => Ok((connection, given)),
            Err(NoSession::Here(why)) if why == NO_SESSION && tls.is_none() && speaks_tls(address, patience).await => {
                Err(NoSession::Here("it speaks TLS there: write `tls://` before it in `connect`".into()))
            }
            Err(no_session) => Err(no_session),
        }
    }

    async fn handshake(&mut self, wanted: Wanted<'_>, exchange: Option<gssapi::Exchange>) -> Result<Ticket, NoSession> {
        let Wanted { ticket, last_zxid, identities, read_only, .. } = wanted;
        jute::put_connect(&mut self.unsent, ticket, last_zxid, read_only);
        self.send().await?;
        let greeting = self.small_frame().await?;
        if jute::refuses_session(&greeting) {
            return Err(NoSession::Here(ONLY_KNOWN.into()));
        }
        let (given, is_read_only) = jute::greeting(&greeting).map_err(strange)?;
        self.is_read_only = is_read_only;
        match (ticket.session, given.session) {
            (0, 0) => return Err(NoSession::Here(NO_SESSION.into())),
            (0, _) => {}
            (known, given) if known == given => {}
            _ => return Err(NoSession::Ended(SessionError::Ended("the session expired".into()))),
        }
        let length = u64::try_from(given.timeout_ms).ok().filter(|length| *length > 0);
        let length = length.ok_or(Malformed("a session without a length")).map_err(strange)?;
        self.silence = SILENCE_TIMEOUT.min(Duration::from_millis(length) * 2 / 5).max(MIN_SILENCE_TIMEOUT);
        // Only now, since what listens there may not be ZooKeeper.
        let (sasl, identities): (Vec<_>, Vec<_>) = identities.iter().partition(|(scheme, _)| scheme == SASL);
        for (scheme, proof) in &identities {
            jute::put_request(&mut self.unsent, xid::AUTH, op::AUTH, &jute::auth(scheme, &proof.0));
        }
        self.send().await?;
        for _ in identities {
            let (header, _) = jute::header(self.small_frame().await?).map_err(strange)?;
            match header.error {
                _ if header.xid != xid::AUTH => return Err(strange(Malformed("no answer to the credentials"))),
                0 => {}
                _ => return Err(NoSession::Refused),
            }
        }
        for (_, identity) in sasl {
            self.prove(&identity.0).await?;
        }
        if let Some(exchange) = exchange {
            self.prove_by_ticket(exchange).await?;
        }
        Ok(given)
    }

    async fn send(&mut self) -> Result<(), NoSession> {
        self.writer.write_all_buf(&mut self.unsent).await.map_err(lost_early)?;
        self.writer.flush().await.map_err(lost_early)
    }

    /// Authenticates by SASL, in both directions. What one server cannot do, another may.
    async fn prove(&mut self, identity: &str) -> Result<(), NoSession> {
        let (user, password) = identity.split_once(':').unwrap_or((identity, ""));
        let wrong = |error: super::sasl::SaslError| NoSession::Here(error.to_string());
        let challenge = self.exchange(&[]).await?;
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let exchange = Exchange::new(user, password, &challenge, &nonce).map_err(wrong)?;
        let last = self.exchange(&exchange.answer.0).await.map_err(|no_session| match no_session {
            // As servers before 3.5 do.
            NoSession::Here(why) if why == NO_SESSION => NoSession::Here(CLOSED_AT_PROOF.into()),
            other => other,
        })?;
        exchange.check(&last).map_err(wrong)
    }

    /// The same by Kerberos. Each server has its own key: what one refuses, another may accept.
    async fn prove_by_ticket(&mut self, mut exchange: gssapi::Exchange) -> Result<(), NoSession> {
        let service = exchange.service().to_owned();
        let refused = |no_session| match no_session {
            NoSession::Refused => NoSession::Here(format!("it refuses the ticket for {service}: its log says why")),
            // As servers before 3.5 do.
            NoSession::Here(why) if why == NO_SESSION => NoSession::Here(format!(
                "it closes the connection at the proof: it seems that it refuses the ticket for {service}: its log says why"
            )),
            other => other,
        };
        let mut theirs = self.exchange(exchange.first()).await.map_err(refused)?;
        while let Some(answer) = exchange.answer(&theirs).map_err(NoSession::Here)? {
            theirs = self.exchange(&answer).await.map_err(refused)?;
        }
        Ok(())
    }

    async fn exchange(&mut self, token: &[u8]) -> Result<Bytes, NoSession> {
        jute::put_request(&mut self.unsent, xid::SASL, op::SASL, &jute::token(token));
        self.send().await?;
        let (header, body) = jute::header(self.small_frame().await?).map_err(strange)?;
        match header {
            ReplyHeader { xid: xid::SASL, error: 0, .. } => jute::sasl_token(&body).map_err(strange),
            ReplyHeader { xid: xid::SASL, .. } => Err(NoSession::Refused),
            _ => Err(strange(Malformed("no answer to the credentials"))),
        }
    }

    async fn small_frame(&mut self) -> Result<Bytes, NoSession> {
        loop {
            match jute::frame(&mut self.received, MAX_SMALL_BYTES).map_err(strange)? {
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

/// A connection, with TLS if configured.
async fn connect(
    address: SocketAddr,
    tls: Option<(&str, ClientFiles<'_>)>,
    patience: Duration,
) -> Result<Stream, NoSession> {
    let here = |error: io::Error| NoSession::Here(error.kind().to_string());
    let stream = match timeout(patience, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(here)?,
        Err(_) => return Err(NoSession::Here("no answer".into())),
    };
    // Small requests should be sent at once; if this fails, they only arrive later.
    let _ = stream.set_nodelay(true);
    let Some((host, files)) = tls else { return Ok(Stream::Tcp(stream)) };
    let error = match timeout(patience, secure(stream, host, files)).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(ConnectError::Plain)) => return Err(NoSession::Here(PLAIN.into())),
        Ok(Err(ConnectError::Io(error))) => error,
        Ok(Err(error)) => return Err(NoSession::Here(format!("no TLS with it: {error}"))),
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    Err(NoSession::Here(match is_plain(address, patience).await {
        true => PLAIN.into(),
        false => format!("no TLS with it: {error}; {MAYBE_PLAIN}"),
    }))
}

const PLAIN: &str = "it does not speak TLS there: take `tls://` away before it in `connect`";

const MAYBE_PLAIN: &str = "if its port is one without TLS, take `tls://` away before it in `connect`";

/// Whether a server that closes a plain connection without a word answers a TLS hello.
async fn speaks_tls(address: SocketAddr, patience: Duration) -> bool {
    const HANDSHAKE: u8 = 22;
    const ALERT: u8 = 21;
    matches!(first_byte(address, &hello(), patience).await, Some(HANDSHAKE | ALERT))
}

/// Whether a server that does not complete the TLS handshake is a ZooKeeper without TLS.
async fn is_plain(address: SocketAddr, patience: Duration) -> bool {
    first_byte(address, b"srvr", patience).await.is_some_and(|byte| byte.is_ascii_graphic())
}

/// The first byte of the answer on a separate connection, which costs little compared to the attempt before it.
async fn first_byte(address: SocketAddr, question: &[u8], patience: Duration) -> Option<u8> {
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(question).await?;
        stream.read_u8().await
    };
    timeout((patience / 4).max(MIN_SILENCE_TIMEOUT), asking).await.ok()?.ok()
}

/// The minimal TLS hello: version 1.2, and a cipher that every server knows or refuses with an alert.
fn hello() -> BytesMut {
    const CIPHERS: [u8; 4] = [0xc0, 0x2f, 0xc0, 0x2b];
    let mut body = BytesMut::new();
    body.put_slice(&[3, 3]);
    body.put_bytes(7, 32);
    body.put_slice(&[0, 0, CIPHERS.len() as u8]);
    body.put_slice(&CIPHERS);
    body.put_slice(&[1, 0]);
    let mut hello = BytesMut::from(&[22, 3, 1][..]);
    hello.put_u16(body.len() as u16 + 4);
    hello.put_u8(1);
    hello.put_uint(body.len() as u64, 3);
    hello.put_slice(&body);
    hello
}

/// How long a server may take to accept, and then to answer.
fn patience(ticket: &Ticket) -> Duration {
    SILENCE_TIMEOUT.min(Duration::from_millis(ticket.timeout_ms.max(0) as u64)).max(MIN_SILENCE_TIMEOUT)
}

fn strange(malformed: Malformed) -> NoSession {
    NoSession::Here(format!("{malformed}: is it a ZooKeeper?"))
}

fn lost_early(error: io::Error) -> NoSession {
    alert(&error).unwrap_or_else(|| NoSession::Here(NO_SESSION.into()))
}

/// The alert with which a server ends TLS, such as one that requires a certificate. With TLS 1.3 it comes only after
/// the client's handshake is complete.
fn alert(error: &io::Error) -> Option<NoSession> {
    let rustls::Error::AlertReceived(alert) = error.get_ref()?.downcast_ref()? else { return None };
    Some(NoSession::Here(tls::alert_in_words(*alert)))
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use tokio::net::TcpListener;

    use super::*;
    use crate::secret::Secret;

    /// The result for the first, if a server answers with the second.
    async fn connect(known: i64, given: i64) -> Result<i64, NoSession> {
        const TIMEOUT_MS: i32 = 10_000;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let ticket = Ticket { session: known, timeout_ms: TIMEOUT_MS, ..Ticket::default() };
        let wanted = Wanted { ticket: &ticket, last_zxid: 0, identities: &[], gssapi: None, read_only: false };
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
        let (opened, _stream) = tokio::join!(Connection::open(address, None, wanted), answering);
        opened.map(|(_, ticket)| ticket.session)
    }

    /// The message about a server that should use TLS, and answers a four-letter word with this.
    async fn told_of_plain(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let serving = async {
            let mut greeted = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut word = [0; 4];
                stream.read_exact(&mut word).await.expect("a word");
                if &word == b"srvr" {
                    stream.write_all(answer).await.expect("written");
                }
                // It neither closes nor answers.
                greeted.push(stream);
            }
        };
        let ca = tempfile::NamedTempFile::new().expect("a file");
        let key = rcgen::KeyPair::generate().expect("a key");
        let authority = rcgen::CertificateParams::new([]).expect("parameters").self_signed(&key).expect("signed");
        std::fs::write(ca.path(), authority.pem()).expect("written");
        let files = ClientFiles { ca: Some(ca.path()), shown: None };
        let ticket = Ticket { timeout_ms: 1, ..Ticket::default() };
        let wanted = Wanted { ticket: &ticket, last_zxid: 0, identities: &[], gssapi: None, read_only: false };
        tokio::select! {
            opened = Connection::open(address, Some(("127.0.0.1", files)), wanted) => match opened {
                Err(NoSession::Here(why)) => why,
                other => panic!("{other:?}"),
            },
            never = serving => never,
        }
    }

    #[tokio::test]
    async fn a_port_without_tls_is_named_at_the_first_attempt_though_the_greeting_has_no_answer() {
        assert_eq!(told_of_plain(b"Zookeeper version").await, PLAIN);
        let told = told_of_plain(b"").await;
        assert!(told.starts_with("no TLS with it: timed out; ") && told.ends_with(MAYBE_PLAIN), "{told}");
    }

    #[test]
    fn no_secret_is_told_that_a_server_is_shown() {
        const SECRET: &str = "hush";
        let bytes = format!("{:?}", SECRET.as_bytes());
        let ticket = Ticket { password: Secret(SECRET.into()), ..Ticket::default() };
        let identities = [("digest".to_owned(), Secret(SECRET.to_owned()))];
        let wanted = Wanted { ticket: &ticket, last_zxid: 0, identities: &identities, gssapi: None, read_only: false };
        let told = format!("{wanted:?}");
        assert!(
            told.contains("digest") && !told.contains(SECRET) && !told.contains(bytes.trim_matches(['[', ']'])),
            "{told}"
        );
        let exchange = Exchange::new("bob", SECRET, b"nonce=\"n\",algorithm=md5-sess", "c").expect("a challenge");
        let told = format!("{exchange:?}");
        assert!(!told.contains("response"), "{told}");
    }

    #[tokio::test]
    async fn a_session_begins_or_is_resumed_and_is_never_another() {
        assert!(matches!(connect(0, 7).await, Ok(7)));
        assert!(matches!(connect(7, 7).await, Ok(7)));
        for given in [0, 8] {
            assert!(matches!(connect(7, given).await, Err(NoSession::Ended(SessionError::Ended(_)))));
        }
        assert!(matches!(connect(0, 0).await, Err(NoSession::Here(_))));
    }
}
