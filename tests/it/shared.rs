//! The shared file of the real sidecar: PHP reads it with no call, and the next start answers from it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use rmpv::Value;
use roster::model::NodePath;
use roster::store::shared::Reader;

use crate::harness::master::Scripted;
use crate::harness::{Clock, Roster, SOON, Scene, binary, ensure, eventually};
use crate::idl::Origin;
use crate::readers::is_long;
use crate::register;

/// What PHP prints that has the shared file open as `$db`.
fn php(roster: &Roster, code: &str) -> String {
    let open = format!("$db = dba_popen('{}', 'r', 'lmdb'); ", roster.shared_file().display());
    let ended = Command::new("php").args(["-r", &(open + code)]).output();
    let ended = ended.expect("PHP starts, if `make deps` has been run");
    String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr)
}

/// Waits until PHP reads this from the file.
fn reads(roster: &Roster, key: &str, expected: &str) {
    eventually(&format!("PHP reads {key}"), SOON, || {
        let data = php(roster, &format!("echo json_encode(dba_fetch('{key}', $db));"));
        ensure(data == expected, data)
    });
}

/// Many nodes, all of the same data.
fn nodes(data: &str) -> String {
    (0..50).map(|n| format!("\"/{}/{n}\" = \"{data}\"\n", n % 7)).collect()
}

/// Writes a whole tree at once, and has the sidecar read it.
fn replace(roster: &Roster, data: &str) {
    roster.write("nodes.new", &format!("[nodes]\n{}", nodes(data)));
    std::fs::rename(roster.folder().join("nodes.new"), roster.folder().join("nodes.toml")).expect("replaced");
    roster.process().signal(Signal::SIGHUP);
}

/// How many lines of the log tell this.
fn told(roster: &Roster, this: &str) -> usize {
    roster.log().lines().filter(|line| line.contains(this)).count()
}

/// The data that all of the many nodes have.
fn one_value<'a>(all: impl Iterator<Item = (&'a str, Vec<u8>)>) -> Vec<u8> {
    let many = all.filter(|(path, _)| path.matches('/').count() == 2);
    let mut values: Vec<_> = many.map(|(_, data)| data).collect();
    assert_eq!(values.len(), 50);
    values.dedup();
    assert_eq!(values.len(), 1, "all are of one revision");
    values.remove(0)
}

