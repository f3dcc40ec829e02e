//! The services: one request on its way through the generated code, to the desk and back.

use std::cell::RefCell;

use futures::FutureExt;
use thrift::protocol::{TInputProtocol, TMessageIdentifier, TOutputProtocol, TStoredInputProtocol};
use thrift::server::TProcessor;
use thrift::{ApplicationError, ApplicationErrorKind};

use super::Peer;
use super::codec::write_exception;
use super::handler::{Children, Desk, denied};
use super::idl::{
    self, CallOptions, ChildrenQuery, Encoding, Filter, ReadOptions, RosterSyncHandler, RosterSyncProcessor,
};
use super::request::{self, Request};
use super::wait::{Awaited, Wait};
use super::zk_data::{ZkDataServiceSyncHandler, ZkDataServiceSyncProcessor};

/// Who answers a request, and whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) desk: &'a Desk,
    pub(super) peer: &'a Peer,
}

/// One pass of a request through the generated code.
pub(super) struct Pass<'a> {
    desk: &'a Desk,
    peer: &'a Peer,
    turn: RefCell<Turn>,
}

enum Turn {
    First,
    /// The first pass found these arguments, and wrote what is thrown away.
    Waits(Box<Wait>),
    Second(Awaited),
}

impl<'a> Pass<'a> {
    /// The first pass; or the second one, with what was awaited.
    pub(super) fn new(Asked { desk, peer }: Asked<'a>, awaited: Option<Awaited>) -> Self {
        Self { desk, peer, turn: RefCell::new(awaited.map_or(Turn::First, Turn::Second)) }
    }

    /// To the service that the request's name says: `service:method`, or a method alone.
    pub(super) fn process(
        &self,
        input: &mut dyn TInputProtocol,
        output: &mut dyn TOutputProtocol,
    ) -> thrift::Result<TMessageIdentifier> {
        let mut request = input.read_message_begin()?;
        let service = match request.name.split_once(':') {
            Some((service, method)) => {
                let service = service.to_owned();
                request.name = method.to_owned();
                service
            }
            None => if request.name == "zkData" { "zkDataService" } else { "Roster" }.to_owned(),
        };
        let mut input = TStoredInputProtocol::new(input, request.clone());
        match service.as_str() {
            "zkDataService" => ZkDataServiceSyncProcessor::new(self).process(&mut input, output)?,
            "Roster" => RosterSyncProcessor::new(self).process(&mut input, output)?,
            other => {
                let message = format!("unknown service {other}");
                let error = ApplicationError::new(ApplicationErrorKind::UnknownMethod, message);
                self.desk.count_exception();
                write_exception(&request, &error, output)?;
            }
        }
        Ok(request)
    }

    /// What the request waits for, if it does.
    pub(super) fn into_wait(self) -> Option<Box<Wait>> {
        match self.turn.into_inner() {
            Turn::Waits(wait) => Some(wait),
            Turn::First | Turn::Second(_) => None,
        }
    }

    /// The answer that was waited for; none in the first pass.
    fn awaited(&self) -> Option<Awaited> {
        match self.turn.replace(Turn::First) {
            Turn::Second(awaited) => Some(awaited),
            Turn::First | Turn::Waits(_) => None,
        }
    }

    /// Ends the first pass, with what the request waits for.
    fn waits<Reply>(&self, wait: thrift::Result<Wait>) -> thrift::Result<Reply> {
        let wait = self.desk.counted(wait)?;
        self.turn.replace(Turn::Waits(Box::new(wait)));
        Err("the reply of the first pass, which nobody sees".into())
    }

    fn children(&self, asked: impl FnOnce() -> thrift::Result<Children>) -> thrift::Result<idl::ChildrenReply> {
        if let Some(Awaited::Children(reply)) = self.awaited() {
            return self.desk.counted(reply);
        }
        let asked = self.desk.counted(asked())?;
        match self.desk.counted(self.desk.children(self.peer, &asked))? {
            Some(reply) => Ok(reply),
            None => self.waits(Ok(Wait::Children(asked))),
        }
    }

    fn called(&self, wait: impl FnOnce() -> thrift::Result<Wait>) -> thrift::Result<idl::CallResult> {
        match self.awaited() {
            Some(Awaited::Call(result)) => self.desk.counted(result),
            _ => self.waits(wait()),
        }
    }

    fn called_several(&self, wait: impl FnOnce() -> thrift::Result<Wait>) -> thrift::Result<Vec<idl::CallOutcome>> {
        match self.awaited() {
            Some(Awaited::Calls(outcomes)) => self.desk.counted(outcomes),
            _ => self.waits(wait()),
        }
    }

