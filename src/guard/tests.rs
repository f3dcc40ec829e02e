//! Services that lose instances, step by step.

mod deploys;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::model::{AfterBoot, Held, Probe};

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
}

fn ids(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("10.0.0.{number}:80")).collect()
}

/// Others, below the root of this rank.
fn ids_below(root: usize, range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("192.168.{root}.{number}:80")).collect()
}

/// The rank with which an id is registered.
fn rank(id: &str) -> Rank {
    let below = id.strip_prefix("192.168.").and_then(|rest| rest.split('.').next());
    let below = id.split_once("?root=").map(|(_, root)| root).or(below);
    Rank::of_root(below.and_then(|root| root.parse().ok()).unwrap_or(0))
}

/// The address of an id, which may have a variant after it.
fn address(id: &str) -> &str {
    id.split('?').next().unwrap_or(id)
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
        Self { guard: Guard::new(config, roots, begin), now, registered, listed, changes: 0, is_first_reading: false }
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
            let vanished = gone.iter().filter(|id| registered.remove(*id)).map(|id| Vanished {
                id: id.as_str().into(),
                version: Version::new(1, 0, 0),
                instance: Instance::at(service, address(id)),
                variant: "".into(),
                rank: rank(id),
                mapped_by: None,
                is_lost,
            });
            let vanished: Vec<_> = vanished.collect();
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
            let ranks: BTreeSet<Rank> = ranks.collect();
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
        let effects = self.guard.observe(self.now, batch);
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
                let (held, rank_of_it) = (held.clone()?, rank(id));
                let instance = Instance { held: Some(held.into()), ..Instance::at(&service, address(id)) };
                let present = registered.iter().filter(|id| rank(id) == rank_of_it).count();
                Some(Left { id: id.as_str().into(), instance, rank: rank_of_it, present })
            };
            let mut left: Vec<_> = ids.iter().filter_map(left).collect();
            // A file has them in another order.
            fastrand::shuffle(&mut left);
            let effects = self.guard.restore(self.now, &service.as_str().into(), left);
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

#[test]
fn what_vanishes_alone_is_gone_at_once_and_what_vanishes_with_most_of_a_service_is_held() {
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..5));
    assert_eq!(house.count("web"), (5, 0), "a half is no more than a half");
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..6));
    assert_eq!(house.count("web"), (10, 6));
    assert_eq!(house.addresses(), ids(0..6));
    let held = house.listed["web"]["10.0.0.0:80"].clone().expect("it is held");
    assert_eq!((held.since, held.ends_at), (house.now.wall, house.now.wall + 600_000));
    let guarded: Vec<_> = house.guard.services(house.now, None).map(|it| it.held).collect();
    assert_eq!(guarded, [6]);
    house.come("web", &ids(0..3));
    assert_eq!(house.count("web"), (10, 3), "what comes back is held no longer");
    house.go("web", &ids(9..10));
    assert_eq!(house.count("web"), (9, 3), "most are there again");
    let mut small = House::with("db", 4);
    small.go("db", &ids(0..4));
    assert_eq!(small.count("db"), (0, 0), "few are no crowd");
}

#[test]
fn those_that_went_first_are_served_again_when_more_follow_within_the_window() {
    let mut house = House::with("web", 10);
    for (number, served) in [(0, (9, 0)), (1, (8, 0)), (2, (7, 0)), (3, (6, 0)), (4, (5, 0)), (5, (10, 6))] {
        house.go("web", &ids(number..number + 1));
        assert_eq!(house.count("web"), served);
        house.pass(Duration::from_secs(5));
    }
    let mut slow = House::with("web", 10);
    for number in 0..6 {
        slow.go("web", &ids(number..number + 1));
        slow.pass(MINUTE / 4);
    }
    assert_eq!(slow.count("web"), (4, 0), "within a minute it never lost more than half");
    slow.pass(MINUTE);
    assert!(slow.guard.is_idle());
}

#[test]
fn a_service_that_is_shut_down_is_gone_once_its_addresses_refuse_and_nothing_is_remembered() {
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..10));
    assert_eq!(house.count("web"), (10, 10));
    house.probed(&ids(0..7), Found::Refused);
    assert_eq!(house.count("web"), (3, 3));
    house.probed(&ids(7..10), Found::Refused);
    assert_eq!(house.count("web"), (0, 0));
    house.pass(MINUTE);
    assert!(house.guard.is_idle(), "{:?}", house.guard);
    house.come("web", &ids(0..3));
    house.go("web", &ids(0..2));
    assert_eq!(house.count("web"), (1, 0), "it begins anew");
}

