//! Registrations: instances that nodes register, by the node.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};
use rmpv::Value;
use semver::Version;

use super::claims::{Claim, ClaimKey, Claims, Listed, place, place_of};
use super::guarded::Change;
use super::ledger::{Charge, InstanceLimits, Ledger, Root};
use super::mappings::{Interface, Mappings};
use super::ranks::Ranks;
use super::root_names::RootNames;
use super::{Directory, ReportedBy};
use crate::format::{Config, Documents, Located, MAX_RULES, Registered, Role, Rule, Undecodable};
use crate::guard::{Rank, Shift};
use crate::model::{Decoder, Endpoint, Format, Instance, Node, NodePath, Provenance, Record, Revision, Withheld};
use crate::store::Feed;
use crate::task;

/// How many nodes are checked for rules of one scope.
const MAX_SEEN: usize = 4 * MAX_RULES;

/// The most bytes of paths and data of the rules of one scope: they are read again with each instance that changes.
const MAX_BYTES_OF_RULES: usize = 256 << 10;

/// Of how many bytes of documents the rules are kept while nodes are decoded.
const MAX_BYTES_OF_DOCUMENTS: usize = 4 << 20;

/// As how many instances of interfaces one node may count.
const MAX_OF_INTERFACES: usize = 1_024;

/// The path of a node is in the shared file with each of these; each further such length counts as another one.
const MAX_SHORT_PATH_BYTES: usize = 256;

/// From this many nodes on, another thread decodes ahead.
const MANY: usize = 1_000;

/// How many nodes without room are read again when there is some.
const MAX_RETRIED: usize = 8;

/// The log names undecodable nodes below a root while there are no more than this many.
const MAX_LOGGED: usize = 100;

pub(in crate::store) type Nodes = OrdMap<NodePath, Arc<Node>>;

/// Nodes that should register or change something, and cannot be decoded, not be listed in full, or are left out.
type Faults = OrdMap<NodePath, Arc<Undecodable>>;

/// What nodes register. A clone shares as much as possible with the original.
#[derive(Clone, Debug, Default)]
pub(super) struct Registrations {
    nodes: OrdMap<NodePath, Registration>,
    claims: Claims,
    mappings: Mappings,
    /// A document of an application, and a node that it may change.
    of_applications: OrdSet<(NodePath, NodePath)>,
    ledger: Ledger,
    /// By root, the nodes for which, or for some of whose interfaces, there was no room.
    beyond: OrdSet<(Root, NodePath)>,
    undecodable: Faults,
    /// By service, the nodes that should register an instance of it, and do not.
    unlisted: OrdMap<Arc<str>, OrdSet<NodePath>>,
    ranks: Ranks,
    root_names: RootNames,
}

/// What one node registers.
#[derive(Clone, Debug)]
enum Registration {
    Instance(Arc<InstanceNode>),
    /// The applications that offer an interface.
    Interface(Arc<[Arc<str>]>),
    Undecodable(Arc<Undecodable>),
}

/// A node that registers an instance.
#[derive(Clone, Debug)]
struct InstanceNode {
    key: ClaimKey,
    /// The interfaces of its application as which it is listed at each of its endpoints, in order.
    interfaces: Arc<[Interface]>,
    /// What its own root is charged for, and as how many instances each interface counts.
    charge: Charge,
    each: usize,
    /// Why it is not listed as all interfaces that its application offers, or not all rules are applied.
    fault: Option<Arc<Undecodable>>,
}

/// The service and the id of something listed.
pub(super) type ListedKey = (Arc<str>, Arc<str>);

/// How it is listed: before and after.
pub(super) type ListedChange = (ListedKey, Option<Listed>, Option<Listed>);

/// Interfaces that were added to or removed from what an application offers.
type Offers = BTreeMap<Arc<str>, BTreeSet<Arc<str>>>;

/// What a node registers, as far as that depends on no other one that registers something.
struct Found {
    key: ClaimKey,
    claim: Claim,
    /// The listing of the claim if it is the only one to its address.
    alone: Option<Listed>,
    charge: Charge,
    fault: Option<Arc<Undecodable>>,
}

/// What was read of a node.
struct Reading {
    /// The document of its application, whether it exists or not.
    document: Option<NodePath>,
    found: Result<Option<Found>, Undecodable>,
}

/// What is needed to decode nodes.
struct Reader<'a> {
    by: ReportedBy,
    configs: &'a [Config],
    ranks: BTreeSet<usize>,
    /// How many roots share the room of interfaces: its own, and those that map applications below these.
    sharers: usize,
    limits: InstanceLimits,
    nodes: &'a Nodes,
    /// The names of services that there were not yet.
    names: HashSet<Arc<str>>,
    /// By the number of a root, whether there are documents below it.
    documented: HashMap<usize, bool>,
    /// Documents of applications, whether they exist or not.
    of_applications: HashSet<NodePath>,
    /// The nodes after the one that was last read ahead.
    next: Box<dyn Iterator<Item = (&'a NodePath, &'a Arc<Node>)> + 'a>,
    /// By scope.
    rules: HashMap<NodePath, Arc<[Rule]>>,
    /// By document, and how many bytes these have together.
    documents: (HashMap<NodePath, Arc<[Rule]>>, usize),
    /// That whose rules were read last, with them.
    latest: Option<(NodePath, Arc<[Rule]>)>,
    no_metadata: Arc<Value>,
    no_variant: Arc<str>,
}

