//! Recurring jobs, which are enqueued by the clock on the wall.
//!
//! When a job was due is written in the transaction that enqueues it, or in the step of Redis, so that it is enqueued once for
//! each time, whatever ends between. Where the clock is set back by up to a day, the times that come again are over. One that
//! jumps further begins another *run*, and those that were before are remembered: what was enqueued in them is not enqueued
//! again, and where the clock comes back to the end of one, that one goes on.
//!
//! What is to be done is decided here, by what is written and the time alone; `disk` does it, and so does Redis.

mod disk;
mod schedule;

use serde::{Deserialize, Serialize};

pub(super) use self::disk::{forget_settled, settled_on_disk};
pub use self::schedule::{Expression, Zone};
use super::config::{Missed, Recurring};
use super::job::{JobId, NewJob};

/// So many are made up for at most that were missed.
const MAX_MISSED: usize = 100;

/// What is seen later was missed, in ms.
const ON_TIME: u64 = 60_000;

/// How soon it is tried again to enqueue one that was refused, in ms.
const RETRY: u64 = 5_000;

/// Why one that recurs is not enqueued for a while, or ever.
const SETTLED_AHEAD: &str = "its next times are passed over, as they were settled before, by a clock that was ahead or by a \
                             mistake: where no jobs were enqueued for them, give it another name, under which it begins anew";

/// A clock that goes back further was wrong before, in ms.
const SET_BACK: u64 = 86_400_000;

/// So many runs are remembered beside that which goes on.
const MAX_RUNS: usize = 16;

/// No time is later, in ms since 1970.
const MAX_TIME: u64 = 1 << 53;

/// A recurring job as it stands. Times are in ms since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recurs {
    pub name: String,
    pub queue: String,
    pub job: String,
    pub schedule: String,
    pub time_zone: String,
    pub next: Option<u64>,
    /// When it was due that was enqueued last, and its id.
    pub last: Option<(u64, JobId)>,
    /// Why one that is due is not enqueued yet, or one that will be is passed over.
    pub trouble: Option<String>,
}

#[derive(Debug)]
pub(super) struct Recurrences {
    all: Vec<Recurrence>,
    /// Whether the file has nothing of others.
    is_clean: bool,
    has_changed: bool,
    /// Why it was not known at the last look which are due.
    unknown: Option<String>,
}

#[derive(Debug)]
pub(super) struct Recurrence {
    config: Recurring,
    expression: Expression,
    job: NewJob,
    /// The run that goes on, as is written, and those before it, the last one at the end.
    run: Run,
    others: Vec<Run>,
    /// When there may be something to do.
    look: u64,
    /// What was seen in time, and may be refused for as long as it lasts.
    seen: Option<u64>,
    shown: Recurs,
}

/// What is to be done. Each is written as it is done, and what follows is done only if nobody else has written meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Todo {
    /// The job of this time is enqueued, which settles all up to then.
    Enqueue(u64),
    /// Without a job, all is settled up to this time.
    Settle(u64),
}

/// A time in which the clock did not jump by more than `SET_BACK`: all that was due after `from` is settled up to `until`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    from: u64,
    until: u64,
}

/// What is written of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settled {
    until: u64,
    last: Option<(u64, JobId)>,
    /// What it was meant for.
    pub(super) schedule: String,
    pub(super) time_zone: String,
    /// When the run began.
    #[serde(default)]
    from: u64,
    #[serde(default)]
    others: Vec<Run>,
}

impl Todo {
    /// That of the job that is enqueued.
    pub(super) fn slot(self) -> Option<u64> {
        match self {
            Self::Enqueue(slot) => Some(slot),
            Self::Settle(_) => None,
        }
    }
}

impl Run {
    fn has(&self, slot: u64) -> bool {
        self.from < slot && slot <= self.until
    }
}

impl Settled {
    /// Where anybody may have written it.
    pub(super) fn is_sound(&self) -> bool {
        let last = self.last.map_or(0, |(slot, _)| slot);
        let mut times = self.others.iter().flat_map(|run| [run.from, run.until]).chain([self.from, self.until, last]);
        self.others.len() <= MAX_RUNS && times.all(|time| time < MAX_TIME)
    }
}

