//! What vanishes from ZooKeeper in numbers is served on until it is known to be gone.

use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use futures::future::try_join_all;
use serde_json::Value;
use zookeeper_client::{Acls, CreateMode};

use crate::harness::{Ended, Roster, SOON, Scene, Zk, ensure, eventually, free_port, fresh_chroot, offering};
use crate::idl::TRosterSyncClient;

const SETTINGS: &str = r#"
[[services]]
root = "/s"
format = "raw"

[guard]
probe_interval = "200ms"
"#;

/// Processes of a service, each at a port of its own, at which nobody else answers once it is gone.
fn processes(count: usize) -> Vec<TcpListener> {
    (0..count).map(|_| TcpListener::bind(("127.0.0.1", free_port())).expect("a port")).collect()
}

fn address(process: &TcpListener) -> String {
    process.local_addr().expect("an address").to_string()
}

/// Registers processes as nodes, and waits until all are told of.
fn register(scene: &Scene, service: &str, processes: &[TcpListener]) {
    for (number, process) in processes.iter().enumerate() {
        scene.zk.create(&format!("/s/{service}/i-{number}"), address(process));
    }
    becomes(scene, service, (processes.len(), 0));
}

fn instances(scene: &Scene, service: &str) -> Value {
    let ended = scene.roster.cli(["services", service, "-o", "json"]);
    if ended.code == Some(0) { ended.json() } else { Value::Null }
}

/// How many instances a service has, and how many of them are held.
fn count(scene: &Scene, service: &str) -> (usize, usize) {
    let told = instances(scene, service);
    let all = told["instances"].as_array().cloned().unwrap_or_default();
    let held = all.iter().filter(|it| it.get("held").is_some()).count();
    assert_eq!(told["protected"].as_bool().unwrap_or(false), held > 0, "{told}");
    (all.len(), held)
}

fn becomes(scene: &Scene, service: &str, expected: (usize, usize)) {
    eventually(&format!("{service} has {expected:?}"), SOON, || {
        let found = count(scene, service);
        ensure(found == expected, format!("{found:?}\n{}", scene.roster.log()))
    });
}

/// What the guard says of a service by the command line.
fn guarded(scene: &Scene, service: &str) -> Value {
    scene.roster.cli(["guard", "list", service, "-o", "json"]).json()["services"][0].clone()
}

/// Whether PHP is told that a service is protected, by the shared file and by the sidecar.
fn in_php(scene: &Scene, service: &str) -> String {
    let (socket, file) = (scene.roster.socket().display(), scene.roster.shared_file());
    let code = format!(
        "require 'php/autoload.php'; foreach ([['{socket}', '', ''], ['', '', '{}']] as $where) {{ \
         $roster = Roster\\Client::local(...$where); \
         echo json_encode($roster->resolve('{service}')->isProtected), \
             count(array_filter($roster->instances('{service}'), fn ($it) => $it->held !== null)), ' '; }}",
        file.display()
    );
    Ended::of(Command::new("php").current_dir(env!("CARGO_MANIFEST_DIR")).args(["-r", &code])).text()
}

/// Waits until that is so: the sidecar writes its file after it has told of a change.
fn becomes_in_php(scene: &Scene, service: &str, expected: &str) {
    eventually("PHP is told", SOON, || {
        let found = in_php(scene, service);
        ensure(found == expected, found)
    });
}

#[test]
fn of_an_ensemble_that_comes_back_empty_what_still_answers_is_served_and_what_refuses_is_gone() {
    let mut scene = Scene::own(SETTINGS);
    let (mut web, db) = (processes(8), processes(1));
    register(&scene, "web", &web);
    register(&scene, "db", &db);
    scene.link.cut();
    scene.server().restart_empty();
    assert_eq!((count(&scene, "web"), count(&scene, "db")), ((8, 0), (1, 0)), "a source that is away changes nothing");
    scene.link.mend();
    becomes(&scene, "web", (8, 8));
    becomes(&scene, "db", (1, 1));
    eventually("all are found to answer", SOON, || {
        let found = guarded(&scene, "web");
        ensure(found["answering"] == 8 && found["registered"] == 0, format!("{found}"))
    });
    becomes_in_php(&scene, "web", "true8 true8 ");
    assert_eq!(scene.roster.status().counters["heldInstances"], 9);
    web.truncate(3);
    becomes(&scene, "web", (3, 3));
    scene.zk.create("/s/new/i", "127.0.0.1:1");
    becomes(&scene, "new", (1, 0));
    register(&scene, "web", &web);
    becomes_in_php(&scene, "web", "false0 false0 ");
    assert!(guarded(&scene, "web").is_null());
}

