//! Followers: the connection to one upstream register, made again whenever it is lost.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use rmpv::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use super::line::{UpstreamLine, command};
use super::{Config, Order, PROVE};
use crate::clock::Moment;
use crate::model::{Change, MAX_SERVICES, Master, Service, cut_to_bounds};
use crate::net::{Remote, Stream};
use crate::secret;
use crate::store::{Feed, FeedState, Publisher};
use crate::task::{Backoff, Reload};
use crate::tunnel::value::{get, text};
use crate::tunnel::{Bounds, Conversation, Handle, Message, RemoteError, Token, UnderWay, Wire};

/// How long the register may take to be connected to, and to answer our token.
const GREET: Duration = Duration::from_secs(5);

/// After a connection that held so long, trouble is new trouble.
const HELD: Duration = Duration::from_secs(1);

/// The longest id and address of a master. A register takes an id in a frame of 4 KiB, and an address is of an IP.
const MAX_ID_BYTES: usize = 4 * 1024;
const MAX_ADDRESS_BYTES: usize = 256;

pub(super) struct Follower {
    pub(super) remote: Remote,
    pub(super) config: Arc<Config>,
    pub(super) publisher: Publisher,
    pub(super) reload: Reload,
    pub(super) calls: UnderWay,
    /// Where it is told what the register commands.
    pub(super) orders: mpsc::Sender<Order>,
}

/// Why the register is not followed.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("cannot read the token {path}: {source}")]
    Token { path: PathBuf, source: io::Error },
    #[error("cannot reach {remote}: {why}")]
    Unreachable { remote: Remote, why: String },
    #[error("{remote} refuses the token of {path}")]
    Refused { remote: Remote, path: PathBuf },
    #[error("the register tells of more masters than max_masters allows: {0}")]
    TooMany(usize),
    #[error("the register tells of more metadata than max_metadata allows: {0}")]
    TooMuch(ByteSize),
    #[error("{0}")]
    Lost(String),
}

/// What the register tells of its masters.
enum Told {
    Reset,
    /// A master, and what of it is left out, in words.
    Put(Known, Option<String>),
    /// A master by its id, and what of it is larger than it may be, in words.
    TooLarge(String, String),
    Drop(String),
    Whole,
    /// Whether the register still gives masters time to come back.
    Settling(bool),
    /// That is a piece, after which the register waits.
    Piece(u64),
    /// All that was true so long after the connection was made.
    Proven(Duration),
}

impl Told {
    /// The same where masters have had their time to come back.
    fn settled(self) -> Self {
        match self {
            Self::Put(known, _) if known.is_expected => Self::Drop(known.master.id),
            Self::Settling(_) => Self::Settling(false),
            told => told,
        }
    }
}

/// A master, and whether it was there before the register's restart and has not come back.
struct Known {
    master: Master,
    is_expected: bool,
}

impl Follower {
    /// Follows the register for ever.
    pub(super) async fn keep(&mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut was_in_sync = false;
        self.feed().enter(FeedState::Connecting, format!("connecting to {}", self.remote));
        loop {
            let trouble = match self.greet().await {
                Ok(wire) => {
                    let since = Instant::now();
                    let trouble = self.follow(wire, &mut was_in_sync).await;
                    if since.elapsed() > HELD {
                        backoff.reset();
                    }
                    trouble
                }
                Err(trouble) => trouble,
            };
            self.down(&trouble);
            tokio::select! {
                () = tokio::time::sleep(backoff.delay()) => {}
                () = self.reload.requested() => {}
            }
        }
    }

