//! Processes that end with the tests, however these end.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::{SOON, ensure, eventually};

/// A process, killed on drop with all that it has started. A guardian beside it kills them, and takes its folder away,
/// when the tests are gone without having dropped it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    guardian: Child,
}

/// Reads until the tests close the pipe, be it by their own death. An interrupt is meant for the tests. A sidecar's
/// workers have groups of their own.
const GUARD: &str = r#"trap "" INT TERM; cat > /dev/null; workers=$(ps -o pid= --ppid "$0"); kill -9 "-$0"
    for worker in $workers; do kill -9 "-$worker"; done; rm -rf "$1""#;

impl Process {
    pub(crate) fn start(command: &mut Command, folder: &Path) -> Self {
        let child = command.process_group(0).stdin(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}; has `make deps` been run?"));
        let mut guardian = Command::new("sh");
        guardian.args(["-c", GUARD, &child.id().to_string()]).arg(folder).stdin(Stdio::piped());
        let guardian = guardian.spawn().expect("sh starts");
        Self { child, guardian }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with those of its children that have groups of their own, as workers have.
    pub(crate) fn kill_with_workers(self) {
        let children = Command::new("ps").args(["-o", "pid=", "--ppid", &self.child.id().to_string()]).output();
        let children = children.expect("ps starts").stdout;
        drop(self);
        for worker in String::from_utf8_lossy(&children).split_whitespace().filter_map(|child| child.parse().ok()) {
            let _ = killpg(Pid::from_raw(worker), Signal::SIGKILL);
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("the process is there");
    }

    /// Stops it in its tracks. Each of its threads comes to a halt by itself, so that is waited for.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        let threads = format!("/proc/{}/task", self.child.id());
        eventually("the process is frozen", SOON, || {
            let threads = std::fs::read_dir(&threads).expect("it is there").flatten();
            // `1234 (name) T …`; one that is gone meanwhile is still, too.
            let state = |stat: String| stat.rsplit_once(')').map_or("", |(_, rest)| rest).trim().chars().next();
            let stats = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
            ensure(stats.map(state).all(|state| state == Some('T')), "it runs")
        });
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Waits for its end.
    pub(crate) fn ends_within(&mut self, limit: Duration) -> ExitStatus {
        eventually("the process ends", limit, || {
            self.child.try_wait().expect("a child can be waited for").ok_or("it runs")
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        }
        let _ = self.child.wait();
        // It may have ended already.
        let _ = self.guardian.kill();
        let _ = self.guardian.wait();
    }
}
