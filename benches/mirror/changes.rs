//! What changes cost, how soon they are seen, and how many a second can be borne.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use lmdb::{Environment, EnvironmentFlags, Transaction};
use tokio::time::MissedTickBehavior;
use zookeeper_client::AddWatchMode;

use super::{Load, NODES_A_FOLDER, PATIENCE, ROUNDS, node};
use crate::harness::{Roster, eventually, runtime};
use crate::idl::{Change, GetManyRequest, GetRequest, TRosterSyncClient, WatchRequest};
use crate::measure::{exponent, median, micros, millis, percentile, processor_time};
use crate::report::{Report, verdict};
use crate::{Form, form};

/// Between two sets: longer than the mirror waits between two publications.
const PAUSE: Duration = Duration::from_millis(25);

/// How long the mirror gathers changes before it reads and publishes them.
const GATHER: Duration = Duration::from_millis(2);
/// By how much more than that its watchers may see a change later than a bare watcher.
const LATER: Duration = Duration::from_millis(2);

/// Of how many nodes one a millisecond is set, by turns.
const TURNS: usize = 10 * NODES_A_FOLDER;

/// Those who wait to see a set, and the times at which each did.
const OBSERVERS: [(&str, Observer); 3] =
    [("a bare watcher, which reads", bare), ("a watch over Thrift", thrift), ("the shared file", shared)];

type Observer = fn(&Seeing<'_>, Sender<Instant>);

/// What an observer sees: the node's data becomes each of the numbers below `sets`, one after the other.
#[derive(Clone, Copy)]
struct Seeing<'a> {
    load: &'a Load,
    sidecar: &'a Roster,
    sets: usize,
}

pub(super) fn run(report: &mut Report, loads: &[Load]) {
    let loads: Vec<_> = loads.iter().map(|load| (load, load.sidecar())).collect();
    for (load, sidecar) in &loads {
        eventually("the first sync", PATIENCE, || sidecar.get(&load.last()));
    }
    cost_of_a_set(report, &loads);
    let (load, sidecar) = loads.last().expect("a load");
    visible(report, load, sidecar);
    sustained(report, load, sidecar);
}

/// Sets one node again and again, beside few nodes and beside many: the processor time that each takes from the
/// sidecar's host.
fn cost_of_a_set(report: &mut Report, loads: &[(&Load, Roster)]) {
    let sets = if form() == Form::Quick { 20 } else { 100 };
    let mut costs = vec![Vec::new(); loads.len()];
    for _ in 0..ROUNDS {
        for ((load, sidecar), costs) in loads.iter().zip(&mut costs) {
            let before = processor_time(&[sidecar.process().id()]);
            set_and_see(&Seeing { load, sidecar, sets }, &[("", thrift)]);
            costs.push((processor_time(&[sidecar.process().id()]) - before) / sets as u32);
        }
    }
    let costs: Vec<_> =
        loads.iter().zip(&costs).map(|((load, _), costs)| (load.nodes, micros(median(costs)))).collect();
    let mut figures: Vec<_> =
        costs.iter().map(|(nodes, cost)| (format!("with {nodes} nodes"), format!("{cost:.0} µs"))).collect();
    figures.push(("it grows by n to the power of".to_owned(), format!("{:.2}", exponent(&costs))));
    let figures: Vec<_> = figures.iter().map(|(what, value)| (what.as_str(), value.clone())).collect();
    report.figures("Processor time of a set of one node, with one who watches it", &figures);
}

/// How soon after the return of a set it is seen.
fn visible(report: &mut Report, load: &Load, sidecar: &Roster) {
    let sets = if form() == Form::Quick { 50 } else { 500 };
    let seen = set_and_see(&Seeing { load, sidecar, sets }, &OBSERVERS);
    let most = percentile(&seen[0], 99) + GATHER + LATER;
    let rows = OBSERVERS.iter().zip(&seen).map(|((who, _), times)| {
        let p99 = percentile(times, 99);
        let is_met = verdict(p99 <= most);
        vec![who.to_string(), format!("{:.2}", millis(median(times))), format!("{:.2} {is_met}", millis(p99))]
    });
    let title = "From the return of a set until it is seen, ms";
    report.table(title, &["", "p50", "p99 (≤ the bare watcher's + 4)"], &rows.collect::<Vec<_>>());
    report.say("Of those 4 ms, the mirror gathers changes for 2.");
}

/// Sets a node, and waits until all of these have seen it, again and again. How long each took, by observer.
fn set_and_see(seeing: &Seeing<'_>, observers: &[(&str, Observer)]) -> Vec<Vec<Duration>> {
    std::thread::scope(|scope| {
        let told: Vec<Receiver<Instant>> = observers
            .iter()
            .map(|(_, observe)| {
                let (seen, told) = channel();
                scope.spawn(move || observe(seeing, seen));
                told
            })
            .collect();
        // Each tells first that it is ready.
        for told in &told {
            told.recv_timeout(PATIENCE).expect("a sign");
        }
        let mut seen = vec![Vec::new(); observers.len()];
        runtime().block_on(async {
            let writer = seeing.load.client().await;
            for number in 0..seeing.sets {
                tokio::time::sleep(PAUSE).await;
                writer.set_data(&node(0, 0), number.to_string().as_bytes(), None).await.expect("ZooKeeper answers");
                let returned = Instant::now();
                for (told, seen) in told.iter().zip(&mut seen) {
                    let at = told.recv_timeout(PATIENCE).expect("it is seen");
                    seen.push(at.saturating_duration_since(returned));
                }
            }
        });
        seen
    })
}

