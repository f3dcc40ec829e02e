//! The line to a master that is connected to an upstream register.

use std::sync::Arc;
use std::time::Instant;

use rmpv::Value;

use crate::model::{Answers, Call, Command, Line, Refused};
use crate::tunnel::{CallError, Handle, LOST, Message, REFUSED, Stream, UNSENT, UnderWay, answers};

#[derive(Debug)]
pub(super) struct UpstreamLine {
    handle: Handle,
    master: String,
    under_way: UnderWay,
    max_calls: usize,
    /// Counts the calls by all lines.
    all: UnderWay,
}

impl UpstreamLine {
    pub(super) fn new(handle: Handle, master: String, max_calls: usize, all: UnderWay) -> Self {
        Self { handle, master, under_way: UnderWay::default(), max_calls, all }
    }

    fn open(&self, call: Call) -> Result<Stream, CallError> {
        let left = call.until.map(|until| until.saturating_duration_since(Instant::now()).as_millis() as u64);
        let memory = call.memory;
        let entries = |uuid: String| {
            [
                ("cmd", "call-on".into()),
                ("uuid", uuid.into()),
                ("master", self.master.as_str().into()),
                ("service", call.service.into()),
                ("method", call.method.into()),
                ("arguments", Arc::unwrap_or_clone(call.arguments)),
                ("timeout", left.map_or(Value::Nil, Value::from)),
                ("window", true.into()),
            ]
        };
        Ok(self.handle.open(Some(&memory), |uuid| command(entries(uuid)))?)
    }
}

impl Line for UpstreamLine {
    fn call(&self, call: Call) -> Result<Answers, Refused> {
        let one_more = self.under_way.one_more(self.max_calls).ok_or(Refused::Overloaded)?;
        let held = (one_more, self.all.one_more(usize::MAX));
        answers(self.open(call), &[LOST, REFUSED, UNSENT], held)
    }

    fn send(&self, told: &Command) -> Result<(), Refused> {
        let (master, message) = (self.master.as_str().into(), told.message().clone());
        let entries = [("cmd", "send-to".into()), ("master", master), ("message", message)];
        self.handle.send(command(entries)).map_err(Refused::from)
    }

    fn outstanding(&self) -> usize {
        self.under_way.get()
    }

    fn is_connected(&self) -> bool {
        self.handle.ended().is_none()
    }

    fn is_answering(&self) -> bool {
        self.handle.is_answering()
    }
}

pub(super) fn command<const N: usize>(entries: [(&str, Value); N]) -> Message {
    Message::Other(Value::Map(entries.into_iter().map(|(key, value)| (key.into(), value)).collect()))
}
