//! Sidecars that follow registers, and join and leave others when these tell them to.

use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{iter, thread};

use nix::sys::signal::Signal;
use rmpv::Value;

use crate::harness::master::{Scripted, field, map, text};
use crate::harness::{Link, SOON, ensure, eventually, free_port};
use crate::idl::{BroadcastRequest, Call, ServiceQuery, SourceStatus, TRosterSyncClient};
use crate::masters::Php;
use crate::register::{Scene, TOKEN};

/// A sidecar that follows a register, with more settings of `[[upstream]]`.
pub(crate) fn following(port: u16, settings: &str) -> Scene {
    let scene = Scene::with(&upstream(port, settings));
    scene.roster.write("hub-token", TOKEN);
    scene.roster.process().signal(Signal::SIGHUP);
    let live = || sources(&scene).into_iter().any(|source| source.name == "upstream" && source.state == "live");
    eventually("it follows", SOON, || ensure(live(), format!("{:?}", sources(&scene))));
    scene
}

fn upstream(port: u16, settings: &str) -> String {
    let join = if settings.contains("join") { "" } else { "join = [\"*\"]\n" };
    format!("[[upstream]]\nconnect = \"127.0.0.1:{port}\"\ntoken = \"{{folder}}/hub-token\"\n{join}{settings}\n")
}

fn sources(scene: &Scene) -> Vec<SourceStatus> {
    scene.roster.status().sources
}

fn learned(scene: &Scene) -> Vec<String> {
    sources(scene).into_iter().filter(|source| source.kind == "learned").map(|source| source.name).collect()
}

fn mail(port: u16) -> Scripted {
    Scripted::join(port, TOKEN, &[("mail", Value::Array(Vec::new()))])
}

fn told(hub: &Scene, command: &str, ports: &[u16]) -> String {
    let registers: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    hub.roster.cli(["registers", command].into_iter().chain(registers.iter().map(String::as_str))).text()
}

#[test]
fn a_sidecar_joins_a_register_and_leaves_it_when_its_upstream_says_so() {
    let (hub, other) = (Scene::new(), Scene::new());
    let beside = following(hub.port, "");
    let mut master = mail(other.port);
    let id = other.has(1)[0].id.clone();
    assert_eq!(told(&hub, "add", &[other.port]), "told 1 master or sidecar\n");
    assert_eq!(beside.has(1)[0].id, id);
    let name = format!("upstream/127.0.0.1:{}", other.port);
    assert_eq!(learned(&beside), [&*name]);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| beside.call("mail", "send", "[]"));
        let asked = master.asked("call");
        master.answers(asked.id, [42.into()]);
        assert_eq!(call.join().expect("the caller").expect("a result").values, [b"42".to_vec()]);
    });
    // It is there already.
    told(&hub, "add", &[other.port]);
    let _second = mail(other.port);
    beside.has(2);
    assert_eq!(learned(&beside), [&*name]);
    told(&hub, "remove", &[other.port]);
    beside.has(0);
    eventually("it is left", SOON, || ensure(learned(&beside).is_empty(), format!("{:?}", learned(&beside))));
    other.has(2);
    told(&hub, "add", &[other.port]);
    beside.has(2);
}

#[test]
fn a_sidecar_moves_from_one_register_to_another_and_back_on_a_reload() {
    let (hub, other) = (Scene::new(), Scene::new());
    let beside = following(hub.port, "");
    let (_here, _there) = (mail(hub.port), mail(other.port));
    beside.has(1);
    told(&hub, "add", &[other.port]);
    beside.has(2);
    told(&hub, "remove", &[hub.port]);
    assert_eq!(beside.has(1)[0].id, other.has(1)[0].id);
    let left = || sources(&beside).into_iter().find(|source| source.name == "upstream").expect("a source");
    assert!(left().detail.starts_with("left") && left().age_ms == Some(0), "{:?}", left());
    beside.roster.process().signal(Signal::SIGHUP);
    beside.has(2);
    eventually("it is followed again", SOON, || ensure(left().detail.is_empty(), left().detail));
}

