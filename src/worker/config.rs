//! `[[worker]]`: a program whose processes the sidecar keeps alive.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use bytesize::ByteSize;
use nix::sys::signal::Signal;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::pass::{Balance, MAX_WAITING};
use super::requested::MAX_REQUESTED;
use crate::permissions::Mode;

/// How many processes one group may have.
pub const MAX_COUNT: u32 = 1_000;

const MAX_NAME_BYTES: usize = 64;

/// If descriptors are scarce, connections waiting for processes get one in this many.
const WAITING_PART: usize = 8;

/// `[[worker]]`: a group of processes of one program.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Required: the name of the group; its processes are `NAME/1`, `NAME/2`, ….
    pub name: String,
    /// Required: the program and its arguments. No shell interprets them.
    pub command: Vec<String>,
    /// Passed to the program as JSON in `ROSTER_PARAMS`.
    pub params: toml::Table,
    pub count: Count,
    /// The user it runs as, which requires root; empty: that of the sidecar.
    pub user: String,
    /// Empty: that of the user.
    #[serde(deserialize_with = "crate::permissions::group")]
    pub group: String,
    /// The working directory; none: `/`.
    #[serde(deserialize_with = "crate::rule::some_path")]
    pub directory: Option<PathBuf>,
    /// Environment variables besides `PATH`, `HOME`, `USER`, `LOGNAME`, `LANG` and `TZ`; none of the sidecar's others
    /// are passed on.
    pub environment: BTreeMap<String, String>,
    pub umask: Mode,
    pub restart: Restart,
    /// The exit codes that mean success.
    pub exit_codes: Vec<u8>,
    /// The delay before a restart: this, doubled after each failure, up to
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub restart_delay: Duration,
    /// this.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub max_restart_delay: Duration,
    /// After more failures than this within `start_window` it is not tried any more.
    pub start_retries: usize,
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub start_window: Duration,
    pub ready: Ready,
    /// How long a process must stay up to be ready, if `ready` is `stays-up`,
    #[serde(with = "crate::rule::WithinADay")]
    pub ready_after: Duration,
    /// or how long it may take to report being ready.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub ready_timeout: Duration,
    /// The signal that asks a process to end,
    pub stop_signal: StopSignal,
    /// and how long it may take, before it and what it started are killed.
    #[serde(with = "crate::rule::WithinADay")]
    pub stop_timeout: Duration,
    /// Sockets on which the sidecar listens for it: `tcp://host:port`, `unix:///path`. Each process inherits them.
    pub listen: Vec<String>,
    /// Addresses on which its processes may request sockets while they run: the same, or with a range of ports.
    pub may_listen: Vec<String>,
    pub accept: Accept,
    /// If `accept` is `sidecar`: how to choose a process.
    pub balance: Balance,
    /// For Unix sockets: their mode, and the group they are given to.
    pub socket_mode: Mode,
    #[serde(deserialize_with = "crate::permissions::group")]
    pub socket_group: String,
    /// A process is replaced after this lifetime, less up to a tenth at random;
    #[serde(
        deserialize_with = "crate::rule::at_least_seconds::<_, 10>",
        serialize_with = "humantime_serde::serialize",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_lifetime: Option<Duration>,
    /// also after this many requests, less up to a tenth at random: calls, commands, and connections handed to it;
    #[serde(deserialize_with = "crate::rule::some_positive", skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u64>,
    /// also if it takes more memory than this;
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<ByteSize>,
    /// and if it takes more than this, it is killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill_memory: Option<ByteSize>,
    /// A process that does not answer over its channel for this long is killed, however busy it is.
    #[serde(
        deserialize_with = "crate::rule::at_least_seconds::<_, 1>",
        serialize_with = "humantime_serde::serialize",
        skip_serializing_if = "Option::is_none"
    )]
    pub hang_timeout: Option<Duration>,
    /// How much longer than its timeout a job may take before the process that performs it is killed.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub job_grace: Duration,
    /// How many descriptors a process may have open; none: as many as the sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_files: Option<u64>,
    /// How many processes its user may have on the whole machine; none: as many as the sidecar's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_processes: Option<u64>,
    /// The file for their output; none: the sidecar's log.
    #[serde(deserialize_with = "crate::rule::some_path")]
    pub log: Option<PathBuf>,
    /// A new file is begun before it exceeds this size;
    #[serde(deserialize_with = "crate::rule::at_least_kib::<_, 64>")]
    pub max_log_size: ByteSize,
    /// also after this time, counted from 1970 on: with a day, at midnight UTC.
    #[serde(
        deserialize_with = "crate::rule::at_least_seconds::<_, 60>",
        serialize_with = "humantime_serde::serialize",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_log_age: Option<Duration>,
    /// How many old files are kept.
    #[serde(deserialize_with = "crate::rule::at_most::<_, 1_000>")]
    pub max_log_files: usize,
    /// For development: patterns of files, relative to `directory`. When one is edited, the processes are replaced.
    pub watch: Vec<String>,
    /// How many are replaced at once in a rolling restart.
    #[serde(deserialize_with = "crate::rule::at_most::<_, 1_000>")]
    pub surge: usize,
    /// Groups with a lower value start earlier and stop later.
    pub priority: i32,
    /// If the sidecar accepts: how many connections may wait for a process; fewer if it is short of descriptors.
    #[serde(skip)]
    pub max_waiting: usize,
}

