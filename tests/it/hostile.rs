//! What pretends to be a ZooKeeper and is none: it ends nothing but its own connection, takes neither memory nor
//! processor without bound, and what it tells that cannot be is left out, counted and named.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::fake_zk::{self, FakeNode, FakeZk, Sent, Tale, op};
use crate::harness::{Ended, ExtraAddress, Roster, SOON, binary, ensure, eventually, free_port, read_some, source};
use crate::idl::{Origin, SubtreeRequest, TRosterSyncClient};

/// The most memory that a sidecar may take beside what it mirrors.
const MEMORY: usize = 400 << 20;

/// A sidecar that mirrors this server.
fn mirroring(zk: &FakeZk, settings: &str) -> Roster {
    Roster::start(&source(&zk.connect_string(), settings))
}

fn parent() -> FakeNode {
    FakeNode { num_children: 1, ..FakeNode::default() }
}

fn names(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// Replies to the requests of one kind with something else.
#[derive(Debug)]
struct Lies(i32, fn(Vec<u8>) -> Sent);

impl Tale for Lies {
    fn node(&self, path: &str) -> Option<FakeNode> {
        (path == "/").then(parent)
    }

    fn sent(&self, op: i32, frame: Vec<u8>) -> Sent {
        if op == self.0 { self.1(frame) } else { Sent::Once(frame) }
    }
}

/// The frame with another number of its request.
fn wrong_number(mut frame: Vec<u8>) -> Sent {
    frame[4] ^= 1;
    Sent::Once(frame)
}

#[test]
fn a_server_that_breaks_the_protocol_is_sought_again_ever_more_slowly() {
    const WATCHED: Duration = Duration::from_secs(5);
    const MOST: usize = 25;
    let lies = [
        Lies(op::SYNC, wrong_number),
        Lies(op::MULTI_READ, wrong_number),
        Lies(op::EXISTS, wrong_number),
        Lies(op::CONNECT, |_| Sent::Once(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
        Lies(op::SYNC, |_| Sent::Closed),
        Lies(op::MULTI_READ, |frame| Sent::Once([&frame[..], &(-5_i32).to_be_bytes()].concat())),
    ];
    let servers = lies.map(FakeZk::telling);
    let sidecars: Vec<_> = servers.iter().map(|server| mirroring(server, "")).collect();
    for (server, sidecar) in servers.iter().zip(&sidecars) {
        eventually("it is sought again", SOON, || ensure(server.connects() >= 2, sidecar.log()));
    }
    let before = servers.each_ref().map(FakeZk::connects);
    std::thread::sleep(WATCHED);
    for ((server, before), sidecar) in servers.iter().zip(before).zip(&sidecars) {
        let connects = server.connects() - before;
        assert!(connects <= MOST, "{connects} more connections: {:?}", sidecar.source());
    }
}

/// The frame with an error that no request can meet.
fn odd_error(mut frame: Vec<u8>) -> Sent {
    frame[16..20].copy_from_slice(&(-1_i32).to_be_bytes());
    Sent::Once(frame)
}

/// A whole frame, with answers that end too early.
fn cut_short(mut frame: Vec<u8>) -> Sent {
    frame.truncate(24);
    frame[..4].copy_from_slice(&20_i32.to_be_bytes());
    Sent::Once(frame)
}

/// The answer to a connect, without a session.
fn no_session(mut frame: Vec<u8>) -> Sent {
    frame[12..20].fill(0);
    Sent::Once(frame)
}

/// A good server that takes no connection before every other one was asked.
#[derive(Debug)]
struct Last(Vec<Arc<FakeZk>>);

impl Tale for Last {
    fn sent(&self, op: i32, frame: Vec<u8>) -> Sent {
        let is_early = op == op::CONNECT && self.0.iter().any(|other| other.connects() == 0);
        if is_early { Sent::Closed } else { Sent::Once(frame) }
    }
}

#[test]
fn servers_that_lie_keep_nobody_from_a_good_one() {
    let lies = [
        Lies(op::ADD_WATCH, odd_error),
        Lies(op::SYNC, odd_error),
        Lies(op::MULTI_READ, cut_short),
        Lies(op::MULTI_READ, odd_error),
        Lies(op::CONNECT, no_session),
    ];
    let liars = lies.map(|lie| Arc::new(FakeZk::telling(lie)));
    let good = FakeZk::telling(Last(liars.to_vec()));
    let all: Vec<_> = liars.iter().map(|liar| liar.connect_string()).chain([good.connect_string()]).collect();
    let roster = Roster::start(&source(&all.join(","), ""));
    roster.becomes("live");
    assert!(liars.iter().all(|liar| liar.connects() > 0), "{}", roster.log());
}

#[test]
fn a_list_that_claims_more_than_it_holds_ends_no_process() {
    let zk = FakeZk::telling(Lies(op::MULTI_READ, |mut frame| {
        // Behind the lengths, the header of the reply, and that of the first answer.
        if frame[20..24] == op::GET_CHILDREN.to_be_bytes() {
            frame[29..33].copy_from_slice(&i32::MAX.to_be_bytes());
        }
        Sent::Once(frame)
    }));
    let roster = mirroring(&zk, "");
    eventually("the lie is told", SOON, || ensure(roster.log().contains("a message ends too early"), roster.log()));
    assert!(roster.memory() < MEMORY, "{} bytes", roster.memory());
    assert_ne!(roster.source().state, "live");
}

/// A node of 600 MiB between two small ones.
#[derive(Debug)]
struct Huge;

impl Tale for Huge {
    fn node(&self, path: &str) -> Option<FakeNode> {
        match path {
            "/" => Some(parent()),
            "/huge" => Some(FakeNode { data: b"huge".to_vec(), ..FakeNode::default() }),
            "/first" | "/last" => Some(FakeNode::default()),
            _ => None,
        }
    }

    fn children(&self, path: &str) -> Vec<Vec<u8>> {
        if path == "/" { names(&["first", "huge", "last"]) } else { Vec::new() }
    }

    fn sent(&self, _op: i32, mut frame: Vec<u8>) -> Sent {
        const PIECE: usize = 1 << 20;
        const PIECES: usize = 600;
        let find = |text: &[u8]| frame.windows(text.len()).position(|bytes| bytes == text);
        // The list of names is as it should be.
        let Some(at) = find(b"huge").filter(|_| find(b"first").is_none()) else { return Sent::Once(frame) };
        let grown = (PIECE * PIECES) as i32;
        for length in [0, at - 4] {
            let was = i32::from_be_bytes(frame[length..length + 4].try_into().expect("four bytes"));
            frame[length..length + 4].copy_from_slice(&(was + grown).to_be_bytes());
        }
        let rest = frame.split_off(at);
        Sent::Many(Box::new(move |number| match number {
            0 => Some(frame.clone()),
            1..=PIECES => Some(vec![b'x'; PIECE]),
            _ if number == PIECES + 1 => Some(rest.clone()),
            _ => None,
        }))
    }
}

#[test]
fn a_reply_of_600_mib_costs_one_node_and_no_memory() {
    let zk = FakeZk::telling(Huge);
    let roster = mirroring(&zk, "");
    // So much may take a busy machine a minute.
    eventually("it is live", 3 * SOON, || ensure(roster.source().state == "live", roster.log()));
    let (tree, freshness) = roster.tree().expect("a tree");
    assert_eq!(tree.keys().collect::<Vec<_>>(), ["/", "/first", "/last"]);
    assert_eq!((roster.source().skipped_nodes, freshness.complete), (1, false));
    assert!(roster.memory() < MEMORY, "{} bytes", roster.memory());
}

/// Every node has a thousand children.
#[derive(Debug, Default)]
struct Endless;

impl Tale for Endless {
    fn node(&self, _path: &str) -> Option<FakeNode> {
        Some(FakeNode { num_children: 1_000, ..FakeNode::default() })
    }

    fn children(&self, _path: &str) -> Vec<Vec<u8>> {
        (0..1_000).map(|number| number.to_string().into_bytes()).collect()
    }
}

#[test]
fn a_tree_without_end_is_read_to_the_limit() {
    let zk = FakeZk::telling(Endless);
    let roster = mirroring(&zk, "max_nodes = 5000");
    roster.becomes("live");
    let (tree, freshness) = roster.tree().expect("a tree");
    assert_eq!((tree.len(), freshness.complete), (5_000, false));
    assert!(roster.memory() < MEMORY, "{} bytes", roster.memory());
}

/// In place of the answer to a read, events without end, each of another path.
#[derive(Debug)]
struct Babble;

impl Tale for Babble {
    fn sent(&self, op: i32, frame: Vec<u8>) -> Sent {
        static SENT: AtomicUsize = AtomicUsize::new(0);
        if op != op::MULTI_READ {
            return Sent::Once(frame);
        }
        Sent::Many(Box::new(|_| {
            let events = (0..100).map(|_| SENT.fetch_add(1, Ordering::Relaxed));
            Some(events.flat_map(|number| fake_zk::changed(&format!("/{number}-{}", "x".repeat(1_000)))).collect())
        }))
    }
}

#[test]
fn events_without_end_while_a_read_is_unanswered_take_no_memory() {
    let zk = FakeZk::telling(Babble);
    let roster = mirroring(&zk, "");
    for round in 1..4 {
        eventually("it is given up, and tried again", 2 * SOON, || {
            assert!(roster.memory() < MEMORY, "{} bytes", roster.memory());
            ensure(zk.connects() > round, roster.log())
        });
    }
    // Whichever is noticed first, on a machine that may be slow.
    let told = ["events came faster than they were taken", "the server answers nothing that it was asked for"];
    eventually("it is told why", SOON, || {
        let log = roster.log();
        ensure(told.iter().any(|told| log.contains(told)), log)
    });
}

/// Two nodes, and what no node can be called.
#[derive(Debug)]
struct Impossible;

const IMPOSSIBLE: [&[u8]; 9] =
    [b"", b".", b"..", b"a/b", b"\xff", b"\x1b", b"\x7f", "\u{e000}".as_bytes(), "\u{ffff}".as_bytes()];

impl Tale for Impossible {
    fn node(&self, path: &str) -> Option<FakeNode> {
        let num_children = (path == "/").into();
        Some(FakeNode { data: b"here".to_vec(), num_children, time: i64::MAX })
    }

    fn children(&self, _path: &str) -> Vec<Vec<u8>> {
        let impossible = IMPOSSIBLE.iter().map(|name| name.to_vec());
        names(&["first"]).into_iter().chain(impossible).chain(names(&["...", "last"])).collect()
    }
}

#[test]
fn names_that_no_node_can_have_are_left_out_and_nothing_else() {
    let zk = FakeZk::telling(Impossible);
    let mut roster = mirroring(&zk, "");
    roster.becomes("live");
    let expected = ["/", "/...", "/first", "/last"];
    let (tree, freshness) = roster.tree().expect("a tree");
    assert_eq!(tree.keys().collect::<Vec<_>>(), expected);
    assert_eq!((roster.source().skipped_nodes, freshness.complete), (IMPOSSIBLE.len() as i64, false));
    for named in [r#"".." in /"#, r#""a/b" in /"#, r#""\u{1b}" in /"#] {
        roster.logs(named);
    }
    roster.stop();
    zk.ends();
    roster.run();
    let restored = roster.client().subtree(SubtreeRequest::new("/".into(), None, None, None)).expect("what was known");
    assert_eq!(restored.nodes.iter().map(|node| node.path.as_str()).collect::<Vec<_>>(), expected);
    assert_eq!(restored.freshness.origin, Origin::RESTORED);
}

/// Some nodes, of which the server refuses one: alone, or all that is asked for with it.
#[derive(Debug)]
struct Refused {
    with_others: bool,
}

const BAD_ARGUMENTS: i32 = -8;

impl Tale for Refused {
    fn node(&self, path: &str) -> Option<FakeNode> {
        Some(FakeNode { num_children: (path == "/").into(), ..FakeNode::default() })
    }

    fn children(&self, path: &str) -> Vec<Vec<u8>> {
        if path == "/" { names(&["a", "b", "bad", "c"]) } else { Vec::new() }
    }

    fn error(&self, path: &str) -> Option<i32> {
        (path == "/bad" && !self.with_others).then_some(BAD_ARGUMENTS)
    }

    fn error_of_all(&self, path: &str) -> Option<i32> {
        (path == "/bad" && self.with_others).then_some(BAD_ARGUMENTS)
    }
}

#[test]
fn a_node_that_the_server_refuses_to_read_costs_no_other_one() {
    for with_others in [false, true] {
        let zk = FakeZk::telling(Refused { with_others });
        let roster = mirroring(&zk, "");
        roster.becomes("live");
        let (tree, freshness) = roster.tree().expect("a tree");
        assert_eq!(tree.keys().collect::<Vec<_>>(), ["/", "/a", "/b", "/c"]);
        assert_eq!((roster.source().skipped_nodes, freshness.complete), (1, false));
        roster.logs("path=/bad");
    }
}

/// With each heartbeat but the first comes an event of a node that no node can be called.
#[derive(Debug, Default)]
struct OddLater(Arc<AtomicUsize>);

impl Tale for OddLater {
    fn sent(&self, op: i32, frame: Vec<u8>) -> Sent {
        let is_later = op == op::EXISTS && self.0.fetch_add(1, Ordering::Relaxed) > 0;
        Sent::Once(if is_later { [fake_zk::changed("/\u{1b}/b"), frame].concat() } else { frame })
    }
}

#[test]
fn a_name_that_no_node_can_have_is_counted_when_it_comes_later() {
    let heartbeats = Arc::new(AtomicUsize::new(0));
    let zk = FakeZk::telling(OddLater(heartbeats.clone()));
    let roster = mirroring(&zk, "");
    eventually("it is counted", SOON, || {
        let freshness = roster.get("/").map_err(|error| format!("{error:?}"))?.freshness;
        ensure(roster.source().skipped_nodes == 1 && !freshness.complete, roster.log())
    });
    roster.logs(r#""\u{1b}" in /"#);
    roster.becomes("live");
    // On a loaded machine the session may end by itself.
    eventually("its event ends no connection", SOON * 4, || {
        let seen = || (zk.connects(), heartbeats.load(Ordering::Relaxed));
        let (connects, before) = seen();
        eventually("heartbeats go on", SOON, || ensure(seen().1 > before + 1, roster.log()));
        ensure(seen().0 == connects, roster.log())
    });
}

#[test]
fn times_at_their_extremes_are_shown() {
    let zk = FakeZk::telling(Impossible);
    let roster = mirroring(&zk, "");
    roster.becomes("live");
    let address = format!("unix://{}", roster.socket().display());
    let told = |arguments: &[&str]| Ended::of(binary().args(arguments).args(["--address", &address])).text();
    assert!(told(&["ls", "--long", "/"]).contains("first"));
    assert!(told(&["get", "/first", "-o", "json"]).contains(&i64::MAX.to_string()));
}

/// Names servers of its ensemble, gives a session that a server could recognize, and has a root.
#[derive(Debug)]
struct Naming(String);

const SESSION: [u8; 8] = *b"0session";
const TIMEOUT_MS: i32 = 2_222;
const PASSWORD: [u8; 16] = *b"its own password";

impl Tale for Naming {
    fn node(&self, path: &str) -> Option<FakeNode> {
        let data = if path == "/zookeeper/config" { self.0.clone().into_bytes() } else { Vec::new() };
        ["/", "/zookeeper/config"].contains(&path).then(|| FakeNode { data, ..FakeNode::default() })
    }

    fn sent(&self, op: i32, mut frame: Vec<u8>) -> Sent {
        if op == op::CONNECT {
            frame[8..12].copy_from_slice(&TIMEOUT_MS.to_be_bytes());
            frame[12..20].copy_from_slice(&SESSION);
            frame[24..40].copy_from_slice(&PASSWORD);
        }
        Sent::Once(frame)
    }
}

/// Takes connections, and answers nothing; what has come on each.
fn listening(ip: impl Into<IpAddr>, port: u16) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    const LISTENS: Duration = Duration::from_millis(700);
    let listener = TcpListener::bind(SocketAddr::new(ip.into(), port)).expect("a listener");
    let (address, heard) = (listener.local_addr().expect("an address"), Arc::<Mutex<Vec<_>>>::default());
    let hearing = heard.clone();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            stream.set_read_timeout(Some(LISTENS)).expect("a time limit");
            let (mut came, mut some) = (Vec::new(), [0; 1024]);
            while let Ok(length @ 1..) = read_some(&mut stream, &mut some) {
                came.extend_from_slice(&some[..length]);
            }
            hearing.lock().expect("no panic").push(came);
        }
    });
    (address, heard)
}

