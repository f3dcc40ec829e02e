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

/// Where there are few descriptors, connections that wait for processes have one in so many.
const WAITING_PART: usize = 8;

/// `[[worker]]`: a group of processes of one program.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Required: what the group is called; its processes are `NAME/1`, `NAME/2`, ….
    pub name: String,
    /// Required: the program and its arguments. No shell reads them.
    pub command: Vec<String>,
    /// What the program finds as JSON in `ROSTER_PARAMS`.
    pub params: toml::Table,
    pub count: Count,
    /// As whom it runs, which takes root; empty: as the sidecar.
    pub user: String,
    /// Empty: the user's own.
    #[serde(deserialize_with = "crate::permissions::group")]
    pub group: String,
    /// Where it starts; none: in `/`.
    #[serde(deserialize_with = "crate::rule::some_path")]
    pub directory: Option<PathBuf>,
    /// Variables beside `PATH`, `HOME`, `USER`, `LOGNAME`, `LANG` and `TZ`; no others of the sidecar's are passed on.
    pub environment: BTreeMap<String, String>,
    pub umask: Mode,
    pub restart: Restart,
    /// The exit codes by which a process says that all is well.
    pub exit_codes: Vec<u8>,
    /// The pause before a restart: this, and twice as long after each failure, up to
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub restart_delay: Duration,
    /// this.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub max_restart_delay: Duration,
    /// After more failures than this within `start_window` it is no longer tried.
    pub start_retries: usize,
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub start_window: Duration,
    pub ready: Ready,
    /// How long a process must have stayed up to be ready, where `ready` is `stays-up`,
    #[serde(with = "crate::rule::WithinADay")]
    pub ready_after: Duration,
    /// or may take to say that it is.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub ready_timeout: Duration,
    /// What asks a process to end,
    pub stop_signal: StopSignal,
    /// and how long it may take to, before it and what it started are killed.
    #[serde(with = "crate::rule::WithinADay")]
    pub stop_timeout: Duration,
    /// Sockets that the sidecar listens on for it: `tcp://host:port`, `unix:///path`. Each process inherits them.
    pub listen: Vec<String>,
    /// What its processes may have the sidecar listen on while they run: the same, or with ports from one to another.
    pub may_listen: Vec<String>,
    pub accept: Accept,
    /// Where `accept` is `sidecar`.
    pub balance: Balance,
    /// Of Unix sockets: their mode, and the group they are given to.
    pub socket_mode: Mode,
    #[serde(deserialize_with = "crate::permissions::group")]
    pub socket_group: String,
    /// A process that has lived for so long, or less by a tenth at random, is replaced;
    #[serde(
        deserialize_with = "crate::rule::at_least_seconds::<_, 10>",
        serialize_with = "humantime_serde::serialize",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_lifetime: Option<Duration>,
    /// so is one that was asked so much, or less by a tenth at random: calls, commands, and connections that it was handed;
    #[serde(deserialize_with = "crate::rule::some_positive", skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u64>,
    /// so is one that takes more memory than this;
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<ByteSize>,
    /// and one that takes more than this is killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill_memory: Option<ByteSize>,
    /// One that does not answer over its channel for so long is killed, however busy it is.
    #[serde(
        deserialize_with = "crate::rule::at_least_seconds::<_, 1>",
        serialize_with = "humantime_serde::serialize",
        skip_serializing_if = "Option::is_none"
    )]
    pub hang_timeout: Option<Duration>,
    /// How many descriptors a process may have open; none: as many as the sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_files: Option<u64>,
    /// How many processes its user may have, on the whole machine; none: as many as the sidecar's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_processes: Option<u64>,
    /// The file of what they print; none: the sidecar's log.
    #[serde(deserialize_with = "crate::rule::some_path")]
    pub log: Option<PathBuf>,
    /// Before it has more than this, the next one is begun;
    #[serde(deserialize_with = "crate::rule::at_least_kib::<_, 64>")]
    pub max_log_size: ByteSize,
    /// so it is after this, counted from 1970 on: a day's ends at midnight of UTC.
    #[serde(
        deserialize_with = "crate::rule::at_least_seconds::<_, 60>",
        serialize_with = "humantime_serde::serialize",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_log_age: Option<Duration>,
    /// How many are kept beside that which is written.
    #[serde(deserialize_with = "crate::rule::at_most::<_, 1_000>")]
    pub max_log_files: usize,
    /// For development: patterns of files, from `directory` on. When one is edited, the processes are replaced.
    pub watch: Vec<String>,
    /// In a rolling restart, so many are replaced at once.
    #[serde(deserialize_with = "crate::rule::at_most::<_, 1_000>")]
    pub surge: usize,
    /// Groups with a smaller one start earlier and stop later.
    pub priority: i32,
    /// How many connections may wait for a process, where the sidecar accepts: fewer where it may have few descriptors.
    #[serde(skip)]
    pub max_waiting: usize,
}

/// How many processes: a number, or one for each processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    Number(u32),
    Cores,
}

/// Which ends are followed by a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    Always,
    /// Those by a signal, or with a code that is not among `exit_codes`.
    OnFailure,
    Never,
}

/// Who accepts from the sockets of `listen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accept {
    /// Each process, from the listening sockets that it inherits.
    Worker,
    /// The sidecar, which hands each connection to one process.
    Sidecar,
}

/// When a process counts as ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// When it has lived for `ready_after`.
    StaysUp,
    /// When it has connected over its channel and reported its services.
    Connected,
    /// When it says so over its channel.
    Message,
}

/// A signal by its name, with or without `SIG`.
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
    /// How many descriptors it takes here.
    pub(crate) fn descriptors(&self) -> usize {
        // Successors are there beside those whose place they take.
        let processes = self.count.number() as usize + self.surge;
        processes * self.descriptors_of_each() + self.descriptors_of_all()
    }

    /// Its sockets, also those that may be asked for, and its log; and where it is accepted from here, what waits for a process.
    pub(super) fn descriptors_of_all(&self) -> usize {
        let waiting = if self.accept == Accept::Sidecar { self.max_waiting } else { 0 };
        let requested = if self.may_listen.is_empty() { 0 } else { MAX_REQUESTED };
        self.listen.len() + requested + 2 * usize::from(self.log.is_some()) + waiting
    }

    /// Of each process what it prints and its channel, twice; the way to it, where it is accepted from here; and that by which
    /// it asks for sockets, where it may.
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

    /// Has no more connections wait than these descriptors leave room for.
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

/// The signal of a name, with or without `SIG`, in any case.
pub fn signal(name: &str) -> Option<Signal> {
    let name = name.to_ascii_uppercase();
    format!("SIG{}", name.trim_start_matches("SIG")).parse().ok()
}

/// Whether a worker can be called this: its processes are `NAME/1` and so on.
pub(crate) fn is_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.chars().all(is_part)
}

/// Whether a variable can be given to a program.
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
