//! A process that may have few descriptors: whoever takes all it can get, others are answered.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;

use crate::harness::{Dialect, Roster, SOON, binary_path, eventually, free_port, unconfigured};
use crate::idl::{TRosterSyncClient, WatchRequest};

const NODES: &str = "\"/a\" = \"one\"\n";
const BINARY: Dialect = Dialect { compact: false, framed: false };
/// What Debian gives a unit that says nothing, as a soft limit.
const HARD: &str = "1024";
const SOFT: &str = "256";
const CONNECTIONS: usize = 1_400;
const LASTS: Duration = Duration::from_secs(3);

/// A sidecar with a register under such limits, and where it sends what systemd wants to know.
fn few_descriptors() -> (Roster, u16, UnixDatagram) {
    let (mut roster, masters) = (Roster::prepare_file("roster.sock", NODES), free_port());
    roster.configure("listen = \"\"", &format!("listen = \"127.0.0.1:{masters}\""));
    roster.configure("[thrift]", "[thrift]\nmode = \"0666\"");
    std::fs::create_dir_all(roster.state()).expect("a folder");
    let notified = roster.folder().join("notified");
    let systemd = UnixDatagram::bind(&notified).expect("a socket");
    systemd.set_read_timeout(Some(SOON)).expect("an option");
    let mut limited = unconfigured(Command::new("sh"));
    limited.args(["-c", &format!("ulimit -Sn {SOFT} && ulimit -Hn {HARD} && exec \"$0\" \"$@\"")]).arg(binary_path());
    let mut serve = roster.serve(limited);
    roster.run_as(serve.env("NOTIFY_SOCKET", notified).env("WATCHDOG_USEC", "3000000"));
    roster.open_to_all();
    roster.becomes("live");
    (roster, masters, systemd)
}

/// Whether the sidecar feeds its watchdog.
fn is_fed(systemd: &UnixDatagram) -> bool {
    let mut message = [0; 256];
    std::iter::from_fn(|| systemd.recv(&mut message).ok().map(|length| message[..length].starts_with(b"WATCHDOG=1")))
        .any(|is_food| is_food)
}

#[test]
fn the_watchdog_is_fed_as_often_as_it_wants() {
    // On a busy machine an answer may take a third of it.
    const WATCHDOG: Duration = Duration::from_secs(6);
    let mut roster = Roster::prepare_file("roster.sock", NODES);
    let notified = roster.folder().join("notified");
    let systemd = UnixDatagram::bind(&notified).expect("a socket");
    let mut serve = roster.serve(unconfigured(Command::new(binary_path())));
    roster.run_as(serve.env("NOTIFY_SOCKET", notified).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string()));
    roster.becomes("live");
    systemd.set_read_timeout(Some(WATCHDOG)).expect("an option");
    for meal in 0..6 {
        assert!(is_fed(&systemd), "it went hungry after {meal} meals: {}", roster.log());
    }
}

#[test]
fn one_who_takes_every_connection_over_tcp_keeps_nobody_from_an_answer() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("as many descriptors as may be");
    let (roster, masters, systemd) = few_descriptors();
    let log = roster.log();
    let told = log.lines().find(|line| line.contains("WARN") && line.contains("LimitNOFILE")).unwrap_or_default();
    assert!(told.contains("thrift.max_watches = 16384") && told.contains("limit=1024"), "{log}");
    assert_eq!(roster.status().limits["maxWatches"], 144, "of the hard limit, not of the soft one");

    let since = roster.client().watch(WatchRequest::new(0, None, vec![], 0, 0)).expect("an answer").freshness.revision;
    let watch = BINARY.call("watch", 1, &WatchRequest::new(since, None, None, 60_000, None));
    let connect = |port: u16| TcpStream::connect(("127.0.0.1", port)).expect("the kernel accepts");
    let _watching: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut stream = connect(roster.port());
            // It may have been closed already.
            let _ = stream.write_all(&watch);
            stream
        })
        .collect();
    let _silent: Vec<_> = (0..CONNECTIONS).map(|_| connect(masters)).collect();
    eventually("it has taken all it may", SOON, || match roster.status().counters["watchesWaiting"] {
        waiting @ 63.. => Ok(waiting),
        waiting => Err(waiting.to_string()),
    });

    // Who comes first is root, or the sidecar's own user; then somebody else; then the sidecar itself.
    assert_eq!(roster.data("/a"), b"one");
    if geteuid().is_root() {
        let suffered = roster.suffers(LASTS);
        assert!(suffered.failed == 0 && suffered.answered > 0, "{suffered:?}");
    }
    while systemd.set_nonblocking(true).is_ok() && systemd.recv(&mut [0; 256]).is_ok() {}
    systemd.set_nonblocking(false).expect("an option");
    assert!(is_fed(&systemd), "{}", roster.log());
    assert!(!roster.log().contains("cannot accept"), "{}", roster.log());
}
