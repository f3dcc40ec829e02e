//! Permissions: who may open the sockets and files that Roster creates, which files are its own, and what it claims.

mod claim;
mod folder;
pub mod own;
mod pid_file;

use std::fmt::{self, Display, Formatter};
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{Gid, Group, fchownat};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

pub use self::claim::{Claim, Holder, NotClaimed};
pub use self::folder::{Folder, Found};
pub use self::pid_file::{PidFile, PidFileError};

/// What works without a group that a person is not in.
pub(crate) const OF_ONES_OWN: &str =
    "for a sidecar of your own, `--set thrift.group= --set shared.group=`, or another `--config`";

/// The permissions of a socket or a file in the file system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Permissions {
    pub mode: Mode,
    pub group: Option<String>,
}

/// The mode of a file, in octal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mode(pub u32);

impl Permissions {
    /// As configured, where an empty group means that of the process.
    pub fn new(mode: Mode, group: &str) -> Self {
        Self { mode, group: Some(group.to_owned()).filter(|group| !group.is_empty()) }
    }

    /// Sets them on what is at a path, if it is ours and of the right kind: another user may have put something else
    /// there, or a link.
    pub fn set(&self, path: &Path, is_right: fn(&Metadata) -> bool) -> io::Result<()> {
        let held = own::hold(path, is_right).map_err(|why| why.at(path))?;
        self.group.as_deref().map_or(Ok(()), |group| chown_group(&held, group))?;
        // The kernel cannot set a mode through an `O_PATH` descriptor, only through its name.
        let held = format!("/proc/self/fd/{}", held.as_raw_fd());
        fs::set_permissions(held, fs::Permissions::from_mode(self.mode.0))
    }
}

impl Mode {
    /// Sets the mode, with the same checks.
    pub fn set(self, path: &Path, is_right: fn(&Metadata) -> bool) -> io::Result<()> {
        Permissions { mode: self, group: None }.set(path, is_right)
    }
}

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 => Ok(Self(mode)),
            _ => Err(format!("`{text}` is not a file mode: expected octal digits such as \"0660\"")),
        }
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> String {
        format!("{:04o}", mode.0)
    }
}

/// The group with this name, or else with this number: a container has other names than the host.
pub fn gid_of(group: &str) -> nix::Result<Option<Gid>> {
    let known = Group::from_name(group)?.map(|group| group.gid);
    Ok(known.or_else(|| group.parse().ok().map(Gid::from_raw)))
}

/// A file cannot be given to a group, since this process's user is not in it.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot give it to the group `{0}`: the sidecar's user is not in it: `usermod -aG {0} USER`, or \
     `SupplementaryGroups={0}` in the unit, and start it again; {OF_ONES_OWN}"
)]
pub struct NotMember(pub String);

/// Gives a file to a group, by name or number.
pub fn chown_group(file: impl AsFd, group: &str) -> io::Result<()> {
    let failed = |why: &dyn Display| io::Error::other(format!("cannot give it to the group `{group}`: {why}"));
    let number = gid_of(group).map_err(|error| failed(&error))?.ok_or_else(|| failed(&"there is no such group"))?;
    fchownat(file, "", None, Some(number), AtFlags::AT_EMPTY_PATH).map_err(|error| match error {
        Errno::EPERM => io::Error::other(NotMember(group.to_owned())),
        _ => failed(&error.desc()),
    })
}

/// Reads a group: a string or a number.
pub fn group<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    struct NameOrNumber;

    impl Visitor<'_> for NameOrNumber {
        type Value = String;

        fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
            f.write_str("the name of a group, or its number")
        }

        fn visit_str<E: Error>(self, name: &str) -> Result<String, E> {
            Ok(name.to_owned())
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<String, E> {
            let number = u32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))?;
            Ok(number.to_string())
        }
    }

    from.deserialize_str(NameOrNumber)
}

/// Creates a folder, and its ancestors, that everybody may enter, whatever the umask: what is put into it has
/// permissions of its own.
pub fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() || path.as_os_str().is_empty() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), make_folder)?;
    match fs::create_dir(path) {
        Ok(()) => Mode(0o755).set(path, Metadata::is_dir),
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_group_has_a_name_or_a_number() {
        #[derive(Deserialize)]
        struct Of {
            #[serde(deserialize_with = "group")]
            group: String,
        }
        let read = |text| toml::from_str::<Of>(text).map(|of| of.group);
        assert_eq!(read("group = 'www-data'"), Ok("www-data".into()));
        assert_eq!((read("group = 33"), read("group = '33'")), (Ok("33".into()), Ok("33".into())));
        assert!(read("group = -1").is_err() && read("group = []").is_err());
        let file = tempfile::NamedTempFile::new().expect("a file");
        let own = file.as_file().metadata().expect("a file").gid();
        chown_group(&file, &own.to_string()).expect("it is ours");
        let why = chown_group(&file, "no such group").expect_err("nobody has it").to_string();
        assert_eq!(why, "cannot give it to the group `no such group`: there is no such group");
    }

    #[test]
    fn a_folder_is_made_with_those_above_it_and_stays_as_it_is() {
        let above = tempfile::tempdir().expect("a folder");
        let folder = above.path().join("one/two");
        let mode = || folder.metadata().expect("a folder").mode() & 0o777;
        make_folder(&folder).expect("made");
        assert_eq!(mode(), 0o755);
        Mode(0o700).set(&folder, Metadata::is_dir).expect("it is ours");
        make_folder(&folder).expect("it is there");
        assert_eq!(mode(), 0o700);
    }
}
