//! Why there is no listener where a setting asks for one, and who is in the way.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use super::{Address, PathOccupied};
use crate::permissions::own::name_of;

/// The key of a setting, with dots between its levels.
pub(crate) type Setting = Cow<'static, str>;

/// Why a listener could not be had that a setting asks for.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: cannot listen on {address}: {why}")]
pub struct BindError {
    pub(super) setting: Setting,
    pub(super) address: Address,
    pub(super) why: NoListener,
}

/// What a TCP port means for the start that another process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakenPorts {
    /// It ends the start.
    Fail,
    /// The sidecar goes on without it, if it can be asked elsewhere, until the port is free.
    Wait,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum NoListener {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(
        "another process{who} listens there; stop it, or choose another with `--set {setting}=…` or {variable}=…",
        who = who(*process, *user), variable = variable(setting)
    )]
    Taken {
        setting: Setting,
        /// Whose it is, where the kernel says it.
        user: Option<u32>,
        /// Its number, where the kernel says it.
        process: Option<i32>,
    },
    #[error("cannot make its folder {}: {error}; have it made, or choose another place", folder.display())]
    Folder { folder: PathBuf, error: io::Error },
    #[error(
        "{why}; have the folder made for that user (`RuntimeDirectory=` of the unit, `chown`), or choose another place \
         with `--set {setting}=…`"
    )]
    Closed { setting: Setting, why: String },
    #[error(transparent)]
    PathOccupied(#[from] PathOccupied),
}

impl BindError {
    pub(crate) fn setting(&self) -> &Setting {
        &self.setting
    }

    /// The same where the setting is named beside it.
    pub(crate) fn without_setting(&self) -> String {
        format!("cannot listen on {}: {}", self.address, self.why)
    }

    /// Whether another process listens there.
    pub fn is_taken(&self) -> bool {
        matches!(self.why, NoListener::Taken { .. })
    }

    /// Whether there is no room for it on its file system.
    pub fn is_for_room(&self) -> bool {
        matches!(&self.why, NoListener::Io(error) if error.kind() == io::ErrorKind::StorageFull)
    }
}

fn who(process: Option<i32>, user: Option<u32>) -> String {
    let number = process.map_or_else(String::new, |process| format!(" ({process})"));
    let of = user.map_or_else(String::new, |uid| match name_of(uid) {
        name if name.starts_with("uid ") => format!(" of {name}"),
        name => format!(" of {name} (uid {uid})"),
    });
    number + &of
}

/// The variable of the environment that sets a key.
fn variable(setting: &str) -> String {
    format!("ROSTER_{}", setting.replace('.', "__").to_uppercase())
}
