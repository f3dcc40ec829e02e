//! Shadows: where variants are held, so that no application is listed beside them as the same process.

use std::sync::Arc;

use imbl::OrdSet;

use super::claims::place_of;
use crate::guard::{Rank, Vanished};
use crate::model::Endpoint;

/// A clone shares as much as possible with the original.
#[derive(Clone, Debug, Default)]
pub(super) struct Shadows(OrdSet<Shadow>);

/// The service, where: an address or a [place](place_of), the rank, and the id of what is held.
type Shadow = (Arc<str>, Arc<str>, Rank, Arc<str>);

impl Shadows {
    /// The address and the place of something held; None: it is itself an application, or nowhere.
    pub(super) fn cast_by(vanished: &Vanished) -> Option<(Arc<str>, Option<Arc<str>>)> {
        let first = vanished.instance.endpoints.first().filter(|_| !vanished.rank.is_application);
        let address = first.map(Endpoint::address)?;
        Some((address.into(), place_of(&vanished.instance)))
    }

    pub(super) fn set(&mut self, service: &Arc<str>, vanished: &Vanished, is_held: bool) {
        let Some((address, place)) = Self::cast_by(vanished) else { return };
        for spot in [Some(address), place].into_iter().flatten() {
            let shadow = (service.clone(), spot, vanished.rank, vanished.id.clone());
            match is_held {
                true => drop(self.0.insert(shadow)),
                false => drop(self.0.remove(&shadow)),
            }
        }
    }

    /// Whether an application of this rank, with this id, is not listed somewhere, since it is held there as a variant.
    /// Of its own root, what it says of the variant without a name is heard, which has its id; and of any, that it is
    /// idle.
    pub(super) fn hide(&self, service: &Arc<str>, spot: &Arc<str>, rank: Rank, is_idle: bool, id: &str) -> bool {
        let mut earlier = self.at(service, spot).take_while(|(of, _)| *of < rank);
        earlier.any(|(of, held)| of.root < rank.root || !is_idle && **held != *id)
    }

    /// What is held at an address for this root or a later one.
    pub(super) fn from(&self, service: &Arc<str>, address: &Arc<str>, root: usize) -> Vec<Arc<str>> {
        let of_root = self.at(service, address).filter(|(rank, _)| rank.root >= root);
        of_root.map(|(_, id)| id.clone()).collect()
    }

    fn at(&self, service: &Arc<str>, spot: &Arc<str>) -> impl Iterator<Item = (Rank, &Arc<str>)> {
        let from = (service.clone(), spot.clone(), Rank::default(), "".into());
        let at = self.0.range(from..).take_while(move |(of, at, ..)| of == service && at == spot);
        at.map(|(_, _, rank, id)| (*rank, id))
    }
}
