//! Jute: the bytes of ZooKeeper's protocol, as far as a mirror speaks it. No length or count in them is trusted.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::model::{Node, Stat};

/// Operations, by `ZooDefs.OpCode` of ZooKeeper.
pub(super) mod op {
    pub(in super::super) const EXISTS: i32 = 3;
    pub(in super::super) const GET_DATA: i32 = 4;
    pub(in super::super) const GET_CHILDREN: i32 = 8;
    pub(in super::super) const SYNC: i32 = 9;
    pub(in super::super) const PING: i32 = 11;
    /// With the stat of the node.
    pub(in super::super) const GET_CHILDREN_2: i32 = 12;
    pub(in super::super) const MULTI_READ: i32 = 22;
    pub(in super::super) const AUTH: i32 = 100;
    pub(in super::super) const SET_WATCHES: i32 = 101;
    pub(in super::super) const SASL: i32 = 102;
    pub(in super::super) const ADD_WATCH: i32 = 106;
    pub(in super::super) const CLOSE: i32 = -11;
    pub(super) const ERROR: i32 = -1;
}

/// Numbers of messages that are no ordinary request, nor the reply to one.
pub(super) mod xid {
    pub(in super::super) const EVENT: i32 = -1;
    pub(in super::super) const PING: i32 = -2;
    pub(in super::super) const AUTH: i32 = -4;
    /// Before the first ordinary request.
    pub(in super::super) const SASL: i32 = 0;
}

/// Errors, by `KeeperException.Code` of ZooKeeper.
pub(super) mod code {
    pub(in super::super) const MARSHALLING_ERROR: i32 = -5;
    pub(in super::super) const UNIMPLEMENTED: i32 = -6;
    pub(in super::super) const BAD_ARGUMENTS: i32 = -8;
    pub(in super::super) const NO_NODE: i32 = -101;
    pub(in super::super) const NO_AUTH: i32 = -102;
    pub(in super::super) const SESSION_EXPIRED: i32 = -112;
    pub(in super::super) const AUTH_FAILED: i32 = -115;
    pub(in super::super) const NOT_READ_ONLY: i32 = -119;
    pub(in super::super) const SASL_REQUIRED: i32 = -124;
}

const PERSISTENT_RECURSIVE: i32 = 1;

/// A header of a frame: its length.
const LENGTH_BYTES: usize = 4;

/// The header of a reply: xid, zxid, error.
pub(super) const HEADER_BYTES: usize = 16;

/// Bytes that are no message of ZooKeeper.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the server breaks the protocol: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// The beginning of what was received.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Complete(Bytes),
    Incomplete,
    /// It is longer than it may be. This many bytes follow after its header.
    TooLarge(ReplyHeader, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplyHeader {
    pub(super) xid: i32,
    pub(super) zxid: i64,
    pub(super) error: i32,
}

/// How long the password of a session is, and may be: it is shown to the next server, whoever gave it.
const PASSWORD_BYTES: usize = 16;

/// What a session is resumed by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) session: i64,
    pub(super) password: Vec<u8>,
    pub(super) timeout_ms: i32,
}

impl Ticket {
    /// What a new session is asked for by, of this length.
    pub(super) fn for_new(timeout: Duration) -> Self {
        Self { timeout_ms: timeout.as_millis().try_into().unwrap_or(i32::MAX), ..Self::default() }
    }
}

/// What reading one node came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Found(Node),
    Absent,
    /// The identity may not read it.
    Unreadable,
    /// The reply would be larger than one may be.
    TooLarge,
    /// The server refuses to read this one, for a reason of its own.
    Refused,
}

/// What listing the children of one node came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Listing {
    Names(Names),
    /// The node is gone, or may not be read, or the server refuses it.
    Nothing,
    /// The reply would be larger than one may be.
    TooLarge,
}

/// The names of children, as they were received.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) bytes: Bytes,
    count: usize,
    /// Their parent's stat and how many bytes of data it has, where these were asked for.
    pub(super) parent: Option<(Stat, usize)>,
}

impl Names {
    /// Bytes that are not UTF-8 become U+FFFD, which no name holds.
    pub(super) fn iter(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let mut rest = Reader(&self.bytes);
        std::iter::from_fn(move || rest.text().ok())
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }
}

/// Takes the first frame of what was received.
pub(super) fn frame(received: &mut BytesMut, max: usize) -> Result<Frame, Malformed> {
    let mut head = Reader(received);
    let Ok(length) = head.int() else { return Ok(Frame::Incomplete) };
    let length = usize::try_from(length).map_err(|_| Malformed("a frame of a negative length"))?;
    if length > max {
        let Ok(header) = head.header() else { return Ok(Frame::Incomplete) };
        received.advance(LENGTH_BYTES + HEADER_BYTES);
        return Ok(Frame::TooLarge(header, length.saturating_sub(HEADER_BYTES)));
    }
    if head.0.len() < length {
        return Ok(Frame::Incomplete);
    }
    received.advance(LENGTH_BYTES);
    Ok(Frame::Complete(received.split_to(length).freeze()))
}

