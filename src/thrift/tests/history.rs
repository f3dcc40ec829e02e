//! The history and explanations, for clients with different rights.

use super::masters::{by_turns, who_sees_mail_alone};
use super::*;
use crate::format::{self, decoded_by_this_thread};
use crate::history::{Entry, Event, History};
use crate::model::{Format, Node, NodePath};
use crate::thrift::explain::size;
use crate::thrift::idl::{AccessDenied, ExplainRequest, HistoryQuery, InvalidRequest, NotFound, NotReady};

fn house() -> House {
    let mut house = House::new(1, &Config::default());
    let entries = (1..=6).map(|number| Entry {
        number,
        time: number as i64 * 1_000,
        event: if number == 6 { Event::Read } else { Event::Appeared },
        service: ["", "log", "", "mail", "log", "", ""][number as usize].into(),
        instance: if number == 3 { "a:1".into() } else { "b:1".into() },
        path: Some(NodePath::parse("/secret").expect("a path")),
        ..Entry::default()
    });
    house.api.history = History::of(entries);
    house
}

/// The numbers of the returned entries, the cursor, and whether there are more.
fn told(house: &House, query: HistoryQuery) -> (Vec<i64>, i64, bool) {
    let reply = by_turns(house.api.history(&house.peer, &query)).expect("entries");
    (reply.entries.iter().map(|entry| entry.number).collect(), reply.cursor, reply.has_more)
}

#[test]
fn entries_come_in_pages_and_by_what_is_asked_for() {
    let house = house();
    let all = HistoryQuery::default();
    assert_eq!(told(&house, all.clone()), ((1..=6).collect(), 6, false));
    assert_eq!(told(&house, HistoryQuery { limit: Some(2), ..all.clone() }), (vec![1, 2], 2, true));
    assert_eq!(
        told(&house, HistoryQuery { after: Some(2), limit: Some(4), ..all.clone() }),
        (vec![3, 4, 5, 6], 6, false)
    );
    assert_eq!(told(&house, HistoryQuery { after: Some(9), ..all.clone() }), (vec![], 9, false));
    assert_eq!(told(&house, HistoryQuery { since_ms: Some(5_000), ..all.clone() }).0, [5, 6]);
    assert_eq!(told(&house, HistoryQuery { instance: Some("a:1".into()), ..all.clone() }).0, [3]);
    let mail = HistoryQuery { service_name: Some("mail".into()), ..all.clone() };
    assert_eq!(told(&house, mail.clone()), (vec![3], 3, false));
    assert_eq!(told(&house, HistoryQuery { after: Some(3), ..mail }), (vec![], 3, false));
    let wrong = by_turns(house.api.history(&house.peer, &HistoryQuery { after: Some(-1), ..all.clone() }));
    assert_eq!(exception::<InvalidRequest>(&wrong.expect_err("none")).field, "after");
    let why = |house: &House| by_turns(house.api.history(&house.peer, &all)).expect("entries").not_written;
    let of_state = |house: &House| house.api.status(&house.peer).expect("a status").state_error;
    assert_eq!((why(&house), of_state(&house)), (None, None));
    let trouble = "there is no folder for it".to_owned();
    house.metrics.state_trouble.store(Some(Arc::new(trouble.clone())));
    assert_eq!((why(&house), of_state(&house)), (Some(trouble.clone()), Some(trouble)));
    let unread = House::new(1, &Config::default());
    exception::<NotReady>(&by_turns(unread.api.history(&unread.peer, &all)).expect_err("it is not read yet"));
}

#[test]
fn who_may_see_one_service_is_told_of_no_other_nor_of_paths() {
    let mut house = house();
    house.feeds[0].publish_whole(vec![]);
    house.peer.identity = who_sees_mail_alone();
    let all = HistoryQuery::default();
    assert_eq!(told(&house, all.clone()), (vec![2, 3, 5], 6, false), "nor how much a source holds");
    let reply = by_turns(house.api.history(&house.peer, &all)).expect("entries");
    assert!(reply.entries.iter().all(|entry| entry.path.is_none()));
    let log = HistoryQuery { service_name: Some("log".into()), ..all };
    exception::<AccessDenied>(&by_turns(house.api.history(&house.peer, &log)).expect_err("it is not for this user"));
    let explain = |service: &str| {
        let request = ExplainRequest::new(service.to_owned(), None, None, None, None);
        by_turns(house.api.explain(&house.peer, &request)).expect_err("none")
    };
    exception::<AccessDenied>(&explain("log"));
    exception::<NotFound>(&explain("mail"));
}

#[tokio::test]
async fn an_instance_of_many_nodes_and_rules_is_explained_elsewhere_and_within_a_page() {
    let root = NodePath::parse("/dubbo").expect("a path");
    let dubbo = format::Config { root: root.clone(), format: Format::Dubbo, ..format::Config::default() };
    let house = House::of(
        vec![Feed::of_nodes("zk", "zookeeper", vec![root.clone()]).with_services(vec![dubbo])],
        &Config::default(),
    );
    let put = |kind: &str, url: String| {
        let name = url.replace('/', "%2F");
        let path = NodePath::parse(&format!("/dubbo/Foo/{kind}/{name}")).expect("a path");
        Change::Put(path, Arc::new(Node::default()))
    };
    let provider = |number| put("providers", format!("dubbo://10.0.0.5:20880/Foo?n={number}"));
    let rule = |number| put("configurators", format!("override://0.0.0.0/Foo?k{number}={}", "x".repeat(1_000)));
    house.feeds[0].publish_whole((0..64).map(provider).chain((0..64).map(rule)).collect());
    let before = decoded_by_this_thread();
    let request = ExplainRequest::new("Foo".to_owned(), None, None, None, None);
    let reply = house.api.explain(&house.peer, &request).await.expect("it is there");
    assert_eq!(decoded_by_this_thread(), before, "no thread that serves others does it");
    let [explained] = &reply.instances[..] else { panic!("one instance") };
    assert_eq!(explained.nodes[0].rules.as_ref().map(Vec::len), Some(64));
    assert_eq!(explained.nodes.len() as i32 + explained.more_nodes.unwrap_or(0), 64);
    assert!(explained.more_nodes.is_some() && size(explained) < 512 << 10, "{} nodes", explained.nodes.len());
}
