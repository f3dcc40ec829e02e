//! Stuck threads: a signal frees a thread of a runtime that the kernel holds in the close of a socket.
//!
//! Whoever sends a descriptor over a Unix socket chooses by `SO_LINGER` how long its close may take, and the kernel closes
//! it in the thread that reads, or that closes its own end. Since 6.16 Linux refuses such descriptors on request
//! (`net::refuse_descriptors`). On older kernels one descriptor could hold a thread for hours. Any handled signal ends the
//! wait.
//!
//! The signal makes no other call fail: a thread is signalled only while it sleeps in a call that closes descriptors, and a
//! runtime's sockets never block there for another reason. The interrupted call returns as if the close had finished.

use std::cell::OnceCell;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{Pid, gettid};
use tokio::runtime::Builder;

/// How often the threads are checked; and how often, for how long, after one was stuck: so an attacker gains little by
/// repeating it.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const HURRIED_LOOK_INTERVAL: Duration = Duration::from_millis(5);
const HURRY: Duration = Duration::from_secs(600);

/// How often freed threads are logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Ignored by default: so it cannot kill a child process that has not handled it yet.
pub(crate) const SIGNAL: Signal = Signal::SIGURG;

/// The system calls in which the kernel closes descriptors that others have sent.
const CLOSING: [libc::c_long; 5] =
    [libc::SYS_close, libc::SYS_read, libc::SYS_readv, libc::SYS_recvfrom, libc::SYS_recvmsg];

/// The watched threads. There is one list for the process, as there is one handler of the signal.
static THREADS: Mutex<Vec<Weak<Thread>>> = Mutex::new(Vec::new());

thread_local! {
    static THIS: OnceCell<Arc<Thread>> = const { OnceCell::new() };
}

/// A thread of a runtime.
#[derive(Debug)]
struct Thread {
    id: Pid,
    /// Changes each time it parks or unparks; odd while it works.
    turn: AtomicU64,
    /// Its turn at the last check.
    seen: AtomicU64,
    is_freed: AtomicBool,
}

/// Watches the threads of a runtime, and frees those that are stuck.
pub fn watch(runtime: &mut Builder) -> io::Result<&mut Builder> {
    static IS_STARTED: Mutex<bool> = Mutex::new(false);
    let mut is_started = lock(&IS_STARTED);
    if !*is_started {
        handle_signal()?;
        thread::Builder::new().name("stuck threads".to_owned()).spawn(free_all)?;
        *is_started = true;
    }
    let rests = || Thread::with_this(|thread| thread.turn.store((thread.turn() | 1) + 1, Ordering::Relaxed));
    let goes_on = || Thread::with_this(|thread| thread.turn.store(thread.turn() | 1, Ordering::Relaxed));
    Ok(runtime.on_thread_park(rests).on_thread_unpark(goes_on))
}

/// Whether this thread was freed since the last call.
pub(crate) fn was_freed() -> bool {
    THIS.try_with(|this| this.get().is_some_and(|thread| thread.was_freed())).unwrap_or(false)
}

impl Thread {
    /// Only threads that run tasks park, none of those for blocking work.
    fn with_this(change: impl FnOnce(&Self)) {
        // A thread that is ending needs no watch.
        let _ = THIS.try_with(|this| change(this.get_or_init(Self::register)));
    }

    fn register() -> Arc<Self> {
        let (turn, seen) = (AtomicU64::new(1), AtomicU64::new(0));
        let thread = Arc::new(Self { id: gettid(), turn, seen, is_freed: AtomicBool::new(false) });
        lock(&THREADS).push(Arc::downgrade(&thread));
        thread
    }

    fn turn(&self) -> u64 {
        self.turn.load(Ordering::Relaxed)
    }

    fn was_freed(&self) -> bool {
        self.is_freed.load(Ordering::Relaxed) && self.is_freed.swap(false, Ordering::Relaxed)
    }

    /// Frees it if it has worked since the last check without parking, and sleeps in a close. Whether it did.
    fn free(&self) -> bool {
        let turn = self.turn();
        let is_same = self.seen.swap(turn, Ordering::Relaxed) == turn;
        let is_stuck = turn % 2 == 1 && is_same && self.sleeps_in_a_close();
        if is_stuck {
            self.is_freed.store(true, Ordering::Relaxed);
            send_signal(self.id);
        }
        is_stuck
    }

