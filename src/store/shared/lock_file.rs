//! The lock file of the shared file's readers. LMDB makes readers write it, so nothing in it is trusted: it is never
//! mapped here, never waited for, and its content is only considered within limits.
//!
//! Its format is that of LMDB 0.9 on 64-bit Linux (`mdb.c`: `MDB_txninfo`, `MDB_reader`), which locks its reader table
//! by a mutex in the file, the whole by a lock on its first byte, and each process by a lock on the byte at its pid.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, fallocate, fcntl};
use nix::libc;
use nix::time::{ClockId, clock_gettime};
use xattr::FileExt as _;

use crate::permissions::own::{self, NotOwn};

/// The magic number, the format, and the kind of mutex: never changed once the file is created.
const STAMPS: [std::ops::Range<usize>; 2] = [0..8, 24..28];
/// The state of the table's mutex: its holder.
const MUTEX: usize = 8;
const MUTEX_OWNER: u32 = 0x3fff_ffff;
const TRANSACTION: u64 = 48;
const COUNT: u64 = 56;
const HEADER: usize = 128;
const SLOT: usize = 64;
/// Within a slot: the transaction, then the process.
const SLOT_PROCESS: usize = 8;

/// Above any pid of Linux.
const MAX_PROCESS: i64 = (1 << 22) + 1;

/// The most locks for each slot of the table: a process keeps its own even without a slot.
const LOCKS_A_SLOT: usize = 2;

/// How long the kernel may take per lock and query, for one of two locks: it goes through all of them each time.
const TIME_A_LOCK: Duration = Duration::from_nanos(200);
const MAX_LOCK_TIME: Duration = Duration::from_millis(500);

/// The block size in which file sizes are counted.
pub(super) const BLOCK: u64 = 512;

/// With many readers starting, the mutex may well be held at one look; but not at each of these, a moment apart.
const MUTEX_CHECKS: usize = 5;
const MUTEX_CHECK_INTERVAL: Duration = Duration::from_millis(1);

/// How long a lock file may be damaged before the file is replaced. Every reader holds the mutex for a moment.
const DAMAGED_GRACE: Duration = Duration::from_secs(2);

/// The lock file under the shared file's name, or LMDB's own of its writer.
#[derive(Debug)]
pub(super) struct LockFile {
    file: File,
    stamps: Vec<u8>,
    size: u64,
    is_held: bool,
    fault: Option<(String, Instant)>,
}

/// A reader that keeps a state from being overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pin {
    pub(super) transaction: u64,
    process: i32,
}

impl LockFile {
    /// Opens the one at `path` with slots for this many readers, which otherwise must be like `model`, just created by
    /// LMDB.
    pub(super) fn open(path: &Path, model: &Path, readers: u32) -> io::Result<Self> {
        let stamps = stamps(&fs::read(model)?);
        let file = own::open_with(path, File::options().read(true).write(true)).map_err(|why| why.at(path))?;
        let size = file.metadata()?.len();
        let mut lock = Self { file, stamps, size: Self::size(readers), is_held: false, fault: None };
        // A process that has a larger one mapped needs all of it.
        let other = (size != lock.size).then(|| "it is of another size".to_owned());
        match other.or_else(|| lock.disorder()) {
            None => allocate(&lock.file, lock.size).map(|()| lock),
            Some(why) => Err(io::Error::new(io::ErrorKind::InvalidData, why)),
        }
    }

