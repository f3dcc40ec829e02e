//! Refusals: what Redis does not let be written, though it can be asked; for the log, and for whoever asks what is wrong.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::link::{Failed, Lack};
use crate::clock::Moment;

/// How often the log has a line of what stays as it is, and of how many keys in that time.
const NOTICE_INTERVAL: Duration = Duration::from_secs(60);
const MAX_NOTICES: usize = 256;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Write {
    /// Whatever makes Redis grow, which is tried each second.
    Growth,
    /// What needs rights that are known once somebody has tried.
    Enqueue,
    Take,
}

impl Write {
    fn name(self) -> &'static str {
        match self {
            Self::Growth => "what takes memory",
            Self::Enqueue => "enqueues",
            Self::Take => "what hands out jobs",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Refusals {
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    /// What was refused when it was last tried, and why.
    refused: BTreeMap<Write, Arc<String>>,
    /// Of which the log has a line.
    logged: BTreeSet<Write>,
}

impl Refusals {
    pub(super) fn note(&self, what: Write, failed: &Failed) {
        let since = match what {
            Write::Growth => "",
            Write::Enqueue => "the last jobs were not enqueued, which is told until some are: ",
            Write::Take => "no jobs were handed out at the last try, which is told until some are: ",
        };
        self.noted().refused.insert(what, Arc::new(format!("{since}{failed}")));
    }

    /// The same of one that lacks rights: what else may be wrong is known by other means.
    pub(super) fn note_rights(&self, what: Write, failed: &Failed) {
        if failed.lacks == Some(Lack::Rights) {
            self.note(what, failed);
        }
    }

    /// It was done.
    pub(super) fn end(&self, what: Write) {
        self.noted().refused.remove(&what);
    }

    pub(super) fn trouble(&self) -> Option<Arc<String>> {
        self.noted().refused.values().next().cloned()
    }

    /// Whether something is refused for every queue. Rights may be of some queues alone, and anybody may use one of those that the
    /// rules of Redis leave out.
    pub(super) fn are_of_all_queues(&self) -> bool {
        self.noted().refused.contains_key(&Write::Growth)
    }

    /// Logs what is refused since the last time, or is no more. What comes and goes with each request has no line for each.
    pub(super) fn log(&self) {
        let Noted { refused, logged } = &mut *self.noted();
        for (what, why) in &*refused {
            if logged.insert(*what) {
                tracing::error!(writes = what.name(), error = why.as_str(), "Redis refuses writes of the queues");
            }
        }
        logged.retain(|what| {
            let is_refused = refused.contains_key(what);
            if !is_refused {
                tracing::info!(writes = what.name(), "Redis takes these writes of the queues again");
            }
            is_refused
        });
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which keys are not as they should be: of each the log has a line when that is new, and then once a minute.
#[derive(Debug, Default)]
pub(super) struct Notices(Mutex<HashMap<String, Moment>>);

impl Notices {
    /// Whether the log is to have a line of these keys now.
    pub(super) fn are_due(&self, keys: &str, now: Moment) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logged.retain(|_, at| now.since(*at) < NOTICE_INTERVAL);
        let is_due = logged.len() < MAX_NOTICES && !logged.contains_key(keys);
        if is_due {
            logged.insert(keys.to_owned(), now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_has_a_line_of_each_key_once_a_minute_and_of_so_many() {
        let (notices, now) = (Notices::default(), Moment::now());
        assert!(notices.are_due("a", now) && notices.are_due("b", now));
        let (soon, later) = (now + NOTICE_INTERVAL / 2, now + NOTICE_INTERVAL);
        assert!(!notices.are_due("a", soon) && notices.are_due("c", soon));
        assert!(notices.are_due("a", later) && !notices.are_due("c", later));
        let due = (0..1_000).filter(|key| notices.are_due(&key.to_string(), later)).count();
        assert_eq!(due, MAX_NOTICES - 2);
    }
}