impl Directory {
    /// Takes in changes of nodes of the feed with this number.
    pub(in crate::store) fn register<'p>(
        &mut self,
        feeds: &[Arc<Feed>],
        feed: usize,
        revision: Revision,
        nodes: &Nodes,
        changed: impl Iterator<Item = &'p NodePath>,
    ) {
        let mut reader = Reader::new(feeds, feed, revision, nodes);
        let configs = reader.configs;
        if configs.is_empty() {
            return;
        }
        let before = self.registrations.ledger.clone();
        let (mut due, mut scopes, mut offers) = (Vec::new(), BTreeSet::new(), Offers::new());
        let mut parents = BTreeSet::new();
        for path in changed {
            let Some((number, located)) = reader.locate(path) else { continue };
            match located.role {
                Role::Instance => due.push((number, path.clone())),
                Role::Rule => {
                    scopes.extend(located.scope(path).map(|scope| (number, scope)));
                    let rule = nodes.get(path).map(|node| configs[number].rule(path, node));
                    let undecodable = rule.and_then(Result::err).map(|why| Registration::Undecodable(why.into()));
                    self.registrations.set(&configs[number], path, undecodable);
                }
                Role::Document => {
                    let config = &configs[number];
                    let read = nodes.get(path).map(|node| config.document(path, node));
                    let undecodable = read.and_then(Result::err).map(|why| Registration::Undecodable(why.into()));
                    self.registrations.set(config, path, undecodable);
                    parents.insert((number, config.instances_of(&config.scope_of(&located.service))));
                    due.extend(self.registrations.of_application(path).map(|path| (number, path.clone())));
                }
                Role::Interface => {
                    let interface: Arc<str> = located.service.as_str().into();
                    for name in self.registrations.take_interface(&configs[number], path, &interface, nodes) {
                        offers.entry(name).or_default().insert(interface.clone());
                    }
                }
            }
        }
        // The nodes that say what an application offers may belong to another feed than its instances.
        for other in (0..feeds.len()).filter(|_| !offers.is_empty()) {
            let mut reader = Reader::new(feeds, other, revision, nodes);
            let before = self.registrations.ledger.clone();
            self.offer(&mut reader, &offers);
            if other != feed {
                self.read_beyond(&mut reader, &before);
            }
        }
        for (number, scope) in &scopes {
            self.registrations.name_left_out(&configs[*number], nodes, scope);
            parents.insert((*number, configs[*number].instances_of(scope)));
        }
        for (number, parent) in &parents {
            due.extend(reader.instances(&configs[*number], parent).map(|path| (*number, path)));
        }
        // In the order of the configuration: what roots share goes to the first, however nodes are called.
        due.sort_unstable();
        due.dedup();
        if due.len() < MANY {
            due.iter().for_each(|(number, path)| self.read(&mut reader, *number, path, false, None));
        } else {
            self.read_many(&mut reader, || Reader::new(feeds, feed, revision, nodes), &due);
        }
        self.read_beyond(&mut reader, &before);
    }

    /// Reads many nodes. They are decoded ahead, as far as that depends on no rules.
    fn read_many<'r>(
        &mut self,
        reader: &mut Reader<'r>,
        another: impl Fn() -> Reader<'r> + Sync,
        due: &[(usize, NodePath)],
    ) {
        let is_empty = |config: &Config| self.registrations.count_below(&config.root, 1) == 0;
        let are_new: Vec<bool> = reader.configs.iter().map(is_empty).collect();
        let pending = std::mem::take(&mut self.pending);
        let before = self.clone();
        self.pending = pending;
        let decoder = || {
            let (mut reader, before) = (another(), &before);
            move |(number, path): &(usize, NodePath)| {
                let mut reading = reader.read(before, *number, path, None)?;
                if let Ok(Some(Found { key, claim, alone, .. })) = &mut reading.found {
                    *alone = Listed::of(key, claim.rank, claim.instances.clone());
                }
                Some(reading)
            }
        };
        task::ahead(due, decoder, |(number, path), ahead| {
            self.read(reader, *number, path, are_new[*number], ahead);
        });
    }

    /// Whether a node at or below a path registers something, or should.
    pub(crate) fn has_registrations(&self, root: &NodePath) -> bool {
        self.registrations.nodes.range(root.clone()..).next().is_some_and(|(path, _)| path.is_under(root))
    }

    /// Why no instance of a service is listed though nodes should register some; None: no node should.
    pub fn why_unlisted(&self, service: &str) -> Option<String> {
        let nodes = self.registrations.unlisted.get(service)?;
        let (count, why) = (nodes.len(), self.why_undecodable(nodes.get_min()?)?);
        Some(format!("its nodes ({count}) are left out, the first because {why}; see `roster explain {service}`"))
    }

    /// How many nodes should register something, but cannot be decoded, or not be listed in full.
    pub fn count_of_undecodable(&self) -> usize {
        self.registrations.undecodable.len()
    }

    /// Those at and below a path, with the reasons.
    pub fn undecodable<'a>(&'a self, root: &'a NodePath) -> impl Iterator<Item = (&'a NodePath, &'a Undecodable)> {
        let below = self.registrations.undecodable.range(root.clone()..).take_while(|(path, _)| path.is_under(root));
        below.map(|(path, why)| (path, &**why))
    }

    /// Why a node that should register something cannot be decoded, or not be listed in full.
    pub(crate) fn why_undecodable(&self, path: &NodePath) -> Option<&Undecodable> {
        self.registrations.undecodable.get(path).map(Arc::as_ref)
    }

    /// Those that cannot be decoded in `newer`, but could here, or for another reason.
    pub(crate) fn newly_undecodable<'a>(
        &'a self,
        newer: &'a Directory,
    ) -> impl Iterator<Item = (&'a NodePath, &'a Undecodable)> {
        self.registrations.undecodable.diff(&newer.registrations.undecodable).filter_map(|change| match change {
            DiffItem::Add(path, why) | DiffItem::Update { new: (path, why), .. } => Some((path, &**why)),
            DiffItem::Remove(..) => None,
        })
    }

    /// Whether a document is of an application with a node in this scope.
    pub(in crate::store) fn is_for_scope(&self, document: &NodePath, scope: &NodePath) -> bool {
        let from = (document.clone(), scope.clone());
        let first = self.registrations.of_applications.range(from..).next();
        first.is_some_and(|(of, path)| of == document && path.is_under(scope))
    }

    /// Lists instances of applications as interfaces that these now offer, and no longer as those that they do not.
    fn offer(&mut self, reader: &mut Reader<'_>, offers: &Offers) {
        let configs = reader.configs.iter().enumerate();
        for (number, config) in configs.filter(|(_, config)| config.format == Format::DubboApplication) {
            for (application, interfaces) in offers {
                let below = config.root.child(application);
                let range = self.registrations.nodes.range(below.clone()..);
                let range = range.take_while(|(path, _)| path.is_under(&below));
                let nodes = range.filter_map(|(path, registration)| match registration {
                    Registration::Instance(node) => Some((path.clone(), node.clone())),
                    _ => None,
                });
                let of_application = nodes.filter(|(_, node)| node.key.service == *application);
                let of_application: Vec<_> = of_application.collect();
                let rank = |it: &Arc<str>| Some(self.registrations.mappings.first(application, it)?.max(config.rank));
                let offered: BTreeMap<_, _> = interfaces.iter().map(|it| (it.clone(), rank(it))).collect();
                for (path, node) in of_application {
                    self.offer_at(reader, number, path, &node, &offered);
                }
            }
        }
    }

    /// The same for one node, with the rank of each interface now; None: it is not offered.
    fn offer_at(
        &mut self,
        reader: &mut Reader<'_>,
        number: usize,
        path: NodePath,
        node: &InstanceNode,
        offered: &BTreeMap<Arc<str>, Option<usize>>,
    ) {
        let (config, root) = (&reader.configs[number], reader.root(number));
        let registrations = &mut self.registrations;
        let Some(own) = registrations.claims.get(&node.key).and_then(|claim| claim.instances.first()).cloned() else {
            return;
        };
        // One of another rank is another claim.
        let is_gone = |(name, rank): &Interface| offered.get(name).is_some_and(|now| *now != Some(*rank));
        let (gone, mut stay): (Vec<_>, Vec<_>) = node.interfaces.iter().cloned().partition(is_gone);
        let spots = spots(&own);
        let each = charge_of_interface(&spots, &path);
        let offered = offered.iter().filter_map(|(name, rank)| Some((name.clone(), (*rank)?)));
        let new: Vec<_> = offered.filter(|it| node.interfaces.binary_search(it).is_err()).collect();
        let last = stay.iter().map(|(_, rank)| *rank).max();
        let is_before_others = new.iter().any(|(_, rank)| last.is_some_and(|last| *rank < last));
        // Without what goes, and with what stays.
        let mut ledger = registrations.ledger.clone();
        node.charges(root).for_each(|(root, charge)| ledger.release(root, charge));
        let left = InstanceNode { interfaces: stay.clone().into(), ..node.clone() };
        left.charges(root).for_each(|(root, charge)| ledger.charge(root, charge));
        let (come, why) = reader.admitted(&ledger, new, each, stay.len());
        if why.is_some() && is_before_others {
            // It takes the place of one of a later root.
            self.read(reader, number, &path, false, None);
            return;
        }
        let fault = why.map(Arc::new).or_else(|| node.fault.clone());
        if gone.is_empty() && come.is_empty() && fault == node.fault {
            return;
        }
        let was_full = (node.interfaces.len() + 1) * each > MAX_OF_INTERFACES;
        let has_no_room = fault.as_deref() == Some(&Undecodable::TooManyOfInterfaces);
        if has_no_room || was_full && !gone.is_empty() {
            registrations.beyond.insert((root, path.clone()));
        }
        let new = of_interfaces(reader, config, &node.key, &own, &spots, &come);
        let old = keys_of_interfaces(&node.key, &spots, &gone);
        stay.extend(come);
        stay.sort_unstable();
        let changed = InstanceNode { interfaces: stay.into(), each, fault, ..node.clone() };
        node.charges(root).for_each(|(root, charge)| registrations.ledger.release(root, charge));
        changed.charges(root).for_each(|(root, charge)| registrations.ledger.charge(root, charge));
        registrations.set(config, &path, Some(Registration::Instance(changed.into())));
        self.replace(old, new, None);
    }

    /// Decodes some of the nodes without room again, some below each root, if there is more than before.
    fn read_beyond(&mut self, reader: &mut Reader<'_>, before: &Ledger) {
        let feed = reader.by.feed;
        if self.registrations.beyond.is_empty() || !self.registrations.ledger.has_shrunk_from(before, feed) {
            return;
        }
        for rank in reader.ranks.clone() {
            let root = (feed, rank);
            let beyond = self.registrations.beyond.range((root, NodePath::root())..);
            let beyond = beyond.take_while(|(of, _)| *of == root).take(MAX_RETRIED);
            for path in beyond.map(|(_, path)| path.clone()).collect::<Vec<_>>() {
                if let Some(number) = reader.number(&path) {
                    self.read(reader, number, &path, false, None);
                }
            }
        }
    }

    /// Replaces the listing of a node below the root of this number, which may be new, by what it registers now. It may have
    /// been read ahead.
    fn read(&mut self, reader: &mut Reader<'_>, number: usize, path: &NodePath, is_new: bool, ahead: Option<Reading>) {
        let (configs, root) = (reader.configs, reader.root(number));
        let config = &configs[number];
        let known = if is_new { None } else { self.registrations.nodes.get(path) };
        let old = match known {
            Some(Registration::Instance(node)) => Some(node.clone()),
            _ => None,
        };
        if let Some(node) = &old {
            node.charges(root).for_each(|(root, charge)| self.registrations.ledger.release(root, charge));
        }
        if !self.registrations.beyond.is_empty() {
            self.registrations.beyond.remove(&(root, path.clone()));
        }
        let room = reader.room(&self.registrations.ledger, number);
        let reading = ahead.or_else(|| reader.read(self, number, path, Some(room.by_rules)));
        let Some(Reading { document, found }) = reading else { return };
        if let Some(document) = document {
            let is_there = matches!(found, Ok(Some(_))) || reader.nodes.contains_key(path);
            self.registrations.set_application(document, path, is_there);
        }
        let mut alone = None;
        let mut claims = |mut found: Found| {
            alone = found.alone.take();
            self.claims(reader, config, path, found, room, old.is_some())
        };
        let read = found.and_then(|found| found.map(&mut claims).transpose());
        let (new, registration) = match read {
            Ok(Some((claims, node))) => {
                node.charges(root).for_each(|(root, charge)| self.registrations.ledger.charge(root, charge));
                let service = &node.key.service;
                if self.registrations.root_names.is_second(service, config.rank) {
                    tracing::warn!(%service, %path, "a second root begins to offer a service; see `names` of `[[services]]`");
                }
                (claims, Some(Registration::Instance(node.into())))
            }
            Ok(None) => (Vec::new(), None),
            Err(why) => (Vec::new(), Some(Registration::Undecodable(why.into()))),
        };
        let fault = registration.as_ref().and_then(Registration::fault);
        if matches!(fault.map(Arc::as_ref), Some(Undecodable::TooMany | Undecodable::TooManyOfInterfaces)) {
            self.registrations.beyond.insert((root, path.clone()));
        }
        self.registrations.set(config, path, registration);
        let mut gone = old.map(|node| self.registrations.keys_of(&node)).unwrap_or_default();
        gone.retain(|key| new.binary_search_by_key(&key, |(key, _)| key).is_err());
        self.replace(gone, new, alone);
    }

    /// Removes and adds these claims, and updates the listings. Where the listing of the only one that comes is given, it is
    /// that if no other is at its address.
    fn replace(&mut self, gone: Vec<ClaimKey>, mut come: Vec<(ClaimKey, Claim)>, alone: Option<Listed>) {
        let only = come.pop_if(|(key, claim)| gone.is_empty() && self.registrations.claims.is_alone(key, claim));
        match only {
            Some((key, claim)) if come.is_empty() => self.list_alone(key, claim, alone),
            only => self.list_merged(gone, come.into_iter().chain(only).collect()),
        }
    }

    /// The same for claims that may share their addresses with others.
    fn list_merged(&mut self, gone: Vec<ClaimKey>, mut come: Vec<(ClaimKey, Claim)>) {
        come.retain(|(key, claim)| {
            let known = self.registrations.claims.get(key);
            known.is_none_or(|known| !Arc::ptr_eq(&known.instances, &claim.instances))
        });
        let claims = &self.registrations.claims;
        let old = gone.iter().chain(come.iter().map(|(key, _)| key)).filter_map(|key| Some((key, claims.get(key)?)));
        let slots = claims.affected(old.chain(come.iter().map(|(key, claim)| (key, claim))));
        let before = self.registrations.listed(&slots);
        gone.iter().for_each(|key| self.registrations.claims.remove(key));
        come.into_iter().for_each(|(key, claim)| self.registrations.claims.insert(key, claim));
        let after = self.registrations.listed(&slots);
        changes(before, after).for_each(|(at, was, is)| self.note(at, was, is));
    }

    /// The same for a claim that comes, and is the only one to its address.
    fn list_alone(&mut self, key: ClaimKey, claim: Claim, listed: Option<Listed>) {
        let listed = listed.or_else(|| Listed::of(&key, claim.rank, claim.instances.clone()));
        let service = key.service.clone();
        self.registrations.claims.insert_new(key, claim);
        let Some(listed) = listed else { return };
        self.note((service, listed.provider.id.clone()), None, Some(listed));
    }

    /// Notes how what nodes register of an instance changes, to be listed when the revision is complete.
    fn note(&mut self, (service, id): ListedKey, was: Option<Listed>, is: Option<Listed>) {
        self.registrations.count(&service, was.as_ref(), is.as_ref());
        let changes = self.pending.entry(service).or_default();
        changes.entry(id).or_insert(Change { before: was, after: None }).after = is;
    }

    /// The claims of a node: for the service, and for an application, for the interfaces that it offers; ordered by key.
    /// Unchanged ones are the very same claims.
    fn claims(
        &self,
        reader: &Reader<'_>,
        config: &Config,
        path: &NodePath,
        Found { key, claim: mut own, charge, mut fault, .. }: Found,
        room: Charge,
        is_known: bool,
    ) -> Result<(Vec<(ClaimKey, Claim)>, InstanceNode), Undecodable> {
        if !charge.fits_into(room) {
            return Err(Undecodable::TooMany);
        }
        if is_known {
            own = self.registrations.known(&key, own);
        }
        let Some(instance) = own.instances.first() else { return Err(Undecodable::NoHost) };
        let mut interfaces = Vec::new();
        if config.format == Format::DubboApplication {
            interfaces = self.registrations.mappings.of(&instance.service, config.rank);
        }
        let spots = if interfaces.is_empty() { Vec::new() } else { spots(instance) };
        let each = charge_of_interface(&spots, path);
        if !interfaces.is_empty() {
            let (admitted, why) = reader.admitted(&self.registrations.ledger, interfaces, each, 0);
            interfaces = admitted;
            interfaces.sort_unstable();
            fault = why.map(Arc::new).or(fault);
        }
        let new = of_interfaces(reader, config, &key, instance, &spots, &interfaces);
        let known = |(key, claim)| {
            let claim = self.registrations.known(&key, claim);
            (key, claim)
        };
        let mut claims: Vec<_> = new.into_iter().map(known).collect();
        claims.push((key.clone(), own));
        claims.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let interfaces = if interfaces.is_empty() { Arc::default() } else { interfaces.into() };
        Ok((claims, InstanceNode { key, interfaces, charge, each, fault }))
    }
}

