//! One ZooKeeper session: connects, watches, reads; each with a deadline.
//!
//! The crate's sharp edges are blunted here. It does not set persistent watches again when it reconnects; its
//! watchers panic when polled after the session's end; its time-outs come as errors of any kind. So only "no such
//! node" and "not allowed" are answers, and everything else means that the connection is in trouble.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use zookeeper_client::{
    AddWatchMode, Client, Error, EventType, MultiReadResult, PersistentWatcher, SessionState, WatchedEvent,
};

use super::Config;
use super::credentials::{self, Flaw, Identity};
use super::inquiry::inquire;
use crate::model::{Node, NodePath, Stat};

/// How long the server may take for a reply.
const REPLY: Duration = Duration::from_secs(4);

/// How long it may take for many nodes at once. A server that falls silent meanwhile is noticed sooner, as silence.
const BULK: Duration = Duration::from_secs(30);

/// How long it may take for the reply that proves that it is there.
const HEARTBEAT: Duration = Duration::from_millis(1_500);

/// A connection on which nothing comes for this long is lost, though no end of it was seen.
const SILENCE: Duration = Duration::from_secs(4);

pub(super) struct Session {
    client: Client,
    roots: Vec<NodePath>,
    identities: Vec<Identity>,
    /// One a root. All of them are told of the session's own events.
    watchers: Vec<PersistentWatcher>,
}

/// What a session tells unasked.
#[derive(Debug)]
pub(super) enum Event {
    Changed {
        path: NodePath,
        /// Whether it came or went, so that its parent has other figures.
        structure: bool,
    },
    Lost,
    Regained,
}

/// Why the mirror cannot go on as it is.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The connection is lost, or seems so; the session may live on.
    #[error("{0}")]
    Lost(String),
    /// The session is no more; only another can go on.
    #[error("{0}")]
    Ended(String),
    /// The identity is refused. Trying again soon would only fill logs.
    #[error("the ensemble refuses the credentials")]
    Refused,
    /// What is configured cannot work until somebody changes something.
    #[error("{0}")]
    Unfit(String),
}

/// What reading one node came to.
#[derive(Debug)]
pub(super) enum Reading {
    Found(Node),
    Absent,
    /// The identity may not read it.
    Unreadable,
}

impl Session {
    pub(super) async fn connect(config: &Config) -> Result<Self, Trouble> {
        let mut connector = Client::connector()
            .with_session_timeout(config.session_timeout)
            .with_connection_timeout(SILENCE.min(config.session_timeout))
            .with_fail_eagerly();
        let identities = identities(config)?;
        for (scheme, proof) in &identities {
            connector = connector.with_auth(scheme, proof.as_bytes());
        }
        let connecting = connector.connect(&config.connect);
        let client = match tokio::time::timeout(config.session_timeout.max(REPLY), connecting).await {
            Ok(Ok(client)) => client,
            Ok(Err(Error::NoHosts | Error::Timeout)) | Err(_) => {
                return Err(Trouble::Ended(inquire(&config.connect).await));
            }
            Ok(Err(error)) => return Err(trouble("connect", error)),
        };
        Ok(Self { client, roots: config.roots.clone(), identities, watchers: Vec::new() })
    }

    pub(super) fn id(&self) -> String {
        format!("{:#x}", self.client.session_id().0)
    }

    /// Whether it was made with the credentials that are configured now.
    pub(super) fn is_of(&self, config: &Config) -> Result<bool, Trouble> {
        Ok(self.identities == identities(config)?)
    }

    /// Watches all roots anew. The old watches are let go only now: dropped before, they would take the new with them.
    pub(super) async fn watch(&mut self) -> Result<(), Trouble> {
        let mut fresh = Vec::new();
        for root in &self.roots {
            let watching = self.client.watch(root.as_str(), AddWatchMode::PersistentRecursive);
            fresh.push(reply("watch", REPLY, watching).await?);
        }
        self.watchers = fresh;
        Ok(())
    }

    pub(super) fn is_watched(&self) -> bool {
        !self.watchers.is_empty()
    }

    /// Lets the server catch up with its leader: one to which we come back may lag.
    pub(super) async fn catch_up(&self) -> Result<(), Trouble> {
        reply("sync", REPLY, self.client.sync(self.roots[0].as_str())).await
    }

    /// Asks for a sign of life. Its reply comes after the events of all that the server had done before.
    pub(super) async fn heartbeat(&self) -> Result<(), Trouble> {
        reply("heartbeat", HEARTBEAT, self.client.check_stat(self.roots[0].as_str())).await.map(drop)
    }

    /// The next event. It may be awaited and dropped at any time without loss.
    pub(super) async fn next(&mut self) -> Result<Event, Trouble> {
        loop {
            let event = poll_fn(|context| {
                for watcher in &mut self.watchers {
                    if let Poll::Ready(event) = pin!(watcher.changed()).poll(context) {
                        return Poll::Ready(event);
                    }
                }
                Poll::Pending
            });
            if let Some(told) = told(event.await) {
                return told;
            }
        }
    }

