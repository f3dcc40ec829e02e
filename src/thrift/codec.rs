//! The codec: one request's bytes in, one reply's bytes out, by the generated code.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TCompactInputProtocol, TCompactOutputProtocol, TInputProtocol,
    TMessageIdentifier, TMessageType, TOutputProtocol, TStoredInputProtocol,
};
use thrift::server::TProcessor;
use thrift::{ApplicationError, ApplicationErrorKind, TConfiguration};

use super::Config;
use super::dialect::{Dialect, Protocol};
use super::handler::{Desk, Watch};
use super::idl::{self, ReadOptions, RosterSyncHandler, RosterSyncProcessor};
use super::scan::Wrong;
use super::zk_data::{ZkDataServiceSyncHandler, ZkDataServiceSyncProcessor};
use crate::metrics::Metrics;

/// Encodes and decodes within the bounds.
#[derive(Debug)]
pub(super) struct Codec {
    limits: TConfiguration,
    max_reply: usize,
    /// Bytes of replies that wait for their readers, over all connections.
    waiting: Arc<AtomicUsize>,
    max_waiting: usize,
    metrics: Arc<Metrics>,
}

/// What a request came to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Its reply was added to the output.
    Answered(Owed),
    /// It waits. Wait, then ask again with the answer.
    Waits(Watch),
}

/// The reply's bytes, counted until the client has taken them.
#[derive(Debug)]
pub(super) struct Owed {
    bytes: usize,
    waiting: Arc<AtomicUsize>,
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The answer to a method that waits.
pub(super) type Awaited = thrift::Result<idl::WatchReply>;

impl Codec {
    pub(super) fn new(config: &Config, metrics: Arc<Metrics>) -> Self {
        let request = config.max_request.as_u64() as usize;
        let limits = TConfiguration::builder()
            .max_message_size(Some(request))
            .max_frame_size(Some(request))
            .max_recursion_depth(Some(config.max_depth))
            .max_container_size(Some(config.max_container))
            .max_string_size(Some(config.max_string.as_u64() as usize))
            .build()
            .expect("a frame is no larger than a message");
        Self {
            limits,
            max_reply: config.max_reply.as_u64() as usize,
            waiting: Arc::default(),
            max_waiting: config.max_waiting_replies.as_u64() as usize,
            metrics,
        }
    }

    /// Answers `message`, which the scanner found whole and within its bounds, by adding its reply to `output`.
    ///
    /// The generated code cannot wait. So a request that must wait passes through it twice: the first time for its
    /// arguments, and a second time, with `awaited`, for its reply.
    pub(super) fn answer(
        &self,
        dialect: Dialect,
        message: &[u8],
        desk: &Desk,
        awaited: Option<Awaited>,
        output: &mut Vec<u8>,
    ) -> thrift::Result<Outcome> {
        let start = output.len();
        let header = if dialect.framed { 4 } else { 0 };
        output.resize(start + header, 0);
        let call = Call { desk, turn: RefCell::new(awaited.map_or(Turn::First, Turn::Second)) };
        let request = match dialect.protocol {
            Protocol::Binary => {
                let mut input = TBinaryInputProtocol::with_config(message, true, self.limits.clone());
                process(&call, &mut input, &mut TBinaryOutputProtocol::new(&mut *output, true))
            }
            Protocol::Compact => {
                let mut input = TCompactInputProtocol::with_config(message, self.limits.clone());
                process(&call, &mut input, &mut TCompactOutputProtocol::new(&mut *output))
            }
        }?;
        if let Turn::Waits(watch) = call.turn.into_inner() {
            output.truncate(start);
            return Ok(Outcome::Waits(watch));
        }
        self.metrics.requests.increment();
        let mut bytes = output.len() - start;
        if let Some(refusal) = self.refusal(bytes) {
            output.truncate(start + header);
            self.write_exception(dialect, &request, &refusal, output)?;
            bytes = output.len() - start;
        }
        if request.message_type == TMessageType::OneWay {
            output.truncate(start);
        } else if dialect.framed {
            let length = (output.len() - start - header) as u32;
            output[start..start + header].copy_from_slice(&length.to_be_bytes());
        }
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        Ok(Outcome::Answered(Owed { bytes, waiting: self.waiting.clone() }))
    }

    /// Tells a client whose message is not answered why.
    pub(super) fn refuse(&self, dialect: Dialect, wrong: Wrong, output: &mut Vec<u8>) -> thrift::Result<()> {
        let start = output.len();
        output.resize(start + if dialect.framed { 4 } else { 0 }, 0);
        let body = output.len();
        let unknown = TMessageIdentifier::new("", TMessageType::Call, 0);
        let error = ApplicationError::new(ApplicationErrorKind::ProtocolError, wrong.to_string());
        self.write_exception(dialect, &unknown, &error, output)?;
        let length = (output.len() - body) as u32;
        output[start..body].copy_from_slice(&length.to_be_bytes()[..body - start]);
        Ok(())
    }

