//! The closures, run by real PHP: a wrong serialization fails, and no result and no argument kills the master.

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::tunnel::php::{Closures, NotPhp, SigningKey, answer, write_value};
use crate::tunnel::wire::Inbox;
use crate::tunnel::{Bounds, Message, RemoteError, Value};

const MASTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tunnel/tests/closures.php");

const PLAIN: Closures = Closures { key: None, bounds: Bounds::DEFAULT };

/// What came of one closure: values, and how it ended.
type Outcome = (Vec<Value>, Result<(), RemoteError>);

/// Lets PHP run closures one after the other in one process, which must outlive them all.
fn run(closures: &[Vec<u8>], key: &str) -> Vec<Outcome> {
    let lines: String = closures.iter().map(|closure| BASE64_STANDARD.encode(closure) + "\n").collect();
    let mut input = tempfile::tempfile().unwrap();
    input.write_all(lines.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut input).unwrap();
    let php = Command::new("php")
        .args(["-d", "display_errors=stderr", "-d", "zend.exception_ignore_args=0"])
        .arg(MASTER)
        .env("CLOSURE_KEY", key)
        .stdin(Stdio::from(input))
        .output()
        .expect("php is installed");
    assert!(php.status.success(), "{}", String::from_utf8_lossy(&php.stderr));
    assert_eq!(String::from_utf8_lossy(&php.stderr), "");
    outcomes(&php.stdout, closures.len())
}

fn outcomes(output: &[u8], runs: usize) -> Vec<Outcome> {
    let mut inbox = Inbox::new(Bounds::DEFAULT);
    inbox.put(output);
    let mut outcome = || {
        let mut values = Vec::new();
        let mut failed = None;
        loop {
            match inbox.next().expect("frames within the bounds").expect("an end of every stream").0 {
                Message::Data { data, .. } => match answer(data) {
                    Ok(value) => values.push(value),
                    Err(error) => failed = Some(error),
                },
                Message::End { .. } => return (values, failed.map_or(Ok(()), Err)),
                Message::Error { error, .. } => return (values, Err(error)),
                other => panic!("not of a stream: {other:?}"),
            }
        }
    };
    (0..runs).map(|_| outcome()).collect()
}

fn calls(calls: &[(&str, Value)]) -> Vec<Outcome> {
    let closures: Vec<_> = calls.iter().map(|(method, arguments)| demo(method, arguments.clone())).collect();
    run(&closures, "")
}

fn demo(method: &str, arguments: Value) -> Vec<u8> {
    PLAIN.call("demo", method, arguments).expect("values of PHP")
}

fn list(values: impl IntoIterator<Item = Value>) -> Value {
    Value::Array(values.into_iter().collect())
}

fn map(pairs: &[(&str, Value)]) -> Value {
    Value::Map(pairs.iter().map(|(key, value)| ((*key).into(), value.clone())).collect())
}

fn texts(texts: &[&str]) -> Value {
    list(texts.iter().map(|text| (*text).into()))
}

fn serialized(value: impl Into<Value>) -> String {
    let mut out = Vec::new();
    write_value(&value.into(), &mut out).expect("a value of PHP");
    String::from_utf8(out).unwrap()
}

#[test]
fn a_call_survives_every_result_that_a_service_can_give() {
    let well = |method, values: &[Value]| (method, Value::Nil, values.to_vec());
    let money = map(&[("amount", 5.0.into()), ("currency", "EUR".into())]);
    let date = [("date", "2024-02-03 04:05:06.000000".into()), ("timezone_type", 3.into()), ("timezone", "UTC".into())];
    let nested = Value::Map(vec![
        ("a".into(), list([1.into(), list([2.5.into(), Value::Nil])])),
        (7.into(), map(&[("x", true.into())])),
        ("none".into(), list([])),
    ]);
    let cases = [
        well("nothing", &[]),
        well("echo", &[list([])]),
        well("bytes", &[Value::Binary(vec![0xff, 0, 0xfe])]),
        well("nested", &[nested]),
        well("money", &[list([money, "hearts".into()])]),
        well("itself", &[map(&[("shown", map(&[("list", list([1.into(), 2.0.into()]))]))])]),
        well("standard", &[map(&[("a", 1.into()), ("b", map(&[("c", 2.into())]))])]),
        well("date", &[map(&date)]),
        well("values", &[1.into(), "two".into(), map(&[("three", 3.into())])]),
        well("emptyValues", &[]),
        well("laterValues", &[1.into(), "two".into(), map(&[("three", 3.into())])]),
        well("infinite", &[map(&[("a", f64::INFINITY.into())])]),
        ("later", list(["late".into()]), vec!["late".into()]),
        ("later", list([Value::Nil]), vec![]),
        well("nearlyHuge", &["x".repeat(1 << 19).into()]),
        ("deep", list([30.into()]), vec![(0..30).fold(1.into(), |inner, _| list([inner]))]),
    ];
    let outcomes = calls(&cases.clone().map(|(method, arguments, _)| (method, arguments)));
    for ((method, _, values), outcome) in cases.into_iter().zip(outcomes) {
        assert_eq!(outcome, (values, Ok(())), "{method}");
    }
}

