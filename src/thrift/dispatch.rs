//! Dispatch: a request is decoded once, by its method, and the reply is written directly to its destination.

use std::sync::Arc;

use thrift::protocol::{
    TBinaryInputProtocol, TFieldIdentifier, TInputProtocol, TMessageIdentifier, TMessageType, TOutputProtocol,
    TSerializable, TStructIdentifier, TType,
};
use thrift::{ApplicationError, ApplicationErrorKind};

use super::Peer;
use super::api::{Api, denied, invalid};
use super::idl::{
    AccessDenied, CallFailed, CallTimedOut, CommandReply, Freshness, InvalidRequest, NoInstance, NoMaster, NotFound,
    NotReady, Overloaded, TooStale,
};
use super::wait::Wait;
use crate::model::{Node, NodePath};

/// The API that answers a request, and the peer that sent it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) api: &'a Api,
    pub(super) peer: &'a Peer,
}

/// A request whose arguments are yet to be read, and the destination of its reply.
pub(super) struct Exchange<'a> {
    pub(super) asked: Asked<'a>,
    pub(super) input: &'a mut dyn TInputProtocol,
    pub(super) reply: ReplyTo<'a>,
}

/// The destination of a reply.
pub(super) struct ReplyTo<'a> {
    pub(super) api: &'a Api,
    pub(super) name: &'a str,
    pub(super) sequence_number: i32,
    pub(super) output: &'a mut dyn TOutputProtocol,
}

/// The result of a request that may have to wait.
pub(super) enum Step<R> {
    Done(R),
    Waits(Box<Wait>),
}

/// What a method returns.
pub(super) trait Reply {
    fn kind(&self) -> TType {
        TType::Struct
    }

    fn write(&self, output: &mut dyn TOutputProtocol) -> thrift::Result<()>;
}

impl<T: TSerializable> Reply for T {
    fn write(&self, output: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        self.write_to_out_protocol(output)
    }
}

/// A `NodeReply`, written directly from the snapshot's node.
#[derive(Debug)]
pub(super) struct FoundNode {
    pub(super) path: NodePath,
    pub(super) node: Arc<Node>,
    pub(super) freshness: Freshness,
}

impl Reply for FoundNode {
    fn write(&self, output: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        write_struct(output, |output| {
            write_field(output, TType::Struct, 1, |output| {
                write_struct(output, |output| {
                    write_field(output, TType::String, 1, |output| output.write_string(self.path.as_str()))?;
                    write_field(output, TType::String, 2, |output| output.write_bytes(&self.node.data))?;
                    let stat = super::idl::Stat::from(self.node.stat);
                    write_field(output, TType::Struct, 3, |output| stat.write_to_out_protocol(output))
                })
            })?;
            write_field(output, TType::Struct, 2, |output| self.freshness.write_to_out_protocol(output))
        })
    }
}

/// The data of a node, as returned by `zkData`.
struct Data(Arc<Node>);

impl Reply for Data {
    fn kind(&self) -> TType {
        TType::String
    }

    fn write(&self, output: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        output.write_bytes(&self.0.data)
    }
}

impl Exchange<'_> {
    /// Replies immediately.
    pub(super) fn reply<Q: TSerializable, R: Reply>(
        &mut self,
        answer: impl FnOnce(&Api, &Peer, Q) -> thrift::Result<R>,
    ) -> thrift::Result<Option<Box<Wait>>> {
        self.reply_or_wait(|api, peer, request| answer(api, peer, request).map(Step::Done))
    }

    /// Waits, unless the request is invalid.
    pub(super) fn wait<Q: TSerializable>(
        &mut self,
        check: impl FnOnce(&Api, &Peer, Q) -> thrift::Result<Wait>,
    ) -> thrift::Result<Option<Box<Wait>>> {
        // The wait knows the type of the reply.
        self.reply_or_wait::<Q, CommandReply>(|api, peer, request| {
            check(api, peer, request).map(|wait| Step::Waits(wait.into()))
        })
    }

    /// The same for requests that change other processes, which are for administrators.
    pub(super) fn command<Q: TSerializable>(
        &mut self,
        check: impl FnOnce(Q) -> thrift::Result<Wait>,
    ) -> thrift::Result<Option<Box<Wait>>> {
        self.wait(|_, peer, request| {
            peer.identity.may_command().map_err(denied)?;
            check(request)
        })
    }

    /// Replies immediately if possible, and waits if not.
    pub(super) fn reply_or_wait<Q: TSerializable, R: Reply>(
        &mut self,
        answer: impl FnOnce(&Api, &Peer, Q) -> thrift::Result<Step<R>>,
    ) -> thrift::Result<Option<Box<Wait>>> {
        let Asked { api, peer } = self.asked;
        let reply = match self.request().and_then(|request| answer(api, peer, request)) {
            Ok(Step::Waits(wait)) => return Ok(Some(wait)),
            Ok(Step::Done(reply)) => Ok(reply),
            Err(why) => Err(why),
        };
        self.reply.write(reply)?;
        Ok(None)
    }

    /// The method of the article.
    pub(super) fn zk_data(&mut self) -> thrift::Result<Option<Box<Wait>>> {
        let Asked { api, peer } = self.asked;
        self.reply.write(api.zk_data(peer).map(Data))?;
        Ok(None)
    }

    /// Reads the only argument. A missing one is an empty request.
    fn request<Q: TSerializable>(&mut self) -> thrift::Result<Q> {
        let read = self.argument().and_then(|request| match request {
            Some(request) => Ok(request),
            None => Q::read_from_in_protocol(&mut TBinaryInputProtocol::new(&[TType::Stop as u8][..], true)),
        });
        read.map_err(|why| match why {
            // A client's own text, and no other sidecar would take it.
            thrift::Error::Protocol(error) if error.message.contains("utf-8") => {
                let message =
                    format!("a text in it is not UTF-8, as all but keys and data have to be: {}", error.message);
                invalid("request", &message)
            }
            why => {
                thrift::Error::Application(ApplicationError::new(ApplicationErrorKind::ProtocolError, why.to_string()))
            }
        })
    }

    fn argument<Q: TSerializable>(&mut self) -> thrift::Result<Option<Q>> {
        let mut request = None;
        self.input.read_struct_begin()?;
        loop {
            let field = self.input.read_field_begin()?;
            match (field.field_type, field.id) {
                (TType::Stop, _) => return Ok(request),
                (TType::Struct, Some(1)) => request = Some(Q::read_from_in_protocol(self.input)?),
                (other, _) => self.input.skip(other)?,
            }
            self.input.read_field_end()?;
        }
    }
}

