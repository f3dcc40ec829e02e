//! The schedule: when to probe which address, so that no service and no host is probed too often, and none starves the
//! others.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::guard::{Config, Target};
use crate::task::{around, random_part};

/// How many connections to one host are started per second.
const MAX_PER_HOST: usize = 5;

const SECOND: Duration = Duration::from_secs(1);

/// For how long a root that asked to probe a host has its part: it asks again about every second.
const ASKS_FOR: Duration = Duration::from_secs(3);

/// What to probe, and when.
#[derive(Debug)]
pub(super) struct Schedule {
    config: Config,
    known: HashMap<Arc<str>, Known>,
    /// When each is due,
    later: BTreeSet<(Instant, Arc<str>)>,
    /// and those that are due, by the rank of the root.
    due: BTreeMap<usize, Due>,
    /// The rank that had its turn last.
    last: Option<usize>,
    in_all: Rate,
    /// By the rank of the root, and the service.
    of_services: HashMap<(usize, Arc<str>), Rate>,
    of_hosts: HashMap<String, HostRate>,
    round: u64,
}

/// Addresses that are due, of one root.
#[derive(Debug, Default)]
struct Due {
    by_service: BTreeMap<Arc<str>, VecDeque<Arc<str>>>,
    /// The service that had its turn last.
    last: Option<Arc<str>>,
}

#[derive(Debug)]
struct Known {
    rank: usize,
    service: Arc<str>,
    target: Target,
    /// The last round in which it was to be probed.
    round: u64,
    /// Whether it is queued, for its time or its turn: once at a time, however often it was released and held again.
    waits: bool,
}

/// How often something was done within a second.
#[derive(Clone, Copy, Debug)]
struct Rate {
    since: Instant,
    count: usize,
}

/// How many connections to a host were started within a second, by the rank of the root; and when each root last asked for
/// one.
#[derive(Debug)]
struct HostRate {
    since: Instant,
    started: BTreeMap<usize, usize>,
    asked: BTreeMap<usize, Instant>,
}

impl HostRate {
    fn new(since: Instant) -> Self {
        Self { since, started: BTreeMap::new(), asked: BTreeMap::new() }
    }

    /// Takes one for a root: it has its part beside the others that ask, however much they do.
    fn take(&mut self, now: Instant, rank: usize) -> bool {
        if now.saturating_duration_since(self.since) >= SECOND {
            (self.since, self.started) = (now, BTreeMap::new());
        }
        self.asked.insert(rank, now);
        self.asked.retain(|_, at| now.saturating_duration_since(*at) < ASKS_FOR);
        let all: usize = self.started.values().sum();
        let own = self.started.entry(rank).or_default();
        let may = all < MAX_PER_HOST && *own < MAX_PER_HOST.div_ceil(self.asked.len());
        *own += usize::from(may);
        may
    }
}

impl Rate {
    fn new(since: Instant) -> Self {
        Self { since, count: 0 }
    }

    /// Whether the limit is reached.
    fn is_full(&mut self, now: Instant, most: usize) -> bool {
        if now.saturating_duration_since(self.since) >= SECOND {
            *self = Self::new(now);
        }
        self.count >= most
    }
}

