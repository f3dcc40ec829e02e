//! Log files: the output of a group's processes, in a separate file that is rotated by size and by age.
//!
//! A file that cannot be written delays nobody: omitted lines are counted, and logged once with the reason. No link is
//! followed, and nothing is written where another user could have redirected it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::stat::Mode;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::config::Config;
use crate::model::counted;
use crate::permissions::own::cannot_write;
use crate::permissions::{Folder, Found, own};
use crate::task::{Phase, Stop, Tasks};

/// How long a file is written before it is reopened by name: there may be another one by then.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// How soon to retry a file that cannot be written.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How soon to retry the rotation of a file that cannot be renamed, and the multiple of its maximum size at which it is
/// truncated meanwhile.
const ROTATION_RETRY_INTERVAL: Duration = Duration::from_secs(60);
const MAX_OVERDUE_SIZES: u64 = 4;

/// The most to write at once: no more than the smallest file may hold.
const MAX_BATCH_BYTES: usize = 32 * 1024;

/// How much may be queued before printing processes have to wait too,
const CROWDED_BYTES: usize = 512 * 1024;
/// and before lines are dropped.
const MAX_WAITING_BYTES: usize = 2 * CROWDED_BYTES;

/// How long a printing process waits at most for a stuck disk, and how often to check.
const MAX_WAIT: Duration = Duration::from_secs(1);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How many names of older files may be blocked by something that cannot be replaced.
const MAX_BLOCKED: usize = 1000;

/// Readable by its owner and group only.
const MODE: Mode = Mode::from_bits_retain(0o640);

/// The queue to a group's file.
#[derive(Debug)]
pub(super) struct LogFile {
    lines: mpsc::UnboundedSender<String>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting_bytes: AtomicUsize,
    /// Whether nothing can be written now.
    is_stuck: AtomicBool,
    /// How many lines were dropped, and how many of these are not noted in the file yet.
    left_out: AtomicU64,
    untold: AtomicU64,
}

/// Writes the file.
#[derive(Debug)]
struct Writer {
    path: PathBuf,
    max_size: u64,
    max_age: Option<Duration>,
    max_files: usize,
    opened: Option<Opened>,
    /// When it was last written: the file's own timestamp may be from another machine's clock, or slightly older.
    written: Option<SystemTime>,
    /// Set while a rotation that failed is still to be made.
    overdue: Option<Overdue>,
    /// The first name for an older file that is blocked.
    blocked: Option<OsString>,
    /// Whether the last line is incomplete.
    is_torn: bool,
}

#[derive(Debug)]
struct Overdue {
    why: String,
    retry_at: Instant,
    /// Whether it has been logged that the file cannot be truncated either.
    is_untruncated: bool,
}

#[derive(Debug)]
struct Opened {
    folder: Folder,
    name: OsString,
    file: File,
    since: Instant,
}

impl LogFile {
    /// Starts the file of a group, if it has one; it is written until the last process has ended at a stop.
    pub(super) fn start(config: &Config, tasks: &Tasks) -> Option<Self> {
        let (writer, tasks) = (Writer::new(config)?, tasks.of(Phase::SharedFile));
        let (lines, written) = mpsc::unbounded_channel();
        let (state, stop, worker) = (Arc::<State>::default(), tasks.stop_signal(), config.name.clone());
        tasks.short(write_all(worker, writer, written, state.clone(), stop));
        Some(Self { lines, state })
    }

    /// Queues a line, or drops it if too much is queued.
    pub(super) fn write(&self, level: &str, worker: &str, pid: i32, text: &str) {
        let line = line(level, &format!("{worker}[{pid}]"), text);
        if self.state.waiting_bytes.load(Ordering::Relaxed) + line.len() > MAX_WAITING_BYTES {
            self.state.leave_out(1);
            return;
        }
        self.state.waiting_bytes.fetch_add(line.len(), Ordering::Relaxed);
        // If the writer is gone, the sidecar is ending.
        let _ = self.lines.send(line);
    }

