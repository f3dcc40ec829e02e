//! The fork server: a process of the sidecar with one thread and little memory, which forks the processes of workers.
//!
//! A fork of the sidecar itself would copy what its threads are about, and to execute this binary anew for each process
//! takes longer than most programs take to begin. What the fork server forks is a child of the sidecar, not its own. It
//! knows nothing of a worker, and ends with the sidecar.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::prctl::set_name;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, send, sendmsg};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout};

use super::launch::{FIRST_DESCRIPTOR, MAX_DESCRIPTORS, Refusal, launch};
use super::precedence;
use super::reaper::{Ended, Reaper};

/// The command of the binary for this.
const COMMAND: &str = "fork-server";

/// This very binary, even if another has taken its path since.
const OWN_BINARY: &str = "/proc/self/exe";

/// Descriptors from here on do not collide with those that a program inherits; low, for hosts that allow few.
const ABOVE_ALL: RawFd = FIRST_DESCRIPTOR + MAX_DESCRIPTORS as RawFd;

/// How long it may take to answer, and how often it is interrupted meanwhile.
const INTERRUPT_INTERVAL: Duration = Duration::from_secs(1);
const MAX_INTERRUPTS: usize = 10;

const UNSUPPORTED: &str = "cannot start a process: this kernel lets no process fork another as a child of its parent \
                           (`CLONE_PARENT`), as gVisor does not; workers need that";

/// What a forked process is given: the socket by which it is told what to become, and where its output goes.
const GIVEN: usize = 3;

/// The sidecar's end. The process is started when it is first needed, and anew when it has ended.
#[derive(Debug, Default)]
pub(super) struct ForkServer(Mutex<Option<Running>>);

#[derive(Debug)]
struct Running {
    pid: Pid,
    socket: UnixStream,
}

impl ForkServer {
    /// Forks a process that is launched over this socket; blocks meanwhile. Where it cannot, the machine is short of something:
    /// that is no fault of the worker's.
    pub(super) fn fork(&self, reaper: &Reaper, given: &[OwnedFd; GIVEN]) -> Result<(Pid, Ended), Refusal> {
        // While it waits for its turn, nothing counts as being started.
        let mut server = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let forked = reaper.spawn(|| {
            let running = match server.take().filter(|running| running.ask(given).is_ok()) {
                Some(running) => running,
                // There was none, or it has ended.
                None => {
                    let running = Running::start(reaper)?;
                    running.ask(given)?;
                    running
                }
            };
            let answer = running.answer(reaper)?;
            *server = Some(running);
            if answer > 0 { Ok(Pid::from_raw(answer)) } else { Err(Errno::from_raw(-answer).into()) }
        });
        forked.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOSYS) => Refusal { why: UNSUPPORTED.to_owned(), is_short: true },
            _ => Refusal { is_short: true, ..Refusal::of("cannot start a process", &error) },
        })
    }
}

impl Running {
    fn start(reaper: &Reaper) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_read_timeout(Some(INTERRUPT_INTERVAL))?;
        let mut command = Command::new(OWN_BINARY);
        command.arg0("roster").arg(COMMAND).env_clear();
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        let (pid, _) = reaper.spawn(|| Ok(Pid::from_raw(command.spawn()?.id() as i32)))?;
        reaper.helps(pid);
        Ok(Self { pid, socket })
    }

    fn ask(&self, given: &[OwnedFd; GIVEN]) -> io::Result<()> {
        let raw = given.each_ref().map(AsRawFd::as_raw_fd);
        let (yields, rights) = ([u8::from(precedence::may_lift())], [ControlMessage::ScmRights(&raw)]);
        sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(&yields)], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// The number of a new process, or of an error, below 0. Where there is none, it is of no use any more: what it still
    /// says would be taken for the answer to another.
    fn answer(&self, reaper: &Reaper) -> io::Result<i32> {
        let mut answer = [0; 4];
        for _ in 0..MAX_INTERRUPTS {
            match (&self.socket).read_exact(&mut answer) {
                Ok(()) => return Ok(i32::from_be_bytes(answer)),
                // Until it executes this binary, it has all sockets of the sidecar too, and if it is the last to close one,
                // that takes as long as others chose for it (`SO_LINGER`).
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => reaper.interrupt(self.pid),
                Err(_) => break,
            }
        }
        reaper.kill(self.pid);
        Err(io::Error::other("the process that forks others does not answer; where it has ended, its output says why"))
    }
}

