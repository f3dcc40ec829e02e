//! One connection: reads requests, answers them in order, and ends when its peer is gone, too slow, or not a client.

use std::convert::Infallible;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::Shared;
use super::admission::{Place, Sent};
use super::codec::Outcome;
use super::cut::{Cut, Cutter};
use super::dialect::Dialect;
use super::open::Open;
use super::owed::Owed;
use super::scan::Bounds;
use super::service::Asked;
use super::wait::{Awaited, Wait};
use crate::access::Identity;
use crate::net::Stream;
use crate::task::Stop;

/// Replies to pipelined requests are sent together up to this size.
const GATHER: usize = 64 * 1024;

/// What a connection reads at least at a time.
const READ: usize = 512;

/// A buffer that grew beyond this for a large message is given back afterwards.
const KEEP: usize = 16 * 1024;

struct Connection {
    stream: Stream,
    shared: Arc<Shared>,
    place: Place,
    stop: Stop,
    identity: Identity,
    received: Vec<u8>,
    output: Vec<u8>,
    owed: Vec<Owed>,
    open: Open,
}

/// Why a connection ends.
enum End {
    /// The peer went away, or the process stops, or the place is needed for another.
    Quiet,
    /// The peer took too long.
    TimedOut,
    /// What came was not a request.
    Malformed(&'static str),
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

impl From<Sent> for End {
    fn from(sent: Sent) -> Self {
        match sent {
            Sent::Away => Self::Quiet,
            Sent::Late => Self::TimedOut,
        }
    }
}

/// Serves one client until it leaves.
pub(super) async fn serve(stream: Stream, place: Place, shared: Arc<Shared>, stop: Stop) {
    let counted = shared.clone();
    let _open = counted.metrics.connections_open.hold();
    let mut connection = Connection {
        identity: shared.identify(&stream),
        stream,
        shared,
        place,
        stop,
        received: Vec::new(),
        output: Vec::new(),
        owed: Vec::new(),
        open: Open::default(),
    };
    match connection.run().await {
        Ok(never) => match never {},
        Err(End::Quiet) => {}
        Err(End::TimedOut) => counted.metrics.timeouts.increment(),
        Err(End::Malformed(what)) => {
            counted.metrics.malformed.increment();
            tracing::debug!(what, "closed a connection that did not bring a request");
        }
        Err(End::Failed(error)) => tracing::debug!(error, "closed a connection"),
    }
}

impl Connection {
    /// Answers one request after the other; never ends but for a reason.
    async fn run(&mut self) -> Result<Infallible, End> {
        let config = &self.shared.config;
        let mut cutter = Cutter::new(Bounds {
            message: config.max_request.as_u64() as usize,
            call: config.max_call.as_u64() as usize,
            string: config.max_string.as_u64() as usize,
            container: config.max_container,
            depth: config.max_depth,
        });
        let (request_timeout, idle_timeout) = (config.request_timeout, config.idle_timeout);
        self.begins_within(config.first_byte_timeout).await?;
        loop {
            let deadline = Instant::now() + request_timeout;
            let (dialect, message, end) = self.request(&mut cutter, deadline).await?;
            self.answer(dialect, message).await?;
            self.received.drain(..end);
            if self.output.len() >= GATHER {
                self.send().await?;
            }
            self.begins_within(idle_timeout).await?;
        }
    }

    /// Waits for the first bytes of a request. Meanwhile the connection is idle, and may have to go, unless it has a
    /// call open.
    async fn begins_within(&mut self, patience: Duration) -> Result<(), End> {
        if self.received.is_empty() {
            self.send().await?;
            if self.open.is_some() {
                return timeout(patience, self.receive()).await.map_err(|_| End::TimedOut)?;
            }
            self.place.set_idle(patience);
            self.receive().await?;
            self.place.set_busy();
        }
        Ok(())
    }

    /// Waits until a request is whole: how it is encoded, where it is in what was received, and where it ends.
    async fn request(&mut self, cutter: &mut Cutter, deadline: Instant) -> Result<(Dialect, Range<usize>, usize), End> {
        loop {
            match cutter.next(&self.received) {
                Cut::Request { dialect, message, end } => return Ok((dialect, message, end)),
                Cut::Incomplete => {
                    self.send().await?;
                    timeout_at(deadline, self.receive()).await.map_err(|_| End::TimedOut)??;
                }
                Cut::Foreign(foreign) => {
                    self.output.extend(foreign.refusal());
                    self.send().await?;
                    return Err(End::Malformed(foreign.name()));
                }
                Cut::Wrong(dialect, wrong) => {
                    self.shared.codec.refuse(dialect, wrong, &mut self.output)?;
                    self.send().await?;
                    return Err(End::Malformed("a request out of bounds"));
                }
            }
        }
    }

    async fn answer(&mut self, dialect: Dialect, message: Range<usize>) -> Result<(), End> {
        let mut awaited = None;
        self.shared.access.refresh(&mut self.identity, || self.stream.groups());
        loop {
            let request = &self.received[message.clone()];
            let asked = Asked { desk: &self.shared.desk, by: &self.identity };
            let is_fetched = matches!(awaited, Some(Awaited::Values(_)));
            match self.shared.codec.answer(dialect, request, asked, awaited, &mut self.output)? {
                Outcome::Answered(owed) => {
                    self.owed.push(owed);
                    return Ok(());
                }
                Outcome::Refused(owed) => {
                    self.owed.push(owed);
                    if is_fetched {
                        // Else the next values would hide that these are missing.
                        self.open.give_up();
                    }
                    return Ok(());
                }
                Outcome::Waits(wait) => {
                    self.send().await?;
                    awaited = Some(self.wait(*wait, message.end).await?);
                }
            }
        }
    }

    /// Waits for what the request that ends at `end` waits for, as long as the peer is there.
    async fn wait(&mut self, wait: Wait, end: usize) -> Result<Awaited, End> {
        let _waiting = match wait.overloaded() {
            Some(overloaded) => match self.place.wait() {
                None => return Ok(overloaded),
                waiting => waiting,
            },
            None => None,
        };
        let shared = self.shared.clone();
        // What is sent to many is sent to all of them, also when the peer goes meanwhile.
        let is_sending = wait.is_sending();
        let most = end + shared.config.max_request.as_u64() as usize;
        // In a box: else every connection would be as large as a call.
        let mut waiting = Box::pin(wait.until_answered(&shared.desk, &self.identity, &mut self.open, &self.stop));
        loop {
            let has_room = self.received.len() < most;
            tokio::select! {
                answer = &mut waiting => return Ok(answer),
                read = self.stream.read_buf(&mut self.received), if has_room && !is_sending => match read? {
                    0 => return Err(End::Quiet),
                    _ => self.received.reserve(READ),
                },
            }
        }
    }

    async fn receive(&mut self) -> Result<(), End> {
        self.received.reserve(READ);
        tokio::select! {
            biased;
            read = self.stream.read_buf(&mut self.received) => if read? == 0 { Err(End::Quiet) } else { Ok(()) },
            sent = self.place.sent_away(), if !self.open.is_some() => Err(sent.into()),
            never = self.open.go_on() => match never {},
        }
    }

    async fn send(&mut self) -> Result<(), End> {
        if !self.output.is_empty() {
            let sent = self.stream.write_all(&self.output);
            timeout(self.shared.config.reply_timeout, sent).await.map_err(|_| End::TimedOut)??;
        }
        self.owed.clear();
        self.output.clear();
        self.output.shrink_to(KEEP);
        if self.received.is_empty() {
            self.received.shrink_to(KEEP);
        }
        Ok(())
    }
}
