//! Batch: what a source has to say at once, which becomes one revision.

use std::time::Duration;

use crate::clock::Moment;
use crate::model::Change;

/// What a source has to say at once. What is absent stays as it was.
#[derive(Debug, Default)]
pub struct Batch {
    pub changes: Vec<Change>,
    /// That with these changes all is published that the source holds, so that an absence is an answer from now on.
    pub whole: bool,
    /// How much of the source is left out.
    pub skipped_nodes: Option<u64>,
    /// Whether masters are still given time to come back, whose absence is no answer until then.
    pub settling: Option<bool>,
    pub proof: Option<Proof>,
    /// Whether the source was not followed until now: what is gone went while nobody looked.
    pub unseen: bool,
}

/// That what is published is what the source held.
#[derive(Clone, Copy, Debug)]
pub enum Proof {
    /// At that moment, or later.
    Seen(Moment),
    /// So long ago, as far as anybody can know: nothing can prove the source's state. It counts only for one that never
    /// was in sync.
    OfAge(Duration),
}

impl Batch {
    pub fn whole(changes: Vec<Change>) -> Self {
        Self { changes, whole: true, ..Self::default() }
    }

    pub fn settling(is_settling: bool) -> Self {
        Self { settling: Some(is_settling), ..Self::default() }
    }
}

impl From<Vec<Change>> for Batch {
    fn from(changes: Vec<Change>) -> Self {
        Self { changes, ..Self::default() }
    }
}