    /// Connects, and shows the token.
    async fn greet(&self) -> Result<Wire<Stream>, Trouble> {
        let path = &self.config.token;
        let text = secret::read(path).map_err(|source| Trouble::Token { path: path.clone(), source })?;
        let wrong = |source| Trouble::Token { path: path.clone(), source };
        let tokens = secret::tokens(&text).map_err(|why| wrong(io::Error::other(why)))?;
        let token = *tokens.first().ok_or_else(|| wrong(io::Error::other("it holds no token")))?;
        let unreachable = |why: String| Trouble::Unreachable { remote: self.remote.clone(), why };
        let greeting = async {
            let connected = self.remote.connect(self.config.ca.as_deref(), self.config.register_user).await;
            let stream = connected.map_err(|error| unreachable(error.to_string()))?;
            let mut wire = Wire::new(stream, Bounds::STRANGER);
            let token = Token(token.to_owned());
            let auth = Message::Auth { token, native: true, id: None };
            wire.send(auth).await.map_err(|error| unreachable(error.to_string()))?;
            match wire.receive().await.map_err(|error| unreachable(error.to_string()))? {
                Message::AuthSuccess { .. } => Ok(wire),
                Message::AuthFailed { .. } => Err(Trouble::Refused { remote: self.remote.clone(), path: path.clone() }),
                _ => Err(unreachable("it answers a token with something else".into())),
            }
        };
        timeout(GREET, greeting).await.unwrap_or_else(|_| Err(unreachable(format!("no answer within {GREET:?}"))))
    }

    async fn follow(&self, wire: Wire<Stream>, was_in_sync: &mut bool) -> Trouble {
        let began = Moment::now();
        let (handle, mut incoming, conversation) = Conversation::new(wire, self.config.settings());
        tokio::select! {
            ended = conversation.run() => Trouble::Lost(format!("the connection was lost: {ended}")),
            trouble = self.subscribe(&handle, began, was_in_sync) => trouble,
            trouble = self.prove(&handle, began) => trouble,
            () = async { while let Some(arrived) = incoming.recv().await { self.hear(&handle, arrived.into_message()).await } } => {
                Trouble::Lost("the connection was lost".into())
            }
        }
    }

    async fn hear(&self, handle: &Handle, message: Message) {
        let order = match message {
            Message::Register(Some(places)) => Order::Join { teller: self.remote.clone(), places },
            Message::Remove(Some(places)) => Order::Leave { places },
            // It asks for our services, as it asks any master.
            Message::List { uuid } => {
                let error = RemoteError::new("a subscriber, which offers nothing");
                let _ = handle.send(Message::Error { uuid, error });
                return;
            }
            Message::Other(command) if get(&command, "cmd").and_then(text).as_deref() == Some("refused") => {
                let why: String = get(&command, "why").and_then(text).unwrap_or_default().chars().take(500).collect();
                tracing::warn!(source = self.feed().name(), why, "the register does not pass a command on");
                return;
            }
            _ => return,
        };
        // Who takes them lives as long as this.
        let _ = self.orders.send(order).await;
    }