#[test]
fn what_is_joined_is_bounded_and_a_wrong_address_makes_no_answer_worse() {
    let hub = Scene::new();
    let beside = following(hub.port, "max_learned = 2");
    let _master = mail(hub.port);
    beside.has(1);
    let nobody = [free_port(), free_port(), free_port()];
    told(&hub, "add", &nobody);
    eventually("so many are tried", SOON, || {
        let all = sources(&beside);
        let tried = all.iter().filter(|it| it.kind == "learned" && it.detail.contains("cannot reach"));
        ensure(tried.count() == 2, format!("{all:?}"))
    });
    beside.roster.logs("max_learned");
    beside.has(1);
    // Where a wrong address made it old, it would stay so.
    eventually("no answer is worse", SOON, || {
        let (age, status) = (beside.roster.status().freshness.age_ms, beside.roster.cli(["status"]).text());
        ensure(age == 0 && status.contains("   in sync\n"), status)
    });
    told(&hub, "remove", &nobody);
    eventually("they are left", SOON, || ensure(learned(&beside).is_empty(), format!("{:?}", learned(&beside))));
}

#[test]
fn the_deepest_metadata_that_may_be_are_read_everywhere_and_end_no_connection() {
    let mut hub = Scene::with("max_depth = 127\nsettle = \"60s\"\n");
    let beside = following(hub.port, "");
    let deep = (0..122).fold(Value::from("inmost"), |value, _| map([("deeper", value)]));
    let master = Scripted::join(hub.port, TOKEN, &[("mail", deep)]);
    let is_read = |scene: &Scene| {
        assert!(scene.has(1)[0].services[0].metadata.contains("inmost"));
        for command in [&["masters", "-o", "json"][..], &["services", "mail", "-o", "json"]] {
            assert!(scene.roster.cli(command).text().contains("inmost"), "{command:?}");
        }
        let code = "$db = dba_open($argv[1], 'r', 'lmdb'); $all = json_decode(dba_fetch('service/mail', $db), true); \
                    array_walk_recursive($all, fn ($value) => print($value === 'inmost' ? 'read' : ''));";
        eventually("PHP reads it in the file", SOON, || {
            let php = Command::new("php").args(["-r", code]).arg(scene.roster.shared_file()).output().expect("PHP");
            ensure(php.stdout == b"read", format!("{php:?}"))
        });
        scene.roster.is_in_its_file();
    };
    is_read(&hub);
    is_read(&beside);
    hub.roster.kill();
    drop(master);
    hub.roster.run();
    is_read(&hub);
    assert!(!hub.roster.log().contains("cannot be read"), "{}", hub.roster.log());
    assert_eq!(sources(&beside).iter().map(|source| source.skipped_nodes).sum::<i64>(), 0);
}

#[test]
fn a_register_that_tells_of_too_many_masters_is_not_followed() {
    let hub = Scene::new();
    let beside = following(hub.port, "max_masters = 1");
    let _one = mail(hub.port);
    beside.has(1);
    let two = mail(hub.port);
    let told = || sources(&beside).into_iter().find(|source| source.name == "upstream").expect("a source").detail;
    eventually("that is told", SOON, || ensure(told().contains("max_masters"), told()));
    beside.has(1);
    drop(two);
    eventually("it is followed again", SOON, || ensure(told().is_empty(), told()));
}

#[test]
fn calls_through_an_upstream_may_finish_when_either_sidecar_stops() {
    for stops_hub in [false, true] {
        let patience = "[sidecar]\nstop_timeout = \"60s\"";
        let hub = Scene::with(patience);
        let beside = following(hub.port, patience);
        let mut master = mail(hub.port);
        beside.has(1);
        std::thread::scope(|scope| {
            let call = scope.spawn(|| {
                beside.roster.client().call(Call { timeout_ms: Some(60_000), ..Call::of("mail", "send", "[]") })
            });
            let asked = master.asked("call");
            let stopping = if stops_hub { &hub } else { &beside };
            stopping.roster.process().signal(Signal::SIGTERM);
            let stops = || stopping.roster.log();
            eventually("it stops", SOON, || ensure(stops().contains("stopping"), stops()));
            master.answers(asked.id, [42.into()]);
            assert_eq!(call.join().expect("the caller").expect("a result").values, [b"42".to_vec()]);
        });
    }
}