impl Schedule {
    pub(super) fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            known: HashMap::new(),
            later: BTreeSet::new(),
            due: BTreeMap::new(),
            last: None,
            in_all: Rate::new(now),
            of_services: HashMap::new(),
            of_hosts: HashMap::new(),
            round: 0,
        }
    }

    /// Sets what to probe: each address with the rank of a root and a service. New ones are due within a second, at random:
    /// many sidecars notice at the same moment that they are gone.
    pub(super) fn set<'a>(
        &mut self,
        targets: impl Iterator<Item = (&'a Arc<str>, (usize, &'a Arc<str>), &'a Target)>,
        now: Instant,
    ) {
        self.round += 1;
        let (mut new, mut moved) = (Vec::new(), HashSet::new());
        for (address, (rank, service), target) in targets {
            let round = self.round;
            match self.known.get_mut(address) {
                Some(known) if known.rank == rank && known.service == *service => known.round = round,
                known => {
                    moved.extend(known.map(|_| address));
                    let known = Known { rank, service: service.clone(), target: target.clone(), round, waits: false };
                    self.known.insert(address.clone(), known);
                    new.push(address);
                }
            }
        }
        let before = self.known.len();
        self.known.retain(|_, known| known.round == self.round);
        if self.known.len() < before || !moved.is_empty() {
            let stays = |address: &Arc<str>| self.known.contains_key(address) && !moved.contains(address);
            self.later.retain(|(_, address)| stays(address));
            for due in self.due.values_mut() {
                due.by_service.values_mut().for_each(|due| due.retain(stays));
                due.by_service.retain(|_, due| !due.is_empty());
            }
            self.due.retain(|_, due| !due.by_service.is_empty());
        }
        for address in new {
            self.wait(address, now + random_part(SECOND));
        }
        self.of_services.retain(|_, rate| now.saturating_duration_since(rate.since) < SECOND);
        self.of_hosts.retain(|_, rate| now.saturating_duration_since(rate.since) < ASKS_FOR);
    }

    /// The address to probe next, now. Unless names can be looked up, those that have one are put off.
    pub(super) fn next(&mut self, now: Instant, takes_names: bool) -> Option<(Arc<str>, Target)> {
        while let Some((at, address)) = self.later.pop_first() {
            if at > now {
                self.later.insert((at, address));
                break;
            }
            if let Some(known) = self.known.get(&address) {
                let due = &mut self.due.entry(known.rank).or_default().by_service;
                due.entry(known.service.clone()).or_default().push_back(address);
            }
        }
        // Each root has its turn, however many services there are below the others.
        let (before, after): (Vec<usize>, Vec<usize>) =
            self.due.keys().copied().partition(|rank| Some(*rank) <= self.last);
        for rank in after.into_iter().chain(before) {
            for _ in 0..self.due.get(&rank).map_or(0, |due| due.by_service.len()) {
                if self.in_all.is_full(now, self.config.probes) {
                    return None;
                }
                let Some(service) = self.due.get_mut(&rank).and_then(Due::next_service) else { break };
                if let Some(next) = self.next_of((rank, service), now, takes_names) {
                    self.last = Some(rank);
                    return Some(next);
                }
            }
        }
        None
    }

    /// The address was probed.
    pub(super) fn probed(&mut self, address: &Arc<str>, now: Instant) {
        self.wait(address, now + around(self.config.probe_interval));
    }

    /// The address has to wait, since its host was probed enough, or its name cannot be looked up now.
    pub(super) fn put_off(&mut self, address: &Arc<str>, now: Instant) {
        self.wait(address, now + around(SECOND));
    }

    fn wait(&mut self, address: &Arc<str>, until: Instant) {
        if let Some(known) = self.known.get_mut(address).filter(|known| !known.waits) {
            known.waits = true;
            self.later.insert((until, address.clone()));
        }
    }

    /// Whether another connection to a host may be started for an address: its name may be one of many.
    pub(super) fn admits(&mut self, address: &Arc<str>, host: String, now: Instant) -> bool {
        let Some(rank) = self.known.get(address).map(|known| known.rank) else { return false };
        self.of_hosts.entry(host).or_insert_with(|| HostRate::new(now)).take(now, rank)
    }

    fn next_of(&mut self, turn: (usize, Arc<str>), now: Instant, takes_names: bool) -> Option<(Arc<str>, Target)> {
        let of_service = self.of_services.entry(turn.clone()).or_insert_with(|| Rate::new(now));
        if of_service.is_full(now, self.config.probes_per_service) {
            return None;
        }
        let (rank, service) = &turn;
        let mut due = self.due.get_mut(rank)?.by_service.remove(service)?;
        let mut found = None;
        while let Some(address) = due.pop_front() {
            let Some(known) = self.known.get_mut(&address) else { continue };
            known.waits = false;
            let target = known.target.clone();
            if !takes_names && target.has_name() || !self.admits(&address, target.host.clone(), now) {
                self.put_off(&address, now);
                continue;
            }
            found = Some((address, target));
            break;
        }
        if !due.is_empty() {
            self.due.entry(*rank).or_default().by_service.insert(service.clone(), due);
        }
        self.due.retain(|_, due| !due.by_service.is_empty());
        if found.is_some() {
            self.in_all.count += 1;
            self.of_services.entry(turn).and_modify(|rate| rate.count += 1);
        }
        found
    }
}

