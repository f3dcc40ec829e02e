//! Workers that are added to a sidecar that runs, and removed.

use super::*;

/// Of `[register]`, in which a test's settings begin.
const REGISTER: &str = "unix = \"{folder}/register.sock\"\n";

/// Adds a worker that sleeps, with these settings; what the command says when it ends with this code.
fn adds(roster: &Roster, name: &str, settings: &[&str], code: i32) -> String {
    let mut words = vec!["worker", "add", name, "--set", "ready_after=250ms"];
    settings.iter().for_each(|setting| words.extend(["--set", setting]));
    words.extend(["--save", "--", "sleep", "1000"]);
    let ended = roster.cli(words);
    assert_eq!(ended.code, Some(code), "{ended:?}");
    String::from_utf8_lossy(&ended.told).into_owned() + &ended.wrong
}

fn saved(roster: &Roster) -> std::path::PathBuf {
    roster.state().join("workers-added.json")
}

#[test]
fn a_worker_is_added_where_there_was_none_and_removed_with_its_sockets() {
    let none = started("");
    let told = adds(&none, "web", &[], 2);
    assert!(
        told.contains("this sidecar has no register, by which workers speak to it: set `[register] listen`"),
        "{told}"
    );
    let roster = started(REGISTER);
    let (port, socket) = (free_port(), roster.folder().join("app.sock"));
    let listen = format!("listen=[\"tcp://127.0.0.1:{port}\", \"unix://{}\"]", socket.display());
    let told = adds(&roster, "web", &["count=2", &listen], 0);
    assert_eq!(told, "web/1 runs\nweb/2 runs\nweb is added, also when the sidecar is started again\n");
    let (one, two) = (running(&roster, "web/1"), running(&roster, "web/2"));
    TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    // What ended is reaped, though there was no worker at the start.
    assert_eq!(Ended::of(Command::new("kill").args(["-9", &one.to_string()])).code, Some(0));
    eventually("it is another process", SOON, || ensure(running(&roster, "web/1") != one, "not yet"));
    let told = says(&roster, ["worker", "remove", "web"], 0);
    assert_eq!(told, "web/1 is no more\nweb/2 is no more\nweb is removed\n");
    assert!(!is_alive(two) && !socket.exists());
    TcpStream::connect(("127.0.0.1", port)).expect_err("nobody listens");
    assert_eq!(roster.cli(["worker", "list", "-o", "json"]).json()["workers"], json!([]));
    assert_eq!(fs::read_to_string(saved(&roster)).expect("it is there"), "{}");
    let told = says(&roster, ["worker", "remove", "web"], 1);
    assert!(
        told.contains("there is no worker `web`; the configuration has no [[worker]], and none was added"),
        "{told}"
    );
    all_are_reaped(&roster);
    // Its place is free.
    adds(&roster, "web", &[&listen], 0);
}

#[test]
fn those_that_are_removed_end_one_after_the_other_and_the_last_still_answers() {
    let (mut roster, port) = (prepared(REGISTER), free_port());
    roster.write("server.php", SERVER);
    roster.run();
    let (listen, script) = (format!("listen=[\"tcp://127.0.0.1:{port}\"]"), roster.folder().join("server.php"));
    let script = script.display().to_string();
    let settings = ["--set", "count=2", "--set", "stop_timeout=1h", "--set", &listen];
    let words = [&["worker", "add", "web"][..], &settings, &["--", "php", &script]].concat();
    assert_eq!(roster.cli(words).code, Some(0));
    // The first has a client that keeps it.
    let stopped = running(&roster, "web/1");
    let signal = |signal: &str| Ended::of(Command::new("kill").args([signal, &stopped.to_string()])).code;
    assert_eq!(signal("-STOP"), Some(0));
    eventually("it is stopped", SOON, || ensure(process_state(stopped) == Some('T'), "it runs"));
    let removes = Printing::start(&mut roster.command(["worker", "remove", "web"]));
    becomes(&roster, "web/1", "STOPPING");
    let ask = || {
        let mut answer = String::new();
        let mut client = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
        client.read_to_string(&mut answer).map_err(|error| error.to_string())?;
        answer.parse::<i64>().map_err(|error| error.to_string())
    };
    assert_eq!(ask(), Ok(running(&roster, "web/2")));
    let told = says(&roster, ["worker", "scale", "web", "3"], 7);
    assert!(told.contains("no other is started: the worker is removed"), "{told}");
    let told = adds(&roster, "web", &[], 2);
    assert!(told.contains("it is being removed"), "{told}");
    assert_eq!(signal("-CONT"), Some(0));
    eventually("it is removed", SOON, || ensure(ask().is_err(), "it answers"));
    drop(removes);
    eventually("none is listed", SOON, || {
        let listed = roster.cli(["worker", "list", "-o", "json"]).json();
        ensure(listed["workers"] == json!([]), listed)
    });
}