    /// The next event, if one has come.
    pub(super) fn come(&mut self) -> Option<Result<Event, Trouble>> {
        self.next().now_or_never()
    }

    /// Reads some nodes in one request; sent when called, answered when awaited.
    pub(super) fn read(&self, paths: &[NodePath]) -> impl Future<Output = Result<Vec<Reading>, Trouble>> + use<'_> {
        let mut reader = self.client.new_multi_reader();
        let added = paths.iter().try_for_each(|path| reader.add_get_data(path.as_str()));
        let replies = reader.commit();
        async move {
            added.map_err(|error| trouble("read", error))?;
            let replies = reply("read", BULK, replies).await?;
            replies.into_iter().map(reading).collect()
        }
    }

    /// Lists the children of some nodes in one request, as `read` does; none for a node that is gone.
    pub(super) fn list(&self, paths: &[NodePath]) -> impl Future<Output = Result<Vec<Vec<String>>, Trouble>> + use<'_> {
        let mut reader = self.client.new_multi_reader();
        let added = paths.iter().try_for_each(|path| reader.add_get_children(path.as_str()));
        let replies = reader.commit();
        async move {
            added.map_err(|error| trouble("list", error))?;
            let replies = reply("list", BULK, replies).await?;
            replies.into_iter().map(listing).collect()
        }
    }
}

/// What an event of the crate means; nothing, for a path that cannot be one of ours.
fn told(event: WatchedEvent) -> Option<Result<Event, Trouble>> {
    let structure = match event.event_type {
        EventType::Session => {
            return Some(match event.session_state {
                SessionState::Disconnected => Ok(Event::Lost),
                SessionState::SyncConnected | SessionState::ConnectedReadOnly => Ok(Event::Regained),
                SessionState::AuthFailed => Err(Trouble::Refused),
                SessionState::Expired => Err(Trouble::Ended("the session expired".into())),
                SessionState::Closed => Err(Trouble::Ended("the session was closed".into())),
            });
        }
        EventType::NodeCreated | EventType::NodeDeleted => true,
        _ => false,
    };
    NodePath::parse(&event.path).ok().map(|path| Ok(Event::Changed { path, structure }))
}

fn reading(result: MultiReadResult) -> Result<Reading, Trouble> {
    match result {
        MultiReadResult::Data { data, stat } => Ok(Reading::Found(Node {
            data: data.into(),
            stat: Stat {
                czxid: stat.czxid,
                mzxid: stat.mzxid,
                pzxid: stat.pzxid,
                ctime: stat.ctime,
                mtime: stat.mtime,
                ephemeral_owner: stat.ephemeral_owner,
                version: stat.version,
                num_children: stat.num_children,
            },
        })),
        MultiReadResult::Error { err: Error::NoNode } => Ok(Reading::Absent),
        MultiReadResult::Error { err: Error::NoAuth } => Ok(Reading::Unreadable),
        MultiReadResult::Error { err } => Err(trouble("read", err)),
        other => Err(Trouble::Lost(format!("read: unexpected reply {other:?}"))),
    }
}

fn listing(result: MultiReadResult) -> Result<Vec<String>, Trouble> {
    match result {
        MultiReadResult::Children { children } => Ok(children),
        MultiReadResult::Error { err: Error::NoNode | Error::NoAuth } => Ok(Vec::new()),
        MultiReadResult::Error { err } => Err(trouble("list", err)),
        other => Err(Trouble::Lost(format!("list: unexpected reply {other:?}"))),
    }
}

async fn reply<T>(what: &str, within: Duration, reply: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
    match tokio::time::timeout(within, reply).await {
        Ok(reply) => reply.map_err(|error| trouble(what, error)),
        Err(_) => Err(Trouble::Lost(format!("{what}: no reply within {within:?}"))),
    }
}

fn trouble(what: &str, error: Error) -> Trouble {
    match error {
        Error::AuthFailed => Trouble::Refused,
        Error::SessionExpired | Error::ClientClosed | Error::NoHosts | Error::Timeout => {
            Trouble::Ended(format!("{what}: {error}"))
        }
        Error::Unimplemented => Trouble::Unfit(
            "the server is older than ZooKeeper 3.6: it has no persistent watches; use a newer one".into(),
        ),
        Error::BadArguments(why) => Trouble::Unfit(format!("{what}: {why}")),
        error => Trouble::Lost(format!("{what}: {error}")),
    }
}

/// The identities that are configured, read anew for each session.
fn identities(config: &Config) -> Result<Vec<Identity>, Trouble> {
    let Some(place) = &config.credentials else { return Ok(Vec::new()) };
    let unfit = |flaws: Vec<Flaw>| {
        let flaws: Vec<_> = flaws.iter().map(Flaw::to_string).collect();
        Trouble::Unfit(format!("credentials: {}", flaws.join("; ")))
    };
    credentials::read(place).map_err(unfit)
}
