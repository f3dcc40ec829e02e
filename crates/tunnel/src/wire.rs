//! The wire: messages over a stream of bytes, read one by one.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{Bounds, MAX_COMMAND_VALUES, Progress, Scanner, Wrong};
use super::message::Message;
use super::value::Value;

/// How much is read at least at a time.
const MIN_READ: usize = 512;

/// A buffer that grew beyond this for a long frame is given back afterwards.
const KEEP: usize = 16 * 1024;

/// What a value costs in memory besides the bytes of its frame.
const VALUE: usize = size_of::<Value>();

/// A stream of bytes over which messages go, before a conversation: while the two ends make themselves known.
#[derive(Debug)]
pub struct Wire<S> {
    pub(super) stream: S,
    pub(super) inbox: Inbox,
}

/// Why no message can be read or written any more.
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

    /// The next message. Nothing is lost when the waiting is given up.
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

/// Whether the bytes are a record of TLS: its handshake, or its alert to who does not speak it. No frame begins so.
fn is_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [0x15 | 0x16, 0x03, ..])
}

/// What has been read and is not yet a message.
#[derive(Debug)]
pub(super) struct Inbox {
    bounds: Bounds,
    scanner: Scanner,
    buffer: BytesMut,
    /// Whether a frame that is no message is passed over, as PHP's register passes it over from who is known to it.
    is_lenient: bool,
}

/// A frame that has come.
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
        self.bytes.len() + self.values * VALUE
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

    /// The same bytes, of which the frames to come are of a peer that is known: they may be other, and no messages.
    pub(super) fn within(mut self, bounds: Bounds) -> Self {
        (self.bounds, self.scanner, self.is_lenient) = (bounds, Scanner::new(bounds), true);
        self
    }

    /// The next message that is whole.
    pub(super) fn next(&mut self) -> Result<Option<Message>, Wrong> {
        while let Some(frame) = self.next_frame()? {
            if let Some(message) = self.pass(frame.decode())? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// The next frame that is whole.
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

    /// How many bytes are kept of what is no frame yet.
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

    /// Reads more; how many bytes, and none at the end.
    pub(super) async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        self.buffer.reserve(MIN_READ);
        from.read_buf(&mut self.buffer).await
    }

    #[cfg(test)]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }
}
