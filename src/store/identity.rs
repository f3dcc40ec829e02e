//! Identity: what a source mirrors, so that what is left of another one is not taken for it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a source mirrors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Of a cluster, its servers as they are configured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    servers: Vec<String>,
    /// What of them, or which file or register.
    what: String,
}

impl Identity {
    pub fn new(what: impl Into<String>) -> Self {
        Self { servers: Vec::new(), what: what.into() }
    }

    pub fn of_cluster(servers: impl IntoIterator<Item = impl Into<String>>, what: impl Into<String>) -> Self {
        Self { servers: servers.into_iter().map(Into::into).collect(), what: what.into() }
    }

    /// Whether both are of one thing. Of a cluster one server in common will do: who edits the list takes out a server
    /// that is dead.
    pub fn is_same(&self, other: &Self) -> bool {
        let have_one_in_common = self.servers.iter().any(|server| other.servers.contains(server));
        self.what == other.what && (have_one_in_common || self.servers == other.servers)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.servers.join(","), self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_known_by_one_of_its_servers() {
        let of = |servers: &[&str], what| Identity::of_cluster(servers.iter().copied(), what);
        assert!(of(&["a:1", "b:1"], "/apps include x").is_same(&of(&["c:1", "b:1"], "/apps include x")));
        assert!(Identity::new("/etc/tree.toml").is_same(&Identity::new("/etc/tree.toml")));
        for (one, other) in [
            (of(&["a:1", "b:1"], ""), of(&["c:1"], "")),
            (of(&["a:1"], "/apps"), of(&["a:1"], "")),
            (of(&["a:1"], ""), of(&["a:1"], " include x")),
            (of(&["a:1"], ""), Identity::new("")),
            (Identity::new("/a.toml"), Identity::new("/b.toml")),
        ] {
            assert!(!one.is_same(&other) && !other.is_same(&one), "{one} {other}");
        }
    }
}
