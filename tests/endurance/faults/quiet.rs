//! Quiet sources: there is nothing in them but while a fault lasts, which writes there and waits for what it expects.

use std::collections::BTreeSet;

use futures::future::join_all;
use zookeeper_client::{Acls, Client, CreateMode, Error};

use crate::checker::Checker;
use crate::harness::{Link, Roster, Zk, ensure, eventually};
use crate::idl::{ChildrenRequest, SourceStatus, StatusRequest, TRosterSyncClient};
use crate::model::{LIMIT, Value, data_of};
use crate::scene::{HEALING, Scene};
use crate::sidecar::Sidecar;

/// The names of the quiet sources: one of the ensemble, and one of a server of its own that may be restarted with
/// little.
const SMALL: &str = "small";
const FRAIL: &str = "frail";

const FIRST: usize = 8;

/// Requests of ours in flight.
const AT_ONCE: usize = 50;

/// How many nodes the small source takes in. With names as long as those of `fill`, the list of them passes a MiB,
/// which is as much as a server of ZooKeeper takes in one request.
pub(super) const MOST: usize = 1_100;

/// The `[[zookeeper]]` of both. What they left out finds its place at an audit.
pub(crate) fn settings(ensemble: &str, frail: &str) -> String {
    let source = |name: &str, connect: &str, more: &str| {
        format!(
            "[[zookeeper]]\nname = \"{name}\"\nconnect = \"{connect}\"\nroots = [\"/{name}\"]\nsession_timeout = \"4s\"\n\
             audit_interval = \"2s\"\n{more}\n"
        )
    };
    // A fault may take away all of it while nobody hears: that is doubted for so long, which is less than healing may
    // take.
    source(SMALL, ensemble, &format!("hold = \"20s\"\nmax_nodes = {MOST}\nmax_node_bytes = \"{LIMIT}B\""))
        + &source(FRAIL, frail, "hold = \"0s\"")
}

/// Those that are written first, and must be told as they are, whatever comes after.
pub(crate) fn paths() -> Vec<String> {
    [SMALL, FRAIL].into_iter().flat_map(paths_of).collect()
}

fn paths_of(name: &str) -> impl Iterator<Item = String> {
    (0..FIRST).map(move |number| format!("/{name}/first-{number}"))
}

/// A quiet source, and the ZooKeeper behind it.
#[derive(Debug)]
pub(super) struct Quiet<'a> {
    name: &'static str,
    pub(super) zk: Zk,
    checker: &'a Checker,
    pub(super) sidecars: &'a [Sidecar],
}

impl Scene {
    pub(super) fn small(&self) -> Quiet<'_> {
        Quiet { name: SMALL, zk: self.zk(), checker: &self.checker, sidecars: &self.sidecars }
    }

    pub(super) fn frail(&self) -> Quiet<'_> {
        Quiet { name: FRAIL, zk: self.frail.zk(), ..self.small() }
    }
}

