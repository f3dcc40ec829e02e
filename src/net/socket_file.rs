//! A socket in the file system, which is gone when nobody listens any more.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::permissions::Mode;

/// A socket in the file system, taken away with the listener unless another process has replaced it.
#[derive(Debug)]
pub(super) struct SocketFile {
    pub(super) path: PathBuf,
    inode: u64,
}

/// What lies where a socket, or the link beside it, should be, and would be lost.
#[derive(Debug, thiserror::Error)]
#[error("{path} is there and is no {expected}; move it away or choose another path")]
pub struct InTheWay {
    path: String,
    expected: &'static str,
}

impl InTheWay {
    /// That a socket at `path` takes the place of nothing but another socket, which a dead process may have left.
    pub(crate) fn none_at(path: &Path) -> Result<(), Self> {
        let link = link_beside(path);
        let is_socket = std::fs::metadata(path).is_ok_and(|file| file.file_type().is_socket());
        for (path, expected, is_ours) in [(path, "socket", is_socket), (&link, "link", link.is_symlink())] {
            if !is_ours && std::fs::symlink_metadata(path).is_ok() {
                return Err(Self { path: path.display().to_string(), expected });
            }
        }
        Ok(())
    }
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
        remove_link(path);
        symlink(path.file_name().unwrap_or_default(), link_beside(path))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
            remove_link(&self.path);
        }
    }
}

fn remove_link(path: &Path) {
    let link = link_beside(path);
    if link.is_symlink() {
        let _ = std::fs::remove_file(link);
    }
}

fn link_beside(path: &Path) -> PathBuf {
    let mut link = path.as_os_str().to_owned();
    link.push(":1");
    link.into()
}
