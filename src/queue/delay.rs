//! Delays: when delayed jobs are due by a clock that nobody sets.

use std::collections::{BTreeSet, HashMap};

use super::change::Now;
use super::job::JobId;

/// Of so many jobs that is known. Further ones go by the clock on the wall, as do those that another process has delayed.
const MAX_DELAYS: usize = 65_536;

/// By so many ms both clocks may come to differ without one of them being set.
const SLEW: u64 = 1_000;

/// When delayed jobs are due, in ms since the machine was started.
#[derive(Debug, Default)]
pub(super) struct Delays {
    by_end: BTreeSet<(u64, JobId)>,
    by_job: HashMap<JobId, u64>,
    /// Those that were removed since what is done was last known to be on the disk.
    removed: Vec<(JobId, u64)>,
}

impl Delays {
    pub(super) fn insert(&mut self, id: JobId, end: u64) {
        self.remove(id);
        if self.by_job.len() < MAX_DELAYS {
            self.by_end.insert((end, id));
            self.by_job.insert(id, end);
        }
    }

    pub(super) fn remove(&mut self, id: JobId) {
        if let Some(end) = self.by_job.remove(&id) {
            self.by_end.remove(&(end, id));
            self.removed.push((id, end));
        }
    }

    /// What was done is on the disk.
    pub(super) fn settle(&mut self) {
        self.removed.clear();
    }

    /// What was done is not: those that were removed are delayed as before. What was inserted is of no job, or of one that is.
    pub(super) fn roll_back(&mut self) {
        // Of several the first one counts.
        for (id, end) in std::mem::take(&mut self.removed).into_iter().rev() {
            self.insert(id, end);
        }
        self.removed.clear();
    }

    /// The one that is due first, and when.
    pub(super) fn first(&self) -> Option<(u64, JobId)> {
        self.by_end.first().copied()
    }

    /// When a job is due, by the clock on the wall as it is now. When it was delayed, that said it would be at `until`.
    pub(super) fn due(&self, id: JobId, until: u64, now: Now) -> u64 {
        let due = self.by_job.get(&id).map(|end| now.wall + end.saturating_sub(now.since_boot));
        due.filter(|due| due.abs_diff(until) > SLEW).unwrap_or(until)
    }
}
