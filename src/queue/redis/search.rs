//! Searches: one job by its id, wherever it is.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use tokio::time::{sleep_until, timeout_at};

use super::super::Place;
use super::super::change::{Refused, millis};
use super::super::job::{Job, JobId, State};
use super::buffer::hangs;
use super::enqueue::Draft;
use super::keys::Step;
use super::link::{Arguments, Failed, TIMEOUT};
use super::record::Record;
use super::resque::{self, Item};
use super::tick::parts_of;
use super::{LOOK_INTERVAL, Redis, no_matter, scripts};
use crate::clock::millis_since_1970;

/// A waiting job is looked for among so many of each queue, and so many bytes of it, in steps.
const MAX_SEARCHED: u64 = 20_000;
const MAX_SEARCHED_BYTES: u64 = 32 << 20;
const SEARCH_STEP: u64 = 1_000;

/// And among so many of all.
const MAX_SEARCHED_IN_ALL: u64 = 100_000;
const MAX_SEARCHED_BYTES_IN_ALL: u64 = 128 << 20;

/// Each step looks again at so many of the last one, and at no more than a quarter of them, but at the last of all: what is taken
/// off meanwhile moves others nearer to the front. Where that one is not among them any more, some may be passed over.
const MAX_OVERLAP: u64 = 100;

/// Behind the id of a job stands no more of its text: `queue_time`, and what Roster knows of it, whose error and unique key are
/// the most of that (`resque`).
const REACH: u64 = 8 << 10;

/// It is known of so many jobs that they are settled.
const MAX_SETTLED: usize = 65_536;

/// Short rests become one, as timers know milliseconds.
const LEAST_REST: Duration = Duration::from_millis(2);

/// So many searches of a user wait for each other.
const MAX_IN_LINE: usize = 64;

/// Each search may have Redis look at much: there is one step at a time, users take turns, and those of a user wait in line.
/// Between two steps Redis does other things for as long as the first one took.
#[derive(Debug, Default)]
pub(super) struct Searches {
    users: Mutex<HashMap<Option<u32>, UserLine>>,
    /// Until when it does.
    turn: tokio::sync::Mutex<Option<Instant>>,
    settled: Mutex<Settled>,
}

/// The last jobs that this sidecar knows to be done or cancelled, for which nobody needs to look.
#[derive(Debug, Default)]
struct Settled {
    ids: HashSet<JobId>,
    in_order: VecDeque<JobId>,
}

#[derive(Debug, Default)]
struct UserLine {
    length: usize,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// That a user has a search, or waits for one.
struct InLine<'s> {
    searches: &'s Searches,
    user: Option<u32>,
}

/// What no other search of its user has until it is dropped, and nobody else during a step; the first is given up first.
pub(super) struct Turn<'s> {
    of_all: Option<tokio::sync::MutexGuard<'s, Option<Instant>>>,
    _of_user: tokio::sync::OwnedMutexGuard<()>,
    in_line: InLine<'s>,
}

