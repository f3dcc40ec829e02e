//! The guard: instances of a service that vanish in numbers are still served, until they are known to be gone.
//!
//! ```text
//!                 vanishes alone: gone at once
//! REGISTERED ───────────────────────────────────────────────────────────► GONE
//!   ▲    │ with more than half of its service within `window`,              ▲ its address refuses connections,
//!   │    │ or with more than half of its root while nobody looked           │ `max_hold` is over,
//!   │    ▼                                                                  │ its address is registered otherwise,
//!   └── HELD: untried ─► answering ◄─► silent ──────────────────────────────┘ or an operator says so
//! registered again     (silent: passed over, as long as most of the service are well)
//! ```
//!
//! Pure: what vanished and appeared, the time, and probe results go in; what to list or withdraw comes out.

mod config;
mod departed;
mod levels;
#[cfg(test)]
mod tests;
mod watched;

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use semver::Version;

pub use self::config::Config;
use self::watched::{Outcome, Watched};
use crate::clock::{Moment, millis_since_1970};
use crate::model::{Endpoint, Instance, address};

/// How long a held instance may take to be registered again, once its address is registered by another.
const DOUBT: Duration = Duration::from_secs(30);

/// Held and remembered instances take at most about this many bytes.
const MAX_BYTES: usize = 256 << 20;

/// What is remembered of services that lost instances. A clone shares as much as possible with the original.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    config: Arc<Config>,
    services: OrdMap<Arc<str>, Arc<Watched>>,
    targets: OrdMap<TargetKey, Target>,
    room: Room,
}

/// The key of a held instance: the address to probe, the service and the id.
type TargetKey = (Arc<str>, Arc<str>, Arc<str>);

/// How much is held and remembered.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    held: usize,
    departed: usize,
    /// About how many bytes that takes.
    bytes: usize,
}

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
    /// How many others vanished without being lost.
    pub moved: usize,
    /// The ids of newly registered instances, with their versions and the addresses at which they would be probed.
    pub came: Vec<(Arc<str>, Version, Arc<str>)>,
    /// How many are registered now.
    pub present: usize,
}

/// An instance that is no longer registered.
#[derive(Clone, Debug)]
pub struct Vanished {
    pub id: Arc<str>,
    pub version: Version,
    pub instance: Instance,
    pub variant: Box<str>,
    /// Whether it went with more than half of its root while the sidecar was not watching.
    pub is_lost: bool,
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

/// A service with held instances, or one whose removals are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guarded<'a> {
    pub service: &'a Arc<str>,
    /// How many are registered, how many are held, and how many of these answer and are silent.
    pub present: usize,
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
}

impl Now {
    pub fn read() -> Self {
        let wall = millis_since_1970(SystemTime::now());
        Self { moment: Moment::now(), wall }
    }
}

