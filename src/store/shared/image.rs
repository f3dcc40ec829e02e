//! An LMDB file read as bytes, of which nothing is trusted: tells a whole file from a damaged one.
//!
//! LMDB trusts its file: a damaged page ends the process, and again at each start. So a file is read here before LMDB
//! maps it. The form is that of LMDB 0.9 on a 64-bit machine (`mdb.c`: `MDB_meta`, `MDB_page`, `MDB_node`).

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: u32 = 0xBEEF_C0DE;
const DATA_VERSION: u32 = 1;
const PAGE_HEADER: usize = 16;
const NODE_HEADER: usize = 8;
/// The ends of the two `MDB_meta`, behind which nothing is read of them.
const META_END: usize = 152;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const OVERFLOW: u16 = 4;
const BIG_DATA: u16 = 1;
/// No page: the root of an empty tree.
const NOWHERE: u64 = u64::MAX;
/// LMDB itself goes no deeper.
const MAX_DEPTH: usize = 32;

/// Why a file cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    #[error("cannot read it: {0}")]
    Unreadable(#[source] io::Error),
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    #[error("it is of another format: {0:?} instead of \"1\"")]
    Format(String),
    #[error("it is of another cluster: it holds {0}, and nothing that is mirrored now")]
    Foreign(String),
}

/// What is done with an entry: its key, its value.
type Each<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), Unfit> + 'a;

/// The newest committed state of an LMDB file.
#[derive(Debug)]
pub(super) struct Image {
    file: File,
    page_size: usize,
    /// Whole pages in the file.
    pages: u64,
    last_page: u64,
    free: u64,
    main: u64,
}

/// An entry of a page.
struct Entry<'a> {
    flags: u16,
    /// The size of the data, or the number of a branch's page.
    size: u64,
    key: &'a [u8],
    rest: &'a [u8],
}

/// A walk along a tree, which sees to it that each page is met once, and that the keys are in order.
struct Walk<'i> {
    image: &'i Image,
    met: Vec<bool>,
    /// The free list's keys are numbers, in another order.
    is_ordered: bool,
    last: Vec<u8>,
    least: Vec<u8>,
}

impl Image {
    pub(super) fn open(path: &Path) -> Result<Self, Unfit> {
        let file = File::open(path).map_err(Unfit::Unreadable)?;
        let length = file.metadata().map_err(Unfit::Unreadable)?.len();
        let first = read(&file, 0, META_END)?;
        let page_size = u32_at(&first, 40)? as usize;
        if !page_size.is_power_of_two() || !(256..=65_536).contains(&page_size) {
            return Err(Unfit::Damaged("it does not begin as an LMDB file"));
        }
        let second = read(&file, page_size as u64, META_END)?;
        for meta in [&first, &second] {
            if u32_at(meta, 16)? != MAGIC || u32_at(meta, 20)? != DATA_VERSION || u32_at(meta, 40)? != page_size as u32
            {
                return Err(Unfit::Damaged("it does not begin as an LMDB file"));
            }
        }
        // Each commit has the next number, and goes to the one of the two that has the older.
        let commits = (u64_at(&first, 144)?, u64_at(&second, 144)?);
        if commits.0.abs_diff(commits.1) > 1 {
            return Err(Unfit::Damaged("its last two commits do not follow one another"));
        }
        let meta = if commits.1 > commits.0 { second } else { first };
        if u16_at(&meta, 92)? != 0 {
            return Err(Unfit::Damaged("its tree is of another kind"));
        }
        Ok(Self {
            file,
            page_size,
            pages: length / page_size as u64,
            last_page: u64_at(&meta, 136)?,
            free: u64_at(&meta, 80)?,
            main: u64_at(&meta, 128)?,
        })
    }

    /// Hands over every entry, in the order of the keys; and sees to it that LMDB can work with the whole file.
    pub(super) fn walk(&self, each: &mut Each<'_>) -> Result<(), Unfit> {
        let met = vec![false; self.pages as usize];
        let mut walk = Walk { image: self, met, is_ordered: true, last: Vec::new(), least: Vec::new() };
        walk.tree(self.main, 0, each)?;
        walk.is_ordered = false;
        let mut free = Vec::new();
        walk.tree(self.free, 0, &mut |_, list| {
            for nth in 1..=u64_at(list, 0)? {
                free.push(u64_at(list, 8 * nth as usize)?);
            }
            Ok(())
        })?;
        // Free pages at the end of the file need not be in it.
        for page in free {
            match page {
                2.. if page > self.last_page => return Err(Unfit::Damaged("it has free pages that it does not have")),
                2.. if page >= self.pages => {}
                _ => walk.meet(page)?,
            }
        }
        Ok(())
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Unfit> {
        let mut at = self.main;
        for _ in 0..MAX_DEPTH {
            if at == NOWHERE {
                return Ok(None);
            }
            let page = self.page(at)?;
            let (is_branch, count) = shape(&page, at)?;
            let mut next = None;
            for index in 0..count {
                let entry = entry(&page, index)?;
                match is_branch {
                    true if index == 0 || entry.key <= key => next = Some(entry.size | u64::from(entry.flags) << 32),
                    true => break,
                    false if entry.key == key => return Ok(Some(self.data(&entry, &mut |_| Ok(()))?.into_owned())),
                    false => {}
                }
            }
            let Some(next) = next else { return Ok(None) };
            at = next;
        }
        Err(Unfit::Damaged("its tree is too deep"))
    }

    fn page(&self, number: u64) -> Result<Vec<u8>, Unfit> {
        if !(2..self.pages).contains(&number) {
            return Err(Unfit::Damaged("it is cut off"));
        }
        read(&self.file, number * self.page_size as u64, self.page_size)
    }

    fn data<'p>(
        &self,
        entry: &Entry<'p>,
        meet: &mut dyn FnMut(u64) -> Result<(), Unfit>,
    ) -> Result<Cow<'p, [u8]>, Unfit> {
        let size = entry.size as usize;
        if entry.flags > BIG_DATA {
            return Err(Unfit::Damaged("an entry is of another kind"));
        }
        if entry.flags == 0 {
            let data = entry.rest.get(..size).ok_or(Unfit::Damaged("an entry is cut off"))?;
            return Ok(data.into());
        }
        let first = u64_at(entry.rest, 0)?;
        let head = self.page(first)?;
        let pages = u64::from(u32_at(&head, 12)?);
        let fits = (PAGE_HEADER + size).div_ceil(self.page_size) as u64 <= pages && pages <= self.pages - first;
        if u64_at(&head, 0)? != first || u16_at(&head, 10)? != OVERFLOW || !fits {
            return Err(Unfit::Damaged("a large entry is not where it should be"));
        }
        (first..first + pages).try_for_each(meet)?;
        read(&self.file, first * self.page_size as u64 + PAGE_HEADER as u64, size).map(Cow::Owned)
    }
}

