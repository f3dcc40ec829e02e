//! Operators learn what became of instances, why they are served or not, and what is another in a shared file.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use crate::harness::{Ended, Printing, SOON, Scene, binary, ensure, eventually, fresh_chroot};

const SETTINGS: &str =
    "\n[[services]]\nroot = \"/aurora\"\nformat = \"serverset\"\n[[services]]\nroot = \"/dubbo\"\nformat = \"dubbo\"\n";

fn member(port: usize, status: &str) -> String {
    format!(r#"{{"serviceEndpoint":{{"host":"10.0.0.5","port":{port}}},"status":"{status}"}}"#)
}

/// A sidecar that has read what there is, which is not told one by one.
fn scene() -> Scene {
    let zk = fresh_chroot();
    let mut scene = Scene::with(&zk, SETTINGS);
    fs::create_dir(scene.roster.folder().join("disk")).expect("a folder");
    scene.roster.kill();
    scene.roster.run();
    eventually("its source was read", SOON, || {
        let told = scene.roster.cli(["history"]).text();
        ensure(told.contains("READ"), told)
    });
    scene
}

/// The entries of a service: what happened to whom, and why.
fn told(scene: &Scene, service: &str) -> Vec<String> {
    let ended = scene.roster.cli(["history", service, "-o", "json"]);
    if ended.code == Some(1) {
        assert!(ended.wrong.contains("nobody has offered"), "{ended:?}");
        return Vec::new();
    }
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let entries = ended.json()["entries"].as_array().cloned().unwrap_or_default();
    let words = |it: &Value| format!("{} {}: {}", text(it, "event"), text(it, "instance"), text(it, "why"));
    entries.iter().map(words).collect()
}

fn tells(scene: &Scene, service: &str, what: &str) {
    eventually(&format!("it tells: {what}"), SOON, || {
        let told = told(scene, service);
        ensure(told.iter().any(|entry| entry.contains(what)), format!("{told:#?}"))
    });
}

#[test]
fn who_vanished_and_why_is_known_also_after_the_sidecar_was_killed() {
    let mut scene = scene();
    scene.zk.create("/aurora/web/member_0000000001", member(81, "ALIVE"));
    let owner = scene.zk.ephemeral("/aurora/web/member_0000000002", &member(82, "ALIVE"));
    tells(&scene, "web", "APPEARED 10.0.0.5:81: its node was created, which is of no session");
    tells(&scene, "web", "APPEARED 10.0.0.5:82: its node was created by session 0x");
    scene.zk.set("/aurora/web/member_0000000001", member(81, "STOPPING"));
    tells(&scene, "web", "CHANGED 10.0.0.5:81: UP → DOWN");
    owner.dies();
    tells(&scene, "web", "VANISHED 10.0.0.5:82: its node went, the only one of session 0x");
    scene.zk.set("/aurora/web/member_0000000001", "{");
    tells(&scene, "web", "VANISHED 10.0.0.5:81: its node cannot be read any more: its data are no JSON object");
    scene.zk.create("/aurora/web/member_0000000003", "\u{202e}");
    tells(&scene, "web", "UNDECODABLE : its data are no JSON object");
    let lines = scene.roster.cli(["history", "web", "--since", "1h"]).text();
    assert!(lines.lines().all(|line| line.contains(" web ")) && lines.lines().count() >= 6, "{lines}");
    assert!(lines.contains("web /aurora/web/member_0000000003: its data"), "{lines}");
    let later = scene.roster.cli(["history", "--since", "2099-01-01T00:00:00Z"]);
    assert_eq!((later.code, later.text()), (Some(0), String::new()));

    let file = scene.roster.state().join("history.jsonl");
    eventually("it is in the file", SOON, || {
        let text = fs::read_to_string(&file).map_err(|error| error.to_string())?;
        ensure(text.contains("UNDECODABLE"), text)
    });
    assert_eq!(fs::metadata(&file).expect("a file").mode() & 0o777, 0o600);
    let before = told(&scene, "web");
    scene.roster.is_in_its_file();
    let following = Printing::start(&mut scene.roster.command(["history", "web", "-f"]));
    assert!(following.line().contains("10.0.0.5:81"));
    scene.roster.kill();
    // As of a process that was killed within a line; and meanwhile one comes.
    let torn = fs::read(&file).expect("a file");
    fs::write(&file, &torn[..torn.len() - 7]).expect("written");
    scene.zk.create("/aurora/web/member_0000000004", member(84, "ALIVE"));
    scene.roster.run();
    tells(
        &scene,
        "web",
        "APPEARED 10.0.0.5:84: its node was created, which is of no session; found when zookeeper was read anew",
    );
    while !following.line().contains("10.0.0.5:84") {}
    let after = told(&scene, "web");
    assert_eq!(after[..before.len() - 1], before[..before.len() - 1]);
    let all = scene.roster.cli(["history"]).text();
    assert!(all.contains("cut off") && all.contains("as by a crash") && all.contains("STARTED"), "{all}");
    assert!(!scene.roster.log().contains("panicked"));
}

#[test]
fn an_operator_learns_why_an_instance_is_served_or_not() {
    let scene = scene();
    let provider = "/dubbo/com.acme.Foo/providers/dubbo%3A%2F%2F10.0.0.5%3A20880%2Fcom.acme.Foo%3Fversion%3D1.2";
    let rule = "/dubbo/com.acme.Foo/configurators/override%3A%2F%2F0.0.0.0%2FF%3Fdisabled%3Dtrue";
    scene.zk.create(provider, "");
    scene.zk.create("/dubbo/com.acme.Foo/configurators/override%3A%2F%2F10.9.9.9%2FF%3Fdisabled%3Dtrue", "");
    scene.zk.create("/dubbo/com.acme.Foo/providers/nothing", "");
    scene.zk.create("/aurora/web/member_0000000001", member(81, "ALIVE"));
    let explained = |arguments: &[&str]| scene.roster.cli(["explain"].iter().chain(arguments));
    eventually("one is served, and one cannot be read", SOON, || {
        let told = explained(&["com.acme.Foo", "-o", "json"]);
        let told = if told.code == Some(0) { told.json() } else { Value::Null };
        ensure(told["instances"][0]["served"] == true && !told["undecodable"][0].is_null(), told)
    });
    let told = explained(&["com.acme.Foo"]).text();
    let lines: Vec<_> = told.lines().map(str::trim).collect();
    assert_eq!(lines[..2], ["10.0.0.5:20880 1.2.0: served", "it can be called, and has the weight 100"], "{told}");
    assert!(lines[2].starts_with(&format!("{provider} (zookeeper, dubbo), of no session, since 20")), "{told}");
    assert!(lines[3].ends_with(": cannot be read: it is no URL"), "{told}");

    scene.zk.create(rule, "");
    eventually("a rule takes it out", SOON, || {
        let told = explained(&["com.acme.Foo", "10.0.0.5:20880"]).text();
        let says = |what: &str| told.contains(what);
        let all = says("10.0.0.5:20880 1.2.0: not served") && says("its registration says that it takes no calls");
        ensure(all && says(&format!("changed by {rule}")) && !says("10.9.9.9"), told)
    });
    tells(&scene, "web", "APPEARED 10.0.0.5:81");
    scene.zk.delete("/aurora/web/member_0000000001");
    tells(&scene, "web", "VANISHED");
    let gone = explained(&["web", "10.0.0.5:81"]);
    assert_eq!(gone.code, Some(1));
    assert!(gone.wrong.contains("has no instance 10.0.0.5:81; the last that is known of it: 20"), "{}", gone.wrong);
    assert!(gone.wrong.contains("VANISHED"), "{}", gone.wrong);
    assert_eq!(explained(&["nothing"]).code, Some(1));
    let of_host = explained(&["web", "10.0.0.5"]);
    assert!(
        of_host.code == Some(1) && of_host.wrong.contains("of this host there are, or were: 10.0.0.5:81"),
        "{of_host:?}"
    );
    let of = |instance: &str| scene.roster.cli(["history", "web", "--instance", instance]);
    let never = of("10.0.0.5");
    let told = "the service `web` has no instance 10.0.0.5; of this host there are, or were: 10.0.0.5:81";
    assert!(never.code == Some(1) && never.told.is_empty() && never.wrong.contains(told), "{never:?}");
    assert!(of("10.0.0.5:81").text().contains("VANISHED"), "what is gone has its history");
    let lately = scene.roster.cli(["history", "web", "--instance", "10.0.0.5:81", "--since", "0s"]);
    assert_eq!((lately.code, lately.wrong.as_str()), (Some(0), ""), "it was there");
    let past = explained(&["web"]).text();
    assert!(past.starts_with("the service web has no instances any more\n") && past.contains("VANISHED"), "{past}");
    let other = explained(&["com.acme.Foo", "10.0.0.6:1"]);
    assert!(other.told.is_empty() && other.wrong.contains("1 node cannot be read"), "{other:?}");
    let unknown = scene.roster.cli(["history", "com.acme.Fo"]);
    assert!(unknown.code == Some(1) && unknown.wrong.contains("nobody has offered `com.acme.Fo`"), "{unknown:?}");
    // What the command did before it does still; and a service may be called as that.
    assert_eq!(explained(&["--", "access"]).code, Some(1));
    let access = Ended::of(binary().args(["explain", "access", "--config"]).arg(scene.roster.config()));
    assert_eq!(access.code, Some(0), "{access:?}");
}

#[test]
fn a_shared_file_is_compared_with_another_and_with_the_sidecar() {
    let scene = scene();
    scene.zk.create("/aurora/web/member_0000000001", member(81, "ALIVE"));
    scene.zk.create("/aurora/web/member_0000000002", member(82, "ALIVE"));
    tells(&scene, "web", "10.0.0.5:81");
    tells(&scene, "web", "10.0.0.5:82");
    scene.roster.is_in_its_file();
    let old = scene.roster.folder().join("old.mdb");
    fs::copy(scene.roster.shared_file(), &old).expect("a copy");
    let old = old.to_str().expect("UTF-8");
    let diff = |more: &[&str]| {
        let ended = scene.roster.cli(["diff", old].iter().chain(more));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended
    };
    assert_eq!(diff(&[]).text(), "");
    scene.zk.set("/aurora/web/member_0000000001", member(81, "STOPPING"));
    scene.zk.delete("/aurora/web/member_0000000002");
    scene.zk.create("/aurora/web/member_0000000003", member(83, "ALIVE"));
    tells(&scene, "web", "10.0.0.5:83");
    let expected = "~ web 0.0.0 10.0.0.5:81: state UP → DOWN\n- web 0.0.0 10.0.0.5:82\n+ web 0.0.0 10.0.0.5:83\n";
    eventually("all are another", SOON, || {
        let found = diff(&[]).text();
        ensure(found == expected, found)
    });
    scene.roster.is_in_its_file();
    let new = scene.roster.shared_file();
    let new = new.to_str().expect("UTF-8");
    assert_eq!(diff(&[new]).text(), expected);
    assert_eq!(diff(&[new, "-o", "json"]).json()["added"][0]["name"], "web 0.0.0 10.0.0.5:83");
    let nodes = diff(&[new, "--nodes", "/aurora"]).text();
    assert!(nodes.contains("- /aurora/web/member_0000000002\n+ /aurora/web/member_0000000003\n"), "{nodes}");
    assert!(nodes.contains("~ /aurora/web/member_0000000001: data, stat\n"), "{nodes}");
}
