//! Masters of PHP and of Rust, connected to the real register and called through it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::sys::signal::Signal;
use roster::master::{Config, Master, MethodError, Service, Values};
use serde_json::{Value as Json, json};

use crate::harness::{Process, SOON, ensure, eventually, exception};
use crate::idl::{Call, CallFailed, CallTimedOut, NoMaster, TRosterSyncClient};
use crate::register::{Scene, TOKEN};

/// A master on real PHP; it ends when this is dropped.
pub(crate) struct Php {
    process: Process,
    said: PathBuf,
    _folder: tempfile::TempDir,
}

impl Php {
    pub(crate) fn start(port: u16, key: &str, names: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let said = folder.path().join("said");
        let output = std::fs::File::create(&said).expect("a file");
        let mut php = Command::new("php");
        php.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/php/master.php"));
        php.args([&port.to_string(), TOKEN]).args(names).env("CLOSURE_KEY", key);
        php.stdout(output.try_clone().expect("a file")).stderr(output);
        Self { process: Process::start(&mut php, folder.path()), said, _folder: folder }
    }

    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.said).expect("what it said")
    }

    pub(crate) fn says(&self, what: &str) {
        eventually(&format!("the master says {what}"), SOON, || ensure(self.said().contains(what), self.said()));
    }
}

impl Drop for Php {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("The master said:\n{}", self.said());
        }
    }
}

/// All values that a call gives, or the class and the message of its error.
fn called(scene: &Scene, service: &str, method: &str, arguments: &Json) -> Result<Vec<Json>, (String, String)> {
    let result = scene.roster.client().call(Call {
        timeout_ms: Some(60_000),
        all_values: Some(true),
        ..Call::of(service, method, arguments.to_string())
    });
    match result {
        Ok(result) => Ok(result.values.iter().map(|value| serde_json::from_slice(value).expect("JSON")).collect()),
        Err(error) => {
            let failed = exception::<CallFailed>(Err::<(), _>(error)).expect("a failed call");
            Err((failed.class_name.unwrap_or_default(), failed.message))
        }
    }
}

pub(crate) fn gives(scene: &Scene, service: &str, method: &str, arguments: Json) -> Vec<Json> {
    called(scene, service, method, &arguments).unwrap_or_else(|error| panic!("{service}.{method}: {error:?}"))
}

pub(crate) fn fails(scene: &Scene, service: &str, method: &str, arguments: Json) -> (String, String) {
    called(scene, service, method, &arguments).expect_err(method)
}

/// Waits until just these services are offered.
pub(crate) fn offers(scene: &Scene, names: &[&str]) {
    eventually("the services are offered", SOON, || {
        let mut offered: Vec<_> = scene.masters()?.into_iter().flat_map(|it| it.services).map(|it| it.name).collect();
        offered.sort();
        ensure(offered == names, format!("{offered:?}"))
    });
}

#[test]
fn a_php_master_survives_whatever_its_services_give() {
    let scene = Scene::new();
    let _php = Php::start(scene.port, "", &[]);
    offers(&scene, &["control", "demo"]);
    let pid = gives(&scene, "control", "pid", json!([]));
    let values = [
        ("later", json!(["late"]), vec![json!("late")]),
        ("bytes", json!([]), vec![json!({"base64": "/wD+"})]),
        ("nested", json!([]), vec![json!({"a": [1, [2.5, null]], "7": {"x": true}, "none": []})]),
        ("money", json!([]), vec![json!([{"amount": 5.0, "currency": "EUR"}, "hearts"])]),
        ("nothing", json!([]), vec![]),
        ("standard", json!([]), vec![json!({"a": 1, "b": {"c": 2}})]),
        ("empty", json!([]), vec![json!([[], {}])]),
        ("stream", json!([]), vec![json!(1), json!("two")]),
        ("optional", json!([null, 2]), vec![json!([null, 2, 3])]),
        ("values", json!([]), vec![json!(1), json!("two"), json!({"three": 3})]),
        ("laterValues", json!([]), vec![json!(1), json!("two"), json!({"three": 3})]),
    ];
    for (method, arguments, expected) in values {
        assert_eq!(gives(&scene, "demo", method, arguments), expected, "{method}");
    }
    assert_eq!(scene.call("demo", "nothing", "[]").expect("a result").values, [] as [Vec<u8>; 0]);
    let errors = [
        ("never", "LogicException", "too late"),
        ("resource", "UnexpectedValueException", "a resource (stream) cannot be sent"),
        ("closure", "UnexpectedValueException", "a Closure cannot be sent"),
        ("holdsClosure", "Holder", "cannot be serialized"),
        ("huge", "LengthException", "the result is larger than a message may be"),
        ("error", "TypeError", "strlen(): Argument #1 ($string) must be of type string, array given"),
        ("nope", "RuntimeException", "Method 'nope' not found in service 'demo'"),
        ("__construct", "RuntimeException", "Method '__construct' not found in service 'demo'"),
    ];
    for (method, class, message) in errors {
        assert_eq!(fails(&scene, "demo", method, json!([])), (class.into(), message.into()), "{method}");
    }
    assert_eq!(fails(&scene, "demo", "broken", json!([])).1, "midway");
    assert!(fails(&scene, "demo", "infinite", json!([])).1.contains("NaN or INF"));
    assert_eq!(gives(&scene, "control", "pid", json!([])), pid, "the same process lives");
}

