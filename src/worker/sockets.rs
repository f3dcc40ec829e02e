//! Sockets that workers inherit: the sidecar listens on them before the first worker starts, so that nobody is refused
//! while none is alive. If one cannot be created, only its workers wait for it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::config::{Accept, Config};
use crate::metrics::Metrics;
use crate::net::{Address, BindError, Listener, Setting, SocketFile, TakenPorts};
use crate::permissions::Permissions;

/// How long is waited for a folder that does not answer, such as one of a server that is away.
const FOLDER_TIMEOUT: Duration = Duration::from_secs(1);

/// The sockets of one group; none while one of them cannot be created.
#[derive(Debug)]
pub(super) struct Sockets {
    tried: Mutex<Tried>,
    /// How often some were recreated, while running processes still had the old ones.
    renewals: AtomicU64,
    looks: Looks,
}

/// Looks at folders that may not answer: on a thread of its own, one at a time.
#[derive(Debug, Default)]
pub(super) struct Looks(Arc<Mutex<()>>);

/// The result of the last attempt to create them.
#[derive(Debug, Default)]
struct Tried {
    /// None: some have to be created, besides the kept ones, each in its place.
    bound: Option<Arc<Bound>>,
    kept: Vec<Option<(String, Listener)>>,
    error: Option<BindError>,
    /// The group is removed.
    is_closed: bool,
}

/// The sockets in configuration order, each with its name.
#[derive(Debug)]
pub(super) struct Bound(Vec<(String, Listener)>);

impl Sockets {
    /// Listens, if possible. An error: a port is taken, and should not be waited for.
    pub(super) fn new(config: &Config, taken_ports: TakenPorts) -> Result<Self, BindError> {
        let tried = match Bound::new(config, &[]) {
            Err(error) if error.is_taken() && taken_ports == TakenPorts::Fail => return Err(error),
            Err(error) => {
                tracing::error!(%error, worker = config.name, "going on without this worker, until it can be had");
                Tried { error: Some(error), ..Tried::default() }
            }
            Ok(bound) => Tried { bound: Some(Arc::new(bound)), ..Tried::default() },
        };
        Ok(Self { tried: Mutex::new(tried), renewals: AtomicU64::new(0), looks: Looks::default() })
    }

    /// How often running processes had sockets that no longer exist.
    pub(super) fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::Relaxed)
    }

    /// Listens; does not wait for unavailable ones.
    pub(super) fn at_once(config: &Config) -> Result<Self, BindError> {
        let bound = Some(Arc::new(Bound::new(config, &[])?));
        let tried = Mutex::new(Tried { bound, ..Tried::default() });
        Ok(Self { tried, renewals: AtomicU64::new(0), looks: Looks::default() })
    }

    /// Stops listening, except where processes still have the sockets.
    pub(super) async fn close(&self, metrics: &Metrics) {
        let closed = Tried { is_closed: true, ..Tried::default() };
        let tried = std::mem::replace(&mut *self.tried.lock().await, closed);
        tried.error.iter().for_each(|before| metrics.ports_taken.clear(&before.setting().to_string()));
        drop_elsewhere(tried).await;
    }

    /// The sockets; or why they are not available yet, after another attempt. Meanwhile `metrics` show it.
    pub(super) async fn get(&self, config: &Config, metrics: &Metrics) -> Result<Arc<Bound>, String> {
        let mut tried = self.tried.lock().await;
        if tried.is_closed {
            return Err("the worker is removed, and listens no more".to_owned());
        }
        if let Some(bound) = tried.bound.clone() {
            tried.kept = bound.kept(config.accept, &self.looks).await;
            if tried.kept.iter().all(Option::is_some) {
                return Ok(bound);
            }
            self.renewals.fetch_add(1, Ordering::Relaxed);
            let anew = "it is had anew, and the processes that have the old one are replaced";
            tracing::error!(
                worker = config.name,
                "a process has shut down a socket of this worker, or its file was removed; {anew}"
            );
        }
        let (again, kept, old) = (config.clone(), tried.kept.clone(), tried.bound.take());
        let again = move || {
            drop(old);
            Bound::new(&again, &kept)
        };
        let again = spawn_blocking(again).await;
        let again = again.map_err(|error| error.to_string())?;
        let before = tried.error.take().map(|before| before.setting().to_string());
        match again {
            Ok(bound) => {
                before.iter().for_each(|before| metrics.ports_taken.clear(before));
                tracing::info!(worker = config.name, "all can be had that this worker listens on");
                Ok(tried.bound.insert(Arc::new(bound)).clone())
            }
            Err(error) => {
                let (setting, why) = (error.setting().to_string(), error.to_string());
                // Whoever looks meanwhile finds one of them.
                metrics.ports_taken.set(&setting, why.clone());
                before.iter().filter(|before| **before != setting).for_each(|before| metrics.ports_taken.clear(before));
                tried.error = Some(error);
                Err(why)
            }
        }
    }
}

