//! Enqueues: all of the jobs of a request, or none.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Value;
use tokio::time::{Instant, timeout, timeout_at};

use super::super::Place;
use super::super::change::{Refused, millis};
use super::super::check::check;
use super::super::enqueue::Asker;
use super::super::full::Bound;
use super::super::job::{Enqueued, JobId, NewJob, State};
use super::buffer::Buffer;
use super::link::{Arguments, Failed};
use super::record::Record;
use super::recurring::Settling;
use super::refusals::Write;
use super::resque::{self, Extras};
use super::unique::Holders;
use super::{Redis, no_matter, scripts};
use crate::share::KEPT_FOR_ADMINS;

/// How long Redis may take where there is a buffer: whoever enqueues waits for that too, and clients in PHP for 6 s in all.
const BUFFERED_TIMEOUT: Duration = Duration::from_secs(2);

/// How long it is known of a job that it was enqueued, where whoever did so has died since.
const KNOWN_FOR: u64 = 7 * 86_400_000;

/// So many times in a row jobs of one queue are delivered.
const ROUNDS: usize = 20;

/// So many are forgotten in one command.
const FORGOTTEN: usize = 1_000;

/// So many bytes of the jobs that are said to have unique keys are read at once.
pub(super) const MAX_HELD_BYTES: u64 = 4 << 20;

/// How often it is looked again who has which key, where others change that meanwhile.
const MAX_TRIES: usize = 8;

/// A job that is to be enqueued.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) id: JobId,
    pub(super) job: NewJob,
    /// As JSON.
    pub(super) args: String,
    pub(super) extras: Extras,
    /// None: just now.
    pub(super) enqueued_at: Option<u64>,
    /// None: it is to be performed.
    pub(super) died_at: Option<u64>,
    /// When its lease ends, which somebody had when its folder became a buffer. It is not delivered before.
    pub(super) runs_until: Option<u64>,
}

/// How long an enqueue waits where there is a buffer: for Redis until then, and so much longer for the turns of others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    until: Instant,
    with_others: Duration,
}

/// Why jobs are not enqueued.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotEnqueued {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Failed(#[from] Failed),
}

impl Patience {
    fn new() -> Self {
        Self { until: Instant::now() + BUFFERED_TIMEOUT, with_others: BUFFERED_TIMEOUT }
    }

    /// After a step of its own Redis rests: that is no turn of others.
    pub(super) fn rests(&mut self, rest: Duration) {
        self.until -= rest;
        self.with_others += rest;
    }
}

/// A turn to look for jobs, if it comes within that time. That it does not says nothing of Redis: others have theirs.
pub(super) async fn turn_in_time<T>(
    patience: &mut Option<Patience>,
    turn: impl Future<Output = T>,
) -> Result<T, Refused> {
    let Some(patience) = patience else { return Ok(turn.await) };
    let waits = Instant::now();
    let Ok(turn) = timeout(patience.with_others, turn).await else {
        let why = format!("others look for jobs in Redis, for more than {} s; try again", BUFFERED_TIMEOUT.as_secs());
        return Err(Refused::TooMuch(why));
    };
    patience.with_others = patience.with_others.saturating_sub(waits.elapsed());
    patience.until += waits.elapsed();
    Ok(turn)
}

