//! From layers to a configuration, or to mistakes.

use std::collections::BTreeSet;
use std::path::Path;

use bytesize::ByteSize;

use super::*;
use crate::zookeeper::Kerberos;

const EXAMPLE: &str = include_str!("../../contrib/roster.toml");

/// The example with all its settings in force.
fn whole_example() -> String {
    let setting = |line: &'static str| line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' '));
    EXAMPLE.lines().map(|line| setting(line).unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// By default every source claims the whole tree; here each has its part.
const APART: [(&str, &str); 3] = [
    ("zookeeper.0.connect", "tls://127.0.0.1:2181"),
    ("zookeeper.0.roots", "['/services']"),
    ("file.0.root", "/static"),
];

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(name, value)| (String::from(*name), String::from(*value))).collect()
}

fn load(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, Mistakes> {
    let file = Some(("/etc/roster/roster.toml".into(), file.to_owned()));
    Config::load(&Layers { file, environment: pairs(environment), flags: pairs(flags), ..Layers::default() })
}

fn mistakes(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
    let told = load(file, environment, flags).expect_err("mistakes").to_string();
    told.replace("/etc/roster/roster.toml", "roster.toml")
}

/// The keys of all values, with `0` for every number of an entry.
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

#[test]
fn a_character_that_only_looks_like_one_of_toml_is_named() {
    let told = |line: &str| mistakes(&format!("[[zookeeper]]\n{line}\n"), &[], &[]);
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
    let text = "connect = 'zk1'\nhistory = 1\n[thrift]\nmode = 660\nroots = []\n[[zookeeper]]\nconnect = ['zk1:1', 'zk2:1']\nlisten = ''\n";
    assert_eq!(
        mistakes(text, &[], &[]),
        "\
roster.toml:1: connect: this version of Roster has no such key; it belongs under `[[zookeeper]]` or `[[upstream]]`
roster.toml:2: history: this version of Roster has no such key; it belongs under `[store]`
roster.toml:4: thrift.mode: expected a string, found 660; write octal digits in quotes: \"0660\"
roster.toml:5: thrift.roots: this version of Roster has no such key; it belongs under `[[zookeeper]]`
roster.toml:7: zookeeper.0.connect: expected a string, found a list; write \"zk1:1,zk2:1\"
roster.toml:8: zookeeper.0.listen: this version of Roster has no such key; it belongs under `[[worker]]` or `[register]` or `[admin]`"
    );
}

#[test]
fn a_default_root_that_is_anothers_too_and_a_number_below_nothing_are_told_with_what_to_write() {
    let text = "[[zookeeper]]\nconnect = 'zk1'\nmax_depth = -1\n[[file]]\npath = 'nodes.toml'\n";
    let told = mistakes(text, &[], &[]);
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
    let told = mistakes(text, &[], &[]);
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
    assert_eq!(mistakes(file, &environment, &flags), expected.trim());
}

#[test]
fn what_nobody_can_mean_is_refused() {
    let file = "\
[thrift]
threads = 257
max_depth = 1025
idle_timeout = '25h'
max_watch = '1day'
[[zookeeper]]
connect = 'zk'
session_timeout = '500000000000years'
hold = '0s'
audit_interval = '1month'
max_depth = 1024
[shared]
max_size = '65TiB'
[register]
max_depth = 128
[sidecar]
stop_timeout = '2days'
";
    assert_eq!(
        mistakes(file, &[], &[]),
        "\
roster.toml:2: thrift.threads: is more than anybody can need: at most 256
roster.toml:3: thrift.max_depth: is more than anybody can need: at most 1024
roster.toml:4: thrift.idle_timeout: is more than anybody can need: at most 1day
roster.toml:8: zookeeper.0.session_timeout: is more than anybody can need: at most 1h
roster.toml:10: zookeeper.0.audit_interval: is more than anybody can need: at most 1day
roster.toml:13: shared.max_size: is more than anybody can need: at most 64.0 TiB
roster.toml:15: register.max_depth: is more than readers of JSON take: at most 127
roster.toml:17: sidecar.stop_timeout: is more than anybody can need: at most 1day"
    );
    load("[shared]\nmax_size = '64TiB'\n", &[], &[]).expect("a configuration");
}

#[test]
fn what_nothing_works_with_is_refused_and_the_least_that_works_is_not() {
    for (key, too_little, least) in [
        ("thrift.max_depth", "4", "5"),
        ("thrift.max_request", "1023", "1.0 KiB"),
        ("thrift.max_call", "1", "1.0 KiB"),
        ("thrift.max_reply", "63KiB", "64.0 KiB"),
        ("thrift.max_string", "1", "1.0 KiB"),
        ("register.max_depth", "3", "4"),
        ("register.max_message", "1", "1.0 KiB"),
        ("register.max_metadata", "3KiB", "4.0 KiB"),
        ("shared.max_size", "127KiB", "128.0 KiB"),
        ("shared.max_pinned", "1", "64.0 KiB"),
    ] {
        let told = mistakes("", &[], &[(key, too_little)]);
        assert!(told.ends_with(&format!("--set {key}: is too small: at least {least}")), "{told}");
        load("", &[], &[(key, least)]).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn the_owner_of_the_shared_file_may_read_and_write_it() {
    for mode in ["0440", "0240", "0040"] {
        let told = mistakes(&format!("[shared]\nmode = '{mode}'\n"), &[], &[]);
        assert!(told.contains("shared.mode: the sidecar opens the file more than once, so its owner has to"), "{told}");
    }
    load("[shared]\nmode = '0600'\n", &[], &[]).expect("a configuration");
}

#[test]
fn every_duration_is_at_most_a_day() {
    let shown = load(EXAMPLE, &[], &[]).expect("the example").to_toml();
    let shown = toml::from_str(&shown).expect("TOML");
    let (mut all, mut durations) = (BTreeSet::new(), 0);
    keys(&shown, "", &mut all);
    for key in &all {
        let value = key.split('.').try_fold(&shown, |value, part| match part.parse::<usize>() {
            Ok(number) => value.get(number),
            Err(_) => value.get(part),
        });
        let Some(text) = value.and_then(toml::Value::as_str) else { continue };
        if humantime::parse_duration(text).is_ok() {
            durations += 1;
            let told = mistakes(EXAMPLE, &[], &[(key, "25h")]);
            assert!(told.contains("is more than anybody can need: at most 1"), "{told}");
        }
    }
    assert!(durations > 10, "{durations}");
}

#[test]
fn a_queue_has_room_for_the_longest_message() {
    let told = mistakes("[register]\nmax_message = '2MiB'\n", &[], &[]);
    assert_eq!(told, "roster.toml:1: register.max_queue: is less than one message: `register.max_message` is 2.0 MiB");
    load("[register]\nmax_message = '2MiB'\nmax_queue = '2MiB'\n", &[], &[]).expect("a configuration");
}

#[test]
fn what_the_machine_does_not_have_is_a_mistake_for_a_check_alone() {
    let text = "[thrift]\ngroup = 'no such group'\n[[zookeeper]]\nconnect = 'zk'\nroots = ['/zk']\ncredentials = 'none'\n\
                [register]\ntokens = 'env:NOT_SET'\nsigning_key = 'env:PATH'\n[shared]\ngroup = 'nor such'\n\
                [[upstream]]\nconnect = 'hub:1'\ntoken = 'nor this'\n[[file]]\nroot = '/file'\npath = 'nor that'\n";
    let layers = Layers { file: Some(("/nonexistent/roster.toml".into(), text.into())), ..Layers::default() };
    Config::load(&layers).expect("a configuration");
    assert_eq!(
        Config::check(&layers, |doubt| panic!("{doubt}")).expect_err("mistakes").to_string(),
        "\
/nonexistent/roster.toml:2: thrift.group: there is no group \"no such group\" on this machine
/nonexistent/roster.toml:6: zookeeper.0.credentials: cannot read /nonexistent/none: No such file or directory (os error 2)
/nonexistent/roster.toml:8: register.tokens: cannot read env:NOT_SET: the variable NOT_SET is not set
/nonexistent/roster.toml:11: shared.group: there is no group \"nor such\" on this machine
/nonexistent/roster.toml:14: upstream.0.token: cannot read /nonexistent/nor this: No such file or directory (os error 2)
/nonexistent/roster.toml:17: file.0.path: cannot read /nonexistent/nor that: No such file or directory (os error 2)"
    );
}

#[test]
fn every_flaw_of_credentials_and_of_a_certificate_and_its_key_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("z.cred"), "digest\nnonsense\nu:p\n").expect("written");
    let text = "[[zookeeper]]\nconnect = 'zk'\ncredentials = 'z.cred'\n\
                [register.tls]\ncertificate = 'no.pem'\nkey = 'nor.pem'\n[shared]\nstate = 'state'\n";
    let layers =
        |text: &str| Layers { file: Some((folder.path().join("roster.toml"), text.to_owned())), ..Layers::default() };
    let mut doubts = Vec::new();
    let told = Config::check(&layers(text), |doubt| doubts.push(doubt)).expect_err("mistakes").to_string();
    let [doubt] = &doubts[..] else { panic!("{doubts:?}") };
    assert!(
        doubt
            .to_string()
            .ends_with("z.cred:3: it begins with no scheme that ZooKeeper knows; write digest:USER:PASSWORD"),
        "{doubt}"
    );
    assert_eq!(
        told.replace(&format!("{}/", folder.path().display()), ""),
        "\
roster.toml:3: zookeeper.0.credentials: z.cred:1: a line is SCHEME:IDENTITY; write digest:USER:PASSWORD
roster.toml:3: zookeeper.0.credentials: z.cred:2: a line is SCHEME:IDENTITY; write digest:USER:PASSWORD
roster.toml:5: register.tls.certificate: cannot use the certificate no.pem: No such file or directory (os error 2)
roster.toml:6: register.tls.key: cannot use the key nor.pem: No such file or directory (os error 2)"
    );
    let lone = layers("[register.tls]\ncertificate = 'no.pem'\n[shared]\nstate = 'state'\n");
    let told = Config::check(&lone, |doubt| panic!("{doubt}")).expect_err("mistakes").to_string();
    assert!(told.contains("register.tls.certificate: cannot use") && told.contains("register.tls.key: is required"));
}

#[cfg(not(feature = "gssapi"))]
#[test]
fn kerberos_in_a_build_without_it_is_a_mistake_for_a_check_that_names_the_build_that_has_it() {
    let text = "[[zookeeper]]\nconnect = 'zk'\n[zookeeper.kerberos]\nkeytab = 'none'\n[register]\nlisten = ''\n";
    let layers = Layers { file: Some(("/nonexistent/roster.toml".into(), text.into())), ..Layers::default() };
    Config::load(&layers).expect("a configuration");
    assert_eq!(
        Config::check(&layers, |doubt| panic!("{doubt}")).expect_err("a mistake").to_string(),
        "/nonexistent/roster.toml:3: zookeeper.0.kerberos: this build has no Kerberos, nor has the \
         package for Debian: build one that has it with `cargo build --release --features gssapi`"
    );
}

#[test]
fn what_kerberos_is_given_is_not_empty_and_its_keytab_is_a_file() {
    let text =
        "[[zookeeper]]\nconnect = 'zk'\n[zookeeper.kerberos]\nkeytab = 'env:PATH'\nprincipal = ''\nservice = ' '\n";
    assert_eq!(
        mistakes(text, &[], &[]),
        "\
roster.toml:4: zookeeper.0.kerberos.keytab: is a variable, which only tokens, credentials and `signing_key` may be
roster.toml:5: zookeeper.0.kerberos.principal: is empty: leave the key out for the default
roster.toml:6: zookeeper.0.kerberos.service: is empty: leave the key out for the default"
    );
}

#[test]
fn only_a_secret_is_taken_from_a_variable() {
    let told = mistakes("[[file]]\npath = 'env:PATH'\n[register.tls]\ncertificate = 'c'\nkey = 'env:PATH'\n", &[], &[]);
    let why = "is a variable, which only tokens, credentials and `signing_key` may be";
    assert_eq!(told, format!("roster.toml:2: file.0.path: {why}\nroster.toml:5: register.tls.key: {why}"));
}

#[test]
fn tokens_with_which_no_register_starts_are_a_mistake_for_a_check() {
    let folder = tempfile::tempdir().expect("a folder");
    let check = |register: &str, tokens: &str| {
        std::fs::write(folder.path().join("tokens"), tokens).expect("written");
        let text = format!("[register]\n{register}\n[shared]\nstate = 'state'\n");
        let layers = Layers { file: Some((folder.path().join("roster.toml"), text)), ..Layers::default() };
        Config::check(&layers, |doubt| panic!("{doubt}")).map_or_else(|error| error.to_string(), |_| String::new())
    };
    let open = "listen = '0.0.0.0:8010'\ntokens = 'tokens'";
    assert!(check(open, "register-center-token-2024\n").contains("roster.toml:3: register.tokens: "));
    assert!(check(open, "short\n").contains("fewer than 16 bytes"));
    assert!(check(open, "# none\n").contains("is empty"));
    assert_eq!(check(open, "0123456789abcdef\n"), "");
    assert_eq!(check("tokens = 'tokens'", "short\n"), "", "on loopback");
    assert_eq!(check("listen = '0.0.0.0:8010'", ""), "", "a token can be made");
    let layers = Layers { flags: vec![("shared.state".into(), "/proc/none/at-all".into())], ..Layers::default() };
    let nowhere = Config::check(&layers, |_| {}).expect_err("a mistake").to_string();
    assert!(nowhere.contains("no token can be made in /proc/none/at-all/register.token"), "{nowhere}");
}

/// What a check says of a file in a folder, without the folder's name.
fn checked(folder: &Path, text: &str) -> String {
    let layers = Layers { file: Some((folder.join("roster.toml"), text.to_owned())), ..Layers::default() };
    let mut told = Vec::new();
    let mistakes = Config::check(&layers, |doubt| told.push(format!("warning: {doubt}"))).err();
    told.extend(mistakes.map(|mistakes| mistakes.to_string()));
    told.join("\n").replace(&format!("{}/", folder.display()), "")
}

#[test]
fn a_check_refuses_what_does_not_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    std::fs::write(path.join("file"), "").expect("written");
    std::fs::write(path.join("tree.toml"), "[nodes]\n'/other' = ''\n").expect("written");
    let checked = |text: &str| checked(path, &format!("{text}\n[shared]\nstate = 'state'\n"));
    assert_eq!(
        checked("[thrift]\ntcp = '127.0.0.1:8010'"),
        "roster.toml: register.listen: is \"127.0.0.1:8010\", where `thrift.tcp` listens too: give each a port of its own"
    );
    assert!(checked("[thrift]\ntcp = 'localhost:9'\n[register]\nlisten = '0.0.0.0:9'").contains("a port of its own"));
    assert_eq!(checked("[thrift]\ntcp = '127.0.0.1:0'\n[register]\nlisten = '127.0.0.1:0'"), "");
    assert_eq!(
        checked(&format!("[thrift]\nunix = '{0}/s'\n[register]\nunix = '{0}/s'", path.display())),
        "roster.toml:4: register.unix: is the socket of `thrift.unix` too: give each one of its own"
    );
    assert_eq!(
        checked(&format!("[thrift]\nunix = '{}/file/roster.sock'", path.display())),
        "roster.toml:2: thrift.unix: no socket can be made in file: it is no folder; choose another, or have it made"
    );
    assert!(checked("[thrift]\nunix = '/proc/none/roster.sock'").contains("no folder can be made in /proc: "));
    assert_eq!(
        checked("[[file]]\npath = 'tree.toml'\nroot = '/app'"),
        "roster.toml:2: file.0.path: tree.toml: `/other` lies outside the file's root /app"
    );
    assert!(checked("[[file]]\npath = 'roster.toml'").contains("file.0.path: cannot read roster.toml"));
}

