//! Queues: enqueues jobs, hands them out, and hears what became of them.

use std::fmt::{self, Display};
use std::time::Duration;

use super::Peer;
use super::api::{Api, denied, invalid, page_size};
use super::dispatch::ReplyTo;
use super::idl::{
    self, CancelJobReply, EnqueueReply, EnqueueRequest, EntityKind, JobAction, JobProgress, JobQuery, JobReply,
    JobState, JobUpdate, JobUpdateReply, JobsReply, NotFound, Overloaded, PeekJobsRequest, QueueAction, QueueControl,
    QueueControlReply, QueueSummary, QueuesQuery, QueuesReply, RecurringJobsReply, TakeJobsReply, TakeJobsRequest,
    UniqueUntil,
};
use crate::access::Client;
use crate::queue::{
    Asker, Control, Handed, Job, MAX_AT_ONCE, MAX_WEIGHT, Most, NewJob, Order, Overview, Page, Progress, Recurs,
    Refused, Sources, State, Unique, Until, Update,
};
use crate::task::Stop;

/// From how many queues one request takes.
const MAX_QUEUES: usize = 64;

/// What a job or a queue takes in a reply beside its texts and its payload.
const OVERHEAD: usize = 256;

/// A request to the queues, whose rights are checked as far as names decide.
#[derive(Debug)]
pub(super) enum QueueRequest {
    Take { sources: Sources, most: usize, lease: Option<Duration>, wait: Duration },
    Update { id: u64, attempt: u32, update: Update },
    Find(u64),
    Cancel(u64),
    List { after: String, limit: usize },
    Peek { queue: String, order: Order, from: Vec<u8>, limit: usize },
    Control { queue: String, control: QueueOrJob },
    Move { queue: String, to: String },
    Recurring,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum QueueOrJob {
    Queue(Control),
    /// The dead job with this id is retried.
    Job(u64),
}

/// For the log.
impl Display for QueueOrJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(Control::Pause) => f.write_str("pause"),
            Self::Queue(Control::Resume) => f.write_str("resume"),
            Self::Queue(Control::Purge(order)) => write!(f, "purge {order}"),
            Self::Queue(Control::Retry) => f.write_str("retry all"),
            Self::Job(id) => write!(f, "retry {id}"),
        }
    }
}

/// The reply to one of them.
#[derive(Debug)]
pub(super) enum QueueReply {
    Enqueued(EnqueueReply),
    /// If it is not written, its jobs are given back.
    Taken(TakeJobsReply, Handed),
    Updated(JobUpdateReply),
    Found(Box<JobReply>),
    Cancelled(CancelJobReply),
    Listed(QueuesReply),
    Peeked(JobsReply),
    Controlled(QueueControlReply),
    Recurring(RecurringJobsReply),
}

impl QueueRequest {
    /// About how much memory it takes while it waits.
    pub(super) fn memory_size(&self) -> usize {
        match self {
            Self::Take { sources, .. } => sources.names().map(|queue| queue.len() + OVERHEAD).sum(),
            Self::Update { update, .. } => update.memory_size(),
            Self::List { after, .. } => after.len(),
            Self::Peek { queue, from, .. } => queue.len() + from.len(),
            Self::Move { queue, to } => queue.len() + to.len(),
            Self::Find(_) | Self::Cancel(_) | Self::Control { .. } | Self::Recurring => 0,
        }
    }

    /// Whether it may wait for long, as a watch.
    pub(super) fn is_patient(&self) -> bool {
        matches!(self, Self::Take { wait, .. } if !wait.is_zero())
    }
}

impl QueueReply {
    pub(super) fn write(self, mut reply: ReplyTo<'_>) -> thrift::Result<()> {
        match self {
            Self::Enqueued(enqueued) => reply.write(Ok(enqueued)),
            Self::Taken(taken, handed) => {
                reply.write(Ok(taken))?;
                handed.have_arrived();
                Ok(())
            }
            Self::Updated(updated) => reply.write(Ok(updated)),
            Self::Found(found) => reply.write(Ok(*found)),
            Self::Cancelled(cancelled) => reply.write(Ok(cancelled)),
            Self::Listed(listed) => reply.write(Ok(listed)),
            Self::Peeked(peeked) => reply.write(Ok(peeked)),
            Self::Controlled(controlled) => reply.write(Ok(controlled)),
            Self::Recurring(recurring) => reply.write(Ok(recurring)),
        }
    }

