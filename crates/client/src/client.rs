//! The client: a blocking connection to a sidecar.

use std::io::{self, BufReader, Read, Write};
use std::net::ToSocketAddrs;
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use thrift::TConfiguration;
use thrift::protocol::{TBinaryInputProtocol, TBinaryOutputProtocol};
use thrift::transport::TBufferedWriteTransport;

use crate::idl::{
    AccessDenied, BroadcastRequest, Call, CallFailed, CallReport, CallResult, CallTimedOut, CallValues, CallsReply,
    CallsRequest, ChildrenReply, ChildrenRequest, CommandReply, DrainReply, DrainRequest, EnqueueReply, EnqueueRequest,
    ExplainReply, ExplainRequest, GetRequest, GuardControl, GuardControlReply, GuardQuery, GuardReply, HistoryQuery,
    HistoryReply, InstancesReply, InvalidRequest, JobQuery, JobReply, JobUpdate, JobUpdateReply, JobsReply,
    MastersReply, MastersWatchReply, MessagesReply, NewJob, NextValuesRequest, NoInstance, NoMaster, NodeReply,
    NotFound, NotReady, Overloaded, PeekJobsRequest, QueueControl, QueueControlReply, QueuesQuery, QueuesReply,
    RecurringJob, RecurringJobsQuery, RegisterAddress, RegistersRequest, ReportRequest, ResolveManyReply,
    ResolveManyRequest, ResolveReply, ResolveRequest, RosterSyncClient, SendValuesRequest, SentValuesReply,
    ServiceQuery, ServicesReply, StatsReply, StatsRequest, StatusReply, StatusRequest, SubtreeReply, SubtreeRequest,
    TRosterSyncClient, TakeJobsReply, TakeJobsRequest, TooStale, UndrainRequest, WatchMastersRequest,
    WatchMessagesRequest, WatchReply, WatchRequest, WatchWorkersRequest, WithheldQuery, WithheldReply, WorkerAddition,
    WorkerCommand, WorkerCommandReply, WorkerControl, WorkerControlReply, WorkerOutputQuery, WorkerOutputReply,
    WorkerRemoval, WorkersQuery, WorkersReply, WorkersWatchReply,
};
use crate::{Address, default_paths};

/// The largest reply that is read. The sidecar's own limit is lower.
const MAX_REPLY: usize = 64 << 20;
/// The most elements of a list or map in a reply.
const MAX_CONTAINER: usize = 4 << 20;
/// The deepest nesting of a reply; the interface has four levels.
const MAX_DEPTH: usize = 16;

/// A connection to a sidecar. It is established when needed, and again after a failure.
#[derive(Debug)]
pub struct Client {
    /// None: look for a sidecar, and remember it once found.
    address: Option<Address>,
    timeout: Duration,
    socket: Option<Socket>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot reach the sidecar at {address}: {source}")]
    Unreachable { address: Address, source: io::Error },
    /// There is none at the default sockets.
    #[error("no sidecar answers at the places where one is looked for: {}", in_line(.0))]
    NotFoundAnywhere(Vec<(Address, io::Error)>),
    #[error("the sidecar at {address} did not answer within {after:?}")]
    TimedOut { address: Address, after: Duration },
    #[error("{}", .0.message)]
    NotFound(NotFound),
    #[error("nothing is known yet: {}", .0.message)]
    NotReady(NotReady),
    #[error("the data is {} ms old, more than the {} ms allowed: {}", .0.age_ms, .0.max_age_ms, .0.message)]
    TooStale(TooStale),
    #[error("{}: {}", .0.field, .0.message)]
    Invalid(InvalidRequest),
    #[error("{}", .0.message)]
    NoMaster(NoMaster),
    #[error("{}", .0.message)]
    NoInstance(NoInstance),
    #[error("master {}: {}", .0.master_id, .0.message)]
    CallFailed(CallFailed),
    #[error("master {}: {}", .0.master_id.as_deref().unwrap_or("?"), .0.message)]
    CallTimedOut(CallTimedOut),
    #[error("{}", .0.message)]
    Overloaded(Overloaded),
    #[error("{}", .0.message)]
    Denied(AccessDenied),
    /// The sidecar could not answer, or does not know the method: a TApplicationException.
    #[error("the sidecar at {address} refused: {message}")]
    Refused { address: Address, message: String },
    #[error("the sidecar at {address} closed the connection without an answer")]
    Closed { address: Address },
    /// The connection broke during the call, or the data was not an answer.
    #[error("no answer from the sidecar at {address}: {message}")]
    Broken { address: Address, message: String },
}

