//! Identity: what a source mirrors, so that data of another one is not mistaken for it.

use std::fmt;

use serde::{Deserialize, Serialize};

const INCLUDE: &str = " include ";
const EXCLUDE: &str = " exclude ";

/// What a source mirrors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// For a cluster, its configured servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    servers: Vec<String>,
    /// Which part of them, or which file or register.
    what: String,
    /// The patterns by which a cluster is mirrored. They are not part of its identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    include: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    exclude: Vec<String>,
    /// What is never mirrored, whatever the patterns are; older versions did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unmirrored: Option<String>,
}

impl Identity {
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), ..Self::default() }
    }

    pub fn of_cluster(servers: impl IntoIterator<Item = impl Into<String>>, what: impl Into<String>) -> Self {
        Self { servers: servers.into_iter().map(Into::into).collect(), what: what.into(), ..Self::default() }
    }

    /// Adds patterns; no `include`: everything.
    pub fn by(self, include: Vec<String>, exclude: Vec<String>) -> Self {
        Self { include, exclude, ..self }
    }

    /// Excludes this path and everything below.
    pub fn without(self, unmirrored: Option<String>) -> Self {
        Self { unmirrored, ..self }
    }

    /// Whether the recorded identity is the same as this. For a cluster, one server in common is enough: dead servers
    /// are removed from the list.
    pub fn is_same(&self, now: &Self) -> bool {
        let have_one_in_common = self.servers.iter().any(|server| now.servers.contains(server));
        let rest = self.what.strip_prefix(&now.what);
        rest.is_some_and(|rest| rest.is_empty() || have_one_in_common && is_patterns(rest))
            && (have_one_in_common || self.servers == now.servers)
    }

    /// Whether the recorded identity covers everything that these patterns include.
    pub fn covers(&self, now: &Self) -> bool {
        let lets_through = self.include.is_empty() || !now.include.is_empty() && is_within(&now.include, &self.include);
        let has_no_less = self.left_out().all(|path| now.left_out().any(|now| now == path));
        self.what == now.what && lets_through && has_no_less
            || self.unmirrored.is_none() && self.in_one() == now.in_one()
    }

    fn left_out(&self) -> impl Iterator<Item = &String> {
        self.exclude.iter().chain(&self.unmirrored)
    }

    /// The form that older versions recorded, with the patterns at the end.
    fn in_one(&self) -> String {
        let patterns =
            [(INCLUDE, &self.include), (EXCLUDE, &self.exclude)].into_iter().filter(|(_, it)| !it.is_empty());
        patterns.fold(self.what.clone(), |what, (kind, patterns)| format!("{what}{kind}{patterns:?}"))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.servers.join(","), self.what)
    }
}

fn is_patterns(words: &str) -> bool {
    [INCLUDE, EXCLUDE].iter().any(|kind| words.strip_prefix(kind).is_some_and(|patterns| patterns.starts_with('[')))
}

fn is_within(some: &[String], all: &[String]) -> bool {
    some.iter().all(|pattern| all.contains(pattern))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(what: &str, include: &[&str], exclude: &[&str]) -> Identity {
        let [include, exclude] = [include, exclude].map(|texts| texts.iter().map(ToString::to_string).collect());
        Identity::of_cluster(["a:1"], what).by(include, exclude)
    }

    #[test]
    fn patterns_do_not_say_which_cluster_it_is_but_what_is_known_of_it() {
        let (all, one, both) = (by("/x", &[], &[]), by("/x", &[], &["/a"]), by("/x", &[], &["/a", "/b"]));
        let (wide, narrow) = (by("/x", &["/c", "/d"], &[]), by("/x", &["/c"], &[]));
        let every = [&all, &one, &both, &wide, &narrow];
        assert!(every.iter().all(|before| every.iter().all(|now| before.is_same(now) && before.covers(before))));
        for (more, less) in [(&all, &one), (&one, &both), (&all, &wide), (&wide, &narrow)] {
            assert!(more.covers(less) && !less.covers(more), "{more:?} {less:?}");
        }
        let older = by(r#"/x include ["/c"] exclude ["/a"]"#, &[], &[]);
        let same = by("/x", &["/c"], &["/a"]);
        assert!(older.is_same(&same) && older.covers(&same) && older.covers(&same.clone().without(Some("/q".into()))));
        assert!(older.is_same(&all) && !older.covers(&all));
        assert!(!older.is_same(&by("/y", &[], &[])) && !older.is_same(&by("", &[], &[])));
    }

    #[test]
    fn a_cluster_is_known_by_one_of_its_servers() {
        let of = |servers: &[&str], what| Identity::of_cluster(servers.iter().copied(), what);
        assert!(of(&["a:1", "b:1"], "/apps").is_same(&of(&["c:1", "b:1"], "/apps")));
        assert!(Identity::new("/etc/tree.toml").is_same(&Identity::new("/etc/tree.toml")));
        for (one, other) in [
            (of(&["a:1", "b:1"], ""), of(&["c:1"], "")),
            (of(&["a:1"], "/apps"), of(&["a:1"], "")),
            (of(&["a:1"], ""), Identity::new("")),
            (Identity::new("/a.toml"), Identity::new("/b.toml")),
        ] {
            assert!(!one.is_same(&other) && !other.is_same(&one), "{one} {other}");
        }
    }
}
