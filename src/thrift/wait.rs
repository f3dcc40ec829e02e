//! What a request may wait for, and the result.

use std::collections::BTreeMap;

use thrift::{ApplicationError, ApplicationErrorKind};

use super::api::{Api, Children, NAME_OVERHEAD, Subtree, overloaded};
use super::dispatch::ReplyTo;
use super::idl::{
    Call, CallResult, CallValues, CallsReply, ChildrenReply, CommandReply, DrainReply, ExplainReply, ExplainRequest,
    GuardControl, GuardControlReply, HistoryQuery, HistoryReply, InstancesReply, MastersReply, MastersWatchReply,
    MessagesReply, Overloaded, ResolveManyReply, ResolveManyRequest, ResolveReply, ResolveRequest, SendValuesRequest,
    SentValuesReply, Service, ServiceQuery, ServicesReply, SubtreeReply, WatchReply, Worker, WorkerAnswer,
    WorkerCommandReply, WorkerControlReply, WorkersQuery, WorkersReply, WorkersWatchReply,
};
use super::messages::MessageWatch;
use super::queue::{QueueReply, QueueRequest};
use super::streaming_call::StreamingCall;
use super::watch::{Patience, Watch};
use super::withholding::Draining;
use super::worker_commands::WorkersCommand;
use super::workers::Control;
use super::workers_added::{Addition, Removal};
use super::{Peer, convert, explain, request};
use crate::call::{OVERLOADED, Request, Unreadable, size};
use crate::model::Command;
use crate::queue::NewJob;
use crate::task::Stop;
use crate::tunnel::value::memory_size;

/// What a change or a service takes in a reply, besides its texts and bytes.
const CHANGE_OVERHEAD: usize = 256;

/// What a request waits for.
#[derive(Debug)]
pub(super) enum Wait {
    /// Collecting very many children of a node.
    Children(Children),
    /// Finding its readable parts.
    Subtree(Subtree),
    /// Finding those that the client may see.
    Masters(ServiceQuery),
    /// Comparing the metadata of all masters.
    Services(ServiceQuery),
    /// Comparing the metadata of very many.
    Instances(ServiceQuery),
    /// Searching very many instances.
    Resolve(ResolveRequest),
    /// Resolving each.
    ResolveMany(ResolveManyRequest),
    /// Finding entries that the client may see.
    History(HistoryQuery),
    /// Looking at all instances and nodes.
    Explain(ExplainRequest),
    Watch(Watch),
    WatchMasters(Patience),
    WatchMessages(MessageWatch),
    Call(Request),
    CallAll(Request),
    CallMany(Vec<Call>),
    CallInOrder(Vec<Call>),
    StartCall(Request),
    NextValues,
    /// Like `StartCall`, for a method with streamed input.
    OpenCall(Request),
    SendValues(SendValuesRequest),
    /// Sending it to all masters.
    Broadcast(Command),
    /// The same, and to the sidecars that follow this one.
    Order(Command),
    /// Its completion.
    ControlWorkers(Control),
    AddWorker(Addition),
    RemoveWorker(Removal),
    /// The answer or the timeout of each.
    CommandWorkers(WorkersCommand),
    /// Reading the resource usage of their processes.
    WorkersWithUsage(WorkersQuery),
    WatchWorkers(Patience),
    /// Applying it, and recording it for a limited time.
    Drain(Draining),
    /// Applying it.
    ControlGuard(GuardControl),
    /// Until they are enqueued.
    Enqueue(Vec<NewJob>),
    /// Until the queues have carried it out.
    Queue(QueueRequest),
}

