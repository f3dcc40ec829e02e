//! Limits: who has to wait, for how long, and that nobody else has to.

use super::live::start_with;
use super::*;

fn limits(text: &str) -> Config {
    toml::from_str(text).expect("settings")
}

fn keyed(queue: &str, name: &str, key: &str) -> NewJob {
    NewJob { limit_key: Some(key.to_owned()), ..job(queue, name) }
}

impl Fixture {
    /// The names of what is handed out of these queues now.
    fn names(&mut self, queues: &[&str]) -> Vec<String> {
        self.taken(queues).into_iter().map(|job| job.name).collect()
    }

    fn taken(&mut self, queues: &[&str]) -> Vec<Job> {
        let sources: Vec<String> = queues.iter().map(|queue| (*queue).to_owned()).collect();
        self.change(|change| change.take(None, &sources.into(), MANY, None)).expect("it is sound")
    }
}

#[test]
fn no_more_jobs_of_a_queue_run_at_once_than_it_allows_and_other_queues_go_on() {
    let mut queue = Fixture::new(limits("[[limit]]\nqueue = 'mail'\nconcurrency = 2"));
    for name in ["a", "b", "c", "d"] {
        queue.enqueue(job("mail", name));
        queue.enqueue(job("img", name));
    }
    let first = queue.taken(&["mail", "img"]);
    assert_eq!(first.iter().filter(|job| job.queue == "mail").count(), 2);
    assert_eq!(first.len(), 6);
    assert_eq!(queue.update(&first[0], Update::Touch { lease: None }).map(|until| until.is_some()), Ok(true));
    assert_eq!(queue.names(&["mail"]), [""; 0]);
    queue.reopen();
    assert_eq!(queue.names(&["mail"]), [""; 0], "also after a restart");
    queue.update(&first[0], Update::Done).expect("it has the lease");
    assert_eq!(queue.names(&["mail"]), ["c"]);
    queue.update(&first[1], fail("no")).expect("it has the lease");
    assert_eq!(queue.names(&["mail"]), ["d"]);
    queue.enqueue(job("mail", "e"));
    assert_eq!(queue.names(&["mail"]), [""; 0]);
    queue.now += 60_000;
    assert_eq!(queue.names(&["mail"]), ["b", "c"], "their leases have ended");
}

#[test]
fn no_more_begin_within_a_time_than_a_rate_allows_whatever_happens_to_the_clock_and_the_process() {
    let mut queue = Fixture::new(limits("[[limit]]\nqueue = 'mail'\nrate = '3/1m'"));
    for number in 0..9 {
        queue.enqueue(job("mail", &number.to_string()));
    }
    assert_eq!(queue.names(&["mail"]), ["0", "1", "2"]);
    queue.now += 19_999;
    assert_eq!(queue.names(&["mail"]), [""; 0]);
    queue.now += 1;
    assert_eq!(queue.names(&["mail"]), ["3"]);
    queue.set_forward = DAY;
    assert_eq!(queue.names(&["mail"]), [""; 0], "the clock was set");
    queue.set_forward = 0;
    queue.now += 10_000;
    queue.reopen();
    assert_eq!(queue.names(&["mail"]), [""; 0], "a restart is no new beginning");
    queue.now += 10_000;
    assert_eq!(queue.names(&["mail"]).len(), 1);
    // Where it was wrong at the end of the last process, no rate is late by more than its time.
    queue.set_forward = 400 * DAY;
    queue.now += 20_000;
    assert_eq!(queue.names(&["mail"]).len(), 1);
    queue.set_forward = 0;
    queue.reopen();
    assert_eq!(queue.names(&["mail"]), [""; 0]);
    queue.now += 60_000;
    assert_eq!(queue.names(&["mail"]).len(), 3);
}

#[test]
fn a_key_that_is_used_up_has_its_jobs_wait_and_no_others() {
    let mut queue = Fixture::new(limits("[[limit]]\nqueue = 'mail'\nconcurrency = 1\nkey = true"));
    for (name, key) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a")] {
        queue.enqueue(keyed("mail", name, key));
    }
    queue.enqueue(job("mail", "free"));
    let first = queue.taken(&["mail"]);
    assert_eq!(first.iter().map(|job| job.name.as_str()).collect::<Vec<_>>(), ["a1", "b1", "free"]);
    queue.reopen();
    assert_eq!(queue.names(&["mail"]), [""; 0], "also after a restart");
    queue.update(&first[1], Update::Done).expect("it has the lease");
    assert_eq!(queue.names(&["mail"]), [""; 0]);
    queue.update(&first[0], Update::Done).expect("it has the lease");
    assert_eq!(queue.names(&["mail"]), ["a2"]);
    assert_eq!(queue.enqueue(keyed("other", "a4", "a")), queue.taken(&["other"])[0].id, "of its queue alone");
}