#[test]
fn sessions_that_end_all_at_once_take_no_service_down_and_an_administrator_can_say_otherwise() {
    let (zk, processes) = (fresh_chroot(), processes(10));
    zk.create("/s/web", "");
    let node = |number: usize| (format!("/s/web/i-{number}"), address(&processes[number]));
    // Those that stay are of no session, which could end by chance.
    (6..10).map(node).for_each(|(path, address)| zk.create(&path, &address));
    let owners: Vec<_> = (0..6).map(node).map(|(path, address)| zk.ephemeral(&path, &address)).collect();
    // Before it starts, so that none are new, and may be in place of others.
    let mut scene = Scene::with(&zk, SETTINGS);
    becomes(&scene, "web", (10, 0));
    owners.into_iter().for_each(|owner| owner.dies());
    eventually("they are held", SOON * 3, || {
        let found = count(&scene, "web");
        ensure(found == (10, 6), format!("{found:?}"))
    });
    let tcp = format!("127.0.0.1:{}", scene.roster.port());
    let denied = scene.roster.cli(["guard", "release", "web", "--address", &tcp]);
    assert_eq!(denied.code, Some(8), "{denied:?}");
    scene.roster.is_in_its_file();
    scene.roster.kill();
    scene.link.cut();
    scene.roster.run();
    becomes(&scene, "web", (10, 6));
    scene.link.mend();
    scene.roster.becomes("live");
    assert_eq!(count(&scene, "web"), (10, 6), "they are held still");
    let host = scene.roster.cli(["guard", "release", "web", "127.0.0.1"]);
    assert!(host.code == Some(1) && host.wrong.contains(&address(&processes[0])), "{host:?}");
    let nobody = "127.0.0.1:9";
    let one = scene.roster.cli(["guard", "release", "web", &address(&processes[0]), nobody, &address(&processes[0])]);
    assert!(one.code == Some(1) && one.wrong.contains("nothing is held at 127.0.0.1:9; held are"), "{one:?}");
    assert_eq!(one.told, b"let go 1 instance\n");
    becomes(&scene, "web", (9, 5));
    let longer = scene.roster.cli(["guard", "accept", "web", "--for", "40d"]);
    assert!(longer.code == Some(2) && longer.wrong.contains("'40d'"), "{longer:?}");
    let all = scene.roster.cli(["guard", "accept", "web", "--for", "10m"]);
    assert_eq!(all.text(), "let go 5 instances; whatever vanishes within 10m is gone at once\n");
    becomes(&scene, "web", (4, 0));
    assert!(scene.roster.cli(["guard", "list"]).text().contains("web"));
    let unknown = scene.roster.cli(["guard", "accept", "nothing"]);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
}

#[test]
fn a_service_that_is_shut_down_is_gone_when_its_probes_say_so() {
    let scene = Scene::with(&fresh_chroot(), SETTINGS);
    let web = processes(10);
    register(&scene, "web", &web);
    drop(web);
    (0..10).for_each(|number| scene.zk.delete(&format!("/s/web/i-{number}")));
    eventually("it is gone", SOON, || {
        let ended = scene.roster.cli(["resolve", "web"]);
        ensure(ended.code == Some(7) || ended.code == Some(1), format!("{ended:?}"))
    });
    eventually("nothing of it is guarded", SOON, || {
        let guarded = scene.roster.cli(["guard", "list", "-o", "json"]).json()["services"].clone();
        ensure(guarded.as_array().is_some_and(Vec::is_empty), guarded)
    });
    let counters = scene.roster.status().counters;
    assert!(counters["probes"] >= 5, "{counters:?}");
    scene.roster.logs("too much of the service vanished at once");
    scene.roster.logs("nothing of the service is held");
}

#[test]
fn a_deploy_that_starts_the_new_ones_first_holds_nothing() {
    let (zk, old) = (fresh_chroot(), processes(10));
    let services = [("ten", 10), ("nine", 9)];
    for (service, _) in services {
        for (number, process) in old.iter().enumerate() {
            zk.create(&format!("/s/{service}/old-{number}"), address(process));
        }
    }
    let scene = Scene::with(&zk, SETTINGS);
    let new = processes(10);
    for (service, count) in services {
        becomes(&scene, service, (10, 0));
        for (number, process) in new[..count].iter().enumerate() {
            scene.zk.create(&format!("/s/{service}/new-{number}"), address(process));
        }
        becomes(&scene, service, (10 + count, 0));
        scene.zk.delete(&format!("/s/{service}/new-0"));
        becomes(&scene, service, (9 + count, 0));
        scene.zk.create(&format!("/s/{service}/new-0"), address(&new[0]));
        becomes(&scene, service, (10 + count, 0));
        // Held ones would stay, since they still answer.
        (0..10).for_each(|number| scene.zk.delete(&format!("/s/{service}/old-{number}")));
        becomes(&scene, service, (count, 0));
    }
}

