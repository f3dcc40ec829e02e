//! The line between a sidecar and its Redis, which is cut at one command: before Redis has it, or before its reply arrives.
//! Or the replies to some commands are late, or its clock is wrong.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::free_port;

#[derive(Debug)]
pub(crate) struct Cutter {
    port: u16,
    /// How many more commands and replies come through; `usize::MAX`: all.
    left: Arc<AtomicUsize>,
    late: Arc<Mutex<Option<Late>>>,
    /// By how many seconds the clock of Redis is ahead, for all who come this way.
    ahead: Arc<AtomicI64>,
}

/// Replies to commands that have this text are as late.
#[derive(Clone, Copy, Debug)]
struct Late {
    text: &'static str,
    by: Duration,
}

impl Cutter {
    pub(crate) fn to(server: u16) -> Self {
        let (port, left, late) = (free_port(), Arc::new(AtomicUsize::new(usize::MAX)), Arc::<Mutex<_>>::default());
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a listener");
        let ahead = Arc::<AtomicI64>::default();
        let of_thread = (left.clone(), late.clone(), ahead.clone());
        // Both end with the tests.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (left, late, ahead) = of_thread.clone();
                std::thread::spawn(move || {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { return };
                    let _ = carry(&client, &server, &left, &late, &ahead);
                    let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
                });
            }
        });
        Self { port, left, late, ahead }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// From now on replies to commands that have this text are so late.
    pub(crate) fn delay(&self, text: &'static str, by: Duration) {
        *self.late.lock().expect("nobody panics") = Some(Late { text, by });
    }

    /// From now on the clock of Redis goes on from this time, in ms since 1970.
    pub(crate) fn set_clock(&self, time: i64) {
        let now = SystemTime::UNIX_EPOCH.elapsed().expect("it is later").as_secs();
        self.ahead.store(time / 1_000 - now as i64, Ordering::SeqCst);
    }

    /// Cuts the connection once, after so many commands and replies.
    pub(crate) fn cut_after(&self, count: usize) {
        self.left.store(count, Ordering::SeqCst);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.left.load(Ordering::SeqCst) == usize::MAX
    }

    /// Whether it has; it does not any more.
    pub(crate) fn has_cut(&self) -> bool {
        self.left.swap(usize::MAX, Ordering::SeqCst) == usize::MAX
    }
}

/// One command after the other, and its reply.
fn carry(
    client: &TcpStream,
    server: &TcpStream,
    left: &AtomicUsize,
    late: &Mutex<Option<Late>>,
    ahead: &AtomicI64,
) -> io::Result<()> {
    for end in [client, server] {
        end.set_nodelay(true)?;
    }
    let (mut commands, mut replies) = (BufReader::new(client), BufReader::new(server));
    let comes_through = || {
        let next = |left| {
            if left == 0 {
                Some(usize::MAX)
            } else if left == usize::MAX {
                None
            } else {
                Some(left - 1)
            }
        };
        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next) != Ok(0)
    };
    loop {
        let command = message(&mut commands)?;
        if !comes_through() {
            return Ok(());
        }
        (&mut &*server).write_all(&command)?;
        let mut reply = message(&mut replies)?;
        if command.ends_with(b"\r\nTIME\r\n") {
            reply = later(&reply, ahead.load(Ordering::SeqCst)).unwrap_or(reply);
        }
        let late = *late.lock().expect("nobody panics");
        if let Some(late) = late.filter(|late| command.windows(late.text.len()).any(|it| it == late.text.as_bytes())) {
            std::thread::sleep(late.by);
        }
        if !comes_through() {
            return Ok(());
        }
        (&mut &*client).write_all(&reply)?;
    }
}

/// What Redis says of its time, by so many seconds later: `*2`, the length of the seconds, these, and the rest. None: an error.
fn later(reply: &[u8], ahead: i64) -> Option<Vec<u8>> {
    let lines: Vec<&str> = str::from_utf8(reply).ok()?.split("\r\n").collect();
    let [list, _, seconds, rest @ ..] = &lines[..] else { return None };
    let seconds = (seconds.parse::<i64>().ok()? + ahead).to_string();
    Some(format!("{list}\r\n${}\r\n{seconds}\r\n{}", seconds.len(), rest.join("\r\n")).into_bytes())
}

/// The bytes of a command or a reply.
fn message(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut parts = 1;
    while parts > 0 {
        parts -= 1;
        let begin = bytes.len();
        if from.read_until(b'\n', &mut bytes)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = || std::str::from_utf8(&bytes[begin + 1..]).ok()?.trim_end().parse::<i64>().ok();
        match bytes[begin] {
            b'*' => parts += length().unwrap_or(0).max(0),
            b'$' => {
                if let Some(length @ 0..) = length() {
                    from.take(length as u64 + 2).read_to_end(&mut bytes)?;
                }
            }
            _ => {}
        }
    }
    Ok(bytes)
}