#[test]
fn what_answers_is_kept_for_as_long_as_anything_and_no_longer() {
    let mut house = House::with("web", 5);
    house.go("web", &ids(0..5));
    house.probed(&ids(0..5), Found::Answering);
    assert_eq!(house.marks("web"), [(Probe::Answering, false); 5]);
    house.pass(MINUTE * 10 - Duration::from_millis(1));
    assert_eq!(house.count("web"), (5, 5));
    house.pass(Duration::from_millis(1));
    assert_eq!(house.count("web"), (0, 0));
    house.pass(MINUTE);
    assert!(house.guard.is_idle());
}

#[test]
fn a_rolling_deploy_holds_nothing() {
    let mut in_place = House::with("web", 10);
    for number in (0..10).cycle().take(100) {
        in_place.go("web", &ids(number..number + 1));
        in_place.pass(Duration::from_secs(2));
        assert_eq!(in_place.count("web"), (9, 0));
        in_place.come("web", &ids(number..number + 1));
        in_place.pass(Duration::from_secs(1));
    }
    let mut elsewhere = House::with("web", 10);
    for number in 0..200 {
        elsewhere.come("web", &ids(number + 10..number + 11));
        elsewhere.pass(STEP);
        elsewhere.go("web", &ids(number..number + 1));
        elsewhere.pass(STEP);
        assert_eq!(elsewhere.count("web"), (10, 0));
    }
    let mut at_once = House::with("web", 10);
    at_once.come("web", &ids(10..20));
    at_once.go("web", &ids(0..10));
    assert_eq!(at_once.count("web"), (10, 0));
}

#[test]
fn a_service_that_flaps_is_served_as_if_it_did_not() {
    for (went_before, most) in [(0, 0), (4, 2)] {
        let mut house = House::with("web", 10);
        for number in 0..went_before {
            house.go("web", &ids(number..number + 1));
        }
        house.changes = usize::from(went_before > 0);
        for _ in 0..25 {
            house.go("web", &ids(0..10));
            house.pass(STEP);
            assert_eq!(house.count("web"), (10, 10));
            house.come("web", &ids(0..10));
            house.pass(STEP);
            assert_eq!(house.count("web"), (10, 0));
        }
        assert!(house.changes <= most, "{}", house.changes);
    }
}

#[test]
fn what_has_no_port_is_probed_by_nobody_and_ends_with_its_time() {
    let mut house = House::new();
    house.come("web", &ids(0..5));
    let no_port = |id: &str| {
        let mut instance = Instance::at("web", id);
        let endpoint = crate::model::Endpoint { port: 0, ..instance.endpoints[0].clone() };
        instance.endpoints = [endpoint].into();
        let (id, version, variant) = (id.into(), Version::new(1, 0, 0), "".into());
        Vanished { id, version, instance, variant, rank: Rank::of_root(0), mapped_by: None, is_lost: false }
    };
    let vanished = ids(0..5).iter().map(|id| no_port(id)).collect();
    let observed = Observed { vanished, ..Observed::default() };
    let effects = house.guard.observe(house.now, HashMap::from([("web".into(), observed)]));
    house.take(effects);
    assert_eq!((house.count("web"), house.addresses().len()), ((5, 5), 0));
    house.pass(MINUTE * 10);
    assert_eq!(house.count("web"), (0, 0));
}

#[test]
fn what_is_registered_otherwise_at_its_address_has_half_a_minute_to_come_back() {
    let mut house = House::with("web", 5);
    house.go("web", &ids(0..5));
    house.come("web2", &ids(0..2));
    house.pass(DOUBT - STEP);
    house.come("web", &ids(1..2));
    house.pass(STEP);
    assert_eq!(house.count("web"), (4, 3), "one is gone, one is back, and the others are held");
    assert_eq!(house.count("web2"), (2, 0));
    assert!(!house.listed["web"].contains_key("10.0.0.0:80"));
}

#[test]
fn a_service_that_comes_back_casts_no_doubt_on_others_that_were_at_its_addresses() {
    let mut house = House::new();
    for service in ["a", "b"] {
        house.come(service, &ids(0..5));
    }
    house.revision(&[("a", &ids(0..5), &[]), ("b", &ids(0..5), &[])], false);
    house.restart();
    house.come("a", &ids(0..5));
    house.pass(DOUBT + STEP);
    assert_eq!((house.count("a"), house.count("b")), ((5, 0), (5, 5)));
    house.come("c", &ids(0..2));
    house.pass(DOUBT);
    assert_eq!(house.count("b"), (5, 5), "c may have been there");
    house.probed(&ids(0..1), Found::Refused);
    assert_eq!(house.count("b"), (4, 4));
}

