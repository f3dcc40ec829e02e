//! Real PHP with Debian's Thrift library asks the sidecar.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::{Roster, SOON, ensure, eventually};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/php");
const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/php");

const NODES: &str = r#"
"/zk_test" = { base64 = "dv8Acg==" }
"/a" = "one"
"/a/b" = "two"
"/a/c" = "three"
"#;

/// All warnings but those of deprecated PHP, which Debian's Thrift library gives.
const WARNINGS: &str = "error_reporting=24575";

/// With the extension that the accelerated protocol needs.
fn php(script: String) -> Command {
    let mut php = Command::new("php");
    php.args(["-d", "extension=thrift_protocol", "-d", WARNINGS, "-d", "display_errors=1", &script]);
    php
}

fn run(php: &mut Command) -> Vec<u8> {
    let Output { status, stdout, stderr } = php.output().expect("PHP starts, if `make deps` has been run");
    let (told, wrong) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{php:?}\n{told}\n{wrong}");
    stdout
}

/// Waits until an example prints this: it waits 750 ms for an answer, as Thrift's library does, which a busy machine may
/// need.
fn prints(example: &mut Command, expected: &[u8]) {
    eventually("it prints what there is", SOON, || {
        let output = example.output().expect("PHP starts, if `make deps` has been run");
        ensure(output.stdout == expected && output.status.success(), format!("{output:?}"))
    });
}

#[test]
fn the_client_of_the_article_gets_the_data_byte_for_byte() {
    let roster = Roster::of_file(NODES);
    prints(php(format!("{EXAMPLES}/zk_data.php")).arg(roster.port().to_string()), b"v\xff\0r");
}

#[test]
fn the_examples_are_told_in_one_line_when_there_is_no_data() {
    let roster = Roster::of_file(r#""/other" = "here""#);
    let [mut zk_data, mut get] = ["zk_data", "get"].map(|example| php(format!("{EXAMPLES}/{example}.php")));
    zk_data.arg(roster.port().to_string());
    get.env("ROSTER_ADDRESS", format!("unix://{}", roster.socket().display()));
    for mut example in [zk_data, get] {
        eventually("it is told", SOON, || {
            let output = example.output().expect("PHP starts");
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(1) && told.lines().count() == 1, "{told}");
            ensure(told.contains("/zk_test"), told)
        });
    }
}

#[test]
fn the_example_reads_a_node_over_the_unix_socket_and_over_tcp() {
    let roster = Roster::of_file(NODES);
    for address in [format!("unix://{}", roster.socket().display()), format!("127.0.0.1:{}", roster.port())] {
        let mut get = php(format!("{EXAMPLES}/get.php"));
        prints(get.arg("/a/b").env("ROSTER_ADDRESS", address), b"two\n");
    }
}

#[test]
fn the_example_finds_the_socket_of_its_user() {
    let mut roster = Roster::prepare_file("roster/roster.sock", NODES);
    roster.run();
    roster.becomes("live");
    let mut get = php(format!("{EXAMPLES}/get.php"));
    get.env_remove("ROSTER_ADDRESS").env("XDG_RUNTIME_DIR", roster.folder());
    prints(&mut get, b"v\xff\0r\n");
}

#[test]
fn every_method_works_in_every_dialect_of_php() {
    let roster = Roster::of_file(NODES);
    for protocol in ["TBinaryProtocol", "TBinaryProtocolAccelerated", "TCompactProtocol"] {
        for transport in ["TBufferedTransport", "TFramedTransport"] {
            for name in ["bare", "multiplexed"] {
                let mut script = php(format!("{TESTS}/methods.php"));
                script.args([protocol, transport, name]).arg(format!("unix://{}", roster.socket().display()));
                let answers: Value = json(&run(&mut script));
                assert_eq!(answers, expected(), "{protocol} {transport} {name}");
            }
        }
    }
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}

fn expected() -> Value {
    json!({
        "get": ["/a/b", "two", 0],
        "get bytes": "76ff0072",
        "get nothing": ["NotFound", "/a/d"],
        "get nonsense": ["InvalidRequest", "path"],
        "getMany": {"/a": "one", "/a/b": "two"},
        "children": ["b", "c"],
        "children of nothing": ["NotFound", "/d"],
        "subtree": [["/a", "/a/b"], ["/a/c"]],
        "watch from the beginning": "reset",
        "watch in vain": [],
        "status": ["file", "live", 5],
        "too many": ["InvalidRequest", "limit"],
        "unknown": 1,
        "zkData": "76ff0072",
    })
}
