//! The guard: instances of a service that vanish in numbers are still served, until they are known to be gone.
//!
//! ```text
//!                 vanishes alone: gone at once
//! REGISTERED ───────────────────────────────────────────────────────────► GONE
//!   ▲    │ with more than half of its service below its root within         ▲ its address refuses connections,
//!   │    │ `window`, or with more than half of its root                     │ `max_hold` is over,
//!   │    ▼                                                                  │ a stranger is at its address,
//!   └── HELD: untried ─► answering ◄─► silent ──────────────────────────────┘ or an operator says so
//! registered again     (silent: passed over, as long as most of the service are well)
//! ```
//!
//! The size of a service is the number of those that have been registered for `window` or longer, or of those that came
//! since, if they are more: so a deploy that starts the new ones first does not make it larger, and what they replace is
//! no loss.
//!
//! Pure: what vanished and appeared, the time, and probe results go in; what to list or withdraw comes out.

mod config;
mod departed;
mod entry;
mod levels;
mod losses;
mod newcomers;
mod room;
mod strangers;
#[cfg(test)]
mod tests;
mod watched;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};
use semver::Version;

pub use self::config::Config;
use self::entry::{Entry, Outcome};
use self::room::{Room, Taken};
use self::strangers::Strangers;
use self::watched::{Accepted, Watched};
use crate::clock::{Moment, millis_since_1970};
use crate::model::{Endpoint, Instance, address};

/// How long a held instance may take to be registered again, once a stranger is registered at its address.
const DOUBT: Duration = Duration::from_secs(30);

/// Held and remembered instances take at most about this many bytes.
const MAX_BYTES: usize = 256 << 20;

/// What is remembered of services that lost instances. A clone shares as much as possible with the original.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    config: Arc<Config>,
    services: OrdMap<Arc<str>, Arc<Watched>>,
    targets: OrdMap<TargetKey, (Target, Rank)>,
    strangers: Strangers,
    room: Room,
    /// Why instances are held no more, or were not, by the marks of service and id.
    let_go: OrdMap<(u64, u64), Arc<str>>,
    /// By root, the services of which something departed there since it was last looked for what to recall.
    departures: OrdSet<(usize, Arc<str>)>,
    /// By root, when a lack of room was last reported.
    reported: OrdMap<usize, Moment>,
    /// What began or ceased to be held since this was last asked.
    shifts: Vec<Shift>,
}

/// Which of several that register one address decides about it: what lies below the root that is configured first; and
/// below one root, a node of the service itself before an application that offers it, of which no version is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// The place of the root.
    pub root: usize,
    pub is_application: bool,
}

/// How many instances are remembered with the reason why they are held no more.
const MAX_LET_GO: usize = 10_000;

/// How the reasons begin why an instance was not held that should have been, or would have been.
const NOT_HELD: &str = "it was not held: ";

/// One of them.
const NO_ROOM: &str = "it was not held: no room; raise guard.max_held";

/// A lack of room is reported this often at most for each root.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// The key of an instance by its place: the address to probe, the service and the id.
type TargetKey = (Arc<str>, Arc<str>, Arc<str>);

/// What was not held for lack of room: the root, the service and the id of each.
type Refused = BTreeSet<(usize, Arc<str>, Arc<str>)>;

/// The time, by a monotonic clock and in ms since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub moment: Moment,
    pub wall: u64,
}

/// The changes of a service in one revision.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub vanished: Vec<Vanished>,
    /// The addresses, the ids and the ranks of others that vanished without being lost.
    pub moved: Vec<(Arc<str>, Arc<str>, Rank)>,
    pub came: Vec<Came>,
    /// By rank, for those that changed.
    pub ranks: BTreeMap<Rank, OfRank>,
}

/// The changes of a service in one revision, of one rank.
#[derive(Clone, Copy, Debug, Default)]
pub struct OfRank {
    /// How many are registered now.
    pub present: usize,
    /// How many are new there, and how many are there no more without being lost.
    pub came: usize,
    pub moved: usize,
}

/// An instance that is newly registered.
#[derive(Clone, Debug)]
pub struct Came {
    pub id: Arc<str>,
    pub version: Version,
    /// Where it would be probed; empty: nowhere.
    pub address: Arc<str>,
    pub rank: Rank,
    /// Whether it may have come just now, rather than being found when its source was read for the first time.
    pub is_new: bool,
}

