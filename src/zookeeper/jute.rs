//! Jute: ZooKeeper's wire format, as far as it is used here. No length or count in it is trusted.

mod replies;
mod requests;

use std::borrow::Cow;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use self::replies::Reader;
pub(super) use self::replies::*;
pub(super) use self::requests::*;
use crate::model::{Node, Stat};
use crate::secret::Secret;

/// Operations, by `ZooDefs.OpCode` of ZooKeeper.
pub(super) mod op {
    pub(in super::super) const CREATE: i32 = 1;
    pub(in super::super) const DELETE: i32 = 2;
    pub(in super::super) const EXISTS: i32 = 3;
    pub(in super::super) const GET_DATA: i32 = 4;
    pub(in super::super) const SET_DATA: i32 = 5;
    pub(in super::super) const GET_CHILDREN: i32 = 8;
    pub(in super::super) const SYNC: i32 = 9;
    pub(in super::super) const PING: i32 = 11;
    /// Includes the stat of the node.
    pub(in super::super) const GET_CHILDREN_2: i32 = 12;
    pub(in super::super) const MULTI_READ: i32 = 22;
    pub(in super::super) const AUTH: i32 = 100;
    pub(in super::super) const SET_WATCHES: i32 = 101;
    pub(in super::super) const SASL: i32 = 102;
    pub(in super::super) const ADD_WATCH: i32 = 106;
    pub(in super::super) const CLOSE: i32 = -11;
    pub(super) const ERROR: i32 = -1;
}

/// Special message numbers.
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
    pub(in super::super) const BAD_VERSION: i32 = -103;
    pub(in super::super) const NODE_EXISTS: i32 = -110;
    pub(in super::super) const NOT_EMPTY: i32 = -111;
    pub(in super::super) const SESSION_EXPIRED: i32 = -112;
    pub(in super::super) const AUTH_FAILED: i32 = -115;
    pub(in super::super) const NOT_READ_ONLY: i32 = -119;
    pub(in super::super) const SASL_REQUIRED: i32 = -124;
}

const PERSISTENT_RECURSIVE: i32 = 1;

/// The frame header: its length.
const LENGTH_BYTES: usize = 4;

/// The overhead of each path in a request for many: a header, the length, and whether it is watched.
pub(super) const BYTES_BESIDE_PATH: usize = 9 + 4 + 1;

/// The header of a reply: xid, zxid, error.
pub(super) const HEADER_BYTES: usize = 16;

/// Bytes that are not a ZooKeeper message.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the server breaks the protocol: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// The beginning of what was received.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Complete(Bytes),
    Incomplete,
    /// It is too long. This many bytes follow its header.
    TooLarge(ReplyHeader, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplyHeader {
    pub(super) xid: i32,
    pub(super) zxid: i64,
    pub(super) error: i32,
}

/// The length of a session's password, exactly: it is sent to the next server, whichever one gave it.
const PASSWORD_BYTES: usize = 16;

/// What is needed to resume a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) session: i64,
    pub(super) password: Secret<Vec<u8>>,
    pub(super) timeout_ms: i32,
}

impl Ticket {
    /// The request for a new session, with this timeout.
    pub(super) fn for_new(timeout: Duration) -> Self {
        Self { timeout_ms: timeout.as_millis().try_into().unwrap_or(i32::MAX), ..Self::default() }
    }
}

/// The result of reading one node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReadResult {
    Found(Node),
    Absent,
    /// The identity may not read it.
    Unreadable,
    /// The reply would be too large.
    TooLarge,
    /// The server refuses to read this one, for its own reasons.
    Refused,
}

/// The result of listing the children of one node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Listing {
    Names(Names),
    /// The node is gone, unreadable, or refused by the server.
    Nothing,
    /// The reply would be too large.
    TooLarge,
}

/// The names of children, as they were received.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(super) bytes: Bytes,
    count: usize,
    /// Their parent's stat and the length of its data, if requested.
    pub(crate) parent: Option<(Stat, usize)>,
}

impl Names {
    /// Bytes that are not UTF-8 become U+FFFD, which no valid name contains.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let mut rest = Reader(&self.bytes);
        std::iter::from_fn(move || rest.text().ok())
    }

    pub(crate) fn count(&self) -> usize {
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

/// The number of the message of which a part was received, if that much has arrived.
pub(super) fn part(received: &[u8]) -> Option<i32> {
    let mut head = Reader(received);
    head.int().and_then(|_| head.int()).ok()
}

#[cfg(test)]
mod tests;
