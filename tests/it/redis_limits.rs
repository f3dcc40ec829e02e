//! Limits of queues in Redis, which hold once for all sidecars that share it.

use crate::harness::{Redis, Roster, SOON, ensure, eventually};
use crate::idl::{EnqueueRequest, Job, JobAction, NewJob, TRosterSyncClient, TakeJobsRequest};
use crate::redis::{calls, connected, update, works};

const ONE: &str = "[[queue.limit]]\nqueue = 'mail'\nconcurrency = 1\n";
const TWO: &str = "[[queue.limit]]\nqueue = 'mail'\nconcurrency = 2\n";
/// Where three have begun, none may while a test runs.
const THREE_A_DAY: &str = "[[queue.limit]]\nqueue = 'mail'\nrate = '3/1d'\n";

/// What is taken off a queue until then, in ms since 1970, is put back by nobody.
const NEVER: &str = "9999999999999";

/// One job into each of these queues, in one request.
fn enqueue(roster: &Roster, queues: &[&str]) {
    let job = |queue: &&str| {
        let payload = b"{}".to_vec();
        NewJob::new((*queue).to_owned(), "C".to_owned(), payload, None, None, None, None, None, None, None, None)
    };
    let jobs = queues.iter().map(job).collect();
    roster.client().enqueue(EnqueueRequest { jobs }).expect("there is room");
}

/// What of these queues there is now, up to nine jobs.
fn take(roster: &Roster, queues: &[&str]) -> Vec<Job> {
    take_by(roster, queues, None, 0)
}

fn take_by(roster: &Roster, queues: &[&str], lease_ms: Option<i64>, wait_ms: i32) -> Vec<Job> {
    let queues = queues.iter().map(|queue| (*queue).to_owned()).collect();
    roster.client().take_jobs(TakeJobsRequest::new(queues, 9, lease_ms, wait_ms, None)).expect("an answer").jobs
}

fn queues_of(jobs: &[Job]) -> Vec<&str> {
    jobs.iter().map(|job| job.queue.as_str()).collect()
}

#[test]
fn no_more_jobs_of_a_queue_run_at_once_than_its_limit_says_whichever_sidecars_hand_them_out() {
    let redis = Redis::start(&[]);
    let mut rosters = [(); 2].map(|()| connected(&redis, TWO));
    enqueue(&rosters[0], &["mail", "mail", "mail", "mail", "img"]);
    let first: Vec<Job> = std::thread::scope(|scope| {
        let rosters = &rosters;
        let all: Vec<_> = (0..8).map(|nth| scope.spawn(move || take(&rosters[nth % 2], &["mail"]))).collect();
        all.into_iter().flat_map(|one| one.join().expect("no panic")).collect()
    });
    assert_eq!(first.len(), 2);
    assert_eq!(queues_of(&take(&rosters[1], &["mail", "img"])), ["img"], "the other queue goes on");
    for roster in &mut rosters {
        roster.kill();
        roster.run();
        works(roster);
        assert_eq!(take(roster, &["mail"]), [], "also after a restart");
    }
    update(&rosters[0], &first[0], JobAction::DONE).expect("it has the lease");
    assert_eq!(take(&rosters[1], &["mail"]).len(), 1);
    assert_eq!(take(&rosters[0], &["mail"]), []);
}

#[test]
fn what_is_taken_off_and_not_settled_has_its_place_and_where_that_is_too_much_none_begins() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, TWO);
    let popped = "resque:roster:popped";
    redis.ask(&["ZADD", popped, NEVER, "4:mail{}", NEVER, "5:mail2{}", NEVER, "3:img{}"]);
    enqueue(&roster, &["mail", "mail", "mail", "img"]);
    let first = take(&roster, &["mail"]);
    assert_eq!(first.len(), 1);
    redis.ask(&["ZREM", popped, "4:mail{}"]);
    assert_eq!(take(&roster, &["mail"]).len(), 1);
    update(&roster, &first[0], JobAction::DONE).expect("it has the lease");
    let fill = "for n = 1, 999 do redis.call('ZADD', KEYS[1], ARGV[1], '3:img' .. n) end";
    redis.ask(&["EVAL", fill, "1", popped, NEVER]);
    assert_eq!(queues_of(&take(&roster, &["mail", "img"])), ["img"]);
    redis.ask(&["ZREM", popped, "3:img1"]);
    assert_eq!(take(&roster, &["mail"]).len(), 1);
}

