//! What masters send to the register of their own accord: kept for a while, given to those who may see them.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rmpv::Value;
use serde_json::{Value as Json, json};

use crate::harness::master::{Scripted, map, text};
use crate::harness::{Dialect, Printing, SOON, ensure, eventually, exception};
use crate::idl::{
    AccessDenied, BroadcastRequest, Encoding, InvalidRequest, MessagesReply, TRosterSyncClient, WatchMessagesRequest,
};
use crate::masters::{Php, gives, offers};
use crate::register::{Scene, TOKEN};

fn messages(scene: &Scene, since: i64, timeout_ms: i32) -> MessagesReply {
    scene.roster.client().watch_messages(WatchMessagesRequest::new(since, timeout_ms, None, None)).expect("an answer")
}

fn contents(reply: &MessagesReply) -> Vec<Json> {
    reply.messages.iter().map(|it| serde_json::from_slice(&it.message).expect("JSON")).collect()
}

fn note(number: u64) -> Value {
    map([("cmd", "note".into()), ("n", number.into())])
}

/// Waits until the last message that is kept is this note.
fn has_come(scene: &Scene, number: u64) {
    eventually("the note has come", SOON, || {
        let last = contents(&messages(scene, 0, 0)).pop();
        ensure(last.as_ref().is_some_and(|last| last["n"] == number), format!("{last:?}"))
    });
}

#[test]
fn what_a_master_of_php_sends_reaches_who_watches_by_thrift_and_the_command_line() {
    let scene = Scene::new();
    let _php = Php::start(scene.port, "", &[]);
    offers(&scene, &["control", "demo"]);
    let master = scene.masters().expect("masters").remove(0).id;
    let announce = |message: Json| gives(&scene, "control", "announce", json!([message]));
    let watch = Printing::start(&mut scene.roster.command(["watch", "--messages", "-o", "json"]));
    let since = messages(&scene, 0, 0).cursor;
    assert!(contents(&messages(&scene, since, 100)).is_empty(), "nothing was sent");
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| messages(&scene, since, 20_000));
        announce(json!({"cmd": "deployed", "build": [7, "\u{e4}"]}));
        waiting.join().expect("a reply")
    });
    let expected = json!({"cmd": "deployed", "build": [7, "\u{e4}"]});
    assert_eq!((contents(&waiting), waiting.missed, waiting.reset), (vec![expected.clone()], 0, false));
    assert_eq!(waiting.messages[0].master_id, master);
    let printed: Json = serde_json::from_str(&watch.line()).expect("JSON");
    assert_eq!((&printed["kind"], &printed["masterId"]), (&json!("MESSAGE"), &json!(master)));
    assert_eq!(printed["message"], expected);
    // What is the register's own business is none of the application's.
    announce(json!({"cmd": "register"}));
    announce(json!({"cmd": "after"}));
    assert_eq!(contents(&messages(&scene, waiting.cursor, 20_000)), [json!({"cmd": "after"})]);
    announce(json!({"cmd": "late"}));
    let table = Printing::start(&mut scene.roster.command(["watch", "--messages"]));
    assert!(
        table.line().contains("MESSAGE") && table.line().contains(r#"{"cmd":"after"}"#),
        "those that are kept first"
    );
}

#[test]
fn who_falls_behind_learns_how_many_messages_are_missed_and_after_a_restart_that_nobody_knows() {
    let mut scene = Scene::new();
    let mut master = Scripted::join(scene.port, TOKEN, &[("mail", Value::Array(Vec::new()))]);
    scene.has(1);
    let since = messages(&scene, 0, 0).cursor;
    (1..=300).for_each(|number| master.say(note(number)));
    has_come(&scene, 300);
    let behind = messages(&scene, since, 0);
    assert_eq!((behind.messages.len(), behind.missed), (256, 44));
    assert_eq!(contents(&behind)[0]["n"], 45);
    assert_eq!(messages(&scene, behind.cursor, 0).missed, 0, "it is reported once");
    assert!(scene.roster.status().counters["memoryCharged"] > 256 * 256, "{:?}", scene.roster.status().counters);
    scene.roster.stop();
    scene.roster.run();
    let restarted = messages(&scene, behind.cursor, 20_000);
    assert!(restarted.reset && restarted.messages.is_empty() && restarted.cursor > behind.cursor, "{restarted:?}");
    let mut client = scene.roster.client();
    exception::<InvalidRequest>(client.watch_messages(WatchMessagesRequest::new(-1, 0, None, None)))
        .expect("no cursor");
}

