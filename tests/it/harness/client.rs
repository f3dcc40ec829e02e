//! Rust's generated client, in every dialect.

use std::io::{BufReader, BufWriter, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TCompactInputProtocol, TCompactOutputProtocol, TInputProtocol,
    TOutputProtocol,
};
use thrift::transport::{TFramedReadTransport, TFramedWriteTransport};

use super::SOON;
use crate::idl::{RosterSyncClient, ServiceQuery};

pub(crate) type Client = RosterSyncClient<Box<dyn TInputProtocol>, Box<dyn TOutputProtocol>>;

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) compact: bool,
    pub(crate) framed: bool,
}

impl Dialect {
    pub(crate) const ALL: [Dialect; 4] = [
        Dialect { compact: false, framed: false },
        Dialect { compact: false, framed: true },
        Dialect { compact: true, framed: false },
        Dialect { compact: true, framed: true },
    ];

    pub(crate) fn unix(self, path: &Path) -> thrift::Result<Client> {
        self.unix_within(path, SOON * 2)
    }

    /// One that waits so long for each answer.
    pub(crate) fn unix_within(self, path: &Path, patience: Duration) -> thrift::Result<Client> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(patience))?;
        Ok(self.client(stream.try_clone()?, stream))
    }

    pub(crate) fn tcp(self, port: u16) -> thrift::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(SOON * 2))?;
        Ok(self.client(stream.try_clone()?, stream))
    }

    fn client(self, from: impl Read + 'static, to: impl Write + 'static) -> Client {
        Client::new(self.input(BufReader::new(from)), self.output(BufWriter::new(to)))
    }

    /// Reads no further than to the end of each message.
    pub(crate) fn input<'a>(self, from: impl Read + 'a) -> Box<dyn TInputProtocol + 'a> {
        match (self.compact, self.framed) {
            (false, false) => Box::new(TBinaryInputProtocol::new(from, true)),
            (false, true) => Box::new(TBinaryInputProtocol::new(TFramedReadTransport::new(from), true)),
            (true, false) => Box::new(TCompactInputProtocol::new(from)),
            (true, true) => Box::new(TCompactInputProtocol::new(TFramedReadTransport::new(from))),
        }
    }

    pub(crate) fn output<'a>(self, to: impl Write + 'a) -> Box<dyn TOutputProtocol + 'a> {
        match (self.compact, self.framed) {
            (false, false) => Box::new(TBinaryOutputProtocol::new(to, true)),
            (false, true) => Box::new(TBinaryOutputProtocol::new(TFramedWriteTransport::new(to), true)),
            (true, false) => Box::new(TCompactOutputProtocol::new(to)),
            (true, true) => Box::new(TCompactOutputProtocol::new(TFramedWriteTransport::new(to))),
        }
    }
}

/// The instances of a service, and the masters and services of its name.
pub(crate) fn offering(service: &str) -> ServiceQuery {
    ServiceQuery { service_name: Some(service.to_owned()), ..ServiceQuery::default() }
}

/// The exception that an answer is.
pub(crate) fn exception<E: std::error::Error + Clone + 'static>(
    answer: thrift::Result<impl std::fmt::Debug>,
) -> Result<E, String> {
    match answer {
        Err(thrift::Error::User(exception)) if exception.is::<E>() => {
            Ok(exception.downcast_ref::<E>().cloned().expect("it was looked at"))
        }
        other => Err(format!("another answer: {other:?}")),
    }
}