#[test]
fn php_reads_what_zookeeper_holds_without_a_call() {
    let scene = Scene::new();
    scene.zk.create("/zk_test", "hello");
    scene.zk.create("/a/b", "");
    reads(&scene.roster, "node/zk_test", "\"hello\"");
    reads(&scene.roster, "children/", r#""[\"a\",\"zk_test\"]""#);
    scene.zk.set("/zk_test", "changed");
    scene.zk.delete("/a/b");
    reads(&scene.roster, "node/zk_test", "\"changed\"");
    reads(&scene.roster, "children/a", "\"[]\"");
    let status = "$f = json_decode(dba_fetch('meta/freshness', $db)); $s = $f->sources[0]; \
                  echo \"$f->origin $f->ageMs $s->name $s->kind \", json_encode([$f->complete, $s->whole]);";
    eventually("its status is told", SOON, || {
        let told = php(&scene.roster, status);
        ensure(told == "LIVE 0 zookeeper zookeeper [true,true]", told)
    });
}

#[test]
fn masters_stand_in_the_file_across_a_restart_and_then_those_that_live() {
    let mut scene = register::Scene::new();
    let services = [("mail@1.2.0", Value::Array(vec![]))];
    let master = Scripted::join(scene.port, register::TOKEN, &services);
    scene.has(1);
    let print = "$s = json_decode(dba_fetch('service/mail', $db) ?: '[]'); $f = json_decode(dba_fetch('meta/freshness', $db)); \
                 $r = end($f->sources); \
                 echo count($s), ' ', $s[0]->version ?? '-', ' ', $s[0]->state ?? '-', \" $r->name $r->origin \", json_encode($r->whole);";
    let reads = |roster: &Roster, expected: &str| {
        eventually(&format!("PHP reads {expected}"), SOON, || {
            let told = php(roster, print);
            ensure(told == expected, told)
        });
    };
    reads(&scene.roster, "1 1.2.0 UP register LIVE true");
    scene.roster.kill();
    drop(master);
    // On a busy machine it takes some time until PHP has looked.
    scene.roster.configure("settle = \"1s\"", "settle = \"10s\"");
    scene.roster.run();
    reads(&scene.roster, "1 1.2.0 RETURNING register RESTORED true");
    reads(&scene.roster, "0 - - register LIVE true");
}

#[test]
fn a_heartbeat_says_that_the_writer_lives() {
    let roster = Roster::of_file("\"/a\" = \"one\"");
    let written = || php(&roster, "echo json_decode(dba_fetch('meta/freshness', $db))->writtenAt;");
    reads(&roster, "node/a", "\"one\"");
    let first = written();
    eventually("another heartbeat", SOON, || ensure(written() > first, "not yet"));
}

#[test]
fn a_restart_answers_while_zookeeper_is_away_and_then_syncs_without_a_reset() {
    let mut scene = Scene::own("");
    scene.zk.create("/a", "one");
    scene.zk.create("/doomed", "one");
    scene.agrees();
    let before = scene.roster.get("/a").expect("a node").freshness;
    scene.watchers_are_at(before.revision);
    assert!(scene.roster.stop().success());
    scene.link.cut();
    scene.roster.run();
    let restored = scene.roster.get("/a").expect("what was known");
    assert_eq!((restored.node.data, restored.freshness.origin), (b"one".to_vec(), Origin::RESTORED));
    assert!(restored.freshness.age_ms > 0 && restored.freshness.complete, "{:?}", restored.freshness);
    assert!(restored.freshness.revision > before.revision);
    eventually("the log says whose data stands", SOON, || {
        let log = scene.roster.log();
        ensure(log.contains("cannot reach the ensemble; what an earlier process read stands"), log)
    });
    assert!(!scene.roster.log().contains("lost the ensemble"), "this process never had it");
    scene.zk.set("/a", "two");
    scene.zk.delete("/doomed");
    assert_eq!(scene.roster.data("/a"), b"one");
    scene.link.mend();
    scene.agrees();
    assert_eq!(scene.roster.get("/a").expect("a node").freshness.origin, Origin::LIVE);
    assert_eq!(scene.resets(), 2, "the watchers go on from where they were");
}

#[test]
fn other_patterns_and_another_name_throw_nothing_away_that_is_known() {
    let wide = "name = \"one\"\nexclude = [\"/other\"]";
    let mut scene = Scene::own(wide);
    scene.zk.create_many("/secret-", 20);
    scene.zk.create("/a", "one");
    scene.agrees();
    assert!(scene.roster.stop().success());
    scene.link.cut();
    scene.roster.configure(wide, "name = \"two\"\nexclude = [\"/other\", \"/secret-*\"]");
    scene.roster.run();
    assert!(format!("{:?}", scene.roster.get("/secret-1")).contains("NotFound"), "what is excluded now is gone");
    let restored = scene.roster.get("/a").expect("what was known").freshness;
    assert_eq!((restored.origin, restored.complete), (Origin::RESTORED, true));
    assert!(scene.roster.stop().success());
    scene.roster.configure(", \"/secret-*\"", "");
    scene.roster.run();
    let restored = scene.roster.get("/a").expect("what was known").freshness;
    assert_eq!((restored.origin, restored.complete), (Origin::RESTORED, false), "nothing is known of the others");
    assert_eq!(scene.roster.source().skipped_nodes, 1);
    let absent = format!("{:?}", scene.roster.get("/secret-1"));
    assert!(
        absent.contains("no node /secret-1; but two left out 1 node that may not be read or passes a limit, or has"),
        "{absent}"
    );
    scene.link.mend();
    eventually("they are mirrored again", SOON, || scene.roster.get("/secret-1"));
    assert!(!scene.roster.log().contains("set a shared file aside"), "{}", scene.roster.log());
}

#[test]
fn a_root_that_is_added_while_zookeeper_is_away_takes_no_answer_from_the_others() {
    let (name, narrow) = ("name = \"one\"", "roots = [\"/app\"]");
    let mut scene = Scene::own(name);
    scene.zk.create("/app", "one");
    scene.zk.create("/other", "two");
    scene.agrees();
    assert!(scene.roster.stop().success());
    scene.roster.configure(name, narrow);
    scene.roster.run();
    eventually("less is mirrored", SOON, || ensure(scene.roster.source().state == "live", "not read yet"));
    assert!(scene.roster.stop().success());
    scene.link.cut();
    scene.roster.configure(narrow, "roots = [\"/app\", \"/other\"]");
    scene.roster.run();
    let restored = scene.roster.get("/app").expect("what was known");
    assert_eq!((restored.node.data, restored.freshness.complete), (b"one".to_vec(), true));
    assert!(format!("{:?}", scene.roster.get("/app/none")).contains("NotFound"));
    assert!(format!("{:?}", scene.roster.get("/other")).contains("NotReady"), "nobody knows");
    scene.link.mend();
    eventually("all of it is mirrored", SOON, || scene.roster.get("/other"));
}

#[test]
fn a_zookeeper_that_is_empty_after_a_restart_takes_nothing_away_at_once() {
    let mut scene = Scene::own("hold = \"60s\"");
    scene.zk.create_many("/member-", 20);
    scene.agrees();
    scene.roster.is_in_its_file();
    scene.roster.kill();
    scene.server().restart_empty();
    scene.roster.run();
    eventually("they are held", SOON, || ensure(scene.roster.source().detail.contains("holding"), "they are not"));
    let held = scene.roster.get("/member-7").expect("a node").freshness;
    assert_eq!((held.origin, held.age_ms > 0), (Origin::RESTORED, true));
}

#[test]
fn a_sidecar_killed_at_any_moment_leaves_a_whole_revision_which_the_next_serves() {
    let mut roster = Roster::of_file(&nodes("first"));
    reads(&roster, "node/0/7", "\"first\"");
    let mut last = 0;
    let rounds = if is_long() { 200 } else { 10 };
    for round in 0..rounds {
        for edit in 0..3 {
            replace(&roster, &format!("{round}-{edit}"));
            std::thread::sleep(Duration::from_micros(round * 977 % 9_000_u64));
        }
        roster.kill();
        let left = Reader::open(&roster.shared_file()).and_then(|file| file.contents()).expect("a whole file");
        let left = one_value(left.nodes.iter().map(|(path, node)| (path.as_str(), node.data.to_vec())));
        std::fs::remove_file(roster.folder().join("nodes.toml")).expect("the source is away");
        roster.run();
        let (served, freshness) = roster.tree().expect("what was left");
        assert_eq!(one_value(served.iter().map(|(path, node)| (path.as_str(), node.data.clone()))), left);
        assert_eq!(freshness.origin, Origin::RESTORED);
        assert!(freshness.revision > last, "revisions never go back");
        last = freshness.revision;
    }
    assert_eq!(told(&roster, "set a shared file aside"), 0);
}

#[test]
fn a_file_that_cannot_be_used_is_set_aside_with_one_line_and_made_anew() {
    let mut roster = Roster::of_file("\"/a\" = \"one\"");
    reads(&roster, "node/a", "\"one\"");
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 3] = [
        ("damaged", |file| std::fs::write(file, [0x5a; 50_000]).expect("written")),
        ("damaged", |file| {
            let bytes = std::fs::read(file).expect("a file");
            std::fs::write(file, &bytes[..bytes.len() * 2 / 3]).expect("cut off");
        }),
        ("another cluster", |file| {
            let folder = file.parent().expect("a folder");
            std::fs::rename(folder.join("nodes.toml"), folder.join("others.toml")).expect("moved");
            let config = std::fs::read_to_string(folder.join("roster.toml")).expect("a configuration");
            std::fs::write(folder.join("roster.toml"), config.replace("nodes.toml", "others.toml")).expect("written");
        }),
    ];
    for (nth, (why, harm)) in harms.into_iter().enumerate() {
        assert!(roster.stop().success());
        harm(&roster.shared_file());
        roster.run();
        roster.becomes("live");
        reads(&roster, "node/a", "\"one\"");
        assert_eq!(told(&roster, "set a shared file aside"), nth + 1);
        assert!(roster.log().contains(why));
    }
}