    /// Takes in the whole state, at once, and then every change. `was_in_sync`: also by an earlier connection.
    async fn subscribe(&self, handle: &Handle, began: Moment, was_in_sync: &mut bool) -> Trouble {
        let read_anew = || {
            self.feed().set_settling(false);
            self.feed().enter(FeedState::Syncing, format!("reading the masters of {}", self.remote));
            Some(HashMap::new())
        };
        let mut generation: Option<HashMap<String, Known>> = read_anew();
        let mut stream = match handle
            .open(None, |uuid| command([("cmd", "subscribe".into()), ("uuid", uuid.into()), ("pieces", 1.into())]))
        {
            Ok(stream) => stream,
            Err(error) => return Trouble::Lost(error.to_string()),
        };
        let mut sizes = Sizes::default();
        let (mut was_lost, mut has_left_out) = (*was_in_sync, false);
        let (settles_until, mut has_settled) = (tokio::time::Instant::now() + self.config.settle, false);
        loop {
            let next = tokio::select! {
                next = stream.next() => next,
                () = sleep_until(settles_until), if !has_settled => {
                    has_settled = true;
                    self.end_settling(generation.as_mut());
                    continue;
                }
            };
            let told = match next {
                Ok(Some(value)) if has_settled => told(&value).map(Told::settled),
                Ok(Some(value)) => told(&value),
                Ok(None) => return Trouble::Lost("the register ended the subscription".into()),
                Err(error) => return Trouble::Lost(error.to_string()),
            };
            match &told {
                Some(Told::Reset) => sizes = Sizes::default(),
                Some(Told::Drop(id)) => sizes.remove(id),
                Some(Told::Put(known, _)) => sizes.insert(&known.master),
                Some(Told::TooLarge(..) | Told::Whole | Told::Settling(_) | Told::Piece(_) | Told::Proven(_))
                | None => {}
            }
            if let Some(trouble) = sizes.beyond(&self.config) {
                return trouble;
            }
            let left_out = match &told {
                // What it offered before stands until all is told anew.
                Some(Told::TooLarge(id, why)) => Some((id, why.clone())),
                Some(Told::Put(known, Some(why))) => Some((&known.master.id, why.clone())),
                _ => None,
            };
            if let Some((master, why)) = left_out
                && !std::mem::replace(&mut has_left_out, true)
            {
                tracing::warn!(source = self.feed().name(), master, why, "left out a master, or some of its services");
            }
            match (told, &mut generation) {
                (None, _) => {}
                (Some(Told::Reset), _) => generation = read_anew(),
                (Some(Told::Put(known, _)), Some(generation)) => {
                    drop(generation.insert(known.master.id.clone(), known))
                }
                (Some(Told::Drop(id)), Some(generation)) => drop(generation.remove(&id)),
                (Some(Told::Put(known, _)), None) => drop(self.publisher.publish(vec![self.join(handle, known)])),
                (Some(Told::Drop(id)), None) => drop(self.publisher.publish(vec![Change::Leave(id)])),
                (Some(Told::TooLarge(..)), _) => {}
                (Some(Told::Settling(is_settling)), _) => self.feed().set_settling(is_settling),
                (Some(Told::Piece(number)), _) => {
                    let took = command([("cmd", "took".into()), ("piece", number.into())]);
                    if let Err(error) = handle.send_when_room(took).await {
                        return Trouble::Lost(error.to_string());
                    }
                }
                (Some(Told::Whole), whole) => {
                    if std::mem::take(&mut was_lost) {
                        self.feed().reconnects.increment();
                    }
                    *was_in_sync = true;
                    self.feed().prove_first(began);
                    self.publish_whole(handle, whole.take().unwrap_or_default());
                    self.feed().prove(began);
                    generation = None;
                }
                (Some(Told::Proven(at)), None) => self.feed().prove(began + at.min(began.elapsed())),
                (Some(Told::Proven(_)), Some(_)) => {}
            }
        }
    }

    /// Waits no longer for masters that the register still gives time to come back.
    fn end_settling(&self, generation: Option<&mut HashMap<String, Known>>) {
        if let Some(generation) = generation {
            generation.retain(|_, known| !known.is_expected);
        }
        if self.feed().is_settling() {
            let (source, settle) = (self.feed().name(), self.config.settle);
            tracing::warn!(source, ?settle, "the register gives masters time to come back for longer than `settle`");
            self.publisher.clear_expected();
            self.feed().set_settling(false);
        }
    }

    /// Asks the register again and again to say when it has told all. It says so after the changes that it tells, so
    /// that these are as new as the question. One that answers late is no worse for that, but what it told grows old.
    async fn prove(&self, handle: &Handle, began: Moment) -> Trouble {
        loop {
            tokio::time::sleep(PROVE).await;
            let at = began.elapsed().as_millis() as u64;
            if let Err(error) = handle.send_when_room(command([("cmd", "prove".into()), ("at", at.into())])).await {
                return Trouble::Lost(error.to_string());
            }
        }
    }

    fn publish_whole(&self, handle: &Handle, masters: HashMap<String, Known>) {
        let snapshot = self.publisher.snapshot();
        let own = self.publisher.number();
        let known = snapshot.directory().masters("").filter(|(_, entry)| entry.told_by(own).is_some());
        let gone =
            known.filter(|(id, _)| !masters.contains_key(id.as_ref())).map(|(id, _)| Change::Leave(id.to_string()));
        let mut changes: Vec<Change> = gone.collect();
        let count = masters.len();
        changes.extend(masters.into_values().map(|known| self.join(handle, known)));
        self.publisher.publish_whole(changes);
        self.feed().enter(FeedState::Live, "");
        tracing::info!(source = self.feed().name(), masters = count, "in sync");
    }