/// A sidecar with a password that mirrors this server, and knows what it names.
fn shown_to(zk: &FakeZk) -> Roster {
    let mut roster = Roster::prepare(&source(&zk.connect_string(), "credentials = \"{folder}/credentials\""));
    roster.write("credentials", "digest:app:secret\n");
    roster.run();
    roster.becomes("live");
    roster
}

#[test]
fn what_an_ensemble_names_over_loopback_is_not_tried_since_that_may_be_a_tunnel() {
    let port = free_port();
    let (_, heard) = listening(Ipv4Addr::LOCALHOST, port);
    let (_, heard_by_6) = listening(Ipv6Addr::LOCALHOST, port);
    let named = ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.0.0.2"];
    let lines = named.iter().enumerate().map(|(n, host)| format!("server.{n}=x:1:2:participant;{host}:{port}\n"));
    let zk = FakeZk::telling(Naming(lines.collect()));
    let roster = shown_to(&zk);
    drop(zk);
    roster.becomes("down");
    std::thread::sleep(Duration::from_secs(5));
    for heard in [heard, heard_by_6] {
        assert_eq!(*heard.lock().expect("no panic"), [[0; 0]; 0], "{}", roster.log());
    }
}

/// The beginning of a handshake by TLS.
const HANDSHAKE: &[u8] = &[22, 3];

