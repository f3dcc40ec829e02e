//! Accepted connections that are not registered with the runtime yet.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use crate::stream::groups_of;
use crate::{Peer, Stream};

/// A connection that may or may not be served: until that is decided, it costs no more than its descriptor.
#[derive(Debug)]
pub enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Accepted {
    /// The other end; none: the kernel does not report it.
    pub fn peer(&self) -> Option<Peer> {
        match self {
            Self::Tcp(_, address) => Some(Peer::Tcp(*address)),
            Self::Unix(stream) => Peer::by_unix(stream),
        }
    }

    /// The supplementary groups of the process at the other end of a Unix socket.
    pub fn groups(&self) -> Vec<u32> {
        match self {
            Self::Tcp(..) => Vec::new(),
            Self::Unix(stream) => groups_of(stream).unwrap_or_default(),
        }
    }

    /// For another process, which expects a blocking one.
    pub fn into_descriptor(self) -> OwnedFd {
        match self {
            Self::Tcp(stream, _) => stream.into(),
            Self::Unix(stream) => stream.into(),
        }
    }

    /// Registers it with the runtime.
    pub fn into_stream(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(stream, _) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream.try_into()?)
            }
            Self::Unix(stream) => {
                stream.set_nonblocking(true)?;
                Stream::Unix(stream.try_into()?)
            }
        })
    }
}
