//! Walks along the tree of an image, which check that LMDB can work with the whole file.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{CUT_OFF, Image, InvalidFile, MAX_DEPTH, NOWHERE, Page, TOO_DEEP, u64_at};
use crate::task;

const OUT_OF_ORDER: InvalidFile = InvalidFile::Damaged("its keys are out of order");

/// What to do with an entry, given its key and its value.
pub(crate) type Each<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), InvalidFile> + Send + 'a;

/// A walk along a tree, which checks that each page occurs once, and that the keys are in order.
struct Walk<'i> {
    image: &'i Image,
    met: Vec<bool>,
    /// The keys of the free list are numbers, in another order.
    is_ordered: bool,
    last: Vec<u8>,
    /// The minimum of the next key.
    least: Vec<u8>,
}

/// The entries with keys on one side of a key.
pub(in crate::store::shared) struct Half<'i> {
    walk: Walk<'i>,
    side: Side,
    at: &'i [u8],
    /// The pages on the path to that key, which belong to both halves.
    way: Vec<u64>,
}

#[derive(Clone, Copy)]
enum Side {
    Before,
    From,
}

impl Image {
    /// Visits every entry in key order, and checks that LMDB can work with the whole file.
    pub(crate) fn walk(&self, each: &mut Each<'_>) -> Result<(), InvalidFile> {
        let mut walk = Walk::new(self);
        if self.main != NOWHERE {
            let root = walk.page(self.main)?;
            walk.entries(&root, 0..root.count, 0, each)?;
        }
        walk.free_list()
    }

    /// The same in two halves concurrently: the entries with keys before `at`, and the others.
    pub(in crate::store::shared) fn halves<A, B: Send>(
        &self,
        at: &[u8],
        before: impl FnOnce(&mut Half<'_>) -> Result<A, InvalidFile>,
        from: impl FnOnce(&mut Half<'_>) -> Result<B, InvalidFile> + Send,
    ) -> Result<(A, B), InvalidFile> {
        let [mut lower, mut upper] = [Side::Before, Side::From].map(|side| Half::new(self, side, at));
        let (two, one) = task::both(|| from(&mut upper), || before(&mut lower));
        let both = (one?, two?);
        lower.join(upper)?.free_list()?;
        Ok(both)
    }
}

impl<'i> Half<'i> {
    fn new(image: &'i Image, side: Side, at: &'i [u8]) -> Self {
        let mut walk = Walk::new(image);
        if let Side::From = side {
            walk.least = at.to_vec();
        }
        Self { walk, side, at, way: Vec::new() }
    }

    /// Visits every entry of this half in key order.
    pub(in crate::store::shared) fn each(&mut self, each: &mut Each<'_>) -> Result<(), InvalidFile> {
        match self.walk.image.main {
            NOWHERE => Ok(()),
            root => self.along(root, each),
        }
    }

    fn along(&mut self, number: u64, each: &mut Each<'_>) -> Result<(), InvalidFile> {
        let (page, depth) = (self.walk.page(number)?, self.way.len());
        if depth == MAX_DEPTH {
            return Err(TOO_DEEP);
        }
        self.way.push(number);
        let middle = page.first_from(self.at)?;
        let (before, from) = (0..middle, middle..page.count);
        if !page.is_branch {
            let of = if let Side::Before = self.side { before } else { from };
            return self.walk.entries(&page, of, depth, each);
        }
        let between = page.entry(middle - 1)?;
        if let Side::From = self.side {
            self.along(between.page(), each)?;
            return self.walk.entries(&page, from, depth, each);
        }
        self.walk.entries(&page, 0..middle - 1, depth, each)?;
        if middle > 1 {
            self.walk.pass(between.key, true)?;
        }
        self.along(between.page(), each)
    }

    /// The combined walk.
    fn join(mut self, upper: Half<'_>) -> Result<Walk<'i>, InvalidFile> {
        if self.walk.last.as_slice() >= self.at {
            return Err(OUT_OF_ORDER);
        }
        let met = upper.walk.met.into_iter().enumerate().filter(|(_, met)| *met).map(|(page, _)| page as u64);
        met.filter(|page| !self.way.contains(page)).try_for_each(|page| self.walk.meet(page))?;
        Ok(self.walk)
    }
}

impl<'i> Walk<'i> {
    fn new(image: &'i Image) -> Self {
        let met = vec![false; image.pages as usize];
        Self { image, met, is_ordered: true, last: Vec::new(), least: Vec::new() }
    }

    fn meet(&mut self, page: u64) -> Result<(), InvalidFile> {
        match self.met.get_mut(page as usize) {
            Some(met) if !*met && (2..=self.image.last_page).contains(&page) => *met = true,
            _ => return Err(InvalidFile::Damaged("a page has two places in it, or none")),
        }
        Ok(())
    }

    fn page(&mut self, number: u64) -> Result<Page, InvalidFile> {
        self.meet(number)?;
        self.image.page(number)
    }

    fn entries(&mut self, page: &Page, of: Range<usize>, depth: usize, each: &mut Each<'_>) -> Result<(), InvalidFile> {
        if depth == MAX_DEPTH {
            return Err(TOO_DEEP);
        }
        for index in of {
            let entry = page.entry(index)?;
            // The first key of a branch stands for everything smaller.
            if self.is_ordered && (!page.is_branch || index > 0) {
                self.pass(entry.key, page.is_branch)?;
            }
            if page.is_branch {
                let below = self.page(entry.page())?;
                self.entries(&below, 0..below.count, depth + 1, each)?;
            } else {
                let data = self.image.data(&entry, &mut |page| self.meet(page))?;
                each(entry.key, &data)?;
            }
        }
        Ok(())
    }

    /// A branch's key is above all keys before it, and not above those after it.
    fn pass(&mut self, key: &[u8], is_branch: bool) -> Result<(), InvalidFile> {
        if key < self.least.as_slice() || key <= self.last.as_slice() {
            return Err(OUT_OF_ORDER);
        }
        // The first key of a leaf is at least the minimum, and each later one is above it.
        self.least.clear();
        let bound = if is_branch { &mut self.least } else { &mut self.last };
        bound.clear();
        bound.extend_from_slice(key);
        Ok(())
    }

    /// No free page may be in use, and pages beyond the file must be free.
    fn free_list(mut self) -> Result<(), InvalidFile> {
        let mut free = BTreeSet::new();
        if self.image.free != NOWHERE {
            self.is_ordered = false;
            let root = self.page(self.image.free)?;
            self.entries(&root, 0..root.count, 0, &mut |_, list| {
                for nth in 1..=u64_at(list, 0)? {
                    free.insert(u64_at(list, 8 * nth as usize)?);
                }
                Ok(())
            })?;
        }
        let mut beyond = 0;
        for page in free {
            if page < self.image.pages {
                self.meet(page)?;
            } else if page <= self.image.last_page {
                beyond += 1;
            } else {
                return Err(InvalidFile::Damaged("it has free pages that it does not have"));
            }
        }
        let missing = self.image.last_page.saturating_sub(self.image.pages - 1);
        if missing > beyond { Err(CUT_OFF) } else { Ok(()) }
    }
}
