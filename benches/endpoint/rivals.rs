//! Those who answer: Roster, the bare loop, Redis, and the sidecar of the article in Node.js.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;

use roster::net::Address;
use tempfile::TempDir;

use crate::harness::{self, Dialect, Process, Roster, SOON, Zk, eventually, free_port};
use crate::let_wait;
use crate::load::{self, Answer, Ask};

/// The node that the client of the article asks for.
const NODE: &str = "/zk_test";

/// A server, and what to ask it.
#[derive(Debug)]
pub(super) struct Rival {
    pub(super) name: &'static str,
    pub(super) ask: Ask,
    pub(super) process: u32,
    pub(super) unix: Address,
    pub(super) tcp: Address,
    /// What lives as long.
    _held: Rc<dyn Any>,
}

/// All of them, each with `size` bytes to give. The first is the limit.
pub(super) fn all(zk: &Zk, size: usize) -> Vec<Rival> {
    let data = "x".repeat(size);
    let [zk_data, get] = roster(&data);
    // What the bare loop and Node.js say is what Roster says, byte for byte.
    let bare = bare(zk_data.ask.clone());
    let node = node(zk, zk_data.ask.clone(), &data);
    vec![bare, zk_data, get, redis(&data), node]
}

fn roster(data: &str) -> [Rival; 2] {
    let mut roster = Roster::prepare_file("roster.sock", &format!("{NODE:?} = {data:?}\n"));
    let_wait(&roster);
    roster.run();
    roster.becomes("live");
    let roster = Rc::new(roster);
    let dialect = Dialect::ALL[0];
    let zk_data = ("zkData", dialect.call_with_nothing("zkData", 1));
    let get = ("get", dialect.get(1, NODE));
    [zk_data, get].map(|(name, request)| {
        let mut wire = roster.wire(dialect);
        wire.send(&request);
        let reply = wire.receive();
        assert!(reply.error.is_none() && String::from_utf8_lossy(&reply.bytes).contains(data), "{name}: {reply:?}");
        Rival {
            name: if name == "get" { "Roster get" } else { "Roster zkData" },
            ask: Ask { request, answer: Answer::Exactly(reply.bytes) },
            process: roster.process().id(),
            unix: Address::Unix(roster.socket().to_owned()),
            tcp: Address::Tcp(format!("127.0.0.1:{}", roster.port())),
            _held: roster.clone(),
        }
    })
}

fn bare(ask: Ask) -> Rival {
    let Answer::Exactly(answer) = &ask.answer else { panic!("fixed bytes") };
    let place = Place::new();
    std::fs::write(place.folder.path().join("answer"), answer).expect("the answer is written");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg(super::BARE).arg(&place.socket).arg(place.port.to_string()).arg(place.folder.path().join("answer"));
    place.rival("bare loop", &mut command, ask)
}

fn redis(data: &str) -> Rival {
    let place = Place::new();
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.arg("--port").arg(place.port.to_string()).arg("--unixsocket").arg(&place.socket);
    command.arg("--dir").arg(place.folder.path());
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let ask = |words: &[&str], answer: &str| {
        let words: String = words.iter().map(|word| bulk(word)).collect();
        let count = words.matches('$').count();
        Ask { request: format!("*{count}\r\n{words}").into(), answer: Answer::Exactly(answer.into()) }
    };
    let rival = place.rival("Redis", &mut command, ask(&["GET", NODE], &bulk(data)));
    let set = ask(&["SET", NODE, data], "+OK\r\n");
    set.once(&mut load::connect(&rival.unix).expect("Redis accepts"), &mut Vec::new());
    rival
}

fn node(zk: &Zk, ask: Ask, data: &str) -> Rival {
    let place = Place::new();
    if zk.attempt(async |client| client.check_stat(NODE).await).expect("ZooKeeper answers").is_none() {
        zk.create(NODE, "");
    }
    zk.set(NODE, data);
    let mut command = Command::new("node");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/node/server.js"));
    command.args([zk.connect_string(), NODE]).arg(&place.socket).arg(place.port.to_string());
    place.rival("Node.js", &mut command, ask)
}

/// Where a server listens.
struct Place {
    folder: TempDir,
    socket: PathBuf,
    port: u16,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { socket: folder.path().join("socket"), port: free_port(), folder }
    }

    /// Starts it, and waits until it accepts.
    fn rival(self, name: &'static str, command: &mut Command, ask: Ask) -> Rival {
        let process = Process::start(command.stdout(Stdio::null()), self.folder.path());
        let (unix, tcp) = (Address::Unix(self.socket), Address::Tcp(format!("127.0.0.1:{}", self.port)));
        for address in [&unix, &tcp] {
            eventually(&format!("{name} accepts (has `make bench-deps` been run?)"), SOON, || load::connect(address));
        }
        let held: Rc<(harness::Process, TempDir)> = Rc::new((process, self.folder));
        Rival { name, ask, process: held.0.id(), unix, tcp, _held: held }
    }
}
