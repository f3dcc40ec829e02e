//! Looks: how queues stand, and what is in them.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use futures::future::BoxFuture;
use redis::Value;

use super::super::Place;
use super::super::attempt::Most;
use super::super::change::Refused;
use super::super::job::{Job, JobId, MAX_QUEUE_NAME, OVERHEAD, State};
use super::super::look::{Overview, Page};
use super::super::order::Order;
use super::keys::Step;
use super::link::{Arguments, Failed};
use super::record::Record;
use super::resque::{self, Item};
use super::tick::parts_of;
use super::{Redis, no_matter, scripts};
use crate::clock::millis_since_1970;

/// A waiting job is looked for among so many of each queue, in steps.
const MAX_SEARCHED: u64 = 20_000;
const SEARCH_STEP: u64 = 1_000;

/// So many queues are named of which jobs are in the buffer.
const MAX_NAMED: usize = 20;

/// Each search may have Redis look at much: there is one at a time, and each user has one of those that wait.
#[derive(Debug, Default)]
pub(super) struct Searches {
    users: Mutex<HashSet<Option<u32>>>,
    turn: tokio::sync::Mutex<()>,
}

/// That a user has a search, or waits for one.
struct InLine<'s> {
    searches: &'s Searches,
    user: Option<u32>,
}

impl Searches {
    async fn turn(&self, user: Option<u32>) -> Result<(InLine<'_>, tokio::sync::MutexGuard<'_, ()>), Refused> {
        if !self.users().insert(user) {
            let why = "another job of this user is looked for that waits in Redis, one at a time; try again";
            return Err(Refused::Full(why.to_owned()));
        }
        let in_line = InLine { searches: self, user };
        Ok((in_line, self.turn.lock().await))
    }

    fn users(&self) -> MutexGuard<'_, HashSet<Option<u32>>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.searches.users().remove(&self.user);
    }
}

/// A page has no more.
const MAX_PAGE: u64 = 200;

impl Redis {
    pub(in crate::queue) async fn overviews(
        self: &Arc<Self>,
        place: Place,
        after: String,
        most: usize,
        sees: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<Vec<Overview>, Refused> {
        let of_buffer = place.clone();
        let look = move |redis: Arc<Self>| -> BoxFuture<'static, Result<_, Refused>> {
            Box::pin(async move {
                let of_redis = match redis.names().await {
                    Ok(mut names) => {
                        names.retain(|name| *name > after && sees(name));
                        names.truncate(most);
                        redis.overviews_of(names, redis.largest()).await
                    }
                    Err(failed) => Err(failed),
                };
                let Some(buffer) = &redis.buffer else { return Ok(of_redis?) };
                // What is wrong with it is told beside them.
                let mut kept = buffer.overviews(of_buffer).await.unwrap_or_default();
                kept.retain(|it| it.name > after && sees(&it.name));
                let named = |it: Overview| (it.name.clone(), it);
                let mut all: BTreeMap<_, _> = match of_redis {
                    Ok(of_redis) => of_redis.into_iter().map(named).collect(),
                    Err(failed) => return Err(Refused::Unavailable(format!("{failed}{}", in_buffer(&kept)))),
                };
                for Overview { name, waiting, oldest_waiting, .. } in kept {
                    let of_queue = all.entry(name.clone()).or_insert(Overview { name, ..Overview::default() });
                    (of_queue.buffered, of_queue.buffered_since) = (waiting, oldest_waiting);
                }
                Ok(all.into_values().take(most).collect())
            })
        };
        self.ask(&place, look, no_matter).await
    }

    /// In their order.
    pub(super) async fn names(&self) -> Result<Vec<String>, Failed> {
        let (most, longest) = (self.config.max_queues as u64, MAX_QUEUE_NAME as u64);
        let arguments = Arguments::new(&self.keys.0).number(most).number(longest);
        let names: Vec<Vec<u8>> = self.link.run(&scripts::NAMES, arguments).await?;
        let mut names: Vec<String> = names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect();
        names.retain(|name| !name.is_empty() && !name.chars().any(char::is_control));
        names.sort_unstable();
        Ok(names)
    }

    pub(super) async fn overviews_of(&self, names: Vec<String>, largest: u64) -> Result<Vec<Overview>, Failed> {
        let arguments = Arguments::new(&self.keys.0).number(largest).texts(&names);
        let counts: Vec<(bool, i64, u64, u64, u64, Vec<u8>)> = self.link.run(&scripts::COUNT, arguments).await?;
        let overview =
            |(name, (is_paused, waiting, delayed, running, dead, first)): (_, (_, i64, _, _, _, Vec<u8>))| {
                let oldest_waiting = resque::read(&first).and_then(|item| item.enqueued_at);
                let waiting = u64::try_from(waiting).unwrap_or(0);
                Overview { name, is_paused, waiting, delayed, running, dead, oldest_waiting, ..Overview::default() }
            };
        Ok(names.into_iter().zip(counts).map(overview).collect())
    }

