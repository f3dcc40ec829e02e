//! The shared file by the command line: read without a sidecar, and checked.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use lmdb::{Environment, EnvironmentFlags, Transaction, WriteFlags};
use rmpv::Value;
use serde_json::json;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::harness::master::{Scripted, map};
use crate::harness::{Ended, Roster, SOON, binary, ensure, eventually};
use crate::register::{Scene, TOKEN};

const NODES: &str = r#"
"/a" = "one"
"/a/b" = "two"
"/a/c" = { base64 = "/wA=" }
"#;

/// A command that has no sidecar to ask.
fn alone(arguments: &[&str], file: &Path) -> Ended {
    let mut command = binary();
    command.args(arguments).arg("--shared").arg(file).env("ROSTER_ADDRESS", "127.0.0.1:1");
    Ended::of(&mut command)
}

/// A sidecar with two masters, one of which is to be kept.
fn with_masters() -> (Scene, [Scripted; 2]) {
    let scene = Scene::new();
    let in_zone = |zone: &str| map([("zone", zone.into())]);
    let services = [("mail@1.2.0", in_zone("a")), ("log", Value::Array(vec![]))];
    let masters = [
        Scripted::join(scene.port, TOKEN, &services),
        Scripted::join(scene.port, TOKEN, &[("mail@2.0.0", in_zone("b"))]),
    ];
    scene.has(2);
    (scene, masters)
}

/// Another value under a key of a file, or a new one, with a checksum to match.
fn forge(file: &Path, key: &str, value: &str) {
    let env = Environment::new().set_flags(EnvironmentFlags::NO_SUB_DIR).open(file).expect("a file");
    let db = env.open_db(None).expect("a database");
    let part = |value: &[u8]| xxh3_64_with_seed(value, xxh3_64(key.as_bytes()));
    let mut transaction = env.begin_rw_txn().expect("a transaction");
    let sum = std::str::from_utf8(transaction.get(db, b"meta/checksum").expect("a sum")).expect("text");
    let sum = u64::from_str_radix(sum, 16).expect("a number");
    let before = transaction.get(db, &key).map_or(0, part);
    let sum = sum.wrapping_sub(before).wrapping_add(part(value.as_bytes()));
    transaction.put(db, &key, &value, WriteFlags::empty()).expect("put");
    transaction.put(db, b"meta/checksum", &format!("{sum:016x}"), WriteFlags::empty()).expect("put");
    transaction.commit().expect("committed");
}

#[test]
fn nodes_are_read_without_a_sidecar() {
    let mut roster = Roster::of_file(NODES);
    assert!(roster.stop().success());
    let file = roster.shared_file();
    assert_eq!(alone(&["get", "/a/b"], &file).text(), "two");
    assert_eq!(alone(&["get", "/a/c", "-o", "raw"], &file).told, b"\xff\0");
    assert_eq!(alone(&["ls", "/a"], &file).text(), "b\nc\n");
    assert_eq!(alone(&["ls", "-R", "/"], &file).text(), "/\n/a\n/a/b\n/a/c\n");
    let node = alone(&["get", "/a/b", "-o", "json"], &file).json();
    assert_eq!((&node["data"], &node["freshness"]["complete"]), (&json!("two"), &json!(true)));
    for (code, ended) in [
        (0, alone(&["get", "/a", "--max-age", "1h"], &file)),
        (1, alone(&["get", "/no"], &file)),
        (1, alone(&["ls", "-R", "/no"], &file)),
        (2, alone(&["services", "--stats"], &file)),
        (3, alone(&["get", "/a"], &roster.folder().join("no.mdb"))),
        (3, alone(&["get", "/a"], &roster.config())),
    ] {
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert_eq!(ended.wrong.is_empty(), code == 0, "{ended:?}");
    }
    eventually("the writer is known to be away", SOON, || {
        let ended = alone(&["get", "/a", "--max-age", "1s"], &file);
        ensure(ended.code == Some(4), format!("{ended:?}"))
    });
    let missing = alone(&["get", "/a"], &roster.folder().join("no.mdb")).wrong;
    assert!(missing.contains("no.mdb") && missing.contains("[shared] path"), "{missing}");
}

#[test]
fn masters_are_told_as_the_sidecar_tells_them() {
    let (mut scene, _masters) = with_masters();
    scene.roster.is_in_its_file();
    let commands: [&[&str]; 5] =
        [&["services"], &["services", "mail"], &["services", "log"], &["masters"], &["masters", "--service", "log"]];
    let asked = commands.map(|command| scene.roster.cli(command).text());
    let documents = commands.map(|command| scene.roster.cli(command.iter().chain(&["-o", "json"])).json());
    scene.roster.kill();
    let file = scene.roster.shared_file();
    for ((command, asked), document) in commands.iter().zip(asked).zip(documents) {
        assert_eq!(alone(command, &file).text(), asked, "{command:?}");
        let read = alone(&[command, &["-o", "json"][..]].concat(), &file).json();
        for part in ["services", "instances", "masters"] {
            assert_eq!(read[part], document[part], "{command:?}");
        }
    }
    assert_eq!(alone(&["services", "none"], &file).code, Some(1));
}

#[test]
fn what_was_never_read_as_a_whole_is_not_taken_for_an_absence() {
    let unreached = Roster::start("[[zookeeper]]\nconnect = \"127.0.0.1:1\"\n");
    eventually("there is a file", SOON, || {
        let ended = alone(&["get", "/a"], &unreached.shared_file());
        ensure(ended.code == Some(5), format!("{ended:?}"))?;
        ensure(ended.wrong.contains("the source zookeeper has never been in sync, says "), format!("{ended:?}"))
    });
}

