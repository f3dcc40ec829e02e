//! Whatever becomes of ZooKeeper, the line to it and the sidecar: answers go on, their age is true, and afterwards
//! the mirror is right again without a hole for those who watch it.

use std::time::{Duration, Instant};

use crate::harness::{
    DeadAddress, ODD_NAME, Roster, SOON, Scene, Server, TwoAddresses, binary, ensure, eventually, exception,
    fresh_chroot, source,
};
use crate::idl::{ChildrenRequest, Freshness, GetRequest, NotReady, TRosterSyncClient, TooStale};

const SECOND: Duration = Duration::from_secs(1);

/// The longest that a broken line may go unnoticed.
const NOTICED: Duration = Duration::from_secs(6);

impl Scene {
    /// The mirror is right, and still follows; and the watchers were told each change.
    fn recovers(&self) {
        self.agrees();
        self.zk.create("/written-after-the-fault", "");
        self.agrees();
        assert_eq!(self.resets(), 2, "each watcher read everything once, at first");
    }

    /// Answers go on while the source is lost, and say so.
    fn is_cut_off(&self) {
        eventually("answers grow old", NOTICED, || ensure(self.freshness().age_ms > 0, "they are fresh"));
    }

    fn freshness(&self) -> Freshness {
        self.roster.get("/").expect("an answer").freshness
    }

    fn changes(&self) {
        self.zk.create("/new", "one");
        self.zk.set("/old", "two");
        self.zk.delete("/doomed");
        self.zk.delete_all("/tree");
        self.zk.create("/tree/other", "again");
    }
}

/// A scene with something to lose.
fn furnished(scene: Scene) -> Scene {
    for path in ["/old", "/doomed", "/tree/branch/leaf"] {
        scene.zk.create(path, "one");
    }
    scene.agrees();
    scene
}

#[test]
fn what_is_written_while_the_line_is_cut_is_not_lost() {
    let scene = furnished(Scene::new());
    scene.link.cut();
    scene.is_cut_off();
    scene.changes();
    scene.link.mend();
    scene.recovers();
}

#[test]
fn what_is_written_while_the_line_swallows_everything_is_not_lost() {
    let scene = furnished(Scene::new());
    scene.link.fall_silent();
    scene.changes();
    scene.is_cut_off();
    scene.link.mend();
    scene.recovers();
}

#[test]
fn what_comes_late_and_in_halves_is_understood() {
    let scene = furnished(Scene::new());
    scene.link.falter();
    scene.changes();
    scene.agrees();
    scene.link.cut();
    scene.link.falter();
    scene.agrees();
}

#[test]
fn a_server_is_reached_at_one_address_of_its_name_while_the_other_is_dead() {
    let server = Server::start();
    server.zk().create("/a", "");
    let port = server.address().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
    let dead = DeadAddress::at([port].into_iter());
    let mut roster = Roster::prepare(&source(&format!("{}:{port}", TwoAddresses::NAME), ""));
    let (name, mut serve) = (TwoAddresses::new(roster.folder()), roster.serve(binary()));
    name.rules(&mut serve);
    // They are tried in an order of chance.
    for _ in 0..40 {
        roster.run_as(&mut serve);
        roster.becomes("live");
        assert_eq!(roster.data("/a"), b"");
        roster.kill();
        if dead.was_tried() {
            return;
        }
    }
    panic!("the dead one was never tried first");
}

#[test]
fn a_name_that_no_client_may_ask_for_comes_stays_and_goes_alone() {
    let scene = furnished(Scene::with(&fresh_chroot(), "audit_interval = \"500ms\""));
    let odd = format!("/{ODD_NAME}");
    let is_mirrored = |path: &str| !path.starts_with(&odd);
    let counted = |count| {
        eventually("it is counted", SOON, || {
            let left_out = scene.roster.source().skipped_nodes;
            ensure(left_out == count, left_out)
        })
    };
    scene.link.distort(0x7f);
    scene.zk.create(&odd, "");
    counted(1);
    scene.changes();
    scene.agrees_on(is_mirrored);
    scene.link.cut();
    scene.is_cut_off();
    scene.link.distort(0x7f);
    scene.agrees_on(is_mirrored);
    counted(1);
    scene.zk.delete(&odd);
    counted(0);
    scene.agrees();
}

