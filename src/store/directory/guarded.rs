//! Listing and withdrawing instances by the guard's decisions.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use semver::Version;

use super::Directory;
use super::claims::Listed;
use crate::format::Config;
use crate::guard::{Came, Effect, Guard, Now, Observed, OfRoot, Vanished, probed_at};
use crate::model::{Endpoint, Format, Instance, NodePath, Record};
use crate::store::Feed;
use crate::store::instances::{NODE_MARK, Provider};

/// How what nodes register of one instance differs from what they did in the revision before.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) before: Option<Listed>,
    pub(super) after: Option<Listed>,
}

/// Those of one service in the revision under construction, by id.
pub(super) type Changes = BTreeMap<Arc<str>, Change>;

/// What became of the changes of one service.
#[derive(Default)]
struct Outcome {
    /// By rank, what came to and moved from each root.
    roots: BTreeMap<usize, OfRoot>,
    came: Vec<Listed>,
    gone: Vec<Gone>,
    /// As they were registered below a later root than now.
    passed_on: Vec<Listed>,
}

/// An instance that is no longer registered below its root, with its address.
type Gone = (Vanished, Arc<str>);

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
        self.instances_of(service).map_or(0, |instances| instances.count_of_registered() - instances.count_of_held())
    }

    /// Has the guard do something; returns how many instances that concerns.
    pub(in crate::store) fn guard_with(&mut self, now: Now, act: impl FnOnce(&mut Guard, Now) -> Vec<Effect>) -> usize {
        let protected: Vec<Arc<str>> = self.guard.protected().cloned().collect();
        let effects = act(&mut self.guard, now);
        let count = effects.len();
        self.carry_out(effects);
        for service in protected.iter().filter(|service| self.guard.held_of(service) == 0) {
            match self.count_of_registered(service) {
                0 => tracing::warn!(%service, "nothing of the service is held any more, and none is registered"),
                registered => tracing::info!(%service, registered, "nothing of the service is held any more"),
            }
        }
        count
    }

    /// Lists what nodes register now, and has the guard decide about everything that vanished in this revision. If a feed
    /// was not followed until now, most of a root may have been lost.
    pub(in crate::store) fn settle(&mut self, now: Now, feeds: &[Arc<Feed>], unseen: Option<usize>) {
        let pending = std::mem::take(&mut self.pending);
        let listed = pending.into_iter().map(|(service, changes)| {
            let outcome = self.list_changes(&service, changes);
            (service, outcome)
        });
        let listed: Vec<(Arc<str>, Outcome)> = listed.collect();
        let gone = || listed.iter().flat_map(|(_, outcome)| &outcome.gone).map(|(vanished, _)| vanished);
        let has_vanished = gone().next().is_some();
        if !has_vanished && self.guard.is_idle() {
            return;
        }
        let lost = unseen.filter(|_| has_vanished).map(|feed| self.lost_roots(feeds[feed].services(), gone()));
        let is_lost = |vanished: &Vanished| {
            path_of(&vanished.instance).is_some_and(|path| lost.iter().flatten().any(|root| path.is_under(root)))
        };
        let (mut batch, mut unprotected) = (HashMap::new(), Vec::new());
        for (service, Outcome { mut roots, came, gone, passed_on }) in listed {
            let address = |it: &Provider| it.instances.first().map_or_else(|| "".into(), probed_at);
            let moved = passed_on.into_iter().map(|it| (address(&it.provider), it.provider.id, it.rank));
            let (mut vanished, mut moved) = (Vec::new(), moved.collect::<Vec<_>>());
            for (it, address) in gone {
                let root = roots.entry(it.root).or_default();
                // If its address is registered in another version or group below its root, it has only changed.
                if is_guarded(feeds, &it.instance) && !self.registrations.is_claimed(&service, &address, it.root) {
                    vanished.push(Vanished { is_lost: is_lost(&it), ..it });
                } else {
                    root.moved += 1;
                    self.give_up(&it.id, &service, &it.version);
                    moved.push((probed_at(&it.instance), it.id, it.root));
                }
            }
            if roots.is_empty() {
                continue;
            }
            for (rank, changes) in &mut roots {
                changes.present = self.registrations.count_of_rank(&service, *rank);
            }
            let came = came.into_iter().map(|Listed { version, provider, rank: root, .. }| Came {
                version,
                address: address(&provider),
                id: provider.id,
                root,
            });
            let observed = Observed { vanished, moved, came: came.collect(), roots };
            if self.guard.held_of(&service) == 0 {
                unprotected.push(service.clone());
            }
            batch.insert(service, observed);
        }
        let effects = self.guard.observe(now, batch);
        self.carry_out(effects);
        for service in unprotected {
            let held = self.guard.held_of(&service);
            if held > 0 {
                let registered = self.count_of_registered(&service);
                let cure = format!("if that was meant: roster guard accept {service}");
                tracing::warn!(%service, held, registered, cure, "too much of the service vanished at once; it is held");
            }
        }
    }

    /// Lists what nodes register of a service now, but for what vanished, which stays listed. An instance vanished if the
    /// root that decided about it no longer registers it, even if a later one does: that is not to decide about it before
    /// the guard has let it go.
    fn list_changes(&mut self, service: &Arc<str>, changes: Changes) -> Outcome {
        let mut outcome = Outcome::default();
        for (id, Change { before, after }) in changes {
            let held_for = self.guard.root_of_held(service, &id);
            let is_behind =
                |it: &Listed| held_for.is_some_and(|root| root < it.rank) || self.is_known_as_held(service, it);
            let (from, to) = (before.as_ref().map(|it| it.rank), after.as_ref().map(|it| it.rank));
            let before = before.filter(|it| !is_behind(it));
            let after = after.filter(|it| !is_behind(it));
            let has_gone = before.as_ref().is_some_and(|was| to.is_none_or(|to| to > was.rank));
            if from != to {
                to.into_iter().for_each(|to| outcome.roots.entry(to).or_default().came += 1);
                let moved = from.filter(|_| !has_gone);
                moved.into_iter().for_each(|from| outcome.roots.entry(from).or_default().moved += 1);
            }
            match (before, after) {
                (Some(was), _) if has_gone => outcome.gone.extend(gone(was)),
                (was, Some(is)) => {
                    if was.as_ref().is_none_or(|was| is.rank < was.rank) {
                        outcome.came.push(is.clone());
                    }
                    if let Some(was) = was.as_ref().filter(|was| was.version != is.version) {
                        self.withdraw(&id, service, &was.version);
                    }
                    outcome.passed_on.extend(was.filter(|was| is.rank < was.rank));
                    self.list_provider(service.clone(), is.version, is.provider);
                }
                (_, None) => {}
            }
        }
        outcome
    }

    /// Holds again what an earlier process held, if it is still configured so.
    pub(in crate::store) fn hold_again(&mut self, now: Now, feeds: &[Arc<Feed>], instance: Instance) {
        let Some((first, held)) = instance.endpoints.first().zip(instance.held.as_deref()) else { return };
        let address: Arc<str> = first.address().into();
        let config = config_of(feeds, &instance).filter(|config| config.guard && is_named(feeds, config, &instance));
        let Some(config) = config else { return };
        let registered = self.registrations.registered(&instance.service, &address, &held.variant);
        let rank = config.rank.max(self.rank_of_mapping(feeds, config, &instance));
        if registered.is_some_and(|it| it.rank <= rank)
            || self.registrations.is_claimed(&instance.service, &address, rank)
        {
            return;
        }
        let id = format!("{NODE_MARK}{address}{}", held.variant).into();
        let root = (rank, self.registrations.count_of_rank(&instance.service, rank));
        let effects = self.guard.restore(now, id, instance, root);
        self.carry_out(effects);
    }

    /// The roots that lost more than half of their registering nodes.
    fn lost_roots<'c, 'v>(
        &self,
        configs: &'c [Config],
        vanished: impl Iterator<Item = &'v Vanished>,
    ) -> Vec<&'c NodePath> {
        let gone: HashSet<&NodePath> = vanished.filter_map(|vanished| path_of(&vanished.instance)).collect();
        let is_lost = |root: &&NodePath| {
            let gone = gone.iter().filter(|path| path.is_under(root)).count();
            self.registrations.count_below(root, gone) < gone
        };
        configs.iter().map(|config| &config.root).filter(is_lost).collect()
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for Effect { service, version, id, instance } in effects {
            let Some(instance) = instance else {
                self.give_up(&id, &service, &version);
                continue;
            };
            let address = instance.endpoints.first().map(Endpoint::address).unwrap_or_default();
            self.list(&id, service.clone(), version, [instance].into());
            self.settle_unnamed(&service, &address);
        }
    }

    /// The lowest rank of a root that maps the interface as which an application is listed, or may have done so.
    fn rank_of_mapping(&self, feeds: &[Arc<Feed>], config: &Config, instance: &Instance) -> usize {
        let Some(application) = application_of(config, instance) else { return 0 };
        let mapped = self.registrations.offered_by(&application.into(), &instance.service);
        mapped.or_else(|| mapping(feeds, instance).map(|it| it.rank).min()).unwrap_or(0)
    }

    /// Whether an instance of which the variant is not known is that which is held at its address for an earlier root.
    fn is_known_as_held(&self, service: &Arc<str>, listed: &Listed) -> bool {
        let address = || listed.provider.instances.first().map(probed_at).unwrap_or_default();
        listed.is_unnamed && self.guard.has_held_at(&address(), service, listed.rank)
    }

    /// Lists what is registered at an address without a variant, or not while that is known as something held.
    fn settle_unnamed(&mut self, service: &Arc<str>, address: &str) {
        let Some(unnamed) = self.registrations.unnamed(service, address) else { return };
        if self.guard.root_of_held(service, &unnamed.provider.id).is_some() {
            return;
        }
        match self.is_known_as_held(service, &unnamed) {
            true => self.withdraw(&unnamed.provider.id, service, &unnamed.version),
            false => self.list_provider(service.clone(), unnamed.version, unnamed.provider),
        }
    }

    /// Lists what nodes register in place of an instance, if any do.
    fn give_up(&mut self, id: &Arc<str>, service: &Arc<str>, version: &Version) {
        let provider = self.instances_of(service).and_then(|by_version| by_version.get(version)?.of(id));
        let instance = provider.and_then(|provider| provider.instances.first());
        let address = instance.and_then(|instance| Some(instance.endpoints.first()?.address())).unwrap_or_default();
        self.withdraw(id, service, version);
        let registered = self.registrations.registered(service, &address, variant(id, &address));
        if let Some(Listed { version, provider, .. }) = registered.filter(|it| !self.is_known_as_held(service, it)) {
            self.list_provider(service.clone(), version, provider);
        }
        self.settle_unnamed(service, &address);
    }
}

