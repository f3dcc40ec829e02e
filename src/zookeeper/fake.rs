//! A fake server for tests: a tree with one-shot watches, which changes immediately before the requests that a test
//! names.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::jute::{self, code, op, xid};
use crate::model::{Node, Stat};

/// Types of events.
const CREATED: i32 = 1;
const DELETED: i32 = 2;
const DATA_CHANGED: i32 = 3;
const CHILDREN_CHANGED: i32 = 4;

/// How a server treats a persistent watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Like ZooKeeper before 3.6: it does not know the request, and closes the connection.
    Old,
    /// Like a server with `WatchManagerOptimized`.
    Refusing,
    /// It accepts one, which never fires.
    New,
    /// It gives a session, and then requires a SASL proof.
    Guarded,
    /// It gives a session, but accepts no identity.
    Denying,
    /// It gives no session.
    Away,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Deed {
    Create(&'static str),
    CreateEphemeral(&'static str),
    Set(&'static str),
    Delete(&'static str),
    /// It becomes unreadable, or readable again. No event reports that.
    Close(&'static str),
    Open(&'static str),
    /// All connections are closed.
    Cut,
    /// It is another server from now on.
    Become(Kind),
}

/// A server; clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    kind: Kind,
    nodes: BTreeMap<String, Node>,
    closed: BTreeSet<&'static str>,
    zxid: i64,
    /// What happens before which request.
    deeds: VecDeque<(usize, Deed)>,
    asked: Asked,
    connection: Option<Connected>,
}

/// What a server was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) requests: usize,
    pub(crate) connections: usize,
    pub(crate) data: Vec<String>,
    pub(crate) lists: usize,
    /// The paths in each request that set watches.
    pub(crate) restored: Vec<usize>,
    pub(crate) most_in_flight: usize,
    /// The length of the longest request.
    pub(crate) longest: usize,
    pub(crate) persistent: usize,
}

/// The one connection.
#[derive(Debug)]
struct Connected {
    sent: mpsc::UnboundedSender<Bytes>,
    data: BTreeSet<String>,
    children: BTreeSet<String>,
}

impl Fake {
    pub(crate) async fn start(kind: Kind) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let nodes = BTreeMap::from([("/".to_owned(), Node::default())]);
        let (closed, deeds, asked) = Default::default();
        let state = State { kind, nodes, closed, zxid: 1, deeds, asked, connection: None };
        let fake = Self { address, state: Arc::new(Mutex::new(state)) };
        let serving = fake.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        fake
    }

    pub(crate) fn does(&self, deeds: &[Deed]) {
        let mut state = self.state();
        deeds.iter().for_each(|deed| state.do_it(*deed));
    }

    /// Each happens `gap` requests after the one before; the first immediately before the request with the number
    /// `first`.
    pub(crate) fn plans(&self, first: usize, gap: usize, deeds: &[Deed]) {
        let planned = deeds.iter().enumerate().map(|(number, deed)| (first + number * gap, *deed));
        self.state().deeds.extend(planned);
    }

    /// Does what is planned and still waits for a request.
    pub(crate) fn does_the_rest(&self) {
        let mut state = self.state();
        while let Some((_, deed)) = state.deeds.pop_front() {
            state.do_it(deed);
        }
    }

    pub(crate) fn nodes(&self) -> BTreeMap<String, Node> {
        self.state().nodes.clone()
    }

    pub(crate) fn asked(&self) -> Asked {
        self.state().asked.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while holding it")
    }

    async fn serve(self, mut stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let mut received = BytesMut::new();
        receive(&mut stream, &mut received).await?;
        if self.state().kind == Kind::Away {
            return None;
        }
        stream.write_all(&greeting()).await.ok()?;
        let (sent, mut to_send) = mpsc::unbounded_channel();
        let number = self.state().connect(sent);
        let (mut reader, mut writer) = stream.split();
        loop {
            tokio::select! {
                bytes = to_send.recv() => match bytes {
                    Some(bytes) => writer.write_all(&bytes).await.ok()?,
                    None => return None,
                },
                read = reader.read_buf(&mut received) => {
                    if read.ok()? == 0 {
                        return None;
                    }
                    let mut requests = Vec::new();
                    while let Some(request) = whole(&mut received) {
                        requests.push(request);
                    }
                    let mut state = self.state();
                    state.asked.most_in_flight = state.asked.most_in_flight.max(requests.len());
                    requests.into_iter().for_each(|request| state.answer(number, request));
                }
            }
        }
    }
}

impl State {
    /// Returns the number of the new connection.
    fn connect(&mut self, sent: mpsc::UnboundedSender<Bytes>) -> usize {
        self.asked.connections += 1;
        self.connection = Some(Connected { sent, data: BTreeSet::new(), children: BTreeSet::new() });
        self.asked.connections
    }

    fn answer(&mut self, connection: usize, mut request: Bytes) {
        if self.connection.is_none() || connection != self.asked.connections {
            return;
        }
        self.asked.longest = self.asked.longest.max(request.len());
        let (xid, op) = (request.get_i32(), request.get_i32());
        if op == op::PING {
            return self.reply(xid, 0, &[]);
        }
        while let Some((_, deed)) = self.deeds.pop_front_if(|(before, _)| *before <= self.asked.requests) {
            self.do_it(deed);
        }
        self.asked.requests += 1;
        match op {
            op::ADD_WATCH => self.add_watch(xid),
            op::SET_WATCHES => self.set_watches(xid, request),
            op::AUTH if self.kind == Kind::Denying => self.reply(xid, code::AUTH_FAILED, &[]),
            op::AUTH => self.reply(xid, 0, &[]),
            op::SYNC => self.reply(xid, 0, &[0; 4]),
            op::MULTI_READ => self.read_many(xid, request),
            op::EXISTS | op::GET_DATA | op::GET_CHILDREN_2 => self.read(xid, op, request),
            _ => {}
        }
    }

    fn add_watch(&mut self, xid: i32) {
        self.asked.persistent += 1;
        match self.kind {
            Kind::New | Kind::Denying | Kind::Away => self.reply(xid, 0, &[0; 4]),
            Kind::Refusing => self.reply(xid, code::MARSHALLING_ERROR, &[]),
            Kind::Guarded => self.reply(xid, code::SASL_REQUIRED, &[]),
            Kind::Old => {
                self.reply(xid, code::UNIMPLEMENTED, &[]);
                self.connection = None;
            }
        }
    }

    fn set_watches(&mut self, xid: i32, mut request: Bytes) {
        let (newer_than, count) = (request.get_i64(), request.get_i32());
        self.asked.restored.push(count as usize);
        for path in (0..count).map(|_| text(&mut request)).collect::<Vec<_>>() {
            match self.nodes.get(&path) {
                Some(node) if node.stat.mzxid <= newer_than => drop(self.connected(|it| it.data.insert(path))),
                Some(_) => self.send_event(DATA_CHANGED, &path),
                None => self.send_event(DELETED, &path),
            }
        }
        self.reply(xid, 0, &[]);
    }

    fn read(&mut self, xid: i32, op: i32, mut request: Bytes) {
        let (path, is_watched) = (text(&mut request), request.get_u8() != 0);
        let node = self.nodes.get(&path).cloned();
        let is_closed = op != op::EXISTS && self.closed.contains(&*path);
        let watch = is_watched && !is_closed && (node.is_some() || op == op::EXISTS);
        self.connected(|it| match op {
            op::GET_CHILDREN_2 => watch && it.children.insert(path.clone()),
            _ => watch && it.data.insert(path.clone()),
        });
        let Some(node) = node else { return self.reply(xid, code::NO_NODE, &[]) };
        if is_closed {
            return self.reply(xid, code::NO_AUTH, &[]);
        }
        let mut body = BytesMut::new();
        if op == op::GET_DATA {
            put(&mut body, &node.data);
            self.asked.data.push(path);
        } else if op == op::GET_CHILDREN_2 {
            self.asked.lists += 1;
            self.put_names(&mut body, &path);
        }
        put_stat(&mut body, &node);
        self.reply(xid, 0, &body);
    }

    /// Answers a request of the only kind that a mirror makes: many nodes' data, or many nodes' children.
    fn read_many(&mut self, xid: i32, mut request: Bytes) {
        let mut body = BytesMut::new();
        loop {
            let (op, is_done, _) = (request.get_i32(), request.get_u8(), request.get_i32());
            if is_done != 0 {
                return self.reply(xid, 0, &body);
            }
            let (path, _) = (text(&mut request), request.get_u8());
            let found = self.nodes.get(&path);
            body.put_i32(if found.is_some() { op } else { -1 });
            body.put_u8(0);
            body.put_i32(0);
            match found {
                None => body.put_i32(code::NO_NODE),
                Some(node) if op == op::GET_DATA => {
                    put(&mut body, &node.data);
                    put_stat(&mut body, node);
                }
                Some(_) => self.put_names(&mut body, &path),
            }
        }
    }

    fn put_names(&self, body: &mut BytesMut, path: &str) {
        let names = self.nodes.keys().filter(|child| parent(child) == Some(path));
        let names: Vec<_> = names.map(|child| child.rsplit('/').next().expect("a name")).collect();
        body.put_i32(names.len() as i32);
        names.iter().for_each(|name| put(body, name.as_bytes()));
    }

    fn do_it(&mut self, deed: Deed) {
        self.zxid += 1;
        let (zxid, time) = (self.zxid, self.zxid);
        match deed {
            Deed::Create(path) | Deed::CreateEphemeral(path) => {
                let ephemeral_owner = i64::from(matches!(deed, Deed::CreateEphemeral(_)));
                let stat = Stat { czxid: zxid, mzxid: zxid, pzxid: zxid, ctime: time, mtime: time, ..Stat::default() };
                let node = Node { data: [].into(), stat: Stat { ephemeral_owner, ..stat } };
                self.nodes.insert(path.to_owned(), node);
                self.notify(CREATED, path);
                self.count_child(path, 1);
            }
            Deed::Set(path) => {
                let node = self.nodes.get_mut(path).expect("a node");
                (node.data, node.stat.mzxid, node.stat.mtime) = (zxid.to_string().into_bytes().into(), zxid, time);
                node.stat.version += 1;
                self.notify(DATA_CHANGED, path);
            }
            Deed::Delete(path) => {
                self.nodes.remove(path).expect("a node");
                self.notify(DELETED, path);
                self.count_child(path, -1);
            }
            Deed::Close(path) => _ = self.closed.insert(path),
            Deed::Open(path) => _ = self.closed.remove(path),
            Deed::Cut => self.connection = None,
            Deed::Become(kind) => self.kind = kind,
        }
    }

    fn count_child(&mut self, path: &str, more: i32) {
        let parent = parent(path).expect("a parent").to_owned();
        let stat = &mut self.nodes.get_mut(&parent).expect("a parent").stat;
        (stat.pzxid, stat.num_children) = (self.zxid, stat.num_children + more);
        self.notify(CHILDREN_CHANGED, &parent);
    }

    /// Sends an event of a change to those that watch it.
    fn notify(&mut self, kind: i32, path: &str) {
        let is_watched = self.connected(|it| {
            let data = kind != CHILDREN_CHANGED && it.data.remove(path);
            let children = matches!(kind, DELETED | CHILDREN_CHANGED) && it.children.remove(path);
            data || children
        });
        if is_watched {
            self.send_event(kind, path);
        }
    }

    fn send_event(&mut self, kind: i32, path: &str) {
        const CONNECTED: i32 = 3;
        let mut body = BytesMut::new();
        body.put_i32(kind);
        body.put_i32(CONNECTED);
        put(&mut body, path.as_bytes());
        self.reply(xid::EVENT, 0, &body);
    }

    fn reply(&mut self, xid: i32, error: i32, body: &[u8]) {
        let mut frame = BytesMut::new();
        jute::put_frame(&mut frame, |out| {
            out.put_i32(xid);
            out.put_i64(self.zxid);
            out.put_i32(error);
            out.put_slice(body);
        });
        self.connected(|it| it.sent.send(frame.freeze()).is_ok());
    }

    fn connected(&mut self, act: impl FnOnce(&mut Connected) -> bool) -> bool {
        self.connection.as_mut().is_some_and(act)
    }
}

async fn receive(stream: &mut TcpStream, received: &mut BytesMut) -> Option<Bytes> {
    loop {
        if let Some(message) = whole(received) {
            return Some(message);
        }
        if stream.read_buf(received).await.ok()? == 0 {
            return None;
        }
    }
}

fn whole(received: &mut BytesMut) -> Option<Bytes> {
    match jute::frame(received, usize::MAX) {
        Ok(jute::Frame::Complete(message)) => Some(message),
        _ => None,
    }
}

/// Gives a session with a timeout of ten seconds.
pub(crate) fn greeting() -> BytesMut {
    const TIMEOUT_MS: i32 = 10_000;
    const SESSION: i64 = 7;
    let mut frame = BytesMut::new();
    jute::put_frame(&mut frame, |out| {
        out.put_i32(0);
        out.put_i32(TIMEOUT_MS);
        out.put_i64(SESSION);
        put(out, &[0; 16]);
    });
    frame
}

fn text(request: &mut Bytes) -> String {
    let length = request.get_i32() as usize;
    String::from_utf8(request.split_to(length).to_vec()).expect("UTF-8")
}

fn put(out: &mut BytesMut, bytes: &[u8]) {
    out.put_i32(bytes.len() as i32);
    out.put_slice(bytes);
}

fn put_stat(out: &mut BytesMut, node: &Node) {
    let stat = &node.stat;
    [stat.czxid, stat.mzxid, stat.ctime, stat.mtime].iter().for_each(|figure| out.put_i64(*figure));
    [stat.version, 0, 0].iter().for_each(|figure| out.put_i32(*figure));
    out.put_i64(stat.ephemeral_owner);
    out.put_i32(node.data.len() as i32);
    out.put_i32(stat.num_children);
    out.put_i64(stat.pzxid);
}

fn parent(path: &str) -> Option<&str> {
    match path.rsplit_once('/')? {
        (_, "") => None,
        ("", _) => Some("/"),
        (parent, _) => Some(parent),
    }
}
