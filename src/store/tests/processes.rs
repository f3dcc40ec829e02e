//! Processes that are registered twice, as providers and as an application: each is listed once, registered or held.

use std::collections::{BTreeMap, BTreeSet};

use super::guarded::{configured, configured_within, count, instances};
use super::*;
use crate::guard::{self, Found, Rank, Which};
use crate::model::{Instance, InstanceState, Record};

/// Protocols and ports.
type Endpoints = Vec<(&'static str, u16)>;

/// What may be registered below these roots, and their ranks.
#[derive(Clone)]
struct World {
    dubbo: [usize; 2],
    services: usize,
    providers: BTreeSet<Provider>,
    /// By name and host, the endpoints and whether it is up.
    applications: BTreeMap<(&'static str, usize), (Endpoints, bool)>,
    /// By the root of Dubbo, which applications offer the interface.
    mappings: [&'static str; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Provider {
    root: usize,
    host: usize,
    endpoint: (&'static str, u16),
    application: &'static str,
    version: &'static str,
}

const ROOTS: [&str; 2] = ["dubbo", "x"];
const ENDPOINTS: [(&str, u16); 3] = [("dubbo", 80), ("tri", 80), ("tri", 81)];

fn host(host: usize) -> String {
    format!("10.0.0.{host}")
}

fn address(of: usize, (protocol, port): (&str, u16)) -> String {
    format!("{protocol}://{}:{port}", host(of))
}

impl Provider {
    fn random(random: &mut fastrand::Rng) -> Self {
        Self {
            root: usize::from(random.u8(..4) == 0),
            host: random.usize(1..4),
            endpoint: ENDPOINTS[random.usize(..3)],
            application: ["", "shop", "shop", "cart"][random.usize(..4)],
            version: ["", "1.0", "2.0"][random.usize(..3)],
        }
    }

    fn path(&self) -> String {
        let Self { root, endpoint: (protocol, port), application, version, .. } = self;
        let mut query = String::new();
        if !application.is_empty() {
            query += &format!("%26application%3D{application}");
        }
        if !version.is_empty() {
            query += &format!("%26version%3D{version}");
        }
        let url = format!("{protocol}%3A%2F%2F{}%3A{port}%2Fi%3Fa%3D1{query}", host(self.host));
        format!("/{}/i/providers/{url}", ROOTS[*root])
    }

    fn address(&self) -> String {
        address(self.host, self.endpoint)
    }

    fn id(&self) -> String {
        let variant = if self.version.is_empty() { String::new() } else { format!("?group=&version={}", self.version) };
        format!("\u{1}{}{variant}", self.address())
    }
}

/// A node of an application on a host.
fn application(name: &str, of: usize, endpoints: &[(&str, u16)], is_up: bool) -> Change {
    let one = |(protocol, port): &(&str, u16)| format!(r#"{{\"port\":{port},\"protocol\":\"{protocol}\"}}"#);
    let endpoints = endpoints.iter().map(one).collect::<Vec<_>>().join(",");
    let metadata = format!(r#"{{"dubbo.endpoints":"[{endpoints}]","dubbo.metadata.revision":"a"}}"#);
    let data = format!(r#"{{"address":"{}","enabled":{is_up},"payload":{{"metadata":{metadata}}}}}"#, host(of));
    put(&format!("/services/{name}/{of}"), &data)
}

/// What is listed: whether it is held, and whether it is an application.
type Listing = BTreeMap<String, (bool, bool)>;

impl World {
    fn new(dubbo: [usize; 2], services: usize) -> Self {
        let (providers, applications) = Default::default();
        Self { dubbo, services, providers, applications, mappings: [""; 2] }
    }

    /// Everything as it is.
    fn all(&self) -> Vec<Change> {
        let providers = self.providers.iter().map(|it| put(&it.path(), ""));
        let applications =
            self.applications.iter().map(|((name, of), (endpoints, is_up))| application(name, *of, endpoints, *is_up));
        let mappings = (0..2).map(|root| put(&format!("/{}/mapping/i", ROOTS[root]), self.mappings[root]));
        providers.chain(applications).chain(mappings).collect()
    }

    fn change(&mut self, random: &mut fastrand::Rng) -> Vec<Change> {
        match random.u8(..12) {
            // A registry loses all its providers, or all that it has.
            0 | 1 => {
                let lost = self.providers.iter().filter(|it| it.root == 0).copied().collect::<Vec<_>>();
                self.providers.retain(|it| it.root != 0);
                lost.iter().map(|it| delete(&it.path())).collect()
            }
            2 => {
                self.mappings[0] = "";
                let lost = std::mem::take(&mut self.providers);
                lost.iter().map(|it| delete(&it.path())).chain([put("/dubbo/mapping/i", "")]).collect()
            }
            3 => {
                let lost = std::mem::take(&mut self.applications);
                lost.keys().map(|(name, of)| delete(&format!("/services/{name}/{of}"))).collect()
            }
            4 | 5 => {
                let (root, names) = (random.usize(..2), ["", "shop", "shop,cart"][random.usize(..3)]);
                self.mappings[root] = names;
                vec![put(&format!("/{}/mapping/i", ROOTS[root]), names)]
            }
            6..9 => {
                let key = (["shop", "cart"][random.usize(..2)], random.usize(1..4));
                let path = format!("/services/{}/{}", key.0, key.1);
                if random.u8(..3) == 0 {
                    return self.applications.remove(&key).map(|_| delete(&path)).into_iter().collect();
                }
                let mut endpoints = ENDPOINTS.to_vec();
                random.shuffle(&mut endpoints);
                endpoints.truncate(random.usize(1..=3));
                let is_up = random.u8(..4) > 0;
                let change = application(key.0, key.1, &endpoints, is_up);
                self.applications.insert(key, (endpoints, is_up));
                vec![change]
            }
            _ => {
                let one = Provider::random(random);
                if self.providers.remove(&one) {
                    return vec![delete(&one.path())];
                }
                self.providers.insert(one);
                vec![put(&one.path(), "")]
            }
        }
    }

    /// The providers with the same id that are registered, each with the first of their roots.
    fn variants(&self) -> BTreeMap<String, (Provider, usize)> {
        let mut variants = BTreeMap::new();
        for it in &self.providers {
            let rank = self.dubbo[it.root];
            let known = variants.entry(it.id()).or_insert((*it, rank));
            known.1 = known.1.min(rank);
        }
        variants
    }

    /// What is to be listed, by what is registered and held.
    fn listing(&self, held: &BTreeMap<String, (Rank, Instance)>) -> Listing {
        let mut listing: Listing =
            held.iter().map(|(id, (rank, _))| (id.clone(), (true, rank.is_application))).collect();
        let is_behind = |id: &str, root: usize| held.get(id).is_some_and(|(held, _)| held.root < root);
        for (id, (_, root)) in self.variants() {
            if !is_behind(&id, root) {
                listing.insert(id, (false, false));
            }
        }
        for ((name, of), (endpoints, is_up)) in &self.applications {
            let maps = |root: &usize| self.mappings[*root].split(',').any(|it| it == *name);
            let Some(mapping) = (0..2).filter(maps).map(|root| self.dubbo[root]).min() else { continue };
            let root = mapping.max(self.services);
            for endpoint in endpoints {
                let (address, host) = (address(*of, *endpoint), host(*of));
                let id = format!("\u{1}{address}");
                let is_registered = self.providers.iter().any(|it| {
                    let is_same = it.host == *of && (it.endpoint == *endpoint || it.application == *name);
                    is_same && self.dubbo[it.root] <= root
                });
                let is_held = held.iter().any(|(other, (rank, instance))| {
                    let first = &instance.endpoints[0];
                    let application = instance.metadata.text("application");
                    let is_same = first.address() == address || first.host == host && application == Some(*name);
                    let counts = rank.root < root || rank.root == root && *is_up && *other != id;
                    is_same && !rank.is_application && counts
                });
                if !is_registered && !is_held && !is_behind(&id, root) {
                    listing.insert(id, (false, true));
                }
            }
        }
        listing
    }
}

fn is_application(instance: &Instance) -> bool {
    matches!(&instance.provenance[0].record, Record::Node(node) if node.is_under(&path("/services")))
}

fn listed(store: &Store) -> Vec<(String, Instance)> {
    let snapshot = store.snapshot();
    snapshot.directory().instances("i").map(|(id, instance)| (id.to_string(), instance.clone())).collect()
}

#[test]
fn whatever_is_registered_held_and_let_go_each_process_is_listed_as_what_is_known_of_it() {
    let config = Config { guard: guard::Config { min_instances: 1, ..guard::Config::default() }, ..Config::default() };
    let [dubbo, services, x] = [
        "root = '/dubbo'\nformat = 'dubbo'",
        "root = '/services'\nformat = 'dubbo-application'",
        "root = '/x'\nformat = 'dubbo'",
    ];
    let same = |root: &str| format!("{root}\nwriters = 'shop'");
    let worlds = [
        ([dubbo, services, x].map(str::to_owned), World::new([0, 2], 1)),
        ([services, dubbo, x].map(str::to_owned), World::new([1, 2], 0)),
        ([x, services, dubbo].map(str::to_owned), World::new([2, 0], 1)),
        ([same(dubbo), same(services), x.to_owned()], World::new([0, 2], 0)),
        ([x.to_owned(), same(services), same(dubbo)], World::new([1, 0], 1)),
    ];
    let (mut were_held, mut beside) = (0, 0);
    for seed in 0..60 {
        let random = &mut fastrand::Rng::with_seed(seed);
        let (roots, mut world) = worlds[seed as usize % worlds.len()].clone();
        let roots = roots.each_ref().map(String::as_str);
        let (store, publisher) = configured_within(&roots, &config);
        for step in 0..60 {
            let changes: Vec<_> = (0..random.usize(1..6)).flat_map(|_| world.change(random)).collect();
            publisher.publish(changes);
            if random.u8(..3) == 0 {
                let found = [Found::Refused, Found::Silent, Found::Answering][random.usize(..3)];
                let found = [(format!("{}:80", host(random.usize(1..4))).into(), found)];
                store.guard(|guard, _| guard.probed(&found));
            }
            if random.u8(..6) == 0 {
                let later = Now { moment: Moment::now() + Duration::from_secs(31), wall: 0 };
                store.guard(|guard, _| guard.pass(later));
            }
            let (all, snapshot) = (listed(&store), store.snapshot());
            let rank = |id: &str| snapshot.directory().guard().rank_of_held("i", id);
            let held = all.iter().filter_map(|(id, it)| Some((id.clone(), (rank(id)?, it.clone()))));
            let held: BTreeMap<_, _> = held.collect();
            were_held += held.len();
            beside += usize::from(held.len() < all.len() && !held.is_empty());
            let found = all.iter().map(|(id, it)| (id.clone(), (it.held.is_some(), is_application(it))));
            let (found, expected) = (found.collect::<Listing>(), world.listing(&held));
            assert_eq!(found, expected, "seed {seed}, step {step}, held: {held:?}");
            assert_eq!(all.len(), found.len(), "each once");
        }
        store.guard(|guard, _| ["i", "shop", "cart"].iter().flat_map(|it| guard.release(it, Which::All)).collect());
        let (anew, all_at_once) = configured_within(&roots, &config);
        all_at_once.publish(world.all());
        let of = |store: &Store| {
            let of =
                |(id, it): (String, Instance)| (id, it.version, it.state, it.weight, it.provenance[0].record.clone());
            listed(store).into_iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(of(&store), of(&anew), "seed {seed}: in pieces, and as a whole");
    }
    assert!(were_held > 1_000 && beside > 300, "{were_held} {beside}");
}

/// Roots of Dubbo and of applications, of the same writers or not.
fn both(writers: &str) -> (Arc<Store>, Publisher) {
    let roots = ["root = '/dubbo'\nformat = 'dubbo'", "root = '/services'\nformat = 'dubbo-application'"];
    let roots = roots.map(|root| format!("{root}{writers}"));
    configured(&roots.each_ref().map(String::as_str))
}

fn providers(version: &'static str) -> Vec<Provider> {
    let endpoint = ENDPOINTS[0];
    (1..=10).map(|host| Provider { root: 0, host, endpoint, application: "shop", version }).collect()
}

fn register(publisher: &Publisher, providers: &[Provider]) {
    publisher.publish(providers.iter().map(|it| put(&it.path(), "")).collect::<Vec<_>>());
}

fn lose(publisher: &Publisher, providers: &[Provider]) {
    publisher.publish(providers.iter().map(|it| delete(&it.path())).collect::<Vec<_>>());
}

const SAME: &str = "\nwriters = 'shop'";

#[test]
fn while_a_provider_is_held_its_process_is_not_listed_at_its_other_port_and_is_afterwards() {
    for writers in ["", SAME] {
        let (store, publisher) = both(writers);
        let ports =
            |endpoints: &[(&str, u16)]| (1..=10).map(|of| application("shop", of, endpoints, true)).collect::<Vec<_>>();
        publisher.publish([ports(&ENDPOINTS[1..]), vec![put("/dubbo/mapping/i", "shop")]].concat());
        register(&publisher, &providers("1.0"));
        assert_eq!(count(&store, "i"), (10, 0));
        lose(&publisher, &providers("1.0"));
        assert_eq!(count(&store, "i"), (10, 10), "{writers}");
        let refused = [("10.0.0.3:80".into(), Found::Refused)];
        store.guard(|guard, _| guard.probed(&refused));
        assert_eq!(count(&store, "i"), (11, 9), "{writers}: one is an application now, with two protocols");
        publisher.publish(vec![delete("/services/shop/3"), delete("/services/shop/4")]);
        // With most of its root the application may be held too, until its address refuses again.
        let refused = ENDPOINTS.map(|(_, port)| (format!("10.0.0.3:{port}").into(), Found::Refused));
        store.guard(|guard, _| guard.probed(&refused));
        assert_eq!(count(&store, "i"), (9, 9), "{writers}");
        register(&publisher, &providers("1.0"));
        assert_eq!(count(&store, "i"), (10, 0), "{writers}");
    }
}

#[test]
fn providers_with_a_version_are_held_whatever_is_lost_first_and_what_their_processes_say_is_heard() {
    for in_pieces in [false, true] {
        let (store, publisher) = both(SAME);
        let own = |is_up| (1..=10).map(|of| application("shop", of, &ENDPOINTS[..1], is_up)).collect::<Vec<_>>();
        publisher.publish([own(true), vec![put("/dubbo/mapping/i", "shop")]].concat());
        register(&publisher, &providers("1.0"));
        let all = providers("1.0");
        let (first, rest) = all.split_at(if in_pieces { 5 } else { 0 });
        lose(&publisher, first);
        lose(&publisher, rest);
        assert_eq!(count(&store, "i"), (10, 10), "{in_pieces}");
        assert!(instances(&store, "i").iter().all(|it| it.version.major == 1));
        publisher.publish(vec![put("/dubbo/mapping/i", "")]);
        assert_eq!(count(&store, "i"), (10, 10), "{in_pieces}");
        publisher.publish(vec![put("/dubbo/mapping/i", "shop")]);
        publisher.publish(own(false).into_iter().take(3).collect::<Vec<_>>());
        let down = instances(&store, "i").iter().filter(|it| it.state == InstanceState::Down).count();
        assert_eq!((count(&store, "i"), down), ((10, 7), 3), "{in_pieces}");
    }
    let (store, publisher) = both(SAME);
    let own = (1..=10).map(|of| application("shop", of, &ENDPOINTS[..1], true));
    publisher.publish(own.chain([put("/dubbo/mapping/i", "shop")]).collect::<Vec<_>>());
    register(&publisher, &providers(""));
    lose(&publisher, &providers(""));
    assert_eq!(count(&store, "i"), (10, 0), "an application is what a provider without a version is");
}
