//! What a rule or a mapping changes of very many instances is taken in by parts, between which others have their turn.

use super::*;
use crate::format;
use crate::model::Format;

const MANY: usize = 3_000;

const MAPPING: &str = "/dubbo/mapping/i";

/// A source of this many providers of one service, and another one.
fn house() -> (Arc<Store>, Publisher, Publisher) {
    let dubbo = format::Config { root: path("/dubbo"), format: Format::Dubbo, guard: false, ..Default::default() };
    let feeds = vec![
        Feed::of_nodes("zk", "zookeeper", vec![path("/dubbo")]).with_services(vec![dubbo]),
        Feed::of_nodes("other", "file", vec![path("/other")]),
    ];
    let store = Store::new(&Config::default(), feeds, Arc::default());
    let (publisher, other) = (store.publisher(0), store.publisher(1));
    publisher.publish_whole((0..MANY).map(|number| put(&provider(number), "")).collect());
    (store, publisher, other)
}

fn provider(number: usize) -> String {
    format!("/dubbo/i/providers/dubbo%3A%2F%2Fh%3A{}%2Fi%3Fa%3D1", 10_000 + number)
}

fn weight(weight: usize) -> String {
    format!("/dubbo/i/configurators/override%3A%2F%2F0.0.0.0%2Fi%3Fweight%3D{weight}")
}

/// How many instances have a weight.
fn of_weight(store: &Store, weight: u32) -> usize {
    store.snapshot().directory().instances("i").filter(|(_, instance)| instance.weight == weight).count()
}

#[test]
fn others_have_their_turn_while_a_rule_of_very_many_instances_is_taken_in() {
    let (store, publisher, other) = house();
    publisher.begin(vec![put(&weight(9), "")]);
    let mut between = 0;
    while publisher.go_on().is_some() {
        let revision = store.snapshot().revision();
        assert_eq!(other.publish(vec![put("/other", &format!("{revision}"))]), revision + 1);
        between += usize::from((1..MANY).contains(&of_weight(&store, 9)));
    }
    assert!(between > 10, "the other source had {between} turns");
    assert_eq!(of_weight(&store, 9), MANY);
    let began = publisher.publish(vec![delete(&weight(9))]);
    assert_eq!(of_weight(&store, 100), MANY);
    assert!(store.snapshot().revision() > began + 10, "in parts");
}

#[test]
fn what_a_rule_changes_is_proven_when_its_last_part_is_read() {
    let (store, publisher, _) = house();
    let proof = Some(Proof::Seen(Moment::now()));
    publisher.begin(Batch { proof, ..vec![put(&weight(9), "")].into() });
    let (mut parts, mut known) = (0, of_weight(&store, 9));
    assert!(known == 0 && publisher.feed().since_proof().is_none());
    while publisher.go_on().is_some() {
        let now = of_weight(&store, 9);
        assert!(now - known <= 256, "{now} after {known}");
        assert_eq!(publisher.feed().since_proof().is_none(), now < MANY);
        publisher.prove(Moment::now());
        assert_eq!(publisher.feed().since_proof().is_none(), now < MANY, "a heartbeat proves nothing of what is left");
        (parts, known) = (parts + 1, now);
    }
    assert!(parts > 10 && known == MANY, "{parts} {known}");
    let revision = store.snapshot().revision();
    assert!(publisher.go_on().is_none() && store.snapshot().revision() == revision);
}

#[test]
fn a_node_that_changes_or_goes_before_its_turn_is_taken_in_at_once() {
    let (store, publisher, _) = house();
    publisher.begin(vec![put(&weight(9), "")]);
    publisher.go_on();
    let before = of_weight(&store, 9);
    publisher.begin(vec![delete(&provider(MANY - 1)), put(&provider(MANY - 2), "x"), put(&provider(MANY), "")]);
    assert_eq!(of_weight(&store, 9), before + 2, "by the rule that there is now");
    assert_eq!(store.snapshot().directory().instances("i").count(), MANY);
    publisher.publish(Batch::default());
    assert_eq!(of_weight(&store, 9), MANY);
    assert_eq!(store.snapshot().directory().count_of_undecodable(), 0);
}

