//! Upstream registers: follows the masters of a register elsewhere, and calls them through it.

mod line;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use rmpv::Value;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use self::line::UpstreamLine;
use crate::model::{Change, Master, Service};
use crate::net::{AddressError, Remote, Stream};
use crate::store::{Feed, FeedState, Publisher};
use crate::task::{Backoff, Reload, Stop, Tasks};
use crate::tunnel::value::{get, text};
use crate::tunnel::{Bounds, Conversation, Handle, Message, RemoteError, Settings, Token, Wire};

/// How long the register may take to be connected to, and to answer our token.
const GREET: Duration = Duration::from_secs(5);

/// How often a register that tells nothing is known to be in step: its tunnel has a heartbeat.
const PROVE: Duration = Duration::from_secs(2);

/// After so long in sync, trouble is new trouble.
const CALM: Duration = Duration::from_secs(60);

/// `[[upstream]]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What status, logs and metrics call it.
    #[serde(default = "Config::default_name")]
    pub name: String,
    /// The address and port of the register, which is one of Roster's; after `tls://` if it is spoken to by TLS.
    pub connect: String,
    /// A file with the authorities that sign its certificate; none: those that this machine believes. Read anew at each
    /// connection.
    pub ca: Option<PathBuf>,
    /// A file with the token to show. Read anew at each connection.
    pub token: PathBuf,
    /// How many calls through the register may be under way to each master.
    #[serde(default = "Config::default_max_calls")]
    pub max_calls_per_master: usize,
    /// The longest message, which should be no less than the register's.
    #[serde(default = "Config::default_max_message")]
    pub max_message: ByteSize,
}

impl Config {
    fn default_name() -> String {
        "upstream".into()
    }

    fn default_max_calls() -> usize {
        1_024
    }

    fn default_max_message() -> ByteSize {
        ByteSize::mib(1)
    }

    fn settings(&self) -> Settings {
        let bytes = self.max_message.as_u64() as usize;
        let Settings { bounds, queue_bytes, .. } = Settings::default();
        let bounds = Bounds { bytes, ..bounds };
        Settings { bounds, queue_bytes: queue_bytes.max(bytes), ..Settings::default() }
    }
}

/// Follows the register, until the stop.
pub async fn run(config: Config, publisher: Publisher, reload: Reload, tasks: Tasks) {
    let stop: Stop = tasks.stop_signal();
    let mut upstream = Upstream { config, publisher, reload, tasks };
    tokio::select! {
        () = upstream.keep() => {}
        () = stop.requested() => {}
    }
}

struct Upstream {
    config: Config,
    publisher: Publisher,
    reload: Reload,
    tasks: Tasks,
}

/// Why the register is not followed.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("cannot read the token {path}: {source}")]
    Token { path: PathBuf, source: io::Error },
    #[error("cannot reach {connect}: {why}")]
    Unreachable { connect: String, why: String },
    #[error("the register refuses the token")]
    Refused,
    #[error("{0}")]
    Lost(String),
}

/// What the register tells of its masters.
enum Told {
    Reset,
    Put(Master),
    Drop(String),
    Whole,
}

impl Upstream {
    async fn keep(&mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        self.feed().enter(FeedState::Connecting, format!("connecting to {}", self.config.connect));
        loop {
            let since = Instant::now();
            let trouble = match self.greet().await {
                Ok(wire) => self.follow(wire).await,
                Err(trouble) => trouble,
            };
            if since.elapsed() > CALM {
                backoff.reset();
            }
            let detail = trouble.to_string();
            if self.feed().state() != FeedState::Down || self.feed().detail() != detail {
                tracing::warn!(source = self.feed().name(), why = detail, "lost the register; what it told stands");
            }
            self.feed().enter(FeedState::Down, detail);
            tokio::select! {
                () = tokio::time::sleep(backoff.delay()) => {}
                () = self.reload.requested() => {}
            }
            self.feed().reconnects.increment();
        }
    }

    /// Connects, and shows the token.
    async fn greet(&self) -> Result<Wire<Stream>, Trouble> {
        let path = &self.config.token;
        let token = std::fs::read_to_string(path).map_err(|source| Trouble::Token { path: path.clone(), source })?;
        let connect = self.config.connect.clone();
        let unreachable = |why: String| Trouble::Unreachable { connect: connect.clone(), why };
        let greeting = async {
            let remote: Remote = connect.parse().map_err(|error: AddressError| unreachable(error.to_string()))?;
            let connected = remote.connect(self.config.ca.as_deref()).await;
            let stream = connected.map_err(|error| unreachable(error.to_string()))?;
            let mut wire = Wire::new(stream, Bounds::STRANGER);
            let token = Token(token.trim().to_owned());
            let auth = Message::Auth { token, native: true, id: None };
            wire.send(auth).await.map_err(|error| unreachable(error.to_string()))?;
            match wire.receive().await.map_err(|error| unreachable(error.to_string()))? {
                Message::AuthSuccess { .. } => Ok(wire),
                Message::AuthFailed { .. } => Err(Trouble::Refused),
                _ => Err(unreachable("it answers a token with something else".into())),
            }
        };
        timeout(GREET, greeting).await.unwrap_or_else(|_| Err(unreachable(format!("no answer within {GREET:?}"))))
    }

