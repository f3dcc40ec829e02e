//! Offers: the masters that offer one service.

use std::sync::Arc;

use imbl::{OrdMap, Vector};
use semver::Version;

/// By version, the masters that offer a service; at least one.
pub type Offers = OrdMap<Version, Offering>;

/// Masters by their ids. Each has a number below `len`, so that one can be chosen; and one that comes or goes moves at
/// most one other, however many there are.
#[derive(Clone, Debug, Default)]
pub struct Offering {
    numbers: OrdMap<Arc<str>, usize>,
    ids: Vector<Arc<str>>,
}

impl Offering {
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// All, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.numbers.keys()
    }

    /// The one with this number.
    pub fn get(&self, number: usize) -> Option<&Arc<str>> {
        self.ids.get(number)
    }

    pub(super) fn insert(&mut self, id: &Arc<str>) {
        if !self.numbers.contains_key(id) {
            self.numbers.insert(id.clone(), self.ids.len());
            self.ids.push_back(id.clone());
        }
    }

    /// The last one takes its number.
    pub(super) fn remove(&mut self, id: &str) {
        let Some(number) = self.numbers.remove(id) else { return };
        if let Some(last) = self.ids.pop_back()
            && number < self.ids.len()
        {
            self.numbers.insert(last.clone(), number);
            self.ids.set(number, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_and_goes_each_has_one_number() {
        let (mut offering, mut expected) = (Offering::default(), std::collections::BTreeSet::new());
        for step in 0..1_000_usize {
            let id: Arc<str> = format!("{}", step * 7 % 40).into();
            if step % 3 == 0 {
                offering.remove(&id);
                expected.remove(&id);
            } else {
                offering.insert(&id);
                expected.insert(id);
            }
            assert!(offering.iter().eq(expected.iter()));
            let mut numbered: Vec<_> = (0..offering.len()).map_while(|number| offering.get(number)).collect();
            numbered.sort();
            assert!(numbered.into_iter().eq(expected.iter()));
        }
    }
}
