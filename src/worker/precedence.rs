//! Precedence: a process that begins leaves the processors to those that serve already, until it is ready; and so does what
//! the sidecar itself does to start processes, and to clear away what they leave.
//!
//! The process yields from its first moment on (`yield_to_others`) and says before it becomes its program whether it goes
//! on so (`Beginning::begin`), and the sidecar ends that (`lift`).

use std::collections::HashSet;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;
use std::{fs, io, process};

use nix::libc::{self, SCHED_IDLE, SCHED_OTHER};
use nix::unistd::{Pid, getsid};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::process_stat::{ProcessStat, children_by_thread, children_of, threads_of};
use super::reaper::Reaper;
use crate::task::unawaited;

/// How long a process yields at most: where all processors are always busy, it gets none meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// How much nicer than the rest of the sidecar those of its threads are that yield.
const YIELDING: i32 = 10;

/// How many threads are lifted of a process that is ready.
const MAX_LIFTED: usize = 10_000;

/// How often it is looked for more of them.
const MAX_ROUNDS: usize = 5;

/// As capabilities(7) numbers it; nobody else may lift other users' processes.
const CAP_SYS_NICE: u32 = 23;

/// How a process begins.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Beginning {
    niceness: i32,
    yields: bool,
}

impl Beginning {
    /// It yields where it can be lifted later, and says itself when it is ready: how long it stays up says nothing of one that
    /// gets no processor. Whatever a unit gives the sidecar, it is not before other programs.
    pub(super) fn of_a_process(reports_ready: bool) -> Self {
        Self { niceness: own(), yields: may_lift() && reports_ready }
    }

    /// Has this thread, which began as one that yields, go on so.
    pub(super) fn begin(self) {
        let this = Pid::from_raw(0);
        if niceness(this) != self.niceness {
            set(this, self.niceness);
        }
        if !self.yields {
            lift_one(this);
        }
    }
}

/// Has this process, which was just forked, leave the processors to others, until it is lifted.
pub(super) fn yield_to_others() {
    schedule(Pid::from_raw(0), SCHED_IDLE);
}

/// Does this on a thread of its own, which yields to others.
pub(super) async fn on_yielding_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    let runtime = Handle::current();
    let work = move || {
        if may_lift() {
            set(Pid::from_raw(0), own() + YIELDING);
        }
        let _entered = runtime.enter();
        // Whoever waited may have gone.
        let _ = done.send(work());
    };
    unawaited(name, work)?;
    result.await.map_err(io::Error::other)
}

/// Has a process serve like others once it is ready, or has yielded for long enough.
pub(super) async fn lift(pid: Pid, ready: oneshot::Receiver<()>, reaper: Arc<Reaper>) {
    // Where nobody will say so, it has ended, or is to.
    if may_lift() && !matches!(timeout(PATIENCE, ready).await, Ok(Err(_))) {
        let _ = spawn_blocking(move || lift_all(pid, &reaper.pids())).await;
    }
}

/// Lifts a process, and what it has started, also what is this process's child since the one between has ended: that is none
/// of the living ones, wherever it came from. What one that still yields starts meanwhile, another round finds.
fn lift_all(pid: Pid, living: &HashSet<Pid>) {
    for _ in 0..MAX_ROUNDS {
        let children = children_by_thread(Pid::this()).into_iter().flatten().flatten().flatten();
        let orphans = children.filter(|child| !living.contains(child) && is_orphan(*child, pid, living));
        let lifted: usize = orphans.chain([pid]).map(lift_with_own).sum();
        if lifted == 0 {
            return;
        }
    }
}

/// Lifts a process and its descendants. How many threads that were.
fn lift_with_own(pid: Pid) -> usize {
    let (mut found, mut lifted, mut seen) = (vec![pid], 0, 0);
    while let Some(pid) = found.pop() {
        for thread in threads_of(pid).unwrap_or_default() {
            if seen < MAX_LIFTED {
                lifted += usize::from(lift_one(thread));
                found.extend(children_of(pid, thread).unwrap_or_default());
            }
            seen += 1;
        }
    }
    lifted
}

/// Whether a child of this process is neither one that it starts now, nor in the session of another that still yields.
fn is_orphan(child: Pid, lifted: Pid, living: &HashSet<Pid>) -> bool {
    let Ok(Some(ProcessStat { session, .. })) = ProcessStat::of(child) else { return false };
    let yields = living.contains(&session) && session != lifted && policy(session) == SCHED_IDLE;
    !yields && getsid(None) != Ok(session)
}

/// Whether it yielded, and does not any more.
fn lift_one(thread: Pid) -> bool {
    policy(thread) == SCHED_IDLE && schedule(thread, SCHED_OTHER)
}

