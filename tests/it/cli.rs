//! The command line and the life of the process: what is printed, exit codes, signals.

use std::fs::File;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Dialect, Ended, Printing, Roster, SOON, Scene, binary, ensure, eventually, exception};
use crate::idl::{NotFound, StatusRequest, TRosterSyncClient, WatchRequest};

const NODES: &str = r#"
"/a" = "one"
"/a/b" = "two"
"/a/c" = { base64 = "/wA=" }
"#;

#[test]
fn get_prints_the_data_of_a_node() {
    let roster = Roster::of_file(NODES);
    assert_eq!(roster.cli(["get", "/a/b"]).text(), "two");
    assert_eq!(roster.cli(["get", "/a/c", "-o", "raw"]).told, b"\xff\0");
    let node = roster.cli(["get", "/a/b", "-o", "json"]).json();
    assert_eq!((&node["path"], &node["data"], &node["freshness"]["ageMs"]), (&json!("/a/b"), &json!("two"), &json!(0)));
    assert_eq!(roster.cli(["get", "/a/c", "-o", "json"]).json()["dataBase64"], "/wA=");
}

#[test]
fn ls_lists_also_more_children_than_a_reply_may_hold() {
    let names: Vec<String> = (0..12_000).map(|number| format!("{number:0>200}")).collect();
    let nodes: String = names.iter().map(|name| format!("\"/many/{name}\" = \"\"\n")).collect();
    let roster = Roster::of_file(&nodes);
    assert_eq!(roster.cli(["ls", "/many"]).text().lines().collect::<Vec<_>>(), names);
    assert_eq!(roster.cli(["ls", "/many", "-o", "json"]).json()["names"].as_array().expect("names").len(), 12_000);
}

#[test]
fn ls_lists_children_or_all_below() {
    let roster = Roster::of_file(NODES);
    assert_eq!(roster.cli(["ls", "/a"]).text(), "b\nc\n");
    assert_eq!(roster.cli(["ls", "/a", "-o", "json"]).json()["names"], json!(["b", "c"]));
    assert_eq!(roster.cli(["ls", "-R", "/"]).text(), "/\n/a\n/a/b\n/a/c\n");
}

#[test]
fn no_name_and_no_value_shows_other_than_it_reads() {
    let hidden = ['\u{202e}', '\u{2066}', '\u{200b}', '\u{fe0f}', '\u{feff}', '\u{e0041}'];
    let hostile: String = hidden.iter().flat_map(|character| [*character, 'x']).collect();
    let roster = Roster::of_file(&format!("\"/a/{hostile}\" = \"{hostile}\""));
    let path = format!("/a/{hostile}");
    let shown = "\\u{202e}x\\u{2066}x\\u{200b}x\\u{fe0f}x\\u{feff}x\\u{e0041}x";
    assert_eq!(roster.cli(["ls", "/a"]).text(), format!("{shown}\n"));
    assert_eq!(roster.cli(["get", &path]).text(), hostile, "a pipe gets the data as they are");
    for arguments in [["ls", "-Rl", "/"], ["ls", "-R", "/"], ["ls", "-Ro=json", "/"], ["get", &path, "-o=json"]] {
        let text = roster.cli(arguments).text();
        assert!(!text.contains(hidden) && text.contains("202e"), "{arguments:?}: {text}");
    }
    assert_eq!(roster.cli(["get", &path, "-o", "json"]).json()["data"], json!(hostile));
    let missing = roster.cli(["get", &format!("{path}/none")]);
    assert!(missing.code == Some(1) && !missing.wrong.contains(hidden), "{missing:?}");
}

#[test]
fn status_tells_how_the_sources_are() {
    let roster = Roster::of_file(NODES);
    let status = roster.cli(["status", "-o", "json"]).json();
    assert_eq!((&status["sources"][0]["state"], &status["sources"][0]["nodes"]), (&json!("live"), &json!(4)));
    assert!(roster.cli(["status"]).text().contains("in sync"));
}

