//! What is full, and refuses jobs: for the log, and for whoever asks what is wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::mem::discriminant;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is at its bound takes a job for each that is done, and refuses those between: it is full until it has refused none for
/// so long.
const CALM: Duration = Duration::from_secs(60);

/// Of how many users, and of how many queues at least, at once it is known that they have all they may.
const MAX_OF_A_KIND: usize = 256;

/// What may be full.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// All queues, by this setting.
    All(&'static str),
    Queue(String),
    /// What one user may have by this setting.
    OfUser(&'static str, Option<u32>),
}

/// What has refused jobs lately, and when it did last.
#[derive(Debug, Default)]
pub(super) struct FullBounds {
    known: Mutex<BTreeMap<Bound, Instant>>,
    /// How many queues there may be: none of them hides another.
    max_queues: usize,
    /// Whether there are some: so whoever enqueues need not look.
    has_any: AtomicBool,
}

impl FullBounds {
    pub(super) fn new(max_queues: usize) -> Self {
        Self { max_queues, ..Self::default() }
    }

    pub(super) fn refuse(&self, bound: &Bound, why: &str, now: Instant) {
        let mut known = self.known();
        self.forget_calm(&mut known, now);
        if let Some(refused) = known.get_mut(bound) {
            *refused = now;
            return;
        }
        let most = if let Bound::Queue(_) = bound { MAX_OF_A_KIND.max(self.max_queues) } else { MAX_OF_A_KIND };
        if known.keys().filter(|it| discriminant(*it) == discriminant(bound)).count() >= most {
            return;
        }
        tracing::warn!(full = %bound, why, "jobs are refused");
        known.insert(bound.clone(), now);
        self.has_any.store(true, Ordering::Relaxed);
    }

    /// Jobs were enqueued.
    pub(super) fn take(&self, now: impl FnOnce() -> Instant) {
        if self.has_any.load(Ordering::Relaxed) {
            self.forget_calm(&mut self.known(), now());
        }
    }

    /// What refuses jobs, or did a moment ago, for one who sees these queues: first what concerns the most users.
    pub(super) fn trouble(&self, sees: impl Fn(&str) -> bool, now: Instant) -> Option<String> {
        let known = self.known();
        let is_told = |bound: &Bound| !matches!(bound, Bound::Queue(queue) if !sees(queue));
        let (bound, _) = known.iter().find(|(bound, refused)| is_told(bound) && !is_calm(**refused, now))?;
        Some(match bound {
            Bound::All(setting) => format!("jobs are refused, as the queues are full by `queue.{setting}`"),
            Bound::Queue(queue) => format!("the queue {queue:?} refuses jobs, as it is full"),
            // Whose it is, is for who reads the log.
            Bound::OfUser(setting, _) => format!(
                "jobs of a user are refused that has all it may of `queue.{setting}`: the sidecar's log says which"
            ),
        })
    }

    fn forget_calm(&self, known: &mut BTreeMap<Bound, Instant>, now: Instant) {
        known.retain(|bound, refused| {
            let is_over = is_calm(*refused, now);
            if is_over {
                tracing::info!(full = %bound, "no jobs have been refused for a minute");
            }
            !is_over
        });
        self.has_any.store(!known.is_empty(), Ordering::Relaxed);
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Bound, Instant>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(setting) => write!(f, "queue.{setting}"),
            Self::Queue(queue) => write!(f, "the queue {queue:?}"),
            Self::OfUser(setting, Some(uid)) => write!(f, "queue.{setting} for the user {uid}"),
            Self::OfUser(setting, None) => write!(f, "queue.{setting} for all over TCP"),
        }
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
        let (full, start) = (FullBounds::default(), Instant::now());
        let mail = Bound::Queue("mail".to_owned());
        let is_told = |queue: &str, now| full.trouble(|seen| seen == queue, now).is_some();
        full.take(|| panic!("nothing is full"));
        full.refuse(&mail, "it is full", start);
        full.take(|| start + CALM / 2);
        assert!(is_told("mail", start + CALM / 2) && !is_told("img", start + CALM / 2));
        full.refuse(&mail, "it is full", start + CALM / 2);
        full.take(|| start + CALM);
        assert!(is_told("mail", start + CALM), "it is at its bound");
        assert!(!is_told("mail", start + 2 * CALM), "nobody has enqueued any since");
        assert_eq!(full.known().len(), 1);
        full.take(|| start + 2 * CALM);
        full.take(|| panic!("nothing is full"));
    }

    #[test]
    fn no_user_and_no_number_of_them_hides_what_is_full_for_all() {
        let (full, start) = (FullBounds::default(), Instant::now());
        let told = |sees: bool| full.trouble(|_| sees, start).expect("something is full");
        for uid in 0..2 * MAX_OF_A_KIND as u32 {
            full.refuse(&Bound::OfUser("max_queues", Some(uid)), "it has all it may", start);
        }
        assert_eq!(full.known().len(), MAX_OF_A_KIND);
        assert!(told(false).contains("of a user"));
        full.refuse(&Bound::Queue("mail".to_owned()), "it is full", start);
        assert!(told(false).contains("of a user") && told(true).contains("\"mail\""));
        full.refuse(&Bound::All("max_jobs"), "they are full", start);
        assert!(told(false).contains("`queue.max_jobs`") && told(true).contains("`queue.max_jobs`"));
    }

    #[test]
    fn however_many_queues_are_full_some_are_known_and_what_is_full_for_all_or_for_a_user() {
        let (full, start) = (FullBounds::default(), Instant::now());
        for number in 0..2 * MAX_OF_A_KIND {
            full.refuse(&Bound::Queue(format!("!{number}")), "it is full", start);
        }
        assert_eq!(full.known().len(), MAX_OF_A_KIND);
        full.refuse(&Bound::OfUser("max_queues", None), "it has all it may", start);
        assert!(full.trouble(|_| false, start).expect("a user has all it may").contains("of a user"));
        full.refuse(&Bound::All("max_queues"), "there are too many", start);
        assert!(full.trouble(|_| true, start).expect("there are too many").contains("`queue.max_queues`"));
        full.refuse(&Bound::Queue("mail".to_owned()), "it is full", start + CALM);
        assert_eq!(full.known().len(), 1, "those that are calm make room");
    }

    #[test]
    fn as_many_full_queues_are_known_as_there_may_be() {
        let (full, start) = (FullBounds::new(2 * MAX_OF_A_KIND), Instant::now());
        for number in 1..2 * MAX_OF_A_KIND {
            full.refuse(&Bound::Queue(format!("!{number}")), "it is full", start);
        }
        full.refuse(&Bound::Queue("mail".to_owned()), "it is full", start);
        assert!(full.trouble(|seen| seen == "mail", start).is_some());
    }
}
