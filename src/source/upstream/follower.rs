//! Followers: the connection to one upstream register, re-established whenever it is lost.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use super::left_out::{LeftOut, MAX_NAME};
use super::line::UpstreamLine;
use super::{Config, PROOF_INTERVAL, RegisterCommand};
use crate::clock::Moment;
use crate::model::{Change, Master, cut_to_bounds, shortened};
use crate::net::{Remote, Stream};
use crate::secret;
use crate::store::{Batch, Feed, FeedState, Proof, Publisher};
use crate::task::{Backoff, Reload};
use crate::tunnel::upstream::{FOLLOWER_ROOM, Refusal, Report, Request, Unread};
use crate::tunnel::{Bounds, Conversation, Handle, InFlight, Message, RemoteError, Role, Token, Wire};

/// How long connecting to the register and authenticating may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// After a connection that lasted this long, the backoff starts over.
const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Follower {
    pub(super) remote: Remote,
    pub(super) config: Arc<Config>,
    pub(super) publisher: Publisher,
    pub(super) reload: Reload,
    pub(super) calls: InFlight,
    /// Where commands of the register go.
    pub(super) commands: mpsc::Sender<RegisterCommand>,
}

/// Why the register is not being followed.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("cannot read the token {path}: {source}")]
    Token { path: PathBuf, source: io::Error },
    #[error("cannot reach {remote}: {why}")]
    Unreachable { remote: Remote, why: String },
    #[error("{remote} refuses the token of {path}")]
    Refused { remote: Remote, path: PathBuf },
    #[error("the register reports more masters than max_masters allows: {0}")]
    TooMany(usize),
    #[error("the register reports more metadata than max_metadata allows: {0}")]
    TooMuch(ByteSize),
    #[error("{0}")]
    Lost(String),
}

/// A master, and whether it was there before the register's restart and is not back yet.
struct Known {
    master: Arc<Master>,
    is_expected: bool,
}