impl Bound {
    /// Listens on all, except for those that are `kept` in their places.
    pub(super) fn new(config: &Config, kept: &[Option<(String, Listener)>]) -> Result<Self, BindError> {
        let permissions = Permissions::new(config.socket_mode, &config.socket_group);
        let bind = |(nth, at): (usize, &String)| {
            if let Some(Some(kept)) = kept.get(nth) {
                return Ok(kept.clone());
            }
            let setting = Setting::of_worker(&config.name, format!("listen.{nth}"));
            let listener = match parse(at) {
                Some(Address::Unix(path)) => Listener::unix_without_link(setting.clone(), &path, &permissions)?,
                _ => Listener::tcp(setting.clone(), at.trim_start_matches("tcp://"))?,
            };
            let listener = match config.accept {
                Accept::Worker => listener.inherited(setting)?,
                Accept::Sidecar => listener,
            };
            Ok((name(listener.address()), listener))
        };
        config.listen.iter().enumerate().map(bind).collect::<Result<_, _>>().map(Self)
    }

    /// Those that still listen, each in its place: a process that inherited one can shut it down, or connect it, which
    /// affects all processes; and the file of one can be removed. Where the sidecar accepts, `Passing` makes that anew.
    pub(super) async fn kept(&self, accept: Accept, looks: &Looks) -> Vec<Option<(String, Listener)>> {
        let files = self.0.iter().map(|(_, listener)| listener.file().filter(|_| accept == Accept::Worker).cloned());
        let are_removed = looks.removed(files.collect()).await;
        let shut_down = PollFlags::from_bits_retain(libc::POLLRDHUP);
        let mut polled: Vec<PollFd<'_>> = self.descriptors().map(|socket| PollFd::new(socket, shut_down)).collect();
        let ended = PollFlags::POLLHUP | PollFlags::POLLERR;
        // None: a flag that `nix` does not know.
        let is_ended = |socket: &PollFd<'_>| socket.revents().is_none_or(|events| events.intersects(ended));
        let is_known = poll(&mut polled, PollTimeout::ZERO).is_ok();
        let kept = |((socket, listener), is_removed): ((&PollFd<'_>, &(String, Listener)), bool)| {
            let listens = getsockopt(&listener.1, sockopt::AcceptConn).unwrap_or(true);
            Some(listener.clone()).filter(|_| listens && (!is_known || !is_ended(socket)) && !is_removed)
        };
        polled.iter().zip(&self.0).zip(are_removed).map(kept).collect()
    }

    /// The value of `LISTEN_FDNAMES`.
    pub(super) fn names(&self) -> String {
        self.0.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(":")
    }

    pub(super) fn listeners(&self) -> &[(String, Listener)] {
        &self.0
    }

    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|(_, listener)| listener.as_fd())
    }
}

impl Looks {
    /// Which of these files somebody has removed, as far as it is known soon.
    async fn removed(&self, files: Vec<Option<Arc<SocketFile>>>) -> Vec<bool> {
        let none = vec![false; files.len()];
        if files.iter().all(Option::is_none) {
            return none;
        }
        let are_removed = move || files.iter().map(|file| file.as_ref().is_some_and(|it| it.is_removed())).collect();
        self.look(are_removed).await.unwrap_or(none)
    }

