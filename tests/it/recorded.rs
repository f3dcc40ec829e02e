//! The recorded bytes of an unmodified PHP master, said to the real register by a peer on a socket.

use serde_json::{Value as Json, json};

use crate::harness::master::{Scripted, text};
use crate::harness::{SOON, ensure, eventually, exception};
use crate::idl::{CallFailed, CallResult};
use crate::register::Scene;

/// What the master sent in one step, to the question `uuid`. The register's closure, which the recorder did not have,
/// wraps each value; nothing else is changed.
fn said(step: &str, uuid: &str) -> Vec<u8> {
    let recorded: Json = serde_json::from_str(include_str!("../fixtures/php-master.json")).expect("JSON");
    let recorded = recorded.as_array().expect("steps").iter().find(|it| it["step"] == step).expect("it was recorded");
    let hex = recorded["master_sent_hex"].as_str().expect("bytes");
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect();
    let asked = match step {
        "list-after-refresh" => "u-list2".to_owned(),
        "bad-closure" => "u-bad".to_owned(),
        step => format!("u-{step}"),
    };
    let [asked, uuid] = [asked.as_str(), uuid].map(packed);
    let data = [b"\xa4data\xa4uuid", asked.as_slice(), b"\xa4data"].concat();
    let wrapped = [data.as_slice(), b"\x81\xa5value"].concat();
    replaced(&replaced(&bytes, &data, &wrapped), &asked, &uuid)
}

fn packed(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, &text.into()).expect("a vector takes all");
    bytes
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        out.extend([&rest[..at], to].concat());
        rest = &rest[at + from.len()..];
    }
    [out.as_slice(), rest].concat()
}

/// The uuid of the register's next question.
fn asked(master: &mut Scripted) -> String {
    text(&master.hears_command("callback"), "uuid")
}

fn authenticated(master: &mut Scripted) {
    assert_eq!(text(&master.hears().expect("an answer"), "cmd"), "auth-success");
}

/// Waits until there are so many masters, who offer what was recorded, `bare` with this metadata.
fn offers(scene: &Scene, count: usize, bare: &str) {
    eventually("the services are there", SOON, || {
        let masters = scene.masters()?;
        ensure(masters.len() == count, format!("{} of {count}", masters.len()))?;
        masters.iter().try_for_each(|master| {
            let mut told: Vec<_> = master.services.iter().map(|it| (&*it.name, &*it.metadata)).collect();
            told.sort();
            let echo = ("echo", r#"{"version":"1.2.0","zone":"b","weight":3}"#);
            ensure(told == [("bare", bare), echo], format!("{told:?}"))
        })
    });
}

#[test]
fn a_recorded_master_is_listed_called_asked_again_and_leaves() {
    let scene = Scene::new();
    let mut master = Scripted::connect(scene.port);
    master.write(&said("auth", ""));
    authenticated(&mut master);
    let uuid = asked(&mut master);
    master.write(&said("list", &uuid));
    offers(&scene, 1, "{}");

    let mut called = |step: &str| -> thrift::Result<CallResult> {
        std::thread::scope(|scope| {
            let call = scope.spawn(|| scene.call("echo", "any", "[]"));
            let uuid = asked(&mut master);
            master.write(&said(step, &uuid));
            call.join().expect("no panic")
        })
    };
    for (step, expected) in [
        ("positional", vec![json!(["one", "two"])]),
        ("named", vec![json!([1.5, 2])]),
        ("null", vec![]),
        ("bytes", vec![json!({"base64": "/wD+"})]),
        ("emptyList", vec![json!([])]),
        ("mapped", vec![json!({"a": 1, "b": [1, 2.5, true, null], "7": "seven"})]),
        ("big", vec![json!(i64::MAX)]),
        ("quote", vec![json!("it's \"$x\" é😀\0 \\ end")]),
        ("nested", vec![json!({"k": [true, null], "n": -9_007_199_254_740_993_i64})]),
        ("promise-returned", vec![json!("late")]),
    ] {
        let values = called(step).expect("a result").values;
        let values: Vec<Json> = values.iter().map(|value| serde_json::from_slice(value).expect("JSON")).collect();
        assert_eq!(values, expected, "{step}");
    }
    for (step, class, code, message) in [
        ("exception", "InvalidArgumentException", 42, "bad input"),
        ("missing-method", "RuntimeException", 0, "Method 'nope' not found in service 'echo'"),
        ("bad-closure", "Error", 0, "Call to a member function getClosure() on bool"),
    ] {
        let failed = exception::<CallFailed>(called(step)).expect("an exception");
        let told = (failed.class_name.as_deref(), failed.code, failed.message.as_str(), failed.lost);
        assert_eq!(told, (Some(class), code, message, false), "{step}");
    }

    master.write(&said("ping", ""));
    master.write(&said("master-pings", ""));
    assert_eq!(text(&master.hears_command("pong"), "uuid"), "513aabbb-cc6c-4cb5-805a-23a80b7bc9f8");
    // Of a stream that nobody has opened.
    master.write(&said("positional", "nobody"));
    master.write(&said("refresh", ""));
    let uuid = asked(&mut master);
    master.write(&said("list-after-refresh", &uuid));
    offers(&scene, 1, r#"{"drain":true}"#);
    master.write(&said("remove", ""));
    eventually("it offers nothing", SOON, || ensure(scene.masters()?[0].services.is_empty(), "it does"));
    drop(master);
    scene.has(0);
}

#[test]
fn a_recorded_master_is_understood_wherever_its_bytes_are_cut() {
    let scene = Scene::new();
    let auth = said("auth", "");
    let mut masters: Vec<Scripted> = (0..auth.len()).map(|_| Scripted::connect(scene.port)).collect();
    for (cut, master) in masters.iter_mut().enumerate() {
        master.write(&auth[..cut]);
    }
    for (cut, master) in masters.iter_mut().enumerate() {
        master.write(&auth[cut..]);
        authenticated(master);
    }
    // The answer is longer: more masters, whose token comes at once.
    let length = said("list", &"-".repeat(36)).len();
    while masters.len() < length {
        let mut master = Scripted::connect(scene.port);
        master.write(&auth);
        authenticated(&mut master);
        masters.push(master);
    }
    let answers: Vec<Vec<u8>> = masters.iter_mut().map(|master| said("list", &asked(master))).collect();
    for (cut, (master, answer)) in masters.iter_mut().zip(&answers).enumerate() {
        master.write(&answer[..cut]);
    }
    for (cut, (master, answer)) in masters.iter_mut().zip(&answers).enumerate() {
        master.write(&answer[cut..]);
    }
    offers(&scene, length, "{}");
}

#[test]
fn a_recorded_master_is_understood_byte_by_byte_and_all_at_once() {
    let scene = Scene::new();
    let mut slow = Scripted::connect(scene.port);
    said("auth", "").iter().for_each(|byte| slow.write(&[*byte]));
    authenticated(&mut slow);
    let uuid = asked(&mut slow);
    said("list", &uuid).iter().for_each(|byte| slow.write(&[*byte]));

    let mut quick = Scripted::connect(scene.port);
    // What follows the token in the same write is read with the bounds of those who are known.
    quick.write(&[said("auth", ""), said("master-pings", ""), said("ping", "")].concat());
    authenticated(&mut quick);
    let uuid = asked(&mut quick);
    let exception = said("exception", "nobody");
    quick.write(&[said("list", &uuid), exception, said("master-pings", ""), said("positional", "nobody")].concat());
    quick.hears_command("pong");
    offers(&scene, 2, "{}");
}