#[test]
fn whatever_goes_wrong_is_told_and_the_master_lives() {
    let unfit = |message: &'static str| ("UnexpectedValueException", message, 0);
    let too_large = ("LengthException", "the result is larger or nested deeper than a message may be", 0);
    let cases = [
        ("never", ("LogicException", "too late", 3)),
        ("odd", ("RuntimeException", "rejected with a value of type string", 0)),
        ("resource", unfit("a resource (stream) cannot be sent")),
        ("closure", unfit("a Closure cannot be sent")),
        ("generatorInside", unfit("a Generator cannot be sent")),
        ("promiseInside", unfit(r"a React\Promise\PromiseInterface cannot be sent")),
        ("infiniteObject", ("JsonException", "Inf and NaN cannot be JSON encoded", 7)),
        ("huge", too_large),
        ("many", too_large),
        ("endless", too_large),
        ("holdsClosure", ("Holder", "cannot be serialized", 5)),
        ("anonymous", ("Exception@anonymous", "nameless", 4)),
        ("textCode", ("TextCode", "as databases do", 0)),
        ("nope", ("RuntimeException", "Method 'nope' not found in service 'demo'", 0)),
        ("error", ("TypeError", "strlen(): Argument #1 ($string) must be of type string, array given", 0)),
    ];
    let outcomes = calls(&cases.map(|(method, _)| (method, Value::Nil)));
    for ((method, (class, message, code)), outcome) in cases.into_iter().zip(outcomes) {
        let error = RemoteError { message: message.into(), class: Some(class.into()), code };
        assert_eq!(outcome, (vec![], Err(error)), "{method}");
    }
    let others = calls(&[
        ("broken", Value::Nil),
        ("longMessage", Value::Nil),
        ("deep", list([31.into()])),
        ("integer", texts(&["many"])),
        ("pair", map(&[("first", 1.into()), ("third", 2.into())])),
        ("echo", list(["still here".into()])),
    ]);
    assert_eq!(others[0].0, [1.into()], "what came before the failure arrives");
    assert_eq!(others[0].1.clone().unwrap_err().message, "midway");
    assert_eq!(others[1].1.clone().unwrap_err().message.len(), 8192);
    assert_eq!(others[2].1.clone().unwrap_err().class.unwrap(), "LengthException");
    assert_eq!(others[3].1.clone().unwrap_err().class.unwrap(), "TypeError");
    assert_eq!(others[4].1.clone().unwrap_err().class.unwrap(), "Error");
    assert_eq!(others[5], (vec![texts(&["still here"])], Ok(())));
}

#[test]
fn arguments_arrive_intact() {
    let awkward = "it's \"$x\" ${y} {$z} <?php ?> é😀\0 \\ end";
    let floats = [1.5, -0.0, 0.1, 1e300, 5e-324, f64::MAX, f64::INFINITY, f64::NEG_INFINITY, 1e15, 123_456_789.0];
    let values = list([
        awkward.into(),
        "".into(),
        Value::Binary(vec![0xff, 0, 0xfe]),
        i64::MAX.into(),
        i64::MIN.into(),
        (-9_007_199_254_740_993i64).into(),
        true.into(),
        false.into(),
        Value::Nil,
        list(floats.map(Value::from)),
        list([list([]), map(&[("k", list([map(&[("deep", awkward.into())])]))])]),
    ]);
    let named = map(&[("second", 2.into()), ("first", 1.5.into())]);
    let outcomes = calls(&[
        ("echo", list([values.clone()])),
        ("pair", named),
        ("types", list([Value::F32(0.5), u64::MAX.into(), f64::NAN.into(), 1.0.into(), 1.into()])),
        ("dump", list([list([(-0.0).into(), f64::NAN.into(), u64::MAX.into(), 0.1.into()])])),
    ]);
    assert_eq!(outcomes[0], (vec![list([values])], Ok(())));
    assert_eq!(outcomes[1], (vec![list([1.5.into(), 2.into()])], Ok(())));
    assert_eq!(outcomes[2], (vec![texts(&["float", "float", "float", "float", "int"])], Ok(())));
    assert_eq!(outcomes[3], (vec![texts(&["-0.0", "NAN", "1.8446744073709552E+19", "0.1"])], Ok(())));
}

#[test]
fn a_hostile_name_is_data_and_never_source() {
    for hostile in ["x'); exit('", "x\"); exit(\"", "$stream", "\0", "'; system('id'); '", "é\n?><?php exit(1);"] {
        let closures = [
            PLAIN.call(hostile, "echo", list([hostile.into()])).expect("text"),
            PLAIN.call("demo", hostile, map(&[(hostile, hostile.into())])).expect("text"),
            demo("echo", list([hostile.into()])),
        ];
        let outcomes = run(&closures, "");
        match outcomes[0].1.as_ref().map_err(|error| error.message.as_str()) {
            Ok(()) => assert_eq!(outcomes[0].0, [texts(&[hostile])], "a service has just that name"),
            Err(message) => assert_eq!(message, format!("Service '{hostile}' not found")),
        }
        let missing = format!("Method '{hostile}' not found in service 'demo'");
        assert_eq!(outcomes[1].1.as_ref().unwrap_err().message, missing);
        assert_eq!(outcomes[2], (vec![texts(&[hostile])], Ok(())));
    }
}

