//! Workers: local processes that the sidecar keeps alive, and that inherit listening sockets from it.
//!
//! Each `[[worker]]` is a group of slots; each slot keeps one process alive. A process is forked by a process that
//! does nothing else (`fork_server`), and says what it is to become (`launch`), so that it inherits nothing else from the sidecar; what it leaves behind when it ends is killed
//! (`reaper`, `orphans`); and what a killed sidecar left, the next one ends (`record`).

mod added;
mod adding;
mod changes;
mod channel;
mod config;
mod fork_server;
mod group;
mod launch;
mod launcher;
mod limits;
mod log_file;
mod machine;
mod news;
mod orphans;
mod output;
mod pass;
mod precedence;
mod preflight;
mod process;
mod process_stat;
mod reaper;
mod record;
mod requested;
mod scaled;
mod slot;
mod sockets;
mod usage;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

pub use self::added::Added;
pub use self::adding::{NotAdded, NotRemoved, ReadSettings, Removed};
pub(crate) use self::changes::check_patterns;
pub use self::channel::{Addressee, Command, NoAnswer, OfJobs, Performer};
pub use self::config::{Accept, Config, Count, MAX_COUNT, Ready, Restart, signal};
pub(crate) use self::config::{is_name, is_variable};
use self::fork_server::ForkServer;
pub use self::fork_server::serve as serve_forks;
use self::group::Group;
pub use self::group::{Action, Outcomes, Which};
pub(crate) use self::launch::MAX_DESCRIPTORS;
use self::launcher::Launcher;

pub use self::machine::State;
use self::news::News;
pub use self::news::WorkerNews;
use self::orphans::Sweeper;
use self::output::Output;
pub use self::output::{Line, OUTPUT_LOG, Printed};
pub use self::pass::Balance;
use self::pass::Passing;
pub(crate) use self::preflight::flaws;
use self::reaper::Reaper;
pub use self::reaper::{End, Ended, WorkerError};
use self::record::Record;
pub(crate) use self::requested::Listening;
use self::requested::Requested;
use self::scaled::Scaled;
pub use self::slot::Report;
use self::slot::Shared;
use self::sockets::Sockets;
pub(crate) use self::sockets::parse as parse_listen;
pub use self::usage::Usage;
use crate::metrics::{Counter, Metrics};
use crate::net::{BindError, TakenPorts};
use crate::task::{Stop, Tasks};
use crate::tunnel::worker::{CallUnderWay, Channel};

/// All workers of the sidecar.
#[derive(Debug, Default)]
pub struct Workers {
    groups: Mutex<Groups>,
    news: Arc<News>,
    /// What groups need. None: there will be none.
    parts: Option<Parts>,
}

#[derive(Debug, Default)]
struct Groups {
    /// Including those being removed, until they are gone.
    all: Vec<Arc<Group>>,
    /// How many there have been.
    count: u64,
    /// No more may be added.
    are_over: bool,
}

#[derive(Debug)]
struct Parts {
    launcher: Arc<Launcher>,
    metrics: Arc<Metrics>,
    scaled: Arc<Scaled>,
    added: Arc<Added>,
    read: ReadSettings,
    /// How many descriptors all of them may take in the sidecar.
    descriptors: usize,
    /// Whether there is a register, through which processes are masters.
    has_register: bool,
    /// Serializes adding and removing.
    adding: tokio::sync::Mutex<()>,
}

/// The state of a group.
#[derive(Clone, Debug)]
pub struct GroupReport {
    /// Greater than those of earlier groups.
    pub number: u64,
    pub name: String,
    pub workers: Vec<Report>,
}

/// The outcomes of an operation on slots; and why it could not be saved, in words.
pub type Controlled = (Outcomes, Option<String>);

/// The sockets of workers, before any worker exists.
#[derive(Debug)]
pub struct BoundWorkers {
    groups: Vec<BoundGroup>,
    record: Record,
    scaled: Scaled,
    added: Added,
    read: ReadSettings,
    descriptors: usize,
}

