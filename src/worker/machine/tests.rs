//! The state machine, request by request.

use super::*;

/// A machine, and the answers to requests.
struct Slot {
    machine: Machine,
    now: Instant,
    told: Vec<oneshot::Receiver<Outcome>>,
}

impl Slot {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        Self { machine: Machine::new("web/1".into(), Arc::new(config)), now: Instant::now(), told: Vec::new() }
    }

    /// One whose first process is running.
    fn running(change: impl FnOnce(&mut Config)) -> Self {
        let mut slot = Self::new(change);
        assert_eq!(slot.wish(Machine::start), [Action::Begin(1)]);
        assert_eq!(slot.ready(1), []);
        assert_eq!(slot.answer(0), Some(Ok(())));
        slot
    }

    fn wish(&mut self, wish: impl FnOnce(&mut Machine, Done, Instant)) -> Vec<Action> {
        let (done, told) = oneshot::channel();
        self.told.push(told);
        wish(&mut self.machine, done, self.now);
        self.machine.take_actions()
    }

    fn stop(&mut self) -> Vec<Action> {
        let until = self.until();
        self.wish(|machine, done, now| machine.stop(until, done, now))
    }

    fn renew(&mut self) -> Vec<Action> {
        let next = self.machine.next();
        self.wish(|machine, done, now| machine.renew(next, done, now))
    }

    fn until(&self) -> Instant {
        self.now + self.machine.config.stop_timeout
    }

    fn ready(&mut self, nth: u64) -> Vec<Action> {
        self.machine.began(nth, nth as i32);
        self.machine.ready(nth, self.now);
        self.machine.take_actions()
    }

    fn exits(&mut self, nth: u64, code: i32) -> Vec<Action> {
        self.machine.ended(nth, Ending::Ended(End::Exited(code)), self.now);
        self.machine.take_actions()
    }

    fn passes(&mut self, nth: u64, limit: Passed) -> Vec<Action> {
        self.machine.passed(nth, limit, self.now);
        self.machine.take_actions()
    }

    fn pause_is_over(&mut self) -> Vec<Action> {
        self.machine.pause_is_over(self.machine.pauses, self.now);
        self.machine.take_actions()
    }

    /// The answer to the request with this index.
    fn answer(&mut self, nth: usize) -> Option<Outcome> {
        self.told[nth].try_recv().ok()
    }

    fn shown(&self) -> (State, Option<i32>, Vec<i32>) {
        (self.machine.state(), self.machine.pid(), self.machine.retiring())
    }
}

fn why(why: &str) -> Option<Outcome> {
    Some(Err(why.to_owned()))
}

#[test]
fn who_waits_for_a_stop_is_told_when_it_is_started_instead_and_undoes_nothing_later() {
    let mut slot = Slot::running(|_| {});
    let until = slot.until();
    assert_eq!(slot.stop(), [Action::End(1, until)]);
    assert_eq!(slot.wish(Machine::start), []);
    assert_eq!((slot.answer(1), slot.answer(2)), (why("it was started meanwhile"), None));
    assert_eq!(slot.exits(1, 0), [Action::Begin(2)]);
    slot.ready(2);
    assert_eq!(slot.answer(2), Some(Ok(())));
    let until = slot.until();
    assert_eq!(slot.stop(), [Action::End(2, until)]);
    assert_eq!((slot.exits(2, 0), slot.answer(3)), (vec![], Some(Ok(()))));
    assert_eq!((slot.shown(), slot.machine.restarts()), ((State::Stopped, None, vec![]), 0));
}

#[test]
fn what_the_machine_is_short_of_is_no_failure_and_is_waited_for() {
    let mut slot = Slot::new(|config| config.start_retries = 0);
    slot.wish(Machine::start);
    for nth in 1..20 {
        slot.machine.ended(nth, Ending::Short("Try again".to_owned()), slot.now);
        let actions = slot.machine.take_actions();
        assert!(matches!(actions[..], [Action::Pause(_, pause)] if pause <= MAX_SOCKET_DELAY), "{actions:?}");
        assert_eq!(slot.machine.state(), State::Backoff);
        assert_eq!(slot.pause_is_over(), [Action::Begin(nth + 1)]);
    }
    assert_eq!((slot.answer(0), &*slot.machine.why()), (why("Try again"), "Try again"));
}

