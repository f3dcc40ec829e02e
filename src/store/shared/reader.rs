//! A reader of the shared file in another process: the command line, if there is no sidecar to ask.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use semver::Version;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::check::{self, Checked};
use super::contents::{json, status};
use super::entry::{self, CHILDREN, FileStatus, MASTER, NODE, SERVICE, STAT};
use super::image::{Image, InvalidFile};
use super::lock_file::LockFile;
use super::{Contents, Env, lock_file};
use crate::model::{Node, NodePath, view};

/// LMDB must not open one lock file twice in one process: closing one releases the locks of the other.
static PINNED: Mutex<()> = Mutex::new(());

/// The least number of bytes that an instance takes in a file.
const MIN_INSTANCE_BYTES: u64 = 64;

/// A shared file, or a copy of one. It is read as bytes, never by LMDB, so that a damaged one can do no harm. The
/// writer leaves replaced pages alone for longer than a small read takes.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot use {path}: {source}")]
    InvalidFile { path: PathBuf, source: InvalidFile },
}

impl Reader {
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let reader = Self { path: path.to_owned() };
        reader.at_once(|_| Ok(())).map(|()| reader)
    }

    pub fn status(&self) -> Result<FileStatus, ReadError> {
        self.at_once(status)
    }

    /// A node, and the file's status at the same revision.
    pub fn node(&self, path: &NodePath) -> Result<(Option<Arc<Node>>, FileStatus), ReadError> {
        self.at_once(|image| {
            let stat = image.get(&entry::key(STAT, path))?;
            let node = match (image.get(&entry::key(NODE, path))?, stat) {
                (Some(data), Some(stat)) => Some(Arc::new(Node { data: data.into(), stat: json(&stat)? })),
                _ => None,
            };
            Ok((node, status(image)?))
        })
    }

    /// The names of a node's children, in byte order; None: there is no such node.
    pub fn children(&self, path: &NodePath) -> Result<(Option<Vec<String>>, FileStatus), ReadError> {
        self.value(&entry::key(CHILDREN, path))
    }

    /// The instances of a service, with the names of the Thrift interface, newest version first; None: it has none.
    pub fn instances(&self, service: &str) -> Result<(Option<Vec<view::Instance>>, FileStatus), ReadError> {
        self.at_once(|image| {
            let read = |key: &[u8]| image.get(key);
            let of_masters = read(&entry::named(SERVICE, service))?;
            let of_masters = of_masters.map(|list| json::<Vec<view::Instance>>(&list)).transpose()?;
            let counts = read(&entry::instances(service))?;
            let counts = counts.map(|counts| json::<BTreeMap<String, usize>>(&counts)).transpose()?;
            if of_masters.is_none() && counts.is_none() {
                return Ok((None, status(image)?));
            }
            let mut instances = of_masters.unwrap_or_default();
            let counts = counts.iter().flatten();
            // Each takes some bytes: no number makes anybody look for more than there can be.
            let all = counts.clone().fold(0_usize, |all, (_, count)| all.saturating_add(*count));
            if all as u64 > image.size() / MIN_INSTANCE_BYTES {
                return Err(InvalidFile::Damaged("it says that a service has more instances than there is room for"));
            }
            for (version, count) in counts.filter_map(|(of, count)| Some((Version::parse(of).ok()?, count))) {
                for number in 0..*count {
                    let instance = read(&entry::instance(service, &version, number))?;
                    instances.extend(instance.map(|instance| json(&instance)).transpose()?);
                }
            }
            let version = |it: &view::Instance| Version::parse(&it.version).ok();
            instances.sort_by_cached_key(|it| Reverse(version(it)));
            Ok((Some(instances), status(image)?))
        })
    }

    /// A master by id, with the names of the Thrift interface.
    pub fn master(&self, id: &str) -> Result<(Option<Value>, FileStatus), ReadError> {
        self.value(&entry::named(MASTER, id))
    }

    /// The whole content of the file, if it is intact.
    pub fn contents(&self) -> Result<Contents, ReadError> {
        self.as_a_whole(Contents::read)
    }

    /// The whole content of the file, if it is intact, and whether that is consistent.
    pub fn check(&self) -> Result<Checked, ReadError> {
        let readers = LockFile::slots(&lock_file(&self.path));
        self.as_a_whole(|image| {
            let contents = Contents::read(image)?;
            let contradictions = check::contradictions(image, &contents)?;
            Ok(Checked { contradictions, contents, size: image.size(), readers })
        })
    }

    /// The JSON value of a key.
    fn value<T: DeserializeOwned>(&self, key: &[u8]) -> Result<(Option<T>, FileStatus), ReadError> {
        self.at_once(|image| {
            let value = image.get(key)?.map(|value| json(&value)).transpose()?;
            Ok((value, status(image)?))
        })
    }

    /// Meanwhile keeps the writer from overwriting what is read, as readers in other languages do. If the lock file
    /// does not allow that, what is read may turn out to be damaged.
    fn as_a_whole<T>(&self, read: impl FnOnce(&Image) -> Result<T, InvalidFile>) -> Result<T, ReadError> {
        let _one = PINNED.lock().unwrap_or_else(PoisonError::into_inner);
        let env = LockFile::slots(&lock_file(&self.path)).and_then(|_| Env::reader(&self.path).ok());
        let _pin = env.as_ref().and_then(|env| env.pin().ok());
        self.at_once(read)
    }

    fn at_once<T>(&self, read: impl FnOnce(&Image) -> Result<T, InvalidFile>) -> Result<T, ReadError> {
        let read = Image::open(&self.path).and_then(|image| read(&image));
        read.map_err(|source| ReadError::InvalidFile { path: self.path.clone(), source })
    }
}
