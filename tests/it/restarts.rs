//! Restarts: what of masters stays known while the sidecar is away, and until they have come back.

use std::thread;
use std::time::{Duration, Instant};

use rmpv::Value;
use roster::master;
use serde_json::Value as Json;

use crate::harness::master::Scripted;
use crate::harness::{SOON, ensure, eventually, exception};
use crate::idl::{Call, MastersReply, NoMaster, Origin, ServiceQuery, TRosterSyncClient};
use crate::joining::following;
use crate::register::{Scene, TOKEN};

/// So many masters that their ends take longer than the last transaction of the shared file.
const MANY: usize = 200;

fn mail(port: u16) -> Scripted {
    Scripted::join(port, TOKEN, &[("mail", Value::Array(Vec::new()))])
}

/// What the shared file tells of masters.
fn file(scene: &Scene) -> Json {
    let path = scene.roster.shared_file();
    scene.roster.cli(["masters", "-o", "json", "--shared", path.to_str().expect("a path")]).json()
}

/// The masters as the shared file has them.
fn filed(scene: &Scene) -> Vec<Json> {
    file(scene)["masters"].as_array().expect("a list").clone()
}

/// Waits until so many masters are in the shared file, so that they are known after a kill.
fn files(scene: &Scene, count: usize) {
    eventually("the file has them", SOON, || ensure(filed(scene).len() == count, format!("{:?}", filed(scene))));
}

fn masters(scene: &Scene) -> MastersReply {
    scene.roster.client().masters(all()).expect("an answer")
}

fn all() -> ServiceQuery {
    ServiceQuery::default()
}

/// How many masters are told of, and how many of them have a connection.
fn counts(reply: &MastersReply) -> (usize, usize) {
    (reply.masters.len(), reply.masters.iter().filter(|master| master.routes > 0).count())
}

/// Waits until all that is known of masters is said to be so now.
fn settles(scene: &Scene) -> MastersReply {
    eventually("all is known", SOON, || {
        let reply = scene.roster.client().masters(all()).map_err(|error| format!("{error:?}"))?;
        let fresh = &reply.freshness;
        ensure(fresh.complete && fresh.origin == Origin::LIVE && fresh.age_ms == 0, format!("{reply:?}"))?;
        let filed = &file(scene)["freshness"];
        ensure(filed["complete"] == true && filed["origin"] == "LIVE", filed)?;
        Ok::<_, String>(reply)
    })
}

#[test]
fn a_stop_in_order_writes_no_master_out_of_the_shared_file() {
    let mut scene = Scene::new();
    let _masters: Vec<_> = (0..MANY).map(|_| mail(scene.port)).collect();
    scene.has(MANY);
    assert!(scene.roster.stop().success());
    assert_eq!(filed(&scene).len(), MANY);
}

#[test]
fn after_a_restart_masters_stand_as_they_were_until_they_are_back() {
    let mut scene = Scene::with("settle = \"6s\"");
    let mut before: Vec<_> = (0..3).map(|_| mail(scene.port)).collect();
    scene.has(3);
    let fresh = masters(&scene).freshness;
    assert!(fresh.origin == Origin::LIVE && !fresh.complete, "others may be on their way: {fresh:?}");
    settles(&scene);
    scene.roster.configure("settle = \"6s\"", "settle = \"60s\"");
    for kills in [true, false] {
        if kills {
            scene.roster.kill()
        } else {
            assert!(scene.roster.stop().success())
        }
        scene.roster.run();
        let restored = masters(&scene);
        assert_eq!(counts(&restored), (3, 0), "{restored:?}");
        let fresh = &restored.freshness;
        assert!(fresh.origin == Origin::RESTORED && fresh.age_ms > 0 && !fresh.complete, "{fresh:?}");
        // As masters of PHP do, they come back under other ids.
        let mut back: Vec<_> = (0..2).map(|_| mail(scene.port)).collect();
        eventually("two are back", SOON, || {
            ensure(counts(&masters(&scene)) == (3, 2), format!("{:?}", masters(&scene)))
        });
        files(&scene, 3);
        let fresh = masters(&scene).freshness;
        assert!(fresh.origin == Origin::RESTORED && !fresh.complete, "{fresh:?}");
        let began = Instant::now();
        back.push(mail(scene.port));
        assert_eq!(counts(&settles(&scene)), (3, 3));
        assert!(began.elapsed() < Duration::from_secs(30), "nobody else is waited for");
        eventually("the file has them", SOON, || {
            let routes: Vec<Json> = filed(&scene).iter().map(|master| master["routes"].clone()).collect();
            ensure(routes == [1, 1, 1], format!("{routes:?}"))
        });
        // Until the next stop: what leaves of itself is gone.
        before = back;
    }
    drop(before);
}