#[test]
fn a_master_of_two_registers_that_follow_each_other_is_gone_from_both_when_it_is_gone() {
    let port = free_port();
    let one = Scene::with(&upstream(port, ""));
    let other = Scene::with(&upstream(one.port, ""));
    other
        .roster
        .configure(&format!("listen = \"127.0.0.1:{}\"", other.port), &format!("listen = \"127.0.0.1:{port}\""));
    let mut other = Scene { port, ..other };
    for scene in [&one, &other] {
        scene.roster.write("hub-token", TOKEN);
    }
    other.roster.kill();
    other.roster.run();
    one.roster.process().signal(Signal::SIGHUP);
    for scene in [&one, &other] {
        let live = || sources(scene).into_iter().any(|source| source.name == "upstream" && source.state == "live");
        eventually("it follows", SOON, || ensure(live(), format!("{:?}", sources(scene))));
    }
    let join = |port: u16| {
        let mut master = Scripted::connect(port);
        master.say(map([("cmd", "auth".into()), ("token", TOKEN.into()), ("id", "the-same".into())]));
        master.tells(&[]);
        master
    };
    let masters = [join(one.port), join(other.port)];
    let ways = |scene: &Scene| scene.masters().map(|masters| masters.first().map_or(0, |master| master.routes));
    for scene in [&one, &other] {
        eventually("there are two ways", SOON, || ensure(ways(scene)? == 2, format!("{:?}", scene.masters())));
    }
    drop(masters);
    one.has(0);
    other.has(0);
}

#[test]
fn a_register_that_is_found_again_is_counted_once_and_its_first_finding_not_at_all() {
    let hub = Scene::new();
    let line = Link::to(format!("127.0.0.1:{}", hub.port));
    line.cut();
    let beside = Scene::with(&upstream(line.address().port(), ""));
    beside.roster.write("hub-token", TOKEN);
    beside.roster.process().signal(Signal::SIGHUP);
    let own = || sources(&beside).into_iter().find(|source| source.name == "upstream").expect("an upstream");
    let becomes = |state: &str, why: &str| {
        let is_so = || own().state == state && own().detail.contains(why);
        eventually(&format!("it is {state}"), SOON, || ensure(is_so(), format!("{:?}", own())));
    };
    for (found_again, state) in [(0, "connecting"), (1, "down")] {
        becomes(state, "cannot reach");
        line.mend();
        becomes("live", "");
        assert_eq!(own().reconnects, found_again);
        line.cut();
    }
}

/// A sidecar, the scripted register that it follows, and the uuid of its subscription.
fn following_a_script() -> (Scene, Scripted, String) {
    following_a_script_with("")
}

fn following_a_script_with(settings: &str) -> (Scene, Scripted, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let scene = Scene::with(&upstream(listener.local_addr().expect("an address").port(), settings));
    scene.roster.write("hub-token", TOKEN);
    scene.roster.process().signal(Signal::SIGHUP);
    let mut hub = Scripted::over(listener.accept().expect("a sidecar").0);
    hub.hears_command("auth");
    hub.say(map([("cmd", "auth-success".into())]));
    let uuid = text(&hub.hears_command("subscribe"), "uuid");
    (scene, hub, uuid)
}

