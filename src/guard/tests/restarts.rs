//! What a sidecar holds again that an earlier one held.

use super::*;
use crate::model::AfterBoot;

#[test]
fn a_record_of_what_is_held_ends_by_the_clock_that_nobody_sets_or_once_the_other_is_settled() {
    const HOURS: u64 = 7_200_000;
    let restored = |boot: &str, uptime: Duration, ahead: u64| {
        let mut house = House::with("web", 10);
        house.go("web", &ids(0..10));
        house.pass(MINUTE);
        if !boot.is_empty() {
            let held = house.listed.values_mut().flat_map(BTreeMap::values_mut).flatten();
            held.for_each(|held| held.after_boot = Some(AfterBoot { boot: boot.into(), ..AfterBoot::default() }));
            house.now.moment = Moment::default() + uptime;
        }
        house.now.wall += ahead;
        house.restart();
        house.pass(MINUTE * 9 - STEP);
        let count = house.count("web").1;
        house.pass(MINUTE + STEP);
        (count, house.count("web").1)
    };
    assert_eq!(restored("", MINUTE, HOURS), (10, 0), "in the same boot nothing but the clock was set");
    assert_eq!(restored("another", MINUTE, HOURS), (10, 0), "the clock may be wrong yet");
    assert_eq!(restored("another", MINUTE, 0), (10, 0));
    assert_eq!(restored("another", MINUTE * 5, HOURS), (0, 0));
}

#[test]
fn after_a_restart_the_dead_are_passed_over_as_before_and_what_is_left_is_held() {
    for (replacements, is_passed_over) in [(4, false), (5, true), (9, true)] {
        let mut house = House::with("web", 10);
        house.go("web", &ids(0..10));
        house.come("web", &ids(10..10 + replacements));
        for _ in 0..2 {
            house.probed(&ids(0..10), Found::Silent);
            assert_eq!(house.marks("web"), [(Probe::Silent, is_passed_over); 10], "{replacements}");
            house.restart();
            assert_eq!(house.marks("web"), [(Probe::Untried, false); 10]);
        }
    }
    let mut house = House::with("web", 7);
    house.go("web", &ids(0..4));
    house.restart();
    house.go("web", &ids(4..7));
    assert_eq!(house.count("web"), (7, 7));
}

#[test]
fn what_an_earlier_process_held_is_held_for_the_rest_of_its_time() {
    let mut house = House::new();
    let held = |since, ends_at| {
        let (probe, variant) = (Probe::Silent, "?a".into());
        Held { since, ends_at, probe, passed_over: true, variant, ..Held::default() }
    };
    let restore = |house: &mut House, id: &str, held: Held| {
        let instance = Instance { held: Some(held.into()), ..Instance::at("web", id) };
        let left = Left { id: id.into(), instance, rank: Rank::of_root(0) };
        let effects = house.guard.restore(house.now, &"web".into(), vec![left], BTreeMap::new());
        house.take(effects);
    };
    let wall = house.now.wall;
    restore(&mut house, "a:1", held(wall - 1, wall + 2_000));
    restore(&mut house, "b:1", held(wall - 600_000, wall));
    restore(&mut house, "c:1", held(wall + 50_000_000, wall + 100_000_000));
    assert_eq!(house.count("web"), (2, 2), "the time of one was over");
    assert_eq!(house.marks("web"), [(Probe::Untried, false); 2]);
    assert_eq!(house.listed["web"]["a:1"].as_ref().map(|held| &*held.variant), Some("?a"));
    house.pass(Duration::from_secs(2));
    assert_eq!(house.count("web"), (1, 1));
    house.pass(MINUTE * 10);
    assert_eq!(house.count("web"), (0, 0), "a clock that was set back holds nothing for ever");
}

#[test]
fn however_many_an_earlier_process_held_they_are_held_again_in_one_change_and_as_far_as_there_is_room() {
    let many: Vec<String> = (0..30_000).map(|number| format!("10.{}.{}.1:80", number / 100, number % 100)).collect();
    let mut house = House::new();
    house.come("web", &many);
    house.go("web", &many);
    house.restart();
    assert_eq!((house.count("web"), house.guard.count_of_held()), ((30_000, 30_000), 30_000));
    house.guard.config = Config { max_held: 100, ..Config::default() }.into();
    house.restart();
    assert_eq!((house.count("web"), house.guard.count_of_held()), ((100, 100), 100));
    assert_eq!(house.guard.reported.len(), 1);
}

#[test]
fn of_a_service_below_one_root_what_applications_offer_counts_also_after_a_restart() {
    let mut house = House::with("web", 10);
    house.come("web", &of_application(ids(10..15)));
    house.go("web", &ids(0..10));
    for _ in 0..2 {
        house.probed(&ids(0..10), Found::Silent);
        assert_eq!(house.marks("web"), [(Probe::Silent, true); 10], "half as many are registered as before");
        house.restart();
    }
}
