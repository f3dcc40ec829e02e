//! Jobs of a sidecar's queues: who enqueue them, and who perform them: its workers in PHP, and takers over Thrift.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::checker::Checker;
use crate::dice::Dice;
use crate::harness::{Client, Dialect, Roster, ensure};
use crate::idl::{
    EnqueueRequest, Job, JobAction, JobQuery, JobUpdate, NewJob, NotFound, QueueAction, QueueControl, QueueSummary,
    QueuesQuery, TRosterSyncClient, TakeJobsRequest,
};
use crate::job_model::{JobModel, Outcome, now};

/// The queue whose jobs workers perform, and the one of which others take jobs.
const QUEUES: [&str; 2] = [PERFORMED, TAKEN];
const PERFORMED: &str = "php";
const TAKEN: &str = "taken";

/// How long one attempt may take; and one that hangs, which takes longer.
const TIMEOUT: Duration = Duration::from_secs(8);
const HANG_TIMEOUT: Duration = Duration::from_secs(2);

const PRODUCERS: usize = 2;
const TAKERS: usize = 2;

/// What each of them rests in between.
const REST: Duration = Duration::from_millis(20);

/// How often somebody looks for a sidecar that is away.
const PAUSE: Duration = Duration::from_millis(100);

/// How soon whoever is in a hurry hangs up.
const HURRY: Duration = Duration::from_millis(2);

/// No more is enqueued while so much waits.
const MOST: usize = 300;

/// A job that fails is tried again no sooner.
const RETRY: Duration = Duration::from_secs(15);

/// What the sidecar is configured with.
pub(crate) fn settings() -> String {
    format!("[queue]\npath = \"{{folder}}/queue\"\ntimeout = \"{}s\"\n", TIMEOUT.as_secs())
}

/// The jobs, and who enqueue and take them.
#[derive(Debug)]
pub(crate) struct Jobs {
    book: Arc<Book>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Book {
    socket: PathBuf,
    /// Where workers leave when each attempt begins and ends.
    trace: PathBuf,
    checker: Arc<Checker>,
    model: Mutex<JobModel>,
    /// How much of the trace is in the model.
    read: Mutex<u64>,
    /// Nobody enqueues more, and who takes a job performs it.
    is_over: AtomicBool,
    stop: AtomicBool,
}

impl Jobs {
    pub(crate) fn start(roster: &Roster, checker: &Arc<Checker>, dice: &Dice) -> Self {
        let book = Arc::new(Book {
            socket: roster.socket().to_owned(),
            trace: roster.folder().join("jobs"),
            checker: checker.clone(),
            model: Mutex::default(),
            read: Mutex::default(),
            is_over: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let start = |work: fn(&Book, &Dice) -> thrift::Result<()>| {
            let (book, dice) = (book.clone(), dice.another());
            std::thread::spawn(move || {
                while !book.stop.load(Ordering::Relaxed) {
                    // A sidecar that is away, or whose disk is full, takes no jobs.
                    let _ = work(&book, &dice);
                    std::thread::sleep(PAUSE);
                }
            })
        };
        let producers = (0..PRODUCERS).map(|_| start(Book::enqueue));
        let threads = producers.chain((0..TAKERS).map(|_| start(Book::take))).collect();
        Self { book, threads }
    }

    /// How many were performed.
    pub(crate) fn performed(&self) -> usize {
        self.book.model().performed()
    }

    /// From now on until all is well delays and leases say nothing.
    pub(crate) fn excuse(&self) {
        self.book.model().excuse(true);
    }

    /// Has a worker hang in a job for longer than its lease lasts.
    pub(crate) fn hang(&self) {
        let enqueued = self.book.client().and_then(|mut client| self.book.send(&mut client, "hang", PERFORMED, 1, 0));
        if let Err(error) = enqueued {
            self.book.checker.violation(&format!("jobs are enqueued while their sidecar runs: {error:?}"));
        }
    }

    /// Whether the queues are there.
    pub(crate) fn are_open(&self) -> Result<(), String> {
        let told = self.book.client().and_then(|mut client| client.queues(QueuesQuery::default()));
        let trouble = told.map_err(|error| format!("{error:?}"))?.trouble;
        ensure(trouble.is_none(), format!("the queues are in trouble: {trouble:?}"))
    }

    /// `Err` with the first acknowledged job that is neither performed nor there.
    pub(crate) fn check(&self) -> Outcome {
        self.book.read_trace()?;
        self.book.model().excuse(false);
        let open = self.book.model().open();
        let mut client = self.book.client().map_err(|error| format!("{error:?}"))?;
        let mut gone = Vec::new();
        for (number, id, attempts) in open {
            match client.job(JobQuery { id }) {
                Ok(reply) if reply.job.attempt < attempts => {
                    return Err(format!("job {number} was handed out {attempts} times, and says {:?}", reply.job));
                }
                Ok(_) => {}
                Err(thrift::Error::User(error)) if error.is::<NotFound>() => gone.push(number),
                Err(error) => return Err(format!("nobody knows what became of job {number}: {error:?}")),
            }
        }
        // They may have been performed meanwhile.
        self.book.read_trace()?;
        let mut model = self.book.model();
        gone.into_iter().try_for_each(|number| model.is_gone(number))
    }

    /// From now on nobody enqueues more, and who takes a job performs it.
    pub(crate) fn enqueue_no_more(&self) {
        self.book.is_over.store(true, Ordering::Relaxed);
    }

    /// Has all be performed in this time that are there. What has failed may rest.
    pub(crate) fn end(&self, within: Duration) -> Outcome {
        self.enqueue_no_more();
        let until = Instant::now() + within;
        loop {
            let left = self.left();
            self.book.read_trace()?;
            match left {
                Ok((0, delayed)) if self.book.model().open_count() <= delayed => {
                    self.check()?;
                    return self.book.model().is_whole();
                }
                left if Instant::now() > until => {
                    let open = self.book.model().open_count();
                    return Err(format!("{open} acknowledged jobs were not performed; {left:?} are in the queues"));
                }
                _ => std::thread::sleep(PAUSE),
            }
        }
    }

    /// How many are to be performed, and how many later. Those that are dead wait again.
    fn left(&self) -> thrift::Result<(i64, usize)> {
        let mut client = self.book.client()?;
        let queues = client.queues(QueuesQuery::default())?.queues;
        for queue in queues.iter().filter(|queue| queue.dead > 0) {
            client.control_queue(QueueControl::new(queue.name.clone(), QueueAction::RETRY, None, None, None))?;
        }
        let left = |queue: &QueueSummary| queue.waiting + queue.running + queue.dead + queue.buffered.unwrap_or(0);
        let left = queues.iter().map(left).sum();
        Ok((left, queues.iter().map(|queue| queue.delayed as usize).sum()))
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.book.is_over.store(true, Ordering::Relaxed);
        self.book.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("nobody panics"));
    }
}

impl Book {
    fn client(&self) -> thrift::Result<Client> {
        Dialect::ALL[0].unix(&self.socket)
    }

