//! The user that the sidecar of a configuration runs as, and what it may give to groups and create.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::unistd::{AccessFlags, Gid, Uid, access, getegid, geteuid, getgroups};

use super::Config;
use crate::default_paths;
use crate::permissions::own::name_of;
use crate::permissions::{OF_ONES_OWN, gid_of};

/// Where even root cannot create anything.
const OF_THE_KERNEL: [&str; 2] = ["/proc", "/sys"];

impl Config {
    /// The user that its sidecar runs as: the owner of its socket, or else of its state folder. None: neither exists.
    pub fn sidecar_user(&self) -> Option<Uid> {
        let socket = fs::symlink_metadata(&self.thrift.unix).ok().filter(|it| it.file_type().is_socket());
        let state = || fs::metadata(&self.shared.state).ok().filter(|_| !self.shared.state.as_os_str().is_empty());
        socket.or_else(state).map(|found| Uid::from_raw(found.uid()))
    }
}

/// Why this process cannot give a file to the group; none if it can, or the group does not exist.
pub(super) fn cannot_give(group: &str) -> Option<String> {
    let gid = gid_of(group).ok().flatten()?;
    let is_member = || gid == getegid() || getgroups().is_ok_and(|groups| groups.contains(&gid));
    (!geteuid().is_root() && !is_member()).then(|| {
        let user = name_of(geteuid().as_raw());
        format!(
            "cannot give it to the group {group:?}, unless its unit has `SupplementaryGroups={group}`: {user} is not in it; \
             `sudo usermod -aG {group} {user}` changes that; {OF_ONES_OWN}"
        )
    })
}

/// Whether a file belongs to the group already.
pub(super) fn is_of_group(path: &Path, group: &str) -> bool {
    let gid = gid_of(group).ok().flatten().map(Gid::as_raw);
    gid.is_some() && gid == fs::metadata(path).ok().map(|file| file.gid())
}

/// Why this process cannot create a `file` (or socket) in a folder, creating that and its ancestors if necessary.
pub(super) fn cannot_make(file: &str, folder: &Path) -> Option<String> {
    if folder == default_paths::user_folder() && folder.exists() {
        return default_paths::check_owner(&default_paths::user_socket()).err().map(|error| error.to_string());
    }
    let existing = folder.ancestors().find(|folder| fs::symlink_metadata(folder).is_ok())?;
    let why = match access(existing, AccessFlags::W_OK | AccessFlags::X_OK) {
        _ if !existing.is_dir() => "it is no folder".to_owned(),
        _ if OF_THE_KERNEL.iter().any(|kernel| existing.starts_with(kernel)) => "it is the kernel's".to_owned(),
        Err(error) => std::io::Error::from(error).to_string(),
        Ok(()) => return None,
    };
    let what = if existing == folder { file } else { "folder" };
    Some(format!("no {what} can be made in {}: {why}; choose another, or have it made", existing.display()))
}