#[test]
fn a_doubt_is_a_warning_with_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("z.cred"), "u:p\n").expect("written");
    let text = "[[zookeeper]]\nconnect = 'zk'\ncredentials = 'z.cred'\n[register]\nlisten = ''\n";
    assert_eq!(
        checked(folder.path(), text),
        "warning: roster.toml:3: zookeeper.0.credentials: z.cred:1: it begins with no scheme that ZooKeeper knows; write \
         digest:USER:PASSWORD"
    );
}

#[test]
fn a_service_of_a_rule_that_is_mirrored_as_a_path_is_a_doubt() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "[[zookeeper]]\nconnect = 'zk'\nroots = ['/app/config']\n[register]\nlisten = ''\n[shared]\npath = ''\n\
                [[allow]]\nuser = '*'\nread = ['mail', '/app/config', 'config']\n";
    let told = checked(folder.path(), text);
    assert!(told.starts_with("warning: roster.toml:10: allow.0.read: \"config\" is a service; "), "{told}");
    assert!(told.contains("of /app/config, write their path") && told.lines().count() == 1, "{told}");
}

#[test]
fn a_rule_for_all_whom_a_user_namespace_cannot_name_is_a_doubt() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "[register]\nlisten = ''\n[shared]\npath = ''\n[access]\nadmins = ['group:65534']\n\
                [[file]]\npath = 'nodes.toml'\n[[allow]]\nuser = '65534'\nread = ['*']\n[[allow]]\nuser = '33'\n";
    std::fs::write(folder.path().join("nodes.toml"), "[nodes]\n").expect("written");
    let told = checked(folder.path(), text);
    let told: Vec<&str> = told.lines().collect();
    assert!(told.len() == 2 && told.iter().all(|line| line.contains(":65534\" is for nobody")), "{told:?}");
    assert!(told[0].contains("access.admins.0") && told[1].contains("allow.0"), "{told:?}");
}

