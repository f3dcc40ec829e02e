//! Sockets that workers inherit: the sidecar listens on them before the first worker starts, so that nobody is refused
//! while none is alive. Where one cannot be had, its workers wait for it, and nobody else.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::config::{Accept, Config};
use crate::metrics::Metrics;
use crate::net::{Address, BindError, Listener, TakenPorts};
use crate::permissions::Permissions;

/// The sockets of one group; none, as long as one of them cannot be had.
#[derive(Debug)]
pub(super) struct Sockets {
    /// The group's number in the configuration.
    number: usize,
    /// None: they are to be had anew.
    bound: Mutex<Option<Result<Arc<Bound>, BindError>>>,
}

/// They, in the order of the configuration, each with its name.
#[derive(Debug)]
pub(super) struct Bound(Vec<(String, Listener)>);

impl Sockets {
    /// Listens, if that can be had. An error: a port is taken, and that is not waited for.
    pub(super) fn new(config: &Config, number: usize, taken_ports: TakenPorts) -> Result<Self, BindError> {
        let bound = match Bound::new(config, number) {
            Err(error) if error.is_taken() && taken_ports == TakenPorts::Fail => return Err(error),
            bound => bound.map(Arc::new),
        };
        if let Err(error) = &bound {
            tracing::error!(%error, worker = config.name, "going on without this worker, until it can be had");
        }
        Ok(Self { number, bound: Mutex::new(Some(bound)) })
    }

    /// The sockets; or why not yet, after another try. Meanwhile `metrics` say it.
    pub(super) async fn get(&self, config: &Config, metrics: &Metrics) -> Result<Arc<Bound>, String> {
        let mut bound = self.bound.lock().await;
        let before = match bound.take() {
            Some(Ok(sockets)) if !sockets.is_shut_down() => {
                *bound = Some(Ok(sockets.clone()));
                return Ok(sockets);
            }
            Some(Ok(_)) => {
                let all = "all of them have to be replaced: `roster worker restart` does it";
                tracing::error!(worker = config.name, "a process has shut down a socket of this worker, so {all}");
                None
            }
            Some(Err(before)) => Some(before),
            None => None,
        };
        let (number, again) = (self.number, config.clone());
        let again = spawn_blocking(move || Bound::new(&again, number)).await.map_err(|error| error.to_string())?;
        before.iter().for_each(|before| metrics.ports_taken.clear(before.setting()));
        match &again {
            Ok(_) => tracing::info!(worker = config.name, "all can be had that this worker listens on"),
            Err(error) => metrics.ports_taken.set(error.setting(), error.to_string()),
        }
        bound.insert(again.map(Arc::new)).as_ref().map(Arc::clone).map_err(ToString::to_string)
    }
}

impl Bound {
    fn new(config: &Config, number: usize) -> Result<Self, BindError> {
        let permissions = Permissions::new(config.socket_mode, &config.socket_group);
        let bind = |(nth, at): (usize, &String)| {
            let setting = format!("worker.{number}.listen.{nth}");
            let listener = match parse(at) {
                Some(Address::Unix(path)) => Listener::unix(setting.clone(), &path, &permissions)?,
                _ => Listener::tcp(setting.clone(), at.trim_start_matches("tcp://"))?,
            };
            let listener = match config.accept {
                Accept::Worker => listener.blocking(setting)?,
                Accept::Sidecar => listener,
            };
            Ok((name(listener.address()), listener))
        };
        config.listen.iter().enumerate().map(bind).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a process that inherited one has shut it down, which it does for all: nobody accepts from it any more.
    fn is_shut_down(&self) -> bool {
        let shut_down = PollFlags::from_bits_retain(libc::POLLRDHUP);
        let mut polled: Vec<PollFd<'_>> = self.descriptors().map(|socket| PollFd::new(socket, shut_down)).collect();
        let ended = PollFlags::POLLHUP | PollFlags::POLLERR;
        // None: that for which `nix` has no name.
        let is_ended = |socket: &PollFd<'_>| socket.revents().is_none_or(|events| events.intersects(ended));
        poll(&mut polled, PollTimeout::ZERO).is_ok() && polled.iter().any(is_ended)
    }

    /// What `LISTEN_FDNAMES` says of them.
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

/// Where a socket of `listen` is; none: that is no address.
pub(crate) fn parse(address: &str) -> Option<Address> {
    match address.strip_prefix("tcp://") {
        Some(tcp) => tcp.parse().ok().filter(|address| matches!(address, Address::Tcp(_))),
        None => address.parse().ok().filter(|address| matches!(address, Address::Unix(_))),
    }
}

/// A socket's name, in a list that colons part: its port, or the name of its file.
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
            let sockets = Sockets::new(&config, 0, TakenPorts::Fail).expect("a free port");
            let metrics = Metrics::default();
            let first = sockets.get(&config, &metrics).await.expect("it is free");
            let inherited = first.listeners()[0].1.as_fd().try_clone_to_owned().expect("a descriptor");
            assert!(Arc::ptr_eq(&first, &sockets.get(&config, &metrics).await.expect("as before")));
            // Where the kernel chose the port, the same one.
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
            assert!(!anew.is_shut_down(), "{listen}");
        }
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
}
