//! What pretends to be a ZooKeeper: it speaks just enough of the protocol, and lies as a test wants.

use std::fmt::Debug;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{SOON, ensure, eventually, free_port, runtime};

/// Operations, by `ZooDefs.OpCode`.
pub(crate) mod op {
    pub(crate) const EXISTS: i32 = 3;
    pub(crate) const GET_DATA: i32 = 4;
    pub(crate) const GET_CHILDREN: i32 = 8;
    pub(crate) const SYNC: i32 = 9;
    pub(crate) const PING: i32 = 11;
    pub(crate) const GET_CHILDREN_2: i32 = 12;
    pub(crate) const MULTI_READ: i32 = 22;
    pub(crate) const ADD_WATCH: i32 = 106;
    pub(crate) const CLOSE: i32 = -11;
    /// No operation: what begins a connection.
    pub(crate) const CONNECT: i32 = 0;
}

const NO_NODE: i32 = -101;

/// A server. It goes when it is dropped, with all its connections.
#[derive(Debug)]
pub(crate) struct FakeZk {
    address: SocketAddr,
    connects: Arc<AtomicUsize>,
    gone: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

/// What a server says. By itself it tells of a root without data and without children.
pub(crate) trait Tale: Debug + Send + Sync + 'static {
    /// A node; None: there is none.
    fn node(&self, path: &str) -> Option<FakeNode> {
        (path == "/").then(FakeNode::default)
    }

    /// The names of its children, be they possible or not.
    fn children(&self, _path: &str) -> Vec<Vec<u8>> {
        Vec::new()
    }

    /// The error that reading this node meets, and no other.
    fn error(&self, _path: &str) -> Option<i32> {
        None
    }

    /// The error that every request meets in which this node is, whatever else is in it.
    fn error_of_all(&self, _path: &str) -> Option<i32> {
        None
    }

    /// What is sent for a request, in place of the frame that would answer it.
    fn sent(&self, _op: i32, frame: Vec<u8>) -> Sent {
        Sent::Once(frame)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeNode {
    pub(crate) data: Vec<u8>,
    pub(crate) time: i64,
    pub(crate) num_children: i32,
}

pub(crate) enum Sent {
    Once(Vec<u8>),
    /// Again and again, each with the number of those before it, until there is no more.
    Many(Box<dyn FnMut(usize) -> Option<Vec<u8>> + Send>),
    /// A byte each half second.
    Slowly(Vec<u8>),
    /// Nothing; the connection is closed, once all that was sent before has come.
    Closed,
}

impl FakeZk {
    pub(crate) fn telling(tale: impl Tale) -> Self {
        Self::at(Ipv4Addr::LOCALHOST, tale)
    }

    pub(crate) fn at(host: Ipv4Addr, tale: impl Tale) -> Self {
        // No port that another test gets while somebody still looks for this server.
        let listener = runtime().block_on(TcpListener::bind((host, free_port()))).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (gone, watched) = watch::channel(false);
        let connects = Arc::new(AtomicUsize::new(0));
        let accepting = runtime().spawn(accept(listener, Arc::new(tale), connects.clone(), watched));
        Self { address, connects, gone, accepting }
    }

    pub(crate) fn connect_string(&self) -> String {
        self.address.to_string()
    }

    /// How many connections it has had.
    pub(crate) fn connects(&self) -> usize {
        self.connects.load(Ordering::Relaxed)
    }

    /// Goes, and waits until nobody can connect any more.
    pub(crate) fn ends(self) {
        self.gone.send_replace(true);
        eventually("the server ends", SOON, || ensure(self.accepting.is_finished(), "it accepts"));
    }
}

impl Drop for FakeZk {
    fn drop(&mut self) {
        self.gone.send_replace(true);
    }
}

/// A frame with a reply.
pub(crate) fn reply(xid: i32, error: i32, body: &[u8]) -> Vec<u8> {
    let mut message = xid.to_be_bytes().to_vec();
    message.extend(1_i64.to_be_bytes());
    message.extend(error.to_be_bytes());
    message.extend(body);
    frame(&message)
}

/// A frame with an event: the data of a node has changed.
pub(crate) fn changed(path: &str) -> Vec<u8> {
    const DATA_CHANGED: i32 = 3;
    const CONNECTED: i32 = 3;
    let mut body = DATA_CHANGED.to_be_bytes().to_vec();
    body.extend(CONNECTED.to_be_bytes());
    put(&mut body, path.as_bytes());
    reply(-1, 0, &body)
}

fn frame(message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    put(&mut frame, message);
    frame
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as i32).to_be_bytes());
    out.extend(bytes);
}

async fn accept(
    listener: TcpListener,
    tale: Arc<dyn Tale>,
    connects: Arc<AtomicUsize>,
    mut gone: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = gone.wait_for(|gone| *gone) => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        connects.fetch_add(1, Ordering::Relaxed);
        let (tale, mut gone) = (tale.clone(), gone.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = serve(stream, &*tale) => {}
                _ = gone.wait_for(|gone| *gone) => {}
            }
        });
    }
}

