//! The writer: follows the store, and writes the accumulated changes as one transaction.

mod upkeep;

use std::borrow::Borrow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use imbl::OrdMap;
use lmdb::Error;
use nix::errno::Errno;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::copy::Written;
use super::entry::{self, FileStatus};
use super::location::{FileId, FileLocation};
use super::mapped::{Mapped, Room};
use super::restored_masters::RestoredMasters;
use super::write_txn::WriteTxn;
use super::{Contents, Env};
use crate::metrics::Metrics;
use crate::model::{Node, NodePath, Revision};
use crate::store::{Directory, Feed, Snapshot, Store};
use crate::task::Stop;

/// How often the status is rewritten, so that readers know that the writer is alive.
pub(super) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// The minimum interval between transactions, so that not much of the file waits for readers of replaced states.
const MIN_COMMIT_INTERVAL: Duration = Duration::from_millis(5);

/// After a transaction that took at least this long, the next one waits four times as long, so that long lists that
/// change constantly do not take a whole processor, but no longer than a reader may be kept waiting.
const COOLDOWN_THRESHOLD: Duration = Duration::from_millis(2);
const MAX_COOLDOWN: Duration = Duration::from_millis(250);

/// How often to retry writing masters for which there was no room.
const MASTERS_RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// After a transaction of this many entries the file is unmapped, and mapped again by the next one: LMDB keeps the
/// memory of all pages that its largest transaction has written.
const UNMAP_THRESHOLD: usize = 8_192;

/// The rest of the message may change with each attempt, without being another problem.
const NODES_TAKE: &str = "; paths and data of nodes take ";

const NOT_WRITTEN: &str = "cannot write the shared file, which grows old";
const WRITTEN: &str = "the shared file is written, but not all is in order";

/// Writes the file. Nothing else does.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) location: FileLocation,
    origin: Origin,
    /// None: the file does not exist yet.
    pub(super) mapped: Option<Mapped>,
    /// Whether the location was claimed again, and the file was not checked since.
    is_claim_new: bool,
    /// When a file may be replaced again.
    not_before: Option<Instant>,
    /// When to retry putting a file in place, and why that failed.
    not_put: Option<(Instant, String)>,
    /// Why it is about to be replaced,
    fault: Option<String>,
    /// and why it is not in place.
    missing: Option<String>,
    /// What the file holds,
    nodes: OrdMap<NodePath, Arc<Node>>,
    /// as far as this process wrote it, of what nodes register
    registered: Directory,
    /// and of masters,
    directory: Directory,
    /// the keys of what nodes registered that an earlier process left, until that is rewritten,
    left: Vec<Vec<u8>>,
    /// and what stays in it from before until all masters are known;
    restored: RestoredMasters,
    /// and the sum behind its checksum.
    sum: u64,
    /// About how many bytes of the file are about masters; a part is reserved for nodes.
    of_masters: u64,
    /// The status when masters were last written,
    status: Option<FileStatus>,
    /// and the masters that stay since there is no room for newer ones, with the time of the next attempt.
    standing: Option<(RestoredMasters, Instant)>,
}

/// Where the file comes from.
#[derive(Debug)]
pub(super) enum Origin {
    Nothing,
    /// It is in place: the one that was read,
    Here(FileId),
    /// or created with the bytes of this one.
    Copy(PathBuf, FileId),
}

/// What to write.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) snapshot: Arc<Snapshot>,
    status: FileStatus,
    with_masters: bool,
}

/// Keeps the file up to date with the store, until the stop. Reports the revision of each transaction.
pub(super) async fn follow(
    mut writer: Writer,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    written: watch::Sender<Written>,
    stop: Stop,
) {
    let revisions = store.subscribe_to_revisions();
    let mut heartbeat = interval(HEARTBEAT_INTERVAL);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (is_beat, is_last) = tokio::select! {
            () = revisions.changed() => (false, false),
            _ = heartbeat.tick() => (true, false),
            () = stop.requested() => (true, true),
        };
        if is_last {
            // Retry what failed a moment ago.
            writer.not_put = None;
        }
        let began = Instant::now();
        let result = writer.make_ready(is_beat, began).and_then(|room| match room {
            Room::Pinned(who) if !is_last => Err(who),
            Room::Later if !is_last => Ok(None),
            _ => writer.renew(&store).map(Some).map_err(|error| writer.why(&store, &error)),
        });
        let revision = result.as_ref().ok().and_then(|written| written.map(|(revision, _)| revision));
        let is_large = matches!(result, Ok(Some((_, entries))) if entries >= UNMAP_THRESHOLD && !is_last);
        let is_to_unmap = is_large || result.is_err() && writer.is_broken();
        // Even if nothing was written: the copier must not keep the previous file.
        written.send_modify(|(last, env)| {
            *last = revision.unwrap_or(*last);
            *env = writer.env().ok().filter(|_| !is_to_unmap && *last > 0);
        });
        if is_to_unmap {
            writer.unmap();
        }
        let is_late = matches!(result, Ok(None));
        if !is_late {
            if result.is_ok() {
                metrics.shared_writes.increment()
            } else {
                metrics.shared_failures.increment()
            }
            let failure = result.err().map(|why| (NOT_WRITTEN, why));
            let trouble = failure.or_else(|| writer.trouble().map(|why| (WRITTEN, why)));
            log_trouble(&metrics, trouble, &writer.location.path);
        }
        if is_last {
            return;
        }
        let took = began.elapsed();
        let rest = if is_late || took >= COOLDOWN_THRESHOLD {
            (took * 4).max(MIN_COMMIT_INTERVAL).min(MAX_COOLDOWN)
        } else {
            MIN_COMMIT_INTERVAL.saturating_sub(took)
        };
        tokio::select! {
            () = sleep(rest) => {}
            () = stop.requested() => {}
        }
    }
}

