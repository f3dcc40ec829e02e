//! The metrics that Prometheus reads, in its text format.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::body::Bytes;
use axum::http::StatusCode;
use prometheus::TextEncoder;
use prometheus::proto::MetricType::{self, COUNTER, GAUGE};
use prometheus::proto::{Metric, MetricFamily};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Rooms;
use crate::access::{Client, Grant};
use crate::clock::millis_since_1970;
use crate::metrics::{family, sample};
use crate::queue::{Asker, Overview, Queues, Refused, Totals};
use crate::share::{Share, Taken};
use crate::store::{Feed, FeedProgress, FeedState, Snapshot};
use crate::worker::{GroupReport, State, Workers};

/// The text is rendered at most once in this time, however many clients ask for it.
const MAX_AGE: Duration = Duration::from_secs(1);

/// How many queues have metrics of their own.
const MAX_QUEUES: usize = 1_000;

/// How often the queues are looked at, which takes time of the disk's or of Redis's, and how long a scrape waits for that.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// The text as last rendered, which is charged until the last client has received it.
#[derive(Debug)]
pub(super) struct Text {
    last: Option<(Instant, Bytes)>,
    memory: Arc<Share>,
    queues: Look,
}

/// The queues as they were last seen.
#[derive(Debug, Default)]
struct Look {
    /// The look that is under way. While a disk hangs there is no other one.
    pending: Option<JoinHandle<Result<Vec<Overview>, Refused>>>,
    began: Option<tokio::time::Instant>,
    /// None: they could not be asked.
    seen: Option<Vec<Overview>>,
}

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoText {
    #[error(transparent)]
    Unwritable(#[from] prometheus::Error),
    #[error("overloaded: earlier metrics that nobody takes, and clients, use all of thrift.max_memory; try again")]
    NoMemory,
}

/// A text together with the memory charged for it.
struct Charged {
    text: String,
    _taken: Taken,
}

impl Text {
    pub(super) fn of(rooms: &Rooms) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { last: None, memory: rooms.memory.share(None), queues: Look::default() }))
    }

    /// The text, if it was rendered just now.
    pub(super) fn fresh(&self) -> Option<Bytes> {
        self.last.as_ref().filter(|(made, _)| made.elapsed() < MAX_AGE).map(|(_, text)| text.clone())
    }

    /// Looks at the queues, unless somebody else did just now.
    pub(super) async fn look(&mut self, queues: &Arc<Queues>) {
        if queues.is_on() {
            self.queues.refresh(queues).await;
        }
    }

    /// Renders the text; blocks meanwhile.
    pub(super) fn make(&mut self, rooms: &Rooms) -> Result<Bytes, NoText> {
        self.last = None;
        let text = TextEncoder::new().encode_to_string(&families(rooms, self.queues.seen.as_deref()))?;
        let taken = self.memory.take(text.capacity()).ok_or(NoText::NoMemory)?;
        let text = Bytes::from_owner(Charged { text, _taken: taken });
        self.last = Some((Instant::now(), text.clone()));
        Ok(text)
    }
}