#[test]
fn a_message_that_json_does_not_have_is_missed_there_and_the_next_arrives() {
    let scene = Scene::new();
    let mut master = Scripted::join(scene.port, TOKEN, &[("mail", Value::Array(Vec::new()))]);
    scene.has(1);
    master.say(map([("cmd", "odd".into()), ("x", f64::NAN.into())]));
    master.say(note(1));
    has_come(&scene, 1);
    let reply = messages(&scene, 0, 0);
    assert_eq!((contents(&reply), reply.missed), (vec![json!({"cmd": "note", "n": 1})], 1));
    let packed = scene
        .roster
        .client()
        .watch_messages(WatchMessagesRequest::new(0, 0, None, Encoding::MSGPACK))
        .expect("an answer");
    assert_eq!((packed.messages.len(), packed.missed), (2, 0));
}

#[test]
fn a_client_is_given_the_messages_of_masters_that_it_may_see_and_no_others() {
    let scene = Scene::new();
    let mut mail = Scripted::join(scene.port, TOKEN, &[("mail", Value::Array(Vec::new()))]);
    let mut billing = Scripted::join(scene.port, TOKEN, &[("billing", Value::Array(Vec::new()))]);
    scene.has(2);
    mail.say(note(1));
    has_come(&scene, 1);
    billing.say(note(2));
    has_come(&scene, 2);
    let over_tcp = |rules: &str| {
        let config = std::fs::read_to_string(scene.roster.config()).expect("a configuration");
        let own = config.split("\n[[allow]]").next().expect("a beginning");
        let everyone = "\n[[allow]]\nuser = \"*\"\nread = [\"/\", \"*\"]\nwatch = true\n";
        std::fs::write(scene.roster.config(), format!("{own}{everyone}{rules}")).expect("a file");
        let since = scene.roster.log().matches("access rules").count();
        scene.roster.process().signal(Signal::SIGHUP);
        eventually("the rules are read", SOON, || {
            ensure(scene.roster.log().matches("access rules").count() > since, scene.roster.log())
        });
        Dialect::ALL[0].tcp(scene.roster.port()).expect("a connection")
    };
    let mut client = over_tcp("[[allow]]\ntcp = true\nread = [\"mail\"]\nwatch = true\n");
    let reply = client.watch_messages(WatchMessagesRequest::new(0, 0, None, None)).expect("an answer");
    assert_eq!(contents(&reply), [json!({"cmd": "note", "n": 1})]);
    let begun = Instant::now();
    let waited = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            billing.say(note(3));
        });
        client.watch_messages(WatchMessagesRequest::new(reply.cursor, 1_000, None, None)).expect("an answer")
    });
    assert!(waited.messages.is_empty() && begun.elapsed() >= Duration::from_millis(900), "{waited:?}");
    for rules in ["read = [\"mail\"]", "read = [\"/\"]\nwatch = true"] {
        let mut client = over_tcp(&format!("[[allow]]\ntcp = true\n{rules}\n"));
        exception::<AccessDenied>(client.watch_messages(WatchMessagesRequest::new(0, 0, None, None)))
            .expect("it is denied");
    }
}

#[test]
fn a_master_may_name_its_messages_as_the_upstream_protocol_names_its_own() {
    let scene = Scene::new();
    let mut mail = Scripted::join(scene.port, TOKEN, &[("mail", Value::Array(Vec::new()))]);
    let id = scene.has(1)[0].id.clone();
    let mut native = Scripted::connect(scene.port);
    native.say(map([("cmd", "auth".into()), ("token", TOKEN.into()), ("native", 1.into()), ("id", "native".into())]));
    let uuid = text(&native.hears_command("list"), "uuid");
    native.say(map([("cmd", "end".into()), ("uuid", uuid.into())]));
    scene.has(2);
    let verbs = ["subscribe", "prove", "took", "call-on", "send-to", "refused"];
    for verb in verbs {
        for master in [&mut mail, &mut native] {
            let message = map([("cmd", "never".into())]);
            let fields =
                [("cmd", verb.into()), ("uuid", "u".into()), ("master", id.as_str().into()), ("message", message)];
            master.say(map(fields));
        }
        eventually("both have come", SOON, || {
            let count = contents(&messages(&scene, 0, 0)).iter().filter(|it| it["cmd"] == verb).count();
            ensure(count == 2, format!("{count} of {verb}"))
        });
    }
    // And what masters are sent may be named so.
    scene
        .roster
        .client()
        .broadcast(BroadcastRequest::new(br#"{"cmd":"subscribe","uuid":"u"}"#.to_vec(), None))
        .expect("sent");
    loop {
        match text(&mail.hears().expect("a command"), "cmd").as_str() {
            "subscribe" => break,
            "never" => panic!("one master commands another"),
            _ => {}
        }
    }
    assert!(scene.has(2).iter().any(|it| it.id == id && it.services.len() == 1), "it is a master as before");
}
