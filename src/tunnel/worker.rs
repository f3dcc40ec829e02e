//! The messages between a worker and the sidecar that supervises it, besides those of a master and a register.
//!
//! A worker is a native master whose connection is an inherited socket. This identifies it to the sidecar, so its token
//! is empty. These messages are only read from that socket.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::Handle;
use super::message::{Message, command};
use super::value::{Value, get, memory_size, text_in};
use crate::model::{json, shortened};

/// The environment variable with the socket's descriptor.
pub const CHANNEL: &str = "ROSTER_CHANNEL";

/// The environment variable with the worker's name, `NAME/NUMBER`, which is its id as a master.
pub const WORKER: &str = "ROSTER_WORKER";

/// How many characters of the name of a service or method under way are kept.
const MAX_CALL_NAME: usize = 100;

/// How many messages of a worker may be queued.
pub const EVENT_QUEUE: usize = 4;

/// The most characters of a log level and a message, and the most memory of a context.
const MAX_LEVEL: usize = 64;
const MAX_LOGGED: usize = 16 * 1024;
const MAX_NOTE: usize = 256;
const MAX_CONTEXT_BYTES: usize = 256 * 1024;

/// Replaces a context that takes more.
const LONG_CONTEXT: &str = r#"{"leftOut":"the context is too large"}"#;

/// The sidecar's end of the socket, and which worker has the other one.
#[derive(Debug)]
pub struct Channel {
    pub stream: UnixStream,
    pub worker: String,
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
    pub events: mpsc::Sender<Event>,
    /// Its calls under way, and how much it was asked in all.
    pub calls: Arc<CallsUnderWay>,
}

/// The calls of a worker that are under way from here; and how often it was asked in all: calls, commands, connections.
#[derive(Debug, Default)]
pub struct CallsUnderWay {
    calls: Mutex<ByBegin>,
    asked: AtomicU64,
    /// The limit on how often it may be asked; none: no limit.
    most: Option<u64>,
    is_enough: Notify,
    /// Whether it was ever handed a job.
    had_job: AtomicBool,
    /// How many it has.
    jobs: watch::Sender<usize>,
    /// Since when it has taken too long for a job.
    late_since: Mutex<Option<Instant>>,
    /// The job that it has begun; of one that has ended, the one with which it has.
    performed: Mutex<Option<Performed>>,
}

#[derive(Debug, Default)]
struct ByBegin {
    begun: u64,
    calls: BTreeMap<u64, CallUnderWay>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallUnderWay {
    /// `service.method`, cut if long.
    pub what: String,
    pub since: SystemTime,
}

/// A job that a worker has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Performed {
    pub id: u64,
    pub queue: String,
    pub name: String,
}

/// A process has a job while this exists.
#[derive(Debug)]
pub struct JobUnderWay(Arc<CallsUnderWay>);

/// A call is under way while this exists.
#[derive(Debug)]
pub struct UnderWay {
    all: Arc<CallsUnderWay>,
    number: u64,
}

impl CallsUnderWay {
    /// With a limit on how often it is asked.
    pub fn of_at_most(most: Option<u64>) -> Arc<Self> {
        Arc::new(Self { most, ..Self::default() })
    }

    /// Counts one request to it.
    pub fn count(&self) {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        if self.most.is_some_and(|most| asked == most) {
            self.is_enough.notify_one();
        }
    }

    /// Waits until the limit is reached. For a single waiter.
    pub async fn are_enough(&self) {
        self.is_enough.notified().await;
    }

    /// Notes that it is handed a job.
    pub fn begin_job(self: &Arc<Self>) -> JobUnderWay {
        self.had_job.store(true, Ordering::Relaxed);
        self.jobs.send_modify(|jobs| *jobs += 1);
        JobUnderWay(self.clone())
    }

    /// How many jobs it has.
    pub fn jobs(&self) -> watch::Receiver<usize> {
        self.jobs.subscribe()
    }

    /// Whether it was ever handed one.
    pub fn had_job(&self) -> bool {
        self.had_job.load(Ordering::Relaxed)
    }

    /// Notes that it begins a job.
    pub fn performs(&self, job: Performed) {
        *self.job() = Some(job);
    }

    /// Notes that it is done with one.
    pub fn has_performed(&self, id: u64) {
        _ = self.job().take_if(|job| job.id == id);
    }

    /// The job that it has begun, and was not done with when it ended.
    pub fn performed(&self) -> Option<Performed> {
        self.job().clone()
    }