impl Redis {
    pub(in crate::queue) async fn enqueue(
        self: &Arc<Self>,
        place: Place,
        jobs: Vec<NewJob>,
        asker: Asker,
    ) -> Result<Vec<Enqueued>, Refused> {
        check(&jobs, &self.config)?;
        let drafts = jobs.into_iter().map(|job| Draft::new(job, asker.uid)).collect::<Result<Vec<_>, _>>()?;
        let of_work = place.clone();
        let enqueue = move |redis: Arc<Self>| -> futures::future::BoxFuture<'static, _> {
            Box::pin(redis.enqueue_or_keep(of_work, drafts, asker))
        };
        let enqueued = self.ask(&place, enqueue, no_matter).await?;
        let new = enqueued.iter().filter(|it| it.is_new && !it.is_buffered).count();
        self.metrics.jobs_enqueued.add(new as u64);
        Ok(enqueued)
    }

    /// What cannot be enqueued now is kept in the buffer, if there is one, and so is what comes after it.
    async fn enqueue_or_keep(
        self: Arc<Self>,
        place: Place,
        drafts: Vec<Draft>,
        asker: Asker,
    ) -> Result<Vec<Enqueued>, Refused> {
        let why = match &self.buffer {
            Some(buffer) if buffer.has_any_of(&drafts) => None,
            _ => match self.enqueue_all(&drafts, asker.is_admin, false).await {
                Ok(enqueued) => {
                    self.need_no_more(drafts.into_iter().map(|draft| draft.id));
                    return Ok(enqueued);
                }
                Err(NotEnqueued::Refused(why)) => return Err(why),
                Err(NotEnqueued::Failed(failed)) => Some(failed),
            },
        };
        let in_doubt = "; it is not known whether the jobs are enqueued";
        let in_doubt = if why.as_ref().is_some_and(|why| !why.is_refused) { in_doubt } else { "" };
        let why = why.map_or_else(String::new, |why| why.to_string());
        let Some(buffer) = &self.buffer else { return Err(Refused::Unavailable(why + in_doubt)) };
        let kept: Vec<_> =
            drafts.iter().map(|draft| Enqueued { id: draft.id, is_new: true, is_buffered: true }).collect();
        if !in_doubt.is_empty() {
            self.in_doubt().extend(drafts.iter().map(|draft| draft.id));
        }
        let refused = match buffer.keep(place, asker, drafts).await {
            Ok(()) => return Ok(kept),
            Err(refused) => refused,
        };
        // They are never delivered.
        kept.iter().for_each(|it| _ = self.in_doubt().remove(&it.id));
        Err(match refused {
            Refused::Unavailable(error) => {
                Refused::Unavailable(format!("the buffer cannot be used: {error}; {why}{in_doubt}"))
            }
            refused => refused,
        })
    }

    /// What is asked of Redis, if it is answered by then.
    pub(super) async fn in_time<T>(
        &self,
        patience: Option<Patience>,
        asked: impl Future<Output = Result<T, Failed>>,
    ) -> Result<T, Failed> {
        match patience {
            Some(Patience { until, .. }) => {
                timeout_at(until, asked).await.unwrap_or_else(|_| Err(self.link.unanswered()))
            }
            None => asked.await,
        }
    }

    /// What is delivered is dropped if another job has its key: that has to be exact.
    async fn enqueue_all(
        &self,
        drafts: &[Draft],
        is_admin: bool,
        is_exact: bool,
    ) -> Result<Vec<Enqueued>, NotEnqueued> {
        let queues = self.config.max_queues;
        let queues = if is_admin { queues } else { queues - queues / KEPT_FOR_ADMINS };
        let mut holders = Holders::default();
        // Who delivers waits for as long as it takes.
        let mut patience = (self.buffer.is_some() && !is_exact).then(Patience::new);
        for _ in 0..MAX_TRIES {
            let (held, new): (Vec<_>, Vec<_>) = drafts.iter().partition(|draft| holders.of(draft).is_some());
            let reply = self.run_enqueue(&new, (queues, is_admin), is_exact, &holders, None);
            let reply = self.in_time(patience, reply).await;
            let reply = reply.inspect_err(|failed| self.refusals.note_rights(Write::Enqueue, failed));
            let reply = reply.map_err(NotEnqueued::Failed)?;
            let reply = match redis::from_redis_value::<Vec<u64>>(reply.clone()) {
                Ok(reply) => reply,
                Err(_) => {
                    let why = redis::from_redis_value::<String>(reply).unwrap_or_default();
                    let Some(said) = why.strip_prefix("LOOK ") else {
                        let user = drafts.first().and_then(|draft| draft.extras.user);
                        return Err(NotEnqueued::Refused(self.refused(&why, user)));
                    };
                    let said: Vec<u64> = said.split(' ').filter_map(|number| number.parse().ok()).collect();
                    let said = said.chunks_exact(2).filter_map(|it| Some((*new.get(it[0] as usize)?, it[1])));
                    let said: Vec<_> = said.collect();
                    // One at a time delivers, whoever has enqueued that.
                    let user = drafts.first().and_then(|draft| draft.extras.user);
                    let mut turn = match is_exact {
                        true => None,
                        false => Some(turn_in_time(&mut patience, self.searches.turn(user)).await??),
                    };
                    let sought = self.seek(&said, &mut holders, &mut turn, &mut patience).await;
                    sought.map_err(|why| match why {
                        // It was asked to look alone. (Who delivers takes it for what it is: news of Redis.)
                        NotEnqueued::Failed(mut failed) if !is_exact => {
                            failed.is_refused = true;
                            NotEnqueued::Failed(failed)
                        }
                        why => why,
                    })?;
                    continue;
                }
            };
            if reply.chunks_exact(2).any(|it| it[1] == 1) {
                self.refusals.end(Write::Enqueue);
            }
            new.iter().for_each(|draft| self.is_ready(&draft.job.queue));
            let held = held.into_iter().filter_map(|draft| Some((draft.id, (holders.of(draft)?, false))));
            let new = new.iter().zip(reply.chunks_exact(2)).map(|(draft, it)| (draft.id, (it[0], it[1] == 1)));
            let outcomes: HashMap<JobId, (JobId, bool)> = held.chain(new).collect();
            let enqueued = drafts.iter().filter_map(|draft| outcomes.get(&draft.id));
            return Ok(enqueued
                .map(|(id, is_new)| Enqueued { id: *id, is_new: *is_new, is_buffered: false })
                .collect());
        }
        let why = "others enqueue jobs with the same unique keys at the same time; try again";
        Err(NotEnqueued::Refused(Refused::Unavailable(why.to_owned())))
    }

    /// Enqueues a job as an administrator, and writes in the same step what is settled by that. Otherwise somebody else has
    /// written something before, and nothing is done.
    pub(super) async fn enqueue_and_settle(&self, draft: &Draft, settling: Settling<'_>) -> Result<bool, NotEnqueued> {
        let most = (self.config.max_queues, true);
        let reply = self.run_enqueue(&[draft], most, true, &Holders::default(), Some(settling)).await?;
        if redis::from_redis_value::<Vec<u64>>(reply.clone()).is_ok() {
            self.metrics.jobs_enqueued.increment();
            self.is_ready(&draft.job.queue);
            return Ok(true);
        }
        let why = redis::from_redis_value::<String>(reply).unwrap_or_default();
        match why.as_str() {
            "SETTLED" => Ok(false),
            why => Err(self.refused(why, draft.extras.user).into()),
        }
    }

    async fn run_enqueue(
        &self,
        drafts: &[&Draft],
        (queues, is_admin): (usize, bool),
        is_exact: bool,
        holders: &Holders,
        settling: Option<Settling<'_>>,
    ) -> Result<Value, Failed> {
        let now = self.link.latest()?;
        let arguments = Arguments::new(&self.keys.0).number(self.config.max_jobs as u64).number(queues as u64);
        let arguments = match &self.buffer {
            // What is settled is in no need of that.
            Some(_) if settling.is_none() => arguments.number(now),
            _ => arguments.text(""),
        };
        // What is delivered at once is of one queue: whoever enqueued its first job has made that.
        let user = drafts.first().and_then(|draft| draft.extras.user);
        let user = user.map_or_else(|| "-".to_owned(), |uid| uid.to_string());
        let arguments = arguments.number(is_exact.into()).text(user).number(is_admin.into()).number(MAX_HELD_BYTES);
        let Settling { field, before, after } = settling.unwrap_or(Settling { field: "", before: b"", after: "" });
        let arguments = arguments.text(field).text(before).text(after);
        let arguments = drafts.iter().fold(arguments, |arguments, draft| {
            let gone = holders.gone(draft).map_or_else(String::new, |id| id.to_string());
            draft.written(arguments, now).text(gone)
        });
        self.link.run(&scripts::ENQUEUE, arguments).await
    }

    /// Delivers what is in the buffer. What Redis takes none of now keeps no other queue waiting.
    pub(super) async fn deliver(&self, buffer: &Buffer) -> Result<(), Failed> {
        self.hand_over_settled(buffer).await?;
        for queue in buffer.queues() {
            if buffer.is_paused(&queue) {
                match self.pause(&queue).await {
                    Ok(()) => {}
                    Err(failed) if failed.is_of_this_alone() => {
                        buffer.is_refused(&queue, &failed.to_string());
                        continue;
                    }
                    Err(failed) => return Err(failed),
                }
                if buffer.resume(queue.clone()).await.is_err() {
                    return Ok(());
                }
            }
            let mut most = usize::MAX;
            for _ in 0..ROUNDS {
                let _delivery = buffer.delivery.lock().await;
                // What is wrong with the buffer is told by it.
                let Ok(found) = buffer.first(queue.clone()).await else { return Ok(()) };
                let mut found = found.jobs;
                if found.is_empty() {
                    buffer.is_taken(&queue);
                    break;
                }
                found.truncate(most);
                let (ids, drafts): (Vec<_>, Vec<_>) = found.into_iter().unzip();
                let mut sent = Sent { redis: self, ids: drafts.iter().map(|draft| draft.id).collect() };
                let enqueued = self.enqueue_all(&drafts, true, true).await;
                if !matches!(&enqueued, Err(NotEnqueued::Failed(failed)) if !failed.is_refused) {
                    sent.ids.clear();
                }
                let refused = match enqueued {
                    Ok(enqueued) => {
                        let dropped = enqueued.iter().filter(|it| !it.is_new).count();
                        if dropped > 0 {
                            tracing::info!(
                                queue,
                                dropped,
                                "jobs of the buffer are dropped: others have their unique keys"
                            );
                        }
                        None
                    }
                    Err(NotEnqueued::Refused(Refused::Full(..) | Refused::TooMuch(_))) if ids.len() > 1 => {
                        // There may be room for some of them.
                        most = ids.len() / 2;
                        continue;
                    }
                    Err(NotEnqueued::Refused(why)) => Some(why.to_string()),
                    Err(NotEnqueued::Failed(failed)) if failed.is_of_this_alone() => Some(failed.to_string()),
                    Err(NotEnqueued::Failed(failed)) => return Err(failed),
                };
                if let Some(why) = refused {
                    buffer.is_refused(&queue, &why);
                    break;
                }
                buffer.is_taken(&queue);
                if buffer.forget(queue.clone(), ids).await.is_err() {
                    return Ok(());
                }
                self.need_no_more(drafts.into_iter().map(|draft| draft.id));
            }
        }
        Ok(())
    }

    /// It need not be known any more that these were enqueued.
    pub(super) fn need_no_more(&self, ids: impl Iterator<Item = JobId>) {
        if self.buffer.is_some() {
            let mut in_doubt = self.in_doubt();
            self.arrived().extend(ids.filter(|id| !in_doubt.remove(id)));
        }
    }

    /// Whether Redis may yet be asked to enqueue this one, by what was sent before.
    pub(super) fn is_in_doubt(&self, id: JobId) -> bool {
        self.in_doubt().contains(&id)
    }

    fn in_doubt(&self) -> MutexGuard<'_, HashSet<JobId>> {
        self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets of which jobs it is known that they were enqueued.
    pub(super) async fn forget_arrived(&self, now: u64) -> Result<(), Failed> {
        let arrived = std::mem::take(&mut *self.arrived());
        let enqueued = self.keys.key("roster:enqueued");
        for ids in arrived.chunks(FORGOTTEN) {
            self.link.command::<()>(redis::cmd("ZREM").arg(&enqueued).arg(ids)).await?;
        }
        let old = now.saturating_sub(KNOWN_FOR);
        self.link.command(redis::cmd("ZREMRANGEBYSCORE").arg(&enqueued).arg("-inf").arg(old)).await
    }

    fn arrived(&self) -> MutexGuard<'_, Vec<JobId>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the script says that refuses.
    fn refused(&self, why: &str, user: Option<u32>) -> Refused {
        match why.split_once(' ') {
            Some(("FULL", queue)) => {
                let message = format!("the queue {queue:?} is full: `queue.max_jobs` is {}", self.config.max_jobs);
                Refused::Full(Bound::Queue(queue.to_owned()), message)
            }
            Some(("MUCH", queue)) => Refused::TooMuch(format!(
                "a queue has at most {} jobs by `queue.max_jobs`: enqueue fewer for {queue:?} at once",
                self.config.max_jobs
            )),
            Some(("TYPE", key)) => {
                let key = key.rsplit_once(' ').map_or(key, |(key, _)| key);
                Refused::Unavailable(format!("{key:?} of Redis at {} is no list", self.link.server))
            }
            Some(("SHARE", own)) => {
                let message = format!(
                    "this user has made {own} of the queues in Redis, of which there are at most `queue.max_queues`, {}; one \
                     may have as many as it leaves free, and those without a job make room",
                    self.config.max_queues
                );
                Refused::Full(Bound::OfUser("max_queues", user), message)
            }
            _ if why == "KEYS" => Refused::TooMuch(format!(
                "the jobs that have the unique keys of this request take more than {} together: enqueue fewer at once",
                bytesize::ByteSize(MAX_HELD_BYTES)
            )),
            _ => {
                let message = format!(
                    "too many queues: `queue.max_queues` is {}, of which a part is kept for administrators; those without a \
                     job make room",
                    self.config.max_queues
                );
                Refused::Full(Bound::All("max_queues"), message)
            }
        }
    }
}

