//! From layers to a configuration, or to diagnostics.

mod checks;
mod example;
mod layers;
mod rules;

use std::collections::BTreeSet;
use std::path::Path;

use bytesize::ByteSize;

use super::*;
use crate::zookeeper::Kerberos;

const EXAMPLE: &str = include_str!("../../contrib/roster.toml");

/// Those for queues in Redis, which go with none for the disk.
const OF_REDIS: [&str; 5] = [
    "#backend = ",
    "#password_file = \"/etc/roster/redis\"",
    "#ca = \"/etc/roster/redis-ca.pem\"",
    "#certificate = \"/etc/roster/redis.pem\"",
    "#key = \"/etc/roster/redis.key\"",
];

/// The example with all its settings in force, but for those of Redis.
fn whole_example() -> String {
    let is_in_force = |line: &str| !OF_REDIS.iter().any(|start| line.starts_with(start));
    let setting = |line: &'static str| {
        line.strip_prefix('#').filter(|rest| is_in_force(line) && !rest.is_empty() && !rest.starts_with(' '))
    };
    EXAMPLE.lines().map(|line| setting(line).unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(name, value)| (String::from(*name), String::from(*value))).collect()
}

fn load(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, Diagnostics> {
    let file = Some(("/etc/roster/roster.toml".into(), file.to_owned()));
    Config::load(&Layers { file, environment: pairs(environment), flags: pairs(flags), ..Layers::default() })
}

fn diagnostics(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
    let told = load(file, environment, flags).expect_err("diagnostics").to_string();
    told.replace("/etc/roster/roster.toml", "roster.toml")
}

#[test]
fn a_character_that_only_looks_like_one_of_toml_is_named() {
    let told = |line: &str| diagnostics(&format!("[[zookeeper]]\n{line}\n"), &[], &[]);
    for (line, end) in [
        ("connect = “zk1”", "; there is a character U+201C: write a plain quotation mark"),
        ("connect = \"zk1”", "; there is a character U+201D: write a plain quotation mark"),
        ("connect\u{a0}= \"zk1\"", "; there is a character U+00A0: write a plain space"),
        ("con\u{200b}nect = \"zk1\"", "; there is a character U+200B: write nothing there"),
    ] {
        let told = told(line);
        assert!(told.starts_with("roster.toml:2: ") && told.ends_with(end), "{line}: {told}");
    }
}

#[test]
fn what_stands_in_the_wrong_table_or_is_of_another_kind_is_told_with_what_to_write() {
    let text = "connect = 'zk1'\nstop_timeout = '1s'\n[thrift]\nmode = 660\nroots = []\n[[zookeeper]]\nconnect = ['zk1:1', 'zk2:1']\nlisten = ''\n";
    assert_eq!(
        diagnostics(text, &[], &[]),
        "\
roster.toml:1: connect: this version of Roster has no such key; it belongs under `[[zookeeper]]` or `[[upstream]]`
roster.toml:2: stop_timeout: this version of Roster has no such key; it belongs under `[[worker]]` or `[sidecar]`
roster.toml:4: thrift.mode: expected a string, found 660; write octal digits in quotes: \"0660\"
roster.toml:5: thrift.roots: this version of Roster has no such key; it belongs under `[[zookeeper]]`
roster.toml:7: zookeeper.0.connect: expected a string, found a list; write \"zk1:1,zk2:1\"
roster.toml:8: zookeeper.0.listen: this version of Roster has no such key; it belongs under `[[worker]]` or `[register]` or `[admin]`"
    );
}

#[test]
fn a_default_root_that_is_anothers_too_and_a_number_below_nothing_are_told_with_what_to_write() {
    let text = "[[zookeeper]]\nconnect = 'zk1'\nmax_depth = -1\n[[file]]\npath = 'nodes.toml'\n";
    let told = diagnostics(text, &[], &[]);
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(
        lines[..2],
        [
            "roster.toml:3: zookeeper.0.max_depth: expected a whole number from 0 on, found -1",
            "roster.toml:4: file.0.root: `/`, the default, overlaps `/` of `zookeeper.0.roots`: a path is of one root only, \
             set `file.0.root` to other paths",
        ],
        "{told}"
    );
}

#[test]
fn a_key_and_a_table_that_are_repeated_hide_no_other_mistake() {
    let text = "[thrift]\ntcp = ''\ntcp = ''\n[log]\nlevel = 'loud'\n[thrift]\nthreads = 'x'\n";
    let told = diagnostics(text, &[], &[]);
    let lines: Vec<_> = told.lines().filter_map(|line| line.split(" \"").next()).collect();
    let threads = "roster.toml:7: thrift.threads: expected a whole number, found";
    let repeated =
        ["roster.toml:3: tcp: is set twice", "roster.toml:5: log.level:", "roster.toml:6: thrift: is set twice"];
    assert_eq!(lines, [&repeated[..], &[threads]].concat(), "{told}");
}

#[test]
fn every_mistake_is_told_at_once_with_its_line_and_its_cure() {
    let file = r#"# Nothing here is right.
colour = "blue"

[thrift]
unix = "run/roster.sock"
mode = "0999"
tcp = "0.0.0.0:9090"
threads = 0
idle_timout = "30s"
idle_timeout = 30
request_timeout = "soon"
max_request = "64 kilos"
max_reply = "1MiB"
max_memory = "64KiB"
max_depth = -1
max_container = "many"

[cache]
listen = "0.0.0.0:8010"

[zk_data]
path = "zk_test"

[[zookeeper]]
connect = "zk1:2181; zk2:2181"
session_timeout = "500ms"
max_node_bytes = "2MiB"
exclude = ["/a[", "/b", "/c{"]
roots = [
    "/services",
    "services",
    "/config/",
    "/services/php",
]

[[zookeeper]]
roots = ["/config"]
audit_interval = "0s"

[[zookeeper]]
connect = "zk3/app"
name = "empty"
roots = []
credentials = ""

[[file]]
path = "nodes.toml"
name = "zookeeper"
root = "/config/static"

[[file]]
name = ""
path = ""
root = "/x"

[store]
history = 2.5

[log]
level = "verbose"
format = "xml"

[sidecar]
stop_timeout = true
"a b" = 1
"#;
    let expected = r#"
roster.toml:2: colour: this version of Roster has no such key
roster.toml:5: thrift.unix: is relative: write an absolute path, which clients can know
roster.toml:6: thrift.mode: `0999` is not a file mode: expected octal digits such as "0660"
roster.toml:7: thrift.tcp: "0.0.0.0:9090" is no loopback address, and the endpoint has no authentication: use "127.0.0.1:PORT"
roster.toml:8: thrift.threads: 0 leaves nothing to work with; leave the key out for its default
roster.toml:9: thrift.idle_timout: this version of Roster has no such key; did you mean `idle_timeout`?
roster.toml:10: thrift.idle_timeout: expected a duration such as "30s" or "250ms", found 30
roster.toml:11: thrift.request_timeout: expected a duration such as "30s" or "250ms", found "soon"
roster.toml:12: thrift.max_request: expected a size such as "64KiB", found "64 kilos"
roster.toml:14: thrift.max_memory: is less than four replies: `thrift.max_reply` is 1.0 MiB
roster.toml:15: thrift.max_depth: expected a whole number from 0 on, found -1
roster.toml:16: thrift.max_container: expected a whole number, found "many"
roster.toml:18: cache: this version of Roster has no such key
roster.toml:22: zk_data.path: a path begins with '/'
roster.toml:25: zookeeper.0.connect: `zk1:2181; zk2:2181` is not a server: expected `host:port,host:port/chroot`, an IPv6 address in brackets
roster.toml:26: zookeeper.0.session_timeout: a session needs at least 1s to live through a pause
roster.toml:27: zookeeper.0.max_node_bytes: such a node fits no reply: `thrift.max_reply` is 1.0 MiB
roster.toml:28: zookeeper.0.exclude: error parsing glob '/a[': unclosed character class; missing ']'; error parsing glob '/c{': unclosed alternate group; missing '}' (maybe escape '{' with '[{]'?)
roster.toml:31: zookeeper.0.roots.1: a path begins with '/'
roster.toml:32: zookeeper.0.roots.2: a path does not end with '/'
roster.toml:33: zookeeper.0.roots.3: `/services/php` overlaps `/services` of `zookeeper.0.roots.0`: a path is of one root only, take one away
roster.toml:36: zookeeper.1.connect: is required, there is no default
roster.toml:36: zookeeper.1.name: "zookeeper" is the name of `zookeeper.0`: give each a `name` of its own
roster.toml:38: zookeeper.1.audit_interval: 0 leaves nothing to work with; leave the key out for its default
roster.toml:43: zookeeper.2.roots: is empty: leave the key out to mirror all
roster.toml:44: zookeeper.2.credentials: is empty: write the path of a file
roster.toml:48: file.0.name: "zookeeper" is the name of `zookeeper.0`: give each a `name` of its own
roster.toml:49: file.0.root: `/config/static` overlaps `/config` of `zookeeper.1.roots.0`: a path is of one root only, take one away
roster.toml:52: file.1.name: is empty: status and logs need a name
roster.toml:53: file.1.path: is empty: write the path of a file
roster.toml:57: store.history: expected a whole number, found floating point `2.5`
roster.toml:60: log.level: "verbose" is no filter: expected one of error, warn, info, debug and trace, and after commas others for single modules: "info,roster=debug"
roster.toml:61: log.format: expected "human" or "json", found "xml"
roster.toml:64: sidecar.stop_timeout: expected a duration such as "30s" or "250ms", found boolean `true`
roster.toml:65: sidecar."a b": this version of Roster has no such key
ROSTER_STORE__HISTROY: store.histroy: this version of Roster has no such key; did you mean `history`?
ROSTER_ZOOKEEPER__9__CONNECT: zookeeper.9.connect: `9` is no entry of this list; the next new one is 3
--set thrift.max_string: 0 leaves nothing to work with; leave the key out for its default
--set zk_data.path.deeper: `deeper` cannot be set in what is neither a table nor a list
"#;
    let environment = [("ROSTER_STORE__HISTROY", "1"), ("ROSTER_ZOOKEEPER__9__CONNECT", "zk9")];
    let flags = [("zk_data.path.deeper", "1"), ("thrift.max_string", "0")];
    assert_eq!(diagnostics(file, &environment, &flags), expected.trim());
}

#[test]
fn what_should_be_a_list_is_told_as_it_is_written_there() {
    let connect = "zookeeper: expected a list, found a table; write";
    assert_eq!(
        diagnostics("", &[], &[("zookeeper.connect", "zk")]),
        format!("--set zookeeper.connect: {connect} `--set zookeeper.0.connect=…`")
    );
    assert_eq!(
        diagnostics("", &[("ROSTER_ZOOKEEPER__CONNECT", "zk")], &[]),
        format!("ROSTER_ZOOKEEPER__CONNECT: {connect} `ROSTER_ZOOKEEPER__0__CONNECT=…`")
    );
    assert_eq!(
        diagnostics("", &[], &[("zookeeper.0.connect", "zk"), ("zookeeper.0.roots", "/config")]),
        "--set zookeeper.0.roots: expected a list, found \"/config\"; write `zookeeper.0.roots='[\"/config\"]'`, or \
         `zookeeper.0.roots.0=/config`"
    );
    assert_eq!(
        diagnostics("[[zookeeper]]\nconnect = 'zk'\n", &[], &[("zookeeper.connect", "zk")]),
        "--set zookeeper.connect: a list has entries by number: write `0.connect`, or 1 for a new one"
    );
}

#[test]
fn a_key_that_was_renamed_names_its_successor() {
    let told = diagnostics("[register]\nmax_strangers = 9\n", &[], &[]);
    let why = "this version of Roster has no such key; `max_unauthenticated` took its place";
    assert_eq!(told, format!("roster.toml:2: register.max_strangers: {why}"));
}

#[test]
fn what_is_no_toml_is_told_by_lines_alone() {
    let file = "[thrift]\nunix = /run\nthreads = 1\nthreads = 2\n[log]\nlevel == 3\n";
    assert_eq!(
        diagnostics(file, &[("ROSTER_NO__KEY", "1")], &[]),
        "roster.toml:2: string values must be quoted, expected literal string\n\
         roster.toml:4: threads: is set twice\n\
         roster.toml:6: extra `=`, expected nothing\n\
         roster.toml:6: unexpected key or value, expected newline, `#`"
    );
}

#[test]
fn wrong_shapes_are_told_and_leave_the_rest_to_be_checked() {
    let file = "zookeeper = [5, { connect = '' }]\nfile = []\n[thrift]\nunix = ''\ntcp = ''\n";
    assert_eq!(
        diagnostics(file, &[], &[("log", "info"), ("zookeeper.1.name", "0")]),
        "roster.toml:1: zookeeper.0: expected a table, found 5\n\
         roster.toml:1: zookeeper.1.connect: names no server: expected `host:port,host:port/chroot`\n\
         roster.toml:4: thrift.unix: there is nothing to listen on: set this or `thrift.tcp`\n\
         --set log: expected a table, found \"info\""
    );
    assert_eq!(
        diagnostics("[zookeeper]\nconnect = 'zk'\n", &[], &[]),
        "roster.toml:1: zookeeper: expected a list, found a table; write `[[zookeeper]]`, on the command line `zookeeper.0.connect`"
    );
}

#[test]
fn services_are_registered_below_the_root_of_a_source_and_in_one_way() {
    let text = "[[zookeeper]]\nconnect = 'zk'\nroots = ['/a', '/dubbo']\n[[services]]\nroot = '/b'\nformat = 'curator'\n\
        [[services]]\nroot = '/a/x'\nformat = 'dubo'\n[[services]]\nroot = '/a'\nformat = 'nerve'\n\
        [services.fields]\nhost = 'ip'\n[[services]]\nname = 'x'\n[[services]]\nroot = '/dubbo'\nformat = 'dubbo'\n";
    let names = crate::model::Format::ALL.map(|format| format!("{:?}", format.name()));
    assert_eq!(
        diagnostics(text, &[], &[]),
        format!(
            "\
roster.toml:5: services.0.root: `/b` lies below no root of a source: add it to those of a `[[zookeeper]]`
roster.toml:9: services.1.format: expected {}, found \"dubo\"
roster.toml:11: services.2.root: `/a` overlaps `/a/x` of `services.1.root`: nodes are registered in one way only
roster.toml:13: services.2.fields: is of use for the format \"raw\" alone
roster.toml:15: services.3.format: is required, there is no default
roster.toml:15: services.3.root: is required, there is no default",
            names.join(" or ")
        )
    );
}

#[test]
fn a_key_that_is_required_and_misspelt_is_one_mistake() {
    let told = diagnostics("[[zookeeper]]\nconect = \"zk1\"\n", &[], &[]);
    assert!(told.contains("did you mean `connect`?") && !told.contains("is required"), "{told}");
}

/// The keys of all values, with `0` for every list index.
fn keys(value: &toml::Value, above: &str, into: &mut BTreeSet<String>) {
    let below = |name: &str| if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") };
    match value {
        toml::Value::Table(entries) => entries.iter().for_each(|(name, value)| keys(value, &below(name), into)),
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            items.iter().for_each(|item| keys(item, &below("0"), into));
        }
        _ => drop(into.insert(above.to_owned())),
    }
}
