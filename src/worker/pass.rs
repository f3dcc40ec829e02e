//! Passing connections: the sidecar accepts them, and hands each to a ready process, over a socket that the process
//! inherited.
//!
//! Each arrives in one message with its descriptor (`SCM_RIGHTS`) and a JSON object: `{"listener", "peer"}`. A process
//! that is to end gets no more and then the end of the stream, so that it serves all that it was handed. If the object
//! contains `"report"`, the process writes a byte back for each finished connection.
//!
//! What a client has sent is not read here. So a silent client delays nobody, and its bytes are copied once.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, IoSlice};
use std::ops::Not;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use futures::future::{Either, select_all};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Instant, sleep};

use super::config::Config;
use super::launch::{Identity, give_to};
use crate::metrics::{Counter, Metrics};
use crate::net::{Accepted, Listener, Peer, Setting, SharedSocket, refuse_descriptors};
use crate::permissions::Permissions;
use crate::task::{Stop, Tasks};
use crate::tunnel::worker::CallsUnderWay;

/// How many connections of a group may wait for a process, if there are enough descriptors.
pub(super) const MAX_WAITING: usize = 1_024;

/// How long each may wait.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How often to look for those that have waited too long, or whose client is gone.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The same when there is no room for a new one.
const CROWDED_LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How soon to retry passing one on when the machine was short of a resource.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// The minimum interval between log lines about closed connections.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// How many bytes may be in flight to one process: few connections, since those are lost if it is killed.
const SEND_BUFFER_BYTES: usize = 4 * 1024;

/// How to choose the process for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest unfinished connections: a process serving a slow client gets no others meanwhile.
    Fewest,
    /// The same process for the same client address, as long as the processes stay the same.
    ClientAddress,
}

/// The connections of one group, and the processes that take them.
#[derive(Debug)]
pub(super) struct Passing {
    balance: Balance,
    max_waiting: usize,
    /// For those that wait, those that were refused and are still open, and the next one.
    descriptors: Arc<Semaphore>,
    started: Once,
    /// Until when connections are accepted, and passed on.
    accepting: Stop,
    passing: Stop,
    state: Mutex<State>,
    changed: Notify,
    /// How many were closed because no process took them in time.
    refused: Counter,
}

#[derive(Debug, Default)]
struct State {
    takers: Vec<Taker>,
    next: usize,
    waiting: VecDeque<Connection>,
    /// When the last check for gone clients was.
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Taker {
    pid: i32,
    socket: Arc<SharedSocket>,
    /// Its user, unless that is the sidecar's own.
    identity: Option<Identity>,
    /// Counts what it was handed.
    calls: Arc<CallsUnderWay>,
    /// Signals that it has closed its socket.
    gone: oneshot::Sender<()>,
    /// How many it has not reported as finished, if it reports at all,
    under_way: usize,
    has_reported: bool,
    /// and since when it has been at the first of them.
    since: Instant,
}

impl Taker {
    fn new(
        pid: i32,
        socket: Arc<SharedSocket>,
        identity: Option<Identity>,
        calls: Arc<CallsUnderWay>,
        gone: oneshot::Sender<()>,
    ) -> Self {
        Self { pid, socket, identity, calls, gone, under_way: 0, has_reported: false, since: Instant::now() }
    }
}

#[derive(Debug)]
struct Connection {
    /// Over a Unix socket, its client may have sent descriptors whose close takes long.
    socket: SharedSocket,
    about: Vec<u8>,
    client: u64,
    since: Instant,
}

/// Why a connection was not passed on.
#[derive(Debug)]
enum NotPassed {
    /// No process has room for it.
    NoRoom,
    /// The machine is short of a resource, and no process can be handed anything now.
    Short(io::Error),
}

impl Passing {
    pub(super) fn new(balance: Balance, max_waiting: usize, stop: &Stop) -> Arc<Self> {
        Arc::new(Self {
            balance,
            max_waiting,
            descriptors: Arc::new(Semaphore::new(max_waiting + 1)),
            started: Once::new(),
            accepting: stop.child(),
            passing: stop.child(),
            state: Mutex::default(),
            changed: Notify::new(),
            refused: Counter::default(),
        })
    }

