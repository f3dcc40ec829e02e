//! The trunk: one stream that a PHP master keeps open, on which requests go to it as data, and all answers come back.
//!
//! A PHP master compiles each closure that it is sent, and never frees it: so it is sent only one, `master.php`, which
//! opens the trunk and defines its protocol. Values stay packed until they are taken, and a master whose values are not
//! taken pauses.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use uuid::Uuid;

use super::conversation::CloseReason;
use super::handle::{Handle, SendError, Shared, State};
use super::message::{Message, RemoteError};
use super::outbox::Outgoing;
use super::stream::{Slot, Stream, StreamError};
use super::value::{Value, text};
use crate::share::Share;
use crate::{Arguments, NotPhp};

/// How many bytes of values may be in flight in one stream before the master pauses.
pub(super) const WINDOW: usize = 256 * 1024;

/// The overhead of each value, here as in `master.php`.
const A_VALUE: usize = 256;

/// A trunk that does not stay open is not reopened more often than this.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// The trunk of a conversation.
#[derive(Debug, Default)]
pub(super) struct Trunk {
    open: Option<Uuid>,
    opened_at: Option<Instant>,
    requests: u64,
}

/// A request over the trunk.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Request {
    List,
    Call {
        service: String,
        method: String,
        /// Packed.
        arguments: Bytes,
        /// Whether the method is sent more values while it runs.
        has_input: bool,
    },
}

/// A part of an answer.
pub(super) enum Part {
    /// The method has read this many of the values that it was sent.
    Took(usize),
    Value(Value),
    /// The last value.
    Last(Value),
    End,
    Error(RemoteError),
}

impl Request {
    /// A call with a list of arguments, or a map of them by name.
    pub fn call(service: String, method: String, arguments: &Arguments, has_input: bool) -> Result<Self, NotPhp> {
        Ok(Self::Call { service, method, arguments: arguments.packed_for_php()?.clone(), has_input })
    }

    /// The bytes that replace its last value, which is nil; empty: nothing is replaced.
    pub(super) fn end(&self) -> Bytes {
        match self {
            Self::List => Bytes::new(),
            Self::Call { arguments, .. } => arguments.clone(),
        }
    }

    pub(super) fn into_value(self, id: u64) -> Value {
        match self {
            Self::List => words("list", id, []),
            Self::Call { service, method, has_input, .. } => {
                let kind = if has_input { "call-with-input" } else { "call" };
                words(kind, id, [service.into(), method.into(), Value::Nil])
            }
        }
    }
}

impl Handle {
    /// Makes a request over the trunk, which this closure opens if none is open.
    /// `memory` is charged as by [`Handle::open`].
    pub fn ask(
        &self,
        memory: Option<&Arc<Share>>,
        closure: impl FnOnce() -> Vec<u8>,
        request: Request,
    ) -> Result<Stream, SendError> {
        let shared = self.shared();
        let (trunk, id) = open(shared, closure)?;
        let end = request.end();
        let frame = Outgoing::new(on(trunk, request.into_value(id)), end);
        shared.check_length(frame.len())?;
        let frame = frame.charged(memory)?;
        let mut state = shared.speaking()?;
        if state.trunk.open != Some(trunk) {
            return Err(SendError::Ended(CloseReason::Closed));
        }
        let request = state.outbox.push(frame)?;
        let uuid = stream_of(id);
        state.streams.insert(uuid, Slot::new(Some(trunk), memory));
        shared.outgoing.notify_one();
        Ok(Stream { uuid, request, shared: shared.clone() })
    }
}

/// The open trunk, and a number for a request over it.
fn open(shared: &Shared, closure: impl FnOnce() -> Vec<u8>) -> Result<(Uuid, u64), SendError> {
    let mut state = shared.speaking()?;
    state.trunk.requests += 1;
    let id = state.trunk.requests;
    if let Some(trunk) = state.trunk.open {
        return Ok((trunk, id));
    }
    if state.trunk.opened_at.is_some_and(|at| at.elapsed() < REOPEN_INTERVAL) {
        return Err(SendError::Full);
    }
    let trunk = Uuid::new_v4();
    let callback = Message::Callback { uuid: trunk.to_string(), serialized: closure() };
    state.outbox.push(Outgoing::new(callback, Bytes::new()))?;
    (state.trunk.open, state.trunk.opened_at) = (Some(trunk), Some(Instant::now()));
    Ok((trunk, id))
}