/// A group whose processes can be started.
#[derive(Debug)]
struct BoundGroup {
    config: Config,
    sockets: Sockets,
    /// The configured number of processes; it may be scaled differently.
    count: u32,
    /// Whether it is in the configuration.
    is_configured: bool,
}

/// What starting workers requires.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// Where the register receives the sockets by which processes are masters; none: there is no register.
    pub channels: Option<mpsc::UnboundedSender<Channel>>,
    /// Where processes that perform jobs are reported.
    pub performers: mpsc::UnboundedSender<Performer>,
    /// How long a stop may take.
    pub patience: Duration,
    pub metrics: &'a Arc<Metrics>,
    pub tasks: &'a Tasks,
}

impl BoundWorkers {
    /// Listens on all their sockets, once what an earlier sidecar left is gone. The processes are recorded in `state`,
    /// if there is one, a folder that only this sidecar uses. Together they may use this many descriptors.
    pub fn bind(
        configs: &[Config],
        added: Added,
        read: ReadSettings,
        state: Option<PathBuf>,
        descriptors: usize,
        taken_ports: TakenPorts,
    ) -> Result<Self, BindError> {
        let (record, scaled) = (Record::new(state.clone()), Scaled::read(state));
        record.end_left(!configs.is_empty() || !added.is_empty());
        let saved = added.read_by(&read, configs);
        let bind = |config: Config, count: Count, is_configured: bool| {
            // An added one must not prevent the sidecar's start.
            let taken_ports = if is_configured { taken_ports } else { TakenPorts::Wait };
            let sockets = Sockets::new(&config, taken_ports)?;
            Ok(BoundGroup { config, sockets, count: count.number(), is_configured })
        };
        let configured = configs.iter().map(|config| bind(scaled.applied(config), config.count, true));
        let mut groups = configured.collect::<Result<Vec<_>, BindError>>()?;
        let promised: usize = groups.iter().map(|group| group.config.descriptors()).sum();
        let mut free = descriptors.saturating_sub(promised);
        for saved in &saved {
            let mut config = scaled.applied(saved);
            match config.fit(free) {
                Ok(()) => {
                    free -= config.descriptors();
                    groups.push(bind(config, saved.count, false)?);
                }
                Err(why) => tracing::error!(worker = config.name, why, "left out a saved worker"),
            }
        }
        scaled.warn_of_absent(|name| groups.iter().any(|group| group.config.name == name) || added.has(name));
        Ok(Self { groups, record, scaled, added, read, descriptors })
    }

    /// The names of those that will be started.
    pub fn names(&self) -> HashSet<String> {
        let of_group = |group: &BoundGroup| {
            let name = group.config.name.clone();
            (1..=group.config.count.number()).map(move |number| format!("{name}/{number}"))
        };
        self.groups.iter().flat_map(of_group).collect()
    }

    /// Starts them, on the caller's runtime.
    pub fn start(self, surroundings: Surroundings<'_>) -> Result<Arc<Workers>, WorkerError> {
        let Surroundings { channels, performers, patience, metrics, tasks } = surroundings;
        let news = Arc::<News>::default();
        let has_register = channels.is_some();
        let launcher = Arc::new(Launcher {
            reaper: Arc::new(Reaper::default()),
            fork_server: ForkServer::default(),
            record: self.record,
            sweeper: Sweeper::default(),
            channels: channels.unwrap_or_else(|| mpsc::unbounded_channel().0),
            performers,
            tasks: tasks.clone(),
            news: news.clone(),
            runtime: Handle::current(),
            descriptors: Arc::new(Semaphore::new(self.descriptors.min(Semaphore::MAX_PERMITS))),
            is_reaped: Mutex::default(),
        });
        let parts = Parts {
            launcher,
            metrics: metrics.clone(),
            scaled: Arc::new(self.scaled),
            added: Arc::new(self.added),
            read: self.read,
            descriptors: self.descriptors,
            has_register,
            adding: tokio::sync::Mutex::default(),
        };
        let workers = Arc::new(Workers { groups: Mutex::default(), news, parts: Some(parts) });
        for group in self.groups {
            workers.have(group)?;
        }
        for group in workers.by_priority() {
            // Nobody waits for the outcome.
            drop(group.resize(group.shared.config.count.number(), Instant::now()));
        }
        let (kept, stop) = (workers.clone(), tasks.stop_signal());
        tasks.critical("the keeper of workers", async move { kept.keep(patience, stop).await });
        Ok(workers)
    }
}

