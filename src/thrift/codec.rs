//! The codec: the bytes of a request in, the bytes of a reply out.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use bytesize::ByteSize;
use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TCompactInputProtocol, TCompactOutputProtocol, TInputProtocol,
    TMessageIdentifier, TMessageType, TOutputProtocol,
};
use thrift::{ApplicationError, ApplicationErrorKind, TConfiguration};

use super::Config;
use super::api::Api;
use super::dialect::{Dialect, Protocol};
use super::dispatch::{Asked, Exchange, INVALID, ReplyTo, write_exception, write_result};
use super::memory::{Charge, Part};
use super::refusal::{Refusal, too_long};
use super::scan::Head;
use super::wait::{Awaited, Wait};
use crate::call::OVERLOADED;
use crate::metrics::Metrics;

/// Encodes and decodes within the limits.
#[derive(Debug)]
pub(super) struct Codec {
    limits: TConfiguration,
    max_reply: usize,
    max_call: ByteSize,
    metrics: Arc<Metrics>,
}

/// The outcome of a request.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Its reply was added to the output.
    Answered,
    /// A refusal was added: the reply was larger than one, or its user's share, may be.
    Refused,
    /// It has to wait. Wait, then pass the answer to `answer_late`.
    Waits(Box<Wait>),
}

impl Codec {
    pub(super) fn new(config: &Config, metrics: Arc<Metrics>) -> Self {
        let request = config.max_request.max(config.max_call).as_u64() as usize;
        let limits = TConfiguration::builder()
            .max_message_size(Some(request))
            .max_frame_size(Some(request))
            .max_recursion_depth(Some(config.max_depth))
            .max_container_size(Some(config.max_container))
            .max_string_size(Some(config.max_string.as_u64() as usize))
            .build()
            .expect("a frame is no larger than a message");
        Self { limits, max_reply: config.max_reply.as_u64() as usize, max_call: config.max_call, metrics }
    }

    /// Answers a message of `received`, which the scanner found complete and within its limits, by adding its reply to
    /// `output`, which is charged.
    pub(super) fn answer(
        &self,
        dialect: Dialect,
        head: &Head,
        received: &[u8],
        asked: Asked<'_>,
        output: &mut Vec<u8>,
        charge: &mut Charge,
    ) -> thrift::Result<Outcome> {
        let name = match head.method {
            Some(method) => Cow::Borrowed(method.name),
            None => String::from_utf8_lossy(received.get(head.name.clone()).unwrap_or_default()),
        };
        let name = name.split_once(':').map_or(&*name, |(_, name)| name);
        let arguments = received.get(head.arguments..).unwrap_or_default();
        self.written(dialect, head, name, output, charge, |output| {
            let reply = ReplyTo { api: asked.api, name, sequence_number: head.sequence_number, output };
            match dialect.protocol {
                Protocol::Binary => {
                    let mut input = TBinaryInputProtocol::with_config(arguments, true, self.limits.clone());
                    answer(head, Exchange { asked, input: &mut input, reply })
                }
                Protocol::Compact => {
                    let mut input = TCompactInputProtocol::with_config(arguments, self.limits.clone());
                    answer(head, Exchange { asked, input: &mut input, reply })
                }
            }
        })
    }

    /// Answers a message that waited.
    pub(super) fn answer_late(
        &self,
        dialect: Dialect,
        head: &Head,
        awaited: Awaited,
        api: &Api,
        output: &mut Vec<u8>,
        charge: &mut Charge,
    ) -> thrift::Result<Outcome> {
        let name = head.method.map_or("", |method| method.name);
        self.written(dialect, head, name, output, charge, |output| {
            awaited.write(ReplyTo { api, name, sequence_number: head.sequence_number, output })?;
            Ok(None)
        })
    }

    /// Adds a reply to the output, unless the request waits; or a refusal, if it is too large.
    fn written(
        &self,
        dialect: Dialect,
        head: &Head,
        name: &str,
        output: &mut Vec<u8>,
        charge: &mut Charge,
        write: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<Option<Box<Wait>>>,
    ) -> thrift::Result<Outcome> {
        let start = output.len();
        let header = if dialect.framed { 4 } else { 0 };
        output.resize(start + header, 0);
        if let Some(wait) = in_protocol(dialect, output, write)? {
            output.truncate(start);
            return Ok(Outcome::Waits(wait));
        }
        self.metrics.requests.increment();
        let refusal = self.refusal(output.len() - start, charge.set(Part::Output, output.capacity()));
        if let Some(refusal) = &refusal {
            output.truncate(start + header);
            output.shrink_to_fit();
            self.write_exception(dialect, name, head.sequence_number, refusal, output)?;
            // A refusal is sent even if there is no room for it.
            let _ = charge.set(Part::Output, output.capacity());
        }
        if head.is_oneway {
            output.truncate(start);
        } else if dialect.framed {
            let length = (output.len() - start - header) as u32;
            output[start..start + header].copy_from_slice(&length.to_be_bytes());
        }
        Ok(if refusal.is_none() { Outcome::Answered } else { Outcome::Refused })
    }

