//! Queues in a Redis whose connection ends at any command, and that is killed under load.

#[path = "../endurance/job_model.rs"]
#[allow(dead_code, reason = "`make endurance` uses the rest")]
mod job_model;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::job_model::{JobModel, Outcome, now};
use crate::harness::{Cutter, Over, Redis, Roster, SOON, ensure, eventually};
use crate::idl::{
    EnqueueRequest, Job, JobAction, JobQuery, JobState, JobUpdate, NewJob, NotFound, QueueAction, QueueControl,
    QueuesQuery, TRosterSyncClient, TakeJobsRequest,
};

/// How many sidecars are cut off at the same time.
const SIDECARS: usize = 6;

/// How long a lease lasts that is to outlast what is done in it, and one that is to end.
const LEASE: Duration = Duration::from_millis(3_000);
const SHORT_LEASE: Duration = Duration::from_millis(200);

fn at(url: &str, settings: &str) -> Roster {
    let mut roster = Roster::prepare(&format!("[queue]\nbackend = '{url}'\n{settings}"));
    roster.run();
    eventually("the queues can be used", SOON, || {
        let reply = roster.client().queues(QueuesQuery::default()).map_err(|error| error.to_string())?;
        reply.trouble.map_or(Ok(()), Err)
    });
    roster
}

/// The record of a job; or its element of the queue, or as it is while it is taken off.
const FIND: &str = "
    local record = redis.call('HGET', ARGV[1] .. 'roster:jobs', ARGV[2])
    if record then return record end
    for _, list in ipairs({redis.call('LRANGE', ARGV[1] .. 'queue:q', 0, -1),
            redis.call('ZRANGE', ARGV[1] .. 'roster:popped', 0, -1)}) do
        for _, item in ipairs(list) do if string.find(item, ARGV[3], 1, true) then return item end end
    end
    return ''";

/// Has what was taken off a queue, and is not settled, be put back now.
fn hurry(redis: &Redis, prefix: &str) {
    let script =
        "for _, it in ipairs(redis.call('ZRANGE', ARGV[1], 0, -1)) do redis.call('ZINCRBY', ARGV[1], -60000, it) end";
    redis.ask(&["EVAL", script, "0", &format!("{prefix}roster:popped")]);
}

/// A sidecar whose connection is cut, and what its jobs went through.
struct Life<'a> {
    redis: &'a Redis,
    prefix: String,
    cutter: Cutter,
    roster: Roster,
    /// Who was handed a job last: its attempt, and until when nobody else may be.
    held: Option<(Job, Instant)>,
    lease: Duration,
}

