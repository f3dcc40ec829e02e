//! The engine: an LMDB file of this process alone, before which lies a log that makes one transaction after the other durable.
//!
//! LMDB syncs twice, and writes whole pages. So many transactions are one of LMDB's, which stays open in memory while what
//! each of them did is written to the log. Once that is full, LMDB commits, and the log begins anew. Until then the file is as
//! it was: what the log says is done again at the next start.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lmdb::{Cursor, Database, Environment, EnvironmentFlags, RwTransaction, Transaction, WriteFlags};
use lmdb_sys::MDB_SET_RANGE;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use xxhash_rust::xxh3::Xxh3;

use super::config::{Config, Durability};
use super::keys;
use super::log::{Entry, Found, Log, Record};
use crate::permissions::own::{self, NotOwn};
use crate::permissions::{Mode, make_folder};
use crate::store::shared::{Image, InvalidFile};

/// The files in the queue's folder.
const FILE: &str = "jobs.mdb";
const LOG: &str = "jobs.log";

/// Nobody else opens the file, so nothing is locked, and no reader's state is kept.
const FLAGS: EnvironmentFlags =
    EnvironmentFlags::NO_SUB_DIR.union(EnvironmentFlags::NO_LOCK).union(EnvironmentFlags::NO_TLS);

/// What of the file may lie idle: pages that are half empty, pieces that are too small for a large payload, and errors, for
/// which nobody is charged. It is address space, and no room on the disk before it is needed: also a file that is full has
/// room to take jobs away.
const SLACK: usize = 8;
const LEAST: usize = 64 << 20;
const PAGE: usize = 65_536;

/// So many entries are changed before LMDB commits: their pages are in memory until then, and may be as many.
const MAX_CHANGES: usize = 16_384;

/// How much room the file has in advance, for each byte of the log and beside that: what was acknowledged must find it, where
/// it is written in pieces, each of which leaves its pages to those after it.
const RESERVE: usize = 4;
const RESERVE_OF_PIECES: usize = 128 << 10;

#[derive(Debug)]
pub(super) struct Engine {
    env: Environment,
    db: Database,
    /// The same file, to reserve room for it.
    file: File,
    log: Log,
    /// How long what is acknowledged may wait for its sync.
    sync_within: Option<Duration>,
}

/// What happens at once, or not at all, and then what does next. After a commit that has failed it is of no use but to be
/// rolled back.
pub(super) struct Txn<'e> {
    env: &'e Environment,
    db: Database,
    file: &'e File,
    log: &'e mut Log,
    sync_within: Option<Duration>,
    inner: Option<RwTransaction<'e>>,
    record: Record,
    /// The last value that was put, whose memory the next one has.
    sealed: Vec<u8>,
    /// How many entries were changed since LMDB committed.
    changes: usize,
    has_room: bool,
    /// When the oldest record was written that is not synced.
    unsynced_since: Option<Instant>,
    /// Whether some of what the log said is lost, which the file does not say yet.
    has_gap: bool,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    #[error("{source}{}", hint(.source))]
    Lmdb {
        #[from]
        source: lmdb::Error,
    },
    #[error("{source}{}", hint_of_disk(*.source))]
    Disk { source: Errno },
    #[error("an entry is damaged")]
    Damaged,
    #[error("it is of another format: {0}; run the version of roster that wrote it, or a newer one")]
    Format(u32),
    #[error("it has jobs, and {0}")]
    OtherUse(String),
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
    pub(super) fn open(folder: &Path, config: &Config) -> Result<Self, NotOpened> {
        let failed = |error| NotOpened::Folder { folder: folder.to_owned(), error };
        make_private(folder).map_err(failed)?;
        let path = file_in(folder);
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file() || found.len() > 0) {
            check(&path)?;
        }
        let size = (config.max_bytes.as_u64() as usize).saturating_mul(SLACK).saturating_add(LEAST);
        let open = || -> Result<_, EngineError> {
            let size = size.next_multiple_of(PAGE);
            let env = Environment::new().set_flags(FLAGS).set_map_size(size).open_with_permissions(&path, 0o600)?;
            Ok((env.open_db(None)?, env))
        };
        let (db, env) = open().map_err(|error| NotOpened::File { file: path.clone(), error })?;
        let file = own::open_with(&path, File::options().read(true).write(true)).map_err(|why| not_own(why, &path))?;
        let path = log_in(folder);
        let log = Log::open(&path).map_err(|why| not_own(why, &path))?;
        // Else files that are new would be lost with the machine's power, whatever is synced in them.
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        let sync_within = (config.durability == Durability::Batched).then_some(config.sync_interval);
        Ok(Self { env, db, file, log, sync_within })
    }

    /// Begins where the last commit ended.
    pub(super) fn begin(&mut self) -> Result<Txn<'_>, EngineError> {
        let mut txn = Txn {
            env: &self.env,
            db: self.db,
            file: &self.file,
            log: &mut self.log,
            sync_within: self.sync_within,
            inner: None,
            record: Record::new(),
            sealed: Vec::new(),
            changes: 0,
            has_room: false,
            unsynced_since: None,
            has_gap: false,
        };
        txn.roll_back()?;
        Ok(txn)
    }
}

