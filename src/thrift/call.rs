//! Calls: one, one on a certain master, one on all masters, and several side by side; and commands for all masters.

use std::sync::Arc;

use futures::future::join_all;
use futures::stream::{self, StreamExt};
use rmpv::Value;
use tokio::time::Instant;

use super::caller::{Bounds, Failure};
use super::handler::Desk;
use super::idl::{
    self, CallEnd, CallError, CallErrorKind, CallOutcome, CallResult, Encoding, InvalidRequest, RegisterAddress,
};
use super::owed::{Budget, Values};
use super::request::{self, Request};

/// Several calls; one that makes no sense does not spoil the others.
pub(super) type Several = Vec<Result<Request, InvalidRequest>>;

impl Desk {
    /// Checks a call.
    pub(super) fn request(&self, call: idl::Call) -> thrift::Result<Request> {
        Ok(Request::check(call, &self.config)?)
    }

    /// Checks several calls.
    pub(super) fn requests(&self, calls: Vec<idl::Call>) -> thrift::Result<Several> {
        let most = self.config.max_call_many;
        if calls.len() > most {
            let message = format!("{} calls are more than max_call_many allows: {most}", calls.len());
            return Err(request::invalid("calls", message).into());
        }
        Ok(calls.into_iter().map(|call| Request::check(call, &self.config)).collect())
    }

    pub(super) async fn call(&self, request: &Request) -> thrift::Result<CallResult> {
        Ok(self.call_within(&self.budget(), request).await?)
    }

    pub(super) async fn call_on(&self, master: &str, request: &Request) -> thrift::Result<CallResult> {
        let values = Values::new(&self.budget());
        let bounds = Bounds { until: Instant::now() + request.timeout, values: &values };
        let end = self.caller.call_on(self.caller.one(master, request)?, request, bounds).await?;
        Ok(result(end, values))
    }

    pub(super) async fn call_all(&self, request: &Request) -> thrift::Result<Vec<CallOutcome>> {
        let (budget, until) = (self.budget(), Instant::now() + request.timeout);
        let calls = self.caller.all(request)?.into_iter().map(|entry| async {
            let (master, values) = (entry.master.id.clone(), Values::new(&budget));
            let end = self.caller.call_on(entry, request, Bounds { until, values: &values }).await;
            CallOutcome { master: Some(master), ..outcome(end.map(|end| result(end, values))) }
        });
        Ok(stream::iter(calls).buffered(self.config.max_call_all).collect().await)
    }

    pub(super) async fn call_many(&self, several: &Several) -> Vec<CallOutcome> {
        let budget = self.budget();
        let calls = several.iter().map(async |request| match request {
            Ok(request) => outcome(self.call_within(&budget, request).await),
            Err(invalid) => {
                let message = format!("{}: {}", invalid.field, invalid.message);
                CallOutcome::new(None, None, CallError::new(CallErrorKind::INVALID, message, None, None, None))
            }
        });
        join_all(calls).await
    }

    pub(super) fn broadcast(&self, message: &[u8], encoding: Encoding) -> thrift::Result<i32> {
        Ok(self.send_to_all(&request::command(message, encoding)?))
    }

    pub(super) fn add_registers(&self, registers: &[RegisterAddress]) -> thrift::Result<i32> {
        self.order(&request::registers("register", registers)?)
    }

    pub(super) fn remove_registers(&self, registers: &[RegisterAddress]) -> thrift::Result<i32> {
        self.order(&request::registers("remove", registers)?)
    }

    /// Sends a command to every master, and to the sidecars that follow this one.
    fn order(&self, command: &Value) -> thrift::Result<i32> {
        Ok(self.send_to_all(command) + self.store.order(command) as i32)
    }

    /// Sends a command to every master, by one way to each. To how many it was sent.
    fn send_to_all(&self, command: &Value) -> i32 {
        let snapshot = self.store.snapshot();
        let masters = snapshot.directory().masters("").map(|(_, entry)| entry);
        let sent = masters.filter(|entry| entry.lines().any(|line| line.send(command.clone()).is_ok()));
        sent.count() as i32
    }

    async fn call_within(&self, budget: &Arc<Budget>, request: &Request) -> Result<CallResult, Failure> {
        let values = Values::new(budget);
        let bounds = Bounds { until: Instant::now() + request.timeout, values: &values };
        let end = self.caller.call(request, bounds).await?;
        Ok(result(end, values))
    }

    /// Room for the values of one reply.
    pub(super) fn budget(&self) -> Arc<Budget> {
        self.ledger.budget(self.max_reply())
    }
}

fn result(end: CallEnd, values: Values) -> CallResult {
    let CallEnd { master, duration_us, attempts } = end;
    CallResult { values: values.into_all(), master, duration_us, attempts }
}

impl From<Failure> for thrift::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoMaster(exception) => exception.into(),
            Failure::Failed(exception) => exception.into(),
            Failure::TimedOut(exception) => exception.into(),
            Failure::Overloaded(exception) => exception.into(),
        }
    }
}

fn outcome(result: Result<CallResult, Failure>) -> CallOutcome {
    let error = |kind, message| CallError::new(kind, message, None, None, None);
    match result {
        Ok(result) => CallOutcome::new(result.master.clone(), result, None),
        Err(Failure::NoMaster(none)) => CallOutcome::new(None, None, error(CallErrorKind::NO_MASTER, none.message)),
        Err(Failure::Overloaded(over)) => CallOutcome::new(None, None, error(CallErrorKind::OVERLOADED, over.message)),
        Err(Failure::TimedOut(late)) => {
            CallOutcome::new(late.master, None, error(CallErrorKind::TIMED_OUT, late.message))
        }
        Err(Failure::Failed(failed)) => {
            let idl::CallFailed { master, message, class_name, code, lost } = failed;
            CallOutcome::new(master, None, CallError::new(CallErrorKind::FAILED, message, class_name, code, lost))
        }
    }
}
