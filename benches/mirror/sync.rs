//! The first sync beside a bare multi-read of the same nodes, and what the nodes take of memory then.

use std::time::{Duration, Instant};

use futures::stream::{self, FuturesOrdered, StreamExt, TryStreamExt};
use zookeeper_client::{Client, Error, MultiReadResult, MultiReader};

use super::{DATA, Load, PATIENCE, ROUNDS};
use crate::harness::{MULTI_READS, Roster, eventually, release, runtime};
use crate::measure::{exponent, file_in_step, file_size, median, memory, millis};
use crate::report::{Report, verdict};

/// What a first sync may take, beside a bare multi-read.
const SYNC: f64 = 1.4;
/// What a node may take of memory above its path and data, in bytes.
const ABOVE: usize = 400;

pub(super) fn run(report: &mut Report, loads: &[Load]) {
    let (mut rows, mut costs) = (Vec::new(), Vec::new());
    for load in loads {
        let nothing = Mirrored::of_nothing(load);
        let rounds: Vec<_> = (0..ROUNDS).map(|_| (read(load), Mirrored::of_all(load))).collect();
        let bare = median(&rounds.iter().map(|(bare, _)| *bare).collect::<Vec<_>>());
        let time = median(&rounds.iter().map(|(_, it)| it.time).collect::<Vec<_>>());
        let a_node = |of: fn(&Mirrored) -> usize| {
            let all = median(&rounds.iter().map(|(_, it)| of(it)).collect::<Vec<_>>());
            all.saturating_sub(of(&nothing)) / load.nodes
        };
        let above = |of| a_node(of).saturating_sub(load.last().len() + DATA.len());
        let settled = above(|it| it.settled);
        let ratio = time.as_secs_f64() / bare.as_secs_f64();
        costs.push((load.nodes, time.as_secs_f64()));
        rows.push(vec![
            format!("{} nodes", load.nodes),
            format!("{:.0} ms", millis(bare)),
            format!("{:.0} ms", millis(time)),
            format!("{ratio:.2} {}", verdict(ratio <= SYNC)),
            format!("{} bytes", above(|it| it.memory)),
            format!("{settled} bytes {}", verdict(settled <= ABOVE)),
            format!("{} bytes", a_node(|it| it.file)),
        ]);
    }
    let header = [
        "",
        "bare multi-read",
        "start to first answer",
        "ratio (≤ 1.4 for 100,000)",
        "memory a node above path and data: then",
        "when the shared file is written (≤ 400)",
        "the shared file, a node",
    ];
    report.table("First sync", &header, &rows);
    report.say(&format!(
        "The bare multi-read is connected already. Memory is what a sidecar has more than one without nodes. The time to \
         the first answer grows by n to the power of {:.2}.",
        exponent(&costs)
    ));
}

/// A sidecar that mirrors a load, in bytes.
struct Mirrored {
    /// From its start to its first answer.
    time: Duration,
    memory: usize,
    /// Its memory when the shared file is written.
    settled: usize,
    file: usize,
}

impl Mirrored {
    fn of_nothing(load: &Load) -> Self {
        let sidecar = load.prepare();
        sidecar.configure("max_nodes", "roots = [\"/nothing\"]\nmax_nodes");
        Self::measure(sidecar, |sidecar| sidecar.becomes("live"))
    }

    fn of_all(load: &Load) -> Self {
        Self::measure(load.prepare(), |sidecar| {
            let answer = eventually("the first sync", PATIENCE, || sidecar.get(&load.last()));
            assert_eq!(answer.node.data, DATA);
        })
    }

    fn measure(mut sidecar: Roster, wait: impl Fn(&Roster)) -> Self {
        let began = Instant::now();
        sidecar.run();
        wait(&sidecar);
        let (time, id) = (began.elapsed(), sidecar.process().id());
        let now = memory(id);
        file_in_step(&sidecar);
        Self { time, memory: now, settled: memory(id), file: file_size(&sidecar) }
    }
}

/// The time of a bare multi-read of all of it.
fn read(load: &Load) -> Duration {
    runtime().block_on(async {
        let client = load.client().await;
        let began = Instant::now();
        let nodes = read_all(&client).await.expect("ZooKeeper answers");
        assert!(nodes >= load.nodes, "{nodes} of {}", load.nodes);
        began.elapsed()
    })
}

/// Reads all data, and lists what has children, one by one, with some requests in flight.
async fn read_singly(client: &Client) -> Result<usize, Error> {
    const IN_FLIGHT: usize = 256;
    let (mut level, mut nodes) = (vec!["/".to_owned()], 0);
    while !level.is_empty() {
        let read = level.iter().map(|path| client.get_data(path));
        let read: Vec<_> = stream::iter(read).buffered(IN_FLIGHT).try_collect().await?;
        nodes += level.len();
        let parents =
            level.iter().zip(read).filter(|(_, (_, stat))| stat.num_children > 0).map(|(path, _)| path.clone());
        let list = async |path: String| client.list_children(&path).await.map(|names| (path, names));
        let listed: Vec<_> = stream::iter(parents).map(list).buffered(IN_FLIGHT).try_collect().await?;
        let below = |(parent, names): (String, Vec<String>)| {
            let parent = parent.trim_end_matches('/').to_owned();
            names.into_iter().map(move |name| format!("{parent}/{name}"))
        };
        level = listed.into_iter().flat_map(below).collect();
    }
    Ok(nodes)
}

/// Reads all data, and lists what has children, as fast as the crate can: with as many requests in flight as there are.
pub(crate) async fn read_all(client: &Client) -> Result<usize, Error> {
    if release() < MULTI_READS {
        return read_singly(client).await;
    }
    let (mut level, mut nodes) = (vec!["/".to_owned()], 0);
    while !level.is_empty() {
        let mut parents = Vec::new();
        let take = |path: &str, result| match result {
            MultiReadResult::Data { stat, .. } => parents.extend((stat.num_children > 0).then(|| path.to_owned())),
            other => panic!("{path}: {other:?}"),
        };
        in_batches(client, &level, |reader, path| reader.add_get_data(path), take).await?;
        nodes += level.len();
        let mut below = Vec::new();
        let take = |parent: &str, result| match result {
            MultiReadResult::Children { children } => {
                below.extend(children.iter().map(|name| format!("{}/{name}", parent.trim_end_matches('/'))))
            }
            other => panic!("{parent}: {other:?}"),
        };
        in_batches(client, &parents, |reader, path| reader.add_get_children(path), take).await?;
        level = below;
    }
    Ok(nodes)
}

async fn in_batches(
    client: &Client,
    paths: &[String],
    add: fn(&mut MultiReader<'_>, &str) -> Result<(), Error>,
    mut take: impl FnMut(&str, MultiReadResult),
) -> Result<(), Error> {
    let mut replies = FuturesOrdered::new();
    for paths in paths.chunks(250) {
        let mut reader = client.new_multi_reader();
        paths.iter().try_for_each(|path| add(&mut reader, path))?;
        let reply = reader.commit();
        replies.push_back(async move { reply.await.map(|results| (paths, results)) });
    }
    while let Some(reply) = replies.next().await {
        let (paths, results) = reply?;
        paths.iter().zip(results).for_each(|(path, result)| take(path, result));
    }
    Ok(())
}