impl Workers {
    /// Adds a group, without a process yet. None: the sidecar is stopping.
    fn have(&self, bound: BoundGroup) -> Result<Option<Arc<Group>>, WorkerError> {
        let Some(Parts { launcher, metrics, .. }) = &self.parts else { return Ok(None) };
        launcher.reap()?;
        let BoundGroup { config, sockets, count, is_configured } = bound;
        let stop = launcher.tasks.stop_signal();
        let passing =
            (config.accept == Accept::Sidecar).then(|| Passing::new(config.balance, config.max_waiting, &stop));
        let permits = config.descriptors_of_all() as u32;
        let shared = Shared {
            output: Arc::new(Output::start(&config, &launcher.tasks)),
            config: Arc::new(config),
            sockets,
            members: Arc::default(),
            requested: Requested::default(),
            passing,
            launcher: launcher.clone(),
            metrics: metrics.clone(),
            restarts: Counter::default(),
            configured: count,
            // Configured ones are accounted for beforehand, so there is always room for them.
            _descriptors: launcher.descriptors.clone().try_acquire_many_owned(permits).ok(),
        };
        let mut groups = self.groups();
        if groups.are_over {
            return Ok(None);
        }
        groups.count += 1;
        let group = Group::new(shared, groups.count, is_configured, stop.child());
        groups.all.push(group.clone());
        drop(groups);
        let looked_after = group.clone();
        launcher.begin(async move { looked_after.look_after().await });
        Ok(Some(group))
    }

    /// Ends them when the sidecar stops.
    async fn keep(&self, patience: Duration, stop: Stop) {
        stop.requested().await;
        self.groups().are_over = true;
        let until = Instant::now() + patience;
        let groups = self.by_priority();
        let same = |one: &Arc<Group>, other: &Arc<Group>| one.priority() == other.priority();
        let mut later = groups.chunk_by(same).count();
        for groups in groups.chunk_by(same).rev() {
            later -= 1;
            let left = until.saturating_duration_since(Instant::now());
            // One that hangs leaves time for those after it.
            let most = if later == 0 { left } else { left - left / 4 };
            join_all(groups.iter().map(|group| group.end(most.min(group.shared.config.stop_timeout)))).await;
        }
    }

    /// Kills all of them, with what they started: they must not outlive the sidecar.
    pub fn kill(&self) {
        if let Some(parts) = &self.parts {
            parts.launcher.reaper.kill_all();
            parts.launcher.record.kill_orphans();
        }
    }

    /// The groups, oldest first, each with the state of its slots.
    pub fn reports(&self) -> impl Iterator<Item = GroupReport> {
        self.all().into_iter().map(|group| {
            let mut workers = group.reports();
            for report in &mut workers {
                let silent_since = report.pid.and_then(|pid| group.shared.members.silent_since(pid));
                if let Some(since) = silent_since {
                    report.why = format!("it does not answer since {}", humantime::format_rfc3339_seconds(since));
                }
            }
            GroupReport { number: group.number, name: group.name().to_owned(), workers }
        })
    }

    /// The changes of workers after a cursor, up to a limit.
    pub fn news(&self, since: u64, most: usize) -> WorkerNews {
        let now = self.reports().flat_map(|GroupReport { name, workers, .. }| {
            workers.into_iter().map(move |report| (name.clone(), report))
        });
        self.news.since(since, most, now)
    }

    /// Signals that there may be news.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// How many calls a process has under way, and the longest one. None: it has not connected.
    pub fn calls(&self, group: &str, pid: i32) -> Option<(usize, Option<CallUnderWay>)> {
        self.group(group)?.shared.members.calls(pid)
    }

