//! Services that lose instances, step by step.

mod bounds;
mod deploys;
mod holds;
mod probes;
mod restarts;
mod roots;
mod strangers;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::model::{Held, Probe};

const MINUTE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(200);

/// Does what the store does with the guard: lists what is registered, plus what the guard returns.
struct House {
    guard: Guard,
    now: Now,
    registered: BTreeMap<String, BTreeSet<String>>,
    /// What is listed of each service, with its state if held.
    listed: BTreeMap<String, BTreeMap<String, Option<Held>>>,
    /// How often the listed ids of a service changed.
    changes: usize,
    /// Whether what comes is found when the registry is read for the first time.
    is_first_reading: bool,
    /// Whether roots as a whole are looked at, too.
    counts_roots: bool,
}

fn ids(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("10.0.0.{number}:80")).collect()
}

/// Others, below the root of this rank.
fn ids_below(root: usize, range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("192.168.{root}.{number}:80")).collect()
}

/// At the end of the ids of what an application offers.
const APPLICATION: &str = "?application";

/// The same, as what an application offers.
fn of_application(ids: Vec<String>) -> Vec<String> {
    ids.into_iter().map(|id| id + APPLICATION).collect()
}

/// The rank with which an id is registered.
fn rank(id: &str) -> Rank {
    let below = id.strip_prefix("192.168.").and_then(|rest| rest.split('.').next());
    let below = id.split_once("?root=").map(|(_, root)| root).or(below);
    let root = below.and_then(|root| root.parse().ok()).unwrap_or(0);
    Rank { root, is_application: id.ends_with(APPLICATION) }
}

/// The address of an id, which may have a variant after it.
fn address(id: &str) -> &str {
    id.split('?').next().unwrap_or(id)
}

/// An instance with this id that is registered no more.
fn vanished_from(service: &str, id: &str) -> Vanished {
    let (instance, version) = (Instance::at(service, address(id)), Version::new(1, 0, 0));
    let (id, variant, rank) = (id.into(), "".into(), rank(id));
    Vanished { id, version, instance, variant, rank, decided_by: None, is_lost: false }
}

/// The small service of an instance with this number.
fn small(number: usize) -> String {
    format!("small-{}", number / 3)
}

impl House {
    fn new() -> Self {
        Self::of(Config::default())
    }

    fn of(config: Config) -> Self {
        Self::shared_by(1, config)
    }

    /// One whose room is shared by this many roots.
    fn shared_by(roots: usize, config: Config) -> Self {
        // So long ago that it would have seen whatever left before.
        let begin = Moment::default() + MINUTE * 60;
        let now = Now { moment: begin + config.window, wall: 1_700_000_000_000 };
        let (registered, listed) = (BTreeMap::new(), BTreeMap::new());
        Self {
            guard: Guard::new(config, roots, begin),
            now,
            registered,
            listed,
            changes: 0,
            is_first_reading: false,
            counts_roots: false,
        }
    }

    /// One that looks at roots as a whole, and that has had this many services of three instances each for long, with
    /// consecutive ids, and others.
    fn of_small_services(config: Config, count: usize, others: &[(&str, Vec<String>)]) -> Self {
        let mut house = Self::of(config);
        (house.is_first_reading, house.counts_roots) = (true, true);
        (0..count * 3).for_each(|number| house.come(&small(number), &ids(number..number + 1)));
        others.iter().for_each(|(service, ids)| house.come(service, ids));
        house.is_first_reading = false;
        house
    }

    fn with(service: &str, count: usize) -> Self {
        let mut house = Self::new();
        house.is_first_reading = true;
        house.come(service, &ids(0..count));
        (house.is_first_reading, house.changes) = (false, 0);
        house
    }

    fn come(&mut self, service: &str, ids: &[String]) {
        self.revision(&[(service, &[], ids)], false);
    }

    fn go(&mut self, service: &str, ids: &[String]) {
        self.revision(&[(service, ids, &[])], false);
    }

