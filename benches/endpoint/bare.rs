//! The limit: an epoll loop on one thread that answers every request with the same bytes, and knows nothing else.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, recv, send};
use socket2::Socket;

/// Answers on a Unix socket and a port, until it is killed, with what the file holds.
pub(crate) fn bare(arguments: &[String]) {
    let [path, port, file] = arguments else { panic!("expected a path, a port, and a file with the answer") };
    let answer = std::fs::read(file).expect("the answer");
    let unix = UnixListener::bind(path).expect("a Unix socket").into();
    let tcp = TcpListener::bind(format!("127.0.0.1:{port}")).expect("a port").into();
    answer_all(&[unix, tcp], &answer).expect("the loop goes on");
}

fn answer_all(listeners: &[Socket; 2], answer: &[u8]) -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    let readable = |socket: &Socket| EpollEvent::new(EpollFlags::EPOLLIN, socket.as_raw_fd() as u64);
    for listener in listeners {
        listener.set_nonblocking(true)?;
        epoll.add(listener.as_fd(), readable(listener))?;
    }
    let (mut connections, mut events) = (HashMap::new(), [EpollEvent::empty(); 256]);
    loop {
        let ready = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for number in events[..ready].iter().map(|event| event.data()) {
            if let Some(listener) = listeners.iter().find(|listener| listener.as_raw_fd() as u64 == number) {
                while let Ok((connection, _)) = listener.accept() {
                    epoll.add(connection.as_fd(), readable(&connection))?;
                    connections.insert(connection.as_raw_fd() as u64, connection);
                }
            } else if connections.get(&number).is_some_and(|connection| answer_one(connection, answer).is_err()) {
                // Closing it takes it from the loop.
                connections.remove(&number);
            }
        }
    }
}

fn answer_one(connection: &Socket, answer: &[u8]) -> nix::Result<()> {
    // This flag spares the calls that make the socket one that never blocks.
    match recv(connection.as_raw_fd(), &mut [0; 4096], MsgFlags::MSG_DONTWAIT)? {
        0 => Err(Errno::EPIPE),
        _ => send_all(connection, answer),
    }
}

/// A long answer does not fit at once: then all wait for it.
fn send_all(connection: &Socket, mut answer: &[u8]) -> nix::Result<()> {
    while !answer.is_empty() {
        match send(connection.as_raw_fd(), answer, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(sent) => answer = &answer[sent..],
            Err(Errno::EAGAIN) => {
                poll(&mut [PollFd::new(connection.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
