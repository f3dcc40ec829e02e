//! The line to a master that is connected to an upstream register.

use std::time::Instant;

use crate::model::{Answers, Call, Command, Line, Refused};
use crate::tunnel::upstream::Request;
use crate::tunnel::{CallError, Handle, InFlight, Status, Stream, Value, answers};

#[derive(Debug)]
pub(super) struct UpstreamLine {
    handle: Handle,
    master: String,
    in_flight: InFlight,
    max_calls: usize,
    /// Counts the calls over all lines.
    all: InFlight,
}

impl UpstreamLine {
    pub(super) fn new(handle: Handle, master: String, max_calls: usize, all: InFlight) -> Self {
        Self { handle, master, in_flight: InFlight::default(), max_calls, all }
    }

    fn open(&self, call: Call) -> Result<Stream, CallError> {
        let Call { service, method, arguments, until, memory, .. } = call;
        let request = |uuid| Request::Call {
            uuid,
            master: self.master.clone(),
            service,
            method,
            arguments: Value::Nil,
            timeout: until.map(|until| until.saturating_duration_since(Instant::now())),
            is_windowed: true,
        };
        Ok(self.handle.open_with(Some(&memory), arguments.packed().clone(), |uuid| request(uuid).encode())?)
    }
}

impl Line for UpstreamLine {
    fn call(&self, call: Call) -> Result<Answers, Refused> {
        let guard = self.in_flight.acquire(self.max_calls).ok_or(Refused::Overloaded)?;
        let held = (guard, self.all.acquire(usize::MAX));
        answers(self.open(call), &[Status::Lost, Status::Refused, Status::Unsent], held)
    }

    fn send(&self, command: &Command) -> Result<(), Refused> {
        let request = Request::Send { master: self.master.clone(), message: command.message().clone() };
        self.handle.send(request.encode()).map_err(Refused::from)
    }

    fn outstanding(&self) -> usize {
        self.in_flight.get()
    }

    fn is_connected(&self) -> bool {
        self.handle.ended().is_none()
    }

    fn is_answering(&self) -> bool {
        self.handle.is_answering()
    }
}