    /// Tells a client why the message at the beginning of `received` is not answered. An overlong call is reported as
    /// an exception of the interface: it is the client's own mistake, and no other sidecar would accept it.
    pub(super) fn refuse(
        &self,
        dialect: Dialect,
        received: &[u8],
        why: Refusal,
        output: &mut Vec<u8>,
    ) -> thrift::Result<()> {
        let start = output.len();
        output.resize(start + if dialect.framed { 4 } else { 0 }, 0);
        let body = output.len();
        let request = self.head(dialect, received.get(body - start..).unwrap_or_default());
        match (why, too_long(&request, why, self.max_call)) {
            (_, Some(invalid)) => {
                self.metrics.exceptions.increment();
                let (name, number) = (&*request.name, request.sequence_number);
                in_protocol(dialect, output, |to| write_result(name, number, INVALID, &invalid, to))?;
            }
            (Refusal::Violation(violation), None) => {
                let error = ApplicationError::new(ApplicationErrorKind::ProtocolError, violation.to_string());
                self.write_exception(dialect, &request.name, request.sequence_number, &error, output)?;
            }
            (Refusal::Overloaded, None) => {
                let error = self.overloaded(OVERLOADED);
                self.write_exception(dialect, &request.name, request.sequence_number, &error, output)?;
            }
        }
        let length = (output.len() - body) as u32;
        output[start..body].copy_from_slice(&length.to_be_bytes()[..body - start]);
        Ok(())
    }

    /// The header of the message, as far as it has arrived.
    fn head(&self, dialect: Dialect, message: &[u8]) -> TMessageIdentifier {
        let limits = self.limits.clone();
        let head = match dialect.protocol {
            Protocol::Binary => TBinaryInputProtocol::with_config(message, true, limits).read_message_begin(),
            Protocol::Compact => TCompactInputProtocol::with_config(message, limits).read_message_begin(),
        };
        let head = head.unwrap_or_else(|_| TMessageIdentifier::new("", TMessageType::Call, 0));
        let name = head.name.rsplit(':').next().unwrap_or_default().to_owned();
        TMessageIdentifier { name, ..head }
    }

    /// Why a reply of this size is not sent, if it is not.
    fn refusal(&self, bytes: usize, has_room: bool) -> Option<ApplicationError> {
        if bytes > self.max_reply {
            let message = "the reply would be larger than max_reply allows; ask for less, or by `subtree` in pages";
            return Some(ApplicationError::new(ApplicationErrorKind::InternalError, message));
        }
        (!has_room).then(|| self.overloaded(OVERLOADED))
    }

    /// The error for a user that takes too much of something.
    pub(super) fn overloaded(&self, message: &str) -> ApplicationError {
        self.metrics.overloaded.increment();
        ApplicationError::new(ApplicationErrorKind::InternalError, message)
    }

    fn write_exception(
        &self,
        dialect: Dialect,
        name: &str,
        sequence_number: i32,
        error: &ApplicationError,
        output: &mut Vec<u8>,
    ) -> thrift::Result<()> {
        self.metrics.exceptions.increment();
        in_protocol(dialect, output, |to| write_exception(name, sequence_number, error, to))
    }
}

/// Makes the method answer, if it exists.
fn answer(head: &Head, mut exchange: Exchange<'_>) -> thrift::Result<Option<Box<Wait>>> {
    match head.method {
        Some(method) => (method.answer)(&mut exchange),
        None => exchange.reply.unknown().map(|()| None),
    }
}

/// Writes in the protocol of a dialect.
fn in_protocol<T>(
    dialect: Dialect,
    output: &mut Vec<u8>,
    write: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<T>,
) -> thrift::Result<T> {
    let output = Growing(output);
    match dialect.protocol {
        Protocol::Binary => write(&mut TBinaryOutputProtocol::new(output, true)),
        Protocol::Compact => write(&mut TCompactOutputProtocol::new(output)),
    }
}

/// An output that, when it grows for large data, also gets room for what follows: otherwise it would grow twice,
/// copying the data again.
struct Growing<'a>(&'a mut Vec<u8>);

const FOLLOWS: usize = 512;

impl io::Write for Growing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.capacity() - self.0.len() < bytes.len() {
            self.0.reserve(bytes.len() + FOLLOWS);
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