    pub(in crate::queue) async fn peek(
        self: &Arc<Self>,
        place: Place,
        queue: String,
        order: Order,
        from: Vec<u8>,
        most: Most,
    ) -> Result<Page, Refused> {
        let look = move |redis: Arc<Self>| -> BoxFuture<'static, Result<_, Refused>> {
            Box::pin(async move {
                let from = from.try_into().map(u64::from_be_bytes).unwrap_or(0).min(1 << 40);
                let limit = (most.jobs as u64).min(MAX_PAGE);
                let jobs = match order {
                    Order::Waiting => redis.waiting(&queue, from, limit).await?,
                    order => redis.kept(&queue, order, from, limit).await?,
                };
                if jobs.is_empty() && from == 0 {
                    redis.ensure_queue(&queue).await?;
                }
                let seen = from + jobs.len() as u64;
                let mut bytes = 0;
                let (mut page, mut next) = (Vec::new(), (jobs.len() as u64 > 0).then_some(seen));
                for (at, job) in (from..).zip(jobs) {
                    if bytes >= most.bytes {
                        next = Some(at);
                        break;
                    }
                    bytes += job.as_ref().map_or(0, |job: &Job| job.payload.len() + OVERHEAD);
                    page.extend(job);
                }
                Ok(Page { jobs: page, next: next.map(|next| next.to_be_bytes().to_vec()) })
            })
        };
        self.ask(&place, look, no_matter).await
    }

    /// Elements of a queue as jobs; none: one that is none.
    async fn waiting(&self, queue: &str, from: u64, limit: u64) -> Result<Vec<Option<Job>>, Failed> {
        let key = self.keys.queue(queue);
        let arguments = Arguments::default().text(key).number(from).number(limit).number(self.largest());
        let items: Vec<Value> = self.link.run(&scripts::LIST, arguments).await?;
        let now = self.link.now()?;
        let job = |item: Value| {
            let Value::BulkString(text) = item else { return None };
            Some(self.job_of(queue, &text, &resque::read(&text)?, now))
        };
        Ok(items.into_iter().map(job).collect())
    }

    fn job_of(&self, queue: &str, text: &[u8], item: &Item, now: u64) -> Job {
        let id = item.extras.id.or(item.id).unwrap_or_else(|| resque::id_of_text(text));
        let text = String::from_utf8_lossy(text).into_owned();
        Record::new(queue.to_owned(), State::Waiting, item, text, now).into_job(id, &self.config)
    }

    pub(super) async fn records(
        &self,
        queue: &str,
        order: Order,
        from: u64,
        limit: u64,
    ) -> Result<Vec<(String, String)>, Failed> {
        let state = match order {
            Order::Waiting | Order::Done => return Ok(Vec::new()),
            Order::Delayed => "delayed",
            Order::Running => "running",
            Order::Dead => "dead",
        };
        let key = self.keys.state(state, queue);
        let arguments = Arguments::new(&self.keys.0).text(key).text("-inf").text("+inf").number(from).number(limit);
        self.link.run(&scripts::DUE, arguments).await
    }

    async fn kept(&self, queue: &str, order: Order, from: u64, limit: u64) -> Result<Vec<Option<Job>>, Failed> {
        let records = self.records(queue, order, from, limit).await?;
        let job = |(id, text): (String, String)| Some(Record::read(&text)?.into_job(id.parse().ok()?, &self.config));
        Ok(records.into_iter().map(job).collect())
    }

    pub(super) async fn ensure_queue(&self, queue: &str) -> Result<(), Refused> {
        let command = redis::Cmd::sismember(self.keys.key("queues"), queue);
        match self.link.command(&command).await? {
            true => Ok(()),
            false => Err(Refused::NoQueue(queue.to_owned())),
        }
    }

    pub(in crate::queue) async fn find(
        self: &Arc<Self>,
        place: Place,
        user: Option<u32>,
        id: JobId,
        is_allowed: impl FnOnce(&str, Option<u32>) -> bool + Send + 'static,
    ) -> Result<Job, Refused> {
        let look = move |redis: Arc<Self>| -> BoxFuture<'static, Result<_, Refused>> {
            Box::pin(async move {
                let job = match redis.record_of(id).await?.as_deref().and_then(Record::read) {
                    Some(record) => {
                        let progress = redis.leases().get(&id).and_then(|lease| lease.progress.clone());
                        Job { progress, ..record.into_job(id, &redis.config) }
                    }
                    None => match redis.search(user, id).await {
                        Ok((queue, text, item)) => redis.job_of(&queue, &text, &item, redis.link.now()?),
                        Err(why) => redis.on_its_way(id).await?.ok_or(why)?,
                    },
                };
                if is_allowed(&job.queue, job.user) { Ok(job) } else { Err(Refused::NoJob(id)) }
            })
        };
        self.ask(&place, look, no_matter).await
    }

    /// A job that is being taken off its queue, and is in no list.
    async fn on_its_way(&self, id: JobId) -> Result<Option<Job>, Failed> {
        let arguments = Arguments::default().text(self.keys.popped()).text(searched(id));
        let member: Option<Vec<u8>> = self.link.run(&scripts::POPPED, arguments).await?;
        let parts = member.as_deref().and_then(parts_of);
        if let Some((queue, text, item)) = parts.and_then(|(queue, text)| Some((queue, text, resque::read(text)?))) {
            return Ok(Some(self.job_of(queue, text, &item, self.link.now()?)));
        }
        // It may have been handed out meanwhile.
        let record = self.record_of(id).await?;
        Ok(record.as_deref().and_then(Record::read).map(|record| record.into_job(id, &self.config)))
    }

    /// Looks for a job that was enqueued here in the queues where it may wait.
    async fn search(&self, user: Option<u32>, id: JobId) -> Result<(String, Vec<u8>, Item), Refused> {
        let _turn = self.searches.turn(user).await?;
        let mut has_more = false;
        for queue in self.names().await? {
            let mut from = 0;
            while from < MAX_SEARCHED {
                let arguments = Arguments::default()
                    .text(self.keys.queue(&queue))
                    .number(from)
                    .number(SEARCH_STEP)
                    .number(self.largest())
                    .text(searched(id));
                match self.link.run(&scripts::SEARCH, arguments).await? {
                    Value::BulkString(text) => {
                        if let Some(item) = resque::read(&text).filter(|item| item.id == Some(id)) {
                            return Ok((queue, text, item));
                        }
                        break;
                    }
                    Value::Int(looked @ 1..) => from += looked as u64,
                    _ => break,
                }
            }
            has_more |= from >= MAX_SEARCHED;
        }
        match has_more {
            true => {
                let why = format!(
                    "job {id} is not among the first {MAX_SEARCHED} of its queue: it is not looked for in more"
                );
                Err(Refused::Unavailable(why))
            }
            false => Err(Refused::NoJob(id)),
        }
    }

    /// Removes a job that nobody performs.
    pub(in crate::queue) async fn cancel(
        self: &Arc<Self>,
        place: Place,
        user: Option<u32>,
        id: JobId,
        is_allowed: impl FnOnce(&str, Option<u32>) -> bool + Send + 'static,
    ) -> Result<(), Refused> {
        let cancel = move |redis: Arc<Self>| -> BoxFuture<'static, Result<_, Refused>> {
            Box::pin(async move {
                let allowed =
                    |queue: &str, user| if is_allowed(queue, user) { Ok(()) } else { Err(Refused::NoJob(id)) };
                let text = redis.record_of(id).await?;
                let is_removed = match text.as_deref().and_then(Record::read) {
                    Some(record) => {
                        allowed(&record.queue, record.extras.user)?;
                        if matches!(record.state, State::Running { .. }) {
                            return Err(Refused::Running(id));
                        }
                        redis.remove(id, text.as_deref().unwrap_or_default(), &record).await?
                    }
                    None => {
                        let (queue, text, item) = match redis.search(user, id).await {
                            Ok(found) => found,
                            Err(why) => {
                                let job = redis.on_its_way(id).await?.ok_or(why)?;
                                allowed(&job.queue, job.user)?;
                                return Err(Refused::Running(id));
                            }
                        };
                        allowed(&queue, item.extras.user)?;
                        let key = redis.keys.queue(&queue);
                        let record = Record::new(queue, State::Waiting, &item, String::new(), 0);
                        let step = Step::new(&redis.keys).if_in_list(&key, &text).free(id, &record);
                        redis.change(step.then_bytes([b"LREM", key.as_bytes(), b"1", &text])).await?
                    }
                };
                if is_removed { Ok(()) } else { Err(Refused::Running(id)) }
            })
        };
        self.ask(&place, cancel, no_matter).await
    }
}

/// How many of which queues wait in the buffer, and for how long.
fn in_buffer(kept: &[Overview]) -> String {
    let now = millis_since_1970(SystemTime::now());
    let each = kept.iter().take(MAX_NAMED).map(|it| {
        let waited = now.saturating_sub(it.oldest_waiting.unwrap_or(now)) / 1_000;
        format!("; {} jobs of {} are in the buffer, the first for {waited} s", it.waiting, it.name)
    });
    let more = kept.len().saturating_sub(MAX_NAMED);
    each.chain((more > 0).then(|| format!("; and those of {more} more queues"))).collect()
}

/// What the text of a job has that was enqueued here.
fn searched(id: JobId) -> String {
    format!(r#""id":"{id:032x}""#)
}
