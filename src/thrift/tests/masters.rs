//! Masters, services, instances, and their changes.

use std::collections::BTreeMap;
use std::pin::pin;

use bytesize::ByteSize;
use futures::FutureExt;
use tokio::runtime::{Builder, Handle};

use super::*;
use crate::access::{Access, Client, Identity, Policy};
use crate::task::Tasks;
use crate::thrift::idl::{
    ChangeKind, EntityKind, MasterRequest, NotFound, NotReady, ServiceQuery, WatchMastersRequest,
};

fn filter(service: Option<&str>, metadata: &[(&str, &str)]) -> ServiceQuery {
    let metadata: BTreeMap<_, _> = metadata.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let metadata = Some(metadata).filter(|it| !it.is_empty());
    ServiceQuery { service_name: service.map(str::to_owned), metadata, ..ServiceQuery::default() }
}

fn house() -> House {
    let way = Way::new(Manner::Echoes);
    let house = House::new(1, &Config::default());
    house.feeds[0].publish_whole(vec![
        join("a", &["mail@1.0.0", "log"], &way),
        join("b", &["mail@2.0.0", "mail@1.0.0"], &way),
        join("c", &[], &way),
    ]);
    house
}

#[test]
fn masters_come_in_pages_and_by_what_they_offer() {
    let house = house();
    let ids = |filter: ServiceQuery| {
        let reply = by_turns(house.api.masters(&house.peer, &filter)).expect("masters");
        (reply.masters.into_iter().map(|master| master.id).collect::<Vec<_>>().concat(), reply.cursor)
    };
    assert_eq!(ids(filter(None, &[])), ("abc".into(), None));
    assert_eq!(ids(filter(Some("mail"), &[])), ("ab".into(), None));
    assert_eq!(ids(filter(Some("log"), &[("zone", "a"), ("size", "7")])), ("a".into(), None));
    assert_eq!(ids(filter(Some("log"), &[("zone", "b")])), (String::new(), None));
    assert_eq!(ids(filter(None, &[("zone", "b")])), ("b".into(), None));
    assert_eq!(ids(ServiceQuery { limit: Some(2), ..filter(None, &[]) }), ("ab".into(), Some("b".into())));
    assert_eq!(ids(ServiceQuery { cursor: Some("b".into()), ..filter(None, &[]) }), ("c".into(), None));
    let master = |id: &str| house.api.master(&house.peer, &MasterRequest::new(id.to_owned(), None));
    let absence = exception::<NotFound>(&master("x").expect_err("nobody"));
    assert_eq!((absence.kind, absence.name.as_str()), (EntityKind::MASTER, "x"));
    let absence = by_turns(house.api.instances(&house.peer, &filter(Some("x"), &[]))).expect_err("nobody");
    assert_eq!(exception::<NotFound>(&absence).kind, EntityKind::SERVICE);
    let master = master("b").expect("a master").master;
    assert_eq!((master.routes, master.connected_at, master.services.len()), (1, 7, 2));
    assert_eq!((master.services[0].name.as_str(), master.services[0].version.as_str()), ("mail", "2.0.0"));
    assert_eq!(master.services[0].metadata, r#"{"zone":"b","size":7}"#);
}

#[test]
fn a_service_is_known_also_when_nobody_offers_it_any_more() {
    let house = house();
    let services = |filter: &ServiceQuery| {
        let services = by_turns(house.api.services(&house.peer, filter)).expect("services").services.into_iter();
        services.map(|service| (service.name, service.masters.into_iter().collect::<Vec<_>>())).collect::<Vec<_>>()
    };
    let mail = ("mail".to_owned(), vec![("1.0.0".to_owned(), 2), ("2.0.0".to_owned(), 1)]);
    let log = ("log".to_owned(), vec![("0.0.0".to_owned(), 1)]);
    assert_eq!(services(&filter(None, &[])), [log, mail.clone()]);
    assert_eq!(services(&filter(Some("mail"), &[])), [mail]);
    assert_eq!(services(&filter(None, &[("zone", "a")])).len(), 2);
    house.feeds[0].publish(vec![Change::Leave("a".into())]);
    assert_eq!(services(&filter(Some("log"), &[])), [("log".to_owned(), vec![])]);
    assert_eq!(services(&filter(None, &[("zone", "a")])), []);
}

#[test]
fn services_come_in_pages_and_those_that_are_offered_first() {
    let house = house();
    house.feeds[0].publish(vec![Change::Leave("a".into()), join("d", &["", "zeal"], &Way::new(Manner::Silent))]);
    let page = |cursor: Option<String>| {
        let wanted = ServiceQuery { limit: Some(1), cursor, ..filter(None, &[]) };
        let reply = by_turns(house.api.services(&house.peer, &wanted)).expect("services");
        (reply.services.into_iter().map(|service| service.name).collect::<String>(), reply.cursor)
    };
    let (mut names, mut cursor) = (Vec::new(), None);
    loop {
        let (name, next) = page(cursor);
        names.push(name);
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(names, ["", "mail", "zeal", "log"]);
    let wrong = ServiceQuery { cursor: Some("mail".into()), ..filter(None, &[]) };
    assert!(by_turns(house.api.services(&house.peer, &wrong)).is_err());
}

#[test]
fn the_metadata_of_very_many_masters_are_compared_by_turns() {
    let house = House::with(&[]);
    let way = Way::new(Manner::Silent);
    house.feeds[0].publish((0..5_000).map(|number| join(&number.to_string(), &["mail"], &way)).collect::<Vec<_>>());
    // No turn was begun, so it is over after a while.
    std::thread::sleep(Duration::from_millis(2));
    let wanted = filter(None, &[("zone", "7")]);
    let mut services = pin!(house.api.services(&house.peer, &wanted));
    assert!(services.as_mut().now_or_never().is_none(), "others may work");
    let services = by_turns(services).expect("services").services;
    assert_eq!(services[0].masters.values().collect::<Vec<_>>(), [&1]);
}

pub(super) fn who_sees_mail_alone() -> Identity {
    let rule = toml::from_str("user = '33033'\nread = ['mail']").expect("a rule");
    let access = Access::new(Policy::new(&Default::default(), &[rule]).expect("names that are known"));
    access.identify(Client::Unix { uid: 33_033, gid: 33_033 }, Vec::new)
}

#[test]
fn no_answer_depends_on_what_the_client_may_not_know_of() {
    let way = Way::new(Manner::Silent);
    let fat: Vec<String> = (0..4_000).map(|number| format!("secret-{number}@1.0.0")).collect();
    let fat: Vec<&str> = fat.iter().map(String::as_str).chain(["mail"]).collect();
    let known = |masters: &[(&str, &[&str])]| {
        let mut house = House::new(1, &Config::default());
        house.feeds[0].publish_whole(masters.iter().map(|(id, services)| join(id, services, &way)).collect());
        house.peer.identity = who_sees_mail_alone();
        house
    };
    let whole = known(&[
        ("a", &["mail", "secret"]),
        ("b", &["secret"]),
        ("c", &["mail@2.0.0", "log", "mail@1.0.0"]),
        ("d", &[]),
        ("e", &fat),
        ("f", &fat),
    ]);
    let seen: [(&str, &[&str]); 4] =
        [("a", &["mail"]), ("c", &["mail@2.0.0", "mail@1.0.0"]), ("e", &["mail"]), ("f", &["mail"])];
    let seen = known(&seen);
    let metadata: [&[(&str, &str)]; 4] = [&[], &[("zone", "a")], &[("zone", "b")], &[("size", "7"), ("zone", "e")]];
    for service in [None, Some("mail"), Some("secret"), Some("secret-1"), Some("log"), Some("nothing")] {
        for metadata in metadata {
            for (limit, cursor) in [(None, None), (Some(1), None), (Some(2), Some("a"))] {
                let asked = || ServiceQuery { limit, cursor: cursor.map(str::to_owned), ..filter(service, metadata) };
                let masters = [&whole, &seen].map(|house| {
                    let reply = by_turns(house.api.masters(&house.peer, &asked())).expect("masters");
                    (reply.masters, reply.cursor)
                });
                assert_eq!(masters[0], masters[1], "masters of {service:?} {metadata:?} {limit:?} {cursor:?}");
                let cursor = cursor.map(|name| format!("+{name}"));
                let asked = || ServiceQuery { limit, cursor: cursor.clone(), ..filter(service, metadata) };
                let services = [&whole, &seen].map(|house| {
                    let reply = by_turns(house.api.services(&house.peer, &asked())).expect("services");
                    (reply.services, reply.cursor)
                });
                assert_eq!(services[0], services[1], "services of {service:?} {metadata:?} {limit:?} {cursor:?}");
            }
        }
    }
    let instances = [&whole, &seen].map(|house| {
        let revision = house.api.store.snapshot().revision() as i64;
        let mut found =
            by_turns(house.api.instances(&house.peer, &filter(Some("mail"), &[]))).expect("instances").instances;
        // Each store begins with its own revision.
        found.iter_mut().flat_map(|it| &mut it.provenance).for_each(|it| it.since_revision -= revision);
        found
    });
    assert_eq!(instances[0], instances[1]);
    let told = whole.api.status(&whole.peer).expect("a status").counters;
    let of_masters = ["masters", "services", "mastersRefused", "metadataBytes", "callsOutstanding", "changes"];
    assert!(of_masters.iter().all(|name| !told.contains_key(*name)), "{told:?}");
}

#[test]
fn no_cursor_is_the_id_of_a_master_that_the_client_may_not_know_of() {
    let mut house = House::with(&[]);
    let way = Way::new(Manner::Silent);
    let hidden = (0..10_000).map(|number| join(&format!("hidden-{number}"), &["log"], &way));
    let seen = ["a", "i", "z"].map(|id| join(id, &["mail"], &way));
    house.feeds[0].publish(hidden.chain(seen).collect::<Vec<_>>());
    house.peer.identity = who_sees_mail_alone();
    let page = |wanted: ServiceQuery| {
        let reply = by_turns(house.api.masters(&house.peer, &wanted)).expect("masters");
        (reply.masters.into_iter().map(|master| master.id).collect::<Vec<_>>().concat(), reply.cursor)
    };
    assert_eq!(page(filter(None, &[])), ("aiz".into(), None));
    assert_eq!(page(ServiceQuery { limit: Some(1), ..filter(None, &[]) }), ("a".into(), Some("a".into())));
    let second = ServiceQuery { limit: Some(1), cursor: Some("a".into()), ..filter(None, &[]) };
    assert_eq!(page(second), ("i".into(), Some("i".into())));
    assert_eq!(page(filter(None, &[("zone", "z")])), ("z".into(), None));
    // No turn was begun, so it is over after a while.
    std::thread::sleep(Duration::from_millis(2));
    let all = filter(None, &[]);
    assert!(house.api.masters(&house.peer, &all).now_or_never().is_none(), "others may work");
}

#[tokio::test]
async fn large_metadata_of_masters_and_instances_are_compared_on_another_thread() {
    let (house, way) = (House::new(1, &Config::default()), Way::new(Manner::Silent));
    let join = |number: u32| {
        let metadata = Value::Map(vec![("x".into(), Value::Array(vec![0.into(); 7_900]))]).into();
        let services = vec![Service { name: "mail".to_owned(), metadata }];
        let master = Master { id: number.to_string(), peer_address: "here:1".into(), connected_at: 7, services };
        Change::Join(Arc::new(master), way.clone())
    };
    house.feeds[0].publish_whole((0..100).map(join).collect());
    let wanted = filter(Some("mail"), &[("x", "1")]);
    let mut masters = pin!(house.api.masters(&house.peer, &wanted));
    assert!(masters.as_mut().now_or_never().is_none(), "not by the thread that was asked");
    assert_eq!(masters.await.expect("masters").masters.len(), 0);
    let mut instances = pin!(house.api.instances(&house.peer, &wanted));
    assert!(instances.as_mut().now_or_never().is_none(), "not by the thread that was asked");
    assert_eq!(instances.await.expect("instances").instances.len(), 0);
}

#[test]
fn instances_come_newest_first() {
    let house = house();
    let reply = by_turns(house.api.instances(&house.peer, &filter(Some("mail"), &[]))).expect("instances");
    let told: Vec<_> =
        reply.instances.iter().map(|it| (it.master_id.as_deref().unwrap_or_default(), it.version.as_str())).collect();
    assert_eq!(told, [("b", "2.0.0"), ("a", "1.0.0"), ("b", "1.0.0")]);
    let unknown = by_turns(house.api.instances(&house.peer, &filter(Some("nothing"), &[]))).expect_err("unknown");
    assert_eq!(exception::<NotFound>(&unknown).name, "nothing");
    assert!(by_turns(house.api.instances(&house.peer, &filter(None, &[]))).is_err(), "of which service?");
}

#[test]
fn instances_come_in_pages_by_their_number_and_by_their_size() {
    let house = house();
    let page = |cursor: Option<String>, metadata: &[(&str, &str)]| {
        let filter = ServiceQuery { limit: Some(1), cursor, ..filter(Some("mail"), metadata) };
        let reply = by_turns(house.api.instances(&house.peer, &filter)).expect("instances");
        let told = reply
            .instances
            .iter()
            .map(|it| format!("{}@{}", it.master_id.as_deref().unwrap_or_default(), it.version))
            .collect::<String>();
        (told, reply.cursor)
    };
    let all = |metadata: &[(&str, &str)]| {
        let first = page(None, metadata);
        std::iter::successors(Some(first), |(_, cursor)| Some(page(Some(cursor.clone()?), metadata)))
            .map(|(told, _)| told)
            .collect::<Vec<_>>()
    };
    assert_eq!(all(&[]), ["b@2.0.0", "a@1.0.0", "b@1.0.0"]);
    assert_eq!(all(&[("zone", "a")]).concat(), "a@1.0.0");
    let cursor = Some("nonsense".into());
    assert!(by_turns(house.api.instances(&house.peer, &ServiceQuery { cursor, ..filter(Some("mail"), &[]) })).is_err());

    let config = Config { max_reply: ByteSize::kib(64), ..Config::default() };
    let house = House::new(1, &config);
    let master = |id: usize| {
        let fat = Value::Map(vec![("fat".into(), "x".repeat(15_000).into())]);
        let services = vec![Service { name: "fat".into(), metadata: fat.into() }];
        let (id, peer_address) = (id.to_string(), "here:1".into());
        Change::Join(Arc::new(Master { id, peer_address, connected_at: 7, services }), Way::new(Manner::Silent))
    };
    house.feeds[0].publish_whole((0..20).map(master).collect());
    let reply = by_turns(house.api.instances(&house.peer, &filter(Some("fat"), &[]))).expect("instances");
    assert!(reply.cursor.is_some() && reply.instances.len() == 3, "{}", reply.instances.len());
}

#[tokio::test]
async fn nothing_is_said_of_masters_before_all_who_tell_of_them_have() {
    let house = House::new(2, &Config::default());
    house.feeds[0].publish_whole(vec![join("a", &["mail"], &Way::new(Manner::Echoes))]);
    let error = by_turns(house.api.masters(&house.peer, &filter(None, &[]))).expect_err("not ready");
    assert_eq!(exception::<NotReady>(&error).source, "register-1");
    assert!(house.api.call(&house.peer, &house.request("send", |_| {})).await.is_ok(), "what is known can be called");
    house.feeds[1].publish_whole(vec![]);
    assert_eq!(by_turns(house.api.masters(&house.peer, &filter(None, &[]))).expect("masters").masters.len(), 1);
    let house = House::new(0, &Config::default());
    let nothing = by_turns(house.api.masters(&house.peer, &filter(None, &[]))).expect("masters");
    assert!(nothing.masters.is_empty() && nothing.freshness.complete);
}

#[tokio::test]
async fn masters_too_large_for_one_reply_come_in_several_or_are_a_reset() {
    let config = Config { max_reply: ByteSize::kib(64), ..Config::default() };
    let house = House::new(1, &config);
    house.feeds[0].publish_whole(vec![]);
    let large = |id: &str, bytes: usize| {
        let services: Vec<String> = (0..bytes / 1_000).map(|i| format!("{i}{}", "x".repeat(1_000))).collect();
        let services: Vec<&str> = services.iter().map(String::as_str).collect();
        join(id, &services, &Way::new(Manner::Silent))
    };
    let start = house.api.store.snapshot().revision();
    house.feeds[0].publish(vec![large("a", 20_000)]);
    house.feeds[0].publish(vec![large("b", 20_000)]);
    house.feeds[0].publish(vec![large("c", 40_000)]);
    let tasks = Tasks::new().0;
    let stop = tasks.stop_signal();
    let watch = async |since| {
        let patience = house
            .api
            .watch_masters(&house.peer, &WatchMastersRequest::new(since, None, 5_000, None))
            .expect("a request that makes sense");
        let reply = house.api.master_changes(&house.peer, patience, &stop).await.expect("a reply");
        let ids: String = reply.changes.into_iter().map(|change| change.id).collect();
        ((ids, reply.reset), reply.freshness.revision)
    };
    let (first, since) = watch(start as i64).await;
    let (second, since) = watch(since).await;
    let (third, since) = watch(since).await;
    assert_eq!([first, second, third], [("a".into(), false), ("b".into(), false), (String::new(), true)]);
    assert_eq!(since, house.api.store.snapshot().revision() as i64);
}

#[test]
fn who_takes_back_what_it_never_told_changes_nothing() {
    let house = House::new(2, &Config::default());
    let revision = house.feeds[0].publish(vec![join("a", &["log"], &Way::new(Manner::Silent))]);
    assert_eq!(house.feeds[1].publish(vec![Change::Leave("a".into()), Change::Leave("nobody".into())]), revision);
    assert_eq!(house.api.store.snapshot().directory().len(), 1);
}

#[tokio::test]
async fn a_watch_tells_what_became_of_masters() {
    let house = house();
    let tasks = Tasks::new().0;
    let stop = tasks.stop_signal();
    let watch = async |since| {
        let patience = house
            .api
            .watch_masters(&house.peer, &WatchMastersRequest::new(since, None, 5_000, None))
            .expect("a request that makes sense");
        house.api.master_changes(&house.peer, patience, &stop).await.expect("a reply")
    };
    let start = watch(0).await;
    assert!(start.reset);
    let change = async {
        tokio::task::yield_now().await;
        house.feeds[0].publish(vec![Change::Leave("c".into()), join("d", &["log"], &Way::new(Manner::Silent))]);
    };
    let (reply, ()) = futures::join!(watch(start.freshness.revision), change);
    let told: Vec<_> = reply.changes.iter().map(|it| (it.id.as_str(), it.kind, it.master.is_some())).collect();
    assert_eq!(told, [("c", ChangeKind::DELETED, false), ("d", ChangeKind::CREATED, true)]);
}

pub(super) fn by_turns<T>(work: impl Future<Output = T>) -> T {
    if Handle::try_current().is_err() {
        return Builder::new_current_thread().build().expect("a runtime").block_on(work);
    }
    let mut work = pin!(work);
    loop {
        if let Some(done) = work.as_mut().now_or_never() {
            return done;
        }
    }
}