    /// About how much memory it takes until it is sent.
    pub(super) fn memory_size(&self) -> usize {
        let of_job = |job: &idl::Job| size(job);
        match self {
            Self::Enqueued(reply) => reply.jobs.len() * size_of::<idl::EnqueuedJob>(),
            Self::Taken(reply, _) => reply.jobs.iter().map(of_job).sum(),
            Self::Found(reply) => size(&reply.job),
            Self::Listed(reply) => reply.queues.iter().map(|queue| queue.name.len() + OVERHEAD).sum(),
            Self::Peeked(reply) => reply.jobs.iter().map(of_job).sum(),
            Self::Recurring(reply) => reply.jobs.iter().map(size_of_recurring).sum(),
            Self::Updated(_) | Self::Cancelled(_) | Self::Controlled(_) => 0,
        }
    }
}

impl Api {
    pub(super) fn enqueue(&self, peer: &Peer, request: EnqueueRequest) -> thrift::Result<Vec<NewJob>> {
        for job in &request.jobs {
            peer.identity.may_enqueue(&job.queue).map_err(denied)?;
        }
        request.jobs.into_iter().map(new_job).collect()
    }

    pub(super) fn take_jobs(&self, peer: &Peer, request: TakeJobsRequest) -> thrift::Result<QueueRequest> {
        let TakeJobsRequest { queues, limit, lease_ms, wait_ms, weights } = request;
        if queues.is_empty() || queues.len() > MAX_QUEUES {
            return Err(invalid("queues", &format!("name from 1 to {MAX_QUEUES} of them")));
        }
        queues.iter().try_for_each(|queue| peer.identity.may_perform(queue)).map_err(denied)?;
        let most = usize::try_from(limit.unwrap_or(1)).ok().filter(|most| (1..=MAX_AT_ONCE).contains(most));
        let most = most.ok_or_else(|| invalid("limit", &format!("from 1 to {MAX_AT_ONCE}")))?;
        let lease = lease_ms.map(|lease| some_millis("leaseMs", lease)).transpose()?;
        let wait = millis("waitMs", wait_ms.unwrap_or(0).into())?.min(self.config.max_watch);
        let sources = match weights {
            None => queues.into(),
            Some(weights) if weights.len() != queues.len() => {
                return Err(invalid("weights", "name one for each of the queues"));
            }
            Some(weights) => {
                let weight = |weight| u32::try_from(weight).ok().filter(|weight| (1..=MAX_WEIGHT).contains(weight));
                let weights = weights.into_iter().map(weight).collect::<Option<Vec<_>>>();
                let weights = weights.ok_or_else(|| invalid("weights", &format!("each is from 1 to {MAX_WEIGHT}")))?;
                Sources::by_weight(queues.into_iter().zip(weights).collect())
            }
        };
        Ok(QueueRequest::Take { sources, most, lease, wait })
    }

    pub(super) fn update_job(&self, request: JobUpdate) -> thrift::Result<QueueRequest> {
        let JobUpdate { id, attempt, action, delay_ms, error, lease_ms, progress, result } = request;
        let error = error.unwrap_or_default();
        let update = match action {
            JobAction::DONE => result.map_or(Update::Done, |result| Update::Return { result }),
            JobAction::FAIL => Update::Fail { error },
            JobAction::RELEASE => Update::Release { delay: millis("delayMs", delay_ms.unwrap_or(0))? },
            JobAction::BURY => Update::Bury { error },
            JobAction::TOUCH => {
                Update::Touch { lease: lease_ms.map(|lease| some_millis("leaseMs", lease)).transpose()? }
            }
            JobAction::PROGRESS => {
                let progress = progress.ok_or_else(|| invalid("progress", "PROGRESS requires it"))?;
                let percent = u64::try_from(progress.percent).ok().filter(|percent| *percent <= 100);
                let percent = percent.ok_or_else(|| invalid("percent", "it is from 0 to 100"))?;
                Update::Progress(Progress::new(percent, progress.note.as_deref().unwrap_or_default()))
            }
            JobAction(unknown) => return Err(invalid("action", &format!("{unknown} is unknown"))),
        };
        let attempt = u32::try_from(attempt).map_err(|_| invalid("attempt", "must not be below 0"))?;
        Ok(QueueRequest::Update { id: job_id(id)?, attempt, update })
    }

