//! Calls whose values come one by one: told as they come, given up with their caller, bounded while nobody fetches.

use rmpv::Value;

use crate::harness::master::{Scripted, map, text};
use crate::harness::{Client, Printing, exception};
use crate::idl::{Call, CallFailed, CallOptions, InvalidRequest, TRosterSyncClient};
use crate::register::{Scene, TOKEN};

/// A master that offers `mail`, and what it was asked last.
struct Mail {
    master: Scripted,
    uuid: String,
}

impl Mail {
    fn join(scene: &Scene) -> Self {
        let master = Scripted::join(scene.port, TOKEN, &[("mail", Value::Array(Vec::new()))]);
        scene.has(1);
        Self { master, uuid: String::new() }
    }

    fn is_called(&mut self) {
        self.uuid = text(&self.master.hears_command("callback"), "uuid");
    }

    fn gives(&mut self, what: &str, value: Value) {
        let data = map([(what, value)]);
        self.master.say(map([("cmd", "data".into()), ("uuid", self.uuid.as_str().into()), ("data", data)]));
    }

    /// Answers a call of this client's with a first value.
    fn begins(&mut self, client: &mut Client) {
        let first = std::thread::scope(|scope| {
            scope.spawn(|| {
                self.is_called();
                self.gives("value", 1.into());
            });
            client.start_call(listing(), String::new()).expect("a value")
        });
        assert_eq!((first.values, first.ended), (vec![b"1".to_vec()], None));
    }

    /// Waits until it is told that nobody wants more.
    fn is_given_up(&mut self) {
        while text(&self.master.hears_command("close"), "uuid") != self.uuid {}
    }
}

fn listing() -> Call {
    let options = CallOptions::new(60_000, None, None, None, None, None, None, None);
    Call::new("mail".into(), "list".into(), Vec::new(), options)
}

#[test]
fn call_prints_each_value_while_the_call_goes_on_and_then_the_masters_error() {
    let scene = Scene::new();
    let mut mail = Mail::join(&scene);
    let call = Printing::start(&mut scene.roster.command(["call", "mail.list", "box=7", "--timeout", "60s"]));
    mail.is_called();
    for value in 1..=3 {
        mail.gives("value", value.into());
        assert_eq!(call.line(), value.to_string());
    }
    mail.gives("error", map([("class", "Full".into()), ("message", "the box is full".into()), ("code", 7.into())]));
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
    mail.gives("value", "first".into());
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
    exception::<InvalidRequest>(client.start_call(listing(), String::new())).expect("one is open");
    mail.gives("error", map([("class", "Full".into()), ("message", "no".into()), ("code", 7.into())]));
    let failed = exception::<CallFailed>(client.next_values()).expect("a failed call");
    assert_eq!((&*failed.message, failed.class_name.as_deref(), failed.code), ("no", Some("Full"), 7));
    exception::<InvalidRequest>(client.next_values()).expect("none is open");
    assert_eq!(client.status().expect("an answer").counters["callsOutstanding"], 0);
}

#[test]
fn values_that_nobody_fetches_take_bounded_memory_and_end_the_call() {
    const MIB: usize = 1 << 20;
    let scene = Scene::new();
    let mut mail = Mail::join(&scene);
    let mut client = scene.roster.client();
    mail.begins(&mut client);
    let before = scene.roster.memory();
    for _ in 0..80 {
        mail.gives("value", "x".repeat(MIB / 2).into());
    }
    mail.is_given_up();
    let more = scene.roster.memory().saturating_sub(before);
    assert!(more < 30 * MIB, "{} MiB", more / MIB);
    let values = client.next_values().expect("what came in time").values;
    assert!((8..16).contains(&values.len()), "{}", values.len());
    let failed = exception::<CallFailed>(client.next_values()).expect("a failed call");
    assert!(failed.message.contains("max_reply"), "{failed:?}");
}
