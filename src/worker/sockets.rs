//! Sockets that workers inherit: the sidecar listens on them before the first worker starts, so that nobody is refused
//! while none is alive.

use std::os::fd::{AsFd, BorrowedFd};

use super::config::Config;
use crate::net::{Address, BindError, Listener};
use crate::permissions::Permissions;

const SETTING: &str = "worker.listen";

/// The sockets of one group, in the order of the configuration.
#[derive(Debug)]
pub(super) struct Sockets(Vec<(String, Listener)>);

impl Sockets {
    pub(super) fn bind(config: &Config) -> Result<Self, BindError> {
        let permissions = Permissions::new(config.socket_mode, &config.socket_group);
        let bind = |at: &String| {
            let listener = match parse(at) {
                Some(Address::Unix(path)) => Listener::unix(SETTING, &path, &permissions)?,
                _ => Listener::tcp(SETTING, at.trim_start_matches("tcp://"))?,
            };
            let listener = listener.blocking(SETTING)?;
            Ok((name(listener.address()), listener))
        };
        config.listen.iter().map(bind).collect::<Result<_, _>>().map(Self)
    }

    /// What `LISTEN_FDNAMES` says of them.
    pub(super) fn names(&self) -> String {
        self.0.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(":")
    }

    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|(_, listener)| listener.as_fd())
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.0.iter().map(|(_, listener)| listener.address())
    }
}

/// Where a socket of `listen` is; none: that is no address.
pub(crate) fn parse(address: &str) -> Option<Address> {
    let address = match address.strip_prefix("tcp://") {
        Some(tcp) => tcp.parse().ok().filter(|address| matches!(address, Address::Tcp(_))),
        None => address.parse().ok().filter(|address| matches!(address, Address::Unix(_))),
    };
    address
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
