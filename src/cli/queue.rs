//! `roster queue` and `roster enqueue`: jobs, the queues in which they wait, and what becomes of them.

use std::cmp::Reverse;
use std::fs;
use std::io::{self, Read, Write};
use std::time::{Duration, SystemTime};

use base64::prelude::{BASE64_STANDARD, Engine};
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use roster::clock::millis_since_1970;
use roster::model::counted;
use roster::queue::{MAX_DELAY, MAX_TIMEOUT};
use roster::thrift::client::Client;
use roster::thrift::idl::{self, JobState, PeekJobsRequest, QueueAction, QueueControl, QueueSummary};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::connection::{Connection, duration};
use super::{Output, json, text};

/// How many queues are named in a line that is of several.
const MOST_QUEUES: usize = 4;

/// List the queues, look at their jobs, retry and remove them, pause and resume
#[derive(Debug, Args)]
pub(crate) struct Queue {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(after_help = super::exit::HELP)]
    List(List),
    #[command(after_help = super::exit::HELP)]
    Peek(Peek),
    #[command(after_help = super::exit::HELP)]
    Job(Job),
    #[command(after_help = super::exit::HELP)]
    Retry(Retry),
    #[command(after_help = super::exit::HELP)]
    Cancel(Cancel),
    #[command(after_help = super::exit::HELP)]
    Purge(Purge),
    #[command(after_help = super::exit::HELP)]
    /// Hand out no jobs of a queue, until it is resumed; also over restarts. For administrators
    Pause(One),
    #[command(after_help = super::exit::HELP)]
    /// Hand out jobs of a queue again. For administrators
    Resume(One),
    #[command(name = "move", after_help = super::exit::HELP)]
    Move(Move),
    #[command(after_help = super::exit::HELP)]
    Recurring(Recurring),
}

