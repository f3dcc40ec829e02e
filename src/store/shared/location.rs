//! The location of the shared file: who may write and read it, and how a file is put there.
//!
//! Next to the file is a folder that only its writer may enter (`.shared.mdb`). It contains LMDB's own lock file, new
//! files before they take the shared name, and the claim to all of it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Arc, Weak};
use std::time::Instant;

use bytesize::ByteSize;

use super::entry::{CHECKSUM, checksum};
use super::env::Env;
use super::image::{Image, InvalidFile};
use super::lock_file::LockFile;
use super::locks::Locks;
use super::mapped::Mapped;
use super::replaced::{self, Replaced};
use super::{Config, SharedError, lock_file};
use crate::permissions::own::{self, create, remove};
use crate::permissions::{Claim, Mode, NotClaimed, Permissions, make_folder};

/// The number of slots in LMDB's own lock file: for the floor, and for copying and counting.
const OWN_READERS: u32 = 8;

/// A file is not replaced while this many replaced ones are open in some process: each may keep its memory.
const MAX_REPLACED: usize = 8;

/// The path of the file, and its configuration. No other process may write there while this lives.
#[derive(Debug)]
pub(super) struct FileLocation {
    pub(super) path: PathBuf,
    pub(super) config: Config,
    /// The writer's own folder.
    own: PathBuf,
    /// The lock files that readers may still write.
    pub(super) locks: Locks,
    /// The replaced files, while they are open anywhere.
    pub(super) replaced: Vec<Replaced>,
    claim: Claim,
}