#[test]
fn an_exit_code_says_what_went_wrong() {
    let roster = Roster::of_file(NODES);
    let unreached = Roster::start("[[zookeeper]]\nconnect = \"127.0.0.1:1\"\n");
    let nobody = Roster::prepare("");
    for (code, ended) in [
        (1, roster.cli(["get", "/no"])),
        (2, roster.cli(["get", "relative"])),
        (2, roster.cli(["nonsense"])),
        (3, nobody.cli(["status"])),
        (5, unreached.cli(["get", "/a"])),
    ] {
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.told.is_empty() && !ended.wrong.is_empty(), "{ended:?}");
    }
    roster.process().freeze();
    let ended = ["200ms", "1"].map(|timeout| roster.cli(["status", "--timeout", timeout]));
    roster.process().thaw();
    assert!(ended.iter().all(|ended| ended.code == Some(6)), "{ended:?}");
}

#[test]
fn data_may_be_refused_for_its_age_but_is_shown_and_watched_at_any() {
    let scene = Scene::new();
    scene.zk.create("/a", "one");
    scene.agrees();
    let limited = || scene.roster.cli(["get", "/a", "--max-age", "1ms"]);
    eventually("it is young", SOON, || {
        let ended = limited();
        ensure(ended.code == Some(0) && ended.told == b"one", format!("{ended:?}"))
    });
    scene.link.cut();
    eventually("it is too old", SOON, || ensure(limited().code == Some(4), "it is not"));
    assert_eq!(scene.roster.cli(["get", "/a"]).text(), "one");
    assert_eq!(scene.roster.cli(["ls", "/"]).text(), "a\n");
    let watch = Printing::start(&mut scene.roster.command(["watch", "/a", "-o", "json"]));
    assert_eq!(change(&watch), ("PRESENT".into(), "/a".into(), "one".into()));
}

/// The next line of a watch in JSON: kind, path and data.
fn change(watch: &Printing) -> (String, String, String) {
    let line: Value = serde_json::from_str(&watch.line()).expect("JSON");
    let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
    (text("kind"), text("path"), text("data"))
}

#[test]
fn a_watch_goes_on_over_a_restart_of_the_sidecar() {
    let mut roster = Roster::of_file(NODES);
    let watch = Printing::start(&mut roster.command(["watch", "/a/b", "-o", "json"]));
    let told = |kind: &str, data: &str| (kind.to_owned(), "/a/b".to_owned(), data.to_owned());
    assert_eq!(change(&watch), told("PRESENT", "two"));
    roster.write("nodes.toml", "[nodes]\n\"/a/b\" = \"three\"");
    assert_eq!(change(&watch), told("CHANGED", "three"));
    assert!(roster.stop().success());
    roster.write("nodes.toml", "[nodes]\n\"/a/b\" = \"four\"");
    roster.run();
    assert_eq!(change(&watch), told("CHANGED", "four"));
    assert!(roster.stop().success());
    std::fs::remove_file(roster.shared_file()).expect("its memory is taken away");
    roster.run();
    assert_eq!(change(&watch).0, "RESET");
    assert_eq!(change(&watch), told("PRESENT", "four"));
    roster.write("nodes.toml", "[nodes]\n");
    assert_eq!(change(&watch), told("DELETED", ""));
}

#[test]
fn a_watch_whose_reader_leaves_ends_in_silence() {
    let roster = Roster::of_file(NODES);
    let watch = Printing::start(&mut roster.command(["watch"]));
    assert!(watch.line().contains("PRESENT"));
    let mut edit = 0..;
    let ended = watch.hang_up(|| roster.write("nodes.toml", &format!("[nodes]\n\"/a\" = \"{:?}\"", edit.next())));
    assert_eq!((ended.code, ended.wrong.as_str()), (Some(0), ""));
}

