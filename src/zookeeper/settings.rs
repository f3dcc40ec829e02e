//! Settings: the address of an ensemble, and the identity of sessions.

use std::path::PathBuf;
use std::time::Duration;

use roster_net::tls::ClientFiles;

use super::kerberos::Kerberos;

/// The address of an ensemble, and the identity of sessions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name in logs.
    pub name: String,
    /// Hosts, followed by the chroot below which all paths lie: `zk1:2181,tls://zk2:2281/app`.
    pub connect: String,
    /// Whether other servers, which the ensemble itself reports, are tried if none of `connect` gives a session.
    pub follow_reconfig: bool,
    /// Whether a read-only server is acceptable if there is no other.
    pub read_only: bool,
    /// A file with identities; read for each session.
    pub credentials: Option<PathBuf>,
    /// For `tls://` servers: a file with the authorities that may sign their certificates; none: those that this
    /// machine trusts. This and the next two are read for each connection.
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub session_timeout: Duration,
    /// The most bytes of data of a node that is read.
    pub max_node_bytes: u64,
    /// If set, identities are also proven by SASL's GSSAPI.
    pub kerberos: Option<Kerberos>,
}

impl Settings {
    /// The default settings for an ensemble at this address.
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

    /// Whether any server uses TLS.
    pub fn has_tls(&self) -> bool {
        servers(&self.connect).any(is_secured)
    }

    pub(crate) fn tls(&self) -> ClientFiles<'_> {
        ClientFiles { ca: self.ca.as_deref(), shown: self.certificate.as_deref().zip(self.key.as_deref()) }
    }
}

/// The servers in `connect`: each may begin with its scheme, and the last may end with a chroot.
pub(crate) fn servers(connect: &str) -> impl DoubleEndedIterator<Item = &str> + Clone {
    connect.split(',').map(str::trim).filter(|server| !server.is_empty())
}

/// Whether a server uses TLS.
pub(crate) fn is_secured(server: &str) -> bool {
    server.starts_with("tls://")
}

/// A server without its scheme.
pub(crate) fn address_of(server: &str) -> &str {
    ["tcp://", "tls://"].into_iter().find_map(|kind| server.strip_prefix(kind)).unwrap_or(server)
}

/// The chroot at the end of `connect`, below which all paths lie; empty if there is none.
pub(crate) fn chroot_of(connect: &str) -> &str {
    let last = servers(connect).next_back().map(address_of);
    last.and_then(|last| last.find('/').map(|slash| &last[slash..])).unwrap_or_default()
}