#[test]
fn a_folder_that_cannot_be_made_for_the_shared_file_is_a_doubt() {
    let folder = tempfile::tempdir().expect("a folder");
    // Where a sidecar is installed, the default places are its user's.
    let own = folder.path().join("roster.sock");
    let text = format!(
        "[thrift]\nunix = {own:?}\n[shared]\nstate = ''\npath = '/proc/no/shared.mdb'\n[register]\nlisten = ''\n"
    );
    let told = checked(folder.path(), &text);
    let expected =
        "warning: roster.toml:5: shared.path: no folder can be made in /proc: it is the kernel's; choose another";
    assert!(told.lines().any(|line| line.starts_with(expected)), "{told}");
}

#[test]
fn the_sidecar_runs_as_the_owner_of_its_socket_else_of_its_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = nix::unistd::geteuid();
    let text = format!("[thrift]\nunix = '{0}/s'\n[shared]\nstate = '{0}/state'\n", folder.path().display());
    let user = || load(&text, &[], &[]).expect("a configuration").sidecar_user();
    assert_eq!(user(), None);
    std::fs::create_dir(folder.path().join("state")).expect("a folder");
    assert_eq!(user(), Some(own));
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("s")).expect("a socket");
    if own.is_root() {
        std::os::unix::fs::chown(folder.path().join("state"), Some(64_900), None).expect("root can");
        assert_eq!(user(), Some(own));
    }
}

