//! What a request may wait for, and what it then comes to.

use thrift::{ApplicationError, ApplicationErrorKind};

use super::call::Several;
use super::handler::Desk;
use super::idl::{CallOutcome, CallResult, CallValues, MastersWatchReply, WatchReply};
use super::open::Open;
use super::request::Request;
use super::watch::{Patience, Watch};
use crate::access::Identity;
use crate::model::Command;
use crate::task::Stop;

/// What a request waits for.
#[derive(Debug)]
pub(super) enum Wait {
    Watch(Watch),
    WatchMasters(Patience),
    Call(Request),
    /// On the master with this id.
    CallOn(String, Request),
    CallAll(Request),
    CallMany(Several),
    /// On the master with this id; empty: on one of those that offer the service.
    StartCall(String, Request),
    NextValues,
    /// Until it is sent to all masters.
    Broadcast(Command),
    /// The same, and to the sidecars that follow this one.
    Order(Command),
}

/// The answer to one that waited.
#[derive(Debug)]
pub(super) enum Awaited {
    Watch(thrift::Result<WatchReply>),
    WatchMasters(thrift::Result<MastersWatchReply>),
    Call(thrift::Result<CallResult>),
    Calls(thrift::Result<Vec<CallOutcome>>),
    Values(thrift::Result<CallValues>),
    /// To how many it was sent.
    Sent(i32),
}

impl Wait {
    /// Whether it goes on also when its client has left: what was sent to some masters is sent to all.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self, Wait::Broadcast(_) | Wait::Order(_))
    }

    /// The answer where too many watches wait already; None: it is no watch.
    pub(super) fn overloaded(&self) -> Option<Awaited> {
        let message = "overloaded: max_watches wait already; try again later";
        let error = || thrift::Error::Application(ApplicationError::new(ApplicationErrorKind::InternalError, message));
        match self {
            Wait::Watch(_) => Some(Awaited::Watch(Err(error()))),
            Wait::WatchMasters(_) => Some(Awaited::WatchMasters(Err(error()))),
            _ => None,
        }
    }

    /// Waits. A stop ends watches at once, while calls may go on until they are done; dropped, they are given up.
    pub(super) async fn until_answered(self, desk: &Desk, by: &Identity, open: &mut Open, stop: &Stop) -> Awaited {
        match self {
            Wait::Watch(watch) => Awaited::Watch(open.beside(desk.changes(&watch, by, stop)).await),
            Wait::WatchMasters(patience) => {
                Awaited::WatchMasters(open.beside(desk.master_changes(patience, by, stop)).await)
            }
            Wait::Call(request) => Awaited::Call(open.beside(desk.call(&request)).await),
            Wait::CallOn(master, request) => Awaited::Call(open.beside(desk.call_on(&master, &request)).await),
            Wait::CallAll(request) => Awaited::Calls(open.beside(desk.call_all(&request)).await),
            Wait::CallMany(several) => Awaited::Calls(Ok(open.beside(desk.call_many(&several)).await)),
            Wait::StartCall(master, request) => Awaited::Values(match open.start(desk, master, request) {
                Ok(()) => open.next().await,
                Err(refused) => Err(refused),
            }),
            Wait::NextValues => Awaited::Values(open.next().await),
            Wait::Broadcast(command) => Awaited::Sent(open.beside(desk.broadcast(&command)).await),
            Wait::Order(command) => Awaited::Sent(open.beside(desk.order(&command)).await),
        }
    }
}
