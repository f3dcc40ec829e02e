//! The upstream protocol as it is written, and as other versions write it.

use std::sync::Arc;
use std::time::Duration;

use rmpv::ValueRef;
use serde_json::Value as Json;

use crate::model::{Master, Metadata, Service};
use crate::tunnel::upstream::{Refusal, Report, Request, Unread};
use crate::tunnel::value::get;
use crate::tunnel::{Message, Role, Value};

fn map(pairs: &[(&str, Value)]) -> Value {
    Value::Map(pairs.iter().map(|(key, value)| ((*key).into(), value.clone())).collect())
}

/// A master whose metadata JSON cannot represent.
fn master() -> Master {
    let deep = Value::Map(vec![(7.into(), Value::Array(vec![Value::Nil, 1.5.into(), true.into()]))]);
    let metadata = map(&[("raw", Value::Binary(vec![0xff, 0])), ("extension", Value::Ext(7, vec![1])), ("deep", deep)]);
    let service = |name: &str, metadata: Value| Service { name: name.into(), metadata: metadata.into() };
    let services = vec![
        service("mail@1.2", metadata),
        service("ü", Value::Array(Vec::new())),
        service("mail@work", map(&[("version", 2.into())])),
    ];
    Master { id: "m-1".into(), peer_address: "[::1]:40000".into(), connected_at: 1_795_740_870_898, services }
}

/// What arrives at the other end.
fn arrived(message: Message) -> Message {
    Message::decode(&message.encode()).expect("it is read").expect("it is a message")
}

#[test]
fn every_request_report_and_refusal_is_read_as_it_was_written() {
    let time = Duration::from_millis(2_001);
    let call = |timeout| Request::Call {
        uuid: "u".into(),
        master: "m-1".into(),
        service: "mail@1.2".into(),
        method: "send".into(),
        arguments: map(&[("to", Value::Binary(vec![0xff]))]),
        timeout,
        is_windowed: timeout.is_some(),
    };
    for request in [
        Request::Subscribe { uuid: "u".into(), in_pieces: true, room: Some(u64::MAX) },
        Request::Subscribe { uuid: "u".into(), in_pieces: false, room: None },
        Request::Prove { at: time },
        Request::Took { piece: u64::MAX },
        call(Some(time)),
        call(None),
        Request::Send { master: "m-1".into(), message: map(&[("cmd", "subscribe".into())]) },
    ] {
        let Message::Other(map) = arrived(request.clone().encode()) else { panic!("{request:?}") };
        assert_eq!(Request::decode(map), Some(request));
    }
    for report in [
        Report::Reset,
        Report::Put { master: Arc::new(master()), is_expected: false, unreadable: 0 },
        Report::Put { master: Arc::new(Master { services: Vec::new(), ..master() }), is_expected: true, unreadable: 0 },
        Report::LeftOut("m-1".into()),
        Report::Drop("m-1".into()),
        Report::Whole,
        Report::Settling(true),
        Report::Settling(false),
        Report::Piece(1),
        Report::Proven(time),
    ] {
        let message = arrived(Message::Data { uuid: "u".into(), data: report.encode() });
        let Message::Data { data, .. } = message else { panic!("{message:?}") };
        assert_eq!(Report::decode(data), Ok(report));
    }
    let refusal = Refusal { why: "only root may".into() };
    let Message::Other(map) = arrived(refusal.clone().encode()) else { panic!("no command") };
    assert_eq!(Refusal::decode(&map), Some(refusal));
}

#[test]
fn a_call_ends_with_its_arguments_which_others_may_share() {
    let call = Request::Call {
        uuid: "u".into(),
        master: "m".into(),
        service: "mail".into(),
        method: "send".into(),
        arguments: Value::Nil,
        timeout: None,
        is_windowed: true,
    };
    assert!(call.encode().encode().ends_with(b"\xa9arguments\xc0"));
}

