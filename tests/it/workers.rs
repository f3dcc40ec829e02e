//! Workers: real processes of `sh` and PHP that the sidecar keeps alive, and that an operator commands by the command line.

mod added;
mod renewal;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::access::for_everybody;
use crate::harness::{
    Ended, Over, Printing, Roster, SOON, WWW_DATA, binary, binary_path, ensure, eventually, exception, free_port,
    is_skipped_without_root, of_www_data, unconfigured,
};
use crate::idl::{Call, EntityKind, NotFound, TRosterSyncClient, WorkersQuery};

/// Goes on until it is asked to end.
const SLEEPS: &str = "exec sleep 1000";

/// Answers each connection with its number, and ends after the one that it has when it is asked to.
const SERVER: &str = r#"<?php
pcntl_async_signals(true);
$asked = false;
pcntl_signal(SIGTERM, function () use (&$asked) { $asked = true; }, false);
$listener = socket_import_stream(fopen('php://fd/3', 'r'));
while (!$asked) {
    $connection = @socket_accept($listener);
    if ($connection) {
        socket_write($connection, (string) getmypid());
        socket_close($connection);
    }
}
"#;

/// A group whose processes run a script of `sh`.
pub(crate) fn sh(name: &str, script: &str, settings: &str) -> String {
    group(name, &["sh", "-c", script], settings)
}

fn group(name: &str, command: &[&str], settings: &str) -> String {
    format!(
        "[[worker]]\nname = {name:?}\ncommand = {command:?}\nready_after = \"250ms\"\nrestart_delay = \"10ms\"\n\
         max_restart_delay = \"20ms\"\n{settings}\n"
    )
}

/// The same, where a process that ends at once was not ready, however slow the machine is.
fn slow(groups: &str) -> String {
    groups.replace("ready_after = \"250ms\"", "ready_after = \"4s\"")
}

pub(crate) fn prepared(settings: &str) -> Roster {
    let roster = Roster::prepare(settings);
    // The command line is started so often that it may be slow to speak.
    roster.configure("[thrift]\n", "[thrift]\nfirst_byte_timeout = \"20s\"\nrequest_timeout = \"20s\"\n");
    // For the record of their processes.
    fs::create_dir_all(roster.state()).expect("a folder");
    roster
}

pub(crate) fn started(settings: &str) -> Roster {
    let mut roster = prepared(settings);
    roster.run();
    roster
}

/// What is known of a worker; or why nothing is told.
fn look(roster: &Roster, name: &str) -> Result<Value, String> {
    let ended = roster.cli(["worker", "list", name, "-o", "json"]);
    ensure(ended.code == Some(0), &ended.wrong)?;
    Ok(ended.json()["workers"][0].clone())
}

fn worker(roster: &Roster, name: &str) -> Value {
    look(roster, name).expect("it is told")
}

/// Waits until it is in this state.
fn becomes(roster: &Roster, name: &str, state: &str) -> Value {
    eventually(&format!("{name} is {state}"), SOON, || {
        let worker = look(roster, name)?;
        if worker["state"] == state { Ok(worker) } else { Err(worker.to_string()) }
    })
}

fn pid(worker: &Value) -> i64 {
    worker["pid"].as_i64().unwrap_or_else(|| panic!("{worker} has no process"))
}

/// The number of a process that runs in this place.
pub(crate) fn running(roster: &Roster, name: &str) -> i64 {
    pid(&becomes(roster, name, "RUNNING"))
}

/// What a script does once it has set its traps: a process runs before that.
const SET_UP: &str = "echo > {folder}/set-$$";

/// The same of one whose script has come to its [`SET_UP`].
fn set_up(roster: &Roster, name: &str) -> i64 {
    let pid = running(roster, name);
    let file = roster.folder().join(format!("set-{pid}"));
    eventually(&format!("{name} has set its traps"), SOON, || ensure(file.exists(), roster.log()));
    pid
}

/// Ignores that it is asked to end.
fn stubborn() -> String {
    format!("trap '' TERM; {SET_UP}; while :; do sleep 0.05; done")
}

/// What the command says when it ends with this code.
pub(crate) fn says<const N: usize>(roster: &Roster, words: [&str; N], code: i32) -> String {
    let ended = roster.cli(words);
    assert_eq!(ended.code, Some(code), "{ended:?}");
    String::from_utf8_lossy(&ended.told).into_owned() + &ended.wrong
}

/// The state of a process, as proc(5) has it.
fn process_state(pid: i64) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next())
}

