//! Records: what Roster keeps in Redis of a job that is in nobody's list: it runs, waits for its time, or is dead. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::Config;
use super::super::attempt::Update;
use super::super::change::millis;
use super::super::death::Death;
use super::super::job::{
    DEFAULT_PRIORITY, Job, JobId, MAX_DELAY, MAX_ERROR, MAX_LOST, State, Unique, Until, lease_ms, retry_delay,
};
use super::keys::place;
use super::link::TIMEOUT;
use super::resque::{self, Extras, Item};
use crate::model::shortened;

/// No time is later, in ms since 1970.
const MAX_TIME: u64 = 1 << 53;

/// Such a part of a lease may pass until the job arrives.
const ON_THE_WAY: u64 = 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) queue: String,
    pub(super) state: State,
    pub(super) extras: Extras,
    pub(super) enqueued_at: u64,
    /// Where it stands in a scheduler's list, too: the second after `delayed:`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scheduled: Option<u64>,
    /// As it was in a list, or is in that of a scheduler.
    pub(super) item: String,
}

/// What becomes of a job that ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Done,
    /// It is the first of its queue.
    Waiting(Extras),
    Kept(Box<Record>),
}

impl Record {
    pub(super) fn new(queue: String, state: State, item: &Item, text: String, now: u64) -> Self {
        let (extras, enqueued_at) = (item.extras.clone(), item.enqueued_at.unwrap_or(now));
        Self { queue, state, extras, enqueued_at, scheduled: None, item: text }
    }

    /// None: it is damaged, or somebody else's.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(Self::is_sound)
    }

    /// Anybody may have written it.
    fn is_sound(&self) -> bool {
        let (_, at) = place(self.state);
        [at, self.enqueued_at, self.scheduled.unwrap_or(0)].iter().all(|time| *time < MAX_TIME)
    }

    pub(super) fn written(&self) -> String {
        serde_json::to_string(self).expect("a record of ours has nothing that JSON cannot")
    }

    pub(super) fn timeout_ms(&self, config: &Config) -> u64 {
        self.extras.timeout_ms.unwrap_or_else(|| millis(config.timeout(&self.queue)))
    }

    pub(super) fn unique(&self) -> Option<&Unique> {
        self.extras.unique.as_ref()
    }

    pub(super) fn death(&self, id: JobId) -> Death {
        let name = resque::read(self.item.as_bytes()).map_or_else(String::new, |item| item.name);
        Death { queue: self.queue.clone(), id, name, error: self.extras.error.clone().unwrap_or_default() }
    }

    pub(super) fn into_job(self, id: JobId, config: &Config) -> Job {
        let (timeout, retries) = (Duration::from_millis(self.timeout_ms(config)), self.retries(config));
        let (name, payload) = match resque::read(self.item.as_bytes()) {
            Some(item) => (item.name, item.payload),
            None => (String::new(), self.item.into_bytes()),
        };
        Job {
            id,
            queue: self.queue,
            name,
            payload,
            state: self.state,
            priority: DEFAULT_PRIORITY,
            attempt: self.extras.attempt,
            failures: self.extras.failures,
            retries,
            timeout,
            enqueued_at: self.enqueued_at,
            user: self.extras.user,
            error: self.extras.error,
            progress: None,
            keeps_result: false,
            result: None,
            is_buffered: false,
        }
    }

    /// It is handed out. Its lease lasts a little longer, so that it is whole when the job arrives.
    pub(super) fn taken(mut self, lease: Option<Duration>, now: u64, config: &Config) -> Self {
        let lease = lease_ms(lease, self.timeout_ms(config));
        let lease = lease + (lease / ON_THE_WAY).min(millis(TIMEOUT));
        self.extras.attempt = self.extras.attempt.saturating_add(1);
        self.state = State::Running { until: now + lease };
        if self.unique().is_some_and(|unique| unique.until == Until::Start) {
            self.extras.unique = None;
        }
        self
    }

    /// What whoever has it wants of it.
    pub(super) fn after(&self, update: &Update, now: u64, config: &Config) -> Next {
        let extras = self.extras.clone();
        match update {
            Update::Done | Update::Return { .. } => Next::Done,
            Update::Fail { error } => {
                let failures = extras.failures.saturating_add(1);
                let extras = Extras { failures, error: Some(cut(error)), ..extras };
                match failures > self.retries(config) {
                    true => self.dead(extras, now),
                    false => self.rests(extras, retry_delay(failures, fastrand::f64()), now),
                }
            }
            Update::Lose { error } => {
                let (failures, lost) = (extras.failures.saturating_add(1), extras.lost.saturating_add(1));
                let extras = Extras { failures, lost, error: Some(cut(error)), ..extras };
                match lost >= MAX_LOST || failures > self.retries(config) {
                    true => self.dead(extras, now),
                    false => Next::Waiting(extras),
                }
            }
            Update::Bury { error } => self.dead(Extras { error: Some(cut(error)), ..extras }, now),
            Update::Release { delay } if delay.is_zero() => Next::Waiting(extras),
            Update::Release { delay } => self.rests(extras, (*delay).min(MAX_DELAY), now),
            Update::Touch { lease } => {
                let lease = lease_ms(*lease, self.timeout_ms(config));
                self.kept(extras, State::Running { until: now + lease })
            }
            // It is nothing that is written.
            Update::Progress(_) => self.kept(extras, self.state),
        }
    }

    /// As an element of its queue.
    pub(super) fn waiting_again(&self, id: JobId, extras: Extras) -> String {
        let own = resque::read(self.item.as_bytes()).and_then(|item| item.id);
        let extras = Extras { id: Some(id).filter(|_| own != Some(id)), ..extras };
        resque::replaced(&self.item, &extras).unwrap_or_else(|| self.item.clone())
    }

    fn retries(&self, config: &Config) -> u32 {
        self.extras.retries.unwrap_or_else(|| config.retries(&self.queue))
    }

    fn rests(&self, extras: Extras, delay: Duration, now: u64) -> Next {
        self.kept(extras, State::Delayed { until: now + millis(delay) })
    }

    pub(super) fn dead(&self, extras: Extras, now: u64) -> Next {
        self.kept(Extras { unique: None, ..extras }, State::Dead { since: now })
    }

    fn kept(&self, extras: Extras, state: State) -> Next {
        Next::Kept(Box::new(Self { extras, state, scheduled: None, ..self.clone() }))
    }
}

fn cut(error: &str) -> String {
    shortened(error, MAX_ERROR).into_owned()
}
