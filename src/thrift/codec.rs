//! The codec: one request's bytes in, one reply's bytes out, by the generated code.

use std::sync::Arc;

use bytesize::ByteSize;
use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TCompactInputProtocol, TCompactOutputProtocol, TInputProtocol,
    TMessageIdentifier, TMessageType, TOutputProtocol,
};
use thrift::{ApplicationError, ApplicationErrorKind, TConfiguration};

use super::Config;
use super::dialect::{Dialect, Protocol};
use super::memory::{Charge, OVERLOADED, Part};
use super::refusal::{Refusal, too_long, write_invalid};
use super::service::{Asked, Pass};
use super::wait::{Awaited, Wait};

use crate::metrics::Metrics;

/// Encodes and decodes within the bounds.
#[derive(Debug)]
pub(super) struct Codec {
    limits: TConfiguration,
    max_reply: usize,
    max_call: ByteSize,
    metrics: Arc<Metrics>,
}

/// What a request came to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Its reply was added to the output.
    Answered,
    /// A refusal was: what the request came to was more than a reply, or the user, may have.
    Refused,
    /// It waits. Wait, then ask again with the answer.
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

    /// Answers `message`, which the scanner found whole and within its bounds, by adding its reply to `output`, which
    /// is charged.
    ///
    /// The generated code cannot wait. So a request that must wait passes through it twice: the first time for its
    /// arguments, and a second time, with `awaited`, for its reply.
    pub(super) fn answer(
        &self,
        dialect: Dialect,
        message: &[u8],
        asked: Asked<'_>,
        awaited: Option<Awaited>,
        output: &mut Vec<u8>,
        charge: &mut Charge,
    ) -> thrift::Result<Outcome> {
        let start = output.len();
        let header = if dialect.framed { 4 } else { 0 };
        output.resize(start + header, 0);
        let pass = Pass::new(asked, awaited);
        let request = match dialect.protocol {
            Protocol::Binary => {
                let mut input = TBinaryInputProtocol::with_config(message, true, self.limits.clone());
                pass.process(&mut input, &mut TBinaryOutputProtocol::new(&mut *output, true))
            }
            Protocol::Compact => {
                let mut input = TCompactInputProtocol::with_config(message, self.limits.clone());
                pass.process(&mut input, &mut TCompactOutputProtocol::new(&mut *output))
            }
        }?;
        if let Some(wait) = pass.into_wait() {
            output.truncate(start);
            return Ok(Outcome::Waits(wait));
        }
        self.metrics.requests.increment();
        let refusal = self.refusal(output.len() - start, charge.set(Part::Output, output.capacity()));
        if let Some(refusal) = &refusal {
            output.truncate(start + header);
            output.shrink_to_fit();
            self.write_exception(dialect, &request, refusal, output)?;
            // A refusal is sent also where there is no room for it.
            let _ = charge.set(Part::Output, output.capacity());
        }
        if request.message_type == TMessageType::OneWay {
            output.truncate(start);
        } else if dialect.framed {
            let length = (output.len() - start - header) as u32;
            output[start..start + header].copy_from_slice(&length.to_be_bytes());
        }
        Ok(if refusal.is_none() { Outcome::Answered } else { Outcome::Refused })
    }

    /// Tells a client why the message that `received` begins with is not answered. That a call is too long is told as the
    /// interface has it: the client's own mistake, and no other sidecar would take it.
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
            (_, Some(invalid)) => self.write_reply(dialect, output, |to| write_invalid(&request, &invalid, to))?,
            (Refusal::Wrong(wrong), None) => {
                let error = ApplicationError::new(ApplicationErrorKind::ProtocolError, wrong.to_string());
                self.write_exception(dialect, &request, &error, output)?;
            }
            (Refusal::Overloaded, None) => {
                self.write_exception(dialect, &request, &self.overloaded(OVERLOADED), output)?;
            }
        }
        let length = (output.len() - body) as u32;
        output[start..body].copy_from_slice(&length.to_be_bytes()[..body - start]);
        Ok(())
    }

    /// What the message says of itself, as far as that has come.
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

    /// Why a reply of so many bytes is not sent, if it is not.
    fn refusal(&self, bytes: usize, has_room: bool) -> Option<ApplicationError> {
        if bytes > self.max_reply {
            let message = "the reply would be larger than max_reply allows; ask for less, or by `subtree` in pages";
            return Some(ApplicationError::new(ApplicationErrorKind::InternalError, message));
        }
        (!has_room).then(|| self.overloaded(OVERLOADED))
    }

    /// That somebody takes too much of something.
    pub(super) fn overloaded(&self, message: &str) -> ApplicationError {
        self.metrics.overloaded.increment();
        ApplicationError::new(ApplicationErrorKind::InternalError, message)
    }

    fn write_exception(
        &self,
        dialect: Dialect,
        request: &TMessageIdentifier,
        error: &ApplicationError,
        output: &mut Vec<u8>,
    ) -> thrift::Result<()> {
        self.write_reply(dialect, output, |to| write_exception(request, error, to))
    }

    fn write_reply(
        &self,
        dialect: Dialect,
        output: &mut Vec<u8>,
        write: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<()>,
    ) -> thrift::Result<()> {
        self.metrics.exceptions.increment();
        match dialect.protocol {
            Protocol::Binary => write(&mut TBinaryOutputProtocol::new(output, true)),
            Protocol::Compact => write(&mut TCompactOutputProtocol::new(output)),
        }
    }
}

pub(super) fn write_exception(
    request: &TMessageIdentifier,
    error: &ApplicationError,
    output: &mut dyn TOutputProtocol,
) -> thrift::Result<()> {
    let name = request.name.clone();
    output.write_message_begin(&TMessageIdentifier::new(name, TMessageType::Exception, request.sequence_number))?;
    thrift::Error::write_application_error_to_out_protocol(error, output)?;
    output.write_message_end()
}
