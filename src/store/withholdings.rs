//! Withholdings: which instances of each service are not to be chosen, by address; drained ones also by host.

use std::sync::Arc;

use imbl::OrdMap;

use super::instances::{InstanceSet, Provider, key_hash};
use crate::model::{Instance, Withheld, Withholding};

/// By service and target. A clone shares as much as possible with the original.
#[derive(Clone, Debug, Default)]
pub struct Withholdings {
    ejected: OrdMap<Arc<str>, Targets>,
    drained: OrdMap<Arc<str>, Targets>,
}

type Targets = OrdMap<Arc<str>, Arc<Withholding>>;

/// A target of a service that is withheld from now on; or no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withhold {
    pub service: Arc<str>,
    /// The address of an instance ([`Instance::address`]), or a host, all of whose instances are drained.
    pub target: Arc<str>,
    pub kind: WithholdKind,
    /// None: no longer.
    pub withholding: Option<Arc<Withholding>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithholdKind {
    Ejected,
    Drained,
}

impl Withholdings {
    pub fn ejected(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, &Arc<Withholding>)> {
        all(&self.ejected)
    }

    pub fn drained(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, &Arc<Withholding>)> {
        all(&self.drained)
    }

    /// Returns whether this changes anything.
    pub(super) fn take(&mut self, Withhold { service, target, kind, withholding }: &Withhold) -> bool {
        let services = match kind {
            WithholdKind::Ejected => &mut self.ejected,
            WithholdKind::Drained => &mut self.drained,
        };
        let mut targets = services.get(service).cloned().unwrap_or_default();
        let old = match withholding {
            Some(new) => targets.insert(target.clone(), new.clone()),
            None => targets.remove(target),
        };
        if old == *withholding {
            return false;
        }
        match targets.is_empty() {
            true => services.remove(service),
            false => services.insert(service.clone(), targets),
        };
        true
    }

    /// The given instances, with what is withheld of them.
    fn applied(&self, instances: Arc<[Instance]>) -> Arc<[Instance]> {
        let is_any = !self.ejected.is_empty() || !self.drained.is_empty();
        if !is_any && !instances.iter().any(|instance| instance.withheld.is_withheld()) {
            return instances;
        }
        let withheld: Vec<Withheld> = instances.iter().map(|instance| self.of(instance)).collect();
        if instances.iter().zip(&withheld).all(|(instance, withheld)| instance.withheld == *withheld) {
            return instances;
        }
        let of = |(instance, withheld): (&Instance, _)| Instance { withheld, ..instance.clone() };
        instances.iter().zip(withheld).map(of).collect()
    }

    /// A provider, with what is withheld of its instances.
    pub(super) fn applied_to(&self, provider: Provider) -> Provider {
        let instances = self.applied(provider.instances.clone());
        if Arc::ptr_eq(&instances, &provider.instances) { provider } else { Provider::new(provider.id, instances) }
    }

    /// The providers of a set that match a target, with what is withheld of them now.
    pub(super) fn affected(&self, set: &InstanceSet, target: &str) -> Vec<Provider> {
        let hash = key_hash(target);
        let is_meant = |provider: &&Provider| {
            provider.address_hash == hash || provider.instances.first().is_some_and(|it| host(it) == Some(target))
        };
        let affected = set.unordered().filter(is_meant).filter_map(|provider| {
            let instances = self.applied(provider.instances.clone());
            let is_other = !Arc::ptr_eq(&instances, &provider.instances);
            is_other.then(|| Provider::new(provider.id.clone(), instances))
        });
        affected.collect()
    }

    fn of(&self, instance: &Instance) -> Withheld {
        let (ejected, drained) = (self.ejected.get(&instance.service), self.drained.get(&instance.service));
        if ejected.is_none() && drained.is_none() {
            return Withheld::default();
        }
        let address = instance.address();
        let by_host = drained.zip(host(instance)).and_then(|(targets, host)| targets.get(host));
        let by_address = drained.and_then(|targets| targets.get(&*address));
        Withheld {
            ejected: ejected.and_then(|targets| targets.get(&*address)).cloned(),
            drained: by_address.into_iter().chain(by_host).max_by_key(|it| it.ends_at).cloned(),
        }
    }
}

fn all(services: &OrdMap<Arc<str>, Targets>) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, &Arc<Withholding>)> {
    services.iter().flat_map(|(service, targets)| targets.iter().map(move |(target, it)| (service, target, it)))
}

/// Whether this target of a drain matches the instance.
pub fn is_meant(instance: &Instance, target: &str) -> bool {
    host(instance) == Some(target) || instance.address() == target
}

/// The host of an instance that clients call directly.
fn host(instance: &Instance) -> Option<&str> {
    instance.endpoint().filter(|_| instance.master().is_none()).map(|endpoint| &*endpoint.host)
}
