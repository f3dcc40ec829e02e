//! One master's session: from its first message to its last.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rmpv::Value;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::handshake::PendingConnection;
use super::ids::Claim;
use super::line::MasterLine;
use super::offered::Offered;
use super::secrets::{Admitted, EXAMPLE_TOKEN};
use super::service_query::{Offer, ServiceQuery};
use super::subscriber::{Follows, Subscriber};
use super::{Origin, RegisterState};
use crate::clock::millis_since_1970;
use crate::model::{Change, Master, Service};
use crate::net::{self, Peer, User};
use crate::tunnel::worker::{CallsUnderWay, Channel, Event, Report};
use crate::tunnel::{
    Bounds, CloseReason, Conversation, Handle, InFlight, Incoming, Message, OnSilence, Role, Token, Wire, WireError,
    Wrong,
};

/// How long to delay the refusal of a wrong token, to slow down guessing.
const AUTH_FAILURE_DELAY: Duration = Duration::from_secs(1);

/// How many messages are read from an unauthenticated connection.
const MAX_MESSAGES: usize = 64;

/// Serves one connection until it ends.
pub(super) async fn serve(stream: net::Stream, origin: Origin, pending: PendingConnection, state: Arc<RegisterState>) {
    let stop = state.tasks.stop_signal();
    let authenticated = tokio::select! {
        // An authenticated connection needs no place.
        biased;
        authenticated = handshake(stream, &origin, &pending, &state) => authenticated,
        () = pending.evicted() => {
            state.handshakes.refused(&origin, "it showed no token, and others wanted its place");
            None
        }
        () = stop.requested() => None,
    };
    drop(pending);
    let Some((wire, auth)) = authenticated else { return };
    converse(wire, auth, origin, None, state).await;
}

/// Talks to a master until the conversation ends. A worker's messages also go to its supervisor.
async fn converse(
    wire: Wire<net::Prompt>,
    auth: Auth,
    origin: Origin,
    supervisor: Option<Supervisor>,
    state: Arc<RegisterState>,
) {
    let stop = state.tasks.stop_signal();
    let Some(_place) = state.places.share(origin.user).take(1) else {
        state.handshakes.refused(&origin, "there are max_masters already, or its user has its share of them");
        return;
    };
    let mut settings = state.config.settings(state.memory.share(origin.user));
    if supervisor.is_some() {
        // A worker may work as long as it likes, also without a call. The kernel reports its end.
        settings.on_silence = OnSilence::Log;
    }
    let (handle, incoming, conversation) = Conversation::new(wire, settings);
    let session = Session::new(auth, origin, handle, supervisor, state);
    session.tell(|line| Event::Opened(line.handle.clone(), line.under_way.clone().unwrap_or_default())).await;
    let ended = tokio::select! {
        ended = conversation.run() => ended,
        () = session.listen(incoming) => CloseReason::Closed,
        ended = async { stop.requested().await; session.finish().await } => ended,
    };
    if session.state.presence.is_logged(session.origin.user) {
        tracing::info!(master = session.id(), address = session.address(), why = %ended, "a master left");
    }
    session.leave();
}

/// Serves a worker of this sidecar over the socket it inherited, which identifies it.
pub(super) async fn serve_worker(channel: Channel, state: Arc<RegisterState>) {
    let Channel { stream, worker, pid, uid, gid, events, calls } = channel;
    let origin = Origin { peer: Peer::Unix { pid, uid, gid }, user: User::Uid(uid) };
    let stop = state.tasks.stop_signal();
    // Many programs never say anything here.
    let wire = tokio::select! {
        wire = greet(stream) => wire,
        () = stop.requested() => None,
    };
    let Some(wire) = wire else { return };
    let claim = state.ids.claim(worker.clone(), origin.user).unwrap_or_else(|| {
        tracing::warn!(worker, "another user's master has a worker's id; the worker has another one");
        state.ids.claim_made(&state.name, origin.user)
    });
    let number = state.next_number();
    let auth = Auth { admitted: None, role: Role::Native, follows: Follows::No, claim, number };
    converse(wire, auth, origin, Some(Supervisor { events, calls }), state).await;
}

