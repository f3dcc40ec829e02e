//! Access: what users other than the sidecar's own may do over its socket and over TCP, and who commands masters.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::signal::Signal;
use rmpv::Value;

use crate::harness::master::{Scripted, text};
use crate::harness::{
    Client, Dialect, Ended, SOON, binary, ensure, eventually, exception, is_skipped_without_root, unconfigured,
};
use crate::idl::{
    AccessDenied, BroadcastRequest, Call, CallErrorKind, CallTimedOut, CallsRequest, RegisterAddress, RegistersRequest,
    TRosterSyncClient,
};
use crate::register::{Scene, TOKEN};

/// Users whom no machine has: they need no name to be known by their numbers.
const WEB: u32 = 33_033;
const DEPLOY: u32 = 33_034;
const OPS: u32 = 44_044;

/// A sidecar whose socket everybody may open, with a master that offers `mail` and `billing`, and with some nodes.
struct Shop {
    scene: Scene,
    master: Scripted,
    roster: PathBuf,
}

impl Shop {
    fn with(settings: &str) -> Self {
        let scene = Scene::with(settings);
        let nodes = "\"/config/db\" = \"db\"\n\"/config/mq\" = \"mq\"\n\"/secret/key\" = \"hush\"\n";
        scene.roster.write("nodes.toml", &format!("[nodes]\n{nodes}"));
        scene.roster.process().signal(Signal::SIGHUP);
        eventually("the nodes are there", SOON, || scene.roster.get("/secret/key"));
        let none = || Value::Array(Vec::new());
        let master = Scripted::join(scene.port, TOKEN, &[("mail", none()), ("billing", none())]);
        scene.has(1);
        for path in [scene.roster.folder(), scene.roster.socket()] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("a mode");
        }
        let roster = for_everybody(scene.roster.folder());
        Self { scene, master, roster }
    }

    /// What the command line answers that user.
    fn cli(&self, uid: u32, words: &[&str]) -> Output {
        let socket = format!("unix://{}", self.scene.roster.socket().display());
        let mut command = Command::new(&self.roster);
        command.args(words).env("ROSTER_ADDRESS", socket).current_dir("/").uid(uid).gid(uid);
        command.output().expect("the binary starts")
    }

    /// What it says on its way to this exit code.
    fn says(&self, uid: u32, words: &[&str], code: i32) -> String {
        let output = self.cli(uid, words);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
        text
    }
}

/// The binary where another user may start it, also where that may not look into the folder it was built in.
pub(crate) fn for_everybody(folder: &Path) -> PathBuf {
    let (from, to) = (PathBuf::from(binary().get_program()), folder.join("roster"));
    std::fs::hard_link(&from, &to).or_else(|_| std::fs::copy(&from, &to).map(drop)).expect("a copy");
    to
}

