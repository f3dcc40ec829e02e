//! Queues in a real Redis, beside a scripted client of Resque, which writes and reads its exact keys and texts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::access::for_everybody;
use crate::admin;
use crate::harness::{
    Cutter, Redis, Roster, SOON, ensure, eventually, exception, fetched, free_port, is_skipped_unless,
    is_skipped_without_root,
};
use crate::idl::{
    EnqueueRequest, InvalidRequest, Job, JobAction, JobQuery, JobState, JobUpdate, NewJob, NotFound, Overloaded,
    QueuesQuery, TRosterSyncClient, TakeJobsRequest,
};
use crate::queue::{failures_are_told, jobs_are_counted};

fn roster(redis: &Redis, settings: &str) -> Roster {
    at(&redis.url(), settings)
}

fn at(url: &str, settings: &str) -> Roster {
    let nodes = "[[file]]\npath = \"nodes.toml\"\n";
    let mut roster = Roster::prepare(&format!("{nodes}[queue]\nbackend = '{url}'\n{settings}"));
    roster.write("nodes.toml", "[nodes]\n\"/a\" = \"one\"\n");
    roster.run();
    roster.becomes("live");
    roster
}

/// Once the sidecar has a connection.
pub(crate) fn connected(redis: &Redis, settings: &str) -> Roster {
    let roster = roster(redis, settings);
    works(&roster);
    roster
}

pub(crate) fn works(roster: &Roster) {
    eventually("the queues can be used", SOON, || {
        let reply = roster.client().queues(QueuesQuery::default()).map_err(|error| error.to_string())?;
        reply.trouble.map_or(Ok(()), Err)
    });
}

fn job(name: &str, payload: &str) -> NewJob {
    NewJob::new(
        "mail".to_owned(),
        name.to_owned(),
        payload.as_bytes().to_vec(),
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
    )
}

fn enqueue(roster: &Roster, job: NewJob) -> thrift::Result<i64> {
    Ok(roster.client().enqueue(EnqueueRequest { jobs: vec![job] })?.jobs[0].id)
}

fn take(roster: &Roster, limit: i32, lease_ms: impl Into<Option<i64>>, wait_ms: i32) -> Vec<Job> {
    let request = TakeJobsRequest::new(vec!["mail".into()], limit, lease_ms, wait_ms, None);
    roster.client().take_jobs(request).expect("an answer").jobs
}

pub(crate) fn update(roster: &Roster, job: &Job, action: JobAction) -> thrift::Result<()> {
    roster
        .client()
        .update_job(JobUpdate::new(job.id, job.attempt, action, None, "no route".to_owned(), None, None, None))
        .map(drop)
}

/// The job is done, with this result.
fn returns(roster: &Roster, job: &Job, result: &[u8]) -> thrift::Result<()> {
    let done = JobUpdate::new(job.id, job.attempt, JobAction::DONE, None, None, None, None, result.to_vec());
    roster.client().update_job(done).map(drop)
}

fn found(roster: &Roster, id: i64) -> thrift::Result<Job> {
    roster.client().job(JobQuery { id }).map(|reply| reply.job)
}

fn counts(roster: &Roster) -> [i64; 4] {
    let queues = roster.client().queues(QueuesQuery::default()).expect("an answer").queues;
    queues.first().map_or([0; 4], |it| [it.waiting, it.delayed, it.running, it.dead])
}

/// How often Redis has carried out a command.
pub(crate) fn calls(redis: &Redis, command: &str) -> u64 {
    let (stats, start) = (redis.ask(&["INFO", "commandstats"]), format!("cmdstat_{command}:calls="));
    let calls = stats.lines().find_map(|line| line.strip_prefix(start.as_str())?.split(',').next()?.parse().ok());
    calls.unwrap_or(0)
}

