//! `[shared]`: the paths of the shared file and its copy, and their limits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::default_paths::shared_file_beside;
use crate::permissions::{Mode, Permissions};

/// Half of a process's address space.
const LARGEST_TIB: u64 = 64;

/// `[shared]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The file; relative to the folder of the Unix socket. Empty: none.
    pub path: PathBuf,
    /// The directory of its copy; created if only its last part is missing. Empty: none.
    #[serde(deserialize_with = "crate::rule::path")]
    pub state: PathBuf,
    /// How often the copy is replaced, if anything changed.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub copy_interval: Duration,
    /// The maximum size of the file.
    #[serde(deserialize_with = "crate::rule::between_kib_and_tib::<_, 128, { LARGEST_TIB }>")]
    pub max_size: ByteSize,
    /// How much of it may wait for readers of old states before the file is replaced.
    #[serde(deserialize_with = "crate::rule::at_least_kib::<_, 64>")]
    pub max_pinned: ByteSize,
    /// How many processes may have it open.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_readers: u32,
    /// The file's mode, in octal digits. A group that may read the file may also write the lock file next to it.
    pub mode: Mode,
    /// The group that both are given to; empty: that of the process.
    #[serde(deserialize_with = "crate::permissions::group")]
    pub group: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: "shared.mdb".into(),
            state: "/var/lib/roster".into(),
            copy_interval: Duration::from_secs(60),
            max_size: ByteSize::gib(1),
            max_pinned: ByteSize::mib(64),
            max_readers: 1_024,
            mode: Mode(0o640),
            group: String::new(),
        }
    }
}

impl Config {
    /// The maximum of `max_size`.
    pub const LARGEST: ByteSize = ByteSize::tib(LARGEST_TIB);

    /// The path of the file, if there should be one.
    pub(crate) fn file(&self, beside: Option<&Path>) -> Option<PathBuf> {
        if self.path.as_os_str().is_empty() {
            return None;
        }
        beside.map(|folder| folder.join(&self.path)).or_else(|| self.path.is_absolute().then(|| self.path.clone()))
    }

    /// A file that clients find beside the socket, and which is not the one of this configuration.
    pub(crate) fn left_beside(&self, socket: &Path) -> Option<PathBuf> {
        let folder = socket.parent()?;
        let found = shared_file_beside(socket);
        // None: it is not there.
        let real = found.canonicalize().ok()?;
        let is_own = self.file(Some(folder)).is_some_and(|own| own.canonicalize().is_ok_and(|own| own == real));
        (!is_own).then_some(found)
    }

    /// The path of the copy, if there should be one.
    pub(super) fn copy(&self, file: &Path) -> Option<PathBuf> {
        if self.state.as_os_str().is_empty() { None } else { Some(self.state.join(file.file_name()?)) }
    }

    /// Whether the directory of the copy is not the default.
    pub(super) fn is_state_set(&self) -> bool {
        self.state != Self::default().state
    }

    pub(super) fn permissions(&self) -> Permissions {
        Permissions::new(self.mode, &self.group)
    }

    /// LMDB's readers write the lock file; but not everybody may.
    pub(super) fn lock_permissions(&self) -> Permissions {
        let may_read = self.mode.0 & 0o440;
        Permissions { mode: Mode(may_read | may_read >> 1), ..self.permissions() }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_beside_the_socket_that_is_not_the_configured_one_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let (socket, file) = (folder.path().join("roster.sock"), folder.path().join("shared.mdb"));
        let left = |path: &Path| Config { path: path.to_owned(), ..Config::default() }.left_beside(&socket);
        let moved = folder.path().join("moved.mdb");
        assert_eq!(left(&moved), None, "there is none");
        fs::write(&file, "").expect("written");
        assert_eq!(left(&moved), Some(file.clone()));
        assert_eq!(left(Path::new("")), Some(file.clone()), "there is to be none");
        assert_eq!(left(Path::new("shared.mdb")), None, "it is the one");
        assert_eq!(left(&file), None, "it is the one");
        std::os::unix::fs::symlink(&file, &moved).expect("a link");
        assert_eq!(left(&moved), None, "it is the one");
        assert_eq!(Config::default().left_beside(Path::new("")), None, "there is no socket");
    }
}
