//! One instance of a service, over the interface.

use futures::FutureExt;

use super::masters::by_turns;
use super::*;
use crate::access::{Access, Client, Policy};
use crate::clock::Moment;
use crate::format;
use crate::history::{Entry, Event, History};
use crate::model::{Format, Node, NodePath};
use crate::resolve::looks_of_this_thread;
use crate::store::{Feed, FeedState};
use crate::thrift::idl::{
    AccessDenied, Balance, ExplainRequest, GuardAction, GuardControl, GuardQuery, InvalidRequest, NoInstance, NotFound,
    NotReady, ResolveManyRequest, ResolveReply, ResolveRequest, ServiceQuery,
};

fn house() -> House {
    let way = Way::new(Manner::Echoes);
    let house = House::new(1, &Config::default());
    house.feeds[0].publish_whole(vec![
        join("a", &["mail@1.0.0", "log"], &way),
        join("b", &["mail@2.0.0"], &way),
        join("c", &["mail@2.0.0"], &way),
    ]);
    house
}

impl House {
    fn resolve(&self, request: ResolveRequest) -> thrift::Result<ResolveReply> {
        by_turns(self.api.resolve(&self.peer, request))
    }
}

fn resolved(house: &House, change: impl FnOnce(&mut ResolveRequest)) -> thrift::Result<String> {
    let mut request = ResolveRequest::of("mail");
    change(&mut request);
    let reply = house.resolve(request)?;
    assert!(reply.freshness.complete && !reply.instance.provenance.is_empty());
    Ok(reply.instance.master_id.expect("a master"))
}

#[test]
fn the_instance_is_as_it_was_asked_for() {
    let house = house();
    let newest = resolved(&house, |_| {}).expect("one");
    assert!(["b", "c"].contains(&&*newest), "{newest}");
    assert_eq!(resolved(&house, |it| it.version = Some("^1".into())).expect("one"), "a");
    assert_eq!(resolved(&house, |it| it.service_name = "mail@1.0.0".into()).expect("one"), "a");
    assert_eq!(resolved(&house, |it| it.zone = Some("c".into())).expect("one"), "c");
    assert_eq!(resolved(&house, |it| it.prefer_zone = Some("b".into())).expect("one"), "b");
    assert_eq!(resolved(&house, |it| it.metadata = Some([("zone".into(), "b".into())].into())).expect("one"), "b");
    let keyed = || resolved(&house, |it| it.key = Some("user:42".into())).expect("one");
    assert!((0..20).all(|_| keyed() == keyed()));
    let bytes = || resolved(&house, |it| it.key = Some(vec![0xff, 0, 0xfe])).expect("one");
    assert!((0..20).all(|_| bytes() == bytes()));
    let subset = || resolved(&house, |it| (it.subset, it.subset_key) = (Some(1), Some("web-1".into()))).expect("one");
    assert!((0..20).all(|_| subset() == subset()));
    let other = |it: &mut ResolveRequest| it.exclude = Some(vec!["b".into(), "10.0.0.1:80".into()]);
    assert!((0..20).all(|_| resolved(&house, other).expect("one") == "c"));
    // Where the newest version has no other, an older one has.
    assert_eq!(resolved(&house, |it| it.exclude = Some(vec!["b".into(), "c".into()])).expect("one"), "a");
}

#[test]
fn that_there_is_none_says_of_which_service_and_why() {
    let house = house();
    let none = |change: fn(&mut ResolveRequest)| {
        let NoInstance { service_name, message } = exception(&resolved(&house, change).expect_err("none"));
        assert!(message.contains(&format!("`{service_name}`")), "{message}");
        message
    };
    assert!(none(|it| it.service_name = "nothing".into()).contains("unknown"));
    assert!(none(|it| it.version = Some("^3".into())).contains("meets ^3"));
    assert!(none(|it| it.group = Some("blue".into())).contains("`blue`"));
    assert!(none(|it| it.zone = Some("z".into())).contains("`z`"));
    let all = |it: &mut ResolveRequest| it.exclude = Some(["a", "b", "c"].map(str::to_owned).into());
    assert!(none(all).contains("that will do is excluded by the request"));
}