/// Waits until a worker has said hello. None: it never will.
async fn greet(stream: UnixStream) -> Option<Wire<net::Prompt>> {
    let mut wire = Wire::new(net::Prompt(net::Stream::Unix(stream)), Bounds::STRANGER);
    for _ in 0..MAX_MESSAGES {
        match wire.receive().await.ok()? {
            Message::Auth { .. } => {
                wire.send(Message::AuthSuccess { message: "Welcome".to_owned() }).await.ok()?;
                return Some(wire);
            }
            other => wire.send(before_authentication(other)).await.ok()?,
        }
    }
    None
}

/// The prefix of the address of the sidecar's own workers.
pub(super) const WORKER_ADDRESS: &str = "worker ";

/// The supervisor of a worker's process, which is informed of what happens here.
struct Supervisor {
    events: mpsc::Sender<Event>,
    calls: Arc<CallsUnderWay>,
}

/// An authenticated master.
struct Auth {
    /// None: it is a worker of this sidecar, and has no token.
    admitted: Option<Admitted>,
    role: Role,
    follows: Follows,
    claim: Claim,
    number: u64,
}

/// Gives a connection the time to authenticate. Until it sends something, it takes nothing but a place.
async fn handshake(
    stream: net::Stream,
    origin: &Origin,
    pending: &PendingConnection,
    state: &RegisterState,
) -> Option<(Wire<net::Prompt>, Auth)> {
    let until = Instant::now() + state.config.auth_timeout;
    timeout_at(until, stream.readable()).await.ok()?.ok()?;
    stream.keep_alive();
    Box::pin(async {
        let stream = accept_tls(stream, origin, until, state).await?;
        let mut wire = Wire::new(net::Prompt(stream), Bounds::STRANGER);
        let auth = timeout_at(until, authenticate(&mut wire, origin, pending, state)).await.ok()??;
        Some((wire, auth))
    })
    .await
}

/// Performs the TLS handshake, if TLS is configured.
async fn accept_tls(
    stream: net::Stream,
    origin: &Origin,
    until: Instant,
    state: &RegisterState,
) -> Option<net::Stream> {
    let (Some(tls), net::Stream::Tcp(_)) = (&state.tls, &stream) else { return Some(stream) };
    let server = tls.load_full();
    match timeout_at(until, server.secure(stream)).await.ok()? {
        Ok(stream) => Some(stream),
        Err(error) => {
            state.handshakes.refused(origin, &format!("no handshake of TLS: {error}"));
            None
        }
    }
}

/// Reads messages until one contains a valid token. As with the PHP package's register, a master may ping, and may try
/// several tokens; anything else is refused.
async fn authenticate(
    wire: &mut Wire<net::Prompt>,
    origin: &Origin,
    pending: &PendingConnection,
    state: &RegisterState,
) -> Option<Auth> {
    for _ in 0..MAX_MESSAGES {
        let message = match wire.receive().await {
            Ok(message) => message,
            Err(error) => {
                if let WireError::Wrong(Wrong::Tls) = error {
                    state.handshakes.refused(origin, "it speaks TLS, and there is no [register.tls]");
                }
                return None;
            }
        };
        let admitted = match message {
            Message::Auth { token, role, id } => admit(&token, role, id, origin, state),
            other => {
                wire.send(before_authentication(other)).await.ok()?;
                continue;
            }
        };
        let why = match admitted {
            Ok(auth) => {
                let message = "Authentication successful".to_owned();
                wire.send(Message::AuthSuccess { message }).await.ok()?;
                return Some(auth);
            }
            Err(why) => why,
        };
        state.handshakes.refused(origin, why);
        pending.yield_first();
        tokio::time::sleep(AUTH_FAILURE_DELAY.min(state.config.auth_timeout / 2)).await;
        wire.send(Message::AuthFailed { message: format!("Authentication failed: {why}") }).await.ok()?;
    }
    None
}

/// The reply to anything but a token.
fn before_authentication(message: Message) -> Message {
    match message {
        Message::Ping { uuid } => Message::Pong { uuid },
        _ => Message::AuthFailed { message: "Authentication failed: a token comes first".to_owned() },
    }
}

