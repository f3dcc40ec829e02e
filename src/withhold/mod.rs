//! Withholding: temporarily excludes instances whose callers report failures, or that an administrator drains.
//!
//! Reports are counted where they come; what follows from them is done by one thread, and another has the disk keep it.

mod config;
mod keeper;
mod outliers;
mod record;
mod survey;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

pub use self::config::Config;
use self::keeper::{Keeper, Kept, Newest};
use self::outliers::{Outliers, Suspect};
pub use self::outliers::{Place, Reporter};
use self::record::{Entry, Record, Recorded};
use self::survey::{Peers, Survey};
use crate::access::uid;
use crate::clock::{CLOCK_SETTLES, Moment, millis_since_1970};
use crate::metrics::Metrics;
use crate::model::Withholding;
use crate::store::{Provider, Store, Withhold, WithholdKind, is_meant, key_hash};
use crate::task::{Stop, Tasks};

/// The maximum number of drains, and of simultaneous ejections.
const MAX_DRAINS: usize = 1_024;
const MAX_EJECTIONS: usize = 4_096;

/// Of so many services the log says, once, that not all is ejected that should be.
const MAX_SPARED: usize = 1_024;

/// The longest drain.
const MAX_DRAIN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The maximum length of a reason, a target, and a reported service and address, in bytes.
const MAX_REASON_BYTES: usize = 256;
const MAX_TARGET_BYTES: usize = 512;

/// The maximum number of reports in one message.
pub const MAX_REPORTS: usize = 256;

/// How many commands may be queued.
const MAX_COMMANDS: usize = 64;

/// How often to check whether something has ended.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// For so long it is waited for the disk to keep what an administrator wants.
const KEPT_TIMEOUT: Duration = Duration::from_secs(5);

/// How far the wall clock may drift from the monotonic one before recorded times are adjusted.
const MAX_DRIFT_MS: u64 = 1_000;

/// Withholds instances in the store.
#[derive(Debug)]
pub struct Withholder {
    outliers: Mutex<Reported>,
    suspected: Notify,
    /// None: everybody's reports count.
    reporters: Option<Vec<u32>>,
    commands: mpsc::Sender<Command>,
    kept: watch::Receiver<Kept>,
    metrics: Arc<Metrics>,
}

/// The reports, and their consequences.
#[derive(Debug)]
struct Reported {
    outliers: Outliers,
    suspects: Vec<Suspect>,
    /// How many of these each user has brought about.
    by_user: HashMap<u32, usize>,
}

/// The result of one call, as its caller reports it.
#[derive(Clone, Debug)]
pub struct Report {
    pub place: Place,
    pub is_ok: bool,
    pub duration: Duration,
}

/// An administrator's drain.
#[derive(Clone, Debug)]
pub struct Drain {
    pub service: String,
    /// The address of an instance, the id of a master, or a host.
    pub target: String,
    pub time: Duration,
    pub reason: String,
}

/// An active drain.
#[derive(Clone, Debug)]
pub struct Drained {
    pub withholding: Arc<Withholding>,
    /// Why it would be lost in a restart, if so.
    pub unkept: Option<String>,
}

/// Why something is not drained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDrained {
    #[error("a drain lasts at least a second and at most 30 days")]
    Time,
    #[error("a target has between 1 and {MAX_TARGET_BYTES} bytes, and no control characters")]
    Target,
    #[error("a reason has at most {MAX_REASON_BYTES} bytes, and no control characters")]
    Reason,
    #[error("no instance of the service `{0}` is known by `{1}`: expected `host:port`, a host, or the id of a master")]
    NoInstance(String, String),
    #[error("nobody offers `{0}`; `roster services` lists what is offered")]
    NoService(String),
    #[error("{MAX_DRAINS} are drained, and no more can be")]
    TooMany,
    #[error("nothing of the service `{0}` is drained by `{1}`; `roster drain` lists what is")]
    IsNot(String, String),
    #[error("too many commands wait; try again")]
    Busy,
}

#[derive(Debug)]
enum Command {
    Drain(Drain, Answer),
    Undrain(String, String, Answer),
    /// What an earlier process left, if it could not be read at the start.
    Restore(Recorded, oneshot::Sender<()>),
}

type Answer = oneshot::Sender<Result<Done, NotDrained>>;

/// What was drained or is so now, and the number by which it is kept.
#[derive(Debug)]
struct Done {
    withholding: Arc<Withholding>,
    number: u64,
}

