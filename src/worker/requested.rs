//! Sockets on request: a process may request one while it runs, and all processes of its group that request the same
//! one share it.
//!
//! It writes the address, as a line, to an inherited socket, and reads one message: `{}` with the descriptor
//! (`SCM_RIGHTS`), or `{"error"}`. Only addresses in `may_listen` are allowed; and the socket stays until the sidecar
//! ends, so that nobody is refused while processes are replaced.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::config::{Accept, Config};
use super::launch::{Identity, give_to};
use super::slot::Shared;
use super::sockets::{Bound, Looks, drop_elsewhere, parse};
use crate::net::Address;

/// The maximum length of an address.
const MAX_ADDRESS_BYTES: usize = 512;

/// How many sockets a group may request.
pub(super) const MAX_REQUESTED: usize = 64;

/// After this many requests, how long a process waits for each next answer.
const PAUSE: Duration = Duration::from_millis(100);

/// The time in which at most as many sockets are created for a group. Otherwise a process could keep the sidecar busy, by
/// shutting down its socket, or requesting one that cannot be created, again and again.
const ATTEMPTS_INTERVAL: Duration = Duration::from_secs(1);

/// The sockets of a group; none: the group is removed.
#[derive(Debug)]
pub(super) struct Requested(Mutex<Option<Given>>);

#[derive(Debug)]
struct Given {
    by_address: HashMap<String, Arc<Bound>>,
    looks: Looks,
    /// How many it tried to create, and since when.
    attempts: usize,
    since: Instant,
}

impl Default for Requested {
    fn default() -> Self {
        let (by_address, looks) = (HashMap::new(), Looks::default());
        Self(Mutex::new(Some(Given { by_address, looks, attempts: 0, since: Instant::now() })))
    }
}

/// Answers a process's requests, until it has closed its end.
pub(super) async fn serve(group: Arc<Shared>, socket: UnixStream, identity: Option<Identity>) {
    let mut read = Vec::new();
    let mut asked = 0_usize;
    while let Some(address) = next_line(&socket, &mut read).await {
        asked += 1;
        if asked.is_multiple_of(MAX_REQUESTED) {
            sleep(PAUSE).await;
        }
        let answered = match group.requested.get(&group.config, &address).await {
            Ok(sockets) => {
                let given = sockets.descriptors().next().ok_or_else(|| io::ErrorKind::NotFound.into());
                match given.and_then(|socket| give_to(identity.as_ref(), [socket]).map(|()| socket)) {
                    Ok(given) => answer(&socket, "{}", Some(given)).await,
                    Err(error) => answer(&socket, &refusal(&error.to_string()), None).await,
                }
            }
            Err(why) => answer(&socket, &refusal(&why), None).await,
        };
        if answered.is_err() {
            return;
        }
    }
}

impl Requested {
    async fn get(&self, config: &Config, address: &str) -> Result<Arc<Bound>, String> {
        let may_listen = &config.may_listen;
        let address = Listening::parse(address).filter(|address| {
            let is_one = may_listen.iter().filter_map(|allowed| Listening::parse(allowed)).any(|it| it.covers(address));
            is_one && address.last_port.is_none_or(|last| Some(last) == address.port)
        });
        let Some(address) = address.as_ref().map(Listening::text) else {
            return Err(format!("it is none of `may_listen` of this worker: {}", may_listen.join(", ")));
        };
        let mut given = self.0.lock().await;
        let Some(given) = &mut *given else { return Err("the worker is removed, and listens no more".to_owned()) };
        // A process that has it may have shut it down, for all.
        if let Some(bound) = given.by_address.get(&address)
            && bound.kept(Accept::Worker, &given.looks).await.iter().all(Option::is_some)
        {
            return Ok(bound.clone());
        }
        if given.by_address.len() >= MAX_REQUESTED && !given.by_address.contains_key(&address) {
            return Err(format!("this worker has {MAX_REQUESTED} others already"));
        }
        given.count_attempt()?;
        let config = Config { listen: vec![address.clone()], accept: Accept::Worker, ..config.clone() };
        let old = given.by_address.remove(&address);
        let bind = move || {
            drop(old);
            Bound::new(&config, &[])
        };
        let bound = spawn_blocking(bind).await.map_err(|error| error.to_string())?;
        let bound = Arc::new(bound.map_err(|error| error.without_setting())?);
        given.by_address.insert(address, bound.clone());
        Ok(bound)
    }

    /// Stops listening, except where processes still have the sockets.
    pub(super) async fn close(&self) {
        let given = self.0.lock().await.take();
        drop_elsewhere(given).await;
    }
}