#[test]
fn a_check_says_whether_a_file_is_whole_and_holds_what_the_sidecar_does() {
    let (scene, _masters) = with_masters();
    scene.roster.write("nodes.toml", "[nodes]\n\"/a\" = \"one\"");
    eventually("there is a node", SOON, || scene.roster.get("/a"));
    let told = scene.roster.is_in_its_file();
    assert_eq!((&told["nodes"], &told["masters"], &told["services"]), (&json!(2), &json!(2), &json!(2)));
    assert!(told["bytes"].as_u64().expect("a size") > 0 && told["maxReaders"] == 1024, "{told}");
    assert!(scene.roster.cli(["shared", "check"]).text().contains("masters   2"));

    let copy = scene.roster.folder().join("copy.mdb");
    let forged = |key: &str, value: &str| {
        copy_to(&scene.roster, &copy);
        forge(&copy, key, value);
        scene.roster.cli(["shared".as_ref(), "check".as_ref(), copy.as_os_str()])
    };
    for (key, value, why) in [
        ("node/a", "other", "node /a is another in the file than in the sidecar"),
        ("children/", "[\"x\"]", "the names of the children of / are not those of the nodes"),
        ("service/log", "[]", "service \"log\" and master"),
        ("master/gone", r#"{"id":"gone"}"#, "master \"gone\" is in the file, and not in the sidecar"),
    ] {
        let ended = forged(key, value);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.wrong.contains(why), "{ended:?}");
    }
    std::fs::write(&copy, "junk").expect("written");
    let ended = scene.roster.cli(["shared".as_ref(), "check".as_ref(), copy.as_os_str()]);
    assert!(ended.code == Some(1) && ended.wrong.contains("copy.mdb"), "{ended:?}");
}

#[test]
fn a_check_tells_of_the_very_state_that_it_compared() {
    let roster = Roster::of_file("\"/a\" = \"one\"");
    let (copy, newer) = (roster.folder().join("copy.mdb"), roster.folder().join("newer.mdb"));
    copy_to(&roster, &copy);
    roster.write("nodes.toml", "[nodes]\n\"/a\" = \"one\"\n\"/b\" = \"two\"");
    eventually("there is a node", SOON, || roster.get("/b"));
    copy_to(&roster, &newer);
    let arguments = ["shared", "check", "-o", "json", "--timeout", "20s"].map(AsRef::as_ref);
    let mut check = roster.command(arguments.into_iter().chain([copy.as_os_str()]));
    let check = check.stdout(Stdio::piped()).spawn().expect("the binary starts");
    eventually("it has read the copy and asks the sidecar", SOON, || {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", check.id())).map_err(|error| error.to_string())?;
        let mut targets = descriptors.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        ensure(targets.any(|target| target.to_string_lossy().starts_with("socket:")), "no socket")
    });
    std::fs::rename(newer, copy).expect("renamed");
    let told: serde_json::Value =
        serde_json::from_slice(&check.wait_with_output().expect("it ends").stdout).expect("JSON");
    assert_eq!(told["nodes"], 3, "{told}");
    assert!(told["sidecar"].as_str().is_some_and(|told| told.starts_with("holds the same")), "{told}");
}

#[test]
fn a_table_full_of_readers_is_no_fault_of_the_file() {
    let roster = Roster::of_file(NODES);
    let flags = EnvironmentFlags::NO_SUB_DIR | EnvironmentFlags::NO_TLS | EnvironmentFlags::READ_ONLY;
    let open = || Environment::new().set_flags(flags).open(&roster.shared_file());
    let env = eventually("the file is made", SOON, open);
    let _readers: Vec<_> = std::iter::from_fn(|| env.begin_ro_txn().ok()).take(10_000).collect();
    assert!(matches!(env.begin_ro_txn(), Err(lmdb::Error::ReadersFull)));
    roster.is_in_its_file();
}

#[test]
fn what_a_sidecar_that_is_gone_has_left_is_checked_without_being_named() {
    let mut roster = Roster::prepare_file("roster/roster.sock", NODES);
    let check = |roster: &Roster| {
        let mut check = binary();
        Ended::of(check.args(["shared", "check"]).env("XDG_RUNTIME_DIR", roster.folder()))
    };
    roster.run();
    eventually("the file is written", SOON, || {
        let ended = check(&roster);
        let told = String::from_utf8_lossy(&ended.told).into_owned();
        ensure(ended.wrong.is_empty() && told.contains("holds the same"), format!("{ended:?}"))
    });
    roster.stop();
    let left = check(&roster);
    let why = "not compared: no Unix socket of a sidecar lies beside it";
    assert_eq!(left.wrong, format!("roster: {why}\n"));
    assert!(left.text().ends_with(&format!("sidecar   {why}\n")));
    // Also where the sidecar is named: the file is what one wants to know of then.
    let named = roster.cli(["shared", "check"]);
    assert_eq!(named.code, Some(3), "{named:?}");
    let told = String::from_utf8_lossy(&named.told).into_owned();
    assert!(told.contains("\nnodes     ") && told.contains("sidecar   not compared: "), "{named:?}");
}

/// A copy of the file between two of its heartbeats.
fn copy_to(roster: &Roster, copy: &PathBuf) {
    eventually("a whole copy", SOON, || {
        std::fs::copy(roster.shared_file(), copy).map_err(|error| error.to_string())?;
        let ended = roster.cli(["shared".as_ref(), "check".as_ref(), copy.as_os_str()]);
        ensure(ended.code == Some(0), format!("{ended:?}"))
    });
}