impl Client {
    /// A client whose calls take at most `timeout`, including connecting.
    pub fn new(address: Address, timeout: Duration) -> Self {
        Self { address: Some(address), timeout, socket: None }
    }

    /// The same for the sidecar of this machine: the first one that answers at one of the [`default_paths`], the
    /// system's or this user's own. The client then stays with it.
    pub fn local(timeout: Duration) -> Self {
        Self { address: None, timeout, socket: None }
    }

    pub fn get(&mut self, path: &str, max_age: Option<Duration>) -> Result<NodeReply, Error> {
        let request = GetRequest::new(path.to_owned(), max_age.map(age));
        self.ask(self.timeout, |sidecar| sidecar.get(request))
    }

    /// All children of a node at once.
    pub fn children(&mut self, path: &str, max_age: Option<Duration>) -> Result<ChildrenReply, Error> {
        let request = ChildrenRequest::new(path.to_owned(), max_age.map(age), None, None);
        self.ask(self.timeout, |sidecar| sidecar.children(request))
    }

    /// One page of a node's children; `cursor` is none for the first.
    pub fn children_page(
        &mut self,
        path: &str,
        cursor: Option<String>,
        max_age: Option<Duration>,
    ) -> Result<ChildrenReply, Error> {
        let request = ChildrenRequest::new(path.to_owned(), max_age.map(age), 0, cursor);
        self.ask(self.timeout, |sidecar| sidecar.children(request))
    }

    /// One page of a subtree; `cursor` is none for the first.
    pub fn subtree(
        &mut self,
        path: &str,
        cursor: Option<String>,
        max_age: Option<Duration>,
    ) -> Result<SubtreeReply, Error> {
        let request = SubtreeRequest::new(path.to_owned(), max_age.map(age), None, cursor);
        self.ask(self.timeout, |sidecar| sidecar.subtree(request))
    }

    /// Waits for changes, at most for `wait` in addition to the client's own timeout.
    pub fn watch(&mut self, since: i64, paths: Vec<String>, wait: Duration) -> Result<WatchReply, Error> {
        let request = WatchRequest::new(since, None, paths, millis(wait), None);
        self.ask(self.timeout + wait, |sidecar| sidecar.watch(request))
    }