#[test]
fn arguments_reach_a_php_master_intact() {
    let scene = Scene::new();
    let _php = Php::start(scene.port, "", &["x'); exit('"]);
    offers(&scene, &["control", "demo", "x'); exit('"]);
    let awkward = "it's \"$x\" ${y} {$z} <?php ?> é😀\0 \\ end";
    let odd = json!([awkward, i64::MAX, i64::MIN, 0.1, 1e300, [[], {"k": [{"deep": awkward}]}], true, null]);
    assert_eq!(gives(&scene, "demo", "echo", odd.clone()), std::slice::from_ref(&odd));
    assert_eq!(gives(&scene, "x'); exit('", "echo", odd.clone()), [odd]);
    assert_eq!(gives(&scene, "demo", "pair", json!({"second": 2, "first": awkward})), [json!([awkward, 2])]);
    let hostile = "x'); system('kill $PPID";
    let missing = format!("Method '{hostile}' not found in service 'demo'");
    assert_eq!(fails(&scene, "demo", hostile, json!([])).1, missing);
    assert_eq!(fails(&scene, "demo", "pair", json!({hostile: 1})).0, "Error");
}

#[test]
fn a_php_master_that_wants_signatures_gets_them() {
    let signing = Scene::with("signing_key = \"{folder}/tokens\"");
    let _php = Php::start(signing.port, "one", &[]);
    offers(&signing, &["control", "demo"]);
    assert_eq!(gives(&signing, "demo", "echo", json!(["signed"])), [json!(["signed"])]);
    let plain = Scene::new();
    let unsigned = Php::start(plain.port, "another key", &[]);
    unsigned.says("accepted");
    // It does not even tell its services.
    let why = "its TunnelStream::$secretKey is not the [register] signing_key";
    plain.roster.logs(why);
    plain.has(0);
    eventually("it is counted", SOON, || {
        let told = plain.roster.cli(["status"]).text();
        ensure(told.contains("1 of the masters with no list of services"), told)
    });
    let changing = Scene::with("signing_key = \"{folder}/tokens\"");
    let _other = Php::start(changing.port, "another key", &[]);
    let detail = || changing.roster.status().sources.into_iter().map(|it| it.detail).collect::<String>();
    eventually("it is counted", SOON, || ensure(detail().contains("no list of services"), detail()));
    changing.roster.write("tokens", "another key");
    changing.roster.process().signal(Signal::SIGHUP);
    offers(&changing, &["control", "demo"]);
    eventually("it is counted no more", SOON, || ensure(detail().is_empty(), detail()));
}

#[test]
fn a_php_master_goes_on_while_a_call_waits_and_its_services_change() {
    let scene = Scene::new();
    let _php = Php::start(scene.port, "", &[]);
    offers(&scene, &["control", "demo"]);
    let late =
        scene.roster.client().call(Call { timeout_ms: Some(300), ..Call::of("control", "later", b"[30]".to_vec()) });
    exception::<CallTimedOut>(late).expect("the call is too late");
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| gives(&scene, "control", "later", json!([5, "late"])));
        gives(&scene, "control", "offer", json!(["mail", {"version": "2.0.0"}]));
        offers(&scene, &["control", "demo", "mail"]);
        assert!(!slow.is_finished(), "the others came first");
        assert_eq!(slow.join().expect("the caller"), [json!("late")]);
    });
    gives(&scene, "control", "withdraw", json!(["mail"]));
    offers(&scene, &["control", "demo"]);
    gives(&scene, "control", "remove", json!([]));
    offers(&scene, &[]);
    scene.has(1);
}