#[test]
fn nobody_waits_for_a_process_that_cannot_be_killed() {
    let mut slot = Slot::running(|_| {});
    slot.stop();
    slot.machine.stuck(1, "traced", slot.now);
    assert_eq!(
        (slot.answer(1), slot.shown(), &*slot.machine.why()),
        (why("traced"), (State::Stopping, Some(1), vec![]), "traced")
    );
    assert_eq!((slot.wish(Machine::start), slot.answer(2)), (vec![], why("traced")));
    assert_eq!((slot.exits(1, 0), &*slot.machine.why()), (vec![Action::Begin(2)], ""), "as it was wished last");
    // The successor of a stuck one does not wait for it.
    slot.ready(2);
    assert_eq!(slot.renew(), [Action::Begin(3)]);
    slot.ready(3);
    slot.machine.stuck(2, "traced", slot.now);
    assert_eq!((slot.answer(3), slot.machine.state()), (Some(Ok(())), State::Running));
    slot.wish(Machine::start);
    assert_eq!((slot.answer(4), &*slot.machine.why()), (Some(Ok(())), "traced"));
    slot.exits(2, 0);
    assert_eq!(&*slot.machine.why(), "", "it is over");
}

#[test]
fn nobody_waits_for_a_successor_that_is_not_ready_and_cannot_be_killed() {
    let mut slot = Slot::running(|_| {});
    slot.renew();
    slot.machine.began(2, 2);
    slot.machine.stuck(2, "traced", slot.now);
    assert_eq!((slot.answer(1), slot.shown()), (why("traced"), (State::Running, Some(1), vec![2])));
    assert_eq!(slot.renew(), [Action::Begin(3)], "the next one is not kept waiting");
    slot.ready(3);
    assert_eq!((slot.answer(2), slot.shown()), (Some(Ok(())), (State::Running, Some(3), vec![2, 1])));

    slot.exits(1, 0);
    assert_eq!(slot.passes(3, Passed::Age("old".into())), [Action::Begin(4)], "it does not wait for one that is stuck");
    slot.machine.stuck(4, "traced", slot.now);
    assert!(matches!(slot.machine.take_actions()[..], [Action::Pause(..)]));
    assert_eq!(slot.pause_is_over(), [Action::Begin(5)]);
}

#[test]
fn one_that_was_given_up_and_cannot_be_killed_is_stopping() {
    let mut slot = Slot::new(|_| {});
    slot.wish(Machine::start);
    slot.machine.stuck(1, "traced", slot.now);
    assert_eq!((slot.answer(0), slot.machine.state()), (why("traced"), State::Stopping));
}

#[test]
fn what_hangs_at_each_start_is_tried_less_and_less_often_and_given_up() {
    let mut slot = Slot::new(|_| {});
    slot.wish(Machine::start);
    let mut pauses = Vec::new();
    for nth in 1.. {
        slot.now += slot.machine.config.ready_timeout;
        slot.machine.ended(nth, Ending::Failed("it hangs".to_owned()), slot.now);
        let [Action::Pause(_, pause)] = slot.machine.take_actions()[..] else { break };
        pauses.push(pause);
        slot.now += pause;
        slot.pause_is_over();
    }
    assert_eq!((slot.machine.state(), pauses.len()), (State::Fatal, slot.machine.config.start_retries));
    assert!(pauses.iter().max() > Some(&Duration::from_secs(1)), "{pauses:?}");
}

#[test]
fn failures_of_long_ago_do_not_count_when_one_was_ready_since() {
    let mut slot = Slot::new(|config| config.start_retries = 1);
    slot.wish(Machine::start);
    slot.exits(1, 1);
    slot.pause_is_over();
    slot.now += 2 * slot.machine.config.start_window;
    slot.ready(2);
    slot.exits(2, 0);
    slot.pause_is_over();
    slot.exits(3, 1);
    assert_eq!(slot.machine.state(), State::Backoff);
}

#[test]
fn a_restart_that_a_stop_overtakes_starts_nothing() {
    let mut slot = Slot::running(|_| {});
    let until = slot.until();
    assert_eq!(slot.wish(|machine, done, now| machine.restart(until, done, now)), [Action::End(1, until)]);
    slot.stop();
    assert_eq!(slot.answer(1), why("it was stopped meanwhile"));
    assert_eq!((slot.exits(1, 0), slot.machine.state()), (vec![], State::Stopped));
    let until = slot.until();
    assert_eq!(slot.wish(|machine, done, now| machine.restart(until, done, now)), [Action::Begin(2)]);
    slot.ready(2);
    assert_eq!(slot.answer(3), Some(Ok(())));
}