/// Whether there is such a process which has not ended.
fn is_alive(pid: i64) -> bool {
    process_state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

fn ends(what: &str, pid: i64) {
    eventually(&format!("{what} ends"), SOON, || ensure(!is_alive(pid), "it runs"));
}

/// A number that a process writes into a file of the folder.
fn written(roster: &Roster, file: &str) -> i64 {
    eventually(&format!("{file} is written"), SOON, || {
        let text = fs::read_to_string(roster.folder().join(file)).map_err(|error| error.to_string())?;
        text.trim().parse::<i64>().map_err(|error| error.to_string())
    })
}

/// Waits until the sidecar has reaped all of its children that have ended.
fn all_are_reaped(roster: &Roster) {
    let sidecar = roster.process().id().to_string();
    eventually("all are reaped", SOON, || {
        let ended = Ended::of(Command::new("ps").args(["-o", "stat=", "--ppid", &sidecar]));
        let children = String::from_utf8_lossy(&ended.told).into_owned();
        ensure(!children.lines().any(|state| state.starts_with('Z')), children)
    });
}

#[test]
fn workers_are_told_with_their_states_and_do_what_they_are_told() {
    let roster = started(&(sh("web", SLEEPS, "count = 2") + &sh("mail", SLEEPS, "")));
    let before = [running(&roster, "web/1"), running(&roster, "web/2"), running(&roster, "mail/1")];
    let table = roster.cli(["worker", "list"]).text();
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(
        lines.next(),
        Some(vec!["WORKER", "PID", "STATE", "SINCE", "RESTARTS", "MEMORY", "CPU", "CALLS", "DOING", "WHY"])
    );
    assert_eq!(lines.next().map(|line| line[..3].join(" ")), Some(format!("web/1 {} RUNNING", before[0])));
    assert!(!roster.cli(["status"]).text().contains("NOT ALL RUNNING"));
    assert_eq!(roster.cli(["status", "-o", "json"]).json()["workers"], json!({ "RUNNING": 3 }));

    assert_eq!(says(&roster, ["worker", "stop", "web/2", "mail"], 0), "web/2 is stopped\nmail/1 is stopped\n");
    assert_eq!(worker(&roster, "web/2")["state"], "STOPPED");
    assert!(before[1..].iter().all(|pid| !is_alive(*pid)) && running(&roster, "web/1") == before[0]);
    assert!(!roster.cli(["status"]).text().contains("NOT ALL RUNNING"), "who was stopped is no alarm");
    assert_eq!(says(&roster, ["worker", "restart", "web"], 0), "web/1 is replaced\n", "what is stopped stays so");
    assert_eq!(says(&roster, ["worker", "start", "--all"], 0), "web/1 runs\nweb/2 runs\nmail/1 runs\n");
    assert_eq!(says(&roster, ["worker", "restart", "--now", "mail"], 0), "mail/1 is restarted\n");

    let before = running(&roster, "web/1");
    assert_eq!(says(&roster, ["worker", "signal", "web/1", "usr1"], 0), "web/1 was sent usr1\n");
    eventually("it is another process", SOON, || ensure(running(&roster, "web/1") != before, "not yet"));
    assert_eq!(worker(&roster, "web/1")["why"], "it was ended by SIGUSR1");
}

#[test]
fn what_is_not_there_is_told_with_what_there_is() {
    let roster = started(&(sh("web", SLEEPS, "count = 2") + &sh("mail", SLEEPS, "")));
    let before = running(&roster, "mail/1");
    for words in [["stop", "mail", "webb"], ["restart", "mail", "webb"], ["start", "mail", "webb"]] {
        let told = says(&roster, ["worker", words[0], words[1], words[2]], 1);
        assert_eq!(told, "roster: there is no worker `webb`; there are web, mail\n");
    }
    assert_eq!(running(&roster, "mail/1"), before, "where one is not there, nothing is done");
    for words in [["list", "webb"], ["logs", "webb"]] {
        assert!(says(&roster, ["worker", words[0], words[1]], 1).contains("there are web, mail"));
    }
    assert!(says(&roster, ["worker", "scale", "webb", "2"], 1).contains("there are web, mail"));
    assert!(says(&roster, ["worker", "stop", "web/3"], 1).contains("`web/3`; web has the numbers 1 to 2"));
    assert!(says(&roster, ["worker", "signal", "web", "NOPE"], 2).contains("signal: `NOPE` is none"));
    assert!(says(&roster, ["worker", "signal", "HUP", "web"], 2).contains("roster worker signal web HUP"));
    assert!(says(&roster, ["worker", "scale", "web/1", "2"], 2).contains("it is for all of a worker's processes: web"));
    assert!(says(&roster, ["worker", "remove", "web", "--saved"], 2).contains("--saved: of `web` nothing is saved"));
    says(&roster, ["worker", "stop", "web/2"], 0);
    assert!(
        says(&roster, ["worker", "restart", "web/2"], 0).contains("web/2 does not run; `roster worker start web/2`")
    );
    says(&roster, ["worker", "scale", "web", "0"], 2);
    says(&roster, ["worker", "stop"], 2);
    let none = Roster::start("");
    assert_eq!(roster.cli(["worker", "list", "-o", "json"]).json()["workers"].as_array().map(Vec::len), Some(3));
    assert_eq!(none.cli(["worker", "list", "-o", "json"]).json()["workers"], json!([]));
    assert!(says(&none, ["worker", "start", "web"], 1).contains("the configuration has no [[worker]]"));
    assert_eq!(none.cli(["status", "-o", "json"]).json()["workers"], Value::Null);
    let query = WorkersQuery::new("web\n".to_owned(), None, None, None, None);
    let absent = exception::<NotFound>(none.client().workers(query)).expect("it is told");
    assert_eq!((absent.kind, absent.name.as_str()), (EntityKind::WORKER, "web\n"));
}

#[test]
fn a_crash_loop_is_given_up_with_its_reason_and_start_tries_again() {
    let script = "test -e {folder}/mended && exec sleep 1000; echo it is broken >&2; exit 3";
    let roster = started(&slow(&(sh("web", script, "start_retries = 3") + &sh("mail", SLEEPS, ""))));
    let given_up = becomes(&roster, "web/1", "FATAL");
    let why = "it ended with code 3 before it was ready";
    assert_eq!((&given_up["why"], &given_up["pid"], &given_up["restarts"]), (&json!(why), &Value::Null, &json!(3)));
    assert!(roster.log().contains("a worker is given up; `roster worker start` tries it again"));
    let told = says(&roster, ["worker", "start", "web"], 7);
    assert!(told.contains(&format!("web/1: {why}\n")) && told.contains("`roster worker logs web/1` shows"), "{told}");
    assert!(told.contains(" web/1 ! it is broken\n"), "{told}");
    eventually("what it printed is told", SOON, || {
        let printed = says(&roster, ["worker", "logs", "web/1", "-n", "1"], 0);
        ensure(printed.ends_with(" web/1 ! it is broken\n"), printed)
    });
    becomes(&roster, "web/1", "FATAL");
    roster.write("mended", "");
    assert_eq!(says(&roster, ["worker", "start", "web"], 0), "web/1 runs\n");
    assert_eq!(worker(&roster, "web/1")["state"], "RUNNING");
    running(&roster, "mail/1");
}

#[test]
fn a_worker_that_ends_well_is_started_again_and_never_given_up() {
    let groups = sh("web", "sleep 1", "start_retries = 2") + &sh("once", "sleep 1", "restart = \"never\"");
    // Also on a slow machine it is ready long before it ends.
    let roster = started(&groups.replace("ready_after = \"250ms\"", "ready_after = \"0s\""));
    let often = eventually("it was started often", SOON, || {
        let worker = look(&roster, "web/1")?;
        if worker["restarts"].as_i64() > Some(4) { Ok(worker) } else { Err(worker.to_string()) }
    });
    assert_eq!(often["why"], "it ended with code 0");
    assert_eq!(becomes(&roster, "once/1", "EXITED")["restarts"], 0);
}

#[test]
fn what_is_to_be_done_once_is_done_once_however_quickly_it_ends() {
    let once = |name: &str, code: i32, restart: &str| {
        sh(name, &format!("echo x >> {{folder}}/{name}; exit {code}"), &format!("restart = {restart:?}"))
    };
    let groups = once("never", 3, "never") + &once("well", 0, "on-failure");
    let roster = started(&slow(&groups));
    for (name, why) in [("never", "it ended with code 3 before it was ready"), ("well", "it ended with code 0")] {
        let worker = becomes(&roster, &format!("{name}/1"), "EXITED");
        assert_eq!(worker["why"], why);
        assert_eq!(fs::read_to_string(roster.folder().join(name)).expect("written"), "x\n");
    }
}

#[test]
fn a_rolling_restart_refuses_nobody() {
    let port = free_port();
    let listen = format!("count = 3\nlisten = [\"tcp://127.0.0.1:{port}\"]");
    let mut roster = prepared(&group("web", &["php", "{folder}/server.php"], &listen));
    roster.write("server.php", SERVER);
    roster.run();
    let pids = || (1..=3).map(|number| running(&roster, &format!("web/{number}"))).collect::<BTreeSet<_>>();
    let before = pids();
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|threads| {
        let over_now = Over(&over);
        let clients: Vec<_> = (0..2)
            .map(|_| {
                threads.spawn(|| {
                    let mut answers = BTreeSet::new();
                    while !over.load(Ordering::Relaxed) {
                        let mut answer = String::new();
                        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("nobody is refused");
                        stream.set_read_timeout(Some(SOON)).expect("a timeout");
                        stream.read_to_string(&mut answer).expect("nobody is cut off");
                        answers.insert(answer.parse::<i64>().expect("everybody is answered"));
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    answers
                })
            })
            .collect();
        let more = |count: usize| {
            let before = answered.load(Ordering::Relaxed);
            eventually("they are answered", SOON, || {
                ensure(answered.load(Ordering::Relaxed) > before + count, "not yet")
            });
        };
        more(100);
        for _ in 0..2 {
            let told = says(&roster, ["worker", "restart", "web"], 0);
            assert_eq!(told, "web/1 is replaced\nweb/2 is replaced\nweb/3 is replaced\n");
            more(100);
        }
        before.iter().for_each(|pid| ends("the old one", *pid));
        more(10);
        drop(over_now);
        let answers: BTreeSet<i64> = clients.into_iter().flat_map(|client| client.join().expect("no panic")).collect();
        assert!(pids().is_disjoint(&before), "{before:?}");
        assert!(!answers.is_disjoint(&before) && !answers.is_subset(&before), "{answers:?} {before:?}");
    });
}

#[test]
fn new_processes_that_do_not_boot_leave_the_old_ones_running() {
    let script = "test -e {folder}/broken && { echo no such class >&2; exit 9; }; exec sleep 1000";
    let roster = started(&slow(&sh("web", script, "count = 2")));
    let pids = || ["web/1", "web/2"].map(|name| running(&roster, name));
    let before = pids();
    roster.write("broken", "");
    let told = says(&roster, ["worker", "restart", "--rolling", "web"], 7);
    assert!(told.contains("web/1: it ended with code 9 before it was ready\n") && !told.contains("web/2"), "{told}");
    assert!(told.contains("the rolling restart ended there, and what it has not replaced stays as it is"), "{told}");
    eventually("what it printed is told", SOON, || {
        let printed = says(&roster, ["worker", "logs", "web"], 0);
        ensure(printed.contains("web/1 ! no such class"), printed)
    });
    assert_eq!(pids(), before);
    fs::remove_file(roster.folder().join("broken")).expect("it is there");
    let since = || worker(&roster, "web/2")["sinceMs"].as_i64().expect("a time");
    let of_old = since();
    assert_eq!(says(&roster, ["worker", "restart", "web/2"], 0), "web/2 is replaced\n");
    let after = pids();
    assert!(after[0] == before[0] && after[1] != before[1] && since() > of_old);
}

#[test]
fn new_processes_that_fail_soon_after_they_were_ready_end_a_rolling_restart() {
    // The first one's process fails once the next one has begun.
    let script = "test -e {folder}/broken || exec sleep 1000; \
                  test $ROSTER_WORKER = web/2 && touch {folder}/next && exec sleep 1000; \
                  until test -e {folder}/next; do sleep 0.05; done; exit 9";
    let roster = started(&slow(&sh("web", script, "count = 3")));
    let pids = || [2, 3].map(|number| running(&roster, &format!("web/{number}")));
    let before = pids();
    roster.write("broken", "");
    let told = says(&roster, ["worker", "restart", "web"], 7);
    assert!(told.contains("web/1: it was replaced, and then failed: it ended with code 9"), "{told}");
    assert!(told.contains("web/2 is replaced\n") && !told.contains("web/3"), "{told}");
    let after = pids();
    assert!(after[0] != before[0] && after[1] == before[1], "{before:?} {after:?}");
}

#[test]
fn scaling_starts_and_stops_no_others_and_what_was_added_ends_in_order() {
    let heeds = "trap 'echo asked > {folder}/asked-$ROSTER_WORKER; exit' TERM";
    let script = format!("{heeds}; {SET_UP}; while :; do sleep 0.05; done");
    let mut roster = prepared(&sh("web", &script, "count = 2"));
    fs::create_dir(roster.folder().join("asked-web")).expect("a folder");
    roster.run();
    let before = ["web/1", "web/2"].map(|name| set_up(&roster, name));
    let told = says(&roster, ["worker", "scale", "web", "4"], 0);
    assert_eq!(told, "web/3 runs\nweb/4 runs\nweb has 4 of them, until the sidecar is started again\n");
    set_up(&roster, "web/3");
    let added = set_up(&roster, "web/4");
    assert_eq!(["web/1", "web/2"].map(|name| running(&roster, name)), before);
    assert!(says(&roster, ["worker", "scale", "web", "3"], 0).starts_with("web/4 is no more\n"));
    assert!(!is_alive(added) && roster.folder().join("asked-web/4").exists());
    assert_eq!(["web/1", "web/2"].map(|name| running(&roster, name)), before);
    assert!(!roster.folder().join("asked-web/3").exists());
    assert_eq!(roster.stop().code(), Some(0));
    assert!(["1", "2", "3"].iter().all(|it| roster.folder().join("asked-web").join(it).exists()));
}

#[test]
fn what_ignores_its_stop_signal_is_killed_in_time_also_at_the_end_of_the_sidecar() {
    let settings = "stop_timeout = \"200ms\"";
    let mut roster = started(&(sh("web", &stubborn(), settings) + "[sidecar]\nstop_timeout = \"1s\"\n"));
    let first = set_up(&roster, "web/1");
    assert_eq!(says(&roster, ["worker", "stop", "web"], 0), "web/1 is stopped\n");
    assert!(!is_alive(first));
    says(&roster, ["worker", "start", "web"], 0);
    let second = set_up(&roster, "web/1");
    assert_eq!(roster.stop().code(), Some(0));
    ends("what has less time than the sidecar", second);
    roster.configure(settings, "stop_timeout = \"1h\"");
    roster.run();
    let third = set_up(&roster, "web/1");
    assert_eq!(roster.stop().code(), Some(0));
    ends("what has an hour", third);
}

#[test]
fn a_group_that_hangs_leaves_time_to_those_that_stop_after_it() {
    let hangs = sh("hangs", &stubborn(), "stop_timeout = \"1h\"\npriority = 1");
    let heeds = format!("trap 'echo > {{folder}}/ended; exit' TERM; {SET_UP}; while :; do sleep 0.05; done");
    let mut roster = started(&(hangs + &sh("ends", &heeds, "") + "[sidecar]\nstop_timeout = \"24s\"\n"));
    let hung = set_up(&roster, "hangs/1");
    set_up(&roster, "ends/1");
    assert_eq!(roster.stop().code(), Some(0));
    assert!(roster.folder().join("ended").exists() && !is_alive(hung), "{}", roster.log());
}

/// Ends when it is asked to and there is a file that lets it.
fn lingers() -> String {
    let until_it_may = "while ! test -e {folder}/go; do sleep 0.05; done";
    format!("trap '{until_it_may}; exit' TERM; {SET_UP}; while :; do sleep 0.05; done")
}

#[test]
fn what_was_replaced_is_listed_until_it_has_ended_and_a_stop_waits_for_it() {
    let lingers = sh("web", &lingers(), "stop_timeout = \"1h\"");
    let mut roster = started(&(lingers + "[sidecar]\nstop_timeout = \"2s\"\n"));
    let old = set_up(&roster, "web/1");
    assert_eq!(says(&roster, ["worker", "restart", "web"], 0), "web/1 is replaced\n");
    let new = set_up(&roster, "web/1");
    assert_eq!(worker(&roster, "web/1")["retiring"], json!([old]));
    let row = format!("web/1 {old} STOPPING - - - - - - it was replaced");
    let table = roster.cli(["worker", "list"]).text();
    assert!(table.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") == row), "{table}");
    says(&roster, ["worker", "stop", "web", "--wait", "100ms"], 6);
    says(&roster, ["worker", "signal", "web", "KILL"], 0);
    ends("the new one", new);
    says(&roster, ["worker", "stop", "web", "--wait", "100ms"], 6);
    let worker = worker(&roster, "web/1");
    assert_eq!((&worker["state"], &worker["retiring"]), (&json!("STOPPING"), &json!([old])));
    roster.write("go", "");
    assert_eq!(says(&roster, ["worker", "stop", "web"], 0), "web/1 is stopped\n");
    assert!(!is_alive(old));

    fs::remove_file(roster.folder().join("go")).expect("it is there");
    says(&roster, ["worker", "start", "web"], 0);
    let old = set_up(&roster, "web/1");
    says(&roster, ["worker", "restart", "web"], 0);
    all_are_reaped(&roster);
    assert_eq!(roster.stop().code(), Some(0));
    ends("what was replaced", old);
}

#[test]
fn what_does_not_end_can_be_forced_to() {
    let roster = started(&sh("web", &stubborn(), "count = 2\nstop_timeout = \"1h\""));
    let before = ["web/1", "web/2"].map(|name| set_up(&roster, name));
    says(&roster, ["worker", "stop", "web/1", "--wait", "100ms"], 6);
    assert_eq!(becomes(&roster, "web/1", "STOPPING")["pid"], before[0]);
    assert_eq!(says(&roster, ["worker", "stop", "--now", "web"], 0), "web/1 is stopped\nweb/2 is stopped\n");
    assert!(before.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(says(&roster, ["worker", "start", "web/1"], 0), "web/1 runs\n");
    let pid = set_up(&roster, "web/1");
    says(&roster, ["worker", "stop", "web/1", "--wait", "100ms"], 6);
    assert_eq!(says(&roster, ["worker", "signal", "web/1", "KILL"], 0), "web/1 was sent KILL\n");
    ends("it", pid);
    becomes(&roster, "web/1", "STOPPED");
}

#[test]
fn a_signal_reaches_the_process_that_is_there_also_while_another_one_is_to_take_its_place() {
    let script = "trap 'echo $$ > {folder}/got' USR1; while :; do sleep 0.05; done";
    let roster = started(&slow(&sh("web", script, "")));
    let old = running(&roster, "web/1");
    let restarts = Printing::start(&mut roster.command(["worker", "restart", "web"]));
    eventually("it was asked", SOON, || ensure(roster.log().contains("action=Roll"), "not yet"));
    assert_eq!(says(&roster, ["worker", "signal", "web", "USR1"], 0), "web/1 was sent USR1\n");
    assert_eq!(written(&roster, "got"), old);
    assert_eq!(restarts.line(), "web/1 is replaced");
    assert_ne!(running(&roster, "web/1"), old);
}

#[test]
fn a_start_before_a_stop_is_over_is_what_counts() {
    let roster = started(&sh("web", &lingers(), "stop_timeout = \"1h\""));
    let old = set_up(&roster, "web/1");
    let waits = Printing::start(&mut roster.command(["worker", "restart", "--now", "web"]));
    becomes(&roster, "web/1", "STOPPING");
    says(&roster, ["worker", "stop", "web", "--wait", "100ms"], 6);
    assert_eq!(worker(&roster, "web/1")["state"], "STOPPING");
    drop(waits);
    let starts = Printing::start(&mut roster.command(["worker", "start", "web"]));
    eventually("it was asked", SOON, || ensure(roster.log().contains("action=Start"), "not yet"));
    roster.write("go", "");
    assert_eq!(starts.line(), "web/1 runs");
    ends("the old one", old);
    assert_eq!(says(&roster, ["worker", "stop", "web"], 0), "web/1 is stopped\n");
    assert_eq!(worker(&roster, "web/1")["state"], "STOPPED", "nobody starts it again");
}

#[test]
fn a_process_that_hangs_is_killed_in_time_and_holds_up_no_other() {
    let roster = started(&sh("web", SLEEPS, "count = 2\nstop_timeout = \"500ms\""));
    let [hangs, lives] = ["web/1", "web/2"].map(|name| running(&roster, name));
    assert_eq!(says(&roster, ["worker", "signal", "web/1", "STOP"], 0), "web/1 was sent STOP\n");
    assert_eq!(says(&roster, ["worker", "restart", "web/1"], 0), "web/1 is replaced\n");
    ends("what hangs", hangs);
    assert_eq!(running(&roster, "web/2"), lives);
    says(&roster, ["worker", "signal", "web/1", "STOP"], 0);
    assert_eq!(says(&roster, ["worker", "stop", "web/1"], 0), "web/1 is stopped\n");
    assert_eq!(running(&roster, "web/2"), lives);
}

#[test]
fn who_leaves_its_worker_and_hides_cannot_speak_for_it_any_more() {
    // It ignores what a closed pipe sends, has no mark, and a session of its own.
    let orphan = "trap \"\" PIPE; echo $$ > {folder}/orphan; until test -e {folder}/go; do sleep 0.05; done; \
                  if (echo x >&3) 2> /dev/null; then echo 1 > {folder}/told; else echo 0 > {folder}/told; fi";
    let roster = started(&sh("web", &format!("setsid env -i PATH=$PATH sh -c '{orphan}' & exec sleep 1000"), ""));
    running(&roster, "web/1");
    let orphan = written(&roster, "orphan");
    assert_eq!(says(&roster, ["worker", "stop", "web"], 0), "web/1 is stopped\n");
    assert!(is_alive(orphan), "nothing tells whose it is");
    roster.write("go", "");
    assert_eq!(written(&roster, "told"), 0, "its channel is closed");
    ends("the orphan", orphan);
}

#[test]
fn what_ends_at_once_is_given_up_whatever_its_code() {
    let codes = [0, 1, 255];
    let group = |code: &i32| sh(&format!("code-{code}"), &format!("exit {code}"), "start_retries = 2");
    let roster = started(&slow(&(codes.iter().map(group).collect::<String>() + &sh("web", SLEEPS, ""))));
    for code in codes {
        let given_up = becomes(&roster, &format!("code-{code}/1"), "FATAL");
        let why = given_up["why"].as_str().expect("a text");
        assert!(why.starts_with(&format!("it ended with code {code} before it was ready")), "{why}");
    }
    running(&roster, "web/1");
    all_are_reaped(&roster);
}

/// The process from which the sidecar's workers are forked.
fn fork_server(roster: &Roster) -> i64 {
    eventually("there is a fork server", SOON, || {
        let sidecar = roster.process().id().to_string();
        let children = Ended::of(Command::new("ps").args(["-o", "pid=,args=", "--ppid", &sidecar]));
        let children = String::from_utf8_lossy(&children.told).into_owned();
        let line = children.lines().find_map(|line| line.trim().strip_suffix(" roster fork-server"));
        line.and_then(|pid| pid.parse().ok()).ok_or(children)
    })
}

#[test]
fn a_fork_server_that_is_killed_or_stopped_keeps_no_worker_from_its_start() {
    let roster = started(&sh("web", SLEEPS, ""));
    let first = running(&roster, "web/1");
    let server = fork_server(&roster);
    let shown = fs::read_to_string(format!("/proc/{server}/comm")).expect("it is there");
    assert_eq!(shown, "roster\n", "as `ps` and `pgrep` show it");
    let signal = |pid: i64, signal| kill(Pid::from_raw(pid as i32), signal).expect("it lives");
    let is_replaced = |ended: i64| {
        eventually("another one runs", SOON, || {
            let pid = running(&roster, "web/1");
            ensure(pid != ended, "the same one runs").map(|()| pid)
        })
    };
    signal(server, Signal::SIGKILL);
    signal(first, Signal::SIGKILL);
    let second = is_replaced(first);
    let another = fork_server(&roster);
    assert_ne!(server, another);
    signal(another, Signal::SIGSTOP);
    signal(second, Signal::SIGKILL);
    is_replaced(second);
    all_are_reaped(&roster);
}

#[test]
fn a_process_that_is_stopped_before_its_program_begins_heeds_that() {
    let roster = started(&sh("web", SLEEPS, "stop_timeout = \"60s\""));
    running(&roster, "web/1");
    for _ in 0..10 {
        let more = roster.cli(["worker", "scale", "web", "8", "--wait", "1ms"]);
        assert!(matches!(more.code, Some(0 | 6)), "{more:?}");
        // One that did not heed it would be waited for longer.
        says(&roster, ["worker", "scale", "web", "1", "--wait", "30s"], 0);
    }
}

#[test]
fn a_fork_server_ends_with_its_sidecar_however_that_ends() {
    let mut roster = started(&sh("web", SLEEPS, ""));
    running(&roster, "web/1");
    let server = fork_server(&roster);
    roster.kill();
    ends("the fork server of a sidecar that was killed", server);
    roster.run();
    running(&roster, "web/1");
    let server = fork_server(&roster);
    kill(Pid::from_raw(server as i32), Signal::SIGSTOP).expect("it lives");
    roster.stop();
    ends("the fork server of a sidecar that has stopped, though it was stopped itself", server);
    assert!(!roster.log().contains("killing workers that have not ended in time"), "{}", roster.log());
}

#[test]
fn a_hundred_processes_start_and_stop_and_nobody_is_left() {
    let roster = started(&(sh("many", SLEEPS, "count = 100") + &sh("web", SLEEPS, "")));
    let before = running(&roster, "web/1");
    let all = || {
        let workers = roster.cli(["worker", "list", "many", "-o", "json"]).json()["workers"].clone();
        workers.as_array().expect("a list").clone()
    };
    for _ in 0..2 {
        says(&roster, ["worker", "start", "many"], 0);
        let pids: BTreeSet<i64> = all().iter().map(pid).collect();
        assert_eq!(pids.len(), 100);
        assert_eq!(says(&roster, ["worker", "stop", "many"], 0).lines().count(), 100);
        assert!(pids.iter().all(|pid| !is_alive(*pid)));
        assert!(all().iter().all(|worker| worker["state"] == "STOPPED"));
    }
    assert_eq!(running(&roster, "web/1"), before);
    all_are_reaped(&roster);
}

#[test]
fn a_fork_bomb_is_bounded_harms_no_other_and_ends_with_its_worker() {
    if is_skipped_without_root() {
        return;
    }
    let bomb = "exec php -r 'while (true) { @pcntl_fork() === -1 && usleep(100000); }'";
    let settings = "user = \"www-data\"\nmax_processes = 100\nready_after = \"0s\"";
    let mut roster =
        prepared(&(sh("bomb", bomb, "").replace("ready_after = \"250ms\"", settings) + &sh("web", SLEEPS, "")));
    roster.run();
    let before = running(&roster, "web/1");
    let session = running(&roster, "bomb/1").to_string();
    let of_bomb = || {
        let ended = Ended::of(Command::new("pgrep").args(["-s", &session]));
        String::from_utf8_lossy(&ended.told).lines().count()
    };
    eventually("it is many", 3 * SOON, || ensure(of_bomb() > 10, of_bomb()));
    assert!(of_bomb() <= 100);
    assert_eq!(says(&roster, ["worker", "stop", "--now", "bomb"], 0), "bomb/1 is stopped\n");
    eventually("all of it is gone", SOON, || ensure(of_bomb() == 0, of_bomb()));
    assert_eq!(running(&roster, "web/1"), before);
    all_are_reaped(&roster);
}

#[test]
fn groups_of_the_same_priority_have_the_time_of_a_stop_together() {
    let script = |name: &str| {
        format!("trap 'sleep 1.2; echo > {{folder}}/{name}; exit' TERM; {SET_UP}; while :; do sleep 0.05; done")
    };
    let names = ["one", "two", "three"];
    let groups: String = names.iter().map(|name| sh(name, &script(name), "")).collect();
    let mut roster = started(&(groups + "[sidecar]\nstop_timeout = \"6s\"\n"));
    for name in names {
        set_up(&roster, &format!("{name}/1"));
    }
    assert_eq!(roster.stop().code(), Some(0));
    assert!(names.iter().all(|name| roster.folder().join(name).exists()), "{}", roster.log());
}

#[test]
fn who_asks_during_a_rolling_restart_has_none_that_began_before_and_it_goes_on_without_who_asked() {
    let roster = started(&slow(&sh("web", SLEEPS, "count = 2")));
    let restarts = |name: &str| worker(&roster, name)["restarts"].clone();
    let replaced = |name: &str| {
        eventually("it is replaced", SOON, || ensure(restarts(name) == 1, restarts(name)));
    };
    running(&roster, "web/2");
    let first = Printing::start(&mut roster.command(["worker", "restart", "web"]));
    replaced("web/1");
    assert_eq!(says(&roster, ["worker", "restart", "web"], 0), "web/1 is replaced\nweb/2 is replaced\n");
    assert_eq!(first.line(), "web/1 is replaced");
    assert_eq!(restarts("web/1"), json!(2), "what it began with may have been older");

    let before = restarts("web/2").as_i64();
    let asks = Printing::start(&mut roster.command(["worker", "restart", "web"]));
    eventually("one is replaced", SOON, || ensure(restarts("web/1") == 3, restarts("web/1")));
    drop(asks);
    eventually("the other is too", SOON, || ensure(restarts("web/2").as_i64() > before, restarts("web/2")));
}

#[test]
fn a_rolling_restart_passes_over_what_is_stopped_meanwhile() {
    let roster = started(&slow(&sh("web", SLEEPS, "count = 2")));
    let (_, before) = (running(&roster, "web/1"), running(&roster, "web/2"));
    let _rolls = Printing::start(&mut roster.command(["worker", "restart", "web"]));
    eventually("a successor starts", SOON, || {
        let why = look(&roster, "web/1")?["why"].to_string();
        ensure(why.contains("successor"), why)
    });
    assert_eq!(says(&roster, ["worker", "stop", "web/1"], 0), "web/1 is stopped\n");
    eventually("the next one is replaced", SOON, || ensure(pid(&look(&roster, "web/2")?) != before, "not yet"));
}

#[test]
fn a_rolling_restart_replaces_also_what_was_starting_before() {
    let roster = started(&slow(&sh("web", SLEEPS, "")));
    let before = eventually("it has begun", SOON, || {
        let worker = look(&roster, "web/1")?;
        if worker["pid"].is_i64() { Ok(worker) } else { Err(worker.to_string()) }
    });
    assert_eq!(before["state"], "STARTING");
    assert_eq!(says(&roster, ["worker", "restart", "web"], 0), "web/1 is replaced\n");
    let after = worker(&roster, "web/1");
    assert!(pid(&after) != pid(&before) && after["restarts"] == 1, "{after}");
}

#[test]
fn who_asks_the_sidecar_to_end_twice_does_not_wait_for_workers_and_they_are_gone() {
    let script = "trap '' TERM; setsid sleep 1000 & echo $! > {folder}/orphan; while :; do sleep 0.05; done";
    let mut roster = started(&(sh("web", script, "stop_timeout = \"1h\"") + "[sidecar]\nstop_timeout = \"4h\"\n"));
    let left = [running(&roster, "web/1"), written(&roster, "orphan")];
    roster.process().signal(Signal::SIGTERM);
    eventually("it stops", SOON, || ensure(roster.log().contains("stopping"), "not yet"));
    assert_eq!(roster.stop().code(), Some(0));
    left.iter().for_each(|pid| ends("what was left", *pid));
}

#[test]
fn what_a_worker_left_behind_is_gone_when_it_has_ended_and_nobody_is_a_zombie() {
    // Each in a session of its own, and the second a child of the first.
    let script = "setsid sh -c 'echo $$ > {folder}/one; setsid sh -c \"echo \\$\\$ > {folder}/two; exec sleep 1000\" & \
                  exec sleep 1000' & sleep 0.2; (sleep 0.1 &) ; exec sleep 1000";
    let roster = started(&sh("web", script, ""));
    running(&roster, "web/1");
    let left = ["one", "two"].map(|file| written(&roster, file));
    assert!(left.iter().all(|pid| is_alive(*pid)));
    assert_eq!(says(&roster, ["worker", "stop", "web"], 0), "web/1 is stopped\n");
    left.iter().for_each(|pid| ends("what it left", *pid));
    all_are_reaped(&roster);
}

#[test]
fn what_could_not_be_looked_for_without_descriptors_is_gone_before_another_starts() {
    // It tells its number once it has a session of its own.
    let script = "setsid sh -c 'echo $$ > {folder}/orphan; exec sleep 1000' & exec sleep 1000";
    let roster = started(&sh("web", script, ""));
    let (worker, orphan) = (running(&roster, "web/1"), written(&roster, "orphan"));
    let sidecar = roster.process().id().to_string();
    let may_have = |descriptors: &str| {
        let limited = Command::new("prlimit").args(["--pid", &sidecar, &format!("--nofile={descriptors}:")]).status();
        assert!(limited.expect("prlimit starts").success());
    };
    may_have("0");
    kill(Pid::from_raw(worker as i32), Signal::SIGKILL).expect("it runs");
    eventually("it is told", SOON, || ensure(roster.log().contains("cannot look for what workers left"), roster.log()));
    assert!(is_alive(orphan));
    may_have("1024");
    ends("the orphan", orphan);
    assert_ne!(running(&roster, "web/1"), worker);
}

#[test]
fn a_worker_that_any_signal_ends_is_reaped_and_started_again() {
    let roster = started(&sh("web", "kill -34 $$", "start_retries = 3"));
    let why = becomes(&roster, "web/1", "FATAL")["why"].clone();
    assert!(why.as_str().is_some_and(|why| why.starts_with("it was ended by signal 34")), "{why}");
    all_are_reaped(&roster);
}

#[test]
fn a_killed_sidecar_leaves_no_doubles() {
    let port = free_port();
    let script = "setsid sleep 1001 & echo $! > {folder}/orphan; sleep 1000 & echo $! > {folder}/child; wait";
    let mut roster =
        started(&sh("web", script, &format!("listen = [\"tcp://127.0.0.1:{port}\", \"unix://{{folder}}/web.sock\"]")));
    let left = [running(&roster, "web/1"), written(&roster, "child"), written(&roster, "orphan")];
    roster.kill();
    assert!(left.iter().all(|pid| is_alive(*pid)), "nobody could end them");
    roster.run();
    let new = running(&roster, "web/1");
    assert!(left.iter().all(|pid| !is_alive(*pid)) && !left.contains(&new));
    let log = roster.log();
    assert!(log.contains("ending a process that an earlier sidecar left worker=\"web/1\""), "{log}");
    let worker = worker(&roster, "web/1");
    assert_eq!((&worker["restarts"], &worker["why"]), (&json!(0), &json!("")), "its sockets were free");
}

#[test]
fn a_killed_sidecar_that_could_not_record_its_processes_leaves_no_doubles_either() {
    let mut roster = started(&sh("web", SLEEPS, ""));
    running(&roster, "web/1");
    // As on a full disk.
    fs::create_dir(roster.state().join("workers.new")).expect("a folder");
    says(&roster, ["worker", "restart", "web"], 0);
    assert!(roster.log().contains("cannot record the workers' processes"), "{}", roster.log());
    let left = running(&roster, "web/1");
    roster.kill();
    assert!(is_alive(left), "nobody could end it");
    roster.run();
    assert_ne!(running(&roster, "web/1"), left);
    assert!(!is_alive(left));
}

#[test]
fn who_is_no_administrator_may_list_and_not_command() {
    let roster = started(&sh("web", SLEEPS, ""));
    let before = running(&roster, "web/1");
    let tcp = format!("127.0.0.1:{}", roster.port());
    let over_tcp = |words: &[&str]| Ended::of(binary().arg("worker").args(words).args(["--address", &tcp]));
    assert!(over_tcp(&["list"]).text().contains("RUNNING"));
    let commands: [(&[&str], &str); 8] = [
        (&["stop", "web"], "control workers"),
        (&["start", "--all"], "control workers"),
        (&["restart", "web"], "control workers"),
        (&["restart", "--now", "web/1"], "control workers"),
        (&["scale", "web", "5"], "control workers"),
        (&["signal", "web", "KILL"], "control workers"),
        (&["command", "--all", "ping"], "control workers"),
        (&["logs", "web"], "read what workers print"),
    ];
    for (words, what) in commands {
        let ended = over_tcp(words);
        assert_eq!(ended.code, Some(8), "{words:?}: {ended:?}");
        assert!(ended.wrong.contains(&format!("a client over TCP may not {what}; use the Unix socket")), "{ended:?}");
    }
    assert_eq!(running(&roster, "web/1"), before);
    if is_skipped_without_root() {
        return;
    }
    for path in [roster.folder(), roster.socket()] {
        fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("a mode");
    }
    let binary = for_everybody(roster.folder());
    let as_other = |words: &[&str]| {
        let mut command = of_www_data(unconfigured(Command::new(&binary)));
        Ended::of(
            command.arg("worker").args(words).env("ROSTER_ADDRESS", format!("unix://{}", roster.socket().display())),
        )
    };
    assert!(as_other(&["list"]).text().contains("RUNNING"));
    for (words, what) in commands {
        let ended = as_other(words);
        let told = format!("uid {WWW_DATA} may not {what}; the administrators may: root");
        assert!(ended.code == Some(8) && ended.wrong.contains(&told), "{words:?}: {ended:?}");
    }
    assert_eq!(running(&roster, "web/1"), before);
}

#[test]
fn who_may_not_see_all_sees_no_workers() {
    let rules = "[[allow]]\ntcp = true\nread = [\"/\", \"mail\"]\n";
    let roster = started(&(rules.to_owned() + &sh("web", SLEEPS, "")));
    let tcp = format!("127.0.0.1:{}", roster.port());
    let listed = Ended::of(binary().args(["worker", "list", "--address", &tcp]));
    assert!(listed.code == Some(8) && listed.wrong.contains("may not see workers, which takes"), "{listed:?}");
    let status = Ended::of(binary().args(["status", "-o", "json", "--address", &tcp])).json();
    assert_eq!(status["workers"], Value::Null);
}

#[test]
fn a_worker_that_cannot_be_had_keeps_nobody_from_the_rest() {
    // One that nobody else takes once it is free.
    let taken = TcpListener::bind(("127.0.0.1", free_port())).expect("a port");
    let address = taken.local_addr().expect("an address");
    let groups = [
        group("user", &["sleep", "1000"], "user = \"nobody-at-all\""),
        group("group", &["sleep", "1000"], "group = \"none-at-all\""),
        group("missing", &["{folder}/missing"], "start_retries = 3"),
        group("closed", &["{folder}/closed"], "start_retries = 3"),
        group("nowhere", &["sleep", "1000"], "directory = \"{folder}/nowhere\""),
        group(
            "port",
            &["sleep", "1000"],
            &format!("listen = [\"tcp://127.0.0.1:{}\", \"tcp://{address}\"]", free_port()),
        ),
        group("socket", &["sleep", "1000"], "listen = [\"unix://{folder}/file\"]"),
        group("web", &["sleep", "1000"], ""),
    ];
    let mut roster = prepared(&groups.concat());
    for file in ["closed", "file"] {
        roster.write(file, "#!/bin/sh\nexec sleep 1000\n");
    }
    roster.run();
    running(&roster, "web/1");
    let folder = roster.folder().display().to_string();
    let of_port = format!("cannot listen on {address}: another process");
    let whys = [
        ("user", "user", "there is no user \"nobody-at-all\" on this machine".to_owned()),
        ("group", "group", "there is no group \"none-at-all\" on this machine".to_owned()),
        ("missing", "command", format!("cannot start \"{folder}/missing\": there is no such file")),
        (
            "closed",
            "command",
            format!(
                "cannot start \"{folder}/closed\": it is not executable: `chmod +x`, or name its interpreter before it"
            ),
        ),
        ("nowhere", "directory", format!("{folder}/nowhere")),
        ("port", "listen.1", of_port.clone()),
        ("socket", "listen.0", format!("{folder}/file is there and is no socket; move it away")),
    ];
    for (name, key, why) in &whys {
        let told = eventually(name, SOON, || {
            let told = worker(&roster, &format!("{name}/1"))["why"].clone();
            if told.as_str().is_some_and(|told| told.contains(why)) { Ok(told) } else { Err(told) }
        });
        if key.starts_with("listen") {
            let setting = format!("worker {name}: {key}");
            assert!(told.as_str().is_some_and(|told| told.starts_with(&format!("{setting}: "))), "{told}");
        }
    }
    let of_port = format!("worker port: listen.1: {of_port}");
    let told = roster.cli(["status"]).text();
    assert!(
        told.contains(&format!("NOT LISTENING: {of_port}")) && told.contains("another by `listen` of the worker port"),
        "{told}"
    );
    drop(taken);
    running(&roster, "port/1");
    eventually("its status says so", SOON, || {
        let told = roster.cli(["status"]).text();
        ensure(!told.contains(&of_port), told)
    });
    becomes(&roster, "closed/1", "FATAL");
    fs::set_permissions(roster.folder().join("closed"), PermissionsExt::from_mode(0o755)).expect("it is ours");
    assert_eq!(says(&roster, ["worker", "start", "closed"], 0), "closed/1 runs\n");
    fs::remove_file(roster.folder().join("file")).expect("it is there");
    assert_eq!(says(&roster, ["worker", "start", "socket"], 0), "socket/1 runs\n");
    assert_eq!(roster.stop().code(), Some(0));
}

fn user() -> String {
    Ended::of(Command::new("id").arg("-un")).text().trim().to_owned()
}

#[test]
fn config_check_tells_what_a_worker_would_not_find_with_its_key_and_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let roster = Roster::prepare(&format!(
        "[[worker]]\nname = \"a\"\ncommand = [\"no-such-program\"]\nuser = \"{}\"\n\
         environment = {{ PATH = \"/nowhere:/else\" }}\nlisten = [\"unix:///run/x.sock\", \"tcp://{address}\"]\n\
         [[worker]]\nname = \"b\"\ncommand = [\"sleep\", \"1\"]\ndirectory = \"/nowhere\"\nsocket_group = \"none-at-all\"\n\
         listen = [\"unix://{{folder}}/file\"]\n[[worker]]\nname = \"c\"\ncommand = [\"sleep\"]\nuser = \"nobody-at-all\"\n\
         group = \"www-data\"\n",
        user()
    ));
    roster.write("file", "");
    let checked = Ended::of(binary().args(["config", "check"]).arg(roster.config()));
    assert_eq!(checked.code, Some(2), "{checked:?}");
    let (file, folder) = (roster.config().display().to_string(), roster.folder().display());
    let lines = [
        (
            8,
            "worker.0.command: cannot start \"no-such-program\": it is in no folder of PATH, /nowhere:/else".to_owned(),
        ),
        (11, format!("worker.0.listen.1: cannot listen on {address}: another process")),
        (15, "worker.1.directory: there is no directory /nowhere; have it made, or choose another".to_owned()),
        (16, "worker.1.socket_group: there is no group \"none-at-all\" on this machine".to_owned()),
        (
            17,
            format!("worker.1.listen.0: {folder}/file is there and is no socket; move it away or choose another path"),
        ),
        (21, "worker.2.user: there is no user \"nobody-at-all\" on this machine".to_owned()),
    ];
    for (line, what) in &lines {
        let told = checked.wrong.lines().any(|told| told.starts_with(&format!("{file}:{line}: {what}")));
        assert!(told, "{line}: {what} in\n{}", checked.wrong);
    }
    assert_eq!(checked.wrong.lines().filter(|line| line.starts_with(&file)).count(), lines.len(), "{}", checked.wrong);
}

#[test]
fn the_port_of_a_sidecar_that_runs_is_no_mistake_of_its_configuration() {
    let settings = format!("listen = [\"tcp://127.0.0.1:{}\"]\nwatch = [\"*.txt\"]", free_port());
    let roster = started(&(sh("web", SLEEPS, &settings) + &group("php", &["php", "nowhere.php"], "")));
    running(&roster, "web/1");
    let checked = Ended::of(binary().args(["config", "check"]).arg(roster.config()));
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.wrong.contains("worker.1.command: there is no /nowhere.php"), "{checked:?}");
    assert!(checked.wrong.contains("worker.0.watch: it starts in `/`: set `directory`"), "{checked:?}");
    let warning = "worker.0: without `user`, web runs as the sidecar does: as root";
    assert_eq!(checked.wrong.contains(warning), nix::unistd::geteuid().is_root(), "{checked:?}");
}

#[test]
fn output_without_end_costs_no_memory_and_holds_up_nobody() {
    const MOST_MORE: usize = 24 << 20;
    let groups = [
        sh("web", SLEEPS, ""),
        sh("long", "test -e {folder}/go && exec head -c 67108864 /dev/zero; exec sleep 1000", "count = 4"),
        sh("empty", "test -e {folder}/go && exec yes ''; exec sleep 1000", "count = 4"),
    ];
    let roster = started(&groups.concat());
    let before = running(&roster, "web/1");
    for name in ["long/4", "empty/4"] {
        running(&roster, name);
    }
    let memory = roster.own_memory();
    roster.write("go", "");
    says(&roster, ["worker", "restart", "--now", "long", "empty"], 0);
    let printed = |group: &str| {
        let lines = roster.cli(["worker", "logs", group, "-n", "1", "-o", "json"]).text();
        serde_json::from_str::<Value>(&lines).map_or(0, |line| line["number"].as_i64().expect("a number"))
    };
    // 16 MiB of the one, and more empty lines than were ever kept.
    for (group, enough) in [("long", 2_048), ("empty", 50_000)] {
        eventually("much is printed", 3 * SOON, || {
            running(&roster, "web/1");
            ensure(printed(group) > enough, printed(group))
        });
    }
    let more = roster.own_memory().saturating_sub(memory);
    assert!(more < MOST_MORE, "{more} bytes more");
    assert_eq!(running(&roster, "web/1"), before);
    assert_eq!(says(&roster, ["worker", "stop", "long", "empty"], 0).lines().count(), 8);
    let kept = roster.cli(["worker", "logs", "empty"]).text();
    assert!((1_000..=2_048).contains(&kept.lines().count()), "{}", kept.lines().count());
}

#[test]
fn logs_tell_what_each_printed_and_follow_it_over_a_restart() {
    let script = "trap 'echo again' USR1; echo out; echo \"wrong $ROSTER_PARAMS\" >&2; while :; do sleep 0.05; done";
    let mut roster = started(&sh("web", script, "count = 2\nparams = { speed = \"high\" }"));
    let running = |roster: &Roster| ["web/1", "web/2"].map(|name| running(roster, name));
    running(&roster);
    let lines = |words: &[&str]| {
        let text = roster.cli([&["worker", "logs"], words].concat()).text();
        text.lines().map(|line| line.split_once(' ').expect("a time").1.to_owned()).collect::<Vec<_>>()
    };
    eventually("all is printed", SOON, || ensure(lines(&["web"]).len() == 4, "not yet"));
    assert_eq!(lines(&["web/2"]).iter().collect::<BTreeSet<_>>().len(), 2);
    assert!(lines(&["web/2"]).contains(&"web/2 ! wrong {\"speed\":\"high\"}".to_owned()));
    assert_eq!(lines(&["web/1", "-n", "1"]).len(), 1);
    assert!(roster.log().lines().any(|line| line.contains("roster::worker::output: out worker=\"web/1\"")));

    let follow = Printing::start(&mut roster.command(["worker", "logs", "web/1", "--follow", "-n", "0", "-o", "json"]));
    let json = |line: String| serde_json::from_str::<Value>(&line).expect("JSON");
    let line = eventually("it follows", SOON, || {
        says(&roster, ["worker", "signal", "web/1", "USR1"], 0);
        follow.line_by_now().map(json)
    });
    assert_eq!((&line["text"], &line["worker"], &line["isError"]), (&json!("again"), &json!("web/1"), &json!(false)));
    assert!(roster.stop().success());
    roster.run();
    let texts = std::iter::repeat_with(|| json(follow.line())["text"].clone());
    let found = texts.take(100).find(|text| text.as_str().is_some_and(|text| text.starts_with("wrong")));
    assert!(found.is_some(), "what the new sidecar's worker prints");
}

fn serves_like_others(pid: i64) {
    eventually("it serves like others", SOON, || {
        let scheduled = Ended::of(Command::new("ps").args(["-o", "cls=", "-p", &pid.to_string()])).text();
        ensure(scheduled.trim() == "TS", scheduled)
    });
}

#[test]
fn a_process_that_is_not_ready_yields_to_others_for_a_moment_alone() {
    let roster = started(&sh("slow", SLEEPS, "ready = \"message\"\nready_timeout = \"10m\""));
    serves_like_others(pid(&eventually("it begins", SOON, || {
        let worker = look(&roster, "slow/1")?;
        if worker["pid"].is_i64() { Ok(worker) } else { Err(worker.to_string()) }
    })));
}

#[test]
fn a_worker_runs_as_its_user_and_has_only_what_is_meant_for_it() {
    if is_skipped_without_root() {
        return;
    }
    let script = "echo NICE=$(nice); tr '\\0' '\\n' < /proc/$$/environ; printf FDS=; ls -m /proc/$$/fd; \
                  echo IN=$(readlink /proc/$$/fd/0); echo ID=$(id -u):$(id -g):$(id -G); echo UMASK=$(umask); echo CWD=$(pwd); exec sleep 1000";
    let port = free_port();
    let settings = format!(
        "user = \"www-data\"\numask = \"0027\"\nenvironment = {{ APP = \"shop\" }}\n\
         listen = [\"tcp://127.0.0.1:{port}\", \"unix://{{folder}}/web.sock\"]"
    );
    let mut roster = prepared(&slow(&sh("web", script, &settings)));
    roster.write("group", &(fs::read_to_string("/etc/group").expect("groups") + "extra-of-roster:x:44044:www-data\n"));
    let mut serve = unconfigured(Command::new("unshare"));
    let mount = "mount --bind \"$0\" /etc/group && exec nice -n -5 \"$@\" 9< /etc/hostname";
    serve.args(["--mount", "sh", "-c", mount]).arg(roster.folder().join("group")).arg(binary_path());
    let mut serve = roster.serve(serve);
    serve.env("SECRET_OF_THE_SIDECAR", "hush");
    roster.run_as(&mut serve);
    let pid = running(&roster, "web/1");
    let told = eventually("all is printed", SOON, || {
        let told = roster.cli(["worker", "logs", "web"]).text();
        if told.contains("CWD=") { Ok(told) } else { Err(told) }
    });
    let told: Vec<(&str, &str)> = told.lines().filter_map(|line| line.split_once(" | ")?.1.split_once('=')).collect();
    let value = |name: &str| told.iter().find(|(found, _)| *found == name).map(|(_, value)| *value);
    assert_eq!(value("FDS"), Some("0, 1, 2, 3, 4, 5"));
    assert_eq!(
        (value("IN"), value("UMASK"), value("CWD"), value("NICE")),
        (Some("/dev/null"), Some("0027"), Some("/"), Some("0"))
    );
    assert_eq!(value("ID"), Some("33:33:33 44044"));
    assert_eq!((value("APP"), value("USER"), value("LISTEN_FDS")), (Some("shop"), Some("www-data"), Some("2")));
    assert_eq!((value("LISTEN_PID"), value("ROSTER_WORKER")), (Some(&*pid.to_string()), Some("web/1")));
    assert_eq!(value("LISTEN_FDNAMES"), Some(&*format!("{port}:web.sock")));
    serves_like_others(pid);
    let known = [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "TZ",
        "APP",
        "ROSTER_PARAMS",
        "ROSTER_PROCESS",
        "ROSTER_WORKER",
        "ROSTER_CHANNEL",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "LISTEN_PID",
        "FDS",
        "IN",
        "ID",
        "UMASK",
        "CWD",
        "NICE",
    ];
    assert!(told.iter().all(|(name, _)| known.contains(name)), "{told:?}");
}

#[test]
fn a_request_that_waits_for_workers_holds_up_nobody_and_ends_in_time() {
    let roster = started(&sh("web", &stubborn(), "stop_timeout = \"1h\""));
    let before = set_up(&roster, "web/1");
    let told = says(&roster, ["worker", "stop", "web", "--wait", "100ms"], 6);
    assert!(told.contains("not done within 100ms; it goes on, and `roster worker list` tells how far it is"), "{told}");
    assert_eq!(pid(&becomes(&roster, "web/1", "STOPPING")), before);
    // More of them than the sidecar has threads.
    let mut waiting: Vec<_> =
        (0..24).map(|_| Printing::start(&mut roster.command(["worker", "stop", "web"]))).collect();
    for _ in 0..50 {
        assert_eq!(worker(&roster, "web/1")["state"], "STOPPING");
    }
    says(&roster, ["worker", "list"], 0);
    let kill = Ended::of(Command::new("kill").args(["-9", &before.to_string()]));
    assert_eq!(kill.code, Some(0));
    for stop in &mut waiting {
        assert_eq!(stop.line(), "web/1 is stopped");
    }
}

/// A worker in PHP with the package.
const PHP_WORKER: &str = r#"<?php
require getenv('PACKAGE') . '/autoload.php';
$worker = Roster\Worker::fromEnvironment();
$worker->offer('mail', new class($worker) {
    public function __construct(private Roster\Worker $worker) {}
    public function send(string $to): array {
        $this->worker->log()->warning('sent to {to}', ['to' => $to]);
        return ['from' => $this->worker->params()['from'], 'to' => $to];
    }
    public function slow(): string { while (!is_file(__DIR__ . '/go')) { usleep(10_000); } return 'done'; }
});
if (getenv('ROSTER_CONNECTIONS') !== false) {
    $worker->onConnection(function ($connection, array $about) {
        fwrite($connection, getmypid() . ' ' . $about['listener']);
        fclose($connection);
    });
}
$worker->ready();
$worker->run();
"#;

/// A group of such workers.
fn in_php(name: &str, settings: &str) -> String {
    let package = concat!(env!("CARGO_MANIFEST_DIR"), "/php");
    let environment = format!("environment = {{ PACKAGE = {package:?} }}\nready = \"message\"\n{settings}");
    group(name, &["php", "{folder}/worker.php"], &environment)
}

#[test]
fn a_worker_in_php_is_a_master_whose_calls_under_way_a_stop_lets_end() {
    let mut roster = prepared(&in_php("mail", "params = { from = \"shop\" }\nstop_timeout = \"1h\""));
    roster.write("worker.php", PHP_WORKER);
    roster.run();
    running(&roster, "mail/1");
    let sent = eventually("it is called", SOON, || {
        let ended = roster.cli(["call", "mail.send", "to=ada"]);
        ensure(ended.code == Some(0), &ended.wrong)?;
        Ok::<_, String>(ended.json())
    });
    assert_eq!(sent, json!({"from": "shop", "to": "ada"}));
    eventually("its record is logged, with what it is about", SOON, || {
        let logged = says(&roster, ["worker", "logs", "mail/1"], 0);
        ensure(logged.contains("warning: sent to ada"), logged)
    });
    let outstanding = || {
        let ended = roster.cli(["masters", "-o", "json"]);
        ensure(ended.code == Some(0), &ended.wrong)?;
        Ok::<_, String>(ended.json()["masters"][0]["outstanding"].clone())
    };
    eventually("all masters are known", SOON, outstanding);
    std::thread::scope(|threads| {
        let call = threads.spawn(|| says(&roster, ["call", "mail.slow", "--timeout", "1m"], 0));
        eventually("the call is under way", SOON, || {
            let outstanding = outstanding()?;
            ensure(outstanding == 1, outstanding)
        });
        let busy = worker(&roster, "mail/1");
        assert_eq!((&busy["calls"], &busy["doing"]), (&json!(1), &json!("mail.slow")), "{busy}");
        assert!(busy["doingSinceMs"].as_i64() >= busy["sinceMs"].as_i64(), "{busy}");
        assert!(busy["memoryBytes"].as_i64() > Some(1 << 20) && busy["processorMs"].is_i64(), "{busy}");
        let restarts = Printing::start(&mut roster.command(["worker", "restart", "mail", "--now"]));
        becomes(&roster, "mail/1", "STOPPING");
        roster.write("go", "");
        assert_eq!(call.join().expect("no panic").trim(), "\"done\"");
        assert_eq!(restarts.line(), "mail/1 is restarted");
    });
}

#[test]
fn a_service_with_one_process_is_called_without_a_gap_while_that_is_replaced() {
    let mut roster = prepared(&in_php("mail", "params = { from = \"shop\" }"));
    roster.write("worker.php", PHP_WORKER);
    roster.run();
    running(&roster, "mail/1");
    eventually("it is called", SOON, || {
        let ended = roster.cli(["call", "mail.send", "to=ada"]);
        ensure(ended.code == Some(0), &ended.wrong)
    });
    let (over, called) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|threads| {
        let over_now = Over(&over);
        for _ in 0..2 {
            threads.spawn(|| {
                let mut client = roster.client();
                while !over.load(Ordering::Relaxed) {
                    let sent = client.call(Call::of("mail", "send", r#"{"to":"ada"}"#));
                    sent.expect("no call is refused");
                    called.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..4 {
            let before = called.load(Ordering::Relaxed);
            assert_eq!(says(&roster, ["worker", "restart", "mail"], 0), "mail/1 is replaced\n");
            eventually("it is called", SOON, || ensure(called.load(Ordering::Relaxed) > before + 20, "not yet"));
        }
        drop(over_now);
    });
    let history = says(&roster, ["history", "mail"], 0);
    assert!(!history.contains("VANISHED"), "{history}");
}

/// Which such worker answers a connection.
fn asked(port: u16) -> i64 {
    let mut answer = String::new();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("nobody is refused");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    stream.read_to_string(&mut answer).expect("nobody is cut off");
    let (pid, listener) = answer.split_once(' ').expect("everybody is answered");
    assert_eq!(listener, port.to_string());
    pid.parse().expect("a number")
}

#[test]
fn a_worker_under_a_constant_stream_of_connections_hears_commands_and_messages_and_leaves_when_it_is_asked_to() {
    let port = free_port();
    let listen = format!("accept = \"sidecar\"\nlisten = [\"tcp://127.0.0.1:{port}\"]");
    let mut roster = prepared(&in_php("web", &(listen + "\nparams = { from = \"shop\" }")));
    roster.write("worker.php", PHP_WORKER);
    roster.run();
    let before = running(&roster, "web/1");
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let over_now = Over(&over);
        let clients: Vec<_> = (0..8)
            .map(|_| {
                threads.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        asked(port);
                    }
                })
            })
            .collect();
        asked(port);
        let pinged = says(&roster, ["worker", "command", "web", "ping", "--timeout", "20s"], 0);
        assert_eq!(pinged.trim(), "web/1\t\"pong\"");
        eventually("it is called", SOON, || {
            let called = roster.cli(["call", "mail.send", "to=ada"]);
            ensure(called.code == Some(0), called.wrong)
        });
        // By whoever: what it was handed before is still served, and what comes waits for the next one.
        assert_eq!(Ended::of(Command::new("kill").args(["-TERM", &before.to_string()])).code, Some(0));
        ends("it", before);
        let second = eventually("there is another one", SOON, || {
            let pid = running(&roster, "web/1");
            ensure(pid != before && is_alive(pid), pid).map(|()| pid)
        });
        says(&roster, ["worker", "restart", "web"], 0);
        ends("the second", second);
        drop(over_now);
        clients.into_iter().for_each(|client| client.join().expect("everybody was answered"));
    });
}

#[test]
fn connections_that_the_sidecar_accepts_are_served_by_all_also_while_processes_are_replaced() {
    let port = free_port();
    let listen = format!("count = 3\naccept = \"sidecar\"\nlisten = [\"tcp://127.0.0.1:{port}\"]");
    let mut roster = prepared(&in_php("web", &listen));
    roster.write("worker.php", PHP_WORKER);
    roster.run();
    let pids = || (1..=3).map(|number| running(&roster, &format!("web/{number}"))).collect::<BTreeSet<_>>();
    let before = pids();
    let ask = || asked(port);
    assert_eq!((0..3).map(|_| ask()).collect::<BTreeSet<_>>(), before, "one after the other");
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let over_now = Over(&over);
        let client = threads.spawn(|| {
            let mut asked = 0;
            while !over.load(Ordering::Relaxed) {
                ask();
                asked += 1;
            }
            asked
        });
        says(&roster, ["worker", "restart", "web"], 0);
        before.iter().for_each(|pid| ends("the old one", *pid));
        drop(over_now);
        assert!(client.join().expect("no panic") > 0);
    });
    assert!(pids().is_disjoint(&before) && before.is_disjoint(&(0..3).map(|_| ask()).collect()));
}