    /// One that hangs up before the answer comes, once in a while.
    fn fickle_client(&self, dice: &Dice) -> thrift::Result<Client> {
        if dice.once_in(8) { Dialect::ALL[0].unix_within(&self.socket, HURRY) } else { self.client() }
    }

    fn enqueue(&self, dice: &Dice) -> thrift::Result<()> {
        let mut client = self.fickle_client(dice)?;
        for _ in 0..50 {
            if self.is_over.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.holds(self.read_trace());
            if self.model().open_count() < MOST {
                let delay = if dice.once_in(8) { 1 + dice.below(2_000) } else { 0 };
                self.send(&mut client, "job", QUEUES[dice.below(QUEUES.len())], 1 + dice.below(3), delay)?;
            }
            std::thread::sleep(REST);
        }
        Ok(())
    }

    /// Enqueues so many at once.
    fn send(&self, client: &mut Client, name: &str, queue: &str, count: usize, delay_ms: usize) -> thrift::Result<()> {
        let timeout = if name == "hang" { HANG_TIMEOUT } else { TIMEOUT };
        let batch = self.model().enqueues(count, Duration::from_millis(delay_ms as u64), timeout);
        let job = |number: usize| NewJob {
            payload: Some(number.to_string().into_bytes()),
            delay_ms: Some(delay_ms as i64),
            timeout_ms: Some(timeout.as_millis() as i64),
            ..NewJob::new(queue.into(), name.into(), None, None, None, None, None, None, None, None, None)
        };
        let reply = client.enqueue(EnqueueRequest { jobs: batch.numbers().map(job).collect() })?;
        self.holds(self.model().is_acknowledged(batch, reply.jobs.iter().map(|job| job.id)));
        Ok(())
    }

