//! Own files: those that Roster created and trusts when it finds them again, if nobody else can have put them there.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::ErrorKind::NotFound;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, Uid, access};
pub use roster_net::name_of;

const CURE: &str = "remove it, and see who may write its folder";

/// The mode bits that let others write a file.
pub(super) const OTHERS_WRITE: u32 = 0o022;

/// The most files set aside of one name.
const MAX_SET_ASIDE: usize = 4;

/// Why a file is not accepted as our own.
#[derive(Debug, thiserror::Error)]
pub enum NotOwn {
    #[error("cannot open it: {0}")]
    Io(io::Error),
    #[error("it is a symbolic link, or no regular file; {CURE}")]
    NoFile,
    #[error(
        "it belongs to {owner}, and this is a process of {user}: run it as {owner}, or, if nobody trusted made it, remove it"
    )]
    Foreign { owner: String, user: String },
    #[error("it is not what was made here; {CURE}")]
    Replaced,
    #[error("it has another name too, a hard link; {CURE}")]
    Linked,
    #[error("others than its owner may write it (mode {0:04o}); {CURE}")]
    Writable(u32),
}

impl NotOwn {
    /// The same as an I/O error about the file.
    pub fn at(self, path: &Path) -> io::Error {
        match self {
            Self::Io(error) => error,
            why => io::Error::other(format!("{}: {why}", path.display())),
        }
    }
}

/// Opens a file for reading that only our user or root can have created or written.
pub fn open(path: &Path) -> Result<File, NotOwn> {
    let file = open_with(path, File::options().read(true))?;
    match file.metadata().map_err(NotOwn::Io)?.mode() & 0o7777 {
        mode if mode & OTHERS_WRITE != 0 => Err(NotOwn::Writable(mode)),
        _ => Ok(file),
    }
}

/// Atomically replaces a private file, after the content is on disk.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    fs::rename(write_beside(path, content)?, path)
}

/// Writes what is to replace a private file beside it; where.
pub fn write_beside(path: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let fresh = path.with_extension("new");
    let mut file = create(&fresh, 0o600)?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(fresh)
}

/// Sets a file aside under the first free name of `x.set-aside`, `x.set-aside.1` to `.3`; which. If all are taken, it replaces
/// the last: what was set aside first stays until somebody removes it. None: there is no such file.
pub fn set_aside(path: &Path) -> io::Result<Option<PathBuf>> {
    let name = |number: usize| {
        let mut name = path.as_os_str().to_owned();
        name.push(".set-aside");
        if number > 0 {
            name.push(format!(".{number}"));
        }
        PathBuf::from(name)
    };
    let is_free = |name: &PathBuf| fs::symlink_metadata(name).is_err_and(|error| error.kind() == NotFound);
    let aside = (0..MAX_SET_ASIDE).map(name).find(is_free).unwrap_or_else(|| name(MAX_SET_ASIDE - 1));
    match fs::rename(path, &aside) {
        Err(error) if error.kind() == NotFound => Ok(None),
        moved => moved.map(|()| Some(aside)),
    }
}

/// Opens a file that only our user or root can have created. The path may lead to a link, a pipe without a writer, or
/// another user's file.
pub fn open_with(path: &Path, options: &mut OpenOptions) -> Result<File, NotOwn> {
    let file = regular(options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(path))?;
    check_owner(file.metadata().map_err(NotOwn::Io)?.uid())?;
    Ok(file)
}

/// The opened file, if it is a regular one. It was opened without following a link or blocking.
pub(super) fn regular(opened: io::Result<File>) -> Result<File, NotOwn> {
    let file = opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ELOOP | Errno::ENXIO) => NotOwn::NoFile,
        _ => NotOwn::Io(error),
    })?;
    match file.metadata().map_err(NotOwn::Io)? {
        found if found.is_file() => Ok(file),
        found if found.is_dir() => Err(NotOwn::Io(Errno::EISDIR.into())),
        _ => Err(NotOwn::NoFile),
    }
}

/// Opens what is at a path, to set its permissions, if only our user or root can have created it.
pub(super) fn hold(path: &Path, is_right: fn(&Metadata) -> bool) -> Result<File, NotOwn> {
    let held = look(AT_FDCWD, path).map_err(|error| NotOwn::Io(error.into()))?;
    let found = held.metadata().map_err(NotOwn::Io)?;
    check_owner(found.uid())?;
    if is_right(&found) { Ok(held) } else { Err(NotOwn::Replaced) }
}

/// Opens what is there only to inspect it (`O_PATH`); follows no link.
pub(super) fn look(at: impl AsFd, name: &(impl NixPath + ?Sized)) -> nix::Result<File> {
    openat(at, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()).map(File::from)
}

/// Creates a file, replacing what is there.
pub fn create(path: &Path, mode: u32) -> io::Result<File> {
    remove(path)?;
    File::options().read(true).write(true).create_new(true).mode(mode).open(path)
}

