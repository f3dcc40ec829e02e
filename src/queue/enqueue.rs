//! Enqueueing: whether there is room for jobs, and theirs is kept.

use super::book::Usage;
use super::change::{Change, Outcome, Refused, millis};
use super::check::check;
use super::engine::EngineError;
use super::full::Bound;
use super::job::{DEFAULT_PRIORITY, Enqueued, Head, NewJob, OVERHEAD, Unique, body};
use super::keys::{self, QueueNumber};
use crate::share::KEPT_FOR_ADMINS;

/// What the kernel knows of who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// None: somebody over TCP.
    pub uid: Option<u32>,
    /// Administrators have room where all others have none.
    pub is_admin: bool,
}

impl Asker {
    /// Its user, as it is kept of jobs that it takes.
    pub(super) fn number(self) -> i64 {
        self.uid.map_or(-1, i64::from)
    }
}

impl Change<'_, '_> {
    /// All of them, or none.
    pub(super) fn enqueue(&mut self, jobs: &[NewJob], asker: Asker) -> Outcome<Vec<Enqueued>> {
        check(jobs, self.config)?;
        self.ensure_room(jobs, asker)?;
        self.ensure_queues(jobs, asker)?;
        jobs.iter().map(|job| self.enqueue_one(job, asker.uid)).collect()
    }

    /// Each user may have as much as it leaves free, and a part is kept for administrators.
    fn ensure_room(&self, jobs: &[NewJob], Asker { uid, is_admin }: Asker) -> Result<(), Refused> {
        let mut wanted = Usage::default();
        jobs.iter().for_each(|job| wanted.add(Usage { jobs: 1, bytes: charge(job) }));
        self.ensure_room_for(wanted, Asker { uid, is_admin })
    }

    pub(super) fn ensure_room_for(&self, wanted: Usage, Asker { uid, is_admin }: Asker) -> Result<(), Refused> {
        let own = self.book.users.get(&uid).copied().unwrap_or_default();
        let (most, most_bytes) = (self.config.max_jobs as u64, self.config.max_bytes.as_u64());
        let (total, largest) = (self.book.total, self.config.max_job_bytes.as_u64());
        for (setting, least, wanted, all, own, most) in [
            ("max_jobs", 1, wanted.jobs, total.jobs, own.jobs, most),
            ("max_bytes", largest, wanted.bytes, total.bytes, own.bytes, most_bytes),
        ] {
            let free = (most - most / KEPT_FOR_ADMINS as u64).saturating_sub(all);
            // Who has nothing may have half of what is free.
            let bound = || if free < 2 * least { Bound::All(setting) } else { Bound::OfUser(setting, uid) };
            if all + wanted > most {
                return Err(Refused::Full(bound(), format!("the queues are full: `queue.{setting}` is {most}")));
            }
            if !is_admin && own + wanted > free.saturating_sub(wanted) {
                let message = format!(
                    "this user has {own} of `queue.{setting}`, which is {most}; one may have as much as it leaves free"
                );
                return Err(Refused::Full(bound(), message));
            }
        }
        Ok(())
    }

    /// Makes the queues that are not there. What is refused has made none.
    fn ensure_queues(&mut self, jobs: &[NewJob], Asker { uid, is_admin }: Asker) -> Outcome<()> {
        let mut missing: Vec<&str> = jobs.iter().map(|job| job.queue.as_str()).collect();
        missing.retain(|name| self.book.named(name).is_none());
        missing.sort_unstable();
        missing.dedup();
        let (most, wanted) = (self.config.max_queues, missing.len());
        if wanted == 0 {
            return Ok(());
        }
        let busy = self.book.queues.values().filter(|queue| !queue.counts.is_idle());
        let own = busy.clone().filter(|queue| queue.counts.creator == uid).count();
        let all = busy.count();
        let free = (most - most / KEPT_FOR_ADMINS).saturating_sub(all);
        if all + wanted > most || !is_admin && own + wanted > free.saturating_sub(wanted) {
            let message = format!(
                "too many queues: `queue.max_queues` is {most}, of which one user may have as many as it leaves free, and a \
                 part is kept for administrators"
            );
            let setting = "max_queues";
            let bound = if free < 2 { Bound::All(setting) } else { Bound::OfUser(setting, uid) };
            return Err(Refused::Full(bound, message).into());
        }
        while self.book.queues.len() + wanted > most && self.book.forget_one(self.txn, jobs)? {}
        missing.into_iter().for_each(|name| _ = self.book.add_queue(name, uid));
        Ok(())
    }

    /// A queue by its name, which is made if it is not there.
    pub(super) fn ensure_queue(&mut self, name: &str, asker: Asker) -> Outcome<QueueNumber> {
        self.ensure_queues(&[NewJob { queue: name.to_owned(), ..NewJob::default() }], asker)?;
        Ok(self.number_of(name)?)
    }

    fn enqueue_one(&mut self, job: &NewJob, user: Option<u32>) -> Outcome<Enqueued> {
        let queue = *self.book.names.get(&job.queue).ok_or(EngineError::Damaged)?;
        if let Some(unique) = &job.unique
            && let Some(id) = self.holder_of(queue, &unique.key)?
        {
            return Ok(Enqueued { id, is_new: false, is_buffered: false });
        }
        let id = self.book.next_job();
        let bytes = charge(job);
        let head = Head {
            queue,
            state: self.due_in(job.delay),
            priority: job.priority.unwrap_or(DEFAULT_PRIORITY),
            attempt: 0,
            failures: 0,
            lost: 0,
            retries: job.retries.unwrap_or_else(|| self.config.retries(&job.queue)),
            timeout_ms: millis(job.timeout.unwrap_or_else(|| self.config.timeout(&job.queue))),
            enqueued_at: self.now.wall,
            user,
            bytes,
            unique: job.unique.clone(),
            error: None,
            lease_ms: 0,
            taker: None,
            limit_key: job.limit_key.clone(),
            keep_result_ms: millis(job.keep_result.unwrap_or(self.config.keep_results)),
            due_at: job.due_at,
        };
        if let Some(Unique { key, .. }) = &head.unique {
            self.txn.put(&keys::unique(queue, key), &id.to_be_bytes())?;
        }
        self.txn.put(&keys::body(id), &body(&job.name, &job.payload))?;
        self.book.charge(user, bytes);
        let uptime = self.now.uptime;
        let of_queue = self.book.queue(queue)?;
        of_queue.counts.bytes += bytes;
        of_queue.enqueued.add(uptime);
        self.place(id, &head)?;
        self.tally.enqueued += 1;
        Ok(Enqueued { id, is_new: true, is_buffered: false })
    }
}

fn charge(job: &NewJob) -> u64 {
    (OVERHEAD + job.payload.len() + job.name.len() + job.keys_len()) as u64
}
