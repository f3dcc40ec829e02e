//! The scan: reads subtrees as a whole, level by level, many nodes a request and a few requests in flight.

use std::future::Future;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesOrdered;

use super::Config;
use super::jute::{Listing, Reading};
use super::left_out::{LeftOut, Why};
use super::level::Level;
use super::session::{Answers, Session, Trouble};
use crate::model::{Node, NodePath};
use crate::source::Generation;
use crate::store::{Filled, Snapshot};

/// Requests in flight. Their replies are taken in the order of the requests: a late "no such node" must not undo
/// what was read after it.
const IN_FLIGHT: usize = 4;

/// Nodes in a request: at first, and at most.
const BATCH: (usize, usize) = (16, 256);

/// Paths in a request: a server ends the connection of one who sends more than a MiB.
pub(super) const REQUEST_BYTES: usize = 256 << 10;

/// Data in a reply: with more than this, the next requests ask for fewer nodes.
const REPLY_BYTES: usize = 1 << 20;

/// What of the ensemble is mirrored, and how much may be.
#[derive(Debug)]
pub(super) struct Scope<'a> {
    pub(super) config: &'a Config,
}

/// What a scan found.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) generation: Generation,
    pub(super) left_out: LeftOut,
    budget: Budget,
}

/// How many nodes and bytes may still be taken in beyond what is known. What is known keeps its place: who came first
/// stays.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    nodes: u64,
    bytes: u64,
}

impl Budget {
    pub(super) fn new(config: &Config, filled: Filled) -> Self {
        Self {
            nodes: (config.max_nodes as u64).saturating_sub(filled.nodes),
            bytes: config.max_bytes.as_u64().saturating_sub(filled.bytes),
        }
    }

    /// Whether there is place for a node, in place of what was known of it; then it is taken.
    pub(super) fn admits(&mut self, path: &NodePath, node: &Node, old: Option<&Arc<Node>>) -> bool {
        let (nodes, bytes) = match old {
            Some(old) => (0, node.data.len().saturating_sub(old.data.len())),
            None => (1, path.as_str().len() + node.data.len()),
        };
        let admits = nodes <= self.nodes && bytes as u64 <= self.bytes;
        if admits {
            self.nodes -= nodes;
            self.bytes -= bytes as u64;
        }
        admits
    }
}

/// What to do with what was read of a node.
#[derive(Debug)]
pub(super) enum Verdict {
    Keep(Arc<Node>),
    /// It may not be read, or passes a limit: then this older state of it stands.
    LeaveOut(Why, Option<Arc<Node>>),
    /// It is of no interest.
    Ignore,
    Gone,
}

impl Scope<'_> {
    /// Whether a path is of any interest, be it for what lies below it.
    pub(super) fn enters(&self, path: &NodePath) -> bool {
        self.config.roots.iter().any(|root| path.is_under(root))
            && (self.config.exclude.is_empty() || !path.upwards().any(|above| self.config.exclude.is_match(above)))
    }

    /// Whether a node at this path is kept.
    pub(super) fn keeps(&self, path: &NodePath) -> bool {
        self.config.include.is_empty() || self.config.include.is_match(path.as_str())
    }

    fn is_too_deep(&self, path: &NodePath) -> bool {
        path.depth() > self.config.max_depth
    }

    /// What to do with what was read of a node. One that is too large keeps the data that `known` has of it.
    pub(super) fn judge(&self, path: &NodePath, reading: Reading, known: &Snapshot) -> Verdict {
        match reading {
            Reading::Found(_) if !self.keeps(path) => Verdict::Ignore,
            Reading::Found(_) if self.is_too_deep(path) => Verdict::LeaveOut(Why::TooDeep, None),
            Reading::Found(node) if node.data.len() as u64 <= self.config.max_node_bytes.as_u64() => {
                Verdict::Keep(Arc::new(node))
            }
            Reading::Found(_) => Verdict::LeaveOut(Why::TooLarge, known.node(path).cloned()),
            Reading::Absent => Verdict::Gone,
            Reading::Unreadable => Verdict::LeaveOut(Why::Unreadable, None),
            Reading::TooLarge => Verdict::LeaveOut(Why::TooLarge, known.node(path).cloned()),
        }
    }

    /// Reads all there is.
    pub(super) async fn scan(&self, session: &Session, known: &Snapshot, budget: Budget) -> Result<Scan, Trouble> {
        let mut scan = Scan { generation: Generation::new(), left_out: LeftOut::default(), budget };
        let mut level: Vec<NodePath> = self.config.roots.clone();
        let mut batch = BATCH.0;
        while !level.is_empty() {
            let (mut parents, mut expected) = (Vec::new(), 0);
            in_batches(
                &level,
                &mut batch,
                |paths| session.read(paths),
                |path, reading| {
                    let (size, children) = match &reading {
                        Reading::Found(node) => (node.data.len(), node.stat.num_children.max(0) as usize),
                        // Nobody knows how many.
                        Reading::TooLarge => (0, 1),
                        Reading::Absent | Reading::Unreadable => (0, 0),
                    };
                    let has_place = scan.take(path, self.judge(path, reading, known), known);
                    // What lies below a node for which there is no place has none either.
                    if children > 0 && has_place && !self.is_too_deep(path) {
                        // With more than there may be place for, only what is known is still followed.
                        let is_full = expected >= self.config.max_nodes.saturating_sub(scan.generation.len());
                        if is_full && known.children(path).next().is_none() {
                            scan.left_out.insert_below(path, Why::NoPlaceBelow);
                        } else {
                            expected += children;
                            parents.push(path.clone());
                        }
                    }
                    Ok(size)
                },
            )
            .await?;
            let mut next = Level::new(self, scan.generation.len());
            let mut listed = BATCH.0;
            in_batches(
                &parents,
                &mut listed,
                |paths| session.list(paths),
                |parent, listing| {
                    let size = match &listing {
                        Listing::Names(names) => names.size(),
                        Listing::Nothing | Listing::TooLarge => 0,
                    };
                    next.add(parent, listing, known, &mut scan.left_out);
                    Ok(size)
                },
            )
            .await?;
            level = next.paths;
        }
        Ok(scan)
    }
}

