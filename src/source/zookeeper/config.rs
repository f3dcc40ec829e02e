//! `[[zookeeper]]`: an ensemble and which part of it is mirrored.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

use super::scan::quotas;
use crate::model::NodePath;
use crate::store::{Feed, Identity};
use crate::zookeeper::{Chroot, Kerberos, Settings, address, address_of, chroot_of, servers};

/// `[[zookeeper]]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Its name in status and logs.
    pub name: String,
    /// Required: hosts, followed by the chroot below which all paths lie: `zk1:2181,zk2:2181/app`.
    pub connect: String,
    /// The subtrees to mirror, disjoint. One that does not exist yet is watched until it does.
    pub roots: Vec<NodePath>,
    /// Patterns of the paths to keep: `*` within a part, `**` across parts. Empty: all.
    pub include: Patterns,
    /// Patterns of the paths to exclude, with everything below them.
    pub exclude: Patterns,
    /// Whether other servers, which the ensemble itself reports, are tried if none of `connect` gives a session.
    pub follow_reconfig: bool,
    /// Whether to mirror a read-only server, which is cut off from its ensemble, if there is no other. Ages grow
    /// meanwhile.
    pub read_only: bool,
    /// A file with a line `digest:USER:PASSWORD` (or another scheme) for each identity. Read again on SIGHUP.
    #[serde(deserialize_with = "crate::rule::some_path")]
    pub credentials: Option<PathBuf>,
    /// For `tls://` servers: a file with the authorities that may sign their certificates; none: those that this
    /// machine trusts. This and the next two are read at each connection.
    #[serde(deserialize_with = "crate::rule::some_path")]
    pub ca: Option<PathBuf>,
    /// The client certificate with its chain, and its key.
    #[serde(deserialize_with = "crate::rule::some_path")]
    pub certificate: Option<PathBuf>,
    #[serde(deserialize_with = "crate::rule::some_path")]
    pub key: Option<PathBuf>,
    #[serde(with = "crate::rule::WithinAnHour")]
    pub session_timeout: Duration,
    /// If a resync finds more than half of the nodes gone, they are kept this long before that is accepted; their age
    /// grows meanwhile. `0s`: it is accepted at once. Nodes that register instances are up to the guard.
    #[serde(with = "crate::rule::WithinADay")]
    pub hold: Duration,
    /// The approximate interval at which everything is read and compared.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub audit_interval: Duration,
    /// What exceeds a limit is omitted; `status` shows how much.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_nodes: usize,
    /// The limit for all paths and data.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_bytes: ByteSize,
    /// The limit for one node's data.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_node_bytes: ByteSize,
    /// How many bytes of replies may be in flight, so that no server is asked for more than it has memory for, and no
    /// network for more than it carries. One node may be larger.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_in_flight: ByteSize,
    /// The limit for the depth of a path.
    #[serde(deserialize_with = "crate::rule::at_most::<_, 1024>")]
    pub max_depth: usize,
    /// If set, identities are also proven by SASL's GSSAPI.
    pub kerberos: Option<Kerberos>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "zookeeper".into(),
            connect: String::new(),
            roots: vec![NodePath::root()],
            include: Patterns::default(),
            exclude: Patterns::default(),
            follow_reconfig: true,
            read_only: false,
            credentials: None,
            ca: None,
            certificate: None,
            key: None,
            session_timeout: Duration::from_secs(15),
            hold: Duration::from_secs(120),
            audit_interval: Duration::from_secs(300),
            max_nodes: 1_000_000,
            max_bytes: ByteSize::gib(1),
            max_node_bytes: ByteSize::mib(1),
            max_in_flight: ByteSize::mib(4),
            max_depth: 64,
            kerberos: None,
        }
    }
}

impl Config {
    /// The default settings for an ensemble at this address.
    pub fn new(connect: impl Into<String>) -> Self {
        Self { connect: connect.into(), ..Self::default() }
    }

    pub(crate) fn feed(&self) -> Feed {
        let servers = servers(&self.connect).map(address_of);
        let chroot = chroot_of(&self.connect);
        let quotas = quotas(self, &Chroot::new(chroot)).map(|path| path.to_string());
        let identity = Identity::of_cluster(servers.map(address), chroot)
            .by(self.include.texts.clone(), self.exclude.texts.clone())
            .without(quotas);
        Feed::of_nodes(&self.name, "zookeeper", self.roots.clone()).of(identity)
    }

    /// Whether `exclude` leaves out a path, or each of its children.
    pub(crate) fn excludes_all_below(&self, path: &NodePath) -> bool {
        let any_child = path.child("a-name-that-no-pattern-has");
        !self.exclude.is_empty() && any_child.upwards().any(|above| self.exclude.is_match(above))
    }

    /// The address of the ensemble, and the identity of its sessions.
    pub(crate) fn session(&self) -> Settings {
        Settings {
            name: self.name.clone(),
            connect: self.connect.clone(),
            follow_reconfig: self.follow_reconfig,
            read_only: self.read_only,
            credentials: self.credentials.clone(),
            ca: self.ca.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            session_timeout: self.session_timeout,
            max_node_bytes: self.max_node_bytes.as_u64(),
            kerberos: self.kerberos.clone(),
        }
    }
}

/// Patterns of paths.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Patterns {
    globs: GlobSet,
    texts: Vec<String>,
}

impl Patterns {
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    pub fn is_match(&self, path: &str) -> bool {
        self.globs.is_match(path)
    }
}

impl TryFrom<Vec<String>> for Patterns {
    /// All invalid patterns.
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        let (mut globs, mut errors) = (GlobSetBuilder::new(), Vec::new());
        for text in &texts {
            if !["/", "**", "{/"].iter().any(|start| text.starts_with(start)) {
                errors.push(format!("{text:?} matches nothing: a pattern begins with '/'"));
                continue;
            }
            match GlobBuilder::new(text).literal_separator(true).build() {
                Ok(glob) => drop(globs.add(glob)),
                Err(error) => errors.push(error.to_string()),
            }
        }
        if !errors.is_empty() {
            return Err(errors.join("; "));
        }
        Ok(Self { globs: globs.build().map_err(|error| error.to_string())?, texts })
    }
}

impl From<Patterns> for Vec<String> {
    fn from(patterns: Patterns) -> Vec<String> {
        patterns.texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_known_again_however_its_servers_are_written() {
        let identity = |connect: &str| Config::new(connect).feed().identity().clone();
        for (before, after) in [
            ("a:2181, b:2181/apps", "b/apps"),
            ("tls://a:2281,tls://b:2281", "tls://b:2281"),
            ("a,b,", "tcp://a:2181,c"),
        ] {
            assert!(identity(before).is_same(&identity(after)), "{before} {after}");
        }
        for (one, other) in [("tls://a:1", "tls://b:1"), ("a:1/apps", "a:1/other"), ("a:1", "a:1/apps")] {
            assert!(!identity(one).is_same(&identity(other)), "{one} {other}");
        }
        let excluding = Config { exclude: vec!["/x/**".to_owned()].try_into().expect("a pattern"), ..Config::new("a") };
        let excluding = excluding.feed().identity().clone();
        assert!(excluding.is_same(&identity("a")) && identity("a").is_same(&excluding));
        assert!(identity("a").covers(&excluding) && !excluding.covers(&identity("a")));
        let root = NodePath::parse("/zookeeper/quota").expect("a path");
        let quotas = Config { roots: vec![root], ..Config::new("a") }.feed().identity().clone();
        assert!(quotas.covers(&identity("a")) && !identity("a").covers(&quotas), "quotas were not mirrored");
    }
}
