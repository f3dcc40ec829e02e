//! The closer: a thread that closes sockets that other processes may have tampered with. The last process to close such
//! a socket waits for as long as they chose (`SO_LINGER`), for the socket itself and for each that they sent over it.
//! Another thread interrupts those waits.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::SigSet;
use nix::unistd::{Pid, gettid};
use tokio::sync::OwnedSemaphorePermit;

use crate::task::stuck::{SIGNAL, handle_signal, send_signal};
use crate::task::unawaited;

/// How long closing a socket may take until a signal interrupts it.
const MAX_LINGER: Duration = Duration::from_micros(100);

/// How long dropping a listener waits until it is closed.
const TIMEOUT: Duration = Duration::from_secs(1);

static QUEUE: Mutex<Queue> = Mutex::new(Queue { sockets: VecDeque::new(), is_closing: false, is_served: false });
static ADDED: Condvar = Condvar::new();
static BUSY: Condvar = Condvar::new();

/// A socket that other processes may have tampered with. The closer closes it when this is dropped.
#[derive(Debug)]
pub(crate) struct SharedSocket {
    /// None: it is being dropped.
    descriptor: Option<OwnedFd>,
    /// Whether it is closed before any connection, and dropping waits for that.
    is_listener: bool,
    permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Queue {
    sockets: VecDeque<Closing>,
    /// Whether one of them is being closed.
    is_closing: bool,
    /// Whether the threads run.
    is_served: bool,
}

/// A socket to close; its fields are dropped in this order.
#[derive(Debug)]
struct Closing {
    _socket: OwnedFd,
    _permit: Option<OwnedSemaphorePermit>,
    /// Dropped once it is closed.
    _done: Option<mpsc::Sender<Infallible>>,
}

impl SharedSocket {
    /// A listener, whose address should be free after the drop.
    pub(crate) fn listener(socket: impl Into<OwnedFd>) -> Self {
        Self { descriptor: Some(socket.into()), is_listener: true, permit: None }
    }

    pub(crate) fn connection(socket: impl Into<OwnedFd>) -> Self {
        Self { descriptor: Some(socket.into()), is_listener: false, permit: None }
    }

    /// Has it give this permit back when its descriptor is free again.
    pub(crate) fn hold(&mut self, permit: OwnedSemaphorePermit) {
        self.permit = Some(permit);
    }

    /// Closes it at once, on this thread.
    pub(crate) fn close_here(mut self) {
        drop(self.descriptor.take());
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
        queue.add(socket, self.permit.take(), Some(done).filter(|_| self.is_listener));
        // Only where no sidecar runs, which has begun it, may there be no thread for it.
        let _ = queue.begin();
        drop(queue);
        ADDED.notify_one();
        if self.is_listener {
            let _ = closed.recv_timeout(TIMEOUT);
        }
    }
}

/// Starts the threads, unless they run: when sockets are to be closed, there may be none to be had.
pub(crate) fn begin_closing() -> io::Result<()> {
    queue().begin()
}

impl Queue {
    /// Before all others, if somebody waits for it to be done.
    fn add(&mut self, socket: OwnedFd, permit: Option<OwnedSemaphorePermit>, done: Option<mpsc::Sender<Infallible>>) {
        let is_first = done.is_some();
        let closing = Closing { _socket: socket, _permit: permit, _done: done };
        if is_first { self.sockets.push_front(closing) } else { self.sockets.push_back(closing) }
    }

    fn begin(&mut self) -> io::Result<()> {
        if self.is_served {
            return Ok(());
        }
        handle_signal()?;
        let (tell, told) = mpsc::channel();
        unawaited("closer", move || {
            let closer = gettid();
            let is_interrupted = unawaited("interrupter", move || interrupt(closer));
            let is_interrupted = is_interrupted.and_then(|()| Ok(SigSet::from_iter([SIGNAL]).thread_unblock()?));
            let can_close = is_interrupted.is_ok();
            // It is awaited.
            let _ = tell.send(is_interrupted);
            if can_close {
                close_all();
            }
        })?;
        told.recv().map_err(io::Error::other)??;
        self.is_served = true;
        Ok(())
    }
}

fn queue() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes the sockets, one after the other.
fn close_all() {
    let mut waiting = queue();
    loop {
        if let Some(socket) = waiting.sockets.pop_front() {
            if !waiting.is_closing {
                waiting.is_closing = true;
                BUSY.notify_one();
            }
            drop(waiting);
            drop(socket);
            waiting = queue();
        } else {
            waiting.is_closing = false;
            waiting = ADDED.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Interrupts whatever the kernel has the closer wait for.
fn interrupt(closer: Pid) {
    loop {
        drop(BUSY.wait_while(queue(), |queue| !queue.is_closing));
        sleep(MAX_LINGER);
        send_signal(closer);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::thread;

    use socket2::SockRef;
    use tokio::sync::Semaphore;
    use tokio::time::timeout;

    use super::*;
    use crate::net::Listener;
    use crate::task::stuck::{closed_first, lingering};

    const SOON: Duration = Duration::from_secs(60);

    #[test]
    fn a_listener_that_a_process_has_made_a_lingering_connection_blocks_nobody_who_closes_it() {
        let peer = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let peer = TcpListener::from(closed_first(peer));
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

    #[tokio::test]
    async fn however_many_linger_each_permit_is_given_back_when_its_descriptor_is_free() {
        let (crowd, _peers): (Vec<_>, Vec<_>) = (0..16).map(|_| lingering()).unzip();
        let permits = Arc::new(Semaphore::new(crowd.len()));
        for stream in crowd {
            let mut socket = SharedSocket::connection(stream);
            socket.hold(permits.clone().try_acquire_owned().expect("one for each"));
        }
        let all = timeout(SOON, permits.acquire_many(16)).await.expect("none waits for its peer");
        drop(all.expect("it is open"));
    }

    #[test]
    fn a_listener_waits_for_no_connection() {
        let mut queue = Queue { sockets: VecDeque::new(), is_closing: false, is_served: false };
        let (one, other) = UnixStream::pair().expect("sockets");
        let numbers = [&one, &other].map(AsRawFd::as_raw_fd);
        queue.add(one.into(), None, None);
        queue.add(other.into(), None, Some(mpsc::channel().0));
        let order: Vec<_> = queue.sockets.iter().rev().map(|closing| closing._socket.as_raw_fd()).collect();
        assert_eq!(order, numbers);
    }

    #[test]
    fn the_address_of_a_listener_is_free_when_that_is_dropped() {
        let address = Listener::tcp("thrift.tcp", "127.0.0.1:0").expect("a free port").address().to_string();
        for _ in 0..10 {
            drop(Listener::tcp("thrift.tcp", &address).expect("it is free"));
        }
    }
}