    fn take(&self, dice: &Dice) -> thrift::Result<()> {
        let mut client = self.fickle_client(dice)?;
        for _ in 0..50 {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let (asked, lease) = (now(), Duration::from_millis(500 + dice.below(4_500) as u64));
            let (limit, lease_ms) = (1 + dice.below(3) as i32, lease.as_millis() as i64);
            let jobs = client.take_jobs(TakeJobsRequest::new(vec![TAKEN.into()], limit, lease_ms, 1_000, None))?.jobs;
            let numbers: Vec<usize> = jobs.iter().map(number_of).collect();
            for (job, number) in jobs.iter().zip(&numbers) {
                self.holds(self.model().is_taken(*number, job.id, job.attempt, (asked, lease)));
            }
            for (job, number) in jobs.iter().zip(&numbers) {
                std::thread::sleep(Duration::from_millis(dice.below(10) as u64));
                self.perform(&mut client, job, *number, dice)?;
            }
        }
        Ok(())
    }

    /// Performs one, or does something else with it, some of which none of its workers survives.
    fn perform(&self, client: &mut Client, job: &Job, number: usize, dice: &Dice) -> thrift::Result<()> {
        let say = |client: &mut Client, action, after: Duration| {
            let after = after.as_millis() as i64;
            self.report(client, number, JobUpdate::new(job.id, job.attempt, action, after, None, after, None, None))
        };
        match if self.is_over.load(Ordering::Relaxed) { usize::MAX } else { dice.below(40) } {
            // Its lease ends.
            0 | 1 => return Ok(()),
            2 | 3 => return say(client, JobAction::RELEASE, Duration::from_millis(dice.below(500) as u64)),
            4 => return say(client, JobAction::FAIL, RETRY),
            5 => return say(client, JobAction::BURY, Duration::ZERO),
            6..10 => say(client, JobAction::TOUCH, Duration::from_millis(500 + dice.below(4_500) as u64))?,
            _ => {}
        }
        say(client, JobAction::DONE, Duration::ZERO)
    }

    /// Reports on a job that was taken. Only then, and after so long, may it be another's.
    fn report(&self, client: &mut Client, number: usize, update: JobUpdate) -> thrift::Result<()> {
        let JobUpdate { attempt, action, lease_ms, .. } = update;
        let due = now() + Duration::from_millis(lease_ms.unwrap_or(0) as u64);
        // A refusal is held against the lease as it was.
        let refused = |model: &mut JobModel| model.is_refused(number, attempt);
        match action {
            JobAction::DONE => self.model().is_performed(number),
            _ => self.model().may_be_due(number, attempt, due),
        }
        match client.update_job(update) {
            Ok(_) if action == JobAction::DONE => self.model().is_done(number, attempt),
            Ok(_) => self.model().is_due(number, attempt, due),
            Err(thrift::Error::User(error)) if error.is::<NotFound>() => self.holds(refused(&mut self.model())),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Reads what workers have done since.
    fn read_trace(&self) -> Outcome {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let text = tail(&self.trace, *read).unwrap_or_default();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        *read += whole as u64;
        text[..whole].lines().try_for_each(|line| self.read_line(line))
    }

    fn read_line(&self, line: &str) -> Outcome {
        let words: Vec<&str> = line.split(' ').collect();
        let wrong = || format!("a worker left {line:?}");
        let [what, numbers @ ..] = words.as_slice() else { return Err(wrong()) };
        let numbers: Vec<u64> = numbers.iter().filter_map(|word| word.parse().ok()).collect();
        let [number, id, attempt, at] = numbers[..] else { return Err(wrong()) };
        match *what {
            "begun" => self.model().is_begun(number as usize, id as i64, attempt as i32, Duration::from_millis(at)),
            _ => self.model().is_ended(number as usize, attempt as i32),
        }
    }

    fn holds(&self, outcome: Outcome) {
        if let Err(wrong) = outcome {
            self.checker.violation(&format!("no job is lost, nor handed out twice: {wrong}"));
        }
    }

    fn model(&self) -> MutexGuard<'_, JobModel> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of a job that was taken: no other one than the model's is enqueued.
fn number_of(job: &Job) -> usize {
    std::str::from_utf8(&job.payload).ok().and_then(|number| number.parse().ok()).unwrap_or(usize::MAX)
}

fn tail(file: &Path, from: u64) -> std::io::Result<String> {
    let mut file = File::open(file)?;
    file.seek(SeekFrom::Start(from))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}
