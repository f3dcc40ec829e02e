//! Nodes that are too many for one turn of a thread.

use futures::FutureExt;

use super::*;
use crate::access::{Access, Client, Policy};
use crate::clock::Moment;
use crate::model::{Node, NodePath};
use crate::store::FeedState;
use crate::task::Tasks;
use crate::thrift::idl::{
    ChildrenReply, ChildrenRequest, GetManyRequest, GetRequest, InvalidRequest, MasterRequest, NotReady, ServiceQuery,
    SubtreeRequest, TooStale, WatchMastersRequest, WatchRequest,
};

/// An API with this many children of `/many`, whose names have this length.
fn house(children: usize, bytes: usize) -> (Api, Peer, Publisher) {
    let feed = Feed::of_nodes("test", "file", vec![NodePath::root()]);
    let store = Store::new(&Default::default(), vec![feed], Arc::default());
    let publisher = store.publisher(0);
    publisher.publish_whole((0..children).map(|number| put(&format!("/many/{number:0>bytes$}"))).collect());
    let config = Config::default();
    let api = Api::new(&config, &ZkData::default(), store, Accounts::new(&config), Arc::default());
    let peer = Peer::of(&api, None);
    (api, peer, publisher)
}

fn put(path: &str) -> Change {
    Change::Put(NodePath::parse(path).expect(path), Arc::new(Node::default()))
}

/// All children at once.
fn all() -> ChildrenRequest {
    ChildrenRequest::new("/many".to_owned(), None, None, None)
}

#[tokio::test]
async fn very_many_children_are_collected_by_turns() {
    let (api, peer, _publisher) = house(2_500, 8);
    let asked = api.children_of(&peer, all()).expect("a path");
    assert!(api.children(&peer, &asked).expect("an answer").is_none(), "they are too many at once");
    // No turn was begun, so it is over after a while.
    std::thread::sleep(Duration::from_millis(2));
    let mut all = Box::pin(api.many_children(&peer, &asked));
    assert!(all.as_mut().now_or_never().is_none(), "others may work");
    let names = all.await.expect("an answer").names;
    assert_eq!((names.len(), names[0].as_str(), names[2_499].as_str()), (2_500, "00000000", "00002499"));
    let (api, peer, _publisher) = house(1_000, 8);
    assert_eq!(api.children(&peer, &asked).expect("an answer").expect("at once").names.len(), 1_000);
}

#[tokio::test]
async fn children_are_collected_only_as_long_as_their_reader_has_room_for_them() {
    let (api, peer, _publisher) = house(2_500, 8);
    let _taken = peer.account.memory.take(240 << 20).expect("all that one user may have");
    let asked = api.children_of(&peer, all()).expect("a path");
    let refused = api.many_children(&peer, &asked).await.expect_err("no room");
    assert!(format!("{refused:?}").contains("overloaded"), "{refused:?}");
}

#[tokio::test]
async fn more_children_than_a_reply_may_hold_are_refused() {
    let (api, peer, _publisher) = house(1_100, 2_000);
    let asked = api.children_of(&peer, all()).expect("a path");
    let refused = api.many_children(&peer, &asked).await.expect_err("too many");
    assert!(exception::<InvalidRequest>(&refused).message.contains("in pages"));
}

/// The page that a query requests, however it is collected.
async fn page(api: &Api, peer: &Peer, cursor: Option<String>, limit: Option<i32>) -> ChildrenReply {
    let limit = limit.unwrap_or(0);
    let asked = api.children_of(peer, ChildrenRequest { limit: Some(limit), cursor, ..all() }).expect("it makes sense");
    match api.children(peer, &asked).expect("an answer") {
        Some(reply) => reply,
        None => api.many_children(peer, &asked).await.expect("a page"),
    }
}

