//! The line to one connected master: calls go over its tunnel.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::secrets::Secrets;
use crate::model::{Answers, Call, Command, Line, Refused};
use crate::tunnel::{CallError, Handle, Message, REFUSED, Request, SendError, Stream, UnderWay, answers};

#[derive(Clone, Debug)]
pub(super) struct MasterLine {
    pub(super) handle: Handle,
    /// Whether the master understands calls; else it runs PHP closures.
    pub(super) native: bool,
    pub(super) secrets: Arc<ArcSwap<Secrets>>,
    pub(super) under_way: UnderWay,
    pub(super) max_calls: usize,
}

impl Line for MasterLine {
    fn call(&self, call: Call) -> Result<Answers, Refused> {
        let one_more = self.under_way.one_more(self.max_calls).ok_or(Refused::Overloaded)?;
        let held = (one_more, call.until.map(|until| self.handle.wait_until(until)));
        if self.native {
            return answers(self.open(call), &[REFUSED], Ok, held);
        }
        let secrets = self.secrets.load_full();
        answers(self.open(call), &[], move |packed| secrets.closures.unpack(&packed), held)
    }

    fn send(&self, command: &Command) -> Result<(), Refused> {
        self.handle.send_command(command).map_err(Refused::from)
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

    fn is_direct(&self) -> bool {
        true
    }
}

impl MasterLine {
    fn open(&self, call: Call) -> Result<Stream, CallError> {
        let Call { service, method, arguments, .. } = call;
        if self.native {
            return Ok(self.handle.open(|uuid| Message::Call { uuid, service, method, arguments })?);
        }
        Ok(self.ask(Request::call(service, method, arguments)?)?)
    }

    /// Asks a PHP master.
    pub(super) fn ask(&self, request: Request) -> Result<Stream, SendError> {
        self.handle.ask(|| self.secrets.load().closures.master(), request)
    }
}
