//! The mirror is no burden: it asks for few bytes at once, for less after a loss, and elsewhere where nothing comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::fake_zk::{FakeNode, FakeZk, Sent, Tale, op};
use crate::harness::{MULTI_READS, NEARLY_FULL, Roster, SOON, Scene, ensure, eventually, release, source};

/// Large nodes, each with those beside it in one of some empty folders; without any folder, at the root.
#[derive(Debug)]
struct Large {
    folders: usize,
    nodes: usize,
    /// How many bytes a node has, by its number in the folder.
    bytes: fn(usize) -> usize,
    seen: Arc<Seen>,
    /// After so many bytes of replies a connection breaks.
    breaks_after: usize,
}

/// What was asked of a server.
#[derive(Debug, Default)]
struct Seen {
    requests: AtomicUsize,
    largest_reply: AtomicUsize,
    bytes_read: AtomicUsize,
    bytes_of_connection: AtomicUsize,
}

impl Large {
    fn count_below(&self, path: &str) -> usize {
        match path {
            "/" if self.folders > 0 => self.folders,
            "/" => self.nodes,
            path if self.folders > 0 && path.matches('/').count() == 1 => self.nodes,
            _ => 0,
        }
    }
}

impl Tale for Large {
    fn node(&self, path: &str) -> Option<FakeNode> {
        let (count, number) = (self.count_below(path), path.rsplit('/').next().and_then(|name| name.parse().ok()));
        let bytes = if count > 0 { 0 } else { number.map_or(0, self.bytes) };
        Some(FakeNode { data: vec![b'x'; bytes], num_children: count as i32, ..FakeNode::default() })
    }

    fn children(&self, path: &str) -> Vec<Vec<u8>> {
        (0..self.count_below(path)).map(|number| number.to_string().into_bytes()).collect()
    }

    fn sent(&self, op: i32, frame: Vec<u8>) -> Sent {
        if op == op::CONNECT {
            self.seen.bytes_of_connection.store(0, Ordering::Relaxed);
        }
        self.seen.requests.fetch_add(1, Ordering::Relaxed);
        if op == op::MULTI_READ {
            let before = self.seen.bytes_of_connection.fetch_add(frame.len(), Ordering::Relaxed);
            if before + frame.len() > self.breaks_after {
                return Sent::Closed;
            }
            self.seen.largest_reply.fetch_max(frame.len(), Ordering::Relaxed);
            self.seen.bytes_read.fetch_add(frame.len(), Ordering::Relaxed);
        }
        Sent::Once(frame)
    }
}

const MIB: usize = 1 << 20;

#[test]
fn large_nodes_are_read_one_by_one_and_only_once() {
    const NODES: usize = 200;
    // On a busy machine a connection may be lost, with what was on its way; but not each time.
    eventually("they are read once, over one connection", 3 * SOON, || {
        let seen = Arc::new(Seen::default());
        let tale = Large { folders: 0, nodes: NODES, bytes: |_| MIB, seen: seen.clone(), breaks_after: usize::MAX };
        let zk = FakeZk::telling(tale);
        let roster = Roster::start(&source(&zk.connect_string(), "audit_interval = \"1s\""));
        roster.becomes("live");
        let largest = seen.largest_reply.load(Ordering::Relaxed);
        assert!((MIB..MIB + 1_000).contains(&largest), "{largest}");
        std::thread::sleep(std::time::Duration::from_secs(4));
        let (read, connects) = (seen.bytes_read.load(Ordering::Relaxed), zk.connects());
        // Else an audit reads again what has not changed.
        let is_once = read < (NODES + 4) * MIB && connects == 1;
        ensure(is_once, format!("{read} bytes over {connects} connections: {}", roster.log()))
    });
}

#[test]
fn what_was_read_before_a_loss_is_not_read_again() {
    const BYTES: usize = 100 << 10;
    let seen = Arc::new(Seen::default());
    let tale = Large { folders: 0, nodes: 20, bytes: |_| BYTES, seen: seen.clone(), breaks_after: 5 * BYTES };
    let zk = FakeZk::telling(tale);
    let roster = Roster::start(&source(&zk.connect_string(), ""));
    eventually("all is read", 3 * SOON, || {
        ensure(roster.tree().is_ok_and(|(tree, _)| tree.len() == 21), zk.connects())
    });
    let read = seen.bytes_read.load(Ordering::Relaxed);
    // What is on its way when the line breaks comes twice: how much that is, is chance.
    assert!(read < 40 * BYTES, "{read} bytes, over {} connections", zk.connects());
}