/// Jobs that Redis was asked to enqueue. Unless its answer is known, it has to know them from then on: it may yet be asked by
/// what was sent.
struct Sent<'r> {
    redis: &'r Redis,
    ids: Vec<JobId>,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.redis.in_doubt().extend(self.ids.drain(..));
    }
}

impl Draft {
    pub(super) fn new(job: NewJob, user: Option<u32>) -> Result<Self, Refused> {
        let no_json = || Refused::Invalid("payload", "it is no JSON, as those of jobs in Redis are".to_owned());
        let args = resque::args(&job.payload).ok_or_else(no_json)?;
        let extras = Extras {
            user,
            retries: job.retries,
            timeout_ms: job.timeout.map(millis),
            keep_result_ms: job.keep_result.map(millis),
            unique: job.unique.clone(),
            due_at: job.due_at,
            ..Extras::default()
        };
        Ok(Self {
            id: resque::new_id_in(&job.queue),
            job,
            args,
            extras,
            enqueued_at: None,
            died_at: None,
            runs_until: None,
        })
    }

    /// What the script is given.
    fn written(&self, arguments: Arguments, now: u64) -> Arguments {
        let Self { id, job, args, extras, enqueued_at, died_at, .. } = self;
        let enqueued_at = enqueued_at.unwrap_or(now);
        let key = extras.unique.as_ref().map_or("", |unique| unique.key.as_str());
        let whole = resque::waiting(job, args, *id, enqueued_at, extras);
        let arguments = arguments.text(&job.queue).number(*id).text(key);
        if let Some(since) = *died_at {
            let (queue, extras, state) = (job.queue.clone(), extras.clone(), State::Dead { since });
            let result = String::new();
            let record = Record { queue, state, extras, enqueued_at, scheduled: None, item: whole, result };
            return arguments.text("").number(since).text(record.written()).text("");
        }
        match millis(job.delay) {
            0 => arguments.text(&whole).text("").text("").text(&whole),
            delay => {
                // Schedulers know seconds.
                let second = (now + delay).div_ceil(1_000);
                let (item, state) = (resque::delayed(job, args), State::Delayed { until: second * 1_000 });
                let record = Record {
                    queue: job.queue.clone(),
                    state,
                    extras: extras.clone(),
                    enqueued_at,
                    scheduled: Some(second),
                    item: item.clone(),
                    result: String::new(),
                };
                arguments.text(&item).number(second * 1_000).text(record.written()).text(&item)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::search::Searches;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_turns_of_others_leave_redis_as_much_time_and_are_not_waited_for_without_end() {
        const A_WHILE: Duration = Duration::from_millis(1_500);
        let (searches, began) = (Searches::default(), Instant::now());
        let mut patience = Some(Patience::new());
        let others = async {
            let turn = searches.turn(Some(2)).await;
            tokio::time::sleep(A_WHILE).await;
            drop(turn);
        };
        let (turn, ()) = tokio::join!(
            async {
                tokio::task::yield_now().await;
                turn_in_time(&mut patience, searches.turn(Some(1))).await
            },
            others
        );
        let mut turn = turn.expect("it comes").expect("few wait");
        let left = patience.expect("there is a buffer");
        assert!(left.until >= began + BUFFERED_TIMEOUT + A_WHILE, "{:?}", left.until - began);
        assert!(left.with_others <= BUFFERED_TIMEOUT - A_WHILE, "{:?}", left.with_others);
        turn.is_over(Duration::ZERO);
        // Another one has the next, for longer than is left.
        let _others = searches.turn(Some(2)).await.expect("few wait");
        let refused = turn_in_time(&mut patience, turn.comes()).await;
        assert!(matches!(&refused, Err(Refused::TooMuch(why)) if why.contains("others look for jobs")), "{refused:?}");
        // Who has no buffer waits.
        assert!(timeout(2 * BUFFERED_TIMEOUT, turn_in_time(&mut None, turn.comes())).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_rests_between_own_steps_are_no_turns_of_others() {
        const REST: Duration = Duration::from_millis(100);
        let searches = Searches::default();
        let mut turn = searches.turn(Some(1)).await.expect("few wait");
        let mut patience = Some(Patience::new());
        for _ in 0..2 * BUFFERED_TIMEOUT.as_secs() * 10 {
            turn.is_over(REST);
            patience.iter_mut().for_each(|patience| patience.rests(REST));
            turn_in_time(&mut patience, turn.comes()).await.expect("nobody else looks for jobs");
        }
    }
}
