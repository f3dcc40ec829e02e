//! Calls: a register's requests and their answers, on one connection.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::script::{Peer, SOON, config, list, map, meeting, said};
use crate::{Config, Master, MethodError, Service, Value};
use roster_tunnel::value::get;

#[derive(Deserialize, Serialize)]
struct Greeting {
    name: String,
    #[serde(default)]
    times: u32,
    polite: Option<bool>,
}

fn demo() -> Service {
    Service::new("demo")
        .method("echo", |arguments: Value| async move { Ok(arguments) })
        .method("pair", |(first, second): (String, i64)| async move { Ok((second, first)) })
        .method("greeting", |greeting: Greeting| async move { Ok(greeting) })
        .method("nothing", |(): ()| async move { Ok(()) })
        .method("missing", |_: Value| async move { Ok(None::<String>) })
        .method("bytes", |_: Value| async move { Ok(Value::Binary(vec![0xff, 0, 0xfe])) })
        .method("parse", |(text,): (String,)| async move { Ok(text.parse::<u8>()?) })
        .method("fail", |_: Value| async move {
            Err::<(), _>(MethodError::new("bad input").class("InvalidArgumentException").code(42))
        })
        .method("pretend", |_: Value| async move { Err::<(), _>(MethodError::new("done").class("roster:refused")) })
        .method("panic", |_: Value| async move { if true { panic!("as the test wants") } else { Ok(()) } })
        .method("huge", |_: Value| async move { Ok("x".repeat(2 << 20)) })
        .method("never", |_: Value| std::future::pending::<Result<(), MethodError>>())
        .stream("count", |(to,): (u64,), values| async move {
            for number in 1..=to {
                values.send(number).await?;
            }
            Ok(())
        })
        .stream("broken", |_: Value, values| async move {
            values.send("one").await?;
            values.send(()).await?;
            Err(MethodError::new("midway"))
        })
}

async fn called(peer: &mut Peer, method: &str, arguments: Value) -> (Vec<Value>, Option<Value>) {
    peer.call("u", "demo", method, arguments).await;
    peer.answers("u").await
}

async fn fails_with(peer: &mut Peer, method: &str, arguments: Value) -> (String, String) {
    let (values, error) = called(peer, method, arguments).await;
    assert_eq!(values, []);
    let error = error.expect("the call fails");
    (said(&error, "class"), said(&error, "message"))
}

async fn demo_meeting(config: Config) -> (Master, Peer) {
    let (master, _, peer) = meeting(config, [demo()]).await;
    (master, peer)
}

#[tokio::test]
async fn a_call_and_its_answer_are_these_bytes() {
    let (_master, mut peer) = demo_meeting(config()).await;
    peer.say_bytes(
        b"\x83\xa3cmd\xa4call\xa4uuid\xa1a\xa4data\x83\xa7service\xa4demo\xa6method\xa4pair\xa9arguments\x92\xa3one\x07",
    )
    .await;
    peer.hear_bytes(b"\x83\xa3cmd\xa4data\xa4uuid\xa1a\xa4data\x92\x07\xa3one\x82\xa3cmd\xa3end\xa4uuid\xa1a").await;
    // As binary where a string is meant.
    peer.say_bytes(
        b"\x83\xc4\x03cmd\xc4\x04call\xc4\x04uuid\xc4\x01b\xc4\x04data\x83\xc4\x07service\xc4\x04demo\xc4\x06method\xc4\x04pair\xc4\x09arguments\x92\xc4\x03one\x07",
    )
    .await;
    peer.hear_bytes(b"\x83\xa3cmd\xa4data\xa4uuid\xa1b\xa4data\x92\x07\xa3one\x82\xa3cmd\xa3end\xa4uuid\xa1b").await;
}

