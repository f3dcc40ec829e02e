//! The file: one line of JSON per entry, appended. When it has grown too large, or anything went wrong, a new file is
//! written with the kept entries, and replaces the old one when it is complete.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::entry::Entry;
use super::kept::Kept;
use crate::permissions::own;

/// Readable by its owner alone: only the sidecar knows which clients may read what.
const MODE: u32 = 0o600;

/// The most bytes of a line that was cut off: a longer one is not an entry.
const MAX_TORN_BYTES: usize = 64 << 10;

/// The file, ours to write.
#[derive(Debug)]
pub(super) struct HistoryFile {
    path: PathBuf,
    max_bytes: u64,
    /// Whether the file may have content that was not read: it is set aside before another replaces it.
    has_unread: bool,
    /// None: it has to be rewritten.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
    /// The number of the last entry in it.
    last: u64,
}

/// The content of the file.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) entries: Vec<Entry>,
    /// Bytes of lines that are not entries.
    pub(super) unreadable_bytes: u64,
    /// Bytes of a last line that was cut off, as when its writer was killed.
    pub(super) torn_bytes: u64,
}

impl HistoryFile {
    pub(super) fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self { path, max_bytes, has_unread: false, open: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what an earlier process left. A file with more content than that is set aside before it is rewritten.
    pub(super) fn load(&mut self) -> io::Result<Loaded> {
        self.has_unread = true;
        let loaded = self.read()?;
        self.has_unread = loaded.unreadable_bytes > 0;
        Ok(loaded)
    }

    fn read(&self) -> io::Result<Loaded> {
        let mut file = match own::open(&self.path) {
            Ok(file) => file,
            Err(own::NotOwn::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::default()),
            Err(why) => return Err(why.at(&self.path)),
        };
        // The rest is no longer kept: `max_size` was lowered.
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
                None if !line.ends_with(b"\n") && bytes <= MAX_TORN_BYTES => loaded.torn_bytes = bytes as u64,
                None => loaded.unreadable_bytes += bytes as u64,
            }
        }
        Ok(loaded)
    }

    /// Makes the file hold what is kept.
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
        if self.has_unread {
            if let Some(aside) = own::set_aside(&self.path)? {
                let (path, aside) = (self.path.display(), aside.display());
                tracing::warn!(%path, %aside, "set a partly unreadable history aside");
            }
            self.has_unread = false;
        }
        fs::rename(fresh, &self.path)?;
        Ok(open)
    }
}

impl Open {
    /// Appends the entries that are not in it yet. After a failure its content is unknown.
    fn append(mut self, kept: &Kept) -> io::Result<Self> {
        let lines: String = kept.after(None, self.last).map(|entry| entry.line()).collect();
        self.file.write_all(lines.as_bytes())?;
        self.bytes += lines.len() as u64;
        self.last = kept.last();
        Ok(self)
    }
}
