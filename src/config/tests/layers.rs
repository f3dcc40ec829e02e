//! Layers: which value wins, from the file, the environment or the flags, and how it is read.

use super::*;

#[test]
fn only_a_secret_is_taken_from_a_variable() {
    let told =
        diagnostics("[[file]]\npath = 'env:PATH'\n[register.tls]\ncertificate = 'c'\nkey = 'env:PATH'\n", &[], &[]);
    let why = "is a variable, which only tokens, credentials and `signing_key` may be";
    assert_eq!(told, format!("roster.toml:2: file.0.path: {why}\nroster.toml:5: register.tls.key: {why}"));
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
    let told = Config::load(&Layers { environment, ..Layers::default() }).expect_err("diagnostics");
    assert_eq!(
        told.to_string(),
        "\
ROSTER_LOG_LEVEL: log_level: this version of Roster has no such key; did you mean `ROSTER_LOG__LEVEL`?
ROSTER_THRIFT_IDLE_TIMEOUT: thrift_idle_timeout: this version of Roster has no such key; did you mean `ROSTER_THRIFT__IDLE_TIMEOUT`?
ROSTER_THRIFT_TCP: thrift_tcp: this version of Roster has no such key; did you mean `ROSTER_THRIFT__TCP`?
ROSTER_ZK_DATA_PATH: zk_data_path: this version of Roster has no such key; did you mean `ROSTER_ZK_DATA__PATH`?
ROSTER_ZOOKEEPER_12_CONNECT: zookeeper_12_connect: this version of Roster has no such key; did you mean `ROSTER_ZOOKEEPER__12__CONNECT`?"
    );
    // Kubernetes and others set such variables for a service.
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
    assert!(told.0.iter().all(|diagnostic| !diagnostic.message.contains("no entry")), "{told}");
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
