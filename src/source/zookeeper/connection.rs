//! One connection to a server: requests and their replies in one order, events between them, silence noticed.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::credentials::Identity;
use super::inbox::Inbox;
use super::jute::{self, Chroot, Frame, Malformed, ReplyHeader, Ticket, code, op, xid};
use super::session::Trouble;

/// A connection on which nothing comes for this long is lost, though no end of it was seen.
pub(super) const SILENCE: Duration = Duration::from_secs(4);

/// The shortest silence that means so, however short the server says that a session is.
const LEAST_SILENCE: Duration = Duration::from_millis(400);

/// The most that a reply may hold, if no single node may hold more. A larger one is passed over, and less asked for.
const MAX_REPLY: usize = 64 << 20;

/// The most that an event, or the answer to a connect, may hold.
const MAX_SMALL: usize = 2 << 20;

/// How long the oldest request may wait for its reply, though other bytes come.
const REPLY_TIMEOUT: Duration = Duration::from_secs(35);

const READ_BYTES: usize = 64 << 10;

/// A request, and who waits for its reply.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) op: i32,
    pub(super) body: BytesMut,
    pub(super) reply: oneshot::Sender<Result<Bytes, Failure>>,
}

/// Why a request has no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server refuses it, with this error.
    Code(i32),
    /// The reply is larger than one may be.
    TooLarge,
    Lost(String),
}

/// Why there is no session on a new connection.
#[derive(Debug)]
pub(super) enum NoSession {
    /// This server cannot give one; another may.
    Here(String),
    Ended(Trouble),
}

#[derive(Debug)]
pub(super) struct Connection {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    received: BytesMut,
    /// How many of the bytes that come are of a reply that is passed over.
    passed_over: usize,
    unsent: BytesMut,
    /// Requests without a reply, in the order in which they were sent.
    waiting: VecDeque<Waiting>,
    next_xid: i32,
    heard: Instant,
    spoke: Instant,
    silence: Duration,
    last_zxid: i64,
    /// Whether a ping has no reply yet. It may overtake other replies.
    pinged: bool,
}

#[derive(Debug)]
struct Waiting {
    xid: i32,
    since: Instant,
    reply: oneshot::Sender<Result<Bytes, Failure>>,
}

impl Connection {
    /// The most that a reply may hold, where a node's data may have this many bytes.
    pub(super) fn max_reply(max_node_bytes: u64) -> usize {
        usize::try_from(max_node_bytes).map_or(usize::MAX, |bytes| bytes.saturating_add(MAX_SMALL).max(MAX_REPLY))
    }