impl EngineError {
    /// Whether the transaction must fail in which it occurs.
    pub(super) fn is_of_the_file(&self) -> bool {
        !matches!(self, Self::Damaged)
    }

    /// Whether it is so as long as the files are as they are.
    pub(super) fn is_of_what_was_read(&self) -> bool {
        matches!(self, Self::Format(_) | Self::OtherUse(_))
    }

    /// Whether there is no room for the transaction, of which nothing was written then.
    pub(super) fn is_lack_of_room(&self) -> bool {
        match self {
            Self::Lmdb { source: lmdb::Error::MapFull } => true,
            Self::Disk { source } => matches!(source, Errno::ENOSPC | Errno::EDQUOT),
            Self::Lmdb { source: lmdb::Error::Other(code) } => {
                // The last is LMDB's word for a write that was cut short.
                matches!(Errno::from_raw(*code), Errno::ENOSPC | Errno::EDQUOT | Errno::EIO)
            }
            _ => false,
        }
    }
}

impl From<io::Error> for EngineError {
    fn from(error: io::Error) -> Self {
        Self::Disk { source: Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO)) }
    }
}

impl<'e> Txn<'e> {
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        match self.inner()?.get(self.db, &key) {
            Ok(value) => unsealed(key, value).map(Some),
            Err(lmdb::Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let mut sealed = std::mem::take(&mut self.sealed);
        seal(key, value, &mut sealed);
        let put = self.put_unsealed(key, &sealed);
        self.sealed = sealed;
        put
    }

    /// As damage would, where the value is not sealed.
    pub(super) fn put_unsealed(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        self.write(key, Some(value))?;
        self.record.push(key, Some(value));
        Ok(())
    }

    pub(super) fn delete(&mut self, key: &[u8]) -> Result<(), EngineError> {
        self.write(key, None)?;
        self.record.push(key, None);
        Ok(())
    }

    /// The key of the first entry from `from` on that begins with `prefix`.
    pub(super) fn first(&self, prefix: &[u8], from: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let cursor = self.inner()?.open_ro_cursor(self.db)?;
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

    /// When this returns, all that was done since the last commit is on the disk; where syncs are batched, it outlives this
    /// process, and is on the disk in time.
    pub(super) fn commit(&mut self) -> Result<(), EngineError> {
        self.changes += self.record.entries();
        let is_full = !self.log.has_room(&self.record);
        let committed = match is_full || self.changes > MAX_CHANGES {
            true => self.commit_to_file().or_else(|error| self.commit_after_log(error)),
            false => self.log(),
        };
        self.record.clear();
        if committed.is_err() {
            self.inner = None;
        } else if is_full {
            // It can do without.
            let _ = self.log.grow();
        }
        committed
    }

    /// Where there is no room for all that was done since LMDB committed, what the log says goes to the file in pieces, and
    /// what was not acknowledged yet after it.
    fn commit_after_log(&mut self, error: EngineError) -> Result<(), EngineError> {
        if !error.is_lack_of_room() || self.log.is_empty() {
            return Err(error);
        }
        let mut record = std::mem::replace(&mut self.record, Record::new());
        self.roll_back()?;
        if self.has_gap()? {
            return Err(EngineError::Damaged);
        }
        for entry in record.written() {
            let (key, value) = entry.ok_or(EngineError::Damaged)?;
            self.write(key, value)?;
        }
        self.changes = record.entries();
        std::mem::swap(&mut self.record, &mut record);
        if self.log.has_room(&self.record) { self.log() } else { self.commit_to_file() }
    }

    fn log(&mut self) -> Result<(), EngineError> {
        self.log.append(&mut self.record)?;
        match self.sync_within {
            Some(_) => _ = self.unsynced_since.get_or_insert_with(Instant::now),
            None => self.log.sync()?,
        }
        Ok(())
    }

    /// Has LMDB commit, after which the log begins anew.
    fn commit_to_file(&mut self) -> Result<(), EngineError> {
        let generation = fastrand::u64(..);
        if self.has_gap {
            self.write(keys::GAP, Some(&sealed(keys::GAP, &[])))?;
        }
        self.write(keys::GENERATION, Some(&sealed(keys::GENERATION, &generation.to_be_bytes())))?;
        self.inner.take().ok_or(lmdb::Error::BadTxn)?.commit()?;
        self.log.begin(generation);
        (self.changes, self.has_room, self.has_gap, self.unsynced_since) = (0, false, false, None);
        self.inner = Some(self.env.begin_rw_txn()?);
        Ok(())
    }

    /// Leaves the log empty.
    pub(super) fn close(mut self) -> Result<(), EngineError> {
        if self.log.is_empty() { Ok(()) } else { self.commit_to_file() }
    }

    /// Undoes what was done since the last commit. What the log says is written to the file, and its pages anew: after an
    /// error of the disk nobody knows which of them it has.
    pub(super) fn roll_back(&mut self) -> Result<(), EngineError> {
        // LMDB has one at a time.
        self.inner = None;
        self.inner = Some(self.env.begin_rw_txn()?);
        self.record.clear();
        (self.changes, self.has_gap) = (0, false);
        let generation = match self.get(keys::GENERATION) {
            Ok(Some(generation)) => generation.try_into().ok().map(u64::from_be_bytes),
            // It had no log yet.
            Ok(None) => return self.commit_to_file(),
            Err(EngineError::Damaged) => None,
            Err(error) => return Err(error),
        };
        let found = generation.map(|generation| self.log.read(generation)).transpose()?;
        self.has_gap = found.as_ref().is_none_or(|found| found.has_gap);
        let Some(found) = found else { return self.commit_to_file() };
        if found.is_empty() {
            return Ok(());
        }
        self.redo(&found)
    }

    /// Writes what the log says to the file, at once or, where there is no room for that, in pieces: what one no longer needs
    /// is there for those after it. Cut short, all of them are done again, which comes to the same.
    fn redo(&mut self, found: &Found) -> Result<(), EngineError> {
        let entries: Vec<_> = found.entries().collect::<Option<_>>().ok_or(EngineError::Damaged)?;
        let (mut rest, mut size) = (entries.as_slice(), entries.len());
        loop {
            let (piece, after) = rest.split_at(size.min(rest.len()));
            let is_last = after.is_empty();
            match self.redo_piece(piece, is_last) {
                Ok(()) if is_last => return Ok(()),
                Ok(()) => rest = after,
                Err(error) if error.is_lack_of_room() && size > 1 => size = size.min(rest.len()).div_ceil(2),
                Err(error) => return Err(error),
            }
            if !is_last || self.inner.is_none() {
                self.inner = None;
                self.inner = Some(self.env.begin_rw_txn()?);
            }
        }
    }

    fn redo_piece(&mut self, piece: &[Entry<'_>], is_last: bool) -> Result<(), EngineError> {
        for (key, value) in piece {
            self.write(key, *value)?;
        }
        match is_last {
            true => self.commit_to_file(),
            false => Ok(self.inner.take().ok_or(lmdb::Error::BadTxn)?.commit()?),
        }
    }

    /// Whether some of what was done is lost, and what is counted may be wrong.
    pub(super) fn has_gap(&self) -> Result<bool, EngineError> {
        Ok(sound(self.get(keys::GAP))?.is_none_or(|gap| gap.is_some()))
    }

    /// Has the file have room for what the log takes. Where the file system cannot tell, it may turn out later that there is
    /// none: then nothing is lost, and nothing more is done until there is.
    pub(super) fn ensure_room(&mut self) -> Result<(), EngineError> {
        if self.has_room {
            return Ok(());
        }
        let (length, more) = (self.file.metadata()?.len(), RESERVE * self.log.size() + RESERVE_OF_PIECES);
        match fallocate(self.file.as_fd(), FallocateFlags::FALLOC_FL_KEEP_SIZE, length as i64, more as i64) {
            Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {}
            Err(source) => return Err(EngineError::Disk { source }),
        }
        self.has_room = true;
        Ok(())
    }

    /// How long what is acknowledged may wait yet for its sync.
    pub(super) fn sync_in(&self) -> Option<Duration> {
        Some(self.sync_within?.saturating_sub(self.unsynced_since?.elapsed()))
    }

    pub(super) fn sync(&mut self) -> Result<(), EngineError> {
        self.unsynced_since = None;
        Ok(self.log.sync()?)
    }

    fn inner(&self) -> Result<&RwTransaction<'e>, EngineError> {
        Ok(self.inner.as_ref().ok_or(lmdb::Error::BadTxn)?)
    }

    fn write(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), EngineError> {
        let inner = self.inner.as_mut().ok_or(lmdb::Error::BadTxn)?;
        let written = match value {
            Some(value) => inner.put(self.db, &key, &value, WriteFlags::empty()),
            None => inner.del(self.db, &key, None),
        };
        match written {
            Ok(()) | Err(lmdb::Error::NotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

pub(super) fn file_in(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

pub(super) fn log_in(folder: &Path) -> PathBuf {
    folder.join(LOG)
}

/// What shows that somebody has changed the files: of each its number, its length, and when it was written last.
pub(super) type Stamp = [Option<(u64, u64, i64, i64)>; 2];

pub(super) fn stamp(folder: &Path) -> Stamp {
    [file_in(folder), log_in(folder)].map(|file| {
        let found = fs::metadata(file).ok()?;
        Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    })
}

/// Sets a file aside that cannot be opened, with the log of what follows; where it lies then.
pub(super) fn set_aside(file: &Path, now: u64) -> io::Result<PathBuf> {
    let aside = |file: &Path| {
        let mut aside = file.as_os_str().to_owned();
        aside.push(format!(".set-aside-{now}"));
        PathBuf::from(aside)
    };
    let log = file.with_file_name(LOG);
    match fs::rename(&log, aside(&log)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::rename(file, aside(file))?,
    }
    Ok(aside(file))
}

/// A folder that is for our user alone: payloads may be secret. One that others may enter and that has files of theirs is not
/// taken from them.
pub(super) fn make_private(folder: &Path) -> io::Result<()> {
    folder.parent().map_or(Ok(()), make_folder)?;
    match fs::create_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Err(_) if fs::symlink_metadata(folder)?.is_file() => {
            return Err(io::Error::other("it is a file; name a folder as `queue.path`"));
        }
        Err(_) => {
            own::check_folder(folder)?;
            if fs::metadata(folder)?.mode() & 0o077 != 0
                && let Some(other) = other_file_in(folder)?
            {
                let why = format!(
                    "others may enter it, and it has {other:?}, which is not of the queues; name a folder of their own as \
                     `queue.path`"
                );
                return Err(io::Error::other(why));
            }
        }
    }
    Mode(0o700).set(folder, fs::Metadata::is_dir)
}

/// What lies in a folder that is not of the queues, nor of the file system.
fn other_file_in(folder: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.trim_start_matches('.').starts_with("jobs.") && name != "lost+found" {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn not_own(why: NotOwn, path: &Path) -> NotOpened {
    match why {
        NotOwn::Io(error) => NotOpened::File { file: path.to_owned(), error: error.into() },
        why => NotOpened::NotOwn(why.at(path)),
    }
}

/// That LMDB can work with a file.
fn check(file: &Path) -> Result<(), NotOpened> {
    let image = Image::open_own(file).and_then(|image| image.walk(&mut |_, _| Ok(())));
    image.map_err(|error| match error {
        InvalidFile::NotOwn(why) => not_own(why, file),
        InvalidFile::Unreadable(error) => not_own(NotOwn::Io(error), file),
        error => NotOpened::Damaged { file: file.to_owned(), error },
    })
}

/// A value behind a checksum that is also of its key.
fn seal(key: &[u8], value: &[u8], sealed: &mut Vec<u8>) {
    sealed.clear();
    sealed.extend_from_slice(&sum(key, value).to_be_bytes());
    sealed.extend_from_slice(value);
}

fn sealed(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::new();
    seal(key, value, &mut sealed);
    sealed
}

pub(super) fn unsealed(key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, EngineError> {
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
    match error {
        lmdb::Error::MapFull => "; raise queue.max_bytes",
        lmdb::Error::Other(code) => hint_of_disk(Errno::from_raw(*code)),
        _ => "",
    }
}

fn hint_of_disk(error: Errno) -> &'static str {
    match error {
        Errno::EIO | Errno::ENOSPC | Errno::EDQUOT => "; is there room on its file system?",
        _ => "",
    }
}
