//! The mirror holds what ZooKeeper does, while nothing is wrong.

use std::time::Duration;

use nix::sys::signal::Signal;
use zookeeper_client::{Acls, CreateMode};

use crate::harness::{Dialect, Roster, SOON, Scene, ensure, eventually, exception, fresh_chroot, source};
use crate::idl::{ChildrenRequest, GetRequest, NotFound, Origin, StatusRequest, TRosterSyncClient};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_node_is_followed_from_its_creation_to_its_deletion() {
    let scene = Scene::new();
    let resets = scene.resets();
    let deeds: [&dyn Fn(); 6] = [
        &|| scene.zk.create("/a/b/c", "one"),
        &|| scene.zk.set("/a/b/c", "two"),
        &|| scene.zk.delete("/a/b/c"),
        &|| scene.zk.create("/a/b/c", "three"),
        &|| scene.zk.delete_all("/a"),
        &|| scene.zk.create("/a", "four"),
    ];
    for deed in deeds {
        deed();
        // Long before an audit would find it.
        scene.agrees();
    }
    assert_eq!(scene.roster.data("/a"), b"four");
    assert_eq!(scene.resets(), resets, "watchers were told each change");
}

#[test]
fn a_node_that_comes_again_has_nothing_of_its_former_life() {
    let scene = Scene::new();
    for life in 0..20 {
        scene.zk.create(&format!("/a/child-{life}"), "");
        scene.zk.create("/a/always", life.to_string());
        scene.zk.delete_all("/a");
    }
    scene.zk.create("/a", "");
    scene.agrees();
    let answer =
        scene.roster.client().children(ChildrenRequest::new("/a".into(), None, None, None)).expect("an answer");
    assert!(answer.names.is_empty(), "{:?}", answer.names);
}

#[test]
fn long_paths_are_read_in_requests_that_a_server_takes() {
    let mut scene = Scene::new();
    scene.zk.create("/long", "");
    let names: Vec<String> = (100..800).map(|number| format!("{number}{}", "x".repeat(5_000))).collect();
    names.iter().for_each(|name| scene.zk.create(&format!("/long/{name}"), ""));
    scene.roster.stop();
    scene.roster.run();
    eventually("all are read at once", SOON, || {
        let (mut client, mut found, mut cursor) = (scene.roster.client(), Vec::new(), None);
        loop {
            let request = ChildrenRequest::new("/long".to_owned(), None, 0, cursor);
            let page = client.children(request).map_err(|error| format!("{error:?}"))?;
            ensure(page.freshness.age_ms == 0 && page.freshness.origin == Origin::LIVE, "it is not in sync")?;
            found.extend(page.names);
            cursor = page.cursor;
            if cursor.is_none() {
                return ensure(found == names, found.len());
            }
        }
    });
}

#[test]
fn ten_thousand_children_are_mirrored_and_let_go() {
    // Where so much is deleted, a busy server may be silent for so long that all is read anew.
    let scene = Scene::with(&fresh_chroot(), "hold = \"0s\"");
    scene.zk.create("/many", "");
    scene.zk.create_many("/many/child-", 10_000);
    scene.agrees();
    let answer =
        scene.roster.client().children(ChildrenRequest::new("/many".into(), None, None, None)).expect("an answer");
    assert_eq!(answer.names.len(), 10_000);
    assert_eq!(answer.names.first().map(String::as_str), Some("child-0"));
    scene.zk.delete_all("/many");
    scene.agrees();
}

#[test]
fn what_is_there_before_the_sidecar_is_mirrored_at_once() {
    let zk = fresh_chroot();
    zk.create("/many", "");
    zk.create_many("/many/child-", 3_000);
    let scene = Scene::with(&zk, "");
    scene.agrees();
}

#[test]
fn data_is_mirrored_byte_for_byte() {
    let scene = Scene::new();
    let every_byte: Vec<u8> = (0..=255).collect();
    // ZooKeeper refuses requests of 1 MiB.
    let largest = every_byte.repeat(4_090);
    for (path, data) in [("/empty", &[][..]), ("/zero", &[0]), ("/every", &every_byte), ("/largest", &largest)] {
        scene.zk.create(path, data);
    }
    scene.agrees();
    assert_eq!(scene.roster.data("/largest"), largest);
}

