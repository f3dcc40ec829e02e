//! Open folders: operations on names in one happen there, whatever others put in its way meanwhile.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, getegid, unlinkat};

use super::own::{NotOwn, OTHERS_WRITE, check_owner, foreign, look, regular};

/// The limit of the kernel.
const MAX_LINKS: usize = 40;

/// With this bit, only an entry's owner, or the folder's, may rename or remove it.
const STICKY: u32 = 0o1000;

const EVERYBODY_WRITES: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;

/// A folder that stays the same while this lives.
#[derive(Debug)]
pub struct Folder(File);

/// What has a name in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    File,
    /// A folder, or another user's file, so that creating a file may fail.
    Obstacle,
}

/// A link that another user could have pointed anywhere.
#[derive(Debug, thiserror::Error)]
enum Misled {
    #[error(
        "{name:?} on the way is a link of {owner}, and this is a process of {user}; name the place that it leads to, or \
         remove it"
    )]
    Link { name: OsString, owner: String, user: String },
    #[error(
        "it is a link into a folder of {owner}, and this is a process of {user}; name the file in that folder, or remove \
         the link"
    )]
    Into { owner: String, user: String },
}

/// A folder in which another user could replace what is meant.
#[derive(Debug, thiserror::Error)]
enum Open {
    #[error(
        "{} belongs to {owner}, who could lead it elsewhere, and this is a process of {user}: choose a folder in which, \
         as in all above it, nobody but {user} may write", folder.display()
    )]
    Foreign { folder: PathBuf, owner: String, user: String },
    #[error(
        "others than its owner may write {} (mode {mode:04o}), and could lead it elsewhere: `chmod go-w` it, or choose \
         another folder", folder.display()
    )]
    Writable { folder: PathBuf, mode: u32 },
}

impl Folder {
    /// The folder of a file, and the file's name there. A link is followed only if it belongs to our user or root; one
    /// in place of the file, only into a folder of theirs.
    pub fn of(path: &Path) -> io::Result<(Self, OsString)> {
        Self::reach(path, |_| Ok(()))
    }

    /// The same, if only our user, our group and root can replace that file, or a folder on the way to it.
    pub fn of_ours(path: &Path) -> io::Result<(Self, OsString)> {
        Self::reach(path, check_ours)
    }

    fn reach(path: &Path, check: impl Fn(&File) -> io::Result<()>) -> io::Result<(Self, OsString)> {
        let (mut at, mut rest) = (look(AT_FDCWD, ".")?, parts(path));
        let (mut links, mut is_led) = (0, false);
        while let Some(name) = rest.pop() {
            if name != Component::RootDir.as_os_str() {
                check(&at)?;
            }
            let found = match look(&at, name.as_os_str()) {
                Err(Errno::ENOENT) if rest.is_empty() => None,
                found => Some(found?),
            };
            let link = found.as_ref().map(File::metadata).transpose()?.filter(|found| found.is_symlink());
            if let (Some(found), Some(link)) = (&found, link) {
                if let Some((owner, user)) = foreign(link.uid()) {
                    return Err(io::Error::other(Misled::Link { name, owner, user }));
                }
                // Anyone who may hard-link a file of ours could have put it here.
                if link.nlink() > 1 {
                    return Err(NotOwn::Linked.at(path));
                }
                if links == MAX_LINKS {
                    return Err(Errno::ELOOP.into());
                }
                links += 1;
                is_led |= rest.is_empty();
                rest.extend(parts(Path::new(&readlinkat(found, "")?)));
            } else if rest.is_empty() {
                return match foreign(at.metadata()?.uid()).filter(|_| is_led) {
                    Some((owner, user)) => Err(io::Error::other(Misled::Into { owner, user })),
                    None => Ok((Self(at), name)),
                };
            } else {
                at = found.ok_or(Errno::ENOENT)?;
            }
        }
        Err(io::ErrorKind::InvalidInput.into())
    }