    pub fn status(&mut self) -> Result<StatusReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.status(StatusRequest::default()))
    }

    /// One page of the masters that match the query.
    pub fn masters(&mut self, query: ServiceQuery) -> Result<MastersReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.masters(query))
    }

    /// One page of the services that match the query.
    pub fn services(&mut self, query: ServiceQuery) -> Result<ServicesReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.services(query))
    }

    /// One page of the instances that match the query.
    pub fn instances(&mut self, query: ServiceQuery) -> Result<InstancesReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.instances(query))
    }

    /// One callable instance of a service.
    pub fn resolve(&mut self, request: ResolveRequest) -> Result<ResolveReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.resolve(request))
    }

    /// Several at one revision, in the order of the requests.
    pub fn resolve_many(&mut self, request: ResolveManyRequest) -> Result<ResolveManyReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.resolve_many(request))
    }

    /// Reports the results of calls to instances.
    pub fn report(&mut self, reports: Vec<CallReport>) -> Result<(), Error> {
        self.ask(self.timeout, |sidecar| sidecar.report(ReportRequest { reports })).map(drop)
    }

    /// The services with instances that the guard holds.
    pub fn guarded(&mut self, query: GuardQuery) -> Result<GuardReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.guarded(query))
    }

    /// Makes the guard release what it holds.
    pub fn control_guard(&mut self, request: GuardControl) -> Result<GuardControlReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.control_guard(request))
    }

    /// Enqueues jobs, all of them or none. After an error of the connection it is unknown which.
    pub fn enqueue(&mut self, jobs: Vec<NewJob>) -> Result<EnqueueReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.enqueue(EnqueueRequest { jobs }))
    }

    /// Takes jobs to perform them; waits as long as the request says beyond the client's own timeout.
    pub fn take_jobs(&mut self, request: TakeJobsRequest) -> Result<TakeJobsReply, Error> {
        let wait = Duration::from_millis(request.wait_ms.unwrap_or(0).max(0) as u64);
        self.ask(self.timeout + wait, |sidecar| sidecar.take_jobs(request))
    }

    /// Says what became of a job that was taken.
    pub fn update_job(&mut self, request: JobUpdate) -> Result<JobUpdateReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.update_job(request))
    }

    pub fn job(&mut self, id: i64) -> Result<JobReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.job(JobQuery { id }))
    }

    /// Removes a job that nobody performs.
    pub fn cancel_job(&mut self, id: i64) -> Result<(), Error> {
        self.ask(self.timeout, |sidecar| sidecar.cancel_job(JobQuery { id })).map(drop)
    }

    /// One page of the queues.
    pub fn queues(&mut self, cursor: Option<String>) -> Result<QueuesReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.queues(QueuesQuery { limit: None, cursor }))
    }

    /// One page of the jobs of a queue.
    pub fn peek_jobs(&mut self, request: PeekJobsRequest) -> Result<JobsReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.peek_jobs(request))
    }

    /// Jobs that are enqueued by the clock.
    pub fn recurring_jobs(&mut self) -> Result<Vec<RecurringJob>, Error> {
        Ok(self.ask(self.timeout, |sidecar| sidecar.recurring_jobs(RecurringJobsQuery {}))?.jobs)
    }

    /// Pauses, resumes, purges or moves a queue, or has its dead jobs retried.
    pub fn control_queue(&mut self, request: QueueControl) -> Result<QueueControlReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.control_queue(request))
    }

    /// Drains instances.
    pub fn drain(&mut self, request: DrainRequest) -> Result<DrainReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.drain(request))
    }

    /// Ends a drain.
    pub fn undrain(&mut self, service: String, target: String) -> Result<DrainReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.undrain(UndrainRequest::new(service, target)))
    }

    /// What is drained and ejected, of one service or of all.
    pub fn withheld(&mut self, service: Option<String>) -> Result<WithheldReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.withheld(WithheldQuery { service_name: service }))
    }

    /// One page of what happened to instances.
    pub fn history(&mut self, query: HistoryQuery) -> Result<HistoryReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.history(query))
    }

    /// One page of why the instances of a service are served or not.
    pub fn explain(&mut self, request: ExplainRequest) -> Result<ExplainReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.explain(request))
    }

    /// Waits for changes of masters, at most for `wait` in addition to the client's own timeout.
    pub fn watch_masters(&mut self, since: i64, wait: Duration) -> Result<MastersWatchReply, Error> {
        let request = WatchMastersRequest::new(since, None, millis(wait), None);
        self.ask(self.timeout + wait, |sidecar| sidecar.watch_masters(request))
    }

    /// Waits for messages of masters after a cursor, at most for `wait` in addition to the client's own timeout.
    pub fn watch_messages(&mut self, since: i64, wait: Duration) -> Result<MessagesReply, Error> {
        let request = WatchMessagesRequest::new(since, millis(wait), None, None);
        self.ask(self.timeout + wait, |sidecar| sidecar.watch_messages(request))
    }

    /// Calls a method. The call may take `wait`, whatever timeout it contains, in addition to the client's own timeout.
    pub fn call(&mut self, call: Call, wait: Duration) -> Result<CallResult, Error> {
        self.ask(self.timeout + wait, |sidecar| sidecar.call(within(wait, call)))
    }

    /// Calls a method on all masters that offer it.
    pub fn call_all(&mut self, call: Call, wait: Duration) -> Result<CallsReply, Error> {
        self.ask(self.timeout + wait, |sidecar| sidecar.call_all(within(wait, call)))
    }

    /// Makes several calls one after the other, on the master that the first names, if it names one. Each may take
    /// `wait`.
    pub fn call_in_order(&mut self, calls: Vec<Call>, wait: Duration) -> Result<CallsReply, Error> {
        let whole = wait.saturating_mul(u32::try_from(calls.len()).unwrap_or(u32::MAX));
        let calls = calls.into_iter().map(|call| within(wait, call)).collect();
        self.ask(self.timeout.saturating_add(whole), |sidecar| sidecar.call_in_order(CallsRequest { calls }))
    }

    /// Starts a call whose values are fetched as they arrive; returns the first of them.
    pub fn start_call(&mut self, call: Call, wait: Duration) -> Result<CallValues, Error> {
        self.ask(self.timeout + wait, |sidecar| sidecar.start_call(within(wait, call)))
    }

    /// Returns what has arrived since, for a call that was started; may take `wait` in addition to the client's own
    /// timeout.
    pub fn next_values(&mut self, wait: Duration) -> Result<CallValues, Error> {
        self.ask(self.timeout + wait, |sidecar| sidecar.next_values(NextValuesRequest::default()))
    }

    /// Like `start_call`, for a method with streamed input.
    pub fn open_call(&mut self, call: Call, wait: Duration) -> Result<CallValues, Error> {
        self.ask(self.timeout, |sidecar| sidecar.open_call(within(wait, call)))
    }

    /// Sends values to the method, which may take `wait`.
    pub fn send_values(
        &mut self,
        values: Vec<Vec<u8>>,
        is_last: bool,
        wait: Duration,
    ) -> Result<SentValuesReply, Error> {
        self.ask(self.timeout + wait, |sidecar| sidecar.send_values(SendValuesRequest::new(values, is_last)))
    }

    /// Sends a command, as JSON, to all masters.
    pub fn broadcast(&mut self, message: Vec<u8>) -> Result<CommandReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.broadcast(BroadcastRequest::new(message, None)))
    }

    /// Makes all masters connect to these registers as well.
    pub fn add_registers(&mut self, registers: Vec<RegisterAddress>) -> Result<CommandReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.add_registers(RegistersRequest { registers }))
    }

    /// Makes all masters leave these registers.
    pub fn remove_registers(&mut self, registers: Vec<RegisterAddress>) -> Result<CommandReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.remove_registers(RegistersRequest { registers }))
    }

    pub fn stats(&mut self) -> Result<StatsReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.stats(StatsRequest::default()))
    }

    /// One page of the workers that match the query.
    pub fn workers(&mut self, query: WorkersQuery) -> Result<WorkersReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.workers(query))
    }

    /// Waits for changes of workers after a cursor, at most for `wait` in addition to the client's own timeout.
    pub fn watch_workers(&mut self, since: i64, wait: Duration) -> Result<WorkersWatchReply, Error> {
        let request = WatchWorkersRequest::new(since, millis(wait), None);
        self.ask(self.timeout + wait, |sidecar| sidecar.watch_workers(request))
    }

    /// Controls workers, which may take `wait` in addition to the client's own timeout.
    pub fn control_workers(&mut self, control: WorkerControl, wait: Duration) -> Result<WorkerControlReply, Error> {
        let control = WorkerControl { timeout_ms: Some(millis(wait)), ..control };
        self.ask(self.timeout + wait, |sidecar| sidecar.control_workers(control))
    }

    /// Adds a worker with these settings, a JSON object; its start may take `wait` in addition to the client's own
    /// timeout.
    pub fn add_worker(&mut self, settings: String, save: bool, wait: Duration) -> Result<WorkerControlReply, Error> {
        let addition = WorkerAddition { settings, save: Some(save), timeout_ms: Some(millis(wait)) };
        self.ask(self.timeout + wait, |sidecar| sidecar.add_worker(addition))
    }

    /// Removes a worker, or only what was saved of it; its end may take `wait` in addition to the client's own timeout.
    pub fn remove_worker(
        &mut self,
        group: String,
        saved_only: bool,
        wait: Duration,
    ) -> Result<WorkerControlReply, Error> {
        let removal = WorkerRemoval { group, saved_only: Some(saved_only), timeout_ms: Some(millis(wait)) };
        self.ask(self.timeout + wait, |sidecar| sidecar.remove_worker(removal))
    }

    /// Makes workers carry out a command. Each may take `wait`.
    pub fn command_workers(&mut self, command: WorkerCommand, wait: Duration) -> Result<WorkerCommandReply, Error> {
        let command = WorkerCommand { timeout_ms: Some(millis(wait)), ..command };
        self.ask(self.timeout + wait, |sidecar| sidecar.command_workers(command))
    }

    /// The output of workers.
    pub fn worker_output(&mut self, query: WorkerOutputQuery) -> Result<WorkerOutputReply, Error> {
        self.ask(self.timeout, |sidecar| sidecar.worker_output(query))
    }

    fn ask<Reply>(
        &mut self,
        patience: Duration,
        ask: impl FnOnce(&mut dyn TRosterSyncClient) -> thrift::Result<Reply>,
    ) -> Result<Reply, Error> {
        let until = Instant::now() + patience;
        let (address, socket) = match (self.address.clone(), self.socket.take()) {
            (Some(address), Some(socket)) => (address, socket),
            (Some(address), None) => match connect(&address, patience) {
                Ok(socket) => (address, socket),
                Err(error) => return Err(unreachable(address, error, patience)),
            },
            (None, _) => find(patience)?,
        };
        self.address = Some(address.clone());
        let answer = converse(Bounded { socket: &socket, until }, ask);
        // After any other error it is unknown what the next bytes belong to.
        if matches!(answer, Ok(_) | Err(thrift::Error::User(_))) {
            self.socket = Some(socket);
        }
        answer.map_err(|error| explain(address, error, patience))
    }
}

