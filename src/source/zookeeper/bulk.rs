//! Bulk: reads many nodes, with few bytes of replies on their way: large ones singly, small ones many a request.
//!
//! Of a node that is known its size is known too. Of a long list of children that are not, the sizes of some are asked
//! for, and the others are taken to be like them. What is large and known is only compared, since a server need not send
//! it again.

use std::sync::Arc;

use futures::StreamExt;
use futures::future::FutureExt;
use futures::stream::FuturesOrdered;

use super::jute::{Listing, Reading};
use super::pace::Pace;
use super::session::{Answers, Asked, Session, Trouble};
use super::watching::Watching;
use crate::model::{Node, NodePath};
use crate::source::Generation;
use crate::store::Snapshot;

/// Requests in flight. Their replies are taken in the order of the requests: a late "no such node" must not undo
/// what was read after it.
const REQUESTS: usize = 8;

/// Nodes that are read together by a request for each: all that are on their way are few beside the 1,000 of all clients
/// above which a server reads no more requests.
const SINGLES: usize = 32;

/// How many requests share what may be in flight, so that none waits for the one before it.
const SHARES: usize = 4;

/// A node with more data than this goes into no request with others, and is compared before it is read again.
pub(super) const LARGE: usize = 8 << 10;

/// What a reply has of each node beside its data; of each child beside its name.
const NODE_BYTES: usize = 100;
const CHILD_BYTES: usize = 50;

/// From this many siblings on, the sizes of some are learned first: as many as the half of the root, but at most so many.
const LONG_LIST: usize = 32;
const MAX_SAMPLES: usize = 32;

/// Questions for sizes in flight.
const SIZES_AT_ONCE: usize = 64;

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
    /// Reads nodes. What is large and known is only compared, if `compares`.
    pub(super) async fn read(
        &self,
        paths: &[NodePath],
        compares: bool,
        mut take: impl FnMut(&NodePath, Reading),
    ) -> Result<(), Trouble> {
        let samples = self.sample(paths).await?;
        let plan = |rest: &[NodePath]| self.plan(paths.len() - rest.len(), rest, &samples, compares);
        let read = |some: &[NodePath]| self.session.read(some);
        let ask = |some: &[NodePath]| match some {
            [path] if compares => match self.large(path) {
                Some(known) => self.session.compare(path, known.clone()).boxed(),
                None => read(some),
            },
            some => read(some),
        };
        let take = |path: &NodePath, reading: Reading| {
            if let Reading::Found(node) = &reading {
                self.pace.learn(node.data.len());
            }
            take(path, reading);
        };
        in_window(paths, self.pace.bytes(), plan, ask, read, take).await
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
            let sizes = counts.iter().map(|count| count.saturating_mul(CHILD_BYTES).saturating_add(NODE_BYTES));
            self.fitting(rest, sizes.map(|size| (size, size > LARGE)))
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

    /// How many of the first paths go into the next request, and about how large its reply will be. Before the first
    /// is so many others.
    fn plan(&self, before: usize, rest: &[NodePath], samples: &[Sample], compares: bool) -> (usize, usize) {
        let next = samples.partition_point(|sample| sample.first < before);
        let at = samples.get(next).filter(|sample| sample.first == before);
        at.inspect(|sample| self.pace.expect(sample.bytes));
        let end = samples.get(next + usize::from(at.is_some())).map_or(rest.len(), |sample| sample.first - before);
        let sizes = rest[..end].iter().map(|path| {
            let data = self.node(path).map_or_else(|| self.pace.expected(), |node| node.data.len());
            let is_compared = compares && self.large(path).is_some();
            (if is_compared { NODE_BYTES } else { data.saturating_add(NODE_BYTES) }, data > LARGE)
        });
        self.fitting(rest, sizes)
    }

    /// How many of the first paths fit into one request, at least one; and how large its reply will be. Of each is told
    /// how large the answer will be, and whether it goes alone.
    fn fitting(&self, paths: &[NodePath], sizes: impl Iterator<Item = (usize, bool)>) -> (usize, usize) {
        let most = self.pace.bytes() / SHARES;
        let (mut count, mut bytes, mut path_bytes) = (0, 0_usize, 0);
        for (path, (size, is_alone)) in paths.iter().zip(sizes).take(self.nodes_at_once()) {
            path_bytes += path.as_str().len();
            let with = bytes.saturating_add(size);
            if count > 0 && (with > most || path_bytes > self.pace.request_bytes() || is_alone) {
                break;
            }
            (count, bytes) = (count + 1, with);
            if is_alone {
                break;
            }
        }
        (count, bytes)
    }

    /// Learns about how large the nodes are that have many siblings and of which nothing is known.
    async fn sample(&self, paths: &[NodePath]) -> Result<Vec<Sample>, Trouble> {
        let mut lists = paths.chunk_by(|one, next| parent(one) == parent(next)).scan(0, |next, list| {
            let first = *next;
            *next += list.len();
            Some((first, list))
        });
        let (mut samples, mut asked) = (Vec::<Sample>::new(), FuturesOrdered::new());
        let mut some = lists.by_ref().filter(|(_, list)| list.len() >= LONG_LIST && self.node(&list[0]).is_none());
        let mut more = some.by_ref().flat_map(|(first, list)| {
            let count = (list.len().isqrt() / 2).min(MAX_SAMPLES);
            (0..count).map(move |number| (first, count, &list[number * list.len() / count]))
        });
        loop {
            while asked.len() < SIZES_AT_ONCE
                && let Some((first, count, path)) = more.next()
            {
                let size = self.session.size(path);
                asked.push_back(async move { size.await.map(|bytes| (first, bytes / count)) });
            }
            let Some(answered) = asked.next().await else { return Ok(samples) };
            let (first, bytes) = answered?;
            match samples.last_mut().filter(|last| last.first == first) {
                Some(last) => last.bytes += bytes,
                None => samples.push(Sample { first, bytes }),
            }
        }
    }
}

/// From this path of a list on, nodes hold about so many bytes.
#[derive(Clone, Copy, Debug)]
struct Sample {
    first: usize,
    bytes: usize,
}

fn parent(path: &NodePath) -> Option<&str> {
    path.as_str().rsplit_once('/').map(|(parent, _)| parent)
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

/// Takes the answers to some questions; where they would be too large together, or the server refuses one, asks again for
/// fewer at once.
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
