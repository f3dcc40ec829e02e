//! The shared file: the newest snapshot in an LMDB file, for readers without a call and for the next start.
//!
//! Any LMDB of the release line 0.9 reads it (PHP's `dba`, bindings of other languages), without a subdirectory and
//! in the unnamed database. Its format 1:
//!
//! | key | value |
//! |---|---|
//! | `node<path>` | a node's bytes: `node/zk_test` |
//! | `stat<path>` | JSON: its stat, with the names of the Thrift interface |
//! | `children<path>` | JSON: the names of its children, in the order of their bytes |
//! | `meta/format` | `1` |
//! | `meta/freshness` | JSON: the revision, and how far it can be trusted ([`Report`]); rewritten every second |
//! | `meta/checksum` | the sum of XXH3 over all other entries, each with the XXH3 of its key as its seed; 16 hex digits |
//!
//! Every node has all three entries. A path of more than 500 bytes goes by `#` and its SHA-256 in hexadecimal instead
//! (`node#5a…`), and its stat tells the `path`. One transaction is one revision.

mod config;
mod contents;
mod copy;
mod entry;
mod env;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod image;
mod reader;
mod writer;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use imbl::OrdMap;
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::watch;

pub use self::config::Config;
pub use self::contents::Contents;
pub(crate) use self::contents::Restored;
pub use self::entry::{Report, Source};
use self::env::Env;
use self::image::Image;
pub use self::image::Unfit;
pub use self::reader::{ReadError, Reader};
use self::writer::Writer;
use super::{Feed, Store};
use crate::metrics::Metrics;
use crate::permissions::{Permissions, give_to};
use crate::task::Tasks;

/// The shared file, ours to write.
#[derive(Debug)]
pub struct Shared {
    writer: Writer,
    copy: Option<PathBuf>,
    config: Config,
    left: Option<Contents>,
    /// Kept for its drop: no other process may write the file meanwhile.
    claim: Flock<File>,
}

/// Why the shared file cannot be ours.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    #[error("cannot write {0}: another process does; stop it, or choose another `shared.path`")]
    Taken(PathBuf),
    #[error("cannot give {path} to the group `{group}`: {reason}")]
    Group { path: PathBuf, group: String, reason: String },
    #[error("cannot open {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot map {path}: {source}")]
    Map { path: PathBuf, source: lmdb::Error },
}

impl Shared {
    /// Opens the file, in the folder `beside` if its path is relative; or makes it anew, and sets one aside that cannot
    /// be used. None: there is to be none.
    pub fn open(config: &Config, beside: Option<&Path>, feeds: &[Feed]) -> Result<Option<Self>, SharedError> {
        let Some(path) = config.file(beside) else { return Ok(None) };
        let io = |source| SharedError::Io { path: path.clone(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io)?;
        }
        let (mut claim, mut here) = (claim(&path)?, None);
        if !is_new(&path).map_err(io)? {
            here = left_at(&path, feeds).map_err(io)?;
            if here.is_none() {
                claim = self::claim(&path)?;
            }
        }
        let copy = config.copy(&path).filter(|copy| is_kept(copy));
        let newer = copy.as_deref().filter(|copy| is_newer(copy, here.as_ref()));
        let newer = newer.and_then(|copy| {
            let left = left_at(copy, feeds);
            left.inspect_err(|error| tracing::warn!(path = %copy.display(), %error, "cannot use the copy")).ok()?
        });

        if here.is_none() {
            remove(&lock_file(&path)).map_err(io)?;
        }
        permit(&path, &config.permissions())?;
        permit(&lock_file(&path), &config.lock_permissions())?;
        let env = Env::writer(&path, config).map_err(|source| SharedError::Map { path: path.clone(), source })?;
        let (nodes, sum) = here.as_ref().map_or((OrdMap::new(), 0), |here| (here.nodes.clone(), here.sum));
        let writer = Writer { env: Arc::new(env), nodes, sum };
        Ok(Some(Self { writer, copy, config: config.clone(), left: newer.or(here), claim }))
    }

