//! The LMDB environment of the shared file, and the parts of LMDB that its Rust binding does not offer.
#![allow(unsafe_code)] // LMDB is a C library; here are the only calls of it that the binding does not make for us.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::Arc;

use bytesize::ByteSize;
#[cfg(any(test, feature = "fuzz"))]
use lmdb::Cursor;
use lmdb::{Database, Environment, EnvironmentFlags, Error, RoTransaction, RwTransaction, Transaction};
use lmdb_sys::{MDB_NEXT, MDB_NOTFOUND, MDB_SET_RANGE, MDB_val};

use super::lock_file;
use super::lock_file::LockFile;

/// A reader's slot belongs to its transaction, not to its thread: a thread that ends while the file is unmapped would
/// touch it.
const FLAGS: EnvironmentFlags = EnvironmentFlags::NO_SUB_DIR.union(EnvironmentFlags::NO_TLS);

/// LMDB's own database of free pages: for each transaction that freed some, a list that begins with its length.
const FREE_PAGES: lmdb_sys::MDB_dbi = 0;

/// A mapped file, with everything in LMDB's unnamed database: that is the one PHP's `dba` reads.
#[derive(Debug)]
pub(super) struct Env {
    inner: Environment,
    pub(super) db: Database,
}

impl Env {
    /// Maps a file under a name for which nobody else has a lock file; creates one with slots for this many readers. A
    /// file that is not empty must have been read as an [`super::image::Image`]: LMDB trusts it.
    pub(super) fn writer(path: &Path, max_size: ByteSize, readers: u32) -> Result<Arc<Self>, Error> {
        const PAGE: usize = 65_536;
        let size = (max_size.as_u64() as usize).next_multiple_of(PAGE);
        // Nothing is synced: the file outlives this process in the kernel's memory, and a reboot as the copy on disk.
        let flags = FLAGS | EnvironmentFlags::NO_SYNC;
        LockFile::make(&lock_file(path), readers).map_err(|error| Error::Other(error.raw_os_error().unwrap_or(0)))?;
        Self::open(Environment::new().set_flags(flags).set_map_size(size).set_max_readers(readers), path)
    }

    /// Maps a file that another process writes, like readers in other languages: once at a time in one process.
    pub(super) fn reader(path: &Path) -> Result<Arc<Self>, Error> {
        Self::open(Environment::new().set_flags(FLAGS | EnvironmentFlags::READ_ONLY), path)
    }

    fn open(options: &lmdb::EnvironmentBuilder, path: &Path) -> Result<Arc<Self>, Error> {
        let inner = options.open_with_permissions(path, 0o600)?;
        Ok(Arc::new(Self { db: inner.open_db(None)?, inner }))
    }

    pub(super) fn write(&self) -> Result<RwTransaction<'_>, Error> {
        self.inner.begin_rw_txn()
    }

    /// Keeps the current state, and later ones, from being overwritten while this lives.
    pub(super) fn pin(&self) -> Result<RoTransaction<'_>, Error> {
        self.inner.begin_ro_txn()
    }

    /// The number of the last transaction.
    pub(super) fn transaction(&self) -> Result<u64, Error> {
        self.inner.info().map(|info| info.last_txnid() as u64)
    }

    /// Its whole content, ordered by key.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn entries(&self) -> Result<Vec<super::fuzz::Pair>, Error> {
        let transaction = self.pin()?;
        let mut cursor = transaction.open_ro_cursor(self.db)?;
        cursor.iter().map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
    }

    /// How many bytes were freed after this transaction, and are not reused while its state may be read. What it freed itself
    /// is in no state from its own on.
    pub(super) fn freed_after(&self, transaction: u64) -> Result<u64, Error> {
        let pages_of = |list: &MDB_val| {
            // SAFETY: LMDB says that the value exists, and the transaction below keeps it; it begins with a length.
            if list.mv_size >= 8 { unsafe { list.mv_data.cast::<u64>().read_unaligned() } } else { 0 }
        };
        let reading = self.pin()?;
        let (mut cursor, mut from, mut pages) = (null_mut(), transaction + 1, 0);
        let mut key = MDB_val { mv_size: 8, mv_data: (&raw mut from).cast() };
        let mut list = MDB_val { mv_size: 0, mv_data: null_mut() };
        // SAFETY: the environment and the transaction are open until the cursor is closed; the key is of eight bytes,
        // as those of this database are.
        let ended = unsafe {
            let mut code = lmdb_sys::mdb_cursor_open(reading.txn(), FREE_PAGES, &mut cursor);
            if code == 0 {
                code = lmdb_sys::mdb_cursor_get(cursor, &mut key, &mut list, MDB_SET_RANGE);
                while code == 0 {
                    pages += pages_of(&list);
                    code = lmdb_sys::mdb_cursor_get(cursor, &mut key, &mut list, MDB_NEXT);
                }
                lmdb_sys::mdb_cursor_close(cursor);
            }
            code
        };
        let page_size = u64::from(self.inner.stat()?.page_size());
        if ended == MDB_NOTFOUND { Ok(pages * page_size) } else { Err(Error::from_err_code(ended)) }
    }

    /// Writes the newest state, without free pages, to an empty file.
    pub(super) fn copy_to(&self, file: &File) -> Result<(), Error> {
        // SAFETY: the environment is open while `self` lives, and the file during the call.
        let code = unsafe { lmdb_sys::mdb_env_copyfd2(self.inner.env(), file.as_raw_fd(), lmdb_sys::MDB_CP_COMPACT) };
        if code == 0 { Ok(()) } else { Err(Error::from_err_code(code)) }
    }
}
