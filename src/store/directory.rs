//! The directory: masters with the routes to each, and services with their instances.

mod claims;
mod guarded;
mod ledger;
mod mappings;
mod ranks;
mod registrations;
mod root_names;
mod shadows;

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use semver::Version;

use self::guarded::Changes;
pub use self::ledger::InstanceLimits;
use self::registrations::Registrations;
pub(super) use self::registrations::{Nodes, RulesOfScope, may_have_rules};
use super::instances::{InstanceSet, Instances, Provider};
use super::retired::Retired;
use super::{Withhold, Withholdings};
use crate::guard::Guard;
use crate::model::{ChangeKind, Decoder, Instance, InstanceState, Line, Master, Provenance, Record, Revision, Service};

/// Everything on offer. A clone shares as much as possible with the original; a change costs by the services of one
/// master, not by the number of masters or instances.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    masters: OrdMap<Arc<str>, Arc<MasterEntry>>,
    /// Each has at least one instance.
    services: OrdMap<Arc<str>, Instances>,
    registrations: Registrations,
    guard: Guard,
    /// By service, for the revision under construction.
    pending: HashMap<Arc<str>, Changes>,
    withholdings: Withholdings,
    retired: Retired,
}

/// A master, if it exists.
pub(super) type Known<'a> = Option<&'a Arc<MasterEntry>>;

/// A master and the routes to it.
#[derive(Clone, Debug)]
pub struct MasterEntry {
    /// As reported by the last route that offers anything: one that the master has left offers nothing, and others may.
    pub master: Arc<Master>,
    /// About how many bytes it takes in a reply.
    pub size: usize,
    /// At least one. The last is the master's own connection, if it has one here, or else the one that last reported
    /// something new; expected ones come first.
    routes: Vec<Route>,
}

/// The change of a provider of a service in one version: before and after.
#[derive(Clone, Debug)]
pub(crate) struct ProviderChange<'a> {
    pub(crate) service: &'a Arc<str>,
    pub(crate) version: &'a Version,
    pub(crate) old: Option<&'a Provider>,
    pub(crate) new: Option<&'a Provider>,
}

/// A route to a master.
#[derive(Clone, Debug)]
struct Route {
    by: ReportedBy,
    told: Arc<Master>,
    /// Since when each of its services is reported unchanged.
    since: Box<[Revision]>,
    /// None: the feed knew it before a restart, and expects it back.
    line: Option<Arc<dyn Line>>,
}

/// The feed that reports something, and at which revision.
#[derive(Clone, Debug)]
pub(crate) struct ReportedBy {
    /// The number of the feed, and its name.
    pub(crate) feed: usize,
    pub(crate) source: Arc<str>,
    pub(crate) revision: Revision,
}

/// Whether it is the same master, with the same routes.
impl PartialEq for MasterEntry {
    fn eq(&self, other: &Self) -> bool {
        let is_same = |(one, other): (&Route, &Route)| match (&one.line, &other.line) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => one.by.feed == other.by.feed,
            _ => false,
        };
        let are_same = self.routes.len() == other.routes.len() && self.routes.iter().zip(&other.routes).all(is_same);
        are_same && self.master == other.master
    }
}

impl MasterEntry {
    /// None: there is no route.
    fn of(mut routes: Vec<Route>) -> Option<Self> {
        routes.sort_by_key(|route| route.line.as_ref().map(|line| line.is_direct()));
        let offering = routes.iter().rfind(|route| !route.told.services.is_empty());
        let master = offering.or(routes.last())?.told.clone();
        Some(Self { size: size(&master), master, routes })
    }

    /// The lines to the master, its own connection first.
    pub fn lines(&self) -> impl Iterator<Item = &Arc<dyn Line>> {
        self.routes.iter().rev().filter_map(|route| route.line.as_ref())
    }

    /// Whether a connection to the master is up.
    pub fn is_connected(&self) -> bool {
        self.lines().any(|line| line.is_connected())
    }

    /// The same, with a responsive master.
    pub fn is_answering(&self) -> bool {
        self.lines().any(|line| line.is_answering())
    }