#[tokio::test]
async fn children_come_in_pages_without_a_hole_or_a_name_twice() {
    for (children, bytes, limit, pages) in [(2_500, 8, Some(1_000), 3), (2_000, 8, Some(1_000), 2), (9_000, 8, None, 3)]
        .into_iter()
        .chain([(1_100, 2_000, None, 17), (0, 1, None, 1), (1, 8, Some(1), 1), (3, 8, Some(1), 3)])
    {
        let (api, peer, publisher) = house(children, bytes);
        publisher.publish(vec![put("/many"), put("/more/after"), put("/many/!/deep"), put("/many/!/deeper")]);
        let (mut names, mut cursor, mut count) = (Vec::new(), None, 0);
        loop {
            let reply = page(&api, &peer, cursor, limit).await;
            names.extend(reply.names);
            count += 1;
            cursor = reply.cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert!(count == pages || count == pages + 1, "{count} pages and not {pages}");
        let snapshot = api.store.snapshot();
        let many = NodePath::parse("/many").expect("a path");
        assert!(snapshot.children(&many).eq(names.iter().map(String::as_str)), "{children} {limit:?}");
    }
}

#[tokio::test]
async fn a_page_goes_on_after_a_name_that_is_gone_and_no_cursor_leads_elsewhere() {
    let (api, peer, publisher) = house(2_500, 8);
    publisher.publish(vec![put("/other/x")]);
    let first = page(&api, &peer, None, Some(1_500)).await;
    let cursor = first.cursor.expect("there are more");
    publisher.publish(vec![Change::Delete(NodePath::parse(&format!("/many/{cursor}")).expect("a path"))]);
    let second = page(&api, &peer, Some(cursor), None).await;
    assert_eq!((second.names.len(), second.names[0].as_str(), second.cursor), (1_000, "00001500", None));
    for cursor in ["/", "a/b", "../other"] {
        let request = ChildrenRequest { cursor: Some(cursor.to_owned()), ..all() };
        api.children_of(&peer, request).expect_err("it is no name");
    }
    assert!(page(&api, &peer, Some("\u{10ffff}".into()), None).await.names.is_empty());
}

#[tokio::test]
async fn nodes_that_have_not_changed_since_are_not_told_again() {
    let (api, peer, publisher) = house(3, 1);
    let paths = ["/many/0", "/many/no", "/nowhere"].map(str::to_owned);
    let since = |since: Option<i64>| GetManyRequest::new(paths.to_vec(), None, since);
    let ask = |revision: i64| api.get_many(&peer, &since(Some(revision))).expect("an answer");
    let first = api.get_many(&peer, &since(None)).expect("an answer");
    assert_eq!((first.nodes.len(), first.unchanged), (1, None));
    let revision = first.freshness.revision;
    publisher.publish(vec![put("/many/other")]);
    let second = ask(revision);
    assert_eq!((second.nodes.len(), second.unchanged), (0, Some(true)));
    assert!(second.freshness.revision > revision);
    publisher.publish(vec![put("/many/no")]);
    for revision in [revision, second.freshness.revision, 0, i64::MAX] {
        let told = ask(revision);
        assert_eq!((told.nodes.len(), told.unchanged), (2, None), "since {revision}");
    }
    api.get_many(&peer, &since(Some(-1))).expect_err("no revision");
}

#[tokio::test]
async fn a_path_that_is_asked_twice_counts_once_among_what_a_reply_may_hold() {
    let (api, peer, publisher) = house(0, 0);
    let large = Arc::new(Node { data: vec![0; 1 << 20].into(), ..Node::default() });
    let paths = ["/a", "/b", "/c"];
    publisher.publish(paths.map(|path| Change::Put(NodePath::parse(path).expect(path), large.clone())).to_vec());
    let ask = |paths: &[&str]| {
        api.get_many(&peer, &GetManyRequest::new(paths.iter().map(|&path| path.to_owned()).collect(), None, None))
    };
    assert_eq!(ask(&["/a"; 5]).expect("an answer").nodes.len(), 1);
    ask(&paths).expect_err("more than a reply may hold");
}

#[tokio::test]
async fn a_change_is_found_behind_more_others_than_are_searched_at_once() {
    let (api, peer, publisher) = house(1, 1);
    let since = api.store.snapshot().revision();
    for _ in 0..20 {
        publisher.publish((0..1_000).map(|number| put(&format!("/other/{number}"))).collect::<Vec<_>>());
        publisher.publish(vec![Change::Delete(NodePath::parse("/other").expect("a path"))]);
        let gone = (0..1_000).map(|number| NodePath::parse(&format!("/other/{number}")).expect("a path"));
        publisher.publish(gone.map(Change::Delete).collect::<Vec<_>>());
    }
    publisher.publish(vec![put("/many/new")]);
    let request = WatchRequest::new(since as i64, None, vec!["/many".to_owned()], 1_000, None);
    let watch = api.watch(&peer, &request).expect("a request that makes sense");
    let reply = api.changes(&peer, &watch, &Tasks::new().0.stop_signal()).await.expect("a reply");
    assert_eq!(reply.changes.iter().map(|change| change.path.as_str()).collect::<Vec<_>>(), ["/many/new"]);
}

#[tokio::test]
async fn what_rules_let_be_read_is_found_by_turns_and_nothing_else_is_told() {
    let (api, mut peer, _publisher) = house(2_500, 8);
    let rule = toml::from_str("user = '33033'\nread = ['/many/*7']").expect("a rule");
    let policy = Policy::new(&Default::default(), &[rule]).expect("a user by number");
    peer.identity = Access::new(policy).identify(Client::Unix { uid: 33_033, gid: 33_033 }, Vec::new);
    let page = async |cursor: Option<String>| {
        let request = SubtreeRequest::new("/".to_owned(), None, 200, cursor);
        let subtree = api.subtree_of(&peer, &request).expect("it leads there");
        api.searched_subtree(&peer, &subtree).await.expect("a page")
    };
    let first = page(None).await;
    let second = page(first.cursor).await;
    assert_eq!((first.nodes.len(), second.nodes.len(), second.cursor), (200, 50, None));
    assert!(first.nodes.iter().chain(&second.nodes).all(|node| node.path.ends_with('7')));
}

/// A source reports being live before what it publishes is visible.
#[test]
fn what_cannot_be_read_is_not_live_and_why_not_is_told_where_that_is_known() {
    let store =
        Store::new(&Default::default(), vec![Feed::of_nodes("test", "file", vec![NodePath::root()])], Arc::default());
    let (config, publisher) = (Config::default(), store.publisher(0));
    let api = Api::new(&config, &ZkData::default(), store.clone(), Accounts::new(&config), Arc::default());
    let peer = Peer::of(&api, None);
    let told = || {
        let state = api.status(&peer).expect("a status").sources.remove(0).state;
        let message = api.get(&peer, &GetRequest::new("/a".to_owned(), None)).map(drop);
        (state, message.map_err(|error| exception::<NotReady>(&error).message))
    };
    assert_eq!(told(), ("connecting".into(), Err("waiting for test: starting".into())));
    publisher.feed().enter(FeedState::Live, "");
    assert_eq!(told(), ("syncing".into(), Err("waiting for test".into())));
    publisher.publish_whole(vec![put("/a")]);
    assert_eq!(told(), ("live".into(), Ok(())));
}

#[tokio::test]
async fn no_read_is_answered_from_data_older_than_it_allows() {
    let stale = |error: thrift::Error| {
        let told = exception::<TooStale>(&error);
        assert!(told.age_ms > 5 && told.max_age_ms == 5 && told.message.contains("gone"), "{told:?}");
    };
    let feeds = vec![Feed::of_nodes("test", "file", vec![NodePath::root()]), Feed::of_instances("hub", "register")];
    let store = Store::new(&Default::default(), feeds, Arc::default());
    let config = Config::default();
    let api = Api::new(&config, &ZkData::default(), store.clone(), Accounts::new(&config), Arc::default());
    let peer = Peer::of(&api, None);
    for (number, change) in [put("/many/0"), join("m", &["mail"], &Way::new(Manner::Silent))].into_iter().enumerate() {
        let publisher = store.publisher(number);
        publisher.publish_whole(vec![change]);
        publisher.feed().prove(Moment::now());
        publisher.feed().enter(FeedState::Down, "gone");
    }
    std::thread::sleep(Duration::from_millis(10));
    let (stop, path) = (Tasks::new().0.stop_signal(), || "/many".to_owned());
    for max_age_ms in [Some(5), Some(60_000), None] {
        let query = || ServiceQuery { service_name: Some("mail".into()), max_age_ms, ..ServiceQuery::default() };
        let watch = api.watch(&peer, &WatchRequest { max_age_ms, ..WatchRequest::default() }).expect("a watch");
        let masters = WatchMastersRequest { max_age_ms, ..WatchMastersRequest::default() };
        let masters = api.watch_masters(&peer, &masters).expect("a watch");
        let children = api.children_of(&peer, ChildrenRequest { max_age_ms, ..all() }).expect("a path");
        let subtree = SubtreeRequest::new(path(), max_age_ms, None, None);
        let subtree = api.subtree_of(&peer, &subtree).expect("a path");
        let reads = [
            api.get(&peer, &GetRequest::new("/many/0".to_owned(), max_age_ms)).map(drop),
            api.get_many(&peer, &GetManyRequest::new(vec![path()], max_age_ms, None)).map(drop),
            api.children(&peer, &children).map(drop),
            api.many_children(&peer, &children).await.map(drop),
            api.subtree(&subtree).map(drop),
            api.searched_subtree(&peer, &subtree).await.map(drop),
            api.changes(&peer, &watch, &stop).await.map(drop),
            api.masters(&peer, &query()).await.map(drop),
            api.master(&peer, &MasterRequest::new("m".to_owned(), max_age_ms)).map(drop),
            api.services(&peer, &query()).await.map(drop),
            api.instances(&peer, &query()).await.map(drop),
            api.master_changes(&peer, masters, &stop).await.map(drop),
        ];
        for read in reads {
            match max_age_ms {
                Some(5) => stale(read.expect_err("it is too old")),
                _ => read.expect("it is as old as it may be"),
            }
        }
    }
}
