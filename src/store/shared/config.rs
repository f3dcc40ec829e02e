//! `[shared]`: the paths of the shared file and its copy, and their limits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

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
    pub(super) fn file(&self, beside: Option<&Path>) -> Option<PathBuf> {
        if self.path.as_os_str().is_empty() {
            return None;
        }
        beside.map(|folder| folder.join(&self.path)).or_else(|| self.path.is_absolute().then(|| self.path.clone()))
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
