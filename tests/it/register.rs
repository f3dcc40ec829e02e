//! The register: scripted masters that speak exactly as PHP's do.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use rmpv::Value;

use crate::harness::master::{Scripted, field, map, packed, text};
use crate::harness::{
    Dialect, Ended, Link, Over, Roster, SOON, binary, ensure, eventually, exception, free_port,
    is_skipped_without_root, offering,
};
use crate::idl::{
    BroadcastRequest, Call, CallFailed, CallResult, CallsRequest, InvalidRequest, Master, NoMaster, ServiceQuery,
    TRosterSyncClient,
};

pub(crate) const TOKEN: &str = "register-center-token-2024";

/// A sidecar with a register on a port of its own.
pub(crate) struct Scene {
    pub(crate) roster: Roster,
    pub(crate) port: u16,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// With more settings of the register, in TOML.
    pub(crate) fn with(settings: &str) -> Self {
        let port = free_port();
        let mut roster = Roster::prepare("[[file]]\npath = \"{folder}/nodes.toml\"\n");
        roster.write("nodes.toml", "[nodes]\n");
        roster.write("tokens", "one\ntwo\n");
        roster.write("example-token", TOKEN);
        // Of what is known before, nothing has to come back; a test that restarts says how long it is waited for.
        let settle = if settings.contains("settle = ") { "" } else { "settle = \"1s\"\n" };
        let tokens = if settings.contains("tokens = ") { "" } else { "tokens = \"{folder}/example-token\"\n" };
        let folder = roster.folder().display().to_string();
        let settings = format!("{settle}{tokens}{settings}").replace("{folder}", &folder);
        roster.configure("listen = \"\"", &format!("listen = \"127.0.0.1:{port}\"\n{settings}"));
        // A client on a busy machine may stop in the midst of a large request.
        roster.configure("[thrift]\n", "[thrift]\nfirst_byte_timeout = \"20s\"\nrequest_timeout = \"20s\"\n");
        roster.run();
        Self { roster, port }
    }

    fn join(&self, services: &[(&str, Value)]) -> Scripted {
        Scripted::join(self.port, TOKEN, services)
    }

    pub(crate) fn masters(&self) -> Result<Vec<Master>, String> {
        let (mut client, mut masters, mut cursor) = (self.roster.client(), Vec::new(), None);
        loop {
            let page = client
                .masters(ServiceQuery { cursor, ..ServiceQuery::default() })
                .map_err(|error| format!("{error:?}"))?;
            masters.extend(page.masters);
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(masters);
            }
        }
    }

    /// Waits until there are so many masters, and answers them.
    pub(crate) fn has(&self, count: usize) -> Vec<Master> {
        eventually(&format!("there are {count} masters"), SOON, || {
            let masters = self.masters()?;
            if masters.len() == count { Ok(masters) } else { Err(format!("{masters:?}")) }
        })
    }

    pub(crate) fn call(&self, service: &str, method: &str, arguments: &str) -> thrift::Result<CallResult> {
        self.roster.client().call(Call::of(service, method, arguments))
    }
}