/// An instance that is no longer registered.
#[derive(Clone, Debug)]
pub struct Vanished {
    pub id: Arc<str>,
    pub version: Version,
    pub instance: Instance,
    pub variant: Box<str>,
    pub rank: Rank,
    /// The root that decided about an application as an interface.
    pub decided_by: Option<Box<str>>,
    /// Whether it went with more than half of its root while the sidecar was not watching.
    pub is_lost: bool,
}

/// An instance that an earlier process held.
#[derive(Clone, Debug)]
pub struct Left {
    pub id: Arc<str>,
    pub instance: Instance,
    pub rank: Rank,
}

/// An instance that is held now, or no longer.
#[derive(Clone, Debug)]
pub struct Shift {
    pub service: Arc<str>,
    pub vanished: Arc<Vanished>,
    pub is_held: bool,
}

/// An instance to list or withdraw.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    pub service: Arc<str>,
    pub version: Version,
    pub id: Arc<str>,
    /// None: it is gone.
    pub instance: Option<Instance>,
}

/// A root of which most vanished within the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    pub root: usize,
    pub registered: usize,
    /// How many of it are held for that since this revision, and of how many services.
    pub held: usize,
    pub services: usize,
}

/// A service with held instances, or one whose removals are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guarded<'a> {
    pub service: &'a Arc<str>,
    /// How many are held, and how many of these answer and are silent.
    pub held: usize,
    pub answering: usize,
    pub silent: usize,
    /// Since when some are held, and until when at most; ms since 1970.
    pub since: u64,
    pub ends_at: u64,
    /// For how much longer removals are accepted.
    pub accepted: Option<Duration>,
}

/// Where a held instance can be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub host: String,
    pub port: u16,
}

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Answering,
    Refused,
    Silent,
}