#[test]
fn a_client_of_resque_takes_what_is_enqueued_and_what_it_enqueues_is_taken() {
    let redis = Redis::start(&[]);
    let roster = at(&format!("unix://{}", redis.socket().display()), "");
    works(&roster);
    let id = enqueue(&roster, job("App\\Send", r#"{"to": "é@b.c/d"}"#)).expect("there is room");
    assert_eq!(redis.ask(&["SMEMBERS", "resque:queues"]), "mail");
    let popped = redis.ask(&["LPOP", "resque:queue:mail"]);
    let start = format!(
        r#"{{"class":"App\\Send","args":[{{"to":"\u00e9@b.c\/d"}}],"id":"{id:032x}","prefix":"","queue_time":"#
    );
    assert!(popped.starts_with(&start), "{popped}");

    let php =
        r#"{"class":"EmailWork","args":[{"to":"\u00e9\/"}],"id":"d41d8cd98f00b204e9800998ecf8427e","queue_time":1.5}"#;
    let ruby = r#"{"class":"Archive","args":[1,"x"]}"#;
    redis.ask(&["RPUSH", "resque:queue:mail", php, ruby]);
    let listed = roster.cli(["queue", "peek", "mail", "-o", "json"]).text();
    assert!(listed.contains("EmailWork") && listed.contains("Archive"), "{listed}");
    let taken = take(&roster, 9, None, 0);
    let of = |job: &Job| (job.name.clone(), String::from_utf8_lossy(&job.payload).into_owned(), job.attempt);
    assert_eq!(of(&taken[0]), ("EmailWork".into(), r#"{"to":"é/"}"#.into(), 1));
    assert_eq!(of(&taken[1]), ("Archive".into(), r#"[1,"x"]"#.into(), 1));
    assert_eq!(counts(&roster), [0, 0, 2, 0]);
    taken.iter().for_each(|job| update(&roster, job, JobAction::DONE).expect("it has the lease"));
    assert_eq!(redis.ask(&["GET", "resque:stat:processed"]), "2");
    exception::<NotFound>(update(&roster, &taken[0], JobAction::DONE)).expect("it is done");
    assert_eq!(redis.keys_of_roster(), "", "nothing is left of them");
}

#[test]
fn whoever_waits_has_what_another_client_enqueues() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| take(&roster, 1, None, 30_000));
        eventually("it waits", SOON, || {
            let waiting = roster.status().counters["watchesWaiting"];
            ensure(waiting == 1, waiting)
        });
        redis.ask(&["RPUSH", "resque:queue:mail", r#"{"class":"C","args":[null]}"#]);
        assert_eq!(waiting.join().expect("no panic").first().map(|job| job.name.clone()), Some("C".into()));
    });
}

#[test]
fn a_death_loses_no_job_and_three_of_them_make_it_dead_until_it_is_retried() {
    let redis = Redis::start(&[]);
    let mut roster = connected(&redis, "");
    let id = enqueue(&roster, job("poison", "{}")).expect("there is room");
    for attempt in 1..=3 {
        let taken = take(&roster, 1, 3_000, 20_000);
        assert_eq!(taken.iter().map(|job| (job.id, job.attempt)).collect::<Vec<_>>(), [(id, attempt)]);
        assert_eq!(take(&roster, 1, None, 0), [], "nobody else has it within its lease");
        roster.kill();
        roster.run();
        works(&roster);
    }
    eventually("it is dead", SOON, || {
        let counts = counts(&roster);
        ensure(counts == [0, 0, 0, 1], format!("{counts:?}"))
    });
    let dead = roster.client().job(JobQuery { id }).expect("it is kept").job;
    let why = "it was lost 3 times, and is tried no more: its lease ended";
    assert_eq!((dead.state, dead.error.as_deref()), (JobState::DEAD, Some(why)));
    assert_eq!(roster.cli(["queue", "retry", "mail", &id.to_string()]).text(), "1 job waits again\n");
    let again = take(&roster, 1, None, 0);
    assert_eq!((again[0].id, again[0].attempt, again[0].failures), (id, 4, 0));
    update(&roster, &again[0], JobAction::RELEASE).expect("it has the lease");
    let again = take(&roster, 1, None, 0);
    update(&roster, &again[0], JobAction::FAIL).expect("it has the lease");
    assert_eq!(counts(&roster), [0, 1, 0, 0], "it is tried again later");
    assert_eq!(roster.cli(["queue", "purge", "mail", "delayed"]).text(), "1 job removed\n");
    assert_eq!(redis.keys_of_roster(), "");
}

#[test]
fn status_counts_what_becomes_of_jobs() {
    let redis = Redis::start(&[]);
    jobs_are_counted(&connected(&redis, ""));
}

#[test]
fn jobs_that_fail_and_are_tried_again_are_told_by_the_log_once_a_minute_and_by_status() {
    let redis = Redis::start(&[]);
    failures_are_told(&connected(&redis, ""));
}

#[test]
fn what_is_taken_off_and_not_handed_out_comes_back() {
    let redis = Redis::start(&[]);
    // As a sidecar leaves it that dies between its two steps.
    let item = r#"{"class":"C","args":[null]}"#;
    redis.ask(&["ZADD", "resque:roster:popped", "1", &format!("4:mail{item}")]);
    let roster = connected(&redis, "");
    assert_eq!(
        take(&roster, 1, None, 20_000).first().map(|job| (job.name.clone(), job.attempt)),
        Some(("C".into(), 1))
    );
    assert_eq!(redis.ask(&["ZCARD", "resque:roster:popped"]), "0");
}

#[test]
fn delayed_jobs_are_as_a_scheduler_has_them_and_are_moved_when_their_time_comes() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let later = |ms| NewJob { delay_ms: Some(ms), retries: Some(7), ..job("Send", r#"{"to":"a/b"}"#) };
    let id = enqueue(&roster, later(3_600_000)).expect("there is room");
    let second = redis.ask(&["ZRANGE", "resque:delayed_queue_schedule", "0", "-1"]);
    let key = format!("resque:delayed:{second}");
    let item = r#"{"class":"Send","args":[{"to":"a\/b"}],"queue":"mail"}"#;
    assert_eq!(redis.ask(&["LRANGE", &key, "0", "-1"]), item);
    assert_eq!(redis.ask(&["ZSCORE", "resque:delayed_queue_schedule", &second]), second);
    let found = roster.client().job(JobQuery { id }).expect("it is there").job;
    assert_eq!((found.state, found.retries), (JobState::DELAYED, 7));
    roster.client().cancel_job(JobQuery { id }).expect("nobody performs it");
    assert_eq!(redis.ask(&["EXISTS", &key]), "0");

    let id = enqueue(&roster, later(1_000)).expect("there is room");
    let php = r#"{"class":"Php","args":[{"n":1.50}],"queue":"mail"}"#;
    for wrong in ["{", r#"{"class":"C","args":[],"queue":""}"#, r#"{"class":"C","queue":"odd"}"#, php] {
        redis.ask(&["RPUSH", "resque:delayed:1000", wrong]);
    }
    redis.ask(&["SET", "resque:queue:odd", "no list"]);
    redis.ask(&["SET", "resque:delayed:2000", "no list"]);
    redis.ask(&["ZADD", "resque:delayed_queue_schedule", "1000", "1000", "2000", "2000", "3000", "not a number"]);
    let mut taken = Vec::new();
    eventually("both are due", SOON, || {
        taken.extend(take(&roster, 9, None, 0));
        ensure(taken.len() == 2, format!("{taken:?}"))
    });
    taken.sort_by_key(|job| job.name.clone());
    assert_eq!((taken[0].name.as_str(), taken[0].payload.as_slice()), ("Php", &br#"{"n":1.50}"#[..]));
    assert_eq!((taken[1].id, taken[1].retries), (id, 7), "what is known of it is kept");
    eventually("the schedule is empty", SOON, || {
        let left = redis.ask(&["ZCARD", "resque:delayed_queue_schedule"]);
        ensure(left == "0", left)
    });
    assert_eq!(redis.ask(&["LLEN", "resque:roster:set_aside"]), "3");
}

/// By the keys in which Ruby's resque-scheduler looks for the seconds of a text.
#[test]
fn a_scheduler_of_ruby_finds_and_removes_what_is_delayed_and_nothing_is_left_of_what_is_not_any_more() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let later = |payload: &str, ms| NewJob { delay_ms: Some(ms), ..job("Send", payload) };
    let add = |payload: &str, ms| enqueue(&roster, later(payload, ms)).expect("there is room");
    let cancel = |id| roster.client().cancel_job(JobQuery { id }).expect("nobody performs it");
    let text = |args: &str| format!(r#"{{"class":"Send","args":[{args}],"queue":"mail"}}"#);
    let key = |args: &str| format!("resque:timestamps:{}", text(args));
    let keys = || redis.ask(&["KEYS", "resque:timestamps:*"]);
    let id = add(r#"{"to":"a/b"}"#, 3_600_000);
    let second = redis.ask(&["ZRANGE", "resque:delayed_queue_schedule", "0", "-1"]);
    assert_eq!(keys(), key(r#"{"to":"a\/b"}"#));
    assert_eq!(redis.ask(&["SMEMBERS", &keys()]), format!("delayed:{second}"));
    cancel(id);
    assert_eq!(keys(), "");
    let jobs = vec![later("1", 3_600_000), later("1", 3_600_000)];
    let both = roster.client().enqueue(EnqueueRequest { jobs }).expect("there is room").jobs;
    cancel(both[0].id);
    assert_eq!(keys(), key("1"), "another one stands there");
    cancel(both[1].id);
    assert_eq!(keys(), "");
    add("2", 3_600_000);
    assert_eq!(roster.cli(["queue", "purge", "mail", "delayed"]).text(), "1 job removed\n");
    assert_eq!(keys(), "");

    // As its `remove_delayed` does.
    add("3", 5_000);
    let list = redis.ask(&["SMEMBERS", &key("3")]);
    assert_eq!(redis.ask(&["LREM", &format!("resque:{list}"), "0", &text("3")]), "1");
    assert_eq!(redis.ask(&["SREM", &key("3"), &list]), "1");
    redis.ask(&["SET", &key("4"), "no set"]);
    for args in ["4", "5"] {
        let id = add(args, 1_000);
        let taken = take(&roster, 1, None, 20_000);
        assert_eq!(taken.iter().map(|job| job.id).collect::<Vec<_>>(), [id]);
        update(&roster, &taken[0], JobAction::DONE).expect("it has the lease");
    }
    eventually("what was removed is forgotten", SOON, || {
        let left = redis.keys_of_roster();
        ensure(left.is_empty(), left)
    });
    assert_eq!(keys(), key("4"), "it is somebody else's");
    assert_eq!(take(&roster, 1, None, 0), []);
}

#[test]
fn jobs_that_are_due_in_one_second_are_moved_in_the_order_of_its_list_without_a_search() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let later = |nth: usize| NewJob { delay_ms: Some(2_000), ..job("C", &nth.to_string()) };
    let jobs = (0..1_000).map(later).collect();
    let enqueued = roster.client().enqueue(EnqueueRequest { jobs }).expect("there is room").jobs;
    let unique = NewJob { unique_key: Some("k".into()), ..later(1_000) };
    let of_key = enqueue(&roster, unique.clone()).expect("there is room");
    eventually("they wait", SOON, || {
        let counts = counts(&roster);
        ensure(counts == [1_001, 0, 0, 0], format!("{counts:?}"))
    });
    assert_eq!(enqueue(&roster, unique).expect("an answer"), of_key, "its key is held");
    let stats = redis.ask(&["INFO", "commandstats"]);
    assert!(!stats.contains("cmdstat_lrem:"), "they are looked for: {stats}");
    let left = redis.ask(&["EXISTS", "resque:roster:scheduled", "resque:roster:due", "resque:roster:jobs"]);
    assert_eq!(left, "0", "nothing else is left of them");
    let ids = |jobs: Vec<Job>| jobs.iter().map(|job| job.id).collect::<Vec<_>>();
    let enqueued: Vec<i64> = enqueued.iter().map(|it| it.id).collect();
    assert_eq!(ids(take(&roster, 100, None, 0)), enqueued[..100]);
}

#[test]
fn a_mass_that_is_due_keeps_no_other_second_waiting() {
    let redis = Redis::start(&[]);
    let fill = r#"for n = 1, 3000 do
            redis.call('RPUSH', 'resque:delayed:1000', '{"class":"Mass","args":[' .. n .. '],"queue":"mail"}') end
        redis.call('RPUSH', 'resque:delayed:2000', '{"class":"Other","args":[],"queue":"mail"}')
        redis.call('ZADD', 'resque:delayed_queue_schedule', 1000, 1000, 2000, 2000)"#;
    redis.ask(&["EVAL", fill, "0"]);
    let _roster = connected(&redis, "");
    eventually("all are moved", SOON, || {
        let moved = redis.ask(&["LLEN", "resque:queue:mail"]);
        ensure(moved == "3001", moved)
    });
    let moved = redis.ask(&["LRANGE", "resque:queue:mail", "0", "-1"]);
    let at = moved.lines().position(|item| item.contains("Other"));
    assert!(at.is_some_and(|at| at <= 200), "it was moved after {at:?} others");
    let scripts = calls(&redis, "evalsha");
    assert!(scripts < 1_000, "{scripts} of them for 3,001 jobs");
}

#[test]
fn masses_that_are_due_in_many_seconds_keep_no_later_one_waiting() {
    let redis = Redis::start(&[]);
    let fill = r#"for second = 1001, 1120 do
            for n = 1, 300 do
                redis.call('RPUSH', 'resque:delayed:' .. second, '{"class":"Mass","args":[' .. n .. '],"queue":"mail"}') end
            redis.call('ZADD', 'resque:delayed_queue_schedule', second, second) end
        redis.call('RPUSH', 'resque:delayed:2000', '{"class":"Other","args":[],"queue":"mail"}')
        redis.call('ZADD', 'resque:delayed_queue_schedule', 2000, 2000)"#;
    redis.ask(&["EVAL", fill, "0"]);
    let _roster = connected(&redis, "");
    eventually("it is moved", SOON, || {
        let left = redis.ask(&["EXISTS", "resque:delayed:2000"]);
        ensure(left == "0", left)
    });
    let moved = redis.ask(&["LRANGE", "resque:queue:mail", "0", "-1"]);
    let at = moved.lines().position(|item| item.contains("Other"));
    assert!(at.is_some_and(|at| at < 10_000), "it was moved after {at:?} others");
}

#[test]
fn who_cancels_delayed_jobs_far_from_the_ends_of_their_second_does_so_one_after_the_other() {
    let redis = Redis::start(&[]);
    let cutter = Cutter::to(redis.port());
    let roster = at(&cutter.url(), "");
    works(&roster);
    let later = |nth: usize| NewJob { delay_ms: Some(3_600_000), ..job("C", &nth.to_string()) };
    let enqueued = roster.client().enqueue(EnqueueRequest { jobs: (0..100).map(later).collect() });
    let ids: Vec<_> = enqueued.expect("there is room").jobs.iter().map(|it| it.id).collect();
    let list = format!("resque:delayed:{}", redis.ask(&["ZRANGE", "resque:delayed_queue_schedule", "0", "-1"]));
    let fill = "local first = redis.call('LPOP', KEYS[1])
        for n = 1, 2000 do for _, push in ipairs({'LPUSH', 'RPUSH'}) do redis.call(push, KEYS[1], n) end end
        redis.call('RPUSH', KEYS[1], first)";
    redis.ask(&["EVAL", fill, "1", &list]);
    let cancel = |id| roster.client().cancel_job(JobQuery { id }).map(drop);
    // The first of them is yet under way when the others come.
    cutter.delay("\r\nLREM\r\n", Duration::from_millis(500));
    let (report, outcomes) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for id in &ids[1..] {
            let report = report.clone();
            scope.spawn(move || report.send(cancel(*id)));
        }
        drop(report);
        let refused = outcomes.iter().find_map(|outcome| exception::<Overloaded>(outcome).ok());
        let refused = refused.expect("only so many of a user wait").message;
        assert!(refused.contains("are looked for in Redis already"), "{refused}");
        cancel(ids[0]).expect("Redis does not look for one that is near an end");
        cutter.delay("\r\nLREM\r\n", Duration::ZERO);
        let refused = 1 + outcomes.iter().filter(Result::is_err).count();
        assert!(refused < 40, "{refused}");
        assert_eq!(redis.ask(&["LLEN", &list]), (4_000 + refused).to_string());
    });
}

#[test]
fn what_a_build_without_marks_has_delayed_is_moved_as_what_it_is() {
    let redis = Redis::start(&[]);
    let (second, moment) = ("1700000000", "1700000000000");
    let list = format!("resque:delayed:{second}");
    for id in 101..=103 {
        let item = format!(r#"{{"class":"C","args":[{{"n":{id}}}],"queue":"mail"}}"#);
        let text = serde_json::to_string(&item).expect("a text");
        let record = format!(
            r#"{{"queue":"mail","state":{{"Delayed":{{"until":{moment}}}}},"extras":{{"retries":7}},"enqueued_at":1,"scheduled":{second},"item":{text}}}"#
        );
        redis.ask(&["HSET", "resque:roster:jobs", &id.to_string(), &record]);
        redis.ask(&["ZADD", "resque:roster:due", moment, &id.to_string()]);
        redis.ask(&["ZADD", "resque:roster:delayed:mail", moment, &id.to_string()]);
        // Another scheduler has moved the second one.
        if id != 102 {
            redis.ask(&["LPUSH", &list, &item]);
        }
    }
    redis.ask(&["RPUSH", &list, r#"{"class":"Php","args":[],"queue":"mail"}"#]);
    redis.ask(&["ZADD", "resque:delayed_queue_schedule", second, second]);
    let roster = connected(&redis, "");
    eventually("they are moved", SOON, || {
        let counts = counts(&roster);
        ensure(counts == [3, 0, 0, 0], format!("{counts:?}"))
    });
    let taken = take(&roster, 9, None, 0);
    let of = |job: &Job| (job.id, job.retries);
    assert_eq!((of(&taken[0]), of(&taken[1]), taken[2].name.as_str()), ((103, 7), (101, 7), "Php"));
    taken.iter().for_each(|job| update(&roster, job, JobAction::DONE).expect("it has the lease"));
    eventually("nothing is left of them", SOON, || {
        let left = redis.keys_of_roster();
        ensure(left.is_empty(), left)
    });
}

#[test]
fn a_delayed_job_arrives_though_others_have_taken_its_second_from_the_schedule() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let id = enqueue(&roster, NewJob { delay_ms: Some(1_000), ..job("C", "{}") }).expect("there is room");
    redis.ask(&["DEL", "resque:delayed_queue_schedule"]);
    let taken = take(&roster, 1, None, 20_000);
    assert_eq!(taken.iter().map(|job| job.id).collect::<Vec<_>>(), [id]);
}

#[test]
fn one_bad_element_harms_no_other() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    for bad in [&b"\xff{"[..], b"{\"class\":5}", b"[]"] {
        redis.ask(&[b"RPUSH".as_slice(), b"resque:queue:mail", bad]);
    }
    // What no client of the sidecar's ever reads.
    redis.ask(&["SETRANGE", "large", "64000000", "x"]);
    redis.ask(&["EVAL", "redis.call('RPUSH', 'resque:queue:mail', redis.call('GET', 'large'))", "0"]);
    let deep = format!(r#"{{"class":"C","args":[{}1{}]}}"#, "[".repeat(10_000), "]".repeat(10_000));
    redis.ask(&["RPUSH", "resque:queue:mail", &deep, r#"{"class":"Sound","args":[{}]}"#]);
    redis.ask(&["SADD", "resque:queues", "mail", "odd", "a\nb"]);
    redis.ask(&["SET", "resque:queue:odd", "no list"]);
    let before = roster.memory();
    let taken = take(&roster, 9, None, 0);
    assert_eq!(taken.last().map(|job| job.name.as_str()), Some("Sound"), "{}", taken.len());
    assert_eq!(counts(&roster)[3], 3, "what is no job is dead");
    assert!(roster.memory() < before + (32 << 20), "what is too large is never read");
    assert_eq!(redis.ask(&["LLEN", "resque:roster:set_aside"]), "1");
    let refused: Overloaded =
        exception(enqueue(&roster, NewJob { queue: "odd".into(), ..job("C", "{}") })).expect("it is no list");
    assert!(refused.message.contains("resque:queue:odd"), "{}", refused.message);
    let wrong: InvalidRequest = exception(enqueue(&roster, job("C", "not JSON"))).expect("no JSON");
    assert_eq!(wrong.field, "payload");
    let listed = roster.client().queues(QueuesQuery::default()).expect("an answer").queues;
    assert_eq!(listed.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["mail", "odd"]);
}

#[test]
fn what_a_key_of_another_type_refuses_has_written_nothing_however_often_it_is_tried() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    redis.ask(&["SET", "resque:delayed_queue_schedule", "x"]);
    let delayed = || NewJob { delay_ms: Some(3_600_000), ..job("C", "{}") };
    for _ in 0..2 {
        let jobs = vec![job("C", "{}"), delayed()];
        roster.client().enqueue(EnqueueRequest { jobs }).expect_err("the schedule is none");
        assert_eq!(redis.ask(&["LLEN", "resque:queue:mail"]), "0");
        assert_eq!(redis.ask(&["KEYS", "resque:delayed:*"]) + &redis.keys_of_roster(), "");
    }
    redis.ask(&["DEL", "resque:delayed_queue_schedule"]);
    enqueue(&roster, job("C", "{}")).expect("there is room");
    redis.ask(&["RPUSH", "resque:roster:running:mail", "x"]);
    roster.client().take_jobs(TakeJobsRequest::new(vec!["mail".into()], 1, None, None, None)).expect_err("no lease");
    assert_eq!(redis.ask(&["HLEN", "resque:roster:jobs"]), "0");
}

#[test]
fn members_that_are_no_text_hide_no_job_of_their_state() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let id = enqueue(&roster, job("C", "{}")).expect("there is room");
    update(&roster, &take(&roster, 1, None, 0)[0], JobAction::BURY).expect("it has the lease");
    redis.ask(&["ZADD", "resque:roster:dead:mail", "1", "", "1", "8", "1", "007", "1", "x"]);
    redis.ask(&[&b"ZADD"[..], b"resque:roster:dead:mail", b"1", b"\xff\xfe"]);
    redis.ask(&[&b"HSET"[..], b"resque:roster:jobs", b"8", b"\xff"]);
    let listed = roster.cli(["queue", "peek", "mail", "dead", "-o", "json"]).text();
    assert!(listed.contains(&id.to_string()), "{listed}");
    exception::<NotFound>(found(&roster, 8)).expect("it is damaged");
    roster.cli(["queue", "retry", "mail", "--all"]).text();
    assert_eq!(take(&roster, 9, None, 0).iter().map(|job| job.id).collect::<Vec<_>>(), [id]);
    roster.cli(["queue", "purge", "mail", "dead"]).text();
    assert!(!roster.log().contains("Redis at"), "{}", roster.log());
}

#[test]
fn what_is_too_large_to_be_of_a_job_is_never_read() {
    let redis = Redis::start(&[]);
    // As another sidecar may have settled it.
    let field = r#"["digest","@yearly","UTC"]"#;
    let fill = format!(
        "local large = string.rep('x', 40000000)
        redis.call('HSET', 'resque:roster:jobs', '7', large, '8', large, '9', large, '', large)
        redis.call('HSET', 'resque:roster:recurring', '{field}', large)
        redis.call('SET', 'resque:pause-all-workers', large)
        redis.call('SADD', 'resque:queues', 'mail')
        redis.call('ZADD', 'resque:roster:dead:mail', 1, '8', 1, large)
        redis.call('ZADD', 'resque:roster:due', 1, '7', 1, large, 1, '')
        redis.call('ZADD', 'resque:roster:popped', 1, large)
        redis.call('ZADD', 'resque:roster:scheduled', 0, large, 0, '1:aa:9')
        redis.call('ZADD', 'resque:delayed_queue_schedule', 1, large)"
    );
    redis.ask(&["EVAL", &fill, "0"]);
    let recurring = "[[queue.recurring]]\nname = 'digest'\nqueue = 'mail'\njob = 'Digest'\nschedule = '@yearly'\n";
    let roster = connected(&redis, recurring);
    let id = enqueue(&roster, job("C", "{}")).expect("there is room");
    exception::<NotFound>(found(&roster, 7)).expect("it is damaged");
    roster.cli(["queue", "peek", "mail", "dead"]).text();
    assert_eq!(take(&roster, 1, None, 0).iter().map(|job| job.id).collect::<Vec<_>>(), [id]);
    eventually("each has been looked at", SOON, || {
        let now = redis.ask(&["ZCOUNT", "resque:roster:due", "-inf", "1000"]);
        let popped = redis.ask(&["ZCOUNT", "resque:roster:popped", "-inf", "1000"]);
        let marks = redis.ask(&["ZCARD", "resque:roster:scheduled"]);
        let seconds = redis.ask(&["ZCARD", "resque:delayed_queue_schedule"]);
        let settled = redis.ask(&["HSTRLEN", "resque:roster:recurring", field]).parse::<usize>().expect("a length");
        let is_done = [&now, &popped, &marks, &seconds].into_iter().all(|left| left == "0") && settled < 1_000;
        ensure(is_done, format!("{now} {popped} {marks} {seconds} {settled}"))
    });
    let log = roster.log();
    for (key, of) in [("roster:jobs", "7"), ("roster:jobs", "8"), ("roster:due", ""), ("roster:popped", "")] {
        let told = format!("key=\"resque:{key}\" of=\"{of}\"");
        assert_eq!(log.matches(&told).count(), 1, "{told} in {log}");
    }
    assert!(roster.peak_memory() < 100_000_000, "{}", roster.peak_memory());
}

#[test]
fn one_user_has_as_many_jobs_as_it_leaves_free() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let fill = "redis.call('SADD', 'resque:queues', 'mail', 'empty')
        for n = 1, 33000 do redis.call('RPUSH', 'resque:queue:mail', '{\"class\":\"C\",\"args\":[' .. n .. ']}') end";
    redis.ask(&["EVAL", fill, "0"]);
    let (mut taken, mut last) = (0, None);
    let request = |queue: &str| TakeJobsRequest::new(vec![queue.into()], 1_000, 86_400_000_i64, 0, None);
    let refused = loop {
        match roster.client().take_jobs(request("mail")) {
            Ok(reply) => {
                assert!(!reply.jobs.is_empty(), "{taken} are taken");
                taken += reply.jobs.len();
                last = reply.jobs.into_iter().next_back();
            }
            Err(why) => break why,
        }
    };
    let refused: Overloaded = exception::<Overloaded>(Err::<(), _>(refused)).expect("too many run");
    assert!(refused.message.contains("too many jobs run"), "{}", refused.message);
    assert_eq!(taken, 32_768);
    assert_eq!(roster.client().take_jobs(request("empty")).expect("it has none").jobs, []);
    update(&roster, &last.expect("a job"), JobAction::DONE).expect("it has the lease");
    assert_eq!(roster.client().take_jobs(request("mail")).expect("there is room").jobs.len(), 1);
}

#[test]
fn what_is_not_done_in_redis_is_refused() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    enqueue(&roster, job("C", "{}")).expect("there is room");
    for (wrong, why) in [
        (NewJob { priority: Some(0), ..job("C", "{}") }, "have no order by it"),
        (NewJob { limit_key: Some("k".into()), ..job("C", "{}") }, "are of whole queues"),
    ] {
        let refused: InvalidRequest = exception(enqueue(&roster, wrong)).expect("it is not for Redis");
        assert!(refused.message.contains(why), "{refused:?}");
    }
    let refused = roster.cli(["queue", "move", "mail", "--to", "post"]);
    assert!(refused.code == Some(2) && refused.wrong.contains("jobs are not moved there"), "{refused:?}");
    assert_eq!(counts(&roster), [1, 0, 0, 0]);
    let listed = roster.cli(["queue", "list", "-o", "json"]).json()["queues"][0].clone();
    assert!(listed["waiting"] == 1 && listed["enqueuedInLastMinute"].is_null(), "{listed}");
}

#[test]
fn unique_keys_are_those_of_their_queue_whatever_both_are_named() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let [one, other] = [("a b", "c"), ("a", "b c")].map(|(queue, key)| NewJob {
        queue: queue.into(),
        unique_key: Some(key.into()),
        ..job("C", "{}")
    });
    let ids = [&one, &other].map(|job| enqueue(&roster, job.clone()).expect("there is room"));
    let again = roster.client().enqueue(EnqueueRequest { jobs: vec![one, other] }).expect("an answer").jobs;
    assert_eq!([again[0].id, again[1].id], ids, "each of its own queue");
}

#[test]
fn a_unique_key_is_free_again_when_its_job_is_done_by_whomever() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let unique = || NewJob { unique_key: Some("k".into()), ..job("C", "{}") };
    let first = enqueue(&roster, unique()).expect("there is room");
    assert_eq!(enqueue(&roster, unique()).expect("an answer"), first);
    let taken = take(&roster, 1, None, 0);
    assert_eq!(enqueue(&roster, unique()).expect("an answer"), first, "while it runs");
    update(&roster, &taken[0], JobAction::RELEASE).expect("it has the lease");
    assert_eq!(enqueue(&roster, unique()).expect("an answer"), first, "while it waits again");
    redis.ask(&["LPOP", "resque:queue:mail"]);
    let second = enqueue(&roster, unique()).expect("a client of Resque has performed it");
    assert_ne!(second, first);
    let taken = take(&roster, 1, None, 0);
    update(&roster, &taken[0], JobAction::DONE).expect("it has the lease");
    let third = roster.client().enqueue(EnqueueRequest { jobs: vec![unique(), unique()] }).expect("there is room").jobs;
    assert!(third[0].id != second && third[1].id == third[0].id && !third[1].is_new, "{third:?}");
    redis.ask(&["LPOP", "resque:queue:mail"]);
    eventually("its key is gone, though nobody asks for it", SOON, || {
        let left = redis.keys_of_roster();
        ensure(left.is_empty(), left)
    });
    let fourth = enqueue(&roster, unique()).expect("there is room");
    for end in ["LPUSH", "RPUSH"] {
        let fill = "for _ = 1, 30000 do redis.call(ARGV[1], KEYS[1], '{}') end";
        redis.ask(&["EVAL", fill, "1", "resque:queue:mail", end]);
    }
    assert_eq!(enqueue(&roster, unique()).expect("an answer"), fourth, "it may be where nobody looks");
}

#[test]
fn a_dead_job_that_is_put_back_has_its_unique_key_again_unless_another_one_has_it() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let unique = |key: &str| NewJob { unique_key: Some(key.into()), ..job("C", "{}") };
    let dies = |key: &str| {
        let id = enqueue(&roster, unique(key)).expect("there is room");
        let taken = take(&roster, 1, None, 0);
        update(&roster, &taken[0], JobAction::BURY).expect("it has the lease");
        id
    };
    let [free, taken] = ["free", "taken"].map(dies);
    let other = enqueue(&roster, unique("taken")).expect("there is room");
    assert_ne!(other, taken, "what is dead has no key");
    assert_eq!(found(&roster, free).expect("it is kept").unique_key, None);
    assert_eq!(roster.cli(["queue", "retry", "mail", &free.to_string()]).text(), "1 job waits again\n");
    assert_eq!(roster.cli(["queue", "retry", "mail", "--all"]).text(), "1 job waits again\n");
    let keys = [free, taken, other].map(|id| found(&roster, id).expect("it waits").unique_key);
    assert_eq!(keys, [Some("free"), None, Some("taken")].map(|key| key.map(str::to_owned)));
    let again = ["free", "taken"].map(|key| enqueue(&roster, unique(key)).expect("an answer"));
    assert_eq!(again, [free, other]);
    let all = take(&roster, 9, None, 0);
    assert_eq!(all.iter().map(|job| job.id).collect::<Vec<_>>(), [other, free, taken]);
    update(&roster, &all[2], JobAction::DONE).expect("it has the lease");
    assert_eq!(enqueue(&roster, unique("taken")).expect("an answer"), other, "the key is another's");
    all[..2].iter().for_each(|job| update(&roster, job, JobAction::DONE).expect("it has the lease"));
    assert_eq!(redis.keys_of_roster(), "", "nothing is left of their keys");
}

#[test]
fn how_long_the_first_job_has_waited_is_known_from_what_it_tells_or_else_from_when_it_was_seen_there() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_millis() as i64;
    let oldest = || roster.client().queues(QueuesQuery::default()).expect("an answer").queues[0].oldest_waiting;
    let begin = now();
    enqueue(&roster, job("C", "{}")).expect("there is room");
    let enqueued = oldest().expect("it tells");
    // By the clock of Redis, as far as that is known.
    assert!((begin - 5_000..=now() + 5_000).contains(&enqueued), "{begin} {enqueued}");
    let php = r#"{"class":"Php","args":[null],"id":"d41d8cd98f00b204e9800998ecf8427e","queue_time":1700000000.5}"#;
    redis.ask(&["LPUSH", "resque:queue:mail", php]);
    assert_eq!(oldest(), Some(1_700_000_000_500));

    let ruby = r#"{"class":"Ruby","args":[1]}"#;
    redis.ask(&["LPUSH", "resque:queue:mail", ruby]);
    let seen = oldest().expect("it is seen");
    assert!((begin - 1_000..=now() + 1_000).contains(&seen), "{begin} {seen}");
    redis.ask(&["RPUSH", "resque:queue:mail", php, ruby]);
    eventually("it grows old", SOON, || {
        let age = now() - oldest().ok_or("it is seen")?;
        ensure(age > 2_000, age)
    });
    redis.ask(&["LPOP", "resque:queue:mail"]);
    assert_eq!(oldest(), Some(1_700_000_000_500));
    let popped = now();
    redis.ask(&["LTRIM", "resque:queue:mail", "-1", "-1"]);
    let last = oldest().expect("it is seen");
    assert!(last > popped - 1_000, "it has the same text: {popped} {last}");
    redis.ask(&["RPUSH", "resque:queue:mail", ruby]);
    eventually("it grows old", SOON, || {
        let age = now() - oldest().ok_or("it is seen")?;
        ensure(age > 2_000, age)
    });
    let popped = now();
    redis.ask(&["LPOP", "resque:queue:mail"]);
    let last = oldest().expect("it is seen");
    assert!(last > popped - 1_000, "the first one is gone, as fewer wait: {popped} {last}");
    redis.ask(&["LPOP", "resque:queue:mail"]);
    assert_eq!(oldest(), None);
}

#[test]
fn while_redis_is_away_jobs_are_refused_by_its_name_and_reports_are_kept() {
    let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let roster = connected(&redis, "");
    let ids: Vec<i64> = (0..2).map(|_| enqueue(&roster, job("C", "{}")).expect("there is room")).collect();
    let taken = take(&roster, 1, 60_000, 0);
    redis.kill();
    let refused: Overloaded = exception(enqueue(&roster, job("C", "{}"))).expect("Redis is away");
    assert!(refused.message.contains(&redis.url()), "{}", refused.message);
    let kept: Overloaded = exception(update(&roster, &taken[0], JobAction::DONE)).expect("Redis is away");
    assert!(kept.message.contains("is kept"), "{}", kept.message);
    let trouble = roster.client().queues(QueuesQuery::default());
    assert!(trouble.is_err(), "{trouble:?}");
    redis.run();
    works(&roster);
    eventually("the report is written", SOON, || {
        let counts = counts(&roster);
        ensure(counts == [1, 0, 0, 0], format!("{counts:?}"))
    });
    assert_eq!(take(&roster, 9, None, 0).iter().map(|job| job.id).collect::<Vec<_>>(), ids[1..]);
    // It comes back without its data.
    redis.kill();
    std::fs::remove_dir_all(redis.socket().with_file_name("appendonlydir")).expect("it had some");
    redis.run();
    works(&roster);
    enqueue(&roster, job("C", "{}")).expect("there is room");
    assert_eq!(take(&roster, 9, None, 0).len(), 1);
}

#[test]
fn a_result_is_kept_over_deaths_in_the_place_of_the_payload_until_its_time_is_over() {
    let redis = Redis::start(&[]);
    let mut roster = connected(&redis, "");
    let kept = NewJob { unique_key: Some("k".into()), keep_result_ms: Some(600_000), ..job("C", r#"{"a":1}"#) };
    let id = enqueue(&roster, NewJob { delay_ms: Some(1_000), ..kept.clone() }).expect("there is room");
    assert_eq!(take(&roster, 1, 1_000, 20_000).len(), 1);
    roster.kill();
    roster.run();
    works(&roster);
    let taken = take(&roster, 1, None, 20_000);
    assert_eq!(taken.iter().map(|job| (job.id, job.attempt)).collect::<Vec<_>>(), [(id, 2)], "its lease has ended");
    returns(&roster, &taken[0], b"\xff3").expect("it has the lease");
    exception::<NotFound>(returns(&roster, &taken[0], b"4")).expect("it is done");
    roster.kill();
    roster.run();
    works(&roster);
    let done = found(&roster, id).expect("it is kept");
    assert_eq!((done.state, done.name.as_str(), done.error), (JobState::DONE, "C", None));
    assert_eq!((done.payload.len(), done.result.as_deref()), (0, Some(&b"\xff3"[..])));
    let queue = roster.client().queues(QueuesQuery::default()).expect("an answer").queues.remove(0);
    assert_eq!((queue.waiting, queue.running, queue.dead, queue.done), (0, 0, 0, Some(1)));
    assert_eq!(redis.ask(&["GET", "resque:stat:processed"]), "1");

    let short = enqueue(&roster, NewJob { keep_result_ms: Some(1_500), ..kept }).expect("there is room");
    assert_ne!(short, id, "its key is free");
    let taken = take(&roster, 1, None, 0);
    returns(&roster, &taken[0], b"3").expect("it has the lease");
    eventually("its time is over", SOON, || exception::<NotFound>(found(&roster, short)).map(drop));
    assert_eq!(redis.ask(&["ZCARD", "resque:roster:done:mail"]), "1", "that of the other one is not");
    roster.client().cancel_job(JobQuery { id }).expect("nobody performs it");
    exception::<NotFound>(found(&roster, id)).expect("it is removed");
    eventually("nothing is left of them", SOON, || {
        let left = redis.keys_of_roster();
        ensure(left.is_empty(), left)
    });
}

#[test]
fn jobs_that_are_kept_for_their_results_are_listed_and_purged_and_not_retried_whoever_enqueued_them() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "keep_results = \"10m\"\n");
    enqueue(&roster, job("Mine", "{}")).expect("there is room");
    enqueue(&roster, NewJob { keep_result_ms: Some(0), ..job("Unwanted", "{}") }).expect("there is room");
    let php = r#"{"class":"Php","args":[null],"id":"d41d8cd98f00b204e9800998ecf8427e","queue_time":1.5}"#;
    redis.ask(&["RPUSH", "resque:queue:mail", php]);
    let taken = take(&roster, 3, None, 0);
    taken.iter().for_each(|job| returns(&roster, job, br#"{"n":1}"#).expect("it has the lease"));
    let listed = roster.cli(["queue", "peek", "mail", "done", "-o", "json"]).json();
    let jobs = listed["jobs"].as_array().expect("a list");
    let mut names: Vec<_> = jobs.iter().filter_map(|job| job["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["Mine", "Php"], "{listed}");
    assert!(jobs.iter().all(|job| job["result"] == r#"{"n":1}"# && job["payload"] == ""), "{listed}");
    let refused = roster.cli(["queue", "retry", "mail", &taken[0].id.to_string()]);
    assert!(refused.code != Some(0) && refused.wrong.contains("is not dead"), "{refused:?}");
    assert_eq!(roster.cli(["queue", "purge", "mail", "done"]).text(), "2 jobs removed\n");
    assert_eq!(redis.keys_of_roster(), "");
}

#[test]
fn a_result_for_which_there_is_no_room_is_not_kept_and_the_job_is_done_all_the_same() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "max_jobs = 3\nmax_job_bytes = \"1KiB\"\nkeep_results = \"10m\"\n");
    let add = |payload: &str| enqueue(&roster, job("C", payload)).expect("there is room");
    let perform = |result: &[u8]| {
        let id = add("{}");
        returns(&roster, &take(&roster, 1, None, 0)[0], result).expect("it has the lease");
        found(&roster, id)
    };
    let large = perform(&[b'x'; 1_025]).expect("it is kept");
    assert_eq!((large.state, large.result), (JobState::DONE, Some(Vec::new())));
    let why = large.error.unwrap_or_default();
    assert!(why.starts_with("its result of 1025 bytes is not kept: `queue.max_job_bytes` is"), "{why}");

    let id = add("{}");
    let taken = take(&roster, 1, None, 0);
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    returns(&roster, &taken[0], b"3").expect("it has the lease");
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    exception::<NotFound>(found(&roster, id)).expect("Redis has no memory left");

    for _ in 0..2 {
        perform(b"3").expect("there is room");
    }
    exception::<NotFound>(perform(b"3")).expect("as many are kept as may be");
    assert_eq!(redis.ask(&["ZCARD", "resque:roster:done:mail"]), "3");
    assert_eq!(roster.cli(["queue", "purge", "mail", "done"]).text(), "3 jobs removed\n");
    assert_eq!(perform(b"3").expect("it is kept").result.as_deref(), Some(&b"3"[..]));
}

#[test]
fn results_leave_memory_of_redis_for_jobs() {
    let redis = Redis::start(&["--maxmemory", "16mb"]);
    let roster = connected(&redis, "keep_results = \"10m\"\n");
    let (payload, result) = (format!("\"{}\"", "x".repeat(60_000)), vec![b'x'; 40_000]);
    for _ in 0..400 {
        enqueue(&roster, job("C", &payload)).expect("there is room");
        returns(&roster, &take(&roster, 1, None, 0)[0], &result).expect("it has the lease");
    }
    let kept: usize = redis.ask(&["ZCARD", "resque:roster:done:mail"]).parse().expect("a number");
    assert!((100..400).contains(&kept), "{kept} are kept");
}

#[test]
fn a_job_whose_result_cannot_be_listed_is_done_and_leaves_nothing() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "keep_results = \"10m\"\n");
    let unique = || NewJob { unique_key: Some("k".into()), ..job("C", "{}") };
    let id = enqueue(&roster, unique()).expect("there is room");
    let taken = take(&roster, 1, None, 0);
    redis.ask(&["SET", "resque:roster:done:mail", "no set"]);
    returns(&roster, &taken[0], b"3").expect("it has the lease");
    exception::<NotFound>(found(&roster, id)).expect("its result is not kept");
    assert_eq!((counts(&roster), redis.ask(&["GET", "resque:stat:processed"])), ([0; 4], "1".to_owned()));
    let next = enqueue(&roster, unique()).expect("there is room");
    assert_ne!(next, id, "its key is free");
    redis.ask(&["DEL", "resque:roster:done:mail"]);
    redis.ask(&["SET", "resque:roster:results", "no set"]);
    returns(&roster, &take(&roster, 1, None, 0)[0], b"3").expect("it has the lease");
    exception::<NotFound>(found(&roster, next)).expect("its result is not kept");
}

#[test]
fn a_result_that_is_reported_while_redis_is_away_is_kept_when_it_is_back() {
    let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let roster = connected(&redis, "keep_results = \"10m\"\n");
    let id = enqueue(&roster, job("C", "{}")).expect("there is room");
    let taken = take(&roster, 1, 60_000, 0);
    redis.kill();
    let kept: Overloaded = exception(returns(&roster, &taken[0], b"3")).expect("Redis is away");
    assert!(kept.message.contains("is kept"), "{}", kept.message);
    redis.run();
    eventually("it is written", SOON, || {
        let job = found(&roster, id).map_err(|error| format!("{error:?}"))?;
        ensure(job.result.as_deref() == Some(&b"3"[..]), format!("{job:?}"))
    });
}

#[test]
fn results_that_wait_for_redis_are_bounded_and_a_job_whose_result_has_no_room_is_done_and_says_so() {
    let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let roster = connected(&redis, "max_job_bytes = \"512KiB\"\nkeep_results = \"10m\"\n");
    let ids: Vec<i64> = (0..40).map(|_| enqueue(&roster, job("C", "{}")).expect("there is room")).collect();
    let taken = take(&roster, 40, 60_000, 0);
    redis.kill();
    let report = |job: &Job, result: &[u8]| {
        let kept: Overloaded = exception(returns(&roster, job, result)).expect("Redis is away");
        assert!(kept.message.contains("is kept"), "{}", kept.message);
        kept.message.contains("without its result")
    };
    let large = vec![b'x'; 500_000];
    let of_all = || taken.iter().filter(|job| report(job, &large)).count();
    assert_eq!((of_all(), of_all()), (40 - 33, 40 - 33), "33 of them have 16 MiB, however often they are reported");
    assert!(!taken.iter().any(|job| report(job, b"3")), "there is room again");
    let left_out = of_all();
    redis.run();
    works(&roster);
    let mut without = 0;
    for id in ids {
        let done = eventually("it is done", SOON, || {
            let job = found(&roster, id).map_err(|error| format!("{error:?}"))?;
            ensure(job.state == JobState::DONE, format!("{:?}", job.state)).map(|()| job)
        });
        if done.result.is_none_or(|result| result != large) {
            let why = done.error.unwrap_or_default();
            assert!(why.starts_with("its result of 500000 bytes is not kept: the sidecar keeps"), "{why}");
            without += 1;
        }
    }
    assert_eq!(without, left_out);
}

#[test]
fn reports_that_were_kept_are_written_many_at_a_time() {
    let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let roster = connected(&redis, "keep_results = \"10m\"\n");
    for _ in 0..200 {
        enqueue(&roster, job("C", "{}")).expect("there is room");
    }
    let taken = take(&roster, 200, 60_000, 0);
    redis.kill();
    for job in &taken {
        exception::<Overloaded>(returns(&roster, job, b"3")).expect("Redis is away");
    }
    redis.run();
    works(&roster);
    let stats = eventually("they are written", SOON, || {
        let processed = redis.ask(&["GET", "resque:stat:processed"]);
        ensure(processed == "200", processed)?;
        Ok::<_, String>(redis.ask(&["INFO", "stats"]))
    });
    let reads = stats.lines().find_map(|line| line.strip_prefix("total_reads_processed:")?.parse::<usize>().ok());
    assert!(reads.is_some_and(|reads| reads < 300), "{reads:?} reads");
}

#[test]
fn a_client_of_resque_performs_a_job_whose_result_was_to_be_kept_and_nothing_is_left_of_it() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let kept = NewJob { keep_result_ms: Some(600_000), ..job("C", "{}") };
    let id = enqueue(&roster, kept).expect("there is room");
    let popped = redis.ask(&["LPOP", "resque:queue:mail"]);
    let start = format!(r#"{{"class":"C","args":[{{}}],"id":"{id:032x}","prefix":"","queue_time":"#);
    assert!(popped.starts_with(&start) && popped.ends_with(r#""keep_result_ms":600000}}"#), "{popped}");
    exception::<NotFound>(found(&roster, id)).expect("others keep none");
    assert_eq!(redis.keys_of_roster(), "");
}

#[test]
fn a_mass_of_dead_jobs_whose_time_is_over_keeps_no_lease_waiting() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let id = enqueue(&roster, job("C", "{}")).expect("there is room");
    assert_eq!(take(&roster, 1, 3_000, 0).len(), 1);
    let fill = r#"local over = '{"queue":"mail","state":{"Dead":{"since":1}},"extras":{},"enqueued_at":1,"item":"{}"}'
        for n = 1, 60000 do
            redis.call('HSET', 'resque:roster:jobs', n, over)
            redis.call('ZADD', 'resque:roster:dead:mail', 1, n)
            redis.call('ZADD', 'resque:roster:due', 1, n) end"#;
    redis.ask(&["EVAL", fill, "0"]);
    let again = take(&roster, 1, None, 30_000);
    let left = redis.ask(&["ZCARD", "resque:roster:due"]);
    assert_eq!(again.iter().map(|job| (job.id, job.attempt)).collect::<Vec<_>>(), [(id, 2)]);
    assert!(left.parse::<usize>().is_ok_and(|left| left > 1_000), "{left} are left");
}

#[test]
fn a_mass_of_results_whose_time_is_over_is_forgotten_by_hundreds_and_keeps_no_lease_waiting() {
    let redis = Redis::start(&[]);
    let line = Cutter::to(redis.port());
    let mut roster = at(&line.url(), "");
    works(&roster);
    let id = enqueue(&roster, job("C", "{}")).expect("there is room");
    assert_eq!(take(&roster, 1, 1_000, 0).len(), 1);
    roster.kill();
    let fill = r#"local over = '{"queue":"mail","state":{"Done":{"until":1}},"extras":{},"enqueued_at":1,"item":"{}"}'
        for n = 1, 40000 do
            redis.call('HSET', 'resque:roster:jobs', n, over)
            redis.call('ZADD', 'resque:roster:done:mail', 1, n)
            redis.call('ZADD', 'resque:roster:results', 1, n .. ':mail') end"#;
    redis.ask(&["EVAL", fill, "0"]);
    let ended = "return redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] + 3000 < redis.call('TIME')[1] * 1000";
    eventually("its lease has ended long ago", SOON, || {
        ensure(redis.ask(&["EVAL", ended, "1", "resque:roster:due"]) == "1", "it lasts")
    });
    line.delay("\r\n", Duration::from_millis(10));
    roster.run();
    works(&roster);
    let again = take(&roster, 1, 60_000, 30_000);
    assert_eq!(again.iter().map(|job| (job.id, job.attempt)).collect::<Vec<_>>(), [(id, 2)]);
    eventually("they are forgotten", SOON, || {
        let keys = ["roster:results", "roster:done:mail"].map(|key| redis.ask(&["ZCARD", &format!("resque:{key}")]));
        let jobs = redis.ask(&["HLEN", "resque:roster:jobs"]);
        ensure(keys == ["0", "0"] && jobs == "1", format!("{keys:?} {jobs}"))
    });
}

#[test]
fn a_redis_that_hangs_holds_nobody_up_for_ever() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    redis.process().freeze();
    let refused: Overloaded = exception(enqueue(&roster, job("C", "{}"))).expect("Redis hangs");
    assert!(
        refused.message.contains("not known whether") && refused.message.contains(&redis.url()),
        "{}",
        refused.message
    );
    assert_eq!(roster.data("/a"), b"one", "nothing else waits for it");
    redis.process().thaw();
    // What was sent before the freeze may still time out, and end the connection.
    eventually("it is connected", SOON, || enqueue(&roster, job("C", "{}")).map_err(|error| error.to_string()));
}

#[test]
fn what_redis_refuses_is_said_with_its_cure() {
    let redis = Redis::start(&["--requirepass", "s3cret"]);
    let roster = roster(&redis, "password_file = 'password'\n");
    let says = |words: &str| {
        eventually("it says why", SOON, || {
            let refused: Overloaded =
                exception(enqueue(&roster, job("C", "{}"))).map_err(|error| format!("{error:?}"))?;
            ensure(refused.message.contains(words), refused.message)
        });
    };
    says("cannot read");
    roster.write("password", "wrong\n");
    // In the words of Redis, too.
    says(
        "refuses the password of `queue.password_file`, or the user of `queue.backend` (invalid username-password pair",
    );
    roster.write("password", "s3cret\n");
    works(&roster);
    assert!(!roster.log().contains("s3cret"), "no secret is logged");
    let admin = |command: &str| {
        let mut cli = Command::new("redis-cli");
        cli.args(["-u", &redis.url(), "--no-auth-warning", "-a", "s3cret"]).args(command.split(' '));
        assert!(cli.output().expect("redis-cli").status.success());
    };
    admin("CONFIG SET maxmemory 1");
    says("maxmemory");
    admin("CONFIG SET maxmemory 0");
    enqueue(&roster, job("C", "{}")).expect("there is room");
    admin("REPLICAOF 127.0.0.1 1");
    says("replica");
    admin("REPLICAOF NO ONE");
    eventually("it takes jobs again", Duration::from_secs(60), || {
        enqueue(&roster, job("C", "{}")).map(drop).map_err(|error| error.to_string())
    });
}

/// What is wrong with the queues is told by everything that tells it; none: it is told that they are well.
fn is_told(roster: &Roster, port: u16, wrong: Option<&str>) {
    is_told_while(roster, port, wrong, wrong.is_none());
}

fn is_told_while(roster: &Roster, port: u16, wrong: Option<&str>, queues_up: bool) {
    eventually(&format!("it is told: {wrong:?}"), SOON, || {
        let (status, listed) = (roster.cli(["status"]).text(), roster.cli(["queue", "list"]).wrong);
        let is_up = admin::samples(port)["roster_queues_up"] == 1.0;
        let is_right = match wrong {
            None => !listed.contains("Redis at") && !status.contains("queues NOT IN ORDER"),
            Some(why) => {
                let of_status = status.lines().find(|line| line.starts_with("queues NOT IN ORDER: "));
                listed.contains(why) && of_status.is_some_and(|line| line.contains(why))
            }
        };
        ensure(is_right && is_up == queues_up, format!("{is_up} {listed} {status}"))
    });
}

#[test]
fn that_redis_has_become_a_replica_is_told_while_nobody_enqueues() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "[admin]\nlisten = \"127.0.0.1:0\"\n");
    let port = admin::port(&roster);
    is_told(&roster, port, None);
    for nth in 1..=2 {
        redis.ask(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
        is_told(&roster, port, Some("it is a replica, which takes no jobs: name its master"));
        redis.ask(&["REPLICAOF", "NO", "ONE"]);
        is_told(&roster, port, None);
        let log = roster.log();
        let counts = ["the queues take and hand out no jobs", "the queues are open"].map(|it| log.matches(it).count());
        assert_eq!(counts, [nth, nth + 1], "{log}");
    }
}

#[test]
fn that_redis_has_no_memory_left_is_told_while_nobody_enqueues_and_jobs_are_handed_out() {
    let redis = Redis::start(&["--appendonly", "yes"]);
    let roster = connected(&redis, "[admin]\nlisten = \"127.0.0.1:0\"\n");
    let port = admin::port(&roster);
    enqueue(&roster, job("C", "{}")).expect("there is room");
    let offset = || {
        let info = redis.ask(&["INFO", "persistence"]);
        info.lines().find(|line| line.starts_with("aof_current_size:")).expect("a size").to_owned()
    };
    let before = offset();
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    is_told(&roster, port, Some("raise its `maxmemory`"));
    assert_eq!(offset(), before, "to know it, nothing is written");
    let taken = take(&roster, 1, None, 0);
    update(&roster, &taken[0], JobAction::DONE).expect("it has the lease");
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    is_told(&roster, port, None);
    roster.logs("Redis takes these writes of the queues again");
    let log = roster.log();
    let words = ["Redis refuses writes of the queues", "Redis takes these writes of the queues again"];
    assert_eq!(words.map(|it| log.matches(it).count()), [1, 1], "{log}");
    assert!(!log.contains("the queues take and hand out no jobs"), "{log}");
}

#[test]
fn what_the_rules_of_redis_refuse_is_told_until_it_is_done_and_is_no_outage_of_all_queues() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "[admin]\nlisten = \"127.0.0.1:0\"\n");
    let port = admin::port(&roster);
    enqueue(&roster, job("C", "{}")).expect("there is room");
    redis.ask(&["ACL", "SETUSER", "default", "-rpush"]);
    let refused: Overloaded = exception(enqueue(&roster, job("C", "{}"))).expect("it has no right to");
    assert!(refused.message.contains("its rules refuse that"), "{}", refused.message);
    is_told_while(&roster, port, Some("the last jobs were not enqueued"), true);
    redis.ask(&["ACL", "SETUSER", "default", "+rpush", "-hset"]);
    enqueue(&roster, job("C", "{}")).expect("there is room");
    is_told(&roster, port, None);
    let take_one = || roster.client().take_jobs(TakeJobsRequest::new(vec!["mail".into()], 1, None, 0, None));
    exception::<Overloaded>(take_one()).expect("it has no right to");
    is_told_while(&roster, port, Some("no jobs were handed out at the last try"), true);
    redis.ask(&["ACL", "SETUSER", "default", "+hset"]);
    assert_eq!(take_one().expect("it has the right").jobs.len(), 1);
    is_told(&roster, port, None);
}

#[test]
fn jobs_are_in_the_database_that_is_named_as_the_user_that_is_named() {
    let redis = Redis::start(&["--databases", "4"]);
    redis.ask(&["ACL", "SETUSER", "queue", "on", ">s3cret", "~resque:*", "+@all"]);
    let url = |user: &str, database: u16| format!("redis://{user}@127.0.0.1:{}/{database}", redis.port());
    let with = |url: &str| {
        let roster = at(url, "password_file = 'password'\n");
        roster.write("password", "s3cret\n");
        roster
    };
    let says = |roster: &Roster, words: &str| {
        eventually("it says why", SOON, || {
            let refused: Overloaded =
                exception(enqueue(roster, job("C", "{}"))).map_err(|error| format!("{error:?}"))?;
            ensure(refused.message.contains(words), refused.message)
        });
    };
    says(&with(&url("nobody", 3)), "or the user of `queue.backend`");
    says(&with(&url("queue", 4)), "DB index is out of range");
    let roster = with(&url("queue", 3));
    works(&roster);
    let id = enqueue(&roster, job("C", "{}")).expect("there is room");
    let length = "redis.call('SELECT', ARGV[1]) return redis.call('LLEN', 'resque:queue:mail')";
    let lengths = ["3", "0"].map(|database| redis.ask(&["EVAL", length, "0", database]));
    assert_eq!(lengths, ["1", "0"]);
    let clients = redis.ask(&["CLIENT", "LIST"]);
    assert!(clients.lines().any(|it| it.contains(" db=3 ") && it.contains(" user=queue ")), "{clients}");
    let other = at(&format!("unix://{}?db=3", redis.socket().display()), "");
    works(&other);
    assert_eq!(take(&other, 1, None, 0).iter().map(|job| job.id).collect::<Vec<_>>(), [id]);
}

#[test]
fn what_is_full_or_paused_refuses_and_lists_stay_bounded() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "max_jobs = 2\nmax_queues = 2\nprefix = 'app:'\n");
    (0..2).for_each(|_| _ = enqueue(&roster, job("C", "{}")).expect("there is room"));
    let full: Overloaded = exception(enqueue(&roster, job("C", "{}"))).expect("it is full");
    assert!(full.message.contains("queue.max_jobs"), "{}", full.message);
    enqueue(&roster, NewJob { queue: "b".into(), ..job("C", "{}") }).expect("there is room");
    let many: Overloaded =
        exception(enqueue(&roster, NewJob { queue: "c".into(), ..job("C", "{}") })).expect("too many");
    assert!(many.message.contains("queue.max_queues"), "{}", many.message);
    assert_eq!(redis.ask(&["LLEN", "app:queue:mail"]), "2");
    assert_eq!(roster.cli(["queue", "pause", "mail"]).text(), "mail is paused\n");
    assert_eq!(take(&roster, 9, None, 0), []);
    assert_eq!(roster.cli(["queue", "resume", "mail"]).text(), "mail is resumed\n");
    assert_eq!(roster.cli(["queue", "purge", "mail", "waiting"]).text(), "2 jobs removed\n");
    assert_eq!(take(&roster, 9, None, 0), []);
}

