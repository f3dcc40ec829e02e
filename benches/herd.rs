//! Part `herd`: what a restart of the ensemble costs it where many sidecars come back at the same time.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use roster::model::NodePath;
use roster::source::zookeeper::{self, Config};
use roster::store::{self, Feed, Store};
use roster::task::{Reload, Tasks};

use crate::harness::{Over, ensure, eventually, four_letters, runtime};
use crate::measure::{median, millis, percentile, processor_time};
use crate::mirror::{Load, connect, read_all};
use crate::report::Report;
use crate::{Form, form};

/// Longer than half a session: then mirrors wait for a random time before they read everything.
const LONG_OUTAGE: Duration = Duration::from_secs(10);
/// In which the most requests and new connections are counted, and how long between two looks at the server.
const WINDOW: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(300);
/// The server's, for what a hundred clients ask for at once.
const HEAP: &str = "1g";

pub(crate) fn run(report: &mut Report) {
    let (clients, nodes, rounds) = if form() == Form::Quick { (20, 500, 1) } else { (100, 10_000, 3) };
    report.part(
        "Herd",
        &format!(
            "The server is restarted under {clients} mirrors of {nodes} nodes, all in one process on this machine; medians \
             of {rounds} rounds. Beside them as many bare clients, which connect and read everything by multi-reads as soon \
             as it is back. Times count from its return; requests and connections are the most in {WINDOW:?}."
        ),
    );
    let mut load = Load::new(nodes);
    load.server.set_heap(HEAP);
    load.server.restart();
    let address = load.server.address();
    let mut costs = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        let [short, long, bare] = &mut costs;
        short.push(Herd::start(&load, clients).loses(&mut load, Duration::ZERO));
        long.push(Herd::start(&load, clients).loses(&mut load, LONG_OUTAGE));
        bare.push(lose(&mut load, Duration::ZERO, |returned| read_bare(&address, clients, nodes, returned)));
    }
    let [short, long, bare] = costs.map(|costs| row(&costs));
    let named = |name: &str, row: Vec<String>| [vec![name.to_owned()], row].concat();
    let long_outage = format!("mirrors, server away for {LONG_OUTAGE:?}");
    let rows = [named("mirrors, server restarted", short), named(&long_outage, long), named("bare clients", bare)];
    let header = [
        "",
        "half in sync",
        "all in sync",
        "connections",
        "requests",
        "most outstanding",
        "latency: mean",
        "most",
        "server's processor time, with its start",
        "losses meanwhile",
    ];
    report.table("Until all are in sync again", &header, &rows);
}

fn row(costs: &[Cost]) -> Vec<String> {
    let of = |figure: fn(&Cost) -> f64| median(&costs.iter().map(figure).collect::<Vec<_>>());
    vec![
        format!("{:.0} ms", of(|cost| millis(percentile(&cost.times, 50)))),
        format!("{:.0} ms", of(|cost| millis(percentile(&cost.times, 100)))),
        format!("{:.0}", of(|cost| most(&cost.samples, |sample| sample.connections))),
        format!("{:.0}", of(|cost| most(&cost.samples, |sample| sample.requests))),
        format!("{:.0}", of(|cost| cost.samples.iter().map(|sample| sample.outstanding).fold(0.0, f64::max))),
        format!("{:.1} ms", of(|cost| cost.samples.last().map_or(0.0, |sample| sample.mean_latency))),
        format!("{:.0} ms", of(|cost| cost.samples.last().map_or(0.0, |sample| sample.max_latency))),
        format!("{:.1} s", of(|cost| cost.processor.as_secs_f64())),
        format!("{:.0}", of(|cost| cost.losses as f64)),
    ]
}

/// Of one restart.
struct Cost {
    /// From the server's return until each client was in sync.
    times: Vec<Duration>,
    samples: Vec<Sample>,
    /// Of the server.
    processor: Duration,
    /// How often a mirror that was in sync again lost the server again.
    losses: u64,
}

/// What a server says of itself, since its start.
struct Sample {
    at: Instant,
    connections: f64,
    requests: f64,
    outstanding: f64,
    /// In milliseconds.
    mean_latency: f64,
    max_latency: f64,
}

impl Sample {
    fn take(address: &str) -> Option<Self> {
        let answer = four_letters(address, "srvr");
        let of = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let number = |text: &str| text.parse::<f64>().ok();
        let mut latencies = of("Latency min/avg/max:")?.split('/').skip(1).map(number);
        Some(Self {
            at: Instant::now(),
            // One of them asks this.
            connections: of("Connections:").and_then(number)? - 1.0,
            requests: of("Received:").and_then(number)?,
            outstanding: of("Outstanding:").and_then(number)?,
            mean_latency: latencies.next()??,
            max_latency: latencies.next()??,
        })
    }
}

/// By how much a figure grew at most in a window.
fn most(samples: &[Sample], figure: fn(&Sample) -> f64) -> f64 {
    let growth = samples.iter().enumerate().filter_map(|(number, first)| {
        let last = samples[number..].iter().find(|last| last.at - first.at >= WINDOW)?;
        Some((figure(last) - figure(first)) * WINDOW.as_secs_f64() / (last.at - first.at).as_secs_f64())
    });
    growth.fold(0.0, f64::max)
}