impl Searches {
    pub(super) async fn turn(&self, user: Option<u32>) -> Result<Turn<'_>, Refused> {
        let of_user = {
            let mut users = self.users();
            let line = users.entry(user).or_default();
            if line.length >= MAX_IN_LINE {
                let why = format!("{MAX_IN_LINE} jobs of this user are looked for in Redis already; try again");
                return Err(Refused::TooMuch(why));
            }
            line.length += 1;
            line.turn.clone()
        };
        let in_line = InLine { searches: self, user };
        let of_user = of_user.lock_owned().await;
        let mut turn = Turn { of_all: None, _of_user: of_user, in_line };
        turn.comes().await;
        Ok(turn)
    }

    /// A job is done or cancelled: it never waits again, unless it stood in two places, or somebody enqueues its text again.
    pub(super) fn is_settled_now(&self, id: JobId) {
        self.settled().add(id);
    }

    /// A job is handed out: whatever was settled was another one with this id.
    pub(super) fn is_not_settled_now(&self, id: JobId) {
        self.settled().remove(id);
    }

    fn settled(&self) -> MutexGuard<'_, Settled> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn users(&self) -> MutexGuard<'_, HashMap<Option<u32>, UserLine>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Waits until nobody else has a turn, and Redis has done other things for as long as the last step took.
    pub(super) async fn comes(&mut self) {
        if self.of_all.is_none() {
            let searches = self.in_line.searches;
            self.of_all = Some(searches.turn.lock().await);
        }
        let rests_until = self.of_all.as_ref().and_then(|rests_until| **rests_until);
        if let Some(rests_until) = rests_until.filter(|it| *it > Instant::now() + LEAST_REST) {
            sleep_until(rests_until.into()).await;
        }
    }

    /// A step has taken so long: others have their turns before the next.
    pub(super) fn is_over(&mut self, took: Duration) {
        if let Some(mut rests_until) = self.of_all.take() {
            let now = Instant::now();
            *rests_until = Some(rests_until.unwrap_or(now).max(now) + took.min(LOOK_INTERVAL));
        }
    }
}

impl Settled {
    fn add(&mut self, id: JobId) {
        if !self.ids.insert(id) {
            return;
        }
        self.in_order.push_back(id);
        if self.in_order.len() > MAX_SETTLED
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    fn remove(&mut self, id: JobId) {
        if self.ids.remove(&id) {
            self.in_order.retain(|it| *it != id);
        }
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let mut users = self.searches.users();
        if let Some(line) = users.get_mut(&self.user) {
            line.length -= 1;
            if line.length == 0 {
                users.remove(&self.user);
            }
        }
    }
}

/// Where a job was found.
enum Sought {
    /// In this queue, as this element.
    Waits(String, Vec<u8>, Box<Item>),
    /// It is in no list any more.
    IsTaken(Box<Job>),
}

/// What a look at a queue for a job came to.
enum Looked {
    /// As this element.
    Found(Vec<u8>, Box<Item>),
    /// All of it was looked at,
    AtAll,
    /// or not, so that it may wait there,
    AtFirstOnes,
    /// or all but what others may have moved past the places that were looked at.
    WithGaps,
}

/// How much of all queues is yet looked at.
struct Left {
    jobs: u64,
    bytes: u64,
}

/// What a look into the buffer for a job came to.
enum InBuffer {
    /// With its id in the store.
    Found(JobId, Box<Draft>),
    NotThere,
    /// It may be there: Redis is asked all the same.
    NotReadable(Refused),
}

impl InBuffer {
    /// Why a job is not found that is nowhere else.
    fn unless_there(self, why: Refused) -> Refused {
        match (self, why) {
            (Self::NotReadable(trouble), Refused::NoJob(_)) => trouble,
            (_, why) => why,
        }
    }
}

impl Redis {
    pub(in crate::queue) async fn find(
        self: &Arc<Self>,
        place: Place,
        user: Option<u32>,
        id: JobId,
        is_allowed: impl Fn(&str, Option<u32>) -> bool + Send + 'static,
    ) -> Result<Job, Refused> {
        let of_buffer = place.clone();
        let look = move |redis: Arc<Self>| -> BoxFuture<'static, Result<_, Refused>> {
            Box::pin(async move {
                let job = match redis.look_into_buffer(of_buffer, id, Instant::now() + TIMEOUT).await {
                    InBuffer::Found(_, draft) => redis.buffered(&draft),
                    elsewhere => redis.find_in_redis(user, id, elsewhere).await?,
                };
                if is_allowed(&job.queue, job.user) { Ok(job) } else { Err(Refused::NoJob(id)) }
            })
        };
        self.ask(&place, look, no_matter).await
    }