#[test]
fn a_rolling_deploy_holds_nothing() {
    let (zk, old, new) = (fresh_chroot(), processes(8), processes(8));
    let node = |number: usize| format!("/s/web/i-{number}");
    old.iter().enumerate().for_each(|(number, process)| zk.create(&node(number), address(process)));
    // It starts after them, so that none are new.
    let scene = Scene::with(&zk, SETTINGS);
    becomes(&scene, "web", (8, 0));
    // Each comes back where it was, and then elsewhere. Held ones would stay, since all still answer.
    for processes in [&old, &new] {
        for (number, process) in processes.iter().enumerate() {
            scene.zk.delete(&node(number));
            becomes(&scene, "web", (7, 0));
            scene.zk.create(&node(number), address(process));
            becomes(&scene, "web", (8, 0));
        }
    }
    assert!(!scene.roster.log().contains("vanished at once"), "{}", scene.roster.log());
}

/// Has ephemeral nodes come and go, all together, so many times.
fn flap(zk: &Zk, nodes: &[(String, String)], times: usize) {
    const PAUSE: Duration = Duration::from_millis(200);
    let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    zk.run(async |client| {
        for _ in 0..times {
            try_join_all(nodes.iter().map(|(path, data)| client.create(path, data.as_bytes(), &options))).await?;
            tokio::time::sleep(PAUSE).await;
            let mut writer = client.new_multi_writer();
            for (path, _) in nodes {
                writer.add_delete(path, None)?;
            }
            writer.commit().await.expect("nobody else is at it");
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    });
}

#[test]
fn a_service_that_flaps_is_served_whole_once_it_was_held() {
    const TIMES: usize = 10;
    let scene = Scene::with(&fresh_chroot(), SETTINGS);
    let web = processes(8);
    scene.zk.create("/s/web", "");
    scene.agrees();
    let nodes: Vec<_> =
        web.iter().enumerate().map(|(number, it)| (format!("/s/web/i-{number}"), address(it))).collect();
    let (zk, mut client) = (scene.zk.clone(), scene.roster.client());
    let flapping = thread::spawn(move || flap(&zk, &nodes, TIMES));
    // How many are served and how many of them are held, from when all have come.
    let mut seen: Vec<(usize, usize)> = Vec::new();
    while !flapping.is_finished() {
        // Nothing is known of it at first.
        let all = client.instances(offering("web")).map_or_else(|_| Vec::new(), |it| it.instances);
        let now = (all.len(), all.iter().filter(|it| it.held.is_some()).count());
        if seen.last() != Some(&now) && (!seen.is_empty() || now == (8, 0)) {
            seen.push(now);
        }
        thread::sleep(Duration::from_millis(1));
    }
    flapping.join().expect("it came and went");
    // Where the sidecar is told in pieces, the first ones look like ordinary removals until more follow; but once alone.
    let held = seen.iter().position(|seen| *seen == (8, 8)).expect("all were held");
    assert!(seen[..held].iter().all(|(served, _)| (4..=8).contains(served)), "{seen:?}");
    assert!(seen[held..].iter().all(|(served, _)| *served == 8), "{seen:?}");
    let times = |state: (usize, usize)| seen.iter().filter(|seen| **seen == state).count();
    assert!(times((8, 8)) > 2 && times((8, 0)) > 2, "it was told of some: {seen:?}");
    becomes(&scene, "web", (8, 8));
}

#[test]
fn a_parent_that_cannot_be_read_keeps_all_instances_and_an_emptied_one_holds_them() {
    let mut scene = Scene::own(&format!("audit_interval = \"500ms\"\n{SETTINGS}"));
    let web = processes(8);
    register(&scene, "web", &web);
    scene.server().kill();
    scene.roster.becomes("down");
    assert_eq!(count(&scene, "web"), (8, 0), "nothing is known to be gone");
    scene.server().restart();
    scene.roster.becomes("live");
    assert_eq!(count(&scene, "web"), (8, 0));
    let owner = scene.zk.identified("app:secret");
    owner.close("/s/web");
    becomes(&scene, "web", (8, 8));
    owner.open("/s/web");
    becomes(&scene, "web", (8, 0));
    (0..8).for_each(|number| scene.zk.delete(&format!("/s/web/i-{number}")));
    becomes(&scene, "web", (8, 8));
}

#[test]
fn nothing_of_a_file_is_held() {
    let nodes = |numbers: std::ops::Range<u8>| {
        let node = |number| format!("\"/s/web/{number}\" = \"10.255.255.{number}:80\"\n");
        format!("[nodes]\n{}", numbers.map(node).collect::<String>())
    };
    let mut roster = Roster::prepare(&format!("[[file]]\npath = \"{{folder}}/nodes.toml\"\n{SETTINGS}"));
    roster.write("nodes.toml", &nodes(0..10));
    roster.run();
    let becomes = |count: usize| {
        eventually(&format!("there are {count}"), SOON, || {
            let told = roster.cli(["services", "web", "-o", "json"]);
            ensure(told.code == Some(0), &told.wrong)?;
            let told = told.json();
            let all = told["instances"].as_array().cloned().unwrap_or_default();
            ensure(all.len() == count && all.iter().all(|it| it.get("held").is_none()), told)
        });
    };
    becomes(10);
    roster.write("nodes.toml", &nodes(0..3));
    becomes(3);
}
