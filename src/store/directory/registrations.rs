//! Registrations: instances that nodes register, by the node and by the address.
//!
//! Several nodes may register one address of a service: in several formats, or twice in one. The richest of them is the
//! instance, and all of them are its provenance.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use imbl::OrdMap;
use rmpv::Value;
use semver::Version;

use super::{Directory, ReportedBy};
use crate::format::{Config, Located, MAX_RULES, Registered, Role, Rule, Undecodable};
use crate::model::{Decoder, Format, Instance, InstanceState, Node, NodePath, Provenance, Record, Withheld};
use crate::store::instances::{NODE_MARK, Provider};

/// So many nodes make one instance, so many are looked at that register one address of a service, and so many that may be
/// rules of one scope.
const MAX_CLAIMS: usize = 64;
const MAX_CLAIMS_SEEN: usize = 4 * MAX_CLAIMS;
const MAX_SEEN: usize = 4 * MAX_RULES;

/// The paths of the nodes that make one instance have at most so many bytes, but for the first.
const MAX_PROVENANCE_BYTES: usize = 64 << 10;

/// The most interfaces of an application that lists none itself; and as how many instances of them one node counts.
const MAX_INTERFACES: usize = 1_024;
const MAX_OF_INTERFACES: usize = 1_024;

/// The log names nodes that cannot be read as long as they are no more than so many.
const MAX_LOGGED: usize = 100;

pub(in crate::store) type Nodes = OrdMap<NodePath, Arc<Node>>;

/// What nodes register. A clone shares all it can with the original.
#[derive(Clone, Debug, Default)]
pub(super) struct Registrations {
    nodes: OrdMap<NodePath, Registration>,
    claims: OrdMap<ClaimKey, Claim>,
    /// By an application and the node that says so, an interface that it offers.
    interfaces: OrdMap<(Arc<str>, NodePath), Arc<str>>,
    undecodable: usize,
}

/// What one node registers.
#[derive(Clone, Debug)]
enum Registration {
    Claims(Arc<[ClaimKey]>),
    /// The applications that offer an interface.
    Interface(Arc<[Arc<str>]>),
    Undecodable(Arc<Undecodable>),
}

/// An address of a service, and the node that registers it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ClaimKey {
    service: Arc<str>,
    address: Arc<str>,
    node: NodePath,
}

#[derive(Clone, Debug)]
struct Claim {
    /// What tells it from others at the address; None: it does not know, as an application that offers an interface.
    variant: Option<Arc<str>>,
    /// One, with this node as its provenance.
    instances: Arc<[Instance]>,
}

/// What is listed of an address of a service.
type Listed = Vec<(Version, Provider)>;

/// What nodes are read with.
struct Reader<'a> {
    by: &'a ReportedBy,
    configs: &'a [Config],
    nodes: &'a Nodes,
    /// By scope.
    rules: HashMap<NodePath, Arc<[Rule]>>,
}

