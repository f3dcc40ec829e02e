//! A watcher: follows `watch` and keeps its own copy of the tree, which is right only if it was told everything.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Client, Dialect, Tree};
use crate::idl::{Freshness, Node, SubtreeRequest, TRosterSyncClient, WatchReply, WatchRequest};

/// A thread that follows a sidecar.
#[derive(Debug)]
pub(crate) struct Watcher {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What a watcher knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) tree: Tree,
    pub(crate) revision: i64,
    /// How often it had to read everything anew.
    pub(crate) resets: usize,
    /// The first thing that must never happen.
    pub(crate) wrong: Option<String>,
}

impl Watcher {
    /// Follows the sidecar behind a socket, by at most `limit` changes at a time (0: as many as there are).
    pub(crate) fn start(socket: &Path, limit: i32) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let following = Following { socket: socket.to_owned(), limit, seen: seen.clone(), stop: stop.clone() };
        let thread = std::thread::spawn(move || following.run());
        Self { seen, stop, thread: Some(thread) }
    }

    pub(crate) fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Following {
    socket: PathBuf,
    limit: i32,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
}

impl Following {
    /// The sidecar may be away for a while, or not be ready.
    fn run(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let _ = Dialect::ALL[0].unix(&self.socket).and_then(|mut client| self.follow(&mut client));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn follow(&self, client: &mut Client) -> thrift::Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            let since = lock(&self.seen).revision;
            let reply = client.watch(WatchRequest::new(since, None, vec![], 300, self.limit))?;
            if reply.reset { self.read_all(client)? } else { lock(&self.seen).apply(reply) }
        }
        Ok(())
    }

    fn read_all(&self, client: &mut Client) -> thrift::Result<()> {
        let (tree, freshness) = read_all(client)?;
        let mut seen = lock(&self.seen);
        seen.reach(freshness.revision);
        seen.tree = tree.into_iter().map(|(path, node)| (path, as_told(node))).collect();
        seen.resets += 1;
        Ok(())
    }
}

impl Seen {
    fn apply(&mut self, reply: WatchReply) {
        self.reach(reply.freshness.revision);
        for change in reply.changes {
            match change.node.map(as_told) {
                None => drop(self.tree.remove(&change.path)),
                Some(node) => self.put(node),
            }
        }
    }

    fn put(&mut self, node: Node) {
        if let Some(old) = self.tree.get(&node.path) {
            let same_life = (old.stat.czxid, old.stat.ctime) == (node.stat.czxid, node.stat.ctime);
            if same_life && node.stat.mzxid < old.stat.mzxid {
                let wrong = format!("{} went back from {:?} to {:?}", node.path, old.stat, node.stat);
                self.wrong.get_or_insert(wrong);
            }
        }
        self.tree.insert(node.path.clone(), node);
    }

    fn reach(&mut self, revision: i64) {
        if revision < self.revision {
            self.wrong.get_or_insert(format!("the revision went back from {} to {revision}", self.revision));
        }
        self.revision = revision;
    }
}

/// Every page of the tree, and how fresh the first was.
pub(crate) fn read_all(client: &mut Client) -> thrift::Result<(Tree, Freshness)> {
    let mut page = client.subtree(SubtreeRequest::new("/".into(), None, None, None))?;
    let freshness = page.freshness.clone();
    let mut tree = Tree::new();
    loop {
        tree.extend(page.nodes.into_iter().map(|node| (node.path.clone(), node)));
        let Some(cursor) = page.cursor else { return Ok((tree, freshness)) };
        page = client.subtree(SubtreeRequest::new("/".into(), None, None, cursor))?;
    }
}

/// Watchers are not told of a node when only a child of it came or went.
pub(crate) fn as_told(mut node: Node) -> Node {
    (node.stat.pzxid, node.stat.num_children) = (0, 0);
    node
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
