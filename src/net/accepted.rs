//! Accepted connections: what the kernel has accepted, and the runtime does not know yet.

use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{UnixCredentials, getsockopt, sockopt::PeerCredentials};

use super::Stream;
use super::stream::groups_of;

/// A connection of which it is not decided yet whether it is served: until then it costs no more than its descriptor.
#[derive(Debug)]
pub enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Accepted {
    /// The user and the process at the other end of a Unix socket.
    pub fn peer(&self) -> Option<UnixCredentials> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(stream) => getsockopt(stream, PeerCredentials).ok(),
        }
    }

    /// The supplementary groups of the process at the other end of a Unix socket.
    pub fn groups(&self) -> Vec<u32> {
        match self {
            Self::Tcp(_) => Vec::new(),
            Self::Unix(stream) => groups_of(stream).unwrap_or_default(),
        }
    }

    /// Lets the runtime know of it.
    pub fn into_stream(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(stream) => {
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