    /// False where the kernel does not tell.
    fn sleeps_in_a_close(&self) -> bool {
        let read = |file: &str| fs::read_to_string(format!("/proc/self/task/{}/{file}", self.id)).unwrap_or_default();
        let call = read("syscall").split(' ').next().and_then(|number| number.parse().ok());
        let sleeps = || read("stat").rsplit_once(')').is_some_and(|(_, fields)| fields.starts_with(" S "));
        call.is_some_and(|call| CLOSING.contains(&call)) && sleeps()
    }
}

/// Ends the wait of a thread. If it has ended meanwhile, its id is free or another thread's of this process, which handles
/// the signal too.
#[allow(unsafe_code)]
pub(crate) fn send_signal(thread: Pid) {
    // Safety: numbers alone.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread.as_raw(), SIGNAL as libc::c_int) };
}

/// Without `SA_RESTART`, by which the kernel would resume the wait.
#[allow(unsafe_code)]
pub(crate) fn handle_signal() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // Safety: it does nothing.
    unsafe { sigaction(SIGNAL, &action) }?;
    Ok(())
}

/// Checks all threads for as long as the process lives.
fn free_all() {
    let (mut last, mut logged, mut unlogged) = (None::<Instant>, None::<Instant>, 0_u64);
    loop {
        let is_hurried = last.is_some_and(|last| last.elapsed() < HURRY);
        sleep(if is_hurried { HURRIED_LOOK_INTERVAL } else { LOOK_INTERVAL });
        let threads: Vec<Arc<Thread>> = {
            let mut threads = lock(&THREADS);
            threads.retain(|thread| thread.strong_count() > 0);
            threads.iter().filter_map(Weak::upgrade).collect()
        };
        let freed = threads.iter().filter(|thread| thread.free()).count() as u64;
        if freed > 0 {
            last = Some(Instant::now());
            unlogged += freed;
        }
        if unlogged > 0 && logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            tracing::warn!(
                times = unlogged,
                "freed a thread that was stuck in a close: a client sent descriptors over a Unix socket to hold it; Linux 6.16 \
                 and newer refuse them"
            );
            (logged, unlogged) = (Some(Instant::now()), 0);
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection whose close takes longer than any test waits for it, and its peer, which reads nothing.
#[cfg(test)]
pub(crate) fn lingering() -> (std::net::TcpStream, std::net::TcpStream) {
    use std::io::Write;

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let stream = std::net::TcpStream::connect(listener.local_addr().expect("its own")).expect("it listens");
    let (peer, _) = listener.accept().expect("it came");
    stream.set_nonblocking(true).expect("a socket");
    while (&stream).write(&[0; 65_536]).is_ok() {}
    socket2::SockRef::from(&stream).set_linger(Some(Duration::from_secs(90))).expect("an option");
    (stream, closed_first(peer).into())
}

/// The same socket under a high number. A process that another test starts meanwhile has all sockets until it executes its
/// program, and then closes them, the highest first: when this is closed, no other lingers for it.
#[cfg(test)]
#[allow(unsafe_code)]
pub(crate) fn closed_first(socket: impl std::os::fd::AsFd) -> std::os::fd::OwnedFd {
    use nix::fcntl::{FcntlArg, fcntl};

    let high = fcntl(&socket, FcntlArg::F_DUPFD_CLOEXEC(512)).expect("a number that is free");
    // Safety: it has just been made, and is nobody else's.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(high) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_that_is_stuck_in_a_close_is_freed() {
        for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
            let (stream, _peer) = lingering();
            let runtime = watch(builder.worker_threads(1).enable_all()).and_then(Builder::build).expect("a runtime");
            let (tell, told) = mpsc::channel();
            thread::spawn(move || {
                let closes = async move {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    assert!(!was_freed());
                    drop(stream);
                    let _ = tell.send(was_freed());
                };
                let done = runtime.block_on(runtime.spawn(closes));
                runtime.shutdown_background();
                done
            });
            assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(true));
        }
    }

    #[test]
    fn a_thread_that_sleeps_for_another_reason_is_not_signalled() {
        let (_keep, told) = mpsc::channel::<()>();
        let (tell, id) = mpsc::channel();
        thread::spawn(move || {
            tell.send(Thread::register()).expect("it is awaited");
            told.recv()
        });
        let waits = id.recv().expect("a thread");
        for turn in [1, 1, 2, 2] {
            waits.turn.store(turn, Ordering::Relaxed);
            assert!(!waits.free());
        }
    }
}
