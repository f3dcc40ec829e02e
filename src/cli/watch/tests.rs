//! A watch against a sidecar that goes away after each answer.

use super::*;
use roster::net::Address;
use roster::thrift::idl::*;
use std::collections::VecDeque;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use thrift::protocol::{TBinaryInputProtocol, TBinaryOutputProtocol};
use thrift::server::TProcessor;

type Pages = VecDeque<thrift::Result<SubtreeReply>>;

/// Its revisions are 5, 6 and 7; at 7 it has forgotten everything before 9. It lists these pages, then a complete one.
#[derive(Clone)]
struct Sidecar(Arc<Mutex<Pages>>);

fn node(data: &str) -> Node {
    Node::new("/a".into(), data.into(), Stat::new(0, 0, 0, 0, 0, 0, 0, 0))
}

fn page(data: &str, cursor: Option<&str>) -> SubtreeReply {
    SubtreeReply::new(vec![node(data)], cursor.map(str::to_owned), at(5))
}

fn at(revision: i64) -> Freshness {
    Freshness::new(revision, 0, Origin::LIVE, true)
}

impl RosterSyncHandler for Sidecar {
    fn handle_subtree(&self, _: SubtreeRequest) -> thrift::Result<SubtreeReply> {
        self.0.lock().expect("no panic").pop_front().unwrap_or_else(|| Ok(page("now", None)))
    }

    fn handle_watch(&self, request: WatchRequest) -> thrift::Result<WatchReply> {
        assert_eq!(request.paths.expect("paths")[0], "/a");
        let since = request.since.expect("a revision");
        let change = match since {
            5 => Change::new("/a".into(), ChangeKind::CHANGED, node("newer")),
            6 => Change::new("/a".into(), ChangeKind::DELETED, None),
            _ => return Ok(WatchReply::new(vec![], true, at(9))),
        };
        Ok(WatchReply::new(vec![change], false, at(since + 1)))
    }

    fn handle_get(&self, _: GetRequest) -> thrift::Result<NodeReply> {
        Err("not asked".into())
    }

    fn handle_get_many(&self, _: GetManyRequest) -> thrift::Result<NodesReply> {
        Err("not asked".into())
    }

    fn handle_children(&self, _: ChildrenRequest) -> thrift::Result<ChildrenReply> {
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

    fn handle_resolve(&self, _: ResolveRequest) -> thrift::Result<ResolveReply> {
        Err("not asked".into())
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

    fn handle_call(&self, _: Call) -> thrift::Result<CallResult> {
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

/// A sidecar that goes away after this many answers.
fn fickle_sidecar(answers: usize, pages: Pages) -> Address {
    let sidecar = Sidecar(Arc::new(Mutex::new(pages)));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = Address::Tcp(listener.local_addr().expect("an address").to_string());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            let mut input = TBinaryInputProtocol::new(stream.try_clone().expect("a handle"), true);
            let mut output = TBinaryOutputProtocol::new(stream, true);
            let processor = RosterSyncProcessor::new(sidecar.clone());
            let _ = (0..answers).try_for_each(|_| processor.process(&mut input, &mut output));
        }
    });
    address
}

/// The kinds and data of the first lines of a watch.
fn told(paths: &[&str], sidecar: Address, lines: usize) -> Vec<String> {
    let client = Client::new(sidecar, Duration::from_secs(5));
    let paths = paths.iter().map(|path| NodePath::parse(path).expect("a path")).collect();
    let subject = Box::new(Nodes::new(paths));
    let mut follower = Follower::new(client, subject, Output::Json, Reader(vec![String::new()], lines));
    follower.follow().expect_err("the reader left").downcast::<io::Error>().expect("an error of output");
    let told = |line: &String| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        format!("{} {}", line["kind"].as_str().unwrap_or("?"), line["data"].as_str().unwrap_or("-"))
    };
    follower.out.0[..lines].iter().map(told).collect()
}

/// A reader that leaves after this many lines.
struct Reader(Vec<String>, usize);

impl Write for Reader {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() > self.1 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        for part in std::str::from_utf8(bytes).expect("text").split_inclusive('\n') {
            let last = self.0.last_mut().expect("a line");
            last.push_str(part.trim_end_matches('\n'));
            if part.ends_with('\n') {
                self.0.push(String::new());
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_watch_goes_on_where_it_was_after_each_break_and_starts_over_after_a_reset() {
    let client = Client::new(fickle_sidecar(1, Pages::new()), Duration::from_secs(5));
    let paths = vec![NodePath::parse("/a").expect("a path")];
    let mut follower = Follower::new(client, Box::new(Nodes::new(paths)), Output::Json, Reader(vec![String::new()], 5));
    let ended = follower.follow().expect_err("the reader left");
    assert_eq!(ended.downcast::<io::Error>().expect("an error of output").kind(), io::ErrorKind::BrokenPipe);
    let stat =
        r#""stat":{"czxid":0,"mzxid":0,"pzxid":0,"ctime":0,"mtime":0,"ephemeralOwner":0,"version":0,"numChildren":0}"#;
    assert_eq!(
        follower.out.0[..5],
        [
            format!(r#"{{"revision":5,"kind":"PRESENT","path":"/a","data":"now",{stat}}}"#),
            format!(r#"{{"revision":6,"kind":"CHANGED","path":"/a","data":"newer",{stat}}}"#),
            r#"{"revision":7,"kind":"DELETED","path":"/a"}"#.into(),
            r#"{"revision":9,"kind":"RESET"}"#.into(),
            format!(r#"{{"revision":5,"kind":"PRESENT","path":"/a","data":"now",{stat}}}"#),
        ]
    );
}

#[test]
fn a_sidecar_that_was_never_there_is_not_waited_for() {
    let nowhere = Address::Unix("/nonexistent/socket".into());
    let client = Client::new(nowhere, Duration::from_secs(5));
    let error = Follower::new(client, Box::new(Masters), Output::Table, io::sink()).follow().expect_err("nobody there");
    assert!(matches!(error.downcast_ref(), Some(Error::Unreachable { .. })));
}

#[test]
fn a_listing_that_broke_off_begins_again_after_a_reset_also_the_very_first() {
    let pages = Pages::from([Ok(page("gone", Some("/a"))), Ok(page("present", None))]);
    assert_eq!(
        told(&["/a"], fickle_sidecar(1, pages), 4),
        ["PRESENT gone", "RESET -", "PRESENT present", "CHANGED newer"]
    );
}

#[test]
fn nothing_is_told_before_all_paths_can_be() {
    let later = NotReady::new("other".into(), "connecting".into());
    let pages = Pages::from([Ok(page("one", None)), Err(later.into())]);
    assert_eq!(told(&["/a", "/z"], fickle_sidecar(9, pages), 3), ["PRESENT now", "PRESENT now", "CHANGED newer"]);
}

#[test]
fn no_name_of_a_master_or_service_forges_a_line() {
    let name = "m\n2026-01-01T00:00:00.000Z DELETED other\t\u{1b}[2J".to_owned();
    let news = News { name, kind: "CREATED".into(), ..News::reset(1) };
    let line = news.line(SystemTime::UNIX_EPOCH);
    assert_eq!(line, "1970-01-01T00:00:00.000Z CREATED m\\n2026-01-01T00:00:00.000Z DELETED other\\t\\u{1b}[2J");
}
