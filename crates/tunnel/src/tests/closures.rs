//! The closures, run by real PHP: a wrong serialization fails, and no result and no argument kills the master.

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::php::{Closures, SigningKey};
use crate::trunk::{Part, Request, part};
use crate::value::get;
use crate::wire::Inbox;
use crate::{Arguments, NotPhp, php_value};
use crate::{Bounds, Message, RemoteError, Value};

const MASTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/closures.php");

pub(super) const PLAIN: Closures = Closures { key: None, bounds: Bounds::DEFAULT };

/// The outcome of one request: values, and how it ended.
type Outcome = (Vec<Value>, Result<(), RemoteError>);

/// Makes PHP run the closure and answer requests in one process, which must survive them all. Or returns why the
/// closure failed.
pub(super) fn run(closures: &Closures, requests: Vec<Request>, key: &str) -> Result<Vec<Outcome>, RemoteError> {
    let count = requests.len();
    let packed = requests.into_iter().zip(0..).map(|(request, id)| {
        let (end, mut line) = (request.end(), written(&request.into_value(id)));
        if !end.is_empty() {
            line.pop();
        }
        line.extend(end);
        line
    });
    let lines: String =
        std::iter::once(closures.master()).chain(packed).map(|line| BASE64_STANDARD.encode(line) + "\n").collect();
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
    outcomes(&php.stdout, closures, count)
}

fn written(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).unwrap();
    bytes
}

fn outcomes(output: &[u8], closures: &Closures, requests: usize) -> Result<Vec<Outcome>, RemoteError> {
    let mut inbox = Inbox::new(closures.bounds);
    inbox.put(output);
    let mut outcomes = vec![(Vec::new(), None::<Result<(), RemoteError>>); requests];
    while let Some(message) = inbox.next().expect("frames within the bounds") {
        let (id, part) = match message {
            Message::Data { data, .. } => part(data).expect("a part of an answer"),
            Message::Error { error, .. } => return Err(error),
            other => panic!("not of a stream: {other:?}"),
        };
        let (values, end) = &mut outcomes[id as usize];
        assert!(end.is_none(), "something follows the end of {id}");
        let mut value = |packed| values.push(closures.unpack(&packed).expect("a value"));
        match part {
            Part::Value(packed) => value(packed),
            Part::Last(packed) => {
                value(packed);
                *end = Some(Ok(()));
            }
            Part::End => *end = Some(Ok(())),
            Part::Error(error) => *end = Some(Err(error)),
            Part::Took(_) => panic!("no call has an input"),
        }
    }
    Ok(outcomes.into_iter().map(|(values, end)| (values, end.expect("an end of every answer"))).collect())
}

fn calls(calls: &[(&str, Value)]) -> Vec<Outcome> {
    let requests = calls.iter().map(|(method, arguments)| demo(method, arguments.clone())).collect();
    run(&PLAIN, requests, "").expect("the closure runs")
}

pub(super) fn demo(method: &str, arguments: Value) -> Request {
    Request::call("demo".into(), method.into(), &Arguments::new(arguments), false).expect("values of PHP")
}

pub(super) fn list(values: impl IntoIterator<Item = Value>) -> Value {
    Value::Array(values.into_iter().collect())
}

fn map(pairs: &[(&str, Value)]) -> Value {
    Value::Map(pairs.iter().map(|(key, value)| ((*key).into(), value.clone())).collect())
}

