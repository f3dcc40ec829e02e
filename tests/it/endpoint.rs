//! The endpoint understands every dialect, and no bytes of a peer end anything but its own connection.

use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thrift::ApplicationErrorKind;
use thrift::protocol::TMessageType;

use crate::harness::{Client, Dialect, Roster, SOON, ensure, eventually, exception};
use crate::idl::{
    ChildrenRequest, GetManyRequest, GetRequest, InvalidRequest, NotFound, NotReady, StatusRequest, SubtreeRequest,
    TRosterSyncClient, WatchRequest,
};

const NODES: &str = r#"
"/zk_test" = { base64 = "dv8=" }
"/a" = "one"
"/a/b" = "two"
"#;

const BINARY: Dialect = Dialect { compact: false, framed: false };
const FRAMED: Dialect = Dialect { compact: false, framed: true };
const COMPACT: Dialect = Dialect { compact: true, framed: false };

/// How soon a peer is sent away that is not or no longer welcome, on a busy machine: before `idle_timeout`, 30 s.
const AT_ONCE: Duration = Duration::from_secs(20);

#[test]
fn the_four_dialects_are_answered_byte_for_byte() {
    let binary = (
        b"\x80\x01\x00\x01\x00\x00\x00\x06zkData\x00\x00\x00\x07\x00".to_vec(),
        b"\x80\x01\x00\x02\x00\x00\x00\x06zkData\x00\x00\x00\x07\x0b\x00\x00\x00\x00\x00\x02v\xff\x00".to_vec(),
    );
    let compact = (b"\x82\x21\x07\x06zkData\x00".to_vec(), b"\x82\x41\x07\x06zkData\x08\x00\x02v\xff\x00".to_vec());
    let framed = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes(), bytes].concat();
    let roster = Roster::of_file(NODES);
    for dialect in Dialect::ALL {
        let (request, reply) = if dialect.compact { &compact } else { &binary };
        let mut wire = roster.wire(dialect);
        wire.send(&if dialect.framed { framed(request) } else { request.clone() });
        assert_eq!(wire.receive().bytes, if dialect.framed { framed(reply) } else { reply.clone() }, "{dialect:?}");
    }
}

#[test]
fn the_generated_client_works_in_every_dialect_on_every_listener() {
    let roster = Roster::of_file(NODES);
    for dialect in Dialect::ALL {
        // One after the other: who is silent for a second after connecting is sent away.
        let (unix, tcp) = (|| dialect.unix(roster.socket()), || dialect.tcp(roster.port()));
        for connect in [&unix as &dyn Fn() -> thrift::Result<Client>, &tcp] {
            let mut client = connect().expect("a connection");
            assert_eq!(client.get(GetRequest::new("/zk_test".into(), None)).expect("a node").node.data, b"v\xff");
            let many = client
                .get_many(GetManyRequest::new(vec!["/a".into(), "/no".into()], None, None))
                .expect("an answer")
                .nodes;
            assert_eq!(many.into_keys().collect::<Vec<_>>(), ["/a"]);
            assert_eq!(
                client.children(ChildrenRequest::new("/".into(), None, None, None)).expect("names").names,
                ["a", "zk_test"]
            );
            assert_eq!(
                client.subtree(SubtreeRequest::new("/a".into(), None, None, None)).expect("a page").nodes.len(),
                2
            );
            let start = client.watch(WatchRequest::new(0, None, vec![], 0, 0)).expect("an answer");
            assert!(start.reset);
            let changes =
                client.watch(WatchRequest::new(start.freshness.revision, None, vec![], 10, 0)).expect("an answer");
            assert!(!changes.reset && changes.changes.is_empty());
            assert_eq!(client.status(StatusRequest::default()).expect("a status").sources.len(), 1);
        }
    }
}

#[test]
fn a_request_may_come_in_any_pieces() {
    let mut roster = Roster::prepare_file("roster.sock", NODES);
    // A busy machine takes long over sixty pauses.
    roster.configure("[thrift]", "[thrift]\nrequest_timeout = \"20s\"");
    roster.run();
    roster.becomes("live");
    for dialect in Dialect::ALL {
        let mut wire = roster.wire(dialect);
        let request = dialect.get(1, "/a/b");
        wire.send(&request);
        let reply = wire.receive().bytes;
        let pieces = (1..request.len()).map(|cut| vec![&request[..cut], &request[cut..]]);
        for pieces in pieces.chain([request.chunks(1).collect()]) {
            for piece in pieces {
                wire.send(piece);
                // So that the pieces are not read as one. More often than not that is enough.
                std::thread::sleep(Duration::from_micros(500));
            }
            assert_eq!(wire.receive().bytes, reply, "{dialect:?}");
        }
    }
}

