//! Listing and withdrawing instances by the guard's decisions.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::Directory;
use super::claims::Listed;
use crate::format::Config;
use crate::guard::{Effect, Guard, Now, Observed, OfRoot, Vanished, probed_at};
use crate::model::{Instance, NodePath, Record};
use crate::store::Feed;
use crate::store::instances::{NODE_MARK, Provider, count_of_held};

/// The changes of one service's instances in the revision under construction.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// By id, those that no node registers any more, and that are still listed. With the address of each.
    vanished: BTreeMap<Arc<str>, (Vanished, Arc<str>)>,
    /// By id, newly registered ones.
    came: BTreeMap<Arc<str>, Listed>,
    /// By id, those about which another root decides now: the ranks of both.
    passed_on: BTreeMap<Arc<str>, (usize, usize)>,
}

impl Directory {
    /// An empty directory with this guard.
    pub(in crate::store) fn guarded_by(self, guard: Guard) -> Self {
        Self { guard, ..self }
    }

    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// How many instances of a service are registered by nodes.
    pub fn count_of_registered(&self, service: &str) -> usize {
        let Some(instances) = self.instances_of(service) else { return 0 };
        instances.values().map(|set| set.count_of_registered()).sum::<usize>() - count_of_held(instances)
    }

    /// Has the guard do something; returns how many instances that concerns.
    pub(in crate::store) fn guard_with(&mut self, now: Now, act: impl FnOnce(&mut Guard, Now) -> Vec<Effect>) -> usize {
        let protected: Vec<Arc<str>> = self.guard.protected().cloned().collect();
        let effects = act(&mut self.guard, now);
        let count = effects.len();
        self.carry_out(effects);
        for service in protected.iter().filter(|service| self.guard.held_of(service) == 0) {
            tracing::info!(%service, "nothing of the service is held any more");
        }
        count
    }

    /// No node registers a provider any more. What happens to it is decided when the revision is complete.
    pub(super) fn vanish(&mut self, service: &Arc<str>, Listed { version, provider, rank }: &Listed) {
        let Provider { id, instances, .. } = provider;
        let Some((instance, first)) = instances.first().and_then(|it| Some((it, it.endpoints.first()?))) else {
            return self.withdraw(id, service, version);
        };
        let address: Arc<str> = first.address().into();
        let variant = id.strip_prefix(NODE_MARK).and_then(|id| id.strip_prefix(&*address)).unwrap_or_default();
        let (id, version, instance, variant) = (id.clone(), version.clone(), instance.clone(), variant.into());
        let pending = self.pending.entry(service.clone()).or_default();
        let root = pending.passed_on.remove(&id).map_or(*rank, |(from, _)| from);
        let vanished = Vanished { id: id.clone(), version, instance, variant, root, is_lost: false };
        pending.came.remove(&id);
        pending.vanished.insert(id, (vanished, address));
    }

    /// Nodes register a new provider.
    pub(super) fn appear(&mut self, service: &Arc<str>, new: &Listed) {
        let pending = self.pending.entry(service.clone()).or_default();
        let Some((vanished, _)) = pending.vanished.remove(&new.provider.id) else {
            pending.came.insert(new.provider.id.clone(), new.clone());
            return;
        };
        // It moved from one node to another.
        self.pass_on(service, &vanished.id, vanished.root, new.rank);
        if vanished.version != new.version {
            self.withdraw(&vanished.id, service, &vanished.version);
        }
    }

    /// Another root decides about an instance that is registered as before.
    pub(super) fn pass_on(&mut self, service: &Arc<str>, id: &Arc<str>, from: usize, to: usize) {
        let pending = self.pending.entry(service.clone()).or_default();
        match pending.came.get_mut(id) {
            Some(new) => new.rank = to,
            None => pending.passed_on.entry(id.clone()).or_insert((from, to)).1 = to,
        }
    }