/// The main function of the fork server: `roster fork-server`.
pub fn serve() -> io::Result<Infallible> {
    // A Ctrl-C in the sidecar's terminal, and a stop of its whole unit, leave this process alone: the sidecar may start
    // processes until it has ended. What is forked heeds them once it can (`launch`).
    SigSet::all().thread_block()?;
    // It was executed as `/proc/self/exe`, which `ps` and `pgrep` would show.
    set_name(c"roster")?;
    close_inherited()?;
    let sidecar = take_stdin()?;
    loop {
        let asked = receive(&sidecar).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOTSOCK) => io::Error::other("only a sidecar runs this, for its `[[worker]]`s"),
            _ => error,
        })?;
        let Some((yields, given)) = asked else { std::process::exit(0) };
        let forked = match fork() {
            Ok(None) => {
                drop(sidecar);
                if yields {
                    precedence::yield_to_others();
                }
                match take(given) {
                    Ok(socket) => launch(&socket),
                    // The sidecar learns that it has ended before it became anything.
                    Err(_) => std::process::exit(127),
                }
            }
            Ok(Some(pid)) => pid.as_raw(),
            Err(error) => -(error as i32),
        };
        send(sidecar.as_raw_fd(), &forked.to_be_bytes(), MsgFlags::MSG_NOSIGNAL)?;
    }
}

/// What it is asked; none: the sidecar has ended.
#[allow(unsafe_code)]
fn receive(from: &UnixStream) -> io::Result<Option<(bool, [OwnedFd; GIVEN])>> {
    let mut yields = [0];
    let mut space = cmsg_space!([RawFd; GIVEN]);
    let mut parts = [IoSliceMut::new(&mut yields)];
    let message = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    if message.bytes == 0 {
        return Ok(None);
    }
    let given: Vec<OwnedFd> = message
        .cmsgs()?
        .filter_map(|part| if let ControlMessageOwned::ScmRights(raw) = part { Some(raw) } else { None })
        .flatten()
        // Safety: they were just received, and have no other owner.
        .map(|raw| unsafe { OwnedFd::from_raw_fd(raw) })
        .collect();
    let given = given.try_into().map_err(|_| io::Error::other("descriptors are missing"))?;
    Ok(Some((yields[0] == 1, given)))
}

/// Forks a child of the sidecar; none, in it.
#[allow(unsafe_code)]
fn fork() -> nix::Result<Option<Pid>> {
    let (flags, none) = (libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD), 0 as libc::c_long);
    // Safety: this process has one thread, and its child goes on with a copy of its memory.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) })?;
    if pid == 0 {
        return Ok(None);
    }
    let pid = Pid::from_raw(pid as i32);
    // There are kernels that take the flag and do not heed it.
    match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT) {
        Err(Errno::ECHILD) => Ok(Some(pid)),
        _ => {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
            Err(Errno::ENOSYS)
        }
    }
}

/// Has the output go where it should; returns the socket.
#[allow(unsafe_code)]
fn take([socket, stdout, stderr]: [OwnedFd; GIVEN]) -> io::Result<UnixStream> {
    dup2_stdout(stdout)?;
    dup2_stderr(stderr)?;
    aside(&socket)
}

/// The same descriptor, out of the way of those that a program inherits.
#[allow(unsafe_code)]
fn aside(descriptor: impl AsFd) -> io::Result<UnixStream> {
    let aside = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(ABOVE_ALL))?;
    // Safety: it was just created, and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(aside) }.into())
}

/// Takes standard input, which is empty from then on.
fn take_stdin() -> io::Result<UnixStream> {
    let taken = aside(io::stdin())?;
    dup2_stdin(File::open("/dev/null")?)?;
    Ok(taken)
}

/// Closes descriptors that the sidecar, and so this process, was started with.
#[allow(unsafe_code)]
fn close_inherited() -> io::Result<()> {
    // Safety: this process has just started, and has opened nothing.
    match Errno::result(unsafe { libc::close_range(FIRST_DESCRIPTOR as u32, u32::MAX, 0) }) {
        // Kernels before 5.9 do not have it, and a container's seccomp filter may not know it.
        Err(Errno::ENOSYS | Errno::EPERM) => {}
        closed => return Ok(closed.map(drop)?),
    }
    for descriptor in open_descriptors()?.into_iter().filter(|descriptor| *descriptor >= FIRST_DESCRIPTOR) {
        // Safety: as before. The one used for listing them is closed already.
        unsafe { libc::close(descriptor) };
    }
    Ok(())
}

fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let listed = fs::read_dir("/proc/self/fd")?.flatten();
    Ok(listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_open_is_listed() {
        let file = File::open("/dev/null").expect("it is there");
        assert!(open_descriptors().expect("they are listed").contains(&file.as_raw_fd()));
    }
}