#[test]
fn what_is_added_for_good_is_there_after_a_restart_and_the_configuration_counts_before_it() {
    let mut roster = started(REGISTER);
    let configured = fs::read_to_string(roster.config()).expect("it is there");
    adds(&roster, "mail", &["params.queue=mail", "environment.SECRET=hush"], 0);
    let brief = ["worker", "add", "brief", "--set", "ready_after=10ms", "--", "sleep", "1000"];
    assert!(says(&roster, brief, 0).ends_with("brief is added, until the sidecar is started again\n"));
    assert_eq!(fs::read_to_string(roster.config()).expect("it is there"), configured, "it is nobody's to write");
    assert_eq!(fs::metadata(saved(&roster)).expect("a file").permissions().mode() & 0o777, 0o600);
    assert!(!roster.log().contains("hush"));
    let before = running(&roster, "mail/1");
    roster.kill();
    roster.run();
    assert_ne!(running(&roster, "mail/1"), before);
    ends("that of before", before);
    assert!(look(&roster, "brief").is_err());

    assert!(roster.stop().success());
    let odd = json!({ "mail": { "name": "mail", "command": ["sleep", "1"] }, "odd": { "name": "odd", "cuont": 1 },
        "fine": { "name": "fine", "command": ["sleep", "1000"] } });
    fs::write(saved(&roster), odd.to_string()).expect("it is ours");
    roster.configure("[thrift]\n", &(sh("mail", SLEEPS, "count = 2") + "[thrift]\n"));
    roster.run();
    running(&roster, "mail/2");
    running(&roster, "fine/1");
    let log = roster.log();
    assert!(log.contains(
        "the configuration has a worker of a saved one's name, and counts; `roster worker remove mail --saved`"
    ));
    assert!(log.contains("left out a saved worker") && log.contains("cuont: this version of Roster has no such key"));
    assert!(says(&roster, ["worker", "remove", "odd", "--saved"], 0).starts_with("odd is saved no more"));
    let told = says(&roster, ["worker", "remove", "mail"], 0);
    assert!(told.ends_with("mail is removed until the sidecar is started again: its configuration has it\n"), "{told}");

    assert!(roster.stop().success());
    fs::write(saved(&roster), "{\"fine\": {").expect("it is ours");
    roster.run();
    running(&roster, "mail/1");
    assert!(look(&roster, "fine").is_err());
    let told = adds(&roster, "other", &[], 7);
    assert!(
        told.contains("no worker is added: it cannot be saved: ") && told.contains("mend it, or move it away"),
        "{told}"
    );
    assert!(look(&roster, "other").is_err());
    assert_eq!(fs::read_to_string(saved(&roster)).expect("it is there"), "{\"fine\": {");
}

#[test]
fn what_is_wrong_with_one_that_is_added_is_told_with_its_key_and_leaves_all_as_it_was() {
    let port = free_port();
    let listen = format!("listen=[\"tcp://127.0.0.1:{port}\"]");
    let roster = started(&sh("web", SLEEPS, &listen));
    let before = running(&roster, "web/1");
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let taken = format!("listen=[\"tcp://{}\"]", taken.local_addr().expect("its own"));
    let nested = format!("params={}1{}", "[".repeat(200), "]".repeat(200));
    for (settings, why) in [
        (&["count=0"][..], "count: 0 is no number of processes: 1 to 1000"),
        (&["count=1001"], "count: 1001 is no number of processes: 1 to 1000"),
        (&["cuont=2"], "cuont: this version of Roster has no such key; did you mean `count`?"),
        (&["user=nobody-at-all"], "user: there is no user \"nobody-at-all\" on this machine"),
        (&["directory=/nowhere"], "directory: there is no directory /nowhere"),
        (&["environment.LISTEN_FDS=1"], "environment: \"LISTEN_FDS\" is set by the sidecar"),
        (&["stop_signal=NOPE"], "stop_signal: \"NOPE\" is no signal"),
        (&["listen=[\"8080\"]"], "listen.0: \"8080\" is not an address"),
        (&[&listen], "is where the worker web listens; choose another"),
        (&[&taken], "worker new: listen.0: cannot listen on"),
        (&["accept=sidecar"], "accept: is of no use without `listen`"),
        (&[&nested], "is no list or table of TOML"),
    ] {
        let told = adds(&roster, "new", settings, 2);
        assert!(told.contains(why), "{settings:?}: {told}");
    }
    let told = adds(&roster, "web", &[], 2);
    assert!(
        told.contains("name: there is a worker \"web\" already; take another name, or `roster worker remove web`"),
        "{told}"
    );
    assert!(adds(&roster, "a/b", &[], 2).contains("name: \"a/b\" is no name"));
    let ended = roster.cli(["worker", "add", "new", "--", "no-such-program"]);
    assert!(ended.code == Some(2) && ended.wrong.contains("command: cannot start \"no-such-program\""), "{ended:?}");
    assert!(!saved(&roster).exists() && look(&roster, "new").is_err());
    assert_eq!(running(&roster, "web/1"), before);
}