/// What is listed differently, or may be.
fn changes(
    mut before: BTreeMap<ListedKey, Listed>,
    after: BTreeMap<ListedKey, Listed>,
) -> impl Iterator<Item = ListedChange> {
    let after: Vec<_> = after.into_iter().map(|(at, is)| (before.remove(&at), at, Some(is))).collect();
    let gone = before.into_iter().map(|(at, was)| (Some(was), at, None));
    after.into_iter().chain(gone).map(|(was, at, is)| (at, was, is))
}

/// Where an instance can be reached, each address once.
fn spots(instance: &Instance) -> Vec<(Arc<str>, Arc<[Endpoint]>)> {
    let mut seen = BTreeSet::new();
    let spots = instance.endpoints.iter().map(|endpoint| (endpoint.address().into(), [endpoint.clone()].into()));
    spots.filter(|(address, _): &(Arc<str>, _)| seen.insert(address.clone())).collect()
}

/// How many instances one more interface counts as: one for each spot, and more if the path is long.
fn charge_of_interface(spots: &[(Arc<str>, Arc<[Endpoint]>)], path: &NodePath) -> usize {
    (spots.len() * (1 + path.as_str().len() / MAX_SHORT_PATH_BYTES)).max(1)
}

/// An instance as these interfaces. It does not say in which group and version it offers one; its metadata are those of
/// the application.
fn of_interfaces(
    reader: &Reader<'_>,
    config: &Config,
    key: &ClaimKey,
    own: &Instance,
    spots: &[(Arc<str>, Arc<[Endpoint]>)],
    interfaces: &[Interface],
) -> Vec<(ClaimKey, Claim)> {
    if interfaces.is_empty() {
        return Vec::new();
    }
    let provenance = reader.provenance(config, key);
    let keys = keys_of_interfaces(key, spots, interfaces);
    let places: Vec<_> = spots.iter().map(|(_, endpoints)| place(endpoints.first(), Some(&key.service))).collect();
    let endpoints = spots.iter().map(|(_, endpoints)| endpoints).zip(places).cycle();
    let claims = keys.into_iter().zip(endpoints).map(|(key, (endpoints, place))| {
        let instance = Instance {
            service: key.service.clone(),
            version: Version::new(0, 0, 0),
            group: "".into(),
            zone: own.zone.clone(),
            weight: own.weight,
            metadata: reader.no_metadata.clone(),
            state: own.state,
            withheld: Withheld::default(),
            endpoints: endpoints.clone(),
            provenance: provenance.clone(),
            held: None,
        };
        let rank = key.rank;
        (key, Claim { instances: [instance].into(), place, rank })
    });
    claims.collect()
}