#[test]
fn a_php_master_that_is_killed_fails_its_call_and_is_gone() {
    let scene = Scene::new();
    let mut php = Php::start(scene.port, "", &[]);
    offers(&scene, &["control", "demo"]);
    let lost = exception::<CallFailed>(scene.call("control", "die", "[]")).expect("a failed call");
    assert!(lost.lost, "{lost:?}");
    scene.has(0);
    php.process.ends_within(SOON);
    exception::<NoMaster>(scene.call("demo", "nothing", "[]")).expect("nobody is there");
}

#[test]
fn large_results_arrive_where_the_settings_allow_them() {
    const MIB: usize = 1 << 20;
    let mut scene = Scene::with("max_message = \"8MiB\"\nmax_queue = \"8MiB\"");
    scene.roster.configure("[thrift]", "[thrift]\nmax_reply = \"16MiB\"");
    scene.roster.kill();
    scene.roster.run();
    let small = Scene::new();
    let _php = [scene.port, small.port].map(|port| Php::start(port, "", &[]));
    for scene in [&scene, &small] {
        offers(scene, &["control", "demo"]);
    }
    assert_eq!(gives(&scene, "demo", "text", json!([5 * MIB])), [json!("x".repeat(5 * MIB))]);
    let numbers = gives(&scene, "demo", "range", json!([500_000])).remove(0);
    assert!(numbers.as_array().is_some_and(|all| all.len() == 500_000 && all[499_999] == json!(499_999.5)));
    assert!(fails(&scene, "demo", "text", json!([9 * MIB])).1.contains("larger than a message"));
    // By default, all that is within 1 MiB does.
    assert_eq!(gives(&small, "demo", "text", json!([1_045_000])).len(), 1);
    assert_eq!(gives(&small, "demo", "range", json!([100_000])).len(), 1);
    assert!(fails(&small, "demo", "range", json!([200_000])).1.contains("larger than a message"));
    let service = Service::new("rust").method("nils", |(count,): (usize,)| async move { Ok(vec![None::<u8>; count]) });
    with_master(service, &[small.port], |_| {
        offers(&small, &["control", "demo", "rust"]);
        assert_eq!(gives(&small, "rust", "nils", json!([200_000])).len(), 1);
    });
}

/// Runs a master of Rust beside `test`, and stops it.
pub(crate) fn with_master(service: Service, ports: &[u16], test: impl FnOnce(&Master)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let _inside = runtime.enter();
    let mut config = Config::new(TOKEN);
    config.retry_delay = Duration::from_millis(50);
    let master = Master::start(config);
    master.offer(service);
    ports.iter().for_each(|port| master.connect(("127.0.0.1", *port)));
    test(&master);
    runtime.block_on(master.stop());
}

async fn count((to,): (u64,), values: Values) -> Result<(), MethodError> {
    for number in 1..=to {
        values.send(number).await?;
    }
    Ok(())
}

#[test]
fn a_rust_master_is_listed_and_called() {
    let (scene, other) = (Scene::new(), Scene::new());
    let demo = Service::new("demo")
        .metadata("version", "1.2.0")
        .method("echo", |arguments: roster::master::Value| async move { Ok(arguments) })
        .method("bytes", |()| async move { Ok(roster::master::Value::Binary(vec![0xff, 0, 0xfe])) })
        .method("nothing", |()| async move { Ok(()) })
        .method("fail", |()| async move { Err::<(), _>(MethodError::new("bad input").class("Bad").code(42)) })
        .method("panic", |()| async move { if true { panic!("as the test wants") } else { Ok(()) } })
        .stream("count", count);
    with_master(demo, &[scene.port, other.port], |master| {
        for scene in [&scene, &other] {
            offers(scene, &["demo"]);
            let masters = scene.has(1);
            assert_eq!((&*masters[0].id, &*masters[0].services[0].version), (master.id(), "1.2.0"));
        }
        let odd = json!({"a": ["é😀\0", i64::MAX, 0.1, null, {}]});
        assert_eq!(gives(&scene, "demo", "echo", odd.clone()), [odd]);
        assert_eq!(gives(&scene, "demo", "bytes", json!([])), [json!({"base64": "/wD+"})]);
        assert_eq!(other.call("demo", "nothing", "[]").expect("a result").values, [] as [Vec<u8>; 0]);
        assert_eq!(gives(&scene, "demo", "nothing", json!([])), [] as [Json; 0]);
        assert_eq!(gives(&scene, "demo", "count", json!([3])), [1, 2, 3]);
        let failed = exception::<CallFailed>(scene.call("demo", "fail", "[]")).expect("a failed call");
        assert_eq!((&*failed.message, failed.class_name.as_deref(), failed.code), ("bad input", Some("Bad"), 42));
        assert_eq!(fails(&scene, "demo", "panic", json!([])).0, "Panic");
        assert_eq!(fails(&scene, "demo", "nope", json!([])).1, "Method 'nope' not found in service 'demo'");
        master.offer(Service::new("more"));
        offers(&other, &["demo", "more"]);
        master.withdraw("demo");
        offers(&scene, &["more"]);
        master.remove(("127.0.0.1", other.port));
        other.has(0);
        scene.has(1);
    });
    scene.has(0);
}