    /// Opens the one that an earlier process left at `path`, no larger than `size` if that process made it: only to
    /// truncate it.
    pub(super) fn left(path: &Path, size: u64) -> Result<Self, NotOwn> {
        let file = own::open_with(path, File::options().write(true))?;
        Ok(Self { file, stamps: Vec::new(), size, is_held: false, fault: None })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Creates the one that LMDB maps at `path`, with slots for this many readers.
    pub(super) fn make(path: &Path, readers: u32) -> io::Result<()> {
        allocate(&own::create(path, 0o600)?, Self::size(readers))
    }

    /// The size of one with slots for this many readers.
    pub(super) fn size(readers: u32) -> u64 {
        HEADER as u64 + SLOT as u64 * u64::from(readers)
    }

    /// Shows readers the newest transaction.
    pub(super) fn publish(&self, transaction: u64) -> io::Result<()> {
        self.file.write_all_at(&transaction.to_ne_bytes(), TRANSACTION)
    }

    /// Makes LMDB, whose own lock file this is, leave alone what a reader of this state may still read. Call it before
    /// anyone reads: LMDB counts its readers under a mutex that is not taken here.
    pub(super) fn take_floor(&self, transaction: u64) -> io::Result<()> {
        self.set_floor(transaction)?;
        // No process can have this pid.
        self.file.write_all_at(&i32::MAX.to_ne_bytes(), (HEADER + SLOT_PROCESS) as u64)?;
        let count = self.bytes()?.count().max(1);
        self.file.write_all_at(&count.to_ne_bytes(), COUNT)
    }

    /// Moves the floor that was taken.
    pub(super) fn set_floor(&self, transaction: u64) -> io::Result<()> {
        self.file.write_all_at(&transaction.to_ne_bytes(), HEADER as u64)
    }

    /// The reader of the oldest state among these.
    pub(super) fn oldest(&self, among: RangeInclusive<u64>) -> io::Result<Option<Pin>> {
        let bytes = self.bytes()?;
        let pins = bytes.taken().map(|(_, transaction, process)| Pin { transaction, process });
        Ok(pins.filter(|pin| among.contains(&pin.transaction)).min_by_key(|pin| pin.transaction))
    }

    /// The process in words for an operator: the kernel reports which process has locked the byte of its pid.
    pub(super) fn name(&self, pin: Pin) -> String {
        let locked = self.locked(pin.process.into(), 1);
        locked.map_or_else(|| format!("a reader ({})", claimed(pin.process)), |lock| named(lock.l_pid))
    }

    /// For a lock file next to a shared file: how many reader slots were ever taken, and how many there are. None:
    /// there is none, or LMDB could not use it immediately.
    pub(super) fn slots(path: &Path) -> Option<(u32, u32)> {
        let (file, mut header) = (File::open(path).ok()?, vec![0; HEADER]);
        file.read_exact_at(&mut header, 0).ok()?;
        // Not the whole file: a reader can make it as large as it likes.
        let slots = file.metadata().ok()?.len().saturating_sub(HEADER as u64) / SLOT as u64;
        let (header, slots) = (Bytes(header), u32::try_from(slots).unwrap_or(u32::MAX));
        let is_free = header.mutex_holder().is_none() && header.count() <= slots;
        is_free.then(|| (header.count(), slots))
    }

    /// Repairs what can be repaired in place, and frees the slots of dead readers. Returns what has been damaged for
    /// long.
    pub(super) fn tend(&mut self, now: Instant) -> Option<&str> {
        let since = self.fault.as_ref().map_or(now, |(_, since)| *since);
        self.fault = self.disorder().map(|why| (why, since));
        self.fault.as_ref().filter(|(_, since)| *since + DAMAGED_GRACE <= now).map(|(why, _)| why.as_str())
    }

    /// Removes what a reader has written, or allocated, beyond its end: it may be meant to fill the disk.
    pub(super) fn cut(&self) {
        let Ok(found) = self.file.metadata() else { return };
        let room = self.size.next_multiple_of(found.blksize().max(1));
        if found.len() > self.size || found.blocks() * BLOCK > room {
            let _ = self.file.set_len(found.len().min(self.size));
        }
    }

    /// Removes extended attributes that a reader has set, which may be meant for the same; or says why it cannot.
    pub(super) fn strip(&self) -> io::Result<()> {
        let names = match self.file.list_xattr() {
            // This file system has none.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(()),
            names => names?,
        };
        let of_users = names.filter(|name| name.as_encoded_bytes().starts_with(b"user."));
        let removed = of_users.into_iter().map(|name| match self.file.remove_xattr(name) {
            // The reader was faster.
            Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(()),
            removed => removed,
        });
        removed.fold(Ok(()), Result::and)
    }

    fn disorder(&mut self) -> Option<String> {
        let failed = |error: io::Error| format!("it cannot be read: {error}");
        match self.file.metadata() {
            Err(error) => return Some(failed(error)),
            Ok(it) if it.len() < self.size => return Some("a reader cut it off".into()),
            Ok(_) => {}
        }
        if let Err(error) = self.strip() {
            return Some(format!("it has attributes that cannot be removed: {error}"));
        }
        let bytes = match self.bytes() {
            Ok(bytes) => bytes,
            Err(error) => return Some(failed(error)),
        };
        if stamps(&bytes.0) != self.stamps {
            return Some("a reader wrote over it".into());
        }
        if bytes.count() > bytes.slots() {
            let _ = self.file.write_all_at(&bytes.slots().to_ne_bytes(), COUNT);
        }
        if let Some(holder) = self.mutex_holder(&bytes) {
            return Some(format!("a process holds the mutex of its table ({})", claimed(holder)));
        }
        self.hold().or_else(|| self.tidy(&bytes))
    }

    /// The holder of the mutex, if it is held at each of several looks, not always by the same process.
    fn mutex_holder(&self, bytes: &Bytes) -> Option<i32> {
        let mut holder = bytes.mutex_holder()?;
        for _ in 1..MUTEX_CHECKS {
            thread::sleep(MUTEX_CHECK_INTERVAL);
            holder = self.bytes().map_or(Some(holder), |bytes| bytes.mutex_holder())?;
        }
        Some(holder)
    }

    /// Keeps others from taking it for their own file, as every process does that has it open. Returns what keeps us
    /// from it.
    fn hold(&mut self) -> Option<String> {
        let shared = flock(libc::F_RDLCK, 0, 1);
        self.is_held = self.is_held || fcntl(&self.file, FcntlArg::F_OFD_SETLK(&shared)).is_ok();
        if self.is_held { None } else { Some(format!("{} has locked it", self.holder(0, 1))) }
    }

    /// Frees the slots of the dead. Returns which living process has taken more than one slot.
    fn tidy(&self, bytes: &Bytes) -> Option<String> {
        let locks = match self.locks(bytes.slots()) {
            Ok(locks) => locks,
            Err(why) => return Some(why),
        };
        let mut living: HashMap<i32, u32> = HashMap::new();
        for (slot, _, process) in bytes.taken() {
            if locks.contains(&process.into()) {
                *living.entry(process).or_insert(0) += 1;
            } else {
                let _ = self.file.write_all_at(&[0; 4], (HEADER + slot * SLOT + SLOT_PROCESS) as u64);
            }
        }
        let most = living.into_iter().max_by_key(|(_, taken)| *taken);
        let (process, _) = most.filter(|(_, taken)| *taken > 1 && *taken > bytes.slots() / 2)?;
        Some(format!("{} has taken most places of its table", self.holder(process.into(), 1)))
    }

    /// The bytes that processes have locked, each at its own pid; or which process has locked other bytes, or too many.
    fn locks(&self, slots: u32) -> Result<HashSet<i64>, String> {
        let (mut locks, mut parts, most) = (HashSet::new(), vec![(1, 0)], LOCKS_A_SLOT * slots as usize);
        let began = own_time();
        while let Some((start, length)) = parts.pop() {
            let Some(lock) = self.locked(start, length) else { continue };
            let who = || named(lock.l_pid);
            if lock.l_len != 1 || lock.l_start >= MAX_PROCESS {
                return Err(format!("{} has locked it", who()));
            }
            if locks.len() == most {
                return Err(format!("more than {most} processes seem to have locked it, among them {}", who()));
            }
            if own_time().saturating_sub(began) > MAX_LOCK_TIME.min(TIME_A_LOCK * slots.saturating_mul(slots)) {
                return Err(format!("there are too many locks on it, among them of {}", who()));
            }
            locks.insert(lock.l_start);
            let before = lock.l_start - start;
            let after = if length == 0 { 0 } else { length - before - 1 };
            // A range of length 0 extends to the end.
            parts.extend((before > 0).then_some((start, before)));
            parts.extend((length == 0 || after > 0).then_some((lock.l_start + 1, after)));
        }
        Ok(locks)
    }

    fn holder(&self, start: i64, length: i64) -> String {
        named(self.locked(start, length).map_or(0, |lock| lock.l_pid))
    }

    /// The first lock of another process on these bytes; a length of 0: to the end.
    fn locked(&self, start: i64, length: i64) -> Option<libc::flock> {
        let mut lock = flock(libc::F_WRLCK, start, length);
        let asked = fcntl(&self.file, FcntlArg::F_OFD_GETLK(&mut lock));
        asked.ok().filter(|_| lock.l_type != libc::F_UNLCK as libc::c_short).map(|_| lock)
    }

    fn bytes(&self) -> io::Result<Bytes> {
        let mut bytes = vec![0; self.size as usize];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(Bytes(bytes))
    }
}

/// The content of a lock file.
struct Bytes(Vec<u8>);

impl Bytes {
    fn count(&self) -> u32 {
        self.u32_at(COUNT as usize)
    }

