//! Bulk: reads many nodes, with few bytes of replies on their way: large ones singly, small ones many a request.
//!
//! Of a node that is known its size is known too. Of many that are not, some are read first, before them some of these,
//! and so on; the others are taken to be like the ones that lie around them. What is large and known is only compared,
//! since a server need not send it again.

use std::iter::successors;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::FutureExt;
use futures::stream::FuturesOrdered;

use super::jute::{Listing, Reading};
use super::pace::Pace;
use super::session::{Answers, Asked, Session, Trouble};
use super::watching::Watching;
use crate::model::{Node, NodePath};
use crate::mutant;
use crate::source::Generation;
use crate::store::Snapshot;

/// Requests in flight. Their replies are taken in the order of the requests: a late "no such node" must not undo
/// what was read after it.
const REQUESTS: usize = 8;

/// Nodes that are read together by a request for each: all that are on their way are few beside the 1,000 of all
/// clients above which a server reads no more requests.
const SINGLES: usize = 32;

/// How many requests share what may be in flight, so that none waits for the one before it.
const SHARES: usize = 4;

/// A node with more data than this goes into no request with others, and is compared before it is read again.
pub(super) const LARGE: usize = 8 << 10;

/// What a reply has of each node beside its data or the list of its children; and of each child, with its name.
const NODE_BYTES: usize = 100;
const CHILD_BYTES: usize = 50;

/// Of so many nodes of which nothing is known one is read before the others.
const SCOUTED: usize = 32;

/// Reads nodes through a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bulk<'a> {
    pub(super) session: &'a Session,
    pub(super) pace: &'a Pace,
    pub(super) known: &'a Snapshot,
    /// What earlier attempts have read, which ended before it could be published.
    pub(super) earlier: &'a Generation,
}

impl<'a> Bulk<'a> {
    /// Reads nodes, parents before their children: what is below one that cannot be read is hidden. What is large and
    /// known is only compared, if `compares`.
    pub(super) async fn read(
        &self,
        paths: &[NodePath],
        compares: bool,
        mut take: impl FnMut(&NodePath, Reading),
    ) -> Result<(), Trouble> {
        let mut take = |path: &NodePath, reading: Reading| {
            if let Reading::Found(node) = &reading {
                self.pace.learn(node.data.len());
            }
            take(path, reading);
        };
        let mut rest = paths.to_vec();
        while !rest.is_empty() {
            let (above, below) = parted(rest);
            let (mut known, mut sizes, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
            for path in above {
                match self.node(&path) {
                    Some(node) => {
                        known.push(path);
                        sizes.push(node.data.len());
                    }
                    None => unknown.push(path),
                }
            }
            self.read_known(&known, &sizes, compares, &mut take).await?;
            self.explore(&unknown, &mut take).await?;
            rest = below;
        }
        Ok(())
    }

    async fn read_known(
        &self,
        paths: &[NodePath],
        sizes: &[usize],
        compares: bool,
        take: impl FnMut(&NodePath, Reading),
    ) -> Result<(), Trouble> {
        let most = if compares { LARGE + 1 } else { usize::MAX };
        let plan = |rest: &[NodePath]| {
            self.fitting(rest, sizes[paths.len() - rest.len()..].iter().map(|size| most.min(*size)))
        };
        let read = |some: &[NodePath]| self.session.read(some);
        let ask = |some: &[NodePath]| match some {
            [path] if compares => match self.large(path) {
                Some(known) => self.session.compare(path, known.clone()).boxed(),
                None => read(some),
            },
            some => read(some),
        };
        in_window(paths, self.pace.bytes(), plan, ask, read, take).await
    }

    /// Reads nodes of which nothing is known. Of many, some that lie far apart are read first; then some between them,
    /// and at last all others, which are taken to be like those around them. The very first are read as if they were as
    /// large as may be.
    async fn explore(&self, paths: &[NodePath], mut take: impl FnMut(&NodePath, Reading)) -> Result<(), Trouble> {
        if !paths.is_empty() {
            self.pace.forget();
        }
        let mut sizes = vec![None; paths.len()];
        let steps = successors(Some(1), |step| Some(step * SCOUTED)).take_while(|step| *step <= paths.len());
        for step in steps.collect::<Vec<_>>().into_iter().rev() {
            let places: Vec<usize> = (0..paths.len()).step_by(step).filter(|at| sizes[*at].is_none()).collect();
            let some: Vec<NodePath> = places.iter().map(|at| paths[*at].clone()).collect();
            let apart = step * SCOUTED;
            let size = |at: &usize| {
                let before = at - at % apart;
                let around = [before, before + apart].into_iter().filter_map(|at| *sizes.get(at)?);
                around.fold(self.pace.expected(), usize::max)
            };
            let plan = |rest: &[NodePath]| self.fitting(rest, places[places.len() - rest.len()..].iter().map(size));
            let read = |some: &[NodePath]| self.session.read(some);
            let mut found = Vec::with_capacity(some.len());
            let take = |path: &NodePath, reading: Reading| {
                found.push(if let Reading::Found(node) = &reading { node.data.len() } else { 0 });
                take(path, reading);
            };
            in_window(&some, self.pace.bytes(), plan, read, read, take).await?;
            places.iter().zip(found).for_each(|(at, size)| sizes[*at] = Some(size));
        }
        Ok(())
    }

    /// Lists the children of nodes; of each is known about how many there are.
    pub(super) async fn list(
        &self,
        parents: &[NodePath],
        counts: &[usize],
        take: impl FnMut(&NodePath, Listing),
    ) -> Result<(), Trouble> {
        let plan = |rest: &[NodePath]| {
            let counts = &counts[parents.len() - rest.len()..];
            self.fitting(rest, counts.iter().map(|count| count.saturating_mul(CHILD_BYTES)))
        };
        let list = |some: &[NodePath]| self.session.list(some);
        in_window(parents, self.pace.bytes(), plan, list, list, take).await
    }

    fn nodes_at_once(&self) -> usize {
        match self.session.watching() {
            Watching::Persistent => self.pace.nodes(),
            Watching::OneShot => self.pace.nodes().min(SINGLES),
        }
    }

    pub(super) fn node(&self, path: &NodePath) -> Option<&'a Arc<Node>> {
        self.earlier.get(path).or_else(|| self.known.node(path))
    }

