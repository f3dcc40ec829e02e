//! The record of processes: a killed sidecar could not end its workers, so the next one does, to avoid duplicates.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::orphans;
use super::process_stat::ProcessStat;
use crate::clock::boot_id;
use crate::permissions::own;

/// The file in the state folder.
const FILE: &str = "workers.json";

/// How long processes of an earlier sidecar may take to end, how soon killed ones are gone, and how often to check.
const PATIENCE: Duration = Duration::from_secs(3);
const KILL_TIMEOUT: Duration = Duration::from_secs(1);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The processes of workers.
#[derive(Debug)]
pub(super) struct Record {
    /// None: there is no folder for it.
    path: Option<PathBuf>,
    /// With what the marks of all processes begin that sidecars of this folder start, so that they are found also where
    /// they could not be recorded, as on a full disk. Empty: there is no folder.
    of_folder: String,
    /// The id of this boot.
    boot: String,
    processes: Mutex<BTreeMap<i32, Entry>>,
}

/// A process: pids are reused, but not by one with the same start time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    worker: String,
    /// In ticks since boot; none: unknown, so that it is only identified by its mark.
    started: Option<u64>,
    /// The id of the boot.
    boot: String,
    /// The mark in its environment, and in that of everything it started.
    mark: String,
}

impl Record {
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        let of_folder = folder.as_ref().and_then(|folder| fs::metadata(folder).ok());
        let of_folder = of_folder.map_or_else(String::new, |it| format!("{:x}.{:x}.", it.dev(), it.ino()));
        Self {
            path: folder.map(|folder| folder.join(FILE)),
            of_folder,
            boot: boot_id().to_owned(),
            processes: Mutex::default(),
        }
    }

    /// A mark for a new process.
    pub(super) fn mark(&self) -> String {
        format!("{}{}", self.of_folder, Uuid::new_v4().simple())
    }

    pub(super) fn add(&self, pid: Pid, worker: &str, mark: &str) {
        let started = match started(pid.as_raw()) {
            Ok(None) => return,
            // There was no free descriptor to check.
            started => started.unwrap_or_default(),
        };
        let entry = Entry { worker: worker.to_owned(), started, boot: self.boot.clone(), mark: mark.to_owned() };
        let mut processes = self.processes();
        processes.insert(pid.as_raw(), entry);
        self.write(&processes);
    }

    /// Unless another process has this pid by now. The file still has it until the next one is added, which harms nothing: who
    /// reads it knows a process by when it started.
    pub(super) fn remove(&self, pid: Pid, mark: &str) {
        let mut processes = self.processes();
        if processes.get(&pid.as_raw()).is_some_and(|entry| entry.mark == mark) {
            processes.remove(&pid.as_raw());
            if processes.is_empty() {
                self.write(&processes);
            }
        }
    }

    /// Ends what an earlier sidecar left running, which may hold the sockets that this one should listen on.
    pub(super) fn end_left(&self, has_workers: bool) {
        let has_record = self.path.as_ref().is_some_and(|path| fs::symlink_metadata(path).is_ok());
        if !has_workers && !has_record {
            return;
        }
        let left = self.left();
        let living: BTreeMap<i32, Entry> =
            left.clone().into_iter().filter(|(pid, entry)| entry.is_alive(*pid).unwrap_or(false)).collect();
        for (pid, Entry { worker, .. }) in &living {
            tracing::warn!(worker, pid, "ending a process that an earlier sidecar left");
            let _ = kill(Pid::from_raw(*pid), Signal::SIGTERM);
        }
        if !are_gone_within(PATIENCE, &left) {
            kill_all(&left);
        }
        // The number of one that had ended before may be another's session by now.
        kill_orphans(&left, &self.of_folder, &living);
        if !are_gone_within(KILL_TIMEOUT, &left) {
            tracing::error!(
                "cannot end all processes that an earlier sidecar left; end them as their user, or as root"
            );
        } else if !left.is_empty() {
            self.write(&BTreeMap::new());
        }
    }

    /// Kills what all recorded ones have started.
    pub(super) fn kill_orphans(&self) {
        let processes = self.processes().clone();
        if !processes.is_empty() {
            kill_orphans(&processes, "", &processes);
        }
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
    /// Whether the pid is still its own, as far as known.
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
        // There is no such group until it has its own session.
        if killpg(Pid::from_raw(*pid), Signal::SIGKILL).is_err() {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
    }
}