/// The identity that a token proves, or why it is refused.
fn admit(
    token: &Token,
    role: Role,
    id: Option<String>,
    origin: &Origin,
    state: &RegisterState,
) -> Result<Auth, &'static str> {
    const WRONG: &str = "a wrong token; the register's own are in the file `[register] tokens`, else in `register.token` in \
                         `[shared] state`";
    const EXAMPLE: &str = "the token of the public examples, which does not serve here; the register's own are in the file \
                           `[register] tokens`, else in `register.token` in `[shared] state`";
    let wrong = if token.0 == EXAMPLE_TOKEN { EXAMPLE } else { WRONG };
    let admitted = state.secrets.load().admit(token).ok_or(wrong)?;
    let number = state.next_number();
    let follows = Follows::of(role, id.as_deref());
    let claim = match id.filter(|id| !id.is_empty()) {
        Some(id) => state.ids.claim(id, origin.user).ok_or("a master of another user has this id")?,
        None => state.ids.claim_made(&state.name, origin.user),
    };
    Ok(Auth { admitted: Some(admitted), role, follows, claim, number })
}

struct Session {
    /// For PHP, only known together with the services.
    claim: Mutex<Claim>,
    /// The number of this session among those of its id.
    number: u64,
    admitted: Option<Admitted>,
    /// Its supervisor, if it is a worker of this sidecar.
    supervisor: Option<Supervisor>,
    origin: Origin,
    follows: Follows,
    connected_at: i64,
    line: Arc<MasterLine>,
    /// The calls that the peer has under way to other masters.
    relayed: InFlight,
    state: Arc<RegisterState>,
}

impl Session {
    fn new(
        auth: Auth,
        origin: Origin,
        handle: Handle,
        supervisor: Option<Supervisor>,
        state: Arc<RegisterState>,
    ) -> Self {
        let Auth { admitted, role, follows, claim, number } = auth;
        let line = Arc::new(MasterLine {
            handle,
            native: role != Role::Php,
            secrets: state.secrets.clone(),
            in_flight: InFlight::default(),
            max_calls: state.config.max_calls_per_master,
            under_way: supervisor.as_ref().map(|supervisor| supervisor.calls.clone()),
        });
        let connected_at = millis_since_1970(SystemTime::now()) as i64;
        Self {
            claim: Mutex::new(claim),
            number,
            admitted,
            supervisor,
            origin,
            follows,
            connected_at,
            line,
            relayed: InFlight::default(),
            state,
        }
    }

    /// Closes the conversation when no call is under way in it, leaving it time to write the last answers.
    async fn finish(&self) -> CloseReason {
        self.line.in_flight.none().await;
        self.relayed.none().await;
        self.line.handle.close();
        std::future::pending().await
    }

    /// Asks for the services, and again whenever the master reports a change. Ends when the conversation does, or when
    /// the token is no longer valid.
    async fn listen(&self, mut incoming: Incoming) {
        let mut secrets_changed = self.state.secrets_changed.clone();
        let (user, handle, relayed) = (self.origin.user, self.line.handle.clone(), self.relayed.clone());
        let mut subscriber = Subscriber::new(user, self.follows, handle, relayed, self.state.clone());
        let mut query = ServiceQuery::new(self.line.clone());
        if subscriber.follows() {
            query.withdraw();
        }
        let mut offered = Offered::new(&self.state, self.origin.user);
        loop {
            tokio::select! {
                // A subscriber has subscribed before it declines to report services.
                biased;
                Ok(()) = secrets_changed.changed() => {
                    let secrets = self.state.secrets.load_full();
                    if self.admitted.as_ref().is_some_and(|admitted| !secrets.still_admits(admitted)) {
                        tracing::info!(master = self.id(), "closed a master: its token is no longer valid");
                        return;
                    }
                    if offered.is_unknown() {
                        // It may have refused code that was unsigned, or signed with another key.
                        query.ask();
                    }
                }
                is_silent = self.line.handle.silence_changed() => self.log_silence(is_silent),
                message = incoming.recv() => match message.map(|arrived| arrived.into_message()) {
                    None => return,
                    Some(Message::Register(None)) if !subscriber.follows() => query.ask(),
                    Some(Message::Remove(None)) if !subscriber.follows() => {
                        query.withdraw();
                        if offered.withdraw() {
                            self.join(Vec::new(), &mut offered);
                        }
                    }
                    Some(message) => {
                        if let Some(command) = subscriber.take(message) {
                            self.take_command(command).await;
                        }
                    }
                },
                offer = query.answer() => match offer.and_then(|offer| self.take_in(offer, &mut offered)) {
                    Ok((services, left_out)) => {
                        if let Some(why) = left_out {
                            let (master, address) = (self.id(), self.address());
                            tracing::warn!(master, address, why, "a master offers too much");
                        }
                        subscriber.offers();
                        self.join(services, &mut offered);
                        self.tell(|_| Event::Offered).await;
                    }
                    Err(_) if subscriber.follows() => query.withdraw(),
                    Err(why) => {
                        query.ask_later();
                        if offered.becomes_unknown() {
                            let (master, address) = (self.id(), self.address());
                            tracing::warn!(master, address, why, "a master's services are not known");
                        }
                    }
                },
            }
        }
    }