#[test]
fn processes_that_ask_for_the_same_socket_while_they_run_have_the_same_and_none_that_may_not_be_had() {
    let port = free_port();
    let may = format!("count = 2\nmay_listen = [\"tcp://127.0.0.1:{port}\", \"unix://{{folder}}/asked.sock\"]");
    let mut roster = prepared(&in_php("web", &may));
    let folder = roster.folder().display().to_string();
    let worker = r#"<?php
require getenv('PACKAGE') . '/autoload.php';
$worker = Roster\Worker::fromEnvironment();
foreach (['tcp://127.0.0.1:PORT', 'unix://FOLDER/asked.sock'] as $address) {
    $worker->watch($worker->listen($address), function ($listener) {
        $connection = @stream_socket_accept($listener, 0);
        $connection && fwrite($connection, (string) getmypid());
    });
}
foreach (['tcp://0.0.0.0:PORT', 'unix://FOLDER/other.sock', 'nothing', str_repeat('x', 513)] as $address) {
    try {
        $worker->listen($address);
        echo "wrong: $address\n";
    } catch (Roster\Exception\InvalidRequest $refusal) {
        echo $refusal->getMessage(), "\n";
    }
}
$worker->ready();
$worker->run();
"#;
    roster.write("worker.php", &worker.replace("PORT", &port.to_string()).replace("FOLDER", &folder));
    roster.run();
    let before = ["web/1", "web/2"].map(|name| running(&roster, name));
    let ask = || {
        let mut answer = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("nobody is refused");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        stream.read_to_string(&mut answer).expect("nobody is cut off");
        answer.parse::<i64>().expect("a number")
    };
    assert!(before.contains(&ask()));
    eventually("both accept", SOON, || ensure((0..20).map(|_| ask()).collect::<BTreeSet<_>>().len() == 2, "one does"));
    let mut answer = String::new();
    let mut stream = std::os::unix::net::UnixStream::connect(format!("{folder}/asked.sock")).expect("it is there");
    stream.read_to_string(&mut answer).expect("it is answered");
    assert!(before.contains(&answer.parse().expect("a number")));
    eventually("refusals are printed", SOON, || {
        let printed = says(&roster, ["worker", "logs", "web/1"], 0);
        let refused = printed.matches("it is none of `may_listen` of this worker").count();
        ensure(refused == 3 && !printed.contains("wrong"), printed)
    });
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let over_now = Over(&over);
        let client = threads.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                ask();
            }
        });
        says(&roster, ["worker", "restart", "web"], 0);
        before.iter().for_each(|pid| ends("the old one", *pid));
        drop(over_now);
        client.join().expect("nobody was refused");
    });
    assert!(!before.contains(&ask()));
}

