//! The services: one request on its way through the generated code, to the desk and back.

use std::cell::RefCell;

use futures::FutureExt;
use thrift::protocol::{TInputProtocol, TMessageIdentifier, TOutputProtocol, TStoredInputProtocol};
use thrift::server::TProcessor;
use thrift::{ApplicationError, ApplicationErrorKind};

use super::Peer;
use super::codec::write_exception;
use super::handler::{Desk, denied};
use super::idl::{
    self, BroadcastRequest, Call, CallResult, CallValues, CallsReply, CallsRequest, ChildrenRequest, CommandReply,
    GetManyRequest, GetRequest, MasterRequest, MastersWatchReply, MessagesReply, NextValuesRequest, RegistersRequest,
    RosterSyncHandler, RosterSyncProcessor, SendValuesRequest, SentValuesReply, ServiceQuery, StatsRequest,
    StatusRequest, SubtreeRequest, WatchMastersRequest, WatchMessagesRequest, WatchReply, WatchRequest,
};
use super::request;
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
    fn waits<Reply>(&self, wait: impl FnOnce() -> thrift::Result<Wait>) -> thrift::Result<Reply> {
        let wait = self.desk.counted(wait())?;
        self.turn.replace(Turn::Waits(Box::new(wait)));
        Err("the reply of the first pass, which nobody sees".into())
    }

    /// What changes other processes is for administrators.
    fn commands(&self, wait: impl FnOnce() -> thrift::Result<Wait>) -> thrift::Result<CommandReply> {
        match self.awaited() {
            Some(Awaited::Sent(sent)) => self.desk.counted(sent),
            _ => self.waits(|| self.peer.identity.may_command().map_err(denied).and_then(|()| wait())),
        }
    }
}