    fn fetched(&self, wait: impl FnOnce() -> thrift::Result<Wait>) -> thrift::Result<idl::CallValues> {
        match self.awaited() {
            Some(Awaited::Values(values)) => self.desk.counted(values),
            _ => self.waits(wait()),
        }
    }

    /// What changes other processes is for administrators.
    fn commands(&self, wait: impl FnOnce() -> thrift::Result<Wait>) -> thrift::Result<i32> {
        match self.awaited() {
            Some(Awaited::Sent(sent)) => self.desk.counted(sent),
            _ => self.waits(self.peer.identity.may_command().map_err(denied).and_then(|()| wait())),
        }
    }
}

impl RosterSyncHandler for &Pass<'_> {
    fn handle_get(&self, path: String, options: ReadOptions) -> thrift::Result<idl::NodeReply> {
        self.desk.counted(self.desk.get(self.peer, &path, &options))
    }

    fn handle_get_many(&self, paths: Vec<String>, options: ReadOptions) -> thrift::Result<idl::NodesReply> {
        self.desk.counted(self.desk.get_many(self.peer, &paths, &options))
    }

    fn handle_children(&self, path: String, options: ReadOptions) -> thrift::Result<idl::ChildrenReply> {
        self.children(|| self.desk.children_of(self.peer, &path, options))
    }

    fn handle_children_page(&self, query: ChildrenQuery) -> thrift::Result<idl::ChildrenReply> {
        self.children(|| self.desk.children_page_of(self.peer, query))
    }

    fn handle_subtree(
        &self,
        path: String,
        limit: i32,
        cursor: String,
        options: ReadOptions,
    ) -> thrift::Result<idl::SubtreeReply> {
        if let Some(Awaited::Subtree(reply)) = self.awaited() {
            return self.desk.counted(reply);
        }
        let subtree = self.desk.subtree_of(self.peer, &path, limit, &cursor, options);
        if self.peer.identity.grant().searches() {
            return self.waits(subtree.map(Wait::Subtree));
        }
        self.desk.counted(subtree.and_then(|subtree| self.desk.subtree(&subtree)))
    }

    fn handle_watch(
        &self,
        since: i64,
        paths: Vec<String>,
        timeout_ms: i32,
        limit: i32,
    ) -> thrift::Result<idl::WatchReply> {
        match self.awaited() {
            Some(Awaited::Watch(reply)) => self.desk.counted(reply),
            _ => self.waits(self.desk.watch(self.peer, since, &paths, timeout_ms, limit).map(Wait::Watch)),
        }
    }

    fn handle_status(&self) -> thrift::Result<idl::StatusReply> {
        self.desk.counted(self.desk.status(self.peer))
    }

    fn handle_masters(&self, filter: Filter) -> thrift::Result<idl::MastersReply> {
        if let Some(Awaited::Masters(reply)) = self.awaited() {
            return self.desk.counted(reply);
        }
        // What takes more than one turn is begun anew, by turns.
        match self.desk.masters(self.peer, &filter).now_or_never() {
            Some(reply) => self.desk.counted(reply),
            None => self.waits(Ok(Wait::Masters(filter))),
        }
    }

    fn handle_master(&self, id: String) -> thrift::Result<idl::MasterReply> {
        self.desk.counted(self.desk.master(self.peer, &id))
    }

    fn handle_services(&self, filter: Filter) -> thrift::Result<idl::ServicesReply> {
        if let Some(Awaited::Services(reply)) = self.awaited() {
            return self.desk.counted(reply);
        }
        match self.desk.services(self.peer, &filter).now_or_never() {
            Some(reply) => self.desk.counted(reply),
            None => self.waits(Ok(Wait::Services(filter))),
        }
    }

    fn handle_instances(&self, service: String) -> thrift::Result<idl::InstancesReply> {
        let filter = Filter { service_name: Some(service), metadata: None, limit: None, cursor: None };
        self.desk.counted(self.desk.instances(self.peer, &filter))
    }

    fn handle_instances_page(&self, filter: Filter) -> thrift::Result<idl::InstancesReply> {
        self.desk.counted(self.desk.instances(self.peer, &filter))
    }

    fn handle_watch_masters(&self, since: i64, timeout_ms: i32, limit: i32) -> thrift::Result<idl::MastersWatchReply> {
        match self.awaited() {
            Some(Awaited::WatchMasters(reply)) => self.desk.counted(reply),
            _ => self.waits(self.desk.watch_masters(self.peer, since, timeout_ms, limit).map(Wait::WatchMasters)),
        }
    }

    fn handle_watch_messages(
        &self,
        since: i64,
        timeout_ms: i32,
        limit: i32,
        encoding: Encoding,
    ) -> thrift::Result<idl::MessagesReply> {
        match self.awaited() {
            Some(Awaited::WatchMessages(reply)) => self.desk.counted(reply),
            _ => {
                let watch = self.desk.watch_messages(self.peer, since, timeout_ms, limit, encoding);
                self.waits(watch.map(Wait::WatchMessages))
            }
        }
    }

    fn handle_call(
        &self,
        service: String,
        method: String,
        arguments: Vec<u8>,
        options: CallOptions,
    ) -> thrift::Result<idl::CallResult> {
        let call = idl::Call::new(service, method, arguments, options);
        self.called(|| self.desk.request(self.peer, call).map(Wait::Call))
    }

    fn handle_call_where(&self, call: idl::Call, filter: Filter) -> thrift::Result<idl::CallResult> {
        self.called(|| self.desk.request_where(self.peer, call, filter).map(Wait::Call))
    }

    fn handle_call_on(
        &self,
        master: String,
        service: String,
        method: String,
        arguments: Vec<u8>,
        options: CallOptions,
    ) -> thrift::Result<idl::CallResult> {
        let call = idl::Call::new(service, method, arguments, options);
        self.called(|| Ok(Wait::CallOn(master, self.desk.request(self.peer, call)?)))
    }

    fn handle_call_all(
        &self,
        service: String,
        method: String,
        arguments: Vec<u8>,
        options: CallOptions,
    ) -> thrift::Result<Vec<idl::CallOutcome>> {
        let call = idl::Call::new(service, method, arguments, options);
        self.called_several(|| self.desk.request(self.peer, call).map(Wait::CallAll))
    }

    fn handle_call_many(&self, calls: Vec<idl::Call>) -> thrift::Result<Vec<idl::CallOutcome>> {
        self.called_several(|| Ok(Wait::CallMany(calls)))
    }

    fn handle_call_in_order(&self, calls: Vec<idl::Call>, master: String) -> thrift::Result<Vec<idl::CallOutcome>> {
        self.called_several(|| Ok(Wait::CallInOrder(master, calls)))
    }

    fn handle_start_call(&self, call: idl::Call, master: String) -> thrift::Result<idl::CallValues> {
        self.fetched(|| {
            Ok(Wait::StartCall(master, Request { all_values: true, ..self.desk.request(self.peer, call)? }))
        })
    }

    fn handle_next_values(&self) -> thrift::Result<idl::CallValues> {
        self.fetched(|| Ok(Wait::NextValues))
    }

    fn handle_open_call(&self, call: idl::Call, master: String) -> thrift::Result<()> {
        match self.awaited() {
            Some(Awaited::Opened(opened)) => self.desk.counted(opened),
            _ => self.waits(self.desk.request(self.peer, call).map(|request| Wait::OpenCall(master, request))),
        }
    }

    fn handle_send_values(&self, values: Vec<Vec<u8>>, is_last: bool) -> thrift::Result<idl::SentValues> {
        match self.awaited() {
            Some(Awaited::SentValues(sent)) => self.desk.counted(sent),
            _ => self.waits(Ok(Wait::SendValues(values, is_last))),
        }
    }

    fn handle_broadcast(&self, message: Vec<u8>, encoding: Encoding) -> thrift::Result<i32> {
        self.commands(|| Ok(Wait::Broadcast(request::command(&message, encoding)?)))
    }

    fn handle_add_registers(&self, registers: Vec<idl::RegisterAddress>) -> thrift::Result<i32> {
        self.commands(|| Ok(Wait::Order(request::registers("register", &registers)?)))
    }

    fn handle_remove_registers(&self, registers: Vec<idl::RegisterAddress>) -> thrift::Result<i32> {
        self.commands(|| Ok(Wait::Order(request::registers("remove", &registers)?)))
    }

    fn handle_stats(&self) -> thrift::Result<idl::StatsReply> {
        self.desk.counted(self.desk.stats(self.peer))
    }
}

impl ZkDataServiceSyncHandler for &Pass<'_> {
    fn handle_zk_data(&self) -> thrift::Result<Vec<u8>> {
        self.desk.counted(self.desk.zk_data(self.peer))
    }
}