#[test]
fn who_may_have_left_an_address_unseen_is_no_stranger_there() {
    for (case, believed) in
        [("all is known", true), ("a restart", false), ("a restart before", false), ("no room", false)]
    {
        let mut house = House::of(Config { max_held: 20, ..Config::default() });
        house.come("b", &ids(0..10));
        house.come("a", &ids(0..4));
        for number in (100..120).step_by(4).filter(|_| case == "no room") {
            house.come(&format!("x{number}"), &ids(number..number + 4));
            house.go(&format!("x{number}"), &ids(number..number + 4));
        }
        if !believed {
            house.go("a", &ids(0..4));
        }
        if case == "a restart before" {
            house.restart();
        }
        house.go("b", &ids(0..10));
        if case == "a restart" {
            house.restart();
        }
        if believed {
            house.go("a", &ids(0..4));
            house.come("x", &ids(0..4));
        }
        house.pass(MINUTE);
        house.come("a", &ids(0..4));
        house.pass(DOUBT + STEP);
        assert_eq!(house.count("b").1, if believed { 6 } else { 10 }, "{case}");
    }
}

#[test]
fn how_long_names_are_makes_no_difference_to_what_is_remembered_of_them() {
    let mut house = House::new();
    let long = format!("{}:80", "x".repeat(16 << 10));
    let name: Arc<str> = long.as_str().into();
    let vanished = Vanished {
        id: name.clone(),
        version: Version::new(1, 0, 0),
        instance: Instance::at("web", &long),
        variant: "".into(),
        rank: Rank::of_root(0),
        mapped_by: None,
        is_lost: false,
    };
    let gone = vec![Effect { service: name.clone(), version: Version::new(1, 0, 0), id: name.clone(), instance: None }];
    house.guard.note(&gone, "it refused");
    let observed = Observed { moved: vec![(name.clone(), name.clone(), Rank::default())], ..Observed::default() };
    house.guard.observe(house.now, HashMap::from([(name.clone(), observed)]));
    drop((vanished, gone));
    assert_eq!((house.guard.strangers.len(), house.guard.let_go.len()), (1, 1));
    assert_eq!(Arc::strong_count(&name), 1, "none of them is kept");
}

#[test]
fn a_record_of_what_is_held_ends_by_the_clock_that_nobody_sets_or_once_the_other_is_settled() {
    const HOURS: u64 = 7_200_000;
    let restored = |boot: &str, uptime: Duration, ahead: u64| {
        let mut house = House::with("web", 10);
        house.go("web", &ids(0..10));
        house.pass(MINUTE);
        if !boot.is_empty() {
            let held = house.listed.values_mut().flat_map(BTreeMap::values_mut).flatten();
            held.for_each(|held| held.after_boot = Some(AfterBoot { boot: boot.into(), ..AfterBoot::default() }));
            house.now.moment = Moment::default() + uptime;
        }
        house.now.wall += ahead;
        house.restart();
        house.pass(MINUTE * 9 - STEP);
        let count = house.count("web").1;
        house.pass(MINUTE + STEP);
        (count, house.count("web").1)
    };
    assert_eq!(restored("", MINUTE, HOURS), (10, 0), "in the same boot nothing but the clock was set");
    assert_eq!(restored("another", MINUTE, HOURS), (10, 0), "the clock may be wrong yet");
    assert_eq!(restored("another", MINUTE, 0), (10, 0));
    assert_eq!(restored("another", MINUTE * 5, HOURS), (0, 0));
}

#[test]
fn a_service_that_is_back_in_another_form_is_a_stranger_to_its_own_alone() {
    let other: Vec<String> = ids(0..5).iter().map(|id| format!("{id}?other")).collect();
    for restarts in [false, true] {
        let mut house = House::new();
        for service in ["a", "b"] {
            house.come(service, &ids(0..5));
        }
        house.revision(&[("a", &ids(0..5), &[]), ("b", &ids(0..5), &[])], false);
        if restarts {
            house.restart();
        }
        house.come("a", &other[..2]);
        house.pass(DOUBT);
        assert_eq!((house.count("a"), house.count("b")), ((5, 3), (5, 5)));
    }
}