fn texts(texts: &[&str]) -> Value {
    list(texts.iter().map(|text| (*text).into()))
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
        well("infiniteObject", &[map(&[("a", f64::INFINITY.into())])]),
        well("many", &[list(vec![Value::Nil; 70_000])]),
        well("empty", &[list([list([]), Value::Map(vec![])])]),
        well(
            "numbers",
            &[list(
                [0, 127, 128, -1, -32, -33, i64::from(i32::MAX), i64::from(i32::MIN), 1 << 31, i64::MIN]
                    .map(Value::from),
            )],
        ),
        well("stream", &[1.into(), "two".into()]),
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
    let too_large = ("LengthException", "the result is larger than a message may be", 0);
    let too_deep = ("LengthException", "the result is nested deeper than a message may be", 0);
    let missing = |method: &str| format!("Method '{method}' not found in service 'demo'");
    let cases = [
        ("never", ("LogicException", "too late", 3)),
        ("odd", ("RuntimeException", "rejected with a value of type string", 0)),
        ("resource", unfit("a resource (stream) cannot be sent")),
        ("closure", unfit("a Closure cannot be sent")),
        ("generatorInside", unfit("a Generator cannot be sent")),
        ("promiseInside", unfit(r"a React\Promise\PromiseInterface cannot be sent")),
        ("streamInside", unfit(r"a React\Stream\ReadableStreamInterface cannot be sent")),
        ("unbacked", unfit("a Direction cannot be sent")),
        ("huge", too_large),
        ("tooMany", too_large),
        ("endless", too_deep),
        ("endlessObjects", too_deep),
        ("brokenStream", ("RuntimeException", "the line is cut", 6)),
        ("closedStream", ("RuntimeException", "the stream was closed before its end", 0)),
        ("holdsClosure", ("Holder", "cannot be serialized", 5)),
        ("anonymous", ("Exception@anonymous", "nameless", 4)),
        ("textCode", ("TextCode", "as databases do", 0)),
        ("nope", ("RuntimeException", &missing("nope"), 0)),
        ("__construct", ("RuntimeException", &missing("__construct"), 0)),
        ("__get", ("RuntimeException", &missing("__get"), 0)),
        ("secret", ("RuntimeException", &missing("secret"), 0)),
        ("error", ("TypeError", "strlen(): Argument #1 ($string) must be of type string, array given", 0)),
    ];
    let outcomes = calls(&cases.each_ref().map(|(method, _)| (*method, Value::Nil)));
    for ((method, (class, message, code)), outcome) in cases.into_iter().zip(outcomes) {
        let error = RemoteError::thrown(message, Some(class.into()), code);
        assert_eq!(outcome.1, Err(error), "{method}");
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
fn arguments_are_matched_as_php_itself_does() {
    let nil = Value::Nil;
    let cases = [
        ("optional", list([nil.clone(), 2.into()]), list([nil.clone(), 2.into(), 3.into()])),
        ("optional", list([]), list([1.into(), 2.into(), 3.into()])),
        ("optional", map(&[("third", nil.clone())]), list([1.into(), 2.into(), nil.clone()])),
        ("optional", map(&[("0", 7.into()), ("third", 9.into())]), list([7.into(), 2.into(), 9.into()])),
        // By position first, in whichever order they were sent.
        (
            "optional",
            map(&[("third", 9.into()), ("1", 8.into()), ("0", 7.into())]),
            list([7.into(), 8.into(), 9.into()]),
        ),
        ("nullable", list([nil.clone()]), list([nil.clone()])),
        ("variadic", list([1.into()]), list([1.into(), list([])])),
        ("variadic", list([1.into(), nil.clone(), 3.into()]), list([1.into(), list([nil.clone(), 3.into()])])),
        ("variadic", map(&[("first", 1.into()), ("more", 2.into())]), list([1.into(), map(&[("more", 2.into())])])),
        ("byReference", list([list([3.into(), 1.into(), 2.into()])]), list([1.into(), 2.into(), 3.into()])),
        ("fixed", list([1.into(), nil.clone()]), list([1.into(), nil.clone()])),
    ];
    let outcomes = calls(&cases.each_ref().map(|(method, arguments, _)| (*method, arguments.clone())));
    for ((method, arguments, expected), outcome) in cases.into_iter().zip(outcomes) {
        assert_eq!(outcome, (vec![expected], Ok(())), "{method} {arguments}");
    }
    let refused = calls(&[
        ("integer", list([nil.clone()])),
        ("integer", list([])),
        ("optional", map(&[("fourth", nil.clone())])),
        ("optional", map(&[("0", 1.into()), ("first", 2.into())])),
    ]);
    let classes: Vec<_> = refused.into_iter().map(|(_, end)| end.unwrap_err().class.unwrap()).collect();
    assert_eq!(classes, ["TypeError", "ArgumentCountError", "Error", "Error"]);
}

#[test]
fn a_hostile_name_is_data_and_never_source() {
    for hostile in ["x'); exit('", "x\"); exit(\"", "$stream", "\0", "'; system('id'); '", "é\n?><?php exit(1);"] {
        let requests = vec![
            Request::call(hostile.into(), "echo".into(), &Arguments::new(list([hostile.into()])), false).expect("text"),
            Request::call("demo".into(), hostile.into(), &Arguments::new(map(&[(hostile, hostile.into())])), false)
                .expect("text"),
            demo("echo", list([hostile.into()])),
        ];
        let outcomes = run(&PLAIN, requests, "").expect("the closure runs");
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
    let told = run(&PLAIN, vec![Request::List, Request::List], "").expect("the closure runs");
    assert_eq!(get(&told[0].0[0], "services"), Some(&services));
    assert_eq!(get(&told[0].0[0], "id").and_then(Value::as_str).map(str::len), Some(32));
    assert_eq!(told[0], told[1], "the process stays the same");
    let narrow = Closures { bounds: Bounds { bytes: 400, ..Bounds::DEFAULT }, ..PLAIN };
    let outcomes = run(&narrow, vec![Request::List, demo("nothing", Value::Nil)], "").expect("the closure runs");
    assert_eq!(outcomes[0].1.as_ref().unwrap_err().message, "the result is larger than a message may be");
    assert_eq!(outcomes[1], (vec![], Ok(())));
}

#[test]
fn a_master_that_wants_signatures_runs_what_is_signed_with_its_key() {
    let signed = |key: &str| Closures { key: Some(SigningKey(key.into())), ..PLAIN };
    let awkward = Value::Binary(vec![b'"', 0xff, 0]);
    let call = || vec![demo("echo", list([awkward.clone()]))];
    assert_eq!(run(&signed("k3y"), call(), "k3y").unwrap(), [(vec![list([awkward.clone()])], Ok(()))]);
    for (closures, key) in [(signed("other"), "k3y"), (PLAIN, "k3y")] {
        let refused = run(&closures, call(), key).unwrap_err();
        assert!(
            refused.class.as_deref().is_some_and(|class| class.ends_with("InvalidSignatureException")),
            "{refused:?}"
        );
    }
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
}

#[test]
fn what_php_has_no_counterpart_for_is_refused() {
    assert_eq!(php_value(Value::Array(vec![Value::Ext(1, vec![])])), Err(NotPhp::Extension));
    assert_eq!(php_value(Value::Map(vec![(1.5.into(), Value::Nil)])), Err(NotPhp::Key));
    assert_eq!(php_value(u64::MAX.into()), Ok(18_446_744_073_709_551_615f64.into()));
}

#[test]
fn a_value_that_is_not_packed_as_the_closure_does_is_an_error() {
    for bytes in [&b""[..], b"\xc0\xc0", b"\x91", b"\xc1", &[0x91; 40], b"\xdd\xff\xff\xff\xff"] {
        assert!(PLAIN.unpack(&Value::Binary(bytes.to_vec())).is_err(), "{bytes:?}");
    }
    assert!(PLAIN.unpack(&Value::Nil).is_err());
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