impl Directory {
    /// Takes in what became of nodes of a feed, which has services registered so. The applications of which other interfaces
    /// are known than before.
    pub(in crate::store) fn register<'p>(
        &mut self,
        by: &ReportedBy,
        configs: &[Config],
        nodes: &Nodes,
        changed: impl Iterator<Item = &'p NodePath>,
    ) -> BTreeSet<Arc<str>> {
        if configs.is_empty() {
            return BTreeSet::new();
        }
        let mut reader = Reader { by, configs, nodes, rules: HashMap::new() };
        let (mut due, mut scopes, mut applications) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for path in changed {
            let Some((number, located)) = reader.locate(path) else { continue };
            match located.role {
                Role::Instance => due.push((path.clone(), number)),
                Role::Rule => {
                    scopes.extend(located.scope(path).map(|scope| (number, scope)));
                    let rule = nodes.get(path).map(|node| configs[number].rule(path, node));
                    self.registrations.note(path, rule.and_then(Result::err));
                }
                Role::Interface => {
                    applications.extend(self.registrations.take_interface(&configs[number], path, &located, nodes));
                }
            }
        }
        for (number, scope) in &scopes {
            let parent = configs[*number].instances_of(scope);
            due.extend(reader.instances(&configs[*number], &parent).map(|path| (path, *number)));
        }
        due.sort_unstable();
        due.dedup();
        for (path, number) in due {
            self.read(&mut reader, &configs[number], path);
        }
        applications
    }

    /// Reads applications anew of which other interfaces are known: the nodes that say so may be of another feed.
    pub(in crate::store) fn register_applications(
        &mut self,
        by: &ReportedBy,
        configs: &[Config],
        nodes: &Nodes,
        applications: &BTreeSet<Arc<str>>,
    ) {
        let mut reader = Reader { by, configs, nodes, rules: HashMap::new() };
        for config in configs.iter().filter(|config| config.format == Format::DubboApplication) {
            for name in applications {
                let due: Vec<_> = reader.instances(config, &config.root.child(name)).collect();
                due.into_iter().for_each(|path| self.read(&mut reader, config, path));
            }
        }
    }

    /// How many nodes are to register something, and cannot be read.
    pub fn count_of_undecodable(&self) -> usize {
        self.registrations.undecodable
    }

    /// Those of them at and below a path, and why.
    pub fn undecodable<'a>(&'a self, root: &'a NodePath) -> impl Iterator<Item = (&'a NodePath, &'a Undecodable)> {
        let below = self.registrations.nodes.range(root.clone()..).take_while(|(path, _)| path.is_under(root));
        below.filter_map(|(path, registration)| match registration {
            Registration::Undecodable(why) => Some((path, &**why)),
            _ => None,
        })
    }

    /// Lists what a node registers now in the place of what it did.
    fn read(&mut self, reader: &mut Reader<'_>, config: &Config, path: NodePath) {
        let (mut claims, why) = match reader.decode(config, &path) {
            Ok(read) => (self.claims(reader, config, &path, read), None),
            Err(why) => (BTreeMap::new(), Some(why)),
        };
        let old = self.registrations.claims_of(&path);
        let is_same = |key: &ClaimKey| {
            let (old, new) = (self.registrations.claims.get(key), claims.get(key));
            old.zip(new).is_some_and(|(old, new)| Arc::ptr_eq(&old.instances, &new.instances))
        };
        let touched: BTreeSet<ClaimKey> =
            old.iter().chain(claims.keys()).filter(|key| !is_same(key)).cloned().collect();
        let keys: Vec<ClaimKey> = claims.keys().cloned().collect();
        for key in touched {
            let before = self.registrations.listed(&key);
            match claims.remove(&key) {
                Some(claim) => drop(self.registrations.claims.insert(key.clone(), claim)),
                None => drop(self.registrations.claims.remove(&key)),
            }
            let after = self.registrations.listed(&key);
            let stays = |version: &Version, id: &str| after.iter().any(|(of, it)| of == version && *it.id == *id);
            for (version, provider) in before.iter().filter(|(version, it)| !stays(version, &it.id)) {
                self.withdraw(&provider.id, &key.service, version);
            }
            for (version, Provider { id, instances, .. }) in after {
                self.list(&id, key.service.clone(), version, instances);
            }
        }
        self.registrations.note(&path, why);
        if !keys.is_empty() {
            self.registrations.nodes.insert(path, Registration::Claims(keys.into()));
        }
    }

    /// What is registered by it: the service, and for an application the interfaces that it offers. What stands is the
    /// very claim that it was.
    fn claims(
        &self,
        reader: &Reader<'_>,
        config: &Config,
        path: &NodePath,
        read: Option<Registered>,
    ) -> BTreeMap<ClaimKey, Claim> {
        let Some(Registered { instance, variant }) = read else { return BTreeMap::new() };
        let interfaces = match config.format {
            Format::DubboApplication => self.registrations.interfaces_of(&instance.service),
            _ => Vec::new(),
        };
        let no_metadata = Arc::new(Value::Map(Vec::new()));
        let of_interface = |(interface, endpoint): (Arc<str>, _)| {
            // In which group and version it offers that, it does not say; its metadata are of all that it offers.
            let (version, group, endpoints) = (Version::new(0, 0, 0), "".into(), [endpoint].into());
            let (metadata, zone) = (no_metadata.clone(), instance.zone.clone());
            let (weight, state, provenance) = (instance.weight, instance.state, Box::default());
            let (service, withheld, held) = (interface, Withheld::default(), None);
            let of = Instance {
                service,
                version,
                group,
                zone,
                weight,
                metadata,
                state,
                withheld,
                endpoints,
                provenance,
                held,
            };
            (of, None)
        };
        let endpoints = || instance.endpoints.iter().cloned();
        let interfaces = interfaces.into_iter().flat_map(|name| endpoints().map(move |it| (name.clone(), it)));
        let mut all: Vec<_> = interfaces.map(of_interface).take(MAX_OF_INTERFACES).collect();
        all.push((instance, Some(Arc::from(variant))));
        let claims = all.into_iter().filter_map(|(instance, variant)| {
            let address = instance.endpoints.first()?.address().into();
            // One name for all its instances.
            let known = self.services.get_key_value(&instance.service);
            let service = known.map_or_else(|| instance.service.clone(), |(name, _)| name.clone());
            let key = ClaimKey { service: service.clone(), address, node: path.clone() };
            let claim = self.claim(reader, config, &key, Instance { service, ..instance }, variant);
            Some((key, claim))
        });
        claims.collect()
    }

    fn claim(
        &self,
        Reader { by, .. }: &Reader<'_>,
        config: &Config,
        key: &ClaimKey,
        instance: Instance,
        variant: Option<Arc<str>>,
    ) -> Claim {
        if let Some(old) = self.registrations.claims.get(key)
            && old.variant == variant
            && let [was] = &*old.instances
        {
            let instance = Instance { provenance: was.provenance.clone(), ..instance.clone() };
            if instance == *was {
                return old.clone();
            }
        }
        let (source, record) = (by.source.clone(), Record::Node(key.node.clone()));
        let provenance = Provenance { source, record, decoder: Decoder::Format(config.format), since: by.revision };
        Claim { variant, instances: [Instance { provenance: [provenance].into(), ..instance }].into() }
    }
}

