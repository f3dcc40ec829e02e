//! Client: a blocking connection to a sidecar, as the command line and tests use it.

use std::io::{self, BufReader, Read, Write};
use std::net::ToSocketAddrs;
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use thrift::TConfiguration;
use thrift::protocol::{TBinaryInputProtocol, TBinaryOutputProtocol};
use thrift::transport::TBufferedWriteTransport;

use super::idl::{
    ChildrenReply, InvalidRequest, NodeReply, NotFound, NotReady, ReadOptions, RosterSyncClient, StatusReply,
    SubtreeReply, TRosterSyncClient, TooStale, WatchReply,
};
use crate::net::Address;

/// The most bytes of one reply that are read. The sidecar's own bound is lower.
const MAX_REPLY: usize = 64 << 20;
/// The most elements of a list or map in a reply.
const MAX_CONTAINER: usize = 4 << 20;
/// The deepest nesting of a reply; the interface has four levels.
const MAX_DEPTH: usize = 16;

/// A connection to a sidecar. It is made when it is needed, and made anew after one that failed.
#[derive(Debug)]
pub struct Client {
    address: Address,
    timeout: Duration,
    socket: Option<Socket>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach the sidecar at {address}: {source}")]
    Unreachable { address: Address, source: io::Error },
    #[error("the sidecar at {address} did not answer within {after:?}")]
    TimedOut { address: Address, after: Duration },
    #[error("{}", .0.message)]
    NotFound(NotFound),
    #[error("nothing is known yet: {}", .0.message)]
    NotReady(NotReady),
    #[error("the data is {} ms old, more than the {} ms allowed: {}", .0.age_ms, .0.max_age_ms, .0.message)]
    TooStale(TooStale),
    #[error("{}: {}", .0.field, .0.message)]
    Invalid(InvalidRequest),
    /// The sidecar could not answer, or does not know the method: a TApplicationException.
    #[error("the sidecar at {address} refused: {message}")]
    Refused { address: Address, message: String },
    /// The connection ended within the call, or what came was not an answer.
    #[error("no answer from the sidecar at {address}: {message}")]
    Broken { address: Address, message: String },
}

impl Client {
    /// A client whose calls, with the connecting, take at most `timeout`.
    pub fn new(address: Address, timeout: Duration) -> Self {
        Self { address, timeout, socket: None }
    }

    pub fn get(&mut self, path: &str, max_age: Option<Duration>) -> Result<NodeReply, Error> {
        self.call(self.timeout, |sidecar| sidecar.get(path.to_owned(), options(max_age)))
    }

    pub fn children(&mut self, path: &str, max_age: Option<Duration>) -> Result<ChildrenReply, Error> {
        self.call(self.timeout, |sidecar| sidecar.children(path.to_owned(), options(max_age)))
    }

    /// One page of a subtree; `cursor` is empty for the first.
    pub fn subtree(&mut self, path: &str, cursor: String, max_age: Option<Duration>) -> Result<SubtreeReply, Error> {
        self.call(self.timeout, |sidecar| sidecar.subtree(path.to_owned(), 0, cursor, options(max_age)))
    }

    /// Waits for changes, at most for `wait` beside the client's own timeout.
    pub fn watch(&mut self, since: i64, paths: Vec<String>, wait: Duration) -> Result<WatchReply, Error> {
        let millis = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        self.call(self.timeout + wait, |sidecar| sidecar.watch(since, paths, millis, 0))
    }

    pub fn status(&mut self) -> Result<StatusReply, Error> {
        self.call(self.timeout, |sidecar| sidecar.status())
    }

