//! Jobs that recur, of sidecars that share a Redis.

use std::time::Duration;

use crate::harness::{Cutter, Redis, Roster, SOON, ensure, eventually};
use crate::idl::{EnqueueRequest, NewJob, QueuesQuery, RecurringJob, RecurringJobsQuery, TRosterSyncClient};

/// None of its times comes by itself while a test runs.
const DIGEST: &str = "[[queue.recurring]]\nname = 'digest'\nqueue = 'mail'\njob = 'Digest'\npayload = { n = 1 }\n\
                      schedule = '@yearly'\nmissed = 'once'\n";
const FIELD: &str = r#"["digest","@yearly","UTC"]"#;

const HOUR: i64 = 3_600_000;

fn at(line: &Cutter, settings: &str) -> Roster {
    Roster::start(&format!("[queue]\nbackend = '{}'\n{settings}", line.url()))
}

fn job(queue: &str) -> NewJob {
    NewJob::new(queue.to_owned(), "C".to_owned(), None, None, None, None, None, None, None, None, None)
}

/// The one that is configured in this place.
fn recurs(roster: &Roster, nth: usize) -> Result<RecurringJob, String> {
    let asked = roster.client().recurring_jobs(RecurringJobsQuery {});
    let mut jobs = asked.map_err(|error| format!("{error:?}"))?.jobs;
    ensure(nth < jobs.len(), "it is not told")?;
    Ok(jobs.remove(nth))
}

/// When it is due next.
fn due(roster: &Roster) -> i64 {
    eventually("it is known when it is due", SOON, || recurs(roster, 0)?.next_at.ok_or_else(|| "never".to_owned()))
}

/// Waits until a sidecar knows that the job of this time is enqueued.
fn has_come(roster: &Roster, time: i64) {
    eventually("it has come", SOON * 2, || {
        let it = recurs(roster, 0)?;
        ensure(it.last_at == Some(time) && it.trouble.is_none(), format!("{it:?}"))
    });
}

/// How many jobs of a queue wait.
fn waiting(redis: &Redis, queue: &str) -> String {
    redis.ask(&["LLEN", &format!("resque:queue:{queue}")])
}

