//! How the mirror watches is what the server can do, whatever it is and becomes.

use std::time::Duration;

use crate::harness::{SOON, Scene, ensure, eventually, exception, is_fetched, is_skipped_unless};
use crate::idl::NotFound;

const SECOND: Duration = Duration::from_secs(1);

/// The last of the release line without persistent watches and multi-reads.
const OLD: &str = "3.4.14";

/// A connection that stands so long is a sound one: its loss may mean an upgrade.
const SOUND: Duration = Duration::from_secs(11);

/// Waits until the last of what the log says of watches is this.
fn watches(scene: &Scene, how: &str) {
    eventually(how, 20 * SECOND, || {
        let log = scene.roster.log();
        let last = log.lines().rev().find_map(|line| line.split_once("watches=")).map(|(_, how)| how.to_owned());
        ensure(last.is_some_and(|last| last.starts_with(how)), log)
    });
}

fn live_a_little(scene: &Scene) {
    scene.zk.create("/a/b/c", "one");
    scene.zk.create_many("/a/many-", 200);
    scene.agrees();
    let owner = scene.zk.ephemeral("/a/member", "here");
    scene.zk.set("/a/b/c", "two");
    scene.zk.delete("/a/b/c");
    scene.zk.create("/a/b/c/d", "three");
    scene.agrees();
    owner.dies();
    eventually("the member is gone", SOON, || exception::<NotFound>(scene.roster.get("/a/member")));
    scene.zk.delete_all("/a");
    scene.zk.create("/a", "four");
    scene.agrees();
    assert_eq!(scene.roster.source().drift, 0, "{}", scene.roster.log());
}

#[test]
fn a_server_that_refuses_persistent_watches_is_mirrored_node_by_node() {
    let mut scene = Scene::before_zookeeper("audit_interval = \"500ms\"\nhold = \"0s\"");
    let manager = "org.apache.zookeeper.server.watch.WatchManagerOptimized";
    scene.server().set_property(&format!("-Dzookeeper.watchManagerName={manager}"));
    scene.server().restart();
    live_a_little(&scene);
    watches(&scene, "one-shot");
    scene.link.cut();
    scene.zk.create("/while/it/was/cut", "");
    scene.link.mend();
    scene.agrees();
    scene.server().restart_empty();
    scene.agrees();
    live_a_little(&scene);
    watches(&scene, "one-shot");
}

#[test]
fn a_server_that_is_upgraded_is_asked_again_for_persistent_watches() {
    if is_skipped_unless(is_fetched(OLD), "ZooKeeper 3.4 was not fetched, as `make deps-zookeepers` does") {
        return;
    }
    let mut scene = Scene::before_zookeeper("");
    // As an upgrade from 3.4 needs where there is a log of transactions and no snapshot.
    scene.server().set_property("-Dzookeeper.snapshot.trust.empty=true");
    scene.server().becomes(Some(OLD));
    scene.zk = scene.zk.before_3_5();
    scene.server().restart();
    scene.zk.create("/a/b", "before");
    eventually("it is mirrored", 20 * SECOND, || scene.roster.get("/a/b"));
    watches(&scene, "one-shot");
    std::thread::sleep(SOUND);
    scene.server().becomes(None);
    scene.server().restart();
    watches(&scene, "persistent");
    scene.zk.set("/a/b", "after");
    eventually("it is followed", 20 * SECOND, || ensure(scene.roster.data("/a/b") == b"after", "it is as before"));
    scene.server().becomes(Some(OLD));
    scene.server().restart_empty();
    watches(&scene, "one-shot");
    scene.zk.create("/a/b", "anew");
    eventually("it is followed", 20 * SECOND, || ensure(scene.roster.data("/a/b") == b"anew", "it is as before"));
}
