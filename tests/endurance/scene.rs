//! The scene: an ensemble, two sidecars on lines of their own, everybody who asks them, and who writes.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::checker::Checker;
use crate::dice::Dice;
use crate::driver::{Driver, ROOT, paths};
use crate::ensemble::Ensemble;
use crate::faults::quiet;
use crate::harness::truth::difference;
use crate::harness::watcher::as_told;
use crate::harness::{Link, Server, Tree, Zk, ensure, eventually};
use crate::jobs::Jobs;
use crate::load::Load;
use crate::masters::{Callers, Masters, NAMES, key};
use crate::model::{LIMIT, Value};
use crate::network::Network;
use crate::readers::Readers;
use crate::sidecar::Sidecar;
use crate::workers::Workers;

/// How long everything may take to be right again, on a busy machine, when all faults are healed.
pub(crate) const HEALING: Duration = Duration::from_secs(60);

pub(crate) const TOKEN: &str = "register-center-token-2024";

/// Dropped from above: who asks, goes first.
#[derive(Debug)]
pub(crate) struct Scene {
    readers: Vec<Readers>,
    pub(crate) jobs: Jobs,
    pub(crate) load: Load,
    pub(crate) callers: Callers,
    pub(crate) masters: Masters,
    pub(crate) driver: Driver,
    pub(crate) sidecars: Vec<Sidecar>,
    pub(crate) workers: Workers,
    pub(crate) upstream: Link,
    pub(crate) ensemble: Ensemble,
    /// A server alone, that may be restarted with little.
    pub(crate) frail: Server,
    pub(crate) checker: Arc<Checker>,
    /// How many masters come at once.
    pub(crate) crowd: usize,
}

impl Scene {
    pub(crate) fn set(servers: usize, crowd: usize, dice: &Dice) -> Self {
        let checker = Arc::new(Checker::new());
        let began = Instant::now();
        checker.model(|model| {
            let paths = paths().into_iter().chain(quiet::paths());
            paths.for_each(|path| model.become_now(&path, Value::Absent, began));
            NAMES.iter().for_each(|name| model.become_now(&key(name), Value::Anything, began));
        });
        let ensemble = Ensemble::start(servers);
        let frail = Server::start();
        let driver = Driver::start(ensemble.zk().connect_string(), checker.clone(), dice);
        driver.goes_on(1_000);
        let first = Sidecar::start(0, &ensemble, frail.address(), &checker, None, None);
        let network = Network::make();
        match &network {
            Ok(_) => println!("the second sidecar has a network of its own, in which the kernel drops and refuses"),
            Err(why) => println!("no network of its own for the second sidecar: a proxy drops and cuts. {why}"),
        }
        let host = network.as_ref().map_or(Ipv4Addr::LOCALHOST, Network::host);
        let upstream = Link::at(host, format!("127.0.0.1:{}", first.register));
        let second = Sidecar::start(1, &ensemble, frail.address(), &checker, Some(&upstream), network.ok());
        let sidecars = vec![first, second];
        sidecars.iter().for_each(Sidecar::is_whole);
        let readers = sidecars.iter().map(|it| Readers::start(it.number, it.roster.folder(), &checker, dice));
        let readers: Vec<Readers> = readers.collect();
        let masters = Masters::start(sidecars[0].register);
        let sockets: Vec<&Path> = sidecars.iter().map(|sidecar| sidecar.roster.socket()).collect();
        let callers = Callers::start(masters.trace(), &sockets, dice);
        let workers = Workers::start(&sidecars[0].roster);
        let load = Load::start(&sidecars[0].roster, sidecars[0].register);
        let jobs = Jobs::start(&sidecars[0].roster, &checker, dice);
        let scene = Self {
            readers,
            jobs,
            load,
            callers,
            masters,
            driver,
            sidecars,
            workers,
            upstream,
            ensemble,
            frail,
            checker,
            crowd,
        };
        NAMES.iter().for_each(|name| scene.is_there(name));
        scene
    }

    /// From now on nobody knows whether these masters are there.
    pub(crate) fn is_unknown(&self, names: &[&str]) {
        let now = Instant::now();
        self.checker.model(|model| names.iter().for_each(|name| model.become_now(&key(name), Value::Anything, now)));
    }

