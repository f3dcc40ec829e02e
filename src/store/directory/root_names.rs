//! Root names: which root offered a service first, so that it is reported when another one begins to.

use std::sync::Arc;

use imbl::OrdMap;

/// How many services are remembered, and how many are reported.
const MAX_REMEMBERED: usize = 65_536;
const MAX_REPORTED: usize = 100;

/// The rank of the root that offered a service first; None: another one has, too.
#[derive(Clone, Debug, Default)]
pub(super) struct RootNames {
    first: OrdMap<Arc<str>, Option<usize>>,
    /// What was asked about last: most nodes are of the same service as the one before them.
    last: Option<(Arc<str>, usize)>,
    reported: usize,
}

impl RootNames {
    /// Whether it is to be reported that the root of this rank offers a service: once, if another was the first.
    pub(super) fn is_second(&mut self, service: &Arc<str>, rank: usize) -> bool {
        if self.last.as_ref().is_some_and(|(last, of)| Arc::ptr_eq(last, service) && *of == rank) {
            return false;
        }
        self.last = Some((service.clone(), rank));
        match self.first.get(service) {
            None if self.first.len() < MAX_REMEMBERED => drop(self.first.insert(service.clone(), Some(rank))),
            Some(Some(first)) if *first != rank && self.reported < MAX_REPORTED => {
                self.first.insert(service.clone(), None);
                self.reported += 1;
                return true;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_root_of_a_service_is_reported_once_and_only_so_many_are() {
        let (mut names, mail) = (RootNames::default(), "mail".into());
        let reported: Vec<_> = [3, 3, 0, 0, 3].map(|rank| names.is_second(&mail, rank)).into();
        assert_eq!(reported, [false, false, true, false, false]);
        let services: Vec<Arc<str>> = (0..MAX_REMEMBERED + 9).map(|number| number.to_string().into()).collect();
        let both = |service| [0, 1].map(|rank| names.is_second(service, rank))[1];
        assert_eq!(services.iter().map(both).filter(|is_second| *is_second).count(), MAX_REPORTED - 1);
        assert_eq!(names.first.len(), MAX_REMEMBERED);
    }
}
