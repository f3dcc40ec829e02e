//! Where a sidecar is found when nobody says: the system's socket, then the user's, then the loopback port.

use std::env;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use roster::net::Address;

const SYSTEM_SOCKET: &str = "/run/roster/roster.sock";
const SHARED: &str = "shared.mdb";
pub(crate) const PORT: &str = "127.0.0.1:9090";

/// The address to ask when none is given: the first that exists.
pub(crate) fn default_address() -> Address {
    first(SYSTEM_SOCKET.into(), user_socket()).map_or_else(|| Address::Tcp(PORT.into()), Address::Unix)
}

/// The shared file of the sidecar that is found there: beside its socket, or what one that is gone left there.
pub(crate) fn default_shared_file() -> Option<PathBuf> {
    let (system, user) = (Path::new(SYSTEM_SOCKET), user_socket());
    let socket = first(system.into(), user.clone()).map(|socket| shared_file_beside(&socket));
    socket.or_else(|| first(shared_file_beside(system), shared_file_beside(&user)))
}

/// Where a sidecar with this socket has its shared file, unless its configuration says otherwise.
pub(crate) fn shared_file_beside(socket: &Path) -> PathBuf {
    socket.with_file_name(SHARED)
}

/// Whether a client would ask this socket, if it exists, without being told to.
pub(crate) fn is_found(socket: &Path) -> bool {
    socket == Path::new(SYSTEM_SOCKET) || socket == user_socket() && !Path::new(SYSTEM_SOCKET).exists()
}

fn first(system: PathBuf, user: PathBuf) -> Option<PathBuf> {
    if system.exists() {
        return Some(system);
    }
    Some(user).filter(|user| user.exists() && user.parent().is_some_and(is_own))
}

/// The socket of a sidecar that a user runs without a configuration.
pub(crate) fn user_socket() -> PathBuf {
    user_folder().join("roster.sock")
}

/// The folder of that sidecar's socket and demonstration tree.
pub(crate) fn user_folder() -> PathBuf {
    match env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(folder) if folder.is_absolute() => folder.join("roster"),
        _ => PathBuf::from(format!("/tmp/roster-{}", nix::unistd::getuid())),
    }
}

/// Whether a folder is ours: in /tmp, another user may have put something under our name.
pub(crate) fn is_own(folder: &Path) -> bool {
    let own = nix::unistd::getuid().as_raw();
    std::fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir() && found.uid() == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_socket_that_exists_is_chosen() {
        let folder = tempfile::tempdir().expect("a folder");
        let (system, user) = (folder.path().join("system.sock"), folder.path().join("user.sock"));
        let first = || first(system.clone(), user.clone());
        assert_eq!(first(), None);
        std::fs::write(&user, "").expect("a file");
        assert_eq!(first(), Some(user.clone()));
        std::fs::write(&system, "").expect("a file");
        assert_eq!(first(), Some(system.clone()));
    }

    #[test]
    fn a_folder_behind_a_link_is_not_ours() {
        let folder = tempfile::tempdir().expect("a folder");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).expect("a link");
        assert!(is_own(folder.path()));
        assert!(!is_own(&link));
    }
}
