//! Results: what a job returned is there for as long as it is to be kept, and counts until then.

use super::*;

fn returns(result: &[u8]) -> Update {
    Update::Return { result: result.to_vec() }
}

fn kept(name: &str, payload: usize) -> NewJob {
    let keep_result = Some(Duration::from_secs(60));
    NewJob { keep_result, payload: vec![7; payload], ..job("mail", name) }
}

impl Fixture {
    /// It is done, with that result; as it stands then.
    fn perform(&mut self, job: NewJob, result: &[u8]) -> Option<Job> {
        let id = self.enqueue(job);
        let taken = self.take("mail").expect("a job");
        assert_eq!(taken.id, id);
        self.update(&taken, returns(result)).expect("it has the lease");
        self.change(|change| change.find(id)).ok()
    }
}

#[test]
fn a_result_is_kept_in_the_place_of_the_payload_until_its_time_is_over() {
    let mut queue = Fixture::new(Config::default());
    assert_eq!(queue.perform(job("mail", "a"), b"3"), None, "nobody wants it");
    let done = queue.perform(kept("a", 1_000), b"3").expect("it is kept");
    assert_eq!((done.result.as_deref(), done.payload.len(), done.error), (Some(&b"3"[..]), 0, None));
    assert_eq!(done.state, State::Done { until: queue.now + 60_000 });
    let overview = queue.overview("mail");
    assert_eq!((overview.done, overview.running, overview.waiting), (1, 0, 0));
    assert_eq!(overview.bytes, 512 + 1 + 1);
    queue.reopen();
    assert_eq!(queue.opened.as_ref().expect("it is open").1.total.bytes, overview.bytes);
    assert_eq!(queue.take("mail"), None);
    queue.now += 59_999;
    assert_eq!(queue.change(|change| change.find(done.id)).map(|job| job.result), Ok(Some(b"3".to_vec())));
    queue.now += 1;
    assert_eq!(queue.state(done.id), None);
    assert_eq!((queue.overview("mail").done, queue.overview("mail").bytes), (0, 0));
}

#[test]
fn one_that_is_done_is_unique_no_more_and_can_be_removed() {
    let mut queue = Fixture::new(Config { keep_results: Duration::from_secs(60), ..Config::default() });
    let unique = Some(Unique { key: "k".into(), until: Until::Success });
    let done = queue.perform(NewJob { unique: unique.clone(), ..job("mail", "a") }, b"").expect("the setting says so");
    let next = queue.enqueue(NewJob { unique, ..job("mail", "a") });
    assert_ne!(next, done.id);
    assert!(queue.change(|change| change.retry("mail", done.id)).is_err(), "it is not dead");
    queue.change(|change| change.cancel(done.id)).expect("nobody performs it");
    let again = queue.perform(NewJob { priority: Some(0), ..job("mail", "b") }, b"1").expect("it is kept");
    let purged = queue.change(|change| change.control("mail", Control::Purge(Order::Done)));
    assert_eq!((purged, queue.state(again.id)), (Ok((1, false)), None));
    let all = NewJob { keep_result: Some(Duration::ZERO), priority: Some(0), ..job("mail", "c") };
    assert_eq!(queue.perform(all, b"1"), None, "it says so itself");
}

#[test]
fn a_result_that_is_too_large_or_has_no_room_is_not_kept_and_the_job_is_done_all_the_same() {
    let mut queue = Fixture::new(Config { max_job_bytes: ByteSize(100), ..Config::default() });
    let done = queue.perform(kept("a", 0), &[7; 101]).expect("it is kept");
    assert_eq!(done.result, Some(Vec::new()));
    assert_eq!(done.state, State::Done { until: queue.now + 60_000 });
    assert!(
        done.error.is_some_and(|why| why.starts_with("its result of 101 bytes is not kept: `queue.max_job_bytes`"))
    );
    let mut queue = Fixture::new(Config { max_bytes: ByteSize(1_200), ..Config::default() });
    let done = queue.perform(kept("a", 0), &[7; 200]).expect("it is kept");
    assert!(done.error.is_some_and(|why| why.contains("this user has")), "another user has room yet");
    queue.change(|change| change.cancel(done.id)).expect("nobody performs it");
    let done = queue.perform(kept("a", 5), &[7; 5]).expect("it is kept");
    assert_eq!(done.result.map(|result| result.len()), Some(5), "it takes no more than before");
}

#[test]
fn a_page_of_results_is_no_larger_than_one_of_payloads() {
    let mut queue = Fixture::new(Config::default());
    for _ in 0..4 {
        queue.perform(kept("a", 0), &[7; 10_000]).expect("it is kept");
    }
    let most = Most { jobs: 1_000, bytes: 15_000 };
    let page = queue.change(|change| change.peek("mail", Order::Done, &[], most)).expect("jobs");
    assert_eq!((page.jobs.len(), page.next.is_some()), (2, true));
}

#[test]
fn jobs_with_results_fill_the_queues_as_all_others_do() {
    let mut queue = Fixture::new(Config { max_jobs: 3, ..Config::default() });
    let full = |queue: &mut Fixture| queue.change(|change| change.enqueue(&[kept("a", 0)], ROOT)).is_err();
    for _ in 0..3 {
        assert!(!full(&mut queue));
        let taken = queue.take("mail").expect("a job");
        queue.update(&taken, Update::Done).expect("it has the lease");
    }
    assert!(full(&mut queue));
    queue.reopen();
    assert!(full(&mut queue));
    queue.now += 60_000;
    assert!(!full(&mut queue));
}
