//! What a master can take of a register: of its memory, its work, its log, and the time of its followers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::unistd::Uid;
use rmpv::Value;

use crate::harness::master::{Scripted, field, map, packed, text};

use crate::harness::{SOON, ensure, eventually, is_skipped_without_root};
use crate::idl::{ServiceQuery, TRosterSyncClient};
use crate::register::{Scene, TOKEN};

fn offered(scene: &Scene) -> Vec<String> {
    let masters = scene.masters().expect("masters");
    masters.into_iter().flat_map(|master| master.services).map(|service| service.name).collect()
}

/// So many masters of 64,000 values each.
fn largest_masters(hub: &Scene, count: usize) -> Vec<Scripted> {
    let many = || Value::Array(vec![Value::Nil; 16_000]);
    let join = |_| Scripted::join(hub.port, TOKEN, &["a", "b", "c", "d"].map(|name| (name, many())));
    let masters = (0..count).map(join).collect();
    knows(hub, count as i64, 4);
    masters
}

/// One of 256,000 values, which take more than a piece has.
fn fattest_master(hub: &Scene) -> Scripted {
    let names: Vec<String> = (0..16).map(|number| format!("s{number}")).collect();
    let many = || map([("x", Value::Array(vec![Value::Nil; 16_000]))]);
    let services: Vec<_> = names.iter().map(|name| (name.as_str(), many())).collect();
    let master = Scripted::join(hub.port, TOKEN, &services);
    knows(hub, 1, 16);
    master
}

/// Waits until so many masters are known, which are too large to be told on one page.
fn knows(scene: &Scene, masters: i64, services: i64) {
    eventually("all masters are there", SOON * 4, || {
        let counters = scene.roster.status().counters;
        ensure((counters["masters"], counters["services"]) == (masters, services), format!("{counters:?}"))
    });
}

/// A sidecar that follows the register.
fn following(hub: &Scene) -> Scene {
    let upstream = format!("[[upstream]]\nconnect = \"127.0.0.1:{}\"\ntoken = \"{{folder}}/token\"\n", hub.port);
    let follower = Scene::with(&upstream);
    follower.roster.write("token", &format!("# of the hub\n{TOKEN}\n"));
    follower.roster.process().signal(nix::sys::signal::Signal::SIGHUP);
    follower
}

fn detail(scene: &Scene) -> String {
    let sources = scene.roster.status().sources;
    sources.into_iter().find(|source| source.kind == "register").expect("a register").detail
}

#[test]
fn services_that_are_too_large_are_left_out_and_counted() {
    let scene = Scene::new();
    let large = map([("about", "x".repeat(17_000).into())]);
    let _master = Scripted::join(scene.port, TOKEN, &[("small", Value::Nil), ("large", large)]);
    scene.has(1);
    eventually("the small one is offered", SOON, || {
        let offered = offered(&scene);
        ensure(offered == ["small"], format!("{offered:?}"))
    });
    eventually("it is counted", SOON, || {
        let counters = scene.roster.status().counters;
        let is_small = (1..17_000).contains(&counters["metadataBytes"]);
        ensure(counters["mastersLeftOut"] == 1 && is_small, format!("{counters:?}"))
    });
    eventually("it is told", SOON, || ensure(detail(&scene).contains("left out"), detail(&scene)));
    scene.roster.logs("`large` first");
}

#[test]
fn the_masters_of_one_user_leave_room_for_those_of_others() {
    if is_skipped_without_root() {
        return;
    }
    let scene = Scene::with("max_metadata = \"800KiB\"\nmax_masters = 100");
    let about = || map([("about", "x".repeat(15_000).into())]);
    let _greedy: Vec<_> = (0..60).map(|_| Scripted::join(scene.port, TOKEN, &[("fat", about())])).collect();
    eventually("there is no room for what more of them offer", SOON, || {
        ensure(scene.roster.log().contains("share of register.max_metadata"), scene.roster.log())
    });
    let shown = |mut master: Scripted| {
        master.say(map([("cmd", "auth".into()), ("token", TOKEN.into())]));
        assert_eq!(text(&master.hears().expect("an answer"), "cmd"), "auth-success");
        master.hears().map(|_| master)
    };
    let more: Vec<_> = (0..39).filter_map(|_| shown(Scripted::connect(scene.port))).collect();
    assert_eq!(more.len(), 28, "of 100, seven eighths");
    let mut other = Scripted::connect_as(Uid::from_raw(65_534), scene.port);
    other.say(map([("cmd", "auth".into()), ("token", TOKEN.into())]));
    other.tells(&[("mail", about())]);
    eventually("another user's master is known", SOON, || {
        let mail = ServiceQuery { service_name: Some("mail".to_owned()), ..ServiceQuery::default() };
        let masters = scene.roster.client().masters(mail).map_err(|error| error.to_string())?.masters;
        ensure(masters.len() == 1, format!("{} of them are known", masters.len()))
    });
}

