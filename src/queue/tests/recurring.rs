//! Jobs that recur: once for each time, whatever the clock and the sidecar do.

use super::*;
use crate::queue::recurring::{Recurrences, Settled, Todo, Zone};

const MINUTE: u64 = 60_000;

/// 2026-11-28, 12:00:00 UTC.
const NOON: u64 = 1_795_867_200_000;

fn recurring(schedule: &str, missed: Missed) -> Recurring {
    Recurring {
        name: "digest".into(),
        queue: "mail".into(),
        job: "Digest".into(),
        schedule: Some(schedule.to_owned().try_into().expect("an expression")),
        payload: Some(toml::Value::Array(vec![toml::Value::Integer(1)])),
        time_zone: Zone::default(),
        missed,
    }
}

/// A queue at noon, into which they are enqueued.
fn fixture(schedule: &str, missed: Missed) -> (Fixture, Recurrences) {
    let recurring = vec![recurring(schedule, missed)];
    let recurrences = Recurrences::new(&recurring);
    let mut queue = Fixture::new(Config { recurring, ..Config::default() });
    queue.now = NOON + 1_000;
    queue.reopen();
    (queue, recurrences)
}

impl Fixture {
    /// How many are there once what is due is enqueued.
    fn recur(&mut self, recurrences: &mut Recurrences) -> u64 {
        self.change(|change| Ok(recurrences.enqueue_due(change)?)).expect("it is sound");
        self.change(|change| Ok(change.book.total.jobs)).expect("it is sound")
    }

    /// As the next sidecar does.
    fn restart(&mut self) -> Recurrences {
        self.reopen();
        Recurrences::new(&self.config.recurring)
    }
}

#[test]
fn a_job_recurs_once_for_each_time_and_not_for_those_before_it_was_configured() {
    let (mut queue, mut recurrences) = fixture("*/5 * * * *", Missed::All);
    assert_eq!(queue.recur(&mut recurrences), 0);
    assert_eq!(recurrences.next_look(), NOON + 5 * MINUTE);
    for (minute, jobs) in [(4, 0), (5, 1), (5, 1), (9, 1), (10, 2)] {
        queue.now = NOON + minute * MINUTE;
        assert_eq!(queue.recur(&mut recurrences), jobs, "at minute {minute}");
    }
    let job = queue.take("mail").expect("it waits");
    assert_eq!((job.name.as_str(), job.payload.as_slice()), ("Digest", b"[1]".as_slice()));
    let told = recurrences.told().expect("it has changed");
    assert_eq!((told[0].next, told[0].last.map(|last| last.0)), (Some(NOON + 15 * MINUTE), Some(NOON + 10 * MINUTE)));
    assert_eq!(recurrences.told(), None, "nothing has changed since");
}

#[test]
fn what_a_sidecar_enqueued_the_next_one_does_not() {
    let (mut queue, mut recurrences) = fixture("*/5 * * * *", Missed::Once);
    queue.recur(&mut recurrences);
    queue.now = NOON + 5 * MINUTE;
    assert_eq!(queue.recur(&mut recurrences), 1);
    for _ in 0..3 {
        let mut next = queue.restart();
        assert_eq!(queue.recur(&mut next), 1);
    }
}

#[test]
fn a_transaction_that_fails_leaves_it_due() {
    let (mut queue, mut recurrences) = fixture("*/5 * * * *", Missed::Skip);
    queue.recur(&mut recurrences);
    queue.now = NOON + 5 * MINUTE;
    let now = queue.time();
    let (engine, book) = queue.opened.as_mut().expect("it is open");
    let (mut txn, mut tally) = (engine.begin().expect("a transaction"), Tally::default());
    let mut change = Change {
        txn: &mut txn,
        book,
        config: &queue.config,
        now,
        has_room: true,
        tally: &mut tally,
        looks: Looks::default(),
    };
    recurrences.enqueue_due(&mut change).expect("it is sound");
    drop(txn);
    queue.reopen();
    recurrences.read_again();
    queue.now += 2 * MINUTE;
    assert_eq!(queue.recur(&mut recurrences), 1, "it was seen in time");
}