    pub(super) fn find_job(&self, request: JobQuery) -> thrift::Result<QueueRequest> {
        job_id(request.id).map(QueueRequest::Find)
    }

    pub(super) fn cancel_job(&self, request: JobQuery) -> thrift::Result<QueueRequest> {
        job_id(request.id).map(QueueRequest::Cancel)
    }

    pub(super) fn list_queues(&self, peer: &Peer, request: QueuesQuery) -> thrift::Result<QueueRequest> {
        self.ensure_room_for_page(peer)?;
        let limit = page_size(request.limit)?.min(MAX_AT_ONCE);
        Ok(QueueRequest::List { after: request.cursor.unwrap_or_default(), limit })
    }

    pub(super) fn peek_jobs(&self, peer: &Peer, request: PeekJobsRequest) -> thrift::Result<QueueRequest> {
        let PeekJobsRequest { queue, state, limit, cursor } = request;
        peer.identity.may_peek(&queue).map_err(denied)?;
        self.ensure_room_for_page(peer)?;
        let order = order(state).ok_or_else(|| invalid("state", "it is unknown"))?;
        let limit = page_size(limit)?.min(MAX_AT_ONCE);
        Ok(QueueRequest::Peek { queue, order, from: cursor.unwrap_or_default(), limit })
    }

    pub(super) fn control_queue(&self, peer: &Peer, request: QueueControl) -> thrift::Result<QueueRequest> {
        peer.identity.may_control_queues().map_err(denied)?;
        let QueueControl { queue, action, state, id, to } = request;
        let control = match (action, id) {
            (QueueAction::PAUSE, _) => QueueOrJob::Queue(Control::Pause),
            (QueueAction::RESUME, _) => QueueOrJob::Queue(Control::Resume),
            (QueueAction::PURGE, _) => match state.and_then(order) {
                Some(order) if order != Order::Running => QueueOrJob::Queue(Control::Purge(order)),
                _ => return Err(invalid("state", "a purge takes WAITING, DELAYED, DEAD or DONE")),
            },
            (QueueAction::RETRY, Some(id)) => QueueOrJob::Job(job_id(id)?),
            (QueueAction::MOVE, _) => {
                let to = to.ok_or_else(|| invalid("to", "a move takes another queue"))?;
                return Ok(QueueRequest::Move { queue, to });
            }
            (QueueAction::RETRY, None) => QueueOrJob::Queue(Control::Retry),
            (QueueAction(unknown), _) => return Err(invalid("action", &format!("{unknown} is unknown"))),
        };
        Ok(QueueRequest::Control { queue, control })
    }

    pub(super) fn list_recurring(&self, peer: &Peer) -> thrift::Result<QueueRequest> {
        self.ensure_room_for_page(peer)?;
        Ok(QueueRequest::Recurring)
    }

    /// Enqueues jobs, and waits until they are on the disk. By itself, as this waits with less memory than what else is asked
    /// of queues, and more often.
    pub(super) async fn enqueued(&self, peer: &Peer, jobs: Vec<NewJob>) -> thrift::Result<QueueReply> {
        let enqueued = self.queues.enqueue(asker(peer), jobs).await.map_err(|why| self.refused_by_queue(why))?;
        let is_buffered = enqueued.iter().any(|it| it.is_buffered).then_some(true);
        let jobs = enqueued.into_iter().map(|it| idl::EnqueuedJob { id: it.id as i64, is_new: it.is_new });
        Ok(QueueReply::Enqueued(EnqueueReply { jobs: jobs.collect(), is_buffered }))
    }

