//! The network: listeners on TCP and Unix sockets, and the accept loop that never gives up. Connections, also with TLS,
//! are in the crate `roster-net`.

mod bind_error;
mod closer;
mod socket_file;

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

pub use roster_client::{Address, AddressError};
use roster_net::allow_descriptors;
use roster_net::names::{Names, look_up_first};
pub(crate) use roster_net::refuse_descriptors;
pub use roster_net::{
    Accepted, ConnectError, ParseRemoteError, Peer, Peers, Prompt, Remote, Stream, User, secure, tls,
};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::spawn_blocking;

use self::bind_error::NoListener;
pub use self::bind_error::{BindError, Setting, TakenPorts};
pub(crate) use self::closer::{SharedSocket, begin_closing};
pub use self::socket_file::PathOccupied;
pub(crate) use self::socket_file::{SocketFile, max_path_len};
use crate::default_paths::is_live;
use crate::metrics::Metrics;
use crate::permissions::{Claim, NotClaimed, Permissions, make_folder, own};
use crate::task::{Backoff, Stop};

/// How many connections the kernel may queue until we accept them. A full queue of a Unix socket makes its clients fail
/// at once, so there it is as long as the kernel allows (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;
const UNIX_BACKLOG: i32 = i32::MAX;

/// How long accepting pauses when the process is out of descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The first and the longest delay before trying again to listen on a port that another process has taken.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(250);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);

/// How often to check whether the file of a socket is still there.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// How long resolving a listen address may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// How many connections are accepted before other tasks may run.
const MAX_ACCEPTS_PER_TURN: usize = 256;

/// A bound socket, shared by all that accept from it.
#[derive(Debug, Clone)]
pub struct Listener {
    socket: Arc<SharedSocket>,
    file: Option<Arc<SocketFile>>,
    /// Kept for its drop.
    _claim: Option<Arc<Claim>>,
    address: Address,
}

impl Listener {
    /// Listens on `host:port`, as `setting` says.
    pub fn tcp(setting: impl Into<Setting>, address: &str) -> Result<Self, BindError> {
        Self::tcp_at(setting.into(), address, listening_address(address))
    }

    /// The same, with the address resolved.
    fn tcp_at(setting: Setting, address: &str, meant: io::Result<SocketAddr>) -> Result<Self, BindError> {
        let (meant, listening) = match meant {
            Ok(address) => (Some(address), listen(address)),
            Err(error) => (None, Err(error)),
        };
        match listening {
            Ok(listener) => {
                let local = listener.local_addr().map_or_else(|_| address.to_owned(), |address| address.to_string());
                let socket = Arc::new(SharedSocket::listener(listener));
                Ok(Self { socket, file: None, _claim: None, address: Address::Tcp(local) })
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let user = meant.and_then(|address| Peers::new().listener(address));
                let why = NoListener::Taken { setting: setting.clone(), user, process: None };
                Err(BindError { setting, address: Address::Tcp(address.to_owned()), why })
            }
            Err(error) => {
                let why = match error.kind() {
                    io::ErrorKind::PermissionDenied => NoListener::LowPort(error),
                    _ => error.into(),
                };
                Err(BindError { setting, address: Address::Tcp(address.to_owned()), why })
            }
        }
    }

    /// The same; or the reason to wait, if another process has the port and `taken_ports` allows that.
    pub fn tcp_unless_taken(
        setting: impl Into<Setting>,
        address: &str,
        taken_ports: TakenPorts,
    ) -> Result<Result<Self, BindError>, BindError> {
        match Self::tcp(setting, address) {
            Err(error) if !error.is_taken() || taken_ports == TakenPorts::Fail => Err(error),
            listener => Ok(listener),
        }
    }

    /// Listens on a port as soon as the process that has `taken` it ends; until then `metrics` show why not yet. None:
    /// the stop came first.
    pub async fn when_free(mut taken: BindError, metrics: &Metrics, stop: &Stop) -> Option<Self> {
        let setting = taken.setting.clone();
        let key = setting.to_string();
        let (names, mut pauses) = (Names::new(1), Backoff::new(MIN_RETRY_DELAY, MAX_RETRY_DELAY));
        tracing::error!(error = %taken, "going on without this port, until it is free");
        loop {
            metrics.ports_taken.set(&key, taken.to_string());
            tokio::select! {
                () = tokio::time::sleep(pauses.delay()) => {}
                () = stop.requested() => return None,
            }
            let address = taken.address.to_string();
            let meant = names.look_up(&address, LOOKUP_TIMEOUT).await.map(|found| found[0]).map_err(io::Error::from);
            match Self::tcp_at(setting.clone(), &address, meant) {
                Ok(listener) => {
                    metrics.ports_taken.clear(&key);
                    tracing::info!(setting = key, address = %listener.address, "the port is free: listening");
                    return Some(listener);
                }
                Err(error) => taken = error,
            }
        }
    }

