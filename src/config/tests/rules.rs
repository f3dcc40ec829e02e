//! Rules: refused values, each with its fix.

use super::*;

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
        diagnostics(file, &[], &[]),
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
        let told = diagnostics("", &[], &[(key, too_little)]);
        assert!(told.ends_with(&format!("--set {key}: is too small: at least {least}")), "{told}");
        load("", &[], &[(key, least)]).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn the_owner_of_the_shared_file_may_read_and_write_it() {
    for mode in ["0440", "0240", "0040"] {
        let told = diagnostics(&format!("[shared]\nmode = '{mode}'\n"), &[], &[]);
        assert!(told.contains("shared.mode: the sidecar opens the file more than once, so its owner has to"), "{told}");
    }
    load("[shared]\nmode = '0600'\n", &[], &[]).expect("a configuration");
}

#[test]
fn every_duration_is_bounded() {
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
            let is_kept = ["queue.keep_dead", "queue.keep_results"].contains(&key.as_str());
            let long = if is_kept { "367days" } else { "25h" };
            let told = diagnostics(EXAMPLE, &[], &[(key, long)]);
            let most = if is_kept { "at most 366days" } else { "at most 1" };
            assert!(told.contains(&format!("is more than anybody can need: {most}")), "{told}");
        }
    }
    assert!(durations > 10, "{durations}");
}

#[test]
fn what_recurs_has_a_name_of_its_own_a_schedule_and_a_zone() {
    let good = "name = 'a'\nqueue = 'q'\njob = 'j'\nschedule = '@daily'\n";
    let told = |tables: &str| diagnostics(&format!("[queue]\npath = '/q'\n{tables}"), &[], &[]);
    let table = |lines: &str| told(&format!("[[queue.recurring]]\n{lines}"));
    let wrong = table(&good.replace("@daily", "61 * * * *"));
    let start = "roster.toml:7: queue.recurring.0.schedule: \"61 * * * *\" is no expression of cron: its minute cannot be \"61\"";
    assert!(wrong.starts_with(start), "{wrong}");
    let wrong = table(&good.replace("@daily", "0 0 30 2 *"));
    assert!(wrong.starts_with("roster.toml:7: queue.recurring.0.schedule: ") && wrong.contains("never"), "{wrong}");
    let wrong = table(&format!("{good}time_zone = 'Mars/Olympus'\n"));
    assert!(wrong.starts_with("roster.toml:8: queue.recurring.0.time_zone: ") && wrong.contains("\"UTC\""), "{wrong}");
    let wrong = table("name = 'a'\n");
    assert_eq!(wrong.matches("is required").count(), 3, "{wrong}");
    let wrong = table(&good.replace("'q'", "''"));
    assert!(wrong.starts_with("roster.toml:5: queue.recurring.0.queue: "), "{wrong}");
    let wrong = table(&format!("{good}payload = '{}'\n", "x".repeat(70_000)));
    assert!(wrong.contains("queue.recurring.0.payload: has 70002 bytes as JSON"), "{wrong}");
    let wrong = table(&format!("{good}payload = {{ n = [nan] }}\n"));
    assert!(wrong.contains("queue.recurring.0.payload: has a number that JSON does not have"), "{wrong}");
    let table = format!("[[queue.recurring]]\n{good}");
    assert!(told(&table.repeat(2)).contains("is the name of another one"));
    assert!(diagnostics(&table, &[], &[]).contains("queue.recurring: is of no use without queues"));
    let told = diagnostics("[queue]\nmax_jobs = 10\n", &[], &[]);
    assert!(told.contains("roster.toml:2: queue.max_jobs: is of no use without queues"), "{told}");
}

