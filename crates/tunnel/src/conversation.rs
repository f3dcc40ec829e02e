//! The conversation: one task reads, writes and monitors a connection; any number of handles send through it.
//!
//! Streams are independent: a slow receiver of one delays neither the others nor the heartbeat.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use uuid::Uuid;

use super::frame::{Bounds, Wrong};
use super::handle::{Handle, Shared, UNCHARGED_BYTES};
use super::message::Message;
use super::wire::Wire;
use crate::share::{Share, Taken};

/// Frames are written together up to this size.
const MAX_WRITE_BATCH: usize = 64 * 1024;

/// How many messages may be queued for the owner, and how long a full queue is waited for.
const INCOMING_QUEUE: usize = 256;
const INCOMING_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a silent peer is pinged before it is considered dead.
const MAX_UNANSWERED_PINGS: u32 = 2;

/// How long a conversation that we close continues to write what is queued.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The limits of a conversation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The limits of frames, sent and received;
    pub bounds: Bounds,
    /// received ones may be nested this deep, if that is deeper.
    pub received_depth: usize,
    /// The limits of what is queued for writing.
    pub queue_frames: usize,
    pub queue_bytes: usize,
    /// About how much memory the unread values in one stream may take; a single one is always accepted.
    pub stream_bytes: usize,
    /// How long the peer may be silent before it is pinged,
    pub ping_interval: Duration,
    /// and how long it then has to answer before it is considered dead. Halfway through, it is pinged once more.
    pub pong_timeout: Duration,
    pub on_silence: OnSilence,
    /// The share charged for queued data that no caller requested; none: nothing is charged.
    pub memory: Option<Arc<Share>>,
}

/// What happens to a conversation whose peer does not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OnSilence {
    /// It ends.
    Close,
    /// It ends, but not before the calls that were under way when it fell silent have had their time: a method may
    /// block its whole process.
    Wait,
    /// It continues.
    Log,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bounds: Bounds::DEFAULT,
            received_depth: 0,
            queue_frames: 256,
            queue_bytes: 1024 * 1024,
            stream_bytes: 8 * 1024 * 1024,
            ping_interval: Duration::from_secs(20),
            pong_timeout: Duration::from_secs(3),
            on_silence: OnSilence::Wait,
            memory: None,
        }
    }
}

/// A conversation that has not begun: run [`Conversation::run`] as a task. Dropping it ends it.
#[derive(Debug)]
pub struct Conversation<S> {
    wire: Wire<S>,
    shared: Arc<Shared>,
    incoming: mpsc::Sender<Box<Arrived>>,
}

/// What the peer sends, other than answers to our streams. It closes when the conversation has ended; dropping it ends
/// the conversation. Boxed, since a channel has room for 32 from the start, and most never have one.
pub type Incoming = mpsc::Receiver<Box<Arrived>>;

/// A received message, whose memory its user is charged for until it is taken.
#[derive(Debug)]
pub struct Arrived {
    message: Message,
    _charged: Option<Taken>,
}

impl Arrived {
    pub fn into_message(self) -> Message {
        self.message
    }
}

