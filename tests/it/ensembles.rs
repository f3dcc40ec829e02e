//! Which server of an ensemble is mirrored: the addresses of a name by turns, those that join by a reconfiguration.

use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{
    Ensemble, ExtraAddress, Roster, SOON, Server, binary_path, ensure, eventually, is_skipped_before,
    is_skipped_without_root, source, unconfigured,
};

/// Waits until a node has this data, by an answer that is proven.
fn follows(roster: &Roster, path: &str, data: &str) {
    eventually("it is followed", 2 * SOON, || {
        let answer = roster.get(path).map_err(|error| format!("{error:?}"))?;
        ensure(answer.freshness.age_ms == 0 && answer.node.data == data.as_bytes(), format!("{answer:?}"))
    });
}

/// Sets a node's data, as soon as there is a leader for it.
fn set(ensemble: &Ensemble, data: &str) {
    eventually("it is set", 2 * SOON, || {
        ensemble.zk().attempt(async |client| client.set_data("/a", data.as_bytes(), None).await.map(drop))
    });
}

/// Takes connections and says nothing on them; how many they are.
fn silent(address: &str) -> Arc<AtomicUsize> {
    let (listener, count) = (TcpListener::bind(address).expect("a listener"), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            kept.push(stream);
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    count
}

#[test]
fn of_a_name_with_several_addresses_the_silent_ones_cost_a_few_seconds() {
    if is_skipped_without_root() {
        return;
    }
    /// Of an address, since that is how long a session is.
    const PATIENCE: Duration = Duration::from_secs(2);
    let server = Server::start();
    let address = server.address();
    let (host, port) = address.split_once(':').expect("a port");
    let silent = ["127.0.0.2", "127.0.0.3"].map(|host| silent(&format!("{host}:{port}")));
    let asked = || silent.iter().map(|count| count.load(Ordering::Relaxed)).sum::<usize>();
    let mut roster = Roster::prepare(&source(&format!("ensemble.test:{port}"), ""));
    roster.write("hosts", &format!("127.0.0.2 ensemble.test\n127.0.0.3 ensemble.test\n{host} ensemble.test\n"));
    // They are asked in an order of chance.
    for _ in 0..20 {
        let before = asked();
        let mut serve = unconfigured(Command::new("unshare"));
        serve.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
        serve.arg(roster.folder().join("hosts")).arg(binary_path());
        let mut serve = roster.serve(serve);
        roster.run_as(&mut serve);
        let began = Instant::now();
        roster.becomes("live");
        let (took, asked) = (began.elapsed(), asked() - before);
        assert!(took < PATIENCE * asked as u32 + 2 * PATIENCE, "{took:?} with {asked} silent addresses before");
        if asked > 0 {
            return;
        }
        roster.kill();
    }
    panic!("no silent address was asked first");
}

#[test]
fn servers_that_join_are_followed_when_those_of_before_are_gone_and_a_restart_knows_only_connect() {
    if is_skipped_before((3, 5), "ZooKeeper is reconfigured from 3.5 on") {
        return;
    }
    let Some(address) = ExtraAddress::take() else { return };
    let mut ensemble = Ensemble::elsewhere(&address, &["participant"]);
    let first = ensemble.address(1);
    ensemble.zk().create("/a", "one");
    let settings = "follow_reconfig = false\nname = \"still\"\nroots = [\"/b\"]";
    let mut roster = Roster::start(&(source(&first, "roots = [\"/a\"]") + &source(&first, settings)));
    follows(&roster, "/a", "one");

    let (second, third) = (ensemble.join("participant"), ensemble.join("participant"));
    ensemble.leave(&[1]);
    let knows = |number| roster.log().contains(&ensemble.address(number));
    eventually("it is told of both", SOON, || ensure(knows(second) && knows(third), roster.log()));
    ensemble.kill(1);
    set(&ensemble, "two");
    follows(&roster, "/a", "two");
    assert!(roster.log().contains("no server that `connect` names gives a session"), "{}", roster.log());
    eventually("the other one knows only `connect`", SOON, || {
        let still = &roster.status().sources[1];
        ensure(still.state != "live", format!("{still:?}"))
    });

    // Of those that join, one more takes over; and it is known from one that `connect` does not name.
    let fourth = ensemble.join("participant");
    eventually("it is told of it", SOON, || ensure(roster.log().contains(&ensemble.address(fourth)), roster.log()));
    ensemble.leave(&[second]);
    ensemble.kill(second);
    set(&ensemble, "three");
    follows(&roster, "/a", "three");
    let file = roster.shared_file().display().to_string();
    let kept = || roster.cli(["get", "/a", "-o", "raw", "--shared", &file]).told;
    eventually("the shared file has it", SOON, || ensure(kept() == b"three", format!("{:?}", kept())));

    roster.kill();
    roster.run();
    eventually("it knows only the first", SOON, || {
        let source = roster.source();
        let is_of_first = source.state == "down" && source.detail == format!("{first}: connection refused");
        ensure(is_of_first, format!("{source:?}"))
    });
    assert_eq!(roster.data("/a"), b"three");
}

#[test]
fn an_observer_is_mirrored_like_any_other_server() {
    if is_skipped_before((3, 5), "the configuration of these servers is of 3.5") {
        return;
    }
    let ensemble = Ensemble::start(&["participant", "observer"]);
    assert_eq!(ensemble.serves(2), "observer");
    ensemble.zk().create("/a", "one");
    let roster = Roster::start(&source(&ensemble.address(2), "follow_reconfig = false"));
    follows(&roster, "/a", "one");
    // On a busy machine a heartbeat may be late, but not all the time.
    eventually("no connection is lost while much is written", 3 * SOON, || {
        let before = roster.source().reconnects;
        for number in 0..20 {
            let data = format!("{number} after {before}");
            set(&ensemble, &data);
            follows(&roster, "/a", &data);
        }
        ensure(roster.source().reconnects == before, roster.log())
    });
    assert_eq!(roster.source().drift, 0, "{}", roster.log());
}

/// Servers that serve to read when they have no quorum; to new sessions only where these are local ones.
fn that_serve_to_read(count: usize, has_local_sessions: bool) -> Ensemble {
    let more = if has_local_sessions { "localSessionsEnabled=true\nlocalSessionsUpgradingEnabled=true\n" } else { "" };
    Ensemble::with(&vec!["participant"; count], &["-Dreadonlymode.enabled=true"], more)
}

/// Waits until it holds this by a server that serves only to read. Its age.
fn reads_only(roster: &Roster, data: &str) -> i64 {
    eventually("it mirrors a read-only server", 2 * SOON, || {
        let source = roster.source();
        let is_read_only = source.state == "down" && source.detail.starts_with("mirrors a server that is cut off");
        ensure(is_read_only, format!("{source:?}"))
    });
    let answer = roster.get("/a").expect("a node");
    assert_eq!(answer.node.data, data.as_bytes());
    answer.freshness.age_ms
}

#[test]
fn a_server_without_a_quorum_is_mirrored_where_that_may_be_and_never_called_fresh() {
    if is_skipped_before((3, 5), "the configuration of these servers is of 3.5") {
        return;
    }
    let mut ensemble = that_serve_to_read(3, true);
    ensemble.zk().create("/a", "one");
    let written = Instant::now();
    let connect = (1..=3).map(|number| ensemble.address(number)).collect::<Vec<_>>().join(",");
    let settings = "follow_reconfig = false\nread_only = true";
    let mut roster = Roster::start(&source(&connect, settings));
    let strict = Roster::start(&source(&connect, "follow_reconfig = false"));
    follows(&strict, "/a", "one");
    let lost = Instant::now();
    // By a proof that holds for 4.5 s.
    follows(&roster, "/a", "one");
    [2, 3].into_iter().for_each(|number| ensemble.kill(number));
    ensemble.serves_to_read(1);
    let age = reads_only(&roster, "one");
    assert!(age > 0 && age <= lost.elapsed().as_millis() as i64 + 4_500, "{age} ms: since it was last proven");
    std::thread::sleep(Duration::from_secs(5));
    assert!(!strict.source().detail.starts_with("mirrors"), "it was to take no such server: {:?}", strict.source());
    assert!(reads_only(&roster, "one") >= age + 5_000, "the heartbeat of such a server proves nothing");

    // What an earlier process left is as old as it was; and of what nobody knew before, the last change tells.
    let age = reads_only(&roster, "one");
    roster.stop();
    roster.run();
    assert!(reads_only(&roster, "one") >= age);
    let newcomer = Roster::start(&source(&connect, settings));
    let least = written.elapsed().as_millis() as i64 - 2_000;
    let age = reads_only(&newcomer, "one");
    assert!(age >= least, "{age} ms");
    assert!(newcomer.source().session.is_some());

    ensemble.run(2);
    ensemble.serves(2);
    set(&ensemble, "two");
    for roster in [&roster, &newcomer, &strict] {
        follows(roster, "/a", "two");
        eventually("it is live, and nothing is wrong", SOON, || {
            let source = roster.source();
            ensure((source.state.as_str(), source.detail.as_str()) == ("live", ""), format!("{source:?}"))
        });
    }
}

/// Looks for a while, longer than a session lasts, that what it holds stays as it is, by no server that is cut off.
fn takes_none(roster: &Roster, data: &str) {
    const WATCHED: Duration = Duration::from_secs(6);
    let began = Instant::now();
    while began.elapsed() < WATCHED {
        let source = roster.source();
        assert!(source.state != "live" && !source.detail.starts_with("mirrors"), "{source:?}");
        assert_eq!(roster.data("/a"), data.as_bytes());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_read_only_server_that_is_behind_what_is_mirrored_is_refused_also_after_a_restart() {
    if is_skipped_before((3, 5), "the configuration of these servers is of 3.5") {
        return;
    }
    let mut ensemble = that_serve_to_read(3, true);
    ensemble.zk().create("/a", "one");
    let connect = (1..=3).map(|number| ensemble.address(number)).collect::<Vec<_>>().join(",");
    let settings = source(&connect, "follow_reconfig = false\nread_only = true\nroots = [\"/a\"]");
    let mut roster = Roster::start(&settings);
    follows(&roster, "/a", "one");
    ensemble.kill(3);
    set(&ensemble, "two");
    follows(&roster, "/a", "two");
    [1, 2].into_iter().for_each(|number| ensemble.kill(number));
    ensemble.run(3);
    ensemble.serves_to_read(3);
    let newcomer = Roster::start(&settings);
    reads_only(&newcomer, "one");
    takes_none(&roster, "two");
    roster.stop();
    roster.run();
    takes_none(&roster, "two");

    ensemble.run(1);
    ensemble.serves(1);
    for roster in [&roster, &newcomer] {
        follows(roster, "/a", "two");
    }
}

#[test]
fn a_server_that_serves_only_to_read_is_left_for_a_full_one() {
    if is_skipped_before((3, 5), "the configuration of these servers is of 3.5") {
        return;
    }
    let mut cut_off = that_serve_to_read(2, true);
    let mut other = Server::start();
    cut_off.zk().create("/a", "old");
    other.zk().create("/a", "new");
    other.kill();
    cut_off.kill(2);
    cut_off.serves_to_read(1);
    let connect = format!("{},{}", cut_off.address(1), other.address());
    let roster = Roster::start(&source(&connect, "follow_reconfig = false\nread_only = true\nhold = \"0s\""));
    reads_only(&roster, "old");
    other.restart();
    follows(&roster, "/a", "new");
    other.kill();
    eventually("it is lost", SOON, || ensure(roster.source().state == "down", "it is not"));
}

#[test]
fn a_read_only_server_that_gives_no_session_says_what_it_needs() {
    if is_skipped_before((3, 8), "older servers give one") {
        return;
    }
    let mut ensemble = that_serve_to_read(2, false);
    ensemble.kill(2);
    ensemble.serves_to_read(1);
    let roster = Roster::start(&source(&ensemble.address(1), "read_only = true"));
    eventually("it is told why", SOON, || {
        let source = roster.source();
        ensure(source.detail.contains("localSessionsEnabled=true"), format!("{source:?}"))
    });
}