#[test]
fn a_place_is_free_again_whatever_becomes_of_its_job() {
    let redis = Redis::start(&[]);
    let mut rosters = [(); 2].map(|()| connected(&redis, ONE));
    enqueue(&rosters[0], &["mail"; 5]);
    for action in [JobAction::RELEASE, JobAction::FAIL, JobAction::BURY, JobAction::DONE] {
        let taken = take(&rosters[0], &["mail"]);
        assert_eq!(taken.len(), 1, "{action:?}");
        update(&rosters[1], &taken[0], JobAction::TOUCH).expect("it has the lease");
        assert_eq!(take(&rosters[1], &["mail"]), [], "{action:?}");
        update(&rosters[1], &taken[0], action).expect("it has the lease");
    }
    let lost = take_by(&rosters[0], &["mail"], Some(200), 0);
    assert_eq!(lost.len(), 1);
    rosters[0].kill();
    let again = take_by(&rosters[1], &["mail"], None, 20_000);
    assert_eq!(again.iter().map(|job| (job.id, job.attempt)).collect::<Vec<_>>(), [(lost[0].id, 2)]);
}

#[test]
fn what_has_no_record_any_more_has_no_place_for_ever() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, ONE);
    redis.ask(&["ZADD", "resque:roster:running:mail", "1", "7"]);
    enqueue(&roster, &["mail"]);
    assert_eq!(take(&roster, &["mail"]).len(), 1);
}

#[test]
fn no_more_jobs_of_a_queue_begin_than_its_rate_says_of_all_sidecars_also_after_a_restart() {
    let redis = Redis::start(&[]);
    let mut rosters = [(); 2].map(|()| connected(&redis, THREE_A_DAY));
    enqueue(&rosters[0], &["mail"; 2]);
    let first = take(&rosters[0], &["mail"]);
    assert_eq!(first.len(), 2);
    enqueue(&rosters[0], &["mail", "mail", "img"]);
    assert_eq!(queues_of(&take(&rosters[1], &["mail", "img"])), ["mail", "img"]);
    first.iter().for_each(|job| update(&rosters[0], job, JobAction::DONE).expect("it has the lease"));
    enqueue(&rosters[0], &["img"; 2]);
    for roster in &mut rosters {
        roster.kill();
        roster.run();
        works(roster);
        let taken = take(roster, &["mail", "img"]);
        assert!(!queues_of(&taken).contains(&"mail"), "{taken:?}");
        enqueue(roster, &["img"]);
        assert_eq!(queues_of(&take(roster, &["img"])), ["img"], "the other queue goes on");
    }
}

#[test]
fn a_clock_that_was_set_back_closes_no_queue_for_longer_than_its_bucket_takes_to_fill() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, "[[queue.limit]]\nqueue = 'mail'\nrate = '1/1s'\n");
    redis.ask(&["HSET", "resque:roster:rates", "mail", "9000000000000000"]);
    enqueue(&roster, &["mail"; 2]);
    for _ in 0..2 {
        assert_eq!(take_by(&roster, &["mail"], None, 20_000).len(), 1);
    }
}

#[test]
fn whoever_waits_for_a_place_asks_for_none_before_and_has_it_after_the_report_of_another_sidecar() {
    let redis = Redis::start(&[]);
    let roster = connected(&redis, ONE);
    enqueue(&roster, &["mail"; 2]);
    let first = take(&roster, &["mail"]);
    assert_eq!(first.len(), 1);
    let before = calls(&redis, "zrem");
    assert_eq!(take_by(&roster, &["mail"], None, 3_000), []);
    let asked = calls(&redis, "zrem") - before;
    assert!(asked < 10, "{asked} times");
    let other = connected(&redis, ONE);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| take_by(&roster, &["mail"], None, 30_000));
        eventually("it waits", SOON, || {
            let waiting = roster.status().counters["watchesWaiting"];
            ensure(waiting == 1, waiting)
        });
        update(&other, &first[0], JobAction::DONE).expect("it has the lease");
        assert_eq!(waiting.join().expect("no panic").len(), 1);
    });
}

