//! Workers: their states, and what an administrator does with them.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use thrift::{ApplicationError, ApplicationErrorKind};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Peer;
use super::api::{Api, denied, invalid, page_size};
use super::idl::{
    EntityKind, NotFound, WatchWorkersRequest, Worker, WorkerAction, WorkerControl, WorkerControlReply, WorkerLine,
    WorkerOutcome, WorkerOutputQuery, WorkerOutputReply, WorkerState, WorkersQuery, WorkersReply, WorkersWatchReply,
};
use super::watch::{Found, Patience};
use crate::access::Grant;
use crate::clock::millis_since_1970;
use crate::model::shortened;
use crate::queue::Begun;
use crate::task::Stop;
use crate::tunnel::worker::{CallUnderWay, Performed};
use crate::worker::{
    Action, Controlled, GroupReport, Line, MAX_COUNT, Outcomes, Printed, Report, State, Usage, Which, WorkerNews,
    signal,
};

/// The default and the maximum timeout of a request.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// What a worker takes in a reply besides the reason for its state.
const WORKER_OVERHEAD: usize = 512;

/// How many characters of the names of a job and its queue are shown.
const MAX_JOB_NAME: usize = 100;

/// About what a changed worker takes in a reply.
const CHANGE_SIZE: usize = 1024;

/// A request of `controlWorkers` under way.
#[derive(Debug)]
pub(super) struct Control {
    group: String,
    outcomes: oneshot::Receiver<Controlled>,
    timeout: Duration,
}

impl Api {
    pub(super) fn workers(&self, peer: &Peer, query: &WorkersQuery) -> thrift::Result<WorkersReply> {
        peer.identity.may_see_workers().map_err(denied)?;
        self.ensure_room_for_page(peer)?;
        let limit = page_size(query.limit)?;
        let after = query.cursor.as_deref().map(place).transpose()?;
        let which = self.which_of(query.group.as_deref(), query.number)?;
        let groups = self.workers.reports();
        let groups = groups.filter(|it| query.group.as_deref().is_none_or(|wanted| wanted == it.name));
        let all = groups.flat_map(|GroupReport { number: nth, name, workers }| {
            workers.into_iter().map(move |report| ((nth, report.number), name.clone(), report))
        });
        let wanted = all.filter(|(place, _, report)| {
            after.is_none_or(|after| *place > after) && (which == Which::All || which == Which::Number(report.number))
        });
        let (mut workers, mut bytes, mut last, mut cursor) = (Vec::new(), 0, None, None);
        let begun = self.queues.begun();
        for ((nth, number), group, report) in wanted {
            bytes += report.why.len() + WORKER_OVERHEAD;
            if workers.len() == limit || (bytes > self.page_bytes() && !workers.is_empty()) {
                cursor = last;
                break;
            }
            last = Some(format!("{nth}/{number}"));
            workers.push(self.worker(peer, &group, report, &begun));
        }
        Ok(WorkersReply { workers, cursor })
    }

    /// The same with the resource usage of the processes, read where only the requester waits for it.
    pub(super) async fn workers_with_usage(&self, peer: &Peer, query: &WorkersQuery) -> thrift::Result<WorkersReply> {
        let reply = self.workers(peer, query)?;
        let read = move || {
            let with_usage = |worker: Worker| {
                let usage = worker.pid.and_then(Usage::of);
                let memory_bytes = usage.map(|usage| usage.memory as i64);
                let processor_ms = usage.map(|usage| usage.processor.as_millis() as i64);
                Worker { memory_bytes, processor_ms, ..worker }
            };
            WorkersReply { workers: reply.workers.into_iter().map(with_usage).collect(), ..reply }
        };
        Ok(peer.account.memory.work(usize::MAX, read).await)
    }

    /// Validates a request of `watchWorkers`.
    pub(super) fn watch_workers(&self, peer: &Peer, request: &WatchWorkersRequest) -> thrift::Result<Patience> {
        peer.identity.may_watch().and_then(|()| peer.identity.may_see_workers()).map_err(denied)?;
        let WatchWorkersRequest { since, timeout_ms, limit } = *request;
        self.patience(since, timeout_ms, limit)
    }

    /// Waits for the result of `watchWorkers`.
    pub(super) async fn worker_changes(
        &self,
        peer: &Peer,
        patience: Patience,
        stop: &Stop,
    ) -> thrift::Result<WorkersWatchReply> {
        let news = &tokio::sync::Mutex::new(self.workers.subscribe());
        // The sender lives as long as the workers.
        let changed = || async { drop(news.lock().await.changed().await) };
        self.wait(peer, patience, changed, stop, |since| Ok(self.workers_since(peer, since, patience.limit))).await
    }

    fn workers_since(&self, peer: &Peer, since: u64, limit: usize) -> Found<WorkersWatchReply> {
        let most = limit.min(self.page_bytes() / CHANGE_SIZE).max(1);
        let WorkerNews { changes, removed, cursor, is_reset } = self.workers.news(since, most);
        let is_news = is_reset || since == 0 || !changes.is_empty() || !removed.is_empty();
        let begun = self.queues.begun();
        let changes = changes.into_iter().map(|(group, report)| self.worker(peer, &group, report, &begun)).collect();
        let reply = WorkersWatchReply { changes, removed, cursor: cursor as i64, reset: is_reset };
        Found { reply, is_news, is_all: true, revision: cursor }
    }

