//! `roster export`: a real PHP includes what was written.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::harness::master::{Scripted, map};
use crate::harness::{Printing, Roster, SOON, ensure, eventually};
use crate::register::{Scene, TOKEN};

/// What the file returns, as PHP writes it in JSON.
fn included(file: &Path) -> Result<Value, String> {
    let flags = "JSON_INVALID_UTF8_SUBSTITUTE | JSON_THROW_ON_ERROR";
    let code = format!("echo json_encode(require '{}', {flags});", file.display());
    let output = Command::new("php").args(["-r", &code]).output().expect("PHP starts, if `make deps` has been run");
    serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {output:?}"))
}

fn becomes(file: &Path, expected: &Value) {
    eventually("PHP reads it", SOON, || {
        let told = included(file)?;
        ensure(told == *expected, format!("{told}"))
    });
}

#[test]
fn a_subtree_is_exported_whatever_its_names_and_data_are() {
    let hostile = r#"'); system('id'); \\' <?php exit(1); ?> $x"#;
    let roster = Roster::of_file(&format!("\"/a/{hostile}\" = \"{hostile}\"\n\"/a/b\" = {{ base64 = \"AP8nXA==\" }}"));
    let file = roster.folder().join("export.php");
    let export = |more: &[&str]| {
        let arguments = ["export", "--php", file.to_str().expect("text")];
        roster.cli(arguments.iter().chain(more))
    };
    assert_eq!(export(&["/a"]).text(), "");
    let hostile = hostile.replace("\\\\", "\\");
    let nodes = included(&file).expect("an array")["nodes"].clone();
    assert_eq!(nodes[format!("/a/{hostile}")], hostile);
    assert_eq!(nodes["/a/b"], "\0\u{fffd}'\\");
    assert_eq!(nodes.as_object().expect("an object").len(), 3);

    let before = (fs::read(&file).expect("a file"), file.metadata().expect("a file").ino());
    assert_eq!(export(&["/a/b", "/a"]).code, Some(0), "the order of the paths is not of the content");
    assert_eq!(file.metadata().expect("a file").ino(), before.1, "it is left alone");
    for (code, ended) in [(1, export(&["/no"])), (2, export(&[])), (3, export(&["/a", "--shared", "/no"]))] {
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert_eq!(fs::read(&file).expect("a file"), before.0);
    }
    assert_eq!(export(&["/a", "--shared", roster.shared_file().to_str().expect("text")]).text(), "");
    assert_eq!(file.metadata().expect("a file").ino(), before.1, "the shared file tells the same");
}

#[test]
fn a_watched_export_follows_changes_also_across_a_restart() {
    let mut scene = Scene::new();
    let metadata = map([("zone", "a'".into()), ("weight", 3.into())]);
    let master = Scripted::join(scene.port, TOKEN, &[("mail@1.2.0", metadata)]);
    let id = scene.has(1)[0].id.clone();
    let file = scene.roster.folder().join("export.php");
    let arguments = ["export", "--php", file.to_str().expect("text"), "/a", "--services", "--watch"];
    let _export = Printing::start(&mut scene.roster.command(arguments));
    let metadata = json!({"zone": "a'", "weight": 3});
    let services = json!({"mail": [{
        "serviceName": "mail", "version": "1.2.0", "zone": "a'", "weight": 3, "metadata": metadata, "state": "UP",
        "masterId": id,
    }]});
    becomes(&file, &json!({"nodes": [], "services": services}));
    scene.roster.write("nodes.toml", "[nodes]\n\"/a\" = \"one\"");
    becomes(&file, &json!({"nodes": {"/a": "one"}, "services": services}));
    scene.roster.kill();
    drop(master);
    scene.roster.write("nodes.toml", "[nodes]\n\"/a\" = \"two\"");
    assert_eq!(included(&file).expect("an array")["nodes"]["/a"], "one", "it stays while the sidecar is away");
    scene.roster.run();
    becomes(&file, &json!({"nodes": {"/a": "two"}, "services": []}));
    let inode = file.metadata().expect("a file").ino();
    scene.roster.write("nodes.toml", "[nodes]\n\"/a\" = \"two\"\n\"/other\" = \"x\"");
    eventually("the sidecar knows it", SOON, || scene.roster.get("/other"));
    assert_eq!(file.metadata().expect("a file").ino(), inode, "what is not exported changes nothing");
}

#[test]
fn a_watched_export_follows_what_nodes_register() {
    let mut roster = Roster::prepare_file("roster.sock", "\"/s/web/i\" = \"10.0.0.5:1\"");
    roster.configure("[[file]]", "[[services]]\nroot = \"/s\"\nformat = \"raw\"\n\n[[file]]");
    roster.run();
    roster.becomes("live");
    let file = roster.folder().join("export.php");
    let arguments = ["export", "--php", file.to_str().expect("text"), "--services", "--watch"];
    let _export = Printing::start(&mut roster.command(arguments));
    let names = |expected: &[&str]| {
        eventually("PHP reads it", SOON, || {
            let told = included(&file)?["services"].clone();
            let names: Vec<_> = told.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            ensure(names == expected, format!("{told}"))
        });
    };
    names(&["web"]);
    roster.write("nodes.toml", "[nodes]\n\"/s/mail/i\" = \"10.0.0.5:1\"");
    names(&["mail"]);
}