#[test]
fn by_fewest_connections_nobody_waits_behind_a_slow_one_while_another_process_is_free() {
    let port = free_port();
    let listen =
        format!("count = 2\naccept = \"sidecar\"\nbalance = \"fewest\"\nlisten = [\"tcp://127.0.0.1:{port}\"]");
    let mut roster = prepared(&in_php("web", &listen));
    let slow = "function ($connection, array $about) { if (fgets($connection) === \"slow\\n\") { fgets($connection); }";
    roster.write("worker.php", &PHP_WORKER.replace("function ($connection, array $about) {", slow));
    roster.run();
    ["web/1", "web/2"].iter().for_each(|name| assert!(running(&roster, name) > 0));
    let begin = |what: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("nobody is refused");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        stream.write_all(what.as_bytes()).expect("it is accepted");
        stream
    };
    let ask = |stream: &mut TcpStream| {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it is answered in time");
        answer
    };
    let quick = || {
        let answer = ask(&mut begin("quick\n"));
        let pid = answer.split(' ').next().and_then(|pid| pid.parse().ok()).expect("it begins by its number");
        // The client sees the end before the process has reported it.
        eventually("it has done with the client", SOON, || {
            ensure(process_state(pid) == Some('S'), "it is still at work")
        });
        answer
    };
    assert_ne!(quick(), quick(), "one after the other, where all are free");
    let mut slow = begin("slow\n");
    let answers: BTreeSet<_> = (0..6).map(|_| quick()).collect();
    assert_eq!(answers.len(), 1, "by the other one");
    slow.write_all(b"go\n").expect("it waits");
    assert!(!answers.contains(&ask(&mut slow)));
}

