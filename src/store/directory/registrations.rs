//! Registrations: instances that nodes register, by the node.

mod deferred;
mod interfaces;
mod reader;
mod rules;
mod taking;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};

use self::deferred::Deferred;
use self::interfaces::{keys_of_interfaces, spots};
use self::rules::rules_below;
pub(in crate::store) use self::rules::{RulesOfScope, may_have_rules};
use super::Directory;
use super::claims::{Claim, ClaimKey, Claims, Listed};
use super::ledger::{Charge, Ledger, Root};
use super::mappings::{Interface, Mappings};
use super::ranks::{Moves, Ranks};
use super::root_names::RootNames;
use crate::format::{Config, Role, Undecodable};
use crate::guard::{Rank, Shift};
use crate::model::{Instance, Node, NodePath};

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
    /// Roots below which something has been registered since the start, or was held then.
    ever_used: OrdSet<NodePath>,
    /// By the feed whose changes made it necessary, what is left to read again.
    deferred: OrdMap<usize, Deferred>,
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

impl Directory {
    /// Whether a node at or below a path registers something, or should.
    pub(crate) fn has_registrations(&self, root: &NodePath) -> bool {
        self.registrations.nodes.range(root.clone()..).next().is_some_and(|(path, _)| path.is_under(root))
    }

    /// Whether something below a root of services has been registered since the start, or was held then.
    pub(crate) fn was_used(&self, root: &NodePath) -> bool {
        self.registrations.ever_used.contains(root)
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

    /// All of them in the order of their paths, those after one of them alone.
    pub fn undecodable_after(&self, path: Option<&NodePath>) -> impl Iterator<Item = (&NodePath, &Undecodable)> {
        let from = path.cloned().map_or(Bound::Unbounded, Bound::Excluded);
        self.registrations.undecodable.range::<_, NodePath>((from, Bound::Unbounded)).map(|(path, why)| (path, &**why))
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
    /// Notes that something below a root was registered before the start.
    pub(super) fn note_use(&mut self, root: &NodePath) {
        self.ever_used.insert(root.clone());
    }

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
        if matches!(new, Some(Registration::Instance(_) | Registration::Interface(_))) && !self.ever_used.contains(root)
        {
            self.ever_used.insert(root.clone());
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
            let mut moves = Moves::new();
            was.iter().for_each(|was| *moves.entry(was.rank).or_default() -= 1);
            is.iter().for_each(|is| *moves.entry(is.rank).or_default() += 1);
            self.move_ranks(service, moves);
        }
        changes
    }

    /// Instances of a service are listed with other ranks.
    pub(super) fn move_ranks(&mut self, service: &Arc<str>, moves: Moves) {
        self.ranks.take(service, moves);
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

    /// The same of all services of a root.
    pub(super) fn count_of_root(&self, root: usize) -> usize {
        self.ranks.of_root(root)
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

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use rmpv::Value;
    use semver::Version;

    use super::*;
    use crate::guard::Now;
    use crate::model::{Decoder, Endpoint, Format, InstanceState, Provenance, Record, Withheld};

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

    /// How many instances of each service have each rank, as counted.
    fn counted(directory: &Directory) -> BTreeMap<(&str, Rank), usize> {
        let ranks = (0..2).flat_map(Rank::both_of_root).flat_map(|rank| ["a", "b"].map(|service| (service, rank)));
        let count = |(service, rank): (&'static str, Rank)| {
            let count = directory.registrations.count_of_rank(&service.into(), rank);
            ((service, rank), count)
        };
        ranks.map(count).filter(|(_, count)| *count > 0).collect()
    }

    /// The same by what is listed.
    fn listed(directory: &Directory) -> BTreeMap<(&str, Rank), usize> {
        let slots = directory.registrations.claims.keys().map(ClaimKey::slot).collect();
        let mut count = BTreeMap::new();
        for ((service, _), listed) in directory.registrations.listed(&slots) {
            let service = if *service == *"a" { "a" } else { "b" };
            *count.entry((service, listed.rank)).or_default() += 1;
        }
        count
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
                    fast.settle(Now::read(), &[], None, true);
                    slow.settle(Now::read(), &[], None, false);
                    assert_eq!(state(&fast), state(&slow), "seed {seed}");
                    assert_eq!(counted(&fast), listed(&fast), "seed {seed}");
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