/// How many processes: a number, or one per processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    Number(u32),
    Cores,
}

/// After which ends a process is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    Always,
    /// Those by a signal, or with a code that is not in `exit_codes`.
    OnFailure,
    Never,
}

/// Who accepts on the sockets of `listen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accept {
    /// Each process, on the listening sockets that it inherits.
    Worker,
    /// The sidecar, which hands each connection to one process.
    Sidecar,
}

/// When a process counts as ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// After a lifetime of `ready_after`.
    StaysUp,
    /// When it has connected over its channel and reported its services.
    Connected,
    /// When it reports being ready over its channel.
    Message,
}

/// A signal by name, with or without `SIG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopSignal(pub Signal);

impl Default for Config {
    fn default() -> Self {
        Self {
            name: String::new(),
            command: Vec::new(),
            params: toml::Table::new(),
            count: Count::Number(1),
            user: String::new(),
            group: String::new(),
            directory: None,
            environment: BTreeMap::new(),
            umask: Mode(0o022),
            restart: Restart::Always,
            exit_codes: vec![0],
            restart_delay: Duration::from_millis(200),
            max_restart_delay: Duration::from_secs(30),
            start_retries: 10,
            start_window: Duration::from_secs(120),
            ready: Ready::StaysUp,
            ready_after: Duration::from_secs(1),
            ready_timeout: Duration::from_secs(30),
            stop_signal: StopSignal(Signal::SIGTERM),
            stop_timeout: Duration::from_secs(10),
            listen: Vec::new(),
            may_listen: Vec::new(),
            accept: Accept::Worker,
            balance: Balance::RoundRobin,
            socket_mode: Mode(0o660),
            socket_group: String::new(),
            max_lifetime: None,
            max_requests: None,
            max_memory: None,
            kill_memory: None,
            hang_timeout: None,
            job_grace: Duration::from_secs(30),
            max_files: None,
            max_processes: None,
            log: None,
            max_log_size: ByteSize::mib(16),
            max_log_age: None,
            max_log_files: 5,
            watch: Vec::new(),
            surge: 1,
            priority: 0,
            max_waiting: MAX_WAITING,
        }
    }
}

impl Config {
    /// How many descriptors of the sidecar it takes.
    pub(crate) fn descriptors(&self) -> usize {
        // Successors exist along with those they replace.
        let processes = self.count.number() as usize + self.surge;
        processes * self.descriptors_of_each() + self.descriptors_of_all()
    }