#[test]
fn clients_of_workers_that_take_nothing_leave_descriptors_for_all_else_and_their_places_when_they_go() {
    let port = free_port();
    let listen = format!("accept = \"sidecar\"\nlisten = [\"tcp://127.0.0.1:{port}\"]");
    let mut roster = prepared(&sh("stuck", SLEEPS, &listen));
    let mut limited = unconfigured(Command::new("sh"));
    limited.args(["-c", "ulimit -n 1100 && exec \"$0\" \"$@\""]).arg(binary_path());
    let mut serve = roster.serve(limited);
    roster.run_as(&mut serve);
    let before = running(&roster, "stuck/1");
    let sidecar = roster.process().id();
    let opened = || fs::read_dir(format!("/proc/{sidecar}/fd")).map_or(0, Iterator::count);
    let own = opened();
    let clients: Vec<_> = (0..400).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("it is accepted")).collect();
    eventually("those for which there is no room are closed", SOON, || {
        ensure(roster.log().contains("connections were closed: no process took them in time"), roster.log())
    });
    // One more watches the process's socket; others are open for a moment.
    eventually("no more are open", SOON, || ensure(opened() <= own + 1_100 / 8 + 1, opened()));
    // All else goes on, also the start of a process.
    roster.status();
    assert_eq!(Ended::of(Command::new("kill").args(["-9", &before.to_string()])).code, Some(0));
    eventually("it is another process", SOON, || ensure(running(&roster, "stuck/1") != before, "not yet"));
    drop(clients);
    eventually("who has gone waits no more", SOON, || ensure(opened() <= own + 8, opened()));
}