#[test]
fn what_was_asked_to_end_never_runs_again_though_it_is_ready_then() {
    for leaves in [false, true] {
        let mut slot = Slot::new(|_| {});
        slot.wish(Machine::start);
        let until = slot.until();
        slot.wish(|machine, done, now| match leaves {
            true => machine.leave(until, done, now),
            false => machine.stop(until, done, now),
        });
        assert_eq!((slot.ready(1), slot.machine.state()), (vec![], State::Stopping));
        assert_eq!(slot.answer(0), why("it was stopped meanwhile"));
        assert_eq!((slot.exits(1, 0), slot.answer(1)), (vec![], Some(Ok(()))));
        assert_eq!(slot.machine.is_gone(), leaves);
        let begun = if leaves { vec![] } else { vec![Action::Begin(2)] };
        assert_eq!(slot.wish(Machine::start), begun);
    }
}

#[test]
fn a_slot_that_leaves_can_be_had_again() {
    let mut slot = Slot::running(|_| {});
    let until = slot.until();
    slot.wish(|machine, done, now| machine.leave(until, done, now));
    assert!(slot.machine.is_new_or_leaves());
    slot.wish(Machine::start_also_if_it_leaves);
    assert_eq!((slot.exits(1, 0), slot.machine.is_gone()), (vec![Action::Begin(2)], false));
}

#[test]
fn a_stop_is_over_when_all_have_ended_also_those_that_were_replaced() {
    let mut slot = Slot::running(|_| {});
    assert_eq!(slot.renew(), [Action::Begin(2)]);
    let retired = slot.until();
    assert_eq!(slot.ready(2), [Action::End(1, retired)]);
    assert_eq!((slot.answer(1), slot.machine.restarts()), (Some(Ok(())), 1));
    assert_eq!(slot.shown(), (State::Running, Some(2), vec![1]));
    let until = slot.until();
    assert_eq!(slot.stop(), [Action::End(2, until), Action::End(1, until)]);
    slot.exits(2, 0);
    assert_eq!((slot.answer(2), slot.shown()), (None, (State::Stopping, None, vec![1])));
    slot.exits(1, 0);
    assert_eq!((slot.answer(2), slot.machine.state()), (Some(Ok(())), State::Stopped));
}

#[test]
fn what_ends_already_can_be_killed() {
    let mut slot = Slot::running(|_| {});
    slot.stop();
    let now = slot.now;
    assert_eq!(slot.wish(|machine, done, now| machine.stop(now, done, now)), [Action::End(1, now)]);
    slot.exits(1, 0);
    assert_eq!((slot.answer(1), slot.answer(2)), (Some(Ok(())), Some(Ok(()))));
}

#[test]
fn so_many_that_were_replaced_may_be_left_and_no_more() {
    let mut slot = Slot::running(|_| {});
    for nth in 2..=MAX_RETIRING as u64 + 1 {
        assert_eq!(slot.renew(), [Action::Begin(nth)]);
        slot.ready(nth);
    }
    assert_eq!(slot.renew(), []);
    let told = slot.told.last_mut().expect("one").try_recv().expect("an answer").expect_err("too many");
    assert!(told.starts_with("8 that were replaced have not ended yet"), "{told}");
    slot.exits(1, 0);
    assert_eq!(slot.renew(), [Action::Begin(MAX_RETIRING as u64 + 2)]);
}

#[test]
fn who_asks_for_new_code_has_a_process_that_began_after_that() {
    let mut slot = Slot::running(|_| {});
    assert_eq!(slot.renew(), [Action::Begin(2)]);
    assert_eq!(slot.renew(), [], "one after the other");
    assert_eq!(slot.ready(2), [Action::End(1, slot.until()), Action::Begin(3)]);
    assert_eq!((slot.answer(1), slot.answer(2)), (Some(Ok(())), None));
    slot.ready(3);
    assert_eq!(slot.answer(2), Some(Ok(())));

    let mut slot = Slot::new(|_| {});
    slot.wish(Machine::start);
    assert_eq!(slot.renew(), [], "what starts may have begun with what is to be replaced");
    assert_eq!((slot.ready(1), slot.answer(1)), (vec![Action::Begin(2)], None));
    slot.exits(2, 1);
    assert_eq!(slot.answer(1), why("it ended with code 1 before it was ready"));
    assert_eq!(slot.shown(), (State::Running, Some(1), vec![]));
}

