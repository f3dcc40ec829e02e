//! Queues of jobs: over Thrift and on the command line, for several users, and across the death of the sidecar.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use roster::clock::millis_since_1970;
use serde_json::json;

use crate::access::for_everybody;
use crate::harness::{Printing, Roster, SOON, ensure, eventually, exception, is_skipped_without_root};
use crate::idl::{
    EnqueueRequest, InvalidRequest, Job, JobAction, JobQuery, JobState, JobUpdate, NewJob, NotFound, Overloaded,
    QueuesQuery, TRosterSyncClient, TakeJobsRequest, WorkerState, WorkersQuery,
};

/// A user whom no machine has.
const WEB: u32 = 33_033;

const SETTINGS: &str = "[queue]\npath = 'queue'\n";

/// A sidecar that keeps queues, and has what else it answers from.
fn roster(settings: &str) -> Roster {
    let nodes = "[[file]]\npath = \"nodes.toml\"\n";
    let mut roster = Roster::prepare(&format!("{nodes}{settings}"));
    roster.write("nodes.toml", "[nodes]\n\"/a\" = \"one\"\n");
    roster.run();
    roster.becomes("live");
    roster
}

fn job(name: &str) -> NewJob {
    NewJob::new("mail".to_owned(), name.to_owned(), b"\xff{}".to_vec(), None, None, None, None, None, None, None, None)
}

fn enqueue(roster: &Roster, jobs: Vec<NewJob>) -> Vec<i64> {
    let reply = roster.client().enqueue(EnqueueRequest { jobs }).expect("there is room");
    reply.jobs.iter().map(|job| job.id).collect()
}

fn take(roster: &Roster, limit: i32, wait_ms: i32) -> Vec<Job> {
    let request = TakeJobsRequest::new(vec!["none".into(), "mail".into()], limit, None, wait_ms, None);
    roster.client().take_jobs(request).expect("an answer").jobs
}

fn update(roster: &Roster, job: &Job, action: JobAction) -> thrift::Result<()> {
    let error = "no route".to_owned();
    roster.client().update_job(JobUpdate::new(job.id, job.attempt, action, None, error, None, None, None)).map(drop)
}

/// What the command line prints that ends well.
fn prints(roster: &Roster, words: &[&str]) -> String {
    let ended = roster.cli(words);
    assert_eq!(ended.code, Some(0), "{words:?}: {ended:?}");
    ended.text()
}

#[test]
fn jobs_outlast_a_killed_sidecar_with_their_leases_until_they_are_done() {
    let mut roster = roster(SETTINGS);
    let ids = enqueue(&roster, vec![job("a"), job("b"), job("c")]);
    let taken = take(&roster, 2, 0);
    assert_eq!(taken.iter().map(|job| job.id).collect::<Vec<_>>(), ids[..2]);
    assert_eq!((taken[0].payload.as_slice(), taken[0].attempt, taken[0].state), (&b"\xff{}"[..], 1, JobState::RUNNING));
    roster.kill();
    roster.run();
    let third = take(&roster, 9, 0);
    assert_eq!(third.iter().map(|job| job.id).collect::<Vec<_>>(), ids[2..], "the others have their leases");
    update(&roster, &taken[0], JobAction::DONE).expect("it has the lease");
    update(&roster, &taken[1], JobAction::FAIL).expect("it has the lease");
    update(&roster, &third[0], JobAction::BURY).expect("it has the lease");
    let absent: NotFound = exception(roster.client().job(JobQuery { id: ids[0] })).expect("it is done");
    assert_eq!(absent.name, ids[0].to_string());
    exception::<NotFound>(update(&roster, &taken[0], JobAction::DONE)).expect("it is done");
    let failed = roster.client().job(JobQuery { id: ids[1] }).expect("it is there").job;
    assert_eq!((failed.state, failed.failures, failed.error.as_deref()), (JobState::DELAYED, 1, Some("no route")));
    roster.kill();
    roster.run();
    let listed = roster.cli(["queue", "list", "-o", "json"]).json();
    let counts = ["waiting", "delayed", "running", "dead"].map(|state| listed["queues"][0][state].clone());
    assert_eq!(counts, [0, 1, 0, 1].map(serde_json::Value::from));
    let status = prints(&roster, &["status"]);
    assert!(status.contains("\n1 dead job in mail; `roster queue peek mail dead` tells why\n"), "{status}");
    assert_eq!(prints(&roster, &["queue", "retry", "mail", &ids[2].to_string()]), "1 job waits again\n");
    assert_eq!(take(&roster, 9, 0).first().map(|job| (job.id, job.attempt)), Some((ids[2], 2)));
    let status = roster.cli(["status", "-o", "json"]).json();
    assert_eq!((&status["counters"]["jobsRunning"], &status["counters"]["jobsDelayed"]), (&1.into(), &1.into()));
}

