//! Instances that nodes register in the shared file.

use lmdb::{Transaction as _, WriteFlags};

use super::*;
use crate::format;
use crate::model::{Format, view};

fn with_services() -> Vec<Feed> {
    let services = format::Config { root: path("/s"), format: Format::Raw, guard: false, ..format::Config::default() };
    let mut feeds: Vec<_> =
        feeds("cluster").into_iter().map(|feed| feed.with_services(vec![services.clone()])).collect();
    feeds.push(Feed::of_instances("register", "register"));
    feeds
}

fn web(number: usize) -> Change {
    put(&format!("/s/web/i-{number}"), &format!("10.0.0.5:{number}"))
}

/// The ports of a service in order, according to the file.
fn ports(fixture: &SharedFileFixture, service: &str) -> Option<Vec<u16>> {
    let (instances, _) = Reader::open(&fixture.file()).and_then(|reader| reader.instances(service)).expect("read");
    let port = |instance: view::Instance| instance.endpoints[0].port;
    let mut ports: Vec<_> = instances?.into_iter().map(port).collect();
    ports.sort_unstable();
    Some(ports)
}

fn contradictions(fixture: &SharedFileFixture) -> Vec<String> {
    Reader::open(&fixture.file()).and_then(|reader| reader.check()).expect("it is whole").contradictions
}