#[test]
fn config_check_tells_every_mistake_with_its_line() {
    let roster = Roster::prepare("[store]\nhistory = 0\n[[zookeeper]]\nconect = \"127.0.0.1:1\"\n");
    let ended = Ended::of(binary().args(["config", "check"]).arg(roster.config()));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let file = roster.config().display().to_string();
    assert!(
        ended.wrong.ends_with(&format!("The configuration: {file}: it is not in order, for 2 reasons\n")),
        "{}",
        ended.wrong
    );
    for (line, what) in [
        (7, "store.history"),
        (9, "zookeeper.0.conect: this version of Roster has no such key; did you mean `connect`?"),
    ] {
        let place = format!("{file}:{line}: ");
        let found = ended.wrong.lines().any(|told| told.starts_with(&place) && told.contains(what));
        assert!(found, "{place}{what} in\n{}", ended.wrong);
    }
    let right = Roster::prepare("[[zookeeper]]\nconnect = \"127.0.0.1:1\"\n");
    assert_eq!(Ended::of(binary().args(["config", "check"]).arg(right.config())).code, Some(0));
    let served = Ended::of(binary().args(["serve", "--config"]).arg(roster.config()));
    assert_eq!((served.code, served.wrong), (Some(2), ended.wrong), "serve says the same");
}

#[test]
fn who_has_only_queues_is_not_told_that_there_are_no_nodes() {
    let roster = Roster::start("[queue]\npath = \"queue\"\n");
    let log = std::fs::read_to_string(roster.folder().join("log")).expect("a log");
    assert!(!log.contains("it mirrors no nodes"), "{log}");
    let checked = Ended::of(binary().args(["config", "check"]).arg(roster.config()));
    assert_eq!((checked.code, &*checked.wrong), (Some(0), ""));
}

#[test]
fn a_configuration_without_a_source_is_told() {
    let roster = Roster::start("");
    let told = "it mirrors no nodes: add [[zookeeper]] or [[file]] for that";
    let log = std::fs::read_to_string(roster.folder().join("log")).expect("a log");
    assert!(log.contains("WARN") && log.contains(told), "{log}");
    let checked = Ended::of(binary().args(["config", "check"]).arg(roster.config()));
    assert_eq!(
        (checked.code, checked.wrong),
        (Some(0), format!("warning: The configuration: {}: {told}\n", roster.config().display()))
    );
}

#[test]
fn a_file_is_read_again_when_it_is_edited_and_stands_while_it_is_wrong() {
    let roster = Roster::of_file(NODES);
    let becomes = |path: &str, data: &str| {
        eventually(path, SOON, || ensure(roster.get(path).is_ok_and(|it| it.node.data == data.as_bytes()), data));
    };
    roster.write("nodes.toml", "[nodes]\n\"/a/b\" = \"edited\"");
    becomes("/a/b", "edited");
    exception::<NotFound>(roster.get("/a/c")).expect("it is gone");
    roster.write("nodes.toml", "[nodes]\n\"/a/b\" = ");
    eventually("it is told", SOON, || ensure(roster.source().detail.contains("nodes.toml"), "it is not"));
    becomes("/a/b", "edited");
    roster.write("nodes.toml", "[nodes]\n\"/a/b\" = \"mended\"");
    roster.process().signal(Signal::SIGHUP);
    becomes("/a/b", "mended");
    roster.becomes("live");
    assert_eq!(roster.source().detail, "");
}

