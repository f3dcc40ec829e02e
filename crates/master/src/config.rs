//! The settings of a master.

use std::path::PathBuf;
use std::time::Duration;

use roster_tunnel::{Settings, Token};

/// How a master behaves. [`Config::new`] gives suitable defaults; the fields can be changed before the start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The token for registers: from a file or the environment, never from the source.
    pub token: Token,
    /// A PEM file with the authorities that may sign the certificates of registers at `tls://…`; none: those that this
    /// machine trusts. Read at each connection.
    pub ca: Option<PathBuf>,
    /// The user (uid) that registers on this machine must run as before they are sent the token: otherwise any process
    /// that takes the port while the register restarts could get it. Registers elsewhere are only authenticated by TLS.
    /// None: any user.
    pub register_user: Option<u32>,
    /// How often to retry a register that cannot be reached, or that refuses the token; none: forever.
    pub retry_attempts: Option<u32>,
    /// The delay before the first retry after a good connection. It doubles from one retry to the next up to
    /// `longest_retry_delay`, and the actual wait is a random part of it, so that the masters of a restarted register
    /// do not come back together.
    pub retry_delay: Duration,
    pub longest_retry_delay: Duration,
    /// Whether to reconnect after a connection is lost.
    pub reconnect_on_close: bool,
    /// How long a register may take to accept the connection and the token.
    pub connect_timeout: Duration,
    /// The maximum number of registers when a register commands to join more.
    pub most_registers: usize,
    /// How many calls from one register may be under way; more are refused.
    pub most_calls: usize,
    /// How long calls under way may take when the master leaves a register; then they are dropped.
    pub drain: Duration,
    /// The limits of messages and queues, and the heartbeat. A message longer than the queue is refused like one over
    /// its own limit.
    pub tunnel: Settings,
}

impl Config {
    pub fn new(token: impl Into<String>) -> Self {
        Self {
            token: Token(token.into()),
            ca: None,
            register_user: None,
            retry_attempts: None,
            retry_delay: Duration::from_millis(500),
            longest_retry_delay: Duration::from_secs(10),
            reconnect_on_close: true,
            connect_timeout: Duration::from_secs(10),
            most_registers: 16,
            most_calls: 1024,
            drain: Duration::from_secs(5),
            tunnel: Settings::default(),
        }
    }
}