    /// Listens on the Unix socket `path`, as `setting` says, creating its folder if need be. The socket appears there
    /// with its permissions already set, and replaces one that a dead process left, but nothing else. Next to it, a
    /// link is created with `:1` appended: PHP's stock `TSocket` can open a Unix socket only with a port, which it
    /// appends to the path.
    pub fn unix(setting: impl Into<Setting>, path: &Path, permissions: &Permissions) -> Result<Self, BindError> {
        Self::unix_of(setting.into(), path, permissions, true)
    }

    /// The same without a link, for programs that are not Thrift endpoints. Creates only the last folder: none for a
    /// path with a slip.
    pub fn unix_without_link(
        setting: impl Into<Setting>,
        path: &Path,
        permissions: &Permissions,
    ) -> Result<Self, BindError> {
        Self::unix_of(setting.into(), path, permissions, false)
    }

    fn unix_of(setting: Setting, path: &Path, permissions: &Permissions, has_link: bool) -> Result<Self, BindError> {
        let address = Address::Unix(path.to_owned());
        match listen_under(&setting, path, permissions, has_link) {
            Ok((listener, (file, claim))) => {
                let (file, claim) = (Some(Arc::new(file)), Some(Arc::new(claim)));
                Ok(Self { socket: Arc::new(SharedSocket::listener(listener)), file, _claim: claim, address })
            }
            Err(why) => {
                let closed = match &why {
                    NoListener::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        path.parent().and_then(own::cannot_write)
                    }
                    _ => None,
                };
                let why = closed.map_or(why, |why| NoListener::Closed { setting: setting.clone(), why });
                Err(BindError { setting, address, why })
            }
        }
    }

    /// Its file, which somebody may remove, so that nobody can connect. None: it is a TCP port.
    pub(crate) fn file(&self) -> Option<&Arc<SocketFile>> {
        self.file.as_ref()
    }

    /// Drops it on another thread: its folder may not answer.
    pub(crate) async fn drop_elsewhere(self) {
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }

    /// Listens anew once somebody has removed its file; until that can be done, `metrics` show why not. None: the stop came
    /// first.
    pub async fn when_removed(
        &self,
        setting: &str,
        permissions: &Permissions,
        metrics: &Metrics,
        stop: &Stop,
    ) -> Option<Self> {
        if self.file.is_none() {
            stop.requested().await;
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep(FILE_CHECK_INTERVAL) => {}
                () = stop.requested() => return None,
            }
            let (this, permissions) = (self.clone(), permissions.clone());
            match spawn_blocking(move || this.again(&permissions)).await {
                Ok(Some(Ok(anew))) => {
                    metrics.ports_taken.clear(setting);
                    tracing::warn!(setting, address = %self.address, "the socket's file was removed: it is made anew");
                    return Some(anew);
                }
                Ok(Some(Err(error))) => {
                    let why = format!(
                        "{setting}: the file of {} was removed, and cannot be made anew: {error}",
                        self.address
                    );
                    if metrics.ports_taken.get().iter().all(|told| *told != why) {
                        tracing::error!(setting, address = %self.address, %error, "the socket's file was removed");
                        metrics.ports_taken.set(setting, why);
                    }
                }
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// The same with a new file; none: the old one is there, or there was none.
    fn again(&self, permissions: &Permissions) -> Option<io::Result<Self>> {
        let (Some(file), Address::Unix(path)) = (&self.file, &self.address) else { return None };
        if !file.is_removed() {
            return None;
        }
        let folder = path.parent().map_or(Ok(()), make_folder);
        let bound = folder.and_then(|()| SocketFile::at(path, permissions, file.has_link()));
        Some(bound.map(|(listener, file)| {
            let (socket, file) = (Arc::new(SharedSocket::listener(listener)), Some(Arc::new(file)));
            Self { socket, file, ..self.clone() }
        }))
    }

    /// The address it listens on, with the port that the kernel chose.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// One for processes that inherit it: programs expect `accept` on the descriptor to block, and clients of a Unix
    /// socket to be able to send descriptors.
    pub(crate) fn inherited(self, setting: impl Into<Setting>) -> Result<Self, BindError> {
        allow_descriptors(&self);
        match SockRef::from(&self).set_nonblocking(false) {
            Ok(()) => Ok(self),
            Err(error) => Err(BindError { setting: setting.into(), address: self.address, why: error.into() }),
        }
    }

    /// Passes every connection to `serve`, until the stop. Several loops, on separate threads, may accept from one
    /// listener. No error ends or prevents the loop: the process may run out of descriptors, and will have some again.
    pub async fn accept(&self, stop: &Stop, mut serve: impl FnMut(Accepted)) {
        let serve = |accepted| {
            serve(accepted);
            ready(())
        };
        self.accept_in_turn(stop, serve).await;
    }

    /// The same, each when the one before is served.
    pub(crate) async fn accept_in_turn<F>(&self, stop: &Stop, mut serve: impl FnMut(Accepted) -> F)
    where
        F: Future<Output = ()>,
    {
        let mut reported = None::<io::ErrorKind>;
        let report = |reported: &mut Option<io::ErrorKind>, error: io::Error| {
            if reported.replace(error.kind()) != Some(error.kind()) {
                tracing::error!(address = %self.address, %error, "cannot accept; trying again");
            }
        };
        let mut stopped = pin!(stop.requested());
        let listener = loop {
            match self.socket.as_fd().try_clone_to_owned().map(SharedSocket::listener).and_then(register) {
                Ok(listener) => break listener,
                Err(error) => report(&mut reported, error),
            }
            tokio::select! {
                () = tokio::time::sleep(ACCEPT_RETRY_DELAY) => {}
                () = &mut stopped => return,
            }
        };
        loop {
            for _ in 0..MAX_ACCEPTS_PER_TURN {
                let accepted = tokio::select! {
                    accepted = listener.async_io(Interest::READABLE, accept) => accepted,
                    () = &mut stopped => return,
                };
                match accepted {
                    Ok(stream) => {
                        reported = None;
                        serve(stream).await;
                    }
                    // The peer gave up before it was accepted.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        report(&mut reported, error);
                        tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The runtime's own listeners would register each accepted connection with it, even one that will not be served.
#[allow(unsafe_code)]
fn register(listener: SharedSocket) -> io::Result<AsyncFd<SharedSocket>> {
    // Safety: it owns its descriptor, which is the same until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }?)
}

fn accept(listener: &SharedSocket) -> io::Result<Accepted> {
    let (stream, peer) = SockRef::from(listener).accept()?;
    Ok(match peer.as_socket() {
        Some(peer) => Accepted::Tcp(stream.into(), peer),
        None => Accepted::Unix(stream.into()),
    })
}

/// Whether two listeners cannot coexist: the second finds its address taken by the first.
pub(crate) fn is_one_place(one: &Address, other: &Address) -> bool {
    let parse = |address: &str| address.replace("localhost:", "127.0.0.1:").parse::<SocketAddr>();
    match (one, other) {
        (Address::Unix(one), Address::Unix(other)) => !one.as_os_str().is_empty() && one == other,
        (Address::Tcp(one), Address::Tcp(other)) => {
            let (Ok(one), Ok(other)) = (parse(one), parse(other)) else { return !one.is_empty() && one == other };
            let same_host = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
            one.port() == other.port() && one.port() != 0 && same_host
        }
        _ => false,
    }
}

/// Resolves an address to listen on.
pub(crate) fn listening_address(address: &str) -> io::Result<SocketAddr> {
    look_up_first(address, LOOKUP_TIMEOUT)
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The process that listens on a socket; none: its queue is full.
fn listener_at(path: &Path) -> Option<Peer> {
    let stream = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).ok()?;
    stream.set_nonblocking(true).ok()?;
    stream.connect(&socket2::SockAddr::unix(path).ok()?).ok()?;
    Peer::by_unix(&stream)
}

fn listen_under(
    setting: &Setting,
    path: &Path,
    permissions: &Permissions,
    has_link: bool,
) -> Result<(std::os::unix::net::UnixListener, (SocketFile, Claim)), NoListener> {
    let taken = || {
        let (process, user) = match listener_at(path) {
            Some(Peer::Unix { pid, uid, .. }) => (Some(pid), Some(uid)),
            Some(Peer::Tcp(_)) | None => (None, None),
        };
        NoListener::Taken { setting: setting.clone(), user, process }
    };
    if is_live(path) {
        return Err(taken());
    }
    if let Some(folder) = path.parent() {
        if !has_link && folder.parent().is_some_and(|above| !above.is_dir()) {
            let error = io::Error::new(io::ErrorKind::NotFound, "neither is the one above it there");
            return Err(NoListener::Folder { folder: folder.to_owned(), error });
        }
        make_folder(folder).map_err(|error| NoListener::Folder { folder: folder.to_owned(), error })?;
    }
    // Two that start at the same moment would both find nobody listening.
    let claim = Claim::of(path).map_err(|why| match why {
        NotClaimed::Held(_) => taken(),
        NotClaimed::Failed(error) => error.into(),
    })?;
    PathOccupied::none_at(path, has_link)?;
    let (listener, file) = SocketFile::at(path, permissions, has_link)?;
    Ok((listener, (file, claim)))
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::AsRawFd;

    use nix::errno::Errno;
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    use super::*;
    use crate::permissions::Mode;

    #[tokio::test(start_paused = true)]
    async fn a_socket_whose_file_is_removed_is_made_anew_with_its_link() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run/socket");
        let permissions = Permissions::new(Mode(0o600), "");
        let first = Listener::unix("thrift.unix", &path, &permissions).expect("it listens");
        assert!(first.again(&permissions).is_none());
        std::fs::remove_dir_all(folder.path().join("run")).expect("it is there");
        let (tasks, _failures) = crate::task::Tasks::new();
        let anew = first.when_removed("thrift.unix", &permissions, &Metrics::default(), &tasks.stop_signal()).await;
        let anew = anew.expect("it listens");
        drop(first);
        for path in [path.clone(), path.with_file_name("socket:1")] {
            std::os::unix::net::UnixStream::connect(path).expect("it is there");
        }
        assert!(anew.again(&permissions).is_none());
    }

    #[test]
    fn a_port_that_only_root_may_have_is_told_with_its_cure() {
        let why = NoListener::LowPort(io::ErrorKind::PermissionDenied.into());
        let error = BindError { setting: "thrift.tcp".into(), address: Address::Tcp("127.0.0.1:80".into()), why };
        assert!(error.to_string().contains("AmbientCapabilities=CAP_NET_BIND_SERVICE"), "{error}");
    }

    /// Sends a descriptor over a socket.
    pub(super) fn takes_descriptors(to: &impl AsRawFd) -> nix::Result<usize> {
        let sent = std::fs::File::open("/dev/null").expect("it is there");
        let rights = [sent.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&rights)];
        sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(b"x")], &control, MsgFlags::empty(), None)
    }

    /// What becomes of one sent to a socket that refuses them.
    pub(super) fn refused() -> nix::Result<usize> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("sockets");
        refuse_descriptors(&ours);
        // Linux before 6.16 has no such option.
        let refused = takes_descriptors(&theirs);
        assert!(matches!(refused, Ok(1) | Err(Errno::EPERM)), "{refused:?}");
        refused
    }

    #[tokio::test]
    async fn nobody_sends_descriptors_that_would_be_closed_where_they_are_not_wanted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let permissions = Permissions::new(Mode(0o600), "");
        let connect = || std::os::unix::net::UnixStream::connect(&path).expect("it is there");
        let listener = Listener::unix("thrift.unix", &path, &permissions).expect("it listens");
        assert_eq!(takes_descriptors(&connect()), refused());
        drop(listener);
        let listener = Listener::unix_without_link("thrift.unix", &path, &permissions).expect("it listens");
        assert_eq!(takes_descriptors(&connect()), refused());
        let _listener = listener.inherited("thrift.unix").expect("it listens");
        assert_eq!(takes_descriptors(&connect()), Ok(1), "a process may need them");
        let other = folder.path().join("other");
        let listener = std::os::unix::net::UnixListener::bind(&other).expect("it listens");
        let _connection = Remote::Unix(other).connect(None.into(), None).await.expect("it listens");
        assert_eq!(takes_descriptors(&listener.accept().expect("it has connected").0), refused());
    }
}