impl Due {
    /// The next due service, in turn.
    fn next_service(&mut self) -> Option<Arc<str>> {
        let after = self.last.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.by_service.range::<Arc<str>, _>((after, Bound::Unbounded)).next();
        self.last = next.or_else(|| self.by_service.first_key_value()).map(|(service, _)| service.clone());
        self.last.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address, its service, and what to probe.
    type Place = (Arc<str>, Arc<str>, Target);

    /// A service, and this many addresses of it.
    fn targets(service: &str, count: usize, host: impl Fn(usize) -> String) -> Vec<Place> {
        let target = |number| {
            let target = Target { host: host(number), port: number as u16 + 1 };
            (target.address().into(), Arc::from(service), target)
        };
        (0..count).map(target).collect()
    }

    fn set(schedule: &mut Schedule, all: &[Place], now: Instant) {
        set_of(schedule, &[all], now);
    }

    /// The same of several roots.
    fn set_of(schedule: &mut Schedule, roots: &[&[Place]], now: Instant) {
        let all = roots.iter().enumerate().flat_map(|(rank, all)| all.iter().map(move |it| (rank, it)));
        schedule.set(all.map(|(rank, (address, service, target))| (address, (rank, service), target)), now);
    }

    /// How many probes of each service start in a second, checked every 100 ms.
    fn second(schedule: &mut Schedule, from: Instant) -> BTreeMap<Arc<str>, usize> {
        let mut begun = BTreeMap::new();
        for step in 0..10 {
            let now = from + SECOND / 10 * step;
            while let Some((address, _)) = schedule.next(now, true) {
                *begun.entry(schedule.known[&address].service.clone()).or_default() += 1;
                schedule.probed(&address, now);
            }
        }
        begun
    }

    #[test]
    fn neither_a_service_nor_all_together_nor_a_host_is_probed_more_than_it_may_be() {
        let start = Instant::now();
        let config = Config { probes: 100, probes_per_service: 60, ..Config::default() };
        let mut schedule = Schedule::new(config, start);
        let mut all = targets("large", 10_000, |number| format!("10.0.{}.{}", number / 250, number % 250));
        all.extend(targets("small", 30, |number| format!("10.1.0.{number}")));
        set(&mut schedule, &all, start);
        let begun = second(&mut schedule, start + SECOND);
        assert_eq!((begun["large"], begun["small"]), (60, 30), "the small one waits for none");
        assert_eq!(second(&mut schedule, start + SECOND * 2)["large"], 60);

        let mut schedule = Schedule::new(Config::default(), start);
        set(&mut schedule, &targets("scan", 1_000, |_| "10.0.0.1".into()), start);
        assert_eq!(second(&mut schedule, start + SECOND)["scan"], MAX_PER_HOST);
        let mut schedule = Schedule::new(Config { probes: 0, ..Config::default() }, start);
        set(&mut schedule, &all, start);
        assert_eq!(second(&mut schedule, start + SECOND), BTreeMap::new());
    }

    #[test]
    fn names_that_are_not_looked_up_take_nothing_from_addresses_and_have_their_turn_later() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Config { probes: 60, ..Config::default() }, start);
        let mut all = Vec::new();
        for number in 0..20 {
            all.extend(targets(&format!("named-{number}"), 20, |host| format!("h{host}.example-{number}")));
        }
        all.extend(targets("web", 40, |number| format!("10.0.0.{number}")));
        set(&mut schedule, &all, start);
        let now = start + SECOND;
        let begun: Vec<_> = std::iter::from_fn(|| schedule.next(now, false)).collect();
        assert!(begun.len() == 40 && begun.iter().all(|(_, target)| !target.has_name()));
        begun.iter().for_each(|(address, _)| schedule.probed(address, now));
        let later = now + SECOND * 3;
        assert!(
            std::iter::from_fn(|| schedule.next(later, true)).filter(|(_, target)| target.has_name()).count() == 60
        );
    }

    #[test]
    fn one_that_is_let_go_and_held_again_is_probed_no_more_often_than_others() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Config::default(), start);
        let all = targets("web", 2, |number| format!("h{number}"));
        for _ in 0..100 {
            set(&mut schedule, &all, start);
            set(&mut schedule, &all[..1], start);
        }
        set(&mut schedule, &all, start);
        assert_eq!(schedule.later.len(), 2);
        // Also while it is being probed, or waits for its turn.
        let now = start + SECOND;
        while let Some((address, _)) = schedule.next(now, true) {
            set(&mut schedule, &[], now);
            set(&mut schedule, &all, now);
            schedule.probed(&address, now);
            let due = schedule.due.values().flat_map(|due| due.by_service.values().map(VecDeque::len));
            assert_eq!(schedule.later.len() + due.sum::<usize>(), 2);
        }
    }

    #[test]
    fn however_much_is_held_below_another_root_each_root_has_its_turn_and_an_address_is_of_the_first_that_needs_it() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Config { probes: 100, ..Config::default() }, start);
        let own = targets("web", 50, |number| format!("10.0.0.{number}"));
        let many =
            (0..500).flat_map(|of| targets(&format!("!{of}"), 5, |it| format!("10.1.{}.{}", of % 250, it + of / 250)));
        let many: Vec<_> = many.collect();
        set_of(&mut schedule, &[&own, &many], start);
        assert_eq!(second(&mut schedule, start + SECOND)["web"], 50);

        // At first all are of a later one, which has many more.
        let mut schedule = Schedule::new(Config::default(), start);
        let other = [targets("!", 500, |number| format!("10.2.{}.{number}", number % 250)), own.clone()].concat();
        let other: Vec<_> = other.into_iter().map(|(address, _, target)| (address, "!".into(), target)).collect();
        set_of(&mut schedule, &[&[], &other], start);
        assert_eq!(second(&mut schedule, start + SECOND)["!"], 50);
        set_of(&mut schedule, &[&own, &other[..500]], start + SECOND * 2);
        assert!(second(&mut schedule, start + SECOND * 3)["web"] >= 25, "but for those that were probed just now");
    }

    #[test]
    fn however_many_addresses_of_a_host_are_held_below_one_root_those_of_another_there_are_probed_too() {
        for hostile_first in [true, false] {
            let start = Instant::now();
            let mut schedule = Schedule::new(Config::default(), start);
            let (own, scan) = (targets("web", 6, |_| "10.0.0.1".into()), targets("scan", 3_000, |_| "10.0.0.1".into()));
            let (own, scan) = (&own[..], &scan[6..]);
            let at = |own| if hostile_first { [scan, own] } else { [own, scan] };
            set_of(&mut schedule, &at(&[]), start);
            second(&mut schedule, start + SECOND);
            set_of(&mut schedule, &at(own), start + SECOND * 2);
            let seconds: Vec<_> = (2..8).map(|number| second(&mut schedule, start + SECOND * number)).collect();
            let probed: usize = seconds.iter().filter_map(|begun| begun.get("web")).sum();
            assert!(probed >= 6, "{hostile_first} {seconds:?}");
            assert!(seconds.iter().all(|begun| begun.values().sum::<usize>() <= MAX_PER_HOST), "{seconds:?}");
            assert!(seconds.iter().all(|begun| begun.contains_key("scan")), "{seconds:?}");
        }
    }

    #[test]
    fn each_is_probed_again_after_a_while_and_not_once_it_is_held_no_longer() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Config::default(), start);
        let all = targets("web", 5, |number| format!("h{number}"));
        set(&mut schedule, &all, start);
        assert_eq!(second(&mut schedule, start + SECOND)["web"], 5);
        set(&mut schedule, &all[..2], start + SECOND * 2);
        assert_eq!(second(&mut schedule, start + SECOND * 2), BTreeMap::new());
        assert_eq!(second(&mut schedule, start + SECOND * 17)["web"], 2);
        set(&mut schedule, &[], start + SECOND * 21);
        assert_eq!((schedule.later.len(), schedule.due.len(), schedule.known.len()), (0, 0, 0));
        assert_eq!((schedule.of_hosts.len(), schedule.of_services.len()), (0, 0));
    }
}
