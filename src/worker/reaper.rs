//! The reaper: detects which of the sidecar's processes have ended, kills what they left behind, and leaves no zombies.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::watch;

use crate::task::Tasks;

/// How a process ended; none: it has not.
pub type Ended = watch::Receiver<Option<End>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exited(i32),
    /// By the signal with this number, which may not have a name.
    Killed(i32),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "ended with code {code}"),
            Self::Killed(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "was ended by {signal}"),
                Err(_) => write!(f, "was ended by signal {number}"),
            },
        }
    }
}

/// Why workers cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch over workers: {0}")]
pub struct WorkerError(#[from] io::Error);

#[derive(Debug, Default)]
pub(super) struct Reaper(Mutex<Processes>);

#[derive(Debug, Default)]
struct Processes {
    /// Processes that have not been reaped.
    living: HashMap<Pid, watch::Sender<Option<End>>>,
    /// Those of them that are no workers, and end by themselves when the sidecar does.
    helpers: HashSet<Pid>,
    /// Starts under way, whose processes are not known yet, and how many starts there have been.
    starts: BTreeSet<u64>,
    started: u64,
    /// Ends of unknown processes, which may belong to those, each with the number of starts at that time.
    early: HashMap<Pid, (u64, End)>,
}

impl Processes {
    fn begin(&mut self) -> u64 {
        self.started += 1;
        self.starts.insert(self.started);
        self.started
    }

    /// A start has produced a process, or none.
    fn begun(&mut self, start: u64, pid: Option<Pid>) -> Ended {
        let (ending, ended) = watch::channel(None);
        match pid.map(|pid| (pid, self.early.remove(&pid))) {
            Some((_, Some((_, end)))) => drop(ending.send_replace(Some(end))),
            Some((pid, None)) => drop(self.living.insert(pid, ending)),
            None => {}
        }
        self.starts.remove(&start);
        let oldest = self.starts.first().copied().unwrap_or(u64::MAX);
        self.early.retain(|_, (at, _)| *at >= oldest);
        ended
    }

    /// A process has ended and was reaped.
    fn ended(&mut self, pid: Pid, end: End) {
        self.helpers.remove(&pid);
        match self.living.remove(&pid) {
            Some(ending) => drop(ending.send_replace(Some(end))),
            None if !self.starts.is_empty() => drop(self.early.insert(pid, (self.started, end))),
            None => {}
        }
    }
}

impl Reaper {
    /// Reaps from now on, on a separate task. Whatever our processes leave behind, however far removed, becomes this
    /// process's to reap.
    pub(super) fn start(self: &Arc<Self>, tasks: &Tasks) -> Result<(), WorkerError> {
        prctl::set_child_subreaper(true).map_err(io::Error::from)?;
        let ended = unix::signal(SignalKind::child())?;
        let (reaper, stop) = (self.clone(), tasks.stop_signal());
        tasks.critical("the reaper of workers", async move {
            tokio::select! {
                never = reaper.run(ended) => match never {},
                () = stop.requested() => {}
            }
        });
        Ok(())
    }

    /// Starts a process, and reports its end.
    pub(super) fn spawn(&self, start: impl FnOnce() -> io::Result<Pid>) -> io::Result<(Pid, Ended)> {
        let begun = self.processes().begin();
        // This may take long, and the process may end before it is known here.
        let pid = start();
        let ended = self.processes().begun(begun, pid.as_ref().ok().copied());
        pid.map(|pid| (pid, ended))
    }

    /// Sends a signal to a process, unless it has ended: another may have its pid then.
    pub(super) fn signal(&self, pid: Pid, signal: Signal) -> Result<(), Errno> {
        if self.processes().living.contains_key(&pid) { kill(pid, signal) } else { Err(Errno::ESRCH) }
    }

    /// Interrupts what a process waits for in the kernel, and changes nothing else.
    pub(super) fn interrupt(&self, pid: Pid) {
        for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
            let _ = self.signal(pid, signal);
        }
    }

    /// Kills a process and its group.
    pub(super) fn kill(&self, pid: Pid) {
        if self.processes().living.contains_key(&pid) {
            // There is no such group until it has its own session.
            if killpg(pid, Signal::SIGKILL).is_err() {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }

    /// This process is no worker.
    pub(super) fn helps(&self, pid: Pid) {
        let mut processes = self.processes();
        if processes.living.contains_key(&pid) {
            processes.helpers.insert(pid);
        }
    }

    /// Kills all workers that have not ended in time, and what helps to keep them.
    pub(super) fn kill_all(&self) {
        let helpers = self.processes().helpers.clone();
        let (helpers, left): (Vec<Pid>, Vec<Pid>) = self.pids().into_iter().partition(|pid| helpers.contains(pid));
        if !left.is_empty() {
            tracing::warn!(count = left.len(), "killing workers that have not ended in time");
        }
        left.into_iter().chain(helpers).for_each(|pid| self.kill(pid));
    }

    /// Those that have not been reaped.
    pub(super) fn pids(&self) -> HashSet<Pid> {
        self.processes().living.keys().copied().collect()
    }

    /// Reaps while it is polled.
    async fn run(&self, mut ended: unix::Signal) -> Infallible {
        loop {
            while self.reap_one() {}
            ended.recv().await;
        }
    }

    /// Returns whether there was one to reap.
    fn reap_one(&self) -> bool {
        let Some((pid, end)) = next_ended() else { return false };
        let mut processes = self.processes();
        if processes.living.contains_key(&pid) {
            // Until it is reaped, its pid and its group's are not reused.
            let _ = killpg(pid, Signal::SIGKILL);
        }
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        processes.ended(pid, end);
        true
    }

    fn processes(&self) -> MutexGuard<'_, Processes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A child that has ended, but was not reaped yet. (Not by `nix`, which does not know real-time signals: a child killed
/// by one would be returned first forever.)
#[allow(unsafe_code)]
fn next_ended() -> Option<(Pid, End)> {
    let mut ended = MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // Safety: the kernel writes only what fits; and all zeros, which mean that there is none, are a valid value.
    let (pid, status, code) = unsafe {
        Errno::result(libc::waitid(libc::P_ALL, 0, ended.as_mut_ptr(), flags)).ok()?;
        let ended = ended.assume_init();
        (ended.si_pid(), ended.si_status(), ended.si_code)
    };
    let end = if code == libc::CLD_EXITED { End::Exited(status) } else { End::Killed(status) };
    (pid != 0).then(|| (Pid::from_raw(pid), end))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::task::stuck::{closed_first, lingering};

    #[test]
    fn one_that_has_no_session_of_its_own_yet_is_killed_too() {
        let reaper = Reaper::default();
        let (pid, _ended) = reaper
            .spawn(|| Ok(Pid::from_raw(Command::new("sleep").arg("60").spawn()?.id() as i32)))
            .expect("it starts");
        reaper.kill_all();
        let status = waitpid(pid, None).expect("it is a child");
        assert_eq!(status, nix::sys::wait::WaitStatus::Signaled(pid, Signal::SIGKILL, false));
    }

    #[test]
    #[allow(unsafe_code)]
    fn one_that_is_the_last_to_close_a_lingering_socket_executes_its_program_once_it_is_interrupted() {
        let (stream, peer) = lingering();
        let (peer, stream) = (peer.try_clone().expect("a low number"), closed_first(stream));
        let (mut begun, begins) = io::pipe().expect("a pipe");
        let (goes_on, mut go_on) = io::pipe().expect("a pipe");
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let mut command = Command::new("sleep");
            let waits = move || {
                (&begins).write_all(&std::process::id().to_ne_bytes())?;
                (&goes_on).read_exact(&mut [0; 1])
            };
            // Safety: it writes and reads alone.
            let started = unsafe { command.arg("60").pre_exec(waits) }.spawn();
            tell.send(started)
        });
        let mut pid = [0; 4];
        begun.read_exact(&mut pid).expect("it has begun");
        let pid = Pid::from_raw(i32::from_ne_bytes(pid));
        drop((stream, peer));
        go_on.write_all(b"x").expect("it waits");
        let reaper = Reaper::default();
        let begun = reaper.processes().begin();
        let _ended = reaper.processes().begun(begun, Some(pid));
        let until = Instant::now() + Duration::from_secs(60);
        let mut child = loop {
            assert!(Instant::now() < until, "it is interrupted");
            match told.recv_timeout(Duration::from_millis(100)) {
                Ok(started) => break started.expect("it executes its program"),
                Err(_) => reaper.interrupt(pid),
            }
        };
        child.kill().and_then(|()| child.wait()).expect("it ends");
    }

    #[test]
    fn the_end_of_a_process_is_heard_also_before_its_start_is_over() {
        let (mut processes, [first, second, other]) = (Processes::default(), [1, 2, 3].map(Pid::from_raw));
        let (one, two) = (processes.begin(), processes.begin());
        processes.ended(second, End::Exited(2));
        processes.ended(other, End::Exited(3));
        assert_eq!(*processes.begun(two, Some(second)).borrow(), Some(End::Exited(2)));
        let ended = processes.begun(one, Some(first));
        assert!(ended.borrow().is_none() && processes.early.is_empty(), "nobody asks for the other one");
        processes.ended(first, End::Killed(9));
        assert_eq!((*ended.borrow(), processes.living.len()), (Some(End::Killed(9)), 0));
        processes.ended(other, End::Exited(0));
        assert!(processes.early.is_empty(), "no start is under way");
        let (one, two) = (processes.begin(), processes.begin());
        processes.begun(one, None);
        processes.ended(other, End::Exited(0));
        let three = processes.begin();
        processes.begun(two, None);
        assert!(processes.early.is_empty(), "it ended before this one began");
        assert!(processes.begun(three, Some(other)).borrow().is_none());
    }
}
