//! Requests: calls that make sense, whoever asked for them.

use std::sync::Arc;
use std::time::Duration;

use rmpv::Value;

use super::Encoding;
use crate::model::{self, Input};
use crate::resolve::{Balance, Query, Requirement};
use crate::share::{Share, is_heavy};

#[derive(Clone, Debug)]
pub struct Request {
    /// The id of the only one that it is for.
    pub master: Option<String>,
    pub service: String,
    pub method: String,
    pub arguments: Arguments,
    pub timeout: Duration,
    /// The setting that allows it less time than was asked for.
    pub cut_by: Option<&'static str>,
    pub retries: usize,
    pub is_idempotent: bool,
    pub query: Query,
    pub all_values: bool,
    /// How its values are written.
    pub encoding: Encoding,
    /// What its client sends while it goes on.
    pub input: Option<Input>,
}

/// A list, or a map by parameter name.
#[derive(Clone, Debug)]
pub struct Arguments {
    pub packed: model::Arguments,
    /// As they were written, where reading them is heavy and has not been done yet.
    unread: Vec<u8>,
    /// How many bytes they have, written.
    pub weight: usize,
}

/// Why arguments are not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    Wrong(String),
    /// Their user may not have so much memory.
    NoMemory,
}

impl Request {
    /// The same of a method that is sent values. What one master has taken of them no other is given.
    pub fn with_input(self, input: Input) -> Self {
        Self { input: Some(input), retries: 0, is_idempotent: false, all_values: true, ..self }
    }

    /// Reads arguments that are heavy. These are charged by themselves, wherever they wait.
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

    /// About how much memory it takes beside arguments that are charged by themselves.
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
    /// Reads them, unless they are heavy.
    pub fn of(encoding: Encoding, written: Vec<u8>) -> Result<Self, String> {
        let weight = written.len();
        let (light, unread) = if is_heavy(weight) { (Vec::new(), written) } else { (written, Vec::new()) };
        Ok(Self { packed: model::Arguments::new(read(encoding, &light)?), unread, weight })
    }

    fn memory_size(&self) -> usize {
        if is_heavy(self.weight) { self.unread.len() } else { self.packed.memory_size() }
    }

    /// Whether they are heavy, and still to be read.
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
