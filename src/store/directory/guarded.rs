//! Listing and withdrawing instances by the guard's decisions.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use indexmap::IndexMap;
use semver::Version;

use super::Directory;
use super::claims::{Listed, id};
use super::ranks::Moves;
use crate::format::Config;
use crate::guard::{Came, Effect, Guard, Left, Lost, Now, Observed, OfRank, Rank, Vanished, Which, probed_at};
use crate::model::{Decoder, Endpoint, Format, Instance, NodePath, Record};
use crate::store::Feed;
use crate::store::instances::{Instances, NODE_MARK, Provider};
use crate::task;

/// How what nodes register of one instance differs from what they did in the revision before.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// Boxed, as most are new.
    pub(super) before: Option<Box<Listed>>,
    pub(super) after: Option<Listed>,
}

/// Those of one service in the revision under construction, by id.
pub(super) type Changes = IndexMap<Arc<str>, Change>;

/// From this many changes on, another thread lists a part of the services.
const MANY: usize = 1_000;

/// What became of the changes of one service.
#[derive(Default)]
struct Outcome {
    ranks: BTreeMap<Rank, OfRank>,
    came: Vec<Listed>,
    gone: Vec<Gone>,
    /// As they were registered with a later rank than now.
    passed_on: Vec<Listed>,
    /// The ids of held ones of which an application says that they are not to be called.
    ended: BTreeSet<Arc<str>>,
}