/// List the queues: how many jobs are in which state, and how long ago the oldest that waits was enqueued
///
/// WORKERS: how many processes of this sidecar's workers perform it. OLDEST counts from the enqueue, also of a job that
/// was delayed or is retried.
#[derive(Debug, Args)]
struct List {
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// Print jobs of a queue, in the order in which they are performed, are due, or died
#[derive(Debug, Args)]
struct Peek {
    queue: String,
    #[arg(value_enum, ignore_case = true, default_value_t = State::Waiting)]
    state: State,
    /// How many at most
    #[arg(short = 'n', value_name = "COUNT", default_value_t = 20)]
    count: usize,
    /// JSON has the payloads, the keys and for which time it is
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// Print one job as it stands. For whoever enqueued it or may perform it, and administrators
#[derive(Debug, Args)]
struct Job {
    /// The job's id
    #[arg(value_parser = job_id)]
    id: i64,
    /// JSON has the payload, too
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// Have dead jobs of a queue wait again, as if they were new. For administrators
///
/// Those that have failed and are to be tried again are delayed, not dead, and are performed at their time.
#[derive(Debug, Args)]
#[command(override_usage = "roster queue retry [OPTIONS] <QUEUE> <ID|--all>")]
struct Retry {
    queue: String,
    /// The job's id
    #[arg(required_unless_present = "all", value_parser = job_id)]
    id: Option<i64>,
    /// All of them
    #[arg(long, conflicts_with = "id")]
    all: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Remove one job that nobody performs. For whoever enqueued it, and administrators
#[derive(Debug, Args)]
struct Cancel {
    /// The job's id
    #[arg(value_parser = job_id)]
    id: i64,
    #[command(flatten)]
    connection: Connection,
}

/// Remove all jobs of a queue that are in a state. For administrators
#[derive(Debug, Args)]
struct Purge {
    queue: String,
    #[arg(value_enum, ignore_case = true)]
    state: Removable,
    #[command(flatten)]
    connection: Connection,
}

/// Take the jobs of a queue to another one, with their ids. For administrators
///
/// Those that run stay until they have ended. It can be done again at any time: each job is in one of the two.
#[derive(Debug, Args)]
struct Move {
    queue: String,
    /// The other queue, which is made if it is not there
    #[arg(long, value_name = "QUEUE", value_parser = other_queue)]
    to: String,
    #[command(flatten)]
    connection: Connection,
}

/// List the jobs that are enqueued by the clock, as `[[queue.recurring]]` says
#[derive(Debug, Args)]
struct Recurring {
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
struct One {
    queue: String,
    #[command(flatten)]
    connection: Connection,
}

/// Enqueue a job, and print its id
///
/// When it is printed, the job is acknowledged: by default it is on the disk then.
#[derive(Debug, Args)]
pub(crate) struct Enqueue {
    queue: String,
    /// What is to be done, the application's own word
    name: String,
    /// The payload as it is; `@FILE`: what is in the file; `-`: what comes on stdin
    #[arg(default_value = "", hide_default_value = true)]
    payload: String,
    /// For how long it is not performed
    #[arg(long, value_name = "DURATION", value_parser = up_to_a_year)]
    delay: Option<Duration>,
    /// Until when it is not performed, such as 2026-12-24T18:00:00Z; what is past is now
    #[arg(long, value_name = "TIME", value_parser = due, conflicts_with = "delay")]
    at: Option<Timestamp>,
    /// From 0, the most urgent, to 9 [default: 5]
    #[arg(long)]
    priority: Option<i32>,
    /// Enqueue none while the queue has another job with this key that is not done
    #[arg(long, value_name = "KEY")]
    unique: Option<String>,
    /// Only until this one is handed out
    #[arg(long, requires = "unique")]
    until_start: bool,
    /// How often it is tried again if it fails [default: `queue.retries` of the sidecar]
    #[arg(long, value_name = "COUNT")]
    retries: Option<i32>,
    /// How long one attempt may take [default: `queue.timeout` of the sidecar]. (`--timeout` is how long this command
    /// waits for its answer)
    #[arg(long, value_name = "DURATION", value_parser = up_to_a_day)]
    attempt_timeout: Option<Duration>,
    /// Have it share the limits of the queue with jobs that have the same key
    #[arg(long, value_name = "KEY")]
    limit_key: Option<String>,
    /// For how long it is kept with its result once it is done [default: `queue.keep_results` of the sidecar]
    #[arg(long, value_name = "DURATION", value_parser = up_to_a_year)]
    keep_result: Option<Duration>,
    #[command(flatten)]
    connection: Connection,
}

/// The file of a payload that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {file}: {source}")]
pub(super) struct NoPayload {
    file: String,
    source: io::Error,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    Waiting,
    Delayed,
    Running,
    Dead,
    Done,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Removable {
    Waiting,
    Delayed,
    Dead,
    Done,
}

impl Queue {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::List(list) => list.run(),
            Command::Peek(peek) => peek.run(),
            Command::Job(job) => job.run(),
            Command::Retry(Retry { queue, id, connection, .. }) => {
                let request = QueueControl { id, ..request(queue, QueueAction::RETRY) };
                let retried = control(&mut connection.client(), &request)?;
                Ok(writeln!(io::stdout(), "{} again", waiting(retried))?)
            }
            Command::Purge(Purge { queue, state, connection }) => {
                let state = match state {
                    Removable::Waiting => JobState::WAITING,
                    Removable::Delayed => JobState::DELAYED,
                    Removable::Dead => JobState::DEAD,
                    Removable::Done => JobState::DONE,
                };
                let request = QueueControl { state: Some(state), ..request(queue, QueueAction::PURGE) };
                let removed = control(&mut connection.client(), &request)?;
                Ok(writeln!(io::stdout(), "{} removed", counted(removed, "job"))?)
            }
            Command::Cancel(Cancel { id, connection }) => {
                connection.client().cancel_job(id)?;
                Ok(writeln!(io::stdout(), "job {id} is removed")?)
            }
            Command::Pause(One { queue, connection }) => {
                control(&mut connection.client(), &request(queue.clone(), QueueAction::PAUSE))?;
                Ok(writeln!(io::stdout(), "{} is paused", text::preview(queue.as_bytes()))?)
            }
            Command::Resume(One { queue, connection }) => {
                control(&mut connection.client(), &request(queue.clone(), QueueAction::RESUME))?;
                Ok(writeln!(io::stdout(), "{} is resumed", text::preview(queue.as_bytes()))?)
            }
            Command::Move(Move { queue, to, connection }) => {
                let mut client = connection.client();
                let request = QueueControl { to: Some(to.clone()), ..request(queue, QueueAction::MOVE) };
                let moved = control(&mut client, &request)?;
                writeln!(io::stdout(), "{} moved", counted(moved, "job"))?;
                // They are moved, whether it is known how that queue stands or not.
                let (queues, _) = read(&mut client).unwrap_or_default();
                if queues.iter().any(|it| it.name == to && it.is_paused) {
                    let (name, to) = (text::preview(to.as_bytes()), text::argument(&to));
                    eprintln!("roster: {name} is paused: `roster queue resume {to}`");
                }
                Ok(())
            }
            Command::Recurring(recurring) => recurring.run(),
        }
    }
}

pub(super) fn waiting(count: u64) -> String {
    if count == 1 { "1 job waits".to_owned() } else { format!("{count} jobs wait") }
}

fn request(queue: String, action: QueueAction) -> QueueControl {
    QueueControl { queue, action, state: None, id: None, to: None }
}

fn job_id(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| "it is a whole number, as `roster queue peek` shows it".to_owned())
}

fn moment(text: &str) -> Result<Timestamp, String> {
    text.parse()
        .map_err(|_| "write a time with its offset, such as 2026-12-24T18:00:00Z or …T19:00:00+01:00".to_owned())
}

/// The same, as far ahead as a job may be due.
fn due(text: &str) -> Result<Timestamp, String> {
    let at = moment(text)?;
    match at.as_millisecond() - now() > MAX_DELAY.as_millis() as i64 {
        true => Err("that is more than 366 days from now".to_owned()),
        false => Ok(at),
    }
}

fn up_to_a_year(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time > MAX_DELAY => Err("it is more than 366 days".to_owned()),
        time => Ok(time),
    }
}

fn up_to_a_day(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time < Duration::from_millis(1) || time > MAX_TIMEOUT => Err("it is from 1ms to a day".to_owned()),
        time => Ok(time),
    }
}

fn other_queue(name: &str) -> Result<String, String> {
    match ["redis://", "rediss://", "unix://"].iter().any(|scheme| name.starts_with(scheme)) {
        true => Err(format!(
            "jobs go to Redis with their whole folder: beside the `path` of `[queue]` set `backend = {name:?}` and \
             `buffer = true`, and restart the sidecar, which delivers them (docs/queue.md, From the file to Redis)"
        )),
        false => Ok(name.to_owned()),
    }
}

/// By turns, until there are no more jobs that it is for.
fn control(client: &mut Client, request: &QueueControl) -> anyhow::Result<u64> {
    let mut count = 0;
    loop {
        let reply = client.control_queue(request.clone())?;
        count += u64::try_from(reply.jobs)?;
        if !reply.has_more {
            return Ok(count);
        }
    }
}

impl List {
    fn run(self) -> anyhow::Result<()> {
        let (queues, trouble) = read(&mut self.connection.client())?;
        if let Some(why) = &trouble {
            eprintln!("roster: {}", text::line(why));
        }
        match self.output {
            Output::Table => {
                for (it, jobs) in queues.iter().filter_map(|it| Some((it, it.buffered?))) {
                    let (queue, jobs) = (text::preview(it.name.as_bytes()), counted(u64::try_from(jobs)?, "job"));
                    let since = it.buffered_since.map_or_else(String::new, |at| format!(", since {}", text::time(at)));
                    eprintln!("roster: {jobs} of {queue} in the buffer until Redis has them{since}");
                }
                for (it, jobs) in queues.iter().filter_map(|it| Some((it, it.limited.filter(|jobs| *jobs > 0)?))) {
                    let queue = text::preview(it.name.as_bytes());
                    eprintln!("roster: {} for a `[[queue.limit]]` of {queue}", waiting(jobs.unsigned_abs()));
                }
                if let Some(failing) = failing(&queues) {
                    eprintln!("roster: {failing}");
                }
                if let Some(paused) = paused(&queues) {
                    eprintln!("roster: {paused}");
                }
                for it in queues.iter().filter(|it| unperformed(it) > 0) {
                    let (queue, jobs) = (text::preview(it.name.as_bytes()), waiting(it.waiting.unsigned_abs()));
                    let others = if is_counted(it) { "" } else { "; other hosts may" };
                    eprintln!("roster: {jobs} in {queue}, and no worker or client here performs that{others}");
                }
                io::stdout().write_all(table(&queues, now()).as_bytes())?;
            }
            Output::Json => {
                let queues: Vec<_> = queues.iter().map(document).collect();
                json::print(&json!({ "queues": queues, "trouble": trouble }))?;
            }
        }
        Ok(())
    }
}

/// All pages, and what is wrong.
pub(super) fn read(client: &mut Client) -> anyhow::Result<(Vec<QueueSummary>, Option<String>)> {
    let (mut queues, mut cursor) = (Vec::new(), None);
    loop {
        let page = client.queues(cursor)?;
        queues.extend(page.queues);
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok((queues, page.trouble));
        }
    }
}

