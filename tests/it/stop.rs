//! The stop of a sidecar: workers complete what they do, and no client holds it up.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{Roster, SOON, ensure, eventually, exception};
use crate::idl::{
    EnqueueRequest, GetRequest, JobAction, JobQuery, JobState, JobUpdate, NewJob, NotFound, ResolveRequest,
    TRosterSyncClient, TakeJobsRequest, WorkerState, WorkersQuery,
};
use crate::workers::prepared;

/// Performs a job for as long as a test wants, and offers a service.
const PERFORMER: &str = r"
$worker = Roster\Worker::fromEnvironment();
$worker->offer('mail', new class { public function send(): string { return 'sent'; } });
$worker->perform('long', function (): void {
    touch(__DIR__ . '/begun');
    while (!is_file(__DIR__ . '/go')) {
        usleep(10_000);
    }
});
$worker->ready();
$worker->run();
";

#[test]
fn until_the_workers_have_ended_clients_are_answered_and_jobs_enqueued_and_no_worker_is_commanded() {
    // The job alone decides how long it takes.
    let mut roster = prepared(
        "[sidecar]\nstop_timeout = '1h'\n[queue]\npath = 'queue'\n[[worker]]\nname = 'jobs'\ncommand = ['php', '{folder}/jobs.php']\n\
         ready = 'message'\nstop_timeout = '1h'\n[[worker]]\nname = 'quick'\ncommand = ['sleep', '1000']\n\
         [[worker]]\nname = 'stuck'\ndirectory = '{folder}'\ncommand = ['sh', '-c', \"trap '' TERM; touch stuck; while :; do sleep 0.05; done\"]\nstop_timeout = '1h'\n",
    );
    roster.write("jobs.php", &format!("<?php require '{}/php/autoload.php';{PERFORMER}", env!("CARGO_MANIFEST_DIR")));
    roster.run();
    let enqueue = |queue: &str| {
        let job = NewJob::new(queue.to_owned(), "C".to_owned(), None, None, None, None, None, None, None, None, None);
        roster.client().enqueue(EnqueueRequest { jobs: vec![job] }).map(|reply| reply.jobs[0].id)
    };
    let resolve = || roster.client().resolve(ResolveRequest::of("mail"));
    let long = eventually("the queues are open", SOON, || enqueue("long"));
    eventually("it is performed", SOON, || ensure(roster.folder().join("begun").exists(), roster.log()));
    eventually("one ignores that it is asked to end", SOON, || {
        ensure(roster.folder().join("stuck").exists(), roster.log())
    });
    let master = eventually("the worker is a master", SOON, resolve).instance.master_id;
    roster.process().signal(Signal::SIGTERM);
    eventually("the worker is to end", SOON, || {
        let workers = roster.client().workers(WorkersQuery::default()).map_err(|error| format!("{error:?}"))?.workers;
        let is_ending =
            |group: &str| workers.iter().any(|worker| worker.group == group && worker.state == WorkerState::STOPPING);
        let has_ended = !workers.iter().any(|worker| worker.group == "quick" && worker.pid.is_some());
        ensure(is_ending("jobs") && is_ending("stuck") && has_ended, format!("{workers:?}"))
    });
    eventually("of one that is gone it is said that it is there again later", SOON, || {
        let logs = roster.cli(["worker", "logs", "quick/1"]);
        ensure(logs.wrong.contains("the sidecar stops"), format!("{logs:?}"))
    });
    let kill = roster.cli(["worker", "stop", "stuck", "--now"]);
    assert_eq!(kill.code, Some(0), "{kill:?}");
    let mut enqueued = Vec::new();
    for round in 0..3 {
        enqueued.push(enqueue("other").unwrap_or_else(|error| panic!("{round}: {error:?}")));
        let job = roster.client().job(JobQuery { id: long }).expect("it is performed").job;
        assert_eq!((job.state, job.attempt), (JobState::RUNNING, 1), "{round}");
        assert_eq!(resolve().expect("one").instance.master_id, master, "{round}");
        let request = TakeJobsRequest::new(vec!["other".into()], 1, None, 0, None);
        let taken = roster.client().take_jobs(request).expect("an answer").jobs;
        assert_eq!(taken[0].id, enqueued[0], "{round}");
        let back = JobUpdate::new(taken[0].id, taken[0].attempt, JobAction::RELEASE, None, None, None, None, None);
        roster.client().update_job(back).expect("it has the lease");
        let status = roster.cli(["status"]);
        assert_eq!(status.code, Some(0), "{round}: {status:?}");
        let restart = roster.cli(["worker", "restart", "jobs"]);
        assert!(restart.code != Some(0) && restart.wrong.contains("the sidecar stops"), "{round}: {restart:?}");
        let remove = roster.cli(["worker", "remove", "jobs"]);
        assert!(remove.code != Some(0) && remove.wrong.contains("the sidecar stops"), "{round}: {remove:?}");
    }
    roster.write("go", "");
    assert!(roster.ends().success());
    assert!(!roster.log().contains("had to be cut"), "{}", roster.log());
    roster.run();
    let find = |id: i64| roster.client().job(JobQuery { id });
    eventually("it was done, and not lost", SOON, || {
        exception::<NotFound>(find(long)).map(drop).map_err(|error| format!("{error:?}"))
    });
    for id in enqueued {
        assert_eq!(find(id).expect("it is there").job.state, JobState::WAITING);
    }
}

#[test]
fn clients_that_read_no_answer_or_ask_without_end_do_not_hold_up_the_stop() {
    const ASKS: &[u8] = b"\x80\x01\x00\x01\x00\x00\x00\x06zkData\x00\x00\x00\x07\x00";
    let mut roster = Roster::of_file(&format!("\"/zk_test\" = \"{}\"\n", "x".repeat(10_000)));
    let connect = || UnixStream::connect(roster.socket()).expect("it accepts");
    let (mut reads_nothing, mut asks, mut reads_slowly) = (connect(), connect(), connect());
    let mut reads = asks.try_clone().expect("a second descriptor");
    // What is sent behind a request that waits is there when the stop ends that one.
    let revision = roster.client().get(GetRequest::new("/zk_test".into(), None)).expect("a node").freshness.revision;
    let watch = b"\x80\x01\x00\x01\x00\x00\x00\x05watch\x00\x00\x00\x07\x0c\x00\x01\x0a\x00\x01";
    let watch = [&watch[..], &revision.to_be_bytes(), b"\x08\x00\x04\x00\x00\xea\x60\x00\x00"].concat();
    reads_slowly.write_all(&[watch, ASKS.repeat(2_000)].concat()).expect("it is read");
    reads_nothing.set_write_timeout(Some(Duration::from_millis(100))).expect("it can be set");
    // As much as the sidecar takes.
    while reads_nothing.write_all(&ASKS.repeat(10)).is_ok() {}
    let reading_slowly = std::thread::spawn(move || {
        // A sender waits until three quarters of the socket's buffer have been read.
        while reads_slowly.read(&mut [0; 65_536]).is_ok_and(|count| count > 0) {
            std::thread::sleep(Duration::from_millis(150));
        }
    });
    let asking = std::thread::spawn(move || while asks.write_all(ASKS).is_ok() {});
    let reading = std::thread::spawn(move || while reads.read(&mut [0; 65_536]).is_ok_and(|count| count > 0) {});
    assert!(roster.stop().success());
    assert!(!roster.log().contains("had to be cut"), "{}", roster.log());
    asking.join().expect("no panic");
    reading.join().expect("no panic");
    reading_slowly.join().expect("no panic");
}