/// The state of the thread.
struct Work {
    withholder: Arc<Withholder>,
    store: Arc<Store>,
    config: Config,
    newest: watch::Sender<Newest>,
    /// When the drains end, by the monotonic clock.
    drains: HashMap<(Arc<str>, Arc<str>), Moment>,
    /// The drains recorded in another boot of the machine, as they were, until the wall clock is settled.
    unsettled: HashMap<(Arc<str>, Arc<str>), Withholding>,
    /// Whether something else is withheld than is to be kept.
    is_unrecorded: bool,
    /// The services of which the log says that not all is ejected that should be.
    spared: HashSet<Arc<str>>,
}

/// Why an instance is not ejected.
#[derive(Debug, PartialEq, Eq)]
enum Spared {
    Unknown,
    /// The maximum of its version and group is ejected, or it is the last callable one.
    Enough,
}

impl Withholder {
    /// Has the store begin with what an earlier process left of this in `folder`, and starts the threads.
    pub fn start(
        config: &Config,
        folder: Option<PathBuf>,
        store: &Arc<Store>,
        metrics: &Arc<Metrics>,
        tasks: &Tasks,
    ) -> io::Result<Arc<Self>> {
        let (withholder, work, received, keeper) = Self::new(config, folder, store, metrics);
        let stop = tasks.stop_signal();
        tasks.thread("withholding", move |_| work.until_stop(received, stop))?;
        tasks.thread("the record of what is withheld", move |_| keeper.run())?;
        Ok(withholder)
    }

    fn new(
        config: &Config,
        folder: Option<PathBuf>,
        store: &Arc<Store>,
        metrics: &Arc<Metrics>,
    ) -> (Arc<Self>, Work, mpsc::Receiver<Command>, Keeper) {
        let (commands, received) = mpsc::channel(MAX_COMMANDS);
        let mut record = Record::new(folder);
        let (left, unread) = match record.left() {
            Ok(left) => (left, None),
            Err(error) => {
                tracing::error!(
                    why = record.why_unread(&error),
                    "what was drained and ejected is not so until it is read"
                );
                (Recorded::default(), Some(error))
            }
        };
        let (newest, to_keep) = watch::channel(Newest::default());
        let (keeper, kept) = Keeper::new(record, unread, commands.clone(), to_keep);
        let reporters = config.reporters.iter().map(|name| uid(name).map(|uid| uid.as_raw()));
        // Unknown names were already reported as a configuration mistake.
        let reporters: Vec<u32> = reporters.filter_map(Result::ok).collect();
        let withholder = Arc::new(Self {
            outliers: Mutex::new(Reported {
                outliers: Outliers::new(config.clone()),
                suspects: Vec::new(),
                by_user: HashMap::new(),
            }),
            suspected: Notify::new(),
            reporters: (!config.reporters.is_empty()).then_some(reporters),
            commands,
            kept,
            metrics: metrics.clone(),
        });
        let mut work = Work {
            withholder: withholder.clone(),
            store: store.clone(),
            config: config.clone(),
            newest,
            drains: HashMap::new(),
            unsettled: HashMap::new(),
            is_unrecorded: false,
            spared: HashSet::new(),
        };
        work.restore(left, Moment::now(), SystemTime::now());
        (withholder, work, received, keeper)
    }

    /// One that records nothing, and does nothing.
    pub(crate) fn idle(store: &Arc<Store>) -> Arc<Self> {
        Self::new(&Config::default(), None, store, &Arc::default()).0
    }

    /// Counts a user's reports. Reports that cannot be trusted are ignored.
    pub fn report(&self, by: Reporter, reports: impl Iterator<Item = Report>) {
        if self.reporters.as_ref().is_some_and(|known| !known.contains(&by)) {
            return;
        }
        let now = Moment::now();
        let mut reported = self.reported();
        // What is remembered of a place takes its names, for as long as nobody offers them any more, too.
        let is_short = |Place { service, address }: &Place| service.len().max(address.len()) <= MAX_TARGET_BYTES;
        for Report { place, is_ok, duration } in reports.filter(|it| is_short(&it.place)) {
            self.metrics.reports.increment();
            self.metrics.reports_failed.add(u64::from(!is_ok));
            self.metrics.reported_ms.add(duration.as_millis() as u64);
            if let Some(suspect) = reported.outliers.report(now, by, &place, is_ok) {
                reported.suspect(by, suspect);
            }
        }
        if !reported.suspects.is_empty() {
            self.suspected.notify_one();
        }
    }

