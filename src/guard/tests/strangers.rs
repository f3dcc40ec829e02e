//! Others that are registered at the addresses of held instances.

use super::*;

#[test]
fn what_is_registered_otherwise_at_its_address_has_half_a_minute_to_come_back() {
    let mut house = House::with("web", 5);
    house.go("web", &ids(0..5));
    house.come("web2", &ids(0..2));
    house.pass(DOUBT - STEP);
    house.come("web", &ids(1..2));
    house.pass(STEP);
    assert_eq!(house.count("web"), (4, 3), "one is gone, one is back, and the others are held");
    assert_eq!(house.count("web2"), (2, 0));
    assert!(!house.listed["web"].contains_key("10.0.0.0:80"));
}

#[test]
fn a_service_that_comes_back_casts_no_doubt_on_others_that_were_at_its_addresses() {
    let mut house = House::new();
    for service in ["a", "b"] {
        house.come(service, &ids(0..5));
    }
    house.revision(&[("a", &ids(0..5), &[]), ("b", &ids(0..5), &[])], false);
    house.restart();
    house.come("a", &ids(0..5));
    house.pass(DOUBT + STEP);
    assert_eq!((house.count("a"), house.count("b")), ((5, 0), (5, 5)));
    house.come("c", &ids(0..2));
    house.pass(DOUBT);
    assert_eq!(house.count("b"), (5, 5), "c may have been there");
    house.probed(&ids(0..1), Found::Refused);
    assert_eq!(house.count("b"), (4, 4));
}

#[test]
fn who_may_have_left_an_address_unseen_is_no_stranger_there() {
    for (case, believed) in
        [("all is known", true), ("a restart", false), ("a restart before", false), ("no room", false)]
    {
        let mut house = House::of(Config { max_held: 20, ..Config::default() });
        house.come("b", &ids(0..10));
        house.come("a", &ids(0..4));
        for number in (100..120).step_by(4).filter(|_| case == "no room") {
            house.come(&format!("x{number}"), &ids(number..number + 4));
            house.go(&format!("x{number}"), &ids(number..number + 4));
        }
        if !believed {
            house.go("a", &ids(0..4));
        }
        if case == "a restart before" {
            house.restart();
        }
        house.go("b", &ids(0..10));
        if case == "a restart" {
            house.restart();
        }
        if believed {
            house.go("a", &ids(0..4));
            house.come("x", &ids(0..4));
        }
        house.pass(MINUTE);
        house.come("a", &ids(0..4));
        house.pass(DOUBT + STEP);
        assert_eq!(house.count("b").1, if believed { 6 } else { 10 }, "{case}");
    }
}

#[test]
fn a_service_that_is_back_in_another_form_is_a_stranger_to_its_own_alone() {
    let other: Vec<String> = ids(0..5).iter().map(|id| format!("{id}?other")).collect();
    for restarts in [false, true] {
        let mut house = House::new();
        for service in ["a", "b"] {
            house.come(service, &ids(0..5));
        }
        house.revision(&[("a", &ids(0..5), &[]), ("b", &ids(0..5), &[])], false);
        if restarts {
            house.restart();
        }
        house.come("a", &other[..2]);
        house.pass(DOUBT);
        assert_eq!((house.count("a"), house.count("b")), ((5, 3), (5, 5)));
    }
}

#[test]
fn a_stranger_that_is_there_for_half_a_minute_ends_a_hold_whenever_and_beside_whom_it_came() {
    let shrunken = || {
        let mut house = House::with("web", 10);
        house.go("web", &ids(0..6));
        house
    };
    let mut house = shrunken();
    house.come("b", &ids(0..1));
    house.pass(DOUBT - STEP);
    house.go("b", &ids(0..1));
    house.pass(MINUTE * 2);
    house.come("b", &ids(0..1));
    house.pass(DOUBT - STEP);
    assert_eq!(house.count("web"), (10, 6), "its time begins anew");
    house.pass(STEP);
    assert_eq!(house.count("web"), (9, 5), "it was no less a stranger for being back");

    let mut house = shrunken();
    house.come("b", &ids(0..1));
    house.come("c", &ids(0..1));
    house.go("b", &ids(0..1));
    house.pass(DOUBT);
    assert_eq!(house.count("web"), (9, 5), "one of two went");

    let mut house = House::with("web", 10);
    house.revision(&[("web", &ids(0..6), &[]), ("b", &[], &ids(0..3))], false);
    house.pass(DOUBT);
    assert_eq!(house.count("web"), (7, 3), "they came in the same revision");

    let mut house = House::with("web", 10);
    house.go("web", &ids(0..1));
    house.come("b", &ids(0..1));
    house.pass(DOUBT - STEP);
    house.go("web", &ids(1..6));
    assert_eq!(house.count("web"), (10, 6));
    house.pass(STEP);
    assert_eq!(house.count("web"), (9, 5), "it came before the first was held");

    let mut house = shrunken();
    house.come("b", &ids(0..5));
    house.come("web", &ids(0..5));
    house.pass(STEP);
    house.go("web", &ids(0..5));
    house.pass(DOUBT);
    assert_eq!(house.count("web"), (10, 6), "they were beside each other");
}

