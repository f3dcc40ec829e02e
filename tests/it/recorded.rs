//! The recorded bytes of an unmodified PHP master, said to the real register by a peer on a socket.

use rmpv::Value;
use serde_json::{Value as Json, json};

use crate::harness::master::{Scripted, field, map, packed, text};
use crate::harness::{SOON, ensure, eventually, exception};
use crate::idl::{CallFailed, CallResult};
use crate::register::Scene;

/// What the master sent in one step, to the request `id` over this trunk: the recorder had a closure for each, and ours
/// packs each value. Nothing else is changed.
fn said(step: &str, (trunk, id): (&str, u64)) -> Vec<u8> {
    let recorded: Json = serde_json::from_str(include_str!("../fixtures/php-master.json")).expect("JSON");
    let recorded = recorded.as_array().expect("steps").iter().find(|it| it["step"] == step).expect("it was recorded");
    let hex = recorded["master_sent_hex"].as_str().expect("bytes");
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect();
    let mut rest = bytes.as_slice();
    let messages =
        std::iter::from_fn(|| (!rest.is_empty()).then(|| rmpv::decode::read_value(&mut rest).expect("whole")));
    let on_trunk = |message: Value| {
        let kind = text(&message, "cmd");
        let data = || match step {
            step if step.starts_with("list") => map([("services", field(&message, "data").clone())]),
            _ => field(&message, "data").clone(),
        };
        let what = match kind.as_str() {
            "data" => Some(Value::Binary(packed(&data()))),
            "error" => Some(data()),
            "end" => None,
            _ => return message,
        };
        let kind = if kind == "data" { "value" } else { &kind };
        let words = Value::Array([kind.into(), id.into()].into_iter().chain(what).collect());
        map([("cmd", "data".into()), ("uuid", trunk.into()), ("data", words)])
    };
    messages.flat_map(|message| packed(&on_trunk(message))).collect()
}

/// Where the register's next request is to be answered.
fn asked(master: &mut Scripted, kind: &str) -> (String, u64) {
    let id = master.asked(kind).id;
    (master.trunk.clone(), id)
}

const NOWHERE: (&str, u64) = ("6d6ba3e1-1d53-4b19-9d4c-9bb1ea9e8b0d", 0);

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
    master.write(&said("auth", NOWHERE));
    authenticated(&mut master);
    let (trunk, id) = asked(&mut master, "list");
    master.write(&said("list", (&trunk, id)));
    offers(&scene, 1, "{}");

    let mut called = |step: &str| -> thrift::Result<CallResult> {
        std::thread::scope(|scope| {
            let call = scope.spawn(|| scene.call("echo", "any", "[]"));
            let (trunk, id) = asked(&mut master, "call");
            master.write(&said(step, (&trunk, id)));
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

    master.write(&said("ping", NOWHERE));
    master.write(&said("master-pings", NOWHERE));
    assert_eq!(text(&master.hears_command("pong"), "uuid"), "513aabbb-cc6c-4cb5-805a-23a80b7bc9f8");
    // Of a stream that nobody has opened.
    master.write(&said("positional", NOWHERE));
    master.write(&said("refresh", NOWHERE));
    let (trunk, id) = asked(&mut master, "list");
    master.write(&said("list-after-refresh", (&trunk, id)));
    offers(&scene, 1, r#"{"drain":true}"#);
    master.write(&said("remove", NOWHERE));
    eventually("it offers nothing", SOON, || ensure(scene.masters()?[0].services.is_empty(), "it does"));
    drop(master);
    scene.has(0);
}

#[test]
fn a_recorded_master_is_understood_wherever_its_bytes_are_cut() {
    let scene = Scene::new();
    let auth = said("auth", NOWHERE);
    let mut masters: Vec<Scripted> = (0..auth.len()).map(|_| Scripted::connect(scene.port)).collect();
    for (cut, master) in masters.iter_mut().enumerate() {
        master.write(&auth[..cut]);
    }
    for (cut, master) in masters.iter_mut().enumerate() {
        master.write(&auth[cut..]);
        authenticated(master);
    }
    // The answer is longer: more masters, whose token comes at once.
    let length = said("list", (NOWHERE.0, 1)).len();
    while masters.len() < length {
        let mut master = Scripted::connect(scene.port);
        master.write(&auth);
        authenticated(&mut master);
        masters.push(master);
    }
    let mut answer = |master: &mut Scripted| {
        let (trunk, id) = asked(master, "list");
        said("list", (&trunk, id))
    };
    let answers: Vec<Vec<u8>> = masters.iter_mut().map(&mut answer).collect();
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
    said("auth", NOWHERE).iter().for_each(|byte| slow.write(&[*byte]));
    authenticated(&mut slow);
    let (trunk, id) = asked(&mut slow, "list");
    said("list", (&trunk, id)).iter().for_each(|byte| slow.write(&[*byte]));

    let mut quick = Scripted::connect(scene.port);
    // What follows the token in the same write is read with the bounds of those who are known.
    quick.write(&[said("auth", NOWHERE), said("master-pings", NOWHERE), said("ping", NOWHERE)].concat());
    authenticated(&mut quick);
    let (trunk, id) = asked(&mut quick, "list");
    let exception = said("exception", NOWHERE);
    quick.write(
        &[said("list", (&trunk, id)), exception, said("master-pings", NOWHERE), said("positional", NOWHERE)].concat(),
    );
    quick.hears_command("pong");
    offers(&scene, 2, "{}");
}
