//! The buffer of queues in Redis: what is enqueued while that is away.

use crate::harness::{Cutter, Redis, Roster, SOON, ensure, eventually};
use crate::idl::{
    EnqueueReply, EnqueueRequest, JobAction, JobUpdate, NewJob, QueuesQuery, TRosterSyncClient, TakeJobsRequest,
};

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
        let is_told = told.contains("4 jobs of mail are in the buffer") && told.contains(&redis.url());
        ensure(is_told && listed.code != Some(0), told)
    });
    redis.run();
    assert_eq!(performed(&roster, "mail", 4), [ids[0], ids[2], ids[3], ids[1]]);
    connected(&roster);
    assert_eq!((buffered(&roster, "mail"), enqueue(&roster, job("mail", "D")).is_buffered), (Ok(0), None));
    performed(&roster, "mail", 1);
    eventually("nothing is left of them", SOON, || {
        let left = redis.ask(&["KEYS", "resque:roster:*"]);
        ensure(left.is_empty(), left)
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

#[test]
fn a_file_that_is_a_buffer_is_used_as_nothing_else_nor_the_reverse() {
    let mut redis = Redis::start(&[]);
    let mut roster = Roster::start("[queue]\npath = '{folder}/queue'\n");
    let enqueued = |roster: &Roster| {
        eventually("it is enqueued", SOON, || {
            roster.client().enqueue(EnqueueRequest { jobs: vec![job("mail", "C")] }).map(|reply| reply.jobs[0].id)
        })
    };
    let tells = |roster: &Roster, cure: &str| {
        eventually("it is refused with the cure", SOON, || {
            let told = format!("{:?}", roster.client().queues(QueuesQuery::default()));
            ensure(told.contains(cure), told)
        });
    };
    let id = enqueued(&roster);
    roster.kill();
    let (plain, with_buffer) = ("[queue]\n", format!("[queue]\nbackend = '{}'\nbuffer = true\n", redis.url()));
    roster.configure(plain, &with_buffer);
    roster.run();
    tells(&roster, "another `queue.path`, or take `queue.backend`");
    enqueue(&roster, job("mail", "In Redis"));
    redis.kill();
    roster.kill();
    roster.configure(&with_buffer, plain);
    roster.run();
    assert_eq!(performed(&roster, "mail", 1), [id], "nothing has become of it");
    roster.kill();
    roster.configure(plain, &with_buffer);
    roster.run();
    let id = enqueued(&roster);
    roster.kill();
    roster.configure(&with_buffer, plain);
    roster.run();
    tells(&roster, "set `queue.buffer` until it has them");
    roster.kill();
    roster.configure(plain, &with_buffer);
    roster.run();
    redis.run();
    assert_eq!(performed(&roster, "mail", 1), [id]);
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
