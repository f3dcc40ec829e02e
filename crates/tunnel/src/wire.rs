//! The wire: messages over a stream of bytes, read one by one.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{Bounds, MAX_COMMAND_VALUES, Progress, Scanner, Wrong};
use super::message::Message;
use super::value::Value;

/// The minimum size of a read.
const MIN_READ: usize = 512;

/// A buffer that grew beyond this for a long frame is released afterwards.
const KEEP: usize = 16 * 1024;

/// The memory of a value besides the bytes of its frame.
const VALUE: usize = size_of::<Value>();

/// A stream of bytes that carries messages, before a conversation: while the two ends authenticate.
#[derive(Debug)]
pub struct Wire<S> {
    pub(super) stream: S,
    pub(super) inbox: Inbox,
}

/// Why no more messages can be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    #[error("the other end closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the other end sent what cannot be read: {0}")]
    Wrong(#[from] Wrong),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub fn new(stream: S, bounds: Bounds) -> Self {
        Self { stream, inbox: Inbox::new(bounds) }
    }

    /// The next message. Cancel-safe.
    pub async fn receive(&mut self) -> Result<Message, WireError> {
        loop {
            if let Some(message) = self.inbox.next()? {
                return Ok(message);
            }
            if self.inbox.fill(&mut self.stream).await? == 0 {
                return Err(WireError::Closed);
            }
        }
    }

    pub async fn send(&mut self, message: Message) -> io::Result<()> {
        self.stream.write_all(&message.encode()).await?;
        self.stream.flush().await
    }
}

/// Whether the bytes are a TLS record: a handshake, or an alert to a peer that does not use TLS. No frame begins like
/// this.
fn is_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [0x15 | 0x16, 0x03, ..])
}

/// What has been read and is not yet a message.
#[derive(Debug)]
pub(super) struct Inbox {
    bounds: Bounds,
    scanner: Scanner,
    buffer: BytesMut,
    /// Whether a frame that is not a message is ignored, as PHP's register ignores it from an authenticated peer.
    is_lenient: bool,
}

/// About how much memory the message of a frame takes where it is received.
pub(super) fn memory_size(frame: &[u8]) -> usize {
    let mut scanner = Scanner::new(Bounds { bytes: frame.len(), depth: usize::MAX });
    scanner.scan(frame);
    memory_of(frame, scanner.values())
}

fn memory_of(frame: &[u8], values: usize) -> usize {
    frame.len() + values * VALUE
}

/// A received frame.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: BytesMut,
    values: usize,
    has_odd_key: bool,
}

impl Frame {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// About how much memory its message takes.
    pub(super) fn memory_size(&self) -> usize {
        memory_of(&self.bytes, self.values)
    }

    pub(super) fn decode(&self) -> Result<Option<Message>, Wrong> {
        if self.has_odd_key {
            return Err(Wrong::Key);
        }
        let message = Message::decode(&self.bytes)?;
        let has_many = self.values > MAX_COMMAND_VALUES;
        match message {
            Some(message) if has_many && !matches!(message, Message::Data { .. }) => Err(Wrong::Values),
            message => Ok(message),
        }
    }
}

impl Inbox {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, scanner: Scanner::new(bounds), buffer: BytesMut::new(), is_lenient: false }
    }

    /// The same bytes, with the following frames being those of an authenticated peer: they have other limits, and need
    /// not be messages.
    pub(super) fn within(mut self, bounds: Bounds) -> Self {
        (self.bounds, self.scanner, self.is_lenient) = (bounds, Scanner::new(bounds), true);
        self
    }

    /// The next complete message.
    pub(super) fn next(&mut self) -> Result<Option<Message>, Wrong> {
        while let Some(frame) = self.next_frame()? {
            if let Some(message) = self.pass(frame.decode())? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// The next complete frame.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, Wrong> {
        if !self.is_lenient && is_tls(&self.buffer) {
            return Err(Wrong::Tls);
        }
        match self.scanner.scan(&self.buffer) {
            Progress::Incomplete => Ok(None),
            Progress::Wrong(wrong) => Err(wrong),
            Progress::Complete(end) => {
                let (values, has_odd_key) = (self.scanner.values(), self.scanner.has_odd_key());
                self.scanner = Scanner::new(self.bounds);
                Ok(Some(Frame { bytes: self.take(end), values, has_odd_key }))
            }
        }
    }

    /// The message of a frame, if it is one.
    pub(super) fn pass(&self, decoded: Result<Option<Message>, Wrong>) -> Result<Option<Message>, Wrong> {
        match decoded {
            Err(wrong @ (Wrong::Key | Wrong::NotAMap)) if self.is_lenient => {
                tracing::debug!(%wrong, "passed over a frame that is no message");
                Ok(None)
            }
            decoded => decoded,
        }
    }

    /// How many bytes of an incomplete frame are kept.
    pub(super) fn held(&self) -> usize {
        self.buffer.capacity()
    }

    fn take(&mut self, end: usize) -> BytesMut {
        let frame = self.buffer.split_to(end);
        if end > KEEP && self.buffer.len() <= KEEP {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        frame
    }

    /// Reads more; returns the number of bytes, 0 at the end.
    pub(super) async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        self.buffer.reserve(MIN_READ);
        from.read_buf(&mut self.buffer).await
    }

    #[cfg(test)]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }
}