/// What a new file begins with.
#[derive(Debug)]
pub(super) enum Beginning<'a> {
    Nothing,
    /// The newest state of this file.
    State(&'a Env),
    /// The bytes of this file, which was read before and had this sum.
    Copy(&'a Path, FileId, u64),
}

/// A file's device and inode.
pub(super) type FileId = (u64, u64);

impl FileLocation {
    /// The location of the file at `path`, which nobody else writes from now on.
    pub(super) fn claim(path: PathBuf, config: Config) -> Result<Self, SharedError> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let mut hidden = OsString::from(".");
        hidden.push(path.file_name().unwrap_or_default());
        let own = folder.join(hidden);
        let io = |source| SharedError::Io { path: own.clone(), source };
        let unmade = |path: &Path, source| SharedError::Folder { path: path.to_owned(), source };
        make_folder(folder).map_err(|source| unmade(folder, source))?;
        match DirBuilder::new().mode(0o700).create(&own) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unmade(&own, error)),
            _ => {}
        }
        own::check_folder(&own).map_err(io)?;
        Mode(0o700).set(&own, Metadata::is_dir).map_err(io)?;
        let claim = Claim::of(&own.join("shared")).map_err(|why| match why {
            NotClaimed::Held(holder) => SharedError::Taken(path.clone(), holder),
            NotClaimed::Failed(error) => io(error),
        })?;
        let locks = clear(&path, &own).map_err(io)?;
        let current = fs::symlink_metadata(&path).ok().map(|file| file_id(&file));
        let replaced = replaced::found(&own, current).map_err(io)?;
        let fresh = own.join("fresh");
        create(&fresh, 0o600).map_err(io)?;
        // Find out at once whether that is possible.
        permit(&fresh, &config.permissions())?;
        Ok(Self { path, config, own, locks, replaced, claim })
    }

    /// Maps the existing file, which was read before with this sum, if its readers do not notice; otherwise replaces it
    /// by a new one with the same state.
    pub(super) fn adopt(&mut self, read: FileId, sum: u64) -> Result<Mapped, SharedError> {
        permit(&self.path, &self.config.permissions())?;
        let data = own::open_with(&self.path, File::options().read(true).write(true))
            .map_err(|why| self.failed(why.at(&self.path)))?;
        check_read(&data, read, sum).map_err(|source| self.failed(source))?;
        let (env, own) = self.map(&data)?;
        let public = lock_file(&self.path);
        self.locks.cut();
        match LockFile::open(&public, &self.own.join("data-lock"), self.config.max_readers) {
            Ok(lock) => {
                permit(&public, &self.config.lock_permissions())?;
                Mapped::new(env, own, lock, data).map_err(|source| self.failed(source))
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::NotFound {
                    tracing::info!(
                        path = %self.path.display(),
                        "a new shared file takes the place of what was left: it had no lock file"
                    );
                } else {
                    tracing::info!(path = %public.display(), %error, "a new shared file takes the place of what was left");
                }
                self.full().map_err(|full| self.failed(io::Error::other(full)))?;
                let mapped = self.put(Beginning::State(&env))?;
                self.watch((data, Arc::downgrade(&env)));
                Ok(mapped)
            }
        }
    }

    /// Maps this very file, even if it was replaced, with LMDB's own lock file.
    pub(super) fn map(&self, data: &File) -> Result<(Arc<Env>, LockFile), SharedError> {
        let alias = self.own.join("data");
        let target = format!("/proc/self/fd/{}", data.as_raw_fd());
        remove(&alias).and_then(|()| symlink(target, &alias)).map_err(|source| self.failed(source))?;
        self.map_as(&alias)
    }

    /// Puts a new file, and a new lock file for its readers, in place. They are complete before they become visible.
    pub(super) fn put(&mut self, beginning: Beginning<'_>) -> Result<Mapped, SharedError> {
        let [fresh, fresh_lock, model] = ["fresh", "fresh-lock", "model-lock"].map(|name| self.own.join(name));
        let mapped = self.make(&fresh, beginning).and_then(|mapped| {
            // In this order: a reader opens the file first, and must not combine the new one with the old lock file.
            let old = replaced::remember(&self.path, &self.own);
            let put = self.locks.add(&model).and_then(|()| fs::rename(&model, lock_file(&self.path)));
            match put.and_then(|()| fs::rename(&fresh, &self.path)) {
                Ok(()) => {
                    self.replaced.extend(old);
                    Ok(mapped)
                }
                Err(source) => {
                    old.into_iter().for_each(Replaced::forget);
                    Err(self.failed(source))
                }
            }
        });
        if mapped.is_err() {
            // They may be what fills the disk.
            for left in [fresh, fresh_lock, model] {
                let _ = fs::remove_file(left);
            }
        }
        mapped
    }

    fn make(&self, fresh: &Path, beginning: Beginning<'_>) -> Result<Mapped, SharedError> {
        let io = |source| self.failed(source);
        let model = self.model().map_err(io)?;
        let mut file = create(fresh, 0o600).map_err(io)?;
        match beginning {
            Beginning::Nothing => {}
            Beginning::State(env) => env.copy_to(&file).map_err(|source| self.not_mapped(source))?,
            Beginning::Copy(from, read, sum) => {
                let mut from = own::open(from).map_err(|why| io(why.at(from)))?;
                check_read(&from, read, sum).map_err(io)?;
                io::copy(&mut from, &mut file).map_err(io)?;
            }
        }
        let (env, own) = self.map_as(fresh)?;
        permit(fresh, &self.config.permissions())?;
        let lock = LockFile::open(&model, &model, self.config.max_readers).map_err(io)?;
        permit(&model, &self.config.lock_permissions())?;
        Mapped::new(env, own, lock, file).map_err(io)
    }

    fn map_as(&self, alias: &Path) -> Result<(Arc<Env>, LockFile), SharedError> {
        let own = lock_file(alias);
        let size = self.config.max_size;
        let env = Env::writer(alias, size, OWN_READERS).map_err(|source| self.not_mapped(source))?;
        let lock = LockFile::open(&own, &own, OWN_READERS).map_err(|source| self.failed(source))?;
        Ok((env, lock))
    }

    /// A lock file newly created by LMDB.
    fn model(&self) -> io::Result<PathBuf> {
        let model = self.own.join("model");
        remove(&model)?;
        let made = Env::writer(&model, ByteSize::mib(1), self.config.max_readers).map(drop);
        remove(&model)?;
        made.map_err(|error| match error {
            lmdb::Error::Other(code) => io::Error::from_raw_os_error(code),
            error => io::Error::other(error.to_string()),
        })?;
        Ok(lock_file(&model))
    }

    /// Starts to watch a file that was replaced.
    pub(super) fn watch(&mut self, old: (File, Weak<Env>)) {
        let which = old.0.metadata().ok().map(|data| file_id(&data));
        match self.replaced.iter_mut().find(|known| known.file_id() == which) {
            Some(known) => known.env = old.1,
            None => self.replaced.extend(Replaced::of(old, &self.own).ok()),
        }
    }

    /// Takes over what was known of the location before it was claimed again.
    pub(super) fn take(&mut self, before: Self) {
        self.locks.take(before.locks);
        // If it is open twice here, it never seems to be closed.
        self.replaced.retain(|found| before.replaced.iter().all(|known| known.file_id() != found.file_id()));
        self.replaced.extend(before.replaced);
    }

    /// Closes everything whose end the new holder of the claim waits for.
    pub(super) fn leave(&mut self) {
        self.locks.leave();
        self.replaced.clear();
    }

    /// Why no more files can be replaced.
    pub(super) fn full(&self) -> Result<(), String> {
        if self.replaced.len() < MAX_REPLACED {
            return Ok(());
        }
        let (sidecar, files) = (process::id(), self.replaced.iter().map(Replaced::as_open_here).collect::<Vec<_>>());
        Err(format!(
            "processes have {MAX_REPLACED} files open that were replaced before: end those, but for the sidecar's \
             {sidecar}, that `fuser -v {}` names",
            files.join(" ")
        ))
    }

    /// Removes what readers used to fill the file system, and forgets what they can no longer fill: except for the
    /// `mapped` lock file, which may be put back.
    pub(super) fn make_room(&mut self, mapped: Option<FileId>, now: Instant) {
        self.locks.cut();
        let [_, current] = self.ids();
        self.locks.forget([current, mapped]);
        self.replaced.retain(|old| old.empty(now));
    }

    /// Whether its own folder still exists. If not, the location has to be claimed again.
    pub(super) fn is_there(&self) -> bool {
        self.claim.is_there()
    }

    /// The ids of the file and the lock file that are in place.
    pub(super) fn ids(&self) -> [Option<FileId>; 2] {
        [self.path.clone(), lock_file(&self.path)]
            .map(|path| fs::symlink_metadata(path).ok().map(|file| file_id(&file)))
    }

    pub(super) fn failed(&self, source: io::Error) -> SharedError {
        SharedError::Put { path: self.path.clone(), source }
    }

    fn not_mapped(&self, source: lmdb::Error) -> SharedError {
        SharedError::Map { path: self.path.clone(), source }
    }
}