#[test]
fn a_master_that_offers_more_than_one_may_is_left_out_and_the_others_are_there() {
    let (scene, mut hub, uuid) = following_a_script();
    let mut tell = |key, value: Value| {
        hub.say(map([("cmd", "data".into()), ("uuid", uuid.as_str().into()), ("data", map([(key, value)]))]));
    };
    let put = |id: &str, services: usize| {
        let service = |number| map([("name", format!("service-{number}").into())]);
        let services = Value::Array((0..services).map(service).collect());
        map([("id", id.into()), ("address", "there".into()), ("connectedAt", 0.into()), ("services", services)])
    };
    tell("put", put("large", 1_025));
    tell("put", put("larger", 2_000));
    tell("put", put("largest that may be", 1_024));
    tell("whole", true.into());
    assert_eq!(scene.has(1)[0].id, "largest that may be");
    tell("put", put("large", 1_025));
    tell("put", put("last", 1));
    scene.has(2);
    let upstream = || sources(&scene).into_iter().find(|source| source.name == "upstream").expect("an upstream");
    let masters = || scene.roster.client().masters(ServiceQuery::default()).expect("masters");
    let is_left_out = |count: i64, named: &str| {
        eventually(&format!("{count} are left out"), SOON, || {
            let (source, complete) = (upstream(), masters().freshness.complete);
            let is_so = source.skipped_nodes == count && source.detail.contains(named) && complete == (count == 0);
            ensure(is_so, format!("{source:?} {complete}"))
        });
    };
    is_left_out(2, "\"large\": it offers more than 1024 services, \"larger\"");
    // What is no master, or has services that are none.
    let odd = |at: Value, services: Value| map([("id", "odd".into()), ("connectedAt", at), ("services", services)]);
    tell("put", odd((1_u64 << 63).into(), Value::Array(vec![])));
    is_left_out(3, "\"odd\": error while decoding value: invalid value: integer `9223372036854775808`");
    tell("put", odd(1.into(), Value::Array(vec![7.into(), 8.into(), map([("name", "mail".into())])])));
    is_left_out(4, "\"odd\": 2 of its services");
    let nested = (0..200).fold(Value::Nil, |value, _| Value::Array(vec![value]));
    tell("put", odd(1.into(), Value::Array(vec![map([("name", "deep".into()), ("metadata", nested)])])));
    is_left_out(3, "\"odd\": 1 of its services, `deep` first");
    tell("leftOut", "too deep for its register".into());
    is_left_out(4, "");
    for id in ["large", "larger", "odd", "too deep for its register"] {
        tell("drop", id.into());
    }
    is_left_out(0, "");
    assert_eq!(scene.roster.log().matches("more than 1024 services").count(), 1, "{}", scene.roster.log());
}

#[test]
fn a_master_whose_id_or_address_is_too_long_is_left_out_and_what_its_id_takes_is_counted() {
    let (scene, mut hub, uuid) = following_a_script_with("max_metadata = \"64KiB\"");
    let mut tell = |key, value: Value| {
        hub.say(map([("cmd", "data".into()), ("uuid", uuid.as_str().into()), ("data", map([(key, value)]))]));
    };
    let put = |id: String, address: String| {
        map([
            ("id", id.into()),
            ("address", address.into()),
            ("connectedAt", 0.into()),
            ("services", Value::Array(Vec::new())),
        ])
    };
    tell("put", put("x".repeat(4_097), "there".into()));
    tell("put", put("far".into(), "x".repeat(257)));
    tell("put", put("x".repeat(4_096), "x".repeat(256)));
    tell("whole", true.into());
    assert_eq!(scene.has(1)[0].id.len(), 4_096);
    let log = scene.roster.log();
    assert!(log.contains("its id has more than 4096 bytes"), "{log}");
    // The last of them is beyond the bound, after which nobody listens.
    for number in 10..25 {
        tell("put", put(format!("{number}{}", "x".repeat(4_094)), "there".into()));
    }
    // In the log, since its detail is soon that nobody can be reached.
    let is_too_much = |log: &String| log.contains("more metadata than max_metadata allows");
    eventually("it is too much", SOON, || Some(scene.roster.log()).filter(is_too_much).ok_or("it is not"));
}

#[test]
fn a_register_that_never_ends_settling_is_waited_for_no_longer_than_settle() {
    let (scene, mut hub, uuid) = following_a_script_with("settle = \"8s\"");
    let mut report = |key, value: Value| {
        hub.say(map([("cmd", "data".into()), ("uuid", uuid.as_str().into()), ("data", map([(key, value)]))]));
    };
    let put = |id: &str, more: Option<(&str, Value)>| {
        let services = Value::Array(vec![map([("name", "mail".into())])]);
        let fields =
            [("id", id.into()), ("address", "there".into()), ("connectedAt", 0.into()), ("services", services)];
        Value::Map(fields.into_iter().chain(more).map(|(key, value)| (key.into(), value)).collect())
    };
    let expected = || Some(("expected", true.into()));
    let all = || ServiceQuery::default();
    let is_complete = || scene.roster.client().masters(all()).expect("an answer").freshness.complete;
    report("settling", true.into());
    report("put", put("here", None));
    report("put", put("gone", expected()));
    report("whole", true.into());
    scene.has(2);
    assert!(!is_complete(), "the absence of others is none while the register settles");
    assert_eq!(scene.has(1)[0].id, "here");
    eventually("absences are answers", SOON, || ensure(is_complete(), "not yet"));
    assert!(scene.roster.log().contains("longer than `settle`"), "{}", scene.roster.log());
    // Whatever it goes on to say of it.
    report("settling", true.into());
    report("put", put("gone too", expected()));
    report("put", put("there", None));
    assert_eq!(scene.has(2).iter().map(|master| &*master.id).collect::<Vec<_>>(), ["here", "there"]);
    assert!(is_complete());
}

