//! Part `watchers`: very many clients that wait for one change.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::harness::{Dialect, Roster, Server, ensure, eventually, runtime};
use crate::idl::{RosterSyncClient, TRosterSyncClient, WatchRequest};
use crate::measure::{median, memory, micros, millis, processor_time, switches};
use crate::report::{Report, verdict};
use crate::{Form, descriptors, form};

const NODE: &str = "/watched";
/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(report: &mut Report) {
    let (count, rounds, idle) = match form() {
        Form::Quick => (1_000, 2, Duration::from_secs(2)),
        _ => (10_000, 5, Duration::from_secs(10)),
    };
    // Each takes a descriptor here, and one in the sidecar.
    let count = count.min(descriptors().saturating_sub(500));
    report
        .part("Watchers", &format!("{count} clients wait over the Unix socket, each for the same node of ZooKeeper."));
    let zookeeper = Server::start();
    zookeeper.zk().create(NODE, "0");
    let roster = sidecar(&zookeeper);
    let alone = Idle::measure(&roster, idle);
    let before = memory(roster.process().id());
    let mut crowd = runtime().block_on(connect(&roster, count));
    let (mut all, mut first, mut processor) = (Vec::new(), Vec::new(), Vec::new());
    let (mut each, mut waiting) = (None, None);
    for round in 1..=rounds {
        let request = watch(roster.get(NODE).expect("the node").freshness.revision);
        runtime().block_on(send(&mut crowd, &request));
        are_waiting(&roster, count);
        if round == 1 {
            each = Some(memory(roster.process().id()).saturating_sub(before) / count);
            waiting = Some(Idle::measure(&roster, idle));
        }
        let spent = processor_time(&[roster.process().id()]);
        let data = format!("the data of round {round}");
        let woken = std::thread::scope(|scope| {
            let woken = scope.spawn(|| runtime().block_on(receive(std::mem::take(&mut crowd), data.as_bytes())));
            let sent = zookeeper.zk().run(async |client| {
                let sent = Instant::now();
                client.set_data(NODE, data.as_bytes(), None).await.map(|_| sent)
            });
            let (streams, times) = woken.join().expect("all are woken");
            (streams, times.into_iter().map(|at| at.saturating_duration_since(sent)).collect::<Vec<_>>())
        });
        processor.push((processor_time(&[roster.process().id()]) - spent) / count as u32);
        crowd = woken.0;
        first.push(woken.1.iter().min().copied().unwrap_or_default());
        all.push(woken.1.iter().max().copied().unwrap_or_default());
    }
    let (each, waiting) = each.zip(waiting).expect("at least one round");
    let added = waiting.switches - alone.switches;
    report.figures(
        "Very many watchers",
        &[
            ("memory of one that waits", format!("{:.1} KB", each as f64 / 1024.0)),
            ("from the sending of a set until the first is awake", format!("{:.1} ms", millis(median(&first)))),
            ("until all are", format!("{:.0} ms", millis(median(&all)))),
            ("processor time to wake one", format!("{:.1} µs", micros(median(&processor)))),
            ("wake-ups a second of the idle sidecar without them", format!("{:.1}", alone.switches)),
            ("which they add (0)", format!("{added:.1} {}", verdict(added < 1.0))),
            (
                "processor time that they take while they wait",
                format!("{:.2} %", (waiting.busy - alone.busy).max(0.0) * 100.0),
            ),
        ],
    );
}

fn sidecar(zookeeper: &Server) -> Roster {
    let settings = format!("[[zookeeper]]\nconnect = \"{}\"\n", zookeeper.address());
    let mut roster = Roster::prepare(&settings);
    // A busy machine is no reason to send a client away, or to answer it before there is news.
    let patient = "[thrift]\nmax_watch = \"10m\"\nfirst_byte_timeout = \"1m\"\nidle_timeout = \"10m\"\nreply_timeout = \"1m\"\n\
                   max_connections = 40000\nmax_connections_per_user = 20000\n";
    roster.configure("[thrift]\n", patient);
    roster.run();
    roster.becomes("live");
    roster
}

/// What a sidecar does while nobody wants anything.
struct Idle {
    /// A second.
    switches: f64,
    /// The part of a processor.
    busy: f64,
}

impl Idle {
    fn measure(roster: &Roster, time: Duration) -> Self {
        let id = roster.process().id();
        let (woken, spent, began) = (switches(id), processor_time(&[id]), Instant::now());
        std::thread::sleep(time);
        let seconds = began.elapsed().as_secs_f64();
        Self {
            switches: (switches(id) - woken) as f64 / seconds,
            busy: (processor_time(&[id]) - spent).as_secs_f64() / seconds,
        }
    }
}

/// A call of `watch`, as it goes over the line.
fn watch(since: i64) -> Vec<u8> {
    // Framed: then a reply tells its length.
    let (dialect, mut request) = (Dialect::ALL[1], Vec::new());
    // No answer comes to this one.
    let mut client = RosterSyncClient::new(dialect.input(std::io::empty()), dialect.output(&mut request));
    let _ = client.watch(WatchRequest::new(since, None, vec![NODE.to_owned()], 600_000, 0));
    drop(client);
    request
}

async fn connect(roster: &Roster, count: usize) -> Vec<UnixStream> {
    let mut streams = Vec::new();
    while streams.len() < count {
        match UnixStream::connect(roster.socket()).await {
            Ok(stream) => streams.push(stream),
            // So many wait to be accepted.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => tokio::task::yield_now().await,
            Err(error) => panic!("connection {}: {error}", streams.len()),
        }
    }
    streams
}

async fn send(streams: &mut [UnixStream], request: &[u8]) {
    for stream in streams {
        stream.write_all(request).await.expect("the sidecar reads");
    }
}

fn are_waiting(roster: &Roster, count: usize) {
    eventually("all wait", PATIENCE, || {
        let waiting = roster.status().counters["watchesWaiting"];
        ensure(waiting == count as i64, format!("{waiting} do"))
    });
}

/// Waits until each has been told this data; when each was.
async fn receive(streams: Vec<UnixStream>, data: &[u8]) -> (Vec<UnixStream>, Vec<Instant>) {
    let told = streams.into_iter().map(async |mut stream| {
        let length = stream.read_u32().await.expect("a reply");
        let awake = Instant::now();
        let mut reply = vec![0; length as usize];
        // The whole of it: what is left would be the beginning of the next one.
        stream.read_exact(&mut reply).await.expect("all of it");
        assert!(reply.windows(data.len()).any(|bytes| bytes == data), "another reply: {reply:?}");
        (stream, awake)
    });
    let told = tokio::time::timeout(PATIENCE, futures::future::join_all(told)).await;
    told.expect("all are told in time").into_iter().unzip()
}