impl Writer {
    /// For a file that holds `here`, which an earlier process left.
    pub(super) fn new(
        location: FileLocation,
        origin: Origin,
        here: Option<&Contents>,
        feeds: &[impl Borrow<Feed>],
    ) -> Self {
        Self {
            location,
            origin,
            mapped: None,
            is_claim_new: false,
            not_before: None,
            not_put: None,
            fault: None,
            missing: None,
            nodes: here.map_or_else(OrdMap::new, |here| here.nodes.clone()),
            registered: Directory::default(),
            directory: Directory::default(),
            left: here.map_or_else(Vec::new, |here| here.registered.iter().map(|(key, _)| key.clone()).collect()),
            restored: here.map_or_else(RestoredMasters::nothing, |here| RestoredMasters::of(here, feeds)),
            sum: here.map_or(0, |here| here.sum),
            of_masters: here.map_or(0, |here| here.of_masters.iter().map(|(key, value)| entry::room(key, value)).sum()),
            status: None,
            standing: None,
        }
    }

    pub(super) fn env(&self) -> Result<Arc<Env>, Error> {
        self.mapped.as_ref().and_then(|mapped| mapped.env.clone()).ok_or(Error::Invalid)
    }

    /// Whether LMDB refuses all work until the file is mapped again, since the last step of a commit failed.
    pub(super) fn is_broken(&self) -> bool {
        self.env().is_ok_and(|env| env.pin().err() == Some(Error::Panic))
    }

    /// Brings the file up to date with the store; returns the revision, and how many entries were written.
    pub(super) fn renew(&mut self, store: &Store) -> Result<(Revision, usize), Error> {
        let due = self.due(store);
        let entries = self.write(&due)?;
        if let Some(Err(error)) = self.mapped.as_ref().map(Mapped::publish) {
            return Err(Error::Other(error.raw_os_error().unwrap_or(0)));
        }
        Ok((due.snapshot.revision(), entries))
    }

    /// What to write of the newest snapshot.
    pub(super) fn due(&self, store: &Store) -> Due {
        let (snapshot, (status, with_masters)) = store.vouched(|snapshot| {
            let restored = self.masters_beside(snapshot);
            (FileStatus::of(snapshot, restored, SystemTime::now()), restored.is_none())
        });
        Due { snapshot, status, with_masters }
    }

    /// The masters that stay in the file instead of the snapshot's; None: the snapshot's are written.
    fn masters_beside(&self, snapshot: &Snapshot) -> Option<&RestoredMasters> {
        // Before all masters are known, the known ones are incomplete; those of an earlier process are not.
        if !snapshot.behind_masters().all(|(_, progress)| progress.whole) {
            return Some(&self.restored);
        }
        self.standing.as_ref().filter(|(_, again)| *again > Instant::now()).map(|(restored, _)| restored)
    }

    /// Brings the file to the snapshot's state; returns how many entries were written. If it fails, the file stays as
    /// it was, including its status: its age then grows for readers, as it must. If there is no room for masters, they
    /// stay as they were, and nodes are written.
    pub(super) fn write(&mut self, Due { snapshot, status, with_masters }: &Due) -> Result<usize, Error> {
        if !with_masters {
            return self.write_nodes(snapshot, status);
        }
        match self.write_all(snapshot, status) {
            Err(Error::MapFull) if snapshot.directory().masters("").next().is_some() => {}
            result => return result,
        }
        let of_last = self.status.get_or_insert_with(|| unwritten(snapshot));
        let restored = RestoredMasters::standing(of_last);
        let status = FileStatus::of(snapshot, Some(&restored), SystemTime::now());
        let entries = self.write_nodes(snapshot, &status)?;
        self.standing = Some((restored, Instant::now() + MASTERS_RETRY_INTERVAL));
        Ok(entries)
    }