#[test]
fn a_queue_is_full_only_once_it_is_there_and_has_jobs() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "max_jobs = 2\nmax_queues = 2\n");
    let refused = |queues: &[&str]| {
        let jobs = queues.iter().map(|queue| NewJob { queue: (*queue).into(), ..job("C", "{}") }).collect();
        let refused: Overloaded = exception(roster.client().enqueue(EnqueueRequest { jobs })).expect("it is refused");
        let trouble = roster.client().queues(QueuesQuery::default()).expect("an answer").trouble;
        (refused.message, trouble.unwrap_or_default())
    };
    let (why, trouble) = refused(&["!1"; 3]);
    assert!(why.contains("enqueue fewer for \"!1\" at once") && trouble.is_empty(), "{why}: {trouble}");
    (0..2).for_each(|_| _ = enqueue(&roster, job("C", "{}")).expect("there is room"));
    let (why, trouble) = refused(&["mail"; 3]);
    assert!(why.contains("enqueue fewer for \"mail\" at once") && trouble.is_empty(), "{why}: {trouble}");
    let (why, trouble) = refused(&["mail"]);
    assert!(why.contains("\"mail\" is full") && trouble.contains("\"mail\""), "{why}: {trouble}");
    let (why, trouble) = refused(&["mail", "!1", "!2"]);
    assert!(why.contains("too many queues") && trouble.contains("queue.max_queues"), "{why}: {trouble}");
    assert_eq!(redis.ask(&["SMEMBERS", "resque:queues"]), "mail");
}

