//! The death of the process: what it has acknowledged is there, and nobody else has what somebody has.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use futures::future::join_all;

use super::live::start;
use super::*;

/// The variable by which the test of the same binary knows that it is to be the child, and in which folder.
const CHILD: &str = "ROSTER_QUEUE_TEST";

/// Not a test: what `what_was_acknowledged_survives_a_kill` kills.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_enqueues_and_performs() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let (tasks, _failed) = Tasks::new();
    let queues = start(Path::new(&folder), &tasks);
    let say = |word: &str, id: JobId| {
        let _ = writeln!(std::io::stdout().lock(), "{word} {id}");
    };
    // Longer than the test takes: a job that was taken is nobody else's until its end.
    let timeout = Some(Duration::from_secs(3_600));
    let produce = |number: usize| {
        let queues = queues.clone();
        async move {
            loop {
                let jobs = vec![NewJob { timeout, ..job("mail", "a") }; 1 + number % 3];
                let enqueued = queues.enqueue(ROOT, jobs).await.expect("there is room");
                enqueued.iter().for_each(|it| say("enqueued", it.id));
            }
        }
    };
    let perform = async {
        loop {
            let (wait, most) = (Duration::from_secs(60), Most { jobs: 2, ..MANY });
            let taking = queues.take(Some(ROOT), vec!["mail".into()], most, None, wait);
            let (jobs, handed) = taking.await.expect("it is on");
            handed.have_arrived();
            jobs.iter().for_each(|job| say("taken", job.id));
            for (nth, job) in jobs.into_iter().enumerate() {
                // Of some nothing is ever reported.
                if nth == 1 {
                    continue;
                }
                say("reported", job.id);
                let done = queues.update(None, (job.id, job.attempt), Update::Done, |_, _| true).await;
                done.expect("it has the lease");
                say("done", job.id);
            }
        }
    };
    tokio::join!(join_all((0..16).map(produce)), perform);
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let mut queue = Fixture::new(Config::default());
    let folder = queue.folder.path().join("queue");
    let [mut enqueued, mut taken, mut reported, mut done] = [(); 4].map(|()| BTreeSet::<JobId>::new());
    for round in 0..4 {
        queue.opened = None;
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "queue::tests::kill::child_that_enqueues_and_performs", "--nocapture"])
            .env(CHILD, &folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a child");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let (began, mut heard) = (Instant::now(), 0);
        for line in lines {
            let Some((word, id)) = line.split_once(' ').and_then(|(word, id)| Some((word, id.parse().ok()?))) else {
                continue;
            };
            match word {
                "enqueued" => _ = enqueued.insert(id),
                "taken" => assert!(taken.insert(id), "{round}: job {id} was handed out twice within its lease"),
                "reported" => _ = reported.insert(id),
                "done" => _ = done.insert(id),
                _ => continue,
            }
            heard += 1;
            // What it has said by then is read to the end.
            if heard == 300 + 97 * round {
                child.kill().expect("it lives");
            }
        }
        child.wait().expect("it has ended");
        assert!(heard >= 300, "{round}: {heard} within {:?}", began.elapsed());
        queue.reopen();
        for id in done.iter().copied() {
            assert_eq!(queue.state(id), None, "{round}: job {id} was done");
        }
        // One report was under way, and may have been written.
        let under_way: Vec<JobId> = reported.difference(&done).copied().collect();
        assert!(under_way.len() <= 1, "{round}: {under_way:?}");
        for id in under_way {
            if queue.state(id).is_none() {
                done.insert(id);
            } else {
                reported.remove(&id);
            }
        }
        for id in enqueued.difference(&done) {
            let job = queue.change(|change| change.find(*id));
            let job = job.unwrap_or_else(|why| panic!("{round}: job {id} is lost: {why}"));
            if taken.contains(id) {
                assert!(matches!(job.state, State::Running { .. }) && job.attempt == 1, "{round}: {job:?}");
            }
        }
    }
    assert!(done.len() > 10 && taken.len() > done.len(), "{} of {}", done.len(), taken.len());
}