    /// Drains something, replacing an earlier drain of it.
    pub async fn drain(&self, drain: Drain) -> Result<Drained, NotDrained> {
        self.ask(|answer| Command::Drain(drain, answer)).await
    }

    /// Ends a drain; returns what it was.
    pub async fn undrain(&self, service: String, target: String) -> Result<Drained, NotDrained> {
        self.ask(|answer| Command::Undrain(service, target, answer)).await
    }

    async fn ask(&self, command: impl FnOnce(Answer) -> Command) -> Result<Drained, NotDrained> {
        let (answer, answered) = oneshot::channel();
        self.commands.try_send(command(answer)).map_err(|_| NotDrained::Busy)?;
        let Done { withholding, number } = answered.await.unwrap_or(Err(NotDrained::Busy))?;
        Ok(Drained { withholding, unkept: self.why_unkept(number).await })
    }

    /// Why what has this number would not outlast a restart.
    async fn why_unkept(&self, number: u64) -> Option<String> {
        let mut kept = self.kept.clone();
        match timeout(KEPT_TIMEOUT, kept.wait_for(|kept| kept.number >= number)).await {
            Ok(Ok(kept)) => kept.why_not.clone(),
            Ok(Err(_)) => Some("the sidecar stops".to_owned()),
            Err(_) => Some(format!("it is not written after {KEPT_TIMEOUT:?}, and goes on being tried")),
        }
    }