#[tokio::test]
async fn arguments_come_as_a_list_or_by_name() {
    let (_master, mut peer) = demo_meeting(config()).await;
    let greeting = map(&[("name", "Ada".into()), ("times", 2.into()), ("polite", Value::Nil)]);
    let named = map(&[("times", 2.into()), ("name", "Ada".into())]);
    assert_eq!(called(&mut peer, "greeting", named).await, (vec![greeting.clone()], None));
    let positional = list(["Ada".into(), 2.into(), Value::Nil]);
    assert_eq!(called(&mut peer, "greeting", positional).await, (vec![greeting], None));
    let odd = Value::Map(vec![(7.into(), Value::Binary(vec![0xff])), ("big".into(), u64::MAX.into())]);
    assert_eq!(called(&mut peer, "echo", odd.clone()).await, (vec![odd], None));
    for none in [Value::Nil, list([]), map(&[])] {
        assert_eq!(called(&mut peer, "nothing", none.clone()).await, (vec![], None));
        let (class, message) = fails_with(&mut peer, "greeting", none).await;
        assert_eq!((class.as_str(), message.contains("missing field `name`")), ("BadArguments", true), "{message}");
    }
    let (class, message) = fails_with(&mut peer, "pair", list(["one".into()])).await;
    assert!(class == "BadArguments" && message.starts_with("the arguments do not fit: "), "{message}");
}

#[tokio::test]
async fn values_come_one_or_many_or_none() {
    let (_master, mut peer) = demo_meeting(config()).await;
    assert_eq!(called(&mut peer, "missing", Value::Nil).await, (vec![], None));
    assert_eq!(called(&mut peer, "bytes", Value::Nil).await, (vec![Value::Binary(vec![0xff, 0, 0xfe])], None));
    let numbers = |to: u64| (1..=to).map(Value::from).collect();
    assert_eq!(called(&mut peer, "count", list([3.into()])).await, (numbers(3), None));
    assert_eq!(called(&mut peer, "count", list([0.into()])).await, (vec![], None));
    // Many more than the queue holds: the method waits until they are read.
    assert_eq!(called(&mut peer, "count", list([20_000.into()])).await, (numbers(20_000), None));
}

#[tokio::test]
async fn errors_arrive_as_errors() {
    let (_master, mut peer) = demo_meeting(config()).await;
    let (values, error) = called(&mut peer, "fail", Value::Nil).await;
    let told = [("message", "bad input".into()), ("code", 42.into()), ("class", "InvalidArgumentException".into())];
    assert_eq!((values, error), (vec![], Some(map(&told))));
    peer.call("p", "demo", "pretend", Value::Nil).await;
    let failed = peer.hear().await;
    let thrown = map(&[("message", "done".into()), ("code", 0.into()), ("class", "".into())]);
    assert_eq!(
        (get(&failed, "status"), get(&failed, "data")),
        (None, Some(&thrown)),
        "what was executed was not refused"
    );
    let told = fails_with(&mut peer, "parse", list(["x".into()])).await;
    assert_eq!(told, ("core::num::error::ParseIntError".into(), "invalid digit found in string".into()));
    let told = fails_with(&mut peer, "nope", Value::Nil).await;
    assert_eq!(told, ("NotFound".into(), "Method 'nope' not found in service 'demo'".into()));
    let (_, told) = fails_with(&mut peer, "huge", Value::Nil).await;
    assert!(told.contains("longer than its bound"), "{told}");
    let (values, error) = called(&mut peer, "broken", Value::Nil).await;
    assert_eq!(values, ["one".into(), Value::Nil], "a value sent is a value, also if it is nil");
    assert_eq!(said(&error.expect("the call fails"), "message"), "midway");
    peer.call("v", "x'); system('true", "hello", Value::Nil).await;
    let error = peer.answers("v").await.1.expect("the call fails");
    assert_eq!(said(&error, "message"), "Service 'x'); system('true' not found");
}

#[tokio::test]
async fn a_panic_is_the_error_of_its_call_alone() {
    let (_master, mut peer) = demo_meeting(config()).await;
    peer.call("waits", "demo", "never", Value::Nil).await;
    let told = fails_with(&mut peer, "panic", Value::Nil).await;
    assert_eq!(told, ("Panic".into(), "the method panicked: as the test wants".into()));
    assert_eq!(called(&mut peer, "nothing", Value::Nil).await, (vec![], None));
}