#[test]
fn what_was_missed_is_skipped_or_made_up_for_once_or_each_time_up_to_a_bound() {
    for (missed, minutes, jobs) in [
        (Missed::Skip, 23, 0),
        (Missed::Skip, 20, 1),
        (Missed::Once, 23, 1),
        (Missed::All, 23, 4),
        (Missed::All, 10_000, 100),
    ] {
        let (mut queue, mut recurrences) = fixture("*/5 * * * *", missed);
        queue.recur(&mut recurrences);
        queue.now = NOON + minutes * MINUTE;
        let mut next = queue.restart();
        assert_eq!(queue.recur(&mut next), jobs, "{missed:?} after {minutes}");
        assert_eq!(queue.recur(&mut next), jobs, "{missed:?} after {minutes}: again");
        assert_eq!(next.next_look(), NOON + (minutes / 5 + 1) * 5 * MINUTE, "{missed:?} after {minutes}");
    }
}

#[test]
fn a_clock_that_is_set_back_repeats_nothing_and_one_that_was_wrong_is_forgotten() {
    let (mut queue, mut recurrences) = fixture("*/5 * * * *", Missed::Once);
    queue.recur(&mut recurrences);
    queue.now = NOON + 60 * MINUTE;
    assert_eq!(queue.recur(&mut recurrences), 1);
    for minutes in [0, 30, 59] {
        queue.now = NOON + minutes * MINUTE;
        assert_eq!(queue.recur(&mut recurrences), 1, "at minute {minutes}");
        let mut next = queue.restart();
        assert_eq!(queue.recur(&mut next), 1, "at minute {minutes}, after a restart");
    }
    queue.now = NOON + 400 * DAY;
    assert_eq!(queue.recur(&mut recurrences), 2);
    queue.now = NOON + 61 * MINUTE;
    assert_eq!(queue.recur(&mut recurrences), 2);
    queue.now = NOON + 65 * MINUTE;
    assert_eq!(queue.recur(&mut recurrences), 3);
}

#[test]
fn each_job_knows_for_which_time_it_is_however_late_it_comes_and_also_after_a_restart() {
    let (mut queue, mut recurrences) = fixture("*/5 * * * *", Missed::All);
    queue.recur(&mut recurrences);
    queue.now = NOON + 16 * MINUTE;
    assert_eq!(queue.recur(&mut recurrences), 3);
    queue.enqueue(job("mail", "by hand"));
    queue.reopen();
    let due_at: Vec<_> = std::iter::from_fn(|| queue.take("mail")).map(|job| job.due_at).collect();
    assert_eq!(due_at, [Some(NOON + 5 * MINUTE), Some(NOON + 10 * MINUTE), Some(NOON + 15 * MINUTE), None]);
}

#[test]
fn a_clock_that_was_behind_repeats_nothing_once_it_is_right() {
    for (missed, slots) in [(Missed::Skip, 0), (Missed::Once, 1), (Missed::All, 2)] {
        let (mut queue, mut recurrences) = fixture("*/5 * * * *", missed);
        queue.recur(&mut recurrences);
        queue.now = NOON + 60 * MINUTE;
        let jobs = queue.recur(&mut recurrences);
        for (minute, jobs) in [(61, jobs), (57, jobs), (73, jobs + slots), (74, jobs + slots)] {
            // The battery of the clock is empty.
            queue.now = MINUTE;
            let mut next = queue.restart();
            queue.recur(&mut next);
            queue.now = NOON + minute * MINUTE;
            assert_eq!(queue.recur(&mut next), jobs, "{missed:?} at minute {minute}");
        }
    }
}