    /// The names of the sources that know it.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| &*route.by.source)
    }

    /// The master as an instance of each service that it offers.
    fn instances(&self, id: &Arc<str>) -> impl Iterator<Item = Instance> {
        let state = if self.lines().next().is_some() { InstanceState::Up } else { InstanceState::Returning };
        self.master.services.iter().enumerate().map(move |(number, service)| {
            let provenance = self.routes.iter().filter_map(|route| {
                let since = route.since_of(service, number)?;
                let (source, record) = (route.by.source.clone(), Record::Master(id.clone()));
                Some(Provenance { source, record, decoder: Decoder::Tunnel, since })
            });
            Instance::of_master(service, state, provenance)
        })
    }

    /// The lines on which the master offers a service. If the master itself does, no register that knows one with the
    /// same id gets its calls.
    pub fn lines_to(&self, service: &Service) -> impl Iterator<Item = &Arc<dyn Line>> {
        let offering = self.routes.iter().filter(|route| route.told.services.contains(service));
        let lines = offering.filter_map(|route| route.line.as_ref());
        let is_direct = lines.clone().any(|line| line.is_direct());
        lines.filter(move |line| line.is_direct() || !is_direct)
    }

    /// A feed's line to it.
    pub fn line_of(&self, feed: usize) -> Option<&Arc<dyn Line>> {
        self.route_of(feed)?.line.as_ref()
    }

    /// Whether a feed expects it back.
    pub fn is_expected_by(&self, feed: usize) -> bool {
        self.route_of(feed).is_some_and(|route| route.line.is_none())
    }

    /// The master as a feed reports it.
    pub fn told_by(&self, feed: usize) -> Option<&Arc<Master>> {
        self.route_of(feed).map(|route| &route.told)
    }

    /// How many calls to the master are under way from here.
    pub fn outstanding(&self) -> usize {
        self.lines().map(|line| line.outstanding()).sum()
    }

    fn route_of(&self, feed: usize) -> Option<&Route> {
        self.routes.iter().find(|route| route.by.feed == feed)
    }

    fn without(&self, feed: usize) -> Vec<Route> {
        self.routes.iter().filter(|route| route.by.feed != feed).cloned().collect()
    }
}

impl Route {
    /// Replaces an old one, of which services that are reported unchanged keep their revision.
    fn new(by: ReportedBy, told: Arc<Master>, line: Option<Arc<dyn Line>>, old: Option<&Route>) -> Self {
        let services = old.iter().flat_map(|old| old.told.services.iter().zip(&old.since));
        let known: HashMap<&str, (&Service, Revision)> =
            services.map(|(service, since)| (service.name.as_str(), (service, *since))).collect();
        let since = told.services.iter().map(|service| match known.get(service.name.as_str()) {
            Some((was, since)) if *was == service => *since,
            _ => by.revision,
        });
        Self { since: since.collect(), by, told, line }
    }

    /// Since when it reports this service unchanged; most likely the service has this number.
    fn since_of(&self, service: &Service, number: usize) -> Option<Revision> {
        let services = &self.told.services;
        let is_it = services.get(number) == Some(service);
        let number = if is_it { number } else { services.iter().position(|it| it == service)? };
        self.since.get(number).copied()
    }
}

impl Directory {
    pub fn master(&self, id: &str) -> Option<&Arc<MasterEntry>> {
        self.masters.get(id)
    }

    /// All masters, ordered by id, from one id on.
    pub fn masters(&self, from: &str) -> impl Iterator<Item = (&Arc<str>, &Arc<MasterEntry>)> {
        self.masters.range::<_, str>((Bound::Included(from), Bound::Unbounded))
    }

    /// The masters that a feed expects back, as it knew them.
    pub fn expected_by(&self, feed: usize) -> impl Iterator<Item = &Arc<Master>> {
        let routes = self.masters.values().filter_map(move |entry| entry.route_of(feed));
        routes.filter(|route| route.line.is_none()).map(|route| &route.told)
    }

    /// Whether a feed expects this master back.
    pub(super) fn is_expected(&self, feed: usize, id: &str) -> bool {
        self.masters.get(id).is_some_and(|entry| entry.is_expected_by(feed))
    }

    /// The instances of a service, by its name without a version. None: it has none.
    pub fn instances_of(&self, service: &str) -> Option<&Instances> {
        self.services.get(service)
    }

    /// The same, with the stored name.
    pub fn service(&self, name: &str) -> Option<(&Arc<str>, &Instances)> {
        self.services.get_key_value(name)
    }

    /// Whether a service that nobody offers was offered lately.
    pub fn was_offered(&self, service: &str) -> bool {
        self.retired.has(service)
    }