/// Which held instances are meant.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    All,
    /// Those at these addresses, each as `host:port`.
    At(&'a [String]),
    /// Those with these ids.
    Ids(&'a BTreeSet<Arc<str>>),
}

impl Rank {
    /// That of a node of the service itself.
    pub fn of_root(root: usize) -> Self {
        Self { root, is_application: false }
    }

    /// Both of a root.
    pub fn both_of_root(root: usize) -> [Self; 2] {
        [false, true].map(|is_application| Self { root, is_application })
    }
}

impl Now {
    pub fn read() -> Self {
        let wall = millis_since_1970(SystemTime::now());
        Self { moment: Moment::now(), wall }
    }
}

impl Effect {
    /// Which instance it is about.
    fn key(&self) -> (&str, &Version, &str) {
        (&self.service, &self.version, &self.id)
    }
}

impl Target {
    /// None: it has no port.
    fn of(instance: &Instance) -> Option<Self> {
        let Endpoint { host, port, .. } = instance.endpoint().filter(|it| it.port > 0)?;
        Some(Self { host: host.clone(), port: *port })
    }

    /// Whether its host is a name, which has to be looked up.
    pub fn has_name(&self) -> bool {
        self.host.parse::<IpAddr>().is_err()
    }

    /// As people write it: `10.0.0.5:80`, `[::1]:80`.
    pub fn address(&self) -> String {
        address(&self.host, self.port)
    }
}

/// The address at which an instance would be probed; empty: none.
pub fn probed_at(instance: &Instance) -> Arc<str> {
    Target::of(instance).map_or_else(|| "".into(), |target| target.address().into())
}

impl Guard {
    /// Of what vanished before the begin, nothing is known but what is restored. This many roots share the room.
    pub fn new(config: Config, roots: usize, begin: Moment) -> Self {
        let strangers = Strangers::new(if config.enabled { config.max_held } else { 0 }, begin);
        Self { config: config.into(), strangers, room: Room::shared_by(roots), ..Self::default() }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether nothing is held or remembered.
    pub fn is_idle(&self) -> bool {
        self.services.is_empty() && self.strangers.is_empty()
    }

    /// How many instances are held.
    pub fn count_of_held(&self) -> usize {
        self.room.taken().held
    }

    /// How many of a service are held.
    pub fn held_of(&self, service: &str) -> usize {
        self.services.get(service).map_or(0, |watched| watched.held.len())
    }

    /// The rank of a held instance.
    pub fn rank_of_held(&self, service: &str, id: &str) -> Option<Rank> {
        Some(self.services.get(service)?.held.get(id)?.rank())
    }

    /// Whether something began or ceased to be held since this was last asked.
    pub fn has_shifts(&self) -> bool {
        !self.shifts.is_empty()
    }

    /// What did so, in order.
    pub fn take_shifts(&mut self) -> Vec<Shift> {
        std::mem::take(&mut self.shifts)
    }

    /// The services with held instances.
    pub fn protected(&self) -> impl Iterator<Item = &Arc<str>> {
        self.services.iter().filter(|(_, watched)| !watched.held.is_empty()).map(|(service, _)| service)
    }

    /// The addresses to probe, each with the first root for which something is held there, and a service.
    pub fn targets(&self) -> impl Iterator<Item = (&Arc<str>, (usize, &Arc<str>), &Target)> {
        let mut all = self.targets.iter().peekable();
        std::iter::from_fn(move || {
            let ((address, service, _), (target, rank)) = all.next()?;
            let mut first = (rank.root, service);
            while let Some(((_, service, _), (_, rank))) = all.next_if(|((other, ..), _)| other == address) {
                first = first.min((rank.root, service));
            }
            Some((address, first, target))
        })
    }

    /// The services with held instances, and those whose removals are accepted; after the given one.
    pub fn services(&self, now: Now, after: Option<&str>) -> impl Iterator<Item = Guarded<'_>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.services.range::<_, str>((from, Bound::Unbounded)).filter_map(move |(service, watched)| {
            let accepted =
                watched.accepted.as_ref().map(|it| it.until.since(now.moment)).filter(|left| !left.is_zero());
            let Watched { answering, silent, since, ends_at, .. } = **watched;
            let held = watched.held.len();
            let guarded = Guarded { service, held, answering, silent, since, ends_at, accepted };
            (held > 0 || accepted.is_some()).then_some(guarded)
        })
    }

    /// Takes in the changes of services in one revision, and how many are registered below each root from which something
    /// vanished; returns also which of these are lost.
    pub fn observe(
        &mut self,
        now: Now,
        batch: HashMap<Arc<str>, Observed>,
        registered: &BTreeMap<usize, usize>,
    ) -> (Vec<Effect>, Vec<Lost>) {
        let (left, came) = (left(&batch), came(&batch));
        let (mut effects, mut refused, mut accepted) = (Vec::new(), Refused::new(), Vec::new());
        for (service, observed) in batch {
            let has_new = observed.came.iter().any(|came| came.is_new);
            if has_new || !observed.vanished.is_empty() || self.services.contains_key(&service) {
                let before = effects.len();
                let roots: BTreeSet<usize> = observed.vanished.iter().map(|it| it.rank.root).collect();
                self.hold(&service, &mut effects, &mut refused, |watched, config, room| {
                    watched.observe(now, config, observed, room)
                });
                let watched = self.services.get(&service);
                if let Some(Accepted { why, .. }) = watched.and_then(|it| it.accepted.as_ref()) {
                    accepted.push((why.clone(), effects[before..].to_vec()));
                }
                let departed = roots.into_iter().filter(|root| watched.is_some_and(|it| it.has_departed(*root)));
                self.departures.extend(departed.map(|root| (root, service.clone())));
            }
        }
        let mut lost = Vec::new();
        for (root, registered) in registered {
            if self.is_lost(*root, *registered) {
                lost.push(self.recall(*root, *registered, &mut effects, &mut refused));
            }
        }
        lost.retain(|lost| lost.held > 0);
        left.iter().for_each(|(key, rank)| self.strangers.leave(key, *rank, now));
        for (key, rank) in &came {
            let is_held = at(&self.targets, &key.0).next().is_some();
            self.strangers.come(key, *rank, now, is_held);
        }
        let held = effects.iter().filter_map(|effect| effect.instance.as_ref());
        let mut addresses: BTreeSet<Arc<str>> = held.map(probed_at).collect();
        addresses.extend(left.into_iter().chain(came).map(|((address, ..), _)| address));
        addresses.retain(|address| self.strangers.are_at(address));
        addresses.iter().for_each(|address| self.doubt_at(address, &mut effects));
        // What is held again is let go for another reason, or by being registered otherwise.
        effects.iter().for_each(|effect| drop(self.let_go.remove(&(mark(&effect.service), mark(&effect.id)))));
        refused.retain(|(_, service, id)| self.rank_of_held(service, id).is_none());
        self.report(now, &refused);
        self.note_all(refused.iter().map(|(_, service, id)| (&**service, &**id)), NO_ROOM);
        accepted.iter().for_each(|(why, gone)| self.note(gone, why));
        (effects, lost)
    }

    /// Of a root of which `present` are registered, whether most of the others vanished within the window: more than are there
    /// or, where some are new, more than both.
    fn is_lost(&self, root: usize, present: usize) -> bool {
        let Taken { departed, new, lately, .. } = self.room.at(root);
        let gone = departed + lately;
        departed > 0 && gone > present + new && gone + present >= self.config.min_instances
    }

    /// Holds what vanished of a root within the window, however small the services are: none of it is to be gone. Services
    /// of which nothing departed since the last time are not looked at, though there may be room now for what had none then.
    fn recall(&mut self, root: usize, registered: usize, effects: &mut Vec<Effect>, refused: &mut Refused) -> Lost {
        let from = (root, "".into());
        let departures = self.departures.range(from..).take_while(|(of, _)| *of == root);
        let services: Vec<Arc<str>> = departures.map(|(_, service)| service.clone()).collect();
        let (mut recalled, before) = (Vec::new(), self.room.at(root).held);
        for service in &services {
            self.departures.remove(&(root, service.clone()));
            self.hold(service, &mut recalled, refused, |watched, config, room| watched.recall(root, config, room));
        }
        let ids: HashSet<_> = recalled.iter().map(Effect::key).collect();
        effects.retain(|it| !ids.contains(&it.key()));
        let services = recalled.iter().map(|it| &it.service).collect::<HashSet<_>>().len();
        effects.extend(recalled);
        Lost { root, registered, held: self.room.at(root).held - before, services }
    }

    /// Takes in that something is listed as it is registered, that was not before for what was held.
    pub fn come(&mut self, service: &Arc<str>, id: &str, version: &Version, rank: Rank) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.services.contains_key(service) {
            self.change(service, &mut effects, |watched, _| watched.come(id, version, rank).into_iter().collect());
        }
        effects
    }

    /// Notes why instances are held no more.
    pub fn note(&mut self, effects: &[Effect], why: &str) {
        let gone = effects.iter().filter(|effect| effect.instance.is_none());
        self.note_all(gone.map(|Effect { service, id, .. }| (&**service, &**id)), why);
    }

    fn note_all<'a>(&mut self, gone: impl Iterator<Item = (&'a str, &'a str)>, why: &str) {
        let gone: Vec<_> = gone.take(MAX_LET_GO).map(|(service, id)| (mark(service), mark(id))).collect();
        if self.let_go.len() + gone.len() > MAX_LET_GO {
            self.let_go.clear();
        }
        let why: Arc<str> = why.into();
        gone.into_iter().for_each(|marks| drop(self.let_go.insert(marks, why.clone())));
    }

    /// Reports what was not held for lack of room.
    fn report(&mut self, now: Now, refused: &Refused) {
        let mut by_root: BTreeMap<usize, (usize, &Arc<str>)> = BTreeMap::new();
        for (root, service, _) in refused {
            by_root.entry(*root).or_insert((0, service)).0 += 1;
        }
        for (root, (count, service)) in by_root {
            if self.reported.get(&root).is_none_or(|last| now.moment.since(*last) >= REPORT_INTERVAL) {
                self.reported.insert(root, now.moment);
                tracing::warn!(count, %service, "what vanished was not held: no room; raise guard.max_held");
            }
        }
    }

    /// Why an instance is held no more; none: its time is over, or it was registered otherwise.
    pub fn why_let_go(&self, service: &str, id: &str) -> Option<&str> {
        self.let_go.get(&(mark(service), mark(id))).map(|why| &**why)
    }

    /// Why an instance that vanished at once was not held; none: it was not to be.
    pub fn why_not_held(&self, service: &str, id: &str) -> Option<&str> {
        self.why_let_go(service, id).filter(|why| why.starts_with(NOT_HELD))
    }

    /// Takes in the results of probes.
    pub fn probed(&mut self, found: &[(Arc<str>, Found)]) -> Vec<Effect> {
        let mut by_service: HashMap<Arc<str>, Vec<(Arc<str>, Found)>> = HashMap::new();
        for (address, found) in found {
            for (service, id) in self.held_at(address) {
                by_service.entry(service).or_default().push((id, *found));
            }
        }
        let mut effects = Vec::new();
        for (service, found) in by_service {
            self.change(&service, &mut effects, |watched, _| {
                found.into_iter().flat_map(|(id, found)| watched.probed(&id, found)).collect()
            });
        }
        self.note(&effects, "its address refused connections");
        effects
    }

    /// Takes in the time.
    pub fn pass(&mut self, now: Now) -> Vec<Effect> {
        let due: Vec<Arc<str>> = self.due(now).cloned().collect();
        let mut effects = Vec::new();
        for service in due {
            self.change(&service, &mut effects, |watched, config| {
                watched.forget(now, config);
                watched.end(now)
            });
        }
        if self.strangers.is_due(now, self.config.window) {
            let Self { strangers, targets, config, .. } = self;
            strangers.sweep(now, config.window, targets.keys().map(|(address, ..)| &**address));
        }
        effects
    }

    /// Whether [`pass`](Self::pass) would change anything.
    pub fn is_due(&self, now: Now) -> bool {
        self.due(now).next().is_some() || self.strangers.is_due(now, self.config.window)
    }

    fn due(&self, now: Now) -> impl Iterator<Item = &Arc<str>> {
        self.services.iter().filter(move |(_, watched)| watched.is_due(now, &self.config)).map(|(name, _)| name)
    }

    /// Accepts that some held instances of a service are gone.
    pub fn release(&mut self, service: &str, which: Which<'_>) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some((service, _)) = self.services.get_key_value(service) {
            self.change(&service.clone(), &mut effects, |watched, _| {
                let meant: Vec<_> = watched.held_at(which).cloned().collect();
                meant.iter().flat_map(|id| watched.believe(id)).collect()
            });
        }
        effects
    }

    /// The same for all; moreover, instances of the service that vanish within this time are gone at once, as somebody
    /// accepted.
    pub fn accept(&mut self, now: Now, service: &str, for_long: Duration, by: &str) -> Vec<Effect> {
        let effects = self.release(service, Which::All);
        let why = format!("{NOT_HELD}{by} had accepted that (guard accept)").into();
        self.change(&service.into(), &mut Vec::new(), |watched, _| {
            watched.accepted = Some(Accepted { until: now.moment + for_long, why });
            Vec::new()
        });
        effects
    }

    /// Holds what an earlier process held of a service, of which so many are registered with each rank of its roots; all of
    /// it at once, since each change costs by what is held. What has no effect is not held: its time is over, or there is no
    /// room.
    pub fn restore(
        &mut self,
        now: Now,
        service: &Arc<str>,
        left: Vec<Left>,
        present: BTreeMap<Rank, usize>,
    ) -> Vec<Effect> {
        for Left { id, instance, rank, .. } in &left {
            self.strangers.leave(&(probed_at(instance), service.clone(), id.clone()), *rank, now);
        }
        let (mut effects, mut refused) = (Vec::new(), Refused::new());
        self.hold(service, &mut effects, &mut refused, |watched, config, room| {
            watched.count(present);
            left.into_iter().filter_map(|left| watched.restore(now, config, left, room)).collect()
        });
        self.report(now, &refused);
        effects
    }

    /// Has each held instance at an address doubted for as long as there are strangers to it.
    fn doubt_at(&mut self, address: &Arc<str>, effects: &mut Vec<Effect>) {
        for (service, id) in self.held_at(address) {
            let Some(entry) = self.services.get(&service).and_then(|watched| watched.held.get(&id)) else { continue };
            let (rank, vanished_at) = (entry.rank(), entry.vanished_at);
            let since = self.strangers.since(address, &service, rank, vanished_at, self.config.window);
            if entry.doubted != since {
                self.change(&service, effects, |watched, _| {
                    watched.doubt(&id, since);
                    Vec::new()
                });
            }
        }
    }

    /// The services and ids of the held instances at an address.
    fn held_at(&self, address: &Arc<str>) -> Vec<(Arc<str>, Arc<str>)> {
        at(&self.targets, address).map(|((_, service, id), _)| (service.clone(), id.clone())).collect()
    }

    /// Changes what is known of a service, as far as there is room.
    fn hold(
        &mut self,
        service: &Arc<str>,
        effects: &mut Vec<Effect>,
        refused: &mut Refused,
        change: impl FnOnce(&mut Watched, &Config, &mut Room) -> Vec<Outcome>,
    ) {
        let mut room = self.room.clone();
        self.change(service, effects, |watched, config| change(watched, config, &mut room));
        refused.extend(room.refused.into_iter().map(|(root, id)| (root, service.clone(), id)));
    }

    /// Changes what is known of a service.
    fn change(
        &mut self,
        service: &Arc<str>,
        effects: &mut Vec<Effect>,
        change: impl FnOnce(&mut Watched, &Config) -> Vec<Outcome>,
    ) {
        let old = self.services.get(service).cloned().unwrap_or_default();
        let mut watched = Watched::clone(&old);
        let mut outcomes = change(&mut watched, &self.config);
        outcomes.extend(watched.pass_over());
        let of = |Outcome { version, id, instance }| Effect { service: service.clone(), version, id, instance };
        effects.extend(outcomes.into_iter().map(of));
        if old.believes_strangers() && !watched.believes_strangers() {
            let cure = format!("if that is so: roster guard release {service} HOST:PORT…");
            tracing::warn!(%service, cure, "others are registered where most of the service was; it is held all the same");
        }
        for change in old.held.diff(&watched.held) {
            let (gone, new) = match change {
                DiffItem::Add(id, entry) => (None, Some((id, entry))),
                DiffItem::Update { old, new } => (Some(old), Some(new)),
                DiffItem::Remove(id, entry) => (Some((id, entry)), None),
            };
            let is_other =
                gone.zip(new).is_none_or(|((_, gone), (_, new))| !Arc::ptr_eq(&gone.vanished, &new.vanished));
            for (entry, is_held) in [(gone, false), (new, true)].into_iter().filter(|_| is_other) {
                let shift = entry.map(|(_, Entry { vanished, .. })| (service.clone(), vanished.clone()));
                self.shifts.extend(shift.map(|(service, vanished)| Shift { service, vanished, is_held }));
            }
            let key = |id: &Arc<str>, target: &Target| (target.address().into(), service.clone(), id.clone());
            if let Some((id, entry)) = gone {
                entry.target.iter().for_each(|target| drop(self.targets.remove(&key(id, target))));
                *self.room.of(entry.rank().root) -= entry.taken();
            }
            if let Some((id, entry)) = new {
                if let Some(target) = &entry.target {
                    self.targets.insert(key(id, target), (target.clone(), entry.rank()));
                }
                *self.room.of(entry.rank().root) += entry.taken();
            }
        }
        for (root, taken) in old.remembered() {
            *self.room.of(root) -= taken;
            if taken.departed > 0 && !watched.has_departed(root) {
                self.departures.remove(&(root, service.clone()));
            }
        }
        watched.remembered().for_each(|(root, taken)| *self.room.of(root) += taken);
        match watched.is_forgotten() {
            true => drop(self.services.remove(service)),
            false => drop(self.services.insert(service.clone(), watched.into())),
        }
    }
}