#[test]
fn of_a_service_whose_nodes_are_all_left_out_nobody_says_that_it_was_never_offered() {
    let root = NodePath::parse("/s").expect("a path");
    let services = format::Config { root: root.clone(), format: Format::Raw, ..format::Config::default() };
    let feed = Feed::of_nodes("zk", "zookeeper", vec![root]).with_services(vec![services]);
    let house = House::of(vec![feed], &Config::default());
    let put = |path: &str, data: &str| {
        let node = Node { data: data.as_bytes().into(), ..Node::default() };
        Change::Put(NodePath::parse(path).expect("a path"), Arc::new(node))
    };
    house.feeds[0].publish_whole(vec![put("/s/new/a", "h:1"), put("/s/new/b", "no port"), put("/s/web/a", "h:1")]);
    house.feeds[0].publish(vec![put("/s/new/a", "no port either"), put("/s/odd/a", "no port")]);
    let message = |service: &str| {
        let query = ServiceQuery { service_name: Some(service.into()), ..ServiceQuery::default() };
        let listed = by_turns(house.api.instances(&house.peer, &query)).expect_err("none");
        let NoInstance { message, .. } = exception(&house.resolve(ResolveRequest::of(service)).expect_err("none"));
        (exception::<NotFound>(&listed).message, message)
    };
    let why = "is listed: its nodes (1) are left out, the first because it names no port from 1 to 65535; see `roster explain odd`";
    assert_eq!(
        message("odd"),
        (format!("no instance of `odd` {why}"), format!("no instance of the service `odd` {why}"))
    );
    assert!(message("never").0.starts_with("nobody has offered `never` since"));
    let NoInstance { message, .. } = exception(&house.resolve(ResolveRequest::of("new")).expect_err("none any more"));
    assert!(message.contains("its nodes (2) are left out"), "{message}");
    let control =
        GuardControl { service_name: "odd".into(), action: GuardAction::RELEASE, addresses: None, for_ms: None };
    let refused: NotFound = exception(&house.api.to_control_guard(&house.peer, control).expect_err("none"));
    assert!(refused.message.contains("roster explain odd"), "{refused:?}");
}

#[test]
fn what_makes_no_sense_is_refused_by_its_field() {
    let house = house();
    for (field, change) in [
        ("version", (|it| it.version = Some("the newest".into())) as fn(&mut ResolveRequest)),
        ("key", |it| it.balance = Some(Balance::CONSISTENT_HASH)),
        ("key", |it| it.key = Some(vec![b'x'; 1_025])),
        ("balance", |it| it.balance = Some(Balance(99))),
        ("subset", |it| (it.subset, it.subset_key) = (Some(0), Some("web-1".into()))),
        ("subsetKey", |it| it.subset = Some(1)),
        ("exclude", |it| it.exclude = Some(vec!["a:1".into(); 65])),
        ("exclude", |it| it.exclude = Some(vec!["x".repeat(1_025)])),
        ("metadata", |it| it.metadata = Some((0..9).map(|n| (n.to_string(), String::new())).collect())),
    ] {
        let refused: InvalidRequest = exception(&resolved(&house, change).expect_err(field));
        assert_eq!(refused.field, field);
    }
}

#[test]
fn several_are_resolved_at_once_and_one_that_is_none_spoils_no_other() {
    let house = house();
    let many = |services: &[&str]| {
        let requests = services.iter().map(|service| ResolveRequest::of(*service)).collect();
        let request = ResolveManyRequest::new(requests, None);
        by_turns(house.api.resolve_many(&house.peer, &request))
    };
    let outcomes = many(&["log", "nothing", "mail"]).expect("outcomes").outcomes;
    let names: Vec<_> = outcomes.iter().map(|it| it.instance.as_ref().map(|it| it.service_name.as_str())).collect();
    assert_eq!(names, [Some("log"), None, Some("mail")]);
    assert!(outcomes[1].error.as_ref().is_some_and(|error| error.contains("`nothing`")));
    assert!(many(&["log"; 64]).is_ok());
    assert_eq!(exception::<InvalidRequest>(&many(&["log"; 65]).expect_err("too many")).field, "requests");
}

