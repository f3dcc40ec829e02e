//! Jobs: what is enqueued, and what becomes of it. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::change::millis;
use super::keys::QueueNumber;

/// Numbers grow, and are not used again, also where the file is lost.
pub type JobId = u64;

/// The highest number is of the least urgent jobs.
pub(super) const MAX_PRIORITY: u8 = 9;
pub(super) const DEFAULT_PRIORITY: u8 = 5;

/// The longest names, in bytes.
pub(super) const MAX_QUEUE_NAME: usize = 128;
pub(super) const MAX_JOB_NAME: usize = 255;
pub(super) const MAX_KEY: usize = 255;

/// The longest delay, and as long a result is kept at most; and the longest time of an attempt.
pub const MAX_DELAY: Duration = Duration::from_secs(366 * 86_400);
pub const MAX_TIMEOUT: Duration = Duration::from_secs(86_400);

/// A lease for which nobody says how long it lasts is no shorter, whatever the timeout: a job may have to wait in its worker.
pub const MIN_LEASE: Duration = Duration::from_secs(5);

pub(super) const MAX_RETRIES: u32 = 1_000;

/// So many jobs are enqueued at once, and handed out at once.
pub const MAX_AT_ONCE: usize = 1_000;

/// The most bytes that are kept of an error. Nobody is charged for them: the file has room for as many of each job.
pub(super) const MAX_ERROR: usize = 1_024;

/// The most bytes that are kept of what somebody says of the progress of a job.
pub(super) const MAX_NOTE: usize = 256;

/// What a job is charged for beside its payload and names: its entries in the file.
pub(super) const OVERHEAD: usize = 512;

/// What a job counts for at least among requests that wait.
const LEAST_SIZE: usize = 1 << 10;

/// A job that is lost so often, with the process that had it or by its time, kills whoever performs it.
pub(super) const MAX_LOST: u32 = 3;

/// Why one is dead that was lost for the last time: first what the retries that it has left do not tell.
pub(super) fn lost_too_often(why: &str) -> String {
    format!("it was lost {MAX_LOST} times, and is tried no more: {why}")
}

/// A job to be enqueued.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewJob {
    pub queue: String,
    /// What is to be done: the application's own word.
    pub name: String,
    pub payload: Vec<u8>,
    /// For how long it is not performed.
    pub delay: Duration,
    /// Which are performed first: 0 to `MAX_PRIORITY`; none: `DEFAULT_PRIORITY`.
    pub priority: Option<u8>,
    pub unique: Option<Unique>,
    /// How often it is tried again; none: as the setting says.
    pub retries: Option<u32>,
    /// How long an attempt may take; none: as the setting says.
    pub timeout: Option<Duration>,
    /// Jobs with the same one share the limits that their queue has of each key.
    pub limit_key: Option<String>,
    /// How long it is kept with its result once it is done; none: as the setting says.
    pub keep_result: Option<Duration>,
    /// Of one that recurs: for which time, in ms since 1970.
    pub due_at: Option<u64>,
}

/// No other job of its queue has the same key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unique {
    pub key: String,
    pub until: Until,
}

/// How long a job has its unique key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// Until its first attempt begins.
    Start,
    /// Until it is done, dead or cancelled.
    Success,
}

/// What became of an enqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enqueued {
    pub id: JobId,
    /// False: another job has its unique key, and is the one that is named.
    pub is_new: bool,
    /// It waits on this host until Redis has it.
    pub is_buffered: bool,
}

/// Where a job is. Times are in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Waiting,
    Delayed {
        until: u64,
    },
    /// A worker has it, as long as its lease lasts.
    Running {
        until: u64,
    },
    /// It is performed no more, unless somebody has it retried.
    Dead {
        since: u64,
    },
    /// It is kept for its result.
    Done {
        until: u64,
    },
}

/// All of a job but what the application gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) queue: QueueNumber,
    pub(super) state: State,
    pub(super) priority: u8,
    /// How often it was handed out,
    pub(super) attempt: u32,
    /// and how often that failed since it was enqueued or retried by hand;
    pub(super) failures: u32,
    /// of these, how often whoever had it was gone, or let its time pass.
    pub(super) lost: u32,
    pub(super) retries: u32,
    pub(super) timeout_ms: u64,
    pub(super) enqueued_at: u64,
    pub(super) user: Option<u32>,
    /// What it is charged for.
    pub(super) bytes: u64,
    pub(super) unique: Option<Unique>,
    /// Why the last attempt failed.
    pub(super) error: Option<String>,
    /// How long the last lease was to last; 0 in what was written before there was this.
    #[serde(default)]
    pub(super) lease_ms: u64,
    /// The user who took it last, -1 over TCP; none: a worker of the sidecar.
    #[serde(default)]
    pub(super) taker: Option<i64>,
    #[serde(default)]
    pub(super) limit_key: Option<String>,
    /// How long it is kept once it is done.
    #[serde(default)]
    pub(super) keep_result_ms: u64,
    /// For which time it recurs.
    #[serde(default)]
    pub(super) due_at: Option<u64>,
}