#[test]
fn what_does_not_hold_where_the_jobs_are_is_refused() {
    let limit = "keep_results = '1h'\n[[queue.limit]]\nqueue = 'q'\nconcurrency = 1\n";
    let recurring = "[[queue.recurring]]\nname = 'a'\nqueue = 'q'\njob = 'j'\nschedule = '@daily'\n";
    let table = format!("{limit}key = true\n{recurring}");
    let settings = "path = '/q'\nmax_bytes = '1MiB'\ndurability = 'batched'\nsync_interval = '1s'\n";
    let told = diagnostics(&format!("[queue]\nbackend = 'redis://r'\n{settings}{table}"), &[], &[]);
    let start = "is not for jobs in Redis, where `queue.backend` has them: leave it out,";
    let of_keys = "is not for jobs in Redis, where `queue.backend` has them: they are taken from the front of \
                   a queue, whatever their keys; leave it out to limit the whole queue, or use one per key";
    assert_eq!(
        told,
        format!(
            "\
roster.toml:3: queue.path: {start} or `backend` for a folder, or set `buffer`
roster.toml:4: queue.max_bytes: {start} set `maxmemory` of Redis
roster.toml:5: queue.durability: {start} set `appendfsync` of Redis
roster.toml:6: queue.sync_interval: {start} set `appendfsync` of Redis
roster.toml:11: queue.limit.0.key: {of_keys}"
        )
    );
    let told = diagnostics(&format!("[queue]\nbackend = 'redis://r'\nbuffer = true\n{settings}{table}"), &[], &[]);
    assert_eq!(told, format!("roster.toml:12: queue.limit.0.key: {of_keys}"));
    for settings in ["", "buffer = true\npath = '/q'\n"] {
        let config = load(&format!("[queue]\nbackend = 'redis://r'\n{settings}{limit}{recurring}"), &[], &[]);
        assert_eq!(config.expect("a limit of the whole queue").queue.limit.len(), 1);
    }
    let told = diagnostics("[queue]\nbackend = 'redis://r'\nbuffer = true\n", &[], &[]);
    assert!(told.starts_with("roster.toml:3: queue.buffer: needs `queue.backend`, and `queue.path`"), "{told}");
    let told = diagnostics("[queue]\npath = '/q'\nprefix = 'a:'\npassword_file = '/p'\n", &[], &[]);
    assert_eq!(
        told,
        "\
roster.toml:3: queue.prefix: is of no use without `queue.backend`
roster.toml:4: queue.password_file: is of no use without `queue.backend`"
    );
}

#[test]
fn the_defaults_of_a_queue_are_bounded_and_in_one_table() {
    let defaults = "\
[queue]
path = 'queue'
[[queue.default]]
retries = 3
[[queue.default]]
queue = 'mail'
retries = 1001
[[queue.default]]
queue = 'img'
timeout = '0s'
[[queue.default]]
queue = 'mail'
";
    assert_eq!(
        diagnostics(defaults, &[], &[]),
        "\
roster.toml:3: queue.default.0.queue: is required, there is no default
roster.toml:7: queue.default.1.retries: is more than anybody can need: at most 1000
roster.toml:10: queue.default.2.timeout: 0 leaves nothing to work with; leave the key out for its default
roster.toml:12: queue.default.3.queue: has such a table already: make them one"
    );
}

#[test]
fn a_limit_of_nothing_is_refused_as_is_a_second_one() {
    let limits = "\
[queue]
path = 'queue'
[[queue.limit]]
queue = 'mail'
[[queue.limit]]
concurrency = 1
[[queue.limit]]
queue = 'img'
rate = '100 a minute'
[[queue.limit]]
queue = 'img'
concurrency = 0
";
    assert_eq!(
        diagnostics(limits, &[], &[]),
        "\
roster.toml:4: queue.limit.0.queue: has no limit: set `concurrency`, `rate`, or both
roster.toml:5: queue.limit.1.queue: is required, there is no default
roster.toml:9: queue.limit.2.rate: \"100 a minute\" is no rate: write a number of jobs and a time, as in \"100/1m\"
roster.toml:11: queue.limit.3.queue: has such a limit already: make them one
roster.toml:12: queue.limit.3.concurrency: 0 leaves nothing to work with; leave the key out for its default"
    );
}

#[test]
fn a_queue_has_room_for_the_longest_message() {
    let told = diagnostics("[register]\nmax_message = '2MiB'\n", &[], &[]);
    assert_eq!(told, "roster.toml:1: register.max_queue: is less than one message: `register.max_message` is 2.0 MiB");
    load("[register]\nmax_message = '2MiB'\nmax_queue = '2MiB'\n", &[], &[]).expect("a configuration");
}

