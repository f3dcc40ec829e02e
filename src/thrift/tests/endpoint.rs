//! Calls over a connection.

use std::io::{IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

use bytesize::ByteSize;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::task::spawn_blocking;

use super::*;
use crate::access::{Access, Policy};
use crate::net::Address;
use crate::net::TakenPorts;
use crate::task::Tasks;
use crate::task::stuck::lingering;
use crate::thrift::client::{Client, Error};
use crate::thrift::{Endpoint, Rooms};

struct Server {
    feed: Publisher,
    tasks: Tasks,
    address: Address,
    _folder: tempfile::TempDir,
}

fn serve() -> Server {
    serve_with(patient())
}

/// With time for a busy machine to send a request.
fn patient() -> Config {
    let long = Duration::from_secs(20);
    Config { first_byte_timeout: long, request_timeout: long, ..Config::default() }
}

fn serve_with(config: Config) -> Server {
    serve_by(config, |_| {})
}

/// The same, with an endpoint that is prepared before it starts.
fn serve_by(config: Config, prepare: impl FnOnce(&Endpoint)) -> Server {
    let folder = tempfile::tempdir().expect("a folder");
    let config = Config { unix: folder.path().join("socket"), tcp: String::new(), threads: 1, ..config };
    let metrics = Arc::<Metrics>::default();
    let feeds = vec![Feed::of_instances("register", "register")];
    let store = Store::new(&Default::default(), feeds, metrics.clone());
    let endpoint = Endpoint::bind(&config, TakenPorts::Fail).expect("a socket");
    prepare(&endpoint);
    let address = endpoint.addresses().next().expect("an address").clone();
    let tasks = Tasks::new().0;
    let access = Access::new(Policy::new(&Default::default(), &[]).expect("nobody is named"));
    let (memory, feed) = (config.memory(Arc::default()), store.publisher(0));
    let withholder = crate::withhold::Withholder::idle(&store);
    let rooms = Rooms {
        store,
        access,
        workers: Arc::default(),
        withholder,
        history: Arc::default(),
        queues: Arc::default(),
        metrics,
        memory,
    };
    endpoint.start(&ZkData::default(), rooms, &tasks).expect("threads");
    Server { feed, tasks, address, _folder: folder }
}

impl Server {
    fn master(&self, manner: Manner) -> Arc<Way> {
        let way = Way::new(manner);
        self.feed.publish_whole(vec![join("m", &["mail"], &way)]);
        way
    }

    /// Calls `mail.send`, on another thread.
    async fn call(&self, arguments: Vec<u8>, patience: Duration) -> Result<idl::CallResult, Error> {
        let mut client = Client::new(self.address.clone(), patience);
        let minute = Duration::from_secs(60);
        let call = idl::Call::of("mail", "send", arguments);
        let call = move || client.call(call, minute);
        spawn_blocking(call).await.expect("the client")
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_call_may_carry_more_than_any_other_request() {
    let server = serve();
    server.master(Manner::Echoes);
    let arguments = format!("[\"{}\"]", "x".repeat(900_000)).into_bytes();
    let result = server.call(arguments.clone(), Duration::from_secs(20)).await.expect("a result");
    assert_eq!(result.values, [[b"[\"send\",", &arguments[..], b"]"].concat()]);
    let (address, path) = (server.address.clone(), format!("/{}", "x".repeat(70_000)));
    let refused = spawn_blocking(move || Client::new(address, Duration::from_secs(20)).get(&path, None)).await;
    assert!(refused.expect("the client").is_err());
    let most = server.call(vec![b' '; 2 << 20], Duration::from_secs(20)).await.expect_err("it is too long");
    assert!(matches!(&most, Error::Invalid(invalid) if invalid.field == "arguments"), "{most}");
}

#[tokio::test]
async fn a_request_for_which_its_user_has_no_memory_is_refused_and_the_next_is_answered() {
    let server = serve_with(Config { max_memory: ByteSize::mib(1), ..patient() });
    server.master(Manner::Echoes);
    // One becomes too large once its arguments are packed; the other is too large as it arrives.
    for arguments in [format!("[{}0]", "1e1,".repeat(65_000)), format!("[\"{}\"]", "x".repeat(900_000))] {
        let refused = server.call(arguments.into_bytes(), Duration::from_secs(20)).await.expect_err("too large");
        // An overlong request is not read to its end, so the client may only see that the connection was closed.
        let is_closed = matches!(refused, Error::Broken { .. } | Error::Closed { .. });
        assert!(is_closed || refused.to_string().contains("overloaded"), "{refused}");
        assert_eq!(server.call(Vec::new(), Duration::from_secs(20)).await.expect("a result").values.len(), 1);
    }
}

fn path(server: &Server) -> PathBuf {
    match &server.address {
        Address::Unix(path) => path.clone(),
        other => panic!("{other}"),
    }
}

/// A call whose last field sets a timeout of a minute.
fn minute_long_call(arguments: &[u8]) -> Vec<u8> {
    minute_long("call", "mail", arguments)
}

fn minute_long(request: &str, service: &str, arguments: &[u8]) -> Vec<u8> {
    let text = |text: &[u8]| [&(text.len() as u32).to_be_bytes(), text].concat();
    let begin = [b"\x80\x01\x00\x01", &*text(request.as_bytes()), b"\x00\x00\x00\x01\x0c\x00\x01"].concat();
    let what = [b"\x0b\x00\x01", &*text(service.as_bytes()), b"\x0b\x00\x02", &text(b"send")].concat();
    let rest = [b"\x0b\x00\x03", &*text(arguments), b"\x08\x00\x0a\x00\x00\xea\x60\x00\x00"].concat();
    [begin, what, rest].concat()
}

#[tokio::test]
async fn a_client_that_goes_away_gives_its_call_up() {
    let server = serve();
    let silent = server.master(Manner::Silent);
    for arguments in [Vec::new(), format!("[\"{}\"]", "x".repeat(900_000)).into_bytes()] {
        let request = minute_long_call(&arguments);
        let path = path(&server);
        let mut stream = UnixStream::connect(&path).expect("a connection");
        let stream = spawn_blocking(move || stream.write_all(&request).map(|()| stream)).await.expect("the client");
        until("the call is under way", || silent.outstanding() == 1).await;
        drop(stream.expect("written"));
        until("the call is given up", || silent.outstanding() == 0).await;
    }
}

#[tokio::test]
async fn a_client_that_sends_no_more_gets_its_answer() {
    let server = serve();
    let silent = server.master(Manner::Silent);
    let mut stream = UnixStream::connect(path(&server)).expect("a connection");
    stream.write_all(&minute_long_call(&[])).expect("written");
    stream.shutdown(Shutdown::Write).expect("it sends no more");
    until("the call is under way", || silent.outstanding() == 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let sender = silent.open.lock().expect("no panic")[0].clone();
    sender.send(Answer::Value(7.into())).await.expect("it waits");
    sender.send(Answer::End).await.expect("it waits");
    let reply = spawn_blocking(move || {
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).map(|_| reply)
    });
    let reply = reply.await.expect("the client").expect("a reply, and the end");
    assert!(reply.starts_with(b"\x80\x01\x00\x02\x00\x00\x00\x04call"), "{reply:?}");
}

#[tokio::test]
async fn a_stop_lets_calls_finish() {
    let server = serve();
    let way = server.master(Manner::Silent);
    let call = server.call(Vec::new(), Duration::from_secs(20));
    let stop = async {
        until("the call is under way", || way.outstanding() == 1).await;
        let answer = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let sender = way.open.lock().expect("no panic")[0].clone();
            sender.send(Answer::Value(7.into())).await.expect("it waits");
            sender.send(Answer::End).await.expect("it waits");
        };
        let (cut, ()) = futures::join!(server.tasks.stop(Duration::from_secs(20)), answer);
        assert!(cut.is_empty());
    };
    let (result, ()) = futures::join!(call, stop);
    assert_eq!(result.expect("a result").values, [b"7"]);
}

#[tokio::test]
async fn a_stop_lets_an_open_call_finish_also_between_two_requests() {
    let server = serve();
    let way = server.master(Manner::Silent);
    let patience = Duration::from_secs(20);
    let mut client = Client::new(server.address.clone(), patience);
    let answer = async |answer| {
        until("the call is under way", || way.outstanding() == 1).await;
        let sender = way.open.lock().expect("no panic")[0].clone();
        sender.send(answer).await.expect("it waits");
    };
    let started = spawn_blocking(move || {
        let first = client.start_call(idl::Call::of("mail", "list", ""), patience);
        (client, first)
    });
    let (started, ()) = futures::join!(started, answer(Answer::Value(1.into())));
    let (mut client, first) = started.expect("the client");
    assert_eq!(first.expect("a value").values, [b"1"]);
    let finish = async {
        server.tasks.stop_signal().requested().await;
        answer(Answer::Value(2.into())).await;
        answer(Answer::End).await;
        spawn_blocking(move || std::iter::repeat_with(|| client.next_values(patience)).take(2).collect::<Vec<_>>())
            .await
    };
    let (cut, parts) = futures::join!(server.tasks.stop(patience), finish);
    let parts = parts.expect("the client");
    let values: Vec<_> = parts.iter().flatten().flat_map(|part| part.values.clone()).collect();
    assert_eq!((cut.is_empty(), values), (true, vec![b"2".to_vec()]), "{parts:?}");
    assert!(parts.iter().flatten().any(|part| part.completion.is_some()), "{parts:?}");
}

#[tokio::test]
async fn a_stop_waits_for_a_call_that_is_under_way_and_for_none_that_was_sent_behind_it() {
    let server = serve();
    let way = server.master(Manner::Tarries(Duration::from_secs(1), Answer::End));
    let mut stream = UnixStream::connect(path(&server)).expect("a connection");
    stream.write_all(&minute_long_call(&[]).repeat(40)).expect("written");
    until("the first is under way", || way.outstanding() == 1).await;
    assert!(server.tasks.stop(Duration::from_secs(20)).await.is_empty(), "{} were called", way.calls().len());
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).expect("the reply, and the end");
    assert!(reply.starts_with(b"\x80\x01\x00\x02\x00\x00\x00\x04call"), "{reply:?}");
}

#[tokio::test]
async fn a_stop_waits_for_no_client_that_fetches_nothing_of_its_open_call_whether_that_goes_on_or_not() {
    for goes_on in [false, true] {
        let server = serve();
        let way = server.master(Manner::Silent);
        let patience = Duration::from_secs(20);
        let mut client = Client::new(server.address.clone(), patience);
        let started = spawn_blocking(move || {
            let first = client.start_call(idl::Call::of("mail", "list", ""), patience);
            (client, first)
        });
        until("the call is under way", || way.outstanding() == 1).await;
        let sender = way.open.lock().expect("no panic")[0].clone();
        sender.send(Answer::Value(1.into())).await.expect("it waits");
        let (_client, first) = started.await.expect("the client");
        assert_eq!(first.expect("a value").values, [b"1"]);
        if !goes_on {
            sender.send(Answer::End).await.expect("it waits");
            drop(sender);
            until("the call has ended", || way.outstanding() == 0).await;
        }
        assert!(server.tasks.stop(patience).await.is_empty(), "{goes_on}");
        until("the call is given up", || way.outstanding() == 0).await;
    }
}

/// For who is let live by their pace: on a machine that stands still for a second anybody is too slow, so one try of some is
/// to show it.
async fn in_one_try_of_some<T: PartialEq + std::fmt::Debug>(expected: T, attempt: impl AsyncFn() -> T) {
    let mut others = Vec::new();
    while others.len() < 5 {
        let outcome = attempt().await;
        if outcome == expected {
            return;
        }
        others.push(outcome);
    }
    panic!("{others:?}, and never {expected:?}");
}

#[tokio::test]
async fn a_stop_lets_a_client_fetch_what_a_call_gives_for_long_and_in_large_parts() {
    const PARTS: usize = 8;
    let fetched_in_a_stop = async || {
        let server = serve();
        let way = server.master(Manner::Silent);
        let patience = Duration::from_secs(20);
        let mut client = Client::new(server.address.clone(), patience);
        let fetched = spawn_blocking(move || {
            let first = client.start_call(idl::Call::of("mail", "list", ""), patience).expect("a value");
            let mut count = first.values.len();
            while let Ok(part) = client.next_values(patience) {
                count += part.values.len();
                if part.completion.is_some() {
                    return (count, "to the end");
                }
            }
            (count, "cut")
        });
        until("the call is under way", || way.outstanding() == 1).await;
        let sender = way.open.lock().expect("no panic")[0].clone();
        sender.send(Answer::Value(1.into())).await.expect("it waits");
        let gives = async {
            server.tasks.stop_signal().requested().await;
            for _ in 0..PARTS {
                // Larger than what a socket holds.
                let _ = sender.send(Answer::Value("x".repeat(500_000).into())).await;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            let _ = sender.send(Answer::End).await;
        };
        let (cut, ()) = futures::join!(server.tasks.stop(patience), gives);
        (cut.is_empty(), fetched.await.expect("the client"))
    };
    in_one_try_of_some((true, (PARTS + 1, "to the end")), fetched_in_a_stop).await;
}

#[tokio::test]
async fn a_stop_lets_a_client_send_to_an_open_call_for_long() {
    const VALUES: usize = 8;
    let sent_in_a_stop = async || {
        let server = serve();
        let way = server.master(Manner::Listens);
        let patience = Duration::from_secs(20);
        let mut client = Client::new(server.address.clone(), patience);
        let opened = move || client.open_call(idl::Call::of("mail", "list", ""), patience).map(|_| client);
        let mut client = spawn_blocking(opened).await.expect("the client").expect("it is open");
        until("the call is under way", || way.outstanding() == 1).await;
        let (sender, input) = (way.open.lock().expect("no panic")[0].clone(), way.calls()[0].input.clone());
        let reads = async {
            let input = input.expect("it has an input");
            let mut count = 0;
            while input.next().await.is_some() {
                count += 1;
            }
            let _ = sender.send(Answer::End).await;
            drop(sender);
            count
        };
        let sends = async {
            server.tasks.stop_signal().requested().await;
            let sends = move || {
                for number in 1..=VALUES {
                    std::thread::sleep(Duration::from_millis(300));
                    client.send_values(vec![b"1".to_vec()], number == VALUES, patience)?;
                }
                client.next_values(patience)
            };
            spawn_blocking(sends).await.expect("the client")
        };
        let (cut, count, last) = futures::join!(server.tasks.stop(patience), reads, sends);
        (cut.is_empty(), count, last.is_ok_and(|last| last.completion.is_some()))
    };
    in_one_try_of_some((true, VALUES, true), sent_in_a_stop).await;
}

#[tokio::test]
async fn each_request_has_its_own_time_though_it_arrives_with_a_part_of_the_next() {
    let request_timeout = Duration::from_secs(1);
    let answered = async || {
        let server = serve_with(Config { request_timeout, ..patient() });
        server.master(Manner::Echoes);
        let mut stream = UnixStream::connect(path(&server)).expect("a connection");
        let requests = minute_long("nosuch", "mail", &[]).repeat(13);
        let length = requests.len() / 13;
        // Each part is the second half of one and the first half of the next.
        let parts = move || {
            let (first, rest) = requests[..12 * length + length / 2].split_at(length / 2);
            for part in std::iter::once(first).chain(rest.chunks(length)) {
                stream.write_all(part)?;
                std::thread::sleep(request_timeout / 10);
            }
            stream.shutdown(Shutdown::Write)?;
            let mut replies = Vec::new();
            stream.read_to_end(&mut replies).map(|_| replies)
        };
        let replies = spawn_blocking(parts).await.expect("the client").unwrap_or_default();
        let begin = b"\x80\x01\x00\x03\x00\x00\x00\x06nosuch";
        replies.windows(begin.len()).filter(|part| part == begin).count()
    };
    in_one_try_of_some(12, answered).await;
}

#[tokio::test]
async fn a_stop_waits_for_no_client_that_reads_each_reply_just_in_time_also_beside_an_open_call() {
    const REPLY: usize = 60_000;
    for has_open in [false, true] {
        let server = serve();
        let quick = Way::new(Manner::Answers(vec![Answer::Value("x".repeat(REPLY).into()), Answer::End]));
        let slow = Way::new(Manner::Silent);
        server.feed.publish_whole(vec![join("m", &["mail"], &quick), join("n", &["slow"], &slow)]);
        let mut stream = UnixStream::connect(path(&server)).expect("a connection");
        if has_open {
            stream.write_all(&minute_long("startCall", "slow", &[])).expect("written");
            until("the call is under way", || slow.outstanding() == 1).await;
            let sender = slow.open.lock().expect("no panic")[0].clone();
            sender.send(Answer::Value(1.into())).await.expect("it waits");
        }
        stream.write_all(&minute_long_call(&[]).repeat(200)).expect("written");
        until("replies wait for their reader", || quick.calls().len() > 2).await;
        let reads = std::thread::spawn(move || {
            let mut reply = vec![0; REPLY];
            while stream.read_exact(&mut reply).is_ok() {
                // A sender waits until three quarters of the socket's buffer have been read.
                std::thread::sleep(Duration::from_millis(150));
            }
        });
        let cut = server.tasks.stop(Duration::from_secs(20)).await;
        assert!(cut.is_empty(), "{has_open}: {} were answered", quick.calls().len());
        reads.join().expect("no panic");
    }
}

/// Accepts descriptors from clients, as Linux before 6.16 does.
#[allow(unsafe_code)]
fn take_descriptors(endpoint: &Endpoint) {
    const SO_PASSRIGHTS: libc::c_int = 83;
    let (on, length) = (1 as libc::c_int, size_of::<libc::c_int>() as libc::socklen_t);
    for listener in &endpoint.listeners {
        let listener = listener.as_fd().as_raw_fd();
        // Safety: a number, which lives as long as the call. Where the option is unknown, descriptors are accepted anyway.
        unsafe { libc::setsockopt(listener, libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const on).cast(), length) };
    }
}

#[tokio::test]
async fn a_client_that_sends_a_descriptor_whose_close_hangs_is_disconnected_and_others_are_answered() {
    let server = serve_by(Config::default(), take_descriptors);
    server.master(Manner::Echoes);
    let attack = || {
        let (attacker, (sent, peer)) = (UnixStream::connect(path(&server)).expect("it listens"), lingering());
        let sends = attacker.try_clone().expect("a descriptor");
        let closes = std::thread::spawn(move || {
            let rights = [sent.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&rights)];
            let parts = [IoSlice::new(b"\x80")];
            assert_eq!(sendmsg::<()>(sends.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None), Ok(1));
            drop(sent);
        });
        (attacker, peer, closes)
    };
    let (mut attacker, _peer) = loop {
        let (attacker, peer, closes) = attack();
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Else it was the last to close it, and not the endpoint.
        if closes.is_finished() {
            break (attacker, peer);
        }
    };
    let result = server.call(Vec::new(), Duration::from_secs(20)).await.expect("a result");
    assert_eq!(result.values.len(), 1);
    attacker.set_read_timeout(Some(Duration::from_secs(20))).expect("an option");
    assert_eq!(attacker.read(&mut [0; 1]).expect("an end"), 0);
}
