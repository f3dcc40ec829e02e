//! One master's session: from its first message to its last.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rmpv::Value;
use tokio::time::{Instant, timeout, timeout_at};

use super::Hall;
use super::line::MasterLine;
use super::lobby::Seat;
use super::secrets::Admitted;
use super::subscriber::Subscriber;
use crate::model::{Change, Master, Service};
use crate::net;
use crate::tunnel::value::{get, text};
use crate::tunnel::{Bounds, Conversation, Ended, Handle, Incoming, Message, Stream, UnderWay, Wire, php};

/// How long a wrong token is left waiting for its refusal: who guesses is slowed down.
const PENANCE: Duration = Duration::from_secs(1);

/// How long a master may take to tell its services.
const TELL: Duration = Duration::from_secs(10);

/// The most services that one master may offer.
const MAX_SERVICES: usize = 1_024;

/// Serves one connection until it ends.
pub(super) async fn serve(stream: net::Stream, address: SocketAddr, seat: Seat, hall: Arc<Hall>) {
    let until = Instant::now() + hall.config.auth_timeout;
    let Some(stream) = secure(stream, address, until, &hall).await else { return };
    let mut wire = Wire::new(stream, Bounds::STRANGER);
    let Some(peer) = admit(&mut wire, address, until, &hall).await else { return };
    drop(seat);
    let Some(_place) = hall.places.one_more(hall.config.max_masters) else {
        tracing::warn!(%address, max = hall.config.max_masters, "closed a master: there are max_masters already");
        return;
    };
    let (handle, incoming, conversation) = Conversation::new(wire, hall.config.settings());
    let stop = hall.tasks.stop_signal();
    let session = Session::new(peer, address, handle, hall);
    let line = session.line.clone();
    let ended = tokio::select! {
        ended = conversation.run() => ended,
        () = session.listen(incoming) => Ended::Closed,
        () = async { stop.requested().await; idle(&line).await } => Ended::Closed,
    };
    tracing::info!(master = session.id, %address, why = %ended, "a master left");
    session.leave();
}

