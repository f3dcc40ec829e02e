//! The line between a sidecar and its ZooKeeper, which can be cut and swallow everything.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{free_port, runtime};

/// How much later the second half comes, where the line falters.
const LATE: Duration = Duration::from_millis(30);

/// How much comes at a time, and how long that takes, where the line is slow.
const SLOW: (usize, Duration) = (5 << 10, Duration::from_millis(50));

/// A name whose fourth byte can become another one on the way.
pub(crate) const ODD_NAME: &str = "odd-name-of-a-node";

/// A line to a server.
#[derive(Debug)]
pub(crate) struct Link {
    address: SocketAddr,
    state: watch::Sender<State>,
    /// How many bytes came through, in either direction.
    carried: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Whole,
    /// Every connection is closed.
    Cut,
    /// Nothing comes through, and nobody is told.
    Silent,
    /// All comes through late, and in two halves.
    Faltering,
    /// Little comes through at a time.
    Slow,
    /// The odd name comes through as one with this byte.
    Distorting(u8),
    Gone,
}

impl Link {
    pub(crate) fn to(server: String) -> Self {
        Self::at(Ipv4Addr::LOCALHOST, server)
    }

    /// One that begins at this address of the machine.
    pub(crate) fn at(address: Ipv4Addr, server: String) -> Self {
        let (state, watched) = watch::channel(State::Whole);
        // No port that another test gets while somebody still tries to come this way.
        let listener = runtime().block_on(TcpListener::bind((address, free_port()))).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let carried = Arc::default();
        runtime().spawn(accept(listener, server, watched, Arc::clone(&carried)));
        Self { address, state, carried }
    }

    /// How many bytes came through, in either direction.
    pub(crate) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    pub(crate) fn fall_silent(&self) {
        self.state.send_replace(State::Silent);
    }

    pub(crate) fn falter(&self) {
        self.state.send_replace(State::Faltering);
    }

    /// It carries 100 KiB a second.
    pub(crate) fn slow_down(&self) {
        self.state.send_replace(State::Slow);
    }

    /// The odd name has this byte from now on, for who reads it over this line.
    pub(crate) fn distort(&self, byte: u8) {
        self.state.send_replace(State::Distorting(byte));
    }

    pub(crate) fn mend(&self) {
        self.state.send_replace(State::Whole);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.send_replace(State::Gone);
    }
}

async fn accept(listener: TcpListener, server: String, state: watch::Receiver<State>, carried: Arc<AtomicU64>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = until(state.clone(), |state| state == State::Gone) => return,
        };
        if let Ok((client, _)) = accepted {
            tokio::spawn(carry(client, server.clone(), state.clone(), carried.clone()));
        }
    }
}

async fn carry(client: TcpStream, server: String, state: watch::Receiver<State>, carried: Arc<AtomicU64>) {
    until(state.clone(), |state| state != State::Silent).await;
    let Ok(server) = TcpStream::connect(server).await else { return };
    // A line keeps nothing back.
    for end in [&client, &server] {
        let _ = end.set_nodelay(true);
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        biased;
        () = until(state.clone(), |state| matches!(state, State::Cut | State::Gone)) => {}
        () = pump(from_client, to_server, state.clone(), &carried) => {}
        () = pump(from_server, to_client, state, &carried) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    state: watch::Receiver<State>,
    carried: &AtomicU64,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        carried.fetch_add(length as u64, Ordering::Relaxed);
        until(state.clone(), |state| state != State::Silent).await;
        if *state.borrow() == State::Slow {
            for piece in buffer[..length].chunks(SLOW.0) {
                tokio::time::sleep(SLOW.1).await;
                if to.write_all(piece).await.is_err() {
                    return;
                }
            }
            continue;
        }
        if let State::Distorting(byte) = *state.borrow() {
            distort(&mut buffer[..length], byte);
        }
        let is_faltering = *state.borrow() == State::Faltering;
        let (half, rest) = buffer[..length].split_at(if is_faltering { length / 2 } else { length });
        if to.write_all(half).await.is_err() {
            return;
        }
        if is_faltering {
            tokio::time::sleep(LATE).await;
            if to.write_all(rest).await.is_err() {
                return;
            }
        }
    }
}

/// Such a name stands in short messages, which come at once.
fn distort(bytes: &mut [u8], byte: u8) {
    for at in 0..bytes.len().saturating_sub(ODD_NAME.len() - 1) {
        if bytes[at..].starts_with(ODD_NAME.as_bytes()) {
            bytes[at + 3] = byte;
        }
    }
}

async fn until(mut state: watch::Receiver<State>, reached: impl Fn(State) -> bool) {
    // An error means that the link is gone.
    let _ = state.wait_for(|state| reached(*state)).await;
}