/// Of which message a part was received: its number, where so much has come.
pub(super) fn part(received: &[u8]) -> Option<i32> {
    let mut head = Reader(received);
    head.int().and_then(|_| head.int()).ok()
}

/// Appends a frame.
pub(super) fn put_frame(out: &mut BytesMut, fill: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_i32(0);
    fill(out);
    let length = (out.len() - start - LENGTH_BYTES) as i32;
    out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
}

/// Appends a request.
pub(super) fn put_request(out: &mut BytesMut, xid: i32, op: i32, body: &[u8]) {
    put_frame(out, |out| {
        out.put_i32(xid);
        out.put_i32(op);
        out.put_slice(body);
    });
}

/// Appends what begins a connection: it begins a session, or resumes one.
pub(super) fn put_connect(out: &mut BytesMut, ticket: &Ticket, last_zxid: i64, read_only: bool) {
    put_frame(out, |out| {
        out.put_i32(0);
        out.put_i64(last_zxid);
        out.put_i32(ticket.timeout_ms);
        out.put_i64(ticket.session);
        put_bytes(out, if ticket.password.is_empty() { &[0; PASSWORD_BYTES] } else { &ticket.password });
        out.put_u8(read_only.into());
    });
}

pub(super) fn auth(scheme: &str, proof: &str) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_i32(0);
    put_bytes(&mut body, scheme.as_bytes());
    put_bytes(&mut body, proof.as_bytes());
    body
}

/// A part of an exchange by SASL.
pub(super) fn token(token: &[u8]) -> BytesMut {
    let mut body = BytesMut::new();
    put_bytes(&mut body, token);
    body
}

/// The server's part of an exchange by SASL.
pub(super) fn sasl_token(body: &Bytes) -> Result<Bytes, Malformed> {
    Reader(body).bytes().map(Bytes::copy_from_slice)
}

/// A request that is only a path: `sync`.
pub(super) fn path(path: &str) -> BytesMut {
    let mut body = BytesMut::new();
    put_bytes(&mut body, path.as_bytes());
    body
}

/// A request to read a node, its stat or its children, with or without a one-shot watch.
pub(super) fn reading(path: &str, is_watched: bool) -> BytesMut {
    let mut body = self::path(path);
    body.put_u8(is_watched.into());
    body
}

/// Sets one-shot watches of the data of nodes that are taken to be as they are known, whatever happened to them.
pub(super) fn data_watches<'a>(paths: impl ExactSizeIterator<Item = Cow<'a, str>>) -> BytesMut {
    const NOTHING_IS_NEWER: i64 = i64::MAX;
    let mut body = BytesMut::new();
    body.put_i64(NOTHING_IS_NEWER);
    body.put_i32(paths.len() as i32);
    paths.for_each(|path| put_bytes(&mut body, path.as_bytes()));
    let (of_existence, of_children) = (0, 0);
    body.put_i32(of_existence);
    body.put_i32(of_children);
    body
}

pub(super) fn recursive_watch(path: &str) -> BytesMut {
    let mut body = self::path(path);
    body.put_i32(PERSISTENT_RECURSIVE);
    body
}

/// Many reads of one kind in a request.
pub(super) fn multi_read<'a>(op: i32, paths: impl Iterator<Item = Cow<'a, str>>) -> BytesMut {
    let mut body = BytesMut::new();
    for path in paths {
        put_multi_header(&mut body, op, false);
        put_bytes(&mut body, path.as_bytes());
        body.put_u8(0);
    }
    put_multi_header(&mut body, op::ERROR, true);
    body
}

fn put_multi_header(out: &mut BytesMut, op: i32, done: bool) {
    out.put_i32(op);
    out.put_u8(done.into());
    out.put_i32(-1);
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_i32(bytes.len() as i32);
    out.put_slice(bytes);
}

/// The header of a reply or an event, and what follows.
pub(super) fn header(mut message: Bytes) -> Result<(ReplyHeader, Bytes), Malformed> {
    let header = Reader(&message).header()?;
    message.advance(HEADER_BYTES);
    Ok((header, message))
}

