//! What callers report and administrators drain is chosen no more, by whoever asks, and outlasts the sidecar.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rmpv::Value;
use serde_json::Value as Json;

use crate::harness::master::Scripted;
use crate::harness::{Dialect, Ended, Roster, SOON, ensure, eventually, is_skipped_without_root};
use crate::idl::{self, CallReport, ReportRequest, TRosterSyncClient};
use crate::register::{Scene, TOKEN};

const SETTINGS: &str = r#"
[[file]]
path = "{folder}/nodes.toml"

[[services]]
root = "/s"
format = "raw"
"#;

fn roster(settings: &str) -> Roster {
    let mut roster = Roster::prepare(&format!("{SETTINGS}{settings}"));
    let nodes = (0..10).map(|number| format!("\"/s/db/i-{number}\" = \"10.0.{}.1:{}\"\n", number / 5, 80 + number));
    roster.write("nodes.toml", &format!("[nodes]\n{}", nodes.collect::<String>()));
    fs::create_dir(roster.folder().join("disk")).expect("a folder");
    roster.run();
    roster.becomes("live");
    // It answers before it has written its file, and PHP chooses by that.
    roster.is_in_its_file();
    roster
}

/// The addresses of those of which that is told, by the command line.
fn told(roster: &Roster, why: &str) -> Vec<String> {
    let all = roster.cli(["services", "db", "-o", "json"]).json();
    addresses(&all, why)
}

fn addresses(all: &Json, why: &str) -> Vec<String> {
    let instances = all["instances"].as_array().into_iter().flatten();
    let address = |it: &Json| {
        let at = &it["endpoints"][0];
        format!("{}:{}", at["host"].as_str().unwrap_or_default(), at["port"])
    };
    let mut found: Vec<_> = instances.filter(|it| it.get(why).is_some()).map(address).collect();
    found.sort();
    found
}

fn becomes(roster: &Roster, why: &str, expected: &[&str]) {
    eventually(&format!("{why} is what shall be"), SOON, || {
        let found = told(roster, why);
        ensure(found == expected, format!("{found:?}\n{}", roster.log()))
    });
}

/// What PHP prints that has a client of the sidecar.
fn php(roster: &Roster, code: &str) -> String {
    let socket = roster.socket().display();
    let code = format!("require 'php/autoload.php'; $roster = Roster\\Client::local('{socket}'); {code}");
    Ended::of(Command::new("php").current_dir(env!("CARGO_MANIFEST_DIR")).args(["-r", &code])).text()
}

/// Where 200 keys go, and as many that have none, by the shared file alone.
fn chosen(roster: &Roster) -> BTreeSet<String> {
    let file = roster.shared_file();
    let code = format!(
        "$roster = Roster\\Client::local('', '', '{}'); for ($key = 0; $key < 200; $key++) {{ \
         echo $roster->resolve('db', key: $key)->address(), \"\\n\", $roster->resolve('db')->address(), \"\\n\"; }}",
        file.display()
    );
    php(roster, &code).lines().map(str::to_owned).collect()
}

/// Has PHP report that calls of this one failed.
fn fail(roster: &Roster, address: &str, times: usize) {
    let code = format!(
        "foreach ($roster->instances('db') as $it) {{ if ($it->address() === '{address}') {{ \
         for ($n = 0; $n < {times}; $n++) {{ $roster->report($it, ok: false, durationMs: 7); }} }} }} echo 'done';"
    );
    assert_eq!(php(roster, &code), "done");
}

#[test]
fn what_fails_for_one_page_is_chosen_by_no_other_and_not_after_a_restart() {
    // None ends by itself, however long this takes.
    let mut roster = roster("[eject]\nbase_time = \"1h\"\nmax_time = \"1h\"\n");
    assert_eq!(chosen(&roster).len(), 10);
    fail(&roster, "10.0.0.1:83", 3);
    fail(&roster, "10.0.0.1:83", 2);
    becomes(&roster, "ejected", &["10.0.0.1:83"]);
    eventually("PHP chooses it no more", SOON, || {
        let chosen = chosen(&roster);
        ensure(chosen.len() == 9 && !chosen.contains("10.0.0.1:83"), format!("{chosen:?}"))
    });
    let times = roster.cli(["resolve", "db", "-n", "300", "--key", "k", "-o", "json"]).json();
    assert_eq!(times["chosen"].as_array().map(Vec::len), Some(9));
    let counters = roster.status().counters;
    let counts = ["reports", "reportsFailed", "reportedMs", "ejected"].map(|name| counters.get(name).copied());
    assert_eq!(counts, [5, 5, 35, 1].map(Some), "{counters:?}");
    assert!(roster.cli(["services", "db"]).text().contains("ejected"));
    assert!(roster.cli(["drain"]).text().contains("5 failures one after the other, reported by uid"));
    // However much fails, a fifth is ejected.
    for port in 80..85 {
        fail(&roster, &format!("10.0.0.1:{port}"), 50);
    }
    becomes(&roster, "ejected", &["10.0.0.1:80", "10.0.0.1:83"]);
    // It is in the record within a second, or at the stop.
    assert!(roster.stop().success());
    roster.run();
    assert_eq!(told(&roster, "ejected"), ["10.0.0.1:80", "10.0.0.1:83"], "with the first answer");
}