    /// Carries it out, and waits until that is on the disk.
    pub(super) async fn of_queues(
        &self,
        peer: &Peer,
        request: QueueRequest,
        stop: &Stop,
    ) -> thrift::Result<QueueReply> {
        let refused = |why| self.refused_by_queue(why);
        let asker = asker(peer);
        Ok(match request {
            QueueRequest::Take { sources, most, lease, wait } => {
                let most = Most { jobs: most, bytes: self.page_bytes() };
                let _waiting = (!wait.is_zero()).then(|| self.metrics.watches_waiting.hold());
                let (taken, handed) = tokio::select! {
                    taken = self.queues.take(Some(asker), sources, most, lease, wait) => taken.map_err(refused)?,
                    () = stop.requested() => Default::default(),
                };
                QueueReply::Taken(TakeJobsReply { jobs: taken.into_iter().map(job).collect() }, handed)
            }
            QueueRequest::Update { id, attempt, update } => {
                let grant = peer.identity.grant().clone();
                let may_perform = move |queue: &str, _| grant.performs(queue);
                let updated = self.queues.update(Some(asker), (id, attempt), update, may_perform).await;
                let until = updated.map_err(refused)?;
                QueueReply::Updated(JobUpdateReply { lease_ends_at: until.map(|until| until as i64) })
            }
            QueueRequest::Find(id) => {
                let found = self.queues.find(asker, id, may_see_job(peer)).await.map_err(refused)?;
                QueueReply::Found(Box::new(JobReply { job: self.shown(peer, found) }))
            }
            QueueRequest::Cancel(id) => {
                self.queues.cancel(asker, id, may_see_job(peer)).await.map_err(refused)?;
                QueueReply::Cancelled(CancelJobReply {})
            }
            QueueRequest::List { after, limit } => {
                let grant = peer.identity.grant().clone();
                let sees = move |queue: &str| grant.sees_queue(queue);
                let all = self.queues.overviews(asker, after, limit, sees.clone()).await.map_err(refused)?;
                let cursor = all.last().filter(|_| all.len() == limit).map(|last| last.name.clone());
                let queues = all.into_iter().map(QueueSummary::from).collect();
                let trouble = self.queues.trouble(sees).map(|why| why.to_string());
                QueueReply::Listed(QueuesReply { queues, cursor, trouble })
            }
            QueueRequest::Peek { queue, order, from, limit } => {
                let most = Most { jobs: limit, bytes: self.page_bytes() };
                let Page { jobs, next } = self.queues.peek(asker, queue, order, from, most).await.map_err(refused)?;
                let jobs = jobs.into_iter().map(|job| self.shown(peer, job)).collect();
                QueueReply::Peeked(JobsReply { jobs, cursor: next })
            }
            QueueRequest::Move { queue, to } => {
                let told = (queue.clone(), to.clone());
                let (jobs, has_more) = self.queues.move_to(asker, queue, to).await.map_err(refused)?;
                let (queue, to) = told;
                tracing::info!(client = %peer.identity.client(), queue, to, jobs, "jobs of a queue are moved");
                QueueReply::Controlled(QueueControlReply { jobs: jobs as i32, has_more })
            }
            QueueRequest::Recurring => {
                let grant = peer.identity.grant();
                let all = self.queues.recurring(asker, |queue| grant.sees_queue(queue)).await.map_err(refused)?;
                QueueReply::Recurring(RecurringJobsReply { jobs: all.into_iter().map(recurring).collect() })
            }
            QueueRequest::Control { queue, control } => {
                let name = queue.clone();
                let (jobs, has_more) = match control {
                    QueueOrJob::Queue(control) => self.queues.control(asker, queue, control).await.map_err(refused)?,
                    QueueOrJob::Job(id) => {
                        self.queues.retry(asker, queue, id).await.map_err(refused)?;
                        (1, false)
                    }
                };
                let is_of_jobs = !matches!(control, QueueOrJob::Queue(Control::Pause | Control::Resume));
                tracing::info!(
                    client = %peer.identity.client(),
                    queue = name,
                    what = control.to_string(),
                    jobs = is_of_jobs.then_some(jobs),
                    "a queue is controlled"
                );
                QueueReply::Controlled(QueueControlReply { jobs: jobs as i32, has_more })
            }
        })
    }

