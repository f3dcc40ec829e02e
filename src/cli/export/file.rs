//! A file that readers only ever see complete, and that is replaced only when its content changes.
//!
//! Others may be able to write its folder. So everything works on open descriptors, never on a name that could lead
//! elsewhere a moment later.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use roster::permissions::own::NotOwn;
use roster::permissions::{Folder, NotMember, chown_group};
use uuid::Uuid;

/// How far the file's time may run ahead of the clock if it is replaced more often than once a second.
const MAX_AHEAD: Duration = Duration::from_secs(1);

/// The mode of a new file: it may hold secrets.
const MODE: u32 = 0o640;

/// The mode bits kept from an old file.
const KEPT_MODE: u32 = 0o777;

/// Replaces the content of the file if it differs; returns whether it did. Mode and owner are kept, except for the
/// `group` if one is requested. A new file is readable by its owner and its group.
pub(super) fn replace(path: &Path, content: &[u8], group: Option<&str>) -> io::Result<bool> {
    // Replace the target of a link, not the link.
    let (folder, name) = Folder::of(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::other("there is no such folder: make it first (`mkdir -p`)"),
        _ => error,
    })?;
    let old = match folder.open(&name) {
        Err(NotOwn::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
        old => Some(old.and_then(|old| folder.check_owner(&old).map(|()| old)).map_err(|why| why.at(path))?),
    };
    if old.as_ref().map_or(Ok(false), |old| holds(old, content))? {
        return Ok(false);
    }
    let old = old.map(|old| old.metadata()).transpose()?;
    let modified = time_after(old.as_ref().map(Metadata::modified).transpose()?);
    let fresh = beside(&name);
    let file = folder.create(&fresh)?;
    let result = write(file, content, old, modified, group).and_then(|()| folder.rename(&fresh, &name));
    if result.is_err() {
        // It may be what fills the disk.
        let _ = folder.remove(&fresh);
    }
    result.map(|()| true)
}

fn holds(file: &File, content: &[u8]) -> io::Result<bool> {
    let length = content.len() as u64;
    if file.metadata()?.len() != length {
        return Ok(false);
    }
    let mut found = Vec::with_capacity(content.len());
    file.take(length).read_to_end(&mut found)?;
    Ok(found == content)
}

/// The modification time for the replacement of a file: at least a second later, since OPcache compares whole seconds.
/// OPcache does not cache a file whose time is ahead of the clock (`opcache.file_update_protection`), so this waits
/// rather than run further ahead with each change.
fn time_after(old: Option<SystemTime>) -> SystemTime {
    let now = SystemTime::now();
    let later = old.and_then(|old| old.checked_add(Duration::from_secs(1)));
    let modified = later.map_or(now, |later| now.max(later));
    let ahead = modified.duration_since(now).unwrap_or_default();
    thread::sleep(ahead.saturating_sub(MAX_AHEAD).min(MAX_AHEAD));
    modified
}

/// A unique name: a killed process may have left its file, and processes of two containers can have the same number.
fn beside(name: &OsStr) -> OsString {
    let mut fresh = OsString::from(".");
    fresh.push(name);
    fresh.push(format!(".{:08x}", Uuid::new_v4().as_fields().0));
    fresh
}

fn write(
    mut file: File,
    content: &[u8],
    like: Option<Metadata>,
    modified: SystemTime,
    group: Option<&str>,
) -> io::Result<()> {
    file.write_all(content)?;
    file.set_modified(modified)?;
    let own = file.metadata()?;
    if let Some(like) = &like
        && (own.uid(), own.gid()) != (like.uid(), like.gid())
    {
        fchown(&file, Some(like.uid()), Some(like.gid()))?;
    }
    group.map_or(Ok(()), |group| chown_group(&file, group)).map_err(not_member)?;
    let mode = like.map_or(MODE, |like| like.mode() & KEPT_MODE);
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Says what the caller can do; the error's own text is written for a sidecar.
fn not_member(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(NotMember(group)) => io::Error::other(format!(
            "cannot give it to the group `{group}`: you are not in it; name one of yours (`id -Gn` lists them), or run \
             the export as a user who is in it"
        )),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Instant;

    #[test]
    fn a_file_is_replaced_only_by_another_content_and_keeps_its_mode() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, link) = (folder.path().join("a.php"), folder.path().join("link.php"));
        symlink(&path, &link).expect("a link");
        let file = || (fs::read(&path).expect("a file"), path.metadata().expect("a file").ino());
        assert!(replace(&path, b"one", None).expect("written"));
        assert_eq!(path.metadata().expect("a file").mode() & 0o777, 0o640, "it may hold what is secret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).expect("a mode");
        let first = file();
        assert!(!replace(&path, b"one", None).expect("looked at"));
        assert_eq!(file(), first);
        assert!(replace(&link, b"two", None).expect("written"));
        assert_eq!((file().0, path.metadata().expect("a file").mode() & 0o777), (b"two".to_vec(), 0o604));
        assert!(link.is_symlink() && file().1 != first.1);
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 2, "nothing else is left");
        let told = replace(&folder.path().join("no/a.php"), b"", None).expect_err("there is none").to_string();
        assert!(told.starts_with("there is no such folder: make it first"), "{told}");
    }

    #[test]
    fn each_file_is_younger_than_the_one_before_and_none_far_ahead_of_the_clock() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.php");
        let modified = || path.metadata().and_then(|it| it.modified()).expect("a time");
        let began = Instant::now();
        let mut last = None;
        for number in 0..4 {
            replace(&path, &[number], None).expect("written");
            assert!(last.is_none_or(|last| modified() >= last + Duration::from_secs(1)));
            assert!(modified() <= SystemTime::now() + MAX_AHEAD);
            last = Some(modified());
        }
        assert!(began.elapsed() >= Duration::from_millis(1_900), "it is the clock that they wait for");
        let future = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        File::options().write(true).open(&path).and_then(|file| file.set_modified(future)).expect("another time");
        replace(&path, b"new", None).expect("written");
        assert_eq!(modified(), future + Duration::from_secs(1));
    }
}