    async fn find_in_redis(&self, user: Option<u32>, id: JobId, in_buffer: InBuffer) -> Result<Job, Refused> {
        if let Some(record) = self.record_of(id).await?.as_deref().and_then(Record::read) {
            let progress = self.leases().get(&id).and_then(|lease| lease.progress.clone());
            return Ok(Job { progress, ..record.into_job(id, &self.config) });
        }
        if self.searches.settled().ids.contains(&id) {
            return Err(in_buffer.unless_there(Refused::NoJob(id)));
        }
        match self.search(user, id).await.map_err(|why| in_buffer.unless_there(why))? {
            Sought::Waits(queue, text, item) => Ok(self.job_of(&queue, &text, &item, self.link.now()?)),
            Sought::IsTaken(job) => Ok(*job),
        }
    }

    /// Looks whether a job is in the buffer, until then.
    async fn look_into_buffer(&self, place: Place, id: JobId, until: Instant) -> InBuffer {
        let Some(buffer) = &self.buffer else { return InBuffer::NotThere };
        match buffer.find(place, id, until).await {
            Ok(Some((at, draft))) => InBuffer::Found(at, Box::new(draft)),
            Ok(None) => InBuffer::NotThere,
            Err(why) => InBuffer::NotReadable(why),
        }
    }

    /// A job that is being taken off its queue, and is in no list. And whether it would have been found.
    async fn on_its_way(&self, id: JobId) -> Result<(Option<Job>, bool), Failed> {
        let arguments =
            Arguments::default().text(self.keys.popped()).text(searched(id)).number(REACH).number(self.longest());
        let (is_all, member): (u8, Vec<u8>) = self.link.run(&scripts::POPPED, arguments).await?;
        let parts = parts_of(&member);
        if let Some((queue, text, item)) = parts.and_then(|(queue, text)| Some((queue, text, resque::read(text)?))) {
            return Ok((Some(self.job_of(queue, text, &item, self.link.now()?)), true));
        }
        // It may have been handed out meanwhile.
        let record = self.record_of(id).await?;
        let job = record.as_deref().and_then(Record::read).map(|record| record.into_job(id, &self.config));
        Ok((job, is_all == 1))
    }

    /// Looks for a job that was enqueued here in the queues where it may wait, and among those that are being taken off one.
    async fn search(&self, user: Option<u32>, id: JobId) -> Result<Sought, Refused> {
        let mut turn = self.searches.turn(user).await?;
        let mut queues = self.names().await?;
        // Its own is most likely among the first.
        queues.sort_by_key(|queue| !resque::may_be_of(id, queue));
        let mut left = Left { jobs: MAX_SEARCHED_IN_ALL, bytes: MAX_SEARCHED_BYTES_IN_ALL };
        let (mut has_more, mut has_gaps) = (false, false);
        for queue in queues {
            match self.search_in(&queue, id, &mut left, &mut turn).await? {
                Looked::Found(text, item) => return Ok(Sought::Waits(queue, text, item)),
                Looked::AtAll => {}
                Looked::AtFirstOnes => has_more = true,
                Looked::WithGaps => has_gaps = true,
            }
        }
        turn.comes().await;
        let began = Instant::now();
        let on_its_way = self.on_its_way(id).await;
        turn.is_over(began.elapsed());
        let (job, is_all) = on_its_way?;
        if let Some(job) = job {
            return Ok(Sought::IsTaken(Box::new(job)));
        }
        // It may have been settled meanwhile.
        if (!has_more && !has_gaps && is_all) || self.searches.settled().ids.contains(&id) {
            return Err(Refused::NoJob(id));
        }
        let why = if has_more {
            format!(
                "job {id} is done or cancelled, or waits behind others: it is not among the first {MAX_SEARCHED} of its \
                 queue, nor the {MAX_SEARCHED_IN_ALL} that were looked at of all (fewer, where they are large), and is not \
                 looked for in more"
            )
        } else if has_gaps {
            format!(
                "job {id} is done or cancelled, or was passed over, as many others were taken off its queue while it was \
                 looked for; try again"
            )
        } else {
            format!("job {id} may be one of those that are being handed out just now; try again")
        };
        Err(Refused::Unavailable(why))
    }