#[test]
fn a_master_is_there_from_its_services_to_its_end() {
    let scene = Scene::new();
    let metadata = map([("version", "1.2.0".into()), ("zone", "a".into())]);
    let mut master = scene.join(&[("mail", metadata), ("bare", Value::Array(Vec::new()))]);
    let masters = scene.has(1);
    let services: Vec<_> = masters[0].services.iter().map(|it| (&*it.name, &*it.version, &*it.metadata)).collect();
    assert_eq!(services, [("mail", "1.2.0", r#"{"version":"1.2.0","zone":"a"}"#), ("bare", "0.0.0", "{}")]);

    master.say(map([("cmd", "register".into())]));
    master.tells(&[("other", Value::Array(Vec::new()))]);
    let offers = |name: &str| scene.roster.client().instances(offering(name)).map(|reply| reply.instances.len());
    eventually("the new service is there", SOON, || offers("other"));
    eventually("the old one is not", SOON, || ensure(offers("mail").unwrap_or(0) == 0, "it is"));

    master.say(map([("cmd", "remove".into())]));
    eventually("it offers nothing", SOON, || ensure(scene.masters()?[0].services.is_empty(), "it does"));
    drop(master);
    scene.has(0);
}

#[test]
fn who_shows_no_token_is_refused() {
    let scene = Scene::with("auth_timeout = \"2s\"");
    let refused = |first: Value| {
        let mut stranger = Scripted::connect(scene.port);
        stranger.say(first);
        let answer = stranger.hears().expect("an answer");
        assert_eq!(text(&answer, "cmd"), "auth-failed");
        assert!(!text(&answer, "reason").is_empty(), "{answer}");
        assert_eq!(stranger.hears(), None, "it is not waited for any longer");
    };
    refused(map([("cmd", "auth".into()), ("token", "guess".into())]));
    refused(map([("cmd", "callback".into()), ("uuid", "u".into()), ("data", map([("serialized", "O:1".into())]))]));
    assert_eq!(Scripted::connect(scene.port).hears(), None, "who says nothing is not waited for");
    let mut bomb = Scripted::connect(scene.port);
    bomb.write(&[0xdf, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(bomb.hears(), None);
    scene.join(&[]);
    scene.has(0);
}

#[test]
fn what_comes_before_the_right_token_is_answered_and_keeps_no_master_out() {
    let scene = Scene::new();
    let mut master = Scripted::connect(scene.port);
    master.say(map([("cmd", "ping".into()), ("uuid", "early".into())]));
    assert_eq!(text(&master.hears_command("pong"), "uuid"), "early");
    for early in [map([("cmd", "register".into())]), map([("cmd", "auth".into()), ("token", "guess".into())])] {
        master.say(early);
        master.hears_command("auth-failed");
    }
    master.say(map([("cmd", "auth".into()), ("token", TOKEN.into())]));
    master.hears_command("auth-success");
    master.tells(&[]);
    scene.has(1);
    let mut talker = Scripted::connect(scene.port);
    let answered = std::iter::repeat_with(|| {
        talker.try_say(map([("cmd", "ping".into()), ("uuid", "again".into())])) && talker.hears().is_some()
    });
    assert_eq!(answered.take(1_000).take_while(|answered| *answered).count(), 64, "a stranger is not heard for ever");
}

#[test]
fn masters_with_a_wrong_token_delay_none_with_the_right_one() {
    let scene = Scene::with("max_unauthenticated = 20");
    scene.has(0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..60 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let mut wrong = Scripted::connect(scene.port);
                    // It may have been closed already.
                    wrong.try_say(map([("cmd", "auth".into()), ("token", "guess".into())]));
                    wrong.hears();
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
        }
        let _over = Over(&over);
        std::thread::sleep(Duration::from_millis(500));
        let began = Instant::now();
        let join = || {
            // As any master does that is closed before it is let in.
            let mut master = eventually("it is let in", SOON, || Scripted::authenticated(scene.port, TOKEN));
            master.tells(&[]);
            master
        };
        let _masters: Vec<_> = (0..10).map(|_| join()).collect();
        scene.has(10);
        // A wrong token is answered after a second, which none of the ten may wait for.
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    });
}

#[test]
fn a_method_that_blocks_its_master_has_the_time_that_its_caller_gives_it() {
    for (on_silence, is_lost) in [("wait", false), ("log", false), ("close", true)] {
        let quick = "ping_interval = \"1s\"\npong_timeout = \"1s\"";
        let scene = Scene::with(&format!("{quick}\non_silence = \"{on_silence}\""));
        let mut master = scene.join(&[("mail", Value::Array(Vec::new()))]);
        std::thread::scope(|scope| {
            let call = scope.spawn(|| {
                let call = Call { timeout_ms: Some(30_000), ..Call::of("mail", "send", "[]") };
                scene.roster.client().call(call)
            });
            let asked = master.asked_alive("call");
            // It answers nothing meanwhile, as a PHP process that is in the method.
            std::thread::sleep(Duration::from_secs(4));
            if is_lost {
                let failed = exception::<CallFailed>(call.join().expect("the caller")).expect("a failed call");
                return assert!(failed.lost, "{failed:?}");
            }
            master.answers(asked.id, [42.into()]);
            assert_eq!(call.join().expect("the caller").expect("a result").values, [b"42".to_vec()], "{on_silence}");
            if on_silence == "wait" {
                // Nothing is under way now.
                while master.hears().is_some() {}
                scene.has(0);
            }
        });
    }
}

#[test]
fn a_master_that_is_dead_is_dropped_though_it_is_called_all_the_time() {
    let scene = Scene::with("ping_interval = \"2s\"\npong_timeout = \"1s\"");
    // It reads nothing more.
    let _dead = scene.join(&[("mail", Value::Array(Vec::new()))]);
    scene.has(1);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for wait in 0..4 {
            let (scene, over) = (&scene, &over);
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(150 * wait));
                while !over.load(Ordering::Relaxed) {
                    let call = Call { timeout_ms: Some(600), ..Call::of("mail", "send", "[]") };
                    let _ = scene.roster.client().call(call);
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
        let _over = Over(&over);
        scene.has(0);
    });
    eventually("the log says so", SOON, || {
        let log = scene.roster.log();
        ensure(log.contains("the other end does not answer"), log)
    });
}

#[test]
fn an_argument_that_is_too_large_is_said_to_be() {
    let scene = Scene::new();
    let large = format!("[\"{}\"]", "x".repeat(8 << 20));
    let invalid: InvalidRequest = exception(scene.call("mail", "send", &large)).expect("an exception");
    assert!(invalid.field == "arguments" && invalid.message.contains("max_call"), "{invalid:?}");
    for dialect in Dialect::ALL {
        let mut client = scene.roster.try_client(dialect).expect("it accepts");
        let calls = vec![Call::of("mail", "send", large.clone())];
        let invalid: InvalidRequest = exception(client.call_many(CallsRequest { calls })).expect("an exception");
        assert!(invalid.message.contains("1.0 MiB"), "{dialect:?}: {invalid:?}");
    }
}

#[test]
fn a_closure_that_a_master_sends_is_refused_with_an_answer() {
    let scene = Scene::new();
    let mut master = scene.join(&[]);
    let data = map([("serialized", "O:8:\"stdClass\":0:{}".into())]);
    master.say(map([("cmd", "callback".into()), ("uuid", "mine".into()), ("data", data)]));
    let refused = master.hears_command("error");
    assert_eq!(text(&refused, "uuid"), "mine");
    let error = field(&refused, "data");
    assert_eq!(
        (text(error, "message").as_str(), text(error, "class").as_str()),
        ("callback not allowed", "RuntimeException")
    );
    // What the package gives to whoever listens for errors.
    let shows =
        "$e = unserialize(base64_decode($argv[1])); echo get_class($e), ': ', $e->getMessage(), ' ', $e->getCode();";
    let mut php = Command::new("php");
    php.args(["-r", shows, "--", &BASE64_STANDARD.encode(text(error, "exception"))]);
    assert_eq!(Ended::of(&mut php).text(), "RuntimeException: callback not allowed 0");
}

#[test]
fn a_service_is_called_by_whatever_name_its_master_gives_it() {
    let scene = Scene::new();
    let none = || Value::Array(Vec::new());
    let names = ["mail@work", "mail@home", "7", "api@1.0.0", "api@2.0.0"];
    let mut masters = names.map(|name| scene.join(&[(name, none())]));
    scene.has(names.len());
    let services = scene.roster.client().services(ServiceQuery::default()).expect("an answer").services;
    let listed: Vec<_> = services.iter().map(|it| (it.name.as_str(), it.masters.len())).collect();
    assert_eq!(listed, [("7", 1), ("api", 2), ("mail@home", 1), ("mail@work", 1)]);
    for (name, master) in names.iter().zip(&mut masters) {
        std::thread::scope(|scope| {
            let call = scope.spawn(|| scene.roster.cli(["call", &format!("{name}.send")]).text());
            let asked = master.asked("call");
            assert_eq!(asked.rest[0].as_str(), Some(*name));
            master.answers(asked.id, [42.into()]);
            assert_eq!(call.join().expect("the caller"), "42\n");
        });
    }
    let none: NoMaster = exception(scene.call("api@3.0.0", "send", "")).expect("an exception");
    assert!(none.message.contains("=3.0.0"), "{none:?}");
}

#[test]
fn a_master_of_two_sessions_is_there_until_both_have_ended() {
    let scene = Scene::new();
    let join = |service: &str| {
        let mut master = Scripted::connect(scene.port);
        master.say(map([("cmd", "auth".into()), ("token", TOKEN.into()), ("id", "the-same".into())]));
        master.tells(&[(service, Value::Array(Vec::new()))]);
        let offers = || scene.masters().map(|all| all.iter().flat_map(|it| &it.services).any(|it| it.name == service));
        eventually("the newest session speaks", SOON, || ensure(offers()?, format!("{:?}", scene.masters())));
        master
    };
    let older = join("older");
    drop(join("newer"));
    eventually("the older session speaks again", SOON, || {
        let masters = scene.masters()?;
        ensure(masters.len() == 1 && masters[0].services[0].name == "older", format!("{masters:?}"))
    });
    drop(join("newest of all"));
    drop(older);
    scene.has(0);
}

#[test]
fn an_empty_id_is_none() {
    let scene = Scene::new();
    let mut master = Scripted::connect(scene.port);
    master.say(map([("cmd", "auth".into()), ("token", TOKEN.into()), ("id", "".into())]));
    master.tells(&[]);
    assert!(!scene.has(1)[0].id.is_empty());
}

#[test]
fn masters_beyond_the_bound_are_logged_together() {
    let scene = Scene::with("max_masters = 1");
    let _first = scene.join(&[]);
    scene.has(1);
    for _ in 0..3 {
        let mut beyond = Scripted::connect(scene.port);
        beyond.say(map([("cmd", "auth".into()), ("token", TOKEN.into())]));
        assert_eq!(text(&beyond.hears().expect("an answer"), "cmd"), "auth-success");
        assert_eq!(beyond.hears(), None);
    }
    assert_eq!(scene.roster.log().matches("there are max_masters already").count(), 1);
}

#[test]
fn messages_are_understood_however_their_bytes_come() {
    let scene = Scene::new();
    let mut master = Scripted::connect(scene.port);
    for byte in packed(&map([("cmd", "auth".into()), ("token", TOKEN.into())])) {
        master.write(&[byte]);
    }
    assert_eq!(text(&master.hears().expect("an answer"), "cmd"), "auth-success");
    master.tells(&[]);
    let question = map([("cmd", "ping".into()), ("uuid", "mine".into())]);
    let several = [packed(&question), packed(&map([("no", "command".into())])), packed(&question)].concat();
    master.write(&several);
    for _ in 0..2 {
        assert_eq!(text(&master.hears_command("pong"), "uuid"), "mine");
    }
    scene.has(1);
}

#[test]
fn a_call_goes_to_the_master_as_data_and_its_answer_comes_back() {
    let scene = Scene::new();
    let mut master = scene.join(&[("mail", Value::Array(Vec::new()))]);
    scene.has(1);
    let hostile = r#"["x'); system('id", "$tok", 9223372036854775807, {"ä": [1.5, null]}]"#;
    std::thread::scope(|scope| {
        let call = scope.spawn(|| scene.call("mail", "x'); die('", hostile));
        let asked = master.asked("call");
        assert_eq!(asked.rest[..2], ["mail".into(), "x'); die('".into()]);
        assert_eq!(asked.rest[2].as_array().expect("a list")[2].as_i64(), Some(i64::MAX));
        master.answers(asked.id, ["sent".into()]);
        let result = call.join().expect("the caller").expect("a result");
        assert_eq!(result.values, [br#""sent""#.to_vec()]);
        assert_eq!(result.attempts, 1);

        let call = scope.spawn(|| exception::<CallFailed>(scene.call("mail", "send", "[]")));
        let asked = master.asked("call");
        master.fails(asked.id, "TypeError", "no", 7);
        let failed = call.join().expect("the caller").expect("an exception");
        assert_eq!((&*failed.message, failed.class_name.as_deref(), failed.code), ("no", Some("TypeError"), 7));
    });
}

#[test]
fn a_large_command_reaches_every_master_also_when_its_sender_leaves_at_once() {
    let scene = Scene::new();
    let mut masters: Vec<_> = (0..8).map(|_| scene.join(&[])).collect();
    scene.has(masters.len());
    let large = "x".repeat(900_000);
    let message = format!(r#"{{"cmd":"reload","what":"{large}"}}"#).into_bytes();
    let sent = scene.roster.client().broadcast(BroadcastRequest::new(message.clone(), None));
    assert_eq!(sent.expect("an answer").masters, masters.len() as i32);
    for master in &mut masters {
        assert!(text(&master.hears_command("reload"), "what") == large);
    }
    let mut stream = UnixStream::connect(scene.roster.socket()).expect("the sidecar accepts");
    let request = Dialect::ALL[0].call("broadcast", 1, &BroadcastRequest::new(message, None));
    stream.write_all(&request).expect("it reads");
    drop(stream);
    for master in &mut masters {
        assert!(text(&master.hears_command("reload"), "what") == large);
    }
}

#[test]
fn no_command_of_the_tunnel_itself_reaches_a_master_from_another_peer() {
    let scene = Scene::new();
    let mut master = scene.join(&[("mail", Value::Array(Vec::new()))]);
    let id = scene.has(1)[0].id.clone();
    let mut peer = Scripted::follow(scene.port, TOKEN);
    let callback = map([
        ("cmd", "callback".into()),
        ("uuid", "u".into()),
        ("data", map([("serialized", "O:8:\"stdClass\":0:{}".into())])),
    ]);
    let twice = Value::Map([("cmd", "note"), ("cmd", "callback")].map(|(key, name)| (key.into(), name.into())).into());
    for message in [callback, twice, map([("cmd", "close".into()), ("uuid", "u".into())]), map([("cmd", "own".into())])]
    {
        peer.say(map([("cmd", "send-to".into()), ("master", id.as_str().into()), ("message", message)]));
    }
    loop {
        let heard = master.hears().expect("a command");
        match text(&heard, "cmd").as_str() {
            "own" => break,
            // The question for its services, whose end may come after its answer was taken.
            "close" if text(&heard, "uuid") != "u" => {}
            "data" if text(&heard, "uuid") == master.trunk => {}
            other => panic!("the master was sent {other}"),
        }
    }
}

#[test]
fn who_is_no_administrator_of_this_machine_sends_masters_no_command() {
    if is_skipped_without_root() {
        return;
    }
    let scene = Scene::new();
    let mut master = scene.join(&[("mail", Value::Array(Vec::new()))]);
    let id = scene.has(1)[0].id.clone();
    let mut peer = Scripted::connect_as(Uid::from_raw(65_534), scene.port).follows(TOKEN);
    let place = map([("host", "192.0.2.1".into()), ("port", 8010.into())]);
    let evil = map([("cmd", "register".into()), ("registers", Value::Array(vec![place]))]);
    for message in [evil, map([("cmd", "reload".into())])] {
        peer.say(map([("cmd", "send-to".into()), ("master", id.as_str().into()), ("message", message)]));
        let why = text(&peer.hears_command("refused"), "why");
        assert!(why.contains("uid 65534") && why.contains("root"), "{why}");
    }
    scene
        .roster
        .client()
        .broadcast(BroadcastRequest::new(br#"{"cmd":"own"}"#.to_vec(), None))
        .expect("an administrator");
    loop {
        match text(&master.hears().expect("a command"), "cmd").as_str() {
            "own" => break,
            "register" | "reload" => panic!("a command of nobody's"),
            _ => {}
        }
    }
}

#[test]
fn a_master_that_vanishes_fails_its_calls_at_once_and_says_whether_there_is_another() {
    let scene = Scene::new();
    let unknown: NoMaster = exception(scene.call("mail", "send", "")).expect("an exception");
    assert!(unknown.message.contains("since the sidecar started"), "{unknown:?}");
    let mut master = scene.join(&[("mail", Value::Array(Vec::new()))]);
    scene.has(1);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| exception::<CallFailed>(scene.call("mail", "send", "")));
        master.asked("call");
        drop(master);
        assert!(call.join().expect("the caller").expect("an exception").lost);
    });
    scene.has(0);
    let nobody: NoMaster = exception(scene.call("mail", "send", "")).expect("an exception");
    assert!(nobody.message.contains("alive"), "{nobody:?}");
}

#[test]
fn a_master_that_falls_silent_is_dropped_and_its_calls_go_elsewhere_when_that_is_safe() {
    let scene = Scene::with("ping_interval = \"1s\"\npong_timeout = \"3s\"\non_silence = \"close\"");
    scene.has(0);
    let mut silent = scene.join(&[("mail", map([("version", "2.0.0".into())]))]);
    let mut other = scene.join(&[("mail", map([("version", "1.0.0".into())]))]);
    scene.has(2);
    let mut pings = 0;
    std::thread::scope(|scope| {
        let scene = &scene;
        let call = |idempotent: bool| {
            scene.roster.client().call(Call {
                timeout_ms: Some(60_000),
                idempotent: Some(idempotent),
                ..Call::of("mail", "send", "")
            })
        };
        let risky = scope.spawn(move || exception::<CallFailed>(call(false)));
        let safe = scope.spawn(move || call(true));
        let mut calls = 0;
        while calls < 2 {
            let message = silent.hears().expect("the register is there");
            pings += usize::from(text(&message, "cmd") == "ping");
            calls += usize::from(silent.request(&message).is_some_and(|asked| asked.kind == "call"));
        }
        // Neither end closes anything. The other one is there, and answers.
        let asked = other.asked_alive("call");
        other.answers(asked.id, ["sent".into()]);
        let result = safe.join().expect("the caller").expect("a result");
        assert_eq!((&*result.values, result.attempts), (&[br#""sent""#.to_vec()][..], 2));
        let failed = risky.join().expect("the caller").expect("an exception");
        assert!(failed.lost && failed.message.contains("does not answer"), "{failed:?}");
    });
    let heard = std::iter::from_fn(|| silent.hears());
    pings += heard.filter(|message| text(message, "cmd") == "ping").count();
    assert_eq!(pings, 2, "it was asked twice");
}

#[test]
fn tokens_change_without_harm_to_those_whose_token_stands() {
    let scene = Scene::with("tokens = \"{folder}/tokens\"");
    let mut one = Scripted::join(scene.port, "one", &[]);
    let mut two = Scripted::join(scene.port, "two", &[]);
    scene.has(2);
    scene.roster.write("tokens", "two\nthree\n");
    scene.roster.process().signal(Signal::SIGHUP);
    // The question for its services may be closed before.
    while one.hears().is_some() {}
    scene.has(1);
    two.say(map([("cmd", "ping".into()), ("uuid", "alive".into())]));
    two.hears_command("pong");
    Scripted::join(scene.port, "three", &[]);
}

#[test]
fn beyond_loopback_no_token_is_taken_that_everybody_knows_or_guesses() {
    let mut roster = Roster::prepare("[[file]]\npath = \"{folder}/nodes.toml\"\n");
    roster.write("nodes.toml", "[nodes]\n");
    let tokens = roster.folder().join("tokens");
    roster.configure("listen = \"\"", &format!("listen = \"0.0.0.0:0\"\ntokens = {tokens:?}"));
    for (text, why) in [
        (format!("{}\n{TOKEN}\n", "x".repeat(16)), "which everybody knows"),
        ("0123456789abcde\n".into(), "fewer than 16 bytes"),
        ("\u{feff}# 0123456789abcdef\r\n".into(), "is empty"),
    ] {
        roster.write("tokens", &text);
        let ended = roster.fails();
        assert!(ended.contains("register.tokens") && ended.contains(why), "{ended}");
        let checked = binary().args(["config", "check"]).arg(roster.config()).output().expect("the binary starts");
        assert!(String::from_utf8_lossy(&checked.stderr).contains(why), "{checked:?}");
    }
    roster.write("tokens", "0123456789abcdef\n");
    roster.run();
}

#[test]
fn where_no_tokens_are_set_one_is_made_and_no_other_admits() {
    let mut roster = Roster::prepare("[[file]]\npath = \"{folder}/nodes.toml\"\n");
    roster.write("nodes.toml", "[nodes]\n");
    let port = free_port();
    roster.configure("listen = \"\"", &format!("listen = \"127.0.0.1:{port}\""));
    let ended = roster.fails_with("ROSTER_SHARED__STATE", "/proc/none/at-all");
    assert!(ended.contains("no token can be made in /proc/none/at-all/register.token"), "{ended}");
    std::fs::create_dir(roster.folder().join("disk")).expect("a folder");
    roster.run();
    let path = roster.state().join("register.token");
    let token = std::fs::read_to_string(&path).expect("a token");
    assert!(roster.log().contains(&format!("path={}", path.display())), "{}", roster.log());
    assert!(!roster.log().contains(token.trim()), "a token is in the log");
    Scripted::join(port, token.trim(), &[]);
    let mut stranger = Scripted::connect(port);
    stranger.say(map([("cmd", "auth".into()), ("token", TOKEN.into())]));
    assert_eq!(text(&stranger.hears().expect("an answer"), "cmd"), "auth-failed");
    roster.stop();
    roster.run();
    Scripted::join(port, token.trim(), &[]);
}

#[test]
fn silent_connections_keep_no_master_out() {
    let scene = Scene::with("max_unauthenticated = 20");
    let silent: Vec<_> = (0..60).map(|_| Scripted::connect(scene.port)).collect();
    let _master = scene.join(&[]);
    scene.has(1);
    eventually("the others are refused", SOON, || {
        let counters = scene.roster.status().counters;
        let are_few = counters["mastersUnauthenticated"] <= 20 && counters["mastersRefused"] >= 40;
        ensure(are_few, format!("{counters:?}"))
    });
    drop(silent);
}

#[test]
fn an_id_is_not_taken_over_by_another_user() {
    let scene = Scene::with("unix = \"{folder}/register.sock\"");
    let auth = |mut master: Scripted| {
        master.say(map([("cmd", "auth".into()), ("token", TOKEN.into()), ("id", "mail-1".into())]));
        text(&master.hears().expect("an answer"), "cmd")
    };
    let mut first = Scripted::connect(scene.port);
    first.say(map([("cmd", "auth".into()), ("token", TOKEN.into()), ("id", "mail-1".into())]));
    first.tells(&[]);
    let address = scene.has(1)[0].peer_address.clone();
    assert_eq!(auth(Scripted::connect(scene.port)), "auth-success", "the same user");
    let over_unix = Scripted::connect_unix(&scene.roster.folder().join("register.sock"));
    assert_eq!(auth(over_unix), "auth-success", "the same user over the other listener");
    assert_eq!(scene.has(1)[0].peer_address, address);
    if !is_skipped_without_root() {
        let other = Scripted::connect_as(Uid::from_raw(65_534), scene.port);
        assert_eq!(auth(other), "auth-failed");
    }
}

#[test]
fn masters_grow_old_when_their_register_falls_silent() {
    let hub = Scene::new();
    let line = Link::to(format!("127.0.0.1:{}", hub.port));
    let _master = hub.join(&[]);
    hub.has(1);
    let upstream = format!("[[upstream]]\nconnect = \"{}\"\ntoken = \"{{folder}}/hub-token\"\n", line.address());
    let beside = Scene::with(&upstream);
    beside.roster.write("hub-token", TOKEN);
    beside.roster.process().signal(Signal::SIGHUP);
    beside.has(1);
    let age = || beside.roster.client().masters(ServiceQuery::default()).map(|it| it.freshness.age_ms);
    eventually("they are fresh", SOON, || ensure(age().unwrap_or(1) == 0, "they are old"));
    line.fall_silent();
    // Sooner than the tunnel takes the register for dead.
    eventually("they grow old", SOON, || ensure(age().unwrap_or(0) > 0, "they are fresh"));
    assert_eq!(beside.has(1).len(), 1, "and are there");
    line.mend();
    eventually("they are fresh again", SOON, || ensure(age().unwrap_or(1) == 0, "they are old"));
}

#[test]
fn who_subscribes_again_is_told_by_the_new_subscription_alone() {
    let hub = Scene::new();
    let mut subscriber = Scripted::follow(hub.port, TOKEN);
    // By which subscriptions it is told anything, until one has told the whole.
    let mut tellers = |uuid: &str| {
        subscriber.say(map([("cmd", "subscribe".into()), ("uuid", uuid.into())]));
        let mut tellers = Vec::new();
        loop {
            let told = subscriber.hears_command("data");
            tellers.push(text(&told, "uuid"));
            if text(&told, "uuid") == uuid && *field(field(&told, "data"), "whole") == Value::from(true) {
                return tellers;
            }
        }
    };
    ["one", "two", "three"].into_iter().for_each(|uuid| drop(tellers(uuid)));
    let _master = hub.join(&[]);
    hub.has(1);
    let tellers = tellers("four");
    assert!(tellers.iter().all(|uuid| uuid != "one" && uuid != "two"), "{tellers:?}");
}

#[test]
fn masters_of_another_register_are_followed_and_called_through_it() {
    let hub = Scene::new();
    let mut master = hub.join(&[("mail", Value::Array(Vec::new()))]);
    let id = hub.has(1)[0].id.clone();
    let beside =
        Scene::with(&format!("[[upstream]]\nconnect = \"127.0.0.1:{}\"\ntoken = \"{{folder}}/hub-token\"\n", hub.port));
    beside.roster.write("hub-token", TOKEN);
    beside.roster.process().signal(Signal::SIGHUP);
    assert_eq!(beside.has(1)[0].id, id);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| beside.call("mail", "send", r#"{"to": "you"}"#));
        let asked = master.asked("call");
        master.answers(asked.id, [42.into()]);
        assert_eq!(call.join().expect("the caller").expect("a result").values, [b"42".to_vec()]);
    });
    let _second = hub.join(&[]);
    beside.has(2);
    drop(master);
    beside.has(1);
}

#[test]
fn what_a_method_throws_is_its_failure_whatever_its_class_also_through_another_register() {
    let hub = Scene::new();
    let mut master = hub.join(&[("mail", Value::Array(Vec::new()))]);
    hub.has(1);
    let beside =
        Scene::with(&format!("[[upstream]]\nconnect = \"127.0.0.1:{}\"\ntoken = \"{{folder}}/hub-token\"\n", hub.port));
    beside.roster.write("hub-token", TOKEN);
    beside.roster.process().signal(Signal::SIGHUP);
    beside.has(1);
    for class in ["roster:refused", "roster:unsent", "roster:lost"] {
        for (scene, told) in [(&hub, Some(class)), (&beside, None)] {
            std::thread::scope(|scope| {
                let call = scope.spawn(|| scene.call("mail", "send", "[]"));
                let asked = master.asked("call");
                master.fails(asked.id, class, "thrown", 7);
                let failed = exception::<CallFailed>(call.join().expect("the caller")).expect("it is the method's");
                assert_eq!((&*failed.message, failed.code, failed.lost), ("thrown", 7, false));
                assert_eq!(failed.class_name.as_deref(), told);
            });
        }
    }
}