#[test]
fn who_may_not_see_a_service_is_not_told_of_its_instances() {
    let mut house = house();
    let rule = toml::from_str("user = '33033'\nread = ['log']").expect("a rule");
    let access = Access::new(Policy::new(&Default::default(), &[rule]).expect("names that are known"));
    house.peer.identity = access.identify(Client::Unix { uid: 33_033, gid: 33_033 }, Vec::new);
    exception::<AccessDenied>(&resolved(&house, |_| {}).expect_err("denied"));
    let requests = vec![ResolveRequest::of("log"), ResolveRequest::of("mail")];
    let many = by_turns(house.api.resolve_many(&house.peer, &ResolveManyRequest::new(requests, None)));
    exception::<AccessDenied>(&many.expect_err("denied"));
}

#[test]
fn instances_are_listed_by_version_group_zone_and_whether_they_can_be_called() {
    let house = house();
    let Change::Join(master, _) = join("d", &["mail@2.0.0"], &Way::new(Manner::Silent)) else {
        unreachable!("it joins")
    };
    house.feeds[0].publish(vec![Change::Expect(master)]);
    let listed = |change: fn(&mut ServiceQuery)| {
        let mut query = ServiceQuery { service_name: Some("mail".into()), ..ServiceQuery::default() };
        change(&mut query);
        let instances = by_turns(house.api.instances(&house.peer, &query)).expect("instances").instances;
        instances.into_iter().map(|it| it.master_id.expect("a master")).collect::<String>()
    };
    assert_eq!(listed(|_| {}), "bcda");
    assert_eq!(listed(|it| it.version = Some("^2".into())), "bcd");
    assert_eq!(listed(|it| it.callable = Some(true)), "bca");
    assert_eq!(listed(|it| it.zone = Some("c".into())), "c");
    assert_eq!(listed(|it| it.group = Some("blue".into())), "");
}

/// With nodes that are to register instances, and a register; nothing is known of either.
fn unread_house() -> House {
    let root = NodePath::parse("/s").expect("a path");
    let services = format::Config { root: root.clone(), format: Format::Raw, ..format::Config::default() };
    let nodes = Feed::of_nodes("zk", "zookeeper", vec![root]).with_services(vec![services]);
    House::of(vec![nodes, Feed::of_instances("register", "register")], &Config::default())
}

/// With instances registered by nodes, and a register of which nothing is known.
fn house_of_nodes() -> House {
    let house = unread_house();
    let node = |data: &str| Arc::new(Node { data: data.as_bytes().into(), ..Node::default() });
    let put = |path: &str, data: &str| Change::Put(NodePath::parse(path).expect("a path"), node(data));
    house.feeds[0].publish_whole(vec![put("/s/web/a", "h:1"), put("/s/web@2/a", "h:2")]);
    house
}

#[test]
fn what_one_source_registers_is_told_while_nothing_is_known_of_another() {
    let house = house_of_nodes();
    let reply = house.resolve(ResolveRequest::of("web")).expect("one");
    assert!(!reply.freshness.complete, "masters may offer it too");
    let of = |name: &str| ServiceQuery { service_name: Some(name.into()), ..ServiceQuery::default() };
    assert_eq!(by_turns(house.api.instances(&house.peer, &of("web"))).expect("instances").instances.len(), 1);
    let services = |query: ServiceQuery| by_turns(house.api.services(&house.peer, &query));
    assert_eq!(services(ServiceQuery::default()).expect("services").services.len(), 2);
    exception::<NotReady>(&house.resolve(ResolveRequest::of("mail")).expect_err("not known yet"));
    exception::<NotReady>(&by_turns(house.api.instances(&house.peer, &of("mail"))).expect_err("not known yet"));
    exception::<NotReady>(&services(of("mail")).expect_err("not known yet"));
    let many = |names: &[&str]| {
        let requests = names.iter().map(|name| ResolveRequest::of(*name)).collect();
        by_turns(house.api.resolve_many(&house.peer, &ResolveManyRequest::new(requests, None)))
    };
    let outcomes = many(&["mail", "web"]).expect("what is known").outcomes;
    assert!(outcomes[1].instance.is_some(), "one that is not known takes no answer from others");
    assert!(outcomes[0].error.as_ref().is_some_and(|why| why.starts_with("not ready: waiting for ")), "{outcomes:?}");
    exception::<NotReady>(&many(&["mail"]).expect_err("nothing else is asked for"));
}