    /// Accepts on these listeners and passes connections on, until the stop; unless it does already.
    pub(super) fn start(
        self: &Arc<Self>,
        config: &Config,
        listeners: &[(String, Listener)],
        metrics: &Arc<Metrics>,
        tasks: &Tasks,
    ) {
        self.started.call_once(|| {
            let permissions = Permissions::new(config.socket_mode, &config.socket_group);
            for (nth, (name, listener)) in listeners.iter().enumerate() {
                let setting = Setting::of_worker(&config.name, format!("listen.{nth}")).to_string();
                let (passing, group, name) = (self.clone(), config.name.clone(), name.clone());
                let (mut listener, metrics, permissions) = (listener.clone(), metrics.clone(), permissions.clone());
                tasks.short(async move {
                    let stop = &passing.accepting;
                    while let Some(anew) = tokio::select! {
                        () = passing.accept(&group, &name, &listener) => None,
                        anew = listener.when_removed(&setting, &permissions, &metrics, stop) => anew,
                    } {
                        std::mem::replace(&mut listener, anew).drop_elsewhere().await;
                    }
                    listener.drop_elsewhere().await;
                });
            }
            let (passing, stop, group) = (self.clone(), self.passing.clone(), config.name.clone());
            tasks.short(async move {
                tokio::select! {
                    () = passing.pass_all(&group) => {}
                    () = stop.requested() => {}
                }
            });
        });
    }

    async fn accept(&self, group: &str, name: &str, listener: &Listener) {
        let take = |accepted| {
            let connection = Connection::new(name, accepted, self.balance);
            async move {
                if let Some(connection) = connection {
                    self.take(group, connection).await;
                }
            }
        };
        listener.accept_in_turn(&self.accepting, take).await;
    }

    /// Hands a connection to a process, or queues it for one with room; if too many are queued, even after removing
    /// those whose client is gone, it is closed. This waits while too many are to be closed.
    async fn take(&self, group: &str, mut connection: Connection) {
        if self.state().pass_at_once(&connection, group, self.balance) {
            return connection.socket.close_here();
        }
        if let Ok(descriptor) = self.descriptors.clone().acquire_owned().await {
            connection.socket.hold(descriptor);
        }
        let mut state = self.state();
        if state.waiting.is_empty() {
            // The others wait already.
            self.changed.notify_one();
        }
        if state.waiting.len() >= self.max_waiting {
            state.let_go_of_gone(CROWDED_LOOK_INTERVAL, Connection::may_be_gone);
        }
        if state.waiting.len() < self.max_waiting {
            state.waiting.push_back(connection);
        } else {
            self.refused.increment();
        }
    }

    /// From now on a ready process takes its share; connections are given to its user. The receiver is signalled once
    /// the process has closed its socket.
    pub(super) fn add(
        &self,
        pid: i32,
        socket: Arc<SharedSocket>,
        identity: Option<Identity>,
        calls: Arc<CallsUnderWay>,
    ) -> oneshot::Receiver<()> {
        let (gone, told) = oneshot::channel();
        self.state().takers.push(Taker::new(pid, socket, identity, calls, gone));
        self.changed.notify_one();
        told
    }

    /// A process takes no more.
    pub(super) fn remove(&self, socket: &Arc<SharedSocket>) {
        self.state().takers.retain(|taker| !Arc::ptr_eq(&taker.socket, socket));
        // The task that waits until it has room drops it.
        self.changed.notify_one();
    }

    /// Accepts no more; queued connections are still passed on.
    pub(super) fn close(&self) {
        self.accepting.request();
    }

    /// Passes nothing on any more.
    pub(super) fn end(&self) {
        self.passing.request();
    }

    /// How many are queued, and how many were closed because no process took them.
    pub(super) fn counts(&self) -> (usize, u64) {
        (self.state().waiting.len(), self.refused.get())
    }

