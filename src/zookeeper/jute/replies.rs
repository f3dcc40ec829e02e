//! Received messages: nothing in them is trusted before it is checked.

use std::borrow::Cow;

use bytes::{Buf, Bytes};

use super::{HEADER_BYTES, Listing, Malformed, Names, PASSWORD_BYTES, ReadResult, ReplyHeader, Ticket, code, op};
use crate::model::{Node, Stat};
use crate::secret::Secret;

/// The header of a reply or an event, and the rest.
pub(in crate::zookeeper) fn header(mut message: Bytes) -> Result<(ReplyHeader, Bytes), Malformed> {
    let header = Reader(&message).header()?;
    message.advance(HEADER_BYTES);
    Ok((header, message))
}

/// The reply to a connect: the session, its timeout, and whether the server is read-only. Session 0: there is none.
pub(in crate::zookeeper) fn greeting(message: &[u8]) -> Result<(Ticket, bool), Malformed> {
    let mut rest = Reader(message);
    let _version = rest.int()?;
    let timeout_ms = rest.int()?;
    let session = rest.long()?;
    let password = rest.bytes()?.to_vec();
    if password.len() > PASSWORD_BYTES {
        return Err(Malformed("a session with too long a password"));
    }
    Ok((Ticket { session, password: Secret(password), timeout_ms }, rest.byte().is_ok_and(|read_only| read_only != 0)))
}

/// Whether a server answers a connect by saying that it is read-only, and therefore gives no session.
pub(in crate::zookeeper) fn refuses_session(message: &Bytes) -> bool {
    header(message.clone()).is_ok_and(|(header, rest)| header.error == code::NOT_READ_ONLY && rest.is_empty())
}

/// An event: its type, and the server's path.
pub(in crate::zookeeper) fn event(body: &[u8]) -> Result<(i32, Cow<'_, str>), Malformed> {
    let mut rest = Reader(body);
    let kind = rest.int()?;
    let _state = rest.int()?;
    Ok((kind, rest.text()?))
}

/// The server's token in a SASL exchange.
pub(in crate::zookeeper) fn sasl_token(body: &Bytes) -> Result<Bytes, Malformed> {
    Reader(body).bytes().map(Bytes::copy_from_slice)
}

/// The reply to reading one node.
pub(in crate::zookeeper) fn node(body: &[u8]) -> Result<Node, Malformed> {
    Reader(body).node()
}

/// The reply to setting the data of a node: its stat.
pub(in crate::zookeeper) fn stat(body: &[u8]) -> Result<Stat, Malformed> {
    Reader(body).stat()
}

/// The reply to listing one node with its stat.
pub(in crate::zookeeper) fn listed(body: &Bytes) -> Result<Names, Malformed> {
    let mut rest = Reader(body);
    let names = rest.names(body)?;
    Ok(Names { parent: Some(rest.stat_and_length()?), ..names })
}

/// The result of reading a node that failed with its own error.
pub(in crate::zookeeper) fn read_failure(code: i32) -> ReadResult {
    match code {
        code::NO_NODE => ReadResult::Absent,
        code::NO_AUTH => ReadResult::Unreadable,
        _ => ReadResult::Refused,
    }
}

/// The reply to reading `count` nodes.
pub(in crate::zookeeper) fn read_results(body: &[u8], count: usize) -> Result<Vec<ReadResult>, Malformed> {
    multi(body, count, op::GET_DATA, |rest| rest.node().map(ReadResult::Found), read_failure)
}

/// The reply to listing the children of `count` nodes.
pub(in crate::zookeeper) fn listings(body: &Bytes, count: usize) -> Result<Vec<Listing>, Malformed> {
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

/// The rest of a message.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("a message ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed("a message ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn int(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn long(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    /// A length of -1 means null, which is treated as empty.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.int()?;
        self.take(usize::try_from(length).unwrap_or(0))
    }

    pub(super) fn text(&mut self) -> Result<Cow<'a, str>, Malformed> {
        self.bytes().map(String::from_utf8_lossy)
    }

    pub(super) fn node(&mut self) -> Result<Node, Malformed> {
        let data = self.bytes()?.into();
        Ok(Node { data, stat: self.stat()? })
    }

    /// `self` is the rest of `whole`.
    pub(super) fn names(&mut self, whole: &Bytes) -> Result<Names, Malformed> {
        // A null list has a count of -1.
        let count = self.int()?.max(0) as usize;
        let start = whole.len() - self.0.len();
        for _ in 0..count {
            self.bytes()?;
        }
        Ok(Names { bytes: whole.slice(start..whole.len() - self.0.len()), count, parent: None })
    }

    pub(super) fn header(&mut self) -> Result<ReplyHeader, Malformed> {
        Ok(ReplyHeader { xid: self.int()?, zxid: self.long()?, error: self.int()? })
    }

    pub(super) fn stat(&mut self) -> Result<Stat, Malformed> {
        self.stat_and_length().map(|(stat, _)| stat)
    }

    pub(super) fn stat_and_length(&mut self) -> Result<(Stat, usize), Malformed> {
        let (czxid, mzxid, ctime, mtime) = (self.long()?, self.long()?, self.long()?, self.long()?);
        let (version, _cversion, _aversion) = (self.int()?, self.int()?, self.int()?);
        let (ephemeral_owner, length, num_children) = (self.long()?, self.int()?, self.int()?);
        let pzxid = self.long()?;
        let stat = Stat { czxid, mzxid, pzxid, ctime, mtime, ephemeral_owner, version, num_children };
        Ok((stat, length.max(0) as usize))
    }
}
