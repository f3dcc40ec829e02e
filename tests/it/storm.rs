//! Very many masters that come back at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{Crowd, Over, ensure, eventually};
use crate::idl::{ServiceQuery, StatusRequest, TRosterSyncClient};
use crate::register::{Scene, TOKEN};

const MASTERS: usize = 500;
const SERVICES: usize = 5;

/// Seconds, on a machine with other things to do.
const SECONDS: Duration = Duration::from_secs(60);

/// How many masters offer the first service, as a client is told.
fn offering(scene: &Scene) -> Result<usize, String> {
    let all = ServiceQuery { service_name: Some("greeter".to_owned()), ..ServiceQuery::default() };
    let told = scene.roster.client().services(all).map_err(|error| format!("{error:?}"))?;
    Ok(told.services.iter().flat_map(|service| service.masters.values()).sum::<i32>() as usize)
}

fn are_there(scene: &Scene, count: usize) {
    let found = || offering(scene).and_then(|found| ensure(found == count, format!("{found} are")));
    eventually("all masters are there", SECONDS, found);
}

#[test]
fn masters_that_are_cut_off_together_are_all_back_soon_and_clients_are_answered_meanwhile() {
    let mut scene = Scene::with("auth_timeout = \"60s\"\nping_interval = \"60s\"");
    let crowd = Crowd::start(scene.port, TOKEN, MASTERS, SERVICES, Duration::from_millis(500));
    are_there(&scene, MASTERS);
    // This one is not cut off, and called all the time.
    let steady = Crowd::start(scene.port, TOKEN, 1, SERVICES, Duration::from_millis(500));
    are_there(&scene, MASTERS + 1);
    let (knocks, over) = (crowd.knocks(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let mut answers = 0;
            while !over.load(Ordering::Relaxed) {
                answers += usize::from(scene.call("greeter", "hello", "").is_ok());
                scene.roster.client().status(StatusRequest::default()).expect("an answer");
            }
            answers
        });
        let running = Over(&over);
        crowd.cut();
        eventually("they knock again", SECONDS, || ensure(crowd.knocks() > knocks, "nobody does"));
        eventually("all have", SECONDS, || ensure(crowd.knocks() >= knocks + MASTERS, crowd.knocks()));
        are_there(&scene, MASTERS + 1);
        drop(running);
        assert!(clients.join().expect("no panic") > 0, "no call was answered");
    });
    assert_eq!(crowd.knocks(), knocks + MASTERS, "nobody had to knock twice");

    scene.roster.kill();
    scene.roster.run();
    are_there(&scene, MASTERS + 1);
    drop(steady);
    are_there(&scene, MASTERS);
}