#[test]
fn what_recurs_comes_once_for_each_time_of_all_sidecars_whoever_is_killed() {
    let redis = Redis::start(&[]);
    let line = Cutter::to(redis.port());
    let mut rosters = [(); 3].map(|()| at(&line, DIGEST));
    let (mut last, mut next, mut times) = (0, due(&rosters[0]), Vec::new());
    assert!(rosters.iter().all(|roster| due(roster) == next), "they agree");
    assert_eq!(redis.ask(&["HKEYS", "resque:roster:recurring"]), FIELD);
    // Each reads what is written before another one has replaced it.
    line.delay("roster:recurring", Duration::from_millis(1_500));
    for count in 1..=3 {
        rosters[0].kill();
        line.set_clock(next);
        rosters[1..].iter().for_each(|roster| has_come(roster, next));
        rosters[0].run();
        has_come(&rosters[0], next);
        assert_eq!(waiting(&redis, "mail"), count.to_string());
        times.push(next);
        (last, next) = (next, due(&rosters[0]));
    }
    let listed = rosters[0].cli(["queue", "recurring", "-o", "json"]).json()["recurring"][0].clone();
    assert_eq!((&listed["lastAt"], &listed["nextAt"]), (&last.into(), &next.into()));
    let jobs = redis.ask(&["LRANGE", "resque:queue:mail", "0", "-1"]);
    assert!(jobs.lines().all(|job| job.starts_with(r#"{"class":"Digest","args":[{"n":1}],"#)), "{jobs}");
    let peeked = rosters[0].cli(["queue", "peek", "mail", "-o", "json"]).json();
    let due_at: Vec<_> = (0..times.len()).filter_map(|nth| peeked["jobs"][nth]["dueAt"].as_i64()).collect();
    assert_eq!(due_at, times, "each knows its time");
    line.set_clock(last - 20 * HOUR);
    rosters[0].kill();
    rosters[0].run();
    assert_eq!((due(&rosters[0]), waiting(&redis, "mail").as_str()), (next, "3"), "no time comes again");
}

#[test]
fn a_connection_that_ends_at_any_command_leaves_no_time_out_and_has_none_come_twice() {
    let redis = Redis::start(&[]);
    let line = Cutter::to(redis.port());
    let roster = at(&line, DIGEST);
    let mut next = due(&roster);
    for count in 0..16 {
        line.set_clock(next);
        line.cut_after(count);
        has_come(&roster, next);
        assert_eq!(waiting(&redis, "mail"), (count + 1).to_string(), "after {count}");
        // Where the job comes with fewer commands, what is asked after it is cut.
        eventually("the connection is cut", SOON, || {
            recurs(&roster, 0).map(drop)?;
            ensure(line.is_cut(), "it is not")
        });
        next = due(&roster);
    }
}

#[test]
fn a_time_at_which_redis_was_away_is_missed_for_all_and_is_in_no_buffer() {
    let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let line = Cutter::to(redis.port());
    let skipped = DIGEST.replace("digest", "skipped").replace("mail", "other").replace("once", "skip");
    let settings = ["buffer = true\npath = '{folder}/queue'\n", DIGEST, skipped.as_str()].concat();
    let rosters = [(); 2].map(|()| at(&line, &settings));
    let next = rosters.each_ref().map(due)[0];
    redis.kill();
    line.set_clock(next + HOUR);
    redis.run();
    for roster in &rosters {
        has_come(roster, next);
        eventually("the other one is passed over", SOON, || {
            let it = recurs(roster, 1)?;
            ensure(it.last_at.is_none() && it.next_at > Some(next), format!("{it:?}"))
        });
        let queues = roster.client().queues(QueuesQuery::default()).expect("Redis is there").queues;
        assert!(queues.iter().all(|queue| queue.buffered.is_none()), "{queues:?}");
    }
    assert_eq!([waiting(&redis, "mail"), waiting(&redis, "other")], ["1", "0"]);
    assert!(rosters.iter().any(|roster| roster.log().contains("a recurring job was missed")), "it is logged");
}

#[test]
fn what_is_made_up_for_all_comes_and_keeps_no_other_job_waiting() {
    let redis = Redis::start(&[]);
    let line = Cutter::to(redis.port());
    let roster = at(&line, &DIGEST.replace("once", "all"));
    let next = due(&roster);
    let delayed = NewJob { delay_ms: Some(HOUR), ..job("other") };
    roster.client().enqueue(EnqueueRequest { jobs: vec![delayed] }).expect("there is room");
    line.delay("digest", Duration::from_millis(200));
    line.set_clock(next + 20 * 366 * 24 * HOUR);
    eventually("the other job becomes due", SOON, || ensure(waiting(&redis, "other") == "1", "it is delayed"));
    let come: usize = waiting(&redis, "mail").parse().expect("a number");
    assert!(come < 21, "all were made up for before");
    eventually("each comes", SOON, || {
        let come = waiting(&redis, "mail");
        ensure(come == "21", format!("{come} have come"))
    });
    eventually("the next one is due", SOON, || {
        let it = recurs(&roster, 0)?;
        ensure(it.next_at > it.last_at && it.trouble.is_none(), format!("{it:?}"))
    });
    assert_eq!(waiting(&redis, "mail"), "21", "none comes again");
}

#[test]
fn a_queue_in_redis_that_is_full_is_told_and_has_the_job_once_when_there_is_room() {
    let redis = Redis::start(&[]);
    let line = Cutter::to(redis.port());
    let rosters = [(); 2].map(|()| at(&line, &format!("max_jobs = 1\n{DIGEST}")));
    let next = rosters.each_ref().map(due)[0];
    rosters[0].client().enqueue(EnqueueRequest { jobs: vec![job("mail")] }).expect("there is room");
    line.set_clock(next);
    for roster in &rosters {
        eventually("it is told", SOON, || {
            let it = recurs(roster, 0)?;
            let is_told = it.trouble.as_ref().is_some_and(|why| why.contains("`queue.max_jobs` is 1"));
            ensure(is_told && it.next_at == Some(next), format!("{it:?}"))
        });
        roster.logs("a recurring job is due and not enqueued yet");
    }
    assert_eq!(waiting(&redis, "mail"), "1");
    redis.ask(&["LPOP", "resque:queue:mail"]);
    rosters.iter().for_each(|roster| has_come(roster, next));
    let jobs = redis.ask(&["LRANGE", "resque:queue:mail", "0", "-1"]);
    assert!(jobs.lines().count() == 1 && jobs.contains(r#""class":"Digest""#), "{jobs}");
}

#[test]
fn what_is_wrong_with_what_is_settled_in_redis_is_told_and_stops_nothing_else() {
    let redis = Redis::start(&[]);
    redis.ask(&["SET", "resque:roster:recurring", "no hash"]);
    let line = Cutter::to(redis.port());
    let roster = at(&line, &[DIGEST, &DIGEST.replace("'digest'", "'second'")].concat());
    for nth in 0..2 {
        eventually("it is told", SOON, || {
            let trouble = recurs(&roster, nth)?.trouble.unwrap_or_default();
            ensure(
                trouble.contains(r#""resque:roster:recurring" of Redis"#) && trouble.ends_with("is no hash"),
                trouble,
            )
        });
    }
    roster.logs("it is not known which recurring jobs are due");
    let log = roster.log();
    assert_eq!(log.matches("recurring jobs are due").count(), 1, "one line for all: {log}");
    assert!(!log.contains("is due and not enqueued yet"), "nobody knows that: {log}");
    let delayed = NewJob { delay_ms: Some(1), ..job("other") };
    roster.client().enqueue(EnqueueRequest { jobs: vec![delayed] }).expect("there is room");
    eventually("other jobs become due", SOON, || ensure(waiting(&redis, "other") == "1", "it is delayed"));
    redis.ask(&["DEL", "resque:roster:recurring"]);
    redis.ask(&["HSET", "resque:roster:recurring", FIELD, "{"]);
    let next = due(&roster);
    let text = redis.ask(&["HGET", "resque:roster:recurring", FIELD]);
    assert!(text.starts_with(r#"{"until":"#), "it begins anew: {text}");
    line.set_clock(next);
    has_come(&roster, next);
}

#[test]
fn hosts_that_have_different_schedules_for_a_name_keep_to_their_own() {
    let redis = Redis::start(&[]);
    let line = Cutter::to(redis.port());
    let other = DIGEST.replace("@yearly", "0 0 1 7 *").replace("mail", "other");
    let mut rosters = [at(&line, DIGEST), at(&line, &other)];
    let next = rosters.each_ref().map(due);
    let mut order = [0, 1];
    order.sort_by_key(|nth: &usize| next[*nth]);
    for nth in order {
        line.set_clock(next[nth]);
        has_come(&rosters[nth], next[nth]);
    }
    for (roster, next) in rosters.iter_mut().zip(next) {
        roster.kill();
        roster.run();
        has_come(roster, next);
    }
    assert_eq!([waiting(&redis, "mail"), waiting(&redis, "other")], ["1", "1"]);
    assert_eq!(redis.ask(&["HLEN", "resque:roster:recurring"]), "2");
}

#[test]
fn a_folder_that_moves_to_redis_goes_on_there_from_where_it_was() {
    let redis = Redis::start(&[]);
    let line = Cutter::to(redis.port());
    let mut roster = Roster::start(&format!("[queue]\npath = '{{folder}}/queue'\n{DIGEST}"));
    let next = due(&roster);
    roster.kill();
    roster.configure("[queue]\n", &format!("[queue]\nbackend = '{}'\nbuffer = true\n", line.url()));
    line.set_clock(next + HOUR);
    redis.ask(&["SET", "resque:roster:recurring", "no hash"]);
    roster.run();
    eventually("it is told", SOON, || {
        let trouble = recurs(&roster, 0)?.trouble.unwrap_or_default();
        ensure(trouble.ends_with("is no hash"), trouble)
    });
    let delayed = NewJob { delay_ms: Some(1), ..job("other") };
    roster.client().enqueue(EnqueueRequest { jobs: vec![delayed] }).expect("there is room");
    eventually("other jobs become due", SOON, || ensure(waiting(&redis, "other") == "1", "it is delayed"));
    redis.ask(&["ACL", "SETUSER", "default", "-hset"]);
    redis.ask(&["DEL", "resque:roster:recurring"]);
    eventually("it is told", SOON, || {
        let trouble = recurs(&roster, 0)?.trouble.unwrap_or_default();
        let is_told = trouble.contains("is not in Redis yet") && trouble.contains("its rules refuse that");
        ensure(is_told, trouble)
    });
    let log = roster.log();
    let opened = log.lines().filter(|line| line.contains("the queues are open") && line.contains("server"));
    assert_eq!(opened.count(), 1, "the connection goes on: {log}");
    redis.ask(&["ACL", "SETUSER", "default", "+hset"]);
    has_come(&roster, next);
    assert_eq!(waiting(&redis, "mail"), "1");
    roster.stop();
    redis.ask(&["DEL", "resque:roster:recurring"]);
    line.set_clock(next + 400 * 24 * HOUR);
    roster.run();
    assert!(due(&roster) > next + 400 * 24 * HOUR, "the folder has forgotten it");
    assert_eq!(waiting(&redis, "mail"), "1");
}
