//! Jobs that are taken to another queue.

use std::fs;

use super::*;

impl Fixture {
    fn move_all(&mut self, from: &str, to: &str) -> usize {
        let mut all = 0;
        loop {
            let (count, has_more) = self.change(|change| change.move_to(from, to, ROOT)).expect("there is room");
            all += count;
            // As the next sidecar finds it.
            self.reopen();
            if !has_more {
                return all;
            }
        }
    }
}

#[test]
fn jobs_are_moved_as_they_are_and_those_that_run_stay() {
    let mut queue = Fixture::new(Config::default());
    let running = queue.enqueue(NewJob { priority: Some(0), ..job("mail", "runs") });
    let taken = queue.take("mail").expect("it waits");
    let buried = queue.enqueue(NewJob { priority: Some(0), ..job("mail", "dead") });
    let dead = queue.take("mail").expect("it waits");
    queue.update(&dead, Update::Bury { error: "no".into() }).expect("it has the lease");
    let waiting = queue.enqueue(job("mail", "waits"));
    let delayed = queue.enqueue(NewJob { delay: Duration::from_secs(60), ..job("mail", "delayed") });
    let states = [buried, waiting, delayed].map(|id| queue.state(id));
    assert_eq!(queue.move_all("mail", "post"), 3);
    assert_eq!([buried, waiting, delayed].map(|id| queue.state(id)), states);
    let there = queue.overview("post");
    assert_eq!((there.waiting, there.delayed, there.running, there.dead), (1, 1, 0, 1));
    let left = queue.overview("mail");
    assert_eq!((left.waiting, left.delayed, left.running, left.dead), (0, 0, 1, 0));
    assert!(left.bytes > 0 && there.bytes > 2 * left.bytes);
    let first = queue.take("post").expect("one waits");
    assert_eq!(first.id, waiting);
    queue.update(&first, Update::Done).expect("it has the lease");
    queue.now += 60_000;
    assert_eq!(queue.take("post").map(|job| job.id), Some(delayed), "its time is that of before");
    assert_eq!(taken.id, running);
    assert_eq!(queue.move_all("mail", "post"), 1, "its lease ended, so that it waits");
    assert_eq!(queue.overview("mail").bytes, 0);
}

#[test]
fn many_jobs_are_moved_by_steps_each_once_and_in_their_order() {
    let mut queue = Fixture::new(Config::default());
    let ids: Vec<JobId> = (0..1_100).map(|_| queue.enqueue(job("mail", "a"))).collect();
    let (count, has_more) = queue.change(|change| change.move_to("mail", "post", ROOT)).expect("there is room");
    assert_eq!((count, has_more), (1_000, true));
    assert_eq!((queue.overview("mail").waiting, queue.overview("post").waiting), (100, 1_000));
    assert_eq!(queue.move_all("mail", "post"), 100);
    let taken =
        queue.change(|change| change.take(None, &vec!["post".to_owned()].into(), Most { jobs: 2_000, ..MANY }, None));
    assert_eq!(taken.expect("it is sound").iter().map(|job| job.id).collect::<Vec<_>>(), ids);
}

#[test]
fn a_delay_is_over_in_its_time_though_the_clock_was_set_and_its_job_moved_since() {
    let mut queue = Fixture::new(Config::default());
    queue.set_forward = DAY;
    let id = queue.enqueue(NewJob { delay: Duration::from_secs(60), ..job("mail", "a") });
    queue.set_forward = 0;
    queue.change(|change| change.move_to("mail", "post", ROOT)).expect("there is room");
    queue.set_forward = DAY;
    queue.now += 59_999;
    assert_eq!(queue.take("post"), None);
    queue.now += 1;
    assert_eq!(queue.take("post").map(|job| job.id), Some(id));
}