#[test]
fn an_empty_list_is_an_answer_once_all_that_may_have_instances_is_known() {
    let house = unread_house();
    let way = Way::new(Manner::Silent);
    house.feeds[1].publish_whole(vec![join("m", &["mail"], &way)]);
    let of = |name: Option<&str>| ServiceQuery { service_name: name.map(Into::into), ..ServiceQuery::default() };
    let services = || by_turns(house.api.services(&house.peer, &of(None)));
    let instances = || by_turns(house.api.instances(&house.peer, &of(Some("mail"))));
    assert_eq!((services().expect("one").services.len(), instances().expect("one").instances.len()), (1, 1));
    house.feeds[1].publish(vec![Change::Leave("m".into())]);
    exception::<NotReady>(&instances().expect_err("nodes may register some"));
    house.feeds[0].publish_whole(Vec::new());
    assert_eq!(instances().expect("there are none").instances, []);

    let house = unread_house();
    house.feeds[1].publish_whole(Vec::new());
    let services = || by_turns(house.api.services(&house.peer, &of(None)));
    exception::<NotReady>(&services().expect_err("nodes may register some"));
    house.feeds[0].publish_whole(Vec::new());
    assert_eq!(services().expect("there are none").services, []);
}

#[test]
fn what_there_was_before_the_start_is_not_called_unknown() {
    let mut house = house();
    let message = |house: &House| {
        let query = ServiceQuery { service_name: Some("old".into()), ..ServiceQuery::default() };
        let listed = by_turns(house.api.instances(&house.peer, &query)).expect_err("none");
        let NoInstance { message, .. } = exception(&house.resolve(ResolveRequest::of("old")).expect_err("none"));
        (exception::<NotFound>(&listed).message, message)
    };
    let (listed, resolved) = message(&house);
    assert!(listed.contains("since the sidecar started") && resolved.contains("is unknown"), "{listed}; {resolved}");
    let entry = |number, event| Entry { number, event, service: "old".into(), ..Entry::default() };
    house.api.history = History::of([entry(1, Event::Undecodable)]);
    assert!(message(&house).1.contains("is unknown"), "such a node is no instance");
    house.api.history = History::of([entry(1, Event::Undecodable), entry(2, Event::Vanished)]);
    let (listed, resolved) = message(&house);
    assert!(listed.contains("has no instances any more; `roster history old`"), "{listed}");
    assert_eq!(resolved, "the service `old` has no instances any more");
}

#[test]
fn a_service_that_is_registered_by_a_name_with_an_at_sign_is_found_by_it() {
    let house = house_of_nodes();
    let reply = house.resolve(ResolveRequest::of("web@2")).expect("one");
    assert_eq!((&*reply.instance.service_name, reply.instance.endpoints[0].port), ("web@2", 2));
}

#[test]
fn a_source_that_is_not_known_makes_what_another_registers_no_older() {
    let house = house_of_nodes();
    house.feeds[0].feed().enter(FeedState::Live, "");
    house.feeds[0].feed().prove(Moment::now());
    let fresh = ResolveRequest { max_age_ms: Some(0), ..ResolveRequest::of("web") };
    let reply = house.resolve(fresh).expect("it is known");
    assert_eq!((reply.freshness.age_ms, reply.freshness.complete), (0, false));
}

