//! What is held, for how long, and what ends it.

use super::*;

#[test]
fn what_vanishes_alone_is_gone_at_once_and_what_vanishes_with_most_of_a_service_is_held() {
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..5));
    assert_eq!(house.count("web"), (5, 0), "a half is no more than a half");
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..6));
    assert_eq!(house.count("web"), (10, 6));
    assert_eq!(house.addresses(), ids(0..6));
    let held = house.listed["web"]["10.0.0.0:80"].clone().expect("it is held");
    assert_eq!((held.since, held.ends_at), (house.now.wall, house.now.wall + 600_000));
    let guarded: Vec<_> = house.guard.services(house.now, None).map(|it| it.held).collect();
    assert_eq!(guarded, [6]);
    house.come("web", &ids(0..3));
    assert_eq!(house.count("web"), (10, 3), "what comes back is held no longer");
    house.go("web", &ids(9..10));
    assert_eq!(house.count("web"), (9, 3), "most are there again");
    let mut small = House::with("db", 4);
    small.go("db", &ids(0..4));
    assert_eq!(small.count("db"), (0, 0), "few are no crowd");
}

#[test]
fn those_that_went_first_are_served_again_when_more_follow_within_the_window() {
    let mut house = House::with("web", 10);
    for (number, served) in [(0, (9, 0)), (1, (8, 0)), (2, (7, 0)), (3, (6, 0)), (4, (5, 0)), (5, (10, 6))] {
        house.go("web", &ids(number..number + 1));
        assert_eq!(house.count("web"), served);
        house.pass(Duration::from_secs(5));
    }
    let mut slow = House::with("web", 10);
    for number in 0..6 {
        slow.go("web", &ids(number..number + 1));
        slow.pass(MINUTE / 4);
    }
    assert_eq!(slow.count("web"), (4, 0), "within a minute it never lost more than half");
    slow.pass(MINUTE);
    assert!(slow.guard.is_idle());
}

#[test]
fn a_service_that_is_shut_down_is_gone_once_its_addresses_refuse_and_nothing_is_remembered() {
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..10));
    assert_eq!(house.count("web"), (10, 10));
    house.probed(&ids(0..7), Found::Refused);
    assert_eq!(house.count("web"), (3, 3));
    house.probed(&ids(7..10), Found::Refused);
    assert_eq!(house.count("web"), (0, 0));
    house.pass(MINUTE);
    assert!(house.guard.is_idle(), "{:?}", house.guard);
    house.come("web", &ids(0..3));
    house.go("web", &ids(0..2));
    assert_eq!(house.count("web"), (1, 0), "it begins anew");
}

#[test]
fn what_answers_is_kept_for_as_long_as_anything_and_no_longer() {
    let mut house = House::with("web", 5);
    house.go("web", &ids(0..5));
    house.probed(&ids(0..5), Found::Answering);
    assert_eq!(house.marks("web"), [(Probe::Answering, false); 5]);
    house.pass(MINUTE * 10 - Duration::from_millis(1));
    assert_eq!(house.count("web"), (5, 5));
    house.pass(Duration::from_millis(1));
    assert_eq!(house.count("web"), (0, 0));
    house.pass(MINUTE);
    assert!(house.guard.is_idle());
}

#[test]
fn a_service_that_flaps_is_served_as_if_it_did_not() {
    for (went_before, most) in [(0, 0), (4, 2)] {
        let mut house = House::with("web", 10);
        for number in 0..went_before {
            house.go("web", &ids(number..number + 1));
        }
        house.changes = usize::from(went_before > 0);
        for _ in 0..25 {
            house.go("web", &ids(0..10));
            house.pass(STEP);
            assert_eq!(house.count("web"), (10, 10));
            house.come("web", &ids(0..10));
            house.pass(STEP);
            assert_eq!(house.count("web"), (10, 0));
        }
        assert!(house.changes <= most, "{}", house.changes);
    }
}

