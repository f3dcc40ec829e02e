//! The buffer of queues in Redis: what is enqueued while that is away.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Cutter, Dialect, Redis, Roster, SOON, ensure, eventually, exception};
use crate::idl::{
    EnqueueReply, EnqueueRequest, Job, JobAction, JobQuery, JobState, JobUpdate, NewJob, NotFound, Overloaded,
    QueuesQuery, TRosterSyncClient, TakeJobsRequest,
};
use crate::redis::calls;

fn at(url: &str) -> Roster {
    Roster::start(&format!("[queue]\nbackend = '{url}'\nbuffer = true\npath = '{{folder}}/queue'\n"))
}

fn job(queue: &str, name: &str) -> NewJob {
    NewJob::new(queue.to_owned(), name.to_owned(), None, None, None, None, None, None, None, None, None)
}

fn enqueue(roster: &Roster, job: NewJob) -> EnqueueReply {
    roster.client().enqueue(EnqueueRequest { jobs: vec![job] }).expect("it is enqueued, whether Redis is there or not")
}

/// How many of a queue are in the buffer.
fn buffered(roster: &Roster, queue: &str) -> Result<i64, String> {
    let queues = roster.client().queues(QueuesQuery::default()).map_err(|error| format!("{error:?}"))?.queues;
    Ok(queues.iter().find(|it| it.name == queue).and_then(|it| it.buffered).unwrap_or(0))
}

fn connected(roster: &Roster) {
    eventually("Redis is there", SOON, || {
        let reply = roster.client().queues(QueuesQuery::default()).map_err(|error| error.to_string())?;
        reply.trouble.map_or(Ok(()), Err)
    });
}

/// Takes jobs of a queue until there are so many, and has done with them: their ids.
fn performed(roster: &Roster, queue: &str, count: usize) -> Vec<i64> {
    let mut ids = Vec::new();
    eventually("they are there", SOON * 2, || {
        let request = TakeJobsRequest::new(vec![queue.to_owned()], 100, None, 0, None);
        for job in roster.client().take_jobs(request).map_err(|error| error.to_string())?.jobs {
            ids.push(job.id);
            let done = JobUpdate::new(job.id, job.attempt, JobAction::DONE, None, None, None, None, None);
            roster.client().update_job(done).map_err(|error| error.to_string())?;
        }
        ensure(ids.len() >= count, format!("{ids:?}"))
    });
    ids
}

#[test]
fn what_is_enqueued_while_redis_is_away_is_delivered_in_its_order_also_after_a_restart() {
    let mut redis = Redis::start(&[]);
    redis.kill();
    let mut roster = at(&redis.url());
    let delayed = NewJob { delay_ms: Some(2_000), ..job("mail", "Late") };
    let jobs = [job("mail", "A"), delayed, job("mail", "B"), job("mail", "C")];
    let replies: Vec<EnqueueReply> = jobs.into_iter().map(|job| enqueue(&roster, job)).collect();
    assert!(replies.iter().all(|reply| reply.is_buffered == Some(true)), "{replies:?}");
    let ids: Vec<i64> = replies.iter().map(|reply| reply.jobs[0].id).collect();
    roster.kill();
    roster.run();
    eventually("it is told how many there are, and nothing of the others", SOON, || {
        let listed = roster.cli(["queue", "list"]);
        let told = listed.wrong;
        let is_told =
            told.contains("\n4 jobs of mail are in the buffer, the first for ") && told.contains(&redis.url());
        ensure(is_told && listed.code != Some(0), told)
    });
    redis.run();
    assert_eq!(performed(&roster, "mail", 4), [ids[0], ids[2], ids[3], ids[1]]);
    connected(&roster);
    assert_eq!((buffered(&roster, "mail"), enqueue(&roster, job("mail", "D")).is_buffered), (Ok(0), None));
    performed(&roster, "mail", 1);
    eventually("nothing is left of them", SOON, || {
        let left = redis.keys_of_roster();
        ensure(left.is_empty(), left)
    });
}

