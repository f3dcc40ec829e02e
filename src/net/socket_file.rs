//! A socket in the file system, which is gone when nobody listens any more.

use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::permissions::Mode;

/// A socket in the file system, taken away with the listener unless another process has replaced it.
#[derive(Debug)]
pub(super) struct SocketFile {
    pub(super) path: PathBuf,
    inode: u64,
}

impl SocketFile {
    /// Listens under a name beside `path`, where nobody looks for it yet.
    pub(super) fn bind(path: &Path, mode: Mode) -> io::Result<(std::os::unix::net::UnixListener, Self)> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&fresh)?;
        let file = Self { inode: std::fs::symlink_metadata(&fresh)?.ino(), path: fresh };
        mode.set(&file.path)?;
        listener.set_nonblocking(true)?;
        Ok((listener, file))
    }

    pub(super) fn move_to(&mut self, path: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, path)?;
        self.path = path.to_owned();
        let link = link_beside(path);
        let _ = std::fs::remove_file(&link);
        symlink(path.file_name().unwrap_or_default(), &link)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
            let _ = std::fs::remove_file(link_beside(&self.path));
        }
    }
}

fn link_beside(path: &Path) -> PathBuf {
    let mut link = path.as_os_str().to_owned();
    link.push(":1");
    link.into()
}
