//! The place of the shared file: whose it is to write, who may read it, and whether it is still there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};

use super::env::Env;
use super::{Config, SharedError, lock_file};
use crate::permissions::{Permissions, give_to};

/// Where the file lies, and what its configuration says of it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) config: Config,
}

/// The file, which no other process may write as long as this lives.
#[derive(Debug)]
pub(super) struct Claim(Flock<File>);

/// Which file it is.
pub(super) type Mark = (u64, u64);

impl Place {
    /// The file, to which nobody else writes from now on. One is made if there is none.
    pub(super) fn claim(&self) -> Result<Claim, SharedError> {
        Claim::of(&self.path)
    }

    /// Whether the file that lies here is the one that was claimed.
    pub(super) fn is_claimed_by(&self, claim: &Claim) -> bool {
        mark(&self.path) == claim.mark()
    }

    /// Maps the file, which is ours.
    pub(super) fn map(&self) -> Result<Arc<Env>, SharedError> {
        permit(&self.path, &self.config.permissions())?;
        permit(&lock_file(&self.path), &self.config.lock_permissions())?;
        Env::writer(&self.path, &self.config).map_err(|source| SharedError::Map { path: self.path.clone(), source })
    }

    /// A new file takes this place, and a new lock file with it: a table of readers is of one file.
    pub(super) fn clear(&self, claim: &Claim) -> Result<Claim, SharedError> {
        if self.path.exists() && !self.is_claimed_by(claim) {
            // Another process may have taken the place.
            drop(self.claim()?);
        }
        self.make_folder()?;
        remove(&self.path).and_then(|()| remove(&lock_file(&self.path))).map_err(|source| self.failed(source))?;
        self.claim()
    }

    /// A copy takes this place, at once; then it is claimed.
    pub(super) fn take_over(&self, copy: &Path) -> io::Result<Result<Claim, SharedError>> {
        let fresh = self.path.with_extension("new");
        let result = fs::copy(copy, &fresh).and_then(|_| fs::rename(&fresh, &self.path));
        if result.is_err() {
            // It may be what fills the disk.
            let _ = fs::remove_file(&fresh);
        }
        result?;
        remove(&lock_file(&self.path))?;
        Ok(self.claim())
    }

    pub(super) fn make_folder(&self) -> Result<(), SharedError> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(|source| self.failed(source))
    }

    /// Which file lies here, and which lock file.
    pub(super) fn marks(&self) -> [Option<Mark>; 2] {
        [mark(&self.path), mark(&lock_file(&self.path))]
    }

    pub(super) fn failed(&self, source: io::Error) -> SharedError {
        SharedError::Io { path: self.path.clone(), source }
    }
}

impl Claim {
    pub(super) fn of(path: &Path) -> Result<Self, SharedError> {
        let failed = |source| SharedError::Io { path: path.to_owned(), source };
        let open = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let lock = Flock::lock(open.map_err(failed)?, FlockArg::LockExclusiveNonblock);
        lock.map(Claim).map_err(|(_, error)| match error {
            nix::errno::Errno::EAGAIN => SharedError::Taken(path.to_owned()),
            error => failed(error.into()),
        })
    }

    fn mark(&self) -> Option<Mark> {
        self.0.metadata().ok().map(|file| (file.dev(), file.ino()))
    }
}

pub(super) fn mark(path: &Path) -> Option<Mark> {
    path.metadata().ok().map(|file| (file.dev(), file.ino()))
}

/// Makes a file if there is none, with its permissions.
fn permit(path: &Path, permissions: &Permissions) -> Result<(), SharedError> {
    let io = |source| SharedError::Io { path: path.to_owned(), source };
    File::options().append(true).create(true).open(path).map_err(io)?;
    permissions.mode.set(path).map_err(io)?;
    let Some(group) = &permissions.group else { return Ok(()) };
    give_to(path, group).map_err(|reason| SharedError::Group { path: path.to_owned(), group: group.clone(), reason })
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
