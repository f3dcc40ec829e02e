//! Which ZooKeeper the tests run: Debian's, or a release that `make deps-zookeepers` has fetched.

use std::path::PathBuf;

use super::is_skipped_unless;

/// Names a release that was fetched, such as `3.4.14`. Not set, or empty: Debian's.
const VARIABLE: &str = "ROSTER_TEST_ZOOKEEPER";

/// As Debian's packages install it; TLS needs the codecs of Netty, which its own list leaves out.
const DEBIAN: &str = "/usr/share/java/zookeeper.jar:/usr/share/java/netty-codec.jar:/usr/share/java/netty-resolver.jar";
const DEBIANS_RELEASE: (u32, u32) = (3, 8);

/// The first release that reads many nodes in one request.
pub(crate) const MULTI_READS: (u32, u32) = (3, 6);

/// What Java needs to run a release that was fetched, or Debian's.
pub(crate) fn class_path(release: Option<&str>) -> String {
    let Some(release) = release else { return DEBIAN.to_owned() };
    assert!(is_fetched(release), "ZooKeeper {release} is missing; has `make deps-zookeepers` been run?");
    folder(release).join("*").into_os_string().into_string().expect("UTF-8")
}

pub(crate) fn is_fetched(release: &str) -> bool {
    folder(release).is_dir()
}

fn folder(release: &str) -> PathBuf {
    fetched("zookeepers").join(release)
}

/// Where something is kept that is no package of Debian's, if it was fetched.
pub(crate) fn fetched(what: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| std::env::home_dir().expect("a home").join(".cache"));
    cache.join("roster").join(what)
}

/// The first two parts of its version.
pub(crate) fn release() -> (u32, u32) {
    let Some(release) = chosen() else { return DEBIANS_RELEASE };
    let mut parts = release.split('.').map(|part| part.parse().expect("a number"));
    (parts.next().expect("a major version"), parts.next().expect("a minor version"))
}

/// Whether a test cannot run with this ZooKeeper, which is older.
pub(crate) fn is_skipped_before(first: (u32, u32), why: &str) -> bool {
    is_skipped_unless(release() >= first, why)
}

/// The release that was chosen. None: Debian's.
pub(crate) fn chosen() -> Option<String> {
    std::env::var(VARIABLE).ok().filter(|release| !release.is_empty())
}
