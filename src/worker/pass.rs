//! Passing connections: the sidecar accepts them, and hands each to a process that is ready, over a socket that the
//! process inherited.
//!
//! Each comes in one message with its descriptor (`SCM_RIGHTS`), beside an object of JSON: `{"listener", "peer"}`. A
//! process that is to end gets no more and then the end of the stream, so that it serves all that it was handed.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use futures::future::select_all;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::Notify;

use crate::net::{Accepted, Listener, Peer};
use crate::task::{Stop, Tasks};

/// How many connections may wait until a process takes one.
pub(super) const MAX_WAITING: usize = 1_024;

/// How many bytes may be on their way to one process: few connections, since those are lost if it is killed.
const SEND_BUFFER_BYTES: usize = 4 * 1024;

/// Which process a connection goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// One after the other.
    RoundRobin,
    /// The same for the same address of a client, for as long as the processes are the same.
    ClientAddress,
}

/// The connections of one group, and the processes that take them.
#[derive(Debug)]
pub(super) struct Passing {
    balance: Balance,
    started: Once,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    takers: Vec<Taker>,
    next: usize,
    waiting: VecDeque<Connection>,
    /// How many were closed, since too many waited.
    refused: u64,
}

#[derive(Clone, Debug)]
struct Taker {
    pid: i32,
    socket: Arc<UnixStream>,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    about: Vec<u8>,
    client: u64,
}

impl Passing {
    pub(super) fn new(balance: Balance) -> Arc<Self> {
        Arc::new(Self { balance, started: Once::new(), state: Mutex::default(), changed: Notify::new() })
    }

    /// Accepts from these listeners and passes on what comes, until the stop; unless it does already.
    pub(super) fn start(self: &Arc<Self>, group: &str, listeners: &[(String, Listener)], tasks: &Tasks) {
        self.started.call_once(|| {
            for (name, listener) in listeners {
                let (passing, stop) = (self.clone(), tasks.stop_signal());
                let (name, listener) = (name.clone(), listener.clone());
                tasks.short(async move { passing.accept(&name, &listener, &stop).await });
            }
            let (passing, stop, group) = (self.clone(), tasks.stop_signal(), group.to_owned());
            tasks.short(async move {
                tokio::select! {
                    () = passing.pass_all(&group) => {}
                    () = stop.requested() => {}
                }
            });
        });
    }

    async fn accept(&self, name: &str, listener: &Listener, stop: &Stop) {
        let accepted = listener.accept(stop, |accepted| {
            if let Some(connection) = Connection::new(name, accepted) {
                self.wait(connection);
            }
        });
        if let Err(error) = accepted.await {
            tracing::error!(listener = name, %error, "cannot accept connections for a worker");
        }
    }

    /// Has a connection wait for a process; where too many do, it is closed.
    fn wait(&self, connection: Connection) {
        let mut state = self.state();
        if state.waiting.len() < MAX_WAITING {
            state.waiting.push_back(connection);
            self.changed.notify_one();
        } else {
            state.refused += 1;
        }
    }

    /// A process that is ready takes its share from now on.
    pub(super) fn add(&self, pid: i32, socket: Arc<UnixStream>) {
        self.state().takers.push(Taker { pid, socket });
        self.changed.notify_one();
    }

    /// A process takes no more.
    pub(super) fn remove(&self, pid: i32) {
        self.state().takers.retain(|taker| taker.pid != pid);
        // Who waits until it has room lets it go.
        self.changed.notify_one();
    }

    async fn pass_all(&self, group: &str) {
        let mut reported = 0;
        loop {
            let refused = self.state().refused;
            if refused > reported && self.state().waiting.is_empty() {
                tracing::warn!(
                    worker = group,
                    refused = refused - reported,
                    "connections were closed: no process took them"
                );
                reported = refused;
            }
            let (waits, takers) = {
                let mut state = self.state();
                while let Some(connection) = state.waiting.pop_front() {
                    if let Err(connection) = state.pass(connection, self.balance) {
                        state.waiting.push_front(connection);
                        break;
                    }
                }
                (!state.waiting.is_empty(), state.takers.clone())
            };
            let changed = self.changed.notified();
            if !waits || takers.is_empty() {
                changed.await;
                continue;
            }
            let writable = takers.iter().map(|taker| Box::pin(taker.socket.writable()));
            tokio::select! {
                _ = select_all(writable) => {}
                () = changed => {}
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Passes a connection to a process that has room for it, or gives it back.
    fn pass(&mut self, connection: Connection, balance: Balance) -> Result<(), Connection> {
        let count = self.takers.len();
        let first = match balance {
            Balance::RoundRobin => self.next,
            Balance::ClientAddress => connection.client as usize,
        };
        let mut gone = Vec::new();
        let taken = (0..count).map(|step| first.wrapping_add(step) % count).find(|place| {
            let taken = self.takers[*place].take(&connection);
            if taken.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
                gone.push(self.takers[*place].pid);
            }
            taken.is_ok()
        });
        self.next = taken.map_or(self.next, |place| place + 1);
        // One that has closed its socket is always ready for more.
        self.takers.retain(|taker| !gone.contains(&taker.pid));
        taken.map(drop).ok_or(connection)
    }
}

impl Taker {
    fn take(&self, connection: &Connection) -> io::Result<()> {
        self.socket.try_io(Interest::WRITABLE, || {
            let rights = [connection.socket.as_raw_fd()];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let about = [IoSlice::new(&connection.about)];
            sendmsg::<()>(self.socket.as_raw_fd(), &about, &[ControlMessage::ScmRights(&rights)], flags, None)?;
            Ok(())
        })
    }
}

impl Connection {
    /// None: it is gone already.
    fn new(listener: &str, accepted: Accepted) -> Option<Self> {
        let peer = accepted.peer()?;
        let about = serde_json::json!({ "listener": listener, "peer": peer.to_string() }).to_string();
        let mut client = DefaultHasher::new();
        match peer {
            Peer::Tcp(address) => address.ip().hash(&mut client),
            Peer::Unix { uid, .. } => uid.hash(&mut client),
        }
        Some(Self { socket: accepted.into_descriptor(), about: about.into_bytes(), client: client.finish() })
    }
}

/// The sidecar's end of the socket over which a process is handed connections, and the process's.
pub(super) fn pair() -> io::Result<(Arc<UnixStream>, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    socket2::SockRef::from(&ours).set_send_buffer_size(SEND_BUFFER_BYTES)?;
    ours.set_nonblocking(true)?;
    Ok((Arc::new(UnixStream::from_std(ours)?), theirs.into()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn connection() -> (Connection, std::os::unix::net::UnixStream) {
        let (client, socket) = std::os::unix::net::UnixStream::pair().expect("a pair");
        (Connection { socket: socket.into(), about: b"{}".to_vec(), client: 0 }, client)
    }

    #[tokio::test]
    async fn who_has_closed_its_socket_takes_no_more_and_keeps_nobody_from_it() {
        let mut state = State::default();
        let (gone, closed) = pair().expect("a pair");
        let (lives, open) = pair().expect("a pair");
        drop(closed);
        for (pid, socket) in [(1, gone), (2, lives)] {
            socket.writable().await.expect("a socket");
            state.takers.push(Taker { pid, socket });
        }
        let (passed, mut client) = connection();
        state.pass(passed, Balance::RoundRobin).expect("the other takes it");
        assert_eq!(state.takers.iter().map(|taker| taker.pid).collect::<Vec<_>>(), [2]);
        drop((state, open));
        // With whoever had it, the connection is gone too.
        assert_eq!(client.read(&mut [0; 1]).expect("an end"), 0);
    }
}