/// The result of a wait.
#[derive(Debug)]
pub(super) enum Awaited {
    Children(thrift::Result<ChildrenReply>),
    Subtree(thrift::Result<SubtreeReply>),
    Masters(thrift::Result<MastersReply>),
    Services(thrift::Result<ServicesReply>),
    Instances(thrift::Result<InstancesReply>),
    Resolve(thrift::Result<Box<ResolveReply>>),
    ResolveMany(thrift::Result<ResolveManyReply>),
    History(thrift::Result<HistoryReply>),
    Explain(thrift::Result<ExplainReply>),
    Watch(thrift::Result<WatchReply>),
    WatchMasters(thrift::Result<MastersWatchReply>),
    WatchMessages(thrift::Result<MessagesReply>),
    Call(thrift::Result<CallResult>),
    Calls(thrift::Result<CallsReply>),
    Values(thrift::Result<CallValues>),
    Opened(thrift::Result<CallValues>),
    SentValues(thrift::Result<SentValuesReply>),
    Sent(thrift::Result<CommandReply>),
    WorkersControlled(thrift::Result<WorkerControlReply>),
    WorkersCommanded(thrift::Result<WorkerCommandReply>),
    Workers(thrift::Result<WorkersReply>),
    WatchWorkers(thrift::Result<WorkersWatchReply>),
    Drained(thrift::Result<DrainReply>),
    GuardControlled(thrift::Result<GuardControlReply>),
    Queue(thrift::Result<QueueReply>),
}