    fn write_all(&mut self, snapshot: &Snapshot, status: &FileStatus) -> Result<usize, Error> {
        let env = self.env()?;
        let mut txn = self.write_txn(&env, snapshot)?;
        txn.remove(&self.restored.keys)?;
        let max = self.location.config.max_size.as_u64() / 2;
        txn.masters(&self.directory, snapshot, max)?;
        txn.marks(status)?;
        let entries = self.commit(txn, snapshot)?;
        (self.directory, self.restored) = (snapshot.directory().clone(), RestoredMasters::nothing());
        (self.status, self.standing) = (Some(status.clone()), None);
        Ok(entries)
    }

    /// Writes no masters.
    fn write_nodes(&mut self, snapshot: &Snapshot, status: &FileStatus) -> Result<usize, Error> {
        let env = self.env()?;
        let mut txn = self.write_txn(&env, snapshot)?;
        txn.marks(status)?;
        self.commit(txn, snapshot)
    }

    /// A transaction with the nodes, and what they register.
    fn write_txn<'e>(&self, env: &'e Env, snapshot: &Snapshot) -> Result<WriteTxn<'e>, Error> {
        let mut txn = WriteTxn::begin(env, self.sum, self.of_masters)?;
        if self.nodes.is_empty() {
            txn.remove_marks()?;
        }
        txn.nodes(&self.nodes, snapshot)?;
        txn.instances(&self.registered, snapshot)?;
        txn.forget_instances(&self.left, snapshot)?;
        Ok(txn)
    }

    fn commit(&mut self, txn: WriteTxn<'_>, snapshot: &Snapshot) -> Result<usize, Error> {
        let (entries, of_masters) = (txn.entries, txn.of_masters);
        self.sum = txn.commit()?;
        self.of_masters = of_masters;
        (self.nodes, self.registered) = (snapshot.nodes().clone(), snapshot.directory().clone());
        self.left = Vec::new();
        Ok(entries)
    }

    #[cfg(test)]
    pub(super) fn retry_at_once(&mut self) {
        self.standing.iter_mut().for_each(|(_, again)| *again = Instant::now());
    }

    /// Why nothing is written, in words.
    pub(super) fn why(&self, store: &Store, error: &Error) -> String {
        if *error != Error::MapFull {
            return format!("{error}{}", hint(error));
        }
        let bytes: u64 = store.snapshot().progress().iter().map(|progress| progress.bytes).sum();
        let (max, bytes) = (self.location.config.max_size, bytesize::ByteSize(bytes));
        format!("it needs more than `shared.max_size`, which is {max}: raise it{NODES_TAKE}{bytes}")
    }

    /// What is not written, in words.
    pub(super) fn trouble(&self) -> Option<String> {
        if let Some(fault) = self.missing.as_ref().or(self.fault.as_ref()) {
            return Some(fault.clone());
        }
        let half = self.standing.as_ref().map(|_| self.location.config.max_size.as_u64() / 2)?;
        let half = bytesize::ByteSize(half);
        Some(format!("masters take more than {half}, half of it, and stand as they were; raise shared.max_size"))
    }
}

/// The status for masters that were never written: they are not whole.
fn unwritten(snapshot: &Snapshot) -> FileStatus {
    let mut status = FileStatus::of(snapshot, None, SystemTime::now());
    status.sources.iter_mut().for_each(|source| source.whole = false);
    status
}

/// What an operator can do about it.
pub(super) fn hint(error: &Error) -> &'static str {
    match error {
        Error::MapFull => "; raise shared.max_size",
        // LMDB's error for a short write.
        Error::Other(code) if matches!(Errno::from_raw(*code), Errno::EIO | Errno::ENOSPC | Errno::EDQUOT) => {
            "; is there room on its file system?"
        }
        _ => "",
    }
}

/// Logs a problem when it begins, with its consequences, and its end.
fn log_trouble(metrics: &Metrics, trouble: Option<(&str, String)>, path: &Path) {
    let path = path.display();
    let known = metrics.shared_trouble.load();
    match (&trouble, known.as_deref()) {
        (None, None) => return,
        (Some((_, error)), Some(known)) if kind(error) == kind(known) => {}
        (Some((what, error)), _) => tracing::error!(%path, error, "{what}"),
        (None, Some(_)) => tracing::info!(%path, "the shared file is written again"),
    }
    metrics.shared_trouble.store(trouble.map(|(_, error)| Arc::new(error)));
}

fn kind(trouble: &str) -> &str {
    trouble.split(NODES_TAKE).next().unwrap_or_default()
}