    fn job(&self) -> MutexGuard<'_, Option<Performed>> {
        self.performed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whether it takes longer for a job than it may.
    pub fn set_late(&self, is_late: bool) {
        *self.late_since.lock().unwrap_or_else(PoisonError::into_inner) = is_late.then(Instant::now);
    }

    /// For how long it has taken too long for a job; none: it does not.
    pub fn late_for(&self) -> Option<Duration> {
        let late_since = self.late_since.lock().unwrap_or_else(PoisonError::into_inner);
        late_since.map(|since| since.elapsed())
    }

    pub fn begin(self: &Arc<Self>, service: &str, method: &str) -> UnderWay {
        let [service, method] = [service, method].map(|name| shortened(name, MAX_CALL_NAME));
        let call = CallUnderWay { what: format!("{service}.{method}"), since: SystemTime::now() };
        self.count();
        let mut calls = self.lock();
        calls.begun += 1;
        let number = calls.begun;
        calls.calls.insert(number, call);
        UnderWay { all: self.clone(), number }
    }

    /// How many there are, and the one that has been under way the longest.
    pub fn look(&self) -> (usize, Option<CallUnderWay>) {
        let calls = self.lock();
        (calls.calls.len(), calls.calls.values().next().cloned())
    }

    fn lock(&self) -> MutexGuard<'_, ByBegin> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for JobUnderWay {
    fn drop(&mut self) {
        self.0.jobs.send_modify(|jobs| *jobs -= 1);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.all.lock().calls.remove(&self.number);
    }
}

/// What the sidecar learns about a worker.
#[derive(Debug)]
pub enum Event {
    /// It has connected and can receive messages; with the calls it will have under way.
    Opened(Handle, Arc<CallsUnderWay>),
    /// It has reported its services, possibly none.
    Offered,
    Said(Report),
}

/// A message of a worker.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// `{cmd:"worker-ready"}`: it is ready for work.
    Ready,
    /// `{cmd:"worker-log", level, message, context}`: a log line, with the names of PSR-3; the context as JSON. Parts
    /// that are too long are cut; `said` is how much memory it took in all.
    Log {
        level: String,
        message: String,
        context: String,
        said: usize,
    },
    /// `{cmd:"worker-send", data}`: for those that watch the messages of masters.
    Send(Value),
    /// `{cmd:"worker-broadcast", data}`: for the other workers of its group.
    Broadcast(Value),
    /// `{cmd:"worker-perform", queue, atOnce, weight}`: it performs jobs of a queue, by turns with its others, of which it
    /// has so many at once.
    Perform {
        queue: String,
        at_once: u64,
        weight: Option<u64>,
    },
    Job(JobReport),
}

/// `{cmd:"worker-job", id, attempt, percent, note}`: of a job that it performs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobReport {
    pub id: u64,
    pub attempt: u64,
    /// How far it is, in percent, with a note; none: it takes longer.
    pub progress: Option<(u64, String)>,
}

/// A message to a worker.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// `{cmd:"worker-command", uuid, name, data}`: carry this out. Answered like a call.
    Command { uuid: String, name: String, data: Value },
    /// `{cmd:"worker-message", from, data}`: a message from another worker of its group.
    Message { from: String, data: Value },
    /// `{cmd:"worker-stop"}`: accept no more work, finish what is under way, and exit.
    Stop,
}

impl Report {
    /// None: it is an application-defined command.
    pub fn decode(map: &Value) -> Option<Self> {
        let data = || get(map, "data").cloned().unwrap_or(Value::Nil);
        let number = |name| get(map, name).and_then(Value::as_u64);
        Some(match text_in(map, "cmd").as_str() {
            "worker-ready" => Self::Ready,
            "worker-log" => Self::Log {
                level: shortened(&text_in(map, "level"), MAX_LEVEL).into_owned(),
                message: shortened(&text_in(map, "message"), MAX_LOGGED).into_owned(),
                context: match get(map, "context") {
                    Some(context) if memory_size(context) > MAX_CONTEXT_BYTES => LONG_CONTEXT.to_owned(),
                    context => context.map_or_else(String::new, json::text),
                },
                said: memory_size(map),
            },
            "worker-send" => Self::Send(data()),
            "worker-broadcast" => Self::Broadcast(data()),
            "worker-perform" => Self::Perform {
                queue: text_in(map, "queue"),
                at_once: number("atOnce").unwrap_or(1),
                weight: number("weight"),
            },
            "worker-job" => Self::Job(JobReport {
                id: number("id").unwrap_or(0),
                attempt: number("attempt").unwrap_or(0),
                progress: number("percent")
                    .map(|percent| (percent, shortened(&text_in(map, "note"), MAX_NOTE).into_owned())),
            }),
            _ => return None,
        })
    }
}

