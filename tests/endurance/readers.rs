//! Readers of every kind: over Thrift, of the shared file, and watchers that keep a copy of their own.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use roster::model::NodePath;
use roster::store::shared::Reader;

use crate::checker::{Answer, Asked, Checker, Told, Way};
use crate::dice::Dice;
use crate::driver::{ROOT, paths, told};
use crate::faults::quiet;
use crate::harness::{Client, Dialect, Tree};
use crate::idl::{
    ChildrenRequest, Freshness, GetManyRequest, GetRequest, Node, NotFound, NotReady, ServiceQuery, SubtreeRequest,
    TRosterSyncClient, WatchRequest,
};
use crate::masters;
use crate::model::Value;

/// Threads that ask one sidecar, until this is dropped.
#[derive(Debug)]
pub(crate) struct Readers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    copies: Vec<Arc<Mutex<Tree>>>,
}

/// Who asks whom.
struct Asker {
    sidecar: usize,
    who: &'static str,
    folder: PathBuf,
    checker: Arc<Checker>,
    stop: Arc<AtomicBool>,
    dice: Dice,
    paths: Vec<String>,
}

impl Readers {
    pub(crate) fn start(sidecar: usize, folder: &Path, checker: &Arc<Checker>, dice: &Dice) -> Self {
        let mut readers = Self { stop: Arc::default(), threads: Vec::new(), copies: Vec::new() };
        let asker = |who| Asker {
            sidecar,
            who,
            folder: folder.to_owned(),
            checker: checker.clone(),
            stop: readers.stop.clone(),
            dice: dice.another(),
            paths: paths().into_iter().chain(quiet::paths()).collect(),
        };
        let (one, other, file, php) =
            (asker("a reader"), asker("another reader"), asker("a file's reader"), asker("PHP"));
        let (all, some) = (asker("a watcher"), asker("a slow watcher"));
        let copies: Vec<Arc<Mutex<Tree>>> = (0..2).map(|_| Arc::default()).collect();
        let (of_all, of_some) = (copies[0].clone(), copies[1].clone());
        readers.copies = copies;
        readers.threads = vec![
            std::thread::spawn(move || one.read()),
            std::thread::spawn(move || other.read()),
            std::thread::spawn(move || file.read_file()),
            std::thread::spawn(move || php.read_in_php()),
            std::thread::spawn(move || all.watch(0, &of_all, 0)),
            std::thread::spawn(move || some.watch(1, &of_some, 3)),
        ];
        readers
    }

    /// What each watcher believes to be there.
    pub(crate) fn copies(&self) -> Vec<Tree> {
        self.copies.iter().map(|copy| copy.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("a reader does not panic"));
    }
}

impl Asker {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn client(&self) -> thrift::Result<Client> {
        self.dice.one_of(&Dialect::ALL).unix(&self.folder.join("roster.sock"))
    }

    /// Asks in every way, of which `subtree` and connecting are rarer.
    fn read(&self) {
        while self.goes_on() {
            let asked = self.checker.asks(self.sidecar, Way::Endpoint);
            match self.client() {
                Ok(mut client) => self.converse(&mut client),
                Err(error) => self.fails(asked, &error),
            }
        }
    }

    fn converse(&self, client: &mut Client) {
        for _ in 0..200 {
            let asked = self.checker.asks(self.sidecar, Way::Endpoint);
            let answered = match self.dice.below(20) {
                0 => self.subtree(client, asked),
                1..4 => self.children(client, asked),
                4..6 => self.masters(client, asked),
                6..10 => self.get_many(client, asked),
                _ => self.get(client, asked),
            };
            if let Err(error) = answered {
                return self.fails(asked, &error);
            }
            std::thread::sleep(Duration::from_millis(5));
            if !self.goes_on() {
                return;
            }
        }
    }