#[test]
fn a_stranger_that_is_there_for_half_a_minute_ends_a_hold_whenever_and_beside_whom_it_came() {
    let shrunken = || {
        let mut house = House::with("web", 10);
        house.go("web", &ids(0..6));
        house
    };
    let mut house = shrunken();
    house.come("b", &ids(0..1));
    house.pass(DOUBT - STEP);
    house.go("b", &ids(0..1));
    house.pass(MINUTE * 2);
    house.come("b", &ids(0..1));
    house.pass(DOUBT - STEP);
    assert_eq!(house.count("web"), (10, 6), "its time begins anew");
    house.pass(STEP);
    assert_eq!(house.count("web"), (9, 5), "it was no less a stranger for being back");

    let mut house = shrunken();
    house.come("b", &ids(0..1));
    house.come("c", &ids(0..1));
    house.go("b", &ids(0..1));
    house.pass(DOUBT);
    assert_eq!(house.count("web"), (9, 5), "one of two went");

    let mut house = House::with("web", 10);
    house.revision(&[("web", &ids(0..6), &[]), ("b", &[], &ids(0..3))], false);
    house.pass(DOUBT);
    assert_eq!(house.count("web"), (7, 3), "they came in the same revision");

    let mut house = House::with("web", 10);
    house.go("web", &ids(0..1));
    house.come("b", &ids(0..1));
    house.pass(DOUBT - STEP);
    house.go("web", &ids(1..6));
    assert_eq!(house.count("web"), (10, 6));
    house.pass(STEP);
    assert_eq!(house.count("web"), (9, 5), "it came before the first was held");

    let mut house = shrunken();
    house.come("b", &ids(0..5));
    house.come("web", &ids(0..5));
    house.pass(STEP);
    house.go("web", &ids(0..5));
    house.pass(DOUBT);
    assert_eq!(house.count("web"), (10, 6), "they were beside each other");
}

#[test]
fn what_was_at_the_address_is_no_stranger_however_late_it_is_and_strangers_take_no_more_than_half() {
    let mut house = House::with("b", 10);
    house.come("a", &ids(0..4));
    house.go("a", &ids(0..4));
    house.go("b", &ids(0..10));
    house.pass(MINUTE * 2);
    house.come("a", &ids(0..4));
    house.pass(MINUTE);
    assert_eq!((house.count("a"), house.count("b")), ((4, 0), (10, 10)));
    house.come("x", &ids(4..10));
    for number in 0..100 {
        house.come(&format!("x{number}"), &ids(4..5));
    }
    assert!(house.guard.strangers.len() < 40, "{}", house.guard.strangers.len());
    house.pass(MINUTE);
    assert_eq!(house.count("b"), (10, 10), "six of ten may be made up");
    house.go("x", &ids(9..10));
    house.pass(STEP);
    assert_eq!(house.count("b"), (5, 5));
    house.come("x", &ids(9..10));
    house.pass(MINUTE);
    assert_eq!(house.count("b"), (5, 5), "nor one after the other");
    house.come("b", &ids(20..25));
    house.pass(STEP);
    assert_eq!(house.count("b"), (9, 4), "most are elsewhere by now");
    house.pass(MINUTE * 10);
    house.pass(MINUTE);
    assert!(house.guard.is_idle(), "{:?}", house.guard);
}

#[test]
fn what_is_back_where_strangers_took_its_place_is_counted_once() {
    let mut house = House::with("b", 10);
    house.go("b", &ids(0..10));
    house.come("x", &ids(5..10));
    house.pass(DOUBT);
    assert_eq!(house.count("b"), (5, 5));
    house.come("b", &ids(5..10));
    house.come("x", &ids(0..1));
    house.pass(DOUBT);
    assert_eq!(house.count("b"), (10, 5), "six of ten may be made up");
}

#[test]
fn while_others_are_held_one_that_goes_alone_is_gone_and_the_dead_are_passed_over() {
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..10));
    house.probed(&ids(0..10), Found::Silent);
    assert_eq!(house.marks("web"), [(Probe::Silent, false); 10]);
    house.come("web", &ids(10..15));
    assert_eq!(house.marks("web"), [(Probe::Silent, true); 10], "so many came since that the network is well");
    house.come("web", &ids(15..20));
    for number in 10..20 {
        house.pass(MINUTE / 4);
        house.go("web", &ids(number..number + 1));
        assert_eq!(house.count("web"), (19, 10));
        assert_eq!(house.marks("web"), [(Probe::Silent, true); 10]);
        house.come("web", &ids(number + 10..number + 11));
    }
    house.pass(MINUTE);
    house.go("web", &ids(20..25));
    assert_eq!(house.count("web"), (15, 10));
    house.go("web", &ids(25..26));
    assert_eq!(house.count("web"), (20, 16), "those that went first are held as well");
}