impl Follower {
    /// Follows the register forever.
    pub(super) async fn keep(&mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut was_in_sync = false;
        self.feed().enter(FeedState::Connecting, format!("connecting to {}", self.remote));
        loop {
            let trouble = match self.connect().await {
                Ok(wire) => {
                    let since = Instant::now();
                    let trouble = self.follow(wire, &mut was_in_sync).await;
                    if since.elapsed() > BACKOFF_RESET_AFTER {
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

    /// Connects and authenticates.
    async fn connect(&self) -> Result<Wire<Stream>, Trouble> {
        let path = &self.config.token;
        let text = secret::read(path).map_err(|source| Trouble::Token { path: path.clone(), source })?;
        let wrong = |source| Trouble::Token { path: path.clone(), source };
        let tokens = secret::tokens(&text).map_err(|why| wrong(io::Error::other(why)))?;
        let token = *tokens.first().ok_or_else(|| wrong(io::Error::other("it holds no token")))?;
        let unreachable = |why: String| Trouble::Unreachable { remote: self.remote.clone(), why };
        let connecting = async {
            let connected = self.remote.connect(self.config.ca.as_deref().into(), self.config.register_user).await;
            let stream = connected.map_err(|error| unreachable(error.to_string()))?;
            let mut wire = Wire::new(stream, Bounds::STRANGER);
            let token = Token(token.to_owned());
            let auth = Message::Auth { token, role: Role::Follower, id: None };
            wire.send(auth).await.map_err(|error| unreachable(error.to_string()))?;
            match wire.receive().await.map_err(|error| unreachable(error.to_string()))? {
                Message::AuthSuccess { .. } => Ok(wire),
                Message::AuthFailed { .. } => Err(Trouble::Refused { remote: self.remote.clone(), path: path.clone() }),
                _ => Err(unreachable("it answers a token with something else".into())),
            }
        };
        timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(unreachable(format!("no answer within {CONNECT_TIMEOUT:?}"))))
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
        let command = match message {
            Message::Register(Some(addresses)) => RegisterCommand::Join { teller: self.remote.clone(), addresses },
            Message::Remove(Some(addresses)) => RegisterCommand::Leave { addresses },
            // It asks for our services, as it asks any master.
            Message::List { uuid } => {
                let error = RemoteError::new("a subscriber, which offers nothing");
                let _ = handle.send(Message::Error { uuid, error });
                return;
            }
            Message::Other(command) => {
                if let Some(Refusal { why }) = Refusal::decode(&command) {
                    tracing::warn!(source = self.feed().name(), why, "the register does not pass a command on");
                }
                return;
            }
            _ => return,
        };
        // The receiver lives as long as this.
        let _ = self.commands.send(command).await;
    }

    /// Takes in the whole state, atomically, and then every change. `was_in_sync`: also by an earlier connection.
    async fn subscribe(&self, handle: &Handle, began: Moment, was_in_sync: &mut bool) -> Trouble {
        let read_anew = || {
            self.publisher.publish(Batch::settling(false));
            self.feed().enter(FeedState::Syncing, format!("reading the masters of {}", self.remote));
            Some(HashMap::new())
        };
        let mut generation: Option<HashMap<String, Known>> = read_anew();
        let room = Some(FOLLOWER_ROOM as u64);
        let mut stream = match handle.open(None, |uuid| Request::Subscribe { uuid, in_pieces: true, room }.encode()) {
            Ok(stream) => stream,
            Err(error) => return Trouble::Lost(error.to_string()),
        };
        let (mut sizes, mut left_out) = (Sizes::default(), LeftOut::default());
        let mut was_lost = *was_in_sync;
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
            let report = match next {
                Ok(Some(value)) => Report::decode(value),
                Ok(None) => return Trouble::Lost("the register ended the subscription".into()),
                Err(error) => return Trouble::Lost(error.to_string()),
            };
            let mut report = match report {
                Ok(report) if has_settled => Ok(settled(report)),
                report => report,
            };
            self.leave_out(&mut report, &mut left_out);
            if generation.is_none() && left_out.take_new() {
                self.publisher.publish(Batch { skipped_nodes: Some(left_out.len()), ..Batch::default() });
                self.name_left_out(&left_out);
            }
            let Ok(report) = report else { continue };
            match &report {
                Report::Reset => sizes = Sizes::default(),
                Report::Drop(id) => sizes.remove(id),
                Report::Put { master, .. } => sizes.insert(master),
                Report::LeftOut(_) | Report::Whole | Report::Settling(_) | Report::Piece(_) | Report::Proven(_) => {}
            }
            if let Some(trouble) = sizes.beyond(&self.config) {
                return trouble;
            }
            match (report, &mut generation) {
                (Report::Reset, _) => generation = read_anew(),
                (Report::Put { master, is_expected, .. }, Some(generation)) => {
                    generation.insert(master.id.clone(), Known { master, is_expected });
                }
                (Report::Drop(id), Some(generation)) => drop(generation.remove(&id)),
                (Report::Put { master, is_expected, .. }, None) => {
                    self.publisher.publish(vec![self.join(handle, Known { master, is_expected })]);
                }
                (Report::Drop(id), None) => drop(self.publisher.publish(vec![Change::Leave(id)])),
                (Report::LeftOut(_), _) => {}
                (Report::Settling(is_settling), _) => drop(self.publisher.publish(Batch::settling(is_settling))),
                (Report::Piece(piece), _) => {
                    if let Err(error) = handle.send_when_room(Request::Took { piece }.encode()).await {
                        return Trouble::Lost(error.to_string());
                    }
                }
                (Report::Whole, whole) => {
                    if std::mem::take(&mut was_lost) {
                        self.feed().reconnects.increment();
                    }
                    *was_in_sync = true;
                    self.publish_whole(handle, whole.take().unwrap_or_default(), left_out.len(), began);
                    self.name_left_out(&left_out);
                    left_out.take_new();
                    generation = None;
                }
                (Report::Proven(at), None) => self.feed().prove(began + at.min(began.elapsed())),
                (Report::Proven(_), Some(_)) => {}
            }
        }
    }

    /// Notes what is omitted from a report. The previous state of such a master stands until everything is reported
    /// again.
    fn leave_out(&self, report: &mut Result<Report, Unread>, left_out: &mut LeftOut) {
        let (id, count, why) = match report {
            Ok(Report::Reset) => return left_out.clear(),
            Ok(Report::Drop(id)) => return left_out.remove(id),
            Ok(Report::Put { master, unreadable, .. }) => {
                let cut = cut_to_bounds(&mut Arc::make_mut(master).services);
                let (first, count) = cut.map_or((String::new(), 0), |(name, count)| {
                    (format!(", `{}` first", shortened(&name, MAX_NAME)), count)
                });
                match *unreadable + count {
                    0 => return left_out.remove(&master.id),
                    all => (master.id.as_str(), all as u64, format!("{all} of its services{first}")),
                }
            }
            Ok(Report::LeftOut(id)) => {
                (id.as_str(), 1, "its register cannot report it: too large, or too deep".to_owned())
            }
            Err(Unread::Master { id, why }) => (id.as_str(), 1, std::mem::take(why)),
            Ok(_) | Err(Unread::Unknown) => return,
        };
        if left_out.insert(id, count, &why) {
            let source = self.feed().name();
            tracing::warn!(
                source,
                master = %shortened(id, MAX_NAME),
                why,
                "left out a master, or some of its services; `status` counts more"
            );
        }
    }

    fn name_left_out(&self, left_out: &LeftOut) {
        self.feed().enter_with(FeedState::Live, left_out.words(), left_out.examples());
    }

    /// Stops waiting for masters that the register still gives time to come back.
    fn end_settling(&self, generation: Option<&mut HashMap<String, Known>>) {
        if let Some(generation) = generation {
            generation.retain(|_, known| !known.is_expected);
        }
        if self.publisher.progress().settling {
            let (source, settle) = (self.feed().name(), self.config.settle);
            tracing::warn!(source, ?settle, "the register gives masters time to come back for longer than `settle`");
            self.publisher.clear_expected();
            self.publisher.publish(Batch::settling(false));
        }
    }

    /// Asks the register repeatedly to confirm that it has reported everything. It confirms after the changes it
    /// reports, so these are as new as the question. A late answer is no error, but meanwhile the data ages.
    async fn prove(&self, handle: &Handle, began: Moment) -> Trouble {
        loop {
            tokio::time::sleep(PROOF_INTERVAL).await;
            let request = Request::Prove { at: began.elapsed() };
            if let Err(error) = handle.send_when_room(request.encode()).await {
                return Trouble::Lost(error.to_string());
            }
        }
    }

    fn publish_whole(&self, handle: &Handle, masters: HashMap<String, Known>, left_out: u64, began: Moment) {
        let snapshot = self.publisher.snapshot();
        let own = self.publisher.number();
        let known = snapshot.directory().masters("").filter(|(_, entry)| entry.told_by(own).is_some());
        let gone =
            known.filter(|(id, _)| !masters.contains_key(id.as_ref())).map(|(id, _)| Change::Leave(id.to_string()));
        let mut changes: Vec<Change> = gone.collect();
        let count = masters.len();
        changes.extend(masters.into_values().map(|known| self.join(handle, known)));
        self.publisher.publish(Batch {
            skipped_nodes: Some(left_out),
            proof: Some(Proof::Seen(began)),
            ..Batch::whole(changes)
        });
        tracing::info!(source = self.feed().name(), masters = count, "in sync");
    }

    fn join(&self, handle: &Handle, Known { master, is_expected }: Known) -> Change {
        if is_expected {
            return Change::Expect(master);
        }
        let max_calls = self.config.max_calls_per_master;
        let line = UpstreamLine::new(handle.clone(), master.id.clone(), max_calls, self.calls.clone());
        Change::Join(master, Arc::new(line))
    }

    /// Reports that the register is not being followed, and why. Its data is kept.
    fn down(&self, trouble: &Trouble) {
        let (state, what) = match self.feed().was_in_sync() {
            true => (FeedState::Down, "lost the register; what it reported stands"),
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

/// The approximate memory of what the register reported, by master id.
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

/// The same report once masters have had their time to come back.
fn settled(report: Report) -> Report {
    match report {
        Report::Put { master, is_expected: true, .. } => Report::Drop(master.id.clone()),
        Report::Settling(_) => Report::Settling(false),
        report => report,
    }
}
