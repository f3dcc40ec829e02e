//! Masters and services in the shared file, and what stays in it across a restart.

use rmpv::Value;
use serde_json::json;

use super::*;
use crate::clock::Moment;
use crate::model::{Answers, Call, Command, Line, Master, Refused, Service};
use crate::store::Batch;

#[derive(Debug)]
struct Nowhere;

impl Line for Nowhere {
    fn call(&self, _: Call) -> Result<Answers, Refused> {
        Err(Refused::Gone)
    }

    fn send(&self, _: &Command) -> Result<(), Refused> {
        Err(Refused::Gone)
    }

    fn outstanding(&self) -> usize {
        7
    }
}

pub(super) fn join(id: &str, services: &[&str]) -> Change {
    let metadata = Value::Map(vec![("zone".into(), "a".into())]);
    let services = services.iter().map(|name| Service { name: (*name).to_owned(), metadata: metadata.clone().into() });
    let master =
        Master { id: id.into(), peer_address: "10.0.0.1:7".into(), connected_at: 5, services: services.collect() };
    Change::Join(Arc::new(master), Arc::new(Nowhere))
}

fn leave(id: &str) -> Change {
    Change::Leave(id.into())
}

/// Starts a sidecar with a register, which is feed 1.
fn start(fixture: &SharedFileFixture) -> Open {
    fixture.open_as(feeds("cluster").into_iter().chain([Feed::of_instances("register", "register")]).collect())
}

impl Open {
    /// Publishes changes of the register.
    pub(super) fn tell(&mut self, changes: Vec<Change>) {
        self.store.publisher(1).publish(changes);
        self.write();
    }

    /// The register has given its masters time to connect.
    pub(super) fn settle(&mut self) {
        let register = self.store.publisher(1);
        register.clear_expected();
        register.publish_whole(vec![]);
        register.feed().enter(FeedState::Live, "");
        register.feed().prove(Moment::now());
        self.sync();
    }
}

/// The masters that offer a service according to the file, if it has an entry.
fn masters_of(fixture: &SharedFileFixture, service: &str) -> Option<Vec<String>> {
    let (instances, _) = Reader::open(&fixture.file()).and_then(|reader| reader.instances(service)).expect("read");
    Some(instances?.into_iter().map(|instance| instance.master_id.expect("an id")).collect())
}

fn freshness(fixture: &SharedFileFixture) -> Freshness {
    let status = Reader::open(&fixture.file()).and_then(|reader| reader.status()).expect("a report");
    status.freshness(status.behind_masters(), SystemTime::now())
}

#[test]
fn who_offers_what_is_told_with_the_names_of_the_interface() {
    let fixture = SharedFileFixture::new();
    let mut open = start(&fixture);
    open.settle();
    open.tell(vec![join("m1", &["mail@1.2.0", "log"]), join("m2", &["mail@2.0.0"])]);
    let told = |key: &str| -> serde_json::Value {
        serde_json::from_str(&fixture.php(&format!("echo dba_fetch('{key}', $db);"))).expect("JSON")
    };
    let offer = |name: &str, version: &str| json!({"name": name, "version": version, "metadata": {"zone": "a"}});
    let master = json!({
        "id": "m1", "peerAddress": "10.0.0.1:7", "connectedAt": 5,
        "services": [offer("mail", "1.2.0"), offer("log", "0.0.0")], "routes": 1, "sources": ["register"],
    });
    assert_eq!(told("master/m1"), master);
    let since = open.store.snapshot().revision();
    let instance = |id: &str, version: &str| {
        json!({
            "serviceName": "mail", "version": version, "zone": "a", "weight": 100, "metadata": {"zone": "a"},
            "state": "UP", "masterId": id,
            "provenance": [{"source": "register", "masterId": id, "decoder": "tunnel", "sinceRevision": since}],
        })
    };
    assert_eq!(told("service/mail"), json!([instance("m2", "2.0.0"), instance("m1", "1.2.0")]));
    assert_eq!(told("service/log")[0]["masterId"], "m1");
    let (read, known) = (freshness(&fixture), open.freshness());
    assert_eq!((read.origin, read.complete), (known.origin, known.complete));

    open.tell(vec![leave("m1"), join("m2", &["mail@2.0.0", "news"])]);
    assert_eq!(fixture.php("echo json_encode(dba_fetch('master/m1', $db));"), "false");
    assert_eq!(masters_of(&fixture, "log"), None, "it was offered once");
    assert_eq!(masters_of(&fixture, "mail").expect("an entry"), ["m2"]);
    assert_eq!(masters_of(&fixture, "news").expect("an entry"), ["m2"]);
    assert_eq!(masters_of(&fixture, "other"), None);
}