    fn call<Reply>(
        &mut self,
        patience: Duration,
        ask: impl FnOnce(&mut dyn TRosterSyncClient) -> thrift::Result<Reply>,
    ) -> Result<Reply, Error> {
        let until = Instant::now() + patience;
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(&self.address, patience).map_err(|source| self.unreachable(source, patience))?,
        };
        let answer = converse(Bounded { socket: &socket, until }, ask);
        // After any other error it is not known what the next bytes belong to.
        if matches!(answer, Ok(_) | Err(thrift::Error::User(_))) {
            self.socket = Some(socket);
        }
        answer.map_err(|error| self.explain(error, patience))
    }

    fn unreachable(&self, source: io::Error, after: Duration) -> Error {
        let address = self.address.clone();
        match source.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Error::TimedOut { address, after },
            _ => Error::Unreachable { address, source },
        }
    }

    fn explain(&self, error: thrift::Error, after: Duration) -> Error {
        let address = self.address.clone();
        match error {
            thrift::Error::Transport(error) if error.kind == thrift::TransportErrorKind::TimedOut => {
                Error::TimedOut { address, after }
            }
            thrift::Error::Transport(error) => Error::Broken { address, message: error.message },
            thrift::Error::Protocol(error) => Error::Broken { address, message: error.message },
            thrift::Error::Application(error) => Error::Refused { address, message: error.message },
            thrift::Error::User(exception) => declared(exception.as_ref())
                .unwrap_or_else(|| Error::Refused { address, message: exception.to_string() }),
        }
    }
}

/// (The generated default of the options is no help: it allows no age at all.)
fn options(max_age: Option<Duration>) -> ReadOptions {
    ReadOptions::new(max_age.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX)))
}

