//! An LMDB file read as untrusted bytes: distinguishes an intact file from a damaged one.
//!
//! LMDB trusts its file: a damaged page kills the process, and again at each start. So a file is read here before LMDB
//! maps it. The format is that of LMDB 0.9 on a 64-bit machine (`mdb.c`: `MDB_meta`, `MDB_page`, `MDB_node`).

mod walk;

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(super) use self::walk::Half;
use super::Config;
use super::entry::VERSION;
use super::location::{FileId, file_id};
use crate::permissions::own::{self, NotOwn};

const MAGIC: u32 = 0xBEEF_C0DE;
const DATA_VERSION: u32 = 1;
const PAGE_HEADER: usize = 16;
const NODE_HEADER: usize = 8;
/// The end of the part that is read of the two `MDB_meta`.
const META_END: usize = 152;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const OVERFLOW: u16 = 4;
const META: u16 = 8;
const BIG_DATA: u16 = 1;
/// No page: the root of an empty tree.
const NOWHERE: u64 = u64::MAX;
/// The limit of LMDB itself.
const MAX_DEPTH: usize = 32;

const CUT_OFF: InvalidFile = InvalidFile::Damaged("it is cut off");
const TOO_DEEP: InvalidFile = InvalidFile::Damaged("its tree is too deep");

/// Why a file is refused.
#[derive(Debug, thiserror::Error)]
pub enum InvalidFile {
    #[error("cannot read it: {0}")]
    Unreadable(#[source] io::Error),
    #[error(transparent)]
    NotOwn(NotOwn),
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    #[error("it is of another format: {0:?} instead of {VERSION:?}")]
    Format(String),
    #[error("it is of another cluster: it holds {0}, and nothing that is mirrored now")]
    Foreign(String),
}

/// The newest committed state of an LMDB file.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    /// Which file it is.
    pub(super) file_id: FileId,
    page_size: usize,
    /// Complete pages in the file.
    pages: u64,
    last_page: u64,
    free: u64,
    main: u64,
}

/// A page of a tree.
struct Page {
    bytes: Vec<u8>,
    is_branch: bool,
    count: usize,
}

/// An entry of a page.
struct Entry<'a> {
    flags: u16,
    /// The size of the data, or the number of a branch's page.
    size: u64,
    key: &'a [u8],
    rest: &'a [u8],
}

/// Whether a file has the magic number of LMDB where that writes it.
pub fn begins_as_lmdb(path: &Path) -> bool {
    let first = File::open(path).map_err(InvalidFile::Unreadable);
    let first = first.and_then(|file| read(&file, 0, PAGE_HEADER + 4));
    first.and_then(|first| u32_at(&first, PAGE_HEADER)).is_ok_and(|magic| magic == MAGIC)
}

impl Image {
    pub(super) fn open(path: &Path) -> Result<Self, InvalidFile> {
        Self::of(File::open(path).map_err(InvalidFile::Unreadable)?)
    }

    /// Opens a file that nobody else can have created or written.
    pub(crate) fn open_own(path: &Path) -> Result<Self, InvalidFile> {
        Self::of(own::open(path).map_err(|why| match why {
            NotOwn::Io(error) => InvalidFile::Unreadable(error),
            why => InvalidFile::NotOwn(why),
        })?)
    }

    pub(super) fn of(file: File) -> Result<Self, InvalidFile> {
        let first = read(&file, 0, META_END)?;
        let page_size = u32_at(&first, 40)? as usize;
        if !page_size.is_power_of_two() || !(256..=65_536).contains(&page_size) {
            return Err(InvalidFile::Damaged("it does not begin as an LMDB file"));
        }
        let (first, second) = at_rest(|| {
            let metas = read(&file, 0, page_size + META_END)?;
            Ok((metas[..META_END].to_vec(), metas[page_size..].to_vec()))
        })?;
        for meta in [&first, &second] {
            let is_meta = u16_at(meta, 10)? & META != 0 && u32_at(meta, 16)? == MAGIC;
            if !is_meta || u32_at(meta, 20)? != DATA_VERSION || u32_at(meta, 40)? != page_size as u32 {
                return Err(InvalidFile::Damaged("it does not begin as an LMDB file"));
            }
        }
        // Each commit gets the next number, and replaces the older of the two.
        let commits = (u64_at(&first, 144)?, u64_at(&second, 144)?);
        if commits.0.abs_diff(commits.1) > 1 {
            return Err(InvalidFile::Damaged("its last two commits do not follow one another"));
        }
        let meta = if commits.1 > commits.0 { second } else { first };
        if u16_at(&meta, 92)? != 0 {
            return Err(InvalidFile::Damaged("its tree is of another kind"));
        }
        // The limit of a writer's `max_size`.
        if u64_at(&meta, 32)? > Config::LARGEST.as_u64() {
            return Err(InvalidFile::Damaged("it is larger than what can be mapped"));
        }
        // A writer grows the file before it commits.
        let found = file.metadata().map_err(InvalidFile::Unreadable)?;
        Ok(Self {
            file,
            file_id: file_id(&found),
            page_size,
            pages: found.len() / page_size as u64,
            last_page: u64_at(&meta, 136)?,
            free: u64_at(&meta, 80)?,
            main: u64_at(&meta, 128)?,
        })
    }