/// An instance that is no longer registered.
fn gone(Listed { version, provider, rank, .. }: Listed) -> Option<Gone> {
    let (id, instance) = (provider.id, provider.instances.first()?.clone());
    let address = instance.endpoints.first().map(Endpoint::address).unwrap_or_default();
    let variant = variant(&id, &address).into();
    Some((Vanished { id, version, instance, variant, root: rank, is_lost: false }, address.into()))
}

/// Which variant at its address an instance is, by its id.
fn variant<'i>(id: &'i str, address: &str) -> &'i str {
    id.strip_prefix(NODE_MARK).and_then(|id| id.strip_prefix(address)).unwrap_or_default()
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

/// Whether `names` allow an instance: those of its root, and of an application as an interface also those of a mapping's.
fn is_named(feeds: &[Arc<Feed>], config: &Config, instance: &Instance) -> bool {
    let Some(application) = application_of(config, instance) else { return config.names.is_match(&instance.service) };
    config.names.is_match(&application) && mapping(feeds, instance).next().is_some()
}

/// The application that is listed as an interface.
fn application_of(config: &Config, instance: &Instance) -> Option<String> {
    let located = path_of(instance).and_then(|path| config.locate(path));
    let application = located.filter(|_| config.format == Format::DubboApplication).map(|it| it.service);
    application.filter(|application| **application != *instance.service)
}

/// The roots that may map it.
fn mapping<'f>(feeds: &'f [Arc<Feed>], instance: &Instance) -> impl Iterator<Item = &'f Config> {
    let dubbo = feeds.iter().flat_map(|feed| feed.services()).filter(|it| it.format == Format::Dubbo);
    dubbo.filter(|it| it.names.is_match(&instance.service))
}

/// The path of the node by which an instance is known.
fn path_of(instance: &Instance) -> Option<&NodePath> {
    instance.provenance.iter().find_map(|it| match &it.record {
        Record::Node(path) => Some(path),
        Record::Master(_) => None,
    })
}