#[test]
fn after_a_restart_the_dead_are_passed_over_as_before_and_what_is_left_is_held() {
    for (replacements, is_passed_over) in [(4, false), (5, true), (9, true)] {
        let mut house = House::with("web", 10);
        house.go("web", &ids(0..10));
        house.come("web", &ids(10..10 + replacements));
        for _ in 0..2 {
            house.probed(&ids(0..10), Found::Silent);
            assert_eq!(house.marks("web"), [(Probe::Silent, is_passed_over); 10], "{replacements}");
            house.restart();
            assert_eq!(house.marks("web"), [(Probe::Untried, false); 10]);
        }
    }
    let mut house = House::with("web", 7);
    house.go("web", &ids(0..4));
    house.restart();
    house.go("web", &ids(4..7));
    assert_eq!(house.count("web"), (7, 7));
}

#[test]
fn what_is_left_of_a_service_is_held_as_well_if_it_goes_at_once_however_few_it_is() {
    let shrunken = || {
        let mut house = House::with("web", 10);
        house.go("web", &ids(0..6));
        house.pass(MINUTE + STEP);
        house
    };
    let mut house = shrunken();
    house.go("web", &ids(6..10));
    assert_eq!(house.count("web"), (10, 10));
    let mut house = shrunken();
    for (number, served) in [(6, (9, 6)), (7, (8, 6)), (8, (10, 9))] {
        house.go("web", &ids(number..number + 1));
        assert_eq!(house.count("web"), served);
    }
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..10));
    house.come("web", &ids(10..14));
    house.pass(MINUTE + STEP);
    house.go("web", &ids(10..14));
    assert_eq!(house.count("web"), (14, 14), "its replacements too");
}

#[test]
fn services_of_one_address_share_its_probe() {
    let mut house = House::new();
    for service in ["a", "b"] {
        house.come(service, &ids(0..5));
    }
    house.revision(&[("a", &ids(0..5), &[]), ("b", &ids(0..5), &[])], false);
    assert_eq!((house.count("a"), house.count("b"), house.addresses()), ((5, 5), (5, 5), ids(0..5)));
    house.probed(&ids(0..1), Found::Refused);
    assert_eq!((house.count("a"), house.count("b")), ((4, 4), (4, 4)));
}

#[test]
fn silent_ones_are_passed_over_as_long_as_most_are_well() {
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..6));
    house.probed(&ids(0..5), Found::Silent);
    assert_eq!(house.marks("web")[..5], [(Probe::Silent, true); 5]);
    house.probed(&ids(5..6), Found::Silent);
    assert_eq!(house.marks("web"), [(Probe::Silent, false); 6], "of most that are unwell, it may be the network");
    house.probed(&ids(0..2), Found::Answering);
    assert_eq!(house.marks("web")[..2], [(Probe::Answering, false); 2]);
    assert_eq!(house.marks("web")[2..], [(Probe::Silent, true); 4]);
}

#[test]
fn a_host_that_slept_holds_what_it_finds_missing_and_lets_go_what_it_held() {
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..6));
    house.pass(MINUTE * 60);
    assert_eq!(house.count("web"), (4, 0));
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..1));
    house.now = Now { moment: house.now.moment + MINUTE * 60, wall: 5 };
    house.go("web", &ids(1..6));
    assert_eq!(house.count("web"), (9, 5), "and what went before is long gone");
    assert_eq!(house.listed["web"]["10.0.0.1:80"].as_ref().map(|held| held.since), Some(5));
}

#[test]
fn an_operator_lets_some_go_or_all_that_will() {
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..8));
    let effects = house.guard.release("web", Which::At(&["10.0.0.3:80".into(), "elsewhere:1".into()]));
    house.take(effects);
    assert_eq!(house.count("web"), (9, 7));
    let effects = house.guard.release("web", Which::All);
    house.take(effects);
    assert_eq!(house.count("web"), (2, 0));
    assert_eq!(house.guard.release("nothing", Which::All), []);
    house.come("web", &ids(0..8));
    let effects = house.guard.accept(house.now, "web", MINUTE);
    house.take(effects);
    let left = |house: &House| house.guard.services(house.now, None).map(|it| it.accepted).collect::<Vec<_>>();
    assert_eq!(left(&house), [Some(MINUTE)]);
    house.go("web", &ids(0..10));
    assert_eq!(house.count("web"), (0, 0));
    house.come("web", &ids(0..10));
    house.pass(MINUTE);
    assert_eq!(left(&house), []);
    house.go("web", &ids(0..10));
    assert_eq!(house.count("web"), (10, 10), "it is guarded again");
}