/// The answer to a connect: the session, and the time-out that the server gives it; and whether the server serves only to
/// read. Session 0: there is none.
pub(super) fn greeting(message: &[u8]) -> Result<(Ticket, bool), Malformed> {
    let mut rest = Reader(message);
    let _version = rest.int()?;
    let timeout_ms = rest.int()?;
    let session = rest.long()?;
    let password = rest.bytes()?.to_vec();
    if password.len() > PASSWORD_BYTES {
        return Err(Malformed("a session with too long a password"));
    }
    Ok((Ticket { session, password, timeout_ms }, rest.byte().is_ok_and(|read_only| read_only != 0)))
}

/// Whether a server answers to a connect that it serves only to read, and therefore gives no session.
pub(super) fn refuses_session(message: &Bytes) -> bool {
    header(message.clone()).is_ok_and(|(header, rest)| header.error == code::NOT_READ_ONLY && rest.is_empty())
}

/// An event: its type, and the path as the server knows it.
pub(super) fn event(body: &[u8]) -> Result<(i32, Cow<'_, str>), Malformed> {
    let mut rest = Reader(body);
    let kind = rest.int()?;
    let _state = rest.int()?;
    Ok((kind, rest.text()?))
}

/// The reply to reading one node.
pub(super) fn node(body: &[u8]) -> Result<Node, Malformed> {
    Reader(body).node()
}

/// The reply to listing one node with its stat.
pub(super) fn listed(body: &Bytes) -> Result<Names, Malformed> {
    let mut rest = Reader(body);
    let names = rest.names(body)?;
    Ok(Names { parent: Some(rest.stat_and_length()?), ..names })
}

/// What reading a node came to that met an error of its own.
pub(super) fn no_reading(code: i32) -> Reading {
    match code {
        code::NO_NODE => Reading::Absent,
        code::NO_AUTH => Reading::Unreadable,
        _ => Reading::Refused,
    }
}

/// The reply to reading `count` nodes.
pub(super) fn readings(body: &[u8], count: usize) -> Result<Vec<Reading>, Malformed> {
    multi(body, count, op::GET_DATA, |rest| rest.node().map(Reading::Found), no_reading)
}

/// The reply to listing the children of `count` nodes.
pub(super) fn listings(body: &Bytes, count: usize) -> Result<Vec<Listing>, Malformed> {
    multi(body, count, op::GET_CHILDREN, |rest| rest.names(body).map(Listing::Names), |_| Listing::Nothing)
}

fn multi<'a, T>(
    body: &'a [u8],
    count: usize,
    op: i32,
    found: impl Fn(&mut Reader<'a>) -> Result<T, Malformed>,
    failed: impl Fn(i32) -> T,
) -> Result<Vec<T>, Malformed> {
    let (mut rest, mut results) = (Reader(body), Vec::new());
    while results.len() < count {
        let (kind, done) = (rest.int()?, rest.byte()? != 0);
        let _error = rest.int()?;
        results.push(match kind {
            _ if done => return Err(Malformed("fewer answers than questions")),
            op::ERROR => failed(rest.int()?),
            kind if kind == op => found(&mut rest)?,
            _ => return Err(Malformed("an answer of another kind than the question")),
        });
    }
    Ok(results)
}

