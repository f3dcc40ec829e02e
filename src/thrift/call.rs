//! Calls: a single one, one on a given master, one on all masters, and several concurrently or in order; and commands
//! for all masters.

use std::sync::Arc;

use futures::future::join_all;
use futures::stream::{self, StreamExt};
use tokio::time::Instant;

use super::Peer;
use super::api::{Api, denied};
use super::idl::{
    self, CallCompletion, CallError, CallErrorKind, CallFailed, CallOutcome, CallResult, CallTimedOut, CallsReply,
    InvalidRequest, NoMaster, Overloaded,
};
use super::request;
use crate::access::Denied;
use crate::call::{Budget, Completion, Failure, OVERLOADED, Request, Unreadable, Values};
use crate::model::{Command, split_name};
use crate::share::Taken;

/// The most memory for the arguments of one `callMany`; each call also has its own limit.
const MAX_ARGUMENTS: usize = 4 << 20;

/// Several calls; an invalid one does not affect the others.
type Several = Vec<Result<Request, Unsendable>>;

/// Why one of several calls is not made.
#[derive(Clone, Debug, PartialEq)]
enum Unsendable {
    Invalid(InvalidRequest),
    Denied(Denied),
}

impl Api {
    /// Validates a call.
    pub(super) fn request(&self, peer: &Peer, call: idl::Call) -> thrift::Result<Request> {
        may_call(peer, &call).map_err(denied)?;
        Ok(request::check(call, &self.config)?)
    }

    /// Validates a call of all masters.
    pub(super) fn request_for_all(&self, peer: &Peer, call: idl::Call) -> thrift::Result<Request> {
        if call.master_id.is_some() {
            return Err(request::invalid("masterId", "all masters are called that offer the service").into());
        }
        self.request(peer, call)
    }

    /// Validates several calls over several turns, since reading their arguments may take long. Their memory is charged
    /// while they are kept.
    async fn several(&self, peer: &Peer, calls: Vec<idl::Call>) -> thrift::Result<(Several, Taken)> {
        let most = self.config.max_call_many;
        if calls.len() > most {
            let message = format!("{} calls are more than max_call_many allows: {most}", calls.len());
            return Err(request::invalid("calls", message).into());
        }
        let memory = &peer.account.memory;
        let (mut several, mut charged) = (Vec::with_capacity(calls.len()), memory.nothing());
        let (mut bytes, mut arguments) = (0, 0);
        for call in calls {
            peer.let_others_work().await;
            let mut request = self.one_of_several(peer, call, arguments);
            let read = match &mut request {
                Ok(request) => request.read(memory).await,
                Err(_) => Ok(()),
            };
            if let Err(Unreadable::Wrong(why)) = &read {
                request = Err(request::unread(why.clone()).into());
            }
            if let Ok(request) = &request {
                bytes += request.memory_size();
                arguments += request.arguments.packed.memory_size();
            }
            if read == Err(Unreadable::NoMemory) || !charged.resize(bytes) {
                self.metrics.overloaded.increment();
                return Err(Overloaded { message: OVERLOADED.to_owned() }.into());
            }
            several.push(request);
        }
        Ok((several, charged))
    }

    /// Validates one of several calls, after those whose arguments take this many bytes.
    fn one_of_several(&self, peer: &Peer, call: idl::Call, before: usize) -> Result<Request, Unsendable> {
        may_call(peer, &call)?;
        if before > MAX_ARGUMENTS {
            let message = "those of the calls before take too much; make fewer at once";
            return Err(request::invalid("arguments", message).into());
        }
        Ok(request::check(call, &self.config)?)
    }

    pub(super) async fn call(&self, peer: &Peer, request: &Request) -> thrift::Result<CallResult> {
        Ok(self.call_within(peer, &self.budget(peer), request).await?)
    }

    pub(super) async fn call_all(&self, peer: &Peer, request: &Request) -> thrift::Result<CallsReply> {
        let (budget, until) = (self.budget(peer), Instant::now() + request.timeout);
        let masters = self.caller.all(request, &peer.account.memory, until).await?;
        let at_once = masters.len().min(self.config.max_call_all);
        let calls = masters.into_iter().map(|entry| async {
            peer.let_others_work_among(at_once).await;
            let (master, values) = (entry.master.id.clone(), Values::new(&budget));
            let end = self.caller.call_on(entry, request, peer.account.bounds(until, &values)).await;
            CallOutcome { master_id: Some(master), ..outcome(end.map(|end| result(end, values))) }
        });
        Ok(CallsReply { outcomes: stream::iter(calls).buffered(self.config.max_call_all).collect().await })
    }

    pub(super) async fn call_many(&self, peer: &Peer, calls: Vec<idl::Call>) -> thrift::Result<CallsReply> {
        let (several, _charged) = self.several(peer, calls).await?;
        let budget = self.budget(peer);
        let calls = several.iter().map(async |request| {
            peer.let_others_work_among(several.len()).await;
            match request {
                Ok(request) => outcome(self.call_within(peer, &budget, request).await),
                Err(unsendable) => CallOutcome::new(None, None, CallError::from(unsendable)),
            }
        });
        Ok(CallsReply { outcomes: join_all(calls).await })
    }