    fn fails(&self, asked: Asked, error: &thrift::Error) {
        if self.goes_on() {
            self.checker.fails(self.sidecar, self.who, asked, &format!("{error:?}"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }

    fn get(&self, client: &mut Client, asked: Asked) -> thrift::Result<()> {
        let path = self.dice.one_of(&self.paths);
        match client.get(GetRequest::new(path.clone(), None)) {
            Ok(reply) => self.tell(asked, &reply.freshness, [(path.as_str(), Some(reply.node.data.as_slice()))]),
            Err(thrift::Error::User(error)) if error.is::<NotFound>() => {
                let absent = error.downcast_ref::<NotFound>().expect("it was looked at");
                self.tell(asked, &absent.freshness, [(path.as_str(), None)]);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn get_many(&self, client: &mut Client, asked: Asked) -> thrift::Result<()> {
        let mut some: BTreeSet<&String> = (0..10).map(|_| self.dice.one_of(&self.paths)).collect();
        // A reply holds two of those that are large, but no third.
        let large: Vec<&String> = some.iter().copied().filter(|path| path.ends_with("/large")).collect();
        for path in large.iter().skip(2) {
            some.remove(path);
        }
        let some: Vec<String> = some.into_iter().cloned().collect();
        let reply = client.get_many(GetManyRequest::new(some.clone(), None, None))?;
        let data = |path: &String| reply.nodes.get(path).map(|node| node.data.as_slice());
        self.tell(asked, &reply.freshness, some.iter().map(|path| (path.as_str(), data(path))));
        Ok(())
    }

    /// A name that is missing is an absence; of one that is there only the presence is told.
    fn children(&self, client: &mut Client, asked: Asked) -> thrift::Result<()> {
        let parent = self.dice.one_of(&self.paths);
        let Ok(reply) = client.children(ChildrenRequest::new(parent.clone(), None, None, None)) else { return Ok(()) };
        let is_child = |path: &&String| path.rsplit_once('/').is_some_and(|(above, _)| above == parent);
        let is_absent = |path: &&String| !reply.names.iter().any(|name| path.ends_with(&format!("/{name}")));
        let absent = self.paths.iter().filter(is_child).filter(is_absent);
        self.tell(asked, &reply.freshness, absent.map(|path| (path.as_str(), None)));
        Ok(())
    }

    /// Which masters are there. A register that has just started waits for them.
    fn masters(&self, client: &mut Client, asked: Asked) -> thrift::Result<()> {
        let reply = match client.masters(ServiceQuery::default()) {
            Err(thrift::Error::User(error)) if error.is::<NotReady>() => return Ok(()),
            reply => reply?,
        };
        let offers = |name: &str| reply.masters.iter().any(|it| it.services.iter().any(|service| service.name == name));
        let Freshness { revision, age_ms, .. } = reply.freshness;
        let told = Told { sidecar: self.sidecar, way: Way::Endpoint, who: self.who, asked, revision, age_ms };
        let keys = masters::NAMES.map(|name| (masters::key(name), offers(name)));
        // One that is not on this page may be on the next.
        let known = keys.iter().filter(|(_, there)| *there || reply.cursor.is_none());
        let value = |there| if there { Value::Data(0) } else { Value::Absent };
        self.checker.take(told, known.map(|(key, there)| Answer { key, value: value(*there) }));
        Ok(())
    }

    fn subtree(&self, client: &mut Client, asked: Asked) -> thrift::Result<()> {
        let (tree, freshness) = read_all(client)?;
        if let Some(freshness) = freshness {
            self.tell_all(asked, &freshness, &tree);
        }
        Ok(())
    }

    fn tell_all(&self, asked: Asked, freshness: &Freshness, tree: &Tree) {
        let data = |path: &String| tree.get(path).map(|node| node.data.as_slice());
        let read = self.paths.iter().filter(|path| path.starts_with(ROOT));
        self.tell(asked, freshness, read.map(|path| (path.as_str(), data(path))));
    }

    fn tell<'a>(
        &self,
        asked: Asked,
        freshness: &Freshness,
        answers: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) {
        self.bring(Way::Endpoint, asked, freshness.revision, freshness.age_ms, answers);
    }

    fn bring<'a>(
        &self,
        way: Way,
        asked: Asked,
        revision: i64,
        age_ms: i64,
        answers: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) {
        let common = Told { sidecar: self.sidecar, way, who: self.who, asked, revision, age_ms };
        // What nobody wrote has a number that nobody gives.
        let value = |data| told(data).unwrap_or(Value::Data(u64::MAX));
        self.checker.take(common, answers.into_iter().map(|(key, data)| Answer { key, value: value(data) }));
    }

    /// Reads the shared file as the command line does. It may be missing, or damaged, while the sidecar is disturbed.
    fn read_file(&self) {
        let file = self.folder.join("shared.mdb");
        while self.goes_on() {
            let opened = Reader::open(&file);
            for _ in 0..50 {
                let path = self.dice.one_of(&self.paths);
                let parsed = NodePath::parse(path).expect("a path");
                let asked = self.checker.asks(self.sidecar, Way::File(0));
                let read = opened.as_ref().map_err(ToString::to_string);
                match read.and_then(|reader| reader.node(&parsed).map_err(|error| error.to_string())) {
                    Ok((None, report)) if !report.behind(&parsed).all(|source| source.whole) => {
                        self.checker.fails(self.sidecar, self.who, asked, "the file is not whole yet");
                    }
                    Ok((node, report)) => {
                        let age = report.freshness(report.behind(&parsed), SystemTime::now()).age.as_millis() as i64;
                        let data = node.as_ref().map(|node| node.data.as_ref());
                        self.bring(Way::File(0), asked, report.fresh.revision as i64, age, [(path.as_str(), data)]);
                    }
                    Err(why) => {
                        self.checker.fails(self.sidecar, self.who, asked, &why);
                        break;
                    }
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Has PHP read, a line for a question and a line for its answers.
    fn read_in_php(&self) {
        while self.goes_on() {
            let mut php = Php::start(&self.folder);
            // Killed in the middle of a read, now and then.
            for _ in 0..self.dice.below(400) {
                let way = *self.dice.one_of(&[Way::Endpoint, Way::File(1)]);
                let asked = self.checker.asks(self.sidecar, way);
                let path = self.dice.one_of(&self.paths);
                match php.ask(way, path) {
                    Ok(answer) => self.take_php(way, asked, path, &answer),
                    // It may have ended, where somebody has damaged the file under it.
                    Err(why) => {
                        self.checker.fails(self.sidecar, self.who, asked, &why);
                        std::thread::sleep(Duration::from_millis(200));
                        break;
                    }
                }
                std::thread::sleep(Duration::from_millis(10));
                if !self.goes_on() {
                    return;
                }
            }
            let path: &String = self.dice.one_of(&self.paths);
            php.ask_and_die(path);
        }
    }

    fn take_php(&self, way: Way, asked: Asked, path: &str, answer: &serde_json::Value) {
        if let Some(why) = answer["error"].as_str() {
            self.checker.fails(self.sidecar, self.who, asked, why);
            return std::thread::sleep(Duration::from_millis(100));
        }
        let number = |key: &str| answer[key].as_i64().unwrap_or_default();
        let data = answer["data"].as_str().map(str::as_bytes);
        self.bring(way, asked, number("revision"), number("age"), [(path, data)]);
    }

    fn watch(&self, number: usize, copy: &Mutex<Tree>, limit: i32) {
        let mut since = 0;
        while self.goes_on() {
            let way = Way::Watcher(number);
            let asked = self.checker.asks(self.sidecar, way);
            let followed = self.client().and_then(|mut client| self.follow(&mut client, way, copy, limit, &mut since));
            if let Err(error) = followed {
                self.fails(asked, &error);
            }
        }
    }

    fn follow(
        &self,
        client: &mut Client,
        way: Way,
        copy: &Mutex<Tree>,
        limit: i32,
        since: &mut i64,
    ) -> thrift::Result<()> {
        while self.goes_on() {
            let asked = self.checker.asks(self.sidecar, way);
            let reply = client.watch(WatchRequest::new(*since, None, vec![ROOT.into()], 300, limit))?;
            let mut tree = copy.lock().unwrap_or_else(PoisonError::into_inner);
            if reply.reset {
                drop(tree);
                let asked = self.checker.asks(self.sidecar, Way::Endpoint);
                let (all, freshness) = read_all(client)?;
                let Some(freshness) = freshness else { continue };
                self.tell_all(asked, &freshness, &all);
                (*copy.lock().unwrap_or_else(PoisonError::into_inner), *since) = (all, freshness.revision);
                continue;
            }
            for change in &reply.changes {
                match &change.node {
                    Some(node) => drop(tree.insert(change.path.clone(), node.clone())),
                    None => drop(tree.remove(&change.path)),
                }
            }
            drop(tree);
            let data = |node: &Option<Node>| node.as_ref().map(|node| node.data.clone());
            let told: Vec<_> = reply.changes.iter().map(|change| (change.path.as_str(), data(&change.node))).collect();
            let told = told.iter().map(|(path, data)| (*path, data.as_deref()));
            self.bring(way, asked, reply.freshness.revision, reply.freshness.age_ms, told);
            *since = reply.freshness.revision;
        }
        Ok(())
    }
}

/// All of it; how fresh, if it is all of one revision.
fn read_all(client: &mut Client) -> thrift::Result<(Tree, Option<Freshness>)> {
    let mut page = client.subtree(SubtreeRequest::new(ROOT.into(), None, None, None))?;
    let (first, mut is_one, mut tree) = (page.freshness.clone(), true, Tree::new());
    loop {
        tree.extend(page.nodes.into_iter().map(|node| (node.path.clone(), node)));
        is_one &= page.freshness.revision == first.revision;
        let Some(cursor) = page.cursor else { return Ok((tree, is_one.then_some(first))) };
        page = client.subtree(SubtreeRequest::new(ROOT.into(), None, None, cursor))?;
    }
}

/// A PHP process that reads for us.
struct Php {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Php {
    fn start(folder: &Path) -> Self {
        let mut php = Command::new("php");
        php.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/endurance/reader.php")).arg(folder);
        php.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = php.spawn().expect("PHP starts");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, answers }
    }

    fn send(&mut self, question: &str) {
        // If it has died, its answer will say so.
        let _ = self.child.stdin.as_mut().map(|stdin| stdin.write_all(question.as_bytes()));
    }

    fn ask(&mut self, way: Way, path: &str) -> Result<serde_json::Value, String> {
        let way = if way == Way::Endpoint { "endpoint" } else { "file" };
        self.send(&format!("{way} {path}\n"));
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => Err(format!("PHP ended: {:?}", self.child.wait())),
            Ok(_) => serde_json::from_str(&line).map_err(|error| format!("PHP said {line:?}: {error}")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn ask_and_die(&mut self, path: &str) {
        self.send(&format!("file {path}\nendpoint {path}\n"));
    }
}

impl Drop for Php {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
