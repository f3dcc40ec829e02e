//! Callers: carry out one call, on another master where it was not executed, or may be twice.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use rmpv::Value;
use semver::Version;
use tokio::time::{Instant, timeout_at};

use super::accounts::{Account, CallTaken, TooManyCalls};
use super::idl::{CallCompletion, CallFailed, CallTimedOut, NoMaster, Overloaded};
use super::memory::{NoRoom, Values};
use super::request::Request;
use super::value;
use crate::metrics::{Ending, Held, Metrics, Tally};
use crate::model::{Answer, Answers, Call, Line, Refused, Service};
use crate::resolve::{self, Requirement};
use crate::share::Taken;
use crate::store::{Entry, Provider, Snapshot, Store};

/// How often it is looked whether masters are still expected, while nothing becomes of any.
const RECHECK: Duration = Duration::from_millis(200);

/// How many masters are passed over at most that take no values beside arguments.
const MAX_ASIDE: usize = 64;

/// Calls methods on masters.
#[derive(Debug)]
pub(super) struct Caller {
    store: Arc<Store>,
    metrics: Arc<Metrics>,
}

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Failure {
    NoMaster(NoMaster),
    Failed(CallFailed),
    TimedOut(CallTimedOut),
    Overloaded(Overloaded),
}

/// Whose call it is, until when it may take, and where its values go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds<'a> {
    pub(super) account: &'a Arc<Account>,
    pub(super) until: Instant,
    pub(super) values: &'a Values,
}

/// A call under way.
struct UnderWay<'a> {
    _counted: Held<'a>,
    _taken: CallTaken,
    tally: Tally<'a>,
    started: Instant,
    attempts: i32,
}

impl Caller {
    pub(super) fn new(store: Arc<Store>, metrics: Arc<Metrics>) -> Self {
        Self { store, metrics }
    }

    /// Calls the master that the request is for, or one of those that offer the service.
    pub(super) async fn call(&self, request: &Request, bounds: Bounds<'_>) -> Result<CallCompletion, Failure> {
        if let Some(id) = &request.master {
            return self.call_on(self.one(id, request, bounds.until).await?, request, bounds).await;
        }
        let mut call = self.begin(request, bounds.account)?;
        let master = self.on_any(request, bounds, &mut call).await;
        call.end(master)
    }

    /// Calls this master and no other.
    pub(super) async fn call_on(
        &self,
        entry: Arc<Entry>,
        request: &Request,
        bounds: Bounds<'_>,
    ) -> Result<CallCompletion, Failure> {
        let mut call = self.begin(request, bounds.account)?;
        let master = attempt(entry, request, bounds, &mut call).await;
        call.end(master)
    }

    /// The master with this id, if it is there; one that is expected back is waited for.
    async fn one(&self, id: &str, request: &Request, until: Instant) -> Result<Arc<Entry>, Failure> {
        self.when_back(request, until, || {
            let snapshot = self.store.snapshot();
            match snapshot.directory().master(id) {
                Some(entry) if entry.is_connected() => Ok(entry.clone()),
                Some(_) => Err(unsent(request, format!("master `{id}` is not connected"))),
                None => Err(nobody(&snapshot, request, unoffered(id, request))),
            }
        })
        .await
    }

    /// All masters that offer the service in a version and with metadata that fit; where no version is asked for, in any. If
    /// none is connected, those that are expected back are waited for.
    pub(super) async fn all(&self, request: &Request, until: Instant) -> Result<Vec<Arc<Entry>>, Failure> {
        self.when_back(request, until, || self.all_now(request)).await
    }

    fn all_now(&self, request: &Request) -> Result<Vec<Arc<Entry>>, Failure> {
        let snapshot = self.store.snapshot();
        let directory = snapshot.directory();
        let any = resolve::choose(directory, &request.service, &request.wanted);
        any.map_err(|none| nobody(&snapshot, request, none.to_string()))?;
        let fits = |of: &Version| request.wanted.version.as_ref().is_none_or(|version| version.matches(of));
        let by_version = directory.instances_of(&request.service).into_iter().flatten().filter(|(of, _)| fits(of));
        let has_metadata =
            |it: &&Provider| it.instances.iter().any(|instance| instance.has_metadata(&request.wanted.metadata));
        let providers = by_version.flat_map(|(_, those)| those.iter().filter(has_metadata));
        let mut ids: Vec<&Arc<str>> = providers.map(|it| &it.id).collect();
        ids.sort_unstable();
        ids.dedup();
        Ok(ids.into_iter().filter_map(|id| directory.master(id)).cloned().collect())
    }