impl Registrations {
    /// Makes this what is known of a node: why it cannot be read, or nothing.
    fn note(&mut self, path: &NodePath, why: Option<Undecodable>) {
        if let Some(why) = &why
            && self.undecodable < MAX_LOGGED
            && !matches!(self.nodes.get(path), Some(Registration::Undecodable(old)) if **old == *why)
        {
            tracing::warn!(%path, %why, "a node is to register an instance, and cannot be read");
        }
        self.undecodable += usize::from(why.is_some());
        let old = match why {
            Some(why) => self.nodes.insert(path.clone(), Registration::Undecodable(why.into())),
            None => self.nodes.remove(path),
        };
        self.undecodable -= usize::from(matches!(old, Some(Registration::Undecodable(_))));
    }

    /// Takes in which applications offer an interface; those of which that is new, or no longer so.
    fn take_interface(
        &mut self,
        config: &Config,
        path: &NodePath,
        located: &Located,
        nodes: &Nodes,
    ) -> BTreeSet<Arc<str>> {
        let old: BTreeSet<Arc<str>> = match self.nodes.get(path) {
            Some(Registration::Interface(names)) => names.iter().cloned().collect(),
            _ => BTreeSet::new(),
        };
        let read = nodes.get(path).map(|node| config.applications(&located.service, node)).transpose();
        let names = read.as_ref().ok().and_then(Option::as_ref).into_iter().flatten();
        let new: BTreeSet<Arc<str>> = names.map(|name| Arc::from(*name)).collect();
        for name in old.difference(&new) {
            self.interfaces.remove(&(name.clone(), path.clone()));
        }
        let interface: Arc<str> = located.service.as_str().into();
        for name in new.difference(&old) {
            self.interfaces.insert((name.clone(), path.clone()), interface.clone());
        }
        self.note(path, read.err());
        if !new.is_empty() {
            self.nodes.insert(path.clone(), Registration::Interface(new.iter().cloned().collect()));
        }
        old.symmetric_difference(&new).cloned().collect()
    }

    fn interfaces_of(&self, application: &Arc<str>) -> Vec<Arc<str>> {
        let from = (application.clone(), NodePath::root());
        let of = self.interfaces.range(from..).take_while(|((name, _), _)| name == application);
        of.take(MAX_INTERFACES).map(|(_, interface)| interface.clone()).collect()
    }

    fn claims_of(&self, path: &NodePath) -> Arc<[ClaimKey]> {
        match self.nodes.get(path) {
            Some(Registration::Claims(keys)) => keys.clone(),
            _ => Arc::default(),
        }
    }