    /// Makes the calls one after the other, all on the master that executes the first of them.
    pub(super) async fn call_in_order(&self, peer: &Peer, calls: Vec<idl::Call>) -> thrift::Result<CallsReply> {
        let mut master = calls.first().and_then(|call| call.master_id.clone());
        if calls.iter().any(|call| call.master_id.is_some() && call.master_id != master) {
            return Err(request::invalid("calls", "one names another master than the first").into());
        }
        let (several, _charged) = self.several(peer, calls).await?;
        let (budget, mut is_lost) = (self.budget(peer), false);
        let mut outcomes = Vec::new();
        for request in several {
            let request = match request {
                Ok(request) => Request { master: master.clone(), ..request },
                Err(unsendable) => {
                    outcomes.push(CallOutcome::new(None, None, CallError::from(&unsendable)));
                    continue;
                }
            };
            let called = if is_lost {
                Err(Failure::unsent(&request, "not sent: a call before it was lost, or came to no end".into()))
            } else {
                self.call_within(peer, &budget, &request).await
            };
            is_lost |= called.as_ref().is_err_and(Failure::came_to_no_end);
            let outcome = outcome(called);
            master = master.or_else(|| outcome.master_id.clone());
            outcomes.push(outcome);
        }
        Ok(CallsReply { outcomes })
    }

    /// Sends a command to every master, and to the sidecars that follow this one.
    pub(super) async fn order(&self, peer: &Peer, command: &Command) -> idl::CommandReply {
        let mut reply = self.broadcast(peer, command).await;
        reply.masters += self.store.order(command.message()) as i32;
        reply
    }

    /// Sends a command to every master, on one line to each.
    pub(super) async fn broadcast(&self, peer: &Peer, command: &Command) -> idl::CommandReply {
        let masters: Vec<_> = self.store.snapshot().directory().masters("").map(|(_, entry)| entry.clone()).collect();
        let mut reply = idl::CommandReply { masters: 0, passed: None };
        for master in masters {
            match master.lines().find(|line| line.send(command).is_ok()) {
                Some(line) if line.is_direct() => reply.masters += 1,
                Some(_) => *reply.passed.get_or_insert(0) += 1,
                None => {}
            }
            peer.let_others_work().await;
        }
        reply
    }

    async fn call_within(&self, peer: &Peer, budget: &Arc<Budget>, request: &Request) -> Result<CallResult, Failure> {
        let values = Values::new(budget);
        let bounds = peer.account.bounds(Instant::now() + request.timeout, &values);
        let end = self.caller.call(request, bounds).await?;
        Ok(result(end, values))
    }

    /// The room for the values of one reply.
    pub(super) fn budget(&self, peer: &Peer) -> Arc<Budget> {
        Budget::new(&peer.account.memory, self.max_reply())
    }
}

/// Whether a client may make a call, given possibly as `name@version`.
fn may_call(peer: &Peer, call: &idl::Call) -> Result<(), Denied> {
    peer.identity.may_call(split_name(&call.service_name).0, &call.method)
}

fn result(completion: Completion, values: Values) -> CallResult {
    let CallCompletion { master_id, duration_us, attempts } = completion.into();
    CallResult { values: values.into_all(), master_id, duration_us, attempts }
}

impl From<InvalidRequest> for Unsendable {
    fn from(invalid: InvalidRequest) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<Denied> for Unsendable {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl From<&Unsendable> for CallError {
    fn from(unsendable: &Unsendable) -> Self {
        let (kind, message) = match unsendable {
            Unsendable::Invalid(invalid) => (CallErrorKind::INVALID, format!("{}: {}", invalid.field, invalid.message)),
            Unsendable::Denied(denied) => (CallErrorKind::DENIED, denied.to_string()),
        };
        CallError::new(kind, message, None, None, None)
    }
}

impl From<Completion> for CallCompletion {
    fn from(Completion { master, took, attempts }: Completion) -> Self {
        Self { master_id: master, duration_us: took.as_micros() as i64, attempts: attempts as i32 }
    }
}

impl From<Failure> for thrift::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoMaster { service, message } => NoMaster { service_name: service, message }.into(),
            Failure::Overloaded(message) => Overloaded { message }.into(),
            Failure::Failed { master, message, class, code } => {
                CallFailed { master_id: master, message, class_name: class, code, lost: false }.into()
            }
            Failure::Lost { master, message } => {
                CallFailed { master_id: master, message, class_name: None, code: 0, lost: true }.into()
            }
            Failure::TimedOut { master, timeout, message } => {
                CallTimedOut { master_id: Some(master), timeout_ms: timeout.as_millis() as i32, message }.into()
            }
        }
    }
}

fn outcome(result: Result<CallResult, Failure>) -> CallOutcome {
    let error = |kind, message| CallError::new(kind, message, None, None, None);
    let (master, error) = match result {
        Ok(result) => return CallOutcome::new(result.master_id.clone(), result, None),
        Err(Failure::NoMaster { message, .. }) => (None, error(CallErrorKind::NO_MASTER, message)),
        Err(Failure::Overloaded(message)) => (None, error(CallErrorKind::OVERLOADED, message)),
        Err(Failure::TimedOut { master, message, .. }) => (Some(master), error(CallErrorKind::TIMED_OUT, message)),
        Err(Failure::Failed { master, message, class, code }) => {
            (Some(master), CallError::new(CallErrorKind::FAILED, message, class, code, false))
        }
        Err(Failure::Lost { master, message }) => {
            (Some(master), CallError::new(CallErrorKind::FAILED, message, None, 0, true))
        }
    };
    CallOutcome::new(master, None, error)
}
