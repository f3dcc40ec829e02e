//! Which client gets which grant, and what each allows.

use std::path::Path;

use super::*;

/// Never the number of this process's own user, even if that is root.
const WEB: u32 = 33_033;
const OPS: u32 = 44_044;

fn unix(uid: u32) -> Client {
    Client::Unix { uid, gid: uid }
}

fn rule(toml: &str) -> Rule {
    toml::from_str(toml).unwrap_or_else(|error| panic!("{toml}: {error}"))
}

fn access(config: &str, rules: &[&str]) -> Arc<Access> {
    let config = toml::from_str(config).expect("a configuration");
    let rules: Vec<Rule> = rules.iter().map(|toml| rule(toml)).collect();
    Access::new(Policy::new(&config, &rules).expect("names that are known"))
}

fn path(text: &str) -> NodePath {
    NodePath::parse(text).expect("a path")
}

#[test]
fn without_rules_the_socket_reads_and_calls_tcp_reads_and_administrators_command() {
    let access = access("admins = ['user:33033', 'group:44044']", &[]);
    let is = |client, groups: &[u32]| {
        let identity = access.identify(client, || groups.to_vec());
        assert!(
            identity.may_read(&path("/a")).is_ok() && identity.may_watch().is_ok() && identity.may_see("m").is_ok()
        );
        [identity.may_call("mail", "send").is_ok(), identity.may_command().is_ok()]
    };
    assert_eq!(is(unix(0), &[]), [true, true], "root");
    assert_eq!(is(unix(nix::unistd::geteuid().as_raw()), &[]), [true, true], "the sidecar's own user");
    assert_eq!(is(unix(WEB), &[]), [true, true], "by its user");
    assert_eq!(is(unix(OPS), &[]), [true, true], "by its first group");
    assert_eq!(is(unix(1), &[7, OPS]), [true, true], "by another group");
    assert_eq!(is(unix(1), &[7]), [true, false]);
    assert_eq!(is(Client::Tcp, &[OPS]), [false, false]);
}

#[test]
fn tcp_calls_where_that_is_allowed_and_never_commands() {
    let identity = access("tcp_calls = true", &[]).identify(Client::Tcp, Vec::new);
    assert!(identity.may_call("mail", "send").is_ok());
    let message = identity.may_command().expect_err("nobody is known").to_string();
    assert!(message.contains("over TCP") && message.contains("Unix socket"), "{message}");
}

#[test]
fn the_first_rule_for_a_client_decides_and_the_rest_is_denied() {
    let rules =
        ["user = '33033'\nread = ['/a']", "group = '44044'\nwatch = true\nread = ['/b']", "tcp = true\nread = ['/c']"];
    let access = access("", &rules);
    let reads = |client, groups: &[u32]| {
        let identity = access.identify(client, || groups.to_vec());
        ["/a/x", "/b", "/c", "/"].map(|text| identity.may_read(&path(text)).is_ok())
    };
    assert_eq!(reads(unix(WEB), &[OPS]), [true, false, false, false], "the first one alone");
    assert_eq!(reads(unix(5), &[OPS]), [false, true, false, false]);
    assert_eq!(reads(Client::Tcp, &[]), [false, false, true, false]);
    assert_eq!(reads(unix(5), &[]), [false; 4], "nobody allowed it anything");
    assert_eq!(reads(unix(0), &[]), [true; 4]);
}

#[test]
fn a_user_that_the_kernel_cannot_name_is_of_no_rule() {
    let unmapped: u32 =
        std::fs::read_to_string("/proc/sys/kernel/overflowuid").expect("Linux").trim().parse().expect("a number");
    let rules = [&*format!("user = '{unmapped}'\nread = ['/']"), "user = '*'\nread = ['/']"];
    let access = access(&format!("admins = ['user:{unmapped}']"), &rules);
    assert!(access.identify(unix(unmapped), Vec::new).may_read(&path("/a")).is_err());
    assert!(access.identify(unix(unmapped), Vec::new).may_command().is_err());
    assert!(access.identify(unix(WEB), Vec::new).may_read(&path("/a")).is_ok());
}