#[test]
fn each_time_comes_once_and_none_is_left_out_however_often_the_clock_jumps() {
    let mut random = fastrand::Rng::with_seed(28);
    // Days by which it is wrong: the last is that of an empty battery.
    let wrong = [0, 3, 6, 400, -3, -40, -20_785];
    for missed in [Missed::Skip, Missed::Once] {
        let (mut queue, mut recurrences) = fixture("*/5 * * * *", missed);
        queue.recur(&mut recurrences);
        let (mut right, mut come, mut jobs) = (NOON, BTreeSet::new(), 0);
        for _ in 0..40 {
            let wrong = if random.bool() { 0 } else { wrong[random.usize(..wrong.len())] };
            if random.bool() {
                recurrences = queue.restart();
            }
            let mut first = None;
            for _ in 0..random.usize(1..8) {
                right += random.u64(1..=5) * MINUTE;
                queue.now = right.checked_add_signed(wrong * DAY as i64).expect("after 1970");
                let now = queue.recur(&mut recurrences);
                let last = recurrences.told().and_then(|told| told[0].last);
                if now > jobs {
                    let (slot, _) = last.expect("it was enqueued");
                    assert!(now == jobs + 1 && come.insert(slot), "{missed:?}, {wrong} days: {slot} comes again");
                    jobs = now;
                }
                let slot = queue.now - queue.now % (5 * MINUTE);
                // One that begins anew begins with the next time, and one that is skipped is not seen in time.
                let is_wanted = slot > *first.get_or_insert(queue.now) && (missed == Missed::Once || slot == queue.now);
                assert!(!is_wanted || come.contains(&slot), "{missed:?}, {wrong} days: {slot} is left out");
            }
        }
    }
}

#[test]
fn a_clock_that_was_ahead_for_days_has_each_time_come_once_also_those_that_came_then() {
    for missed in [Missed::Skip, Missed::Once, Missed::All] {
        let (mut queue, mut recurrences) = fixture("@hourly", missed);
        queue.recur(&mut recurrences);
        let mut jobs = 0;
        for hour in [1, 72, 73, 74, 2] {
            queue.now = NOON + 60 * MINUTE * hour;
            jobs = queue.recur(&mut recurrences);
        }
        // An empty battery.
        queue.now = MINUTE;
        let mut next = queue.restart();
        assert_eq!(queue.recur(&mut next), jobs);
        for hour in 3..=80 {
            queue.now = NOON + 60 * MINUTE * hour;
            jobs = queue.recur(&mut next);
            if hour == 71 {
                assert_eq!(next.next_look(), NOON + 60 * MINUTE * 75, "{missed:?}");
            }
        }
        assert_eq!(jobs, 80, "{missed:?}");
    }
}

