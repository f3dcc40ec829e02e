//! The state directory, which belongs to one sidecar: it holds the copy of its shared file, and the token that it
//! generates.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::Config;
use crate::metrics::Metrics;
use crate::permissions::{Claim, Holder, NotClaimed};

/// Masters of its group read the token there.
pub(crate) const STATE_MODE: u32 = 0o750;

/// Another sidecar keeps its state in the directory.
#[derive(Debug, thiserror::Error)]
#[error(
    "shared.state: another sidecar{by} keeps its state in {folder}; stop it, or choose another directory with \
     `--set shared.state=…` or ROSTER_SHARED__STATE=…",
    folder = folder.display()
)]
pub struct StateTaken {
    folder: PathBuf,
    by: Holder,
}

impl Config {
    /// Claims the state directory, which is created if only its last part is missing. Only another sidecar prevents the
    /// start: if there can be no such directory, none is used from here on, and the log and `status` warn about that if it
    /// was configured, or exists. (The default one does not exist on every machine.)
    pub fn claim_state(&mut self, metrics: &Metrics) -> Result<Option<Claim>, StateTaken> {
        if self.state.as_os_str().is_empty() {
            return Ok(None);
        }
        let made = if self.state.is_dir() { Ok(()) } else { DirBuilder::new().mode(STATE_MODE).create(&self.state) };
        match made.map_err(NotClaimed::Failed).and_then(|()| Claim::of(&self.state.join("state"))) {
            Ok(claim) => Ok(Some(claim)),
            Err(NotClaimed::Held(by)) => Err(StateTaken { folder: self.state.clone(), by }),
            Err(NotClaimed::Failed(error)) => {
                let is_expected = self.is_state_set() || self.state.is_dir();
                self.give_up_state(&error, is_expected, metrics);
                Ok(None)
            }
        }
    }

    fn give_up_state(&mut self, error: &io::Error, is_expected: bool, metrics: &Metrics) {
        let state = std::mem::take(&mut self.state);
        let path = state.display();
        let why = "no copy of the shared file is kept, and the history and what is drained do not outlast a restart: \
                   the directory of `[shared] state` cannot be used";
        if is_expected {
            tracing::warn!(%path, %error, "{why}");
            metrics.state_trouble.store(Some(Arc::new(format!("{why}: {path}: {error}"))));
        } else {
            tracing::info!(%path, %error, "{why}");
        }
    }
}
