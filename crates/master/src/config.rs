//! The settings of a master.

use std::path::PathBuf;
use std::time::Duration;

use roster_tunnel::{Settings, Token};

/// How a master behaves. [`Config::new`] gives what suits most; the fields can be changed before the start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// What registers know the master by: from a file or the environment, never from the source.
    pub token: Token,
    /// A file with the authorities that sign the certificates of registers, in PEM, for those at `tls://…`; none: those
    /// that this machine believes. Read anew at each connection.
    pub ca: Option<PathBuf>,
    /// The user (uid) of whose processes the registers of this machine are: others are not shown the token, which any
    /// process could ask for that has taken the port while the register restarts. Registers elsewhere prove who they
    /// are by TLS alone. None: whoever listens is shown it.
    pub register_user: Option<u32>,
    /// How often a register that cannot be reached, or that refuses the token, is tried again; none: for ever.
    pub retry_attempts: Option<u32>,
    /// The wait before a retry, the first one after a connection that held. It doubles from one to the next up to
    /// `longest_retry_delay`, and a random part of it is waited, so that the masters of a register that was restarted
    /// do not come back together.
    pub retry_delay: Duration,
    pub longest_retry_delay: Duration,
    /// Whether a connection that is lost is made again.
    pub reconnect_on_close: bool,
    /// How long a register may take to accept the connection and the token.
    pub connect_timeout: Duration,
    /// How many registers there may be when a register commands to join more.
    pub most_registers: usize,
    /// How many calls of one register may be under way; more are refused.
    pub most_calls: usize,
    /// How long calls under way may take when the master leaves a register; then they are dropped.
    pub drain: Duration,
    /// The bounds of messages and queues, and the heartbeat. A message longer than the queue is refused, as one that
    /// is longer than its bound.
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
