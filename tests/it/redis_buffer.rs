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
fn buffered(roster: &Roster, queue: &str) -> i64 {
    let queues = roster.client().queues(QueuesQuery::default()).expect("an answer").queues;
    queues.iter().find(|it| it.name == queue).and_then(|it| it.buffered).unwrap_or(0)
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
    eventually("it is told how many there are", SOON, || {
        let found = buffered(&roster, "mail");
        ensure(found == 4, found)
    });
    let listed = roster.cli(["queue", "list"]);
    let told = listed.wrong;
    assert!(told.contains("4 jobs of mail in the buffer") && told.contains(&redis.url()), "{told}");
    redis.run();
    assert_eq!(performed(&roster, "mail", 4), [ids[0], ids[2], ids[3], ids[1]]);
    connected(&roster);
    assert_eq!((buffered(&roster, "mail"), enqueue(&roster, job("mail", "D")).is_buffered), (0, None));
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
            let left = buffered(&roster, "mail");
            ensure(left == 0, left)
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
        assert_eq!((second.is_buffered, buffered(&roster, queue)), (Some(true), 2), "it comes after the first one");
        redis.ask(&["DEL", &format!("resque:queue:{queue}")]);
        assert_eq!(performed(&roster, queue, 2), [first, second.jobs[0].id]);
    }
}

#[test]
fn what_is_no_job_of_a_buffer_is_set_aside_and_holds_up_no_other() {
    let mut redis = Redis::start(&[]);
    let mut roster = Roster::start("[queue]\npath = '{folder}/queue'\n");
    eventually("the queues can be used", SOON, || {
        roster.client().enqueue(EnqueueRequest { jobs: vec![job("mail", "Odd")] }).map(drop)
    });
    roster.kill();
    redis.kill();
    roster.configure("[queue]\n", &format!("[queue]\nbackend = '{}'\nbuffer = true\n", redis.url()));
    roster.run();
    let id = eventually("it is kept", SOON, || {
        roster.client().enqueue(EnqueueRequest { jobs: vec![job("mail", "C")] }).map(|reply| reply.jobs[0].id)
    });
    redis.run();
    assert_eq!(performed(&roster, "mail", 1), [id]);
    roster.logs("it is set aside there");
    connected(&roster);
    assert_eq!(buffered(&roster, "mail"), 0);
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
