//! Part `mirror`: what the mirror costs, beside a bare multi-read and a bare watcher of the same client crate.

mod changes;
mod resync;
mod sync;

use std::time::Duration;

use futures::future::try_join_all;
use zookeeper_client::{Acls, Client, CreateMode, Error};

pub(crate) use self::sync::read_all;
use crate::harness::{MULTI_READS, Roster, Server, release, runtime};
use crate::report::Report;
use crate::{Form, form, let_wait};

const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(120);
pub(crate) const DATA: [u8; 120] = [b'x'; 120];
const NODES_A_FOLDER: usize = 99;

pub(crate) fn run(report: &mut Report) {
    let sizes: &[usize] = match form() {
        Form::Quick => &[1_000, 10_000],
        Form::Usual => &[1_000, 10_000, 100_000],
        Form::Full => &[1_000, 10_000, 100_000, 1_000_000],
    };
    let about = format!("Nodes of {} bytes, a hundred in each folder; medians of {ROUNDS} rounds.", DATA.len());
    report.part("Mirror", &about);
    let loads: Vec<_> = sizes.iter().map(|size| Load::new(*size)).collect();
    sync::run(report, &loads);
    resync::run(report, &loads);
    changes::run(report, &loads);
}

/// An ensemble with a tree of so many nodes.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) server: Server,
    pub(crate) nodes: usize,
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
        connect(&self.server.address()).await
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

/// A bare client, with a session.
pub(crate) async fn connect(address: &str) -> Client {
    let (major, minor) = release();
    let connector = Client::connector().with_session_timeout(PATIENCE).with_server_version(major, minor, 0);
    connector.connect(address).await.expect("a session")
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
        if release() < MULTI_READS {
            client.create(&folder(of), &DATA, &options).await?;
            let nodes = (0..NODES_A_FOLDER).map(|number| node(of, number)).collect::<Vec<_>>();
            try_join_all(nodes.iter().map(|node| client.create(node, &DATA, &options))).await?;
            continue;
        }
        let mut writer = client.new_multi_writer();
        writer.add_create(&folder(of), &DATA, &options)?;
        for number in 0..NODES_A_FOLDER {
            writer.add_create(&node(of, number), &DATA, &options)?;
        }
        writer.commit().await.expect("nothing in the way");
    }
    Ok(())
}