#[test]
fn new_code_for_what_waits_after_a_failure_is_there_when_it_runs() {
    let mut slot = Slot::running(|_| {});
    slot.exits(1, 1);
    assert_eq!(slot.machine.state(), State::Backoff);
    assert_eq!((slot.renew(), slot.answer(1)), (vec![Action::Begin(2)], None));
    slot.ready(2);
    assert_eq!(slot.answer(1), Some(Ok(())));
}

#[test]
fn what_is_stopped_or_over_is_passed_over() {
    let mut slot = Slot::running(|config| config.restart = Restart::Never);
    assert!(!slot.machine.is_passed_over());
    slot.exits(1, 0);
    assert!(slot.machine.is_passed_over() && slot.machine.state() == State::Exited);
    slot.wish(Machine::start);
    slot.stop();
    assert!(slot.machine.is_passed_over());
}

#[test]
fn one_that_ends_while_its_successor_starts_has_it_at_once() {
    let mut slot = Slot::running(|_| {});
    slot.renew();
    assert_eq!((slot.exits(1, 1), slot.machine.state()), (vec![], State::Starting));
    slot.ready(2);
    assert_eq!((slot.shown(), slot.machine.restarts()), ((State::Running, Some(2), vec![]), 1));
    assert_eq!(slot.answer(1), Some(Ok(())));
}

#[test]
fn who_takes_too_much_memory_soon_after_each_start_is_replaced_less_and_less_often() {
    let mut slot = Slot::running(|_| {});
    let mut most = Duration::ZERO;
    for nth in 1..=12 {
        let actions = slot.passes(nth, Passed::Memory("much".into()));
        let [Action::Pause(_, pause)] = actions[..] else { panic!("{actions:?}") };
        most = most.max(pause);
        slot.now += pause;
        assert_eq!(slot.pause_is_over(), [Action::Begin(nth + 1)]);
        slot.ready(nth + 1);
        slot.exits(nth, 0);
    }
    assert!(most > Duration::from_secs(5), "{most:?}");
    slot.now += slot.machine.config.start_window;
    assert_eq!(slot.passes(13, Passed::Memory("much".into())), [Action::Begin(14)], "that took its time");
    slot.ready(14);
    slot.exits(13, 0);
    assert_eq!(slot.passes(14, Passed::Age("old".into())), [Action::Begin(15)]);
}

#[test]
fn one_that_is_replaced_for_no_doing_of_its_own_may_end_its_jobs_and_the_next_one_waits_for_it() {
    let mut slot = Slot::running(|_| {});
    assert_eq!(slot.passes(1, Passed::Age("old".into())), [Action::Begin(2)]);
    assert_eq!(slot.ready(2), [Action::End(1, slot.now + MOST_FOR_JOBS)]);
    slot.now += slot.machine.config.start_window;
    assert_eq!(slot.passes(2, Passed::Requests("many".into())), []);
    assert_eq!(slot.exits(1, 0), [Action::Begin(3)]);
    assert_eq!(slot.ready(3), [Action::End(2, slot.now + MOST_FOR_JOBS)]);
    slot.now += slot.machine.config.start_window;
    assert_eq!(slot.passes(3, Passed::Memory("much".into())), [Action::Begin(4)]);
    assert_eq!(slot.ready(4), [Action::End(3, slot.until())]);
    // Who is stopped has no longer than any other.
    let until = slot.until();
    assert_eq!(slot.stop(), [4, 2, 3].map(|nth| Action::End(nth, until)));
}

#[test]
fn one_that_waits_for_the_jobs_of_its_predecessor_is_replaced_at_once_for_what_does_not_wait() {
    for limit in [Passed::Memory("much".into()), Passed::Connections("deaf".into())] {
        let mut slot = Slot::running(|_| {});
        assert_eq!(slot.passes(1, Passed::Age("old".into())), [Action::Begin(2)]);
        assert_eq!(slot.ready(2), [Action::End(1, slot.now + MOST_FOR_JOBS)]);
        slot.now += slot.machine.config.start_window;
        assert_eq!(slot.passes(2, Passed::Requests("many".into())), []);
        assert_eq!(slot.machine.why(), "many; its predecessor has not ended yet");
        assert_eq!(slot.passes(2, limit.clone()), [Action::Begin(3)]);
        // However old it becomes meanwhile.
        assert_eq!(slot.passes(2, Passed::Age("old".into())), []);
        assert_eq!(slot.ready(3), [Action::End(2, slot.until())]);
        assert_eq!((slot.shown(), slot.machine.why()), ((State::Running, Some(3), vec![1, 2]), limit.why().to_owned()));
    }
    // Nor does what comes first have to be what waits.
    let mut slot = Slot::running(|_| {});
    assert_eq!(slot.passes(1, Passed::Age("old".into())), [Action::Begin(2)]);
    assert_eq!(slot.ready(2), [Action::End(1, slot.now + MOST_FOR_JOBS)]);
    assert!(matches!(slot.passes(2, Passed::Memory("much".into()))[..], [Action::Pause(..)]));
    assert_eq!(slot.passes(2, Passed::Age("old".into())), []);
    assert_eq!(slot.pause_is_over(), [Action::Begin(3)]);
}

