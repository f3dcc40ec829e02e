//! The file: a line of JSON an entry, appended. Where it has grown too large, or anything went wrong, it is written anew with
//! what is kept, and takes the old one's place when it is whole.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::entry::Entry;
use super::kept::Kept;
use crate::permissions::own;

/// For its owner alone: whose rules are to read of it, the sidecar knows.
const MODE: u32 = 0o600;

/// The file, ours to write.
#[derive(Debug)]
pub(super) struct HistoryFile {
    path: PathBuf,
    max_bytes: u64,
    /// Whether a file may lie there that could not be read, which is to be set aside before another takes its place.
    is_unread: bool,
    /// None: it is to be written anew.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
    /// The last entry in it.
    last: u64,
}

/// What stood in the file.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) entries: Vec<Entry>,
    /// Of lines that are none, as the last one of a process that was killed within it.
    pub(super) unreadable_bytes: u64,
}

impl HistoryFile {
    pub(super) fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self { path, max_bytes, is_unread: false, open: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What an earlier process left. A file with lines that are none is set aside; it is written anew with the others. So is one
    /// that cannot be read.
    pub(super) fn load(&mut self) -> io::Result<Loaded> {
        self.is_unread = true;
        let loaded = self.read()?;
        self.is_unread = false;
        Ok(loaded)
    }

    fn read(&self) -> io::Result<Loaded> {
        let mut file = match own::open(&self.path) {
            Ok(file) => file,
            Err(own::NotOwn::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::default()),
            Err(why) => return Err(why.at(&self.path)),
        };
        // What may be more than that is what is kept no more: `max_size` was lowered.
        let past = file.metadata()?.len().saturating_sub(2 * self.max_bytes);
        file.seek(SeekFrom::Start(past))?;
        let mut lines = BufReader::new(file);
        if past > 0 {
            lines.read_until(b'\n', &mut Vec::new())?;
        }
        let (mut loaded, mut line, mut last) = (Loaded::default(), Vec::new(), 0);
        loop {
            line.clear();
            let bytes = lines.read_until(b'\n', &mut line)?;
            if bytes == 0 {
                break;
            }
            let entry = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice::<Entry>(line).ok());
            match entry.filter(|entry| entry.number > last) {
                Some(entry) => {
                    last = entry.number;
                    loaded.entries.push(entry);
                }
                None => loaded.unreadable_bytes += bytes as u64,
            }
        }
        if loaded.unreadable_bytes > 0 {
            fs::rename(&self.path, self.aside())?;
        }
        Ok(loaded)
    }

    /// Where a file lies that has lines that are none, or that could not be read.
    pub(super) fn aside(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".set-aside");
        name.into()
    }

    /// Has the file hold what is kept.
    pub(super) fn write(&mut self, kept: &Kept) -> io::Result<()> {
        if let Some(open) = self.open.take()
            && open.bytes < self.max_bytes
            && open.file.metadata().is_ok_and(|found| found.nlink() > 0)
        {
            self.open = Some(open.append(kept)?);
            return Ok(());
        }
        let fresh = self.path.with_extension("new");
        let written = self.write_anew(&fresh, kept);
        if written.is_err() {
            // It may be what fills the disk.
            let _ = fs::remove_file(&fresh);
        }
        self.open = Some(written?);
        Ok(())
    }

    fn write_anew(&mut self, fresh: &Path, kept: &Kept) -> io::Result<Open> {
        let file = own::create(fresh, MODE)?;
        let open = Open { file, bytes: 0, last: 0 }.append(kept)?;
        open.file.sync_data()?;
        if self.is_unread {
            match fs::rename(&self.path, self.aside()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.is_unread = false,
            }
        }
        fs::rename(fresh, &self.path)?;
        Ok(open)
    }
}

impl Open {
    /// With the entries that are not in it yet. After a failure nobody knows what stands in it.
    fn append(mut self, kept: &Kept) -> io::Result<Self> {
        let lines: String = kept.after(None, self.last).map(|entry| entry.line()).collect();
        self.file.write_all(lines.as_bytes())?;
        self.bytes += lines.len() as u64;
        self.last = kept.last();
        Ok(self)
    }
}
