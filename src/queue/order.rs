//! Orders: where the jobs of a queue stand, by their state.

use std::fmt;

use super::book::Counts;
use super::job::{Head, JobId, State};
use super::keys::{self, QueueNumber};

/// Which jobs of a queue are looked at or moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Waiting,
    Delayed,
    Running,
    Dead,
    /// Those that are done, and kept for their results.
    Done,
}

impl Order {
    pub(super) const ALL: [Self; 5] = [Self::Waiting, Self::Delayed, Self::Running, Self::Dead, Self::Done];

    /// What the keys of all queues begin with.
    pub(super) fn of_all(self) -> &'static [u8] {
        match self {
            Self::Waiting => keys::WAITING,
            Self::Delayed => keys::DELAYED,
            Self::Running => keys::RUNNING,
            Self::Dead => keys::DEAD,
            Self::Done => keys::DONE,
        }
    }

    /// What those of one queue begin with.
    pub(super) fn of(self, queue: QueueNumber) -> Vec<u8> {
        [self.of_all(), &queue.to_be_bytes()].concat()
    }

    pub(super) fn count_in(self, counts: &mut Counts) -> &mut u64 {
        match self {
            Self::Waiting => &mut counts.waiting,
            Self::Delayed => &mut counts.delayed,
            Self::Running => &mut counts.running,
            Self::Dead => &mut counts.dead,
            Self::Done => &mut counts.done,
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::Delayed => "delayed",
            Self::Running => "running",
            Self::Dead => "dead",
            Self::Done => "done",
        })
    }
}

impl State {
    pub(super) fn order(self) -> Order {
        match self {
            Self::Waiting => Order::Waiting,
            Self::Delayed { .. } => Order::Delayed,
            Self::Running { .. } => Order::Running,
            Self::Dead { .. } => Order::Dead,
            Self::Done { .. } => Order::Done,
        }
    }
}

/// The key of a job in the order of its state.
pub(super) fn place_of(id: JobId, head: &Head) -> Vec<u8> {
    match head.state {
        State::Waiting => keys::waiting(head.queue, head.priority, id),
        State::Delayed { until } => keys::delayed(head.queue, until, id),
        State::Running { .. } => keys::running(head.queue, id),
        State::Dead { since } => keys::dead(head.queue, since, id),
        State::Done { until } => keys::done(head.queue, until, id),
    }
}