#[test]
fn an_ephemeral_node_goes_with_its_session() {
    let scene = Scene::new();
    let owner = scene.zk.ephemeral("/member", "here");
    scene.agrees();
    assert_ne!(scene.roster.get("/member").expect("a member").node.stat.ephemeral_owner, 0);
    owner.dies();
    eventually("the member is gone", SOON, || exception::<NotFound>(scene.roster.get("/member")));
    scene.agrees();
}

#[test]
fn a_root_or_a_chroot_that_is_missing_is_watched_until_it_is_there() {
    let zk = fresh_chroot();
    let scene = Scene::with(&zk, "roots = [\"/late/root\"]");
    let answer = eventually("the root is missing", SOON, || exception::<NotFound>(scene.roster.get("/late/root")));
    assert_eq!(answer.name, "/late/root");
    scene.zk.create("/late/root/a", "here");
    scene.zk.create("/elsewhere", "");
    scene.agrees_on(|path| path.starts_with("/late/root"));

    let late = zk.below("/late-chroot");
    let scene = Scene::with(&late, "");
    scene.roster.get("/").expect_err("nothing is there");
    zk.create("/late-chroot/a", "here");
    scene.agrees();
}

#[test]
fn a_root_may_go_and_come_again() {
    let scene = Scene::with(&fresh_chroot(), "roots = [\"/root\"]");
    let mirrored = |path: &str| path.starts_with("/root");
    for life in 0..3 {
        scene.zk.create(&format!("/root/{life}"), "here");
        scene.agrees_on(mirrored);
        scene.zk.delete_all("/root");
        scene.agrees_on(mirrored);
        exception::<NotFound>(scene.roster.get("/root")).expect("the root is gone");
    }
    scene.zk.create("/root/again", "here");
    scene.agrees_on(mirrored);
}

#[test]
fn nodes_that_may_not_be_read_are_counted_and_mirrored_once_they_may() {
    let credentials = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&credentials, "digest:app:wrong\n").expect("it is written");
    let settings = format!("credentials = {:?}\naudit_interval = \"500ms\"", credentials.path());
    let scene = Scene::with(&fresh_chroot(), &settings);
    let right = scene.zk.identified("app:secret");
    scene.zk.create("/open", "for all");
    right.create("/closed", "for one");
    eventually("it is counted", SOON, || ensure(scene.roster.source().skipped_nodes == 1, "it is not"));
    scene.agrees_on(|path| path != "/closed");
    let answer = scene.roster.get("/open").expect("a node");
    assert!(!answer.freshness.complete, "something is missing");
    let absence = scene.roster.cli(["get", "/closed"]);
    let named = "left out 1 node that may not be read or passes a limit: /closed (the identity may not read it)";
    eventually("it is named", SOON, || ensure(scene.roster.source().detail == named, scene.roster.source().detail));
    assert!(scene.roster.cli(["status"]).text().contains(named));
    let told = "there is no node /closed; but zookeeper left out 1 node that may not be read or passes a limit\n";
    assert!(absence.code == Some(1) && absence.wrong.ends_with(told), "{absence:?}");

    std::fs::write(&credentials, "digest:app:secret\n").expect("it is written");
    scene.roster.process().signal(Signal::SIGHUP);
    eventually("it is read", SOON, || scene.roster.get("/closed"));
    let scene = scene.seen_by("app:secret");
    scene.agrees();
    assert!(scene.roster.get("/closed").expect("a node").freshness.complete, "nothing is missing");
    scene.zk.set("/closed", "changed");
    scene.agrees();
}

#[test]
fn who_may_not_read_all_is_not_told_the_names_of_what_is_left_out() {
    let zk = fresh_chroot();
    zk.identified("app:secret").create("/closed", "for one");
    zk.create("/open", "for all");
    // All sources come before the rules.
    let scene = Scene::with(&zk, "max_node_bytes = \"1KiB\"\n[[allow]]\ntcp = true\nread = [\"/open\"]");
    eventually("it is counted", SOON, || ensure(scene.roster.source().skipped_nodes == 1, "it is not"));
    let is_named = || ensure(scene.roster.source().detail.contains("/closed"), scene.roster.source().detail);
    eventually("it is named", SOON, is_named);
    scene.link.cut();
    eventually("it is down", SOON, || ensure(scene.roster.source().state == "down", "it is not"));
    scene.link.mend();
    eventually("it is live", SOON, is_named);
    let mut over_tcp = Dialect::ALL[0].tcp(scene.roster.port()).expect("the sidecar accepts");
    let told = format!(
        "{:?} {:?}",
        over_tcp.status(StatusRequest::default()),
        over_tcp.get(GetRequest::new("/open".into(), None))
    );
    assert!(told.contains("skipped_nodes: 1") && !told.contains("/closed"), "{told}");
}

