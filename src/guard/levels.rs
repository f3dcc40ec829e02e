//! The sizes that a service had recently.

use std::time::Duration;

use crate::clock::Moment;

/// Counts that ended within the same part of a window count as one.
const PARTS: u32 = 32;

/// The counts that a service had and that ended within the window, in descending order: a count before a greater one no
/// longer matters.
#[derive(Clone, Debug, Default)]
pub(super) struct Levels(Vec<Level>);

#[derive(Clone, Copy, Debug)]
struct Level {
    count: usize,
    /// When the first and the last of the counts combined in this one ended.
    first: Moment,
    ended: Moment,
}

impl Levels {
    /// Records that the service had this many until now, and has fewer from now on.
    pub(super) fn fell(&mut self, count: usize, now: Moment, window: Duration) {
        self.forget(now, window);
        self.0.retain(|level| level.count > count);
        match self.0.last_mut() {
            Some(last) if now.since(last.first) < window / PARTS => last.ended = now,
            _ => self.0.push(Level { count, first: now, ended: now }),
        }
    }

    /// The highest count within the window, if it was higher than now; else 0.
    pub(super) fn peak(&self) -> usize {
        self.0.iter().map(|level| level.count).max().unwrap_or(0)
    }

    /// Lowers all counts, for departures that should not count as a loss.
    pub(super) fn lower(&mut self, by: usize) {
        self.0.iter_mut().for_each(|level| level.count = level.count.saturating_sub(by));
        self.0.retain(|level| level.count > 0);
    }

    /// Lowers the counts until that moment by one, for a departure that should not count as a loss.
    pub(super) fn lower_until(&mut self, went: Moment) {
        self.0
            .iter_mut()
            .filter(|level| level.first <= went)
            .for_each(|level| level.count = level.count.saturating_sub(1));
        self.0.retain(|level| level.count > 0);
    }

    pub(super) fn forget(&mut self, now: Moment, window: Duration) {
        self.0.retain(|level| now.since(level.ended) < window);
    }

    /// Whether some counts are outside the window.
    pub(super) fn is_older(&self, now: Moment, window: Duration) -> bool {
        self.0.first().is_some_and(|level| now.since(level.ended) >= window)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const WINDOW: Duration = Duration::from_secs(60);

    #[test]
    fn the_greatest_within_the_window_counts() {
        let (mut levels, start) = (Levels::default(), Moment::now());
        for (at, count) in [(0, 10), (10, 9), (20, 12), (30, 11)] {
            levels.fell(count, start + SECOND * at, WINDOW);
        }
        assert_eq!(levels.peak(), 12);
        levels.forget(start + SECOND * 80, WINDOW);
        assert_eq!(levels.peak(), 11, "twelve were there until a minute ago");
        levels.lower(4);
        assert_eq!(levels.peak(), 7);
        levels.forget(start + SECOND * 90, WINDOW);
        assert_eq!((levels.peak(), levels.is_empty()), (0, true));
    }

    #[test]
    fn however_often_it_falls_little_is_remembered_and_not_for_longer() {
        let (mut levels, start) = (Levels::default(), Moment::now());
        for step in 0..100_000 {
            levels.fell(100_000 - step, start + Duration::from_millis(step as u64), WINDOW);
        }
        assert!(levels.0.len() <= PARTS as usize + 2, "{}", levels.0.len());
        let there_a_minute_ago = 60_000;
        assert!((there_a_minute_ago..63_000).contains(&levels.peak()), "{}", levels.peak());
    }
}
