//! Passing connections: the sidecar accepts them, and hands each to a process that is ready, over a socket that the
//! process inherited.
//!
//! Each comes in one message with its descriptor (`SCM_RIGHTS`), beside an object of JSON: `{"listener", "peer"}`. A
//! process that is to end gets no more and then the end of the stream, so that it serves all that it was handed.

use std::collections::VecDeque;
use std::future::pending;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use futures::future::select_all;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::net::{Accepted, Listener, Peer};
use crate::task::{Stop, Tasks};

/// How many connections may wait until a process takes one.
pub(super) const MAX_WAITING: usize = 1_024;

/// How long each may wait, and how often it is told that some did so in vain.
const MAX_WAIT: Duration = Duration::from_secs(30);
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

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
    /// How many were closed, since too many waited, or since they waited for too long.
    closed: u64,
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
    since: Instant,
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
                self.take(connection);
            }
        });
        if let Err(error) = accepted.await {
            tracing::error!(listener = name, %error, "cannot accept connections for a worker");
        }
    }

    /// Hands a connection to a process, or has it wait for one that has room; where too many do, it is closed.
    fn take(&self, connection: Connection) {
        let mut state = self.state();
        let passed = if state.waiting.is_empty() { state.pass(connection, self.balance) } else { Err(connection) };
        let Err(connection) = passed else { return };
        if state.waiting.len() < MAX_WAITING {
            state.waiting.push_back(connection);
            self.changed.notify_one();
        } else {
            state.closed += 1;
            self.changed.notify_one();
        }
    }

    /// How many connections wait for a process, and how many were closed because none took them.
    pub(super) fn counts(&self) -> (usize, u64) {
        let state = self.state();
        (state.waiting.len(), state.closed)
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
        let (mut reported, mut next_report) = (0, Instant::now());
        loop {
            let changed = self.changed.notified();
            let now = Instant::now();
            let (takers, oldest, closed) = {
                let mut state = self.state();
                state.pass_all(self.balance, now);
                (state.takers.clone(), state.waiting.front().map(|connection| connection.since), state.closed)
            };
            if closed > reported && now >= next_report {
                let count = closed - reported;
                tracing::warn!(worker = group, count, "connections were closed: no process took them in time");
                (reported, next_report) = (closed, now + REPORT_INTERVAL);
            }
            let due = [oldest.map(|since| since + MAX_WAIT), (closed > reported).then_some(next_report)];
            let due = due.into_iter().flatten().min();
            let is_due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            let has_room = async {
                if oldest.is_none() || takers.is_empty() {
                    return pending().await;
                }
                let _ = select_all(takers.iter().map(|taker| Box::pin(taker.socket.writable()))).await;
            };
            tokio::select! {
                () = has_room => {}
                () = is_due => {}
                () = changed => {}
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Passes on what there is room for, and closes what has waited for too long.
    fn pass_all(&mut self, balance: Balance, now: Instant) {
        while let Some(connection) = self.waiting.pop_front() {
            if let Err(connection) = self.pass(connection, balance) {
                self.waiting.push_front(connection);
                break;
            }
        }
        let late = self.waiting.iter().take_while(|connection| connection.since + MAX_WAIT <= now).count();
        self.waiting.drain(..late);
        self.closed += late as u64;
    }

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
        let (about, client) = (about.into_bytes(), client.finish());
        Some(Self { socket: accepted.into_descriptor(), about, client, since: Instant::now() })
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
        (Connection { socket: socket.into(), about: b"{}".to_vec(), client: 0, since: Instant::now() }, client)
    }

    #[tokio::test]
    async fn a_connection_is_handed_on_at_once_where_there_is_room_and_none_waits() {
        let passing = Passing::new(Balance::RoundRobin);
        passing.take(connection().0);
        let (socket, _open) = pair().expect("a pair");
        socket.writable().await.expect("a socket");
        passing.add(1, socket);
        passing.take(connection().0);
        assert_eq!(passing.state().waiting.len(), 2, "behind the one that waited");
        passing.state().waiting.clear();
        passing.take(connection().0);
        assert_eq!(passing.state().waiting.len(), 0);
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

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_for_a_process_is_let_go_and_counted() {
        let passing = Passing::new(Balance::RoundRobin);
        let until = async |moment: Instant| {
            tokio::select! {
                () = passing.pass_all("web") => {}
                () = sleep_until(moment) => {}
            }
        };
        let begun = Instant::now();
        let (early, mut first) = connection();
        passing.take(early);
        until(begun + MAX_WAIT / 2).await;
        let (late, second) = connection();
        passing.take(late);
        assert_eq!(passing.counts(), (2, 0));
        until(begun + MAX_WAIT + Duration::from_millis(1)).await;
        assert_eq!((passing.counts(), first.read(&mut [0; 1]).expect("an end")), ((1, 1), 0));
        second.set_nonblocking(true).expect("a socket");
        assert_eq!((&second).read(&mut [0; 1]).expect_err("it waits").kind(), io::ErrorKind::WouldBlock);
        for _ in 0..MAX_WAITING {
            passing.take(connection().0);
        }
        assert_eq!(passing.counts(), (MAX_WAITING, 2), "no more than these wait");
    }
}
