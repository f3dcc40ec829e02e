//! The log: what was done since the file was written last, each transaction in one record that is found out if it is torn
//! or damaged.
//!
//! A record is written over what is there of the past, so that the disk needs not write down that the log has grown.
//! Records of the past are of another *generation*, which is a random number that the file names: with the next one, the
//! log is empty. A record begins at a multiple of 8 bytes, and its numbers have 8 bytes each, the most significant first:
//!
//! | what | of |
//! |---|---|
//! | a checksum | where it begins, and its length |
//! | its length | the entries |
//! | a checksum | the entries |
//! | the entries | each the length of its key in 2 bytes, that of its value in 4, the key, and the value |
//!
//! The generation is the seed of both checksums. Nobody else knows it, so that no payload can pass for a record.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::permissions::own::{self, NotOwn};

/// The log begins as small as this, and grows where more is written than it holds.
const LEAST: usize = 32 << 10;
const MOST: usize = 4 << 20;

const ALIGNMENT: usize = 8;
const HEADER: usize = 24;

/// The length of the value of a key that is deleted.
const DELETED: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Log {
    file: File,
    size: usize,
    generation: u64,
    /// Where the next record begins.
    end: usize,
}

/// What one transaction did, while it is gathered.
#[derive(Debug)]
pub(super) struct Record {
    bytes: Vec<u8>,
    entries: usize,
}

/// What was found in a log.
#[derive(Debug, Default)]
pub(super) struct Found {
    bytes: Vec<u8>,
    /// The entries of each record, in the order in which they were written.
    records: Vec<Range<usize>>,
    /// Whether there is something between them that is no record.
    pub(super) has_gap: bool,
}

impl Log {
    /// Opens a log, or makes one.
    pub(super) fn open(path: &Path) -> Result<Self, NotOwn> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = own::open_with(path, &mut options)?;
        let size = file.metadata().map_err(NotOwn::Io)?.len().min(MOST as u64) as usize / ALIGNMENT * ALIGNMENT;
        let mut log = Self { file, size, generation: 0, end: size };
        if size < LEAST {
            log.grow_to(LEAST).and_then(|()| log.file.sync_all()).map_err(NotOwn::Io)?;
        }
        Ok(log)
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Whether there are records of this generation.
    pub(super) fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// What there is of a generation, after which the next record is written.
    pub(super) fn read(&mut self, generation: u64) -> io::Result<Found> {
        let mut bytes = vec![0; self.size];
        self.file.read_exact_at(&mut bytes, 0)?;
        let (records, has_gap) = records(&bytes, generation);
        self.generation = generation;
        self.end = records.last().map_or(0, |last| last.end.next_multiple_of(ALIGNMENT));
        Ok(Found { bytes, records, has_gap })
    }

    /// All that was written before is of the past.
    pub(super) fn begin(&mut self, generation: u64) {
        (self.generation, self.end) = (generation, 0);
    }

    pub(super) fn has_room(&self, record: &Record) -> bool {
        record.bytes.len().next_multiple_of(ALIGNMENT) <= self.size - self.end
    }

