//! The lock files that readers may still write, each with a second name in the writer's own folder: those of replaced
//! files can fill the disk while a reader has them open, so the next process has to know them too.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;

use nix::errno::Errno;
use nix::libc;

use super::location::{FileId, file_id};
use super::lock_file::LockFile;
use crate::permissions::own;

/// Files are not replaced while readers have this many lock files of replaced files open.
const MAX_LOCK_FILES: usize = 64;

const PREFIX: &str = "readers-";

/// From `fcntl`; `libc` has no name for it.
const F_SETSIG: libc::c_int = 10;

#[derive(Debug)]
pub(super) struct Locks {
    folder: PathBuf,
    known: Vec<(PathBuf, LockFile)>,
}

impl Locks {
    /// Those of earlier processes, truncated to their original size.
    pub(super) fn found(folder: &Path) -> io::Result<Self> {
        let mut known = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Some(size) = entry.file_name().to_str().and_then(size) else { continue };
            let path = entry.path();
            match LockFile::left(&path, size) {
                Ok(lock) => known.push((path, lock)),
                Err(why) => tracing::warn!(path = %path.display(), %why, "cannot keep a lock file from growing"),
            }
        }
        let found = Self { folder: folder.to_owned(), known };
        found.cut();
        found.known.iter().for_each(|(_, lock)| drop(lock.strip()));
        Ok(found)
    }

    /// Registers one that was just created at `path`, before readers open it.
    pub(super) fn add(&mut self, path: &Path) -> io::Result<()> {
        let made = fs::symlink_metadata(path)?;
        let name = self.folder.join(format!("{PREFIX}{}-{}", made.len(), made.ino()));
        own::remove(&name)?;
        fs::hard_link(path, &name)?;
        let lock = LockFile::left(&name, made.len()).map_err(|why| why.at(&name))?;
        self.known.push((name, lock));
        Ok(())
    }

    /// Registers these too.
    pub(super) fn take(&mut self, others: Self) {
        for (name, lock) in others.known {
            // If it is open twice here, it never seems to be closed.
            let is_known = lock.file().metadata().is_ok_and(|found| self.has(file_id(&found)));
            if !is_known {
                self.known.push((name, lock));
            }
        }
    }

    fn has(&self, which: FileId) -> bool {
        self.known.iter().any(|(_, lock)| is(lock.file(), which))
    }

    /// Whether it is one of these, and free of additions by readers.
    pub(super) fn has_sound(&self, which: FileId) -> bool {
        self.known.iter().any(|(_, lock)| is(lock.file(), which) && lock.strip().is_ok())
    }

    /// Removes what readers have written beyond the end of any.
    pub(super) fn cut(&self) {
        self.known.iter().for_each(|(_, lock)| lock.cut());
    }

    /// Forgets those that no reader can write any more, except for these, which readers may open at any time.
    pub(super) fn forget(&mut self, current: [Option<FileId>; 2]) {
        self.known.retain(|(name, lock)| {
            let file = lock.file();
            let _ = lock.strip();
            if current.into_iter().flatten().any(|current| is(file, current)) {
                return true;
            }
            // Nobody may open it again after this check.
            let is_private = file.set_permissions(Permissions::from_mode(0o600)).is_ok();
            let is_open = is_open_elsewhere(file);
            let is_forgotten = is_private && is_open != Some(true) && own::remove(name).is_ok();
            if is_forgotten && is_open == Some(false) {
                // A process that only holds its path keeps no memory.
                let _ = file.set_len(0);
            }
            !is_forgotten
        });
    }

    /// Leaves them to another process.
    pub(super) fn leave(&mut self) {
        self.known.clear();
    }

    /// Why no more can be watched.
    pub(super) fn full(&self) -> Result<(), String> {
        if self.known.len() <= MAX_LOCK_FILES {
            return Ok(());
        }
        let (folder, sidecar) = (self.folder.display(), process::id());
        Err(format!(
            "processes have the lock files of {MAX_LOCK_FILES} replaced files open: end those, but for the sidecar's {sidecar}, that \
             `fuser -v {folder}/{PREFIX}*` names"
        ))
    }
}

/// The original size, from the second name.
fn size(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

fn is(file: &File, which: FileId) -> bool {
    file.metadata().is_ok_and(|found| file_id(&found) == which)
}

/// Whether there is another descriptor or mapping of this file: then the kernel refuses a write lease. None: its file
/// system does not support leases, so that this is unknown.
#[allow(unsafe_code)]
pub(super) fn is_open_elsewhere(file: &File) -> Option<bool> {
    // SAFETY: neither command takes a pointer. The signal is one that is ignored, in case root opens it meanwhile.
    let lease = |command, value: libc::c_int| Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), command, value) });
    match lease(F_SETSIG, libc::SIGURG).and_then(|_| lease(libc::F_SETLEASE, libc::F_WRLCK)) {
        Ok(_) => {
            let _ = lease(libc::F_SETLEASE, libc::F_UNLCK);
            Some(false)
        }
        Err(Errno::EAGAIN) => Some(true),
        Err(_) => None,
    }
}
