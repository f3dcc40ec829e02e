//! The driver: writes to ZooKeeper all the time, and writes down in the model what it does.
//!
//! Each path has one writer, and each write is conditional on what the writer knows. So a write whose fate is unknown
//! is over as soon as a later one has succeeded.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use zookeeper_client::{Acls, Client, CreateMode, Error};

use crate::checker::Checker;
use crate::dice::Dice;
use crate::harness::{ensure, eventually, known_to, release};
use crate::model::{LIMIT, Value, data_of, value_of};

pub(crate) const ROOT: &str = "/app";

/// Between two writes of one writer, in milliseconds.
const PACE: u64 = 8;

/// How long a write may take until its fate is unknown.
const WRITE: Duration = Duration::from_secs(2);

/// After a write of unknown fate so long without a deletion: it could hit a later life of the node.
const CAUTION: Duration = Duration::from_secs(20);

/// The age of a writer that does not rest.
const BUSY: u64 = u64::MAX;

const WRITERS: usize = 4;
const HOT: usize = 4;
const COLD: usize = 150;
const TREES: usize = 6;
const LEAVES: usize = 3;

/// All the writers.
#[derive(Debug)]
pub(crate) struct Driver {
    shared: Arc<Shared>,
    _runtime: Runtime,
}

#[derive(Debug)]
struct Shared {
    connect: String,
    checker: Arc<Checker>,
    numbers: AtomicU64,
    written: AtomicU64,
    pace: AtomicU64,
    paused: AtomicBool,
    /// Raised when what the writers know is no longer so.
    age: AtomicU64,
    /// The age in which each writer rests: nothing is being written, and it knows all.
    rests: [AtomicU64; WRITERS],
}

/// A node, as its writer knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Nothing,
    Absent,
    Version(i32),
}

struct Writer {
    number: usize,
    shared: Arc<Shared>,
    dice: Dice,
    nodes: HashMap<String, Known>,
    /// Nodes with a write of unknown fate, and since when.
    doubtful: HashMap<String, Instant>,
    age: u64,
}

/// Every path that is ever written.
pub(crate) fn paths() -> Vec<String> {
    (0..WRITERS).flat_map(paths_of).collect()
}

/// Those of one writer, parents first. The root is the first writer's.
fn paths_of(writer: usize) -> Vec<String> {
    let base = format!("{ROOT}/w{writer}");
    let mut paths = if writer == 0 { vec![ROOT.to_owned()] } else { Vec::new() };
    paths.extend([base.clone(), format!("{base}/large")]);
    paths.extend((0..HOT).map(|number| format!("{base}/hot-{number}")));
    paths.extend((0..COLD).map(|number| format!("{base}/cold-{number}")));
    for tree in (0..TREES).map(|number| format!("{base}/tree-{number}")) {
        paths.push(tree.clone());
        paths.extend((0..LEAVES).map(|number| format!("{tree}/leaf-{number}")));
    }
    paths
}

/// What an answer about a node says if it holds this; None: no such data was ever written.
pub(crate) fn told(data: Option<&[u8]>) -> Option<Value> {
    data.map_or(Some(Value::Absent), value_of)
}

/// What is to be expected of readers when ZooKeeper holds this: what is too large is not mirrored.
pub(crate) fn modelled(value: Value) -> Value {
    match value {
        Value::Data(number) if data_of(number).len() > LIMIT => Value::Anything,
        value => value,
    }
}