#[test]
fn a_queue_is_full_by_those_that_are_delayed_too() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "max_jobs = 2\n");
    let later = || NewJob { delay_ms: Some(3_600_000), ..job("C", "{}") };
    enqueue(&roster, later()).expect("there is room");
    enqueue(&roster, job("C", "{}")).expect("there is room");
    for one_more in [later(), job("C", "{}")] {
        let full: Overloaded = exception(enqueue(&roster, one_more)).expect("it is full");
        assert!(full.message.contains("queue.max_jobs"), "{}", full.message);
    }
    assert_eq!(roster.cli(["queue", "purge", "mail", "delayed"]).text(), "1 job removed\n");
    enqueue(&roster, later()).expect("there is room again");
    assert_eq!(counts(&roster), [1, 1, 0, 0]);
}

#[test]
fn a_lease_lasts_a_day_at_most_and_begins_when_the_job_arrives() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let until = |job: &Job| {
        let record = redis.ask(&["HGET", "resque:roster:jobs", &job.id.to_string()]);
        let record: serde_json::Value = serde_json::from_str(&record).expect("a record");
        record["state"]["Running"]["until"].as_u64().expect("it runs")
    };
    let now = || {
        let time = redis.ask(&["TIME"]);
        let (seconds, micros) = time.split_once('\n').expect("both");
        seconds.parse::<u64>().expect("a number") * 1_000 + micros.parse::<u64>().expect("a number") / 1_000
    };
    enqueue(&roster, job("C", "{}")).expect("there is room");
    let taken = take(&roster, 1, i64::MAX, 0);
    // And what it may take to arrive.
    assert!(until(&taken[0]) <= now() + 86_400_000 + 6_000, "{}", until(&taken[0]));
    update(&roster, &taken[0], JobAction::DONE).expect("it has the lease");

    enqueue(&roster, job("C", "{}")).expect("there is room");
    redis.process().freeze();
    std::thread::scope(|scope| {
        let taking = scope.spawn(|| take(&roster, 1, 10_000, 0));
        std::thread::sleep(Duration::from_secs(2));
        let thawed = std::time::SystemTime::now();
        redis.process().thaw();
        let taken = taking.join().expect("no panic");
        let thawed = thawed.duration_since(std::time::UNIX_EPOCH).expect("a time").as_millis() as u64;
        assert!(until(&taken[0]) + 5 >= thawed + 10_000, "{} {thawed}", until(&taken[0]));
    });
}

