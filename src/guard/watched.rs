//! One service that lost instances.

use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, OrdSet};
use semver::Version;

use super::departed::{Departed, DepartedList};
use super::levels::Levels;
use super::{Config, DOUBT, Found, Now, Observed, Target, Vanished, Which, mark};
use crate::clock::{CLOCK_SETTLES, Moment, boot_id};
use crate::model::{AfterBoot, Held, Instance, Probe, Provenance};

/// How far the wall clock may be from the other before the end of what is restored is another.
const MAX_DRIFT_MS: u64 = 1_000;

/// What is remembered of one service. A clone shares as much as possible with the original.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched {
    /// How many are registered.
    pub(super) present: usize,
    /// The most that were registered before the held ones vanished.
    before: usize,
    /// By id.
    pub(super) held: OrdMap<Arc<str>, Entry>,
    /// Those of them that vanished within the window, by when they did.
    lately: OrdSet<(Moment, Arc<str>)>,
    /// Since when some are held, and until when at most; ms since 1970.
    pub(super) since: u64,
    pub(super) ends_at: u64,
    /// How many of them have strangers at their addresses, how many were withdrawn for that, and the marks of the ids of
    /// those that were not registered again.
    doubted: usize,
    displaced: usize,
    away: OrdSet<u64>,
    /// How many of them answer, how many are silent, and whether the silent ones are passed over.
    pub(super) answering: usize,
    pub(super) silent: usize,
    passes_over: bool,
    levels: Levels,
    pub(super) departed: DepartedList,
    /// Until when removals are accepted.
    pub(super) accepted: Option<Moment>,
}

/// A held instance.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    vanished: Arc<Vanished>,
    /// None: it has no port, so that it cannot be probed.
    pub(super) target: Option<Target>,
    held: Held,
    /// When it vanished; None: in an earlier process.
    pub(super) vanished_at: Option<Moment>,
    expires: Moment,
    /// Since when there are strangers at its address.
    pub(super) doubted: Option<Moment>,
    /// About how many bytes it takes.
    pub(super) bytes: usize,
}

/// An instance of the service to list or withdraw.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) version: Version,
    pub(super) id: Arc<str>,
    /// None: it is gone.
    pub(super) instance: Option<Instance>,
}

impl Vanished {
    /// About how many bytes it takes.
    pub(super) fn size(&self) -> usize {
        let provenance = self.instance.provenance.iter().map(|Provenance { record, .. }| record.bytes() + 64);
        self.instance.packed_bytes() + provenance.sum::<usize>() + 512
    }

    fn gone(&self) -> Outcome {
        Outcome { version: self.version.clone(), id: self.id.clone(), instance: None }
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        let of = |it: &Self| (Arc::as_ptr(&it.vanished), it.expires, it.doubted);
        of(self) == of(other) && self.held == other.held
    }
}

impl Entry {
    fn new(Departed { vanished, at, .. }: Departed, before: usize, config: &Config) -> Self {
        let (variant, before) = (vanished.variant.clone(), Some(before));
        let held = Held { since: at.wall, variant, before, ..Held::default() };
        let (target, bytes) = (Target::of(&vanished.instance), vanished.size());
        let (vanished_at, expires) = (Some(at.moment), at.moment);
        Self { target, bytes, held, vanished_at, expires, doubted: None, vanished }.until(at, config.max_hold)
    }

    /// The same, held for so long from now on.
    fn until(mut self, now: Now, left: Duration) -> Self {
        self.expires = now.moment + left;
        self.held.ends_at = now.wall + left.as_millis() as u64;
        let ends_at = self.expires.since_boot().as_millis() as u64;
        self.held.after_boot = Some(AfterBoot { boot: boot_id().into(), ends_at });
        self
    }

    fn listed(&self) -> Outcome {
        let Vanished { version, id, instance, .. } = &*self.vanished;
        let instance = Instance { held: Some(self.held.clone().into()), ..instance.clone() };
        Outcome { version: version.clone(), id: id.clone(), instance: Some(instance) }
    }
}

