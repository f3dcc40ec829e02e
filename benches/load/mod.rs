//! The load generator: clients that ask a server the same again and again, and check every answer.

mod ask;

use std::io;
use std::net::ToSocketAddrs;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use roster::net::Address;
use socket2::{Domain, SockAddr, Socket, Type};

pub(crate) use self::ask::{Answer, Ask};
use crate::measure::{percentile, processor_time};

/// How long an answer may take: longer, and the server does not work.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What to ask, whom, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load<'a> {
    /// Who answers, for whoever reads of a failure.
    pub(crate) name: &'a str,
    pub(crate) address: &'a Address,
    /// The processes that answer, whose processor time is measured.
    pub(crate) servers: &'a [u32],
    pub(crate) ask: &'a Ask,
    pub(crate) manner: Manner,
    /// How many ask at the same time.
    pub(crate) clients: usize,
    pub(crate) time: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Each request over a connection of its own: connect, ask, close.
    Fresh,
    /// One connection a client.
    Persistent,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) requests: usize,
    pub(crate) elapsed: Duration,
    /// What all the requests took from the servers' processors.
    pub(crate) processor: Duration,
    /// Of each request, with connecting.
    latencies: Vec<Duration>,
}

impl Outcome {
    pub(crate) fn latency(&self, percent: usize) -> Duration {
        percentile(&self.latencies, percent)
    }

    pub(crate) fn processor_per_request(&self) -> Duration {
        self.processor / self.requests as u32
    }

    pub(crate) fn requests_per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }
}

impl Load<'_> {
    pub(crate) fn run(&self) -> Outcome {
        measure(self.name, self.servers, self.clients, self.time, || {
            let (mut connection, mut buffer) = (None, Vec::new());
            move || match self.manner {
                Manner::Fresh => self.ask.once(&mut self.connect(), &mut buffer),
                Manner::Persistent => self.ask.once(connection.get_or_insert_with(|| self.connect()), &mut buffer),
            }
        })
    }

    fn connect(&self) -> Socket {
        connect(self.address).unwrap_or_else(|error| panic!("{}: {error}", self.address))
    }
}

/// Has so many clients, of which `client` makes each on a thread of its own, ask again and again for this time. Fails
/// if one of them does, when the others are done.
pub(crate) fn measure<C: FnMut()>(
    name: &str,
    servers: &[u32],
    clients: usize,
    time: Duration,
    client: impl Fn() -> C + Sync,
) -> Outcome {
    let barrier = Barrier::new(clients + 1);
    std::thread::scope(|scope| {
        let mut turns = Turns::of(&barrier);
        let start = |_| {
            let turns = Turns::of(&barrier);
            // A panic tells the thread's name.
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread.spawn_scoped(scope, || ask_for(time, client(), turns)).expect("a thread")
        };
        let clients: Vec<_> = (0..clients).map(start).collect();
        turns.next();
        let (before, began) = (processor_time(servers), Instant::now());
        turns.next();
        let (elapsed, processor) = (began.elapsed(), processor_time(servers) - before);
        turns.next();
        let asked =
            clients.into_iter().flat_map(|client| client.join().unwrap_or_else(|_| panic!("{name} has failed")));
        let latencies: Vec<_> = asked.collect();
        Outcome { requests: latencies.len(), elapsed, processor, latencies }
    })
}

/// What all do together: they stand ready, are done, and leave when it has been read what they took. Who fails takes
/// its turns none the less, so that nobody waits for it.
struct Turns<'a> {
    barrier: &'a Barrier,
    left: usize,
}

impl<'a> Turns<'a> {
    fn of(barrier: &'a Barrier) -> Self {
        Self { barrier, left: 3 }
    }

    fn next(&mut self) {
        self.left -= 1;
        self.barrier.wait();
    }
}

impl Drop for Turns<'_> {
    fn drop(&mut self) {
        while self.left > 0 {
            self.next();
        }
    }
}

/// How long each took. The first one counts for nothing.
fn ask_for(time: Duration, mut ask: impl FnMut(), mut turns: Turns<'_>) -> Vec<Duration> {
    let mut latencies = Vec::new();
    ask();
    turns.next();
    let end = Instant::now() + time;
    let mut now = Instant::now();
    while now < end {
        ask();
        let then = std::mem::replace(&mut now, Instant::now());
        latencies.push(now - then);
    }
    turns.next();
    turns.next();
    latencies
}

/// A connection on which nothing takes longer than an answer may.
pub(crate) fn connect(address: &Address) -> io::Result<Socket> {
    let (domain, address) = match address {
        Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        Address::Tcp(address) => {
            let address = address.to_socket_addrs()?.next().expect("an address");
            (Domain::for_address(address), address.into())
        }
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // This bounds connecting too: a server may accept no more.
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect(&address)?;
    if domain != Domain::UNIX {
        socket.set_tcp_nodelay(true)?;
    }
    Ok(socket)
}