fn keys_of_interfaces(
    key: &ClaimKey,
    spots: &[(Arc<str>, Arc<[Endpoint]>)],
    interfaces: &[Interface],
) -> Vec<ClaimKey> {
    let at = |(service, root): &Interface, address: &Arc<str>| ClaimKey {
        service: service.clone(),
        address: address.clone(),
        variant: None,
        rank: Rank { root: *root, is_application: true },
        ..key.clone()
    };
    interfaces.iter().flat_map(|it| spots.iter().map(move |(address, _)| at(it, address))).collect()
}

impl Registration {
    fn fault(&self) -> Option<&Arc<Undecodable>> {
        match self {
            Self::Instance(node) => node.fault.as_ref(),
            Self::Interface(_) => None,
            Self::Undecodable(why) => Some(why),
        }
    }
}

impl Registrations {
    /// Sets what is known of a node below a root.
    fn set(&mut self, config: &Config, path: &NodePath, new: Option<Registration>) {
        let (root, known) = (&config.root, self.undecodable.get(path));
        match new.as_ref().and_then(Registration::fault) {
            Some(why) if Some(why) != known => {
                let below = self.undecodable.range(root.clone()..).take_while(|(path, _)| path.is_under(root));
                if below.take(MAX_LOGGED).count() < MAX_LOGGED {
                    tracing::warn!(%path, %why, "a node is to register an instance, and cannot be read, or not be listed in full");
                }
                self.undecodable.insert(path.clone(), why.clone());
            }
            Some(_) => {}
            None => drop(self.undecodable.remove(path)),
        }
        let is_undecodable = |it: Option<&Registration>| matches!(it, Some(Registration::Undecodable(_)));
        let is_unlisted = is_undecodable(new.as_ref());
        let old = match new {
            Some(new) => self.nodes.insert(path.clone(), new),
            None => self.nodes.remove(path),
        };
        if is_unlisted != is_undecodable(old.as_ref()) {
            self.set_unlisted(config, path, is_unlisted);
        }
    }

