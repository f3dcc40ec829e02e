//! Formats: what an earlier version wrote is there, and what a later one wrote is left alone.

use std::fs;

use super::super::book::{read, written};
use super::super::engine::{file_in, log_in};
use super::super::keys;
use super::*;

/// By a version of format 1, in whose jobs there were no takers, keys of limits and results, and which was killed then.
const FILE: &[u8] = include_bytes!("../../../tests/fixtures/queue-format-1/jobs.mdb");
const LOG: &[u8] = include_bytes!("../../../tests/fixtures/queue-format-1/jobs.log");
const KILLED: u64 = 1_795_863_304_000;

/// What is known of the file itself: first its format.
type Meta = (u32, u64, u32, bool);

impl Fixture {
    fn in_format_1() -> Self {
        let mut queue = Self::new(Config::default());
        queue.opened = None;
        let folder = queue.folder.path().join("queue");
        fs::write(file_in(&folder), FILE).expect("written");
        fs::write(log_in(&folder), LOG).expect("written");
        queue.now = KILLED;
        queue.reopen();
        queue
    }

    fn meta(&mut self) -> Meta {
        let (engine, _) = self.opened.as_mut().expect("it is open");
        let meta = engine.begin().expect("a transaction").get(keys::META).expect("it is sound").expect("it is there");
        read(&meta).expect("it is sound")
    }
}

#[test]
fn each_job_that_an_earlier_version_wrote_is_there_as_it_was() {
    let mut queue = Fixture::in_format_1();
    let mail = queue.overview("mail");
    assert_eq!((mail.waiting, mail.delayed, mail.running, mail.dead, mail.done), (0, 1, 1, 1, 0));
    let other = queue.overview("other");
    assert_eq!((other.is_paused, other.waiting, other.delayed), (true, 3, 1));
    let page = |queue: &mut Fixture, order| queue.change(|change| change.peek("mail", order, &[], MANY)).expect("jobs");
    let running = page(&mut queue, Order::Running).jobs.remove(0);
    assert_eq!((running.name.as_str(), running.attempt), ("long", 1));
    queue.update(&running, Update::Return { result: vec![1] }).expect("it has the lease");
    assert_eq!(queue.state(running.id), None, "nobody wants its result");
    let dead = page(&mut queue, Order::Dead).jobs.remove(0);
    assert_eq!((dead.name.as_str(), dead.error.as_deref()), ("bury", Some("never")));
    let delayed = page(&mut queue, Order::Delayed).jobs.remove(0);
    assert_eq!((delayed.failures, delayed.error.as_deref()), (1, Some("DomainException: no route")));
    let unique = Some(Unique { key: "user 7".into(), until: Until::Success });
    let held =
        queue.change(|change| change.enqueue(&[NewJob { unique, ..job("other", "c") }], ROOT)).expect("an id")[0];
    queue.change(|change| change.control("other", Control::Resume)).expect("it is paused");
    let taken: Vec<Job> = std::iter::from_fn(|| queue.take("other")).collect();
    assert_eq!(taken.iter().map(|job| job.name.as_str()).collect::<Vec<_>>(), ["c", "a", "d"]);
    assert_eq!((held.id, held.is_new, taken[2].payload.as_slice()), (taken[0].id, false, b"in the log".as_slice()));
    queue.reopen();
    assert_eq!(queue.overview("other").running, 3);
}

#[test]
fn a_file_that_was_written_is_opened_by_no_version_that_cannot_read_it() {
    let mut queue = Fixture::in_format_1();
    assert_eq!(queue.meta().0, 1);
    queue.enqueue(job("mail", "a"));
    let (format, job, number, is_inexact) = queue.meta();
    assert_eq!(format, 3, "earlier versions take what has more elements for damaged");
    let later: Meta = (4, job, number, is_inexact);
    let (engine, _) = queue.opened.as_mut().expect("it is open");
    let mut txn = engine.begin().expect("a transaction");
    txn.put(keys::META, &written(&later)).expect("there is room");
    txn.commit().expect("there is room");
    let refused = Book::load(&txn, Now { wall: KILLED, since_boot: KILLED, uptime: KILLED }, &HashMap::new());
    assert!(matches!(refused, Err(EngineError::Format(4))), "{refused:?}");
}
