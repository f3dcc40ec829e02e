//! Part `mirror`: what the mirror costs, beside a bare multi-read of the same client crate.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use zookeeper_client::{Acls, Client, CreateMode, Error, MultiReadResult};

use crate::harness::{Roster, Server, Zk, any_age, eventually};
use crate::idl::{self, TRosterSyncClient};
use crate::measure::{median, micros, millis, percentile, processor_time};
use crate::report::Report;
use crate::{Form, form};

const ROUNDS: usize = 5;
/// Between two sets: longer than the mirror waits between two publications.
const PAUSE: Duration = Duration::from_millis(25);
const DATA: [u8; 120] = [b'x'; 120];
const NODES_A_FOLDER: usize = 99;

pub(crate) fn run(report: &mut Report) {
    let (small, large, sets) = if form() == Form::Quick { (1_000, 10_000, 100) } else { (1_000, 100_000, 500) };
    report.part("Mirror", &format!("{large} nodes of {} bytes, medians of {ROUNDS} rounds.", DATA.len()));
    let few = Load::new(small);
    let many = Load::new(large);
    first_sync(report, &many, large);
    cost_of_a_set(report, &few, &many, sets);
}

/// An ensemble with a tree of so many nodes.
struct Load {
    server: Server,
    nodes: usize,
}

impl Load {
    fn new(nodes: usize) -> Self {
        let load = Self { server: Server::start(), nodes };
        load.zk().run(async |client| fill(client, nodes).await);
        load
    }

    fn zk(&self) -> Zk {
        self.server.zk()
    }

    fn sidecar(&self) -> Roster {
        Roster::start(&format!("[[zookeeper]]\nconnect = \"{}\"\n", self.server.address()))
    }

    fn last(&self) -> String {
        node(self.nodes / (NODES_A_FOLDER + 1) - 1, NODES_A_FOLDER - 1)
    }
}

fn folder(number: usize) -> String {
    format!("/load-{number:05}")
}

fn node(of: usize, number: usize) -> String {
    format!("{}/node-{number:03}", folder(of))
}

async fn fill(client: &Client, nodes: usize) -> Result<(), Error> {
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    for of in 0..nodes / (NODES_A_FOLDER + 1) {
        let mut writer = client.new_multi_writer();
        writer.add_create(&folder(of), &DATA, &options)?;
        for number in 0..NODES_A_FOLDER {
            writer.add_create(&node(of, number), &DATA, &options)?;
        }
        writer.commit().await.expect("nothing in the way");
    }
    Ok(())
}

fn first_sync(report: &mut Report, load: &Load, nodes: usize) {
    let (mut bare, mut mirrored, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bare.push(load.zk().run(async |client| timed(read_all(client, nodes)).await));
        let began = Instant::now();
        let sidecar = load.sidecar();
        let empty = sidecar.memory();
        eventually("the first sync", Duration::from_secs(60), || sidecar.get(&load.last()));
        mirrored.push(began.elapsed());
        memory.push(sidecar.memory().saturating_sub(empty) / nodes);
    }
    let (bare, mirrored) = (median(&bare), median(&mirrored));
    report.figures(
        "First sync",
        &[
            ("bare multi-read", format!("{:.0} ms", millis(bare))),
            ("from the start of the process to the first answer", format!("{:.0} ms", millis(mirrored))),
            ("ratio", format!("{:.2}", mirrored.as_secs_f64() / bare.as_secs_f64())),
            ("memory of a node, with its path and data", format!("{} bytes", median(&memory))),
        ],
    );
}

/// Reads everything as fast as the crate can: as many requests in flight as there are.
async fn read_all(client: &Client, nodes: usize) -> Result<(), Error> {
    let (mut level, mut read) = (vec!["/".to_owned()], 0);
    while !level.is_empty() {
        let mut replies = FuturesOrdered::new();
        for paths in level.chunks(250) {
            let mut reader = client.new_multi_reader();
            for path in paths {
                reader.add_get_data(path)?;
                reader.add_get_children(path)?;
            }
            let reply = reader.commit();
            replies.push_back(async move { reply.await.map(|results| (paths, results)) });
        }
        let mut below = Vec::new();
        while let Some(reply) = replies.next().await {
            let (paths, results) = reply?;
            for (number, result) in results.into_iter().enumerate() {
                match result {
                    MultiReadResult::Data { .. } => read += 1,
                    MultiReadResult::Children { children } => {
                        let parent = paths[number / 2].trim_end_matches('/');
                        below.extend(children.iter().map(|name| format!("{parent}/{name}")));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        drop(replies);
        level = below;
    }
    assert!(read >= nodes, "{read} of {nodes}");
    Ok(())
}

/// Sets one node again and again, beside few nodes and beside many: the processor time that each takes from the
/// sidecar's host, and how soon a watcher sees it.
fn cost_of_a_set(report: &mut Report, few: &Load, many: &Load, sets: usize) {
    let loads = [few, many].map(|load| (load, load.sidecar()));
    for (load, sidecar) in &loads {
        eventually("the first sync", Duration::from_secs(60), || sidecar.get(&load.last()));
    }
    let mut costs = [Vec::new(), Vec::new()];
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        for ((load, sidecar), costs) in loads.iter().zip(&mut costs) {
            let before = processor_time(&[sidecar.process().id()]);
            seen.extend(set_and_see(load, sidecar, sets / ROUNDS));
            costs.push((processor_time(&[sidecar.process().id()]) - before) / (sets / ROUNDS) as u32);
        }
    }
    let [few_cost, many_cost] = costs.map(|costs| median(&costs));
    report.figures(
        "A set of one node",
        &[
            (&format!("processor time, with {} nodes", few.nodes), format!("{:.0} µs", micros(few_cost))),
            (&format!("processor time, with {} nodes", many.nodes), format!("{:.0} µs", micros(many_cost))),
            ("ratio", format!("{:.2}", many_cost.as_secs_f64() / few_cost.as_secs_f64())),
            ("from its return until a watcher sees it, p50", format!("{:.1} ms", millis(median(&seen)))),
            ("the same, p99", format!("{:.1} ms", millis(percentile(&seen, 99)))),
        ],
    );
}

fn set_and_see(load: &Load, sidecar: &Roster, sets: usize) -> Vec<Duration> {
    load.zk().run(async |writer| {
        let (path, mut client, mut seen) = (node(0, 0), sidecar.client(), Vec::new());
        let mut since = client.get(path.clone(), any_age()).expect("the node is there").freshness.revision;
        for number in 0..sets {
            tokio::time::sleep(PAUSE).await;
            let data = format!("{number}");
            writer.set_data(&path, data.as_bytes(), None).await?;
            let returned = Instant::now();
            loop {
                let reply = client.watch(since, vec![path.clone()], 5_000, 0).expect("a reply");
                since = reply.freshness.revision;
                let is_it = |change: &idl::Change| change.node.as_ref().is_some_and(|it| it.data == data.as_bytes());
                if reply.changes.iter().any(is_it) {
                    break;
                }
            }
            seen.push(returned.elapsed());
        }
        Ok(seen)
    })
}

async fn timed(work: impl Future<Output = Result<(), Error>>) -> Result<Duration, Error> {
    let began = Instant::now();
    work.await?;
    Ok(began.elapsed())
}