#[test]
fn jobs_are_taken_reported_and_lost_while_redis_has_no_memory_left() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    (0..2).for_each(|_| _ = enqueue(&roster, job("C", "{}")).expect("there is room"));
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused: Overloaded = exception(enqueue(&roster, job("C", "{}"))).expect("there is no room");
    assert!(refused.message.contains("maxmemory"), "{}", refused.message);
    // The lease is longer than it takes to take the other one.
    let taken = take(&roster, 1, 5_000, 0);
    let other = take(&roster, 1, None, 0);
    update(&roster, &other[0], JobAction::DONE).expect("it has the lease");
    let again = take(&roster, 1, None, 20_000);
    assert_eq!((again[0].id, again[0].attempt), (taken[0].id, 2), "its lease has ended");
    update(&roster, &again[0], JobAction::DONE).expect("it has the lease");
    assert_eq!(counts(&roster), [0; 4]);
}

#[test]
fn more_than_is_moved_at_once_becomes_due_while_redis_has_no_memory_left() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let jobs = (0..250).map(|_| NewJob { delay_ms: Some(3_000), ..job("C", "{}") }).collect();
    roster.client().enqueue(EnqueueRequest { jobs }).expect("there is room");
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let mut taken = 0;
    eventually("all are handed out", SOON, || {
        taken += take(&roster, 250, None, 1_000).len();
        ensure(taken == 250, format!("{taken}"))
    });
    assert!(!roster.log().contains("hand out no jobs"), "{}", roster.log());
}