impl Call {
    /// A call with the defaults.
    pub fn of(service: impl Into<String>, method: impl Into<String>, arguments: impl Into<Vec<u8>>) -> Self {
        Self {
            service_name: service.into(),
            method: method.into(),
            arguments: Some(arguments.into()),
            encoding: None,
            master_id: None,
            metadata: None,
            version: None,
            balance: None,
            key: None,
            timeout_ms: None,
            retries: None,
            idempotent: None,
            all_values: None,
        }
    }
}

impl ResolveRequest {
    /// Any instance of a service.
    pub fn of(service: impl Into<String>) -> Self {
        Self {
            service_name: service.into(),
            version: None,
            group: None,
            zone: None,
            metadata: None,
            balance: None,
            key: None,
            prefer_zone: None,
            subset: None,
            subset_key: None,
            max_age_ms: None,
            exclude: None,
        }
    }
}

/// The first sidecar that accepts on one of these sockets. A socket left by a dead one does not hide the others.
fn find(patience: Duration) -> Result<(Address, Socket), Error> {
    let mut failures = Vec::new();
    for path in default_paths::sockets() {
        let socket = default_paths::check_owner(&path).and_then(|()| connect_unix(&path, patience));
        let address = Address::Unix(path);
        match socket {
            Ok(socket) => return Ok((address, socket)),
            Err(error) => match unreachable(address, error, patience) {
                Error::Unreachable { address, source } => failures.push((address, source)),
                // There is one, but it is slow.
                slow => return Err(slow),
            },
        }
    }
    Err(Error::NotFoundAnywhere(failures))
}

