//! Calls of methods that are sent values while they go on.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rmpv::Value;
use serde_json::{Value as Json, json};

use crate::harness::master::{Scripted, map, text};
use crate::harness::{Client, SOON, ensure, eventually, exception};
use crate::idl::{
    Call, CallFailed, CallTimedOut, CallValues, InvalidRequest, NextValuesRequest, NoMaster, SendValuesRequest,
    ServiceQuery, StatusRequest, TRosterSyncClient,
};
use crate::joining::following;
use crate::masters::{Php, gives, offers};
use crate::register::{Scene, TOKEN};

fn scene() -> (Scene, Php) {
    let scene = Scene::new();
    let php = Php::start(scene.port, "", &[]);
    offers(&scene, &["control", "demo"]);
    (scene, php)
}

fn call(method: &str, arguments: &str, timeout_ms: i32) -> Call {
    Call { timeout_ms: Some(timeout_ms), ..Call::of("demo", method, arguments) }
}

fn opened(scene: &Scene, method: &str, arguments: &str) -> Client {
    let mut client = scene.roster.client();
    client.open_call(call(method, arguments, 30_000)).expect("none is open");
    client
}

/// Sends all of the values; what came meanwhile.
fn sent(client: &mut Client, values: &[Json], is_last: bool) -> thrift::Result<CallValues> {
    let mut rest: Vec<Vec<u8>> = values.iter().map(|value| value.to_string().into_bytes()).collect();
    let mut came = Vec::new();
    loop {
        let reply = client.send_values(SendValuesRequest::new(rest.clone(), is_last))?;
        rest.drain(..reply.accepted as usize);
        came.extend(reply.values.values);
        if rest.is_empty() || reply.values.completion.is_some() {
            return Ok(CallValues::new(came, reply.values.completion));
        }
    }
}

/// All that comes until the end, after what has come.
fn rest(client: &mut Client, mut came: CallValues) -> thrift::Result<Vec<Json>> {
    let mut values = std::mem::take(&mut came.values);
    while came.completion.is_none() {
        came = client.next_values(NextValuesRequest::default())?;
        values.append(&mut came.values);
    }
    Ok(values.iter().map(|value| serde_json::from_slice(value).expect("JSON")).collect())
}