impl Request {
    pub fn encode(self) -> Message {
        Message::ToWorker(match self {
            Self::Command { uuid, name, data } => {
                command("worker-command", [("uuid", uuid.into()), ("name", name.into()), ("data", data)])
            }
            Self::Message { from, data } => command("worker-message", [("from", from.into()), ("data", data)]),
            Self::Stop => command("worker-stop", []),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(message: Message) -> Value {
        match Message::decode(&message.encode()).expect("a message") {
            Some(Message::Other(map)) => map,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_sent_as_its_map() {
        let data = Value::Map(vec![("a".into(), 1.into())]);
        let sent = sent(Request::Command { uuid: "1".into(), name: "reload".into(), data: data.clone() }.encode());
        let fields = ["cmd", "uuid", "name"].map(|key| text_in(&sent, key));
        assert_eq!(fields, ["worker-command", "1", "reload"]);
        assert_eq!(get(&sent, "data"), Some(&data));
    }

    #[test]
    fn of_the_calls_under_way_the_oldest_is_known_until_it_ends() {
        let calls = Arc::<CallsUnderWay>::default();
        let first = calls.begin("mail", "send");
        let second = calls.begin(&"x".repeat(1_000), "list");
        let (count, oldest) = calls.look();
        assert_eq!((count, oldest.map(|call| call.what)), (2, Some("mail.send".to_owned())));
        drop(first);
        let (count, oldest) = calls.look();
        assert!(count == 1 && oldest.is_some_and(|call| call.what.len() < 120));
        drop(second);
        assert_eq!(calls.look(), (0, None));
    }

    #[test]
    fn an_applications_own_command_is_no_report() {
        let report =
            |name, rest: Vec<(&'static str, Value)>| Report::decode(&sent(Message::Other(command(name, rest))));
        assert_eq!(report("worker-ready", vec![]), Some(Report::Ready));
        assert_eq!(report("worker-broadcast", vec![("data", 1.into())]), Some(Report::Broadcast(1.into())));
        for weight in [None, Some(3)] {
            let performs = Report::Perform { queue: "mail".to_owned(), at_once: 2, weight };
            let weight = weight.map(|weight| ("weight", weight.into()));
            let fields = [("queue", "mail".into()), ("atOnce", 2.into())].into_iter().chain(weight).collect();
            assert_eq!(report("worker-perform", fields), Some(performs));
        }
        let job = |progress| Some(Report::Job(JobReport { id: 7, attempt: 2, progress }));
        let lease = || vec![("id", 7.into()), ("attempt", 2.into())];
        assert_eq!(report("worker-job", lease()), job(None));
        let far = [lease(), vec![("percent", 50.into()), ("note", "x".repeat(1_000).into())]].concat();
        let far = report("worker-job", far);
        assert!(
            matches!(&far, Some(Report::Job(JobReport { progress: Some((50, note)), .. })) if note.len() < 1_000),
            "{far:?}"
        );
        assert_eq!(report("ready", vec![]), None);
        let context = Value::Map(vec![("id".into(), 7.into())]);
        let log = vec![("level", "error".into()), ("message", "no mail".into()), ("context", context)];
        let (level, message) = ("error".to_owned(), "no mail".to_owned());
        let context = "{\"id\":7}".to_owned();
        let logged = report("worker-log", log);
        let said = match &logged {
            Some(Report::Log { said, .. }) => *said,
            other => panic!("{other:?}"),
        };
        assert_eq!(logged, Some(Report::Log { level, message, context, said }));
    }

    #[test]
    fn a_record_for_the_log_is_cut_and_counted_with_what_was_cut() {
        let long = "{".repeat(300_000);
        let context = Value::Map(vec![("a".into(), long.as_str().into())]);
        let log = [("level", long.as_str().into()), ("message", long.as_str().into()), ("context", context)];
        match Report::decode(&sent(Message::Other(command("worker-log", log)))) {
            Some(Report::Log { level, message, context, said }) => {
                assert!(level.len() < 100 && message.len() < 17_000 && context == LONG_CONTEXT);
                assert!(said > 3 * 300_000, "{said}");
            }
            other => panic!("{other:?}"),
        }
    }
}