#[test]
fn one_whose_next_times_were_settled_long_before_they_come_is_told() {
    for (until, next, is_told) in [
        (NOON, Some(NOON + DAY / 2), false),
        (NOON + DAY, Some(NOON + DAY * 3 / 2), false),
        (NOON + 400 * DAY, Some(NOON + 400 * DAY + DAY / 2), true),
        ((1 << 53) - 1, None, true),
    ] {
        let text = format!(r#"{{"until":{until},"last":null,"schedule":"@daily","time_zone":"UTC"}}"#);
        let written = serde_json::from_str(&text).expect("it is as written");
        let mut recurrences = Recurrences::new(&[recurring("@daily", Missed::Once)]);
        let it = recurrences.due(NOON).next().expect("it was never looked at");
        it.decide(Some(written), NOON);
        it.rest(NOON);
        let shown = it.shown();
        assert_eq!((shown.next, shown.trouble.is_some()), (next, is_told), "{until}");
    }
}

#[test]
fn a_queue_that_is_full_is_told_and_tried_again_as_long_as_the_next_one_is_not_due() {
    let (mut queue, mut recurrences) = fixture("*/5 * * * *", Missed::Skip);
    queue.config.max_jobs = 1;
    queue.recur(&mut recurrences);
    let filler = queue.change(|change| change.enqueue(&[job("mail", "a")], ROOT)).expect("there is room")[0].id;
    queue.now = NOON + 5 * MINUTE;
    assert_eq!(queue.recur(&mut recurrences), 1);
    let told = recurrences.told().expect("it has changed").remove(0);
    assert_eq!(told.next, Some(NOON + 5 * MINUTE));
    assert!(told.trouble.is_some_and(|why| why.contains("max_jobs")));
    assert_eq!(recurrences.next_look(), queue.now + 5_000);
    queue.change(|change| change.cancel(filler)).expect("it waits");
    queue.now += 4 * MINUTE;
    assert_eq!(queue.recur(&mut recurrences), 1);
    assert_eq!(recurrences.told().expect("it has changed")[0].trouble, None);
    assert_eq!(queue.take("mail").map(|job| job.name).as_deref(), Some("Digest"));
}

#[test]
fn those_that_are_refused_again_and_again_keep_no_other_one_from_its_turn() {
    let named = |name: &str| Recurring { name: name.into(), ..recurring("*/5 * * * *", Missed::Once) };
    let (mut recurrences, mut looked_at) = (Recurrences::new(&["a", "b", "c"].map(named)), BTreeSet::new());
    // There is time for one, and when it is over that one is tried again.
    for now in [NOON, NOON + 5_000, NOON + 10_000] {
        let it = recurrences.due(now).next().expect("all are due");
        looked_at.insert(it.shown().name.clone());
        it.wait(Some(NOON), now, "the queue is full".into());
    }
    assert_eq!(looked_at.len(), 3);
}

#[test]
fn another_schedule_begins_anew_as_does_one_whose_entry_is_damaged_or_was_removed() {
    let (mut queue, mut recurrences) = fixture("*/5 * * * *", Missed::All);
    queue.recur(&mut recurrences);
    queue.now = NOON + 20 * MINUTE;
    queue.config.recurring = vec![recurring("* * * * *", Missed::All)];
    let mut next = queue.restart();
    assert_eq!(queue.recur(&mut next), 0);
    queue.now += MINUTE;
    assert_eq!(queue.recur(&mut next), 1);
    queue.damage(&keys::recurring("digest"));
    queue.now += 10 * MINUTE;
    let mut next = queue.restart();
    assert_eq!(queue.recur(&mut next), 1);
    let configured = std::mem::take(&mut queue.config.recurring);
    let mut none = queue.restart();
    assert_eq!(queue.recur(&mut none), 1);
    queue.config.recurring = configured;
    queue.now += 10 * MINUTE;
    let mut next = queue.restart();
    assert_eq!(queue.recur(&mut next), 1);
}

/// What sidecars share, and which slots they have enqueued.
#[derive(Default)]
struct Shared {
    written: Option<Settled>,
    enqueued: Vec<u64>,
}

impl Shared {
    /// Does so many of the things that a sidecar has decided by what it had read.
    fn carry_out(
        &mut self,
        sidecar: &mut Recurrences,
        now: u64,
        (read, todo): (Option<Settled>, Vec<Todo>),
        most: usize,
    ) {
        let (mut before, all) = (read, todo.len());
        let it = sidecar.due(now).next().expect("it has not rested since");
        for todo in todo.into_iter().take(most) {
            if self.written != before {
                return;
            }
            let settled = match todo {
                Todo::Settle(until) => it.settled(until, None),
                Todo::Enqueue(slot) => {
                    self.enqueued.push(slot);
                    it.settled(slot, Some(slot))
                }
            };
            it.settle(&settled);
            self.written = Some(settled);
            before = self.written.clone();
        }
        if most >= all {
            it.rest(now);
        }
    }
}

#[test]
fn of_sidecars_that_share_what_is_written_one_enqueues_each_time_however_late_they_are_and_wherever_they_end() {
    let mut random = fastrand::Rng::with_seed(30);
    let configured = [recurring("*/5 * * * *", Missed::All)];
    let mut sidecars = [(); 3].map(|()| Recurrences::new(&configured));
    let (mut shared, mut now) = (Shared::default(), NOON + 1_000);
    for _ in 0..2_000 {
        let read = shared.written.clone();
        // They have all read the same, and come one after the other.
        let mut decided = Vec::new();
        for (nth, sidecar) in sidecars.iter_mut().enumerate() {
            if let Some(it) = sidecar.due(now).next() {
                decided.push((nth, (read.clone(), it.decide(read.clone(), now))));
            }
        }
        random.shuffle(&mut decided);
        for (nth, decided) in decided {
            let ends = random.u8(..4) == 0;
            let most = if ends { random.usize(..3) } else { usize::MAX };
            shared.carry_out(&mut sidecars[nth], now, decided, most);
            if ends {
                sidecars[nth] = Recurrences::new(&configured);
            }
        }
        now += random.u64(..4 * MINUTE);
    }
    let last = shared.enqueued.last().copied().expect("there are some");
    let each: Vec<u64> = (NOON..=last).step_by(5 * MINUTE as usize).skip(1).collect();
    assert_eq!(shared.enqueued, each);
    assert!(now - last < 60 * MINUTE, "they go on");
}
