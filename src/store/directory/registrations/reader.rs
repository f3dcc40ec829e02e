//! Reading what a node registers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::interfaces::MAX_OF_INTERFACES;
use super::rules::rules_below;
use super::{Faults, Nodes};
use crate::format::{Config, Documents, Located, Registered, Role, Rule, Undecodable};
use crate::guard::Rank;
use crate::model::{Decoder, Format, Node, NodePath, Provenance, Record, Revision};
use crate::store::Feed;
use crate::store::directory::claims::{Claim, ClaimKey, Listed, place_of};
use crate::store::directory::ledger::{Charge, InstanceLimits, Ledger, Root};
use crate::store::directory::mappings::Interface;
use crate::store::directory::{Directory, ReportedBy};

/// Of how many bytes of documents the rules are kept while nodes are decoded.
const MAX_BYTES_OF_DOCUMENTS: usize = 4 << 20;

/// What a node registers, as far as that depends on no other one that registers something.
pub(super) struct Found {
    pub(super) key: ClaimKey,
    pub(super) claim: Claim,
    /// The listing of the claim if it is the only one to its address.
    pub(super) alone: Option<Listed>,
    pub(super) charge: Charge,
    pub(super) fault: Option<Arc<Undecodable>>,
}

/// What was read of a node.
pub(super) struct Reading {
    /// The document of its application, whether it exists or not.
    pub(super) document: Option<NodePath>,
    pub(super) found: Result<Option<Found>, Undecodable>,
}

/// What is needed to decode nodes.
pub(super) struct Reader<'a> {
    pub(super) by: ReportedBy,
    pub(super) configs: &'a [Config],
    pub(super) ranks: BTreeSet<usize>,
    /// How many roots share the room of interfaces: its own, and those that map applications below these.
    sharers: usize,
    limits: InstanceLimits,
    pub(super) nodes: &'a Nodes,
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
    no_variant: Arc<str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(feeds: &'a [Arc<Feed>], number: usize, revision: Revision, nodes: &'a Nodes) -> Self {
        let feed = &feeds[number];
        let by = ReportedBy { feed: number, source: feed.source().clone(), revision };
        let (configs, limits) = (feed.services(), feed.instance_limits());
        let (names, documented, of_applications) = (HashSet::new(), HashMap::new(), HashSet::new());
        let (rules, documents, latest) = (HashMap::new(), Default::default(), None);
        let no_variant = "".into();
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
            no_variant,
        }
    }

    /// How much more there is room for below the root of this number.
    pub(super) fn room(&self, ledger: &Ledger, number: usize) -> Charge {
        ledger.room(self.root(number), self.ranks.len(), self.limits)
    }

    /// Those of some interfaces, the first roots' first, as which a node may be listed besides this many, of which each
    /// counts as so many instances; and why it may not be as others.
    pub(super) fn admitted(
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

    pub(super) fn root(&self, number: usize) -> Root {
        (self.by.feed, self.configs[number].rank)
    }

    pub(super) fn provenance(&self, config: &Config, key: &ClaimKey) -> Arc<[Provenance]> {
        let (source, record) = (self.by.source.clone(), Record::Node(key.node.clone()));
        [Provenance { source, record, decoder: Decoder::Format(config.format), since: self.by.revision }].into()
    }

    /// What a node is, and in which of the configured formats.
    pub(super) fn locate(&self, path: &NodePath) -> Option<(usize, Located)> {
        let number = self.number(path)?;
        Some((number, self.configs[number].locate(path)?))
    }

    /// The number of the root above a node.
    pub(super) fn number(&self, path: &NodePath) -> Option<usize> {
        self.configs.iter().position(|config| path.is_under(&config.root))
    }

    /// Reads a node below the root of this number. None: there are rules for it, and no room for what they set was given.
    pub(super) fn read(
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