    /// How many processes each group has had after the first of each slot.
    pub fn restarts(&self) -> impl Iterator<Item = (String, u64)> {
        self.all().into_iter().map(|group| (group.name().to_owned(), group.shared.restarts.get()))
    }

    /// For each group for which the sidecar accepts: how many connections wait for a process, and how many were closed
    /// because none took them.
    pub fn connections(&self) -> impl Iterator<Item = (String, (usize, u64))> {
        let accepting = |group: Arc<Group>| Some((group.name().to_owned(), group.shared.passing.as_ref()?.counts()));
        self.all().into_iter().filter_map(accepting)
    }

    /// For each group with its own log, how many printed lines are missing in it.
    pub fn log_lines_left_out(&self) -> impl Iterator<Item = (String, u64)> {
        let with_log = |group: Arc<Group>| Some((group.name().to_owned(), group.shared.output.left_out()?));
        self.all().into_iter().filter_map(with_log)
    }

    /// What a group's processes printed after the line with this number. None: there is no such group.
    pub fn output(&self, group: &str, after: u64, which: Which) -> Option<Printed> {
        let group = self.group(group)?;
        let worker = match which {
            Which::All => None,
            Which::Number(number) => Some(format!("{}/{number}", group.name())),
        };
        Some(group.shared.output.after(after, worker.as_deref()))
    }

    /// Performs an operation on slots of a group, even if the caller does not wait for the outcome; a new scale may be
    /// saved for good. None: there is no such group.
    pub fn control(
        &self,
        group: &str,
        which: Which,
        action: Action,
        is_kept: bool,
    ) -> Option<oneshot::Receiver<Controlled>> {
        let group = self.group(group)?;
        let (done, outcomes) = oneshot::channel();
        let scaled = self.parts.as_ref().filter(|_| is_kept).map(|parts| parts.scaled.clone());
        group.shared.launcher.clone().begin(async move {
            let (outcomes, not_kept) = match (scaled, action) {
                (Some(scaled), Action::Scale(count)) => {
                    let name = group.name().to_owned();
                    let kept_count = Some(count).filter(|it| *it != group.shared.configured);
                    // It is saved even if the sidecar stops before all have ended.
                    let keep = async {
                        let kept = spawn_blocking(move || scaled.keep(&name, kept_count)).await;
                        kept.unwrap_or_else(|error| Err(error.into())).err()
                    };
                    group.scale(count, keep).await
                }
                _ => (group.carry_out(which, action).await, None),
            };
            // The caller may be gone.
            let _ = done.send((outcomes, not_kept.map(|error| error.to_string())));
        });
        Some(outcomes)
    }

    /// The selected workers of a group, or of all groups, for sending commands.
    pub fn addressees(&self, group: Option<&str>, which: Which) -> Vec<Addressee> {
        let groups = self.all().into_iter().filter(|it| group.is_none_or(|group| group == it.name()));
        groups.flat_map(|group| group.addressees(which).collect::<Vec<_>>()).collect()
    }

    /// Begins a rolling restart of all groups, concurrently; the log shows the outcome.
    pub fn roll(&self) {
        for group in self.all() {
            group.shared.launcher.clone().begin(async move {
                let worker = group.name();
                let outcomes = group.carry_out(Which::All, Action::Roll).await;
                match outcomes.into_iter().find_map(|(number, outcome)| Some((number, outcome.err()?))) {
                    None => tracing::info!(worker, "the processes were replaced"),
                    Some((number, why)) => {
                        tracing::error!(
                            worker,
                            number,
                            why,
                            "a rolling restart ended there, and what it has not replaced stays as it is"
                        );
                    }
                }
            });
        }
    }

    fn by_priority(&self) -> Vec<Arc<Group>> {
        let mut groups = self.all();
        groups.sort_by_key(|group| group.priority());
        groups
    }

    fn group(&self, name: &str) -> Option<Arc<Group>> {
        self.groups().all.iter().find(|group| group.name() == name).cloned()
    }

    fn all(&self) -> Vec<Arc<Group>> {
        self.groups().all.clone()
    }

    /// Whether they end, as the sidecar stops.
    pub fn are_over(&self) -> bool {
        self.groups().are_over
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
