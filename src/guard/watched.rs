//! One service that lost instances.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use semver::Version;

use super::departed::Departed;
use super::entry::{Entry, Outcome, time_left};
use super::losses::{Loss, Losses, Sums};
use super::room::{Room, Taken};
use super::{Came, Config, DOUBT, Found, Left, Now, Observed, OfRank, Rank, Vanished, Which, mark};
use crate::clock::Moment;
use crate::model::{Instance, Probe};

/// What is remembered of one service. A clone shares as much as possible with the original.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched {
    /// By id.
    pub(super) held: OrdMap<Arc<str>, Entry>,
    /// By rank: what is registered with one has no part in what was lost with another. Boxed, since most services have
    /// one, and a map makes room for many.
    losses: BTreeMap<Rank, Box<Losses>>,
    /// Since when some are held, and until when at most; ms since 1970.
    pub(super) since: u64,
    pub(super) ends_at: u64,
    /// How many of them answer, and how many are silent.
    pub(super) answering: usize,
    pub(super) silent: usize,
    pub(super) accepted: Option<Accepted>,
}

/// That removals are accepted: until when, and why what goes by then is not held.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    pub(super) until: Moment,
    pub(super) why: Arc<str>,
}

impl Watched {
    /// Holds what vanished, or lets it go.
    pub(super) fn observe(&mut self, now: Now, config: &Config, observed: Observed, room: &mut Room) -> Vec<Outcome> {
        let Observed { vanished, moved, came, ranks } = observed;
        self.forget(now, config);
        let newcomers: Vec<_> = came.iter().filter_map(|came| Some((came, self.new_since(now, came)?))).collect();
        for (_, id, rank) in &moved {
            if let Some(losses) = self.losses.get_mut(rank) {
                losses.newcomers.remove(id);
                losses.returned.remove(id);
            }
        }
        for back in &came {
            if self.is_held(back) {
                self.losses.entry(back.rank).or_default().returned.insert(back.id.clone(), now.moment);
            }
        }
        let mut outcomes = Vec::new();
        outcomes.extend(came.iter().filter_map(|came| self.come(&came.id, &came.version, came.rank)));
        let loss = |rank, changes| Loss { rank, others: 0, changes, vanished: Vec::new() };
        let mut by_rank: BTreeMap<Rank, Loss> =
            ranks.into_iter().map(|(rank, changes)| (rank, loss(rank, changes))).collect();
        for it in vanished {
            let (rank, changes) = (it.rank, OfRank::default());
            by_rank.entry(rank).or_insert_with(|| loss(rank, changes)).vanished.push(it);
        }
        let before: BTreeMap<Rank, usize> = by_rank.iter().map(|(rank, loss)| (*rank, loss.registered())).collect();
        for (rank, loss) in by_rank {
            // Those with the other rank of the root are of the same service.
            let others = before.range(of_root(rank.root)).filter(|(other, _)| **other != rank);
            let most = |(rank, registered): (&Rank, &usize)| {
                self.losses.get(rank).map_or(0, |it| it.levels.peak().max(it.before)).max(*registered)
            };
            let others = others.map(most).sum();
            outcomes.extend(self.lose(now, config, Loss { others, ..loss }, room));
        }
        for (Came { id, rank, .. }, since) in newcomers {
            self.losses.entry(*rank).or_default().newcomers.insert(id.clone(), since);
        }
        outcomes
    }

    /// Since when an instance that came is new; none: it is not, since it was there before, or is held.
    fn new_since(&self, now: Now, came: &Came) -> Option<Moment> {
        if self.is_held(came) || !came.is_new {
            return None;
        }
        let departed = self.losses.get(&came.rank).and_then(|losses| losses.departed.get(&came.id));
        departed.map_or(Some(now.moment), |departed| departed.came)
    }

    /// Whether what came is held below the same root.
    fn is_held(&self, came: &Came) -> bool {
        self.held.get(&came.id).is_some_and(|entry| entry.rank().root == came.rank.root)
    }

    /// Takes in that an instance is registered. What was below an earlier root is not back.
    pub(super) fn come(&mut self, id: &str, version: &Version, rank: Rank) -> Option<Outcome> {
        let from = Rank::of_root(rank.root);
        for losses in self.losses.range_mut(from..).map(|(_, losses)| losses) {
            losses.departed.remove(id);
            losses.away.remove(&mark(id));
        }
        let is_back = self.held.get(id).is_some_and(|entry| entry.rank() >= from);
        let entry = if is_back { self.take(id) } else { None };
        entry.filter(|it| it.vanished.version != *version).map(|it| it.vanished.gone())
    }

