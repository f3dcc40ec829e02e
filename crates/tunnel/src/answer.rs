//! Answers: the outcome of a call from its caller's view.

use std::fmt;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use rmpv::Value;

use crate::share::Share;

/// What a master answers to a call, in order; the last one is not a `Value`.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Value(Value),
    Packed(Packed),
    End,
    /// The master's own error.
    Failed {
        message: String,
        class: Option<String>,
        code: i64,
    },
    /// The connection was lost with the call under way. Whether it was executed is unknown.
    Lost(String),
    /// The connection was lost before the call was sent. It can be sent to another master.
    Unsent(String),
    /// The master, or the register on the way to it, is overloaded or leaving, and has not executed the call. It can be
    /// sent to another master.
    Refused(String),
}

/// A value as packed by a PHP master. Reading it may take long.
#[derive(Clone)]
pub struct Packed {
    bytes: usize,
    unpack: Arc<dyn Fn() -> Result<Value, String> + Send + Sync>,
}

impl Packed {
    pub fn new(bytes: usize, unpack: impl Fn() -> Result<Value, String> + Send + Sync + 'static) -> Self {
        Self { bytes, unpack: Arc::new(unpack) }
    }

    /// The value, or what is wrong with it; unpacked in the waiting user's turn.
    pub async fn read(self, user: &Share) -> Result<Value, String> {
        user.work(self.bytes, move || (self.unpack)()).await
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packed").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl PartialEq for Packed {
    fn eq(&self, other: &Self) -> bool {
        (self.unpack)() == (other.unpack)()
    }
}

/// The answers to one call; dropping them aborts the call.
pub type Answers = BoxStream<'static, Answer>;

/// Why a call was not sent. It can be sent to another master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("too many calls to this master are under way, or its queue is full")]
    Overloaded,
    #[error("what this caller has on the way to masters takes as much memory as one user may have of max_memory")]
    NoMemory,
    #[error("the connection to this master has just been lost")]
    Gone,
}