pub(super) fn document(it: &QueueSummary) -> Value {
    json!({
        "name": it.name, "isPaused": it.is_paused, "waiting": it.waiting, "delayed": it.delayed, "running": it.running,
        "dead": it.dead, "done": it.done, "bytes": it.bytes, "oldestWaiting": it.oldest_waiting,
        "enqueuedInLastMinute": it.enqueued_in_last_minute, "doneInLastMinute": it.done_in_last_minute,
        "buffered": it.buffered.unwrap_or(0), "bufferedSince": it.buffered_since, "limited": it.limited.unwrap_or(0),
        "failedLately": it.failed_lately.unwrap_or(0),
        "workers": it.workers, "clients": it.clients,
    })
}

fn table(queues: &[QueueSummary], now: i64) -> String {
    let row = |it: &QueueSummary| {
        [
            text::preview(it.name.as_bytes()),
            if it.is_paused { "paused" } else { "open" }.to_owned(),
            it.workers.map_or_else(|| "-".into(), |count| count.to_string()),
            it.waiting.to_string(),
            it.delayed.to_string(),
            it.running.to_string(),
            it.dead.to_string(),
            it.done.unwrap_or(0).to_string(),
            rate(it.enqueued_in_last_minute),
            rate(it.done_in_last_minute),
            if is_counted(it) { text::size(it.bytes) } else { "-".into() },
            it.oldest_waiting.map_or_else(|| "-".into(), |at| text::duration((now - at).max(0))),
        ]
    };
    let rows: Vec<_> = queues.iter().map(row).collect();
    let heading = [
        "QUEUE", "STATE", "WORKERS", "WAITING", "DELAYED", "RUNNING", "DEAD", "DONE", "IN/S", "OUT/S", "SIZE", "OLDEST",
    ];
    text::table(heading, &heading[2..], &rows)
}

