//! Answers: what becomes of a call, as its caller sees it.

use std::fmt;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use rmpv::Value;

use crate::share::Share;

/// What a master answers to a call, one after the other; the last one is no `Value`.
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
    /// The connection was lost with the call under way. Whether it was executed is not known.
    Lost(String),
    /// The connection was lost before the call left for it. It can be sent to another master.
    Unsent(String),
    /// The master, or the register on the way to it, has too much to do or is leaving, and has not executed the call.
    /// It can be sent to another master.
    Refused(String),
}

/// A value as a PHP master packed it. To read it may take long.
#[derive(Clone)]
pub struct Packed {
    bytes: usize,
    unpack: Arc<dyn Fn() -> Result<Value, String> + Send + Sync>,
}

impl Packed {
    pub fn new(bytes: usize, unpack: impl Fn() -> Result<Value, String> + Send + Sync + 'static) -> Self {
        Self { bytes, unpack: Arc::new(unpack) }
    }

    /// The value, or what is wrong with it; unpacked in the turn of the user who waits for it.
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

/// The answers to one call; dropped, the call is given up.
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