#[test]
fn requests_sent_together_are_answered_in_order() {
    let roster = Roster::of_file(NODES);
    for dialect in Dialect::ALL {
        let paths = ["/a", "/no", "relative", "/a/b"];
        let requests: Vec<u8> = (0..400).flat_map(|n| dialect.get(n, paths[n as usize % 4])).collect();
        let mut wire = roster.wire(dialect);
        wire.send(&requests);
        for number in 0..400 {
            assert_eq!(wire.receive().message.sequence_number, number, "{dialect:?}");
        }
    }
}

#[test]
fn a_service_may_be_named_before_its_method() {
    let roster = Roster::of_file(NODES);
    for dialect in Dialect::ALL {
        let mut wire = roster.wire(dialect);
        for (called, answered) in [
            ("status", "status"),
            ("Roster:status", "status"),
            ("zkData", "zkData"),
            ("zkDataService:zkData", "zkData"),
        ] {
            wire.send(&dialect.call_with_nothing(called, 1));
            let reply = wire.receive();
            assert_eq!((reply.message.name.as_str(), reply.error), (answered, None), "{dialect:?}");
        }
    }
}

#[test]
fn an_unknown_method_gets_an_exception_and_the_connection_goes_on() {
    let roster = Roster::of_file(NODES);
    for dialect in Dialect::ALL {
        let mut wire = roster.wire(dialect);
        for name in ["nonsense", "Roster:nonsense", "zkDataService:get", "Nobody:get", ":", "Roster:Roster:get", ""] {
            wire.send(&dialect.call(name, 1, &GetRequest::new("/a".into(), None)));
            let error = wire.receive().error.expect(name);
            assert_eq!(error.kind, ApplicationErrorKind::UnknownMethod, "{name}: {}", error.message);
        }
        wire.send(&dialect.get(2, "/a"));
        assert_eq!(wire.receive().message.message_type, TMessageType::Reply);
    }
}

#[test]
fn a_request_that_can_be_read_but_not_understood_gets_an_exception_and_the_connection_goes_on() {
    let roster = Roster::of_file(NODES);
    for dialect in Dialect::ALL {
        let mut wire = roster.wire(dialect);
        let nothing = WatchRequest::default();
        for request in [dialect.call_with_nothing("get", 1), dialect.call("get", 1, &nothing)] {
            wire.send(&request);
            let error = wire.receive().error.expect("an exception");
            assert_eq!(error.kind, ApplicationErrorKind::ProtocolError, "{error:?}");
            wire.send(&dialect.get(2, "/a"));
            assert_eq!(wire.receive().message.message_type, TMessageType::Reply, "{dialect:?} {request:?}");
        }
        // A text that is none is the client's own mistake, told as one that the interface declares.
        let mut no_text = dialect.get(3, "/~");
        no_text.iter_mut().filter(|byte| **byte == b'~').for_each(|byte| *byte = 0xff);
        wire.send(&no_text);
        assert_eq!(wire.receive().message.message_type, TMessageType::Reply, "{dialect:?}");
    }
}

#[test]
fn every_exception_leaves_the_connection_as_it_was() {
    let roster = Roster::start(
        "[[file]]\npath = \"{folder}/nodes.toml\"\nroot = \"/file\"\n\
         [[zookeeper]]\nconnect = \"127.0.0.1:1\"\nroots = [\"/zk\"]\n",
    );
    roster.write("nodes.toml", "[nodes]\n\"/file\" = \"here\"\n");
    eventually("the file is read", SOON, || roster.get("/file"));
    let mut client = roster.client();
    for _ in 0..3 {
        let mut get = |path: &str| client.get(GetRequest::new(path.into(), None));
        exception::<NotFound>(get("/file/no")).expect("an absence");
        exception::<NotFound>(get("/elsewhere")).expect("nobody's path");
        exception::<InvalidRequest>(get("/file/")).expect("not a path");
        exception::<NotReady>(get("/zk/a")).expect("ZooKeeper was never reached");
        assert_eq!(get("/file").expect("a node").node.data, b"here");
    }
}

#[test]
fn half_a_request_and_then_silence_is_not_waited_for_long() {
    let roster = Roster::of_file(NODES);
    for dialect in Dialect::ALL {
        let mut wire = roster.wire(dialect);
        let request = dialect.get(1, "/a/b");
        wire.send(&request[..request.len() / 2]);
        wire.ends_within(AT_ONCE);
    }
    roster.wire(BINARY).ends_within(AT_ONCE);
    assert_eq!(roster.data("/a"), b"one");
}