impl NoText {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Unwritable(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoMemory => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl Look {
    async fn refresh(&mut self, queues: &Arc<Queues>) {
        let is_fresh = self.began.is_some_and(|began| began.elapsed() < LOOK_INTERVAL);
        if self.pending.is_none() && is_fresh {
            return;
        }
        let look = self.pending.get_or_insert_with(|| {
            let queues = queues.clone();
            self.began = Some(tokio::time::Instant::now());
            tokio::spawn(async move {
                let asker = Asker { uid: None, is_admin: true };
                queues.overviews(asker, String::new(), MAX_QUEUES, |_| true).await
            })
        });
        self.seen = match timeout(LOOK_TIMEOUT, look).await {
            Ok(seen) => {
                self.pending = None;
                seen.ok().and_then(Result::ok)
            }
            Err(_) => None,
        };
    }
}

/// Everything that a client over TCP may know.
fn families(rooms: &Rooms, queues: Option<&[Overview]>) -> Vec<MetricFamily> {
    let identity = rooms.access.identify(Client::Tcp, Vec::new);
    let grant = identity.grant();
    let snapshot = rooms.store.snapshot();
    let mut families = vec![
        one("info", "The version of the sidecar.", [("version", env!("CARGO_PKG_VERSION"))], 1.0),
        one("uptime_seconds", "How long the sidecar has been running.", [], rooms.started.elapsed().as_secs_f64()),
        one("memory_charged_bytes", "What clients and masters make the sidecar hold.", [], rooms.memory.taken() as f64),
        one(
            "shared_file_failing",
            "Whether the shared file is not written now, or not all of it.",
            [],
            flag(rooms.metrics.shared_trouble.load().is_some()),
        ),
        one(
            "state_failing",
            "Whether what is to outlast a restart is not kept, as its directory cannot be used.",
            [],
            flag(rooms.metrics.state_trouble.load().is_some()),
        ),
        one(
            "ports_taken",
            "Ports of the settings at which the sidecar cannot listen now.",
            [],
            rooms.metrics.ports_taken.get().len() as f64,
        ),
    ];
    if grant.sees_all() {
        let directory = snapshot.directory();
        families.push(one("masters", "Masters that are known.", [], directory.len() as f64));
        families.push(one("services", "Services that have instances.", [], directory.count_of_services() as f64));
        families.push(one(
            "undecodable_nodes",
            "Nodes that are to register instances, and cannot be read.",
            [],
            directory.count_of_undecodable() as f64,
        ));
        let withheld = directory.withholdings();
        let (ejected, drained) = (withheld.ejected().count() as f64, withheld.drained().count() as f64);
        families.push(one("ejected", "Instances that are ejected.", [], ejected));
        families.push(one("drained", "Instances and hosts that are drained.", [], drained));
        let held = directory.guard().count_of_held() as f64;
        families.push(one(
            "held_instances",
            "Instances that the guard holds, since too many vanished at once.",
            [],
            held,
        ));
        families.extend(workers(&rooms.workers));
        if rooms.queues.is_on() {
            let are_up = queues.is_some() && !rooms.queues.refuse_writes();
            let help = "Whether the queues can be asked now, and Redis, where it has them, has memory left.";
            families.push(one("queues_up", help, [], flag(are_up)));
            families.extend(rooms.queues.totals_if_known().map(jobs));
            families.extend(queues.iter().copied().flat_map(of_queues));
        }
    }
    families.extend(sources(&snapshot, grant));
    families.extend(rooms.metrics.families(grant.sees_all()));
    families
}

fn one<const N: usize>(name: &str, help: &str, labels: [(&'static str, &str); N], value: f64) -> MetricFamily {
    family(GAUGE, name, help, [sample(GAUGE, labels, value)])
}

fn flag(is_set: bool) -> f64 {
    u8::from(is_set).into()
}

/// A count of a source.
struct OfSource {
    kind: MetricType,
    name: &'static str,
    help: &'static str,
    /// Whether it would reveal nodes that a client may not read.
    is_of_nodes: bool,
    value: fn(&Feed, FeedProgress) -> Option<f64>,
}

const OF_SOURCES: [OfSource; 8] = [
    OfSource {
        kind: GAUGE,
        name: "source_live",
        help: "Whether the source is in sync.",
        is_of_nodes: false,
        value: |feed, progress| Some(flag(feed.state_of(progress) == FeedState::Live)),
    },
    OfSource {
        kind: GAUGE,
        name: "source_age_seconds",
        help: "How old what is known of the source may be; 0 while it is in sync, none if it never was.",
        is_of_nodes: false,
        value: |feed, _| feed.age().map(|age| age.as_secs_f64()),
    },
    OfSource {
        kind: GAUGE,
        name: "source_whole",
        help: "Whether all of the source has been read once, or is known from before.",
        is_of_nodes: false,
        value: |_, progress| Some(flag(progress.whole)),
    },
    OfSource {
        kind: GAUGE,
        name: "source_nodes",
        help: "Nodes that are known of the source.",
        is_of_nodes: true,
        value: |_, progress| Some(progress.nodes as f64),
    },
    OfSource {
        kind: GAUGE,
        name: "source_bytes",
        help: "Bytes of their paths and data.",
        is_of_nodes: true,
        value: |_, progress| Some(progress.bytes as f64),
    },
    OfSource {
        kind: GAUGE,
        name: "source_left_out",
        help: "Nodes and lists of the source that may not be read or pass a limit.",
        is_of_nodes: false,
        value: |_, progress| Some(progress.skipped_nodes as f64),
    },
    OfSource {
        kind: COUNTER,
        name: "source_reconnects",
        help: "Times that the source was lost and found again.",
        is_of_nodes: false,
        value: |feed, _| Some(feed.reconnects.get() as f64),
    },
    OfSource {
        kind: COUNTER,
        name: "source_drift",
        help: "Differences that only an audit found.",
        is_of_nodes: false,
        value: |feed, _| Some(feed.drift.get() as f64),
    },
];

fn sources(snapshot: &Snapshot, grant: &Grant) -> impl Iterator<Item = MetricFamily> {
    OF_SOURCES.iter().filter_map(move |OfSource { kind, name, help, is_of_nodes, value }| {
        let samples: Vec<Metric> = snapshot
            .behind_all()
            .filter(|(feed, _)| !is_of_nodes || grant.reads_all(feed.roots()))
            .filter_map(|(feed, progress)| {
                Some(sample(*kind, [("source", feed.name()), ("kind", feed.kind())], value(feed, progress)?))
            })
            .collect();
        (!samples.is_empty()).then(|| family(*kind, name, help, samples))
    })
}

/// What states of jobs are called.
const JOB_STATES: [&str; 5] = ["WAITING", "DELAYED", "RUNNING", "DEAD", "DONE"];

/// As they were last counted, also while nobody can ask.
fn jobs(it: Totals) -> MetricFamily {
    let counts = [it.waiting, it.delayed, it.running, it.dead, it.done];
    let samples = JOB_STATES.iter().zip(counts).map(|(state, count)| sample(GAUGE, [("state", *state)], count as f64));
    family(GAUGE, "jobs", "Jobs of the queues by their state, as they were last counted.", samples)
}

fn of_queues(queues: &[Overview]) -> impl Iterator<Item = MetricFamily> {
    let of_queue = |it: &Overview| {
        let counts = [it.waiting, it.delayed, it.running, it.dead, it.done];
        let of_state =
            |(state, count): (&'static str, u64)| sample(GAUGE, [("queue", &*it.name), ("state", state)], count as f64);
        JOB_STATES.into_iter().zip(counts).map(of_state).collect::<Vec<_>>()
    };
    let now = millis_since_1970(SystemTime::now());
    let age = |it: &Overview| {
        let waits_for = match it.oldest_waiting {
            Some(since) => now.saturating_sub(since),
            None if it.waiting == 0 => 0,
            None => return None,
        };
        Some(sample(GAUGE, [("queue", &*it.name)], Duration::from_millis(waits_for).as_secs_f64()))
    };
    let families: [(_, _, Vec<Metric>); 2] = [
        ("queue_jobs", "Jobs of each queue by their state.", queues.iter().flat_map(of_queue).collect()),
        (
            "queue_oldest_waiting_seconds",
            "How long ago the oldest job of the queue was enqueued that waits, where that is known.",
            queues.iter().filter_map(age).collect(),
        ),
    ];
    let families = families.into_iter().filter(|(.., samples)| !samples.is_empty());
    families.map(|(name, help, samples)| family(GAUGE, name, help, samples))
}

fn workers(workers: &Workers) -> impl Iterator<Item = MetricFamily> {
    let in_state = |GroupReport { name: group, workers, .. }: GroupReport| {
        State::ALL.map(|state| {
            let count = workers.iter().filter(|report| report.state == state).count();
            sample(GAUGE, [("group", &*group), ("state", state.name())], count as f64)
        })
    };
    let states: Vec<Metric> = workers.reports().flat_map(in_state).collect();
    let restarts =
        workers.restarts().map(|(group, count)| sample(COUNTER, [("group", &*group)], count as f64)).collect();
    let of_connections = |kind, count: fn((usize, u64)) -> f64| {
        workers.connections().map(|(group, counts)| sample(kind, [("group", &*group)], count(counts))).collect()
    };
    let (waiting, refused) =
        (of_connections(GAUGE, |(waiting, _)| waiting as f64), of_connections(COUNTER, |(_, refused)| refused as f64));
    let of_logs = workers.log_lines_left_out();
    let left_out = of_logs.map(|(group, count)| sample(COUNTER, [("group", &*group)], count as f64)).collect();
    let families: [(_, _, _, Vec<Metric>); 5] = [
        (GAUGE, "workers", "Workers by their state, as supervisord calls it.", states),
        (COUNTER, "worker_restarts", "Processes that took the place of another one.", restarts),
        (GAUGE, "worker_connections_waiting", "Accepted connections that wait until a process takes them.", waiting),
        (COUNTER, "worker_connections_refused", "Connections closed, since no process took them in time.", refused),
        (COUNTER, "worker_log_lines_left_out", "Lines of workers that their log could not be given.", left_out),
    ];
    let families = families.into_iter().filter(|(.., samples)| !samples.is_empty());
    families.map(|(kind, name, help, samples)| family(kind, name, help, samples))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Access, Policy};
    use crate::queue::Config;
    use crate::share::Pool;
    use crate::store::Store;
    use crate::task::Tasks;

    #[tokio::test(start_paused = true)]
    async fn while_the_disk_hangs_there_is_one_look_and_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = Config { path: Some(folder.path().join("queue")), ..Config::default() };
        let (tasks, _failed) = Tasks::new();
        let queues = Queues::start(&config, &Arc::default(), &tasks).expect("a thread");
        let (goes_on, hangs) = std::sync::mpsc::channel();
        let of_disk = queues.clone();
        let hanging = tokio::spawn(async move { of_disk.hang(hangs).await });
        let mut look = Look::default();
        // For longer than until it is time for the next one.
        for _ in 0..4 {
            look.refresh(&queues).await;
            assert_eq!(look.seen, None);
        }
        assert_eq!(Arc::strong_count(&queues), 3, "of this test, of whoever hangs, and of one look");
        tokio::time::resume();
        drop(goes_on);
        hanging.await.expect("no panic");
        look.refresh(&queues).await;
        assert_eq!(look.seen, Some(Vec::new()));
    }

    #[test]
    fn one_text_is_for_all_who_ask_and_is_charged_until_the_last_has_taken_it() {
        let memory = Pool::new(1 << 20, 1);
        let rooms = Rooms {
            store: Store::new(&Default::default(), Vec::new(), Arc::default()),
            access: Access::new(Policy::new(&Default::default(), &[]).expect("no rules")),
            workers: Arc::default(),
            queues: Arc::default(),
            metrics: Arc::default(),
            memory: memory.clone(),
            started: Instant::now(),
        };
        let text = Text::of(&rooms);
        let mut text = text.try_lock().expect("nobody has it");
        let mut get = || text.fresh().map_or_else(|| text.make(&rooms), Ok);
        let first = get().expect("room");
        let charged = memory.taken();
        assert!(charged >= first.len() && std::ptr::eq(first.as_ptr(), get().expect("the same").as_ptr()));
        std::thread::sleep(MAX_AGE);
        let second = get().expect("room");
        assert!(memory.taken() > charged, "the first is still held");
        drop(first);
        assert!(memory.taken() >= second.len() && memory.taken() < 2 * charged);
        let _rest = memory.share(None).take((1 << 20) - memory.taken()).expect("room");
        let another = Text::of(&rooms);
        assert!(matches!(another.try_lock().expect("nobody has it").make(&rooms), Err(NoText::NoMemory)));
    }
}