#[test]
fn large_nodes_below_or_among_small_ones_do_not_come_together() {
    const BYTES: usize = 100 << 10;
    // With how many of them may come together: of a hundred that lie among small ones, those of which one of 32 is read
    // first.
    type Kind = (usize, usize, fn(usize) -> usize, usize);
    let kinds: [Kind; 4] = [
        (30, 1, |_| BYTES, 1),
        (100, 5, |_| BYTES, 1),
        (10, 40, |_| BYTES, 1),
        (0, 3_000, |number| if (1_500..1_600).contains(&number) { BYTES } else { 10 }, 4),
    ];
    for (folders, nodes, bytes, most) in kinds {
        let seen = Arc::new(Seen::default());
        let tale = Large { folders, nodes, bytes, seen: seen.clone(), breaks_after: usize::MAX };
        let zk = FakeZk::telling(tale);
        let roster = Roster::start(&source(&zk.connect_string(), ""));
        roster.becomes("live");
        let (tree, _) = roster.tree().expect("a tree");
        assert_eq!(tree.len(), 1 + folders + folders.max(1) * nodes);
        let largest = seen.largest_reply.load(Ordering::Relaxed);
        assert!(
            (BYTES..(most + 1) * BYTES).contains(&largest),
            "{largest} bytes of {nodes} nodes in {folders} folders"
        );
    }
}

#[test]
fn large_nodes_at_regular_places_among_small_ones_do_not_come_together() {
    const BYTES: usize = 100 << 10;
    const MOST_TOGETHER: usize = 8;
    let layouts: [fn(usize) -> usize; 5] = [
        |number| if number % 2 == 1 { BYTES } else { 10 },
        |number| if number % 4 == 1 { BYTES } else { 10 },
        |number| if number % 8 == 1 { BYTES } else { 10 },
        |number| if number % 16 == 1 { BYTES } else { 10 },
        |number| if number % 32 == 1 { BYTES } else { 10 },
    ];
    for bytes in layouts {
        let seen = Arc::new(Seen::default());
        let tale = Large { folders: 0, nodes: 3_000, bytes, seen: seen.clone(), breaks_after: usize::MAX };
        let zk = FakeZk::telling(tale);
        let roster = Roster::start(&source(&zk.connect_string(), "max_bytes = \"1GiB\""));
        roster.becomes("live");
        eventually("all is read", SOON, || ensure(roster.source().nodes == 3_001, roster.source().nodes));
        let largest = seen.largest_reply.load(Ordering::Relaxed);
        assert!((BYTES..(MOST_TOGETHER + 1) * BYTES).contains(&largest), "{largest}");
    }
}

#[test]
fn many_small_nodes_are_read_by_few_requests() {
    const NODES: usize = 10_000;
    let seen = Arc::new(Seen::default());
    let tale = Large { folders: 100, nodes: 100, bytes: |_| 100, seen: seen.clone(), breaks_after: usize::MAX };
    let zk = FakeZk::telling(tale);
    let roster = Roster::start(&source(&zk.connect_string(), ""));
    roster.becomes("live");
    let all = 1 + 100 + NODES as i64;
    eventually("all is read", SOON, || ensure(roster.source().nodes == all, roster.source().nodes));
    let requests = seen.requests.load(Ordering::Relaxed);
    assert!(requests < NODES / 50, "{requests} requests");
}

/// Sends one thing for the requests of one kind.
#[derive(Debug)]
struct Gray(fn(i32, Vec<u8>) -> Sent);

impl Tale for Gray {
    fn sent(&self, op: i32, frame: Vec<u8>) -> Sent {
        self.0(op, frame)
    }
}

/// A good server that takes no connection before another one was asked.
#[derive(Debug)]
struct Second(Arc<FakeZk>);

impl Tale for Second {
    fn sent(&self, op: i32, frame: Vec<u8>) -> Sent {
        if op == op::CONNECT && self.0.connects() == 0 { Sent::Closed } else { Sent::Once(frame) }
    }
}