#[test]
fn status_counts_what_becomes_of_jobs() {
    jobs_are_counted(&roster(SETTINGS));
}

/// By a sidecar that has counted none, wherever it keeps them.
pub(crate) fn jobs_are_counted(roster: &Roster) {
    let counted = || {
        let counters = roster.status().counters;
        ["jobsEnqueued", "jobAttempts", "jobsDone", "jobFailures", "jobsDied"].map(|name| counters[name])
    };
    let job = |name: &str| NewJob { payload: Some(b"{}".to_vec()), ..job(name) };
    let unique = NewJob { unique_key: Some("k".into()), ..job("released") };
    let last = NewJob { retries: Some(0), ..job("fails for the last time") };
    enqueue(roster, vec![job("done"), job("fails"), job("buried"), last, unique.clone(), unique]);
    assert_eq!(counted(), [5, 0, 0, 0, 0], "one was there already");
    let taken = take(roster, 9, 0);
    assert_eq!(counted(), [5, 5, 0, 0, 0]);
    let actions = [
        (JobAction::DONE, [5, 5, 1, 0, 0]),
        (JobAction::FAIL, [5, 5, 1, 1, 0]),
        (JobAction::BURY, [5, 5, 1, 1, 1]),
        (JobAction::FAIL, [5, 5, 1, 2, 2]),
        (JobAction::RELEASE, [5, 5, 1, 2, 2]),
    ];
    for (job, (action, counts)) in taken.iter().zip(actions) {
        update(roster, job, action).expect("it has the lease");
        assert_eq!(counted(), counts, "{job:?} {action:?}");
    }
    assert_eq!(take(roster, 9, 0).len(), 1, "it was given back");
    assert_eq!(counted(), [5, 6, 1, 2, 2]);
}

#[test]
fn whoever_waits_has_a_job_as_soon_as_it_is_enqueued() {
    let roster = roster(SETTINGS);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| take(&roster, 1, 30_000));
        eventually("it waits", SOON, || {
            let waiting = roster.status().counters["watchesWaiting"];
            ensure(waiting == 1, waiting)
        });
        let ids = enqueue(&roster, vec![job("a")]);
        assert_eq!(waiting.join().expect("no panic").first().map(|job| job.id), Some(ids[0]));
    });
}