/// An instance that is no longer registered with its rank, with its address.
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
        self.tell_of_ends(protected);
        count
    }

    /// Logs that nothing is held any more of services of which something was.
    fn tell_of_ends(&self, protected: Vec<Arc<str>>) {
        for service in protected.iter().filter(|service| self.guard.held_of(service) == 0) {
            match self.count_of_registered(service) {
                0 => tracing::warn!(%service, "nothing of the service is held any more, and none is registered"),
                registered => tracing::info!(%service, registered, "nothing of the service is held any more"),
            }
        }
    }

    /// Lists what nodes register now, and has the guard decide about everything that vanished in this revision. If a feed
    /// was not followed until now, most of a root may have been lost. What it registers at first did not come just now.
    pub(in crate::store) fn settle(&mut self, now: Now, feeds: &[Arc<Feed>], unseen: Option<usize>, is_first: bool) {
        let pending = std::mem::take(&mut self.pending);
        let are_new = |changes: &Changes| changes.values().all(|change| change.before.is_none());
        if is_first && self.guard.is_idle() && pending.values().all(are_new) {
            return self.list_new(pending.into_iter().collect());
        }
        let listed = pending.into_iter().map(|(service, changes)| {
            let outcome = self.list_changes(&service, changes);
            (service, outcome)
        });
        let listed: Vec<(Arc<str>, Outcome)> = listed.collect();
        let gone = || listed.iter().flat_map(|(_, outcome)| &outcome.gone).map(|(vanished, _)| vanished);
        let has_vanished = gone().next().is_some();
        let has_new = !is_first && listed.iter().any(|(_, outcome)| !outcome.came.is_empty());
        if !has_vanished && !has_new && self.guard.is_idle() {
            return;
        }
        let lost = unseen.filter(|_| has_vanished).map(|feed| self.lost_roots(feeds[feed].services(), gone()));
        let is_lost = |vanished: &Vanished| {
            path_of(&vanished.instance).is_some_and(|path| lost.iter().flatten().any(|root| path.is_under(root)))
        };
        let (mut batch, mut protected, mut unprotected) = (HashMap::new(), Vec::new(), Vec::new());
        let mut ended = Vec::new();
        for (service, Outcome { mut ranks, came, gone, passed_on, ended: ids }) in listed {
            ended.extend((!ids.is_empty()).then(|| (service.clone(), ids)));
            let address = |it: &Provider| it.instances.first().map_or_else(|| "".into(), probed_at);
            let moved = passed_on.into_iter().map(|it| (address(&it.provider), it.provider.id, it.rank));
            let (mut vanished, mut moved) = (Vec::new(), moved.collect::<Vec<_>>());
            for (it, address) in gone {
                let of_rank = ranks.entry(it.rank).or_default();
                let claims = self.registrations.claims();
                let has_changed = claims.has_in_place_of(&service, &address, &it.variant, it.rank);
                if is_guarded(feeds, &it.instance) && !has_changed {
                    let (is_lost, decided_by) = (is_lost(&it), decided_by(feeds, &it));
                    vanished.push(Vanished { is_lost, decided_by, ..it });
                } else {
                    of_rank.moved += 1;
                    self.give_up(&it.id, &service, &it.version);
                    moved.push((probed_at(&it.instance), it.id, it.rank));
                }
            }
            if ranks.is_empty() {
                continue;
            }
            for (rank, present) in self.present(&service, ranks.keys()) {
                ranks.entry(rank).or_default().present = present;
            }
            let is_new =
                |it: &Provider| !is_first && it.instances.first().is_some_and(|instance| is_guarded(feeds, instance));
            let came = came.into_iter().map(|Listed { version, provider, rank }| Came {
                is_new: is_new(&provider),
                version,
                address: address(&provider),
                id: provider.id,
                rank,
            });
            let observed = Observed { vanished, moved, came: came.collect(), ranks };
            let is_protected = self.guard.held_of(&service) > 0;
            if is_protected { &mut protected } else { &mut unprotected }.push(service.clone());
            batch.insert(service, observed);
        }
        let roots: BTreeSet<usize> = batch.values().flat_map(|it| &it.vanished).map(|it| it.rank.root).collect();
        let registered = roots.into_iter().map(|root| (root, self.registrations.count_of_root(root))).collect();
        let (mut effects, lost) = self.guard.observe(now, batch, &registered);
        lost.into_iter().for_each(|lost| report_loss(feeds, lost));
        effects.extend(ended.iter().flat_map(|(service, ids)| self.guard.release(service, Which::Ids(ids))));
        self.carry_out(effects);
        self.tell_of_ends(protected);
        for service in unprotected {
            let held = self.guard.held_of(&service);
            if held > 0 {
                let registered = self.count_of_registered(&service);
                let cure = format!("if that was meant: roster guard accept {service}");
                tracing::warn!(%service, held, registered, cure, "too much of the service vanished at once; it is held");
            }
        }
    }

    /// Lists what nodes register where nothing vanished, and nothing is held. No service depends on another.
    fn list_new(&mut self, mut pending: Vec<(Arc<str>, Changes)>) {
        let list = |(service, changes): (Arc<str>, Changes)| {
            let mut instances = self.instances_of(&service).cloned().unwrap_or_default();
            let mut ranks = BTreeMap::new();
            for Listed { version, provider, rank } in changes.into_values().filter_map(|change| change.after) {
                *ranks.entry(rank).or_default() += 1;
                instances.insert(version, self.withholdings.applied_to(provider));
            }
            (service, instances, ranks)
        };
        let list_all = |some: Vec<_>| some.into_iter().map(list).collect::<Vec<(Arc<str>, Instances, Moves)>>();
        let count: usize = pending.iter().map(|(_, changes)| changes.len()).sum();
        let others = pending.split_off(if count < MANY { pending.len() } else { pending.len().div_ceil(2) });
        let (mut listed, others) = match others.is_empty() {
            true => (list_all(pending), Vec::new()),
            false => task::both(|| list_all(pending), || list_all(others)),
        };
        listed.extend(others);
        for (service, instances, ranks) in listed {
            self.registrations.move_ranks(&service, ranks);
            if !instances.is_empty() {
                self.retired.forget(&service);
                self.services.insert(service, instances);
            }
        }
    }

    /// Lists what nodes register of a service now, but for what vanished, which stays listed. An instance vanished if the
    /// root that decided about it no longer registers it, even if a later one does: that is not to decide about it before
    /// the guard has let it go.
    fn list_changes(&mut self, service: &Arc<str>, changes: Changes) -> Outcome {
        let (mut outcome, mut ranks) = (Outcome::default(), Moves::new());
        for (id, Change { before, after }) in changes {
            let is_behind = |it: &Listed| self.is_behind_held(service, it);
            let (from, to) = (before.as_ref().map(|it| it.rank), after.as_ref().map(|it| it.rank));
            from.into_iter().for_each(|from| *ranks.entry(from).or_default() -= 1);
            to.into_iter().for_each(|to| *ranks.entry(to).or_default() += 1);
            let before = before.map(|it| *it).filter(|it| !is_behind(it));
            let after = after.filter(|it| !is_behind(it));
            let has_gone = before.as_ref().is_some_and(|was| to.is_none_or(|to| to > was.rank));
            if from != to {
                to.into_iter().for_each(|to| outcome.ranks.entry(to).or_default().came += 1);
                let moved = from.filter(|_| !has_gone);
                moved.into_iter().for_each(|from| outcome.ranks.entry(from).or_default().moved += 1);
            }
            let ended = after.iter().flat_map(|is| self.registrations.claims().ended_by(service, is));
            outcome.ended.extend(ended);
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
        self.registrations.move_ranks(service, ranks);
        outcome
    }

    /// Holds again what an earlier process held, as far as it is still configured so.
    pub(in crate::store) fn hold_again(&mut self, now: Now, feeds: &[Arc<Feed>], held: Vec<Instance>) {
        let mut by_service: BTreeMap<Arc<str>, Vec<Left>> = BTreeMap::new();
        for instance in held {
            let is_read_so =
                |config: &&Config| instance.provenance.iter().any(|it| it.decoder == Decoder::Format(config.format));
            // That it was read so proves the root and its format.
            if let Some(Config { root, .. }) = config_of(feeds, &instance).filter(is_read_so) {
                self.registrations.note_use(root);
            }
            let left = self.left(feeds, instance);
            left.into_iter().for_each(|it| by_service.entry(it.instance.service.clone()).or_default().push(it));
        }
        let mut effects = Vec::new();
        for (service, left) in by_service {
            let present = self.present(&service, left.iter().map(|it| &it.rank));
            effects.extend(self.guard.restore(now, &service, left, present));
        }
        self.carry_out(effects);
    }

    /// How many of a service are registered with each rank of the roots of some; those with the other rank of a root are of
    /// the same service.
    fn present<'r>(&self, service: &Arc<str>, ranks: impl Iterator<Item = &'r Rank>) -> BTreeMap<Rank, usize> {
        let both = ranks.flat_map(|rank| Rank::both_of_root(rank.root));
        let counts = both.map(|rank| (rank, self.registrations.count_of_rank(service, rank)));
        counts.filter(|(_, present)| *present > 0).collect()
    }

    /// What an earlier process held, if it is to be held again.
    fn left(&self, feeds: &[Arc<Feed>], instance: Instance) -> Option<Left> {
        let (first, held) = instance.endpoints.first().zip(instance.held.as_deref())?;
        let address: Arc<str> = first.address().into();
        let config = config_of(feeds, &instance).filter(|config| config.guard && is_named(feeds, config, &instance))?;
        let registered = self.registrations.registered(&instance.service, &address, &held.variant);
        let root = config.rank.max(self.root_of_mapping(feeds, config, &instance));
        let rank = Rank { root, is_application: application_of(config, &instance).is_some() };
        if registered.is_some_and(|it| it.rank.root <= root)
            || self.registrations.claims().has_in_place_of(&instance.service, &address, &held.variant, rank)
        {
            return None;
        }
        Some(Left { id: id(&address, &held.variant), instance, rank })
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

    /// Lists what the guard has decided, and whatever is listed otherwise for what it holds now, or no longer.
    fn carry_out(&mut self, effects: Vec<Effect>) {
        let changes = self.registrations.hold(&self.guard.take_shifts());
        for Effect { service, version, id, instance } in effects {
            let Some(instance) = instance else {
                self.give_up(&id, &service, &version);
                continue;
            };
            self.list(&id, service, version, [instance].into());
        }
        let mut more = Vec::new();
        for ((service, id), was, is) in changes {
            let [was, is] = [was, is].map(|it| it.filter(|it| !self.is_behind_held(&service, it)));
            if let Some(was) = was.filter(|was| is.as_ref().is_none_or(|is| is.version != was.version)) {
                self.withdraw(&id, &service, &was.version);
            }
            let Some(is) = is else { continue };
            let ended: BTreeSet<_> = self.registrations.claims().ended_by(&service, &is).into_iter().collect();
            more.extend(self.guard.come(&service, &id, &is.version, is.rank));
            if !ended.is_empty() {
                more.extend(self.guard.release(&service, Which::Ids(&ended)));
            }
            self.list_provider(service, is.version, is.provider);
        }
        if self.guard.has_shifts() {
            self.carry_out(more);
        }
    }

    /// The rank of the root that decided about the interface as which an application was held; where that was not written,
    /// of the first that maps it, or may have done so.
    fn root_of_mapping(&self, feeds: &[Arc<Feed>], config: &Config, instance: &Instance) -> usize {
        let Some(application) = application_of(config, instance) else { return 0 };
        if let Some(root) = instance.held.as_deref().and_then(|held| held.decided_by.as_deref()) {
            let by = std::iter::once(config).chain(mapping(feeds, instance)).find(|it| it.root.as_str() == root);
            // If it is configured no more, it is of the last.
            return by.map(|it| it.rank).or_else(|| mapping(feeds, instance).map(|it| it.rank).max()).unwrap_or(0);
        }
        let mapped = self.registrations.mappings().first(&application.into(), &instance.service);
        mapped.or_else(|| mapping(feeds, instance).map(|it| it.rank).min()).unwrap_or(0)
    }

    /// Whether it is held with the same id for an earlier root than that below which it is registered.
    fn is_behind_held(&self, service: &str, listed: &Listed) -> bool {
        let held = self.guard.rank_of_held(service, &listed.provider.id);
        held.is_some_and(|held| held.root < listed.rank.root)
    }

    /// Lists what nodes register in place of an instance, if any do.
    fn give_up(&mut self, id: &Arc<str>, service: &Arc<str>, version: &Version) {
        let provider = self.instances_of(service).and_then(|by_version| by_version.get(version)?.of(id));
        let instance = provider.and_then(|provider| provider.instances.first());
        let address = instance.and_then(|instance| Some(instance.endpoints.first()?.address())).unwrap_or_default();
        self.withdraw(id, service, version);
        let registered = self.registrations.registered(service, &address, variant(id, &address));
        if let Some(Listed { version, provider, .. }) = registered {
            self.list_provider(service.clone(), version, provider);
        }
    }
}

