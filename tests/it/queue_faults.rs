//! Queues where the disk is full or slow, and where the clock on the wall jumps.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::full::Small;
use crate::harness::{Client, Clock, HeldDisk, Roster, SOON, binary, ensure, eventually, is_skipped_without_root};
use crate::idl::{
    EnqueueRequest, Job, JobAction, JobQuery, JobState, JobUpdate, NewJob, Overloaded, QueuesQuery, TRosterSyncClient,
    TakeJobsRequest,
};

fn job(payload: Vec<u8>) -> NewJob {
    NewJob::new("mail".to_owned(), "send".to_owned(), payload, None, None, None, None, None, None, None, None)
}

fn enqueue(roster: &Roster, job: NewJob) -> thrift::Result<i64> {
    roster.client().enqueue(EnqueueRequest { jobs: vec![job] }).map(|reply| reply.jobs[0].id)
}

fn take(roster: &Roster) -> Vec<Job> {
    let request = TakeJobsRequest::new(vec!["mail".into()], 1_000, None, None, None);
    roster.client().take_jobs(request).expect("an answer").jobs
}

fn ids(jobs: &[Job]) -> Vec<i64> {
    jobs.iter().map(|job| job.id).collect()
}

fn done(roster: &Roster, job: &Job) -> thrift::Result<()> {
    roster
        .client()
        .update_job(JobUpdate::new(job.id, job.attempt, JobAction::DONE, None, None, None, None, None))
        .map(drop)
}

#[test]
fn a_full_disk_loses_no_acknowledged_job_and_takes_more_when_there_is_room() {
    if is_skipped_without_root() {
        return;
    }
    let mut small = Small::prepare(400);
    let queue = format!("[queue]\npath = {:?}\n[register]", small.mount.join("queue"));
    small.roster.configure("[register]", &queue);
    // All of the room is the queue's.
    let of_shared_file = |folder: &Path| format!("{:?}", folder.join("shared.mdb"));
    small.roster.configure(&of_shared_file(&small.mount), &of_shared_file(small.roster.folder()));
    small.run();
    let roster = &small.roster;
    let mut acknowledged = Vec::new();
    let refused = loop {
        match enqueue(roster, job(vec![b'x'; 4_000])) {
            Ok(id) => acknowledged.push(id),
            Err(error) => break error,
        }
    };
    let thrift::Error::User(refused) = refused else { panic!("{refused:?}") };
    let refused = refused.downcast_ref::<Overloaded>().expect("there is no room");
    assert!(refused.message.contains("No space left on device"), "{refused:?}");
    assert!(!acknowledged.is_empty(), "some have room");
    assert_eq!(roster.data("/a"), b"one", "the rest is served");
    let is_open = || roster.client().queues(QueuesQuery::default());
    let waiting = eventually("the queues are told", SOON, || is_open().map(|reply| reply.queues[0].waiting));
    assert!(waiting >= acknowledged.len() as i64, "{waiting}");
    std::fs::remove_file(small.seen("rest")).expect("a file");
    let last = eventually("there is room", SOON, || enqueue(roster, job(Vec::new())));
    acknowledged.push(last);
    // A reply has a bound.
    let pages = std::iter::repeat_with(|| take(roster)).take_while(|taken| !taken.is_empty());
    let taken: Vec<Job> = pages.flatten().collect();
    assert!(acknowledged.iter().all(|id| ids(&taken).contains(id)), "{acknowledged:?}: {:?}", ids(&taken));
    taken.iter().for_each(|job| done(roster, job).expect("it has the lease"));
    assert_eq!(is_open().expect("an answer").queues[0].bytes, 0);
}

/// Fills what is free of a file system, by pages.
fn fill(file: &Path) {
    let mut file = File::create(file).expect("an entry needs no room");
    while file.write_all(&[7; 4_096]).is_ok() {}
}

