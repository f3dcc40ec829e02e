//! Handles: how any task sends through a conversation, and the state that they share with it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::charged::charged;
use super::conversation::{CloseReason, OnSilence, Settings};
use super::frame::{Bounds, Progress, Scanner, Wrong};
use super::message::{Message, check_command};
use super::outbox::{Full, Outbox, Outgoing};
use super::outlet::Sent;
use super::stream::{Slot, Stream, StreamError};
use super::trunk::{self, Trunk};
use super::value::Value;
use super::wire;
use crate::Command;
use crate::share::{Share, Taken};
use crate::sync::{Mutex, MutexGuard};

/// Sends through a conversation. Never waits for the other end.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

/// A message for several recipients.
#[derive(Clone, Debug)]
pub struct SharedFrame(Bytes);

/// A value of streams to several recipients.
#[derive(Clone, Debug)]
pub struct SharedValue {
    bytes: Bytes,
    memory_size: usize,
}

/// A message that is packed and not sent yet.
#[derive(Debug)]
pub struct PackedFrame {
    frame: Outgoing,
    memory_size: usize,
}

/// How much of a peer's data is not charged to anybody: its connections are limited.
pub(super) const UNCHARGED_BYTES: usize = 16 * 1024;

/// How soon to check again whether there is memory for queued data.
const MEMORY_INTERVAL: Duration = Duration::from_millis(100);

/// Why a message is not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    #[error("too much waits to be sent already")]
    Full,
    #[error("what waits to be sent takes as much memory as its user may have")]
    NoMemory,
    #[error("the message cannot be sent: {0}")]
    Unfit(Wrong),
    #[error("the connection is lost: {0}")]
    Ended(CloseReason),
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    state: Mutex<State>,
    /// There is something to write.
    pub(super) outgoing: Notify,
    /// Something was written.
    pub(super) written: Notify,
    /// The peer fell silent, or is no longer silent.
    silence: Notify,
    pub(super) closing: CancellationToken,
    pub(super) over: CancellationToken,
}

#[derive(Debug)]
pub(super) struct State {
    ended: Option<CloseReason>,
    pub(super) outbox: Outbox,
    pub(super) streams: HashMap<Uuid, Slot>,
    pub(super) trunk: Trunk,
    /// What was sent on streams opened by the other end, and not yet taken.
    pub(super) outlets: HashMap<String, Sent>,
    /// Until when the other end may be busy, by number.
    busy: HashMap<u64, Instant>,
    next_busy: u64,
    /// The peer has not answered a ping in time, and the conversation continues.
    silence: Option<Silence>,
}

/// A silence of the peer since it was pinged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Silence {
    /// In wall-clock time, which changes if the clock is set.
    pub since: SystemTime,
    /// By the monotonic clock, which stands still while the machine sleeps, as the peer does.
    pub began: tokio::time::Instant,
}

impl Silence {
    /// A silence of this length.
    pub fn of(length: Duration) -> Self {
        let (since, began) = (SystemTime::now(), tokio::time::Instant::now());
        let since = since.checked_sub(length).unwrap_or(SystemTime::UNIX_EPOCH);
        Self { since, began: began.checked_sub(length).unwrap_or(began) }
    }
}