impl ReplyTo<'_> {
    /// Writes the reply, or the exception.
    pub(super) fn write<R: Reply>(&mut self, reply: thrift::Result<R>) -> thrift::Result<()> {
        let why = match reply {
            Ok(reply) => return self.result(0, &reply),
            Err(why) => why,
        };
        self.api.count_exception();
        let error = match why {
            thrift::Error::User(exception) => match declared(exception.as_ref()) {
                Some((id, exception)) => return self.result(id, exception),
                None => ApplicationError::new(ApplicationErrorKind::Unknown, exception.to_string()),
            },
            thrift::Error::Application(error) => error,
            other => ApplicationError::new(ApplicationErrorKind::Unknown, other.to_string()),
        };
        self.exception(&error)
    }

    /// Writes that there is no such method.
    pub(super) fn unknown(&mut self) -> thrift::Result<()> {
        self.api.count_exception();
        let message = format!("unknown method {}", self.name);
        self.exception(&ApplicationError::new(ApplicationErrorKind::UnknownMethod, message))
    }

    fn result(&mut self, id: i16, value: &dyn Reply) -> thrift::Result<()> {
        write_result(self.name, self.sequence_number, id, value, self.output)
    }

    fn exception(&mut self, error: &ApplicationError) -> thrift::Result<()> {
        write_exception(self.name, self.sequence_number, error, self.output)
    }
}

/// The field of an exception in every result, if the interface declares it.
fn declared<'a>(exception: &'a (dyn std::error::Error + Send + Sync + 'static)) -> Option<(i16, &'a dyn Reply)> {
    fn of<'a, E: std::error::Error + Reply + 'static>(
        id: i16,
        exception: &'a (dyn std::error::Error + Send + Sync + 'static),
    ) -> Option<(i16, &'a dyn Reply)> {
        exception.downcast_ref::<E>().map(|exception| (id, exception as &dyn Reply))
    }
    of::<NotFound>(1, exception)
        .or_else(|| of::<NotReady>(2, exception))
        .or_else(|| of::<TooStale>(3, exception))
        .or_else(|| of::<InvalidRequest>(INVALID, exception))
        .or_else(|| of::<AccessDenied>(5, exception))
        .or_else(|| of::<NoMaster>(6, exception))
        .or_else(|| of::<CallFailed>(7, exception))
        .or_else(|| of::<CallTimedOut>(8, exception))
        .or_else(|| of::<Overloaded>(9, exception))
        .or_else(|| of::<NoInstance>(10, exception))
}

/// The field of `InvalidRequest`.
pub(super) const INVALID: i16 = 4;

fn write_struct(
    output: &mut dyn TOutputProtocol,
    write: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<()>,
) -> thrift::Result<()> {
    output.write_struct_begin(&TStructIdentifier { name: String::new() })?;
    write(output)?;
    output.write_field_stop()?;
    output.write_struct_end()
}

fn write_field(
    output: &mut dyn TOutputProtocol,
    field_type: TType,
    id: i16,
    write: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<()>,
) -> thrift::Result<()> {
    output.write_field_begin(&TFieldIdentifier { name: None, field_type, id: Some(id) })?;
    write(output)?;
    output.write_field_end()
}

/// Writes what a method returns, or an exception that it declares: the field `id` of its result.
pub(super) fn write_result(
    name: &str,
    sequence_number: i32,
    id: i16,
    value: &dyn Reply,
    output: &mut dyn TOutputProtocol,
) -> thrift::Result<()> {
    output.write_message_begin(&TMessageIdentifier::new(name, TMessageType::Reply, sequence_number))?;
    write_struct(output, |output| write_field(output, value.kind(), id, |output| value.write(output)))?;
    output.write_message_end()
}

pub(super) fn write_exception(
    name: &str,
    sequence_number: i32,
    error: &ApplicationError,
    output: &mut dyn TOutputProtocol,
) -> thrift::Result<()> {
    output.write_message_begin(&TMessageIdentifier::new(name, TMessageType::Exception, sequence_number))?;
    thrift::Error::write_application_error_to_out_protocol(error, output)?;
    output.write_message_end()
}