    /// What is to be listed of the address of a claim.
    fn listed(&self, ClaimKey { service, address, .. }: &ClaimKey) -> Listed {
        let from = ClaimKey { service: service.clone(), address: address.clone(), node: NodePath::root() };
        let range = self.claims.range(from..);
        let range = range.take_while(|(key, _)| key.service == *service && key.address == *address);
        let (mut variants, mut unaware): (BTreeMap<&str, Vec<&Claim>>, Vec<&Claim>) = Default::default();
        for (_, claim) in range.take(MAX_CLAIMS_SEEN) {
            let alike = claim.variant.as_deref().map_or(&mut unaware, |variant| variants.entry(variant).or_default());
            if alike.len() < MAX_CLAIMS {
                alike.push(claim);
            }
        }
        if variants.is_empty() && !unaware.is_empty() {
            variants.insert("", Vec::new());
        }
        let listed = variants.into_iter().filter_map(|(variant, claims)| {
            let instances = merged(if claims.is_empty() { &unaware } else { &claims }, &unaware)?;
            let id = format!("{NODE_MARK}{address}{variant}").into();
            Some((instances.first()?.version.clone(), Provider::new(id, instances)))
        });
        listed.collect()
    }
}

/// The richest of the claims that are up, with all of them and of the others as its provenance.
fn merged(claims: &[&Claim], others: &[&Claim]) -> Option<Arc<[Instance]>> {
    let richness = |claim: &&&Claim| {
        claim.instances.first().map(|it| {
            let entries = it.metadata.as_map().map_or(0, Vec::len);
            (it.state == InstanceState::Up, it.endpoints.len() + entries)
        })
    };
    let richest = claims.iter().max_by_key(richness)?;
    let others = others.iter().filter(|other| !claims.iter().any(|claim| std::ptr::eq(*claim, **other)));
    let rest: Vec<_> = claims.iter().filter(|claim| !std::ptr::eq(**claim, *richest)).chain(others).collect();
    if rest.is_empty() {
        return Some(richest.instances.clone());
    }
    let instance = richest.instances.first()?;
    let provenance = rest.iter().flat_map(|claim| claim.instances.iter()).flat_map(|it| &it.provenance);
    let mut bytes = 0;
    let has_room = |it: &&Provenance| {
        bytes += it.record.bytes();
        bytes <= MAX_PROVENANCE_BYTES
    };
    let rest = provenance.take(MAX_CLAIMS - 1).take_while(has_room);
    let provenance = instance.provenance.iter().chain(rest).cloned().collect();
    Some([Instance { provenance, ..instance.clone() }].into())
}

impl Reader<'_> {
    /// What a node is, and by which of the configured formats.
    fn locate(&self, path: &NodePath) -> Option<(usize, Located)> {
        let number = self.configs.iter().position(|config| path.is_under(&config.root))?;
        Some((number, self.configs[number].locate(path)?))
    }

    /// The paths of the children of a node that register instances.
    fn instances(&self, config: &Config, parent: &NodePath) -> impl Iterator<Item = NodePath> {
        let below = self.nodes.range(parent.clone()..).take_while(move |(path, _)| path.is_under(parent));
        let level = parent.depth() + 1;
        let is_instance = |path: &NodePath| config.locate(path).is_some_and(|located| located.role == Role::Instance);
        below.map(|(path, _)| path).filter(move |path| path.depth() == level && is_instance(path)).cloned()
    }

    fn decode(&mut self, config: &Config, path: &NodePath) -> Result<Option<Registered>, Undecodable> {
        let Some(node) = self.nodes.get(path) else { return Ok(None) };
        let located = config.locate(path).filter(|located| located.role == Role::Instance);
        let Some(located) = located else { return Ok(None) };
        let rules = located.scope(path).map(|scope| self.rules_of(config, scope)).unwrap_or_default();
        config.decode(path, &located.service, node, &rules)
    }

    /// The rules of a scope that can be read.
    fn rules_of(&mut self, config: &Config, scope: NodePath) -> Arc<[Rule]> {
        let Some(begin) = config.rules_of(&scope) else { return Arc::default() };
        if let Some(known) = self.rules.get(&scope) {
            return known.clone();
        }
        let range = self.nodes.range(begin.clone()..).take_while(|(path, _)| path.as_str().starts_with(begin.as_str()));
        let is_rule = |path: &NodePath| {
            let located = config.locate(path).filter(|located| located.role == Role::Rule);
            located.is_some_and(|located| located.scope(path).as_ref() == Some(&scope))
        };
        let rules = range.take(MAX_SEEN).filter(|(path, _)| is_rule(path));
        let rules = rules.filter_map(|(path, node)| config.rule(path, node).ok());
        let rules: Arc<[Rule]> = rules.take(MAX_RULES).collect();
        self.rules.insert(scope, rules.clone());
        rules
    }
}