    fn reported(&self) -> MutexGuard<'_, Reported> {
        self.outliers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reported {
    /// Notes whom a user's report makes suspect: as many as it leaves free for other users.
    fn suspect(&mut self, by: u32, suspect: Suspect) {
        let own = self.by_user.entry(by).or_default();
        let has_room = *own < MAX_REPORTS.saturating_sub(self.suspects.len());
        if has_room && !self.suspects.iter().any(|it| it.place == suspect.place) {
            *own += 1;
            self.suspects.push(suspect);
        }
    }

    fn take_suspects(&mut self) -> Vec<Suspect> {
        self.by_user.clear();
        std::mem::take(&mut self.suspects)
    }
}

impl Work {
    async fn until_stop(mut self, mut commands: mpsc::Receiver<Command>, stop: Stop) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut next, mut rested) = (Instant::now() + self.config.interval, Instant::now());
        let withholder = self.withholder.clone();
        loop {
            tokio::select! {
                Some(command) = commands.recv() => self.carry_out(command),
                // The data to look through may be large, and anyone who may report can raise a suspicion.
                () = async { sleep_until(rested).await; withholder.suspected.notified().await } => {
                    let began = Instant::now();
                    self.eject_suspects();
                    rested = Instant::now() + began.elapsed() * 4;
                }
                _ = looks.tick() => {
                    self.end(Moment::now());
                    self.follow_clock(Moment::now(), SystemTime::now());
                    if next <= Instant::now() {
                        next = Instant::now() + self.config.interval;
                        let mut reported = withholder.reported();
                        let suspects = reported.outliers.compare(Moment::now());
                        reported.suspects.extend(suspects);
                        drop(reported);
                        self.eject_suspects();
                    }
                    if self.is_unrecorded {
                        self.record();
                    }
                }
                () = stop.requested() => {
                    if self.is_unrecorded {
                        self.record();
                    }
                    return;
                }
            }
        }
    }

    /// Withholds what an earlier process did, if its time is not over and it was not changed since. Until the wall clock is
    /// settled, no drain recorded in another boot of the machine ends.
    fn restore(&mut self, Recorded { ejected, drained }: Recorded, now: Moment, wall: SystemTime) {
        let wall = millis_since_1970(wall);
        let mut changes = Vec::new();
        let kinds = ejected.into_iter().map(|it| (it, WithholdKind::Ejected));
        for (entry, kind) in kinds.chain(drained.into_iter().map(|it| (it, WithholdKind::Drained))) {
            let Entry { service, target, withholding, times, ends_after_boot } = entry;
            let (service, target): (Arc<str>, Arc<str>) = (service.into(), target.into());
            let mut left = time_left(&withholding, ends_after_boot, now, wall);
            match kind {
                WithholdKind::Ejected => {
                    let place = Place { service: service.clone(), address: target.clone() };
                    let outliers = &mut self.withholder.reported().outliers;
                    if left.is_zero() || outliers.ejected_until(&place).is_some() {
                        continue;
                    }
                    outliers.restore(now, &place, left.min(self.config.max_time), times);
                }
                WithholdKind::Drained => {
                    let key = (service.clone(), target.clone());
                    let unsettled = CLOCK_SETTLES.saturating_sub(now.since_boot());
                    let is_unsettled = ends_after_boot.is_none() && !unsettled.is_zero();
                    if self.drains.contains_key(&key) || left.is_zero() && !is_unsettled {
                        continue;
                    }
                    if is_unsettled {
                        left = left.max(unsettled);
                        self.unsettled.insert(key.clone(), withholding.clone());
                    }
                    self.drains.insert(key, now + left);
                }
            }
            let withholding = Withholding { decided: now.since_boot(), ..ending(&withholding, wall, left) };
            changes.push(Withhold { service, target, kind, withholding: Some(withholding.into()) });
        }
        self.store.withhold(&changes);
    }

    fn carry_out(&mut self, command: Command) {
        // The requester may be gone: it is done all the same.
        match command {
            Command::Drain(drain, answer) => drop(answer.send(self.drain(drain))),
            Command::Undrain(service, target, answer) => drop(answer.send(self.undrain(&service, &target))),
            Command::Restore(left, done) => {
                self.restore(left, Moment::now(), SystemTime::now());
                self.record();
                let _ = done.send(());
            }
        }
    }

    fn drain(&mut self, Drain { service, target, time, reason }: Drain) -> Result<Done, NotDrained> {
        if time < Duration::from_secs(1) || time > MAX_DRAIN {
            return Err(NotDrained::Time);
        }
        if reason.len() > MAX_REASON_BYTES || reason.contains(char::is_control) {
            return Err(NotDrained::Reason);
        }
        if target.is_empty() || target.len() > MAX_TARGET_BYTES || target.contains(char::is_control) {
            return Err(NotDrained::Target);
        }
        let snapshot = self.store.snapshot();
        if !snapshot.directory().instances(&service).any(|(_, instance)| is_meant(instance, &target)) {
            return Err(match snapshot.directory().instances_of(&service) {
                Some(_) => NotDrained::NoInstance(service, target),
                None => NotDrained::NoService(service),
            });
        }
        let key: (Arc<str>, Arc<str>) = (service.into(), target.into());
        if self.drains.len() >= MAX_DRAINS && !self.drains.contains_key(&key) {
            return Err(NotDrained::TooMany);
        }
        let since = millis_since_1970(SystemTime::now());
        let decided = Moment::now();
        let ends_at = since + time.as_millis() as u64;
        let withholding = Arc::new(Withholding { since, ends_at, reason, decided: decided.since_boot() });
        self.withhold(WithholdKind::Drained, &key.0, &key.1, Some(withholding.clone()));
        self.unsettled.remove(&key);
        self.drains.insert(key, decided + time);
        Ok(Done { withholding, number: self.record() })
    }

    fn undrain(&mut self, service: &str, target: &str) -> Result<Done, NotDrained> {
        let snapshot = self.store.snapshot();
        let mut drained = snapshot.directory().withholdings().drained();
        let known = drained.find(|(of, it, _)| ***of == *service && ***it == *target);
        let Some((service, target, withholding)) = known else {
            return Err(NotDrained::IsNot(service.to_owned(), target.to_owned()));
        };
        self.withhold(WithholdKind::Drained, service, target, None);
        let key = (service.clone(), target.clone());
        self.unsettled.remove(&key);
        self.drains.remove(&key);
        Ok(Done { withholding: withholding.clone(), number: self.record() })
    }

    /// Ends what is over.
    fn end(&mut self, now: Moment) {
        let ended = self.withholder.reported().outliers.take_ended(now);
        for Place { service, address } in ended {
            tracing::info!(%service, %address, "an instance is ejected no longer");
            self.withhold(WithholdKind::Ejected, &service, &address, None);
        }
        self.end_excess();
        let is_over = |key: &_, ends: &mut Moment| *ends <= now && !self.unsettled.contains_key(key);
        let over: Vec<_> = self.drains.extract_if(is_over).map(|(key, _)| key).collect();
        for (service, target) in over {
            tracing::info!(%service, %target, "the time of a drain is over");
            self.withhold(WithholdKind::Drained, &service, &target, None);
        }
    }

    /// Adjusts the wall-clock end of each to its end by the monotonic clock: a restart uses the former, and so does PHP
    /// if the sidecar is dead.
    fn follow_clock(&mut self, now: Moment, wall: SystemTime) {
        let (wall, snapshot) = (millis_since_1970(wall), self.store.snapshot());
        if now.since_boot() >= CLOCK_SETTLES && !self.unsettled.is_empty() {
            for (key, withholding) in self.unsettled.drain() {
                self.drains.entry(key).and_modify(|ends| *ends = now + time_left(&withholding, None, now, wall));
            }
            self.is_unrecorded = true;
        }
        let withholdings = snapshot.directory().withholdings();
        let drained = withholdings.drained().filter_map(|it| {
            let ends = *self.drains.get(&(it.0.clone(), it.1.clone()))?;
            Some((WithholdKind::Drained, it, ends))
        });
        let reported = self.withholder.reported();
        let ejected = withholdings.ejected().filter_map(|it| {
            let place = Place { service: it.0.clone(), address: it.1.clone() };
            Some((WithholdKind::Ejected, it, reported.outliers.ejected_until(&place)?))
        });
        let changes = drained.chain(ejected).filter_map(|(kind, (service, target, it), ends)| {
            let withholding = ending(it, wall, ends.since(now));
            let is_moved = withholding.ends_at.abs_diff(it.ends_at) > MAX_DRIFT_MS;
            let (service, target, withholding) = (service.clone(), target.clone(), Some(withholding.into()));
            is_moved.then_some(Withhold { service, target, kind, withholding })
        });
        let changes: Vec<_> = changes.collect();
        drop(reported);
        if !changes.is_empty() {
            self.store.withhold(&changes);
            self.is_unrecorded = true;
        }
    }

    /// Ends ejections of services that now have fewer instances, so that too many of them would be ejected. Each
    /// service is looked through once.
    fn end_excess(&mut self) {
        let snapshot = self.store.snapshot();
        let directory = snapshot.directory();
        let mut ejected: HashMap<&Arc<str>, Vec<&Arc<str>>> = HashMap::new();
        for (service, address, _) in directory.withholdings().ejected() {
            ejected.entry(service).or_default().push(address);
        }
        for (service, addresses) in ejected {
            let is_ejected = |provider: &Provider| {
                provider.instances.first().is_some_and(|instance| instance.withheld.ejected.is_some())
            };
            let mut survey = Survey::of(directory, service, is_ejected);
            for address in addresses {
                if !survey.peers(address).any(|(peers, _)| peers.ejected > self.most(peers)) {
                    continue;
                }
                survey.set(address, false);
                tracing::info!(%service, %address, "an instance is ejected no longer: there are too few others");
                let place = Place { service: service.clone(), address: address.clone() };
                self.withholder.reported().outliers.end(&place);
                self.withhold(WithholdKind::Ejected, service, address, None);
            }
        }
    }

    /// Ejects what is to be, within the bounds. Each service is looked through once.
    fn eject_suspects(&mut self) {
        let mut by_service: HashMap<Arc<str>, Vec<Suspect>> = HashMap::new();
        for suspect in self.withholder.reported().take_suspects() {
            by_service.entry(suspect.place.service.clone()).or_default().push(suspect);
        }
        let snapshot = self.store.snapshot();
        let directory = snapshot.directory();
        let ejected = || directory.withholdings().ejected();
        let mut room = MAX_EJECTIONS - ejected().take(MAX_EJECTIONS).count();
        for (service, suspects) in by_service {
            let hashes: HashSet<u64> = suspects.iter().map(|suspect| key_hash(&*suspect.place.address)).collect();
            let mut survey = Survey::of(directory, &service, |it| hashes.contains(&it.address_hash));
            // It may have as many as it leaves free for other services.
            let mut of_service = ejected().filter(|(of, ..)| **of == service).count();
            for Suspect { place, reason } in suspects {
                let is_full = of_service >= room;
                let spared = self.why_spared(&survey, &place.address).or(is_full.then_some(Spared::Enough));
                let Place { service, address } = &place;
                let mut reported = self.withholder.reported();
                if let Some(why) = spared {
                    tracing::debug!(%service, %address, reason, ?why, "an instance is not ejected");
                    reported.outliers.spare(&place);
                    drop(reported);
                    let is_off = self.config.max_percent == 0;
                    if why == Spared::Enough
                        && !is_off
                        && self.spared.len() < MAX_SPARED
                        && self.spared.insert(service.clone())
                    {
                        tracing::warn!(
                            %service, %address, reason,
                            "an instance is not ejected, though its callers report failures: others of its version and \
                             group are, or there are too few of them; see `max_percent` and `reporters` of `[eject]`"
                        );
                    }
                    continue;
                }
                let time = reported.outliers.eject(Moment::now(), &place);
                drop(reported);
                survey.set(address, true);
                (of_service, room) = (of_service + 1, room - 1);
                self.withholder.metrics.ejections.increment();
                tracing::warn!(%service, %address, ?time, reason, "an instance is ejected");
                let since = millis_since_1970(SystemTime::now());
                let ends_at = since + time.as_millis() as u64;
                let withholding = Withholding { since, ends_at, reason, decided: Moment::now().since_boot() };
                self.withhold(WithholdKind::Ejected, service, address, Some(withholding.into()));
            }
        }
    }

    /// Why an instance may not be ejected: of those of its version and group no more than `max_percent` are then, and one is
    /// left that can be called.
    fn why_spared(&self, survey: &Survey<'_>, address: &str) -> Option<Spared> {
        let mut peers = survey.peers(address).peekable();
        if peers.peek().is_none() {
            return Some(Spared::Unknown);
        }
        let may_be = peers.all(|(peers, others)| peers.ejected < self.most(peers) && others > 0);
        (!may_be).then_some(Spared::Enough)
    }

    /// How many of these may be ejected. Anyone who may report can make things up, except for configured reporters: of
    /// few instances, only these can have one ejected.
    fn most(&self, peers: Peers) -> usize {
        let few = !self.config.reporters.is_empty() && self.config.max_percent > 0 && peers.all > 1;
        (peers.all * self.config.max_percent / 100).max(usize::from(few))
    }

    fn withhold(
        &mut self,
        kind: WithholdKind,
        service: &Arc<str>,
        target: &Arc<str>,
        withholding: Option<Arc<Withholding>>,
    ) {
        self.store.withhold(&[Withhold { service: service.clone(), target: target.clone(), kind, withholding }]);
        self.is_unrecorded = true;
    }

    /// Has all that is withheld kept; the number by which it is.
    fn record(&mut self) -> u64 {
        let snapshot = self.store.snapshot();
        let withholdings = snapshot.directory().withholdings();
        let entry =
            |service: &Arc<str>, target: &Arc<str>, withholding: &Withholding, times, ends: Option<Moment>| Entry {
                service: service.to_string(),
                target: target.to_string(),
                withholding: withholding.clone(),
                times,
                ends_after_boot: ends.map(|ends| ends.since_boot().as_millis() as u64),
            };
        let ejected = withholdings.ejected().map(|(service, address, withholding)| {
            let place = Place { service: service.clone(), address: address.clone() };
            let outliers = &self.withholder.reported().outliers;
            entry(service, address, withholding, outliers.ejections(&place), outliers.ejected_until(&place))
        });
        let drained = withholdings.drained().map(|(service, target, withholding)| {
            let key = (service.clone(), target.clone());
            match self.unsettled.get(&key) {
                Some(before) => entry(service, target, before, 0, None),
                None => entry(service, target, withholding, 0, self.drains.get(&key).copied()),
            }
        });
        let recorded = Recorded { ejected: ejected.collect(), drained: drained.collect() };
        let number = self.newest.borrow().0 + 1;
        self.newest.send_replace((number, recorded.into()));
        self.is_unrecorded = false;
        number
    }
}

/// The remaining time, limited to the original duration: by the monotonic clock, if it was recorded in this boot of the
/// machine, else by the wall clock. If that was set back since then, the remaining time is unknown.
fn time_left(withholding: &Withholding, ends_after_boot: Option<u64>, now: Moment, wall: u64) -> Duration {
    let Withholding { since, ends_at, .. } = withholding;
    let time = ends_at.saturating_sub(*since);
    let left = match ends_after_boot {
        Some(ends) => ends.saturating_sub(now.since_boot().as_millis() as u64),
        None if *since > wall => time,
        None => ends_at.saturating_sub(wall),
    };
    Duration::from_millis(left.min(time))
}

/// The same with its wall-clock times adjusted to the remaining time.
fn ending(withholding: &Withholding, wall: u64, left: Duration) -> Withholding {
    let ends_at = wall.saturating_add(left.as_millis() as u64);
    let since = ends_at.saturating_sub(withholding.ends_at.saturating_sub(withholding.since));
    Withholding { since, ends_at, ..withholding.clone() }
}

#[cfg(test)]
mod tests;
