//! What an earlier process left of masters: it stands in the file until those that live now are known.

use std::borrow::Borrow;
use std::time::{Duration, SystemTime};

use super::Contents;
use super::entry::{FileStatus, Source};
use crate::clock::Moment;
use crate::store::Feed;

#[derive(Debug)]
pub(super) struct RestoredMasters {
    /// The keys of its entries.
    pub(super) keys: Vec<Vec<u8>>,
    /// Where the masters were known from, with the age of that at `then`.
    sources: Vec<(Source, Option<Duration>)>,
    then: Moment,
}

impl RestoredMasters {
    pub(super) fn nothing() -> Self {
        Self { keys: Vec::new(), sources: Vec::new(), then: Moment::now() }
    }

    /// What of `left` is about masters, and known from one of the feeds.
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

    /// What stands of masters in a file of this status, since what became of them later does not fit into it.
    pub(super) fn standing(status: &FileStatus) -> Self {
        let now = SystemTime::now();
        let sources = status.sources.iter().filter(|source| source.knows_masters());
        let sources = sources.map(|source| (source.clone(), status.age_of(source, now))).collect();
        Self { keys: Vec::new(), sources, then: Moment::now() }
    }

    /// What is to be said of its sources in a status that is written now.
    pub(super) fn sources(&self) -> impl Iterator<Item = (&Source, Option<Duration>)> {
        self.sources.iter().map(|(source, age)| (source, age.map(|age| age + self.then.elapsed())))
    }
}
