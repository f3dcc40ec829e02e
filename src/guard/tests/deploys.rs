//! Deploys that start the new instances first, and losses that look like them.

use super::*;

/// Has some instances go one after the other; returns how many were held at most.
fn leave(house: &mut House, ids: &[String]) -> usize {
    let one = |id: &String| {
        house.go("web", std::slice::from_ref(id));
        house.pass(STEP);
        house.count("web").1
    };
    ids.iter().map(one).max().unwrap_or(0)
}

#[test]
fn a_rolling_deploy_holds_nothing() {
    let mut in_place = House::with("web", 10);
    for number in (0..10).cycle().take(100) {
        in_place.go("web", &ids(number..number + 1));
        in_place.pass(Duration::from_secs(2));
        assert_eq!(in_place.count("web"), (9, 0));
        in_place.come("web", &ids(number..number + 1));
        in_place.pass(Duration::from_secs(1));
    }
    let mut elsewhere = House::with("web", 10);
    for number in 0..200 {
        elsewhere.come("web", &ids(number + 10..number + 11));
        elsewhere.pass(STEP);
        elsewhere.go("web", &ids(number..number + 1));
        elsewhere.pass(STEP);
        assert_eq!(elsewhere.count("web"), (10, 0));
    }
    let mut at_once = House::with("web", 10);
    at_once.come("web", &ids(10..20));
    at_once.go("web", &ids(0..10));
    assert_eq!(at_once.count("web"), (10, 0));
}

#[test]
fn a_deploy_that_starts_the_new_ones_first_holds_nothing_however_the_old_ones_go() {
    for count in [10, 9, 5] {
        for at_once in [true, false] {
            let mut house = House::with("web", 10);
            house.come("web", &ids(10..10 + count));
            house.pass(MINUTE / 2);
            match at_once {
                true => house.go("web", &ids(0..10)),
                false => assert_eq!(leave(&mut house, &ids(0..10)), 0, "{count}"),
            }
            assert_eq!(house.count("web"), (count, 0), "{count}, {at_once}");
            house.pass(MINUTE * 2);
            assert!(house.guard.is_idle(), "{:?}", house.guard);
        }
    }
    let mut house = House::with("web", 10);
    house.come("web", &ids(10..14));
    house.go("web", &ids(0..10));
    assert_eq!(house.count("web"), (14, 10), "four are too few in place of ten");
    let mut small = House::with("web", 4);
    small.come("web", &ids(10..14));
    small.go("web", &ids(10..11));
    small.go("web", &ids(0..4));
    assert_eq!(small.count("web"), (3, 0), "four and four are no service of eight");
}

#[test]
fn a_new_one_that_restarts_while_the_old_ones_go_is_as_new_as_before() {
    for count in [10, 9] {
        let mut house = House::with("web", 10);
        house.come("web", &ids(10..10 + count));
        for id in ids(10..10 + count) {
            house.go("web", std::slice::from_ref(&id));
            house.pass(STEP);
            house.come("web", &[id]);
        }
        house.go("web", &ids(0..10));
        assert_eq!(house.count("web"), (count, 0));
        house.go("web", &ids(10..11));
        assert_eq!(house.count("web"), (count - 1, 0));
    }
    let mut late = House::with("web", 10);
    late.come("web", &ids(10..20));
    late.pass(MINUTE - STEP * 2);
    assert_eq!(leave(&mut late, &ids(0..10)), 0, "they cease to be new meanwhile");
    late.go("web", &ids(10..11));
    assert_eq!(late.count("web"), (9, 0));
}

#[test]
fn what_was_held_for_longer_than_the_window_has_no_part_in_the_loss_of_a_root() {
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..6));
    assert_eq!(house.count("web"), (10, 6));
    house.pass(MINUTE * 2);
    house.probed(&ids(0..6).iter().map(|id| address(id).to_owned()).collect::<Vec<_>>(), Found::Answering);
    house.go("web", &ids(6..7));
    assert!(!house.guard.is_lost(0, 3), "one of four");
}

