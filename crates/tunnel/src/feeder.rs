//! The feeder: sends values to a running method of a PHP master, no faster than it reads them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use uuid::Uuid;

use super::CallError;
use super::charged::charged;
use super::conversation::CloseReason;
use super::handle::{SendError, Shared};
use super::message::Message;
use super::stream::Stream;
use super::trunk::{self, WINDOW};
use super::value::Value;
use crate::php_value;

/// Sends values on the stream of a call.
#[derive(Debug)]
pub struct Feeder {
    uuid: Uuid,
    shared: Arc<Shared>,
}

/// The values that were sent and not yet read by the method, by size.
#[derive(Debug, Default)]
pub(super) struct Given {
    sizes: VecDeque<usize>,
    bytes: usize,
    waker: Option<Waker>,
}

impl Given {
    /// Their size in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn take(&mut self, count: usize) {
        self.bytes -= self.sizes.drain(..count.min(self.sizes.len())).sum::<usize>();
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn add(&mut self, size: usize) {
        self.sizes.push_back(size);
        self.bytes += size;
    }

    pub(super) fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.bytes < WINDOW {
            return Poll::Ready(());
        }
        self.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Stream {
    /// A feeder for the method that was called.
    pub fn feeder(&self) -> Feeder {
        Feeder { uuid: self.uuid, shared: self.shared.clone() }
    }
}

impl Feeder {
    /// Sends a value as soon as there is room for it, both here and at the master.
    pub async fn send(&self, value: Value) -> Result<(), CallError> {
        let value = php_value(value)?;
        let trunk = poll_fn(|context| self.poll_room(context)).await?;
        Ok(self.put(trunk::give(trunk, self.uuid, value), true).await?)
    }

    /// Reports that there are no more.
    pub async fn end(&self) -> Result<(), CallError> {
        let trunk = self.on_open(|trunk, _| trunk)?;
        Ok(self.put(trunk::given(trunk, self.uuid), false).await?)
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<Result<Uuid, SendError>> {
        match self.on_open(|trunk, given| given.poll_room(context).map(|()| trunk)) {
            Ok(polled) => polled.map(Ok),
            Err(ended) => Poll::Ready(Err(ended)),
        }
    }

    async fn put(&self, message: Message, is_value: bool) -> Result<(), SendError> {
        let frame = Bytes::from(message.encode());
        self.shared.check_length(frame.len())?;
        self.shared.when_room(|| self.push(frame.clone(), is_value)).await
    }

    fn push(&self, frame: Bytes, is_value: bool) -> Result<(), SendError> {
        let size = frame.len();
        let mut state = self.shared.speaking()?;
        let slot = state.streams.get(&self.uuid).filter(|slot| slot.is_open());
        let memory = slot.ok_or(SendError::Ended(CloseReason::Closed))?.memory();
        state.outbox.push(charged(frame, memory.as_ref())?.into())?;
        if let Some(slot) = state.streams.get_mut(&self.uuid).filter(|_| is_value) {
            slot.given.add(size);
        }
        self.shared.outgoing.notify_one();
        Ok(())
    }

    /// Looks at what was sent, if the call is still open and its stream is on a trunk.
    fn on_open<T>(&self, look: impl FnOnce(Uuid, &mut Given) -> T) -> Result<T, SendError> {
        let mut state = self.shared.speaking()?;
        let slot = state.streams.get_mut(&self.uuid).filter(|slot| slot.is_open());
        match slot.and_then(|slot| Some((slot.trunk?, &mut slot.given))) {
            Some((trunk, given)) => Ok(look(trunk, given)),
            None => Err(SendError::Ended(CloseReason::Closed)),
        }
    }
}