    /// With the process that has it, for who may perform it.
    fn shown(&self, peer: &Peer, found: Job) -> idl::Job {
        let may_perform = peer.identity.grant().performs(&found.queue);
        let holder = self.queues.holder_of(&found).filter(|_| may_perform);
        let (worker, pid) = holder.map(|it| (it.worker, it.pid)).unzip();
        idl::Job { worker, pid, ..job(found) }
    }

    fn refused_by_queue(&self, why: Refused) -> thrift::Error {
        let message = why.to_string();
        let not_found = |kind, name: &dyn Display| -> thrift::Error {
            let snapshot = self.store.snapshot();
            let freshness = snapshot.freshness(snapshot.behind_all()).into();
            NotFound { kind, name: name.to_string(), message: message.clone(), freshness }.into()
        };
        match why {
            Refused::Invalid(field, message) => invalid(field, &message),
            Refused::Off => invalid("queue", &message),
            Refused::Running(_) => invalid("id", &message),
            Refused::Full(..) | Refused::TooMuch(_) | Refused::Unavailable(_) => {
                self.metrics.overloaded.increment();
                Overloaded { message }.into()
            }
            Refused::NoQueue(ref name) => not_found(EntityKind::QUEUE, name),
            Refused::NoJob(id) | Refused::Elsewhere(id, _) | Refused::NotLeased(id, _) => {
                not_found(EntityKind::JOB, &id)
            }
        }
    }
}

fn asker(peer: &Peer) -> Asker {
    let uid = match peer.identity.client() {
        Client::Unix { uid, .. } => Some(uid),
        Client::Tcp => None,
    };
    Asker { uid, is_admin: peer.identity.grant().is_admin() }
}

/// Whether the client enqueued a job, or may perform it.
fn may_see_job(peer: &Peer) -> impl Fn(&str, Option<u32>) -> bool + Send + Sync + 'static {
    let (grant, client) = (peer.identity.grant().clone(), peer.identity.client());
    move |queue, user| matches!(client, Client::Unix { uid, .. } if user == Some(uid)) || grant.performs(queue)
}

fn new_job(job: idl::NewJob) -> thrift::Result<NewJob> {
    let idl::NewJob {
        queue,
        name,
        payload,
        delay_ms,
        priority,
        unique_key,
        unique_until,
        retries,
        timeout_ms,
        limit_key,
        keep_result_ms,
    } = job;
    let until = match unique_until.unwrap_or(UniqueUntil::SUCCESS) {
        UniqueUntil::START => Until::Start,
        UniqueUntil::SUCCESS => Until::Success,
        UniqueUntil(unknown) => return Err(invalid("uniqueUntil", &format!("{unknown} is unknown"))),
    };
    let number = |field, number: i32| u32::try_from(number).map_err(|_| invalid(field, "must not be below 0"));
    let priority = priority.map(|it| number("priority", it)).transpose()?;
    Ok(NewJob {
        queue,
        name,
        payload: payload.unwrap_or_default(),
        delay: millis("delayMs", delay_ms.unwrap_or(0))?,
        priority: priority.map(|priority| u8::try_from(priority).unwrap_or(u8::MAX)),
        unique: unique_key.map(|key| Unique { key, until }),
        retries: retries.map(|retries| number("retries", retries)).transpose()?,
        timeout: timeout_ms.map(|timeout| some_millis("timeoutMs", timeout)).transpose()?,
        limit_key,
        keep_result: keep_result_ms.map(|time| millis("keepResultMs", time)).transpose()?,
        due_at: None,
    })
}

fn job_id(id: i64) -> thrift::Result<u64> {
    u64::try_from(id).map_err(|_| invalid("id", "must not be below 0"))
}

fn millis(field: &str, millis: i64) -> thrift::Result<Duration> {
    u64::try_from(millis).map(Duration::from_millis).map_err(|_| invalid(field, "must not be below 0"))
}