#[test]
fn what_masters_took_is_returned_after_they_have_gone() {
    // They answer no pings, and may take longer than that to be there.
    let scene = Scene::with("max_metadata = \"512MiB\"\nping_interval = \"1h\"");
    let before = scene.roster.own_memory();
    let about = || Value::from("x".repeat(16_000));
    let join = |_| Scripted::join(scene.port, TOKEN, &["a", "b", "c", "d"].map(|name| (name, about())));
    let masters: Vec<_> = (0..400).map(join).collect();
    knows(&scene, 400, 4);
    let most = scene.roster.own_memory();
    assert!(most > before + (16 << 20), "{before} {most}");
    drop(masters);
    eventually("the kernel has it back", SOON * 2, || {
        let now = scene.roster.own_memory();
        ensure(now < before + (most - before) / 2, format!("{before} {most} {now}"))
    });
}

#[test]
fn all_masters_together_offer_no_more_than_there_is_room_for() {
    let scene = Scene::with("max_metadata = \"20KiB\"");
    let about = || map([("about", "x".repeat(12_000).into())]);
    let first = Scripted::join(scene.port, TOKEN, &[("first", about())]);
    scene.has(1);
    let mut second = Scripted::join(scene.port, TOKEN, &[("second", about())]);
    eventually("the second is not known", SOON, || {
        ensure(detail(&scene).contains("no list of services"), detail(&scene))
    });
    assert_eq!(offered(&scene), ["first"]);
    scene.roster.logs("register.max_metadata");
    drop(first);
    scene.has(0);
    second.say(map([("cmd", "register".into())]));
    second.tells(&[("second", about())]);
    scene.has(1);
}

