//! Enqueues: all of the jobs of a request, or none.

use std::sync::Arc;

use redis::Value;

use super::super::Place;
use super::super::change::{Refused, millis};
use super::super::check::check;
use super::super::enqueue::Asker;
use super::super::job::{Enqueued, NewJob, State};
use super::link::Arguments;
use super::record::Record;
use super::resque::{self, Extras};
use super::{Redis, no_matter, scripts};

impl Redis {
    pub(in crate::queue) async fn enqueue(
        self: &Arc<Self>,
        place: Place,
        jobs: Vec<NewJob>,
        asker: Asker,
    ) -> Result<Vec<Enqueued>, Refused> {
        check(&jobs, &self.config)?;
        let enqueued = self.ask(&place, move |redis| Box::pin(redis.enqueue_all(jobs, asker)), no_matter).await?;
        self.metrics.jobs_enqueued.add(enqueued.iter().filter(|it| it.is_new).count() as u64);
        Ok(enqueued)
    }

    async fn enqueue_all(self: Arc<Self>, jobs: Vec<NewJob>, asker: Asker) -> Result<Vec<Enqueued>, Refused> {
        let now = self.link.latest()?;
        let (most, queues) = (self.config.max_jobs as u64, self.config.max_queues as u64);
        let mut arguments = Arguments::new(&self.keys.0).number(most).number(queues);
        for job in &jobs {
            let no_json = || Refused::Invalid("payload", "it is no JSON, as those of jobs in Redis are".to_owned());
            let args = resque::args(&job.payload).ok_or_else(no_json)?;
            let id = resque::new_id();
            let extras = Extras {
                user: asker.uid,
                priority: job.priority,
                retries: job.retries,
                timeout_ms: job.timeout.map(millis),
                unique: job.unique.clone(),
                ..Extras::default()
            };
            let key = job.unique.as_ref().map_or("", |unique| unique.key.as_str());
            let whole = resque::waiting(job, &args, id, now, &extras);
            arguments = arguments.text(&job.queue).number(id).text(key);
            arguments = match millis(job.delay) {
                0 => arguments.text(&whole).text("").text("").text(&whole),
                delay => {
                    // Schedulers know seconds.
                    let second = (now + delay).div_ceil(1_000);
                    let (item, state) = (resque::delayed(job, &args), State::Delayed { until: second * 1_000 });
                    let record = Record {
                        queue: job.queue.clone(),
                        state,
                        extras,
                        enqueued_at: now,
                        scheduled: Some(second),
                        item: item.clone(),
                    };
                    arguments.text(&item).number(second * 1_000).text(record.written()).text(&item)
                }
            };
        }
        let in_doubt = "; it is not known whether the jobs are enqueued";
        let reply: Value =
            self.link.run(&scripts::ENQUEUE, arguments).await.map_err(|failed| match failed.is_refused {
                true => Refused::from(failed),
                false => Refused::Unavailable(format!("{failed}{in_doubt}")),
            })?;
        match redis::from_redis_value::<Vec<u64>>(reply.clone()) {
            Ok(reply) => {
                jobs.iter().for_each(|job| self.is_ready(&job.queue));
                Ok(reply.chunks_exact(2).map(|it| Enqueued { id: it[0], is_new: it[1] == 1 }).collect())
            }
            Err(_) => Err(self.refused(&redis::from_redis_value::<String>(reply).unwrap_or_default())),
        }
    }

    /// What the script says that refuses.
    fn refused(&self, why: &str) -> Refused {
        match why.split_once(' ') {
            Some(("FULL", queue)) => {
                Refused::Full(format!("the queue {queue:?} is full: `queue.max_jobs` is {}", self.config.max_jobs))
            }
            Some(("TYPE", key)) => {
                let key = key.rsplit_once(' ').map_or(key, |(key, _)| key);
                Refused::Unavailable(format!("{key:?} of Redis at {} is no list", self.link.server))
            }
            _ => Refused::Full(format!("too many queues: `queue.max_queues` is {}", self.config.max_queues)),
        }
    }
}