    fn begin<'a>(&'a self, request: &'a Request, account: &Arc<Account>) -> Result<UnderWay<'a>, Failure> {
        self.metrics.calls.increment();
        let is_offered = || self.store.snapshot().directory().instances_of(&request.service).is_some();
        let tally = self.metrics.methods.begin(&request.service, &request.method, is_offered);
        let (counted, started) = (self.metrics.calls_outstanding.hold(), Instant::now());
        match account.call(&request.service) {
            Ok(taken) => Ok(UnderWay { _counted: counted, _taken: taken, tally, started, attempts: 0 }),
            Err(too_many) => {
                self.metrics.overloaded.increment();
                tally.end(Ending::Refused, started.elapsed());
                Err(Failure::Overloaded(Overloaded { message: message(too_many, &request.service) }))
            }
        }
    }

    async fn on_any(&self, request: &Request, bounds: Bounds<'_>, call: &mut UnderWay<'_>) -> Result<String, Failure> {
        let mut wanted = request.wanted.clone();
        let mut failure: Option<Failure> = None;
        loop {
            let entry = match &failure {
                None => self.when_back(request, bounds.until, || self.choose(request, &wanted)).await?,
                // Why the last one failed says more than that there is no other.
                Some(failure) => self.choose(request, &wanted).map_err(|_| failure.clone())?,
            };
            wanted.not.push(entry.master.id.as_str().into());
            match attempt(entry, request, bounds, call).await {
                Err(failed)
                    if failed.may_be_tried_again(request)
                        && call.attempts as usize <= request.retries
                        && bounds.values.start_over() =>
                {
                    failure = Some(failed);
                    // Where all refuse at once, others of this thread have their turn in between.
                    tokio::task::yield_now().await;
                }
                ended => return ended,
            }
        }
    }

    /// What `find` finds, if need be when masters have come back after a restart that were known before.
    async fn when_back<T>(
        &self,
        request: &Request,
        until: Instant,
        find: impl Fn() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut changes = None;
        loop {
            match find() {
                Err(_) if self.is_expected(request) && Instant::now() < until => {}
                found => return found,
            }
            let Some(changes) = &changes else {
                changes = Some(self.store.subscribe_to_masters());
                continue;
            };
            // A source that gives them up does not say so.
            let _ = timeout_at(until.min(Instant::now() + RECHECK), changes.changed()).await;
        }
    }

    /// Whether masters that offer the service may be about to come back.
    fn is_expected(&self, request: &Request) -> bool {
        let snapshot = self.store.snapshot();
        let directory = snapshot.directory();
        let was_known = directory.instances_of(&request.service).is_some() || directory.was_offered(&request.service);
        snapshot
            .behind_masters()
            .any(|(feed, filled)| feed.is_returning(filled.settling) && (was_known || !filled.whole))
    }

    /// The snapshot is let go before anybody waits.
    fn choose(&self, request: &Request, wanted: &resolve::Wanted) -> Result<Arc<Entry>, Failure> {
        let snapshot = self.store.snapshot();
        let choose = |wanted: &_| resolve::choose(snapshot.directory(), &request.service, wanted);
        let mut chosen = choose(wanted);
        let mut wanted = wanted.clone();
        // Another one may take the values that are sent.
        while let Ok(entry) = &chosen
            && !takes_input(entry, request)
            && wanted.not.len() < MAX_ASIDE
        {
            wanted.not.push(entry.master.id.as_str().into());
            let Ok(other) = choose(&wanted) else { break };
            chosen = Ok(other);
        }
        chosen.map_err(|none| nobody(&snapshot, request, none.to_string()))
    }
}

impl Failure {
    /// Whether it is safe to call another master: nothing was executed, or it may be twice.
    fn may_be_tried_again(&self, request: &Request) -> bool {
        match self {
            Failure::NoMaster(_) | Failure::Overloaded(_) => true,
            Failure::Failed(failed) => failed.lost && request.is_idempotent,
            Failure::TimedOut(_) => false,
        }
    }

    /// Whether nobody knows if it was carried out, or still is.
    pub(super) fn came_to_no_end(&self) -> bool {
        match self {
            Failure::TimedOut(_) => true,
            Failure::Failed(failed) => failed.lost,
            Failure::NoMaster(_) | Failure::Overloaded(_) => false,
        }
    }