#[test]
fn an_export_of_services_waits_for_all_sources_before_it_replaces_its_file() {
    let mut roster = Roster::prepare_file("roster.sock", "\"/s/web/i\" = \"10.0.0.5:1\"");
    let unreachable = "[[upstream]]\nconnect = \"127.0.0.1:1\"\ntoken = \"t\"\n\n";
    roster.configure("[[file]]", "[[services]]\nroot = \"/s\"\nformat = \"raw\"\n\n[[file]]");
    roster.run();
    roster.becomes("live");
    let file = roster.folder().join("export.php");
    let export = |roster: &Roster| {
        let arguments = ["export", "--php", file.to_str().expect("text"), "--services"];
        roster.command(arguments).output().expect("it runs")
    };
    assert!(export(&roster).status.success());
    roster.kill();
    roster.configure("[[services]]", &format!("{unreachable}[[services]]"));
    roster.write("nodes.toml", "[nodes]\n\"/s/mail/i\" = \"10.0.0.5:1\"");
    roster.run();
    eventually("the sidecar knows it", SOON, || roster.get("/s/mail/i"));
    let output = export(&roster);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("nothing is known of the source"), "{told}");
    assert!(included(&file).expect("an array")["services"].get("web").is_some(), "the file stays as it is");
}

/// A PHP with OPcache that includes a file whenever it is told to.
struct Cached {
    php: Child,
    file: PathBuf,
}

impl Cached {
    fn new(file: &Path) -> Self {
        let code = "while (fgets(STDIN) !== false) { echo json_encode([(require $argv[1])['nodes'], \
                    opcache_is_script_cached($argv[1])]), \"\\n\"; }";
        let mut php = Command::new("php");
        for setting in ["enable_cli=1", "file_update_protection=0", "validate_timestamps=1", "revalidate_freq=0"] {
            php.args(["-d", &format!("opcache.{setting}")]);
        }
        php.args(["-r", code]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self { php: php.spawn().expect("PHP starts, if `make deps` has been run"), file: file.to_owned() }
    }

    /// What it includes, which it takes from OPcache if it can.
    fn included(&mut self) -> Value {
        writeln!(self.php.stdin.as_ref().expect("it listens")).expect("it is there");
        let mut line = String::new();
        BufReader::new(self.php.stdout.as_mut().expect("it answers")).read_line(&mut line).expect("it is there");
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(told[1], true, "OPcache has {}", self.file.display());
        told[0].clone()
    }
}

impl Drop for Cached {
    fn drop(&mut self) {
        let _ = self.php.kill();
        let _ = self.php.wait();
    }
}

#[test]
fn opcache_sees_every_export_also_two_in_a_second_and_one_after_a_time_to_come() {
    let roster = Roster::of_file("\"/a\" = \"0\"");
    let file = roster.folder().join("export.php");
    let arguments = ["export", "--php", file.to_str().expect("text"), "/a"];
    let export = |content: &str| {
        roster.write("nodes.toml", &format!("[nodes]\n\"/a\" = \"{content}\""));
        eventually("the sidecar knows it", SOON, || {
            let data = roster.data("/a");
            ensure(data == content.as_bytes(), format!("{data:?}"))
        });
        assert_eq!(roster.cli(arguments).text(), "");
    };
    export("0");
    let mut php = Cached::new(&file);
    for number in 1..6 {
        let content = number.to_string();
        export(&content);
        assert_eq!(php.included(), json!({"/a": content}));
    }
    let future = SystemTime::now() + Duration::from_secs(1_000_000);
    fs::File::options().write(true).open(&file).and_then(|file| file.set_modified(future)).expect("another time");
    assert_eq!(php.included(), json!({"/a": "5"}));
    export("6");
    assert_eq!(php.included(), json!({"/a": "6"}));
}

#[test]
fn what_a_large_export_takes_of_php_is_said_with_its_parts() {
    let data = "x".repeat(500_000);
    let nodes: String = (0..40).map(|number| format!("\"/a/{}/{number}\" = \"{data}\"\n", number % 2)).collect();
    let roster = Roster::of_file(&nodes);
    let file = roster.folder().join("export.php");
    let export = |path: &str| roster.cli(["export", "--php", file.to_str().expect("text"), path]);
    let large = export("/a");
    assert_eq!(large.code, Some(0), "{large:?}");
    assert!(large.wrong.contains("takes PHP about 38.") && large.wrong.contains("/a/0 about 19."), "{}", large.wrong);
    let code = "$r = require $argv[1]; echo memory_get_peak_usage();";
    let php = Command::new("php").args(["-d", "memory_limit=1G", "-r", code]).arg(&file).output().expect("PHP starts");
    let peak: usize = String::from_utf8_lossy(&php.stdout).parse().expect("bytes");
    assert!((36 << 20..46 << 20).contains(&peak), "{peak}");
    assert_eq!(export("/a/0").wrong, "");
}