    async fn follow(&self, wire: Wire<Stream>) -> Trouble {
        let (handle, mut incoming, conversation) = Conversation::new(wire, self.config.settings());
        let ended = tokio::select! {
            ended = conversation.run() => return Trouble::Lost(format!("the connection was lost: {ended}")),
            trouble = self.subscribe(&handle) => trouble,
            // It asks for our services, as it asks any master.
            () = async { while let Some(message) = incoming.recv().await { decline(&handle, message) } } => {
                Trouble::Lost("the connection was lost".into())
            }
        };
        handle.close();
        ended
    }

    /// Takes in the whole state, at once, and then every change.
    async fn subscribe(&self, handle: &Handle) -> Trouble {
        self.feed().enter(FeedState::Syncing, format!("reading the masters of {}", self.config.connect));
        let asked = handle.open(|uuid| {
            Message::Other(Value::Map(vec![("cmd".into(), "subscribe".into()), ("uuid".into(), uuid.into())]))
        });
        let mut stream = match asked {
            Ok(stream) => stream,
            Err(error) => return Trouble::Lost(error.to_string()),
        };
        let mut generation: Option<HashMap<String, Master>> = Some(HashMap::new());
        loop {
            let next = tokio::select! {
                next = stream.next() => next,
                () = tokio::time::sleep(PROVE) => {
                    if self.feed().state() == FeedState::Live {
                        self.feed().prove(Instant::now());
                    }
                    continue;
                }
            };
            let told = match next {
                Ok(Some(value)) => told(&value),
                Ok(None) => return Trouble::Lost("the register ended the subscription".into()),
                Err(error) => return Trouble::Lost(error.to_string()),
            };
            match (told, &mut generation) {
                (None, _) => {}
                (Some(Told::Reset), _) => generation = Some(HashMap::new()),
                (Some(Told::Put(master)), Some(generation)) => drop(generation.insert(master.id.clone(), master)),
                (Some(Told::Drop(id)), Some(generation)) => drop(generation.remove(&id)),
                (Some(Told::Put(master)), None) => drop(self.publisher.publish(vec![self.join(handle, master)])),
                (Some(Told::Drop(id)), None) => drop(self.publisher.publish(vec![Change::Leave(id)])),
                (Some(Told::Whole), whole) => {
                    self.publish_whole(handle, whole.take().unwrap_or_default());
                    generation = None;
                }
            }
        }
    }

    fn publish_whole(&self, handle: &Handle, masters: HashMap<String, Master>) {
        let snapshot = self.publisher.snapshot();
        let own = self.publisher.number();
        let known = snapshot.directory().masters("").filter(|(_, entry)| entry.line_of(own).is_some());
        let gone =
            known.filter(|(id, _)| !masters.contains_key(id.as_ref())).map(|(id, _)| Change::Leave(id.to_string()));
        let mut changes: Vec<Change> = gone.collect();
        let count = masters.len();
        changes.extend(masters.into_values().map(|master| self.join(handle, master)));
        self.publisher.publish_whole(changes);
        self.feed().enter(FeedState::Live, "");
        self.feed().prove(Instant::now());
        tracing::info!(source = self.feed().name(), masters = count, "in sync");
    }

    fn join(&self, handle: &Handle, master: Master) -> Change {
        let line =
            UpstreamLine::new(handle.clone(), master.id.clone(), self.tasks.clone(), self.config.max_calls_per_master);
        Change::Join(Arc::new(master), Arc::new(line))
    }

    fn feed(&self) -> &Feed {
        self.publisher.feed()
    }
}

fn decline(handle: &Handle, message: Message) {
    if let Message::List { uuid } = message {
        let _ = handle.send(Message::Error { uuid, error: RemoteError::new("a subscriber, which offers nothing") });
    }
}

fn told(value: &Value) -> Option<Told> {
    if let Some(master) = get(value, "put") {
        return master_of(master).map(Told::Put);
    }
    if let Some(id) = get(value, "drop").and_then(text) {
        return Some(Told::Drop(id));
    }
    if get(value, "whole").is_some() {
        return Some(Told::Whole);
    }
    get(value, "reset").map(|_| Told::Reset)
}

fn master_of(value: &Value) -> Option<Master> {
    let service = |value: &Value| {
        let metadata = get(value, "metadata").cloned().unwrap_or(Value::Map(Vec::new()));
        Some(Service { name: get(value, "name").and_then(text)?, metadata })
    };
    Some(Master {
        id: get(value, "id").and_then(text)?,
        address: get(value, "address").and_then(text)?,
        connected_at: get(value, "connectedAt").and_then(Value::as_i64)?,
        services: get(value, "services")?.as_array()?.iter().filter_map(service).collect(),
    })
}