impl Recurrences {
    pub(super) fn new(configured: &[Recurring]) -> Self {
        let all = configured.iter().filter_map(|config| Some(Recurrence::new(config, config.schedule.clone()?)));
        Self { all: all.collect(), is_clean: false, has_changed: true, unknown: None }
    }

    /// What is remembered may not be what is written.
    pub(super) fn read_again(&mut self) {
        self.is_clean = false;
        self.all.iter_mut().for_each(|it| it.look = 0);
    }

    /// When there may be something to do.
    pub(super) fn next_look(&self) -> u64 {
        self.all.iter().map(|it| it.look).min().unwrap_or(u64::MAX)
    }

    /// All of them, if any has changed since.
    pub(super) fn told(&mut self) -> Option<Vec<Recurs>> {
        std::mem::take(&mut self.has_changed).then(|| self.all.iter().map(|it| it.shown.clone()).collect())
    }

    /// Notes why it is not known which are due, if it is not: the log has one line for all.
    pub(super) fn note_unknown(&mut self, unknown: Option<String>) {
        if let Some(why) = unknown.as_deref().filter(|why| self.unknown.as_deref() != Some(*why)) {
            tracing::warn!(error = why, "it is not known which recurring jobs are due");
        }
        self.unknown = unknown;
    }

    /// Those for which there may be something to do. The one that has waited for longest comes first: where there is no time
    /// for all, those that are refused again and again keep no other one waiting.
    pub(super) fn due(&mut self, now: u64) -> impl Iterator<Item = &mut Recurrence> {
        let mut due: Vec<_> = self.all.iter_mut().filter(|it| it.is_due(now)).collect();
        self.has_changed |= !due.is_empty();
        due.sort_by_key(|it| it.look);
        due.into_iter()
    }
}

impl Recurrence {
    fn new(config: &Recurring, expression: Expression) -> Self {
        let shown = Recurs {
            name: config.name.clone(),
            queue: config.queue.clone(),
            job: config.job.clone(),
            schedule: expression.text().to_owned(),
            time_zone: config.time_zone.name().to_owned(),
            next: None,
            last: None,
            trouble: None,
        };
        Self {
            job: config.new_job(),
            config: config.clone(),
            expression,
            run: Run::default(),
            others: Vec::new(),
            look: 0,
            seen: None,
            shown,
        }
    }

    pub(super) fn shown(&self) -> &Recurs {
        &self.shown
    }

    /// The job that is enqueued for a time.
    pub(super) fn job(&self, slot: u64) -> NewJob {
        NewJob { due_at: Some(slot), ..self.job.clone() }
    }

    fn is_due(&self, now: u64) -> bool {
        self.look <= now || self.run.until > now + SET_BACK
    }

    /// What is to be done now, one after the other, by what is written.
    pub(super) fn decide(&mut self, written: Option<Settled>, now: u64) -> Vec<Todo> {
        if self.begins_anew(written, now) {
            return vec![Todo::Settle(now)];
        }
        let most = if self.config.missed == Missed::All { MAX_MISSED } else { 1 };
        let due = self.expression.between(&self.config.time_zone, self.run.until, now, most);
        let (Some(first), Some(latest)) = (due.front().copied(), due.back().copied()) else { return Vec::new() };
        if now - latest < ON_TIME {
            self.seen = Some(latest);
        }
        let is_skipped = self.config.missed == Missed::Skip && self.seen != Some(latest);
        let passes_over = is_skipped || self.next(self.run.until) != Some(first);
        if passes_over && now > self.run.until + SET_BACK {
            self.begin(if is_skipped { latest } else { first - 1 });
        }
        if is_skipped {
            tracing::warn!(recurring = self.config.name, "a recurring job was missed");
            return vec![Todo::Settle(latest)];
        }
        let todo = |slot| match self.is_of_another_run(slot) {
            Some(_) => Todo::Settle(slot),
            None => Todo::Enqueue(slot),
        };
        due.into_iter().map(todo).collect()
    }