impl Watched {
    /// Holds what vanished, or lets it go. There is room to hold and to remember this many more.
    pub(super) fn observe(
        &mut self,
        now: Now,
        config: &Config,
        observed: Observed,
        room_for_held: usize,
        room_for_departed: usize,
    ) -> Vec<Outcome> {
        let Observed { vanished, moved, came, present } = observed;
        self.forget(now, config);
        // Held ones do not count here or in the peak, so that they do not keep later ones from going.
        let registered = (present + vanished.len()).saturating_sub(came.len());
        let mut outcomes = Vec::new();
        for (id, version, _) in came {
            self.departed.remove(&id);
            self.away.remove(&mark(&id));
            if let Some(entry) = self.take(&id).filter(|entry| entry.vanished.version != version) {
                outcomes.push(entry.vanished.gone());
            }
        }
        self.present = present;
        self.levels.lower(moved.len());
        if self.accepted.is_some() {
            self.levels.lower(vanished.len());
            outcomes.extend(vanished.iter().map(Vanished::gone));
            return outcomes;
        }
        let peak = self.levels.peak().max(registered);
        // The size of the service is that before the loss, as long as it lasts: what is left may be few.
        let is_large = peak.max(self.before) >= config.min_instances;
        let is_shrunken = !vanished.is_empty() && is_large && present * 2 < peak;
        let (mut held, mut gone): (Vec<_>, Vec<_>) = vanished.into_iter().partition(|it| is_shrunken || it.is_lost);
        gone.extend(held.drain(held.len().min(room_for_held)..));
        let room_for_held = room_for_held - held.len();
        if !held.is_empty() {
            self.before = self.before.max(peak);
        }
        for vanished in held {
            outcomes.push(self.hold(Departed::new(vanished, now), config));
        }
        // Those that went first looked like ordinary removals.
        let known = self.present + self.lately.len() + gone.len();
        let missing = if is_shrunken { peak.saturating_sub(known) } else { 0 };
        for _ in 0..missing.min(room_for_held) {
            let Some(departed) = self.departed.pop_newest() else { break };
            outcomes.push(self.hold(departed, config));
        }
        if self.present < registered {
            self.levels.fell(registered, now.moment, config.window);
        }
        outcomes.extend(gone.iter().map(Vanished::gone));
        gone.truncate(room_for_departed);
        gone.into_iter().for_each(|vanished| self.departed.insert(vanished, now));
        while self.departed.len() > peak {
            self.departed.pop_oldest();
        }
        outcomes
    }

    /// Forgets what is outside the window.
    pub(super) fn forget(&mut self, now: Now, config: &Config) {
        self.levels.forget(now.moment, config.window);
        while self.lately.get_min().is_some_and(|(at, _)| now.moment.since(*at) >= config.window) {
            self.lately.remove_min();
        }
        while self.departed.oldest().is_some_and(|oldest| now.moment.since(oldest.moment) >= config.window) {
            self.departed.pop_oldest();
        }
        self.accepted = self.accepted.filter(|until| now.moment < *until);
    }

