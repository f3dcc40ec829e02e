//! What it takes to decode the instances that very many nodes register, in each format: a first sync with them beside one
//! of the same nodes without, from the same ZooKeeper.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use zookeeper_client::{Acls, CreateMode};

use super::registrars::{REGISTRARS, Registrar};
use crate::harness::{Roster, Server, ensure, eventually, runtime};
use crate::measure::{file_in_step, median, memory, millis};
use crate::mirror::connect;
use crate::report::{Report, verdict};
use crate::{Form, form, let_wait};

const ROUNDS: usize = 5;

/// What a first sync that decodes may take, beside one that does not.
const MOST: f64 = 2.0;

/// How many nodes are created at once.
const AT_ONCE: usize = 250;

const PATIENCE: Duration = Duration::from_secs(120);

/// What one sidecar took.
struct Sync {
    /// From its start to its first answer.
    time: Duration,
    /// Its memory once the shared file is written, in bytes.
    memory: usize,
}

pub(super) fn run(report: &mut Report) {
    let n = if form() == Form::Quick { 10_000 } else { 100_000 };
    let rows: Vec<_> = REGISTRARS.iter().map(|registrar| row(registrar, n)).collect();
    let header = ["", "plain", "with its instances", "÷ plain (≤ 2)", "memory of an instance, above its node's"];
    report.table(&format!("First sync of {n} nodes that each register an instance, by format"), &header, &rows);
    report.say(&format!(
        "From the sidecar's start to its first answer, by turns, of one ZooKeeper beside it; medians of {ROUNDS} rounds. \
         Memory is measured once the shared file is written."
    ));
}

fn row(registrar: &Registrar, n: usize) -> Vec<String> {
    let server = filled(registrar, n);
    let round = |_| [false, true].map(|decodes| sync(&server, registrar, n, decodes));
    let rounds: Vec<_> = (0..ROUNDS).map(round).collect();
    let [plain, with] = [0, 1].map(|at| median(&rounds.iter().map(|both| both[at].time).collect::<Vec<_>>()));
    let [light, heavy] = [0, 1].map(|at| median(&rounds.iter().map(|both| both[at].memory).collect::<Vec<_>>()));
    let ratio = with.as_secs_f64() / plain.as_secs_f64();
    vec![
        format!("{:?}", registrar.0),
        format!("{:.0} ms", millis(plain)),
        format!("{:.0} ms", millis(with)),
        format!("{ratio:.2} {}", verdict(ratio <= MOST)),
        format!("{} bytes", heavy.saturating_sub(light) / n),
    ]
}

/// A server with the nodes.
fn filled((_, root, node): &Registrar, n: usize) -> Server {
    let mut server = Server::prepare();
    server.set_heap("1g");
    server.restart();
    runtime().block_on(async {
        let client = connect(&server.address()).await;
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        let nodes: Vec<_> = (0..n).map(node).collect();
        let parents: BTreeSet<_> = nodes.iter().filter_map(|(path, _)| Some(path.rsplit_once('/')?.0)).collect();
        for parent in [*root].into_iter().chain(parents) {
            client.mkdir(parent, &options).await.expect("nothing is in the way");
        }
        for some in nodes.chunks(AT_ONCE) {
            let mut writer = client.new_multi_writer();
            for (path, data) in some {
                writer.add_create(path, data.as_bytes(), &options).expect("a path");
            }
            writer.commit().await.expect("nothing is in the way");
        }
    });
    server
}

/// The first sync of a new sidecar, which decodes what the nodes register or does not.
fn sync(server: &Server, (format, root, node): &Registrar, n: usize, decodes: bool) -> Sync {
    let services =
        if decodes { format!("[[services]]\nroot = {root:?}\nformat = {:?}\n", format.name()) } else { String::new() };
    let settings = format!(
        "[[zookeeper]]\nconnect = {:?}\nmax_nodes = 2000000\n{services}[shared]\nmax_size = \"4GiB\"\n",
        server.address()
    );
    let mut sidecar = Roster::prepare(&settings);
    let_wait(&sidecar);
    let began = Instant::now();
    sidecar.run();
    let (path, _) = node(n - 1);
    eventually("the first sync", PATIENCE, || sidecar.get(&path));
    let time = began.elapsed();
    if decodes {
        let known = sidecar.cli(["services", "-o", "json"]).json();
        let services = known["services"].as_array().into_iter().flatten();
        let counts = services.flat_map(|service| service["masters"].as_object().into_iter().flatten());
        let count: u64 = counts.filter_map(|(_, count)| count.as_u64()).sum();
        ensure(count == n as u64, count).expect("all instances");
    }
    file_in_step(&sidecar);
    Sync { time, memory: memory(sidecar.process().id()) }
}
