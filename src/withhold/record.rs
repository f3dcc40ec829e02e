//! The record: what is withheld, in a file that outlasts the sidecar.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::Withholding;
use crate::permissions::own;

/// The file in the state's folder.
const FILE: &str = "withheld.json";

/// The most bytes of it that are read.
const MAX_BYTES: u64 = 16 << 20;

#[derive(Debug)]
pub(super) struct Record {
    /// None: there is no folder for it.
    path: Option<PathBuf>,
}

/// All that is withheld.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Recorded {
    pub(super) ejected: Vec<Entry>,
    pub(super) drained: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) service: String,
    pub(super) target: String,
    #[serde(flatten)]
    pub(super) withholding: Withholding,
    /// How often it was ejected.
    #[serde(default)]
    pub(super) times: u32,
}

impl Record {
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self { path: folder.map(|folder| folder.join(FILE)) }
    }

    pub(super) fn has_path(&self) -> bool {
        self.path.is_some()
    }

    /// What an earlier process left. What cannot be read is told, and is nothing.
    pub(super) fn left(&self) -> Recorded {
        let Some(path) = &self.path else { return Recorded::default() };
        read(path).unwrap_or_else(|error| {
            let path = path.display();
            tracing::error!(%path, %error, "cannot read what was drained and ejected; drain anew what shall have no calls");
            Recorded::default()
        })
    }

    /// Puts it in the place of what was recorded; as an error, why it would not outlast a restart.
    pub(super) fn write(&self, recorded: &Recorded) -> Result<(), String> {
        let Some(path) = &self.path else { return Err("there is no `[shared] state` to keep it in".to_owned()) };
        let fresh = path.with_extension("new");
        let write = || {
            let mut file = own::create(&fresh, 0o600)?;
            file.write_all(&serde_json::to_vec(recorded)?)?;
            file.sync_all()?;
            fs::rename(&fresh, path)?;
            path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        };
        write().map_err(|error: io::Error| format!("cannot write {}: {error}", path.display()))
    }
}

fn read(path: &Path) -> io::Result<Recorded> {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(Recorded::default());
    }
    let mut written = Vec::new();
    own::open(path).map_err(|why| why.at(path))?.take(MAX_BYTES).read_to_end(&mut written)?;
    Ok(serde_json::from_slice(&written)?)
}