#[test]
fn a_delayed_job_is_moved_by_a_sidecar_that_takes_none_as_large() {
    let redis = Redis::start(&[]);
    let first = connected(&redis, "max_job_bytes = \"512KiB\"\n");
    let large = format!("\"{}\"", "x".repeat(400 << 10));
    enqueue(&first, NewJob { delay_ms: Some(1_000), ..job("C", &large) }).expect("there is room");
    drop(first);
    let _second = connected(&redis, "max_job_bytes = \"1KiB\"\n");
    eventually("it is moved", SOON, || {
        let waiting = redis.ask(&["LLEN", "resque:queue:mail"]);
        ensure(waiting == "1", waiting)
    });
    assert_eq!(redis.ask(&["EXISTS", "resque:roster:set_aside"]), "0");
}

#[test]
fn the_log_names_the_key_of_another_type_for_which_a_delayed_job_is_set_aside() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let delayed = NewJob { delay_ms: Some(2_000), unique_key: Some("k".into()), ..job("C", "{}") };
    enqueue(&roster, delayed).expect("there is room");
    redis.ask(&["SET", "resque:roster:unique:mail", "no hash"]);
    roster.logs("key=\"resque:roster:unique:mail\"");
    eventually("it is set aside", SOON, || {
        let aside = redis.ask(&["LLEN", "resque:roster:set_aside"]);
        ensure(aside == "1", aside)
    });
}

#[test]
fn what_cannot_be_moved_is_tried_again_at_rest() {
    let redis = Redis::start(&[]);
    let large = "x".repeat(1 << 20);
    redis.ask(&["RPUSH", "resque:delayed:1", "no job", &large]);
    redis.ask(&["ZADD", "resque:delayed_queue_schedule", "1", "1"]);
    redis.ask(&["SET", "resque:roster:set_aside", "no list"]);
    redis.ask(&["HSET", "resque:roster:jobs", "7", "damaged"]);
    redis.ask(&["ZADD", "resque:roster:due", "1", "007"]);
    let roster = connected(&redis, "");
    let scripts = || {
        let stats = redis.ask(&["INFO", "commandstats"]);
        let of_scripts = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")).unwrap_or_default();
        of_scripts.split(['=', ',']).nth(1).and_then(|calls| calls.parse::<u64>().ok()).unwrap_or(0)
    };
    eventually("what is no id is taken away", SOON, || {
        let due = redis.ask(&["ZCARD", "resque:roster:due"]);
        ensure(due == "0", due)
    });
    let before = scripts();
    assert_eq!(take(&roster, 1, None, 3_000), []);
    let asked = scripts() - before;
    assert!(asked < 200, "{asked} scripts in 3 s");
    assert_eq!(redis.ask(&["LLEN", "resque:delayed:1"]), "2");
    let log = roster.log();
    assert!(log.contains("key=\"resque:roster:set_aside\"") && !log.contains("keys=\"resque:delayed:1\""), "{log}");
}

#[test]
fn who_waits_for_a_queue_that_is_paused_asks_for_none_of_it() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    enqueue(&roster, job("C", "{}")).expect("there is room");
    roster.cli(["queue", "pause", "mail"]).text();
    let scripts = || {
        let stats = redis.ask(&["INFO", "commandstats"]);
        let of_zrem = stats.lines().find(|line| line.starts_with("cmdstat_zrem:")).unwrap_or_default();
        of_zrem.split(['=', ',']).nth(1).and_then(|calls| calls.parse::<u64>().ok()).unwrap_or(0)
    };
    let before = scripts();
    assert_eq!(take(&roster, 1, None, 3_000), []);
    let asked = scripts() - before;
    assert!(asked < 10, "{asked} times");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| take(&roster, 1, None, 30_000));
        roster.cli(["queue", "resume", "mail"]).text();
        assert_eq!(waiting.join().expect("no panic").len(), 1);
    });
}

#[test]
fn many_keys_whose_jobs_others_have_performed_keep_redis_from_nothing_else() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let enqueue = || {
        let unique = |key: usize| NewJob { unique_key: Some(format!("k{key}")), ..job("C", "{}") };
        let jobs = (0..1_000).map(unique).collect();
        roster.client().enqueue(EnqueueRequest { jobs }).expect("there is room").jobs
    };
    let first = enqueue();
    let others = "redis.call('LTRIM', KEYS[1], 500, -1) for _ = 1, 38000 do redis.call('RPUSH', KEYS[1], '{}') end";
    redis.ask(&["EVAL", others, "1", "resque:queue:mail"]);
    let again = enqueue();
    let is_right = |at: usize| again[at].is_new == (at < 500) && (again[at].id == first[at].id) == (at >= 500);
    assert_eq!((0..1_000).find(|at| !is_right(*at)), None);
    // A look through all of the queue takes some thousands.
    let stats = redis.ask(&["INFO", "commandstats"]);
    let micros = stats.lines().find_map(|line| line.strip_prefix("cmdstat_lpos:")?.split("usec_per_call=").nth(1));
    let micros: f64 = micros.and_then(|it| it.split(',').next()?.parse().ok()).expect("it has looked for some");
    assert!(micros < 300.0, "each look took {micros} us: {stats}");
    assert_eq!(redis.ask(&["LLEN", "resque:queue:mail"]), "39000");
}

#[test]
fn one_user_may_look_for_several_jobs_at_once() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let fill = "for _ = 1, 19000 do redis.call('RPUSH', KEYS[1], '{}') end";
    redis.ask(&["EVAL", fill, "1", "resque:queue:mail"]);
    let id = enqueue(&roster, job("C", "{}")).expect("there is room");
    let find = |_| roster.client().job(JobQuery { id }).map(|reply| reply.job.id);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|number| scope.spawn(move || find(number))).collect();
        for one in all {
            assert_eq!(one.join().expect("no panic").expect("it is found"), id);
        }
    });
}

#[test]
fn a_step_of_a_search_looks_at_half_a_mebibyte_and_one_search_at_no_more_than_so_many_of_a_queue() {
    let redis = Redis::start(&["--slowlog-log-slower-than", "0", "--slowlog-max-len", "100000"]);
    let roster = connected(&redis, "");
    redis.ask(&["SADD", "resque:queues", "mail"]);
    let large = "for _ = 1, tonumber(ARGV[1]) do
        redis.call('RPUSH', KEYS[1], '{\"class\":\"C\",\"args\":[' .. string.rep('\"\",', 21000) .. '0]}') end";
    let fill = |count: &str| redis.ask(&["EVAL", large, "1", "resque:queue:mail", count]);
    let steps = |id: i64| {
        let text = format!(r#""id":"{id:032x}""#);
        redis.ask(&["SLOWLOG", "GET", "100000"]).lines().filter(|line| *line == text).count()
    };
    fill("100");
    let id = enqueue(&roster, job("C", "{}")).expect("there is room");
    redis.ask(&["SLOWLOG", "RESET"]);
    assert_eq!(found(&roster, id).map(|job| job.id).ok(), Some(id));
    // Nine have 0.54 MiB, and of these two are looked at again: so that none is missed where others are taken meanwhile.
    let count = steps(id);
    assert!((13..20).contains(&count), "{count}");
    // After 32 MiB it is enough.
    fill("700");
    let refused: Overloaded = exception(found(&roster, 7)).expect("it may wait behind others");
    assert!(refused.message.contains("job 7 is done or cancelled, or waits behind others"), "{}", refused.message);
    let count = steps(7);
    assert!((55..80).contains(&count), "{count}");
}

#[test]
fn nobody_looks_for_a_job_that_was_lately_settled_here() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let ids = ["1", "2"].map(|payload| enqueue(&roster, job("C", payload)).expect("there is room"));
    let fill = "for _ = 1, 30000 do redis.call('RPUSH', KEYS[1], '{}') end";
    redis.ask(&["EVAL", fill, "1", "resque:queue:mail"]);
    let taken = take(&roster, 1, None, 0);
    assert_eq!(taken[0].id, ids[0]);
    update(&roster, &taken[0], JobAction::DONE).expect("it has the lease");
    roster.client().cancel_job(JobQuery { id: ids[1] }).expect("nobody performs it");
    let looks = calls(&redis, "lrange");
    for id in ids {
        exception::<NotFound>(found(&roster, id)).expect("it is nowhere");
    }
    assert_eq!(calls(&redis, "lrange"), looks);
    // It may yet stand in another place, but not be told to wait there.
    exception::<NotFound>(roster.client().cancel_job(JobQuery { id: ids[0] })).expect("it is nowhere");
    assert!(calls(&redis, "lrange") > looks);
    let looks = calls(&redis, "lrange");
    // Another sidecar says what it does not know.
    let other = connected(&redis, "");
    let refused: Overloaded = exception(found(&other, ids[0])).expect("it may wait behind others");
    assert!(refused.message.contains("is done or cancelled, or waits behind others"), "{}", refused.message);
    assert!(calls(&redis, "lrange") > looks);
}

#[test]
fn a_job_that_stands_in_several_places_is_found_and_cancelled_once_the_first_is_done() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let id = enqueue(&roster, job("C", "{}")).expect("there is room");
    let text = redis.ask(&["LINDEX", "resque:queue:mail", "0"]);
    (0..2).for_each(|_| _ = redis.ask(&["RPUSH", "resque:queue:mail", &text]));
    let done = take(&roster, 1, None, 0);
    update(&roster, &done[0], JobAction::DONE).expect("it has the lease");
    let again = take(&roster, 1, None, 0);
    assert_eq!((done[0].id, again[0].id), (id, id));
    update(&roster, &again[0], JobAction::RELEASE).expect("it has the lease");
    assert_eq!(found(&roster, id).map(|job| job.state).ok(), Some(JobState::WAITING));
    for _ in 0..2 {
        roster.client().cancel_job(JobQuery { id }).expect("nobody performs it");
    }
    exception::<NotFound>(roster.client().cancel_job(JobQuery { id })).expect("it is nowhere");
    assert_eq!(redis.ask(&["LLEN", "resque:queue:mail"]), "0");
}