#[test]
fn that_a_register_refuses_a_command_is_told_with_its_reason() {
    let (scene, mut hub, _uuid) = following_a_script();
    hub.say(map([("cmd", "refused".into()), ("why", "only root may".into())]));
    scene.roster.logs("only root may");
}

#[test]
fn a_register_that_only_shows_life_proves_nothing() {
    let (scene, mut hub, uuid) = following_a_script();
    let told = |key, value: Value| {
        map([("cmd", "data".into()), ("uuid", uuid.as_str().into()), ("data", map([(key, value)]))])
    };
    hub.say(told("whole", true.into()));
    let (proves, over) = (AtomicBool::new(true), AtomicBool::new(false));
    let upstream = || sources(&scene).into_iter().find(|source| source.name == "upstream").expect("an upstream");
    let age = || upstream().age_ms.unwrap_or(-1);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let Some(message) = hub.hears() else { return };
                match text(&message, "cmd").as_str() {
                    "ping" => hub.say(map([("cmd", "pong".into()), ("uuid", text(&message, "uuid").into())])),
                    "prove" if proves.load(Ordering::Relaxed) => {
                        hub.say(told("proven", field(&message, "at").clone()));
                    }
                    _ => {}
                }
            }
            hub.say(told("reset", true.into()));
        });
        eventually("it is fresh", SOON, || ensure(age() == 0, format!("{:?}", upstream())));
        proves.store(false, Ordering::Relaxed);
        eventually("it grows old", SOON, || ensure(age() > 0, format!("{:?}", upstream())));
        assert_eq!(upstream().state, "live");
        proves.store(true, Ordering::Relaxed);
        eventually("it is fresh again", SOON, || ensure(age() == 0, format!("{:?}", upstream())));
        over.store(true, Ordering::Relaxed);
        let syncing = || upstream().state == "syncing";
        eventually("it reads anew", SOON, || ensure(syncing(), format!("{:?}", upstream())));
    });
}

#[test]
fn a_register_proves_what_it_has_told_before() {
    let hub = Scene::new();
    let _mail = mail(hub.port);
    hub.has(1);
    let mut follower = Scripted::follow(hub.port, TOKEN);
    follower.say(map([("cmd", "subscribe".into()), ("uuid", "all".into())]));
    follower.say(map([("cmd", "prove".into()), ("at", 7.into())]));
    let told = iter::from_fn(|| Some(field(&follower.hears_command("data"), "data").clone()));
    let told: Vec<_> = told.take_while(|told| field(told, "proven").is_nil()).collect();
    assert!(told.iter().any(|told| !field(told, "whole").is_nil()), "{told:?}");
}

#[test]
fn a_follower_is_asked_for_no_services_and_one_of_an_older_version_is_one_when_it_subscribes() {
    let hub = Scene::new();
    let mut master = mail(hub.port);
    let id = hub.has(1)[0].id.clone();
    let mut newer = Scripted::follow(hub.port, TOKEN);
    // A register's question would come before the answer.
    newer.say(map([("cmd", "ping".into()), ("uuid", "mine".into())]));
    assert_eq!(text(&newer.hears().expect("an answer"), "cmd"), "pong");

    let mut older = Scripted::connect(hub.port);
    older.say(map([("cmd", "auth".into()), ("token", TOKEN.into()), ("native", 1.into())]));
    let uuid = text(&older.hears_command("list"), "uuid");
    older.say(map([("cmd", "subscribe".into()), ("uuid", "all".into()), ("pieces", 1.into())]));
    let error = map([("message", "a subscriber, which offers nothing".into())]);
    older.say(map([("cmd", "error".into()), ("uuid", uuid.into()), ("data", error)]));
    for mut follower in [newer, older] {
        let name = |name: &str| map([("cmd", name.into())]);
        // Neither is a master, whatever it sends besides.
        ["register", "remove", "novel"].into_iter().for_each(|it| follower.say(name(it)));
        follower.say(map([("cmd", "send-to".into()), ("master", id.as_str().into()), ("message", name("own"))]));
        master.hears_command("own");
    }
    assert_eq!(hub.has(1)[0].id, id);
}