#[test]
fn an_ejection_ends_by_itself_also_where_the_sidecar_is_dead() {
    let mut roster = roster("[eject]\nbase_time = \"8s\"\nmax_time = \"8s\"\n");
    // It may end before PHP, which takes its time to start, has seen it: then it fails again.
    eventually("PHP chooses it no more", SOON, || {
        fail(&roster, "10.0.1.1:89", 5);
        let chosen = chosen(&roster);
        ensure(chosen.len() == 9, format!("{chosen:?}"))
    });
    becomes(&roster, "ejected", &[]);
    // It may end before PHP, which takes its time to start, has seen it: then it fails again.
    eventually("PHP chooses it no more", SOON, || {
        fail(&roster, "10.0.1.1:89", 5);
        let chosen = chosen(&roster);
        ensure(chosen.len() == 9, format!("{chosen:?}"))
    });
    roster.kill();
    eventually("PHP chooses it again", SOON, || {
        let chosen = chosen(&roster);
        ensure(chosen.len() == 10, format!("{chosen:?}"))
    });
}

#[test]
fn reports_that_nobody_may_believe_come_to_nothing() {
    let roster = roster("[eject]\nreporters = [\"nobody\"]\n");
    fail(&roster, "10.0.0.1:83", 50);
    let report = |address: &str| CallReport::new("db".into(), address.into(), false, -5);
    for mut client in [roster.client(), Dialect::ALL[0].tcp(roster.port()).expect("the sidecar accepts")] {
        for address in ["10.0.0.1:83", "", "10.0.0.9:1", "\u{1}\n", &"x".repeat(5_000)] {
            client.report(ReportRequest { reports: vec![report(address); 10] }).expect("it is passed by");
        }
    }
    assert_eq!((told(&roster, "ejected").len(), roster.status().counters["reports"]), (0, 0));
}

#[test]
fn a_host_is_drained_for_all_until_it_no_longer_is() {
    let mut roster = roster("");
    let drain = |roster: &Roster, arguments: &[&str]| roster.cli(["drain", "db"].iter().chain(arguments));
    let ended = drain(&roster, &["10.0.0.1", "--for", "30m", "--wait"]);
    assert!(ended.code == Some(2) && ended.wrong.contains("nobody knows when they are done"), "{ended:?}");
    assert!(told(&roster, "drained").is_empty(), "nothing was done by halves");
    let ended = drain(&roster, &["10.0.0.1", "--for", "30m", "--reason", "new kernel"]);
    assert!(!ended.wrong.contains("can be called"), "{ended:?}");
    assert_eq!(ended.text(), "10.0.0.1 is drained for 30m: 5 instances\n");
    assert_eq!(drain(&roster, &["10.0.1.1:86", "--for", "2s"]).code, Some(0));
    let expected = ["10.0.0.1:80", "10.0.0.1:81", "10.0.0.1:82", "10.0.0.1:83", "10.0.0.1:84"];
    becomes(&roster, "drained", &expected);
    let others: BTreeSet<String> = (85..90).map(|port| format!("10.0.1.1:{port}")).collect();
    eventually("PHP chooses the others", SOON, || {
        let chosen = chosen(&roster);
        ensure(chosen == others, format!("{chosen:?}"))
    });
    assert!(roster.cli(["drain"]).text().contains("new kernel"));
    assert_eq!(roster.cli(["drain", "-o", "json"]).json()["withheld"][0]["target"], "10.0.0.1");
    roster.kill();
    roster.run();
    assert_eq!(told(&roster, "drained"), expected, "with the first answer, though it was killed");
    for (code, arguments) in [
        (1, &["10.0.0.7", "--for", "1m"][..]),
        (2, &["10.0.0.1", "--for", "31d"]),
        (2, &["10.0.0.1", "--for", "0s"]),
        (2, &["10.0.0.1", "--for", "30"]),
        (2, &["10.0.0.1"]),
        (2, &["10.0.0.1", "--for", "1m", "--reason", "a\nb"]),
    ] {
        let ended = drain(&roster, arguments);
        assert_eq!(ended.code, Some(code), "{ended:?}");
    }
    let last = drain(&roster, &["10.0.1.1", "--for", "1m"]);
    let cure = "no instance of db is left that can be called; `roster undrain db 10.0.1.1` undoes it\n";
    assert!(last.code == Some(0) && last.wrong.contains(cure), "{last:?}");
    let none = roster.cli(["resolve", "db"]);
    assert!(format!("{none:?}").contains("is drained"), "{none:?}");
    for host in ["10.0.0.1", "10.0.1.1"] {
        let ended = roster.cli(["undrain", "db", host]);
        assert_eq!(ended.text(), format!("{host} is drained no longer\n"));
    }
    becomes(&roster, "drained", &[]);
    assert_eq!(roster.cli(["undrain", "db", "10.0.0.1"]).code, Some(1));
    eventually("PHP chooses all", SOON, || ensure(chosen(&roster).len() == 10, "not yet"));
}