    async fn pass_all(&self, group: &str) {
        let (mut reported, mut report_at) = (0, Instant::now());
        let mut is_short = false;
        loop {
            let (waits, sockets, short) = {
                let mut state = self.state();
                state.let_go_of_gone(LOOK_INTERVAL, Connection::is_gone);
                self.refused.add(state.let_go_of_old());
                let short = state.pass_on(group, self.balance);
                let sockets: Vec<_> = state.takers.iter().map(|taker| taker.socket.clone()).collect();
                (!state.waiting.is_empty(), sockets, short)
            };
            match &short {
                Some(error) if !is_short => {
                    tracing::error!(worker = group, %error, "cannot hand connections to a worker; trying again");
                }
                _ => {}
            }
            is_short = short.is_some();
            let refused = self.refused.get();
            if refused > reported && Instant::now() >= report_at {
                let refused = refused - std::mem::replace(&mut reported, refused);
                tracing::warn!(worker = group, refused, "connections were closed: no process took them in time");
                report_at = Instant::now() + REPORT_INTERVAL;
            }
            let look_again = async {
                match is_short {
                    true => sleep(RETRY_DELAY).await,
                    false if waits || refused > reported => sleep(LOOK_INTERVAL).await,
                    false => std::future::pending().await,
                }
            };
            let writable = match waits && !is_short && !sockets.is_empty() {
                true => Either::Left(select_all(sockets.into_iter().map(|socket| Box::pin(has_room(socket))))),
                false => Either::Right(std::future::pending()),
            };
            let mut look_again = pin!(look_again);
            tokio::select! {
                _ = writable => {}
                () = self.changed.notified(), if !is_short => {}
                () = &mut look_again => {}
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Passes on one that has come, unless others wait already, or no process has room. Whether it did.
    fn pass_at_once(&mut self, connection: &Connection, group: &str, balance: Balance) -> bool {
        self.waiting.is_empty() && self.pass(connection, group, balance).is_ok()
    }

    /// Passes on queued ones while there is room; returns a shortage of the machine, if any.
    fn pass_on(&mut self, group: &str, balance: Balance) -> Option<io::Error> {
        while let Some(connection) = self.waiting.pop_front() {
            match self.pass(&connection, group, balance) {
                Ok(()) => connection.socket.close_here(),
                Err(why) => {
                    self.waiting.push_front(connection);
                    return match why {
                        NotPassed::NoRoom => None,
                        NotPassed::Short(error) => Some(error),
                    };
                }
            }
        }
        None
    }

    /// Passes a connection to a process that has room for it.
    fn pass(&mut self, connection: &Connection, group: &str, balance: Balance) -> Result<(), NotPassed> {
        let count = self.takers.len();
        let first = match balance {
            Balance::RoundRobin | Balance::Fewest => self.next,
            Balance::ClientAddress => connection.client as usize,
        };
        let mut places: Vec<usize> = (0..count).map(|step| first.wrapping_add(step) % count).collect();
        if balance == Balance::Fewest {
            self.takers.iter_mut().for_each(Taker::hear);
            // With programs that report nothing, a new one would be handed everything.
            if self.takers.iter().any(|taker| taker.has_reported) {
                places.sort_by_key(|place| self.takers[*place].burden());
            }
        }
        let (mut gone, mut why) = (Vec::new(), NotPassed::NoRoom);
        let taken = places.into_iter().find(|place| {
            let taker = &mut self.takers[*place];
            let Err(error) = taker.take(connection) else { return true };
            match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => gone.push(taker.pid),
                _ if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => why = NotPassed::Short(error),
            }
            false
        });
        self.next = taken.map_or(self.next, |place| place + 1);
        // If it has closed its socket, that is always writable.
        for Taker { pid, gone, .. } in self.takers.extract_if(.., |taker| gone.contains(&taker.pid)) {
            let what = "a process has closed the socket over which it is handed connections, and gets no more";
            tracing::warn!(worker = group, pid, "{what}");
            // It may be ending.
            let _ = gone.send(());
        }
        taken.map(drop).ok_or(why)
    }

    /// Closes those that have waited too long; returns their number.
    fn let_go_of_old(&mut self) -> u64 {
        let old = self.waiting.iter().take_while(|connection| connection.since.elapsed() >= MAX_WAIT).count();
        self.waiting.drain(..old);
        old as u64
    }

    /// Closes those whose client is gone, unless that was checked within this time.
    fn let_go_of_gone(&mut self, interval: Duration, is_gone: fn(&Connection) -> bool) {
        if self.looked.is_none_or(|looked| looked.elapsed() >= interval) {
            self.waiting.retain(|connection| !is_gone(connection));
            self.looked = Some(Instant::now());
        }
    }
}

impl Taker {
    /// Reads its reports about finished connections.
    fn hear(&mut self) {
        let mut reports = [0; 256];
        while self.under_way > 0
            && let Ok(count @ 1..) = recv(self.socket.as_raw_fd(), &mut reports, MsgFlags::MSG_DONTWAIT)
        {
            self.under_way = self.under_way.saturating_sub(count);
            (self.has_reported, self.since) = (true, Instant::now());
        }
    }

    /// Its load: of two with the same number, the one that finished a connection more recently will be done sooner.
    fn burden(&self) -> (usize, Reverse<Option<Instant>>) {
        (self.under_way, Reverse(Some(self.since).filter(|_| self.under_way > 0)))
    }

    fn take(&mut self, connection: &Connection) -> io::Result<()> {
        give_to(self.identity.as_ref(), [connection.socket.as_fd()])?;
        let rights = [connection.socket.as_raw_fd()];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let about = [IoSlice::new(&connection.about)];
        sendmsg::<()>(self.socket.as_raw_fd(), &about, &[ControlMessage::ScmRights(&rights)], flags, None)?;
        if self.under_way == 0 {
            self.since = Instant::now();
        }
        self.under_way += 1;
        self.calls.count();
        Ok(())
    }
}

/// What a process learns of a connection.
#[derive(Serialize)]
struct About<'a> {
    listener: &'a str,
    peer: String,
    /// Whether it should report when it has finished it.
    #[serde(skip_serializing_if = "Not::not")]
    report: bool,
}

impl Connection {
    /// None: it is already gone.
    fn new(listener: &str, accepted: Accepted, balance: Balance) -> Option<Self> {
        let peer = accepted.peer();
        let socket = SharedSocket::connection(accepted.into_descriptor());
        let peer = peer?;
        let about = About { listener, peer: peer.to_string(), report: balance == Balance::Fewest };
        let about = serde_json::to_vec(&about).expect("it is text");
        let mut client = DefaultHasher::new();
        match peer {
            Peer::Tcp(address) => address.ip().hash(&mut client),
            Peer::Unix { uid, .. } => uid.hash(&mut client),
        }
        Some(Self { socket, about, client: client.finish(), since: Instant::now() })
    }