/// Of queues in Redis neither their size is known nor how many jobs come and are done.
pub(super) fn is_counted(it: &QueueSummary) -> bool {
    it.enqueued_in_last_minute.is_some()
}

/// How many jobs wait that nobody here performs. Of an older sidecar it is not known.
pub(super) fn unperformed(it: &QueueSummary) -> i64 {
    let by_nobody = it.workers == Some(0) && it.clients == Some(0);
    if by_nobody && !it.is_paused { it.waiting } else { 0 }
}

/// A line of failures after which jobs are tried again. None: there are none.
pub(super) fn failing(queues: &[QueueSummary]) -> Option<String> {
    let (failures, most, places) = of_each(queues, "in", |it| it.failed_lately.unwrap_or(0))?;
    let failures = counted(failures, "failure");
    Some(format!(
        "{failures} in the last 10 minutes of jobs that are tried again{places}; `roster queue peek {most} delayed` tells why"
    ))
}

/// A line of jobs that wait in queues that are paused. None: there are none.
pub(super) fn paused(queues: &[QueueSummary]) -> Option<String> {
    let held = |it: &QueueSummary| if it.is_paused { it.waiting } else { 0 };
    let (jobs, most, places) = of_each(queues, "in", held)?;
    let are = if queues.iter().filter(|it| held(it) > 0).count() == 1 { "is" } else { "are" };
    Some(format!("{}{places}, which {are} paused: `roster queue resume {most}`", waiting(jobs)))
}

