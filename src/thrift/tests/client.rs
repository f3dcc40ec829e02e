//! The client against a sidecar that the test controls.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use thrift::protocol::{TBinaryInputProtocol, TBinaryOutputProtocol};
use thrift::server::TProcessor;
use thrift::transport::TBufferedWriteTransport;

use crate::net::Address;
use crate::thrift::client::{Client, Error};
use crate::thrift::idl::*;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Answers `get` depending on the path.
struct Sidecar;

impl RosterSyncHandler for Sidecar {
    fn handle_get(&self, GetRequest { path, max_age_ms }: GetRequest) -> thrift::Result<NodeReply> {
        let freshness = Freshness::new(7, 0, Origin::LIVE, true);
        match path.as_str() {
            "/nothing" => Err(NotFound::new(EntityKind::NODE, path, "no such node".into(), freshness).into()),
            "/later" => Err(NotReady::new("zookeeper".into(), "connecting".into()).into()),
            "/old" => Err(TooStale::new(9, max_age_ms.unwrap_or(0), "it is down".into()).into()),
            "/wrong" => Err(InvalidRequest::new("path".into(), "it is wrong".into()).into()),
            "/busy" => Err("too busy".into()),
            _ => Ok(NodeReply::new(Node::new(path, b"\xff".to_vec(), Stat::new(1, 2, 3, 4, 5, 6, 7, 8)), freshness)),
        }
    }

    fn handle_call(&self, call: Call) -> thrift::Result<CallResult> {
        let message = "as the test wants".to_owned();
        let master = call.master_id.unwrap_or_default();
        match call.method.as_str() {
            "nobody" => Err(NoMaster::new("mail".into(), message).into()),
            "fail" => Err(CallFailed::new(master, message, None, 7, false).into()),
            "late" => Err(CallTimedOut::new(master, call.timeout_ms.unwrap_or(0), message).into()),
            _ => Err(Overloaded::new(message).into()),
        }
    }

    fn handle_get_many(&self, _: GetManyRequest) -> thrift::Result<NodesReply> {
        Err("not asked".into())
    }

    fn handle_children(&self, _: ChildrenRequest) -> thrift::Result<ChildrenReply> {
        Err("not asked".into())
    }

    fn handle_subtree(&self, _: SubtreeRequest) -> thrift::Result<SubtreeReply> {
        Err("not asked".into())
    }

    fn handle_watch(&self, _: WatchRequest) -> thrift::Result<WatchReply> {
        Err("not asked".into())
    }

    fn handle_status(&self, _: StatusRequest) -> thrift::Result<StatusReply> {
        Err("not asked".into())
    }

    fn handle_masters(&self, _: ServiceQuery) -> thrift::Result<MastersReply> {
        Err("not asked".into())
    }

    fn handle_master(&self, _: MasterRequest) -> thrift::Result<MasterReply> {
        Err("not asked".into())
    }

    fn handle_services(&self, _: ServiceQuery) -> thrift::Result<ServicesReply> {
        Err("not asked".into())
    }

    fn handle_instances(&self, _: ServiceQuery) -> thrift::Result<InstancesReply> {
        Err("not asked".into())
    }

    fn handle_resolve(&self, request: ResolveRequest) -> thrift::Result<ResolveReply> {
        Err(NoInstance::new(request.service_name, "as the test wants".into()).into())
    }

    fn handle_resolve_many(&self, _: ResolveManyRequest) -> thrift::Result<ResolveManyReply> {
        Err("not asked".into())
    }

    fn handle_report(&self, _: ReportRequest) -> thrift::Result<ReportReply> {
        Err("not asked".into())
    }

    fn handle_drain(&self, _: DrainRequest) -> thrift::Result<DrainReply> {
        Err("not asked".into())
    }

    fn handle_undrain(&self, _: UndrainRequest) -> thrift::Result<DrainReply> {
        Err("not asked".into())
    }

    fn handle_withheld(&self, _: WithheldQuery) -> thrift::Result<WithheldReply> {
        Err("not asked".into())
    }

    fn handle_guarded(&self, _: GuardQuery) -> thrift::Result<GuardReply> {
        Err("not asked".into())
    }

    fn handle_control_guard(&self, _: GuardControl) -> thrift::Result<GuardControlReply> {
        Err("not asked".into())
    }