    /// Waits until there is room, unless that takes too long.
    pub(super) async fn has_room(&self) {
        let state = &self.state;
        let begun = Instant::now();
        let is_crowded = || state.waiting_bytes.load(Ordering::Relaxed) > CROWDED_BYTES;
        while is_crowded() && !state.is_stuck.load(Ordering::Relaxed) {
            if begun.elapsed() >= MAX_WAIT {
                state.is_stuck.store(true, Ordering::Relaxed);
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    pub(super) fn left_out(&self) -> u64 {
        self.state.left_out.load(Ordering::Relaxed)
    }
}

impl State {
    fn leave_out(&self, lines: u64) {
        self.left_out.fetch_add(lines, Ordering::Relaxed);
        self.untold.fetch_add(lines, Ordering::Relaxed);
    }
}

async fn write_all(
    worker: String,
    mut writer: Writer,
    mut lines: mpsc::UnboundedReceiver<String>,
    state: Arc<State>,
    stop: Stop,
) {
    let mut told = None;
    loop {
        let first = tokio::select! {
            line = lines.recv() => line,
            // Lines printed before are still written.
            () = stop.requested() => lines.try_recv().ok(),
        };
        let Some(mut batch) = first else { return };
        while batch.len() < MAX_BATCH_BYTES
            && let Ok(line) = lines.try_recv()
        {
            batch.push_str(&line);
        }
        let bytes = batch.len();
        let untold = state.untold.swap(0, Ordering::Relaxed);
        if untold > 0 {
            let text = format!("{} left out before this one: they could not be written", counted(untold, "line"));
            batch.insert_str(0, &line("warning", &worker, &text));
        }
        let written = spawn_blocking(move || {
            // The owner of a folder may be looked up on a server.
            let written = writer.write(batch.as_bytes()).map_err(|error| why(&writer.path, &error));
            (writer, batch, written)
        });
        // It never panics.
        let Ok((used, batch, written)) = written.await else { return };
        writer = used;
        state.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        state.is_stuck.store(written.is_err(), Ordering::Relaxed);
        let Err(why) = written else {
            if told.take().is_some() {
                tracing::info!(worker, log = %writer.path.display(), "the log of a worker is written again");
            }
            continue;
        };
        let lines = batch.lines().count() as u64;
        state.leave_out(lines - u64::from(untold > 0));
        state.untold.fetch_add(untold, Ordering::Relaxed);
        if told.as_ref() != Some(&why) {
            let log = writer.path.display();
            tracing::error!(worker, %log, why, "cannot write the log of a worker, and leaves out what it prints meanwhile");
            told = Some(why);
        }
        tokio::select! {
            () = sleep(RETRY_INTERVAL) => {}
            () = stop.requested() => {}
        }
    }
}

impl Writer {
    fn new(config: &Config) -> Option<Self> {
        Some(Self {
            path: config.log.clone()?,
            max_size: config.max_log_size.0,
            max_age: config.max_log_age,
            max_files: config.max_log_files,
            opened: None,
            written: None,
            overdue: None,
            blocked: None,
            is_torn: false,
        })
    }

    /// Writes whole lines, to the next file if they do not fit, or belong to another period. Blocks meanwhile.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut opened = match self.opened.take().filter(|opened| opened.since.elapsed() < REOPEN_INTERVAL) {
            Some(opened) if opened.file.metadata()?.nlink() > 0 => opened,
            _ => self.open()?,
        };
        let found = opened.file.metadata()?;
        let now = SystemTime::now();
        let last = self.written.map_or_else(|| found.modified().map(|stamp| stamp.min(now)), Ok)?;
        let size = found.len() + lines.len() as u64;
        let is_due = match &self.overdue {
            Some(overdue) => Instant::now() >= overdue.retry_at,
            None => size > self.max_size || self.is_of_before(last, now),
        };
        if found.len() == 0 {
            self.overdue = None;
        } else if is_due {
            match self.rotate(&opened.folder, &opened.name) {
                Ok(()) => {
                    opened = self.open()?;
                    self.is_torn = false;
                    self.overdue = None;
                }
                Err(error) => self.postpone(&error),
            }
        }
        if let Some(overdue) = &mut self.overdue
            && size > MAX_OVERDUE_SIZES * self.max_size
        {
            match opened.file.set_len(0) {
                Ok(()) => self.is_torn = false,
                Err(error) if !mem::replace(&mut overdue.is_untruncated, true) => {
                    let log = self.path.display();
                    tracing::error!(%log, %error, "cannot truncate the log of a worker, which grows: remove it, or let it be renamed");
                }
                Err(_) => {}
            }
        }
        self.written = Some(now);
        if self.is_torn {
            opened.file.write_all(b"\n")?;
        }
        let mut rest = lines;
        while !rest.is_empty() {
            let bytes = opened.file.write(rest)?;
            let (written, left) = rest.split_at(bytes);
            self.is_torn = *written.last().ok_or(ErrorKind::WriteZero)? != b'\n';
            rest = left;
        }
        self.opened = Some(opened);
        Ok(())
    }

    fn open(&self) -> io::Result<Opened> {
        let (folder, name) = Folder::of_ours(&self.path)?;
        let file = folder.append(&name, MODE).map_err(|why| why.at(&self.path))?;
        Ok(Opened { folder, name, file, since: Instant::now() })
    }

    /// Whether the last write was in an earlier period: with 24 h, on another day in UTC.
    fn is_of_before(&self, written: SystemTime, now: SystemTime) -> bool {
        let Some(period) = self.max_age else { return false };
        let nth = |at: SystemTime| {
            at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() / period.as_secs().max(1))
        };
        nth(written) < nth(now)
    }