#[test]
fn each_key_has_a_rate_of_its_own_beside_that_of_the_queue() {
    let all = "[[limit]]\nqueue = 'mail'\nrate = '5/1m'\n";
    let mut queue = Fixture::new(limits(&format!("{all}[[limit]]\nqueue = 'mail'\nrate = '2/1m'\nkey = true")));
    for key in ["a", "a", "a", "b", "b", "b", "c", "c", "c"] {
        queue.enqueue(keyed("mail", key, key));
    }
    assert_eq!(queue.names(&["mail"]), ["a", "a", "b", "b", "c"]);
    queue.now += 12_000;
    assert_eq!(queue.names(&["mail"]), ["c"]);
    queue.now += 18_000;
    assert_eq!(queue.names(&["mail"]), ["a"]);
}

#[test]
fn how_many_a_limit_holds_back_is_known_until_one_of_them_may_begin() {
    let of_all = "[[limit]]\nqueue = 'mail'\nconcurrency = 2\n";
    let mut queue = Fixture::new(limits(&format!("{of_all}[[limit]]\nqueue = 'img'\nrate = '1/1h'\nkey = true")));
    for name in ["a", "b", "c", "d", "e"] {
        queue.enqueue(job("mail", name));
    }
    assert_eq!(queue.overview("mail").limited, 0);
    let first = queue.taken(&["mail"]);
    assert_eq!(queue.overview("mail").limited, 3);
    queue.update(&first[0], Update::Done).expect("it has the lease");
    assert_eq!(queue.overview("mail").limited, 0, "one may begin, and nobody wants it");

    for (name, key) in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("c1", "c")] {
        queue.enqueue(keyed("img", name, key));
    }
    assert_eq!(queue.overview("img").limited, 0, "nobody has looked for one");
    for (name, passed) in [("a1", 0), ("b1", 2)] {
        let taken = queue.take("img").expect("one may begin");
        assert_eq!((taken.name.as_str(), queue.overview("img").limited), (name, passed));
        queue.update(&taken, Update::Done).expect("it has the lease");
        assert_eq!(queue.overview("img").limited, passed, "of the last look");
    }
    queue.enqueue(keyed("img", "a4", "a"));
    assert_eq!(queue.names(&["img"]), ["c1"]);
    assert_eq!(queue.overview("img").limited, 3, "where none is left that may begin, too");
    queue.now += 3_600_000 + 1_000;
    assert_eq!(queue.overview("img").limited, 0, "one may begin, and nobody wants it");
}

#[test]
fn nothing_waits_for_a_key_that_is_free_or_in_a_queue_that_is_paused() {
    let mut queue = Fixture::new(limits("[[limit]]\nqueue = 'mail'\nconcurrency = 1\nkey = true"));
    for name in ["a1", "a2", "a3"] {
        queue.enqueue(keyed("mail", name, "a"));
    }
    let running = queue.taken(&["mail"]).pop().expect("one may begin");
    assert_eq!(queue.overview("mail").limited, 2);
    queue.change(|change| change.control("mail", Control::Pause)).expect("a queue");
    assert_eq!(queue.overview("mail").limited, 0, "they wait for the end of the pause");
    queue.change(|change| change.control("mail", Control::Resume)).expect("a queue");
    queue.now += 1_000;
    assert_eq!(queue.overview("mail").limited, 2, "it still runs");
    queue.update(&running, Update::Done).expect("it has the lease");
    queue.now += 1_000;
    assert_eq!(queue.overview("mail").limited, 0, "one may begin, and nobody wants it");
}

#[test]
fn behind_very_many_that_wait_for_their_key_nothing_is_looked_for() {
    let mut queue = Fixture::new(limits("[[limit]]\nqueue = 'mail'\nconcurrency = 1\nkey = true"));
    let many = vec![keyed("mail", "a", "a"); 1_000];
    queue.change(|change| change.enqueue(&many, ROOT)).expect("there is room");
    queue.enqueue(keyed("mail", "a", "a"));
    queue.enqueue(job("mail", "behind"));
    let first = queue.taken(&["mail"]).pop().expect("one");
    assert_eq!(queue.names(&["mail"]), [""; 0]);
    queue.update(&first, Update::Done).expect("it has the lease");
    queue.now += 20;
    assert_eq!(queue.names(&["mail"]), ["a", "behind"], "there is one less before it");
}