#[test]
fn the_result_of_a_job_that_was_in_the_buffer_is_kept() {
    let mut redis = Redis::start(&[]);
    redis.kill();
    let mut roster = at(&redis.url());
    let kept = enqueue(&roster, NewJob { keep_result_ms: Some(600_000), ..job("mail", "C") });
    assert_eq!(kept.is_buffered, Some(true));
    roster.kill();
    roster.run();
    redis.run();
    let id = kept.jobs[0].id;
    assert_eq!(performed(&roster, "mail", 1), [id]);
    eventually("it is kept, and not in the buffer", SOON, || {
        let job = roster.client().job(JobQuery { id }).map_err(|error| error.to_string())?.job;
        ensure((job.state, job.is_buffered) == (JobState::DONE, None), format!("{job:?}"))
    });
}

#[test]
fn what_redis_may_have_when_the_connection_ends_is_enqueued_once_and_in_its_order() {
    let redis = Redis::start(&[]);
    let cutter = Cutter::to(redis.port());
    let roster = at(&cutter.url());
    connected(&roster);
    let (mut ids, mut kept) = (Vec::new(), 0);
    for count in 0..24 {
        cutter.cut_after(count);
        for _ in 0..4 {
            let reply = enqueue(&roster, job("mail", "C"));
            kept += usize::from(reply.is_buffered.is_some());
            ids.push(reply.jobs[0].id);
        }
        eventually("they are delivered", SOON, || {
            let left = buffered(&roster, "mail")?;
            ensure(left == 0, left.to_string())
        });
        connected(&roster);
    }
    cutter.has_cut();
    assert!(kept > 10, "{kept} were kept");
    assert_eq!(performed(&roster, "mail", ids.len()), ids);
}

#[test]
fn while_redis_hangs_jobs_are_in_the_buffer_before_a_client_gives_up_and_are_enqueued_once() {
    let redis = Redis::start(&[]);
    let roster = at(&redis.url());
    connected(&roster);
    redis.process().freeze();
    let asked = Instant::now();
    let kept = enqueue(&roster, job("mail", "C"));
    assert_eq!(kept.is_buffered, Some(true));
    assert!(asked.elapsed() < Duration::from_millis(4_500), "of 6 s, {:?}", asked.elapsed());
    redis.process().thaw();
    let mut ids = vec![kept.jobs[0].id];
    // The queue is known as one of the buffer until a look finds nothing there.
    eventually("it is enqueued in Redis again", SOON, || {
        let reply = enqueue(&roster, job("mail", "C"));
        ids.push(reply.jobs[0].id);
        ensure(reply.is_buffered.is_none(), "it is in the buffer")
    });
    assert_eq!(performed(&roster, "mail", ids.len()), ids);
}

#[test]
fn what_cannot_be_delivered_keeps_no_other_queue_waiting() {
    let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let odd: Vec<String> = (0..6).map(|number| format!("odd{number}")).collect();
    odd.iter().for_each(|queue| _ = redis.ask(&["SET", &format!("resque:queue:{queue}"), "no list"]));
    redis.kill();
    let roster = at(&redis.url());
    let first: Vec<i64> = odd.iter().map(|queue| enqueue(&roster, job(queue, "C")).jobs[0].id).collect();
    let id = enqueue(&roster, job("mail", "C")).jobs[0].id;
    redis.run();
    assert_eq!(performed(&roster, "mail", 1), [id]);
    for (queue, first) in odd.iter().zip(first) {
        let second = enqueue(&roster, job(queue, "C"));
        assert_eq!((second.is_buffered, buffered(&roster, queue)), (Some(true), Ok(2)), "it comes after the first one");
        redis.ask(&["DEL", &format!("resque:queue:{queue}")]);
        assert_eq!(performed(&roster, queue, 2), [first, second.jobs[0].id]);
    }
}

/// A sidecar with its queues in a folder, and how its configuration is changed so that they are in Redis.
fn in_a_folder(url: &str) -> (Roster, [String; 2]) {
    let settings = ["[queue]\n".to_owned(), format!("[queue]\nbackend = '{url}'\nbuffer = true\n")];
    (Roster::start(&format!("{}path = '{{folder}}/queue'\n", settings[0])), settings)
}

fn take_one(roster: &Roster, queue: &str, lease_ms: i64) -> Result<Job, String> {
    let request = TakeJobsRequest::new(vec![queue.to_owned()], 1, lease_ms, 0, None);
    let taken = roster.client().take_jobs(request).map_err(|error| error.to_string())?.jobs.pop();
    taken.ok_or_else(|| "there is none".to_owned())
}

