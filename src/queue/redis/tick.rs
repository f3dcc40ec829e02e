//! Ticks: what the time has come for. Every sidecar of a Redis does this, and whichever comes first has done it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use redis::Value;

use super::super::Totals;
use super::super::attempt::Update;
use super::super::job::{JobId, State};
use super::keys::{Step, place};
use super::link::{Arguments, Failed};
use super::record::{Record, id_of, known};
use super::resque;
use super::{Redis, TICK, scripts};
use crate::clock::Moment;

/// So many are looked at in one request, and so many requests are made in one tick.
pub(super) const BATCH: u64 = 100;
const ROUNDS: usize = 50;

/// So many results are forgotten in one step of Redis.
const FORGOTTEN: u64 = 1_000;

/// What is due since so many ms before the last look may be new: it is written with a delay, by clocks that differ.
const WRITTEN_LATE: u64 = 2_000;

/// What cannot be looked at now is looked at again after so many ms.
const LATER: u64 = 60_000;

/// What is too large for this sidecar is looked at again that soon, as another one may take it by then.
const LARGE_LATER: u64 = 3_000;

impl Redis {
    /// Whether all is done that was due.
    pub(super) async fn tick(&self) -> Result<bool, Failed> {
        let now = self.link.now()?;
        self.repeat_reports().await?;
        self.give_back_unheard().await?;
        self.passes_over("roster:popped", self.put_back(now).await)?;
        if self.buffer.is_some() {
            self.passes_over("roster:enqueued", self.forget_arrived(now).await)?;
        }
        self.recur().await?;
        let is_done = self.pass_time(now).await?;
        self.passes_over("pause-all-workers", self.look_whether_all_are_paused().await)?;
        self.passes_over("queues or roster:paused", self.count().await)?;
        Ok(is_done)
    }

    /// Does what is due by turns, some of the records and some of each second: a mass in one keeps no other waiting. Whether
    /// that was all.
    async fn pass_time(&self, now: u64) -> Result<bool, Failed> {
        let until = Instant::now() + TICK;
        for _ in 0..ROUNDS {
            let moved = self.passes_over("delayed_queue_schedule", self.move_scheduled(now).await)?.unwrap_or(0);
            let strays = self.passes_over("roster:scheduled", self.forget_strays(now).await)?.unwrap_or(0);
            let forgotten =
                self.passes_over("roster:results or roster:jobs", self.forget_results(now).await)?.unwrap_or(0);
            let is_over =
                self.passes_over("roster:due or roster:jobs", self.look_at_due("-inf", now).await)?.unwrap_or(true);
            // A mass of dead jobs whose time was over before keeps no lease waiting.
            if is_over || self.look_at_newly_due(now).await? {
                self.seen_due.store(now, Ordering::Relaxed);
            }
            if moved == 0 && strays == 0 && forgotten == 0 && is_over {
                return Ok(true);
            }
            // Who waits is looked after between ticks.
            if Instant::now() >= until {
                break;
            }
        }
        Ok(false)
    }

    /// Puts back what was taken off a queue by somebody who has died since.
    async fn put_back(&self, now: u64) -> Result<(), Failed> {
        let popped = self.keys.popped();
        for (member, read) in self.due(&popped, "-inf", now).await? {
            if matches!(read, Value::Int(_)) && member.is_empty() {
                _ = self.text_of(&popped, b"", read);
                continue;
            }
            let is_put_back = match parts_of(&member) {
                Some((queue, item)) => {
                    let (key, queues) = (self.keys.queue(queue), self.keys.key("queues"));
                    let step = Step::new(&self.keys)
                        .if_popped(&member)
                        .then_bytes([b"LPUSH", key.as_bytes(), item])
                        .then(["SADD", &queues, queue])
                        .then_bytes([b"ZREM", popped.as_bytes(), &member]);
                    self.passes_over(&key, self.change(step).await)?.is_some()
                }
                None => false,
            };
            if !is_put_back {
                self.look_later(&popped, &member, now + LATER).await?;
            }
        }
        Ok(())
    }

    async fn forget_results(&self, now: u64) -> Result<u64, Failed> {
        let arguments = Arguments::new(&self.keys.0).number(now).number(FORGOTTEN);
        self.link.run(&scripts::FORGET, arguments).await
    }

