//! The example of all keys, and what `config show` writes.

use super::*;

/// By default every source covers the whole tree; here each has its part.
const APART: [(&str, &str); 3] = [
    ("zookeeper.0.connect", "tls://127.0.0.1:2181"),
    ("zookeeper.0.roots", "['/services']"),
    ("file.0.root", "/static"),
];

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
        max_requests: Some(10_000),
        max_memory: Some(ByteSize::mib(256)),
        kill_memory: Some(ByteSize::mib(512)),
        hang_timeout: Some(Duration::from_secs(300)),
        max_files: Some(1_024),
        max_processes: Some(512),
        log: Some("/var/log/app/web.log".into()),
        max_log_age: Some(Duration::from_secs(86_400)),
        ..worker
    }];
    expected.allow = config.allow.clone();
    expected.access.admins = config.access.admins.clone();
    expected.register.tokens = Some("/etc/roster/register.tokens".into());
    expected.register.tls = config.register.tls.clone();
    expected.register.signing_key = Some("/etc/roster/register.key".into());
    expected.thrift.threads = config.thrift.threads;
    expected.queue.default = config.queue.default.clone();
    expected.queue.limit = config.queue.limit.clone();
    expected.queue.path = Some("/var/lib/roster/queue".into());
    expected.queue.recurring = config.queue.recurring.clone();
    expected.sidecar.pid_file = Some("/run/roster/roster.pid".into());
    assert_eq!(config.to_toml(), expected.to_toml());

    let (mut shown, mut documented) = (BTreeSet::new(), BTreeSet::new());
    keys(&toml::from_str(&config.to_toml()).expect("TOML"), "", &mut shown);
    keys(&toml::from_str(&whole_example()).expect("TOML"), "", &mut documented);
    assert_eq!(shown, documented);
}

#[test]
fn the_example_has_what_redis_takes() {
    let is_of_redis = |line: &&str| OF_REDIS.iter().any(|start| line.starts_with(start));
    let settings: Vec<&str> = EXAMPLE.lines().filter(is_of_redis).map(|line| &line[1..]).collect();
    let config = load(&format!("[queue]\n{}", settings.join("\n")), &[], &[]).expect("a configuration");
    let mut expected = Config::default();
    expected.queue.backend = "rediss://db.example:6379/0".parse().ok();
    expected.queue.password_file = Some("/etc/roster/redis".into());
    expected.queue.ca = Some("/etc/roster/redis-ca.pem".into());
    expected.queue.certificate = Some("/etc/roster/redis.pem".into());
    expected.queue.key = Some("/etc/roster/redis.key".into());
    assert_eq!(config.to_toml(), expected.to_toml());
    assert_eq!(load(&config.to_toml(), &[], &[]).expect("what is shown").to_toml(), config.to_toml());
}

#[test]
fn what_is_shown_loads_to_the_same_to_the_byte() {
    // Sizes that are not whole numbers of any unit, durations of several units, and everything that needs quotes.
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
            // Whatever it is, loading ends, and diagnostics name lines of the part.
            let Err(told) = load(part, &[], &[]) else { continue };
            let lines = part.matches('\n').count() + 1;
            for diagnostic in &told.0 {
                let is_there = match &diagnostic.location {
                    Location::Line { line, .. } => *line <= lines,
                    location => matches!(location, Location::File(_)),
                };
                assert!(is_there, "{diagnostic}\n{part}");
            }
        }
    }
}