    /// Opens a file for reading. The name may belong to a link, or to a pipe without a writer.
    pub fn open(&self, name: &OsStr) -> Result<File, NotOwn> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        regular(openat(&self.0, name, flags, Mode::empty()).map(File::from).map_err(io::Error::from))
    }

    /// Creates a file that only our user can access.
    pub fn create(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(&self.0, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?.into())
    }

    /// Opens a file for appending, creating it if necessary: one that only our user or root can have created, and that
    /// has no other name.
    pub fn append(&self, name: &OsStr, mode: Mode) -> Result<File, NotOwn> {
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let opened = openat(&self.0, name, flags | OFlag::O_CLOEXEC, mode);
        let file = regular(opened.map(File::from).map_err(io::Error::from))?;
        let found = file.metadata().map_err(NotOwn::Io)?;
        check_owner(found.uid())?;
        if found.nlink() > 1 { Err(NotOwn::Linked) } else { Ok(file) }
    }

    /// Checks that nobody but our user, root, and the folder's owner can have put another user's file there.
    pub fn check_owner(&self, file: &File) -> Result<(), NotOwn> {
        let (folder, owner) = (self.0.metadata().map_err(NotOwn::Io)?, file.metadata().map_err(NotOwn::Io)?.uid());
        if owner == folder.uid() || folder.mode() & OTHERS_WRITE == 0 { Ok(()) } else { check_owner(owner) }
    }

    /// What has this name, where a file is to be created or replaced.
    pub fn find(&self, name: &OsStr) -> io::Result<Found> {
        let found = match look(&self.0, name) {
            Err(Errno::ENOENT) => return Ok(Found::Nothing),
            found => found?,
        };
        if found.metadata()?.is_dir() {
            return Ok(Found::Obstacle);
        }
        match self.check_owner(&found) {
            Err(NotOwn::Io(error)) => Err(error),
            Err(_) => Ok(Found::Obstacle),
            Ok(()) => Ok(Found::File),
        }
    }

    /// Renames a file, replacing one that has the name.
    pub fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(renameat(&self.0, from, &self.0, to)?)
    }

    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir)?)
    }
}

/// Checks that only our user, our group and root can rename or remove their files in a folder.
fn check_ours(folder: &File) -> io::Result<()> {
    let found = folder.metadata()?;
    let path = || fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd())).unwrap_or_default();
    if let Some((owner, user)) = foreign(found.uid()) {
        return Err(io::Error::other(Open::Foreign { folder: path(), owner, user }));
    }
    let mode = found.mode() & 0o7777;
    let is_of_others = mode & EVERYBODY_WRITES != 0 || mode & GROUP_WRITES != 0 && found.gid() != getegid().as_raw();
    if is_of_others && mode & STICKY == 0 {
        return Err(io::Error::other(Open::Writable { folder: path(), mode }));
    }
    Ok(())
}

