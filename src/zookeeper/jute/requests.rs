//! Sent messages.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use super::{LENGTH_BYTES, PASSWORD_BYTES, PERSISTENT_RECURSIVE, Ticket, op};

const ANY_VERSION: i32 = -1;

/// Appends a frame.
pub(in crate::zookeeper) fn put_frame(out: &mut BytesMut, fill: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_i32(0);
    fill(out);
    let length = (out.len() - start - LENGTH_BYTES) as i32;
    out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
}

/// Appends a request.
pub(in crate::zookeeper) fn put_request(out: &mut BytesMut, xid: i32, op: i32, body: &[u8]) {
    put_frame(out, |out| {
        out.put_i32(xid);
        out.put_i32(op);
        out.put_slice(body);
    });
}

/// Appends the connect request, which begins a session or resumes one.
pub(in crate::zookeeper) fn put_connect(out: &mut BytesMut, ticket: &Ticket, last_zxid: i64, read_only: bool) {
    put_frame(out, |out| {
        out.put_i32(0);
        out.put_i64(last_zxid);
        out.put_i32(ticket.timeout_ms);
        out.put_i64(ticket.session);
        put_bytes(out, if ticket.password.0.is_empty() { &[0; PASSWORD_BYTES] } else { &ticket.password.0 });
        out.put_u8(read_only.into());
    });
}

pub(in crate::zookeeper) fn auth(scheme: &str, proof: &str) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_i32(0);
    put_bytes(&mut body, scheme.as_bytes());
    put_bytes(&mut body, proof.as_bytes());
    body
}

/// A token in a SASL exchange.
pub(in crate::zookeeper) fn token(token: &[u8]) -> BytesMut {
    let mut body = BytesMut::new();
    put_bytes(&mut body, token);
    body
}

/// A request that is only a path: `sync`.
pub(in crate::zookeeper) fn path(path: &str) -> BytesMut {
    let mut body = BytesMut::new();
    put_bytes(&mut body, path.as_bytes());
    body
}

/// A request to read a node, its stat or its children, with or without a one-shot watch.
pub(in crate::zookeeper) fn read_request(path: &str, is_watched: bool) -> BytesMut {
    let mut body = self::path(path);
    body.put_u8(is_watched.into());
    body
}

/// Creates a node with an ACL: permissions with the scheme and id they apply to.
pub(in crate::zookeeper) fn create_request(
    path: &str,
    data: &[u8],
    rules: &[(i32, &str, &str)],
    is_ephemeral: bool,
) -> BytesMut {
    let mut body = self::path(path);
    put_bytes(&mut body, data);
    body.put_i32(rules.len() as i32);
    for (permissions, scheme, id) in rules {
        body.put_i32(*permissions);
        put_bytes(&mut body, scheme.as_bytes());
        put_bytes(&mut body, id.as_bytes());
    }
    body.put_i32(is_ephemeral.into());
    body
}

/// Sets the data of a node if it has this version, or any.
pub(in crate::zookeeper) fn set_request(path: &str, data: &[u8], version: Option<i32>) -> BytesMut {
    let mut body = self::path(path);
    put_bytes(&mut body, data);
    body.put_i32(version.unwrap_or(ANY_VERSION));
    body
}

/// Deletes a node if it has this version, or any.
pub(in crate::zookeeper) fn delete_request(path: &str, version: Option<i32>) -> BytesMut {
    let mut body = self::path(path);
    body.put_i32(version.unwrap_or(ANY_VERSION));
    body
}

/// Sets one-shot data watches on nodes, assuming that they are unchanged, whatever happened to them.
pub(in crate::zookeeper) fn data_watches<'a>(paths: impl ExactSizeIterator<Item = Cow<'a, str>>) -> BytesMut {
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

pub(in crate::zookeeper) fn recursive_watch(path: &str) -> BytesMut {
    let mut body = self::path(path);
    body.put_i32(PERSISTENT_RECURSIVE);
    body
}

/// Many reads of one kind in one request.
pub(in crate::zookeeper) fn multi_read<'a>(op: i32, paths: impl Iterator<Item = Cow<'a, str>>) -> BytesMut {
    let mut body = BytesMut::new();
    for path in paths {
        put_multi_header(&mut body, op, false);
        put_bytes(&mut body, path.as_bytes());
        body.put_u8(0);
    }
    put_multi_header(&mut body, op::ERROR, true);
    body
}

pub(super) fn put_multi_header(out: &mut BytesMut, op: i32, done: bool) {
    out.put_i32(op);
    out.put_u8(done.into());
    out.put_i32(-1);
}

pub(super) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_i32(bytes.len() as i32);
    out.put_slice(bytes);
}
