//! Settings: where an ensemble is, and as whom a session speaks to it.

use std::path::PathBuf;
use std::time::Duration;

use roster_net::tls::ClientFiles;

use super::kerberos::Kerberos;

/// Where an ensemble is, and as whom a session speaks to it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What logs call it.
    pub name: String,
    /// Hosts, and after them the chroot below which all paths lie: `zk1:2181,tls://zk2:2281/app`.
    pub connect: String,
    /// Whether other servers that the ensemble has, by what it says itself, are tried where none of `connect` gives a
    /// session.
    pub follow_reconfig: bool,
    /// Whether a server will do, where there is no other, that serves only to read.
    pub read_only: bool,
    /// A file with the identities that are shown; read for each session.
    pub credentials: Option<PathBuf>,
    /// For servers after `tls://`: a file with the authorities that sign their certificates; none: those that this
    /// machine believes. It and the next two are read for each connection.
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub session_timeout: Duration,
    /// The most bytes of data that a node may have for it to be read.
    pub max_node_bytes: u64,
    /// Identities are also proven by SASL's GSSAPI, where this is.
    pub kerberos: Option<Kerberos>,
}

impl Settings {
    /// The settings for an ensemble of which only the address is known.
    pub fn new(connect: impl Into<String>) -> Self {
        Self {
            name: "zookeeper".into(),
            connect: connect.into(),
            follow_reconfig: true,
            read_only: false,
            credentials: None,
            ca: None,
            certificate: None,
            key: None,
            session_timeout: Duration::from_secs(15),
            max_node_bytes: 1 << 20,
            kerberos: None,
        }
    }

    /// Whether a server is spoken to by TLS.
    pub fn has_tls(&self) -> bool {
        servers(&self.connect).any(is_secured)
    }

    pub(crate) fn tls(&self) -> ClientFiles<'_> {
        ClientFiles { ca: self.ca.as_deref(), shown: self.certificate.as_deref().zip(self.key.as_deref()) }
    }
}

/// The servers that `connect` names: each may begin with how it is spoken to, and the last one end with a chroot.
pub(crate) fn servers(connect: &str) -> impl DoubleEndedIterator<Item = &str> + Clone {
    connect.split(',').map(str::trim).filter(|server| !server.is_empty())
}

/// Whether a server is spoken to by TLS.
pub(crate) fn is_secured(server: &str) -> bool {
    server.starts_with("tls://")
}

/// A server without how it is spoken to.
pub(crate) fn address_of(server: &str) -> &str {
    ["tcp://", "tls://"].into_iter().find_map(|kind| server.strip_prefix(kind)).unwrap_or(server)
}

/// The chroot below which all paths lie, by what `connect` ends with; empty where there is none.
pub(crate) fn chroot_of(connect: &str) -> &str {
    let last = servers(connect).next_back().map(address_of);
    last.and_then(|last| last.find('/').map(|slash| &last[slash..])).unwrap_or_default()
}