impl RosterSyncHandler for &Pass<'_> {
    fn handle_get(&self, request: GetRequest) -> thrift::Result<idl::NodeReply> {
        self.desk.counted(self.desk.get(self.peer, &request))
    }

    fn handle_get_many(&self, request: GetManyRequest) -> thrift::Result<idl::NodesReply> {
        self.desk.counted(self.desk.get_many(self.peer, &request))
    }

    fn handle_children(&self, request: ChildrenRequest) -> thrift::Result<idl::ChildrenReply> {
        if let Some(Awaited::Children(reply)) = self.awaited() {
            return self.desk.counted(reply);
        }
        let asked = self.desk.counted(self.desk.children_of(self.peer, request))?;
        match self.desk.counted(self.desk.children(self.peer, &asked))? {
            Some(reply) => Ok(reply),
            None => self.waits(|| Ok(Wait::Children(asked))),
        }
    }

    fn handle_subtree(&self, request: SubtreeRequest) -> thrift::Result<idl::SubtreeReply> {
        if let Some(Awaited::Subtree(reply)) = self.awaited() {
            return self.desk.counted(reply);
        }
        let subtree = self.desk.subtree_of(self.peer, &request);
        if self.peer.identity.grant().searches() {
            return self.waits(|| subtree.map(Wait::Subtree));
        }
        self.desk.counted(subtree.and_then(|subtree| self.desk.subtree(&subtree)))
    }

    fn handle_status(&self, _: StatusRequest) -> thrift::Result<idl::StatusReply> {
        self.desk.counted(self.desk.status(self.peer))
    }

    fn handle_masters(&self, query: ServiceQuery) -> thrift::Result<idl::MastersReply> {
        if let Some(Awaited::Masters(reply)) = self.awaited() {
            return self.desk.counted(reply);
        }
        // What takes more than one turn is begun anew, by turns.
        match self.desk.masters(self.peer, &query).now_or_never() {
            Some(reply) => self.desk.counted(reply),
            None => self.waits(|| Ok(Wait::Masters(query))),
        }
    }

    fn handle_master(&self, request: MasterRequest) -> thrift::Result<idl::MasterReply> {
        self.desk.counted(self.desk.master(self.peer, &request))
    }

    fn handle_services(&self, query: ServiceQuery) -> thrift::Result<idl::ServicesReply> {
        if let Some(Awaited::Services(reply)) = self.awaited() {
            return self.desk.counted(reply);
        }
        match self.desk.services(self.peer, &query).now_or_never() {
            Some(reply) => self.desk.counted(reply),
            None => self.waits(|| Ok(Wait::Services(query))),
        }
    }

    fn handle_instances(&self, query: ServiceQuery) -> thrift::Result<idl::InstancesReply> {
        self.desk.counted(self.desk.instances(self.peer, &query))
    }

    fn handle_watch(&self, request: WatchRequest) -> thrift::Result<WatchReply> {
        match self.awaited() {
            Some(Awaited::Watch(reply)) => self.desk.counted(reply),
            _ => self.waits(|| self.desk.watch(self.peer, &request).map(Wait::Watch)),
        }
    }

    fn handle_watch_masters(&self, request: WatchMastersRequest) -> thrift::Result<MastersWatchReply> {
        match self.awaited() {
            Some(Awaited::WatchMasters(reply)) => self.desk.counted(reply),
            _ => self.waits(|| self.desk.watch_masters(self.peer, &request).map(Wait::WatchMasters)),
        }
    }

    fn handle_watch_messages(&self, request: WatchMessagesRequest) -> thrift::Result<MessagesReply> {
        match self.awaited() {
            Some(Awaited::WatchMessages(reply)) => self.desk.counted(reply),
            _ => self.waits(|| self.desk.watch_messages(self.peer, &request).map(Wait::WatchMessages)),
        }
    }

    fn handle_call(&self, request: Call) -> thrift::Result<CallResult> {
        match self.awaited() {
            Some(Awaited::Call(reply)) => self.desk.counted(reply),
            _ => self.waits(|| self.desk.request(self.peer, request).map(Wait::Call)),
        }
    }

    fn handle_call_all(&self, request: Call) -> thrift::Result<CallsReply> {
        match self.awaited() {
            Some(Awaited::Calls(reply)) => self.desk.counted(reply),
            _ => self.waits(|| self.desk.request_for_all(self.peer, request).map(Wait::CallAll)),
        }
    }

    fn handle_call_many(&self, request: CallsRequest) -> thrift::Result<CallsReply> {
        match self.awaited() {
            Some(Awaited::Calls(reply)) => self.desk.counted(reply),
            _ => self.waits(|| Ok(Wait::CallMany(request.calls))),
        }
    }

    fn handle_call_in_order(&self, request: CallsRequest) -> thrift::Result<CallsReply> {
        match self.awaited() {
            Some(Awaited::Calls(reply)) => self.desk.counted(reply),
            _ => self.waits(|| Ok(Wait::CallInOrder(request.calls))),
        }
    }

    fn handle_start_call(&self, request: Call) -> thrift::Result<CallValues> {
        match self.awaited() {
            Some(Awaited::Values(reply)) => self.desk.counted(reply),
            _ => self.waits(|| self.desk.request(self.peer, request).map(Wait::StartCall)),
        }
    }

    fn handle_next_values(&self, _: NextValuesRequest) -> thrift::Result<CallValues> {
        match self.awaited() {
            Some(Awaited::Values(reply)) => self.desk.counted(reply),
            _ => self.waits(|| Ok(Wait::NextValues)),
        }
    }

    fn handle_open_call(&self, request: Call) -> thrift::Result<CallValues> {
        match self.awaited() {
            Some(Awaited::Opened(reply)) => self.desk.counted(reply),
            _ => self.waits(|| self.desk.request(self.peer, request).map(Wait::OpenCall)),
        }
    }

    fn handle_send_values(&self, request: SendValuesRequest) -> thrift::Result<SentValuesReply> {
        match self.awaited() {
            Some(Awaited::SentValues(reply)) => self.desk.counted(reply),
            _ => self.waits(|| Ok(Wait::SendValues(request))),
        }
    }

    fn handle_broadcast(&self, request: BroadcastRequest) -> thrift::Result<CommandReply> {
        self.commands(|| Ok(Wait::Broadcast(request::command(&request)?)))
    }

    fn handle_add_registers(&self, request: RegistersRequest) -> thrift::Result<CommandReply> {
        self.commands(|| Ok(Wait::Order(request::registers("register", &request.registers)?)))
    }

    fn handle_remove_registers(&self, request: RegistersRequest) -> thrift::Result<CommandReply> {
        self.commands(|| Ok(Wait::Order(request::registers("remove", &request.registers)?)))
    }

    fn handle_stats(&self, _: StatsRequest) -> thrift::Result<idl::StatsReply> {
        self.desk.counted(self.desk.stats(self.peer))
    }
}

impl ZkDataServiceSyncHandler for &Pass<'_> {
    fn handle_zk_data(&self) -> thrift::Result<Vec<u8>> {
        self.desk.counted(self.desk.zk_data(self.peer))
    }
}
