//! Sockets that workers inherit: the sidecar listens on them before the first worker starts, so that nobody is refused
//! while none is alive. Where one cannot be had, its workers wait for it, and nobody else.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::config::{Accept, Config};
use crate::metrics::Metrics;
use crate::net::{Address, BindError, Listener};
use crate::permissions::Permissions;

/// The sockets of one group; none, as long as one of them cannot be had.
#[derive(Debug)]
pub(super) struct Sockets {
    /// The group's number in the configuration.
    number: usize,
    bound: Mutex<Result<Arc<Bound>, BindError>>,
}

/// They, in the order of the configuration, each with its name.
#[derive(Debug)]
pub(super) struct Bound(Vec<(String, Listener)>);

impl Sockets {
    /// Listens, if that can be had.
    pub(super) fn new(config: &Config, number: usize) -> Self {
        let bound = Bound::new(config, number).map(Arc::new);
        if let Err(error) = &bound {
            tracing::error!(%error, worker = config.name, "going on without this worker, until it can be had");
        }
        Self { number, bound: Mutex::new(bound) }
    }

    /// The sockets; or why not yet, after another try. Meanwhile `metrics` say it.
    pub(super) async fn get(&self, config: &Config, metrics: &Metrics) -> Result<Arc<Bound>, String> {
        let mut bound = self.bound.lock().await;
        if let Err(before) = &*bound {
            let (setting, number, again) = (before.setting().clone(), self.number, config.clone());
            let again = spawn_blocking(move || Bound::new(&again, number)).await;
            *bound = again.map_err(|error| error.to_string())?.map(Arc::new);
            metrics.ports_taken.clear(&setting);
            match &*bound {
                Ok(_) => tracing::info!(worker = config.name, "all can be had that this worker listens on"),
                Err(error) => metrics.ports_taken.set(error.setting(), error.to_string()),
            }
        }
        bound.as_ref().map(Arc::clone).map_err(ToString::to_string)
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
    use super::*;

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
