//! Control: what is done with jobs that nobody performs, by their users and by administrators.

use super::change::{Change, MAX_MOVED, Outcome, Refused};
use super::check::check_name;
use super::engine::EngineError;
use super::enqueue::Asker;
use super::job::{Head, JobId, MAX_QUEUE_NAME, State, Until};
use super::keys::{self, QueueNumber};
use super::order::Order;

/// What an administrator wants of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// No job of it is handed out.
    Pause,
    Resume,
    /// Jobs of it are removed.
    Purge(Order),
    /// Dead jobs wait again.
    Retry,
}

/// Why a job does not wait again by hand.
pub(super) fn not_dead(id: JobId, state: State) -> Refused {
    let why = match state {
        State::Delayed { .. } => ": it is performed at its time; to have that now, cancel it and enqueue it again",
        _ => "",
    };
    Refused::Invalid("id", format!("job {id} is not dead{why}"))
}

impl Change<'_, '_> {
    /// Removes one that nobody performs.
    pub(super) fn cancel(&mut self, id: JobId) -> Outcome<()> {
        let head = self.head(id)?.ok_or(Refused::NoJob(id))?;
        match head.state {
            State::Running { .. } => Err(Refused::Running(id).into()),
            _ => Ok(self.remove(id, &head)?),
        }
    }

    /// Has a dead job of a queue wait again, as if it were new.
    pub(super) fn retry(&mut self, queue: &str, id: JobId) -> Outcome<()> {
        let number = self.number_of(queue)?;
        let head = self.head(id)?.ok_or(Refused::NoJob(id))?;
        if head.queue != number {
            let queue = self.book.queues.get(&head.queue).ok_or(EngineError::Damaged)?;
            return Err(Refused::Elsewhere(id, queue.name.clone()).into());
        }
        match head.state {
            State::Dead { .. } => Ok(self.revive(id, &head)?),
            state => Err(not_dead(id, state).into()),
        }
    }

    /// It has its unique key again, unless another job has that by now. One that it had until it started is over.
    fn revive(&mut self, id: JobId, head: &Head) -> Result<(), EngineError> {
        let mut next = Head { state: State::Waiting, failures: 0, lost: 0, unique: None, ..head.clone() };
        if let Some(unique) = head.unique.as_ref().filter(|unique| unique.until == Until::Success)
            && self.holder_of(head.queue, &unique.key)?.is_none_or(|holder| holder == id)
        {
            self.txn.put(&keys::unique(head.queue, &unique.key), &id.to_be_bytes())?;
            next.unique = Some(unique.clone());
        }
        self.moved(id, head, &next)
    }

    /// Takes jobs that nobody performs to another queue, with their ids: how many, and whether there are more.
    pub(super) fn move_to(&mut self, name: &str, to: &str, asker: Asker) -> Outcome<(usize, bool)> {
        let from = self.number_of(name)?;
        if name == to {
            return Err(Refused::Invalid("to", "it is the queue itself".to_owned()).into());
        }
        check_name("to", to, MAX_QUEUE_NAME)?;
        let (mut number, mut count) = (None, 0);
        for order in [Order::Waiting, Order::Delayed, Order::Dead] {
            let prefix = order.of(from);
            while let Some(place) = self.txn.first(&prefix, &prefix)? {
                if count == MAX_MOVED {
                    return Ok((count, true));
                }
                let queue = match number {
                    Some(queue) => queue,
                    None => *number.insert(self.ensure_queue(to, asker)?),
                };
                match self.standing_at(&place)? {
                    Some((id, head)) => self.move_one(id, &head, queue)?,
                    None => self.pass_over(&place, from, order)?,
                }
                count += 1;
            }
        }
        Ok((count, false))
    }

    fn move_one(&mut self, id: JobId, head: &Head, queue: QueueNumber) -> Result<(), EngineError> {
        let mut next = Head { queue, ..head.clone() };
        if let State::Delayed { until } = head.state {
            // By the clock on the wall as it is now, from which it is counted again.
            next.state = State::Delayed { until: self.book.delays.due(id, until, self.now) };
        }
        if let Some(unique) = &head.unique
            && self.holder_of(head.queue, &unique.key)? == Some(id)
        {
            self.free_key(id, head)?;
            match self.holder_of(queue, &unique.key)? {
                Some(_) => next.unique = None,
                None => self.txn.put(&keys::unique(queue, &unique.key), &id.to_be_bytes())?,
            }
        }
        let left = &mut self.book.queue(head.queue)?.counts.bytes;
        *left = left.saturating_sub(head.bytes);
        self.book.queue(queue)?.counts.bytes += head.bytes;
        self.moved(id, head, &next)
    }

    /// How many jobs that changed, and whether there are more.
    pub(super) fn control(&mut self, name: &str, control: Control) -> Outcome<(usize, bool)> {
        let number = self.number_of(name)?;
        let order = match control {
            Control::Pause | Control::Resume => {
                self.book.stir(number)?.counts.is_paused = control == Control::Pause;
                return Ok((0, false));
            }
            Control::Purge(order) => order,
            Control::Retry => Order::Dead,
        };
        let (prefix, mut count) = (order.of(number), 0);
        while let Some(place) = self.txn.first(&prefix, &prefix)? {
            if count == MAX_MOVED {
                return Ok((count, true));
            }
            match (self.standing_at(&place)?, control) {
                (Some((id, head)), Control::Retry) => self.revive(id, &head)?,
                (Some((id, head)), _) => self.remove(id, &head)?,
                (None, _) => self.pass_over(&place, number, order)?,
            }
            count += 1;
        }
        Ok((count, false))
    }
}