    /// Looks at records whose moment has come since there was none of those. Whether there are none again.
    async fn look_at_newly_due(&self, now: u64) -> Result<bool, Failed> {
        let seen = match self.seen_due.load(Ordering::Relaxed) {
            0 => now,
            seen => seen,
        };
        let looked = self.look_at_due(&seen.saturating_sub(WRITTEN_LATE).to_string(), now).await;
        Ok(self.passes_over("roster:due or roster:jobs", looked)?.unwrap_or(true))
    }

    /// Looks at records whose moment has come since then. Whether there are none.
    async fn look_at_due(&self, since: &str, now: u64) -> Result<bool, Failed> {
        let (due, jobs) = (self.keys.due(), self.keys.jobs());
        let records = self.due(&due, since, now).await?;
        let is_over = records.is_empty();
        for (member, read) in records {
            let is_large = matches!(read, Value::Int(_));
            let key = if member.is_empty() { &due } else { &jobs };
            let text = self.text_of(key, &member, read);
            if is_large {
                // Another sidecar may take such jobs.
                if !member.is_empty() {
                    self.look_later(&due, &member, now + LARGE_LATER).await?;
                }
                continue;
            }
            let of_job = match known(&member, &text) {
                Some((id, text, record)) => self.pass(id, text, &record, now).await,
                None => {
                    let (id, step) = (id_of(&member), Step::new(&self.keys));
                    let step = match id {
                        Some(id) => step.if_record(id, &text),
                        None => step,
                    };
                    if !text.is_empty() {
                        tracing::error!(id, "a job is damaged, and is not performed");
                    }
                    self.change(step.then_bytes([b"ZREM", due.as_bytes(), &member])).await.map(drop)
                }
            };
            if self.passes_over("roster:…", of_job)?.is_none() {
                self.look_later(&due, &member, now + LATER).await?;
            }
        }
        Ok(is_over)
    }

    /// Members whose moment has come since then, and what is read of their records. One that is too large is looked at later.
    async fn due(&self, key: &str, since: &str, now: u64) -> Result<Vec<(Vec<u8>, Value)>, Failed> {
        let arguments = Arguments::new(&self.keys.0).text(key).text(since).number(now).number(0).number(BATCH);
        let arguments = arguments.number(self.longest()).number(now + LATER);
        self.link.run(&scripts::DUE, arguments).await
    }

    /// Another time, so that a member keeps no other one from being looked at.
    async fn look_later(&self, key: &str, member: &[u8], later: u64) -> Result<(), Failed> {
        let later = later.to_string();
        self.change(Step::new(&self.keys).then_bytes([b"ZADD", key.as_bytes(), b"XX", later.as_bytes(), member]))
            .await
            .map(drop)
    }

    async fn pass(&self, id: JobId, text: &str, record: &Record, now: u64) -> Result<(), Failed> {
        let due = match record.state {
            State::Dead { since } => since + self.kept_dead(),
            state => place(state).1,
        };
        let step = Step::new(&self.keys).if_record(id, text);
        if due > now {
            let key = self.keys.due();
            return self.change(step.then(["ZADD", &key, &due.to_string(), &id.to_string()])).await.map(drop);
        }
        match (record.state, record.scheduled) {
            (State::Running { .. }, _) => {
                let error = "its lease ended".to_owned();
                let next = record.after(&Update::Lose { error: error.clone() }, now, &self.config);
                let is_dead = next.is_dead();
                if self.apply(id, text, record, next).await? {
                    self.note_failure(id, record, &error, is_dead);
                }
            }
            // Of a build that had no marks, or others have taken its second from the schedule.
            (State::Delayed { .. }, Some(second)) => {
                let list = self.keys.delayed(&second.to_string());
                let item = resque::due(&record.item, id, record.enqueued_at, &record.extras);
                let item = item.unwrap_or_else(|| record.item.clone());
                let moved = Step::new(&self.keys)
                    .if_record(id, text)
                    .if_in_list(&list, record.item.as_bytes())
                    .push("RPUSH", &record.queue, &item)
                    .hold(id, record, &item)
                    .unlist(&list, second, record.item.as_bytes())
                    .forget(id, record);
                if !self.change(moved).await? {
                    // Another scheduler has moved it, or somebody has removed it there.
                    self.change(step.free(id, record).forget(id, record)).await?;
                }
            }
            (State::Delayed { .. }, None) => {
                let item = record.waiting_again(id, record.extras.clone());
                let moved = step.push("RPUSH", &record.queue, &item).hold(id, record, &item).forget(id, record);
                self.change(moved).await?;
            }
            (State::Dead { .. } | State::Done { .. } | State::Waiting, _) => {
                return self.change(step.forget(id, record)).await.map(drop);
            }
        }
        self.is_ready(&record.queue);
        Ok(())
    }