impl<'a> Life<'a> {
    fn begin(redis: &'a Redis, prefix: String) -> Self {
        let cutter = Cutter::to(redis.port());
        let roster = at(&cutter.url(), &format!("prefix = '{prefix}'\n"));
        Self { redis, prefix, cutter, roster, held: None, lease: LEASE }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Does it again until it is answered. A job with a unique key is the same one then.
    fn persist<T>(&self, what: impl Fn() -> thrift::Result<T>) -> T {
        eventually("Redis is there again", SOON, || what().map_err(|error| format!("{error:?}")))
    }

    fn enqueue(&self, key: &str, delay: Duration) -> i64 {
        let job = NewJob {
            unique_key: Some(key.into()),
            retries: Some(0),
            delay_ms: Some(delay.as_millis() as i64),
            keep_result_ms: (key == "kept").then_some(600_000),
            ..NewJob::new("q".into(), "C".into(), None, None, None, None, None, None, None, None, None)
        };
        let enqueue = || self.roster.client().enqueue(EnqueueRequest { jobs: vec![job.clone()] });
        self.persist(enqueue).jobs[0].id
    }

    /// Where Redis has the job. None: it is done, or cancelled. The sidecar is not asked, whose connection would end by that.
    fn find(&self, id: i64) -> Option<JobState> {
        let found = self.redis.ask(&["EVAL", FIND, "0", &self.prefix, &id.to_string(), &format!("{id:032x}")]);
        let states = [
            ("Dead", JobState::DEAD),
            ("Delayed", JobState::DELAYED),
            ("Running", JobState::RUNNING),
            ("Done", JobState::DONE),
        ];
        let of_record = states.into_iter().find(|(word, _)| found.contains(&format!(r#""state":{{"{word}""#)));
        of_record.map(|(_, state)| state).or((!found.is_empty()).then_some(JobState::WAITING))
    }

    fn take(&mut self, id: i64) -> thrift::Result<()> {
        let (asked, lease_ms) = (Instant::now(), self.lease.as_millis() as i64);
        let request = TakeJobsRequest::new(vec!["q".into()], 1, lease_ms, 0, None);
        let Some(job) = self.roster.client().take_jobs(request)?.jobs.pop() else { return Ok(()) };
        assert_eq!(job.id, id, "no other job was enqueued");
        if let Some((before, until)) = &self.held {
            assert!(before.attempt < job.attempt, "{before:?} {job:?}");
            let early = until.saturating_duration_since(Instant::now());
            assert_eq!(early, Duration::ZERO, "handed out twice within a lease: {before:?} {job:?}");
        }
        self.held = Some((job, asked + self.lease));
        Ok(())
    }

    /// Whoever has the job says so of it, and has it no more.
    fn report(&mut self, action: JobAction, delay: Duration) -> thrift::Result<()> {
        let Some((job, until)) = &mut self.held else { return Ok(()) };
        let lease_ms = (action == JobAction::TOUCH).then_some(self.lease.as_millis() as i64);
        let asked = Instant::now();
        *until = asked;
        let update = JobUpdate::new(job.id, job.attempt, action, delay.as_millis() as i64, None, lease_ms, None, None);
        self.roster.client().update_job(update)?;
        if action == JobAction::TOUCH {
            *until = asked + self.lease;
        }
        Ok(())
    }

    /// Whether the sidecar knows the job.
    fn known(&self, id: i64) -> thrift::Result<bool> {
        match self.roster.client().job(JobQuery { id }) {
            Ok(_) => Ok(true),
            Err(thrift::Error::User(error)) if error.is::<NotFound>() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the job whenever it can be, and reports that, until it is in this state.
    fn until(&mut self, id: i64, wanted: Option<JobState>, (action, delay): (JobAction, Duration)) {
        let began = Instant::now();
        eventually(&format!("the job is {wanted:?}"), SOON * 2, || {
            let found = self.find(id);
            let nobody_has_it = wanted == Some(JobState::RUNNING) && self.held.is_none();
            if found == wanted && !nobody_has_it {
                return Ok(());
            }
            assert_ne!(found, None, "the job is lost");
            let tried = match found {
                Some(JobState::RUNNING) => self.report(action, delay),
                Some(JobState::WAITING) => self.take(id),
                _ => Ok(()),
            };
            if tried.is_err() {
                eventually("the sidecar knows the job", SOON, || {
                    let is_known = self.known(id).map_err(|error| format!("{error:?}"))?;
                    ensure(is_known || self.find(id).is_none(), "it does not")
                });
            }
            if began.elapsed() > LEASE / 2 {
                hurry(self.redis, &self.prefix);
            }
            std::thread::sleep(Duration::from_millis(20));
            Err(format!("it is {found:?}: {tried:?}"))
        });
    }

    /// The states that a job goes through within moments.
    fn short(&mut self) {
        let none = Duration::ZERO;
        let id = self.enqueue("one", none);
        assert_eq!(self.redis.ask(&["LLEN", &self.key("queue:q")]), "1", "one job, whatever is done again");
        self.until(id, Some(JobState::RUNNING), (JobAction::DONE, none));
        let _ = self.report(JobAction::TOUCH, none);
        self.until(id, Some(JobState::WAITING), (JobAction::RELEASE, none));
        self.until(id, Some(JobState::DEAD), (JobAction::FAIL, none));
        eventually("it is retried", SOON, || {
            let retry = QueueControl::new("q".into(), QueueAction::RETRY, None, id, None);
            let _ = self.roster.client().control_queue(retry);
            std::thread::sleep(Duration::from_millis(20));
            let found = self.find(id);
            ensure(found == Some(JobState::WAITING), format!("{found:?}"))
        });
        self.until(id, None, (JobAction::DONE, none));
        self.held = None;
        for (key, delay) in [("two", none), ("three", Duration::from_secs(3_600))] {
            let id = self.enqueue(key, delay);
            eventually("it is cancelled", SOON, || {
                let _ = self.roster.client().cancel_job(JobQuery { id });
                std::thread::sleep(Duration::from_millis(20));
                let found = self.find(id);
                ensure(found.is_none(), format!("{found:?}"))
            });
        }
        let id = self.enqueue("four", none);
        self.until(id, Some(JobState::DEAD), (JobAction::BURY, none));
        self.held = None;
        let purge = || QueueControl::new("q".into(), QueueAction::PURGE, JobState::DEAD, None, None);
        self.persist(|| self.roster.client().control_queue(purge()));
        let id = self.enqueue("kept", none);
        self.until(id, Some(JobState::DONE), (JobAction::DONE, none));
        self.held = None;
        let purge = || QueueControl::new("q".into(), QueueAction::PURGE, JobState::DONE, None, None);
        self.persist(|| self.roster.client().control_queue(purge()));
        let id = self.enqueue("five", none);
        let purge = || QueueControl::new("q".into(), QueueAction::PURGE, JobState::WAITING, None, None);
        self.persist(|| self.roster.client().control_queue(purge()));
        assert_eq!(self.find(id), None);
    }

    /// Those that the time changes.
    fn long(&mut self) {
        let moment = Duration::from_millis(1);
        let id = self.enqueue("six", moment);
        self.lease = SHORT_LEASE;
        eventually("its lease ends, and without retries it is dead", SOON, || {
            let found = self.find(id);
            if found == Some(JobState::WAITING) && self.take(id).is_err() {
                hurry(self.redis, &self.prefix);
            }
            std::thread::sleep(Duration::from_millis(50));
            ensure(found == Some(JobState::DEAD), format!("{found:?}"))
        });
        self.lease = LEASE;
        eventually("it is retried", SOON, || {
            let retry = QueueControl::new("q".into(), QueueAction::RETRY, None, None, None);
            let _ = self.roster.client().control_queue(retry);
            let found = self.find(id);
            ensure(found == Some(JobState::WAITING), format!("{found:?}"))
        });
        self.until(id, Some(JobState::DELAYED), (JobAction::RELEASE, moment));
        self.until(id, None, (JobAction::DONE, Duration::ZERO));
        self.held = None;
    }

    /// What is left of it all in Redis.
    fn left(&self) -> String {
        let keys = self.redis.ask(&["KEYS", &self.key("*")]);
        let stay = [":queues", ":queue_creators", ":stat:processed", ":stat:failed"];
        let left = keys.lines().filter(|key| !stay.iter().any(|end| key.ends_with(end)));
        left.collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn a_connection_that_ends_at_any_command_loses_no_job_and_hands_none_out_twice() {
    let redis = Redis::start(&[]);
    std::thread::scope(|scope| {
        for sidecar in 0..SIDECARS {
            let redis = &redis;
            scope.spawn(move || {
                let mut life = Life::begin(redis, format!("s{sidecar}:"));
                for live in [Life::short, Life::long] {
                    for count in (sidecar..).step_by(SIDECARS) {
                        life.cutter.cut_after(count);
                        live(&mut life);
                        let is_cut = life.cutter.has_cut();
                        eventually("nothing is left of them", SOON, || {
                            let left = life.left();
                            ensure(left.is_empty(), format!("after {count}: {left}"))
                        });
                        if !is_cut {
                            break;
                        }
                    }
                }
            });
        }
    });
}

#[test]
fn what_was_taken_off_when_the_connection_ended_is_put_back_in_its_order() {
    let redis = Redis::start(&[]);
    let cutter = Cutter::to(redis.port());
    let roster = at(&cutter.url(), "");
    let is_put_back = (0..100).any(|count| {
        let job = |_| NewJob::new("q".into(), "C".into(), None, None, None, None, None, None, None, None, None);
        let jobs = (0..5).map(job).collect();
        let enqueued = roster.client().enqueue(EnqueueRequest { jobs }).expect("Redis is there").jobs;
        cutter.cut_after(count % 20);
        let request = || TakeJobsRequest::new(vec!["q".into()], 5, None, 0, None);
        let mut taken = roster.client().take_jobs(request()).map_or(Vec::new(), |reply| reply.jobs);
        let taken_off = || redis.ask(&["ZCARD", "resque:roster:popped"]);
        let was_taken_off = taken_off() == "5";
        cutter.has_cut();
        eventually("they are put back", SOON, || {
            hurry(&redis, "resque:");
            // One after the other, beginning with the last.
            ensure(taken_off() == "0", taken_off())?;
            taken.extend(roster.client().take_jobs(request()).map_err(|error| format!("{error:?}"))?.jobs);
            ensure(taken.len() == 5, taken.len())
        });
        for job in &taken {
            let done = || JobUpdate::new(job.id, job.attempt, JobAction::DONE, None, None, None, None, None);
            eventually("it is done", SOON, || roster.client().update_job(done()));
        }
        let ids = taken.iter().map(|job| job.id);
        assert!(!was_taken_off || ids.eq(enqueued.iter().map(|job| job.id)), "{enqueued:?} {taken:?}");
        was_taken_off
    });
    assert!(is_put_back, "the reply that names them was never lost");
}

/// Whoever takes it counts from when it arrives; so does who is told that it was prolonged, from when that was asked.
#[test]
fn a_lease_is_whole_when_its_job_arrives_however_late_redis_answers() {
    let redis = Redis::start(&[]);
    let cutter = Cutter::to(redis.port());
    let roster = at(&cutter.url(), "");
    let other = at(&redis.url(), "");
    let (lease, late) = (Duration::from_secs(3), Duration::from_millis(1_500));
    let job = NewJob::new("q".into(), "C".into(), None, None, None, None, None, None, None, None, None);
    roster.client().enqueue(EnqueueRequest { jobs: vec![job] }).expect("Redis is there");
    // The steps that write leases have that text, and no others.
    cutter.delay(r#"{"Running":"#, late);
    let take = |from: &Roster| {
        let request = TakeJobsRequest::new(vec!["q".into()], 1, lease.as_millis() as i64, 0, None);
        from.client().take_jobs(request).map(|mut reply| reply.jobs.pop())
    };
    let is_alone_until = |until: Instant| {
        while Instant::now() < until {
            let taken = take(&other).expect("Redis is there");
            assert!(taken.is_none() || Instant::now() >= until, "handed out within its lease: {taken:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    // One whose lease ends before it can begin anew is given back, and taken again.
    let taken = eventually("it is taken", SOON, || {
        take(&roster).map_err(|error| format!("{error:?}"))?.ok_or_else(|| "it was given back".to_owned())
    });
    is_alone_until(Instant::now() + lease * 9 / 10);
    let asked = Instant::now();
    let touch = JobUpdate::new(taken.id, taken.attempt, JobAction::TOUCH, None, None, 2_000, None, None);
    roster.client().update_job(touch).expect("it has the lease");
    is_alone_until(asked + Duration::from_millis(2_000));
    // Nobody may have it for ever.
    eventually("its lease ends", SOON, || {
        take(&other).map_err(|error| format!("{error:?}"))?.map(drop).ok_or_else(|| "it does not".to_owned())
    });
}

#[test]
fn a_redis_that_is_killed_under_load_loses_nothing_that_was_acknowledged() {
    let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let roster = at(&redis.url(), "timeout = '5s'\n");
    let (model, is_over, is_drained) =
        (Mutex::new(JobModel::default()), AtomicBool::new(false), AtomicBool::new(false));
    let load = Load { roster: &roster, model: &model };
    std::thread::scope(|scope| {
        let (_over, _drained) = (Over(&is_over), Over(&is_drained));
        for _ in 0..2 {
            scope.spawn(|| load.repeat(&is_over, Load::enqueue));
            scope.spawn(|| load.repeat(&is_drained, Load::take));
        }
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(fastrand::u64(50..400)));
            redis.kill();
            std::thread::sleep(Duration::from_millis(fastrand::u64(0..200)));
            redis.run();
            eventually("jobs are performed again", SOON, {
                let before = load.model().performed();
                move || ensure(load.model().performed() > before, "none is")
            });
        }
        is_over.store(true, Ordering::Relaxed);
        eventually("every acknowledged job is performed", SOON * 2, || {
            hurry(&redis, "resque:");
            let open = load.model().open_count();
            ensure(open == 0, format!("{open} are not"))
        });
    });
    load.model().is_whole().expect("all of a request or none");
    assert!(load.model().performed() > 100, "{} were performed", load.model().performed());
    eventually("nothing is left of them", SOON, || {
        hurry(&redis, "resque:");
        let open = roster.client().take_jobs(TakeJobsRequest::new(vec!["q".into()], 100, None, 0, None));
        for job in open.map_err(|error| format!("{error:?}"))?.jobs {
            let done = JobUpdate::new(job.id, job.attempt, JobAction::DONE, None, None, None, None, None);
            roster.client().update_job(done).map_err(|error| format!("{error:?}"))?;
        }
        let left = redis.keys_of_roster();
        ensure(left.is_empty(), left)
    });
}

/// Who enqueue jobs, and who take them.
#[derive(Clone, Copy)]
struct Load<'a> {
    roster: &'a Roster,
    model: &'a Mutex<JobModel>,
}

impl Load<'_> {
    fn model(&self) -> std::sync::MutexGuard<'_, JobModel> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn repeat(&self, is_over: &AtomicBool, work: fn(&Self) -> thrift::Result<Outcome>) {
        while !is_over.load(Ordering::Relaxed) {
            // A Redis that is away takes and hands out no jobs.
            if let Ok(outcome) = work(self) {
                outcome.expect("no job is lost, nor handed out twice");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn enqueue(&self) -> thrift::Result<Outcome> {
        if self.model().open_count() > 100 {
            return Ok(Ok(()));
        }
        let batch = self.model().enqueues(fastrand::usize(1..4), Duration::ZERO, LEASE);
        let job = |number: usize| {
            let payload = number.to_string().into_bytes();
            NewJob::new("q".into(), "C".into(), payload, None, None, None, None, None, None, None, None)
        };
        let reply = self.roster.client().enqueue(EnqueueRequest { jobs: batch.numbers().map(job).collect() })?;
        Ok(self.model().is_acknowledged(batch, reply.jobs.iter().map(|job| job.id)))
    }

    fn take(&self) -> thrift::Result<Outcome> {
        let (asked, mut client) = (now(), self.roster.client());
        let request = TakeJobsRequest::new(vec!["q".into()], 3, LEASE.as_millis() as i64, 0, None);
        for job in client.take_jobs(request)?.jobs {
            let number = std::str::from_utf8(&job.payload).ok().and_then(|number| number.parse().ok());
            let number = number.unwrap_or(usize::MAX);
            if let Err(wrong) = self.model().is_taken(number, job.id, job.attempt, (asked, LEASE)) {
                return Ok(Err(wrong));
            }
            let action = [JobAction::DONE, JobAction::DONE, JobAction::DONE, JobAction::RELEASE][fastrand::usize(..4)];
            match action {
                JobAction::DONE => self.model().is_performed(number),
                _ => self.model().may_be_due(number, job.attempt, now()),
            }
            let update = JobUpdate::new(job.id, job.attempt, action, None, None, None, None, None);
            match client.update_job(update) {
                Ok(_) if action == JobAction::DONE => self.model().is_done(number, job.attempt),
                Ok(_) => {}
                Err(thrift::Error::User(error)) if error.is::<NotFound>() => {
                    if let Err(wrong) = self.model().is_refused(number, job.attempt) {
                        return Ok(Err(wrong));
                    }
                }
                // It is kept, and written when Redis is back.
                Err(_) => {}
            }
        }
        Ok(Ok(()))
    }
}
