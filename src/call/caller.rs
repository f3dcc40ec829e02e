//! Callers: carry out one call, and retry it on another master if it was not executed or is idempotent.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use semver::Version;
use tokio::time::{Instant, timeout_at};

use super::attempt::{attempt, takes_input, unoffered};
use super::rights::{Right, TooMany};
use super::{Failure, Request, Rights, Values};
use crate::metrics::{CallStatus, CallTracker, GaugeGuard, Metrics};
use crate::model::Master;
use crate::resolve::{self, NoMaster, Query};
use crate::share::{Share, is_heavy};
use crate::store::{Directory, MasterEntry, Provider, Snapshot, Store};

/// How often to check whether masters are still expected while none changes.
const RECHECK_INTERVAL: Duration = Duration::from_millis(200);

/// How many masters are skipped at most because they accept no values besides arguments.
const MAX_SKIPPED: usize = 64;

/// Calls methods on masters.
#[derive(Debug)]
pub struct Caller {
    store: Arc<Store>,
    metrics: Arc<Metrics>,
}

/// The user of a call, its deadline, and where its values go.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    pub rights: &'a Arc<Rights>,
    pub memory: &'a Arc<Share>,
    pub until: Instant,
    pub values: &'a Values,
}

/// The completion of a call that was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    pub master: String,
    pub took: Duration,
    pub attempts: u32,
}

/// A call under way.
pub(super) struct InFlightCall<'a> {
    _counted: GaugeGuard<'a>,
    _right: Right,
    pub(super) tracker: CallTracker<'a>,
    started: Instant,
    pub(super) attempts: u32,
}

impl Caller {
    pub fn new(store: Arc<Store>, metrics: Arc<Metrics>) -> Self {
        Self { store, metrics }
    }

    /// Calls the master that the request names, or one of those that offer the service.
    pub async fn call(&self, request: &Request, bounds: Bounds<'_>) -> Result<Completion, Failure> {
        if let Some(id) = &request.master {
            return self.call_on(self.one(id, request, bounds.until).await?, request, bounds).await;
        }
        let mut call = self.begin(request, bounds.rights)?;
        let master = self.on_any(request, bounds, &mut call).await;
        call.end(master)
    }

    /// Calls this master and no other.
    pub async fn call_on(
        &self,
        entry: Arc<MasterEntry>,
        request: &Request,
        bounds: Bounds<'_>,
    ) -> Result<Completion, Failure> {
        let mut call = self.begin(request, bounds.rights)?;
        let master = attempt(entry, request, bounds, &mut call).await;
        call.end(master)
    }

    /// The master with this id, if it is connected; one that is expected back is waited for.
    async fn one(&self, id: &str, request: &Request, until: Instant) -> Result<Arc<MasterEntry>, Failure> {
        self.when_back(request, until, || {
            let snapshot = self.store.snapshot();
            ready(match snapshot.directory().master(id) {
                Some(entry) if entry.is_connected() => Ok(entry.clone()),
                Some(_) => Err(Failure::unsent(request, format!("master `{id}` is not connected"))),
                None => Err(nobody(&snapshot, request, unoffered(id, request))),
            })
        })
        .await
    }

    /// All masters that offer the service in a matching version and with matching metadata; any version if none is
    /// requested. If none is connected, those that are expected back are waited for.
    pub async fn all(
        &self,
        request: &Request,
        memory: &Share,
        until: Instant,
    ) -> Result<Vec<Arc<MasterEntry>>, Failure> {
        self.when_back(request, until, || self.search(request, &request.query, memory, until, all)).await
    }

    fn begin<'a>(&'a self, request: &'a Request, rights: &Arc<Rights>) -> Result<InFlightCall<'a>, Failure> {
        self.metrics.calls.increment();
        let is_offered = || self.store.snapshot().directory().instances_of(&request.service).is_some();
        let tracker = self.metrics.methods.begin(&request.service, &request.method, is_offered);
        let (counted, started) = (self.metrics.calls_outstanding.hold(), Instant::now());
        match rights.take(&request.service) {
            Ok(right) => Ok(InFlightCall { _counted: counted, _right: right, tracker, started, attempts: 0 }),
            Err(too_many) => {
                self.metrics.overloaded.increment();
                tracker.end(CallStatus::Refused, started.elapsed());
                Err(Failure::Overloaded(message(too_many, &request.service)))
            }
        }
    }

    async fn on_any(
        &self,
        request: &Request,
        bounds: Bounds<'_>,
        call: &mut InFlightCall<'_>,
    ) -> Result<String, Failure> {
        let mut query = request.query.clone();
        let mut failure: Option<Failure> = None;
        let choose = if request.input.is_some() { one_that_takes_input } else { resolve::choose };
        loop {
            let entry = match &failure {
                None => {
                    let find = || self.search(request, &query, bounds.memory, bounds.until, choose);
                    self.when_back(request, bounds.until, find).await?
                }
                // Why the last attempt failed says more than that there is no other master.
                Some(failure) => {
                    let other = self.search(request, &query, bounds.memory, bounds.until, choose).await;
                    other.map_err(|_| failure.clone())?
                }
            };
            let tried = entry.master.clone();
            match attempt(entry, request, bounds, call).await {
                Err(failed)
                    if failed.may_be_tried_again(request)
                        && call.attempts as usize <= request.retries
                        && bounds.values.start_over() =>
                {
                    if self.is_there_still(&tried) {
                        query.tried.push(tried.id.as_str().into());
                    }
                    failure = Some(failed);
                    // If all refuse at once, let other tasks of this thread run in between.
                    tokio::task::yield_now().await;
                }
                ended => return ended,
            }
        }
    }