impl Driver {
    pub(crate) fn start(connect: &str, checker: Arc<Checker>, dice: &Dice) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime");
        let shared = Arc::new(Shared {
            connect: connect.to_owned(),
            checker,
            numbers: AtomicU64::new(1),
            written: AtomicU64::new(0),
            pace: AtomicU64::new(PACE),
            paused: AtomicBool::new(false),
            age: AtomicU64::new(0),
            rests: [const { AtomicU64::new(BUSY) }; WRITERS],
        });
        for number in 0..WRITERS {
            let nodes = paths_of(number).into_iter().map(|path| (path, Known::Nothing)).collect();
            let writer = Writer {
                number,
                shared: shared.clone(),
                dice: dice.another(),
                nodes,
                doubtful: HashMap::new(),
                age: 0,
            };
            runtime.spawn(writer.run());
        }
        Self { shared, _runtime: runtime }
    }

    pub(crate) fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes have succeeded.
    pub(crate) fn goes_on(&self, writes: u64) {
        let goal = self.written() + writes;
        eventually("writes go on", Duration::from_secs(120), || ensure(self.written() >= goal, "they do not"));
    }

    /// Waits until nothing is being written, and all that was is known.
    pub(crate) fn pause(&self) {
        self.shared.paused.store(true, Ordering::SeqCst);
        let age = self.shared.age.load(Ordering::SeqCst);
        eventually("the writers rest", Duration::from_secs(120), || {
            // One that rested in an earlier age has yet to read what it then knew.
            ensure(self.shared.rests.iter().all(|rests| rests.load(Ordering::SeqCst) == age), "they write")
        });
    }

    pub(crate) fn resume(&self) {
        self.shared.paused.store(false, Ordering::SeqCst);
    }

    /// Writes as fast as ZooKeeper takes it, or at the ordinary pace.
    pub(crate) fn storm(&self, on: bool) {
        self.shared.pace.store(if on { 0 } else { PACE }, Ordering::Relaxed);
    }

    /// Somebody else has written.
    pub(crate) fn forget(&self) {
        self.shared.age.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.paused.store(true, Ordering::SeqCst);
    }
}

