//! Full queues, which refuse jobs: for the log, and for whoever asks what is wrong.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A queue at its bound takes a job for each that is done, and refuses those between: it takes jobs again once it has refused
/// none for so long.
const CALM: Duration = Duration::from_secs(60);

/// How many are known at once: names may be made up.
const MAX_KNOWN: usize = 64;

/// The queues that have refused jobs lately, and when they did last: of all users, or of one that has all it may.
#[derive(Debug, Default)]
pub(super) struct FullQueues(Mutex<BTreeMap<String, Instant>>);

impl FullQueues {
    /// These queues have refused jobs of a user.
    pub(super) fn refuse(&self, queues: impl IntoIterator<Item = String>, user: Option<u32>, why: &str, now: Instant) {
        let mut known = self.known();
        for queue in queues {
            if known.len() >= MAX_KNOWN {
                known.retain(|_, refused| !is_calm(*refused, now));
            }
            if let Some(refused) = known.get_mut(&queue) {
                *refused = now;
            } else if known.len() < MAX_KNOWN {
                tracing::warn!(queue, user, why, "a queue refuses jobs");
                known.insert(queue, now);
            }
        }
    }

    /// These queues have taken jobs.
    pub(super) fn take<'q>(&self, queues: impl IntoIterator<Item = &'q String>, now: Instant) {
        let mut known = self.known();
        for queue in queues {
            if known.get(queue).is_some_and(|refused| is_calm(*refused, now)) {
                known.remove(queue);
                tracing::info!(queue, "a queue takes jobs again");
            }
        }
    }

    /// Which of these queues refuses jobs, or did a moment ago. Of whom, and why, is for who reads the log.
    pub(super) fn trouble(&self, sees: impl Fn(&str) -> bool, now: Instant) -> Option<String> {
        let known = self.known();
        let (queue, _) = known.iter().find(|(queue, refused)| sees(queue) && !is_calm(**refused, now))?;
        Some(format!(
            "the queue {queue:?} refuses jobs, as it is full for all or for one user: the sidecar's log says why"
        ))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_calm(refused: Instant, now: Instant) -> bool {
    now.saturating_duration_since(refused) >= CALM
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_is_full_is_told_to_who_sees_it_until_it_has_refused_nothing_for_a_while() {
        let (full, start) = (FullQueues::default(), Instant::now());
        let [mail, img] = ["mail", "img"].map(str::to_owned);
        let is_told = |queue: &str, now| full.trouble(|seen| seen == queue, now).is_some();
        full.refuse([mail.clone()], None, "it is full", start);
        full.take([&mail, &img], start + CALM / 2);
        assert!(is_told("mail", start + CALM / 2) && !is_told("img", start + CALM / 2));
        full.refuse([mail.clone()], None, "it is full", start + CALM / 2);
        full.take([&mail], start + CALM);
        assert!(is_told("mail", start + CALM), "it is at its bound");
        assert!(!is_told("mail", start + 2 * CALM), "nobody has enqueued any since");
        assert_eq!(full.known().len(), 1);
        full.take([&mail], start + 2 * CALM);
        assert!(full.known().is_empty());
    }

    #[test]
    fn no_more_are_known_than_there_may_be_and_those_of_the_past_make_room() {
        let (full, start) = (FullQueues::default(), Instant::now());
        let some = |first: usize| (first..first + 2 * MAX_KNOWN).map(|number| format!("{number:04}"));
        full.refuse(some(0), None, "too many queues", start);
        assert_eq!(full.known().len(), MAX_KNOWN);
        full.refuse(some(1_000), None, "too many queues", start + CALM);
        assert_eq!(full.known().len(), MAX_KNOWN);
        assert!(full.known().keys().all(|queue| queue.as_str() >= "1000"));
    }
}
