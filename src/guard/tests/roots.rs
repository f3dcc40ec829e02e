//! Several roots, and one that is lost.

use super::*;

#[test]
fn of_a_root_that_was_lost_also_small_services_are_held() {
    let mut house = House::with("db", 2);
    house.come("web", &ids(10..20));
    house.revision(&[("db", &ids(0..1), &[]), ("web", &ids(10..13), &[])], true);
    assert_eq!((house.count("db"), house.count("web")), ((2, 1), (10, 3)));
}

#[test]
fn what_is_registered_below_another_root_neither_brings_about_a_hold_nor_prevents_one() {
    let held = |house: &House| {
        let all = house.listed["web"].iter().filter(|(_, held)| held.is_some());
        all.filter(|(id, _)| rank(id) == Rank::of_root(0)).count()
    };
    let mut deploy = House::with("web", 6);
    deploy.come("web", &ids_below(1, 0..5));
    deploy.pass(STEP);
    deploy.go("web", &ids_below(1, 0..5));
    for number in 0..6 {
        deploy.go("web", &ids(number..number + 1));
        deploy.pass(STEP * 2);
        deploy.come("web", &ids(number + 10..number + 11));
        deploy.pass(STEP);
    }
    assert_eq!((held(&deploy), deploy.count("web")), (0, (11, 5)), "only the others hold themselves");

    let mut lost = House::with("web", 10);
    lost.come("web", &ids_below(1, 0..11));
    lost.go("web", &ids(0..10));
    assert_eq!((held(&lost), lost.count("web")), (10, (21, 10)));

    let mut small = House::with("web", 4);
    small.come("web", &ids_below(1, 0..11));
    small.revision(&[("web", &[ids(0..4), ids_below(1, 0..11)].concat(), &[])], false);
    assert_eq!((held(&small), small.count("web")), (0, (11, 11)), "few are no crowd, whoever goes with them");

    let mut early = House::with("web", 10);
    (0..5).for_each(|number| early.go("web", &ids(number..number + 1)));
    early.come("web", &ids_below(1, 0..50));
    early.go("web", &ids_below(1, 0..20));
    early.go("web", &ids(5..6));
    assert_eq!((held(&early), early.count("web").1), (6, 6), "those that went first are remembered for their root");
    early.restart();
    early.go("web", &ids(6..10));
    assert_eq!(held(&early), 10, "what is left, too");

    let mut made_up = House::with("web", 10);
    made_up.go("web", &ids(0..10));
    made_up.come("web", &ids_below(1, 0..50));
    let later: Vec<_> = ids(0..10).iter().map(|id| format!("{id}?root=1")).collect();
    for number in 0..20 {
        made_up.come(&format!("made-up-{number}"), &later[..5]);
    }
    made_up.come("web", &later[..5]);
    made_up.pass(DOUBT);
    assert_eq!(held(&made_up), 10, "what is below a later root is no stranger to them");
    made_up.come("x", &ids(0..10));
    made_up.pass(DOUBT);
    assert_eq!(held(&made_up), 10, "strangers are at all of them");
    made_up.go("x", &ids(5..10));
    made_up.pass(DOUBT);
    assert_eq!(held(&made_up), 5);
}

#[test]
fn instances_below_a_later_root_have_no_silent_ones_passed_over() {
    let mut house = House::with("web", 10);
    house.go("web", &ids(0..10));
    house.come("web", &ids_below(1, 0..50));
    let passed_over = |house: &House| house.marks("web").iter().filter(|(_, is_passed_over)| *is_passed_over).count();
    house.probed(&ids(0..6), Found::Silent);
    assert_eq!(passed_over(&house), 0, "most of its root are silent");
    house.probed(&ids(0..1), Found::Answering);
    assert_eq!(passed_over(&house), 5);
}

#[test]
fn of_a_root_that_is_lost_as_much_is_held_as_there_is_room_for_and_the_rest_is_named() {
    let config = Config { max_held: 12, ..Config::default() };
    let mut house = House::of_small_services(config, 8, &[("web", ids(100..110))]);
    house.go("web", &ids(100..110));
    let why = |house: &House, number: usize| {
        let id = &ids(number..number + 1)[0];
        house.guard.why_not_held(&small(number), id).map(str::to_owned)
    };
    for number in 0..8 {
        assert_eq!((house.guard.count_of_held(), why(&house, 0)), (10, None), "{number}: half is left");
        house.go(&small(number), &ids(number..number + 1));
    }
    assert_eq!((house.guard.count_of_held(), house.count(&small(0))), (12, (2, 2)));
    let unnamed: Vec<_> = (0..9).filter(|number| why(&house, *number).is_none()).collect();
    assert_eq!(unnamed, [1, 2, 8], "two are held, and one is registered");
    assert_eq!(house.guard.reported.len(), 1);
    house.go(&small(8), &ids(8..9));
    assert_eq!(why(&house, 8).as_deref(), Some(NO_ROOM));
    assert!(house.guard.departures.is_empty(), "nothing more is looked for");
}