    /// What vanished from each service, and what appeared.
    fn revision(&mut self, changes: &[(&str, &[String], &[String])], is_lost: bool) {
        let mut batch = HashMap::new();
        for (service, gone, came) in changes {
            let registered = self.registered.entry((*service).into()).or_default();
            let vanished = gone.iter().filter(|id| registered.remove(*id));
            let vanished: Vec<_> = vanished.map(|id| Vanished { is_lost, ..vanished_from(service, id) }).collect();
            let came = came.iter().filter(|id| registered.insert((*id).clone()));
            let came = came.map(|id| Came {
                id: id.as_str().into(),
                version: Version::new(1, 0, 0),
                address: address(id).into(),
                rank: rank(id),
                is_new: !self.is_first_reading,
            });
            let came: Vec<_> = came.collect();
            let ranks = vanished.iter().map(|it| it.rank).chain(came.iter().map(|it| it.rank));
            let ranks: BTreeSet<Rank> = ranks.flat_map(|rank| Rank::both_of_root(rank.root)).collect();
            let of_rank = |of: Rank| OfRank {
                present: registered.iter().filter(|id| rank(id) == of).count(),
                came: came.iter().filter(|it| it.rank == of).count(),
                moved: 0,
            };
            let ranks = ranks.into_iter().map(|rank| (rank, of_rank(rank))).collect();
            let observed = Observed { vanished, moved: Vec::new(), came, ranks };
            for came in &observed.came {
                self.listed.entry((*service).into()).or_default().insert(came.id.to_string(), None);
            }
            batch.insert(Arc::from(*service), observed);
        }
        let before = self.served();
        let lossy = batch.values().flat_map(|it| &it.vanished).map(|it| it.rank.root).filter(|_| self.counts_roots);
        let of_root = |of: usize| self.registered.values().flatten().filter(|id| rank(id).root == of).count();
        let registered = lossy.map(|root| (root, of_root(root))).collect();
        let (effects, _) = self.guard.observe(self.now, batch, &registered);
        self.take(effects);
        self.changes += usize::from(self.served() != before);
        for (service, ids) in &self.registered {
            assert!(ids.iter().all(|id| self.listed[service].get(id) == Some(&None)), "what is registered is listed");
        }
    }

    fn take(&mut self, effects: Vec<Effect>) {
        effects.into_iter().for_each(|effect| self.list(effect));
        let held = self.listed.values().flat_map(BTreeMap::values).flatten().count();
        assert_eq!(self.guard.count_of_held(), held);
    }

    fn list(&mut self, Effect { service, id, instance, .. }: Effect) {
        let listed = self.listed.entry(service.to_string()).or_default();
        match instance {
            Some(instance) => listed.insert(id.to_string(), instance.held.map(|held| *held)),
            None => listed.remove(&*id),
        };
    }

    fn served(&self) -> Vec<(String, Vec<String>)> {
        self.listed.iter().map(|(service, ids)| (service.clone(), ids.keys().cloned().collect())).collect()
    }

    fn probed(&mut self, addresses: &[String], found: Found) {
        let found: Vec<_> = addresses.iter().map(|address| (address.as_str().into(), found)).collect();
        let effects = self.guard.probed(&found);
        self.take(effects);
    }

    fn pass(&mut self, time: Duration) {
        self.now.moment = self.now.moment + time;
        self.now.wall += time.as_millis() as u64;
        let is_due = self.guard.is_due(self.now);
        let effects = self.guard.pass(self.now);
        assert!(is_due || effects.is_empty());
        self.take(effects);
        assert!(!self.guard.is_due(self.now));
    }

    /// How many of a service are listed, and how many of them are held.
    fn count(&self, service: &str) -> (usize, usize) {
        let Some(listed) = self.listed.get(service) else { return (0, 0) };
        (listed.len(), listed.values().flatten().count())
    }

    /// Starts a new sidecar, which finds what is registered and what the earlier one held.
    fn restart(&mut self) {
        self.guard = Guard::new(self.guard.config().clone(), 1, self.now.moment);
        let all = self.listed.clone();
        for (service, ids) in all {
            let registered = &self.registered[&service];
            let left = |(id, held): (&String, &Option<Held>)| {
                let instance = Instance { held: Some(held.clone()?.into()), ..Instance::at(&service, address(id)) };
                Some(Left { id: id.as_str().into(), instance, rank: rank(id) })
            };
            let mut left: Vec<_> = ids.iter().filter_map(left).collect();
            // A file has them in another order.
            fastrand::shuffle(&mut left);
            let roots: BTreeSet<usize> = left.iter().map(|it| it.rank.root).collect();
            let mut present: BTreeMap<Rank, usize> = BTreeMap::new();
            for rank in registered.iter().map(|id| rank(id)).filter(|rank| roots.contains(&rank.root)) {
                *present.entry(rank).or_default() += 1;
            }
            let effects = self.guard.restore(self.now, &service.as_str().into(), left, present);
            self.listed.entry(service).and_modify(|ids| ids.retain(|_, held| held.is_none()));
            effects.into_iter().for_each(|effect| self.list(effect));
        }
    }

    fn marks(&self, service: &str) -> Vec<(Probe, bool)> {
        self.listed[service].values().flatten().map(|held| (held.probe, held.passed_over)).collect()
    }

    fn addresses(&self) -> Vec<String> {
        self.guard.targets().map(|(address, ..)| address.to_string()).collect()
    }
}