#[test]
fn what_an_earlier_process_held_is_held_for_the_rest_of_its_time() {
    let mut house = House::new();
    let held = |since, ends_at| {
        let (probe, variant) = (Probe::Silent, "?a".into());
        Held { since, ends_at, probe, passed_over: true, variant, ..Held::default() }
    };
    let restore = |house: &mut House, id: &str, held: Held| {
        let instance = Instance { held: Some(held.into()), ..Instance::at("web", id) };
        let left = Left { id: id.into(), instance, rank: Rank::of_root(0), present: 0 };
        let effects = house.guard.restore(house.now, &"web".into(), vec![left]);
        house.take(effects);
    };
    let wall = house.now.wall;
    restore(&mut house, "a:1", held(wall - 1, wall + 2_000));
    restore(&mut house, "b:1", held(wall - 600_000, wall));
    restore(&mut house, "c:1", held(wall + 50_000_000, wall + 100_000_000));
    assert_eq!(house.count("web"), (2, 2), "the time of one was over");
    assert_eq!(house.marks("web"), [(Probe::Untried, false); 2]);
    assert_eq!(house.listed["web"]["a:1"].as_ref().map(|held| &*held.variant), Some("?a"));
    house.pass(Duration::from_secs(2));
    assert_eq!(house.count("web"), (1, 1));
    house.pass(MINUTE * 10);
    assert_eq!(house.count("web"), (0, 0), "a clock that was set back holds nothing for ever");
}

#[test]
fn however_many_an_earlier_process_held_they_are_held_again_in_one_change_and_as_far_as_there_is_room() {
    let many: Vec<String> = (0..30_000).map(|number| format!("10.{}.{}.1:80", number / 100, number % 100)).collect();
    let mut house = House::new();
    house.come("web", &many);
    house.go("web", &many);
    house.restart();
    assert_eq!((house.count("web"), house.guard.count_of_held()), ((30_000, 30_000), 30_000));
    house.guard.config = Config { max_held: 100, ..Config::default() }.into();
    house.restart();
    assert_eq!((house.count("web"), house.guard.count_of_held()), ((100, 100), 100));
    assert_eq!(house.guard.reported.len(), 1);
}

#[test]
fn of_a_root_that_was_lost_also_small_services_are_held() {
    let mut house = House::with("db", 2);
    house.come("web", &ids(10..20));
    house.revision(&[("db", &ids(0..1), &[]), ("web", &ids(10..13), &[])], true);
    assert_eq!((house.count("db"), house.count("web")), ((2, 1), (10, 3)));
}

#[test]
fn ten_thousand_are_held_at_once_and_no_more_than_there_is_room_for() {
    let many: Vec<String> = (0..10_000).map(|number| format!("10.{}.{}.1:80", number / 100, number % 100)).collect();
    let mut house = House::new();
    house.come("web", &many);
    house.go("web", &many);
    assert_eq!((house.count("web"), house.addresses().len()), ((10_000, 10_000), 10_000));
    house.probed(&many[..9_000], Found::Refused);
    assert_eq!(house.count("web"), (1_000, 1_000));
    house.pass(MINUTE * 10);
    assert!(house.guard.is_idle() && house.guard.targets.is_empty());
    assert_eq!(house.guard.room.taken(), Default::default());

    let mut house = House::of(Config { max_held: 100, ..Config::default() });
    house.come("web", &many);
    house.go("web", &many);
    assert_eq!(house.count("web"), (100, 100));
    house.come("db", &ids(0..9));
    house.go("db", &ids(0..9));
    assert_eq!(house.count("db"), (0, 0));
    let churn: Vec<String> = (0..1_000).map(|number| format!("churn-{number}:1")).collect();
    house.come("churn", &churn);
    house.go("churn", &churn[..400]);
    assert!(house.guard.room.taken().departed <= 100, "{:?}", house.guard.room);
}

