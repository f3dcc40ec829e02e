//! Applications as the interfaces that they offer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use semver::Version;

use super::deferred::{Of, Scan};
use super::reader::Reader;
use super::{InstanceNode, Registration};
use crate::format::{Config, Undecodable};
use crate::guard::Rank;
use crate::model::{Endpoint, Format, Instance, Metadata, NodePath, Withheld};
use crate::store::directory::Directory;
use crate::store::directory::claims::{Claim, ClaimKey, place};
use crate::store::directory::mappings::Interface;

/// As how many instances of interfaces one node may count.
pub(super) const MAX_OF_INTERFACES: usize = 1_024;

/// The path of a node is in the shared file with each of these; each further such length counts as another one.
const MAX_SHORT_PATH_BYTES: usize = 256;

/// Interfaces that were added to or removed from what an application offers.
pub(super) type Offers = BTreeMap<Arc<str>, BTreeSet<Arc<str>>>;

impl Directory {
    /// Lists instances of applications as interfaces that these now offer, and no longer as those that they do not. Returns
    /// where those are for which there is no room now.
    pub(super) fn offer(&mut self, reader: &mut Reader<'_>, offers: &Offers, room: &mut usize) -> Vec<Scan> {
        let mut later = Vec::new();
        let configs = reader.configs.iter().enumerate();
        for (number, config) in configs.filter(|(_, config)| config.format == Format::DubboApplication) {
            for (application, interfaces) in offers {
                let below = config.root.child(application);
                let range = self.registrations.nodes.range(below.clone()..);
                let range = range.take_while(|(path, _)| path.is_under(&below));
                let all: Vec<_> = range.take((*room / interfaces.len()).saturating_add(1)).collect();
                let Some(left) = room.checked_sub(all.len() * interfaces.len()) else {
                    later.push(Scan { feed: reader.by.feed, number, of: Of::Parent(below) });
                    continue;
                };
                *room = left;
                let nodes = all.into_iter().filter_map(|(path, registration)| match registration {
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
        later
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
}

/// Where an instance can be reached, each address once.
pub(super) fn spots(instance: &Instance) -> Vec<(Arc<str>, Arc<[Endpoint]>)> {
    let mut seen = BTreeSet::new();
    let spots = instance.endpoints.iter().map(|endpoint| (endpoint.address().into(), [endpoint.clone()].into()));
    spots.filter(|(address, _): &(Arc<str>, _)| seen.insert(address.clone())).collect()
}

/// How many instances one more interface counts as: one for each spot, and more if the path is long.
pub(super) fn charge_of_interface(spots: &[(Arc<str>, Arc<[Endpoint]>)], path: &NodePath) -> usize {
    (spots.len() * (1 + path.as_str().len() / MAX_SHORT_PATH_BYTES)).max(1)
}

/// An instance as these interfaces. It does not say in which group and version it offers one; its metadata are those of
/// the application.
pub(super) fn of_interfaces(
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
            metadata: Metadata::default(),
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

pub(super) fn keys_of_interfaces(
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
