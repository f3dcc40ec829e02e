//! Looks: how queues stand, and what is in them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::SystemTime;

use futures::future::BoxFuture;
use redis::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::super::Place;
use super::super::attempt::Most;
use super::super::change::Refused;
use super::super::job::{Job, MAX_QUEUE_NAME, OVERHEAD, State};
use super::super::look::{Overview, Page};
use super::super::order::Order;
use super::link::{Arguments, Failed};
use super::record::{Record, known};
use super::resque::{self, Item};
use super::{Redis, no_matter, scripts};
use crate::clock::{Moment, millis_since_1970};
use crate::model::{counted, lasted};

/// So many bytes of first jobs are looked at to see how long they have waited.
const MAX_FIRST_BYTES: u64 = 1 << 20;

/// So many queues are named of which jobs are in the buffer.
const MAX_NAMED: usize = 10;

/// A page has no more.
const MAX_PAGE: u64 = 200;

/// Whether a queue is paused, how many jobs wait, are delayed, run, are dead, and are done, whether its limit lets none
/// begin, which key is in the way of that, and its first element.
type Counts = (bool, i64, u64, u64, u64, u64, bool, String, Vec<u8>);

/// The first element of a queue that does not tell when it was enqueued, as none of Ruby's resque does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Undated {
    /// The hash of its text,
    text: u64,
    /// how many waited at the last look,
    waiting: u64,
    /// and when it was first seen there.
    since: Moment,
}

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
                        redis.undated().retain(|name, _| names.binary_search(name).is_ok());
                        names.retain(|name| *name > after && sees(name));
                        names.truncate(most);
                        // Where not all can be looked at, it is not always the same ones.
                        fastrand::shuffle(&mut names);
                        redis.overviews_of(names, MAX_FIRST_BYTES).await
                    }
                    Err(failed) => Err(failed),
                };
                let Some(buffer) = &redis.buffer else {
                    let mut of_redis = of_redis?;
                    of_redis.sort_unstable_by(|a, b| a.name.cmp(&b.name));
                    return Ok(of_redis);
                };
                // What is wrong with it is told beside them.
                let mut kept = buffer.overviews(of_buffer).await.unwrap_or_default();
                kept.retain(|it| it.name > after && sees(&it.name));
                let named = |it: Overview| (it.name.clone(), it);
                let mut all: BTreeMap<_, _> = match of_redis {
                    Ok(of_redis) => of_redis.into_iter().map(named).collect(),
                    Err(failed) => {
                        let trouble =
                            buffer.trouble(&sees).map_or_else(String::new, |why| format!("; the buffer: {why}"));
                        let kept = in_buffer(&kept, millis_since_1970(SystemTime::now()));
                        return Err(Refused::Unavailable(format!("{failed}{trouble}{kept}")));
                    }
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

    /// How long jobs have waited is known where their first ones have so many bytes together.
    pub(super) async fn overviews_of(&self, names: Vec<String>, bytes: u64) -> Result<Vec<Overview>, Failed> {
        let arguments = self.limits_of(&names)?.number(self.largest()).number(bytes).texts(&names);
        let counts: Vec<Counts> = self.link.run(&scripts::COUNT, arguments).await?;
        let overview = |(name, counts): (String, Counts)| {
            let (is_paused, waiting, delayed, running, dead, done, is_limited, in_the_way, first) = counts;
            self.note_in_the_way(&name, &in_the_way);
            let waiting = u64::try_from(waiting).unwrap_or(0);
            let oldest_waiting = self.oldest_waiting(&name, waiting, &first);
            let limited = if is_limited { waiting } else { 0 };
            Overview {
                name,
                is_paused,
                waiting,
                limited,
                delayed,
                running,
                dead,
                done,
                oldest_waiting,
                ..Overview::default()
            }
        };
        Ok(names.into_iter().zip(counts).map(overview).collect())
    }

    /// When the first job of a queue was enqueued. Where it does not tell, it is since when it is known to have been the
    /// first: it has waited for that long at least. None: it was not looked at.
    fn oldest_waiting(&self, queue: &str, waiting: u64, first: &[u8]) -> Option<u64> {
        let (told, text) = (resque::read(first).and_then(|item| item.enqueued_at), xxh3_64(first));
        let mut undated = self.undated();
        // Another one may have the same text: where fewer wait than before, the first one may be gone.
        let seen = undated.remove(queue).filter(|it| it.waiting <= waiting && (first.is_empty() || it.text == text));
        let new = Undated { text, waiting, since: Moment::now() };
        match (told, seen.or(Some(new).filter(|_| !first.is_empty()))) {
            (None, Some(seen)) => {
                undated.insert(queue.to_owned(), Undated { waiting, ..seen });
                let now = millis_since_1970(SystemTime::now());
                Some(now.saturating_sub(seen.since.elapsed().as_millis() as u64)).filter(|_| !first.is_empty())
            }
            (told, _) => told,
        }
    }

    fn undated(&self) -> MutexGuard<'_, HashMap<String, Undated>> {
        self.undated.lock().unwrap_or_else(PoisonError::into_inner)
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
                    let size = |job: &Job| job.payload.len() + job.result.as_ref().map_or(0, Vec::len) + OVERHEAD;
                    bytes += job.as_ref().map_or(0, size);
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

    pub(super) fn job_of(&self, queue: &str, text: &[u8], item: &Item, now: u64) -> Job {
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
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Failed> {
        let state = match order {
            Order::Waiting => return Ok(Vec::new()),
            Order::Delayed => "delayed",
            Order::Running => "running",
            Order::Dead => "dead",
            Order::Done => "done",
        };
        let key = self.keys.state(state, queue);
        let arguments = Arguments::new(&self.keys.0).text(&key).text("-inf").text("+inf").number(from).number(limit);
        let arguments = arguments.number(self.longest()).text("");
        let records: Vec<(Vec<u8>, Value)> = self.link.run(&scripts::DUE, arguments).await?;
        let jobs = self.keys.jobs();
        let read = |(id, read): (Vec<u8>, Value)| {
            let text = self.text_of(if id.is_empty() { &key } else { &jobs }, &id, read);
            (id, text)
        };
        Ok(records.into_iter().map(read).collect())
    }

    async fn kept(&self, queue: &str, order: Order, from: u64, limit: u64) -> Result<Vec<Option<Job>>, Failed> {
        let records = self.records(queue, order, from, limit).await?;
        let job = |(id, text): (Vec<u8>, Vec<u8>)| {
            let (id, _, record) = known(&id, &text)?;
            Some(record.into_job(id, &self.config))
        };
        Ok(records.into_iter().map(job).collect())
    }

    pub(super) async fn ensure_queue(&self, queue: &str) -> Result<(), Refused> {
        let command = redis::Cmd::sismember(self.keys.key("queues"), queue);
        match self.link.command(&command).await? {
            true => Ok(()),
            false => Err(Refused::NoQueue(queue.to_owned())),
        }
    }
}

/// How many of which queues wait in the buffer, and for how long, a line each, the oldest first.
fn in_buffer(kept: &[Overview], now: u64) -> String {
    let mut all: Vec<&Overview> = kept.iter().collect();
    all.sort_by_key(|it| it.oldest_waiting.unwrap_or(u64::MAX));
    let each = all.iter().take(MAX_NAMED).map(|Overview { name, waiting, oldest_waiting, .. }| {
        let are = if *waiting == 1 { "is" } else { "are" };
        // Of those that are delayed or dead it is not known.
        let since =
            oldest_waiting.map_or_else(String::new, |at| format!(", the first for {}", lasted(now.saturating_sub(at))));
        format!("\n{} of {name} {are} in the buffer{since}", counted(*waiting, "job"))
    });
    let more = all.len().saturating_sub(MAX_NAMED) as u64;
    each.chain((more > 0).then(|| format!("\nand those of {}", counted(more, "more queue")))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_buffer_is_told_a_line_for_each_queue_the_oldest_first() {
        let kept = |name: &str, waiting, oldest_waiting| Overview {
            name: name.to_owned(),
            waiting,
            oldest_waiting,
            ..Overview::default()
        };
        let now = 10_000_000;
        let all = [kept("img", 6, None), kept("mail", 2, Some(now - 61_000)), kept("post", 1, Some(now - 7_384_000))];
        assert_eq!(
            in_buffer(&all, now),
            "\n1 job of post is in the buffer, the first for 2h 3m\
             \n2 jobs of mail are in the buffer, the first for 1m 1s\
             \n6 jobs of img are in the buffer"
        );
        let many: Vec<_> = (0..50).map(|nth| kept(&format!("q{nth}"), 1, Some(nth))).collect();
        let told = in_buffer(&many, now);
        assert!(told.lines().count() == 12 && told.ends_with("\nand those of 40 more queues"), "{told}");
        assert_eq!(in_buffer(&[], now), "");
    }
}