#[test]
fn a_pattern_that_can_match_nothing_is_refused() {
    for key in ["include", "exclude"] {
        let told = mistakes(&format!("[[zookeeper]]\nconnect = 'zk'\n{key} = ['config']\n"), &[], &[]);
        let why = "\"config\" matches nothing: a pattern begins with '/'";
        assert_eq!(told, format!("roster.toml:3: zookeeper.0.{key}: {why}"));
    }
    load("[[zookeeper]]\nconnect = 'zk'\nexclude = ['**/locks', '{/a,/b}/*']\n", &[], &[]).expect("patterns");
    assert_eq!(
        mistakes("[[allow]]\nuser = '*'\nread = ['config/db']\n", &[], &[]),
        "roster.toml:3: allow.0.read: \"config/db\" is neither a path, which begins with '/', nor a service, which has none"
    );
    let upstream = |join: &str| format!("[[upstream]]\nconnect = 'hub:1'\ntoken = 't'\njoin = ['{join}']\n");
    assert_eq!(
        mistakes(&upstream("hub.example"), &[], &[]),
        "roster.toml:4: upstream.0.join: \"hub.example\" matches no register, each of which has a port: write \
         \"hub.example:8010\""
    );
    for join in ["*", "hub*", "*:8010"] {
        load(&upstream(join), &[], &[]).expect(join);
    }
}

