//! The reaper: learns which of the sidecar's processes have ended, kills what they left behind, and leaves no zombie.

use std::collections::HashMap;
use std::io;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::sync::watch;

/// How a process ended; none: it has not.
pub(super) type Ended = watch::Receiver<Option<End>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Exited(i32),
    Killed(Signal),
}

#[derive(Debug, Default)]
pub(super) struct Reaper(Mutex<HashMap<Pid, watch::Sender<Option<End>>>>);

impl Reaper {
    /// What processes of ours leave behind, however far they went from them, becomes this process's to reap.
    pub(super) fn new() -> io::Result<Arc<Self>> {
        prctl::set_child_subreaper(true)?;
        Ok(Arc::default())
    }

    /// Starts a process, whose end is told.
    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<(Pid, Ended)> {
        // Before it can have been reaped.
        let mut processes = self.processes();
        let child = command.spawn()?;
        let pid = Pid::from_raw(child.id() as i32);
        let (ending, ended) = watch::channel(None);
        processes.insert(pid, ending);
        Ok((pid, ended))
    }

    /// Sends a signal to a process, unless it has ended: its number may be another's then.
    pub(super) fn signal(&self, pid: Pid, signal: Signal) -> Result<(), Errno> {
        if self.processes().contains_key(&pid) { kill(pid, signal) } else { Err(Errno::ESRCH) }
    }

    /// Kills a process and its group.
    pub(super) fn kill(&self, pid: Pid) {
        if self.processes().contains_key(&pid) {
            // Until it has its own session there is no such group.
            if killpg(pid, Signal::SIGKILL).is_err() {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }

    /// Reaps, for as long as it is polled.
    pub(super) async fn run(&self, mut ended: tokio::signal::unix::Signal) -> std::convert::Infallible {
        loop {
            while self.reap_one() {}
            ended.recv().await;
        }
    }

    /// Whether there was one to reap.
    fn reap_one(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let (pid, end) = match waitid(Id::All, flags) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, End::Exited(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, End::Killed(signal)),
            Err(Errno::EINTR) => return true,
            _ => return false,
        };
        let mut processes = self.processes();
        let ending = processes.remove(&pid);
        if ending.is_some() {
            // As long as it is not reaped, its number and its group's are nobody else's.
            let _ = killpg(pid, Signal::SIGKILL);
        }
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        drop(processes);
        if let Some(ending) = ending {
            ending.send_replace(Some(end));
        }
        true
    }

    fn processes(&self) -> MutexGuard<'_, HashMap<Pid, watch::Sender<Option<End>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