#[test]
fn a_method_reads_what_its_caller_sends_and_gives_values_meanwhile() {
    let (scene, _php) = scene();
    let mut client = opened(&scene, "times", "[10]");
    let first = sent(&mut client, &[json!(1)], false).expect("it is taken");
    let first = if first.values.is_empty() {
        client.next_values(NextValuesRequest::default()).expect("a value")
    } else {
        first
    };
    assert_eq!((first.values, first.completion), (vec![b"10".to_vec()], None), "before the next is sent");
    let came = sent(&mut client, &[json!(2), json!("text"), json!(0.5)], true).expect("they are taken");
    assert_eq!(rest(&mut client, came).expect("the end"), [json!(20), json!("text"), json!(5.0), json!("4 in all")]);
    exception::<InvalidRequest>(client.send_values(SendValuesRequest::new(Vec::new(), true))).expect("none is open");
    // By name, and none at all.
    let mut client = opened(&scene, "times", r#"{"factor": 2}"#);
    let came = sent(&mut client, &[], true).expect("nothing is taken");
    assert_eq!(rest(&mut client, came).expect("the end"), [json!("0 in all")]);
    let mut outstanding =
        || client.status(StatusRequest::default()).map(|it| it.counters["callsOutstanding"]).map_err(|e| e.to_string());
    eventually("no call is under way", SOON, || ensure(outstanding()? == 0, "one is"));
}

#[test]
fn a_method_that_does_not_read_is_sent_a_bounded_amount_and_its_caller_waits() {
    const COUNT: usize = 80;
    let (scene, _php) = scene();
    let begun = Instant::now();
    // So long that also a busy machine sends what may be sent.
    let mut client = opened(&scene, "hesitant", "[4]");
    let chunk = json!("x".repeat(50_000));
    for _ in 0..COUNT {
        let came = sent(&mut client, std::slice::from_ref(&chunk), false).expect("it is taken");
        assert!(came.values.is_empty() && came.completion.is_none(), "{came:?}");
    }
    assert!(begun.elapsed() > Duration::from_secs(1), "the caller has waited");
    let came = sent(&mut client, &[], true).expect("the end is sent");
    let result = rest(&mut client, came).expect("a result").remove(0);
    let early = result[1].as_u64().expect("bytes");
    assert_eq!(result[0], COUNT * 50_000);
    assert!((200_000..400_000).contains(&early), "{early} bytes before it read");
}

#[test]
fn a_method_that_never_reads_is_given_up_when_its_callers_time_is_over_or_the_caller_leaves() {
    let (scene, php) = scene();
    let mut client = scene.roster.client();
    // The method has begun by then.
    client.open_call(call("hesitant", "[60]", 3_000)).expect("none is open");
    let chunk = json!("x".repeat(50_000));
    let failed = (0..20).find_map(|_| sent(&mut client, std::slice::from_ref(&chunk), false).err());
    exception::<CallTimedOut>(Err::<(), _>(failed.expect("it is full"))).expect("it is too late");
    php.says("input closed");
    // Whoever leaves before the method has begun has nothing closed.
    eventually("another one is closed too", SOON, || {
        let mut client = opened(&scene, "hesitant", "[60]");
        sent(&mut client, &[json!("x")], false).expect("it is taken");
        drop(client);
        ensure(php.said().matches("input closed").count() >= 2, php.said())
    });
}

#[test]
fn what_a_method_refuses_of_its_input_ends_the_call_and_what_it_does_not_read_is_passed_over() {
    let (scene, _php) = scene();
    let mut client = opened(&scene, "fussy", "[true]");
    let failed = sent(&mut client, &[json!("one"), json!("two")], false);
    let failed = failed.and_then(|came| rest(&mut client, came));
    let failed = exception::<CallFailed>(failed).expect("its own error");
    assert_eq!((failed.class_name.as_deref(), &*failed.message), (Some("DomainException"), "not two"));
    let mut client = opened(&scene, "fussy", "[false]");
    let chunk = json!("x".repeat(50_000));
    let came = sent(&mut client, &[json!("first")], false).expect("it is taken");
    assert!(came.values.is_empty());
    for _ in 0..20 {
        let came = sent(&mut client, std::slice::from_ref(&chunk), false).expect("it is taken, and not read");
        if came.completion.is_some() || !came.values.is_empty() {
            assert_eq!(rest(&mut client, came).expect("the end"), [json!("first")]);
            return;
        }
    }
    let came = sent(&mut client, &[], true).expect("the end is sent");
    assert_eq!(rest(&mut client, came).expect("the end"), [json!("first")]);
}

#[test]
fn only_who_takes_a_stream_is_sent_one_and_every_mistake_is_named() {
    let (scene, _php) = scene();
    let mut client = opened(&scene, "echo", "[1]");
    let failed = client.next_values(NextValuesRequest::default());
    let failed = exception::<CallFailed>(failed).expect("it takes none");
    assert_eq!(failed.message, "Method 'echo' has no parameter that takes a stream");
    let mut client = opened(&scene, "times", "[1]");
    exception::<InvalidRequest>(client.send_values(SendValuesRequest::new(vec![b"{".to_vec()], false)))
        .expect("no JSON");
    exception::<InvalidRequest>(client.open_call(call("times", "[1]", 1_000))).expect("one is open");
    client.start_call(call("echo", "[1]", 1_000)).expect_err("one is open");
    let came = sent(&mut client, &[json!(3)], true).expect("it goes on");
    assert_eq!(rest(&mut client, came).expect("the end"), [json!(3), json!("1 in all")]);
    // A call that was started otherwise takes no values.
    let started = client.start_call(call("paced", "[2, 0.1]", 30_000)).expect("a value");
    exception::<InvalidRequest>(client.send_values(SendValuesRequest::new(Vec::new(), true))).expect("it takes none");
    assert_eq!(rest(&mut client, started).expect("the end"), [json!(1), json!(2)]);
    // A master that understands calls, and runs no closure.
    let hello = [("cmd", "auth".into()), ("token", TOKEN.into()), ("native", 1.into())];
    let mut native = Scripted::connect(scene.port);
    native.say(map(hello));
    native.hears_command("auth-success");
    let list = text(&native.hears_command("list"), "uuid");
    let services = map([("rust", map([("name", "rust".into())]))]);
    let data = [("cmd", "data".into()), ("uuid", Value::from(list.as_str())), ("data", services)];
    native.say(map(data));
    native.say(map([("cmd", "end".into()), ("uuid", list.as_str().into())]));
    scene.has(2);
    let rust = Call { service_name: "rust".into(), ..call("times", "[1]", 30_000) };
    client.open_call(rust).expect("none is open");
    let refused = exception::<NoMaster>(client.next_values(NextValuesRequest::default())).expect("it takes none");
    assert!(refused.message.contains("only a master of PHP"), "{refused:?}");
    // Nor does one of PHP that is connected elsewhere.
    let beside = following(scene.port, "");
    offers(&beside, &["control", "demo", "rust"]);
    let mut client = opened(&beside, "times", "[1]");
    let refused = exception::<NoMaster>(client.next_values(NextValuesRequest::default())).expect("it takes none here");
    assert!(refused.message.contains("at this sidecar's own register"), "{refused:?}");
    // Where another one does, that is called.
    let _php = Php::start(beside.port, "", &[]);
    beside.has(3);
    eventually("both offer it", SOON, || {
        let count = beside
            .roster
            .client()
            .instances(ServiceQuery { service_name: Some("demo".into()), ..ServiceQuery::default() })
            .map_err(|error| format!("{error:?}"))?;
        ensure(count.instances.len() == 2, count.instances.len())
    });
    for _ in 0..16 {
        let mut client = opened(&beside, "times", "[2]");
        let came = sent(&mut client, &[json!(3)], true).expect("it takes it");
        assert_eq!(rest(&mut client, came).expect("the end"), [json!(6), json!("1 in all")]);
    }
}

#[test]
fn the_command_line_sends_its_input_by_lines() {
    let (scene, _php) = scene();
    let mut command = scene.roster.command(["call", "demo.times", "factor=3", "--stream-in"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary starts");
    child.stdin.take().expect("a pipe").write_all(b"1\n2.5\nno JSON\n").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "3\n7.5\n\"no JSON\"\n\"3 in all\"\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn calls_with_inputs_leave_nothing_behind_in_the_master() {
    let (scene, _php) = scene();
    let floor = || gives(&scene, "control", "memory", json!([]))[0].as_i64().expect("bytes");
    let call = |count: usize| {
        let mut client = scene.roster.client();
        for number in 0..count {
            let method = ["times", "echo"][number % 2];
            client.open_call(self::call(method, "[2]", 30_000)).expect("none is open");
            let came = sent(&mut client, &[json!(1)], true);
            let _ = came.and_then(|came| rest(&mut client, came));
        }
    };
    call(100);
    let before = floor();
    call(2_000);
    assert!(floor() - before < 2_000, "{} bytes more after 2,000 calls", floor() - before);
}
