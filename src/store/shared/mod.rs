//! The shared file: the newest snapshot in an LMDB file, for readers without a call and for the next start.
//!
//! Any LMDB of the 0.9 release line can read it (PHP's `dba`, bindings of other languages), without a subdirectory and
//! from the unnamed database. Its format 2:
//!
//! | key | value |
//! |---|---|
//! | `node<path>` | a node's bytes: `node/zk_test` |
//! | `stat<path>` | JSON: its stat, with the names of the Thrift interface |
//! | `children<path>` | JSON: the names of its children, in the order of their bytes |
//! | `service/<name>` | JSON: an array of the masters that offer it, as instances, the newest version first |
//! | `instances/<name>` | JSON: by version, how many numbers the instances have; absent: no node registers the service |
//! | `instance/<name>\0<version>\0<number>` | JSON: an instance that a node registers; absent: a master has the number |
//! | `pick/<name>` | JSON: among which of these a client chooses; absent: masters are among them, or none is up (`pick`) |
//! | `lots/<name>\0<version>\0<chunk>` | the hashes of addresses and the weights of 256 of them |
//! | `master/<id>` | JSON: a master, with the services that it offers |
//! | `meta/format` | `2` |
//! | `meta/freshness` | JSON: the revision, and how far it can be trusted ([`FileStatus`]); rewritten every second |
//! | `meta/checksum` | the sum of XXH3 over all other entries, seeded with the XXH3 of its key; 16 hex digits |
//!
//! Every node has all three entries. A path, name or id of more than 500 bytes is replaced by `#` and its SHA-256 in
//! hexadecimal (`node#5a…`, `service#5a…`), and a stat then contains the `path`. One transaction is one revision.
//!
//! Masters and instances are as in [`view`](crate::model::view), without `outstanding`, since the file is not written
//! with each call. In this status, their sources are those that supply `instances`. After a restart the masters of the
//! earlier process stay in the file, `RESTORED` and with their age, until the live ones are known.

mod check;
mod config;
mod contents;
mod copy;
mod entry;
mod env;
mod floor;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod image;
mod location;
mod lock_file;
mod locks;
mod mapped;
mod pick;
mod reader;
mod recovery;
mod replaced;
mod restored_masters;
mod state;
mod write_txn;
mod writer;

use std::borrow::Borrow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use self::check::Checked;
pub use self::config::Config;
pub use self::contents::Contents;
pub(crate) use self::contents::Restored;
pub use self::entry::{FileStatus, Source};
use self::env::Env;
pub(crate) use self::image::Image;
pub use self::image::{InvalidFile, begins_as_lmdb};
use self::location::FileLocation;
pub use self::reader::{ReadError, Reader};
use self::recovery::{recover, recover_newer};
pub(crate) use self::state::STATE_MODE;
pub use self::state::StateTaken;
use self::writer::{HEARTBEAT_INTERVAL, Origin, Writer};
use super::{Feed, Store};
use crate::metrics::Metrics;
use crate::model::{Revision, Supply};
use crate::permissions::Holder;
use crate::task::Tasks;

/// How soon to retry opening a file that could not be opened.
const OPEN_RETRY_DELAY: Duration = Duration::from_secs(5);

/// The shared file, owned by this writer.
#[derive(Debug)]
pub struct Shared {
    writer: Writer,
    /// The path of the copy.
    copy: Option<PathBuf>,
    copy_interval: Duration,
    left: Option<Contents>,
}

/// Why the shared file cannot be opened for writing.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    #[error("cannot write {0}: another sidecar{1} does; stop it, or choose another `shared.path`")]
    Taken(PathBuf, Holder),
    #[error("cannot set the permissions of {path}: {source}")]
    Permissions { path: PathBuf, source: io::Error },
    #[error("cannot open {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot put a file at {path}: {source}")]
    Put { path: PathBuf, source: io::Error },
    #[error(
        "cannot make the folder {path} for the shared file: {source}; make it, writable for this user, or choose another \
         `shared.path`"
    )]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot map {path}: {source}")]
    Map { path: PathBuf, source: lmdb::Error },
}

impl SharedError {
    /// Its message, with what an operator can do about it if that is not included.
    pub(crate) fn with_hint(&self) -> String {
        format!("{self}{}", self.hint())
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Map { source, .. } => writer::hint(source),
            Self::Io { source, .. } | Self::Put { source, .. } | Self::Folder { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; is there room on its file system?",
                _ => "",
            },
            _ => "",
        }
    }
}

impl Shared {
    /// Claims the file, relative to the folder `beside`, and reads what an earlier process left, here or in the state,
    /// which is claimed before; sets aside what cannot be used. None: there should be no file.
    pub fn open(
        config: &Config,
        beside: Option<&Path>,
        feeds: &[impl Borrow<Feed>],
    ) -> Result<Option<Self>, SharedError> {
        let Some(path) = config.file(beside) else { return Ok(None) };
        let location = FileLocation::claim(path, config.clone())?;
        let path = &location.path;
        let here = recover(path, feeds).map_err(|source| SharedError::Io { path: path.clone(), source })?;
        let copy = config.copy(path);
        let newer = copy.as_ref().and_then(|copy| recover_newer(copy, here.as_ref(), feeds));
        let origin = match (&copy, &newer, &here) {
            (Some(copy), Some(newer), _) => Origin::Copy(copy.clone(), newer.file_id),
            (_, _, Some(here)) => Origin::Here(here.file_id),
            _ => Origin::Nothing,
        };
        let left = newer.or(here);
        tracing::info!(path = %path.display(), "the shared file");
        let writer = Writer::new(location, origin, left.as_ref(), feeds);
        Ok(Some(Self { writer, copy, copy_interval: config.copy_interval, left }))
    }