#[test]
fn an_instance_has_an_entry_of_its_own_and_is_written_alone() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open_as(with_services());
    open.sync();
    open.publish((1..=2_000).map(web).collect());
    assert_eq!(ports(&fixture, "web"), Some((1..=2_000).collect()));
    fixture.assert_writes_little(|| {
        open.publish(vec![web(2_001), Change::Delete(path("/s/web/i-7"))]);
    });
    assert_eq!(ports(&fixture, "web"), Some((1..=2_001).filter(|port| *port != 7).collect()));
    assert_eq!(contradictions(&fixture), [""; 0]);
    let read = "$n = json_decode(dba_fetch('instances/web', $db), true)['0.0.0']; $last = $n - 1;
        echo $n, ' ', json_decode(dba_fetch(\"instance/web\\0\" . \"0.0.0\\0$last\", $db))->endpoints[0]->host,
            ' ', json_encode(dba_fetch(\"instance/web\\0\" . \"0.0.0\\0$n\", $db));";
    assert_eq!(fixture.php(read), "2000 10.0.0.5 false");
    open.publish((1..=2_001).map(|number| Change::Delete(path(&format!("/s/web/i-{number}")))).collect());
    assert_eq!(ports(&fixture, "web"), None);
    assert!(fixture.read().registered.is_empty());
}

#[test]
fn what_masters_and_nodes_offer_is_counted_and_a_service_of_both_once() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open_as(with_services());
    open.settle();
    let long = "x".repeat(600);
    open.publish(vec![web(1), web(2), put("/s/mail/i", "h:1"), put(&format!("/s/{long}/i"), "h:1")]);
    assert_eq!(fixture.read().counts(), (3, 4));
    open.tell(vec![super::masters::join("m", &["mail@1.0.0", "log@1.0.0"])]);
    assert_eq!(fixture.read().counts(), (4, 6));
}

#[test]
fn a_restart_has_what_nodes_register_before_any_master_is_known_and_forgets_what_is_gone() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open_as(with_services());
    open.sync();
    open.publish((1..=3).map(web).chain([put("/s/mail/i", "h:1")]).collect());
    drop(open);
    // The register settles: what is known of masters stays as it was.
    let mut open = fixture.open_as(with_services());
    let directory = |open: &Open| open.store.snapshot().directory().instances("web").count();
    assert_eq!((directory(&open), open.store.snapshot().directory().instances("mail").count()), (3, 1));
    open.publish(vec![Change::Delete(path("/s/web/i-1")), Change::Delete(path("/s/mail/i")), web(9)]);
    assert_eq!((ports(&fixture, "web"), ports(&fixture, "mail")), (Some(vec![2, 3, 9]), None));
    assert_eq!(contradictions(&fixture), [""; 0]);
    drop(open);
    // Without `[[services]]` in the configuration there are none.
    let mut open = fixture.open();
    open.publish(vec![put("/other", "x")]);
    assert_eq!((ports(&fixture, "web"), fixture.read().registered.len()), (None, 0));
}

#[test]
fn a_restart_has_all_instances_that_a_later_source_maps_however_many() {
    const MANY: usize = 600;
    let sources = || {
        let source = |name: &str, root: &str, format: Format| {
            let services = format::Config { root: path(root), format, ..format::Config::default() };
            Feed::of_nodes(name, "file", vec![path(root)]).of(Identity::new(name)).with_services(vec![services])
        };
        vec![source("a", "/services", Format::DubboApplication), source("b", "/dubbo", Format::Dubbo)]
    };
    let application = |number: usize| {
        let endpoints = format!(r#"[{{\"port\":{},\"protocol\":\"dubbo\"}}]"#, 10_000 + number);
        let metadata = format!(r#"{{"dubbo.endpoints":"{endpoints}","dubbo.metadata.revision":"a"}}"#);
        let data = format!(r#"{{"address":"10.0.0.5","payload":{{"metadata":{metadata}}}}}"#);
        put(&format!("/services/shop/{number}"), &data)
    };
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open_as(sources());
    open.store.publisher(1).publish_whole(vec![put("/dubbo/mapping/i", "shop")]);
    open.sync();
    open.publish((0..MANY).map(application).collect());
    drop(open);
    let store = fixture.start_as(sources()).store;
    assert_eq!(store.snapshot().directory().instances("i").count(), MANY);
    assert!(!store.snapshot().is_deferring(0) && !store.snapshot().is_deferring(1));
}

#[test]
fn of_a_service_that_masters_alone_still_offer_nothing_stays_of_what_nodes_registered() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open_as(with_services());
    open.sync();
    open.tell(vec![super::masters::join("m1", &["web@0.0.0"])]);
    open.publish((1..=600).map(web).collect());
    assert!(fixture.read().registered.len() > 600);
    open.publish((1..=600).map(|number| Change::Delete(path(&format!("/s/web/i-{number}")))).collect());
    assert!(open.store.snapshot().directory().instances_of("web").is_some());
    assert!(fixture.read().registered.is_empty(), "also of the chunks with numbers of masters");
}

#[test]
fn what_the_guard_holds_is_in_the_file_and_held_again_after_a_restart() {
    let guarded = || {
        let services = format::Config { root: path("/s"), format: Format::Raw, ..format::Config::default() };
        vec![feeds("cluster").remove(0).with_services(vec![services])]
    };
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open_as(guarded());
    open.sync();
    open.publish((1..=10).map(web).collect());
    open.publish((1..=8).map(|number| Change::Delete(path(&format!("/s/web/i-{number}")))).collect());
    assert_eq!(ports(&fixture, "web"), Some((1..=10).collect()));
    let read = "echo json_encode(json_decode(dba_fetch('pick/web', $db))->protected);";
    assert_eq!(fixture.php(read), "true");
    assert_eq!(contradictions(&fixture), [""; 0]);
    let held = |open: &Open| {
        let snapshot = open.store.snapshot();
        let held = snapshot.directory().instances("web").filter_map(|(_, it)| it.held.as_deref().cloned());
        held.map(|held| (held.since, held.ends_at)).collect::<Vec<_>>()
    };
    let before = held(&open);
    assert_eq!(before.len(), 8);
    drop(open);
    let mut open = fixture.open_as(guarded());
    assert_eq!(held(&open), before, "for the rest of its time");
    open.publish(vec![web(1), web(2)]);
    assert_eq!((held(&open).len(), ports(&fixture, "web")), (6, Some((1..=10).collect())));
    assert_eq!(contradictions(&fixture), [""; 0]);
    drop(open);
    let mut open = fixture.open_as(with_services());
    open.publish(vec![web(11)]);
    assert_eq!(ports(&fixture, "web"), Some(vec![1, 2, 9, 10, 11]), "what is guarded no longer is gone");
}

#[test]
fn a_root_of_which_some_are_held_again_is_not_doubted_after_a_restart_but_another_format_is() {
    let guarded = |format| {
        let services = format::Config { root: path("/s"), format, ..format::Config::default() };
        vec![feeds("cluster").remove(0).with_services(vec![services])]
    };
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open_as(guarded(Format::Raw));
    open.sync();
    open.publish((1..=8).map(web).chain([put("/s/web", "")]).collect());
    open.publish((1..=8).map(|number| Change::Delete(path(&format!("/s/web/i-{number}")))).collect());
    drop(open);
    let idle = |format| {
        let snapshot = fixture.open_as(guarded(format)).store.snapshot();
        snapshot.idle_roots(&snapshot.feeds()[0]).collect::<Vec<_>>()
    };
    assert_eq!(idle(Format::Raw), ["nothing below /s registers anything any more"]);
    let told = idle(Format::Curator);
    assert!(told.len() == 1 && told[0].contains("in the format `curator`: is that the format"), "{told:?}");
}

#[test]
fn what_names_allow_no_longer_is_not_held_again() {
    let guarded = |names: [&str; 3]| {
        let of = |(rank, (root, format)): (usize, (&str, Format))| {
            let names = vec![names[rank].to_owned()].try_into().expect("names");
            format::Config { root: path(root), format, names, rank, ..format::Config::default() }
        };
        let roots = [("/s", Format::Raw), ("/dubbo", Format::Dubbo), ("/services", Format::DubboApplication)];
        vec![feeds("cluster").remove(0).with_services(roots.into_iter().enumerate().map(of).collect())]
    };
    let application = |number: usize| {
        let endpoints = format!(r#"[{{\"port\":{number},\"protocol\":\"dubbo\"}}]"#);
        let metadata = format!(r#"{{"dubbo.endpoints":"{endpoints}","dubbo.metadata.revision":"a"}}"#);
        let data = format!(r#"{{"address":"10.0.0.6","payload":{{"metadata":{metadata}}}}}"#);
        put(&format!("/services/shop/{number}"), &data)
    };
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open_as(guarded(["*"; 3]));
    open.sync();
    open.publish((1..=8).map(web).chain((1..=8).map(application)).chain([put("/dubbo/mapping/i", "shop")]).collect());
    let paths = (1..=8).flat_map(|number| [format!("/s/web/i-{number}"), format!("/services/shop/{number}")]);
    open.publish(paths.map(|it| Change::Delete(path(&it))).collect());
    let held = |open: &Open| {
        let snapshot = open.store.snapshot();
        ["web", "shop", "i"]
            .map(|service| snapshot.directory().instances(service).filter(|it| it.1.held.is_some()).count())
    };
    assert_eq!(held(&open), [8; 3]);
    drop(open);
    for (names, expected) in [
        (["web", "i", "sh*"], [8, 8, 8]),
        (["other", "i", "shop"], [0, 8, 8]),
        (["web", "j", "shop"], [8, 8, 0]),
        (["web", "i", "other"], [8, 0, 0]),
    ] {
        assert_eq!(held(&fixture.open_as(guarded(names))), expected, "{names:?}");
    }
}

#[test]
fn an_application_is_held_again_for_the_root_that_decided_about_it_whatever_was_mapped_since() {
    let services = || {
        let roots = [("/dubbo", Format::Dubbo), ("/services", Format::DubboApplication), ("/x", Format::Dubbo)];
        let of = |(rank, (root, format)): (usize, (&str, Format))| format::Config {
            root: path(root),
            format,
            rank,
            ..format::Config::default()
        };
        vec![feeds("cluster").remove(0).with_services(roots.into_iter().enumerate().map(of).collect())]
    };
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open_as(services());
    open.sync();
    let application = |number: usize| {
        let endpoints = r#"[{\"port\":80,\"protocol\":\"dubbo\"}]"#;
        let metadata = format!(r#"{{"dubbo.endpoints":"{endpoints}","dubbo.metadata.revision":"a"}}"#);
        let data = format!(r#"{{"address":"10.0.0.{number}","payload":{{"metadata":{metadata}}}}}"#);
        put(&format!("/services/shop/{number}"), &data)
    };
    let mappings = [put("/dubbo/mapping/own", "shop"), put("/x/mapping/theirs", "shop")];
    open.publish((1..=8).map(application).chain(mappings).collect());
    let nodes = (1..=8).map(|number| format!("/services/shop/{number}"));
    let nodes = nodes.chain(["/dubbo/mapping/own", "/x/mapping/theirs"].map(str::to_owned));
    open.publish(nodes.map(|node| Change::Delete(path(&node))).collect());
    let ranks = |open: &Open| {
        let snapshot = open.store.snapshot();
        let directory = snapshot.directory();
        ["own", "theirs"].map(|service| {
            let ranks = directory.instances(service).map(|(id, _)| directory.guard().rank_of_held(service, id));
            ranks.map(|rank| rank.expect("it is held").root).collect::<Vec<_>>()
        })
    };
    let before = ranks(&open);
    assert_eq!(before, [vec![1; 8], vec![2; 8]]);
    open.publish(vec![put("/x/mapping/own", "shop"), put("/dubbo/mapping/theirs", "shop")]);
    assert_eq!(ranks(&open), before);
    drop(open);
    assert_eq!(ranks(&fixture.open_as(services())), before);
}

#[test]
fn a_number_in_the_file_makes_nobody_look_for_more_than_there_can_be() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open_as(with_services());
    open.sync();
    open.publish((1..=3).map(web).collect());
    let env = open.env();
    let mut txn = env.write().expect("a transaction");
    txn.put(env.db, &entry::instances("web"), &r#"{"0.0.0":1000000000000}"#, WriteFlags::empty()).expect("written");
    txn.commit().expect("written");
    let read = Reader::open(&fixture.file()).and_then(|reader| reader.instances("web")).expect_err("it is damaged");
    assert!(read.to_string().contains("more instances"), "{read}");
}