/// How many there are, the queue that has the most as an argument, and how many each of those has that have the most. None: there are none.
pub(super) fn of_each(
    queues: &[QueueSummary],
    preposition: &str,
    count: impl Fn(&QueueSummary) -> i64,
) -> Option<(u64, String, String)> {
    let mut each: Vec<(u64, &str)> =
        queues.iter().map(|it| (u64::try_from(count(it)).unwrap_or(0), it.name.as_str())).collect();
    each.retain(|(count, _)| *count > 0);
    each.sort_by_key(|(count, _)| Reverse(*count));
    let sum = |each: &[(u64, &str)]| each.iter().map(|(count, _)| *count).sum::<u64>();
    let shown_as = |queue: &str| text::preview(queue.as_bytes());
    let most = each.first()?.1;
    if each.len() == 1 {
        return Some((sum(&each), text::argument(most), format!(" {preposition} {}", shown_as(most))));
    }
    let (shown, others) = each.split_at(each.len().min(MOST_QUEUES));
    let mut places: Vec<_> =
        shown.iter().map(|(count, queue)| format!("{count} {preposition} {}", shown_as(queue))).collect();
    if !others.is_empty() {
        let (count, queues) = (sum(others), counted(others.len() as u64, "more queue"));
        places.push(format!("{count} {preposition} {queues}"));
    }
    Some((sum(&each), text::argument(most), format!(": {}", places.join(", "))))
}

/// Jobs a second.
fn rate(in_last_minute: Option<i64>) -> String {
    in_last_minute.map_or_else(|| "-".into(), |count| format!("{:.1}", count as f64 / 60.0))
}

impl Recurring {
    fn run(self) -> anyhow::Result<()> {
        let jobs = self.connection.client().recurring_jobs()?;
        match self.output {
            Output::Table => io::stdout().write_all(table_of_recurring(&jobs).as_bytes())?,
            Output::Json => {
                let document = |it: &idl::RecurringJob| {
                    json!({
                        "name": it.name, "queue": it.queue, "job": it.job, "schedule": it.schedule,
                        "timeZone": it.time_zone, "nextAt": it.next_at, "lastAt": it.last_at, "lastId": it.last_id,
                        "trouble": it.trouble,
                    })
                };
                json::print(&json!({ "recurring": jobs.iter().map(document).collect::<Vec<_>>() }))?;
            }
        }
        Ok(())
    }
}

fn table_of_recurring(jobs: &[idl::RecurringJob]) -> String {
    let row = |it: &idl::RecurringJob| {
        [
            text::preview(it.name.as_bytes()),
            text::preview(it.queue.as_bytes()),
            text::preview(it.job.as_bytes()),
            text::preview(it.schedule.as_bytes()),
            text::preview(it.time_zone.as_bytes()),
            text::time(it.next_at.unwrap_or(0)),
            text::time(it.last_at.unwrap_or(0)),
            text::preview(it.trouble.as_deref().unwrap_or("").as_bytes()),
        ]
    };
    let rows: Vec<_> = jobs.iter().map(row).collect();
    text::table(["NAME", "QUEUE", "JOB", "SCHEDULE", "TIME ZONE", "NEXT", "LAST", "TROUBLE"], &[], &rows)
}

