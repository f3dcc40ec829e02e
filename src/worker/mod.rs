//! Workers: local processes that the sidecar keeps alive, and that inherit sockets on which it listens.
//!
//! Each `[[worker]]` is a group of slots; each slot keeps one process alive. A process is launched by this very binary
//! (`launch`), so that nothing of the sidecar's is inherited; what it leaves behind when it ends is killed (`reaper`,
//! `orphans`); and what a sidecar left that was killed, the next one ends (`record`).

mod changes;
mod channel;
mod config;
mod group;
mod launch;
mod limits;
mod log_file;
mod machine;
mod news;
mod orphans;
mod output;
mod pass;
mod preflight;
mod process;
mod process_stat;
mod reaper;
mod record;
mod scaled;
mod slot;
mod sockets;
mod usage;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::runtime::Handle;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

pub(crate) use self::changes::check_patterns;
pub use self::channel::{Addressee, Command, NoAnswer};
pub use self::config::{Accept, Config, Count, MAX_COUNT, Ready, Restart, signal};
pub(crate) use self::config::{is_name, is_variable};
use self::group::Group;
pub use self::group::{Action, Outcomes, Which};
pub use self::launch::{COMMAND as LAUNCH, launch};
pub use self::machine::State;
use self::news::News;
pub use self::news::WorkerNews;
use self::orphans::Sweeper;
use self::output::Output;
pub use self::output::{Line, OUTPUT_LOG, Printed};
pub use self::pass::Balance;
use self::pass::Passing;
pub(crate) use self::preflight::flaws;
use self::process::Launcher;
use self::reaper::Reaper;
use self::record::Record;
use self::scaled::Scaled;
pub use self::slot::Report;
use self::slot::Shared;
use self::sockets::Sockets;
pub(crate) use self::sockets::parse as parse_listen;
pub use self::usage::Usage;
use crate::metrics::{Counter, Metrics};
use crate::net::{BindError, TakenPorts};
use crate::task::{Phase, Stop, Tasks};
use crate::tunnel::worker::{CallUnderWay, Channel};

/// All workers of the sidecar.
#[derive(Debug, Default)]
pub struct Workers {
    groups: Vec<Arc<Group>>,
    /// None: there are no workers.
    launcher: Option<Arc<Launcher>>,
    news: Arc<News>,
    scaled: Option<Arc<Scaled>>,
}

/// What came of something that was done with slots; and why it could not be kept for good, in words.
pub type Controlled = (Outcomes, Option<String>);

