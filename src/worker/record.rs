//! The record of processes: a sidecar that was killed could not end its workers, and the next one does, so that there
//! are no doubles.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::orphans;
use super::process_stat::ProcessStat;
use crate::permissions::own;

/// The file in the state's folder.
const FILE: &str = "workers.json";

/// How long processes of an earlier sidecar may take to end, how soon they are gone that are killed, and how often it is
/// looked whether they are.
const PATIENCE: Duration = Duration::from_secs(3);
const KILL_TIMEOUT: Duration = Duration::from_secs(1);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Which processes of workers there are.
#[derive(Debug)]
pub(super) struct Record {
    /// None: there is no folder for it.
    path: Option<PathBuf>,
    /// Which start of the machine this is.
    boot: String,
    processes: Mutex<BTreeMap<i32, Entry>>,
}

/// A process: numbers are used again, but not by one that started at the same moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    worker: String,
    /// In ticks since the machine started; none: it could not be asked, and the process is known by its mark alone.
    started: Option<u64>,
    /// Which start of the machine that was.
    boot: String,
    /// What it and all that it started have in their environment.
    mark: String,
}

impl Record {
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        Self { path: folder.map(|folder| folder.join(FILE)), boot, processes: Mutex::default() }
    }

    pub(super) fn add(&self, pid: Pid, worker: &str, mark: &str) {
        let started = match started(pid.as_raw()) {
            Ok(None) => return,
            // No descriptor was left to look with.
            started => started.unwrap_or_default(),
        };
        let entry = Entry { worker: worker.to_owned(), started, boot: self.boot.clone(), mark: mark.to_owned() };
        let mut processes = self.processes();
        processes.insert(pid.as_raw(), entry);
        self.write(&processes);
    }

    /// Unless that number is another's by now.
    pub(super) fn remove(&self, pid: Pid, mark: &str) {
        let mut processes = self.processes();
        if processes.get(&pid.as_raw()).is_some_and(|entry| entry.mark == mark) {
            processes.remove(&pid.as_raw());
            self.write(&processes);
        }
    }

    /// Ends what an earlier sidecar left running, which may hold the sockets that this one is to listen on.
    pub(super) fn end_left(&self) {
        let left = self.left();
        for (pid, Entry { worker, .. }) in left.iter().filter(|(pid, entry)| entry.is_alive(**pid).unwrap_or(false)) {
            tracing::warn!(worker, pid, "ending a process that an earlier sidecar left");
            let _ = kill(Pid::from_raw(*pid), Signal::SIGTERM);
        }
        if !are_gone_within(PATIENCE, &left) {
            kill_all(&left);
        }
        kill_orphans(&left);
        if !are_gone_within(KILL_TIMEOUT, &left) {
            tracing::error!(
                "cannot end all processes that an earlier sidecar left; end them as their user, or as root"
            );
        } else if !left.is_empty() {
            self.write(&BTreeMap::new());
        }
    }

    /// Kills what all that there are have started.
    pub(super) fn kill_orphans(&self) {
        kill_orphans(&self.processes().clone());
    }

    fn left(&self) -> BTreeMap<i32, Entry> {
        let Some(path) = &self.path else { return BTreeMap::new() };
        if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return BTreeMap::new();
        }
        let read = own::open(path).map_err(|why| why.at(path)).and_then(io::read_to_string);
        let read = read.and_then(|written| Ok(serde_json::from_str::<BTreeMap<i32, Entry>>(&written)?));
        let mut left = match read {
            Ok(left) => left,
            Err(error) => {
                let cure = "if `ps` shows processes of workers that run already, end them";
                tracing::error!(path = %path.display(), %error, "cannot read which workers an earlier sidecar left; {cure}");
                return BTreeMap::new();
            }
        };
        left.retain(|_, entry| entry.boot == self.boot);
        left
    }

    fn write(&self, processes: &BTreeMap<i32, Entry>) {
        let Some(path) = &self.path else { return };
        let fresh = path.with_extension("new");
        let write = || {
            own::create(&fresh, 0o600)?.write_all(&serde_json::to_vec(processes)?)?;
            fs::rename(&fresh, path)
        };
        if let Err(error) = write() {
            tracing::warn!(path = %path.display(), %error, "cannot record the workers' processes");
        }
    }

    fn processes(&self) -> MutexGuard<'_, BTreeMap<i32, Entry>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Whether that number is still its own, as far as that can be known.
    fn is_alive(&self, pid: i32) -> io::Result<bool> {
        Ok(self.started.is_some() && started(pid)? == self.started)
    }
}

/// Whether all of them end in this time.
fn are_gone_within(patience: Duration, processes: &BTreeMap<i32, Entry>) -> bool {
    let until = Instant::now() + patience;
    while processes.iter().any(|(pid, entry)| entry.is_alive(*pid).unwrap_or(true)) {
        if Instant::now() >= until {
            return false;
        }
        sleep(LOOK_INTERVAL);
    }
    true
}

/// Kills those that are alive, with their groups.
fn kill_all(processes: &BTreeMap<i32, Entry>) {
    for (pid, _) in processes.iter().filter(|(pid, entry)| entry.is_alive(**pid).unwrap_or(false)) {
        // Until it has its own session there is no such group.
        if killpg(Pid::from_raw(*pid), Signal::SIGKILL).is_err() {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
    }
}

/// Kills what they started.
fn kill_orphans(processes: &BTreeMap<i32, Entry>) {
    let marks: Vec<&str> = processes.values().map(|entry| entry.mark.as_str()).collect();
    if !marks.is_empty() {
        orphans::kill_marked(&marks);
    }
}

/// When a process started that has not ended.
fn started(pid: i32) -> io::Result<Option<u64>> {
    Ok(ProcessStat::of(Pid::from_raw(pid))?.map(|stat| stat.started))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_has_ended_takes_no_other_of_the_same_number_along() {
        let folder = tempfile::tempdir().expect("a folder");
        let record = Record::new(Some(folder.path().to_owned()));
        record.add(Pid::this(), "web/1", "the-first");
        record.add(Pid::this(), "web/2", "the-next");
        record.remove(Pid::this(), "the-first");
        assert_eq!(record.left().values().map(|entry| &*entry.worker).collect::<Vec<_>>(), ["web/2"]);
        record.remove(Pid::this(), "the-next");
        assert!(record.left().is_empty());
    }

    #[test]
    fn one_whose_start_is_not_known_is_recorded_and_killed_by_its_mark() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut sleep = std::process::Command::new("sleep");
        let mut child = sleep.arg("60").env(orphans::MARK, "of-one-by-mark").spawn().expect("it starts");
        let record = Record::new(Some(folder.path().to_owned()));
        record.add(Pid::from_raw(child.id() as i32), "web/1", "of-one-by-mark");
        record.processes().values_mut().for_each(|entry| entry.started = None);
        record.write(&record.processes());
        Record::new(Some(folder.path().to_owned())).end_left();
        assert!(!child.wait().expect("it ends").success());
    }
}