    /// Looks for it in one queue, in steps.
    async fn search_in(&self, queue: &str, id: JobId, left: &mut Left, turn: &mut Turn<'_>) -> Result<Looked, Failed> {
        let (mut looked, mut overlap, mut bytes) = (0, 0, 0);
        let (mut last, mut has_gaps) = (String::new(), false);
        while looked < MAX_SEARCHED && bytes < MAX_SEARCHED_BYTES && left.jobs > 0 && left.bytes > 0 {
            let from = looked - overlap;
            let arguments = Arguments::default()
                .text(self.keys.queue(queue))
                .number(from)
                .number(SEARCH_STEP)
                .number(self.largest())
                .text(searched(id))
                .number(REACH)
                .text(&last)
                .number(overlap);
            turn.comes().await;
            let began = Instant::now();
            let reply: Result<(i64, Vec<u8>, u64, u8, String), Failed> =
                self.link.run(&scripts::SEARCH, arguments).await;
            turn.is_over(began.elapsed());
            let (step, text, read, joins, end) = reply?;
            has_gaps |= joins == 0;
            // It may be another one's payload that has this text.
            if let Some(item) = resque::read(&text).filter(|item| item.id == Some(id)) {
                return Ok(Looked::Found(text, Box::new(item)));
            }
            let Ok(step @ 1..) = u64::try_from(step) else {
                return Ok(if has_gaps { Looked::WithGaps } else { Looked::AtAll });
            };
            let to = from + step;
            left.jobs = left.jobs.saturating_sub(to.saturating_sub(looked));
            left.bytes = left.bytes.saturating_sub(read);
            (looked, bytes, last) = (to, bytes + read, end);
            overlap = (step / 4).clamp(1, MAX_OVERLAP);
        }
        Ok(Looked::AtFirstOnes)
    }

