//! Requests: validated calls, whichever way they came in.

use std::sync::Arc;
use std::time::Duration;

use rmpv::Value;

use super::Encoding;
use crate::model::{self, Input};
use crate::resolve::{Balance, Query, Requirement};
use crate::share::{Share, is_heavy};

#[derive(Clone, Debug)]
pub struct Request {
    /// The id of the only master it may go to.
    pub master: Option<String>,
    pub service: String,
    pub method: String,
    pub arguments: Arguments,
    pub timeout: Duration,
    /// The setting that shortened the client's timeout.
    pub cut_by: Option<&'static str>,
    pub retries: usize,
    pub is_idempotent: bool,
    pub query: Query,
    pub all_values: bool,
    /// How its values are encoded.
    pub encoding: Encoding,
    /// What the client sends while the call is under way.
    pub input: Option<Input>,
}

/// A list, or a map by parameter name.
#[derive(Clone, Debug)]
pub struct Arguments {
    pub packed: model::Arguments,
    /// The encoded arguments, if decoding them is expensive and was put off.
    unread: Vec<u8>,
    /// Their encoded size in bytes.
    pub weight: usize,
}

/// Why arguments are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    Wrong(String),
    /// The user's memory budget is used up.
    NoMemory,
}

impl Request {
    /// The same request with streamed input. Values that one master has taken are not sent to another.
    pub fn with_input(self, input: Input) -> Self {
        Self { input: Some(input), retries: 0, is_idempotent: false, all_values: true, ..self }
    }

    /// Decodes expensive arguments. They are charged separately, wherever they wait.
    pub async fn read(&mut self, memory: &Arc<Share>) -> Result<(), Unreadable> {
        let (encoding, arguments) = (self.encoding, &mut self.arguments);
        if arguments.are_unread() {
            let (unread, user) = (std::mem::take(&mut arguments.unread), memory.clone());
            let read = move || {
                let value = read(encoding, &unread).map_err(Unreadable::Wrong)?;
                model::Arguments::charged(value, &user).ok_or(Unreadable::NoMemory)
            };
            arguments.packed = memory.work(arguments.weight, read).await?;
        }
        Ok(())
    }

    /// About how much memory it takes, besides arguments that are charged separately.
    pub fn memory_size(&self) -> usize {
        let Query { version, balance, metadata, .. } = &self.query;
        let key = if let Balance::Key(key) = balance { key.len() } else { 0 };
        let metadata: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        let query = version.as_ref().map_or(0, Requirement::memory_size) + key + metadata;
        size_of::<Self>()
            + self.master.as_ref().map_or(0, String::len)
            + self.service.len()
            + self.method.len()
            + self.arguments.memory_size()
            + query
    }
}

impl Arguments {
    /// Decodes them, unless they are expensive.
    pub fn of(encoding: Encoding, written: Vec<u8>) -> Result<Self, String> {
        let weight = written.len();
        let (light, unread) = if is_heavy(weight) { (Vec::new(), written) } else { (written, Vec::new()) };
        Ok(Self { packed: model::Arguments::new(read(encoding, &light)?), unread, weight })
    }

    fn memory_size(&self) -> usize {
        if is_heavy(self.weight) { self.unread.len() } else { self.packed.memory_size() }
    }

    /// Whether they are expensive, and still to be decoded.
    pub fn are_unread(&self) -> bool {
        !self.unread.is_empty()
    }
}

fn read(encoding: Encoding, bytes: &[u8]) -> Result<Value, String> {
    if bytes.is_empty() {
        return Ok(Value::Array(Vec::new()));
    }
    let arguments = encoding.read(bytes)?;
    let is_either = arguments.is_array() || arguments.is_map();
    if is_either { Ok(arguments) } else { Err("expected a list, or an object by parameter name".into()) }
}
