//! Many readers of the shared file at once, while it changes and while they are killed.
//!
//! `ROSTER_LONG=1` runs the long forms.

use std::collections::HashSet;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use zookeeper_client::{Acls, Client, CreateMode, Error};

use crate::harness::{Fpm, Roster, SOON, ensure, eventually, fresh_chroot, source};

const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/php");
const NODES: u64 = 100;

/// So many changes are asked for each `BEAT`.
const CHANGES: u64 = 40;
const BEAT: Duration = Duration::from_millis(20);

pub(crate) fn is_long() -> bool {
    std::env::var_os("ROSTER_LONG").is_some()
}

fn path(number: u64) -> String {
    format!("/n{}", number % NODES)
}

/// As `reader.php` expects it.
fn data(number: u64) -> String {
    format!("{number} {} end of {number}", "x".repeat((number * 37 % 3_000) as usize))
}

async fn create(client: &Client) -> Result<(), Error> {
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    for number in 0..NODES {
        client.create(&path(number), data(number).as_bytes(), &options).await?;
    }
    Ok(())
}

/// Changes nodes in turn at an even pace for a second; the next number.
async fn change(client: &Client, from: u64) -> Result<u64, Error> {
    let (began, mut next, mut under_way) = (Instant::now(), from, FuturesUnordered::new());
    for beat in 0.. {
        let due = BEAT * beat;
        if due >= Duration::from_secs(1) {
            break;
        }
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        for number in next..next + CHANGES {
            let (path, data) = (path(number), data(number));
            under_way.push(async move { client.set_data(&path, data.as_bytes(), None).await });
        }
        next += CHANGES;
        while under_way.len() as u64 > NODES / 2 {
            under_way.next().await.transpose()?;
        }
    }
    while under_way.next().await.transpose()?.is_some() {}
    Ok(next)
}

fn reader(roster: &Roster, seconds: u64) -> Child {
    // They take what is left of the processors.
    let mut php = Command::new("nice");
    php.args(["-n", "19", "php"]).arg(format!("{TESTS}/reader.php")).arg(roster.shared_file());
    php.args([seconds.to_string(), NODES.to_string()]).stdout(Stdio::piped());
    php.spawn().expect("PHP starts, if `make deps` has been run")
}

#[test]
fn readers_in_a_tight_loop_miss_nothing_and_see_nothing_torn_while_much_changes() {
    let (seconds, zk) = (if is_long() { 30 } else { 3 }, fresh_chroot());
    zk.run(create);
    let roster = Roster::start(&source(zk.connect_string(), ""));
    eventually("the file has all", SOON, || {
        let last = roster.cli(["get", &path(NODES - 1), "--shared", &roster.shared_file().display().to_string()]);
        ensure(last.code == Some(0), format!("{last:?}"))
    });
    let before = roster.status().counters;
    let mut readers: Vec<Child> = (0..8).map(|_| reader(&roster, seconds)).collect();
    let (began, mut next) = (Instant::now(), NODES);
    // On a busy machine one may begin late.
    let is_reading = |reader: &mut Child| reader.try_wait().expect("a child can be waited for").is_none();
    while readers.iter_mut().any(is_reading) {
        next = zk.run(async |client| change(client, next).await);
    }
    let took = began.elapsed();
    let mut reads = 0;
    for reader in readers {
        let output = reader.wait_with_output().expect("it ends");
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        assert_eq!(told["wrong"], serde_json::json!([]));
        assert!(told["seen"].as_u64().expect("a number") > NODES, "it saw changes: {told}");
        reads += told["reads"].as_u64().expect("a number");
    }
    let after = roster.status().counters;
    let count = |name: &str| after[name] - before[name];
    println!(
        "{reads} reads by 8 readers beside {} changes in {} writes of the file, in {took:.1?}; {} were asked for",
        count("changes"),
        count("sharedWrites"),
        next - NODES
    );
}

#[test]
fn no_place_of_a_reader_is_lost_for_good_when_workers_of_a_web_server_are_killed() {
    let (workers, places, kills) = if is_long() { (200, 512, 10_000) } else { (8, 64, 150) };
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    roster.configure("[[file]]", &format!("[shared]\nmax_readers = {places}\n[[file]]"));
    roster.run();
    roster.becomes("live");
    let (fpm, file) = (Fpm::start(workers), roster.shared_file().display().to_string());
    let page = || fpm.page(&format!("{TESTS}/page.php"), &[("SHARED_FILE", &file)]);
    let (killed, refused, right) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let began = Instant::now();
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                while killed.load(Ordering::Relaxed) < kills {
                    // Its worker may be killed by another thread.
                    let Some(told) = page() else { continue };
                    let (worker, data) = told.split_once(' ').expect("two words");
                    assert!(["one", "", "no handle"].contains(&data), "{data}");
                    if data == "one" { &right } else { &refused }.fetch_add(1, Ordering::Relaxed);
                    if right.load(Ordering::Relaxed) % 4 == 0 && kill_worker(worker.parse().expect("a number")) {
                        killed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let took = began.elapsed();
    eventually("every worker can read again", SOON, || {
        let mut seen = HashSet::new();
        for _ in 0..workers * 4 {
            let told = page().ok_or("a worker died")?;
            ensure(told.ends_with(" one"), &told)?;
            seen.insert(told);
        }
        ensure(seen.len() >= workers.min(4), "too few workers answer")
    });
    println!(
        "{kills} of {workers} workers killed, with {places} places, in {took:.1?}: {right:?} pages were right, {refused:?} \
         found no place for the moment"
    );
}

/// Kills a worker, if that is what still has the number.
fn kill_worker(id: i32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
    name.starts_with("php-fpm") && kill(Pid::from_raw(id), Signal::SIGKILL).is_ok()
}
