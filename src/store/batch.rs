//! Batch: what a source reports at once, which becomes one revision.

use std::time::Duration;

use crate::clock::Moment;
use crate::model::Change;

/// What a source reports at once. What is absent stays as it was.
#[derive(Debug, Default)]
pub struct Batch {
    pub changes: Vec<Change>,
    /// Whether these changes complete what the source holds, so that an absence is an answer from now on.
    pub whole: bool,
    /// How much of the source is omitted.
    pub skipped_nodes: Option<u64>,
    /// Whether masters still have time to come back, whose absence is no answer until then.
    pub settling: Option<bool>,
    pub proof: Option<Proof>,
    /// Whether the source was not followed until now: then nodes may have been lost unobserved.
    pub unseen: bool,
}

/// How the published state is known to be the source's.
#[derive(Clone, Copy, Debug)]
pub enum Proof {
    /// It was so at that moment, or later.
    Seen(Moment),
    /// It may be this old: nothing can prove the source's state. Only used for a source that was never in sync.
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
