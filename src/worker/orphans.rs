//! Orphans: what a worker started and did not take along when it ended. They have its session, or carry its mark in their
//! environment, however often they forked.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::process_stat::ProcessStat;

/// The variable that holds the mark of a process.
pub(super) const MARK: &str = "ROSTER_PROCESS";

/// How much of an environment is read: any process can make its own as large as it likes.
const MAX_ENVIRONMENT_BYTES: u64 = 256 * 1024;

/// How many threads of a process are asked for its environment whose first one has ended.
const MAX_THREADS: usize = 64;

/// How often it is looked for more of them at most, and what is waited in between: one that is killed may have started
/// another in the moment before.
const MAX_LOOKS: usize = 100;
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Kills what a process of ours left behind, until nothing of it is left; blocks meanwhile.
pub(super) fn kill_left_by(ended: Pid, mark: &str) {
    let is_marked = marked_by(&[mark]);
    let killed = kill_all(|| {
        // Nobody else's processes are looked at, since looking may take as long as they like. Whatever a worker started
        // descends from this process, which reaps its orphans.
        let living = descendants();
        let is_its = |(pid, stat): &(Pid, ProcessStat)| stat.session == ended || is_marked(*pid);
        living.into_iter().filter(is_its).map(|(pid, _)| pid).collect()
    });
    if killed > 0 {
        tracing::warn!(pid = ended.as_raw(), count = killed, "killed what a process left behind when it ended");
    }
}

/// Kills what processes of an earlier sidecar left behind; blocks meanwhile.
pub(super) fn kill_marked(marks: &[&str]) {
    let is_marked = marked_by(marks);
    let killed = kill_all(|| processes().filter(|pid| is_marked(*pid)).collect());
    if killed > 0 {
        tracing::warn!(count = killed, "killed what workers of an earlier sidecar left behind");
    }
}

/// Kills what is found until nothing is found any more; how many that were.
fn kill_all(find: impl Fn() -> Vec<Pid>) -> usize {
    let mut killed = HashSet::new();
    for _ in 0..MAX_LOOKS {
        let found: Vec<Pid> = find().into_iter().filter(|pid| kill(*pid, Signal::SIGKILL).is_ok()).collect();
        if found.is_empty() {
            break;
        }
        killed.extend(found);
        sleep(LOOK_INTERVAL);
    }
    killed.len()
}

fn marked_by(marks: &[&str]) -> impl Fn(Pid) -> bool + use<> {
    let entries: HashSet<Vec<u8>> = marks.iter().map(|mark| format!("{MARK}={mark}").into_bytes()).collect();
    move |pid| environment(pid).split(|byte| *byte == 0).any(|variable| entries.contains(variable))
}

/// The living processes that descend from this one.
fn descendants() -> Vec<(Pid, ProcessStat)> {
    let stats: HashMap<Pid, ProcessStat> =
        processes().filter_map(|pid| Some((pid, ProcessStat::of(pid).filter(|stat| !stat.is_over)?))).collect();
    let is_ours = |pid: &Pid| {
        // Numbers are used again while one looks: no chain is followed for ever.
        let mut above = stats.get(pid).map(|stat| stat.parent);
        for _ in 0..stats.len() {
            match above {
                Some(parent) if parent == Pid::this() => return true,
                Some(parent) => above = stats.get(&parent).map(|stat| stat.parent),
                None => return false,
            }
        }
        false
    };
    stats.iter().filter(|(pid, _)| is_ours(pid)).map(|(pid, stat)| (*pid, *stat)).collect()
}

/// The environment of a process; empty where it has ended or may not be read.
fn environment(pid: Pid) -> Vec<u8> {
    let read = |path: &str| {
        let mut bytes = Vec::new();
        // What cannot be read to the end says what it says until there.
        let _ = File::open(path).map(|file| file.take(MAX_ENVIRONMENT_BYTES).read_to_end(&mut bytes));
        bytes
    };
    let whole = read(&format!("/proc/{pid}/environ"));
    if !whole.is_empty() {
        return whole;
    }
    // Its first thread may have ended without the others.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().take(MAX_THREADS);
    let read_of = |thread: fs::DirEntry| read(&thread.path().join("environ").to_string_lossy());
    threads.map(read_of).find(|environment| !environment.is_empty()).unwrap_or_default()
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_what_descends_from_this_process_is_looked_at_and_no_environment_is_read_whole() {
        let mut child = Command::new("sleep").arg("60").env("LARGE", "x".repeat(100_000)).spawn().expect("it starts");
        let pid = Pid::from_raw(child.id() as i32);
        let is_found = |pid| descendants().iter().any(|(found, _)| *found == pid);
        assert!(is_found(pid) && !is_found(Pid::from_raw(1)) && !is_found(Pid::this()));
        assert!((1..=MAX_ENVIRONMENT_BYTES as usize).contains(&environment(pid).len()));
        child.kill().and_then(|()| child.wait()).expect("it ends");
        assert!(!is_found(pid) && environment(pid).is_empty());
    }
}