#[test]
fn another_policy_is_in_force_also_for_those_who_are_known_already() {
    let access = access("", &["user = '33033'\nread = ['/a']"]);
    let mut identity = access.identify(unix(WEB), Vec::new);
    assert!(identity.may_read(&path("/a")).is_ok());
    access.replace(Policy::new(&Config::default(), &[rule("user = '33033'\nread = ['/b']")]).expect("names"));
    assert!(!identity.is_current());
    identity.refresh(Vec::new);
    assert!(identity.may_read(&path("/a")).is_err() && identity.may_read(&path("/b")).is_ok());
}

#[test]
fn a_pattern_of_paths_is_of_what_it_matches_and_of_all_below_and_its_way_can_be_listed() {
    let rule = rule("read = ['/config', '/services/*/public', '/logs/**']");
    let grant = Grant::of(&rule);
    let reads = ["/config", "/config/db", "/services/mail/public", "/services/mail/public/x", "/logs/a/b"];
    assert!(reads.iter().all(|text| grant.reads(&path(text)) && grant.lists(&path(text))));
    for text in ["/", "/services", "/services/mail", "/logs"] {
        assert!(!grant.reads(&path(text)) && grant.lists(&path(text)), "{text}");
    }
    for text in ["/configuration", "/services/mail/secret", "/other", "/services/mail/secret/public"] {
        assert!(!grant.reads(&path(text)) && !grant.lists(&path(text)), "{text}");
    }
    assert_eq!(grant.roots(&path("/")), ["/config", "/logs", "/services"].map(path));
    assert_eq!(grant.roots(&path("/config/db")), [path("/config/db")]);
    assert_eq!(grant.roots(&path("/other")), []);
}

#[test]
fn services_and_methods_are_named_apart() {
    let grant = Grant::of(&rule("read = ['user*']\ncall = ['mail.send', 'App\\Jobs.*', '[x].y']"));
    assert!(grant.calls("mail", "send") && grant.calls("App\\Jobs", "run") && grant.calls("[x]", "y"));
    assert!(!grant.calls("mail", "drop") && !grant.calls("mail.send", "x") && !grant.calls("users", "get"));
    assert!(grant.sees("mail") && grant.sees("users") && grant.sees("App\\Jobs") && !grant.sees("billing"));
    assert!(!grant.sees_all() && Grant::of(&rule("read = ['*']")).sees_all());
    assert!(toml::from_str::<Rule>("call = ['mail']").expect_err("no method").to_string().contains("mail.*"));
}

#[test]
fn what_is_denied_is_told_by_name_alone_with_who_asks_and_the_cure() {
    let identity = access("", &["user = '33033'\nread = ['/a']"]).identify(unix(WEB), Vec::new);
    let message = identity.may_read(&path("/b")).expect_err("denied").to_string();
    assert_eq!(
        message,
        "uid 33033 may not read /b; `roster explain access --user 33033`, as root, shows which rule decides"
    );
    assert!(identity.may_command().expect_err("denied").to_string().contains("root"));
}

#[test]
fn the_cure_of_a_denial_names_the_file_that_explain_does_not_find_by_itself() {
    let denied = |file: Option<&str>| {
        let policy = Policy::new(&Config::default(), &[rule("user = '33033'\nread = ['/a']")]).expect("names");
        let access = Access::new(policy.read_from(file.map(Path::new)));
        access.identify(unix(WEB), Vec::new).may_read(&path("/b")).expect_err("denied").to_string()
    };
    for (file, option) in [
        (None, ""),
        (Some("/etc/roster/roster.toml"), ""),
        (Some("/tmp/allow.toml"), " --config /tmp/allow.toml"),
        (Some("/tmp/our rules.toml"), " --config '/tmp/our rules.toml'"),
    ] {
        let message = denied(file);
        assert!(message.contains(&format!("`roster explain access --user 33033{option}`, as root")), "{message}");
    }
}