    /// Notes whether a node should register an instance of its service, and does not.
    fn set_unlisted(&mut self, config: &Config, path: &NodePath, is_unlisted: bool) {
        let located = config.locate(path).filter(|located| located.role == Role::Instance);
        let Some(service) = located.map(|located| located.service) else { return };
        if is_unlisted {
            self.unlisted.entry(service.into()).or_default().insert(path.clone());
        } else if let Some(nodes) = self.unlisted.get_mut(&*service) {
            nodes.remove(path);
            if nodes.is_empty() {
                self.unlisted.remove(&*service);
            }
        }
    }

    /// Sets whether a document may change what a node registers as that of its application.
    fn set_application(&mut self, document: NodePath, path: &NodePath, is_there: bool) {
        if !is_there {
            self.of_applications.remove(&(document, path.clone()));
            return;
        }
        self.of_applications.insert((document, path.clone()));
    }

    /// The nodes that a document may change as that of their application.
    fn of_application<'a>(&'a self, document: &'a NodePath) -> impl Iterator<Item = &'a NodePath> {
        let from = (document.clone(), NodePath::root());
        self.of_applications.range(from..).take_while(move |(of, _)| of == document).map(|(_, path)| path)
    }

    /// Names the rules of a scope that are left out, and no others.
    fn name_left_out(&mut self, config: &Config, nodes: &Nodes, scope: &NodePath) {
        let Some(begin) = config.rules_of(scope) else { return };
        let rules = rules_below(config, nodes, &self.undecodable, scope, &begin);
        let rules: Vec<_> = rules.map(|(path, rule)| (path.clone(), rule.is_none())).collect();
        for (path, is_left_out) in rules {
            let fault = is_left_out.then(|| Registration::Undecodable(Undecodable::RuleLeftOut.into()));
            self.set(config, &path, fault);
        }
    }

    /// Takes in which applications offer an interface; returns those for which that changed.
    fn take_interface(
        &mut self,
        config: &Config,
        path: &NodePath,
        interface: &Arc<str>,
        nodes: &Nodes,
    ) -> BTreeSet<Arc<str>> {
        let old: BTreeSet<Arc<str>> = match self.nodes.get(path) {
            Some(Registration::Interface(names)) => names.iter().cloned().collect(),
            _ => BTreeSet::new(),
        };
        let read = nodes.get(path).map(|node| config.applications(interface, node)).transpose();
        let names = read.as_ref().ok().and_then(Option::as_ref).into_iter().flatten();
        let new: BTreeSet<Arc<str>> = names.map(|name| Arc::from(*name)).collect();
        for name in old.difference(&new) {
            self.mappings.remove(name, interface, config.rank, path);
        }
        for name in new.difference(&old) {
            self.mappings.insert(name, interface, config.rank, path);
        }
        let registration = match read {
            Err(why) => Some(Registration::Undecodable(why.into())),
            Ok(_) if new.is_empty() => None,
            Ok(_) => Some(Registration::Interface(new.iter().cloned().collect())),
        };
        self.set(config, path, registration);
        old.symmetric_difference(&new).cloned().collect()
    }

    pub(super) fn mappings(&self) -> &Mappings {
        &self.mappings
    }

    pub(super) fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Takes in what is held now, or no longer; returns how what nodes register is listed otherwise, before and after.
    pub(super) fn hold(&mut self, shifts: &[Shift]) -> Vec<ListedChange> {
        let affected = |Shift { service, vanished, .. }: &Shift| self.claims.affected_by_hold(service, vanished);
        let slots: BTreeSet<_> = shifts.iter().flat_map(affected).collect();
        let before = self.listed(&slots);
        for Shift { service, vanished, is_held } in shifts {
            self.claims.hold(service, vanished, *is_held);
        }
        let changes: Vec<_> = changes(before, self.listed(&slots)).collect();
        for ((service, _), was, is) in &changes {
            self.count(service, was.as_ref(), is.as_ref());
        }
        changes
    }

    /// Counts how what is listed of an instance changes.
    fn count(&mut self, service: &Arc<str>, was: Option<&Listed>, is: Option<&Listed>) {
        let [from, to] = [was, is].map(|it| it.map(|it| it.rank));
        if from != to {
            from.into_iter().for_each(|rank| self.ranks.remove(service, rank));
            to.into_iter().for_each(|rank| self.ranks.add(service, rank));
        }
    }

    /// What nodes register as a variant of a service at an address.
    pub(super) fn registered(&self, service: &Arc<str>, address: &str, variant: &str) -> Option<Listed> {
        let slot = ClaimKey::first(service.clone(), address.into(), Some(variant.into()));
        match self.claims.listed(&slot) {
            // An instance of which no variant is known has the id of the one without a name.
            None if slot.variant.as_deref() == Some("") => self.claims.listed(&slot.unnamed()),
            listed => listed,
        }
    }

    /// About how many instances of a service, as nodes register them, have this rank.
    pub(super) fn count_of_rank(&self, service: &Arc<str>, rank: Rank) -> usize {
        self.ranks.count(service, rank)
    }

    /// How many nodes at and below a path register instances, counting up to this limit.
    pub(super) fn count_below(&self, root: &NodePath, most: usize) -> usize {
        let below = self.nodes.range(root.clone()..).take_while(|(path, _)| path.is_under(root));
        below.filter(|(_, it)| matches!(it, Registration::Instance(_))).take(most).count()
    }