#[test]
fn those_that_wait_for_their_key_are_looked_at_once_in_a_transaction_and_not_in_each() {
    let text = "[[limit]]\nqueue = 'mail'\nconcurrency = 1\nkey = true";
    let mut queue = Fixture::new(limits(&format!("{text}\n{}", text.replace("mail", "img"))));
    let enqueue = |queue: &mut Fixture, jobs: Vec<NewJob>| queue.change(|change| change.enqueue(&jobs, ROOT)).map(drop);
    enqueue(&mut queue, vec![keyed("mail", "a", "a"); 500]).expect("there is room");
    enqueue(&mut queue, vec![job("mail", "free"); 300]).expect("there is room");
    // What two get, one after the other, and how many were looked at for that.
    let take = |queue: &mut Fixture| {
        let sources = vec!["mail".to_owned(), "img".to_owned()].into();
        let takes = |change: &mut Change<'_, '_>| -> Outcome<(usize, usize)> {
            let first = change.take(None, &sources, FEW, None)?.len() + change.take(None, &sources, FEW, None)?.len();
            Ok((first + change.take(None, &sources, MANY, None)?.len(), change.looks.count))
        };
        queue.change(takes).expect("it is sound")
    };
    assert_eq!(take(&mut queue), (301, 499));
    enqueue(&mut queue, vec![job("mail", "new")]).expect("there is room");
    assert_eq!(take(&mut queue), (0, 0), "they were looked at just now");
    queue.now += 20;
    assert_eq!(take(&mut queue), (1, 499));
    queue.now += 20;
    enqueue(&mut queue, vec![keyed("img", "a", "a"); 600]).expect("there is room");
    enqueue(&mut queue, vec![keyed("mail", "a", "a"); 1_000]).expect("there is room");
    queue.now += 20;
    assert_eq!(take(&mut queue), (1, 1_599), "of one queue no more than the first");
}

#[test]
fn a_job_that_may_begin_is_found_however_many_wait_before_it_in_other_queues_and_its_own() {
    // How many wait for their key in each queue, and how long a transaction takes, in ms.
    for (waiting, takes) in [(vec![1_000, 700, 500], 1), (vec![1_000; 9], 6)] {
        let names: Vec<String> = (0..waiting.len()).map(|nth| format!("queue {nth}")).collect();
        let limit = |name: &String| format!("[[limit]]\nqueue = '{name}'\nconcurrency = 1\nkey = true\n");
        let mut queue = Fixture::new(limits(&names.iter().map(limit).collect::<String>()));
        for (name, waiting) in names.iter().zip(&waiting) {
            queue.change(|change| change.enqueue(&vec![keyed(name, "a", "a"); *waiting], ROOT)).expect("there is room");
        }
        queue.enqueue(job(names.last().expect("some"), "free"));
        let sources: Vec<&str> = names.iter().map(String::as_str).collect();
        let (mut taken, mut transactions) = (queue.names(&sources), 0);
        while !taken.contains(&"free".to_owned()) {
            transactions += 1;
            assert!(transactions < 100, "{waiting:?}: {} were taken", taken.len());
            queue.now += takes;
            // Something comes into each of them.
            let more: Vec<NewJob> = names.iter().map(|name| keyed(name, "a", "a")).collect();
            queue.change(|change| change.enqueue(&more, ROOT)).expect("there is room");
            taken.extend(queue.names(&sources));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_has_a_job_as_soon_as_its_limit_allows() {
    let limits = limits("[[limit]]\nqueue = 'slow'\nrate = '1/1s'\n[[limit]]\nqueue = 'few'\nconcurrency = 1");
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let (tasks, _failed) = Tasks::new();
    let queues = start_with(&Config { path: Some(folder.path().join("queue")), ..limits }, &tasks);
    let jobs = ["slow", "slow", "few", "few"].map(|queue| job(queue, "a"));
    queues.enqueue(WEB, jobs.into()).await.expect("there is room");
    let take = async |queue: &str| {
        let taking = queues.take(None, vec![queue.to_owned()], MANY, None, Duration::from_secs(60));
        let (jobs, handed) = taking.await.expect("jobs");
        handed.have_arrived();
        assert_eq!(jobs.len(), 1, "{queue}");
        (jobs[0].id, jobs[0].attempt)
    };
    let [slow, few] = [take("slow").await, take("few").await];
    let (then, after) = tokio::join!(take("few"), async {
        let next = take("slow").await;
        queues.update(None, few, Update::Done, |_, _| true).await.expect("it has the lease");
        next
    });
    assert!(then.0 > few.0 && after.0 > slow.0);
}