/// Removes a file, if it exists.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Checks that it is a folder of our user, which nobody else can have created.
pub fn check_folder(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    let user = Uid::effective().as_raw();
    if !found.is_dir() {
        return Err(io::Error::other(format!("it is no folder; {CURE}")));
    }
    if found.uid() != user {
        let (owner, user) = (name_of(found.uid()), name_of(user));
        return Err(NotOwn::Foreign { owner, user }.at(path));
    }
    Ok(())
}

/// A folder, or its nearest existing ancestor, if it is neither our user's nor root's; with the names of its owner and
/// our user.
pub fn foreign_folder(folder: &Path) -> Option<(&Path, String, String)> {
    let (there, found) = folder.ancestors().find_map(|folder| Some((folder, folder.metadata().ok()?)))?;
    foreign(found.uid()).map(|(owner, user)| (there, owner, user))
}

/// Checks that an owner is our user or root.
pub(super) fn check_owner(owner: u32) -> Result<(), NotOwn> {
    foreign(owner).map_or(Ok(()), |(owner, user)| Err(NotOwn::Foreign { owner, user }))
}

/// The names of an owner, if it is neither our user nor root, and of our user.
pub(super) fn foreign(owner: u32) -> Option<(String, String)> {
    let user = Uid::effective().as_raw();
    (![0, user].contains(&owner)).then(|| (name_of(owner), name_of(user)))
}

/// Why this process cannot create anything in a folder; None: it can.
pub fn cannot_write(folder: &Path) -> Option<String> {
    let error = access(folder, AccessFlags::W_OK | AccessFlags::X_OK).err()?;
    let found = fs::metadata(folder).map(|found| (name_of(found.uid()), found.mode() & 0o777));
    let whose = found.map_or_else(|_| String::new(), |(owner, mode)| format!(" (it is of {owner}, mode {mode:04o})"));
    let user = name_of(Uid::effective().as_raw());
    Some(format!("{user} cannot write {}: {}{whose}", folder.display(), error.desc()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use nix::sys::stat;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn neither_a_link_nor_a_pipe_nor_what_others_write_is_our_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name| folder.path().join(name);
        let file = path("file");
        drop(create(&file, 0o640).expect("made"));
        open(&file).expect("it is ours");
        symlink(&file, path("link")).expect("a link");
        mkfifo(&path("pipe"), stat::Mode::S_IRWXU).expect("a pipe");
        for name in ["link", "pipe"] {
            assert!(matches!(open(&path(name)), Err(NotOwn::NoFile)), "{name:?}");
        }
        assert!(["none", ""].iter().all(|name| matches!(open(&path(name)), Err(NotOwn::Io(_)))));
        for mode in [0o660, 0o642, 0o622] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("it is ours");
            assert!(matches!(open(&file), Err(NotOwn::Writable(found)) if found == mode), "{mode:o}");
        }
        open_with(&file, File::options().read(true).write(true)).expect("it is ours");
        // The link in the way of a new file is replaced, not its target.
        fs::write(&file, "kept").expect("written");
        drop(create(&path("link"), 0o600).expect("made"));
        assert!(!path("link").is_symlink() && fs::read(&file).expect("a file") == b"kept");
    }

    #[test]
    fn what_was_set_aside_first_stays_until_somebody_removes_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name| folder.path().join(name);
        let read = |name| fs::read_to_string(path(name)).unwrap_or_default();
        assert_eq!(set_aside(&path("x.json")).expect("nothing"), None);
        let ends = ["", ".1", ".2", ".3", ".3", ".3"];
        for (number, end) in ends.into_iter().enumerate() {
            fs::write(path("x.json"), number.to_string()).expect("written");
            let aside = set_aside(&path("x.json")).expect("it is");
            assert_eq!(aside, Some(folder.path().join(format!("x.json.set-aside{end}"))));
        }
        let names = ["x.json.set-aside", "x.json.set-aside.1", "x.json.set-aside.2", "x.json.set-aside.3", "x.json"];
        assert_eq!(names.map(read), ["0", "1", "2", "5", ""]);
        fs::remove_file(path(names[1])).expect("removed");
        fs::write(path("x.json"), "6").expect("written");
        set_aside(&path("x.json")).expect("it is");
        assert_eq!(names.map(read), ["0", "6", "2", "5", ""]);
    }

    #[test]
    fn what_another_user_made_is_not_our_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, below) = (folder.path().join("file"), folder.path().join("sub/folder"));
        drop(create(&file, 0o640).expect("made"));
        assert_eq!(foreign_folder(&below), None);
        if chown(&file, Some(33), None).and_then(|()| chown(&folder, Some(33), None)).is_err() {
            let _ = writeln!(io::stderr(), "\nSKIPPED what_another_user_made_is_not_our_own: only root can be others");
            return;
        }
        let why = open(&file).expect_err("it is another user's").to_string();
        assert!(why.contains("belongs to www-data, and this is a process of root"), "{why}");
        assert_eq!(foreign_folder(&below), Some((folder.path(), "www-data".into(), "root".into())));
    }
}
