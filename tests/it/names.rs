//! A name server that answers nothing: names that hang hold up neither the rest of the sidecar nor its end.

use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::fake_zk::{FakeNode, FakeZk, Tale};
use crate::harness::{
    ExtraAddress, Roster, SOON, binary_path, ensure, eventually, is_skipped_without_root, source, unconfigured,
};

/// Names servers of its ensemble.
#[derive(Debug)]
struct Naming(String);

impl Tale for Naming {
    fn node(&self, path: &str) -> Option<FakeNode> {
        let data = if path == "/zookeeper/config" { self.0.clone().into_bytes() } else { Vec::new() };
        ["/", "/zookeeper/config"].contains(&path).then(|| FakeNode { data, ..FakeNode::default() })
    }
}

#[test]
fn names_that_nobody_answers_for_cost_few_threads_and_no_time_at_the_end() {
    /// Of any kind, in a process that has 2 processors or 64.
    const MOST_MORE_THREADS: usize = 40;
    const WATCHED: Duration = Duration::from_secs(8);
    /// A name hangs for 30 s, and what has not ended 10 s after the stop is cut.
    const ANSWER: Duration = Duration::from_secs(8);
    const END: Duration = Duration::from_secs(8);
    if is_skipped_without_root() {
        return;
    }
    let Some(address) = ExtraAddress::take() else { return };
    let name_server = UdpSocket::bind((address.ip, 53)).expect("a name server's port");
    name_server.set_read_timeout(Some(SOON)).expect("a time limit");
    let lines = (0..64).map(|n| format!("server.{n}=x:1:2:participant;learned{n}.test:2181\n"));
    let zk = FakeZk::at(address.ip, Naming(lines.collect()));
    let named = (0..64).map(|n| format!("named{n}.test:2181")).collect::<Vec<_>>().join(",");
    let mut settings = source(&zk.connect_string(), "roots = [\"/a\"]");
    settings += &source(&named, "name = \"named\"\nroots = [\"/named\"]");
    for n in 0..4 {
        settings +=
            &format!("[[upstream]]\nname = \"up{n}\"\nconnect = \"up{n}.test:8010\"\ntoken = \"{{folder}}/token\"\n");
    }
    let mut roster = Roster::prepare(&settings);
    roster.write("token", "0123456789abcdef0123456789abcdef\n");
    roster.write("resolv.conf", &format!("nameserver {}\noptions timeout:30 attempts:5\n", address.ip));
    let mut serve = unconfigured(Command::new("unshare"));
    serve.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\""]);
    serve.arg(roster.folder().join("resolv.conf")).arg(binary_path());
    let mut serve = roster.serve(serve);
    roster.run_as(&mut serve);
    roster.becomes("live");
    let threads = || std::fs::read_dir(format!("/proc/{}/task", roster.process().id())).expect("it runs").count();
    name_server.recv(&mut [0; 512]).expect("it is asked");
    drop(zk);
    roster.becomes("down");

    let began = Instant::now();
    let mut most = 0;
    while began.elapsed() < WATCHED {
        most = most.max(threads());
        let asked = Instant::now();
        roster.status();
        assert!(asked.elapsed() < ANSWER, "{:?} for an answer", asked.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    let processors = std::thread::available_parallelism().expect("a number").get();
    assert!(most <= MOST_MORE_THREADS + 2 * processors, "{most} threads");
    eventually("it says that names are not found", SOON, || {
        let detail = roster.status().sources[1].detail.clone();
        ensure(detail.contains("its name is not found in time"), detail)
    });
    let began = Instant::now();
    assert!(roster.stop().success());
    assert!(began.elapsed() < END, "{:?} to its end", began.elapsed());
}