#[test]
fn the_first_nodes_that_are_left_out_are_named_in_the_log_and_that_there_are_more_is_told_once() {
    let scene = Scene::with(&fresh_chroot(), "audit_interval = \"500ms\"");
    scene.agrees();
    let private = scene.zk.identified("app:secret");
    private.create("/closed", "for one");
    eventually("it is told", SOON, || {
        let log = scene.roster.log();
        let is_told = |line: &str| line.contains("path=/closed") && line.contains("the identity may not read it");
        ensure(log.lines().any(|line| line.contains("WARN") && is_told(line)), log)
    });
    (0..14).for_each(|number| private.create(&format!("/more-{number}"), "for one"));
    eventually("all are counted", SOON, || ensure(scene.roster.source().skipped_nodes == 15, scene.roster.log()));
    scene.roster.logs("left out more nodes");
    let log = scene.roster.log();
    let lines = |of: &str| log.lines().filter(|line| line.contains(of)).count();
    // A busy machine may lose a session, and the next one tells anew.
    let sessions = lines("connected source=");
    assert!(lines("left out a node") <= 10 * sessions, "{log}");
    assert!(lines("left out more nodes") <= sessions, "{log}");
}

#[test]
fn a_change_of_rights_is_found_by_the_audit() {
    let scene = Scene::with(&fresh_chroot(), "audit_interval = \"500ms\"");
    scene.zk.identified("app:secret").create("/closed", "for one");
    eventually("it is counted", SOON, || ensure(scene.roster.source().skipped_nodes == 1, "it is not"));
    scene.zk.identified("app:secret").open("/closed");
    scene.agrees();
    assert_eq!(scene.roster.source().skipped_nodes, 0);
}

#[test]
fn what_lies_below_a_node_that_may_not_be_read_is_left_out_whatever_happens_to_it() {
    let zk = fresh_chroot();
    let owner = zk.identified("app:secret");
    owner.create("/closed", "");
    owner.create("/closed/open", "one");
    owner.open("/closed/open");
    let scene = Scene::with(&zk, "audit_interval = \"1h\"");
    scene.agrees();
    zk.set("/closed/open", "two");
    owner.create("/closed/other", "");
    owner.open("/closed/other");
    zk.create("/last", "");
    scene.agrees();
    assert_eq!(scene.roster.source().skipped_nodes, 1);

    // That it may be read now no event tells, but its next change does; and that it may not, a new child.
    owner.open("/closed");
    zk.set("/closed", "changed");
    // What is below it is found by a comparison up to 12 s later.
    scene.agrees_within(2 * SOON, |_| true);
    assert_eq!(scene.roster.data("/closed/open"), b"two");
    owner.close("/closed");
    let open = CreateMode::Persistent.with_acls(Acls::anyone_all());
    owner.run(async |client| client.create("/closed/third", b"", &open).await.map(drop));
    scene.agrees();
    exception::<NotFound>(scene.roster.get("/closed/open")).expect("it cannot be followed");
}

#[test]
fn the_figures_of_quotas_are_no_drift() {
    let mut scene = Scene::own("audit_interval = \"300ms\"");
    scene.zk.create("/a", "");
    for (name, figures) in [("limits", "count=100,bytes=100000"), ("stats", "count=1,bytes=0")] {
        scene.zk.create(&format!("/zookeeper/quota/a/zookeeper_{name}"), figures);
    }
    scene.server().restart();
    scene.agrees();
    scene.zk.create("/a/b", "some data");
    let stats = scene.zk.run(async |client| client.get_data("/zookeeper/quota/a/zookeeper_stats").await);
    assert!(String::from_utf8_lossy(&stats.0).contains("count=2"), "{stats:?}");
    std::thread::sleep(2 * SECOND);
    scene.agrees();
    assert_eq!(scene.roster.source().drift, 0, "{}", scene.roster.log());
}