#[test]
fn who_has_offered_services_is_a_master_and_no_follower_whatever_it_announces() {
    let hub = Scene::new();
    let mut master = Scripted::connect(hub.port);
    master.say(map([("cmd", "auth".into()), ("token", TOKEN.into()), ("native", 1.into())]));
    let uuid = text(&master.hears_command("list"), "uuid");
    let services = map([("mail", map([("name", "mail".into())]))]);
    master.say(map([("cmd", "data".into()), ("uuid", uuid.as_str().into()), ("data", services)]));
    master.say(map([("cmd", "end".into()), ("uuid", uuid.into())]));
    hub.has(1);
    master.say(map([("cmd", "subscribe".into()), ("uuid", "all".into()), ("pieces", 1.into())]));
    // What it is answered would come before this.
    master.say(map([("cmd", "ping".into()), ("uuid", "mine".into())]));
    let heard = iter::from_fn(|| Some(text(&master.hears().expect("an answer"), "cmd")));
    let heard: Vec<_> = heard.take_while(|command| command != "pong").collect();
    assert!(!heard.contains(&"data".to_owned()), "{heard:?}");
    assert_eq!(hub.has(1)[0].services[0].name, "mail");
}

#[test]
fn masters_that_a_stopping_register_closes_are_not_gone_for_those_who_follow_it() {
    const COUNT: usize = 50;
    let mut hub = Scene::new();
    let beside = following(hub.port, "");
    let _masters: Vec<_> = (0..COUNT).map(|_| mail(hub.port)).collect();
    beside.has(COUNT);
    assert!(hub.roster.stop().success());
    let down = || sources(&beside).into_iter().any(|source| source.name == "upstream" && source.state == "down");
    eventually("the register is lost", SOON, || ensure(down(), format!("{:?}", sources(&beside))));
    assert_eq!(beside.masters().expect("an answer").len(), COUNT);
}

#[test]
fn a_process_of_php_at_two_registers_that_a_sidecar_follows_is_one_master() {
    let (one, other) = (Scene::new(), Scene::new());
    let beside =
        Scene::with(&format!("{}{}", upstream(one.port, "name = \"one\""), upstream(other.port, "name = \"other\"")));
    beside.roster.write("hub-token", TOKEN);
    beside.roster.process().signal(Signal::SIGHUP);
    let php = Php::start(one.port, "", &[]);
    let id = one.has(1)[0].id.clone();
    told(&one, "add", &[other.port]);
    assert_eq!(other.has(1)[0].id, id, "it has one id everywhere");
    assert_eq!(beside.has(1)[0].id, id);
    let mut client = beside.roster.client();
    let outcomes = client
        .call_all(Call { timeout_ms: Some(20_000), ..Call::of("control", "pid", "[]") })
        .expect("outcomes")
        .outcomes;
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    assert!(outcomes[0].result.is_some() && outcomes[0].master_id.as_deref() == Some(&*id), "{outcomes:?}");
    let sent = client.broadcast(BroadcastRequest::new(br#"{"cmd":"reload"}"#.to_vec(), None)).expect("sent");
    assert_eq!((sent.masters, sent.passed), (0, Some(1)), "only its registers reach it");
    php.says("command: {\"cmd\":\"reload\"}");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(php.said().matches("reload").count(), 1, "{}", php.said());
    // It is there by the other way as long as it is at either.
    drop(one);
    assert_eq!(beside.has(1)[0].id, id);
}
