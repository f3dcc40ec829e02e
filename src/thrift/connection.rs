//! One connection: reads requests, answers them in order, and ends when its peer is gone, too slow, or not a Thrift
//! client.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::admission::{ConnectionPermit, Eviction, WatchPermit};
use super::codec::Outcome;
use super::dialect::Dialect;
use super::dispatch::Asked;
use super::framing::{Decoded, RequestDecoder};
use super::memory::{Charge, Part};
use super::refusal::Refusal;
use super::scan::{Bounds, Head};
use super::streaming_call::StreamingCall;
use super::wait::{Awaited, Wait};
use super::watch::TOO_MANY_WATCHES;
use super::{Peer, Shared};
use crate::call::OVERLOADED;
use crate::net::Stream;
use crate::task::Stop;

/// Replies to pipelined requests are sent together up to this size.
const MAX_WRITE_BATCH: usize = 64 * 1024;

/// The minimum size of a read.
const MIN_READ: usize = 512;

/// A buffer that grew beyond this for a large message is released afterwards.
const MAX_KEPT_BUFFER: usize = 16 * 1024;

/// For how long the peer of a connection may keep all its last replies waiting, once the process stops; and for how long it
/// may fetch nothing of an open call then.
const LAST_REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// How much of the former each byte gives back that was read: at 2.5 MB a second nothing is used up.
const PATIENCE_OF_BYTE: Duration = Duration::from_nanos(400);

/// For how long, and how much, is read from a refused peer that keeps sending.
const REFUSED_DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_UNHEARD: usize = 64 << 20;

/// The most that a connection reads before it answers.
const MAX_READ: usize = 64 * 1024;

struct Connection {
    stream: Stream,
    shared: Arc<Shared>,
    permit: ConnectionPermit,
    peer: Peer,
    stop: Stop,
    decoder: RequestDecoder,
    received: Vec<u8>,
    output: Vec<u8>,
    /// How much of the output has been sent.
    sent: usize,
    /// For how much longer its peer may keep last replies waiting.
    patience_left: Duration,
    /// Until when its peer is to fetch something of the open call, once the connection must go.
    fetch_until: Option<Instant>,
    charge: Charge,
    open: StreamingCall,
    /// Set if there was no slot to return to from a watch: it keeps the watch's permit until its reply is sent, and
    /// ends at once, also if more has arrived.
    leaving: Option<WatchPermit>,
}

/// How far the requests of one turn were answered.
enum Progress {
    /// All that arrived.
    Idle,
    /// Some; the turn is over, there is enough to send, or the next one is incomplete.
    More,
    /// None, as the first one is incomplete.
    Incomplete,
    /// Up to one that has to wait.
    Waits(Pending),
    /// What follows cannot be answered.
    Ends(End),
}

/// A waiting request, at the beginning of what was received.
struct Pending {
    dialect: Dialect,
    head: Head,
    end: usize,
    wait: Box<Wait>,
}

/// Why a connection ends.
enum End {
    /// The peer is gone, the process stops, or the slot is needed for another.
    Quiet,
    /// The peer took too long.
    TimedOut,
    /// What came was not a request.
    Malformed(&'static str),
    /// Its user has no room for what arrived.
    Overloaded,
    Failed(String),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Quiet
    }
}