/// Closes a stream on a trunk.
pub(super) fn close(trunk: Uuid, stream: Uuid) -> Message {
    on(trunk, words("close", id_of(stream), []))
}

/// Sends a value to the method that is called on a stream.
pub(super) fn give(trunk: Uuid, stream: Uuid, value: Value) -> Message {
    on(trunk, words("give", id_of(stream), [value]))
}

/// Ends the values that are sent to the method.
pub(super) fn given(trunk: Uuid, stream: Uuid) -> Message {
    on(trunk, words("given", id_of(stream), []))
}

/// Reports that this many values of a stream were taken.
pub(super) fn taken(trunk: Uuid, stream: Uuid, count: usize) -> Message {
    on(trunk, words("taken", id_of(stream), [count.into()]))
}

impl State {
    /// Takes in what arrived on the trunk. Returns a message to send in return, if necessary.
    pub(super) fn receive_on_trunk(&mut self, trunk: Uuid, data: Value, max_weight: usize) -> Option<Message> {
        let (id, part) = part(data)?;
        let stream = stream_of(id);
        let slot = self.streams.get_mut(&stream)?;
        let (value, end) = match part {
            Part::Took(count) => {
                slot.given.take(count);
                return None;
            }
            Part::Value(value) => (Some(value), None),
            Part::Last(value) => (Some(value), Some(Ok(()))),
            Part::End => (None, Some(Ok(()))),
            Part::Error(error) => (None, Some(Err(StreamError::Failed(error)))),
        };
        let is_taken_in = value.is_none_or(|value| match value.as_slice().map(<[u8]>::len) {
            Some(bytes) => slot.push(value, bytes + A_VALUE, max_weight),
            // What is not packed may take many times as much memory as its bytes.
            None => {
                slot.finish(Err(StreamError::Failed(RemoteError::new(
                    "the master did not answer as the closure does",
                ))));
                false
            }
        });
        if let Some(end) = end {
            slot.finish(end);
        }
        // A master whose values overflow, or are not packed, does not behave like the closure.
        (!is_taken_in).then(|| close(trunk, stream))
    }

    /// Ends everything on a trunk that has ended; false: it is not a trunk.
    pub(super) fn close_trunk(&mut self, uuid: Uuid, end: &Result<(), StreamError>) -> bool {
        if self.trunk.open != Some(uuid) {
            return false;
        }
        self.trunk.open = None;
        let why = match end {
            // The closure was refused. It never ends like this by itself.
            Err(failed @ StreamError::Failed(_)) => failed.clone(),
            _ => StreamError::TrunkClosed,
        };
        for slot in self.streams.values_mut().filter(|slot| slot.trunk == Some(uuid)) {
            slot.finish(Err(why.clone()));
        }
        true
    }
}

impl Trunk {
    pub(super) fn is(&self, uuid: Uuid) -> bool {
        self.open == Some(uuid)
    }
}

pub(super) fn part(data: Value) -> Option<(u64, Part)> {
    let Value::Array(words) = data else { return None };
    let mut words = words.into_iter();
    let (kind, id) = (text(&words.next()?)?, words.next()?.as_u64()?);
    let part = match kind.as_str() {
        "took" => Part::Took(words.next()?.as_u64()? as usize),
        "value" => Part::Value(words.next()?),
        "last" => Part::Last(words.next()?),
        "end" => Part::End,
        "error" => Part::Error(RemoteError::from_value(&words.next()?)),
        _ => return None,
    };
    Some((id, part))
}

fn words<const N: usize>(kind: &str, id: u64, rest: [Value; N]) -> Value {
    Value::Array([kind.into(), id.into()].into_iter().chain(rest).collect())
}

fn on(trunk: Uuid, data: Value) -> Message {
    Message::Data { uuid: trunk.to_string(), data }
}

/// The local uuid of a stream on the trunk. No other stream has such a uuid.
fn stream_of(id: u64) -> Uuid {
    Uuid::from_u64_pair(0, id)
}

fn id_of(stream: Uuid) -> u64 {
    stream.as_u64_pair().1
}