    /// Removes what readers may have used to fill the file's file system, unless another process has the claim.
    pub fn make_room(config: &Config, beside: Option<&Path>) {
        if let Some(Err(error)) = config.file(beside).map(|path| FileLocation::claim(path, config.clone())) {
            tracing::warn!(%error, "cannot make room where the shared file lies");
        }
    }

    /// What an earlier process left.
    pub fn left(&self) -> Option<&Contents> {
        self.left.as_ref()
    }

    /// The same if the file cannot be opened yet: the newer one of it and its copy, as far as readable.
    pub(crate) fn peek(config: &Config, beside: Option<&Path>, feeds: &[impl Borrow<Feed>]) -> Option<Contents> {
        let file = config.file(beside)?;
        let places = [config.copy(&file), Some(file)].into_iter().flatten();
        let left = places.filter_map(|path| Contents::load(&path).ok());
        left.filter(|left| left.check_cluster(feeds).is_ok()).max_by_key(|left| left.status.fresh.revision)
    }

    /// Starts to write the store's content.
    pub fn start(self, tasks: &Tasks, store: &Arc<Store>, metrics: &Arc<Metrics>) -> io::Result<()> {
        let Self { writer, copy, copy_interval, .. } = self;
        let (written, follow) = watch::channel((0, None));
        if let Some(copy) = copy {
            let metrics = metrics.clone();
            tasks.thread("the copy of the shared file", move |_| async move {
                copy::keep(copy, copy_interval, follow, metrics).await;
            })?;
        }
        let (store, metrics, stop) = (store.clone(), metrics.clone(), tasks.stop_signal());
        tasks.thread("the writer of the shared file", move |_| async move {
            writer::follow(writer, store, metrics, written, stop).await;
        })
    }

    /// Opens it on a thread that retries until it succeeds, and then starts: the obstacle may disappear. What it holds
    /// beyond the revision with which the store `began` stays until its sources have been in sync.
    pub fn start_later(
        config: &Config,
        beside: Option<&Path>,
        began: Revision,
        tasks: &Tasks,
        store: &Arc<Store>,
        metrics: &Arc<Metrics>,
    ) -> io::Result<()> {
        let (config, beside, stop) = (config.clone(), beside.map(Path::to_owned), tasks.stop_signal());
        let (all, store, metrics) = (tasks.clone(), store.clone(), metrics.clone());
        tasks.thread("the opening of the shared file", move |_| async move {
            let mut opened: Option<Self> = None;
            loop {
                let wait = if opened.is_some() { HEARTBEAT_INTERVAL } else { OPEN_RETRY_DELAY };
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = stop.requested() => return,
                }
                // Otherwise claim and read it once more.
                opened = opened.filter(|shared| shared.writer.location.is_there() && shared.writer.is_as_read());
                opened.iter_mut().for_each(|shared| shared.writer.location.make_room(None, Instant::now()));
                if opened.is_none() {
                    match Self::open(&config, beside.as_deref(), store.snapshot().feeds()) {
                        Ok(shared) => opened = shared,
                        Err(error) => {
                            metrics.shared_trouble.store(Some(Arc::new(error.with_hint())));
                            continue;
                        }
                    }
                }
                let Some(shared) = opened.take() else { break };
                let awaited = shared.awaits(&store, began);
                if awaited.is_empty() {
                    let started = shared.start(&all, &store, &metrics);
                    let why = started.err().map(|error| Arc::new(format!("cannot start a thread: {error}")));
                    metrics.shared_trouble.store(why);
                    break;
                }
                let why = format!(
                    "what an earlier process left stands until {} has been in sync: its start could not read it",
                    awaited.join(", ")
                );
                if metrics.shared_trouble.load().as_deref() != Some(&why) {
                    tracing::warn!(path = %shared.writer.location.path.display(), "{why}");
                    metrics.shared_trouble.store(Some(Arc::new(why)));
                }
                opened = Some(shared);
            }
            stop.requested().await;
        })
    }

    /// The sources whose nodes are in the file, and of which a store that began with that revision does not know more
    /// yet.
    fn awaits(&self, store: &Store, began: Revision) -> Vec<String> {
        let Some(left) = self.left.as_ref().filter(|left| left.status.fresh.revision > began) else {
            return Vec::new();
        };
        let snapshot = store.snapshot();
        let known = snapshot.behind_all().filter(|(feed, progress)| !(progress.whole && feed.was_in_sync()));
        let stands = |feed: &Feed| left.status.sources.iter().any(|source| source.whole && source.is_of(feed));
        let awaited = known.filter(|(feed, _)| feed.supplies(Supply::Nodes) && stands(feed));
        awaited.map(|(feed, _)| feed.name().to_owned()).collect()
    }
}

/// The path of LMDB's reader table.
fn lock_file(path: &Path) -> PathBuf {
    with_end(path, "-lock")
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

#[cfg(test)]
mod tests;