#[test]
fn a_line_that_breaks_again_and_again_leaves_no_hole() {
    let scene = furnished(Scene::new());
    for breakage in 0..10 {
        scene.link.cut();
        scene.zk.create(&format!("/while-broken-{breakage}"), "");
        scene.link.mend();
        scene.zk.create(&format!("/while-whole-{breakage}"), "");
    }
    scene.recovers();
}

#[test]
fn what_is_written_during_a_resync_is_not_lost() {
    let scene = Scene::new();
    scene.zk.create_many("/node-", 3_000);
    scene.agrees();
    for round in 0..3 {
        let reconnects = scene.roster.source().reconnects;
        scene.link.cut();
        scene.is_cut_off();
        scene.link.mend();
        // Each node is written once, so that a later event cannot make good for one that was missed.
        let mut written = 0;
        while scene.roster.source().reconnects == reconnects || scene.freshness().age_ms > 0 {
            scene.zk.create_many(&format!("/round-{round}-{written}-"), 3);
            written += 1;
        }
        scene.agrees();
    }
}

#[test]
fn a_session_that_expires_while_the_sidecar_is_frozen_is_replaced() {
    let mut scene = furnished(Scene::own(""));
    let session = scene.roster.source().session.expect("a session");
    scene.roster.process().freeze();
    scene.server().forgets(&session);
    scene.changes();
    scene.roster.process().thaw();
    scene.recovers();
    assert_ne!(scene.roster.source().session, Some(session));
}

#[test]
fn a_frozen_zookeeper_is_outlived() {
    let mut scene = furnished(Scene::own(""));
    scene.server().freeze();
    scene.is_cut_off();
    assert_eq!(scene.roster.data("/old"), b"one");
    scene.server().thaw();
    scene.changes();
    scene.recovers();
}

#[test]
fn a_killed_zookeeper_is_outlived() {
    let mut scene = furnished(Scene::own(""));
    scene.server().kill();
    scene.is_cut_off();
    assert_eq!(scene.roster.data("/old"), b"one");
    // The sidecar shall come late, and find everything changed.
    scene.link.cut();
    scene.server().restart();
    scene.changes();
    scene.link.mend();
    scene.recovers();
}

#[test]
fn a_zookeeper_that_comes_back_empty_is_believed_after_a_while() {
    let mut scene = furnished(Scene::own("hold = \"6s\""));
    scene.zk.create_many("/member-", 20);
    scene.agrees();
    scene.link.cut();
    scene.server().restart_empty();
    scene.zk.create("/old", "a new life, from an earlier transaction");
    scene.link.mend();
    eventually("additions pass", SOON, || ensure(scene.roster.data("/old") != b"one", "they do not"));
    assert_eq!(scene.roster.data("/member-7"), b"7", "what is gone is held");
    assert!(scene.freshness().age_ms > 0, "and its age says so");
    scene.recovers();
}

#[test]
fn nodes_that_come_back_while_they_are_held_were_never_gone() {
    let scene = furnished(Scene::with(&fresh_chroot(), "hold = \"60s\""));
    scene.zk.create_many("/member-", 20);
    scene.agrees();
    scene.link.cut();
    (0..20).for_each(|n| scene.zk.delete(&format!("/member-{n}")));
    scene.link.mend();
    eventually("they are held", SOON, || ensure(scene.roster.source().detail.contains("holding"), "they are not"));
    assert_eq!(scene.roster.data("/member-7"), b"7");
    scene.zk.create("/newcomer", "");
    eventually("additions pass", SOON, || scene.roster.get("/newcomer"));
    assert!(scene.roster.source().detail.contains("holding"), "they are held still");
    let freshness = scene.roster.get("/member-7").expect("a node").freshness;
    assert!(freshness.age_ms > 0 && !freshness.complete, "{freshness:?}");
    scene.zk.create_many("/member-", 20);
    scene.recovers();
}