    fn ending(&self) -> Ending {
        match self {
            Failure::NoMaster(_) | Failure::Overloaded(_) => Ending::Refused,
            Failure::Failed(failed) if failed.lost => Ending::Lost,
            Failure::Failed(_) => Ending::Failed,
            Failure::TimedOut(_) => Ending::TimedOut,
        }
    }
}

impl UnderWay<'_> {
    fn end(self, master: Result<String, Failure>) -> Result<CallCompletion, Failure> {
        let took = self.started.elapsed();
        self.tally.end(master.as_ref().err().map_or(Ending::Answered, Failure::ending), took);
        Ok(CallCompletion { master_id: master?, duration_us: took.as_micros() as i64, attempts: self.attempts })
    }
}

/// Why a call may not begin.
fn message(too_many: TooManyCalls, service: &str) -> String {
    let who = match too_many {
        TooManyCalls::OfUser => "this user has as many calls under way as one user".to_owned(),
        TooManyCalls::OfService => format!("this user has as many calls of `{service}` under way as of one service"),
    };
    format!("{who} may have of max_calls; try again")
}

/// Calls one master; its id. It is let go as soon as the call is sent: who waits for an answer keeps no connection
/// alive.
async fn attempt(
    entry: Arc<Entry>,
    request: &Request,
    bounds: Bounds<'_>,
    call: &mut UnderWay<'_>,
) -> Result<String, Failure> {
    call.attempts += 1;
    if call.attempts > 1 {
        call.tally.retried();
    }
    let master = entry.master.id.clone();
    let answers = send(&entry, request, bounds).await?;
    drop(entry);
    match timeout_at(bounds.until, gather(answers, &master, request, bounds)).await {
        Ok(gathered) => gathered.map(|()| master),
        Err(_) if bounds.values.have_come() => Err(timed_out(master, request, "came to no end")),
        Err(_) => Err(timed_out(master, request, "gave no answer")),
    }
}

/// Sends the call by the way with the fewest calls under way that takes it.
async fn send(entry: &Entry, request: &Request, bounds: Bounds<'_>) -> Result<Answers, Failure> {
    let id = &entry.master.id;
    let Some(service) = offered(entry, request) else {
        return Err(unsent(request, unoffered(id, request)));
    };
    if bounds.until <= Instant::now() {
        return Err(timed_out(id.clone(), request, "was not sent"));
    }
    let (method, arguments) = (request.method.clone(), request.arguments.clone());
    let (service_name, input) = (service.name.clone(), request.input.clone());
    let (until, memory) = (Some(bounds.until.into_std()), bounds.account.memory.clone());
    let call = Call { service: service_name, method, arguments, until, input, memory };
    let mut lines: Vec<_> = entry.lines_to(service).cloned().collect();
    if request.input.is_some() {
        lines.retain(|line| line.takes_input());
        if lines.is_empty() {
            let why = "takes no values beside arguments: only a master of PHP at this sidecar's own register does";
            return Err(unsent(request, format!("master `{id}` {why}")));
        }
    }
    lines.sort_by_cached_key(|line| line.outstanding());
    let sent =
        timeout_at(bounds.until, bounds.account.memory.work(request.weight, move || call_by_one(&lines, &call))).await;
    let refused = match sent {
        Ok(Ok(answers)) => return Ok(answers),
        Ok(Err(refused)) => refused,
        Err(_) => return Err(timed_out(id.clone(), request, "gave no answer")),
    };
    let message = format!("master `{id}`: {refused}");
    Err(match refused {
        Refused::Overloaded | Refused::NoMemory => Failure::Overloaded(Overloaded { message }),
        Refused::Gone => unsent(request, message),
    })
}

/// By the first line that takes it.
fn call_by_one(lines: &[Arc<dyn Line>], call: &Call) -> Result<Answers, Refused> {
    let mut refused = Refused::Gone;
    for line in lines {
        match line.call(call.clone()) {
            Ok(answers) => return Ok(answers),
            Err(why) => refused = why,
        }
    }
    Err(refused)
}

/// Whether the master can be sent what the request sends, if that sends values.
fn takes_input(entry: &Entry, request: &Request) -> bool {
    let takes = |service| entry.lines_to(service).any(|line| line.takes_input());
    request.input.is_none() || offered(entry, request).is_some_and(takes)
}