impl Quiet<'_> {
    /// Those that are written first.
    pub(super) fn paths(&self) -> Vec<String> {
        paths_of(self.name).collect()
    }

    fn root(&self) -> String {
        format!("/{}", self.name)
    }

    /// A node of it.
    pub(super) fn path(&self, name: &str) -> String {
        format!("/{}/{name}", self.name)
    }

    /// The paths of all that there is, whose data stays where it is.
    pub(super) fn all(&self) -> BTreeSet<String> {
        eventually("all is listed", HEALING, || self.zk.attempt(async |client| list(client, self.root()).await))
    }

    pub(super) fn write_first(&self) {
        self.write(&self.root(), b"");
        self.paths().iter().for_each(|path| drop(self.put(path, 0)));
    }

    /// Writes data of a size into one of the first, writes that down, and answers it.
    pub(super) fn put(&self, path: &str, size: u64) -> Vec<u8> {
        let number = self.checker.model(|model| model.history(path).len()) as u64 * 10 + size;
        let state = self.checker.model(|model| model.begin(path, Value::Data(number)));
        self.write(path, &data_of(number));
        self.checker.model(|model| model.confirm(path, state));
        data_of(number)
    }

    pub(super) fn write(&self, path: &str, data: &[u8]) {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        self.surely(async |client| match client.set_data(path, data, None).await {
            Err(Error::NoNode) => client.create(path, data, &options).await.map(drop),
            written => written.map(drop),
        });
    }

    /// Creates so many nodes with names of so many bytes and some more.
    pub(super) fn fill(&self, name: &str, count: usize, length: usize) {
        let paths: Vec<String> = (0..count).map(|n| self.path(&format!("{name}-{n}-{}", "x".repeat(length)))).collect();
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        self.surely(async |client| {
            for some in paths.chunks(AT_ONCE) {
                let created = join_all(some.iter().map(|path| client.create(path, b"", &options))).await;
                created.into_iter().try_for_each(|created| unless(Error::NodeExists, created.map(drop)))?;
            }
            Ok(())
        });
    }

    pub(super) fn remove(&self, paths: &[String]) {
        self.surely(async |client| {
            for some in paths.chunks(AT_ONCE) {
                let deleted = join_all(some.iter().map(|path| client.delete(path, None))).await;
                deleted.into_iter().try_for_each(|deleted| unless(Error::NoNode, deleted))?;
            }
            Ok(())
        });
    }

    /// All of them go again.
    pub(super) fn empty(&self) {
        let begin = |path: &String| self.checker.model(|model| model.begin(path, Value::Absent));
        let states: Vec<(String, usize)> = self.paths().into_iter().map(|path| (path.clone(), begin(&path))).collect();
        self.remove(&self.all().into_iter().rev().collect::<Vec<String>>());
        states.iter().for_each(|(path, state)| self.checker.model(|model| model.confirm(path, *state)));
        self.keep(&BTreeSet::new(), 0);
    }

    /// Does what may be done twice until it is done: on a busy machine a session may break.
    fn surely(&self, doing: impl AsyncFn(&Client) -> Result<(), Error>) {
        eventually("it is done", HEALING, || self.zk.attempt(&doing));
    }

    /// Waits until each sidecar holds these nodes and has left so many out.
    pub(super) fn keep(&self, kept: &BTreeSet<String>, left_out: usize) {
        for sidecar in self.sidecars {
            let what = format!("the {} source of sidecar {} is right", self.name, sidecar.number);
            eventually(&what, HEALING, || self.holds(&sidecar.roster, kept, left_out));
        }
    }

    /// Whether each sidecar holds these nodes and has left so many out.
    pub(super) fn hold(&self, kept: &BTreeSet<String>, left_out: usize) -> Result<(), String> {
        self.sidecars.iter().try_for_each(|sidecar| self.holds(&sidecar.roster, kept, left_out))
    }

    /// Waits until each sidecar has noticed that its line is cut.
    pub(super) fn is_lost(&self) {
        for sidecar in self.sidecars {
            let is_down =
                || self.status(&sidecar.roster).and_then(|source| ensure(source.state != "live", "it is live"));
            eventually("the line is cut", HEALING, is_down);
        }
    }

    /// Has all sidecars read everything anew, over lines that are mended so.
    pub(super) fn read_all_again(&self, mend: impl Fn(&Link)) {
        let lines = || self.sidecars.iter().flat_map(|sidecar| self.lines(sidecar));
        lines().for_each(Link::cut);
        self.is_lost();
        lines().for_each(mend);
    }

    pub(super) fn lines<'a>(&self, sidecar: &'a Sidecar) -> &'a [Link] {
        if self.name == SMALL { &sidecar.lines } else { std::slice::from_ref(&sidecar.frail) }
    }

    fn status(&self, roster: &Roster) -> Result<SourceStatus, String> {
        let status = roster.client().status(StatusRequest::default()).map_err(|error| format!("{error:?}"))?;
        status
            .sources
            .into_iter()
            .find(|source| source.name == self.name)
            .ok_or_else(|| "there is no such source".into())
    }

    fn holds(&self, roster: &Roster, kept: &BTreeSet<String>, left_out: usize) -> Result<(), String> {
        let source = self.status(roster)?;
        ensure(source.state == "live" && source.age_ms == Some(0), format!("{} {:?}", source.state, source.age_ms))?;
        ensure(source.skipped_nodes == left_out as i64, format!("{} are left out", source.skipped_nodes))?;
        ensure(source.nodes == kept.len() as i64, format!("there are {} nodes", source.nodes))?;
        if kept.is_empty() {
            return Ok(());
        }
        let (tree, _) = roster.tree().map_err(|error| format!("{error:?}"))?;
        ensure(kept.iter().all(|path| tree.contains_key(path)), "some of those that it should hold are gone")?;
        let told = roster
            .client()
            .children(ChildrenRequest::new(self.root(), None, None, None))
            .map_err(|error| format!("{error:?}"))?;
        ensure(told.freshness.complete == (left_out == 0), "it tells otherwise whether something is left out")
    }
}

/// The paths of all at and below a node.
async fn list(client: &Client, root: String) -> Result<BTreeSet<String>, Error> {
    let (mut all, mut level) = (BTreeSet::new(), vec![root]);
    while !level.is_empty() {
        let mut below = Vec::new();
        for some in level.chunks(AT_ONCE) {
            let listed = join_all(some.iter().map(|path| client.list_children(path))).await;
            for (path, listed) in some.iter().zip(listed) {
                match listed {
                    Ok(names) => below.extend(names.iter().map(|name| format!("{path}/{name}"))),
                    Err(Error::NoNode) => continue,
                    Err(error) => return Err(error),
                }
                all.insert(path.clone());
            }
        }
        level = below;
    }
    Ok(all)
}

/// Whether it is done, be it by an attempt before.
fn unless(done: Error, result: Result<(), Error>) -> Result<(), Error> {
    result.or_else(|error| if error == done { Ok(()) } else { Err(error) })
}
