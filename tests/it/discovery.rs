//! Services that others register in ZooKeeper are the same for all who ask.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Ended, Process, SOON, Scene, binary, ensure, eventually, fresh_chroot};
use crate::idl::TRosterSyncClient;

const SERVICES: [(&str, &str); 13] = [
    ("/dubbo", "dubbo"),
    ("/services", "dubbo-application"),
    ("/curator", "curator"),
    ("/spring", "spring-cloud"),
    ("/aurora", "serverset"),
    ("/nerve", "nerve"),
    ("/motan", "motan"),
    ("/qconf", "qconf"),
    ("/jodis", "codis"),
    ("/patroni", "patroni"),
    ("/brokers", "kafka"),
    ("/hive", "hiveserver2"),
    ("/sofa-rpc", "sofa-rpc"),
];

/// What Curator's discovery needs.
const JARS: [&str; 11] = [
    "curator-x-discovery",
    "curator-framework",
    "curator-client",
    "zookeeper",
    "zookeeper-jute",
    "guava",
    "jackson-core",
    "jackson-databind",
    "jackson-annotations",
    "slf4j-api",
    "slf4j-nop",
];

/// What other programs take to start, and ZooKeeper to find that a session has ended.
const LATER: Duration = Duration::from_secs(60);

const PROVIDER: &str = "/dubbo/com.acme.Foo/providers/dubbo%3A%2F%2F10.0.0.5%3A20880%2Fcom.acme.Foo%3Fgroup%3Da%26side\
    %3Dprovider%26version%3D1.2";

const MEMBER: &str = r#"{"serviceEndpoint":{"host":"10.0.0.5","port":8080},"status":"ALIVE","shard":0}"#;

fn settings() -> String {
    let services =
        SERVICES.iter().map(|(root, format)| format!("\n[[services]]\nroot = {root:?}\nformat = {format:?}\n"));
    services.collect::<String>()
        + "\n[[services]]\nroot = \"/raw\"\nformat = \"raw\"\n[services.fields]\nhost = \"ip\"\n"
}

fn scene() -> Scene {
    Scene::with(&fresh_chroot(), &settings())
}

/// Where a service is, by the command line; with which state.
fn told(scene: &Scene, service: &str, more: &[&str]) -> Vec<String> {
    let ended = scene.roster.cli(["services", service, "-o", "json"].iter().chain(more));
    if ended.code != Some(0) {
        return Vec::new();
    }
    addresses(&ended.json()["instances"])
}

fn addresses(instances: &Value) -> Vec<String> {
    let of = |instance: &Value| {
        let endpoint = &instance["endpoints"][0];
        let text = |key: &str| endpoint[key].as_str().unwrap_or_default().to_owned();
        let state = instance["state"].as_str().unwrap_or_default();
        format!("{}://{}:{} {state}", text("protocol"), text("host"), endpoint["port"])
    };
    instances.as_array().into_iter().flatten().map(of).collect()
}

fn becomes(scene: &Scene, service: &str, expected: &[&str]) {
    eventually(&format!("{service} is told of"), SOON, || {
        let found = told(scene, service, &[]);
        ensure(found == expected, format!("{found:?}"))
    });
}

/// What PHP has of a service by the shared file alone.
fn in_php(scene: &Scene, service: &str) -> Vec<String> {
    let code = format!(
        "foreach ($roster->instances('{service}') as $it) {{ $at = $it->endpoints[0]; \
         echo \"$at->protocol://$at->host:$at->port {{$it->state->value}}\\n\"; }}"
    );
    lines_of_php(scene, &code)
}

/// What code prints whose `$roster` has the shared file alone.
fn lines_of_php(scene: &Scene, code: &str) -> Vec<String> {
    let file = scene.roster.shared_file();
    let code =
        format!("require 'php/autoload.php'; $roster = Roster\\Client::local('', '', '{}'); {code}", file.display());
    let ended = Ended::of(Command::new("php").current_dir(env!("CARGO_MANIFEST_DIR")).args(["-r", &code]));
    ended.text().lines().map(str::to_owned).collect()
}