impl Writer {
    async fn run(mut self) {
        loop {
            // Whatever the trouble is: another session.
            let _ = self.session().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn session(&mut self) -> Result<(), Error> {
        let connector = Client::connector().with_session_timeout(Duration::from_secs(6));
        let connecting = known_to(release(), connector).connect(&self.shared.connect);
        let client = within(Duration::from_secs(6), connecting).await?;
        within(WRITE, client.sync("/")).await?;
        loop {
            self.resolve(&client).await?;
            if self.shared.paused.load(Ordering::SeqCst) {
                self.rests(self.age);
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
            self.rests(BUSY);
            // Between the two looks it may have been decided that nothing is written.
            if !self.shared.paused.load(Ordering::SeqCst) {
                self.write(&client).await?;
                tokio::time::sleep(Duration::from_millis(self.shared.pace.load(Ordering::Relaxed))).await;
            }
        }
    }

    fn rests(&self, age: u64) {
        self.shared.rests[self.number].store(age, Ordering::SeqCst);
    }

    /// Reads all that is not known, be it since a write may have been lost.
    async fn resolve(&mut self, client: &Client) -> Result<(), Error> {
        let age = self.shared.age.load(Ordering::SeqCst);
        if age != self.age {
            self.age = age;
            self.nodes.values_mut().for_each(|known| *known = Known::Nothing);
        }
        let unknown: Vec<String> =
            self.nodes.iter().filter(|(_, known)| **known == Known::Nothing).map(|(path, _)| path.clone()).collect();
        for path in unknown {
            let (known, value) = match within(WRITE, client.get_data(&path)).await {
                Ok((data, stat)) => (Known::Version(stat.version), value_of(&data).unwrap_or(Value::Absent)),
                Err(Error::NoNode) => (Known::Absent, Value::Absent),
                Err(error) => return Err(error),
            };
            if let Err(wrong) = self.shared.checker.model(|model| model.found(&path, modelled(value))) {
                self.shared.checker.violation(&format!("the model is right: {wrong}"));
            }
            self.nodes.insert(path, known);
        }
        Ok(())
    }

    async fn write(&mut self, client: &Client) -> Result<(), Error> {
        let path = self.choose();
        let parent = path[..path.rfind('/').expect("a slash")].to_owned();
        let is_absent = |path: &str| self.nodes.get(path) == Some(&Known::Absent);
        let parent_is_absent = is_absent(&parent);
        let parent = if is_absent(ROOT) { ROOT.to_owned() } else { parent };
        match self.nodes[&path] {
            _ if parent_is_absent => self.put(client, &parent, Known::Absent).await,
            Known::Version(version) if self.may_delete(&path) => {
                // Not before it is written down: the client sends what it is told to at once.
                let deleting = async { client.delete(&path, Some(version)).await };
                let written = self.note(&path, Value::Absent, deleting).await?;
                written.map_or(Ok(()), |()| self.know(&path, Known::Absent))
            }
            known => self.put(client, &path, known).await,
        }
    }

    async fn put(&mut self, client: &Client, path: &str, known: Known) -> Result<(), Error> {
        let number = self.next_number(path);
        let (value, data) = (modelled(Value::Data(number)), data_of(number));
        let version = match known {
            Known::Version(version) => {
                let setting = async { client.set_data(path, &data, Some(version)).await.map(|stat| stat.version) };
                self.note(path, value, setting).await?
            }
            _ => {
                let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
                let creating = async { client.create(path, &data, &options).await.map(|_| 0) };
                self.note(path, value, creating).await?
            }
        };
        version.map_or(Ok(()), |version| self.know(path, Known::Version(version)))
    }

    /// Writes, and writes down what comes of it; None: it was refused, since an earlier write of unknown fate came
    /// first.
    async fn note<T>(
        &mut self,
        path: &str,
        value: Value,
        writing: impl Future<Output = Result<T, Error>>,
    ) -> Result<Option<T>, Error> {
        let state = self.shared.checker.model(|model| model.begin(path, value));
        self.nodes.insert(path.to_owned(), Known::Nothing);
        match within(WRITE, writing).await {
            Ok(written) => {
                self.shared.checker.model(|model| model.confirm(path, state));
                self.shared.written.fetch_add(1, Ordering::Relaxed);
                Ok(Some(written))
            }
            Err(Error::NoNode | Error::NodeExists | Error::BadVersion | Error::NotEmpty) => {
                // It may be a parent that is gone.
                self.nodes.values_mut().for_each(|known| *known = Known::Nothing);
                Ok(None)
            }
            Err(error) => {
                self.doubtful.insert(path.to_owned(), Instant::now());
                Err(error)
            }
        }
    }

    fn know(&mut self, path: &str, known: Known) -> Result<(), Error> {
        self.nodes.insert(path.to_owned(), known);
        Ok(())
    }

    fn choose(&self) -> String {
        let base = format!("{ROOT}/w{}", self.number);
        match self.dice.below(100) {
            0 => base,
            1 if self.dice.once_in(4) => format!("{base}/large"),
            2..35 => format!("{base}/hot-{}", self.dice.below(HOT)),
            35..60 => {
                let tree = format!("{base}/tree-{}", self.dice.below(TREES));
                if self.dice.once_in(4) { tree } else { format!("{tree}/leaf-{}", self.dice.below(LEAVES)) }
            }
            _ => format!("{base}/cold-{}", self.dice.below(COLD)),
        }
    }

    /// Whether it is time that a node goes: one of a tree, that has nothing below it.
    fn may_delete(&self, path: &str) -> bool {
        let is_doubtful = |path: &str| self.doubtful.get(path).is_some_and(|since| since.elapsed() < CAUTION);
        let is_bare = (0..LEAVES)
            .all(|number| self.nodes.get(&format!("{path}/leaf-{number}")).is_none_or(|leaf| *leaf == Known::Absent));
        path.contains("/tree-") && is_bare && !is_doubtful(path) && self.dice.once_in(2)
    }

    fn next_number(&self, path: &str) -> u64 {
        let size = match self.dice.below(40) {
            _ if path.ends_with("/large") => self.dice.below(5) as u64,
            0 => 2,
            1..5 => 1,
            _ => 0,
        };
        self.shared.numbers.fetch_add(1, Ordering::Relaxed) * 10 + size
    }
}

async fn within<T>(limit: Duration, doing: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(limit, doing).await.unwrap_or(Err(Error::Timeout))
}
