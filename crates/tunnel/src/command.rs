//! Commands: packed once for all masters.

use bytes::Bytes;
use rmpv::Value;

/// A command for masters, packed once for all of them.
#[derive(Clone, Debug)]
pub struct Command {
    message: Value,
    packed: Bytes,
}

impl Command {
    pub fn new(message: Value) -> Self {
        let mut packed = Vec::new();
        rmpv::encode::write_value(&mut packed, &message).expect("a vector takes all");
        Self { message, packed: packed.into() }
    }

    pub fn message(&self) -> &Value {
        &self.message
    }

    /// The MessagePack. Clones share the bytes.
    pub fn packed(&self) -> &Bytes {
        &self.packed
    }
}