#[test]
fn every_format_is_told_alike_by_the_sidecar_the_shared_file_and_php() {
    let scene = scene();
    let java = [b"\xac\xed\x00\x05\x74\x00\x1e".as_slice(), b"motan2://10.0.0.5:8002/x?a=b&c"].concat();
    let curator = |payload: &str| format!(r#"{{"address":"10.0.0.5","port":80,"payload":{payload},"sslPort":null}}"#);
    let application = r#"{"metadata":{"dubbo.endpoints":"[{\"port\":20880,\"protocol\":\"dubbo\"}]"}}"#;
    let nodes: [(&str, Vec<u8>, &str, &str); 15] = [
        (PROVIDER, b"10.0.0.5".to_vec(), "com.acme.Foo", "dubbo://10.0.0.5:20880 UP"),
        ("/services/shop/10.0.0.5:20880", curator(application).into(), "shop", "dubbo://10.0.0.5:20880 UP"),
        ("/curator/db/4e1c", curator("null").into(), "db", "://10.0.0.5:80 UP"),
        (
            "/spring/app/x",
            curator(r#"{"metadata":{"instance_status":"OUT_OF_SERVICE"}}"#).into(),
            "app",
            "://10.0.0.5:80 DOWN",
        ),
        ("/aurora/www/web/member_0000000001", MEMBER.into(), "www/web", "://10.0.0.5:8080 UP"),
        (
            "/nerve/base64_64_eyJob3N0IjoiMTAuMC4wLjUiLCJwb3J0Ijo4MDgwLCJuYW1lIjoid2ViLTEifQ==_0000000123",
            Vec::new(),
            "nerve",
            "://10.0.0.5:8080 UP",
        ),
        ("/motan/g/Bar/server/10.0.0.5:8002", java, "Bar", "motan2://10.0.0.5:8002 UP"),
        ("/qconf/conf/10.0.0.5:81", b"2".to_vec(), "conf", "://10.0.0.5:81 DOWN"),
        (
            "/jodis/redis/proxy-1",
            br#"{"addr":"10.0.0.7:19000","state":"online"}"#.to_vec(),
            "redis",
            "redis://10.0.0.7:19000 UP",
        ),
        (
            "/patroni/pg/members/a",
            br#"{"conn_url":"postgres://10.0.0.8:5432/postgres","state":"running","role":"replica"}"#.to_vec(),
            "pg",
            "postgres://10.0.0.8:5432 UP",
        ),
        (
            "/brokers/ids/1",
            br#"{"endpoints":["PLAINTEXT://10.0.0.9:9092"],"rack":"r"}"#.to_vec(),
            "kafka",
            "plaintext://10.0.0.9:9092 UP",
        ),
        ("/hive/serverUri=h:10000;version=3.1.2;sequence=0000000001", Vec::new(), "hive", "hive2://h:10000 UP"),
        ("/sofa-rpc/Baz/providers/bolt%3A%2F%2F10.0.0.5%3A12200", Vec::new(), "Baz", "bolt://10.0.0.5:12200 UP"),
        ("/raw/10.0.0.5:7", Vec::new(), "raw", "://10.0.0.5:7 UP"),
        ("/raw/deep/one/i", br#"{"ip":"10.0.0.5","port":"8"}"#.to_vec(), "deep/one", "://10.0.0.5:8 UP"),
    ];
    for (path, data, ..) in &nodes {
        scene.zk.create(path, data);
    }
    for (_, _, service, expected) in &nodes {
        becomes(&scene, service, &[expected]);
    }
    let shared = scene.roster.shared_file();
    let shared = shared.to_str().expect("UTF-8");
    eventually("the shared file has them too", SOON, || {
        nodes.iter().try_for_each(|(_, _, service, expected)| {
            let found = told(&scene, service, &["--shared", shared]);
            ensure(found == [*expected], format!("{service}: {found:?}"))
        })
    });
    for (_, _, service, expected) in &nodes {
        assert_eq!(in_php(&scene, service), [*expected], "{service}");
    }
    let listed = scene.roster.cli(["services", "-o", "json"]).json();
    let names: Vec<_> = listed["services"].as_array().expect("a list").iter().map(|it| it["name"].clone()).collect();
    assert_eq!(names.len(), nodes.len(), "{names:?}");
    let found = scene.roster.cli(["services", "com.acme.Foo", "-o", "json"]).json()["instances"][0].clone();
    assert_eq!([&found["group"], &found["version"]], ["a", "1.2.0"]);
    let provenance = &found["provenance"][0];
    let told = ["source", "path", "decoder"].map(|key| provenance[key].as_str().unwrap_or_default());
    assert_eq!(told, ["zookeeper", PROVIDER, "dubbo"]);
    let check = Ended::of(binary().args(["shared", "check", shared]));
    assert_eq!(check.code, Some(0), "{check:?}");

    // A configurator of the whole interface, the leader of a cluster, and a node that nobody can read.
    scene.zk.create("/dubbo/com.acme.Foo/configurators/override%3A%2F%2F0.0.0.0%2FF%3Fdisabled%3Dtrue", "");
    becomes(&scene, "com.acme.Foo", &["dubbo://10.0.0.5:20880 DOWN"]);
    scene.zk.create("/patroni/pg/leader", "a");
    scene.zk.create("/aurora/www/web/member_0000000002", "{");
    eventually("the member leads", SOON, || {
        let pg = scene.roster.cli(["services", "pg", "-o", "json"]).json();
        ensure(pg["instances"][0]["metadata"]["role"] == "primary", pg)
    });
    eventually("it is counted", SOON, || {
        let counters = scene.roster.status().counters;
        ensure(counters.get("undecodableNodes") == Some(&1), format!("{counters:?}"))
    });
    becomes(&scene, "www/web", &["://10.0.0.5:8080 UP"]);
    let all = scene.roster.cli(["explain"]).text();
    assert!(all.lines().count() == 1 && all.contains("/aurora/www/web/member_0000000002"), "{all}");
    assert!(all.contains(": cannot be read: "), "{all}");
    let pg = scene.roster.cli(["services", "pg"]).text();
    assert!(pg.contains(r#"{"role":"primary","member":"a""#), "{pg}");
    for command in [["explain", ""], ["resolve", ""]] {
        let ended = scene.roster.cli(command);
        assert!(ended.code == Some(2) && ended.wrong.contains("serviceName: it is empty"), "{ended:?}");
    }
}

#[test]
fn versions_and_groups_of_dubbo_are_chosen_as_its_own_consumers_choose_them() {
    let scene = scene();
    let providers = [
        (1, ""),
        (2, "%26version%3D1.0.0.daily"),
        (3, "%26version%3D2.0.0.daily"),
        (4, "%26group%3Dgray"),
        (5, "%26version%3D1.0.0.daily%26group%3Dgray"),
    ];
    for (port, query) in providers {
        let url = format!("dubbo%3A%2F%2F10.0.0.5%3A{port}%2Fcom.acme.Foo%3Fside%3Dprovider{query}");
        scene.zk.create(&format!("/dubbo/com.acme.Foo/providers/{url}"), "");
    }
    eventually("all are told of", SOON, || {
        let found = told(&scene, "com.acme.Foo", &[]);
        ensure(found.len() == providers.len(), format!("{found:?}"))
    });
    let chosen = |more: &[&str]| {
        let ended = scene.roster.cli(["resolve", "com.acme.Foo", "-n", "50", "-o", "json"].iter().chain(more));
        let chosen = ended.json()["chosen"].as_array().cloned().unwrap_or_default();
        let port = |it: &Value| it["instance"]["endpoints"][0]["port"].as_u64().expect("a port");
        let mut ports: Vec<_> = chosen.iter().map(port).collect();
        ports.sort_unstable();
        ports
    };
    assert_eq!(chosen(&[]), [3], "the newest");
    assert_eq!(chosen(&["--version", "1.0.0.daily"]), [2, 5], "of any group");
    assert_eq!(chosen(&["--version", "1.0.0.daily", "--group", ""]), [2]);
    assert_eq!(chosen(&["--version", "1.0.0.daily", "--group", "gray"]), [5]);
    assert_eq!(chosen(&["--version", "0.0.0", "--group", ""]), [1], "a consumer of neither");
    assert_eq!(chosen(&["--version", "0.0.0"]), [1, 4]);
    let none = scene.roster.cli(["resolve", "com.acme.Foo", "--version", "3.0.0.daily"]);
    assert!(none.code == Some(1) && none.wrong.contains("has a version that meets 3.0.0.daily"), "{none:?}");
    let told = scene.roster.cli(["explain", "com.acme.Foo"]).text();
    for line in [
        "10.0.0.5:1: not served",
        "10.0.0.5:2 0.0.0+1.0.0.daily: not served",
        "10.0.0.5:3 0.0.0+2.0.0.daily: served",
        "10.0.0.5:4 (group gray): not served",
        "10.0.0.5:5 0.0.0+1.0.0.daily (group gray): not served",
    ] {
        assert!(told.lines().any(|it| it == line), "{line}: {told}");
    }
    let code = "foreach ($roster->instances('com.acme.Foo', group: '') as $it) { echo \"$it->version \", \
                $it->endpoints[0]->port, \"\\n\"; } echo $roster->resolve('com.acme.Foo')->port, \"\\n\";";
    eventually("PHP has them from the file", SOON, || {
        let found = lines_of_php(&scene, code);
        ensure(found == ["0.0.0+2.0.0.daily 3", "0.0.0+1.0.0.daily 2", "0.0.0 1", "3"], format!("{found:?}"))
    });
    let shared = scene.roster.shared_file();
    let check = Ended::of(binary().args(["shared", "check", shared.to_str().expect("UTF-8")]));
    assert_eq!(check.code, Some(0), "{check:?}");
}

#[test]
fn rules_that_dubbo_writes_as_yaml_change_providers_while_they_are_there() {
    let scene = scene();
    let provider = |interface: &str| {
        let url = format!("dubbo%3A%2F%2F10.0.0.5%3A20880%2F{interface}%3Fapplication%3Dshop%26side%3Dprovider");
        format!("/dubbo/{interface}/providers/{url}")
    };
    for interface in ["a.Foo", "a.Bar"] {
        scene.zk.create(&provider(interface), "");
    }
    let rule = |key: &str| format!("/dubbo/config/dubbo/{key}.configurators");
    let text = |scope: &str, key: &str, sets: &str| {
        format!(
            "---\nconfigVersion: v2.7\nscope: {scope}\nkey: {key}\nenabled: true\nconfigs:\n- addresses: ['0.0.0.0:20880']\n  \
             side: provider\n  parameters: {{{sets}}}\n"
        )
    };
    let are = |what: &str, expected: [(u64, &str); 2]| {
        eventually(what, SOON, || {
            let found = ["a.Foo", "a.Bar"].map(|interface| {
                let ended = scene.roster.cli(["services", interface, "-o", "json"]);
                let found = if ended.code == Some(0) { ended.json()["instances"][0].clone() } else { Value::Null };
                (found["weight"].as_u64().unwrap_or_default(), found["state"].as_str().unwrap_or_default().to_owned())
            });
            let expected = expected.map(|(weight, state)| (weight, state.to_owned()));
            ensure(found == expected, format!("{found:?}"))
        });
    };
    are("both are up", [(100, "UP"), (100, "UP")]);
    scene.zk.create(&rule("a.Foo::"), text("service", "a.Foo", "weight: 0"));
    are("one weighs nothing", [(0, "UP"), (100, "UP")]);
    let told = scene.roster.cli(["explain", "a.Foo"]).text();
    assert!(told.contains("not served") && told.contains(&format!("changed by {}", rule("a.Foo::"))), "{told}");
    scene.zk.create(&rule("shop"), text("application", "shop", "disabled: true"));
    are("all of the application are down", [(0, "DOWN"), (100, "DOWN")]);

    // Others are written beside it: one cannot be read, and one would be larger than all memory.
    let lines = ('b'..='z').map(|name| {
        let before = char::from(name as u8 - 1);
        format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 9].join(", "))
    });
    scene.zk.create(&rule("a.Bar::"), format!("a: &a [x]\n{}", lines.collect::<String>()));
    scene.zk.set(&rule("shop"), "configs: [");
    are("the broken ones change nothing", [(0, "UP"), (100, "UP")]);
    eventually("they are counted", SOON, || {
        let counters = scene.roster.status().counters;
        ensure(counters.get("undecodableNodes") == Some(&2), format!("{counters:?}"))
    });
    let told = scene.roster.cli(["explain", "a.Bar"]).text();
    for (key, why) in
        [("a.Bar::", "its data repeat too much by aliases"), ("shop", "its data are no YAML that is read")]
    {
        let is_named = |line: &str| line.contains(&rule(key)) && line.contains(why);
        assert!(told.lines().any(is_named), "{key}: {told}");
    }

    scene.zk.set(&rule("shop"), text("application", "shop", "disabled: true"));
    are("it can be read again", [(0, "DOWN"), (100, "DOWN")]);
    scene.zk.delete(&rule("a.Foo::"));
    scene.zk.delete(&rule("shop"));
    are("the rules are gone", [(100, "UP"), (100, "UP")]);
}

/// Starts one of the programs of `writers`, until it is dropped.
fn writer(scene: &Scene, program: &str, arguments: &[&str]) -> Process {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/writers").join(program);
    let is_java = program.ends_with(".java");
    // Debian's own Python has Debian's packages.
    let mut command = Command::new(if is_java { "java" } else { "/usr/bin/python3" });
    if is_java {
        let jars = JARS.map(|name| format!("/usr/share/java/{name}.jar"));
        command.args(["-Xmx128m", "-cp", &jars.join(":")]);
    }
    command.arg(file).arg(scene.zk.connect_string()).args(arguments);
    Process::start(&mut command, scene.roster.folder())
}

#[test]
fn what_curator_registers_is_an_instance_until_its_process_ends_or_dies() {
    let scene = scene();
    let discovery = |port: &str| writer(&scene, "Register.java", &["/curator", "db", port]);
    let (ending, dying) = (discovery("3306"), discovery("3307"));
    eventually("both are told of", LATER, || {
        let mut found = told(&scene, "db", &[]);
        found.sort();
        ensure(found == ["http://10.0.0.5:3306 UP", "http://10.0.0.5:3307 UP"], format!("{found:?}"))
    });
    let found = scene.roster.cli(["services", "db", "-o", "json"]).json()["instances"][0].clone();
    assert_eq!(found["zone"], "a");
    assert_eq!(found["metadata"]["more"]["deep"]["n"], 1, "{found}");
    ending.signal(Signal::SIGTERM);
    becomes(&scene, "db", &["http://10.0.0.5:3307 UP"]);
    drop(dying);
    eventually("its session ends", LATER, || {
        let found = told(&scene, "db", &[]);
        ensure(found.is_empty(), format!("{found:?}"))
    });
}

#[test]
fn what_kazoo_and_patroni_register_is_told_with_its_role() {
    let scene = scene();
    let _web = writer(&scene, "member.py", &["/aurora/web", "8080"]);
    let replica = writer(&scene, "patroni_member.py", &["b", "5433", "replica"]);
    let primary = writer(&scene, "patroni_member.py", &["a", "5432", "primary"]);
    let roles = || -> Vec<String> {
        let ended = scene.roster.cli(["services", "pg", "-o", "json"]);
        let found = if ended.code == Some(0) { ended.json()["instances"].clone() } else { Value::Null };
        let role = |it: &Value| format!("{} {}", it["endpoints"][0]["port"], it["metadata"]["role"]);
        found.as_array().into_iter().flatten().map(role).collect()
    };
    let become_roles = |expected: &[&str]| {
        eventually("the members have their roles", LATER, || {
            let found = roles();
            ensure(found == expected, format!("{found:?}"))
        });
    };
    become_roles(&["5432 \"primary\"", "5433 \"replica\""]);
    becomes(&scene, "web", &["://10.0.0.5:8080 UP"]);
    drop(primary);
    become_roles(&["5433 \"replica\""]);
    drop(replica);
    // Another program's member takes the lead.
    let _next = writer(&scene, "patroni_member.py", &["b", "5433", "primary"]);
    become_roles(&["5433 \"primary\""]);
}

#[test]
fn what_nodes_register_stands_while_zookeeper_is_away_and_after_a_restart() {
    let mut scene = scene();
    scene.zk.create("/aurora/web/member_0000000001", MEMBER);
    scene.zk.create("/aurora/web/member_0000000002", MEMBER.replace("8080", "8081"));
    becomes(&scene, "web", &["://10.0.0.5:8080 UP", "://10.0.0.5:8081 UP"]);
    let revision = |scene: &Scene| {
        let query = crate::harness::offering("web");
        scene.roster.client().instances(query).expect("instances").freshness
    };
    assert!(revision(&scene).complete);
    scene.roster.is_in_its_file();
    scene.link.cut();
    scene.roster.kill();
    scene.roster.run();
    let fresh = revision(&scene);
    assert_eq!((fresh.origin, told(&scene, "web", &[]).len()), (crate::idl::Origin::RESTORED, 2));
    assert_eq!(in_php(&scene, "web").len(), 2);
    scene.zk.delete("/aurora/web/member_0000000001");
    scene.link.mend();
    becomes(&scene, "web", &["://10.0.0.5:8081 UP"]);
    eventually("PHP reads that too", SOON, || {
        let found = in_php(&scene, "web");
        ensure(found == ["://10.0.0.5:8081 UP"], format!("{found:?}"))
    });
}

#[test]
fn a_root_in_another_format_than_its_nodes_is_told_by_status_services_and_the_log() {
    let zk = fresh_chroot();
    zk.create("/aurora/web/member_0000000001", MEMBER);
    let scene = Scene::with(&zk, "\n[[services]]\nroot = \"/aurora\"\nformat = \"dubbo\"\n");
    let why = "no node below /aurora registers anything in the format `dubbo`";
    eventually("status and services tell", SOON, || {
        let (status, services) = (scene.roster.cli(["status"]), scene.roster.cli(["services"]));
        ensure(status.clone().text().contains(why) && services.wrong.contains(why), format!("{status:?} {services:?}"))
    });
    scene.roster.logs(why);
    scene.zk.create(PROVIDER.replace("/dubbo", "/aurora").as_str(), "");
    eventually("one is registered", SOON, || {
        let (status, services) = (scene.roster.cli(["status"]), scene.roster.cli(["services"]));
        ensure(!status.clone().text().contains(why) && services.wrong.is_empty(), format!("{status:?} {services:?}"))
    });
}

#[test]
fn the_sidecar_and_php_choose_the_same_instance_for_a_key() {
    let scene = scene();
    for member in 0..5 {
        let path = format!("/aurora/web/member_000000000{member}");
        scene.zk.create(&path, MEMBER.replace("8080", &format!("{}", 8_080 + member)));
    }
    let file = scene.roster.shared_file();
    let code = format!(
        "require 'php/autoload.php'; $roster = Roster\\Client::local('', '', '{}'); \
         foreach (range(0, 19) as $key) {{ echo $roster->resolve('web', key: $key)->address(), \"\\n\"; }}",
        file.display()
    );
    let in_php = || {
        let php = Ended::of(Command::new("php").current_dir(env!("CARGO_MANIFEST_DIR")).args(["-r", &code]));
        php.told.split(|byte| *byte == b'\n').map(|line| String::from_utf8_lossy(line).into_owned()).collect::<Vec<_>>()
    };
    let here = || {
        let all = (0..20).map(|key| scene.roster.cli(["resolve", "web", "--key", &key.to_string()]));
        let all = all.map(|ended| String::from_utf8_lossy(&ended.told).trim().to_owned());
        all.chain([String::new()]).collect::<Vec<_>>()
    };
    let agree = |count: usize| {
        eventually(&format!("both choose among {count}"), SOON, || {
            let (here, in_php) = (here(), in_php());
            let different: HashSet<&String> = here.iter().filter(|address| !address.is_empty()).collect();
            ensure(here == in_php && different.len() == count, format!("{here:?} and {in_php:?}"))?;
            Ok::<_, String>(here)
        })
    };
    let before = agree(5);
    let any_bytes = format!(
        "require 'php/autoload.php'; $local = Roster\\Client::local(...); $by = [$local('', '', '{}'), $local('{}', '', '')]; \
         foreach (range(0, 19) as $n) {{ $key = md5($n, true); \
         $at = array_map(fn ($roster) => $roster->resolve('web', key: $key)->address(), $by); \
         $at[0] === $at[1] || print \"$n: $at[0] and $at[1]\\n\"; }} \
         try {{ $by[1]->resolve(\"\\xff\"); }} catch (Roster\\Exception\\InvalidRequest $e) {{ echo $e->getMessage(); }}",
        file.display(),
        scene.roster.socket().display()
    );
    let php = Ended::of(Command::new("php").current_dir(env!("CARGO_MANIFEST_DIR")).args(["-r", &any_bytes]));
    assert!(php.clone().text().starts_with("request: a text in it is not UTF-8"), "{php:?}");
    scene.zk.delete("/aurora/web/member_0000000003");
    let moved = agree(4).into_iter().zip(before).filter(|(now, before)| now != before);
    assert!({ moved }.all(|(_, before)| before == "10.0.0.5:8083"), "no other's keys move");
}

#[test]
fn a_service_of_zookeeper_is_not_known_before_that_was_read_and_one_of_masters_is() {
    let scene = Scene::before_zookeeper(&settings());
    let ended = scene.roster.cli(["services", "web"]);
    assert_eq!(ended.code, scene.roster.cli(["get", "/aurora"]).code, "neither is known yet: {ended:?}");
    assert_eq!(scene.roster.cli(["services"]).code, ended.code, "nor is that there are none");
}

#[test]
fn who_writes_below_one_root_keeps_out_little_below_another_and_nothing_once_the_sidecar_has_started_anew() {
    let services =
        ["/own", "/first-by-name"].map(|root| format!("\n[[services]]\nroot = {root:?}\nformat = \"raw\"\n"));
    let zk = fresh_chroot();
    let mut scene = Scene::with(&zk, &format!("{}\n[store]\nmax_instances = 12\n", services.concat()));
    let count = |scene: &Scene, service: &str| {
        let told = scene.roster.cli(["services", service, "-o", "json"]);
        if told.code == Some(0) { told.json()["instances"].as_array().map_or(0, Vec::len) } else { 0 }
    };
    let becomes = |scene: &Scene, expected: [usize; 3]| {
        eventually(&format!("{expected:?} are listed"), SOON, || {
            let found = ["junk", "web", "late"].map(|service| count(scene, service));
            ensure(found == expected, format!("{found:?}\n{}", scene.roster.log()))
        });
    };
    (1..50).for_each(|port| scene.zk.create(&format!("/first-by-name/junk/i-{port}"), format!("127.0.0.1:{port}")));
    becomes(&scene, [9, 0, 0]);
    (1..5).for_each(|port| scene.zk.create(&format!("/own/web/i-{port}"), format!("127.0.0.1:{port}")));
    becomes(&scene, [9, 3, 0]);
    scene.zk.create("/own/late/i", "127.0.0.1:9");
    for command in ["services", "resolve"] {
        eventually("it is known that it is left out", SOON, || {
            let wrong = scene.roster.cli([command, "late"]).wrong;
            ensure(wrong.contains("its nodes (1) are left out") && wrong.contains("raise that"), wrong)
        });
    }
    scene.roster.kill();
    scene.roster.run();
    becomes(&scene, [7, 4, 1]);
    scene.zk.set("/own/late/i", "0.0.0.0:9");
    eventually("so it is with what was offered", SOON, || {
        let told = scene.roster.cli(["services", "late"]);
        ensure(told.code == Some(1) && told.wrong.contains("its nodes (1) are left out"), told.wrong)
    });
}