impl Wait {
    /// Whether it continues even if its client has disconnected: what was sent to some masters is sent to all.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self, Wait::Broadcast(_) | Wait::Order(_))
    }

    /// The result if it may not wait, since its user has too much of something.
    pub(super) fn refused(&self, message: &str) -> Awaited {
        self.failed(match self {
            Wait::Call(_) | Wait::CallAll(_) | Wait::CallMany(_) | Wait::CallInOrder(_) => overload(message),
            Wait::StartCall(_) | Wait::OpenCall(_) | Wait::NextValues | Wait::SendValues(_) => overload(message),
            Wait::CommandWorkers(_) | Wait::Enqueue(_) | Wait::Queue(_) => overload(message),
            _ => thrift::Error::Application(ApplicationError::new(ApplicationErrorKind::InternalError, message)),
        })
    }

    /// The result of a failure.
    fn failed(&self, why: thrift::Error) -> Awaited {
        match self {
            Wait::Children(_) => Awaited::Children(Err(why)),
            Wait::Subtree(_) => Awaited::Subtree(Err(why)),
            Wait::Masters(_) => Awaited::Masters(Err(why)),
            Wait::Services(_) => Awaited::Services(Err(why)),
            Wait::Instances(_) => Awaited::Instances(Err(why)),
            Wait::Resolve(_) => Awaited::Resolve(Err(why)),
            Wait::ResolveMany(_) => Awaited::ResolveMany(Err(why)),
            Wait::History(_) => Awaited::History(Err(why)),
            Wait::Explain(_) => Awaited::Explain(Err(why)),
            Wait::Watch(_) => Awaited::Watch(Err(why)),
            Wait::WatchMasters(_) => Awaited::WatchMasters(Err(why)),
            Wait::WatchMessages(_) => Awaited::WatchMessages(Err(why)),
            Wait::Call(_) => Awaited::Call(Err(why)),
            Wait::CallAll(_) | Wait::CallMany(_) | Wait::CallInOrder(_) => Awaited::Calls(Err(why)),
            Wait::StartCall(_) | Wait::NextValues => Awaited::Values(Err(why)),
            Wait::OpenCall(_) => Awaited::Opened(Err(why)),
            Wait::SendValues(_) => Awaited::SentValues(Err(why)),
            Wait::Broadcast(_) | Wait::Order(_) => Awaited::Sent(Err(why)),
            Wait::ControlWorkers(_) | Wait::AddWorker(_) | Wait::RemoveWorker(_) => {
                Awaited::WorkersControlled(Err(why))
            }
            Wait::CommandWorkers(_) => Awaited::WorkersCommanded(Err(why)),
            Wait::WorkersWithUsage(_) => Awaited::Workers(Err(why)),
            Wait::WatchWorkers(_) => Awaited::WatchWorkers(Err(why)),
            Wait::Drain(_) => Awaited::Drained(Err(why)),
            Wait::ControlGuard(_) => Awaited::GuardControlled(Err(why)),
            Wait::Enqueue(_) | Wait::Queue(_) => Awaited::Queue(Err(why)),
        }
    }

    /// The call, if it is one.
    fn request(&mut self) -> Option<&mut Request> {
        match self {
            Wait::Call(request) | Wait::CallAll(request) | Wait::StartCall(request) | Wait::OpenCall(request) => {
                Some(request)
            }
            _ => None,
        }
    }

    /// How many paths it watches; None: it is not a watch.
    pub(super) fn watches(&self) -> Option<usize> {
        match self {
            Wait::Watch(watch) => Some(watch.paths().len()),
            Wait::WatchMasters(_) | Wait::WatchMessages(_) | Wait::WatchWorkers(_) => Some(0),
            Wait::Queue(request) if request.is_patient() => Some(0),
            _ => None,
        }
    }

    /// About how much memory it takes while it waits.
    pub(super) fn memory_size(&self) -> usize {
        match self {
            Wait::Watch(watch) => watch.memory_size(),
            Wait::Call(request) | Wait::StartCall(request) | Wait::OpenCall(request) => request.memory_size(),
            Wait::SendValues(sent) => sent.values.as_ref().map_or(0, |values| size(values)),
            // They are written for one master after the other.
            Wait::CallAll(request) => request.memory_size(),
            // What the arguments turn into is charged as it is created.
            Wait::CallMany(calls) | Wait::CallInOrder(calls) => {
                calls.iter().map(|call| size_of::<Call>() + call.arguments.as_ref().map_or(0, Vec::len)).sum()
            }
            Wait::Broadcast(command) | Wait::Order(command) => memory_size(command.message()),
            Wait::WatchMasters(_) | Wait::WatchMessages(_) | Wait::NextValues => 0,
            Wait::Children(_) | Wait::Subtree(_) | Wait::Masters(_) | Wait::Services(_) => 0,
            Wait::Instances(_) => 0,
            Wait::Resolve(_) | Wait::ResolveMany(_) | Wait::History(_) | Wait::Explain(_) => 0,
            Wait::ControlWorkers(_) | Wait::AddWorker(_) | Wait::RemoveWorker(_) => 0,
            Wait::WorkersWithUsage(_) | Wait::WatchWorkers(_) => 0,
            // From an administrator, and no larger than a request may be.
            Wait::Drain(_) | Wait::ControlGuard(_) => 0,
            Wait::CommandWorkers(command) => command.memory_size(),
            Wait::Enqueue(jobs) => jobs.iter().map(NewJob::memory_size).sum(),
            Wait::Queue(request) => request.memory_size(),
        }
    }

    /// Waits. A stop ends watches at once, while calls may go on until they are done; dropping aborts them.
    pub(super) async fn until_answered(
        mut self: Box<Self>,
        api: &Api,
        peer: &Peer,
        open: &mut StreamingCall,
        stop: &Stop,
    ) -> Awaited {
        if let Some(request) = self.request() {
            match open.beside(read(request, api, peer)).await {
                Ok(true) => {}
                Ok(false) => return self.refused(OVERLOADED),
                Err(why) => return self.failed(why),
            }
        }
        match *self {
            Wait::Children(asked) => Awaited::Children(open.beside(api.many_children(peer, &asked)).await),
            Wait::Subtree(subtree) => Awaited::Subtree(open.beside(api.searched_subtree(peer, &subtree)).await),
            Wait::Masters(filter) => Awaited::Masters(open.beside(api.masters(peer, &filter)).await),
            Wait::Services(filter) => Awaited::Services(open.beside(api.services(peer, &filter)).await),
            Wait::Instances(filter) => Awaited::Instances(open.beside(api.instances(peer, &filter)).await),
            Wait::Resolve(request) => Awaited::Resolve(open.beside(api.resolve(peer, request)).await.map(Box::new)),
            Wait::ResolveMany(request) => Awaited::ResolveMany(open.beside(api.resolve_many(peer, &request)).await),
            Wait::History(query) => Awaited::History(open.beside(api.history(peer, &query)).await),
            Wait::Explain(request) => Awaited::Explain(open.beside(api.explain(peer, &request)).await),
            Wait::Watch(watch) => Awaited::Watch(open.beside(api.changes(peer, &watch, stop)).await),
            Wait::WatchMasters(patience) => {
                Awaited::WatchMasters(open.beside(api.master_changes(peer, patience, stop)).await)
            }
            Wait::WatchMessages(watch) => Awaited::WatchMessages(open.beside(api.messages(peer, &watch, stop)).await),
            Wait::Call(request) => Awaited::Call(open.beside(api.call(peer, &request)).await),
            Wait::CallAll(request) => Awaited::Calls(open.beside(api.call_all(peer, &request)).await),
            Wait::CallMany(calls) => Awaited::Calls(open.beside(api.call_many(peer, calls)).await),
            Wait::CallInOrder(calls) => Awaited::Calls(open.beside(api.call_in_order(peer, calls)).await),
            Wait::StartCall(request) => Awaited::Values(match open.start(api, peer, request) {
                Ok(()) => open.next().await,
                Err(refused) => Err(refused),
            }),
            Wait::NextValues => Awaited::Values(open.next().await),
            Wait::OpenCall(request) => Awaited::Opened(open.start_with_input(api, peer, request)),
            Wait::SendValues(request) => Awaited::SentValues(open.send(peer, request).await),
            Wait::Broadcast(command) => Awaited::Sent(Ok(open.beside(api.broadcast(peer, &command)).await)),
            Wait::Order(command) => Awaited::Sent(Ok(open.beside(api.order(peer, &command)).await)),
            Wait::ControlWorkers(control) => {
                Awaited::WorkersControlled(open.beside(api.controlled(control, stop)).await)
            }
            Wait::AddWorker(addition) => Awaited::WorkersControlled(open.beside(api.added(addition, stop)).await),
            Wait::RemoveWorker(removal) => Awaited::WorkersControlled(open.beside(api.removed(removal, stop)).await),
            Wait::CommandWorkers(command) => Awaited::WorkersCommanded(open.beside(api.commanded(peer, command)).await),
            Wait::WorkersWithUsage(query) => Awaited::Workers(open.beside(api.workers_with_usage(peer, &query)).await),
            Wait::WatchWorkers(patience) => {
                Awaited::WatchWorkers(open.beside(api.worker_changes(peer, patience, stop)).await)
            }
            Wait::Drain(draining) => Awaited::Drained(open.beside(api.drained(peer, draining)).await),
            Wait::ControlGuard(request) => {
                Awaited::GuardControlled(open.beside(api.guard_controlled(peer, request)).await)
            }
            Wait::Enqueue(jobs) => Awaited::Queue(open.beside(api.enqueued(peer, jobs)).await),
            Wait::Queue(request) => Awaited::Queue(open.beside(api.of_queues(peer, request, stop)).await),
        }
    }
}