#[test]
fn who_has_not_come_back_in_time_is_gone() {
    let mut scene = Scene::with("settle = \"3s\"");
    let before: Vec<_> = (0..2).map(|_| mail(scene.port)).collect();
    scene.has(2);
    settles(&scene);
    files(&scene, 2);
    scene.roster.configure("settle = \"3s\"", "settle = \"8s\"");
    scene.roster.kill();
    drop(before);
    scene.roster.run();
    let _back = mail(scene.port);
    assert_eq!(masters(&scene).masters.len(), 2);
    assert_eq!(counts(&settles(&scene)), (1, 1));
    files(&scene, 1);
}

#[test]
fn a_call_right_after_a_restart_waits_for_its_master() {
    let mut scene = Scene::new();
    let before = mail(scene.port);
    scene.has(1);
    settles(&scene);
    files(&scene, 1);
    scene.roster.configure("settle = \"1s\"", "settle = \"60s\"");
    scene.roster.kill();
    drop(before);
    scene.roster.run();
    thread::scope(|scope| {
        let call = scope.spawn(|| scene.call("mail", "send", "[]"));
        thread::sleep(Duration::from_millis(700));
        assert!(!call.is_finished(), "it waits");
        let mut master = mail(scene.port);
        let asked = master.asked("call");
        master.answers(asked.id, [42.into()]);
        let result = call.join().expect("the caller").expect("a result");
        assert_eq!((result.values, result.attempts), (vec![b"42".to_vec()], 1));
        // What nobody has ever offered is not waited for: in time for that, the client gives up.
        let other = Call { timeout_ms: Some(60_000), ..Call::of("other", "send", "[]") };
        exception::<NoMaster>(scene.roster.client().call(other)).expect("nobody is there");
    });
}

#[test]
fn a_master_of_rust_is_called_right_after_a_restart() {
    let mut scene = Scene::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let _inside = runtime.enter();
    let master = master::Master::start(master::Config::new(TOKEN));
    master.offer(master::Service::new("mail").method("send", |()| async move { Ok("sent") }));
    master.connect(("127.0.0.1", scene.port));
    settles(&scene);
    scene.has(1);
    // It comes back after up to half a second, or where that was too early, after up to a second more.
    scene.roster.configure("settle = \"1s\"", "settle = \"60s\"");
    // A connection that held.
    thread::sleep(Duration::from_millis(1_200));
    for _ in 0..3 {
        assert!(scene.roster.stop().success());
        scene.roster.run();
        assert_eq!(scene.call("mail", "send", "[]").expect("a result").values, [br#""sent""#.to_vec()]);
        thread::sleep(Duration::from_millis(1_200));
    }
    runtime.block_on(master.stop());
}

#[test]
fn masters_of_a_register_that_restarts_stay_known_to_those_who_follow_it() {
    let mut hub = Scene::new();
    let beside = following(hub.port, "");
    let before: Vec<_> = (0..2).map(|_| mail(hub.port)).collect();
    beside.has(2);
    settles(&hub);
    files(&hub, 2);
    hub.roster.configure("settle = \"1s\"", "settle = \"60s\"");
    hub.roster.kill();
    hub.roster.run();
    drop(before);
    let _one = mail(hub.port);
    eventually("one is back", SOON, || {
        let reply = masters(&beside);
        ensure(counts(&reply) == (2, 1) && !reply.freshness.complete, format!("{reply:?}"))
    });
    let _two = mail(hub.port);
    assert_eq!(counts(&settles(&beside)), (2, 2));
}

#[test]
fn masters_have_more_time_to_come_back_than_those_of_the_library_take() {
    let settle = roster::register::Config::default().settle;
    let config = master::Config::new("");
    assert!(settle > config.longest_retry_delay + config.retry_delay, "{settle:?}");
}
