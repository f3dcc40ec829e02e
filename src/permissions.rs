//! Permissions: who may open a socket or a file that Roster makes.

use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use serde::{Deserialize, Serialize};

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
    /// As it is configured, where an empty group is the process's own.
    pub fn new(mode: Mode, group: &str) -> Self {
        Self { mode, group: Some(group.to_owned()).filter(|group| !group.is_empty()) }
    }
}

impl Mode {
    pub fn set(self, path: &Path) -> io::Result<()> {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(self.0))
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

/// Gives a file to a group; why that cannot be.
pub fn give_to(path: &Path, group: &str) -> Result<(), String> {
    let known = nix::unistd::Group::from_name(group).map_err(|error| error.to_string())?;
    let group = known.ok_or("there is no such group")?;
    chown(path, None, Some(group.gid.as_raw())).map_err(|error| error.to_string())
}
