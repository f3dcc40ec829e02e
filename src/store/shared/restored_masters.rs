//! Masters that an earlier process left: they stay in the file until the live ones are known.

use std::borrow::Borrow;
use std::time::{Duration, SystemTime};

use super::Contents;
use super::entry::{FileStatus, Source};
use crate::clock::Moment;
use crate::store::Feed;

#[derive(Debug)]
pub(super) struct RestoredMasters {
    /// The keys of their entries.
    pub(super) keys: Vec<Vec<u8>>,
    /// The sources of the masters, with their age at `then`.
    sources: Vec<(Source, Option<Duration>)>,
    then: Moment,
}

impl RestoredMasters {
    pub(super) fn nothing() -> Self {
        Self { keys: Vec::new(), sources: Vec::new(), then: Moment::now() }
    }

    /// The entries in `left` about masters that are known from one of the feeds.
    pub(super) fn of(left: &Contents, feeds: &[impl Borrow<Feed>]) -> Self {
        let now = SystemTime::now();
        let is_of = |source: &&Source| source.knows_masters() && feeds.iter().any(|feed| source.is_of(feed.borrow()));
        let sources = left.status.sources.iter().filter(is_of);
        Self {
            keys: left.of_masters.iter().map(|(key, _)| key.clone()).collect(),
            sources: sources.map(|source| (source.clone(), left.status.age_of(source, now))).collect(),
            then: Moment::now(),
        }
    }

    /// The masters in a file with this status, which stay since later changes do not fit.
    pub(super) fn standing(status: &FileStatus) -> Self {
        let now = SystemTime::now();
        let sources = status.sources.iter().filter(|source| source.knows_masters());
        let sources = sources.map(|source| (source.clone(), status.age_of(source, now))).collect();
        Self { keys: Vec::new(), sources, then: Moment::now() }
    }

    /// Their sources, for a status that is written now.
    pub(super) fn sources(&self) -> impl Iterator<Item = (&Source, Option<Duration>)> {
        self.sources.iter().map(|(source, age)| (source, age.map(|age| age + self.then.elapsed())))
    }
}
