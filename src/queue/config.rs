//! `[queue]`: where jobs are kept, and how many.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use roster_net::tls::ClientFiles;
use serde::{Deserialize, Deserializer, Serialize};

use super::check::check_name;
use super::job::{MAX_JOB_NAME, MAX_QUEUE_NAME, NewJob};
use super::recurring::{Expression, Zone};
use super::{Limit, Server};
use crate::rule;

/// `[queue]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The folder of the jobs; none: this sidecar keeps no queues.
    #[serde(deserialize_with = "crate::rule::some_path", skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The Redis that has them instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Server>,
    /// Whether jobs are enqueued into the folder while it is away.
    pub buffer: bool,
    /// What its keys begin with.
    pub prefix: String,
    /// A file with its password, or `env:` and a variable.
    #[serde(deserialize_with = "crate::rule::some_path", skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// The authorities that sign its certificate; none: those of the machine.
    #[serde(deserialize_with = "crate::rule::some_path", skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The certificate that it is shown, with its chain, and the key.
    #[serde(deserialize_with = "crate::rule::some_path", skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    #[serde(deserialize_with = "crate::rule::some_path", skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// The most jobs of all queues, in any state,
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_jobs: usize,
    /// and the most bytes that they take: payloads and names, with an overhead for each.
    #[serde(deserialize_with = "crate::rule::between_kib_and_tib::<_, 1024, 1>")]
    pub max_bytes: ByteSize,
    /// The largest payload of one.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_job_bytes: ByteSize,
    /// How many queues there may be.
    #[serde(deserialize_with = "crate::rule::at_most::<_, 1024>")]
    pub max_queues: usize,
    /// How often a job is tried again that fails, where it says nothing else.
    #[serde(deserialize_with = "crate::rule::no_more_than::<_, 1000>")]
    pub retries: usize,
    /// How long a worker may take for a job, where it says nothing else, before the job is another's.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub timeout: Duration,
    /// How long dead jobs are kept.
    #[serde(with = "crate::rule::SomeWithinAYear")]
    pub keep_dead: Duration,
    /// How long jobs that are done are kept with their results, where they say nothing else; zero: not at all.
    #[serde(with = "crate::rule::WithinAYear")]
    pub keep_results: Duration,
    /// When what was done is acknowledged,
    pub durability: Durability,
    /// and how long it may wait for its sync where that is batched.
    #[serde(with = "crate::rule::SomeWithinAnHour")]
    pub sync_interval: Duration,
    /// What jobs of single queues have in place of these two.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub default: Vec<Defaults>,
    /// Jobs that are enqueued by the clock.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recurring: Vec<Recurring>,
    /// How many jobs run at once, and how many begin within a time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limit: Vec<Limit>,
}

/// `[[queue.default]]`: what the jobs of one queue have that do not say so themselves. Required is the queue alone.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Defaults {
    pub queue: String,
    #[serde(deserialize_with = "some_retries", skip_serializing_if = "Option::is_none")]
    pub retries: Option<usize>,
    #[serde(
        deserialize_with = "some_timeout",
        serialize_with = "humantime_serde::serialize",
        skip_serializing_if = "Option::is_none"
    )]
    pub timeout: Option<Duration>,
}

fn some_retries<'de, D: Deserializer<'de>>(value: D) -> Result<Option<usize>, D::Error> {
    rule::no_more_than::<_, 1000>(value).map(Some)
}

fn some_timeout<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Duration>, D::Error> {
    rule::SomeWithinADay::deserialize(value).map(Some)
}

/// When what was done is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// When it is on the disk.
    Synced,
    /// When the kernel has it: a loss of power may lose it.
    Batched,
}

/// `[[queue.recurring]]`: a job that is enqueued whenever its time has come.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recurring {
    /// Required, as are the next three.
    pub name: String,
    pub queue: String,
    /// The name of the jobs.
    pub job: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Expression>,
    /// Their payload is this as JSON; none: it is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<toml::Value>,
    pub time_zone: Zone,
    pub missed: Missed,
}

/// What becomes of times at which no sidecar ran, or the machine slept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    #[default]
    Skip,
    /// The last of them is made up for,
    Once,
    /// each of them is.
    All,
}

impl Recurring {
    /// The job that is enqueued each time.
    pub(crate) fn new_job(&self) -> NewJob {
        let payload =
            self.payload.as_ref().map_or_else(Vec::new, |payload| rule::json(payload).to_string().into_bytes());
        NewJob { queue: self.queue.clone(), name: self.job.clone(), payload, ..NewJob::default() }
    }

    /// What is wrong with the name of the queue, that of the job, or the payload.
    pub(crate) fn flaws(&self, max_job_bytes: ByteSize) -> Vec<(&'static str, String)> {
        let job = self.new_job();
        let mut flaws = Vec::new();
        for (key, name, most) in [
            ("name", &self.name, MAX_JOB_NAME),
            ("queue", &job.queue, MAX_QUEUE_NAME),
            ("job", &job.name, MAX_JOB_NAME),
        ] {
            flaws.extend(check_name(key, name, most).err().map(|why| (key, why.to_string())));
        }
        if job.payload.len() as u64 > max_job_bytes.as_u64() {
            let message =
                format!("has {} bytes as JSON, and `queue.max_job_bytes` is {max_job_bytes}", job.payload.len());
            flaws.push(("payload", message));
        }
        flaws
    }
}

impl Config {
    /// How often a job of a queue is tried again,
    pub(super) fn retries(&self, queue: &str) -> u32 {
        self.default_of(queue).and_then(|its| its.retries).unwrap_or(self.retries) as u32
    }

    /// and how long a worker may take for it, where it says nothing else.
    pub(super) fn timeout(&self, queue: &str) -> Duration {
        self.default_of(queue).and_then(|its| its.timeout).unwrap_or(self.timeout)
    }

    fn default_of(&self, queue: &str) -> Option<&Defaults> {
        self.default.iter().find(|its| its.queue == queue)
    }

    /// The files of a connection to Redis by TLS.
    pub(crate) fn tls(&self) -> ClientFiles<'_> {
        ClientFiles { ca: self.ca.as_deref(), shown: self.certificate.as_deref().zip(self.key.as_deref()) }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: None,
            backend: None,
            buffer: false,
            prefix: "resque:".to_owned(),
            password_file: None,
            ca: None,
            certificate: None,
            key: None,
            max_jobs: 1_000_000,
            max_bytes: ByteSize::gib(1),
            max_job_bytes: ByteSize::kib(64),
            max_queues: 256,
            retries: 25,
            timeout: Duration::from_secs(60),
            keep_dead: Duration::from_secs(30 * 86_400),
            keep_results: Duration::ZERO,
            durability: Durability::Synced,
            sync_interval: Duration::from_millis(100),
            default: Vec::new(),
            recurring: Vec::new(),
            limit: Vec::new(),
        }
    }
}