/// Restarts the server after an outage, and watches it until `wait` has found when each client was in sync again.
fn lose(load: &mut Load, outage: Duration, wait: impl FnOnce(Instant) -> Vec<Duration>) -> Cost {
    let (address, is_over) = (load.server.address(), AtomicBool::new(false));
    load.server.kill();
    thread::sleep(outage);
    let (times, samples) = thread::scope(|scope| {
        let over = Over(&is_over);
        scope.spawn(|| load.server.restart());
        let listens = || TcpStream::connect(&address).map(|_| Instant::now());
        let returned = eventually("the server listens", PATIENCE, listens);
        let sampling = scope.spawn(|| samples(&address, &is_over));
        let times = wait(returned);
        // So that the last window is full.
        thread::sleep(2 * WINDOW);
        drop(over);
        (times, sampling.join().expect("the samples"))
    });
    Cost { times, samples, processor: processor_time(&[load.server.process().id()]), losses: 0 }
}

fn samples(address: &str, is_over: &AtomicBool) -> Vec<Sample> {
    let mut samples = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        samples.extend(Sample::take(address));
        thread::sleep(LOOK);
    }
    samples
}

/// Mirrors of one ensemble.
struct Herd {
    stores: Vec<Arc<Store>>,
    tasks: Tasks,
}

impl Herd {
    /// They are in sync.
    fn start(load: &Load, count: usize) -> Self {
        let _inside = runtime().enter();
        let (tasks, _failures) = Tasks::new();
        let stores = (0..count).map(|_| {
            let config = Config::new(load.server.address());
            let feed = Feed::of_nodes("zookeeper", "zookeeper", config.roots.clone());
            let store = Store::new(&store::Config::default(), vec![feed], Arc::default());
            let (_reloading, reload) = Reload::new();
            tasks.critical("mirror", zookeeper::run(config, store.publisher(0), reload, tasks.stop_signal()));
            store
        });
        let herd = Self { stores: stores.collect(), tasks: tasks.clone() };
        herd.are_in_sync(Instant::now(), &vec![0; count]);
        herd
    }

    fn loses(self, load: &mut Load, outage: Duration) -> Cost {
        let before = self.reconnects();
        let once_more: Vec<_> = before.iter().map(|count| count + 1).collect();
        let mut cost = lose(load, outage, |returned| self.are_in_sync(returned, &once_more));
        cost.losses = self.reconnects().iter().sum::<u64>() - once_more.iter().sum::<u64>();
        self.follow(load);
        assert!(runtime().block_on(self.tasks.stop(PATIENCE)).is_empty(), "mirrors that do not stop");
        cost
    }

    /// Waits until all are in sync after so many reconnects. When each was seen to be.
    fn are_in_sync(&self, since: Instant, reconnects: &[u64]) -> Vec<Duration> {
        let mut times = vec![None; self.stores.len()];
        eventually("all mirrors are in sync", PATIENCE, || {
            for ((time, store), reconnects) in times.iter_mut().zip(&self.stores).zip(reconnects) {
                let snapshot = store.snapshot();
                let feed = &snapshot.feeds()[0];
                let is_in_sync = feed.reconnects.get() >= *reconnects && feed.age() == Some(Duration::ZERO);
                *time = time.or_else(|| is_in_sync.then(|| since.elapsed()));
            }
            let times: Vec<_> = times.iter().flatten().copied().collect();
            if times.len() == self.stores.len() { Ok(times) } else { Err(format!("{} are", times.len())) }
        })
    }

    fn reconnects(&self) -> Vec<u64> {
        self.stores.iter().map(|store| store.snapshot().feeds()[0].reconnects.get()).collect()
    }

    /// Checks that all hold everything, and what is written now.
    fn follow(&self, load: &Load) {
        let path = NodePath::try_from(load.last()).expect("a path");
        let data = format!("{:?}", Instant::now());
        load.server.zk().set(&load.last(), &data);
        eventually("all see a change", PATIENCE, || {
            let is_there = |store: &&Arc<Store>| {
                let snapshot = store.snapshot();
                snapshot.progress()[0].nodes > load.nodes as u64
                    && snapshot.node(&path).is_some_and(|node| *node.data == *data.as_bytes())
            };
            let seeing = self.stores.iter().filter(is_there).count();
            ensure(seeing == self.stores.len(), format!("{seeing} do"))
        });
    }
}

/// Has clients connect and read everything. When each had.
fn read_bare(address: &str, clients: usize, nodes: usize, since: Instant) -> Vec<Duration> {
    // Between its first connection and its first session a server may take a greeting and never answer it; then the
    // crate waits for two fifths of a session, 48 s, and the bare clients would be no limit.
    eventually("the server serves", PATIENCE, || Sample::take(address).ok_or("it does not"));
    let read = || {
        let all = runtime().block_on(async { read_all(&connect(address).await).await.expect("ZooKeeper answers") });
        assert!(all > nodes, "{all} of {nodes}");
        since.elapsed()
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..clients).map(|_| scope.spawn(read)).collect();
        all.into_iter().map(|client| client.join().expect("a client reads everything")).collect()
    })
}