    /// Waits until a master is there, which from then on must be told.
    pub(crate) fn is_there(&self, name: &str) {
        let names = || self.sidecars[0].masters();
        eventually(&format!("{name} is there"), HEALING, || ensure(names()?.iter().any(|it| it == name), "it is not"));
        self.checker.model(|model| model.become_now(&key(name), Value::Data(0), Instant::now()));
    }

    pub(crate) fn zk(&self) -> Zk {
        self.ensemble.zk()
    }

    /// Waits until the sidecars and their watchers hold what ZooKeeper does; how long that took.
    pub(crate) fn heals(&self) -> Duration {
        self.driver.pause();
        let began = Instant::now();
        let mut why = self.differs();
        while let Err(different) = why {
            if self.checker.violations() > 0 {
                break;
            }
            if began.elapsed() > HEALING {
                let status: Vec<_> = self.sidecars.iter().map(|sidecar| sidecar.roster.status().sources).collect();
                let different = format!("{different}; {status:?}");
                self.checker.violation(&format!("after healing everything equals a full read: {different}"));
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            why = self.differs();
        }
        if let Err(wrong) = self.callers.check() {
            self.checker.violation(&format!("no call is executed twice, or otherwise than it is told: {wrong}"));
        }
        if let Err(wrong) = self.workers.check() {
            self.checker.violation(&format!("no visitor of workers is lost: {wrong}"));
        }
        if let Err(wrong) = self.jobs.check() {
            self.checker.violation(&format!("no job is lost, nor handed out twice: {wrong}"));
        }
        self.sidecars.iter().for_each(|sidecar| self.checker.calm(sidecar.number));
        let took = began.elapsed();
        self.checker.note(format!("all agree after {took:.1?}"));
        self.driver.resume();
        took
    }

    fn differs(&self) -> Result<(), String> {
        let mut truth = self.truth()?;
        // What is too large may be there as it was, or not at all.
        let too_large: Vec<String> =
            truth.iter().filter(|(_, node)| node.data.len() > LIMIT).map(|(path, _)| path.clone()).collect();
        let mirrored = |path: &String| !too_large.contains(path);
        truth.retain(|path, _| mirrored(path));
        let told: Tree = truth.iter().map(|(path, node)| (path.clone(), as_told(node.clone()))).collect();
        for (sidecar, readers) in self.sidecars.iter().zip(&self.readers) {
            let (mut tree, freshness) = sidecar.roster.tree().map_err(|error| format!("{error:?}"))?;
            tree.retain(|path, _| mirrored(path));
            difference(&format!("sidecar {}", sidecar.number), &tree, &truth)?;
            ensure(freshness.age_ms == 0, format!("sidecar {} is {} ms old", sidecar.number, freshness.age_ms))?;
            sidecar.has_written(&truth, mirrored)?;
            let masters = sidecar.masters()?;
            ensure(
                NAMES.iter().chain(&["work"]).all(|name| masters.iter().any(|it| it == name)),
                format!("{masters:?}"),
            )?;
            for copy in readers.copies() {
                let copy = copy.into_iter().filter(|(path, _)| mirrored(path));
                let copy: Tree = copy.map(|(path, node)| (path, as_told(node))).collect();
                difference(&format!("a watcher of sidecar {}", sidecar.number), &copy, &told)?;
            }
        }
        self.jobs.are_open()?;
        self.workers.are_well(&self.sidecars[0].roster)
    }

    /// Stops the first sidecar, and with it its workers.
    pub(crate) fn ends_workers(&mut self) {
        self.checker.disturb(0, true);
        self.workers.excuse();
        self.sidecars[0].roster.stop();
        if let Err(left) = self.workers.are_gone() {
            self.checker.violation(&format!("no process of a worker outlives its sidecar: {left}"));
        }
    }

    /// All that ZooKeeper holds.
    pub(crate) fn truth(&self) -> Result<Tree, String> {
        let attempt = self.zk().attempt(async |client| client.sync("/").await);
        attempt.map_err(|error| format!("sync: {error}"))?;
        Ok(self.zk().read_all(ROOT))
    }
}
