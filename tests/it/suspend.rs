//! After a suspend nothing claims to be fresh that was read before it.

use std::time::Duration;

use roster::store::shared::Reader;

use crate::harness::{Roster, SOON, Server, Sleep, binary, ensure, eventually, source};

/// How long the machine sleeps, in seconds: longer than any proof holds.
const SLEEP: u64 = 8;

#[test]
fn after_a_suspend_the_first_answer_is_as_old_as_it_says() {
    let server = Server::start();
    server.zk().create("/a", "before");
    let mut roster = Roster::prepare(&source(&server.address(), ""));
    let sleep = Sleep::new(roster.folder());
    let mut serve = roster.serve(binary());
    sleep.rules(&mut serve);
    roster.run_as(&mut serve);
    roster.becomes("live");
    eventually("it is fresh", SOON, || ensure(roster.get("/a").is_ok_and(|it| it.freshness.age_ms == 0), roster.log()));

    sleep.suspends(&roster, SLEEP, || server.zk().set("/a", "after"));
    let slept = Duration::from_secs(SLEEP).as_millis() as i64;
    eventually("it is in sync again", SOON, || {
        let answer = roster.get("/a").expect("a node");
        let age = answer.freshness.age_ms;
        if answer.node.data == b"before" {
            assert!(age >= slept - 1_000, "{age} ms");
        }
        ensure(answer.node.data == b"after" && age == 0, age)
    });
    let report = || Reader::open(&roster.shared_file()).and_then(|reader| reader.status()).map_err(|e| e.to_string());
    eventually("so is the file", SOON, || ensure(report()?.sources[0].age_ms == Some(0), "it is not"));
}