    /// Has the guard decide about everything that vanished in this revision. If a feed was not followed until now, most
    /// of a root may have been lost.
    pub(in crate::store) fn settle(&mut self, now: Now, feeds: &[Arc<Feed>], unseen: Option<usize>) {
        let pending = std::mem::take(&mut self.pending);
        let has_vanished = pending.values().any(|pending| !pending.vanished.is_empty());
        if !has_vanished && self.guard.is_idle() {
            return;
        }
        let lost = unseen.filter(|_| has_vanished).map(|feed| self.lost_roots(feeds[feed].services(), &pending));
        let is_lost = |vanished: &Vanished| {
            path_of(&vanished.instance).is_some_and(|path| lost.iter().flatten().any(|root| path.is_under(root)))
        };
        let (mut batch, mut unprotected) = (HashMap::new(), Vec::new());
        for (service, Pending { vanished, came, passed_on }) in pending {
            let present = self.count_of_registered(&service).saturating_sub(vanished.len());
            // If its address is registered in another version or group below its root, it has only changed.
            let is_loss = |(vanished, address): &(Vanished, Arc<str>)| {
                is_guarded(feeds, &vanished.instance)
                    && !self.registrations.is_claimed(&service, address, vanished.root)
            };
            let (vanished, moved): (Vec<_>, Vec<_>) = vanished.into_values().partition(is_loss);
            for (vanished, _) in &moved {
                self.withdraw(&vanished.id, &service, &vanished.version);
            }
            let vanished = vanished.into_iter().map(|(it, _)| Vanished { is_lost: is_lost(&it), ..it });
            let vanished: Vec<_> = vanished.collect();
            let mut roots: BTreeMap<usize, OfRoot> = vanished.iter().map(|it| (it.root, OfRoot::default())).collect();
            moved.iter().for_each(|(it, _)| roots.entry(it.root).or_default().moved += 1);
            came.values().for_each(|it| roots.entry(it.rank).or_default().came += 1);
            for (from, to) in passed_on.into_values().filter(|(from, to)| from != to) {
                roots.entry(from).or_default().moved += 1;
                roots.entry(to).or_default().came += 1;
            }
            for (rank, changes) in &mut roots {
                changes.present = self.registrations.count_of_rank(&service, *rank);
            }
            let address = |it: &Provider| it.instances.first().map_or_else(|| "".into(), probed_at);
            let came = came.into_iter().map(|(id, it)| (id, it.version, address(&it.provider))).collect();
            if self.guard.held_of(&service) == 0 {
                unprotected.push((service.clone(), present));
            }
            let moved = moved.into_iter().map(|(it, _)| (probed_at(&it.instance), it.id));
            batch.insert(service, Observed { vanished, moved: moved.collect(), came, present, roots });
        }
        let effects = self.guard.observe(now, batch);
        self.carry_out(effects);
        for (service, registered) in unprotected {
            let held = self.guard.held_of(&service);
            if held > 0 {
                let cure = format!("if that was meant: roster guard accept {service}");
                tracing::warn!(%service, held, registered, cure, "too much of the service vanished at once; it is held");
            }
        }
    }

    /// Holds again what an earlier process held, if it is still configured so.
    pub(in crate::store) fn hold_again(&mut self, now: Now, feeds: &[Arc<Feed>], instance: Instance) {
        let Some((first, held)) = instance.endpoints.first().zip(instance.held.as_deref()) else { return };
        let address: Arc<str> = first.address().into();
        let Some(config) = config_of(feeds, &instance).filter(|config| config.guard) else { return };
        if self.registrations.is_claimed(&instance.service, &address, config.rank) {
            return;
        }
        let id = format!("{NODE_MARK}{address}{}", held.variant).into();
        let present = self.count_of_registered(&instance.service);
        let root = (config.rank, self.registrations.count_of_rank(&instance.service, config.rank));
        let effects = self.guard.restore(now, id, instance, root, present);
        self.carry_out(effects);
    }

    /// The roots that lost more than half of their registering nodes.
    fn lost_roots<'c>(&self, configs: &'c [Config], pending: &HashMap<Arc<str>, Pending>) -> Vec<&'c NodePath> {
        let vanished = pending.values().flat_map(|pending| pending.vanished.values());
        let gone: HashSet<&NodePath> = vanished.filter_map(|(vanished, _)| path_of(&vanished.instance)).collect();
        let is_lost = |root: &&NodePath| {
            let gone = gone.iter().filter(|path| path.is_under(root)).count();
            self.registrations.count_below(root, gone) < gone
        };
        configs.iter().map(|config| &config.root).filter(is_lost).collect()
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for Effect { service, version, id, instance } in effects {
            match instance {
                Some(instance) => self.list(&id, service, version, [instance].into()),
                None => self.withdraw(&id, &service, &version),
            }
        }
    }
}

/// Whether the guard protects an instance, by where it is registered.
fn is_guarded(feeds: &[Arc<Feed>], instance: &Instance) -> bool {
    config_of(feeds, instance).is_some_and(|config| config.guard)
}

/// The root below which an instance is registered.
fn config_of<'f>(feeds: &'f [Arc<Feed>], instance: &Instance) -> Option<&'f Config> {
    let path = path_of(instance)?;
    feeds.iter().flat_map(|feed| feed.services()).find(|config| path.is_under(&config.root))
}

/// The path of the node by which an instance is known.
fn path_of(instance: &Instance) -> Option<&NodePath> {
    instance.provenance.iter().find_map(|it| match &it.record {
        Record::Node(path) => Some(path),
        Record::Master(_) => None,
    })
}
