//! Controls: what an administrator wants of a queue.

use std::sync::Arc;

use futures::future::BoxFuture;
use redis::Value;

use super::super::Place;
use super::super::change::Refused;
use super::super::control::{Control, not_dead};
use super::super::job::{JobId, State, Until};
use super::super::order::Order;
use super::keys::Step;
use super::link::{Arguments, Failed};
use super::record::{Record, known};
use super::resque::{self, Extras};
use super::{Redis, no_matter, scripts};

/// So many jobs are moved at once: others wait for it; and so many of those that wait in one step.
const MAX_MOVED: u64 = 1_000;
const PAGE: u64 = 100;

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

    /// Pauses a queue that may not be there yet.
    pub(super) async fn pause(&self, queue: &str) -> Result<(), Failed> {
        let (paused, queues) = (self.keys.key("roster:paused"), self.keys.key("queues"));
        self.change(Step::new(&self.keys).then(["SADD", &paused, queue]).then(["SADD", &queues, queue])).await.map(drop)
    }

    async fn purge_waiting(&self, queue: &str) -> Result<(usize, bool), Failed> {
        let (key, aside, largest) = (self.keys.queue(queue), self.keys.set_aside(), self.largest());
        let mut count = 0;
        for _ in 0..MAX_MOVED / PAGE {
            let arguments = Arguments::default().text(&key).number(0).number(PAGE).number(largest);
            let items: Vec<Value> = self.link.run(&scripts::LIST, arguments).await?;
            if items.is_empty() {
                return Ok((count, false));
            }
            let step = items.iter().fold(Step::new(&self.keys), |step, item| {
                let Value::BulkString(text) = item else {
                    return step.then(["ASIDE", &key, &aside, &largest.to_string()]);
                };
                let step = step.if_in_list(&key, text).then_bytes([b"LREM", key.as_bytes(), b"1", text]);
                let Some(item) = resque::read(text) else { return step };
                let record = Record::new(queue.to_owned(), State::Waiting, &item, String::new(), 0);
                match item.extras.id.or(item.id) {
                    Some(id) => step.free(id, &record),
                    None => step,
                }
            });
            // Otherwise somebody has taken some of them meanwhile.
            if self.change(step).await? {
                count += items.len();
            }
        }
        Ok((count, true))
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
                let is_done = match known(&id, &text) {
                    Some((id, text, record)) if is_retry => self.revive(id, text, &record).await?,
                    Some((id, text, record)) => self.remove(id, text, &record).await?,
                    None => false,
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
        let Some(second) = record.scheduled else { return self.change(step).await };
        let list = self.keys.delayed(&second.to_string());
        self.change(step.unlist(&list, second, record.item.as_bytes())).await
    }

    /// Removes a delayed job if it is near an end of its scheduler's list: Redis looks at no more of that.
    pub(super) async fn remove_near_end(&self, id: JobId, text: &str, record: &Record) -> Result<bool, Failed> {
        let Some(second) = record.scheduled else { return Ok(false) };
        let (list, item) = (self.keys.delayed(&second.to_string()), record.item.as_bytes());
        let step = Step::new(&self.keys).if_record(id, text).if_near_end(&list, item);
        let step = step.free(id, record).forget(id, record).unlist_near_end(&list, second, item);
        self.change(step).await
    }

    /// Has a dead job wait again: with its unique key, unless another job has that by now.
    async fn revive(&self, id: JobId, text: &str, record: &Record) -> Result<bool, Failed> {
        let unique = record.extras.unique.clone().filter(|unique| unique.until == Until::Success);
        let extras = Extras { failures: 0, lost: 0, unique, ..record.extras.clone() };
        let mut waits = Record { state: State::Waiting, extras, ..record.clone() };
        let mut is_done = self.change(self.revived(id, (text, record), &waits)).await?;
        if !is_done && waits.extras.unique.take().is_some() {
            is_done = self.change(self.revived(id, (text, record), &waits)).await?;
        }
        self.is_ready(&record.queue);
        Ok(is_done)
    }

    fn revived(&self, id: JobId, (text, dead): (&str, &Record), waits: &Record) -> Step<'_> {
        let item = waits.waiting_again(id, waits.extras.clone());
        let step = Step::new(&self.keys).if_record(id, text).if_key_is_free(waits);
        step.push("RPUSH", &waits.queue, &item).hold(id, waits, &item).forget(id, dead)
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
                let record = Record::read(&text).ok_or(Refused::NoJob(id))?;
                if record.queue != queue {
                    return Err(Refused::Elsewhere(id, record.queue));
                }
                let is_dead = matches!(record.state, State::Dead { .. });
                match is_dead && redis.revive(id, &text, &record).await? {
                    true => Ok(()),
                    false => Err(not_dead(id, record.state)),
                }
            })
        };
        self.ask(&place, work, no_matter).await
    }
}