#[test]
fn no_other_user_commands_masters_and_administrators_do() {
    if is_skipped_without_root() {
        return;
    }
    let mut shop = Shop::with(&format!("[access]\nadmins = ['user:{DEPLOY}']\n"));
    let forger = TcpListener::bind("127.0.0.1:0").expect("a port");
    let evil = forger.local_addr().expect("an address").to_string();
    for words in [&["registers", "add", &*evil][..], &["registers", "remove", &*evil], &["broadcast", r#"{"cmd":"x"}"#]]
    {
        let told = shop.says(WEB, words, 8);
        assert!(told.contains("uid 33033 may not command masters") && told.contains("user:33034"), "{told}");
    }
    assert!(shop.says(WEB, &["get", "/config/db"], 0).starts_with("db"), "without rules all else is as it was");
    assert!(shop.says(WEB, &["status"], 0).contains("you are uid 33033: may read"));
    assert_eq!(shop.says(DEPLOY, &["broadcast", r#"{"cmd":"reload"}"#], 0), "sent to 1 master\n");
    shop.master.hears_command("reload");
}

#[test]
fn over_tcp_nobody_commands_and_only_what_is_set_is_called() {
    let roster = |settings: &str| {
        let scene = Scene::with(settings);
        let master = Scripted::join(scene.port, TOKEN, &[("mail", Value::Array(Vec::new()))]);
        scene.has(1);
        let client = Dialect::ALL[0].tcp(scene.roster.port()).expect("a connection");
        (scene, master, client)
    };
    let (scene, mut master, mut client) = roster("");
    let call = |client: &mut Client| client.call(Call { timeout_ms: Some(300), ..Call::of("mail", "send", "") });
    let broadcast =
        |client: &mut Client| client.broadcast(BroadcastRequest::new(b"{\"cmd\":\"reload\"}".to_vec(), None));
    let evil = || vec![RegisterAddress::new("127.0.0.1".into(), 9)];
    assert!(denied(call(&mut client)).contains("tcp_calls"));
    assert!(denied(broadcast(&mut client)).contains("Unix socket"));
    assert!(denied(client.add_registers(RegistersRequest::new(evil()))).contains("administrators"));
    let one = Call { timeout_ms: Some(300), ..Call::of("mail", "send", "") };
    let outcomes = client.call_many(CallsRequest { calls: vec![one] }).expect("outcomes").outcomes;
    assert_eq!(outcomes[0].error.as_ref().map(|error| error.kind), Some(CallErrorKind::DENIED));
    // The first that the master hears is what the test's own user sends.
    assert_eq!(broadcast(&mut scene.roster.client()).expect("an administrator").masters, 1);
    while let Some(message) = master.hears()
        && text(&message, "cmd") != "reload"
    {
        assert!(!matches!(&*text(&message, "cmd"), "callback" | "register" | "remove"), "{message}");
    }

    let (_scene, _master, mut client) = roster("[access]\ntcp_calls = true\n");
    exception::<CallTimedOut>(call(&mut client)).expect("it was made");
    assert!(denied(client.remove_registers(RegistersRequest::new(evil()))).contains("Unix socket"));
}

fn denied(answer: thrift::Result<impl std::fmt::Debug>) -> String {
    exception::<AccessDenied>(answer).expect("it is denied").message
}

#[test]
fn rules_say_what_each_user_sees_and_an_edit_is_in_force_after_a_reload_if_it_is_right() {
    if is_skipped_without_root() {
        return;
    }
    let rules = format!(
        "[[allow]]\ngroup = '{OPS}'\nread = ['/', '*']\nwatch = true\n[[allow]]\nuser = '{WEB}'\nread = ['/config/db']\ncall = ['mail.send']\n"
    );
    let shop = Shop::with(&rules);
    assert!(shop.says(WEB, &["get", "/config/db"], 0).starts_with("db"));
    for path in ["/secret/key", "/secret/none", "/nowhere"] {
        let told = shop.says(WEB, &["get", path], 8);
        assert!(told.contains(&format!("may not read {path}")), "{told}");
    }
    assert_eq!(shop.says(WEB, &["ls", "/"], 0), "config\n");
    assert_eq!(shop.says(WEB, &["ls", "/config"], 0), "db\n");
    assert!(shop.says(WEB, &["watch", "/config"], 8).contains("may not watch"));
    let services = shop.says(WEB, &["services"], 0);
    assert!(services.contains("mail") && !services.contains("billing"), "{services}");
    assert!(!shop.says(WEB, &["masters", "-o", "json"], 0).contains("billing"));
    assert!(shop.says(WEB, &["services", "billing"], 8).contains("may not see"));
    assert!(shop.says(WEB, &["call", "billing.charge"], 8).contains("may not call billing.charge"));
    assert!(shop.says(WEB, &["call", "nothing.charge"], 8).contains("may not call nothing.charge"));
    shop.says(DEPLOY, &["get", "/config/db"], 8);
    assert!(shop.says(0, &["get", "/secret/key"], 0).starts_with("hush"), "root may");

    let roster = &shop.scene.roster;
    roster.configure("'/config/db'", "'/config'");
    roster.process().signal(Signal::SIGHUP);
    eventually("the new rule is in force", SOON, || {
        ensure(shop.cli(WEB, &["get", "/config/mq"]).status.success(), "it is not")
    });
    roster.configure("read = ['/config']", "raed = ['/']");
    roster.process().signal(Signal::SIGHUP);
    eventually("the log says what is wrong", SOON, || ensure(roster.log().contains("`read`"), roster.log()));
    shop.says(WEB, &["get", "/config/mq"], 0);
    shop.says(WEB, &["get", "/secret/key"], 8);
}

#[test]
fn the_last_rule_is_not_taken_away_by_a_reload_and_nothing_else_of_that_edit_is_taken_over() {
    if is_skipped_without_root() {
        return;
    }
    let rule = format!("[[allow]]\nuser = '{WEB}'\nread = ['/config']\n");
    let shop = Shop::with(&rule);
    let roster = &shop.scene.roster;
    roster.configure(&rule, &format!("[access]\nadmins = ['user:{DEPLOY}']\n"));
    roster.process().signal(Signal::SIGHUP);
    eventually("the log says so", SOON, || {
        let log = roster.log();
        ensure(log.contains("does not take over") && log.contains("no [[allow]] any more"), log)
    });
    shop.says(WEB, &["get", "/secret/key"], 8);
    shop.says(DEPLOY, &["broadcast", r#"{"cmd":"reload"}"#], 8);
}

#[test]
fn a_check_of_the_shared_file_finds_no_fault_in_what_its_user_may_not_see() {
    if is_skipped_without_root() {
        return;
    }
    let rules = |read: &str| format!("[[allow]]\nuser = '{WEB}'\nread = [{read}]\n");
    for (read, hidden) in [
        ("'/config', 'mail'", Some("may not read /")),
        ("'/', 'mail'", Some("may not see the service billing")),
        ("'/', 'mail', 'billing'", None),
    ] {
        let shop = Shop::with(&rules(read));
        let bare = Scripted::join(shop.scene.port, TOKEN, &[]);
        shop.scene.has(2);
        let file = shop.scene.roster.shared_file();
        let lock = PathBuf::from(format!("{}-lock", file.display()));
        eventually("both are compared", SOON, || {
            let ended = shop.scene.roster.cli(["shared", "check"]);
            ensure(
                ended.code == Some(0) && String::from_utf8_lossy(&ended.told).contains("holds the same"),
                format!("{ended:?}"),
            )
        });
        for path in [&file, &lock] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o666)).expect("a mode");
        }
        let told = shop.says(WEB, &["shared", "check"], 0);
        match hidden {
            Some(why) => assert!(told.contains(&format!("not compared: uid {WEB} {why}")), "{told}"),
            None => assert!(told.contains("holds the same"), "{told}"),
        }
        drop(bare);
    }
}

#[test]
fn who_cannot_open_the_socket_is_denied_whatever_the_rules_allow() {
    let shop = Shop::with(&format!("[[allow]]\nuser = '{WEB}'\nread = ['/config']\n"));
    let (roster, web) = (&shop.scene.roster, WEB.to_string());
    let read = ["explain", "access", "--user", &web, "read", "/config", "--config"].map(str::to_owned);
    let explain = || {
        let ended = Ended::of(binary().args(&read).arg(roster.config()));
        (ended.code, format!("{}{}", String::from_utf8_lossy(&ended.told), ended.wrong))
    };
    let (code, text) = explain();
    assert!(code == Some(0) && text.ends_with("allowed\n"), "{text}");
    std::fs::set_permissions(roster.socket(), PermissionsExt::from_mode(0o660)).expect("a mode");
    let (code, text) = explain();
    assert_eq!(code, Some(8), "{text}");
    assert!(text.ends_with("roster: uid 33033 is allowed by the rules, but cannot open the socket\n"), "{text}");
    std::fs::set_permissions(roster.socket(), PermissionsExt::from_mode(0o666)).expect("a mode");
    assert_eq!(explain().0, Some(0));
    std::fs::set_permissions(roster.folder(), PermissionsExt::from_mode(0o766)).expect("a mode");
    let (code, text) = explain();
    std::fs::set_permissions(roster.folder(), PermissionsExt::from_mode(0o777)).expect("a mode");
    assert!(code == Some(8) && text.contains("is closed to it: it is of uid "), "{text}");
}

#[test]
fn an_explanation_says_that_the_file_was_changed_after_the_sidecars_start() {
    let shop = Shop::with(&format!("[[allow]]\nuser = '{WEB}'\nread = ['/config']\n"));
    let roster = &shop.scene.roster;
    let explain = || Ended::of(binary().args(["explain", "access", "--tcp", "--config"]).arg(roster.config())).text();
    assert!(explain().contains("the times of the file show no change since that start"), "{}", explain());
    let before = std::fs::metadata(roster.config()).and_then(|found| found.modified()).expect("a file");
    roster.configure("'/config'", "'/'");
    // As it is with one that is copied with its times.
    std::fs::File::options().append(true).open(roster.config()).and_then(|it| it.set_modified(before)).expect("a time");
    assert!(
        explain().contains("changed after that start: without such a SIGHUP since, the rules before"),
        "{}",
        explain()
    );
}

#[test]
fn what_a_user_may_do_is_explained_from_the_configuration() {
    let shop = Shop::with(&format!("[[allow]]\nuser = '{WEB}'\ncall = ['mail.*']\n"));
    let config = shop.scene.roster.config();
    let explain = |words: &[&str]| {
        let all = ["explain", "access", "--config", config.to_str().expect("UTF-8")];
        let output = binary().args(all).args(words).output().expect("the binary starts");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), text)
    };
    let web = WEB.to_string();
    let (code, text) = explain(&["--user", &web, "call", "mail.send"]);
    assert_eq!((code, text.contains("`allow.0`") && text.ends_with("allowed\n")), (Some(0), true), "{text}");
    assert_eq!(explain(&["call", "mail.send", "--user", &web]), (code, text), "options may follow");
    let (code, text) = explain(&["--user", &web, "read", "/a"]);
    assert_eq!((code, text.contains("may not read /a")), (Some(8), true), "{text}");
    for (of, what) in [("enqueue", "may not enqueue jobs into img"), ("perform", "may not perform jobs of img")] {
        let (code, text) = explain(&["--user", &web, of, "img"]);
        assert_eq!((code, text.contains(what)), (Some(8), true), "{text}");
        let (code, text) = explain(&["--user", "root", of, "img"]);
        assert!(code == Some(0) && text.ends_with("allowed\n"), "{text}");
    }
    let (code, text) = explain(&["--tcp", "command"]);
    assert_eq!((code, text.contains("no `[[allow]]` is for it")), (Some(8), true), "{text}");
    let (code, text) = explain(&["--user", "nobody-has-this-name"]);
    assert_eq!((code, text.contains("there is no user")), (Some(2), true), "{text}");
}

#[test]
fn an_explanation_of_the_demonstrations_configuration_says_so_first() {
    if Path::new("/etc/roster/roster.toml").exists() {
        return;
    }
    let home = tempfile::tempdir().expect("a folder");
    let mut explain = binary();
    explain.args(["explain", "access", "--tcp"]).env("HOME", home.path()).env_remove("XDG_CONFIG_HOME");
    let text = Ended::of(&mut explain).text();
    assert!(text.starts_with("The configuration: the demonstration's; there is no /etc/roster/roster.toml"), "{text}");
}

#[test]
fn who_asks_is_not_taken_for_the_user_as_whom_the_sidecar_runs() {
    if is_skipped_without_root() {
        return;
    }
    let shop = Shop::with("");
    // As the system's does, it leaves out where the socket is.
    let config = shop.scene.roster.folder().join("system.toml");
    std::fs::write(&config, format!("[[allow]]\nuser = '{WEB}'\ncall = ['mail.*']\n")).expect("written");
    let explains = |run: &Path, uid: u32, what: [&str; 2], code: i32, told: &str| {
        let enter = format!(
            "mount -t tmpfs none /run && mkdir /run/roster && mount --bind $0 /run/roster && \
             exec setpriv --reuid={uid} --regid={uid} --clear-groups \"$@\""
        );
        let mut command = unconfigured(Command::new("unshare"));
        command.args(["--mount", "sh", "-c", &enter]).arg(run).arg(&shop.roster);
        command.args(["explain", "access", "--config"]).arg(&config).args(what).current_dir("/");
        let ended = Ended::of(&mut command);
        assert_eq!(ended.code, Some(code), "uid {uid}, {what:?}: {ended:?}");
        let text = ended.wrong + &String::from_utf8_lossy(&ended.told);
        assert!(text.contains(told) && !text.contains("may do everything, and"), "uid {uid}, {what:?}: {text}");
    };
    let no_sidecar = tempfile::tempdir().expect("a folder");
    for (uid, calls) in [(WEB, 0), (DEPLOY, 8)] {
        for (what, code) in [(["read", "/config/db"], 8), (["call", "mail.send"], calls)] {
            let runs = "The sidecar at /run/roster/roster.sock runs as uid 0.";
            explains(shop.scene.roster.folder(), uid, what, code, runs);
            for (mode, told, code) in
                [(0o755, "No sidecar runs at", code), (0o700, "cannot be looked at: ask as root", 8)]
            {
                std::fs::set_permissions(no_sidecar.path(), PermissionsExt::from_mode(mode)).expect("a mode");
                explains(no_sidecar.path(), uid, what, code, told);
            }
        }
    }
}