    /// A worker, and what the sidecar knows about its calls, and the job that it has begun.
    fn worker(&self, peer: &Peer, group: &str, report: Report, begun: &HashMap<i32, Begun>) -> Worker {
        let Report { number, state, since, pid, restarts, mut why, performed, retiring } = report;
        if let Some(Performed { id, queue, name }) = performed {
            let may_look = peer.identity.grant().performs(&queue);
            why += &format!(" while it performed {}", what((&queue, &name, id), may_look));
        }
        let (calls, doing) = pid.and_then(|pid| self.workers.calls(group, pid)).unzip();
        let job = pid.and_then(|pid| begun.get(&pid));
        let may_look = job.is_some_and(|job| peer.identity.grant().performs(&job.queue));
        let performing =
            job.map(|job| CallUnderWay { what: what((&job.queue, &job.name, job.id), may_look), since: job.since });
        let doing = [doing.flatten(), performing].into_iter().flatten().min_by_key(|it| it.since);
        Worker {
            name: name(group, number),
            group: group.to_owned(),
            number: number as i32,
            state: state.into(),
            since_ms: millis(since),
            restarts: restarts as i64,
            why,
            pid,
            retiring: Some(retiring).filter(|retiring| !retiring.is_empty()),
            memory_bytes: None,
            processor_ms: None,
            calls: calls.map(|calls| calls as i32),
            doing_since_ms: doing.as_ref().map(|doing| millis(doing.since)),
            doing: doing.map(|doing| doing.what),
            job: job.filter(|_| may_look).map(|job| job.id as i64),
        }
    }

    /// How many workers are in each state; none: there are no workers, or the client may not see them.
    pub(super) fn worker_states(&self, grant: &Grant) -> Option<BTreeMap<WorkerState, i32>> {
        let mut states = BTreeMap::new();
        if grant.sees_all() {
            let reports = self.workers.reports().flat_map(|group| group.workers);
            reports.for_each(|report| *states.entry(report.state.into()).or_default() += 1);
        }
        (!states.is_empty()).then_some(states)
    }

    /// Starts what `controlWorkers` requests.
    pub(super) fn control_workers(&self, peer: &Peer, request: WorkerControl) -> thrift::Result<Control> {
        peer.identity.may_control_workers().map_err(denied)?;
        let (action, timeout) = (action(&request)?, patience(request.timeout_ms)?);
        let WorkerControl { group, number, save, .. } = request;
        // What ends something may still be wanted.
        if self.workers.are_over() && !matches!(action, Action::Stop | Action::Kill | Action::Signal(_)) {
            return Err(stops());
        }
        let which = self.which(&group, number)?;
        let is_kept = save.unwrap_or(false);
        if is_kept && !matches!(action, Action::Scale(_)) {
            return Err(invalid("save", "only to how many a group is scaled can be kept"));
        }
        let outcomes = self.workers.control(&group, which, action, is_kept).ok_or_else(|| self.no_group(&group))?;
        tracing::info!(client = %peer.identity.client(), group, ?which, ?action, "workers are controlled");
        Ok(Control { group, outcomes, timeout })
    }

    /// Waits until it is done.
    pub(super) async fn controlled(&self, control: Control, stop: &Stop) -> thrift::Result<WorkerControlReply> {
        let Control { group, outcomes, timeout: patience } = control;
        let outcomes = tokio::select! {
            outcomes = timeout(patience, outcomes) => outcomes.ok().map(|outcomes| outcomes.map_err(|_| stops())),
            () = stop.requested() => Some(Err(stops())),
        };
        let controlled = outcomes.transpose()?;
        let timed_out = controlled.is_none();
        let (outcomes, not_saved) = controlled.unwrap_or_default();
        let outcomes = outcomes_of(&group, outcomes);
        Ok(WorkerControlReply { outcomes, timed_out, not_saved, is_configured: None })
    }

    pub(super) fn worker_output(&self, peer: &Peer, query: &WorkerOutputQuery) -> thrift::Result<WorkerOutputReply> {
        peer.identity.may_read_output().map_err(denied)?;
        let after = u64::try_from(query.after.unwrap_or(0)).map_err(|_| invalid("after", "no line is below 0"))?;
        let which = self.which(&query.group, query.number)?;
        let printed = self.workers.output(&query.group, after, which).ok_or_else(|| self.no_group(&query.group))?;
        let Printed { lines, last, missed } = printed;
        let lines = lines.into_iter().map(line).collect();
        Ok(WorkerOutputReply { lines, last: last as i64, missed: missed as i64 })
    }

    /// The same, where no group means all groups.
    pub(super) fn which_of(&self, group: Option<&str>, number: Option<i32>) -> thrift::Result<Which> {
        match (group, number) {
            (Some(group), number) => self.which(group, number),
            (None, None) => Ok(Which::All),
            (None, Some(_)) => Err(invalid("group", "a number is one of a group's: name the group")),
        }
    }