#[test]
fn no_root_takes_the_room_of_another_and_what_is_not_held_for_lack_of_it_is_named() {
    let house = || House::shared_by(2, Config { max_held: 40, ..Config::default() });
    let why = |house: &House, service: &str, id: &String| house.guard.why_not_held(service, id).map(str::to_owned);
    let mut full = house();
    full.come("junk", &ids_below(1, 0..100));
    full.go("junk", &ids_below(1, 0..100));
    assert_eq!(full.count("junk"), (30, 30), "its own part, and the half that is common");
    assert_eq!(why(&full, "junk", &ids_below(1, 99..100)[0]).as_deref(), Some(NO_ROOM));
    full.come("web", &ids(0..7));
    full.go("web", &ids(0..7));
    assert_eq!(full.count("web"), (7, 7));
    full.come("mail", &ids(10..15));
    full.go("mail", &ids(10..15));
    assert_eq!(full.count("mail"), (3, 3));
    assert_eq!((why(&full, "mail", &ids(12..13)[0]), why(&full, "mail", &ids(13..14)[0]).is_some()), (None, true));
    assert_eq!(full.guard.reported.len(), 2, "each root's lack of room is reported");
    full.pass(MINUTE + STEP);
    full.come("mail", &ids(13..15));
    full.go("mail", &ids(13..14));
    assert_eq!(why(&full, "mail", &ids(13..14)[0]), None, "it went alone");

    let mut churning = house();
    churning.come("junk", &ids_below(1, 0..100));
    churning.go("junk", &ids_below(1, 0..45));
    churning.come("web", &ids(0..10));
    (0..5).for_each(|number| churning.go("web", &ids(number..number + 1)));
    churning.go("web", &ids(5..6));
    assert_eq!(churning.count("web"), (10, 6), "those that went first were remembered");

    let metadata: Arc<_> = rmpv::Value::from("x".repeat(8 << 20)).into();
    let fat = |id: &String| {
        let instance = Instance { metadata: metadata.clone(), ..Instance::at("junk", id) };
        let (id, version, variant) = (id.as_str().into(), Version::new(1, 0, 0), "".into());
        Vanished { id, version, instance, variant, rank: Rank::of_root(1), mapped_by: None, is_lost: true }
    };
    let mut fed = house();
    for number in 0..30 {
        let vanished = ids_below(1, number..number + 1).iter().map(fat).collect();
        let batch = HashMap::from([("junk".into(), Observed { vanished, ..Observed::default() })]);
        let effects = fed.guard.observe(fed.now, batch);
        fed.take(effects);
    }
    assert!((20..28).contains(&fed.count("junk").1), "{:?}", fed.guard.room);
    fed.come("web", &ids(0..7));
    fed.go("web", &ids(0..7));
    assert_eq!(fed.count("web"), (7, 7), "so it is with bytes");
}

#[test]
fn what_is_registered_below_another_root_neither_brings_about_a_hold_nor_prevents_one() {
    let held = |house: &House| {
        let all = house.listed["web"].iter().filter(|(_, held)| held.is_some());
        all.filter(|(id, _)| rank(id) == Rank::of_root(0)).count()
    };
    let mut deploy = House::with("web", 6);
    deploy.come("web", &ids_below(1, 0..5));
    deploy.pass(STEP);
    deploy.go("web", &ids_below(1, 0..5));
    for number in 0..6 {
        deploy.go("web", &ids(number..number + 1));
        deploy.pass(STEP * 2);
        deploy.come("web", &ids(number + 10..number + 11));
        deploy.pass(STEP);
    }
    assert_eq!((held(&deploy), deploy.count("web")), (0, (11, 5)), "only the others hold themselves");

    let mut lost = House::with("web", 10);
    lost.come("web", &ids_below(1, 0..11));
    lost.go("web", &ids(0..10));
    assert_eq!((held(&lost), lost.count("web")), (10, (21, 10)));

    let mut small = House::with("web", 4);
    small.come("web", &ids_below(1, 0..11));
    small.revision(&[("web", &[ids(0..4), ids_below(1, 0..11)].concat(), &[])], false);
    assert_eq!((held(&small), small.count("web")), (0, (11, 11)), "few are no crowd, whoever goes with them");

    let mut early = House::with("web", 10);
    (0..5).for_each(|number| early.go("web", &ids(number..number + 1)));
    early.come("web", &ids_below(1, 0..50));
    early.go("web", &ids_below(1, 0..20));
    early.go("web", &ids(5..6));
    assert_eq!((held(&early), early.count("web").1), (6, 6), "those that went first are remembered for their root");
    early.restart();
    early.go("web", &ids(6..10));
    assert_eq!(held(&early), 10, "what is left, too");

    let mut made_up = House::with("web", 10);
    made_up.go("web", &ids(0..10));
    made_up.come("web", &ids_below(1, 0..50));
    let later: Vec<_> = ids(0..10).iter().map(|id| format!("{id}?root=1")).collect();
    for number in 0..20 {
        made_up.come(&format!("made-up-{number}"), &later[..5]);
    }
    made_up.come("web", &later[..5]);
    made_up.pass(DOUBT);
    assert_eq!(held(&made_up), 10, "what is below a later root is no stranger to them");
    made_up.come("x", &ids(0..10));
    made_up.pass(DOUBT);
    assert_eq!(held(&made_up), 10, "strangers are at all of them");
    made_up.go("x", &ids(5..10));
    made_up.pass(DOUBT);
    assert_eq!(held(&made_up), 5);
}