#[test]
fn who_restarts_what_has_passed_a_limit_does_not_wait_for_its_jobs() {
    let mut slot = Slot::running(|_| {});
    slot.passes(1, Passed::Age("old".into()));
    slot.ready(2);
    slot.now += slot.machine.config.start_window;
    assert_eq!(slot.passes(2, Passed::Age("old".into())), []);
    assert_eq!(slot.renew(), [Action::Begin(3)]);
    assert_eq!(slot.ready(3), [Action::End(2, slot.until())]);
    assert_eq!((slot.answer(1), slot.machine.why()), (Some(Ok(())), String::new()));
}

#[test]
fn what_passes_a_hard_limit_is_killed_also_while_it_starts_or_ends() {
    let mut slot = Slot::running(|_| {});
    slot.renew();
    slot.ready(2);
    slot.renew();
    for nth in 1..=3 {
        assert_eq!(slot.passes(nth, Passed::Hard("too much".into())), [Action::End(nth, slot.now)]);
    }
    slot.exits(1, 0);
    slot.exits(3, 0);
    assert_eq!(slot.answer(2), why("too much"));
    assert!(matches!(slot.exits(2, 0)[..], [Action::Pause(..)]));
    assert_eq!((slot.machine.state(), slot.machine.why()), (State::Backoff, "too much".to_owned()));
}

#[test]
fn a_process_that_jobs_kill_is_never_given_up() {
    let mut slot = Slot::running(|config| config.start_retries = 2);
    for nth in 1..=20 {
        slot.machine.had_jobs(nth, None);
        assert!(matches!(slot.exits(nth, 255)[..], [Action::Pause(..)]));
        assert_eq!(slot.pause_is_over(), [Action::Begin(nth + 1)]);
        slot.ready(nth + 1);
    }
    // Those that no job killed count as ever.
    for nth in 21..=22 {
        slot.exits(nth, 255);
        slot.pause_is_over();
        slot.ready(nth + 1);
    }
    assert_eq!((slot.exits(23, 255), slot.machine.state()), (vec![], State::Fatal));
}

#[test]
fn the_job_with_which_a_process_ended_is_known_as_long_as_that_is_why_it_is_gone() {
    let mut slot = Slot::running(|_| {});
    let job = Performed { id: 7, queue: "mail".into(), name: "send".into() };
    slot.machine.had_jobs(1, Some(job.clone()));
    slot.exits(1, 3);
    assert_eq!((slot.machine.why(), slot.machine.performed()), ("it ended with code 3".to_owned(), Some(job)));
    slot.pause_is_over();
    slot.ready(2);
    slot.machine.had_jobs(2, None);
    slot.exits(2, 3);
    assert_eq!((slot.machine.why(), slot.machine.performed()), ("it ended with code 3".to_owned(), None));
}

#[test]
fn a_crash_loop_is_given_up_and_an_old_pause_starts_nothing() {
    let mut slot = Slot::new(|config| config.start_retries = 2);
    slot.wish(Machine::start);
    for nth in 1..=2 {
        assert!(matches!(slot.exits(nth, 3)[..], [Action::Pause(..)]));
        assert_eq!(slot.pause_is_over(), [Action::Begin(nth + 1)]);
    }
    assert_eq!((slot.exits(3, 3), slot.machine.state(), slot.machine.restarts()), (vec![], State::Fatal, 2));
    assert_eq!(slot.pause_is_over(), []);
    assert_eq!(slot.wish(Machine::start), [Action::Begin(4)]);
    slot.exits(4, 3);
    slot.stop();
    assert_eq!((slot.pause_is_over(), slot.machine.state()), (vec![], State::Stopped));
}
