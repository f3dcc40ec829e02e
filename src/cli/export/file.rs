//! A file that its readers only ever see whole, and that is touched only when it becomes another.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

/// Puts `content` in place of what the file holds, if that is something else; whether it was. Mode and owner stay.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<bool> {
    // What a link leads to is replaced, and not the link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match fs::read(&path) {
        Ok(old) if old == content => return Ok(false),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let fresh = beside(&path);
    let result = write(&fresh, content, fs::metadata(&path).ok()).and_then(|()| fs::rename(&fresh, &path));
    if result.is_err() {
        // It may be what fills the disk.
        let _ = fs::remove_file(&fresh);
    }
    result.map(|()| true)
}

/// In the same folder: only there a rename is one step.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

fn write(path: &Path, content: &[u8], like: Option<fs::Metadata>) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    if let Some(like) = like {
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
            chown(path, Some(like.uid()), Some(like.gid()))?;
        }
        file.set_permissions(like.permissions())?;
    }
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_file_is_replaced_only_by_another_content_and_keeps_its_mode() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, link) = (folder.path().join("a.php"), folder.path().join("link.php"));
        symlink(&path, &link).expect("a link");
        let file = || (fs::read(&path).expect("a file"), path.metadata().expect("a file").ino());
        assert!(replace(&path, b"one").expect("written"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).expect("a mode");
        let first = file();
        assert!(!replace(&path, b"one").expect("looked at"));
        assert_eq!(file(), first);
        assert!(replace(&link, b"two").expect("written"));
        assert_eq!((file().0, path.metadata().expect("a file").mode() & 0o777), (b"two".to_vec(), 0o604));
        assert!(link.is_symlink() && file().1 != first.1);
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 2, "nothing else is left");
        assert!(replace(&folder.path().join("no/a.php"), b"").is_err());
    }
}