    /// Writes a record for which there is room. It outlives this process, and the machine once it is synced.
    pub(super) fn append(&mut self, record: &mut Record) -> io::Result<()> {
        let written = record.finish(self.end, self.generation);
        self.file.write_all_at(written, self.end as u64)?;
        self.end += written.len();
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Has the log hold twice as much, if it may.
    pub(super) fn grow(&mut self) -> io::Result<()> {
        self.grow_to((2 * self.size).min(MOST))
    }

    /// Written to be there: what is only reserved would have to be written down when it is used.
    fn grow_to(&mut self, size: usize) -> io::Result<()> {
        self.file.write_all_at(&vec![0; size.saturating_sub(self.size)], self.size as u64)?;
        self.size = self.size.max(size);
        Ok(())
    }
}

impl Record {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; HEADER], entries: 0 }
    }

    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    /// What is too large for any log need not be whole.
    pub(super) fn push(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.entries += 1;
        if self.bytes.len() > MOST {
            return;
        }
        let length = value.map_or(DELETED, |value| value.len() as u32);
        self.bytes.extend_from_slice(&(key.len() as u16).to_be_bytes());
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
    }

    /// What has been pushed.
    pub(super) fn written(&self) -> impl Iterator<Item = Option<Entry<'_>>> {
        entries(&self.bytes[HEADER..])
    }

    fn finish(&mut self, at: usize, generation: u64) -> &[u8] {
        let length = self.bytes.len() - HEADER;
        let sums = (sum_of_header(at, length, generation), xxh3_64_with_seed(&self.bytes[HEADER..], generation));
        for (place, number) in [sums.0, length as u64, sums.1].into_iter().enumerate() {
            self.bytes[8 * place..][..8].copy_from_slice(&number.to_be_bytes());
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        &self.bytes
    }

    pub(super) fn clear(&mut self) {
        self.bytes.truncate(HEADER);
        self.bytes.shrink_to(LEAST);
        self.entries = 0;
    }
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The keys that were written or deleted, with their values. None: it is not as it was written.
    pub(super) fn entries(&self) -> impl Iterator<Item = Option<Entry<'_>>> {
        self.records.iter().flat_map(|record| entries(&self.bytes[record.clone()]))
    }
}

/// A key that was written, with its value; or deleted.
pub(super) type Entry<'a> = (&'a [u8], Option<&'a [u8]>);

/// The entries one after the other. None: they are not as they were written.
fn entries(mut rest: &[u8]) -> impl Iterator<Item = Option<Entry<'_>>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let entry = split_entry(rest);
        rest = entry.map_or(&[], |(_, rest)| rest);
        Some(entry.map(|(entry, _)| entry))
    })
}

