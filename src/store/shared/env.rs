//! The LMDB environment of the shared file, and what of LMDB its Rust binding does not offer.
#![allow(unsafe_code)] // LMDB is a C library; here are the only calls of it that the binding does not make for us.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

#[cfg(any(test, feature = "fuzz"))]
use lmdb::{Cursor, Transaction};
use lmdb::{Database, Environment, EnvironmentFlags, Error, RoTransaction, RwTransaction};
use nix::errno::Errno;

use super::Config;
use super::place::{Mark, mark};

/// What this process has mapped. LMDB must not map a file twice in one process: closing the one ends the locks of the
/// other, and the process with them.
static MAPPED: Mutex<BTreeMap<Mark, Weak<Env>>> = Mutex::new(BTreeMap::new());

/// A reader's slot is of its transaction, not of its thread: a thread that ends while the file is unmapped would touch it.
const FLAGS: EnvironmentFlags = EnvironmentFlags::NO_SUB_DIR.union(EnvironmentFlags::NO_TLS);

/// A mapped file, with all of it in LMDB's unnamed database: that is the one which PHP's `dba` reads.
#[derive(Debug)]
pub(super) struct Env {
    /// There until this is dropped.
    inner: Option<Environment>,
    pub(super) db: Database,
    mark: Option<Mark>,
    writes: bool,
}

impl Env {
    /// Maps a file, which no reader of this process has mapped, whose folder, lock file and permissions are in order, and
    /// to which nobody else writes. One that is not empty has been read as an [`super::image::Image`]: LMDB trusts it.
    pub(super) fn writer(path: &Path, config: &Config) -> Result<Arc<Self>, Error> {
        const PAGE: usize = 65_536;
        let size = (config.max_size.as_u64() as usize).next_multiple_of(PAGE);
        // Nothing is synced: the file outlives this process in the memory of the kernel, and the machine on disk.
        let flags = FLAGS | EnvironmentFlags::NO_SYNC;
        Self::open(
            Environment::new().set_flags(flags).set_map_size(size).set_max_readers(config.max_readers),
            path,
            true,
        )
    }

    /// Maps a file that another process writes.
    pub(super) fn reader(path: &Path) -> Result<Arc<Self>, Error> {
        Self::open(Environment::new().set_flags(FLAGS | EnvironmentFlags::READ_ONLY), path, false)
    }

    fn open(options: &lmdb::EnvironmentBuilder, path: &Path, writes: bool) -> Result<Arc<Self>, Error> {
        loop {
            let (mut mapped, mark) = (mapped(), mark(path));
            match mark.and_then(|mark| mapped.get(&mark)).map(Weak::upgrade) {
                None => {
                    let inner = options.open_with_permissions(path, 0o600)?;
                    let env = Arc::new(Self { db: inner.open_db(None)?, inner: Some(inner), mark, writes });
                    mapped.extend(mark.map(|mark| (mark, Arc::downgrade(&env))));
                    return Ok(env);
                }
                // Its last user is gone, and about to unmap it.
                Some(None) => {
                    drop(mapped);
                    thread::yield_now();
                }
                Some(Some(env)) => {
                    // `env` may be the last of its users.
                    drop(mapped);
                    return if writes && !env.writes { Err(Error::Other(Errno::EBUSY as i32)) } else { Ok(env) };
                }
            }
        }
    }

    fn inner(&self) -> &Environment {
        self.inner.as_ref().expect("it is there until the end")
    }

    pub(super) fn write(&self) -> Result<RwTransaction<'_>, Error> {
        self.inner().begin_rw_txn()
    }

    /// Keeps the newest state, and those that come after it, from being written over while it lives.
    pub(super) fn pin(&self) -> Result<RoTransaction<'_>, Error> {
        self.inner().begin_ro_txn()
    }

    /// All that it holds, in the order of the keys.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn entries(&self) -> Result<Vec<super::fuzz::Pair>, Error> {
        let transaction = self.pin()?;
        let mut cursor = transaction.open_ro_cursor(self.db)?;
        cursor.iter().map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
    }

    /// How many slots of readers were ever taken, and how many there are.
    pub(super) fn readers(&self) -> Result<(u32, u32), Error> {
        self.inner().info().map(|info| (info.num_readers(), info.max_readers()))
    }

    /// Frees the slots of readers that died; how many.
    pub(super) fn clear_dead_readers(&self) -> Result<usize, Error> {
        let mut dead = 0;
        // SAFETY: the environment is open as long as `self` lives, and LMDB locks its table of readers itself.
        let code = unsafe { lmdb_sys::mdb_reader_check(self.inner().env(), &mut dead) };
        if code == 0 { Ok(dead as usize) } else { Err(Error::from_err_code(code)) }
    }

    /// Writes the newest state, without the free pages, into an empty file.
    pub(super) fn copy_to(&self, file: &File) -> Result<(), Error> {
        // SAFETY: the environment is open as long as `self` lives, and the file as long as the call.
        let code = unsafe { lmdb_sys::mdb_env_copyfd2(self.inner().env(), file.as_raw_fd(), lmdb_sys::MDB_CP_COMPACT) };
        if code == 0 { Ok(()) } else { Err(Error::from_err_code(code)) }
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        let mut mapped = mapped();
        self.inner = None;
        self.mark.iter().for_each(|mark| drop(mapped.remove(mark)));
    }
}

fn mapped() -> MutexGuard<'static, BTreeMap<Mark, Weak<Env>>> {
    MAPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_mapped_again_only_when_it_is_unmapped() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("shared.mdb");
        File::create(&path).expect("a file");
        let at = mark(&path).expect("a file");
        // As while its last user waits to unmap it.
        mapped().insert(at, Weak::new());
        thread::scope(|scope| {
            let opening = scope.spawn(|| Env::writer(&path, &Config::default()).map(drop));
            for _ in 0..1_000 {
                assert!(!opening.is_finished(), "it is mapped twice");
                thread::yield_now();
            }
            mapped().remove(&at);
            opening.join().expect("no panic").expect("it is mapped");
        });
        assert!(!mapped().contains_key(&at));
    }

    #[test]
    fn a_writer_does_not_get_what_a_reader_has_mapped() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("shared.mdb");
        File::create(&path).expect("a file");
        let write = || Env::writer(&path, &Config::default());
        drop(write().expect("a writer"));
        let reader = Env::reader(&path).expect("a reader");
        assert!(write().is_err());
        drop(reader);
        write().expect("a writer").write().expect("a transaction");
    }
}