#[test]
fn a_service_whose_whole_name_is_a_version_of_another_takes_nothing_of_it() {
    let mut house = house_of_nodes();
    let port = |house: &House, name: &str| {
        house.resolve(ResolveRequest::of(name)).map(|reply| reply.instance.endpoints[0].port)
    };
    let root = |root: &str| NodePath::parse(root).expect("a path");
    let node = |data: &str| Arc::new(Node { data: data.as_bytes().into(), ..Node::default() });
    let versioned = r#"{"host":"h","port":3,"version":"2.0.0"}"#;
    house.feeds[0].publish(vec![Change::Put(root("/s/web/b"), node(versioned))]);
    assert_eq!(port(&house, "web@2").expect("one"), 3, "the version of `web` comes first");
    let mut as_reader = |read: &str| {
        let rule = toml::from_str(&format!("user = '33033'\nread = [{read}]")).expect("a rule");
        let access = Access::new(Policy::new(&Default::default(), &[rule]).expect("names that are known"));
        house.peer.identity = access.identify(Client::Unix { uid: 33_033, gid: 33_033 }, Vec::new);
        let with = port(&house, "web@2").ok();
        house.feeds[0].publish(vec![Change::Delete(root("/s/web@2/a"))]);
        let without = port(&house, "web@2").ok();
        house.feeds[0].publish(vec![Change::Put(root("/s/web@2/a"), node("h:2"))]);
        (with, without)
    };
    assert_eq!(as_reader("'web'"), (Some(3), Some(3)), "whatever else is registered");
    assert_eq!(as_reader("'other'"), (None, None));
}

#[test]
fn where_a_node_lies_is_told_only_to_who_reads_it() {
    let mut house = house_of_nodes();
    let mut path = |read: &str| {
        let rule = toml::from_str(&format!("user = '33033'\nread = [{read}]")).expect("a rule");
        let access = Access::new(Policy::new(&Default::default(), &[rule]).expect("names that are known"));
        house.peer.identity = access.identify(Client::Unix { uid: 33_033, gid: 33_033 }, Vec::new);
        let of = ServiceQuery { service_name: Some("web".into()), ..ServiceQuery::default() };
        let listed = by_turns(house.api.instances(&house.peer, &of)).expect("instances").instances;
        let found = house.resolve(ResolveRequest::of("web")).expect("one").instance;
        assert_eq!(listed[0].provenance, found.provenance);
        found.provenance[0].path.clone()
    };
    assert_eq!(path("'web', '/s'").as_deref(), Some("/s/web/a"));
    assert_eq!(path("'web', '/other'"), None);
}

