//! Connections: one type to read from and write to, whatever the transport.

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

/// A long-lived connection that was silent for this long is probed.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How often to check whether a peer is gone that has closed its sending side, or has sent more than was read.
const LOOK: Duration = Duration::from_millis(200);

thread_local! {
    /// Shared, since opening it takes longer than a query.
    static PEERS: Peers = Peers::new();
}

/// A connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Boxed, so that it does not enlarge the others.
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

    /// Makes the kernel detect a TCP peer that vanished silently.
    pub fn keep_alive(&self) {
        let Self::Tcp(stream) = self else { return };
        let probes = socket2::TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE / 4);
        // Without keep-alive, it is noticed when something is sent.
        let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&probes);
    }

    /// Makes the kernel send nothing more over TCP once this is closed: what was given up must not arrive later.
    pub fn forget_unsent(&self) -> io::Result<()> {
        let stream = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
            Self::Unix(_) => return Ok(()),
        };
        socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))
    }

    /// Makes the kernel acknowledge what was read immediately, rather than with the next data.
    pub(crate) fn acknowledge(&self) {
        let stream = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
            Self::Unix(_) => return,
        };
        // Without it, the acknowledgment comes a little later.
        let _ = stream.set_quickack(true);
    }

    /// Waits until the peer is gone, even if what it sent has not been read. A peer that has only closed its sending
    /// side is not gone, and may wait for an answer.
    pub async fn gone(&self) {
        while !self.is_gone() {
            // There is no event when a peer goes that had closed its sending side before.
            tokio::time::sleep(LOOK).await;
        }
    }

    /// For a Unix socket, the kernel reports whether the peer has closed it, or only its sending side. Over TCP both
    /// look the same until something is sent, but for a peer on this machine the kernel knows whether its socket is
    /// still open.
    fn is_gone(&self) -> bool {
        match self {
            Self::Unix(stream) => is_hung_up(stream.as_fd()),
            Self::Tcp(stream) => is_hung_up(stream.as_fd()) || PEERS.with(|peers| peers.has_closed(stream)),
            Self::Tls(stream) => is_hung_up(stream.get_ref().0.as_fd()),
        }
    }

    /// Waits until the peer has sent something, or is gone.
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

/// The supplementary groups, a socket option that neither the standard library nor tokio supports.
#[allow(unsafe_code)]
pub(crate) fn groups_of(stream: &impl AsRawFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut bytes = size_of_val(groups.as_slice()) as libc::socklen_t;
        // Safety: the kernel writes at most `bytes` bytes, which `groups` has, and returns how many it would need.
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
            // A message contains its own end, so a connection may end without a TLS close.
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