/// Reads what was not read yet of a call. False: there is too little memory for it.
async fn read(request: &mut Request, api: &Api, peer: &Peer) -> thrift::Result<bool> {
    match request.read(&peer.account.memory).await {
        Ok(()) => Ok(true),
        Err(Unreadable::NoMemory) => {
            api.metrics.overloaded.increment();
            Ok(false)
        }
        Err(Unreadable::Wrong(why)) => Err(request::unread(why).into()),
    }
}

impl Awaited {
    /// Writes it as the reply.
    pub(super) fn write(self, mut reply: ReplyTo<'_>) -> thrift::Result<()> {
        match self {
            Awaited::Children(children) => reply.write(children),
            Awaited::Subtree(subtree) => reply.write(subtree),
            Awaited::Masters(masters) => reply.write(masters),
            Awaited::Services(services) => reply.write(services),
            Awaited::Instances(instances) => reply.write(instances),
            Awaited::Resolve(found) => reply.write(found.map(|found| *found)),
            Awaited::ResolveMany(outcomes) => reply.write(outcomes),
            Awaited::History(entries) => reply.write(entries),
            Awaited::Explain(explained) => reply.write(explained),
            Awaited::Watch(changes) => reply.write(changes),
            Awaited::WatchMasters(changes) => reply.write(changes),
            Awaited::WatchMessages(messages) => reply.write(messages),
            Awaited::Call(result) => reply.write(result),
            Awaited::Calls(outcomes) => reply.write(outcomes),
            Awaited::Values(values) | Awaited::Opened(values) => reply.write(values),
            Awaited::SentValues(sent) => reply.write(sent),
            Awaited::Sent(sent) => reply.write(sent),
            Awaited::WorkersControlled(outcomes) => reply.write(outcomes),
            Awaited::WorkersCommanded(answers) => reply.write(answers),
            Awaited::Workers(workers) => reply.write(workers),
            Awaited::WatchWorkers(changes) => reply.write(changes),
            Awaited::Drained(drained) => reply.write(drained),
            Awaited::GuardControlled(controlled) => reply.write(controlled),
            Awaited::Queue(Ok(of_queues)) => of_queues.write(reply),
            Awaited::Queue(Err(why)) => reply.write::<CommandReply>(Err(why)),
        }
    }