#[test]
fn a_file_that_an_older_version_left_is_set_aside_and_the_start_goes_on() {
    let mut roster = Roster::of_file("\"/a\" = \"one\"");
    assert!(roster.stop().success());
    let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/shared-format-1.mdb.gz");
    let file = Command::new("gzip").args(["--decompress", "--stdout", recorded]).output().expect("gzip starts").stdout;
    std::fs::write(roster.shared_file(), &file).expect("written");
    let package = format!(
        "require 'php/autoload.php'; $roster = Roster\\Client::local('', '', '{}'); \
         try {{ $roster->get('/a'); }} catch (Roster\\Exception\\Unavailable $refused) {{ echo $refused->getMessage(); }}",
        roster.shared_file().display()
    );
    let mut by_php = Command::new("php");
    let by_php = by_php.args(["-r", &package]).current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("PHP starts");
    let by_php = String::from_utf8_lossy(&by_php.stdout);
    assert!(by_php.contains("its format is 1, not 2"), "{by_php}");
    let ended = roster.cli(["get", "/a", "--shared", roster.shared_file().to_str().expect("text")]);
    assert!(ended.wrong.contains("it is of another format: \"1\" instead of \"2\""), "{ended:?}");
    roster.run();
    roster.becomes("live");
    reads(&roster, "meta/format", "\"2\"");
    reads(&roster, "node/a", "\"one\"");
    assert_eq!(told(&roster, "set a shared file aside"), 1);
    let aside = roster.folder().join("shared.mdb.set-aside");
    assert_eq!(std::fs::read(aside).expect("it is kept"), file);
}