impl Given {
    fn count_attempt(&mut self) -> Result<(), String> {
        if self.since.elapsed() >= ATTEMPTS_INTERVAL {
            (self.attempts, self.since) = (0, Instant::now());
        }
        if self.attempts >= MAX_REQUESTED {
            return Err(format!(
                "{MAX_REQUESTED} sockets were created for this worker within {ATTEMPTS_INTERVAL:?}; ask again later"
            ));
        }
        self.attempts += 1;
        Ok(())
    }
}

/// An address to listen on, or several: with a range of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listening {
    /// A path, or a host.
    at: String,
    port: Option<u16>,
    last_port: Option<u16>,
}

impl Listening {
    /// None: it is not an address.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, last_port) = match text.rsplit_once('-') {
            Some((address, last)) if text.starts_with("tcp://") && last.bytes().all(|it| it.is_ascii_digit()) => {
                (address, Some(last.parse().ok()?))
            }
            _ => (text, None),
        };
        match parse(address)? {
            Address::Unix(path) => Some(Self { at: path.to_str()?.to_owned(), port: None, last_port: None }),
            Address::Tcp(tcp) => {
                let (host, port) = tcp.rsplit_once(':')?;
                let port: u16 = port.parse().ok()?;
                let is_range = last_port.is_none_or(|last| 0 < port && port <= last);
                is_range.then(|| Self { at: host.to_owned(), port: Some(port), last_port })
            }
        }
    }

    fn covers(&self, other: &Self) -> bool {
        let ports = self.port..=self.last_port.or(self.port);
        self.at == other.at && self.port.is_some() == other.port.is_some() && ports.contains(&other.port)
    }

    fn text(&self) -> String {
        match self.port {
            Some(port) => format!("tcp://{}:{port}", self.at),
            None => format!("unix://{}", self.at),
        }
    }
}

/// The next line; None: there will be none, or it is too long.
async fn next_line(socket: &UnixStream, read: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = read.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = read.drain(..=end).collect();
            return Some(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        if read.len() > MAX_ADDRESS_BYTES {
            return None;
        }
        socket.readable().await.ok()?;
        let mut bytes = [0; MAX_ADDRESS_BYTES];
        match socket.try_read(&mut bytes) {
            Ok(0) => return None,
            Ok(count) => read.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
}

async fn answer(socket: &UnixStream, text: &str, given: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let rights: Vec<_> = given.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&rights)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let send = || {
        let message = [IoSlice::new(text.as_bytes())];
        let rights = if given.is_some() { &rights[..] } else { &[] };
        Ok(sendmsg::<()>(socket.as_raw_fd(), &message, rights, flags, None)?)
    };
    socket.async_io(Interest::WRITABLE, send).await.map(drop)
}

fn refusal(why: &str) -> String {
    serde_json::json!({ "error": why }).to_string()
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;

    use socket2::SockRef;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_is_shut_down_again_and_again_is_replaced_only_so_often() {
        let folder = tempfile::tempdir().expect("a folder");
        let address = format!("unix://{}", folder.path().join("app.sock").display());
        let config = Config { may_listen: vec![address.clone()], ..Config::default() };
        let requested = Requested::default();
        for _ in 0..MAX_REQUESTED {
            let bound = requested.get(&config, &address).await.expect("it is free");
            let socket = bound.descriptors().next().expect("one");
            SockRef::from(&socket).shutdown(Shutdown::Read).expect("anybody may");
        }
        let why = requested.get(&config, &address).await.expect_err("it was created too often");
        assert_eq!(why, "64 sockets were created for this worker within 1s; ask again later");
        advance(ATTEMPTS_INTERVAL).await;
        requested.get(&config, &address).await.expect("later it may be");
    }

    #[test]
    fn an_address_is_covered_by_itself_and_by_a_range_of_ports() {
        let covers = |all: &str, one: &str| {
            let [all, one] = [all, one].map(|text| Listening::parse(text).expect("an address"));
            all.covers(&one)
        };
        assert!(covers("tcp://127.0.0.1:8100-8199", "tcp://127.0.0.1:8100"));
        assert!(covers("tcp://127.0.0.1:8100-8199", "tcp://127.0.0.1:8199"));
        assert!(covers("tcp://[::1]:8100", "tcp://[::1]:08100"));
        assert!(covers("unix:///run/app-1.sock", "unix:///run/app-1.sock"));
        for other in ["tcp://127.0.0.1:8099", "tcp://127.0.0.1:8200", "tcp://0.0.0.0:8100", "unix:///run/a.sock"] {
            assert!(!covers("tcp://127.0.0.1:8100-8199", other), "{other}");
        }
        assert!(!covers("unix:///run/a.sock", "unix:///run/../run/a.sock"));
        for wrong in ["tcp://127.0.0.1:9-8", "tcp://127.0.0.1:0-9", "tcp://127.0.0.1:1-70000", "127.0.0.1:80", ""] {
            assert_eq!(Listening::parse(wrong), None, "{wrong}");
        }
    }
}
