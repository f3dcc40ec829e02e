//! The checker: holds every answer against the model, and remembers what must never be.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::{Claim, Model, State, Value, Wrong};

/// An age of 0 says that the last proof is at most 4.5 s old.
const PROOF_HOLDS: Duration = Duration::from_millis(4_500);

/// So far a server that proves something may be behind its leader: it is dropped when it is six ticks behind.
const SERVER_LAGS: Duration = Duration::from_millis(3_500);

/// The writer of the shared file counts as present for so long.
const FILE_RESTS: Duration = Duration::from_millis(3_000);

/// After a disturbance so long until each answer must come again.
const RECOVERY: Duration = Duration::from_secs(3);

/// More violations than this say nothing new.
const MOST: usize = 20;

/// Where answers come from. The first two share the sidecar's revisions, but a reader of the file that still has one
/// open which was taken away may for a moment be behind another. A watcher is told of a node as it is now, also with an
/// earlier revision; what it is told has an order of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    Endpoint,
    File(usize),
    Watcher(usize),
}

/// An answer about one key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) key: &'a str,
    pub(crate) value: Value,
}

/// What answers of one moment have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub(crate) sidecar: usize,
    pub(crate) way: Way,
    pub(crate) who: &'static str,
    pub(crate) asked: Asked,
    pub(crate) revision: i64,
    pub(crate) age_ms: i64,
}

/// When somebody asked, and the highest revision that had been answered by then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    way: Way,
    at: Instant,
    floor: i64,
}

/// Where all answers are brought.
#[derive(Debug)]
pub(crate) struct Checker {
    began: Instant,
    violations: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    model: Model,
    /// What was seen of a key in one life of a sidecar, by the first revision at which it was.
    seen: HashMap<Track, BTreeMap<i64, Seen>>,
    /// The lives of each sidecar: none of its revisions is lower.
    lives: HashMap<usize, Vec<i64>>,
    highest: HashMap<(usize, Way), i64>,
    disturbances: HashMap<usize, Vec<Disturbance>>,
    /// Sidecars whose shared file somebody has damaged, and since when it is sound again. Who reads it before reads
    /// anything.
    distrusted: HashMap<usize, Option<Instant>>,
    events: Vec<(Instant, String)>,
    answers: u64,
    failures: u64,
}

/// A time at which a sidecar need not answer.
#[derive(Clone, Copy, Debug)]
struct Disturbance {
    /// Until when; None: it lasts.
    to: Option<Instant>,
    /// Whether its file is disturbed, too.
    file: bool,
}

/// What has one order: a key, in one life of a sidecar; and a watcher's own view of that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Track {
    sidecar: usize,
    life: usize,
    watcher: Option<usize>,
    key: String,
}

/// A run of revisions at which a key had one value, as which state of the model that may have been at the earliest.
#[derive(Clone, Copy, Debug)]
struct Seen {
    last: i64,
    value: Value,
    state: usize,
}