fn update(roster: &Roster, job: &Job, action: JobAction) {
    let error = (action == JobAction::BURY).then(|| "no route".to_owned());
    let update = JobUpdate::new(job.id, job.attempt, action, None, error, None, None, None);
    roster.client().update_job(update).expect("it has the lease");
}

#[test]
fn a_folder_of_jobs_moves_to_redis_with_their_ids_order_times_attempts_and_keys() {
    let redis = Redis::start(&[]);
    let (mut roster, [plain, with_buffer]) = in_a_folder(&redis.url());
    let add = |roster: &Roster, job: NewJob| enqueue(roster, job).jobs[0].id;
    let dead = add(&roster, job("mail", "Dead"));
    update(&roster, &take_one(&roster, "mail", 60_000).expect("it waits"), JobAction::BURY);
    let unique = NewJob { unique_key: Some("user 7".into()), ..job("mail", "Unique") };
    let kept = NewJob { keep_result_ms: Some(600_000), ..job("mail", "A") };
    let first = [unique.clone(), kept, NewJob { priority: Some(0), ..job("mail", "Urgent") }];
    let [held, a, urgent] = first.map(|job| add(&roster, job));
    let binary = add(&roster, NewJob { payload: Some(vec![0xff]), ..job("odd", "Binary") });
    let others = add(&roster, job("other", "C"));
    assert_eq!(roster.cli(["queue", "pause", "other"]).code, Some(0));
    let running = add(&roster, job("slow", "Slow"));
    let taken = take_one(&roster, "slow", 4_000).expect("it waits");
    assert_eq!((taken.id, taken.attempt), (running, 1));
    let (began, delay) = (Instant::now(), Duration::from_secs(20));
    let late = add(&roster, NewJob { delay_ms: Some(delay.as_millis() as i64), ..job("late", "Late") });

    let url = redis.url();
    let moves = roster.cli(["queue", "move", "mail", "--to", url.as_str()]);
    assert_eq!(moves.code, Some(2));
    assert!(moves.wrong.contains("`buffer = true`") && moves.wrong.contains(&url), "{}", moves.wrong);
    roster.kill();
    roster.configure(&plain, &with_buffer);
    roster.run();
    connected(&roster);
    eventually("all are delivered but the one that runs", SOON, || {
        let left = ["mail", "odd", "other", "late"].map(|queue| buffered(&roster, queue));
        ensure(left.iter().all(|left| *left == Ok(0)), format!("{left:?}"))
    });
    let again = eventually("the queue is none of the buffer any more", SOON, || {
        let reply = enqueue(&roster, unique.clone());
        ensure(reply.is_buffered.is_none(), "it is in the buffer").map(|()| reply.jobs[0].clone())
    });
    assert_eq!((again.id, again.is_new), (held, false), "it has its key");
    let state =
        |id| roster.client().job(JobQuery { id }).map(|reply| reply.job.state).map_err(|error| error.to_string());
    assert_eq!([dead, binary, late].map(state), [Ok(JobState::DEAD), Ok(JobState::DEAD), Ok(JobState::DELAYED)]);
    let told = roster.client().job(JobQuery { id: binary }).expect("it is there").job.error.unwrap_or_default();
    assert!(told.contains("no JSON"), "{told}");
    assert_eq!(performed(&roster, "mail", 3), [urgent, held, a]);
    assert_eq!(state(a), Ok(JobState::DONE), "it is kept as long as it was to be");
    let retried = roster.cli(["queue", "retry", "mail", dead.to_string().as_str()]);
    assert_eq!(retried.code, Some(0), "{}", retried.wrong);
    let taken = take_one(&roster, "mail", 60_000).expect("it waits again");
    assert_eq!((taken.id, taken.attempt, taken.name.as_str()), (dead, 2, "Dead"));
    update(&roster, &taken, JobAction::DONE);
    take_one(&roster, "other", 60_000).expect_err("it is paused");
    assert_eq!(roster.cli(["queue", "resume", "other"]).code, Some(0));
    assert_eq!(performed(&roster, "other", 1), [others]);
    let taken = eventually("its lease has ended", SOON, || take_one(&roster, "slow", 60_000));
    assert_eq!((taken.id, taken.attempt), (running, 2));
    update(&roster, &taken, JobAction::DONE);
    assert_eq!(performed(&roster, "late", 1), [late]);
    assert!(began.elapsed() + Duration::from_millis(100) >= delay, "{:?}", began.elapsed());
    let log = roster.log();
    let lacking = log.lines().find(|line| line.contains("jobs went to Redis without their priority"));
    assert!(lacking.is_some_and(|line| line.contains("jobs=1") && line.contains("mail")), "{log}");

    roster.kill();
    roster.configure(&with_buffer, &plain);
    roster.run();
    let new = eventually("the folder is empty, and may be used again", SOON, || {
        roster.client().enqueue(EnqueueRequest { jobs: vec![job("mail", "C")] }).map(|reply| reply.jobs[0].id)
    });
    assert_eq!(performed(&roster, "mail", 1), [new]);
}

