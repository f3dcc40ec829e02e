//! How each format decodes what its writers write, also if cut off or made up.

use std::borrow::Cow;

use serde_json::{Value as Json, json};

use super::*;
use crate::model::{Instance, InstanceState, MAX_SERVICE_BYTES, view};

const PROVIDER: &str = "dubbo%3A%2F%2F10.0.0.5%3A20880%2Fcom.acme.Foo%3Fapplication%3Dshop%26interface%3Dcom.acme.Foo\
    %26methods%3Da%2Cb%26side%3Dprovider%26timestamp%3D1700000000000";

const CURATOR: &str = r#"{"name":"db","id":"4e1c","address":"10.0.0.5","port":3306,"sslPort":null,"payload":null,
    "registrationTimeUTC":1700000000000,"serviceType":"DYNAMIC","uriSpec":{"parts":[{"value":"scheme","variable":true},
    {"value":"://","variable":false},{"value":"address","variable":true}]}}"#;

const APPLICATION: &str = r#"{"name":"shop","id":"10.0.0.5:20880","address":"10.0.0.5","port":20880,"payload":{
    "@class":"org.apache.dubbo.registry.zookeeper.ZookeeperInstance","id":"10.0.0.5:20880","name":"shop","metadata":{
    "dubbo.endpoints":"[{\"port\":20880,\"protocol\":\"dubbo\"},{\"port\":50051,\"protocol\":\"tri\"}]",
    "dubbo.metadata.revision":"af3","dubbo.metadata.storage-type":"local","timestamp":"1700000000000"}}}"#;

const SPRING: &str = r#"{"name":"app","id":"x","address":"10.0.0.6","port":8080,"sslPort":null,"payload":{
    "@class":"org.springframework.cloud.zookeeper.discovery.ZookeeperInstance","id":"app:8080","name":"app",
    "metadata":{"instance_status":"UP"}}}"#;

const MEMBER: &str = r#"{"serviceEndpoint":{"host":"10.0.0.5","port":8080},"additionalEndpoints":{"admin":{"host":
    "10.0.0.5","port":9990}},"status":"ALIVE","shard":3,"metadata":{"k":"v"}}"#;

const NERVE: &str = "base64_64_eyJob3N0IjoiMTAuMC4wLjUiLCJwb3J0Ijo4MDgwLCJuYW1lIjoid2ViLTEifQ==_0000000123";

const MOTAN: &str = "motan2://10.0.0.5:8002/com.acme.Foo?group=g&nodeType=service&";

const PATRONI: &str = r#"{"conn_url":"postgres://10.0.0.8:5433/postgres","api_url":"http://10.0.0.8:8008/patroni",
    "state":"running","role":"replica","version":"3.0.2","xlog_location":67108864,"timeline":1,"tags":{"zone":"a"}}"#;

const KAFKA: &str = r#"{"listener_security_protocol_map":{"PLAINTEXT":"PLAINTEXT","SSL":"SSL"},"endpoints":[
    "PLAINTEXT://10.0.0.9:9092","SSL://[::1]:9093"],"jmx_port":-1,"features":{},"host":"10.0.0.9","timestamp":"1",
    "port":9092,"version":5,"rack":"r1"}"#;

/// A format, its root, a path, the data, the service, and its addresses.
type Fixture = (Format, &'static str, String, Vec<u8>, &'static str, &'static [&'static str]);