/// The newest version of the service that the master offers and that fits.
fn offered<'a>(entry: &'a Entry, request: &Request) -> Option<&'a Service> {
    let fits =
        |version: &Option<Requirement>, of: &Service| version.as_ref().is_none_or(|it| it.matches(&of.version()));
    let offers = entry.master.services.iter().filter(|service| service.base_name() == request.service);
    let offers = offers.filter(|service| service.has_metadata(&request.wanted.metadata));
    offers.filter(|service| fits(&request.wanted.version, service)).max_by_key(|service| service.version())
}

/// How many times as much memory a small value takes as bytes when it is written.
const MEMORY_OF_A_BYTE: usize = 16;

/// Waits for all that the master gives. A value is charged as long as it is held: as it came, it may take many times as
/// much as it does when it is written.
async fn gather(mut answers: Answers, master: &str, request: &Request, bounds: Bounds<'_>) -> Result<(), Failure> {
    let failed = |message, class_name, code, lost| {
        Failure::Failed(CallFailed { master_id: master.to_owned(), message, class_name, code, lost })
    };
    let given_up = |why: String| failed(format!("the call was given up: {why}"), None, 0, false);
    let put = async |value: Value, mut held: Taken| {
        let encoding = request.encoding;
        let write = move || value::write(encoding, &value);
        let written = bounds.account.memory.work(held.amount() / MEMORY_OF_A_BYTE, write).await.map_err(given_up)?;
        held.resize(0);
        bounds.values.put(written).await.map_err(|why| given_up(why.to_string()))
    };
    let (mut last, mut held) = (Value::Nil, bounds.account.memory.nothing());
    loop {
        let value = match answers.next().await {
            Some(Answer::Value(value)) => value,
            Some(Answer::Packed(packed)) => {
                packed.read(&bounds.account.memory).await.map_err(|why| failed(why, None, 0, false))?
            }
            Some(Answer::End) if last.is_nil() => return Ok(()),
            Some(Answer::End) => return put(last, held).await,
            Some(Answer::Failed { message, class, code }) => return Err(failed(message, class, code, false)),
            Some(Answer::Lost(message)) => return Err(failed(message, None, 0, true)),
            Some(Answer::Refused(message)) => {
                return Err(Failure::Overloaded(Overloaded { message: format!("master `{master}`: {message}") }));
            }
            Some(Answer::Unsent(message)) => return Err(unsent(request, format!("master `{master}`: {message}"))),
            None => return Err(failed("the way to the master was closed".into(), None, 0, true)),
        };
        (last, held) = (Value::Nil, bounds.account.memory.nothing());
        if !held.resize(value::memory_size(&value)) {
            return Err(given_up(NoRoom::Memory.to_string()));
        }
        if request.all_values {
            put(value, std::mem::replace(&mut held, bounds.account.memory.nothing())).await?;
        } else {
            last = value;
        }
    }
}

/// That the master is none to call, or not any more: another one can be.
pub(super) fn unsent(request: &Request, message: String) -> Failure {
    Failure::NoMaster(NoMaster { service_name: request.service.clone(), message })
}

/// What a call did not come to, and within which time; and that this was not the client's own, if it was not.
fn timed_out(master: String, request: &Request, what: &str) -> Failure {
    let Request { service, method, timeout, is_cut, .. } = request;
    let limit = if *is_cut { ", the most that `[thrift] max_call_time` allows" } else { "" };
    let message = format!("{service}.{method} {what} within {}{limit}", humantime::format_duration(*timeout));
    Failure::TimedOut(CallTimedOut { master_id: Some(master), timeout_ms: timeout.as_millis() as i32, message })
}

/// Says the same of a master that is not there as of one that does not offer the service: who may call is not always who
/// may know.
fn unoffered(id: &str, request: &Request) -> String {
    format!("there is no master `{id}` that offers the service `{}`", request.service)
}

/// That there is no master; and that there may be one, while not all who tell of masters have been heard.
fn nobody(snapshot: &Snapshot, request: &Request, mut message: String) -> Failure {
    if let Some((feed, _)) = snapshot.behind_masters().find(|(_, filled)| !filled.whole) {
        message = format!("{message}; but {} is not yet known as a whole: {}", feed.name(), feed.detail());
    }
    Failure::NoMaster(NoMaster { service_name: request.service.clone(), message })
}