    fn join(&self, handle: &Handle, Known { master, is_expected }: Known) -> Change {
        if is_expected {
            return Change::Expect(Arc::new(master));
        }
        let max_calls = self.config.max_calls_per_master;
        let line = UpstreamLine::new(handle.clone(), master.id.clone(), max_calls, self.calls.clone());
        Change::Join(Arc::new(master), Arc::new(line))
    }

    /// Says that the register is not followed, and why. What it told stands.
    fn down(&self, trouble: &Trouble) {
        let (state, what) = match self.feed().was_in_sync() {
            true => (FeedState::Down, "lost the register; what it told stands"),
            false => (FeedState::Connecting, "cannot follow the register yet"),
        };
        if self.feed().enter(state, trouble.to_string()) {
            tracing::warn!(source = self.feed().name(), why = %trouble, "{what}");
        }
    }

    fn feed(&self) -> &Feed {
        self.publisher.feed()
    }
}

/// About how much memory what the register told of takes, by the ids of its masters.
#[derive(Default)]
struct Sizes {
    by_id: HashMap<String, usize>,
    all: usize,
}

impl Sizes {
    fn insert(&mut self, master: &Master) {
        self.remove(&master.id);
        let size = master.memory_size();
        self.all += size;
        self.by_id.insert(master.id.clone(), size);
    }

    fn remove(&mut self, id: &str) {
        self.all -= self.by_id.remove(id).unwrap_or(0);
    }

    fn beyond(&self, config: &Config) -> Option<Trouble> {
        if self.by_id.len() > config.max_masters {
            return Some(Trouble::TooMany(config.max_masters));
        }
        (self.all as u64 > config.max_metadata.as_u64()).then_some(Trouble::TooMuch(config.max_metadata))
    }
}

fn told(value: &Value) -> Option<Told> {
    if let Some(master) = get(value, "put") {
        return put(master);
    }
    if let Some(id) = get(value, "drop").and_then(text) {
        return Some(Told::Drop(id));
    }
    if get(value, "whole").is_some() {
        return Some(Told::Whole);
    }
    if let Some(at) = get(value, "proven").and_then(Value::as_u64) {
        return Some(Told::Proven(Duration::from_millis(at)));
    }
    if let Some(is_settling) = get(value, "settling").and_then(Value::as_bool) {
        return Some(Told::Settling(is_settling));
    }
    if let Some(number) = get(value, "piece").and_then(Value::as_u64) {
        return Some(Told::Piece(number));
    }
    get(value, "reset").map(|_| Told::Reset)
}

/// What of a master is larger than it may be, in words.
fn too_large(id: &str, address: &str, services: &[Value]) -> Option<String> {
    if id.len() > MAX_ID_BYTES {
        return Some(format!("its id has more than {MAX_ID_BYTES} bytes"));
    }
    if address.len() > MAX_ADDRESS_BYTES {
        return Some(format!("its address has more than {MAX_ADDRESS_BYTES} bytes"));
    }
    (services.len() > MAX_SERVICES).then(|| format!("it offers more than {MAX_SERVICES} services"))
}

fn put(master: &Value) -> Option<Told> {
    let id = get(master, "id").and_then(text).filter(|id| !id.is_empty())?;
    let address = get(master, "address").and_then(text)?;
    let services = get(master, "services")?.as_array()?;
    if let Some(why) = too_large(&id, &address, services) {
        return Some(Told::TooLarge(id.chars().take(100).collect(), why));
    }
    let service = |value: &Value| {
        let metadata = get(value, "metadata").cloned().unwrap_or(Value::Map(Vec::new()));
        Some(Service { name: get(value, "name").and_then(text)?, metadata: metadata.into() })
    };
    let mut services: Vec<Service> = services.iter().filter_map(service).collect();
    let left_out = cut_to_bounds(&mut services).map(|(name, count)| format!("{count} of its services, `{name}` first"));
    let connected_at = get(master, "connectedAt").and_then(Value::as_i64)?;
    let is_expected = get(master, "expected").and_then(Value::as_bool).unwrap_or(false);
    Some(Told::Put(
        Known { master: Master { id, peer_address: address, connected_at, services }, is_expected },
        left_out,
    ))
}
