//! `[zookeeper.kerberos]`: the identity of the mirror for SASL's GSSAPI, and the service it authenticates to.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Settings;
use super::credentials::{self, SASL};
use crate::secret;

/// `[zookeeper.kerberos]`. Realms, KDCs and host name canonicalization are up to the C library: `krb5.conf`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kerberos {
    /// A file with the key by which tickets are obtained, again and again. None: the ticket in this process's cache, or
    /// the keytab that `KRB5_CLIENT_KTNAME` names.
    #[serde(deserialize_with = "crate::rule::some_path")]
    pub keytab: Option<PathBuf>,
    /// None: the first one in the keytab, or that of the cache.
    pub principal: Option<String>,
    /// The service that the servers are: its name, to which the host in `connect` is appended; or, with a `/` in it,
    /// the principal of all servers.
    pub service: String,
}

impl Default for Kerberos {
    fn default() -> Self {
        Self { keytab: None, principal: None, service: "zookeeper".into() }
    }
}

/// Why Kerberos cannot work as configured, with the key below `kerberos` that is at fault; none: all of it.
pub(crate) fn flaw(settings: &Settings) -> Option<(Option<&'static str>, String)> {
    let kerberos = settings.kerberos.as_ref()?;
    if cfg!(not(feature = "gssapi")) {
        let why = "this build has no Kerberos, nor has the package for Debian: build one that has it with \
                   `cargo build --release --features gssapi`";
        return Some((None, why.into()));
    }
    if let Some(path) = &kerberos.keytab
        && let Err(error) = secret::open(path)
    {
        return Some((Some("keytab"), format!("cannot read {}: {error}", path.display())));
    }
    let identities =
        settings.credentials.as_deref().and_then(|place| credentials::read(place).ok()).unwrap_or_default();
    let has_other = identities.iter().any(|(scheme, _)| scheme == SASL);
    has_other
        .then(|| (None, "a server takes one proof by SASL: take `sasl:` out of `credentials`, or this table".into()))
}

#[cfg(all(test, feature = "gssapi"))]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_in_place_of_a_keytab_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("keytab");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let kerberos = Some(Kerberos { keytab: Some(pipe), ..Kerberos::default() });
        let (key, why) = flaw(&Config { kerberos, ..Settings::new("zk1:2181") }).expect("it is no file");
        assert_eq!(key, Some("keytab"));
        assert!(why.contains("it is no regular file, but a pipe"), "{why}");
    }
}