    /// Holds or lets go what vanished with one rank.
    fn lose(&mut self, now: Now, config: &Config, loss: Loss, room: &mut Room) -> Vec<Outcome> {
        // Held ones do not count here or in the peak, so that they do not keep later ones from going.
        let registered = loss.registered();
        let Loss { rank, others, changes: OfRank { present, moved, .. }, vanished } = loss;
        let losses = self.losses.entry(rank).or_default();
        let size = losses.size(registered);
        losses.present = present;
        losses.levels.lower(moved);
        let vanished: Vec<_> = vanished
            .into_iter()
            .map(|it| {
                let came = losses.newcomers.remove(&it.id);
                let has_returned = losses.returned.remove(&it.id).is_some();
                Departed::new(Vanished { is_lost: it.is_lost || has_returned, ..it }, now, came)
            })
            .collect();
        if self.accepted.is_some() {
            losses.levels.lower(vanished.len());
            return vanished.iter().map(|it| it.vanished.gone()).collect();
        }
        let peak = losses.levels.peak().max(size);
        // The size of the service is that before the loss, as long as it lasts: what is left may be few.
        let is_large = peak.max(losses.before) + others >= config.min_instances;
        let is_shrunken = !vanished.is_empty() && is_large && present * 2 < peak;
        let (mut held, mut gone): (Vec<_>, Vec<_>) =
            vanished.into_iter().partition(|it| is_shrunken || it.vanished.is_lost);
        let room_for_held = room.for_held(rank.root, config.max_held);
        let refused = held.split_off(held.len().min(room_for_held));
        room.refuse(rank.root, refused.iter().map(|it| it.vanished.id.clone()));
        gone.extend(refused);
        if !held.is_empty() {
            losses.before = losses.before.max(peak);
        }
        // Those that went first looked like ordinary removals.
        let known = present + losses.lately.len() + held.len() + gone.len();
        let missing = if is_shrunken { peak.saturating_sub(known) } else { 0 };
        for _ in 0..missing.min(room_for_held - held.len()) {
            held.extend(losses.departed.pop_newest());
        }
        if present < registered {
            losses.levels.fell(size, now.moment, config.window);
        }
        let is_held_above = |id: &str| self.held.get(id).is_some_and(|entry| entry.rank() < rank);
        let withdrawn = gone.iter().map(|it| &it.vanished).filter(|it| !is_held_above(&it.id));
        let mut outcomes: Vec<_> = withdrawn.map(|it| it.gone()).collect();
        held.retain(|it| !is_held_above(&it.vanished.id));
        gone.truncate(room.for_departed(rank.root, config.max_held));
        let taken = room.of(rank.root);
        (taken.held, taken.departed) = (taken.held + held.len(), taken.departed + gone.len());
        gone.into_iter().for_each(|departed| losses.departed.insert(departed));
        while losses.departed.len() > peak {
            losses.departed.pop_oldest();
        }
        outcomes.extend(held.into_iter().map(|departed| self.hold(departed, config)));
        outcomes
    }

    /// Forgets what is outside the window.
    pub(super) fn forget(&mut self, now: Now, config: &Config) {
        self.losses.values_mut().for_each(|losses| losses.forget(now, config));
        self.accepted.take_if(|accepted| now.moment >= accepted.until);
    }