    /// None: there is no answer yet, to this or to the look before.
    async fn look<T: Send + 'static>(&self, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let turn = self.0.clone().try_lock_owned().ok()?;
        let look = move || {
            let seen = look();
            drop(turn);
            seen
        };
        timeout(FOLDER_TIMEOUT, spawn_blocking(look)).await.ok()?.ok()
    }
}

/// Closes sockets and removes their files, as far as their folders answer soon.
pub(super) async fn drop_elsewhere(sockets: impl Send + 'static) {
    let _ = timeout(FOLDER_TIMEOUT, spawn_blocking(move || drop(sockets))).await;
}

/// The address of a socket in `listen`; none: it is not an address.
pub(crate) fn parse(address: &str) -> Option<Address> {
    match address.strip_prefix("tcp://") {
        Some(tcp) => tcp.parse().ok().filter(|address| matches!(address, Address::Tcp(_))),
        None => address.parse().ok().filter(|address| matches!(address, Address::Unix(_))),
    }
}

/// A socket's name in a colon-separated list: its port, or its file name.
fn name(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.rsplit_once(':').map_or("", |(_, port)| port).to_owned(),
        Address::Unix(path) => path.file_name().unwrap_or_default().to_string_lossy().replace(':', "_"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;

    use super::*;

    #[tokio::test]
    async fn a_socket_that_a_process_has_shut_down_is_had_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let unix = format!("unix://{}", folder.path().join("app.sock").display());
        for listen in ["tcp://127.0.0.1:0".to_owned(), unix] {
            let config = Config { listen: vec![listen.clone()], ..Config::default() };
            let sockets = Sockets::new(&config, TakenPorts::Fail).expect("a free port");
            let metrics = Metrics::default();
            let first = sockets.get(&config, &metrics).await.expect("it is free");
            let inherited = first.listeners()[0].1.as_fd().try_clone_to_owned().expect("a descriptor");
            assert!(Arc::ptr_eq(&first, &sockets.get(&config, &metrics).await.expect("as before")));
            // If the kernel chose the port, the same one.
            let listen = match first.listeners()[0].1.address() {
                Address::Tcp(address) => format!("tcp://{address}"),
                Address::Unix(_) => listen,
            };
            let config = Config { listen: vec![listen.clone()], ..config };
            drop(first);
            socket2::SockRef::from(&inherited).shutdown(Shutdown::Read).expect("anybody may");
            let anew = sockets.get(&config, &metrics).await.expect("it is free");
            match anew.listeners()[0].1.address() {
                Address::Tcp(address) => drop(std::net::TcpStream::connect(address).expect("a listener")),
                Address::Unix(path) => drop(std::os::unix::net::UnixStream::connect(path).expect("a listener")),
            }
            assert!(anew.kept(Accept::Worker, &Looks::default()).await.iter().all(Option::is_some), "{listen}");
        }
    }

    #[tokio::test]
    async fn a_socket_whose_file_was_removed_is_had_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.sock");
        let config = Config { listen: vec![format!("unix://{}", path.display())], ..Config::default() };
        let (sockets, metrics) = (Sockets::new(&config, TakenPorts::Fail).expect("a socket"), Metrics::default());
        std::fs::remove_file(&path).expect("it is there");
        sockets.get(&config, &metrics).await.expect("it is had anew");
        std::os::unix::net::UnixStream::connect(&path).expect("a listener");
        assert_eq!(sockets.renewals(), 1, "so that the processes are replaced");
    }

    #[tokio::test]
    async fn a_folder_that_does_not_answer_holds_one_thread_and_nobody() {
        let looks = Looks::default();
        let (answer, asked) = std::sync::mpsc::channel::<()>();
        assert!(looks.look(move || asked.recv()).await.is_none(), "nobody waits for it");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.sock");
        let config = Config { listen: vec![format!("unix://{}", path.display())], ..Config::default() };
        let bound = Bound::new(&config, &[]).expect("a socket");
        std::fs::remove_file(&path).expect("it is there");
        assert!(bound.kept(Accept::Worker, &looks).await[0].is_some(), "no other look is begun");
        drop(answer);
        while bound.kept(Accept::Worker, &looks).await[0].is_some() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn where_a_process_has_shut_down_one_socket_the_others_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.sock");
        let unix = format!("unix://{}", path.display());
        let config = Config { listen: vec!["tcp://127.0.0.1:0".to_owned(), unix], ..Config::default() };
        let sockets = Sockets::new(&config, TakenPorts::Fail).expect("a free port");
        let metrics = Metrics::default();
        for ended in [1, 0] {
            let first = sockets.get(&config, &metrics).await.expect("it is free");
            let addresses: Vec<_> = first.listeners().iter().map(|(_, listener)| listener.address().clone()).collect();
            // As running processes have them.
            let inherited: Vec<_> =
                first.descriptors().map(|socket| socket.try_clone_to_owned().expect("a descriptor")).collect();
            drop(first);
            socket2::SockRef::from(&inherited[ended]).shutdown(Shutdown::Read).expect("anybody may");
            let at = |address: &Address| match address {
                Address::Tcp(at) => format!("tcp://{at}"),
                Address::Unix(at) => format!("unix://{}", at.display()),
            };
            let config = Config { listen: addresses.iter().map(at).collect(), ..config.clone() };
            let anew = sockets.get(&config, &metrics).await.expect("the other one is not in its own way");
            for (_, listener) in anew.listeners() {
                match listener.address() {
                    Address::Tcp(address) => drop(std::net::TcpStream::connect(address).expect("a listener")),
                    Address::Unix(path) => drop(std::os::unix::net::UnixStream::connect(path).expect("a listener")),
                }
            }
            assert!(anew.kept(Accept::Worker, &Looks::default()).await.iter().all(Option::is_some));
        }
    }

    #[tokio::test]
    async fn a_socket_of_which_a_process_has_made_a_connection_is_had_anew() {
        let config = Config { listen: vec!["tcp://127.0.0.1:0".to_owned()], ..Config::default() };
        let sockets = Sockets::new(&config, TakenPorts::Fail).expect("a free port");
        let metrics = Metrics::default();
        let first = sockets.get(&config, &metrics).await.expect("it is free");
        let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let inherited = first.listeners()[0].1.as_fd().try_clone_to_owned().expect("a descriptor");
        let inherited = socket2::SockRef::from(&inherited);
        inherited.shutdown(Shutdown::Read).expect("anybody may");
        inherited.connect(&other.local_addr().expect("an address").into()).expect("it is a socket like any other");
        assert_eq!(first.kept(Accept::Worker, &Looks::default()).await.iter().flatten().count(), 0);
    }

    #[test]
    fn an_address_says_what_it_is_of() {
        assert_eq!(parse("tcp://0.0.0.0:8080"), Some(Address::Tcp("0.0.0.0:8080".into())));
        assert_eq!(parse("unix:///run/app.sock"), Some(Address::Unix("/run/app.sock".into())));
        for wrong in ["0.0.0.0:8080", "tcp://8080", "tcp://unix:///run/app.sock", "udp://0.0.0.0:53", "unix://app", ""]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn of_a_unix_socket_the_last_folder_is_made_and_nothing_lies_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let names = |at: &std::path::Path| {
            let entries = std::fs::read_dir(at).expect("a folder").flatten();
            let mut names: Vec<_> = entries.map(|it| it.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        let of = |path: &str| Config {
            name: "web".into(),
            listen: vec![format!("unix://{}/{path}", folder.path().display())],
            ..Config::default()
        };
        let _listens = Sockets::at_once(&of("run/app.sock")).expect("a socket");
        assert_eq!(names(&folder.path().join("run")), [".app.sock.claim", "app.sock"]);
        let why = Sockets::at_once(&of("no/such/app.sock")).expect_err("a slip").to_string();
        assert!(why.contains("worker web: listen.0: ") && why.contains("neither is the one above it there"), "{why}");
        assert_eq!(names(folder.path()), ["run"]);
    }
}