#[test]
fn a_stop_is_quick_and_in_order_even_while_clients_wait() {
    let mut roster = Roster::of_file(NODES);
    let (mut idle, socket) = (roster.client(), roster.socket().to_owned());
    let since = idle.watch(WatchRequest::new(0, None, vec![], 0, 0)).expect("an answer").freshness.revision;
    let watch = std::thread::spawn(move || {
        Dialect::ALL[0].unix(&socket)?.watch(WatchRequest::new(since, None, vec![], 60_000, 0))
    });
    eventually("it waits", SOON, || ensure(roster.status().counters["watchesWaiting"] == 1, "it does not"));
    let start = Instant::now();
    assert_eq!(roster.stop().code(), Some(0));
    // Less than the `stop_timeout`, by which what does not end in order is ended.
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    let answer = watch.join().expect("no panic").expect("an answer, as if the time had run out");
    assert!(answer.changes.is_empty() && !answer.reset);
    idle.status(StatusRequest::default()).expect_err("nobody is there");
    assert!(!roster.socket().exists(), "the socket is taken away");
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let mut roster = Roster::prepare_file("roster.sock", NODES);
    let full = || File::options().write(true).open("/dev/full").expect("a disk that is full");
    let mut serve = roster.serve(binary());
    serve.stdout(full()).stderr(full());
    roster.run_as(&mut serve);
    roster.becomes("live");
    assert_eq!(roster.data("/a"), b"one");
    assert_eq!(roster.stop().code(), Some(0));
}

#[test]
fn a_second_sidecar_on_the_same_socket_is_refused() {
    let roster = Roster::of_file(NODES);
    let second = Ended::of(binary().args(["serve", "--config"]).arg(roster.config()));
    assert_ne!(second.code, Some(0));
    let who = format!("another process ({}) of ", roster.process().id());
    assert!(second.wrong.contains(&who) && second.wrong.contains(" listens there; stop it"), "{second:?}");
    assert_eq!(roster.data("/a"), b"one");
}

#[test]
fn what_cannot_be_seen_in_a_configuration_is_shown_and_a_folder_that_cannot_be_made_is_named() {
    let check = Ended::of(binary().args(["config", "check", "--set", "zookeeper.0.connect=zk1:2181\u{200b}"]));
    assert!(check.code == Some(2) && check.wrong.contains("`zk1:2181\\u{200b}` is not a server"), "{check:?}");
    let settings =
        ["thrift.unix=/proc/nope/x.sock", "thrift.tcp=", "register.listen=", "shared.path=", "shared.state="];
    let flags = settings.iter().flat_map(|setting| ["--set", setting]);
    let serve = Ended::of(binary().args(["serve", "--config", "/dev/null"]).args(flags));
    assert!(serve.wrong.contains("cannot make its folder /proc/nope: ") && serve.code == Some(1), "{serve:?}");
}

#[test]
fn a_file_where_the_socket_should_be_is_kept_and_told() {
    let mut roster = Roster::prepare_file("roster.sock", NODES);
    for (name, told) in [("roster.sock", "is there and is no socket"), ("roster.sock:1", "is there and is no link")] {
        roster.write(name, "precious");
        let (path, wrong) = (roster.folder().join(name), roster.fails());
        assert!(wrong.contains(&format!("{} {told}; move it away", path.display())), "{wrong}");
        assert_eq!(std::fs::read(&path).expect("it is there"), b"precious");
        let checked = Ended::of(binary().args(["config", "check"]).arg(roster.config()));
        assert!(checked.code == Some(2) && checked.wrong.contains("thrift.unix: "), "{checked:?}");
        assert!(checked.wrong.contains(told), "{checked:?}");
        std::fs::remove_file(path).expect("it is there");
    }
    roster.run();
    roster.becomes("live");
}

#[test]
fn a_socket_whose_path_is_too_long_is_told_with_its_bytes() {
    let mut roster = Roster::prepare("");
    let path = roster.folder().join("x".repeat(100));
    roster.configure("roster.sock", &"x".repeat(100));
    let told = format!("thrift.unix: {} bytes, at most 105", path.as_os_str().len());
    let checked = Ended::of(binary().args(["config", "check"]).arg(roster.config()));
    assert!(checked.code == Some(2) && checked.wrong.contains(&told), "{checked:?}");
    assert!(roster.fails().contains(&told));
}

#[test]
fn a_killed_sidecar_leaves_nothing_in_the_way_of_the_next() {
    let mut roster = Roster::of_file(NODES);
    roster.kill();
    assert!(roster.socket().exists(), "it could not take it away");
    roster.run();
    roster.becomes("live");
    assert_eq!(roster.data("/a"), b"one");
}
