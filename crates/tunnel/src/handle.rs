//! Handles: how any task speaks through a conversation, and the state that they share with it.

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
use crate::Command;
use crate::share::{Share, Taken};
use crate::sync::{Mutex, MutexGuard};

/// Speaks through a conversation. Never waits for the other end.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

/// A message that several are sent.
#[derive(Clone, Debug)]
pub struct SharedFrame(Bytes);

/// So much of what a peer sends is charged to nobody: its connections are counted.
pub(super) const UNCHARGED_BYTES: usize = 16 * 1024;

/// How soon it is looked again whether there is memory for what waits to be sent.
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
    /// Something is there to be written.
    pub(super) outgoing: Notify,
    /// Something was written.
    pub(super) written: Notify,
    /// The other end has fallen silent, or is silent no more.
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
    /// What was sent on streams that the other end has opened, and was not taken.
    pub(super) outlets: HashMap<String, Sent>,
    /// Until when the other end may be busy, by numbers.
    busy: HashMap<u64, Instant>,
    next_busy: u64,
    /// The other end has not answered what it was asked in time, and the conversation goes on.
    silence: Option<Silence>,
}

/// A silence of the other end, since it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Silence {
    /// As people tell the time; who sets the clock moves it.
    pub since: SystemTime,
    /// By the clock that nobody sets, and that stands still while the machine sleeps, as the other end does.
    pub began: tokio::time::Instant,
}

impl Silence {
    /// One that has lasted for so long.
    pub fn of(length: Duration) -> Self {
        let (since, began) = (SystemTime::now(), tokio::time::Instant::now());
        let since = since.checked_sub(length).unwrap_or(SystemTime::UNIX_EPOCH);
        Self { since, began: began.checked_sub(length).unwrap_or(began) }
    }
}