fn some_millis(field: &str, time: i64) -> thrift::Result<Duration> {
    match millis(field, time)? {
        Duration::ZERO => Err(invalid(field, "must be above 0")),
        time => Ok(time),
    }
}

fn order(state: JobState) -> Option<Order> {
    match state {
        JobState::WAITING => Some(Order::Waiting),
        JobState::DELAYED => Some(Order::Delayed),
        JobState::RUNNING => Some(Order::Running),
        JobState::DEAD => Some(Order::Dead),
        JobState::DONE => Some(Order::Done),
        _ => None,
    }
}

fn job(job: Job) -> idl::Job {
    let (state, at) = match job.state {
        State::Waiting => (JobState::WAITING, None),
        State::Delayed { until } => (JobState::DELAYED, Some(until)),
        State::Running { until } => (JobState::RUNNING, Some(until)),
        State::Dead { since } => (JobState::DEAD, Some(since)),
        State::Done { until } => (JobState::DONE, Some(until)),
    };
    let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    idl::Job {
        id: job.id as i64,
        queue: job.queue,
        name: job.name,
        payload: job.payload,
        state,
        priority: job.priority.into(),
        attempt: number(job.attempt),
        failures: number(job.failures),
        retries: number(job.retries),
        timeout_ms: job.timeout.as_millis() as i64,
        enqueued_at: job.enqueued_at as i64,
        state_at: at.map(|at| at as i64),
        error: job.error,
        progress: job.progress.map(|it| JobProgress {
            percent: it.percent().into(),
            note: Some(it.note().to_owned()).filter(|note| !note.is_empty()),
            reported_at: Some(it.reported_at() as i64),
        }),
        result: job.result,
        is_buffered: Some(true).filter(|_| job.is_buffered),
        unique_key: job.unique_key,
        limit_key: job.limit_key,
        due_at: job.due_at.map(|at| at as i64),
        worker: None,
        pid: None,
    }
}

fn recurring(it: Recurs) -> idl::RecurringJob {
    idl::RecurringJob {
        name: it.name,
        queue: it.queue,
        job: it.job,
        schedule: it.schedule,
        time_zone: it.time_zone,
        next_at: it.next.map(|at| at as i64),
        last_at: it.last.map(|(at, _)| at as i64),
        last_id: it.last.map(|(_, id)| id as i64),
        trouble: it.trouble,
    }
}

fn size_of_recurring(it: &idl::RecurringJob) -> usize {
    let trouble = it.trouble.as_ref().map_or(0, String::len);
    OVERHEAD + it.name.len() + it.queue.len() + it.job.len() + it.schedule.len() + it.time_zone.len() + trouble
}

fn size(job: &idl::Job) -> usize {
    let note = job.progress.as_ref().and_then(|progress| progress.note.as_ref());
    let keys = [job.unique_key.as_ref(), job.limit_key.as_ref()];
    let texts = [job.error.as_ref(), note, job.worker.as_ref()]
        .into_iter()
        .chain(keys)
        .flatten()
        .map(String::len)
        .sum::<usize>();
    let result = job.result.as_ref().map_or(0, Vec::len);
    OVERHEAD + job.queue.len() + job.name.len() + job.payload.len() + result + texts
}

impl From<Overview> for QueueSummary {
    fn from(it: Overview) -> Self {
        Self {
            name: it.name,
            is_paused: it.is_paused,
            waiting: it.waiting as i64,
            delayed: it.delayed as i64,
            running: it.running as i64,
            dead: it.dead as i64,
            bytes: it.bytes as i64,
            oldest_waiting: it.oldest_waiting.map(|at| at as i64),
            enqueued_in_last_minute: it.enqueued_recently.map(|count| count as i64),
            done_in_last_minute: it.done_recently.map(|count| count as i64),
            buffered: Some(it.buffered as i64).filter(|count| *count > 0),
            buffered_since: it.buffered_since.map(|at| at as i64),
            done: Some(it.done as i64),
            limited: Some(it.limited as i64).filter(|count| *count > 0),
            workers: Some(it.performed.workers as i32),
            clients: Some(it.performed.clients as i32),
            failed_lately: Some(it.failed_lately as i64).filter(|count| *count > 0),
        }
    }
}