    /// The same if its user has no room for it. Values were charged as they arrived, so there is room for them.
    pub(super) fn without_room(self) -> Self {
        match self {
            Awaited::Children(_) => Awaited::Children(Err(overloaded())),
            Awaited::Subtree(_) => Awaited::Subtree(Err(overloaded())),
            Awaited::Masters(_) => Awaited::Masters(Err(overloaded())),
            Awaited::Services(_) => Awaited::Services(Err(overloaded())),
            Awaited::Instances(_) => Awaited::Instances(Err(overloaded())),
            Awaited::Resolve(_) => Awaited::Resolve(Err(overloaded())),
            Awaited::ResolveMany(_) => Awaited::ResolveMany(Err(overloaded())),
            Awaited::History(_) => Awaited::History(Err(overloaded())),
            Awaited::Explain(_) => Awaited::Explain(Err(overloaded())),
            Awaited::Watch(_) => Awaited::Watch(Err(overloaded())),
            Awaited::WatchMasters(_) => Awaited::WatchMasters(Err(overloaded())),
            Awaited::WatchMessages(_) => Awaited::WatchMessages(Err(overloaded())),
            Awaited::Call(_) | Awaited::Calls(_) | Awaited::Values(_) | Awaited::Sent(_) => self,
            Awaited::WorkersCommanded(_) => self,
            Awaited::Opened(_) | Awaited::SentValues(_) | Awaited::Drained(_) | Awaited::GuardControlled(_) => self,
            // What was done would not be known; each is no larger than a page.
            Awaited::Queue(_) => self,
            Awaited::WorkersControlled(_) => Awaited::WorkersControlled(Err(overloaded())),
            Awaited::Workers(_) => Awaited::Workers(Err(overloaded())),
            Awaited::WatchWorkers(_) => Awaited::WatchWorkers(Err(overloaded())),
        }
    }