impl From<thrift::Error> for End {
    fn from(error: thrift::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<Eviction> for End {
    fn from(eviction: Eviction) -> Self {
        match eviction {
            Eviction::Displaced => Self::Quiet,
            Eviction::TimedOut => Self::TimedOut,
        }
    }
}

/// Serves one client until it leaves.
pub(super) async fn serve(stream: Stream, permit: ConnectionPermit, peer: Peer, shared: Arc<Shared>, stop: Stop) {
    let counted = shared.clone();
    let _open = counted.metrics.connections_open.hold();
    let Some(charge) = Charge::new(&peer.account) else { return counted.metrics.connections_refused.increment() };
    let mut connection = Connection {
        stream,
        permit,
        peer,
        stop,
        decoder: RequestDecoder::new(Bounds::of(&shared.config)),
        shared,
        received: Vec::new(),
        output: Vec::new(),
        sent: 0,
        patience_left: LAST_REPLY_TIMEOUT,
        fetch_until: None,
        charge,
        open: StreamingCall::default(),
        leaving: None,
    };
    match connection.run().await {
        Ok(never) => match never {},
        Err(End::Quiet) => {}
        Err(End::TimedOut) => counted.metrics.timeouts.increment(),
        Err(End::Malformed(what)) => {
            counted.metrics.malformed.increment();
            tracing::debug!(what, "closed a connection that did not bring a request");
        }
        Err(End::Overloaded) => tracing::debug!("closed a connection whose user has no room for its request"),
        Err(End::Failed(error)) => tracing::debug!(error, "closed a connection"),
    }
}

impl Connection {
    /// Answers one request after the other; only returns with a reason to end.
    async fn run(&mut self) -> Result<Infallible, End> {
        let (request_timeout, idle_timeout) = (self.shared.config.request_timeout, self.shared.config.idle_timeout);
        self.begins_within(self.shared.config.first_byte_timeout).await?;
        let mut deadline = Instant::now() + request_timeout;
        let mut has_answered = false;
        loop {
            self.peer.let_others_work().await;
            self.peer.identity.refresh(|| self.stream.groups());
            let progress = self.answer_some()?;
            self.send().await?;
            match progress {
                Progress::Incomplete => {
                    // Whoever must go has its answers to what was read, and is read no more.
                    if std::mem::take(&mut has_answered) {
                        self.goes_on()?;
                    }
                    timeout_at(deadline, self.receive()).await.map_err(|_| End::TimedOut)??;
                    continue;
                }
                Progress::Idle => {
                    self.begins_within(idle_timeout).await?;
                    has_answered = false;
                    deadline = Instant::now() + request_timeout;
                    continue;
                }
                // Otherwise whoever must go has its answers to what was read, up to a request that waits.
                Progress::More if self.stop.is_requested() => self.goes_on()?,
                Progress::More => {}
                Progress::Waits(pending) => {
                    self.answer_late(pending).await?;
                    // Otherwise each request behind it might wait as long: its client sees none of them answered.
                    self.goes_on()?;
                }
                Progress::Ends(end) => {
                    self.hear_out().await;
                    return Err(end);
                }
            }
            has_answered = true;
            deadline = Instant::now() + request_timeout;
        }
    }

    /// Ends a connection that must go, as at the stop, unless its peer fetches what an open call gives.
    fn goes_on(&mut self) -> Result<(), End> {
        if self.leaving.is_some() {
            return Err(End::Quiet);
        }
        let Some(eviction) = self.permit.eviction() else { return Ok(()) };
        let goes_on = self.open.is_some() && Instant::now() < last_fetch(&mut self.fetch_until);
        if goes_on { Ok(()) } else { Err(eviction.into()) }
    }

    /// Waits for the first bytes of a request. Meanwhile the connection is idle, and may be evicted, unless it has an
    /// open call.
    async fn begins_within(&mut self, patience: Duration) -> Result<(), End> {
        // A request that has begun to arrive is answered.
        self.goes_on()?;
        if self.open.is_some() {
            return timeout(patience, self.receive()).await.map_err(|_| End::TimedOut)?;
        }
        self.permit.set_idle(patience);
        self.receive().await?;
        self.permit.set_busy();
        Ok(())
    }

    /// Answers what has arrived, until the turn is over.
    fn answer_some(&mut self) -> Result<Progress, End> {
        let mut at = 0;
        let progress = loop {
            let received = &self.received[at..];
            if received.is_empty() {
                break Progress::Idle;
            }
            match self.decoder.next(received) {
                Decoded::Request { dialect, head, end } => {
                    let request = &received[..end];
                    let Shared { codec, api, .. } = self.shared.as_ref();
                    let asked = Asked { api, peer: &self.peer };
                    match codec.answer(dialect, &head, request, asked, &mut self.output, &mut self.charge)? {
                        Outcome::Answered | Outcome::Refused => at += end,
                        Outcome::Waits(wait) => break Progress::Waits(Pending { dialect, head, end, wait }),
                    }
                }
                Decoded::Incomplete if at > 0 => break Progress::More,
                Decoded::Incomplete => break Progress::Incomplete,
                Decoded::Foreign(foreign) => {
                    self.output.extend(foreign.refusal());
                    break Progress::Ends(End::Malformed(foreign.name()));
                }
                Decoded::Violation(dialect, violation) => {
                    self.shared.codec.refuse(dialect, received, Refusal::Violation(violation), &mut self.output)?;
                    break Progress::Ends(End::Malformed("a request out of bounds"));
                }
            }
            if self.peer.queue.is_turn_over() || self.output.len() >= MAX_WRITE_BATCH {
                break Progress::More;
            }
        };
        self.received.drain(..at);
        Ok(progress)
    }

    /// Waits for what a request waits for, and answers it.
    async fn answer_late(&mut self, pending: Pending) -> Result<(), End> {
        let Pending { dialect, head, end, wait } = pending;
        let awaited = if self.charge.set(Part::Awaited, wait.memory_size()) {
            self.wait(wait, end).await?
        } else {
            self.shared.metrics.overloaded.increment();
            wait.refused(OVERLOADED)
        };
        let has_room = self.charge.set(Part::Awaited, awaited.memory_size());
        let awaited = if has_room { awaited } else { awaited.without_room() };
        let is_of_open =
            matches!(awaited, Awaited::Values(Ok(_)) | Awaited::SentValues(Ok(_)) | Awaited::Opened(Ok(_)));
        let is_open_used = match &awaited {
            Awaited::Values(given) => given.is_ok(),
            Awaited::SentValues(Ok(reply)) => reply.accepted > 0 || !reply.values.values.is_empty(),
            _ => false,
        };
        if is_open_used {
            self.fetch_until = None;
        }
        self.peer.let_others_work().await;
        let Shared { codec, api, .. } = self.shared.as_ref();
        let outcome = codec.answer_late(dialect, &head, awaited, api, &mut self.output, &mut self.charge)?;
        if is_of_open && matches!(outcome, Outcome::Refused) {
            // Otherwise the next values would hide that these are missing, or a call would be open that was refused.
            self.open.give_up();
        }
        self.received.drain(..end);
        let _ = self.charge.set(Part::Awaited, 0);
        self.send().await
    }

    /// Waits for what the request that ends at `end` waits for, while the peer is connected.
    async fn wait(&mut self, wait: Box<Wait>, end: usize) -> Result<Awaited, End> {
        let waiting = match wait.watches() {
            Some(paths) => match self.permit.wait(paths) {
                None => {
                    self.shared.metrics.overloaded.increment();
                    return Ok(wait.refused(TOO_MANY_WATCHES));
                }
                waiting => waiting,
            },
            None => None,
        };
        let awaited = self.until_answered(wait, end).await?;
        if waiting.is_some() && !self.permit.wait_no_more() {
            self.leaving = waiting;
        }
        Ok(awaited)
    }

    async fn until_answered(&mut self, wait: Box<Wait>, end: usize) -> Result<Awaited, End> {
        // What is being sent to many is sent to all of them, even if the peer disconnects meanwhile.
        let is_sending = wait.is_sending();
        let most = end + self.shared.config.max_request.as_u64() as usize;
        // Boxed: otherwise every connection would be as large as a call.
        let mut waiting = Box::pin(wait.until_answered(&self.shared.api, &self.peer, &mut self.open, &self.stop));
        let mut has_more = true;
        loop {
            let may_read = has_more && self.received.len() < most && reserve(&mut self.received, &mut self.charge);
            tokio::select! {
                biased;
                answer = &mut waiting => return Ok(answer),
                read = read_unless_gone(&mut self.stream, &mut self.received, may_read), if !is_sending => {
                    // A peer that has closed its sending side may still want its answer.
                    has_more = read?.ok_or(End::Quiet)? > 0;
                }
            }
        }
    }

    async fn receive(&mut self) -> Result<(), End> {
        if !reserve(&mut self.received, &mut self.charge) {
            return self.refuse_request().await;
        }
        let Self { permit, open, fetch_until, stream, received, .. } = self;
        let has_open = open.is_some();
        let must_go = async {
            let eviction = permit.evicted().await;
            if has_open {
                sleep_until(last_fetch(fetch_until)).await;
            }
            eviction
        };
        tokio::select! {
            biased;
            read = read(stream, received) => if read? == 0 { Err(End::Quiet) } else { Ok(()) },
            eviction = must_go => Err(eviction.into()),
            never = open.go_on() => match never {},
        }
    }

    /// Tells the peer that there is no room for the rest of its request, after which nothing can be decoded.
    async fn refuse_request(&mut self) -> Result<(), End> {
        if let Some(dialect) = self.decoder.dialect() {
            self.shared.codec.refuse(dialect, &self.received, Refusal::Overloaded, &mut self.output)?;
        }
        self.send().await?;
        self.hear_out().await;
        Err(End::Overloaded)
    }

    /// Reads and discards what a refused peer keeps sending: if its connection is closed while it sends, it never sees
    /// the reason.
    async fn hear_out(&mut self) {
        let hearing = async {
            self.stream.shutdown().await?;
            let mut left = MAX_UNHEARD;
            while left > 0 {
                self.peer.let_others_work().await;
                self.received.clear();
                match read(&mut self.stream, &mut self.received).await? {
                    0 => break,
                    some => left = left.saturating_sub(some),
                }
            }
            io::Result::Ok(())
        };
        self.permit.set_idle(REFUSED_DRAIN_TIMEOUT);
        // Any of these ends it.
        tokio::select! {
            _ = hearing => {}
            _ = self.permit.evicted() => {}
        }
    }

    /// Sends everything.
    async fn send(&mut self) -> Result<(), End> {
        let (patience, mut until) = (self.shared.config.reply_timeout, None);
        while self.sent < self.output.len() {
            let before = self.sent;
            let Self { stream, output, sent, permit, patience_left, .. } = self;
            // It only begins, and sets its timers, where the peer does not read at once.
            let too_long = async {
                let until = *until.get_or_insert_with(|| Instant::now() + patience);
                let must_go = async {
                    permit.evicted().await;
                    spend(patience_left).await;
                };
                tokio::select! {
                    () = sleep_until(until) => {}
                    () = must_go => {}
                }
            };
            tokio::select! {
                biased;
                written = stream.write(&output[*sent..]) => *sent += written?,
                () = too_long => return Err(End::TimedOut),
            }
            // Who reads at a good pace may take as much as there is.
            let earned = PATIENCE_OF_BYTE * u32::try_from(self.sent - before).unwrap_or(u32::MAX);
            self.patience_left = (self.patience_left + earned).min(LAST_REPLY_TIMEOUT);
            self.peer.let_others_work().await;
        }
        self.sent = 0;
        self.output.clear();
        self.output.shrink_to(MAX_KEPT_BUFFER);
        if self.received.is_empty() {
            self.received.shrink_to(MAX_KEPT_BUFFER);
        }
        // That is no more than before.
        let _ = self.charge.set(Part::Received, self.received.capacity());
        let _ = self.charge.set(Part::Output, self.output.capacity());
        Ok(())
    }
}

/// Until when an open call is to be fetched from: from the first time that this is asked.
fn last_fetch(fetch_until: &mut Option<Instant>) -> Instant {
    *fetch_until.get_or_insert_with(|| Instant::now() + LAST_REPLY_TIMEOUT)
}

/// Waits for what is left of a time, and leaves what was not waited for.
async fn spend(left: &mut Duration) {
    struct Spending<'l>(&'l mut Duration, Instant);

    impl Drop for Spending<'_> {
        fn drop(&mut self) {
            *self.0 = self.0.saturating_sub(self.1.elapsed());
        }
    }