    /// Whether something is to be forgotten, or is no longer to be held.
    pub(super) fn is_due(&self, now: Now, config: &Config) -> bool {
        let is_old = |at: Now| now.moment.since(at.moment) >= config.window;
        self.departed.oldest().is_some_and(is_old)
            || self.levels.is_older(now.moment, config.window)
            || self.accepted.is_some_and(|until| now.moment >= until)
            || self.over(now).next().is_some()
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_forgotten(&self) -> bool {
        self.held.is_empty() && self.departed.len() == 0 && self.levels.is_empty() && self.accepted.is_none()
    }

    /// Whether strangers end a hold: as long as they are, or were, at no more than half of the addresses of the service that
    /// may still be alive.
    pub(super) fn believes_strangers(&self) -> bool {
        (self.doubted + self.displaced) * 2 <= self.present + self.held.len() + self.away.len()
    }

    /// The ids of those whose hold has ended, and whether strangers ended it.
    fn over(&self, now: Now) -> impl Iterator<Item = (&Arc<str>, bool)> {
        let are_believed = self.believes_strangers();
        self.held.iter().filter_map(move |(id, entry)| {
            let is_displaced = are_believed && entry.doubted.is_some_and(|since| now.moment.since(since) >= DOUBT);
            (is_displaced || now.moment >= entry.expires).then_some((id, is_displaced))
        })
    }

    /// Withdraws those whose hold has ended.
    pub(super) fn end(&mut self, now: Now) -> Vec<Outcome> {
        let over: Vec<_> = self.over(now).map(|(id, is_displaced)| (id.clone(), is_displaced)).collect();
        let displaced = over.iter().filter(|(_, is_displaced)| *is_displaced);
        self.away.extend(displaced.clone().map(|(id, _)| mark(id)));
        self.displaced += displaced.count();
        over.iter().filter_map(|(id, _)| self.believe(id)).collect()
    }

    /// The ids of some held instances.
    pub(super) fn held_at(&self, which: Which<'_>) -> impl Iterator<Item = &Arc<str>> {
        let is_meant = move |entry: &Entry| match which {
            Which::All => true,
            Which::At(addresses) => {
                let address = entry.vanished.instance.address();
                addresses.iter().any(|it| **it == address)
            }
        };
        self.held.iter().filter(move |(_, entry)| is_meant(entry)).map(|(id, _)| id)
    }

    /// Accepts that it is gone.
    pub(super) fn believe(&mut self, id: &str) -> Option<Outcome> {
        let entry = self.take(id)?;
        entry.vanished_at.iter().for_each(|at| self.levels.lower_until(*at));
        Some(entry.vanished.gone())
    }

    /// Takes in the result of a probe of its address.
    pub(super) fn probed(&mut self, id: &str, found: Found) -> Option<Outcome> {
        let probe = match found {
            Found::Refused => return self.believe(id),
            Found::Answering => Probe::Answering,
            Found::Silent => Probe::Silent,
        };
        if self.held.get(id)?.held.probe == probe {
            return None;
        }
        let mut entry = self.take(id)?;
        (entry.held.probe, entry.held.passed_over) = (probe, probe == Probe::Silent && self.passes_over);
        let listed = entry.listed();
        self.put(entry);
        Some(listed)
    }

    /// Notes since when there are strangers at its address.
    pub(super) fn doubt(&mut self, id: &str, since: Option<Moment>) {
        if let Some(mut entry) = self.take(id) {
            entry.doubted = since;
            self.put(entry);
        }
    }

    /// Passes over silent instances if at least half of all are well, or half as many are registered as before the
    /// loss; returns those for which that changed. Otherwise the probes may be at fault, and all are chosen.
    pub(super) fn pass_over(&mut self) -> Vec<Outcome> {
        if self.held.is_empty() {
            (self.before, self.displaced, self.away) = (0, 0, OrdSet::new());
        }
        let passes_over = self.silent * 2 <= self.present + self.held.len() || self.present * 2 >= self.before;
        if std::mem::replace(&mut self.passes_over, passes_over) == passes_over || self.silent == 0 {
            return Vec::new();
        }
        let is_silent = |(_, entry): &(&Arc<str>, &Entry)| entry.held.probe == Probe::Silent;
        let silent: Vec<Arc<str>> = self.held.iter().filter(is_silent).map(|(id, _)| id.clone()).collect();
        let marked = silent.iter().filter_map(|id| {
            let entry = self.held.get_mut(id)?;
            entry.held.passed_over = passes_over;
            Some(entry.listed())
        });
        marked.collect()
    }

    /// Holds what an earlier process held, until its time is over; None: it is over.
    pub(super) fn restore(&mut self, now: Now, config: &Config, id: Arc<str>, instance: Instance) -> Option<Outcome> {
        let held = instance.held.as_deref()?.clone();
        let left = time_left(now, &held).min(config.max_hold);
        if left.is_zero() {
            return None;
        }
        let (version, variant) = (instance.version.clone(), held.variant.clone());
        let instance = Instance { held: None, ..instance };
        let vanished = Vanished { id: id.clone(), version, instance, variant, is_lost: false };
        // An earlier version did not write it down.
        let before = held.before.unwrap_or(self.held.len() + 1);
        let entry = Entry::new(Departed::new(vanished, now), before, config);
        let held = Held { probe: Probe::Untried, passed_over: false, ..held };
        let ends_at = held.ends_at;
        let mut entry = Entry { held, vanished_at: None, ..entry }.until(now, left);
        if entry.held.ends_at.abs_diff(ends_at) < MAX_DRIFT_MS {
            entry.held.ends_at = ends_at;
        }
        let listed = entry.listed();
        self.put(entry);
        self.before = self.before.max(before);
        Some(listed)
    }

    fn hold(&mut self, departed: Departed, config: &Config) -> Outcome {
        let entry = Entry::new(departed, self.before, config);
        let listed = entry.listed();
        self.put(entry);
        listed
    }

    fn put(&mut self, entry: Entry) {
        self.take(&entry.vanished.id);
        let is_first = self.held.is_empty();
        self.since = if is_first { entry.held.since } else { self.since.min(entry.held.since) };
        self.ends_at = if is_first { entry.held.ends_at } else { self.ends_at.max(entry.held.ends_at) };
        self.doubted += usize::from(entry.doubted.is_some());
        self.answering += usize::from(entry.held.probe == Probe::Answering);
        self.silent += usize::from(entry.held.probe == Probe::Silent);
        self.lately.extend(entry.vanished_at.map(|at| (at, entry.vanished.id.clone())));
        self.held.insert(entry.vanished.id.clone(), entry);
    }

    fn take(&mut self, id: &str) -> Option<Entry> {
        let entry = self.held.remove(id)?;
        entry.vanished_at.iter().for_each(|at| drop(self.lately.remove(&(*at, entry.vanished.id.clone()))));
        self.doubted -= usize::from(entry.doubted.is_some());
        self.answering -= usize::from(entry.held.probe == Probe::Answering);
        self.silent -= usize::from(entry.held.probe == Probe::Silent);
        Some(entry)
    }
}

/// For how long something is still to be held by a record of it. One of another boot of the machine knows only the wall
/// clock; and until that is settled, what seems over is held for as long as it was to be at first.
fn time_left(now: Now, held: &Held) -> Duration {
    if let Some(AfterBoot { boot, ends_at }) = &held.after_boot
        && !boot.is_empty()
        && **boot == *boot_id()
    {
        return Duration::from_millis(*ends_at).saturating_sub(now.moment.since_boot());
    }
    let is_settled = now.moment.since_boot() >= CLOCK_SETTLES;
    let from = if held.ends_at > now.wall || is_settled { now.wall } else { held.since };
    Duration::from_millis(held.ends_at.saturating_sub(from))
}
