//! Requests: what waits for the thread that has the file. Users take turns, so that none waits for all that another asks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::ASK_SIZE;
use super::keeper::Ask;
use crate::share::{Share, Taken};

/// How much one transaction carries out, by the size of what is asked, and of that, how much of what is larger than a small
/// request: who has asked for little waits until that is written.
const MAX_BATCH: usize = 1_024 * ASK_SIZE;
const MAX_BATCH_OF_LARGE: usize = 2 << 20;

/// So much where the disk is full, where it may find room for little.
const MAX_BATCH_WHEN_FULL: usize = 16 * ASK_SIZE;

#[derive(Debug)]
pub(super) struct Requests {
    asked: mpsc::UnboundedReceiver<Ask>,
    /// What of it each user has asked, in that order. The first one is next.
    by_user: VecDeque<(User, VecDeque<Ask>)>,
}

/// By its share. None: the sidecar.
type User = Option<Arc<Share>>;

impl Requests {
    pub(super) fn new(asked: mpsc::UnboundedReceiver<Ask>) -> Self {
        Self { asked, by_user: VecDeque::new() }
    }

    /// Waits for the next one. None: nobody asks any more.
    pub(super) async fn recv(&mut self) -> Option<Ask> {
        match self.next() {
            Some(next) => Some(next),
            None => self.asked.recv().await,
        }
    }

    /// As much as one transaction carries out, with one that was received before, and when the oldest was asked that waits yet.
    pub(super) fn batch(&mut self, first: Option<Ask>, is_full: bool) -> (Vec<Ask>, Option<Instant>) {
        let most = if is_full { MAX_BATCH_WHEN_FULL } else { MAX_BATCH };
        let (mut batch, mut size, mut large) = (Vec::new(), 0, 0);
        self.sort();
        let mut next = first;
        while let Some(ask) = next.take().or_else(|| self.next()) {
            size += ask.size();
            large += ask.size().saturating_sub(ASK_SIZE);
            batch.push(ask);
            if size >= most || large >= MAX_BATCH_OF_LARGE {
                break;
            }
        }
        let waiting = self.by_user.iter().filter_map(|(_, asks)| asks.front());
        (batch, waiting.map(|ask| ask.at).min())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_user.is_empty() && self.asked.is_empty()
    }

    /// Nobody can ask any more.
    pub(super) fn close(&mut self) {
        self.asked.close();
    }

    fn next(&mut self) -> Option<Ask> {
        self.sort();
        let (user, mut asks) = self.by_user.pop_front()?;
        let next = asks.pop_front();
        if !asks.is_empty() {
            self.by_user.push_back((user, asks));
        }
        next
    }

    fn sort(&mut self) {
        while let Ok(ask) = self.asked.try_recv() {
            let user = ask.place.as_ref().as_ref().map(Taken::share);
            match self.by_user.iter_mut().find(|(other, _)| is_same(other, &user)) {
                Some((_, asks)) => asks.push_back(ask),
                None => self.by_user.push_back((user, [ask].into())),
            }
        }
    }
}

fn is_same(one: &User, other: &User) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::keeper::What;
    use super::*;
    use crate::share::Pool;

    #[tokio::test]
    async fn users_take_turns_each_in_its_order_and_large_requests_are_carried_out_few_at_a_time() {
        let pool = Pool::new(1 << 30, 1);
        let shares = [pool.share(None), pool.share(None)];
        let (asks, asked) = mpsc::unbounded_channel();
        let mut requests = Requests::new(asked);
        let began = Instant::now();
        let ask = |user: Option<usize>, number: u32, size: usize| {
            let taken = user.map(|user| shares[user].take(size).expect("there is room"));
            let ask = Ask { what: What::GiveBack(vec![(0, number)]), at: Instant::now(), place: Arc::new(taken) };
            asks.send(ask).expect("it is there");
        };
        let number = |ask: &Ask| match &ask.what {
            What::GiveBack(attempts) => attempts[0].1,
            _ => panic!("all are such"),
        };
        (0..9).for_each(|nth| ask(Some(0), nth, 1 << 20));
        (10..12).for_each(|nth| ask(Some(1), nth, ASK_SIZE));
        ask(None, 20, 0);
        let first = requests.recv().await;
        let (batch, oldest) = requests.batch(first, false);
        assert_eq!(batch.iter().map(number).collect::<Vec<_>>(), [0, 10, 20, 1, 11, 2]);
        assert!(oldest.is_some_and(|oldest| oldest >= began), "some wait yet");
        let (batch, _) = requests.batch(None, false);
        assert_eq!(batch.iter().map(number).collect::<Vec<_>>(), [3, 4, 5]);
        let (batch, _) = requests.batch(None, true);
        assert_eq!(batch.iter().map(number).collect::<Vec<_>>(), [6]);
        let (batch, oldest) = requests.batch(None, false);
        assert_eq!((batch.len(), oldest), (2, None));
        assert!(requests.is_empty());
        drop(asks);
        assert!(requests.recv().await.is_none());
    }
}
