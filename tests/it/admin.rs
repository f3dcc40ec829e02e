//! The admin server, asked by probes, by Prometheus, and by whoever should get nothing of it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{Uid, setfsuid};
use rmpv::Value;

use crate::harness::master::Scripted;
use crate::harness::{Process, Roster, SOON, ensure, eventually, free_port, is_skipped_without_root, source};
use crate::register::{Scene, TOKEN};

const LISTEN: &str = "[admin]\nlisten = \"127.0.0.1:0\"\n";

/// Where a sidecar's admin server listens.
pub(crate) fn port(roster: &Roster) -> u16 {
    eventually("the admin server listens", SOON, || {
        let log = roster.log();
        let line = log.lines().rev().find(|line| line.contains("listening for health and metrics")).ok_or("not yet")?;
        let port = line.rsplit_once(':').map(|(_, port)| port.trim()).ok_or("no port")?;
        port.parse().map_err(|_| "no number")
    })
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("it accepts");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    stream
}

/// The status of an answer, its head and its body.
fn asked(port: u16, request: &str) -> (u16, String, String) {
    let mut stream = connect(port);
    stream.write_all(request.as_bytes()).expect("it takes the request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{request:?}: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, head.to_lowercase(), body.to_owned())
}

fn get(port: u16, path: &str) -> (u16, String) {
    let (status, _, body) =
        asked(port, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    (status, body)
}

/// Each sample of the metrics with its value.
pub(crate) fn samples(port: u16) -> HashMap<String, f64> {
    let (status, text) = get(port, "/metrics");
    assert_eq!(status, 200, "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').expect("a name and a value"))
        .map(|(name, value)| (name.to_owned(), value.parse().expect("a number")))
        .collect()
}

/// Offers `mail`, and has answered a call of `send`.
fn master_that_was_called(scene: &Scene) -> Scripted {
    let mut master = Scripted::join(scene.port, TOKEN, &[("mail", Value::Array(Vec::new()))]);
    scene.has(1);
    let answering = std::thread::spawn(move || {
        let asked = master.asked("call");
        master.answers(asked.id, [true.into()]);
        master
    });
    scene.call("mail", "send", "[]").expect("an answer");
    answering.join().expect("it answered")
}

#[test]
fn probes_are_answered_and_readiness_says_what_is_waited_for() {
    let roster = Roster::start(&format!("{LISTEN}{}", source(&format!("127.0.0.1:{}", free_port()), "name = \"zk\"")));
    let port = port(&roster);
    assert_eq!(get(port, "/live"), (200, "live\n".into()));
    assert_eq!(get(port, "/ready"), (503, "waiting for zk\n".into()));
    assert_eq!(get(port, "/").0, 404);
    let (status, head, _) = asked(port, "POST /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(status, 405, "{head}");
}

#[test]
fn what_is_known_from_before_is_ready_however_old_it_is() {
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"\n");
    roster.configure("[register]", &format!("{LISTEN}[register]"));
    roster.run();
    roster.becomes("live");
    eventually("it is ready", SOON, || ensure(get(port(&roster), "/ready").0 == 200, roster.log()));
    assert_eq!(roster.stop().code(), Some(0));
    // Its source is gone when it starts again; the shared file is what it knows.
    std::fs::remove_file(roster.folder().join("nodes.toml")).expect("a file");
    roster.run();
    let port = port(&roster);
    assert_eq!(roster.data("/a"), b"one");
    assert_eq!(get(port, "/ready"), (200, "ready\n".into()));
    assert!(samples(port)["roster_source_live{source=\"file\",kind=\"file\"}"] == 0.0);
}

#[test]
fn metrics_are_what_status_says_and_what_promtool_takes() {
    let scene = Scene::with(LISTEN);
    let _master = master_that_was_called(&scene);
    let port = port(&scene.roster);
    let known = eventually("the call is counted", SOON, || {
        let known = samples(port);
        ensure(known.contains_key("roster_method_calls_total{service=\"mail\",method=\"send\"}"), "not yet")?;
        Ok::<_, String>(known)
    });
    let of_method = |name: &str| known[&format!("roster_method_{name}{{service=\"mail\",method=\"send\"}}")];
    assert_eq!((of_method("calls_total"), of_method("call_duration_seconds_count")), (1.0, 1.0));
    assert_eq!((known["roster_masters"], known["roster_services"], known["roster_calls_total"]), (1.0, 1.0, 1.0));
    assert_eq!(known["roster_source_live{source=\"register\",kind=\"register\"}"], 1.0);
    let before = scene.roster.status().counters["requests"] as f64;
    eventually("requests are counted", SOON, || ensure(samples(port)["roster_requests_total"] >= before, "older"));

    promtool_takes(&get(port, "/metrics").1);
}

fn promtool_takes(text: &str) {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("promtool; has `make deps` been run?");
    promtool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let output = promtool.wait_with_output().expect("it ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn workers_are_counted_by_their_states_and_their_restarts() {
    let worker = |name: &str, command: &str, ready_after: &str| {
        format!(
            "[[worker]]\nname = \"{name}\"\ncommand = {command}\nready_after = \"{ready_after}\"\n\
             restart_delay = \"10ms\"\n"
        )
    };
    // None of it counts as ready, however long a busy machine takes for it to end.
    let crashes = worker("crash", "[\"false\"]", "1m") + "max_restart_delay = \"10ms\"\nstart_retries = 3\n";
    let accepts = "restart = \"never\"\naccept = \"sidecar\"\nlisten = [\"unix://{folder}/once.sock\"]\n";
    let web = worker("web", "[\"sleep\", \"1000\"]", "10ms") + "count = 2\n";
    // The last is never ready, so that it is handed no connection.
    let groups = [web, crashes, worker("once", "[\"true\"]", "1m") + accepts];
    let roster = Roster::start(&(LISTEN.to_owned() + &groups.concat()));
    let port = port(&roster);
    let waits = UnixStream::connect(roster.folder().join("once.sock"));
    let state = |group: &str, state: &str| format!("roster_workers{{group=\"{group}\",state=\"{state}\"}}");
    let known = eventually("one is given up", SOON, || {
        let known = samples(port);
        ensure(known[&state("crash", "FATAL")] == 1.0 && known[&state("web", "RUNNING")] == 2.0, "not yet")?;
        Ok::<_, String>(known)
    });
    assert_eq!((known[&state("web", "FATAL")], known[&state("crash", "BACKOFF")]), (0.0, 0.0));
    assert_eq!(known["roster_worker_restarts_total{group=\"crash\"}"], 3.0);
    eventually("a connection waits", SOON, || {
        let waiting = samples(port)["roster_worker_connections_waiting{group=\"once\"}"];
        ensure(waits.is_ok() && waiting == 1.0, waiting)
    });
    assert_eq!(known["roster_worker_connections_refused_total{group=\"once\"}"], 0.0);
    assert!(roster.cli(["worker", "scale", "web", "3"]).code == Some(0));
    assert!(roster.cli(["worker", "restart", "web"]).code == Some(0));
    assert!(roster.cli(["worker", "scale", "web", "1"]).code == Some(0));
    let known = eventually("it is counted", SOON, || {
        let known = samples(port);
        ensure(known[&state("web", "RUNNING")] == 1.0, "not yet")?;
        Ok::<_, String>(known)
    });
    assert_eq!(known["roster_worker_restarts_total{group=\"web\"}"], 3.0, "also of those that are no more");
    assert_eq!(known.get("roster_worker_connections_waiting{group=\"web\"}"), None, "it accepts by itself");
    promtool_takes(&get(port, "/metrics").1);
}

#[test]
fn connections_that_wait_for_workers_are_counted() {
    let accepts =
        "[[worker]]\nname = \"web\"\ncommand = [\"sleep\", \"1000\"]\nready_after = \"1h\"\naccept = \"sidecar\"\n";
    let at = free_port();
    let roster = Roster::start(&format!("{LISTEN}{accepts}listen = [\"tcp://127.0.0.1:{at}\"]\n"));
    let port = port(&roster);
    let waiting = |count: f64| {
        eventually("it is counted", SOON, || {
            let known = samples(port);
            ensure(known["roster_worker_connections_waiting{group=\"web\"}"] == count, "not yet")?;
            ensure(known["roster_worker_connections_refused_total{group=\"web\"}"] == 0.0, "refused")
        });
    };
    let client = eventually("it listens", SOON, || std::net::TcpStream::connect(("127.0.0.1", at)));
    waiting(1.0);
    drop(client);
    waiting(0.0);
    promtool_takes(&get(port, "/metrics").1);
}

#[test]
fn a_state_that_is_not_kept_is_a_metric() {
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"\n");
    roster.configure("[register]", &format!("{LISTEN}[register]"));
    roster.run();
    assert_eq!(samples(port(&roster))["roster_state_failing"], 1.0, "the folder above is not there");
    assert!(roster.stop().success());
    std::fs::create_dir(roster.folder().join("disk")).expect("a folder");
    roster.run();
    assert_eq!(samples(port(&roster))["roster_state_failing"], 0.0);
}

#[test]
fn the_alerts_are_of_metrics_that_there_are() {
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/prometheus-rules.yml");
    let output = Command::new("promtool").args(["check", "rules", rules]).output().expect("promtool");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"\n");
    let log = roster.folder().join("web.log");
    let worker = format!("[[worker]]\nname = \"web\"\ncommand = [\"sleep\", \"1000\"]\nlog = {log:?}\n");
    roster.configure("[register]", &format!("{LISTEN}{worker}[queue]\npath = \"queue\"\n[register]"));
    roster.run();
    roster.becomes("live");
    assert_eq!(roster.cli(["enqueue", "mail", "send"]).code, Some(0));
    let port = port(&roster);
    // Where the disk takes long, there are no numbers of the queues for the time being.
    let known = eventually("the queues are asked", SOON, || {
        let known = samples(port);
        ensure(known.contains_key(r#"roster_queue_jobs{queue="mail",state="WAITING"}"#), format!("{known:?}"))?;
        Ok::<_, String>(known)
    });
    let count = |sample: &str| known.get(sample).copied();
    assert_eq!(count(r#"roster_queue_jobs{queue="mail",state="WAITING"}"#), Some(1.0));
    assert_eq!(count(r#"roster_jobs{state="WAITING"}"#), Some(1.0));
    assert_eq!(count("roster_queues_up"), Some(1.0));
    let rules = std::fs::read_to_string(rules).expect("rules");
    let words = rules.split(|character: char| !character.is_alphanumeric() && character != '_');
    for name in words.filter(|word| word.starts_with("roster_")) {
        assert!(known.keys().any(|sample| sample.split('{').next() == Some(name)), "{name}");
    }
}

#[test]
fn queues_that_fail_for_a_moment_alert_nobody_and_ones_that_keep_failing_do() {
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/prometheus-rules.yml");
    let fails = "exp_alerts: [{exp_labels: {instance: a}, exp_annotations: {summary: \"The disk of the queues of a, or their Redis, \
                 fails again and again: the sidecar's log says why\"}}]";
    // A Redis that is away for a minute, and a disk that fails each 5 s, once a minute, or each 5 minutes.
    let cases = [
        ("0x4 8x60", "exp_alerts: []"),
        ("0x20 30x60", "exp_alerts: []"),
        ("0+12x60", fails),
        ("0+1x60", fails),
        ("0x4 1x4 2x4 3x4 4x4 5x4 6x4", fails),
    ];
    let case = |(values, expected): (&str, &str)| {
        format!(
            "- interval: 1m\n  input_series:\n  - {{series: 'roster_queue_failures_total{{instance=\"a\"}}', values: '{values}'}}\n  \
             alert_rule_test:\n  - {{alertname: RosterQueuesFailing, eval_time: 30m, {expected}}}\n"
        )
    };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("test.yml");
    let tests: String = cases.into_iter().map(case).collect();
    std::fs::write(&file, format!("rule_files: ['{rules}']\ntests:\n{tests}")).expect("written");
    let output = Command::new("promtool").args(["test", "rules"]).arg(file).output().expect("promtool");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_prometheus_scrapes_it() {
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"\n");
    roster.configure("[register]", &format!("{LISTEN}[register]"));
    roster.run();
    let (port, own) = (port(&roster), free_port());
    roster.write(
        "prometheus.yml",
        &format!(
            "scrape_configs:\n- job_name: roster\n  scrape_interval: 1s\n  static_configs:\n  - targets: ['127.0.0.1:{port}']\n"
        ),
    );
    let mut prometheus = Command::new("prometheus");
    prometheus
        .arg(format!("--config.file={}", roster.folder().join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", roster.folder().join("tsdb").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{own}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let folder = tempfile::tempdir().expect("a folder");
    let _prometheus = Process::start(&mut prometheus, folder.path());
    eventually("Prometheus has it", Duration::from_secs(60), || {
        TcpStream::connect(("127.0.0.1", own)).map_err(|error| error.to_string())?;
        let (_, answer) = get(own, "/api/v1/query?query=roster_source_nodes");
        ensure(answer.contains(r#""source":"file""#) && answer.contains(r#","2"]"#), answer)
    });
}

#[test]
fn only_who_names_this_machine_is_answered() {
    let roster = Roster::start(LISTEN);
    let port = port(&roster);
    let status = |host: &str| asked(port, &format!("GET /metrics HTTP/1.1\r\n{host}Connection: close\r\n\r\n")).0;
    assert_eq!(status(&format!("Host: 127.0.0.1:{port}\r\n")), 200);
    for host in ["Host: rebound.example\r\n", "Host: 127.0.0.1.rebound.example:80\r\n", ""] {
        assert_eq!(status(host), 421, "{host:?}");
    }
}

#[test]
fn who_may_not_know_of_masters_learns_nothing_of_them() {
    let scene = Scene::with(&format!("{LISTEN}[[allow]]\nuser = \"*\"\nread = [\"/\", \"*\"]\ncall = [\"*\"]\n"));
    let _master = master_that_was_called(&scene);
    let (_, text) = get(port(&scene.roster), "/metrics");
    assert!(text.contains("roster_requests_total") && text.contains("roster_source_live"), "{text}");
    assert!(text.contains("roster_source_nodes{source=\"register\""), "{text}");
    let of_file = ["nodes", "bytes"].map(|what| format!("roster_source_{what}{{source=\"file\""));
    for word in ["mail", "send", "roster_masters", &of_file[0], &of_file[1]] {
        assert!(!text.contains(word), "{word}: {text}");
    }
}

#[test]
fn names_that_callers_make_up_have_no_lines() {
    let scene = Scene::with(LISTEN);
    for number in 0..20 {
        scene.call(&format!("made-up-{number}"), "send", "[]").expect_err("nobody offers it");
    }
    let port = port(&scene.roster);
    let refused = eventually("they are counted together", SOON, || {
        let known = samples(port);
        let calls = known.get("roster_method_calls_total{service=\"other\",method=\"other\"}").copied();
        ensure(calls == Some(20.0), format!("{calls:?}"))?;
        Ok::<_, String>(known)
    });
    assert!(!refused.keys().any(|name| name.contains("made-up")), "{refused:?}");
}

/// Connections of a user that ask and never read, or send nothing.
fn greedy(port: u16, uid: u32) -> Vec<TcpStream> {
    let connections = std::thread::spawn(move || {
        // The file system's user belongs to the thread, and owns the sockets that it makes.
        setfsuid(Uid::from_raw(uid));
        let connect = |number: usize| {
            let mut stream = connect(port);
            let request: &[u8] =
                if number.is_multiple_of(2) { b"" } else { b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" };
            // Its place may be another's already.
            let _ = stream.write_all(request);
            stream
        };
        (0..64).map(connect).collect::<Vec<_>>()
    });
    connections.join().expect("no panic")
}

#[test]
fn many_users_together_keep_no_probe_from_its_answer() {
    if is_skipped_without_root() {
        return;
    }
    let roster = Roster::start(LISTEN);
    let port = port(&roster);
    let _greedy: Vec<_> = (70_001..70_012).map(|uid| greedy(port, uid)).collect();
    for path in ["/live", "/ready", "/metrics"] {
        assert_eq!(get(port, path).0, 200, "as root, {path}");
    }
    let other = std::thread::spawn(move || {
        setfsuid(Uid::from_raw(65_534));
        ["/live", "/ready", "/metrics"].map(|path| get(port, path).0)
    });
    assert_eq!(other.join().expect("no panic"), [200; 3]);
}

#[test]
fn scrapes_that_are_broken_off_take_no_threads() {
    let scene = Scene::with(LISTEN);
    let port = port(&scene.roster);
    get(port, "/metrics");
    let threads = || {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", scene.roster.process().id())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("Threads:")).expect("a count");
        line.trim().parse::<usize>().expect("a number")
    };
    let (before, began, mut most) = (threads(), Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(3) {
        let asked: Vec<_> = (0..32)
            .map(|_| {
                let mut stream = connect(port);
                let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
                stream
            })
            .collect();
        drop(asked);
        most = most.max(threads());
    }
    // What else looks at files now and then has some; one for each of those that asked would be 32.
    assert!(most <= before + 10, "{before} threads, and then {most}");
    assert_eq!(get(port, "/live").0, 200);
}

#[test]
fn one_user_keeps_no_other_from_the_metrics_and_no_stop_waits_for_one() {
    if is_skipped_without_root() {
        return;
    }
    let mut roster = Roster::start(LISTEN);
    let port = port(&roster);
    let silent = std::thread::spawn(move || {
        // The file system's user belongs to the thread, and owns the sockets that it makes.
        setfsuid(Uid::from_raw(65_534));
        let half = |number: usize| {
            let mut stream = connect(port);
            let _ = stream.write_all(if number.is_multiple_of(2) { b"" } else { b"GET /metrics HTTP/1.1\r\nHost: l" });
            stream
        };
        (0..300).map(half).collect::<Vec<_>>()
    });
    let silent = silent.join().expect("no panic");
    for path in ["/live", "/metrics"] {
        assert_eq!(get(port, path).0, 200);
    }
    for garbage in ["\0\u{1}\u{2}\r\n\r\n".to_owned(), format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000))]
    {
        let mut stream = connect(port);
        let _ = stream.write_all(garbage.as_bytes());
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let began = Instant::now();
    assert_eq!(roster.stop().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(8), "the stop waited for {} connections", silent.len());
}