#[test]
fn who_is_neither_root_nor_the_sidecars_user_adds_no_program_also_as_an_administrator() {
    let roster = started(&(sh("web", SLEEPS, "") + "[access]\nadmins = [\"group:33\"]\n"));
    let before = running(&roster, "web/1");
    let tcp = format!("127.0.0.1:{}", roster.port());
    let commands: [&[&str]; 3] =
        [&["add", "evil", "--", "sleep", "1000"], &["remove", "web"], &["remove", "web", "--saved"]];
    let over_tcp = |words: &[&str]| Ended::of(binary().arg("worker").args(words).env("ROSTER_ADDRESS", &tcp));
    for words in commands {
        let ended = over_tcp(words);
        let told = "a client over TCP may not add or remove workers; over the Unix socket root";
        assert!(ended.code == Some(8) && ended.wrong.contains(told), "{words:?}: {ended:?}");
    }
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
    for words in commands {
        let ended = as_other(words);
        let told = format!("uid {WWW_DATA} may not add or remove workers; over the Unix socket root may");
        assert!(ended.code == Some(8) && ended.wrong.contains(&told), "{words:?}: {ended:?}");
    }
    assert_eq!(running(&roster, "web/1"), before);
    assert_eq!(as_other(&["stop", "web"]).code, Some(0), "it is an administrator");
}

fn run_with_few_descriptors(roster: &mut Roster) {
    let mut limited = unconfigured(Command::new("sh"));
    limited.args(["-c", "ulimit -n 1100 && exec \"$0\" \"$@\""]).arg(binary_path());
    let mut serve = roster.serve(limited);
    roster.run_as(&mut serve);
}

#[test]
fn clients_of_what_is_saved_leave_descriptors_for_all_else_also_after_a_restart() {
    let (mut roster, port) = (prepared(REGISTER), free_port());
    run_with_few_descriptors(&mut roster);
    let listen = format!("listen=[\"tcp://127.0.0.1:{port}\"]");
    adds(&roster, "passed", &["accept=sidecar", &listen], 0);
    assert!(roster.stop().success());
    let many = json!({ "name": "many", "command": ["sleep", "1000"], "count": 200 });
    let mut kept: Value = serde_json::from_slice(&fs::read(saved(&roster)).expect("a file")).expect("JSON");
    kept["many"] = many;
    fs::write(saved(&roster), kept.to_string()).expect("it is ours");
    run_with_few_descriptors(&mut roster);
    running(&roster, "passed/1");
    let log = roster.log();
    let told = "it takes 804 descriptors of the sidecar's, which has ";
    assert!(log.contains("left out a saved worker") && log.contains(told), "{log}");
    assert!(look(&roster, "many").is_err());
    let sidecar = roster.process().id();
    let opened = || fs::read_dir(format!("/proc/{sidecar}/fd")).map_or(0, Iterator::count);
    let own = opened();
    let _clients: Vec<_> = (0..400).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("it is accepted")).collect();
    eventually("those for which there is no room are closed", SOON, || {
        ensure(roster.log().contains("connections were closed: no process took them in time"), roster.log())
    });
    // Others are open for a moment.
    eventually("no more are open", SOON, || ensure(opened() <= own + 1_100 / 16, opened()));
    roster.status();
}

#[test]
fn what_is_added_scaled_or_replaced_leaves_descriptors_for_all_else() {
    let mut roster = prepared(&sh("web", SLEEPS, ""));
    run_with_few_descriptors(&mut roster);
    running(&roster, "web/1");
    let told = adds(&roster, "many", &["count=100"], 7);
    assert!(told.contains("it takes 404 descriptors of the sidecar's, which has "), "{told}");
    adds(&roster, "few", &["count=4"], 0);
    let ended = roster.cli(["worker", "scale", "few", "100"]);
    assert!(ended.code == Some(7) && ended.wrong.contains("the sidecar has no descriptors left"), "{ended:?}");
    roster.logs("a worker cannot be started yet; it is tried again");
    roster.status();
    says(&roster, ["worker", "scale", "few", "1"], 0);
    says(&roster, ["worker", "restart", "few"], 0);
}