#[test]
fn a_key_of_another_type_has_its_own_queue_wait_and_no_other_and_is_told_once() {
    let redis = Redis::start(&[]);
    let limit = |queue: &str, limit: &str| format!("[[queue.limit]]\nqueue = '{queue}'\n{limit}\n");
    let settings = [limit("mail", "rate = '5/1d'"), limit("slow", "concurrency = 1"), limit("post", "concurrency = 1")];
    let roster = connected(&redis, &settings.concat());
    redis.ask(&["SET", "resque:roster:rates", "no hash"]);
    redis.ask(&["RPUSH", "resque:roster:running:slow", "no set"]);
    let all = ["mail", "slow", "img", "post"];
    enqueue(&roster, &all);
    assert_eq!(queues_of(&take(&roster, &all)), ["img", "post"]);
    let wrong = [("mail", "resque:roster:rates"), ("slow", "resque:roster:running:slow")];
    for (queue, key) in wrong {
        let told = format!("remove the key with `DEL` queue=\"{queue}\" key=\"{key}\"");
        roster.logs(&told);
        (0..3).for_each(|_| _ = roster.cli(["queue", "list"]).text());
        let log = roster.log();
        assert_eq!(log.matches(&told).count(), 1, "{log}");
        redis.ask(&["DEL", key]);
        assert_eq!(queues_of(&take(&roster, &all)), [queue], "it goes on");
    }
    works(&roster);
    assert!(!roster.log().contains("the queues take and hand out no jobs"), "the connection is kept");
}

#[test]
fn each_sidecar_tells_how_many_jobs_wait_for_a_limit() {
    let redis = Redis::start(&[]);
    let rosters = [(); 2].map(|()| connected(&redis, TWO));
    let limited = || {
        let of = |roster: &Roster| roster.cli(["queue", "list", "-o", "json"]).json()["queues"][0]["limited"].as_u64();
        rosters.each_ref().map(|roster| of(roster).expect("a number"))
    };
    enqueue(&rosters[0], &["mail"; 5]);
    assert_eq!(limited(), [0, 0], "some may begin");
    let first = take(&rosters[0], &["mail"]);
    assert_eq!(limited(), [3, 3]);
    let told = "3 jobs wait for a `[[queue.limit]]` of mail";
    let (listed, status) = (rosters[1].cli(["queue", "list"]), rosters[1].cli(["status"]).text());
    assert!(listed.wrong.contains(told) && status.contains(told), "{listed:?} {status}");
    rosters[0].cli(["queue", "pause", "mail"]).text();
    assert_eq!(limited(), [0, 0], "they wait for the end of the pause");
    rosters[0].cli(["queue", "resume", "mail"]).text();
    redis.ask(&["SET", "resque:pause-all-workers", "true"]);
    assert_eq!(limited(), [0, 0], "they wait for the end of that");
    redis.ask(&["DEL", "resque:pause-all-workers"]);
    assert_eq!(limited(), [3, 3]);
    update(&rosters[0], &first[0], JobAction::DONE).expect("it has the lease");
    assert_eq!(limited(), [0, 0], "one may begin");
}

#[test]
fn the_limit_of_a_folder_that_moves_to_redis_holds_there() {
    let redis = Redis::start(&[]);
    let mut roster = Roster::start(&format!("[queue]\npath = '{{folder}}/queue'\n{TWO}"));
    enqueue(&roster, &["mail"; 4]);
    roster.kill();
    roster.configure("[queue]\n", &format!("[queue]\nbackend = '{}'\nbuffer = true\n", redis.url()));
    roster.run();
    eventually("they are delivered", SOON, || {
        let waiting = redis.ask(&["LLEN", "resque:queue:mail"]);
        ensure(waiting == "4", waiting)
    });
    assert_eq!(take(&roster, &["mail"]).len(), 2);
    assert_eq!(take(&roster, &["mail"]), []);
}

#[test]
fn a_limit_of_keys_is_refused_beside_redis_with_its_cure() {
    let mut roster = Roster::prepare(&format!("[queue]\nbackend = 'redis://127.0.0.1:1/0'\n{TWO}key = true\n"));
    let told = roster.fails();
    assert!(told.contains("queue.limit.0.key: ") && told.contains("use one per key"), "{told}");
}