    /// In bytes.
    pub(super) fn size(&self) -> u64 {
        self.pages * self.page_size as u64
    }

    /// Whether nothing was ever written to it.
    pub(super) fn is_empty(&self) -> bool {
        self.main == NOWHERE
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, InvalidFile> {
        let mut at = self.main;
        for _ in 0..MAX_DEPTH {
            if at == NOWHERE {
                return Ok(None);
            }
            let (page, mut found) = (self.page(at)?, None);
            for index in 0..page.count {
                let entry = page.entry(index)?;
                if entry.key > key && (index > 0 || !page.is_branch) {
                    break;
                }
                found = Some(entry);
            }
            match found {
                Some(entry) if page.is_branch => at = entry.page(),
                Some(entry) if entry.key == key => return Ok(Some(self.data(&entry, &mut |_| Ok(()))?.into_owned())),
                _ => return Ok(None),
            }
        }
        Err(TOO_DEEP)
    }

    fn page(&self, number: u64) -> Result<Page, InvalidFile> {
        let bytes = self.bytes(number)?;
        let (flags, lower, upper) = (u16_at(&bytes, 10)?, u16_at(&bytes, 12)? as usize, u16_at(&bytes, 14)? as usize);
        let is_sound = u64_at(&bytes, 0)? == number && lower >= PAGE_HEADER && lower <= upper && upper <= bytes.len();
        let (is_branch, count) = (flags == BRANCH, lower.saturating_sub(PAGE_HEADER) / 2);
        match flags {
            LEAF if is_sound => Ok(Page { bytes, is_branch, count }),
            BRANCH if is_sound && count > 0 => Ok(Page { bytes, is_branch, count }),
            _ => Err(InvalidFile::Damaged("a page is not what it should be")),
        }
    }

    fn bytes(&self, page: u64) -> Result<Vec<u8>, InvalidFile> {
        if !(2..self.pages).contains(&page) {
            return Err(CUT_OFF);
        }
        read(&self.file, page * self.page_size as u64, self.page_size)
    }

    fn data<'p>(
        &self,
        entry: &Entry<'p>,
        meet: &mut dyn FnMut(u64) -> Result<(), InvalidFile>,
    ) -> Result<Cow<'p, [u8]>, InvalidFile> {
        let size = entry.size as usize;
        if entry.flags > BIG_DATA {
            return Err(InvalidFile::Damaged("an entry is of another kind"));
        }
        if entry.flags == 0 {
            let data = entry.rest.get(..size).ok_or(CUT_OFF)?;
            return Ok(data.into());
        }
        let first = u64_at(entry.rest, 0)?;
        let head = self.bytes(first)?;
        let pages = u64::from(u32_at(&head, 12)?);
        let fits = (PAGE_HEADER + size).div_ceil(self.page_size) as u64 <= pages && pages <= self.pages - first;
        if u64_at(&head, 0)? != first || u16_at(&head, 10)? != OVERFLOW || !fits {
            return Err(InvalidFile::Damaged("a large entry is not where it should be"));
        }
        (first..first + pages).try_for_each(meet)?;
        read(&self.file, first * self.page_size as u64 + PAGE_HEADER as u64, size).map(Cow::Owned)
    }
}

impl Page {
    /// The first entry with a key not below `at`. The first of a branch stands for everything smaller.
    fn first_from(&self, at: &[u8]) -> Result<usize, InvalidFile> {
        for index in usize::from(self.is_branch)..self.count {
            if self.entry(index)?.key >= at {
                return Ok(index);
            }
        }
        Ok(self.count)
    }

    fn entry(&self, index: usize) -> Result<Entry<'_>, InvalidFile> {
        let upper = u16_at(&self.bytes, 14)?;
        let offset = u16_at(&self.bytes, PAGE_HEADER + 2 * index)?;
        let node = self.bytes.get(offset as usize..).filter(|_| offset >= upper).ok_or(CUT_OFF)?;
        let (size, flags, key) = (u32_at(node, 0)?, u16_at(node, 4)?, u16_at(node, 6)? as usize);
        let (key, rest) = node.get(NODE_HEADER..).and_then(|node| node.split_at_checked(key)).ok_or(CUT_OFF)?;
        Ok(Entry { flags, size: size.into(), key, rest })
    }
}

impl Entry<'_> {
    /// The page that a branch points to.
    fn page(&self) -> u64 {
        self.size | u64::from(self.flags) << 32
    }
}

/// Reads repeatedly until two readings agree: a writer may be active.
fn at_rest<T: PartialEq>(read: impl Fn() -> Result<T, InvalidFile>) -> Result<T, InvalidFile> {
    let mut last = read()?;
    for _ in 0..1_000 {
        let now = read()?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(last)
}

fn read(file: &File, at: u64, length: usize) -> Result<Vec<u8>, InvalidFile> {
    let mut bytes = vec![0; length];
    match file.read_exact_at(&mut bytes, at) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(CUT_OFF),
        Err(error) => Err(InvalidFile::Unreadable(error)),
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, InvalidFile> {
    array_at(bytes, at).map(u64::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, InvalidFile> {
    array_at(bytes, at).map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, InvalidFile> {
    array_at(bytes, at).map(u16::from_ne_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], InvalidFile> {
    let part = bytes.get(at..at.saturating_add(N)).and_then(|part| part.try_into().ok());
    part.ok_or(CUT_OFF)
}
