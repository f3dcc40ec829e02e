//! Why a listener that a setting asks for could not be created, and what is in the way.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Address, PathOccupied};
use crate::permissions::own::name_of;

/// The setting that asks for a listener.
#[derive(Clone, Debug)]
pub enum Setting {
    /// A key, with dots between its levels.
    Key(&'static str),
    /// A worker's name, and one of its keys.
    OfWorker(Arc<(String, String)>),
}

/// Why a listener that a setting asks for could not be created.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: cannot listen on {address}: {why}")]
pub struct BindError {
    pub(super) setting: Setting,
    pub(super) address: Address,
    pub(super) why: NoListener,
}

/// How a start treats a TCP port that another process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakenPorts {
    /// The start fails.
    Fail,
    /// The sidecar runs without it until the port is free, if it can be asked elsewhere.
    Wait,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum NoListener {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(
        "another process{who} listens there; stop it, or choose another {cure}",
        who = who(*process, *user), cure = setting.cure()
    )]
    Taken {
        setting: Setting,
        /// The user it belongs to, if the kernel reports it.
        user: Option<u32>,
        /// The process id, if the kernel reports it.
        process: Option<i32>,
    },
    #[error(
        "{0}; choose a port from 1024 on, or have the unit allow it: `AmbientCapabilities=CAP_NET_BIND_SERVICE` by \
         `systemctl edit roster`"
    )]
    LowPort(io::Error),
    #[error("cannot make its folder {}: {error}; have it made, or choose another place", folder.display())]
    Folder { folder: PathBuf, error: io::Error },
    #[error(
        "{why}; have the folder made for that user (`RuntimeDirectory=` of the unit, `chown`), or choose another place \
         {cure}", cure = setting.cure()
    )]
    Closed { setting: Setting, why: String },
    #[error(transparent)]
    PathOccupied(#[from] PathOccupied),
}

impl BindError {
    pub(crate) fn setting(&self) -> &Setting {
        &self.setting
    }

    /// The message without the setting, for where that is named already.
    pub(crate) fn without_setting(&self) -> String {
        format!("cannot listen on {}: {}", self.address, self.why)
    }

    /// Whether another process listens there.
    pub fn is_taken(&self) -> bool {
        matches!(self.why, NoListener::Taken { .. })
    }

    /// Whether its file system is full.
    pub fn is_for_room(&self) -> bool {
        let NoListener::Io(error) = &self.why else { return false };
        matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
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

impl Setting {
    pub(crate) fn of_worker(worker: &str, key: String) -> Self {
        Self::OfWorker(Arc::new((worker.to_owned(), key)))
    }

    /// How to set another value.
    fn cure(&self) -> String {
        match self {
            Self::Key(key) => {
                let variable = key.replace('.', "__").to_uppercase();
                format!("with `--set {key}=…` or ROSTER_{variable}=…")
            }
            Self::OfWorker(of) => format!("by `listen` of the worker {}", of.0),
        }
    }
}

impl From<&'static str> for Setting {
    fn from(key: &'static str) -> Self {
        Self::Key(key)
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => f.write_str(key),
            Self::OfWorker(of) => write!(f, "worker {}: {}", of.0, of.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn a_quota_that_is_used_up_leaves_no_room_either() {
        let is_for_room = |error: Errno| {
            let (setting, address) = ("thrift.unix".into(), Address::Unix("/run/roster/roster.sock".into()));
            BindError { setting, address, why: io::Error::from(error).into() }.is_for_room()
        };
        assert!(is_for_room(Errno::ENOSPC) && is_for_room(Errno::EDQUOT) && !is_for_room(Errno::EACCES));
    }
}