/// While this exists, the peer may be silent until a point in time.
#[derive(Debug)]
pub struct Busy {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.shared.lock().busy.remove(&self.number);
    }
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// Sends a separate message, or one of a stream that the other end opened.
    pub fn send(&self, message: Message) -> Result<(), SendError> {
        let ends_a_stream = matches!(message, Message::End { .. } | Message::Close { .. } | Message::Error { .. });
        let frame = self.0.frame(message)?;
        let mut state = self.0.speaking()?;
        if !ends_a_stream {
            state.outbox.push(self.0.own(frame)?.into())?;
        } else if state.outbox.push_beyond(frame.into()).is_err() {
            drop(state);
            return Err(SendError::Ended(self.0.end(CloseReason::Stalled)));
        }
        self.0.outgoing.notify_one();
        Ok(())
    }

    /// Sends a separate message before all that waits, for which there is as much room again.
    pub fn send_first(&self, message: Message) -> Result<(), SendError> {
        let frame = self.0.frame(message)?;
        self.0.speaking()?.outbox.push_first(frame.into())?;
        self.0.outgoing.notify_one();
        Ok(())
    }

    /// The same as `send`, as soon as there is room for this message. Nothing is sent if the wait is cancelled.
    pub async fn send_when_room(&self, message: Message) -> Result<(), SendError> {
        self.send_frame(self.0.frame(message)?.into()).await
    }

    /// Packs a message, if the peer can read it.
    pub fn pack(&self, message: Message) -> Result<PackedFrame, SendError> {
        let frame = self.0.frame(message)?;
        Ok(PackedFrame { memory_size: wire::memory_size(&frame), frame: frame.into() })
    }

    /// Packs a value of which the same bytes go to several recipients, in streams of their own: it is checked once.
    pub fn share_value(&self, value: &Value) -> Result<SharedValue, SendError> {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, value).expect("a vector takes all that is written to it");
        let Outgoing { end: bytes, .. } = self.0.frame_with(data_of(String::new()), bytes.into())?;
        Ok(SharedValue { memory_size: wire::memory_size(&bytes), bytes })
    }

    /// Packs what another conversation with the same settings may have checked, for the stream `uuid`.
    pub fn pack_shared(&self, uuid: String, value: &SharedValue) -> Result<PackedFrame, SendError> {
        let frame = Outgoing::new(data_of(uuid), value.bytes.clone());
        self.0.check_length(frame.len())?;
        // The head has counted the value already, but nothing in it.
        let memory_size = wire::memory_size(&frame.head) + value.memory_size - size_of::<Value>();
        Ok(PackedFrame { frame, memory_size })
    }

    /// The same as `send_when_room`. The bytes are charged to the peer's user, whoever shares them.
    pub async fn send_packed(&self, packed: PackedFrame) -> Result<(), SendError> {
        self.send_frame(packed.frame).await
    }

    async fn send_frame(&self, frame: Outgoing) -> Result<(), SendError> {
        let memory = self.0.settings.memory.as_ref();
        let sent =
            self.0.when_room(|| Ok(self.0.speaking()?.outbox.push(frame.clone().wholly_charged(memory)?)?)).await;
        self.0.outgoing.notify_one();
        sent.map(drop)
    }

    /// Packs a message of which the same bytes go to several recipients of this user: it is checked once, and takes
    /// memory of that user once, until it has been sent to all of them.
    pub fn share(&self, message: Message) -> Result<SharedFrame, SendError> {
        Ok(SharedFrame(self.0.own(self.0.frame(message)?)?))
    }

    /// Sends what another conversation with the same settings has packed.
    pub fn send_shared(&self, SharedFrame(frame): &SharedFrame) -> Result<(), SendError> {
        self.0.speaking()?.outbox.push(frame.clone().into())?;
        self.0.outgoing.notify_one();
        Ok(())
    }

    /// Sends an application-defined command, whose bytes may be shared.
    pub fn send_command(&self, command: &Command) -> Result<(), SendError> {
        check_command(command.message()).map_err(SendError::Unfit)?;
        let frame = Outgoing::from(command.packed().clone());
        self.0.fit(&frame)?;
        self.0.speaking()?.outbox.push(frame)?;
        self.0.outgoing.notify_one();
        Ok(())
    }

    /// Makes a request, and opens the stream of its answers. The request contains the stream's fresh uuid.
    ///
    /// `memory` is charged for it until it has been sent, and for the answers until they are taken.
    pub fn open(
        &self,
        memory: Option<&Arc<Share>>,
        request: impl FnOnce(String) -> Message,
    ) -> Result<Stream, SendError> {
        self.open_with(memory, Bytes::new(), request)
    }

    /// The same with `end` replacing the message's last value, which is nil: packed, shared with others, and charged by
    /// its creator.
    pub fn open_with(
        &self,
        memory: Option<&Arc<Share>>,
        end: Bytes,
        request: impl FnOnce(String) -> Message,
    ) -> Result<Stream, SendError> {
        let uuid = Uuid::new_v4();
        let frame = self.0.frame_with(request(uuid.to_string()), end)?.charged(memory)?;
        let mut state = self.0.speaking()?;
        let request = state.outbox.push(frame)?;
        state.streams.insert(uuid, Slot::new(None, memory));
        self.0.outgoing.notify_one();
        Ok(Stream { uuid, request, shared: self.0.clone() })
    }

    /// Notes that the peer may be busy with a request until this time, without answering anything.
    pub fn wait_until(&self, until: Instant) -> Busy {
        let mut state = self.0.lock();
        state.next_busy += 1;
        let number = state.next_busy;
        state.busy.insert(number, until);
        drop(state);
        Busy { shared: self.0.clone(), number }
    }

    /// Ends the conversation soon, after what is queued has been written.
    pub fn close(&self) {
        // Under the lock, so that nothing is added to the outbox afterwards.
        let _state = self.0.lock();
        self.0.closing.cancel();
    }

    /// Whether the conversation is open, and the peer is not silent.
    pub fn is_answering(&self) -> bool {
        let state = self.0.lock();
        state.ended.is_none() && state.silence.is_none()
    }

    /// The peer's silence; none: it answers, or the conversation has ended.
    pub fn silence(&self) -> Option<Silence> {
        let state = self.0.lock();
        state.silence.filter(|_| state.ended.is_none())
    }

    /// Waits until the peer falls silent, or no longer is; returns whether it is silent then. For a single waiter.
    pub async fn silence_changed(&self) -> bool {
        self.0.silence.notified().await;
        self.0.lock().silence.is_some()
    }

    /// Why the conversation ended; none: it is open.
    pub fn ended(&self) -> Option<CloseReason> {
        self.0.lock().ended.clone()
    }
}

