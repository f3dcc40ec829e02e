//! Faults at the limits of a small source of its own: more nodes than it takes in, and nodes that are too large.

use std::collections::BTreeSet;

use futures::future::join_all;
use zookeeper_client::{Acls, Client, CreateMode, Error};

use crate::harness::{Link, Roster, any_age, ensure, eventually};
use crate::idl::{SourceStatus, TRosterSyncClient};
use crate::model::{LIMIT, Value, data_of};
use crate::scene::{HEALING, Scene};

/// The root of the small source. There is nothing in it but while one of these faults lasts.
const ROOT: &str = "/small";

/// How many nodes it takes in. With names as long as here, the list of them passes a MiB, which is as much as a server
/// of ZooKeeper takes in one request.
const MOST: usize = 1_100;

/// How many more there are.
const TOO_MANY: usize = 50;

const FIRST: usize = 8;

/// Requests of ours in flight.
const AT_ONCE: usize = 50;

/// The `[[zookeeper]]` of it. What it left out finds its place at an audit.
pub(crate) fn settings(connect: &str) -> String {
    format!(
        "[[zookeeper]]\nname = \"small\"\nconnect = \"{connect}\"\nroots = [\"{ROOT}\"]\nsession_timeout = \"4s\"\n\
         max_nodes = {MOST}\nmax_node_bytes = \"{LIMIT}B\"\naudit_interval = \"2s\"\n"
    )
}

/// Those that are written first, and must be told as they are, whatever comes after.
pub(crate) fn paths() -> Vec<String> {
    (0..FIRST).map(|number| format!("{ROOT}/first-{number}")).collect()
}

impl Scene {
    /// Who came first stays, and the answers say that they are not complete.
    pub(super) fn too_many(&self) {
        self.write_first();
        self.fill("early", MOST - FIRST - 1);
        let all: BTreeSet<String> = self.zk().read_all(ROOT).into_keys().collect();
        self.keep(&all, 0);
        self.fill("a-late", TOO_MANY);
        self.keep(&all, TOO_MANY);
        paths().iter().for_each(|path| self.put(path, 1));
        self.keep(&all, TOO_MANY);
        self.read_all_again();
        self.keep(&all, TOO_MANY);
    }

    /// What is too large stays as it was before, or is left out, and the answers say so.
    pub(super) fn too_large(&self) {
        self.write_first();
        let (was, never) = (&paths()[0], format!("{ROOT}/large"));
        self.put(was, 3);
        let all: BTreeSet<String> = self.zk().read_all(ROOT).into_keys().collect();
        self.keep(&all, 0);
        let held = self.zk().read_all(ROOT)[was].data.clone();
        assert_eq!(held.len(), LIMIT, "it is as large as it may be");
        [was, &never].iter().for_each(|path| self.write(path, &[b'x'; LIMIT + 1]));
        for read_again in [false, true] {
            if read_again {
                self.read_all_again();
            }
            self.keep(&all, 2);
            self.sidecars.iter().for_each(|sidecar| assert_eq!(sidecar.roster.data(was), held, "it stands"));
        }
        self.put(was, 0);
        self.remove(&[never]);
        self.keep(&all, 0);
    }

    /// All of them go again.
    pub(super) fn empty_small(&self) {
        let begin = |path: &String| self.checker.model(|model| model.begin(path, Value::Absent));
        let states: Vec<(String, usize)> = paths().into_iter().map(|path| (path.clone(), begin(&path))).collect();
        self.remove(&self.zk().read_all(ROOT).into_keys().rev().collect::<Vec<String>>());
        states.iter().for_each(|(path, state)| self.checker.model(|model| model.confirm(path, *state)));
        self.keep(&BTreeSet::new(), 0);
    }

    fn write_first(&self) {
        self.write(ROOT, b"");
        paths().iter().for_each(|path| self.put(path, 0));
    }