    fn large(&self, path: &NodePath) -> Option<&'a Arc<Node>> {
        self.node(path).filter(|node| node.data.len() > LARGE)
    }

    /// How many of the first paths fit into one request, at least one; and how large its reply will be. Of each is told
    /// how many bytes of data or names it has. What is large goes alone.
    fn fitting(&self, paths: &[NodePath], sizes: impl Iterator<Item = usize>) -> (usize, usize) {
        let most = self.pace.bytes() / SHARES;
        let (mut count, mut bytes, mut path_bytes) = (0, 0_usize, 0);
        for (path, size) in paths.iter().zip(sizes).take(self.nodes_at_once()) {
            let size = if mutant::is("all-at-once") { 0 } else { size };
            path_bytes += path.as_str().len();
            let with = bytes.saturating_add(size).saturating_add(NODE_BYTES);
            if count > 0 && (with > most || path_bytes > self.pace.request_bytes() || size > LARGE) {
                break;
            }
            (count, bytes) = (count + 1, with);
            if size > LARGE {
                break;
            }
        }
        (count, bytes)
    }
}

/// Those of some paths, in their order, that lie below no other, and those that do.
fn parted(paths: Vec<NodePath>) -> (Vec<NodePath>, Vec<NodePath>) {
    let mut last: Option<NodePath> = None;
    paths.into_iter().partition(|path| {
        let is_below = last.as_ref().is_some_and(|last| path.is_under(last));
        if !is_below {
            last = Some(path.clone());
        }
        !is_below
    })
}

/// What an answer is where there is none to a single question.
trait NoAnswer {
    /// The reply would be too large.
    const TOO_LARGE: Self;
    /// The server refuses it.
    const REFUSED: Self;
}

impl NoAnswer for Reading {
    const TOO_LARGE: Self = Reading::TooLarge;
    const REFUSED: Self = Reading::Refused;
}

impl NoAnswer for Listing {
    const TOO_LARGE: Self = Listing::TooLarge;
    const REFUSED: Self = Listing::Nothing;
}

/// Asks for all of `paths`, some a request, with at most so many bytes on their way, and hands every answer to `take`,
/// in order.
async fn in_window<'p, T: NoAnswer>(
    paths: &'p [NodePath],
    most: usize,
    plan: impl Fn(&'p [NodePath]) -> (usize, usize),
    ask: impl Fn(&'p [NodePath]) -> Asked<T>,
    ask_again: impl Fn(&'p [NodePath]) -> Asked<T>,
    mut take: impl FnMut(&NodePath, T),
) -> Result<(), Trouble> {
    let (mut rest, mut in_flight, mut asked) = (paths, 0, FuturesOrdered::new());
    loop {
        while !rest.is_empty() && asked.len() < REQUESTS {
            let (count, bytes) = plan(rest);
            if !asked.is_empty() && in_flight + bytes > most {
                break;
            }
            let (some, more) = rest.split_at(count);
            let answers = ask(some);
            asked.push_back(async move { answers.await.map(|answers| (some, bytes, answers)) });
            (rest, in_flight) = (more, in_flight + bytes);
        }
        let Some(answered) = asked.next().await else { return Ok(()) };
        let (some, bytes, answers) = answered?;
        in_flight -= bytes;
        take_or_ask_again(some, answers, &ask_again, &mut take).await?;
    }
}

/// Takes the answers to some questions; where they would be too large together, or the server refuses one, asks again
/// for fewer at once.
async fn take_or_ask_again<'p, T: NoAnswer>(
    paths: &'p [NodePath],
    answers: Answers<T>,
    ask_again: &impl Fn(&'p [NodePath]) -> Asked<T>,
    take: &mut impl FnMut(&NodePath, T),
) -> Result<(), Trouble> {
    let (mut now, mut later) = ((paths, answers), Vec::new());
    loop {
        match now {
            (paths, Answers::All(answers)) => paths.iter().zip(answers).for_each(|(path, answer)| take(path, answer)),
            (paths, Answers::Changed) => later.push(paths),
            ([path], Answers::TooLarge) => take(path, T::TOO_LARGE),
            ([path], Answers::Refused) => take(path, T::REFUSED),
            (paths, Answers::TooLarge | Answers::Refused) => {
                let (first, second) = paths.split_at(paths.len() / 2);
                later.extend([second, first]);
            }
        }
        let Some(paths) = later.pop() else { return Ok(()) };
        now = (paths, ask_again(paths).await?);
    }
}
