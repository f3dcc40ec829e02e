//! The chroot: from paths as they are here to paths as the server knows them, and back.

use std::borrow::Cow;

use crate::model::NodePath;

/// The chroot below which all paths lie; empty where there is none.
#[derive(Clone, Debug)]
pub(super) struct Chroot(String);

impl Chroot {
    pub(super) fn new(path: &str) -> Self {
        Self(path.trim_end_matches('/').to_owned())
    }

    /// A path as the server knows it.
    pub(super) fn server<'a>(&self, path: &'a NodePath) -> Cow<'a, str> {
        match (self.0.as_str(), path.as_str()) {
            ("", path) => path.into(),
            (chroot, "/") => chroot.to_owned().into(),
            (chroot, path) => format!("{chroot}{path}").into(),
        }
    }

    /// The path that a server's path means; of one that no node can have, the nearest above it that one can.
    pub(super) fn client(&self, path: &str) -> Option<NodePath> {
        let path = path.strip_prefix(self.0.as_str())?;
        let mut rest = if path.is_empty() { "/" } else { path };
        loop {
            if let Ok(found) = NodePath::parse(rest) {
                return Some(found);
            }
            rest = match rest.rfind('/')? {
                0 => "/",
                slash => &rest[..slash],
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lie_below_the_chroot_and_an_impossible_one_means_the_nearest_above() {
        let chroot = Chroot::new("/app");
        let path = |text| NodePath::parse(text).expect("a path");
        assert_eq!(chroot.server(&path("/")), "/app");
        assert_eq!(chroot.server(&path("/a")), "/app/a");
        let cases = [("/app", Some("/")), ("/app/a/b", Some("/a/b")), ("/apple", None), ("/b", None), ("", None)];
        for (server, client) in cases {
            assert_eq!(chroot.client(server), client.map(path), "{server}");
        }
        let root = Chroot::new("/");
        for (server, client) in
            [("/", "/"), ("/a/..", "/a"), ("/a//b", "/a"), ("/\u{1b}/b", "/"), ("/a/\u{fffd}", "/a")]
        {
            assert_eq!(root.client(server), Some(path(client)), "{server:?}");
        }
        assert_eq!(root.client("a"), None);
    }
}