#[test]
fn a_job_that_waits_is_not_said_to_be_nowhere_where_many_others_are_taken_while_it_is_looked_for() {
    let redis = Redis::start(&[]);
    let cutter = Cutter::to(redis.port());
    let roster = at(&cutter.url(), "");
    works(&roster);
    let look = |id: i64, is_cancelled: bool| match is_cancelled {
        true => roster.client().cancel_job(JobQuery { id }).map(drop),
        false => found(&roster, id).map(drop),
    };
    let fill = "for n = 1, 40 do
        redis.call('RPUSH', KEYS[1], '{\"class\":\"C\",\"args\":[\"' .. string.rep('x', 60000) .. n .. '\"]}') end";
    let take = "for _ = 1, tonumber(ARGV[1]) do redis.call('LPOP', KEYS[1]) end";
    // Of the nine that the first step looks at, the next one looks at two again.
    for (taken, is_cancelled, is_found) in
        [("2", false, true), ("35", false, false), ("2", true, true), ("35", true, false)]
    {
        redis.ask(&["DEL", "resque:queue:mail"]);
        redis.ask(&["EVAL", fill, "1", "resque:queue:mail"]);
        let id = enqueue(&roster, job("C", "{}")).expect("there is room");
        let text: &'static str = format!(r#""id":"{id:032x}""#).leak();
        let looks = calls(&redis, "lrange");
        cutter.delay(text, Duration::from_millis(700));
        let outcome = std::thread::scope(|scope| {
            let looking = scope.spawn(|| look(id, is_cancelled));
            eventually("the first step is done", SOON, || ensure(calls(&redis, "lrange") > looks, "it is not"));
            redis.ask(&["EVAL", take, "1", "resque:queue:mail", taken]);
            looking.join().expect("no panic")
        });
        cutter.delay(text, Duration::ZERO);
        if is_found {
            outcome.expect("it waits");
            continue;
        }
        let refused: Overloaded = exception(outcome).expect("it may have been passed over");
        assert!(refused.message.contains("was passed over"), "{}", refused.message);
        look(id, is_cancelled).expect("it waits");
    }
}

#[test]
fn what_tidies_up_and_is_refused_ends_no_connection() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    redis.ask(&["ACL", "SETUSER", "default", "-unlink"]);
    redis.ask(&["SADD", "resque:queues", "mail"]);
    redis.ask(&["SET", "resque:roster:dead:mail", "no set"]);
    eventually("it is refused", SOON, || {
        let refused = redis.ask(&["ACL", "LOG"]);
        ensure(refused.contains("unlink"), refused)
    });
    enqueue(&roster, job("C", "{}")).expect("there is room");
    works(&roster);
    assert_eq!(counts(&roster), [1, 0, 0, 0]);
    let log = roster.log();
    assert!(!log.contains("the queues take and hand out no jobs"), "it is kept");
    assert_eq!(log.matches("unique keys and names of queues that nobody uses stay in Redis").count(), 1, "{log}");
}

#[test]
fn a_key_of_the_wrong_type_keeps_no_other_queue_from_being_tidied_up() {
    let redis = Redis::start(&[]);
    redis.ask(&["SADD", "resque:queues", "a", "b"]);
    redis.ask(&["SET", "resque:roster:delayed:a", "no set"]);
    redis.ask(&["HSET", "resque:roster:unique:b", "key", "1 gone"]);
    let _roster = connected(&redis, "");
    eventually("the key is removed", SOON, || {
        let keys = redis.ask(&["KEYS", "resque:roster:unique:*"]);
        ensure(keys.is_empty(), keys)
    });
}

#[test]
fn a_queue_without_a_job_makes_room_for_another_one() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "max_queues = 2\n");
    let into = |queue: &str| enqueue(&roster, NewJob { queue: queue.into(), ..job("C", "{}") });
    for queue in ["mail", "img"] {
        into(queue).expect("there is room");
    }
    let many: Overloaded = exception(into("post")).expect("too many");
    assert!(many.message.contains("queue.max_queues"), "{}", many.message);
    roster.cli(["queue", "pause", "img"]).text();
    redis.ask(&["DEL", "resque:queue:mail", "resque:queue:img"]);
    eventually("there is room", SOON, || into("post").map(drop).map_err(|error| format!("{error:?}")));
    assert_eq!(redis.ask(&["SMEMBERS", "resque:queues"]).lines().count(), 2);
    assert_eq!(redis.ask(&["SISMEMBER", "resque:queues", "img"]), "1", "one that is paused stays");
}

#[test]
fn what_others_write_into_keys_that_many_share_stops_nothing_else() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    for key in ["delayed_queue_schedule", "roster:due", "roster:popped", "roster:results"] {
        redis.ask(&[b"ZADD", format!("resque:{key}").as_bytes(), b"5", b"\xff"]);
    }
    let late =
        r#"{"queue":"mail","state":{"Dead":{"since":18446744073709551615}},"extras":{},"enqueued_at":1,"item":"{}"}"#;
    for (id, record) in [("101", late.as_bytes()), ("102", b"\xff")] {
        redis.ask(&[&b"HSET"[..], b"resque:roster:jobs", id.as_bytes(), record]);
        redis.ask(&["ZADD", "resque:roster:due", "5", id]);
    }
    redis.ask(&["SADD", "resque:queues", "other"]);
    redis.ask(&["SET", "resque:roster:running:other", "no set"]);
    // What is no mark, beside lists of those names, and a mark of a job that is gone.
    let (sha, far) = ("a".repeat(40), "1".repeat(30));
    redis.ask(&["RPUSH", "resque:delayed:", "x"]);
    let marks =
        [":aa:12", "x", "0", "5", "05:a:7", &format!("{far}:{sha}:7"), &format!("1:{sha}:"), &format!("1:{sha}:7")];
    for mark in marks.map(str::as_bytes).into_iter().chain([&b"\xff:aa:7"[..], b"1:\xff:7"]) {
        redis.ask(&[b"ZADD".as_slice(), b"resque:roster:scheduled", b"0", mark]);
    }
    eventually("they are looked at", SOON, || {
        let left = redis.ask(&["ZCOUNT", "resque:roster:due", "-inf", "1000"]);
        let [schedule, results, marks] = ["delayed_queue_schedule", "roster:results", "roster:scheduled"]
            .map(|key| redis.ask(&["ZCARD", &format!("resque:{key}")]));
        let is_done = [&left, &schedule, &results, &marks].into_iter().all(|left| left == "0");
        ensure(is_done, format!("{left} {schedule} {results} {marks}"))
    });
    let wrong = ["delayed_queue_schedule", "roster:due", "roster:scheduled", "roster:results", "roster:popped"];
    for key in wrong {
        redis.ask(&["DEL", &format!("resque:{key}")]);
        redis.ask(&["SET", &format!("resque:{key}"), "no set"]);
    }
    roster.logs("keys=\"roster:results");
    let looked = calls(&redis, "time");
    eventually("some ticks are over", SOON, || {
        let now = calls(&redis, "time");
        ensure(now > looked + 2, format!("{looked}, {now}"))
    });
    let log = roster.log();
    for key in wrong {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(&format!("keys=\"{key}"))).collect();
        assert!(matches!(lines[..], [line] if !line.contains("cannot be used")), "one line a minute: {lines:?}");
        redis.ask(&["DEL", &format!("resque:{key}")]);
    }
    let id = enqueue(&roster, job("C", "{}")).expect("there is room");
    let taken = take(&roster, 1, None, 0);
    assert_eq!(taken.iter().map(|job| job.id).collect::<Vec<_>>(), [id]);
    update(&roster, &taken[0], JobAction::DONE).expect("it has the lease");
    works(&roster);
    assert!(!roster.log().contains("the queues take and hand out no jobs"), "the connection is kept");
}

#[test]
fn a_job_is_found_beside_many_queues_and_behind_one_that_has_its_id_in_its_payload() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let id = enqueue(&roster, job("C", "{}")).expect("there is room");
    let mine = redis.ask(&["LPOP", "resque:queue:mail"]);
    let other = format!(r#"{{"class":"C","args":[{{"id":"{id:032x}"}}],"id":"{:032x}"}}"#, 5);
    redis.ask(&["RPUSH", "resque:queue:mail", &other, &mine]);
    let fill = "for q = 1, 12 do redis.call('SADD', 'resque:queues', 'a' .. q)
        for _ = 1, 12000 do redis.call('RPUSH', 'resque:queue:a' .. q, '{}') end end";
    redis.ask(&["EVAL", fill, "0"]);
    assert_eq!(roster.client().job(JobQuery { id }).expect("it is there").job.id, id);
    let nobody: Overloaded = exception(roster.client().job(JobQuery { id: id ^ 64 })).expect("it may be anywhere");
    assert!(nobody.message.contains("100000"), "{}", nobody.message);
}

#[test]
fn it_is_told_that_others_have_all_queues_stand_still() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    enqueue(&roster, job("C", "{}")).expect("there is room");
    redis.ask(&["SET", "resque:pause-all-workers", "true"]);
    eventually("it is told", SOON, || {
        let told = roster.cli(["queue", "list"]).wrong;
        ensure(told.contains("resque:pause-all-workers"), told)
    });
    assert_eq!(take(&roster, 1, None, 0), []);
    redis.ask(&["DEL", "resque:pause-all-workers"]);
    works(&roster);
    assert_eq!(take(&roster, 1, None, 0).len(), 1);
}

#[test]
fn a_prefix_without_a_colon_has_one_as_with_other_clients() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "prefix = 'app'\n");
    enqueue(&roster, job("C", "{}")).expect("there is room");
    assert_eq!(redis.ask(&["LLEN", "app:queue:mail"]), "1");
}

