//! Deaths: jobs that are performed no more, for the log.

use super::job::JobId;
use crate::model::shortened;

/// How many of one transaction are logged; the counter has them all.
pub(super) const MAX_LOGGED: usize = 8;

/// How many characters of the error.
const MAX_LOGGED_ERROR: usize = 200;

#[derive(Debug)]
pub(super) struct Death {
    pub(super) queue: String,
    pub(super) id: JobId,
    pub(super) name: String,
    pub(super) error: String,
}

impl Death {
    pub(super) fn log(&self) {
        let Self { queue, id, name, error } = self;
        let why = shortened(error.lines().next().unwrap_or_default(), MAX_LOGGED_ERROR);
        tracing::warn!(%queue, id, job = %name, %why, "a job is dead: it is performed no more, unless it is retried");
    }
}
