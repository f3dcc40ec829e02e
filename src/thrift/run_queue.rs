//! The run queue: the connections of a thread take turns, the users first, and then the connections of each.
//!
//! A runtime polls its tasks in the order in which they were woken. So who has a thousand busy connections would be
//! served a thousand times before another user once. Here a connection works only while it has the turn; those that
//! wait for it wait in a queue of their user, and the users are served one after the other.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::shares::User;

/// How long a connection may work while others wait; and how long the thread works before it looks who else has come.
const TURN: Duration = Duration::from_millis(1);

/// Who works and who waits, of one thread.
#[derive(Debug, Default)]
pub(super) struct RunQueue {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_taken: bool,
    /// How long connections have worked since the thread looked who else has come.
    worked: Duration,
    waiting: HashMap<User, VecDeque<oneshot::Sender<Turn>>>,
    /// The users of whom somebody waits, the next one first.
    order: VecDeque<User>,
}

/// The right to work, passed on when dropped. Whoever has it must not wait for anything else.
#[derive(Debug)]
pub(super) struct Turn {
    queue: Arc<RunQueue>,
    /// Whether the thread has worked for so long that it must look who else has come.
    looks: bool,
    began: Instant,
}

impl RunQueue {
    /// Waits for the turn.
    pub(super) async fn turn(self: &Arc<Self>, user: User) -> Turn {
        let mut turn = match self.take_or_wait(user) {
            Ok(turn) if !turn.looks => return turn,
            Ok(turn) => turn,
            Err(waiting) => waiting.await.expect("a turn is only ever passed on"),
        };
        if turn.looks {
            // Others read meanwhile what came for them, and wait too.
            tokio::task::yield_now().await;
        }
        turn.began = Instant::now();
        turn
    }

    fn take_or_wait(self: &Arc<Self>, user: User) -> Result<Turn, oneshot::Receiver<Turn>> {
        let mut state = self.state();
        if !state.is_taken {
            state.is_taken = true;
            return Ok(self.give(&mut state));
        }
        let (sender, receiver) = oneshot::channel();
        state.wait(user, sender);
        Err(receiver)
    }

    /// Passes the turn to whoever is next.
    fn pass_on(self: &Arc<Self>, worked: Duration) {
        let mut state = self.state();
        state.worked += worked;
        while let Some(next) = state.next() {
            if next.is_closed() {
                continue;
            }
            let turn = self.give(&mut state);
            drop(state);
            // One that stops waiting just now drops the turn, which passes it on.
            let _ = next.send(turn);
            return;
        }
        state.is_taken = false;
    }

    fn give(self: &Arc<Self>, state: &mut State) -> Turn {
        let looks = state.worked >= TURN;
        if looks {
            state.worked = Duration::ZERO;
        }
        Turn { queue: self.clone(), looks, began: Instant::now() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&mut self, user: User, one: oneshot::Sender<Turn>) {
        let waiting = self.waiting.entry(user).or_default();
        if waiting.is_empty() {
            self.order.push_back(user);
        }
        waiting.push_back(one);
    }

    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let user = self.order.pop_front()?;
        let waiting = self.waiting.get_mut(&user)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&user);
        } else {
            self.order.push_back(user);
        }
        next
    }
}

impl Turn {
    /// Whether it has lasted long enough.
    pub(super) fn is_over(&self) -> bool {
        self.began.elapsed() >= TURN
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.queue.pass_on(self.began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use std::cell::RefCell;

    use super::*;

    const ATTACKER: User = Some(1);
    const OTHER: User = Some(2);

    #[tokio::test]
    async fn one_connection_of_another_user_waits_for_one_turn_and_not_for_all() {
        let queue = Arc::<RunQueue>::default();
        let worked = RefCell::new(Vec::new());
        let work = async |user: User| {
            let turn = queue.turn(user).await;
            worked.borrow_mut().push(user);
            drop(turn);
        };
        let now = queue.turn(ATTACKER).await;
        let all = futures::future::join_all((0..1_000).map(|_| work(ATTACKER)));
        futures::join!(all, work(OTHER), async move { drop(now) });
        let worked = worked.into_inner();
        assert_eq!(worked.len(), 1_001);
        assert!(worked[..2].contains(&OTHER), "it waited for {:?}", worked.iter().position(|user| *user == OTHER));
    }

    #[tokio::test]
    async fn the_turn_passes_by_who_no_longer_waits_for_it() {
        let queue = Arc::<RunQueue>::default();
        let now = queue.turn(ATTACKER).await;
        let (gone, given_up) = (queue.take_or_wait(OTHER), queue.take_or_wait(OTHER));
        let mut next = Box::pin(queue.turn(OTHER));
        assert!(next.as_mut().now_or_never().is_none());
        drop(gone);
        drop(now);
        assert!(next.as_mut().now_or_never().is_none(), "it is another's, which has not taken it yet");
        drop(given_up);
        drop(next.await);
        let last = queue.turn(ATTACKER).now_or_never();
        drop(last.expect("nobody waits"));
        assert!(queue.state().waiting.is_empty() && queue.state().order.is_empty());
    }
}