#[test]
fn a_folder_that_moves_to_redis_while_the_connection_or_the_sidecar_ends_is_there_once() {
    // After the first look at what the time has come for, which is as long, it delivers.
    for cut in [30, 38, 46, 54] {
        let redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
        let cutter = Cutter::to(redis.port());
        let (mut roster, [plain, with_buffer]) = in_a_folder(&cutter.url());
        let jobs = (0..250).map(|_| job("mail", "C")).collect();
        let reply = roster.client().enqueue(EnqueueRequest { jobs }).expect("there is room");
        let ids: Vec<i64> = reply.jobs.iter().map(|it| it.id).collect();
        roster.kill();
        roster.configure(&plain, &with_buffer);
        cutter.cut_after(cut);
        roster.run();
        eventually("it has begun", SOON, || {
            let there: usize = redis.ask(&["LLEN", "resque:queue:mail"]).parse().map_err(|_| "no number".to_owned())?;
            ensure(there > 0, "there is none")
        });
        roster.kill();
        roster.run();
        connected(&roster);
        eventually("they are delivered", SOON, || {
            let left = buffered(&roster, "mail")?;
            ensure(left == 0, left)
        });
        assert_eq!(redis.ask(&["LLEN", "resque:queue:mail"]), "250", "after {cut}");
        assert_eq!(performed(&roster, "mail", 250), ids, "after {cut}");
    }
}

#[test]
fn a_file_that_is_a_buffer_is_used_as_nothing_else_until_redis_has_its_jobs() {
    let mut redis = Redis::start(&[]);
    let (mut roster, [plain, with_buffer]) = in_a_folder(&redis.url());
    let first = enqueue(&roster, job("mail", "C")).jobs[0].id;
    redis.kill();
    roster.kill();
    roster.configure(&plain, &with_buffer);
    roster.run();
    let found = eventually("it is in the buffer", SOON, || roster.client().job(JobQuery { id: first })).job;
    assert_eq!((found.state, found.is_buffered), (JobState::WAITING, Some(true)));
    let second = enqueue(&roster, job("mail", "C"));
    assert_eq!(second.is_buffered, Some(true), "it comes after the first one");
    roster.kill();
    roster.configure(&with_buffer, &plain);
    roster.run();
    eventually("it is refused with the cure", SOON, || {
        let told = format!("{:?}", roster.client().queues(QueuesQuery::default()));
        ensure(told.contains("set `queue.buffer` until it has them"), told)
    });
    roster.kill();
    roster.configure(&plain, &with_buffer);
    roster.run();
    redis.run();
    assert_eq!(performed(&roster, "mail", 2), [first, second.jobs[0].id]);
}

#[test]
fn a_start_tells_of_jobs_that_an_earlier_configuration_left_and_leaves_them_as_they_are() {
    let mut redis = Redis::start(&[]);
    let path = "path = '{folder}/disk/state/queue'\n";
    for with_buffer in [false, true] {
        let backend = format!("backend = '{}'\n", redis.url());
        let mut roster = match with_buffer {
            false => Roster::prepare(&format!("[queue]\n{path}")),
            true => Roster::prepare(&format!("[queue]\n{backend}buffer = true\n{path}")),
        };
        std::fs::create_dir_all(roster.state()).expect("a folder");
        let path = format!("path = '{}'\n", roster.state().join("queue").display());
        let used = if with_buffer { format!("{backend}buffer = true\n{path}") } else { path };
        redis.kill();
        roster.run();
        let ids: Vec<i64> = (0..2).map(|_| enqueue(&roster, job("mail", "C")).jobs[0].id).collect();
        assert!(!roster.log().contains("of an earlier"), "{}", roster.log());
        roster.kill();
        redis.run();
        roster.configure(&used, &backend);
        roster.run();
        let told =
            if with_buffer { "jobs of an earlier buffer lie there" } else { "jobs of an earlier `queue.path` lie" };
        eventually("it is told", SOON, || {
            let log = roster.log();
            ensure(log.lines().any(|line| line.contains(told) && line.contains("open=2")), log)
        });
        connected(&roster);
        assert_eq!(enqueue(&roster, job("other", "C")).is_buffered, None, "it does no harm");
        roster.kill();
        roster.configure(&backend, &used);
        roster.run();
        assert_eq!(performed(&roster, "mail", 2), ids);
    }
}

