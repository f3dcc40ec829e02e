//! Returning masters: those known from before a restart, until they are back.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ids;
use crate::model::Master;

#[derive(Debug, Default)]
pub(super) struct Returning(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The ids of those that are not back yet.
    expected: HashSet<String>,
    /// The generated ids among them, by likeness.
    by_likeness: HashMap<Likeness, Vec<String>>,
    /// The ids of those that replaced another.
    placed: HashSet<String>,
}

/// What distinguishes a master with a generated id from others: its host, or its user over a Unix socket, and the names
/// and versions that it offers.
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
            if let Some(likeness) = Likeness::of(master) {
                state.by_likeness.entry(likeness).or_default().push(master.id.clone());
            }
        }
    }

    /// A master has connected; returns the id by which it was known before, if that has changed.
    pub(super) fn come_back(&self, master: &Master) -> Option<String> {
        let mut state = self.state();
        if state.expected.is_empty() || state.placed.contains(&master.id) {
            return None;
        }
        let place = if state.expected.remove(&master.id) { None } else { Some(state.place_of(master)?) };
        state.placed.insert(master.id.clone());
        place
    }

    /// Stops waiting for any.
    pub(super) fn give_up(&self) {
        *self.state() = State::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn place_of(&mut self, master: &Master) -> Option<String> {
        let alike = self.by_likeness.get_mut(&Likeness::of(master)?)?;
        while let Some(id) = alike.pop() {
            if self.expected.remove(&id) {
                return Some(id);
            }
        }
        None
    }
}

impl Likeness {
    /// None: it has an id of its own, by which it comes back.
    fn of(master: &Master) -> Option<Self> {
        if !ids::is_made(&master.id) {
            return None;
        }
        let port = |port: &str| port.parse::<u16>().is_ok();
        let peer = &*master.peer_address;
        let host = peer.rsplit_once(':').filter(|(_, end)| port(end)).map_or(peer, |(host, _)| host);
        let service = |it: &crate::model::Service| (it.base_name().to_owned(), it.version().to_string());
        let mut services: Vec<_> = master.services.iter().map(service).collect();
        services.sort_unstable();
        Some(Self { host: host.to_owned(), services })
    }
}

#[cfg(test)]
mod tests {
    use rmpv::Value;

    use super::*;
    use crate::model::Service;

    fn master(id: &str, address: &str, services: &[&str]) -> Master {
        let service = |name: &&str| Service { name: (*name).to_owned(), metadata: Value::Map(Vec::new()).into() };
        let services = services.iter().map(service).collect();
        Master { id: id.into(), peer_address: address.into(), connected_at: 0, services }
    }

    /// An id as the register generates them.
    fn made(number: u32) -> String {
        ids::made("0123abcd", number)
    }

    fn expecting(known: &[Master]) -> Returning {
        let returning = Returning::default();
        returning.expect(known.iter());
        returning
    }

    #[test]
    fn a_master_takes_the_place_that_it_had_or_one_of_its_like() {
        let returning = expecting(&[
            master("own", "10.0.0.1:5", &["mail"]),
            master(&made(1), "10.0.0.1:6", &["mail", "log@v2"]),
            master(&made(2), "10.0.0.1:7", &["mail", "log@v2"]),
        ]);
        let comes_back = |id: &str, address, services: &[&str]| returning.come_back(&master(id, address, services));
        assert_eq!(comes_back(&made(11), "10.0.0.2:6", &["log@2.0.0", "mail"]), None, "it is on another host");
        assert_eq!(comes_back(&made(12), "10.0.0.1:9", &["log@2.0.0", "mail"]), Some(made(2)));
        assert_eq!(comes_back(&made(12), "10.0.0.1:9", &["mail"]), None, "it has its place");
        assert_eq!(comes_back("own", "10.0.0.1:9", &["mail"]), None);
        assert_eq!(comes_back(&made(13), "10.0.0.1:9", &["log@2.0.0", "mail"]), Some(made(1)));
        assert_eq!(comes_back(&made(14), "10.0.0.1:9", &["log@2.0.0", "mail"]), None, "all places are taken");
    }

    #[test]
    fn a_master_with_an_id_of_its_own_neither_loses_its_place_nor_takes_that_of_another() {
        let returning = expecting(&[master("own", "10.0.0.1:5", &["mail"]), master(&made(1), "10.0.0.1:6", &["mail"])]);
        let comes_back = |id: &str| returning.come_back(&master(id, "10.0.0.1:9", &["mail"]));
        assert_eq!(comes_back("another"), None);
        assert_eq!(comes_back(&made(2)), Some(made(1)));
        assert_eq!(comes_back(&made(3)), None, "`own` comes back by its id alone");
        assert!(returning.state().expected.contains("own"));
    }

    #[test]
    fn over_a_unix_socket_no_user_takes_the_place_of_another() {
        let returning = expecting(&[master(&made(1), "unix:uid=1000", &["mail"])]);
        let comes_back = |id: &str, address| returning.come_back(&master(id, address, &["mail"]));
        assert_eq!(comes_back(&made(2), "unix:uid=1001"), None);
        assert_eq!(
            comes_back(&"f".repeat(32), "unix:uid=1000"),
            Some(made(1)),
            "a process of PHP has an id made for it"
        );
    }
}