    /// What an earlier process left.
    pub fn left(&self) -> Option<&Contents> {
        self.left.as_ref()
    }

    /// Starts to write what the store holds.
    pub fn start(self, tasks: &Tasks, store: &Arc<Store>, metrics: &Arc<Metrics>) -> io::Result<()> {
        let Self { writer, copy, config, claim, .. } = self;
        let (written, follow) = watch::channel(0);
        if let Some(copy) = copy {
            let (env, metrics) = (writer.env.clone(), metrics.clone());
            tasks.thread("the copy of the shared file", move |_| async move {
                copy::keep(env, copy, config.copy_interval, follow, metrics).await;
            })?;
        }
        let (store, metrics, stop) = (store.clone(), metrics.clone(), tasks.stop_signal());
        tasks.thread("the writer of the shared file", move |_| async move {
            writer::follow(writer, store, metrics, written, stop).await;
            drop(claim);
        })
    }
}

/// The file, to which nobody else writes from now on.
fn claim(path: &Path) -> Result<Flock<File>, SharedError> {
    let open = File::options().read(true).write(true).create(true).truncate(false).open(path);
    let file = open.map_err(|source| SharedError::Io { path: path.to_owned(), source })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::errno::Errno::EAGAIN => SharedError::Taken(path.to_owned()),
        error => SharedError::Io { path: path.to_owned(), source: error.into() },
    })
}

/// Whether nobody has written to the file yet.
fn is_new(path: &Path) -> io::Result<bool> {
    Ok(path.metadata()?.len() == 0 || Image::open(path).is_ok_and(|image| image.is_empty()))
}

/// What an earlier process left in a file. One that cannot be used is set aside.
fn left_at(path: &Path, feeds: &[Feed]) -> io::Result<Option<Contents>> {
    let began = Instant::now();
    let left = Contents::load(path).and_then(|left| left.check_cluster(feeds).map(|()| left));
    let why = match left {
        Ok(left) => {
            let ms = began.elapsed().as_millis() as u64;
            let (nodes, revision) = (left.nodes.len(), left.report.revision);
            tracing::info!(path = %path.display(), nodes, revision, ms, "read what an earlier process left");
            return Ok(Some(left));
        }
        Err(Unfit::Unreadable(error)) => return Err(error),
        Err(why) => why,
    };
    let aside = with_end(path, ".set-aside");
    fs::rename(path, &aside)?;
    // A table of readers is of one file.
    remove(&lock_file(path))?;
    tracing::warn!(path = %path.display(), aside = %aside.display(), %why, "set a shared file aside; a new one takes its place");
    Ok(None)
}

/// Whether a copy is there that is newer than `here`.
fn is_newer(copy: &Path, here: Option<&Contents>) -> bool {
    let Some(here) = here else { return copy.exists() };
    let report = Image::open(copy).and_then(|image| contents::report(&image));
    report.is_ok_and(|report| report.revision > here.report.revision)
}

fn is_kept(copy: &Path) -> bool {
    let is_there = copy.parent().is_some_and(Path::is_dir);
    if !is_there {
        tracing::info!(path = %copy.display(), "no copy of the shared file is kept: there is no such directory");
    }
    is_there
}

/// Makes a file if there is none, with its permissions.
fn permit(path: &Path, permissions: &Permissions) -> Result<(), SharedError> {
    let io = |source| SharedError::Io { path: path.to_owned(), source };
    File::options().append(true).create(true).open(path).map_err(io)?;
    permissions.mode.set(path).map_err(io)?;
    let Some(group) = &permissions.group else { return Ok(()) };
    give_to(path, group).map_err(|reason| SharedError::Group { path: path.to_owned(), group: group.clone(), reason })
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where LMDB keeps its table of readers.
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