    /// Writes data of a size, and writes that down.
    fn put(&self, path: &str, size: u64) {
        let number = self.checker.model(|model| model.history(path).len()) as u64 * 10 + size;
        let state = self.checker.model(|model| model.begin(path, Value::Data(number)));
        self.write(path, &data_of(number));
        self.checker.model(|model| model.confirm(path, state));
    }

    fn write(&self, path: &str, data: &[u8]) {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        self.surely(async |client| match client.set_data(path, data, None).await {
            Err(Error::NoNode) => client.create(path, data, &options).await.map(drop),
            written => written.map(drop),
        });
    }

    /// Creates so many nodes with long names.
    fn fill(&self, name: &str, count: usize) {
        let paths: Vec<String> = (0..count).map(|n| format!("{ROOT}/{name}-{n}-{}", "x".repeat(1_000))).collect();
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        self.surely(async |client| {
            for some in paths.chunks(AT_ONCE) {
                let created = join_all(some.iter().map(|path| client.create(path, b"", &options))).await;
                created.into_iter().try_for_each(|created| unless(Error::NodeExists, created.map(drop)))?;
            }
            Ok(())
        });
    }

    fn remove(&self, paths: &[String]) {
        self.surely(async |client| {
            for some in paths.chunks(AT_ONCE) {
                let deleted = join_all(some.iter().map(|path| client.delete(path, None))).await;
                deleted.into_iter().try_for_each(|deleted| unless(Error::NoNode, deleted))?;
            }
            Ok(())
        });
    }

    /// Does what may be done twice until it is done: on a busy machine a session may break.
    fn surely(&self, doing: impl AsyncFn(&Client) -> Result<(), Error>) {
        eventually("it is done", HEALING, || self.zk().attempt(&doing));
    }

    /// Waits until each sidecar holds these nodes and has left so many out.
    fn keep(&self, kept: &BTreeSet<String>, left_out: usize) {
        for sidecar in &self.sidecars {
            eventually("the small source is as full as it may be", HEALING, || holds(&sidecar.roster, kept, left_out));
        }
    }

    /// Has all sidecars read everything anew.
    fn read_all_again(&self) {
        for sidecar in &self.sidecars {
            sidecar.lines.iter().for_each(Link::cut);
            let is_down = || small(&sidecar.roster).and_then(|source| ensure(source.state != "live", "it is live"));
            eventually("the line is cut", HEALING, is_down);
            sidecar.lines.iter().for_each(Link::mend);
        }
    }
}

/// Whether it is done, be it by an attempt before.
fn unless(done: Error, result: Result<(), Error>) -> Result<(), Error> {
    result.or_else(|error| if error == done { Ok(()) } else { Err(error) })
}

fn small(roster: &Roster) -> Result<SourceStatus, String> {
    let status = roster.client().status().map_err(|error| format!("{error:?}"))?;
    status.sources.into_iter().find(|source| source.name == "small").ok_or_else(|| "there is no such source".into())
}

fn holds(roster: &Roster, kept: &BTreeSet<String>, left_out: usize) -> Result<(), String> {
    let source = small(roster)?;
    ensure(source.state == "live" && source.age_ms == Some(0), format!("{} {:?}", source.state, source.age_ms))?;
    ensure(source.left_out == left_out as i64, format!("{} are left out", source.left_out))?;
    ensure(source.nodes == kept.len() as i64, format!("there are {} nodes", source.nodes))?;
    if kept.is_empty() {
        return Ok(());
    }
    let (tree, _) = roster.tree().map_err(|error| format!("{error:?}"))?;
    ensure(kept.iter().all(|path| tree.contains_key(path)), "some of those that came first are gone")?;
    let told = roster.client().children(ROOT.into(), any_age()).map_err(|error| format!("{error:?}"))?;
    ensure(told.names.len() + 1 == kept.len(), format!("{} children are told", told.names.len()))?;
    ensure(told.freshness.complete == (left_out == 0), "it tells otherwise whether something is left out")
}
