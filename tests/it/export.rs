//! `roster export`: a real PHP includes what was written.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

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
    let address = scene.has(1)[0].address.clone();
    let offer = json!({"name": "mail", "version": "1.2.0", "metadata": metadata});
    let services = json!({"mail": [{"master": id, "address": address, "offer": offer}]});
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
