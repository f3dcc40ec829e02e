//! One master's session: from its first message to its last.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, timeout, timeout_at};

use super::Hall;
use super::line::MasterLine;
use super::lobby::Guest;
use super::question::Question;
use super::secrets::Admitted;
use super::subscriber::Subscriber;
use crate::model::{Change, Master, Service};
use crate::net;
use crate::tunnel::{Bounds, Conversation, Ended, Handle, Incoming, Message, UnderWay, Wire, WireError, Wrong};

/// How long a wrong token is left waiting for its refusal: who guesses is slowed down.
const PENANCE: Duration = Duration::from_secs(1);

/// Serves one connection until it ends.
pub(super) async fn serve(stream: net::Stream, address: SocketAddr, guest: Guest, hall: Arc<Hall>) {
    let stop = hall.tasks.stop_signal();
    let greeted = tokio::select! {
        greeted = greet(stream, address, guest, &hall) => greeted,
        () = stop.requested() => None,
    };
    let Some((wire, peer)) = greeted else { return };
    let Some(_place) = hall.places.one_more(hall.config.max_masters) else {
        hall.lobby.refused(address.ip(), "there are max_masters already");
        return;
    };
    let (handle, incoming, conversation) = Conversation::new(wire, hall.config.settings());
    let session = Session::new(peer, address, handle, hall);
    let ended = tokio::select! {
        ended = conversation.run() => ended,
        () = session.listen(incoming) => Ended::Closed,
        ended = async { stop.requested().await; session.finish().await } => ended,
    };
    tracing::info!(master = session.id, %address, why = %ended, "a master left");
    session.leave();
}

/// Who showed a token.
struct Peer {
    admitted: Admitted,
    native: bool,
    id: Option<String>,
}

/// Gives a stranger a seat, and time to become known.
async fn greet(
    stream: net::Stream,
    address: SocketAddr,
    guest: Guest,
    hall: &Hall,
) -> Option<(Wire<net::Stream>, Peer)> {
    let _seat = timeout(hall.config.auth_timeout, guest.seat()).await.ok()??;
    // Boxed, so that only those who have a seat take the room for it, which is much with TLS.
    Box::pin(hear(stream, address, hall)).await
}

async fn hear(stream: net::Stream, address: SocketAddr, hall: &Hall) -> Option<(Wire<net::Stream>, Peer)> {
    let until = Instant::now() + hall.config.auth_timeout;
    let stream = secure(stream, address, until, hall).await?;
    let mut wire = Wire::new(stream, Bounds::STRANGER);
    let peer = admit(&mut wire, address, until, hall).await?;
    Some((wire, peer))
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
    let first = timeout_at(until, wire.receive()).await.ok()?;
    if let Err(WireError::Wrong(Wrong::Tls)) = first {
        hall.lobby.refused(address.ip(), "it speaks TLS, and there is no [register.tls]");
    }
    let first = first.ok()?;
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
    /// The calls that the peer has under way to other masters.
    relayed: UnderWay,
    hall: Arc<Hall>,
}

impl Session {
    fn new(peer: Peer, address: SocketAddr, handle: Handle, hall: Arc<Hall>) -> Self {
        let number = hall.next_number();
        let id = peer.id.filter(|id| !id.is_empty()).unwrap_or_else(|| format!("{}-{number}", hall.name));
        let line = Arc::new(MasterLine {
            handle,
            native: peer.native,
            secrets: hall.secrets.clone(),
            under_way: UnderWay::default(),
            max_calls: hall.config.max_calls_per_master,
        });
        let connected_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
        Self { id, number, admitted: peer.admitted, address, connected_at, line, relayed: UnderWay::default(), hall }
    }

    /// Closes the conversation when no call is under way in it, and leaves it the time to write the last answers.
    async fn finish(&self) -> Ended {
        self.line.under_way.none().await;
        self.relayed.none().await;
        self.line.handle.close();
        std::future::pending().await
    }

    /// Asks for the services, and then for them again whenever the master says so. Ends when the conversation does,
    /// or the token is no longer one of ours.
    async fn listen(&self, mut incoming: Incoming) {
        let mut secrets_changed = self.hall.secrets_changed.clone();
        let mut subscriber = Subscriber::new(self.line.handle.clone(), self.relayed.clone(), self.hall.clone());
        let mut question = Question::new(self.line.clone());
        // While it holds one, this session is counted.
        let mut untold = None;
        loop {
            tokio::select! {
                // Who subscribes has said so before it declines to tell services.
                biased;
                Ok(()) = secrets_changed.changed() => {
                    if !self.hall.secrets.load().still_admits(&self.admitted) {
                        tracing::info!(master = self.id, "closed a master: its token is no longer valid");
                        return;
                    }
                    if untold.is_some() {
                        // It may have refused what was not signed, or with another key.
                        question.ask();
                    }
                }
                message = incoming.recv() => match message.map(|message| *message) {
                    None => return,
                    Some(Message::Register(None)) => question.ask(),
                    Some(Message::Remove(None)) => {
                        question.withdraw();
                        untold = None;
                        self.join(Vec::new());
                    }
                    Some(message) => subscriber.take(message),
                },
                told = question.answer() => match told {
                    Ok(services) => {
                        untold = None;
                        self.join(services);
                    }
                    Err(_) if subscriber.follows() => question.withdraw(),
                    Err(why) if untold.is_none() => {
                        untold = self.hall.untold.one_more(usize::MAX);
                        let (master, address) = (&self.id, self.address);
                        tracing::warn!(master, %address, why, "a master does not tell its services");
                    }
                    Err(_) => {}
                },
            }
        }
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