#[test]
fn what_redis_has_no_room_for_is_delivered_one_by_one_and_it_is_told_why_it_waits() {
    let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let others = [r#"{"class":"C","args":[null]}"#; 19];
    redis.ask(&[&["RPUSH", "resque:queue:mail"], &others[..]].concat());
    redis.kill();
    let url = redis.url();
    let settings = format!("[queue]\nbackend = '{url}'\nbuffer = true\npath = '{{folder}}/queue'\nmax_jobs = 20\n");
    let roster = Roster::start(&settings);
    (0..4).for_each(|_| _ = enqueue(&roster, job("mail", "Mine")));
    redis.run();
    let waits = |count: i64, why: &str| {
        eventually("it is told", SOON, || {
            let reply = roster.client().queues(QueuesQuery::default()).map_err(|error| error.to_string())?;
            let (left, trouble) = (reply.queues.first().and_then(|it| it.buffered), reply.trouble.unwrap_or_default());
            ensure(left == Some(count) && trouble.contains(why), format!("{left:?} {trouble}"))
        });
    };
    waits(3, "queue.max_jobs");
    redis.ask(&["LPOP", "resque:queue:mail"]);
    waits(2, "queue.max_jobs");
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    redis.ask(&["DEL", "resque:queue:mail"]);
    waits(2, "maxmemory");
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(performed(&roster, "mail", 2).len(), 2);
    connected(&roster);
    assert!(!roster.log().contains("the connection has ended"), "it is kept");
}

#[test]
fn a_buffer_has_bounds_and_what_is_no_job_is_refused_as_ever() {
    let mut redis = Redis::start(&[]);
    redis.kill();
    let url = redis.url();
    let settings = format!("[queue]\nbackend = '{url}'\nbuffer = true\npath = '{{folder}}/queue'\nmax_jobs = 3\n");
    let mut roster = Roster::start(&settings);
    let send = |payload: &str| {
        let job = NewJob { payload: Some(payload.as_bytes().to_vec()), ..job("mail", "C") };
        roster.client().enqueue(EnqueueRequest { jobs: vec![job] }).map(drop).map_err(|error| format!("{error:?}"))
    };
    send("{").expect_err("it is no JSON");
    let refused = (0..4).find_map(|_| send("{}").err()).expect("it is full");
    assert!(refused.contains("queue.max_jobs"), "{refused}");
    roster.kill();
    roster.configure(&format!("backend = '{url}'\n"), "");
    let told = roster.fails();
    assert!(told.contains("queue.buffer") && told.contains("queue.backend"), "{told}");
}

#[test]
fn a_unique_key_is_held_by_a_job_that_waits_deep_in_its_queue_and_not_by_one_that_others_have_performed() {
    let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let roster = at(&redis.url());
    connected(&roster);
    let unique = |key: &str| NewJob { unique_key: Some(key.into()), ..job("mail", "C") };
    let fill = || {
        let fill = "for _ = 1, 60000 do redis.call('RPUSH', KEYS[1], '{}') end";
        redis.ask(&["EVAL", fill, "1", "resque:queue:mail"]);
    };
    let performed = enqueue(&roster, unique("performed")).jobs[0].id;
    fill();
    let waits = enqueue(&roster, unique("waits")).jobs[0].id;
    fill();
    redis.ask(&["LPOP", "resque:queue:mail"]);
    redis.kill();
    let kept = ["waits", "performed"].map(|key| enqueue(&roster, unique(key)));
    assert!(kept.iter().all(|reply| reply.is_buffered == Some(true)), "{kept:?}");
    redis.run();
    eventually("they are delivered", SOON, || {
        let left = buffered(&roster, "mail")?;
        ensure(left == 0, left)
    });
    let holder = |key: &str| redis.ask(&["HGET", "resque:roster:unique:mail", key]);
    assert_eq!(redis.ask(&["LLEN", "resque:queue:mail"]), "120002");
    assert!(redis.ask(&["LINDEX", "resque:queue:mail", "-1"]).contains(&format!("{:032x}", kept[1].jobs[0].id)));
    assert!(
        holder("performed").starts_with(&format!("{} ", kept[1].jobs[0].id)),
        "{performed}: {}",
        holder("performed")
    );
    assert!(holder("waits").starts_with(&format!("{waits} ")), "{waits}: {}", holder("waits"));
}

#[test]
fn an_enqueue_that_waits_for_the_searches_of_others_does_not_take_redis_for_away() {
    let redis = Redis::start(&[]);
    let cutter = Cutter::to(redis.port());
    let roster = at(&cutter.url());
    connected(&roster);
    let unique = || {
        let job = NewJob { unique_key: Some("of a job in the middle".into()), ..job("mail", "C") };
        roster.client().enqueue(EnqueueRequest { jobs: vec![job] })
    };
    let id = unique().expect("there is room").jobs[0].id;
    let fill =
        "for _ = 1, 8000 do for _, push in ipairs({'LPUSH', 'RPUSH'}) do redis.call(push, KEYS[1], '{}') end end";
    redis.ask(&["EVAL", fill, "1", "resque:queue:mail"]);
    let searched = "00000000000000000000000000000007";
    cutter.delay(searched, Duration::from_millis(300));
    std::thread::scope(|scope| {
        scope.spawn(|| roster.client().job(JobQuery { id: 7 }));
        eventually("it waits while others search", SOON, || match unique() {
            Ok(reply) => {
                assert_ne!(reply.is_buffered, Some(true), "Redis is there");
                Err("it had a turn at once".to_owned())
            }
            refused => {
                let refused: Overloaded = exception(refused).expect("others search for longer");
                ensure(refused.message.contains("others look for jobs in Redis"), refused.message)
            }
        });
        cutter.delay(searched, Duration::ZERO);
    });
    assert_eq!(unique().expect("nobody searches").jobs[0].id, id);
    // Nor does one that has begun to look, and waits for the steps of another user between its own.
    redis.ask(&["EVAL", fill, "1", "resque:queue:mail"]);
    let searched = "00000000000000000000000000000008";
    let looks = calls(&redis, "lrange");
    cutter.delay(searched, Duration::from_millis(900));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut by_tcp = Dialect::ALL[0].tcp(roster.port()).expect("a connection");
            by_tcp.job(JobQuery { id: 8 })
        });
        eventually("another user searches", SOON, || ensure(calls(&redis, "lrange") > looks, "it does not"));
        let refused: Overloaded = exception(unique()).expect("it is not kept in the buffer");
        cutter.delay(searched, Duration::ZERO);
        assert!(refused.message.contains("others look for jobs in Redis"), "{}", refused.message);
    });
    assert_eq!(unique().expect("nobody searches").jobs[0].id, id);
    assert_eq!(buffered(&roster, "mail"), Ok(0));
}