#[test]
fn after_a_reboot_the_copy_is_served() {
    let mut roster = Roster::of_file("\"/a\" = \"one\"");
    let told = roster.log().lines().any(|line| line.contains("WARN") && line.contains("no copy of the shared file"));
    assert!(told, "it was asked for, and is not kept");
    assert!(roster.stop().success());
    std::fs::create_dir(roster.folder().join("disk")).expect("a folder");
    roster.run();
    roster.becomes("live");
    assert!(roster.stop().success());
    for name in ["shared.mdb", "shared.mdb-lock", "nodes.toml"] {
        std::fs::remove_file(roster.folder().join(name)).expect("a file");
    }
    roster.run();
    assert_eq!(roster.data("/a"), b"one");
    reads(&roster, "node/a", "\"one\"");
}

#[test]
fn a_full_file_is_told_once_and_the_endpoint_goes_on() {
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    roster.configure("[[file]]", "[shared]\nmax_size = \"256KiB\"\n[[file]]");
    roster.run();
    reads(&roster, "node/a", "\"one\"");
    for kilobytes in [300, 350, 400] {
        let big = "x".repeat(kilobytes * 1_024);
        roster.write("nodes.toml", &format!("[nodes]\n\"/a\" = \"two\"\n\"/big\" = \"{big}\""));
        eventually("the size is told", SOON, || {
            let trouble = roster.status().shared_file_error.unwrap_or_default();
            ensure(trouble.ends_with(&format!("paths and data of nodes take {kilobytes}.0 KiB")), trouble)
        });
    }
    assert_eq!(roster.data("/a"), b"two");
    assert_eq!(told(&roster, "cannot write the shared file"), 1);
    let full = "it needs more than `shared.max_size`, which is 256.0 KiB: raise it";
    assert!(roster.log().contains(full));
    assert!(roster.status().shared_file_error.is_some_and(|why| why.starts_with(full)));
    reads(&roster, "node/a", "\"one\"");
    roster.write("nodes.toml", "[nodes]\n\"/a\" = \"three\"");
    reads(&roster, "node/a", "\"three\"");
    eventually("it is well", SOON, || ensure(roster.status().shared_file_error.is_none(), "not yet"));
    assert_eq!(told(&roster, "the shared file is written again"), 1);
}

