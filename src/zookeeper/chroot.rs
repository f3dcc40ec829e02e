//! The chroot: converts between local paths and the server's paths.

use std::borrow::Cow;

use crate::model::NodePath;

/// The chroot below which all paths lie; empty if there is none.
#[derive(Clone, Debug)]
pub(crate) struct Chroot(String);

impl Chroot {
    pub(crate) fn new(path: &str) -> Self {
        Self(path.trim_end_matches('/').to_owned())
    }

    /// The server's path.
    pub(crate) fn server<'a>(&self, path: &'a NodePath) -> Cow<'a, str> {
        match (self.0.as_str(), path.as_str()) {
            ("", path) => path.into(),
            (chroot, "/") => chroot.to_owned().into(),
            (chroot, path) => format!("{chroot}{path}").into(),
        }
    }

    /// The maximum length of such a path.
    pub(crate) fn server_bytes(&self, path: &NodePath) -> usize {
        self.0.len() + path.as_str().len()
    }

    /// The local path of a server's path. For an invalid one, the nearest valid ancestor, and the name below that.
    pub(crate) fn client<'a>(&self, path: &'a str) -> Option<(NodePath, Option<&'a str>)> {
        let path = path.strip_prefix(self.0.as_str())?;
        let whole = if path.is_empty() { "/" } else { path };
        let mut rest = whole;
        loop {
            if let Ok(found) = NodePath::parse(rest) {
                let below = whole[rest.len()..].trim_start_matches('/');
                return Some((found, (rest != whole).then(|| below.split('/').next().unwrap_or(below))));
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
            assert_eq!(chroot.client(server), client.map(|client| (path(client), None)), "{server}");
        }
        let root = Chroot::new("/");
        for (server, client, name) in [
            ("/", "/", None),
            ("/a/..", "/a", Some("..")),
            ("/a//b", "/a", Some("b")),
            ("/\u{1b}/b", "/", Some("\u{1b}")),
            ("/a/\u{fffd}", "/a", Some("\u{fffd}")),
        ] {
            assert_eq!(root.client(server), Some((path(client), name)), "{server:?}");
        }
        assert_eq!(root.client("a"), None);
    }
}