/// While it is there, the other end may be silent until a point in time.
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

    /// Sends a message of its own, or one of a stream that the other end opened.
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

    /// The same, as soon as there is room for this very message. Nothing is sent when the waiting is given up.
    pub async fn send_when_room(&self, message: Message) -> Result<(), SendError> {
        let frame = self.0.frame(message)?;
        let sent = self.0.when_room(|| Ok(self.0.speaking()?.outbox.push(self.0.own(frame.clone())?.into())?)).await;
        self.0.outgoing.notify_one();
        sent.map(drop)
    }

    /// Packs a message of which others of this user are sent the same bytes: it is checked once, and takes memory of that
    /// user once, until it has left all of them.
    pub fn share(&self, message: Message) -> Result<SharedFrame, SendError> {
        Ok(SharedFrame(self.0.own(self.0.frame(message)?)?))
    }

    /// Sends what another conversation with the same settings has packed.
    pub fn send_shared(&self, SharedFrame(frame): &SharedFrame) -> Result<(), SendError> {
        self.0.speaking()?.outbox.push(frame.clone().into())?;
        self.0.outgoing.notify_one();
        Ok(())
    }

    /// Sends a command of the application's own, whose bytes others may share.
    pub fn send_command(&self, command: &Command) -> Result<(), SendError> {
        check_command(command.message()).map_err(SendError::Unfit)?;
        let frame = Outgoing::from(command.packed().clone());
        self.0.fit(&frame)?;
        self.0.speaking()?.outbox.push(frame)?;
        self.0.outgoing.notify_one();
        Ok(())
    }

    /// Makes a request, and opens the stream of its answers. The request carries the stream's fresh uuid.
    ///
    /// `memory` is charged for it until it has left, and for the answers until they are taken.
    pub fn open(
        &self,
        memory: Option<&Arc<Share>>,
        request: impl FnOnce(String) -> Message,
    ) -> Result<Stream, SendError> {
        self.open_with(memory, Bytes::new(), request)
    }

    /// The same with `end` in the place of the message's last value, which is nil: packed, shared with others, and
    /// charged by who made it.
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

    /// Notes that the other end may be busy until then with what it is asked, and answer nothing meanwhile.
    pub fn wait_until(&self, until: Instant) -> Busy {
        let mut state = self.0.lock();
        state.next_busy += 1;
        let number = state.next_busy;
        state.busy.insert(number, until);
        drop(state);
        Busy { shared: self.0.clone(), number }
    }

    /// Ends the conversation when what waits to be written has been, but soon.
    pub fn close(&self) {
        // Under the lock, so that nothing is put into the outbox afterwards.
        let _state = self.0.lock();
        self.0.closing.cancel();
    }

    /// Whether the conversation goes on, and the other end is not silent.
    pub fn is_answering(&self) -> bool {
        let state = self.0.lock();
        state.ended.is_none() && state.silence.is_none()
    }

    /// That the other end does not answer; none: it does, or the conversation has ended.
    pub fn silence(&self) -> Option<Silence> {
        let state = self.0.lock();
        state.silence.filter(|_| state.ended.is_none())
    }

    /// Waits until the other end has fallen silent, or is silent no more; whether it is silent then. For one who waits.
    pub async fn silence_changed(&self) -> bool {
        self.0.silence.notified().await;
        self.0.lock().silence.is_some()
    }

    /// Why the conversation ended; none: it goes on.
    pub fn ended(&self) -> Option<CloseReason> {
        self.0.lock().ended.clone()
    }
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

    /// The state, of a conversation in which something can still be sent.
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

    /// The number of what the other end was asked last.
    pub(super) fn last_asked(&self) -> u64 {
        self.lock().next_busy
    }

    /// Whether the conversation goes on, though the other end has not answered in time. What it was asked after
    /// `last_asked` does not keep it busy: it has not answered a ping that came before.
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

    /// The other end has sent something.
    pub(super) fn end_silence(&self) {
        if self.lock().silence.take().is_some() {
            self.silence.notify_one();
        }
    }

    /// The message as a frame that the other end reads.
    pub(super) fn frame(&self, message: Message) -> Result<Bytes, SendError> {
        Ok(self.frame_with(message, Bytes::new())?.head)
    }

    /// The same with an end that others share.
    fn frame_with(&self, message: Message, end: Bytes) -> Result<Outgoing, SendError> {
        if let Message::Other(command) = &message {
            check_command(command).map_err(SendError::Unfit)?;
        }
        let frame = Outgoing::new(message, end);
        self.fit(&frame)?;
        Ok(frame)
    }

    /// A frame that nobody asked for but the other end, which is charged for it.
    pub(super) fn own(&self, frame: Bytes) -> Result<Bytes, SendError> {
        charged(frame, self.settings.memory.as_ref())
    }

    /// Charges for what has come; none: it is little, or of nobody who is charged.
    pub(super) fn charge_received(&self, bytes: usize) -> Result<Option<Taken>, CloseReason> {
        let memory = self.settings.memory.as_ref().filter(|_| bytes > UNCHARGED_BYTES);
        memory.map(|memory| memory.take(bytes).ok_or(CloseReason::NoMemory)).transpose()
    }

    /// That a frame is no longer than one may be.
    pub(super) fn check_length(&self, length: usize) -> Result<(), SendError> {
        let Settings { bounds, queue_bytes, .. } = self.settings;
        let fits = length <= bounds.bytes.min(queue_bytes);
        if fits { Ok(()) } else { Err(SendError::Unfit(Wrong::Bytes)) }
    }

    /// That the other end reads a frame, if its bounds are ours. What the queue never has room for is refused at once,
    /// for nobody should wait for it.
    fn fit(&self, Outgoing { head, end }: &Outgoing) -> Result<(), SendError> {
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

    /// Sees to a message of the other end; or it is for the owner.
    pub(super) fn receive(&self, message: Message, memory_size: usize) -> Option<Message> {
        match message {
            Message::Ping { uuid } => self.send_first(Message::Pong { uuid }),
            Message::Data { uuid, data } => self.receive_value(&uuid, data, memory_size),
            // A ping of the owner's is a stream without values.
            Message::End { uuid } | Message::Pong { uuid } => drop(self.finish(&uuid, Ok(()))),
            Message::Error { uuid, error } => drop(self.finish(&uuid, Err(StreamError::Failed(error)))),
            // Also what the other end asked of the owner may be closed, whose uuid is unknown here.
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

    /// The other end waits to hear what is taken of a stream.
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

    /// Ends a stream of ours; false: it is none.
    fn finish(&self, uuid: &str, end: Result<(), StreamError>) -> bool {
        let Ok(uuid) = Uuid::parse_str(uuid) else { return false };
        let mut state = self.lock();
        if state.close_trunk(uuid, &end) {
            return true;
        }
        // What comes over the trunk ends only there.
        let slot = state.streams.get_mut(&uuid).filter(|slot| slot.trunk.is_none());
        slot.map(|slot| slot.finish(end)).is_some()
    }

    /// Forgets a stream whose answers nobody wants any more.
    pub(super) fn forget(&self, uuid: Uuid, request: u64) {
        let mut state = self.lock();
        let Some(slot) = state.streams.remove(&uuid).filter(Slot::is_open) else { return };
        if state.outbox.withdraw(request) {
            drop(state);
            // There is room for another.
            self.written.notify_waiters();
        } else {
            let close = slot.trunk.map(|trunk| trunk::close(trunk, uuid));
            self.send_own(state, close.unwrap_or(Message::Close { uuid: uuid.to_string() }), Outbox::push_beyond);
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
        push: impl FnOnce(&mut Outbox, Outgoing) -> Result<u64, Full>,
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

    /// What is to be written next, about so much of it. Nothing leaves once the streams have ended: what has not left
    /// by then may be asked elsewhere.
    pub(super) fn to_write(&self, most: usize) -> Bytes {
        let mut state = self.lock();
        if state.ended.is_some() { Bytes::new() } else { state.outbox.take(most) }
    }

    /// Ends the conversation and every open stream, unless it has ended. Why it did.
    pub(super) fn end(&self, ended: CloseReason) -> CloseReason {
        let mut state = self.lock();
        let ended = state.ended.get_or_insert(ended).clone();
        // The writer may not have noticed yet; and what was not sent may already be on its way elsewhere.
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