#[test]
fn a_server_that_answers_no_question_is_left_for_another() {
    let grays: [fn(i32, Vec<u8>) -> Sent; 4] = [
        |op, frame| Sent::Once(if matches!(op, op::CONNECT | op::PING) { frame } else { Vec::new() }),
        |op, frame| Sent::Once(if op == op::MULTI_READ { Vec::new() } else { frame }),
        |op, frame| if op == op::MULTI_READ { Sent::Slowly(frame) } else { Sent::Once(frame) },
        |op, frame| if op == op::SYNC { Sent::Slowly(frame) } else { Sent::Once(frame) },
    ];
    let pairs = grays.map(|gray| {
        let gray = Arc::new(FakeZk::telling(Gray(gray)));
        let good = FakeZk::telling(Second(gray.clone()));
        let roster = Roster::start(&source(&format!("{},{}", gray.connect_string(), good.connect_string()), ""));
        (roster, gray, good)
    });
    for (roster, gray, _good) in &pairs {
        roster.becomes("live");
        assert!(gray.connects() > 0, "{}", roster.log());
    }
}

#[test]
fn a_server_that_takes_only_short_requests_is_mirrored() {
    for most in [64 << 10, 8 << 10] {
        let mut scene = Scene::before_zookeeper("");
        scene.server().restart();
        scene.zk.create("/names", "");
        let prefix = format!("/names/{}-", "x".repeat(300));
        scene.zk.create_many(&prefix, 1_500);
        scene.roster.kill();
        scene.server().set_property(&format!("-Djute.maxbuffer={most}"));
        // Of its own files it takes more.
        scene.server().set_property("-Dzookeeper.jute.maxbuffer.extrasize=4194304");
        scene.server().restart();
        scene.roster.run();
        eventually("all are mirrored", SOON, || {
            let (tree, freshness) = scene.roster.tree().map_err(|error| format!("{error:?}"))?;
            ensure(freshness.age_ms == 0 && tree.len() > 1_500, format!("{} {freshness:?}", tree.len()))
        });
    }
}

#[test]
fn a_reply_that_takes_longer_than_a_session_is_awaited() {
    let mut scene = Scene::before_zookeeper("");
    scene.server().restart();
    for number in 0..3 {
        scene.zk.create(&format!("/large-{number}"), vec![b'x'; 400 << 10]);
    }
    scene.roster.kill();
    scene.link.slow_down();
    scene.roster.run();
    eventually("all are mirrored", 2 * SOON, || {
        let (tree, _) = scene.roster.tree().map_err(|error| format!("{error:?}"))?;
        ensure((0..3).all(|number| tree.contains_key(&format!("/large-{number}"))), tree.len())
    });
    let log = scene.roster.log();
    let after_the_start = &log[log.rfind("connecting").unwrap_or(0)..];
    assert!(!after_the_start.contains("lost the ensemble") && !after_the_start.contains("silent"), "{log}");
}

/// Some nodes of 1 MB on a server whose heap has little room for more: a client that asks for all of them at once ends
/// it.
#[test]
fn a_server_whose_heap_is_nearly_full_outlives_a_first_sync() {
    const NODES: usize = 40;
    let paths: Vec<String> = (0..NODES).map(|number| format!("/large-{number}")).collect();
    let mut scene = Scene::before_zookeeper("");
    scene.roster.kill();
    scene.server().restart_roomy();
    paths.iter().for_each(|path| scene.zk.create(path, vec![b'x'; 1_000_000]));
    scene.server().restart_narrow(NEARLY_FULL);
    for path in &paths {
        scene.zk.run(async |client| client.get_data(path).await.map(drop));
    }
    scene.roster.run();
    eventually("all are mirrored", 3 * SOON, || {
        let (tree, freshness) = scene.roster.tree().map_err(|error| format!("{error:?}"))?;
        let is_all = freshness.age_ms == 0 && paths.iter().all(|path| tree.contains_key(path));
        ensure(is_all, format!("{} {}", tree.len(), scene.roster.log()))
    });
    assert!(!scene.server().is_out_of_memory(), "{}", scene.roster.log());
    if release() >= MULTI_READS {
        let all_at_once = scene.zk.attempt(async |client| {
            let mut reader = client.new_multi_reader();
            paths.iter().try_for_each(|path| reader.add_get_data(path))?;
            reader.commit().await.map(drop)
        });
        all_at_once.expect_err("it was not nearly full");
    }
}
