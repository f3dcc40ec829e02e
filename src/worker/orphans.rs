//! Orphans: what a worker started and did not take along when it ended. They carry its mark in their environment, however
//! often they forked and whatever session they made their own.

use std::fs;
use std::process;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The variable that holds the mark of a process.
pub(super) const MARK: &str = "ROSTER_PROCESS";

/// Kills what the process of this mark left behind; how many that were. They are children of this process by then, so
/// that their numbers are theirs until it reaps them.
pub(super) fn kill_marked(mark: &str) -> usize {
    let entry = format!("{MARK}={mark}");
    children().filter(|pid| has_in_environment(*pid, &entry)).filter(|pid| kill(*pid, Signal::SIGKILL).is_ok()).count()
}

fn children() -> impl Iterator<Item = Pid> {
    let own = process::id().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(move |entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name before may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let parent = rest.split_whitespace().nth(1)?;
        (parent == own).then(|| Pid::from_raw(pid))
    })
}

fn has_in_environment(pid: Pid, entry: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == entry.as_bytes())
}