#[test]
fn instances_below_a_later_root_have_no_silent_ones_passed_over() {
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..10));
    house.come("web", &ids_below(1, 0..50));
    let passed_over = |house: &House| house.marks("web").iter().filter(|(_, is_passed_over)| *is_passed_over).count();
    house.probed(&ids(0..6), Found::Silent);
    assert_eq!(passed_over(&house), 0, "most of its root are silent");
    house.probed(&ids(0..1), Found::Answering);
    assert_eq!(passed_over(&house), 5);
}

#[test]
fn what_one_more_costs_does_not_grow_with_those_that_are_held() {
    use nix::time::{ClockId, clock_gettime};
    let spent = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock"));
    let cost = |count: usize| {
        let vanished = |number: usize| {
            let id = format!("10.{}.{}.1:80", number / 100, number % 100);
            let (version, instance) = (Version::new(1, 0, 0), Instance::at("web", &id));
            Vanished {
                id: id.into(),
                version,
                instance,
                variant: "".into(),
                rank: Rank::of_root(0),
                mapped_by: None,
                is_lost: false,
            }
        };
        let (mut guard, now) = (Guard::new(Config::default(), 1, Moment::default()), Now::read());
        let mut go = |numbers: std::ops::Range<usize>| {
            let present = count - numbers.end;
            let observed = Observed {
                vanished: numbers.map(vanished).collect(),
                ranks: BTreeMap::from([(Rank::of_root(0), OfRank { present, ..OfRank::default() })]),
                ..Observed::default()
            };
            let (batch, begun) = (HashMap::from([("web".into(), observed)]), spent());
            guard.observe(now, batch);
            spent() - begun
        };
        let most = count / 2 + 1;
        go(0..most);
        let least = (most..most + 50).map(|number| go(number..number + 1)).min();
        assert_eq!(guard.count_of_held(), most + 50);
        least.expect("fifty")
    };
    let (few, many) = (cost(200), cost(40_000));
    assert!(many < few * 10, "{few:?}, {many:?}");
}

#[test]
fn whatever_comes_goes_and_is_probed_the_sums_are_those_of_what_is_there() {
    fastrand::seed(11);
    let mut house = House::new();
    let random = |most: usize| fastrand::usize(0..most);
    for _ in 0..3_000 {
        let service = ["a", "b", "c"][random(3)];
        let from = random(20);
        let some = ids(from..from + 1 + random(20));
        match random(6) {
            0 | 1 => house.come(service, &some),
            2 | 3 => house.go(service, &some),
            4 => house.probed(&some, [Found::Answering, Found::Refused, Found::Silent][random(3)]),
            _ => house.pass(Duration::from_millis(1 << random(18))),
        }
        for guarded in house.guard.services(house.now, None) {
            let (listed, held) = house.count(guarded.service);
            assert_eq!(guarded.held, held);
            let marks = house.marks(guarded.service);
            let of = |probe| marks.iter().filter(|(of, _)| *of == probe).count();
            assert_eq!((guarded.answering, guarded.silent), (of(Probe::Answering), of(Probe::Silent)));
            let is_well = of(Probe::Silent) * 2 <= listed;
            let is_passed = |(of, passed): &(Probe, bool)| *passed == (*of == Probe::Silent);
            assert!(!is_well || marks.iter().all(is_passed));
            assert!(marks.iter().all(is_passed) || marks.iter().all(|(_, passed)| !passed));
        }
    }
    house.pass(MINUTE * 20);
    assert!(house.guard.is_idle());
    assert_eq!(house.guard.room.taken(), Default::default());
}