    /// Postpones a rotation that has failed: the file is written on.
    fn postpone(&mut self, error: &io::Error) {
        let (log, why) = (self.path.display(), error.to_string());
        if self.overdue.as_ref().is_none_or(|overdue| overdue.why != why) {
            tracing::error!(%log, why, "cannot rotate the log of a worker, and retries each minute: meanwhile it is \
                truncated at {MAX_OVERDUE_SIZES} times `max_log_size`");
        }
        let is_untruncated = self.overdue.as_ref().is_some_and(|overdue| overdue.is_untruncated);
        self.overdue = Some(Overdue { why, retry_at: Instant::now() + ROTATION_RETRY_INTERVAL, is_untruncated });
    }

    /// Renames a file to the first older name, each of those to the next, and removes surplus ones. A blocked name is
    /// skipped: in a sticky folder, anybody may create a folder with that name. Nothing beyond a missing file is renamed,
    /// so that if the newest cannot be renamed, retries change nothing.
    fn rotate(&mut self, folder: &Folder, name: &OsStr) -> io::Result<()> {
        let nth = |number: usize| {
            let mut nth = name.to_owned();
            nth.push(format!(".{number}"));
            nth
        };
        let (mut names, mut blocked, mut numbers) = (vec![name.to_owned()], Vec::new(), 1..);
        let mut last = Found::File;
        while names.len() <= self.max_files
            && last != Found::Nothing
            && let Some(next) = numbers.next().map(nth)
        {
            last = folder.find(&next)?;
            if last != Found::Obstacle {
                names.push(next);
            } else if blocked.len() < MAX_BLOCKED {
                blocked.push(next);
            } else {
                let path = self.path.with_file_name(next);
                let why = format!("{} is in the way, as {MAX_BLOCKED} others are: remove them", path.display());
                return Err(io::Error::other(why));
            }
        }
        let first = blocked.into_iter().next();
        if let Some(first) = first.as_ref().filter(|first| self.blocked.as_ref() != Some(first)) {
            let (log, path) = (self.path.display(), self.path.with_file_name(first));
            tracing::warn!(%log, path = %path.display(), "cannot give a rotated log the next name, which a folder or another \
                user's file has, and leaves that out: remove it");
        }
        self.blocked = first;
        // There are more if the setting was higher before.
        for name in names.last().cloned().into_iter().chain(numbers.map(nth)) {
            if folder.find(&name)? != Found::File || !is_there(folder.remove(&name))? {
                break;
            }
        }
        for pair in names.windows(2).rev() {
            if let [newer, older] = pair {
                is_there(folder.rename(newer, older))?;
            }
        }
        Ok(())
    }
}

fn is_there(done: io::Result<()>) -> io::Result<bool> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        done => done.map(|()| true),
    }
}

/// Why nothing can be written there; None: it can. Creates nothing.
pub(super) fn flaw(path: &Path) -> Option<String> {
    path.file_name()?;
    let checked = Folder::of_ours(path).and_then(|(folder, name)| match folder.open(&name) {
        Err(own::NotOwn::Io(error)) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            Ok(())
        }
        Err(why) => Err(why.at(path)),
        Ok(_) => Ok(()),
    });
    match checked {
        Err(error) => Some(why(path, &error)),
        Ok(()) => no_file(path).or_else(|| path.parent().and_then(cannot_write)),
    }
}

/// The error if something else is there.
fn no_file(path: &Path) -> Option<String> {
    let what = match path.metadata().ok()?.file_type() {
        found if found.is_file() => return None,
        found if found.is_dir() => "a folder: name a file in it",
        _ => "a pipe or a device: name a file, or leave it out for the sidecar's log",
    };
    Some(format!("{} is no file, but {what}", path.display()))
}