/// A job as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub id: JobId,
    pub queue: String,
    pub name: String,
    pub payload: Vec<u8>,
    pub state: State,
    pub priority: u8,
    /// How often it was handed out. With the id it names one lease.
    pub attempt: u32,
    pub failures: u32,
    pub retries: u32,
    pub timeout: Duration,
    pub enqueued_at: u64,
    /// Who enqueued it; none: somebody over TCP.
    pub user: Option<u32>,
    pub error: Option<String>,
    pub progress: Option<Progress>,
    /// Whether it is kept with its result once it is done,
    pub keeps_result: bool,
    /// which is this. It has no payload any more then.
    pub result: Option<Vec<u8>>,
    /// Whether it is in the buffer, until Redis has it.
    pub is_buffered: bool,
    /// The key that no other one may have now.
    pub unique_key: Option<String>,
    pub limit_key: Option<String>,
    /// For which time it recurs.
    pub due_at: Option<u64>,
}

/// How far a job is, as whoever has it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    percent: u8,
    note: String,
    reported_at: u64,
}

impl Progress {
    /// Of at most 100 percent, with the beginning of a note. The queue knows when it was reported.
    pub fn new(percent: u64, note: &str) -> Self {
        Self { percent: percent.min(100) as u8, note: cut(note, MAX_NOTE), reported_at: 0 }
    }

    pub fn percent(&self) -> u8 {
        self.percent
    }

    pub fn note(&self) -> &str {
        &self.note
    }

    /// In milliseconds since 1970.
    pub fn reported_at(&self) -> u64 {
        self.reported_at
    }

    pub(super) fn at(&self, reported_at: u64) -> Self {
        Self { reported_at, ..self.clone() }
    }
}

/// How long a lease lasts of a job with this timeout.
pub(super) fn lease_ms(lease: Option<Duration>, timeout_ms: u64) -> u64 {
    lease.map_or(timeout_ms.max(millis(MIN_LEASE)), |lease| millis(lease.min(MAX_TIMEOUT)))
}

impl Head {
    /// How long the last lease was to last.
    pub(super) fn granted_ms(&self) -> u64 {
        if self.lease_ms > 0 { self.lease_ms } else { self.timeout_ms }
    }
}

impl NewJob {
    pub(super) fn keys_len(&self) -> usize {
        let keys = [self.unique.as_ref().map(|unique| &unique.key), self.limit_key.as_ref()];
        keys.into_iter().flatten().map(String::len).sum()
    }

    /// About how much memory it takes, and at least what it costs to keep it.
    pub fn memory_size(&self) -> usize {
        let key = self.keys_len();
        (size_of::<Self>() + self.queue.len() + self.name.len() + self.payload.len() + key).max(LEAST_SIZE)
    }
}

/// What the application gave, as it is kept.
pub(super) fn body(name: &str, payload: &[u8]) -> Vec<u8> {
    [&[name.len() as u8], name.as_bytes(), payload].concat()
}

/// The name and the payload. None: it is no such body.
pub(super) fn parts_of(body: &[u8]) -> Option<(String, Vec<u8>)> {
    let (length, rest) = body.split_first()?;
    let (name, payload) = rest.split_at_checked(usize::from(*length))?;
    Some((String::from_utf8(name.to_vec()).ok()?, payload.to_vec()))
}

/// The beginning of a text, in whole characters.
pub(super) fn cut(text: &str, most: usize) -> String {
    let end = (0..=text.len().min(most)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

/// How long a job rests that has failed so often: as long as with Sidekiq, from about 20 s to some days, and in three
/// weeks 25 times. `random` spreads what failed together.
pub(super) fn retry_delay(failures: u32, random: f64) -> Duration {
    let failures = f64::from(failures.saturating_sub(1).min(30));
    Duration::from_secs_f64(failures.powi(4) + 15.0 + random.clamp(0.0, 1.0) * 10.0 * (failures + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_without_a_payload_counts_for_what_it_costs_to_keep_it() {
        assert_eq!(NewJob::default().memory_size(), 1_024);
        assert!(NewJob { payload: vec![7; 1_024], ..NewJob::default() }.memory_size() > 1_024);
    }

    #[test]
    fn a_body_is_its_parts_again_and_what_is_none_is_refused() {
        let (name, payload) = ("é".repeat(100), b"\0\xff{}");
        assert_eq!(parts_of(&body(&name, payload)), Some((name, payload.to_vec())));
        assert_eq!(parts_of(&body("", b"")), Some((String::new(), Vec::new())));
        assert!([b"".as_slice(), b"\x02a", b"\x01\xff"].iter().all(|wrong| parts_of(wrong).is_none()));
    }

    #[test]
    fn failures_are_retried_25_times_within_three_weeks_and_apart() {
        let sum = |random| (1..=25).map(|failures| retry_delay(failures, random)).sum::<Duration>().as_secs() / 86_400;
        assert_eq!((sum(0.0), sum(1.0)), (20, 20));
        assert_eq!(retry_delay(1, 0.0), Duration::from_secs(15));
        assert_eq!(retry_delay(1, 1.0), Duration::from_secs(25));
        assert_eq!(retry_delay(u32::MAX, 9.0), retry_delay(31, 1.0), "it ends somewhere");
        assert!((2..25).all(|failures| retry_delay(failures, 0.0) < retry_delay(failures + 1, 0.0)));
    }
}