    /// Whether its client is gone without having sent anything.
    fn is_gone(&self) -> bool {
        match recv(self.socket.as_raw_fd(), &mut [0; 1], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Ok(bytes) => bytes == 0,
            Err(error) => !matches!(error, Errno::EAGAIN | Errno::EINTR),
        }
    }

    /// Whether its client has closed its sending side: it is gone, or waits for an answer to what it sent.
    fn may_be_gone(&self) -> bool {
        let ended = PollFlags::from_bits_retain(libc::POLLRDHUP);
        let mut polled = [PollFd::new(self.socket.as_fd(), ended)];
        // None: a flag that `nix` does not know.
        poll(&mut polled, PollTimeout::ZERO).is_ok() && polled[0].revents().is_none_or(|events| !events.is_empty())
    }
}

/// Waits until a process has taken some of what it was handed. Only then is its socket registered with the runtime, which
/// would otherwise wake up for each connection that it takes.
#[allow(unsafe_code)]
async fn has_room(socket: Arc<SharedSocket>) {
    // Safety: it owns its descriptor, which is the same until it is dropped.
    match unsafe { AsyncFd::register_with_interest(socket, Interest::WRITABLE) } {
        // If the process has closed it, that is found when the next one is handed over.
        Ok(socket) => drop(socket.writable().await),
        Err(_) => sleep(RETRY_DELAY).await,
    }
}

/// The sidecar's end of the socket for handing connections to a process, and the process's end.
pub(super) fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair()?;
    socket2::SockRef::from(&ours).set_send_buffer_size(SEND_BUFFER_BYTES)?;
    refuse_descriptors(&ours);
    ours.set_nonblocking(true)?;
    Ok((ours, theirs.into()))
}

#[cfg(test)]
mod tests;