    fn handle_enqueue(&self, _: EnqueueRequest) -> thrift::Result<EnqueueReply> {
        Err("not asked".into())
    }

    fn handle_take_jobs(&self, _: TakeJobsRequest) -> thrift::Result<TakeJobsReply> {
        Err("not asked".into())
    }

    fn handle_update_job(&self, _: JobUpdate) -> thrift::Result<JobUpdateReply> {
        Err("not asked".into())
    }

    fn handle_job(&self, _: JobQuery) -> thrift::Result<JobReply> {
        Err("not asked".into())
    }

    fn handle_cancel_job(&self, _: JobQuery) -> thrift::Result<CancelJobReply> {
        Err("not asked".into())
    }

    fn handle_queues(&self, _: QueuesQuery) -> thrift::Result<QueuesReply> {
        Err("not asked".into())
    }

    fn handle_peek_jobs(&self, _: PeekJobsRequest) -> thrift::Result<JobsReply> {
        Err("not asked".into())
    }

    fn handle_control_queue(&self, _: QueueControl) -> thrift::Result<QueueControlReply> {
        Err("not asked".into())
    }

    fn handle_recurring_jobs(&self, _: RecurringJobsQuery) -> thrift::Result<RecurringJobsReply> {
        Err("not asked".into())
    }

    fn handle_history(&self, _: HistoryQuery) -> thrift::Result<HistoryReply> {
        Err("not asked".into())
    }

    fn handle_explain(&self, _: ExplainRequest) -> thrift::Result<ExplainReply> {
        Err("not asked".into())
    }

    fn handle_watch_masters(&self, _: WatchMastersRequest) -> thrift::Result<MastersWatchReply> {
        Err("not asked".into())
    }

    fn handle_watch_messages(&self, _: WatchMessagesRequest) -> thrift::Result<MessagesReply> {
        Err("not asked".into())
    }

    fn handle_call_all(&self, _: Call) -> thrift::Result<CallsReply> {
        Err("not asked".into())
    }

    fn handle_call_many(&self, _: CallsRequest) -> thrift::Result<CallsReply> {
        Err("not asked".into())
    }

    fn handle_call_in_order(&self, _: CallsRequest) -> thrift::Result<CallsReply> {
        Err("not asked".into())
    }

    fn handle_start_call(&self, _: Call) -> thrift::Result<CallValues> {
        Err("not asked".into())
    }

    fn handle_next_values(&self, _: NextValuesRequest) -> thrift::Result<CallValues> {
        Err("not asked".into())
    }

    fn handle_open_call(&self, _: Call) -> thrift::Result<CallValues> {
        Err("not asked".into())
    }

    fn handle_send_values(&self, _: SendValuesRequest) -> thrift::Result<SentValuesReply> {
        Err("not asked".into())
    }

    fn handle_broadcast(&self, _: BroadcastRequest) -> thrift::Result<CommandReply> {
        Err("not asked".into())
    }

    fn handle_add_registers(&self, _: RegistersRequest) -> thrift::Result<CommandReply> {
        Err("not asked".into())
    }

    fn handle_remove_registers(&self, _: RegistersRequest) -> thrift::Result<CommandReply> {
        Err("not asked".into())
    }

    fn handle_stats(&self, _: StatsRequest) -> thrift::Result<StatsReply> {
        Err("not asked".into())
    }

    fn handle_workers(&self, _: WorkersQuery) -> thrift::Result<WorkersReply> {
        Err("not asked".into())
    }

    fn handle_control_workers(&self, _: WorkerControl) -> thrift::Result<WorkerControlReply> {
        Err("not asked".into())
    }

    fn handle_add_worker(&self, _: WorkerAddition) -> thrift::Result<WorkerControlReply> {
        Err("not asked".into())
    }

    fn handle_remove_worker(&self, _: WorkerRemoval) -> thrift::Result<WorkerControlReply> {
        Err("not asked".into())
    }

    fn handle_command_workers(&self, _: WorkerCommand) -> thrift::Result<WorkerCommandReply> {
        Err("not asked".into())
    }

    fn handle_watch_workers(&self, _: WatchWorkersRequest) -> thrift::Result<WorkersWatchReply> {
        Err("not asked".into())
    }

    fn handle_worker_output(&self, _: WorkerOutputQuery) -> thrift::Result<WorkerOutputReply> {
        Err("not asked".into())
    }
}