/// The parts of a path, last one first.
fn parts(path: &Path) -> Vec<OsString> {
    path.components().rev().map(Component::as_os_str).map(OsStr::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Metadata, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

    use super::*;
    use crate::permissions;

    /// The user id of www-data, on Debian.
    const OTHER: u32 = 33;

    #[test]
    fn a_file_is_made_in_the_folder_that_was_opened_and_in_no_other() {
        let above = tempfile::tempdir().expect("a folder");
        let path = |name: &str| above.path().join(name);
        fs::create_dir(path("real")).and_then(|()| symlink("real", path("led"))).expect("made");
        symlink("file", path("real/link")).expect("a link");
        let (folder, name) = Folder::of(&path("led/link")).expect("the links are ours");
        assert_eq!(name, "file");
        // Another user moves it away, and puts a link in its place.
        fs::rename(path("real"), path("away")).and_then(|()| symlink("/nowhere", path("real"))).expect("moved");
        drop(folder.create(OsStr::new("fresh")).expect("made"));
        folder.rename(OsStr::new("fresh"), &name).expect("renamed");
        let made = path("away/file").metadata().expect("it is there");
        assert_eq!(made.mode() & 0o777, 0o600);
        assert!(matches!(folder.open(OsStr::new("link")), Err(NotOwn::NoFile)));
        symlink("/etc/debian_version", path("away/fresh")).expect("a link");
        folder.create(OsStr::new("fresh")).expect_err("something is there");
        folder.open(&name).expect("a file");
        for wrong in ["no/file", "away/file/below"] {
            Folder::of(&path(wrong)).expect_err("there is no such folder");
        }
        symlink("self", path("self")).expect("a link");
        Folder::of(&path("self")).expect_err("it leads to itself");
    }

    #[test]
    fn no_link_of_another_user_is_followed_and_none_into_a_folder_of_one() {
        let above = tempfile::tempdir().expect("a folder");
        let path = |name: &str| above.path().join(name);
        fs::create_dir(path("theirs")).and_then(|()| symlink("theirs/file", path("into"))).expect("made");
        symlink("theirs", path("link")).expect("a link");
        if lchown(path("link"), Some(OTHER), None).and_then(|()| chown(path("theirs"), Some(OTHER), None)).is_err() {
            return; // Only root can create files of other users.
        }
        let why = |name: &str| Folder::of(&path(name)).expect_err("it is another user's").to_string();
        for name in ["link", "link/file"] {
            assert!(why(name).starts_with("\"link\" on the way is a link of www-data, and this is a process of root"));
        }
        assert!(why("into").starts_with("it is a link into a folder of www-data"));
        let (theirs, _) = Folder::of(&path("theirs/file")).expect("no link leads there");
        let (ours, _) = Folder::of(&path("file")).expect("no link leads there");
        let file = File::create(path("file")).expect("a file");
        chown(path("file"), Some(OTHER), None).expect("root can");
        theirs.check_owner(&file).expect("the folder's owner may");
        ours.check_owner(&file).expect("nobody else can have put it there");
        fs::set_permissions(&above, Permissions::from_mode(0o1777)).expect("it is ours");
        assert!(matches!(ours.check_owner(&file), Err(NotOwn::Foreign { .. })));
    }

    #[test]
    fn a_folder_is_ours_only_if_nobody_else_can_change_the_way_to_it() {
        let above = tempfile::tempdir().expect("a folder");
        let path = |name: &str| above.path().join(name);
        let why = |name: &str| Folder::of_ours(&path(name)).err().map(|why| why.to_string());
        fs::create_dir_all(path("a/b")).and_then(|()| symlink("a/b", path("link"))).expect("made");
        let set = |name: &str, mode| fs::set_permissions(path(name), Permissions::from_mode(mode)).expect("ours");
        assert_eq!((why("a/b/file"), why("link/file")), (None, None), "the link is ours");
        for (mode, is_ours) in [(0o757, false), (0o1777, true), (0o755, true)] {
            set("a", mode);
            let why = why("a/b/file");
            let is_told = why.as_ref().is_some_and(|why| why.contains("/a (mode 0757), and could lead it elsewhere"));
            assert_eq!((why.is_none(), is_told), (is_ours, !is_ours), "{why:?}");
        }
        set("a/b", 0o775);
        assert_eq!(why("a/b/file"), None, "the group is our own");
        if chown(path("a/b"), None, Some(OTHER)).is_err() {
            return; // Only root can create files of other users.
        }
        assert!(why("a/b/file").is_some_and(|why| why.contains("may write")));
        set("a/b", 0o755);
        chown(path("a"), Some(OTHER), None).expect("root can");
        assert!(why("a/b/file").is_some_and(|why| why.contains("/a belongs to www-data")), "{:?}", why("a/b/file"));
    }

    #[test]
    fn nothing_is_appended_to_what_another_user_may_have_put_there() {
        let above = tempfile::tempdir().expect("a folder");
        let path = |name: &str| above.path().join(name);
        let (folder, _) = Folder::of_ours(&path("log")).expect("it is ours");
        let append = |name: &str| folder.append(OsStr::new(name), Mode::S_IRUSR | Mode::S_IWUSR);
        append("log").expect("a file");
        symlink("log", path("link")).and_then(|()| fs::create_dir(path("folder"))).expect("made");
        nix::unistd::mkfifo(&path("pipe"), Mode::S_IRWXU).expect("a pipe");
        for name in ["link", "pipe"] {
            assert!(matches!(append(name), Err(NotOwn::NoFile)), "{name}");
        }
        assert!(append("folder").is_err());
        fs::hard_link(path("log"), path("other")).expect("a link");
        assert!(matches!(append("log"), Err(NotOwn::Linked)));
        fs::remove_file(path("other")).expect("removed");
        if chown(path("log"), Some(OTHER), None).is_ok() {
            assert!(matches!(append("log"), Err(NotOwn::Foreign { .. })));
        }
    }

    #[test]
    fn permissions_are_set_on_nothing_that_others_can_have_put_there() {
        let above = tempfile::tempdir().expect("a folder");
        let path = |name: &str| above.path().join(name);
        fs::write(path("file"), "kept").and_then(|()| symlink("file", path("link"))).expect("made");
        let set = |name: &str, is_right| permissions::Mode(0o604).set(&path(name), is_right);
        let mode = || path("file").metadata().expect("a file").mode() & 0o777;
        let before = mode();
        set("link", Metadata::is_file).expect_err("it is a link");
        set("file", Metadata::is_dir).expect_err("it is no folder");
        assert_eq!(mode(), before);
        set("file", Metadata::is_file).expect("it is ours");
        assert_eq!(mode(), 0o604);
        if chown(path("file"), Some(OTHER), None).is_ok() {
            set("file", Metadata::is_file).expect_err("it is another user's");
        }
    }
}
