//! What is due: leases end, delays are over, and dead jobs have been kept for long enough.

use super::book::Queue;
use super::change::{Change, MAX_MOVED, millis};
use super::engine::{EngineError, sound};
use super::job::{Head, JobId, State};
use super::keys::{self, QueueNumber};
use super::order::Order;

impl Change<'_, '_> {
    /// Does what the time has come for, up to a bound. Leases are over that ended before `heard_until`, by the clock of
    /// leases: what was said later of a job may not have been heard yet.
    pub(super) fn tick(&mut self, heard_until: u64) -> Result<(), EngineError> {
        for _ in 0..MAX_MOVED {
            let Some(ended) = self.book.leases.first().filter(|lease| lease.end <= heard_until) else { break };
            if !self.book.queues.contains_key(&ended.queue) {
                self.book.leases.remove(ended.id);
                continue;
            }
            let place = keys::running(ended.queue, ended.id);
            match self.standing_at(&place)? {
                Some((id, head)) => self.lose(id, &head, "its lease ended")?,
                None => {
                    self.book.leases.remove(ended.id);
                    self.book.progress.remove(&ended.id);
                    self.pass_over(&place, ended.queue, Order::Running)?;
                }
            }
        }
        self.end_delays()?;
        let (now, kept_since) = (self.now.wall, self.now.wall.saturating_sub(millis(self.config.keep_dead)));
        let due =
            |queue: &&Queue| queue.first_delayed <= now || queue.first_dead <= kept_since || queue.first_done <= now;
        let due: Vec<QueueNumber> = self.book.queues.values().filter(due).map(|queue| queue.counts.number).collect();
        for number in due {
            let first = self.pass_time(number, Order::Delayed, now, |change, id, head| {
                let due = match head.state {
                    State::Delayed { until } => change.book.delays.due(id, until, change.now),
                    _ => now,
                };
                // Where the clock on the wall was set forward, it stands where it is found at the right time.
                let state = if due > now { State::Delayed { until: due } } else { State::Waiting };
                change.moved(id, head, &Head { state, ..head.clone() })
            })?;
            let first_dead =
                self.pass_time(number, Order::Dead, kept_since, |change, id, head| change.remove(id, head))?;
            let first_done = self.pass_time(number, Order::Done, now, |change, id, head| change.remove(id, head))?;
            if let Some(queue) = self.book.queues.get_mut(&number) {
                (queue.first_delayed, queue.first_dead, queue.first_done) = (first, first_dead, first_done);
            }
        }
        Ok(())
    }

    /// Ends delays that are over by the clock that nobody sets, where that on the wall may say otherwise.
    fn end_delays(&mut self) -> Result<(), EngineError> {
        for _ in 0..MAX_MOVED {
            let Some((_, id)) = self.book.delays.first().filter(|(end, _)| *end <= self.now.since_boot) else { break };
            let head = sound(self.head(id))?.flatten();
            let is_delayed =
                |head: &Head| matches!(head.state, State::Delayed { .. }) && self.book.queues.contains_key(&head.queue);
            match head.filter(is_delayed) {
                Some(head) => self.moved(id, &head, &Head { state: State::Waiting, ..head.clone() })?,
                None => self.book.delays.remove(id),
            }
        }
        Ok(())
    }

    /// Does this with jobs of an order whose time has come; the time of the first one that is left.
    fn pass_time(
        &mut self,
        queue: QueueNumber,
        order: Order,
        until: u64,
        each: impl Fn(&mut Self, JobId, &Head) -> Result<(), EngineError>,
    ) -> Result<u64, EngineError> {
        let prefix = order.of(queue);
        for _ in 0..MAX_MOVED {
            let Some(place) = self.txn.first(&prefix, &prefix)? else { return Ok(u64::MAX) };
            if let Some(time) = keys::time_in(&place).filter(|time| *time > until) {
                return Ok(time);
            }
            match self.standing_at(&place)? {
                Some((id, head)) => each(self, id, &head)?,
                None => self.pass_over(&place, queue, order)?,
            }
        }
        Ok(until)
    }
}