#[test]
fn the_services_are_told_also_with_metadata_that_cannot_be_sent() {
    let service = |name: &str, metadata| map(&[("name", name.into()), ("metadata", metadata)]);
    let metadata = map(&[("version", "1.2.0".into()), ("weight", 0.5.into()), ("f", list([])), ("r", Value::Nil)]);
    let services = ["x'); exit('", "bare"].map(|name| (name, service(name, list([]))));
    let services = map(&[&[("demo", service("demo", metadata))], services.as_slice()].concat());
    assert_eq!(run(&[PLAIN.services()], ""), [(vec![services], Ok(()))]);
    let narrow = Closures { bounds: Bounds { bytes: 4200, ..Bounds::DEFAULT }, ..PLAIN };
    let outcomes = run(&[narrow.services(), narrow.call("demo", "nothing", Value::Nil).unwrap()], "");
    assert_eq!(outcomes[0].1.as_ref().unwrap_err().message, "more services than fit into a message");
    assert_eq!(outcomes[1], (vec![], Ok(())));
}

#[test]
fn a_master_that_wants_signatures_runs_what_is_signed_with_its_key() {
    let signed = |key: &str| Closures { key: Some(SigningKey(key.into())), ..PLAIN };
    let awkward = Value::Binary(vec![b'"', 0xff, 0]);
    let call = |key| signed(key).call("demo", "echo", list([awkward.clone()])).unwrap();
    let outcomes = run(&[call("k3y"), call("other"), signed("k3y").services(), PLAIN.services()], "k3y");
    assert_eq!(outcomes[0], (vec![list([awkward])], Ok(())));
    assert_eq!(outcomes[1].1.as_ref().unwrap_err().message, "signed with another key");
    assert_eq!(outcomes[2].1, Ok(()));
    assert_eq!(outcomes[3].1.as_ref().unwrap_err().message, "not signed");
    assert!(!format!("{:?}", signed("k3y")).contains("k3y"));
}

#[test]
fn keys_become_what_php_makes_of_them() {
    let keys = ["0", "-0", "00", "7", "-7", "+7", " 7", "1.5", "", "9223372036854775807", "9223372036854775808"];
    let pairs = keys.into_iter().map(Value::from).chain([8.into(), (-8).into(), u64::MAX.into(), i64::MIN.into()]);
    let pairs = Value::Map(pairs.map(|key| (key, Value::Nil)).collect());
    let expected = [
        "integer 0",
        "string -0",
        "string 00",
        "integer 7",
        "integer -7",
        "string +7",
        "string  7",
        "string 1.5",
        "string ",
        "integer 9223372036854775807",
        "string 9223372036854775808",
        "integer 8",
        "integer -8",
        "string 18446744073709551615",
        "integer -9223372036854775808",
    ];
    assert_eq!(calls(&[("keys", list([pairs.clone()]))]), [(vec![texts(&expected)], Ok(()))]);
    // The same without PHP's help: it would turn such text into integers itself.
    assert!(serialized(pairs).starts_with("a:15:{i:0;N;s:2:\"-0\";N;s:2:\"00\";N;i:7;N;i:-7;N;s:2:\"+7\";N;"));
}

#[test]
fn values_are_written_as_php_writes_them() {
    assert_eq!(serialized(Value::Nil), "N;");
    assert_eq!(serialized(true), "b:1;");
    assert_eq!(serialized(-5), "i:-5;");
    assert_eq!(serialized("é"), "s:2:\"é\";");
    assert_eq!(serialized(f64::NEG_INFINITY), "d:-INF;");
    assert_eq!(serialized(list([1.into(), map(&[("k", 0.5.into())])])), "a:2:{i:0;i:1;i:1;a:1:{s:1:\"k\";d:0.5;}}");
    let refused = |value| write_value(&value, &mut Vec::new());
    assert_eq!(refused(Value::Ext(1, vec![])), Err(NotPhp::Extension));
    assert_eq!(refused(Value::Map(vec![(1.5.into(), Value::Nil)])), Err(NotPhp::Key));
}

#[test]
fn the_signature_is_that_of_the_known_vector() {
    let native = concat!(
        r#"O:46:"Laravel\SerializableClosure\Serializers\Native":5:{s:3:"use";a:0:{}s:8:"function";"#,
        r#"s:29:"function ($s) { $s->end(1); }";s:5:"scope";N;s:4:"this";N;"#,
        r#"s:4:"self";s:32:"00000000000000030000000000000000";}"#
    );
    let hash = SigningKey(b"k3y".to_vec()).hash(native.as_bytes());
    assert_eq!(hash, "dijNzB2r8GfdIYGhFYGMZqLAJMiM85H0cHvqcp2A3cw=");
}