    /// Removes a job that nobody performs.
    pub(in crate::queue) async fn cancel(
        self: &Arc<Self>,
        place: Place,
        user: Option<u32>,
        id: JobId,
        is_allowed: impl Fn(&str, Option<u32>) -> bool + Send + Sync + 'static,
    ) -> Result<(), Refused> {
        let of_buffer = place.clone();
        let cancel = move |redis: Arc<Self>| -> BoxFuture<'static, Result<_, Refused>> {
            Box::pin(async move {
                let allowed =
                    |queue: &str, user| if is_allowed(queue, user) { Ok(()) } else { Err(Refused::NoJob(id)) };
                let in_buffer = redis.cancel_buffered(of_buffer, id, &allowed).await?;
                if let InBuffer::Found(..) = in_buffer {
                    redis.searches.is_settled_now(id);
                    return Ok(());
                }
                let text = redis.record_of(id).await?;
                let is_removed = match text.as_deref().and_then(Record::read) {
                    Some(record) => {
                        allowed(&record.queue, record.extras.user)?;
                        if matches!(record.state, State::Running { .. }) {
                            return Err(Refused::Running(id));
                        }
                        redis.remove_in_turn(user, id, text.as_deref().unwrap_or_default(), &record).await?
                    }
                    None => {
                        // Also for one that is settled: it may have stood in two places.
                        let sought = redis.search(user, id).await.map_err(|why| in_buffer.unless_there(why));
                        let (queue, text, item) = match sought? {
                            Sought::Waits(queue, text, item) => (queue, text, item),
                            Sought::IsTaken(job) => {
                                allowed(&job.queue, job.user)?;
                                return Err(Refused::Running(id));
                            }
                        };
                        allowed(&queue, item.extras.user)?;
                        let key = redis.keys.queue(&queue);
                        let record = Record::new(queue, State::Waiting, &item, String::new(), 0);
                        let step = Step::new(&redis.keys).if_in_list(&key, &text).free(id, &record);
                        let removed = redis.change(step.then_bytes([b"LREM", key.as_bytes(), b"1", &text])).await;
                        removed.map_err(|failed| not_removed(id, failed))?
                    }
                };
                if !is_removed {
                    return Err(Refused::Running(id));
                }
                redis.searches.is_settled_now(id);
                Ok(())
            })
        };
        self.ask(&place, cancel, no_matter).await
    }

    /// Removes a job that has a record. That of one far from the ends of its scheduler's list is a search, too.
    async fn remove_in_turn(&self, user: Option<u32>, id: JobId, text: &str, record: &Record) -> Result<bool, Refused> {
        let not_removed = |failed| not_removed(id, failed);
        if record.scheduled.is_none() {
            return self.remove(id, text, record).await.map_err(not_removed);
        }
        if self.remove_near_end(id, text, record).await.map_err(not_removed)? {
            return Ok(true);
        }
        let mut turn = self.searches.turn(user).await?;
        let began = Instant::now();
        let is_removed = self.remove(id, text, record).await;
        turn.is_over(began.elapsed());
        is_removed.map_err(not_removed)
    }

    /// A job as it stands in the buffer.
    fn buffered(&self, draft: &Draft) -> Job {
        let now = millis_since_1970(SystemTime::now());
        let text = resque::waiting(&draft.job, &draft.args, draft.id, draft.enqueued_at.unwrap_or(now), &draft.extras);
        let item = resque::read(text.as_bytes()).unwrap_or_else(|| Item::none(text.as_bytes()));
        let state = match (draft.died_at, draft.runs_until, millis(draft.job.delay)) {
            (_, Some(until), _) => State::Running { until },
            (Some(since), ..) => State::Dead { since },
            (None, None, 0) => State::Waiting,
            (None, None, delay) => State::Delayed { until: now + delay },
        };
        Job { state, is_buffered: true, ..self.job_of(&draft.job.queue, text.as_bytes(), &item, now) }
    }

    /// Removes a job from the buffer: found is one that was there, and nowhere else.
    async fn cancel_buffered(
        &self,
        place: Place,
        id: JobId,
        allowed: &(impl Fn(&str, Option<u32>) -> Result<(), Refused> + Send + Sync),
    ) -> Result<InBuffer, Refused> {
        let Some(buffer) = &self.buffer else { return Ok(InBuffer::NotThere) };
        // None is delivered meanwhile. Where the disk hangs, whoever delivers has that.
        let until = Instant::now() + TIMEOUT;
        let Ok(_delivery) = timeout_at(until.into(), buffer.delivery.lock()).await else {
            let why = format!("the buffer is busy, as its disk or Redis is slow: job {id} may be in it; try again");
            return Ok(InBuffer::NotReadable(Refused::Unavailable(why)));
        };
        let (at, draft) = match self.look_into_buffer(place, id, until).await {
            InBuffer::Found(at, draft) => (at, draft),
            elsewhere => return Ok(elsewhere),
        };
        allowed(&draft.job.queue, draft.extras.user)?;
        if draft.runs_until.is_some() {
            return Err(Refused::Running(id));
        }
        let is_in_redis = match self.link.now() {
            // From now on Redis does not enqueue it any more, whatever was sent before.
            Ok(now) => {
                let enqueued = self.keys.key("roster:enqueued");
                let command = redis::cmd("ZADD").arg(enqueued).arg("NX").arg(now).arg(id).to_owned();
                self.link.command::<u64>(&command).await.map_err(|failed| not_removed(id, failed))? == 0
            }
            Err(why) if self.is_in_doubt(id) || buffer.is_of_before(at) => {
                return Err(Refused::Unavailable(format!(
                    "{why}; it may have job {id} from the buffer already: cancel it once Redis is back"
                )));
            }
            Err(_) => false,
        };
        // Once asked it is done, whether anybody waits or not.
        let forgotten = timeout_at(until.into(), buffer.forget(draft.job.queue.clone(), vec![at])).await;
        forgotten.unwrap_or_else(|_| Err(hangs(&format!("job {id} is removed once it goes on"))))?;
        self.need_no_more([id].into_iter());
        Ok(if is_in_redis { InBuffer::NotThere } else { InBuffer::Found(at, draft) })
    }
}