/// Whether this process may lift any other: it has the capability for that, and in a container it is tried too, on a thread
/// that ends then. Where no thread can be had, it may not for this time. One that was given another policy leaves it alone.
pub(super) fn may_lift() -> bool {
    static MAY_LIFT: OnceLock<bool> = OnceLock::new();
    let tries = || {
        let this = Pid::from_raw(0);
        let before = niceness(this);
        let is_ordinary = policy(this) == SCHED_OTHER && has_capability(CAP_SYS_NICE);
        is_ordinary
            && set(this, before + 1)
            && set(this, before)
            && schedule(this, SCHED_IDLE)
            && schedule(this, SCHED_OTHER)
    };
    MAY_LIFT.get().copied().unwrap_or_else(|| {
        let (tell, told) = mpsc::channel();
        let tries = move || {
            // It is awaited.
            let _ = tell.send(tries());
        };
        let tried = unawaited("trial", tries).ok().and_then(|()| told.recv().ok());
        tried.is_some_and(|may| *MAY_LIFT.get_or_init(|| may))
    })
}

fn has_capability(number: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    effective.is_some_and(|effective| effective >> number & 1 == 1)
}

/// The niceness of the sidecar, or 0 where it is less: not of the thread, which may yield.
fn own() -> i32 {
    niceness(Pid::from_raw(process::id() as i32)).max(0)
}

#[allow(unsafe_code)]
fn niceness(thread: Pid) -> i32 {
    // Safety: only numbers are passed.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, thread.as_raw() as libc::id_t) }
}

#[allow(unsafe_code)]
fn set(thread: Pid, to: i32) -> bool {
    // Safety: only numbers are passed.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, thread.as_raw() as libc::id_t, to) == 0 }
}

#[allow(unsafe_code)]
fn policy(thread: Pid) -> libc::c_int {
    // Safety: only a number is passed.
    unsafe { libc::sched_getscheduler(thread.as_raw()) }
}

#[allow(unsafe_code)]
fn schedule(thread: Pid, policy: libc::c_int) -> bool {
    // Safety: it is read alone, and as these policies want it.
    unsafe {
        let parameters: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(thread.as_raw(), policy, &raw const parameters) == 0
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};
    use std::sync::Mutex;
    use std::thread::sleep;

    use super::*;

    /// Each lifts what it does not know.
    static TURN: Mutex<()> = Mutex::new(());

    /// Whether it can be tried here.
    fn yields() -> bool {
        if !may_lift() {
            eprintln!("skipped: it takes CAP_SYS_NICE");
        }
        may_lift()
    }

    #[allow(unsafe_code)]
    fn start_yielding(command: &mut Command) -> (Child, Pid) {
        let yields = || {
            yield_to_others();
            Ok(())
        };
        // Safety: it is one system call.
        let child = unsafe { command.pre_exec(yields) }.spawn().expect("it starts");
        let pid = Pid::from_raw(child.id() as i32);
        (child, pid)
    }

    fn end(mut child: Child) {
        child.kill().and_then(|()| child.wait()).expect("it ends");
    }

    #[tokio::test]
    async fn what_is_started_yields_until_it_is_lifted_with_what_it_has_started() {
        if !yields() {
            return;
        }
        let _turn = TURN.lock();
        let (child, pid) = start_yielding(Command::new("sh").args(["-c", "sleep 60 & wait"]));
        let started = loop {
            if let Some(&[started]) = children_of(pid, pid).as_deref() {
                break started;
            }
            sleep(Duration::from_millis(5));
        };
        assert_eq!([pid, started].map(policy), [SCHED_IDLE; 2]);
        lift_all(pid, &HashSet::from([pid]));
        let policies = [pid, started].map(policy);
        nix::sys::signal::kill(started, nix::sys::signal::Signal::SIGKILL).expect("it lives");
        end(child);
        assert_eq!(policies, [SCHED_OTHER; 2]);
    }

    #[tokio::test]
    async fn what_has_left_its_parent_and_its_session_is_lifted_and_who_still_begins_is_not() {
        if !yields() {
            return;
        }
        let _turn = TURN.lock();
        // In a session of its own, and of this process's session.
        let of_its_own = || {
            let (child, pid) = start_yielding(Command::new("setsid").args(["sleep", "60"]));
            while getsid(Some(pid)) != Ok(pid) {
                sleep(Duration::from_millis(5));
            }
            (child, pid)
        };
        let (ready, pid) = of_its_own();
        let (orphan, left) = of_its_own();
        let (other, begins) = of_its_own();
        let (launched, launching) = start_yielding(Command::new("sleep").arg("60").process_group(0));
        lift_all(pid, &HashSet::from([pid, begins]));
        let policies = [pid, left, begins, launching].map(policy);
        [ready, orphan, other, launched].into_iter().for_each(end);
        assert_eq!(policies, [SCHED_OTHER, SCHED_OTHER, SCHED_IDLE, SCHED_IDLE]);
    }
}