/// LMDB trusts what it maps, so it has to be the very file that was read as an [`super::image::Image`].
fn check_read(file: &File, read: FileId, sum: u64) -> io::Result<()> {
    if file_id(&file.metadata()?) == read && has_sum(file, sum)? {
        return Ok(());
    }
    Err(io::Error::other("another file lies in the place of the one that was read"))
}

/// Whether its checksum matches this sum, which also detects another file with the same inode number.
///
/// # Errors
/// If it cannot be read now, for example without a free descriptor: that says nothing about its content.
pub(super) fn has_sum(file: &File, sum: u64) -> io::Result<bool> {
    let image = file.try_clone().map_err(InvalidFile::Unreadable).and_then(Image::of);
    match image.and_then(|image| image.get(CHECKSUM)) {
        // Nothing was written yet to one without a checksum.
        Ok(written) => Ok(written.map_or(sum == 0, |written| written == checksum(sum))),
        Err(InvalidFile::Unreadable(error)) => Err(error),
        Err(_) => Ok(false),
    }
}

pub(super) fn file_id(file: &Metadata) -> FileId {
    (file.dev(), file.ino())
}

/// Frees what an earlier process left on the file system, before anything needs room there: what readers wrote beyond
/// the ends of its lock files, and files that only it knew. Returns the lock files that readers may still write.
fn clear(path: &Path, own: &Path) -> io::Result<Locks> {
    let locks = Locks::found(own)?;
    let lock = lock_file(path);
    // A process ended between the two renames of `put`: readers of the file have another lock file, or none.
    let is_new = fs::symlink_metadata(own.join("fresh")).is_ok_and(|fresh| fresh.is_file() && fresh.len() > 0);
    if is_new && !own.join("model-lock").exists() {
        remove(&lock)?;
    }
    match fs::symlink_metadata(&lock) {
        Ok(found) if !locks.has_sound(file_id(&found)) => {
            tracing::warn!(
                path = %lock.display(),
                "remove what lies in the location of the shared file's lock file: an earlier version or somebody else made \
                 it, the hidden folder beside it was removed, or a reader gave it more attributes than can be removed"
            );
            // If that fails, whatever needs its place later reports why.
            let _ = remove(&lock);
        }
        _ => {}
    }
    for name in ["data-lock", "fresh", "fresh-lock", "model", "model-lock"] {
        remove(&own.join(name))?;
    }
    Ok(locks)
}

/// Sets the permissions of a file.
fn permit(path: &Path, permissions: &Permissions) -> Result<(), SharedError> {
    let failed = |source| SharedError::Permissions { path: path.to_owned(), source };
    permissions.set(path, Metadata::is_file).map_err(failed)
}
