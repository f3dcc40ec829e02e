//! A socket in the file system, which is removed when nobody listens any more.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{UNIX_BACKLOG, refuse_descriptors};
use crate::permissions::Permissions;

/// The longest path of a socket: with the `:1` of its link and a NUL, as many bytes as the kernel accepts.
const MAX_PATH: usize = 108 - 1 - ":1".len();

/// The length of the temporary name under which a socket is created: a dot, and six hexadecimal digits.
const FRESH_LEN: usize = 7;

/// The maximum length of a socket's path, so that the temporary name next to it is not too long either.
pub(crate) fn max_path_len(path: &Path) -> usize {
    MAX_PATH - FRESH_LEN.saturating_sub(path.file_name().map_or(0, |name| name.len()))
}

/// A socket in the file system, removed with the listener unless another process has replaced it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
    has_link: bool,
}

/// Something lies where a socket or its link should be, and would be lost.
#[derive(Debug, thiserror::Error)]
#[error("{path} is there and is no {expected}; move it away or choose another path")]
pub struct PathOccupied {
    path: String,
    expected: &'static str,
}

impl PathOccupied {
    /// Checks that a socket at `path` would replace nothing but another socket, which a dead process may have left.
    pub(crate) fn none_at(path: &Path, has_link: bool) -> Result<(), Self> {
        let link = link_beside(path);
        let places = [(path, "socket", is_socket(path)), (&link, "link", link.is_symlink() || !has_link)];
        for (path, expected, is_ours) in places {
            if !is_ours && std::fs::symlink_metadata(path).is_ok() {
                return Err(Self { path: path.display().to_string(), expected });
            }
        }
        Ok(())
    }
}

impl SocketFile {
    /// Listens on `path`, whose folder exists; the socket is ready when it appears there, with or without its link.
    pub(super) fn at(
        path: &Path,
        permissions: &Permissions,
        has_link: bool,
    ) -> io::Result<(std::os::unix::net::UnixListener, Self)> {
        let (listener, mut file) = Self::bind(path, permissions)?;
        file.move_to(path, has_link)?;
        Ok((listener, file))
    }

    /// Listens under a temporary name next to `path`, where nobody looks for it yet. The process id is not unique
    /// enough: processes in different containers may have the same one, and a process may create several sockets at
    /// once.
    fn bind(path: &Path, permissions: &Permissions) -> io::Result<(std::os::unix::net::UnixListener, Self)> {
        let (listener, fresh) = loop {
            let fresh = path.with_file_name(format!(".{:06x}", fastrand::u32(..1 << 24)));
            let listener = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            match listener.bind(&SockAddr::unix(&fresh)?) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                bound => break (bound.map(|()| listener)?, fresh),
            }
        };
        let file = Self { inode: std::fs::symlink_metadata(&fresh)?.ino(), path: fresh, has_link: false };
        // A second hard link could be another file's.
        permissions.set(&file.path, |found| found.file_type().is_socket() && found.nlink() == 1)?;
        listener.set_nonblocking(true)?;
        // Before anybody can connect: setting it later affects later clients only.
        refuse_descriptors(&listener);
        listener.listen(UNIX_BACKLOG)?;
        Ok((listener.into(), file))
    }

    pub(super) fn has_link(&self) -> bool {
        self.has_link
    }

    /// Whether there is no file any more: neither this one nor another's. May block for ever, as dropping it may: it may lie in
    /// a folder that does not answer.
    pub(crate) fn is_removed(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    fn move_to(&mut self, path: &Path, has_link: bool) -> io::Result<()> {
        std::fs::rename(&self.path, path)?;
        self.path = path.to_owned();
        if !has_link {
            return Ok(());
        }
        self.has_link = true;
        remove_link(path);
        symlink(path.file_name().unwrap_or_default(), link_beside(path))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
            if self.has_link {
                remove_link(&self.path);
            }
        }
    }
}

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.file_type().is_socket())
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

#[cfg(test)]
mod tests {
    use super::super::tests::{refused, takes_descriptors};
    use super::*;
    use crate::permissions::{Mode, make_folder};

    fn own() -> Permissions {
        Permissions::new(Mode(0o600), "")
    }

    #[test]
    fn a_socket_may_have_as_many_bytes_as_the_kernel_takes() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["s", "a-name-that-is-longer"] {
            let taken = max_path_len(Path::new(name)) - folder.path().as_os_str().len() - name.len() - "//".len();
            let path = folder.path().join("x".repeat(taken)).join(name);
            assert_eq!(path.as_os_str().len(), max_path_len(&path));
            make_folder(path.parent().expect("a folder")).expect("made");
            let (_listener, _file) = SocketFile::at(&path, &own(), true).expect("a socket");
            std::os::unix::net::UnixStream::connect(&path).expect("it is found");
            std::os::unix::net::UnixStream::connect(link_beside(&path)).expect("by PHP too");
        }
    }

    #[test]
    fn sockets_that_are_made_in_one_folder_at_the_same_time_are_each_found_under_their_own_names() {
        let folder = tempfile::tempdir().expect("a folder");
        std::thread::scope(|threads| {
            for name in ["one", "two", "three", "four"] {
                let path = folder.path().join(name);
                threads.spawn(move || {
                    for _ in 0..200 {
                        let (listener, _file) = SocketFile::at(&path, &own(), true).expect("a socket");
                        std::os::unix::net::UnixStream::connect(&path).expect("it is there");
                        listener.accept().expect("and it is this one");
                    }
                });
            }
        });
    }

    #[test]
    fn a_socket_that_was_never_moved_is_not_in_the_way() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("roster.sock");
        let (_first, left) = SocketFile::bind(&path, &own()).expect("a socket");
        let (_second, mut file) = SocketFile::bind(&path, &own()).expect("another");
        file.move_to(&path, true).expect("it has its name");
        drop(left);
        assert!(path.exists());
    }

    #[test]
    fn a_socket_refuses_descriptors_before_it_has_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let (_listener, file) = SocketFile::bind(&folder.path().join("roster.sock"), &own()).expect("a socket");
        let client = std::os::unix::net::UnixStream::connect(&file.path).expect("it is there");
        assert_eq!(takes_descriptors(&client), refused());
    }
}