#[test]
fn what_was_acknowledged_finds_room_for_its_end_while_the_disk_stays_full() {
    if is_skipped_without_root() {
        return;
    }
    let mut small = Small::prepare(6_000);
    std::fs::write(small.seen("spare"), vec![0; 3 << 20]).expect("there is room");
    let queue = format!("[queue]\npath = {:?}\n[register]", small.mount.join("queue"));
    small.roster.configure("[register]", &queue);
    small.run();
    let roster = &small.roster;
    let some = |jobs: usize| EnqueueRequest { jobs: vec![job(vec![b'x'; 300]); jobs] };
    let mut client = roster.client();
    let mut acknowledged = 0;
    while client.enqueue(some(10)).is_ok() {
        acknowledged += 10;
    }
    assert!(acknowledged >= 500, "{acknowledged}");
    fill(&small.seen("more"));
    let pages = std::iter::repeat_with(|| take(roster)).take_while(|taken| !taken.is_empty());
    let mut taken: Vec<Job> = pages.flatten().collect();
    assert_eq!(taken.len(), acknowledged);
    // In no order: each report changes pages that no other one does.
    taken.sort_by_key(|job| (job.id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    for (number, job) in taken.iter().enumerate() {
        let action = if number % 4 == 0 { JobAction::FAIL } else { JobAction::DONE };
        let error = "no route ".repeat(110);
        let update = JobUpdate::new(job.id, job.attempt, action, None, error, None, None, None);
        client.update_job(update).unwrap_or_else(|error| panic!("{number} of {acknowledged}: {error}"));
    }
    fill(&small.seen("more still"));
    let left = client.queues(QueuesQuery::default()).expect("an answer").queues.remove(0);
    assert_eq!((left.running, left.waiting + left.delayed), (0, acknowledged.div_ceil(4) as i64));
    assert!(client.enqueue(some(1)).is_err(), "the disk has no room");
    for file in ["more", "more still", "spare"] {
        std::fs::remove_file(small.seen(file)).expect("a file");
    }
    eventually("there is room", SOON, || client.enqueue(some(1)));
}

#[test]
fn where_the_disk_stays_full_jobs_that_keep_their_results_are_done_once_and_say_where_there_is_no_room_for_one() {
    if is_skipped_without_root() {
        return;
    }
    let mut small = Small::prepare(6_000);
    std::fs::write(small.seen("spare"), vec![0; 3 << 20]).expect("there is room");
    let queue = format!("[queue]\npath = {:?}\n[register]", small.mount.join("queue"));
    small.roster.configure("[register]", &queue);
    small.run();
    let mut client = small.roster.client();
    let some = |jobs: usize| {
        let kept = NewJob { keep_result_ms: Some(86_400_000), ..job(vec![b'x'; 300]) };
        EnqueueRequest { jobs: vec![kept; jobs] }
    };
    let mut acknowledged = 0;
    while client.enqueue(some(10)).is_ok() {
        acknowledged += 10;
    }
    assert!(acknowledged >= 500, "{acknowledged}");
    fill(&small.seen("more"));
    let pages = std::iter::repeat_with(|| take(&small.roster)).take_while(|taken| !taken.is_empty());
    let mut taken: Vec<Job> = pages.flatten().collect();
    assert_eq!(taken.len(), acknowledged);
    taken.sort_by_key(|job| (job.id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    // No larger than the payload, and much larger.
    let result = |number: usize| vec![b'r'; if number.is_multiple_of(2) { 300 } else { 3_000 }];
    for (number, job) in taken.iter().enumerate() {
        let update = JobUpdate::new(job.id, job.attempt, JobAction::DONE, None, None, None, None, result(number));
        client.update_job(update).unwrap_or_else(|error| panic!("{number} of {acknowledged}: {error}"));
    }
    let are_done = |client: &mut Client| {
        let left = client.queues(QueuesQuery::default()).expect("an answer").queues.remove(0);
        assert_eq!((left.running, left.waiting, left.done), (0, 0, Some(acknowledged as i64)));
        for (number, job) in taken.iter().enumerate() {
            let job = client.job(JobQuery { id: job.id }).expect("it is kept").job;
            let is_kept = job.result == Some(result(number));
            let says_why = job.error.is_some_and(|why| why.contains("is not kept: "));
            assert!(job.state == JobState::DONE && is_kept != says_why, "{number}");
            assert!(is_kept || number % 2 == 1, "{number}: it takes no more than the payload did");
        }
    };
    are_done(&mut client);
    small.roster.kill();
    small.run();
    let mut client = small.roster.client();
    assert!(take(&small.roster).is_empty(), "none is performed again");
    are_done(&mut client);
    assert!(client.enqueue(some(1)).is_err(), "the disk has no room");
    for file in ["more", "spare"] {
        std::fs::remove_file(small.seen(file)).expect("a file");
    }
    eventually("there is room", SOON, || client.enqueue(some(1)));
}

/// A sidecar whose disk can be held.
fn on_held_disk(settings: &str) -> (Roster, HeldDisk) {
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    roster.configure("[register]", &format!("[queue]\npath = 'queue'\n{settings}\n[register]"));
    let disk = HeldDisk::new(roster.folder());
    let mut serve = roster.serve(binary());
    disk.rules(&mut serve);
    roster.run_as(&mut serve);
    eventually("the queue is open", SOON, || roster.client().queues(QueuesQuery::default()));
    (roster, disk)
}

/// What is answered only once the disk has it.
fn once_synced<T: Send>(disk: &HeldDisk, ask: impl FnOnce() -> T + Send) -> T {
    let (report, answer) = mpsc::channel();
    disk.hold();
    thread::scope(|scope| {
        scope.spawn(move || report.send(ask()));
        eventually("it is synced", SOON, || ensure(disk.is_awaited(), "nobody waits for the disk"));
        let early = answer.recv_timeout(Duration::from_millis(300));
        disk.let_go();
        assert!(early.is_err(), "it was acknowledged before the disk had it");
        answer.recv_timeout(SOON).expect("it is acknowledged")
    })
}

#[test]
fn nothing_is_acknowledged_before_the_disk_has_it() {
    let (roster, disk) = on_held_disk("");
    let id = once_synced(&disk, || enqueue(&roster, job(b"{}".to_vec())).expect("there is room"));
    let taken = once_synced(&disk, || take(&roster));
    assert_eq!(ids(&taken), [id]);
    once_synced(&disk, || done(&roster, &taken[0]).expect("it has the lease"));

    let (roster, disk) = on_held_disk("durability = 'batched'");
    disk.hold();
    enqueue(&roster, job(b"{}".to_vec())).expect("the kernel has it");
    eventually("it is synced later", SOON, || ensure(disk.is_awaited(), "nobody waits for the disk"));
    disk.let_go();
}

/// Starts it with a wall clock of its own.
fn run_by(clock: &Clock, roster: &mut Roster) {
    let mut serve = roster.serve(binary());
    clock.rules(&mut serve);
    roster.run_as(&mut serve);
}

#[test]
fn what_recurs_is_enqueued_once_for_each_time_over_restarts_and_jumps_of_the_clock() {
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    let recurring = "[[queue.recurring]]\nname = 'digest'\nqueue = 'mail'\njob = 'Digest'\npayload = { n = 1 }";
    let queue = format!("[queue]\npath = 'queue'\n{recurring}\nschedule = '@yearly'\nmissed = 'all'\n[register]");
    roster.configure("[register]", &queue);
    let clock = Clock::new(roster.folder());
    run_by(&clock, &mut roster);
    let recurs = |roster: &Roster| roster.cli(["queue", "recurring", "-o", "json"]).json()["recurring"][0].clone();
    let first = recurs(&roster);
    assert!(first["nextAt"].is_i64() && first["lastAt"].is_null(), "{first}");
    assert!(take(&roster).is_empty(), "it is not due");
    roster.kill();
    clock.jump(366 * 24);
    run_by(&clock, &mut roster);
    let taken = eventually("it is due", SOON, || {
        let taken = take(&roster);
        ensure(!taken.is_empty(), "nothing").map(|()| taken)
    });
    assert_eq!((taken[0].name.as_str(), taken[0].payload.as_slice()), ("Digest", b"{\"n\":1}".as_slice()));
    done(&roster, &taken[0]).expect("it has the lease");
    let second = recurs(&roster);
    assert_eq!((&second["lastAt"], &second["lastId"]), (&first["nextAt"], &taken[0].id.into()));
    for hours in [366 * 24 - 20, 366 * 24] {
        roster.kill();
        clock.jump(hours);
        run_by(&clock, &mut roster);
        assert_eq!(recurs(&roster)["lastId"], second["lastId"], "{hours} h");
        assert!(take(&roster).is_empty(), "{hours} h");
    }
}

#[test]
fn a_clock_that_jumps_ends_no_lease_and_no_delay() {
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    roster.configure("[register]", "[queue]\npath = 'queue'\n[register]");
    let clock = Clock::new(roster.folder());
    run_by(&clock, &mut roster);
    let first = enqueue(&roster, job(Vec::new())).expect("there is room");
    let later = enqueue(&roster, NewJob { delay_ms: Some(3_600_000), ..job(Vec::new()) }).expect("there is room");
    let leased = take(&roster);
    assert_eq!(ids(&leased), [first]);
    for hours in [-30, 0] {
        clock.jump(hours);
        let next = enqueue(&roster, job(Vec::new())).expect("there is room");
        let taken = take(&roster);
        assert_eq!(ids(&taken), [next], "{hours} h");
        done(&roster, &taken[0]).expect("it has the lease");
    }
    clock.jump(2);
    let next = enqueue(&roster, job(Vec::new())).expect("there is room");
    let taken = take(&roster);
    assert_eq!(ids(&taken), [next], "the delay of the other one goes on");
    done(&roster, &taken[0]).expect("it has the lease");
    let short = enqueue(&roster, NewJob { delay_ms: Some(1_000), ..job(Vec::new()) }).expect("there is room");
    clock.jump(-30);
    let taken = eventually("the delay is over", SOON, || {
        let taken = take(&roster);
        ensure(ids(&taken) == [short], format!("{taken:?}")).map(|()| taken)
    });
    done(&roster, &taken[0]).expect("it has the lease");
    done(&roster, &leased[0]).expect("it has the lease");
    roster.kill();
    clock.jump(4);
    run_by(&clock, &mut roster);
    let taken = eventually("over a restart a delay goes by the wall", SOON, || {
        let taken = take(&roster);
        ensure(ids(&taken) == [later], format!("{taken:?}")).map(|()| taken)
    });
    done(&roster, &taken[0]).expect("it has the lease");
    assert_eq!(enqueue(&roster, NewJob { timeout_ms: Some(1_000), ..job(Vec::new()) }).map(drop).ok(), Some(()));
    let short = take(&roster);
    roster.kill();
    clock.jump(-48);
    run_by(&clock, &mut roster);
    let again = eventually("its lease ends, though it was given two days later", SOON, || {
        let taken = take(&roster);
        ensure(ids(&taken) == ids(&short), format!("{taken:?}")).map(|()| taken)
    });
    assert_eq!((again[0].attempt, again[0].state), (2, JobState::RUNNING));
}
