//! Returning masters: those that were known before a restart, until they have come back.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::Master;

#[derive(Debug, Default)]
pub(super) struct Returning(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The ids of those that have not come back.
    expected: HashSet<String>,
    /// The same ids, and others, by what the masters were like.
    by_likeness: HashMap<Likeness, Vec<String>>,
    /// The ids of those that have taken the place of another.
    placed: HashSet<String>,
}

/// What tells a master that has no id of its own from others: its host, and the names and versions that it offers.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Likeness {
    host: String,
    services: Vec<(String, String)>,
}

impl Returning {
    pub(super) fn expect<'a>(&self, masters: impl Iterator<Item = &'a Master>) {
        let mut state = self.state();
        for master in masters {
            state.expected.insert(master.id.clone());
            state.by_likeness.entry(Likeness::of(master)).or_default().push(master.id.clone());
        }
    }

    pub(super) fn count(&self) -> usize {
        self.state().expected.len()
    }

    /// A master is there: the other id by which it was known before, if it has another one now.
    pub(super) fn come_back(&self, master: &Master) -> Option<String> {
        let mut state = self.state();
        if state.expected.is_empty() || state.placed.contains(&master.id) {
            return None;
        }
        let place = if state.expected.remove(&master.id) { None } else { Some(state.place_of(master)?) };
        state.placed.insert(master.id.clone());
        place
    }

    /// Nobody is waited for any more.
    pub(super) fn give_up(&self) {
        *self.state() = State::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn place_of(&mut self, master: &Master) -> Option<String> {
        let alike = self.by_likeness.get_mut(&Likeness::of(master))?;
        while let Some(id) = alike.pop() {
            if self.expected.remove(&id) {
                return Some(id);
            }
        }
        None
    }
}

impl Likeness {
    fn of(master: &Master) -> Self {
        let host = master.address.rsplit_once(':').map_or(master.address.as_str(), |(host, _)| host).to_owned();
        let service = |it: &crate::model::Service| (it.base_name().to_owned(), it.version().to_string());
        let mut services: Vec<_> = master.services.iter().map(service).collect();
        services.sort_unstable();
        Self { host, services }
    }
}

#[cfg(test)]
mod tests {
    use rmpv::Value;

    use super::*;
    use crate::model::Service;

    fn master(id: &str, address: &str, services: &[&str]) -> Master {
        let service = |name: &&str| Service { name: (*name).to_owned(), metadata: Value::Map(Vec::new()) };
        let services = services.iter().map(service).collect();
        Master { id: id.into(), address: address.into(), connected_at: 0, services }
    }

    #[test]
    fn a_master_takes_the_place_that_it_had_or_one_of_its_like() {
        let returning = Returning::default();
        let known = [
            master("own", "10.0.0.1:5", &["mail"]),
            master("old-1", "10.0.0.1:6", &["mail", "log@v2"]),
            master("old-2", "10.0.0.1:7", &["mail", "log@v2"]),
        ];
        returning.expect(known.iter());
        let comes_back = |id, address, services: &[&str]| returning.come_back(&master(id, address, services));
        assert_eq!(comes_back("new-1", "10.0.0.2:6", &["log@2.0.0", "mail"]), None, "it is on another host");
        assert_eq!(comes_back("new-2", "10.0.0.1:9", &["log@2.0.0", "mail"]).as_deref(), Some("old-2"));
        assert_eq!(comes_back("new-2", "10.0.0.1:9", &["mail"]), None, "it has its place");
        assert_eq!(comes_back("own", "10.0.0.1:9", &["mail"]), None);
        assert_eq!(comes_back("new-3", "10.0.0.1:9", &["mail"]), None, "that place is taken");
        assert_eq!(returning.count(), 1);
        returning.give_up();
        assert_eq!(returning.count(), 0);
    }
}