fn in_line(failures: &[(Address, io::Error)]) -> String {
    let in_words = |why: &io::Error| match why.kind() {
        io::ErrorKind::NotFound => "not there".to_owned(),
        _ => why.to_string(),
    };
    failures.iter().map(|(address, why)| format!("{address} ({})", in_words(why))).collect::<Vec<_>>().join(", ")
}

fn unreachable(address: Address, source: io::Error, after: Duration) -> Error {
    match source.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Error::TimedOut { address, after },
        _ => Error::Unreachable { address, source },
    }
}

fn explain(address: Address, error: thrift::Error, after: Duration) -> Error {
    match error {
        thrift::Error::Transport(error) if error.kind == thrift::TransportErrorKind::TimedOut => {
            Error::TimedOut { address, after }
        }
        thrift::Error::Transport(error) if error.kind == thrift::TransportErrorKind::EndOfFile => {
            Error::Closed { address }
        }
        thrift::Error::Transport(error) => Error::Broken { address, message: error.message },
        thrift::Error::Protocol(error) => Error::Broken { address, message: error.message },
        thrift::Error::Application(error) => Error::Refused { address, message: error.message },
        thrift::Error::User(exception) => {
            declared(exception.as_ref()).unwrap_or_else(|| Error::Refused { address, message: exception.to_string() })
        }
    }
}