#[test]
fn patterns_say_what_is_mirrored() {
    let settings = "include = [\"/app/**\"]\nexclude = [\"/app/*/secret\"]";
    let scene = Scene::with(&fresh_chroot(), settings);
    for path in ["/app/one/open", "/app/one/secret/key", "/app/two/secret", "/app/two/more/secret", "/other/open"] {
        scene.zk.create(path, path);
    }
    let mirrored = ["/app/one", "/app/one/open", "/app/two", "/app/two/more", "/app/two/more/secret"];
    scene.agrees_on(|path| mirrored.contains(&path));
    scene.zk.set("/app/one/secret", "changed");
    scene.zk.set("/app/one/open", "changed");
    scene.agrees_on(|path| mirrored.contains(&path));
}

#[test]
fn what_passes_a_limit_is_left_out_and_counted() {
    for (settings, path) in [("max_node_bytes = \"1KiB\"", "/large"), ("max_depth = 2", "/a/b/deep")] {
        let scene = Scene::with(&fresh_chroot(), settings);
        scene.agrees();
        scene.zk.create("/a/b", "small");
        scene.zk.create(path, [b'x'; 2_000]);
        let missing = || ensure(scene.roster.source().skipped_nodes == 1, scene.roster.source().skipped_nodes);
        eventually(&format!("{path} is counted"), SOON, missing);
        scene.agrees_on(|other| other != path);
        assert!(!scene.roster.get("/a/b").expect("a node").freshness.complete, "{path} is missing");
        scene.zk.delete(path);
        eventually("nothing is missing", SOON, || ensure(missing().is_err(), "something is"));
        scene.agrees();
    }
}

#[test]
fn who_came_first_stays_when_there_are_too_many_nodes() {
    // The root and four others.
    let scene = Scene::with(&fresh_chroot(), "max_nodes = 5\naudit_interval = \"100ms\"");
    scene.zk.create_many("/early-", 4);
    eventually("the early are there", SOON, || {
        (0..4).try_for_each(|number| scene.roster.get(&format!("/early-{number}")).map(drop))
    });
    scene.zk.create_many("/a-late-", 3);
    eventually("the late are counted", SOON, || {
        ensure(scene.roster.source().skipped_nodes == 3, scene.roster.source().skipped_nodes)
    });
    scene.zk.set("/early-2", "changed");
    scene.agrees_on(|path| !path.starts_with("/a-late"));
    assert!(!scene.roster.get("/early-2").expect("a node").freshness.complete);
    scene.zk.delete("/early-0");
    eventually("one of the late takes the place", SOON, || {
        ensure(scene.roster.source().skipped_nodes == 2, scene.roster.source().skipped_nodes)
    });
}

#[test]
fn a_limit_that_is_lowered_holds_for_what_an_earlier_process_left() {
    for (before, after, kept) in [
        ("max_nodes = 10", "max_nodes = 5", 5),
        ("max_bytes = \"10KiB\"", "max_bytes = \"3KiB\"", 8),
        ("max_node_bytes = \"10KiB\"", "max_node_bytes = \"900B\"", 5),
    ] {
        let mut scene = Scene::with(&fresh_chroot(), before);
        let data = "x".repeat(1_000);
        (0..4).for_each(|number| scene.zk.create(&format!("/{number}/below"), data.as_str()));
        eventually("all are there", SOON, || scene.roster.get("/3/below"));
        scene.agrees();
        assert!(scene.roster.stop().success());
        scene.roster.configure(before, after);
        scene.roster.run();
        let told = format!(
            "took away nodes of an earlier process that patterns or limits leave out source=\"zookeeper\" nodes={}",
            9 - kept
        );
        assert!(scene.roster.log().contains(&told), "{}", scene.roster.log());
        eventually("the rest is left out", SOON, || {
            let source = scene.roster.source();
            ensure((source.nodes, source.skipped_nodes) == (kept, 9 - kept), format!("{source:?}"))
        });
        assert!(!scene.roster.get("/0").expect("a node").freshness.complete);
        scene.roster.becomes("live");
        // What has its place is followed as ever, and who came first stays.
        scene.zk.set("/0", "changed");
        eventually("the change", SOON, || ensure(scene.roster.data("/0") == b"changed", "it is as before"));
    }
}

