//! The engine: an LMDB file of this process alone, in which one transaction after the other is made durable.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use lmdb::{Cursor, Database, Environment, EnvironmentFlags, RwTransaction, Transaction, WriteFlags};
use lmdb_sys::MDB_SET_RANGE;
use xxhash_rust::xxh3::Xxh3;

use crate::permissions::own::{self, NotOwn};
use crate::permissions::{Mode, make_folder};
use crate::store::shared::{Image, InvalidFile};

/// The file in the queue's folder.
const FILE: &str = "jobs.mdb";

/// Nobody else opens the file, so nothing is locked, and no reader's state is kept.
const FLAGS: EnvironmentFlags =
    EnvironmentFlags::NO_SUB_DIR.union(EnvironmentFlags::NO_LOCK).union(EnvironmentFlags::NO_TLS);

/// What of the file may lie idle: pages that are half empty, pieces that are too small for a large payload, and errors, for
/// which nobody is charged. It is address space, and no room on the disk before it is needed: also a file that is full has
/// room to take jobs away.
const SLACK: usize = 8;
const LEAST: usize = 64 << 20;
const PAGE: usize = 65_536;

#[derive(Debug)]
pub(super) struct Engine {
    env: Environment,
    db: Database,
}

/// What happens at once, or not at all.
pub(super) struct Txn<'e> {
    inner: RwTransaction<'e>,
    db: Database,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    #[error("{source}{}", hint(.source))]
    Lmdb {
        #[from]
        source: lmdb::Error,
    },
    #[error("an entry is damaged")]
    Damaged,
    #[error("it is of another format: {0}")]
    Format(u32),
}

/// Why the file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotOpened {
    #[error("cannot make {}: {error}", folder.display())]
    Folder { folder: PathBuf, error: io::Error },
    #[error("cannot open {}: {error}", file.display())]
    File { file: PathBuf, error: EngineError },
    #[error(transparent)]
    NotOwn(io::Error),
    /// It is to be set aside.
    #[error("{} {error}", file.display())]
    Damaged { file: PathBuf, error: InvalidFile },
}

impl Engine {
    /// Opens the file in a folder, or makes it. LMDB trusts what it maps: so the whole file is read before as bytes.
    pub(super) fn open(folder: &Path, max_bytes: ByteSize) -> Result<Self, NotOpened> {
        let failed = |error| NotOpened::Folder { folder: folder.to_owned(), error };
        make_private(folder).map_err(failed)?;
        let file = file_in(folder);
        if fs::symlink_metadata(&file).is_ok_and(|found| !found.is_file() || found.len() > 0) {
            check(&file)?;
        }
        let size = (max_bytes.as_u64() as usize).saturating_mul(SLACK).saturating_add(LEAST).next_multiple_of(PAGE);
        let open = || -> Result<Self, EngineError> {
            let env = Environment::new().set_flags(FLAGS).set_map_size(size).open_with_permissions(&file, 0o600)?;
            Ok(Self { db: env.open_db(None)?, env })
        };
        let engine = open().map_err(|error| NotOpened::File { file: file.clone(), error })?;
        // Else a file that is new would be lost with the machine's power, whatever is synced in it.
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(engine)
    }

    /// How many transactions there have been.
    #[cfg(test)]
    pub(super) fn transactions(&self) -> usize {
        self.env.info().expect("it is open").last_txnid()
    }

    pub(super) fn begin(&self) -> Result<Txn<'_>, EngineError> {
        Ok(Txn { inner: self.env.begin_rw_txn()?, db: self.db })
    }
}

impl EngineError {
    /// Whether the transaction must fail in which it occurs.
    pub(super) fn is_of_the_file(&self) -> bool {
        !matches!(self, Self::Damaged)
    }

    /// Whether there is no room for the transaction, of which nothing was written then.
    pub(super) fn is_lack_of_room(&self) -> bool {
        use nix::errno::Errno;
        match self {
            Self::Lmdb { source: lmdb::Error::MapFull } => true,
            Self::Lmdb { source: lmdb::Error::Other(code) } => {
                // The last is LMDB's word for a write that was cut short.
                matches!(Errno::from_raw(*code), Errno::ENOSPC | Errno::EDQUOT | Errno::EIO)
            }
            _ => false,
        }
    }
}