    /// The keys of everything that a node registers.
    fn keys_of(&self, node: &InstanceNode) -> Vec<ClaimKey> {
        let own = self.claims.get(&node.key).and_then(|claim| claim.instances.first());
        let spots = own.filter(|_| !node.interfaces.is_empty()).map(spots).unwrap_or_default();
        let mut keys = keys_of_interfaces(&node.key, &spots, &node.interfaces);
        keys.push(node.key.clone());
        keys
    }

    /// The listings of these slots, by service and id.
    fn listed(&self, slots: &BTreeSet<ClaimKey>) -> BTreeMap<ListedKey, Listed> {
        let listed = slots.iter().filter_map(|slot| {
            let listed = self.claims.listed(slot)?;
            Some(((slot.service.clone(), listed.provider.id.clone()), listed))
        });
        listed.collect()
    }

    /// A claim; the known one if it is equal.
    fn known(&self, key: &ClaimKey, new: Claim) -> Claim {
        if let Some(old) = self.claims.get(key)
            && let ([was], [is]) = (&*old.instances, &*new.instances)
            && (Instance { provenance: was.provenance.clone(), ..is.clone() }) == *was
        {
            return old.clone();
        }
        new
    }
}

impl InstanceNode {
    /// What it takes of the room of each root: its own, and those that decide about its interfaces.
    fn charges(&self, root: Root) -> impl Iterator<Item = (Root, Charge)> {
        let mut by_rank: BTreeMap<usize, usize> = BTreeMap::new();
        for (_, rank) in &*self.interfaces {
            *by_rank.entry(*rank).or_default() += self.each;
        }
        let of = move |(rank, of_interfaces)| ((root.0, rank), Charge { of_interfaces, ..Charge::default() });
        std::iter::once((root, self.charge)).chain(by_rank.into_iter().map(of))
    }
}

impl<'a> Reader<'a> {
    fn new(feeds: &'a [Arc<Feed>], number: usize, revision: Revision, nodes: &'a Nodes) -> Self {
        let feed = &feeds[number];
        let by = ReportedBy { feed: number, source: feed.source().clone(), revision };
        let (configs, limits) = (feed.services(), feed.instance_limits());
        let (names, documented, of_applications) = (HashSet::new(), HashMap::new(), HashSet::new());
        let (rules, documents, latest) = (HashMap::new(), Default::default(), None);
        let (no_metadata, no_variant) = (Arc::new(Value::Map(Vec::new())), "".into());
        Self {
            by,
            configs,
            ranks: configs.iter().map(|config| config.rank).collect(),
            sharers: sharers(feeds, configs),
            limits,
            nodes,
            names,
            documented,
            of_applications,
            next: Box::new(std::iter::empty()),
            rules,
            documents,
            latest,
            no_metadata,
            no_variant,
        }
    }

    /// How much more there is room for below the root of this number.
    fn room(&self, ledger: &Ledger, number: usize) -> Charge {
        ledger.room(self.root(number), self.ranks.len(), self.limits)
    }

    /// Those of some interfaces, the first roots' first, as which a node may be listed besides this many, of which each
    /// counts as so many instances; and why it may not be as others.
    fn admitted(
        &self,
        ledger: &Ledger,
        mut interfaces: Vec<Interface>,
        each: usize,
        besides: usize,
    ) -> (Vec<Interface>, Option<Undecodable>) {
        interfaces.sort_by_key(|(_, rank)| *rank);
        let (mut admitted, mut rooms, mut why) = (Vec::new(), BTreeMap::new(), None);
        let most = (MAX_OF_INTERFACES / each).saturating_sub(besides);
        if interfaces.len() > most {
            interfaces.truncate(most);
            why = Some(Undecodable::TooManyOfNode);
        }
        for (interface, rank) in interfaces {
            let room = || ledger.room((self.by.feed, rank), self.sharers, self.limits).of_interfaces;
            let room: &mut usize = rooms.entry(rank).or_insert_with(room);
            match room.checked_sub(each) {
                Some(left) => {
                    *room = left;
                    admitted.push((interface, rank));
                }
                None => why = Some(Undecodable::TooManyOfInterfaces),
            }
        }
        (admitted, why)
    }

    fn root(&self, number: usize) -> Root {
        (self.by.feed, self.configs[number].rank)
    }

    fn provenance(&self, config: &Config, key: &ClaimKey) -> Arc<[Provenance]> {
        let (source, record) = (self.by.source.clone(), Record::Node(key.node.clone()));
        [Provenance { source, record, decoder: Decoder::Format(config.format), since: self.by.revision }].into()
    }

    /// What a node is, and in which of the configured formats.
    fn locate(&self, path: &NodePath) -> Option<(usize, Located)> {
        let number = self.number(path)?;
        Some((number, self.configs[number].locate(path)?))
    }

    /// The number of the root above a node.
    fn number(&self, path: &NodePath) -> Option<usize> {
        self.configs.iter().position(|config| path.is_under(&config.root))
    }

    /// The paths of a node's children that register instances.
    fn instances(&self, config: &Config, parent: &NodePath) -> impl Iterator<Item = NodePath> {
        let below = self.nodes.range(parent.clone()..).take_while(move |(path, _)| path.is_under(parent));
        let level = parent.depth() + 1;
        let is_instance = |path: &NodePath| config.locate(path).is_some_and(|located| located.role == Role::Instance);
        below.map(|(path, _)| path).filter(move |path| path.depth() == level && is_instance(path)).cloned()
    }