#[test]
fn a_master_is_called_and_listed_by_its_metadata() {
    let scene = Scene::new();
    let mail = |zone: &'static str| {
        let service = Service::new("mail").metadata("version", "1.0.0").metadata("zone", zone).metadata("weight", 3);
        service.method("zone", move |()| async move { Ok(zone) })
    };
    with_master(mail("a"), &[scene.port], |_| {
        with_master(mail("b"), &[scene.port], |_| {
            scene.has(2);
            for zone in ["a", "b"] {
                let metadata = ["--metadata", &format!("zone={zone}"), "--metadata", "weight=3"];
                for _ in 0..8 {
                    let called = scene.roster.cli(["call", "mail.zone"].iter().chain(&metadata)).text();
                    assert_eq!(called, format!("\"{zone}\"\n"));
                }
                let listed = scene.roster.cli(["services", "mail", "-o", "json"].iter().chain(&metadata)).json();
                assert_eq!(listed["instances"][0]["metadata"]["zone"], zone);
                assert_eq!(listed["instances"].as_array().map(Vec::len), Some(1));
                let masters = scene.roster.cli(["masters", "-o", "json"].iter().chain(&metadata)).json();
                assert_eq!(masters["masters"].as_array().map(Vec::len), Some(1));
                let services = scene.roster.cli(["services", "-o", "json"].iter().chain(&metadata)).json();
                assert_eq!(services["services"][0]["masters"]["1.0.0"], 1);
            }
            let _php = Php::start(scene.port, "", &[]);
            offers(&scene, &["control", "demo", "mail", "mail"]);
            gives(&scene, "control", "offer", json!(["mail", {"zone": "php", "rack": [1, null]}]));
            offers(&scene, &["control", "demo", "mail", "mail", "mail"]);
            for _ in 0..8 {
                let of_php = ["call", "mail.echo", "n=1", "--metadata", "zone=php", "--metadata", "rack=[1,null]"];
                assert_eq!(scene.roster.cli(of_php).text(), "{\"n\":1}\n", "though it offers an older version");
            }
            for strange in ["zone=c", "zone=", "rack=[1,nul", "rack=[1,null]]", "none=a"] {
                let ended = scene.roster.cli(["call", "mail.echo", "n=1", "--metadata", strange]);
                assert!(
                    ended.code != Some(0) && ended.wrong.contains(&format!("with {strange}")),
                    "{strange}: {ended:?}"
                );
            }
        });
    });
}

#[test]
fn that_nobody_offers_a_service_is_said() {
    let scene = Scene::new();
    with_master(Service::new("mail"), &[scene.port], |_| {
        offers(&scene, &["mail"]);
        for command in [&["services", "mail"][..], &["masters", "--service", "mail"]] {
            assert_eq!(scene.roster.cli(command).wrong, "");
        }
    });
    scene.has(0);
    for (command, why) in [
        (&["masters", "--service", "mail"][..], "no master offers the service `mail`"),
        (&["services", "mail", "--stats"], "no method of the service `mail` was called"),
    ] {
        let ended = scene.roster.cli(command);
        assert_eq!((ended.code, ended.wrong.trim_end()), (Some(0), format!("roster: {why}").as_str()), "{ended:?}");
    }
    let gone = scene.roster.cli(["services", "mail"]);
    assert_eq!((gone.code, &*gone.told), (Some(1), &b""[..]));
    assert!(gone.wrong.contains("the service mail has no instances any more; `roster history mail`"), "{gone:?}");
    for command in [&["services", "nope"][..], &["masters", "--service", "nope"], &["services", "nope", "--stats"]] {
        let ended = scene.roster.cli(command);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.told.is_empty() && ended.wrong.contains("nobody has offered `nope`"), "{ended:?}");
    }
}