/// Kills what they started, and what is of a folder or in the sessions of some of them.
fn kill_orphans(processes: &BTreeMap<i32, Entry>, of_folder: &str, sessions: &BTreeMap<i32, Entry>) {
    let marks: Vec<&str> = processes.values().map(|entry| entry.mark.as_str()).collect();
    let first = |(pid, entry): (&i32, &Entry)| Some((Pid::from_raw(*pid), entry.started?));
    let sessions: HashMap<Pid, u64> = sessions.iter().filter_map(first).collect();
    orphans::kill_marked(&marks, of_folder, &sessions);
}

/// The start time of a process that has not ended.
fn started(pid: i32) -> io::Result<Option<u64>> {
    Ok(ProcessStat::of(Pid::from_raw(pid))?.map(|stat| stat.started))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// Has what is left be ended until this one is gone: on a slow machine a look at all is not always over in time.
    fn ends(mut child: Child, folder: &Path) {
        let until = Instant::now() + Duration::from_secs(60);
        let status = loop {
            Record::new(Some(folder.to_owned())).end_left(true);
            if let Some(status) = child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < until, "it lives");
        };
        assert!(!status.success());
    }

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
        let mut sleep = Command::new("sleep");
        let child = sleep.arg("120").env(orphans::MARK, "of-one-by-mark").spawn().expect("it starts");
        let record = Record::new(Some(folder.path().to_owned()));
        record.add(Pid::from_raw(child.id() as i32), "web/1", "of-one-by-mark");
        record.processes().values_mut().for_each(|entry| entry.started = None);
        record.write(&record.processes());
        ends(child, folder.path());
    }

    #[test]
    fn one_that_could_not_be_recorded_is_killed_by_the_mark_of_its_folder() {
        let [folder, other] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let record = |of: &tempfile::TempDir| Record::new(Some(of.path().to_owned()));
        let sleeps =
            |mark: String| Command::new("sleep").arg("120").env(orphans::MARK, mark).spawn().expect("it starts");
        let (mut child, mut of_other) = (sleeps(record(&folder).mark()), sleeps(record(&other).mark()));
        record(&folder).end_left(false);
        assert!(child.try_wait().expect("a child").is_none(), "there never were workers");
        ends(child, folder.path());
        assert!(of_other.try_wait().expect("a child").is_none());
        of_other.kill().and_then(|()| of_other.wait()).expect("it ends");
    }

    #[test]
    fn what_has_neither_the_mark_nor_the_group_of_a_process_ends_with_its_session() {
        let folder = tempfile::tempdir().expect("a folder");
        let script = "set -m; env -i sleep 60 & echo $!; wait";
        let mut command = Command::new("setsid");
        command.args(["bash", "-c", script]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("a line");
        let hidden: i32 = line.trim().parse().expect("a number");
        let record = Record::new(Some(folder.path().to_owned()));
        record.add(Pid::from_raw(child.id() as i32), "web/1", "of-another");
        assert!(started(hidden).expect("it is told").is_some());
        Record::new(Some(folder.path().to_owned())).end_left(true);
        child.wait().expect("it ends");
        let until = Instant::now() + Duration::from_secs(60);
        while started(hidden).expect("it is told").is_some() {
            assert!(Instant::now() < until, "it lives");
            sleep(LOOK_INTERVAL);
        }
    }
}