#[test]
fn any_name_has_a_key() {
    let fixture = SharedFileFixture::new();
    let mut open = start(&fixture);
    open.settle();
    let long = "x".repeat(2_000);
    let names = ["", "a/b", "#", "quote'\"", "\u{0}\u{1b}", "日本", "../x", &long];
    open.tell(names.iter().map(|name| join(&format!("of {name}"), &[*name])).collect());
    for name in names {
        assert_eq!(masters_of(&fixture, name).expect("an entry"), [format!("of {name}")]);
        let (master, _) = Reader::open(&fixture.file()).and_then(|r| r.master(&format!("of {name}"))).expect("read");
        assert_eq!(master.expect("an entry")["services"][0]["name"], name);
    }
    let key = fixture.php("echo 'service#' . hash('sha256', str_repeat('x', 2000));");
    assert!(fixture.read().of_masters.iter().any(|(found, _)| found == key.as_bytes()));
}

#[test]
fn a_change_of_one_master_writes_that_master_and_its_services() {
    let fixture = SharedFileFixture::new();
    let mut open = start(&fixture);
    open.settle();
    open.tell((0..5_000).map(|n| join(&format!("m{n}"), &[&format!("s{}", n % 500)])).collect());
    fixture.assert_writes_little(|| open.tell(vec![join("m7", &["s7", "new"])]));
}

#[test]
fn masters_leave_room_for_nodes() {
    let mut fixture = SharedFileFixture::new();
    fixture.config.max_size = ByteSize::mib(4);
    let mut open = start(&fixture);
    open.settle();
    open.tell(vec![join("first", &["mail"])]);
    let many: Vec<String> = (0..1_000).map(|n| format!("{n}-{}", "x".repeat(200))).collect();
    let names: Vec<&str> = many.iter().map(String::as_str).collect();
    open.tell((0..20).map(|n| join(&format!("m{n}"), &names)).collect());
    assert_eq!(masters_of(&fixture, "mail").expect("an entry"), ["first"]);
    assert_eq!(freshness(&fixture).origin, Origin::Restored, "they stand as they were");
    open.publish(vec![put("/node", "written")]);
    let status = Reader::open(&fixture.file()).and_then(|reader| reader.status()).expect("a report");
    assert_eq!(status.fresh.revision, open.store.snapshot().revision());
    assert_eq!(&*fixture.read().nodes[&path("/node")].data, b"written");
    assert!(open.shared.writer.trouble().is_some_and(|why| why.contains("shared.max_size")));

    open.tell((0..20).map(|n| leave(&format!("m{n}"))).collect());
    open.shared.writer.retry_at_once();
    open.write();
    assert_eq!(freshness(&fixture).origin, Origin::Live);
    assert_eq!(open.shared.writer.trouble(), None);
}

#[test]
fn masters_that_were_known_stand_until_all_that_live_are_known() {
    let fixture = SharedFileFixture::new();
    let mut open = start(&fixture);
    open.settle();
    open.tell(vec![join("old", &["mail", "gone"]), join("both", &["mail"])]);
    drop(open);
    std::thread::sleep(Duration::from_millis(20));

    for restart in 0..2 {
        let mut open = start(&fixture);
        let expected =
            |open: &Open, id: &str| open.store.snapshot().directory().master(id).map(|it| !it.is_connected());
        assert_eq!(["old", "both"].map(|id| expected(&open, id)), [Some(true); 2]);
        open.store.publisher(1).publish(Batch::settling(true));
        open.tell(vec![join("both", &["mail"]), join("new", &["mail"])]);
        assert_eq!(["old", "both"].map(|id| expected(&open, id)), [Some(true), Some(false)]);
        let told = freshness(&fixture);
        assert_eq!(masters_of(&fixture, "mail").expect("an entry"), ["both", "new", "old"], "restart {restart}");
        assert_eq!((told.origin, told.complete), (Origin::Restored, false));
        assert!(told.age >= Duration::from_millis(20), "{told:?}");
        if restart == 0 {
            continue;
        }
        open.store.publisher(1).publish(Batch::settling(false));
        open.settle();
        let told = freshness(&fixture);
        assert_eq!((told.origin, told.complete), (Origin::Live, true));
    }
    assert_eq!(masters_of(&fixture, "mail").expect("an entry"), ["both", "new"]);
    assert_eq!(masters_of(&fixture, "gone"), None);
    let (old, _) = Reader::open(&fixture.file()).and_then(|reader| reader.master("old")).expect("read");
    assert_eq!(old, None);
}