/// The frames that one end of the previous version sent, in order.
fn recorded(end: &str) -> Vec<(Vec<u8>, Message)> {
    let frames: Vec<Json> =
        serde_json::from_str(include_str!("../../tests/fixtures/upstream-recorded.json")).expect("JSON");
    let of_end = frames.iter().filter(|frame| frame["from"] == end);
    let bytes = of_end.map(|frame| {
        let hex = frame["hex"].as_str().expect("bytes");
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect::<Vec<_>>()
    });
    bytes.map(|bytes| (bytes.clone(), Message::decode(&bytes).expect("it is read").expect("a message"))).collect()
}

#[test]
fn what_a_follower_of_the_version_before_sent_is_read_and_written_as_it_was() {
    let mut frames = recorded("follower").into_iter();
    let (_, auth) = frames.next().expect("a token");
    assert!(matches!(auth, Message::Auth { role: Role::Native, id: None, .. }), "{auth:?}");
    let requests: Vec<Request> = frames
        .filter_map(|(bytes, message)| {
            let Message::Other(map) = message else { return None };
            let request = Request::decode(map).expect("a request");
            let in_order = |message: Message| {
                let Message::Other(Value::Map(mut entries)) = message else { panic!("{message:?}") };
                entries.sort_by_key(|(key, _)| key.to_string());
                entries
            };
            let before = Message::decode(&bytes).expect("it is read").expect("a message");
            assert_eq!(in_order(arrived(request.clone().encode())), in_order(before), "{request:?}");
            Some(request)
        })
        .collect();
    let [
        Request::Subscribe { in_pieces: true, .. },
        Request::Prove { .. },
        Request::Call { master, service, method, arguments, timeout: Some(timeout), is_windowed: true, .. },
        Request::Send { master: commanded, message },
        Request::Took { piece: 1 },
    ] = &requests[..]
    else {
        panic!("{requests:?}")
    };
    assert_eq!([&**master, service, method, commanded], ["m-1", "mail@1.2", "send", "m-1"]);
    assert_eq!(*arguments, Value::Array(vec![1.into(), map(&[("a", "b".into())])]));
    assert_eq!((*timeout, message), (Duration::from_millis(4_999), &map(&[("cmd", "reload".into())])));
}

#[test]
fn what_a_register_of_the_version_before_sent_is_read_and_all_of_it_is_still_written() {
    let (mut reports, mut refusals) = (Vec::new(), Vec::new());
    for (bytes, message) in recorded("register") {
        match message {
            Message::Data { uuid, data } if data.is_map() => {
                let report = Report::decode(data.clone()).expect("a report");
                let now = report.encode();
                match get(&data, "put") {
                    Some(before) => {
                        let now = get(&now, "put").expect("a master");
                        let older = ["id", "address", "connectedAt", "expected"];
                        older.iter().for_each(|key| assert_eq!(get(now, key), get(before, key), "{key}"));
                        assert_eq!(old_services(now), old_services(before));
                    }
                    None => assert_eq!(Message::Data { uuid, data: now }.encode(), bytes),
                }
                reports.push(report);
            }
            Message::Other(map) => {
                let refusal = Refusal::decode(&map).expect("a refusal");
                assert_eq!(refusal.clone().encode().encode(), bytes);
                refusals.push(refusal);
            }
            _ => {}
        }
    }
    let [
        Report::Reset,
        Report::Settling(true),
        Report::Put { master: gone, is_expected: true, .. },
        Report::Put { master: before, is_expected: true, .. },
        Report::Whole,
        Report::Put { master: here, is_expected: false, .. },
        Report::Proven(_),
        Report::Drop(dropped),
        Report::Settling(false),
        Report::Drop(_),
        Report::Piece(1),
    ] = &reports[..]
    else {
        panic!("{reports:?}")
    };
    assert_eq!((&*gone.id, &*before.id, &**dropped, refusals.len()), ("gone", "m-1", "gone", 1));
    let Master { peer_address, connected_at, services, .. } = &**here;
    assert_eq!((&**peer_address, *connected_at), ("127.0.0.1:42768", 1_795_740_870_898));
    assert_eq!(services.iter().map(|it| &*it.name).collect::<Vec<_>>(), ["mail@1.2", "ü"]);
    assert_eq!(services[0].metadata.get("raw"), Some(ValueRef::Binary(&[0xff, 0])));
    assert_eq!(services[1].metadata.value(), Value::Array(Vec::new()));
}