#[test]
fn a_worker_that_closes_the_way_of_its_connections_is_told_and_replaced() {
    let port = free_port();
    let settings = format!("accept = \"sidecar\"\nlisten = [\"tcp://127.0.0.1:{port}\"]");
    let script = format!("eval \"exec $ROSTER_CONNECTIONS>&-\"; {SET_UP}; exec sleep 1000");
    let roster = started(&sh("web", &script, &settings));
    let before = set_up(&roster, "web/1");
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("it is accepted");
    eventually("it is another process, and why", SOON, || {
        let web = look(&roster, "web/1")?;
        let is_told =
            web["why"].as_str().is_some_and(|why| why.contains("has closed the socket of ROSTER_CONNECTIONS"));
        ensure(is_told && web["pid"] != before, web)
    });
    assert!(roster.log().contains("is handed connections, and gets no more"), "{}", roster.log());
}

#[test]
fn a_port_that_a_process_shuts_for_all_is_opened_again_while_all_run() {
    let port = free_port();
    let mut roster = prepared(&group(
        "web",
        &["php", "{folder}/server.php"],
        &format!("count = 2\nlisten = [\"tcp://127.0.0.1:{port}\", \"unix://{{folder}}/other.sock\"]"),
    ));
    let shuts =
        "pcntl_signal(SIGUSR1, function () use (&$listener) { socket_shutdown($listener, 0); });\nwhile (!$asked)";
    roster.write("server.php", &SERVER.replace("while (!$asked)", shuts));
    roster.run();
    let before = ["web/1", "web/2"].map(|name| running(&roster, name));
    let ask = || {
        let mut answer = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
        stream
            .set_read_timeout(Some(SOON))
            .and_then(|()| stream.read_to_string(&mut answer))
            .map_err(|it| it.to_string())?;
        answer.parse::<i64>().map_err(|error| error.to_string())
    };
    // By then it heeds the signal, which would end it before.
    eventually("web/1 answers", SOON, || {
        let answered = ask()?;
        assert!(before.contains(&answered), "{answered}");
        ensure(answered == before[0], answered)
    });
    says(&roster, ["worker", "signal", "web/1", "USR1"], 0);
    eventually("it is answered again", SOON, || {
        let answered = ask()?;
        ensure(!before.contains(&answered), answered)
    });
    before.iter().for_each(|pid| ends("what has the old socket", *pid));
    assert!(
        roster.log().contains("a process has shut down a socket of this worker, or its file was removed"),
        "{}",
        roster.log()
    );
    assert!(roster.folder().join("other.sock").exists());
}

