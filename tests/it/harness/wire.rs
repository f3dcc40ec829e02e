//! Bytes on the line: messages as they are sent, and replies cut out of what comes.

use std::io::{Cursor, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use thrift::ApplicationError;
use thrift::protocol::{
    TFieldIdentifier, TMessageIdentifier, TMessageType, TOutputProtocol, TSerializable, TStructIdentifier, TType,
};

use super::{Dialect, Roster, SOON, read_some};
use crate::idl::GetRequest;

/// A connection over the Unix socket, without a client library.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: UnixStream,
    dialect: Dialect,
    received: Vec<u8>,
}

/// A message from the sidecar.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) message: TMessageIdentifier,
    /// If it is one.
    pub(crate) error: Option<ApplicationError>,
    pub(crate) bytes: Vec<u8>,
}

impl Roster {
    pub(crate) fn wire(&self, dialect: Dialect) -> Wire {
        let stream = UnixStream::connect(self.socket()).expect("the sidecar accepts");
        Wire { stream, dialect, received: Vec::new() }
    }
}

impl Wire {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the sidecar takes it");
    }

    /// Sends what the sidecar may refuse before it has come whole.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next reply.
    pub(crate) fn receive(&mut self) -> Reply {
        self.stream.set_read_timeout(Some(SOON)).expect("a time limit");
        loop {
            if let Some(reply) = self.cut() {
                return reply;
            }
            let mut bytes = [0; 4096];
            match read_some(&mut self.stream, &mut bytes).expect("a reply comes in time") {
                0 => panic!("closed after {:?}", self.received),
                length => self.received.extend(&bytes[..length]),
            }
        }
    }

    /// All that comes before the sidecar closes the connection.
    pub(crate) fn ends_within(mut self, limit: Duration) -> Vec<u8> {
        self.stream.set_read_timeout(Some(limit)).expect("a time limit");
        match self.stream.read_to_end(&mut self.received) {
            Ok(_) => self.received,
            // It had not read all that was sent.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.received,
            Err(error) => panic!("not closed, after {:?}: {error}", self.received),
        }
    }

    fn cut(&mut self) -> Option<Reply> {
        let mut bytes = Cursor::new(self.received.as_slice());
        let (message, error) = {
            let mut input = self.dialect.input(&mut bytes);
            let message = input.read_message_begin().ok()?;
            let error = match message.message_type {
                TMessageType::Exception => Some(thrift::Error::read_application_error_from_in_protocol(&mut *input)),
                _ => input.skip(TType::Struct).ok().map(|()| None)?,
            };
            (message, error.transpose().ok()?)
        };
        let rest = self.received.split_off(bytes.position() as usize);
        Some(Reply { message, error, bytes: std::mem::replace(&mut self.received, rest) })
    }
}

impl Dialect {
    /// A call of a method with this request.
    pub(crate) fn call(self, method: &str, number: i32, request: &impl TSerializable) -> Vec<u8> {
        self.written(method, number, |output| {
            output.write_field_begin(&TFieldIdentifier::new("request", TType::Struct, 1))?;
            request.write_to_out_protocol(output)?;
            output.write_field_end()
        })
    }

    /// A call without an argument.
    pub(crate) fn call_with_nothing(self, method: &str, number: i32) -> Vec<u8> {
        self.written(method, number, |_| Ok(()))
    }

    /// A call of `get`.
    pub(crate) fn get(self, number: i32, path: &str) -> Vec<u8> {
        self.call("get", number, &GetRequest::new(path.to_owned(), None))
    }

    fn written(
        self,
        method: &str,
        number: i32,
        arguments: impl Fn(&mut dyn TOutputProtocol) -> thrift::Result<()>,
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        let write = |output: &mut dyn TOutputProtocol| {
            output.write_message_begin(&TMessageIdentifier::new(method, TMessageType::Call, number))?;
            output.write_struct_begin(&TStructIdentifier::new("arguments"))?;
            arguments(output)?;
            output.write_field_stop()?;
            output.write_struct_end()?;
            output.write_message_end()?;
            output.flush()
        };
        write(&mut *self.output(&mut bytes)).expect("a vector takes it");
        bytes
    }
}