#[tokio::test]
async fn what_very_many_are_looked_through_for_is_found_elsewhere() {
    let root = NodePath::parse("/s").expect("a path");
    let services = format::Config { root: root.clone(), format: Format::Curator, ..format::Config::default() };
    let feed = Feed::of_nodes("zk", "zookeeper", vec![root]).with_services(vec![services]);
    let house = House::of(vec![feed], &Config::default());
    let put = |number: usize| {
        let (path, port) = (NodePath::parse(&format!("/s/web/{number}")).expect("a path"), number + 1);
        let data =
            format!(r#"{{"name":"web","id":"{number}","address":"a","port":{port},"payload":{{"n":"{number}"}}}}"#);
        Change::Put(path, Arc::new(Node { data: data.into_bytes().into(), ..Node::default() }))
    };
    house.feeds[0].publish_whole((0..3_000).map(put).collect());
    let request = ResolveRequest { metadata: Some([("n".into(), "2999".into())].into()), ..ResolveRequest::of("web") };
    let before = looks_of_this_thread();
    let reply = house.api.resolve(&house.peer, request.clone()).await.expect("one");
    assert_eq!(reply.instance.endpoints[0].port, 3_000);
    let many = ResolveManyRequest::new(vec![request; 3], None);
    let reply = house.api.resolve_many(&house.peer, &many).await.expect("some");
    assert!(reply.outcomes.iter().all(|outcome| outcome.instance.is_some()));
    assert_eq!(looks_of_this_thread(), before);
    house.api.resolve(&house.peer, ResolveRequest::of("web")).await.expect("one");
    assert!(looks_of_this_thread() > before, "what takes no time is found at once");
}

#[tokio::test]
async fn whatever_is_asked_of_very_many_keeps_the_thread_of_others_from_nothing() {
    let root = NodePath::parse("/s").expect("a path");
    let services = format::Config { root: root.clone(), format: Format::Raw, ..format::Config::default() };
    let feed = Feed::of_nodes("zk", "zookeeper", vec![root]).with_services(vec![services]);
    let house = House::of(vec![feed], &Config::default());
    let put = |service: &str, number: usize, version: usize| {
        let path = NodePath::parse(&format!("/s/{service}/{number}")).expect("a path");
        let zone = if number == 7 { "z1" } else { "z2" };
        let data = format!(r#"{{"host":"a","port":{},"zone":"{zone}","version":"{version}.0.0"}}"#, number + 1);
        Change::Put(path, Arc::new(Node { data: data.into_bytes().into(), ..Node::default() }))
    };
    let of_large = (0..3_000).map(|number| put("large", number, 1));
    house.feeds[0].publish_whole(of_large.chain((0..10_000).map(|number| put("versions", number, number))).collect());
    let large = || ResolveRequest::of("large");
    let mut subset = large();
    (subset.subset, subset.subset_key) = (Some(50), Some("s1".into()));
    let zone = ResolveRequest { zone: Some("z1".into()), ..large() };
    let near = ResolveRequest { prefer_zone: Some("z1".into()), ..large() };
    let group = ResolveRequest { group: Some(String::new()), ..large() };
    let both = ResolveRequest { zone: Some("z2".into()), ..subset.clone() };
    let other = ResolveRequest { exclude: Some(vec!["a:1".into()]), ..large() };
    let version = Some(["1"; 32].join("|"));
    let versions = ResolveRequest { version, zone: Some("z2".into()), ..ResolveRequest::of("versions") };
    let newest = ResolveRequest::of("versions");
    let before = looks_of_this_thread();
    for request in [subset, zone, near, group, both, other, versions, newest] {
        house.api.resolve(&house.peer, request.clone()).await.expect("one");
        let many = ResolveManyRequest::new(vec![request; 3], None);
        let outcomes = house.api.resolve_many(&house.peer, &many).await.expect("some").outcomes;
        assert!(outcomes.iter().all(|outcome| outcome.instance.is_some()));
        assert_eq!(looks_of_this_thread(), before, "{:?}", many.requests[0]);
    }
    for request in [large(), ResolveRequest { key: Some("user:42".into()), ..large() }] {
        let before = looks_of_this_thread();
        house.api.resolve(&house.peer, request).await.expect("one");
        assert!(looks_of_this_thread() > before, "what takes no time is found at once");
    }
    let mut query = ServiceQuery { service_name: Some("versions".into()), ..ServiceQuery::default() };
    let services = house.api.services(&house.peer, &query).await.expect("services").services;
    let counts = &services[0].masters;
    assert!(counts.len() < 10_000 && counts.contains_key("9999.0.0") && !counts.contains_key("0.0.0"));
    let mut listed = 0;
    loop {
        let reply = by_turns(house.api.instances(&house.peer, &query)).expect("instances");
        listed += reply.instances.len();
        query.cursor = reply.cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    assert_eq!(listed, 10_000, "by pages, each once");
}

#[tokio::test]
async fn where_few_of_very_many_can_be_called_one_is_found_elsewhere() {
    let root = NodePath::parse("/s").expect("a path");
    let services = format::Config { root: root.clone(), format: Format::Curator, ..format::Config::default() };
    let feed = Feed::of_nodes("zk", "zookeeper", vec![root]).with_services(vec![services]);
    let house = House::of(vec![feed], &Config::default());
    let put = |number: usize, is_up: bool| {
        let (path, port) = (NodePath::parse(&format!("/s/web/{number}")).expect("a path"), number + 1);
        let data = format!(r#"{{"name":"web","id":"{number}","address":"a","port":{port},"enabled":{is_up}}}"#);
        Change::Put(path, Arc::new(Node { data: data.into_bytes().into(), ..Node::default() }))
    };
    house.feeds[0].publish_whole((0..3_000).map(|number| put(number, false)).collect());
    let request = || ResolveRequest::of("web");
    let before = looks_of_this_thread();
    house.api.resolve(&house.peer, request()).await.expect_err("none is up");
    house.feeds[0].publish(vec![put(7, true)]);
    for balance in [None, Some(Balance::ROUND_ROBIN)] {
        let request = ResolveRequest { balance, ..request() };
        let reply = house.api.resolve(&house.peer, request.clone()).await.expect("one");
        assert_eq!(reply.instance.endpoints[0].port, 8);
        let many = ResolveManyRequest::new(vec![request; 3], None);
        house.api.resolve_many(&house.peer, &many).await.expect("some");
    }
    let request = ExplainRequest::new("web".to_owned(), "a:8".to_owned(), None, None, None);
    assert_eq!(house.api.explain(&house.peer, &request).await.expect("it").instances.len(), 1);
    assert_eq!(looks_of_this_thread(), before);
}

#[tokio::test]
async fn nodes_that_cannot_be_read_nor_seen_are_counted_once_over_all_pages_and_named_by_no_cursor() {
    let root = NodePath::parse("/s").expect("a path");
    let services = format::Config { root: root.clone(), format: Format::Raw, ..format::Config::default() };
    let feed = Feed::of_nodes("zk", "zookeeper", vec![root]).with_services(vec![services]);
    let mut house = House::of(vec![feed], &Config::default());
    let put = |path: &str| {
        let node = Node { data: b"no port".as_slice().into(), ..Node::default() };
        Change::Put(NodePath::parse(path).expect("a path"), Arc::new(node))
    };
    // Of two services in three nothing is seen: before, between and behind the others.
    let of = |service: u8| (0..3).map(move |number| put(&format!("/s/{}/{number}", char::from(service))));
    house.feeds[0].publish_whole((b'a'..=b'g').flat_map(of).collect());
    let rule = toml::from_str("user = '33033'\nread = ['/s/b', '/s/d', '/s/f']").expect("a rule");
    let access = Access::new(Policy::new(&Default::default(), &[rule]).expect("names that are known"));
    house.peer.identity = access.identify(Client::Unix { uid: 33_033, gid: 33_033 }, Vec::new);
    for limit in [1, 2, 4, 100] {
        let (mut shown, mut hidden, mut cursor) = (Vec::new(), 0, None);
        loop {
            let request = ExplainRequest::new(None, None, None, limit, cursor);
            let reply = house.api.explain(&house.peer, &request).await.expect("a page");
            shown.extend(reply.undecodable.into_iter().map(|node| node.path.expect("it may be seen")));
            hidden += reply.more_undecodable;
            cursor = reply.cursor;
            let Some(path) = &cursor else { break };
            assert!(["/s/b/", "/s/d/", "/s/f/"].iter().any(|seen| path.starts_with(seen)), "{limit}: {path}");
        }
        assert_eq!((shown.len(), hidden), (9, 12), "{limit}: {shown:?}");
    }
}

#[tokio::test]
async fn the_guard_lets_go_where_nobody_else_is_served() {
    let house = house();
    let request = |action| GuardControl::new("mail".to_owned(), action, None, 1_000);
    for action in [GuardAction::RELEASE, GuardAction::ACCEPT] {
        let request = house.api.to_control_guard(&house.peer, request(action)).expect("it may");
        let mut letting_go = std::pin::pin!(house.api.guard_controlled(&house.peer, request));
        assert!(letting_go.as_mut().now_or_never().is_none(), "not by the thread that was asked");
        assert_eq!(letting_go.await.expect("done").released, 0);
    }
    let accepted = house.api.guarded(&house.peer, &GuardQuery::default()).expect("it may");
    assert_eq!(accepted.services[0].name, "mail");
    let refused = |request: GuardControl| house.api.to_control_guard(&house.peer, request).expect_err("a refusal");
    let too_long = GuardControl { for_ms: Some(i64::MAX), ..request(GuardAction::ACCEPT) };
    assert_eq!(exception::<InvalidRequest>(&refused(too_long)).field, "forMs");
    assert_eq!(exception::<InvalidRequest>(&refused(request(GuardAction(9)))).field, "action");
}
