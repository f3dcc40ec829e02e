//! `[register]`: where masters connect, which may, and the limits.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::secrets::{SecretError, Secrets};
use super::token_file;
use crate::model::json::MAX_DEPTH;
use crate::net::listening_address;
use crate::net::tls::{self, TlsError};
use crate::permissions::{Mode, Permissions};
use crate::secret::warn_if_open;
use crate::share::Share;
use crate::store::Feed;
use crate::tunnel::{Bounds, OnSilence, Settings};

/// `[register]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address and port for masters to connect to; empty: no register.
    pub listen: String,
    /// A Unix socket for masters too, its mode, and the group it is given to (empty: the process's own); no path: none.
    /// path: none.
    pub unix: PathBuf,
    pub mode: Mode,
    #[serde(deserialize_with = "crate::permissions::group")]
    pub group: String,
    /// A file with one token per line; masters present one of them. Read again on SIGHUP. None: Roster generates a
    /// token.
    #[serde(deserialize_with = "crate::rule::some_path")]
    pub tokens: Option<PathBuf>,
    /// A file with the key that signs the code that PHP masters are asked to run (their `TunnelStream::$secretKey`).
    /// Read again on SIGHUP.
    #[serde(deserialize_with = "crate::rule::some_path")]
    pub signing_key: Option<PathBuf>,
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_masters: usize,
    /// How many connections may exist that have not authenticated yet. If there are more, users lose their own.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_unauthenticated: usize,
    /// How long a connection may take to authenticate; less when places are scarce.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub auth_timeout: Duration,
    /// The longest message; before authentication, 4 KiB.
    #[serde(deserialize_with = "crate::rule::at_least_kib::<_, 1>")]
    pub max_message: ByteSize,
    /// The deepest nesting of a message.
    #[serde(deserialize_with = "crate::rule::json_depth::<_, 4, { MAX_DEPTH }>")]
    pub max_depth: usize,
    /// How much data may wait to be sent to one master.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_queue: ByteSize,
    /// For this long after a start, masters known from before are kept as they were, and the absence of others is no
    /// answer; shorter once all are back.
    #[serde(with = "crate::rule::WithinADay")]
    pub settle: Duration,
    /// About how much memory the services of all masters together may take.
    #[serde(deserialize_with = "crate::rule::at_least_kib::<_, 4>")]
    pub max_metadata: ByteSize,
    /// How many calls to one master may be under way.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_calls_per_master: usize,
    /// How long a master may be silent before it is pinged,
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub ping_interval: Duration,
    /// and how long it then has to answer before it is considered gone. Halfway through it is pinged once more.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub pong_timeout: Duration,
    /// What happens to a master that does not answer in time.
    pub on_silence: OnSilence,
    /// If set, masters connect over TLS only.
    pub tls: Option<Tls>,
}

/// `[register.tls]`. Both files are read again on SIGHUP.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Required: a PEM file with the certificate, followed by its chain.
    #[serde(deserialize_with = "crate::rule::path")]
    pub certificate: PathBuf,
    /// Required: a PEM file with its key.
    #[serde(deserialize_with = "crate::rule::path")]
    pub key: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8010".into(),
            unix: PathBuf::new(),
            mode: Mode(0o660),
            group: String::new(),
            tokens: None,
            signing_key: None,
            max_masters: 20_000,
            max_unauthenticated: 4_096,
            auth_timeout: Duration::from_secs(10),
            max_message: ByteSize::mib(1),
            max_depth: 32,
            max_queue: ByteSize::mib(1),
            settle: Duration::from_secs(15),
            max_metadata: ByteSize::mib(128),
            max_calls_per_master: 1_024,
            ping_interval: Duration::from_secs(20),
            pong_timeout: Duration::from_secs(3),
            on_silence: OnSilence::Wait,
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
    /// Whether a register is configured.
    pub fn is_on(&self) -> bool {
        !self.listen.is_empty() || !self.unix.as_os_str().is_empty()
    }

    pub(super) fn permissions(&self) -> Permissions {
        Permissions::new(self.mode, &self.group)
    }

    pub(crate) fn feed(&self) -> Feed {
        Feed::of_instances("register", "register")
    }

    /// Whether only this machine's masters can connect, judging by the address.
    pub(super) fn is_loopback(&self) -> bool {
        listening_address(&self.listen).map_or(true, |address| address.ip().is_loopback())
    }

    /// What is wrong with its secrets; `made` holds the tokens if the configuration names no file.
    pub(crate) fn check_secrets(&self, made: &Path) -> Result<(), SecretError> {
        if self.tokens.is_none() {
            token_file::check(made)?;
            if !made.exists() {
                return Ok(());
            }
        }
        Secrets::read(self, made, self.is_loopback()).map(drop)
    }

    pub(super) fn bounds(&self) -> Bounds {
        Bounds { bytes: self.max_message.as_u64() as usize, depth: self.max_depth }
    }

    /// The settings of a conversation with a peer, which is charged for what waits to be sent to it.
    pub(super) fn settings(&self, memory: Arc<Share>) -> Settings {
        let mut settings = Settings::default();
        settings.bounds = self.bounds();
        settings.queue_bytes = self.max_queue.as_u64() as usize;
        settings.ping_interval = self.ping_interval;
        settings.pong_timeout = self.pong_timeout;
        settings.on_silence = self.on_silence;
        settings.memory = Some(memory);
        settings
    }
}
