//! Calls whose values come one by one: told as they come, given up with their caller, bounded while nobody fetches.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rmpv::Value;
use roster::master::{Service, Values};
use serde_json::{Value as Json, json};

use crate::harness::master::Scripted;
use crate::harness::{Client, Printing, SOON, ensure, eventually, exception};
use crate::idl::{Call, CallFailed, CallTimedOut, InvalidRequest, NextValuesRequest, StatusRequest, TRosterSyncClient};
use crate::joining::following;
use crate::masters::{Php, gives, offers, with_master};
use crate::register::{Scene, TOKEN};

/// A master that offers `mail`, and what it was asked last.
struct Mail {
    master: Scripted,
    call: u64,
}

impl Mail {
    fn join(scene: &Scene) -> Self {
        let master = Scripted::join(scene.port, TOKEN, &[("mail", Value::Array(Vec::new()))]);
        scene.has(1);
        Self { master, call: 0 }
    }

    fn is_called(&mut self) {
        self.call = self.master.asked("call").id;
    }

    fn gives(&mut self, value: impl Into<Value>) {
        self.master.gives(self.call, &value.into());
    }

    /// Answers a call of this client's with a first value.
    fn begins(&mut self, client: &mut Client) {
        let first = std::thread::scope(|scope| {
            scope.spawn(|| {
                self.is_called();
                self.gives(1);
            });
            client.start_call(listing()).expect("a value")
        });
        assert_eq!((first.values, first.completion), (vec![b"1".to_vec()], None));
    }

    /// Waits until it is told that nobody wants more.
    fn is_given_up(&mut self) {
        while self.master.asked("close").id != self.call {}
    }
}

fn listing() -> Call {
    Call { timeout_ms: Some(60_000), ..Call::of("mail", "list", "") }
}

#[test]
fn call_prints_each_value_while_the_call_goes_on_and_then_the_masters_error() {
    let scene = Scene::new();
    let mut mail = Mail::join(&scene);
    let call = Printing::start(&mut scene.roster.command(["call", "mail.list", "box=7", "--timeout", "60s"]));
    mail.is_called();
    for value in 1..=3 {
        mail.gives(value);
        assert_eq!(call.line(), value.to_string());
    }
    mail.master.fails(mail.call, "Full", "the box is full", 7);
    let ended = call.hang_up(|| {});
    assert_eq!(ended.code, Some(7), "{ended:?}");
    assert!(ended.wrong.contains("the box is full"), "{ended:?}");
}

#[test]
fn a_call_whose_caller_leaves_between_two_values_is_given_up_at_the_master() {
    let scene = Scene::new();
    let mut mail = Mail::join(&scene);
    let call = Printing::start(&mut scene.roster.command(["call", "mail.list", "--timeout", "60s"]));
    mail.is_called();
    mail.gives("first");
    assert_eq!(call.line(), "\"first\"");
    drop(call);
    mail.is_given_up();
    // Also where nobody waits for the next.
    let mut client = scene.roster.client();
    mail.begins(&mut client);
    drop(client);
    mail.is_given_up();
}

#[test]
fn an_error_after_some_values_arrives_as_what_it_is_and_the_connection_can_be_used() {
    let scene = Scene::new();
    let mut mail = Mail::join(&scene);
    let mut client = scene.roster.client();
    mail.begins(&mut client);
    exception::<InvalidRequest>(client.start_call(listing())).expect("one is open");
    mail.master.fails(mail.call, "Full", "no", 7);
    let failed = exception::<CallFailed>(client.next_values(NextValuesRequest::default())).expect("a failed call");
    assert_eq!((&*failed.message, failed.class_name.as_deref(), failed.code), ("no", Some("Full"), 7));
    exception::<InvalidRequest>(client.next_values(NextValuesRequest::default())).expect("none is open");
    let mut outstanding =
        || client.status(StatusRequest::default()).map(|it| it.counters["callsOutstanding"]).map_err(|e| e.to_string());
    eventually("no call is under way", SOON, || ensure(outstanding()? == 0, "one is"));
}