impl Scan {
    /// Takes in what became of a node; false: it passes the budget, and is left out for that.
    pub(super) fn take(&mut self, path: &NodePath, verdict: Verdict, known: &Snapshot) -> bool {
        self.left_out.remove(path);
        match verdict {
            Verdict::Ignore => {}
            Verdict::Keep(node) => {
                let old = self.generation.get(path).or_else(|| known.node(path));
                if !self.budget.admits(path, &node, old) {
                    self.leave_out(path, Why::NoPlace, known.node(path).cloned());
                    return false;
                }
                self.generation.insert(path.clone(), node);
            }
            Verdict::LeaveOut(why, older) => self.leave_out(path, why, older),
            Verdict::Gone => {
                let below = self.generation.range(path.clone()..).map(|(below, _)| below);
                let gone: Vec<NodePath> = below.take_while(|below| below.is_under(path)).cloned().collect();
                gone.iter().for_each(|path| drop(self.generation.remove(path)));
            }
        }
        true
    }

    fn leave_out(&mut self, path: &NodePath, why: Why, older: Option<Arc<Node>>) {
        self.left_out.insert(path, why);
        match older {
            Some(node) => drop(self.generation.insert(path.clone(), node)),
            None => drop(self.generation.remove(path)),
        }
    }
}

/// How many of the first paths fit into one request, at least one.
fn fitting(paths: &[NodePath], most: usize) -> usize {
    let mut bytes = 0;
    let fits = |path: &&NodePath| {
        bytes += path.as_str().len();
        bytes <= REQUEST_BYTES
    };
    paths.iter().take(most).take_while(fits).count().max(1)
}

/// What an answer is where the reply to a single question would be too large.
pub(super) trait TooLarge {
    const TOO_LARGE: Self;
}

impl TooLarge for Reading {
    const TOO_LARGE: Self = Reading::TooLarge;
}

impl TooLarge for Listing {
    const TOO_LARGE: Self = Listing::TooLarge;
}

/// Asks for all of `paths`, a batch a request, and hands every answer to `take`, in order. What `take` returns is the
/// answer's size, by which the batches grow and shrink.
pub(super) async fn in_batches<'a, T: TooLarge, F>(
    paths: &'a [NodePath],
    batch: &mut usize,
    ask: impl Fn(&'a [NodePath]) -> F,
    mut take: impl FnMut(&NodePath, T) -> Result<usize, Trouble>,
) -> Result<(), Trouble>
where
    F: Future<Output = Result<Answers<T>, Trouble>>,
{
    let mut rest = paths;
    let mut asked = FuturesOrdered::new();
    loop {
        while asked.len() < IN_FLIGHT && !rest.is_empty() {
            let (some, more) = rest.split_at(fitting(rest, *batch));
            let answers = ask(some);
            asked.push_back(async move { answers.await.map(|answers| (some, answers)) });
            rest = more;
        }
        let Some(answered) = asked.next().await else { return Ok(()) };
        let (some, answers) = answered?;
        let bytes = take_or_halve(some, answers, &ask, &mut take).await?;
        *batch = if bytes > REPLY_BYTES { (*batch * REPLY_BYTES / bytes).max(1) } else { (*batch * 2).min(BATCH.1) };
    }
}

/// Takes the answers to some questions; where they would be too large together, asks again for fewer at once. How
/// large they were.
async fn take_or_halve<'a, T: TooLarge, F>(
    paths: &'a [NodePath],
    answers: Answers<T>,
    ask: &impl Fn(&'a [NodePath]) -> F,
    take: &mut impl FnMut(&NodePath, T) -> Result<usize, Trouble>,
) -> Result<usize, Trouble>
where
    F: Future<Output = Result<Answers<T>, Trouble>>,
{
    let (mut bytes, mut now, mut later) = (0, (paths, answers), Vec::new());
    loop {
        match now {
            (paths, Answers::All(answers)) => {
                for (path, answer) in paths.iter().zip(answers) {
                    bytes += take(path, answer)?;
                }
            }
            ([path], Answers::TooLarge) => bytes += take(path, T::TOO_LARGE)?.max(REPLY_BYTES + 1),
            (paths, Answers::TooLarge) => {
                let (first, second) = paths.split_at(paths.len() / 2);
                later.extend([second, first]);
            }
        }
        let Some(paths) = later.pop() else { return Ok(bytes) };
        now = (paths, ask(paths).await?);
    }
}
