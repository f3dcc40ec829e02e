//! What a rule or a mapping changes of very many instances is taken in by parts, between which others have their turn.

use super::*;
use crate::format;
use crate::model::Format;

const MANY: usize = 3_000;

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
    let mut between = 0;
    std::thread::scope(|scope| {
        let rule = scope.spawn(|| publisher.publish(vec![put(&weight(9), "")]));
        for number in 0.. {
            if rule.is_finished() {
                return;
            }
            other.publish(vec![put("/other", &format!("{number}"))]);
            between += usize::from((1..MANY).contains(&of_weight(&store, 9)));
        }
    });
    assert!(between > 0, "the other source waited until all of them were read");
    assert_eq!(of_weight(&store, 9), MANY);
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

#[test]
fn a_mapping_lists_very_many_instances_of_another_source_in_parts() {
    let config =
        |root: &str, format: Format| format::Config { root: path(root), format, guard: false, ..Default::default() };
    let feed = |name: &str, root: &str, format: Format| {
        Feed::of_nodes(name, "zookeeper", vec![path(root)]).with_services(vec![config(root, format)])
    };
    let feeds = vec![feed("a", "/services", Format::DubboApplication), feed("b", "/dubbo", Format::Dubbo)];
    let store = Store::new(&Config::default(), feeds, Arc::default());
    let (applications, mappings) = (store.publisher(0), store.publisher(1));
    let application = |number: usize| {
        let data = format!(
            r#"{{"address":"10.0.0.5","payload":{{"metadata":{{"dubbo.endpoints":"[{{\"port\":{},\"protocol\":\"dubbo\"}}]","dubbo.metadata.revision":"a"}}}}}}"#,
            10_000 + number
        );
        put(&format!("/services/shop/{number}"), &data)
    };
    applications.publish_whole((0..MANY).map(application).collect());
    let count = || store.snapshot().directory().instances("i").count();
    for all in [MANY, 0] {
        let mapping = "/dubbo/mapping/i";
        let began = mappings.begin(vec![if all > 0 { put(mapping, "shop") } else { delete(mapping) }]);
        assert_eq!(count(), MANY - all, "later");
        mappings.publish(Batch::default());
        assert_eq!(count(), all);
        assert!(store.snapshot().revision() > began + 10, "in parts");
    }
}