/// What asks for a session, and nothing more: no transaction is known, and no session.
fn wants_a_session(timeout_ms: u32) -> Vec<u8> {
    let (version, transaction, session, read_only) = ([0; 4], [0; 8], [0; 8], [0]);
    let password = [&16_u32.to_be_bytes()[..], &[0; 16]].concat();
    let message = [&version[..], &transaction, &timeout_ms.to_be_bytes(), &session, &password, &read_only].concat();
    [&(message.len() as u32).to_be_bytes()[..], &message].concat()
}

#[test]
fn what_an_ensemble_names_gets_neither_a_session_nor_a_password_unless_it_answers_and_is_never_this_machine() {
    let Some(address) = ExtraAddress::take() else { return };
    let port = free_port();
    let (_, heard_here) = listening(Ipv4Addr::LOCALHOST, port);
    let (there, heard) = listening(address.ip, free_port());
    let lines = format!(
        "server.1=x:1:2:participant;127.0.0.1:{port}\nserver.2=x:1:2:participant;localhost:{port}\n\
         server.3=x:1:2:participant;{there}\nserver.4=127.0.0.1:1:2:participant;{port}\n"
    );
    let zk = FakeZk::at(address.ip, Naming(lines));
    let roster = shown_to(&zk);
    eventually("it is told", SOON, || ensure(roster.log().contains("are not named by `connect`"), roster.log()));
    drop(zk);
    // Beside the greeting, a probe asks whether it speaks TLS.
    let greeting = wants_a_session(2_000);
    let heard = eventually("it is tried", SOON, || {
        let heard = heard.lock().expect("no panic").clone();
        if heard.len() > 3 && heard.contains(&greeting) { Ok(heard) } else { Err(roster.log()) }
    });
    for came in &heard {
        // On a busy machine one may be given up before all of it has come.
        assert!(greeting.starts_with(came) || came.starts_with(HANDSHAKE), "{came:?}");
    }
    assert_eq!(*heard_here.lock().expect("no panic"), [[0; 0]; 0], "{}", roster.log());
}
