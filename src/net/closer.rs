//! The closer: a thread that closes sockets that other processes may have tampered with. The last process to close such
//! a socket waits for as long as they chose (`SO_LINGER`), for the socket itself and for each that they sent over it.

use std::convert::Infallible;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use nix::sys::signal::{SigEvent, SigSet, SigevNotify};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::gettid;

use crate::task::stuck::{SIGNAL, handle_signal};
use crate::task::unawaited;

/// How long closing a socket may take until a signal interrupts it.
const MAX_LINGER: Duration = Duration::from_millis(10);

/// How long dropping a socket waits until it is closed.
const TIMEOUT: Duration = Duration::from_secs(1);

static QUEUE: Mutex<Queue> = Mutex::new(Queue { sockets: Vec::new(), is_served: false });
static ADDED: Condvar = Condvar::new();

/// A socket that other processes may have tampered with. The closer closes it when this is dropped.
#[derive(Debug)]
pub(crate) struct SharedSocket {
    /// None: it is being dropped.
    descriptor: Option<OwnedFd>,
    /// Whether dropping waits until it is closed.
    is_awaited: bool,
}

#[derive(Debug)]
struct Queue {
    sockets: Vec<Closing>,
    /// Whether the thread runs.
    is_served: bool,
}

/// A socket to close; its fields are dropped in this order.
#[derive(Debug)]
struct Closing {
    _socket: OwnedFd,
    /// Dropped once it is closed.
    _done: mpsc::Sender<Infallible>,
}

impl SharedSocket {
    /// A listener, whose address should be free after the drop.
    pub(crate) fn listener(socket: impl Into<OwnedFd>) -> Self {
        Self { descriptor: Some(socket.into()), is_awaited: true }
    }

    pub(crate) fn connection(socket: impl Into<OwnedFd>) -> Self {
        Self { descriptor: Some(socket.into()), is_awaited: false }
    }

    /// Closes it at once, on this thread.
    pub(crate) fn close_here(mut self) {
        drop(self.descriptor.take());
    }

    /// Waits until the closer has closed it, so that its descriptor is free.
    pub(crate) fn close_and_wait(mut self) {
        self.is_awaited = true;
    }
}

impl AsFd for SharedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_ref().expect("only dropping takes it").as_fd()
    }
}

impl AsRawFd for SharedSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Drop for SharedSocket {
    fn drop(&mut self) {
        let Some(socket) = self.descriptor.take() else { return };
        let (done, closed) = mpsc::channel();
        let mut queue = queue();
        queue.sockets.push(Closing { _socket: socket, _done: done });
        // If no thread can be created now, they wait for the next attempt.
        queue.is_served = queue.is_served || unawaited("closer", close_all).is_ok();
        drop(queue);
        ADDED.notify_one();
        if self.is_awaited {
            let _ = closed.recv_timeout(TIMEOUT);
        }
    }
}

fn queue() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes the sockets, one after the other.
fn close_all() {
    let mut alarm = None;
    loop {
        let waiting = ADDED.wait_while(queue(), |queue| queue.sockets.is_empty());
        let sockets = mem::take(&mut waiting.unwrap_or_else(PoisonError::into_inner).sockets);
        // Without a timer, which the kernel may refuse, they are closed all the same.
        alarm = alarm.or_else(|| Alarm::of_this_thread().ok());
        alarm.iter_mut().for_each(|alarm| alarm.set(MAX_LINGER));
        drop(sockets);
        alarm.iter_mut().for_each(|alarm| alarm.set(Duration::ZERO));
    }
}

/// A timer that sends signals to its thread, each of which interrupts whatever the kernel waits for.
#[derive(Debug)]
struct Alarm(Timer);

impl Alarm {
    fn of_this_thread() -> io::Result<Self> {
        handle_signal()?;
        SigSet::from_iter([SIGNAL]).thread_unblock()?;
        let notify = SigevNotify::SigevThreadId { signal: SIGNAL, thread_id: gettid().as_raw(), si_value: 0 };
        Ok(Self(Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(notify))?))
    }

    /// Starts it with this interval, or stops it with zero.
    fn set(&mut self, interval: Duration) {
        // It fails for invalid times only.
        let _ = self.0.set(Expiration::Interval(interval.into()), TimerSetTimeFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};
    use std::os::unix::net::UnixStream;
    use std::thread;

    use socket2::SockRef;

    use super::*;
    use crate::net::Listener;

    const SOON: Duration = Duration::from_secs(60);

    #[test]
    fn a_listener_that_a_process_has_made_a_lingering_connection_blocks_nobody_who_closes_it() {
        let peer = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let listener = Listener::tcp("thrift.tcp", "127.0.0.1:0").expect("a free port");
        let inherited = SharedSocket::connection(listener.as_fd().try_clone_to_owned().expect("a descriptor"));
        let socket = SockRef::from(&inherited);
        socket.shutdown(Shutdown::Read).expect("anybody may");
        socket.set_nonblocking(false).expect("a socket");
        socket.connect(&peer.local_addr().expect("an address").into()).expect("it is a socket like any other");
        socket.set_nonblocking(true).expect("a socket");
        while (&*socket).write(&[0; 65_536]).is_ok() {}
        socket.set_linger(Some(Duration::from_secs(10 * 3_600))).expect("an option");
        drop(inherited);
        let (done, ended) = mpsc::channel();
        thread::spawn(move || {
            drop(listener);
            done.send(())
        });
        ended.recv_timeout(SOON).expect("it waits for nobody");
        // Nor does it block those that are closed after it.
        let (mut client, closed) = UnixStream::pair().expect("sockets");
        client.set_read_timeout(Some(SOON)).expect("a socket");
        drop(SharedSocket::connection(closed));
        assert_eq!(client.read(&mut [0; 1]).expect("it is closed"), 0);
    }

    #[test]
    fn the_address_of_a_listener_is_free_when_that_is_dropped() {
        let address = Listener::tcp("thrift.tcp", "127.0.0.1:0").expect("a free port").address().to_string();
        for _ in 0..10 {
            drop(Listener::tcp("thrift.tcp", &address).expect("it is free"));
        }
    }
}