    /// Whether something is to be forgotten, or is no longer to be held.
    pub(super) fn is_due(&self, now: Now, config: &Config) -> bool {
        self.losses.values().any(|losses| losses.is_due(now, config))
            || self.accepted.as_ref().is_some_and(|accepted| now.moment >= accepted.until)
            || self.over(now).next().is_some()
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_forgotten(&self) -> bool {
        self.losses.values().all(|losses| losses.is_forgotten()) && self.accepted.is_none()
    }

    /// By the place of a root, what is remembered without being held, and what came and vanished within the window.
    pub(super) fn remembered(&self) -> impl Iterator<Item = (usize, Taken)> {
        self.losses.iter().map(|(rank, losses)| (rank.root, losses.taken()))
    }

    /// Whether something of a root is remembered without being held.
    pub(super) fn has_departed(&self, root: usize) -> bool {
        self.remembered().any(|(of, taken)| of == root && taken.departed > 0)
    }

    /// Holds what vanished of a root within the window, as far as there is room.
    pub(super) fn recall(&mut self, root: usize, config: &Config, room: &mut Room) -> Vec<Outcome> {
        if self.accepted.is_some() {
            return Vec::new();
        }
        let (most, mut recalled) = (room.for_held(root, config.max_held), Vec::new());
        for (_, losses) in self.losses.range_mut(of_root(root)) {
            let peak = losses.levels.peak().max(losses.size(losses.present));
            let missing = peak.saturating_sub(losses.present + losses.lately.len()).min(losses.departed.len());
            let fitting = missing.min(most - recalled.len());
            if fitting > 0 {
                losses.before = losses.before.max(peak);
            }
            recalled.extend((0..fitting).filter_map(|_| losses.departed.pop_newest()));
            room.refuse(root, losses.departed.refuse_newest(missing - fitting).into_iter());
        }
        let is_held_above = |id: &str| self.held.get(id).is_some_and(|entry| entry.rank().root < root);
        recalled.retain(|it| !is_held_above(&it.vanished.id));
        recalled.into_iter().map(|departed| self.hold(departed, config)).collect()
    }

    /// Whether strangers end holds of each root.
    pub(super) fn believes_strangers(&self) -> bool {
        self.losses.keys().all(|rank| self.sums(rank.root).believes_strangers())
    }

    fn sums(&self, root: usize) -> Sums {
        Sums::of(self.losses.range(of_root(root)).map(|(_, losses)| &**losses))
    }

    /// The ids of those whose hold has ended, and whether strangers ended it.
    fn over(&self, now: Now) -> impl Iterator<Item = (&Arc<str>, bool)> {
        let are_believed = |rank: Rank| self.sums(rank.root).believes_strangers();
        self.held.iter().filter_map(move |(id, entry)| {
            let is_doubted = entry.doubted.is_some_and(|since| now.moment.since(since) >= DOUBT);
            let is_displaced = is_doubted && are_believed(entry.rank());
            (is_displaced || now.moment >= entry.expires).then_some((id, is_displaced))
        })
    }

    /// Withdraws those whose hold has ended.
    pub(super) fn end(&mut self, now: Now) -> Vec<Outcome> {
        let over: Vec<_> = self.over(now).map(|(id, is_displaced)| (id.clone(), is_displaced)).collect();
        for (id, _) in over.iter().filter(|(_, is_displaced)| *is_displaced) {
            let rank = self.held.get(id).map(Entry::rank);
            if let Some(losses) = rank.and_then(|rank| self.losses.get_mut(&rank)) {
                losses.away.insert(mark(id));
                losses.displaced += 1;
            }
        }
        over.iter().filter_map(|(id, _)| self.believe(id)).collect()
    }

    /// The ids of some held instances.
    pub(super) fn held_at(&self, which: Which<'_>) -> impl Iterator<Item = &Arc<str>> {
        let is_meant = move |id: &Arc<str>, entry: &Entry| match which {
            Which::All => true,
            Which::Ids(ids) => ids.contains(id),
            Which::At(addresses) => {
                let address = entry.vanished.instance.address();
                addresses.iter().any(|it| **it == address)
            }
        };
        self.held.iter().filter(move |(id, entry)| is_meant(id, entry)).map(|(id, _)| id)
    }

    /// Accepts that it is gone.
    pub(super) fn believe(&mut self, id: &str) -> Option<Outcome> {
        let entry = self.take(id)?;
        if let Some((losses, at)) = self.losses.get_mut(&entry.rank()).zip(entry.vanished_at) {
            losses.levels.lower_until(at);
        }
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
        let (is_recent, mut entry) = (self.is_recent(id), self.take(id)?);
        let passes_over = self.losses.get(&entry.rank()).is_some_and(|losses| losses.passes_over);
        (entry.held.probe, entry.held.passed_over) = (probe, probe == Probe::Silent && passes_over);
        let listed = entry.listed();
        self.put(entry, is_recent);
        Some(listed)
    }

    /// Notes since when there are strangers at its address.
    pub(super) fn doubt(&mut self, id: &str, since: Option<Moment>) {
        let is_recent = self.is_recent(id);
        if let Some(mut entry) = self.take(id) {
            entry.doubted = since;
            self.put(entry, is_recent);
        }
    }

    /// Whether one that is held vanished within the window.
    fn is_recent(&self, id: &str) -> bool {
        self.held.get(id).is_some_and(|entry| {
            let lately = self.losses.get(&entry.rank()).map(|losses| &losses.lately);
            let at = entry.vanished_at.map(|at| (at, entry.vanished.id.clone()));
            lately.zip(at).is_some_and(|(lately, at)| lately.contains(&at))
        })
    }

    /// Passes over silent instances where most of their root are well; returns those for which that changed. Otherwise the
    /// probes may be at fault, and all are chosen.
    pub(super) fn pass_over(&mut self) -> Vec<Outcome> {
        let mut changed = BTreeMap::new();
        for root in self.losses.keys().map(|rank| rank.root).collect::<BTreeSet<_>>() {
            let is_held = self.sums(root).held > 0;
            for (_, losses) in self.losses.range_mut(of_root(root)) {
                losses.before = if losses.held > 0 { losses.before } else { 0 };
                if !is_held {
                    (losses.displaced, losses.away) = (0, OrdSet::new());
                }
            }
            // Both ranks of a root are of one service, so both are remembered.
            if self.losses.range(of_root(root)).all(|(_, losses)| losses.is_forgotten()) {
                self.losses.retain(|rank, _| rank.root != root);
            }
            let passes_over = self.sums(root).passes_over();
            for (rank, losses) in self.losses.range_mut(of_root(root)) {
                if std::mem::replace(&mut losses.passes_over, passes_over) != passes_over && losses.silent > 0 {
                    changed.insert(*rank, passes_over);
                }
            }
        }
        if changed.is_empty() {
            return Vec::new();
        }
        let passes_over = |entry: &Entry| {
            let is_silent = entry.held.probe == Probe::Silent;
            changed.get(&entry.rank()).copied().filter(|_| is_silent)
        };
        let silent = self.held.iter().filter_map(|(id, entry)| Some((id.clone(), passes_over(entry)?)));
        let silent: Vec<(Arc<str>, bool)> = silent.collect();
        let marked = silent.iter().filter_map(|(id, passes_over)| {
            let entry = self.held.get_mut(id)?;
            entry.held.passed_over = *passes_over;
            Some(entry.listed())
        });
        marked.collect()
    }

    /// Takes in how many are registered with some ranks.
    pub(super) fn count(&mut self, present: BTreeMap<Rank, usize>) {
        present.into_iter().for_each(|(rank, present)| self.losses.entry(rank).or_default().present = present);
    }

    /// Holds what an earlier process held, until its time is over; None: it is over, or there is no room.
    pub(super) fn restore(&mut self, now: Now, config: &Config, left: Left, room: &mut Room) -> Option<Outcome> {
        let Left { id, instance, rank } = left;
        let held = instance.held.as_deref()?.clone();
        let left = time_left(now, &held).min(config.max_hold);
        if left.is_zero() {
            return None;
        }
        if room.for_held(rank.root, config.max_held) == 0 {
            room.refuse(rank.root, std::iter::once(id));
            return None;
        }
        let (version, variant, decided_by) = (instance.version.clone(), held.variant.clone(), held.decided_by.clone());
        let instance = Instance { held: None, ..instance };
        let vanished = Vanished { id, version, instance, variant, rank, decided_by, is_lost: false };
        let losses = self.losses.entry(rank).or_default();
        // An earlier version did not write it down.
        let before = held.before.unwrap_or(losses.held + 1);
        losses.before = losses.before.max(before);
        let entry = Entry::restored(vanished, held, now, left);
        *room.of(rank.root) += entry.taken();
        let listed = entry.listed();
        self.put(entry, false);
        Some(listed)
    }

    fn hold(&mut self, departed: Departed, config: &Config) -> Outcome {
        let before = self.losses.get(&departed.vanished.rank).map_or(0, |losses| losses.before);
        let entry = Entry::new(departed, before, config);
        let listed = entry.listed();
        self.put(entry, true);
        listed
    }

    /// Holds one, which vanished within the window or before.
    fn put(&mut self, entry: Entry, is_recent: bool) {
        self.take(&entry.vanished.id);
        let is_first = self.held.is_empty();
        self.since = if is_first { entry.held.since } else { self.since.min(entry.held.since) };
        self.ends_at = if is_first { entry.held.ends_at } else { self.ends_at.max(entry.held.ends_at) };
        self.answering += usize::from(entry.held.probe == Probe::Answering);
        self.silent += usize::from(entry.held.probe == Probe::Silent);
        let losses = self.losses.entry(entry.rank()).or_default();
        losses.held += 1;
        losses.silent += usize::from(entry.held.probe == Probe::Silent);
        losses.doubted += usize::from(entry.doubted.is_some());
        losses.lately.extend(entry.vanished_at.filter(|_| is_recent).map(|at| (at, entry.vanished.id.clone())));
        self.held.insert(entry.vanished.id.clone(), entry);
    }

    fn take(&mut self, id: &str) -> Option<Entry> {
        let entry = self.held.remove(id)?;
        let losses = self.losses.entry(entry.rank()).or_default();
        losses.held -= 1;
        losses.silent -= usize::from(entry.held.probe == Probe::Silent);
        losses.doubted -= usize::from(entry.doubted.is_some());
        entry.vanished_at.iter().for_each(|at| drop(losses.lately.remove(&(*at, entry.vanished.id.clone()))));
        self.answering -= usize::from(entry.held.probe == Probe::Answering);
        self.silent -= usize::from(entry.held.probe == Probe::Silent);
        Some(entry)
    }
}

/// The ranks of a root.
fn of_root(root: usize) -> RangeInclusive<Rank> {
    let [first, last] = Rank::both_of_root(root);
    first..=last
}