/// Is told that the node changed, and reads it.
fn bare(seeing: &Seeing<'_>, seen: Sender<Instant>) {
    runtime().block_on(async {
        let client = seeing.load.client().await;
        let mut watcher = client.watch(&node(0, 0), AddWatchMode::Persistent).await.expect("a watch");
        let _ = seen.send(Instant::now());
        for number in 0..seeing.sets {
            while client.get_data(&node(0, 0)).await.expect("the node").0 != number.to_string().as_bytes() {
                watcher.changed().await;
            }
            let _ = seen.send(Instant::now());
        }
    });
}

fn thrift(seeing: &Seeing<'_>, seen: Sender<Instant>) {
    let (path, mut client) = (node(0, 0), seeing.sidecar.client());
    let mut since = client.get(GetRequest::new(path.clone(), None)).expect("the node is there").freshness.revision;
    let _ = seen.send(Instant::now());
    for number in 0..seeing.sets {
        let data = number.to_string();
        let is_it = |change: &Change| change.node.as_ref().is_some_and(|node| node.data == data.as_bytes());
        loop {
            let reply = client.watch(WatchRequest::new(since, None, vec![path.clone()], 20_000, 0)).expect("a reply");
            since = reply.freshness.revision;
            if reply.changes.iter().any(is_it) {
                break;
            }
        }
        let _ = seen.send(Instant::now());
    }
}

/// Looks into the file ten times in a millisecond, as PHP does when a request comes.
fn shared(seeing: &Seeing<'_>, seen: Sender<Instant>) {
    let flags = EnvironmentFlags::NO_SUB_DIR | EnvironmentFlags::READ_ONLY;
    let file = Environment::new().set_flags(flags).set_map_size(4 << 30).open(&seeing.sidecar.shared_file());
    let file = file.expect("the shared file");
    let (db, key) = (file.open_db(None).expect("its database"), format!("node{}", node(0, 0)));
    let _ = seen.send(Instant::now());
    for number in 0..seeing.sets {
        let holds = || {
            let transaction = file.begin_ro_txn().expect("a place for a reader");
            transaction.get(db, &key).expect("the node") == number.to_string().as_bytes()
        };
        while !holds() {
            std::thread::sleep(Duration::from_micros(100));
        }
        let _ = seen.send(Instant::now());
    }
}

/// A thousand sets a second, one a millisecond, each of another node.
fn sustained(report: &mut Report, load: &Load, sidecar: &Roster) {
    let seconds = if form() == Form::Quick { 2 } else { 10 };
    let sets = seconds * 1_000;
    let (spent, began) = (processor_time(&[sidecar.process().id()]), Instant::now());
    runtime().block_on(async {
        let client = load.client().await;
        let mut beat = tokio::time::interval(Duration::from_millis(1));
        beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut replies = Vec::new();
        for number in 0..sets {
            beat.tick().await;
            replies.push(client.set_data(&at(number), number.to_string().as_bytes(), None));
        }
        for reply in replies {
            reply.await.expect("ZooKeeper answers");
        }
    });
    let returned = Instant::now();
    let last: BTreeMap<_, _> = (sets - TURNS..sets).map(|number| (at(number), number.to_string())).collect();
    let mut reader = sidecar.client();
    eventually("the last sets are seen", PATIENCE, || {
        let nodes = reader
            .get_many(GetManyRequest::new(last.keys().cloned().collect(), None, None))
            .map_err(|error| format!("{error:?}"))?
            .nodes;
        let behind = last.iter().find(|(path, data)| nodes.get(*path).is_none_or(|node| node.data != data.as_bytes()));
        behind.map_or(Ok(()), |(path, data)| Err(format!("{path} is not {data}")))
    });
    let late = returned.elapsed();
    let busy = (processor_time(&[sidecar.process().id()]) - spent).as_secs_f64() / began.elapsed().as_secs_f64();
    let rate = sets as f64 / (returned - began).as_secs_f64();
    report.figures(
        &format!("A thousand changes a second, for {seconds} s"),
        &[
            ("changes a second that ZooKeeper took", format!("{rate:.0}")),
            ("after the last returned, until all were there", format!("{:.0} ms", millis(late))),
            ("processors that the sidecar took", format!("{busy:.2}")),
        ],
    );
}

/// All nodes of ten folders by turns.
fn at(number: usize) -> String {
    let number = number % TURNS;
    node(number / NODES_A_FOLDER, number % NODES_A_FOLDER)
}