    /// Connects to a server, and begins a session or resumes that of the ticket.
    pub(super) async fn open(
        address: SocketAddr,
        ticket: &Ticket,
        last_zxid: i64,
        identities: &[Identity],
    ) -> Result<(Self, Ticket), NoSession> {
        let connected = timeout(SILENCE, TcpStream::connect(address)).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(NoSession::Here(error.kind().to_string())),
            Err(_) => return Err(NoSession::Here("no answer".into())),
        };
        // A small request is sent at once; where that cannot be set, it only comes later.
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        let (now, silence) = (Instant::now(), SILENCE);
        let mut connection = Self {
            reader,
            writer,
            received: BytesMut::new(),
            passed_over: 0,
            unsent: BytesMut::new(),
            waiting: VecDeque::new(),
            next_xid: 1,
            heard: now,
            spoke: now,
            silence,
            last_zxid,
            pinged: false,
        };
        match timeout(SILENCE, connection.greet(ticket, identities)).await {
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
        if given.session == 0 {
            return Err(NoSession::Ended(Trouble::Ended("the session expired".into())));
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

    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    pub(super) fn last_zxid(&self) -> i64 {
        self.last_zxid
    }

    /// Sends requests and takes what comes, until there is trouble.
    pub(super) async fn serve(
        &mut self,
        requests: &mut mpsc::UnboundedReceiver<Request>,
        inbox: &Inbox,
        chroot: &Chroot,
        max_reply: usize,
    ) -> Trouble {
        let mut clock = interval(self.silence / 8);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Err(trouble) = self.take_all(inbox, chroot, max_reply) {
                return trouble;
            }
            self.received.reserve(READ_BYTES);
            tokio::select! {
                read = self.reader.read_buf(&mut self.received) => match read {
                    Ok(0) => return Trouble::Lost("the server closed the connection".into()),
                    Ok(_) => self.heard = Instant::now(),
                    Err(error) => return Trouble::Lost(format!("the connection was lost: {error}")),
                },
                wrote = self.writer.write_buf(&mut self.unsent), if !self.unsent.is_empty() => match wrote {
                    Ok(_) => self.spoke = Instant::now(),
                    Err(error) => return Trouble::Lost(format!("the connection was lost: {error}")),
                },
                request = requests.recv() => match request {
                    Some(request) => self.ask(request),
                    None => return Trouble::Ended("the session was closed".into()),
                },
                _ = clock.tick() => if let Err(trouble) = self.check() { return trouble },
            }
        }
    }

    fn ask(&mut self, request: Request) {
        let xid = self.next_xid;
        self.next_xid = xid.checked_add(1).unwrap_or(1);
        jute::put_request(&mut self.unsent, xid, request.op, &request.body);
        self.waiting.push_back(Waiting { xid, since: Instant::now(), reply: request.reply });
    }

    /// Notices silence, on either side.
    fn check(&mut self) -> Result<(), Trouble> {
        if self.heard.elapsed() >= self.silence {
            return Err(Trouble::Lost(format!("the server was silent for {:?}", self.silence)));
        }
        if self.waiting.front().is_some_and(|oldest| oldest.since.elapsed() >= REPLY_TIMEOUT) {
            return Err(Trouble::Lost(format!("no reply within {REPLY_TIMEOUT:?}")));
        }
        if !self.pinged && self.spoke.elapsed() >= self.silence * 3 / 8 {
            jute::put_request(&mut self.unsent, xid::PING, op::PING, &[]);
            self.pinged = true;
        }
        Ok(())
    }

    fn take_all(&mut self, inbox: &Inbox, chroot: &Chroot, max_reply: usize) -> Result<(), Trouble> {
        loop {
            let passed_over = self.passed_over.min(self.received.len());
            drop(self.received.split_to(passed_over));
            self.passed_over -= passed_over;
            match jute::frame(&mut self.received, max_reply).map_err(broken)? {
                Frame::Incomplete => return Ok(()),
                Frame::Complete(message) => {
                    let (header, body) = jute::header(message).map_err(broken)?;
                    if header.xid == xid::EVENT {
                        take_event(&body, inbox, chroot)?;
                    } else {
                        self.reply(header, Ok(body))?;
                    }
                }
                Frame::TooLarge(header, _) if header.xid == xid::EVENT => {
                    return Err(broken(Malformed("an event that is too large")));
                }
                Frame::TooLarge(header, rest) => {
                    self.passed_over = rest;
                    self.reply(header, Err(Failure::TooLarge))?;
                }
            }
        }
    }

    /// Replies come in the order of the requests.
    fn reply(&mut self, header: ReplyHeader, body: Result<Bytes, Failure>) -> Result<(), Trouble> {
        if header.xid == xid::PING {
            self.pinged = false;
            return Ok(());
        }
        let waiting = self.waiting.pop_front().filter(|waiting| waiting.xid == header.xid);
        let waiting = waiting.ok_or(Malformed("a reply to no request")).map_err(broken)?;
        self.last_zxid = self.last_zxid.max(header.zxid);
        match header.error {
            code::SESSION_EXPIRED => Err(Trouble::Ended("the session expired".into())),
            code::AUTH_FAILED | code::SASL_REQUIRED => Err(Trouble::Refused),
            error => {
                let answer = if error == 0 { body } else { Err(Failure::Code(error)) };
                // Who asked may have given up.
                let _ = waiting.reply.send(answer);
                Ok(())
            }
        }
    }

    /// Tells all who wait for a reply that none will come.
    pub(super) fn fail_all(&mut self, why: &str) {
        for waiting in self.waiting.drain(..) {
            // Who asked may have given up.
            let _ = waiting.reply.send(Err(Failure::Lost(why.to_owned())));
        }
    }

    /// Ends the session, where the server can be told at once; else it ends by itself in time.
    pub(super) fn close_session(&mut self) {
        if self.unsent.is_empty() {
            jute::put_request(&mut self.unsent, self.next_xid, op::CLOSE, &[]);
            let _ = self.writer.try_write(&self.unsent);
        }
    }
}

const NO_SESSION: &str = "it accepts connections, but gives no session: is it a ZooKeeper, and has it a quorum?";

fn take_event(body: &[u8], inbox: &Inbox, chroot: &Chroot) -> Result<(), Trouble> {
    const CREATED: i32 = 1;
    const DELETED: i32 = 2;
    if body.len() > MAX_SMALL {
        return Err(broken(Malformed("an event that is too large")));
    }
    let (kind, path) = jute::event(body).map_err(broken)?;
    match chroot.client(&path) {
        Some(path) => inbox.changed(path, matches!(kind, CREATED | DELETED)),
        None => Ok(()),
    }
}

fn broken(malformed: Malformed) -> Trouble {
    Trouble::Lost(malformed.to_string())
}

fn strange(malformed: Malformed) -> NoSession {
    NoSession::Here(format!("{malformed}: is it a ZooKeeper?"))
}

fn lost_early(_: std::io::Error) -> NoSession {
    NoSession::Here(NO_SESSION.into())
}