#[test]
fn what_came_back_from_a_hold_is_held_at_once_if_it_goes_again_within_the_window() {
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..10));
    house.come("web", &ids(0..10));
    for number in 0..10 {
        house.go("web", &ids(number..number + 1));
        assert_eq!(house.count("web"), (10, number + 1));
    }
    house.come("web", &ids(0..10));
    house.pass(MINUTE);
    house.go("web", &ids(0..1));
    assert_eq!(house.count("web"), (9, 0));
}

#[test]
fn while_others_are_held_one_that_goes_alone_is_gone_and_the_dead_are_passed_over() {
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..10));
    house.probed(&ids(0..10), Found::Silent);
    assert_eq!(house.marks("web"), [(Probe::Silent, false); 10]);
    house.come("web", &ids(10..15));
    assert_eq!(house.marks("web"), [(Probe::Silent, true); 10], "so many came since that the network is well");
    house.come("web", &ids(15..20));
    for number in 10..20 {
        house.pass(MINUTE / 4);
        house.go("web", &ids(number..number + 1));
        assert_eq!(house.count("web"), (19, 10));
        assert_eq!(house.marks("web"), [(Probe::Silent, true); 10]);
        house.come("web", &ids(number + 10..number + 11));
    }
    house.pass(MINUTE);
    house.go("web", &ids(20..25));
    assert_eq!(house.count("web"), (15, 10));
    house.go("web", &ids(25..26));
    assert_eq!(house.count("web"), (20, 16), "those that went first are held as well");
}

#[test]
fn what_is_left_of_a_service_is_held_as_well_if_it_goes_at_once_however_few_it_is() {
    let shrunken = || {
        let mut house = House::with("web", 10);
        house.go("web", &ids(0..6));
        house.pass(MINUTE + STEP);
        house
    };
    let mut house = shrunken();
    house.go("web", &ids(6..10));
    assert_eq!(house.count("web"), (10, 10));
    let mut house = shrunken();
    for (number, served) in [(6, (9, 6)), (7, (8, 6)), (8, (10, 9))] {
        house.go("web", &ids(number..number + 1));
        assert_eq!(house.count("web"), served);
    }
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..10));
    house.come("web", &ids(10..14));
    house.pass(MINUTE + STEP);
    house.go("web", &ids(10..14));
    assert_eq!(house.count("web"), (14, 14), "its replacements too");
}

#[test]
fn a_host_that_slept_holds_what_it_finds_missing_and_lets_go_what_it_held() {
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..6));
    house.pass(MINUTE * 60);
    assert_eq!(house.count("web"), (4, 0));
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..1));
    house.now = Now { moment: house.now.moment + MINUTE * 60, wall: 5 };
    house.go("web", &ids(1..6));
    assert_eq!(house.count("web"), (9, 5), "and what went before is long gone");
    assert_eq!(house.listed["web"]["10.0.0.1:80"].as_ref().map(|held| held.since), Some(5));
}

#[test]
fn an_operator_lets_some_go_or_all_that_will() {
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..8));
    let effects = house.guard.release("web", Which::At(&["10.0.0.3:80".into(), "elsewhere:1".into()]));
    house.take(effects);
    assert_eq!(house.count("web"), (9, 7));
    let effects = house.guard.release("web", Which::All);
    house.take(effects);
    assert_eq!(house.count("web"), (2, 0));
    assert_eq!(house.guard.release("nothing", Which::All), []);
    house.come("web", &ids(0..8));
    let effects = house.guard.accept(house.now, "web", MINUTE, "uid 0");
    house.take(effects);
    let left = |house: &House| house.guard.services(house.now, None).map(|it| it.accepted).collect::<Vec<_>>();
    assert_eq!(left(&house), [Some(MINUTE)]);
    house.go("web", &ids(0..10));
    assert_eq!(house.count("web"), (0, 0));
    house.come("web", &ids(0..10));
    house.pass(MINUTE);
    assert_eq!(left(&house), []);
    house.go("web", &ids(0..10));
    assert_eq!(house.count("web"), (10, 10), "it is guarded again");
}
