//! The replaced files, each with a second name in the writer's own folder: a process that has one open keeps its
//! memory, and allocates it again by reading what was emptied, so the next writer has to know them too.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Weak;
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, fallocate};
use nix::unistd::linkat;

use super::env::Env;
use super::location::{FileId, file_id};
use super::lock_file::BLOCK;
use super::locks::is_open_elsewhere;
use crate::permissions::own::{self, NotOwn};

/// How long processes with a replaced file open have to notice before it is emptied.
const EMPTY_DELAY: Duration = Duration::from_secs(30);

/// LMDB's two meta pages, at the largest page size of any machine.
const META_PAGES_BYTES: i64 = 2 * 65_536;

const PREFIX: &str = "replaced-";

#[derive(Debug)]
pub(super) struct Replaced {
    data: File,
    /// The environment, if it may still be copied.
    pub(super) env: Weak<Env>,
    since: Instant,
    name: PathBuf,
}

/// Those that earlier processes replaced. A file with a second name that is still in place was not replaced.
pub(super) fn found(folder: &Path, current: Option<FileId>) -> io::Result<Vec<Replaced>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Some(since) = entry.file_name().to_str().and_then(since) else { continue };
        let name = entry.path();
        match own::open_with(&name, File::options().read(true).write(true)) {
            Ok(data) if data.metadata().is_ok_and(|data| Some(file_id(&data)) == current) => own::remove(&name)?,
            Ok(data) => found.push(Replaced { data, env: Weak::new(), since, name }),
            // Nobody but us creates names here.
            Err(NotOwn::NoFile | NotOwn::Foreign { .. }) => own::remove(&name)?,
            // It belongs to another user by now, or to root: its name would only keep its memory.
            Err(NotOwn::Io(error)) if error.kind() == ErrorKind::PermissionDenied => own::remove(&name)?,
            Err(why) => tracing::warn!(path = %name.display(), %why, "cannot empty a shared file that was replaced"),
        }
    }
    Ok(found)
}

/// Gives the file at `path`, about to be replaced, its second name. None: what is there is not ours to watch.
pub(super) fn remember(path: &Path, folder: &Path) -> Option<Replaced> {
    let watched = match own::open_with(path, File::options().read(true).write(true)) {
        Ok(data) => Replaced::of((data, Weak::new()), folder),
        Err(NotOwn::Io(error)) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => Err(error),
        Err(_) => return None,
    };
    let failed = |error: &io::Error, what| {
        tracing::warn!(path = %path.display(), %error, "{what} a shared file that is about to be replaced");
    };
    let watched = watched.inspect_err(|error| failed(error, "cannot watch over")).ok()?;
    if let Err(error) = watched.link() {
        failed(&error, "the next start cannot watch over");
    }
    Some(watched)
}

/// The name contains the time when the file was replaced.
fn name(folder: &Path, data: &fs::Metadata) -> PathBuf {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    folder.join(format!("{PREFIX}{}-{}", data.ino(), now.as_secs()))
}

/// When a file with this second name was replaced; now, if unknown.
fn since(name: &str) -> Option<Instant> {
    let (_, seconds) = name.strip_prefix(PREFIX)?.split_once('-').unwrap_or_default();
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.parse::<u32>().unwrap_or(u32::MAX).into());
    let age = SystemTime::now().duration_since(then).unwrap_or_default();
    let now = Instant::now();
    Some(now.checked_sub(age).unwrap_or(now))
}

impl Replaced {
    /// One that has no second name yet: if it was deleted, it gets none.
    pub(super) fn of((data, env): (File, Weak<Env>), folder: &Path) -> io::Result<Self> {
        let name = name(folder, &data.metadata()?);
        Ok(Self { data, env, since: Instant::now(), name })
    }

    /// Gives this very file its second name, even if another is in its place by now.
    fn link(&self) -> io::Result<()> {
        own::remove(&self.name)?;
        let open = format!("/proc/self/fd/{}", self.data.as_raw_fd());
        Ok(linkat(AT_FDCWD, open.as_str(), AT_FDCWD, &self.name, AtFlags::AT_SYMLINK_FOLLOW)?)
    }

    pub(super) fn file_id(&self) -> Option<FileId> {
        self.data.metadata().ok().map(|data| file_id(&data))
    }

    /// A path to inspect it, even if it no longer has a name on its file system.
    pub(super) fn as_open_here(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.data.as_raw_fd())
    }

    /// Whether it keeps all of its memory while open anywhere: its readers may not have noticed yet, or it is being
    /// copied.
    pub(super) fn is_whole(&self, now: Instant) -> bool {
        now < self.since + EMPTY_DELAY || self.env.strong_count() > 0
    }

    /// It was not replaced after all.
    pub(super) fn forget(self) {
        let _ = own::remove(&self.name);
    }

    /// Releases its memory, once its readers must have noticed; returns whether any process still has it open.
    pub(super) fn empty(&self, now: Instant) -> bool {
        let is_open = self.make_room(now);
        if !is_open {
            let _ = own::remove(&self.name);
        }
        is_open
    }

    fn make_room(&self, now: Instant) -> bool {
        let Ok(data) = self.data.metadata() else { return false };
        // Nobody may open it by its path after this check.
        let is_private = self.data.set_permissions(Permissions::from_mode(0o600)).is_ok();
        if data.nlink() > u64::from(self.name.exists()) {
            let size = bytesize::ByteSize(data.len());
            tracing::warn!(%size, "a shared file that was replaced stays: it was moved away, or has another name");
            return false;
        }
        let is_open = is_open_elsewhere(&self.data);
        if is_private && is_open == Some(false) {
            let _ = self.data.set_len(0);
            return false;
        }
        if self.is_whole(now) {
            return true;
        }
        let size = data.len() as i64;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        // If nothing is left, the kernel would still look through all of its mappings.
        let takes = data.blocks() * BLOCK;
        if size > META_PAGES_BYTES
            && takes > META_PAGES_BYTES as u64
            && let Err(error) = fallocate(&self.data, flags, META_PAGES_BYTES, size - META_PAGES_BYTES)
        {
            tracing::debug!(%error, "cannot empty a shared file that was replaced");
        }
        is_open.is_some()
    }
}