impl Checker {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), violations: AtomicUsize::new(0), inner: Mutex::default() }
    }

    /// The model, to read from it or to write down what is.
    pub(crate) fn model<T>(&self, with: impl FnOnce(&mut Model) -> T) -> T {
        with(&mut self.lock().model)
    }

    /// Notes something that explains what comes after.
    pub(crate) fn note(&self, what: impl Into<String>) {
        let (now, what) = (Instant::now(), what.into());
        if std::env::var_os("VERBOSE").is_some() {
            eprintln!("{:8.3}  {what}", self.seconds(now));
        }
        self.lock().events.push((now, what));
    }

    /// A sidecar is about to start: its revisions begin at the wall clock.
    pub(crate) fn starts(&self, sidecar: usize) {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.lock().lives.entry(sidecar).or_default().push(since_1970.as_millis() as i64);
    }

    /// From now on a sidecar need not answer; its file may be read nevertheless, unless that is disturbed, too.
    pub(crate) fn disturb(&self, sidecar: usize, file: bool) {
        self.lock().disturbances.entry(sidecar).or_default().push(Disturbance { to: None, file });
    }

    /// From now on it must again, soon.
    pub(crate) fn calm(&self, sidecar: usize) {
        let mut inner = self.lock();
        if let Some(last) = inner.disturbances.entry(sidecar).or_default().iter_mut().rfind(|it| it.to.is_none()) {
            last.to = Some(Instant::now());
        }
    }

    /// From now on the shared file of a sidecar may hold anything.
    pub(crate) fn distrust_file(&self, sidecar: usize) {
        self.lock().distrusted.insert(sidecar, None);
    }

    /// From now on it is sound again, and at first an older copy.
    pub(crate) fn trust_file(&self, sidecar: usize) {
        let mut inner = self.lock();
        inner.distrusted.insert(sidecar, Some(Instant::now()));
        inner.highest.retain(|(of, way), _| *of != sidecar || !way.is_file());
    }

    pub(crate) fn asks(&self, sidecar: usize, way: Way) -> Asked {
        let floor = self.lock().highest.get(&(sidecar, way)).copied().unwrap_or(0);
        Asked { way, at: Instant::now(), floor }
    }

    /// Somebody was not answered.
    pub(crate) fn fails(&self, sidecar: usize, who: &str, asked: Asked, why: &str) {
        let mut inner = self.lock();
        inner.failures += 1;
        let explains =
            |it: &Disturbance| (it.file || !asked.way.is_file()) && it.to.is_none_or(|to| to + RECOVERY >= asked.at);
        if !inner.disturbances.get(&sidecar).is_some_and(|all| all.iter().any(explains)) {
            self.violated(&inner, &format!("answers go on: {who} was not answered by sidecar {sidecar}: {why}"), None);
        }
    }

    /// Checks answers of one moment and one revision.
    pub(crate) fn take<'a>(&self, told: Told, answers: impl IntoIterator<Item = Answer<'a>>) {
        let mut inner = self.lock();
        let now = Instant::now();
        let sound = inner.distrusted.get(&told.sidecar).copied();
        if told.way.is_file() && sound.is_some_and(|since| since.is_none_or(|since| told.asked.at < since)) {
            return;
        }
        let highest = inner.highest.entry((told.sidecar, told.way)).or_default();
        *highest = told.revision.max(*highest);
        if told.revision < told.asked.floor {
            let what = format!("revisions never go back: {} after {}", told.revision, told.asked.floor);
            self.violated(&inner, &format!("{what}; {told:?}"), None);
        }
        let allowance = if told.age_ms == 0 { PROOF_HOLDS } else { Duration::ZERO } + SERVER_LAGS;
        let allowance = if told.way.is_file() { allowance + FILE_RESTS } else { allowance };
        let from = told.asked.at.checked_sub(allowance + Duration::from_millis(told.age_ms.max(0) as u64));
        let claim = Claim { from, until: now };
        let life = inner.lives.get(&told.sidecar).map_or(0, |lives| lives.partition_point(|it| *it <= told.revision));
        for answer in answers {
            inner.answers += 1;
            if let Err(wrong) = inner.place(told, life, answer, claim) {
                let what = format!("{}: {} answered {:?} for {}", name(wrong), told.who, answer.value, answer.key);
                self.violated(&inner, &format!("{what}\n  {told:?}\n  {wrong:?}"), Some(answer.key));
            }
        }
    }

    /// Something that must never be.
    pub(crate) fn violation(&self, what: &str) {
        self.violated(&self.lock(), what, None);
    }

    pub(crate) fn violations(&self) -> usize {
        self.violations.load(Ordering::Relaxed)
    }

    /// How many answers were checked, and how many questions went unanswered.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.answers, inner.failures)
    }

    fn violated(&self, inner: &Inner, what: &str, key: Option<&str>) {
        if self.violations.fetch_add(1, Ordering::Relaxed) >= MOST {
            return;
        }
        eprintln!("\nVIOLATION at {:.3} s: {what}", self.seconds(Instant::now()));
        for (number, state) in
            key.map(|key| inner.model.history(key)).unwrap_or_default().iter().enumerate().rev().take(8)
        {
            eprintln!("  {number:5} {}", self.line(state));
        }
        let recent = |at: &Instant| at.elapsed() < Duration::from_secs(40);
        for (at, event) in inner.events.iter().filter(|(at, _)| recent(at)) {
            eprintln!("  {:8.3} s  {event}", self.seconds(*at));
        }
    }

    fn line(&self, state: &State) -> String {
        let certain = state.certain.map_or("never known".into(), |at| format!("certain at {:.3} s", self.seconds(at)));
        format!("{:?}: possible since {:.3} s, {certain}", state.value, self.seconds(state.since))
    }

    fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.began).as_secs_f64()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Finds a place for what was seen between what was seen at lower and at higher revisions.
    fn place(&mut self, told: Told, life: usize, answer: Answer<'_>, claim: Claim) -> Result<(), Wrong> {
        let (watcher, order) = match told.way {
            Way::Watcher(number) => (Some(number), self.answers as i64),
            _ => (None, told.revision),
        };
        let track = Track { sidecar: told.sidecar, life, watcher, key: answer.key.to_owned() };
        let seen = self.seen.entry(track).or_default();
        let before = seen.range_mut(..=order).next_back();
        let mut first = 0;
        if let Some((since, before)) = before {
            if before.value == answer.value {
                before.last = before.last.max(order);
                return self.model.find(answer.key, answer.value, claim, before.state).map(drop);
            }
            if order == before.last || order == *since {
                return Err(Wrong::WentBack);
            }
            first = before.state;
            if order < before.last {
                // Both ends were seen, and what lies between was taken for the same. It may have gone and come again.
                let again = Seen { last: before.last, ..*before };
                before.last = order - 1;
                seen.insert(again.last, again);
            }
        }
        let mut state = self.model.find(answer.key, answer.value, claim, first)?;
        seen.insert(order, Seen { last: order, value: answer.value, state });
        for (_, later) in seen.range_mut(order + 1..) {
            if later.state >= state {
                break;
            }
            let claim = Claim { from: None, ..claim };
            state = self.model.find(answer.key, later.value, claim, state).map_err(|_| Wrong::WentBack)?;
            later.state = state;
        }
        Ok(())
    }
}

impl Way {
    fn is_file(self) -> bool {
        matches!(self, Way::File(_))
    }
}

fn name(wrong: Wrong) -> &'static str {
    match wrong {
        Wrong::NeverWas => "no answer that never was true",
        Wrong::NotYet => "no answer before it was true",
        Wrong::TooOld(_) => "no answer claims to be fresher than it is",
        Wrong::WentBack => "no path goes back in time",
    }
}
