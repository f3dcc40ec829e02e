//! Events: what happens between a master and its registers.

use std::io;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use roster_net::{ConnectError, ParseRemoteError};
use roster_tunnel::{CloseReason, RegisterAddr, Value, WireError};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The connection is established; the token is yet to be accepted.
    Connected { register: RegisterAddr },
    /// The register accepted the token, and will ask for the services.
    Authenticated { register: RegisterAddr },
    /// The register does not accept the token.
    Refused { register: RegisterAddr, reason: String },
    /// The connection was lost, or could not be established. Without `retry_in` the register was given up or left.
    Closed { register: RegisterAddr, why: Lost, retry_in: Option<Duration> },
    /// The register passed on an application-defined command: a map with the key `cmd`.
    Command { register: RegisterAddr, command: Value },
    /// This many events before this one were dropped, since they were not received in time.
    Missed(u64),
}

/// Why there is no longer a connection to a register.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    #[error("the register is not reached: {0}")]
    Unreachable(String),
    #[error("the register refused the token: {0}")]
    Refused(String),
    #[error("the connection ended: {0}")]
    Ended(#[from] CloseReason),
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        Self::Unreachable(error.to_string())
    }
}

impl From<ConnectError> for Lost {
    fn from(error: ConnectError) -> Self {
        Self::Unreachable(error.to_string())
    }
}

impl From<ParseRemoteError> for Lost {
    fn from(error: ParseRemoteError) -> Self {
        Self::Unreachable(error.to_string())
    }
}

impl From<WireError> for Lost {
    fn from(error: WireError) -> Self {
        Self::Unreachable(error.to_string())
    }
}

/// The events of a master from the time of subscription on.
#[derive(Debug)]
pub struct Events(pub(super) broadcast::Receiver<Event>);

impl Events {
    /// The next event; none: the master has ended.
    pub async fn next(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(missed)) => Some(Event::Missed(missed)),
            Err(RecvError::Closed) => None,
        }
    }
}