#[test]
fn a_watch_of_who_sends_no_more_goes_on_until_its_client_is_gone() {
    let roster = Roster::of_file(NODES);
    let since = roster.status().freshness.revision;
    let watch = |timeout_ms: i32| BINARY.call("watch", 1, &WatchRequest::new(since, None, None, timeout_ms, None));
    let unix = || socket2::Socket::from(UnixStream::connect(roster.socket()).expect("a connection"));
    let tcp = || socket2::Socket::from(TcpStream::connect(("127.0.0.1", roster.port())).expect("a connection"));
    let ask = |mut client: socket2::Socket, timeout_ms| {
        client.write_all(&watch(timeout_ms)).expect("the sidecar takes it");
        client
    };
    let waiting = |count: i64| {
        eventually("watches wait", SOON, || {
            let waiting = roster.status().counters["watchesWaiting"];
            ensure(waiting == count, format!("{waiting} and not {count}"))
        });
    };
    for connect in [&unix as &dyn Fn() -> socket2::Socket, &tcp] {
        let mut answered = ask(connect(), 700);
        answered.shutdown(Shutdown::Write).expect("it sends no more");
        answered.set_read_timeout(Some(SOON)).expect("a time limit");
        let mut reply = Vec::new();
        answered.read_to_end(&mut reply).expect("a reply, and the end");
        assert!(reply.starts_with(b"\x80\x01\x00\x02\x00\x00\x00\x05watch"), "{reply:?}");

        let (gone, soon_gone) = (ask(connect(), 60_000), ask(connect(), 60_000));
        soon_gone.shutdown(Shutdown::Write).expect("it sends no more");
        waiting(2);
        drop(gone);
        waiting(1);
        drop(soon_gone);
        waiting(0);
    }
}

#[test]
fn what_is_not_thrift_is_told_so_and_sent_away() {
    let roster = Roster::of_file(NODES);
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let old = b"\x00\x00\x00\x06zkData\x01\x00\x00\x00\x00\x00";
    for (bytes, refusal) in [
        (&http[..], &b"HTTP/1.1 400 Bad Request"[..]),
        (tls, b"\x15\x03"),
        (old, b"roster: not a Thrift message"),
        (b"\xff\xfe\xfd\xfc\xfb", b"roster: not a Thrift message"),
        (b"\x80\x02\x00\x01", b"roster: not a Thrift message"),
    ] {
        let mut wire = roster.wire(BINARY);
        wire.send(bytes);
        let told = wire.ends_within(AT_ONCE);
        assert!(told.starts_with(refusal), "{:?}", String::from_utf8_lossy(&told));
        assert!(told.len() < 300, "a short refusal");
    }
    assert_eq!(roster.data("/a"), b"one");
}

#[test]
fn no_length_a_peer_writes_costs_memory() {
    let roster = Roster::of_file(NODES);
    let call = b"\x80\x01\x00\x01\x00\x00\x00\x03get\x00\x00\x00\x01";
    let compact = b"\x82\x21\x01\x03get";
    let long = b"\x7f\xff\xff\xff";
    // A varint of 2^31-1.
    let varint = b"\xff\xff\xff\xff\x07";
    let before = roster.own_memory();
    for (what, dialect, bytes) in [
        ("a frame of 2 GB", FRAMED, long.to_vec()),
        ("a frame of 16 MB", FRAMED, b"\x00\xff\xff\xff\x80\x01\x00\x01".to_vec()),
        ("a name of 2 GB", BINARY, [&call[..4], long].concat()),
        ("a name shorter than nothing", BINARY, [&call[..4], b"\xff\xff\xff\xff"].concat()),
        ("a string of 2 GB", BINARY, [&call[..], b"\x0b\x00\x01", long].concat()),
        ("a string of 2 GB", COMPACT, [&compact[..], b"\x18", varint].concat()),
        ("a list of 2^31-1", BINARY, [&call[..], b"\x0f\x00\x01\x0b", long].concat()),
        ("a list of 2^31-1", COMPACT, [&compact[..], b"\x19\xf8", varint].concat()),
        ("a list of 2^31-1 of nothing", BINARY, [&call[..], b"\x0f\x00\x01\x01", long].concat()),
        ("a map of 2^31-1", BINARY, [&call[..], b"\x0d\x00\x01\x0b\x0b", long].concat()),
        ("10,000 structs in each other", BINARY, [&call[..], &b"\x0c\x00\x01".repeat(10_000)].concat()),
        ("10,000 structs in each other", COMPACT, [&compact[..], &b"\x1c".repeat(10_000)].concat()),
        ("a request without an end", BINARY, [&call[..], &b"\x08\x00\x09\x00\x00\x00\x00".repeat(100_000)].concat()),
        ("a number without an end", COMPACT, [&compact[..], b"\x16", &b"\xff".repeat(1_000)[..]].concat()),
    ] {
        let mut wire = roster.wire(dialect);
        wire.try_send(&bytes);
        let told = wire.ends_within(AT_ONCE);
        assert!(told.len() < 300, "{what}: a short refusal, not {} bytes", told.len());
    }
    let grown = roster.own_memory().saturating_sub(before);
    assert!(grown < 8 << 20, "grew by {grown} bytes");
    assert_eq!(roster.data("/a"), b"one");
}

