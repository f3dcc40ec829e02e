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
mod orphans;
mod output;
mod process;
mod reaper;
mod record;
mod slot;
mod sockets;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use nix::sys::signal::Signal;
use rmpv::Value;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc;
use tokio::time::Instant;

pub(crate) use self::changes::check_patterns;
pub use self::config::{Config, Count, MAX_COUNT, Ready, Restart, signal};
pub(crate) use self::config::{is_name, is_variable};
use self::group::Group;
pub use self::group::{Answer, Outcomes, Which};
pub use self::launch::{COMMAND as LAUNCH, launch};
pub use self::output::Line;
use self::process::Launcher;
use self::reaper::Reaper;
use self::record::Record;
use self::slot::Shared;
pub use self::slot::{Report, State};
use self::sockets::Sockets;
pub(crate) use self::sockets::parse as parse_listen;
use crate::net::{Address, BindError};
use crate::task::{Stop, Tasks};
use crate::tunnel::worker::Channel;

/// All workers of the sidecar.
#[derive(Debug)]
pub struct Workers {
    /// By their names.
    groups: Vec<Arc<Group>>,
    reaper: Arc<Reaper>,
}

/// Why workers cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("cannot watch over workers: {0}")]
    Watch(io::Error),
}

/// What workers are listening on, before anybody of them is there.
#[derive(Debug)]
pub struct BoundWorkers {
    groups: Vec<(Config, Sockets)>,
    record: Record,
}

impl BoundWorkers {
    /// Listens on all their sockets, once what an earlier sidecar left is gone. Which processes there are is recorded
    /// in `state`, if there is such a folder, which is this sidecar's alone.
    pub fn bind(configs: &[Config], state: Option<PathBuf>) -> Result<Self, BindError> {
        let record = Record::new(state);
        record.end_left();
        let bind = |config: &Config| Ok((config.clone(), Sockets::bind(config)?));
        let groups = configs.iter().map(bind).collect::<Result<_, _>>()?;
        Ok(Self { groups, record })
    }

    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.groups.iter().flat_map(|(_, sockets)| sockets.addresses())
    }

    /// Starts them. The register takes over their `channels`. A stop takes no longer than `patience`.
    pub fn start(
        self,
        channels: mpsc::UnboundedSender<Channel>,
        patience: Duration,
        tasks: &Tasks,
    ) -> Result<Arc<Workers>, WorkerError> {
        let reaper = Reaper::new().map_err(WorkerError::Watch)?;
        let ended = unix::signal(SignalKind::child()).map_err(WorkerError::Watch)?;
        let (record, tasks) = (self.record, tasks.clone());
        let launcher = Arc::new(Launcher { reaper: reaper.clone(), record, channels, tasks: tasks.clone() });
        let group = |(config, sockets)| {
            let (output, members) = (Arc::default(), Arc::default());
            Group::new(Shared { config, sockets, output, members, launcher: launcher.clone() })
        };
        let workers = Arc::new(Workers { groups: self.groups.into_iter().map(group).collect(), reaper });
        let (kept, stop) = (workers.clone(), tasks.stop_signal());
        tasks.critical("the keeper of workers", async move {
            tokio::select! {
                never = kept.reaper.run(ended) => match never {},
                () = kept.keep(patience, stop) => {}
            }
        });
        Ok(workers)
    }
}

impl Workers {
    async fn keep(&self, patience: Duration, stop: Stop) {
        let mut groups = self.groups.clone();
        groups.sort_by_key(|group| group.shared.config.priority);
        for group in &groups {
            group.scale(group.shared.config.count.number()).await;
        }
        tokio::select! {
            () = stop.requested() => {}
            _ = join_all(groups.iter().map(Group::follow_changes)) => {}
        }
        let until = Instant::now() + patience;
        for group in groups.iter().rev() {
            let left = until.saturating_duration_since(Instant::now());
            group.end(left.min(group.shared.config.stop_timeout)).await;
        }
    }

    /// The groups, each with what is known of its slots.
    pub fn reports(&self) -> impl Iterator<Item = (&str, Vec<Report>)> {
        self.groups.iter().map(|group| (group.name(), group.reports()))
    }

    /// What a group's processes printed after the line of this number. None: there is no such group.
    pub fn output(&self, group: &str, after: u64, number: Option<u32>) -> Option<Vec<Line>> {
        let group = self.group(group)?;
        let worker = number.map(|number| format!("{}/{number}", group.name()));
        Some(group.shared.output.after(after, worker.as_deref()))
    }

    pub async fn start(&self, group: &str, which: Which) -> Option<Outcomes> {
        Some(self.group(group)?.start(which).await)
    }

    pub async fn stop(&self, group: &str, which: Which) -> Option<Outcomes> {
        Some(self.group(group)?.stop(which).await)
    }

    /// Stops and starts; the clients of its sockets wait meanwhile.
    pub async fn restart(&self, group: &str, which: Which) -> Option<Outcomes> {
        Some(self.group(group)?.restart(which).await)
    }

    /// Puts a new process in the place of each once it is ready, one after the other; who asks meanwhile joins.
    pub async fn roll(&self, group: &str) -> Option<Outcomes> {
        Some(self.group(group)?.roll().await)
    }

    pub async fn scale(&self, group: &str, count: u32) -> Option<Outcomes> {
        Some(self.group(group)?.scale(count.min(MAX_COUNT)).await)
    }

    pub async fn signal(&self, group: &str, which: Which, signal: Signal) -> Option<Outcomes> {
        Some(self.group(group)?.signal(which, signal).await)
    }

    /// What each says to a command, within this time.
    pub async fn command(
        &self,
        group: &str,
        which: Which,
        name: &str,
        data: &Value,
        within: Duration,
    ) -> Option<Vec<(u32, Answer)>> {
        Some(self.group(group)?.command(which, name, data, within).await)
    }

    fn group(&self, name: &str) -> Option<&Arc<Group>> {
        self.groups.iter().find(|group| group.name() == name)
    }
}
