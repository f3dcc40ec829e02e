//! Failures: attempts after which a job is tried again, for the log and for who looks at its queue. They are counted in
//! memory alone.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::book::Recent;
use super::change::millis;
use super::job::JobId;
use crate::clock::Moment;
use crate::model::shortened;

/// How often a queue has a line in the log, at most; and how many lines all queues have in that time.
const INTERVAL: Duration = Duration::from_secs(60);
const MAX_LINES: usize = 16;

/// How many characters of the error.
const MAX_LOGGED_ERROR: usize = 200;

/// Of so many queues failures are counted. In Redis there may be others than it is asked for.
const MAX_QUEUES: usize = 1_024;

/// How many minutes failures are counted for.
const MINUTES: u64 = 10;

/// Those of all queues.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<Counted>);

/// What one of them was.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) id: JobId,
    pub(super) name: String,
    pub(super) error: String,
}

#[derive(Debug, Default)]
struct Counted {
    queues: HashMap<String, Failing>,
    /// How many lines have been written since then, in ms.
    lines: usize,
    lines_since: u64,
}

#[derive(Debug, Default)]
struct Failing {
    /// By a clock that is so much slower that its minute has `MINUTES`.
    recent: Recent,
    /// How many since the last line,
    unlogged: u64,
    /// and when that was, in ms.
    logged_at: Option<u64>,
}

/// What is to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    None,
    /// So many have failed since the line before.
    Queue(u64),
    /// Too many queues have had one.
    More,
}

impl Failures {
    /// So many attempts of jobs of a queue have failed by now, one of which is known.
    pub(super) fn note(&self, queue: &str, attempts: u32, last: impl FnOnce() -> Failure) {
        let now = now();
        let line = self.counted().note(queue, attempts, now);
        match line {
            Line::None => {}
            Line::Queue(failures) => {
                let Failure { id, name, error } = last();
                let why = shortened(error.lines().next().unwrap_or_default(), MAX_LOGGED_ERROR);
                tracing::warn!(queue, failures, id, job = %name, %why, "jobs fail, and are tried again");
            }
            Line::More => tracing::warn!("jobs of more queues fail, and are tried again: `roster queue list` has them"),
        }
    }

    /// How many attempts have failed lately of jobs of a queue.
    pub(super) fn of(&self, queue: &str) -> u64 {
        self.counted().queues.get(queue).map_or(0, |failing| failing.count(now()))
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    fn note(&mut self, queue: &str, attempts: u32, now: u64) -> Line {
        if !self.queues.contains_key(queue) {
            if self.queues.len() >= MAX_QUEUES {
                self.queues.retain(|_, failing| failing.count(now) > 0);
            }
            if self.queues.len() >= MAX_QUEUES {
                return self.line(now, None);
            }
            self.queues.insert(queue.to_owned(), Failing::default());
        }
        let Some(failing) = self.queues.get_mut(queue) else { return Line::None };
        failing.recent.add_many(attempts, now / MINUTES);
        failing.unlogged += u64::from(attempts);
        if failing.logged_at.is_some_and(|at| now.saturating_sub(at) < millis(INTERVAL)) {
            return Line::None;
        }
        let unlogged = failing.unlogged;
        let line = self.line(now, Some(unlogged));
        if let (Line::Queue(_), Some(failing)) = (line, self.queues.get_mut(queue)) {
            (failing.unlogged, failing.logged_at) = (0, Some(now));
        }
        line
    }

    /// The line of a queue, where there may be one more; none: of one that is not counted.
    fn line(&mut self, now: u64, failures: Option<u64>) -> Line {
        if now.saturating_sub(self.lines_since) >= millis(INTERVAL) {
            (self.lines, self.lines_since) = (0, now);
        }
        if self.lines > MAX_LINES {
            return Line::None;
        }
        match failures {
            Some(failures) if self.lines < MAX_LINES => {
                self.lines += 1;
                Line::Queue(failures)
            }
            _ => {
                self.lines = MAX_LINES + 1;
                Line::More
            }
        }
    }
}

impl Failing {
    fn count(&self, now: u64) -> u64 {
        self.recent.count(now / MINUTES)
    }
}

fn now() -> u64 {
    millis(Moment::now().since_boot())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    /// The machine was started a while ago.
    const START: u64 = 1_000 * MINUTE;

    #[test]
    fn a_queue_has_a_line_when_its_jobs_begin_to_fail_and_then_one_a_minute_that_counts_those_since() {
        let mut counted = Counted::default();
        assert_eq!(counted.note("mail", 1, START), Line::Queue(1));
        for second in 1..60 {
            assert_eq!(counted.note("mail", 2, START + second * 1_000), Line::None);
        }
        assert_eq!(counted.note("img", 3, START + 59_000), Line::Queue(3), "each has its own");
        assert_eq!(counted.note("mail", 1, START + MINUTE), Line::Queue(119));
        assert_eq!(counted.note("mail", 1, START + MINUTE + 1), Line::None);
        assert_eq!(counted.queues["mail"].count(START + MINUTE + 1), 121);
    }

    #[test]
    fn failures_are_counted_for_ten_minutes() {
        let mut counted = Counted::default();
        counted.note("mail", 5, START);
        counted.note("mail", 1, START + 5 * MINUTE);
        let count = |minutes: u64| counted.queues["mail"].count(START + minutes * MINUTE);
        assert_eq!([0, 9, 11, 14, 16, 1_000].map(count), [6, 6, 1, 1, 0, 0]);
    }

    #[test]
    fn however_many_queues_fail_a_minute_has_a_few_lines_and_memory_is_bounded() {
        let mut counted = Counted::default();
        for minute in 0..3 {
            let now = START + minute * MINUTE;
            let lines: Vec<_> = (0..1_100).map(|nth| counted.note(&format!("q{nth}"), 1, now)).collect();
            assert_eq!(lines.iter().filter(|line| matches!(line, Line::Queue(_))).count(), MAX_LINES);
            assert_eq!(lines.iter().filter(|line| **line == Line::More).count(), 1, "the rest is told once");
            assert_eq!(counted.queues.len(), MAX_QUEUES);
        }
        assert_eq!(counted.note("late", 1, START + 30 * MINUTE), Line::Queue(1));
        assert_eq!(counted.queues.len(), 1, "what has not failed for long makes room");
    }
}