/// The first entry, and what follows it.
fn split_entry(bytes: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let (key_length, rest) = bytes.split_first_chunk()?;
    let (value_length, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_at_checked(u16::from_be_bytes(*key_length).into())?;
    match u32::from_be_bytes(*value_length) {
        DELETED => Some(((key, None), rest)),
        length => {
            let (value, rest) = rest.split_at_checked(length as usize)?;
            Some(((key, Some(value)), rest))
        }
    }
}

/// The entries of each record, and whether there is something between records.
fn records(bytes: &[u8], generation: u64) -> (Vec<Range<usize>>, bool) {
    let (mut records, mut has_gap) = (Vec::new(), false);
    let (mut at, mut end) = (0, 0);
    while at + HEADER <= bytes.len() {
        match record_at(bytes, at, generation) {
            Some(record) => {
                has_gap |= at != end;
                end = record.end.next_multiple_of(ALIGNMENT);
                at = end;
                records.push(record);
            }
            None => at += ALIGNMENT,
        }
    }
    (records, has_gap)
}

fn record_at(bytes: &[u8], at: usize, generation: u64) -> Option<Range<usize>> {
    let number = |place: usize| bytes.get(at + 8 * place..)?.first_chunk().copied().map(u64::from_be_bytes);
    let length = usize::try_from(number(1)?).ok()?;
    if number(0)? != sum_of_header(at, length, generation) {
        return None;
    }
    let record = at + HEADER..(at + HEADER).checked_add(length)?;
    let entries = bytes.get(record.clone())?;
    (number(2)? == xxh3_64_with_seed(entries, generation)).then_some(record)
}

fn sum_of_header(at: usize, length: usize, generation: u64) -> u64 {
    let [at, length] = [at, length].map(|number| (number as u64).to_be_bytes());
    xxh3_64_with_seed(&[at, length].concat(), generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three records, and where each ends.
    fn written() -> (Vec<u8>, [usize; 3]) {
        let (mut bytes, mut record) = (vec![0; 1_024], Record::new());
        let mut end = 0;
        let ends = [1, 2, 3].map(|number: u8| {
            record.push(&[number], Some(&[number; 21]));
            record.push(b"old", None);
            record.push(b"", Some(b""));
            let written = record.finish(end, 7);
            bytes[end..end + written.len()].copy_from_slice(written);
            end += written.len();
            record.clear();
            end
        });
        (bytes, ends)
    }

    /// The numbers of the records that are found.
    fn found(bytes: &[u8]) -> (Vec<u8>, bool) {
        let (records, has_gap) = records(bytes, 7);
        let found = Found { bytes: bytes.to_vec(), records, has_gap };
        let mut numbers = Vec::new();
        let entries: Vec<Entry<'_>> = found.entries().map(|entry| entry.expect("it is whole")).collect();
        for entries in entries.chunks(3) {
            let number = entries[0].0[0];
            assert_eq!(entries, [(&[number][..], Some(&[number; 21][..])), (b"old", None), (b"", Some(b""))]);
            numbers.push(number);
        }
        (numbers, found.has_gap)
    }

    #[test]
    fn a_log_that_is_cut_anywhere_has_all_records_before_that() {
        let (bytes, ends) = written();
        assert_eq!(found(&bytes), (vec![1, 2, 3], false));
        for cut in 0..=ends[2] {
            // What is cut off may have been nothing but zeros.
            let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
            let whole = ends.iter().filter(|end| bytes.get(cut..**end).is_none_or(is_zero));
            let whole: Vec<u8> = (1..=whole.count() as u8).collect();
            let mut torn = bytes.clone();
            torn[cut..].fill(0);
            assert_eq!(found(&torn), (whole.clone(), false), "{cut}");
            // What was there before.
            let mut over = vec![0xa5; bytes.len()];
            over[..cut].copy_from_slice(&bytes[..cut]);
            let (numbers, has_gap) = found(&over);
            assert!(!has_gap && numbers.len() <= whole.len() && numbers[..] == whole[..numbers.len()], "{cut}");
            assert!(found(&bytes[..cut]).0.len() <= whole.len(), "{cut}");
        }
    }

    #[test]
    fn whatever_bit_is_flipped_the_other_records_are_found_and_a_gap_is_told() {
        let (bytes, ends) = written();
        for at in 0..ends[2] {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let of = ends.iter().filter(|end| **end <= at).count() as u8 + 1;
                let others: Vec<u8> = (1..=3).filter(|number| *number != of).collect();
                let found = found(&damaged);
                let is_padding = found == (vec![1, 2, 3], false) && ends[of as usize - 1] - at < 8;
                assert!(is_padding || found == (others, of < 3), "{at} {bit}: {found:?}");
            }
        }
    }

    #[test]
    fn records_of_another_generation_or_place_are_none() {
        let (bytes, ends) = written();
        assert_eq!(records(&bytes, 8), (vec![], false));
        assert_eq!(records(&bytes[ends[0]..], 7), (vec![], false));
        assert_eq!(records(&[0; 64], 0), (vec![], false));
    }

    #[test]
    fn a_log_holds_what_was_written_and_no_more_after_the_next_generation_began() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let (mut log, mut record) = (Log::open(&path).expect("made"), Record::new());
        assert!(log.read(1).expect("it is read").is_empty());
        for count in 0..3 {
            record.clear();
            record.push(b"key", Some(&[7; 10_000]));
            assert!(log.has_room(&record), "{count}");
            log.append(&mut record).expect("written");
        }
        record.clear();
        record.push(b"key", Some(&[7; 10_000]));
        assert!(!log.has_room(&record), "it is full");
        log.grow().expect("there is room");
        assert!(log.has_room(&record));
        let mut log = Log::open(&path).expect("it is ours");
        assert_eq!(log.read(1).expect("it is read").entries().flatten().count(), 3);
        assert!(!log.is_empty() && log.has_room(&record));
        log.begin(2);
        assert!(log.is_empty());
        record.clear();
        record.push(b"key", None);
        log.append(&mut record).expect("written");
        let found = log.read(2).expect("it is read");
        assert_eq!(found.entries().collect::<Vec<_>>(), [Some((&b"key"[..], None))]);
        assert!(!found.has_gap);
    }
}