    /// About how much memory it takes until it is sent.
    pub(super) fn memory_size(&self) -> usize {
        match self {
            Awaited::Children(Ok(reply)) => reply.names.iter().map(|name| name.len() + NAME_OVERHEAD).sum(),
            Awaited::Subtree(Ok(reply)) => {
                reply.nodes.iter().map(|node| node.path.len() + node.data.len() + CHANGE_OVERHEAD).sum()
            }
            Awaited::Services(Ok(reply)) => {
                let versions = |masters: &BTreeMap<String, i32>| masters.len() * CHANGE_OVERHEAD;
                reply.services.iter().map(|it| it.name.len() + CHANGE_OVERHEAD + versions(&it.masters)).sum()
            }
            Awaited::Instances(Ok(reply)) => reply.instances.iter().map(convert::instance_size).sum(),
            Awaited::Resolve(Ok(reply)) => convert::instance_size(&reply.instance),
            Awaited::ResolveMany(Ok(reply)) => {
                let instances = reply.outcomes.iter().filter_map(|outcome| outcome.instance.as_ref());
                instances.map(convert::instance_size).sum()
            }
            Awaited::History(Ok(reply)) => reply.entries.iter().map(convert::entry_size).sum(),
            Awaited::Explain(Ok(reply)) => {
                reply.instances.iter().map(explain::size).sum::<usize>()
                    + reply.undecodable.iter().map(explain::size_of_node).sum::<usize>()
            }
            Awaited::Call(Ok(result)) => size(&result.values),
            Awaited::Calls(Ok(reply)) => {
                reply.outcomes.iter().flat_map(|outcome| &outcome.result).map(|result| size(&result.values)).sum()
            }
            Awaited::Values(Ok(values)) => size(&values.values),
            Awaited::SentValues(Ok(sent)) => size(&sent.values.values),
            Awaited::Watch(Ok(reply)) => {
                let nodes = reply.changes.iter().map(|change| (change.path.len(), change.node.as_ref()));
                nodes.map(|(path, node)| path + CHANGE_OVERHEAD + node.map_or(0, |node| path + node.data.len())).sum()
            }
            Awaited::Masters(Ok(reply)) => reply.masters.iter().map(|master| size_of_services(&master.services)).sum(),
            Awaited::WatchMasters(Ok(reply)) => {
                let masters = reply.changes.iter().map(|change| change.master.as_ref());
                masters.map(|master| size_of_services(master.map_or(&[], |master| &master.services))).sum()
            }
            Awaited::WatchMessages(Ok(reply)) => {
                let sizes = reply.messages.iter().map(|it| it.master_id.len() + it.message.len() + CHANGE_OVERHEAD);
                sizes.sum()
            }
            Awaited::WorkersControlled(Ok(reply)) => {
                let sizes = reply.outcomes.iter().map(|it| it.name.len() + it.error.as_ref().map_or(0, String::len));
                sizes.map(|size| size + NAME_OVERHEAD).sum()
            }
            Awaited::WorkersCommanded(Ok(reply)) => {
                let texts = |it: &WorkerAnswer| it.worker.len() + it.error.as_ref().map_or(0, String::len);
                let sizes = reply.answers.iter().map(|it| texts(it) + it.value.as_ref().map_or(0, Vec::len));
                sizes.map(|size| size + NAME_OVERHEAD).sum()
            }
            Awaited::Workers(Ok(reply)) => size_of_workers(&reply.workers),
            Awaited::WatchWorkers(Ok(reply)) => {
                size_of_workers(&reply.changes)
                    + reply.removed.iter().map(|name| name.len() + NAME_OVERHEAD).sum::<usize>()
            }
            Awaited::Queue(Ok(reply)) => reply.memory_size(),
            // Failures, and results that are just a number.
            _ => 0,
        }
    }
}

fn overload(message: &str) -> thrift::Error {
    Overloaded { message: message.to_owned() }.into()
}

/// About how much memory workers take in a reply.
fn size_of_workers(workers: &[Worker]) -> usize {
    let texts = |it: &Worker| it.name.len() + it.group.len() + it.why.len() + it.doing.as_ref().map_or(0, String::len);
    workers.iter().map(|it| texts(it) + CHANGE_OVERHEAD).sum()
}

/// About how much memory a master takes in a reply, by what it offers.
fn size_of_services(services: &[Service]) -> usize {
    CHANGE_OVERHEAD + services.iter().map(|it| it.name.len() + it.metadata.len() + CHANGE_OVERHEAD).sum::<usize>()
}