#[test]
fn status_tells_how_the_calls_of_each_service_went() {
    let scene = Scene::new();
    let service = Service::new("mail")
        .method("send", |()| async move { Ok("sent") })
        .method("fail", |()| async move { Err::<(), _>(MethodError::new("no")) });
    with_master(service, &[scene.port], |_| {
        offers(&scene, &["mail"]);
        assert!(!scene.roster.cli(["status"]).text().contains("SERVICE"), "nothing was called");
        for method in ["send", "send", "fail"] {
            let _ = called(&scene, "mail", method, &json!([]));
        }
        exception::<NoMaster>(scene.call("nobody", "send", "[]")).expect("nobody is there");
        let told = scene.roster.cli(["status"]).text();
        let row = |name: &str| {
            let line = told.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{told}"));
            line.split_whitespace().take(7).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(row("SERVICE")[..3], ["SERVICE", "CALLS", "FAILED"]);
        assert_eq!(row("mail"), ["mail", "3", "1", "0", "0", "0", "0"]);
        assert_eq!(row("other"), ["other", "1", "0", "0", "0", "1", "0"]);
        let document = scene.roster.cli(["status", "-o", "json"]).json();
        let mail = &document["services"][0];
        assert_eq!((&mail["serviceName"], &mail["calls"], &mail["failed"]), (&json!("mail"), &json!(3), &json!(1)));
    });
}

#[test]
fn a_rust_master_hears_that_its_caller_is_gone_and_comes_back_to_a_register_that_was_away() {
    let mut scene = Scene::new();
    let (gone, heard) = channel();
    struct Tells(std::sync::mpsc::Sender<()>);
    impl Drop for Tells {
        fn drop(&mut self) {
            // The test may be over.
            let _ = self.0.send(());
        }
    }
    let slow = Service::new("slow").method("wait", move |()| {
        let tells = Tells(gone.clone());
        async move {
            let _tells = tells;
            std::future::pending::<Result<(), MethodError>>().await
        }
    });
    with_master(slow, &[scene.port], |_| {
        offers(&scene, &["slow"]);
        let late = scene.roster.client().call(Call { timeout_ms: Some(2_000), ..Call::of("slow", "wait", "[]") });
        exception::<CallTimedOut>(late).expect("the call is too late");
        heard.recv_timeout(SOON).expect("the master hears that nobody waits");
        scene.roster.kill();
        scene.roster.run();
        offers(&scene, &["slow"]);
    });
}

#[test]
fn the_command_line_makes_several_calls_in_order_on_one_master() {
    let scene = Scene::new();
    let masters = [Php::start(scene.port, "", &[]), Php::start(scene.port, "", &[])];
    eventually("both are there", SOON, || ensure(scene.masters()?.len() == 2, "not yet"));
    offers(&scene, &["control", "control", "demo", "demo"]);
    let in_order = |lines: &str, more: &[&str]| {
        scene.roster.write("calls", lines);
        let calls = std::fs::File::open(scene.roster.folder().join("calls")).expect("a file");
        let mut command = scene.roster.command([&["call", "--in-order"], more].concat());
        let output = command.stdin(calls).output().expect("the binary starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let pids = "{\"call\":\"control.pid\"}\n".repeat(9);
    let lines = format!("{pids}\n{{\"call\": \"demo.echo\", \"arguments\": [[1, null]]}}\n");
    let (code, printed, wrong) = in_order(&lines, &[]);
    let mut printed: Vec<_> = printed.lines().collect();
    assert_eq!((code, printed.pop(), printed.len()), (Some(0), Some("demo.echo\t[[1,null]]"), 9), "{wrong}");
    assert!(printed[0].starts_with("control.pid\t") && printed.iter().all(|pid| *pid == printed[0]), "{printed:?}");
    let (code, printed, wrong) =
        in_order("{\"call\":\"demo.nope\"}\n{\"call\":\"demo.echo\",\"arguments\":[\"on\"]}", &[]);
    assert_eq!((code, &*printed), (Some(7), "demo.echo\t[\"on\"]\n"), "{wrong}");
    assert!(wrong.contains("demo.nope: ") && wrong.contains("1 of 2 calls gave no result"), "{wrong}");
    let (code, _, wrong) = in_order("{\"call\":\"demo.echo\"}\nnonsense", &[]);
    assert!(code == Some(2) && wrong.contains("line 2 is no call"), "{code:?} {wrong}");
    let id = &scene.masters().expect("masters")[1].id;
    let (code, printed, _) = in_order("{\"call\":\"control.pid\"}", &["--master", id, "-o", "json"]);
    let outcomes: Json = serde_json::from_str(&printed).expect("JSON");
    assert_eq!((code, &outcomes[0]["masterId"]), (Some(0), &json!(id)));
    drop(masters);
}