    /// Reads a node below the root of this number. None: there are rules for it, and no room for what they set was given.
    fn read(
        &mut self,
        directory: &Directory,
        number: usize,
        path: &NodePath,
        room_for_rules: Option<usize>,
    ) -> Option<Reading> {
        let config = &self.configs[number];
        let node = if room_for_rules.is_some() { self.nodes.get(path) } else { self.next(path) };
        let Some(node) = node else {
            return Some(Reading { document: config.documents(path).of_application(), found: Ok(None) });
        };
        let located = config.locate(path).filter(|located| located.role == Role::Instance);
        let Some(located) = located else { return Some(Reading { document: None, found: Ok(None) }) };
        let service = self.name(directory, &located.service);
        let (mut document, mut has_rules) = (None, false);
        let rules = |documents: Documents<'_>| {
            document = documents.of_application().map(|document| self.document(directory, document));
            let rules = self.rules(&directory.registrations.undecodable, number, path, &located, &documents);
            has_rules = !rules.is_empty();
            rules
        };
        let registered = config.decode(path, &service, node, rules, room_for_rules.unwrap_or(0));
        if has_rules && room_for_rules.is_none() {
            return None;
        }
        let found = registered.and_then(|it| it.map(|it| self.found(config, path, node, it)).transpose());
        Some(Reading { document, found })
    }

    /// A node, most likely the one after the last: that is found without looking through all.
    fn next(&mut self, path: &NodePath) -> Option<&'a Arc<Node>> {
        let mut next = self.next.next().filter(|(next, _)| *next == path);
        if next.is_none() {
            self.next = Box::new(self.nodes.range(path.clone()..));
            next = self.next.next().filter(|(next, _)| *next == path);
        }
        next.map(|(_, node)| node)
    }

    /// The path of a document: one for all nodes that it may change.
    fn document(&mut self, directory: &Directory, document: NodePath) -> NodePath {
        if let Some(known) = self.of_applications.get(&document) {
            return known.clone();
        }
        let first = directory.registrations.of_applications.get_next(&(document.clone(), NodePath::root()));
        let document = first.map(|(known, _)| known).filter(|known| **known == document).cloned().unwrap_or(document);
        self.of_applications.insert(document.clone());
        document
    }

    /// The name of a service: one for all its instances.
    fn name(&mut self, directory: &Directory, service: &str) -> Arc<str> {
        let listed = directory.services.get_key_value(service).map(|(name, _)| name);
        let pending = || directory.pending.get_key_value(service).map(|(name, _)| name);
        if let Some(name) = listed.or_else(|| self.names.get(service)).or_else(pending) {
            return name.clone();
        }
        let name: Arc<str> = service.into();
        self.names.insert(name.clone());
        name
    }

    fn found(
        &self,
        config: &Config,
        path: &NodePath,
        node: &Node,
        Registered { mut instance, variant, by_rules, fault }: Registered,
    ) -> Result<Found, Undecodable> {
        let first = instance.endpoints.first().ok_or(Undecodable::NoHost)?;
        let (service, address, rank) = (instance.service.clone(), first.address().into(), Rank::of_root(config.rank));
        let variant = if variant.is_empty() { self.no_variant.clone() } else { variant.into() };
        let (is_idle, variant, created) = (Claim::is_idle(&instance), Some(variant), Reverse(node.stat.czxid));
        let key = ClaimKey { service, address, variant, rank, is_idle, created, node: path.clone() };
        let charge = Charge::of(&instance, by_rules);
        instance.provenance = self.provenance(config, &key);
        let place = place_of(&instance);
        let claim = Claim { instances: [instance].into(), place, rank };
        Ok(Found { key, claim, alone: None, charge, fault: fault.map(Arc::new) })
    }

    /// The rules that change what a node registers.
    fn rules(
        &mut self,
        faults: &Faults,
        number: usize,
        path: &NodePath,
        located: &Located,
        documents: &Documents<'_>,
    ) -> Arc<[Rule]> {
        let (config, nodes) = (&self.configs[number], self.nodes);
        let rules = self.rules_of(config, path, located, faults);
        if !*self.documented.entry(number).or_insert_with(|| has_documents(config, nodes)) {
            return rules;
        }
        let more: Vec<_> = documents.paths().filter_map(|path| self.rules_in(config, path, faults)).collect();
        if more.is_empty() {
            return rules;
        }
        rules.iter().chain(more.iter().flat_map(|rules| rules.iter())).cloned().collect()
    }

    /// The rules in a document; None: there is none that can be read.
    fn rules_in(&mut self, config: &Config, document: NodePath, faults: &Faults) -> Option<Arc<[Rule]>> {
        let node = self.nodes.get(&document).filter(|_| !faults.contains_key(&document))?;
        let (known, bytes) = &mut self.documents;
        if let Some(known) = known.get(&document) {
            return Some(known.clone());
        }
        if *bytes > MAX_BYTES_OF_DOCUMENTS {
            known.clear();
            *bytes = 0;
        }
        let rules: Arc<[Rule]> = config.document(&document, node).ok()?.into();
        *bytes += node.data.len();
        known.insert(document, rules.clone());
        Some(rules)
    }

    /// The rules of a node's scope that count.
    fn rules_of(&mut self, config: &Config, path: &NodePath, located: &Located, faults: &Faults) -> Arc<[Rule]> {
        if let Some((_, rules)) = self.latest.as_ref().filter(|(scope, _)| located.is_in(scope, path)) {
            return rules.clone();
        }
        let Some(scope) = located.scope(path) else { return Arc::default() };
        let rules = match (self.rules.get(&scope), config.rules_of(&scope)) {
            (Some(known), _) => known.clone(),
            (None, None) => Arc::default(),
            (None, Some(begin)) => {
                let rules = rules_below(config, self.nodes, faults, &scope, &begin);
                let rules: Arc<[Rule]> = rules.filter_map(|(_, rule)| rule).collect();
                self.rules.insert(scope.clone(), rules.clone());
                rules
            }
        };
        self.latest = Some((scope, rules.clone()));
        rules
    }
}

/// How many roots share the room of the interfaces of applications below some roots: these, and the later ones that map
/// them.
fn sharers(feeds: &[Arc<Feed>], configs: &[Config]) -> usize {
    let mut sharers: BTreeSet<usize> = configs.iter().map(|config| config.rank).collect();
    let mapping = feeds.iter().flat_map(|feed| feed.services()).filter(|it| it.format == Format::Dubbo);
    let applications = || configs.iter().filter(|config| config.format == Format::DubboApplication);
    sharers.extend(mapping.flat_map(|it| applications().map(move |of| of.rank.max(it.rank))));
    sharers.len()
}

/// Whether there may be documents below a root.
fn has_documents(config: &Config, nodes: &Nodes) -> bool {
    let folder = config.documents_folder();
    folder.is_some_and(|folder| nodes.get_next(&folder).is_some_and(|(path, _)| path.is_under(&folder)))
}

/// The decodable rules of a scope with this path prefix; None: it is left out.
fn rules_below<'a>(
    config: &'a Config,
    nodes: &'a Nodes,
    faults: &'a Faults,
    scope: &'a NodePath,
    begin: &'a NodePath,
) -> impl Iterator<Item = (&'a NodePath, Option<Rule>)> {
    let range = nodes.range(begin.clone()..).take_while(|(path, _)| path.as_str().starts_with(begin.as_str()));
    let is_rule = |path: &NodePath| {
        let located = config.locate(path).filter(|located| located.role == Role::Rule);
        located.is_some_and(|located| located.scope(path).as_ref() == Some(scope))
    };
    // What was refused when it came is not read again, and takes nothing from the others.
    let is_refused = |path: &NodePath| faults.get(path).is_some_and(|why| **why != Undecodable::RuleLeftOut);
    let (mut room, mut count) = (MAX_BYTES_OF_RULES, 0);
    let mut rule = move |path: &NodePath, node: &Node| {
        let left = room.checked_sub(config.rule_bytes(path, node)).filter(|_| count < MAX_RULES)?;
        let rule = config.rule(path, node).ok()?;
        (room, count) = (left, count + 1);
        Some(rule)
    };
    let rules = range.take(MAX_SEEN).filter(move |(path, _)| is_rule(path) && !is_refused(path));
    rules.map(move |(path, node)| (path, rule(path, node)))
}

