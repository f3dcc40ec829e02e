//! Controls: what an administrator wants of a queue.

use std::sync::Arc;

use super::super::Place;
use super::super::change::Refused;
use super::super::control::Control;
use super::super::job::{JobId, State};
use super::super::order::Order;
use super::keys::Step;
use super::link::Failed;
use super::record::Record;
use super::resque::Extras;
use super::{Redis, no_matter};
use futures::future::BoxFuture;

/// So many jobs are moved at once: others wait for it.
const MAX_MOVED: u64 = 1_000;

impl Redis {
    pub(in crate::queue) async fn control(
        self: &Arc<Self>,
        place: Place,
        queue: String,
        control: Control,
    ) -> Result<(usize, bool), Refused> {
        let work = move |redis: Arc<Self>| -> BoxFuture<'static, Result<_, Refused>> {
            Box::pin(async move {
                redis.ensure_queue(&queue).await?;
                let paused = redis.keys.key("roster:paused");
                let word = match control {
                    Control::Pause => "SADD",
                    Control::Resume => "SREM",
                    Control::Purge(Order::Waiting) => return Ok(redis.purge_waiting(&queue).await?),
                    Control::Purge(order) => return Ok(redis.each_of(&queue, order, false).await?),
                    Control::Retry => return Ok(redis.each_of(&queue, Order::Dead, true).await?),
                };
                redis.change(Step::new(&redis.keys).then([word, &paused, &queue])).await?;
                redis.is_ready(&queue);
                Ok((0, false))
            })
        };
        self.ask(&place, work, no_matter).await
    }

    async fn purge_waiting(&self, queue: &str) -> Result<(usize, bool), Failed> {
        let key = self.keys.queue(queue);
        let length: u64 = self.link.command(&redis::Cmd::llen(&key)).await?;
        let few = length.min(MAX_MOVED);
        self.change(Step::new(&self.keys).then(["LTRIM", &key, &few.to_string(), "-1"])).await?;
        Ok((few as usize, length > few))
    }

    /// Removes the jobs of a queue in a state, or has them wait again; how many, and whether there are more.
    async fn each_of(&self, queue: &str, order: Order, is_retry: bool) -> Result<(usize, bool), Failed> {
        let (mut count, mut passed) = (0, 0);
        while count < MAX_MOVED as usize {
            let records = self.records(queue, order, passed, MAX_MOVED - count as u64).await?;
            if records.is_empty() {
                return Ok((count, false));
            }
            for (id, text) in records {
                let is_done = match (id.parse(), Record::read(&text)) {
                    (Ok(id), Some(record)) if is_retry => self.revive(id, &text, &record).await?,
                    (Ok(id), Some(record)) => self.remove(id, &text, &record).await?,
                    _ => false,
                };
                match is_done {
                    true => count += 1,
                    false => passed += 1,
                }
            }
        }
        Ok((count, true))
    }

    pub(super) async fn remove(&self, id: JobId, text: &str, record: &Record) -> Result<bool, Failed> {
        let step = Step::new(&self.keys).if_record(id, text).free(id, record).forget(id, record);
        let Some(second) = record.scheduled.map(|second| second.to_string()) else { return self.change(step).await };
        let (list, schedule) = (self.keys.delayed(&second), self.keys.key("delayed_queue_schedule"));
        let is_removed = self.change(step.then(["LREM", &list, "1", &record.item])).await?;
        self.change(Step::new(&self.keys).if_no_list(&list).then(["ZREM", &schedule, &second])).await?;
        Ok(is_removed)
    }

    async fn revive(&self, id: JobId, text: &str, record: &Record) -> Result<bool, Failed> {
        let extras = Extras { failures: 0, lost: 0, unique: None, ..record.extras.clone() };
        let item = record.waiting_again(id, extras);
        let step = Step::new(&self.keys).if_record(id, text).push("RPUSH", &record.queue, &item).forget(id, record);
        let is_done = self.change(step).await?;
        self.is_ready(&record.queue);
        Ok(is_done)
    }

    /// Has a dead job of a queue wait again, as if it were new.
    pub(in crate::queue) async fn retry(
        self: &Arc<Self>,
        place: Place,
        queue: String,
        id: JobId,
    ) -> Result<(), Refused> {
        let work = move |redis: Arc<Self>| -> BoxFuture<'static, Result<_, Refused>> {
            Box::pin(async move {
                redis.ensure_queue(&queue).await?;
                let text = redis.record_of(id).await?.unwrap_or_default();
                let record = Record::read(&text).filter(|record| record.queue == queue).ok_or(Refused::NoJob(id))?;
                let is_dead = matches!(record.state, State::Dead { .. });
                match is_dead && redis.revive(id, &text, &record).await? {
                    true => Ok(()),
                    false => Err(Refused::Invalid("id", format!("job {id} is not dead"))),
                }
            })
        };
        self.ask(&place, work, no_matter).await
    }
}