/// Stands for names that may be long in what is remembered of many. It is keyed: nobody can make up two with the same.
pub(crate) fn mark(names: impl Hash) -> u64 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEYS.hash_one(names)
}

/// Those at an address.
fn at<'a, T>(all: &'a OrdMap<TargetKey, T>, address: &'a Arc<str>) -> impl Iterator<Item = (&'a TargetKey, &'a T)> {
    let from = (address.clone(), "".into(), "".into());
    all.range(from..).take_while(move |((at, ..), _)| at == address)
}

/// What left an address, with the ranks,
fn left(batch: &HashMap<Arc<str>, Observed>) -> Vec<(TargetKey, Rank)> {
    let of = |(service, Observed { vanished, moved, .. }): (&Arc<str>, &Observed)| {
        let vanished = vanished.iter().map(|it| (probed_at(&it.instance), it.id.clone(), it.rank));
        let all = vanished.chain(moved.iter().cloned()).filter(|(address, ..)| !address.is_empty());
        all.map(|(address, id, rank)| ((address, service.clone(), id), rank)).collect::<Vec<_>>()
    };
    batch.iter().flat_map(of).collect()
}

/// and what came to one.
fn came(batch: &HashMap<Arc<str>, Observed>) -> Vec<(TargetKey, Rank)> {
    let all = batch.iter().flat_map(|(service, observed)| observed.came.iter().map(move |came| (service, came)));
    let at = all.filter(|(_, came)| !came.address.is_empty());
    at.map(|(service, came)| ((came.address.clone(), service.clone(), came.id.clone()), came.rank)).collect()
}
