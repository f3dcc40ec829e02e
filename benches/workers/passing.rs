//! Connections that are accepted by one process and served by another: the sidecar, beside a loop that accepts and passes
//! on.

use std::env;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use nix::cmsg_space;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use roster::net::Address;

use super::{GROUP, all_run, own, sidecar};
use crate::harness::{Process, SOON, eventually};
use crate::load::{self, Outcome};
use crate::measure::{median, micros};
use crate::report::{Report, verdict};
use crate::{Form, form};

/// The roles of this program: who accepts, and who takes connections.
pub(super) const PASSER: &str = "worker-bare-passer";
pub(super) const TAKER: &str = "worker-that-takes";

/// The descriptor over which a taker is handed them, as the sidecar names it.
const CONNECTIONS: &str = "ROSTER_CONNECTIONS";

const TAKERS: usize = 2;

/// How many times as much as the loop takes it may.
const MOST: f64 = 1.5;

/// Answers each connection with a byte, and closes it.
pub(super) fn take_all() {
    let descriptor: RawFd = env::var(CONNECTIONS).expect("a descriptor").parse().expect("a number");
    loop {
        let (mut about, mut space) = ([0; 4_096], cmsg_space!([RawFd; 1]));
        let mut parts = [IoSliceMut::new(&mut about)];
        let message = recvmsg::<()>(descriptor, &mut parts, Some(&mut space), MsgFlags::empty()).expect("a message");
        if message.bytes == 0 {
            return;
        }
        for part in message.cmsgs().expect("it is whole") {
            if let ControlMessageOwned::ScmRights(passed) = part {
                passed.into_iter().map(taken).for_each(|mut connection| {
                    // The client may have gone.
                    let _ = connection.write_all(b"x");
                });
            }
        }
    }
}

#[allow(unsafe_code)]
fn taken(descriptor: RawFd) -> UnixStream {
    // Safety: the kernel has just made it, for this process, and nobody else knows of it.
    UnixStream::from(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Accepts on a socket, and passes the connections on to takers, one after the other.
pub(super) fn accept_and_pass(arguments: &[String]) {
    let [path] = arguments else { panic!("expected a socket") };
    let takers: Vec<(Child, UnixStream)> = (0..TAKERS).map(|_| taker()).collect();
    let listener = UnixListener::bind(path).expect("a socket");
    for (_, taker) in takers.iter().cycle() {
        let (connection, _) = listener.accept().expect("a connection");
        let rights = [connection.as_raw_fd()];
        sendmsg::<()>(
            taker.as_raw_fd(),
            &[IoSlice::new(b"{}")],
            &[ControlMessage::ScmRights(&rights)],
            MsgFlags::empty(),
            None,
        )
        .expect("it is passed on");
    }
}

fn taker() -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).expect("an option");
    let mut command = Command::new(env::current_exe().expect("this program"));
    command.arg(TAKER).env(CONNECTIONS, theirs.as_raw_fd().to_string());
    (command.spawn().expect("it starts"), ours)
}

pub(super) fn run(report: &mut Report) {
    let (rounds, time) = match form() {
        Form::Quick => (3, Duration::from_millis(100)),
        _ => (11, Duration::from_millis(700)),
    };
    let roster = sidecar(&format!(
        "[[worker]]\nname = \"{GROUP}\"\ncommand = {}\ncount = {TAKERS}\nready_after = \"0s\"\naccept = \"sidecar\"\n\
         listen = [\"unix://{{folder}}/web.sock\"]\n",
        own(TAKER, &[])
    ));
    all_run(&roster, TAKERS);
    let folder = tempfile::tempdir().expect("a folder");
    let bare = folder.path().join("web.sock");
    let mut command = Command::new(env::current_exe().expect("this program"));
    let passer = Process::start(command.arg(PASSER).arg(&bare), folder.path());
    eventually("the loop accepts", SOON, || UnixStream::connect(&bare));
    let both = [(roster.folder().join("web.sock"), roster.process().id()), (bare, passer.id())];
    let mut rows = Vec::new();
    for clients in [1, 16] {
        let mut outcomes = [const { Vec::<Outcome>::new() }; 2];
        for _ in 0..rounds {
            for ((path, process), outcomes) in both.iter().zip(&mut outcomes) {
                outcomes.push(load::measure("a taker", &[*process], clients, time, || || visit(path)));
            }
        }
        rows.extend(rows_of(clients, &outcomes));
    }
    let header = ["", "Roster", "the loop", "÷ the loop's (≤ 1.5)"];
    report.table("A connection that is passed on, µs", &header, &rows);
}

fn rows_of(clients: usize, outcomes: &[Vec<Outcome>; 2]) -> Vec<Vec<String>> {
    let row = |what: &str, figure: &dyn Fn(&Outcome) -> f64| {
        let [ours, bare] = outcomes.each_ref().map(|all| median(&all.iter().map(figure).collect::<Vec<_>>()));
        let times = ours / bare;
        let verdict = verdict(times <= MOST);
        let what = format!("{clients} clients: {what}");
        vec![what, format!("{ours:.1}"), format!("{bare:.1}"), format!("{times:.2} {verdict}")]
    };
    vec![
        row("from connecting to the answer, p50", &|it| micros(it.latency(50))),
        row("p99", &|it| micros(it.latency(99))),
        row("time for each, of all together", &|it| 1e6 / it.requests_per_second()),
        row("processor time of who passes it on", &|it| micros(it.processor_per_request())),
    ]
}

fn visit(path: &Path) {
    let address = Address::Unix(path.to_owned());
    let mut answer = [0; 2];
    let read = load::connect(&address).and_then(|mut connection| connection.read(&mut answer)).expect("an answer");
    assert_eq!(&answer[..read], b"x");
}