    /// Handles what a master sends unprompted.
    async fn take_command(&self, command: Value) {
        let said = match Report::decode(&command).filter(|_| self.supervisor.is_some()) {
            Some(Report::Send(data)) => data,
            Some(report) => return self.tell(|_| Event::Said(report)).await,
            None => command,
        };
        self.state.publisher.send_message(self.id(), self.origin.user.to_string(), &said);
    }

    /// Informs the supervisor, if there is one.
    async fn tell(&self, event: impl FnOnce(&MasterLine) -> Event) {
        if let Some(supervisor) = &self.supervisor {
            // If the supervisor is gone, the worker is about to end.
            let _ = supervisor.events.send(event(&self.line)).await;
        }
    }

    fn log_silence(&self, is_silent: bool) {
        let (master, address) = (self.id(), self.address());
        match is_silent {
            _ if self.supervisor.is_some() => match is_silent {
                true => tracing::warn!(worker = master, "a worker does not answer: it hangs, or works on one thing"),
                false => tracing::info!(worker = master, "a worker answers again"),
            },
            _ if !self.state.presence.is_logged(self.origin.user) => {}
            true => tracing::warn!(master, address, "a master does not answer; as register.on_silence says, it stays"),
            false => tracing::info!(master, address, "a master answers again"),
        }
    }

    fn join(&self, services: Vec<Service>, offered: &mut Offered) {
        let (id, peer_address) = (self.id(), self.address());
        let master = Master { id, peer_address, connected_at: self.connected_at, services };
        if let Some(changes) = offered.changes_to_log()
            && self.state.presence.is_logged(self.origin.user)
        {
            let (services, address) = (master.services.len(), &master.peer_address);
            tracing::info!(master = master.id, address, services, changes, "a master is there");
        }
        self.state.publish(&self.id(), self.number, Change::Join(Arc::new(master), self.line.clone()));
    }

    fn leave(&self) {
        self.state.publish(&self.id(), self.number, Change::Leave(self.id()));
    }

    fn address(&self) -> String {
        match &self.supervisor {
            Some(_) => format!("{WORKER_ADDRESS}{}", self.origin.peer),
            None => self.origin.peer.to_string(),
        }
    }

    fn id(&self) -> String {
        self.claim().id.clone()
    }

    /// Takes in the master's offer, and the id that its process has everywhere, unless that belongs to a master of
    /// another user. If there is no room for the offer, the master stays listed as it was.
    fn take_in(&self, offer: Offer, offered: &mut Offered) -> Result<(Vec<Service>, Option<String>), String> {
        let process = offer.process.clone().filter(|process| *process != self.claim().id);
        let claim = process.and_then(|process| self.state.ids.claim(process, self.origin.user));
        let taken = offered.set(offer)?;
        if let Some(claim) = claim {
            self.leave();
            *self.claim() = claim;
        }
        Ok(taken)
    }

    fn claim(&self) -> MutexGuard<'_, Claim> {
        self.claim.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