#[test]
fn a_new_release_that_is_taken_back_is_gone_and_one_that_fails_is_held_without_those_it_replaced() {
    let mut back = House::with("web", 10);
    back.come("web", &ids(10..20));
    back.go("web", &ids(10..20));
    assert_eq!(back.count("web"), (10, 0));
    let mut failed = House::with("web", 10);
    failed.come("web", &ids(10..20));
    assert_eq!(leave(&mut failed, &ids(0..10)), 0);
    failed.go("web", &ids(10..20));
    assert_eq!(failed.count("web"), (10, 10));
    assert!(ids(10..20).iter().all(|id| failed.listed["web"].contains_key(id)));
    let mut both = House::with("web", 10);
    both.come("web", &ids(10..20));
    both.go("web", &ids(0..20));
    assert_eq!(both.count("web"), (20, 20), "that is no deploy");
}

#[test]
fn what_comes_back_within_the_window_is_not_new() {
    for goes_at_once in [false, true] {
        let mut house = House::with("web", 10);
        match goes_at_once {
            true => house.go("web", &ids(0..6)),
            false => assert_eq!(leave(&mut house, &ids(0..4)), 0),
        }
        house.pass(MINUTE - STEP * 5);
        house.come("web", &ids(0..6));
        house.pass(STEP * 5);
        house.go("web", &ids(4..10));
        assert_eq!(house.count("web"), (10, 6), "they were there before, and replace nothing");
    }
}

#[test]
fn where_all_are_new_their_number_counts_and_it_goes_on_counting_while_they_cease_to_be_new() {
    for step in [1, 10] {
        let mut first = House::new();
        (0..10).step_by(step).for_each(|number| first.come("web", &ids(number..number + step)));
        first.go("web", &ids(0..6));
        assert_eq!(first.count("web"), (10, 6), "a service that is just there");
    }

    let mut grown = House::with("web", 5);
    grown.come("web", &ids(5..100));
    grown.pass(STEP);
    grown.go("web", &ids(20..80));
    assert_eq!(grown.count("web"), (100, 60), "one that was scaled up just now");
    let mut grown = House::with("web", 5);
    grown.come("web", &ids(5..100));
    leave(&mut grown, &ids(20..80));
    assert_eq!(
        grown.count("web"),
        (95, 55),
        "one after the other, in place of the first of which others may have come"
    );

    for pauses in 0..10 {
        let mut spread = House::with("web", 5);
        for number in 5..100 {
            spread.come("web", &ids(number..number + 1));
            spread.pass(STEP * 3);
        }
        (0..pauses * 5).for_each(|_| spread.pass(STEP * 5));
        spread.go("web", &ids(20..80));
        assert_eq!(spread.count("web"), (100, 60), "half of them came before the window, {pauses}");
    }

    let mut slow = House::new();
    for number in 0..20 {
        slow.come("web", &ids(number..number + 1));
        slow.pass(MINUTE);
    }
    slow.go("web", &ids(0..11));
    assert_eq!(slow.count("web"), (20, 11), "one that grew slowly");
}

#[test]
fn what_came_before_the_window_counts_beside_the_others() {
    let mut house = House::with("web", 10);
    house.come("web", &ids(10..19));
    house.pass(MINUTE);
    house.go("web", &ids(0..10));
    assert_eq!(house.count("web"), (19, 10));
}

#[test]
fn newcomers_below_one_root_say_nothing_of_another_and_none_are_remembered_for_long() {
    let mut house = House::with("web", 10);
    house.come("web", &ids_below(1, 0..10));
    house.go("web", &ids(0..6));
    assert_eq!(house.count("web"), (20, 6), "they replace nothing below the first");
    let mut large = House::new();
    large.come("web", &ids(0..10));
    large.pass(MINUTE);
    assert!(large.guard.is_idle());
}