#[test]
fn what_another_user_makes_up_ejects_nothing_that_is_reported_to_be_well() {
    if is_skipped_without_root() {
        return;
    }
    let roster = roster("");
    for (path, mode) in [(roster.folder(), 0o755), (roster.socket(), 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
    }
    let lies = |address: &str| {
        let code = "require 'php/autoload.php'; $roster = Roster\\Client::local($argv[1], shared: ''); \
            foreach ($roster->instances('db') as $it) { if ($it->address() === $argv[2]) { \
            for ($n = 0; $n < 100; $n++) { $roster->report($it, ok: false); } } } echo 'done';";
        let mut php = Command::new("php");
        php.current_dir(env!("CARGO_MANIFEST_DIR")).uid(65_533).gid(65_533).args(["-r", code]);
        assert_eq!(Ended::of(php.arg(roster.socket()).arg(address)).text(), "done");
    };
    let well = "foreach ($roster->instances('db') as $it) { if ($it->address() === '10.0.0.1:81') { \
        $roster->report($it, ok: true); } } echo 'done';";
    assert_eq!(php(&roster, well), "done");
    lies("10.0.0.1:81");
    eventually("all is counted", SOON, || ensure(roster.status().counters["reports"] == 101, "not yet"));
    assert_eq!(told(&roster, "ejected"), [""; 0]);
    // Where both find that it fails, it is.
    fail(&roster, "10.0.0.1:81", 5);
    becomes(&roster, "ejected", &["10.0.0.1:81"]);
}

#[test]
fn a_master_is_drained_once_its_calls_are_done() {
    let scene = Scene::new();
    let join = || Scripted::join(scene.port, TOKEN, &[("mail", Value::Array(Vec::new()))]);
    let mut master = join();
    let id = scene.has(1)[0].id.clone();
    let address = scene.roster.socket().to_owned();
    let call = std::thread::spawn(move || {
        let mut client = Dialect::ALL[0].unix(&address).expect("the sidecar accepts");
        client.call(idl::Call::of("mail", "send", "[1]"))
    });
    let asked = master.asked("call");
    let drain = |wait: &str| scene.roster.cli(["drain", "mail", &id, "--for", "10m", "--wait", wait]);
    let ended = drain("1s");
    assert_eq!(ended.code, Some(6), "{ended:?}");
    let none = scene.roster.cli(["call", "mail.send", "--json", "[2]"]);
    assert!(none.code == Some(7) && format!("{none:?}").contains("not drained"), "{none:?}");
    master.answers(asked.id, [Value::from("done")]);
    call.join().expect("a call").expect("its result");
    assert_eq!(drain("20s").code, Some(0));
    let mut other = join();
    scene.has(2);
    let serve = std::thread::spawn(move || {
        let asked = other.asked("call");
        other.answers(asked.id, [Value::from("here")]);
        other
    });
    assert!(scene.call("mail", "send", "[]").is_ok());
    drop(serve.join().expect("a master"));
    let on = ["call", "mail.send", "--master", &id];
    let by_id = std::thread::spawn(move || {
        let asked = master.asked("call");
        master.answers(asked.id, [Value::from("by its id")]);
        master
    });
    assert_eq!(scene.roster.cli(on).code, Some(0), "who names it still calls it");
    drop(by_id.join().expect("a master"));
}
