//! Claims: what no other process may have as long as this one does.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use super::own::{self, NotOwn};

/// A lock that no other process may have as long as this lives.
#[derive(Debug)]
pub struct Claim(Flock<File>);

impl Claim {
    /// That to a file or socket; it fails with `WouldBlock` while another process has it. Only our user may open the hidden
    /// file beside it that is locked for that, and so lock it.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(".claim");
        let path = path.with_file_name(name);
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(0o600);
        Self::on(own::open_with(&path, &mut options).map_err(|why| refused(&path, why))?)
    }

    /// That to a folder, which only our user may open.
    pub fn of_folder(path: &Path) -> io::Result<Self> {
        Self::on(File::open(path)?)
    }

    fn on(file: File) -> io::Result<Self> {
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map(Self).map_err(|(_, error)| error.into())
    }

    /// Whether what was locked still lies at `path`.
    pub fn is_of(&self, path: &Path) -> bool {
        let number = |found: fs::Metadata| (found.dev(), found.ino());
        fs::symlink_metadata(path).ok().map(number) == self.0.metadata().ok().map(number)
    }
}

/// Why a claim cannot be had: one that another user left names its owner.
fn refused(path: &Path, why: NotOwn) -> io::Error {
    match (why, fs::symlink_metadata(path)) {
        (NotOwn::Io(error), Ok(left)) if error.kind() == io::ErrorKind::PermissionDenied => {
            let (path, owner, user) = (path.display(), own::name_of(left.uid()), own::name_of(geteuid().as_raw()));
            io::Error::other(format!(
                "{path} belongs to {owner}, and this is a process of {user}: remove it, as {owner}"
            ))
        }
        (why, _) => why.at(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_may_not_be_opened_names_itself_and_its_owner() {
        let denied = || NotOwn::Io(io::ErrorKind::PermissionDenied.into());
        let left = tempfile::NamedTempFile::new().expect("a file");
        let owner = own::name_of(geteuid().as_raw());
        let told = refused(left.path(), denied()).to_string();
        assert!(told.starts_with(&format!("{} belongs to {owner}, and", left.path().display())), "{told}");
        assert!(told.ends_with(&format!("remove it, as {owner}")), "{told}");
        let none = refused(&left.path().join("none"), denied());
        assert_eq!(none.kind(), io::ErrorKind::PermissionDenied);
    }
}