/// Waits until no call is under way: at a stop they may finish.
async fn idle(line: &MasterLine) {
    while line.under_way.get() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Who showed a token.
struct Peer {
    admitted: Admitted,
    native: bool,
    id: Option<String>,
}

/// Goes through the handshake of TLS, if there is to be one.
async fn secure(stream: net::Stream, address: SocketAddr, until: Instant, hall: &Hall) -> Option<net::Stream> {
    let Some(tls) = &hall.tls else { return Some(stream) };
    let server = tls.load_full();
    match timeout_at(until, server.secure(stream)).await.ok()? {
        Ok(stream) => Some(stream),
        Err(error) => {
            hall.lobby.refused(address.ip(), &format!("no handshake of TLS: {error}"));
            None
        }
    }
}

/// Hears the first message, which must show a token.
async fn admit(wire: &mut Wire<net::Stream>, address: SocketAddr, until: Instant, hall: &Hall) -> Option<Peer> {
    let first = timeout_at(until, wire.receive()).await.ok()?.ok()?;
    if let Message::Auth { token, native, id } = first
        && let Some(admitted) = hall.secrets.load().admit(&token)
    {
        let message = "Authentication successful".to_owned();
        wire.send(Message::AuthSuccess { message }).await.ok()?;
        return Some(Peer { admitted, native, id });
    }
    hall.lobby.refused(address.ip(), "a wrong token, or none");
    tokio::time::sleep(PENANCE).await;
    let _ = wire.send(Message::AuthFailed { message: "Authentication failed".to_owned() }).await;
    None
}

struct Session {
    id: String,
    /// Which of the sessions of this id it is, should there be another after it.
    number: u64,
    admitted: Admitted,
    address: SocketAddr,
    connected_at: i64,
    line: Arc<MasterLine>,
    hall: Arc<Hall>,
}

impl Session {
    fn new(peer: Peer, address: SocketAddr, handle: Handle, hall: Arc<Hall>) -> Self {
        let number = hall.next_number();
        let id = peer.id.unwrap_or_else(|| format!("{}-{number}", hall.name));
        let line = Arc::new(MasterLine {
            handle,
            native: peer.native,
            secrets: hall.secrets.clone(),
            tasks: hall.tasks.clone(),
            under_way: UnderWay::default(),
            max_calls: hall.config.max_calls_per_master,
        });
        let connected_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
        Self { id, number, admitted: peer.admitted, address, connected_at, line, hall }
    }

    /// Asks for the services, and then for them again whenever the master says so. Ends when the conversation does,
    /// or the token is no longer one of ours.
    async fn listen(&self, mut incoming: Incoming) {
        let mut secrets_changed = self.hall.secrets_changed.clone();
        let mut subscriber = Subscriber::new(self.line.handle.clone(), self.hall.clone());
        let mut asked = self.ask();
        // Kept until its end has come as well: dropped before, it would be closed, and the master told so.
        let mut _answered = None;
        // While it holds one, this session is counted.
        let mut untold = None;
        loop {
            tokio::select! {
                told = told(&mut asked, self.line.native) => {
                    _answered = asked.take();
                    match told {
                        Ok(services) => {
                            untold.take();
                            self.join(services);
                        }
                        Err(_) if subscriber.follows() => {}
                        Err(why) => {
                            untold = untold.take().or_else(|| self.hall.untold.one_more(usize::MAX));
                            tracing::warn!(master = self.id, address = %self.address, why, "a master does not tell its services");
                        }
                    }
                }
                message = incoming.recv() => match message {
                    None => return,
                    Some(Message::Register(None)) => asked = self.ask(),
                    Some(Message::Remove(None)) => {
                        asked = None;
                        self.join(Vec::new());
                    }
                    Some(message) => subscriber.take(message),
                },
                _ = secrets_changed.changed() => {
                    if !self.hall.secrets.load().still_admits(&self.admitted) {
                        tracing::info!(master = self.id, "closed a master: its token is no longer valid");
                        return;
                    }
                }
            }
        }
    }

    fn ask(&self) -> Option<Stream> {
        let handle = &self.line.handle;
        let asked = if self.line.native {
            handle.open(|uuid| Message::List { uuid })
        } else {
            let serialized = self.hall.secrets.load().closures.services();
            handle.open(|uuid| Message::Callback { uuid, serialized })
        };
        asked.ok()
    }

    fn join(&self, services: Vec<Service>) {
        let master = Master {
            id: self.id.clone(),
            address: self.address.to_string(),
            connected_at: self.connected_at,
            services,
        };
        tracing::info!(
            master = master.id,
            address = master.address,
            services = master.services.len(),
            "a master is there"
        );
        self.hall.publish(&self.id, self.number, Change::Join(Arc::new(master), self.line.clone()));
    }

    fn leave(&self) {
        self.hall.publish(&self.id, self.number, Change::Leave(self.id.clone()));
    }
}

/// The services that a master tells; waits for ever where it was not asked.
async fn told(asked: &mut Option<Stream>, native: bool) -> Result<Vec<Service>, String> {
    let Some(stream) = asked else { return std::future::pending().await };
    let next = timeout(TELL, stream.next()).await.map_err(|_| format!("no answer within {TELL:?}"))?;
    let told = next.map_err(|error| error.to_string())?;
    let plain = |data| if native { Ok(data) } else { php::answer(data) };
    let entries = match told.map(plain).transpose().map_err(|error| error.to_string())? {
        Some(Value::Map(entries)) => entries,
        Some(Value::Array(none)) if none.is_empty() => Vec::new(),
        None => Vec::new(),
        Some(_) => return Err("its answer is not a map of services".into()),
    };
    if entries.len() > MAX_SERVICES {
        return Err(format!("it offers more than {MAX_SERVICES} services"));
    }
    Ok(entries.into_iter().filter_map(|(name, service)| Some(service_of(text(&name)?, service))).collect())
}

fn service_of(name: String, told: Value) -> Service {
    let metadata = get(&told, "metadata").cloned();
    Service { name, metadata: metadata.unwrap_or_else(|| Value::Map(Vec::new())) }
}