/// Why workers cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch over workers: {0}")]
pub struct WorkerError(#[from] io::Error);

/// What workers are listening on, before anybody of them is there.
#[derive(Debug)]
pub struct BoundWorkers {
    /// Each with the number of processes that the configuration says.
    groups: Vec<(Config, Sockets, u32)>,
    record: Record,
    scaled: Scaled,
}

impl BoundWorkers {
    /// Listens on all their sockets, once what an earlier sidecar left is gone. Which processes there are is recorded
    /// in `state`, if there is such a folder, which is this sidecar's alone.
    pub fn bind(configs: &[Config], state: Option<PathBuf>, taken_ports: TakenPorts) -> Result<Self, BindError> {
        let (record, scaled) = (Record::new(state.clone()), Scaled::read(state));
        record.end_left();
        let bind = |(number, config): (usize, &Config)| {
            Ok((scaled.applied(config), Sockets::new(config, number, taken_ports)?, config.count.number()))
        };
        let groups: Result<_, BindError> = configs.iter().enumerate().map(bind).collect();
        Ok(Self { groups: groups?, record, scaled })
    }

    /// Starts them, on the runtime of the caller. The register takes over their `channels`. A stop takes no longer than
    /// `patience`.
    pub fn start(
        self,
        channels: mpsc::UnboundedSender<Channel>,
        patience: Duration,
        metrics: &Arc<Metrics>,
        tasks: &Tasks,
    ) -> Result<Arc<Workers>, WorkerError> {
        if self.groups.is_empty() {
            return Ok(Arc::default());
        }
        let ended = unix::signal(SignalKind::child())?;
        let news = Arc::<News>::default();
        let scaled = Arc::new(self.scaled);
        let launcher = Arc::new(Launcher {
            reaper: Reaper::new()?,
            record: self.record,
            sweeper: Sweeper::default(),
            channels,
            tasks: tasks.clone(),
            news: news.clone(),
            runtime: Handle::current(),
        });
        let group = |(config, sockets, configured): (Config, Sockets, u32)| {
            let passing = (config.accept == Accept::Sidecar).then(|| Passing::new(config.balance, config.max_waiting));
            Group::new(Shared {
                output: Arc::new(Output::start(&config, tasks)),
                config: Arc::new(config),
                sockets,
                members: Arc::default(),
                passing,
                launcher: launcher.clone(),
                metrics: metrics.clone(),
                restarts: Counter::default(),
                configured,
            })
        };
        let groups = self.groups.into_iter().map(group).collect();
        let workers = Arc::new(Workers { groups, launcher: Some(launcher.clone()), news, scaled: Some(scaled) });
        for group in workers.by_priority() {
            // Nobody waits for what comes of it.
            drop(group.resize(group.shared.config.count.number(), Instant::now()));
        }
        // What ends after the workers is reaped as well.
        let last = tasks.of(Phase::SharedFile);
        let stop = last.stop_signal();
        last.critical("the reaper of workers", async move {
            tokio::select! {
                never = launcher.reaper.run(ended) => match never {},
                () = stop.requested() => {}
            }
        });
        let (kept, stop) = (workers.clone(), tasks.stop_signal());
        tasks.critical("the keeper of workers", async move { kept.keep(patience, stop).await });
        Ok(workers)
    }
}

impl Workers {
    /// Ends them when the sidecar stops.
    async fn keep(&self, patience: Duration, stop: Stop) {
        tokio::select! {
            () = stop.requested() => {}
            _ = join_all(self.groups.iter().map(|group| group.follow_changes())) => {}
            _ = join_all(self.groups.iter().map(|group| group.watch_sockets())) => {}
        }
        let until = Instant::now() + patience;
        let groups = self.by_priority();
        let same = |one: &&Arc<Group>, other: &&Arc<Group>| one.priority() == other.priority();
        let mut later = groups.chunk_by(same).count();
        for groups in groups.chunk_by(same).rev() {
            later -= 1;
            let left = until.saturating_duration_since(Instant::now());
            // One that hangs leaves time to those after it.
            let most = if later == 0 { left } else { left - left / 4 };
            join_all(groups.iter().map(|group| group.end(most.min(group.shared.config.stop_timeout)))).await;
        }
    }

    /// Kills all that there are, with what they started: they are not to outlive the sidecar.
    pub fn kill(&self) {
        if let Some(launcher) = &self.launcher {
            launcher.record.kill_all();
        }
    }

    /// The names of the groups, in the order of the configuration, each with what is known of its slots.
    pub fn reports(&self) -> impl Iterator<Item = (&str, Vec<Report>)> {
        self.groups.iter().map(|group| {
            let mut reports = group.reports();
            for report in &mut reports {
                let silent_since = report.pid.and_then(|pid| group.shared.members.silent_since(pid));
                if let Some(since) = silent_since {
                    report.why = format!("it does not answer since {}", humantime::format_rfc3339_seconds(since));
                }
            }
            (group.name(), reports)
        })
    }

    /// What became of workers after a cursor, at most so many.
    pub fn news(&self, since: u64, most: usize) -> WorkerNews {
        let reports = self.reports();
        let now = reports.flat_map(|(group, reports)| reports.into_iter().map(|report| (group.to_owned(), report)));
        self.news.since(since, most, now)
    }

    /// Hears when there may be news.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// How many calls a process has under way, and which for longest. None: it has not connected.
    pub fn calls(&self, group: &str, pid: i32) -> Option<(usize, Option<CallUnderWay>)> {
        self.group(group)?.shared.members.calls(pid)
    }

    /// How many processes each group has had beside the first of each slot.
    pub fn restarts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.groups.iter().map(|group| (group.name(), group.shared.restarts.get()))
    }

    /// Of each group for which the sidecar accepts: how many connections wait for a process, and how many were closed
    /// since none took them.
    pub fn connections(&self) -> impl Iterator<Item = (&str, (usize, u64))> {
        self.groups.iter().filter_map(|group| Some((group.name(), group.shared.passing.as_ref()?.counts())))
    }

    /// Of each group with a log of its own, how many lines are not in it that were printed.
    pub fn log_lines_left_out(&self) -> impl Iterator<Item = (&str, u64)> {
        self.groups.iter().filter_map(|group| Some((group.name(), group.shared.output.left_out()?)))
    }

    /// What a group's processes printed after the line of this number. None: there is no such group.
    pub fn output(&self, group: &str, after: u64, which: Which) -> Option<Printed> {
        let group = self.group(group)?;
        let worker = match which {
            Which::All => None,
            Which::Number(number) => Some(format!("{}/{number}", group.name())),
        };
        Some(group.shared.output.after(after, worker.as_deref()))
    }

    /// Has something done with slots of a group, also when nobody waits for what comes of it; to how many it is scaled
    /// may be kept for good. None: there is no such group.
    pub fn control(
        &self,
        group: &str,
        which: Which,
        action: Action,
        is_kept: bool,
    ) -> Option<oneshot::Receiver<Controlled>> {
        let group = self.group(group)?.clone();
        let (done, outcomes) = oneshot::channel();
        let scaled = self.scaled.clone().filter(|_| is_kept);
        group.shared.launcher.clone().begin(async move {
            let (outcomes, not_kept) = match (scaled, action) {
                (Some(scaled), Action::Scale(count)) => {
                    let name = group.name().to_owned();
                    let kept_count = Some(count).filter(|it| *it != group.shared.configured);
                    // A sidecar that stops before all have ended has kept it.
                    let keep = async {
                        let kept = spawn_blocking(move || scaled.keep(&name, kept_count)).await;
                        kept.unwrap_or_else(|error| Err(error.into())).err()
                    };
                    group.scale(count, keep).await
                }
                _ => (group.carry_out(which, action).await, None),
            };
            // Whoever asked may have gone.
            let _ = done.send((outcomes, not_kept.map(|error| error.to_string())));
        });
        Some(outcomes)
    }

    fn by_priority(&self) -> Vec<&Arc<Group>> {
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by_key(|group| group.priority());
        groups
    }

    /// The workers of a group that are meant, or of all groups, as they can be commanded.
    pub fn addressees(&self, group: Option<&str>, which: Which) -> Vec<Addressee> {
        let groups = self.groups.iter().filter(|it| group.is_none_or(|group| group == it.name()));
        groups.flat_map(|group| group.addressees(which)).collect()
    }

    fn group(&self, name: &str) -> Option<&Arc<Group>> {
        self.groups.iter().find(|group| group.name() == name)
    }
}