    /// Those of its sockets, including requestable ones, and its log; and if the sidecar accepts, of waiting
    /// connections.
    pub(super) fn descriptors_of_all(&self) -> usize {
        // Another one that is refused.
        let waiting = if self.accept == Accept::Sidecar { self.max_waiting + 1 } else { 0 };
        let requested = if self.may_listen.is_empty() { 0 } else { MAX_REQUESTED };
        self.listen.len() + requested + 2 * usize::from(self.log.is_some()) + waiting
    }

    /// Those of each process: its output and its channel, twice; the socket for handing over connections, if the
    /// sidecar accepts; and the one for requesting sockets, if it may.
    pub(super) fn descriptors_of_each(&self) -> usize {
        4 + usize::from(self.accept == Accept::Sidecar) + usize::from(!self.may_listen.is_empty())
    }

    /// Has it make do with what these descriptors leave room for; or why they are too few.
    pub(super) fn fit(&mut self, descriptors: usize) -> Result<(), String> {
        self.leave_room(descriptors);
        let wanted = self.descriptors();
        if wanted <= descriptors {
            return Ok(());
        }
        let cure = "lower `count`, or raise the limit (`LimitNOFILE=` of the unit)";
        Err(format!("it takes {wanted} descriptors of the sidecar's, which has {descriptors} left; {cure}"))
    }

    /// Limits waiting connections to what these descriptors leave room for.
    pub(crate) fn leave_room(&mut self, descriptors: usize) {
        self.max_waiting = self.max_waiting.min(descriptors / WAITING_PART).max(1);
    }
}

impl Count {
    pub fn number(self) -> u32 {
        match self {
            Self::Number(number) => number,
            Self::Cores => available_parallelism().map_or(1, |cores| cores.get() as u32),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a number of processes, or \"cores\"")]
        enum Written {
            Number(i64),
            Word(String),
        }

        match Written::deserialize(from)? {
            Written::Word(word) if word == "cores" => Ok(Self::Cores),
            Written::Word(word) => Err(D::Error::custom(format_args!("{word:?} is no number, and not \"cores\""))),
            Written::Number(number @ 1..=1_000) => Ok(Self::Number(number as u32)),
            Written::Number(number) => {
                Err(D::Error::custom(format_args!("{number} is no number of processes: 1 to {MAX_COUNT}")))
            }
        }
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => to.serialize_u32(*number),
            Self::Cores => to.serialize_str("cores"),
        }
    }
}

impl<'de> Deserialize<'de> for StopSignal {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        signal(&name).map(Self).ok_or_else(|| {
            D::Error::custom(format_args!("{name:?} is no signal: expected a name such as \"TERM\" or \"SIGQUIT\""))
        })
    }
}

impl Serialize for StopSignal {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.as_str().trim_start_matches("SIG"))
    }
}

/// The signal with this name, with or without `SIG`, in any case.
pub fn signal(name: &str) -> Option<Signal> {
    let name = name.to_ascii_uppercase();
    format!("SIG{}", name.trim_start_matches("SIG")).parse().ok()
}

/// Whether it is a valid name of a worker: its processes are `NAME/1` and so on.
pub(crate) fn is_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.chars().all(is_part)
}

/// Whether it is a valid environment variable.
pub(crate) fn is_variable(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn a_count_is_a_number_or_the_cores() {
        assert_eq!(read("count = 4").expect("a count").count, Count::Number(4));
        assert_eq!(read("count = \"cores\"").expect("a count").count.number(), Count::Cores.number());
        for (wrong, why) in [
            ("count = 0", "0 is no number of processes: 1 to 1000"),
            ("count = 1001", "1001 is no number"),
            ("count = \"all\"", "\"all\" is no number, and not \"cores\""),
        ] {
            let error = read(wrong).expect_err("it is wrong").to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_signal_has_its_name_with_or_without_sig() {
        for name in ["QUIT", "SIGQUIT", "quit"] {
            assert_eq!(read(&format!("stop_signal = {name:?}")).expect("a signal").stop_signal.0, Signal::SIGQUIT);
        }
        let error = read("stop_signal = \"SIGSTOPP\"").expect_err("it is none").to_string();
        assert!(error.contains("\"SIGSTOPP\" is no signal"), "{error}");
    }
}
