//! A file that its readers only ever see whole, and that is touched only when it becomes another.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use roster::permissions::give_to;

/// How far the time of a file may be ahead of the clock, when it is replaced more often than that.
const MAX_AHEAD: Duration = Duration::from_secs(1);

/// Puts `content` in place of what the file holds, if that is something else; whether it was. Mode and owner stay, but
/// for the `group`, if one is asked for. A new file is for its owner and its group.
pub(super) fn replace(path: &Path, content: &[u8], group: Option<&str>) -> io::Result<bool> {
    // What a link leads to is replaced, and not the link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match fs::read(&path) {
        Ok(old) if old == content => return Ok(false),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let old = fs::metadata(&path).ok();
    let modified = time_after(old.as_ref().map(fs::Metadata::modified).transpose()?);
    let fresh = beside(&path);
    let result = write(&fresh, content, old, modified, group).and_then(|()| fs::rename(&fresh, &path));
    if result.is_err() {
        // It may be what fills the disk.
        let _ = fs::remove_file(&fresh);
    }
    result.map(|()| true)
}

/// When the file is to have been modified that takes the place of one from then: a second later at least, since OPcache
/// compares whole seconds. What is ahead of the clock is included without OPcache until that is there
/// (`opcache.file_update_protection`), so it waits rather than to run ahead of it change by change.
fn time_after(old: Option<SystemTime>) -> SystemTime {
    let now = SystemTime::now();
    let later = old.and_then(|old| old.checked_add(Duration::from_secs(1)));
    let modified = later.map_or(now, |later| now.max(later));
    let ahead = modified.duration_since(now).unwrap_or_default();
    thread::sleep(ahead.saturating_sub(MAX_AHEAD).min(MAX_AHEAD));
    modified
}

/// In the same folder: only there a rename is one step.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

fn write(
    path: &Path,
    content: &[u8],
    like: Option<fs::Metadata>,
    modified: SystemTime,
    group: Option<&str>,
) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o640).open(path)?;
    if let Some(like) = like {
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
            chown(path, Some(like.uid()), Some(like.gid()))?;
        }
        file.set_permissions(like.permissions())?;
    }
    if let Some(group) = group {
        give_to(path, group)
            .map_err(|why| io::Error::other(format!("cannot give it to the group `{group}`: {why}")))?;
    }
    file.write_all(content)?;
    file.set_modified(modified)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
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
        assert!(replace(&folder.path().join("no/a.php"), b"", None).is_err());
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
