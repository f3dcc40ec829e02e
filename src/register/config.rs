//! `[register]`: where masters connect, who may, and the bounds.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::net::tls::{self, TlsError};
use crate::secret::warn_if_open;
use crate::tunnel::{Bounds, Settings};

/// `[register]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address and port where masters connect; empty: no register.
    pub listen: String,
    /// A file with a token a line; masters show one of them. Read again on SIGHUP. Beyond loopback there must be one.
    pub tokens: Option<PathBuf>,
    /// A file with the key that signs what PHP masters are asked to run (their `TunnelStream::$secretKey`). Read
    /// again on SIGHUP.
    pub signing_key: Option<PathBuf>,
    pub max_masters: usize,
    /// How many connections may be heard at a time that have not yet shown a token, and how many of one address.
    pub max_strangers: usize,
    pub max_strangers_per_address: usize,
    /// How many more may wait to be heard; half of them may be of one address.
    pub max_waiting_strangers: usize,
    /// How long a connection waits to be heard, and how long it may then take to show a token.
    #[serde(with = "humantime_serde")]
    pub auth_timeout: Duration,
    /// The longest message; from strangers, 4 KiB.
    pub max_message: ByteSize,
    /// The deepest nesting of a message.
    pub max_depth: usize,
    /// How much may wait to be sent to one master.
    pub max_queue: ByteSize,
    /// How many calls to one master may be under way.
    pub max_calls_per_master: usize,
    /// After so long without a word from a master it is asked for one,
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    /// and has so long to answer, or it is gone. In the middle of that it is asked once more.
    #[serde(with = "humantime_serde")]
    pub pong_timeout: Duration,
    /// Masters connect by TLS, and by nothing else.
    pub tls: Option<Tls>,
}

/// `[register.tls]`. Both files are read again on SIGHUP.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// A file with the certificate, and after it those that lead from it to its authority, in PEM.
    pub certificate: PathBuf,
    /// A file with its key, in PEM.
    pub key: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8010".into(),
            tokens: None,
            signing_key: None,
            max_masters: 20_000,
            max_strangers: 64,
            max_strangers_per_address: 8,
            max_waiting_strangers: 4_096,
            auth_timeout: Duration::from_secs(10),
            max_message: ByteSize::mib(1),
            max_depth: 32,
            max_queue: ByteSize::mib(1),
            max_calls_per_master: 1_024,
            ping_interval: Duration::from_secs(20),
            pong_timeout: Duration::from_secs(3),
            tls: None,
        }
    }
}

impl Tls {
    pub fn read(&self) -> Result<tls::Server, TlsError> {
        warn_if_open("register.tls.key", &self.key);
        tls::Server::read(&self.certificate, &self.key)
    }
}

impl Config {
    pub(super) fn bounds(&self) -> Bounds {
        Bounds { bytes: self.max_message.as_u64() as usize, depth: self.max_depth, ..Bounds::DEFAULT }
    }

    pub(super) fn settings(&self) -> Settings {
        let (ping_interval, pong_timeout) = (self.ping_interval, self.pong_timeout);
        let queue_bytes = self.max_queue.as_u64() as usize;
        Settings { bounds: self.bounds(), queue_bytes, ping_interval, pong_timeout, ..Settings::default() }
    }
}