impl Txn<'_> {
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        match self.inner.get(self.db, &key) {
            Ok(value) => unsealed(key, value).map(Some),
            Err(lmdb::Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        Ok(self.inner.put(self.db, &key, &sealed(key, value), WriteFlags::empty())?)
    }

    /// As damage would.
    #[cfg(test)]
    pub(super) fn put_unsealed(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        Ok(self.inner.put(self.db, &key, &value, WriteFlags::empty())?)
    }

    pub(super) fn delete(&mut self, key: &[u8]) -> Result<(), EngineError> {
        match self.inner.del(self.db, &key, None) {
            Ok(()) | Err(lmdb::Error::NotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The key of the first entry from `from` on that begins with `prefix`.
    pub(super) fn first(&self, prefix: &[u8], from: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let cursor = self.inner.open_ro_cursor(self.db)?;
        match cursor.get(Some(from), None, MDB_SET_RANGE) {
            Ok((key, _)) => Ok(key.filter(|key| key.starts_with(prefix)).map(<[u8]>::to_vec)),
            Err(lmdb::Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The keys that begin with `prefix`, in their order.
    pub(super) fn keys<'t>(&'t self, prefix: &'t [u8]) -> impl Iterator<Item = Result<Vec<u8>, EngineError>> + 't {
        let mut from = Some(prefix.to_vec());
        std::iter::from_fn(move || {
            let key = self.first(prefix, from.as_ref()?).transpose()?;
            from = key.as_ref().ok().map(|key| super::keys::after(key));
            Some(key)
        })
    }

    /// When this returns, all of it is on the disk.
    pub(super) fn commit(self) -> Result<(), EngineError> {
        Ok(self.inner.commit()?)
    }
}

pub(super) fn file_in(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// Sets a file aside that cannot be opened; where it lies then.
pub(super) fn set_aside(file: &Path, now: u64) -> io::Result<PathBuf> {
    let mut aside = file.as_os_str().to_owned();
    aside.push(format!(".set-aside-{now}"));
    fs::rename(file, &aside)?;
    Ok(aside.into())
}

/// A folder that is for our user alone: payloads may be secret.
pub(super) fn make_private(folder: &Path) -> io::Result<()> {
    folder.parent().map_or(Ok(()), make_folder)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => own::check_folder(folder)?,
    }
    Mode(0o700).set(folder, fs::Metadata::is_dir)
}

/// That LMDB can work with a file.
fn check(file: &Path) -> Result<(), NotOpened> {
    let image = Image::open_own(file).and_then(|image| image.walk(&mut |_, _| Ok(())));
    image.map_err(|error| match error {
        InvalidFile::NotOwn(NotOwn::Io(error)) | InvalidFile::Unreadable(error) => NotOpened::File {
            file: file.to_owned(),
            error: lmdb::Error::Other(error.raw_os_error().unwrap_or(0)).into(),
        },
        InvalidFile::NotOwn(why) => NotOpened::NotOwn(why.at(file)),
        error => NotOpened::Damaged { file: file.to_owned(), error },
    })
}

/// A value behind a checksum that is also of its key.
fn sealed(key: &[u8], value: &[u8]) -> Vec<u8> {
    [&sum(key, value).to_be_bytes(), value].concat()
}

fn unsealed(key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, EngineError> {
    let (sum_then, value) = sealed.split_first_chunk().ok_or(EngineError::Damaged)?;
    if u64::from_be_bytes(*sum_then) == sum(key, value) { Ok(value.to_vec()) } else { Err(EngineError::Damaged) }
}

fn sum(key: &[u8], value: &[u8]) -> u64 {
    let mut sum = Xxh3::new();
    sum.update(key);
    sum.update(value);
    sum.digest()
}

/// What a value is, or nothing if it is damaged.
pub(super) fn sound<T>(read: Result<T, EngineError>) -> Result<Option<T>, EngineError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(EngineError::Damaged) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What an operator can do about it.
fn hint(error: &lmdb::Error) -> &'static str {
    use nix::errno::Errno;
    match error {
        lmdb::Error::MapFull => "; raise queue.max_bytes",
        lmdb::Error::Other(code) if matches!(Errno::from_raw(*code), Errno::EIO | Errno::ENOSPC | Errno::EDQUOT) => {
            "; is there room on its file system?"
        }
        _ => "",
    }
}