/// What is left of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("a message ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed("a message ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    fn int(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    fn long(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    /// A length of -1 means that there is nothing, which is here the same as empty.
    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.int()?;
        self.take(usize::try_from(length).unwrap_or(0))
    }

    fn text(&mut self) -> Result<Cow<'a, str>, Malformed> {
        self.bytes().map(String::from_utf8_lossy)
    }

    fn node(&mut self) -> Result<Node, Malformed> {
        let data = self.bytes()?.into();
        Ok(Node { data, stat: self.stat()? })
    }

    /// Of `whole`, this is what is left.
    fn names(&mut self, whole: &Bytes) -> Result<Names, Malformed> {
        // Of nothing there are -1.
        let count = self.int()?.max(0) as usize;
        let start = whole.len() - self.0.len();
        for _ in 0..count {
            self.bytes()?;
        }
        Ok(Names { bytes: whole.slice(start..whole.len() - self.0.len()), count, parent: None })
    }

    fn header(&mut self) -> Result<ReplyHeader, Malformed> {
        Ok(ReplyHeader { xid: self.int()?, zxid: self.long()?, error: self.int()? })
    }

    fn stat(&mut self) -> Result<Stat, Malformed> {
        self.stat_and_length().map(|(stat, _)| stat)
    }

    fn stat_and_length(&mut self) -> Result<(Stat, usize), Malformed> {
        let (czxid, mzxid, ctime, mtime) = (self.long()?, self.long()?, self.long()?, self.long()?);
        let (version, _cversion, _aversion) = (self.int()?, self.int()?, self.int()?);
        let (ephemeral_owner, length, num_children) = (self.long()?, self.int()?, self.int()?);
        let pzxid = self.long()?;
        let stat = Stat { czxid, mzxid, pzxid, ctime, mtime, ephemeral_owner, version, num_children };
        Ok((stat, length.max(0) as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reply to listing one node: so many names, of which these follow.
    fn listing(count: i32, names: &[&[u8]]) -> Bytes {
        let mut body = BytesMut::new();
        put_multi_header(&mut body, op::GET_CHILDREN, false);
        body.put_i32(count);
        names.iter().for_each(|name| put_bytes(&mut body, name));
        put_multi_header(&mut body, op::ERROR, true);
        body.freeze()
    }

    #[test]
    fn a_count_or_a_length_reserves_no_memory() {
        let malformed = Err(Malformed("a message ends too early"));
        assert_eq!(listings(&listing(i32::MAX, &[b"a"]), 1), malformed);
        let mut body = BytesMut::new();
        put_multi_header(&mut body, op::GET_DATA, false);
        body.put_i32(i32::MAX);
        assert_eq!(readings(&body, 1), Err(Malformed("a message ends too early")));
        assert_eq!(readings(&body, usize::MAX), Err(Malformed("a message ends too early")));
    }

    #[test]
    fn names_are_what_came_and_what_is_not_utf_8_is_told() {
        let listed = listings(&listing(3, &[b"a", b"", b"\xff"]), 1).expect("a list");
        let [Listing::Names(names)] = &listed[..] else { panic!("{listed:?}") };
        assert_eq!(names.iter().collect::<Vec<_>>(), ["a", "", "\u{fffd}"]);
    }

    #[test]
    fn damaged_messages_are_refused_or_read_and_nothing_else() {
        let mut body = BytesMut::new();
        for _ in 0..2 {
            put_multi_header(&mut body, op::GET_DATA, false);
            put_bytes(&mut body, b"data");
            body.put_bytes(1, 68);
        }
        let messages = [body.freeze(), listing(3, &[b"a", b"", b"\xff"])];
        for message in &messages {
            for (at, byte) in (0..message.len()).flat_map(|at| [0, 1, 0x7f, 0x80, 0xff].map(|byte| (at, byte))) {
                let mut damaged = message.to_vec();
                damaged[at] = byte;
                for bytes in [Bytes::copy_from_slice(&message[..at]), damaged.into()] {
                    let _ = readings(&bytes, 2);
                    let _ = listings(&bytes, 2).map(|listed| listed.len());
                    let _ = (header(bytes.clone()), greeting(&bytes).is_ok(), event(&bytes).is_ok());
                    let _ = frame(&mut BytesMut::from(&bytes[..]), 50);
                }
            }
        }
        assert_eq!(readings(&messages[0], 2).map(|read| read.len()), Ok(2));
    }

    #[test]
    fn a_password_that_is_longer_than_any_server_gives_is_none() {
        let greet = |password: &[u8]| {
            let mut body = BytesMut::new();
            body.put_bytes(0, 16);
            put_bytes(&mut body, password);
            greeting(&body).map(|(ticket, _)| ticket.password)
        };
        for length in [0, PASSWORD_BYTES] {
            assert_eq!(greet(&vec![7; length]), Ok(vec![7; length]));
        }
        assert_eq!(greet(&[7; PASSWORD_BYTES + 1]), Err(Malformed("a session with too long a password")));
    }

    #[test]
    fn fewer_answers_than_questions_are_none() {
        assert_eq!(listings(&listing(0, &[]), 2), Err(Malformed("fewer answers than questions")));
    }

    #[test]
    fn a_frame_is_taken_when_it_is_whole_and_passed_over_when_it_is_too_large() {
        let mut whole = BytesMut::new();
        put_request(&mut whole, 7, 0, b"four");
        let mut received = BytesMut::new();
        for byte in &whole[..whole.len() - 1] {
            received.put_u8(*byte);
            assert_eq!(frame(&mut received, 100), Ok(Frame::Incomplete));
        }
        received.put_u8(b'r');
        assert_eq!(frame(&mut received, 100), Ok(Frame::Complete(whole.freeze().slice(4..))));
        received.put_i32(i32::MAX);
        assert_eq!(frame(&mut received, 100), Ok(Frame::Incomplete));
        received.put_slice(&[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0]);
        let header = ReplyHeader { xid: 9, zxid: 8, error: 0 };
        assert_eq!(frame(&mut received, 100), Ok(Frame::TooLarge(header, i32::MAX as usize - HEADER_BYTES)));
        received.put_i32(-1);
        assert_eq!(frame(&mut received, 100), Err(Malformed("a frame of a negative length")));
    }
}