/// Why a conversation ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    #[error("it was closed at this end")]
    Closed,
    #[error("it was closed at the other end")]
    PeerClosed,
    #[error("it broke: {0}")]
    Broken(String),
    #[error("the other end does not answer")]
    Silent,
    #[error("the other end does not read what it is sent")]
    Stalled,
    #[error("the other end asks for more than can be taken")]
    Flooded,
    #[error("what the other end sends takes more memory than its user may have")]
    NoMemory,
    #[error("the other end sent what cannot be read: {0}")]
    Wrong(#[from] Wrong),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    pub fn new(mut wire: Wire<S>, settings: Settings) -> (Handle, Incoming, Self) {
        wire.inbox = wire.inbox.within(settings.bounds.at_least(settings.received_depth));
        let shared = Arc::new(Shared::new(settings));
        let (incoming, received) = mpsc::channel(INCOMING_QUEUE);
        (Handle::new(shared.clone()), received, Self { wire, shared, incoming })
    }

    /// Runs until one end is gone, closes it, or violates the protocol.
    pub async fn run(mut self) -> CloseReason {
        let ended = self.converse().await;
        self.shared.end(ended)
    }

    async fn converse(&mut self) -> CloseReason {
        let shared = &self.shared;
        let Wire { stream, inbox } = &mut self.wire;
        let (mut from, to) = tokio::io::split(stream);
        let read = async {
            let (mut asked, mut last_asked) = (0, 0);
            let mut partial = shared.settings.memory.as_ref().map(Share::nothing);
            loop {
                while let Some(frame) = inbox.next_frame()? {
                    let (memory_size, charged) = (frame.memory_size(), shared.charge_received(frame.memory_size())?);
                    let decoded = match &shared.settings.memory {
                        Some(memory) => memory.work(frame.len(), move || frame.decode()).await,
                        None => frame.decode(),
                    };
                    let Some(message) = inbox.pass(decoded)? else { continue };
                    if let Some(message) = shared.receive(message, memory_size) {
                        deliver(&self.incoming, Box::new(Arrived { message, _charged: charged })).await?;
                    }
                }
                if !partial.as_mut().is_none_or(|partial| partial.resize(inbox.held().saturating_sub(UNCHARGED_BYTES)))
                {
                    return Err(CloseReason::NoMemory);
                }
                let Settings { ping_interval, pong_timeout, .. } = shared.settings;
                let patience = if asked == 0 { ping_interval } else { pong_timeout / MAX_UNANSWERED_PINGS };
                match tokio::time::timeout(patience, inbox.fill(&mut from)).await {
                    Ok(Ok(0)) => return Err(CloseReason::PeerClosed),
                    // Whatever arrives is a sign of life.
                    Ok(read) => {
                        read?;
                        if std::mem::take(&mut asked) == MAX_UNANSWERED_PINGS {
                            shared.end_silence();
                        }
                    }
                    Err(_) if asked == MAX_UNANSWERED_PINGS => {
                        if !shared.bears_silence(last_asked) {
                            return Err(CloseReason::Silent);
                        }
                    }
                    Err(_) => {
                        if asked == 0 {
                            last_asked = shared.last_asked();
                        }
                        asked += 1;
                        shared.send_first(Message::Ping { uuid: Uuid::new_v4().to_string() });
                    }
                }
            }
        };
        let lingered = async {
            shared.closing.cancelled().await;
            tokio::time::sleep(CLOSE_TIMEOUT).await;
        };
        tokio::select! {
            ended = read => ended.unwrap_or_else(|ended| ended),
            ended = write(to, shared) => ended,
            () = lingered => CloseReason::Closed,
            () = shared.over.cancelled() => CloseReason::Closed,
            () = self.incoming.closed() => CloseReason::Closed,
        }
    }
}

impl<S> Drop for Conversation<S> {
    fn drop(&mut self) {
        self.shared.end(CloseReason::Closed);
    }
}

impl From<std::io::Error> for CloseReason {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Passes a message to the owner, who has a moment to make room for it.
async fn deliver(incoming: &mpsc::Sender<Box<Arrived>>, message: Box<Arrived>) -> Result<(), CloseReason> {
    incoming.send_timeout(message, INCOMING_TIMEOUT).await.map_err(|error| match error {
        SendTimeoutError::Timeout(_) => CloseReason::Flooded,
        SendTimeoutError::Closed(_) => CloseReason::Closed,
    })
}

pub(super) async fn write(mut to: impl AsyncWrite + Unpin, shared: &Shared) -> CloseReason {
    let written = async {
        loop {
            let frames = shared.to_write(MAX_WRITE_BATCH);
            if !frames.is_empty() {
                to.write_all(&frames).await?;
                shared.written.notify_waiters();
                continue;
            }
            to.flush().await?;
            if shared.closing.is_cancelled() {
                return to.shutdown().await;
            }
            tokio::select! {
                () = shared.outgoing.notified() => {}
                () = shared.closing.cancelled() => {}
            }
        }
    };
    written.await.map_or_else(CloseReason::from, |()| CloseReason::Closed)
}