#[test]
fn values_that_nobody_fetches_take_bounded_memory_and_end_the_call_of_a_master_that_does_not_rest() {
    const MIB: usize = 1 << 20;
    let scene = Scene::new();
    let mut mail = Mail::join(&scene);
    let mut client = scene.roster.client();
    mail.begins(&mut client);
    let before = scene.roster.memory();
    for _ in 0..80 {
        mail.gives("x".repeat(MIB / 2));
    }
    mail.is_given_up();
    let more = scene.roster.memory().saturating_sub(before);
    assert!(more < 40 * MIB, "{} MiB", more / MIB);
    let mut values = 0;
    let failed = loop {
        match client.next_values(NextValuesRequest::default()) {
            Ok(next) => values += next.values.len(),
            failed => break exception::<CallFailed>(failed).expect("a failed call"),
        }
    };
    assert!((16..40).contains(&values), "{values}");
    assert!(failed.message.contains("faster than they were taken"), "{failed:?}");
}

/// What a client gets of a call as it comes, and how long after the beginning.
fn fetched(client: &mut Client, method: &str, arguments: &str, mut each: impl FnMut(Duration, &[u8])) {
    let begun = Instant::now();
    let mut next = client.start_call(demo(method, arguments)).expect("values");
    loop {
        next.values.iter().for_each(|value| each(begun.elapsed(), value));
        if next.completion.is_some() {
            return;
        }
        next = client.next_values(NextValuesRequest::default()).expect("values, or the end");
    }
}

fn demo(method: &str, arguments: &str) -> Call {
    Call { timeout_ms: Some(60_000), all_values: Some(true), ..Call::of("demo", method, arguments) }
}

/// A register, and a master of PHP that is there.
fn php() -> (Scene, Php) {
    let scene = Scene::new();
    let php = Php::start(scene.port, "", &[]);
    offers(&scene, &["control", "demo"]);
    (scene, php)
}

#[test]
fn what_a_generator_and_a_stream_of_react_give_arrives_as_it_is_given() {
    let (scene, _php) = php();
    for method in ["paced", "pacedStream"] {
        // A busy machine may hold up one of them, but not each time.
        eventually("each arrives as it is given", 2 * SOON, || {
            let mut came = Vec::new();
            fetched(&mut scene.roster.client(), method, "[4, 0.4]", |at, _| came.push(at));
            assert_eq!(came.len(), 4, "{method}");
            let mut gaps = came.windows(2).map(|two| two[1] - two[0]);
            let are_apart = gaps.all(|gap| gap > Duration::from_millis(200));
            ensure(are_apart && came[0] < Duration::from_millis(1_000), format!("{method}: {came:?}"))
        });
    }
}

#[test]
fn several_values_are_not_held_back_on_their_way() {
    let (scene, _php) = php();
    // PHP leaves Nagle's algorithm on: what it writes second waits until the first is acknowledged, else for 40 ms.
    let lasted = (0..60).map(|_| {
        let began = Instant::now();
        assert_eq!(gives(&scene, "demo", "values", json!([])).len(), 3);
        began.elapsed()
    });
    // What comes first on a connection is acknowledged at once in any case.
    let shortest = lasted.skip(30).min().expect("one is the shortest");
    assert!(shortest < Duration::from_millis(35), "{shortest:?}");
}