    fn slots(&self) -> u32 {
        (self.0.len().saturating_sub(HEADER) / SLOT) as u32
    }

    /// The taken slots: their numbers, transactions and processes.
    fn taken(&self) -> impl Iterator<Item = (usize, u64, i32)> {
        let slots = self.0.get(HEADER..).unwrap_or_default().chunks_exact(SLOT).take(self.count() as usize);
        let slots = slots.enumerate().filter_map(|(number, slot)| {
            let transaction = u64::from_ne_bytes(*slot.first_chunk()?);
            Some((number, transaction, i32::from_ne_bytes(*slot[SLOT_PROCESS..].first_chunk()?)))
        });
        slots.filter(|(_, _, process)| *process != 0)
    }

    fn mutex_holder(&self) -> Option<i32> {
        Some((self.u32_at(MUTEX) & MUTEX_OWNER) as i32).filter(|holder| *holder != 0)
    }

    fn u32_at(&self, at: usize) -> u32 {
        self.0.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }
}

/// Allocates all of it on the file system, if possible: touching a mapped page without room kills the process.
fn allocate(file: &File, size: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, size as i64) {
        Err(Errno::EOPNOTSUPP) => Ok(file.set_len(size)?),
        result => Ok(result?),
    }
}

/// The CPU time of this thread.
fn own_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has had this clock since 2.6").into()
}