#[test]
fn before_anything_is_known_of_masters_no_absence_is_an_answer() {
    let fixture = SharedFileFixture::new();
    let mut open = start(&fixture);
    open.write();
    let told = |fixture: &SharedFileFixture| {
        let status = Reader::open(&fixture.file()).and_then(|reader| reader.status()).expect("a report");
        status.sources.into_iter().map(|source| (source.name, source.whole)).collect::<Vec<_>>()
    };
    assert!(told(&fixture).contains(&("register".into(), false)), "{:?}", told(&fixture));
    assert!(!freshness(&fixture).complete);
    open.settle();
    assert!(told(&fixture).contains(&("register".into(), true)), "{:?}", told(&fixture));
    assert!(freshness(&fixture).complete);
}

#[test]
fn after_a_reboot_the_masters_of_the_copy_stand() {
    let fixture = SharedFileFixture::new();
    let mut open = start(&fixture);
    open.settle();
    open.tell(vec![join("old", &["mail"])]);
    copy::copy(&open.env(), &fixture.copy()).expect("copied");
    drop(open);
    fs::remove_file(fixture.file()).expect("a reboot");
    let mut open = start(&fixture);
    open.write();
    assert_eq!(masters_of(&fixture, "mail").expect("an entry"), ["old"]);
    assert_eq!(freshness(&fixture).origin, Origin::Restored);
    open.settle();
    assert_eq!(masters_of(&fixture, "mail"), None);
    fixture.read();
}

#[test]
fn the_masters_of_a_register_that_is_switched_off_are_taken_out() {
    let fixture = SharedFileFixture::new();
    let mut open = start(&fixture);
    open.settle();
    open.tell(vec![join("old", &["mail"])]);
    drop(open);
    fixture.open().sync();
    assert_eq!(fixture.read().of_masters, []);
}

#[test]
fn what_a_register_told_says_nothing_of_the_cluster() {
    let fixture = SharedFileFixture::new();
    start(&fixture).settle();
    let other = || feeds("another").into_iter().chain([Feed::of_instances("register", "register")]).collect::<Vec<_>>();
    assert!(fixture.open_as(other()).shared.left().is_none());
}

/// A register that begins with the content of a file.
fn restored(left: &Contents) -> Restored {
    let mut feeds: Vec<Feed> =
        feeds("cluster").into_iter().chain([Feed::of_instances("register", "register")]).collect();
    left.restore(&mut feeds, SystemTime::now())
}

#[test]
fn a_master_that_cannot_be_read_is_left_out_and_the_others_are_expected_back() {
    let fixture = SharedFileFixture::new();
    let mut open = start(&fixture);
    open.settle();
    open.tell(vec![join("m1", &["mail"]), join("m2", &["mail"])]);
    let mut left = Contents::load(&fixture.file()).expect("it is whole");
    let (id, nested) = (entry::named("master", "bad"), "[".repeat(200) + &"]".repeat(200));
    let bad = format!("{{\"id\":\"bad\",\"services\":[{{\"name\":\"a\",\"metadata\":{nested}}}]}}");
    left.of_masters.push((id, bad.into()));
    let restored = restored(&left);
    let ids: Vec<&str> = restored.directory.masters("").map(|(id, _)| &**id).collect();
    assert_eq!((ids, restored.progress[1].skipped_nodes, restored.progress[0].skipped_nodes), (vec!["m1", "m2"], 1, 0));
}

#[test]
fn services_of_odd_names_and_versions_contradict_nothing_and_are_the_same_after_a_restart() {
    let odd = [
        "mail@99999999999999999999.0.0",
        "mail@1.0.0",
        "mail@18446744073709551615",
        "mail@18446744073709551616",
        "mail@18446744073709551615.18446744073709551615.18446744073709551615",
        "mail@1.0.0-99999999999999999999",
        "mail@1.0.0@2.0.0",
        "mail@1.0.0@1.0.0",
        "mail@99999999999999999999@1",
        "@1.0.0",
        "mail@",
        "1.0.0",
        "",
    ];
    let fixture = SharedFileFixture::new();
    let mut open = start(&fixture);
    open.settle();
    open.tell(vec![join("m1", &odd)]);
    let checked = Reader::open(&fixture.file()).and_then(|reader| reader.check()).expect("it is whole");
    assert_eq!(checked.contradictions, Vec::<String>::new());
    let offered = |directory: &crate::store::Directory| {
        let services = directory.services(None).flat_map(|(name, versions)| {
            versions.iter().map(move |(version, set)| (name.to_string(), version.clone(), set.len()))
        });
        services.collect::<Vec<_>>()
    };
    assert_eq!(offered(&restored(&checked.contents).directory), offered(open.store.snapshot().directory()));
}