/// What is wrong, and how to fix it.
fn why(path: &Path, error: &io::Error) -> String {
    let folder = path.parent().unwrap_or(path);
    if let Some(why) = no_file(path) {
        return why;
    }
    match error.kind() {
        ErrorKind::NotFound => format!("there is no folder {}: make it, or choose another", folder.display()),
        ErrorKind::PermissionDenied => cannot_write(folder).unwrap_or_else(|| format!("{}: {error}", path.display())),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            format!("{error}: make room, or lower `max_log_size` and `max_log_files`")
        }
        ErrorKind::ReadOnlyFilesystem => {
            let systemd = format!("under systemd, `ReadWritePaths={}` of the unit opens it", folder.display());
            format!("{}: {error}; {systemd}", folder.display())
        }
        _ => error.to_string(),
    }
}

/// A line of a file, without line breaks or sequences that move a cursor.
fn line(level: &str, who: &str, text: &str) -> String {
    let at = humantime::format_rfc3339_millis(SystemTime::now());
    let mut line = format!("{at} {level} {who} ");
    for character in text.chars() {
        match character {
            '\t' => line.push(character),
            _ if character.is_control() => line.extend(character.escape_default()),
            _ => line.push(character),
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use bytesize::ByteSize;

    use super::*;

    fn writer(folder: &Path, change: impl FnOnce(&mut Config)) -> Writer {
        let mut config = Config { log: Some(folder.join("web.log")), max_log_size: ByteSize(10), ..Config::default() };
        change(&mut config);
        Writer::new(&config).expect("it has a log")
    }

    fn files(folder: &Path) -> Vec<(String, String)> {
        let read = |entry: io::Result<fs::DirEntry>| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(path).expect("a file"))
        };
        let mut files: Vec<_> = fs::read_dir(folder).expect("a folder").map(read).collect();
        files.sort();
        files
    }

    fn named<const N: usize>(files: [(&str, &str); N]) -> Vec<(String, String)> {
        files.map(|(name, text)| (name.to_owned(), text.to_owned())).to_vec()
    }

    #[test]
    fn a_file_that_would_grow_too_large_is_rotated_and_so_many_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut log = writer(folder.path(), |config| config.max_log_files = 2);
        for text in ["one\n", "two\n", "three\n", "four\nfive\n", "a line that is longer than a file\n", "six\n"] {
            log.write(text.as_bytes()).expect("written");
        }
        let long = "a line that is longer than a file\n";
        let kept = [("web.log", "six\n"), ("web.log.1", long), ("web.log.2", "four\nfive\n")];
        assert_eq!(files(folder.path()), named(kept));
        for number in 3..6 {
            fs::write(folder.path().join(format!("web.log.{number}")), "older").expect("written");
        }
        let mut fewer = writer(folder.path(), |config| config.max_log_files = 1);
        fewer.write(b"seven, eight\n").expect("written");
        assert_eq!(files(folder.path()), named([("web.log", "seven, eight\n"), ("web.log.1", "six\n")]));
    }

    #[test]
    fn a_file_of_another_day_is_rotated() {
        let folder = tempfile::tempdir().expect("a folder");
        let daily = |config: &mut Config| {
            (config.max_log_age, config.max_log_size) = (Some(Duration::from_secs(86_400)), ByteSize::kib(1));
        };
        let mut log = writer(folder.path(), daily);
        log.write(b"old\n").expect("written");
        log.write(b"new\n").expect("written");
        assert_eq!(files(folder.path()), named([("web.log", "old\nnew\n")]));
        let yesterday = SystemTime::now() - Duration::from_secs(86_400);
        let set = |at| {
            let file = File::options().append(true).open(folder.path().join("web.log"));
            file.and_then(|file| file.set_modified(at)).expect("it is ours");
        };
        set(yesterday);
        // A file system takes timestamps from a clock of its own, which may lag.
        log.write(b"more\n").expect("written");
        assert_eq!(files(folder.path()), named([("web.log", "old\nnew\nmore\n")]));
        set(yesterday);
        let mut log = writer(folder.path(), daily);
        log.write(b"today\n").expect("written");
        assert_eq!(files(folder.path()), named([("web.log", "today\n"), ("web.log.1", "old\nnew\nmore\n")]));
        // A server's clock may be ahead of ours.
        log.written = Some(yesterday);
        set(SystemTime::now() + Duration::from_secs(86_400));
        log.write(b"again\n").expect("written");
        assert_eq!(fs::read_to_string(folder.path().join("web.log.1")).expect("a file"), "today\n");
    }

    #[test]
    fn a_name_that_a_folder_or_another_user_has_is_left_out_of_the_older_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let mut log = writer(folder.path(), |config| config.max_log_files = 2);
        fs::create_dir_all(path("web.log.2/below")).expect("made");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).expect("it is ours");
        fs::write(path("web.log.3"), "another's").expect("made");
        let is_others = chown(path("web.log.3"), Some(33), None).is_ok();
        for text in ["first\n", "second\n", "third\n", "fourth\n"] {
            log.write(text.repeat(2).as_bytes()).expect("written");
        }
        let read = |name: &str| fs::read_to_string(path(name)).expect("a file");
        let oldest = if is_others { "web.log.4" } else { "web.log.3" };
        let kept = ["web.log", "web.log.1", oldest].map(read);
        assert_eq!(kept, ["fourth\nfourth\n", "third\nthird\n", "second\nsecond\n"]);
        assert!(path("web.log.2/below").exists() && (!is_others || read("web.log.3") == "another's"));
        assert_eq!(log.blocked.as_deref(), Some(OsStr::new("web.log.2")));
        for number in 1..=MAX_BLOCKED + 5 {
            let _ = fs::create_dir(path(&format!("other.log.{number}")));
        }
        let mut log = writer(folder.path(), |config| config.log = Some(path("other.log")));
        log.write(b"first, and full\n").expect("written");
        log.write(b"second\n").expect("written");
        assert_eq!(read("other.log"), "first, and full\nsecond\n", "it grows on");
        let why = &log.overdue.as_ref().expect("it is not rotated").why;
        assert!(why.ends_with("/other.log.1001 is in the way, as 1000 others are: remove them"), "{why}");
        log.write(b"third, and still\n").expect("written");
        assert_eq!(read("other.log"), "first, and full\nsecond\nthird, and still\n");
        log.write(b"fourth\n").expect("written");
        assert_eq!(read("other.log"), "fourth\n", "it is bounded");
        fs::remove_dir(path("other.log.1")).expect("it is ours");
        log.write(b"fifth\n").expect("written");
        assert_eq!(read("other.log"), "fourth\nfifth\n", "it is not tried with each line");
        log.overdue.as_mut().expect("it is not rotated").retry_at = Instant::now();
        log.write(b"sixth\n").expect("written");
        assert_eq!(["other.log", "other.log.1"].map(read), ["sixth\n", "fourth\nfifth\n"]);
        assert!(log.overdue.is_none());
    }

    #[test]
    fn a_file_that_cannot_be_renamed_is_still_written_and_no_older_ones_are_lost() {
        let folder = tempfile::tempdir().expect("a folder");
        let log_path = folder.path().join("web.log");
        let mut log = writer(folder.path(), |config| (config.max_log_files, config.max_log_size) = (3, ByteSize(20)));
        for text in ["one\n", "two\n", "three\n", "four\n"] {
            log.write(text.repeat(4).as_bytes()).expect("written");
        }
        let chattr = |change: &str| std::process::Command::new("chattr").arg(change).arg(&log_path).status();
        if !chattr("+a").is_ok_and(|status| status.success()) {
            eprintln!("skipped: it takes root, and a file system with attributes");
            return;
        }
        for text in ["five\n", "six\n", "seven\n"] {
            log.write(text.as_bytes()).expect("written");
            log.overdue.as_mut().expect("it is not rotated").retry_at = Instant::now();
        }
        let much = "a line\n".repeat(10);
        log.write(much.as_bytes()).expect("written, though it cannot be truncated either");
        let found = files(folder.path());
        chattr("-a").expect("as before");
        log.overdue.as_mut().expect("it is not rotated").retry_at = Instant::now();
        let (four, three, two) =
            ("four\n".repeat(4) + "five\nsix\nseven\n" + &much, "three\n".repeat(4), "two\n".repeat(4));
        assert_eq!(found, named([("web.log", &four), ("web.log.2", &three), ("web.log.3", &two)]));
        log.write(b"eight\n").expect("written");
        assert_eq!(fs::read_to_string(folder.path().join("web.log.1")).expect("a file"), four);
        assert_eq!(fs::read_to_string(folder.path().join("web.log.3")).expect("a file"), two);
    }

    #[test]
    fn a_file_that_was_moved_or_removed_is_made_anew() {
        let above = tempfile::tempdir().expect("a folder");
        let folder = above.path().join("log");
        fs::create_dir(&folder).expect("made");
        let mut log = writer(&folder, |_| {});
        log.write(b"one\n").expect("written");
        fs::remove_file(folder.join("web.log")).expect("it is there");
        log.write(b"two\n").expect("written");
        assert_eq!(files(&folder), named([("web.log", "two\n")]), "at once");
        let is_later = |log: &mut Writer| {
            let opened = log.opened.as_mut().expect("it is open");
            opened.since = opened.since.checked_sub(REOPEN_INTERVAL).expect("the machine runs for longer");
        };
        fs::rename(folder.join("web.log"), folder.join("moved")).expect("it is there");
        is_later(&mut log);
        log.write(b"three\n").expect("written");
        assert_eq!(files(&folder), named([("moved", "two\n"), ("web.log", "three\n")]));
        // Also along with its folder.
        fs::rename(&folder, above.path().join("away")).and_then(|()| fs::create_dir(&folder)).expect("moved");
        is_later(&mut log);
        log.write(b"four\n").expect("written");
        assert_eq!(files(&folder), named([("web.log", "four\n")]));
    }

    #[test]
    fn nothing_is_written_where_a_link_leads_and_it_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let (target, path) = (folder.path().join("target"), folder.path().join("web.log"));
        fs::write(&target, "kept").and_then(|()| symlink(&target, &path)).expect("made");
        let mut log = writer(folder.path(), |_| {});
        // A link of ours is followed, like others of an operator's; one of another user is not.
        log.write(b"one\n").expect("it is ours");
        assert_eq!(fs::read_to_string(&target).expect("a file"), "keptone\n");
        if std::os::unix::fs::lchown(&path, Some(33), None).is_ok() {
            log.opened = None;
            let why = log.write(b"two\n").expect_err("it is another user's").to_string();
            assert!(why.contains("is a link of www-data"), "{why}");
            assert_eq!(flaw(&path), Some(why));
        }
        fs::remove_file(&path).and_then(|()| fs::create_dir(&path)).expect("made");
        let why = flaw(&path).expect("it is a folder");
        assert!(why.ends_with("/web.log is no file, but a folder: name a file in it"), "{why}");
        let device = "is no file, but a pipe or a device: name a file, or leave it out for the sidecar's log";
        assert_eq!(flaw(Path::new("/dev/null")), Some(format!("/dev/null {device}")));
        assert_eq!(flaw(&folder.path().join("new.log")), None);
        let why = flaw(&folder.path().join("no/new.log")).expect("there is no folder");
        assert!(why.starts_with("there is no folder ") && why.ends_with("/no: make it, or choose another"), "{why}");
    }

    #[test]
    fn a_line_that_was_cut_off_ends_before_the_next_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut log = writer(folder.path(), |config| config.max_log_size = ByteSize::kib(1));
        log.write(b"half").expect("written");
        log.write(b"whole\n").expect("written");
        assert_eq!(files(folder.path()), named([("web.log", "half\nwhole\n")]));
        assert!(line("info", "web/1[7]", "a\nb\u{1b}[1m\tc").ends_with(" info web/1[7] a\\nb\\u{1b}[1m\tc\n"));
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_written_holds_up_nobody_and_tells_what_it_missed() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("no/web.log");
        let config = Config { log: Some(log.clone()), ..Config::default() };
        let (tasks, _failed) = Tasks::new();
        let file = LogFile::start(&config, &tasks).expect("it has a log");
        for number in 0..40_000 {
            file.write("stdout", "web/1", 7, &format!("{number} {}", "x".repeat(100)));
        }
        assert!(file.state.waiting_bytes.load(Ordering::Relaxed) <= MAX_WAITING_BYTES);
        let room = tokio::time::timeout(Duration::from_secs(60), file.has_room());
        room.await.expect("nobody waits for what cannot be written");
        fs::create_dir(log.parent().expect("a folder")).expect("made");
        let whole = async {
            while file.state.waiting_bytes.load(Ordering::Relaxed) > 0 {
                sleep(LOOK_INTERVAL).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), whole).await.expect("it is written then");
        file.write("stdout", "web/1", 7, "last");
        tasks.stop(Duration::from_secs(60)).await;
        let written = fs::read_to_string(log).expect("a file");
        assert!(written.ends_with(" stdout web/1[7] last\n"), "{written}");
        assert!(written.contains(" left out before this one: they could not be written\n"));
        let lines = written.lines().filter(|line| line.contains(" web/1[7] ")).count() as u64;
        assert_eq!(lines + file.left_out(), 40_001, "each is written or counted");
    }
}