#[test]
fn a_job_in_the_buffer_is_found_and_cancelled() {
    let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    redis.kill();
    let mut roster = at(&redis.url());
    let payload = Some(br#"{"to":"a/b"}"#.to_vec());
    let [cancelled, late, other] = [
        NewJob { payload, retries: Some(7), ..job("mail", "Send") },
        NewJob { delay_ms: Some(60_000), ..job("mail", "Late") },
        job("mail", "Other"),
    ]
    .map(|job| enqueue(&roster, job).jobs[0].id);
    let found = |roster: &Roster, id| roster.client().job(JobQuery { id }).map(|reply| reply.job);
    let job = found(&roster, cancelled).expect("it is there");
    assert_eq!((job.id, job.queue.as_str(), job.name.as_str()), (cancelled, "mail", "Send"));
    assert_eq!((job.payload.as_slice(), job.retries), (&br#"{"to":"a/b"}"#[..], 7));
    assert_eq!((job.state, job.attempt, job.is_buffered), (JobState::WAITING, 0, Some(true)));
    assert_eq!(found(&roster, late).expect("it is there").state, JobState::DELAYED);
    roster.client().cancel_job(JobQuery { id: cancelled }).expect("nobody performs it");
    exception::<Overloaded>(found(&roster, cancelled)).expect("Redis is away, which may have it");
    roster.kill();
    roster.run();
    let why = eventually("it is refused", SOON, || {
        exception::<Overloaded>(roster.client().cancel_job(JobQuery { id: other }))
            .map_err(|error| format!("{error:?}"))
    });
    assert!(why.message.contains("cancel it once Redis is back"), "{}", why.message);
    assert_eq!(found(&roster, other).map(|it| it.is_buffered).ok(), Some(Some(true)));
    redis.run();
    connected(&roster);
    eventually("they are delivered", SOON, || {
        let left = buffered(&roster, "mail")?;
        ensure(left == 0, left)
    });
    exception::<NotFound>(found(&roster, cancelled)).expect("it is nowhere");
    assert_eq!(found(&roster, late).map(|it| (it.state, it.is_buffered)).ok(), Some((JobState::DELAYED, None)));
    roster.client().cancel_job(JobQuery { id: late }).expect("nobody performs it");
    assert_eq!(performed(&roster, "mail", 1), [other]);
    // One that Redis takes none of is in the buffer while Redis is there.
    redis.ask(&["SET", "resque:queue:odd", "no list"]);
    redis.kill();
    let odd = enqueue(&roster, self::job("odd", "C")).jobs[0].id;
    redis.run();
    connected_but_for(&roster, "odd");
    roster.client().cancel_job(JobQuery { id: odd }).expect("nobody performs it");
    exception::<NotFound>(found(&roster, odd)).expect("it is nowhere");
}

#[test]
fn whoever_cancels_a_job_in_the_buffer_is_told_where_the_outcome_is_not_known() {
    let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let cutter = Cutter::to(redis.port());
    let roster = at(&cutter.url());
    redis.ask(&["SET", "resque:queue:odd", "no list"]);
    redis.kill();
    let odd = enqueue(&roster, job("odd", "C")).jobs[0].id;
    redis.run();
    connected_but_for(&roster, "odd");
    // Redis has what keeps it from enqueueing the job, and the answer arrives too late.
    cutter.delay("\r\nNX\r\n", Duration::from_secs(20));
    let refused: Overloaded = exception(roster.client().cancel_job(JobQuery { id: odd })).expect("there is no answer");
    let told = format!("whether job {odd} is removed is not known: cancel it once Redis is back");
    assert!(refused.message.contains(&told), "{}", refused.message);
    assert_ne!(redis.ask(&["ZSCORE", "resque:roster:enqueued", &odd.to_string()]), "", "it is never delivered");
}

/// Redis is there, and takes no jobs of a queue.
fn connected_but_for(roster: &Roster, queue: &str) {
    eventually("it is told", SOON, || {
        let reply = roster.client().queues(QueuesQuery::default()).map_err(|error| error.to_string())?;
        let trouble = reply.trouble.unwrap_or_default();
        ensure(trouble.contains(&format!("the jobs of {queue:?} in the buffer wait")), trouble)
    });
}

#[test]
fn php_is_told_that_a_job_is_in_the_buffer() {
    let mut redis = Redis::start(&[]);
    redis.kill();
    let roster = at(&redis.url());
    let php = || {
        let socket = roster.socket().display();
        let code = format!(
            "require 'php/autoload.php'; $roster = Roster\\Client::local('{socket}', shared: ''); \
             $id = $roster->enqueue('mail', 'C', isBuffered: $isBuffered); \
             $roster->enqueueMany([new Roster\\NewJob('mail', 'C')], $areBuffered); \
             var_export([$isBuffered, $areBuffered, $roster->job($id)->isBuffered]);"
        );
        let output = Command::new("php").args(["-r", &code]).output().expect("PHP starts");
        String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<String>()
    };
    assert_eq!(php(), "array(0=>true,1=>true,2=>true,)");
    redis.run();
    connected(&roster);
    eventually("they are delivered", SOON, || ensure(buffered(&roster, "mail")? == 0, "they are not"));
    // The queue is known as one of the buffer until the next look finds nothing there.
    eventually("PHP is told so", SOON, || {
        let told = php();
        ensure(told == "array(0=>false,1=>false,2=>false,)", told)
    });
}