    /// All slots of a group, or the one with this number, if it exists.
    fn which(&self, group: &str, number: Option<i32>) -> thrift::Result<Which> {
        let found = self.workers.reports().find(|it| it.name == group);
        let GroupReport { workers: reports, .. } = found.ok_or_else(|| self.no_group(group))?;
        let Some(number) = number else { return Ok(Which::All) };
        let found = reports.iter().map(|report| report.number).find(|found| i64::from(*found) == i64::from(number));
        found.map(Which::Number).ok_or_else(|| {
            let last = reports.last().map_or(0, |report| report.number);
            self.no_worker(format!("{group}/{number}"), &format!("{group} has the numbers 1 to {last}"))
        })
    }

    pub(super) fn no_group(&self, group: &str) -> thrift::Error {
        let names: Vec<String> = self.workers.reports().map(|it| it.name).collect();
        let there_are = match names.is_empty() {
            true => "the configuration has no [[worker]], and none was added".to_owned(),
            false => format!("there are {}", names.join(", ")),
        };
        self.no_worker(group.to_owned(), &there_are)
    }

    fn no_worker(&self, name: String, there_are: &str) -> thrift::Error {
        // It may have been there until the stop, and be there again.
        if self.workers.are_over() {
            return stops();
        }
        let message = format!("there is no worker `{}`; {there_are}", name.escape_debug());
        let freshness = self.store.snapshot().freshness(std::iter::empty()).into();
        NotFound { kind: EntityKind::WORKER, name, message, freshness }.into()
    }
}

impl From<State> for WorkerState {
    fn from(state: State) -> Self {
        match state {
            State::Stopped => Self::STOPPED,
            State::Starting => Self::STARTING,
            State::Running => Self::RUNNING,
            State::Backoff => Self::BACKOFF,
            State::Stopping => Self::STOPPING,
            State::Exited => Self::EXITED,
            State::Fatal => Self::FATAL,
        }
    }
}

pub(super) fn stops() -> thrift::Error {
    let message = "the sidecar stops, and with it what was asked of workers";
    thrift::Error::Application(ApplicationError::new(ApplicationErrorKind::InternalError, message))
}

/// The worker after which a page begins: the number of its group, and its own.
fn place(cursor: &str) -> thrift::Result<(u64, u32)> {
    let place = cursor.split_once('/').and_then(|(group, number)| Some((group.parse().ok()?, number.parse().ok()?)));
    place.ok_or_else(|| invalid("cursor", "no page of workers ended so"))
}

fn action(request: &WorkerControl) -> thrift::Result<Action> {
    Ok(match request.action {
        WorkerAction::START => Action::Start,
        WorkerAction::STOP => Action::Stop,
        WorkerAction::RESTART => Action::Restart,
        WorkerAction::ROLL => Action::Roll,
        WorkerAction::SCALE => match request.count.map(u32::try_from) {
            _ if request.number.is_some() => return Err(invalid("number", "a group is scaled as a whole")),
            Some(Ok(count @ 1..=MAX_COUNT)) => Action::Scale(count),
            _ => return Err(invalid("count", &format!("must be from 1 to {MAX_COUNT}; STOP ends all"))),
        },
        WorkerAction::SIGNAL => {
            let name = request.signal.as_deref().unwrap_or_default();
            let no_signal = || invalid("signal", &format!("`{}` is none, as HUP is", name.escape_debug()));
            Action::Signal(signal(name).ok_or_else(no_signal)?)
        }
        WorkerAction::KILL => Action::Kill,
        WorkerAction(unknown) => return Err(invalid("action", &format!("{unknown} is none"))),
    })
}

pub(super) fn patience(timeout_ms: Option<i32>) -> thrift::Result<Duration> {
    match timeout_ms.map(u64::try_from) {
        None => Ok(DEFAULT_TIMEOUT),
        Some(Ok(millis)) => Ok(Duration::from_millis(millis).min(MAX_TIMEOUT)),
        Some(Err(_)) => Err(invalid("timeoutMs", "must not be below 0")),
    }
}

/// The outcome for each worker.
pub(super) fn outcomes_of(group: &str, outcomes: Outcomes) -> Vec<WorkerOutcome> {
    let outcome = |(number, done): (u32, Result<(), String>)| WorkerOutcome::new(name(group, number), done.err());
    outcomes.into_iter().map(outcome).collect()
}

/// A job in words.
fn what((queue, name, id): (&str, &str, u64), may_look: bool) -> String {
    let [queue, name] = [queue, name].map(|name| shortened(name, MAX_JOB_NAME));
    if may_look { format!("{queue}/{name} {id}") } else { "a job".to_owned() }
}

fn name(group: &str, number: u32) -> String {
    format!("{group}/{number}")
}

fn line(line: Line) -> WorkerLine {
    WorkerLine::new(line.number as i64, millis(line.at), line.worker, line.is_error, line.text)
}

fn millis(at: SystemTime) -> i64 {
    millis_since_1970(at) as i64
}