#[test]
fn a_register_to_follow_is_an_address_or_a_socket_and_a_socket_has_no_tls() {
    let upstream = |connect: &str| format!("[[upstream]]\nconnect = '{connect}'\ntoken = 't'\n");
    for (connect, why) in [
        ("hub", "expected `host:port`, `tls://host:port` or `unix:///path`"),
        ("tls://unix:///run/hub.sock", "a Unix socket is spoken to without TLS: write `unix:///path`"),
        (
            "unix://run/hub.sock",
            "expected `unix:///path`, with an absolute path of at most 107 bytes and without control characters",
        ),
    ] {
        let told = format!("roster.toml:2: upstream.0.connect: {connect:?} is not an address: {why}");
        assert_eq!(mistakes(&upstream(connect), &[], &[]), told);
    }
    load(&upstream("unix:///run/hub.sock"), &[], &[]).expect("a socket");
    let told = mistakes(&format!("{}ca = 'ca.pem'\n", upstream("unix:///run/hub.sock")), &[], &[]);
    assert!(told.contains("upstream.0.ca: is of no use without TLS"), "{told}");
}

#[test]
fn what_should_be_a_list_is_told_as_it_is_written_there() {
    let connect = "zookeeper: expected a list, found a table; write";
    assert_eq!(
        mistakes("", &[], &[("zookeeper.connect", "zk")]),
        format!("--set zookeeper.connect: {connect} `--set zookeeper.0.connect=…`")
    );
    assert_eq!(
        mistakes("", &[("ROSTER_ZOOKEEPER__CONNECT", "zk")], &[]),
        format!("ROSTER_ZOOKEEPER__CONNECT: {connect} `ROSTER_ZOOKEEPER__0__CONNECT=…`")
    );
    assert_eq!(
        mistakes("", &[], &[("zookeeper.0.connect", "zk"), ("zookeeper.0.roots", "/config")]),
        "--set zookeeper.0.roots: expected a list, found \"/config\"; write `zookeeper.0.roots='[\"/config\"]'`, or \
         `zookeeper.0.roots.0=/config`"
    );
    assert_eq!(
        mistakes("[[zookeeper]]\nconnect = 'zk'\n", &[], &[("zookeeper.connect", "zk")]),
        "--set zookeeper.connect: a list has entries by number: write `0.connect`, or 1 for a new one"
    );
}

#[test]
fn a_key_that_was_renamed_names_its_successor() {
    let told = mistakes("[register]\nmax_strangers = 9\n", &[], &[]);
    let why = "this version of Roster has no such key; `max_unauthenticated` took its place";
    assert_eq!(told, format!("roster.toml:2: register.max_strangers: {why}"));
}

#[test]
fn what_is_no_toml_is_told_by_lines_alone() {
    let file = "[thrift]\nunix = /run\nthreads = 1\nthreads = 2\n[log]\nlevel == 3\n";
    assert_eq!(
        mistakes(file, &[("ROSTER_NO__KEY", "1")], &[]),
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
        mistakes(file, &[], &[("log", "info"), ("zookeeper.1.name", "0")]),
        "roster.toml:1: zookeeper.0: expected a table, found 5\n\
         roster.toml:1: zookeeper.1.connect: names no server: expected `host:port,host:port/chroot`\n\
         roster.toml:4: thrift.unix: there is nothing to listen on: set this or `thrift.tcp`\n\
         --set log: expected a table, found \"info\""
    );
    assert_eq!(
        mistakes("[zookeeper]\nconnect = 'zk'\n", &[], &[]),
        "roster.toml:1: zookeeper: expected a list, found a table; write `[[zookeeper]]`, on the command line `zookeeper.0.connect`"
    );
}

#[test]
fn an_address_to_listen_on_is_a_loopback_one() {
    for tcp in ["127.0.0.1:0", "127.8.9.10:9090", "[::1]:9090", "localhost:9090", ""] {
        load("", &[], &[("thrift.tcp", tcp)]).unwrap_or_else(|error| panic!("{tcp}: {error}"));
    }
    assert!(load("", &[], &[("admin.listen", "0.0.0.0:9191")]).is_err());
    for tcp in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1", "localhost", "127.0.0.1:", ":1", "local.example:1", "unix:///x"] {
        assert!(load("", &[], &[("thrift.tcp", tcp)]).is_err(), "{tcp}");
    }
}

#[test]
fn a_log_filter_is_a_level_or_names_its_modules() {
    for level in ["info", "off", "WARN", "info,roster=debug", "roster::store=trace,warn"] {
        load("", &[], &[("log.level", level)]).unwrap_or_else(|error| panic!("{level}: {error}"));
    }
    for level in ["verbose", "info,debgu", "roster=verbose", "=,="] {
        assert!(load("", &[], &[("log.level", level)]).is_err(), "{level}");
    }
}

