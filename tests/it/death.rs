//! Masters that are killed under load: no call is lost without an error, none executed twice unless it may be.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use crate::harness::{Over, SOON, ensure, eventually};
use crate::idl::{Call, CallFailed, CallResult, NoMaster, Overloaded, TRosterSyncClient};
use crate::masters::Php;
use crate::register::Scene;

const MASTERS: usize = 3;
const CLIENTS: usize = 4;
const DEATHS: usize = 8;

/// How many calls are made from one death to the next.
const CALLS: usize = 60;

/// What a caller is told of its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Answered,
    /// It may have been executed.
    Lost,
    /// It was not sent.
    Refused,
}

fn told(answer: thrift::Result<CallResult>) -> Told {
    match answer {
        Ok(_) => Told::Answered,
        Err(thrift::Error::User(error)) if error.is::<NoMaster>() || error.is::<Overloaded>() => Told::Refused,
        Err(thrift::Error::User(error)) if error.downcast_ref::<CallFailed>().is_some_and(|failed| failed.lost) => {
            Told::Lost
        }
        Err(other) => panic!("neither an answer nor a clear error: {other:?}"),
    }
}

/// Has clients make calls, of which each leaves its id in the file, while masters are killed and others started. What
/// they were told of each, and how often it was executed.
fn under_load(is_idempotent: bool) -> Vec<(Told, usize)> {
    let scene = Scene::new();
    let file = scene.roster.folder().join("executed");
    let mut masters: Vec<Php> = (0..MASTERS).map(|_| Php::start(scene.port, "", &[])).collect();
    scene.has(MASTERS);
    let (made, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let client = |number: usize| {
        let (mut client, mut all) = (scene.roster.client(), HashMap::new());
        while !over.load(Ordering::Relaxed) {
            let id = format!("{number}-{}", all.len());
            let arguments = json!([file, format!("{id}\n")]).to_string();
            all.insert(
                id,
                told(client.call(Call {
                    timeout_ms: Some(60_000),
                    retries: Some(5),
                    idempotent: Some(is_idempotent),
                    ..Call::of("control", "append", arguments)
                })),
            );
            made.fetch_add(1, Ordering::Relaxed);
        }
        all
    };
    let calls: Vec<(String, Told)> = std::thread::scope(|scope| {
        let client = &client;
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        let over = Over(&over);
        for _ in 0..DEATHS {
            let until = made.load(Ordering::Relaxed) + CALLS;
            eventually("calls are made", SOON * 3, || ensure(made.load(Ordering::Relaxed) >= until, "too few"));
            drop(masters.swap_remove(RandomState::new().hash_one(0) as usize % MASTERS));
            scene.has(MASTERS - 1);
            masters.push(Php::start(scene.port, "", &[]));
            scene.has(MASTERS);
        }
        drop(over);
        clients.into_iter().flat_map(|client| client.join().expect("no panic")).collect()
    });
    // What was still being executed for a call that was lost, has been when its master is dead.
    drop(masters);
    let mut executed: HashMap<String, usize> = HashMap::new();
    for id in std::fs::read_to_string(&file).expect("what was executed").lines() {
        *executed.entry(id.to_owned()).or_default() += 1;
    }
    calls.into_iter().map(|(id, told)| (told, executed.remove(&id).unwrap_or(0))).collect()
}

#[test]
fn no_call_is_lost_without_an_error_and_none_executed_twice() {
    for call in under_load(false) {
        let is_right = match call {
            (Told::Answered, executed) => executed == 1,
            (Told::Lost, executed) => executed <= 1,
            (Told::Refused, executed) => executed == 0,
        };
        assert!(is_right, "{call:?}");
    }
}

#[test]
fn a_call_that_may_be_executed_twice_succeeds_while_another_master_lives() {
    for call in under_load(true) {
        assert!(matches!(call, (Told::Answered, 1..)), "{call:?}");
    }
}