#[test]
fn a_master_whose_services_change_all_the_time_is_asked_ten_times_a_second() {
    let scene = Scene::new();
    let mut master = Scripted::join(scene.port, TOKEN, &[]);
    scene.has(1);
    let begun = Instant::now();
    let mut questions = 0;
    for _ in 0..10 {
        master.write(&packed(&map([("cmd", "register".into())])).repeat(100));
        master.say(map([("cmd", "ping".into()), ("uuid", "mine".into())]));
        loop {
            let message = master.hears().expect("the register is there");
            if let Some(asked) = master.request(&message) {
                questions += 1;
                master.answers(asked.id, [map([("services", Value::Array(Vec::new()))])]);
            }
            if text(&message, "cmd") == "pong" {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // One may have been asked before, as it joined.
    let most = begun.elapsed().as_millis() / 100 + 2;
    assert!((1..=most).contains(&questions), "{questions} questions, at most {most}");
    scene.roster.logs("a master is there");
    assert_eq!(scene.roster.log().matches("a master is there").count(), 1);
}

#[test]
fn a_master_whose_services_change_faster_than_it_answers_is_heard() {
    let scene = Scene::new();
    let mut master = Scripted::join(scene.port, TOKEN, &[]);
    scene.has(1);
    let changed = || map([("cmd", "register".into())]);
    master.say(changed());
    let question = master.asked("list").id;
    master.say(changed());
    let first = map([("first", map([("name", "first".into())]))]);
    master.answers(question, [map([("services", first)])]);
    let offers = |name: &str| {
        let is_offered = || offered(&scene) == [name];
        eventually("what it answered is known", SOON, || ensure(is_offered(), format!("{:?}", offered(&scene))));
    };
    offers("first");
    master.tells(&[("second", Value::Nil)]);
    offers("second");
}

#[test]
fn the_log_holds_few_lines_of_a_kind_and_says_how_many_are_left_out() {
    let scene = Scene::new();
    let begun = Instant::now();
    for _ in 0..100 {
        drop(Scripted::join(scene.port, TOKEN, &[]));
    }
    scene.roster.logs("left out lines of the log");
    let lines = scene.roster.log().matches("a master left").count();
    let most = 10 * (begun.elapsed().as_secs() as usize + 2);
    assert!(lines <= most, "{lines} lines, at most {most}");
}

#[test]
fn followers_are_handed_the_largest_masters_at_their_own_pace() {
    let hub = Scene::new();
    let masters = largest_masters(&hub, 6);
    let follower = following(&hub);
    knows(&follower, masters.len() as i64, 4);
    let log = follower.roster.log();
    assert!(!log.contains("faster than they were taken"), "{log}");
}

#[test]
fn followers_are_handed_a_master_that_is_larger_than_a_piece() {
    let hub = Scene::with("ping_interval = \"1h\"");
    let _master = fattest_master(&hub);
    let follower = following(&hub);
    knows(&follower, 1, 16);
    let log = follower.roster.log();
    assert!(!log.contains("faster than they were taken"), "{log}");
}

#[test]
fn followers_that_take_nothing_make_the_register_keep_no_decoded_master() {
    let hub = Scene::with("ping_interval = \"1h\"");
    let _master = fattest_master(&hub);
    let before = hub.roster.own_memory();
    let subscribe = |_| {
        let mut follower = Scripted::follow(hub.port, TOKEN);
        let (pieces, room) = (("pieces", 1.into()), ("room", Value::from(32 << 20)));
        follower.say(map([("cmd", "subscribe".into()), ("uuid", "u".into()), pieces, room]));
        // The master waits until this is taken.
        while field(field(&follower.hears_command("data"), "data"), "piece").is_nil() {}
        follower
    };
    let _followers: Vec<_> = (0..20).map(subscribe).collect();
    eventually("it keeps none", SOON, || {
        let now = hub.roster.own_memory();
        ensure(now < before + (64 << 20), format!("{before} {now}"))
    });
}

#[test]
fn a_subscriber_is_told_no_more_than_it_has_taken() {
    let hub = Scene::new();
    let masters = largest_masters(&hub, 6);
    let mut follower = Scripted::follow(hub.port, TOKEN);
    follower.say(map([("cmd", "subscribe".into()), ("uuid", "u".into()), ("pieces", 1.into())]));
    let (mut put, mut pieces, mut in_piece) = (0, 0, 0);
    loop {
        let told = follower.hears_command("data");
        let data = field(&told, "data");
        let piece = field(data, "piece");
        if *field(data, "whole") == Value::from(true) {
            break;
        } else if *piece != Value::Nil {
            pieces += 1;
            // Nothing comes until it is taken: the answer to a ping comes first.
            follower.say(map([("cmd", "ping".into()), ("uuid", "mine".into())]));
            loop {
                match text(&follower.hears().expect("a message"), "cmd").as_str() {
                    "pong" => break,
                    other => assert_ne!(other, "data", "more than was taken"),
                }
            }
            in_piece = 0;
            follower.say(map([("cmd", "took".into()), ("piece", piece.clone())]));
        } else if *field(data, "put") != Value::Nil {
            (put, in_piece) = (put + 1, in_piece + 1);
            assert!(in_piece <= 2, "a piece holds too much");
        }
    }
    assert!(put == masters.len() && pieces >= 2, "{put} in {pieces} pieces");
}

#[test]
fn who_floods_the_register_with_pings_is_closed_with_a_reason() {
    let scene = Scene::new();
    let mut stream = TcpStream::connect(("127.0.0.1", scene.port)).expect("it accepts");
    let pings = packed(&map([("cmd", "ping".into()), ("uuid", "mine".into())])).repeat(20_000);
    let auth = packed(&map([("cmd", "auth".into()), ("token", TOKEN.into())]));
    stream.write_all(&auth).expect("it reads");
    // It may close before it has read all.
    let _ = stream.write_all(&pings);
    eventually("the log says why", SOON, || ensure(scene.roster.log().contains("a master left"), scene.roster.log()));
    let log = scene.roster.log();
    let line = log.lines().find(|line| line.contains("a master left")).expect("a line");
    assert!(line.contains("the other end"), "{line}");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    Scripted::join(scene.port, TOKEN, &[]);
}

#[test]
fn what_no_master_may_ask_is_refused_and_what_is_no_message_is_passed_over() {
    let scene = Scene::new();
    let mut master = Scripted::join(scene.port, TOKEN, &[]);
    let odd = Value::Map(vec![(Value::Nil, 1.into()), ("cmd".into(), "remove".into())]);
    master.say(odd);
    master.say(Value::Array(vec![1.into()]));
    master.say(map([
        ("cmd", "callback".into()),
        ("uuid", "mine".into()),
        ("data", map([("serialized", "O:8:\"stdClass\":0:{}".into())])),
    ]));
    let answer = master.hears_command("error");
    assert_eq!(
        (text(&answer, "uuid").as_str(), text(field(&answer, "data"), "message").as_str()),
        ("mine", "callback not allowed")
    );
    scene.has(1);
}

#[test]
fn a_master_whose_new_offer_has_no_room_stays_as_it_was_whatever_its_process_is_called_now() {
    let scene = Scene::with("max_metadata = \"20KiB\"");
    let mut master = Scripted::join(scene.port, TOKEN, &[("mail", Value::Array(Vec::new()))]);
    let before = scene.has(1);
    master.say(map([("cmd", "register".into())]));
    let service = |name: &str| {
        let metadata = map([("large", "x".repeat(15 << 10).into())]);
        (name.into(), map([("name", name.into()), ("metadata", metadata)]))
    };
    let services = Value::Map(["mail", "log"].map(service).into());
    let question = master.asked("list");
    master.answers(question.id, [map([("id", "f".repeat(32).into()), ("services", services)])]);
    eventually("it is refused", SOON, || {
        let log = scene.roster.log();
        ensure(log.contains("register.max_metadata"), log)
    });
    assert_eq!(scene.has(1), before);
}