#[test]
fn what_was_at_the_address_is_no_stranger_however_late_it_is_and_strangers_take_no_more_than_half() {
    let mut house = House::with("b", 10);
    house.come("a", &ids(0..4));
    house.go("a", &ids(0..4));
    house.go("b", &ids(0..10));
    house.pass(MINUTE * 2);
    house.come("a", &ids(0..4));
    house.pass(MINUTE);
    assert_eq!((house.count("a"), house.count("b")), ((4, 0), (10, 10)));
    house.come("x", &ids(4..10));
    for number in 0..100 {
        house.come(&format!("x{number}"), &ids(4..5));
    }
    assert!(house.guard.strangers.len() < 40, "{}", house.guard.strangers.len());
    house.pass(MINUTE);
    assert_eq!(house.count("b"), (10, 10), "six of ten may be made up");
    house.go("x", &ids(9..10));
    house.pass(STEP);
    assert_eq!(house.count("b"), (5, 5));
    house.come("x", &ids(9..10));
    house.pass(MINUTE);
    assert_eq!(house.count("b"), (5, 5), "nor one after the other");
    house.come("b", &ids(20..25));
    house.pass(STEP);
    assert_eq!(house.count("b"), (9, 4), "most are elsewhere by now");
    house.pass(MINUTE * 10);
    house.pass(MINUTE);
    assert!(house.guard.is_idle(), "{:?}", house.guard);
}

#[test]
fn what_is_back_where_strangers_took_its_place_is_counted_once() {
    let mut house = House::with("b", 10);
    house.go("b", &ids(0..10));
    house.come("x", &ids(5..10));
    house.pass(DOUBT);
    assert_eq!(house.count("b"), (5, 5));
    house.come("b", &ids(5..10));
    house.come("x", &ids(0..1));
    house.pass(DOUBT);
    assert_eq!(house.count("b"), (10, 5), "six of ten may be made up");
}

#[test]
fn what_is_held_with_most_of_its_root_is_doubted_where_a_stranger_came_before() {
    let mut house = House::of_small_services(Config::default(), 10, &[]);
    house.go(&small(0), &ids(0..1));
    house.come("other", &ids(0..1));
    house.pass(DOUBT - STEP);
    (1..17).for_each(|number| house.go(&small(number), &ids(number..number + 1)));
    assert_eq!(house.count(&small(0)), (3, 3));
    house.pass(STEP);
    assert_eq!(house.count(&small(0)), (2, 2));
    assert!(!house.listed[&small(0)].contains_key(&ids(0..1)[0]), "the other is there");
}

#[test]
fn strangers_are_counted_with_all_addresses_of_a_service_below_its_root_providers_and_applications() {
    let both = |applications: usize| {
        let mut house = House::with("web", 10);
        house.come("web", &of_application(ids(10..10 + applications)));
        house.go("web", &ids(0..10));
        house
    };
    let mut few = both(1);
    few.come("x", &ids(0..6));
    few.pass(DOUBT);
    assert_eq!(few.count("web"), (11, 10), "six of eleven may be made up");
    let mut many = both(2);
    many.come("x", &ids(0..6));
    many.pass(DOUBT);
    assert_eq!(many.count("web"), (6, 4), "six of twelve");
    many.go("web", &of_application(ids(10..12)));
    assert_eq!(many.count("web"), (6, 6));
    many.come("x", &ids(10..11));
    many.pass(DOUBT);
    assert_eq!(many.count("web"), (6, 6), "seven of twelve, one after the other");
    many.probed(&ids(6..10), Found::Refused);
    many.pass(STEP);
    assert_eq!(many.count("web"), (2, 2), "it stays so while any are held");
}
