//! Host names: looked up a few at a time, on threads that nothing has to wait for.
//!
//! The C library may take minutes for a name if no server answers, and cannot be interrupted. On the runtime's blocking
//! threads, this would delay other work, and the end of the process.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::unawaited;

/// How glibc and musl say that there is no such name, or that it has no address.
const UNKNOWN: [&str; 4] = [
    "Name or service not known",
    "No address associated with hostname",
    "Name does not resolve",
    "Name has no usable address",
];

type Found = Result<Vec<SocketAddr>, NotFound>;

/// Why there is no address.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotFound {
    /// There is no such host.
    #[error(transparent)]
    Unknown(Arc<io::Error>),
    /// The look-up itself failed, which says nothing of the host: no server answers, no descriptors are left.
    #[error(transparent)]
    Failed(Arc<io::Error>),
    #[error("its name is not found in time")]
    Late,
    #[error("too many names are looked up at once")]
    Busy,
}

/// Looks up to `most` names concurrently, each only once at a time: hanging lookups take no more threads when they are
/// requested again, and only delay lookups that share this. Clones share it.
#[derive(Clone, Debug)]
pub struct Names {
    most: usize,
    /// What threads are looking up, or have just found.
    running: Arc<Mutex<BTreeMap<String, watch::Receiver<Option<Found>>>>>,
}

impl Names {
    pub fn new(most: usize) -> Self {
        Self { most, running: Arc::default() }
    }

    /// How many names it looks up concurrently.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Resolves `host:port` to one address or more.
    pub async fn look_up(&self, name: &str, within: Duration) -> Found {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let mut running = self.start(name)?;
        match timeout(within, running.wait_for(Option::is_some)).await {
            Ok(Ok(found)) => found.clone().unwrap_or(Err(NotFound::Late)),
            Ok(Err(_)) | Err(_) => Err(NotFound::Late),
        }
    }

    fn start(&self, name: &str) -> Result<watch::Receiver<Option<Found>>, NotFound> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // A thread that has ended has dropped its end of the channel, and one with a result is about to.
        running.retain(|_, found| found.has_changed().is_ok() && found.borrow().is_none());
        if let Some(found) = running.get(name) {
            return Ok(found.clone());
        }
        if running.len() >= self.most {
            return Err(NotFound::Busy);
        }
        let ((finding, found), looked_up) = (watch::channel(None), name.to_owned());
        let started = unawaited("names", move || drop(finding.send_replace(Some(resolve(&looked_up)))));
        started.map_err(|_| NotFound::Busy)?;
        running.insert(name.to_owned(), found.clone());
        Ok(found)
    }
}

/// The first address of `host:port`, for callers that may block.
pub fn look_up_first(address: &str, within: Duration) -> io::Result<SocketAddr> {
    if let Ok(address) = address.parse() {
        return Ok(address);
    }
    let ((finding, found), address) = (mpsc::channel(), address.to_owned());
    unawaited("names", move || drop(finding.send(address.to_socket_addrs())))?;
    let found = found.recv_timeout(within).map_err(|_| io::Error::new(io::ErrorKind::TimedOut, NotFound::Late))?;
    found?.next().ok_or(io::ErrorKind::AddrNotAvailable.into())
}

fn resolve(name: &str) -> Found {
    let addresses: Vec<_> = name.to_socket_addrs()?.collect();
    if addresses.is_empty() { Err(io::Error::from(io::ErrorKind::AddrNotAvailable).into()) } else { Ok(addresses) }
}

impl From<io::Error> for NotFound {
    fn from(error: io::Error) -> Self {
        let is_of_name = matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::AddrNotAvailable);
        // The standard library keeps the code in words alone.
        let text = error.to_string();
        match is_of_name || UNKNOWN.iter().any(|unknown| text.ends_with(unknown)) {
            true => Self::Unknown(Arc::new(error)),
            false => Self::Failed(Arc::new(error)),
        }
    }
}

impl From<NotFound> for io::Error {
    fn from(why: NotFound) -> Self {
        Self::other(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_itself_and_a_name_is_looked_up_once_at_a_time() {
        const LONG: Duration = Duration::from_secs(30);
        let names = Names::new(1);
        for address in ["127.0.0.1:7", "[::1]:7"] {
            assert_eq!(names.look_up(address, Duration::ZERO).await.expect("found")[0].to_string(), address);
        }
        let both = [names.look_up("localhost:7", LONG), names.look_up("localhost:7", LONG)];
        for found in futures_util::future::join_all(both).await {
            assert!(found.expect("found").iter().all(|address| address.ip().is_loopback() && address.port() == 7));
        }
        assert!(look_up_first("localhost:7", LONG).expect("found").ip().is_loopback());
    }

    #[test]
    fn a_name_that_is_not_there_is_told_from_a_look_up_that_fails() {
        // The C library answers this one itself, with no server.
        let nothing = resolve("fe80::1%no-such-interface:7");
        assert!(matches!(nothing, Err(NotFound::Unknown(_))), "{nothing:?}");
        for text in
            ["Temporary failure in name resolution", "Non-recoverable failure in name resolution", "System error"]
        {
            let failed = io::Error::other(format!("failed to lookup address information: {text}")).into();
            assert!(matches!(failed, NotFound::Failed(_)), "{failed:?}");
        }
        let failed = io::Error::from(nix::errno::Errno::EMFILE).into();
        assert!(matches!(failed, NotFound::Failed(_)), "{failed:?}");
    }

    #[tokio::test]
    async fn names_that_hang_are_bounded_and_give_way_when_they_are_found() {
        let names = Names::new(1);
        let (finding, found) = watch::channel(None);
        names.running.lock().expect("no panic").insert("hangs.test:7".into(), found);
        let late = names.look_up("hangs.test:7", Duration::from_millis(20)).await;
        assert!(matches!(late, Err(NotFound::Late)), "{late:?}");
        let busy = names.look_up("localhost:7", Duration::from_millis(20)).await;
        assert!(matches!(busy, Err(NotFound::Busy)), "{busy:?}");
        assert_eq!(names.running.lock().expect("no panic").len(), 1);
        // A caller may ask for another name before the thread has ended.
        finding.send_replace(Some(Err(NotFound::Late)));
        names.look_up("localhost:7", Duration::from_secs(30)).await.expect("found");
        drop(finding);
    }
}