/// What the previous version reads of a master's services.
fn old_services(master: &Value) -> Vec<(Option<&Value>, Option<&Value>)> {
    let services = get(master, "services").and_then(Value::as_array).expect("services");
    services.iter().map(|service| (get(service, "name"), get(service, "metadata"))).collect()
}

fn put(fields: &[(&str, Value)]) -> Result<Report, Unread> {
    Report::decode(map(&[("put", map(fields))]))
}

#[test]
fn what_a_newer_peer_adds_is_passed_by_and_what_one_leaves_out_has_a_default() {
    let of_newer = map(&[("cmd", "prove".into()), ("at", 7.into()), ("how", "well".into())]);
    assert_eq!(Request::decode(of_newer), Some(Request::Prove { at: Duration::from_millis(7) }));
    assert_eq!(Request::decode(map(&[("cmd", "novel".into())])), None);
    assert_eq!(Report::decode(map(&[("novel", 1.into())])), Err(Unread::Unknown));
    assert_eq!(Report::decode(Value::Nil), Err(Unread::Unknown));
    let bare = Request::decode(map(&[("cmd", "call-on".into()), ("uuid", "u".into())]));
    assert!(matches!(bare, Some(Request::Call { timeout: None, is_windowed: false, .. })), "{bare:?}");

    let of = |report| match report {
        Ok(Report::Put { master, is_expected, .. }) => (Arc::unwrap_or_clone(master), is_expected),
        other => panic!("{other:?}"),
    };
    let nothing = Master { id: "m".into(), peer_address: String::new(), connected_at: 0, services: Vec::new() };
    assert_eq!(of(put(&[("id", "m".into()), ("novel", Value::Nil)])), (nothing, false));
    // The master's name for a service, with the version in a separate field.
    let service = map(&[("name", "mail".into()), ("version", "1.0.0".into()), ("novel", 1.into())]);
    let services = Value::Array(vec![service, 7.into(), map(&[("name", 7.into())])]);
    let read =
        put(&[("id", "m".into()), ("address", "old".into()), ("peerAddress", "a".into()), ("services", services)]);
    assert!(matches!(read, Ok(Report::Put { unreadable: 2, .. })), "{read:?}");
    let (master, _) = of(read);
    assert_eq!((&*master.peer_address, master.services.len()), ("a", 1));
    assert_eq!((&*master.services[0].name, &master.services[0].metadata), ("mail@1.0.0", &Metadata::default()));
}

#[test]
fn a_master_that_is_none_or_too_large_is_not_read() {
    let beyond = ("connectedAt", (1_u64 << 63).into());
    for (fields, of, part) in [
        (vec![], "", "missing field `id`"),
        (vec![("id", "".into())], "", "no id"),
        (vec![("id", "m".into()), ("services", 7.into())], "m", "invalid type"),
        (vec![("id", "m".into()), beyond], "m", "9223372036854775808"),
    ] {
        let Err(Unread::Master { id, why }) = put(&fields) else { panic!("{fields:?}") };
        assert!(id == of && why.contains(part), "{fields:?}: {id} {why}");
    }
    let long = |length| Value::from("x".repeat(length));
    let services = |count| Value::Array(vec![map(&[("name", "a".into())]); count]);
    let id = || ("id", "m".into());
    for (fields, part) in [
        (vec![("id", long(4_097))], "its id"),
        (vec![id(), ("address", long(257))], "its address"),
        (vec![id(), ("peerAddress", long(257))], "its address"),
        (vec![id(), ("services", services(1_025))], "services"),
    ] {
        let Err(Unread::Master { id, why }) = put(&fields) else { panic!("{part} is read") };
        assert!(id.len() <= 4_097 && why.contains(part), "{why}");
    }
    put(&[("id", long(4_096)), ("address", long(256)), ("services", services(1_024))]).expect("as large as may be");
    let endless = Refusal { why: "x".repeat(10_000) }.encode();
    let Message::Other(map) = arrived(endless) else { panic!("no command") };
    assert_eq!(Refusal::decode(&map).map(|it| it.why.len()), Some(500));
}