#[test]
fn a_move_that_is_cut_anywhere_has_each_job_in_one_of_the_two_and_is_made_whole_by_another() {
    let mut queue = Fixture::new(Config::default());
    let ids: Vec<JobId> = (0..3).map(|_| queue.enqueue(job("mail", "a"))).collect();
    queue.enqueue(job("post", "b"));
    queue.change(|change| change.move_to("mail", "post", ROOT)).expect("there is room");
    let [file, log] = queue.files().map(|path| fs::read(path).expect("a file"));
    let end = log.iter().rposition(|byte| *byte != 0).expect("it is not empty") + 1;
    let mut moved = BTreeSet::new();
    for cut in (0..=end).step_by(7).chain([end]) {
        let mut torn = log.clone();
        torn[cut..].fill(0);
        queue.reopen_as(&[file.clone(), torn]);
        let left = queue.overview("mail").waiting;
        assert_eq!(left + queue.overview("post").waiting, 4, "{cut}");
        moved.insert(3 - left);
        assert_eq!(queue.move_all("mail", "post") as u64, left, "{cut}");
        let page = queue.change(|change| change.peek("post", Order::Waiting, &[], MANY)).expect("a queue");
        let found: Vec<JobId> = page.jobs.iter().map(|job| job.id).collect();
        assert_eq!((&found[..3], found.len()), (&ids[..], 4), "{cut}");
    }
    assert_eq!(moved, BTreeSet::from([0, 3]), "each cut is before it or after it");
}

#[test]
fn a_unique_key_is_moved_too_unless_another_job_there_has_it() {
    let mut queue = Fixture::new(Config::default());
    let [free, taken] = ["free", "taken"].map(|key| queue.enqueue(unique("mail", key)));
    let there = queue.enqueue(unique("post", "taken"));
    assert_eq!(queue.move_all("mail", "post"), 2);
    let enqueued = |queue: &mut Fixture, name, key| queue.enqueue(unique(name, key));
    assert_eq!(enqueued(&mut queue, "post", "free"), free);
    assert_eq!(enqueued(&mut queue, "post", "taken"), there);
    assert_eq!(queue.state(taken), Some(State::Waiting));
    assert!(![free, taken].contains(&enqueued(&mut queue, "mail", "free")), "it is free where it was");
    queue.change(|change| change.cancel(taken)).expect("it waits");
    assert_eq!(enqueued(&mut queue, "post", "taken"), there, "the key is another's");
}

#[test]
fn a_move_that_is_refused_has_changed_nothing() {
    let mut queue = Fixture::new(Config { max_queues: 1, ..Config::default() });
    queue.change(|change| change.enqueue(&[job("mail", "a")], ROOT)).expect("there is room");
    let refused = |queue: &mut Fixture, from: &str, to: &str| queue.change(|change| change.move_to(from, to, ROOT));
    assert!(matches!(refused(&mut queue, "mail", "post"), Err(Refused::Full(..))));
    assert!(matches!(refused(&mut queue, "mail", "mail"), Err(Refused::Invalid("to", _))));
    assert!(matches!(refused(&mut queue, "mail", "a\n"), Err(Refused::Invalid("to", _))));
    assert!(matches!(refused(&mut queue, "none", "mail"), Err(Refused::NoQueue(_))));
    assert_eq!(queue.overview("mail").waiting, 1);
}

#[test]
fn what_came_and_went_within_a_minute_is_counted() {
    let mut queue = Fixture::new(Config::default());
    (0..3).for_each(|_| _ = queue.enqueue(job("mail", "a")));
    let taken = queue.take("mail").expect("it waits");
    queue.update(&taken, Update::Done).expect("it has the lease");
    let counts = |queue: &mut Fixture| (queue.overview("mail").enqueued_recently, queue.overview("mail").done_recently);
    assert_eq!(counts(&mut queue), (Some(3), Some(1)));
    queue.now += 50_000;
    queue.enqueue(job("mail", "a"));
    assert_eq!(counts(&mut queue), (Some(4), Some(1)));
    queue.now += 20_000;
    assert_eq!(counts(&mut queue), (Some(1), Some(0)));
    queue.now += 10 * DAY;
    assert_eq!(counts(&mut queue), (Some(0), Some(0)));
}