impl Peek {
    fn run(self) -> anyhow::Result<()> {
        let Self { queue, state, count, output, connection } = self;
        let state = match state {
            State::Waiting => JobState::WAITING,
            State::Delayed => JobState::DELAYED,
            State::Running => JobState::RUNNING,
            State::Dead => JobState::DEAD,
            State::Done => JobState::DONE,
        };
        let (mut client, mut jobs, mut cursor) = (connection.client(), Vec::new(), None);
        while jobs.len() < count {
            let limit = Some(i32::try_from(count - jobs.len())?);
            let page = client.peek_jobs(PeekJobsRequest { queue: queue.clone(), state, limit, cursor })?;
            jobs.extend(page.jobs);
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        match output {
            Output::Table => io::stdout().write_all(table_of_jobs(&jobs).as_bytes())?,
            Output::Json => json::print(&json!({ "jobs": jobs.iter().map(document_of_job).collect::<Vec<_>>() }))?,
        }
        Ok(())
    }
}

impl Job {
    fn run(self) -> anyhow::Result<()> {
        let job = self.connection.client().job(self.id)?.job;
        match self.output {
            Output::Table => io::stdout().write_all(fields_of(&job).as_bytes())?,
            Output::Json => json::print(&document_of_job(&job))?,
        }
        Ok(())
    }
}

fn document_of_job(it: &idl::Job) -> Value {
    let mut job = json!({
        "id": it.id, "queue": it.queue, "name": it.name, "state": state(it.state), "priority": it.priority,
        "attempt": it.attempt, "failures": it.failures, "retries": it.retries, "timeoutMs": it.timeout_ms,
        "enqueuedAt": it.enqueued_at, "stateAt": it.state_at, "error": it.error,
        "isBuffered": it.is_buffered == Some(true), "uniqueKey": it.unique_key, "limitKey": it.limit_key, "dueAt": it.due_at,
    });
    if let Some((worker, pid)) = it.worker.as_ref().zip(it.pid) {
        job["worker"] = worker.as_str().into();
        job["pid"] = pid.into();
    }
    if let Some(progress) = &it.progress {
        job["progress"] = json!({
            "percent": progress.percent, "note": progress.note, "reportedAt": progress.reported_at,
        });
    }
    for (name, bytes) in [("payload", Some(&it.payload)), ("result", it.result.as_ref())] {
        let Some(bytes) = bytes else { continue };
        match std::str::from_utf8(bytes) {
            Ok(text) => job[name] = text.into(),
            Err(_) => job[format!("{name}Base64")] = BASE64_STANDARD.encode(bytes).into(),
        }
    }
    job
}

fn table_of_jobs(jobs: &[idl::Job]) -> String {
    let row = |it: &idl::Job| {
        [
            it.id.to_string(),
            text::preview(it.name.as_bytes()),
            it.priority.to_string(),
            it.attempt.to_string(),
            text::time(it.enqueued_at),
            text::time(it.state_at.unwrap_or(0)),
            text::size(it.result.as_ref().unwrap_or(&it.payload).len() as i64),
            worker(it),
            text::preview(it.error.as_deref().unwrap_or("").as_bytes()),
        ]
    };
    let rows: Vec<_> = jobs.iter().map(row).collect();
    let heading = ["ID", "NAME", "PRIORITY", "ATTEMPT", "ENQUEUED", "DUE/UNTIL/DIED", "SIZE", "WORKER", "ERROR"];
    text::table(heading, &["ID", "PRIORITY", "ATTEMPT", "SIZE"], &rows)
}

/// One job, a field a line; its error has as many lines as it has, none of which can be taken for a field.
fn fields_of(it: &idl::Job) -> String {
    let at = |moment: &str| format!("{}, {moment} {}", state(it.state), text::time(it.state_at.unwrap_or(0)));
    let mut state = match it.state {
        JobState::DELAYED => at("due"),
        JobState::RUNNING => at("until its lease ends"),
        JobState::DEAD => at("since"),
        JobState::DONE => at("and forgotten"),
        other => state(other),
    };
    if it.is_buffered == Some(true) {
        state += ", in the buffer of this host until Redis has it";
    }
    let (failures, left) = (it.failures, it.retries.saturating_sub(it.failures).max(0));
    let failures = match it.state {
        JobState::DEAD | JobState::DONE => failures.to_string(),
        _ => format!("{failures}; retries left: {left} of {}", it.retries),
    };
    let mut fields = vec![
        ("ID", it.id.to_string()),
        ("QUEUE", text::line(&it.queue)),
        ("NAME", text::line(&it.name)),
        ("STATE", state),
        ("PRIORITY", it.priority.to_string()),
        ("ATTEMPT", it.attempt.to_string()),
        ("FAILURES", failures),
        ("TIMEOUT", text::duration(it.timeout_ms)),
        ("ENQUEUED", text::time(it.enqueued_at)),
    ];
    fields.extend(it.due_at.map(|due| ("FOR THE TIME", text::time(due))));
    fields.extend(it.unique_key.as_deref().map(|key| ("UNIQUE KEY", text::line(key))));
    fields.extend(it.limit_key.as_deref().map(|key| ("LIMIT KEY", text::line(key))));
    fields.extend(it.worker.as_ref().map(|_| ("WORKER", worker(it))));
    fields.extend(it.progress.as_ref().map(|progress| {
        let note = progress.note.as_deref().map_or_else(String::new, |note| format!(": {}", text::line(note)));
        let since = progress.reported_at.map_or_else(String::new, |at| format!(", reported {}", text::time(at)));
        ("PROGRESS", format!("{} %{since}{note}", progress.percent))
    }));
    let (what, bytes) = it.result.as_ref().map_or(("PAYLOAD", &it.payload), |result| ("RESULT", result));
    fields.push((what, format!("{}; -o json has it", text::size(bytes.len() as i64))));
    let error = it.error.iter().flat_map(|error| error.lines()).map(text::line);
    fields.extend(error.enumerate().map(|(nth, line)| (if nth == 0 { "ERROR" } else { "" }, line)));
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    fields.into_iter().map(|(name, value)| format!("{name:<width$}  {value}").trim_end().to_owned() + "\n").collect()
}

/// The worker of the sidecar that has it, and the process.
fn worker(it: &idl::Job) -> String {
    let worker = it.worker.as_ref().zip(it.pid);
    worker.map_or_else(|| "-".into(), |(worker, pid)| format!("{} pid {pid}", text::preview(worker.as_bytes())))
}

/// A state from a newer sidecar has only a number.
fn state(state: JobState) -> String {
    match state {
        JobState::WAITING => "waiting".into(),
        JobState::DELAYED => "delayed".into(),
        JobState::RUNNING => "running".into(),
        JobState::DEAD => "dead".into(),
        JobState::DONE => "done".into(),
        JobState(newer) => newer.to_string(),
    }
}

impl Enqueue {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let payload = match self.payload.strip_prefix('@') {
            Some(file) => fs::read(file).map_err(|source| NoPayload { file: file.to_owned(), source })?,
            None if self.payload == "-" => {
                let mut payload = Vec::new();
                io::stdin().lock().read_to_end(&mut payload)?;
                payload
            }
            None => self.payload.into_bytes(),
        };
        let is_json = payload.is_empty() || serde_json::from_slice::<IgnoredAny>(&payload).is_ok();
        let job = idl::NewJob {
            queue: self.queue,
            name: self.name,
            payload: Some(payload),
            delay_ms: self.at.map_or(self.delay.map(millis), |at| Some((at.as_millisecond() - now()).max(0))),
            priority: self.priority,
            unique_key: self.unique,
            unique_until: self.until_start.then_some(idl::UniqueUntil::START),
            retries: self.retries,
            timeout_ms: self.attempt_timeout.map(millis),
            limit_key: self.limit_key,
            keep_result_ms: self.keep_result.map(millis),
        };
        let reply = self.connection.client().enqueue(vec![job])?;
        if reply.is_buffered == Some(true) {
            eprintln!("roster: Redis is away, or has yet to take jobs from before: this one waits on this host");
        }
        if !is_json {
            eprintln!("roster: the payload is no JSON: workers with the PHP package cannot read it");
        }
        for job in reply.jobs {
            if !job.is_new {
                eprintln!("roster: another job has this key already");
            }
            writeln!(io::stdout(), "{}", job.id)?;
        }
        Ok(())
    }
}