    /// Whether no successor has a master's id by now.
    fn is_there_still(&self, tried: &Master) -> bool {
        let snapshot = self.store.snapshot();
        let is_tried = |it: &Master| it.connected_at == tried.connected_at && it.peer_address == tried.peer_address;
        snapshot.directory().master(&tried.id).is_none_or(|it| is_tried(&it.master))
    }

    /// Returns what `find` finds, if need be once masters have come back after a restart.
    async fn when_back<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        request: &Request,
        until: Instant,
        find: impl Fn() -> F,
    ) -> Result<T, Failure> {
        let mut changes = None;
        loop {
            match find().await {
                Err(_) if self.is_expected(request) && Instant::now() < until => {}
                found => return found,
            }
            let Some(changes) = &changes else {
                changes = Some(self.store.subscribe_to_masters());
                continue;
            };
            // A source that gives them up does not signal it.
            let _ = timeout_at(until.min(Instant::now() + RECHECK_INTERVAL), changes.changed()).await;
        }
    }

    /// Whether masters that offer the service may be about to come back.
    fn is_expected(&self, request: &Request) -> bool {
        let snapshot = self.store.snapshot();
        let directory = snapshot.directory();
        let was_known = directory.instances_of(&request.service).is_some() || directory.was_offered(&request.service);
        snapshot
            .behind_masters()
            .any(|(feed, progress)| feed.is_returning(progress.settling) && (was_known || !progress.whole))
    }

    /// Finds masters in the newest snapshot; on another thread where that takes long, if its turn comes in time.
    async fn search<T: Send + 'static>(
        &self,
        request: &Request,
        query: &Query,
        memory: &Share,
        until: Instant,
        find: fn(&Directory, &str, &Query) -> Result<T, NoMaster>,
    ) -> Result<T, Failure> {
        let snapshot = self.store.snapshot();
        let cost = query.cost_of(snapshot.directory(), &request.service);
        let (found, snapshot) = if is_heavy(cost) {
            // Whoever waits keeps no snapshot alive, and misses no master that joins meanwhile.
            drop(snapshot);
            let (store, service, query) = (self.store.clone(), request.service.clone(), query.clone());
            let find = move || {
                let snapshot = store.snapshot();
                (find(snapshot.directory(), &service, &query), snapshot)
            };
            let found = timeout_at(until, memory.work(cost, find)).await;
            found.map_err(|_| Failure::unsent(request, "there was no time left to look for a master".into()))?
        } else {
            (find(snapshot.directory(), &request.service, query), snapshot)
        };
        found.map_err(|none| nobody(&snapshot, request, none.to_string()))
    }
}

fn all(directory: &Directory, service: &str, query: &Query) -> Result<Vec<Arc<MasterEntry>>, NoMaster> {
    resolve::choose(directory, service, query)?;
    let fits = |of: &Version| query.version.as_ref().is_none_or(|version| version.matches(of));
    let by_version = directory.instances_of(service).into_iter().flat_map(|it| it.iter()).filter(|(of, _)| fits(of));
    let has_metadata = |it: &&Provider| it.instances.iter().any(|instance| instance.metadata.has(&query.metadata));
    let providers = by_version.flat_map(|(_, those)| those.masters().filter(has_metadata));
    let mut ids: Vec<&Arc<str>> = providers.map(|it| &it.id).collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids.into_iter().filter_map(|id| directory.master(id)).cloned().collect())
}

/// One that takes values that are sent, if there is one.
fn one_that_takes_input(directory: &Directory, service: &str, query: &Query) -> Result<Arc<MasterEntry>, NoMaster> {
    let mut chosen = resolve::choose(directory, service, query);
    let mut query = query.clone();
    while let Ok(entry) = &chosen
        && !takes_input(entry, service, &query)
        && query.tried.len() < MAX_SKIPPED
    {
        query.tried.push(entry.master.id.as_str().into());
        let Ok(other) = resolve::choose(directory, service, &query) else { break };
        chosen = Ok(other);
    }
    chosen
}

impl InFlightCall<'_> {
    fn end(self, master: Result<String, Failure>) -> Result<Completion, Failure> {
        let took = self.started.elapsed();
        self.tracker.end(master.as_ref().err().map_or(CallStatus::Answered, Failure::status), took);
        Ok(Completion { master: master?, took, attempts: self.attempts })
    }
}

/// Why a call may not begin.
fn message(too_many: TooMany, service: &str) -> String {
    let who = match too_many {
        TooMany::OfUser => "this user has as many calls under way as one user".to_owned(),
        TooMany::OfService => format!("this user has as many calls of `{service}` under way as of one service"),
    };
    format!("{who} may have of max_calls; try again")
}

/// The failure if there is no master. Mentions a source of masters that is not yet completely known.
fn nobody(snapshot: &Snapshot, request: &Request, mut message: String) -> Failure {
    if let Some((feed, _)) = snapshot.behind_masters().find(|(_, progress)| !progress.whole) {
        message = feed.with_detail(format!("{message}; but {} is not yet known as a whole", feed.name()));
    }
    Failure::unsent(request, message)
}