#[test]
fn what_a_user_inherits_is_the_users_own_and_its_output_can_be_opened() {
    if is_skipped_without_root() {
        return;
    }
    let port = free_port();
    let settings = format!("user = \"www-data\"\nlisten = [\"tcp://127.0.0.1:{port}\"]");
    let roster = started(&sh("web", "echo out > /dev/stdout; echo err > /dev/stderr; exec sleep 1000", &settings));
    running(&roster, "web/1");
    eventually("it has opened its output", SOON, || {
        let told = says(&roster, ["worker", "logs", "web"], 0);
        ensure(told.contains(" | out") && told.contains(" ! err"), told)
    });
    let sockets = fs::read_to_string("/proc/net/tcp").expect("what the kernel tells");
    let listens = format!("0100007F:{port:04X} 00000000:0000 0A");
    let listener = sockets.lines().find(|line| line.contains(&listens)).expect("it listens");
    assert_eq!(listener.split_whitespace().nth(7), Some(&*WWW_DATA.to_string()), "{listener}");
}

#[test]
fn a_shortage_of_the_machine_gives_no_worker_up() {
    if is_skipped_without_root() {
        return;
    }
    let settings = "count = 3\nuser = \"www-data\"\nmax_processes = 1\nstart_retries = 0";
    let roster = started(&sh("few", SLEEPS, settings));
    let short = eventually("one has no place", SOON, || {
        let ended = roster.cli(["worker", "list", "few", "-o", "json"]).json();
        let workers = ended["workers"].as_array().cloned().unwrap_or_default();
        workers.into_iter().find(|it| it["state"] != "RUNNING" && it["why"] != "").ok_or(ended)
    });
    assert!(short["state"] != "FATAL" && short["why"].as_str().is_some_and(|why| why.contains("Try again")), "{short}");
}

#[test]
#[allow(unsafe_code)]
fn a_worker_that_cannot_be_killed_is_told_and_waited_for_by_nobody() {
    if is_skipped_without_root() {
        return;
    }
    let roster = started(&sh("web", SLEEPS, "stop_timeout = \"100ms\""));
    let traced = running(&roster, "web/1");
    let (over, attached) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|threads| {
        let over_now = Over(&over);
        // One thread traces, and lets go when it ends.
        threads.spawn(|| {
            // Safety: numbers alone.
            let done = unsafe { nix::libc::ptrace(nix::libc::PTRACE_SEIZE, traced as i32, 0, 0) };
            assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
            attached.store(true, Ordering::Relaxed);
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        });
        eventually("it is traced", SOON, || ensure(attached.load(Ordering::Relaxed), "not yet"));
        let why = "it cannot be killed: process ";
        assert!(says(&roster, ["worker", "stop", "web"], 7).contains(why));
        let held = becomes(&roster, "web/1", "STOPPING");
        assert!(
            held["why"].as_str().is_some_and(|told| told.starts_with(why) && told.ends_with(" traces it; end that"))
        );
        assert!(says(&roster, ["worker", "start", "web"], 7).contains(why));
        drop(over_now);
    });
    eventually("another one runs", SOON, || ensure(running(&roster, "web/1") != traced, "not yet"));
}

#[test]
fn a_worker_in_php_without_a_descriptor_leaves_a_connection_where_it_waits_and_says_so() {
    let port = free_port();
    let listen = format!("max_files = 24\naccept = \"sidecar\"\nlisten = [\"tcp://127.0.0.1:{port}\"]");
    let mut roster = prepared(&in_php("web", &listen));
    let keeps = r#"<?php
require getenv('PACKAGE') . '/autoload.php';
$worker = Roster\Worker::fromEnvironment();
$kept = [];
$worker->offer('web', new class($kept) {
    public function __construct(private array &$kept) {}
    public function close(): int { $count = count($this->kept); $this->kept = []; return $count; }
});
$worker->onConnection(function ($connection) use (&$kept) { fwrite($connection, 'x'); $kept[] = $connection; });
$worker->ready();
$worker->run();
"#;
    roster.write("worker.php", keeps);
    roster.run();
    running(&roster, "web/1");
    let mut clients: Vec<_> =
        (0..12).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("it is accepted")).collect();
    eventually("it says that it has no room", SOON, || {
        let told = says(&roster, ["worker", "logs", "web"], 0);
        ensure(told.contains("this process may have no more descriptors (max_files)"), told)
    });
    let closed = eventually("it is called", SOON, || {
        let ended = roster.cli(["call", "web.close"]);
        ensure(ended.code == Some(0), &ended.wrong)?;
        Ok::<_, String>(ended.json())
    });
    assert!(closed.as_u64() > Some(4), "{closed}");
    for client in &mut clients {
        client.set_read_timeout(Some(SOON)).expect("a timeout");
        assert_eq!(client.read(&mut [0; 1]).expect("none is lost"), 1);
    }
}

/// What each worker answers to a command, by their names: its value, or its error.
fn answers(roster: &Roster, words: &[&str]) -> BTreeMap<String, Result<Value, String>> {
    let ended = roster.cli([&["worker", "command", "-o", "json"], words].concat());
    let told: Value = serde_json::from_slice(&ended.told).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let answers = told["answers"].as_array().expect("a list");
    let answer = |answer: &Value| match answer["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(answer["value"].clone()),
    };
    answers.iter().map(|it| (it["worker"].as_str().expect("a name").to_owned(), answer(it))).collect()
}

/// A worker in PHP that carries out commands, also such as it should not have.
const COMMANDED: &str = r#"<?php
require getenv('PACKAGE') . '/autoload.php';
$worker = Roster\Worker::fromEnvironment();
$worker->onCommand('double', fn (int $number) => 2 * $number);
$worker->onCommand('hang', fn () => touch(__DIR__ . '/hangs') && sleep(1000));
$worker->onCommand('fail', fn () => throw new DomainException(str_repeat('no', 100_000)));
$worker->onCommand('huge', fn () => str_repeat('x', 900_000));
$worker->onCommand('nan', fn () => NAN);
$worker->onCommand('many', function () { foreach (range(1, 50) as $n) { yield str_repeat('x', 100_000) . $n; } yield 'last'; });
$worker->onCommand('leave', fn () => exit(0));
$worker->onCommand('spread', fn (mixed $data) => $worker->broadcast($data));
$worker->onMessage(fn (mixed $data, ?string $from) => $worker->send(['heard' => $data, 'of' => $from]));
$worker->onCommand('talk', fn () => $worker->send(['from' => 'a worker']));
pcntl_signal(SIGTERM, SIG_IGN);
$worker->ready();
$worker->run();
"#;

#[test]
fn a_worker_that_hangs_or_is_stopped_or_answers_nonsense_costs_its_own_answer_and_no_other() {
    // Of the other group one never says anything, and the other no word of the protocol.
    let silent = sh("mute", "test $ROSTER_WORKER = mute/2 && printf '\\301\\301' >&3; exec sleep 1000", "count = 2");
    let mut roster = prepared(&(in_php("web", "count = 4") + &silent));
    roster.write("worker.php", COMMANDED);
    roster.run();
    let pids = (1..=4).map(|number| running(&roster, &format!("web/{number}"))).collect::<Vec<_>>();
    running(&roster, "mute/2");
    let signal = |signal: &str, pid: i64| {
        assert_eq!(Ended::of(Command::new("kill").args([signal, &pid.to_string()])).code, Some(0));
    };
    let asked = Printing::start(&mut roster.command(["worker", "command", "web/2", "hang", "--timeout", "1h"]));
    eventually("it hangs", SOON, || ensure(roster.folder().join("hangs").exists(), "not yet"));
    signal("-STOP", pids[0]);
    let told = answers(&roster, &["--all", "double", "21", "--timeout", "5s"]);
    assert_eq!((&told["web/3"], &told["web/4"]), (&Ok(json!(42)), &Ok(json!(42))), "{told:?}");
    for (worker, why) in [
        ("web/1", "it did not answer within 5s"),
        ("web/2", "it did not answer within 5s"),
        ("mute/1", "it has not connected over its channel"),
        ("mute/2", "it has not connected over its channel"),
    ] {
        assert_eq!(told[worker], Err(why.to_owned()), "{told:?}");
    }
    assert_eq!(told.len(), 6);
    signal("-CONT", pids[0]);
    eventually("what was stopped answers again", SOON, || {
        let told = answers(&roster, &["web/1", "double", "1"]);
        ensure(told["web/1"] == Ok(json!(2)), format!("{told:?}"))
    });
    drop(asked);

    let error = |command: &str| answers(&roster, &["web/3", command])["web/3"].clone().expect_err(command);
    let failed = error("fail");
    assert!(failed.starts_with("nono") && failed.len() < 1_100, "{}", failed.len());
    assert!(error("nan").contains("NAN or INF") || error("nan").contains("NaN or INF"));
    assert!(error("nope").contains("There is no command 'nope'"));
    assert!(answers(&roster, &["web/3", "huge"])["web/3"].is_ok(), "it is alone");
    let part = answers(&roster, &["--all", "huge", "--timeout", "5s"])["web/3"].clone().expect_err("its part is less");
    assert!(part.contains("and its part of max_reply 699050"), "{part}");
    assert_eq!(answers(&roster, &["web/3", "many"])["web/3"], Ok(json!("last")));
    assert!(error("leave").contains("it called exit() or die()"));
    assert_eq!(running(&roster, "web/4"), pids[3]);
    let status = answers(&roster, &["web/4", "status"])["web/4"].clone().expect("it answers");
    assert_eq!((&status["pid"], &status["worker"]), (&json!(pids[3]), &json!("web/4")));
}

