//! Part `mirror`: what the mirror costs, beside a bare multi-read and a bare watcher of the same client crate.

mod changes;
mod resync;

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use zookeeper_client::{Acls, Client, CreateMode, Error, MultiReadResult};

use crate::harness::{Roster, Server, eventually, runtime};
use crate::measure::{Memory, exponent, median, memory, millis};
use crate::report::{Report, verdict};
use crate::{Form, form, let_wait};

const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(120);
const DATA: [u8; 120] = [b'x'; 120];
const NODES_A_FOLDER: usize = 99;

/// What a first sync may take, beside a bare multi-read.
const SYNC: f64 = 2.0;
/// What a node may take of memory above its path and data, in bytes.
const ABOVE: usize = 400;

pub(crate) fn run(report: &mut Report) {
    let sizes: &[usize] = match form() {
        Form::Quick => &[1_000, 10_000],
        Form::Usual => &[1_000, 10_000, 100_000],
        Form::Full => &[1_000, 10_000, 100_000, 1_000_000],
    };
    let about = format!("Nodes of {} bytes, a hundred in each folder; medians of {ROUNDS} rounds.", DATA.len());
    report.part("Mirror", &about);
    let loads: Vec<_> = sizes.iter().map(|size| Load::new(*size)).collect();
    first_sync(report, &loads);
    resync::run(report, &loads);
    changes::run(report, &loads);
}

/// An ensemble with a tree of so many nodes.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) server: Server,
    nodes: usize,
}

impl Load {
    pub(crate) fn new(nodes: usize) -> Self {
        let mut server = Server::prepare();
        if nodes > 100_000 {
            server.set_heap("4g");
        }
        server.restart();
        let load = Self { server, nodes };
        runtime().block_on(async { fill(&load.client().await, nodes).await.expect("nothing in the way") });
        load
    }

    async fn client(&self) -> Client {
        Client::connector().with_session_timeout(PATIENCE).connect(&self.server.address()).await.expect("a session")
    }

    /// A sidecar that mirrors it, and does not run yet.
    pub(crate) fn prepare(&self) -> Roster {
        self.prepare_over(&self.server.address())
    }

    fn prepare_over(&self, connect: &str) -> Roster {
        let settings =
            format!("[[zookeeper]]\nconnect = {connect:?}\nmax_nodes = 2000000\n[shared]\nmax_size = \"4GiB\"\n");
        let sidecar = Roster::prepare(&settings);
        let_wait(&sidecar);
        sidecar
    }

    fn sidecar(&self) -> Roster {
        let mut sidecar = self.prepare();
        sidecar.run();
        sidecar
    }

    /// The path of the node that is read last.
    pub(crate) fn last(&self) -> String {
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

fn first_sync(report: &mut Report, loads: &[Load]) {
    let (mut rows, mut costs) = (Vec::new(), Vec::new());
    for load in loads {
        let (mut bare, mut mirrored, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            bare.push(runtime().block_on(async {
                let client = load.client().await;
                timed(read_all(&client, load.nodes)).await.expect("ZooKeeper answers")
            }));
            let mut sidecar = load.prepare();
            let began = Instant::now();
            sidecar.run();
            let empty = memory(sidecar.process().id());
            eventually("the first sync", PATIENCE, || sidecar.get(&load.last()));
            mirrored.push(began.elapsed());
            held.push(memory(sidecar.process().id()).since(empty, load.nodes));
        }
        let (bare, mirrored) = (median(&bare), median(&mirrored));
        let [own, mapped] =
            [|it: &Memory| it.own, |it: &Memory| it.mapped].map(|of| median(&held.iter().map(of).collect::<Vec<_>>()));
        let above = own.saturating_sub(load.last().len() + DATA.len());
        let ratio = mirrored.as_secs_f64() / bare.as_secs_f64();
        costs.push((load.nodes, mirrored.as_secs_f64()));
        rows.push(vec![
            format!("{} nodes", load.nodes),
            format!("{:.0} ms", millis(bare)),
            format!("{:.0} ms", millis(mirrored)),
            format!("{ratio:.2} {}", verdict(ratio <= SYNC)),
            format!("{above} bytes {}", verdict(above <= ABOVE)),
            format!("{mapped} bytes"),
        ]);
    }
    let header = [
        "",
        "bare multi-read",
        "start to first answer",
        "ratio (≤ 2 for 100,000)",
        "memory a node, above path and data (≤ 400)",
        "and in the shared file",
    ];
    report.table("First sync", &header, &rows);
    report.say(&format!("The time to the first answer grows by n to the power of {:.2}.", exponent(&costs)));
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

async fn timed(work: impl Future<Output = Result<(), Error>>) -> Result<Duration, Error> {
    let began = Instant::now();
    work.await?;
    Ok(began.elapsed())
}