#[test]
fn what_kerberos_is_given_is_not_empty_and_its_keytab_is_a_file() {
    let text =
        "[[zookeeper]]\nconnect = 'zk'\n[zookeeper.kerberos]\nkeytab = 'env:PATH'\nprincipal = ''\nservice = ' '\n";
    assert_eq!(
        diagnostics(text, &[], &[]),
        "\
roster.toml:4: zookeeper.0.kerberos.keytab: is a variable, which only tokens, credentials and `signing_key` may be
roster.toml:5: zookeeper.0.kerberos.principal: is empty: leave the key out for the default
roster.toml:6: zookeeper.0.kerberos.service: is empty: leave the key out for the default"
    );
}

#[test]
fn a_pattern_that_can_match_nothing_is_refused() {
    for key in ["include", "exclude"] {
        let told = diagnostics(&format!("[[zookeeper]]\nconnect = 'zk'\n{key} = ['config']\n"), &[], &[]);
        let why = "\"config\" matches nothing: a pattern begins with '/'";
        assert_eq!(told, format!("roster.toml:3: zookeeper.0.{key}: {why}"));
    }
    load("[[zookeeper]]\nconnect = 'zk'\nexclude = ['**/locks', '{/a,/b}/*']\n", &[], &[]).expect("patterns");
    assert_eq!(
        diagnostics("[[allow]]\nuser = '*'\nread = ['config/db']\n", &[], &[]),
        "roster.toml:3: allow.0.read: \"config/db\" is neither a path, which begins with '/', nor a service, which has none"
    );
    let upstream = |join: &str| format!("[[upstream]]\nconnect = 'hub:1'\ntoken = 't'\njoin = ['{join}']\n");
    assert_eq!(
        diagnostics(&upstream("hub.example"), &[], &[]),
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
        assert_eq!(diagnostics(&upstream(connect), &[], &[]), told);
    }
    load(&upstream("unix:///run/hub.sock"), &[], &[]).expect("a socket");
    let told = diagnostics(&format!("{}ca = 'ca.pem'\n", upstream("unix:///run/hub.sock")), &[], &[]);
    assert!(told.contains("upstream.0.ca: is of no use without TLS"), "{told}");
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
fn no_worker_listens_where_another_part_does() {
    let worker =
        |name: &str, listen: &str| format!("[[worker]]\nname = '{name}'\ncommand = ['true']\nlisten = ['{listen}']\n");
    let workers = [("a", "tcp://0.0.0.0:9090"), ("b", "unix:///run/b.sock"), ("c", "unix:///run/b.sock")];
    let workers: String = workers.iter().map(|(name, listen)| worker(name, listen)).collect();
    assert_eq!(
        diagnostics(&workers, &[], &[]),
        "roster.toml:4: worker.0.listen.0: is \"0.0.0.0:9090\", where `thrift.tcp` listens too: give each a port of its own\n\
         roster.toml:12: worker.2.listen.0: is the socket of `worker.1.listen.0` too: give each one of its own"
    );
}

#[test]
fn a_start_refuses_workers_that_nobody_could_run_or_name() {
    let text = "[[worker]]\nname = 'a b'\ncommand = ['']\nenvironment = { 'A=B' = '' }\nlisten = ['127.0.0.1:80']\n\
                [[worker]]\ncommand = ['true']\ncount = 0\n[[worker]]\nname = 'a b'\nstop_signal = 'NOPE'\n\
                max_lifetime = '9s'\nenvironment = { ROSTER_PARAMS = '' }\nparams = { n = nan }\nkill_memory = '1MiB'\n\
                max_memory = '2MiB'\nbalance = 'client-address'\n[[worker]]\nname = 'c'\ncommand = 'php a.php'\nexit_codes = [300]\n\
                priority = 'high'\n[[worker]]\nname = 'd'\ncommand = ['true']\nlog = '/var/log/'\nmax_log_files = 0\n\
                [[worker]]\nname = 'e'\ncommand = ['true']\nlog = '/var/log/app.log'\nmax_log_size = '1KiB'\n\
                [[worker]]\nname = 'f'\ncommand = ['true']\nlog = '/var/log/app.log'\n\
                [[worker]]\nname = 'g'\ncommand = ['true']\nmax_log_age = '1d'\nmay_listen = ['tcp://[::1]:9-8']\n";
    let told = diagnostics(text, &[], &[]);
    for line in [
        "roster.toml:2: worker.0.name: \"a b\" is no name: expected letters, digits, `.`, `_` and `-`",
        "roster.toml:3: worker.0.command: names no program: write `[\"php\", \"worker.php\"]`",
        "roster.toml:4: worker.0.environment: \"A=B\" cannot be set as a variable",
        "roster.toml:5: worker.0.listen.0: \"127.0.0.1:80\" is not an address: expected `tcp://host:port` or `unix:///path`",
        "roster.toml:6: worker.1.name: is required, there is no default",
        "roster.toml:8: worker.1.count: 0 is no number of processes: 1 to 1000",
        "roster.toml:9: worker.2.command: is required, there is no default",
        "roster.toml:10: worker.2.name: \"a b\" is the name of `worker.0.name`: give each a name of its own",
        "roster.toml:12: worker.2.max_lifetime: is too small: at least 10s",
        "roster.toml:13: worker.2.environment: \"ROSTER_PARAMS\" is set by the sidecar",
        "roster.toml:14: worker.2.params: has a number that JSON does not have: `nan` or `inf`",
        "roster.toml:15: worker.2.kill_memory: is less than max_memory, 2.0 MiB: a process is killed before it is replaced",
        "roster.toml:17: worker.2.balance: is of no use without `accept = \"sidecar\"`",
        "roster.toml:20: worker.3.command: expected a list, found \"php a.php\"; write `[\"php\", \"a.php\"]`: no shell reads it",
        "roster.toml:21: worker.3.exit_codes.0: expected a number from 0 to 255, found 300",
        "roster.toml:22: worker.3.priority: expected a whole number, found \"high\"",
        "roster.toml:26: worker.4.log: names no file: write the path of one, such as \"/var/log/app/web.log\"",
        "roster.toml:27: worker.4.max_log_files: 0 leaves nothing to work with; leave the key out for its default",
        "roster.toml:32: worker.5.max_log_size: is too small: at least 64.0 KiB",
        "roster.toml:36: worker.6.log: is `worker.5.log` too: give each a file of its own",
        "roster.toml:41: worker.7.may_listen.0: \"tcp://[::1]:9-8\" is not an address: expected `tcp://host:port`, \
         `tcp://host:first-last` or `unix:///path`",
        "roster.toml:40: worker.7.max_log_age: is of no use without `log`",
    ] {
        assert!(told.lines().any(|found| found == line), "{line} in\n{told}");
    }
    assert!(told.contains("roster.toml:11: worker.2.stop_signal: \"NOPE\" is no signal"), "{told}");
}

#[test]
fn a_root_of_services_that_is_left_out_is_refused() {
    let of = |exclude: &str| {
        format!(
            "[[zookeeper]]\nconnect = 'zk'\nroots = ['/a']\nexclude = ['{exclude}']\n\
             [[services]]\nroot = '/a/x'\nformat = 'raw'\n"
        )
    };
    for exclude in ["/a/x", "/a/x/*", "/a/**", "/*/x", "/a"] {
        let told = diagnostics(&of(exclude), &[], &[]);
        let expected = "roster.toml:6: services.0.root: `zookeeper.0.exclude` leaves out all that lies below `/a/x`";
        assert!(told.contains(expected), "{exclude}: {told}");
    }
    for exclude in ["/a/y", "/a/x/b", "/a/x/*/c", "/b/**"] {
        load(&of(exclude), &[], &[]).expect(exclude);
    }
}

#[test]
fn names_of_services_that_match_nothing_are_refused() {
    let text = "[[services]]\nroot = '/a'\nformat = 'raw'\nnames = []\n\
                [[services]]\nroot = '/b'\nformat = 'raw'\nnames = ['a', '']\n";
    let told = diagnostics(text, &[], &[]);
    for line in [
        "roster.toml:4: services.0.names: is empty, so that nodes could register nothing: leave the key out for any name",
        "roster.toml:8: services.1.names: has an empty name, which matches nothing: leave it out, or write `*` for any",
    ] {
        assert!(told.lines().any(|found| found == line), "{line} in\n{told}");
    }
}