impl PackedFrame {
    /// About how much memory the message takes where it is received, as the other end counts it.
    pub fn memory_size(&self) -> usize {
        self.memory_size
    }
}

/// A value of a stream: nil, which another replaces.
fn data_of(uuid: String) -> Message {
    Message::Data { uuid, data: Value::Nil }
}

impl From<Full> for SendError {
    fn from(Full: Full) -> Self {
        Self::Full
    }
}

impl Shared {
    pub(super) fn new(settings: Settings) -> Self {
        let outbox = Outbox::new(settings.queue_frames, settings.queue_bytes);
        Self {
            settings,
            state: Mutex::new(State {
                ended: None,
                outbox,
                streams: HashMap::new(),
                trunk: Trunk::default(),
                outlets: HashMap::new(),
                busy: HashMap::new(),
                next_busy: 0,
                silence: None,
            }),
            outgoing: Notify::new(),
            written: Notify::new(),
            silence: Notify::new(),
            closing: CancellationToken::new(),
            over: CancellationToken::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, if the conversation can still send.
    pub(super) fn speaking(&self) -> Result<MutexGuard<'_, State>, SendError> {
        let state = self.lock();
        match &state.ended {
            Some(ended) => Err(SendError::Ended(ended.clone())),
            None if self.closing.is_cancelled() => Err(SendError::Ended(CloseReason::Closed)),
            None => Ok(state),
        }
    }

    /// Sends as soon as there is room for it here.
    pub(super) async fn when_room<T>(&self, send: impl Fn() -> Result<T, SendError>) -> Result<T, SendError> {
        loop {
            let written = self.written.notified();
            tokio::pin!(written);
            written.as_mut().enable();
            match send() {
                Err(SendError::Full) => written.await,
                Err(SendError::NoMemory) => tokio::time::sleep(MEMORY_INTERVAL).await,
                sent => return sent,
            }
        }
    }

    /// The number of the last request to the peer.
    pub(super) fn last_asked(&self) -> u64 {
        self.lock().next_busy
    }

    /// Whether the conversation continues even though the peer has not answered in time. Requests after `last_asked` do
    /// not count as keeping it busy: it has not answered a ping that came before them.
    pub(super) fn bears_silence(&self, last_asked: u64) -> bool {
        let mut state = self.lock();
        let now = Instant::now();
        let bears = match self.settings.on_silence {
            OnSilence::Close => false,
            OnSilence::Wait => state.busy.iter().any(|(number, until)| *number <= last_asked && *until > now),
            OnSilence::Log => true,
        };
        if bears && state.silence.is_none() {
            state.silence = Some(Silence::of(self.settings.pong_timeout));
            self.silence.notify_one();
        }
        bears
    }

    /// The peer has sent something.
    pub(super) fn end_silence(&self) {
        if self.lock().silence.take().is_some() {
            self.silence.notify_one();
        }
    }

    /// The message as a frame, if the peer can read it.
    pub(super) fn frame(&self, message: Message) -> Result<Bytes, SendError> {
        Ok(self.frame_with(message, Bytes::new())?.head)
    }

    /// The same, ending with shared bytes.
    fn frame_with(&self, message: Message, end: Bytes) -> Result<Outgoing, SendError> {
        if let Message::Other(command) = &message {
            check_command(command).map_err(SendError::Unfit)?;
        }
        let frame = Outgoing::new(message, end);
        self.fit(&frame)?;
        Ok(frame)
    }

    /// A frame that only the peer requested, and which is charged to it.
    pub(super) fn own(&self, frame: Bytes) -> Result<Bytes, SendError> {
        charged(frame, self.settings.memory.as_ref())
    }

    /// Charges for received data; none: it is small, or nobody is charged.
    pub(super) fn charge_received(&self, bytes: usize) -> Result<Option<Taken>, CloseReason> {
        let memory = self.settings.memory.as_ref().filter(|_| bytes > UNCHARGED_BYTES);
        memory.map(|memory| memory.take(bytes).ok_or(CloseReason::NoMemory)).transpose()
    }

    /// Checks that a frame is not too long.
    pub(super) fn check_length(&self, length: usize) -> Result<(), SendError> {
        let Settings { bounds, queue_bytes, .. } = self.settings;
        let fits = length <= bounds.bytes.min(queue_bytes);
        if fits { Ok(()) } else { Err(SendError::Unfit(Wrong::Bytes)) }
    }

    /// Checks that the peer will accept a frame, assuming its limits are ours. What the queue can never hold is refused
    /// at once, so that nobody waits for it.
    fn fit(&self, Outgoing { head, end, .. }: &Outgoing) -> Result<(), SendError> {
        let Settings { bounds, queue_bytes, .. } = self.settings;
        let mut scanner = Scanner::new(Bounds { bytes: bounds.bytes.min(queue_bytes), ..bounds });
        let mut progress = scanner.scan(head);
        if progress == Progress::Incomplete {
            scanner.go_on();
            progress = scanner.scan(end);
        }
        match progress {
            Progress::Wrong(wrong) => Err(SendError::Unfit(wrong)),
            _ if scanner.has_odd_key() => Err(SendError::Unfit(Wrong::Key)),
            Progress::Complete(_) | Progress::Incomplete => Ok(()),
        }
    }

    /// Handles a message from the peer, or returns it for the owner.
    pub(super) fn receive(&self, message: Message, memory_size: usize) -> Option<Message> {
        match message {
            Message::Ping { uuid } => self.send_first(Message::Pong { uuid }),
            Message::Data { uuid, data } => self.receive_value(&uuid, data, memory_size),
            // A ping of the owner's is a stream without values.
            Message::End { uuid } | Message::Pong { uuid } => drop(self.finish(&uuid, Ok(()))),
            Message::Error { uuid, error } => drop(self.finish(&uuid, Err(StreamError::Failed(error)))),
            // It may also close one of its requests to the owner, whose uuid is unknown here.
            Message::Close { uuid } => {
                return (!self.finish(&uuid, Err(StreamError::Closed))).then_some(Message::Close { uuid });
            }
            Message::Window { uuid } => self.begin_window(&uuid),
            Message::Taken { uuid, count } => {
                if let Some(sent) = self.lock().outlets.get_mut(&uuid) {
                    sent.given.take(count);
                }
            }
            other => return Some(other),
        }
        None
    }

    /// The peer wants to know what is taken of a stream.
    fn begin_window(&self, uuid: &str) {
        let Ok(uuid) = Uuid::parse_str(uuid) else { return };
        if let Some(slot) = self.lock().streams.get_mut(&uuid) {
            slot.begin_window();
        }
    }

    fn receive_value(&self, uuid: &str, data: Value, memory_size: usize) {
        let Ok(stream) = Uuid::parse_str(uuid) else { return };
        let max_memory = self.settings.stream_bytes;
        let mut state = self.lock();
        let answer = if state.trunk.is(stream) {
            state.receive_on_trunk(stream, data, max_memory)
        } else {
            let has_room = state.streams.get_mut(&stream).is_none_or(|slot| slot.push(data, memory_size, max_memory));
            (!has_room).then(|| Message::Close { uuid: uuid.to_owned() })
        };
        if let Some(answer) = answer {
            self.send_own(state, answer, Outbox::push_beyond);
        }
    }

    /// Ends a stream of ours; false: it is not ours.
    fn finish(&self, uuid: &str, end: Result<(), StreamError>) -> bool {
        let Ok(uuid) = Uuid::parse_str(uuid) else { return false };
        let mut state = self.lock();
        if state.close_trunk(uuid, &end) {
            return true;
        }
        // What arrives over the trunk only ends there.
        let slot = state.streams.get_mut(&uuid).filter(|slot| slot.trunk.is_none());
        slot.map(|slot| slot.finish(end)).is_some()
    }

    /// Forgets a stream whose answers are no longer wanted.
    pub(super) fn forget(&self, uuid: Uuid, request: u64) {
        let mut state = self.lock();
        let Some(slot) = state.streams.remove(&uuid).filter(Slot::is_open) else { return };
        if state.outbox.withdraw(request) {
            drop(state);
            // There is room for another.
            self.written.notify_waiters();
        } else {
            let close = slot.trunk.map(|trunk| trunk::close(trunk, uuid));
            let close = close.unwrap_or_else(|| Message::Close { uuid: uuid.to_string() });
            if state.ended.is_none() {
                state.outbox.push_close(Bytes::from(close.encode()).into());
                self.outgoing.notify_one();
            }
        }
    }

    pub(super) fn send_first(&self, message: Message) {
        self.send_own(self.lock(), message, Outbox::push_first);
    }

    /// Sends what must be sent; if there is no room even for that, the conversation ends.
    pub(super) fn send_own(
        &self,
        mut state: MutexGuard<'_, State>,
        message: Message,
        push: impl FnOnce(&mut Outbox, Outgoing) -> Result<(), Full>,
    ) {
        if state.ended.is_some() {
            return;
        }
        let frame = self.own(message.encode().into());
        let pushed = frame.and_then(|frame| Ok(push(&mut state.outbox, frame.into())?));
        drop(state);
        match pushed {
            Ok(_) => self.outgoing.notify_one(),
            Err(_) => drop(self.end(CloseReason::Stalled)),
        }
    }

    /// What to write next, up to about this size. Nothing is sent after the streams have ended: what was not sent by
    /// then may be retried elsewhere.
    pub(super) fn to_write(&self, most: usize) -> Bytes {
        let mut state = self.lock();
        if state.ended.is_some() { Bytes::new() } else { state.outbox.take(most) }
    }

    /// Ends the conversation and every open stream, unless it has ended. Returns the reason.
    pub(super) fn end(&self, ended: CloseReason) -> CloseReason {
        let mut state = self.lock();
        let ended = state.ended.get_or_insert(ended).clone();
        // The writer may not have noticed yet; and what was not sent may already be retried elsewhere.
        state.outbox.clear();
        for slot in state.streams.values_mut() {
            slot.finish(Err(StreamError::Lost(ended.clone())));
        }
        drop(state);
        self.over.cancel();
        self.written.notify_waiters();
        ended
    }
}