/// An exception that the interface declares.
fn declared(exception: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<Error> {
    let not_found = exception.downcast_ref().cloned().map(Error::NotFound);
    not_found
        .or_else(|| exception.downcast_ref().cloned().map(Error::NotReady))
        .or_else(|| exception.downcast_ref().cloned().map(Error::TooStale))
        .or_else(|| exception.downcast_ref().cloned().map(Error::Invalid))
}

/// One call over a connection, in the strict binary protocol without frames.
fn converse<Reply>(
    stream: Bounded<'_>,
    ask: impl FnOnce(&mut dyn TRosterSyncClient) -> thrift::Result<Reply>,
) -> thrift::Result<Reply> {
    let bounds = TConfiguration::builder()
        .max_message_size(Some(MAX_REPLY))
        .max_string_size(Some(MAX_REPLY))
        .max_container_size(Some(MAX_CONTAINER))
        .max_recursion_depth(Some(MAX_DEPTH))
        .build()?;
    let reply = BufReader::new(stream.take(MAX_REPLY as u64));
    let input = TBinaryInputProtocol::with_config(reply, true, bounds);
    let output = TBinaryOutputProtocol::new(TBufferedWriteTransport::new(stream), true);
    ask(&mut RosterSyncClient::new(input, output))
}

fn connect(address: &Address, patience: Duration) -> io::Result<Socket> {
    match address {
        Address::Unix(path) => connect_unix(path, patience),
        Address::Tcp(address) => connect_tcp(address, patience),
    }
}

fn connect_unix(path: &Path, patience: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // It bounds the connecting too, which waits where the listener's queue is full.
    socket.set_write_timeout(Some(patience))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

fn connect_tcp(address: &str, patience: Duration) -> io::Result<Socket> {
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        match socket.connect_timeout(&address.into(), patience) {
            Ok(()) => {
                socket.set_tcp_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// A stream that ends at a point in time, however slowly its bytes drip.
#[derive(Clone, Copy)]
struct Bounded<'a> {
    socket: &'a Socket,
    until: Instant,
}

impl Bounded<'_> {
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Bounded<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.socket.read(into).map_err(timed_out)
    }
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// The kernel tells a socket's timeout as "would block".
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use thrift::server::TProcessor;

    use super::super::idl::{Freshness, Node, NodesReply, Origin, RosterSyncHandler, RosterSyncProcessor, Stat};
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    /// Answers `get` by the path.
    struct Sidecar;

    impl RosterSyncHandler for Sidecar {
        fn handle_get(&self, path: String, options: ReadOptions) -> thrift::Result<NodeReply> {
            let freshness = Freshness::new(7, 0, Origin::LIVE, true);
            match path.as_str() {
                "/nothing" => Err(NotFound::new(path, "no such node".into(), freshness).into()),
                "/later" => Err(NotReady::new("zookeeper".into(), "connecting".into()).into()),
                "/old" => Err(TooStale::new(9, options.max_age_ms.unwrap_or(0), "it is down".into()).into()),
                "/wrong" => Err(InvalidRequest::new("path".into(), "it is wrong".into()).into()),
                "/busy" => Err("too busy".into()),
                _ => {
                    Ok(NodeReply::new(Node::new(path, b"\xff".to_vec(), Stat::new(1, 2, 3, 4, 5, 6, 7, 8)), freshness))
                }
            }
        }

        fn handle_get_many(&self, _: Vec<String>, _: ReadOptions) -> thrift::Result<NodesReply> {
            Err("not asked".into())
        }

        fn handle_children(&self, _: String, _: ReadOptions) -> thrift::Result<ChildrenReply> {
            Err("not asked".into())
        }

        fn handle_subtree(&self, _: String, _: i32, _: String, _: ReadOptions) -> thrift::Result<SubtreeReply> {
            Err("not asked".into())
        }

        fn handle_watch(&self, _: i64, _: Vec<String>, _: i32, _: i32) -> thrift::Result<WatchReply> {
            Err("not asked".into())
        }

        fn handle_status(&self) -> thrift::Result<StatusReply> {
            Err("not asked".into())
        }
    }

    /// A sidecar that answers so many requests of each connection, then closes it.
    fn sidecar(requests: usize) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = Address::Tcp(listener.local_addr().expect("an address").to_string());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("a connection");
                let mut input = TBinaryInputProtocol::new(stream.try_clone().expect("a handle"), true);
                let mut output = TBinaryOutputProtocol::new(TBufferedWriteTransport::new(stream), true);
                let processor = RosterSyncProcessor::new(Sidecar);
                for _ in 0..requests {
                    let _ = processor.process(&mut input, &mut output);
                }
            }
        });
        address
    }

    #[test]
    fn every_exception_has_its_variant_and_leaves_the_connection_in_use() {
        let mut client = Client::new(sidecar(5), TIMEOUT);
        let mut ask = |path| client.get(path, Some(Duration::from_millis(3)));
        assert_eq!(ask("/a").expect("a node").node.data, [0xff]);
        assert!(matches!(ask("/nothing"), Err(Error::NotFound(exception)) if exception.freshness.revision == 7));
        assert!(matches!(ask("/later"), Err(Error::NotReady(exception)) if exception.source == "zookeeper"));
        assert!(matches!(ask("/old"), Err(Error::TooStale(exception)) if exception.max_age_ms == 3));
        assert!(matches!(ask("/wrong"), Err(Error::Invalid(exception)) if exception.field == "path"));
        assert!(matches!(ask("/a"), Err(Error::Broken { .. })), "the sidecar closed the connection");
    }

    #[test]
    fn a_refusal_tells_its_reason() {
        let refused = Client::new(sidecar(1), TIMEOUT).get("/busy", None);
        assert!(matches!(&refused, Err(Error::Refused { message, .. }) if message == "too busy"), "{refused:?}");
    }

    #[test]
    fn a_broken_connection_is_made_anew_at_the_next_call() {
        let mut client = Client::new(sidecar(1), TIMEOUT);
        client.get("/a", None).expect("a node");
        assert!(matches!(client.get("/a", None), Err(Error::Broken { .. })));
        client.get("/a", None).expect("a node");
    }

    #[test]
    fn nobody_there_and_nobody_answering_are_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let mut client = Client::new(Address::Unix(path.clone()), Duration::from_millis(50));
        assert!(matches!(client.status(), Err(Error::Unreachable { .. })));
        let _silent = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        assert!(matches!(client.status(), Err(Error::TimedOut { .. })));
    }

    #[test]
    fn what_is_no_answer_is_told_so() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = Address::Tcp(listener.local_addr().expect("an address").to_string());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("an answer");
            stream
        });
        assert!(matches!(Client::new(address, TIMEOUT).status(), Err(Error::Broken { .. })));
        server.join().expect("the server");
    }
}
