//! Taking in changes of nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::deferred::{MAX_AT_ONCE, Of, Scan};
use super::interfaces::{Offers, charge_of_interface, of_interfaces, spots};
use super::reader::{Found, Reader, Reading};
use super::{InstanceNode, ListedKey, Nodes, Registration, changes};
use crate::format::{Config, Role, Undecodable};
use crate::model::{Format, NodePath, Revision};
use crate::store::Feed;
use crate::store::directory::Directory;
use crate::store::directory::claims::{Claim, ClaimKey, Listed};
use crate::store::directory::guarded::Change;
use crate::store::directory::ledger::{Charge, Ledger};
use crate::task;

/// From this many nodes on, another thread decodes ahead.
const MANY: usize = 1_000;

/// How many nodes without room are read again when there is some.
const MAX_RETRIED: usize = 8;

impl Directory {
    /// Takes in changes of nodes of the feed with this number. Of other nodes that these change, many are read again later,
    /// unless all are to be read at once, with whatever was left to read before.
    pub(in crate::store) fn register<'p>(
        &mut self,
        feeds: &[Arc<Feed>],
        feed: usize,
        revision: Revision,
        nodes: &Nodes,
        changed: impl Iterator<Item = &'p NodePath>,
        at_once: bool,
    ) {
        let mut reader = Reader::new(feeds, feed, revision, nodes);
        let configs = reader.configs;
        if configs.is_empty() {
            return;
        }
        let before = self.registrations.ledger.clone();
        let (mut due, mut scopes, mut offers) = (Vec::new(), BTreeSet::new(), Offers::new());
        let (mut scans, mut later) = (BTreeSet::new(), Vec::new());
        let mut room = if at_once { usize::MAX } else { MAX_AT_ONCE };
        let scan = |number: usize, of: Of| Scan { feed, number, of };
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
                    let parent = config.instances_of(&config.scope_of(&located.service));
                    scans.extend([Of::Parent(parent), Of::Document(path.clone())].map(|of| scan(number, of)));
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
            later.extend(self.offer(&mut reader, &offers, &mut room));
            if other != feed {
                self.read_beyond(&mut reader, &before);
            }
        }
        for (number, scope) in &scopes {
            self.registrations.name_left_out(&configs[*number], nodes, scope);
            scans.insert(scan(*number, Of::Parent(configs[*number].instances_of(scope))));
        }
        // In the order of the configuration: what roots share goes to the first, however nodes are called.
        due.sort_unstable();
        let mut others = Vec::new();
        for scan in scans {
            match self.few(&reader, &scan, &due, room) {
                Some(few) => {
                    room -= few.len();
                    others.extend(few);
                }
                None => later.push(scan),
            }
        }
        self.defer(feed, later);
        due.extend(others);
        due.sort_unstable();
        due.dedup();
        if due.len() < MANY {
            due.iter().for_each(|(number, path)| self.read(&mut reader, *number, path, false, None));
        } else {
            self.read_many(&mut reader, || Reader::new(feeds, feed, revision, nodes), &due);
        }
        self.read_beyond(&mut reader, &before);
        while at_once && self.is_deferring(feed) {
            self.read_deferred(feeds, feed, revision, nodes);
        }
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
            // One of its own: threads that count the same name in turn would wait for each other.
            reader.by.source = Arc::from(&*reader.by.source);
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

    /// Decodes some of the nodes without room again, some below each root, if there is more than before.
    pub(super) fn read_beyond(&mut self, reader: &mut Reader<'_>, before: &Ledger) {
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
    pub(super) fn read(
        &mut self,
        reader: &mut Reader<'_>,
        number: usize,
        path: &NodePath,
        is_new: bool,
        ahead: Option<Reading>,
    ) {
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
    pub(super) fn replace(&mut self, gone: Vec<ClaimKey>, mut come: Vec<(ClaimKey, Claim)>, alone: Option<Listed>) {
        let only = come.pop_if(|(key, claim)| gone.is_empty() && self.registrations.claims.is_alone(key, claim));
        match only {
            Some((key, claim)) if come.is_empty() => self.list_alone(key, claim, alone),
            only => self.list_merged(gone, come.into_iter().chain(only).collect()),
        }
    }

    /// The same for claims that may share their addresses with others.
    pub(super) fn list_merged(&mut self, gone: Vec<ClaimKey>, mut come: Vec<(ClaimKey, Claim)>) {
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
        self.registrations.claims.insert_alone(key, claim);
        let Some(listed) = listed else { return };
        self.note((service, listed.provider.id.clone()), None, Some(listed));
    }

    /// Notes how what nodes register of an instance changes, to be listed when the revision is complete.
    fn note(&mut self, (service, id): ListedKey, was: Option<Listed>, is: Option<Listed>) {
        let changes = self.pending.entry(service).or_default();
        changes.entry(id).or_insert(Change { before: was.map(Box::new), after: None }).after = is;
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