#[test]
fn a_worker_that_goes_on_after_its_connection_has_ended_is_replaced() {
    let mut roster = prepared(&in_php("web", ""));
    roster.configure("[register]\n", "[register]\nmax_message = \"256KiB\"\n");
    roster.write(
        "worker.php",
        r#"<?php
        require getenv('PACKAGE') . '/autoload.php';
        $worker = Roster\Worker::fromEnvironment();
        $worker->onCommand('double', fn (int $number) => 2 * $number);
        $worker->onCommand('huge', fn () => str_repeat('x', 900_000));
        $worker->ready();
        try { $worker->run(); } finally { while (true) { sleep(1); } }
        "#,
    );
    roster.run();
    let before = running(&roster, "web/1");
    assert!(answers(&roster, &["web/1", "huge"])["web/1"].is_err());
    eventually("another is asked", SOON * 2, || {
        let told = answers(&roster, &["web/1", "double", "21"]);
        ensure(told["web/1"] == Ok(json!(42)), format!("{told:?}"))
    });
    let after = worker(&roster, "web/1");
    assert_ne!(pid(&after), before);
    assert_eq!(after["why"], "its connection over its channel has ended, and it goes on");
}

#[test]
fn a_worker_that_is_busy_with_what_nobody_called_keeps_its_channel_and_is_told_to_be_so() {
    // Silent for far longer than any other master may be.
    let busy = r#"
        $worker->offer('late', new class { public function done(): string { return 'done'; } });
        $worker->onCommand('busy', function () { while (!is_file('{folder}/over')) { usleep(10_000); } });
        $worker->ready();"#;
    let mut roster = prepared(&in_php("late", ""));
    let silence = "ping_interval = \"100ms\"\npong_timeout = \"100ms\"\non_silence = \"close\"";
    roster.configure("[register]\n", &format!("[register]\n{silence}\n"));
    let folder = roster.folder().display().to_string();
    roster.write("worker.php", &COMMANDED.replace("$worker->ready();", &busy.replace("{folder}", &folder)));
    roster.run();
    let before = running(&roster, "late/1");
    let watch = Printing::start(&mut roster.command(["watch", "--workers", "-o", "json"]));
    let heard = |why: &str| {
        let news = || serde_json::from_str::<Value>(&watch.line()).expect("JSON");
        let is_it = |news: &Value| told(news, "why").starts_with(why) && why.is_empty() == told(news, "why").is_empty();
        assert!(std::iter::repeat_with(news).take(20).any(|news| is_it(&news)), "{why}");
    };
    heard("");
    assert!(answers(&roster, &["late", "busy", "--timeout", "100ms"])["late/1"].is_err(), "it is busy");
    heard("it does not answer since 20");
    let silent = eventually("it is told to be silent", SOON, || {
        let worker = look(&roster, "late/1")?;
        let why = worker["why"].as_str().unwrap_or_default().to_owned();
        ensure(why.starts_with("it does not answer since 20"), &why)?;
        Ok::<_, String>(worker)
    });
    assert_eq!((&silent["state"], pid(&silent)), (&json!("RUNNING"), before));
    eventually("the log tells of it", SOON, || ensure(roster.log().contains("a worker does not answer"), roster.log()));
    roster.write("over", "");
    eventually("it is called", SOON, || {
        let ended = roster.cli(["call", "late.done"]);
        ensure(ended.code == Some(0), &ended.wrong)
    });
    let worker = eventually("it is told to be silent no more", SOON, || {
        let worker = look(&roster, "late/1")?;
        if worker["why"] == "" { Ok(worker) } else { Err(worker.to_string()) }
    });
    assert_eq!((pid(&worker), &worker["restarts"]), (before, &json!(0)));
}

#[test]
fn a_worker_that_hangs_for_too_long_is_killed_and_started_again() {
    let mut roster = prepared(&in_php("web", "hang_timeout = \"1s\""));
    roster.configure("[register]\n", "[register]\nping_interval = \"100ms\"\npong_timeout = \"100ms\"\n");
    roster.write("worker.php", COMMANDED);
    roster.run();
    let before = running(&roster, "web/1");
    assert!(answers(&roster, &["web", "hang", "--timeout", "100ms"])["web/1"].is_err());
    eventually("another one runs", SOON, || {
        let worker = look(&roster, "web/1")?;
        ensure(worker["state"] == "RUNNING" && pid(&worker) != before, &worker)?;
        let why = "it did not answer over its channel for hang_timeout, 1s";
        ensure(worker["why"] == why, &worker)
    });
}

#[test]
fn the_log_tells_of_the_life_of_each_worker() {
    let fails = format!("test -e {{folder}}/broken && exit 9; {}", stubborn());
    let roster = started(&slow(&sh("web", &fails, "stop_timeout = \"100ms\"")));
    let pid = set_up(&roster, "web/1");
    let logged = |what: &str| {
        let has_all = |line: &str| line.contains("web/1") && what.split(' ').all(|word| line.contains(word));
        eventually(what, SOON, || ensure(roster.log().lines().any(has_all), roster.log()));
    };
    logged(&format!("INFO process has begun pid={pid}"));
    logged(&format!("INFO is ready pid={pid}"));
    roster.write("broken", "");
    says(&roster, ["worker", "restart", "web"], 7);
    logged("WARN no successor became ready code 9");
    says(&roster, ["worker", "stop", "web"], 0);
    logged(&format!("WARN did not end in time killed pid={pid}"));
    logged(&format!("INFO ended as it was asked to pid={pid} SIGKILL"));
}

#[test]
fn what_is_to_be_done_once_and_is_done_well_is_no_failure_however_quick_it_was() {
    let roster = started(&slow(&sh("job", "exit 0", "restart = \"never\"")));
    becomes(&roster, "job/1", "EXITED");
    says(&roster, ["worker", "start", "job"], 0);
    assert_eq!(becomes(&roster, "job/1", "EXITED")["why"], "it ended with code 0");
    assert!(!roster.cli(["status"]).text().contains("NOT ALL RUNNING"));
}

#[test]
fn commands_are_told_by_lines_and_refused_with_what_is_wrong() {
    let mut roster = prepared(&in_php("web", "count = 2\nstop_timeout = \"1h\""));
    roster.write("worker.php", COMMANDED);
    roster.run();
    running(&roster, "web/1");
    running(&roster, "web/2");
    assert_eq!(says(&roster, ["worker", "command", "--all", "ping"], 0), "web/1\t\"pong\"\nweb/2\t\"pong\"\n");
    assert_eq!(says(&roster, ["worker", "command", "web/2", "talk"], 0), "web/2\tnull\n");
    let told = says(&roster, ["worker", "command", "web", "double", "\"x\""], 7);
    assert!(told.contains("roster: web/1: ") && told.contains("2 of 2 workers gave no result"), "{told}");
    // They ignore SIGTERM, and have an hour: so it is over its channel that one is asked to end.
    says(&roster, ["worker", "stop", "web/1"], 0);
    let told = says(&roster, ["worker", "command", "web", "ping"], 7);
    assert!(told.starts_with("web/2\t\"pong\"\n") && told.contains("web/1: it has no process\n"), "{told}");
    assert!(says(&roster, ["worker", "command", "webb", "ping"], 1).contains("there are web"));
    assert!(says(&roster, ["worker", "command", "web", "ping", "{"], 2).contains("is no JSON"));
    assert!(says(&roster, ["worker", "command", "web"], 2).contains("a command is missing"));
    assert!(says(&roster, ["worker", "command", "web", ""], 2).contains("between 1 and 256 bytes"));
    let watch = Printing::start(&mut roster.command(["watch", "--messages", "-o", "json"]));
    let next = || {
        let message = serde_json::from_str::<Value>(&watch.line()).expect("JSON");
        (message["masterId"].clone(), message["message"].clone())
    };
    assert_eq!(next(), (json!("web/2"), json!({"from": "a worker"})));
    says(&roster, ["worker", "start", "web/1"], 0);
    let told = says(&roster, ["worker", "command", "web/2", "spread", "[1]"], 0);
    assert_eq!(told, "web/2\tnull\n");
    assert_eq!(next(), (json!("web/1"), json!({"heard": [1], "of": "web/2"})), "the other of its group");
}

#[test]
fn a_watch_of_workers_tells_what_becomes_of_them_also_over_a_restart_of_the_sidecar() {
    let mut roster = started(&sh("web", SLEEPS, "count = 2"));
    let pid = running(&roster, "web/1");
    running(&roster, "web/2");
    let watch = Printing::start(&mut roster.command(["watch", "--workers", "-o", "json"]));
    let next = || serde_json::from_str::<Value>(&watch.line()).expect("JSON");
    let until = |kind: &str, name: &str, state: &str| {
        let is_it = |news: &Value| news["kind"] == kind && (name, state) == (told(news, "name"), told(news, "state"));
        std::iter::repeat_with(next).take(20).find(is_it).unwrap_or_else(|| panic!("{kind} {name} {state}"))
    };
    assert_eq!(until("PRESENT", "web/1", "RUNNING")["pid"], pid);
    until("PRESENT", "web/2", "RUNNING");
    says(&roster, ["worker", "stop", "web/1"], 0);
    assert_eq!(until("CHANGED", "web/1", "STOPPED")["pid"], Value::Null);
    says(&roster, ["worker", "scale", "web", "1"], 0);
    until("DELETED", "web/2", "");
    says(&roster, ["worker", "start", "web/1"], 0);
    until("CHANGED", "web/1", "RUNNING");
    assert!(roster.stop().success());
    roster.run();
    until("RESET", "", "");
    running(&roster, "web/2");
    let kind = |news: &Value| told(news, "name") == "web/2" && told(news, "state") == "RUNNING";
    assert!(std::iter::repeat_with(next).take(20).any(|news| kind(&news)), "the new sidecar's");
}

/// A text of a line of JSON; empty: it has none of this name.
fn told<'a>(news: &'a Value, key: &str) -> &'a str {
    news[key].as_str().unwrap_or_default()
}

#[test]
fn what_is_scaled_for_good_is_so_after_a_restart_and_kept_by_nobody_else() {
    let mut roster = started(&sh("web", SLEEPS, "count = 2"));
    running(&roster, "web/2");
    let count = |roster: &Roster| {
        running(roster, "web/1");
        roster.cli(["worker", "list", "-o", "json"]).json()["workers"].as_array().map_or(0, Vec::len)
    };
    let told = says(&roster, ["worker", "scale", "web", "3", "--save"], 0);
    assert_eq!(told, "web/3 runs\nweb has 3 of them, also when the sidecar is started again\n");
    says(&roster, ["worker", "scale", "web", "1"], 0);
    assert!(roster.stop().success());
    roster.run();
    assert_eq!(count(&roster), 3, "that other scaling was not for good");
    assert!(roster.log().contains("`roster worker scale web 2 --save` follows its settings"), "{}", roster.log());
    says(&roster, ["worker", "remove", "web", "--saved"], 0);
    assert!(roster.stop().success());
    roster.run();
    assert_eq!(count(&roster), 2, "it is forgotten");
    says(&roster, ["worker", "scale", "web", "3", "--save"], 0);
    fs::set_permissions(roster.state().join("workers-scaled.json"), PermissionsExt::from_mode(0o666)).expect("ours");
    assert!(roster.stop().success());
    roster.run();
    assert_eq!(count(&roster), 2, "anybody may have written it");
    assert!(roster.log().contains("cannot read to how many workers were scaled"));
    fs::remove_file(roster.state().join("workers-scaled.json")).expect("it is there");
    fs::create_dir(roster.state().join("workers-scaled.new")).expect("a folder in the way");
    let told = says(&roster, ["worker", "scale", "web", "3", "--save"], 7);
    assert!(told.contains("web has 3 of them, but not when the sidecar is started again: "), "{told}");
}

#[test]
fn what_is_scaled_for_good_is_kept_before_all_have_ended() {
    let roster = started(&sh("web", &stubborn(), "count = 2\nstop_timeout = \"1h\""));
    let surplus = set_up(&roster, "web/2");
    let _scales = Printing::start(&mut roster.command(["worker", "scale", "web", "1", "--save"]));
    eventually("it is kept", SOON, || {
        let kept = fs::read_to_string(roster.state().join("workers-scaled.json")).map_err(|error| error.to_string())?;
        ensure(kept == r#"{"web":1}"#, kept)
    });
    // Only then it is asked to end.
    assert_eq!(pid(&becomes(&roster, "web/2", "STOPPING")), surplus);
}