/// pyres is Resque in Python.
#[test]
fn pyres_performs_what_is_enqueued_and_what_it_enqueues_is_taken() {
    let python3 = |script: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", script]).env("PYTHONPATH", fetched("pyres"));
        command
    };
    let has = python3("import pyres.worker").output().is_ok_and(|it| it.status.success());
    if is_skipped_unless(has, "pyres was not fetched, as `make deps-pyres` does") {
        return;
    }
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let folder = tempfile::tempdir().expect("a folder");
    let class = "import json\nclass Send:\n    queue = 'mail'\n    @staticmethod\n    def perform(args):\n        \
open('performed', 'a').write(json.dumps(args))\n";
    std::fs::write(folder.path().join("peer.py"), class).expect("it is written");
    let python = |script: &str| {
        let script = script.replace("SERVER", &format!("127.0.0.1:{}", redis.port()));
        let output = python3(&script).current_dir(folder.path()).output().expect("python3 starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    enqueue(&roster, job("peer.Send", r#"{"to":"é/"}"#)).expect("there is room");
    python("import pyres.worker\nit = pyres.worker.Worker(['mail'], 'SERVER')\nit.process(it.reserve(1))");
    let performed = std::fs::read_to_string(folder.path().join("performed")).expect("it was performed");
    assert_eq!(performed, r#"{"to": "\u00e9/"}"#);
    assert_eq!(redis.ask(&["GET", "resque:stat:processed"]), "1");
    python("import peer, pyres\npyres.ResQ('SERVER').enqueue(peer.Send, {'to': 'é'})");
    let taken = take(&roster, 1, None, 0);
    assert_eq!((taken[0].name.as_str(), taken[0].payload.as_slice()), ("peer.Send", r#"{"to": "é"}"#.as_bytes()));
    update(&roster, &taken[0], JobAction::DONE).expect("it has the lease");
    assert_eq!(redis.ask(&["GET", "resque:stat:processed"]), "2", "they count alike");
}

/// As php-resque-scheduler removes what it has delayed, and moves what is due: PHP itself writes the texts.
#[test]
fn a_scheduler_of_php_finds_what_is_delayed_to_the_letter_and_what_it_moves_is_performed_once() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let php = |code: &str| {
        let output = Command::new("php").args(["-r", code]).output().expect("php starts");
        String::from_utf8(output.stdout).expect("JSON")
    };
    let args = r#"['to' => "é/\"\\ \n\u{1F600}\u{7f}\u{2028}<&'", 'n' => [1, -2.5, 1e25, true, null, [], '5'], 'o' => (object) []]"#;
    let scheduled = || redis.ask(&["ZRANGE", "resque:delayed_queue_schedule", "0", "-1"]);
    let later = |payload: &str, ms| NewJob { delay_ms: Some(ms), ..job("App\\Send", payload) };
    for flags in ["0", "JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES", "JSON_PRETTY_PRINT"] {
        let payload = php(&format!("echo json_encode({args}, {flags});"));
        let id = enqueue(&roster, later(&payload, 3_600_000)).expect("there is room");
        let item = php(&format!(r"echo json_encode(['class' => 'App\Send', 'args' => [{args}], 'queue' => 'mail']);"));
        let key = format!("resque:delayed:{}", scheduled());
        assert_eq!(redis.ask(&["LREM", &key, "0", &item]), "1", "{item} {}", redis.ask(&["LRANGE", &key, "0", "-1"]));
        roster.client().cancel_job(JobQuery { id }).expect("its record is there");
        assert_eq!(scheduled(), "");
    }
    enqueue(&roster, later("{}", 2_000)).expect("there is room");
    let second = scheduled();
    let item = redis.ask(&["LPOP", &format!("resque:delayed:{second}")]);
    assert_eq!(item, r#"{"class":"App\\Send","args":[{}],"queue":"mail"}"#);
    let moved = r#"{"class":"App\\Send","args":[{}],"id":"d41d8cd98f00b204e9800998ecf8427e","queue_time":1.5}"#;
    redis.ask(&["RPUSH", "resque:queue:mail", moved]);
    redis.ask(&["ZREM", "resque:delayed_queue_schedule", &second]);
    let taken = take(&roster, 9, None, 20_000);
    assert_eq!(taken.iter().map(|job| job.id).collect::<Vec<_>>(), [0x000d_41d8_cd98_f00b]);
    update(&roster, &taken[0], JobAction::DONE).expect("it has the lease");
    eventually("its record is gone when it would be due", SOON, || {
        let left = redis.keys_of_roster();
        ensure(left.is_empty(), left)
    });
    assert_eq!(take(&roster, 9, None, 0), []);
}

#[test]
fn who_has_a_key_is_found_behind_large_jobs_of_others() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let fill =
        "for n = 1, tonumber(ARGV[1]) do redis.call('RPUSH', 'resque:queue:mail', string.rep('x', ARGV[2]) .. n) end";
    let unique = |key: &str| NewJob { unique_key: Some(key.into()), ..job("C", "{}") };
    let enqueue = || {
        let jobs = vec![unique("a"), unique("b")];
        let enqueued = roster.client().enqueue(EnqueueRequest { jobs }).expect("there is room").jobs;
        enqueued.iter().map(|it| it.id).collect::<Vec<_>>()
    };
    redis.ask(&["EVAL", fill, "0", "60000", "1"]);
    let first = enqueue();
    redis.ask(&["EVAL", fill, "0", "200", "100000"]);
    assert_eq!(enqueue(), first);
}

#[test]
fn who_has_a_key_is_looked_for_in_steps_of_half_a_mebibyte() {
    let redis = Redis::start(&["--slowlog-log-slower-than", "0", "--slowlog-max-len", "100000"]);
    let roster = connected(&redis, "");
    let unique = || enqueue(&roster, NewJob { unique_key: Some("of a job in front".into()), ..job("C", "{}") });
    let id = unique().expect("there is room");
    let fill = "for n = 1, 2000 do redis.call('RPUSH', KEYS[1], string.rep('x', 10000) .. n) end
        for n = 1, 4000 do for _, push in ipairs({'LPUSH', 'RPUSH'}) do redis.call(push, KEYS[1], n) end end";
    redis.ask(&["EVAL", fill, "1", "resque:queue:mail"]);
    redis.ask(&["SLOWLOG", "RESET"]);
    assert_eq!(unique().expect("an answer"), id);
    // 20 MB: at least half of each step is new. Two more ask for the job to be enqueued.
    let log = redis.ask(&["SLOWLOG", "GET", "100000"]);
    let steps = log.split("EVALSHA\n").filter(|it| it.lines().any(|line| line == "of a job in front")).count();
    assert!((40..120).contains(&steps), "{steps}");
}

#[test]
fn who_has_a_key_among_many_is_looked_for_in_steps_and_for_one_request_of_a_user_at_a_time() {
    let redis = Redis::start(&[]);
    let cutter = Cutter::to(redis.port());
    let roster = at(&cutter.url(), "");
    works(&roster);
    let unique = || enqueue(&roster, NewJob { unique_key: Some("of a job in the middle".into()), ..job("C", "{}") });
    let id = unique().expect("there is room");
    let fill =
        "for _ = 1, 8000 do for _, push in ipairs({'LPUSH', 'RPUSH'}) do redis.call(push, KEYS[1], '{}') end end";
    redis.ask(&["EVAL", fill, "1", "resque:queue:mail"]);
    assert_eq!(unique().expect("an answer"), id);
    assert!(calls(&redis, "lrange") > 0, "Redis has looked at all of them at once");
    // The first search is yet under way when the others come.
    cutter.delay("of a job in the middle", Duration::from_millis(10));
    let (report, outcomes) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..120 {
            let report = report.clone();
            scope.spawn(move || report.send(unique()));
        }
        drop(report);
        let refused = outcomes.iter().find_map(|outcome| exception::<Overloaded>(outcome).ok());
        cutter.delay("of a job in the middle", Duration::ZERO);
        let refused = refused.expect("only so many of a user wait").message;
        assert!(refused.contains("are looked for in Redis already"), "{refused}");
        let found: Vec<_> = outcomes.iter().flatten().collect();
        assert!(found.len() > 40 && found.iter().all(|it| *it == id), "{found:?}");
    });
}

#[test]
fn a_request_whose_keys_are_those_of_large_jobs_is_refused_before_these_are_read() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "");
    let enqueue = |keys: std::ops::Range<usize>, payload: &str| {
        let unique = |key| NewJob { unique_key: Some(format!("k{key}")), ..job("C", payload) };
        let reply = roster.client().enqueue(EnqueueRequest { jobs: keys.map(unique).collect() })?;
        Ok(reply.jobs.iter().map(|it| it.id).collect::<Vec<_>>())
    };
    // Escaped it is three times as large.
    let large = format!("\"{}\"", "\u{fc}".repeat(20_000));
    let ids: Vec<_> = (0..4).flat_map(|nth| enqueue(10 * nth..10 * nth + 10, &large).expect("there is room")).collect();
    let refused: Overloaded = exception(enqueue(0..40, "{}")).expect("they are too large");
    assert!(refused.message.contains("enqueue fewer at once"), "{}", refused.message);
    assert_eq!(enqueue(0..20, "{}").expect("there is room"), ids[..20]);
}

#[test]
fn one_user_makes_as_many_queues_as_it_leaves_free() {
    if is_skipped_without_root() {
        return;
    }
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "max_queues = 16\n");
    for path in [roster.folder(), roster.socket()] {
        fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("a mode");
    }
    let program = for_everybody(roster.folder());
    let into = |uid: u32, queue: &str| {
        let mut command = Command::new(&program);
        command.args(["enqueue", queue, "C"]).env("ROSTER_ADDRESS", format!("unix://{}", roster.socket().display()));
        let output = command.current_dir("/").uid(uid).gid(uid).output().expect("it starts");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(told) }
    };
    // One of 16 is kept for administrators.
    let made = (0..16).map(|nth| into(33_033, &format!("q{nth}"))).take_while(Result::is_ok).count();
    assert_eq!(made, 7);
    let refused = into(33_033, "q7").expect_err("it has its share");
    assert!(refused.contains("this user has made 7 of the queues in Redis"), "{refused}");
    into(33_033, "q0").expect("it is there");
    into(33_034, "other").expect("another user has a share too");
    into(0, "q7").expect("an administrator has what is free");
    assert_eq!(redis.ask(&["HGET", "resque:roster:queue_creators", "q0"]), "33033");
    (0..7).for_each(|nth| _ = redis.ask(&["DEL", &format!("resque:queue:q{nth}")]));
    eventually("those without a job make room", SOON, || into(33_033, "q8"));
}

#[test]
fn metrics_look_at_little_of_redis_and_tell_what_was_last_known_while_it_is_away() {
    let mut redis = Redis::start(&[]);
    let roster = connected(&redis, "[admin]\nlisten = \"127.0.0.1:0\"\n");
    let fill = "for n = 1, 200 do redis.call('SADD', 'resque:queues', 'q' .. n)
        redis.call('RPUSH', 'resque:queue:q' .. n, string.rep('x', 200000)) end";
    redis.ask(&["EVAL", fill, "0"]);
    let port = admin::port(&roster);
    let sent = || {
        let stats = redis.ask(&["INFO", "stats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:")).expect("a number");
        line.trim().parse::<u64>().expect("a number")
    };
    let before = sent();
    let known = admin::samples(port);
    assert_eq!(known.get(r#"roster_queue_jobs{queue="q200",state="WAITING"}"#), Some(&1.0));
    let sent = sent() - before;
    assert!(sent < 4 << 20, "Redis has sent {sent} bytes");
    let waiting =
        |known: &std::collections::HashMap<String, f64>| known.get(r#"roster_jobs{state="WAITING"}"#).copied();
    eventually("all are counted", SOON, || {
        let waiting = waiting(&admin::samples(port));
        ensure(waiting == Some(200.0), format!("{waiting:?}"))
    });
    redis.kill();
    let known = eventually("they cannot be asked", SOON, || {
        let known = admin::samples(port);
        ensure(known["roster_queues_up"] == 0.0, "they can")?;
        Ok::<_, String>(known)
    });
    assert_eq!(waiting(&known), Some(200.0), "as they were");
    assert!(!known.keys().any(|sample| sample.starts_with("roster_queue_jobs")), "{known:?}");
}

#[test]
fn a_redis_that_wants_a_certificate_is_shown_one() {
    let (papers, port) = (crate::tls::Papers::new(), free_port());
    let path = |name: &str| papers.path(name).display().to_string();
    let (ca, certificate, key) = (path("ca.pem"), path("register.pem"), path("key.pem"));
    let tls_port = port.to_string();
    let files = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
    let options = [&["--tls-port", &tls_port, "--tls-auth-clients", "yes"], &files[..]].concat();
    let _redis = Redis::start(&options);
    let with = |settings: &str| at(&format!("rediss://127.0.0.1:{port}"), &format!("ca = '{ca}'\n{settings}"));
    let says = |roster: &Roster, words: &str| {
        eventually("it says why", SOON, || {
            let refused: Overloaded =
                exception(enqueue(roster, job("C", "{}"))).map_err(|error| format!("{error:?}"))?;
            ensure(refused.message.contains(words), refused.message)
        });
    };
    says(&with(""), "set `queue.certificate` and `queue.key`");
    let (other, other_key) = (path("other-register.pem"), path("other-key.pem"));
    says(&with(&format!("certificate = '{other}'\nkey = '{other_key}'\n")), "it may not take the certificate");
    let roster = with(&format!("certificate = '{certificate}'\nkey = '{key}'\n"));
    works(&roster);
    enqueue(&roster, job("C", "{}")).expect("there is room");
}

#[test]
fn a_redis_without_tls_that_is_asked_by_tls_says_so() {
    let redis = Redis::start(&[]);
    let roster = at(&redis.url().replacen("redis://", "rediss://", 1), "");
    eventually("it says why", SOON, || {
        let refused: Overloaded = exception(enqueue(&roster, job("C", "{}"))).map_err(|error| format!("{error:?}"))?;
        ensure(refused.message.contains("write `redis://`"), refused.message)
    });
}

/// A sidecar with one process that performs jobs as this says.
fn performing(redis: &Redis, php: &str) -> Roster {
    let worker = "[[worker]]\nname = 'jobs'\ncommand = ['php', '{folder}/jobs.php']\nready = 'message'\nstop_timeout = '100ms'\n";
    let mut roster = Roster::prepare(&format!("[queue]\nbackend = '{}'\n{worker}", redis.url()));
    let autoload = concat!(env!("CARGO_MANIFEST_DIR"), "/php/autoload.php");
    let code = format!(
        "<?php require '{autoload}'; $worker = Roster\\Worker::fromEnvironment(); {php} $worker->ready(); $worker->run();"
    );
    roster.write("jobs.php", &code);
    roster.run();
    works(&roster);
    roster
}

#[test]
fn a_report_that_redis_refuses_keeps_no_other_queue_waiting() {
    let redis = Redis::start(&[]);
    let waits = "function () { while (!file_exists(__DIR__ . '/go')) usleep(10_000); }";
    let php = format!("$worker->perform('mail', {waits}); $worker->perform('img', fn () => null);");
    let roster = performing(&redis, &php);
    enqueue(&roster, job("C", "{}")).expect("there is room");
    eventually("it runs", SOON, || {
        let counts = counts(&roster);
        ensure(counts == [0, 0, 1, 0], format!("{counts:?}"))
    });
    redis.ask(&["SET", "resque:roster:running:mail", "no set"]);
    roster.write("go", "");
    let quick = enqueue(&roster, NewJob { queue: "img".into(), ..job("C", "{}") }).expect("there is room");
    eventually("the other one is done", SOON, || {
        exception::<NotFound>(roster.client().job(JobQuery { id: quick })).map(drop)
    });
    assert_eq!(redis.ask(&["HLEN", "resque:roster:jobs"]), "1", "the first one is not reported yet");
}

#[test]
fn what_a_callable_in_php_returns_is_kept_in_redis() {
    let redis = Redis::start(&[]);
    let roster = performing(&redis, "$worker->perform('mail', fn () => ['sent' => 3]);");
    let id = enqueue(&roster, NewJob { keep_result_ms: Some(600_000), ..job("C", "{}") }).expect("there is room");
    eventually("it is done", SOON, || {
        let job = found(&roster, id).map_err(|error| format!("{error:?}"))?;
        ensure(job.state == JobState::DONE, format!("{job:?}"))
    });
    let job = roster.cli(["queue", "job", &id.to_string(), "-o", "json"]).json();
    assert!(job["result"] == r#"{"sent":3}"#, "{job}");
}

#[test]
fn in_redis_a_process_is_handed_as_many_jobs_of_a_queue_as_it_says() {
    let redis = Redis::start(&[]);
    let roster =
        performing(&redis, "$worker->perform('mail', function () { while (true) usleep(20_000); }, concurrency: 3);");
    let jobs = (0..5).map(|_| job("C", "{}")).collect();
    roster.client().enqueue(EnqueueRequest { jobs }).expect("there is room");
    eventually("it has three", SOON, || {
        let counts = counts(&roster);
        ensure(counts == [2, 0, 3, 0], format!("{counts:?}"))
    });
}