    /// What is to be written when all is settled up to a time, with the id of the job that was enqueued for it, if there is one.
    pub(super) fn settled(&self, until: u64, id: Option<JobId>) -> Settled {
        Settled {
            until,
            last: id.map(|id| (until, id)).or(self.shown.last),
            schedule: self.shown.schedule.clone(),
            time_zone: self.shown.time_zone.clone(),
            from: self.run.from,
            others: self.others.clone(),
        }
    }

    /// That is written.
    pub(super) fn settle(&mut self, settled: &Settled) {
        (self.run.until, self.shown.last) = (settled.until, settled.last);
    }

    /// All is done until the next time.
    pub(super) fn rest(&mut self, now: u64) {
        let from = self.run.until.max(now);
        self.shown.next = self.next(from);
        self.look = self.shown.next.unwrap_or(u64::MAX);
        let soonest = self.expression.next(&self.config.time_zone, from);
        let is_passed_over = soonest.is_some_and(|soonest| self.look > soonest.saturating_add(SET_BACK));
        if is_passed_over && self.shown.trouble.as_deref() != Some(SETTLED_AHEAD) {
            tracing::warn!(
                recurring = self.config.name,
                error = SETTLED_AHEAD,
                "a recurring job is not enqueued for now"
            );
        }
        self.shown.trouble = is_passed_over.then(|| SETTLED_AHEAD.to_owned());
    }

    /// It is tried again, as long as no later one is due. None: it is not known which one is.
    pub(super) fn wait(&mut self, slot: Option<u64>, now: u64, why: String) {
        if slot.is_some() && self.shown.trouble.as_ref() != Some(&why) {
            tracing::warn!(recurring = self.config.name, error = why, "a recurring job is due and not enqueued yet");
        }
        self.shown.next = slot.or(self.shown.next);
        (self.shown.trouble, self.look) = (Some(why), now + RETRY);
    }

    /// The first slot after a time that was not settled in another run.
    fn next(&self, time: u64) -> Option<u64> {
        let mut next = self.expression.next(&self.config.time_zone, time)?;
        while let Some(run) = self.is_of_another_run(next) {
            next = self.expression.next(&self.config.time_zone, run.until)?;
        }
        Some(next)
    }

    fn is_of_another_run(&self, slot: u64) -> Option<Run> {
        self.others.iter().find(|run| run.has(slot)).copied()
    }

    /// Goes on from what is written, or begins now: one that is new or has another schedule. Where the clock has jumped, and is
    /// now where another run ended, that one goes on; where it went back to where there was none, one begins now.
    fn begins_anew(&mut self, written: Option<Settled>, now: u64) -> bool {
        let is_of_this = |it: &Settled| it.schedule == self.shown.schedule && it.time_zone == self.shown.time_zone;
        let Some(it) = written.filter(is_of_this) else {
            (self.run, self.others, self.shown.last) = (Run { from: now, until: now }, Vec::new(), None);
            return true;
        };
        (self.run, self.others, self.shown.last) = (Run { from: it.from, until: it.until }, it.others, it.last);
        let went_back = self.run.until > now + SET_BACK;
        if went_back || self.run.until + SET_BACK < now {
            let after = if went_back { now.saturating_sub(SET_BACK) } else { self.run.until };
            let ends_here = |run: &Run| after < run.until && run.until <= now + SET_BACK;
            let ended_here = (0..self.others.len()).filter(|nth| ends_here(&self.others[*nth]));
            match ended_here.max_by_key(|nth| self.others[*nth].until) {
                Some(nth) => {
                    let run = self.others.remove(nth);
                    self.others.push(std::mem::replace(&mut self.run, run));
                }
                None if went_back => {
                    self.begin(now);
                    return true;
                }
                None => {}
            }
        }
        false
    }

    /// Begins another run, in which nothing is settled yet.
    fn begin(&mut self, from: u64) {
        self.others.push(std::mem::replace(&mut self.run, Run { from, until: from }));
        if self.others.len() > MAX_RUNS {
            self.others.remove(0);
        }
    }
}
