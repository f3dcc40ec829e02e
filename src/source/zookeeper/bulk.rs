//! Bulk: reads many nodes with a bounded amount of replies in flight: large nodes singly, small ones many per request.
//!
//! The size of a known node is known too. Of many unknown ones, some are read first, and before them some of these, and
//! so on; the others are assumed to be like those around them, and no more are requested at once than the nodes read so
//! far justify. Large known nodes are only compared, since a server need not send them again.

use std::iter::successors;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::FutureExt;
use futures::stream::FuturesOrdered;

use super::pace::{Guess, Pace, UNKNOWN_BYTES};
use crate::model::{Node, NodePath};
use crate::mutant;
use crate::source::Generation;
use crate::store::Snapshot;
use crate::task::random_below;
use crate::zookeeper::{Answers, Asked, Listing, ReadResult, Session, SessionError, Watching};

/// Requests in flight. Their replies are taken in the order of the requests: a late "no such node" must not undo what
/// was read after it.
const MAX_REQUESTS_IN_FLIGHT: usize = 8;

/// Nodes that are read together by one request each: few compared to the 1,000 outstanding requests of all clients
/// above which a server stops reading.
const MAX_SINGLE_REQUESTS: usize = 32;

/// How many requests share the bytes that may be in flight, so that none waits for the one before it.
const IN_FLIGHT_SHARES: usize = 4;

/// A node with more data than this is never read together with others, and is compared before it is read again.
pub(super) const LARGE_NODE_BYTES: usize = 8 << 10;

/// The size of a node in a reply besides its data or the list of its children; and of each child, with its name.
const NODE_BYTES: usize = 100;
const CHILD_BYTES: usize = 50;

/// Of this many unknown nodes, one is read before the others.
const SCOUT_STRIDE: usize = 32;

/// Reads nodes through a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bulk<'a> {
    pub(super) session: &'a Session,
    pub(super) pace: &'a Pace,
    pub(super) known: &'a Snapshot,
    /// What earlier attempts read before they failed and could not publish it.
    pub(super) earlier: &'a Generation,
}

impl<'a> Bulk<'a> {
    /// Reads nodes, parents before their children: anything below an unreadable one is hidden. If `compares`, large
    /// known nodes are only compared.
    pub(super) async fn read(
        &self,
        paths: &[NodePath],
        compares: bool,
        mut take: impl FnMut(&NodePath, ReadResult),
    ) -> Result<(), SessionError> {
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
        take: impl FnMut(&NodePath, ReadResult),
    ) -> Result<(), SessionError> {
        let most = if compares { LARGE_NODE_BYTES + 1 } else { usize::MAX };
        let plan = |rest: &[NodePath]| {
            let sizes = &sizes[paths.len() - rest.len()..];
            self.fitting(rest, self.nodes_at_once(), sizes.iter().map(|size| most.min(*size)))
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

    /// Reads unknown nodes. Of many, some that lie far apart are read first; then some between them, and finally all
    /// others, which are assumed to be like those around them. Each is at a random place, since sizes may repeat at any
    /// distance. The very first are read as if they had the maximum size.
    ///
    /// Small ones prove little about others: after n of them, one in n may still be large without having been met. So
    /// at most about twice as many as have arrived are in flight.
    async fn explore(
        &self,
        paths: &[NodePath],
        mut take: impl FnMut(&NodePath, ReadResult),
    ) -> Result<(), SessionError> {
        let (guess, mut sizes) = (Guess::new(), vec![None; paths.len()]);
        let steps = successors(Some(1), |step| Some(step * SCOUT_STRIDE)).take_while(|step| *step <= paths.len());
        for step in steps.collect::<Vec<_>>().into_iter().rev() {
            let places = unread_places(&sizes, step);
            let some: Vec<NodePath> = places.iter().map(|at| paths[*at].clone()).collect();
            let apart = step * SCOUT_STRIDE;
            let largest: Vec<usize> =
                sizes.chunks(apart).map(|read| read.iter().flatten().max().copied().unwrap_or_default()).collect();
            let size = |at: &usize| {
                let stride = at / apart;
                let around = &largest[stride.saturating_sub(1)..largest.len().min(stride + 2)];
                around.iter().fold(guess.bytes(), |most, size| most.max(*size))
            };
            let plan = |rest: &[NodePath]| {
                let most_nodes = self.nodes_at_once().min(1 + guess.count() / IN_FLIGHT_SHARES);
                self.fitting(rest, most_nodes, places[places.len() - rest.len()..].iter().map(size))
            };
            let read = |some: &[NodePath]| self.session.read(some);
            let mut found = Vec::with_capacity(some.len());
            let take = |path: &NodePath, reading: ReadResult| {
                let size = bytes_of(&reading, self.pace.bytes());
                guess.learn(size);
                found.push(size);
                take(path, reading);
            };
            in_window(&some, self.pace.bytes(), plan, read, read, take).await?;
            places.iter().zip(found).for_each(|(at, size)| sizes[*at] = Some(size));
        }
        Ok(())
    }

    /// Lists the children of nodes; the approximate number of each one's children is known.
    pub(super) async fn list(
        &self,
        parents: &[NodePath],
        counts: &[usize],
        take: impl FnMut(&NodePath, Listing),
    ) -> Result<(), SessionError> {
        let plan = |rest: &[NodePath]| {
            let counts = &counts[parents.len() - rest.len()..];
            self.fitting(rest, self.nodes_at_once(), counts.iter().map(|count| count.saturating_mul(CHILD_BYTES)))
        };
        let list = |some: &[NodePath]| self.session.list(some);
        in_window(parents, self.pace.bytes(), plan, list, list, take).await
    }

    fn nodes_at_once(&self) -> usize {
        match self.session.watching() {
            Watching::Persistent => self.pace.nodes(),
            Watching::OneShot => self.pace.nodes().min(MAX_SINGLE_REQUESTS),
        }
    }

    pub(super) fn node(&self, path: &NodePath) -> Option<&'a Arc<Node>> {
        self.earlier.get(path).or_else(|| self.known.node(path))
    }

    fn large(&self, path: &NodePath) -> Option<&'a Arc<Node>> {
        self.node(path).filter(|node| node.data.len() > LARGE_NODE_BYTES)
    }

