//! Orphans: what a worker started and did not take along when it ended. They carry its mark in their environment, however
//! often they forked and whatever session they made their own.

use std::collections::HashSet;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The variable that holds the mark of a process.
pub(super) const MARK: &str = "ROSTER_PROCESS";

/// How often it is looked for more of them at most, and what is waited in between: one that is killed may have started
/// another in the moment before.
const MAX_LOOKS: usize = 100;
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Kills what the processes of these marks left behind, until nothing of it is left; blocks meanwhile.
pub(super) fn kill_marked(marks: &[String]) {
    let entries: HashSet<Vec<u8>> = marks.iter().map(|mark| format!("{MARK}={mark}").into_bytes()).collect();
    let is_marked = |pid: &Pid| {
        // One that has ended has none any more.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| entries.contains(variable))
    };
    let mut killed = HashSet::new();
    for _ in 0..MAX_LOOKS {
        let found: Vec<Pid> = processes().filter(is_marked).filter(|pid| kill(*pid, Signal::SIGKILL).is_ok()).collect();
        if found.is_empty() {
            break;
        }
        killed.extend(found);
        sleep(LOOK_INTERVAL);
    }
    if !killed.is_empty() {
        tracing::info!(count = killed.len(), "killed what a worker left behind");
    }
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)))
}