    /// What is bad is passed over, and nothing else: it closes no connection. The log has a line of these keys now and then. None:
    /// Redis has refused to do it.
    pub(super) fn passes_over<T>(&self, keys: &str, done: Result<T, Failed>) -> Result<Option<T>, Failed> {
        match done {
            Ok(done) => Ok(Some(done)),
            Err(failed) if failed.is_of_data => {
                match failed.is_of_a_key {
                    _ if !self.notices.are_due(keys, Moment::now()) => {}
                    true => tracing::warn!(
                        keys,
                        error = %failed,
                        "a key of Redis is of another type than it should be, and what it is for is not done: rename it, or \
                         remove it with `DEL`"
                    ),
                    false => tracing::warn!(
                        keys,
                        error = %failed,
                        "something in a key of Redis is not as it should be, and what it is for is not done: remove what \
                         Roster and clients of Resque have not written"
                    ),
                }
                Ok(None)
            }
            Err(failed) => Err(failed),
        }
    }

    /// Other clients of Resque may have all queues stand still.
    async fn look_whether_all_are_paused(&self) -> Result<(), Failed> {
        let key = self.keys.key("pause-all-workers");
        // However large it is.
        let value: Vec<u8> = self.link.command(redis::cmd("GETRANGE").arg(&key).arg(0).arg(4)).await?;
        let why = (value == b"true").then(|| {
            Arc::new(format!("no job is handed out while {key:?} of Redis is `true`, as its other clients set it"))
        });
        if let (Some(why), None) = (&why, &*self.all_paused.load()) {
            tracing::warn!(why = why.as_str(), "the queues stand still");
        }
        self.all_paused.store(why);
        Ok(())
    }

    async fn count(&self) -> Result<(), Failed> {
        let names = self.names().await?;
        let mut totals = Totals { queues: names.len() as u64, ..Totals::default() };
        let mut idle = Vec::new();
        for it in self.overviews_of(names, 0).await? {
            totals.waiting += it.waiting;
            totals.delayed += it.delayed;
            totals.running += it.running;
            totals.dead += it.dead;
            totals.done += it.done;
            if it.waiting + it.delayed + it.running == 0 {
                idle.push(it.name);
            }
        }
        if !idle.is_empty() {
            self.tidy(idle).await?;
        }
        self.known.count(totals);
        Ok(())
    }

    /// What others have performed has left its key, and its queue a name. That they stay there harms nobody yet.
    async fn tidy(&self, idle: Vec<String>) -> Result<(), Failed> {
        let arguments = Arguments::new(&self.keys.0).number(self.config.max_queues as u64).texts(idle);
        let refused = match self.link.run::<u8>(&scripts::TIDY, arguments).await {
            Err(failed) if failed.is_of_this_alone() => Some(failed),
            done => done.map(|_| None)?,
        };
        let was_refused = self.is_untidy.swap(refused.is_some(), Ordering::Relaxed);
        if let Some(failed) = refused.filter(|_| !was_refused) {
            tracing::warn!(error = %failed, "unique keys and names of queues that nobody uses stay in Redis");
        }
        Ok(())
    }
}

/// The queue and the element of what was taken off.
pub(super) fn parts_of(member: &[u8]) -> Option<(&str, &[u8])> {
    let colon = member.iter().position(|byte| *byte == b':')?;
    let length: usize = std::str::from_utf8(member.get(..colon)?).ok()?.parse().ok()?;
    let (queue, item) = member.get(colon + 1..)?.split_at_checked(length)?;
    Some((std::str::from_utf8(queue).ok()?, item))
}
