//! Links: the connection to one register, re-established whenever it is lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::event::{Event, Lost};
use super::session::Session;
use super::{Config, Shared};
use roster_net::Backoff;
use roster_net::{Remote, Stream};
use roster_tunnel::{Bounds, CloseReason, Conversation, Message, RegisterAddr, Role, Wire};

/// After a connection that lasted this long, reconnecting is fast again. If a register accepts connections and closes
/// them, such as one without room, the delay keeps growing.
const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(1);

/// Stays connected to a register until the master leaves it or gives up.
pub(super) async fn keep(shared: Arc<Shared>, register: RegisterAddr, leave: CancellationToken) {
    let mut retries = Retries::new(&shared.config);
    let link = Link { shared: &shared, register: &register, leave: &leave };
    loop {
        let why = link.connect_once(&mut retries).await;
        let retry_in = if leave.is_cancelled() { None } else { retries.next(&why) };
        if retry_in.is_none() {
            link.forget();
        }
        shared.tell(Event::Closed { register: register.clone(), why, retry_in });
        let Some(delay) = retry_in else { return };
        if leave.run_until_cancelled(sleep(delay)).await.is_none() {
            return;
        }
    }
}

struct Link<'a> {
    shared: &'a Arc<Shared>,
    register: &'a RegisterAddr,
    leave: &'a CancellationToken,
}

impl Link<'_> {
    /// One connection, from its beginning to its end.
    async fn connect_once(&self, retries: &mut Retries) -> Lost {
        // Before the register knows anything: later changes must be reported.
        let services = self.shared.services.subscribe();
        let entering = timeout(self.shared.config.connect_timeout, self.enter());
        match self.leave.run_until_cancelled(entering).await {
            None => Lost::Ended(CloseReason::Closed),
            Some(Err(_)) => Lost::Unreachable("it does not answer".to_owned()),
            Some(Ok(Err(lost))) => lost,
            Some(Ok(Ok(wire))) => {
                retries.failures = 0;
                let since = Instant::now();
                let (handle, mut incoming, conversation) = Conversation::new(wire, self.shared.config.tunnel.clone());
                let session = Session::new(self.shared.clone(), self.register.clone(), handle);
                let answering = session.answer(&mut incoming, services, self.leave);
                let ended = tokio::join!(conversation.run(), answering).0;
                if since.elapsed() > BACKOFF_RESET_AFTER {
                    retries.backoff.reset();
                }
                Lost::Ended(ended)
            }
        }
    }

    /// Connects and authenticates.
    async fn enter(&self) -> Result<Wire<Stream>, Lost> {
        let Self { shared, register, .. } = *self;
        let remote: Remote = register.to_string().parse()?;
        let stream = remote.connect(shared.config.ca.as_deref().into(), shared.config.register_user).await?;
        shared.tell(Event::Connected { register: register.clone() });
        let mut wire = Wire::new(stream, Bounds::STRANGER);
        let token = shared.config.token.clone();
        wire.send(Message::Auth { token, role: Role::Native, id: Some(shared.id.clone()) }).await?;
        loop {
            match wire.receive().await? {
                Message::AuthSuccess { .. } => {
                    shared.tell(Event::Authenticated { register: register.clone() });
                    return Ok(wire);
                }
                Message::AuthFailed { message: reason } => {
                    shared.tell(Event::Refused { register: register.clone(), reason: reason.clone() });
                    return Err(Lost::Refused(reason));
                }
                // Nothing else can be asked of a master that is not accepted yet.
                _ => {}
            }
        }
    }

    /// Allows connecting to this register again, unless that was done when the master left it.
    fn forget(&self) {
        let mut links = self.shared.links();
        if !self.leave.is_cancelled() {
            links.remove(self.register);
        }
    }
}

/// How often and when to retry a register.
struct Retries {
    most: Option<u32>,
    reconnect_on_close: bool,
    failures: u32,
    backoff: Backoff,
}

impl Retries {
    fn new(config: &Config) -> Self {
        let Config { retry_attempts, retry_delay, longest_retry_delay, reconnect_on_close, .. } = *config;
        let backoff = Backoff::new(retry_delay, longest_retry_delay.max(retry_delay));
        Self { most: retry_attempts, reconnect_on_close, failures: 0, backoff }
    }

    /// How long to wait after a loss; none: no retry.
    fn next(&mut self, lost: &Lost) -> Option<Duration> {
        if let Lost::Ended(_) = lost {
            return self.reconnect_on_close.then(|| self.backoff.delay());
        }
        self.failures = self.failures.saturating_add(1);
        let again = self.most.is_none_or(|most| self.failures <= most);
        again.then(|| self.backoff.delay())
    }
}