#[test]
fn a_slow_reader_of_very_much_costs_the_master_and_the_sidecar_a_bounded_buffer() {
    const MIB: i64 = 1 << 20;
    let (scene, _php) = php();
    let peak = || gives(&scene, "control", "peak", json!([]))[0].as_i64().expect("bytes");
    for method in ["megabytes", "megabyteStream"] {
        let (before, sidecar) = (peak(), scene.roster.memory());
        let (mut bytes, mut most) = (0, 0);
        fetched(&mut scene.roster.client(), method, "[40]", |_, value| {
            bytes += value.len();
            std::thread::sleep(Duration::from_millis(20));
            most = most.max(scene.roster.memory());
        });
        assert!(bytes > 40 * 900_000, "{method}: {bytes} bytes");
        assert!(peak() - before < 10 * MIB, "{method}: {} MiB more at the master", (peak() - before) / MIB);
        let more = most.saturating_sub(sidecar) as i64;
        assert!(more < 40 * MIB, "{method}: {} MiB more in the sidecar", more / MIB);
    }
}

#[test]
fn a_master_in_rust_waits_for_a_slow_reader_also_through_another_register() {
    const COUNT: usize = 400;
    let hub = Scene::new();
    let beside = following(hub.port, "");
    let sent: Arc<AtomicUsize> = Arc::default();
    let counted = sent.clone();
    let fill = move |_: Json, values: Values| {
        let sent = counted.clone();
        async move {
            for _ in 0..COUNT {
                values.send("x".repeat(100_000)).await?;
                sent.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
    };
    with_master(Service::new("demo").stream("fill", fill), &[hub.port], |_| {
        for scene in [&hub, &beside] {
            offers(scene, &["demo"]);
            sent.store(0, Ordering::Relaxed);
            let mut client = scene.roster.client();
            let mut came = client.start_call(demo("fill", "[]")).expect("values");
            // Whoever fetches nothing has the master wait.
            let rests = || {
                let before = sent.load(Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1_000));
                // A busy machine may hold it up before.
                let is_full = before >= 60 + came.values.len();
                ensure(is_full && sent.load(Ordering::Relaxed) == before, before)
            };
            eventually("the master rests", SOON, rests);
            let ahead = sent.load(Ordering::Relaxed) - came.values.len();
            assert!((60..110).contains(&ahead), "{ahead} values of 100,000 bytes were sent that nobody fetched");
            let mut count = came.values.len();
            while came.completion.is_none() {
                came = client.next_values(NextValuesRequest::default()).expect("values, or the end");
                count += came.values.len();
            }
            assert_eq!(count, COUNT);
        }
    });
}

#[test]
fn what_never_ends_stops_with_its_caller() {
    let (scene, php) = php();
    for method in ["forever", "foreverStream"] {
        // One who is too late,
        let late = scene.roster.client().call(Call { timeout_ms: Some(2_000), ..Call::of("demo", method, "[]") });
        exception::<CallTimedOut>(late).expect("the call is too late");
        php.says("stopped");
        // and one who leaves in the midst of it.
        let mut client = scene.roster.client();
        client.start_call(demo(method, "[]")).expect("values");
        drop(client);
        eventually("both have stopped", SOON, || {
            let said = php.said();
            ensure(said.matches(&format!("{method} stopped")).count() == 2, said)
        });
    }
    let late =
        scene.roster.client().call(Call { timeout_ms: Some(2_000), ..Call::of("control", "later", b"[30]".to_vec()) });
    exception::<CallTimedOut>(late).expect("the call is too late");
    php.says("cancelled");
}

#[test]
fn calls_of_every_kind_leave_nothing_behind_in_the_master() {
    let (scene, _php) = php();
    let floor = || gives(&scene, "control", "memory", json!([]))[0].as_i64().expect("bytes");
    let kinds = ["echo", "values", "later", "standard", "nope", "fail", "broken", "stream", "laterValues", "never"];
    let call = |count: usize| {
        let mut client = scene.roster.client();
        for kind in kinds.iter().cycle().take(count) {
            let _ = client.call(demo(kind, "[[1]]"));
        }
    };
    call(100);
    let before = floor();
    call(5_000);
    assert!(floor() - before < 2_000, "{} bytes more after 5,000 calls", floor() - before);
}