/// A sidecar that answers this many requests on each connection, then closes it.
fn sidecar(requests: usize) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = Address::Tcp(listener.local_addr().expect("an address").to_string());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            let mut input = TBinaryInputProtocol::new(stream.try_clone().expect("a handle"), true);
            let mut output = TBinaryOutputProtocol::new(TBufferedWriteTransport::new(stream), true);
            let processor = RosterSyncProcessor::new(Sidecar);
            for _ in 0..requests {
                let _ = processor.process(&mut input, &mut output);
            }
        }
    });
    address
}

#[test]
fn every_exception_has_its_variant_and_leaves_the_connection_in_use() {
    let mut client = Client::new(sidecar(5), TIMEOUT);
    let mut ask = |path| client.get(path, Some(Duration::from_millis(3)));
    assert_eq!(ask("/a").expect("a node").node.data, [0xff]);
    assert!(matches!(ask("/nothing"), Err(Error::NotFound(exception)) if exception.freshness.revision == 7));
    assert!(matches!(ask("/later"), Err(Error::NotReady(exception)) if exception.source == "zookeeper"));
    assert!(matches!(ask("/old"), Err(Error::TooStale(exception)) if exception.max_age_ms == 3));
    assert!(matches!(ask("/wrong"), Err(Error::Invalid(exception)) if exception.field == "path"));
    let closed = ask("/a").expect_err("the sidecar closed the connection");
    assert!(closed.to_string().ends_with("closed the connection without an answer"), "{closed}");
}

#[test]
fn every_failure_of_a_call_has_its_variant() {
    let mut client = Client::new(sidecar(5), TIMEOUT);
    let mut ask = |method: &str| {
        let call = Call { master_id: Some("m1".into()), ..Call::of("mail", method, "") };
        client.call(call, Duration::from_millis(9))
    };
    assert!(matches!(ask("nobody"), Err(Error::NoMaster(exception)) if exception.service_name == "mail"));
    assert!(matches!(ask("fail"), Err(Error::CallFailed(exception)) if exception.code == 7));
    assert!(matches!(ask("late"), Err(Error::CallTimedOut(exception)) if exception.timeout_ms == 9));
    assert!(matches!(ask("more"), Err(Error::Overloaded(_))));
    let none = client.resolve(ResolveRequest::of("mail"));
    assert!(matches!(none, Err(Error::NoInstance(exception)) if exception.service_name == "mail"));
}

#[test]
fn a_refusal_tells_its_reason() {
    let refused = Client::new(sidecar(1), TIMEOUT).get("/busy", None);
    assert!(matches!(&refused, Err(Error::Refused { message, .. }) if message == "too busy"), "{refused:?}");
}

#[test]
fn a_broken_connection_is_made_anew_at_the_next_call() {
    let mut client = Client::new(sidecar(1), TIMEOUT);
    client.get("/a", None).expect("a node");
    assert!(matches!(client.get("/a", None), Err(Error::Closed { .. })));
    client.get("/a", None).expect("a node");
}

#[test]
fn nobody_there_and_nobody_answering_are_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let mut client = Client::new(Address::Unix(path.clone()), Duration::from_millis(50));
    assert!(matches!(client.status(), Err(Error::Unreachable { .. })));
    let _silent = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    assert!(matches!(client.status(), Err(Error::TimedOut { .. })));
}

#[test]
fn a_listener_that_hangs_up_whether_it_listened_or_not_is_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = Address::Tcp(listener.local_addr().expect("an address").to_string());
    let mut client = Client::new(address, TIMEOUT);
    let server = std::thread::spawn(move || {
        // Closing a connection with unread data resets it.
        for heard in [0, 1, 4_096] {
            let (mut stream, _) = listener.accept().expect("a connection");
            let _ = stream.read(&mut vec![0; heard]).expect("a request");
        }
    });
    for _ in 0..3 {
        let closed = client.status().expect_err("no answer");
        assert!(matches!(closed, Error::Closed { .. }), "{closed}");
    }
    server.join().expect("the server");
}

#[test]
fn what_is_no_answer_is_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = Address::Tcp(listener.local_addr().expect("an address").to_string());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("an answer");
        stream
    });
    assert!(matches!(Client::new(address, TIMEOUT).status(), Err(Error::Broken { .. })));
    server.join().expect("the server");
}