impl Walk<'_> {
    fn meet(&mut self, page: u64) -> Result<(), Unfit> {
        match self.met.get_mut(page as usize) {
            Some(met) if !*met && page >= 2 => *met = true,
            _ => return Err(Unfit::Damaged("a page has two places in it, or none")),
        }
        Ok(())
    }

    fn tree(&mut self, at: u64, depth: usize, each: &mut Each<'_>) -> Result<(), Unfit> {
        if at == NOWHERE && depth == 0 {
            return Ok(());
        }
        if depth == MAX_DEPTH {
            return Err(Unfit::Damaged("its tree is too deep"));
        }
        self.meet(at)?;
        let page = self.image.page(at)?;
        let (is_branch, count) = shape(&page, at)?;
        for index in 0..count {
            let entry = entry(&page, index)?;
            // The first key of a branch stands for all that is smaller.
            if self.is_ordered && (!is_branch || index > 0) {
                self.pass(entry.key, is_branch)?;
            }
            if is_branch {
                self.tree(entry.size | u64::from(entry.flags) << 32, depth + 1, each)?;
            } else {
                let data = self.image.data(&entry, &mut |page| self.meet(page))?;
                each(entry.key, &data)?;
            }
        }
        Ok(())
    }

    /// A branch's key lies above all keys before it, and not above those that come.
    fn pass(&mut self, key: &[u8], is_branch: bool) -> Result<(), Unfit> {
        let is_first = self.last.is_empty();
        if key.is_empty() || key < self.least.as_slice() || (!is_first && key <= self.last.as_slice()) {
            return Err(Unfit::Damaged("its keys are out of order"));
        }
        let bound = if is_branch { &mut self.least } else { &mut self.last };
        bound.clear();
        bound.extend_from_slice(key);
        Ok(())
    }
}

/// Whether it is a branch, and how many entries it has.
fn shape(page: &[u8], number: u64) -> Result<(bool, usize), Unfit> {
    let (flags, lower, upper) = (u16_at(page, 10)?, u16_at(page, 12)? as usize, u16_at(page, 14)? as usize);
    let is_sound = u64_at(page, 0)? == number && lower >= PAGE_HEADER && lower <= upper && upper <= page.len();
    match flags {
        BRANCH | LEAF if is_sound => Ok((flags == BRANCH, (lower - PAGE_HEADER) / 2)),
        _ => Err(Unfit::Damaged("a page is not what it should be")),
    }
}

fn entry(page: &[u8], index: usize) -> Result<Entry<'_>, Unfit> {
    let upper = u16_at(page, 14)?;
    let offset = u16_at(page, PAGE_HEADER + 2 * index)?;
    let node = page.get(offset as usize..).filter(|_| offset >= upper).ok_or(Unfit::Damaged("an entry is cut off"))?;
    let size = u64::from(u32_at(node, 0)?);
    let (flags, key_size) = (u16_at(node, 4)?, u16_at(node, 6)? as usize);
    let (key, rest) = node
        .get(NODE_HEADER..)
        .and_then(|node| node.split_at_checked(key_size))
        .ok_or(Unfit::Damaged("an entry is cut off"))?;
    Ok(Entry { flags, size, key, rest })
}

fn read(file: &File, at: u64, length: usize) -> Result<Vec<u8>, Unfit> {
    let mut bytes = vec![0; length];
    match file.read_exact_at(&mut bytes, at) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Unfit::Damaged("it is cut off")),
        Err(error) => Err(Unfit::Unreadable(error)),
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Unfit> {
    array_at(bytes, at).map(u64::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Unfit> {
    array_at(bytes, at).map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Unfit> {
    array_at(bytes, at).map(u16::from_ne_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Unfit> {
    let part = bytes.get(at..at.saturating_add(N)).and_then(|part| part.try_into().ok());
    part.ok_or(Unfit::Damaged("it is cut off"))
}