#[test]
fn more_children_than_there_may_be_nodes_are_not_held_as_if_the_ensemble_had_lost_them() {
    let mut scene = Scene::with(&fresh_chroot(), "max_nodes = 100");
    scene.zk.create("/folder", "");
    scene.zk.create_many("/folder/child-", 60);
    scene.agrees();
    assert!(scene.roster.stop().success());
    scene.roster.configure("max_nodes = 100", "max_nodes = 20");
    scene.roster.run();
    eventually("the rest is left out, each once", SOON, || {
        let source = scene.roster.source();
        let is_so = (source.state.as_str(), source.nodes, source.skipped_nodes) == ("live", 20, 42);
        ensure(is_so, format!("{source:?}"))
    });
    scene.roster.logs("max_nodes = 20");
}

#[test]
fn each_child_counts_for_which_there_is_no_place() {
    let zk = fresh_chroot();
    for (parent, children) in [("/a", 20), ("/b", 30)] {
        zk.create(parent, "");
        zk.create_many(&format!("{parent}/child-"), children);
    }
    // The root and these two.
    let scene = Scene::with(&zk, "max_nodes = 3");
    eventually("all are counted", SOON, || {
        ensure(scene.roster.source().skipped_nodes == 50, scene.roster.source().skipped_nodes)
    });
}

#[test]
fn a_root_and_a_chroot_that_are_not_there_are_named_until_they_come() {
    let zk = fresh_chroot();
    let connect = format!("{}/not/there", zk.connect_string());
    let (_, chroot) = connect.split_once('/').expect("a chroot");
    let [all, roots] = ["", "roots = [\"/a\", \"/b\"]"].map(|roots| Roster::start(&source(&connect, roots)));
    let says = |roster: &Roster, expected: &str| {
        eventually(expected, SOON, || {
            let source = roster.source();
            ensure(source.state == "live" && source.detail == expected, format!("{source:?}"))
        });
    };
    says(&all, &format!("nothing to mirror at /{chroot} yet"));
    says(&roots, &format!("nothing to mirror at /{chroot}/a, /{chroot}/b yet"));
    let told = all.cli(["status"]).text();
    assert!(told.contains(&format!("nothing to mirror at /{chroot} yet")), "{told}");
    let named = format!("there is nothing at this root yet; it is watched source=\"zookeeper\" root=/{chroot}");
    eventually("the log names it too", SOON, || {
        ensure(all.log().lines().any(|line| line.ends_with(&named)), all.log())
    });
    zk.create("/not/there/a", "one");
    for roster in [&all, &roots] {
        eventually("it is followed", SOON, || roster.get("/a"));
    }
    says(&all, "");
    says(&roots, &format!("nothing to mirror at /{chroot}/b yet"));
    zk.create("/not/there/b", "two");
    says(&roots, "");
    zk.delete_all("/not");
    says(&all, &format!("nothing to mirror at /{chroot} yet"));
}

#[test]
fn a_restarted_sidecar_has_newer_revisions_and_the_present_state() {
    let mut scene = Scene::new();
    scene.zk.create("/a", "one");
    scene.agrees();
    assert!(scene.roster.stop().success());
    scene.zk.set("/a", "two");
    scene.zk.create("/b", "");
    scene.roster.run();
    scene.agrees();
    assert_eq!(scene.resets(), 2, "each watcher goes on from where it was");
}

#[test]
fn ensembles_and_roots_are_mirrored_side_by_side() {
    let (left, right) = (fresh_chroot(), fresh_chroot());
    for path in ["/a/1", "/b/1", "/c/1"] {
        left.create(path, "left");
        right.create(path, "right");
    }
    let sources = [
        source(left.connect_string(), "name = \"left\"\nroots = [\"/a\", \"/b\"]"),
        source(right.connect_string(), "name = \"right\"\nroots = [\"/c\"]"),
    ];
    let roster = Roster::start(&sources.concat());
    for (path, data) in [("/a/1", "left"), ("/b/1", "left"), ("/c/1", "right")] {
        eventually(path, SOON, || roster.get(path));
        assert_eq!(roster.data(path), data.as_bytes());
    }
    right.set("/c/1", "changed");
    eventually("the change", SOON, || ensure(roster.data("/c/1") == b"changed", "it is as before"));
    let names: Vec<String> = roster.status().sources.into_iter().map(|source| source.name).collect();
    assert_eq!(names, ["left", "right"]);
}