#[test]
fn flags_lie_over_the_environment_over_the_file_over_the_defaults() {
    let file = "[thrift]\nmax_depth = 5\nmax_container = 1\nmax_connections = 1\n";
    let environment = [
        ("ROSTER_THRIFT__MAX_CONTAINER", "2"),
        ("ROSTER_THRIFT__MAX_CONNECTIONS", "2"),
        ("ROSTER_ADDRESS", "is none of the configuration"),
        ("THRIFT__THREADS", "neither"),
    ];
    let flags = [("thrift.max_connections", "3"), ("thrift.max_connections", "4")];
    let thrift = load(file, &environment, &flags).expect("a configuration").thrift;
    assert_eq!((thrift.max_depth, thrift.max_container, thrift.max_connections), (5, 2, 4));
    assert_eq!(thrift.max_connections_per_user, thrift::Config::default().max_connections_per_user);
}

#[test]
fn a_variable_that_lacks_an_underscore_is_told_and_one_of_somebody_else_is_not() {
    let names = ["THRIFT_TCP", "ZK_DATA_PATH", "THRIFT_IDLE_TIMEOUT", "ZOOKEEPER_12_CONNECT", "LOG_LEVEL"];
    let environment: Vec<_> = names.iter().map(|name| (format!("ROSTER_{name}"), "1".to_owned())).collect();
    let told = Config::load(&Layers { environment, ..Layers::default() }).expect_err("mistakes");
    assert_eq!(
        told.to_string(),
        "\
ROSTER_LOG_LEVEL: log_level: this version of Roster has no such key; did you mean `ROSTER_LOG__LEVEL`?
ROSTER_THRIFT_IDLE_TIMEOUT: thrift_idle_timeout: this version of Roster has no such key; did you mean `ROSTER_THRIFT__IDLE_TIMEOUT`?
ROSTER_THRIFT_TCP: thrift_tcp: this version of Roster has no such key; did you mean `ROSTER_THRIFT__TCP`?
ROSTER_ZK_DATA_PATH: zk_data_path: this version of Roster has no such key; did you mean `ROSTER_ZK_DATA__PATH`?
ROSTER_ZOOKEEPER_12_CONNECT: zookeeper_12_connect: this version of Roster has no such key; did you mean `ROSTER_ZOOKEEPER__12__CONNECT`?"
    );
    // Kubernetes and others set such for a service.
    for name in
        ["ROSTER_PORT", "ROSTER_THRIFT_SERVICE_HOST", "ROSTER_ZOOKEEPER_PORT_2181_TCP", "ROSTER_LOG", "ROSTER__"]
    {
        load("", &[(name, "1")], &[]).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn the_environment_reaches_into_lists_and_lengthens_them() {
    let file = "[[zookeeper]]\nconnect = 'zk1'\nname = 'one'\nroots = ['/1']\n";
    let environment = [
        ("ROSTER_ZOOKEEPER__1__CONNECT", "zk2:2181/app"),
        ("ROSTER_ZOOKEEPER__1__ROOTS", "['/2', '/3']"),
        ("ROSTER_ZOOKEEPER__0__CONNECT", "zk0"),
        ("ROSTER_FILE__0__PATH", "/nodes.toml"),
        ("ROSTER_FILE__0__ROOT", "/static"),
    ];
    let config = load(file, &environment, &[("zookeeper.0.roots.1", "/4")]).expect("a configuration");
    let [one, two] = config.zookeeper.as_slice() else { panic!("{config:?}") };
    assert_eq!((one.connect.as_str(), one.name.as_str(), one.roots.len()), ("zk0", "one", 2));
    assert_eq!((two.connect.as_str(), two.name.as_str(), two.roots.len()), ("zk2:2181/app", "zookeeper", 2));
    assert_eq!(config.file[0].root.as_str(), "/static");

    let many: Vec<_> = (0..12).map(|n| (format!("ROSTER_ZOOKEEPER__{n}__NAME"), format!("{n}"))).collect();
    let told = Config::load(&Layers { environment: many, ..Layers::default() }).expect_err("no `connect`");
    assert!(told.0.iter().all(|mistake| !mistake.message.contains("no entry")), "{told}");
}

#[test]
fn a_value_outside_the_file_is_toml_where_it_can_be_and_a_text_where_it_must() {
    let environment = [
        ("ROSTER_ZOOKEEPER__0__CONNECT", "zk"),
        ("ROSTER_ZOOKEEPER__0__NAME", "0815"),
        ("ROSTER_ZOOKEEPER__0__INCLUDE", r#"["/a/**"]"#),
        ("ROSTER_THRIFT__GROUP", "42"),
        ("ROSTER_THRIFT__MODE", "600"),
        ("ROSTER_THRIFT__TCP", ""),
        ("ROSTER_THRIFT__MAX_REQUEST", "1500"),
        ("ROSTER_THRIFT__IDLE_TIMEOUT", "\"5s\""),
        ("ROSTER_LOG__FORMAT", "json"),
    ];
    let config = load("", &environment, &[("sidecar.stop_timeout", "0s")]).expect("a configuration");
    assert_eq!((config.zookeeper[0].name.as_str(), config.thrift.group.as_str()), ("0815", "42"));
    assert_eq!((config.thrift.mode.0, config.thrift.max_request.0), (0o600, 1500));
    assert_eq!((config.thrift.tcp.as_str(), config.thrift.idle_timeout), ("", Duration::from_secs(5)));
    assert_eq!((config.log.format, config.sidecar.stop_timeout), (LogFormat::Json, Duration::ZERO));
    assert!(!config.zookeeper[0].include.is_empty());
}

#[test]
fn a_name_or_a_path_is_taken_as_it_is_typed_whatever_toml_would_make_of_it() {
    let here = std::env::current_dir().expect("a working directory");
    for typed in [
        "2026-11-27",
        "2026-11-27 10:00:00Z",
        "2026-11-27 # old",
        "10:00:00",
        "0xfffffffffffffffffffff",
        "1_000",
        "0x10",
        "1e3",
        "true",
        "nan",
    ] {
        let flags = ["shared.path", "shared.state", "thrift.group", "zookeeper.0.name"].map(|key| (key, typed));
        let config = load("[[zookeeper]]\nconnect = 'zk'\n", &[], &flags).expect("a configuration");
        assert_eq!((&*config.shared.path, &*config.shared.state), (Path::new(typed), &*here.join(typed)));
        assert_eq!((&*config.thrift.group, &*config.zookeeper[0].name), (typed, typed));
    }
}

#[test]
fn a_relative_path_starts_where_it_was_written() {
    let file = "[[file]]\npath = 'nodes.toml'\nroot = '/1'\n[[file]]\npath = 'x'\nroot = '/2'\nname = 'two'\n";
    let config = load(file, &[("ROSTER_FILE__1__PATH", "here.toml")], &[]).expect("a configuration");
    assert_eq!(config.file[0].path, Path::new("/etc/roster/nodes.toml"));
    let here = std::env::current_dir().expect("a working directory");
    assert_eq!(config.file[1].path, here.join("here.toml"));
    let state = |raw: &str| load("", &[], &[("shared.state", raw)]).map(|config| config.shared.state);
    assert_eq!(state("'/a b'").expect("a path"), Path::new("/a b"));
    assert_eq!(state("0815").expect("a path"), here.join("0815"));
    assert!(state("['a']").expect_err("no path").to_string().contains("expected a string, found a list"));
}

#[test]
fn no_layers_are_the_defaults() {
    let config = Config::load(&Layers::default()).expect("a configuration");
    assert_eq!(config.to_toml(), Config::default().to_toml());
}

#[test]
fn services_are_registered_below_the_root_of_a_source_and_in_one_way() {
    let text = "[[zookeeper]]\nconnect = 'zk'\nroots = ['/a', '/dubbo']\n[[services]]\nroot = '/b'\nformat = 'curator'\n\
        [[services]]\nroot = '/a/x'\nformat = 'dubo'\n[[services]]\nroot = '/a'\nformat = 'nerve'\n\
        [services.fields]\nhost = 'ip'\n[[services]]\nname = 'x'\n[[services]]\nroot = '/dubbo'\nformat = 'dubbo'\n";
    let names = crate::model::Format::ALL.map(|format| format!("{:?}", format.name()));
    assert_eq!(
        mistakes(text, &[], &[]),
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
fn the_example_is_the_defaults_and_holds_every_key() {
    let ensemble = source::zookeeper::Config::new("127.0.0.1:2181");
    let mut expected = Config { zookeeper: vec![ensemble], ..Config::default() };
    assert_eq!(load(EXAMPLE, &[], &[]).expect("the example").to_toml(), expected.to_toml());

    let config = load(&whole_example(), &[], &APART).expect("the whole example");
    expected.zookeeper[0].roots = config.zookeeper[0].roots.clone();
    expected.zookeeper[0].connect = "tls://127.0.0.1:2181".into();
    let [ca, certificate, key] =
        ["zookeeper-ca.pem", "roster.pem", "roster.key"].map(|name| Some(format!("/etc/roster/{name}").into()));
    (expected.zookeeper[0].ca, expected.zookeeper[0].certificate, expected.zookeeper[0].key) = (ca, certificate, key);
    expected.zookeeper[0].credentials = Some("/etc/roster/zookeeper.credentials".into());
    let kerberos = Kerberos::default();
    expected.zookeeper[0].kerberos = Some(Kerberos {
        keytab: Some("/etc/roster/roster.keytab".into()),
        principal: Some("roster@EXAMPLE.COM".into()),
        ..kerberos
    });
    expected.file = config.file.clone();
    let (root, format) = (NodePath::root().child("services"), crate::model::Format::Curator);
    expected.services = vec![format::Config { root, format, ..format::Config::default() }];
    expected.upstream = config.upstream.clone();
    let worker = worker::Config::default();
    expected.worker = vec![worker::Config {
        name: "web".into(),
        command: vec!["php".into(), "/srv/app/worker.php".into()],
        params: toml::toml! { queue = "mail" },
        directory: Some("/srv/app".into()),
        environment: [("APP_ENV".into(), "production".into())].into(),
        max_lifetime: Some(Duration::from_secs(3_600)),
        max_memory: Some(ByteSize::mib(256)),
        kill_memory: Some(ByteSize::mib(512)),
        max_files: Some(1_024),
        max_processes: Some(512),
        ..worker
    }];
    expected.allow = config.allow.clone();
    expected.access.admins = config.access.admins.clone();
    expected.register.tokens = Some("/etc/roster/register.tokens".into());
    expected.register.tls = config.register.tls.clone();
    expected.register.signing_key = Some("/etc/roster/register.key".into());
    expected.thrift.threads = config.thrift.threads;
    assert_eq!(config.to_toml(), expected.to_toml());

    let (mut shown, mut documented) = (BTreeSet::new(), BTreeSet::new());
    keys(&toml::from_str(&config.to_toml()).expect("TOML"), "", &mut shown);
    keys(&toml::from_str(&whole_example()).expect("TOML"), "", &mut documented);
    assert_eq!(shown, documented);
}

#[test]
fn what_is_shown_loads_to_the_same_to_the_byte() {
    // Sizes that are no whole number of any unit, durations of several, and whatever needs quotes.
    let odd = whole_example().replace("KiB\"", "001B\"").replace("MiB\"", "000001B\"").replace("15s", "15s 7ms");
    let flags = [APART.as_slice(), &[("file.0.name", "a \"b\"\\\n"), ("zookeeper.0.exclude", "['/**/[a]']")]].concat();
    let config = load(&odd, &[], &flags).expect("a configuration");
    assert_eq!((config.thrift.max_request.0, config.zookeeper[0].max_node_bytes.0), (64_001, 1_000_001));
    let shown = config.to_toml();
    let again = load(&shown, &[], &[]).unwrap_or_else(|error| panic!("{shown}\n{error}"));
    assert_eq!(format!("{again:?}"), format!("{config:?}"));
    assert_eq!(again.to_toml(), shown);
}

#[test]
fn no_part_of_a_file_makes_loading_panic_or_hang() {
    let whole = whole_example();
    let settings: String =
        whole.lines().filter(|line| !line.starts_with("# ")).map(|line| format!("{line}\n")).collect();
    for (cut, _) in settings.char_indices() {
        for part in [&settings[..cut], &settings[cut..]] {
            // Whatever it is, it comes to an end, and mistakes have lines that the part has.
            let Err(told) = load(part, &[], &[]) else { continue };
            let lines = part.matches('\n').count() + 1;
            for mistake in &told.0 {
                let is_there = match &mistake.place {
                    Place::Line { line, .. } => *line <= lines,
                    place => matches!(place, Place::File(_)),
                };
                assert!(is_there, "{mistake}\n{part}");
            }
        }
    }
}

#[test]
fn a_key_that_is_required_and_misspelt_is_one_mistake() {
    let told = mistakes("[[zookeeper]]\nconect = \"zk1\"\n", &[], &[]);
    assert!(told.contains("did you mean `connect`?") && !told.contains("is required"), "{told}");
}

#[test]
fn no_worker_listens_where_another_part_does() {
    let worker =
        |name: &str, listen: &str| format!("[[worker]]\nname = '{name}'\ncommand = ['true']\nlisten = ['{listen}']\n");
    let workers = [("a", "tcp://0.0.0.0:9090"), ("b", "unix:///run/b.sock"), ("c", "unix:///run/b.sock")];
    let workers: String = workers.iter().map(|(name, listen)| worker(name, listen)).collect();
    assert_eq!(
        mistakes(&workers, &[], &[]),
        "roster.toml:4: worker.0.listen.0: is \"0.0.0.0:9090\", where `thrift.tcp` listens too: give each a port of its own\n\
         roster.toml:12: worker.2.listen.0: is the socket of `worker.1.listen.0` too: give each one of its own"
    );
}

#[test]
fn a_start_refuses_workers_that_nobody_could_run_or_name() {
    let text = "[[worker]]\nname = 'a b'\ncommand = ['']\nenvironment = { 'A=B' = '' }\nlisten = ['127.0.0.1:80']\n\
                [[worker]]\ncommand = ['true']\ncount = 0\n[[worker]]\nname = 'a b'\nstop_signal = 'NOPE'\n";
    let told = mistakes(text, &[], &[]);
    for line in [
        "roster.toml:2: worker.0.name: \"a b\" is no name: expected letters, digits, `.`, `_` and `-`",
        "roster.toml:3: worker.0.command: names no program: write `[\"php\", \"worker.php\"]`",
        "roster.toml:4: worker.0.environment: \"A=B\" cannot be set as a variable",
        "roster.toml:5: worker.0.listen.0: \"127.0.0.1:80\" is not an address: expected `tcp://host:port` or `unix:///path`",
        "roster.toml:6: worker.1.name: is required, there is no default",
        "roster.toml:8: worker.1.count: 0 is no number of processes: 1 to 1000",
        "roster.toml:9: worker.2.command: is required, there is no default",
        "roster.toml:10: worker.2.name: \"a b\" is the name of `worker.0.name`: give each a name of its own",
    ] {
        assert!(told.lines().any(|found| found == line), "{line} in\n{told}");
    }
    assert!(told.contains("roster.toml:11: worker.2.stop_signal: \"NOPE\" is no signal"), "{told}");
}