/// Why a job is not removed; or may be, where Redis was asked and has not answered.
fn not_removed(id: JobId, failed: Failed) -> Refused {
    match failed.is_refused {
        true => failed.into(),
        false => Refused::Unavailable(format!(
            "{failed}; whether job {id} is removed is not known: cancel it once Redis is back"
        )),
    }
}

/// What the text of a job has that was enqueued here.
fn searched(id: JobId) -> String {
    format!(r#""id":"{id:032x}""#)
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::super::super::enqueue::Asker;
    use super::super::super::job::{MAX_ERROR, MAX_KEY, Unique, Until};
    use super::super::super::{Config, NewJob};
    use super::super::resque::Extras;
    use super::*;
    use crate::task::Tasks;

    const SOON: Duration = Duration::from_secs(60);

    /// Has the thread of the buffer hang until the other end is dropped.
    fn hang(redis: &Redis) -> std::sync::mpsc::Sender<()> {
        let (release, held) = std::sync::mpsc::channel();
        redis.buffer.as_ref().expect("it has one").hang(held);
        release
    }

    async fn until(is_true: impl Fn() -> bool) {
        while !is_true() {
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn in_time<T>(answer: impl Future<Output = T>) -> T {
        timeout(SOON, answer).await.expect("an answer")
    }

    #[test]
    fn behind_the_id_of_a_job_stands_no_more_than_is_looked_at() {
        let extras = Extras {
            id: Some(u64::MAX),
            user: Some(u32::MAX),
            retries: Some(u32::MAX),
            timeout_ms: Some(u64::MAX),
            keep_result_ms: Some(u64::MAX),
            unique: Some(Unique { key: "\"".repeat(MAX_KEY), until: Until::Success }),
            attempt: u32::MAX,
            failures: u32::MAX,
            lost: u32::MAX,
            error: Some("\u{1}".repeat(MAX_ERROR + 1)),
            due_at: Some(u64::MAX),
        };
        let job = NewJob { queue: "mail".into(), name: "C".into(), ..NewJob::default() };
        let text = resque::waiting(&job, "null", 7, u64::MAX, &extras);
        let at = text.find(&searched(7)).expect("its id");
        assert!((text.len() - at) as u64 <= REACH, "{}", text.len() - at);
    }

    #[test]
    fn of_so_many_jobs_it_is_known_that_they_are_settled_and_the_last_ones_are_those() {
        let searches = Searches::default();
        (0..=MAX_SETTLED as u64).for_each(|id| searches.is_settled_now(id));
        searches.is_settled_now(1);
        let is_settled = |id: JobId| searches.settled().ids.contains(&id);
        assert!(!is_settled(0) && (1..=MAX_SETTLED as u64).all(is_settled));
        assert_eq!(searches.settled().ids.len(), MAX_SETTLED);
        // One that is handed out again is settled no longer, until it is once more.
        searches.is_not_settled_now(1);
        searches.is_not_settled_now(1);
        assert!(!searches.settled().ids.contains(&1));
        searches.is_settled_now(1);
        searches.is_settled_now(MAX_SETTLED as u64 + 1);
        let is_settled = |id: JobId| searches.settled().ids.contains(&id);
        assert!(is_settled(1) && !is_settled(2) && is_settled(3));
        assert_eq!(searches.settled().ids.len(), MAX_SETTLED);
        assert_eq!(searches.settled().in_order.len(), MAX_SETTLED);
    }

    #[tokio::test]
    async fn between_two_steps_of_a_search_redis_rests_and_others_have_their_turns_but_none_of_the_same_user() {
        const A_WHILE: Duration = Duration::from_millis(50);
        let searches = Searches::default();
        let mut first = searches.turn(Some(1)).await.expect("few wait");
        let began = Instant::now();
        first.is_over(A_WHILE);
        let mut second = in_time(searches.turn(Some(2))).await.expect("few wait");
        assert!(began.elapsed() >= A_WHILE, "{:?}", began.elapsed());
        assert!(timeout(A_WHILE, first.comes()).await.is_err(), "another one has the turn");
        second.is_over(Duration::ZERO);
        in_time(first.comes()).await;
        first.is_over(Duration::ZERO);
        assert!(timeout(A_WHILE, searches.turn(Some(1))).await.is_err(), "the first search is not at its end");
        drop(first);
        in_time(searches.turn(Some(1))).await.expect("few wait");
    }

    #[tokio::test]
    async fn where_the_disk_of_the_buffer_hangs_whoever_asks_is_answered_and_delivery_is_nobodys() {
        let folder = tempfile::tempdir().expect("a folder");
        let (tasks, _failed) = Tasks::new();
        let path = Some(folder.path().join("queue"));
        let config = Config { path, buffer: true, ..Config::default() };
        let nobody = "redis://127.0.0.1:1/0".parse().expect("a server");
        let redis = Redis::start(nobody, &config, Arc::default(), &Arc::default(), &tasks).expect("a thread");
        let asker = Asker { uid: Some(0), is_admin: true };
        let job = NewJob { queue: "mail".into(), name: "C".into(), ..NewJob::default() };
        let id = redis.enqueue(Place::default(), vec![job], asker).await.expect("it is kept")[0].id;
        let buffer = redis.buffer.as_ref().expect("it has one");
        let is_delivery_free = || buffer.delivery.try_lock().is_ok();

        // Before it is found, so that Redis is asked; and before it is forgotten; and for no longer where Redis has been slow.
        let (release, begun) = (hang(&redis), Instant::now());
        let delivering = buffer.delivery.lock().await;
        let delivers = async {
            sleep(TIMEOUT * 4 / 5).await;
            drop(delivering);
        };
        let found = in_time(redis.find(Place::default(), Some(0), id, |_, _| true));
        let cancelled = in_time(redis.cancel(Place::default(), Some(0), id, |_, _| true));
        let (found, cancelled, ()) = tokio::join!(found, cancelled, delivers);
        assert!(matches!(found, Err(Refused::Unavailable(_))), "{found:?}");
        assert!(matches!(cancelled, Err(Refused::Unavailable(_))), "{cancelled:?}");
        assert!(begun.elapsed() < TIMEOUT * 3 / 2, "{:?}", begun.elapsed());
        assert!(is_delivery_free());
        // Those that were given up wait for the disk yet, and no other does.
        let place = Place::default();
        let again = in_time(redis.find(place.clone(), Some(0), id, |_, _| true)).await;
        assert!(matches!(again, Err(Refused::Unavailable(_))), "{again:?}");
        in_time(until(|| Arc::strong_count(&place) == 1)).await;
        drop(release);
        in_time(async {
            while buffer.find(Place::default(), id, Instant::now() + TIMEOUT).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;

        let (of_closure, hanging) = (redis.clone(), Arc::new(Mutex::new(None)));
        let holder = hanging.clone();
        let hangs_then = move |_: &str, _| {
            *holder.lock().expect("no panic") = Some(hang(&of_closure));
            true
        };
        let cancelled = in_time(redis.cancel(Place::default(), Some(0), id, hangs_then)).await;
        let Err(Refused::Unavailable(why)) = cancelled else { panic!("{cancelled:?}") };
        assert!(why.contains(&format!("job {id} is removed once it goes on")), "{why}");
        assert!(is_delivery_free());
        drop(hanging.lock().expect("no panic").take());
        let left = buffer.find(Place::default(), id, Instant::now() + TIMEOUT);
        assert!(in_time(left).await.expect("it is read").is_none(), "it is removed");
    }
}
