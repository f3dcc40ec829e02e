//! The pid file of the sidecar, for programs that send it signals.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Claim, Folder, NotClaimed, own};

/// The longest content of such a file: a number and a newline.
const MAX_BYTES: u64 = 12;

/// Readable by everybody.
const MODE: u32 = 0o644;

/// A pid file, removed on drop unless another process has replaced it by then.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    /// While it is open, no other file has its inode number.
    file: File,
    _claim: Claim,
}

/// Why the pid file cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    #[error("cannot write {}: {why}; choose one in a folder that the sidecar's user may write", path.display())]
    Io { path: PathBuf, why: io::Error },
    #[error("cannot write {}, by whose number programs send signals: {why}", path.display())]
    Misled { path: PathBuf, why: io::Error },
    #[error("cannot have {}: {why}; give each sidecar a file of its own", path.display())]
    Held { path: PathBuf, why: NotClaimed },
    #[error(
        "{} is there and is no such file, which holds a number and nothing else: nothing is written over it; choose another \
         path, or move it away",
        .0.display()
    )]
    Foreign(PathBuf),
}

impl PidFile {
    /// Writes the id of this process. Replaces the file of a killed sidecar, or an empty one after a power loss, and
    /// nothing else. Refuses a folder in which another user could replace the file.
    pub fn write(path: &Path) -> Result<Self, PidFileError> {
        let failed = |why| PidFileError::Io { path: path.to_owned(), why };
        Folder::of_ours(path).map_err(|why| match why.raw_os_error() {
            Some(_) => failed(why),
            None => PidFileError::Misled { path: path.to_owned(), why },
        })?;
        let claim = Claim::of(path).map_err(|why| match why {
            NotClaimed::Failed(why) => failed(why),
            why @ NotClaimed::Held(_) => PidFileError::Held { path: path.to_owned(), why },
        })?;
        if fs::symlink_metadata(path).is_ok() && !own::open(path).is_ok_and(is_of_a_number) {
            return Err(PidFileError::Foreign(path.to_owned()));
        }
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let write = || {
            // If no new one can be written, the old id must not stay: programs would signal whichever process has it
            // now.
            own::remove(path)?;
            let mut file = own::create(Path::new(&fresh), MODE)?;
            writeln!(file, "{}", std::process::id())?;
            fs::rename(&fresh, path)?;
            Ok(file)
        };
        let file = write().map_err(|why| {
            let _ = fs::remove_file(&fresh);
            failed(why)
        })?;
        Ok(Self { path: path.to_owned(), file, _claim: claim })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let number = |found: fs::Metadata| (found.dev(), found.ino());
        if fs::symlink_metadata(&self.path).ok().map(number) == self.file.metadata().ok().map(number) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether it contains only a number, or nothing.
fn is_of_a_number(file: File) -> bool {
    let mut text = String::new();
    let is_read = file.take(MAX_BYTES + 1).read_to_string(&mut text).is_ok();
    is_read && (text.is_empty() || text.trim_end().parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn the_number_stands_there_as_long_as_it_runs_and_one_that_was_left_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("roster.pid");
        let own = format!("{}\n", std::process::id());
        for left in [None, Some("4242\n"), Some("4242"), Some("0"), Some("")] {
            left.iter().for_each(|left| fs::write(&path, left).expect("it is ours"));
            let held = PidFile::write(&path).expect("it is free");
            assert_eq!(fs::read_to_string(&path).expect("it is there"), own);
            assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o644);
            let why = PidFile::write(&path).expect_err("it is held").to_string();
            assert!(why.contains("another sidecar") && why.contains("a file of its own"), "{why}");
            drop(held);
            assert!(!path.exists());
        }
        let held = PidFile::write(&path).expect("it is free");
        fs::remove_file(&path).and_then(|()| fs::write(&path, "7\n")).expect("it is ours");
        drop(held);
        assert_eq!(fs::read_to_string(&path).expect("it is another's"), "7\n");
    }

    #[test]
    fn it_lies_where_nobody_else_can_put_another_number() {
        let above = tempfile::tempdir().expect("a folder");
        let folder = above.path().join("run");
        fs::create_dir(&folder).expect("made");
        let write = || PidFile::write(&folder.join("roster.pid"));
        let refused =
            || write().err().filter(|why| matches!(why, PidFileError::Misled { .. })).map(|why| why.to_string());
        for (mode, is_ours) in [(0o755, true), (0o777, false), (0o1777, true)] {
            fs::set_permissions(&folder, PermissionsExt::from_mode(mode)).expect("it is ours");
            assert_eq!(refused().is_none(), is_ours, "{mode:o}");
        }
        if chown(&folder, Some(33), None).is_ok() {
            let why = refused().expect("its owner could");
            assert!(why.contains("belongs to www-data") && why.contains("choose a folder"), "{why}");
        }
        assert_eq!(fs::read_dir(&folder).expect("a folder").flatten().count(), 1, "the claim of before");
    }

    #[test]
    fn nothing_else_is_written_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, file) = (folder.path().join("roster.pid"), folder.path().join("file"));
        fs::write(&file, "17\n").expect("written");
        let refused = |path: &Path| matches!(PidFile::write(path), Err(PidFileError::Foreign(_)));
        symlink(&file, &path).expect("made");
        assert!(refused(&path), "a link");
        fs::remove_file(&path).expect("it is ours");
        for text in ["root:x:0:0:root:/root:/bin/bash\n", "12 13", "123456789012345", "-1"] {
            fs::write(&path, text).expect("written");
            assert!(refused(&path), "{text:?}");
            assert_eq!(fs::read_to_string(&path).expect("it is there"), text);
        }
        fs::write(&path, "17").expect("written");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).expect("it is ours");
        assert!(refused(&path), "anybody may have written it");
        assert!(refused(folder.path()), "a folder");
        let no_folder = PidFile::write(&folder.path().join("no/roster.pid")).expect_err("there is no folder");
        assert!(matches!(no_folder, PidFileError::Io { .. }));
    }
}
