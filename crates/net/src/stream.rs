//! Connections: whatever carries them, one type to read from and write to.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use crate::Peers;

/// A long-lived connection on which nothing came for this long is probed.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How often it is looked whether a peer is gone that sends no more, or more than is read.
const LOOK: Duration = Duration::from_millis(200);

thread_local! {
    /// To open one takes longer than a question.
    static PEERS: Peers = Peers::new();
}

/// A connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Behind a pointer, so that the others are no larger for it.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The supplementary groups of the process at the other end of a Unix socket.
    pub fn groups(&self) -> Vec<u32> {
        match self {
            Self::Tcp(_) | Self::Tls(_) => Vec::new(),
            Self::Unix(stream) => groups_of(stream).unwrap_or_default(),
        }
    }

    /// Has the kernel notice a peer over TCP that vanished without a word.
    pub fn keep_alive(&self) {
        let Self::Tcp(stream) = self else { return };
        let probes = socket2::TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE / 4);
        // Without them, it is noticed when something is sent.
        let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&probes);
    }

    /// Has the kernel acknowledge what was read, and not only with what is sent next.
    pub(crate) fn acknowledge(&self) {
        let stream = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
            Self::Unix(_) => return,
        };
        // Without it, it is acknowledged a little later.
        let _ = stream.set_quickack(true);
    }

    /// Waits until the peer is gone, also where what it said before has not been read. Who only sends no more is there,
    /// and may wait for an answer.
    pub async fn gone(&self) {
        while !self.is_gone() {
            // Nothing wakes us when a peer goes that had said before that it sends no more.
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Over a Unix socket, the kernel says whether the peer has closed, or only sends no more. Over TCP both look the
    /// same until something is sent, but of a peer on this machine the kernel knows whether anybody still has its
    /// socket.
    fn is_gone(&self) -> bool {
        match self {
            Self::Unix(stream) => is_hung_up(stream.as_fd()),
            Self::Tcp(stream) => is_hung_up(stream.as_fd()) || PEERS.with(|peers| peers.has_closed(stream)),
            Self::Tls(stream) => is_hung_up(stream.get_ref().0.as_fd()),
        }
    }

    /// Waits until the peer has said something, or is gone.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
            Self::Tls(stream) => stream.get_ref().0.readable().await,
        }
    }
}

/// Whether both directions are closed, or the connection broke.
fn is_hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut sockets = [PollFd::new(socket, PollFlags::empty())];
    poll(&mut sockets, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// What neither the standard library nor tokio asks of a socket.
#[allow(unsafe_code)]
pub(crate) fn groups_of(stream: &impl AsRawFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut bytes = size_of_val(groups.as_slice()) as libc::socklen_t;
        // Safety: the kernel writes at most `bytes` bytes there, which `groups` has, and says how many it would need.
        let code = unsafe {
            let to = groups.as_mut_ptr().cast();
            libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS, to, &mut bytes)
        };
        let error = io::Error::last_os_error();
        groups.resize(bytes as usize / size_of::<u32>(), 0);
        match code {
            0 => return Ok(groups),
            _ if error.raw_os_error() == Some(libc::ERANGE) => {}
            _ => return Err(error),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, into),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, into),
            // A message says itself where it ends, so an end needs no goodbye.
            Self::Tls(stream) => match Pin::new(stream).poll_read(context, into) {
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                other => other,
            },
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