/// The rules of one scope, with their nodes.
#[derive(Default)]
pub(in crate::store) struct RulesOfScope(Vec<(NodePath, Rule)>);

impl RulesOfScope {
    pub(in crate::store) fn read(config: &Config, nodes: &Nodes, directory: &Directory, scope: &NodePath) -> Self {
        let Some(begin) = config.rules_of(scope) else { return Self::default() };
        let rules = rules_below(config, nodes, &directory.registrations.undecodable, scope, &begin);
        Self(rules.filter_map(|(path, rule)| Some((path.clone(), rule?))).collect())
    }

    /// The paths of the rules that change what a node of the scope registers; documents in the order in which they do.
    pub(in crate::store) fn changing(&self, config: &Config, nodes: &Nodes, path: &NodePath) -> Vec<NodePath> {
        let located = config.locate(path).filter(|located| located.role == Role::Instance);
        let (Some(located), Some(node)) = (located, nodes.get(path)) else { return Vec::new() };
        let service: Arc<str> = located.service.into();
        let read = |rules: &[Rule]| {
            let read = config.decode(path, &service, node, |_| rules.into(), usize::MAX);
            read.map(|it| it.map(|it| it.instance))
        };
        let Ok(without) = read(&[]) else { return Vec::new() };
        let is_changing = |rule: &Rule| read(std::slice::from_ref(rule)).is_ok_and(|with| with != without);
        let changing = self.0.iter().filter(|(_, rule)| is_changing(rule)).map(|(path, _)| path.clone());
        let mut changing: Vec<_> = changing.collect();
        let mut rules: Vec<_> = self.0.iter().map(|(_, rule)| rule.clone()).collect();
        let mut before = read(&rules);
        for document in config.documents(path).paths() {
            let Some(Ok(more)) = nodes.get(&document).map(|node| config.document(&document, node)) else { continue };
            rules.extend(more);
            let after = read(&rules);
            if after != before {
                changing.push(document);
            }
            before = after;
        }
        changing
    }
}

/// Whether there may be a rule for a node in a scope.
pub(in crate::store) fn may_have_rules(config: &Config, nodes: &Nodes, scope: &NodePath, path: &NodePath) -> bool {
    let below = |begin: NodePath| nodes.range(begin.clone()..).next().map(|(path, _)| (path, begin));
    let first = config.rules_of(scope).and_then(below);
    first.is_some_and(|(path, begin)| path.as_str().starts_with(begin.as_str()))
        || config.documents(path).paths().any(|document| nodes.contains_key(&document))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Now;
    use crate::model::InstanceState;

    /// What a node may register, at one of three addresses.
    fn claim(random: &mut fastrand::Rng, node: usize) -> (ClaimKey, Claim) {
        let (service, root): (Arc<str>, _) = (["a", "b"][random.usize(..2)].into(), random.usize(..2));
        let place = random.choice([None, Some("p"), Some("q")]).flatten().map(Arc::from);
        let variant = random.choice([None, Some(""), Some("v")]).flatten();
        let port = random.u16(1..=3);
        let endpoint = Endpoint { name: String::new(), protocol: String::new(), host: "h".to_owned(), port };
        let (address, node) = (endpoint.address().into(), NodePath::root().child(&node.to_string()));
        let provenance = Provenance {
            source: "zk".into(),
            record: Record::Node(node.clone()),
            decoder: Decoder::Format(Format::Raw),
            since: 1,
        };
        let instance = Instance {
            service: service.clone(),
            version: Version::new(random.u64(..2), 0, 0),
            group: "".into(),
            zone: node.as_str().into(),
            weight: random.u32(..3),
            metadata: Value::Map(vec![(1.into(), 2.into()); random.usize(..2)]).into(),
            state: InstanceState::Up,
            withheld: Withheld::default(),
            endpoints: [endpoint].into(),
            provenance: [provenance].into(),
            held: None,
        };
        let (variant, is_idle) = (variant.map(Arc::from), Claim::is_idle(&instance));
        let rank = Rank { root, is_application: variant.is_none() };
        let key = ClaimKey { service, address, variant, rank, is_idle, created: Reverse(random.i64(..2)), node };
        (key, Claim { instances: [instance].into(), place, rank })
    }

    /// Everything that claims decide.
    fn state(directory: &Directory) -> String {
        let Registrations { claims, ranks, .. } = &directory.registrations;
        let pending: BTreeMap<_, _> = directory.pending.iter().collect();
        format!("{:?}", (&directory.services, &directory.retired, claims, ranks, pending))
    }

    #[test]
    fn what_is_alone_at_its_address_is_listed_as_if_others_were_looked_for() {
        let mut alone = 0;
        for seed in 0..100 {
            let random = &mut fastrand::Rng::with_seed(seed);
            let mut all: Vec<_> = (0..12).map(|node| claim(random, node)).collect();
            let (mut fast, mut slow) = (Directory::default(), Directory::default());
            let mut replace = |gone: Vec<ClaimKey>, come: Vec<(ClaimKey, Claim)>, is_settled: bool| {
                let is_alone = |(key, claim): &(_, _)| fast.registrations.claims.is_alone(key, claim);
                alone += come.iter().filter(|it| is_alone(it)).count();
                fast.replace(gone.clone(), come.clone(), None);
                slow.list_merged(gone, come);
                assert_eq!(state(&fast), state(&slow), "seed {seed}");
                if is_settled {
                    fast.settle(Now::read(), &[], None);
                    slow.settle(Now::read(), &[], None);
                    assert_eq!(state(&fast), state(&slow), "seed {seed}");
                }
            };
            // All come, all but one leave, and the others come back, each time in another order.
            all.iter().for_each(|it| replace(Vec::new(), vec![it.clone()], random.bool()));
            for _ in 0..3 {
                random.shuffle(&mut all);
                all[1..].iter().for_each(|(key, _)| replace(vec![key.clone()], Vec::new(), random.bool()));
                random.shuffle(&mut all[1..]);
                all[1..].iter().for_each(|it| replace(Vec::new(), vec![it.clone()], random.bool()));
            }
        }
        assert!(alone > 100, "{alone}");
    }
}
