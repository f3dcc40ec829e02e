//! The stop of a sidecar whose workers complete what they do.

use nix::sys::signal::Signal;

use crate::harness::{SOON, ensure, eventually, exception};
use crate::idl::{
    EnqueueRequest, JobAction, JobQuery, JobState, JobUpdate, NewJob, NotFound, ResolveRequest, TRosterSyncClient,
    TakeJobsRequest, WorkerState, WorkersQuery,
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
         ready = 'message'\nstop_timeout = '1h'\n",
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
    let master = eventually("the worker is a master", SOON, resolve).instance.master_id;
    roster.process().signal(Signal::SIGTERM);
    eventually("the worker is to end", SOON, || {
        let workers = roster.client().workers(WorkersQuery::default()).map_err(|error| format!("{error:?}"))?.workers;
        ensure(workers[0].state == WorkerState::STOPPING, format!("{workers:?}"))
    });
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
