//! `[thrift]` and `[zk_data]`: where the endpoint listens, and its limits.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::model::NodePath;
use crate::permissions::{Mode, Permissions};
use crate::share::Pool;

/// `[thrift]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The path of the Unix socket; empty: none.
    pub unix: PathBuf,
    /// The socket's mode, in octal digits.
    pub mode: Mode,
    /// The group that the socket is given to; empty: that of the process.
    #[serde(deserialize_with = "crate::permissions::group")]
    pub group: String,
    /// The loopback address and port; empty: none.
    pub tcp: String,
    /// How many threads answer.
    #[serde(deserialize_with = "crate::rule::at_most::<_, 256>")]
    pub threads: usize,
    /// How many connections may be open. If there is no room for a new one, the longest idle one is closed.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_connections: usize,
    /// How many of them one user may have; all users over TCP count as one.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_connections_per_user: usize,
    /// How many connections may wait for a watch; these are counted separately.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_watches: usize,
    /// How many paths all watches may have together.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_watch_paths: usize,
    #[serde(deserialize_with = "crate::rule::at_least_kib::<_, 1>")]
    pub max_request: ByteSize,
    /// The largest request of `call`, `callOn`, `callAll`, `callMany`, `callInOrder`, `startCall` and `broadcast`.
    #[serde(deserialize_with = "crate::rule::at_least_kib::<_, 1>")]
    pub max_call: ByteSize,
    #[serde(deserialize_with = "crate::rule::at_least_kib::<_, 64>")]
    pub max_reply: ByteSize,
    /// How much memory all clients together may make the endpoint hold: partial requests, arguments of calls and their
    /// values, paths of watches, unread replies.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_memory: ByteSize,
    /// The longest string in a request.
    #[serde(deserialize_with = "crate::rule::at_least_kib::<_, 1>")]
    pub max_string: ByteSize,
    /// The most elements of a container in a request.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_container: usize,
    /// The deepest nesting in a request.
    #[serde(deserialize_with = "crate::rule::between::<_, 5, 1024>")]
    pub max_depth: usize,
    /// The longest that one `watch` waits.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub max_watch: Duration,
    /// How many calls of masters' methods may be under way.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_calls: usize,
    /// How many calls one `callMany` or `callInOrder` may contain.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_call_many: usize,
    /// How many masters one `callAll` calls concurrently; the others follow.
    #[serde(deserialize_with = "crate::rule::positive")]
    pub max_call_all: usize,
    /// The longest that one call waits, including all its attempts.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub max_call_time: Duration,
    /// How soon after connecting the first byte must arrive.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub first_byte_timeout: Duration,
    /// How soon after its first byte a request must be complete.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub request_timeout: Duration,
    /// How soon a reply must have been read.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub reply_timeout: Duration,
    /// How long a connection may be silent between two requests.
    #[serde(with = "crate::rule::SomeWithinADay")]
    pub idle_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            unix: "/run/roster/roster.sock".into(),
            mode: Mode(0o660),
            group: String::new(),
            tcp: "127.0.0.1:9090".into(),
            threads: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(8)),
            max_connections: 2_048,
            max_connections_per_user: 1_024,
            max_watches: 16_384,
            max_watch_paths: 262_144,
            max_request: ByteSize::kib(64),
            max_call: ByteSize::mib(1),
            max_reply: ByteSize::mib(8),
            max_memory: ByteSize::mib(512),
            max_string: ByteSize::mib(1),
            max_container: 65_536,
            max_depth: 16,
            max_watch: Duration::from_secs(60),
            max_calls: 4_096,
            max_call_many: 256,
            max_call_all: 1_024,
            max_call_time: Duration::from_secs(60),
            first_byte_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_millis(250),
            reply_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// The memory that peers may make the process hold; `taken` counts what others use of it.
    pub fn memory(&self, taken: Arc<AtomicUsize>) -> Arc<Pool> {
        Pool::with_taken(self.max_memory.as_u64() as usize, 1, taken)
    }

    pub fn permissions(&self) -> Permissions {
        Permissions::new(self.mode, &self.group)
    }
}

/// `[zk_data]`: the service of the article.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ZkData {
    /// The node whose data `zkDataService.zkData()` answers.
    pub path: NodePath,
}

impl Default for ZkData {
    fn default() -> Self {
        Self { path: NodePath::root().child("zk_test") }
    }
}
