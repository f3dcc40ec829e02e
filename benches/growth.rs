//! Part `growth`: how each cost grows with the number of nodes, of watchers, of masters and of instances.

mod choices;
mod formats;
mod one_of_many;
mod registrars;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rmpv::Value;
use roster::format::Config;
use roster::model::{Answers, Call, Change, Command, Format, Line, Master, Node, NodePath, Refused, Service};
use roster::store::{Feed, Publisher, Store};

use crate::measure::{exponent, median};
use crate::plot::Group;
use crate::report::{Report, verdict};
use crate::{Form, form};

const ROUNDS: usize = 7;
const CHILDREN: usize = 100;

/// The greatest exponent that passes for O(log n): beside the logarithm, what is larger lies further from the
/// processor.
const LOGARITHMIC: f64 = 0.4;
/// The same for O(n).
const LINEAR: f64 = 1.25;

/// A cost with what it may grow by.
type Cost = (&'static str, f64, fn(usize) -> Duration);

const COSTS: [Cost; 9] = [
    ("publish one change", LOGARITHMIC, publish),
    ("publish one change beside n watchers", LOGARITHMIC, publish_beside_watchers),
    ("read a node", LOGARITHMIC, read),
    ("list 100 children", LOGARITHMIC, list),
    ("begin and end a watch beside n", LOGARITHMIC, watch),
    ("publish one master's change", LOGARITHMIC, publish_master),
    ("publish one of n instances of a service", LOGARITHMIC, publish_instance),
    ("publish a first sync", LINEAR, sync),
    ("the same where each node registers an instance", LINEAR, sync_instances),
];

pub(crate) fn run(report: &mut Report) {
    let sizes = if form() == Form::Quick { [100, 1_000, 10_000] } else { [1_000, 10_000, 100_000] };
    report.part(
        "Growth",
        "The store's costs beside n nodes, watchers or masters, in this process: what each is at n, 10 n and 100 n, and the \
         power of n that fits. What is promised is O(log n), but for the first sync.",
    );
    let (mut rows, mut groups) = (Vec::new(), Vec::new());
    for (what, most, cost) in COSTS {
        let costs = sizes.map(|n| (n, cost(n).as_secs_f64() * 1e6));
        let power = exponent(&costs);
        let written = costs.map(|(_, cost)| format!("{cost:.2} µs"));
        let last = format!("{power:.2} {}", verdict(power <= most));
        rows.push([vec![what.to_owned()], written.to_vec(), vec![last]].concat());
        let bars = costs.iter().map(|(n, cost)| (format!("n = {n}"), *cost, format!("{cost:.2} µs"))).collect();
        groups.push(Group { title: format!("{what}: n^{power:.2}"), bars });
    }
    let [one, ten, hundred] = sizes.map(|n| format!("n = {n}"));
    report.table("Costs by number", &["", &one, &ten, &hundred, "n to the power of"], &rows);
    report.plot("growth", "Costs of the store by number", &groups);
    choices::run(report);
    formats::run(report);
    one_of_many::run(report);
}

/// The median of some rounds of so many, each.
fn each(times: usize, mut act: impl FnMut(usize)) -> Duration {
    let rounds = (0..ROUNDS).map(|round| {
        let began = Instant::now();
        (0..times).for_each(|time| act(round * times + time));
        began.elapsed() / times as u32
    });
    median(&rounds.collect::<Vec<_>>())
}

/// Numbers that lie everywhere below n.
fn scattered(number: usize, n: usize) -> usize {
    number.wrapping_mul(7_919) % n
}

fn path(number: usize) -> NodePath {
    let (of, number) = (number / CHILDREN, number % CHILDREN);
    NodePath::parse(&format!("/load-{of:05}/node-{number:03}")).expect("a path")
}

fn put(number: usize, data: &str) -> Change {
    Change::Put(path(number), Arc::new(Node { data: data.as_bytes().into(), ..Node::default() }))
}

fn empty() -> (Arc<Store>, Publisher) {
    let feeds = vec![Feed::of_nodes("nodes", "bench", vec![NodePath::root()]), Feed::of_instances("masters", "bench")];
    let store = Store::new(&Default::default(), feeds, Arc::default());
    let publisher = store.publisher(0);
    (store, publisher)
}

fn filled(n: usize) -> (Arc<Store>, Publisher) {
    let (store, publisher) = empty();
    publisher.publish_whole((0..n).map(|number| put(number, "first")).collect());
    (store, publisher)
}

fn publish(n: usize) -> Duration {
    let (_store, publisher) = filled(n);
    each(1_000, |time| {
        publisher.publish(vec![put(scattered(time, n), &time.to_string())]);
    })
}

fn publish_beside_watchers(n: usize) -> Duration {
    let (store, publisher) = filled(n);
    let _watchers: Vec<_> = (0..n).map(|number| store.subscribe(&[path(number)])).collect();
    each(1_000, |time| {
        publisher.publish(vec![put(scattered(time, n), &time.to_string())]);
    })
}

fn read(n: usize) -> Duration {
    let (store, _) = filled(n);
    let paths: Vec<_> = (0..1_000).map(|time| path(scattered(time, n))).collect();
    each(1_000, |time| {
        black_box(store.snapshot().node(&paths[time % paths.len()]).expect("a node"));
    })
}

fn list(n: usize) -> Duration {
    let (store, _) = filled(n);
    each(100, |time| {
        let folder = path(scattered(time, n)).parent().expect("a folder");
        assert_eq!(store.snapshot().children(&folder).count(), CHILDREN);
    })
}

fn watch(n: usize) -> Duration {
    let (store, _) = filled(n);
    let _watchers: Vec<_> = (0..n).map(|number| store.subscribe(&[path(number)])).collect();
    each(1_000, |time| drop(store.subscribe(&[path(scattered(time, n))])))
}

fn sync(n: usize) -> Duration {
    first(n, || empty().1, |number| put(number, "first"))
}

fn sync_instances(n: usize) -> Duration {
    first(n, || registering().1, |number| provider(number, ""))
}

/// The first sync of n nodes.
fn first(n: usize, begin: impl Fn() -> Publisher, node: impl Fn(usize) -> Change) -> Duration {
    let rounds = (0..ROUNDS).map(|_| {
        let publisher = begin();
        let changes = (0..n).map(&node).collect();
        let began = Instant::now();
        publisher.publish_whole(changes);
        began.elapsed()
    });
    median(&rounds.collect::<Vec<_>>())
}

/// Nodes that register what Dubbo does.
fn registering() -> (Arc<Store>, Publisher) {
    let root = NodePath::parse("/dubbo").expect("a path");
    let services = Config { root, format: Format::Dubbo, ..Config::default() };
    let feed = Feed::of_nodes("nodes", "bench", vec![NodePath::root()]).with_services(vec![services]);
    let store = Store::new(&Default::default(), vec![feed], Arc::default());
    let publisher = store.publisher(0);
    (store, publisher)
}

/// A provider of the one interface, as long as they are.
fn provider(number: usize, more: &str) -> Change {
    let (host, port) = (number / 40_000, number % 40_000 + 1);
    let name = format!(
        "dubbo%3A%2F%2F10.0.0.{host}%3A{port}%2Fcom.acme.Foo%3Fanyhost%3Dtrue%26application%3Dshop%26deprecated%3Dfalse\
         %26dubbo%3D2.0.2%26dynamic%3Dtrue%26generic%3Dfalse%26interface%3Dcom.acme.Foo%26methods%3Dfind%2Cfetch%2Cstore\
         %26pid%3D4711%26release%3D3.2.4%26service-name-mapping%3Dtrue%26side%3Dprovider%26timestamp%3D1700000000000{more}"
    );
    let path = NodePath::parse(&format!("/dubbo/com.acme.Foo/providers/{name}")).expect("a path");
    Change::Put(path, Arc::new(Node { data: b"10.0.0.1".as_slice().into(), ..Node::default() }))
}

/// One comes, and goes.
fn publish_instance(n: usize) -> Duration {
    let (_store, publisher) = registering();
    publisher.publish_whole((0..n).map(|number| provider(number, "")).collect());
    each(1_000, |time| {
        let coming = provider(scattered(time / 2, n), "%26weight%3D7");
        let going = coming.path().cloned().map(Change::Delete);
        publisher.publish(vec![if time % 2 == 0 { coming } else { going.expect("a path") }]);
    })
}

/// A way to nowhere.
#[derive(Debug)]
struct Nowhere;

impl Line for Nowhere {
    fn call(&self, _: Call) -> Result<Answers, Refused> {
        Err(Refused::Gone)
    }

    fn send(&self, _: &Command) -> Result<(), Refused> {
        Err(Refused::Gone)
    }

    fn outstanding(&self) -> usize {
        0
    }
}

fn publish_master(n: usize) -> Duration {
    let (store, _) = empty();
    let (publisher, line): (_, Arc<dyn Line>) = (store.publisher(1), Arc::new(Nowhere));
    let join = |number: usize, services: usize| {
        let service = |number| Service { name: format!("service-{number}"), metadata: Value::Map(Vec::new()).into() };
        let services = (0..services).map(service).collect();
        let master =
            Master { id: format!("master-{number:06}"), peer_address: "here".into(), connected_at: 0, services };
        Change::Join(Arc::new(master), line.clone())
    };
    publisher.publish_whole((0..n).map(|number| join(number, 5)).collect());
    // The fifth service comes and goes, which all others offer too.
    each(1_000, |time| {
        publisher.publish(vec![join(scattered(time / 2, n), 4 + time % 2)]);
    })
}