/// An age in the interface's form.
pub fn age(max: Duration) -> i64 {
    i64::try_from(max.as_millis()).unwrap_or(i64::MAX)
}

fn within(wait: Duration, call: Call) -> Call {
    Call { timeout_ms: Some(millis(wait)), ..call }
}

fn millis(wait: Duration) -> i32 {
    i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)
}

/// An exception that the interface declares.
fn declared(exception: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<Error> {
    let not_found = exception.downcast_ref().cloned().map(Error::NotFound);
    not_found
        .or_else(|| exception.downcast_ref().cloned().map(Error::NotReady))
        .or_else(|| exception.downcast_ref().cloned().map(Error::TooStale))
        .or_else(|| exception.downcast_ref().cloned().map(Error::Invalid))
        .or_else(|| exception.downcast_ref().cloned().map(Error::NoMaster))
        .or_else(|| exception.downcast_ref().cloned().map(Error::NoInstance))
        .or_else(|| exception.downcast_ref().cloned().map(Error::CallFailed))
        .or_else(|| exception.downcast_ref().cloned().map(Error::CallTimedOut))
        .or_else(|| exception.downcast_ref().cloned().map(Error::Overloaded))
        .or_else(|| exception.downcast_ref().cloned().map(Error::Denied))
}

/// One call over a connection, in the strict binary protocol without frames.
fn converse<Reply>(
    stream: Bounded<'_>,
    ask: impl FnOnce(&mut dyn TRosterSyncClient) -> thrift::Result<Reply>,
) -> thrift::Result<Reply> {
    let bounds = TConfiguration::builder()
        .max_message_size(Some(MAX_REPLY))
        .max_string_size(Some(MAX_REPLY))
        .max_container_size(Some(MAX_CONTAINER))
        .max_recursion_depth(Some(MAX_DEPTH))
        .build()?;
    let reply = BufReader::new(stream.take(MAX_REPLY as u64));
    let input = TBinaryInputProtocol::with_config(reply, true, bounds);
    let output = TBinaryOutputProtocol::new(TBufferedWriteTransport::new(stream), true);
    ask(&mut RosterSyncClient::new(input, output))
}

fn connect(address: &Address, patience: Duration) -> io::Result<Socket> {
    match address {
        Address::Unix(path) => connect_unix(path, patience),
        Address::Tcp(address) => connect_tcp(address, patience),
    }
}

fn connect_unix(path: &Path, patience: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // This also limits connecting, which waits if the listener's queue is full.
    socket.set_write_timeout(Some(patience))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

fn connect_tcp(address: &str, patience: Duration) -> io::Result<Socket> {
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        match socket.connect_timeout(&address.into(), patience) {
            Ok(()) => {
                socket.set_tcp_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// A stream with a deadline, however slowly its bytes arrive.
#[derive(Clone, Copy)]
struct Bounded<'a> {
    socket: &'a Socket,
    until: Instant,
}

impl Bounded<'_> {
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Bounded<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.socket.read(into).map_err(in_words)
    }
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write(bytes).map_err(in_words)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// The kernel reports a socket's timeout as "would block", and an end in several ways.
fn in_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => io::ErrorKind::UnexpectedEof.into(),
        _ => error,
    }
}