fn now() -> i64 {
    millis_since_1970(SystemTime::now()) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_taken_with_its_offset_alone() {
        let millis = |text: &str| moment(text).map(Timestamp::as_millisecond);
        assert_eq!(millis("2026-12-24T12:00:00Z"), Ok(1_798_113_600_000));
        assert_eq!(millis("2026-12-24T13:00:00.250+01:00"), Ok(1_798_113_600_250));
        for text in ["2026-12-24T12:00:00", "2026-12-24", "12:00", "tomorrow", ""] {
            assert!(millis(text).is_err_and(|why| why.ends_with("+01:00")), "{text}");
        }
    }

    #[test]
    fn what_no_sidecar_takes_is_refused_by_the_name_of_its_option() {
        let at = |days: i64| {
            let at = Timestamp::from_millisecond(now() + days * 86_400_000).expect("a time");
            due(&at.to_string())
        };
        assert!(at(365).is_ok() && at(-1).is_ok());
        assert_eq!(at(367), Err("that is more than 366 days from now".to_owned()));
        assert_eq!(up_to_a_year("366d"), Ok(MAX_DELAY));
        assert!(up_to_a_year("367d").is_err() && up_to_a_year("5M").is_err());
        assert_eq!(up_to_a_day("1d"), Ok(MAX_TIMEOUT));
        assert!(up_to_a_day("2d").is_err() && up_to_a_day("0").is_err());
    }

    #[test]
    fn queues_are_a_table_with_the_age_of_the_oldest_that_waits() {
        let queue = |name: &str, is_paused, waiting, oldest: Option<i64>| {
            let name = name.to_owned();
            QueueSummary::new(name, is_paused, waiting, 2, 3, 4, 2_048, oldest, 90, 0, None, None, 0, None, 5, 0, None)
        };
        let queues = [queue("img", true, 0, None), queue("mail\u{1b}", false, 1, Some(1_000))];
        assert_eq!(
            table(&queues, 61_000),
            "\
QUEUE       STATE   WORKERS  WAITING  DELAYED  RUNNING  DEAD  DONE  IN/S  OUT/S     SIZE  OLDEST
img         paused        5        0        2        3     4     0   1.5    0.0  2.0 KiB       -
mail\\u{1b}  open          5        1        2        3     4     0   1.5    0.0  2.0 KiB      1m
"
        );
    }

    #[test]
    fn a_job_has_a_field_a_line_and_its_error_is_whole_and_imitates_none() {
        let (queue, name, error) = ("mail", "send\u{1b}[2J", "Error: no\u{1b}[2J route\nSTATE  done\r\n\nin /a.php:6");
        let mut job = idl::Job::new(
            7,
            queue.to_owned(),
            name.to_owned(),
            b"{}".to_vec(),
            JobState::DELAYED,
            5,
            2,
            2,
            25,
            60_000,
            1_000,
            61_000,
            error.to_owned(),
            idl::JobProgress::new(40, "4 of 10\n".to_owned(), 2_000),
            None,
            None,
            "k".to_owned(),
            None,
            None,
            None,
            None,
        );
        assert_eq!(
            fields_of(&job),
            "\
ID          7
QUEUE       mail
NAME        send\\u{1b}[2J
STATE       delayed, due 1970-01-01T00:01:01Z
PRIORITY    5
ATTEMPT     2
FAILURES    2; retries left: 23 of 25
TIMEOUT     1m
ENQUEUED    1970-01-01T00:00:01Z
UNIQUE KEY  k
PROGRESS    40 %, reported 1970-01-01T00:00:02Z: 4 of 10\\n
PAYLOAD     2 B; -o json has it
ERROR       Error: no\\u{1b}[2J route
            STATE  done

            in /a.php:6
"
        );
        (job.state, job.state_at, job.is_buffered, job.error) = (JobState::WAITING, None, Some(true), None);
        let fields = fields_of(&job);
        assert!(fields.contains("\nSTATE       waiting, in the buffer of this host until Redis has it\n"), "{fields}");
        (job.state, job.state_at, job.is_buffered) = (JobState::DEAD, Some(1_000), None);
        let fields = fields_of(&job);
        assert!(fields.contains("\nSTATE       dead, since 1970-01-01T00:00:01Z\n"), "{fields}");
        assert!(fields.contains("\nFAILURES    2\n") && !fields.contains("ERROR"), "{fields}");
    }

    #[test]
    fn jobs_wait_for_nobody_where_it_is_known_that_neither_a_worker_nor_a_client_performs_them() {
        let queue = |is_paused, workers: Option<i32>, clients: Option<i32>| {
            let name = "mail".to_owned();
            QueueSummary::new(name, is_paused, 7, 0, 0, 0, 0, None, 0, 0, None, None, 0, None, workers, clients, None)
        };
        assert_eq!(unperformed(&queue(false, Some(0), Some(0))), 7);
        for (is_paused, workers, clients) in
            [(true, Some(0), Some(0)), (false, Some(1), Some(0)), (false, Some(0), Some(1)), (false, None, None)]
        {
            assert_eq!(unperformed(&queue(is_paused, workers, clients)), 0, "{is_paused} {workers:?} {clients:?}");
        }
    }
}