#[test]
fn the_command_line_enqueues_looks_pauses_and_removes() {
    let roster = roster(SETTINGS);
    fs::write(roster.folder().join("payload"), b"\xff").expect("written");
    let file = format!("@{}", roster.folder().join("payload").display());
    let id = prints(&roster, &["enqueue", "mail", "send", &file, "--priority=1", "--unique=k", "--limit-key=c7"]);
    let again = roster.cli(["enqueue", "mail", "send", "--unique", "k"]);
    assert!(again.wrong.contains("another job has this key already"), "{again:?}");
    assert_eq!(again.text(), id);
    prints(&roster, &["enqueue", "mail", "later", "{}", "--delay", "1h", "--retries", "0", "--attempt-timeout", "5m"]);
    prints(&roster, &["queue", "pause", "mail"]);
    assert_eq!(take(&roster, 1, 0), []);
    let table = prints(&roster, &["queue", "list"]);
    assert!(table.contains("paused") && table.contains("  OLDEST\n"), "{table}");
    let peeked = prints(&roster, &["queue", "peek", "mail", "-o", "json"]);
    assert!(peeked.contains(r#""payloadBase64":"/w==""#) && peeked.contains(r#""name":"send""#), "{peeked}");
    let keys = ["uniqueKey", "limitKey", "dueAt"]
        .map(|key| roster.cli(["queue", "peek", "mail", "-o", "json"]).json()["jobs"][0][key].clone());
    assert_eq!(keys, [json!("k"), json!("c7"), json!(null)]);
    let peeked = prints(&roster, &["queue", "peek", "mail", "DELAYED"]);
    assert!(peeked.contains("later") && peeked.lines().count() == 2, "{peeked}");
    prints(&roster, &["queue", "resume", "mail"]);
    assert_eq!(take(&roster, 1, 0).len(), 1);
    let once = ["enqueue", "mail", "once", "--unique", "once", "--until-start"];
    let first = prints(&roster, &once);
    assert_eq!(prints(&roster, &once), first);
    take(&roster, 1, 0);
    let second = prints(&roster, &once);
    assert_ne!(second, first, "the first one is handed out");
    let shown = prints(&roster, &["queue", "job", first.trim_end()]);
    assert!(shown.contains("  running, until its lease ends 20") && shown.contains("\nPAYLOAD "), "{shown}");
    let shown = prints(&roster, &["queue", "job", second.trim_end(), "-o", "json"]);
    assert!(shown.contains(r#""state":"waiting""#) && shown.contains(r#""payload":"""#), "{shown}");
    assert_eq!(roster.cli(["queue", "job", "1"]).code, Some(1));
    let other = prints(&roster, &["enqueue", "mail", "other", "--delay", "1h"]);
    let other = other.trim_end();
    assert_eq!(prints(&roster, &["queue", "cancel", other]), format!("job {other} is removed\n"));
    assert_eq!(roster.cli(["queue", "cancel", other]).code, Some(1));
    assert_eq!(prints(&roster, &["queue", "purge", "mail", "delayed"]), "1 job removed\n");
    assert_eq!(prints(&roster, &["queue", "retry", "mail", "--all"]), "0 jobs wait again\n");
    assert_eq!(roster.cli(["queue", "peek", "none"]).code, Some(1));
    let log = roster.log();
    for control in [
        r#"queue="mail" what="purge delayed" jobs=1"#,
        r#"queue="mail" what="retry all" jobs=0"#,
        r#"queue="mail" what="pause""#,
    ] {
        let line = log.lines().find(|line| line.contains("a queue is controlled") && line.contains(control));
        assert!(line.is_some_and(|line| control.contains("jobs") || !line.contains("jobs=")), "{control}: {log}");
    }
    let wrong = roster.cli(["enqueue", "mail", ""]);
    assert!(wrong.code == Some(2) && wrong.wrong.contains("name: it has 0 bytes"), "{wrong:?}");
    let wrong = roster.cli(["enqueue", "mail", "send", "@/nosuch"]);
    assert!(wrong.code == Some(2) && wrong.wrong.contains("cannot read /nosuch: No such file"), "{wrong:?}");
}

#[test]
fn a_payload_that_is_no_json_is_enqueued_and_that_is_told() {
    let roster = roster(SETTINGS);
    for (payload, is_told) in [("{to: a@b.c}", true), (" ", true), (r#"{"to": "a@b.c"}"#, false), ("", false)] {
        let ended = roster.cli(["enqueue", "mail", "send", payload]);
        assert_eq!((ended.code, ended.wrong.contains("the payload is no JSON")), (Some(0), is_told), "{ended:?}");
    }
}

#[test]
fn whoever_sees_a_queue_is_told_how_many_of_its_jobs_wait_for_a_limit() {
    let roster = roster(&format!("{SETTINGS}[[queue.limit]]\nqueue = 'mail'\nrate = '1/1d'\nkey = true\n"));
    enqueue(&roster, (0..3).map(|_| NewJob { limit_key: Some("c7".into()), ..job("a") }).collect());
    let listed = roster.cli(["queue", "list"]);
    assert!(!listed.wrong.contains("queue.limit"), "{listed:?}");
    assert_eq!(take(&roster, 3, 0).len(), 1);
    let listed = roster.cli(["queue", "list"]);
    let told = "2 jobs wait for a `[[queue.limit]]` of mail";
    assert!(listed.wrong.contains(told), "{listed:?}");
    assert_eq!(roster.cli(["queue", "list", "-o", "json"]).json()["queues"][0]["limited"], 2);
    let status = prints(&roster, &["status"]);
    assert!(status.contains(told), "{status}");
}

#[test]
fn the_command_line_enqueues_for_a_time() {
    let roster = roster(SETTINGS);
    let hour = SystemTime::now() + Duration::from_secs(3_600);
    let at = humantime::format_rfc3339_seconds(hour).to_string();
    prints(&roster, &["enqueue", "mail", "later", "--at", &at]);
    prints(&roster, &["enqueue", "mail", "now", "--at", "2001-02-03T04:05:06Z"]);
    let of = |state: &str| roster.cli(["queue", "peek", "mail", state, "-o", "json"]).json()["jobs"].clone();
    let (due, meant) = (of("delayed")[0]["stateAt"].as_u64().expect("a time"), millis_since_1970(hour));
    assert!(due.abs_diff(meant) < 60_000, "{due} {meant}");
    assert_eq!((&of("delayed")[0]["name"], &of("waiting")[0]["name"]), (&json!("later"), &json!("now")));
    assert_eq!(roster.cli(["enqueue", "mail", "a", "--at", &at, "--delay", "1h"]).code, Some(2));
}

#[test]
fn jobs_are_moved_on_the_command_line_and_a_watch_tells_it() {
    let roster = roster(SETTINGS);
    let ids = enqueue(&roster, vec![job("a"), job("b")]);
    let watch = Printing::start(&mut roster.command(["watch", "--queues", "-o", "json"]));
    let news = || serde_json::from_str::<serde_json::Value>(&watch.line()).expect("JSON");
    let present = news();
    assert_eq!(
        (&present["kind"], &present["name"], &present["waiting"]),
        (&"PRESENT".into(), &"mail".into(), &2.into())
    );
    assert_eq!(prints(&roster, &["queue", "move", "mail", "--to", "post"]), "2 jobs moved\n");
    assert_eq!(prints(&roster, &["queue", "move", "mail", "--to", "post"]), "0 jobs moved\n", "there are no more");
    let numbers = |news: serde_json::Value| (news["name"].clone(), news["waiting"].clone());
    let told: Vec<_> = std::iter::repeat_with(news).map(numbers).take(2).collect();
    assert_eq!(told, [("mail".into(), 0.into()), ("post".into(), 2.into())]);
    let request = TakeJobsRequest::new(vec!["post".into()], 9, None, None, None);
    let taken = roster.client().take_jobs(request).expect("an answer").jobs;
    assert_eq!(taken.iter().map(|job| job.id).collect::<Vec<_>>(), ids);
    assert_eq!(roster.cli(["queue", "move", "none", "--to", "post"]).code, Some(1));
    for server in ["redis://localhost", "rediss://localhost", "unix:///run/redis.sock"] {
        assert_eq!(roster.cli(["queue", "move", "post", "--to", server]).code, Some(2), "{server}");
    }
}

#[test]
fn jobs_that_wait_in_a_paused_queue_are_told_by_status_and_whoever_moves_some_there_is_told() {
    let roster = roster(SETTINGS);
    enqueue(&roster, vec![job("a"), job("b")]);
    prints(&roster, &["queue", "pause", "mail"]);
    let line = "2 jobs wait in mail, which is paused: `roster queue resume mail`\n";
    let status = prints(&roster, &["status"]);
    assert!(status.contains(&format!("\n{line}")), "{status}");
    let listed = roster.cli(["queue", "list"]);
    assert!(listed.wrong.contains(&format!("roster: {line}")), "{listed:?}");
    prints(&roster, &["enqueue", "post", "c", "{}"]);
    let moved = roster.cli(["queue", "move", "post", "--to", "mail"]);
    assert_eq!((moved.code, moved.clone().text().as_str()), (Some(0), "1 job moved\n"), "{moved:?}");
    assert_eq!(moved.wrong, "roster: mail is paused: `roster queue resume mail`\n");
    prints(&roster, &["queue", "resume", "mail"]);
    let moved = roster.cli(["queue", "move", "post", "--to", "mail"]);
    assert_eq!((moved.clone().text().as_str(), moved.wrong.as_str()), ("0 jobs moved\n", ""));
    assert!(!prints(&roster, &["status"]).contains("paused"));
}

#[test]
fn users_enqueue_and_see_their_own_and_only_whom_a_rule_names_performs() {
    if is_skipped_without_root() {
        return;
    }
    let run = |settings: &str| {
        let roster = roster(&format!("{SETTINGS}{settings}"));
        for path in [roster.folder(), roster.socket()] {
            fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("a mode");
        }
        let program = for_everybody(roster.folder());
        (roster, program)
    };
    let says = |(roster, program): &(Roster, std::path::PathBuf), words: &[&str], code: i32| {
        let socket = format!("unix://{}", roster.socket().display());
        let mut command = Command::new(program);
        command.args(words).env("ROSTER_ADDRESS", socket).current_dir("/").uid(WEB).gid(WEB);
        let Output { status, stdout, stderr } = command.output().expect("it starts");
        let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert_eq!(status.code(), Some(code), "{words:?}: {text}");
        text
    };
    let without_rules = run("");
    says(&without_rules, &["enqueue", "mail", "a"], 0);
    assert!(says(&without_rules, &["queue", "list"], 0).contains("mail"));
    let told = says(&without_rules, &["queue", "peek", "mail"], 8);
    assert!(told.contains("uid 33033 may not look at jobs of mail") && told.contains("`perform`"), "{told}");
    let told = says(&without_rules, &["queue", "purge", "mail", "waiting"], 8);
    assert!(told.contains("may not control queues"), "{told}");
    let with_rules = run(&format!("[[allow]]\nuser = '{WEB}'\nenqueue = ['mail']\nperform = ['img-*']\n"));
    says(&with_rules, &["enqueue", "mail", "a"], 0);
    says(&with_rules, &["enqueue", "img-small", "a"], 8);
    enqueue(
        &with_rules.0,
        vec![NewJob { queue: "img-small".into(), ..job("x") }, NewJob { queue: "own".into(), ..job("y") }],
    );
    let listed = says(&with_rules, &["queue", "list"], 0);
    assert!(listed.contains("img-small") && listed.contains("mail") && !listed.contains("own"), "{listed}");
    says(&with_rules, &["queue", "peek", "img-small"], 0);
    says(&with_rules, &["queue", "pause", "img-small"], 8);
}

#[test]
fn without_a_folder_and_with_one_that_cannot_be_had_it_says_so_and_serves_the_rest() {
    let off = roster("");
    let refused: InvalidRequest =
        exception(off.client().enqueue(EnqueueRequest { jobs: vec![job("a")] })).expect("off");
    assert!(refused.message.contains("set `path` or `backend` of `[queue]`"), "{refused:?}");
    let mut roster = roster(SETTINGS);
    enqueue(&roster, vec![job("a")]);
    roster.kill();
    let file = roster.folder().join("queue/jobs.mdb");
    let bytes = fs::read(&file).expect("a file");
    fs::write(&file, &bytes[..bytes.len() / 2]).expect("written");
    roster.run();
    let queues = roster.client().queues(QueuesQuery::default()).expect("an answer");
    let trouble = queues.trouble.expect("it is told");
    assert!(queues.queues.is_empty() && trouble.contains("set aside in"), "{trouble}");
    enqueue(&roster, vec![job("a")]);
    roster.kill();
    fs::remove_file(&file).and_then(|()| fs::create_dir(&file)).expect("in its way");
    roster.run();
    roster.becomes("live");
    assert_eq!(roster.data("/a"), b"one");
    let refused: Overloaded =
        exception(roster.client().enqueue(EnqueueRequest { jobs: vec![job("a")] })).expect("trouble");
    assert!(refused.message.contains("jobs.mdb"), "{refused:?}");
}

#[test]
fn of_many_jobs_that_die_at_once_some_are_logged_and_the_rest_counted() {
    let roster = roster(SETTINGS);
    enqueue(&roster, (0..30).map(|_| NewJob { retries: Some(0), ..job("a") }).collect());
    let request = TakeJobsRequest::new(vec!["mail".into()], 30, 200, 0, None);
    assert_eq!(roster.client().take_jobs(request).expect("an answer").jobs.len(), 30);
    eventually("their leases end", SOON, || {
        let log = roster.log();
        let is_told = log.contains("more jobs died at the same time") && log.contains("more=22");
        ensure(is_told && log.matches("a job is dead").count() == 8, log)
    });
}

#[test]
fn jobs_that_fail_and_are_tried_again_are_told_by_the_log_once_a_minute_and_by_status() {
    failures_are_told(&roster(SETTINGS));
}

/// By a sidecar of whose queues no job has failed yet, wherever it keeps them.
pub(crate) fn failures_are_told(roster: &Roster) {
    let job = |name: &str, retries: i32| {
        let payload = Some(b"{}".to_vec());
        NewJob { payload, retries: Some(retries), ..job(name) }
    };
    enqueue(roster, vec![job("first", 9), job("next", 9), job("next", 9), job("dies", 0)]);
    let taken = take(roster, 9, 0);
    assert_eq!(taken.len(), 4);
    taken.iter().for_each(|job| update(roster, job, JobAction::FAIL).expect("it has the lease"));
    roster.logs("a job is dead");
    let log = roster.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("jobs fail, and are tried again")).collect();
    assert_eq!(told.len(), 1, "{log}");
    let id = format!("id={}", taken[0].id);
    let fields = ["WARN", "mail", "failures=1", id.as_str(), "job=first", "no route"];
    assert!(fields.iter().all(|field| told[0].contains(field)), "{told:?}");
    let line = "3 failures in the last 10 minutes of jobs that are tried again in mail; \
                `roster queue peek mail delayed` tells why\n";
    let status = prints(roster, &["status"]);
    assert!(status.contains(&format!("\n{line}")), "{status}");
    let listed = roster.cli(["queue", "list"]);
    assert!(listed.wrong.contains(&format!("roster: {line}")), "{listed:?}");
    assert_eq!(roster.cli(["queue", "list", "-o", "json"]).json()["queues"][0]["failedLately"], 3);
}

#[test]
fn a_result_is_reported_that_is_as_large_as_a_payload_may_be() {
    let roster = roster(SETTINGS);
    let id = enqueue(&roster, vec![NewJob { keep_result_ms: Some(600_000), ..job("a") }])[0];
    let taken = take(&roster, 1, 0);
    let result = vec![b'x'; 64 << 10];
    let done = JobUpdate::new(id, taken[0].attempt, JobAction::DONE, None, None, None, None, result.clone());
    roster.client().update_job(done).expect("there is room");
    assert!(roster.client().job(JobQuery { id }).expect("it is kept").job.result == Some(result));
}

#[test]
fn that_the_queues_are_full_is_logged_once_and_told_by_status() {
    let roster = roster(&format!("{SETTINGS}max_jobs = 3\n"));
    enqueue(&roster, vec![job("a"), job("b"), job("c")]);
    assert!(!prints(&roster, &["status"]).contains("NOT IN ORDER"));
    for _ in 0..3 {
        let request = EnqueueRequest { jobs: vec![job("d")] };
        exception::<Overloaded>(roster.client().enqueue(request)).expect("it is full");
    }
    let status = prints(&roster, &["status"]);
    let told = "\nqueues NOT IN ORDER: jobs are refused, as the queues are full by `queue.max_jobs`";
    assert!(status.contains(told), "{status}");
    let log = roster.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("jobs are refused")).collect();
    assert!(told.len() == 1 && told[0].contains("`queue.max_jobs` is 3"), "{log}");
}

/// A worker whose jobs take as long as the process lives, and much memory if they are to; or end it, slowly.
const PERFORMER: &str = r"
$worker = Roster\Worker::fromEnvironment();
$worker->perform('mail', function (Roster\Job $job): void {
    if ($job->name === 'quick') {
        return;
    }
    if ($job->name === 'exit') {
        register_shutdown_function(fn () => usleep(1_500_000));
        exit();
    }
    if ($job->name === 'slow') {
        file_put_contents(__DIR__ . '/begun', $job->id . PHP_EOL, FILE_APPEND);
        // A signal cuts a sleep off.
        for ($until = microtime(true) + 1; microtime(true) < $until;) {
            usleep(20_000);
        }
        return;
    }
    $taken = $job->name === 'eat' ? str_repeat('x', 200 << 20) : '';
    while (true) {
        usleep(20_000);
    }
});
$worker->ready();
$worker->run();
";

/// A sidecar with one process that performs jobs, and little time to end.
fn performing(limit: &str) -> Roster {
    performing_by(PERFORMER, limit)
}

fn performing_by(code: &str, limit: &str) -> Roster {
    let php = format!("<?php require '{}/php/autoload.php';{code}", env!("CARGO_MANIFEST_DIR"));
    let mut roster = Roster::prepare(&format!(
        "{SETTINGS}[[worker]]\nname = 'jobs'\ncommand = ['php', '{{folder}}/jobs.php']\nready = 'message'\nstop_timeout = '100ms'\n\
         restart_delay = '10ms'\nmax_restart_delay = '10ms'\n{limit}"
    ));
    roster.write("jobs.php", &php);
    roster.run();
    roster
}

/// Enqueues jobs that are performed once, and kept then: their ids.
fn add_all(roster: &Roster, names: &[&str]) -> Vec<i64> {
    let once = |name: &&str| NewJob { retries: Some(0), keep_result_ms: Some(600_000), ..job(name) };
    let jobs: Vec<NewJob> = names.iter().map(once).collect();
    let reply = eventually("there are queues", SOON, || {
        roster.client().enqueue(EnqueueRequest { jobs: jobs.clone() }).map_err(|error| format!("{error:?}"))
    });
    reply.jobs.iter().map(|job| job.id).collect()
}

fn becomes(roster: &Roster, id: i64, is: impl Fn(&Job) -> bool) {
    eventually("the job is as expected", SOON * 2, || {
        let job = roster.client().job(JobQuery { id }).map_err(|error| format!("{error:?}"))?.job;
        ensure(is(&job), format!("{job:?} {}", roster.log()))
    });
}

#[test]
fn a_job_that_ends_its_process_takes_no_other_with_it() {
    for limit in ["", "max_requests = 1\n"] {
        let roster = performing(limit);
        let ids = add_all(&roster, &["exit", "quick", "exit", "quick"]);
        for ids in ids.chunks(2) {
            becomes(&roster, ids[0], |job| job.state == JobState::DEAD && job.attempt == 1);
            becomes(&roster, ids[1], |job| job.state == JobState::DONE && job.failures == 0);
        }
    }
}

#[test]
fn a_process_that_ends_while_it_performs_a_job_is_told_with_that_by_the_log_and_to_who_may_perform_it() {
    let roster = performing_by(
        r"
        $worker = Roster\Worker::fromEnvironment();
        $worker->perform('mail', function (Roster\Job $job): void {
            if ($job->name === 'exit') {
                posix_kill(getmypid(), SIGKILL);
            }
        });
        $worker->ready();
        $worker->run();",
        "",
    );
    let ids = add_all(&roster, &["quick", "exit"]);
    let told = format!("it was ended by SIGKILL while it performed mail/exit {}", ids[1]);
    eventually("WHY names the job", SOON, || {
        let listed = prints(&roster, &["worker", "list"]);
        ensure(listed.contains(&told), format!("{listed} {}", roster.log()))
    });
    let log = roster.log();
    let line = log.lines().find(|line| line.contains("a worker failed, and is started again"));
    assert!(line.is_some_and(|line| line.contains(&told)), "{log}");
}

#[test]
fn it_is_told_which_process_performs_which_job_and_that_nobody_performs_a_queue() {
    let roster = performing("");
    let id = add_all(&roster, &["wait"])[0];
    let pid = eventually("it is performed", SOON * 2, || {
        let workers = roster.client().workers(WorkersQuery::default()).map_err(|error| format!("{error:?}"))?.workers;
        let does = workers[0].doing.as_deref() == Some(format!("mail/wait {id}").as_str());
        ensure(does && workers[0].job == Some(id) && workers[0].doing_since_ms.is_some(), format!("{workers:?}"))?;
        workers[0].pid.ok_or_else(|| format!("{workers:?}"))
    });
    let found = roster.client().job(JobQuery { id }).expect("it runs").job;
    assert_eq!((found.worker.as_deref(), found.pid), (Some("jobs/1"), Some(pid)));
    for words in [&["queue", "peek", "mail", "running"][..], &["queue", "job", &id.to_string()]] {
        let table = prints(&roster, words);
        assert!(table.contains(&format!("  jobs/1 pid {pid}")), "{table}");
    }
    let peeked = roster.cli(["queue", "peek", "mail", "running", "-o", "json"]).json();
    assert_eq!((&peeked["jobs"][0]["worker"], &peeked["jobs"][0]["pid"]), (&json!("jobs/1"), &json!(pid)));
    enqueue(&roster, vec![NewJob { queue: "mial".into(), ..job("quick") }]);
    let listed = roster.cli(["queue", "list"]);
    let told = "1 job waits in mial, and no worker or client here performs that\n";
    assert!(listed.wrong.contains(told) && !listed.wrong.contains("in mail"), "{listed:?}");
    let listed = roster.cli(["queue", "list", "-o", "json"]).json();
    let numbers = |nth: usize| ["workers", "clients"].map(|name| listed["queues"][nth][name].clone());
    assert_eq!((numbers(0), numbers(1)), ([json!(1), json!(0)], [json!(0), json!(0)]));
    let status = prints(&roster, &["status"]);
    assert!(status.contains("\n1 job waits in mial, which nobody here performs; `roster queue list`"), "{status}");
}

#[test]
fn a_process_that_does_not_become_ready_has_no_job_and_is_given_up_after_start_retries() {
    const PERFORMS: &str = "$worker = Roster\\Worker::fromEnvironment(); $worker->perform('mail', fn () => null);";
    for (then, limit) in [("usleep(1_000_000); exit(255);", ""), ("sleep(1_000);", "ready_timeout = '1s'\n")] {
        let code = format!("{PERFORMS} {then}");
        let roster = performing_by(&code, &format!("start_retries = 1\n{limit}"));
        let id = add_all(&roster, &["quick"])[0];
        eventually("it is given up", SOON, || {
            let workers =
                roster.client().workers(WorkersQuery::default()).map_err(|error| format!("{error:?}"))?.workers;
            ensure(workers[0].state == WorkerState::FATAL, format!("{workers:?}"))
        });
        becomes(&roster, id, |job| (job.state, job.attempt, job.failures) == (JobState::WAITING, 0, 0));
    }
}

#[test]
fn a_process_that_is_replaced_for_max_requests_ends_its_job_unless_it_is_stopped() {
    let roster = performing("max_requests = 1\n");
    let ids = add_all(&roster, &["slow", "slow", "slow"]);
    for id in &ids {
        becomes(&roster, *id, |job| job.state == JobState::DONE && (job.attempt, job.failures) == (1, 0));
    }
    let begun = std::fs::read_to_string(roster.folder().join("begun")).expect("they have begun");
    assert_eq!(begun.lines().count(), ids.len(), "each once");
    let replaced = roster.log().matches("a worker was replaced").count();
    let id = add_all(&roster, &["wait"])[0];
    becomes(&roster, id, |job| job.state == JobState::RUNNING);
    eventually("its process is to end", SOON, || {
        ensure(roster.log().matches("a worker was replaced").count() > replaced, roster.log())
    });
    prints(&roster, &["worker", "stop", "jobs"]);
    becomes(&roster, id, |job| job.state == JobState::WAITING && job.failures == 0);
}

#[test]
fn a_process_that_takes_too_much_is_replaced_also_while_its_predecessor_ends_a_job() {
    let roster = performing("max_requests = 1\nmax_memory = '150MiB'\n");
    let id = add_all(&roster, &["wait"])[0];
    becomes(&roster, id, |job| job.state == JobState::RUNNING);
    let eats = add_all(&roster, &["eat"])[0];
    becomes(&roster, eats, |job| job.state == JobState::DEAD && job.attempt == 1);
    becomes(&roster, id, |job| job.state == JobState::RUNNING && job.attempt == 1);
}

#[test]
fn a_job_dies_of_a_limit_that_its_process_passes_and_of_no_restart() {
    let add = |roster: &Roster, name: &str| {
        let id = eventually("there are queues", SOON, || {
            roster.client().enqueue(EnqueueRequest { jobs: vec![job(name)] }).map_err(|error| format!("{error:?}"))
        });
        id.jobs[0].id
    };
    for (limit, is_killed) in [("max_memory = '150MiB'\n", false), ("kill_memory = '150MiB'\n", true)] {
        let roster = performing(limit);
        let id = add(&roster, "eat");
        becomes(&roster, id, |job| job.state == JobState::DEAD && job.attempt == 3);
        let error = roster.client().job(JobQuery { id }).expect("it is kept").job.error.expect("it says why");
        assert!(!is_killed || error.ends_with("; it was ended by SIGKILL"), "{error}");
    }
    let roster = performing("");
    let id = add(&roster, "wait");
    for attempt in 1..=5 {
        becomes(&roster, id, |job| job.state == JobState::RUNNING && job.attempt == attempt);
        assert_eq!(roster.cli(["worker", "restart", "jobs"]).code, Some(0));
    }
    becomes(&roster, id, |job| job.state == JobState::RUNNING && job.attempt == 6 && job.failures == 0);
}