#[tokio::test]
async fn a_call_that_its_caller_closes_is_dropped() {
    let dropped = Arc::new(Notify::new());
    let guard = |dropped: &Arc<Notify>| {
        let dropped = dropped.clone();
        scopeguard(move || dropped.notify_one())
    };
    let service = {
        let dropped = dropped.clone();
        Service::new("slow").stream("wait", move |_: Value, values| {
            let guard = guard(&dropped);
            async move {
                let _guard = guard;
                values.send("begun").await?;
                std::future::pending().await
            }
        })
    };
    let (_master, _, mut peer) = meeting(Config { most_calls: 1, ..config() }, [service]).await;
    for uuid in ["a", "b"] {
        peer.call(uuid, "slow", "wait", Value::Nil).await;
        assert_eq!(said(&peer.hear().await, "data"), "begun", "the call before takes no room any more");
        peer.say(&[("cmd", "close".into()), ("uuid", uuid.into())]).await;
        tokio::time::timeout(SOON, dropped.notified()).await.expect("the call is dropped");
        // The slot is free once the session has processed the end.
        tokio::time::timeout(SOON, until_free(&mut peer)).await.expect("room for a call");
    }
    // A lost connection closes its calls as well.
    peer.call("c", "slow", "wait", Value::Nil).await;
    peer.hear().await;
    drop(peer);
    tokio::time::timeout(SOON, dropped.notified()).await.expect("the call is dropped");
}

/// Calls a missing method until the answer is that, rather than that there are too many calls.
async fn until_free(peer: &mut Peer) {
    loop {
        peer.call("free", "slow", "nope", Value::Nil).await;
        let error = peer.answers("free").await.1.expect("the call fails");
        if said(&error, "class") == "NotFound" {
            return;
        }
    }
}

/// Runs a closure when dropped.
fn scopeguard(run: impl FnMut()) -> impl Drop {
    struct Guard<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Guard<F> {
        fn drop(&mut self) {
            self.0();
        }
    }
    Guard(run)
}

#[tokio::test]
async fn calls_beyond_the_bound_are_refused_and_the_services_still_told() {
    let (_master, mut peer) = demo_meeting(Config { most_calls: 2, ..config() }).await;
    for uuid in ["a", "b", "c"] {
        peer.call(uuid, "demo", "never", Value::Nil).await;
    }
    let refused = peer.hear().await;
    let [uuid, status] = ["uuid", "status"].map(|key| said(&refused, key));
    assert_eq!((&*uuid, &*status), ("c", "refused"));
    peer.say(&[("cmd", "list".into()), ("uuid", "l".into())]).await;
    assert_eq!(peer.answers("l").await.0.len(), 1);
}

#[tokio::test]
async fn a_slow_call_delays_neither_others_nor_the_heartbeat() {
    let (_master, mut peer) = demo_meeting(config()).await;
    peer.call("slow", "demo", "never", Value::Nil).await;
    assert_eq!(called(&mut peer, "pair", list(["x".into(), 1.into()])).await.0, [list([1.into(), "x".into()])]);
    peer.say_bytes(b"\x82\xa3cmd\xa4ping\xa4uuid\xa3p-1").await;
    peer.hear_bytes(b"\x82\xa3cmd\xa4pong\xa4uuid\xa3p-1").await;
}

#[tokio::test]
async fn a_master_asks_for_a_sign_of_life() {
    let mut config = config();
    (config.tunnel.ping_interval, config.tunnel.pong_timeout) = (Duration::from_millis(50), SOON);
    let (_master, mut peer) = demo_meeting(config).await;
    for _ in 0..2 {
        let ping = peer.hear().await;
        assert_eq!(said(&ping, "cmd"), "ping");
        peer.say(&[("cmd", "pong".into()), ("uuid", said(&ping, "uuid").into())]).await;
    }
}