#[test]
fn random_bytes_end_nothing_but_their_connection() {
    let roster = Roster::of_file(NODES);
    let mut random = std::iter::repeat_with(|| RandomState::new().hash_one(()).to_ne_bytes()).flatten();
    let beginnings: [&[u8]; 5] = [b"", b"\x80\x01\x00\x01", b"\x82\x21\x01\x03get", b"\x00\x00\x00\x20", b"\x80\x01"];
    let before = roster.own_memory();
    let sent: Vec<_> = (0..500)
        .map(|number| {
            let noise: Vec<u8> = random.by_ref().take(number).collect();
            let bytes = [beginnings[number % beginnings.len()], &noise].concat();
            let mut wire = roster.wire(BINARY);
            wire.try_send(&bytes);
            (wire, bytes)
        })
        .collect();
    for (wire, bytes) in sent {
        let told = wire.ends_within(AT_ONCE);
        assert!(told.len() < 300, "{} bytes were told to {bytes:?}", told.len());
    }
    let grown = roster.own_memory().saturating_sub(before);
    assert!(grown < 16 << 20, "grew by {grown} bytes");
    assert_eq!(roster.data("/a"), b"one");
}

#[test]
fn a_thousand_idle_clients_cost_little_and_the_next_is_answered() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("as many descriptors as may be");
    let roster = Roster::of_file(NODES);
    let before = roster.own_memory();
    let idle: Vec<_> = (0..1_000)
        .map(|n| {
            let mut wire = roster.wire(BINARY);
            wire.send(&BINARY.get(n, "/a/b"));
            wire.receive();
            wire
        })
        .collect();
    let grown = roster.own_memory().saturating_sub(before);
    assert!(grown < 16 << 20, "grew by {grown} bytes");
    assert_eq!(roster.data("/a"), b"one");
    drop(idle);
}

#[test]
fn where_there_is_no_place_the_longest_idle_client_makes_it() {
    let mut roster = Roster::prepare_file("roster.sock", NODES);
    roster.configure("[thrift]", "[thrift]\nmax_connections = 10");
    roster.run();
    roster.becomes("live");
    let mut idle: Vec<_> = (0..20)
        .map(|n| {
            let mut wire = roster.wire(BINARY);
            wire.send(&BINARY.get(n, "/a"));
            wire.receive();
            wire
        })
        .collect();
    idle.remove(0).ends_within(AT_ONCE);
    let mut newest = idle.pop().expect("twenty");
    newest.send(&BINARY.get(99, "/a"));
    assert_eq!(newest.receive().message.sequence_number, 99);
}

#[test]
fn a_watch_whose_client_is_gone_is_waited_for_no_more() {
    let roster = Roster::of_file(NODES);
    let waiting = || roster.status().counters["watchesWaiting"];
    let since = roster.client().watch(WatchRequest::new(0, None, vec![], 0, 0)).expect("an answer").freshness.revision;
    let request = watch_for_a_minute(since);
    let streams: Vec<UnixStream> = (0..50)
        .map(|_| {
            let mut stream = UnixStream::connect(roster.socket()).expect("a connection");
            stream.write_all(&request).expect("the sidecar takes it");
            stream
        })
        .collect();
    eventually("all wait", SOON, || ensure(waiting() == 50, waiting()));
    drop(streams);
    eventually("none waits", SOON, || ensure(waiting() == 0, waiting()));
}

/// A binary call of `watch` anywhere.
fn watch_for_a_minute(since: i64) -> Vec<u8> {
    BINARY.call("watch", 1, &WatchRequest::new(since, None, None, 60_000, None))
}
