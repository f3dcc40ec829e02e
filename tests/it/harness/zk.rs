//! Verbs for ZooKeeper: each is done by a client of its own, fresh and gone again.

use std::time::Duration;

use futures::future::try_join_all;
use zookeeper_client::{Acls, Client, Connector, CreateMode, Error};

use super::release::release;
use super::{SOON, eventually, runtime};

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// After so long a silence an owner's session ends; a busy machine may hold up its heartbeats for some of that.
const OWNER_TIMEOUT: Duration = Duration::from_secs(5);

/// How many nodes are written in one transaction.
const BATCH: usize = 500;

/// The first release that takes in a transaction the kind of request by which the crate creates nodes there.
const CREATES_IN_MULTI: (u32, u32) = (3, 5);

/// An address of ZooKeeper, a chroot, and who one is there.
#[derive(Clone, Debug)]
pub(crate) struct Zk {
    connect: String,
    /// `USER:PASSWORD`
    identity: Option<String>,
    release: (u32, u32),
}

/// The session that an ephemeral node lives by.
#[derive(Debug)]
pub(crate) struct Owner(Client);

impl Zk {
    pub(crate) fn new(connect: String) -> Self {
        Self { connect, identity: None, release: release() }
    }

    /// The same, spoken to as one that may be of release 3.4.
    pub(crate) fn before_3_5(&self) -> Self {
        Self { release: (3, 4), ..self.clone() }
    }

    /// The connect string.
    pub(crate) fn connect_string(&self) -> &str {
        &self.connect
    }

    /// The same ZooKeeper below a node, which need not be there yet.
    pub(crate) fn below(&self, path: &str) -> Self {
        Self { connect: format!("{}{path}", self.connect), ..self.clone() }
    }

    /// The same ZooKeeper as this user sees it.
    pub(crate) fn identified(&self, identity: &str) -> Self {
        Self { identity: Some(identity.to_owned()), ..self.clone() }
    }

    /// Creates a node, and those above it that are missing. Whoever is identified keeps it to himself.
    pub(crate) fn create(&self, path: &str, data: impl AsRef<[u8]>) {
        let parent = &path[..path.rfind('/').expect("a slash")];
        let acls = if self.identity.is_some() { Acls::creator_all() } else { Acls::anyone_all() };
        self.run(async |client| {
            if !parent.is_empty() {
                client.mkdir(parent, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await?;
            }
            client.create(path, data.as_ref(), &CreateMode::Persistent.with_acls(acls)).await.map(drop)
        });
    }

    /// Creates `count` nodes named `prefix` and a number.
    pub(crate) fn create_many(&self, prefix: &str, count: usize) {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        self.run(async |client| {
            let numbers: Vec<usize> = (0..count).collect();
            for some in numbers.chunks(BATCH) {
                if self.release < CREATES_IN_MULTI {
                    let paths = some.iter().map(|n| (format!("{prefix}{n}"), n.to_string())).collect::<Vec<_>>();
                    let created = paths.iter().map(|(path, data)| client.create(path, data.as_bytes(), &options));
                    try_join_all(created).await?;
                    continue;
                }
                let mut writer = client.new_multi_writer();
                for n in some {
                    writer.add_create(&format!("{prefix}{n}"), n.to_string().as_bytes(), &options)?;
                }
                writer.commit().await.expect("nothing is in the way");
            }
            Ok(())
        });
    }

    pub(crate) fn set(&self, path: &str, data: impl AsRef<[u8]>) {
        self.run(async |client| client.set_data(path, data.as_ref(), None).await.map(drop));
    }

    pub(crate) fn delete(&self, path: &str) {
        self.run(async |client| client.delete(path, None).await);
    }

    /// Deletes a node and all below it.
    pub(crate) fn delete_all(&self, path: &str) {
        let paths: Vec<String> = self.read_all(path).into_keys().rev().collect();
        self.run(async |client| {
            for some in paths.chunks(BATCH) {
                let mut writer = client.new_multi_writer();
                for path in some {
                    writer.add_delete(path, None)?;
                }
                writer.commit().await.expect("nobody else is at it");
            }
            Ok(())
        });
    }

    /// Lets everybody do everything with a node.
    pub(crate) fn open(&self, path: &str) {
        self.run(async |client| client.set_acl(path, &Acls::anyone_all(), None).await.map(drop));
    }

    /// Lets nobody else do anything with a node.
    pub(crate) fn close(&self, path: &str) {
        self.run(async |client| client.set_acl(path, &Acls::creator_all(), None).await.map(drop));
    }

    /// Creates a node that lives as long as its owner.
    pub(crate) fn ephemeral(&self, path: &str, data: &str) -> Owner {
        runtime().block_on(async {
            // Detached, since its session should end by silence, not by a farewell.
            let client = self.client(Client::connector().with_session_timeout(OWNER_TIMEOUT).with_detached());
            let client = client.await.expect("a client");
            let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
            client.create(path, data.as_bytes(), &options).await.expect("a node");
            Owner(client)
        })
    }

    /// What `operation` makes of a fresh client; it must succeed. On a busy machine, connecting may need several
    /// attempts; the operation is not done twice.
    pub(crate) fn run<T>(&self, operation: impl AsyncFn(&Client) -> Result<T, Error>) -> T {
        let client =
            eventually("ZooKeeper is reached", SOON, || runtime().block_on(within(PATIENCE, self.client(patient()))));
        let done = runtime().block_on(async move { within(PATIENCE, operation(&client)).await });
        done.unwrap_or_else(|error| panic!("{}: {error}", self.connect))
    }

    /// What `operation` makes of a fresh client.
    pub(crate) fn attempt<T>(&self, operation: impl AsyncFn(&Client) -> Result<T, Error>) -> Result<T, Error> {
        runtime().block_on(within(PATIENCE, async { operation(&self.client(patient()).await?).await }))
    }

    async fn client(&self, connector: Connector) -> Result<Client, Error> {
        let connector = known_to(self.release, connector);
        match &self.identity {
            Some(identity) => connector.with_auth("digest", identity.as_bytes()).connect(&self.connect).await,
            None => connector.connect(&self.connect).await,
        }
    }
}

/// A client whose connection is not lost because a busy machine holds up a reply.
fn patient() -> Connector {
    Client::connector().with_session_timeout(SOON)
}

async fn within<T>(limit: Duration, what: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(limit, what).await.unwrap_or(Err(Error::Timeout))
}

/// Has a client make only requests that a server of this release knows.
pub(crate) fn known_to(release: (u32, u32), connector: Connector) -> Connector {
    connector.with_fail_eagerly().with_server_version(release.0, release.1, 0)
}

impl Owner {
    /// Falls silent, so that its session expires.
    pub(crate) fn dies(self) {
        let _runtime = runtime().enter();
        drop(self.0);
    }
}