impl Target {
    /// None: it has no port.
    fn of(instance: &Instance) -> Option<Self> {
        let Endpoint { host, port, .. } = instance.endpoint().filter(|it| it.port > 0)?;
        Some(Self { host: host.clone(), port: *port })
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
    pub fn new(config: Config) -> Self {
        Self { config: config.into(), ..Self::default() }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether nothing is held or remembered.
    pub fn is_idle(&self) -> bool {
        self.services.is_empty()
    }

    /// How many instances are held.
    pub fn count_of_held(&self) -> usize {
        self.room.held
    }

    /// How many of a service are held.
    pub fn held_of(&self, service: &str) -> usize {
        self.services.get(service).map_or(0, |watched| watched.held.len())
    }

    /// The services with held instances.
    pub fn protected(&self) -> impl Iterator<Item = &Arc<str>> {
        self.services.iter().filter(|(_, watched)| !watched.held.is_empty()).map(|(service, _)| service)
    }

    /// The addresses to probe, each with one of its services.
    pub fn targets(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, &Target)> {
        let mut last: Option<&Arc<str>> = None;
        self.targets.iter().filter_map(move |((address, service, _), target)| {
            (last.replace(address) != Some(address)).then_some((address, service, target))
        })
    }

    /// The services with held instances, and those whose removals are accepted; after the given one.
    pub fn services(&self, now: Now, after: Option<&str>) -> impl Iterator<Item = Guarded<'_>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.services.range::<_, str>((from, Bound::Unbounded)).filter_map(move |(service, watched)| {
            let accepted = watched.accepted.map(|until| until.since(now.moment)).filter(|left| !left.is_zero());
            let Watched { present, answering, silent, since, ends_at, .. } = **watched;
            let held = watched.held.len();
            let guarded = Guarded { service, present, held, answering, silent, since, ends_at, accepted };
            (held > 0 || accepted.is_some()).then_some(guarded)
        })
    }

    /// Takes in the changes of services in one revision.
    pub fn observe(&mut self, now: Now, batch: HashMap<Arc<str>, Observed>) -> Vec<Effect> {
        let mut effects = Vec::new();
        let (came, gone) = match self.targets.is_empty() {
            true => Default::default(),
            false => (self.newcomers(&batch), left(&batch)),
        };
        for (service, observed) in batch {
            if !observed.vanished.is_empty() || self.services.contains_key(&service) {
                let (held, departed) = (self.room_for_held(), self.room_for_departed());
                self.change(&service, &mut effects, |watched, config| {
                    watched.observe(now, config, observed, held, departed)
                });
            }
        }
        for (service, address) in gone {
            self.change_at(&address, |watched, _, id| watched.trust(id, &service));
        }
        for (newcomer, address) in came {
            // A service with a held instance there was at the address along with the others.
            let is_known = self.held_at(&address).iter().any(|(service, _)| *service == newcomer);
            self.change_at(&address, |watched, service, id| {
                if !is_known || *service == newcomer {
                    watched.doubt(id, &newcomer, now);
                }
            });
        }
        effects
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
        effects
    }

    /// Takes in the time.
    pub fn pass(&mut self, now: Now) -> Vec<Effect> {
        let due: Vec<Arc<str>> = self.due(now).cloned().collect();
        let mut effects = Vec::new();
        for service in due {
            self.change(&service, &mut effects, |watched, config| {
                watched.forget(now, config);
                let over: Vec<_> = watched.over(now).cloned().collect();
                over.iter().flat_map(|id| watched.believe(id)).collect()
            });
        }
        effects
    }

    /// Whether [`pass`](Self::pass) would change anything.
    pub fn is_due(&self, now: Now) -> bool {
        self.due(now).next().is_some()
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

    /// The same for all; moreover, instances of the service that vanish within this time are gone at once. `present`
    /// are registered now.
    pub fn accept(&mut self, now: Now, service: &str, for_long: Duration, present: usize) -> Vec<Effect> {
        let effects = self.release(service, Which::All);
        self.change(&service.into(), &mut Vec::new(), |watched, _| {
            (watched.present, watched.accepted) = (present, Some(now.moment + for_long));
            Vec::new()
        });
        effects
    }

    /// Holds what an earlier process held. `present` of the service are registered now. None: its time is over, or
    /// there is no room.
    pub fn restore(&mut self, now: Now, id: Arc<str>, instance: Instance, present: usize) -> Vec<Effect> {
        let (has_room, mut effects) = (self.room_for_held() > 0, Vec::new());
        self.change(&instance.service.clone(), &mut effects, |watched, config| {
            watched.present = present;
            let restored = has_room.then(|| watched.restore(now, config, id, instance)).flatten();
            restored.into_iter().collect()
        });
        effects
    }

    /// The services that got an instance at an address, with the address, except instances that only came back.
    fn newcomers(&self, batch: &HashMap<Arc<str>, Observed>) -> Vec<(Arc<str>, Arc<str>)> {
        let came = batch.iter().flat_map(|(service, observed)| observed.came.iter().map(move |came| (service, came)));
        let is_new = |service: &str, id: &str| self.services.get(service).is_none_or(|watched| !watched.remembers(id));
        let new = came.filter(|(service, (id, _, address))| !address.is_empty() && is_new(service, id));
        new.map(|(service, (.., address))| (service.clone(), address.clone())).collect()
    }

    /// Changes each held instance at an address; the callback gets its service and id.
    fn change_at(&mut self, address: &str, change: impl Fn(&mut Watched, &Arc<str>, &str)) {
        for (service, id) in self.held_at(address) {
            self.change(&service, &mut Vec::new(), |watched, _| {
                change(watched, &service, &id);
                Vec::new()
            });
        }
    }

    /// The services and ids of the held instances at an address.
    fn held_at(&self, address: &str) -> Vec<(Arc<str>, Arc<str>)> {
        let from = (address.into(), "".into(), "".into());
        let range = self.targets.range(from..).take_while(|((at, ..), _)| **at == *address);
        range.map(|((_, service, id), _)| (service.clone(), id.clone())).collect()
    }

    /// How many more instances may be held,
    fn room_for_held(&self) -> usize {
        if self.room.bytes < MAX_BYTES { self.config.max_held.saturating_sub(self.room.held) } else { 0 }
    }

    /// and how many more may be remembered without being held.
    fn room_for_departed(&self) -> usize {
        if self.room.bytes < MAX_BYTES { self.config.max_held.saturating_sub(self.room.departed) } else { 0 }
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
        for change in old.held.diff(&watched.held) {
            let (gone, new) = match change {
                DiffItem::Add(id, entry) => (None, Some((id, entry))),
                DiffItem::Update { old, new } => (Some(old), Some(new)),
                DiffItem::Remove(id, entry) => (Some((id, entry)), None),
            };
            let key = |id: &Arc<str>, target: &Target| (target.address().into(), service.clone(), id.clone());
            if let Some((id, entry)) = gone {
                entry.target.iter().for_each(|target| drop(self.targets.remove(&key(id, target))));
                (self.room.held, self.room.bytes) = (self.room.held - 1, self.room.bytes - entry.bytes);
            }
            if let Some((id, entry)) = new {
                entry.target.iter().for_each(|target| drop(self.targets.insert(key(id, target), target.clone())));
                (self.room.held, self.room.bytes) = (self.room.held + 1, self.room.bytes + entry.bytes);
            }
        }
        self.room.departed = self.room.departed + watched.departed.len() - old.departed.len();
        self.room.bytes = self.room.bytes + watched.departed.bytes() - old.departed.bytes();
        match watched.is_forgotten() {
            true => drop(self.services.remove(service)),
            false => drop(self.services.insert(service.clone(), watched.into())),
        }
    }
}

/// The services that lost an instance, with its address.
fn left(batch: &HashMap<Arc<str>, Observed>) -> Vec<(Arc<str>, Arc<str>)> {
    let at = |(service, observed): (&Arc<str>, &Observed)| {
        let addresses = observed.vanished.iter().map(|vanished| probed_at(&vanished.instance));
        addresses.map(|address| (service.clone(), address)).collect::<Vec<_>>()
    };
    batch.iter().flat_map(at).collect()
}