    let all = *left;
    let _spending = Spending(left, Instant::now());
    sleep(all).await;
}

/// Makes room to receive more. False: its user has none.
fn reserve(received: &mut Vec<u8>, charge: &mut Charge) -> bool {
    let before = received.capacity();
    let has_room = received.try_reserve(MIN_READ).is_ok() && charge.set(Part::Received, received.capacity());
    if !has_room {
        received.shrink_to(before);
    }
    has_room
}

/// Reads what has arrived, within the room and the limit of a read.
async fn read(stream: &mut Stream, into: &mut Vec<u8>) -> io::Result<usize> {
    stream.read_buf(&mut into.limit(MAX_READ)).await
}

/// The same; or, if nothing more may be read, waits until the peer is gone, which is `None`.
async fn read_unless_gone(stream: &mut Stream, into: &mut Vec<u8>, may_read: bool) -> io::Result<Option<usize>> {
    if may_read {
        return read(stream, into).await.map(Some);
    }
    stream.gone().await;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use bytesize::ByteSize;
    use futures::FutureExt;
    use tokio::net::UnixStream;

    use super::super::accounts::Accounts;
    use super::super::admission::Admission;
    use super::super::api::Api;
    use super::super::codec::Codec;
    use super::super::{Config, ZkData};
    use super::*;
    use crate::access::{Access, Policy};
    use crate::metrics::Metrics;
    use crate::store::Store;
    use crate::task::Tasks;

    fn shared(config: Config) -> Arc<Shared> {
        let (metrics, accounts) = (Arc::<Metrics>::default(), Accounts::new(&config));
        let store = Store::new(&Default::default(), Vec::new(), metrics.clone());
        Arc::new(Shared {
            api: Api::new(&config, &ZkData::default(), store, accounts.clone(), metrics.clone()),
            access: Access::new(Policy::new(&Default::default(), &[]).expect("nobody is named")),
            codec: Codec::new(&config, metrics.clone()),
            admission: Admission::new(&config, metrics.clone()),
            accounts,
            config,
            metrics,
            process: None,
        })
    }

    #[tokio::test]
    async fn who_must_go_has_answers_to_what_was_read_and_is_read_no_more() {
        // No read of a power of two ends at a request's end.
        const REQUEST: &[u8] = b"\x80\x01\x00\x01\x00\x00\x00\x06nosuch\x00\x00\x00\x01\x00";
        const REPLY: &[u8] = b"\x80\x01\x00\x03\x00\x00\x00\x06nosuch";
        let shared = shared(Config { max_connections_per_user: 1, ..Config::default() });
        let peer = Peer::of(&shared.api, None);
        let admit = || shared.admission.admit(peer.account.clone(), false).expect("a slot");
        let (mut client, served) = UnixStream::pair().expect("two sockets");
        let stop = Tasks::new().0.stop_signal();
        let mut serving = pin!(serve(Stream::Unix(served), admit(), peer.clone(), shared.clone(), stop));
        assert!(serving.as_mut().now_or_never().is_none(), "it is idle");
        client.write_all(&REQUEST.repeat(100)).await.expect("written");
        // Until the runtime has seen that there is something to read.
        sleep(Duration::from_millis(50)).await;
        let _newcomer = admit();
        serving.await;
        let mut replies = Vec::new();
        // What was not read of it makes it an error.
        let _ = client.read_to_end(&mut replies).await;
        let answered = replies.windows(REPLY.len()).filter(|part| *part == REPLY).count();
        assert!((1..100).contains(&answered), "{answered}");
    }

    #[test]
    fn a_buffer_whose_user_has_no_room_stays_as_large_as_it_was() {
        let config = Config { max_memory: ByteSize::kib(256), ..Config::default() };
        let mut charge = Charge::new(&Accounts::new(&config).account(Some(1), false)).expect("room");
        let mut received = Vec::new();
        while reserve(&mut received, &mut charge) {
            received.resize(received.capacity(), 0);
        }
        let most = received.capacity();
        assert!((32 << 10..128 << 10).contains(&most), "{most}");
        assert!(!reserve(&mut received, &mut charge));
        assert_eq!(received.capacity(), most);
    }
}
