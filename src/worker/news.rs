//! News: changes of workers since a client last looked.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::slot::Report;

/// For how many removed workers the time of removal is known.
const MAX_REMOVED: usize = 1_000;

/// Changes of workers, numbered as they are found.
#[derive(Debug)]
pub(super) struct News {
    /// Signalled whenever something may have changed.
    changed: watch::Sender<()>,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    newest: u64,
    /// By group and number, the number of the last change.
    workers: HashMap<(String, u32), (u64, Report)>,
    removed: VecDeque<(u64, String)>,
    /// Up to which number removals are forgotten.
    forgotten: u64,
}

/// The changes of workers after a cursor.
#[derive(Debug, PartialEq, Eq)]
pub struct WorkerNews {
    /// Their current states, each with its group; in order of change.
    pub changes: Vec<(String, Report)>,
    /// The names of removed ones.
    pub removed: Vec<String>,
    pub cursor: u64,
    /// Whether the cursor is from another process, or too old: then all workers are reported.
    pub is_reset: bool,
}

impl Default for News {
    fn default() -> Self {
        // Greater than those of a previous process.
        let origin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        Self::new(origin)
    }
}

impl News {
    fn new(origin: u64) -> Self {
        let known = Known { newest: origin, workers: HashMap::new(), removed: VecDeque::new(), forgotten: origin };
        Self { changed: watch::Sender::default(), known: Mutex::new(known) }
    }

    /// Something may have changed. Costs nothing if nobody is waiting.
    pub(super) fn tell(&self) {
        self.changed.send_replace(());
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What has changed since a cursor, up to a limit. The cursor 0 means that nothing is known.
    pub(super) fn since(&self, since: u64, most: usize, now: impl Iterator<Item = (String, Report)>) -> WorkerNews {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.compare(now);
        let is_reset = since != 0 && !(known.forgotten..=known.newest).contains(&since);
        let from = if is_reset { 0 } else { since };
        let mut found: BTreeMap<u64, Found<'_>> = BTreeMap::new();
        let changed = known.workers.iter().filter(|(_, (number, _))| *number > from);
        found.extend(changed.map(|((group, _), (number, report))| (*number, Found::Changed(group, report))));
        if from != 0 {
            let removed = known.removed.iter().filter(|(number, _)| *number > from);
            found.extend(removed.map(|(number, name)| (*number, Found::Removed(name))));
        }
        let is_all = found.len() <= most;
        let mut news = WorkerNews { changes: Vec::new(), removed: Vec::new(), cursor: known.newest, is_reset };
        for (number, found) in found.into_iter().take(most) {
            match found {
                Found::Changed(group, report) => news.changes.push((group.clone(), report.clone())),
                Found::Removed(name) => news.removed.push(name.clone()),
            }
            if !is_all {
                news.cursor = number;
            }
        }
        news
    }
}

enum Found<'a> {
    Changed(&'a String, &'a Report),
    Removed(&'a String),
}

impl Known {
    fn compare(&mut self, now: impl Iterator<Item = (String, Report)>) {
        let mut before = std::mem::take(&mut self.workers);
        for (group, report) in now {
            let place = (group, report.number);
            let number = match before.remove(&place) {
                Some((number, known)) if known == report => number,
                _ => {
                    self.newest += 1;
                    self.newest
                }
            };
            self.workers.insert(place, (number, report));
        }
        for ((group, number), _) in before {
            self.newest += 1;
            self.removed.push_back((self.newest, format!("{group}/{number}")));
            if self.removed.len() > MAX_REMOVED
                && let Some((forgotten, _)) = self.removed.pop_front()
            {
                self.forgotten = forgotten;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::super::State;
    use super::*;

    fn report(number: u32, state: State) -> (String, Report) {
        ("web".to_owned(), Report { number, state, ..Report::of_tests() })
    }

    fn states(news: &WorkerNews) -> Vec<(u32, State)> {
        news.changes.iter().map(|(_, report)| (report.number, report.state)).collect()
    }

    #[test]
    fn who_knows_a_cursor_hears_what_is_other_since_and_nothing_twice() {
        let news = News::new(100);
        let since = |cursor, most, now: &[(String, Report)]| news.since(cursor, most, now.iter().cloned());
        let (starting, running) = (State::Starting, State::Running);
        let first = since(0, 9, &[report(1, starting), report(2, starting)]);
        assert_eq!((states(&first), first.cursor, first.is_reset), (vec![(1, starting), (2, starting)], 102, false));
        let second = since(102, 9, &[report(1, running), report(2, starting)]);
        assert_eq!((states(&second), second.cursor), (vec![(1, running)], 103));
        assert_eq!(states(&since(103, 9, &[report(1, running), report(2, starting)])), []);
        let third = since(103, 9, &[report(1, running)]);
        assert_eq!((&third.removed, third.cursor), (&vec!["web/2".to_owned()], 104));
        assert_eq!(since(0, 9, &[report(1, running)]).removed, Vec::<String>::new());
        let part = since(101, 1, &[report(1, running)]);
        assert_eq!((states(&part), part.cursor), (vec![(1, running)], 103));
        let rest = since(part.cursor, 1, &[report(1, running)]);
        assert_eq!((rest.removed.len(), rest.cursor), (1, 104));
    }

    #[test]
    fn a_cursor_of_another_process_or_of_long_ago_is_told_to_start_over() {
        let news = News::new(100);
        let running = report(1, State::Running);
        let since = |cursor, now: &[(String, Report)]| news.since(cursor, 9, now.iter().cloned());
        assert_eq!(since(0, from_ref(&running)).cursor, 101);
        for cursor in [7, 102] {
            let told = since(cursor, from_ref(&running));
            assert!(told.is_reset && told.changes.len() == 1 && told.cursor == 101, "{told:?}");
        }
        for _ in 0..=MAX_REMOVED {
            since(0, &[running.clone(), report(2, State::Running)]);
            since(0, from_ref(&running));
        }
        assert!(since(102, from_ref(&running)).is_reset, "who is no more is forgotten");
    }
}