fn stamps(bytes: &[u8]) -> Vec<u8> {
    STAMPS.into_iter().flat_map(|range| bytes.get(range).unwrap_or_default()).copied().collect()
}

fn flock(kind: libc::c_int, start: i64, length: i64) -> libc::flock {
    let (l_type, l_whence) = (kind as libc::c_short, libc::SEEK_SET as libc::c_short);
    libc::flock { l_type, l_whence, l_start: start, l_len: length, l_pid: 0 }
}

/// A process in words for an operator. The kernel does not identify one of another container.
fn named(process: i32) -> String {
    match fs::read_to_string(format!("/proc/{process}/comm")) {
        Ok(name) if process > 0 => format!("process {process} ({})", name.trim_end().escape_debug()),
        _ if process > 0 => format!("process {process}"),
        _ => "a process of another container".into(),
    }
}

/// A process as the lock file names it, which may be wrong: each of its readers can write that.
fn claimed(process: i32) -> String {
    format!("the file says {}, and any reader may have written that", named(process))
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;

    use super::*;

    const READERS: u32 = 1_024;

    fn put(path: &Path, at: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(path).expect("a file");
        file.write_all_at(bytes, at).expect("written");
    }

    /// A lock file as LMDB creates it, and its folder.
    fn made() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        drop(super::super::Env::writer(&data, ByteSize::mib(1), READERS).expect("a file"));
        (folder, data.with_file_name("data-lock"))
    }

    #[test]
    fn what_readers_say_counts_within_bounds_alone() {
        let (_folder, path) = made();
        let lock = LockFile::open(&path, &path, READERS).expect("it is in order");
        for (slot, transaction) in [7_u64, 4, u64::MAX, 2_000].into_iter().enumerate() {
            put(&path, (HEADER + slot * SLOT) as u64, &transaction.to_ne_bytes());
            put(&path, (HEADER + slot * SLOT + SLOT_PROCESS) as u64, &1_i32.to_ne_bytes());
        }
        put(&path, COUNT, &4_u32.to_ne_bytes());
        let oldest = |among| lock.oldest(among).expect("read").map(|pin| pin.transaction);
        assert_eq!((oldest(5..=1_000), oldest(1..=1_000), oldest(8..=1_000)), (Some(7), Some(4), None));
        put(&path, COUNT, &u32::MAX.to_ne_bytes());
        assert_eq!(oldest(5..=1_000), Some(7));
    }

    #[test]
    fn what_stays_out_of_order_is_told_and_what_passes_is_not() {
        let (_folder, path) = made();
        let mut lock = LockFile::open(&path, &path, READERS).expect("it is in order");
        let start = Instant::now();
        put(&path, MUTEX as u64, &1_u32.to_ne_bytes());
        assert_eq!(lock.tend(start), None, "every reader holds it for a moment");
        put(&path, MUTEX as u64, &0_u32.to_ne_bytes());
        assert_eq!(lock.tend(start + DAMAGED_GRACE), None);
        put(&path, MUTEX as u64, &1_u32.to_ne_bytes());
        lock.tend(start);
        let why = lock.tend(start + DAMAGED_GRACE).expect("why");
        assert!(why.starts_with("a process holds the mutex of its table (the file says process 1"), "{why}");
    }

    #[test]
    fn a_process_is_named_as_the_holder_of_a_state_only_where_the_kernel_knows_it() {
        let (_folder, path) = made();
        let lock = LockFile::open(&path, &path, READERS).expect("it is in order");
        let named = lock.name(Pin { transaction: 1, process: 1 });
        assert!(named.starts_with("a reader (the file says process 1"), "{named}");
        let reader = File::options().read(true).write(true).open(&path).expect("a file");
        fcntl(&reader, FcntlArg::F_OFD_SETLK(&flock(libc::F_WRLCK, 1, 1))).expect("it is free");
        assert_eq!(lock.name(Pin { transaction: 1, process: 1 }), "a process of another container");
    }

    #[test]
    fn what_is_too_long_is_cut_when_asked_alone() {
        let (_folder, path) = made();
        let mut lock = LockFile::open(&path, &path, READERS).expect("it is in order");
        let size = || fs::metadata(&path).expect("a file").len();
        let whole = size();
        lock.file.set_len(1 << 20).expect("larger");
        assert_eq!(lock.tend(Instant::now()), None);
        assert_eq!(size(), 1 << 20);
        lock.cut();
        assert_eq!(size(), whole);
    }

    #[test]
    fn faults_that_take_turns_are_one() {
        let (_folder, path) = made();
        let mut lock = LockFile::open(&path, &path, READERS).expect("it is in order");
        let start = Instant::now();
        for half_second in 0..4_u32 {
            put(&path, MUTEX as u64, &(1 + half_second % 2).to_ne_bytes());
            assert_eq!(lock.tend(start + DAMAGED_GRACE * half_second / 4), None);
        }
        assert!(lock.tend(start + DAMAGED_GRACE).is_some());
    }

    #[test]
    fn many_locks_of_one_byte_are_too_many() {
        let (_folder, path) = made();
        let mut lock = LockFile::open(&path, &path, READERS).expect("it is in order");
        let files = [0, 1].map(|_| File::options().read(true).write(true).open(&path).expect("a file"));
        let lock_byte = |byte: i64| {
            let one = flock(libc::F_WRLCK, byte, 1);
            fcntl(&files[byte as usize % 2], FcntlArg::F_OFD_SETLK(&one)).expect("it is free");
        };
        let (start, slots) = (Instant::now(), i64::from(Bytes(fs::read(&path).expect("a file")).slots()));
        (1..=2 * slots).for_each(|number| lock_byte(10_000 + number));
        let locks = lock.locks(slots as u32).expect("not yet");
        assert!(locks.len() as i64 == 2 * slots && locks.contains(&10_001));
        assert!(lock.tend(start).is_none() && lock.tend(start + DAMAGED_GRACE).is_none());
        lock_byte(10_000);
        lock.tend(start);
        assert!(lock.tend(start + DAMAGED_GRACE).is_some_and(|why| why.starts_with("more than")));
    }

    #[test]
    fn the_floor_moves_while_somebody_reads() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data");
        let env = super::super::Env::writer(&path, ByteSize::mib(1), READERS).expect("a file");
        let own = path.with_file_name("data-lock");
        let lock = LockFile::open(&own, &own, READERS).expect("it is in order");
        lock.take_floor(1).expect("taken");
        let _reading = env.pin().expect("a transaction");
        let before = fs::read(&own).expect("a lock file");
        lock.set_floor(7).expect("moved");
        let mut expected = before.clone();
        expected[HEADER..HEADER + SLOT_PROCESS].copy_from_slice(&7_u64.to_ne_bytes());
        assert_eq!(Bytes(before).count(), 2, "the floor and the reader");
        assert!(fs::read(&own).expect("a lock file") == expected, "nothing but the floor was written");
    }

    #[test]
    fn a_lock_file_that_is_not_like_the_model_is_not_taken() {
        let (_folder, model) = made();
        let (_other, path) = made();
        assert!(LockFile::open(&path, &model, READERS).is_ok());
        put(&path, 0, &[0xff; 8]);
        assert!(LockFile::open(&path, &model, READERS).is_err());
        let (_third, path) = made();
        File::options().write(true).open(&path).and_then(|file| file.set_len(1 << 20)).expect("larger");
        assert!(LockFile::open(&path, &model, READERS).is_err());
    }
}