#[test]
fn a_rule_that_changes_again_meanwhile_holds_for_all_and_none_waits_for_the_last_change() {
    let (store, publisher, _) = house();
    publisher.begin(vec![put(&weight(9), "")]);
    publisher.go_on();
    let before = of_weight(&store, 9);
    publisher.begin(vec![delete(&weight(9)), put(&weight(5), "")]);
    while publisher.go_on().is_some() {
        assert!(of_weight(&store, 9) <= before, "no instance is read by a rule that is gone");
    }
    assert_eq!(of_weight(&store, 5), MANY);
    let mut last = weight(5);
    for turn in 0.. {
        if of_weight(&store, 5) == 0 {
            break;
        }
        assert!(turn < MANY, "some have no turn while the rule goes on changing");
        let next = weight(200 + turn);
        publisher.begin(vec![delete(&last), put(&next, "")]);
        publisher.go_on();
        last = next;
    }
    publisher.publish(vec![delete(&last)]);
    assert_eq!(of_weight(&store, 100), MANY);
}

/// A source of this many instances of one application, and one of mappings, which has published nothing.
fn house_of_applications(guard: bool) -> (Arc<Store>, Publisher) {
    let feed = |name: &str, root: &str, format: Format| {
        let config = format::Config { root: path(root), format, guard, ..Default::default() };
        Feed::of_nodes(name, "zookeeper", vec![path(root)]).with_services(vec![config])
    };
    let feeds = vec![feed("a", "/services", Format::DubboApplication), feed("b", "/dubbo", Format::Dubbo)];
    let store = Store::new(&Config::default(), feeds, Arc::default());
    store.publisher(0).publish_whole((0..MANY).map(application).collect());
    let mappings = store.publisher(1);
    (store, mappings)
}

fn application(number: usize) -> Change {
    let data = format!(
        r#"{{"address":"10.0.0.5","payload":{{"metadata":{{"dubbo.endpoints":"[{{\"port\":{},\"protocol\":\"dubbo\"}}]","dubbo.metadata.revision":"a"}}}}}}"#,
        10_000 + number
    );
    put(&format!("/services/shop/{number}"), &data)
}

#[test]
fn a_mapping_lists_very_many_instances_of_another_source_in_parts() {
    let (store, mappings) = house_of_applications(false);
    let count = || store.snapshot().directory().instances("i").count();
    for all in [MANY, 0] {
        let began = mappings.begin(vec![if all > 0 { put(MAPPING, "shop") } else { delete(MAPPING) }]);
        assert_eq!(count(), MANY - all, "later");
        mappings.publish(Batch::default());
        assert_eq!(count(), all);
        assert!(store.snapshot().revision() > began + 10, "in parts");
    }
}

#[test]
fn what_a_mapping_lists_in_a_first_sync_is_there_when_that_is_whole() {
    for is_begun in [false, true] {
        let (store, mappings) = house_of_applications(false);
        let mapping = || put(MAPPING, "shop");
        if is_begun {
            mappings.begin(vec![mapping()]);
            mappings.go_on();
        }
        let before = store.snapshot().revision();
        let batch = if is_begun { Vec::new() } else { vec![mapping()] };
        mappings.begin(Batch { proof: Some(Proof::Seen(Moment::now())), ..Batch::whole(batch) });
        let snapshot = store.snapshot();
        assert_eq!((snapshot.revision(), snapshot.directory().instances("i").count()), (before + 1, MANY));
        assert!(mappings.progress().whole && mappings.feed().since_proof().is_some() && mappings.go_on().is_none());
    }
}

#[test]
fn what_goes_by_parts_with_a_mapping_ends_held() {
    let (store, mappings) = house_of_applications(true);
    mappings.publish_whole(vec![put(MAPPING, "shop")]);
    mappings.begin(vec![delete(MAPPING)]);
    mappings.go_on();
    let (listed, held) = guarded::count(&store, "i");
    assert!(listed < MANY && held == 0, "{listed} {held}: the first ones look like ordinary removals");
    mappings.publish(Batch::default());
    assert_eq!(guarded::count(&store, "i"), (MANY, MANY));
}
