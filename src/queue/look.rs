//! Looking: jobs and queues as they stand.

use super::attempt::Most;
use super::book::{Counts, Queue};
use super::change::{Change, Fault, Outcome, Refused};
use super::engine::{EngineError, sound};
use super::job::{Job, JobId, MAX_PRIORITY, OVERHEAD};
use super::keys;
use super::order::Order;
use super::performers::Performed;

/// Some jobs of a queue, and where the next begin, if there may be more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub jobs: Vec<Job>,
    pub next: Option<Vec<u8>>,
}

/// A queue as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overview {
    pub name: String,
    pub is_paused: bool,
    pub waiting: u64,
    /// How many of these a limit holds back.
    pub limited: u64,
    pub delayed: u64,
    pub running: u64,
    pub dead: u64,
    pub done: u64,
    pub bytes: u64,
    /// When the oldest was enqueued that waits, in ms since 1970.
    pub oldest_waiting: Option<u64>,
    /// How many jobs were enqueued in the last minute, and how many were done; none: that is not counted.
    pub enqueued_recently: Option<u64>,
    pub done_recently: Option<u64>,
    /// How many wait in this host's buffer until Redis has them, and since when, in ms since 1970.
    pub buffered: u64,
    pub buffered_since: Option<u64>,
    pub performed: Performed,
    /// How many attempts have failed lately whose jobs are tried again. In Redis, those of this sidecar.
    pub failed_lately: u64,
}

impl Change<'_, '_> {
    /// Treats a job as unknown whose queue and user do not pass.
    pub(super) fn ensure(&self, id: JobId, is_allowed: impl FnOnce(&str, Option<u32>) -> bool) -> Outcome<()> {
        let head = self.head(id)?.ok_or(Refused::NoJob(id))?;
        let queue = self.book.queues.get(&head.queue).ok_or(EngineError::Damaged)?;
        if is_allowed(&queue.name, head.user) { Ok(()) } else { Err(Refused::NoJob(id).into()) }
    }

    pub(super) fn find(&self, id: JobId) -> Outcome<Job> {
        let head = self.head(id)?.ok_or(Refused::NoJob(id))?;
        let content = self.content(id)?;
        Ok(self.job_of(id, head, content)?)
    }

    /// Queues that somebody sees, in the order of their names, after this one.
    pub(super) fn overviews(&self, after: &str, most: usize, sees: impl Fn(&str) -> bool) -> Outcome<Vec<Overview>> {
        let names = self.book.names.iter().filter(|(name, _)| name.as_str() > after && sees(name)).take(most);
        names.map(|(_, number)| Ok(self.overview(self.book.queues.get(number).ok_or(EngineError::Damaged)?)?)).collect()
    }

    fn overview(&self, queue: &Queue) -> Result<Overview, EngineError> {
        let Queue { name, counts, enqueued, done, .. } = queue;
        let (all, mut oldest): (_, Option<JobId>) = (Order::Waiting.of(counts.number), None);
        for priority in 0..=MAX_PRIORITY {
            let Some(place) = self.txn.first(&all, &keys::waiting(counts.number, priority, 0))? else { break };
            oldest = oldest.into_iter().chain(keys::id_in(&place)).min();
        }
        let head = oldest.map(|id| sound(self.head(id))).transpose()?.flatten().flatten();
        let Counts { is_paused, waiting, delayed, running, dead, bytes, .. } = *counts;
        let (name, oldest_waiting) = (name.clone(), head.map(|head| head.enqueued_at));
        let [enqueued_recently, done_recently] = [enqueued, done].map(|recent| Some(recent.count(self.now.uptime)));
        Ok(Overview {
            name,
            is_paused,
            waiting,
            limited: self.limited(queue),
            delayed,
            running,
            dead,
            done: counts.done,
            bytes,
            oldest_waiting,
            enqueued_recently,
            done_recently,
            ..Overview::default()
        })
    }

    /// Jobs of a queue in their order, from a place on. Damaged ones are left out.
    pub(super) fn peek(&self, name: &str, order: Order, from: &[u8], most: Most) -> Outcome<Page> {
        let prefix = order.of(self.number_of(name)?);
        let (mut at, mut jobs, mut bytes) = ([prefix.as_slice(), from].concat(), Vec::new(), 0);
        while let Some(place) = self.txn.first(&prefix, &at)? {
            if jobs.len() == most.jobs || bytes >= most.bytes {
                return Ok(Page { jobs, next: Some(at[prefix.len()..].to_vec()) });
            }
            at = keys::after(&place);
            match keys::id_in(&place).map(|id| self.find(id)) {
                Some(Ok(job)) => {
                    bytes += job.payload.len() + job.result.as_ref().map_or(0, Vec::len) + OVERHEAD;
                    jobs.push(job);
                }
                None | Some(Err(Fault::Engine(EngineError::Damaged) | Fault::Refused(_))) => {}
                Some(Err(error)) => return Err(error),
            }
        }
        Ok(Page { jobs, next: None })
    }
}
