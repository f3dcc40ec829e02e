//! The outlet: sends the answers to a request, no faster than they are taken, if the caller reports what it takes.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::feeder::Given;
use super::handle::{Handle, SendError, Shared};
use super::message::Message;
use super::trunk::WINDOW;
use super::value::Value;

/// Sends values on a stream that the other end has opened.
#[derive(Debug)]
pub struct Outlet {
    uuid: String,
    handle: Handle,
    is_windowed: bool,
}

/// What was sent through an outlet.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) given: Given,
    /// Whether the other end knows that it should report what it takes.
    is_announced: bool,
}

impl Outlet {
    pub fn new(handle: Handle, uuid: String, is_windowed: bool) -> Self {
        Self { uuid, handle, is_windowed }
    }

    /// Sends a value as soon as there is room for it, both here and at the other end.
    pub async fn send(&self, data: Value) -> Result<(), SendError> {
        let message = Message::Data { uuid: self.uuid.clone(), data };
        if !self.is_windowed {
            return self.handle.send_when_room(message).await;
        }
        poll_fn(|context| self.poll_room(context)).await?;
        let frame = self.shared().frame(message)?;
        let is_large = self.shared().when_room(|| self.push(frame.clone())).await?;
        if is_large {
            // Not for each answer: most are small.
            self.handle.send_when_room(Message::Window { uuid: self.uuid.clone() }).await?;
            self.shared().speaking()?.outlets.entry(self.uuid.clone()).or_default().is_announced = true;
        }
        Ok(())
    }

    /// Ready once the other end has taken enough.
    fn poll_room(&self, context: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let mut state = self.shared().speaking()?;
        match state.outlets.get_mut(&self.uuid).filter(|sent| sent.is_announced) {
            Some(sent) => sent.given.poll_room(context).map(Ok),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Returns whether this much is now in flight that the other end has to report what it takes.
    fn push(&self, frame: Bytes) -> Result<bool, SendError> {
        let (size, mut state) = (frame.len(), self.shared().speaking()?);
        state.outbox.push(frame.into())?;
        let sent = state.outlets.entry(self.uuid.clone()).or_default();
        sent.given.add(size);
        let is_large = !sent.is_announced && sent.given.bytes() >= WINDOW / 2;
        self.shared().outgoing.notify_one();
        Ok(is_large)
    }

    fn shared(&self) -> &Arc<Shared> {
        self.handle.shared()
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if self.is_windowed {
            self.shared().lock().outlets.remove(&self.uuid);
        }
    }
}
