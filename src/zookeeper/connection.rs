//! One connection to a server: requests and their replies in order, events between them, silence detection.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use tokio::io::{self, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::chroot::Chroot;
use super::ensemble::CONFIGURATION;
use super::inbox::Inbox;
use super::jute::{self, Frame, Malformed, ReplyHeader, code, op, xid};
use super::request::{Failure, Reply, Request};
use super::session::SessionError;
use super::watching::Fired;
use crate::clock::Moment;
use roster_net::Stream;

/// A connection on which nothing arrives for this long is lost, even if it was not closed.
pub(super) const SILENCE_TIMEOUT: Duration = Duration::from_secs(4);

/// The minimum of that, however short the server's session timeout is.
pub(super) const MIN_SILENCE_TIMEOUT: Duration = Duration::from_millis(400);

/// The largest reply, unless a single node may be larger. A larger one is skipped, and less is requested.
const MAX_REPLY_BYTES: usize = 64 << 20;

/// The largest event, or reply to a connect.
pub(super) const MAX_SMALL_BYTES: usize = 2 << 20;

/// A reply, or this many bytes of one, must arrive within this many silence timeouts: a server that only sends other
/// things makes no progress.
const STANDSTILL_SILENCES: u32 = 3;
const MIN_PROGRESS_BYTES: u64 = 8 << 10;

/// How often to check for silence within the timeout.
const SILENCE_TICKS: u32 = 8;

const READ_BUFFER_BYTES: usize = 64 << 10;

/// The most memory that is kept while nothing is received.
const MAX_SPARE_BYTES: usize = 1 << 20;

pub(super) struct Connection {
    address: SocketAddr,
    pub(super) reader: ReadHalf<Stream>,
    pub(super) writer: WriteHalf<Stream>,
    pub(super) received: BytesMut,
    /// How many of the next bytes belong to a skipped reply.
    passed_over: usize,
    pub(super) unsent: BytesMut,
    /// Whether TLS may still hold unsent bytes.
    unflushed: bool,
    /// Requests without a reply, in the order in which they were sent.
    waiting: VecDeque<Waiting>,
    next_xid: i32,
    heard: Moment,
    spoke: Instant,
    pub(super) silence: Duration,
    /// How many ticks have passed since something arrived. Not the time itself: while this process was not running, it
    /// could not receive.
    silent_ticks: u32,
    /// How many ticks have passed since there was progress, and the reply bytes received by then.
    idle_ticks: u32,
    progressed: u64,
    /// Bytes of replies that were received completely, or skipped.
    replied: u64,
    pub(super) last_zxid: i64,
    /// Whether the server is read-only, since it is cut off from its ensemble.
    pub(super) is_read_only: bool,
}

/// Without sent and received data, which contains proofs of identity.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Waiting {
    xid: i32,
    reply: Reply,
}

impl Connection {
    /// The largest reply, if a node's data may have this many bytes.
    pub(super) fn max_reply(max_node_bytes: u64) -> usize {
        usize::try_from(max_node_bytes)
            .map_or(usize::MAX, |bytes| bytes.saturating_add(MAX_SMALL_BYTES).max(MAX_REPLY_BYTES))
    }