    /// The same one by one, each with the id of its provider: newest version first, then ordered by id.
    pub fn instances<'a>(&'a self, service: &'a str) -> impl Iterator<Item = (&'a Arc<str>, &'a Instance)> {
        self.instances_after(service, None)
    }

    /// The same, after those of a provider with this version.
    pub fn instances_after<'a>(
        &'a self,
        service: &'a str,
        after: Option<(&'a Version, &'a str)>,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Instance)> {
        let newest = after.map_or(Bound::Unbounded, |(last, _)| Bound::Included(last));
        let instances = self.instances_of(service).into_iter();
        let by_version = instances.flat_map(move |it| it.range::<_, Version>((Bound::Unbounded, newest)).rev());
        by_version.flat_map(move |(version, providers)| {
            let after = after.filter(|(last, _)| version == *last).map(|(_, id)| id);
            let providers = providers.after(after);
            providers.flat_map(|Provider { id, instances, .. }| instances.iter().map(move |instance| (id, instance)))
        })
    }

    /// The names of the services whose instances differ in `newer`.
    pub(super) fn changed_services<'a>(&'a self, newer: &'a Directory) -> impl Iterator<Item = &'a str> {
        self.services.diff(&newer.services).map(|change| match change {
            DiffItem::Add(name, _) | DiffItem::Remove(name, _) | DiffItem::Update { new: (name, _), .. } => &**name,
        })
    }

    /// Reports each provider that is different or missing in `newer`. The cost depends on what changed.
    pub(crate) fn changed_providers(&self, newer: &Directory, mut each: impl FnMut(ProviderChange<'_>)) {
        let (none, empty) = (Instances::default(), InstanceSet::default());
        for service in self.changed_services(newer) {
            let (old, new) = (self.services.get_key_value(service), newer.services.get_key_value(service));
            let Some((service, _)) = new.or(old) else { continue };
            let [old, new] = [old, new].map(|found| found.map_or(&none, |(_, instances)| instances));
            for change in old.diff(new) {
                let (version, old, new) = match change {
                    DiffItem::Add(version, new) => (version, &empty, new),
                    DiffItem::Update { old: (version, old), new: (_, new) } => (version, old, new),
                    DiffItem::Remove(version, old) => (version, old, &empty),
                };
                old.changed(new).for_each(|(old, new)| each(ProviderChange { service, version, old, new }));
            }
        }
    }

    /// Each master that changed or is missing in `newer`: before and after.
    pub(super) fn difference<'a>(&'a self, newer: &'a Directory) -> impl Iterator<Item = (Known<'a>, Known<'a>)> {
        self.masters.diff(&newer.masters).map(|change| match change {
            DiffItem::Add(_, new) => (None, Some(new)),
            DiffItem::Update { old: (_, old), new: (_, new) } => (Some(old), Some(new)),
            DiffItem::Remove(_, old) => (Some(old), None),
        })
    }

    /// The services with instances, ordered by name, after the given one.
    pub fn services(&self, after: Option<&str>) -> impl Iterator<Item = (&Arc<str>, &Instances)> {
        self.services.range::<_, str>((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded))
    }

    /// How many services are offered.
    pub fn count_of_services(&self) -> usize {
        self.services.len()
    }

    /// Services that nobody offers any more, as far as remembered, ordered by name, after the given one.
    pub fn retired_services(&self, after: Option<&str>) -> impl Iterator<Item = &Arc<str>> {
        self.retired.names(after)
    }

    pub fn len(&self) -> usize {
        self.masters.len()
    }

    pub fn is_empty(&self) -> bool {
        self.masters.is_empty()
    }

    /// The resulting change of the master; None if watchers are not told about it. An added or removed route is
    /// reported: followers of a register follow the masters connected to it, and not those that it knows otherwise.
    pub(super) fn join(&mut self, by: ReportedBy, master: Arc<Master>, line: Arc<dyn Line>) -> Option<ChangeKind> {
        let id: Arc<str> = master.id.as_str().into();
        let mut routes = self.routes_to(&id);
        let mut kind = if routes.is_empty() { Some(ChangeKind::Created) } else { Some(ChangeKind::Changed) };
        match routes.iter().position(|route| route.by.feed == by.feed) {
            Some(known) if routes[known].told == master && routes[known].line.is_some() => {
                (routes[known].line, kind) = (Some(line), None);
            }
            known => {
                let old = known.map(|known| routes.remove(known)).filter(|old| old.line.is_some());
                routes.push(Route::new(by, master, Some(line), old.as_ref()));
            }
        }
        self.set(id, routes);
        kind
    }

    /// The same for a master that was there before, and is expected back.
    pub(super) fn expect(&mut self, by: ReportedBy, master: Arc<Master>) -> ChangeKind {
        let id: Arc<str> = master.id.as_str().into();
        let mut routes = self.routes_to(&id);
        let kind = if routes.is_empty() { ChangeKind::Created } else { ChangeKind::Changed };
        routes.retain(|route| route.by.feed != by.feed);
        routes.insert(0, Route::new(by, master, None, None));
        self.set(id, routes);
        kind
    }

    fn routes_to(&self, id: &str) -> Vec<Route> {
        self.masters.get(id).map_or_else(Vec::new, |old| old.routes.clone())
    }

    /// The resulting change of the master; None: the feed has no route to it.
    pub(super) fn leave(&mut self, feed: usize, id: &str) -> Option<ChangeKind> {
        let entry = self.masters.get(id)?;
        entry.route_of(feed)?;
        let routes = entry.without(feed);
        let kind = if routes.is_empty() { ChangeKind::Deleted } else { ChangeKind::Changed };
        self.set(id.into(), routes);
        Some(kind)
    }

    /// Sets the routes to a master.
    fn set(&mut self, id: Arc<str>, routes: Vec<Route>) {
        let new = MasterEntry::of(routes);
        let mut by_service: HashMap<(Arc<str>, Version), Vec<Instance>> = HashMap::new();
        for instance in new.iter().flat_map(|new| new.instances(&id)) {
            by_service.entry((instance.service.clone(), instance.version.clone())).or_default().push(instance);
        }
        let old = self.masters.get(&id).into_iter().flat_map(|old| &old.master.services);
        let mut gone: Vec<_> = old.map(|service| (Arc::from(service.base_name()), service.version())).collect();
        gone.retain(|service| !by_service.contains_key(service));
        for ((name, version), instances) in by_service {
            self.list(&id, name, version, instances.into());
        }
        for (name, version) in gone {
            self.withdraw(&id, &name, &version);
        }
        match new {
            Some(new) => self.masters.insert(id, Arc::new(new)),
            None => self.masters.remove(&id),
        };
    }

    /// Sets the instances by which a provider has a service in this version. Unchanged ones are left alone: the cost is
    /// that of what changed.
    pub(crate) fn list(&mut self, id: &Arc<str>, name: Arc<str>, version: Version, instances: Arc<[Instance]>) {
        self.list_provider(name, version, Provider::new(id.clone(), instances));
    }

    fn list_provider(&mut self, name: Arc<str>, version: Version, provider: Provider) {
        let provider = self.withholdings.applied_to(provider);
        let known = self.services.get(&name).and_then(|by_version| by_version.get(&version)?.of(&provider.id));
        if known.is_some_and(|known| known.instances == provider.instances) {
            return;
        }
        self.retired.forget(&name);
        self.services.entry(name).or_default().insert(version, provider);
    }

    /// What is withheld, including targets without instances.
    pub fn withholdings(&self) -> &Withholdings {
        &self.withholdings
    }

    /// Returns whether this changes anything.
    pub(crate) fn withhold(&mut self, changes: &[Withhold]) -> bool {
        let mut is_changed = false;
        for change in changes {
            is_changed |= self.withholdings.take(change);
            let Some(by_version) = self.services.get(&change.service) else { continue };
            let affected = by_version.iter().flat_map(|(version, set)| {
                self.withholdings.affected(set, &change.target).into_iter().map(|it| (version.clone(), it))
            });
            for (version, provider) in affected.collect::<Vec<_>>() {
                self.services.entry(change.service.clone()).or_default().insert(version, provider);
            }
        }
        is_changed
    }

    fn withdraw(&mut self, id: &str, name: &str, version: &Version) {
        let Some(instances) = self.services.get_mut(name) else { return };
        instances.remove(version, id);
        if instances.is_empty() {
            self.services.remove(name);
            self.retired.remember(name);
        }
    }
}

fn size(master: &Master) -> usize {
    let size = |service: &Service| {
        service.name.len() + service.version().to_string().len() + service.metadata.json().len() + 128
    };
    master.id.len() + master.peer_address.len() + master.services.iter().map(size).sum::<usize>() + 128
}
