//! Streams: the answers to one request, multiplexed with those to others.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use uuid::Uuid;

use super::conversation::CloseReason;
use super::feeder::Given;
use super::handle::Shared;
use super::message::{Message, RemoteError};
use super::outbox::Outbox;
use super::trunk::{self, WINDOW};
use super::value::Value;
use crate::share::{Share, Taken};

/// How much of each stream is not charged: the number of calls is limited.
const UNCHARGED_BYTES: usize = 4 * 1024;

/// The answers to one request. If dropped before its end, it is closed at the other end too; a request that was not
/// sent yet is then never sent.
#[derive(Debug)]
pub struct Stream {
    pub(super) uuid: Uuid,
    /// The number of the request's frame in the outbox.
    pub(super) request: u64,
    pub(super) shared: Arc<Shared>,
}

/// Why a stream failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The other end's own words.
    #[error(transparent)]
    Failed(#[from] RemoteError),
    #[error("the other end closed the stream without an answer")]
    Closed,
    #[error("values came faster than they were taken")]
    Overflow,
    #[error("values that were not taken take as much memory as their user may have")]
    NoMemory,
    #[error("the master closed the stream that carries its calls")]
    TrunkClosed,
    #[error("the connection is lost: {0}")]
    Lost(CloseReason),
}

impl Stream {
    /// The next value; none: the stream is complete.
    pub async fn next(&mut self) -> Result<Option<Value>, StreamError> {
        std::future::poll_fn(|context| {
            let mut state = self.shared.lock();
            let Some(slot) = state.streams.get_mut(&self.uuid) else { return Poll::Ready(Err(StreamError::Closed)) };
            let polled = slot.poll(context);
            if let Some(count) = slot.taken_to_report() {
                let taken = match slot.trunk {
                    Some(trunk) => trunk::taken(trunk, self.uuid, count),
                    None => Message::Taken { uuid: self.uuid.to_string(), count },
                };
                self.shared.send_own(state, taken, Outbox::push_beyond);
            }
            polled
        })
        .await
    }

    /// Whether the request may have reached the other end. If not, it can be retried elsewhere.
    pub fn was_sent(&self) -> bool {
        self.shared.lock().outbox.has_left(self.request)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.forget(self.uuid, self.request);
    }
}

/// What arrived on a stream and was not taken yet.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// What its caller is charged for it; none: nobody is charged.
    charged: Option<Taken>,
    /// The trunk that carries it, if it is not a separate stream.
    pub(super) trunk: Option<Uuid>,
    /// Whether the other end waits for reports of what is taken.
    is_windowed: bool,
    values: VecDeque<(Value, usize)>,
    memory_size: usize,
    /// What was sent on it after the request.
    pub(super) given: Given,
    /// What was taken since the last report: the number of values, and their memory.
    taken: (usize, usize),
    end: Option<Result<(), StreamError>>,
    waker: Option<Waker>,
}

impl Slot {
    pub(super) fn new(trunk: Option<Uuid>, memory: Option<&Arc<Share>>) -> Self {
        Self { trunk, charged: memory.map(Share::nothing), ..Self::default() }
    }

    /// The share that is charged for the stream.
    pub(super) fn memory(&self) -> Option<Arc<Share>> {
        self.charged.as_ref().map(Taken::share)
    }

    /// Adds a value, of any size if it is the only one; false: there is no room for another, which has ended the
    /// stream.
    pub(super) fn push(&mut self, value: Value, memory_size: usize, max_memory: usize) -> bool {
        if self.end.is_some() {
            return true;
        }
        if self.memory_size >= max_memory {
            self.finish(Err(StreamError::Overflow));
            return false;
        }
        if !self.charge(self.memory_size + memory_size) {
            self.finish(Err(StreamError::NoMemory));
            return false;
        }
        self.memory_size += memory_size;
        self.values.push_back((value, memory_size));
        self.wake();
        true
    }

    /// False: its caller may not have this much.
    fn charge(&mut self, memory_size: usize) -> bool {
        self.charged.as_mut().is_none_or(|charged| charged.resize(memory_size.saturating_sub(UNCHARGED_BYTES)))
    }

    /// Ends the stream, unless it has ended.
    pub(super) fn finish(&mut self, end: Result<(), StreamError>) {
        self.end.get_or_insert(end);
        self.wake();
    }

    /// From now on, reports what is taken, including what was taken before.
    pub(super) fn begin_window(&mut self) {
        self.is_windowed = true;
        self.wake();
    }

    pub(super) fn is_open(&self) -> bool {
        self.end.is_none()
    }

    /// How many taken values must now be reported to the other end, so that it does not pause forever.
    fn taken_to_report(&mut self) -> Option<usize> {
        let (count, memory_size) = self.taken;
        let is_due = memory_size >= WINDOW / 2 && self.is_open() && (self.trunk.is_some() || self.is_windowed);
        is_due.then(|| {
            self.taken = (0, 0);
            count
        })
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Value>, StreamError>> {
        if let Some((value, memory_size)) = self.values.pop_front() {
            self.memory_size -= memory_size;
            self.charge(self.memory_size);
            self.taken = (self.taken.0 + 1, self.taken.1 + memory_size);
            return Poll::Ready(Ok(Some(value)));
        }
        if let Some(end) = &self.end {
            return Poll::Ready(end.clone().map(|()| None));
        }
        self.waker = Some(context.waker().clone());
        Poll::Pending
    }
}