    /// A connection before its handshake.
    pub(super) fn new(address: SocketAddr, stream: Stream, last_zxid: i64) -> Self {
        let (reader, writer) = io::split(stream);
        Self {
            address,
            reader,
            writer,
            received: BytesMut::new(),
            passed_over: 0,
            unsent: BytesMut::new(),
            unflushed: false,
            waiting: VecDeque::new(),
            next_xid: 1,
            heard: Moment::now(),
            spoke: Instant::now(),
            silence: SILENCE_TIMEOUT,
            silent_ticks: 0,
            idle_ticks: 0,
            progressed: 0,
            replied: 0,
            last_zxid,
            is_read_only: false,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn heard(&self) -> Moment {
        self.heard
    }

    pub(super) fn last_zxid(&self) -> i64 {
        self.last_zxid
    }

    /// Sends requests and receives, until there is trouble.
    pub(super) async fn serve(
        &mut self,
        requests: &mut mpsc::UnboundedReceiver<Request>,
        inbox: &Inbox,
        chroot: &Chroot,
        max_reply: usize,
    ) -> SessionError {
        let mut clock = interval(self.silence / SILENCE_TICKS);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unwritten = None;
        loop {
            if let Err(trouble) = self.take_all(inbox, chroot, max_reply) {
                return trouble;
            }
            make_room(&mut self.received);
            tokio::select! {
                read = self.reader.read_buf(&mut self.received) => match read {
                    Ok(0) => return SessionError::Lost(unwritten.map_or_else(|| format!("{} closed the connection", self.address), lost)),
                    Ok(_) => (self.heard, self.silent_ticks) = (Moment::now(), 0),
                    Err(error) => return SessionError::Lost(lost(error)),
                },
                wrote = write(&mut self.writer, &mut self.unsent), if unwritten.is_none() && (!self.unsent.is_empty() || self.unflushed) => match wrote {
                    Ok(unflushed) => (self.unflushed, self.spoke) = (unflushed, Instant::now()),
                    // What the server sent before can still be read, then the end: so keep reading, and report the
                    // error once that is done.
                    Err(error) => unwritten = Some(error),
                },
                request = requests.recv() => match request {
                    Some(request) => {
                        self.ask(request);
                        // Requests made together are sent together.
                        while let Ok(request) = requests.try_recv() {
                            self.ask(request);
                        }
                    }
                    None => return SessionError::Ended("the session was closed".into()),
                },
                _ = clock.tick() => if let Err(trouble) = self.check() { return trouble },
            }
        }
    }

    fn ask(&mut self, request: Request) {
        let xid = self.next_xid;
        self.next_xid = xid.checked_add(1).unwrap_or(1);
        jute::put_request(&mut self.unsent, xid, request.op, &request.body);
        self.waiting.push_back(Waiting { xid, reply: request.reply });
    }

    /// Detects silence, in both directions.
    fn check(&mut self) -> Result<(), SessionError> {
        self.silent_ticks += 1;
        if self.silent_ticks > SILENCE_TICKS {
            return Err(SessionError::Lost(format!("the server was silent for {:?}", self.silence)));
        }
        self.check_progress()?;
        // Also while replies are arriving: the server counts what it hears, and a session may be shorter than they
        // take.
        if self.unsent.is_empty() && self.spoke.elapsed() >= self.silence * 3 / 8 {
            jute::put_request(&mut self.unsent, xid::PING, op::PING, &[]);
        }
        Ok(())
    }

    /// Detects a server that sends data, but nothing that was requested.
    fn check_progress(&mut self) -> Result<(), SessionError> {
        let replied = self.replied + self.bytes_of_a_part();
        if self.waiting.is_empty() || replied >= self.progressed + MIN_PROGRESS_BYTES {
            (self.idle_ticks, self.progressed) = (0, replied);
            return Ok(());
        }
        self.idle_ticks += 1;
        if self.idle_ticks > SILENCE_TICKS * STANDSTILL_SILENCES {
            let waited = self.silence * STANDSTILL_SILENCES;
            return Err(SessionError::Lost(format!("the server answers nothing that it was asked for {waited:?}")));
        }
        Ok(())
    }

    /// How many bytes of an incomplete reply have arrived.
    fn bytes_of_a_part(&self) -> u64 {
        match jute::part(&self.received) {
            Some(xid::EVENT | xid::PING) | None => 0,
            Some(_) => self.received.len() as u64,
        }
    }

    fn take_all(&mut self, inbox: &Inbox, chroot: &Chroot, max_reply: usize) -> Result<(), SessionError> {
        loop {
            let passed_over = self.passed_over.min(self.received.len());
            drop(self.received.split_to(passed_over));
            self.passed_over -= passed_over;
            self.replied += passed_over as u64;
            match jute::frame(&mut self.received, max_reply).map_err(broken)? {
                Frame::Incomplete => return Ok(()),
                Frame::Complete(message) => {
                    let (header, body) = jute::header(message).map_err(broken)?;
                    if header.xid == xid::EVENT {
                        take_event(&body, inbox, chroot)?;
                    } else {
                        self.replied += body.len() as u64;
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

    /// Replies arrive in the order of the requests.
    fn reply(&mut self, header: ReplyHeader, body: Result<Bytes, Failure>) -> Result<(), SessionError> {
        if header.xid == xid::PING {
            return Ok(());
        }
        // The request fails together with all others that wait, for the same reason.
        match header.error {
            code::SESSION_EXPIRED => return Err(SessionError::Ended("the session expired".into())),
            code::AUTH_FAILED | code::SASL_REQUIRED => return Err(SessionError::Refused),
            _ => {}
        }
        let waiting = self.waiting.pop_front().filter(|waiting| waiting.xid == header.xid);
        let waiting = waiting.ok_or(Malformed("a reply to no request")).map_err(broken)?;
        self.idle_ticks = 0;
        self.last_zxid = self.last_zxid.max(header.zxid);
        match header.error {
            0 => waiting.reply.take(body),
            error => waiting.reply.take(Err(Failure::Code(error))),
        }
    }

    /// Fails all waiting requests: no reply will come.
    pub(super) fn fail_all(&mut self, why: &str) {
        for waiting in self.waiting.drain(..) {
            waiting.reply.fail(why);
        }
    }

    /// Ends the session, if that can be sent at once; otherwise it will expire.
    pub(super) fn close_session(&mut self) {
        if self.unsent.is_empty() {
            jute::put_request(&mut self.unsent, self.next_xid, op::CLOSE, &[]);
            let _ = self.writer.write(&self.unsent).now_or_never();
        }
    }
}

/// Writes some of it, or what TLS still holds; returns whether there may be more.
async fn write(writer: &mut WriteHalf<Stream>, unsent: &mut BytesMut) -> io::Result<bool> {
    if unsent.is_empty() {
        return writer.flush().await.map(|()| false);
    }
    writer.write_buf(unsent).await.map(|_| true)
}

/// Makes room for what comes next, and releases the memory of a large reply.
fn make_room(received: &mut BytesMut) {
    received.reserve(READ_BUFFER_BYTES);
    if received.is_empty() && received.capacity() > MAX_SPARE_BYTES {
        *received = BytesMut::with_capacity(READ_BUFFER_BYTES);
    }
}

fn take_event(body: &[u8], inbox: &Inbox, chroot: &Chroot) -> Result<(), SessionError> {
    const DELETED: i32 = 2;
    /// The most characters of an invalid name that are kept.
    const MAX_NAME: usize = 200;
    if body.len() > MAX_SMALL_BYTES {
        return Err(broken(Malformed("an event that is too large")));
    }
    let (kind, path) = jute::event(body).map_err(broken)?;
    if path == CONFIGURATION {
        inbox.reconfigured();
    }
    match chroot.client(&path) {
        Some((path, None)) => inbox.changed(path, Fired::of(kind)),
        Some((parent, Some(name))) => inbox.odd(parent, name.chars().take(MAX_NAME).collect(), kind != DELETED),
        None => Ok(()),
    }
}

fn lost(error: io::Error) -> String {
    format!("the connection was lost: {error}")
}

fn broken(malformed: Malformed) -> SessionError {
    SessionError::Lost(malformed.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_server_sent_before_it_was_gone_is_taken_also_where_something_is_to_be_sent() {
        for _ in 0..50 {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
            let (mut server, _) = listener.accept().await.expect("a connection");
            let mut connection = Connection::new(address, Stream::Tcp(stream), 0);
            let (sender, mut requests) = mpsc::unbounded_channel();
            let ask = || {
                let (reply, answer) = Reply::new(|reply| Ok(reply.is_ok()));
                let _ = sender.send(Request { op: op::PING, body: BytesMut::new(), reply });
                answer
            };
            let (answered, _unanswered) = (ask(), ask());
            let mut reply = BytesMut::new();
            jute::put_frame(&mut reply, |out| out.extend_from_slice(&[&[0, 0, 0, 1][..], &[0; 12]].concat()));
            server.write_all(&reply).await.expect("written");
            server.set_zero_linger().expect("an option");
            drop(server);
            connection.ask(requests.recv().await.expect("a request"));
            let trouble = connection.serve(&mut requests, &Inbox::default(), &Chroot::new(""), 1_000).await;
            assert!(trouble.to_string().starts_with("the connection was lost: "), "{trouble}");
            connection.fail_all("it is over");
            assert_eq!(answered.await, Ok(Ok(true)));
        }
    }

    #[tokio::test]
    async fn what_a_server_answers_by_refusing_all_fails_with_all_else_that_waits() {
        for error in [code::SESSION_EXPIRED, code::AUTH_FAILED, code::SASL_REQUIRED] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
            let mut connection = Connection::new(address, Stream::Tcp(stream), 0);
            let (reply, answer) = Reply::new(Ok);
            connection.ask(Request { op: op::PING, body: BytesMut::new(), reply });
            let refused = connection.reply(ReplyHeader { xid: 1, zxid: 1, error }, Ok(Bytes::new()));
            assert!(matches!(refused, Err(SessionError::Ended(_) | SessionError::Refused)), "{refused:?}");
            connection.fail_all("refused");
            assert_eq!(answer.await, Ok(Ok(Err(Failure::Lost("refused".into())))));
        }
    }

    #[test]
    fn the_memory_of_a_large_reply_is_returned() {
        const LARGE: usize = 8 << 20;
        let mut received = BytesMut::new();
        jute::put_request(&mut received, 1, 0, &vec![0; LARGE]);
        make_room(&mut received);
        assert!(received.capacity() > LARGE);
        assert!(matches!(jute::frame(&mut received, 2 * LARGE), Ok(Frame::Complete(_))));
        make_room(&mut received);
        assert!((READ_BUFFER_BYTES..=MAX_SPARE_BYTES).contains(&received.capacity()), "{}", received.capacity());
    }
}
