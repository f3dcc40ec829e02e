//! Processes that are replaced after so much, or by a signal to the sidecar.

use super::*;

#[test]
fn a_process_that_was_asked_so_much_is_replaced_and_nobody_is_refused() {
    let port = free_port();
    let listen = format!("accept = \"sidecar\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\nmax_requests = 20");
    let mut roster = prepared(&in_php("web", &(listen + "\nparams = { from = \"shop\" }")));
    roster.write("worker.php", PHP_WORKER);
    roster.run();
    let mut pids = BTreeSet::from([running(&roster, "web/1")]);
    eventually("there were three", SOON, || {
        pids.insert(asked(port));
        ensure(pids.len() >= 3, pids.len())
    });
    let before = running(&roster, "web/1");
    eventually("commands count too", SOON, || {
        roster.cli(["worker", "command", "web", "ping"]);
        ensure(worker(&roster, "web/1")["pid"] != before, "not yet")
    });
    let told = worker(&roster, "web/1");
    assert!(told["why"].as_str().is_some_and(|why| why.contains("max_requests, 20")), "{told}");
    assert_eq!(roster.cli(["call", "mail.send", "to=ada"]).code, Some(0));
}

#[test]
fn a_signal_to_the_sidecar_replaces_all_workers_and_its_number_is_in_its_file() {
    let file = "[sidecar]\npid_file = \"{folder}/roster.pid\"\n";
    let groups = sh("web", SLEEPS, "count = 4\nsurge = 3") + &sh("mail", SLEEPS, "");
    let mut roster = prepared(&(groups.clone() + file));
    roster.run();
    let names = ["web/1", "web/2", "web/3", "web/4", "mail/1"];
    let before = names.map(|name| running(&roster, name));
    let number = written(&roster, "roster.pid");
    assert_eq!(number, i64::from(roster.process().id()));
    for signal in ["-USR1", "-USR2"] {
        assert_eq!(Ended::of(Command::new("kill").args([signal, &number.to_string()])).code, Some(0));
    }
    for (name, before) in names.into_iter().zip(before) {
        eventually(name, SOON, || ensure(running(&roster, name) != before, "not yet"));
    }
    let other = prepared(&(groups + &file.replace("{folder}", &roster.folder().display().to_string())));
    let ended = Ended::of(&mut other.serve(binary()));
    let log = other.log() + &ended.wrong;
    assert!(ended.code == Some(1) && log.contains("sidecar.pid_file: cannot have "), "{ended:?} {log}");
    assert!(log.contains("give each sidecar a file of its own"), "{log}");
    assert!(roster.stop().success());
    assert!(!roster.folder().join("roster.pid").exists());
    // Whatever is in its way, also of another user, is left there, and no sidecar needs that file.
    roster.write("roster.pid", "not a number");
    roster.run();
    running(&roster, "web/1");
    roster.logs("nothing is written over it; choose another path");
    let path = roster.folder().join("roster.pid");
    assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "not a number");
    std::fs::remove_file(&path).expect("it is ours");
    eventually("it is written", SOON, || ensure(path.exists(), roster.log()));
    assert_eq!(written(&roster, "roster.pid"), i64::from(roster.process().id()));
    assert!(roster.stop().success());
    assert!(!path.exists());
}

#[test]
fn a_sidecar_does_not_wait_for_workers_of_an_earlier_one_that_it_does_not_start() {
    let register = "unix = \"{folder}/register.sock\"\nsettle = \"1s\"\n";
    let mut roster = prepared(&(register.to_owned() + &in_php("mail", "count = 2\nparams = { from = \"shop\" }")));
    roster.write("worker.php", PHP_WORKER);
    roster.run();
    let masters = |roster: &Roster| {
        let ended = roster.cli(["masters", "-o", "json"]);
        ensure(ended.code == Some(0), &ended.wrong)?;
        let listed = ended.json()["masters"].as_array().cloned().unwrap_or_default();
        Ok::<_, String>(listed.iter().map(|it| it["id"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>())
    };
    let are = |roster: &Roster, ids: &[&str]| {
        eventually("these are there", SOON, || {
            let found = masters(roster)?;
            ensure(found == ids, format!("{found:?}"))
        });
    };
    are(&roster, &["mail/1", "mail/2"]);
    let is_known = |roster: &Roster| {
        eventually("all is known", SOON, || {
            let status = roster.cli(["status"]).text();
            ensure(!status.contains("giving masters time") && !status.contains("on their way"), status)
        });
    };
    is_known(&roster);
    // So that it has kept what it knows.
    assert!(roster.stop().success());
    roster.configure("settle = \"1s\"", "settle = \"1h\"");
    roster.configure("count = 2", "count = 1");
    roster.run();
    are(&roster, &["mail/1"]);
    is_known(&roster);
}