fn fixtures() -> Vec<Fixture> {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        (
            Format::Dubbo,
            "/dubbo",
            format!("/dubbo/com.acme.Foo/providers/{PROVIDER}"),
            text("10.0.0.5"),
            "com.acme.Foo",
            &["dubbo://10.0.0.5:20880"],
        ),
        (
            Format::Dubbo,
            "/dubbo",
            format!("/dubbo/com.acme.Foo/providers/{PROVIDER}%26version%3D1.0.0.daily"),
            Vec::new(),
            "com.acme.Foo",
            &["dubbo://10.0.0.5:20880"],
        ),
        (
            Format::DubboApplication,
            "/services",
            "/services/shop/10.0.0.5:20880".into(),
            text(APPLICATION),
            "shop",
            &["dubbo://10.0.0.5:20880", "tri://10.0.0.5:50051"],
        ),
        (Format::Curator, "/base", "/base/db/4e1c".into(), text(CURATOR), "db", &["http://10.0.0.5:3306"]),
        (Format::SpringCloud, "/services", "/services/app/x".into(), text(SPRING), "app", &["10.0.0.6:8080"]),
        (
            Format::Serverset,
            "/twitter",
            "/twitter/web/prod/member_0000000001".into(),
            text(MEMBER),
            "web/prod",
            &["10.0.0.5:8080", "10.0.0.5:9990"],
        ),
        (Format::Nerve, "/nerve/web", format!("/nerve/web/{NERVE}"), Vec::new(), "web", &["10.0.0.5:8080"]),
        (
            Format::Nerve,
            "/nerve",
            "/nerve/web/i-1_0000000007".into(),
            text(r#"{"host":"::1","port":80,"name":"i-1","weight":7,"labels":{"zone":"b"}}"#),
            "web",
            &["[::1]:80"],
        ),
        (
            Format::Motan,
            "/motan",
            "/motan/g/com.acme.Foo/server/10.0.0.5:8002".into(),
            java(MOTAN.as_bytes()),
            "com.acme.Foo",
            &["motan2://10.0.0.5:8002"],
        ),
        (Format::Qconf, "/q", "/q/svc/10.0.0.5:80".into(), text("0"), "svc", &["10.0.0.5:80"]),
        (
            Format::Codis,
            "/jodis",
            "/jodis/shop/proxy-abc".into(),
            text(r#"{"addr":"10.0.0.7:19000","token":"abc","start":"now","state":"online"}"#),
            "shop",
            &["redis://10.0.0.7:19000"],
        ),
        (
            Format::Codis,
            "/zk/codis",
            "/zk/codis/db_shop/proxy/abc".into(),
            text(r#"{"addr":"10.0.0.7:19000","state":"online"}"#),
            "shop",
            &["redis://10.0.0.7:19000"],
        ),
        (
            Format::Patroni,
            "/service",
            "/service/pg/members/a".into(),
            text(PATRONI),
            "pg",
            &["postgres://10.0.0.8:5433"],
        ),
        (
            Format::Kafka,
            "/brokers",
            "/brokers/ids/1".into(),
            text(KAFKA),
            "kafka",
            &["plaintext://10.0.0.9:9092", "ssl://[::1]:9093"],
        ),
        (
            Format::HiveServer2,
            "/hiveserver2",
            "/hiveserver2/serverUri=h:10000;version=3.1.2;sequence=0000000001".into(),
            Vec::new(),
            "hiveserver2",
            &["hive2://h:10000"],
        ),
        (
            Format::SofaRpc,
            "/sofa-rpc",
            "/sofa-rpc/com.acme.Foo/providers/bolt%3A%2F%2F10.0.0.5%3A12200%3Fversion%3D1.0%26weight%3D50".into(),
            Vec::new(),
            "com.acme.Foo",
            &["bolt://10.0.0.5:12200"],
        ),
        (Format::Raw, "/raw", "/raw/web/10.0.0.5:80".into(), Vec::new(), "web", &["10.0.0.5:80"]),
        (Format::Raw, "/raw", "/raw/i-1".into(), text("10.0.0.5:80\n"), "raw", &["10.0.0.5:80"]),
        (
            Format::Raw,
            "/raw",
            "/raw/i-1".into(),
            text(r#"{"host":"h","port":"80","protocol":"http","weight":5,"version":"1.2"}"#),
            "raw",
            &["http://h:80"],
        ),
    ]
}

/// A string as Java serializes it.
fn java(text: &[u8]) -> Vec<u8> {
    [&[0xac, 0xed, 0x00, 0x05, 0x74, 0x00, text.len() as u8], text].concat()
}

fn path(text: &str) -> NodePath {
    NodePath::parse(text).expect(text)
}

fn config(format: Format, root: &str) -> Config {
    Config { root: path(root), format, ..Config::default() }
}

fn node(data: impl AsRef<[u8]>) -> Node {
    Node { data: data.as_ref().into(), ..Node::default() }
}

/// What a node with this data registers.
fn read(config: &Config, at: &str, data: impl AsRef<[u8]>, rules: &[Rule]) -> Result<Option<Instance>, Undecodable> {
    let (at, node) = (path(at), node(data));
    let located = config.locate(&at).unwrap_or_else(|| panic!("{at} is none"));
    assert_eq!(located.role, Role::Instance);
    Ok(config
        .decode(&at, &located.service.as_str().into(), &node, |_| rules.into(), usize::MAX)?
        .map(|registered| registered.instance))
}

fn instance(config: &Config, at: &str, data: impl AsRef<[u8]>) -> Instance {
    read(config, at, data, &[]).expect(at).expect(at)
}

fn metadata(instance: &Instance) -> Json {
    serde_json::to_value(view::Instance::from(instance)).expect("JSON")["metadata"].clone()
}

#[test]
fn every_format_reads_what_its_writers_write() {
    let fixtures = fixtures();
    assert!(Format::ALL.iter().all(|format| fixtures.iter().any(|(of, ..)| of == format)));
    for (format, root, at, data, service, addresses) in fixtures {
        let found = instance(&config(format, root), &at, data);
        assert_eq!(&*found.service, service, "{at}");
        let reached: Vec<_> = found.endpoints.iter().map(crate::model::Endpoint::address).collect();
        assert_eq!(reached, addresses, "{at}");
        assert_eq!(found.state, InstanceState::Up, "{at}");
        found.check().expect("it is within its bounds");
    }
}

#[test]
fn no_format_takes_what_is_no_single_host() {
    let dubbo = |host: &str| format!("dubbo:%2F%2F{host}:20880%2Fi");
    for (host, why) in [
        ("0.0.0.0", Undecodable::NotOneHost),
        ("224.0.0.1", Undecodable::NotOneHost),
        ("255.255.255.255", Undecodable::NotOneHost),
        ("$(id)", Undecodable::WrongHost),
        ("'DROP", Undecodable::WrongHost),
        ("127.1", Undecodable::WrongHost),
    ] {
        let json = |text: &str| text.replace("HOST", host);
        let nodes = [
            (Format::Dubbo, "/r", format!("/r/i/providers/{}", dubbo(host)), String::new()),
            (Format::SofaRpc, "/r", format!("/r/i/providers/{}", dubbo(host)), String::new()),
            (
                Format::DubboApplication,
                "/r",
                "/r/shop/x".into(),
                APPLICATION.replace("\"10.0.0.5\"", &format!("{host:?}")),
            ),
            (Format::Curator, "/r", "/r/db/x".into(), json(r#"{"address":"HOST","port":1}"#)),
            (Format::SpringCloud, "/r", "/r/db/x".into(), json(r#"{"address":"HOST","port":1}"#)),
            (
                Format::Serverset,
                "/r",
                "/r/web/member_1".into(),
                json(r#"{"serviceEndpoint":{"host":"HOST","port":1}}"#),
            ),
            (Format::Nerve, "/r", "/r/web/i_0000000001".into(), json(r#"{"host":"HOST","port":1}"#)),
            (Format::Motan, "/r", format!("/r/g/i/server/{host}:1"), json("motan2://HOST:1/i")),
            (Format::Qconf, "/r", format!("/r/web/{host}:1"), "0".into()),
            (Format::Codis, "/r", "/r/shop/proxy-a".into(), json(r#"{"addr":"HOST:1","state":"online"}"#)),
            (Format::Patroni, "/r", "/r/pg/members/a".into(), json(r#"{"conn_url":"postgres://HOST:1/a"}"#)),
            (
                Format::Kafka,
                "/r",
                "/r/ids/1".into(),
                json(r#"{"endpoints":["PLAINTEXT://HOST:1"],"host":"HOST","port":1}"#),
            ),
            (Format::HiveServer2, "/r", format!("/r/serverUri={host}:1;version=3"), String::new()),
            (Format::Raw, "/r", format!("/r/web/{host}:1"), String::new()),
            (Format::Raw, "/r", "/r/web/a".into(), json("HOST:1")),
            (Format::Raw, "/r", "/r/web/a".into(), json(r#"{"host":"HOST","port":1}"#)),
        ];
        assert!(Format::ALL.iter().all(|format| nodes.iter().any(|(of, ..)| of == format)));
        for (format, root, at, data) in nodes {
            assert_eq!(read(&config(format, root), &at, &data, &[]), Err(why.clone()), "{format:?} {at} {data}");
        }
    }
}

#[test]
fn an_instance_of_hiveserver2_has_its_version_only_in_the_metadata() {
    let hive = config(Format::HiveServer2, "/hive");
    let server = instance(&hive, "/hive/serverUri=h:10000;version=3.1.2;sequence=0000000001", "");
    assert_eq!((server.version.to_string().as_str(), metadata(&server)), ("0.0.0", json!({"version": "3.1.2"})));
}

#[test]
fn data_and_names_that_are_cut_anywhere_are_refused_or_read_and_nothing_worse() {
    for (format, root, at, data, ..) in fixtures() {
        let config = config(format, root);
        for end in 0..data.len() {
            let _ = read(&config, &at, &data[..end], &[]);
        }
        let begin = at.rfind('/').expect("a slash") + 1;
        for end in begin + 1..at.len() {
            let cut = path(&at[..end]);
            let Some(located) = config.locate(&cut) else { continue };
            let _ = config.decode(&cut, &located.service.as_str().into(), &node(&data), |_| Arc::default(), usize::MAX);
        }
        for odd in [&b"\xff\xfe"[..], b"{", b"null", b"[]", b"\xac\xed\x00\x05\x7c\xff\xff\xff\xff\xff\xff\xff\xff"] {
            let _ = read(&config, &at, odd, &[]);
        }
    }
}

#[test]
fn a_provider_of_dubbo_says_whether_it_is_called_and_how_much_it_weighs() {
    let dubbo = config(Format::Dubbo, "/dubbo");
    let provider = |query: &str| {
        let name = format!("tri%3A%2F%2F%5B%3A%3A1%5D%3A50051%2Fi%3F{}", query.replace('=', "%3D").replace('&', "%26"));
        instance(&dubbo, &format!("/dubbo/com.acme.Foo/providers/{name}"), "")
    };
    let full = provider("version=1.2&group=blue&weight=7&zone=z");
    assert_eq!((full.version.to_string().as_str(), &*full.group, &*full.zone, full.weight), ("1.2.0", "blue", "z", 7));
    assert_eq!((full.endpoints[0].host.as_str(), full.endpoints[0].port), ("::1", 50_051));
    assert_eq!(metadata(&full), json!({"group": "blue", "version": "1.2", "weight": "7", "zone": "z"}));
    assert_eq!(provider("disabled=true").state, InstanceState::Down);
    assert_eq!(provider("enabled=false").state, InstanceState::Down);
    let weight = |text: &str| provider(&format!("weight={text}")).weight;
    assert_eq!(["-5", "-0.5", "0.0", "0.2", "7.6"].map(weight), [0, 0, 0, 1, 8]);
    assert_eq!(["", "x", "NaN", "inf", "9999999999"].map(weight), [100; 5], "it is none");
    assert_eq!(provider(&format!("methods={}&a=b", "m,".repeat(20_000))).metadata.len(), 1);
    assert_eq!(read(&dubbo, "/dubbo/i/providers/empty%3A%2F%2F10.0.0.5%2Fi", "", &[]), Ok(None));
    for name in ["consumer", "dubbo%3A%2F%2F10.0.0.5%2Fi", "dubbo%3A%2F%2F10.0.0.5%3A70000%2Fi", "%ff"] {
        read(&dubbo, &format!("/dubbo/i/providers/{name}"), "", &[]).expect_err(name);
    }
    assert_eq!(dubbo.locate(&path("/dubbo/i/consumers/x")), None);
    let provider = "providers/dubbo%3A%2F%2Fh%3A1%2Fi";
    for odd in [
        format!("/dubbo/foo%000.0.0%000/{provider}"),
        format!("/dubbo/i/{provider}%3Fgroup%3Da%00"),
        format!("/dubbo/i/{provider}%3Fversion%3D1%00"),
        format!("/dubbo/i/{provider}%3Fzone%3D%0a"),
    ] {
        let found = read(&dubbo, &odd, "", &[]);
        assert!(matches!(found, Err(Undecodable::Bound(InstanceError::Control(_)))), "{odd}: {found:?}");
    }
}

#[test]
fn a_version_that_is_none_by_semver_is_one_of_its_own_in_every_format_that_has_one() {
    let read = |format: Format, at: &str, data: &str| read(&config(format, "/r"), at, data, &[]);
    let of_each = |version: &str| {
        let name = format!("tri%3A%2F%2Fh%3A1%2Fi%3Fversion%3D{}", url::form_encoded(version));
        [
            read(Format::Dubbo, &format!("/r/i/providers/{name}"), ""),
            read(Format::SofaRpc, &format!("/r/i/providers/{name}"), ""),
            read(Format::Motan, "/r/g/i/server/h:1", &format!("motan2://h:1/i?version={version}")),
            read(Format::Raw, "/r/i/x", &json!({"host": "h", "port": 1, "version": version}).to_string()),
            read(
                Format::Curator,
                "/r/i/x",
                &json!({"address": "h", "port": 1, "payload": {"version": version}}).to_string(),
            ),
        ]
    };
    let longest = "x".repeat(MAX_LABEL_BYTES);
    let shown = format!("0.0.0+{longest}");
    for (text, version) in [
        ("", "0.0.0"),
        ("1.0", "1.0.0"),
        ("2024.01.05", "2024.1.5"),
        ("1.0.0.daily", "0.0.0+1.0.0.daily"),
        ("dev", "0.0.0+dev"),
        ("...", "0.0.0+-.-.-.-"),
        ("18446744073709551616.0.0", "0.0.0+18446744073709551616.0.0"),
        (longest.as_str(), shown.as_str()),
    ] {
        for found in of_each(text) {
            let found = found.expect(text).expect(text);
            assert_eq!(found.version.to_string(), version);
            assert!(text.is_empty() || metadata(&found)["version"] == text, "as it is written");
        }
    }
    let long = "x".repeat(10_000);
    let [dubbo, sofa, motan, raw, curator] = of_each(&long);
    for found in [dubbo, sofa, motan] {
        assert_eq!(found, Err(Undecodable::Bound(InstanceError::Label("version"))));
    }
    for found in [raw, curator] {
        assert_eq!(found.expect("one").expect("one").version.to_string(), "0.0.0", "no label is so long");
    }
}

#[test]
fn configurators_of_dubbo_change_the_providers_that_they_match() {
    let dubbo = config(Format::Dubbo, "/dubbo");
    let rule = |text: &str| {
        let name = text.replace(':', "%3A").replace('/', "%2F").replace('=', "%3D").replace('&', "%26");
        let at = path(&format!("/dubbo/i/configurators/{}", name.replace('?', "%3F")));
        let located = dubbo.locate(&at).expect("a rule");
        assert_eq!((located.role, located.scope(&at)), (Role::Rule, Some(path("/dubbo/i"))));
        dubbo.rule(&at, &node(""))
    };
    let with = |texts: &[&str]| {
        let rules: Vec<_> = texts.iter().map(|text| rule(text).expect(text)).collect();
        let at = "/dubbo/i/providers/dubbo%3A%2F%2F10.0.0.5%3A20880%2Fi%3Fapplication%3Dshop%26weight%3D50";
        let found = read(&dubbo, at, "", &rules).expect("a provider").expect("one");
        (found.weight, found.state)
    };
    let (up, down) = (InstanceState::Up, InstanceState::Down);
    assert_eq!(with(&[]), (50, up));
    assert_eq!(with(&["override://0.0.0.0/i?category=configurators&dynamic=false&weight=200"]), (200, up));
    assert_eq!(with(&["override://10.0.0.5/i?weight=0.0"]), (0, up));
    assert_eq!(with(&["override://10.0.0.5:20880/i?disabled=true"]), (50, down));
    assert_eq!(with(&["override://10.0.0.6/i?disabled=true", "override://10.0.0.5:1/i?disabled=true"]), (50, up));
    assert_eq!(with(&["override://0.0.0.0/i?enabled=false&weight=1"]), (50, up), "it is off");
    assert_eq!(with(&["override://0.0.0.0/i?application=other&weight=1"]), (50, up));
    assert_eq!(with(&["override://0.0.0.0/i?side=consumer&weight=1"]), (50, up));
    assert_eq!(with(&["absent://0.0.0.0/i?weight=1&disabled=true"]), (50, down), "only what is missing is set");
    let (all, one) = ("override://0.0.0.0/i?priority=9&weight=1", "override://10.0.0.5/i?weight=2");
    assert_eq!([with(&[all, one]), with(&[one, all])], [(2, up); 2], "one of the host comes after those of all");
    rule("dubbo://0.0.0.0/i?weight=1").expect_err("it is no configurator");
    rule(&format!("override://0.0.0.0/i?zone={}", "z".repeat(257))).expect_err("no zone is so long");
    rule(&format!("override://0.0.0.0/i?a={}", "x".repeat(10_000))).expect_err("it would fill the metadata");
    rule("override://0.0.0.0/i?zone=a%0Ab").expect_err("no zone has control characters");
}

#[test]
fn a_configurator_for_which_there_is_no_room_voids_no_other() {
    let dubbo = config(Format::Dubbo, "/dubbo");
    let rule = |text: &str| {
        let at = path(&format!("/dubbo/i/configurators/{}", text.replace('/', "%2F")));
        dubbo.rule(&at, &node("")).expect("a rule")
    };
    let fat = |key: &str, bytes| rule(&format!("override://0.0.0.0/i?{key}={}", "x".repeat(bytes)));
    let drained = rule("override://h/i?disabled=true&timeout=1");
    let provider = |bytes| path(&format!("/dubbo/i/providers/dubbo:%2F%2Fh:1%2Fi?own={}", "x".repeat(bytes)));
    let decoded = |provider: &NodePath, rules: &[Rule], room| {
        dubbo.decode(provider, &"i".into(), &node(""), |_| rules.into(), room).expect("a provider").expect("one")
    };
    let keys = |found: &Registered| found.instance.metadata.keys().map(Cow::into_owned).collect::<Vec<_>>();
    let rules = [fat("a", 8_000), fat("b", 7_000), drained.clone(), fat("c", 6_000)];
    let found = decoded(&provider(10), &rules, usize::MAX);
    assert_eq!((found.instance.state, found.fault.as_ref()), (InstanceState::Down, Some(&Undecodable::RulesLeftOut)));
    assert_eq!(keys(&found), ["b", "c", "disabled", "own", "timeout"], "the largest has no room");
    let most = MAX_SERVICE_BYTES - "i".len() - 1 - "own".len() - 1 - 3;
    let found = decoded(&provider(most), &rules, usize::MAX);
    assert_eq!((found.instance.state, keys(&found)), (InstanceState::Down, vec!["own".to_owned()]));
    assert_eq!(found.instance.packed_bytes(), MAX_SERVICE_BYTES);
    let found = decoded(&provider(10), &rules[2..3], 0);
    assert_eq!((found.instance.state, found.by_rules, keys(&found)), (InstanceState::Down, 0, vec!["own".to_owned()]));
    let found = decoded(&provider(10), &[drained], usize::MAX);
    assert_eq!((&found.fault, keys(&found).len()), (&None, 3));
}

/// As the documentation of Dubbo has them, and as its console writes them.
const OF_APPLICATION: &str = "# weight\n---\nconfigVersion: v2.7\nscope: application\nkey: shop\nenabled: true\nconfigs:\n\
    - addresses: [\"0.0.0.0:20880\"]\n  side: provider\n  parameters:\n    weight: 1000\n...\n";
const OF_SERVICE: &str = "configVersion: v3.0\nscope: service\nkey: com.acme.Foo\nenabled: true\nconfigs:\n- type: weight\n  \
    enabled: true\n  addresses: [10.0.0.5:20880]\n  side: provider\n  parameters: {weight: 0}\n";

#[test]
fn documents_of_dubbo_change_the_providers_of_a_service_or_an_application() {
    let dubbo = config(Format::Dubbo, "/dubbo");
    let provider = |query: &str| {
        let query = query.replace('=', "%3D").replace('&', "%26");
        let url = format!("dubbo%3A%2F%2F10.0.0.5%3A20880%2Fcom.acme.Foo%3Fapplication%3Dshop{query}");
        format!("/dubbo/com.acme.Foo/providers/{url}")
    };
    let names = |query: &str| -> Vec<_> {
        let documents = dubbo.documents(&path(&provider(query)));
        documents
            .paths()
            .map(|path| path.as_str().replace("/dubbo/config/dubbo/", "").replace(".configurators", ""))
            .collect()
    };
    assert_eq!(names(""), ["shop", "com.acme.Foo::", "com.acme.Foo"]);
    assert_eq!(names("&group=g&version=1.0"), ["shop", "com.acme.Foo:1.0:g", "g*com.acme.Foo:1.0"]);
    assert_eq!(names("&version=0.0.0&application=a%2Fb"), ["com.acme.Foo::", "com.acme.Foo"]);
    let at = |name: &str| path(&format!("/dubbo/config/dubbo/{name}.configurators"));
    for (name, service) in
        [("shop", "shop"), ("com.acme.Foo:1.0:g", "com.acme.Foo"), ("g*com.acme.Foo:1", "com.acme.Foo")]
    {
        let located = dubbo.locate(&at(name)).expect(name);
        assert_eq!((located.role, located.service.as_str()), (Role::Document, service), "{name}");
    }
    assert_eq!(dubbo.locate(&path("/dubbo/config/dubbo/shop.tag-router")), None);
    assert_eq!(dubbo.scope_of("a.B$C"), path("/dubbo/a.B%24C"));

    let rules = |name: &str, text: &str| dubbo.document(&at(name), &node(text));
    let with = |query: &str, documents: &[(&str, &str)]| {
        let rules: Vec<_> = documents.iter().flat_map(|(name, text)| rules(name, text).expect(text)).collect();
        let found = read(&dubbo, &provider(query), "", &rules).expect("a provider").expect("one");
        (found.weight, found.state == InstanceState::Up)
    };
    let (application, service) = (("shop", OF_APPLICATION), ("com.acme.Foo::", OF_SERVICE));
    assert_eq!(with("", &[application]), (1_000, true));
    assert_eq!(with("", &[service]), (0, true));
    assert_eq!(
        [with("", &[application, service]), with("", &[service, application])],
        [(0, true); 2],
        "that of the service"
    );
    assert_eq!(with("&application=other", &[application]), (100, true));
    assert_eq!(with("&group=g", &[service]), (100, true), "the key is of no group");
    let classic =
        dubbo.rule(&path("/dubbo/i/configurators/override:%2F%2F10.0.0.5%2Fi%3Fweight=7&priority=9"), &node(""));
    let rules_of_both = [rules("shop", OF_APPLICATION).expect("rules"), vec![classic.expect("a rule")]].concat();
    assert_eq!(
        read(&dubbo, &provider(""), "", &rules_of_both).expect("it").expect("one").weight,
        1_000,
        "newer ones come last"
    );

    // Each of these changes is of one line of a document.
    let of = |lines: &str| {
        let text = "scope: service\nkey: com.acme.Foo\nconfigs:\n- side: provider\n  parameters: {disabled: true, timeout: 9}\n";
        with("", &[("com.acme.Foo", &format!("{text}{lines}"))])
    };
    for (lines, is_up) in [
        ("", false),
        ("  addresses: []", false),
        ("  addresses: [0.0.0.0]", false),
        ("  addresses: ['0.0.0.0:*', 10.0.0.6]", false),
        ("  addresses: ['0.0.0.0:20880']", false),
        ("  addresses: ['0.0.0.0:20881']", true),
        ("  addresses: [10.0.0.5]", false),
        ("  addresses: [10.0.0.6, '10.0.0.5:20881']", true),
        ("  addresses: ['*']", true),
        ("  providerAddresses: ['10.0.0.5:20880']", false),
        ("  addresses: [0.0.0.0]\n  providerAddresses: [10.0.0.6]", true),
        ("  applications: [cart, shop]", false),
        ("  applications: ['*']", false),
        ("  applications: [cart]", true),
        ("  type: general\n  enabled: false", false),
        ("  type: disabled\n  enabled: true", false),
        ("  type: disabled", true),
        ("enabled: false", true),
        ("enabled: false\nunknown: {a: [b]}", true),
    ] {
        assert_eq!(of(lines), (100, is_up), "{lines}");
    }
    for side in ["side: consumer", "other: provider"] {
        assert_eq!(with("", &[("com.acme.Foo", &OF_SERVICE.replace("side: provider", side))]), (100, true), "{side}");
    }
    let services = |list: &str| with("&group=g&version=1.0", &[("shop", &OF_APPLICATION.replace("...\n", list))]);
    assert_eq!(services("  services: [a.B, 'g/com.acme.Foo:1.0']\n"), (1_000, true));
    assert_eq!(services("  services: ['*']\n"), (1_000, true));
    assert_eq!(services("  services: [com.acme.Foo]\n"), (100, true));
    assert_eq!(rules("shop", " \n"), Ok(Vec::new()), "as a console leaves it that takes all of them back");
}

#[test]
fn a_document_that_would_change_what_it_must_not_changes_nothing() {
    let dubbo = config(Format::Dubbo, "/dubbo");
    let refused = |text: &str| {
        let at = path("/dubbo/config/dubbo/com.acme.Foo::.configurators");
        dubbo.document(&at, &node(text)).expect_err(text).to_string()
    };
    for (from, to, why) in [
        ("com.acme.Foo", "com.acme.Bar", "its `key` is not that of its name"),
        ("key: com.acme.Foo\n", "", "its `key`"),
        ("scope: service", "scope: application", "its `key`"),
        ("  addresses: [10.0.0.5:20880]", "  addresses: 10.0.0.5:20880", "no list of texts"),
        ("[10.0.0.5:20880]", "[[10.0.0.5:20880]]", "no list of texts"),
        ("{weight: 0}", "{}", "has no `parameters`"),
        ("{weight: 0}", "{weight: [0]}", "is no text"),
        ("{weight: 0}", "{weight: 0}\n  match: {address: {wildcard: 10.0.0.6}}", "has a `match`"),
        ("configs:", "config:", "no list of `configs`"),
        ("configs:", "configs: [", "no YAML that is read: see line"),
    ] {
        let found = refused(&OF_SERVICE.replace(from, to));
        assert!(found.contains(why), "{to}: {found}");
    }
    let many = format!("{}{}", OF_SERVICE, "- {side: provider, parameters: {a: b}}\n".repeat(64));
    assert!(refused(&many).contains("more than 64"));
    let fat = OF_SERVICE.replace("{weight: 0}", &format!("{{a: {}}}", "x".repeat(9_000)));
    assert!(refused(&fat).contains("bytes"), "it would fill the metadata");
    assert!(refused(&"- ".repeat(5_000)).contains("32 levels"));
    assert!(refused("[]").contains("no map"));
}

#[test]
fn an_application_of_dubbo_has_an_endpoint_for_each_protocol() {
    let services = config(Format::DubboApplication, "/services");
    let found = instance(&services, "/services/shop/10.0.0.5:20880", APPLICATION);
    assert_eq!(metadata(&found)["dubbo.metadata.revision"], "af3");
    let nothing = APPLICATION.replace("\"af3\"", "\"0\"");
    assert_eq!(read(&services, "/services/shop/x", nothing, &[]), Ok(None), "it exports nothing");
    let odd = APPLICATION.replace("50051", "-1");
    assert_eq!(instance(&services, "/services/shop/x", odd.clone()).endpoints.len(), 1, "the other is reached");
    let none = odd.replace("{\\\"port\\\":20880", "{\\\"port\\\":0");
    assert_eq!(read(&services, "/services/shop/x", none, &[]), Err(Undecodable::NoPort));
    let cut = APPLICATION.replace("[{\\\"port\\\"", "[{");
    assert!(read(&services, "/services/shop/x", cut, &[]).is_err());
    let dubbo = config(Format::Dubbo, "/dubbo");
    let at = path("/dubbo/mapping/com.acme.Foo");
    assert_eq!(dubbo.locate(&at).map(|it| (it.role, it.service)), Some((Role::Interface, "com.acme.Foo".into())));
    assert_eq!(dubbo.applications("i", &node("shop, cart,,")), Ok(vec!["shop", "cart"]));
    assert_eq!(dubbo.applications("i", &node(b"\xff")), Err(Undecodable::NotUtf8));
    dubbo.applications(&"i".repeat(257), &node("shop")).expect_err("each instance would have the name");
}

#[test]
fn an_instance_of_curator_has_its_port_for_tls_and_says_whether_it_is_up() {
    let base = config(Format::Curator, "/base");
    let with = |from: &str, to: &str| read(&base, "/base/db/4e1c", CURATOR.replace(from, to), &[]);
    let found = |from: &str, to: &str| with(from, to).expect(to).expect(to);
    let endpoints =
        |found: Instance| found.endpoints.iter().map(|it| (it.name.clone(), it.address())).collect::<Vec<_>>();
    let both = endpoints(found("\"sslPort\":null", "\"sslPort\":443"));
    assert_eq!(both, [(String::new(), "https://10.0.0.5:443".into()), ("plain".into(), "http://10.0.0.5:3306".into())]);
    let own = CURATOR.replace("\"scheme\",\"variable\":true", "\"tcp\",\"variable\":false");
    let own = endpoints(instance(&base, "/base/db/4e1c", own.replace("\"sslPort\":null", "\"sslPort\":443")));
    assert_eq!(own, [(String::new(), "tcp://10.0.0.5:3306".into()), ("ssl".into(), "tcp://10.0.0.5:443".into())]);
    let alone = endpoints(found("\"port\":3306,\"sslPort\":null", "\"port\":null,\"sslPort\":443"));
    assert_eq!(alone, [(String::new(), "https://10.0.0.5:443".into())]);
    assert_eq!(found("\"payload\":null", "\"payload\":null,\"enabled\":false").state, InstanceState::Down);
    let payload = found("\"payload\":null", r#""payload":{"@class":"X","zone":"a","weight":"5","deep":{"a":[1]}}"#);
    assert_eq!((&*payload.zone, payload.weight), ("a", 5));
    assert_eq!(metadata(&payload), json!({"zone": "a", "weight": "5", "deep": {"a": [1]}}));
    assert_eq!(metadata(&found("\"payload\":null", "\"payload\":\"text\"")), json!({"payload": "text"}));
    for port in ["0", "65536", "-1", "1e9", "1.5", "\"x\"", "99999999999999999999999", "null"] {
        assert_eq!(with("3306", port), Err(Undecodable::NoPort), "{port}");
    }
    assert_eq!(with("10.0.0.5", ""), Err(Undecodable::NoHost));
    let deep = format!("\"payload\":{{\"a\":{}{}}}", "[".repeat(40), "]".repeat(40));
    assert_eq!(with("\"payload\":null", &deep), Err(Undecodable::TooDeep));
    let fat = format!("\"payload\":{{\"a\":\"{}\"}}", "x".repeat(20_000));
    assert!(matches!(with("\"payload\":null", &fat), Err(Undecodable::Bound(_))));
    let twice = found("\"port\":3306", "\"port\":1,\"port\":2");
    assert_eq!(twice.endpoints[0].port, 2, "of two keys the last counts");

    let spring = config(Format::SpringCloud, "/services");
    let secured = SPRING.replace("\"sslPort\":null", "\"sslPort\":8443");
    let secured = endpoints(instance(&spring, "/services/app/x", secured));
    assert_eq!(secured, [(String::new(), "https://10.0.0.6:8443".into()), ("plain".into(), "10.0.0.6:8080".into())]);
    let versioned = SPRING.replace("\"instance_status\"", "\"version\":\"1.3.0\",\"zone\":\"eu\",\"instance_status\"");
    let versioned = instance(&spring, "/services/app/x", versioned);
    assert_eq!((versioned.version.to_string().as_str(), &*versioned.zone), ("0.0.0", "eu"), "it is of the build");
    assert_eq!(metadata(&versioned)["version"], "1.3.0");
    let state = |status: &str| instance(&spring, "/services/app/x", SPRING.replace("\"UP\"", status)).state;
    assert_eq!([state("\"up\""), state("\"OUT_OF_SERVICE\""), state("7")], {
        [InstanceState::Up, InstanceState::Down, InstanceState::Down]
    });
}

#[test]
fn members_of_a_serverset_are_weighed_by_all_vectors_that_match() {
    let serverset = config(Format::Serverset, "/twitter");
    let vector = |entries: &str| {
        let at = path("/twitter/web/vector_0000000009");
        assert_eq!(serverset.locate(&at).and_then(|it| it.scope(&at)), Some(path("/twitter/web")));
        serverset.rule(&at, &node(format!("{{\"vector\":{entries}}}")))
    };
    let weight = |vectors: &[&str]| {
        let rules: Vec<_> = vectors.iter().map(|entries| vector(entries).expect(entries)).collect();
        let found = read(&serverset, "/twitter/web/member_0000000001", MEMBER, &rules);
        found.expect("a member").expect("one").weight
    };
    assert_eq!(weight(&[]), 100);
    assert_eq!(weight(&[r#"[{"select":"shard=3","weight":2.0,"priority":1}]"#]), 200);
    assert_eq!(
        weight(&[r#"[{"select":"inet=10.0.0.5:8080","weight":0.5},{"select":"member=member_0000000001"}]"#]),
        50
    );
    assert_eq!(weight(&[r#"[{"select":"shard=3","weight":0.29}]"#]), 29, "it is rounded, and not cut off");
    assert_eq!(weight(&[r#"[{"select":"shard=3","weight":0.001}]"#]), 1);
    assert_eq!(weight(&[r#"[{"select":"shard=3","weight":0.0}]"#, r#"[{"select":"shard=3","weight":9}]"#]), 0);
    assert_eq!(
        weight(&[r#"[{"select":"shard=3","weight":1e300},{"select":"shard=3","weight":1e300}]"#]),
        i32::MAX as u32
    );
    assert_eq!(
        weight(&[r#"[{"select":"shard=3","weight":1e300},{"select":"shard=3","weight":1e300},
            {"select":"shard=3","weight":0}]"#]),
        0
    );
    assert_eq!(
        weight(&[r#"[{"select":"shard=4","weight":5},{"select":"x"},7,{"select":"shard=3","weight":-1}]"#]),
        100
    );
    vector("7").expect_err("no list");
    let long = format!("[{}7]", r#"{"select":"shard=4","weight":5},"#.repeat(2_100));
    assert_eq!(vector(&long), Err(Undecodable::TooLong(64 << 10)));

    for (status, state) in [("ALIVE", InstanceState::Up), ("STARTING", InstanceState::Down), ("7", InstanceState::Down)]
    {
        assert_eq!(instance(&serverset, "/twitter/member_1", MEMBER.replace("ALIVE", status)).state, state);
    }
    let root = instance(&serverset, "/twitter/member_1", MEMBER);
    assert_eq!(&*root.service, "twitter");
    assert_eq!(metadata(&root), json!({"k": "v", "shard": 3}));
    let odd = MEMBER.replace("9990", "0");
    assert_eq!(instance(&serverset, "/twitter/member_1", odd).endpoints.len(), 1, "the service itself is reached");
}

#[test]
fn names_of_nerve_have_underscores_within_their_base64() {
    let nerve = config(Format::Nerve, "/nerve/web");
    let json = r#"{"host":"10.0.0.5","port":80,"name":"??>>~~"}"#;
    let text = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE, json);
    assert!(text.contains('_'), "{text}");
    let name = format!("base64_{}_{text}_0000000001", text.len());
    assert_eq!(metadata(&instance(&nerve, &format!("/nerve/web/{name}"), "")), json!({"name": "??>>~~"}));
    for name in [
        format!("base64_{}_{text}_0000000001", text.len() + 1),
        format!("base64_{}_{text}_0000000001", text.len() - 1),
        format!("base64_99999999999999999999_{text}_0000000001"),
        format!("base64__{text}_0000000001"),
        "base64_4_\u{fc}\u{fc}_0000000001".into(),
    ] {
        assert_eq!(read(&nerve, &format!("/nerve/web/{name}"), "", &[]), Err(Undecodable::NotBase64), "{name}");
    }
    assert_eq!(nerve.locate(&path("/nerve/web/i-1")), None, "it has no number");
    let plain =
        instance(&nerve, "/nerve/web/i_1_0000000007", r#"{"host":"h","port":80,"weight":9,"labels":{"zone":"b"}}"#);
    assert_eq!((plain.weight, &*plain.zone, metadata(&plain)), (9, "b", json!({"zone": "b"})));
}

#[test]
fn servers_of_motan_are_read_as_text_and_as_java_writes_it() {
    let motan = config(Format::Motan, "/motan");
    let at = |category: &str, name: &str| format!("/motan/blue/com.acme.Foo/{category}/{name}");
    let long = [b"\xac\xed\x00\x05\x7c".as_slice(), &(MOTAN.len() as u64).to_be_bytes(), MOTAN.as_bytes()].concat();
    for data in [MOTAN.as_bytes().to_vec(), java(MOTAN.as_bytes()), long] {
        let found = instance(&motan, &at("server", "10.0.0.5:8002"), data);
        assert_eq!((found.endpoints[0].port, &*found.group, metadata(&found)["nodeType"].clone()), {
            (8_002, "blue", json!("service"))
        });
    }
    let weight = |text: &str| instance(&motan, &at("server", "10.0.0.5:8002"), format!("{MOTAN}weights={text}")).weight;
    assert_eq!(["0", "0.0", "0.2", "7.6"].map(weight), [0, 0, 1, 8]);
    assert_eq!(["", "-5", "blue:7", "inf", "9999999999"].map(weight), [100; 5], "it is none");
    let away = instance(&motan, &at("unavailableServer", "10.0.0.5:8002"), MOTAN);
    assert_eq!(away.state, InstanceState::Down);
    assert_eq!(instance(&motan, &at("server", "10.0.0.5:9"), "").endpoints[0].address(), "10.0.0.5:9");
    assert_eq!(instance(&motan, &at("server", "10.0.0.5"), " ").endpoints[0].address(), "10.0.0.5:80");
    for data in [&b"\xac\xed\x00\x05"[..], b"\xac\xed\x00\x05\x74\xff\xffx", b"\xac\xed\x00\x05\x70", b"\xff"] {
        let found = instance(&motan, &at("server", "10.0.0.5:1"), data);
        assert_eq!(found.endpoints[0].address(), "10.0.0.5:1", "its clients take the name");
    }
    assert_eq!(motan.locate(&path("/motan/blue/command")), None);
    assert_eq!(motan.locate(&path(&at("client", "10.0.0.5:8002"))), None);
}

#[test]
fn a_value_that_qconf_does_not_know_is_of_its_own_node_alone() {
    let qconf = config(Format::Qconf, "/q");
    let state = |data: &str| read(&qconf, "/q/svc/10.0.0.5:80", data, &[]).map(|found| found.expect("one").state);
    assert_eq!([state("0"), state("1"), state("2\n")], {
        [Ok(InstanceState::Up), Ok(InstanceState::Down), Ok(InstanceState::Down)]
    });
    assert_eq!([state(""), state("3"), state("up")], [const { Err(Undecodable::Malformed) }; 3]);
    assert_eq!(qconf.locate(&path("/q/svc")), None);
    assert_eq!(qconf.locate(&path("/q/__qconf_register_hosts/web-1:1")), None);
}

#[test]
fn the_member_of_patroni_that_leads_is_the_primary() {
    let patroni = config(Format::Patroni, "/service");
    let leader = |name: &str| {
        let at = path("/service/pg/leader");
        assert_eq!(patroni.locate(&at).and_then(|it| it.scope(&at)), Some(path("/service/pg")));
        vec![patroni.rule(&at, &node(name)).expect("a leader")]
    };
    let role = |says: &str, rules: &[Rule]| {
        let data = PATRONI.replace("\"replica\"", &format!("{says:?}"));
        let found = read(&patroni, "/service/pg/members/a", data, rules).expect("a member").expect("one");
        assert_eq!(metadata(&found)["member"], "a");
        metadata(&found)["role"].as_str().expect("a role").to_owned()
    };
    assert_eq!(role("replica", &leader("a")), "primary");
    assert_eq!(role("master", &leader("b")), "replica", "it led");
    assert_eq!([role("master", &[]), role("primary", &[]), role("replica", &[])], ["primary", "primary", "replica"]);
    assert_eq!(role("standby_leader", &leader("a")), "standby_leader");
    let found = instance(&patroni, "/service/pg/members/a", PATRONI);
    assert_eq!(&*found.zone, "a");
    assert!(metadata(&found).get("xlog_location").is_none());
    let stopped = PATRONI.replace("running", "stopped");
    assert_eq!(instance(&patroni, "/service/pg/members/a", stopped).state, InstanceState::Down);
    let unbalanced = PATRONI.replace(r#""zone":"a""#, r#""noloadbalance":true"#);
    assert_eq!(instance(&patroni, "/service/pg/members/a", unbalanced.clone()).weight, 0);
    let found = read(&patroni, "/service/pg/members/a", unbalanced, &leader("a")).expect("a member").expect("one");
    assert_eq!(found.weight, 100, "the primary takes calls");
    assert_eq!(patroni.locate(&path("/service/pg/config")), None);
}

#[test]
fn a_proxy_of_codis_is_up_while_it_is_online() {
    let codis = config(Format::Codis, "/jodis");
    let state = |state: &str| {
        let data = format!(r#"{{"addr":"10.0.0.7:19000","token":"t","state":{state}}}"#);
        instance(&codis, "/jodis/shop/proxy-t", data).state
    };
    assert_eq!([state("\"online\""), state("\"offline\""), state("1")], {
        [InstanceState::Up, InstanceState::Down, InstanceState::Down]
    });
}

#[test]
fn a_broker_of_kafka_has_listeners_or_a_host() {
    let kafka = Config { name: "events".into(), ..config(Format::Kafka, "/") };
    let broker = |data: &str| read(&kafka, "/brokers/ids/1", data, &[]);
    let found = broker(KAFKA).expect("a broker").expect("one");
    assert_eq!((&*found.service, &*found.zone, &metadata(&found)["broker"]), ("events", "r1", &json!("1")));
    let old = broker(r#"{"host":"h","port":9092,"endpoints":[]}"#).expect("a broker").expect("one");
    assert_eq!(old.endpoints[0].address(), "h:9092");
    let secured = broker(r#"{"host":null,"port":-1,"endpoints":["SSL://h:1",7,"x","SASL://h:70000"]}"#);
    assert_eq!(secured.expect("a broker").expect("one").endpoints.len(), 1);
    assert_eq!(broker(r#"{"host":null,"port":-1,"endpoints":[]}"#), Err(Undecodable::NoHost));
    assert_eq!(kafka.locate(&path("/brokers/topics/x")), None);
}

#[test]
fn keys_of_raw_json_are_those_that_the_configuration_names() {
    let fields = Fields { host: "at.ip".into(), port: "at.port".into(), zone: "dc".into(), ..Fields::default() };
    let raw = Config { name: "web".into(), fields, ..config(Format::Raw, "/raw") };
    let found = instance(&raw, "/raw/x", r#"{"at":{"ip":"10.0.0.5","port":81},"dc":"a","more":true}"#);
    assert_eq!((&*found.service, found.endpoints[0].address().as_str(), &*found.zone), ("web", "10.0.0.5:81", "a"));
    let joined = instance(&raw, "/raw/x", r#"{"at.ip":"[::1]:81"}"#);
    assert_eq!(joined.endpoints[0].address(), "[::1]:81");
    assert_eq!(read(&raw, "/raw/above", "", &[]), Ok(None), "a node above others");
    for data in ["{}", "{\"at\":7}", "{\"at.ip\":\"h\",\"at.port\":0}", "text", "\u{fc}", "{\"at.ip\":7}", "h:0"] {
        read(&raw, "/raw/x", data, &[]).expect_err(data);
    }
    read(&raw, "/raw/x", b"\xff", &[]).expect_err("it is not UTF-8");
    let why = |data: &str| read(&raw, "/raw/x", data, &[]).map_err(|why| why.to_string()).expect_err(data);
    let no_host = "its data have no text at \"at.ip\", which is the key of its host by `[services.fields]`";
    assert_eq!(why(r#"{"ip":"10.1.1.1","p":80}"#), no_host);
    assert_eq!(why(r#"{"at.ip":"","at.port":80}"#), "it names no host");
    assert!(why(r#"{"at.ip":"a b","at.port":80}"#).starts_with("its host has characters that no host has"));
}

#[test]
fn what_the_fuzz_target_asks_holds_for_all_that_is_known() {
    for (format, root, at, data, ..) in fixtures() {
        let number = Format::ALL.iter().position(|of| *of == format).expect("a format") as u8;
        let below = at.strip_prefix(root).expect("below its root").trim_start_matches('/');
        fuzz::nodes(&[&[number], below.as_bytes(), b"\n", &data].concat());
    }
}