#[test]
fn many_nodes_that_are_deleted_in_plain_sight_are_not_held() {
    let scene = furnished(Scene::with(&fresh_chroot(), "hold = \"60s\"\naudit_interval = \"100ms\""));
    scene.zk.create_many("/member-", 1_000);
    scene.agrees();
    scene.zk.run(async |client| {
        let paths: Vec<_> = (0..1_000).map(|n| format!("/member-{n}")).collect();
        futures::future::try_join_all(paths.iter().map(|path| client.delete(path, None))).await.map(drop)
    });
    scene.agrees();
}

#[test]
fn a_reply_that_is_late_does_not_keep_the_mirror_down_while_writes_go_on() {
    let server = Server::start();
    server.zk().create("/busy", "");
    let settings = "session_timeout = \"15s\"";
    let roster = Roster::start(&format!("[[zookeeper]]\nconnect = \"{}\"\n{settings}\n", server.address()));
    roster.becomes("live");
    // Shorter than the silence that costs the connection, longer than a heartbeat may take.
    server.freeze();
    roster.becomes("down");
    server.thaw();
    let mut written = 0;
    eventually("it is live again", SOON, || {
        written += 1;
        server.zk().set("/busy", written.to_string());
        ensure(roster.source().state == "live", "it is not")
    });
}

#[test]
fn a_resync_without_a_difference_changes_no_revision() {
    let scene = furnished(Scene::new());
    let (before, reconnects) = (scene.freshness(), scene.roster.source().reconnects);
    scene.link.cut();
    scene.is_cut_off();
    scene.link.mend();
    scene.agrees();
    assert!(scene.roster.source().reconnects > reconnects);
    assert_eq!(scene.freshness(), before);
}

#[test]
fn an_answer_says_how_old_it_is_and_is_refused_where_that_is_too_old() {
    let scene = furnished(Scene::new());
    let demanding = || scene.roster.client().get(GetRequest::new("/old".into(), 100));
    demanding().expect("it is fresh");
    let cut = Instant::now();
    scene.link.cut();
    scene.is_cut_off();
    let (first, since_first) = (scene.freshness().age_ms, Instant::now());
    let refusal: TooStale = eventually("it is too old", SOON, || exception(demanding()));
    assert!(refusal.age_ms > refusal.max_age_ms && refusal.max_age_ms == 100, "{refusal:?}");
    eventually("it grows older", SOON, || ensure(scene.freshness().age_ms > first + 1_000, "it does not"));
    assert!(since_first.elapsed() > SECOND / 2, "age is time that passes");
    // The last proof may be a little older than the cut.
    let age = scene.freshness().age_ms;
    assert!(age < cut.elapsed().as_millis() as i64 + 5_000, "no older than it can be: {age} ms");
    eventually("it is lost", SOON, || ensure(scene.roster.source().state != "live", "it is live"));
    assert_eq!(scene.roster.data("/old"), b"one");
    scene.link.mend();
    scene.agrees();
    demanding().expect("it is fresh again");
}

#[test]
fn nothing_is_known_before_zookeeper_is_reached_and_the_client_is_told() {
    let mut scene = Scene::before_zookeeper("");
    let refusal: NotReady = exception(scene.roster.get("/")).expect("nothing is known");
    assert_eq!(refusal.source, "zookeeper");
    assert!(!refusal.message.is_empty());
    exception::<NotReady>(scene.roster.client().children(ChildrenRequest::new("/".into(), None, None, None)))
        .expect("not an absence");
    let source = scene.roster.source();
    assert_ne!(source.state, "live");
    assert_eq!((source.last_sync, source.age_ms), (None, None), "it never was in sync");
    eventually("it is told why", SOON, || {
        let detail = scene.roster.source().detail;
        ensure(detail.contains(&format!("{}: it accepts connections, but", scene.link.address())), detail)
    });
    scene.server().restart();
    scene.recovers();
}