    /// How many of the first paths fit into one request, at least one; and how large its reply will be. `sizes` has the
    /// number of bytes of data or names of each. Large ones go alone.
    fn fitting(&self, paths: &[NodePath], most_nodes: usize, sizes: impl Iterator<Item = usize>) -> (usize, usize) {
        let most = self.pace.bytes() / IN_FLIGHT_SHARES;
        let (mut count, mut bytes, mut path_bytes) = (0, 0_usize, 0);
        for (path, size) in paths.iter().zip(sizes).take(most_nodes) {
            let size = if mutant::is("all-at-once") { 0 } else { size };
            path_bytes += self.session.request_bytes(path);
            let with = bytes.saturating_add(size).saturating_add(NODE_BYTES);
            if count > 0 && (with > most || path_bytes > self.pace.request_bytes() || size > LARGE_NODE_BYTES) {
                break;
            }
            (count, bytes) = (count + 1, with);
            if size > LARGE_NODE_BYTES {
                break;
            }
        }
        (count, bytes)
    }
}

/// How many bytes a node took; for one that is too large, more than any other, and all that may be in flight.
fn bytes_of(reading: &ReadResult, most: usize) -> usize {
    match reading {
        ReadResult::Found(node) => node.data.len(),
        ReadResult::TooLarge => most.max(UNKNOWN_BYTES),
        ReadResult::Absent | ReadResult::Unreadable | ReadResult::Refused => 0,
    }
}

/// A random place in each stride of this length in which nothing was read.
fn unread_places(sizes: &[Option<usize>], step: usize) -> Vec<usize> {
    let strides = sizes.chunks(step).zip((0..).step_by(step));
    let unread = strides.filter(|(stride, _)| stride.iter().all(Option::is_none));
    unread.map(|(stride, start)| start + random_below(stride.len())).collect()
}

/// The paths, in order, that are below no other of them, and those that are.
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

/// The result for a single question without an answer.
trait NoAnswer {
    /// The reply would be too large.
    const TOO_LARGE: Self;
    /// The server refuses it.
    const REFUSED: Self;
}

impl NoAnswer for ReadResult {
    const TOO_LARGE: Self = ReadResult::TooLarge;
    const REFUSED: Self = ReadResult::Refused;
}

impl NoAnswer for Listing {
    const TOO_LARGE: Self = Listing::TooLarge;
    const REFUSED: Self = Listing::Nothing;
}

/// Requests all of `paths`, several per request, with at most `most` bytes in flight, and passes every answer to
/// `take`, in order.
async fn in_window<'p, T: NoAnswer>(
    paths: &'p [NodePath],
    most: usize,
    plan: impl Fn(&'p [NodePath]) -> (usize, usize),
    ask: impl Fn(&'p [NodePath]) -> Asked<T>,
    ask_again: impl Fn(&'p [NodePath]) -> Asked<T>,
    mut take: impl FnMut(&NodePath, T),
) -> Result<(), SessionError> {
    let (mut rest, mut in_flight, mut asked) = (paths, 0, FuturesOrdered::new());
    loop {
        while !rest.is_empty() && asked.len() < MAX_REQUESTS_IN_FLIGHT {
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

/// Takes the answers to some questions; if they would be too large together, or the server refuses one, asks again for
/// fewer at once.
async fn take_or_ask_again<'p, T: NoAnswer>(
    paths: &'p [NodePath],
    answers: Answers<T>,
    ask_again: &impl Fn(&'p [NodePath]) -> Asked<T>,
    take: &mut impl FnMut(&NodePath, T),
) -> Result<(), SessionError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_each_stride_is_read_first_wherever_it_lies_and_none_where_one_was() {
        let mut sizes = vec![None; 100];
        sizes[40] = Some(1);
        let mut seen = [false; 32];
        for _ in 0..2_000 {
            let places = unread_places(&sizes, 32);
            assert_eq!(places.iter().map(|at| at / 32).collect::<Vec<_>>(), [0, 2, 3]);
            assert!(places[2] < sizes.len());
            seen[places[0]] = true;
        }
        assert!(seen.iter().all(|seen| *seen), "{seen:?}");
        let all = unread_places(&sizes, 1);
        assert!(all.len() == 99 && !all.contains(&40));
    }

    #[test]
    fn a_node_that_is_too_large_is_taken_for_no_small_one() {
        assert_eq!(bytes_of(&ReadResult::TooLarge, 4 * UNKNOWN_BYTES), 4 * UNKNOWN_BYTES);
        assert_eq!(bytes_of(&ReadResult::TooLarge, 1), UNKNOWN_BYTES);
        assert_eq!(bytes_of(&ReadResult::Unreadable, UNKNOWN_BYTES), 0);
    }
}