async fn serve(mut stream: TcpStream, tale: &dyn Tale) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    receive(&mut stream).await?;
    send(&mut stream, tale.sent(op::CONNECT, frame(&greeting()))).await?;
    loop {
        let message = receive(&mut stream).await?;
        let mut request = Request(&message);
        let (xid, op) = (request.int(), request.int());
        let (error, body) = answer(tale, op, request);
        send(&mut stream, tale.sent(op, reply(xid, error, &body))).await?;
        if op == op::CLOSE {
            return Ok(());
        }
    }
}

async fn receive(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; stream.read_u32().await? as usize];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn send(stream: &mut TcpStream, sent: Sent) -> std::io::Result<()> {
    match sent {
        Sent::Once(bytes) => stream.write_all(&bytes).await,
        Sent::Many(mut more) => {
            for number in 0.. {
                let Some(bytes) = more(number) else { break };
                stream.write_all(&bytes).await?;
            }
            Ok(())
        }
        Sent::Slowly(bytes) => {
            for byte in bytes {
                tokio::time::sleep(Duration::from_millis(500)).await;
                stream.write_all(&[byte]).await?;
            }
            Ok(())
        }
        Sent::Closed => {
            // With requests unread, a close would take back what is on its way to the client.
            stream.shutdown().await?;
            tokio::io::copy(stream, &mut tokio::io::sink()).await?;
            Err(std::io::ErrorKind::ConnectionAborted.into())
        }
    }
}

/// A session of two seconds.
fn greeting() -> Vec<u8> {
    let mut message = 0_i32.to_be_bytes().to_vec();
    message.extend(2_000_i32.to_be_bytes());
    message.extend(7_i64.to_be_bytes());
    put(&mut message, &[0; 16]);
    message.push(0);
    message
}

fn answer(tale: &dyn Tale, op: i32, mut request: Request) -> (i32, Vec<u8>) {
    match op {
        op::EXISTS => match tale.node(&request.text()) {
            Some(node) => (0, stat(&node)),
            None => (NO_NODE, Vec::new()),
        },
        op::GET_DATA => match tale.node(&request.text()) {
            Some(node) => {
                let mut body = Vec::new();
                put(&mut body, &node.data);
                (0, [body, stat(&node)].concat())
            }
            None => (NO_NODE, Vec::new()),
        },
        op::GET_CHILDREN_2 => {
            let path = request.text();
            match tale.node(&path) {
                Some(node) => (0, [listed(&tale.children(&path)), stat(&node)].concat()),
                None => (NO_NODE, Vec::new()),
            }
        }
        op::SYNC => {
            let mut body = Vec::new();
            put(&mut body, request.text().as_bytes());
            (0, body)
        }
        op::MULTI_READ => answers(tale, request).map_or_else(|error| (error, Vec::new()), |body| (0, body)),
        _ => (0, Vec::new()),
    }
}

fn answers(tale: &dyn Tale, mut request: Request) -> Result<Vec<u8>, i32> {
    let mut body = Vec::new();
    let header = |body: &mut Vec<u8>, op: i32, done: bool| {
        body.extend(op.to_be_bytes());
        body.push(done.into());
        body.extend((-1_i32).to_be_bytes());
    };
    loop {
        let (op, done, _error) = (request.int(), request.byte() != 0, request.int());
        if done {
            header(&mut body, -1, true);
            return Ok(body);
        }
        let path = request.text();
        let _watch = request.byte();
        if let Some(error) = tale.error_of_all(&path) {
            return Err(error);
        }
        let found = tale.error(&path).map_or_else(|| tale.node(&path).ok_or(NO_NODE), Err);
        match found {
            Err(error) => {
                header(&mut body, -1, false);
                body.extend(error.to_be_bytes());
            }
            Ok(node) if op == op::GET_DATA => {
                header(&mut body, op, false);
                put(&mut body, &node.data);
                body.extend(stat(&node));
            }
            Ok(_) => {
                header(&mut body, op, false);
                body.extend(listed(&tale.children(&path)));
            }
        }
    }
}

fn listed(names: &[Vec<u8>]) -> Vec<u8> {
    let mut body = (names.len() as i32).to_be_bytes().to_vec();
    names.iter().for_each(|name| put(&mut body, name));
    body
}

fn stat(node: &FakeNode) -> Vec<u8> {
    let mut stat = Vec::new();
    for figure in [1, 1, node.time, node.time] {
        stat.extend(figure.to_be_bytes());
    }
    stat.extend([0; 12]);
    stat.extend(0_i64.to_be_bytes());
    stat.extend((node.data.len() as i32).to_be_bytes());
    stat.extend(node.num_children.to_be_bytes());
    stat.extend(1_i64.to_be_bytes());
    stat
}

/// What is left of a request. The sidecar's are trusted.
struct Request<'a>(&'a [u8]);

impl Request<'_> {
    fn byte(&mut self) -> u8 {
        let (byte, rest) = self.0.split_first().expect("a byte");
        self.0 = rest;
        *byte
    }

    fn int(&mut self) -> i32 {
        let (bytes, rest) = self.0.split_first_chunk().expect("four bytes");
        self.0 = rest;
        i32::from_be_bytes(*bytes)
    }

    fn text(&mut self) -> String {
        let length = self.int() as usize;
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        String::from_utf8(text.to_vec()).expect("UTF-8")
    }
}