#[test]
fn a_file_that_cannot_be_is_told_and_made_when_it_can() {
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    std::fs::create_dir(roster.shared_file()).expect("something else in its place");
    roster.run();
    roster.becomes("live");
    assert_eq!(roster.data("/a"), b"one");
    let trouble = roster.status().shared_file_error.expect("it is told");
    assert!(trouble.contains("Is a directory"), "{trouble}");
    std::fs::remove_dir(roster.shared_file()).expect("it is empty");
    reads(&roster, "node/a", "\"one\"");
    eventually("it is well", SOON, || ensure(roster.status().shared_file_error.is_none(), "not yet"));
}

/// Starts it with a wall clock of its own.
fn run_by(clock: &Clock, roster: &mut Roster) {
    let mut serve = roster.serve(binary());
    clock.rules(&mut serve);
    roster.run_as(&mut serve);
}

#[test]
fn a_clock_that_jumps_changes_no_age_and_turns_no_revision_back() {
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"0\"");
    let clock = Clock::new(roster.folder());
    run_by(&clock, &mut roster);
    roster.becomes("live");
    let file = roster.shared_file();
    let report = || Reader::open(&file).and_then(|reader| reader.status()).map_err(|error| error.to_string());
    let mut last = 0;
    for (number, hours) in [30, -30, 0, -50].into_iter().enumerate() {
        clock.jump(hours);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_millis() as i64;
        let jumped = now + hours * 3_600_000;
        eventually("it jumps", SOON, || ensure((report()?.written_at as i64 - jumped).abs() < 600_000, "it has not"));
        if hours < -40 {
            roster.stop();
            run_by(&clock, &mut roster);
        }
        roster.write("nodes.toml", &format!("[nodes]\n\"/a\" = \"{number}-th\""));
        let reply = eventually("the change is told", SOON, || {
            let reply = roster.get("/a").map_err(|error| error.to_string())?;
            ensure(reply.node.data == format!("{number}-th").into_bytes(), "not yet").map(|()| reply)
        });
        assert!(reply.freshness.age_ms < 60_000, "{:?}", reply.freshness);
        assert!(reply.freshness.revision > last, "{:?} after {last}", reply.freshness);
        last = reply.freshness.revision;
    }
}

#[test]
fn killed_readers_leave_no_place_taken() {
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"");
    roster.configure("[[file]]", "[shared]\nmax_readers = 8\n[[file]]");
    roster.run();
    reads(&roster, "node/a", "\"one\"");
    for _ in 0..12 {
        php(&roster, "dba_fetch('node/a', $db); posix_kill(getmypid(), SIGKILL);");
    }
    reads(&roster, "node/a", "\"one\"");
}

#[test]
fn a_reader_in_a_loop_sees_whole_revisions_that_never_go_back() {
    let roster = Roster::of_file(&nodes("first"));
    reads(&roster, "node/0/7", "\"first\"");
    let reader = Reader::open(&roster.shared_file()).expect("a reader");
    let (start, mut last, mut edit) = (Instant::now(), 0, 0);
    let path = NodePath::parse("/3/3").expect("a path");
    while start.elapsed() < Duration::from_secs(2) {
        if edit < start.elapsed().as_millis() / 5 {
            edit += 1;
            replace(&roster, &format!("{edit}"));
        }
        let contents = reader.contents().expect("a whole revision");
        assert!(contents.status.fresh.revision >= last);
        last = contents.status.fresh.revision;
        one_value(contents.nodes.iter().map(|(path, node)| (path.as_str(), node.data.to_vec())));
        assert!(reader.node(&path).expect("read").0.is_some());
    }
}