    /// Why a reply of so many bytes is not sent, if it is not.
    fn refusal(&self, bytes: usize) -> Option<ApplicationError> {
        let refusal = |message: &str| Some(ApplicationError::new(ApplicationErrorKind::InternalError, message));
        if bytes > self.max_reply {
            return refusal("the reply would be larger than max_reply allows; ask for less, or by `subtree` in pages");
        }
        if self.waiting.load(Ordering::Relaxed) + bytes > self.max_waiting {
            self.metrics.overloaded.increment();
            return refusal("overloaded: too many bytes of replies wait for their readers; try again");
        }
        None
    }

    fn write_exception(
        &self,
        dialect: Dialect,
        request: &TMessageIdentifier,
        error: &ApplicationError,
        output: &mut Vec<u8>,
    ) -> thrift::Result<()> {
        self.metrics.exceptions.increment();
        match dialect.protocol {
            Protocol::Binary => write_exception(request, error, &mut TBinaryOutputProtocol::new(output, true)),
            Protocol::Compact => write_exception(request, error, &mut TCompactOutputProtocol::new(output)),
        }
    }
}

fn write_exception(
    request: &TMessageIdentifier,
    error: &ApplicationError,
    output: &mut dyn TOutputProtocol,
) -> thrift::Result<()> {
    let name = request.name.clone();
    output.write_message_begin(&TMessageIdentifier::new(name, TMessageType::Exception, request.sequence_number))?;
    thrift::Error::write_application_error_to_out_protocol(error, output)?;
    output.write_message_end()
}

/// Passes one request through the generated code, to the service that its name says: `service:method`, or a method
/// alone.
fn process(
    call: &Call<'_>,
    input: &mut dyn TInputProtocol,
    output: &mut dyn TOutputProtocol,
) -> thrift::Result<TMessageIdentifier> {
    let mut request = input.read_message_begin()?;
    let service = match request.name.split_once(':') {
        Some((service, method)) => {
            let service = service.to_owned();
            request.name = method.to_owned();
            service
        }
        None => if request.name == "zkData" { "zkDataService" } else { "Roster" }.to_owned(),
    };
    let mut input = TStoredInputProtocol::new(input, request.clone());
    match service.as_str() {
        "zkDataService" => ZkDataServiceSyncProcessor::new(call).process(&mut input, output)?,
        "Roster" => RosterSyncProcessor::new(call).process(&mut input, output)?,
        other => {
            let message = format!("unknown service {other}");
            let error = ApplicationError::new(ApplicationErrorKind::UnknownMethod, message);
            call.desk.count_exception();
            write_exception(&request, &error, output)?;
        }
    }
    Ok(request)
}

/// One request on its way through the generated code.
struct Call<'a> {
    desk: &'a Desk,
    turn: RefCell<Turn>,
}

enum Turn {
    First,
    /// The first pass found these arguments, and wrote what is thrown away.
    Waits(Watch),
    Second(Awaited),
}

impl RosterSyncHandler for &Call<'_> {
    fn handle_get(&self, path: String, options: ReadOptions) -> thrift::Result<idl::NodeReply> {
        self.desk.counted(self.desk.get(&path, &options))
    }

    fn handle_get_many(&self, paths: Vec<String>, options: ReadOptions) -> thrift::Result<idl::NodesReply> {
        self.desk.counted(self.desk.get_many(&paths, &options))
    }

    fn handle_children(&self, path: String, options: ReadOptions) -> thrift::Result<idl::ChildrenReply> {
        self.desk.counted(self.desk.children(&path, &options))
    }

    fn handle_subtree(
        &self,
        path: String,
        limit: i32,
        cursor: String,
        options: ReadOptions,
    ) -> thrift::Result<idl::SubtreeReply> {
        self.desk.counted(self.desk.subtree(&path, limit, &cursor, &options))
    }

    fn handle_watch(
        &self,
        since: i64,
        paths: Vec<String>,
        timeout_ms: i32,
        limit: i32,
    ) -> thrift::Result<idl::WatchReply> {
        if let Turn::Second(reply) = self.turn.replace(Turn::First) {
            return self.desk.counted(reply);
        }
        let watch = self.desk.counted(self.desk.watch(since, &paths, timeout_ms, limit))?;
        self.turn.replace(Turn::Waits(watch));
        Err("the reply of the first pass, which nobody sees".into())
    }

    fn handle_status(&self) -> thrift::Result<idl::StatusReply> {
        self.desk.counted(self.desk.status())
    }
}

impl ZkDataServiceSyncHandler for &Call<'_> {
    fn handle_zk_data(&self) -> thrift::Result<Vec<u8>> {
        self.desk.counted(self.desk.zk_data())
    }
}