/// Logs that most of a root vanished.
fn report_loss(feeds: &[Arc<Feed>], Lost { root, registered, held, services }: Lost) {
    let root = feeds.iter().flat_map(|feed| feed.services()).find(|config| config.rank == root);
    let root = root.map(|config| config.root.to_string()).unwrap_or_default();
    tracing::warn!(
        root,
        registered,
        held,
        services,
        "most of what is registered below a root vanished at once; it is held, as far as there is room"
    );
}

/// An instance that is no longer registered.
fn gone(Listed { version, provider, rank }: Listed) -> Option<Gone> {
    let (id, instance) = (provider.id, provider.instances.first()?.clone());
    let address = instance.endpoints.first().map(Endpoint::address).unwrap_or_default();
    let variant = variant(&id, &address).into();
    Some((Vanished { id, version, instance, variant, rank, decided_by: None, is_lost: false }, address.into()))
}

/// Which variant at its address an instance is, by its id.
fn variant<'i>(id: &'i str, address: &str) -> &'i str {
    id.strip_prefix(NODE_MARK).and_then(|id| id.strip_prefix(address)).unwrap_or_default()
}

/// The root that decides about an application as an interface: its own, or one that maps it.
fn decided_by(feeds: &[Arc<Feed>], vanished: &Vanished) -> Option<Box<str>> {
    let Vanished { rank, instance, .. } = vanished;
    let own = config_of(feeds, instance).filter(|_| rank.is_application)?;
    let by = std::iter::once(own).chain(mapping(feeds, instance)).find(|it| it.rank == rank.root)?;
    Some(by.root.as_str().into())
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
